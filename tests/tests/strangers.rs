//! What does not belong to the ensemble and talks to the ports on which its servers talk to each
//! other: each stranger is refused and named in the log once, and nobody else notices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use quorate_proto::jute::Encode;
use quorate_tests::cluster::{Cluster, Seat};
use quorate_tests::ours::Quorate;
use quorate_tests::process::eventually;
use quorate_tests::workload::Load;
use socket2::{Domain, Socket, Type};

/// How long a server may take to close a connection of a stranger that says something.
const CLOSING: Duration = Duration::from_secs(10);

/// The most memory, in KiB, that a server may come to use.
const MEMORY: usize = 192 * 1024;

/// The id of no server.
const NOBODY: i64 = 99;

/// The protocol of the election port.
const ELECTION: i64 = -65536;

/// A packet with which a follower begins.
const FOLLOWERINFO: i32 = 11;

/// A packet of the middle of a conversation.
const ACK: i32 = 3;

/// The greeting of a server on the election port.
fn greeting(protocol: i64, id: i64, address: &str) -> Vec<u8> {
    let mut out = protocol.to_vec();
    id.encode(&mut out);
    address.encode(&mut out);
    out
}

/// A packet of the quorum port; `data` with its length in front.
fn packet(kind: i32, zxid: i64, data: &[u8]) -> Vec<u8> {
    let mut out = kind.to_vec();
    zxid.encode(&mut out);
    out.extend_from_slice(data);
    // No identities.
    (-1i32).encode(&mut out);
    out
}

/// The packet with which a follower introduces itself.
fn introduction(id: i64, protocol: i32) -> Vec<u8> {
    let mut data = 20i32.to_vec();
    id.encode(&mut data);
    protocol.encode(&mut data);
    0i64.encode(&mut data);
    packet(FOLLOWERINFO, 0, &data)
}

/// What strangers say on the election port.
fn on_the_election_port() -> Vec<(&'static str, Vec<u8>)> {
    let (own, one) = ("127.0.0.1:1", ELECTION);
    let mut endless = one.to_vec();
    NOBODY.encode(&mut endless);
    i32::MAX.encode(&mut endless);
    let mut negative = one.to_vec();
    NOBODY.encode(&mut negative);
    (-5i32).encode(&mut negative);
    // A server that would like to join, and then a message that claims two gigabytes.
    let mut talker = greeting(one, NOBODY, own);
    i32::MAX.encode(&mut talker);
    vec![
        (
            "a browser",
            b"GET / HTTP/1.1\r\nHost: quorate\r\n\r\n".to_vec(),
        ),
        ("another version", greeting(-99, 1, own)),
        ("an endless address", endless),
        ("an address of negative length", negative),
        (
            "an address that is none",
            greeting(one, NOBODY, "\u{1}\u{2}"),
        ),
        ("an endless message", talker),
        ("noise", vec![0xA5; 4096]),
    ]
}

/// What strangers say on the quorum port.
fn on_the_quorum_port() -> Vec<(&'static str, Vec<u8>)> {
    let mut endless = FOLLOWERINFO.to_vec();
    0i64.encode(&mut endless);
    i32::MAX.encode(&mut endless);
    vec![
        (
            "a browser",
            b"GET / HTTP/1.1\r\nHost: quorate\r\n\r\n".to_vec(),
        ),
        ("an unknown id", introduction(NOBODY, 0x10000)),
        ("a negative id", introduction(-7, 0x10000)),
        ("another version", introduction(1, 1)),
        (
            "the middle of a conversation",
            packet(ACK, 1, &(-1i32).to_vec()),
        ),
        ("an unknown packet", packet(77, 0, &(-1i32).to_vec())),
        (
            "an introduction too short",
            packet(FOLLOWERINFO, 0, &3i32.to_vec()),
        ),
        ("an endless packet", endless),
        ("noise", vec![0xA5; 4096]),
    ]
}

/// An address that no other stranger has.
fn own_address() -> SocketAddr {
    let octet = || fastrand::u8(1..255);
    SocketAddr::from(([127, octet(), octet(), octet()], 0))
}

/// Connects from an address.
fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect_timeout(&to.into(), CLOSING).unwrap();
    socket.set_read_timeout(Some(CLOSING)).unwrap();
    socket.into()
}

/// Says something on a port, and waits until the server closes.
fn say(from: SocketAddr, to: SocketAddr, what: &str, bytes: &[u8]) {
    let mut stream = connect(from, to);
    // It may be closed before all has been sent.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_end(&error) => return,
            Err(error) => panic!("{what} is not refused: {error}"),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// How many lines of a server's log name an address.
fn named(cluster: &Cluster, id: usize, address: SocketAddr) -> usize {
    let log = cluster.log(id);
    let address = format!("{}:", address.ip());
    log.lines().filter(|line| line.contains(&address)).count()
}

/// The most memory, in KiB, that a process has ever had resident.
fn peak_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn refused_and_named_once() {
    let seats = (0..3).map(|_| Seat::voter(Quorate::from_env()));
    let cluster = Cluster::start(seats.collect(), Cluster::settings());
    let leader = cluster.leader();
    let load = Load::start(&cluster.addresses(), 3);
    let (mut strangers, mut refused) = (Vec::new(), Vec::new());
    for id in cluster.ids() {
        for (what, bytes) in on_the_election_port() {
            strangers.push((id, cluster.election_address(id), what, bytes));
        }
    }
    for (what, bytes) in on_the_quorum_port() {
        strangers.push((leader, cluster.quorum_address(leader), what, bytes));
    }
    for (id, to, what, bytes) in strangers {
        let from = own_address();
        say(from, to, what, &bytes);
        eventually(&format!("{what} is in the log"), CLOSING, || {
            (named(&cluster, id, from) > 0).then_some(())
        });
        // It does not help to come back.
        say(from, to, what, &bytes);
        refused.push((id, what, from));
    }
    for id in cluster.ids() {
        // Those who say nothing hold nobody up either.
        let silent = [cluster.election_address(id), cluster.quorum_address(leader)];
        let silent = silent.map(|address| connect(own_address(), address));
        // A server that would like to be one of them may vote, which counts for nothing.
        let mut joiner = connect(own_address(), cluster.election_address(id));
        joiner
            .write_all(&greeting(ELECTION, NOBODY, "127.0.0.1:1"))
            .unwrap();
        load.progress(100);
        drop((silent, joiner));
        let peak = peak_memory(cluster.pid(id));
        assert!(peak < MEMORY, "server {id} used {peak} KiB");
    }
    for (id, what, from) in refused {
        let named = named(&cluster, id, from);
        assert_eq!(named, 1, "server {id}, {what} from {from}");
    }
    let summary = load.finish();
    // No client lost its connection, and nobody had to elect again.
    assert_eq!(summary.unknown, 0, "{summary:?}");
    assert_eq!(cluster.leader(), leader);
    assert!(summary.longest_gap < Duration::from_secs(1), "{summary:?}");
    cluster.compare();
}
