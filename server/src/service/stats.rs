//! Numbers about the running service, for operators.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Last, smallest, largest and average of a latency in milliseconds.
#[derive(Debug)]
pub(crate) struct Latency {
    last: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    total: AtomicU64,
    count: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            last: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            total: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }
}

impl Latency {
    /// Adds `count` requests that took `millis` each.
    pub(crate) fn add(&self, millis: u64, count: u64) {
        self.last.store(millis, Relaxed);
        if millis < self.min.load(Relaxed) {
            self.min.fetch_min(millis, Relaxed);
        }
        if millis > self.max.load(Relaxed) {
            self.max.fetch_max(millis, Relaxed);
        }
        if millis > 0 {
            self.total.fetch_add(millis * count, Relaxed);
        }
        self.count.fetch_add(count, Relaxed);
    }

    pub(crate) fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }

    pub(crate) fn min(&self) -> u64 {
        Some(self.min.load(Relaxed))
            .filter(|min| *min != u64::MAX)
            .unwrap_or(0)
    }

    pub(crate) fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    pub(crate) fn average(&self) -> f64 {
        match self.count.load(Relaxed) {
            0 => 0.0,
            count => self.total.load(Relaxed) as f64 / count as f64,
        }
    }

    pub(crate) fn reset(&self) {
        self.min.store(u64::MAX, Relaxed);
        for number in [&self.last, &self.max, &self.total, &self.count] {
            number.store(0, Relaxed);
        }
    }
}

/// Last, smallest and largest of a number of bytes; -1 while there was none.
#[derive(Debug)]
pub(crate) struct Sizes {
    last: AtomicI64,
    min: AtomicI64,
    max: AtomicI64,
}

impl Default for Sizes {
    fn default() -> Self {
        let none = || AtomicI64::new(-1);
        Sizes {
            last: none(),
            min: none(),
            max: none(),
        }
    }
}

impl Sizes {
    /// Only one thread adds.
    pub(super) fn add(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.last.store(bytes, Relaxed);
        self.max.fetch_max(bytes, Relaxed);
        // Read without its sign, none is more than any.
        let min = self.min.load(Relaxed).cast_unsigned();
        self.min
            .store(min.min(bytes.cast_unsigned()).cast_signed(), Relaxed);
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [last, min, max] = [&self.last, &self.min, &self.max].map(|size| size.load(Relaxed));
        write!(f, "{last}/{min}/{max}")
    }
}

/// Counters of the whole server.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) latency: Latency,
    /// Requests that are queued or not yet applied.
    pub(crate) outstanding: AtomicI64,
    /// What was proposed as leader.
    pub(crate) proposals: Sizes,
    /// Transactions that left another digest than the one they carry.
    pub(crate) digest_mismatches: AtomicU64,
}

impl Stats {
    pub(crate) fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.latency.reset();
    }
}
