//! The thread that proposes what the service has queued, and does what waits for the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::DiskWork;
use super::{Applying, Quorum};
use crate::config::DynamicFiles;
use crate::error::ServerError;
use crate::service::{End, Snapshots};
use crate::storage::replica::Replica;
use crate::zab::{Input, Membership, Position};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Logger {
    quorum: Arc<Quorum>,
    replica: Replica,
    files: DynamicFiles,
    snapshots: Snapshots,
}

impl Logger {
    pub(super) fn new(
        quorum: Arc<Quorum>,
        replica: Replica,
        files: DynamicFiles,
        snapshots: Snapshots,
    ) -> Self {
        Logger {
            quorum,
            replica,
            files,
            snapshots,
        }
    }

    /// Works until the member stops, or until the disk fails: then nothing more is promised to
    /// anybody.
    pub(super) fn run(mut self, mut end: End) {
        end.cause = self.work().err();
        self.quorum.begin_stop();
        self.snapshots.wait();
    }

    fn work(&mut self) -> Result<(), ServerError> {
        let quorum = Arc::clone(&self.quorum);
        let disk = &quorum.wires.disk;
        let mut proposing = false;
        loop {
            let mut woken = if proposing { disk.poll() } else { disk.take() };
            proposing |= woken.proposals;
            if proposing {
                // What it appends is done with the rest: one sync for all.
                proposing = quorum.propose();
                let more = disk.poll();
                proposing |= more.proposals;
                woken.resign = woken.resign.or(more.resign);
                woken.work.extend(more.work);
            }
            if let Some(to) = woken.resign {
                // The service numbers nothing more: this was the last.
                while quorum.propose() {}
                quorum.tell([Input::HandOver { to }]);
            }
            if woken.stopping {
                return Ok(());
            }
            self.carry_out(woken.work)?;
        }
    }

    fn carry_out(&mut self, work: VecDeque<DiskWork>) -> Result<(), ServerError> {
        let mut appended = None;
        for work in work {
            if let DiskWork::Append { entries, position } = work {
                self.replica.append(&entries)?;
                let (txns, _) = appended.unwrap_or_default();
                appended = Some((txns + entries.len() as u64, position));
                continue;
            }
            self.sync(appended.take())?;
            self.carry_out_alone(work)?;
        }
        self.sync(appended)
    }

    fn sync(&mut self, appended: Option<(u64, Position)>) -> Result<(), ServerError> {
        let Some((txns, position)) = appended else {
            return Ok(());
        };
        self.replica.sync()?;
        let aftermath = self.quorum.step([Input::Durable { position }]);
        self.quorum.conclude(aftermath, Applying::There);
        let service = &self.quorum.service;
        if self.snapshots.are_due(service, txns, self.replica.size()) {
            self.replica.roll()?;
            self.snapshots.begin(service)?;
        }
        Ok(())
    }

    fn carry_out_alone(&mut self, work: DiskWork) -> Result<(), ServerError> {
        let quorum = &self.quorum;
        match work {
            DiskWork::Append { .. } => {}
            DiskWork::Propound(config) => self.files.propose(&config)?,
            DiskWork::Activate(config) => self.files.activate(&config)?,
            DiskWork::Epoch { file, epoch } => {
                self.replica.write_epoch(file, epoch)?;
                quorum.tell([Input::EpochWritten { file, epoch }]);
            }
            DiskWork::Truncate { zxid } => {
                let tree = self.replica.truncate(zxid)?;
                let last_zxid = tree.is_some().then_some(zxid);
                // One that is behind goes on where it is.
                quorum.service.rest();
                if let Some(tree) = tree
                    && quorum.service.tree().last_zxid() > zxid
                {
                    quorum.service.replace_tree(tree);
                }
                quorum.tell([Input::Truncated { last_zxid }]);
            }
            DiskWork::Install {
                link,
                zxid,
                tree,
                installing,
            } => {
                let shown = Membership::shown_by(&tree);
                if let Some(config) = &shown {
                    self.files.await_tree(config)?;
                }
                self.replica.install(&tree)?;
                quorum.service.rest();
                quorum.service.replace_tree(*tree);
                quorum.tell([Input::Installed { link, zxid, shown }]);
                drop(installing);
            }
        }
        Ok(())
    }
}
