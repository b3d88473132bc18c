//! An ensemble that is smaller than a real one, and does to its clients whatever a real one may do:
//! one history of transactions, made by the real [`Preparer`] and applied by each server to its own
//! real [`Tree`] in its own time. Followers lag, leaders change and lose or keep what they have not
//! committed, servers crash, are cut off, and close connections before or after what was asked on
//! them took effect.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

use bytes::Bytes;
use quorate_proto::jute::{Decode as _, Encode as _, Reader};
use quorate_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, EventType, OpCode, ReplyHeader, RequestHeader, Txn,
    TxnEntry, VersionRequest, frame,
};
use quorate_server::session::password;
use quorate_server::storage::log::record_body;
use quorate_server::tree::{AclList, Applied, Node, Observer, Tree, Watches};
use quorate_server::txn::{Internal, Preparer, Requester, Rules};
use quorate_server::zab::zxid_of;

use super::answers::reply;
use super::executor::ProcessId;
use super::faults::Habits;
use super::reads::{self, Answerer, ConnId, is_local};
use crate::simulation::trace::Trace;

/// Time, in milliseconds since the beginning of a run.
pub type Millis = u64;

/// How often the leader looks for sessions to expire.
const TICK: Millis = 200;
/// 2026, in milliseconds since 1970.
const EPOCH: u64 = 1_767_225_600_000;
/// A frame that is longer is none.
const MAX_FRAME: usize = 1 << 20;

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
    /// Nothing arrives earlier than what was sent before.
    up: Millis,
    down: Millis,
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
    blocked: BTreeMap<(ProcessId, usize), (Millis, Millis)>,
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

/// Gathers what happens to znodes.
#[derive(Default)]
struct Gathered(Vec<(EventType, String)>);

impl Observer for Gathered {
    fn changed(&mut self, event: EventType, path: &str, _: &AclList) {
        self.0.push((event, path.to_owned()));
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

/// The network, as clients see it.
impl Ensemble {
    /// How long a process takes to reach a server, or is kept from it.
    pub fn way(&mut self, process: ProcessId, server: usize) -> Millis {
        let delay = self.delay();
        let blocked = self.blocked.get(&(process, server));
        let until = blocked.map_or(0, |(up, down)| *up.max(down));
        until.saturating_sub(self.now) + delay
    }

    /// Connects, unless the server does not want to.
    pub fn connect(&mut self, process: ProcessId, server: usize) -> Option<ConnId> {
        let target = self.servers.get(server)?;
        if !target.up || target.refuses {
            return None;
        }
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            process,
            server,
            up: self.now,
            down: self.now,
            inbox: VecDeque::new(),
            ended: false,
            reader: None,
            open: true,
            reset: false,
            input: Vec::new(),
            greeted: false,
            session: 0,
            waiting: VecDeque::new(),
        };
        self.conns.insert(id, conn);
        self.note(|| format!("c{id}: process {process} connects to server {server}"));
        Some(id)
    }

    /// Sends bytes from the client's end.
    pub fn send(&mut self, id: ConnId, bytes: &[u8]) {
        self.note(|| format!("c{id} sends {}", Hex(bytes)));
        self.send_up(id, Event::Up(id, Bytes::copy_from_slice(bytes)));
    }

    /// The client's end is gone.
    pub fn hang_up(&mut self, id: ConnId) {
        self.send_up(id, Event::UpEnds(id));
    }

    fn send_up(&mut self, id: ConnId, event: Event) {
        let delay = self.delay();
        if let Some(conn) = self.conns.get_mut(&id) {
            let blocked = self.blocked.get(&(conn.process, conn.server));
            let open = blocked.map_or(0, |(up, _)| *up);
            conn.up = conn.up.max(self.now.max(open) + delay);
            let when = conn.up;
            self.at(when, event);
        }
    }

    fn send_down(&mut self, id: ConnId, event: Event) {
        let delay = self.delay();
        if let Some(conn) = self.conns.get_mut(&id) {
            let blocked = self.blocked.get(&(conn.process, conn.server));
            let open = blocked.map_or(0, |(_, down)| *down);
            conn.down = conn.down.max(self.now.max(open) + delay);
            let when = conn.down;
            self.at(when, event);
        }
    }

    /// Lets nothing pass between a process and a server for a while, in one direction or both.
    pub fn block(&mut self, process: ProcessId, server: usize, up: Millis, down: Millis) {
        let until = (self.now + up, self.now + down);
        self.blocked.insert((process, server), until);
        self.note(|| format!("process {process} and server {server}: cut for {up} and {down} ms"));
    }

    /// Cuts one connection of a process, if it has one.
    pub fn cut(&mut self, process: ProcessId) {
        let mut conns = self.conns.iter();
        let of = conns.find(|(_, conn)| conn.process == process && conn.open);
        if let Some(id) = of.map(|(id, _)| *id) {
            self.close(id, "by the network");
        }
    }
}

impl Conn {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// The servers' ends of connections.
impl Ensemble {
    fn close(&mut self, id: ConnId, why: &str) {
        let drops = self.rng.bool();
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        conn.open = false;
        conn.reset = drops;
        conn.waiting.clear();
        conn.input = Vec::new();
        let server = conn.server;
        self.servers[server].watches.remove_watcher(id);
        self.note(|| format!("c{id} is closed {why}"));
        self.send_down(id, Event::DownEnds(id));
    }

    fn up_arrives(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        conn.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut conn.input);
        let mut at = 0;
        while let Ok(Some(whole)) = frame::split(&input[at..], MAX_FRAME) {
            at += frame::LENGTH_SIZE + whole.len();
            self.take(id, whole);
        }
        if let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) {
            conn.input = input[at..].to_vec();
        }
    }

    fn take(&mut self, id: ConnId, whole: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        let server = conn.server;
        if !std::mem::replace(&mut conn.greeted, true) {
            return self.greet(id, server, whole);
        }
        let session = conn.session;
        let mut reader = Reader::new(whole);
        let header: Result<RequestHeader, _> = reader.read();
        let Some((header, op)) = header
            .ok()
            .and_then(|header| Some((header, OpCode::try_from(header.op).ok()?)))
        else {
            return self.close(id, "for what is no request");
        };
        let body = Bytes::copy_from_slice(reader.remaining());
        if op != OpCode::Ping && self.chance(self.habits.loses_request) {
            return self.close(id, "with a request");
        }
        self.ask(server, id, Ask::Touch(session));
        let kind = match op {
            _ if is_local(op) => Kind::Local(body.clone()),
            OpCode::Sync => Kind::Sync(None),
            _ => Kind::Write,
        };
        if !matches!(kind, Kind::Local(_)) {
            self.ask(server, id, Ask::Request(header.xid, op, body));
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            let xid = header.xid;
            conn.waiting.push_back(Waiting { xid, op, kind });
        }
        self.answer(id);
    }

    fn greet(&mut self, id: ConnId, server: usize, whole: &[u8]) {
        let Ok(request) = ConnectRequest::from_slice(whole) else {
            return self.close(id, "for what is no greeting");
        };
        if request.last_zxid_seen > self.servers[server].tree.last_zxid() {
            return self.close(id, "by a server that lags behind its client");
        }
        let ask = match request.session_id {
            0 => Ask::Open(request.timeout),
            session => Ask::Resume(session),
        };
        self.ask(server, id, ask);
    }

    /// Asks the leader, or keeps that until there is one.
    fn ask(&mut self, server: usize, id: ConnId, ask: Ask) {
        let delay = if self.leader == Some(server) {
            0
        } else {
            self.delay()
        };
        let asking = &mut self.servers[server];
        if self.leader.is_none() || asking.cut {
            if !matches!(ask, Ask::Touch(_)) {
                asking.held.push((id, ask));
            }
            return;
        }
        // Where clients may trust in clocks, a leader hears of sessions at once.
        if let (Ask::Touch(session), true) = (&ask, self.habits.honest) {
            return self.touch(*session);
        }
        asking.ask_due = asking.ask_due.max(self.now + delay);
        let due = asking.ask_due;
        self.at(due, Event::Asked(server, self.epoch, id, ask));
    }

    fn told(&mut self, id: ConnId, tell: Tell) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        match tell {
            Tell::Resumed(session, timeout) => {
                conn.session = session;
                self.accept(id, session, timeout);
            }
            Tell::Unknown => {
                self.accept(id, 0, 0);
                self.close(id, "for its session is over");
            }
            Tell::Moved => self.close(id, "for its session is elsewhere"),
            Tell::Behind(xid, zxid) => {
                let mut waiting = conn.waiting.iter_mut();
                if let Some(waiting) = waiting.find(|waiting| waiting.xid == xid) {
                    waiting.kind = Kind::Sync(Some(zxid));
                }
                self.answer(id);
            }
        }
    }

    fn accept(&mut self, id: ConnId, session_id: i64, timeout: i32) {
        let password = password(session_id);
        let mut out = Vec::new();
        frame::write(&mut out, |out| {
            ConnectResponse {
                protocol_version: 0,
                timeout,
                session_id,
                password: Some(&password),
                read_only: Some(false),
            }
            .encode(out);
        });
        self.tell(id, out);
    }

    fn tell(&mut self, id: ConnId, bytes: Vec<u8>) {
        self.send_down(id, Event::Down(id, bytes.into()));
    }

    /// Answers what nothing has to be waited for any more.
    fn answer(&mut self, id: ConnId) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
                return;
            };
            let server = &mut self.servers[conn.server];
            let ready = match conn.waiting.front().map(|waiting| &waiting.kind) {
                Some(Kind::Local(_)) => true,
                Some(Kind::Sync(Some(zxid))) => *zxid <= server.tree.last_zxid(),
                _ => false,
            };
            let Some(waiting) = conn.waiting.pop_front_if(|_| ready) else {
                return;
            };
            let mut out = Vec::new();
            match waiting.kind {
                Kind::Local(body) => Answerer {
                    tree: &server.tree,
                    watches: &mut server.watches,
                    conn: id,
                    session: conn.session,
                }
                .answer(waiting.op, waiting.xid, &body, &mut out),
                _ => frame::write(&mut out, |out| {
                    let (xid, err) = (waiting.xid, ErrorCode::OK);
                    let zxid = server.tree.last_zxid();
                    ReplyHeader { xid, zxid, err }.encode(out);
                    "/".encode(out);
                }),
            }
            self.tell(id, out);
        }
    }
}

/// The leader.
impl Ensemble {
    fn asked(&mut self, server: usize, epoch: u32, id: ConnId, ask: Ask) {
        if epoch != self.epoch || self.leader.is_none() {
            // Nobody knows whether that leader had still heard of it.
            if !matches!(ask, Ask::Touch(_)) {
                self.close(id, "for its request got lost with a leader");
            }
            return;
        }
        match ask {
            Ask::Open(timeout) => {
                let session = self.next_session;
                self.next_session += 1;
                if let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) {
                    conn.session = session;
                    let xid = 0;
                    let (op, kind) = (OpCode::CreateSession, Kind::Write);
                    conn.waiting.push_back(Waiting { xid, op, kind });
                    let known = Session {
                        deadline: self.now + timeout.unsigned_abs() as Millis,
                        timeout,
                        owner: Some(id),
                    };
                    self.sessions.insert(session, known);
                    self.number(Some(id), session, 0, Internal::CreateSession(timeout));
                }
            }
            Ask::Resume(session) => {
                let tell = match self.sessions.get_mut(&session) {
                    None => Tell::Unknown,
                    Some(known) => {
                        known.owner = Some(id);
                        Tell::Resumed(session, known.timeout)
                    }
                };
                self.touch(session);
                let delay = self.delay();
                self.after(delay, Event::Told(id, tell));
            }
            Ask::Touch(session) => self.touch(session),
            Ask::Request(xid, op, body) => self.requested(server, id, xid, op, &body),
        }
    }

    fn requested(&mut self, server: usize, id: ConnId, xid: i32, op: OpCode, body: &[u8]) {
        let Some(session) = self.conns.get(&id).map(|conn| conn.session) else {
            return;
        };
        let owner = self.sessions.get(&session).and_then(|known| known.owner);
        if owner.is_some_and(|owner| owner != id) {
            let delay = self.delay();
            return self.after(delay, Event::Told(id, Tell::Moved));
        }
        match op {
            OpCode::Sync => {
                let zxid = match self.proposed.is_empty() {
                    true => self.truth.last_zxid(),
                    false => self.preparer.last_zxid(),
                };
                let delay = match self.leader == Some(server) {
                    true => 0,
                    false => self.delay(),
                };
                self.after(delay, Event::Told(id, Tell::Behind(xid, zxid)));
            }
            OpCode::CloseSession => {
                self.sessions.remove(&session);
                self.number(Some(id), session, xid, Internal::CloseSession);
            }
            op => {
                let mut record = Vec::new();
                let requester = self.requester(session, xid);
                let zxid = self
                    .preparer
                    .prepare(&self.truth, requester, op, body, &mut record);
                match zxid {
                    Some(_) => self.propose(Some(id), &record),
                    None => self.close(id, "for a request that cannot be read"),
                }
            }
        }
    }

    fn requester(&self, session: i64, cxid: i32) -> Requester<'static> {
        Requester {
            session,
            cxid,
            ids: &[],
            time: self.time_of_day().cast_signed(),
            local: false,
        }
    }

    fn number(&mut self, origin: Option<ConnId>, session: i64, cxid: i32, write: Internal<'_>) {
        let mut record = Vec::new();
        let requester = self.requester(session, cxid);
        self.preparer
            .prepare_internal(&self.truth, requester, write, &mut record);
        self.propose(origin, &record);
    }

    fn propose(&mut self, origin: Option<ConnId>, record: &[u8]) {
        let bytes = Bytes::copy_from_slice(record_body(record));
        self.proposed.push_back(Record { bytes, origin });
        let delay = self.delay();
        self.commit_due = self.commit_due.max(self.now + delay);
        let (due, epoch) = (self.commit_due, self.epoch);
        self.at(due, Event::Commit(epoch));
    }

    fn touch(&mut self, session: i64) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.deadline = self.now + known.timeout.unsigned_abs() as Millis;
        }
    }

    /// The session of a process, if the leader knows it.
    fn session_of(&self, process: ProcessId) -> Option<i64> {
        self.leader?;
        let mut conns = self.conns.values().rev();
        let conn = conns.find(|conn| conn.process == process && conn.session != 0)?;
        self.sessions
            .contains_key(&conn.session)
            .then_some(conn.session)
    }

    /// Ends the session of a process, as an operator can.
    pub fn expire_session(&mut self, process: ProcessId) {
        if let Some(session) = self.session_of(process) {
            self.sessions.remove(&session);
            self.note(|| format!("session {session:x} is ended"));
            self.number(None, session, 0, Internal::CloseSession);
        }
    }

    /// Deletes the ephemeral znodes of a process, as an operator can, but for what it keeps for
    /// itself.
    pub fn evict(&mut self, process: ProcessId) {
        let Some(session) = self.session_of(process) else {
            return;
        };
        let owned = self.truth.ephemerals(session).map(Node::path);
        let owned = owned.filter(|path| !path.starts_with("/quorate/"));
        let mut owned: Vec<String> = owned.map(str::to_owned).collect();
        owned.sort_unstable();
        for path in owned {
            let (mut body, mut record) = (Vec::new(), Vec::new());
            VersionRequest {
                path: &path,
                version: -1,
            }
            .encode(&mut body);
            let operator = Requester {
                local: true,
                ..self.requester(0, 0)
            };
            let (preparer, truth) = (&mut self.preparer, &self.truth);
            preparer.prepare(truth, operator, OpCode::Delete, &body, &mut record);
            self.propose(None, &record);
        }
    }

    fn expire(&mut self) {
        self.after(TICK, Event::Expire);
        if self.leader.is_none() {
            return;
        }
        let late = self.sessions.iter();
        let late = late.filter(|(_, known)| known.deadline < self.now);
        for session in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.sessions.remove(&session);
            self.note(|| format!("session {session:x} expires"));
            self.number(None, session, 0, Internal::CloseSession);
        }
    }

    fn commit(&mut self) {
        let Some(record) = self.proposed.pop_front() else {
            return;
        };
        let bytes = record.bytes.clone();
        let Ok(entry) = TxnEntry::from_slice(&bytes) else {
            return;
        };
        self.truth.apply(&entry.header, &entry.txn, &mut ());
        self.preparer.applied(entry.header.zxid);
        self.trace
            .note(self.now * 1_000, || format!("committed: {entry:?}"));
        self.committed.push(record);
        self.fresh.push(bytes);
        for server in 0..self.servers.len() {
            let lag = match self.leader == Some(server) {
                true => 0,
                false => self.rng.u64(0..=self.habits.lag),
            };
            let following = &mut self.servers[server];
            following.apply_due = following.apply_due.max(self.now + lag);
            let due = following.apply_due;
            self.at(due, Event::Apply(server));
        }
    }

    /// The leader is gone; so much of what it has proposed is kept by the next one.
    pub fn depose(&mut self) {
        let kept = self.rng.usize(0..=self.proposed.len());
        let lost = self.proposed.len() - kept;
        self.note(|| format!("no leader: {kept} proposals kept, {lost} lost"));
        for _ in 0..kept {
            self.commit();
        }
        self.proposed.clear();
        self.leader = None;
        self.epoch += 1;
        for server in 0..self.servers.len() {
            self.lose_leader(server);
        }
        let (least, most) = self.habits.election;
        let delay = self.rng.u64(least..=most);
        self.after(delay, Event::Elect);
    }

    /// A server does not hear from a leader any more: what it has asked has an unknown end.
    fn lose_leader(&mut self, server: usize) {
        let keeps = self.habits.keeps_connections;
        let mut uncertain = Vec::new();
        let mut again = Vec::new();
        for (id, conn) in &self.conns {
            if conn.server != server || !conn.open {
                continue;
            }
            let write = |waiting: &Waiting| matches!(waiting.kind, Kind::Write);
            if !keeps || conn.session == 0 || conn.waiting.iter().any(write) {
                uncertain.push(*id);
            } else {
                let syncs = conn.waiting.iter();
                let syncs = syncs.filter(|waiting| matches!(waiting.kind, Kind::Sync(_)));
                again.extend(syncs.map(|waiting| (*id, waiting.xid)));
            }
        }
        for id in uncertain {
            self.close(id, "for its server has lost its leader");
        }
        let again = again.into_iter();
        let again = again.map(|(id, xid)| (id, Ask::Request(xid, OpCode::Sync, Bytes::new())));
        self.servers[server].held.extend(again);
    }

    fn elect(&mut self) {
        let able = |server: &usize| self.servers[*server].up && !self.servers[*server].cut;
        let able: Vec<usize> = (0..self.servers.len()).filter(able).collect();
        if able.is_empty() || self.leader.is_some() {
            return;
        }
        let leader = able[self.rng.usize(..able.len())];
        self.leader = Some(leader);
        self.preparer = Preparer::behind(zxid_of(self.epoch, 0), &self.truth, rules());
        let mut sessions = BTreeMap::new();
        for (id, timeout) in self.truth.sessions() {
            let deadline = self.now + timeout.unsigned_abs() as Millis;
            let owner = self.sessions.get(&id).and_then(|known| known.owner);
            let known = Session {
                deadline,
                timeout,
                owner,
            };
            sessions.insert(id, known);
        }
        self.sessions = sessions;
        let epoch = self.epoch;
        self.note(|| format!("server {leader} leads epoch {epoch}"));
        self.catch_up(leader);
        for server in 0..self.servers.len() {
            self.ask_held(server);
        }
    }

    fn ask_held(&mut self, server: usize) {
        for (id, ask) in std::mem::take(&mut self.servers[server].held) {
            self.ask(server, id, ask);
        }
    }
}

/// The servers' trees, and what becomes of servers.
impl Ensemble {
    fn apply(&mut self, at: usize) {
        let server = &mut self.servers[at];
        if !server.up || server.cut {
            return;
        }
        let Some(Record { bytes, origin }) = self.committed.get(server.applied).cloned() else {
            return;
        };
        server.applied += 1;
        let Ok(entry) = TxnEntry::from_slice(&bytes) else {
            return;
        };
        let (zxid, session) = (entry.header.zxid, entry.header.session_id);
        let mut gathered = Gathered::default();
        let applied = server.tree.apply(&entry.header, &entry.txn, &mut gathered);
        let mut events: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
        for (kind, path) in gathered.0 {
            server.watches.fire(kind, &path, |conn| {
                reads::event(events.entry(*conn).or_default(), zxid, kind, &path);
            });
        }
        for (conn, events) in events {
            self.tell(conn, events);
        }
        if let Some(origin) = origin {
            self.reply_to(at, origin, &entry, &applied);
        }
        // What waits for this transaction, or for the answer to it.
        let here = |(_, conn): &(&ConnId, &Conn)| conn.server == at && conn.open;
        let conns = self.conns.iter().filter(here).map(|(id, _)| *id);
        for id in conns.collect::<Vec<_>>() {
            self.answer(id);
            let of_session = self.conns.get(&id).map(|conn| conn.session);
            if matches!(entry.txn, Txn::CloseSession(_)) && of_session == Some(session) {
                self.close(id, "for its session is over");
            }
        }
    }

    /// Answers who asked for a transaction, if that was asked of this server.
    fn reply_to(&mut self, at: usize, id: ConnId, entry: &TxnEntry<'_>, applied: &Applied) {
        let (session, xid) = (entry.header.session_id, entry.header.cxid);
        let conn = self.conns.get_mut(&id);
        let conn = conn.filter(|conn| conn.server == at && conn.open);
        let asked = |front: &mut Waiting| matches!(front.kind, Kind::Write) && front.xid == xid;
        let waiting = conn.and_then(|conn| conn.waiting.pop_front_if(asked));
        let Some(Waiting { op, .. }) = waiting else {
            return;
        };
        if let Txn::CreateSession(opened) = &entry.txn {
            return self.accept(id, session, opened.timeout);
        }
        if self.chance(self.habits.loses_reply) {
            return self.close(id, "with a reply");
        }
        let mut out = Vec::new();
        reply(&mut out, entry, op, applied, xid);
        self.tell(id, out);
    }

    fn catch_up(&mut self, server: usize) {
        while self.servers[server].applied < self.committed.len() {
            let before = self.servers[server].applied;
            self.apply(server);
            if self.servers[server].applied == before {
                return;
            }
        }
    }

    fn close_all(&mut self, server: usize, why: &str) {
        let here = self.conns.iter().filter(|(_, conn)| conn.server == server);
        for id in here.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(id, why);
        }
        self.servers[server].held.clear();
    }

    /// Ends a server's process.
    pub fn crash(&mut self, server: usize) {
        self.note(|| format!("server {server} crashes"));
        self.servers[server].up = false;
        self.close_all(server, "for its server has crashed");
        if self.leader == Some(server) {
            self.depose();
        }
    }

    /// Cuts a server off from the leader. It goes on to answer what it can, if it `lingers`.
    pub fn isolate(&mut self, server: usize, lingers: bool) {
        if self.leader == Some(server) {
            self.depose();
        }
        self.note(|| format!("server {server} is cut off"));
        self.servers[server].cut = true;
        self.lose_leader(server);
        if !lingers {
            self.leave_alone(server);
        }
    }

    /// A server that is cut off notices that.
    pub fn leave_alone(&mut self, server: usize) {
        self.servers[server].refuses = true;
        self.close_all(server, "for its server is cut off");
    }

    /// Lets a server take no new connections, or take them again.
    pub fn refuse(&mut self, server: usize, refuses: bool) {
        self.note(|| format!("server {server} refuses connections: {refuses}"));
        self.servers[server].refuses = refuses;
    }

    /// Makes everything well that is wrong with a server.
    pub fn mend(&mut self, server: usize) {
        self.note(|| format!("server {server} is well"));
        let mended = &mut self.servers[server];
        (mended.up, mended.cut, mended.refuses) = (true, false, false);
        mended.apply_due = self.now;
        self.catch_up(server);
        self.ask_held(server);
    }

    /// Makes everything well.
    pub fn heal(&mut self) {
        self.note(|| "everything heals");
        self.habits = self.habits.calm();
        self.blocked.clear();
        for server in 0..self.servers.len() {
            self.mend(server);
        }
        if self.leader.is_none() {
            self.after(0, Event::Elect);
        }
    }

    /// Does a server lead, or is there one that can when one fails?
    pub fn spare(&self, server: usize) -> bool {
        let well = |(at, other): (usize, &Server)| at == server || (other.up && !other.cut);
        self.servers.iter().enumerate().all(well)
    }
}

/// Bytes, short.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
