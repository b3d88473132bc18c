//! The load generator: one thread drives many connections.
//!
//! It shares a machine with the server under load, so it does as little as it can: one wait for
//! all connections, one read and one write for everything that a connection has ready, replies
//! recognised by their headers and passed over, and nothing allocated for an operation.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use quorate_proto::{ErrorCode, OpCode};

use super::BenchError;
use super::connection::{Connection, SILENCE};
use super::requests::{Kind, Once, Work, request};
use super::stream::Servers;

/// One read takes this much: the replies to many requests, yet little enough to stay in the cache.
const READ_SIZE: usize = 64 * 1024;

const BOTH_WAYS: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Time between two looks after the connections: while one of them has no server, and otherwise.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_secs(1);

/// Seen by all generator threads of a run, and by the thread that shows its progress.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Operations answered since the start of the phase.
    pub(super) done: AtomicU64,
    /// Set to end the measurement early.
    pub(super) stop: AtomicBool,
    pub(super) gaps: Gaps,
}

/// The longest time in which no write was acknowledged, on whatever connection.
#[derive(Debug)]
pub(super) struct Gaps {
    start: Instant,
    /// When the last write was acknowledged, in nanoseconds since the start; 0 for none yet.
    last: AtomicU64,
    longest: AtomicU64,
}

impl Default for Gaps {
    fn default() -> Self {
        Gaps {
            start: Instant::now(),
            last: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }
}

impl Gaps {
    /// Begins anew.
    pub(super) fn reset(&self) {
        self.last.store(0, Ordering::Relaxed);
        self.longest.store(0, Ordering::Relaxed);
    }

    /// A write was acknowledged at this moment.
    pub(super) fn acknowledged(&self, now: Instant) {
        let now = self.nanos(now);
        let last = self.last.swap(now, Ordering::Relaxed);
        let gap = now.saturating_sub(last);
        if last > 0 && gap > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(gap, Ordering::Relaxed);
        }
    }

    /// The longest gap; the one that was open when the phase ended counts too.
    pub(super) fn longest(&self, end: Option<Instant>) -> Option<Duration> {
        let last = Some(self.last.load(Ordering::Relaxed)).filter(|last| *last > 0)?;
        let open = end.map_or(0, |end| self.nanos(end).saturating_sub(last));
        let longest = self.longest.load(Ordering::Relaxed).max(open);
        Some(Duration::from_nanos(longest))
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from((at - self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Shared {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a phase measured.
pub(super) struct Tally {
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
    pub(super) errors: BTreeMap<i32, u64>,
    /// Watch events.
    pub(super) events: u64,
    /// Operations without an answer, because their connection was lost.
    pub(super) unanswered: u64,
    pub(super) lost: Vec<String>,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
    /// The longest time without an acknowledged write, if there were writes.
    pub(super) longest_gap: Option<Duration>,
}

impl Tally {
    pub(super) fn new() -> Result<Self, BenchError> {
        // Nanoseconds up to a minute, to three digits.
        let histogram = || Histogram::new_with_max(60_000_000_000, 3);
        Ok(Tally {
            reads: histogram()?,
            writes: histogram()?,
            errors: BTreeMap::new(),
            events: 0,
            unanswered: 0,
            lost: Vec::new(),
            elapsed: Duration::ZERO,
            longest_gap: None,
        })
    }

    pub(super) fn operations(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    /// Adds what another thread measured in the same phase.
    pub(super) fn add(&mut self, other: &Tally) -> Result<(), BenchError> {
        self.reads.add(&other.reads)?;
        self.writes.add(&other.writes)?;
        for (&code, &count) in &other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.events += other.events;
        self.unanswered += other.unanswered;
        self.lost.extend_from_slice(&other.lost);
        self.elapsed = self.elapsed.max(other.elapsed);
        Ok(())
    }

    pub(super) fn count_error(&mut self, err: ErrorCode) {
        *self.errors.entry(err.0).or_default() += 1;
    }

    pub(super) fn record(&mut self, kind: Kind, took: Duration, err: ErrorCode) {
        if err != ErrorCode::OK {
            return self.count_error(err);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        match kind {
            Kind::Read => self.reads.saturating_record(nanos),
            Kind::Write => self.writes.saturating_record(nanos),
        }
    }
}

/// When a phase is over: always once its requests are answered, and these besides.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    /// Sends no requests after this moment.
    pub(super) until: Option<Instant>,
    /// Waits for this many watch events.
    pub(super) events: u64,
    /// Leaves connections closed that the server closes. Otherwise the session goes on at another
    /// server.
    pub(super) closing: bool,
}

/// The connections of one generator thread.
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    depth: usize,
    buffer: Vec<u8>,
}

impl Engine {
    /// Opens `count` connections, spread over `servers` beginning at `offset`, each of which
    /// keeps up to `depth` requests in flight.
    pub(super) fn connect(
        servers: &Arc<Servers>,
        offset: usize,
        count: usize,
        depth: usize,
    ) -> Result<Self, BenchError> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let server = offset + index;
            let connection = Connection::open(servers, server, depth);
            let mut connection = connection.map_err(|source| BenchError::Connect {
                server: servers.addresses[server % servers.addresses.len()],
                source,
            })?;
            poll.registry()
                .register(connection.socket(), Token(index), BOTH_WAYS)?;
            connections.push(connection);
        }
        Ok(Engine {
            poll,
            events: Events::with_capacity(1024),
            connections,
            depth,
            buffer: vec![0; READ_SIZE],
        })
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Sends what `work` yields until `goal` is reached, and answers what it measured.
    pub(super) fn run(
        &mut self,
        work: &mut impl Work,
        goal: Goal,
        shared: &Shared,
    ) -> Result<Tally, BenchError> {
        let mut tally = Tally::new()?;
        let started = Instant::now();
        let (mut heard, mut tended, mut counted) = (started, started, 0);
        let open = |now| goal.until.is_none_or(|until| now < until) && !shared.is_stopped();
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if open(started) {
                connection.send(work, index, self.depth, started);
            }
            connection.settle(&mut tally);
        }
        let mut pending = self.pending();
        loop {
            let rejoins = !goal.closing && pending.apart > 0 && open(Instant::now());
            let told = tally.events >= goal.events || !tally.lost.is_empty();
            if pending.in_flight == 0 && !rejoins && (told || shared.is_stopped()) {
                break;
            }
            let between = if pending.apart > 0 { SOON } else { LATER };
            match self.poll.poll(&mut self.events, Some(between)) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            if self.events.is_empty() && heard.elapsed() >= SILENCE {
                return Err(BenchError::Silent(SILENCE));
            }
            for event in &self.events {
                let Token(index) = event.token();
                let connection = &mut self.connections[index];
                pending.remove(connection);
                let now = connection.receive(&mut self.buffer, &mut tally, &shared.gaps);
                heard = heard.max(connection.heard());
                if open(now) {
                    connection.send(work, index, self.depth, now);
                } else {
                    connection.flush();
                }
                connection.settle(&mut tally);
                pending.add(connection);
            }
            shared
                .done
                .fetch_add(tally.operations() - counted, Ordering::Relaxed);
            counted = tally.operations();
            if !goal.closing && tended.elapsed() >= between {
                tended = Instant::now();
                self.tend(tended, &mut tally)?;
                pending = self.pending();
            }
        }
        tally.elapsed = heard - started;
        Ok(tally)
    }

    /// Gives up servers that are silent, and goes on at others.
    fn tend(&mut self, now: Instant, tally: &mut Tally) -> io::Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if connection.tend(now) {
                let (registry, stream) = (self.poll.registry(), connection.socket());
                registry.register(stream, Token(index), BOTH_WAYS)?;
            }
            connection.settle(tally);
        }
        Ok(())
    }

    fn pending(&self) -> Pending {
        let mut pending = Pending::default();
        for connection in &self.connections {
            pending.add(connection);
        }
        pending
    }

    /// Ends the sessions, so that the server does not have to wait for them to expire.
    pub(super) fn close(mut self) {
        let mut work = Once::new(0..self.connections(), |xid, out| {
            request(OpCode::CloseSession, xid, out, |_| {});
        });
        let goal = Goal {
            closing: true,
            ..Goal::default()
        };
        // The run is over; a server that is gone by now takes nothing away from it.
        let _ = self.run(&mut work, goal, &Shared::default());
    }
}

/// What the connections still wait for.
#[derive(Default)]
struct Pending {
    /// Requests without an answer.
    in_flight: usize,
    /// Connections that no server has taken yet.
    apart: usize,
}

impl Pending {
    fn add(&mut self, connection: &Connection) {
        self.in_flight += connection.in_flight();
        self.apart += usize::from(connection.is_apart());
    }

    fn remove(&mut self, connection: &Connection) {
        self.in_flight -= connection.in_flight();
        self.apart -= usize::from(connection.is_apart());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_over_all_connections_and_to_the_end() {
        let gaps = Gaps::default();
        let at = |ms| gaps.start + Duration::from_millis(ms);
        assert_eq!(gaps.longest(Some(at(50))), None);
        for ms in [10, 12, 30, 29, 35] {
            gaps.acknowledged(at(ms));
        }
        assert_eq!(gaps.longest(None), Some(Duration::from_millis(18)));
        assert_eq!(gaps.longest(Some(at(40))), Some(Duration::from_millis(18)));
        assert_eq!(gaps.longest(Some(at(60))), Some(Duration::from_millis(25)));
        gaps.reset();
        assert_eq!(gaps.longest(Some(at(60))), None);
    }
}
