//! The one that appends.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use quorate_proto::jute::Encode;

use super::{DBID, HEADER_SIZE, MAGIC, VERSION};
use crate::storage::disk::{LatchedDisk, LatchedFile};
use crate::storage::error::StorageError;
use crate::storage::files::{self, FileKind};

/// How the log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes by which a file grows ahead of its records; 0 lets it grow with them
    /// (`preAllocSize`).
    pub preallocation: u64,
    /// Length, padding included, above which a file is closed (`txnLogSizeLimitInKb`).
    pub size_limit: Option<u64>,
    /// False: leave it to the operating system when records become durable, and risk to lose
    /// acknowledged transactions in a power failure (`forceSync=no`).
    pub force_sync: bool,
    /// A sync that takes longer is worth a warning (`fsync.warningthresholdms`).
    pub slow_sync: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            preallocation: 64 << 20,
            size_limit: None,
            force_sync: true,
            slow_sync: Duration::from_secs(1),
        }
    }
}

/// A file is extended once fewer bytes than this are left behind its records.
const HEADROOM: u64 = 4096;

/// Small batches get this many zeros written behind them.
///
/// Extending the file ahead keeps its length out of `fdatasync`, but the blocks are still assigned
/// when they are first written, and that is journalled. With the zeros, most of the small batches
/// overwrite blocks that exist: on ext4 most measurements showed an `fdatasync` of
/// up to 16 KiB to be 5 to 28 % shorter.
/// Large batches lose more by being written twice than they gain.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// The system forgets this many bytes at once.
const LET_GO: u64 = 1 << 20;
/// Batches up to this length count as small.
const SMALL_BATCH: u64 = 16 << 10;

/// Appends to the log. One thread owns it.
///
/// A record is durable once [`sync`](LogWriter::sync) has returned after it was appended. After an
/// error the disk's latch is closed and every further call fails: what the file holds behind the
/// last sync is then unknown.
///
/// ```
/// use quorate_server::storage::disk::{Disk, LatchedDisk};
/// use quorate_server::storage::log::{LogOptions, LogReader, LogWriter, encode_record};
/// use quorate_server::storage::mem_disk::MemDisk;
/// use std::{path::Path, sync::Arc};
///
/// let disk = LatchedDisk::new(Arc::new(MemDisk::new()));
/// let dir = Path::new("/data/version-2");
/// disk.create_dir(dir)?;
/// let mut log = LogWriter::new(disk.clone(), dir.to_owned(), LogOptions::default());
/// let mut records = Vec::new();
/// for zxid in 1..=2i64 {
///     encode_record(&mut records, |body| {
///         body.extend_from_slice(&[0; 12]);
///         body.extend_from_slice(&zxid.to_be_bytes());
///         body.extend_from_slice(&[0; 12]);
///     });
/// }
/// log.append(1, &records)?;
/// log.sync()?;
///
/// let mut reader = LogReader::open(disk, dir, 1)?;
/// assert!(reader.advance()?);
/// assert_eq!(reader.record().zxid, 2);
/// assert!(!reader.advance()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LogWriter {
    disk: LatchedDisk,
    dir: PathBuf,
    options: LogOptions,
    file: Option<OpenLog>,
    /// Bytes of the files closed since the last [`LogWriter::roll`].
    closed: u64,
}

#[derive(Debug)]
struct OpenLog {
    file: LatchedFile,
    /// Behind the last record.
    position: u64,
    /// Length of the file.
    size: u64,
    /// Up to here the blocks have been written.
    written: u64,
    /// From here on the system keeps the file in memory.
    kept: u64,
    /// Has its name not been made durable yet?
    new: bool,
}

impl LogWriter {
    /// A writer for `dir`; the first record opens a file.
    pub fn new(disk: LatchedDisk, dir: PathBuf, options: LogOptions) -> Self {
        LogWriter {
            disk,
            dir,
            options,
            file: None,
            closed: 0,
        }
    }

    /// Appends encoded records in one write; the first of them has the zxid `first_zxid`. It
    /// becomes the name of the file if none is open.
    pub fn append(&mut self, first_zxid: i64, records: &[u8]) -> Result<(), StorageError> {
        if self.file.is_none() {
            self.file = Some(self.create(first_zxid)?);
        }
        match &mut self.file {
            Some(log) => log.append(records, self.options.preallocation),
            None => Ok(()),
        }
    }

    /// Files are always new: what an existing one holds behind its records would come to life
    /// again if records of the right length were put in front of it.
    fn create(&self, first_zxid: i64) -> Result<OpenLog, StorageError> {
        let path = self.dir.join(files::name(FileKind::Log, first_zxid, ""));
        let file = self.disk.create(&path)?;
        let mut header = Vec::with_capacity(HEADER_SIZE);
        header.extend_from_slice(&MAGIC);
        VERSION.encode(&mut header);
        DBID.encode(&mut header);
        file.write_at(&header, 0)?;
        tracing::debug!(path = %path.display(), "log begins");
        let position = HEADER_SIZE as u64;
        Ok(OpenLog {
            file,
            position,
            size: position,
            written: position,
            kept: 0,
            new: true,
        })
    }

    /// Makes all appended records durable, and the name of a new file with them. Answers how long
    /// that took.
    pub fn sync(&mut self) -> Result<Duration, StorageError> {
        let begin = Instant::now();
        let Some(log) = &mut self.file else {
            return Ok(Duration::ZERO);
        };
        if self.options.force_sync {
            log.file.sync()?;
            if log.new {
                self.disk.sync_dir(&self.dir)?;
                log.new = false;
            }
            log.let_go();
        }
        let elapsed = begin.elapsed();
        if elapsed > self.options.slow_sync {
            let path = log.file.path().display();
            tracing::warn!(%path, ?elapsed, size = log.size, "slow sync of the transaction log");
        }
        if self
            .options
            .size_limit
            .is_some_and(|limit| log.size > limit)
        {
            self.close();
        }
        Ok(elapsed)
    }

    /// Syncs and closes the file; the next record opens another one. Snapshots do this, so that
    /// the logs in front of them can be removed one day.
    pub fn roll(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        self.close();
        self.closed = 0;
        Ok(())
    }

    fn close(&mut self) {
        self.closed += self.file.take().map_or(0, |log| log.size);
    }

    /// Bytes of all files, padding included, since the last [`roll`](LogWriter::roll).
    pub fn size(&self) -> u64 {
        self.closed + self.file.as_ref().map_or(0, |log| log.size)
    }
}

impl OpenLog {
    fn append(&mut self, records: &[u8], preallocation: u64) -> Result<(), StorageError> {
        let end = self.position + records.len() as u64;
        if preallocation > 0 && end + HEADROOM >= self.size {
            while end + HEADROOM >= self.size {
                self.size += preallocation;
            }
            self.file.set_len(self.size)?;
        }
        self.file.write_at(records, self.position)?;
        if preallocation > 0 && records.len() as u64 <= SMALL_BATCH && end > self.written {
            let room = usize::try_from(self.size - end).unwrap_or(usize::MAX);
            let zeros = &ZEROS[..ZEROS.len().min(room)];
            self.file.write_at(zeros, end)?;
            self.written = end + zeros.len() as u64;
        }
        self.position = end;
        self.written = self.written.max(end);
        self.size = self.size.max(end);
        Ok(())
    }

    /// Everything is durable. Nobody reads it soon, so that the memory that it takes is better used
    /// for what follows: fresh memory costs more than the copy into it.
    fn let_go(&mut self) {
        let full = self.position - self.position % LET_GO;
        if full > self.kept {
            self.file.let_go(self.kept..full);
            self.kept = full;
        }
    }
}
