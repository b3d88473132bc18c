//! The servers' ends of connections: what is asked on them, and when it is answered.

use bytes::Bytes;
use quorate_proto::jute::{Decode as _, Encode as _, Reader};
use quorate_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, OpCode, ReplyHeader, RequestHeader, frame,
};
use quorate_server::session::password;

use super::{Ask, Ensemble, Event, Kind, Tell, Waiting};
use crate::recipe_simulation::reads::{Answerer, ConnId, is_local};

/// What is asked of a server without a session: whether it only reads.
const READS_ONLY: &[u8] = b"isro";
/// A frame that is longer is none.
const MAX_FRAME: usize = 1 << 20;

impl Ensemble {
    pub(super) fn close(&mut self, id: ConnId, why: &str) {
        let drops = self.rng.bool();
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        conn.open = false;
        conn.reset = drops;
        conn.waiting.clear();
        conn.input = Vec::new();
        let server = conn.server;
        self.servers[server].watches.remove_watcher(id);
        self.note(|| format!("c{id} is closed {why}"));
        self.send_down(id, Event::DownEnds(id));
    }

    pub(super) fn up_arrives(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        conn.input.extend_from_slice(bytes);
        if !conn.greeted && conn.input == READS_ONLY {
            return self.say_whether_it_reads_only(id);
        }
        let input = std::mem::take(&mut conn.input);
        let mut at = 0;
        while let Ok(Some(whole)) = frame::split(&input[at..], MAX_FRAME) {
            at += frame::LENGTH_SIZE + whole.len();
            self.take(id, whole);
        }
        if let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) {
            conn.input = input[at..].to_vec();
        }
    }

    fn take(&mut self, id: ConnId, whole: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        let server = conn.server;
        if !std::mem::replace(&mut conn.greeted, true) {
            return self.greet(id, server, whole);
        }
        let (session, read_only) = (conn.session, conn.read_only);
        let mut reader = Reader::new(whole);
        let header: Result<RequestHeader, _> = reader.read();
        let Some((header, op)) = header
            .ok()
            .and_then(|header| Some((header, OpCode::try_from(header.op).ok()?)))
        else {
            return self.close(id, "for what is no request");
        };
        let body = Bytes::copy_from_slice(reader.remaining());
        if op != OpCode::Ping && self.chance(self.habits.loses_request) {
            return self.close(id, "with a request");
        }
        self.ask(server, id, Ask::Touch(session));
        let kind = match op {
            _ if is_local(op) => Kind::Local(body.clone()),
            _ if read_only => Kind::Refused,
            OpCode::Sync => Kind::Sync(None),
            _ => Kind::Write,
        };
        if matches!(kind, Kind::Write | Kind::Sync(_)) {
            self.ask(server, id, Ask::Request(header.xid, op, body));
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            let xid = header.xid;
            conn.waiting.push_back(Waiting { xid, op, kind });
        }
        self.answer(id);
    }

    fn greet(&mut self, id: ConnId, server: usize, whole: &[u8]) {
        let Ok(request) = ConnectRequest::from_slice(whole) else {
            return self.close(id, "for what is no greeting");
        };
        if request.last_zxid_seen > self.servers[server].tree.last_zxid() {
            return self.close(id, "by a server that lags behind its client");
        }
        if self.servers[server].reads {
            return self.greet_reader(id, server, &request);
        }
        let ask = match request.session_id {
            0 => Ask::Open(request.timeout),
            session => Ask::Resume(session),
        };
        self.ask(server, id, ask);
    }

    /// A server that only reads opens sessions that nobody else knows. It may go on with one that
    /// the ensemble knows or has known, which it cannot tell.
    fn greet_reader(&mut self, id: ConnId, server: usize, request: &ConnectRequest<'_>) {
        let tree = &self.servers[server].tree;
        let session = match request.session_id {
            0 => self.next_session,
            session if tree.session_timeout(session).is_some() && self.rng.bool() => session,
            _ => return self.close(id, "for its session may not live"),
        };
        if request.read_only != Some(true) {
            return self.close(id, "by a server that only reads");
        }
        self.next_session = self.next_session.max(session + 1);
        self.note(|| format!("c{id} only reads, as session {session:x}"));
        if let Some(conn) = self.conns.get_mut(&id) {
            (conn.session, conn.read_only) = (session, true);
        }
        self.accept(id, session, request.timeout);
    }

    fn say_whether_it_reads_only(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let answer = match self.servers[conn.server].reads {
            true => b"ro",
            false => b"rw",
        };
        self.tell(id, answer.to_vec());
        self.close(id, "after a question");
    }

    /// Asks the leader, or keeps that until there is one.
    pub(super) fn ask(&mut self, server: usize, id: ConnId, ask: Ask) {
        let delay = if self.leader == Some(server) {
            0
        } else {
            self.delay()
        };
        let asking = &mut self.servers[server];
        if self.leader.is_none() || asking.cut {
            if !matches!(ask, Ask::Touch(_)) {
                asking.held.push((id, ask));
            }
            return;
        }
        // Where clients may trust in clocks, a leader hears of sessions at once.
        if let (Ask::Touch(session), true) = (&ask, self.habits.honest) {
            return self.touch(*session);
        }
        asking.ask_due = asking.ask_due.max(self.now + delay);
        let due = asking.ask_due;
        self.at(due, Event::Asked(server, self.epoch, id, ask));
    }

    pub(super) fn told(&mut self, id: ConnId, tell: Tell) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
            return;
        };
        match tell {
            Tell::Resumed(session, timeout) => {
                conn.session = session;
                self.accept(id, session, timeout);
            }
            Tell::Unknown => {
                self.accept(id, 0, 0);
                self.close(id, "for its session is over");
            }
            Tell::Moved => self.close(id, "for its session is elsewhere"),
            Tell::Behind(xid, zxid) => {
                let mut waiting = conn.waiting.iter_mut();
                if let Some(waiting) = waiting.find(|waiting| waiting.xid == xid) {
                    waiting.kind = Kind::Sync(Some(zxid));
                }
                self.answer(id);
            }
        }
    }

    pub(super) fn accept(&mut self, id: ConnId, session_id: i64, timeout: i32) {
        let password = password(session_id);
        let read_only = self.conns.get(&id).is_some_and(|conn| conn.read_only);
        let mut out = Vec::new();
        frame::write(&mut out, |out| {
            ConnectResponse {
                protocol_version: 0,
                timeout,
                session_id,
                password: Some(&password),
                read_only: Some(read_only),
            }
            .encode(out);
        });
        self.tell(id, out);
    }

    pub(super) fn tell(&mut self, id: ConnId, bytes: Vec<u8>) {
        self.send_down(id, Event::Down(id, bytes.into()));
    }

    /// Answers what nothing has to be waited for any more.
    pub(super) fn answer(&mut self, id: ConnId) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else {
                return;
            };
            let server = &mut self.servers[conn.server];
            let ready = match conn.waiting.front().map(|waiting| &waiting.kind) {
                Some(Kind::Local(_) | Kind::Refused) => true,
                Some(Kind::Sync(Some(zxid))) => *zxid <= server.tree.last_zxid(),
                _ => false,
            };
            let Some(waiting) = conn.waiting.pop_front_if(|_| ready) else {
                return;
            };
            let mut out = Vec::new();
            match waiting.kind {
                Kind::Local(body) => Answerer {
                    tree: &server.tree,
                    watches: &mut server.watches,
                    conn: id,
                    session: conn.session,
                }
                .answer(waiting.op, waiting.xid, &body, &mut out),
                kind => frame::write(&mut out, |out| {
                    let (xid, zxid) = (waiting.xid, server.tree.last_zxid());
                    let err = match kind {
                        Kind::Refused => ErrorCode::NOT_READ_ONLY,
                        _ => ErrorCode::OK,
                    };
                    ReplyHeader { xid, zxid, err }.encode(out);
                    if err == ErrorCode::OK {
                        "/".encode(out);
                    }
                }),
            }
            self.tell(id, out);
        }
    }
}
