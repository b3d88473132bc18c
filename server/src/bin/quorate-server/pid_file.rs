//! The pid file: who runs on a data directory.
//!
//! A server holds a lock on its pid file as long as it lives. The lock tells a server that runs from a
//! file that one left behind, also when the pid has meanwhile been given to another process.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::processes;

/// What a pid file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// There is no file.
    Nobody,
    /// A server of this program runs as this process.
    Server(u32),
    /// A server of Apache ZooKeeper runs as this process.
    Apache(u32),
    /// The file was left behind; what stands in it is no running server.
    Stale(String),
}

/// Looks who holds the pid file at `path`.
///
/// # Errors
/// When the file is there and cannot be read.
pub(crate) fn holder(path: &Path) -> io::Result<Holder> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    let text = read_text(&mut file)?;
    let pid = text.trim().parse::<u32>().ok();
    let locked = match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => return Err(error),
    };
    Ok(match pid {
        Some(pid) if locked => Holder::Server(pid),
        None if locked => Holder::Stale("it is being written".to_owned()),
        Some(pid) if processes::is_running(pid) && processes::is_apache(pid) => Holder::Apache(pid),
        Some(pid) if processes::is_running(pid) => {
            let command = processes::command_line(pid).unwrap_or_else(|| "unknown".to_owned());
            Holder::Stale(format!("process {pid} is another program ({command})"))
        }
        Some(pid) => Holder::Stale(format!("process {pid} is gone")),
        None => Holder::Stale("it holds no pid".to_owned()),
    })
}

/// The pid file of this process, held as long as this value lives, then removed.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// Carries the lock.
    _file: File,
}

/// Why a pid file could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// Another server runs.
    #[error("already running as process {0}")]
    Held(u32),
    /// The file could not be written.
    #[error("cannot write the pid file {path}: {source}", path = .path.display())]
    Io {
        /// The pid file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PidFile {
    /// Writes the pid of this process into the file at `path`, unless another server holds it.
    pub(crate) fn take(path: &Path) -> Result<PidFile, TakeError> {
        let failed = |source| TakeError::Io {
            path: path.to_owned(),
            source,
        };
        if let Holder::Apache(pid) = holder(path).map_err(failed)? {
            return Err(TakeError::Held(pid));
        }
        let mut tries = 0;
        loop {
            let mut options = OpenOptions::new();
            options.create(true).read(true).write(true).truncate(false);
            let mut file = options.open(path).map_err(failed)?;
            match file.try_lock() {
                // The former holder may have removed the file between the opening and the lock.
                Ok(()) if !is_at(&file, path) => {}
                Ok(()) => {
                    file.set_len(0)
                        .and_then(|()| file.rewind())
                        .map_err(failed)?;
                    write!(file, "{}", std::process::id()).map_err(failed)?;
                    return Ok(PidFile {
                        path: path.to_owned(),
                        _file: file,
                    });
                }
                Err(TryLockError::WouldBlock) => {
                    let text = read_text(&mut file).map_err(failed)?;
                    let pid = text.trim().parse().unwrap_or_default();
                    // Whoever only looks holds the lock as well, for a moment.
                    if processes::is_running(pid) || tries == TRIES {
                        return Err(TakeError::Held(pid));
                    }
                    tries += 1;
                    thread::sleep(PAUSE);
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }
}

/// How often, and after which pause, a lock is tried again that no running process explains.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a pid file that no server holds.
pub(crate) fn remove_stale(path: &Path) {
    if matches!(holder(path), Ok(Holder::Stale(_))) {
        let _ = fs::remove_file(path);
    }
}

fn read_text(file: &mut File) -> io::Result<String> {
    const LONGEST: u64 = 64;
    let mut text = Vec::new();
    file.rewind()?;
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_file_names_its_holder_and_refuses_others() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("pid");
        assert_eq!(holder(&path).unwrap(), Holder::Nobody);
        let mine = PidFile::take(&path).unwrap();
        let pid = std::process::id();
        assert_eq!(fs::read_to_string(&path).unwrap(), pid.to_string());
        assert_eq!(holder(&path).unwrap(), Holder::Server(pid));
        assert!(matches!(PidFile::take(&path), Err(TakeError::Held(held)) if held == pid));
        remove_stale(&path);
        assert!(path.exists());
        drop(mine);
        assert_eq!(holder(&path).unwrap(), Holder::Nobody);
    }

    #[test]
    fn what_was_left_behind_is_recognised() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("pid");
        // The pid of a process that runs and is no server: this very one.
        let pid = std::process::id();
        for (text, why) in [
            (pid.to_string(), "is another program"),
            ("4294967294".to_owned(), "is gone"),
            ("x".to_owned(), "holds no pid"),
            (String::new(), "holds no pid"),
        ] {
            fs::write(&path, &text).unwrap();
            let Holder::Stale(found) = holder(&path).unwrap() else {
                panic!("{text:?} is no running server");
            };
            assert!(found.contains(why), "{found}");
        }
        drop(PidFile::take(&path).unwrap());
        assert!(!path.exists());
    }
}
