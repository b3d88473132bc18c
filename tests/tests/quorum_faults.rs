//! What befalls the servers of an ensemble, as processes and on a real network: killed, standing
//! still, cut off from each other, out of disk space. Clients work all the while, and every answer
//! that they get has to fit the others; in the end all servers have the same tree.
//!
//! `QUORATE_ROUNDS` says how often each of it happens, once unless it is set.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::env;
use std::fs;
use std::io::{self, Write};

use quorate_client::Client;
use quorate_tests::cluster::{Cluster, Role, Seat};
use quorate_tests::network::Network;
use quorate_tests::ours::Quorate;
use quorate_tests::small_disk::SmallDisk;
use quorate_tests::workload::Load;

/// Sessions that work at a time.
const SESSIONS: usize = 6;

/// Writes that have to be acknowledged between two faults.
const PROGRESS: usize = 500;

fn seats(servers: usize) -> Vec<Seat> {
    (0..servers)
        .map(|_| Seat::voter(Quorate::from_env()))
        .collect()
}

fn rounds() -> usize {
    env::var("QUORATE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Says also where the test passes that it has left something out.
fn not_tested(what: &str, reason: &str) {
    // The macros for it would be kept from the terminal.
    let _ = writeln!(io::stderr(), "NOT TESTED: {what}: {reason}");
}

/// Does something to an ensemble while clients work, several times; then everything is well and
/// everybody has the same.
fn under_load(cluster: &mut Cluster, mut trouble: impl FnMut(&mut Cluster, &Load)) {
    let load = Load::start(&cluster.addresses(), SESSIONS);
    for _ in 0..rounds() {
        trouble(cluster, &load);
        cluster.start_all();
        load.progress(PROGRESS);
    }
    load.finish();
    cluster.compare();
}

#[test]
fn killed() {
    let mut cluster = Cluster::start(seats(3), Cluster::settings());
    under_load(&mut cluster, |cluster, load| {
        let (leader, followers) = (cluster.leader(), cluster.followers());
        // One follower, then the leader while that one is still catching up, then all at once.
        cluster.kill(followers[0]);
        load.progress(PROGRESS);
        cluster.start_all();
        cluster.kill(leader);
        assert_ne!(cluster.settle(), leader);
        load.progress(PROGRESS);
        cluster.start_all();
        for id in cluster.ids() {
            cluster.kill(id);
        }
    });
}

#[test]
fn stopped_one_by_one() {
    let mut cluster = Cluster::start(seats(3), Cluster::settings());
    under_load(&mut cluster, |cluster, load| {
        for id in cluster.ids() {
            let status = cluster.stop(id);
            assert!(status.success(), "{status}");
            load.progress(PROGRESS);
            cluster.start_all();
        }
    });
}

#[test]
fn a_leader_that_falls_silent() {
    let mut cluster = Cluster::start(seats(3), Cluster::settings());
    under_load(&mut cluster, |cluster, load| {
        let leader = cluster.leader();
        cluster.pause(leader);
        assert_ne!(cluster.settle(), leader);
        load.progress(PROGRESS);
        // It takes itself for the leader until it hears otherwise.
        cluster.resume(leader);
        cluster.settle();
        assert_eq!(cluster.role(leader), Some(Role::Follower));
    });
}

/// Clients that only read at a follower do not notice that the leader is gone: their connections
/// stand, and their sessions live on.
#[test]
fn readers_stay_connected() {
    let mut cluster = Cluster::start(seats(3), Cluster::settings());
    let (leader, followers) = (cluster.leader(), cluster.followers());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clients: Vec<Client> = followers
        .iter()
        .cycle()
        .take(20)
        .map(|id| {
            let address = cluster.address(*id).to_string();
            runtime.block_on(Client::connect(&address)).unwrap()
        })
        .collect();
    let states: Vec<_> = clients.iter().map(Client::watch_state).collect();
    let load = Load::start(&cluster.addresses(), SESSIONS);
    cluster.kill(leader);
    cluster.settle();
    load.progress(PROGRESS);
    for (client, state) in clients.iter().zip(&states) {
        runtime.block_on(client.get_children("/")).unwrap();
        assert!(!state.has_changed().unwrap(), "{:?}", client.state());
    }
    cluster.start_all();
    load.finish();
}

/// An ensemble with a network of its own; without one, says why nothing is tested.
fn apart(servers: usize) -> Option<Cluster> {
    match Cluster::prepare_apart(seats(servers), Cluster::settings()) {
        Ok(mut cluster) => {
            cluster.start_all();
            Some(cluster)
        }
        Err(reason) => {
            not_tested("a network that is cut", &reason);
            None
        }
    }
}

fn others(cluster: &Cluster, these: &[usize]) -> Vec<usize> {
    let mut ids = cluster.ids();
    ids.retain(|id| !these.contains(id));
    ids
}

#[test]
fn a_leader_cut_off() {
    followers_go_on(|network, leader, follower| network.part(&[leader], &[follower]));
}

#[test]
fn a_leader_that_hears_but_is_not_heard() {
    followers_go_on(Network::cut);
}

#[test]
fn a_leader_that_is_heard_but_hears_nothing() {
    followers_go_on(|network, leader, follower| network.cut(follower, leader));
}

/// Cuts a leader off from each of its followers, which have each other.
fn followers_go_on(cut: impl Fn(&Network, usize, usize)) {
    let Some(mut cluster) = apart(3) else {
        return;
    };
    under_load(&mut cluster, |cluster, load| {
        let leader = cluster.leader();
        let rest = others(cluster, &[leader]);
        for follower in &rest {
            cut(cluster.network(), leader, *follower);
        }
        cluster.settle_among(&rest);
        load.progress(PROGRESS);
        cluster.network().heal();
    });
}

/// Two halves that only one server in the middle reaches, a follower or the leader: it goes on.
#[test]
fn a_bridge() {
    let Some(mut cluster) = apart(5) else {
        return;
    };
    under_load(&mut cluster, |cluster, load| {
        let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
        for middle in [leader, follower] {
            let rest = others(cluster, &[middle]);
            cluster.network().part(&rest[..2], &rest[2..]);
            load.progress(PROGRESS);
            cluster.network().heal();
            cluster.settle();
        }
    });
}

#[test]
fn a_network_that_loses_and_delays() {
    let Some(mut cluster) = apart(3) else {
        return;
    };
    under_load(&mut cluster, |cluster, load| {
        let (ids, network) = (cluster.ids(), cluster.network());
        ids.iter().for_each(|id| network.lose(*id, 3));
        if let Err(reason) = ids.iter().try_for_each(|id| network.delay(*id, 20)) {
            not_tested("delay", &reason);
        }
        load.progress(PROGRESS / 10);
        cluster.network().heal();
    });
}

/// A server whose disk is full ends, and the others go on without it, be it the leader.
#[test]
fn out_of_space() {
    let mut cluster = Cluster::prepare(seats(3), Cluster::settings().with("preAllocSize", 64));
    let mut disks = Vec::new();
    for id in cluster.ids() {
        let log_dir = cluster.home(id).join("log");
        fs::create_dir(&log_dir).unwrap();
        cluster.set(id, "dataLogDir", log_dir.display());
        let Some(disk) = SmallDisk::mount(log_dir, "64m") else {
            return not_tested("a full disk", "this process may not mount one");
        };
        disks.push(disk);
    }
    cluster.start_all();
    under_load(&mut cluster, |cluster, load| {
        let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
        for id in [follower, leader] {
            disks[id - 1].fill();
            let status = cluster.wait(id);
            assert!(!status.success(), "{status}");
            let log = cluster.log(id);
            assert!(log.contains("No space left on device"), "{log}");
            load.progress(PROGRESS);
            disks[id - 1].free();
            cluster.start_all();
            load.progress(PROGRESS);
        }
    });
}
