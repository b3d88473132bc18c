//! A few seeds of the recipes' simulator; `cargo run --release --example simulate-recipes` runs as
//! many as wanted.
//!
//! `QUORATE_SIMULATION_SEEDS` says how many seeds are run here.
#![allow(
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::env;

use quorate_tests::recipe_simulation::run;
use quorate_tests::recipe_simulation::scenarios::RECIPES;

/// Within so many seeds, a guard that is bypassed is noticed.
const MOST: u64 = 500;

#[test]
fn recipes_keep_what_they_promise() {
    let seeds = env::var("QUORATE_SIMULATION_SEEDS").map_or(8, |seeds| {
        seeds.parse().expect("QUORATE_SIMULATION_SEEDS is a number")
    });
    for recipe in RECIPES {
        for seed in 0..seeds {
            let outcome = run(recipe, None, seed, false);
            assert_eq!(
                outcome.violation, None,
                "replay: cargo run --release -p quorate-tests --example simulate-recipes -- \
                 --recipe {} --seed {seed}",
                recipe.name
            );
        }
    }
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    for recipe in RECIPES {
        for seed in 0..2 {
            let (first, second) = (run(recipe, None, seed, true), run(recipe, None, seed, true));
            assert!(
                first.trace == second.trace,
                "{}, seed {seed}: {:?}",
                recipe.name,
                first
                    .trace
                    .iter()
                    .zip(&second.trace)
                    .find(|(first, second)| first != second)
            );
            assert_eq!(first.hash, second.hash);
        }
    }
}

#[test]
fn bypassed_guards_are_noticed() {
    for recipe in RECIPES {
        for bypass in recipe.bypasses {
            let noticed = |seed: &u64| run(recipe, Some(bypass), *seed, false).violation.is_some();
            assert!(
                (0..MOST).any(|seed| noticed(&seed)),
                "{}: {bypass}",
                recipe.name
            );
        }
    }
}
