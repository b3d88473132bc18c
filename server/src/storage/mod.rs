//! Everything on disk, in the formats of Apache ZooKeeper: the transaction log, snapshots, the
//! epochs, and the way back from them to the state (spec: disk formats).
//!
//! What we assume of a disk: a sector is written as a whole or not at all; what was not synced may
//! be lost in any part and order; a rename is atomic; a name is durable once its directory is
//! synced; bytes that were synced stay what they are, or else a checksum tells.

pub mod cases;
pub mod disk;
pub mod epoch;
mod error;
mod files;
pub mod log;
#[doc(hidden)]
pub mod mem_disk;
pub mod purge;
pub mod recovery;
pub mod replica;
mod rewrite;
pub mod snapshot;
pub(crate) mod throttle;

use std::path::PathBuf;
use std::sync::Arc;

pub use cases::{Case, Decision, Finding};
pub use error::StorageError;
pub use files::{DataFile, FileKind, VERSION_DIR};

use disk::{Disk, LatchedDisk, RealDisk};
use epoch::{EpochFile, Epochs};
use log::{LogOptions, LogRange, LogReader, LogWriter};
use parking_lot::Mutex;
use purge::Purged;
use recovery::{Recovered, Report};
use rewrite::Rewrite;
use snapshot::{Compression, Source, Written};

use crate::zab::Entry;

/// Where and how things are stored.
#[derive(Debug, Clone)]
pub struct Options {
    /// Snapshots and epochs lie in `version-2` below it (`dataDir`).
    pub data_dir: PathBuf,
    /// The log lies in `version-2` below it (`dataLogDir`).
    pub log_dir: PathBuf,
    /// Creates missing directories (`datadir.autocreate`).
    pub create_dirs: bool,
    /// Takes an empty directory for a new database (`db.autocreate`).
    pub create_database: bool,
    /// Believes a log without a snapshot (`snapshot.trust.empty`).
    pub trust_empty_snapshot: bool,
    /// How new snapshots are compressed (`snapshot.compression.method`).
    pub compression: Compression,
    /// Ends the snapshot of a new database with the digest of the tree (`digest.enabled`).
    pub digests: bool,
    /// Transactions between two snapshots (`snapCount`).
    pub snap_count: u32,
    /// Bytes of log between two snapshots (`snapSizeLimitInKb`).
    pub snap_size_limit: Option<u64>,
    /// How the log is written.
    pub log: LogOptions,
}

impl Options {
    /// The defaults, with everything in one directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Options {
            log_dir: data_dir.clone(),
            data_dir,
            create_dirs: true,
            create_database: true,
            trust_empty_snapshot: false,
            compression: Compression::None,
            digests: true,
            snap_count: 100_000,
            snap_size_limit: Some(4 << 30),
            log: LogOptions::default(),
        }
    }
}

/// The directories that the files lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Of snapshots and epochs.
    pub data: PathBuf,
    /// Of logs; may be the same.
    pub log: PathBuf,
}

/// The storage of one server. Clones are handles of the same storage, and once a write or a sync
/// has failed in one of them, all of them refuse everything.
///
/// ```
/// use quorate_server::storage::{Options, Storage};
///
/// let dir = tempfile::tempdir()?;
/// let storage = Storage::new(Options::new(dir.path()));
/// let recovered = storage.recover()?;
/// assert_eq!(recovered.report.last_zxid, 0);
/// assert!(recovered.tree.get("/zookeeper").is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Storage {
    disk: LatchedDisk,
    dirs: Arc<Dirs>,
    options: Arc<Options>,
    /// How often the history was truncated or replaced. Whoever does so, gives a snapshot its
    /// name, or purges, holds the lock: none of them must see what the other has half done.
    rewrites: Arc<Mutex<u64>>,
}

impl Storage {
    /// Storage on the file system of the operating system. Touches nothing yet.
    pub fn new(options: Options) -> Self {
        Storage::on(Arc::new(RealDisk), options)
    }

    /// Storage on some other disk.
    pub fn on(disk: Arc<dyn Disk>, options: Options) -> Self {
        let dirs = Dirs {
            data: options.data_dir.join(VERSION_DIR),
            log: options.log_dir.join(VERSION_DIR),
        };
        Storage {
            disk: LatchedDisk::new(disk),
            dirs: Arc::new(dirs),
            options: Arc::new(options),
            rewrites: Arc::default(),
        }
    }

    /// The options that it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The directories that the files lie in.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// The failure that stopped it, if one did.
    pub fn failure(&self) -> Option<&StorageError> {
        self.disk.failure()
    }

    /// Reads the state and mends what a crash left behind. Tells the log everything that was out of
    /// the ordinary.
    pub fn recover(&self) -> Result<Recovered, StorageError> {
        for dir in [&self.dirs.data, &self.dirs.log] {
            if self.options.create_dirs {
                self.disk.create_dir(dir)?;
            } else {
                self.disk.require_dir(dir)?;
            }
        }
        let recovered = recovery::recover(&self.disk, &self.dirs, &self.options)?;
        let report = &recovered.report;
        for finding in &report.findings {
            let case = finding.case.label();
            if finding.case == Case::Empty {
                tracing::info!(case, "{finding}");
            } else {
                tracing::warn!(case, "{finding}");
            }
        }
        tracing::info!(
            snapshot = report.snapshot.as_deref().map(|path| tracing::field::display(path.display())),
            replayed = report.replayed,
            zxid = format_args!("{:#x}", report.last_zxid),
            znodes = recovered.tree.len(),
            elapsed = ?report.elapsed,
            "recovered"
        );
        Ok(recovered)
    }

    /// Finds out what [`recover`](Storage::recover) would do, and changes nothing.
    pub fn inspect(&self) -> Result<Report, StorageError> {
        recovery::inspect(&self.disk, &self.dirs, &self.options)
    }

    /// A writer of the log. There must be no other one.
    pub fn log_writer(&self) -> LogWriter {
        LogWriter::new(
            self.disk.clone(),
            self.dirs.log.clone(),
            self.options.log.clone(),
        )
    }

    /// Reads the log after the transaction `after`.
    pub fn log_reader(&self, after: i64) -> Result<LogReader, StorageError> {
        LogReader::open(self.disk.clone(), &self.dirs.log, after)
    }

    /// Decides when snapshots are due; `seed` keeps the servers of an ensemble from all taking
    /// theirs at once.
    pub fn snapshot_trigger(&self, seed: u64) -> SnapshotTrigger {
        SnapshotTrigger::new(self.options.snap_count, self.options.snap_size_limit, seed)
    }

    /// A cursor that reads the log for a learner while it goes on growing.
    pub fn log_range(&self) -> LogRange {
        LogRange::new(self.disk.clone(), Dirs::clone(&self.dirs))
    }

    /// The newest transactions of a log that ends with `last_zxid`, oldest first and without a
    /// gap: at most `count` of them and `bytes` bytes. None if the newest are in a snapshot only.
    pub fn recent(
        &self,
        last_zxid: i64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        log::recent(&self.disk, &self.dirs, last_zxid, count, bytes)
    }

    /// Writes a snapshot: it is whole and durable when it gets its name. Answers none if the
    /// source abandoned it, or if the history is not the same any more.
    ///
    /// Memory is bounded by one call of [`Source::nodes`] and a few buffers. It blocks the thread,
    /// so that it belongs on one of its own.
    pub fn write_snapshot(&self, source: &mut dyn Source) -> Result<Option<Written>, StorageError> {
        let before = *self.rewrites.lock();
        let Some(snapshot) = self.write_unnamed(FileKind::Snapshot, source)? else {
            return Ok(None);
        };
        let rewrites = self.rewrites.lock();
        if *rewrites == before {
            return snapshot.publish(&self.disk).map(Some);
        }
        snapshot.discard(&self.disk)?;
        Ok(None)
    }

    fn write_unnamed(
        &self,
        kind: FileKind,
        source: &mut dyn Source,
    ) -> Result<Option<snapshot::Unnamed>, StorageError> {
        let compression = self.options.compression;
        snapshot::write(&self.disk, &self.dirs.data, kind, compression, source)
    }

    /// Makes a snapshot of `source` the whole history.
    fn install(&self, source: &mut dyn Source) -> Result<(), StorageError> {
        let Some(snapshot) = self.write_unnamed(FileKind::Install, source)? else {
            return Ok(());
        };
        let mut rewrites = self.rewrites.lock();
        *rewrites += 1;
        Rewrite::install(&self.disk, snapshot)?.complete(&self.disk, &self.dirs, None)
    }

    /// Removes the snapshots and logs that are not needed if the newest `retain` snapshots are
    /// kept.
    pub fn purge(&self, retain: usize) -> Result<Purged, StorageError> {
        let _same_history = self.rewrites.lock();
        purge::purge(&self.disk, &self.dirs, retain)
    }

    /// Reads the epochs of a member of an ensemble whose newest transaction is `last_zxid`; see
    /// [`epoch::load`].
    pub fn epochs(&self, last_zxid: i64) -> Result<Epochs, StorageError> {
        epoch::load(&self.disk, &self.dirs.data, last_zxid)
    }

    /// Makes an epoch durable.
    pub fn write_epoch(&self, file: EpochFile, epoch: u32) -> Result<(), StorageError> {
        epoch::write(&self.disk, &self.dirs.data, file, epoch)
    }

    /// Bytes that may still be written to the log's file system.
    pub fn free_space(&self) -> Result<u64, StorageError> {
        self.disk.free_space(&self.dirs.log)
    }
}

/// Decides when a snapshot is due: once the transactions, or the bytes of log, since the last one
/// exceed half of what is configured and a random part of the other half.
#[derive(Debug, Clone)]
pub struct SnapshotTrigger {
    count: u64,
    size: Option<u64>,
    seed: u64,
    txns: u64,
    max_txns: u64,
    max_size: u64,
}

impl SnapshotTrigger {
    fn new(count: u32, size: Option<u64>, seed: u64) -> Self {
        let (txns, max_txns, max_size) = (0, 0, 0);
        let mut trigger = SnapshotTrigger {
            count: u64::from(count),
            size,
            seed,
            txns,
            max_txns,
            max_size,
        };
        trigger.draw();
        trigger
    }

    /// Counts transactions that were appended; `log_size` is [`LogWriter::size`]. If it answers
    /// true, roll the log, take a snapshot, and go on counting from zero.
    pub fn appended(&mut self, txns: u64, log_size: u64) -> bool {
        self.txns += txns;
        let due = self.txns > self.max_txns || log_size > self.max_size;
        if due {
            self.txns = 0;
            self.draw();
        }
        due
    }

    fn draw(&mut self) {
        let mut below = |bound: u64| {
            self.seed = self
                .seed
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            ((self.seed >> 33) * bound) >> 31
        };
        self.max_txns = self.count / 2 + below((self.count / 2).min(1 << 30));
        self.max_size = self.size.map_or(u64::MAX, |size| {
            // Steps of a mebibyte keep the product in range.
            size / 2 + (below((size >> 21).min(1 << 30)) << 20)
        });
    }
}
