//! Jobs that are done, although one who does them dies.
//!
//!     cargo run --release --example queue
//!
//! Producers put jobs into a queue, and consumers take and do them. A consumer is killed while it
//! has a job, which another one does when the ensemble has expired the session of the dead one.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::Queue;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Jobs that are done, although one who does them dies.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many put jobs
    #[arg(long, default_value_t = 2)]
    producers: usize,
    /// How many do them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..))]
    consumers: u16,
    /// How many jobs each producer puts
    #[arg(long, default_value_t = 20)]
    jobs: usize,
}

const PATH: &str = "/quorate/demo/queue";
const WORK: Duration = Duration::from_millis(60);

/// How often each job was done.
type Done = Arc<Mutex<BTreeMap<String, usize>>>;

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let servers = Servers::new(args.place, Duration::from_secs(2), story).await?;
    let total = args.producers * args.jobs;
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for producer in 1..=args.producers {
        let (client, story) = (servers.client().await?, story.clone());
        tasks.spawn(async move {
            let queue: Queue<String> = Queue::new(&client, PATH);
            for job in 1..=args.jobs {
                queue.put(&format!("job {producer}.{job}")).await?;
            }
            story.tell(format_args!(
                "producer {producer} has put {} jobs",
                args.jobs
            ));
            drop(queue);
            client.close().await?;
            Ok(())
        });
    }
    let (done, died) = (Done::default(), Arc::new(AtomicBool::new(false)));
    for consumer in 1..=args.consumers {
        let (client, story) = (servers.client().await?, story.clone());
        let (done, died) = (Arc::clone(&done), Arc::clone(&died));
        tasks.spawn(async move {
            let queue: Queue<String> = Queue::new(&client, PATH);
            while count(&done) < total {
                // The last job may be with somebody else.
                let Ok(item) = timeout(Duration::from_millis(500), queue.take()).await else {
                    continue;
                };
                let item = item?;
                let job = item.payload().clone();
                sleep(WORK).await;
                if count(&done) > total / 3 && !died.swap(true, Ordering::SeqCst) {
                    story.tell(format_args!(
                        "consumer {consumer} is killed while it has {job}"
                    ));
                    client.detach().await?;
                    return Ok(());
                }
                item.done().await?;
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                *done.entry(job.clone()).or_default() += 1;
                story.tell(format_args!("consumer {consumer} has done {job}"));
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let queue: Queue<String> = Queue::new(&servers.client().await?, PATH);
    let left = queue.len().await?;
    let done = done.lock().unwrap_or_else(PoisonError::into_inner);
    let once = done.values().filter(|times| **times == 1).count();
    Ok(match (once, left) {
        (once, 0) if once == total && died.load(Ordering::SeqCst) => Ok(format!(
            "{total} jobs are done once, that of the dead consumer too"
        )),
        _ => Err(format!(
            "{once} of {total} jobs are done once, {left} are left"
        )),
    })
}

fn count(done: &Done) -> usize {
    done.lock().unwrap_or_else(PoisonError::into_inner).len()
}
