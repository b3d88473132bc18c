//! `quorate-server cluster`, driven as its users drive it: whole ensembles of processes.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of a test fail it like the test itself"
)]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory with an ensemble in `zk`. Whatever still runs at the end is ended.
struct Site {
    dir: TempDir,
}

/// What the program said.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    #[track_caller]
    fn ends_with(&self, code: i32) -> &Said {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    #[track_caller]
    fn has(&self, phrase: &str) -> &Said {
        let (text, code) = (&self.text, self.code);
        assert!(
            text.contains(phrase),
            "{phrase:?} is not in\n{text}(exit code {code:?})"
        );
        self
    }

    /// The cells of the table that `status` prints, without its heading.
    fn rows(&self) -> Vec<Vec<&str>> {
        let rows = self
            .text
            .lines()
            .skip(1)
            .filter(|line| !line.contains(" servers serve"));
        rows.map(|row| {
            row.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect()
    }
}

const ANY_PORTS: [&str; 6] = [
    "--client-port",
    "0",
    "--quorum-port",
    "0",
    "--election-port",
    "0",
];

impl Site {
    fn new() -> Site {
        Site {
            dir: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-server"));
        for variable in [
            "RUST_LOG",
            "JVMFLAGS",
            "SERVER_JVMFLAGS",
            "ZOOCFGDIR",
            "ZOOCFG",
        ] {
            command.env_remove(variable);
        }
        command
            .current_dir(self.dir.path())
            .args(arguments)
            .stdin(Stdio::null());
        // A single place for the files of one server must not become that of all.
        command
            .env("ZOOPIDFILE", self.path("pid"))
            .env("ZOO_LOG_DIR", self.path("logs"));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        Said {
            code: output.status.code(),
            text: String::from_utf8(text).unwrap(),
        }
    }

    fn cluster(&self, action: &str, arguments: &[&str]) -> Said {
        self.command(&[&["cluster", action, "--dir", "zk"], arguments].concat())
    }

    /// Starts so many servers on ports that the system chooses.
    fn start(&self, nodes: &str) -> Said {
        self.cluster("start", &[&["--nodes", nodes], &ANY_PORTS[..]].concat())
    }

    fn zoo_cfg(&self, id: i64) -> String {
        fs::read_to_string(self.path(&format!("zk/server-{id}/zoo.cfg"))).unwrap()
    }

    /// A program in the place of ssh: each host is a directory of this machine.
    fn fake_ssh(&self) -> PathBuf {
        let path = self.path("ssh");
        let bin = Path::new(env!("CARGO_BIN_EXE_quorate-server"))
            .parent()
            .unwrap();
        let script = format!(
            "#!/bin/sh\nset -e\nunset ZOOPIDFILE ZOO_LOG_DIR\nPATH={}:$PATH\n\
             mkdir -p {}/$1\ncd {}/$1\nshift\nexec sh -c \"$*\"\n",
            bin.display(),
            self.dir.path().display(),
            self.dir.path().display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let ssh = self.path("ssh");
        let said = self.cluster("stop", &["--ssh", &ssh.display().to_string()]);
        let nothing = said.text.contains("there is no ensemble");
        if said.code != Some(0) && !nothing {
            eprintln!("servers may be left over: {}", said.text);
        }
    }
}

/// A port that was free a moment ago on all of these addresses.
fn free_port(hosts: &[&str]) -> u16 {
    loop {
        let first = TcpListener::bind((hosts[0], 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if hosts[1..]
            .iter()
            .all(|host| TcpListener::bind((*host, port)).is_ok())
        {
            return port;
        }
    }
}

#[test]
fn an_ensemble_of_one() {
    let site = Site::new();
    let said = site.start("1");
    said.ends_with(0)
        .has("server 1 started")
        .has("it serves after")
        .has("connect to 127.0.0.1:");
    let said = site.cluster("status", &[]);
    said.ends_with(0).has("1 of 1 servers serve");
    assert_eq!(said.rows()[0][..2], ["1", "standalone"]);
    // Each server is one like any other.
    site.command(&["status", "zk/server-1/zoo.cfg"])
        .ends_with(0)
        .has("Mode: standalone");
    assert!(site.path("zk/server-1/data/quorate-server.log").is_file());
    site.start("1").ends_with(0).has("server 1 runs already");
    site.cluster("restart", &[])
        .ends_with(0)
        .has("server 1 restarted")
        .has("in step after");
    let said_again = site.cluster("status", &[]);
    assert_eq!(said.rows()[0][2], said_again.rows()[0][2]);
    assert_ne!(
        said.rows()[0].last(),
        said_again.rows()[0].last(),
        "the process is another"
    );
    site.cluster("stop", &[])
        .ends_with(0)
        .has("server 1 stopped");
    site.cluster("status", &[])
        .ends_with(1)
        .has("not running")
        .has("0 of 1 servers serve");
    site.cluster("stop", &[])
        .ends_with(0)
        .has("server 1 does not run");
}

#[test]
fn a_configuration_that_was_edited_is_kept() {
    let site = Site::new();
    site.start("1")
        .ends_with(0)
        .has("wrote zk/server-1/zoo.cfg");
    site.cluster("stop", &[]).ends_with(0);
    let text = format!("{}snapCount=777\n", site.zoo_cfg(1));
    fs::write(site.path("zk/server-1/zoo.cfg"), &text).unwrap();
    let said = site.start("1");
    said.ends_with(0);
    assert!(!said.text.contains("wrote"), "{}", said.text);
    assert_eq!(site.zoo_cfg(1), text);
    site.cluster("start", &["--nodes", "3"])
        .ends_with(1)
        .has("holds an ensemble of 1, not of 3");
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let site = Site::new();
    site.start("1").ends_with(0);
    site.cluster("stop", &[]).ends_with(0);
    let text = format!("{}tickTime=0\n", site.zoo_cfg(1));
    fs::write(site.path("zk/server-1/zoo.cfg"), text).unwrap();
    site.cluster("start", &[])
        .ends_with(1)
        .has("server 1 is not started: exit status: 1")
        .has("tickTime is not set");
}

#[test]
fn what_cannot_be_is_refused() {
    let site = Site::new();
    for action in ["stop", "restart", "status"] {
        site.cluster(action, &[])
            .ends_with(1)
            .has("there is no ensemble in zk");
    }
    site.cluster("start", &["--data-dir", "d", "--pid-file", "p"])
        .ends_with(1)
        .has("--data-dir, --pid-file would be the same for all servers");
    site.cluster("start", &["--client-port", "0", "--hosts", "a,b"])
        .ends_with(1)
        .has("possible on this host only");
    site.cluster("start", &["--nodes", "0"]).ends_with(2);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    site.cluster("start", &["--client-port", &port])
        .ends_with(1)
        .has(&format!(
            "the client port {port} of server 1 is taken by process"
        ));
    assert!(!site.path("zk").exists(), "what is refused leaves nothing");
}

#[test]
fn a_host_that_cannot_be_reached_is_named() {
    let site = Site::new();
    site.cluster("start", &["--hosts", "zk1,zk2", "--ssh", "false"])
        .ends_with(1)
        .has("false zk1: `mkdir -p zk/server-1");
    site.cluster("start", &["--hosts", "zk1", "--ssh", "/none/ssh"])
        .ends_with(1)
        .has("see --ssh");
    assert!(!site.path("zk").exists(), "what is refused leaves nothing");
}

#[test]
fn a_server_on_another_host() {
    let site = Site::new();
    let (ssh, host) = (site.fake_ssh().display().to_string(), "127.0.0.9");
    let port = free_port(&[host]).to_string();
    let there = ["--ssh", &ssh];
    site.cluster(
        "start",
        &[&there[..], &["--hosts", host, "--client-port", &port]].concat(),
    )
    .ends_with(0)
    .has("server 1 started")
    .has(&format!("connect to {host}:{port}"));
    let copy = site.path("127.0.0.9/zk/server-1/zoo.cfg");
    assert_eq!(fs::read_to_string(copy).unwrap(), site.zoo_cfg(1));
    assert!(site.path("127.0.0.9/zk/server-1/data/version-2").is_dir());
    let said = site.cluster("status", &there);
    said.ends_with(0);
    let pid = fs::read_to_string(site.path("127.0.0.9/zk/server-1/data/zookeeper_server.pid"));
    assert_eq!(said.rows()[0].last().unwrap(), &pid.unwrap());
    site.cluster("restart", &there)
        .ends_with(0)
        .has("server 1 restarted");
    site.cluster("stop", &there)
        .ends_with(0)
        .has("server 1 stopped");
}

/// The ids in lines such as `server 2 stopped`, in the order in which they are told.
fn ids_of(said: &Said, done: &str) -> Vec<String> {
    let line = |line: &str| {
        let id = line.strip_prefix("server ")?.strip_suffix(done)?;
        Some(id.trim().to_owned())
    };
    said.text.lines().filter_map(line).collect()
}

/// The id of the server that leads.
fn leader_of(status: &Said) -> String {
    let rows = status.rows();
    let leads: Vec<_> = rows.iter().filter(|row| row[1] == "leader").collect();
    assert_eq!(leads.len(), 1, "{}", status.text);
    assert_eq!(
        rows.iter().filter(|row| row[1] == "follower").count(),
        rows.len() - 1,
        "{}",
        status.text
    );
    leads[0][0].to_owned()
}

#[test]
fn an_ensemble_of_three_is_started_restarted_and_stopped_with_its_leader_last() {
    let site = Site::new();
    let said = site.start("3");
    said.ends_with(0).has("connect to 127.0.0.1:");
    let before = site.cluster("status", &[]);
    before.ends_with(0).has("3 of 3 servers serve");
    let leader = leader_of(&before);
    said.has(&format!("server {leader} leads, and all serve, after"));
    site.command(&["status", &format!("zk/server-{leader}/zoo.cfg")])
        .ends_with(0)
        .has("Mode: leader");

    for id in 1..=3 {
        let log = fs::read_to_string(site.path(&format!("zk/server-{id}/data/quorate-server.log")));
        let told = match id.to_string() == leader {
            true => "this server leads".to_owned(),
            false => format!("this server has a leader leader={leader}"),
        };
        assert!(log.unwrap().contains(&told), "server {id}: {told}");
    }

    let said = site.cluster("restart", &[]);
    said.ends_with(0);
    let restarted = ids_of(&said, "restarted");
    assert_eq!((restarted.len(), restarted.last()), (3, Some(&leader)));
    let after = site.cluster("status", &[]);
    let leader = leader_of(&after);
    for (before, after) in before.rows().iter().zip(after.rows()) {
        assert_eq!(before[2], after[2], "clients find it where it was");
        assert_ne!(before.last(), after.last(), "the process is another");
    }

    let stopped = ids_of(site.cluster("stop", &[]).ends_with(0), "stopped");
    assert_eq!((stopped.len(), stopped.last()), (3, Some(&leader)));
    site.cluster("status", &[])
        .ends_with(1)
        .has("0 of 3 servers serve");
}

#[test]
fn a_server_that_was_killed_is_told_and_started_again() {
    let site = Site::new();
    site.start("3").ends_with(0);
    let status = site.cluster("status", &[]);
    let leader = leader_of(&status);
    let row = status
        .rows()
        .into_iter()
        .find(|row| row[0] == leader)
        .unwrap();
    let pid: i32 = row.last().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let said = site.cluster("start", &[]);
    said.ends_with(0);
    assert_eq!(ids_of(&said, "started"), [leader]);
    assert_eq!(ids_of(&said, "runs already").len(), 2);
    leader_of(site.cluster("status", &[]).ends_with(0));
}

#[test]
fn servers_on_three_hosts() {
    let site = Site::new();
    let hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let ports = [(); 3].map(|()| free_port(&hosts).to_string());
    let ssh = site.fake_ssh().display().to_string();
    let there = ["--ssh", &ssh];
    let ports = [
        "--client-port",
        &ports[0],
        "--quorum-port",
        &ports[1],
        "--election-port",
        &ports[2],
    ];
    let hosts = ["--hosts", &hosts.join(",")];
    site.cluster("start", &[&there[..], &hosts, &ports].concat())
        .ends_with(0)
        .has("leads, and all serve");
    leader_of(site.cluster("status", &there).ends_with(0));
    assert_eq!(
        ids_of(site.cluster("restart", &there).ends_with(0), "restarted").len(),
        3
    );
    assert_eq!(
        ids_of(site.cluster("stop", &there).ends_with(0), "stopped").len(),
        3
    );
}
