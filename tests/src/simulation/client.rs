//! Clients: each has a session, asks this and that, and moves on when it is not answered.

use std::ops::Range;

use fastrand::Rng;
use quorate_proto::CreateMode;

use super::Micros;
use super::checker::Checked;
use super::model::Op;
use super::network::Lane;
use super::plan::MILLI;
use super::service::{Ask, ConnId, Tell};
use super::world::{Conn, Event, World};

/// How long a client waits for an answer before it tries another member.
pub const PATIENCE: Micros = 1_200_000;
/// Requests that a client has under way at most.
const WINDOW: usize = 3;
/// The kinds of requests that change nothing.
const READS: Range<u8> = 58..99;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Client {
    /// Its connection.
    pub conn: Option<ConnId>,
    /// Whether the connection is in a session already.
    pub connected: bool,
    /// Its session, if it has one.
    pub session: Option<i64>,
    /// The newest transaction that it was told of.
    pub seen: i64,
    /// The number of its last request.
    pub cxid: i32,
    /// Requests that are not answered yet.
    pub waiting: Vec<i32>,
    /// When it was answered last, or began to wait.
    pub heard: Micros,
    /// It only reads as long as there are faults: a leader that nobody asks to write anything has
    /// nothing that tells it of another.
    pub reads: bool,
    /// It asks no more.
    pub content: bool,
    /// Writes that it was acknowledged since the faults ended.
    pub writes: u32,
}

impl Client {
    /// What it asks next, if it has not asked enough for now.
    pub fn next(&mut self, unique: u64, healed: bool, rng: &mut Rng) -> Option<(i32, Op)> {
        if !self.connected || self.waiting.len() >= WINDOW || self.content {
            return None;
        }
        if self.waiting.is_empty() || rng.u8(..) < 100 {
            self.cxid += 1;
            self.waiting.push(self.cxid);
            let kinds = if self.reads && !healed { READS } else { 0..100 };
            return Some((self.cxid, draw(unique, rng.u8(kinds), rng)));
        }
        None
    }

    /// The connection is gone, and what was asked on it has no answer.
    pub fn disconnect(&mut self) {
        self.conn = None;
        self.connected = false;
        self.waiting.clear();
    }
}

fn draw(data: u64, kind: u8, rng: &mut Rng) -> Op {
    let top = |rng: &mut Rng| format!("/{}", rng.char('a'..='c'));
    let path = |rng: &mut Rng| match rng.bool() {
        true => top(rng),
        false => format!("{}/{}", top(rng), rng.char('x'..='z')),
    };
    // A version that a znode may well have.
    let version = |rng: &mut Rng| if rng.bool() { -1 } else { rng.i32(0..4) };
    match kind {
        0..25 => Op::Create {
            path: path(rng),
            data,
            mode: match rng.u8(..4) {
                0 => CreateMode::Ephemeral,
                1 => CreateMode::PersistentSequential,
                _ => CreateMode::Persistent,
            },
        },
        25..45 => Op::Set {
            path: path(rng),
            data,
            version: version(rng),
        },
        45..58 => Op::Delete {
            path: path(rng),
            version: version(rng),
        },
        58..80 => Op::Get { path: path(rng) },
        80..90 => Op::Children { path: top(rng) },
        90..99 => Op::Sync,
        _ => Op::Close,
    }
}

impl World {
    pub(super) fn client_acts(&mut self, at: usize) {
        let delay = self.rng.u64(MILLI..=self.plan.thinks.max(2 * MILLI));
        self.after(delay, Event::Client(at));
        let patience = self.clients[at].heard + PATIENCE < self.now;
        let client = &mut self.clients[at];
        let waits = !client.connected || !client.waiting.is_empty();
        let moves_on = (patience && waits) || self.rng.u16(..) < 200;
        match client.conn {
            Some(conn) if moves_on => {
                client.disconnect();
                self.ask(conn, Ask::Leave);
            }
            Some(conn) => {
                self.next_data += 1;
                let session = client.session.unwrap_or_default();
                let healed = self.healed.is_some();
                let mut next = client.next(self.next_data, healed, &mut self.rng);
                if let Some((_, op)) = &mut next
                    && let Some(change) = self.changes.pop_front()
                    && let Some(reconfig) = self.draw_reconfig(change)
                {
                    *op = reconfig;
                }
                if let Some((cxid, op)) = next {
                    let client = &mut self.clients[at];
                    if client.waiting.len() == 1 {
                        client.heard = self.now;
                    }
                    self.trace.note(self.now, || {
                        format!("client {at} asks {session:x}/{cxid} {op:?}")
                    });
                    self.history.asked(conn, session, cxid, op.clone());
                    self.ask(conn, Ask::Request(cxid, op));
                }
            }
            None if client.content && client.session.is_some() => {}
            None => self.client_connects(at),
        }
    }

    pub(super) fn client_connects(&mut self, at: usize) {
        let member = self.rng.usize(..self.members.len());
        if !self.members[member].is_up() {
            return;
        }
        let id = self.next_conn;
        self.next_conn += 1;
        let client = &mut self.clients[at];
        client.conn = Some(id);
        client.heard = self.now;
        let connect = Ask::Connect(client.session, client.seen);
        let conn = Conn {
            client: at,
            member,
            life: self.members[member].life,
            asks: Lane::default(),
            tells: Lane::default(),
        };
        self.conns.insert(id, conn);
        self.ask(id, connect);
    }

    pub(super) fn ask(&mut self, id: ConnId, ask: Ask) {
        let due = self.now + self.net.delay(&mut self.rng);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.asks.push(due, ask);
        if let Some(due) = conn.asks.arm() {
            self.at(due, Event::Ask(id));
        }
    }

    pub(super) fn tell(&mut self, id: ConnId, tell: Tell) {
        let due = self.now + self.net.delay(&mut self.rng);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.tells.push(due, tell);
        if let Some(due) = conn.tells.arm() {
            self.at(due, Event::Tell(id));
        }
    }

    pub(super) fn ask_arrives(&mut self, id: ConnId) -> Checked {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return Ok(());
        };
        let (member, life) = (conn.member, conn.life);
        if self.postponed(member, Event::Ask(id)) {
            return Ok(());
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return Ok(());
        };
        conn.asks.disarm();
        if let Some(ask) = conn.asks.pop(now)
            && self.process(member, life).is_some()
        {
            let leaves = matches!(ask, Ask::Leave);
            self.serve(member, |service, tree, now, wishes| {
                service.ask(id, ask, tree, now, wishes);
            })?;
            if leaves {
                self.conns.remove(&id);
            }
        }
        if let Some(due) = self.conns.get_mut(&id).and_then(|conn| conn.asks.arm()) {
            self.at(due, Event::Ask(id));
        }
        Ok(())
    }

    pub(super) fn tell_arrives(&mut self, id: ConnId) -> Checked {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return Ok(());
        };
        let at = conn.client;
        conn.tells.disarm();
        if let Some(tell) = conn.tells.pop(now)
            && self.clients[at].conn == Some(id)
        {
            self.client_hears(at, id, tell)?;
        }
        if let Some(due) = self.conns.get_mut(&id).and_then(|conn| conn.tells.arm()) {
            self.at(due, Event::Tell(id));
        }
        Ok(())
    }

    pub(super) fn client_hears(&mut self, at: usize, id: ConnId, tell: Tell) -> Checked {
        self.trace
            .note(self.now, || format!("client {at} hears {tell:?}"));
        let healed = self.healed.is_some();
        let client = &mut self.clients[at];
        client.heard = self.now;
        match tell {
            Tell::Connected(session, zxid) => {
                self.history.connected(session, zxid)?;
                client.session = Some(session);
                client.seen = client.seen.max(zxid);
                client.connected = true;
            }
            Tell::Expired => {
                client.disconnect();
                (client.session, client.seen) = (None, 0);
                self.ask(id, Ask::Leave);
            }
            Tell::Closed => {
                client.disconnect();
                self.conns.remove(&id);
            }
            Tell::Reply(cxid, zxid, answer) => {
                client.waiting.retain(|waiting| *waiting != cxid);
                client.seen = client.seen.max(zxid);
                let session = client.session.unwrap_or_default();
                let chain = &self.checker.chain;
                let wrote = self.history.answered(session, cxid, zxid, answer, chain)?;
                if healed && wrote {
                    client.writes += 1;
                    client.content = client.writes >= 3;
                }
            }
        }
        Ok(())
    }
}
