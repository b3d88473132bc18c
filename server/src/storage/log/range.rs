//! Transactions out of the log for a learner that lacks them, while the log goes on growing.

use std::collections::VecDeque;

use bytes::Bytes;

use super::file::LogFile;
use super::{Record, follows};
use crate::storage::Dirs;
use crate::storage::disk::LatchedDisk;
use crate::storage::error::StorageError;
use crate::storage::files::{self, DataFile, FileKind};
use crate::zab::{Entry, LogRead};

/// A place in the log, kept from one read to the next: reading a million transactions some at a
/// time opens each file once.
///
/// It holds as long as the history does, that is, until one is truncated or installed.
#[derive(Debug)]
pub struct LogRange {
    disk: LatchedDisk,
    dirs: Dirs,
    file: Option<LogFile>,
    /// The transaction that the next one follows.
    last: i64,
    /// Was that one met in the log?
    found: bool,
}

impl LogRange {
    pub(in crate::storage) fn new(disk: LatchedDisk, dirs: Dirs) -> Self {
        LogRange {
            disk,
            dirs,
            file: None,
            last: i64::MIN,
            found: false,
        }
    }

    /// Reads what comes behind the transaction `after`, up to `upto`, which is durable; about
    /// `limit` bytes, but one transaction at least. Going on where the last read ended is cheap.
    ///
    /// Only what follows without a gap is answered. The transaction `after` has to be in the log,
    /// or else be the one in front of the first that is, or the name of a snapshot. Whatever keeps
    /// it from reading is a gap, too.
    pub fn read(&mut self, after: i64, upto: i64, limit: usize) -> LogRead {
        let mut entries = Vec::new();
        match self.collect(after, upto, limit, &mut entries) {
            Ok(()) => {}
            Err(err) => tracing::warn!(%err, "cannot read the log for a learner"),
        }
        if entries.is_empty() && after < upto {
            return LogRead::Gap;
        }
        LogRead::Entries(entries)
    }

    fn collect(
        &mut self,
        after: i64,
        upto: i64,
        limit: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StorageError> {
        if self.last != after {
            self.seek(after)?;
        }
        let mut bytes = 0;
        while self.last < upto && (bytes < limit || entries.is_empty()) {
            let Some(record) = self.next()?.filter(|record| record.zxid <= upto) else {
                // Nothing is known about the place any more.
                self.last = i64::MIN;
                break;
            };
            let entry = entry(record);
            bytes += entry.bytes.len();
            self.last = entry.zxid;
            self.found = true;
            entries.push(entry);
        }
        Ok(())
    }

    fn seek(&mut self, after: i64) -> Result<(), StorageError> {
        self.last = after;
        self.found = false;
        self.file = None;
        let logs = files::scan(&self.disk, &self.dirs.log, FileKind::Log)?;
        let newer = logs.partition_point(|log| log.zxid <= after);
        if let Some(log) = newer.checked_sub(1).and_then(|at| logs.get(at)) {
            self.file = Some(self.open(log)?);
        }
        Ok(())
    }

    fn open(&self, log: &DataFile) -> Result<LogFile, StorageError> {
        LogFile::open(&self.disk, &self.dirs.log.join(&log.name))
    }

    /// The record behind `last`; none if there is none that surely comes next.
    fn next(&mut self) -> Result<Option<Record<'_>>, StorageError> {
        while !self.advance_in_file()? {
            // In this order: once there is a next file, nothing more is written to this one.
            let logs = files::scan(&self.disk, &self.dirs.log, FileKind::Log)?;
            let next = logs.iter().find(|log| log.zxid > self.last);
            if let Some(file) = &mut self.file {
                file.refresh()?;
            }
            if self.advance_in_file()? {
                break;
            }
            let Some(next) = next else {
                return Ok(None);
            };
            self.file = Some(self.open(next)?);
        }
        let Some(record) = self.file.as_ref().map(LogFile::record) else {
            return Ok(None);
        };
        let joins = joins(&self.disk, &self.dirs, self.last, self.found, record.zxid)?;
        Ok(joins.then_some(record))
    }

    /// Goes to the first record behind `last` in this file.
    fn advance_in_file(&mut self) -> Result<bool, StorageError> {
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        while file.next_whole()? {
            let zxid = file.record().zxid;
            self.found |= zxid == self.last;
            if zxid > self.last {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn entry(record: Record<'_>) -> Entry {
    Entry {
        zxid: record.zxid,
        bytes: Bytes::copy_from_slice(record.body),
    }
}

/// Is `next` sure to be the transaction behind `last`, which was `found` in the log or not?
///
/// Numbers alone do not tell where an epoch ends. If a snapshot stands in between, it may have
/// come from a leader, with transactions that the log lacks.
fn joins(
    disk: &LatchedDisk,
    dirs: &Dirs,
    last: i64,
    found: bool,
    next: i64,
) -> Result<bool, StorageError> {
    if last.checked_add(1) == Some(next) {
        return Ok(true);
    }
    if !follows(last, next) {
        return Ok(false);
    }
    let snapshots = files::scan(disk, &dirs.data, FileKind::Snapshot)?;
    let mut zxids = snapshots.iter().map(|snapshot| snapshot.zxid);
    let known = found || zxids.clone().any(|zxid| zxid == last);
    Ok(known && !zxids.any(|zxid| last < zxid && zxid < next))
}

/// The newest transactions of a log that ends with `last_zxid`, oldest first and without a gap: at
/// most `count` of them and `bytes` bytes.
pub(in crate::storage) fn recent(
    disk: &LatchedDisk,
    dirs: &Dirs,
    last_zxid: i64,
    count: usize,
    bytes: usize,
) -> Result<Vec<Entry>, StorageError> {
    let mut window = Window {
        entries: VecDeque::new(),
        bytes: 0,
        limits: (count, bytes),
        full: false,
    };
    let mut next: Option<i64> = None;
    for log in files::scan(disk, &dirs.log, FileKind::Log)?.iter().rev() {
        let mut older = window.rest();
        let mut file = LogFile::open(disk, &dirs.log.join(&log.name))?;
        while file.next_whole()? {
            let record = file.record();
            let last = older.last();
            if last.is_some_and(|last| record.zxid <= last) {
                continue;
            }
            if let Some(last) = last
                && !joins(disk, dirs, last, true, record.zxid)?
            {
                older.clear();
            }
            older.push(entry(record));
        }
        let Some(last) = older.last() else { continue };
        let joined = match next {
            None => last == last_zxid,
            Some(next) => joins(disk, dirs, last, true, next)?,
        };
        if !joined {
            break;
        }
        window.prepend(older);
        next = window.entries.front().map(|entry| entry.zxid);
        if window.full {
            break;
        }
    }
    Ok(window.entries.into())
}

/// The newest of the entries that went in, within limits.
struct Window {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Entries and bytes.
    limits: (usize, usize),
    /// Something did not find room, or was not to be joined.
    full: bool,
}

impl Window {
    /// An empty one for what this one has room for.
    fn rest(&self) -> Window {
        let (count, bytes) = self.limits;
        Window {
            entries: VecDeque::new(),
            bytes: 0,
            limits: (count - self.entries.len(), bytes - self.bytes),
            full: false,
        }
    }

    fn last(&self) -> Option<i64> {
        self.entries.back().map(|entry| entry.zxid)
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.full = true;
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes.len();
        self.entries.push_back(entry);
        while self.entries.len() > self.limits.0 || self.bytes > self.limits.1 {
            self.full = true;
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes.len();
        }
    }

    fn prepend(&mut self, older: Window) {
        for entry in older.entries.into_iter().rev() {
            self.bytes += entry.bytes.len();
            self.entries.push_front(entry);
        }
        self.full = older.full;
    }
}
