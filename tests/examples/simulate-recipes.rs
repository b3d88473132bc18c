//! Simulates the recipes, each under many seeds: `cargo run --release --example simulate-recipes`.
//!
//! `--seed S --recipe R` replays one run, and shows the end of its trace if it fails; `--bypasses`
//! goes without one guard after the other, and tells how many seeds it took to notice each.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_tests::recipe_simulation::run;
use quorate_tests::recipe_simulation::scenarios::{Bypass, RECIPES, Recipe};
use quorate_tests::simulation::checker::Violation;

/// Simulates the recipes under faults, and checks what they promise.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds to run of each recipe.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run this recipe alone; an unknown name tells the known ones.
    #[arg(long, value_parser = recipe)]
    recipe: Option<String>,
    /// Go without this guard.
    #[arg(long, requires = "recipe")]
    bypass: Option<String>,
    /// Go without each guard in turn, and tell how many seeds it took to notice.
    #[arg(long)]
    bypasses: bool,
    /// Print the trace, also of a seed that does not fail.
    #[arg(long)]
    trace: bool,
    /// Lines of the trace that are printed.
    #[arg(long, default_value_t = 300)]
    lines: usize,
}

fn recipe(name: &str) -> Result<String, String> {
    let names: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
    match names.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("the known ones are {}", names.join(", "))),
    }
}

/// The guard of a recipe that has this name.
fn bypass(recipe: &Recipe, name: Option<&str>) -> io::Result<Bypass> {
    let Some(name) = name else { return Ok(None) };
    let found = recipe.bypasses.iter().find(|known| **known == name);
    let known = || io::Error::other(format!("the known ones are {:?}", recipe.bypasses));
    found.copied().map(Some).ok_or_else(known)
}

fn main() -> io::Result<ExitCode> {
    // A violation that shows as a panic is told like any other.
    std::panic::set_hook(Box::new(|_| {}));
    let options = Options::parse();
    let wanted = |recipe: &&Recipe| {
        let name = options.recipe.as_deref();
        name.is_none_or(|name| name == recipe.name)
    };
    let mut passed = true;
    for recipe in RECIPES.iter().filter(wanted) {
        let bypass = bypass(recipe, options.bypass.as_deref())?;
        passed &= match (options.seed, options.bypasses) {
            (Some(seed), _) => replay(&options, recipe, bypass, seed)?,
            (None, true) => all_bypasses(&options, recipe)?,
            (None, false) => many(&options, recipe, bypass)?,
        };
    }
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What came of many seeds.
#[derive(Debug, Default)]
struct Total {
    transactions: usize,
    seeds: u64,
    failed: Option<(u64, Violation)>,
}

/// Runs seeds until all are done or one fails. `tick` is told of each.
fn run_all(options: &Options, recipe: &Recipe, bypass: Bypass, tick: impl Fn() + Sync) -> Total {
    let next = AtomicU64::new(options.from);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let work = || {
        while !stop.load(Relaxed) {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= options.from + options.seeds {
                return;
            }
            let outcome = run(recipe, bypass, seed, false);
            tick();
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            total.seeds += 1;
            total.transactions += outcome.transactions;
            if let Some(violation) = outcome.violation {
                stop.store(true, Relaxed);
                let failed = total.failed.as_ref();
                if failed.is_none_or(|(failed, _)| seed < *failed) {
                    total.failed = Some((seed, violation));
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_default()
}

fn many(options: &Options, recipe: &Recipe, bypass: Bypass) -> io::Result<bool> {
    let bar = ProgressBar::new(options.seeds);
    let style = "{msg:<16} [{wide_bar}] {pos} of {len} seeds, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(recipe.name);
    bar.enable_steady_tick(Duration::from_millis(200));
    let begin = Instant::now();
    let total = run_all(options, recipe, bypass, || bar.inc(1));
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mut out = io::stdout();
    writeln!(
        out,
        "{:<16} {:>5} seeds in {seconds:>5.1} s, {:>6.0} a minute, {:>7} transactions",
        recipe.name,
        total.seeds,
        total.seeds as f64 / seconds * 60.0,
        total.transactions,
    )?;
    match total.failed {
        None => Ok(true),
        Some((seed, violation)) => {
            writeln!(out, "seed {seed} fails: {violation}")?;
            replay(options, recipe, bypass, seed)
        }
    }
}

/// Runs a seed with its trace.
fn replay(options: &Options, recipe: &Recipe, bypass: Bypass, seed: u64) -> io::Result<bool> {
    let outcome = run(recipe, bypass, seed, true);
    let mut out = io::stdout();
    if outcome.violation.is_some() || options.trace {
        let begin = outcome.trace.len().saturating_sub(options.lines);
        for line in &outcome.trace[begin..] {
            writeln!(out, "{line}")?;
        }
    }
    let (name, hash) = (recipe.name, outcome.hash);
    let Some(violation) = outcome.violation else {
        writeln!(out, "{name}, seed {seed}: no violation, trace {hash:016x}")?;
        return Ok(true);
    };
    writeln!(out, "{name}, seed {seed}: violation of {violation}")?;
    let bypass = bypass.map(|bypass| format!(" --bypass {bypass}"));
    writeln!(
        out,
        "replay: cargo run --release -p quorate-tests --example simulate-recipes -- \
         --recipe {name} --seed {seed}{}",
        bypass.unwrap_or_default()
    )?;
    Ok(false)
}

fn all_bypasses(options: &Options, recipe: &Recipe) -> io::Result<bool> {
    let mut out = io::stdout();
    let mut all_noticed = true;
    for bypass in recipe.bypasses {
        let total = run_all(options, recipe, Some(bypass), || {});
        let (what, seeds) = match total.failed {
            Some((seed, violation)) => (violation.to_string(), seed - options.from + 1),
            None => {
                all_noticed = false;
                ("NOT NOTICED".to_owned(), total.seeds)
            }
        };
        let what: String = what.chars().take(90).collect();
        writeln!(out, "{:<16} {bypass:<24} {seeds:>5}  {what}", recipe.name)?;
    }
    Ok(all_noticed)
}
