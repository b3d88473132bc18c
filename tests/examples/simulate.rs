//! Simulates whole ensembles, one for each seed: `cargo run --release --example simulate`.
//!
//! `--seed S` replays one seed, and shows the end of its trace if it fails; `--mutants` puts faults
//! in on purpose, one after the other, and tells how many seeds it took to notice each.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_tests::simulation::checker::Violation;
use quorate_tests::simulation::{Counts, Mutant, run};

/// Simulates ensembles under faults, and checks them.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Put a fault in on purpose; an unknown name tells the known ones.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Put in each known fault in turn, and tell how many seeds it took to notice it.
    #[arg(long)]
    mutants: bool,
    /// Print the trace, also of a seed that does not fail.
    #[arg(long)]
    trace: bool,
    /// Lines of the trace that are printed.
    #[arg(long, default_value_t = 200)]
    lines: usize,
    /// How many seeds run at once; as many as there are processors if it is left out.
    #[arg(long)]
    threads: Option<usize>,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let all = Mutant::all();
    let found = all.iter().find(|mutant| mutant.name() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<String> = all.into_iter().map(Mutant::name).collect();
        format!("the known ones are {}", names.join(", "))
    })
}

fn main() -> io::Result<ExitCode> {
    let options = Options::parse();
    if options.seed.is_none() {
        // A violation that shows as a panic is told like any other, and where it is by a replay.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let passed = match (options.seed, options.mutants) {
        (Some(seed), _) => replay(&options, seed)?,
        (None, true) => all_mutants(&options)?,
        (None, false) => many(&options)?,
    };
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What came of many seeds.
#[derive(Debug, Default)]
struct Total {
    counts: Counts,
    seeds: u64,
    failed: Option<(u64, Violation)>,
}

/// Runs seeds until all are done or one fails. `tick` is told of each.
fn run_all(options: &Options, mutant: Option<Mutant>, tick: impl Fn() + Sync) -> Total {
    let next = AtomicU64::new(options.from);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let available = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= options.from + options.seeds || stop.load(Relaxed) {
                return;
            }
            let outcome = run(seed, mutant, false);
            tick();
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            total.seeds += 1;
            total.counts.add(&outcome.counts);
            if let Some(violation) = outcome.violation {
                stop.store(true, Relaxed);
                if total
                    .failed
                    .as_ref()
                    .is_none_or(|(failed, _)| seed < *failed)
                {
                    total.failed = Some((seed, violation));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..options.threads.unwrap_or(available) {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_default()
}

fn many(options: &Options) -> io::Result<bool> {
    let bar = ProgressBar::new(options.seeds);
    let style = "{elapsed} [{wide_bar}] {pos} of {len} seeds, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let begin = Instant::now();
    let total = run_all(options, options.mutant, || bar.inc(1));
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mut out = io::stdout();
    let Counts {
        steps,
        leaders,
        writes,
        reads,
        crashes,
        rewrites,
    } = total.counts;
    writeln!(
        out,
        "{} seeds from {} on in {seconds:.1} s: {:.0} seeds and {:.1} million steps a minute",
        total.seeds,
        options.from,
        total.seeds as f64 / seconds * 60.0,
        steps as f64 / seconds * 60.0 / 1e6,
    )?;
    writeln!(
        out,
        "{leaders} leaders, {writes} writes and {reads} reads answered, {crashes} crashes, \
         {rewrites} histories cut or replaced"
    )?;
    let Some((seed, violation)) = total.failed else {
        writeln!(out, "no violation")?;
        return Ok(true);
    };
    writeln!(out, "seed {seed} fails: {violation}")?;
    replay(options, seed)
}

/// Runs a seed with its trace.
fn replay(options: &Options, seed: u64) -> io::Result<bool> {
    let outcome = run(seed, options.mutant, true);
    let mut out = io::stdout();
    if outcome.violation.is_some() || options.trace {
        let begin = outcome.trace.len().saturating_sub(options.lines);
        for line in &outcome.trace[begin..] {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(
        out,
        "seed {seed}: trace {:016x}, {:?}",
        outcome.hash, outcome.counts
    )?;
    let Some(violation) = outcome.violation else {
        writeln!(out, "no violation")?;
        return Ok(true);
    };
    let mutant = options
        .mutant
        .map(|mutant| format!(" --mutant {}", mutant.name()));
    writeln!(out, "violation of {violation}")?;
    writeln!(
        out,
        "replay: cargo run --release --example simulate -- --seed {seed}{}",
        mutant.unwrap_or_default()
    )?;
    Ok(false)
}

fn all_mutants(options: &Options) -> io::Result<bool> {
    let mut out = io::stdout();
    let mut all_noticed = true;
    writeln!(out, "{:<28} {:>7}  noticed as", "mutant", "seeds")?;
    for mutant in Mutant::all() {
        let total = run_all(options, Some(mutant), || {});
        let name = mutant.name();
        match total.failed {
            Some((_, violation)) => {
                let what: String = violation.to_string().chars().take(100).collect();
                writeln!(out, "{name:<28} {:>7}  {what}", total.seeds)?;
            }
            None => {
                all_noticed = false;
                writeln!(out, "{name:<28} {:>7}  NOT NOTICED", total.seeds)?;
            }
        }
    }
    Ok(all_noticed)
}
