//! What befalls processes: killed at any moment, out of disk space, told to stop. What was
//! acknowledged is there afterwards, whole, and nothing that was not asked for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    Acl, CreateMode, CreateRequest, ErrorCode, GetChildren2Response, GetDataResponse, MultiOp,
    MultiRequest, OpCode, Perms, SetDataRequest, Stat, StatResponse, VersionRequest,
    WatchedRequest,
};
use quorate_tests::ours::Quorate;
use quorate_tests::process::{ServerProcess, Settings, eventually};
use quorate_tests::raw::{Message, RawClient, Session};
use quorate_tests::small_disk::SmallDisk;
use rustix::process::Signal;
use tempfile::TempDir;

/// How often the server is killed.
const ROUNDS: usize = 20;

/// Connections that write at the same time.
const WRITERS: usize = 8;

/// Requests that a writer has in flight.
const DEPTH: usize = 16;

/// Children that a writer keeps before it deletes the oldest.
const KEPT: i64 = 60;

/// Znodes that a writer sets.
const REGISTERS: [&str; 4] = ["left", "right", "last", "turn"];

/// Snapshots and new log files come often, so that some are under way when the server dies.
fn settings() -> Settings {
    Settings::default()
        .with("tickTime", 200)
        .with("snapCount", 500)
        .with("preAllocSize", 64)
}

fn seed() -> u64 {
    let seed = env::var("QUORATE_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    eprintln!("to run this again: QUORATE_SEED={seed} cargo test -p quorate-tests --test faults");
    seed
}

// ---- A writer, of which every step follows from its number ----

/// Writes under a subtree of its own. Step `n` does, by `n % 4`:
///
/// 0. one transaction that sets `left` and `right` to `n` and creates a sequential child;
/// 1. creates a sequential child;
/// 2. sets `last` to `n`;
/// 3. one transaction that sets `turn` to `n` and deletes the two children of [`KEPT`] steps before,
///    once there are any.
///
/// So the number of steps done tells the whole state, and the state tells that number.
#[derive(Debug, Clone)]
struct Writer {
    name: usize,
    /// Steps that the server acknowledged.
    acknowledged: i64,
    /// Steps that were sent.
    sent: i64,
    /// The highest zxid that the server has told.
    zxid: i64,
    session: Option<Session>,
}

/// The state of a writer's subtree after a number of steps.
#[derive(Debug, PartialEq)]
struct State {
    left: Register,
    right: Register,
    last: Register,
    turn: Register,
    /// Sequence number and data of each child.
    children: Vec<(i64, i64)>,
    created: i32,
}

/// A znode that holds a number, and how often it was set.
#[derive(Debug, PartialEq)]
struct Register {
    value: i64,
    version: i32,
}

impl Register {
    /// Set by the steps `kind`, `kind + 4`, … below `steps`.
    fn after(steps: i64, kind: i64) -> Self {
        let times = (steps - kind + 3).div_euclid(4).max(0);
        Register {
            value: if times == 0 {
                -1
            } else {
                kind + 4 * (times - 1)
            },
            version: i32::try_from(times).unwrap(),
        }
    }
}

impl State {
    fn after(steps: i64) -> Self {
        let creates = |step: i64| step % 4 < 2;
        // The steps whose children a later step has deleted.
        let deleted = (0..steps)
            .rev()
            .find(|step| step % 4 == 3 && *step > KEPT)
            .map_or(0, |step| step - KEPT);
        let created: Vec<i64> = (0..steps).filter(|step| creates(*step)).collect();
        State {
            left: Register::after(steps, 0),
            right: Register::after(steps, 0),
            last: Register::after(steps, 2),
            turn: Register::after(steps, 3),
            children: (0..)
                .zip(&created)
                .map(|(sequence, step)| (sequence, *step))
                .filter(|(_, step)| *step >= deleted)
                .collect(),
            created: i32::try_from(created.len()).unwrap(),
        }
    }

    /// The number of steps that lead to this state: each leaves its number somewhere.
    fn steps(&self) -> i64 {
        let registers = [&self.left, &self.last, &self.turn];
        let children = self.children.iter().map(|(_, step)| *step);
        let seen = registers.iter().map(|register| register.value);
        seen.chain(children).max().unwrap() + 1
    }
}

impl Writer {
    fn new(name: usize) -> Self {
        Writer {
            name,
            acknowledged: 0,
            sent: 0,
            zxid: 0,
            session: None,
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/{}-{what}", self.name)
    }

    fn child(&self, sequence: i64) -> String {
        format!("{}/s-{sequence:010}", self.path("children"))
    }

    fn ephemeral(&self) -> String {
        format!("/ephemerals/{}", self.name)
    }

    /// Creates what the steps work on.
    fn prepare(&self, client: &mut RawClient) {
        assert_eq!(client.create(&self.path("children"), b"", 0), ErrorCode::OK);
        for register in REGISTERS {
            let data = (-1i64).to_be_bytes();
            assert_eq!(client.create(&self.path(register), &data, 0), ErrorCode::OK);
        }
    }

    /// Opens a session and creates its ephemeral znode, unless a session before still holds that.
    /// `None` if the server has gone by then.
    fn join(&mut self, address: SocketAddr) -> Option<RawClient> {
        let mut client = RawClient::open(address).ok()?;
        let wanted = Session {
            id: 0,
            password: vec![0; 16],
            timeout: 2000,
        };
        let session = client.handshake(&wanted, 0)?;
        let path = self.ephemeral();
        let create = CreateRequest {
            path: &path,
            data: None,
            acl: Some(vec![Acl::world(Perms::ALL)]),
            flags: CreateMode::Ephemeral.number(),
        };
        let op = OpCode::Create.number();
        client.send_request(1, op, &create.to_vec()).ok()?;
        self.session = match client.read() {
            Ok(Message::Reply(header, _)) => (header.err == ErrorCode::OK).then_some(session),
            Ok(Message::Closed) => return None,
            other => panic!("{other:?} instead of the reply to a create"),
        };
        Some(client)
    }

    /// Sends step `n`.
    fn send(&self, client: &mut RawClient, n: i64) -> std::io::Result<()> {
        let data = n.to_be_bytes();
        let data = Some(&data[..]);
        let children = format!("{}/s-", self.path("children"));
        let create = CreateRequest {
            path: &children,
            data,
            acl: Some(vec![Acl::world(Perms::ALL)]),
            flags: CreateMode::PersistentSequential.number(),
        };
        let [left, right, last, turn] = REGISTERS.map(|register| self.path(register));
        let version = i32::try_from(n / 4).unwrap();
        let set = |path| SetDataRequest {
            path,
            data,
            version,
        };
        let delete = |path| MultiOp::Delete(VersionRequest { path, version: 0 });
        let oldest = (n - KEPT - 3) / 2;
        let (first, second) = (self.child(oldest), self.child(oldest + 1));
        let (op, body) = match n % 4 {
            0 => {
                let ops = vec![
                    MultiOp::SetData(set(&left)),
                    MultiOp::Create(create),
                    MultiOp::SetData(set(&right)),
                ];
                (OpCode::Multi, MultiRequest { ops }.to_vec())
            }
            1 => (OpCode::Create, create.to_vec()),
            2 => (OpCode::SetData, set(&last).to_vec()),
            _ => {
                let mut ops = vec![MultiOp::SetData(set(&turn))];
                if n > KEPT {
                    ops.extend([delete(&first), delete(&second)]);
                }
                (OpCode::Multi, MultiRequest { ops }.to_vec())
            }
        };
        let xid = i32::try_from(n).unwrap() + 1000;
        client.send_request(xid, op.number(), &body)
    }

    /// Writes until the connection ends.
    fn write(&mut self, client: &mut RawClient) {
        let mut in_flight = VecDeque::new();
        loop {
            while in_flight.len() < DEPTH {
                let step = self.sent;
                self.sent += 1;
                if self.send(client, step).is_err() {
                    break;
                }
                in_flight.push_back(step);
            }
            let Some(step) = in_flight.pop_front() else {
                return;
            };
            match client.read() {
                Ok(Message::Reply(header, _)) => {
                    assert_eq!(i64::from(header.xid), step + 1000);
                    assert_eq!(header.err, ErrorCode::OK, "step {step} of {self:?}");
                    assert!(header.zxid > self.zxid, "zxids rise");
                    self.zxid = header.zxid;
                    self.acknowledged = step + 1;
                }
                Ok(Message::Closed) => return,
                other => panic!("{other:?} instead of the reply to step {step}"),
            }
        }
    }

    /// Reads what is there.
    fn read(&self, client: &mut RawClient) -> State {
        let mut register = |what: &str| {
            let (value, stat) = get(client, &self.path(what));
            (
                Register {
                    value,
                    version: stat.version,
                },
                stat.mzxid,
            )
        };
        let (left, left_zxid) = register("left");
        let (right, right_zxid) = register("right");
        let (last, _) = register("last");
        let (turn, _) = register("turn");
        assert!(
            left.version == 0 || left_zxid == right_zxid,
            "one transaction has one zxid"
        );
        let parent = self.path("children");
        let request = WatchedRequest {
            path: &parent,
            watch: false,
        };
        let (header, body) = client.call(OpCode::GetChildren2, &request);
        assert_eq!(header.err, ErrorCode::OK);
        let answer = GetChildren2Response::from_slice(&body).unwrap();
        let mut children: Vec<(i64, i64)> = answer
            .children
            .iter()
            .map(|name| {
                let sequence = name.strip_prefix("s-").unwrap().parse().unwrap();
                (sequence, get(client, &format!("{parent}/{name}")).0)
            })
            .collect();
        children.sort_unstable();
        State {
            left,
            right,
            last,
            turn,
            // The list's version counts creations and deletions, and what is left is the difference.
            created: i32::midpoint(answer.stat.cversion, answer.stat.num_children),
            children,
        }
    }

    /// Checks that exactly the first steps have been done: all that were acknowledged, perhaps more
    /// of those sent, none in part. The next step follows on the last one done.
    fn check(&mut self, client: &mut RawClient) {
        let state = self.read(client);
        let steps = state.steps();
        assert_eq!(state, State::after(steps), "{self:?}");
        assert!(
            (self.acknowledged..=self.sent).contains(&steps),
            "{steps} steps are done of {self:?}"
        );
        self.acknowledged = steps;
        self.sent = steps;
    }
}

/// The number in a znode, and its stat.
fn get(client: &mut RawClient, path: &str) -> (i64, Stat) {
    let (header, body) = client.call(OpCode::GetData, &WatchedRequest { path, watch: false });
    assert_eq!(header.err, ErrorCode::OK, "{path}");
    let answer = GetDataResponse::from_slice(&body).unwrap();
    let value = answer.data.unwrap().try_into().map(i64::from_be_bytes);
    (value.unwrap(), answer.stat)
}

/// The session that holds an ephemeral znode; `None` if the znode is gone.
fn owner(client: &mut RawClient, path: &str) -> Option<i64> {
    let (header, body) = client.call(OpCode::Exists, &WatchedRequest { path, watch: false });
    (header.err == ErrorCode::OK).then(|| {
        StatResponse::from_slice(&body)
            .unwrap()
            .stat
            .ephemeral_owner
    })
}

fn prepare(address: SocketAddr) -> Vec<Writer> {
    let mut client = RawClient::connect(address, 10_000);
    assert_eq!(client.create("/ephemerals", b"", 0), ErrorCode::OK);
    let writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    for writer in &writers {
        writer.prepare(&mut client);
    }
    writers
}

/// Writes with all writers while `end` goes on, which ends the server.
fn under_load(address: SocketAddr, writers: &mut [Writer], end: impl FnOnce()) {
    thread::scope(|scope| {
        for writer in writers {
            scope.spawn(move || {
                if let Some(mut client) = writer.join(address) {
                    writer.write(&mut client);
                }
            });
        }
        end();
    });
}

#[test]
fn the_state_tells_the_steps() {
    for steps in 0..200 {
        assert_eq!(
            State::after(steps).steps(),
            steps,
            "{:?}",
            State::after(steps)
        );
    }
}

#[test]
fn killed_at_any_moment() {
    let mut rng = Rng::with_seed(seed());
    let mut server = ServerProcess::start(Quorate::from_env(), settings());
    let mut writers = prepare(server.address());
    for _ in 0..ROUNDS {
        let pause = Duration::from_millis(rng.u64(20..400));
        under_load(server.address(), &mut writers, || {
            // The moment is what is random here; no state is waited for.
            thread::sleep(pause);
            server.kill();
        });
        // It may also be killed while it recovers from that.
        while rng.bool() {
            server.kill_while_starting(Duration::from_millis(rng.u64(0..60)));
        }
        server.restart();
        let mut client = RawClient::connect(server.address(), 10_000);
        for writer in &mut writers {
            writer.check(&mut client);
            // Some sessions go on, some are left to expire.
            let Some(session) = writer.session.take_if(|_| rng.bool()) else {
                continue;
            };
            let mut heir = RawClient::attach(server.address(), &session)
                .unwrap_or_else(|| panic!("session {:#x} is gone", session.id));
            assert_eq!(owner(&mut heir, &writer.ephemeral()), Some(session.id));
            let (header, _) = heir.call(OpCode::CloseSession, &0i32);
            assert_eq!(header.err, ErrorCode::OK);
            assert_eq!(owner(&mut client, &writer.ephemeral()), None);
        }
    }
    assert!(writers.iter().all(|w| w.acknowledged > 0), "{writers:?}");
    // The sessions that nobody took up again end, and their ephemerals with them.
    let mut client = RawClient::connect(server.address(), 10_000);
    for writer in &writers {
        let path = writer.ephemeral();
        eventually("the end of a dead session", Duration::from_secs(20), || {
            owner(&mut client, &path).is_none().then_some(())
        });
    }
}

#[test]
fn told_to_stop() {
    let mut server = ServerProcess::start(Quorate::from_env(), settings());
    let mut writers = prepare(server.address());
    under_load(server.address(), &mut writers, || {
        thread::sleep(Duration::from_millis(200));
        server.signal(Signal::TERM);
        let status = server.wait();
        assert!(status.success(), "{status}\n{}", server.log());
    });
    server.restart();
    let mut client = RawClient::connect(server.address(), 10_000);
    for writer in &mut writers {
        writer.check(&mut client);
        // A server that stops does not end the sessions.
        let session = writer.session.take().expect("the first to hold it");
        let mut heir = RawClient::attach(server.address(), &session).expect("the session lives");
        assert_eq!(owner(&mut heir, &writer.ephemeral()), Some(session.id));
    }
}

/// Says why a test tests nothing.
const MAY_NOT_MOUNT: &str = "not tested: this process may not mount a small disk";

fn create_large(client: &mut RawClient, n: i32) -> Message {
    let path = format!("/{n}");
    let request = CreateRequest {
        path: &path,
        data: Some(&LARGE),
        acl: Some(vec![Acl::world(Perms::ALL)]),
        flags: 0,
    };
    // Where that fails, the end of the connection is to be read.
    let _ = client.send_request(n + 1, OpCode::Create.number(), &request.to_vec());
    client.read().unwrap()
}

/// A hundred of these are more than the small disk holds.
static LARGE: [u8; 100_000] = [1; 100_000];

/// Checks that the large znodes below `count` are there.
fn check_large(client: &mut RawClient, count: i32) {
    for n in 0..count {
        let path = format!("/{n}");
        let request = WatchedRequest {
            path: &path,
            watch: false,
        };
        let (header, body) = client.call(OpCode::GetData, &request);
        assert_eq!(header.err, ErrorCode::OK, "{path} was acknowledged");
        let answer = GetDataResponse::from_slice(&body).unwrap();
        assert_eq!(answer.data, Some(&LARGE[..]));
    }
}

/// Creates large znodes until the server stops, as it has to: it says why and where, and does not go
/// on with files that have a hole. Answers how many it acknowledged.
fn fill(server: &mut ServerProcess, directory: &Path) -> i32 {
    let mut client = RawClient::connect(server.address(), 10_000);
    let mut acknowledged = 0;
    loop {
        match create_large(&mut client, acknowledged) {
            Message::Reply(header, _) if header.err == ErrorCode::OK => acknowledged += 1,
            Message::Closed => break,
            other => panic!("{other:?}: neither an acknowledgement nor the end"),
        }
        assert!(acknowledged < 1000, "the disk is never full");
    }
    assert!(acknowledged > 10, "{acknowledged}");
    let status = server.wait();
    assert!(!status.success(), "{status}");
    let log = server.log();
    assert!(log.contains("No space left on device"), "{log}");
    assert!(log.contains(&*directory.to_string_lossy()), "{log}");
    acknowledged
}

#[test]
fn out_of_space_for_the_log() {
    let home = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(home.path().to_owned(), "8m") else {
        eprintln!("{MAY_NOT_MOUNT}");
        return;
    };
    let settings = settings().with("dataLogDir", home.path().display());
    let mut server = ServerProcess::start(Quorate::from_env(), settings);
    let acknowledged = fill(&mut server, home.path());
    disk.grow("64m");
    server.restart();
    let mut client = RawClient::connect(server.address(), 10_000);
    check_large(&mut client, acknowledged);
    assert_eq!(client.create("/after", b"", 0), ErrorCode::OK);
    server.kill();
}

#[test]
fn out_of_space_for_snapshots() {
    let home = TempDir::new().unwrap();
    let settings = settings()
        .with("dataLogDir", home.path().display())
        .with("snapCount", 20);
    let mut server = ServerProcess::prepare(Quorate::from_env(), settings);
    let data_dir = server.data_dir();
    let Some(disk) = SmallDisk::mount(data_dir.clone(), "4m") else {
        eprintln!("{MAY_NOT_MOUNT}");
        return;
    };
    server.restart();
    let acknowledged = fill(&mut server, &data_dir);
    disk.grow("256m");
    server.restart();
    let mut client = RawClient::connect(server.address(), 10_000);
    check_large(&mut client, acknowledged);
    // There are snapshots again, and nothing is left of the one that failed.
    let count = |prefix: &str| {
        let names = fs::read_dir(data_dir.join("version-2")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(prefix)).count()
    };
    let before = count("snapshot.");
    for n in 0..40 {
        assert_eq!(client.create(&format!("/after-{n}"), b"", 0), ErrorCode::OK);
    }
    eventually("a snapshot", Duration::from_secs(20), || {
        (count("snapshot.") > before && count("tmp") == 0).then_some(())
    });
    server.kill();
}
