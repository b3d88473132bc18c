//! The applier: applies what is durable, and answers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender};

use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    ConnectResponse, Create2Response, CreateResponse, ErrorCode, EventType, Id, MultiResponse,
    MultiResult, OpCode, Perms, ReplyHeader, StatResponse, Txn, TxnEntry, TxnHeader, WatcherEvent,
    frame, xid,
};

use super::queue::{Batch, Origin, Work};
use super::{Service, wall_clock};
use crate::error::ServerError;
use crate::net::{Connection, local};
use crate::session::{PASSWORD_SIZE, password};
use crate::storage::log::record_body;
use crate::tree::{AclList, Applied, Observer, Tree, Watches};

/// Requests answered under one hold of the tree's lock: reads wait no longer than these take.
pub(super) const HOLD: usize = 64;

/// Memory that one huge answer has left behind is not kept for ever.
const KEPT_CAPACITY: usize = 1 << 20;

/// Applies and answers, on a thread of its own.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) service: Arc<Service>,
    /// Replies and events are encoded here.
    scratch: Vec<u8>,
    /// Connections whose outbox was empty before the current hold of the tree's lock.
    filled: Vec<Arc<Connection>>,
    tally: Tally,
}

/// What the current hold of the tree's lock has answered.
#[derive(Debug, Default)]
struct Tally {
    /// Its time: on the service's clock, and since 1970.
    now: u64,
    time: i64,
    zxid: i64,
    answered: i64,
}

impl Applier {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Applier {
            service,
            scratch: Vec::new(),
            filled: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Applies each batch that is `durable`, until no more come, and gives it back as `done`.
    pub(super) fn run(
        mut self,
        durable: &Receiver<Batch>,
        done: &Sender<Batch>,
    ) -> Result<(), ServerError> {
        for mut batch in durable {
            self.apply(&batch)?;
            let applied = self.service.tree().last_zxid();
            self.service.queue.lock().applied(applied);
            batch.clear();
            // The logger may have ended already; it needs no more buffers then.
            let _ = done.send(batch);
        }
        Ok(())
    }

    /// Applies what is durable, and answers, in the order of the queue.
    fn apply(&mut self, batch: &Batch) -> Result<(), ServerError> {
        let service = Arc::clone(&self.service);
        let mut start = 0;
        for work in batch.work.chunks(HOLD) {
            let mut tree = service.tree.write();
            self.begin(&tree);
            for work in work {
                if let Work::Txn { end, op, origin } = work {
                    let body = record_body(&batch.records[start..*end]);
                    let origin = origin.as_ref().map(|origin| (origin, *op));
                    self.apply_record(&mut tree, body, |_| origin)?;
                    start = *end;
                } else {
                    self.answer_work(&tree, batch, work);
                }
            }
            drop(tree);
            self.finish();
        }
        Ok(())
    }

    fn answer_work(&mut self, tree: &Tree, batch: &Batch, work: &Work) {
        match work {
            Work::Local {
                body,
                op,
                ids,
                origin,
            } => self.answer_local(tree, *op, ids, &batch.bodies[body.clone()], origin),
            Work::Resumed { timeout, origin } => self.answer_resumed(*timeout, origin),
            Work::Unknown { origin } => self.answer_unknown(origin),
            Work::Refused { err, origin } => self.answer_refused(tree, *err, origin),
            // Such work is no answer that could be given now.
            Work::Txn { .. } | Work::Forwarded { .. } => {}
        }
    }

    /// The tree has just been locked.
    pub(super) fn begin(&mut self, tree: &Tree) {
        self.tally = Tally {
            now: self.service.now(),
            time: wall_clock(),
            zxid: tree.last_zxid(),
            answered: 0,
        };
    }

    /// The tree has just been unlocked.
    pub(super) fn finish(&mut self) {
        let stats = &self.service.stats;
        stats
            .sent
            .fetch_add(self.tally.answered.cast_unsigned(), Relaxed);
        // What the server does by itself was never counted.
        stats.outstanding.fetch_sub(self.tally.answered, Relaxed);
        // Woken one by one they would all want the lock that was held.
        self.filled
            .drain(..)
            .for_each(|connection| connection.wake());
    }

    fn answer(&mut self, origin: &Origin, write: impl FnOnce(&mut Vec<u8>)) {
        let millis = self.tally.now.saturating_sub(origin.received);
        self.service.stats.latency.add(millis, 1);
        let of_connection = &origin.connection.stats;
        of_connection.latency.add(millis, 1);
        of_connection.sent.fetch_add(1, Relaxed);
        of_connection.last_response.store(self.tally.time, Relaxed);
        of_connection.last_zxid.store(self.tally.zxid, Relaxed);
        self.tally.answered += 1;
        if origin.connection.answer(write) {
            self.filled.push(Arc::clone(&origin.connection));
        }
    }

    pub(super) fn answer_resumed(&mut self, timeout: i32, origin: &Origin) {
        let (connection, session) = (&origin.connection, origin.session);
        self.answer(origin, |out| accept(out, connection, session, timeout));
    }

    /// The client is told that its session is over.
    pub(super) fn answer_unknown(&mut self, origin: &Origin) {
        self.answer(origin, |out| refuse_session(out, &origin.connection));
        origin.connection.close();
    }

    pub(super) fn answer_refused(&mut self, tree: &Tree, err: ErrorCode, origin: &Origin) {
        let header = ReplyHeader {
            xid: origin.xid,
            zxid: tree.last_zxid(),
            err,
        };
        self.answer(origin, |out| frame::write(out, |out| header.encode(out)));
    }

    /// A request whose outcome nobody here will hear of: its client has to ask again.
    pub(super) fn abandon(&mut self, origin: &Origin) {
        origin.connection.close();
        self.service.stats.outstanding.fetch_sub(1, Relaxed);
    }

    pub(super) fn answer_local(
        &mut self,
        tree: &Tree,
        op: OpCode,
        ids: &[Id<'static>],
        body: &[u8],
        origin: &Origin,
    ) {
        let connection = &origin.connection;
        let request = local::Request {
            connection,
            ids,
            xid: origin.xid,
            op,
            body,
        };
        // Not straight into the outbox: answering may need the lock of the watches, which comes
        // before that of an outbox.
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        local::answer(&self.service, tree, &request, &mut scratch);
        self.answer(origin, |out| out.extend_from_slice(&scratch));
        scratch.shrink_to(KEPT_CAPACITY);
        self.scratch = scratch;
    }

    /// Applies a transaction and answers it: `claim` tells to whom.
    pub(super) fn apply_record<O: std::borrow::Borrow<Origin>>(
        &mut self,
        tree: &mut Tree,
        body: &[u8],
        claim: impl FnOnce(&TxnHeader) -> Option<(O, OpCode)>,
    ) -> Result<(), ServerError> {
        let entry = TxnEntry::from_slice(body).map_err(ServerError::OwnRecord)?;
        let applied = self.apply_entry(tree, &entry);
        self.tally.zxid = tree.last_zxid();
        if let Some((origin, op)) = claim(&entry.header) {
            let origin = origin.borrow();
            if has_moved(&applied) {
                // Its client is elsewhere, and would not know what to make of an answer.
                self.abandon(origin);
            } else {
                self.answer(origin, |out| reply(out, &entry, op, &applied, origin));
            }
        }
        if matches!(entry.txn, Txn::CloseSession(_)) {
            self.service
                .connections
                .close_session(entry.header.session_id);
        }
        Ok(())
    }

    fn apply_entry(&mut self, tree: &mut Tree, entry: &TxnEntry<'_>) -> Applied {
        let mut watches = self.service.watches.lock();
        let mut dispatcher = Dispatcher {
            skip_acl: self.service.config.skip_acl,
            watches: &mut watches,
            zxid: entry.header.zxid,
            frame: &mut self.scratch,
            filled: &mut self.filled,
        };
        let applied = tree.apply(&entry.header, &entry.txn, &mut dispatcher);
        drop(watches);
        self.check_digest(tree, entry);
        applied
    }

    /// The digest was computed from the pending changes; the tree must have come to the same.
    fn check_digest(&self, tree: &Tree, entry: &TxnEntry<'_>) {
        if let Some(digest) = entry.digest
            && digest != tree.digest()
        {
            self.service.stats.digest_mismatches.fetch_add(1, Relaxed);
            let zxid = format_args!("{:#x}", entry.header.zxid);
            tracing::error!(%zxid, "the tree's digest is not the one the transaction carries");
        }
    }
}

/// Hands watch events to the connections that wait for them.
struct Dispatcher<'a> {
    /// Whoever may read everything hears of everything, too.
    skip_acl: bool,
    watches: &'a mut Watches<Arc<Connection>>,
    zxid: i64,
    /// The event's frame: encoded once for all who hear of it.
    frame: &'a mut Vec<u8>,
    filled: &'a mut Vec<Arc<Connection>>,
}

impl Observer for Dispatcher<'_> {
    fn changed(&mut self, event: EventType, path: &str, acl: &AclList) {
        self.frame.clear();
        let public = self.skip_acl || acl.permits(Perms::READ, &[]);
        self.watches.fire(event, path, |connection| {
            if self.frame.is_empty() {
                encode_event(self.frame, self.zxid, event, path);
            }
            let permitted = public || acl.permits(Perms::READ, &connection.ids());
            if permitted && connection.notify(self.frame) {
                self.filled.push(Arc::clone(connection));
            }
        });
    }
}

/// Appends the frame of a watch event.
pub(crate) fn encode_event(out: &mut Vec<u8>, zxid: i64, event: EventType, path: &str) {
    frame::write(out, |out| {
        ReplyHeader {
            xid: xid::NOTIFICATION,
            zxid,
            err: ErrorCode::OK,
        }
        .encode(out);
        WatcherEvent::new(event, path).encode(out);
    });
}

/// Appends the answer to a write.
fn reply(out: &mut Vec<u8>, entry: &TxnEntry<'_>, op: OpCode, applied: &Applied, origin: &Origin) {
    if let Txn::CreateSession(session) = &entry.txn {
        return accept(
            out,
            &origin.connection,
            entry.header.session_id,
            session.timeout,
        );
    }
    let err = match applied {
        Applied::Failed(err) => *err,
        _ => ErrorCode::OK,
    };
    frame::write(out, |out| {
        ReplyHeader {
            xid: origin.xid,
            zxid: entry.header.zxid,
            err,
        }
        .encode(out);
        match (&entry.txn, applied) {
            (Txn::Multi(parts), Applied::Multi(applied)) => {
                let results = parts
                    .iter()
                    .zip(applied)
                    .map(|(part, applied)| result(part, applied));
                MultiResponse {
                    results: results.collect(),
                }
                .encode(out);
            }
            (Txn::Reconfig(txn), Applied::Stat(stat)) => {
                txn.data.encode(out);
                stat.encode(out);
            }
            (_, Applied::Stat(stat)) => match created_path(&entry.txn) {
                Some(path) if op == OpCode::Create => CreateResponse { path }.encode(out),
                Some(path) => Create2Response { path, stat: *stat }.encode(out),
                None => StatResponse { stat: *stat }.encode(out),
            },
            _ => {}
        }
    });
}

/// Was it refused because its session is at another server now?
fn has_moved(applied: &Applied) -> bool {
    match applied {
        Applied::Failed(err) => *err == ErrorCode::SESSION_MOVED,
        Applied::Multi(parts) => parts.iter().any(has_moved),
        _ => false,
    }
}

/// Appends the answer to a connection whose session is not there.
pub(crate) fn refuse_session(out: &mut Vec<u8>, connection: &Connection) {
    let response = ConnectResponse {
        protocol_version: 0,
        timeout: 0,
        session_id: 0,
        password: Some(&[0; PASSWORD_SIZE]),
        read_only: connection.knows_read_only().then_some(false),
    };
    frame::write(out, |out| response.encode(out));
}

/// Appends the answer to a connection that has got its session.
pub(crate) fn accept(out: &mut Vec<u8>, connection: &Connection, session_id: i64, timeout: i32) {
    let password = password(session_id);
    let response = ConnectResponse {
        protocol_version: 0,
        timeout,
        session_id,
        password: Some(&password),
        read_only: connection
            .knows_read_only()
            .then(|| connection.is_read_only()),
    };
    frame::write(out, |out| response.encode(out));
}

fn created_path<'a>(txn: &Txn<'a>) -> Option<&'a str> {
    match txn {
        Txn::Create(txn) | Txn::Create2(txn) => Some(txn.path),
        Txn::CreateContainer(txn) => Some(txn.path),
        Txn::CreateTtl(txn) => Some(txn.path),
        _ => None,
    }
}

/// The result of one operation of a multi.
fn result<'a>(part: &Txn<'a>, applied: &Applied) -> MultiResult<'a> {
    match (applied, created_path(part)) {
        (Applied::Failed(err), _) => MultiResult::Error(*err),
        (Applied::Stat(_), Some(path)) if part.op() == OpCode::Create => {
            MultiResult::Create(CreateResponse { path })
        }
        (Applied::Stat(stat), Some(path)) => {
            MultiResult::Create2(Create2Response { path, stat: *stat })
        }
        (Applied::Stat(stat), None) => MultiResult::SetData(StatResponse { stat: *stat }),
        _ if part.op() == OpCode::Check => MultiResult::Check,
        _ => MultiResult::Delete,
    }
}
