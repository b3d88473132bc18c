//! Snapshots, taken beside the running service.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate_proto::TxnDigest;

use super::{Mode, Service};
use crate::error::ServerError;
use crate::storage::snapshot::{Head, Progress, Source, Tail};
use crate::storage::{SnapshotTrigger, Storage};
use crate::tree::NodeWalk;

/// Bytes of znodes that are encoded under one hold of the tree's lock.
const HOLD: usize = 32 << 10;

/// The writer of a snapshot rests once it has worked for this long: see [`Pace`].
const STINT: Duration = Duration::from_millis(1);
/// A snapshot gives way to everything else that wants the processor.
const NICENESS: i32 = 10;

/// Decides when a snapshot is due, and has one taken.
#[derive(Debug)]
pub(crate) struct Snapshots {
    storage: Storage,
    trigger: SnapshotTrigger,
    /// What was replayed at the start is worth a snapshot by itself.
    overdue: bool,
    running: Option<JoinHandle<()>>,
}

impl Snapshots {
    /// `replayed` transactions are not in any snapshot yet.
    pub(crate) fn new(storage: Storage, mut trigger: SnapshotTrigger, replayed: u64) -> Self {
        let overdue = trigger.appended(replayed, 0);
        Snapshots {
            storage,
            trigger,
            overdue,
            running: None,
        }
    }

    /// Counts transactions that were appended to a log that has now `log_size` bytes. If it answers
    /// true, roll the log and [begin](Snapshots::begin) one.
    pub(crate) fn are_due(&mut self, service: &Service, txns: u64, log_size: u64) -> bool {
        self.overdue |= self.trigger.appended(txns, log_size);
        // The tree of a member without a role may hold what will turn out not to be committed.
        let due = self.overdue && !matches!(service.mode(), Mode::Paused(_));
        self.overdue &= !due;
        due
    }

    /// Begins a snapshot, unless the last is still under way.
    pub(crate) fn begin(&mut self, service: &Arc<Service>) -> Result<(), ServerError> {
        if self
            .running
            .as_ref()
            .is_some_and(|running| !running.is_finished())
        {
            tracing::warn!("the last snapshot is still being written; this one is left out");
            return Ok(());
        }
        let (storage, service) = (self.storage.clone(), Arc::clone(service));
        let snapshot = thread::Builder::new().name("snapshot".to_owned());
        let thread = snapshot
            .spawn(move || take(&storage, &service))
            .map_err(ServerError::Thread)?;
        self.running = Some(thread);
        Ok(())
    }

    /// Waits for a snapshot that is under way; a service that stops makes it end early.
    pub(crate) fn wait(&mut self) {
        if let Some(running) = self.running.take()
            && running.join().is_err()
        {
            tracing::error!("the thread that writes snapshots has panicked");
        }
    }
}

fn take(storage: &Storage, service: &Service) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "the snapshot is written at normal priority");
    }
    match storage.write_snapshot(&mut LiveTree::new(service)) {
        Ok(Some(written)) => tracing::info!(
            file = %written.path.display(), bytes = written.len, elapsed = ?written.elapsed,
            "snapshot written"
        ),
        Ok(None) => tracing::info!(
            "a snapshot was given up: the server stops, or gives up its history for its leader's"
        ),
        Err(error) => tracing::error!(%error, "a snapshot could not be written"),
    }
}

/// The tree of a running service, looked at for a short time again and again.
struct LiveTree<'a> {
    service: &'a Service,
    generation: u64,
    walk: Option<NodeWalk>,
    pace: Pace,
}

impl<'a> LiveTree<'a> {
    fn new(service: &'a Service) -> Self {
        LiveTree {
            service,
            generation: 0,
            walk: None,
            pace: Pace::new(),
        }
    }
}

/// Leaves half of the disk's time to the log: what is written takes as long again in rests.
#[derive(Debug)]
struct Pace {
    working_since: Instant,
    worked: Duration,
}

impl Pace {
    fn new() -> Self {
        Pace {
            working_since: Instant::now(),
            worked: Duration::ZERO,
        }
    }

    fn rest(&mut self) {
        self.worked += self.working_since.elapsed();
        if self.worked >= STINT {
            thread::sleep(self.worked);
            self.worked = Duration::ZERO;
        }
        self.working_since = Instant::now();
    }
}

impl Source for LiveTree<'_> {
    fn head(&mut self) -> Head {
        let tree = self.service.tree();
        self.generation = self.service.generation();
        self.walk = Some(NodeWalk::new(&tree));
        Head::of(&tree)
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        if !self.service.is_running() {
            return Progress::Abandon;
        }
        self.pace.rest();
        let Some(walk) = &mut self.walk else {
            return Progress::Done;
        };
        let tree = self.service.tree();
        if self.service.generation() != self.generation {
            // Another tree has taken its place.
            return Progress::Abandon;
        }
        let more = walk.encode_next(&tree, out.len() + HOLD, out);
        if more { Progress::More } else { Progress::Done }
    }

    fn tail(&mut self) -> Tail {
        let tree = self.service.tree();
        let digest: TxnDigest = tree.digest();
        let digest = self
            .service
            .config
            .digest_enabled
            .then_some((tree.last_zxid(), digest));
        Tail {
            digest,
            last_zxid: Some(tree.last_zxid()),
        }
    }
}
