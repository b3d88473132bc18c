//! What an ensemble of three takes from its clients when servers die, measured on processes:
//!
//! ```sh
//! cargo run --release -p quorate-tests --example measure -- kills
//! cargo run --release -p quorate-tests --example measure -- sessions
//! cargo run --release -p quorate-tests --example measure -- catch-up
//! ```
//!
//! and what recipes make of it:
//!
//! ```sh
//! cargo run --release -p quorate-tests --example measure -- locks
//! cargo run --release -p quorate-tests --example measure -- waiters
//! ```
//!
//! With `apache` behind it, the same with the servers in `QUORATE_APACHE_CLASSPATH`. `locks` takes
//! connect strings instead: of the servers that all use, and of others that Curator uses as well;
//! with `beside` it starts ours and those of `QUORATE_APACHE_CLASSPATH` for that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that fails says where, the others are told"
)]

mod locks;
mod waiters;

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use quorate_client::{Client, CreateMode};
use quorate_proto::jute::Encode;
use quorate_proto::{ErrorCode, OpCode, SetDataRequest};
use quorate_tests::apache::Apache;
use quorate_tests::cluster::{Cluster, Seat};
use quorate_tests::ours::Quorate;
use quorate_tests::process::word;
use quorate_tests::raw::{Message, RawClient};
use quorate_tests::workload::Load;

/// How often a leader is killed.
const KILLS: usize = 10;

/// Sessions that are to come back.
const SESSIONS: usize = 10_000;

/// Transactions that a follower misses.
const MISSED: usize = 1_000_000;

/// Writes in flight on one connection.
const DEPTH: usize = 256;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let seat = || match arguments.get(1).map(String::as_str) {
        Some("apache") => Seat::voter(Apache::from_env()),
        _ => Seat::voter(Quorate::from_env()),
    };
    let seats = vec![seat(), seat(), seat()];
    match arguments.first().map(String::as_str) {
        Some("kills") => kills(Cluster::start(seats, Cluster::settings())),
        Some("sessions") => sessions(Cluster::start(seats, Cluster::settings())),
        Some("catch-up") => catch_up(Cluster::start(seats, Cluster::settings())),
        Some("locks") => match arguments.get(1).map(String::as_str) {
            Some("beside") => {
                let apache = || Seat::voter(Apache::from_env());
                let others = vec![apache(), apache(), apache()];
                let others = Cluster::start(others, Cluster::settings());
                let cluster = Cluster::start(seats, Cluster::settings());
                locks::locks(&connect_string(&cluster), Some(&connect_string(&others)));
            }
            Some(servers) if servers.contains(':') => {
                locks::locks(servers, arguments.get(2).map(String::as_str));
            }
            _ => {
                let cluster = Cluster::start(seats, Cluster::settings());
                locks::locks(&connect_string(&cluster), None);
            }
        },
        Some("waiters") => waiters::waiters(&Cluster::start(seats, Cluster::settings())),
        _ => println!("one of: kills, sessions, catch-up, locks, waiters"),
    }
}

/// Kills the leader again and again while clients write.
fn kills(mut cluster: Cluster) {
    let mut gaps = Vec::new();
    for kill in 1..=KILLS {
        let leader = cluster.leader();
        let load = Load::start_on_any(&cluster.addresses(), 6);
        load.progress(5000);
        cluster.kill(leader);
        cluster.settle();
        load.progress(5000);
        let summary = load.finish();
        println!("kill {kill}: {:?}", summary.longest_gap);
        gaps.push(summary.longest_gap);
        cluster.start_all();
    }
    gaps.sort_unstable();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!("longest gap between acknowledged writes: median {median:?}, worst {worst:?}");
    cluster.compare();
}

/// Opens many sessions with an ephemeral znode each, kills the leader, and waits for all of them.
fn sessions(mut cluster: Cluster) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = connect_string(&cluster);
    let clients = runtime.block_on(async {
        let mut clients = Vec::new();
        // Few enough at a time for the queues of connections to be accepted.
        while clients.len() < SESSIONS {
            let some = (0..100).map(|_| {
                Client::builder()
                    .session_timeout(Duration::from_secs(20))
                    .connect(&servers)
            });
            clients.extend(join_all(some).await.into_iter().map(Result::unwrap));
        }
        let create = |(n, client): (usize, &Client)| {
            client.create(&format!("/{n}"), "", CreateMode::Ephemeral)
        };
        for created in join_all(clients.iter().enumerate().map(create)).await {
            created.unwrap();
        }
        clients
    });
    let leader = cluster.leader();
    let lost = AtomicUsize::new(0);
    let began = Instant::now();
    cluster.kill(leader);
    cluster.settle();
    println!("settled after {:?}", began.elapsed());
    runtime.block_on(async {
        let back = clients.iter().map(|client| async {
            let mut tries = 0;
            while let Err(error) = client.sync("/").await {
                assert!(!error.is_session_over(), "{error}");
                tries += 1;
            }
            lost.fetch_add(usize::from(tries > 0), Ordering::Relaxed);
        });
        join_all(back).await;
        println!("all {SESSIONS} answered after {:?}", began.elapsed());
        let exists = |(n, client): (usize, &Client)| client.exists(&format!("/{n}"));
        for found in join_all(clients.iter().enumerate().map(exists)).await {
            assert!(found.unwrap().is_some(), "an ephemeral znode is gone");
        }
    });
    println!("requests lost on {} connections", lost.into_inner());
}

fn connect_string(cluster: &Cluster) -> String {
    let addresses = cluster.addresses();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}

/// Lets a follower miss many transactions and come back while the load goes on.
fn catch_up(mut cluster: Cluster) {
    let follower = cluster.followers()[0];
    let leader = cluster.leader();
    cluster.stop(follower);
    let mut founder = RawClient::connect(cluster.address(leader), 20_000);
    assert_eq!(founder.create("/a", b"", 0), ErrorCode::OK);
    let written = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let address = cluster.address(leader);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| write(address, &written, &over));
        }
        let began = Instant::now();
        wait_for(|| written.load(Ordering::Relaxed) >= MISSED);
        println!("{MISSED} writes in {:?}", began.elapsed());
        let memory = resident(cluster.pid(leader));
        println!("leader: {memory} KiB resident");
        let (began, before) = (Instant::now(), written.load(Ordering::Relaxed));
        cluster.restart(follower);
        let mut most = memory;
        wait_for(|| {
            most = most.max(resident(cluster.pid(leader)));
            cluster.role(follower).is_some()
        });
        println!(
            "follows after {:?}, with {} writes meanwhile; leader at most {most} KiB",
            began.elapsed(),
            written.load(Ordering::Relaxed) - before
        );
        let goal = zxid(cluster.address(leader));
        wait_for(|| zxid(cluster.address(follower)) >= goal);
        println!("has caught up after {:?}", began.elapsed());
        over.store(true, Ordering::Relaxed);
    });
    cluster.compare();
}

/// Sets a znode over and over.
fn write(address: SocketAddr, written: &AtomicUsize, over: &AtomicBool) {
    let mut client = RawClient::connect(address, 20_000);
    let set = SetDataRequest {
        path: "/a",
        data: Some(&[7; 100]),
        version: -1,
    };
    let body = set.to_vec();
    let mut in_flight = 0;
    while !over.load(Ordering::Relaxed) || in_flight > 0 {
        while in_flight < DEPTH && !over.load(Ordering::Relaxed) {
            client
                .send_request(1, OpCode::SetData.number(), &body)
                .unwrap();
            in_flight += 1;
        }
        match client.read().unwrap() {
            Message::Reply(header, _) => assert_eq!(header.err, ErrorCode::OK),
            other => panic!("{other:?}"),
        }
        in_flight -= 1;
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn wait_for(mut seen: impl FnMut() -> bool) {
    while !seen() {
        thread::sleep(Duration::from_millis(50));
    }
}

/// The last zxid of a server, by its own words.
fn zxid(address: SocketAddr) -> i64 {
    let answer = word(address, "srvr").unwrap();
    let zxid = answer
        .lines()
        .find_map(|line| line.strip_prefix("Zxid: 0x"));
    zxid.map_or(0, |zxid| i64::from_str_radix(zxid, 16).unwrap())
}

/// The memory, in KiB, that a process has resident.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}
