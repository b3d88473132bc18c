//! Ensembles in which our servers and Apache's are members side by side, and ensembles that move from
//! one to the other in the way that the README tells.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use quorate_tests::apache::Apache;
use quorate_tests::cluster::{Cluster, Seat};
use quorate_tests::ours::Quorate;
use quorate_tests::process::eventually;
use quorate_tests::workload::Load;

/// Sessions that work at a time.
const SESSIONS: usize = 6;

/// Writes that have to be acknowledged between two changes.
const PROGRESS: usize = 500;

/// How long a server may take to find its place.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a leader is killed before servers of both kinds must have led.
const CHANGES: usize = 8;

/// Kills one leader after the other under load until a server of each kind has led an ensemble of
/// all, and then compares what everybody has.
fn take_turns(seats: Vec<Seat>, ours: &[usize]) {
    let mut cluster = Cluster::start(seats, Cluster::settings());
    let load = Load::start_on_any(&cluster.addresses(), SESSIONS);
    let mut leaders = BTreeSet::new();
    for _ in 0..CHANGES {
        let leader = cluster.leader();
        load.progress(PROGRESS);
        leaders.insert(ours.contains(&leader));
        if leaders.len() == 2 {
            break;
        }
        cluster.kill(leader);
        assert_ne!(cluster.settle(), leader);
        load.progress(PROGRESS);
        cluster.restart(leader);
    }
    assert_eq!(leaders.len(), 2, "only one kind has ever led");
    load.finish();
    cluster.compare();
}

#[test]
fn ours_among_apaches() {
    let seats = vec![
        Seat::voter(Apache::from_env()),
        Seat::voter(Quorate::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::observer(Quorate::from_env()),
    ];
    take_turns(seats, &[2, 4]);
}

#[test]
fn apaches_among_ours() {
    let seats = vec![
        Seat::voter(Quorate::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::voter(Quorate::from_env()),
        Seat::observer(Apache::from_env()),
    ];
    take_turns(seats, &[1, 3]);
}

/// The commands of the README's section about the migration: there, and back.
fn commands() -> [Vec<String>; 2] {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, section) = readme
        .split_once("## Migrating from Apache ZooKeeper\n")
        .expect("the README tells how to migrate");
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let blocks = section.split("```sh\n").skip(1);
    let blocks: Vec<Vec<String>> = blocks
        .map(|block| {
            let (commands, _) = block.split_once("```").unwrap();
            commands.lines().map(str::to_owned).collect()
        })
        .collect();
    blocks.try_into().expect("two blocks: there, and back")
}

/// An ensemble on which commands are run as an operator runs them. What they leave running ends with
/// the value.
struct Operator {
    cluster: Cluster,
}

impl Operator {
    /// Runs one of our commands where the configuration of server `id` is.
    fn run(&self, id: usize, command: &str) -> Output {
        let quorate = Quorate::from_env();
        let path = format!(
            "{}:{}",
            quorate.path().parent().unwrap().display(),
            env::var("PATH").unwrap()
        );
        Command::new("sh")
            .args(["-c", command])
            .current_dir(self.cluster.home(id))
            .env("PATH", path)
            .output()
            .unwrap()
    }

    /// Carries out one line of the README on server `id`.
    fn carry_out(&mut self, id: usize, line: &str) {
        let (command, _) = line.split_once(" #").unwrap_or((line, ""));
        match command.trim() {
            "zkServer.sh stop zoo.cfg" => {
                self.cluster.stop(id);
            }
            "zkServer.sh start zoo.cfg" => self.cluster.restart(id),
            "zkServer.sh status zoo.cfg" => {
                self.cluster.settle_among(&self.cluster.ids());
            }
            // Until it says what the README waits for.
            command if command.contains(" status ") => {
                eventually("the server has a mode", PATIENCE, || {
                    let output = self.run(id, command);
                    let said = String::from_utf8_lossy(&output.stdout);
                    let mode = said.lines().find_map(|line| line.strip_prefix("Mode: "))?;
                    assert!(["leader", "follower", "observer"].contains(&mode), "{said}");
                    output.status.success().then_some(())
                });
            }
            command => {
                let output = self.run(id, command);
                let said = String::from_utf8_lossy(&output.stdout);
                let failed = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{command}: {said}{failed}");
            }
        }
    }

    /// Takes every server in turn, the leader last.
    fn carry_out_everywhere(&mut self, commands: &[String], load: &Load) {
        let all = self.cluster.ids();
        let leader = self.cluster.settle_among(&all);
        let mut order = all.clone();
        order.sort_by_key(|id| *id == leader);
        for id in order {
            for command in commands {
                self.carry_out(id, command);
            }
            self.cluster.settle_among(&all);
            load.progress(PROGRESS);
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        for id in self.cluster.ids() {
            self.run(id, "quorate-server stop zoo.cfg");
        }
    }
}

#[test]
fn the_readme_migrates_there_and_back() {
    let seats = vec![
        Seat::voter(Apache::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::observer(Apache::from_env()),
    ];
    let cluster = Cluster::start(seats, Cluster::settings());
    let all = cluster.ids();
    let mut operator = Operator { cluster };
    for commands in commands() {
        let load = Load::start_on_any(&operator.cluster.addresses(), SESSIONS);
        operator.carry_out_everywhere(&commands, &load);
        load.finish();
        operator.cluster.compare_among(&all);
    }
}
