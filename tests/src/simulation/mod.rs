//! A whole ensemble under one seed: the state machines of [`quorate_server::zab`], the real storage
//! on disks in memory, the real tree, and a network, clocks and clients that are simulated.
//!
//! One seed is one run. It draws an ensemble and what goes wrong ([`plan`]); for some seconds of
//! its own time everything happens that the plan says, while clients read and write. Then
//! everything heals, and the ensemble has to work again. The invariants are checked at each step
//! ([`checker`]), what the clients saw at the end ([`history`]).
//!
//! Nothing here knows of threads or of the time of day: whatever happens is an event in the queue
//! of the [`world`], and whatever is left to chance comes from the seed. Two runs of a seed are the
//! same, line by line.

pub mod checker;
pub mod client;
pub mod clock;
pub mod faults;
pub mod flaw;
pub mod history;
mod links;
pub mod member;
pub mod model;
pub mod network;
pub mod plan;
mod process;
mod reconfig;
pub mod service;
mod show;
mod storing;
pub mod trace;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use checker::Violation;
use flaw::Flaw;
use trace::Trace;
use world::World;

/// Time, in microseconds since the beginning of a run.
pub type Micros = u64;

/// A fault that is put in on purpose, and that the checks must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Of the state machine.
    Zab(quorate_server::zab::Mutant),
    /// Of a disk.
    Disk(Flaw),
}

impl Mutant {
    /// All of them.
    pub fn all() -> Vec<Mutant> {
        let of_zab = quorate_server::zab::Mutant::ALL
            .into_iter()
            .map(Mutant::Zab);
        of_zab.chain(Flaw::ALL.map(Mutant::Disk)).collect()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        match self {
            Mutant::Zab(mutant) => kebab(&format!("{mutant:?}")),
            Mutant::Disk(flaw) => format!("disk-{}", kebab(&format!("{flaw:?}"))),
        }
    }
}

/// A name in the way of the command line.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
    /// What happened in it.
    pub counts: Counts,
    /// The last lines of the trace, if it was written.
    pub trace: Vec<String>,
    /// Stands for the whole trace.
    pub hash: u64,
}

/// What happened in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Inputs that state machines were told.
    pub steps: u64,
    /// Leaders that had a quorum.
    pub leaders: u64,
    /// Writes that clients were acknowledged.
    pub writes: u64,
    /// Reads that they were answered.
    pub reads: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Logs that were cut, and trees that were installed.
    pub rewrites: u64,
}

impl Counts {
    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Counts) {
        self.steps += other.steps;
        self.leaders += other.leaders;
        self.writes += other.writes;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.rewrites += other.rewrites;
    }
}

/// Runs a seed.
pub fn run(seed: u64, mutant: Option<Mutant>, traced: bool) -> Outcome {
    let mut world = World::new(seed, mutant, Trace::new(traced));
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(checked) => checked.err(),
        Err(panic) => Some(Violation {
            rule: "panic",
            what: panic_text(&*panic),
        }),
    };
    let (counts, hash) = (world.counts(), world.trace.hash());
    Outcome {
        violation,
        counts,
        hash,
        trace: world.trace.into_lines(),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "without a word".to_owned())
}
