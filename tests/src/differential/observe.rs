//! What a server answers, with everything masked that may differ between two servers.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_proto::jute::{Decode, DecodeError, Encode, Reader};
use quorate_proto::{
    Acl, ConnectRequest, ConnectResponse, Create2Response, CreateResponse, ErrorCode,
    ErrorResponse, EventType, GetAclResponse, GetAllChildrenNumberResponse, GetChildren2Response,
    GetChildrenResponse, GetDataResponse, GetEphemeralsResponse, MultiResponse, MultiResult,
    OpCode, PathRecord, Stat, StatResponse, WhoAmIResponse, xid,
};

use super::generate::LONG_TIMEOUT;
use super::program::{Ask, Label, Password, Request, SLOTS, Step, data, hex};
use crate::process::{ServerProcess, word};
use crate::raw::{Message, RawClient, Session};

/// The longest wait for an answer; what takes longer is told as silence.
const PATIENCE: Duration = Duration::from_secs(15);

/// What one of the connections has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which connection.
    pub slot: usize,
    /// What came.
    pub what: What,
}

/// What came from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The answer to a handshake.
    Granted(String),
    /// The answer to a request.
    Reply {
        /// The request's opcode.
        op: i32,
        /// From the header.
        xid: i32,
        /// From the header.
        zxid: i64,
        /// From the header.
        err: ErrorCode,
        /// The body in words.
        body: String,
    },
    /// A watch event.
    Event {
        /// From the header.
        zxid: i64,
        /// What happened.
        kind: EventType,
        /// To which znode.
        path: String,
    },
    /// Text, such as the answer to a four-letter word.
    Text(String),
    /// Bytes that are neither a reply nor an event, or an answer that says what cannot be.
    Nonsense(String),
    /// The server hung up.
    Closed,
    /// Nothing came within the deadline.
    Silent,
}

impl Seen {
    /// Sorts the events of a connection, and leaves them in front of its reply.
    fn event_first(&self) -> (usize, bool, String) {
        let event = matches!(self.what, What::Event { .. });
        (self.slot, !event, self.to_string())
    }
}

impl What {
    /// The same without what follows the header of a reply.
    pub fn without_body(&self) -> What {
        let mut what = self.clone();
        if let What::Reply { body, .. } = &mut what {
            body.clear();
        }
        what
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] ", self.slot)?;
        match &self.what {
            What::Granted(text) => write!(f, "handshake: {text}"),
            What::Reply {
                op,
                xid,
                zxid,
                err,
                body,
            } => {
                let name = super::program::op_name(*op);
                write!(
                    f,
                    "reply to {name}: xid {xid}, zxid {zxid:#x}, {err:?} {body}"
                )
            }
            What::Event { zxid, kind, path } => write!(f, "{kind:?} {path:?}, zxid {zxid:#x}"),
            What::Text(text) => f.write_str(text),
            What::Nonsense(text) => write!(f, "nonsense: {text}"),
            What::Closed => f.write_str("closed"),
            What::Silent => f.write_str("silent"),
        }
    }
}

/// One of the two servers, with its end of every connection of the program.
pub struct Side {
    /// The server.
    pub server: ServerProcess,
    /// Replaces the opcodes that only servers may send by one that nobody knows.
    ///
    /// Apache's server executes createSession and deleteContainer for clients; we refuse them as
    /// we refuse what we do not know (spec: client protocol, section 4). Executing them would make
    /// the two trees differ, so that server gets an opcode that it refuses too.
    pub replaces_internal: bool,
    slots: [Option<(Label, RawClient)>; SLOTS],
    sessions: HashMap<Label, Session>,
    masks: Masks,
    /// What was read while something was sent.
    early: Vec<Seen>,
}

/// An opcode that no server knows.
pub const UNKNOWN_OP: i32 = 99;

impl Side {
    /// A server that runs already, without connections.
    pub fn new(server: ServerProcess, replaces_internal: bool) -> Self {
        Side {
            server,
            replaces_internal,
            slots: Default::default(),
            sessions: HashMap::new(),
            masks: Masks::new(),
            early: Vec::new(),
        }
    }

    /// Is there a connection in the slot?
    pub fn connected(&self, slot: usize) -> bool {
        self.slots[slot].is_some()
    }

    fn expires(&self, slot: usize) -> bool {
        let timeout = self.slots[slot]
            .as_ref()
            .map(|(_, client)| client.session().timeout);
        timeout.is_some_and(|timeout| timeout < LONG_TIMEOUT)
    }

    /// The names of the sessions.
    pub fn masks(&mut self) -> &mut Masks {
        &mut self.masks
    }

    /// Does a step as far as it needs no answer, so that the other server can work meanwhile.
    pub fn begin(&mut self, step: &Step) {
        match step {
            Step::Connect { slot, session, ask } => self.begin_connect(*slot, *session, ask),
            Step::Batch { slot, requests } => self.send(*slot, requests),
            Step::Bytes { slot, bytes } => {
                if let Some((_, client)) = &mut self.slots[*slot] {
                    // A server that hangs up early is seen when its answer is read.
                    let _ = client.send(bytes);
                }
            }
            // Its session would end at a time of its own.
            Step::HangUp { slot } if self.expires(*slot) => {}
            Step::HangUp { slot } => self.slots[*slot] = None,
            Step::Close { slot } => {
                self.drain_all();
                let request = Request {
                    xid: i32::MAX,
                    op: OpCode::CloseSession.number(),
                    body: Vec::new(),
                };
                self.send(*slot, &[request]);
            }
            Step::Expire { .. } | Step::Drain | Step::Word(_) => {}
        }
    }

    /// Does the rest of the step, and answers all that was seen.
    pub fn finish(&mut self, step: &Step) -> Vec<Seen> {
        let mut seen = std::mem::take(&mut self.early);
        match step {
            Step::Connect { slot, session, ask } => {
                self.finish_connect(*slot, *session, ask, &mut seen);
            }
            Step::Batch { slot, requests } => self.read_replies(*slot, requests, &mut seen),
            Step::Bytes { slot, .. } => self.read_to_end(*slot, &mut seen),
            Step::HangUp { slot } if !self.expires(*slot) => {}
            Step::Close { slot } => {
                let request = Request {
                    xid: i32::MAX,
                    op: OpCode::CloseSession.number(),
                    body: Vec::new(),
                };
                if self.connected(*slot) {
                    let before = seen.len();
                    self.read_replies(*slot, &[request], &mut seen);
                    seen[before..].sort_by_key(Seen::event_first);
                    self.read_to_end(*slot, &mut seen);
                    self.drain_unordered(&mut seen);
                }
            }
            Step::Expire { slot } | Step::HangUp { slot } => {
                if self.connected(*slot) {
                    let before = seen.len();
                    self.read_to_end(*slot, &mut seen);
                    // Whether the session still hears of its own end is a matter of luck.
                    let end = seen.split_off(before);
                    seen.extend(
                        end.into_iter()
                            .filter(|s| !matches!(s.what, What::Event { .. })),
                    );
                    self.drain_unordered(&mut seen);
                }
            }
            Step::Drain => {
                self.drain_all();
                seen.append(&mut self.early);
            }
            Step::Word(name) => seen.push(Seen {
                slot: 0,
                what: self.word(name),
            }),
        }
        seen
    }

    fn begin_connect(&mut self, slot: usize, label: Label, ask: &Ask) {
        let known = self.sessions.get(&label);
        if self.connected(slot) || ask.reattach != known.is_some() {
            return;
        }
        // The connection that holds the session is about to be closed; what was sent to it before
        // could be lost with it.
        for other in 0..SLOTS {
            if self.slots[other].as_ref().is_some_and(|(l, _)| *l == label) {
                self.drain(other);
            }
        }
        let known = self.sessions.get(&label);
        let id = known.map_or(0, |session| session.id);
        let mut password = known.map_or(vec![0; 16], |session| session.password.clone());
        match ask.password {
            Password::Wrong => password[7] ^= 0x10,
            Password::Short => password.truncate(15),
            Password::Right | Password::Null => {}
        }
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: ask.last_zxid_seen,
            timeout: ask.timeout,
            session_id: id,
            password: (ask.password != Password::Null).then_some(&password),
            read_only: ask.read_only,
        };
        match RawClient::open(self.server.address()) {
            Ok(mut client) => {
                client.set_patience(PATIENCE);
                // A server that hangs up early is seen when its answer is read.
                let _ = client.send_frame(&request.to_vec());
                self.slots[slot] = Some((label, client));
            }
            Err(error) => self.early.push(Seen {
                slot,
                what: What::Nonsense(error.to_string()),
            }),
        }
    }

    fn finish_connect(&mut self, slot: usize, label: Label, ask: &Ask, seen: &mut Vec<Seen>) {
        // A slot that was taken before holds another session, or the step was done already.
        let Some((_, client)) = self.slots[slot]
            .as_mut()
            .filter(|(l, client)| *l == label && client.session().timeout == 0)
        else {
            return;
        };
        let answer = client.read_frame();
        let (what, granted) = self.masks.handshake(&answer, label, ask);
        seen.push(Seen { slot, what });
        let closed_silently = matches!(answer, Ok(None));
        match granted {
            Some(session) => {
                if let Some((_, client)) = &mut self.slots[slot] {
                    client.set_session(session.clone());
                }
                self.sessions.insert(label, session);
            }
            None if closed_silently => self.slots[slot] = None,
            None => self.read_to_end(slot, seen),
        }
        for other in (0..SLOTS).filter(|other| *other != slot) {
            if self.slots[other].as_ref().is_some_and(|(l, _)| *l == label) {
                if closed_silently {
                    self.drain(other);
                    seen.append(&mut self.early);
                } else {
                    self.read_to_end(other, seen);
                }
            }
        }
    }

    fn send(&mut self, slot: usize, requests: &[Request]) {
        let Some((_, client)) = &mut self.slots[slot] else {
            return;
        };
        let internal = [OpCode::CreateSession, OpCode::DeleteContainer].map(OpCode::number);
        let mut out = Vec::new();
        for request in requests {
            let replaced = self.replaces_internal && internal.contains(&request.op);
            let op = if replaced { UNKNOWN_OP } else { request.op };
            quorate_proto::frame::write(&mut out, |out| {
                request.xid.encode(out);
                op.encode(out);
                out.extend_from_slice(&request.body);
            });
        }
        // A server that hangs up early is seen when its answer is read.
        let _ = client.send(&out);
    }

    /// Reads one reply a request, and the events before and between them.
    fn read_replies(&mut self, slot: usize, requests: &[Request], seen: &mut Vec<Seen>) {
        let mut ops = requests.iter().map(|request| request.op);
        let mut next = ops.next();
        while let Some(op) = next {
            let what = match self.read(slot, op) {
                Some(what) => what,
                None => return,
            };
            if matches!(what, What::Reply { .. } | What::Nonsense(_)) {
                next = ops.next();
            }
            seen.push(Seen { slot, what });
        }
    }

    /// Reads until the server hangs up.
    fn read_to_end(&mut self, slot: usize, seen: &mut Vec<Seen>) {
        while let Some(what) = self.read(slot, OpCode::Notification.number()) {
            seen.push(Seen { slot, what });
        }
    }

    /// Reads one thing; `op` is what a reply would answer. `None` without a connection; the
    /// connection is gone once the end or silence was read.
    fn read(&mut self, slot: usize, op: i32) -> Option<What> {
        let (_, client) = self.slots[slot].as_mut()?;
        let what = match client.read() {
            Ok(Message::Reply(header, body)) => What::Reply {
                op,
                xid: header.xid,
                zxid: header.zxid,
                err: header.err,
                body: self.masks.body(op, header.err, &body),
            },
            Ok(Message::Event(zxid, kind, path)) => What::Event { zxid, kind, path },
            Ok(Message::Closed) => What::Closed,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => What::Silent,
            Err(error) => What::Nonsense(error.to_string()),
        };
        if matches!(what, What::Closed | What::Silent | What::Nonsense(_)) {
            self.slots[slot] = None;
        }
        Some(what)
    }

    /// Reads what was sent to a connection so far: it is there before the reply to a ping is.
    fn drain(&mut self, slot: usize) {
        let ping = Request {
            xid: xid::PING,
            op: OpCode::Ping.number(),
            body: Vec::new(),
        };
        self.send(slot, std::slice::from_ref(&ping));
        let mut seen = std::mem::take(&mut self.early);
        self.read_replies(slot, &[ping], &mut seen);
        self.early = seen;
    }

    fn drain_all(&mut self) {
        for slot in 0..SLOTS {
            self.drain(slot);
        }
    }

    /// The events of a closed session, whose znodes go in an order that servers choose.
    fn drain_unordered(&mut self, seen: &mut Vec<Seen>) {
        self.drain_all();
        let mut events = std::mem::take(&mut self.early);
        events.sort_by_key(Seen::event_first);
        seen.append(&mut events);
    }

    fn word(&mut self, name: &str) -> What {
        match word(self.server.address(), name) {
            Ok(text) => What::Text(self.masks.word(name, &text)),
            Err(error) => What::Nonsense(error.to_string()),
        }
    }
}

/// Names for what differs between servers, and checks of what cannot be compared.
pub struct Masks {
    labels: HashMap<i64, Label>,
    /// The time of every transaction that a stat has shown.
    times: HashMap<i64, i64>,
    started: i64,
}

impl Masks {
    fn new() -> Self {
        Masks {
            labels: HashMap::new(),
            times: HashMap::new(),
            started: now(),
        }
    }

    /// Gives a session a name.
    pub fn name(&mut self, id: i64, label: Label) {
        self.labels.insert(id, label);
    }

    /// The session's name, or its id if nobody gave it one.
    pub fn session(&self, id: i64) -> String {
        match self.labels.get(&id) {
            Some(label) => format!("s{label}"),
            None => format!("{id:#x}"),
        }
    }

    fn handshake(
        &mut self,
        answer: &io::Result<Option<Vec<u8>>>,
        label: Label,
        ask: &Ask,
    ) -> (What, Option<Session>) {
        let frame = match answer {
            Ok(Some(frame)) => frame,
            Ok(None) => return (What::Closed, None),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return (What::Silent, None),
            Err(error) => return (What::Nonsense(error.to_string()), None),
        };
        let Ok(answer) = ConnectResponse::from_slice(frame) else {
            return (What::Nonsense(hex(frame)), None);
        };
        let password = answer.password.unwrap_or_default();
        let granted = (answer.timeout > 0).then(|| Session {
            id: answer.session_id,
            password: password.to_vec(),
            timeout: answer.timeout,
        });
        if granted.is_some() && !ask.reattach {
            self.name(answer.session_id, label);
        }
        let text = format!(
            "session {}, password of {} bytes{}, timeout {}, read only {:?}, protocol {}, {} bytes",
            self.session(answer.session_id),
            password.len(),
            if password.iter().all(|b| *b == 0) {
                ", zeros"
            } else {
                ""
            },
            answer.timeout,
            answer.read_only,
            answer.protocol_version,
            frame.len(),
        );
        (What::Granted(text), granted)
    }

    /// The body of a reply in words.
    fn body(&mut self, op: i32, err: ErrorCode, body: &[u8]) -> String {
        if err != ErrorCode::OK {
            return hex(body);
        }
        let mut reader = Reader::new(body);
        match self.decode(op, &mut reader) {
            Ok(text) if reader.is_empty() => text,
            Ok(text) => format!("{text}, and {} behind it", hex(reader.remaining())),
            Err(error) => format!("{error}: {}", hex(body)),
        }
    }

    fn decode(&mut self, op: i32, reader: &mut Reader<'_>) -> Result<String, DecodeError> {
        let Ok(op) = OpCode::try_from(op) else {
            return Ok(String::new());
        };
        Ok(match op {
            OpCode::Create => format!("{:?}", reader.read::<CreateResponse<'_>>()?.path),
            OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                let Create2Response { path, stat } = reader.read()?;
                format!("{path:?} {}", self.stat(&stat))
            }
            OpCode::Exists | OpCode::SetData | OpCode::SetAcl => {
                self.stat(&reader.read::<StatResponse>()?.stat)
            }
            OpCode::GetData | OpCode::Reconfig => {
                let GetDataResponse { data: bytes, stat } = reader.read()?;
                format!("{} {}", data(bytes), self.stat(&stat))
            }
            OpCode::GetChildren => set(reader.read::<GetChildrenResponse<'_>>()?.children),
            OpCode::GetChildren2 => {
                let GetChildren2Response { children, stat } = reader.read()?;
                format!("{} {}", set(children), self.stat(&stat))
            }
            OpCode::GetAcl => {
                let GetAclResponse { acl, stat } = reader.read()?;
                format!("{} {}", acl_set(&acl), self.stat(&stat))
            }
            OpCode::Sync => format!("{:?}", reader.read::<PathRecord<'_>>()?.path),
            OpCode::GetAllChildrenNumber => reader
                .read::<GetAllChildrenNumberResponse>()?
                .total
                .to_string(),
            OpCode::GetEphemerals => set(reader.read::<GetEphemeralsResponse<'_>>()?.paths),
            OpCode::AddWatch => format!("{:?}", reader.read::<ErrorResponse>()?.err),
            OpCode::WhoAmI => set(reader
                .read::<WhoAmIResponse<'_>>()?
                .infos
                .iter()
                .map(|info| format!("{}:{}", info.scheme, info.user))
                .collect()),
            OpCode::Multi | OpCode::MultiRead => self.multi(&reader.read()?),
            _ => String::new(),
        })
    }

    fn multi(&mut self, response: &MultiResponse<'_>) -> String {
        let mut text = String::from("{");
        for result in &response.results {
            let _ = match result {
                MultiResult::Create(r) => write!(text, " Create {:?};", r.path),
                MultiResult::Create2(r) => {
                    write!(text, " Create2 {:?} {};", r.path, self.stat(&r.stat))
                }
                MultiResult::Delete => write!(text, " Delete;"),
                MultiResult::SetData(r) => write!(text, " SetData {};", self.stat(&r.stat)),
                MultiResult::Check => write!(text, " Check;"),
                MultiResult::GetData(r) => {
                    write!(text, " GetData {} {};", data(r.data), self.stat(&r.stat))
                }
                MultiResult::GetChildren(r) => {
                    write!(text, " GetChildren {};", set(r.children.clone()))
                }
                MultiResult::Error(code) => write!(text, " Error {code:?};"),
            };
        }
        text + " }"
    }

    /// A stat without its times, which are checked instead: all stats of a server must tell the
    /// same time for the same transaction, within the time of the program.
    pub fn stat(&mut self, stat: &Stat) -> String {
        let mut text = format!(
            "c={:x} m={:x} p={:x} v={} cv={} av={} owner={} len={} kids={}",
            stat.czxid,
            stat.mzxid,
            stat.pzxid,
            stat.version,
            stat.cversion,
            stat.aversion,
            self.session(stat.ephemeral_owner),
            stat.data_length,
            stat.num_children,
        );
        for (zxid, time) in [(stat.czxid, stat.ctime), (stat.mzxid, stat.mtime)] {
            if *self.times.entry(zxid).or_insert(time) != time {
                let _ = write!(text, " TWO TIMES FOR {zxid:#x}");
            }
            let plausible = match zxid {
                0 => time == 0,
                _ => time >= self.started && time <= now(),
            };
            if !plausible {
                let _ = write!(text, " TIME {time} FOR {zxid:#x}");
            }
        }
        text
    }

    /// Of a four-letter word's answer what two servers must agree on.
    fn word(&self, name: &str, text: &str) -> String {
        let lines = text.lines();
        match name {
            "srvr" => lines
                .filter(|line| {
                    ["Zxid", "Mode", "Node count"]
                        .iter()
                        .any(|key| line.starts_with(key))
                })
                .collect::<Vec<_>>()
                .join("\n"),
            "mntr" => lines
                .filter(|line| {
                    ["zk_znode_count", "zk_ephemerals_count", "zk_watch_count"]
                        .iter()
                        .any(|key| line.starts_with(key))
                })
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join("\n"),
            // Sessions that had ephemerals once may be listed with none.
            "dump" => {
                self.groups(lines.filter(|line| line.starts_with("0x") || line.starts_with("\t/")))
            }
            "wchc" | "wchp" => self.groups(lines),
            _ => text.to_owned(),
        }
    }

    /// Lines in groups, each a line and the lines behind it that begin with a tab: in no order.
    fn groups<'a>(&self, lines: impl Iterator<Item = &'a str>) -> String {
        let mut groups: Vec<(String, BTreeSet<String>)> = Vec::new();
        for line in lines {
            match (line.strip_prefix('\t'), groups.last_mut()) {
                (Some(member), Some((_, members))) => {
                    members.insert(self.rename(member));
                }
                _ => groups.push((self.rename(line), BTreeSet::new())),
            }
        }
        groups.retain(|(_, members)| !members.is_empty());
        groups.sort();
        let lines = groups.iter().map(|(head, members)| {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            format!("{head} {}\n", members.join(" "))
        });
        lines.collect()
    }

    /// The line with its session id replaced by the session's name, if that is what it is.
    fn rename(&self, line: &str) -> String {
        let id = line.trim_end_matches(':').strip_prefix("0x");
        match id.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            Some(id) => self.session(id.cast_signed()),
            None => line.to_owned(),
        }
    }
}

/// A list that has no order.
fn set<T: fmt::Display + Ord>(mut items: Vec<T>) -> String {
    items.sort_unstable();
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", ").escape_debug())
}

/// An ACL; `auth` stands for identities that are in no order.
pub fn acl_set(acl: &[Acl<'_>]) -> String {
    set(acl
        .iter()
        .map(|acl| format!("{}:{}:{}", acl.id.scheme, acl.id.id, acl.perms.0))
        .collect())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
