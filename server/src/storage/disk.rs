//! The seam between storage and the operating system: a few verbs, so that tests can put a disk
//! below it that loses power, tears writes and runs full (see [`super::mem_disk`]).
//!
//! Nothing above this module calls `std::fs`. A written byte counts as durable only after
//! [`DiskFile::sync`] on its file, and a created, renamed or removed name only after
//! [`Disk::sync_dir`] on its directory.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::Advice;

use super::error::StorageError;

/// Bytes that a drive writes as a whole or not at all.
pub const SECTOR: usize = 512;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Existing, to be read.
    Read,
    /// Existing, to be changed.
    Write,
    /// New and empty; an existing file is an error.
    Create,
}

/// A file name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name without the directory.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// An open file. Offsets and lengths are in bytes.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`; a hole in front of them reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// The length of the file.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it by zeros without taking up space for them.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written so far durable, and the length as far as reading needs it.
    fn sync(&self) -> io::Result<()>;
    /// Bytes that are durable and will not be read soon: memory need not be spent on them.
    fn let_go(&self, bytes: Range<u64>) {
        let _ = bytes;
    }
}

/// A file system.
pub trait Disk: Debug + Send + Sync {
    /// The files of a directory, in no order; subdirectories are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Creates a directory and what is missing above it, durably. An existing one is no error.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file a new name in one step, in place of the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that this process may still write below `dir`.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
}

/// The file system of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // The file was removed between the two calls.
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            // No file of ours has a name that is not UTF-8.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                let len = metadata.len();
                entries.push(Entry { name, len });
            }
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        self.create_dir(parent)?;
        match fs::create_dir(dir) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            created => created?,
        }
        self.sync_dir(parent)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match access {
            Access::Read => &mut options,
            Access::Write => options.write(true),
            Access::Create => options.write(true).create_new(true),
        };
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn let_go(&self, bytes: Range<u64>) {
        // An advice only.
        let len = NonZeroU64::new(bytes.end.saturating_sub(bytes.start));
        let _ = rustix::fs::fadvise(&self.0, bytes.start, len, Advice::DontNeed);
    }
}

/// A disk that works until the first write or sync fails, and then refuses everything.
///
/// After a failed sync the kernel may have dropped the bytes and still report success for the next
/// one, so that nothing written later could be trusted: the server stops rather than lies. Every
/// refusal names the first cause. Clones share the latch.
#[derive(Debug, Clone)]
pub struct LatchedDisk {
    disk: Arc<dyn Disk>,
    failure: Arc<OnceLock<StorageError>>,
}

impl LatchedDisk {
    /// Puts a latch in front of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        LatchedDisk {
            disk,
            failure: Arc::default(),
        }
    }

    /// The failure that closed the latch, if one did.
    pub fn failure(&self) -> Option<&StorageError> {
        self.failure.get()
    }

    fn guard(&self) -> Result<(), StorageError> {
        match self.failure.get() {
            None => Ok(()),
            Some(cause) => Err(StorageError::Stopped(Arc::new(cause.clone()))),
        }
    }

    /// What may fail without harm: nothing on the disk depends on it.
    fn harmless<T>(
        &self,
        operation: &'static str,
        path: &Path,
        act: impl FnOnce(&dyn Disk) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        self.guard()?;
        act(&*self.disk).map_err(|err| StorageError::io(operation, path, err))
    }

    /// What must not fail: the latch closes if it does.
    fn vital<T>(
        &self,
        operation: &'static str,
        path: &Path,
        act: impl FnOnce(&dyn Disk) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let result = self.harmless(operation, path, act);
        result.inspect_err(|err| self.close(err))
    }

    /// Closes the latch: nothing that is on the disk can be relied on.
    pub(super) fn close(&self, err: &StorageError) {
        if !matches!(err, StorageError::Stopped(_)) && self.failure.set(err.clone()).is_ok() {
            tracing::error!(%err, "storage stops at a failed write");
        }
    }

    /// The files of `dir`, in no order. A directory that is missing has none.
    pub fn list(&self, dir: &Path) -> Result<Vec<Entry>, StorageError> {
        self.harmless("list", dir, |disk| match disk.list(dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries,
        })
    }

    /// An error if `dir` is missing.
    pub fn require_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.harmless("list", dir, |disk| disk.list(dir).map(drop))
    }

    /// Creates `dir` and what is missing above it, durably.
    pub fn create_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.harmless("create the directory", dir, |disk| disk.create_dir(dir))
    }

    /// Opens an existing file to read it.
    pub fn open(&self, path: &Path) -> Result<LatchedFile, StorageError> {
        let file = self.harmless("open", path, |disk| disk.open(path, Access::Read))?;
        Ok(self.file(path, file))
    }

    /// Opens an existing file to change it.
    pub fn modify(&self, path: &Path) -> Result<LatchedFile, StorageError> {
        let file = self.vital("open", path, |disk| disk.open(path, Access::Write))?;
        Ok(self.file(path, file))
    }

    /// Creates a file; one that exists is an error.
    pub fn create(&self, path: &Path) -> Result<LatchedFile, StorageError> {
        let file = self.vital("create", path, |disk| disk.open(path, Access::Create))?;
        Ok(self.file(path, file))
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> LatchedFile {
        LatchedFile {
            disk: self.clone(),
            path: path.to_owned(),
            file,
        }
    }

    /// Gives a file a new name in one step.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.vital("rename", from, |disk| disk.rename(from, to))
    }

    /// Removes a file. A failure leaves a file too many and does no harm; so does a file that is
    /// gone already.
    pub fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.harmless("remove", path, |disk| match disk.remove(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        })
    }

    /// Makes the names in `dir` durable.
    pub fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.vital("sync the directory", dir, |disk| disk.sync_dir(dir))
    }

    /// Bytes that may still be written below `dir`.
    pub fn free_space(&self, dir: &Path) -> Result<u64, StorageError> {
        self.harmless("ask for the free space of", dir, |disk| {
            disk.free_space(dir)
        })
    }

    /// Writes a small file in one step: it has its old content or `content` after a crash, and
    /// `content` durably once this returns. `temporary` is a name in the same directory.
    pub fn replace(
        &self,
        path: &Path,
        temporary: &Path,
        content: &[u8],
    ) -> Result<(), StorageError> {
        self.remove(temporary)?;
        let file = self.create(temporary)?;
        file.write_at(content, 0)?;
        file.sync()?;
        self.rename(temporary, path)?;
        self.sync_dir(directory(path))
    }

    /// The whole content of a file that may be missing, at most `limit` bytes of it.
    pub fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let opened = self.harmless("open", path, |disk| match disk.open(path, Access::Read) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        })?;
        let Some(file) = opened.map(|file| self.file(path, file)) else {
            return Ok(None);
        };
        let len = usize::try_from(file.size()?).unwrap_or(usize::MAX);
        let mut content = vec![0; len.min(limit)];
        let n = file.read_at(&mut content, 0)?;
        content.truncate(n);
        Ok(Some(content))
    }
}

/// The directory that a file lies in.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// An open file of a [`LatchedDisk`].
#[derive(Debug)]
pub struct LatchedFile {
    disk: LatchedDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl LatchedFile {
    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.disk
            .harmless("read", &self.path, |_| self.file.read_at(buf, offset))
    }

    /// The length in bytes.
    pub fn size(&self) -> Result<u64, StorageError> {
        self.disk
            .harmless("read the length of", &self.path, |_| self.file.size())
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.disk
            .vital("write", &self.path, |_| self.file.write_at(bytes, offset))
    }

    /// Cuts the file, or extends it by zeros.
    pub fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.disk.vital("change the length of", &self.path, |_| {
            self.file.set_len(len)
        })
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.disk.vital("sync", &self.path, |_| self.file.sync())
    }

    /// These bytes are durable and will not be read soon.
    pub(super) fn let_go(&self, bytes: Range<u64>) {
        self.file.let_go(bytes);
    }
}
