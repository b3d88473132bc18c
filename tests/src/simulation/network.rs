//! What lies between the members: connections that keep order, delay, and break.
//!
//! Like TCP, a connection loses something only by ending, and then everything behind it too. A cut
//! holds back what is sent in its direction until it heals, or until the connection is given up.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use quorate_server::zab::election::Notification;
use quorate_server::zab::{Link, Packet};

use super::Micros;
use super::member::Dump;
use super::plan::Ports;

/// Something under way in one direction, in order.
#[derive(Debug)]
pub struct Lane<T> {
    queue: VecDeque<(Micros, T)>,
    /// Nothing arrives earlier: what is sent later never overtakes.
    earliest: Micros,
    /// An event is scheduled for the head.
    armed: bool,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            queue: VecDeque::new(),
            earliest: 0,
            armed: false,
        }
    }
}

impl<T> Lane<T> {
    /// Sends something that may arrive at `due`.
    pub fn push(&mut self, due: Micros, item: T) {
        self.earliest = self.earliest.max(due);
        self.queue.push_back((self.earliest, item));
    }

    /// Puts something in front of everything else.
    pub fn push_front(&mut self, due: Micros, item: T) {
        self.queue.push_front((due, item));
    }

    /// When an event for the head has to be scheduled, if none is.
    #[must_use]
    pub fn arm(&mut self) -> Option<Micros> {
        let (due, _) = self.queue.front()?;
        (!std::mem::replace(&mut self.armed, true)).then_some(*due)
    }

    /// The event has come.
    pub fn disarm(&mut self) {
        self.armed = false;
    }

    /// What has arrived by now.
    pub fn pop(&mut self, now: Micros) -> Option<T> {
        let (due, _) = self.queue.front()?;
        if *due > now {
            return None;
        }
        self.queue.pop_front().map(|(_, item)| item)
    }

    /// The next to arrive.
    pub fn front(&self) -> Option<&T> {
        self.queue.front().map(|(_, item)| item)
    }

    /// The one sent last, if it has not arrived.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.queue.back_mut().map(|(_, item)| item)
    }

    /// Loses everything but the first `kept`.
    pub fn truncate(&mut self, kept: usize) {
        self.queue.truncate(kept);
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Is nothing under way?
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Everything that is under way.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.queue.iter_mut().map(|(_, item)| item)
    }
}

/// What goes over a connection of the quorum port.
#[derive(Debug)]
pub enum Load {
    /// The connection itself, on its way to the one that accepts it.
    Open,
    /// The word that it was accepted.
    Opened,
    /// A packet.
    Packet(Packet),
    /// The beginning of a tree, once it is dumped.
    Tree(Option<Box<Dump>>),
    /// The rest of it.
    Rest(Box<Dump>),
    /// Once it arrives, the sender is told that everything in front of it has gone out.
    Mark,
    /// The end of the connection.
    End,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Whose.
    pub member: usize,
    /// Of which of its processes.
    pub life: u64,
    /// Its number there; none until it is accepted.
    pub link: Option<Link>,
    /// It was neither closed here, nor has the word come that it was closed there.
    pub open: bool,
}

/// The number of a connection.
pub type WireId = u64;

/// A connection of the quorum port. What end 0 sends is on lane 0.
#[derive(Debug)]
pub struct Wire {
    /// First who connects, then who accepts.
    pub ends: [End; 2],
    /// What is under way from each end.
    pub lanes: [Lane<Load>; 2],
    /// The learner holds back what comes, and the word that the connection is over, until it has
    /// installed a tree.
    pub installing: bool,
}

impl Wire {
    /// Nothing more comes from an end.
    pub fn end(&mut self, end: usize, due: Micros) {
        if !matches!(self.lanes[end].back_mut(), Some(Load::End)) {
            self.lanes[end].push(due, Load::End);
        }
    }

    /// Has what is sent from an end to wait, whatever the network does?
    pub fn waits(&self, from: usize) -> bool {
        (self.installing && from == 1) || matches!(self.lanes[from].front(), Some(Load::Tree(None)))
    }

    /// Is something under way that a member has said?
    pub fn brings_word_of(&self, member: usize) -> bool {
        let mut ends = self.ends.iter().zip(&self.lanes);
        ends.any(|(end, lane)| end.member == member && !lane.is_empty())
    }

    /// Does nobody wait for anything any more?
    pub fn is_over(&self) -> bool {
        let closed = self.ends.iter().all(|end| !end.open);
        closed && !self.installing && self.lanes.iter().all(Lane::is_empty)
    }
}

/// A connection of the election port, between two members.
#[derive(Debug, Default)]
pub struct VotePair {
    /// Is there a connection?
    pub up: bool,
    /// From the member with the smaller number, and from the other.
    pub lanes: [Lane<Notification>; 2],
    /// What each sent last: it is sent again over a new connection.
    pub last: [Option<Notification>; 2],
}

/// Everything between the members.
#[derive(Debug)]
pub struct Network {
    /// Connections of quorum ports.
    pub wires: BTreeMap<WireId, Wire>,
    next_wire: WireId,
    /// Connections of election ports, by the two members, the smaller one first.
    pub votes: BTreeMap<(usize, usize), VotePair>,
    /// How many cuts there are from one member to another, of the quorum port and of the election
    /// port.
    cuts: Vec<Vec<[u32; 2]>>,
    /// The shortest and the longest time that anything takes.
    latency: (Micros, Micros),
    /// Times the latency, while the network is slow.
    pub slowness: u64,
}

impl Network {
    /// The network of some members.
    pub fn new(members: usize, latency: (Micros, Micros)) -> Self {
        let pairs = (0..members).flat_map(|a| (a + 1..members).map(move |b| (a, b)));
        Network {
            wires: BTreeMap::new(),
            next_wire: 0,
            votes: pairs.map(|pair| (pair, VotePair::default())).collect(),
            cuts: vec![vec![[0; 2]; members]; members],
            latency,
            slowness: 1,
        }
    }

    /// How long something takes this time: mostly little.
    pub fn delay(&self, rng: &mut Rng) -> Micros {
        let (least, most) = self.latency;
        let longest = if rng.u8(..) < 8 { most * 20 } else { most };
        rng.u64(least..=longest) * self.slowness
    }

    /// Is what `from` sends to the quorum port of `to`, or from its own, held back?
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to][0] > 0
    }

    /// Are the votes held back that `from` sends to `to`?
    pub fn votes_are_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to][1] > 0
    }

    /// Cuts one direction, or takes back one cut.
    pub fn cut(&mut self, from: usize, to: usize, ports: Ports, cut: bool) {
        let [quorum, election] = &mut self.cuts[from][to];
        for (counter, other) in [(quorum, Ports::Election), (election, Ports::Quorum)] {
            if ports != other {
                *counter = if cut {
                    *counter + 1
                } else {
                    counter.saturating_sub(1)
                };
            }
        }
    }

    /// Takes back all cuts.
    pub fn heal(&mut self) {
        self.cuts
            .iter_mut()
            .flatten()
            .for_each(|cuts| *cuts = [0; 2]);
        self.slowness = 1;
    }

    /// A new connection.
    pub fn connect(&mut self, from: End, to: usize) -> WireId {
        let id = self.next_wire;
        self.next_wire += 1;
        let to = End {
            member: to,
            life: 0,
            link: None,
            open: false,
        };
        let wire = Wire {
            ends: [from, to],
            lanes: Default::default(),
            installing: false,
        };
        self.wires.insert(id, wire);
        id
    }

    /// The lane of the election port from one member to another.
    pub fn vote_lane(&mut self, from: usize, to: usize) -> (&mut VotePair, usize) {
        let key = (from.min(to), from.max(to));
        (self.votes.entry(key).or_default(), usize::from(from > to))
    }
}
