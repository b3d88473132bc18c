//! The servers' trees, and what becomes of servers.

use std::collections::BTreeMap;

use quorate_proto::jute::Decode as _;
use quorate_proto::{EventType, Txn, TxnEntry};
use quorate_server::tree::{AclList, Applied, Observer};

use super::{Conn, Ensemble, Event, Kind, Record, Server, Waiting};
use crate::recipe_simulation::answers::reply;
use crate::recipe_simulation::reads::{self, ConnId};

/// Gathers what happens to znodes.
#[derive(Default)]
struct Gathered(Vec<(EventType, String)>);

impl Observer for Gathered {
    fn changed(&mut self, event: EventType, path: &str, _: &AclList) {
        self.0.push((event, path.to_owned()));
    }
}

impl Ensemble {
    pub(super) fn apply(&mut self, at: usize) {
        let server = &mut self.servers[at];
        if !server.up || server.cut {
            return;
        }
        let Some(Record { bytes, origin }) = self.committed.get(server.applied).cloned() else {
            return;
        };
        server.applied += 1;
        let Ok(entry) = TxnEntry::from_slice(&bytes) else {
            return;
        };
        let (zxid, session) = (entry.header.zxid, entry.header.session_id);
        let mut gathered = Gathered::default();
        let applied = server.tree.apply(&entry.header, &entry.txn, &mut gathered);
        let mut events: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
        for (kind, path) in gathered.0 {
            server.watches.fire(kind, &path, |conn| {
                reads::event(events.entry(*conn).or_default(), zxid, kind, &path);
            });
        }
        for (conn, events) in events {
            self.tell(conn, events);
        }
        if let Some(origin) = origin {
            self.reply_to(at, origin, &entry, &applied);
        }
        // What waits for this transaction, or for the answer to it.
        let here = |(_, conn): &(&ConnId, &Conn)| conn.server == at && conn.open;
        let conns = self.conns.iter().filter(here).map(|(id, _)| *id);
        for id in conns.collect::<Vec<_>>() {
            self.answer(id);
            let of_session = self.conns.get(&id).map(|conn| conn.session);
            if matches!(entry.txn, Txn::CloseSession(_)) && of_session == Some(session) {
                self.close(id, "for its session is over");
            }
        }
    }

    /// Answers who asked for a transaction, if that was asked of this server.
    fn reply_to(&mut self, at: usize, id: ConnId, entry: &TxnEntry<'_>, applied: &Applied) {
        let (session, xid) = (entry.header.session_id, entry.header.cxid);
        let conn = self.conns.get_mut(&id);
        let conn = conn.filter(|conn| conn.server == at && conn.open);
        let asked = |front: &mut Waiting| matches!(front.kind, Kind::Write) && front.xid == xid;
        let waiting = conn.and_then(|conn| conn.waiting.pop_front_if(asked));
        let Some(Waiting { op, .. }) = waiting else {
            return;
        };
        if let Txn::CreateSession(opened) = &entry.txn {
            return self.accept(id, session, opened.timeout);
        }
        if self.chance(self.habits.loses_reply) {
            return self.close(id, "with a reply");
        }
        let mut out = Vec::new();
        reply(&mut out, entry, op, applied, xid);
        self.tell(id, out);
    }

    pub(super) fn catch_up(&mut self, server: usize) {
        while self.servers[server].applied < self.committed.len() {
            let before = self.servers[server].applied;
            self.apply(server);
            if self.servers[server].applied == before {
                return;
            }
        }
    }

    fn close_all(&mut self, server: usize, why: &str) {
        let here = self.conns.iter().filter(|(_, conn)| conn.server == server);
        for id in here.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(id, why);
        }
        self.servers[server].held.clear();
    }

    /// Ends a server's process.
    pub fn crash(&mut self, server: usize) {
        self.note(|| format!("server {server} crashes"));
        self.servers[server].up = false;
        self.close_all(server, "for its server has crashed");
        if self.leader == Some(server) {
            self.depose();
        }
    }

    /// Cuts a server off from the leader. It goes on to answer what it can, if it `lingers`.
    pub fn isolate(&mut self, server: usize, lingers: bool) {
        if self.leader == Some(server) {
            self.depose();
        }
        self.note(|| format!("server {server} is cut off"));
        self.servers[server].cut = true;
        self.lose_leader(server);
        if !lingers {
            self.leave_alone(server);
        }
    }

    /// A server that is cut off notices that: it serves nobody, or only reads from then on.
    fn leave_alone(&mut self, server: usize) {
        let reads = self.habits.read_only;
        let alone = &mut self.servers[server];
        (alone.refuses, alone.reads) = (!reads, reads);
        self.close_all(server, "for its server is cut off");
    }

    /// Lets a server take no new connections, or take them again.
    pub fn refuse(&mut self, server: usize, refuses: bool) {
        self.note(|| format!("server {server} refuses connections: {refuses}"));
        self.servers[server].refuses = refuses;
    }

    /// Makes everything well that is wrong with a server.
    pub fn mend(&mut self, server: usize) {
        self.note(|| format!("server {server} is well"));
        if std::mem::take(&mut self.servers[server].reads) {
            self.close_all(server, "for its server writes again");
        }
        let mended = &mut self.servers[server];
        (mended.up, mended.cut, mended.refuses) = (true, false, false);
        mended.apply_due = self.now;
        self.catch_up(server);
        self.ask_held(server);
    }

    /// Makes everything well.
    pub fn heal(&mut self) {
        self.note(|| "everything heals");
        self.habits = self.habits.calm();
        self.blocked.clear();
        for server in 0..self.servers.len() {
            self.mend(server);
        }
        if self.leader.is_none() {
            self.after(0, Event::Elect);
        }
    }

    /// Does a server lead, or is there one that can when one fails?
    pub fn spare(&self, server: usize) -> bool {
        let well = |(at, other): (usize, &Server)| at == server || (other.up && !other.cut);
        self.servers.iter().enumerate().all(well)
    }
}
