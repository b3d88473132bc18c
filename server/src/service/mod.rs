//! The running service: everything that connections share, and the one path that writes take.
//!
//! A connection checks and numbers its own writes under the lock of the [`queue`], and answers its
//! own reads under the shared lock of the tree. One thread, the [`logger`], takes what has queued
//! up and makes it durable with one sync; another, the [`applier`], applies it under the exclusive
//! lock of the tree, and answers. A server that stands alone is an ensemble of one: what is durable
//! here is durable on a quorum, and so committed.
//!
//! Locks are taken in this order: queue, tree, watches, a connection's outbox.

mod applier;
mod chores;
mod logger;
mod member;
mod queue;
mod snapshot;
mod stats;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use quorate_proto::OpCode;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::ServerError;
use crate::net::{Connection, Connections};
use crate::session::{SessionIds, Tracker};
use crate::tree::{Tree, Watches};
use crate::txn::{Internal, Preparer, Requester, Rules};

pub(crate) use applier::encode_event;
pub(crate) use chores::Chores;
pub(crate) use logger::Logger;
#[allow(unused_imports, reason = "the driver of Zab is on its way")]
pub(crate) use member::{Outlet, Proposals};
pub(crate) use queue::{Origin, Queue};
pub(crate) use snapshot::Snapshots;
pub(crate) use stats::{Latency, Stats};

/// What a server is doing.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Requests are taken.
    Serving,
    /// No more requests are taken; those in work come to their end.
    Draining,
    /// Over, and why if nobody asked for it.
    Stopped(Option<Arc<ServerError>>),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Config,
    tree: RwLock<Tree>,
    pub(crate) watches: Mutex<Watches<Arc<Connection>>>,
    pub(crate) sessions: Mutex<Tracker>,
    session_ids: SessionIds,
    queue: Mutex<Queue>,
    /// Tells the logger that something is queued.
    filled: Condvar,
    pub(crate) connections: Connections,
    pub(crate) stats: Stats,
    phase: watch::Sender<Phase>,
    started: Instant,
}

impl Service {
    pub(crate) fn new(config: Config, tree: Tree) -> Self {
        let rules = Rules {
            skip_acl: config.skip_acl,
            ttl_nodes: config.extended_types_enabled,
            enforce_quota: config.enforce_quota,
            digest: config.digest_enabled,
            list_ephemerals: config.close_session_txn_enabled,
            reconfig: config.reconfig_enabled,
            digest_scheme: config.digest_auth_enabled,
        };
        let started = Instant::now();
        let mut sessions = Tracker::new(millis(config.tick_time));
        for (id, timeout) in tree.sessions() {
            sessions.track(id, timeout.max(0).cast_unsigned(), 0);
        }
        Service {
            session_ids: SessionIds::new(session_server_id(&config), wall_clock().cast_unsigned()),
            queue: Mutex::new(Queue::new(Preparer::new(&tree, rules))),
            filled: Condvar::new(),
            tree: RwLock::new(tree),
            watches: Mutex::default(),
            sessions: Mutex::new(sessions),
            connections: Connections::default(),
            stats: Stats::default(),
            phase: watch::Sender::new(Phase::Serving),
            started,
            config,
        }
    }

    /// The committed state.
    pub(crate) fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read()
    }

    /// Milliseconds since the start, from a clock that does not jump.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Follows what the server is doing.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn is_serving(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Serving)
    }

    /// Takes no more requests and lets those in work come to their end.
    pub(crate) fn drain(&self) {
        self.phase.send_if_modified(|phase| {
            let serving = matches!(phase, Phase::Serving);
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
        self.connections.drain_all();
        self.queue.lock().stop();
        self.filled.notify_one();
    }

    /// The server is over. Called by the logger, behind the last thing that it does.
    fn stopped(&self, cause: Option<ServerError>) {
        self.queue.lock().stop();
        self.phase.send_replace(Phase::Stopped(cause.map(Arc::new)));
        self.connections.close_all();
    }

    /// An id for a new session.
    pub(crate) fn next_session(&self) -> i64 {
        self.session_ids.next()
    }

    /// The timeout that a client which asks for `millis` gets.
    pub(crate) fn negotiate(&self, requested: i32) -> i32 {
        let bounds = self.config.session_timeouts();
        let bound = |limit| i32::try_from(millis(limit)).unwrap_or(i32::MAX);
        requested
            .max(bound(*bounds.start()))
            .min(bound(*bounds.end()))
    }

    /// Opens a session for a connection that waits for it.
    pub(crate) fn open_session(&self, session: i64, timeout: i32, origin: Origin) {
        self.stats.outstanding.fetch_add(1, Relaxed);
        self.sessions
            .lock()
            .track(session, timeout.max(0).cast_unsigned(), self.now());
        self.submit(
            session,
            Some(origin),
            OpCode::CreateSession,
            Internal::CreateSession(timeout),
        );
    }

    /// Answers a connection that resumes a session, once everything is done that the session asked
    /// on another: it reads what it wrote.
    pub(crate) fn resume_session(&self, session: i64, timeout: i32, origin: Origin) {
        self.stats.outstanding.fetch_add(1, Relaxed);
        self.enqueue(|queue, _| queue.push_resumed(session, timeout, origin));
    }

    /// Ends a session that has expired, or that nobody owns.
    pub(crate) fn expire_session(&self, session: i64) {
        self.submit(session, None, OpCode::CloseSession, Internal::CloseSession);
    }

    /// Reaps a container or an expired TTL node, unless it has got a child meanwhile.
    fn reap(&self, path: &str) {
        self.submit(
            0,
            None,
            OpCode::DeleteContainer,
            Internal::DeleteContainer(path),
        );
    }

    fn submit(&self, session: i64, origin: Option<Origin>, op: OpCode, write: Internal<'_>) {
        let requester = Requester {
            session,
            cxid: origin.as_ref().map_or(0, |origin| origin.xid),
            ids: &[],
            time: wall_clock(),
        };
        let mut queue = self.queue.lock();
        queue.push_internal(&self.tree.read(), requester, origin, op, write);
        self.wake_logger(&mut queue);
    }

    /// Lets `fill` queue requests: the queue is locked once for all of them.
    pub(crate) fn enqueue<R>(&self, fill: impl FnOnce(&mut Queue, &Tree) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = fill(&mut queue, &self.tree.read());
        self.wake_logger(&mut queue);
        result
    }

    fn wake_logger(&self, queue: &mut Queue) {
        if queue.wants_logger() {
            self.filled.notify_one();
        }
    }
}

/// Session ids of a server that stands alone carry the number 1.
fn session_server_id(config: &Config) -> i64 {
    config
        .ensemble
        .as_ref()
        .map_or(1, |ensemble| ensemble.my_id)
}

/// Milliseconds since 1970.
pub(crate) fn wall_clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
