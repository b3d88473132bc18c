//! Readers and writers of a document that a writer changes in two steps.
//!
//!     cargo run --release --example rwlock
//!
//! Readers read side by side, and never see a document of which one half is new and the other old.
//! Each writer becomes a reader for a moment and checks its own work, before another writer comes.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::RwLock;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Readers and writers of one document.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many read
    #[arg(long, default_value_t = 6)]
    readers: usize,
    /// How many write
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// How often each does
    #[arg(long, default_value_t = 8)]
    rounds: usize,
}

const PATH: &str = "/quorate/demo/rwlock";
const WORK: Duration = Duration::from_millis(40);

/// A document in two halves, and what its readers have seen.
#[derive(Default)]
struct Document {
    halves: [AtomicU64; 2],
    readers: AtomicUsize,
    most_readers: AtomicUsize,
    torn: AtomicUsize,
    reads: AtomicUsize,
}

impl Document {
    async fn read(&self) -> u64 {
        let readers = self.readers.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_readers.fetch_max(readers, Ordering::SeqCst);
        let first = self.halves[0].load(Ordering::SeqCst);
        sleep(WORK).await;
        if self.halves[1].load(Ordering::SeqCst) != first {
            self.torn.fetch_add(1, Ordering::SeqCst);
        }
        self.readers.fetch_sub(1, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        first
    }

    async fn write(&self) -> u64 {
        let version = self.halves[0].fetch_add(1, Ordering::SeqCst) + 1;
        sleep(WORK).await;
        self.halves[1].store(version, Ordering::SeqCst);
        version
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let servers = Servers::new(args.place, Duration::from_secs(3), story).await?;
    let document = Arc::new(Document::default());
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for n in 0..args.readers + args.writers {
        let (client, story) = (servers.client().await?, story.clone());
        let document = Arc::clone(&document);
        tasks.spawn(async move {
            let lock = RwLock::new(&client, PATH);
            for _ in 0..args.rounds {
                if n < args.readers {
                    let reading = lock.read().await?;
                    document.read().await;
                    reading.release().await?;
                    continue;
                }
                let writing = lock.write().await?;
                let written = document.write().await;
                let reading = writing.downgrade().await?;
                let read = document.read().await;
                story.tell(format_args!(
                    "writer {n} has written version {written}, and reads {read}"
                ));
                if read != written {
                    return Err(format!("another writer came in between: {read}").into());
                }
                reading.release().await?;
            }
            client.close().await?;
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
    let versions = document.halves[0].load(Ordering::SeqCst);
    let (reads, most) = (count(&document.reads), count(&document.most_readers));
    Ok(match count(&document.torn) {
        0 if versions as usize == args.writers * args.rounds && most > 1 => Ok(format!(
            "{versions} versions, {reads} reads, up to {most} at once, none of them of a half-written document"
        )),
        torn => Err(format!(
            "{torn} of {reads} reads were torn, {versions} versions, {most} at once"
        )),
    })
}
