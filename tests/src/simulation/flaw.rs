//! Disks that do less than they are asked to: faults that the checks of the simulator must notice.

use std::io;
use std::path::Path;
use std::sync::Arc;

use quorate_server::storage::disk::{Access, Disk, DiskFile, Entry};
use quorate_server::storage::mem_disk::MemDisk;

/// What a disk leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Files are never synced.
    FilesUnsynced,
    /// Directories are never synced: new names can be lost.
    NamesUnsynced,
    /// Snapshots are never removed.
    StaleSnapshots,
    /// Logs are never removed.
    StaleLogs,
    /// Logs are never cut.
    UncutLogs,
    /// Epochs are written to a file that is never put in place.
    LostEpochs,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 6] = [
        Flaw::FilesUnsynced,
        Flaw::NamesUnsynced,
        Flaw::StaleSnapshots,
        Flaw::StaleLogs,
        Flaw::UncutLogs,
        Flaw::LostEpochs,
    ];
}

/// A disk with a flaw.
#[derive(Debug)]
pub struct FlawedDisk {
    disk: MemDisk,
    flaw: Flaw,
}

impl FlawedDisk {
    /// Puts a flaw in front of a disk, or nothing.
    pub fn put(disk: &MemDisk, flaw: Option<Flaw>) -> Arc<dyn Disk> {
        let disk = disk.clone();
        match flaw {
            None => Arc::new(disk),
            Some(flaw) => Arc::new(FlawedDisk { disk, flaw }),
        }
    }

    fn spares(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match self.flaw {
            Flaw::StaleSnapshots => name.starts_with("snapshot."),
            Flaw::StaleLogs => name.starts_with("log."),
            _ => false,
        }
    }
}

impl Disk for FlawedDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let (file, flaw) = (self.disk.open(path, access)?, self.flaw);
        Ok(Box::new(FlawedFile { file, flaw }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.flaw {
            Flaw::LostEpochs if to.to_string_lossy().ends_with("Epoch") => Ok(()),
            _ => self.disk.rename(from, to),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.spares(path) {
            true => Ok(()),
            false => self.disk.remove(path),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.flaw {
            Flaw::NamesUnsynced => Ok(()),
            _ => self.disk.sync_dir(dir),
        }
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_space(dir)
    }
}

#[derive(Debug)]
struct FlawedFile {
    file: Box<dyn DiskFile>,
    flaw: Flaw,
}

impl DiskFile for FlawedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let cuts = self.file.size()? > len;
        match self.flaw {
            Flaw::UncutLogs if cuts => Ok(()),
            _ => self.file.set_len(len),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.flaw {
            Flaw::FilesUnsynced => Ok(()),
            _ => self.file.sync(),
        }
    }
}
