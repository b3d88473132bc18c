//! When sessions expire: in buckets of one tick, so that hearing from a session costs one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;

use crate::zab::Sid;

/// No server: the owner of a session is not known.
const NOBODY: Sid = i64::MIN;

/// A session as the server that decides about its expiry sees it. Times are milliseconds of the
/// server's own monotonic clock.
#[derive(Debug)]
pub struct Session {
    id: i64,
    timeout: AtomicU32,
    deadline: AtomicU64,
    /// The end of the bucket that it waits in.
    bucket: AtomicU64,
    /// The server that its client is connected to.
    owner: AtomicI64,
    /// Does no other server know it?
    local: AtomicBool,
}

impl Session {
    /// The session's id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The negotiated timeout in milliseconds.
    pub fn timeout(&self) -> u32 {
        self.timeout.load(Ordering::Relaxed)
    }

    /// The server has heard from the session at `now`.
    pub fn touch(&self, now: u64) {
        self.deadline
            .store(now + u64::from(self.timeout()), Ordering::Relaxed);
    }

    /// Does no other server know it?
    pub fn is_local(&self) -> bool {
        self.local.load(Ordering::Relaxed)
    }

    /// Makes it one that only this server knows, or all do.
    pub fn set_local(&self, local: bool) {
        self.local.store(local, Ordering::Relaxed);
    }

    /// When the server has heard from it last.
    pub fn heard(&self) -> u64 {
        let deadline = self.deadline.load(Ordering::Relaxed);
        deadline.saturating_sub(u64::from(self.timeout()))
    }

    /// Its client has come to the server `sid`.
    pub fn move_to(&self, sid: Sid) {
        self.owner.store(sid, Ordering::Relaxed);
    }

    /// May the server `sid` ask for it? Where nobody knows whose it is, the first that asks is right.
    pub fn is_at(&self, sid: Sid) -> bool {
        let claimed =
            self.owner
                .compare_exchange(NOBODY, sid, Ordering::Relaxed, Ordering::Relaxed);
        claimed.is_ok() || claimed == Err(sid)
    }
}

/// The sessions that may expire.
///
/// The deadline lies in the session; a bucket only says when to look. A session that was heard from
/// moves on to a later bucket when its own comes up.
#[derive(Debug)]
pub struct Tracker {
    tick: u64,
    /// Do sessions expire here?
    expiring: bool,
    sessions: HashMap<i64, Arc<Session>>,
    buckets: BTreeMap<u64, Vec<i64>>,
}

impl Tracker {
    /// Expires in steps of `tick` milliseconds.
    pub fn new(tick: u64) -> Self {
        Tracker {
            tick: tick.max(1),
            expiring: true,
            sessions: HashMap::new(),
            buckets: BTreeMap::new(),
        }
    }

    /// Starts to decide about expiry: tracks these sessions and no others, each as if heard from at
    /// `now`, wherever its client may be.
    pub fn take_over(&mut self, sessions: impl Iterator<Item = (i64, u32)>, now: u64) {
        let mut known = std::mem::take(&mut self.sessions);
        self.buckets.clear();
        self.expiring = true;
        for (id, timeout) in sessions {
            // Connections hold theirs.
            if let Some(session) = known.remove(&id) {
                session.bucket.store(u64::MAX, Ordering::Relaxed);
                self.sessions.insert(id, session);
            }
            self.track(id, timeout, now).move_to(NOBODY);
        }
    }

    /// Leaves expiry to another server, and tracks only the sessions that are `here`, and those that
    /// were heard from at `since` or later, which that server has yet to be told.
    pub fn hand_over(&mut self, since: u64, mut here: impl FnMut(i64) -> bool) {
        self.expiring = false;
        self.buckets.clear();
        self.sessions
            .retain(|id, session| session.heard() >= since || here(*id));
    }

    /// The sessions heard from at `since` or later, with their timeouts.
    pub fn heard(&self, since: u64) -> impl Iterator<Item = (i64, u32)> {
        let sessions = self.sessions.values();
        sessions
            .filter(move |session| session.heard() >= since)
            .map(|session| (session.id, session.timeout()))
    }

    /// The end of the bucket that a deadline falls into: between the deadline and a tick later.
    fn bucket(&self, deadline: u64) -> u64 {
        (deadline / self.tick + 1) * self.tick
    }

    /// Starts to track a session, or gives a tracked one a new timeout; it counts as heard from.
    pub fn track(&mut self, id: i64, timeout: u32, now: u64) -> Arc<Session> {
        if let Some(session) = self.sessions.get(&id) {
            session.timeout.store(timeout, Ordering::Relaxed);
            session.touch(now);
            let session = Arc::clone(session);
            // Else it moves on when the bucket that it waits in comes up.
            let deadline = session.deadline.load(Ordering::Relaxed);
            if self.bucket(deadline) < session.bucket.load(Ordering::Relaxed) {
                self.enqueue(&session);
            }
            return session;
        }
        let deadline = now + u64::from(timeout);
        let session = Arc::new(Session {
            id,
            timeout: AtomicU32::new(timeout),
            deadline: AtomicU64::new(deadline),
            bucket: AtomicU64::new(0),
            owner: AtomicI64::new(NOBODY),
            local: AtomicBool::new(false),
        });
        self.sessions.insert(id, Arc::clone(&session));
        self.enqueue(&session);
        session
    }

    fn enqueue(&mut self, session: &Session) {
        if !self.expiring {
            return;
        }
        let bucket = self.bucket(session.deadline.load(Ordering::Relaxed));
        session.bucket.store(bucket, Ordering::Relaxed);
        self.buckets.entry(bucket).or_default().push(session.id);
    }

    /// A session that is tracked.
    pub fn get(&self, id: i64) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }

    /// Stops tracking a session that is closing or gone.
    pub fn remove(&mut self, id: i64) -> Option<Arc<Session>> {
        self.sessions.remove(&id)
    }

    /// Tracks a session that another tracker had.
    pub fn adopt(&mut self, session: Arc<Session>) {
        self.enqueue(&session);
        self.sessions.insert(session.id, session);
    }

    /// Takes all sessions for heard from.
    pub fn refresh(&self, now: u64) {
        self.sessions
            .values()
            .for_each(|session| session.touch(now));
    }

    /// Number of sessions tracked.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True if no session is tracked.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// When to call [`Tracker::expire`] next.
    pub fn next_expiry(&self) -> Option<u64> {
        self.buckets.keys().next().copied()
    }

    /// The sessions by the end of the bucket in which they would expire.
    pub fn by_bucket(&self) -> BTreeMap<u64, Vec<i64>> {
        let mut buckets: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for session in self.sessions.values() {
            let bucket = self.bucket(session.deadline.load(Ordering::Relaxed));
            buckets.entry(bucket).or_default().push(session.id);
        }
        buckets
    }

    /// Takes out and answers the sessions whose bucket has ended at `now`.
    pub fn expire(&mut self, now: u64) -> Vec<i64> {
        let mut expired = Vec::new();
        while let Some(entry) = self.buckets.first_entry()
            && *entry.key() <= now
        {
            let end = *entry.key();
            for id in entry.remove() {
                let Some(session) = self.sessions.get(&id).map(Arc::clone) else {
                    continue;
                };
                if session.bucket.load(Ordering::Relaxed) != end {
                    // It has left for an earlier bucket.
                    continue;
                }
                if self.bucket(session.deadline.load(Ordering::Relaxed)) <= end {
                    self.sessions.remove(&id);
                    expired.push(id);
                } else {
                    self.enqueue(&session);
                }
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_session_expires_within_a_tick_after_its_timeout() {
        let mut tracker = Tracker::new(2000);
        tracker.track(1, 4000, 1200);
        assert_eq!(tracker.next_expiry(), Some(6000));
        assert_eq!(tracker.expire(5999), []);
        assert_eq!(tracker.expire(6000), [1]);
        assert!(tracker.is_empty());
    }

    #[test]
    fn a_session_that_is_heard_from_lives_on() {
        let mut tracker = Tracker::new(2000);
        let session = tracker.track(1, 4000, 0);
        session.touch(3000);
        assert_eq!(tracker.expire(6000), []);
        assert_eq!(tracker.next_expiry(), Some(8000));
        assert_eq!(tracker.expire(8000), [1]);
    }

    #[test]
    fn a_shorter_timeout_counts_at_once_and_expires_once() {
        let mut tracker = Tracker::new(1000);
        tracker.track(1, 40_000, 0);
        tracker.track(1, 2000, 100);
        assert_eq!(tracker.expire(3000), [1]);
        assert_eq!(tracker.expire(100_000), []);
    }

    #[test]
    fn a_session_that_is_resumed_again_and_again_waits_in_one_place() {
        let mut tracker = Tracker::new(1000);
        for now in 0..10_000 {
            tracker.track(1, 5000, now);
            assert_eq!(tracker.expire(now), []);
        }
        assert_eq!(tracker.buckets.values().map(Vec::len).sum::<usize>(), 1);
        assert_eq!(tracker.expire(15_000), [1]);
    }

    #[test]
    fn a_removed_session_does_not_expire() {
        let mut tracker = Tracker::new(1000);
        tracker.track(1, 2000, 0);
        tracker.remove(1);
        assert_eq!(tracker.expire(10_000), []);
    }
}
