//! A server as a child process, on a directory of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// How long a server may take until it serves, and until it has ended when it is asked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a starting server may take for one answer: a connection that Apache's server accepts
/// too early is never answered.
const PROBE: Duration = Duration::from_millis(300);

/// How often a state that nobody announces is looked at again.
const POLL: Duration = Duration::from_millis(5);

/// The shell's end of the promise that no server outlives its test: it waits for a line on its
/// input, and where the input ends without one, because the test is gone, it kills the server that
/// took over its process id.
const LEASH: &str = r#"exec 3<&0; (read _ <&3 || kill -9 $$) & exec "$@" 3<&- </dev/null"#;

/// The keys of a configuration, under their names in `zoo.cfg`.
///
/// Keys that Apache ZooKeeper reads only as properties of the JVM (`jute.maxbuffer`,
/// `readonlymode.enabled`, `znode.container.*`), and those of Java itself (`java.*`) are given to it as such.
///
/// ```
/// use quorate_tests::process::Settings;
/// let settings = Settings::default().with("tickTime", 200).with("enforceQuota", true);
/// assert_eq!(settings.get("tickTime"), Some("200"));
/// assert_eq!(settings.get("admin.enableServer"), Some("false"));
/// ```
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, String>);

impl Default for Settings {
    /// Every four-letter word, no HTTP server, and any number of connections.
    fn default() -> Self {
        Settings(BTreeMap::new())
            .with("tickTime", 2000)
            .with("maxClientCnxns", 0)
            .with("admin.enableServer", false)
            .with("4lw.commands.whitelist", "*")
    }
}

impl Settings {
    /// The same settings with `key` set to `value`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.insert(key.to_owned(), value.to_string());
        self
    }

    /// The value of `key`, if it is set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Every key with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// How a kind of server is started.
pub trait Program: Send + Sync {
    /// What to call the server in messages.
    fn name(&self) -> String;

    /// The text of `zoo.cfg` for these settings.
    fn zoo_cfg(&self, settings: &Settings) -> String;

    /// The command that runs the server in the foreground, with everything it is to be told.
    fn command(&self, zoo_cfg: &Path, settings: &Settings) -> Command;
}

/// Every setting as a line of `zoo.cfg`.
pub fn lines<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    settings
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect()
}

/// A standalone server on 127.0.0.1, in a process of its own.
///
/// It is killed when the value is dropped, and also when the test's process dies before that. Its
/// directory goes with it; output is in `server.log` there and printed by [`ServerProcess::log`].
///
/// ```no_run
/// use quorate_tests::apache::Apache;
/// use quorate_tests::process::{ServerProcess, Settings};
///
/// let mut server = ServerProcess::start(Apache::from_env(), Settings::default());
/// println!("{} at {}", server.version(), server.address());
/// server.kill();
/// server.restart();
/// ```
pub struct ServerProcess {
    program: Box<dyn Program>,
    settings: Settings,
    home: TempDir,
    address: SocketAddr,
    running: Option<Running>,
}

impl ServerProcess {
    /// Starts a server on a new directory and waits until it serves.
    pub fn start(program: impl Program + 'static, settings: Settings) -> Self {
        let mut server = Self::prepare(program, settings);
        server.restart();
        server
    }

    /// Makes the directories of a server without starting it, so that data can be put there first.
    pub fn prepare(program: impl Program + 'static, settings: Settings) -> Self {
        let home = tempfile::Builder::new()
            .prefix("quorate-test-")
            .tempdir()
            .unwrap();
        fs::create_dir(home.path().join("data")).unwrap();
        ServerProcess {
            program: Box::new(program),
            settings,
            home,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            running: None,
        }
    }

    /// Where clients connect. The port changes with every start; a [`Relay`](crate::relay::Relay)
    /// keeps one for clients that are to find the server again.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `dataDir`: snapshots and the log are in `version-2` below it.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The settings for the next start.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// What to call the server in messages.
    pub fn name(&self) -> String {
        self.program.name()
    }

    /// The process id, while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// What the server has printed so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.home.path().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the server on its directory again, and waits until it serves.
    ///
    /// A port that was free a moment ago can be taken by another process; the server then ends at
    /// once, and another port is tried.
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name());
        for _ in 0..5 {
            self.address.set_port(free_port());
            self.spawn();
            if self.serves() {
                return;
            }
        }
        panic!("{} does not start:\n{}", self.name(), self.log());
    }

    /// Starts the server and waits until it ends by itself, which it must; answers its exit status
    /// and what it printed.
    pub fn fails_to_start(&mut self) -> (ExitStatus, String) {
        self.address.set_port(free_port());
        self.spawn();
        let status = self.wait();
        (status, self.log())
    }

    /// Starts the server and kills it so long afterwards, whatever it does by then.
    pub fn kill_while_starting(&mut self, after: Duration) {
        self.address.set_port(free_port());
        self.spawn();
        thread::sleep(after);
        self.kill();
    }

    fn spawn(&mut self) {
        let settings = self
            .settings
            .clone()
            .with("clientPort", self.address.port())
            .with("clientPortAddress", Ipv4Addr::LOCALHOST)
            .with("dataDir", self.data_dir().display());
        let zoo_cfg = self.home.path().join("zoo.cfg");
        fs::write(&zoo_cfg, self.program.zoo_cfg(&settings)).unwrap();
        let log = File::create(self.home.path().join("server.log")).unwrap();
        let command = self.program.command(&zoo_cfg, &settings);
        self.running = Some(Running::spawn(&command, self.home.path(), log));
    }

    /// Waits until the server answers `srvr`; false if it has ended instead.
    fn serves(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if ask(self.address, "srvr", PROBE).is_ok_and(|answer| answer.contains("Mode: ")) {
                return true;
            }
            if self.running.as_mut().expect("just started").has_ended() {
                self.running = None;
                return false;
            }
            thread::sleep(POLL);
        }
        panic!("{} does not serve in time:\n{}", self.name(), self.log());
    }

    /// The version that the server states in its answer to `srvr`, such as `3.8.0`.
    pub fn version(&self) -> String {
        let answer = word(self.address, "srvr").unwrap();
        let version = answer
            .strip_prefix("Zookeeper version: ")
            .unwrap_or(&answer);
        let end = version.find(['-', ',', '\n']).unwrap_or(version.len());
        version[..end].to_owned()
    }

    /// Ends the server with SIGTERM and waits until it has ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends the server with SIGKILL and waits until it has ended.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Sends any signal to the server, such as `STOP` and `CONT`.
    pub fn signal(&self, signal: Signal) {
        self.running
            .as_ref()
            .expect("the server runs")
            .signal(signal);
    }

    /// Waits until the server has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let running = self.running.take().expect("the server runs");
        running
            .wait()
            .unwrap_or_else(|| panic!("{} does not end in time:\n{}", self.name(), self.log()))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
        if thread::panicking() {
            eprintln!("--- output of {}:\n{}", self.name(), self.log());
        }
    }
}

/// A program that runs. It is killed when the value is dropped, and also when this process dies
/// before that.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts `command` in the directory `home`, with all that it prints going to `log`.
    pub fn spawn(command: &Command, home: &Path, log: File) -> Self {
        let child = leashed(command)
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Running(child.expect("sh is there"))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended; `None` if it does not in time, and then had to be killed.
    pub fn wait(mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(POLL);
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let leash = self.0.stdin.take();
        if !self.has_ended() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
        // The process id may belong to somebody else from now on: let the shell's watcher go.
        let _ = leash.expect("stdin is a pipe").write_all(b"\n");
    }
}

/// `command`, run in a way that ends it when this process dies.
fn leashed(command: &Command) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", LEASH, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => sh.env(key, value),
            None => sh.env_remove(key),
        };
    }
    sh
}

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Sends a four-letter word and answers all that the server says to it.
pub fn word(address: SocketAddr, word: &str) -> io::Result<String> {
    ask(address, word, PATIENCE)
}

pub(crate) fn ask(address: SocketAddr, word: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Looks at a state again and again until `seen` answers something, with a deadline.
///
/// For what no event announces: a file that appears, a counter of another process. `what` names it
/// in the panic at the deadline.
pub fn eventually<T>(what: &str, patience: Duration, mut seen: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = seen() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(POLL);
    }
}
