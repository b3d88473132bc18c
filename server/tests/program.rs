//! The program `quorate-server`, driven as its users drive it.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of a test fail it like the test itself"
)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a `zoo.cfg`, and the program run on it. Whatever still runs at the end is ended.
struct Site {
    dir: TempDir,
    port: u16,
}

/// What the program said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn has(&self, phrase: &str) -> &Said {
        let Said { code, out, err } = self;
        let found = out.contains(phrase) || err.contains(phrase);
        assert!(
            found,
            "{phrase:?} is not in\n{out}{err}(exit code {code:?})"
        );
        self
    }

    #[track_caller]
    fn ends_with(&self, code: i32) -> &Said {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    /// The zxid to which `check` says that the data leads.
    #[track_caller]
    fn end_of_data(&self) -> String {
        let (_, zxid) = self.out.split_once("lead to zxid ").unwrap();
        zxid.lines().next().unwrap().to_owned()
    }

    /// There is a line of `check` about `subject` with this level and phrase.
    #[track_caller]
    fn finds(&self, level: &str, subject: &str, phrase: &str) -> &Said {
        let found = self.out.lines().any(|line| {
            let mut words = line.splitn(2, ' ');
            let (first, rest) = (
                words.next().unwrap(),
                words.next().unwrap_or("").trim_start(),
            );
            first == level && rest.starts_with(subject) && rest.contains(phrase)
        });
        assert!(
            found,
            "no {level} of {subject} with {phrase:?} in\n{}{}",
            self.out, self.err
        );
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Site {
    /// A server that stands alone, on a port that was free a moment ago.
    fn new() -> Site {
        Site::with("")
    }

    /// The same with further lines in its `zoo.cfg`.
    fn with(lines: &str) -> Site {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let site = Site {
            dir: TempDir::new().unwrap(),
            port,
        };
        let data = site.data();
        let base = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n",
            data.display()
        );
        site.write("zoo.cfg", &format!("{base}{lines}"));
        site
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("zookeeper_server.pid")
    }

    fn pid(&self) -> i32 {
        fs::read_to_string(self.pid_file())
            .unwrap()
            .parse()
            .unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-server"));
        command
            .current_dir(self.dir.path())
            .args(arguments)
            .stdin(Stdio::null());
        for variable in [
            "RUST_LOG",
            "JVMFLAGS",
            "SERVER_JVMFLAGS",
            "ZOOPIDFILE",
            "ZOO_LOG_DIR",
        ] {
            command.env_remove(variable);
        }
        for variable in [
            "ZOOCFGDIR",
            "ZOOCFG",
            "ZOO_LOG_FILE",
            "ZOO_DATADIR_AUTOCREATE_DISABLE",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Puts data that Apache ZooKeeper wrote in the place of this server's.
    fn copy_fixture(&self, name: &str) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apache-3.9.5");
        let from = fixtures.join(name).join("data/version-2");
        let to = self.data().join("version-2");
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }

    /// Runs the program on this `zoo.cfg` to its end.
    fn run(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).arg("./zoo.cfg").output().unwrap())
    }

    /// Starts the program in the foreground and waits for a line in its log.
    fn foreground(&self, arguments: &[&str], line: &str) -> Foreground {
        let mut child = self
            .command(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Foreground {
            child,
            lines,
            seen: String::new(),
        };
        while !server.seen.contains(line) {
            server
                .read_line()
                .unwrap_or_else(|| panic!("no {line:?} in\n{}", server.seen));
        }
        server
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let stopped = self.command(&["stop", "./zoo.cfg"]).output();
        let text = stopped
            .map(Said::from)
            .map(|said| said.out)
            .unwrap_or_default();
        if !text.contains("STOPPED") && !text.contains("no zookeeper to stop") {
            eprintln!("a server may be left over: {text}");
        }
    }
}

struct Foreground {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Foreground {
    /// Reads a line of the log; `None` at its end.
    fn read_line(&mut self) -> Option<()> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen.push_str(&line);
                self.seen.push('\n');
                Some(())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the server hangs:\n{}", self.seen),
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; returns the exit code, and everything that was logged.
    fn end(mut self) -> (Option<i32>, String) {
        while self.read_line().is_some() {}
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None, "{}", self.seen);
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Says whether a process is gone, or waits for its parent with no thread left.
fn gone(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let has = |line: &str| {
        status
            .lines()
            .any(|found| found.replace('\t', " ").starts_with(line))
    };
    status.is_empty() || has("State: Z") && has("Threads: 1")
}

fn await_gone(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    while !gone(pid) {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        thread::yield_now();
    }
}

#[test]
fn a_life_in_the_background() {
    let site = Site::new();
    site.run(&["status"])
        .ends_with(1)
        .has("It is probably not running.");
    site.run(&["start"])
        .ends_with(0)
        .has("Starting zookeeper ... STARTED")
        .has("Using config: ./zoo.cfg");
    let pid = site.pid();
    site.run(&["status"])
        .ends_with(0)
        .has(&format!(
            "Client port found: {}. Client address: 127.0.0.1. Client SSL: false.",
            site.port
        ))
        .has("Mode: standalone");
    site.run(&["start"])
        .ends_with(1)
        .has(&format!("already running as process {pid}."));
    let second = Said::from(
        site.command(&["start-foreground", "./zoo.cfg"])
            .output()
            .unwrap(),
    );
    second
        .ends_with(1)
        .has(&format!("already running as process {pid}"));
    assert_eq!(site.pid(), pid);
    site.run(&["check"])
        .ends_with(0)
        .finds("ok", "process", &format!("runs as process {pid}"))
        .finds("ok", "clientPort", &format!("served by process {pid}"));
    site.run(&["stop"])
        .ends_with(0)
        .has("Stopping zookeeper ... STOPPED");
    assert!(gone(pid));
    assert!(!site.pid_file().exists());
    site.run(&["stop"])
        .ends_with(0)
        .has("no zookeeper to stop (could not find file");
    let log = fs::read_to_string(site.data().join("quorate-server.log")).unwrap();
    assert!(log.contains("SIGTERM") && log.contains("stopped"), "{log}");
}

#[test]
fn a_restart_is_another_process() {
    let site = Site::new();
    site.run(&["start"]).ends_with(0);
    let first = site.pid();
    site.run(&["restart"])
        .ends_with(0)
        .has("STOPPED")
        .has("STARTED");
    assert!(gone(first));
    assert_ne!(site.pid(), first);
    site.run(&["status"]).ends_with(0).has("Mode: standalone");
}

#[test]
fn a_failed_start_says_why() {
    let site = Site::new();
    let taken = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let said = site.run(&["start"]);
    said.ends_with(1)
        .has("FAILED TO START")
        .has("ERROR")
        .has(&format!("127.0.0.1:{}", site.port));
    assert!(!site.pid_file().exists());
    drop(taken);
    Site::with("tickTime=0\n")
        .run(&["start"])
        .ends_with(1)
        .has("FAILED TO START")
        .has("zoo.cfg:4: tickTime: tickTime is not set")
        .has("Invalid config, exiting abnormally");
}

#[test]
fn invalid_settings_end_with_2() {
    for (line, phrase) in [
        (
            "minSessionTimeout=9\nmaxSessionTimeout=8\n",
            "must not be larger than",
        ),
        ("clientPort=70000\n", "port out of range"),
        ("syncEnabled=perhaps\n", "invalid option"),
    ] {
        let site = Site::with(line);
        site.run(&["start-foreground"])
            .ends_with(2)
            .has(phrase)
            .has("Invalid config");
    }
    let site = Site::with("secureClientPort=2281\n");
    site.run(&["start-foreground"])
        .ends_with(1)
        .has("SSL isn't supported");
    let none = Said::from(site.command(&["./none.cfg"]).output().unwrap());
    none.ends_with(2).has("error processing ./none.cfg");
}

#[test]
fn signals_end_a_server_in_the_foreground() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let site = Site::new();
        let server = site.foreground(&["start-foreground", "./zoo.cfg"], "serving clients");
        assert!(site.pid_file().exists());
        server.signal(signal);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains(name), "{log}");
        assert!(!site.pid_file().exists());
    }
}

#[test]
fn the_forms_without_a_command() {
    let site = Site::new();
    let port = site.port.to_string();
    let forms: [&[&str]; 3] = [
        &["./zoo.cfg"],
        &[
            &port,
            "./data",
            "2000",
            "10",
            "--client-address",
            "127.0.0.1",
        ],
        &[
            "--data-dir",
            "./data",
            "--client-port",
            "0",
            "--client-address",
            "127.0.0.1",
        ],
    ];
    for form in forms {
        let server = site.foreground(form, "serving clients");
        server.signal(Signal::TERM);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.contains("settings=flags"), form.len() > 1, "{log}");
    }
}

#[test]
fn what_a_killed_server_leaves_does_not_hinder() {
    let site = Site::new();
    site.run(&["start"]).ends_with(0);
    let pid = site.pid();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    await_gone(pid);
    site.run(&["check"])
        .ends_with(0)
        .finds("warning", "process", "was left behind");
    site.run(&["stop"])
        .ends_with(0)
        .has("stale pid file")
        .has("is gone");
    // The pid of another program: this test.
    site.write("data/zookeeper_server.pid", &std::process::id().to_string());
    site.run(&["stop"]).ends_with(0).has("is another program");
    site.write("data/zookeeper_server.pid", &std::process::id().to_string());
    site.run(&["start"]).ends_with(0).has("STARTED");
    site.run(&["stop"]).ends_with(0).has("STOPPED");
}

#[test]
fn where_the_pid_and_the_log_go() {
    let site = Site::new();
    let (pid, logs) = (site.path("run/zk.pid"), site.path("logs"));
    let with_environment = |command: &str| {
        let mut command = site.command(&[command, "zoo.cfg"]);
        command
            .env("ZOOPIDFILE", &pid)
            .env("ZOO_LOG_DIR", &logs)
            .env("ZOO_LOG_FILE", "zk.log");
        Said::from(command.env("ZOOCFGDIR", site.dir.path()).output().unwrap())
    };
    with_environment("start").ends_with(0).has("STARTED");
    assert!(pid.is_file() && logs.join("zk.log").is_file());
    assert!(!site.pid_file().exists());
    with_environment("stop").ends_with(0).has("STOPPED");
    assert!(!pid.exists());
}

#[test]
fn missing_directories_are_not_created_when_that_is_forbidden() {
    let site = Site::new();
    let forbidden = |command: &str| {
        let mut command = site.command(&[command, "./zoo.cfg"]);
        Said::from(
            command
                .env("ZOO_DATADIR_AUTOCREATE_DISABLE", "1")
                .output()
                .unwrap(),
        )
    };
    forbidden("check").ends_with(1).finds(
        "error",
        "dataDir",
        "is missing, and datadir.autocreate is off",
    );
    forbidden("start").ends_with(1).has("FAILED TO START");
    assert!(!site.data().exists());
}

#[test]
fn check_of_a_new_server() {
    let site = Site::new();
    let said = site.run(&["check"]);
    said.ends_with(0)
        .finds("ok", "settings", "can be used")
        .finds("ok", "process", "no server runs")
        .finds("ok", "dataDir", "will be created")
        .finds("ok", "dataDir space", "free")
        .finds("ok", "clientPort", "is free")
        .finds("ok", "clock", "")
        .has("0 errors");
    assert!(!site.data().exists(), "check must change nothing");
}

#[test]
fn check_of_settings() {
    let said = Site::with("foo=1\nclientport=1\nnio.numWorkerThreads=2\n").run(&["check"]);
    said.ends_with(0)
        .finds("warning", "settings", "zoo.cfg:4: foo: unknown")
        .finds("warning", "settings", "did you mean clientPort?")
        .finds(
            "warning",
            "settings",
            "nio.numWorkerThreads: known, and has no effect",
        );
    let said = Site::with("tickTime=x\ninitLimit=-1\n").run(&["check"]);
    said.ends_with(1)
        .finds("error", "settings", "not a whole number")
        .finds("error", "settings", "must not be negative");
    let site = Site::new();
    site.write("zoo.cfg", "clientPort=0\n");
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "settings", "dataDir is not set");
    site.write("zoo.cfg", "dataDir=data\nclientPort=0\n");
    site.run(&["check"])
        .ends_with(0)
        .finds("warning", "settings", "data is relative");
    let none = Said::from(site.command(&["check", "./none.cfg"]).output().unwrap());
    none.ends_with(1)
        .finds("error", "settings", "error processing ./none.cfg")
        .has("1 checked: 1 errors, 0 warnings");
}

#[test]
fn check_of_directories() {
    let site = Site::new();
    site.write("data", "a file");
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "dataDir", "is not a directory");
    // Nobody can create a file there, not even the superuser.
    let said = site.run(&["check", "--data-dir", "/proc/quorate"]);
    said.ends_with(1)
        .finds("error", "dataDir", "cannot be written by this user");
    // No disk holds twice as much as this.
    let said = site.run(&[
        "check",
        "--data-dir",
        "./new",
        "--set",
        "preAllocSize=1000000000G",
    ]);
    said.ends_with(1)
        .finds("error", "dataDir space", "less than two log files grow by");
}

#[test]
fn check_of_files_in_the_wrong_place() {
    let site = Site::new();
    site.write("data/version-2/log.1", "");
    site.write("log/version-2/snapshot.0", "");
    site.run(&["check", "--data-log-dir", "./log"])
        .ends_with(1)
        .finds("error", "data files", "dataLogDir holds snapshots");
    fs::remove_file(site.path("log/version-2/snapshot.0")).unwrap();
    site.run(&["check", "--data-log-dir", "./log"])
        .ends_with(1)
        .finds("error", "data files", "dataDir holds transaction logs");
    let inner = site.data().join("version-2");
    site.run(&["check", "--data-dir", inner.to_str().unwrap()])
        .ends_with(1)
        .finds("error", "data files", "log.1 among them")
        .has("the directory above version-2");
}

#[test]
fn check_of_data_that_apache_wrote() {
    let site = Site::new();
    site.copy_fixture("standalone-plain");
    site.run(&["check"])
        .ends_with(0)
        .finds("ok", "data files", "lead to zxid 0x");
    site.copy_fixture("torn-tail-cut");
    site.run(&["check"])
        .ends_with(0)
        .finds("warning", "data files", "when the server stopped");
    site.copy_fixture("crc-error");
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "data files", "a record was damaged");
    site.run(&["start"])
        .ends_with(1)
        .has("FAILED TO START")
        .has("a record was damaged");
}

#[test]
fn purging_keeps_what_a_restart_needs() {
    let site = Site::new();
    site.copy_fixture("standalone-plain");
    let before = site.run(&["check"]).end_of_data();
    let said = site.run(&["purge", "--keep", "1"]);
    said.ends_with(0).has("removed ");
    let names = fs::read_dir(site.data().join("version-2")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        names.filter(|name| name.starts_with("snapshot.")).count(),
        3
    );
    assert_eq!(site.run(&["check"]).end_of_data(), before);
    site.run(&["purge"]).ends_with(0).has("0 files removed");
}

#[test]
fn check_of_a_taken_port() {
    let site = Site::new();
    let _taken = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let pid = std::process::id();
    site.run(&["check"])
        .ends_with(1)
        .finds(
            "error",
            "clientPort",
            &format!("port {} is taken by process {pid}", site.port),
        )
        .finds("error", "clientPort", "program");
    let said = site.run(&[
        "check",
        "--client-port",
        "0",
        "--client-address",
        "192.0.2.1",
    ]);
    said.finds("ok", "clientPort", "chosen by the system");
    let said = site.run(&["check", "--client-address", "192.0.2.1"]);
    said.ends_with(1).finds(
        "error",
        "clientPort",
        "192.0.2.1 is no address of this machine",
    );
}

#[test]
fn check_of_myid() {
    let lines = "initLimit=5\nsyncLimit=2\nserver.1=127.0.0.1:2:3\nserver.2=127.0.0.1:4:5\nserver.3=127.0.0.1:6:7\n";
    let site = Site::with(lines);
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "settings", "myid file is missing");
    site.write("data/myid", "9\n");
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "settings", "My id 9 not in the peer list");
    site.write("data/myid", "two\n");
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "settings", "is not a number");
    site.write("data/myid", "2\n");
    site.run(&["check"])
        .finds("ok", "myid", "this is server 2 beside 2 others")
        .finds("warning", "server.1", "cannot be reached");
}

/// What another server says on its election port, to whoever asks: that it is `sid`, and that it
/// leads an ensemble of this configuration.
fn another_server(listener: TcpListener, sid: i64, config: &str) {
    let mut vote = Vec::new();
    vote.extend(2_i32.to_be_bytes());
    vote.extend(sid.to_be_bytes());
    vote.extend([0; 24]);
    vote.extend(2_i32.to_be_bytes());
    vote.extend(u32::try_from(config.len()).unwrap().to_be_bytes());
    vote.extend(config.as_bytes());
    let mut frame = u32::try_from(vote.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(vote);
    let mut greeting = (-65536_i64).to_be_bytes().to_vec();
    greeting.extend(sid.to_be_bytes());
    greeting.extend([0, 0, 0, 3]);
    greeting.extend(b"h:1");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 20];
            stream.read_exact(&mut head).unwrap();
            let mut address = vec![0; usize::from(head[19])];
            stream.read_exact(&mut address).unwrap();
            let mut back = TcpStream::connect(String::from_utf8(address).unwrap()).unwrap();
            back.write_all(&greeting).unwrap();
            back.read_exact(&mut head).unwrap();
            back.write_all(&frame).unwrap();
        }
    });
}

/// Ports for other servers; those that are taken out answer, the others are free.
fn ports<const N: usize>() -> [(u16, TcpListener); N] {
    [(); N].map(|()| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap().port(), listener)
    })
}

#[test]
fn check_of_other_servers() {
    let [own, quorum, good, silent] = ports();
    let list = format!(
        "server.1=127.0.0.1:1:{}\nserver.2=127.0.0.1:{}:{}\nserver.3=127.0.0.1:1:{}\nserver.4=nowhere.invalid:1:2\n",
        own.0, quorum.0, good.0, silent.0
    );
    let site = Site::with(&format!("initLimit=5\nsyncLimit=2\n{list}"));
    site.write("data/myid", "1\n");
    another_server(good.1, 2, &list);
    drop((own.1, silent.1));
    let said = site.run(&["check"]);
    said.finds("warning", "settings", "4 voters survive no more failures")
        .finds("ok", "server.1 election port", "is free")
        .finds("ok", "server.2", "it leads")
        .finds("warning", "server.3", "cannot be reached")
        .finds("warning", "server.4", "\"nowhere.invalid\" has no address");
    assert!(!said.out.contains("another:"), "{}", said.out);
    assert!(!said.out.contains("have the id"), "{}", said.out);
}

#[test]
fn check_of_an_ensemble_that_runs() {
    let ports = ports::<6>();
    let lines: Vec<String> = ports
        .chunks(2)
        .zip(1..)
        .map(|(pair, sid)| format!("server.{sid}=127.0.0.1:{}:{}\n", pair[0].0, pair[1].0))
        .collect();
    let lines = format!("initLimit=5\nsyncLimit=2\n{}", lines.concat());
    let sites = [1, 2, 3].map(|sid| {
        let site = Site::with(&lines);
        site.write("data/myid", &format!("{sid}\n"));
        site
    });
    drop(ports);
    for site in &sites {
        site.run(&["start"]).ends_with(0);
    }
    let end = Instant::now() + PATIENCE;
    let said = loop {
        let said = sites[0].run(&["check"]);
        let settled = said.out.contains("it leads") || said.out.contains("follows server");
        if settled && !said.out.contains("looks for a leader") {
            break said;
        }
        assert!(Instant::now() < end, "{}", said.out);
    };
    said.ends_with(0)
        .finds("ok", "server.1 election port", "is served by process")
        .finds("ok", "server.2", "127.0.0.1 is 127.0.0.1; it")
        .finds("ok", "server.3", "127.0.0.1 is 127.0.0.1; it");
    let differing = lines.replace("server.2=127.0.0.1", "server.2=localhost");
    let known = fs::read_to_string(sites[0].dir.path().join("zoo.cfg")).unwrap();
    sites[0].write("zoo.cfg", &known.replace(&lines, &differing));
    sites[0].run(&["check"]).ends_with(1).finds(
        "error",
        "server.3",
        "its list of servers is another",
    );
}

#[test]
fn check_of_servers_that_disagree() {
    let [own, other, stranger, shut] = ports();
    let list = |third: &str| {
        format!(
            "server.1=127.0.0.1:1:{}\nserver.2=127.0.0.1:{}:{}\n{third}",
            own.0, shut.0, other.0
        )
    };
    let here = list(&format!("server.3=127.0.0.1:1:{}\n", stranger.0));
    let site = Site::with(&format!("initLimit=5\nsyncLimit=2\n{here}"));
    site.write("data/myid", "1\n");
    another_server(other.1, 1, &list("server.4=h:1:2\n"));
    thread::spawn(move || {
        for stream in stranger.1.incoming() {
            stream.unwrap().write_all(b"HTTP/1.1 400\r\n\r\n").unwrap();
        }
    });
    drop((own.1, shut.1));
    site.run(&["check"])
        .ends_with(1)
        .finds("error", "server.2", "says that it is server 1")
        .finds("error", "myid", "this server and the one at 127.0.0.1")
        .finds(
            "error",
            "server.2",
            "server.3 is missing there; server.4 is missing here",
        )
        .finds("error", "server.2", "its quorum port")
        .finds("warning", "server.3", "does not answer as a server");
}

#[test]
fn check_of_names() {
    let lines = "initLimit=5\nsyncLimit=2\nserver.1=localhost:1:2\nserver.2=h2.invalid:1:2\nserver.3=h3.invalid:1:2\n";
    let site = Site::with(lines);
    site.write("data/myid", "1\n");
    site.run(&["check"]).ends_with(1).finds(
        "error",
        "server.1",
        "where no other server reaches it",
    );
    let site = Site::with(&lines.replace("localhost", "192.0.2.3"));
    site.write("data/myid", "1\n");
    site.run(&["check"]).ends_with(1).finds(
        "error",
        "server.1 election port",
        "192.0.2.3 is no address of this machine",
    );
}

#[test]
fn check_of_a_server_that_stands_alone_by_mistake() {
    let site = Site::with("server.1=127.0.0.1:1:2\n");
    site.write("data/myid", "1\n");
    site.run(&["check"])
        .finds("warning", "settings", "it stands alone")
        .finds("warning", "myid", "this server stands alone");
}

#[test]
fn jvm_options_in_the_environment_count() {
    let site = Site::new();
    let mut command = site.command(&["check", "./zoo.cfg"]);
    command.env("SERVER_JVMFLAGS", "-Dzookeeper.snapCount=many -Xmx1g");
    let said = Said::from(command.output().unwrap());
    said.ends_with(1)
        .finds("error", "settings", "environment variable SERVER_JVMFLAGS")
        .finds(
            "warning",
            "settings",
            "options for a JVM have no effect: -Xmx1g",
        );
}

#[test]
fn the_program_explains_itself() {
    let site = Site::new();
    let say = |arguments: &[&str]| Said::from(site.command(arguments).output().unwrap());
    say(&["--help"])
        .ends_with(0)
        .has("Examples:")
        .has("start-foreground")
        .has("ZOOPIDFILE");
    say(&[]).ends_with(2).has("Usage:");
    say(&["--no-such-flag"]).ends_with(2);
    say(&["version"])
        .ends_with(0)
        .has(env!("CARGO_PKG_VERSION"));
    say(&["settings", "snapcount"])
        .ends_with(0)
        .has("snapCount = 100000")
        .has("-Dzookeeper.snapCount");
    say(&["settings", "no such key"]).ends_with(1);
    let everything = say(&["settings"]).out;
    assert!(everything.lines().count() > 100);
    assert!(Path::new(env!("CARGO_BIN_EXE_quorate-server")).is_file());
}
