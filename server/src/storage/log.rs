//! The transaction log: one writer that appends and syncs in batches, and readers that tell a torn
//! tail from damage (spec: disk formats, sections 3, 4 and 10).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_proto::TxnHeader;
use quorate_proto::jute::{Decode, Encode};
use simd_adler32::Adler32;

use super::cases::{Case, Finding};
use super::disk::{LatchedDisk, LatchedFile, SECTOR};
use super::error::StorageError;
use super::files::{self, DataFile, FileKind};

const MAGIC: [u8; 4] = *b"ZKLG";
const VERSION: i32 = 2;
const DBID: i64 = 0;
/// Bytes of the header of a file.
const HEADER_SIZE: usize = 16;

/// Bytes in front of a record's body: checksum and length.
const HEAD_SIZE: usize = 12;
/// Behind every record.
const END_BYTE: u8 = b'B';
/// Bytes of the shortest body: a header without a transaction.
const MIN_BODY: usize = TxnHeader::MIN_SIZE;
/// No record is longer, so that a damaged length reserves no memory. The longest in practice lists
/// the ephemerals of a session that ends.
const MAX_BODY: usize = 256 << 20;

/// Appends one record: checksum, length, the body that `body` appends, end byte.
///
/// ```
/// let mut out = Vec::new();
/// quorate_server::storage::log::encode_record(&mut out, |out| out.extend_from_slice(b"body"));
/// assert_eq!(out.len(), 12 + 4 + 1);
/// ```
pub fn encode_record(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_SIZE]);
    body(out);
    let (head, body) = out[start..].split_at_mut(HEAD_SIZE);
    head[..8].copy_from_slice(&i64::from(adler32(body)).to_be_bytes());
    let length = i32::try_from(body.len()).unwrap_or(i32::MAX);
    head[8..].copy_from_slice(&length.to_be_bytes());
    out.push(END_BYTE);
}

/// The body of a record that [`encode_record`] has made.
pub fn record_body(record: &[u8]) -> &[u8] {
    record
        .get(HEAD_SIZE..record.len().saturating_sub(1))
        .unwrap_or_default()
}

fn adler32(bytes: &[u8]) -> u32 {
    let mut adler = Adler32::new();
    adler.write(bytes);
    adler.finish()
}

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
/// overwrite blocks that exist: measured on ext4, 15 to 30 % off an `fdatasync` of up to 16 KiB.
/// Large batches lose more by being written twice than they gain.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
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
        let path = self.dir.join(files::log_name(first_zxid));
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
}

/// One transaction as it lies in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it begins in its file.
    pub offset: u64,
    /// Its number.
    pub zxid: i64,
    /// A transaction entry: header, transaction, optional digest.
    pub body: &'a [u8],
}

/// How the records of a file end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// With zeros or the end of the file.
    Clean,
    /// With something that was being written when the server stopped.
    Torn,
    /// With a record that was damaged later.
    Damaged(String),
    /// There is no header, because nothing whole was ever written.
    NoHeader,
    /// The header is that of something else.
    BadHeader,
}

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Behind a clean end nothing but padding is expected for at least this many bytes; it is not
/// worth reading tens of megabytes of it.
const PADDING_CHECKED: usize = 256 << 10;
/// How much is searched for intact records behind a broken one.
const SEARCHED: usize = 64 << 20;

/// Reads the records of one file.
#[derive(Debug)]
struct LogFile {
    file: LatchedFile,
    len: u64,
    buf: Vec<u8>,
    /// Bytes of `buf` that hold content.
    filled: usize,
    /// Offset of `buf` in the file.
    start: u64,
    /// Range of the current body in `buf`.
    body: std::ops::Range<usize>,
    /// Where the next record begins, in `buf`.
    next: usize,
    ending: Option<Ending>,
    records: u64,
}

impl LogFile {
    fn open(disk: &LatchedDisk, path: &Path) -> Result<Self, StorageError> {
        let file = disk.open(path)?;
        let len = file.size()?;
        let mut log = LogFile {
            file,
            len,
            buf: Vec::new(),
            filled: 0,
            start: 0,
            body: 0..0,
            next: HEADER_SIZE,
            ending: None,
            records: 0,
        };
        log.ending = log.check_header()?;
        Ok(log)
    }

    fn check_header(&mut self) -> Result<Option<Ending>, StorageError> {
        let sector = self.window(0, SECTOR)?;
        Ok(
            if sector.len() < HEADER_SIZE || sector.iter().all(|b| *b == 0) {
                Some(Ending::NoHeader)
            } else if sector.starts_with(&MAGIC) {
                None
            } else {
                Some(Ending::BadHeader)
            },
        )
    }

    /// At most `len` bytes from `at` in the buffer on; fewer only at the end of the file.
    fn window(&mut self, at: usize, len: usize) -> Result<&[u8], StorageError> {
        if at + len > self.filled && self.start + (self.filled as u64) < self.len {
            self.buf.copy_within(at..self.filled, 0);
            self.start += at as u64;
            self.filled -= at;
            self.next -= at;
            let left = usize::try_from(self.len - self.start).unwrap_or(usize::MAX);
            let wanted = len.max(CHUNK).min(left);
            if self.buf.len() < wanted {
                self.buf.resize(wanted, 0);
            }
            let offset = self.start + self.filled as u64;
            let read = self
                .file
                .read_at(&mut self.buf[self.filled..wanted], offset)?;
            if self.filled + read < wanted {
                // Cut while we were reading it.
                self.len = offset + read as u64;
            }
            self.filled += read;
            return Ok(&self.buf[..self.filled.min(len)]);
        }
        Ok(&self.buf[at..self.filled.min(at + len)])
    }

    /// Where the next record begins, or would.
    fn offset(&self) -> u64 {
        self.start + self.next as u64
    }

    /// Goes to the next record. At the end, `ending` says how it ends.
    fn advance(&mut self) -> Result<bool, StorageError> {
        if self.ending.is_some() {
            return Ok(false);
        }
        let left = self.len - self.offset();
        let head = self.window(self.next, HEAD_SIZE)?;
        let size = match Head::read(head) {
            Some(head) if head.is_padding() => None,
            Some(head) => head.record_size().filter(|size| *size as u64 <= left),
            None => None,
        };
        if let Some(size) = size {
            let record = self.window(self.next, size)?;
            if record.len() == size && is_whole(record) {
                self.body = self.next + HEAD_SIZE..self.next + size - 1;
                self.next += size;
                self.records += 1;
                return Ok(true);
            }
        }
        self.ending = Some(self.judge()?);
        Ok(false)
    }

    /// The record that [`LogFile::advance`] went to.
    fn record(&self) -> Record<'_> {
        let body = &self.buf[self.body.clone()];
        Record {
            offset: self.start + (self.body.start.saturating_sub(HEAD_SIZE)) as u64,
            zxid: zxid_of(body),
            body,
        }
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    /// What the end of the file means.
    fn verdict(&self, is_newest: bool) -> Result<Option<Finding>, StorageError> {
        let finding = |case| Finding::new(case, self.path()).at(self.offset());
        match &self.ending {
            None | Some(Ending::Clean) if self.records > 0 || !is_newest => Ok(None),
            None | Some(Ending::Clean | Ending::NoHeader) if is_newest => {
                Ok(Some(Finding::new(Case::LogUnstarted, self.path())))
            }
            Some(Ending::Torn) if is_newest && self.records == 0 => {
                Ok(Some(Finding::new(Case::LogUnstarted, self.path())))
            }
            Some(Ending::Torn) if is_newest => Ok(Some(finding(Case::TornTail))),
            Some(Ending::Torn) => Ok(Some(finding(Case::TornTailPassed))),
            Some(Ending::Damaged(detail)) => {
                Err(finding(Case::RecordDamaged).detail(detail.clone()).into())
            }
            _ => Err(Finding::new(Case::LogHeaderDamaged, self.path()).into()),
        }
    }

    /// Decides why there is no whole record at `next`.
    fn judge(&mut self) -> Result<Ending, StorageError> {
        let padding = self.window(self.next, PADDING_CHECKED)?;
        if padding.iter().all(|b| *b == 0) {
            return Ok(Ending::Clean);
        }
        let offset = self.offset();
        let rest = self.window(self.next, SEARCHED)?;
        Ok(judge(rest, offset))
    }
}

fn zxid_of(body: &[u8]) -> i64 {
    let zxid = body.get(12..20).and_then(|zxid| zxid.try_into().ok());
    i64::from_be_bytes(zxid.unwrap_or_default())
}

/// What stands in front of a body.
#[derive(Debug, Clone, Copy)]
struct Head {
    checksum: i64,
    length: i32,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Head> {
        let (checksum, rest) = bytes.split_first_chunk::<8>()?;
        let length = rest.first_chunk::<4>()?;
        Some(Head {
            checksum: i64::from_be_bytes(*checksum),
            length: i32::from_be_bytes(*length),
        })
    }

    fn is_padding(self) -> bool {
        self.checksum == 0 && self.length == 0
    }

    /// Size of the whole record, if the length is one that a record can have.
    fn record_size(self) -> Option<usize> {
        let length = usize::try_from(self.length).ok()?;
        (MIN_BODY..=MAX_BODY)
            .contains(&length)
            .then_some(HEAD_SIZE + length + 1)
    }
}

/// Does `record` have its end byte and its checksum?
fn is_whole(record: &[u8]) -> bool {
    let (Some(head), Some((&END_BYTE, rest))) = (Head::read(record), record.split_last()) else {
        return false;
    };
    rest.get(HEAD_SIZE..)
        .is_some_and(|body| head.checksum == i64::from(adler32(body)))
}

/// Tells a record that was never completed from one that was damaged after it had been.
///
/// `rest` begins at `offset` of the file, where there is no whole record, and is not all zeros. A
/// crash leaves sectors unwritten, and in a file that was extended ahead these are zeros; nothing
/// else does. So a record is torn if a sector of it is missing, or everything from some place on.
/// Anything else is damage, and so are these two: records follow that are whole while no sector is
/// missing in front of them, and a record that is whole but for its length.
fn judge(rest: &[u8], offset: u64) -> Ending {
    let size = Head::read(rest).and_then(Head::record_size);
    let intact = (1..rest.len()).find(|at| begins_whole(&rest[*at..]));
    let written = rest
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1);
    let broken = &rest[..intact.unwrap_or(written)];
    if misses_sector(broken, size.unwrap_or(HEAD_SIZE), offset) {
        return Ending::Torn;
    }
    if let Some(intact) = intact {
        return Ending::Damaged(format!(
            "whole records follow, the first at offset {}",
            offset + intact as u64
        ));
    }
    if is_whole(broken) {
        return Ending::Damaged("its length is wrong".to_owned());
    }
    if size.is_none_or(|size| size > broken.len()) {
        return Ending::Torn;
    }
    Ending::Damaged("its checksum or end byte is wrong".to_owned())
}

fn begins_whole(bytes: &[u8]) -> bool {
    // The upper half of a checksum is zero: that rules out most places at once.
    if !bytes.starts_with(&[0; 4]) {
        return false;
    }
    let size = Head::read(bytes).and_then(Head::record_size);
    size.and_then(|size| bytes.get(..size))
        .is_some_and(is_whole)
}

/// Is a sector of the first `size` bytes of `broken`, which begins at `offset` of the file, all
/// zeros up to its end?
fn misses_sector(broken: &[u8], size: usize, offset: u64) -> bool {
    /// The upper half of a checksum is zero anyway.
    const LEAST: usize = 5;
    let mut start = 0;
    let mut end = SECTOR - (offset % SECTOR as u64) as usize;
    while let Some(sector) = broken.get(start..end).filter(|_| start < size) {
        if sector.len() >= LEAST && sector.iter().all(|b| *b == 0) {
            return true;
        }
        (start, end) = (end, end + SECTOR);
    }
    false
}

/// The newest file of a log that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The file.
    pub path: PathBuf,
    /// Behind its last whole record.
    pub offset: u64,
    /// Whole records in it.
    pub records: u64,
}

/// Reads the transactions after a zxid, file after file, and makes sure that none is missing.
///
/// Its errors are [`StorageError::Refused`] for every damage (see [`Case`]), and the operating
/// system's. What it could read past is in [`LogReader::findings`].
#[derive(Debug)]
pub struct LogReader {
    disk: LatchedDisk,
    dir: PathBuf,
    /// Files not opened yet, the next one last.
    left: Vec<DataFile>,
    file: Option<LogFile>,
    /// The transaction that the next one follows.
    last: i64,
    /// The transaction in front of the current one, whether it was wanted or not.
    before: i64,
    findings: Vec<Finding>,
    opened: Vec<PathBuf>,
}

impl LogReader {
    /// Reads what comes after the transaction `after` in the log at `dir`.
    pub fn open(disk: LatchedDisk, dir: &Path, after: i64) -> Result<Self, StorageError> {
        let mut left = files::scan(&disk, dir, FileKind::Log)?;
        // The one named last up to there may hold it, too.
        let newer = left.partition_point(|file| file.zxid <= after.saturating_add(1));
        left.drain(..newer.saturating_sub(1));
        left.reverse();
        Ok(LogReader {
            disk,
            dir: dir.to_owned(),
            left,
            file: None,
            last: after,
            before: i64::MIN,
            findings: Vec::new(),
            opened: Vec::new(),
        })
    }

    /// Goes to the next transaction; false at the end of the log.
    pub fn advance(&mut self) -> Result<bool, StorageError> {
        loop {
            if self.advance_in_file()? {
                return Ok(true);
            }
            let Some(next) = self.left.pop() else {
                return Ok(false);
            };
            let path = self.dir.join(&next.name);
            self.file = Some(LogFile::open(&self.disk, &path)?);
            self.opened.push(path);
        }
    }

    fn advance_in_file(&mut self) -> Result<bool, StorageError> {
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        while file.advance()? {
            let Record { zxid, offset, .. } = file.record();
            let repeated = zxid <= self.before;
            if repeated {
                let finding = Finding::new(Case::Repeated, file.path()).at(offset);
                self.findings
                    .push(finding.detail(format!("{zxid:#x} after {:#x}", self.before)));
            }
            self.before = zxid;
            if zxid <= self.last {
                continue;
            }
            if !follows(self.last, zxid) {
                let finding = Finding::new(Case::Hole, file.path()).at(offset);
                return Err(finding
                    .detail(format!("{zxid:#x} after {:#x}", self.last))
                    .into());
            }
            self.last = zxid;
            return Ok(true);
        }
        let is_newest = self.left.is_empty();
        self.findings.extend(file.verdict(is_newest)?);
        Ok(false)
    }

    /// The transaction that [`advance`](LogReader::advance) went to; an empty one before and
    /// behind the log.
    pub fn record(&self) -> Record<'_> {
        self.file.as_ref().map(LogFile::record).unwrap_or_default()
    }

    /// The file of the current transaction.
    pub fn path(&self) -> &Path {
        self.file.as_ref().map_or(&self.dir, LogFile::path)
    }

    /// What was met so far and did no harm, or can be mended.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The files that were read so far, oldest first.
    pub fn opened(&self) -> &[PathBuf] {
        &self.opened
    }

    /// The newest file, once [`advance`](LogReader::advance) has answered false; none if there is
    /// no log.
    pub fn end(&self) -> Option<LogEnd> {
        self.file.as_ref().map(|file| LogEnd {
            path: file.path().to_owned(),
            offset: file.offset(),
            records: file.records,
        })
    }
}

/// May `next` come right after `last`? Each leader numbers from 1 in an epoch of its own.
fn follows(last: i64, next: i64) -> bool {
    let (epoch, counter) = (next >> 32, next & 0xffff_ffff);
    last.checked_add(1) == Some(next) || (epoch > last >> 32 && counter == 1)
}
