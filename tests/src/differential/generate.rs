//! Random programs from a seed.

use std::borrow::Cow;
use std::collections::VecDeque;

use fastrand::Rng;
use quorate_proto::jute::Encode;
use quorate_proto::{
    Acl, AuthPacket, CreateRequest, MultiHeader, OpCode, Perms, ReconfigRequest, xid,
};

use super::observe::{Seen, UNKNOWN_OP, What};
use super::program::{Ask, Label, Password, Request, SLOTS, Step, fields};
use super::rules::Version;
use crate::process::Settings;

/// The super user of every program: `super:secret`.
pub const SUPER: &[u8] = b"super:secret";
const SUPER_DIGEST: &str = "super:lK75jTNcA+U9vtVEw5vB51mj/w4=";

/// Sessions that are not meant to expire outlive every program by far.
pub const LONG_TIMEOUT: i32 = 600_000;
/// Sessions that are: the shortest that the servers grant.
const SHORT_TIMEOUT: i32 = 1000;

/// Znodes with counters in their names that a program leaves alone before it deletes them.
const MAX_SEQUENTIAL: usize = 40;

/// Makes the steps of a program, one at a time.
pub struct Generator {
    rng: Rng,
    zxid: i64,
    next_xid: i32,
    next_label: Label,
    /// Sessions that were granted and may still live.
    labels: Vec<Label>,
    /// The session in each slot is there to expire.
    short: [bool; SLOTS],
    /// Znodes whose names the server has chosen.
    sequential: VecDeque<String>,
    /// What is to be done before anything random.
    first: VecDeque<Step>,
    /// The last request must not be followed by another before it is answered.
    ///
    /// A multi that Apache's server fails to process, rather than refuses, leaves the changes
    /// of its first operations behind until it is answered, and a new ACL counts only once it is
    /// committed. What requests behind them in the same batch see is a matter of luck.
    last_of_batch: bool,
    /// Quotas are enforced: against what is committed, whatever is on its way, so that writes must
    /// wait for each other.
    enforces_quota: bool,
    /// What the reference does not know yet is left out.
    reference: Version,
    /// Inside a multi a null ACL is one that Apache's server fails to decode, unlike elsewhere.
    in_multi: bool,
}

/// How the servers of the program with this seed are started.
pub fn settings(seed: u64) -> Settings {
    let mut rng = Rng::with_seed(seed ^ 0x5e77_1265);
    let mut settings = Settings::default()
        .with("tickTime", SHORT_TIMEOUT / 2)
        .with("maxSessionTimeout", LONG_TIMEOUT)
        .with("DigestAuthenticationProvider.superDigest", SUPER_DIGEST)
        .with("extendedTypesEnabled", rng.u8(..4) > 0)
        .with("enforceQuota", rng.u8(..4) == 0)
        .with("snapCount", [300, 5_000, 100_000][rng.usize(..3)])
        .with("preAllocSize", 4096)
        // What is compared does not depend on the disk, and the disk is slow.
        .with("forceSync", "no")
        // Reaping is a matter of time, not of the program's order.
        .with("znode.container.checkIntervalMs", 1_000_000_000);
    if rng.u8(..8) == 0 {
        settings = settings.with("skipACL", "yes");
    }
    if rng.u8(..4) == 0 {
        settings = settings.with("closeSessionTxn.enabled", false);
    }
    settings
}

impl Generator {
    /// The program of `seed`, for servers with these settings, the reference of this version.
    pub fn new(seed: u64, settings: &Settings, reference: Version) -> Self {
        let mut generator = Generator {
            rng: Rng::with_seed(seed),
            zxid: 0,
            next_xid: 1,
            next_label: 1,
            labels: Vec::new(),
            short: [false; SLOTS],
            sequential: VecDeque::new(),
            first: VecDeque::new(),
            last_of_batch: false,
            reference,
            in_multi: false,
            enforces_quota: settings.get("enforceQuota") == Some("true"),
        };
        generator.begin();
        generator
    }

    /// May the program end here? Sessions that are there to expire must have.
    pub fn may_end(&self) -> bool {
        self.first.is_empty() && self.short == [false; SLOTS]
    }

    /// The next step; `connected` tells which connections stand.
    pub fn step(&mut self, connected: [bool; SLOTS]) -> Step {
        if let Some(step) = self.first.pop_front() {
            return step;
        }
        if let Some(slot) = self.short.iter().position(|short| *short) {
            self.short[slot] = false;
            return Step::Expire { slot };
        }
        let slot = self.rng.usize(..SLOTS);
        if !connected[slot] {
            return self.connect(slot);
        }
        if self.sequential.len() > MAX_SEQUENTIAL {
            return self.sweep(slot);
        }
        match self.rng.u32(..1000) {
            0..25 => self.alone(slot, OpCode::Auth.number()),
            25..30 => self.closing(slot),
            30..33 => self.bytes(slot),
            33..38 => Step::HangUp { slot },
            38..46 => Step::Close { slot },
            46..48 => self.let_expire(slot),
            48..60 => self.reattach(slot),
            60..90 => Step::Drain,
            90..100 => Step::Word(self.pick(&[
                "wchs", "wchc", "wchp", "dump", "mntr", "srvr", "ruok", "isro",
            ])),
            _ => self.batch(slot),
        }
    }

    /// Takes note of what a server answered to the step.
    pub fn learn(&mut self, seen: &[Seen]) {
        for seen in seen {
            let What::Reply {
                op,
                zxid,
                err,
                body,
                ..
            } = &seen.what
            else {
                continue;
            };
            self.zxid = self.zxid.max(*zxid);
            let creates = OpCode::try_from(*op).is_ok_and(|op| {
                use OpCode::{Create, Create2, CreateContainer, CreateTtl};
                matches!(op, Create | Create2 | CreateContainer | CreateTtl)
            });
            let path = body.split('"').nth(1).unwrap_or_default();
            let counted =
                path.len() > 10 && path.bytes().rev().take(10).all(|b| b.is_ascii_digit());
            if creates && err.0 == 0 && counted && !path.contains('\\') {
                self.sequential.push_back(path.to_owned());
            }
        }
    }

    /// Connections, and the znodes that most paths lead through.
    fn begin(&mut self) {
        for slot in 0..SLOTS {
            let session = self.label();
            self.first.push_back(Step::Connect {
                slot,
                session,
                ask: Ask {
                    reattach: false,
                    password: Password::Right,
                    timeout: LONG_TIMEOUT,
                    last_zxid_seen: 0,
                    read_only: Some(slot == 1),
                },
            });
        }
        let paths = [
            "/a",
            "/b",
            "/a/a",
            "/a/b",
            "/b/a",
            "/zookeeper/quota/a",
            "/zookeeper/quota/b",
        ];
        let mut requests: Vec<Request> = paths
            .iter()
            .map(|path| self.plain_create(path, b""))
            .collect();
        requests
            .push(self.plain_create("/zookeeper/quota/a/zookeeper_limits", b"count=9,bytes=50"));
        requests.push(self.plain_create("/zookeeper/quota/a/zookeeper_stats", b"count=0,bytes=0"));
        self.first.push_back(Step::Batch { slot: 0, requests });
    }

    fn plain_create(&mut self, path: &str, data: &[u8]) -> Request {
        let body = CreateRequest {
            path,
            data: Some(data),
            acl: Some(vec![Acl::world(Perms::ALL)]),
            flags: 0,
        };
        self.request(OpCode::Create.number(), body.to_vec())
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())]
    }

    /// True in `n` of 100 cases.
    fn chance(&mut self, n: u32) -> bool {
        self.rng.u32(..100) < n
    }

    fn label(&mut self) -> Label {
        let label = self.next_label;
        self.next_label += 1;
        self.labels.push(label);
        label
    }

    fn request(&mut self, op: i32, body: Vec<u8>) -> Request {
        self.next_xid += 1;
        let xid = match self.rng.u32(..200) {
            _ if op == OpCode::Ping.number() => self.pick(&[xid::PING, xid::PING, 5]),
            _ if op == OpCode::Auth.number() => self.pick(&[xid::AUTH, xid::AUTH, 5]),
            // -1 would make the reply look like an event.
            0 => self.pick(&[0, -2, -3, -4, -8, -1000, i32::MIN, i32::MAX]),
            1 => xid::SET_WATCHES,
            _ => self.next_xid,
        };
        Request { xid, op, body }
    }

    // ---- steps

    fn connect(&mut self, slot: usize) -> Step {
        let reattach = self.chance(40) && !self.labels.is_empty();
        let session = match reattach {
            true => self.labels[self.rng.usize(..self.labels.len())],
            false => self.label(),
        };
        if self.labels.len() > 12 {
            self.labels.remove(0);
        }
        let ask = self.ask(reattach);
        Step::Connect { slot, session, ask }
    }

    fn ask(&mut self, reattach: bool) -> Ask {
        let password = match self.rng.u32(..20) {
            0 if reattach => Password::Wrong,
            1 if reattach => Password::Short,
            2 => Password::Null,
            _ => Password::Right,
        };
        let last_zxid_seen = match self.rng.u32(..12) {
            0 => i64::MAX,
            1 => self.zxid + 1,
            2 => -1,
            3 => self.zxid,
            _ => 0,
        };
        Ask {
            reattach,
            password,
            timeout: match self.rng.u32(..8) {
                0 => i32::MAX,
                _ => LONG_TIMEOUT,
            },
            last_zxid_seen,
            read_only: self.pick(&[Some(false), Some(false), Some(true), None]),
        }
    }

    /// Moves a session that has a connection elsewhere, as a rule.
    fn reattach(&mut self, slot: usize) -> Step {
        let session = self.labels[self.rng.usize(..self.labels.len())];
        let ask = self.ask(true);
        self.first.push_back(Step::Connect { slot, session, ask });
        Step::HangUp { slot }
    }

    /// Replaces the session by one that is about to expire, with something to lose.
    fn let_expire(&mut self, slot: usize) -> Step {
        let session = self.label();
        let ask = Ask {
            timeout: self.pick(&[SHORT_TIMEOUT, SHORT_TIMEOUT, 0, -1, i32::MIN, 1]),
            last_zxid_seen: 0,
            password: Password::Right,
            ..self.ask(false)
        };
        self.short[slot] = true;
        self.first.push_back(Step::Connect { slot, session, ask });
        self.first.push_back(Step::Drain);
        let mut requests = Vec::new();
        for _ in 0..4 {
            let path = self.write_path();
            let body = fields(&[
                &path.as_str(),
                &Some(&b"mine"[..]),
                &vec![Acl::world(Perms::ALL)],
                &self.pick(&[1, 3]),
            ]);
            requests.push(self.request(OpCode::Create2.number(), body));
            requests.push(self.any_request());
        }
        self.first.push_back(Step::Batch { slot, requests });
        Step::Close { slot }
    }

    fn batch(&mut self, slot: usize) -> Step {
        let n = match self.rng.u32(..10) {
            0..3 => 1,
            3..6 => self.rng.usize(1..8),
            _ => self.rng.usize(8..80),
        };
        let mut requests = Vec::with_capacity(n);
        while requests.len() < n && !std::mem::take(&mut self.last_of_batch) {
            requests.push(self.any_request());
        }
        Step::Batch { slot, requests }
    }

    fn alone(&mut self, slot: usize, op: i32) -> Step {
        let body = self.body(op);
        let requests = vec![self.request(op, body)];
        Step::Batch { slot, requests }
    }

    /// A request that ends the connection.
    fn closing(&mut self, slot: usize) -> Step {
        let op = self.pick(&[
            OpCode::Notification.number(),
            OpCode::Error.number(),
            OpCode::CreateSession.number(),
            OpCode::DeleteContainer.number(),
            OpCode::Check.number(),
            UNKNOWN_OP,
            10,
            23,
            108,
            -12,
            i32::MIN,
            i32::MAX,
        ]);
        self.first.push_back(Step::Bytes {
            slot,
            bytes: Vec::new(),
        });
        self.alone(slot, op)
    }

    /// Bytes that are no frame, or a frame that is no request.
    fn bytes(&mut self, slot: usize) -> Step {
        let length = self.pick(&[-1, -2, i32::MIN, i32::MAX, 0x10_0000, 0x5000_0000, 0, 3, 7]);
        let mut bytes = length.to_be_bytes().to_vec();
        if (0..8).contains(&length) {
            bytes.resize(4 + length.unsigned_abs() as usize, 0);
        }
        Step::Bytes { slot, bytes }
    }

    /// Deletes most of the znodes whose names the server chose.
    fn sweep(&mut self, slot: usize) -> Step {
        let old: Vec<String> = self.sequential.drain(..MAX_SEQUENTIAL - 5).collect();
        let requests = old.iter().rev().map(|path| {
            let body = fields(&[&path.as_str(), &-1]);
            self.request(OpCode::Delete.number(), body)
        });
        Step::Batch {
            slot,
            requests: requests.collect(),
        }
    }

    // ---- requests

    fn any_request(&mut self) -> Request {
        use OpCode as Op;
        let op = match self.rng.u32(..1000) {
            0..90 => Op::Create,
            90..150 => Op::Create2,
            150..170 => Op::CreateContainer,
            170..200 => Op::CreateTtl,
            200..300 => Op::Delete,
            300..360 => Op::Exists,
            360..430 => Op::GetData,
            430..530 => Op::SetData,
            530..560 => Op::GetAcl,
            560..600 => Op::SetAcl,
            600..640 => Op::GetChildren,
            640..680 => Op::GetChildren2,
            680..690 => Op::Sync,
            690..705 => Op::Ping,
            705..800 => Op::Multi,
            800..830 => Op::MultiRead,
            830..833 => Op::Reconfig,
            833..865 => Op::CheckWatches,
            865..895 => Op::RemoveWatches,
            895..910 => Op::SetWatches,
            910..925 => Op::SetWatches2,
            925..940 => Op::GetEphemerals,
            940..955 => Op::GetAllChildrenNumber,
            955..992 => Op::AddWatch,
            _ => Op::WhoAmI,
        };
        let mut body = self.body(op.number());
        let writes = matches!(
            op,
            Op::Create | Op::Create2 | Op::CreateContainer | Op::CreateTtl
        ) || matches!(op, Op::Delete | Op::SetData | Op::Multi);
        if self.rng.u32(..60) == 0 {
            self.damage(&mut body, writes);
            self.last_of_batch |= op == Op::Multi;
        }
        self.last_of_batch |= op == Op::SetAcl || writes && self.enforces_quota;
        self.request(op.number(), body)
    }

    fn body(&mut self, op: i32) -> Vec<u8> {
        use OpCode as Op;
        let Ok(op) = OpCode::try_from(op) else {
            return fields(&[&self.path().as_deref(), &0]);
        };
        match op {
            Op::Create | Op::Create2 | Op::CreateContainer | Op::CreateTtl => self.create(op),
            Op::Delete | Op::Check => fields(&[&self.write_path().as_str(), &self.version()]),
            Op::Exists | Op::GetData | Op::GetChildren | Op::GetChildren2 => {
                let watch = self.chance(30);
                fields(&[&self.path().as_deref(), &watch])
            }
            Op::SetData => {
                let path = self.write_path();
                let data = self.data(&path);
                fields(&[&path.as_str(), &data.as_deref(), &self.version()])
            }
            Op::SetAcl => fields(&[&self.write_path().as_str(), &self.acl(), &self.version()]),
            Op::Sync => fields(&[&self.write_path().as_str()]),
            Op::GetAcl | Op::GetEphemerals | Op::DeleteContainer => {
                fields(&[&self.path().as_deref()])
            }
            // The empty path stands for the root; Apache's server counts the root then, too.
            Op::GetAllChildrenNumber => match self.path() {
                Some(path) if path.is_empty() => fields(&[&"/"]),
                path => fields(&[&path.as_deref()]),
            },
            Op::AddWatch => {
                let kind = self.pick(&[0, 0, 0, 1, 1, 1, 2, -1]);
                fields(&[&self.write_path().as_str(), &kind])
            }
            Op::CheckWatches | Op::RemoveWatches => {
                let kind = match self.pick(&[1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 0, 6, -1]) {
                    4 | 5 if self.reference < Version(3, 9, 0) => 3,
                    kind => kind,
                };
                fields(&[&self.write_path().as_str(), &kind])
            }
            Op::SetWatches => self.set_watches(3),
            Op::SetWatches2 => self.set_watches(5),
            Op::Multi => self.multi(false),
            Op::MultiRead => self.multi(true),
            Op::Auth => self.auth(),
            Op::Reconfig => ReconfigRequest {
                joining: None,
                leaving: Some("3"),
                new_members: None,
                config_id: -1,
            }
            .to_vec(),
            Op::CreateSession => 10_000.to_vec(),
            _ => Vec::new(),
        }
    }

    fn create(&mut self, op: OpCode) -> Vec<u8> {
        let path = match self.rng.u32(..300) {
            // Elsewhere Apache's server repeats it in its own encoding.
            0 => "/a/\u{1f600}".to_owned(),
            _ => self.write_path(),
        };
        let data = self.data(&path);
        let acl = self.acl();
        let flags = match op {
            _ if self.chance(4) => self.pick(&[-1, 7, 100, i32::MIN, i32::MAX]),
            _ if self.chance(4) => self.rng.i32(0..7),
            OpCode::CreateContainer => 4,
            OpCode::CreateTtl => self.pick(&[5, 6]),
            _ => self.pick(&[0, 0, 0, 0, 1, 1, 2, 3]),
        };
        let mut body = fields(&[&path.as_str(), &data.as_deref(), &acl, &flags]);
        if op == OpCode::CreateTtl {
            let ttl: i64 = match self.rng.u32(..12) {
                0 => 0,
                1 => -1,
                2 => i64::MAX,
                3 => 0xff_ffff_ffff,
                4 => 0x100_0000_0000,
                _ => 3_600_000,
            };
            // Apache's server ends at a transaction without a TTL, which it lets through if the
            // time is negative and the flags ask for another mode.
            if ttl < 0 && !(5..=6).contains(&flags) {
                return self.create(op);
            }
            ttl.encode(&mut body);
        }
        body
    }

    fn multi(&mut self, read: bool) -> Vec<u8> {
        let mut body = Vec::new();
        // One that ought to work, some of the time, and else anything.
        for _ in 0..self.rng.usize(..5) {
            let op = match self.rng.u32(..100) {
                0..2 => self.pick(&[4, 8, 3, 7, 9, 11, 14, 99, -1, 0, 20]),
                2..4 => self.pick(&[1, 5, 13, 12]),
                _ if read => self.pick(&[4, 8]),
                _ => self.pick(&[1, 1, 15, 15, 19, 21, 2, 2, 5, 5, 5, 13, 13]),
            };
            let header = MultiHeader {
                op,
                done: false,
                err: self.pick(&[-1, -1, -1, 0]),
            };
            header.encode(&mut body);
            self.in_multi = true;
            let operation = self.body(op);
            self.in_multi = false;
            self.last_of_batch |= !read && operation.starts_with(&(-1).to_vec());
            body.extend_from_slice(&operation);
        }
        if !self.chance(2) {
            MultiHeader::END.encode(&mut body);
        }
        body
    }

    fn set_watches(&mut self, lists: usize) -> Vec<u8> {
        let relative = match self.rng.u32(..6) {
            0 => 0,
            1 => i64::MAX,
            2 => -1,
            _ => self.zxid - self.rng.i64(0..60),
        };
        let mut body = relative.to_vec();
        let mut empty = true;
        for _ in 0..lists {
            // Apache's server looks at one list after the other, and stops at one that is null.
            if empty && self.chance(1) {
                (-1).encode(&mut body);
                continue;
            }
            let n = self.rng.usize(..4);
            let paths: Vec<String> = (0..n).filter_map(|_| self.path()).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            paths.encode(&mut body);
            empty &= paths.is_empty();
        }
        body
    }

    fn auth(&mut self) -> Vec<u8> {
        let (scheme, auth): (&str, Option<&[u8]>) = match self.rng.u32(..40) {
            0..12 => ("digest", Some(b"ann:1")),
            12..22 => ("digest", Some(b"bob:2")),
            22..32 => ("digest", Some(SUPER)),
            32 => ("digest", Some(b"no colon")),
            33 => ("digest", Some(b"")),
            34 => ("digest", Some(b"two:colons:x")),
            35 => ("ip", Some(b"10.1.2.3")),
            36 => ("ip", None),
            37 => ("world", Some(b"anyone")),
            38 => ("sasl", Some(b"ann")),
            _ => ("", Some(b"")),
        };
        AuthPacket {
            kind: self.pick(&[0, 0, 7]),
            scheme,
            auth,
        }
        .to_vec()
    }

    /// Makes a body undecodable, as a rule; either only its length changes, or fields may, too.
    fn damage(&mut self, body: &mut Vec<u8>, length_only: bool) {
        match self.rng.u32(..if length_only { 8 } else { 10 }) {
            0..6 => body.truncate(self.rng.usize(..=body.len())),
            6..8 => body.extend_from_slice(&[0, 0, 0, 1, 0xff]),
            // The length of the path. A text that is not UTF-8 is one that Apache's server reads
            // in its way and ours refuses to decode.
            _ if body.is_ascii() && body.len() >= 4 => {
                let value: i32 = self.pick(&[-2, 0, 1, i32::MAX, i32::MIN, 0x0010_0000]);
                body[..4].copy_from_slice(&value.to_be_bytes());
            }
            _ => body.clear(),
        }
    }

    // ---- fields

    /// A path for a write or a watch: never null, which Apache's server takes for the wrong argument here and
    /// for undecodable there, and ours for undecodable.
    fn write_path(&mut self) -> String {
        loop {
            if let Some(path) = self.path() {
                return path;
            }
        }
    }

    fn path(&mut self) -> Option<String> {
        let path: Cow<'static, str> = match self.rng.u32(..100) {
            0..30 => self.pick(&["/a", "/b", "/c"]).into(),
            30..60 => {
                let parent = self.pick(&["/a", "/b", "/c"]);
                format!("{parent}/{}", self.pick(&["a", "b", "c"])).into()
            }
            60..72 => {
                let parent = self.pick(&["/a/a", "/a/b", "/b/a"]);
                format!("{parent}/{}", self.pick(&["a", "b", "c"])).into()
            }
            72..84 if !self.sequential.is_empty() => {
                let i = self.rng.usize(..self.sequential.len());
                let path = self.sequential[i].clone();
                match self.chance(25) && path.len() < 60 {
                    true => format!("{path}/a").into(),
                    false => path.into(),
                }
            }
            84..88 => "/".into(),
            88..92 => self
                .pick(&[
                    "/zookeeper",
                    "/zookeeper/quota",
                    "/zookeeper/config",
                    "/zookeeper/quota/c",
                    "/zookeeper/x",
                ])
                .into(),
            92..95 => {
                let over = self.pick(&["a", "b", "a/a"]);
                let name = self.pick(&["zookeeper_limits", "zookeeper_stats"]);
                format!("/zookeeper/quota/{over}/{name}").into()
            }
            95..97 => self.odd_path()?,
            _ => self
                .pick(&["/a/é", "/b/日本", "/a/ ", "/a/..a", "/a/…"])
                .into(),
        };
        Some(path.into_owned())
    }

    /// Paths that servers refuse, or should look at closely.
    fn odd_path(&mut self) -> Option<Cow<'static, str>> {
        Some(match self.rng.u32(..25) {
            0 => return None,
            1 => "".into(),
            2 => "a".into(),
            3 => "/a/".into(),
            4 => "//a".into(),
            5 => "/a//b".into(),
            6 => "/a/.".into(),
            7 => "/a/..".into(),
            8 => "/./a".into(),
            9 => "/a/../b".into(),
            10 => "/a\0".into(),
            11 => "/a/\u{1}".into(),
            12 => "/a/\u{1f}x".into(),
            13 => "/a/\u{7f}".into(),
            14 => "/a/\u{9f}".into(),
            15 => "/a/\u{a0}".into(),
            16 => "/a/\u{d7ff}".into(),
            17 => "/a/\u{e000}".into(),
            18 => "/a/\u{f8ff}".into(),
            19 => "/a/\u{f900}".into(),
            20 => "/a/\u{ffef}".into(),
            21 => "/a/\u{fff0}".into(),
            22 => format!("/a/{}", "x".repeat(5000)).into(),
            23 => "/".repeat(9).into(),
            _ => "/a/b/".into(),
        })
    }

    fn data(&mut self, path: &str) -> Option<Vec<u8>> {
        // Apache's server ends at a text that it cannot parse.
        if path.contains("/zookeeper_") {
            let limits = self.pick(&[
                "count=3,bytes=-1",
                "count=-1,bytes=30",
                "count=2,bytes=10=;byteHardLimit=-1;countHardLimit=4",
                "count=2,bytes=10=;byteHardLimit=25;countHardLimit=-1",
                "count=-1,bytes=-1=;byteHardLimit=60;countHardLimit=9",
            ]);
            return Some(limits.into());
        }
        match self.rng.u32(..1000) {
            0..50 => None,
            50..100 => Some(Vec::new()),
            100..950 => {
                let n = self.rng.usize(1..12);
                Some((0..n).map(|_| self.rng.alphanumeric() as u8).collect())
            }
            950..998 => {
                let n = self.rng.usize(12..2000);
                Some((0..n).map(|_| self.rng.u8(..)).collect())
            }
            _ => {
                let n = self.pick(&[65_536, 300_000, 1_048_000]);
                Some(vec![self.rng.u8(..); n])
            }
        }
    }

    fn version(&mut self) -> i32 {
        match self.rng.u32(..20) {
            0..12 => -1,
            12..19 => self.rng.i32(0..4),
            _ => self.pick(&[-2, i32::MAX, i32::MIN]),
        }
    }

    fn acl(&mut self) -> Option<Vec<Acl<'static>>> {
        if self.chance(75) {
            return Some(vec![Acl::world(Perms::ALL)]);
        }
        if !self.in_multi && self.chance(2) {
            return None;
        }
        let n = self.pick(&[0, 1, 1, 1, 1, 1, 1, 2, 2, 3]);
        let mut acl: Vec<Acl<'static>> = (0..n).map(|_| self.acl_entry()).collect();
        if self.chance(10) {
            acl.extend_from_within(..);
        }
        Some(acl)
    }

    fn acl_entry(&mut self) -> Acl<'static> {
        let perms = match self.rng.u32(..10) {
            0..5 => 31,
            5..9 => self.rng.i32(1..32),
            _ => self.pick(&[0, 64, -1, 63, i32::MIN]),
        };
        // ann:1 and bob:2
        const ANN: &str = "ann:/z4T+iO8KvuCdw3Y3chpp6R6RTg=";
        const BOB: &str = "bob:PCGRUm8WFBmVOxjVyjYw7YBN8J8=";
        let (scheme, id) = match self.rng.u32(..40) {
            0..12 => ("world", "anyone"),
            12..18 => ("digest", ANN),
            18..23 => ("digest", BOB),
            23..27 => ("auth", self.pick(&["", "ignored"])),
            27..31 => (
                "ip",
                self.pick(&["127.0.0.1", "127.0.0.0/8", "127.0.0.0/31", "0.0.0.0/0"]),
            ),
            31 => ("ip", self.pick(&["10.0.0.0/8", "10.1.2.3", "128.0.0.1/1"])),
            32 => {
                let odd = [
                    "127.0.0.1/33",
                    "127.0.0.1/-1",
                    "127.0.0.1/",
                    "127.0.0.1/x",
                    "127.0.0.256",
                    "127.0.0",
                    "1.2.3.4.5",
                    "localhost",
                    "",
                ];
                ("ip", self.pick(&odd))
            }
            33 => ("ip", self.pick(&["::1", "fe80::/10", "::1/129", "::g"])),
            34 => (
                "digest",
                self.pick(&["ann", "ann:", ":x", "a:b:c", "", ":"]),
            ),
            35 => ("world", self.pick(&["nobody", "", "Anyone"])),
            36 => self.pick(&[
                ("sasl", "ann"),
                ("x509", "CN=ann"),
                ("super", ""),
                ("none", "x"),
            ]),
            37 => self.pick(&[("", ""), ("Digest", ANN), ("auth", "x")]),
            _ => ("world", "anyone"),
        };
        Acl::new(Perms(perms), scheme, id)
    }
}
