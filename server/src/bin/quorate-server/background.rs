//! `start`, `stop` and `restart`: a server in the background.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use quorate_server::config::Config;
use rustix::process::{Pid, Signal};

use crate::{
    cli::Options,
    notify,
    pid_file::{self, Holder},
    place::{self, Place, absolute},
    processes,
};

/// Starts a server and waits until it serves. Returns whether it does, or at least still may.
pub(crate) fn start(place: &Place, options: &Options, patience: Duration) -> io::Result<bool> {
    let mut out = io::stdout();
    write!(out, "Starting zookeeper ... ")?;
    out.flush()?;
    let config = match place.load() {
        Ok(loaded) => loaded.config,
        Err(error) => {
            writeln!(
                out,
                "FAILED TO START\n{error}\nInvalid config, exiting abnormally"
            )?;
            return Ok(false);
        }
    };
    let pid_path = place::pid_file(&config, options);
    if let Ok(Holder::Server(pid) | Holder::Apache(pid)) = pid_file::holder(&pid_path) {
        writeln!(out, "already running as process {pid}.")?;
        return Ok(false);
    }
    let log_path = place::log_file(&config, options);
    let outcome = create_directories(&config, &pid_path, &log_path)
        .and_then(|()| Launch::new(place, options, &log_path)?.wait(patience));
    match outcome {
        Ok(Outcome::Serving) => writeln!(out, "STARTED")?,
        Ok(Outcome::Starting(pid)) => writeln!(
            out,
            "STILL STARTING\nProcess {pid} runs and does not serve yet after {} s; its log is {}",
            patience.as_secs(),
            log_path.display()
        )?,
        Ok(Outcome::Ended { status, said }) => {
            writeln!(
                out,
                "FAILED TO START\n{said}\n{status}; the log is {}",
                log_path.display()
            )?;
            return Ok(false);
        }
        Err(error) => {
            writeln!(out, "FAILED TO START\n{error}")?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends the server that holds the pid file, and waits until it is gone. Returns whether none runs any more.
pub(crate) fn stop(config: &Config, options: &Options, patience: Duration) -> io::Result<bool> {
    let mut out = io::stdout();
    write!(out, "Stopping zookeeper ... ")?;
    out.flush()?;
    let path = place::pid_file(config, options);
    let pid = match pid_file::holder(&path) {
        Ok(Holder::Server(pid) | Holder::Apache(pid)) => pid,
        Ok(Holder::Nobody) => {
            writeln!(
                out,
                "no zookeeper to stop (could not find file {})",
                path.display()
            )?;
            return Ok(true);
        }
        Ok(Holder::Stale(why)) => {
            pid_file::remove_stale(&path);
            writeln!(
                out,
                "no zookeeper to stop (stale pid file {}: {why})",
                path.display()
            )?;
            return Ok(true);
        }
        Err(error) => {
            writeln!(out, "cannot read {}: {error}", path.display())?;
            return Ok(false);
        }
    };
    if let Err(error) = terminate(pid) {
        writeln!(out, "cannot signal process {pid}: {error}")?;
        return Ok(false);
    }
    if !wait_until_gone(pid, patience) {
        let seconds = patience.as_secs();
        writeln!(
            out,
            "process {pid} still runs after {seconds} s; its log says what it waits for"
        )?;
        return Ok(false);
    }
    pid_file::remove_stale(&path);
    writeln!(out, "STOPPED")?;
    Ok(true)
}

fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no such pid"))?;
    match rustix::process::kill_process(pid, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

fn wait_until_gone(pid: u32, patience: Duration) -> bool {
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + patience;
    while processes::is_running(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// Creates what the pid file and the log need; the data directories must be there if the settings
/// say so.
fn create_directories(config: &Config, pid_file: &Path, log_file: &Path) -> io::Result<()> {
    let needed = [config.snapshot_dir(), config.log_dir()];
    let missing = needed.iter().find(|directory| !directory.is_dir());
    if let Some(missing) = missing.filter(|_| !config.datadir_autocreate) {
        let what = format!(
            "the data directory {} is missing, and datadir.autocreate is off; create it, or mount \
             the disk that holds it",
            missing.display()
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    [pid_file, log_file]
        .into_iter()
        .filter_map(Path::parent)
        .try_for_each(create)
}

fn create(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory).map_err(|error| {
        let what = format!(
            "cannot create the directory {}: {error}",
            directory.display()
        );
        io::Error::new(error.kind(), what)
    })
}

/// A server process that has been launched.
struct Launch {
    child: Child,
    ready: notify::Listener,
    log: PathBuf,
    /// Where in the log this server's own lines begin.
    log_start: u64,
}

/// What became of it.
enum Outcome {
    Serving,
    /// It runs and does not serve yet.
    Starting(u32),
    Ended {
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
}

impl Launch {
    /// Runs this program again, in a session of its own, with its output in the log.
    fn new(place: &Place, options: &Options, log: &Path) -> io::Result<Launch> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| {
                let what = format!("cannot write the log {}: {error}", log.display());
                io::Error::new(error.kind(), what)
            })?;
        let log_start = output.metadata()?.len();
        let ready = notify::Listener::open()?;
        let child = Command::new(env::current_exe()?)
            .args(arguments(place, options))
            .env(notify::VARIABLE, ready.name())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()?;
        Ok(Launch {
            child,
            ready,
            log: log.to_owned(),
            log_start,
        })
    }

    /// Waits until it serves or ends, at most for `patience`.
    fn wait(mut self, patience: Duration) -> io::Result<Outcome> {
        // A message wakes at once; the end of the process is looked for in between.
        const BETWEEN: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + patience;
        loop {
            if self
                .ready
                .receive(BETWEEN)?
                .is_some_and(|message| message.contains(notify::READY))
            {
                return Ok(Outcome::Serving);
            }
            if let Some(status) = self.child.try_wait()? {
                let said = last_words(&self.log, self.log_start).unwrap_or_default();
                return Ok(Outcome::Ended { status, said });
            }
            if Instant::now() >= deadline {
                return Ok(Outcome::Starting(self.child.id()));
            }
        }
    }
}

fn arguments(place: &Place, options: &Options) -> Vec<OsString> {
    let mut arguments = vec![
        OsString::from("start-foreground"),
        OsString::from("--detach"),
    ];
    arguments.extend(options.to_args());
    arguments.extend(
        place
            .file
            .as_deref()
            .map(|file| absolute(file).into_os_string()),
    );
    arguments
}

/// What the log says from `start` on: its errors, or else its last lines.
pub(crate) fn last_words(log: &Path, start: u64) -> io::Result<String> {
    const MOST_BYTES: u64 = 64 << 10;
    const MOST_LINES: usize = 10;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(MOST_BYTES)),
    ))?;
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let is_error = |line: &&str| line.contains(" ERROR ");
    let mut lines: Vec<&str> = text.lines().filter(is_error).collect();
    if lines.is_empty() {
        lines = text.lines().collect();
    }
    Ok(lines[lines.len().saturating_sub(MOST_LINES)..].join("\n"))
}
