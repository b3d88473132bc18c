//! Clients that mean harm, against our server as a process: it neither crashes nor hangs nor bloats,
//! closes the connection of whoever misbehaves, and says so once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    Acl, AuthPacket, CheckTxn, ConnectRequest, CreateMode, CreateRequest, CreateTtlRequest,
    ErrorCode, GetDataResponse, MultiOp, MultiRequest, OpCode, PathRecord, Perms, SetAclRequest,
    SetDataRequest, SetWatches2, VersionRequest, WatchRequest, WatchedRequest, frame,
};
use quorate_tests::ours::Quorate;
use quorate_tests::process::{ServerProcess, Settings, eventually};
use quorate_tests::raw::{Message, RawClient, Session};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Frames that the flood sends in all.
const FRAMES: usize = 100_000;

/// Connections that flood at a time.
const FLOODERS: usize = 4;

/// How long a client that behaves may have to wait for an answer, on two cores shared with all else.
const LATENCY: Duration = Duration::from_secs(5);

/// How long the server may take to close a connection that it gives up.
const CLOSING: Duration = Duration::from_secs(10);

/// The most memory, in KiB, that the server may come to use: a few frames of the largest size for
/// each connection, and room for the allocator.
const MEMORY: usize = 192 * 1024;

fn server() -> ServerProcess {
    let settings = Settings::default().with("tickTime", 200);
    ServerProcess::start(Quorate::from_env(), settings)
}

/// The seed of a run: from `QUORATE_SEED`, otherwise a new one. A test that fails shows it.
fn seed() -> u64 {
    let seed = env::var("QUORATE_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    eprintln!("to run this again: QUORATE_SEED={seed} cargo test -p quorate-tests --test hostile");
    seed
}

/// The most memory, in KiB, that a process has ever had resident.
fn peak_memory(server: &ServerProcess) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}

/// Works as a client should while `trouble` goes on beside it, and checks that every answer is right
/// and comes in time. Fails if the server used too much memory or did not survive.
fn while_serving(server: &ServerProcess, trouble: impl FnOnce()) {
    let mut client = RawClient::connect(server.address(), 10_000);
    assert_eq!(client.create("/good", b"0", 0), ErrorCode::OK);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let good = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                work(&mut client, rounds);
                slowest = slowest.max(start.elapsed());
                rounds += 1;
            }
            (rounds, slowest)
        });
        // The client ends also where the trouble panics.
        let guard = Finally(&over);
        trouble();
        drop(guard);
        let (rounds, slowest) = good.join().unwrap();
        assert!(rounds > 0);
        assert!(
            slowest < LATENCY,
            "an answer took {slowest:?} ({rounds} rounds)"
        );
    });
    let peak = peak_memory(server);
    assert!(peak < MEMORY, "the server used {peak} KiB");
    let mut late = RawClient::connect(server.address(), 10_000);
    work(&mut late, 0);
}

/// Says that something is over when it is dropped.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One write and the read that must show it.
fn work(client: &mut RawClient, round: i32) {
    let data = round.to_be_bytes();
    let set = SetDataRequest {
        path: "/good",
        data: Some(&data),
        version: -1,
    };
    assert_eq!(client.call(OpCode::SetData, &set).0.err, ErrorCode::OK);
    let get = WatchedRequest {
        path: "/good",
        watch: false,
    };
    let (header, body) = client.call(OpCode::GetData, &get);
    assert_eq!(header.err, ErrorCode::OK);
    let answer = GetDataResponse::from_slice(&body).unwrap();
    assert_eq!(answer.data, Some(&data[..]));
}

/// Reads until the server closes the connection, which it must.
fn await_close(client: &mut RawClient, what: &str) {
    client.set_patience(CLOSING);
    loop {
        match client.read_frame() {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                panic!("the connection stays open: {what}")
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// A connection with a session that soon expires; `None` if the server closed it instead.
fn session(address: SocketAddr) -> Option<RawClient> {
    let wanted = Session {
        id: 0,
        password: vec![0; 16],
        timeout: 1000,
    };
    RawClient::attach(address, &wanted)
}

// ---- What a connection can do wrong ----

/// Bytes that no server lets pass: the connection has to be closed.
#[derive(Debug, Clone, Copy)]
enum Crime {
    NegativeLength,
    LengthOfTwoGigabytes,
    LengthJustOverTheLimit,
    NoHeader,
    UnknownOpcode,
    OpcodeOfServers,
    CheckOutsideMulti,
    HandshakeTooShort,
    HandshakeOfNoise,
    HandshakeWithHugePassword,
    LengthInsteadOfHandshake,
}

impl Crime {
    const ALL: [Crime; 11] = [
        Crime::NegativeLength,
        Crime::LengthOfTwoGigabytes,
        Crime::LengthJustOverTheLimit,
        Crime::NoHeader,
        Crime::UnknownOpcode,
        Crime::OpcodeOfServers,
        Crime::CheckOutsideMulti,
        Crime::HandshakeTooShort,
        Crime::HandshakeOfNoise,
        Crime::HandshakeWithHugePassword,
        Crime::LengthInsteadOfHandshake,
    ];

    /// Is it done in place of the handshake?
    fn is_early(self) -> bool {
        matches!(
            self,
            Crime::HandshakeTooShort
                | Crime::HandshakeOfNoise
                | Crime::HandshakeWithHugePassword
                | Crime::LengthInsteadOfHandshake
        )
    }

    fn bytes(self, rng: &mut Rng) -> Vec<u8> {
        let limit = i32::try_from(frame::DEFAULT_MAX_FRAME).unwrap();
        match self {
            Crime::NegativeLength => rng.i32(i32::MIN..0).to_vec(),
            Crime::LengthOfTwoGigabytes => {
                let mut bytes = i32::MAX.to_vec();
                bytes.resize(rng.usize(4..2000), 0);
                bytes
            }
            Crime::LengthJustOverTheLimit => (limit + 1).to_vec(),
            Crime::NoHeader => framed(&noise(rng, 0..8)),
            Crime::UnknownOpcode => {
                let op = *rng
                    .choice(&[10, 23, 99, 108, -2, -12, i32::MIN, i32::MAX])
                    .unwrap();
                request(op, &noise(rng, 0..60))
            }
            Crime::OpcodeOfServers => {
                let ops = [
                    OpCode::Notification,
                    OpCode::Error,
                    OpCode::CreateSession,
                    OpCode::DeleteContainer,
                ];
                let op = rng.choice(&ops).unwrap();
                request(op.number(), &PathRecord { path: "/good" }.to_vec())
            }
            Crime::CheckOutsideMulti => {
                let check = CheckTxn {
                    path: "/good",
                    version: 0,
                };
                request(OpCode::Check.number(), &check.to_vec())
            }
            Crime::HandshakeTooShort => framed(&noise(rng, 0..24)),
            Crime::HandshakeOfNoise => {
                let mut bytes = noise(rng, 28..60);
                // The length of the password.
                bytes[24..28].copy_from_slice(&(-2i32).to_be_bytes());
                framed(&bytes)
            }
            Crime::HandshakeWithHugePassword => {
                let mut bytes = handshake();
                bytes[28..32].copy_from_slice(&i32::MAX.to_be_bytes());
                bytes
            }
            Crime::LengthInsteadOfHandshake => rng.i32(limit + 1..).to_vec(),
        }
    }

    /// Commits the crime on a connection of its own, which has to be closed.
    fn commit(self, address: SocketAddr, rng: &mut Rng) -> SocketAddr {
        let mut client = if self.is_early() {
            RawClient::open(address).unwrap()
        } else {
            session(address).expect("a session")
        };
        let local = client.local_addr();
        // A server may close the connection before it has read everything.
        let _ = client.send(&self.bytes(rng));
        await_close(&mut client, &format!("{self:?}"));
        local
    }
}

fn handshake() -> Vec<u8> {
    let request = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout: 1000,
        session_id: 0,
        password: Some(&[0; 16]),
        read_only: Some(false),
    };
    framed(&request.to_vec())
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + frame::LENGTH_SIZE);
    frame::write(&mut out, |out| out.extend_from_slice(body));
    out
}

fn request(op: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 12);
    frame::write(&mut out, |out| {
        1i32.encode(out);
        op.encode(out);
        out.extend_from_slice(body);
    });
    out
}

fn noise(rng: &mut Rng, length: std::ops::Range<usize>) -> Vec<u8> {
    let length = rng.usize(length);
    (0..length).map(|_| rng.u8(..)).collect()
}

// ---- Requests that are wrong inside ----

/// A request as a client would send it, on paths that nobody needs.
fn reasonable(rng: &mut Rng) -> (OpCode, Vec<u8>) {
    let path = *rng
        .choice(&["/", "/h", "/h/a", "/h/a/b", "/none", "/h/s-"])
        .unwrap();
    let data = noise(rng, 0..40);
    let data = rng.bool().then_some(&data[..]);
    let acl = Some(vec![Acl::world(Perms::ALL); rng.usize(1..3)]);
    let watch = rng.bool();
    let version = rng.i32(-1..3);
    let flags = rng.i32(-1..8);
    let kind = rng.i32(-1..7);
    let ops = [
        OpCode::Create,
        OpCode::Create2,
        OpCode::CreateContainer,
        OpCode::CreateTtl,
        OpCode::Delete,
        OpCode::Exists,
        OpCode::GetData,
        OpCode::SetData,
        OpCode::GetAcl,
        OpCode::SetAcl,
        OpCode::GetChildren,
        OpCode::GetChildren2,
        OpCode::Sync,
        OpCode::Ping,
        OpCode::Multi,
        OpCode::MultiRead,
        OpCode::CheckWatches,
        OpCode::RemoveWatches,
        OpCode::AddWatch,
        OpCode::SetWatches2,
        OpCode::GetEphemerals,
        OpCode::GetAllChildrenNumber,
        OpCode::WhoAmI,
        OpCode::Reconfig,
        OpCode::Auth,
        OpCode::Sasl,
        OpCode::CloseSession,
    ];
    let op = *rng.choice(&ops).unwrap();
    let create = CreateRequest {
        path,
        data,
        acl: acl.clone(),
        flags,
    };
    let body = match op {
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer => create.to_vec(),
        OpCode::CreateTtl => CreateTtlRequest {
            path,
            data,
            acl,
            flags,
            ttl: rng.i64(-5..5000),
        }
        .to_vec(),
        OpCode::Delete => VersionRequest { path, version }.to_vec(),
        OpCode::SetData => SetDataRequest {
            path,
            data,
            version,
        }
        .to_vec(),
        OpCode::SetAcl => SetAclRequest { path, acl, version }.to_vec(),
        OpCode::Multi | OpCode::MultiRead => {
            let ops = (0..rng.usize(0..5)).map(|_| match rng.u8(0..5) {
                0 => MultiOp::Create(create.clone()),
                1 => MultiOp::Delete(VersionRequest { path, version }),
                2 => MultiOp::SetData(SetDataRequest {
                    path,
                    data,
                    version,
                }),
                3 => MultiOp::Check(VersionRequest { path, version }),
                _ => MultiOp::GetData(WatchedRequest { path, watch }),
            });
            MultiRequest { ops: ops.collect() }.to_vec()
        }
        OpCode::CheckWatches | OpCode::RemoveWatches | OpCode::AddWatch => {
            WatchRequest { path, kind }.to_vec()
        }
        OpCode::SetWatches2 => {
            let list = vec![path; rng.usize(0..20)];
            SetWatches2 {
                relative_zxid: rng.i64(..),
                data: list.clone(),
                exist: vec![],
                child: list.clone(),
                persistent: vec![],
                persistent_recursive: list,
            }
            .to_vec()
        }
        OpCode::Auth => {
            let scheme = *rng.choice(&["digest", "ip", "nobody", ""]).unwrap();
            AuthPacket {
                kind: 0,
                scheme,
                auth: data,
            }
            .to_vec()
        }
        OpCode::Ping | OpCode::WhoAmI | OpCode::CloseSession => Vec::new(),
        OpCode::Sasl => data.to_vec(),
        OpCode::Reconfig => noise(rng, 0..40),
        _ => WatchedRequest { path, watch }.to_vec(),
    };
    (op, body)
}

/// A frame whose length is right and whose contents are not.
fn wrong_inside(rng: &mut Rng) -> Vec<u8> {
    let (op, mut body) = reasonable(rng);
    let op = op.number();
    match rng.u8(0..8) {
        // Cut short.
        0 => body.truncate(rng.usize(0..=body.len())),
        // A few bytes changed.
        1 | 2 if !body.is_empty() => {
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..body.len());
                body[at] = rng.u8(..);
            }
        }
        // A number anywhere, which may be a length, is a monstrous one.
        3 | 4 if body.len() >= 4 => {
            let at = rng.usize(..=body.len() - 4);
            let numbers = [
                i32::MAX,
                i32::MIN,
                -1,
                -2,
                0x4000_0000,
                0x00ff_ffff,
                2_000_000,
            ];
            body[at..at + 4].copy_from_slice(&rng.choice(&numbers).unwrap().to_be_bytes());
        }
        // The contents belong to another operation.
        5 => return request(op, &reasonable(rng).1),
        // Noise.
        6 => return request(op, &noise(rng, 0..200)),
        // Nothing is wrong, and something is behind.
        _ => body.extend(noise(rng, 0..30)),
    }
    request(op, &body)
}

/// A frame that is large and costs whoever takes it by its word.
fn large(rng: &mut Rng) -> Vec<u8> {
    let limit = frame::DEFAULT_MAX_FRAME - 100;
    let op = *rng
        .choice(&[
            OpCode::GetData,
            OpCode::Exists,
            OpCode::GetChildren,
            OpCode::Sync,
        ])
        .unwrap();
    match rng.u8(0..6) {
        // The deepest path there is.
        0 => {
            let path = "/a".repeat(limit / 2);
            let body = WatchedRequest {
                path: &path,
                watch: false,
            };
            request(op.number(), &body.to_vec())
        }
        // A create at the end of it.
        1 => {
            let path = "/a".repeat(limit / 2);
            let body = CreateRequest {
                path: &path,
                data: None,
                acl: Some(vec![Acl::world(Perms::ALL)]),
                flags: rng.i32(0..4),
            };
            request(OpCode::Create.number(), &body.to_vec())
        }
        // As many watches as fit, each on a path of its own.
        2 => {
            let paths: Vec<String> = (0..limit / 12).map(|n| format!("/{n:07}")).collect();
            let mut body = SetWatches2 {
                relative_zxid: 0,
                data: vec![],
                exist: paths.iter().map(String::as_str).collect(),
                child: vec![],
                persistent: vec![],
                persistent_recursive: vec![],
            }
            .to_vec();
            body.truncate(limit);
            request(OpCode::SetWatches2.number(), &body)
        }
        // As many operations as fit, of which the first fails.
        3 => {
            let check = MultiOp::Check(VersionRequest {
                path: "/none",
                version: 0,
            });
            let ops = vec![check; limit / 30];
            request(OpCode::Multi.number(), &MultiRequest { ops }.to_vec())
        }
        // As many ACL entries as fit.
        4 => {
            let acl = vec![Acl::world(Perms::ALL); limit / 30];
            let body = SetAclRequest {
                path: "/none",
                acl: Some(acl),
                version: -1,
            };
            request(OpCode::SetAcl.number(), &body.to_vec())
        }
        // A vector that claims to go on for ever.
        _ => {
            let mut body = 0i64.to_vec();
            body.extend(i32::MAX.to_be_bytes());
            body.resize(limit, 0);
            request(OpCode::SetWatches2.number(), &body)
        }
    }
}

/// Sends some hostile frames on one connection, and sees it closed. Answers their number.
fn misbehave(address: SocketAddr, rng: &mut Rng) -> usize {
    if rng.u8(0..4) == 0 {
        let crime = *rng.choice(&Crime::ALL).unwrap();
        crime.commit(address, rng);
        return 1;
    }
    let Some(mut client) = session(address) else {
        panic!("the server refuses a session");
    };
    let count = rng.usize(1..60);
    for n in 0..count {
        let bytes = if rng.u16(0..300) == 0 {
            large(rng)
        } else {
            wrong_inside(rng)
        };
        // Some of them get the connection closed.
        if client.send(&bytes).is_err() {
            return n;
        }
    }
    client.finish();
    await_close(&mut client, "after the client's end");
    count
}

#[test]
fn a_hundred_thousand_hostile_frames() {
    let seed = seed();
    let server = server();
    let address = server.address();
    let sent = AtomicUsize::new(0);
    let connections = AtomicUsize::new(0);
    while_serving(&server, || {
        let mut client = RawClient::connect(address, 10_000);
        assert_eq!(client.create("/h", b"", 0), ErrorCode::OK);
        thread::scope(|scope| {
            for n in 0..FLOODERS {
                let mut rng = Rng::with_seed(seed.wrapping_add(n as u64));
                let (sent, connections) = (&sent, &connections);
                scope.spawn(move || {
                    while sent.load(Ordering::Relaxed) < FRAMES {
                        sent.fetch_add(misbehave(address, &mut rng), Ordering::Relaxed);
                        connections.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    // A line for each connection at the most, however many frames came on it.
    let log = server.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let lines = lines.count();
    let connections = connections.into_inner();
    assert!(
        lines < connections + 100,
        "{lines} lines of log for {connections} connections"
    );
}

#[test]
fn what_misbehaves_is_closed_and_logged_once() {
    let server = server();
    let mut rng = Rng::with_seed(seed());
    let criminals = Crime::ALL.map(|crime| (crime, crime.commit(server.address(), &mut rng)));
    let lines = |local: SocketAddr| {
        let local = local.to_string();
        server.log().lines().filter(|l| l.contains(&local)).count()
    };
    // A line may follow the close that it tells of.
    for (_, local) in criminals {
        eventually("a line of the log", CLOSING, || {
            (lines(local) > 0).then_some(())
        });
    }
    for (crime, local) in criminals {
        assert_eq!(lines(local), 1, "{crime:?} from {local}:\n{}", server.log());
    }
    RawClient::connect(server.address(), 1000).finish();
}

/// Connections that send half a handshake, or nothing, and then keep silent.
#[test]
fn silence_is_not_listened_to_for_ever() {
    let server = server();
    let handshake = handshake();
    while_serving(&server, || {
        let mut silent: Vec<RawClient> = (0..20)
            .map(|n| {
                let mut client = RawClient::open(server.address()).unwrap();
                client.send(&handshake[..2 * n]).unwrap();
                client
            })
            .collect();
        for client in &mut silent {
            // Twice the timeout of connections that have no session yet.
            client.set_patience(Duration::from_secs(40));
            assert_eq!(client.read().unwrap(), Message::Closed);
        }
    });
}

/// Whoever sends one byte at a time is slow, not hostile, and is served.
#[test]
fn slow_bytes_are_put_together() {
    let server = server();
    while_serving(&server, || {
        let mut slow: Vec<RawClient> = (0..50)
            .map(|_| RawClient::open(server.address()).unwrap())
            .collect();
        for byte in handshake() {
            for client in &mut slow {
                client.send(&[byte]).unwrap();
            }
        }
        for client in &mut slow {
            let answer = client.read_frame().unwrap().expect("a session");
            assert_eq!(answer.len(), 37);
        }
        let exists = WatchedRequest {
            path: "/good",
            watch: false,
        };
        for byte in request(OpCode::Exists.number(), &exists.to_vec()) {
            for client in &mut slow {
                client.send(&[byte]).unwrap();
            }
        }
        for client in &mut slow {
            let answer = client.read().unwrap();
            assert!(matches!(answer, Message::Reply(header, _) if header.err == ErrorCode::OK));
        }
    });
}

/// A session that another connection takes up leaves the old one, however busy that is.
#[test]
fn a_busy_connection_gives_way() {
    let server = server();
    let exists = WatchedRequest {
        path: "/",
        watch: false,
    };
    let ask = request(OpCode::Exists.number(), &exists.to_vec()).repeat(50);
    for _ in 0..100 {
        let mut old = RawClient::connect(server.address(), 10_000);
        let session = old.session().clone();
        let deadline = Instant::now() + CLOSING;
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                while old.send(&ask).is_ok() {
                    for _ in 0..50 {
                        if old.read().unwrap() == Message::Closed {
                            return;
                        }
                    }
                    assert!(Instant::now() < deadline, "the old connection stays");
                }
            });
            RawClient::attach(server.address(), &session).expect("the session is handed over");
            busy.join().unwrap();
        });
    }
}

/// Clients that ask for much and read nothing must not make the server keep it all.
#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let server = server();
    while_serving(&server, || {
        let mut owner = RawClient::connect(server.address(), 10_000);
        let data = vec![7; 1_000_000];
        assert_eq!(owner.create("/large", &data, 0), ErrorCode::OK);
        let get = WatchedRequest {
            path: "/large",
            watch: false,
        };
        // Some of it waits behind a write.
        let set = SetDataRequest {
            path: "/good",
            data: Some(b"x"),
            version: -2,
        };
        let mut ask = request(OpCode::SetData.number(), &set.to_vec());
        ask.extend(request(OpCode::GetData.number(), &get.to_vec()).repeat(300));
        let mut greedy: Vec<RawClient> = (0..8)
            .map(|_| RawClient::connect(server.address(), 10_000))
            .collect();
        for client in &mut greedy {
            client.send(&ask).unwrap();
        }
        // In the end everything is there for whoever does read.
        for client in &mut greedy[..2] {
            assert_eq!(
                client.read_frame().unwrap().map(|frame| frame.len()),
                Some(16)
            );
            for _ in 0..300 {
                assert!(
                    client
                        .read_frame()
                        .unwrap()
                        .is_some_and(|f| f.len() > data.len())
                );
            }
        }
    });
}

#[test]
fn connections_opened_and_dropped() {
    let server = server();
    let address = server.address();
    let seed = seed();
    while_serving(&server, || {
        thread::scope(|scope| {
            for n in 0..FLOODERS {
                let mut rng = Rng::with_seed(seed.wrapping_add(n as u64));
                scope.spawn(move || {
                    for _ in 0..1000 {
                        open_and_drop(address, &mut rng);
                    }
                });
            }
        });
    });
    // Nothing is left of them: neither connections nor the ephemerals of their sessions.
    let mut client = RawClient::connect(address, 10_000);
    let probe = WatchedRequest {
        path: "/dropped",
        watch: false,
    };
    eventually(
        "the end of what was dropped",
        Duration::from_secs(30),
        || {
            let (header, _) = client.call(OpCode::Exists, &probe);
            let connections = quorate_tests::process::word(address, "cons").unwrap();
            let connections = connections.lines().filter(|line| !line.is_empty());
            // This client, and the one that asks.
            (header.err == ErrorCode::NO_NODE && connections.count() <= 2).then_some(())
        },
    );
}

#[test]
fn more_connections_than_files() {
    const WRITES: i32 = 500;
    let settings = Settings::default().with("snapCount", 100);
    let server = ServerProcess::start(Quorate::from_env(), settings);
    let limit = Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    let pid = Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    let mut client = RawClient::connect(server.address(), 10_000);
    // Whether there is room for them is the server's to say.
    let crowd: Vec<_> = (0..100)
        .map(|_| RawClient::open(server.address()))
        .collect();
    // The server goes on to snapshots and other logs.
    for n in 0..WRITES {
        assert_eq!(client.create(&format!("/n{n}"), b"", 0), ErrorCode::OK);
    }
    drop(crowd);
    eventually("room for a client", CLOSING, || session(server.address()));
}

/// Opens a connection, gets some way with it, and drops it, orderly or with a reset.
fn open_and_drop(address: SocketAddr, rng: &mut Rng) {
    let mut client = RawClient::open(address).unwrap();
    let handshake = handshake();
    match rng.u8(0..5) {
        0 => {}
        1 => client
            .send(&handshake[..rng.usize(..handshake.len())])
            .unwrap(),
        // The session is granted to nobody.
        2 => client.send(&handshake).unwrap(),
        _ => {
            let wanted = Session {
                id: 0,
                password: vec![0; 16],
                timeout: 1000,
            };
            let _ = client.handshake(&wanted, 0).expect("a session");
            let create = CreateRequest {
                path: "/dropped",
                data: None,
                acl: Some(vec![Acl::world(Perms::ALL)]),
                flags: CreateMode::Ephemeral.number(),
            };
            client
                .send(&request(OpCode::Create.number(), &create.to_vec()))
                .unwrap();
        }
    }
    if rng.bool() {
        client.reset_on_drop();
    }
}
