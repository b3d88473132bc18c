//! The records of one file, and what the place behind the last of them means.

use std::path::Path;

use super::{HEAD_SIZE, HEADER_SIZE, Head, MAGIC, Record, is_whole, zxid_of};
use crate::storage::cases::{Case, Finding};
use crate::storage::disk::{LatchedDisk, LatchedFile, SECTOR};
use crate::storage::error::StorageError;

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
pub(super) struct LogFile {
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
    pub(super) records: u64,
}

impl LogFile {
    pub(super) fn open(disk: &LatchedDisk, path: &Path) -> Result<Self, StorageError> {
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
        let end = self.filled.min(at + len);
        Ok(&self.buf[at.min(end)..end])
    }

    /// Where the next record begins, or would.
    pub(super) fn offset(&self) -> u64 {
        self.start + self.next as u64
    }

    /// Goes to the next record. At the end, `ending` says how it ends.
    pub(super) fn advance(&mut self) -> Result<bool, StorageError> {
        if self.ending.is_none() && !self.next_whole()? {
            self.ending = Some(self.judge()?);
        }
        Ok(self.ending.is_none())
    }

    /// Takes note of what was written to the file since it was read.
    pub(super) fn refresh(&mut self) -> Result<(), StorageError> {
        self.filled = self.next;
        self.len = self.file.size()?;
        Ok(())
    }

    /// Goes to the next record if it is a whole one.
    pub(super) fn next_whole(&mut self) -> Result<bool, StorageError> {
        let left = self.len.saturating_sub(self.offset());
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
        Ok(false)
    }

    /// The record that [`LogFile::advance`] went to.
    pub(super) fn record(&self) -> Record<'_> {
        let body = &self.buf[self.body.clone()];
        Record {
            offset: self.start + (self.body.start.saturating_sub(HEAD_SIZE)) as u64,
            zxid: zxid_of(body),
            body,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// What the end of the file means.
    pub(super) fn verdict(&self, is_newest: bool) -> Result<Option<Finding>, StorageError> {
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

/// Cuts a file behind the last of its records that is not newer than `zxid`, durably.
pub(in crate::storage) fn cut(
    disk: &LatchedDisk,
    path: &Path,
    zxid: i64,
) -> Result<(), StorageError> {
    let mut log = LogFile::open(disk, path)?;
    while log.advance()? {
        if log.record().zxid > zxid {
            let file = disk.modify(path)?;
            file.set_len(log.record().offset)?;
            return file.sync();
        }
    }
    Ok(())
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
