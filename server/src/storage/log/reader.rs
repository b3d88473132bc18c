//! The whole log, file after file.

use std::path::{Path, PathBuf};

use super::file::LogFile;
use super::{Record, follows};
use crate::storage::cases::{Case, Finding};
use crate::storage::disk::LatchedDisk;
use crate::storage::error::StorageError;
use crate::storage::files::{self, DataFile, FileKind};

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
    /// The last transaction that is wanted.
    limit: i64,
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
            limit: i64::MAX,
            before: i64::MIN,
            findings: Vec::new(),
            opened: Vec::new(),
        })
    }

    /// Takes the log to end with the transaction `limit`, whatever comes behind it.
    pub(in crate::storage) fn until(mut self, limit: i64) -> Self {
        self.left.retain(|file| file.zxid <= limit);
        self.limit = limit;
        self
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
            if zxid > self.limit {
                self.left.clear();
                return Ok(false);
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
