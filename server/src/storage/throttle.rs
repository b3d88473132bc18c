//! The disk of the operating system, made slow or made to hang while it is in use: for tests and
//! demos of what an ensemble does about it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::disk::{Access, Disk, DiskFile, Entry, RealDisk};

/// What is wrong with a disk, by which each sync goes. Clones are handles of the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskFaults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    delay: Duration,
    hangs: bool,
}

impl DiskFaults {
    /// Makes each sync take longer.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.state.lock().delay = delay;
    }

    /// Lets every sync wait, or go on.
    pub(crate) fn hang(&self, hangs: bool) {
        self.0.state.lock().hangs = hangs;
        self.0.changed.notify_all();
    }

    fn suffer(&self) {
        let mut state = self.0.state.lock();
        while state.hangs {
            self.0.changed.wait(&mut state);
        }
        let delay = state.delay;
        drop(state);
        if !delay.is_zero() {
            thread::sleep(delay);
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ThrottledDisk {
    disk: RealDisk,
    faults: DiskFaults,
}

impl ThrottledDisk {
    pub(crate) fn new(faults: DiskFaults) -> Self {
        ThrottledDisk {
            disk: RealDisk,
            faults,
        }
    }
}

impl Disk for ThrottledDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ThrottledFile {
            file: self.disk.open(path, access)?,
            faults: self.faults.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.suffer();
        self.disk.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_space(dir)
    }
}

#[derive(Debug)]
struct ThrottledFile {
    file: Box<dyn DiskFile>,
    faults: DiskFaults,
}

impl DiskFile for ThrottledFile {
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
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.suffer();
        self.file.sync()
    }

    fn let_go(&self, bytes: Range<u64>) {
        self.file.let_go(bytes);
    }
}
