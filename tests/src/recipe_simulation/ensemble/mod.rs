//! An ensemble that is smaller than a real one, and does to its clients whatever a real one may do:
//! one history of transactions, made by the real [`Preparer`] and applied by each server to its own
//! real [`Tree`] in its own time. Followers lag, leaders change and lose or keep what they have not
//! committed, servers crash, are cut off, and close connections before or after what was asked on
//! them took effect.

mod connections;
mod leader;
mod network;
mod servers;
mod terms;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

use bytes::Bytes;
use quorate_proto::OpCode;
use quorate_server::tree::{Tree, Watches};
use quorate_server::txn::{Preparer, Rules};
use quorate_server::zab::zxid_of;

use self::network::Hex;
use super::executor::ProcessId;
use super::faults::Habits;
use super::reads::ConnId;
use crate::simulation::trace::Trace;

/// Time, in milliseconds since the beginning of a run.
pub type Millis = u64;

/// How often the leader looks for sessions to expire.
const TICK: Millis = 200;
/// 2026, in milliseconds since 1970.
const EPOCH: u64 = 1_767_225_600_000;

/// What happens at a moment.
#[derive(Debug)]
pub enum Event {
    /// Bytes arrive at a server.
    Up(ConnId, Bytes),
    /// The client has closed the connection.
    UpEnds(ConnId),
    /// Bytes arrive at a client.
    Down(ConnId, Bytes),
    /// The server has closed the connection.
    DownEnds(ConnId),
    /// The leader of an epoch is asked something by a server.
    Asked(usize, u32, ConnId, Ask),
    /// A server hears from the leader what becomes of a connection, or of a `sync`.
    Told(ConnId, Tell),
    /// The oldest proposal of an epoch is committed.
    Commit(u32),
    /// A server applies the next transaction, or catches up.
    Apply(usize),
    /// Sessions may expire.
    Expire,
    /// There is a leader again.
    Elect,
    /// Something for those who drive the run.
    Outside(Outside),
}

/// What happens to processes rather than to servers.
#[derive(Debug, Clone, Copy)]
pub enum Outside {
    /// A fault begins.
    Fault(usize),
    /// A fault ends.
    FaultEnds(usize),
    /// All faults end.
    Heal,
}

/// What a server asks of the leader.
#[derive(Debug)]
pub enum Ask {
    /// To open a session with this timeout.
    Open(i32),
    /// Whether a session goes on at this connection.
    Resume(i64),
    /// To make a transaction of a request, or to say when a `sync` is done.
    Request(i32, OpCode, Bytes),
    /// To know that a session was heard from.
    Touch(i64),
}

/// What the leader answers.
#[derive(Debug, Clone, Copy)]
pub enum Tell {
    /// The session goes on, with this timeout.
    Resumed(i64, i32),
    /// There is no such session.
    Unknown,
    /// A `sync` is done once this is applied.
    Behind(i32, i64),
    /// The session is at another connection.
    Moved,
}

/// A connection, with both of its ends.
#[derive(Debug)]
pub struct Conn {
    process: ProcessId,
    server: usize,
    /// When the last thing arrives that was sent, to the server and back: nothing overtakes it.
    delivered: [Millis; 2],
    /// The client's end.
    pub inbox: VecDeque<u8>,
    /// Nothing more comes.
    pub ended: bool,
    /// Who waits for input.
    pub reader: Option<Waker>,
    /// The server's end.
    open: bool,
    /// What is on its way to the client does not arrive.
    reset: bool,
    input: Vec<u8>,
    greeted: bool,
    /// The server only reads.
    read_only: bool,
    session: i64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    xid: i32,
    op: OpCode,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// It is answered here, behind those in front of it.
    Local(Bytes),
    /// It is a write.
    Write,
    /// It is nothing for a server that only reads.
    Refused,
    /// It is a `sync`, which is done when this is applied.
    Sync(Option<i64>),
}

#[derive(Debug)]
struct Server {
    up: bool,
    /// It does not hear from the leader.
    cut: bool,
    /// It refuses connections.
    refuses: bool,
    /// It serves who is content to read.
    reads: bool,
    tree: Tree,
    applied: usize,
    apply_due: Millis,
    ask_due: Millis,
    watches: Watches<ConnId>,
    /// What waits for a leader.
    held: Vec<(ConnId, Ask)>,
}

/// A transaction, and the connection that it was asked for on.
#[derive(Debug, Clone)]
struct Record {
    bytes: Bytes,
    origin: Option<ConnId>,
}

#[derive(Debug)]
struct Session {
    deadline: Millis,
    timeout: i32,
    owner: Option<ConnId>,
}

/// See the [module](self).
pub struct Ensemble {
    /// Decides about everything that is left to chance.
    pub rng: fastrand::Rng,
    /// What happened.
    pub trace: Trace,
    /// How everybody behaves at the moment.
    pub habits: Habits,
    /// The time.
    pub now: Millis,
    queue: BTreeMap<(Millis, u64), Event>,
    events: u64,
    servers: Vec<Server>,
    /// The connections, by number.
    pub conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    next_session: i64,
    leader: Option<usize>,
    epoch: u32,
    preparer: Preparer,
    proposed: VecDeque<Record>,
    commit_due: Millis,
    sessions: BTreeMap<i64, Session>,
    committed: Vec<Record>,
    /// All that is committed.
    pub truth: Tree,
    /// Transactions that nobody has checked yet.
    pub fresh: Vec<Bytes>,
    /// Processes that have come to their end.
    pub through: BTreeSet<ProcessId>,
    /// Until when nothing gets from a process to a server, and back.
    blocked: BTreeMap<(ProcessId, usize), [Millis; 2]>,
}

fn rules() -> Rules {
    Rules {
        skip_acl: true,
        ttl_nodes: true,
        enforce_quota: false,
        digest: false,
        list_ephemerals: true,
        reconfig: false,
        digest_scheme: true,
    }
}

impl Ensemble {
    /// An ensemble of so many servers that has just elected a leader.
    pub fn new(servers: usize, rng: fastrand::Rng, habits: Habits, trace: Trace) -> Self {
        let truth = Tree::new();
        let preparer = Preparer::behind(zxid_of(1, 0), &truth, rules());
        let server = |_| Server {
            up: true,
            cut: false,
            refuses: false,
            reads: false,
            tree: Tree::new(),
            applied: 0,
            apply_due: 0,
            ask_due: 0,
            watches: Watches::default(),
            held: Vec::new(),
        };
        let mut ensemble = Ensemble {
            rng,
            trace,
            habits,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            servers: (0..servers).map(server).collect(),
            conns: BTreeMap::new(),
            next_conn: 1,
            next_session: 1 << 56,
            leader: Some(0),
            epoch: 1,
            preparer,
            proposed: VecDeque::new(),
            commit_due: 0,
            sessions: BTreeMap::new(),
            committed: Vec::new(),
            truth,
            fresh: Vec::new(),
            through: BTreeSet::new(),
            blocked: BTreeMap::new(),
        };
        ensemble.after(TICK, Event::Expire);
        ensemble
    }

    /// Notes something in the trace.
    pub fn note<T: std::fmt::Display>(&mut self, text: impl FnOnce() -> T) {
        self.trace.note(self.now * 1_000, text);
    }

    /// Lets something happen later.
    pub fn after(&mut self, delay: Millis, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, when: Millis, event: Event) {
        self.queue.insert((when, self.events), event);
        self.events += 1;
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Millis> {
        self.queue.keys().next().map(|(when, _)| *when)
    }

    /// Lets the next thing happen that is due; answers what is not the servers' business.
    pub fn step(&mut self) -> Option<Option<Outside>> {
        let first = self.queue.first_entry()?;
        if first.key().0 > self.now {
            return None;
        }
        let event = first.remove();
        Some(self.happen(event))
    }

    fn happen(&mut self, event: Event) -> Option<Outside> {
        match event {
            Event::Outside(outside) => return Some(outside),
            Event::Up(conn, bytes) => self.up_arrives(conn, &bytes),
            Event::UpEnds(conn) => self.close(conn, "by its client"),
            Event::Down(id, bytes) => {
                if let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.reset) {
                    conn.inbox.extend(&bytes);
                    conn.wake();
                    self.note(|| format!("c{id} gets {}", Hex(&bytes)));
                }
            }
            Event::DownEnds(id) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.ended = true;
                    conn.wake();
                    self.note(|| format!("c{id} ends"));
                }
            }
            Event::Asked(server, epoch, conn, ask) => self.asked(server, epoch, conn, ask),
            Event::Told(conn, tell) => self.told(conn, tell),
            Event::Commit(epoch) if epoch == self.epoch => self.commit(),
            Event::Commit(_) => {}
            Event::Apply(server) => self.apply(server),
            Event::Expire => self.expire(),
            Event::Elect => self.elect(),
        }
        None
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }

    fn delay(&mut self) -> Millis {
        let (least, most) = self.habits.delay;
        self.rng.u64(least..=most)
    }

    /// Where the servers are, as clients are told.
    pub fn addresses(&self) -> String {
        let servers = (0..self.servers.len()).map(|server| format!("s{server}:2181"));
        servers.collect::<Vec<_>>().join(",")
    }

    /// Transactions that were committed.
    pub fn transactions(&self) -> usize {
        self.committed.len()
    }

    /// Is there a leader?
    pub fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// The time of day, in milliseconds since 1970.
    pub fn time_of_day(&self) -> u64 {
        EPOCH + self.now
    }
}
