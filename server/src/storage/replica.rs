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

/// A buffer that one huge batch has left behind is not kept for ever.
const KEPT_CAPACITY: usize = 1 << 20;

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
    /// Was something appended since the last sync?
    dirty: bool,
    records: Vec<u8>,
}

impl Replica {
    /// The disk after a recovery that found `last_zxid` to be the newest transaction.
    pub fn new(storage: Storage, last_zxid: i64) -> Self {
        Replica {
            log: storage.log_writer(),
            storage,
            last_zxid,
            dirty: false,
            records: Vec::new(),
        }
    }

    /// The newest transaction that was appended.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// Appends transactions, in one write.
    ///
    /// # Errors
    /// [`StorageError::OutOfOrder`] if they leave a gap behind the last one: then nothing was
    /// written. Otherwise what the operating system says.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let mut previous = self.last_zxid;
        for entry in entries {
            in_order(previous, entry.zxid)?;
            previous = entry.zxid;
        }
        let mut records = std::mem::take(&mut self.records);
        for entry in entries {
            encode_record(&mut records, |body| body.extend_from_slice(&entry.bytes));
        }
        let appended = self.append_records(first.zxid, last.zxid, &records);
        records.clear();
        records.shrink_to(KEPT_CAPACITY);
        self.records = records;
        appended
    }

    /// Appends transactions `first` to `last`, already encoded as records one behind the other
    /// (see [`encode_record`]).
    ///
    /// # Errors
    /// As [`Replica::append`].
    pub fn append_records(
        &mut self,
        first: i64,
        last: i64,
        records: &[u8],
    ) -> Result<(), StorageError> {
        in_order(self.last_zxid, first)?;
        if self.last_zxid < 0 {
            // No log without a snapshot: recovery could not tell that none was lost.
            self.storage
                .write_snapshot(&mut StillTree::new(&Tree::new()))?;
        }
        self.dirty = true;
        self.last_zxid = last;
        self.log.append(first, records)
    }

    /// Makes everything that was appended durable. Answers how long that took.
    pub fn sync(&mut self) -> Result<Duration, StorageError> {
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
        self.dirty = false;
        self.log.roll()
    }

    /// Bytes of log since the last [`roll`](Replica::roll), for
    /// [`SnapshotTrigger`](super::SnapshotTrigger).
    pub fn size(&self) -> u64 {
        self.log.size()
    }
}

fn in_order(last: i64, next: i64) -> Result<(), StorageError> {
    match follows(last, next) {
        true => Ok(()),
        false => Err(StorageError::OutOfOrder { last, next }),
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
