//! The task of one connection: handshake, requests in, answers out.
//!
//! Reads are answered on the spot, as long as nothing of the connection is queued for the
//! log; from then on every request goes through that queue, which keeps the order, until the last
//! of them is answered.

mod handshake;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_proto::jute::{Decode, Encode, Reader};
use quorate_proto::{
    AuthPacket, ErrorCode, Id, OpCode, ReplyHeader, RequestHeader, SaslToken, frame,
};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use self::handshake::Handshake;
use super::connection::{Connection, End, KEPT_CAPACITY, UNREAD_LIMIT};
use super::{auth, local};
use crate::service::{LazyTree, Origin, Queue, Service, wall_clock};
use crate::tree::Tree;
use crate::txn::{Requester, is_write};

/// Bytes read from a socket at once.
const READ_SIZE: usize = 256 << 10;
/// Answers that may wait for a client to read them before more of its requests are looked at.
const OUTPUT_LIMIT: usize = 1 << 20;
/// Requests of one connection that wait behind its writes at most: their answers, which may be
/// large, all come at once.
const WAITING_LIMIT: usize = 16;
/// Turns of one connection before others get theirs.
const TURNS: usize = 32;
/// A client that has all its answers, and asks nothing for so long, is not about to.
const QUIET: Duration = Duration::from_millis(10);

thread_local! {
    /// Where sockets are read into: connections share it, so that an idle one holds no buffer.
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// Why a connection ends before its client ends it.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("opcode {0} is not one that clients may send")]
    Opcode(i32),
    #[error("its session has moved to another server")]
    Moved,
    #[error("no handshake within {0:?}")]
    Silent(Duration),
    #[error("it leaves {0} bytes unread")]
    Deaf(usize),
}

/// Serves one connection to its end.
pub(super) async fn serve(service: Arc<Service>, connection: Arc<Connection>, stream: TcpStream) {
    let presence = Presence {
        service: Arc::clone(&service),
        connection: Arc::clone(&connection),
    };
    let address = connection.address();
    let outcome = Handler::new(service, connection, stream).run().await;
    drop(presence);
    match outcome {
        Ok(()) => tracing::debug!(%address, "connection closed"),
        Err(Fault::Io(error)) => tracing::debug!(%address, %error, "connection lost"),
        Err(fault @ Fault::Moved) => tracing::debug!(%address, %fault, "connection closed"),
        Err(fault) => {
            tracing::warn!(%address, error = %fault, "connection closed: its client misbehaves");
        }
    }
}

/// A connection among those of the service: it leaves when its task ends, be it by a panic.
struct Presence {
    service: Arc<Service>,
    connection: Arc<Connection>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut watches = self.service.watches.lock();
        // What is still queued may be answered later, and must not watch anything then.
        self.connection.leave();
        watches.remove_watcher(self.connection.id());
        drop(watches);
        if let Some(session) = self.service.connections.remove(&self.connection) {
            self.service.left(session);
        }
    }
}

struct Handler {
    service: Arc<Service>,
    connection: Arc<Connection>,
    stream: TcpStream,
    /// Input that makes no whole frame yet, or has to wait.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of the output that are sent.
    sent: usize,
    /// Requests that are queued and not answered yet.
    in_flight: usize,
    /// Requests without a transaction among them, counted since there were none at all.
    waiting: usize,
    /// No more requests are taken; the connection ends when everything is sent.
    closing: bool,
    /// The connection ends when its client is [quiet](QUIET).
    leaving: bool,
    /// The client sends no more.
    ended: bool,
    /// The answer to a request that ends the connection: it comes behind all others.
    last_words: Option<ReplyHeader>,
    fault: Option<Fault>,
}

impl Handler {
    fn new(service: Arc<Service>, connection: Arc<Connection>, stream: TcpStream) -> Self {
        Handler {
            service,
            connection,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            in_flight: 0,
            waiting: 0,
            closing: false,
            leaving: false,
            ended: false,
            last_words: None,
            fault: None,
        }
    }

    async fn run(&mut self) -> Result<(), Fault> {
        let patience = self.service.config.sessionless_cnxn_timeout;
        match timeout(patience, self.handshake()).await {
            Ok(Ok(Handshake::Accepted)) => self.serve_requests().await,
            Ok(Ok(Handshake::Over)) => self.finish().await,
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Silent(patience)),
        }
    }

    async fn serve_requests(&mut self) -> Result<(), Fault> {
        self.take_input();
        loop {
            let mut turns = 0;
            while turns < TURNS && self.turn()? {
                turns += 1;
            }
            if self.is_over() {
                return self.finish().await;
            }
            if turns == TURNS {
                yield_now().await;
                continue;
            }
            self.release_buffers();
            let interest = match (self.wants_input(), self.sent < self.output.len()) {
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (true, false) => Interest::READABLE,
                (false, true) => Interest::WRITABLE,
                // Errors, and the end of the connection, are reported all the same.
                (false, false) => Interest::ERROR,
            };
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    if ready?.is_error() {
                        let error = self.stream.take_error()?;
                        return Err(error.unwrap_or(io::ErrorKind::ConnectionReset.into()).into());
                    }
                }
                () = self.connection.filled() => {}
                () = sleep(QUIET), if self.leaving && self.in_flight == 0 => {
                    return self.finish().await;
                }
            }
        }
    }

    /// Does whatever can be done without waiting; false if that is nothing.
    fn turn(&mut self) -> Result<bool, Fault> {
        let had = self.output.len();
        self.drain_outbox();
        let mut progress = self.output.len() != had;
        progress |= self.send()?;
        if progress && self.unread() > UNREAD_LIMIT {
            return Err(Fault::Deaf(self.unread()));
        }
        if self.wants_input() {
            // What had to wait may go on now; only then is more read.
            progress |= self.take_input();
            if self.wants_input() {
                progress |= self.read()?;
            }
            progress |= self.send()?;
        }
        Ok(progress)
    }

    /// Everything is answered and sent, and nothing more will be asked.
    fn is_over(&self) -> bool {
        (self.closing || self.ended) && self.in_flight == 0
    }

    /// Sends the rest, within bounds, and ends.
    async fn finish(&mut self) -> Result<(), Fault> {
        self.drain_outbox();
        if let Some(reply) = self.last_words.take() {
            frame::write(&mut self.output, |out| reply.encode(out));
        }
        let send = async {
            while self.sent < self.output.len() {
                if !self.send()? {
                    self.stream.writable().await?;
                }
            }
            Ok::<_, Fault>(())
        };
        match timeout(Duration::from_secs(5), send).await {
            Ok(sent) => sent?,
            Err(_) => return Ok(()),
        }
        self.fault.take().map_or(Ok(()), Err)
    }

    fn drain_outbox(&mut self) {
        let drained = self.connection.drain(&mut self.output);
        self.in_flight = self.in_flight.saturating_sub(drained.answers);
        match drained.end {
            End::None => {}
            End::Leaving => self.leaving = true,
            End::Draining => self.closing = true,
            End::Closed => {
                // Nobody will answer what is still under way.
                self.closing = true;
                self.in_flight = 0;
            }
        }
        if self.in_flight == 0 {
            self.waiting = 0;
        }
    }

    /// May more requests be taken? Not while the client does not read its answers, nor while the
    /// server has no leader: not even a ping is answered then, so that clients go elsewhere when
    /// they have waited for long.
    fn wants_input(&self) -> bool {
        !self.closing
            && !self.ended
            && (self.service.is_open() || self.connection.is_read_only())
            && self.has_room_for_answers()
            && self.may_enqueue(0)
    }

    fn has_room_for_answers(&self) -> bool {
        self.unread() < OUTPUT_LIMIT
    }

    /// Bytes of answers and events that the client has not taken yet.
    fn unread(&self) -> usize {
        self.output.len() - self.sent
    }

    /// May one more request be queued, where `queued` are not counted yet? Not while the
    /// server is full and owes this client an answer anyway.
    fn may_enqueue(&self, queued: usize) -> bool {
        let limit = i64::from(self.service.config.global_outstanding_limit);
        let outstanding = self.service.stats.outstanding.load(Relaxed) + queued as i64;
        self.in_flight == 0 || (outstanding < limit && self.waiting < WAITING_LIMIT)
    }

    fn send(&mut self) -> Result<bool, Fault> {
        if self.sent == self.output.len() {
            return Ok(false);
        }
        match self.stream.try_write(&self.output[self.sent..]) {
            Ok(n) => {
                self.sent += n;
                // A client that always leaves a little must not make the buffer grow for ever.
                if self.sent >= self.unread() {
                    self.output.drain(..self.sent);
                    self.sent = 0;
                }
                Ok(n > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn release_buffers(&mut self) {
        if self.output.is_empty() && self.output.capacity() > KEPT_CAPACITY {
            self.output = Vec::new();
        }
        if self.input.is_empty() && self.input.capacity() > KEPT_CAPACITY {
            self.input = Vec::new();
        }
    }

    /// Reads what the socket has and takes the requests in it.
    fn read(&mut self) -> Result<bool, Fault> {
        INPUT.with_borrow_mut(|buffer| {
            let n = match self.stream.try_read(buffer) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if self.input.is_empty() {
                let taken = self.take(&buffer[..n]);
                self.input.extend_from_slice(&buffer[taken..n]);
            } else {
                self.input.extend_from_slice(&buffer[..n]);
                self.take_input();
            }
            Ok(true)
        })
    }

    /// Takes the requests in the input that had to wait; true if there were any.
    fn take_input(&mut self) -> bool {
        if self.input.is_empty() {
            return false;
        }
        let mut input = std::mem::take(&mut self.input);
        let taken = self.take(&input);
        input.drain(..taken);
        self.input = input;
        taken > 0
    }

    /// Takes the whole frames at the beginning of `input`, and answers how many bytes they were.
    fn take(&mut self, input: &[u8]) -> usize {
        let mut frames = Frames {
            input,
            at: 0,
            requests: 0,
            max: self.service.config.jute_max_buffer,
        };
        if self.in_flight == 0 {
            self.answer_reads(&mut frames);
        }
        let has_more = !self.closing && frames.has_next() && self.has_room_for_answers();
        if has_more && !self.connection.is_read_only() {
            self.enqueue(&mut frames);
        }
        if frames.requests > 0 {
            let counters = [
                &self.connection.stats.received,
                &self.service.stats.received,
            ];
            for counter in counters {
                counter.fetch_add(frames.requests, Relaxed);
            }
            if let Some(session) = self.connection.session() {
                session.touch(self.service.now());
            }
        }
        frames.at
    }

    /// Answers requests on the spot, under one hold of the tree's lock, up to the first that has to
    /// be queued.
    fn answer_reads(&mut self, frames: &mut Frames<'_>) {
        let service = Arc::clone(&self.service);
        let mut tree: Option<parking_lot::RwLockReadGuard<'_, Tree>> = None;
        let mut ids = None;
        let mut answered = 0;
        while !self.closing && self.has_room_for_answers() {
            let before = frames.at;
            let Some((header, body)) = self.next_request(frames) else {
                break;
            };
            let Some(op) = self.check_op(header) else {
                break;
            };
            if op == OpCode::Auth || op == OpCode::Sasl {
                self.authenticate(op, header, body);
                ids = None;
                if self.closing {
                    break;
                }
                continue;
            }
            if (!local::is_local(op) || op == OpCode::Sync) && self.connection.is_read_only() {
                let zxid = match &tree {
                    Some(tree) => tree.last_zxid(),
                    None => service.tree().last_zxid(),
                };
                self.refuse_write(op, header, zxid);
                continue;
            }
            if !local::is_local(op) || op == OpCode::Sync {
                frames.at = before;
                frames.requests -= 1;
                break;
            }
            let tree = tree.get_or_insert_with(|| {
                let tree = service.tree();
                // Under the lock, so that the events of what is now read go out first.
                self.drain_outbox();
                tree
            });
            let ids = ids.get_or_insert_with(|| self.connection.ids());
            let connection = &self.connection;
            let request = local::Request {
                connection,
                ids,
                xid: header.xid,
                op,
                body,
            };
            local::answer(&service, tree, &request, &mut self.output);
            self.note(op, header.xid);
            answered += 1;
        }
        if let Some(tree) = tree {
            self.connection
                .stats
                .last_zxid
                .store(tree.last_zxid(), Relaxed);
            drop(tree);
            self.count_answers(answered);
        }
    }

    /// A write, on a connection that only reads. Its end is none.
    fn refuse_write(&mut self, op: OpCode, header: RequestHeader, zxid: i64) {
        if !is_write(op) && !matches!(op, OpCode::Sync | OpCode::CloseSession) {
            return self.refuse_op(header);
        }
        let mut err = ErrorCode::NOT_READ_ONLY;
        if let (OpCode::CloseSession, Some(session)) = (op, self.connection.session()) {
            self.service.local_sessions.lock().remove(session.id());
            self.ended = true;
            err = ErrorCode::OK;
        }
        let xid = header.xid;
        let reply = ReplyHeader { xid, zxid, err };
        frame::write(&mut self.output, |out| reply.encode(out));
        self.count_answers(1);
    }

    fn count_answers(&self, answered: u64) {
        // Answered in the turn in which they were read: less than a millisecond.
        self.service.stats.latency.add(0, answered);
        let stats = &self.connection.stats;
        stats.latency.add(0, answered);
        stats.last_response.store(wall_clock(), Relaxed);
        stats.sent.fetch_add(answered, Relaxed);
        self.service.stats.sent.fetch_add(answered, Relaxed);
    }

    /// Queues requests, under one hold of the queue's lock.
    fn enqueue(&mut self, frames: &mut Frames<'_>) {
        let service = Arc::clone(&self.service);
        let time = wall_clock();
        let session = self.connection.session().map_or(0, |session| session.id());
        service.enqueue(|queue, tree| {
            // Under the lock: once the session has moved to another connection, what it asks there
            // must not be followed by what was asked here.
            self.drain_outbox();
            let before = self.in_flight;
            let mut ids = self.connection.ids();
            if let Some(session) = self.connection.session()
                && self.service.has_moved(queue, session)
            {
                return self.close(Fault::Moved);
            }
            while !self.closing && queue.is_open() && self.may_enqueue(self.in_flight - before) {
                let Some((header, body)) = self.next_request(frames) else {
                    break;
                };
                let Some(op) = self.check_op(header) else {
                    break;
                };
                if op == OpCode::Auth || op == OpCode::Sasl {
                    self.authenticate(op, header, body);
                    ids = self.connection.ids();
                    continue;
                }
                let requester = Requester {
                    session,
                    cxid: header.xid,
                    ids: &ids,
                    time,
                    local: self
                        .connection
                        .session()
                        .is_some_and(|session| session.is_local()),
                };
                self.push(queue, tree, requester, op, body, &ids);
            }
            // Before any of it can be answered.
            let queued = self.in_flight - before;
            service.stats.outstanding.fetch_add(queued as i64, Relaxed);
        });
    }

    fn push(
        &mut self,
        queue: &mut Queue,
        tree: &LazyTree<'_>,
        requester: Requester<'_>,
        op: OpCode,
        body: &[u8],
        ids: &Arc<[Id<'static>]>,
    ) {
        let origin = self.origin(requester.cxid, requester.session);
        match op {
            _ if local::is_local(op) => {
                queue.push_local(op, body, ids, origin, self.in_flight > 0);
                self.waiting += 1;
            }
            OpCode::CloseSession if requester.local => {
                self.service.local_sessions.lock().remove(requester.session);
                queue.push_local(op, &[], ids, origin, false);
                self.ended = true;
            }
            OpCode::CloseSession => {
                self.service.sessions.lock().remove(requester.session);
                queue.push_close(tree, requester, origin);
                // What follows the end of a session is not looked at.
                self.ended = true;
            }
            _ if is_write(op) => self.push_write(queue, tree, requester, (op, body), ids, origin),
            _ => {
                return self.refuse_op(RequestHeader {
                    xid: requester.cxid,
                    op: op.number(),
                });
            }
        }
        self.in_flight += 1;
        self.note(op, requester.cxid);
    }

    fn push_write(
        &self,
        queue: &mut Queue,
        tree: &LazyTree<'_>,
        mut requester: Requester<'_>,
        (op, body): (OpCode, &[u8]),
        ids: &Arc<[Id<'static>]>,
        origin: Origin,
    ) {
        if let Some(session) = self.connection.session().filter(|_| requester.local) {
            let upgraded = self.service.upgrade_for(queue, tree, session, (op, body));
            if let Err(err) = upgraded {
                return queue.refuse(err, origin);
            }
            requester.local = session.is_local();
        }
        queue.push_write(tree, requester, op, body, ids, origin);
    }

    fn next_request<'a>(&mut self, frames: &mut Frames<'a>) -> Option<(RequestHeader, &'a [u8])> {
        if self.ended {
            return None;
        }
        match frames.next_request() {
            Ok(request) => request,
            Err(fault) => {
                self.close(fault);
                None
            }
        }
    }

    fn note(&self, op: OpCode, xid: i32) {
        self.connection.stats.last_op.store(op.number(), Relaxed);
        if xid >= 0 {
            self.connection.stats.last_cxid.store(xid.into(), Relaxed);
        }
    }

    fn origin(&self, xid: i32, session: i64) -> Origin {
        let connection = Arc::clone(&self.connection);
        Origin {
            connection,
            session,
            xid,
            received: self.service.now(),
        }
    }

    /// Credentials are looked at when they are read, outside the order of the other requests.
    fn authenticate(&mut self, op: OpCode, header: RequestHeader, body: &[u8]) {
        let proved = match AuthPacket::from_slice(body) {
            Ok(packet) if op == OpCode::Auth => {
                auth::authenticate(&self.service.config, &self.connection, &packet)
            }
            Err(_) if op == OpCode::Auth => {
                return self.close(Fault::Protocol("a credential that cannot be decoded"));
            }
            _ => false,
        };
        let err = if proved {
            ErrorCode::OK
        } else {
            ErrorCode::AUTH_FAILED
        };
        frame::write(&mut self.output, |out| {
            ReplyHeader {
                xid: header.xid,
                zxid: 0,
                err,
            }
            .encode(out);
            if op == OpCode::Sasl {
                SaslToken { token: None }.encode(out);
            }
        });
        for counter in [&self.connection.stats.sent, &self.service.stats.sent] {
            counter.fetch_add(1, Relaxed);
        }
        if !proved {
            self.close(Fault::Protocol("authentication failed"));
        }
    }

    /// What the request asks for, unless that is refused out of hand.
    fn check_op(&mut self, header: RequestHeader) -> Option<OpCode> {
        let Ok(op) = OpCode::try_from(header.op) else {
            self.refuse_op(header);
            return None;
        };
        let config = &self.service.config;
        let authenticates = matches!(op, OpCode::Auth | OpCode::Sasl);
        if config.enforce_auth_enabled
            && !authenticates
            && !self.connection.ids().iter().any(|id| {
                config
                    .enforce_auth_schemes
                    .iter()
                    .any(|scheme| *scheme == id.scheme)
            })
        {
            let err = ErrorCode::SESSION_CLOSED_REQUIRE_SASL_AUTH;
            self.refuse(ReplyHeader {
                xid: header.xid,
                zxid: 0,
                err,
            });
            self.close(Fault::Protocol(
                "no credential of a scheme that is required",
            ));
            return None;
        }
        Some(op)
    }

    fn refuse_op(&mut self, header: RequestHeader) {
        let err = ErrorCode::UNIMPLEMENTED;
        self.refuse(ReplyHeader {
            xid: header.xid,
            zxid: -1,
            err,
        });
        self.close(Fault::Opcode(header.op));
    }

    fn refuse(&mut self, reply: ReplyHeader) {
        self.last_words = Some(reply);
    }

    fn close(&mut self, fault: Fault) {
        self.closing = true;
        self.fault.get_or_insert(fault);
    }
}

/// The frames of an input.
struct Frames<'a> {
    input: &'a [u8],
    /// Requests among the bytes in front of `at`.
    requests: u64,
    /// Where the next one begins.
    at: usize,
    max: usize,
}

impl<'a> Frames<'a> {
    /// Is there a whole frame, or one that cannot be taken?
    fn has_next(&self) -> bool {
        !matches!(frame::split(&self.input[self.at..], self.max), Ok(None))
    }

    fn next_request(&mut self) -> Result<Option<(RequestHeader, &'a [u8])>, Fault> {
        let Some(frame) = frame::split(&self.input[self.at..], self.max)? else {
            return Ok(None);
        };
        self.at += frame::LENGTH_SIZE + frame.len();
        let mut reader = Reader::new(frame);
        let header = reader
            .read()
            .map_err(|_| Fault::Protocol("a frame too short for a request"))?;
        self.requests += 1;
        Ok(Some((header, reader.remaining())))
    }
}
