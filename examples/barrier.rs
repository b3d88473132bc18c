//! Runners who wait for the starting shot.
//!
//!     cargo run --release --example barrier
//!
//! A referee closes a barrier, runners come and wait at it, and all of them start when it opens. One
//! barrier opens by itself, since the referee who closed it dies.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Runners who wait for the starting shot.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many run
    #[arg(long, default_value_t = 8)]
    runners: usize,
}

const PATH: &str = "/quorate/demo/barrier";
/// How long a dead referee counts as living.
const SESSION: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let servers = Servers::new(args.place, SESSION, story).await?;
    let referee = servers.client().await?;
    let barrier = Barrier::new(&referee, PATH);

    barrier.close().await?;
    story.tell("the referee has closed the barrier");
    let mut runners = runners(&servers, args.runners, story).await?;
    sleep(Duration::from_millis(500)).await;
    let shot = Instant::now();
    story.tell("the referee opens it");
    barrier.open().await?;
    let first = spread(&mut runners, shot).await?;

    let Some(closed) = barrier.close_while_held().await? else {
        return Err("the barrier is closed by somebody else".into());
    };
    story.tell("the referee has closed it again, for as long as he lives");
    let mut runners = self::runners(&servers, args.runners, story).await?;
    sleep(Duration::from_millis(500)).await;
    let death = Instant::now();
    referee.detach().await?;
    story.tell("the referee dies");
    drop(closed);
    let second = spread(&mut runners, death).await?;

    Ok(match (first, second) {
        (Some((_, last)), Some((soonest, _))) if soonest > SESSION / 2 => Ok(format!(
            "nobody started early; the last one {last:.0?} after the shot, the first one {soonest:.1?} after the death"
        )),
        _ => Err("somebody started before the barrier was open".into()),
    })
}

/// Runners, each of whom answers when it started.
async fn runners(
    servers: &Servers,
    number: usize,
    story: &Story,
) -> Result<JoinSet<Result<Instant, Failure>>, Failure> {
    let mut runners: JoinSet<Result<Instant, Failure>> = JoinSet::new();
    for _ in 0..number {
        let client = servers.client().await?;
        runners.spawn(async move {
            Barrier::new(&client, PATH).wait().await?;
            let started = Instant::now();
            client.close().await?;
            Ok(started)
        });
    }
    story.tell(format_args!("{number} runners wait"));
    Ok(runners)
}

/// How long after `signal` the first and the last one started; `None` if one did before.
async fn spread(
    runners: &mut JoinSet<Result<Instant, Failure>>,
    signal: Instant,
) -> Result<Option<(Duration, Duration)>, Failure> {
    let mut spread = (Duration::MAX, Duration::ZERO);
    while let Some(started) = runners.join_next().await {
        let Some(after) = started??.checked_duration_since(signal) else {
            return Ok(None);
        };
        spread = (spread.0.min(after), spread.1.max(after));
    }
    Ok(Some(spread))
}
