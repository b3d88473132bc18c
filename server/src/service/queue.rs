//! Requests on their way to be answered by the applier: writes, and whatever has to wait behind them.
//!
//! What becomes of a write depends on the [`Role`]: a server that stands alone and a leader check
//! and number it here, a learner sends it to its leader.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use parking_lot::{RwLock, RwLockReadGuard};
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{ErrorCode, Id, OpCode, PathRecord};

use super::gate::{Answer, Waiting};
use super::member::Proposals;
use crate::net::Connection;
use crate::storage::log::record_body;
use crate::tree::Tree;
use crate::txn::{Internal, Preparer, Requester, Rules};
use crate::zab::{Entry, Link, Packet, Request, counter_of};

/// Where a request came from, and where its answer goes.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) connection: Arc<Connection>,
    pub(crate) session: i64,
    pub(crate) xid: i32,
    /// When it was read, on the service's clock.
    pub(crate) received: u64,
}

/// One request.
#[derive(Debug)]
pub(crate) enum Work {
    /// A transaction, whose record ends at this place of [`Batch::records`].
    Txn {
        end: usize,
        op: OpCode,
        origin: Option<Origin>,
    },
    /// A write that was sent to the leader.
    Forwarded {
        op: OpCode,
        request: Request,
        origin: Origin,
    },
    /// A request without a transaction that has to be answered in its place among others; its body
    /// lies in [`Batch::bodies`].
    Local {
        body: Range<usize>,
        op: OpCode,
        ids: Arc<[Id<'static>]>,
        origin: Origin,
    },
    /// A session that is resumed, behind all that it asked on another connection.
    Resumed { timeout: i32, origin: Origin },
    /// A session that is not there (any more), and cannot be resumed.
    Unknown { origin: Origin },
    /// A write that made no sense.
    Refused { err: ErrorCode, origin: Origin },
}

/// What becomes durable, and is applied, at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Log records of the transactions, one behind the other.
    pub(crate) records: Vec<u8>,
    pub(crate) first_zxid: i64,
    /// Bodies of local requests, one behind the other.
    pub(crate) bodies: Vec<u8>,
    pub(crate) work: Vec<Work>,
    /// Learners, or clients of this server, that want to hear when everything in front is committed,
    /// and how many transactions that is.
    syncs: Vec<(usize, Option<Link>)>,
}

/// Empty batches that are kept.
const SPARE: usize = 4;

/// Buffers that one huge batch has left behind are not kept for ever.
const KEPT_CAPACITY: usize = 1 << 20;

impl Batch {
    /// Number of transactions.
    pub(crate) fn txns(&self) -> u64 {
        self.work
            .iter()
            .filter(|work| matches!(work, Work::Txn { .. }))
            .count() as u64
    }

    /// Makes the batch empty and keeps its buffers.
    pub(crate) fn clear(&mut self) {
        self.work.clear();
        self.syncs.clear();
        for buffer in [&mut self.records, &mut self.bodies] {
            buffer.clear();
            buffer.shrink_to(KEPT_CAPACITY);
        }
    }

    fn is_empty(&self) -> bool {
        self.work.is_empty() && self.syncs.is_empty()
    }

    /// The transactions, to be proposed: all slices of one buffer.
    fn entries(&mut self) -> Vec<Entry> {
        let next = Vec::with_capacity(self.records.len().min(KEPT_CAPACITY));
        let records = Bytes::from(std::mem::replace(&mut self.records, next));
        let mut start = 0;
        let mut zxids = self.first_zxid..;
        let mut entry = |end: usize| {
            let bytes = records.slice_ref(record_body(&records[start..end]));
            start = end;
            Some(Entry {
                zxid: zxids.next()?,
                bytes,
            })
        };
        let ends = self.work.iter().filter_map(|work| match work {
            Work::Txn { end, .. } => Some(*end),
            _ => None,
        });
        ends.filter_map(&mut entry).collect()
    }
}

/// What a server does with the requests of its clients.
#[derive(Debug)]
pub(super) enum Role {
    /// Nothing: it takes none.
    Paused,
    /// It checks and numbers them.
    Leading { epoch: u32, preparer: Preparer },
    /// It sends writes to a leader.
    Following(Upstream),
}

/// The way to the leader.
#[derive(Debug)]
pub(super) struct Upstream {
    link: Link,
    /// What is to be sent once the queue is unlocked.
    packets: Vec<Packet>,
    /// Where the bodies of requests lie, so that they need no allocation each.
    bodies: BytesMut,
}

/// Room for the bodies of so many bytes is made at once.
const BODIES_SIZE: usize = 64 << 10;

impl Upstream {
    pub(super) fn new(link: Link) -> Self {
        Upstream {
            link,
            packets: Vec::new(),
            bodies: BytesMut::with_capacity(BODIES_SIZE),
        }
    }

    fn forward(&mut self, asker: (i64, i32), op: OpCode, body: &[u8], ids: Ids) -> Request {
        self.bodies.extend_from_slice(body);
        let request = Request {
            session: asker.0,
            cxid: asker.1,
            op: op.number(),
            body: self.bodies.split().freeze(),
            ids,
        };
        self.packets.push(Packet::Request(request.clone()));
        request
    }

    fn revalidate(&mut self, session: i64, timeout: i32) {
        let mut data = Vec::with_capacity(12);
        session.encode(&mut data);
        timeout.encode(&mut data);
        self.packets.push(Packet::Revalidate(data.into()));
    }
}

type Ids = Arc<[Id<'static>]>;

/// The tree, locked by the first who looks at it, until it is dropped.
pub(crate) struct LazyTree<'a> {
    tree: &'a RwLock<Tree>,
    guard: OnceCell<RwLockReadGuard<'a, Tree>>,
}

impl<'a> LazyTree<'a> {
    pub(super) fn new(tree: &'a RwLock<Tree>) -> Self {
        LazyTree {
            tree,
            guard: OnceCell::new(),
        }
    }

    pub(super) fn get(&self) -> &Tree {
        self.guard.get_or_init(|| self.tree.read())
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Queue {
    rules: Rules,
    role: Role,
    batch: Batch,
    /// Batches that were dealt with.
    spare: Vec<Batch>,
    /// What waits for proposals that were taken, with the number of the last of them.
    proposed: Vec<(Batch, i64)>,
    /// Counts the roles: one that was given up before it began does not begin.
    term: u64,
    /// It leads until what it has numbered is committed, and numbers no more.
    resigned: bool,
    /// A role as leader begins: what comes from learners has to wait.
    early: Option<Vec<(Link, Packet)>>,
    /// Handshakes that wait until the leader has said whether there is such a session.
    revalidating: HashMap<i64, (i32, Origin)>,
    /// The logger, or whoever takes proposals, waits for work.
    idle: bool,
    /// Something is queued that no transaction will make the applier look at.
    restless: bool,
    stopping: bool,
}

impl Queue {
    /// The queue of a server that stands alone, or of a member before it has a role.
    pub(super) fn new(rules: Rules, role: Role) -> Self {
        Queue {
            rules,
            role,
            batch: Batch::default(),
            spare: Vec::new(),
            proposed: Vec::new(),
            term: 0,
            resigned: false,
            early: None,
            revalidating: HashMap::new(),
            idle: false,
            restless: false,
            stopping: false,
        }
    }

    /// May requests be queued?
    pub(crate) fn is_open(&self) -> bool {
        !self.resigned && !matches!(self.role, Role::Paused)
    }

    /// Does it follow, on this link?
    pub(super) fn follows(&self, link: Link) -> bool {
        matches!(&self.role, Role::Following(upstream) if upstream.link == link)
    }

    pub(super) fn is_leading(&self) -> bool {
        matches!(self.role, Role::Leading { .. })
    }

    /// Queues a client's write.
    pub(crate) fn push_write(
        &mut self,
        tree: &LazyTree<'_>,
        requester: Requester<'_>,
        op: OpCode,
        body: &[u8],
        ids: &Ids,
        origin: Origin,
    ) {
        let batch = &mut self.batch;
        match &mut self.role {
            Role::Paused => {}
            Role::Leading { preparer, .. } => {
                let first = batch.records.is_empty();
                match preparer.prepare(tree.get(), requester, op, body, &mut batch.records) {
                    Some(zxid) => self.push_txn(first, zxid, op, Some(origin)),
                    None => self.refuse(ErrorCode::MARSHALLING_ERROR, origin),
                }
            }
            Role::Following(upstream) => match self.rules.check(op, body) {
                Ok(()) => {
                    let asker = (origin.session, origin.xid);
                    let request = upstream.forward(asker, op, body, Arc::clone(ids));
                    let work = &mut batch.work;
                    work.push(Work::Forwarded {
                        op,
                        request,
                        origin,
                    });
                }
                Err(err) => self.refuse(err, origin),
            },
        }
    }

    /// Queues an answer that is nothing but an error.
    pub(crate) fn refuse(&mut self, err: ErrorCode, origin: Origin) {
        self.batch.work.push(Work::Refused { err, origin });
        self.restless = true;
    }

    /// Queues a write that a learner has forwarded. `moved` if its session is another server's now.
    pub(super) fn push_forwarded(
        &mut self,
        tree: &LazyTree<'_>,
        requester: Requester<'_>,
        op: OpCode,
        body: &[u8],
        moved: bool,
    ) {
        let Role::Leading { preparer, .. } = &mut self.role else {
            return;
        };
        if self.resigned {
            return;
        }
        let records = &mut self.batch.records;
        let first = records.is_empty();
        let prepared = if moved {
            Some(preparer.refuse(requester, ErrorCode::SESSION_MOVED, records))
        } else {
            preparer.prepare(tree.get(), requester, op, body, records)
        };
        let zxid = prepared
            .unwrap_or_else(|| preparer.refuse(requester, ErrorCode::MARSHALLING_ERROR, records));
        self.push_txn(first, zxid, op, None);
    }

    /// Queues a write that nobody waits for here.
    pub(super) fn push_unasked(
        &mut self,
        tree: &LazyTree<'_>,
        requester: Requester<'_>,
        op: OpCode,
        write: Internal<'_>,
    ) {
        self.push_internal(tree, requester, None, op, write);
    }

    /// Queues a write of the server itself, or of a session about itself. False if that is not
    /// possible now.
    pub(super) fn push_internal(
        &mut self,
        tree: &LazyTree<'_>,
        requester: Requester<'_>,
        origin: Option<Origin>,
        op: OpCode,
        write: Internal<'_>,
    ) -> bool {
        if self.stopping || self.resigned {
            return false;
        }
        match (&mut self.role, origin) {
            (Role::Leading { preparer, .. }, origin) => {
                let records = &mut self.batch.records;
                let first = records.is_empty();
                let zxid = preparer.prepare_internal(tree.get(), requester, write, records);
                self.push_txn(first, zxid, op, origin);
                true
            }
            // What the server itself wants to be done is the leader's to do.
            (Role::Following(_), None) if op != OpCode::CreateSession => false,
            (Role::Following(upstream), origin) => {
                let mut body = Vec::new();
                if let Internal::CreateSession(timeout) = write {
                    timeout.encode(&mut body);
                }
                let asker = (requester.session, requester.cxid);
                let request = upstream.forward(asker, op, &body, Arc::default());
                if let Some(origin) = origin {
                    let work = &mut self.batch.work;
                    work.push(Work::Forwarded {
                        op,
                        request,
                        origin,
                    });
                }
                true
            }
            _ => false,
        }
    }

    /// Queues the end of a session that its client asks for.
    pub(crate) fn push_close(
        &mut self,
        tree: &LazyTree<'_>,
        requester: Requester<'_>,
        origin: Origin,
    ) {
        let close = Internal::CloseSession;
        self.push_internal(tree, requester, Some(origin), OpCode::CloseSession, close);
    }

    /// Queues what has waited since the role before this one.
    pub(super) fn push_again(
        &mut self,
        tree: &LazyTree<'_>,
        waiting: Waiting,
        time: i64,
        local: bool,
    ) {
        let Waiting { origin, answer, .. } = waiting;
        match answer {
            Answer::Write { op, request } => {
                let Some(request) = request else {
                    return;
                };
                let requester = Requester {
                    session: request.session,
                    cxid: request.cxid,
                    ids: &request.ids,
                    time,
                    local,
                };
                let internal = match op {
                    OpCode::CloseSession => Internal::CloseSession,
                    OpCode::CreateSession => Internal::CreateSession(timeout_in(&request.body)),
                    _ => {
                        let (body, ids) = (&request.body, &request.ids);
                        return self.push_write(tree, requester, op, body, ids, origin);
                    }
                };
                self.push_internal(tree, requester, Some(origin), op, internal);
            }
            Answer::Local { op, ids, body } => self.push_local(op, &body, &ids, origin, false),
            // The session may be over by now.
            Answer::Resumed { timeout } => {
                self.revalidating.insert(origin.session, (timeout, origin));
            }
            Answer::Unknown => self.push_resumed(false, 0, origin),
            Answer::Refused(err) => self.refuse(err, origin),
        }
    }

    /// Queues the answer to a connection that wants to resume a session.
    pub(super) fn push_resumed(&mut self, known: bool, timeout: i32, origin: Origin) {
        self.batch.work.push(match known {
            true => Work::Resumed { timeout, origin },
            false => Work::Unknown { origin },
        });
        self.restless = true;
    }

    fn push_txn(&mut self, first: bool, zxid: i64, op: OpCode, origin: Option<Origin>) {
        if first {
            self.batch.first_zxid = zxid;
        }
        self.batch.work.push(Work::Txn {
            end: self.batch.records.len(),
            op,
            origin,
        });
    }

    /// Queues a request that has to wait for those in front of it. `behind` if some of its connection
    /// are not answered yet: the applier looks at what is queued whenever it has answered something.
    pub(crate) fn push_local(
        &mut self,
        op: OpCode,
        body: &[u8],
        ids: &Ids,
        origin: Origin,
        behind: bool,
    ) {
        if op != OpCode::Sync {
            // What a leader queues gets there by way of whoever takes proposals.
            self.restless |= !behind || self.is_leading();
        } else if PathRecord::from_slice(body).is_err() {
            return self.refuse(ErrorCode::MARSHALLING_ERROR, origin);
        } else if let Role::Following(upstream) = &mut self.role {
            let asker = (origin.session, origin.xid);
            upstream.forward(asker, op, body, Arc::clone(ids));
        } else {
            self.push_sync(None);
        }
        let start = self.batch.bodies.len();
        self.batch.bodies.extend_from_slice(body);
        self.batch.work.push(Work::Local {
            body: start..self.batch.bodies.len(),
            op,
            ids: Arc::clone(ids),
            origin,
        });
    }

    /// Tells a learner, or a client of this server, once everything that is queued so far is
    /// committed.
    pub(super) fn push_sync(&mut self, link: Option<Link>) {
        if let Some(last) = self.last_zxid() {
            let batch = &mut self.batch;
            let behind = match batch.records.is_empty() {
                true => 0,
                false => usize::try_from(last - batch.first_zxid).unwrap_or(0) + 1,
            };
            batch.syncs.push((behind, link));
        }
    }

    /// Asks the leader whether there is such a session. Answers a connection of the same session that
    /// waited for that and has given way.
    pub(super) fn push_revalidation(&mut self, timeout: i32, origin: Origin) -> Option<Origin> {
        let Role::Following(upstream) = &mut self.role else {
            return Some(origin);
        };
        upstream.revalidate(origin.session, timeout);
        let before = self.revalidating.insert(origin.session, (timeout, origin));
        before.map(|(_, origin)| origin)
    }

    /// The handshake that waits for this session, no longer.
    pub(super) fn revalidated(&mut self, session: i64) -> Option<(i32, Origin)> {
        self.revalidating.remove(&session)
    }

    /// All handshakes that wait for the word of a leader, no longer.
    pub(super) fn take_revalidating(&mut self) -> HashMap<i64, (i32, Origin)> {
        std::mem::take(&mut self.revalidating)
    }

    /// True if whoever takes batches has to be woken; it is, then.
    pub(super) fn wants_logger(&mut self) -> bool {
        !self.batch.is_empty() && std::mem::take(&mut self.idle)
    }

    /// Is there something to be sent to the leader?
    pub(super) fn has_requests(&self) -> bool {
        matches!(&self.role, Role::Following(upstream) if !upstream.packets.is_empty())
    }

    /// Exchanges what is to be sent to the leader for an empty list, and answers where to send it;
    /// `None` if that is nothing.
    pub(super) fn take_requests(&mut self, packets: &mut Vec<Packet>) -> Option<Link> {
        match &mut self.role {
            Role::Following(upstream) if !upstream.packets.is_empty() => {
                std::mem::swap(&mut upstream.packets, packets);
                Some(upstream.link)
            }
            _ => None,
        }
    }

    /// True if the applier has to look at what is queued, or was proposed; it will, then.
    pub(super) fn wants_applier(&mut self) -> bool {
        std::mem::take(&mut self.restless)
    }

    /// Queues a transaction of any bytes.
    #[cfg(test)]
    pub(crate) fn push_record(&mut self, record: &[u8]) {
        let first = self.batch.records.is_empty();
        self.batch.records.extend_from_slice(record);
        let zxid = self.last_zxid().unwrap_or_default() + 1;
        self.push_txn(first, zxid, OpCode::SetData, None);
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Takes what the applier has to know of: what was proposed, with the number of the last
    /// proposal, or what was queued on a server that proposes nothing.
    pub(super) fn take_works(&mut self, out: &mut Vec<(Batch, Option<i64>)>) {
        self.restless &= self.is_leading();
        let proposed = self.proposed.drain(..);
        out.extend(proposed.map(|(batch, last)| (batch, Some(last))));
        if !self.is_leading() && !self.batch.is_empty() {
            let empty = self.spare.pop().unwrap_or_default();
            out.push((std::mem::replace(&mut self.batch, empty), None));
        }
    }

    /// Takes back a batch that was dealt with, for its room.
    pub(super) fn give_back(&mut self, mut batch: Batch) {
        if self.spare.len() < SPARE {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// Exchanges what is queued for an empty batch; false if nothing is queued, and then the
    /// taker counts as idle.
    pub(super) fn take(&mut self, empty: &mut Batch) -> bool {
        if self.batch.is_empty() {
            self.idle = true;
            return false;
        }
        std::mem::swap(&mut self.batch, empty);
        true
    }

    /// Takes the transactions that are queued. The requests that wait for them are kept for the
    /// applier.
    pub(super) fn take_proposals(&mut self) -> Option<Proposals> {
        let Role::Leading { epoch, .. } = self.role else {
            return None;
        };
        let mut batch = self.spare.pop().unwrap_or_default();
        if !self.take(&mut batch) {
            self.spare.push(batch);
            return None;
        }
        let entries = batch.entries();
        // The room for as many records again.
        std::mem::swap(&mut self.batch.records, &mut batch.records);
        let syncs = std::mem::take(&mut batch.syncs);
        let last = self.last_zxid().filter(|last| counter_of(*last) > 0);
        self.proposed.push((batch, last.unwrap_or(0)));
        Some(Proposals::new(epoch, entries, syncs))
    }

    /// Forgets pending changes that the tree shows now.
    pub(super) fn applied(&mut self, zxid: i64) {
        if let Role::Leading { preparer, .. } = &mut self.role {
            preparer.applied(zxid);
        }
    }

    /// The number given out last, by a leader.
    pub(super) fn last_zxid(&self) -> Option<i64> {
        match &self.role {
            Role::Leading { preparer, .. } => Some(preparer.last_zxid()),
            _ => None,
        }
    }

    /// Announces a role; answers its term.
    pub(super) fn announce(&mut self, leads: bool) -> u64 {
        self.term += 1;
        self.early = leads.then(Vec::new);
        self.term
    }

    /// Begins the role that was announced as `term`, unless it is over already. Answers what
    /// learners have sent meanwhile.
    pub(super) fn begin(&mut self, term: u64, role: Role) -> Option<Vec<(Link, Packet)>> {
        if term != self.term {
            return None;
        }
        self.role = role;
        self.resigned = false;
        self.idle = true;
        Some(self.early.take().unwrap_or_default())
    }

    /// Keeps what a learner has sent until the role has begun; gives it back if it has.
    pub(super) fn defer(&mut self, link: Link, packet: Packet) -> Option<Packet> {
        match &mut self.early {
            Some(early) => {
                early.push((link, packet));
                None
            }
            None => Some(packet),
        }
    }

    /// Numbers no more; what was numbered can still be taken.
    pub(super) fn resign(&mut self) {
        self.resigned = true;
    }

    /// Ends the role. What was queued is left to the applier.
    pub(super) fn pause(&mut self) {
        self.term += 1;
        self.role = Role::Paused;
        self.early = None;
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// The timeout in the body of a request for a session.
pub(super) fn timeout_in(body: &[u8]) -> i32 {
    i32::from_slice(body).unwrap_or_default()
}
