//! A small service of a member: it numbers writes with the real [`Preparer`] where the member
//! leads, forwards them where it follows, and answers its clients from the tree.
//!
//! As in a server, clients stay connected through a change of leader, and what they ask waits; only
//! a connection with a write of unknown outcome is closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::jute::{Decode as _, Encode as _, Reader};
use quorate_proto::{OpCode, Txn, TxnEntry, TxnHeader, path};
use quorate_server::storage::log::record_body;
use quorate_server::tree::Tree;
use quorate_server::txn::{Internal, Preparer, Requester, Roster, Rules};
use quorate_server::zab::{Entry, Input, Link, Membership, Millis, Packet, Request, zxid_of};

use super::checker::sid;
use super::model::{Answer, Op, SESSION_TIMEOUT};

const TIMEOUT: Millis = SESSION_TIMEOUT as Millis;

/// The number of a client's connection, never used twice.
pub type ConnId = u64;

/// What a client sends.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Opens a session, or goes on with one; the client has seen this transaction.
    Connect(Option<i64>, i64),
    /// A request with its number.
    Request(i32, Op),
    /// The client has gone away.
    Leave,
}

/// What a client is told.
#[derive(Debug, Clone)]
pub enum Tell {
    /// It is connected in this session, which was opened by this transaction or before.
    Connected(i64, i64),
    /// The session is over.
    Expired,
    /// The answer to a request, and the newest transaction of the tree then.
    Reply(i32, i64, Answer),
    /// The connection is closed.
    Closed,
}

/// What the service wants to be done.
#[derive(Debug, Default)]
pub struct Wishes {
    /// To be told to the peer, in this order.
    pub inputs: Vec<Input>,
    /// To be sent to members.
    pub packets: Vec<(Link, Packet)>,
    /// To be told to clients.
    pub tells: Vec<(ConnId, Tell)>,
}

#[derive(Debug)]
struct Conn {
    session: i64,
    /// What is not answered yet, in order.
    waiting: VecDeque<(i32, Waiting)>,
}

#[derive(Debug)]
enum Waiting {
    /// A write that has not left yet, because there is no leader.
    Unsent(Op),
    /// A write, or a `sync`, that is on its way.
    Sent { write: bool },
    /// A read that waits for what is in front of it.
    Read(Op),
}

#[derive(Debug)]
enum Role {
    Paused,
    Leads {
        epoch: u32,
        preparer: Box<Preparer>,
        /// When sessions expire.
        deadlines: BTreeMap<i64, Millis>,
        /// It numbers nothing any more.
        resigned: bool,
        /// Own clients' `sync`s, in the order in which the peer was told of them.
        syncs: VecDeque<(ConnId, i32)>,
    },
    Follows {
        link: Link,
        /// `sync`s in the order in which they were forwarded.
        syncs: VecDeque<(ConnId, i32)>,
        touched: BTreeSet<i64>,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub struct Service {
    role: Role,
    /// The ensemble, and who of it is here.
    pub roster: Arc<Roster>,
    conns: BTreeMap<ConnId, Conn>,
    /// Ids of new sessions: the member's number on top.
    next_session: i64,
}

fn rules() -> Rules {
    Rules {
        // Only an administrator may change the members.
        skip_acl: true,
        ttl_nodes: false,
        enforce_quota: false,
        digest: true,
        list_ephemerals: true,
        reconfig: true,
        digest_scheme: true,
    }
}

impl Service {
    /// The service of a process that has just started, and knows these configurations.
    pub fn new(
        member: usize,
        life: u64,
        committed: Membership,
        proposed: Option<Membership>,
    ) -> Self {
        let member = sid(member);
        let roster = Roster::new(member, committed, true);
        if let Some(proposed) = proposed {
            roster.propound(proposed);
        }
        Service {
            role: Role::Paused,
            roster: Arc::new(roster),
            conns: BTreeMap::new(),
            next_session: member << 56 | life.cast_signed() << 24,
        }
    }

    /// Does it serve?
    pub fn serves(&self) -> bool {
        !matches!(self.role, Role::Paused)
    }

    /// Who is connected.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.conns.keys().copied()
    }

    /// The role is over.
    pub fn pause(&mut self, wishes: &mut Wishes) {
        self.role = Role::Paused;
        self.roster.clear();
        let uncertain = |conn: &Conn| {
            let mut waiting = conn.waiting.iter();
            waiting.any(|(_, waiting)| matches!(waiting, Waiting::Sent { write: true }))
        };
        self.conns.retain(|id, conn| {
            let keep = !uncertain(conn);
            if !keep {
                wishes.tells.push((*id, Tell::Closed));
            }
            keep
        });
        // A `sync` changes nothing, and is asked again of the next leader.
        for (_, waiting) in self.conns.values_mut().flat_map(|conn| &mut conn.waiting) {
            if matches!(waiting, Waiting::Sent { write: false }) {
                *waiting = Waiting::Unsent(Op::Sync);
            }
        }
    }

    /// Leads from now on.
    pub fn lead(&mut self, epoch: u32, tree: &Tree, now: Millis, wishes: &mut Wishes) {
        // What was proposed before is in force or forgotten.
        self.roster.settle();
        let preparer = Preparer::behind(zxid_of(epoch, 0), tree, rules());
        let preparer = preparer.of(Arc::clone(&self.roster));
        self.role = Role::Leads {
            epoch,
            preparer: Box::new(preparer),
            resigned: false,
            deadlines: tree.sessions().map(|(id, _)| (id, now + TIMEOUT)).collect(),
            syncs: VecDeque::new(),
        };
        self.send_unsent(tree, now, wishes);
    }

    /// Numbers nothing any more, and leaves the lead to another.
    pub fn resign(&mut self, wishes: &mut Wishes) {
        if let Role::Leads { resigned, .. } = &mut self.role
            && !std::mem::replace(resigned, true)
        {
            wishes.inputs.push(Input::HandOver { to: None });
        }
    }

    /// Follows from now on.
    pub fn follow(&mut self, link: Link, tree: &Tree, now: Millis, wishes: &mut Wishes) {
        self.role = Role::Follows {
            link,
            syncs: VecDeque::new(),
            // Whoever leads now has not heard of them.
            touched: self.conns.values().map(|conn| conn.session).collect(),
        };
        self.send_unsent(tree, now, wishes);
    }

    fn send_unsent(&mut self, tree: &Tree, now: Millis, wishes: &mut Wishes) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let waiting = self
                .conns
                .get_mut(&id)
                .map(|conn| std::mem::take(&mut conn.waiting));
            for (cxid, waiting) in waiting.unwrap_or_default() {
                if let Waiting::Unsent(op) | Waiting::Read(op) = waiting {
                    self.request(id, cxid, op, tree, now, wishes);
                }
            }
        }
    }

    /// A client says something.
    pub fn ask(&mut self, id: ConnId, ask: Ask, tree: &Tree, now: Millis, wishes: &mut Wishes) {
        match ask {
            Ask::Connect(session, seen) => self.connect(id, session, seen, tree, now, wishes),
            Ask::Request(cxid, op) => self.request(id, cxid, op, tree, now, wishes),
            Ask::Leave => {
                self.conns.remove(&id);
            }
        }
    }

    fn connect(
        &mut self,
        id: ConnId,
        session: Option<i64>,
        seen: i64,
        tree: &Tree,
        now: Millis,
        wishes: &mut Wishes,
    ) {
        if !self.serves() || seen > tree.last_zxid() {
            wishes.tells.push((id, Tell::Closed));
            return;
        }
        let session_exists = session.is_some_and(|id| tree.session_timeout(id).is_some());
        if session.is_some() && !session_exists {
            wishes.tells.push((id, Tell::Expired));
            return;
        }
        let new = session.is_none();
        let session = session.unwrap_or(self.next_session);
        let waiting = VecDeque::new();
        self.conns.insert(id, Conn { session, waiting });
        if new {
            self.next_session += 1;
            self.request(id, 0, Op::Open, tree, now, wishes);
        } else {
            self.touch(session, now);
            let told = Tell::Connected(session, tree.last_zxid());
            wishes.tells.push((id, told));
        }
    }

    fn touch(&mut self, session: i64, now: Millis) {
        match &mut self.role {
            Role::Leads { deadlines, .. } => postpone(deadlines, session, now),
            Role::Follows { touched, .. } => {
                touched.insert(session);
            }
            Role::Paused => {}
        }
    }

    fn request(
        &mut self,
        id: ConnId,
        cxid: i32,
        op: Op,
        tree: &Tree,
        now: Millis,
        wishes: &mut Wishes,
    ) {
        let Some(session) = self.conns.get(&id).map(|conn| conn.session) else {
            return;
        };
        self.touch(session, now);
        let write = op.is_write();
        let waiting = match &mut self.role {
            _ if !write && op != Op::Sync => Waiting::Read(op),
            Role::Paused | Role::Leads { resigned: true, .. } => Waiting::Unsent(op),
            Role::Leads { epoch, syncs, .. } if op == Op::Sync => {
                syncs.push_back((id, cxid));
                wishes.inputs.push(Input::Sync {
                    epoch: *epoch,
                    link: None,
                });
                Waiting::Sent { write }
            }
            Role::Leads { .. } => {
                self.propose(session, cxid, &op, tree, now, wishes);
                Waiting::Sent { write }
            }
            Role::Follows { link, syncs, .. } => {
                if op == Op::Sync {
                    syncs.push_back((id, cxid));
                }
                let request = Request {
                    session,
                    cxid,
                    op: op.code().number(),
                    body: op.body(),
                    ids: Arc::default(),
                };
                wishes.packets.push((*link, Packet::Request(request)));
                Waiting::Sent { write }
            }
        };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.waiting.push_back((cxid, waiting));
        }
        self.read(id, tree, wishes);
    }

    fn propose(
        &mut self,
        session: i64,
        cxid: i32,
        op: &Op,
        tree: &Tree,
        now: Millis,
        wishes: &mut Wishes,
    ) {
        self.number(session, cxid, op.code(), &op.body(), tree, now, wishes);
    }

    /// Makes a transaction of a write, and proposes it.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own")]
    fn number(
        &mut self,
        session: i64,
        cxid: i32,
        op: OpCode,
        body: &[u8],
        tree: &Tree,
        now: Millis,
        wishes: &mut Wishes,
    ) {
        let Role::Leads {
            epoch,
            preparer,
            deadlines,
            resigned: false,
            ..
        } = &mut self.role
        else {
            return;
        };
        let requester = Requester {
            session,
            cxid,
            ids: &[],
            time: now.cast_signed(),
            local: false,
        };
        let mut record = Vec::new();
        let zxid = match op {
            OpCode::CreateSession => {
                deadlines.insert(session, now + TIMEOUT);
                let open = Internal::CreateSession(SESSION_TIMEOUT);
                Some(preparer.prepare_internal(tree, requester, open, &mut record))
            }
            OpCode::CloseSession => {
                deadlines.remove(&session);
                let close = Internal::CloseSession;
                Some(preparer.prepare_internal(tree, requester, close, &mut record))
            }
            op => preparer.prepare(tree, requester, op, body, &mut record),
        };
        if let Some(zxid) = zxid {
            let bytes = Bytes::copy_from_slice(record_body(&record));
            wishes.inputs.push(Input::Propose {
                epoch: *epoch,
                entries: vec![Entry { zxid, bytes }],
            });
        }
    }

    /// A packet for the service.
    pub fn deliver(
        &mut self,
        link: Link,
        packet: Packet,
        tree: &Tree,
        now: Millis,
        wishes: &mut Wishes,
    ) {
        match packet {
            Packet::Request(request) if request.op == OpCode::Sync.number() => {
                if let Role::Leads { epoch, .. } = self.role {
                    let link = Some(link);
                    wishes.inputs.push(Input::Sync { epoch, link });
                }
            }
            Packet::Request(request) => {
                if let Ok(op) = OpCode::try_from(request.op) {
                    let Request { session, cxid, .. } = request;
                    self.number(session, cxid, op, &request.body, tree, now, wishes);
                }
            }
            Packet::Ping { zxid, sessions } => self.ping(link, zxid, &sessions, now, wishes),
            Packet::Sync => self.synced(tree, wishes),
            _ => {}
        }
    }

    /// The oldest `sync` has come to its end.
    pub fn synced(&mut self, tree: &Tree, wishes: &mut Wishes) {
        if let Role::Leads { syncs, .. } | Role::Follows { syncs, .. } = &mut self.role
            && let Some((id, cxid)) = syncs.pop_front()
        {
            self.reply(id, cxid, tree, Answer::Done, wishes);
        }
    }

    fn ping(&mut self, link: Link, zxid: i64, heard: &[u8], now: Millis, wishes: &mut Wishes) {
        match &mut self.role {
            Role::Leads { deadlines, .. } => {
                let mut heard = Reader::new(heard);
                while let (Ok(session), Ok(_)) = (heard.read::<i64>(), heard.read::<i32>()) {
                    postpone(deadlines, session, now);
                }
            }
            Role::Follows { touched, .. } => {
                let mut sessions = Vec::new();
                for session in std::mem::take(touched) {
                    session.encode(&mut sessions);
                    SESSION_TIMEOUT.encode(&mut sessions);
                }
                let sessions = sessions.into();
                wishes.packets.push((link, Packet::Ping { zxid, sessions }));
            }
            Role::Paused => {}
        }
    }

    /// A transaction is about to be applied: the leader had the `sync`s in front of its request
    /// before it numbered this, so that they are over.
    pub fn uncover(&mut self, header: &TxnHeader, tree: &Tree, wishes: &mut Wishes) {
        let is_write = |waiting: &Waiting| matches!(waiting, Waiting::Sent { write: true });
        let mut conns = self.conns.iter();
        let asked = conns.find_map(|(id, conn)| {
            let mut waiting = conn.waiting.iter();
            let (cxid, _) = waiting.find(|(_, waiting)| is_write(waiting))?;
            (conn.session == header.session_id && *cxid == header.cxid).then_some(*id)
        });
        while let Some(id) = asked
            && let Some(conn) = self.conns.get(&id)
            && let Some((cxid, Waiting::Sent { write: false })) = conn.waiting.front()
        {
            self.reply(id, *cxid, tree, Answer::Done, wishes);
        }
    }

    /// A transaction has been applied.
    pub fn applied(&mut self, entry: &Entry, tree: &Tree, wishes: &mut Wishes) {
        if let Role::Leads { preparer, .. } = &mut self.role {
            preparer.applied(entry.zxid);
        }
        let Ok(parsed) = TxnEntry::from_slice(&entry.bytes) else {
            return;
        };
        let (session, cxid) = (parsed.header.session_id, parsed.header.cxid);
        let mut asked = self.conns.iter();
        let asked = asked.find(|(_, conn)| {
            let front = conn.waiting.front();
            let head = front.is_some_and(|(head, waiting)| {
                *head == cxid && matches!(waiting, Waiting::Sent { write: true })
            });
            head && conn.session == session
        });
        if let Some(id) = asked.map(|(id, _)| *id) {
            let opens = matches!(parsed.txn, Txn::CreateSession(_));
            if opens {
                self.answered(id, cxid);
                let told = Tell::Connected(session, entry.zxid);
                wishes.tells.push((id, told));
            } else {
                self.reply(id, cxid, tree, Answer::to(&parsed), wishes);
            }
        }
        if matches!(parsed.txn, Txn::CloseSession(_)) {
            self.conns.retain(|id, conn| {
                let over = conn.session == session;
                if over {
                    wishes.tells.push((*id, Tell::Closed));
                }
                !over
            });
        }
    }

    fn answered(&mut self, id: ConnId, cxid: i32) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else {
            return false;
        };
        let answered = conn.waiting.iter().position(|(head, _)| *head == cxid);
        answered.is_some_and(|at| conn.waiting.remove(at).is_some())
    }

    fn reply(&mut self, id: ConnId, cxid: i32, tree: &Tree, answer: Answer, wishes: &mut Wishes) {
        if self.answered(id, cxid) {
            let told = Tell::Reply(cxid, tree.last_zxid(), answer);
            wishes.tells.push((id, told));
            self.read(id, tree, wishes);
        }
    }

    /// Answers the reads that nothing is in front of any more.
    fn read(&mut self, id: ConnId, tree: &Tree, wishes: &mut Wishes) {
        let serves = self.serves();
        let Some(conn) = self.conns.get_mut(&id).filter(|_| serves) else {
            return;
        };
        while let Some((cxid, Waiting::Read(op))) = conn.waiting.front() {
            let told = Tell::Reply(*cxid, tree.last_zxid(), look_up(tree, op));
            wishes.tells.push((id, told));
            conn.waiting.pop_front();
        }
    }

    /// Ends the sessions that were not heard of, where the member leads.
    pub fn expire(&mut self, tree: &Tree, now: Millis, wishes: &mut Wishes) {
        let Role::Leads { deadlines, .. } = &self.role else {
            return;
        };
        let expired = deadlines.iter().filter(|(_, deadline)| **deadline < now);
        let expired: Vec<i64> = expired.map(|(id, _)| *id).collect();
        for session in expired {
            self.number(session, 0, OpCode::CloseSession, &[], tree, now, wishes);
        }
    }
}

fn postpone(deadlines: &mut BTreeMap<i64, Millis>, session: i64, now: Millis) {
    if let Some(deadline) = deadlines.get_mut(&session) {
        *deadline = now + TIMEOUT;
    }
}

fn look_up(tree: &Tree, op: &Op) -> Answer {
    match op {
        Op::Get { path } => Answer::Node(tree.get(path).map(|node| {
            let data = String::from_utf8_lossy(node.data().unwrap_or_default());
            (data.parse().unwrap_or_default(), node.persisted().version)
        })),
        Op::Children { path } => Answer::Names(tree.get(path).map(|node| {
            let children = tree.children(node);
            let mut names: Vec<String> = children
                .map(|child| path::name(child.path()).to_owned())
                .collect();
            names.sort_unstable();
            names
        })),
        _ => Answer::Done,
    }
}
