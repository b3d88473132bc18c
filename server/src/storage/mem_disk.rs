//! A disk in memory that loses power, for tests.
//!
//! It keeps what programs see (live) apart from what would survive a power failure (durable), for
//! bytes and for the names in directories. Every sync is a numbered point at which the power can
//! go. What was written and not synced is then torn by a seed: each sector holds its state after
//! some number of the writes that were under way, and each directory shows some of its changes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::{Access, Disk, DiskFile, Entry, SECTOR, directory};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Verb {
    /// Writing, creating, renaming, changing a length.
    Write,
    /// Syncing a file or a directory.
    Sync,
}

/// The disk. Clones are the same disk.
///
/// ```
/// use quorate_server::storage::disk::{Access, Disk};
/// use quorate_server::storage::mem_disk::MemDisk;
/// use std::path::Path;
///
/// let disk = MemDisk::new();
/// disk.create_dir(Path::new("/d"))?;
/// let file = disk.open(Path::new("/d/f"), Access::Create)?;
/// file.write_at(b"lost", 0)?;
/// let after = disk.lose_power(1);
/// assert_eq!(after.get("/d/f").filter(|content| content == b"kept"), None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemDisk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The disk hangs no more.
    released: Condvar,
}

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    dirs: BTreeMap<PathBuf, Directory>,
    syncs: u64,
    writes: u64,
    power_until_sync: Option<u64>,
    powerless: bool,
    fault: Option<Fault>,
    /// What fails each time: writes, syncs.
    failing: [Option<io::ErrorKind>; 2],
    hanging: bool,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    verb: Verb,
    nth: u64,
    error: io::ErrorKind,
}

/// A file, whatever its names are. Copies of a disk share what neither changes.
#[derive(Debug, Clone, Default)]
struct Inode {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// What turned `durable` into `live`, in order.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Len(usize),
}

#[derive(Debug, Clone, Default)]
struct Directory {
    live: Names,
    durable: Names,
    pending: Vec<NameChange>,
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Directory {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// What a power failure leaves of the names: all changes, none, the first of them, or any.
    fn tear(&mut self, random: &mut Random) {
        let changes = self.pending.len() as u64;
        let first = match random.below(4) {
            0 => changes,
            1 => 0,
            2 => random.below(changes + 1),
            _ => u64::MAX,
        };
        for (at, change) in self.pending.drain(..).enumerate() {
            let kept = match first {
                u64::MAX => random.below(2) == 0,
                first => (at as u64) < first,
            };
            if kept {
                change.apply(&mut self.durable);
            }
        }
        self.live.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Change::Len(len) => content.resize(*len, 0),
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.live));
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(Arc::make_mut(&mut self.durable));
        }
    }

    /// What a power failure leaves of the file.
    fn tear(&mut self, random: &mut Random) {
        if self.pending.is_empty() {
            return;
        }
        let states = self.pending.len() as u64 + 1;
        // One failure in four tears nothing and one loses everything, the rest does both.
        let all = match random.below(4) {
            0 => Some(states - 1),
            1 => Some(0),
            _ => None,
        };
        let mut pick = || all.unwrap_or_else(|| random.below(states)) as usize;
        let after = |changes: usize| {
            let mut content = Vec::clone(&self.durable);
            for change in &self.pending[..changes] {
                change.apply(&mut content);
            }
            content
        };
        let versions: Vec<Vec<u8>> = (0..states as usize).map(after).collect();
        let len = versions[pick()].len();
        let mut torn = vec![0; len];
        for (sector, place) in torn.chunks_mut(SECTOR).enumerate() {
            let version = &versions[pick()];
            let start = (sector * SECTOR).min(version.len());
            let end = (start + place.len()).min(version.len());
            place[..end - start].copy_from_slice(&version[start..end]);
        }
        self.live = Arc::new(torn);
        self.durable = Arc::clone(&self.live);
        self.pending.clear();
    }
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        MemDisk::default()
    }

    fn with(state: State) -> Self {
        MemDisk(Arc::new(Shared {
            state: Mutex::new(state),
            released: Condvar::new(),
        }))
    }

    /// The state once the disk does not hang.
    fn unhung(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock();
        self.0
            .released
            .wait_while(&mut state, |state| state.hanging);
        state
    }

    /// How many syncs there were; each is a point at which the power can go.
    pub fn syncs(&self) -> u64 {
        self.0.state.lock().syncs
    }

    /// How many writes there were, in the sense of [`Verb::Write`].
    pub fn writes(&self) -> u64 {
        self.0.state.lock().writes
    }

    /// Lets the power go at the sync number `nth`, counted from 1 and from the disk's beginning:
    /// that sync and everything behind it fails.
    pub fn cut_power_at_sync(&self, nth: u64) {
        self.0.state.lock().power_until_sync = Some(nth);
    }

    /// Lets the `nth` call of `verb` fail once, counted from 1 and from the disk's beginning. Half
    /// of a failing write is done.
    pub fn fail(&self, verb: Verb, nth: u64, error: io::ErrorKind) {
        self.0.state.lock().fault = Some(Fault { verb, nth, error });
    }

    /// Lets every call of `verb` fail from now on, or none.
    pub fn set_failing(&self, verb: Verb, error: Option<io::ErrorKind>) {
        self.0.state.lock().failing[verb as usize] = error;
    }

    /// Lets every write and sync wait from now on, or go on. A thread that is to end has to be let
    /// go on first.
    pub fn set_hanging(&self, hanging: bool) {
        self.0.state.lock().hanging = hanging;
        self.0.released.notify_all();
    }

    /// Flips bits of a byte of a file, behind the back of whoever has it open. Answers whether
    /// there is such a byte.
    pub fn damage(&self, path: impl AsRef<Path>, offset: usize, bits: u8) -> bool {
        let mut state = self.0.state.lock();
        let Ok(inode) = state.find(path.as_ref()) else {
            return false;
        };
        let Inode { live, durable, .. } = &mut state.inodes[inode];
        for content in [&mut *live, durable].map(Arc::make_mut) {
            if let Some(byte) = content.get_mut(offset) {
                *byte ^= bits;
            }
        }
        offset < live.len()
    }

    /// The disk as it is after a power failure, torn by `seed`, with the power back.
    pub fn lose_power(&self, seed: u64) -> MemDisk {
        let mut state = self.kill().0.state.lock().clone();
        let mut random = Random(seed);
        for inode in &mut state.inodes {
            inode.tear(&mut random);
        }
        for dir in state.dirs.values_mut() {
            dir.tear(&mut random);
        }
        MemDisk::with(state)
    }

    /// The disk as the next process sees it after `kill -9`: everything written is there, but
    /// nothing more is durable. It has no faults.
    pub fn kill(&self) -> MemDisk {
        let mut state = self.0.state.lock().clone();
        state.powerless = false;
        state.power_until_sync = None;
        state.fault = None;
        state.failing = [None; 2];
        state.hanging = false;
        MemDisk::with(state)
    }

    /// The content of a file.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.0.state.lock();
        let inode = state.find(path.as_ref()).ok()?;
        Some(Vec::clone(&state.inodes[inode].live))
    }

    /// Puts a file there, durably, with the directories above it.
    pub fn put(&self, path: impl AsRef<Path>, content: &[u8]) {
        let mut state = self.0.state.lock();
        let inode = state.inodes.len();
        let live = Arc::new(content.to_vec());
        state.inodes.push(Inode {
            durable: Arc::clone(&live),
            live,
            pending: Vec::new(),
        });
        let (dir, name) = split(path.as_ref());
        let dir = state.dirs.entry(dir).or_default();
        dir.live.insert(name.clone(), inode);
        dir.durable.insert(name, inode);
    }

    /// The names in a directory, in order.
    pub fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let state = self.0.state.lock();
        let dir = state.dirs.get(dir.as_ref());
        dir.map(|dir| dir.live.keys().cloned().collect())
            .unwrap_or_default()
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (directory(path).to_owned(), name.into_owned())
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    fn power(&self) -> io::Result<()> {
        if self.powerless {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Directory> {
        self.dirs.get_mut(path).ok_or_else(not_found)
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let (dir, name) = split(path);
        let dir = self.dirs.get(&dir).ok_or_else(not_found)?;
        dir.live.get(&name).copied().ok_or_else(not_found)
    }

    /// Counts a write; an error if it shall fail.
    fn write(&mut self) -> io::Result<()> {
        self.power()?;
        self.writes += 1;
        self.fault(Verb::Write, self.writes)
    }

    /// Counts a sync; an error if it shall fail or the power goes.
    fn sync(&mut self) -> io::Result<()> {
        self.power()?;
        self.syncs += 1;
        if self.power_until_sync.is_some_and(|nth| self.syncs >= nth) {
            self.powerless = true;
        }
        self.power()?;
        self.fault(Verb::Sync, self.syncs)
    }

    fn fault(&self, verb: Verb, count: u64) -> io::Result<()> {
        if let Some(error) = self.failing[verb as usize] {
            return Err(error.into());
        }
        match self.fault {
            Some(fault) if fault.verb == verb && fault.nth == count => Err(fault.error.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for MemDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.0.state.lock();
        state.power()?;
        let names = state.dir(dir)?.live.clone();
        let entry = |(name, inode): (String, usize)| Entry {
            name,
            len: state.inodes[inode].live.len() as u64,
        };
        Ok(names.into_iter().map(entry).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.power()?;
        state.dirs.entry(dir.to_owned()).or_default();
        Ok(())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = match access {
            Access::Create => self.unhung(),
            _ => self.0.state.lock(),
        };
        state.power()?;
        let inode = if access == Access::Create {
            state.write()?;
            if state.find(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = state.inodes.len();
            let (dir, name) = split(path);
            state.dir(&dir)?.change(NameChange::Link(name, inode));
            state.inodes.push(Inode::default());
            inode
        } else {
            state.find(path)?
        };
        Ok(Box::new(MemFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.unhung();
        state.write()?;
        let inode = state.find(from)?;
        let ((dir, from), (_, to)) = (split(from), split(to));
        state.dir(&dir)?.change(NameChange::Rename(from, to, inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.unhung();
        state.write()?;
        state.find(path)?;
        let (dir, name) = split(path);
        state.dir(&dir)?.change(NameChange::Unlink(name));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.unhung();
        state.sync()?;
        state.dir(dir)?.sync();
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    inode: usize,
}

impl MemFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.unhung();
        state.power()?;
        let result = state.write();
        let inode = &mut state.inodes[self.inode];
        match (&result, change) {
            (Ok(()), change) => inode.change(change),
            (Err(_), Change::Write { offset, mut bytes }) => {
                bytes.truncate(bytes.len() / 2);
                inode.change(Change::Write { offset, bytes });
            }
            (Err(_), Change::Len(_)) => {}
        }
        result
    }
}

/// Files here are small, so that every offset is one of memory, too.
fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.state.lock();
        state.power()?;
        let content = state.inodes[self.inode]
            .live
            .get(place(offset)?..)
            .unwrap_or_default();
        let n = buf.len().min(content.len());
        buf[..n].copy_from_slice(&content[..n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let bytes = bytes.to_vec();
        let offset = place(offset)?;
        self.change(Change::Write { offset, bytes })
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.0.state.lock();
        state.power()?;
        Ok(state.inodes[self.inode].live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(place(len)?))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.unhung();
        state.sync()?;
        state.inodes[self.inode].sync();
        Ok(())
    }
}

/// SplitMix64: short, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
