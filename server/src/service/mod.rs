//! The running service: everything that connections share, and the one path that writes take.
//!
//! A connection checks and numbers its own writes under the lock of the [`queue`], and answers its
//! own reads under the shared lock of the tree. One thread, the [`logger`], takes what has queued
//! up and makes it durable with one sync; another, the [`applier`], applies it under the exclusive
//! lock of the tree, and answers. A server that stands alone is an ensemble of one: what is durable
//! here is durable on a quorum, and so committed.
//!
//! A [`member`] of an ensemble has another way from the queue to the tree. A leader's transactions
//! are proposed, and come back once they are committed; a learner sends writes to its leader, and
//! answers them when their transactions come. What has to wait for either waits in the [`gate`] of
//! the applier, and whoever changes the [`roles`] of a member passes by there. Between two leaders
//! requests stay where they are, and connections stay open: only those are closed whose writes are
//! under way, because nobody can tell what becomes of them.
//!
//! Locks are taken in this order: queue, tree, watches, a connection's outbox.

mod applier;
mod chores;
mod desk;
mod gate;
mod logger;
mod member;
mod queue;
mod roles;
mod snapshot;
mod stats;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use quorate_proto::{ErrorCode, OpCode};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use crate::config::Config;
use crate::error::ServerError;
use crate::net::{Connection, Connections, Reception};
use crate::session::{Session, SessionIds, Tracker};
use crate::tree::{Tree, Watches};
use crate::txn::{Internal, Preparer, Requester, Rules, makes_ephemerals};
use crate::zab::zxid_of;

pub(crate) use applier::{accept, encode_event, refuse_session};
pub(crate) use chores::Chores;
pub(crate) use logger::{End, Logger};
use member::Member;
#[allow(unused_imports, reason = "the driver of Zab is on its way")]
pub(crate) use member::{Outlet, Proposals};
use queue::Role;
pub(crate) use queue::{LazyTree, Origin, Queue};
use roles::Job;
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

/// What a server is to its clients, and to the other members of its ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It has no others.
    Standalone,
    /// Since this time it serves nobody, because it has no leader.
    Paused(Instant),
    /// It leads.
    Leading,
    /// It votes and follows.
    Following,
    /// It follows.
    Observing,
}

/// How a client is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Not at all.
    None,
    /// It may read what this server has, which may be old.
    ReadOnly,
    /// In every way.
    Full,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Standalone => "standalone",
            Mode::Paused(_) => "looking",
            Mode::Leading => "leader",
            Mode::Following => "follower",
            Mode::Observing => "observer",
        })
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Config,
    tree: RwLock<Tree>,
    pub(crate) watches: Mutex<Watches<Arc<Connection>>>,
    pub(crate) sessions: Mutex<Tracker>,
    /// Those that no other server knows.
    pub(crate) local_sessions: Mutex<Tracker>,
    session_ids: SessionIds,
    queue: Mutex<Queue>,
    /// Tells the logger that something is queued.
    filled: Condvar,
    pub(crate) connections: Connections,
    pub(crate) reception: Reception,
    pub(crate) stats: Stats,
    phase: watch::Sender<Phase>,
    mode: watch::Sender<Mode>,
    /// The mode is one that serves: spares connections a look at it.
    open: AtomicBool,
    /// Everything that was committed up to here is in the tree.
    floor: AtomicI64,
    /// Counts the trees that took the place of another.
    generation: AtomicU64,
    /// Told by a member whenever it has applied something.
    applied: Notify,
    member: OnceLock<Member>,
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
        let alone = config.ensemble.is_none();
        let (role, mode) = if alone {
            let (epoch, preparer) = (0, Preparer::new(&tree, rules.clone()));
            (Role::Leading { epoch, preparer }, Mode::Standalone)
        } else {
            (Role::Paused, Mode::Paused(started))
        };
        let mut sessions = Tracker::new(millis(config.tick_time));
        for (id, timeout) in tree.sessions() {
            sessions.track(id, timeout.max(0).cast_unsigned(), 0);
        }
        Service {
            session_ids: SessionIds::new(session_server_id(&config), wall_clock().cast_unsigned()),
            queue: Mutex::new(Queue::new(rules, role)),
            filled: Condvar::new(),
            tree: RwLock::new(tree),
            watches: Mutex::default(),
            sessions: Mutex::new(sessions),
            local_sessions: Mutex::new(Tracker::new(millis(config.tick_time))),
            connections: Connections::default(),
            reception: Reception::default(),
            stats: Stats::default(),
            phase: watch::Sender::new(Phase::Serving),
            mode: watch::Sender::new(mode),
            open: AtomicBool::new(alone),
            floor: AtomicI64::new(0),
            generation: AtomicU64::new(0),
            applied: Notify::new(),
            member: OnceLock::new(),
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

    /// Changes whenever another tree takes the place of the last; to be asked under its lock.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Follows what the server is doing.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Does it take connections, be it that they have to wait?
    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Serving)
    }

    /// Does it take requests?
    pub(crate) fn is_serving(&self) -> bool {
        self.is_open() && self.is_running()
    }

    /// Does it take requests, unless it is about to stop?
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// What it is to others.
    pub(crate) fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Follows what it is to others.
    pub(crate) fn follow_mode(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    /// Does it decide what expires, and when?
    fn decides(&self) -> bool {
        matches!(self.mode(), Mode::Standalone | Mode::Leading)
    }

    fn set_mode(&self, mode: Mode) {
        self.open.store(self.serves_clients(mode), Relaxed);
        self.mode.send_replace(mode);
    }

    fn serves_clients(&self, mode: Mode) -> bool {
        match mode {
            Mode::Paused(_) => false,
            Mode::Leading => self.config.leader_serves,
            Mode::Standalone | Mode::Following | Mode::Observing => true,
        }
    }

    /// Waits until clients are served, and answers how. A change of leader takes less time than a
    /// client needs to come back, so that it may wait here; beyond a tick this server may be cut
    /// off, and others not. A client that is content to read may be served by then.
    pub(crate) async fn admits(&self, content_to_read: bool) -> Admission {
        let mut mode = self.mode.subscribe();
        let reads = content_to_read && self.config.read_only_mode_enabled;
        while self.is_running() {
            let now = *mode.borrow_and_update();
            let Mode::Paused(since) = now else {
                return match self.serves_clients(now) {
                    true => Admission::Full,
                    false => Admission::None,
                };
            };
            let patience = match reads {
                true => self.read_only_delay(),
                false => self.config.tick_time,
            };
            if timeout_at((since + patience).into(), mode.changed())
                .await
                .is_err()
            {
                return match reads {
                    true => Admission::ReadOnly,
                    false => Admission::None,
                };
            }
        }
        Admission::None
    }

    /// How long a server is without a leader before it serves reads all the same.
    fn read_only_delay(&self) -> Duration {
        self.config.tick_time.max(Duration::from_secs(2))
    }

    /// Is it without a leader, and serves reads all the same?
    pub(crate) fn is_read_only(&self) -> bool {
        let Mode::Paused(since) = self.mode() else {
            return false;
        };
        self.config.read_only_mode_enabled
            && self.is_running()
            && since.elapsed() >= self.read_only_delay()
    }

    /// Begins to serve as a member in `mode`, with everything that was committed before `epoch`.
    fn serve_as(&self, mode: Mode, epoch: u32) {
        self.floor.store(zxid_of(epoch, 0), Relaxed);
        let term = self.queue.lock();
        if !term.is_open() {
            // It is over again.
            return;
        }
        self.local_sessions.lock().refresh(self.now());
        self.set_mode(mode);
        drop(term);
        self.connections.close_read_only();
        if self.is_open() {
            self.connections.nudge_sessions();
        } else {
            self.connections.close_all();
        }
    }

    /// Has it everything that a client has seen?
    pub(crate) fn is_abreast_of(&self, zxid: i64) -> bool {
        zxid <= self.floor.load(Relaxed).max(self.tree().last_zxid())
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

    /// The server is over. Called behind the last thing that it writes.
    pub(crate) fn stopped(&self, cause: Option<ServerError>) {
        self.queue.lock().stop();
        self.phase.send_if_modified(|phase| {
            // What came first is the cause of the rest.
            let first = !matches!(phase, Phase::Stopped(_));
            if first {
                *phase = Phase::Stopped(cause.map(Arc::new));
            }
            first
        });
        // The applier ends in good order by this, and says so here, too.
        self.submit_job(Job::Stop);
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

    /// Opens a session for a connection that waits for it. False if that is not possible now.
    pub(crate) fn open_session(&self, timeout: i32, origin: Origin) -> bool {
        let requester = Requester {
            session: origin.session,
            cxid: origin.xid,
            ids: &[],
            time: wall_clock(),
            local: false,
        };
        let (op, write) = (OpCode::CreateSession, Internal::CreateSession(timeout));
        self.enqueue(|queue, tree| {
            if self.config.local_sessions_enabled && self.member.get().is_some() {
                return self.open_local_session(queue, timeout, origin);
            }
            let mut sessions = self.sessions.lock();
            let millis = timeout.max(0).cast_unsigned();
            let session = sessions.track(origin.session, millis, self.now());
            session.move_to(self.config.server_id());
            drop(sessions);
            let queued = queue.push_internal(tree, requester, Some(origin), op, write);
            self.stats.outstanding.fetch_add(i64::from(queued), Relaxed);
            queued
        })
    }

    fn open_local_session(&self, queue: &mut Queue, timeout: i32, origin: Origin) -> bool {
        if queue.is_open() {
            self.track_locally(origin.session, timeout);
            self.stats.outstanding.fetch_add(1, Relaxed);
            queue.push_resumed(true, timeout, origin);
        }
        queue.is_open()
    }

    /// Starts to track a session that no other server knows, or gives it a new timeout.
    pub(crate) fn track_locally(&self, session: i64, timeout: i32) -> Arc<Session> {
        let millis = timeout.max(0).cast_unsigned();
        let mut sessions = self.local_sessions.lock();
        let session = sessions.track(session, millis, self.now());
        session.set_local(true);
        session
    }

    /// A session whose client may be connected to this server.
    pub(crate) fn session(&self, session: i64) -> Option<Arc<Session>> {
        let known = self.sessions.lock().get(session).cloned();
        known.or_else(|| self.local_sessions.lock().get(session).cloned())
    }

    /// Is it a session that no other server knows?
    pub(crate) fn is_local(&self, session: i64) -> bool {
        self.local_sessions.lock().get(session).is_some()
    }

    /// A session that no other server knows wants to write. If it comes to own something by that,
    /// it has to be known to all first.
    ///
    /// # Errors
    /// What to answer, if that is not to be.
    pub(crate) fn upgrade_for(
        &self,
        queue: &mut Queue,
        tree: &LazyTree<'_>,
        session: &Session,
        (op, body): (OpCode, &[u8]),
    ) -> Result<(), ErrorCode> {
        if !makes_ephemerals(op, body) {
            return Ok(());
        }
        if !self.config.local_sessions_upgrading_enabled {
            // Its part is what fails of a multi.
            return match op {
                OpCode::Multi => Ok(()),
                _ => Err(ErrorCode::EPHEMERAL_ON_LOCAL_SESSION),
            };
        }
        let Some(session) = self.local_sessions.lock().remove(session.id()) else {
            return Ok(());
        };
        session.set_local(false);
        session.move_to(self.config.server_id());
        let timeout = session.timeout().cast_signed();
        let create = Internal::CreateSession(timeout);
        queue.push_unasked(tree, unasked(session.id()), OpCode::CreateSession, create);
        self.sessions.lock().adopt(session);
        Ok(())
    }

    /// Answers a connection that wants to resume a session, once everything is done that the
    /// session asked on another: it reads what it wrote. False if that is not possible now.
    pub(crate) fn resume_session(&self, timeout: i32, origin: Origin) -> bool {
        self.enqueue(|queue, _| {
            let open = queue.is_open();
            if open {
                self.stats.outstanding.fetch_add(1, Relaxed);
                self.resume_on(queue, timeout, origin);
            }
            open
        })
    }

    fn resume_on(&self, queue: &mut Queue, timeout: i32, origin: Origin) {
        if self.is_local(origin.session) {
            self.track_locally(origin.session, timeout);
            return queue.push_resumed(true, timeout, origin);
        }
        if !queue.is_leading() {
            if queue.push_revalidation(timeout, origin).is_some() {
                self.stats.outstanding.fetch_sub(1, Relaxed);
            }
            return;
        }
        let mut sessions = self.sessions.lock();
        let known = sessions.get(origin.session).is_some();
        if known {
            let millis = timeout.max(0).cast_unsigned();
            let session = sessions.track(origin.session, millis, self.now());
            session.move_to(self.config.server_id());
        }
        queue.push_resumed(known, timeout, origin);
    }

    /// Is the session, which has a connection here, another server's now?
    pub(crate) fn has_moved(&self, queue: &Queue, session: &Session) -> bool {
        self.member.get().is_some() && queue.is_leading() && !session.is_at(self.config.server_id())
    }

    /// The connection of a session has ended.
    pub(crate) fn left(&self, session: i64) {
        let queue = self.queue.lock();
        // A leader, or a server that stands alone, decides when it expires; a learner first tells the
        // leader that it has heard from it, whose client counts on that.
        if let Some(member) = self.member.get()
            && !queue.is_leading()
        {
            let mut sessions = self.sessions.lock();
            let told = |found: &Arc<Session>| found.heard() < member.told_until();
            if sessions.get(session).is_some_and(told) {
                sessions.remove(session);
            }
        }
    }

    /// Ends a session that has expired, or that nobody owns.
    pub(crate) fn expire_session(&self, session: i64) {
        self.enqueue(|queue, tree| self.close_on(queue, tree, session));
    }

    /// Ends sessions that own znodes and are not in the table.
    fn close_orphans(&self, queue: &mut Queue, tree: &LazyTree<'_>) {
        for session in tree.get().orphaning_sessions() {
            let shown = format_args!("{session:#x}");
            tracing::info!(session = shown, "ending a session left behind");
            self.close_on(queue, tree, session);
        }
    }

    fn close_on(&self, queue: &mut Queue, tree: &LazyTree<'_>, session: i64) {
        let close = Internal::CloseSession;
        queue.push_unasked(tree, unasked(session), OpCode::CloseSession, close);
    }

    /// Reaps a container or an expired TTL node, unless it has got a child meanwhile.
    fn reap(&self, path: &str) {
        let delete = Internal::DeleteContainer(path);
        self.enqueue(|queue, tree| {
            queue.push_unasked(tree, unasked(0), OpCode::DeleteContainer, delete);
        });
    }

    /// Lets `fill` queue requests: the queue is locked once for all of them.
    pub(crate) fn enqueue<R>(&self, fill: impl FnOnce(&mut Queue, &LazyTree<'_>) -> R) -> R {
        let mut queue = self.queue.lock();
        let tree = LazyTree::new(&self.tree);
        let result = fill(&mut queue, &tree);
        drop(tree);
        self.wake(queue);
        result
    }

    /// Tells whoever has to know of what was queued.
    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let Some(member) = self.member.get() else {
            if queue.wants_logger() {
                self.filled.notify_one();
            }
            return;
        };
        if queue.is_leading() {
            if queue.wants_logger() {
                drop(queue);
                member.outlet().proposals();
            }
            return;
        }
        let (wanted, has_requests) = (queue.wants_applier(), queue.has_requests());
        drop(queue);
        if has_requests {
            member.forward(&self.queue);
        }
        if wanted {
            self.submit_job(Job::Look);
        }
    }
}

/// The server itself asks for something, concerning this session.
fn unasked(session: i64) -> Requester<'static> {
    Requester {
        session,
        cxid: 0,
        ids: &[],
        time: wall_clock(),
        local: false,
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
