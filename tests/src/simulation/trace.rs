//! What happened, line by line.

use std::collections::VecDeque;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::Micros;

/// Lines that are kept: enough to see how a violation came about.
const KEPT: usize = 100_000;

/// The trace of a run. One that is off costs nothing but a branch for each line.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    lines: VecDeque<String>,
    hasher: DefaultHasher,
}

impl Trace {
    /// A trace that is written, or not.
    pub fn new(on: bool) -> Self {
        Trace {
            on,
            ..Trace::default()
        }
    }

    /// Adds a line about a moment.
    pub fn note<T: Display>(&mut self, now: Micros, text: impl FnOnce() -> T) {
        if !self.on {
            return;
        }
        let line = format!("{:>4}.{:06} {}", now / 1_000_000, now % 1_000_000, text());
        line.hash(&mut self.hasher);
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Stands for all lines, also those that are not kept.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The last lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
