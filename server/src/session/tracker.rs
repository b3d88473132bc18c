//! When sessions expire: in buckets of one tick, so that hearing from a session costs one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;

/// A session as the server that decides about its expiry sees it. Times are milliseconds of the
/// server's own monotonic clock.
#[derive(Debug)]
pub struct Session {
    id: i64,
    timeout: AtomicU32,
    deadline: AtomicU64,
    /// The end of the bucket that it waits in.
    bucket: AtomicU64,
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
}

/// The sessions that may expire.
///
/// The deadline lies in the session; a bucket only says when to look. A session that was heard from
/// moves on to a later bucket when its own comes up.
#[derive(Debug)]
pub struct Tracker {
    tick: u64,
    sessions: HashMap<i64, Arc<Session>>,
    buckets: BTreeMap<u64, Vec<i64>>,
}

impl Tracker {
    /// Expires in steps of `tick` milliseconds.
    pub fn new(tick: u64) -> Self {
        Tracker {
            tick: tick.max(1),
            sessions: HashMap::new(),
            buckets: BTreeMap::new(),
        }
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
        });
        self.sessions.insert(id, Arc::clone(&session));
        self.enqueue(&session);
        session
    }

    fn enqueue(&mut self, session: &Session) {
        let bucket = self.bucket(session.deadline.load(Ordering::Relaxed));
        session.bucket.store(bucket, Ordering::Relaxed);
        self.buckets.entry(bucket).or_default().push(session.id);
    }

    /// A session that is tracked.
    pub fn get(&self, id: i64) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }

    /// Stops tracking a session that is closing or gone.
    pub fn remove(&mut self, id: i64) {
        self.sessions.remove(&id);
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
