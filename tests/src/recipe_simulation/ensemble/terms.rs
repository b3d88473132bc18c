//! How a leader ends, and another one begins.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::OpCode;
use quorate_server::txn::Preparer;
use quorate_server::zab::zxid_of;

use super::{Ask, Ensemble, Event, Kind, Millis, Session, Waiting, rules};

impl Ensemble {
    /// The leader is gone; so much of what it has proposed is kept by the next one.
    pub fn depose(&mut self) {
        let kept = self.rng.usize(0..=self.proposed.len());
        let lost = self.proposed.len() - kept;
        self.note(|| format!("no leader: {kept} proposals kept, {lost} lost"));
        for _ in 0..kept {
            self.commit();
        }
        self.proposed.clear();
        self.leader = None;
        self.epoch += 1;
        for server in 0..self.servers.len() {
            self.lose_leader(server);
        }
        let (least, most) = self.habits.election;
        let delay = self.rng.u64(least..=most);
        self.after(delay, Event::Elect);
    }

    /// A server does not hear from a leader any more: what it has asked has an unknown end.
    pub(super) fn lose_leader(&mut self, server: usize) {
        let keeps = self.habits.keeps_connections;
        let mut uncertain = Vec::new();
        let mut again = Vec::new();
        for (id, conn) in &self.conns {
            if conn.server != server || !conn.open {
                continue;
            }
            let write = |waiting: &Waiting| matches!(waiting.kind, Kind::Write);
            if !keeps || conn.session == 0 || conn.waiting.iter().any(write) {
                uncertain.push(*id);
            } else {
                let syncs = conn.waiting.iter();
                let syncs = syncs.filter(|waiting| matches!(waiting.kind, Kind::Sync(_)));
                again.extend(syncs.map(|waiting| (*id, waiting.xid)));
            }
        }
        for id in uncertain {
            self.close(id, "for its server has lost its leader");
        }
        let again = again.into_iter();
        let again = again.map(|(id, xid)| (id, Ask::Request(xid, OpCode::Sync, Bytes::new())));
        self.servers[server].held.extend(again);
    }

    pub(super) fn elect(&mut self) {
        let able = |server: &usize| self.servers[*server].up && !self.servers[*server].cut;
        let able: Vec<usize> = (0..self.servers.len()).filter(able).collect();
        if able.is_empty() || self.leader.is_some() {
            return;
        }
        let leader = able[self.rng.usize(..able.len())];
        self.leader = Some(leader);
        self.preparer = Preparer::behind(zxid_of(self.epoch, 0), &self.truth, rules());
        let mut sessions = BTreeMap::new();
        for (id, timeout) in self.truth.sessions() {
            let deadline = self.now + timeout.unsigned_abs() as Millis;
            let owner = self.sessions.get(&id).and_then(|known| known.owner);
            let known = Session {
                deadline,
                timeout,
                owner,
            };
            sessions.insert(id, known);
        }
        self.sessions = sessions;
        let epoch = self.epoch;
        self.note(|| format!("server {leader} leads epoch {epoch}"));
        self.catch_up(leader);
        for server in 0..self.servers.len() {
            self.ask_held(server);
        }
    }

    pub(super) fn ask_held(&mut self, server: usize) {
        for (id, ask) in std::mem::take(&mut self.servers[server].held) {
            self.ask(server, id, ask);
        }
    }
}
