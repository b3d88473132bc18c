//! The logger: makes what is queued durable, with one write and one sync for all of it.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use super::Service;
use super::applier::Applier;
use super::queue::Batch;
use super::snapshot::Snapshots;
use crate::error::ServerError;
use crate::storage::log::LogWriter;

/// Batches that may be durable and not applied: one that is being applied, and one that waits.
const AHEAD: usize = 1;

/// Owns the log, on a thread of its own. What it has made durable it hands to the [`Applier`], and
/// goes on with what has queued up meanwhile.
#[derive(Debug)]
pub(crate) struct Logger {
    service: Arc<Service>,
    log: LogWriter,
    snapshots: Snapshots,
}

/// Says that the server is over, even where one of its threads panics.
pub(crate) struct End {
    service: Arc<Service>,
    pub(crate) cause: Option<ServerError>,
}

impl End {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        End {
            service,
            cause: Some(ServerError::Panicked),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(cause) = &self.cause {
            tracing::error!(error = %cause, "the server stops, because it can no longer write");
        }
        self.service.stopped(self.cause.take());
    }
}

/// Ends the wait of the logger for more work when the applier ends, be it by a panic.
struct Stop(Arc<Service>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.drain();
    }
}

impl Logger {
    pub(crate) fn new(service: Arc<Service>, log: LogWriter, snapshots: Snapshots) -> Self {
        Logger {
            service,
            log,
            snapshots,
        }
    }

    /// Works until the service stops, or until the disk fails: then nothing more is answered.
    pub(crate) fn run(mut self) {
        let mut end = End::new(Arc::clone(&self.service));
        end.cause = self.log_and_apply().err();
        // If it was the disk that failed, nobody has told the rest yet, least of all a snapshot.
        self.service.drain();
        self.snapshots.wait();
    }

    fn log_and_apply(&mut self) -> Result<(), ServerError> {
        let (durable, to_apply) = mpsc::sync_channel(AHEAD);
        let (done, free) = mpsc::channel();
        let applier = Applier::new(Arc::clone(&self.service));
        let stop = Stop(Arc::clone(&self.service));
        let applier = thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || {
                let _stop = stop;
                applier.run(&to_apply, &done)
            })
            .map_err(ServerError::Thread)?;
        let logged = self.log_batches(&durable, &free);
        // The applier ends behind the last batch.
        drop(durable);
        let applied = applier.join().unwrap_or(Err(ServerError::Panicked));
        applied.and(logged)
    }

    fn log_batches(
        &mut self,
        durable: &SyncSender<Batch>,
        free: &Receiver<Batch>,
    ) -> Result<(), ServerError> {
        while let Some(batch) = self.next_batch(free.try_recv().unwrap_or_default()) {
            if !batch.records.is_empty() {
                self.log.append(batch.first_zxid, &batch.records)?;
                self.log.sync()?;
            }
            let txns = batch.txns();
            if durable.send(batch).is_err() {
                // The applier has failed, and says why.
                return Ok(());
            }
            if self.snapshots.are_due(&self.service, txns, self.log.size()) {
                self.log.roll()?;
                self.snapshots.begin(&self.service)?;
            }
        }
        Ok(())
    }

    /// Waits for work, and exchanges it for an `empty` batch. `None` once there is none and the
    /// service is stopping.
    fn next_batch(&self, mut empty: Batch) -> Option<Batch> {
        let mut queue = self.service.queue.lock();
        loop {
            if queue.take(&mut empty) {
                return Some(empty);
            }
            if queue.is_stopping() {
                return None;
            }
            self.service.filled.wait(&mut queue);
        }
    }
}
