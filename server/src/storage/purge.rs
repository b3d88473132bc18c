//! Retention: removes the snapshots and logs that no restart needs (spec: disk formats,
//! section 11).

use std::path::{Path, PathBuf};

use super::Dirs;
use super::disk::LatchedDisk;
use super::error::StorageError;
use super::files::{self, FileKind};
use super::snapshot;

/// The fewest snapshots that are kept, whatever is asked for.
pub const MIN_RETAINED: usize = 3;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// The files, oldest first, snapshots before logs.
    pub removed: Vec<PathBuf>,
    /// Their length in bytes.
    pub bytes: u64,
}

/// Keeps the newest `retain` snapshots, [`MIN_RETAINED`] at least, and every log that a restart
/// from the oldest of them may need. Only snapshots whose seals hold count: each is read as a
/// whole. Answers without removing anything while there are fewer than that.
pub(super) fn purge(
    disk: &LatchedDisk,
    dirs: &Dirs,
    retain: usize,
) -> Result<Purged, StorageError> {
    let snapshots = files::scan(disk, &dirs.data, FileKind::Snapshot)?;
    let mut missing = retain.max(MIN_RETAINED);
    let mut oldest = None;
    for file in snapshots.iter().rev() {
        match snapshot::read(disk, &dirs.data.join(&file.name), &mut ()) {
            Ok(_) => missing -= 1,
            Err(err @ StorageError::Snapshot { .. }) => {
                tracing::warn!(%err, "purge does not count a snapshot");
            }
            Err(err) => return Err(err),
        }
        if missing == 0 {
            oldest = Some(file.zxid);
            break;
        }
    }
    let mut purged = Purged::default();
    let Some(oldest) = oldest else {
        return Ok(purged);
    };
    let logs = files::scan(disk, &dirs.log, FileKind::Log)?;
    // What comes right after the oldest snapshot may lie in the last log named before it.
    let needed = logs
        .partition_point(|log| log.zxid <= oldest)
        .saturating_sub(1);
    let old_snapshots = snapshots.iter().filter(|file| file.zxid < oldest);
    let old_logs = logs.iter().take(needed).filter(|file| file.zxid < oldest);
    for file in old_snapshots {
        remove(disk, &mut purged, &dirs.data.join(&file.name), file.len)?;
    }
    if !purged.removed.is_empty() {
        // A snapshot says that the log goes on behind it: it must not come back after a crash that
        // its log does not survive.
        disk.sync_dir(&dirs.data)?;
    }
    for file in old_logs {
        remove(disk, &mut purged, &dirs.log.join(&file.name), file.len)?;
        // Oldest first, and for good: a log that came back after a crash in front of one that did
        // not would leave a hole, which at the end of an epoch no number tells.
        disk.sync_dir(&dirs.log)?;
    }
    Ok(purged)
}

fn remove(
    disk: &LatchedDisk,
    purged: &mut Purged,
    path: &Path,
    len: u64,
) -> Result<(), StorageError> {
    disk.remove(path)?;
    tracing::info!(path = %path.display(), "purged");
    purged.removed.push(path.to_owned());
    purged.bytes += len;
    Ok(())
}
