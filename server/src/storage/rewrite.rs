//! Changes of the past: a history that is cut off behind a transaction, and one that a snapshot
//! takes the place of.
//!
//! Both remove several files, and a crash in between must not leave a mixture of two histories. So
//! there is one moment that decides, when the name of one file becomes durable: before it nothing
//! has been touched, and after it recovery completes whatever is left to do, in any order.

use std::path::{Path, PathBuf};

use super::Dirs;
use super::disk::LatchedDisk;
use super::error::StorageError;
use super::files::{self, DataFile, FileKind};
use super::log;
use super::snapshot::{Compression, Unnamed, Written};

/// A change that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rewrite {
    /// The history ends with this transaction.
    Truncate(i64),
    /// The history is this snapshot.
    Install(DataFile),
}

impl Rewrite {
    /// The change that was decided and not completed, if there is one.
    pub(super) fn pending(disk: &LatchedDisk, dirs: &Dirs) -> Result<Option<Self>, StorageError> {
        let newest = |kind| files::scan(disk, &dirs.data, kind).map(|mut files| files.pop());
        if let Some(snapshot) = newest(FileKind::Install)? {
            return Ok(Some(Rewrite::Install(snapshot)));
        }
        let mark = newest(FileKind::Truncate)?;
        Ok(mark.map(|mark| Rewrite::Truncate(mark.zxid)))
    }

    /// Decides to cut the history off behind `zxid`.
    pub(super) fn truncate(
        disk: &LatchedDisk,
        dirs: &Dirs,
        zxid: i64,
    ) -> Result<Self, StorageError> {
        let rewrite = Rewrite::Truncate(zxid);
        disk.create(&rewrite.mark(dirs))?;
        disk.sync_dir(&dirs.data)?;
        Ok(rewrite)
    }

    /// Decides that a snapshot takes the place of everything.
    pub(super) fn install(disk: &LatchedDisk, snapshot: Unnamed) -> Result<Self, StorageError> {
        let Written {
            path, zxid, len, ..
        } = snapshot.publish(disk)?;
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        Ok(Rewrite::Install(DataFile { name, zxid, len }))
    }

    /// The file whose name says that it was decided.
    pub(super) fn mark(&self, dirs: &Dirs) -> PathBuf {
        match self {
            Rewrite::Truncate(zxid) => dirs.data.join(files::name(FileKind::Truncate, *zxid, "")),
            Rewrite::Install(snapshot) => dirs.data.join(&snapshot.name),
        }
    }

    /// Completes it. `base` is the snapshot that what is left of a cut history begins with.
    ///
    /// Once it fails, storage takes nothing more: recovery is going to remove all that is newer.
    pub(super) fn complete(
        &self,
        disk: &LatchedDisk,
        dirs: &Dirs,
        base: Option<&Path>,
    ) -> Result<(), StorageError> {
        let completed = match self {
            Rewrite::Truncate(zxid) => self.complete_truncation(disk, dirs, base, *zxid),
            Rewrite::Install(snapshot) => self.complete_installation(disk, dirs, snapshot),
        };
        completed.inspect_err(|err| disk.close(err))
    }

    fn complete_truncation(
        &self,
        disk: &LatchedDisk,
        dirs: &Dirs,
        base: Option<&Path>,
        zxid: i64,
    ) -> Result<(), StorageError> {
        // What is newer than the base is behind `zxid`, or shows something that is, or is damaged.
        for snapshot in newest_first(disk, &dirs.data, FileKind::Snapshot)? {
            let path = dirs.data.join(snapshot.name);
            if Some(path.as_path()) == base {
                break;
            }
            disk.remove(&path)?;
        }
        for log in newest_first(disk, &dirs.log, FileKind::Log)? {
            let path = dirs.log.join(log.name);
            if log.zxid <= zxid {
                log::cut(disk, &path, zxid)?;
                break;
            }
            disk.remove(&path)?;
        }
        self.sync_dirs(disk, dirs)?;
        disk.remove(&self.mark(dirs))?;
        disk.sync_dir(&dirs.data)
    }

    /// Everything else goes, what is older included: between that and the snapshot transactions
    /// are missing, and who reads only the log may not notice where an epoch ends.
    fn complete_installation(
        &self,
        disk: &LatchedDisk,
        dirs: &Dirs,
        snapshot: &DataFile,
    ) -> Result<(), StorageError> {
        for (dir, kind) in [(&dirs.data, FileKind::Snapshot), (&dirs.log, FileKind::Log)] {
            for file in newest_first(disk, dir, kind)? {
                disk.remove(&dir.join(file.name))?;
            }
        }
        self.sync_dirs(disk, dirs)?;
        let mark = self.mark(dirs);
        let suffix = Compression::of(&snapshot.name).suffix();
        let name = files::name(FileKind::Snapshot, snapshot.zxid, suffix);
        disk.rename(&mark, &dirs.data.join(name))?;
        disk.sync_dir(&dirs.data)
    }

    fn sync_dirs(&self, disk: &LatchedDisk, dirs: &Dirs) -> Result<(), StorageError> {
        disk.sync_dir(&dirs.log)?;
        if dirs.data != dirs.log {
            disk.sync_dir(&dirs.data)?;
        }
        Ok(())
    }
}

fn newest_first(
    disk: &LatchedDisk,
    dir: &Path,
    kind: FileKind,
) -> Result<impl Iterator<Item = DataFile>, StorageError> {
    Ok(files::scan(disk, dir, kind)?.into_iter().rev())
}
