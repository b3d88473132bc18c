//! Clients that others wrote, driving a server: each runs one script against Apache ZooKeeper's
//! server and against ours, and what it tells must be the same, line by line.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use quorate_tests::apache::Apache;
use quorate_tests::foreign::{self, compile, java, script};
use quorate_tests::ours::Quorate;
use quorate_tests::process::{Program, ServerProcess, Settings};
use quorate_tests::relay::Relay;
use tempfile::TempDir;

/// How long a script may take in all; each of them takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// The line by which a script asks for a restart of the server.
const RESTART: &str = "@restart";

#[test]
fn kazoo() {
    same_transcripts(|server| {
        let mut command = foreign::python("kazoo_session.py");
        run(server, command.arg(server.address().to_string()), "").transcript
    });
}

#[test]
fn the_c_client() {
    let home = TempDir::new().unwrap();
    let program = home.path().join("c_session");
    compile(
        Command::new("cc")
            .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-DTHREADED", "-o"])
            .args([&program, &script("c_session.c")])
            .arg("-lzookeeper_mt"),
    );
    same_transcripts(|server| {
        let mut command = Command::new(&program);
        run(server, command.arg(server.address().to_string()), "").transcript
    });
}

#[test]
fn zk_cli() {
    let input = std::fs::read_to_string(script("zkcli_session.txt")).unwrap();
    same_transcripts(|server| {
        let mut command = java(&["zookeeper", "slf4j-nop"]);
        command
            .args(["org.apache.zookeeper.ZooKeeperMain", "-server"])
            .arg(server.address().to_string());
        let told = run(server, &mut command, &input);
        shell_transcript(&told.transcript, &told.errors)
    });
}

#[test]
fn curator() {
    let program = foreign::Curator::compile("CuratorSession");
    same_transcripts(|server| {
        let mut command = program.command();
        run(server, command.arg(server.address().to_string()), "").transcript
    });
}

/// A server at an address that outlives it.
struct Peer {
    process: ServerProcess,
    relay: Relay,
}

impl Peer {
    fn start(program: impl Program + 'static, settings: Settings) -> Self {
        let process = ServerProcess::start(program, settings);
        let relay = Relay::to(process.address());
        Peer { process, relay }
    }

    fn address(&self) -> SocketAddr {
        self.relay.address()
    }

    fn restart(&mut self) {
        self.relay.close();
        self.process.kill();
        self.process.restart();
        self.relay.open(self.process.address());
    }
}

/// Runs `session` against both servers and compares what it tells.
fn same_transcripts(session: impl Fn(&mut Peer) -> Vec<String>) {
    // Short ticks, so that sessions can expire within a second.
    let settings = Settings::default()
        .with("tickTime", 200)
        .with("maxSessionTimeout", 60_000)
        .with("extendedTypesEnabled", true)
        .with("enforceQuota", true);
    let mut apache = Peer::start(Apache::from_env(), settings.clone());
    let theirs = session(&mut apache);
    let mut quorate = Peer::start(Quorate::from_env(), settings);
    let ours = session(&mut quorate);
    if let Some(at) = first_difference(&theirs, &ours) {
        panic!(
            "line {at} differs\n--- Apache ZooKeeper\n{}\n--- quorate-server\n{}\n--- its log\n{}",
            around(&theirs, at),
            around(&ours, at),
            quorate.process.log()
        );
    }
}

fn first_difference(left: &[String], right: &[String]) -> Option<usize> {
    let both = left.iter().zip(right);
    let at = both.take_while(|(left, right)| left == right).count();
    (at < left.len().max(right.len())).then_some(at)
}

/// Some lines before and behind line `at`, which is marked.
fn around(lines: &[String], at: usize) -> String {
    let from = at.saturating_sub(12);
    let shown = lines.iter().enumerate().skip(from).take(18);
    shown
        .map(|(n, line)| format!("{} {line}\n", if n == at { '>' } else { ' ' }))
        .collect()
}

/// What a program printed.
struct Told {
    transcript: Vec<String>,
    errors: Vec<String>,
}

/// Runs a script until it ends, restarting the server where it asks for that.
fn run(server: &mut Peer, command: &mut Command, input: &str) -> Told {
    let home = TempDir::new().unwrap();
    let errors_path = home.path().join("stderr");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&errors_path).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let mut transcript = Vec::new();
    let ended = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line == RESTART => {
                server.restart();
                stdin.write_all(b"done\n").unwrap();
            }
            Ok(line) => transcript.push(line),
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    if !ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let mut errors = String::new();
    let mut file = File::open(&errors_path).unwrap();
    file.read_to_string(&mut errors).unwrap();
    assert!(
        ended && status.success(),
        "{command:?} against {}: {}\n{}\n{errors}",
        server.process.name(),
        if ended {
            status.to_string()
        } else {
            format!("not done in {PATIENCE:?}")
        },
        transcript.join("\n"),
    );
    Told {
        transcript,
        errors: errors.lines().map(str::to_owned).collect(),
    }
}

fn lines_of(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Brings what Java's shell printed into a form that two servers can share.
///
/// Watch events come from a thread of their own, so that they stand apart; so do the messages on
/// standard error.
fn shell_transcript(output: &[String], errors: &[String]) -> Vec<String> {
    let lines = output.iter().filter(|line| !line.trim().is_empty());
    let (events, results): (Vec<_>, Vec<_>) =
        lines.partition(|line| line.starts_with("WATCHER::") || line.starts_with("WatchedEvent"));
    let mut results: Vec<String> = results.into_iter().map(|line| masked(line)).collect();
    // Servers name identities in any order.
    for identities in results.chunk_by_mut(|a, b| is_identity(a) && is_identity(b)) {
        identities.sort_unstable();
    }
    let mut transcript = vec!["== results".to_owned()];
    transcript.extend(results);
    transcript.push("== events".to_owned());
    transcript.extend(events.into_iter().cloned());
    transcript.push("== errors".to_owned());
    transcript.extend(errors.iter().cloned());
    transcript
}

/// A line of the answer to `whoami`.
fn is_identity(line: &str) -> bool {
    line.starts_with("ip: ") || line.starts_with("digest: ")
}

/// Takes out of a line of the shell what no two servers share.
fn masked(line: &str) -> String {
    if line.starts_with("Connecting to ") {
        return "Connecting".to_owned();
    }
    if let Some((key @ ("ctime" | "mtime"), time)) = line.split_once(" = ") {
        let never = time.ends_with("1970");
        return format!("{key} = {}", if never { "never" } else { "then" });
    }
    if let Some(("ephemeralOwner", owner)) = line.split_once(" = ") {
        let nobody = owner == "0x0";
        return format!(
            "ephemeralOwner = {}",
            if nobody { "nobody" } else { "somebody" }
        );
    }
    // Servers list paths in any order.
    if let Some(list) = line
        .strip_prefix('[')
        .and_then(|line| line.strip_suffix(']'))
    {
        let mut names: Vec<&str> = list.split(", ").collect();
        names.sort_unstable();
        return format!("[{}]", names.join(", "));
    }
    line.to_owned()
}
