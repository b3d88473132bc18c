//! A few seeds of the simulator; `cargo run --release --example simulate` runs as many as wanted.
//!
//! `QUORATE_SIMULATION_SEEDS` says how many seeds are run here.
#![allow(
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::env;

use quorate_server::zab;
use quorate_tests::simulation::flaw::Flaw;
use quorate_tests::simulation::{Mutant, run};

#[test]
fn seeds_show_no_violation() {
    let seeds = env::var("QUORATE_SIMULATION_SEEDS").map_or(30, |seeds| {
        seeds.parse().expect("QUORATE_SIMULATION_SEEDS is a number")
    });
    for seed in 0..seeds {
        let outcome = run(seed, None, false);
        assert_eq!(
            outcome.violation, None,
            "replay: cargo run --release --example simulate -- --seed {seed}"
        );
    }
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    for seed in 0..5 {
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        assert!(first.trace == second.trace, "seed {seed}");
        assert_eq!(first.hash, second.hash);
        assert_eq!(first.counts, second.counts);
        assert_eq!(first.counts, run(seed, None, false).counts);
    }
}

/// How many seeds it takes until a mutant is noticed; as many as `most` if it is not.
fn seeds_until_noticed(mutant: Mutant, most: u64) -> u64 {
    let noticed = |seed: &u64| run(*seed, Some(mutant), false).violation.is_some();
    (0..most).find(noticed).unwrap_or(most)
}

#[test]
fn mutants_are_noticed() {
    for mutant in [
        Mutant::Zab(zab::Mutant::AckEarly),
        Mutant::Zab(zab::Mutant::VoteEarly),
        Mutant::Zab(zab::Mutant::CommitByMinority),
        Mutant::Zab(zab::Mutant::TruncateTooMuch),
        Mutant::Disk(Flaw::FilesUnsynced),
    ] {
        assert!(seeds_until_noticed(mutant, 200) < 200, "{mutant:?}");
    }
}
