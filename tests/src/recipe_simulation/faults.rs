//! How everybody behaves in a run, and what goes wrong when.

use super::ensemble::Millis;

/// How servers and the network behave at a time.
#[derive(Debug, Clone)]
pub struct Habits {
    /// How long a message takes, from the shortest to the longest.
    pub delay: (Millis, Millis),
    /// How far a follower may be behind.
    pub lag: Millis,
    /// How long it takes to elect a leader.
    pub election: (Millis, Millis),
    /// A connection is cut with a request that does not take effect.
    pub loses_request: f64,
    /// A connection is cut with the answer to a write that took effect.
    pub loses_reply: f64,
    /// Servers keep the connections of clients without a write of unknown end when a leader fails.
    pub keeps_connections: bool,
    /// Nobody ends sessions by hand, and leaders hear of sessions at once: who goes by the clock is
    /// right.
    pub honest: bool,
    /// Servers that are cut off go on as servers that only read, and clients are content with them.
    pub read_only: bool,
}

impl Habits {
    /// How they behave when all is well.
    pub fn calm(&self) -> Self {
        Habits {
            delay: (1, 3),
            lag: 5,
            election: (100, 200),
            loses_request: 0.0,
            loses_reply: 0.0,
            ..self.clone()
        }
    }
}

/// What goes wrong for a while. Processes are named by their places, servers by theirs.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A process does nothing.
    Pause(usize),
    /// A process dies; another takes its place when the fault ends.
    Kill(usize),
    /// Nothing gets from a process to a server for the first time, or back for the second.
    Block(usize, usize, Millis, Millis),
    /// A process loses its connection.
    Cut(usize),
    /// The session of a process is ended.
    EndSession(usize),
    /// An operator deletes what a process has in the tree, which does nothing for a while.
    Evict(usize),
    /// The leader changes.
    Depose,
    /// A server dies.
    Crash(usize),
    /// A server is cut off from the others; it may go on serving for a while.
    Isolate(usize, bool),
    /// A server takes no connections.
    Refuse(usize),
}

/// A run, as its seed has it.
#[derive(Debug)]
pub struct Plan {
    /// Servers.
    pub servers: usize,
    /// The timeout of sessions.
    pub session: Millis,
    /// When everything heals.
    pub trouble: Millis,
    /// How everybody behaves before.
    pub habits: Habits,
    /// When each fault begins, how long it lasts, and what it is.
    pub faults: Vec<(Millis, Millis, Fault)>,
}

impl Plan {
    /// Draws a run with so many processes.
    pub fn draw(rng: &mut fastrand::Rng, slots: usize) -> Self {
        let servers = 3;
        let session = rng.u64(1_000..4_000);
        let trouble = rng.u64(4_000..15_000);
        let honest = rng.bool();
        let often = [0.0, 0.01, 0.05][rng.usize(..3)];
        let delay = [(1, 2), (1, 10), (1, 60)][rng.usize(..3)];
        let habits = Habits {
            delay,
            lag: [2, 50, 500][rng.usize(..3)],
            election: (100, 1_500),
            loses_request: often * rng.f64(),
            loses_reply: often,
            keeps_connections: rng.bool(),
            honest,
            read_only: false,
        };
        let count = rng.usize(0..8);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let begins = rng.u64(500..trouble);
                let (lasts, fault) = draw_fault(rng, slots, servers, session, honest);
                (begins, lasts, fault)
            })
            .collect();
        faults.sort_by_key(|(begins, ..)| *begins);
        Plan {
            servers,
            session,
            trouble,
            habits,
            faults,
        }
    }

    /// Cuts off more servers, which only read then, and leaves some of so many processes to them.
    pub fn with_readers(mut self, rng: &mut fastrand::Rng, slots: usize) -> Self {
        self.habits.read_only = true;
        for _ in 0..rng.usize(1..6) {
            let begins = rng.u64(500..self.trouble);
            let lasts = rng.u64(100..self.session * 5 / 2);
            let (slot, reader) = (rng.usize(..slots), rng.usize(..self.servers));
            let cut_off = Fault::Isolate(reader, false);
            self.faults.push((begins, lasts, cut_off));
            for server in (0..self.servers).filter(|server| *server != reader) {
                let unreachable = Fault::Block(slot, server, lasts, lasts);
                self.faults.push((begins, lasts, unreachable));
            }
            self.faults.push((begins, lasts, Fault::Cut(slot)));
        }
        self.faults.sort_by_key(|(begins, ..)| *begins);
        self
    }
}

fn draw_fault(
    rng: &mut fastrand::Rng,
    slots: usize,
    servers: usize,
    session: Millis,
    honest: bool,
) -> (Millis, Fault) {
    let (slot, server) = (rng.usize(..slots), rng.usize(..servers));
    let long = session * 5 / 2;
    let lasts = rng.u64(100..long);
    let fault = match rng.u32(..20) {
        0..4 => Fault::Pause(slot),
        4..6 => Fault::Kill(slot),
        6..9 => {
            let (up, down) = [(lasts, lasts), (lasts, 0), (0, lasts)][rng.usize(..3)];
            Fault::Block(slot, server, up, down)
        }
        9..11 => Fault::Cut(slot),
        11 if !honest => Fault::EndSession(slot),
        12 if !honest => Fault::Evict(slot),
        11..15 => Fault::Depose,
        15..17 => Fault::Crash(server),
        17..19 => Fault::Isolate(server, !honest && rng.bool()),
        _ => Fault::Refuse(server),
    };
    (lasts, fault)
}
