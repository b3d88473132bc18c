//! A client's connection as the rest of the server sees it: who is at the other end, and the
//! outbox in which the answers to queued requests and the watch events collect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use quorate_proto::Id;
use tokio::sync::Notify;

use crate::service::{Latency, wall_clock};
use crate::session::Session;

/// A client that does not read what it is sent is given up at this many bytes.
pub(super) const UNREAD_LIMIT: usize = 64 << 20;
/// Bytes of all identities of a client: each request is checked against them, and an ACL entry of
/// the scheme `auth` stands for as much.
const IDS_LIMIT: usize = 64 << 10;
/// A buffer of more bytes is not kept for the next use.
pub(super) const KEPT_CAPACITY: usize = 16 << 10;

/// Numbers about a connection, for operators.
#[derive(Debug, Default)]
pub(crate) struct ConnectionStats {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// The last opcode.
    pub(crate) last_op: AtomicI32,
    pub(crate) last_cxid: AtomicI64,
    pub(crate) last_zxid: AtomicI64,
    /// Milliseconds since 1970.
    pub(crate) last_response: AtomicI64,
    pub(crate) latency: Latency,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Answers among the bytes to queued requests.
    answers: usize,
    end: End,
}

/// Is the connection to end?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum End {
    #[default]
    None,
    /// Once its client asks for nothing.
    Leaving,
    /// Once what was asked so far is answered and sent.
    Draining,
    /// Once what is in the outbox is sent; nothing more will be answered.
    Closed,
}

/// What was taken out of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drained {
    pub(super) answers: usize,
    pub(super) end: End,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    address: SocketAddr,
    /// When it was accepted, milliseconds since 1970.
    pub(crate) established: i64,
    outbox: Mutex<Outbox>,
    /// True while the outbox holds something: spares a look at it before every read.
    filled: AtomicBool,
    wake: Notify,
    ids: Mutex<Arc<[Id<'static>]>>,
    /// The session that it has asked for.
    attached: OnceLock<i64>,
    session: OnceLock<Arc<Session>>,
    knows_read_only: AtomicBool,
    read_only: AtomicBool,
    gone: AtomicBool,
    pub(crate) stats: ConnectionStats,
}

impl Connection {
    pub(super) fn new(id: u64, address: SocketAddr) -> Self {
        let stats = ConnectionStats::default();
        stats.last_cxid.store(-1, Ordering::Relaxed);
        Connection {
            id,
            address,
            established: wall_clock(),
            outbox: Mutex::default(),
            filled: AtomicBool::new(false),
            wake: Notify::new(),
            ids: Mutex::new(Arc::from([Id::new("ip", address.ip().to_string())])),
            attached: OnceLock::new(),
            session: OnceLock::new(),
            knows_read_only: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            stats,
        }
    }

    /// Unique among the connections of this server.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The identities proved so far.
    pub(crate) fn ids(&self) -> Arc<[Id<'static>]> {
        Arc::clone(&self.ids.lock())
    }

    /// Adds an identity; false if that were too many.
    pub(super) fn add_id(&self, id: Id<'static>) -> bool {
        let mut ids = self.ids.lock();
        if ids.contains(&id) {
            return true;
        }
        let with_it = ids.iter().chain([&id]);
        let size: usize = with_it.map(|id| id.scheme.len() + id.id.len()).sum();
        if size <= IDS_LIMIT {
            *ids = ids.iter().cloned().chain([id]).collect();
        }
        size <= IDS_LIMIT
    }

    /// The session, once there is one.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.session.get()
    }

    /// The session that it has asked for.
    pub(super) fn attached(&self) -> Option<i64> {
        self.attached.get().copied()
    }

    /// It asks for a session, one at most.
    pub(super) fn attach(&self, session: i64) {
        self.attached.get_or_init(|| session);
    }

    /// A connection has one session at most.
    pub(super) fn set_session(&self, session: Arc<Session>) {
        self.session.get_or_init(|| session);
    }

    /// Did the client's handshake have the read-only flag, so that the answer has to have it too?
    pub(crate) fn knows_read_only(&self) -> bool {
        self.knows_read_only.load(Ordering::Relaxed)
    }

    pub(super) fn set_knows_read_only(&self) {
        self.knows_read_only.store(true, Ordering::Relaxed);
    }

    /// Is it one that only reads, on a server without a leader?
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    pub(super) fn set_read_only(&self) {
        self.read_only.store(true, Ordering::Relaxed);
    }

    /// Has its task ended? Certain only under the lock of the watches.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Its task ends. To be called under the lock of the watches.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Adds the answer to a queued request. True if the connection has to
    /// be [woken](Connection::wake): once for all that is added until then.
    #[must_use]
    pub(crate) fn answer(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut outbox = self.outbox.lock();
        write(&mut outbox.bytes);
        outbox.answers += 1;
        self.fill(outbox)
    }

    /// Adds a watch event. True if the connection has to be [woken](Connection::wake).
    #[must_use]
    pub(crate) fn notify(&self, frame: &[u8]) -> bool {
        let mut outbox = self.outbox.lock();
        outbox.bytes.extend_from_slice(frame);
        self.fill(outbox)
    }

    fn fill(&self, mut outbox: parking_lot::MutexGuard<'_, Outbox>) -> bool {
        if outbox.bytes.len() > UNREAD_LIMIT {
            if outbox.end != End::Closed {
                tracing::warn!(address = %self.address, "closing a client that does not read");
            }
            outbox.end = End::Closed;
            outbox.bytes = Vec::new();
        }
        !self.filled.swap(true, Ordering::AcqRel)
    }

    /// Lets the connection's task look into the outbox.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Closes the connection once everything in the outbox is sent.
    pub(crate) fn close(&self) {
        self.end(End::Closed);
    }

    /// Closes the connection as soon as its client asks for nothing.
    pub(crate) fn take_leave(&self) {
        self.end(End::Leaving);
    }

    /// Takes no more requests, and closes the connection once all of them are answered.
    pub(crate) fn drain_requests(&self) {
        self.end(End::Draining);
    }

    fn end(&self, end: End) {
        let mut outbox = self.outbox.lock();
        outbox.end = outbox.end.max(end);
        drop(outbox);
        self.nudge();
    }

    /// Lets the connection's task look into the outbox, and whether the server serves, even if there
    /// is nothing in it.
    pub(super) fn nudge(&self) {
        self.filled.store(true, Ordering::Release);
        self.wake();
    }

    /// Waits until the outbox holds something. Cancel safe.
    pub(super) async fn filled(&self) {
        while !self.filled.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }

    /// Moves what the outbox holds behind `out`.
    ///
    /// Called under the tree's lock it finds every event of what the tree shows, because events are
    /// put here before the lock of the change is released.
    pub(super) fn drain(&self, out: &mut Vec<u8>) -> Drained {
        if !self.filled.load(Ordering::Acquire) {
            return Drained {
                answers: 0,
                end: End::None,
            };
        }
        let mut outbox = self.outbox.lock();
        self.filled.store(false, Ordering::Release);
        if out.is_empty() {
            std::mem::swap(out, &mut outbox.bytes);
        } else {
            out.append(&mut outbox.bytes);
        }
        if outbox.bytes.capacity() > KEPT_CAPACITY {
            outbox.bytes = Vec::new();
        }
        Drained {
            answers: std::mem::take(&mut outbox.answers),
            end: outbox.end,
        }
    }
}
