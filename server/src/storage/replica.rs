//! The disk of an ensemble's member: what the outputs of [`crate::zab`] ask of it, one after the
//! other and each durable when it is to be.

use std::time::Duration;

use super::epoch::EpochFile;
use super::error::StorageError;
use super::log::{LogWriter, encode_record, follows};
use super::snapshot::{Head, Progress, Source, StillTree, Tail};
use super::{Storage, recovery};
use crate::tree::Tree;
use crate::zab::Entry;

/// More than that is not gathered before it is written.
const GATHERED: usize = 256 << 10;

/// The log, the epochs and the snapshots of a member. One thread owns it.
///
/// After an error everything fails: what the disk holds is then unknown, and the server has to
/// stop. Only a [`truncate`](Replica::truncate) that answers `None` is none.
///
/// ```
/// use bytes::Bytes;
/// use quorate_server::storage::{Options, Storage, replica::Replica};
/// use quorate_server::zab::{Entry, LogRead, zxid_of};
///
/// let dir = tempfile::tempdir()?;
/// let storage = Storage::new(Options::new(dir.path()));
/// let recovered = storage.recover()?;
/// let mut replica = Replica::new(storage.clone(), recovered.report.last_zxid);
///
/// let zxid = zxid_of(1, 1);
/// let mut bytes = vec![0; 32];
/// bytes[12..20].copy_from_slice(&zxid.to_be_bytes());
/// replica.append(&[Entry { zxid, bytes: Bytes::from(bytes) }])?;
/// replica.sync()?;
///
/// let read = storage.log_range().read(0, zxid, 1 << 20);
/// assert!(matches!(read, LogRead::Entries(entries) if entries.len() == 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Replica {
    storage: Storage,
    log: LogWriter,
    /// The newest transaction in the log; -1 if there is not even a database.
    last_zxid: i64,
    /// Records that are still to be written, and the transaction that they begin with.
    records: Vec<u8>,
    first: i64,
    /// Was something written since the last sync?
    dirty: bool,
}

impl Replica {
    /// The disk after a recovery that found `last_zxid` to be the newest transaction.
    pub fn new(storage: Storage, last_zxid: i64) -> Self {
        Replica {
            log: storage.log_writer(),
            storage,
            last_zxid,
            records: Vec::new(),
            first: 0,
            dirty: false,
        }
    }

    /// The newest transaction that was appended.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// Appends transactions. What is appended before the next [`sync`](Replica::sync) is written
    /// at once, unless it is a lot.
    ///
    /// # Errors
    /// [`StorageError::OutOfOrder`] if they leave a gap behind the last one: then none of them is
    /// appended. Otherwise what the operating system says.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let mut last = self.last_zxid;
        for entry in entries {
            if !follows(last, entry.zxid) {
                let next = entry.zxid;
                return Err(StorageError::OutOfOrder { last, next });
            }
            last = entry.zxid;
        }
        if self.last_zxid < 0 && !entries.is_empty() {
            // No log without a snapshot: recovery could not tell that none was lost.
            let tree = Tree::new();
            self.storage.write_snapshot(&mut StillTree::new(&tree))?;
        }
        self.last_zxid = last;
        for entry in entries {
            if self.records.is_empty() {
                self.first = entry.zxid;
            }
            encode_record(&mut self.records, |body| {
                body.extend_from_slice(&entry.bytes);
            });
            if self.records.len() >= GATHERED {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StorageError> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        self.log.append(self.first, &self.records)?;
        self.records.clear();
        // One huge transaction does not take up its room for ever.
        self.records.shrink_to(2 * GATHERED);
        Ok(())
    }

    /// Makes everything that was appended durable. Answers how long the sync took.
    pub fn sync(&mut self) -> Result<Duration, StorageError> {
        self.write()?;
        if !std::mem::take(&mut self.dirty) {
            return Ok(Duration::ZERO);
        }
        self.log.sync()
    }

    /// Makes an epoch durable, and everything that was appended before it.
    pub fn write_epoch(&mut self, file: EpochFile, epoch: u32) -> Result<(), StorageError> {
        self.sync()?;
        self.storage.write_epoch(file, epoch)
    }

    /// Removes everything behind the transaction `zxid`, which has to be in the history. Answers
    /// the tree as it was then, or `None` if there is no way back to it: then nothing was changed.
    pub fn truncate(&mut self, zxid: i64) -> Result<Option<Tree>, StorageError> {
        self.roll()?;
        let Some(past) = recovery::rewind(&self.storage.disk, &self.storage.dirs, zxid)? else {
            return Ok(None);
        };
        let mut rewrites = self.storage.rewrites.lock();
        *rewrites += 1;
        let tree = past.truncate()?;
        self.last_zxid = zxid;
        Ok(Some(tree))
    }

    /// Makes `tree`, which came from the leader, the whole history, durably: snapshots and logs
    /// from before are removed.
    pub fn install(&mut self, tree: &Tree) -> Result<(), StorageError> {
        self.roll()?;
        self.storage.install(&mut Received(StillTree::new(tree)))?;
        self.last_zxid = tree.last_zxid();
        Ok(())
    }

    /// Makes everything durable and closes the log; the next transaction opens another file.
    pub fn roll(&mut self) -> Result<(), StorageError> {
        self.write()?;
        self.dirty = false;
        self.log.roll()
    }

    /// Bytes of log that were written since the last [`roll`](Replica::roll), for
    /// [`SnapshotTrigger`](super::SnapshotTrigger).
    pub fn size(&self) -> u64 {
        self.log.size()
    }
}

/// A tree that was dumped while its leader went on: it may show something of transactions behind
/// its zxid, so that its digest is that of no transaction.
///
/// All of them are committed, and so nothing that the tree shows is ever truncated: the snapshot
/// counts as one that ends with its zxid.
struct Received<'a>(StillTree<'a>);

impl Source for Received<'_> {
    fn head(&mut self) -> Head {
        self.0.head()
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        self.0.nodes(out)
    }

    fn tail(&mut self) -> Tail {
        let mut tail = self.0.tail();
        // A digest of transaction 0 stands for none, and the other parts of the tail keep their
        // places.
        tail.digest = tail.digest.map(|(_, digest)| (0, digest));
        tail
    }
}
