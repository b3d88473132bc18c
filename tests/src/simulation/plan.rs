//! What one seed stands for: an ensemble, its settings, and what goes wrong when.
//!
//! Each seed draws which kinds of faults it has at all, and how many: a run with one kind of fault
//! goes further with it than one with all of them.

use fastrand::Rng;
use quorate_server::zab::Millis;

use super::Micros;

/// A second.
pub const SECOND: Micros = 1_000_000;
/// A millisecond.
pub const MILLI: Micros = 1_000;

/// See the [module](self).
#[derive(Debug)]
pub struct Plan {
    /// Members that vote.
    pub voters: usize,
    /// Members that do not.
    pub observers: usize,
    /// Members that the ensemble does not begin with. Without any it stays as it is.
    pub spares: usize,
    /// Clients.
    pub clients: usize,
    /// How long a client thinks at most.
    pub thinks: Micros,
    /// Committed transactions that a member keeps in memory.
    pub commit_log_count: usize,
    /// Transactions between two snapshots.
    pub snap_count: u32,
    /// Are learners always sent the whole tree?
    pub force_snapshot: bool,
    /// Are old snapshots and logs removed?
    pub purges: bool,
    /// The shortest and the longest time that a packet takes.
    pub latency: (Micros, Micros),
    /// The shortest and the longest time that the disk takes.
    pub disk: (Micros, Micros),
    /// When the faults end.
    pub trouble: Micros,
    /// The faults, in order.
    pub faults: Vec<(Micros, Fault)>,
}

/// Whom a fault hits, by what the members are at that moment.
#[derive(Debug, Clone, Copy)]
pub enum Whom {
    /// The leader, or anybody if there is none.
    Leader,
    /// Somebody else than the leader.
    Other,
    /// Anybody.
    Any,
}

/// How a member dies.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    /// The process is killed: what it has written stays, and is not durable.
    Killed,
    /// The power goes: what was not synced is lost or torn.
    Power,
    /// The power goes between two things that it does.
    AtOutput(u32),
    /// A write or a sync fails, and the process gives up.
    Disk,
}

/// Who cannot reach whom.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// One member is alone.
    Alone(Whom),
    /// Two halves do not reach each other.
    Halves,
    /// What one sends to the others is held back, or what they send to it.
    OneWay(Whom, bool),
    /// Two halves that only one member reaches.
    Bridge,
    /// Each reaches only the next ones in a ring.
    Ring,
    /// One member does not reach another.
    Pair,
}

/// What a cut concerns: a firewall knows ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// Everything.
    All,
    /// The quorum port.
    Quorum,
    /// The election port.
    Election,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A member dies, and starts again after a while.
    Crash(Whom, Death, Micros),
    /// All members die at once, and start again one after the other within a while.
    Blackout(Death, Micros),
    /// A member does nothing for a while.
    Pause(Whom, Micros),
    /// The network is cut for a while.
    Cut(Shape, Ports, Micros),
    /// A member is alone for a while, and the others know of it before it does.
    Desert(Whom, Micros),
    /// Connections of a member break.
    Break(Whom),
    /// Everything takes so many times as long for a while.
    SlowNetwork(u64, Micros),
    /// A disk takes so many times as long for a while.
    SlowDisk(Whom, u64, Micros),
    /// A disk does nothing for a while.
    Hang(Whom, Micros),
    /// A clock runs at another speed, in millionths, for a while.
    Drift(Whom, u64, Micros),
    /// A clock jumps ahead.
    Jump(Whom, Millis),
    /// A member dies, and some of its bytes change while it is down.
    Damage(Whom, Micros),
    /// The leader is asked to let another one lead.
    HandOver,
    /// Somebody asks for a change of the members.
    Reconfig(Change),
    /// The next time but so many that anybody comes to this point, a blow falls.
    Ambush(Point, u32, Blow),
}

/// A change of the members.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// So many more vote.
    Grow(usize),
    /// So many fewer vote; the others stay as observers, or leave.
    Shrink(usize, bool),
    /// The leader does not vote any more, or leaves.
    Depose(bool),
    /// A voter is at another address.
    Move(Whom),
    /// All members are said anew, at random.
    Replace,
}

/// A point of the protocol that is not passed often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Takes down the epoch that it takes part in.
    Promise,
    /// Names the epoch.
    LeaderInfo,
    /// Takes part in the epoch.
    AckEpoch,
    /// Takes down the epoch that it has joined.
    Join,
    /// Begins to send a learner what it lacks.
    Synchronise,
    /// Says that this is all.
    NewLeader,
    /// Acknowledges something.
    Ack,
    /// Lets a learner serve.
    UpToDate,
    /// Leads.
    Lead,
    /// Proposes.
    Propose,
    /// Appends.
    Append,
    /// Commits.
    Commit,
    /// Cuts its log.
    Truncate,
    /// Hears of a change of the members.
    Propound,
    /// Goes by a change of the members.
    Activate,
}

/// What falls on a member that comes to a point.
#[derive(Debug, Clone, Copy)]
pub enum Blow {
    /// It dies, just before or just after, and starts again after a while.
    Die(bool, Micros),
    /// Its connections break.
    Break,
    /// It does nothing for a while.
    Pause(Micros),
    /// It is alone for a while.
    Isolate(Micros),
}

type Draw = fn(&mut Rng) -> Fault;

/// Every kind of fault, and how often it comes where it comes at all.
const KINDS: &[(u32, Draw)] = &[
    (6, |rng| Fault::Crash(whom(rng), death(rng), down(rng))),
    (2, |rng| {
        Fault::Crash(Whom::Leader, Death::AtOutput(rng.u32(..30)), down(rng))
    }),
    (1, |rng| Fault::Blackout(death(rng), down(rng))),
    (2, |rng| {
        Fault::Pause(whom(rng), rng.u64(20 * MILLI..2 * SECOND))
    }),
    (4, |rng| {
        Fault::Cut(shape(rng), ports(rng), rng.u64(50 * MILLI..3 * SECOND))
    }),
    (2, |rng| {
        Fault::Desert(whom(rng), rng.u64(50 * MILLI..2 * SECOND))
    }),
    (4, |rng| Fault::Break(whom(rng))),
    (1, |rng| {
        Fault::SlowNetwork(rng.u64(5..100), rng.u64(..SECOND))
    }),
    (1, |rng| {
        Fault::SlowDisk(whom(rng), rng.u64(10..300), rng.u64(..2 * SECOND))
    }),
    (1, |rng| {
        Fault::Hang(whom(rng), rng.u64(50 * MILLI..2 * SECOND))
    }),
    (1, |rng| {
        Fault::Drift(
            whom(rng),
            rng.u64(500_000..2_000_000),
            rng.u64(..4 * SECOND),
        )
    }),
    (1, |rng| Fault::Jump(whom(rng), rng.u64(10..5_000))),
    (2, |rng| Fault::Damage(whom(rng), down(rng))),
    (2, |_| Fault::HandOver),
    (8, |rng| Fault::Ambush(point(rng), rng.u32(..4), blow(rng))),
];

fn whom(rng: &mut Rng) -> Whom {
    match rng.u8(..4) {
        0 => Whom::Any,
        1 => Whom::Other,
        _ => Whom::Leader,
    }
}

fn death(rng: &mut Rng) -> Death {
    match rng.u8(..10) {
        0..3 => Death::Killed,
        3..6 => Death::Power,
        6..9 => Death::AtOutput(rng.u32(..20)),
        _ => Death::Disk,
    }
}

/// The points at which an epoch begins, or other members.
const FOUNDING: [Point; 8] = [
    Point::Promise,
    Point::LeaderInfo,
    Point::AckEpoch,
    Point::Join,
    Point::NewLeader,
    Point::UpToDate,
    Point::Propound,
    Point::Activate,
];

/// All others.
const WORKING: [Point; 7] = [
    Point::Synchronise,
    Point::Ack,
    Point::Lead,
    Point::Propose,
    Point::Append,
    Point::Commit,
    Point::Truncate,
];

fn point(rng: &mut Rng) -> Point {
    let nth = rng.usize(..FOUNDING.len() + WORKING.len());
    match nth.checked_sub(FOUNDING.len()) {
        None => FOUNDING[nth],
        Some(nth) => WORKING[nth],
    }
}

fn blow(rng: &mut Rng) -> Blow {
    match rng.u8(..6) {
        0..3 => Blow::Die(rng.bool(), down(rng)),
        3 => Blow::Break,
        4 => Blow::Pause(rng.u64(20 * MILLI..2 * SECOND)),
        _ => Blow::Isolate(rng.u64(50 * MILLI..2 * SECOND)),
    }
}

/// How long a member is down: mostly too short for the others to get far without it.
fn down(rng: &mut Rng) -> Micros {
    match rng.u8(..3) {
        0 => rng.u64(MILLI..50 * MILLI),
        1 => rng.u64(50 * MILLI..500 * MILLI),
        _ => rng.u64(500 * MILLI..3 * SECOND),
    }
}

fn shape(rng: &mut Rng) -> Shape {
    match rng.u8(..8) {
        0 | 1 => Shape::Alone(whom(rng)),
        2 => Shape::Halves,
        3 | 4 => Shape::OneWay(whom(rng), rng.bool()),
        5 => Shape::Bridge,
        6 => Shape::Ring,
        _ => Shape::Pair,
    }
}

fn ports(rng: &mut Rng) -> Ports {
    match rng.u8(..8) {
        0 | 1 => Ports::Quorum,
        2 => Ports::Election,
        _ => Ports::All,
    }
}

impl Plan {
    /// Draws a plan.
    pub fn draw(rng: &mut Rng) -> Self {
        let voters = if rng.u8(..4) == 0 { 5 } else { 3 };
        let observers = if rng.u8(..5) == 0 {
            rng.usize(1..=2)
        } else {
            0
        };
        let spares = if rng.u8(..3) == 0 {
            rng.usize(1..=3)
        } else {
            0
        };
        let trouble = rng.u64(2 * SECOND..8 * SECOND);
        let fast = rng.u64(20..500);
        let disk = rng.u64(20..1_000);
        Plan {
            voters,
            observers,
            spares,
            clients: rng.usize(2..=4),
            thinks: rng.u64(5 * MILLI..80 * MILLI),
            commit_log_count: *rng.choice(&[1, 3, 10, 500]).unwrap_or(&500),
            snap_count: *rng.choice(&[3, 8, 20, 1_000]).unwrap_or(&1_000),
            force_snapshot: rng.u8(..8) == 0,
            purges: rng.bool(),
            latency: (fast, fast * rng.u64(1..10)),
            disk: (disk, disk * rng.u64(1..10)),
            trouble,
            faults: faults(trouble, spares > 0, rng),
        }
    }

    /// Is a member one of those that only observe at the beginning?
    pub fn observes(&self, member: usize) -> bool {
        (self.voters..self.voters + self.observers).contains(&member)
    }
}

/// Changes of the members: any, or those from three to five voters and back again and again.
fn changes(rng: &mut Rng) -> Vec<Change> {
    let count = rng.usize(1..12);
    let leave = rng.bool();
    let breathes = rng.u8(..3) == 0;
    let change = |at| match rng.u8(..8) {
        _ if breathes && at % 2 == 0 => Change::Grow(2),
        _ if breathes => Change::Shrink(2, leave),
        0 | 1 => Change::Grow(rng.usize(1..=3)),
        2 | 3 => Change::Shrink(rng.usize(1..=2), rng.bool()),
        4 | 5 => Change::Depose(rng.bool()),
        6 => Change::Move(whom(rng)),
        _ => Change::Replace,
    };
    (0..count).map(change).collect()
}

fn faults(trouble: Micros, changing: bool, rng: &mut Rng) -> Vec<(Micros, Fault)> {
    let mut kinds: Vec<Draw> = Vec::new();
    while kinds.is_empty() {
        for (weight, draw) in KINDS {
            if rng.u8(..3) == 0 {
                kinds.extend(std::iter::repeat_n(*draw, *weight as usize));
            }
        }
    }
    let count = rng.usize(3..20);
    let mut faults: Vec<(Micros, Fault)> = (0..count)
        .map(|_| {
            let draw = kinds[rng.usize(..kinds.len())];
            (rng.u64(..trouble), draw(rng))
        })
        .collect();
    // Some runs strike at one point of a beginning in one way again and again.
    if rng.u8(..3) == 0 {
        let point = FOUNDING[rng.usize(..FOUNDING.len())];
        let strike = Fault::Ambush(point, 0, blow(rng));
        faults.extend((0..8).map(|_| (rng.u64(..trouble), strike)));
    }
    if changing {
        let changes = changes(rng).into_iter();
        let step = trouble / (changes.len() as u64 + 1);
        let changes = changes.zip(1..).map(|(change, nth)| {
            let when = rng.u64(step * (nth - 1)..=step * nth);
            (when, Fault::Reconfig(change))
        });
        faults.extend(changes);
    }
    faults.sort_by_key(|(when, _)| *when);
    faults
}
