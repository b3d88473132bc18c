//! The epochs that a member of an ensemble has promised and joined (spec: quorum protocol,
//! section 2).

use std::path::Path;

use super::disk::LatchedDisk;
use super::error::StorageError;
use super::files::TEMPORARY_SUFFIX;

/// The files `acceptedEpoch` and `currentEpoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochFile {
    /// The newest epoch that this server promised to take part in. It never becomes smaller.
    Accepted,
    /// The epoch whose leader this server followed last; never larger than the accepted one.
    Current,
}

impl EpochFile {
    fn name(self) -> &'static str {
        match self {
            EpochFile::Accepted => "acceptedEpoch",
            EpochFile::Current => "currentEpoch",
        }
    }
}

/// Both epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// See [`EpochFile::Accepted`].
    pub accepted: u32,
    /// See [`EpochFile::Current`].
    pub current: u32,
}

/// Makes `epoch` the content of a file: durable once this returns, and never half.
pub fn write(
    disk: &LatchedDisk,
    dir: &Path,
    file: EpochFile,
    epoch: u32,
) -> Result<(), StorageError> {
    let name = file.name();
    let temporary = dir.join(format!("{name}{TEMPORARY_SUFFIX}"));
    disk.replace(&dir.join(name), &temporary, epoch.to_string().as_bytes())
}

/// Reads an epoch, if there is a file.
pub fn read(disk: &LatchedDisk, dir: &Path, file: EpochFile) -> Result<Option<u32>, StorageError> {
    read_number(disk, &dir.join(file.name()))
}

/// More than any number has digits.
const LONGEST: usize = 64;

fn read_number(disk: &LatchedDisk, path: &Path) -> Result<Option<u32>, StorageError> {
    let Some(content) = disk.read(path, LONGEST)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let number = text.trim().parse().map(Some);
    number.map_err(|_| StorageError::Epoch {
        path: path.to_owned(),
        reason: format!(
            "{text:?} is not an epoch; write the number from the newest snapshot's or log's name \
             into it: the digits in front of the last eight"
        ),
    })
}

/// Reads both epochs at the start of a server whose newest transaction is `last_zxid`, and mends
/// what a crash between two writes can leave.
///
/// # Errors
/// If the files contradict the log or each other: such a server could help to elect a leader that
/// lacks acknowledged transactions.
pub fn load(disk: &LatchedDisk, dir: &Path, last_zxid: i64) -> Result<Epochs, StorageError> {
    let logged = u32::try_from(last_zxid.max(0) >> 32).unwrap_or(u32::MAX);
    let found = read(disk, dir, EpochFile::Accepted)?;
    let accepted = found.unwrap_or(logged);
    let mut current = read(disk, dir, EpochFile::Current)?.unwrap_or(logged);
    if current < logged {
        // The history was made durable, and the crash came before the epoch was.
        let temporary = dir.join(format!("{}{TEMPORARY_SUFFIX}", EpochFile::Current.name()));
        if logged <= accepted || read_number(disk, &temporary)?.is_some_and(|n| n >= logged) {
            current = logged;
        }
    }
    let contradiction = |reason: String| {
        Err(StorageError::Epoch {
            path: dir.join(EpochFile::Current.name()),
            reason: format!(
                "{reason}; the files of this directory are of different times: restore them from \
                 one backup, or start with an empty data directory (keep myid)"
            ),
        })
    };
    if current < logged {
        return contradiction(format!(
            "epoch {current} is older than the newest transaction's, {logged}"
        ));
    }
    if accepted < current {
        return contradiction(format!(
            "epoch {current} is newer than the accepted one, {accepted}"
        ));
    }
    for (file, epoch) in [
        (EpochFile::Accepted, accepted),
        (EpochFile::Current, current),
    ] {
        if read(disk, dir, file)? != Some(epoch) {
            write(disk, dir, file, epoch)?;
        }
    }
    Ok(Epochs { accepted, current })
}
