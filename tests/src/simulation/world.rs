//! The world: members, what lies between them, clients, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use fastrand::Rng;
use quorate_server::zab::{Membership, Output};

use super::checker::{Checked, Checker, Z, demand, sid};
use super::client::Client;
use super::clock::Clock;
use super::faults::Active;
use super::flaw::Flaw;
use super::history::History;
use super::member::{Job, Member};
use super::network::{Lane, Network, WireId};
use super::plan::{Blow, Change, MILLI, Plan, Point, SECOND};
use super::reconfig;
use super::service::{Ask, ConnId, Tell};
use super::trace::Trace;
use super::{Counts, Micros, Mutant};

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A process wants to be woken.
    Wake(usize, u64),
    /// A process has something to be told.
    Inbox(usize, u64),
    /// A disk has done its job.
    Disk(usize, u64),
    /// A read of the log is done.
    Read(usize, u64),
    /// Dumps go on.
    Dump(usize, u64),
    /// A leader looks for sessions that have expired.
    Expire(usize, u64),
    /// Something arrives on a connection of the quorum port, from this end.
    Arrive(WireId, usize),
    /// A vote arrives.
    Vote(usize, usize),
    /// Two members try to connect their election ports.
    Meet(usize, usize),
    /// A client does something.
    Client(usize),
    /// A member hears from a client.
    Ask(ConnId),
    /// A client hears from a member.
    Tell(ConnId),
    /// A member starts.
    Start(usize),
    /// The next fault of the plan.
    Fault(usize),
    /// A fault ends.
    FaultEnds(usize),
    /// The faults end.
    Heal,
    /// Is everything well again?
    Look,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) client: usize,
    pub(super) member: usize,
    pub(super) life: u64,
    pub(super) asks: Lane<Ask>,
    pub(super) tells: Lane<Tell>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct World {
    pub(super) now: Micros,
    pub(super) rng: Rng,
    pub(super) plan: Plan,
    pub(super) mutant: Option<Mutant>,
    queue: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    events: u64,
    pub(super) members: Vec<Member>,
    /// The disk job that was under way when the last process of a member died.
    pub(super) interrupted: Vec<Option<Job>>,
    pub(super) net: Network,
    pub(super) clients: Vec<Client>,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    pub(super) next_conn: ConnId,
    pub(super) next_data: u64,
    pub(super) active: BTreeMap<usize, Active>,
    pub(super) ambushes: Vec<(Point, u32, Blow)>,
    /// Changes of the members that are to be asked for.
    pub(super) changes: VecDeque<Change>,
    pub(super) checker: Checker,
    pub(super) history: History,
    /// What happened.
    pub trace: Trace,
    pub(super) counts: Counts,
    /// When the faults ended.
    pub(super) healed: Option<Micros>,
    pub(super) outputs: Vec<Output>,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, mutant: Option<Mutant>, trace: Trace) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng);
        let count = plan.voters + plan.observers + plan.spares;
        let mut config = Membership::default();
        for index in 0..plan.voters + plan.observers {
            let member = reconfig::member(index, !plan.observes(index), false);
            config.members.servers.insert(sid(index), member);
        }
        // Who is to join begins with the others and itself.
        let configured = |index| {
            let mut config = config.clone();
            let servers = &mut config.members.servers;
            let own = servers.entry(sid(index));
            own.or_insert_with(|| reconfig::member(index, index % 2 == 0, false));
            config
        };
        let known: Vec<Membership> = (0..count).map(configured).collect();
        let member = |index| Member {
            index,
            clock: Clock::new(rng.u64(..1_000_000)),
            disk: Default::default(),
            life: 0,
            process: None,
            paused_until: 0,
            slowness: 1,
            hangs: false,
            failing: false,
            blank: false,
            rot: None,
            configured: known[index].clone(),
        };
        let members = (0..count).map(member).collect();
        let mut world = World {
            now: 0,
            mutant,
            queue: BinaryHeap::new(),
            events: 0,
            members,
            interrupted: (0..count).map(|_| None).collect(),
            net: Network::new(count, plan.latency),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_data: 0,
            active: BTreeMap::new(),
            ambushes: Vec::new(),
            checker: Checker::new(config, known),
            changes: VecDeque::new(),
            history: History::default(),
            trace,
            counts: Counts::default(),
            healed: None,
            outputs: Vec::new(),
            rng,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.trace.note(0, || plan);
        for member in 0..self.members.len() {
            let start = self.rng.u64(..50 * MILLI);
            self.after(start, Event::Start(member));
        }
        for client in 0..self.clients.len() {
            self.clients[client].reads = client > 0 && self.rng.bool();
            self.after(self.plan.thinks, Event::Client(client));
        }
        for (fault, (when, _)) in self.plan.faults.iter().enumerate().collect::<Vec<_>>() {
            let event = (*when, self.events, Event::Fault(fault));
            self.events += 1;
            self.queue.push(Reverse(event));
        }
        self.after(self.plan.trouble, Event::Heal);
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        Counts {
            leaders: self.checker.leaders.into(),
            writes: self.history.writes,
            reads: self.history.reads,
            ..self.counts
        }
    }

    /// The flaw of all disks, if they have one.
    pub(super) fn flaw(&self) -> Option<Flaw> {
        match self.mutant {
            Some(Mutant::Disk(flaw)) => Some(flaw),
            _ => None,
        }
    }

    /// Lets something happen later.
    pub(super) fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, when: Micros, event: Event) {
        self.queue.push(Reverse((when, self.events, event)));
        self.events += 1;
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Checked {
        while let Some(Reverse((when, _, event))) = self.queue.pop() {
            self.now = when;
            if event == Event::Look {
                if self.is_well() {
                    return self.finish();
                }
                self.still_ill()?;
            } else {
                self.happen(event)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Wake(member, life) => self.wake(member, life)?,
            Event::Inbox(member, life) => self.open_inbox(member, life)?,
            Event::Disk(member, life) => self.disk_done(member, life)?,
            Event::Read(member, life) => self.log_read(member, life, event),
            Event::Dump(member, life) => self.go_on_dumping(member, life, event)?,
            Event::Expire(member, life) => self.expire(member, life, event)?,
            Event::Arrive(wire, from) => self.arrive(wire, from)?,
            Event::Vote(from, to) => self.vote_arrives(from, to)?,
            Event::Meet(a, b) => self.meet(a, b)?,
            Event::Client(client) => self.client_acts(client),
            Event::Ask(conn) => self.ask_arrives(conn)?,
            Event::Tell(conn) => self.tell_arrives(conn)?,
            Event::Start(member) => self.start(member)?,
            Event::Fault(fault) => self.strike(fault)?,
            Event::FaultEnds(fault) => self.relent(fault),
            Event::Heal => self.heal()?,
            Event::Look => {}
        }
        Ok(())
    }

    /// Do all members follow one leader, and have all clients been served by it?
    fn is_well(&self) -> bool {
        let leaders = self.members.iter().filter(|member| member.leads()).count();
        let last = self.checker.committed;
        let in_step = self.members.iter().all(|member| {
            let process = member.process.as_ref();
            let serves = self.checker.serves(member.index) == Some(self.checker.established);
            let informed = self.checker.is_informed(member.index);
            serves && informed && process.is_some_and(|process| process.tree.last_zxid() == last)
        });
        let served = |client: &Client| client.content && client.waiting.is_empty();
        leaders == 1 && in_step && self.clients.iter().all(served)
    }

    /// It may take a while until everything is well, but not for ever.
    fn still_ill(&mut self) -> Checked {
        let ill_for = self.now - self.healed.unwrap_or(self.now);
        let members = self.members.iter().map(|member| {
            let at = member.index;
            let tree = member
                .process
                .as_ref()
                .map(|process| process.tree.last_zxid());
            format!(
                "{}: {:?} serves {:?}, has {} and {:?}, shows {}, knows the members: {}",
                at + 1,
                member.role(),
                self.checker.serves(at),
                Z(self.checker.logged(at)),
                self.checker.epochs(at),
                Z(tree.unwrap_or(-1)),
                self.checker.is_informed(at)
            )
        });
        demand!(
            "L",
            ill_for < 40 * SECOND,
            "the faults ended long ago: {}, clients {:?}",
            members.collect::<Vec<_>>().join("; "),
            self.clients
        );
        self.after(50 * MILLI, Event::Look);
        Ok(())
    }

    fn finish(&mut self) -> Checked {
        let committed = self.checker.committed;
        let trees: Vec<_> = self
            .members
            .iter()
            .filter_map(|member| {
                let process = member.process.as_ref()?;
                Some((member.index, &process.tree))
            })
            .collect();
        for (at, tree) in &trees {
            demand!(
                "S13",
                tree.digest().digest == self.checker.chain.digest(committed)
                    && super::model::dump(tree) == super::model::dump(trees[0].1),
                "member {} has another tree than member 1 in the end",
                at + 1
            );
            demand!(
                "C2",
                tree.orphaning_sessions().is_empty(),
                "member {} has ephemerals without a session",
                at + 1
            );
        }
        for at in 0..self.members.len() {
            self.check_disk(at)?;
        }
        self.history.check(&self.checker.chain, committed)
    }

    /// The leader that works, if there is one.
    pub(super) fn leader(&self) -> Option<usize> {
        let newest = |member: &&Member| self.checker.serves(member.index);
        let leaders = self.members.iter().filter(|member| member.leads());
        leaders.max_by_key(newest).map(|member| member.index)
    }

    /// Asks a leader to let another one lead.
    pub(super) fn hand_over(&mut self, at: usize) -> Checked {
        self.serve(at, |service, _, _, wishes| service.resign(wishes))
    }
}
