//! The network, as clients see it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Conn, Ensemble, Event, Millis};
use crate::recipe_simulation::executor::ProcessId;
use crate::recipe_simulation::reads::ConnId;

/// From a client to a server, and back.
const UP: usize = 0;
const DOWN: usize = 1;

impl Ensemble {
    /// How long a process takes to reach a server, or is kept from it.
    pub fn way(&mut self, process: ProcessId, server: usize) -> Millis {
        let delay = self.delay();
        // Who is content with less is told at once, and tries the next server.
        match self.habits.read_only {
            true => delay,
            false => self.blocked_until(process, server).saturating_sub(self.now) + delay,
        }
    }

    fn blocked_until(&self, process: ProcessId, server: usize) -> Millis {
        let blocked = self.blocked.get(&(process, server));
        blocked.map_or(0, |[up, down]| *up.max(down))
    }

    /// Connects, unless the server does not want to, or cannot be reached.
    pub fn connect(&mut self, process: ProcessId, server: usize) -> Option<ConnId> {
        let target = self.servers.get(server)?;
        if !target.up || target.refuses || self.blocked_until(process, server) > self.now {
            return None;
        }
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            process,
            server,
            delivered: [self.now; 2],
            inbox: VecDeque::new(),
            ended: false,
            reader: None,
            open: true,
            reset: false,
            input: Vec::new(),
            greeted: false,
            read_only: false,
            session: 0,
            waiting: VecDeque::new(),
        };
        self.conns.insert(id, conn);
        self.note(|| format!("c{id}: process {process} connects to server {server}"));
        Some(id)
    }

    /// Sends bytes from the client's end.
    pub fn send(&mut self, id: ConnId, bytes: &[u8]) {
        self.note(|| format!("c{id} sends {}", Hex(bytes)));
        let event = Event::Up(id, Bytes::copy_from_slice(bytes));
        self.deliver(id, UP, event);
    }

    /// The client's end is gone.
    pub fn hang_up(&mut self, id: ConnId) {
        self.deliver(id, UP, Event::UpEnds(id));
    }

    pub(super) fn send_down(&mut self, id: ConnId, event: Event) {
        self.deliver(id, DOWN, event);
    }

    /// Lets something arrive, behind whatever was sent before it in the same direction.
    fn deliver(&mut self, id: ConnId, direction: usize, event: Event) {
        let delay = self.delay();
        if let Some(conn) = self.conns.get_mut(&id) {
            let blocked = self.blocked.get(&(conn.process, conn.server));
            let open = blocked.map_or(0, |until| until[direction]);
            let delivered = &mut conn.delivered[direction];
            *delivered = (*delivered).max(self.now.max(open) + delay);
            let when = *delivered;
            self.at(when, event);
        }
    }

    /// Lets nothing pass between a process and a server for a while, in one direction or both.
    pub fn block(&mut self, process: ProcessId, server: usize, up: Millis, down: Millis) {
        let until = [self.now + up, self.now + down];
        self.blocked.insert((process, server), until);
        self.note(|| format!("process {process} and server {server}: cut for {up} and {down} ms"));
    }

    /// Cuts one connection of a process, if it has one.
    pub fn cut(&mut self, process: ProcessId) {
        let mut conns = self.conns.iter();
        let of = conns.find(|(_, conn)| conn.process == process && conn.open);
        if let Some(id) = of.map(|(id, _)| *id) {
            self.close(id, "by the network");
        }
    }
}

impl Conn {
    pub(super) fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Bytes, short.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
