//! A parallel computation whose steps begin and end together.
//!
//!     cargo run --release --example double_barrier
//!
//! Heat spreads along a rod. Each worker computes a part of it, and each step needs what the
//! neighbours have computed in the step before, so nobody may be ahead. One worker dies within a
//! step; the others wait until its session is over, and another one takes its part.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::DoubleBarrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A parallel computation whose steps begin and end together.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many compute
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    workers: u16,
    /// How many steps
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(4..))]
    steps: u16,
}

const PATH: &str = "/quorate/demo/double_barrier";
const CELLS: usize = 60;

/// The rod after each step.
type Rod = Vec<Vec<f64>>;

/// What a cell is after a step.
fn next(before: &[f64], cell: usize) -> f64 {
    let left = before[cell.saturating_sub(1)];
    let right = before[(cell + 1).min(before.len() - 1)];
    (left + before[cell] + right) / 3.0
}

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let (workers, steps) = (usize::from(args.workers), usize::from(args.steps));
    let servers = Servers::new(args.place, Duration::from_secs(2), story).await?;
    let mut rod: Rod = vec![vec![f64::NAN; CELLS]; steps + 1];
    rod[0] = (0..CELLS)
        .map(|cell| f64::from(u8::from(cell == CELLS / 2)))
        .collect();
    let shared = Arc::new(Mutex::new(rod));
    let waited = Arc::new(AtomicU64::new(0));
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for worker in 0..workers {
        let first = servers.client().await?;
        let successor = match worker {
            0 => Some(servers.client().await?),
            _ => None,
        };
        let (shared, story, waited) = (Arc::clone(&shared), story.clone(), Arc::clone(&waited));
        tasks.spawn(async move {
            let mut client = first;
            let mut successor = successor;
            for step in 0..steps {
                let barrier = DoubleBarrier::new(&client, PATH, workers);
                let mut inside = barrier.enter().await?;
                if step == steps / 2
                    && let Some(next) = successor.take()
                {
                    story.tell(format_args!("worker 0 dies within step {step}"));
                    client.detach().await?;
                    client = next;
                    // Whoever comes while the others are inside joins them.
                    inside = DoubleBarrier::new(&client, PATH, workers).enter().await?;
                    story.tell("another one has taken its part");
                }
                compute(&shared, step, worker, workers).await?;
                let begun = std::time::Instant::now();
                inside.leave().await?;
                let waiting = u64::try_from(begun.elapsed().as_millis())?;
                waited.fetch_max(waiting, Ordering::Relaxed);
                if worker == 1 {
                    story.tell(format_args!("step {step} is done"));
                }
            }
            client.close().await?;
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let waited = waited.load(Ordering::Relaxed);
    let rod = shared.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(verdict(&rod).map(|()| {
        format!("{steps} steps of {workers} workers as computed by one; the dead one was waited for {waited} ms")
    }))
}

/// Computes a worker's part of a step, which takes some a little longer than others.
async fn compute(
    shared: &Mutex<Rod>,
    step: usize,
    worker: usize,
    workers: usize,
) -> Result<(), Failure> {
    let before = shared.lock().unwrap_or_else(PoisonError::into_inner)[step].clone();
    if before.iter().any(|cell| cell.is_nan()) {
        return Err(format!("step {step} began before the last one had ended").into());
    }
    sleep(Duration::from_millis(10 * worker as u64)).await;
    let mut rod = shared.lock().unwrap_or_else(PoisonError::into_inner);
    for cell in worker * CELLS / workers..(worker + 1) * CELLS / workers {
        rod[step + 1][cell] = next(&before, cell);
    }
    Ok(())
}

/// Looks whether the rod is what one worker alone would have computed.
fn verdict(rod: &Rod) -> Result<(), String> {
    let mut alone = rod[0].clone();
    for (step, together) in rod.iter().enumerate().skip(1) {
        alone = (0..CELLS).map(|cell| next(&alone, cell)).collect();
        if *together != alone {
            return Err(format!("step {step} is not what one worker alone computes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_not_always_right() {
        let start: Vec<f64> = (0..CELLS).map(|cell| cell as f64).collect();
        let step: Vec<f64> = (0..CELLS).map(|cell| next(&start, cell)).collect();
        assert!(verdict(&vec![start.clone(), step]).is_ok());
        assert!(verdict(&vec![start.clone(), start]).is_err());
    }
}
