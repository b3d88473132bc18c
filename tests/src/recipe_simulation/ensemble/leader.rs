//! The leader: sessions, and requests that become transactions.

use bytes::Bytes;
use quorate_proto::jute::{Decode as _, Encode as _};
use quorate_proto::{OpCode, TxnEntry, VersionRequest};
use quorate_server::storage::log::record_body;
use quorate_server::tree::Node;
use quorate_server::txn::{Internal, Requester};

use super::{Ask, Ensemble, Event, Kind, Millis, Record, Session, TICK, Tell, Waiting};
use crate::recipe_simulation::executor::ProcessId;
use crate::recipe_simulation::reads::ConnId;

impl Ensemble {
    pub(super) fn asked(&mut self, server: usize, epoch: u32, id: ConnId, ask: Ask) {
        if epoch != self.epoch || self.leader.is_none() {
            // Nobody knows whether that leader had still heard of it.
            if !matches!(ask, Ask::Touch(_)) {
                self.close(id, "for its request got lost with a leader");
            }
            return;
        }
        match ask {
            Ask::Open(timeout) => {
                let session = self.next_session;
                self.next_session += 1;
                if let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) {
                    conn.session = session;
                    let xid = 0;
                    let (op, kind) = (OpCode::CreateSession, Kind::Write);
                    conn.waiting.push_back(Waiting { xid, op, kind });
                    let known = Session {
                        deadline: self.now + timeout.unsigned_abs() as Millis,
                        timeout,
                        owner: Some(id),
                    };
                    self.sessions.insert(session, known);
                    self.number(Some(id), session, 0, Internal::CreateSession(timeout));
                }
            }
            Ask::Resume(session) => {
                let tell = match self.sessions.get_mut(&session) {
                    None => Tell::Unknown,
                    Some(known) => {
                        known.owner = Some(id);
                        Tell::Resumed(session, known.timeout)
                    }
                };
                self.touch(session);
                let delay = self.delay();
                self.after(delay, Event::Told(id, tell));
            }
            Ask::Touch(session) => self.touch(session),
            Ask::Request(xid, op, body) => self.requested(server, id, xid, op, &body),
        }
    }

    fn requested(&mut self, server: usize, id: ConnId, xid: i32, op: OpCode, body: &[u8]) {
        let Some(session) = self.conns.get(&id).map(|conn| conn.session) else {
            return;
        };
        let owner = self.sessions.get(&session).and_then(|known| known.owner);
        if owner.is_some_and(|owner| owner != id) {
            let delay = self.delay();
            return self.after(delay, Event::Told(id, Tell::Moved));
        }
        match op {
            OpCode::Sync => {
                let zxid = match self.proposed.is_empty() {
                    true => self.truth.last_zxid(),
                    false => self.preparer.last_zxid(),
                };
                let delay = match self.leader == Some(server) {
                    true => 0,
                    false => self.delay(),
                };
                self.after(delay, Event::Told(id, Tell::Behind(xid, zxid)));
            }
            OpCode::CloseSession => {
                self.sessions.remove(&session);
                self.number(Some(id), session, xid, Internal::CloseSession);
            }
            op => {
                let mut record = Vec::new();
                let requester = self.requester(session, xid);
                let zxid = self
                    .preparer
                    .prepare(&self.truth, requester, op, body, &mut record);
                match zxid {
                    Some(_) => self.propose(Some(id), &record),
                    None => self.close(id, "for a request that cannot be read"),
                }
            }
        }
    }

    fn requester(&self, session: i64, cxid: i32) -> Requester<'static> {
        Requester {
            session,
            cxid,
            ids: &[],
            time: self.time_of_day().cast_signed(),
            local: false,
        }
    }

    fn number(&mut self, origin: Option<ConnId>, session: i64, cxid: i32, write: Internal<'_>) {
        let mut record = Vec::new();
        let requester = self.requester(session, cxid);
        self.preparer
            .prepare_internal(&self.truth, requester, write, &mut record);
        self.propose(origin, &record);
    }

    fn propose(&mut self, origin: Option<ConnId>, record: &[u8]) {
        let bytes = Bytes::copy_from_slice(record_body(record));
        self.proposed.push_back(Record { bytes, origin });
        let delay = self.delay();
        self.commit_due = self.commit_due.max(self.now + delay);
        let (due, epoch) = (self.commit_due, self.epoch);
        self.at(due, Event::Commit(epoch));
    }

    pub(super) fn touch(&mut self, session: i64) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.deadline = self.now + known.timeout.unsigned_abs() as Millis;
        }
    }

    /// The session of a process, if the leader knows it.
    fn session_of(&self, process: ProcessId) -> Option<i64> {
        self.leader?;
        let mut conns = self.conns.values().rev();
        let conn = conns.find(|conn| conn.process == process && conn.session != 0)?;
        self.sessions
            .contains_key(&conn.session)
            .then_some(conn.session)
    }

    /// Ends the session of a process, as an operator can.
    pub fn expire_session(&mut self, process: ProcessId) {
        if let Some(session) = self.session_of(process) {
            self.sessions.remove(&session);
            self.note(|| format!("session {session:x} is ended"));
            self.number(None, session, 0, Internal::CloseSession);
        }
    }

    /// Deletes the ephemeral znodes of a process, as an operator can, but for what it keeps for
    /// itself.
    pub fn evict(&mut self, process: ProcessId) {
        let Some(session) = self.session_of(process) else {
            return;
        };
        let owned = self.truth.ephemerals(session).map(Node::path);
        let owned = owned.filter(|path| !path.starts_with("/quorate/"));
        let mut owned: Vec<String> = owned.map(str::to_owned).collect();
        owned.sort_unstable();
        for path in owned {
            let (mut body, mut record) = (Vec::new(), Vec::new());
            VersionRequest {
                path: &path,
                version: -1,
            }
            .encode(&mut body);
            let operator = Requester {
                local: true,
                ..self.requester(0, 0)
            };
            let (preparer, truth) = (&mut self.preparer, &self.truth);
            preparer.prepare(truth, operator, OpCode::Delete, &body, &mut record);
            self.propose(None, &record);
        }
    }

    pub(super) fn expire(&mut self) {
        self.after(TICK, Event::Expire);
        if self.leader.is_none() {
            return;
        }
        let late = self.sessions.iter();
        let late = late.filter(|(_, known)| known.deadline < self.now);
        for session in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.sessions.remove(&session);
            self.note(|| format!("session {session:x} expires"));
            self.number(None, session, 0, Internal::CloseSession);
        }
    }

    pub(super) fn commit(&mut self) {
        let Some(record) = self.proposed.pop_front() else {
            return;
        };
        let bytes = record.bytes.clone();
        let Ok(entry) = TxnEntry::from_slice(&bytes) else {
            return;
        };
        self.truth.apply(&entry.header, &entry.txn, &mut ());
        self.preparer.applied(entry.header.zxid);
        self.trace
            .note(self.now * 1_000, || format!("committed: {entry:?}"));
        self.committed.push(record);
        self.fresh.push(bytes);
        for server in 0..self.servers.len() {
            let lag = match self.leader == Some(server) {
                true => 0,
                false => self.rng.u64(0..=self.habits.lag),
            };
            let following = &mut self.servers[server];
            following.apply_due = following.apply_due.max(self.now + lag);
            let due = following.apply_due;
            self.at(due, Event::Apply(server));
        }
    }
}
