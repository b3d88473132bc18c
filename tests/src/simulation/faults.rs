//! Faults strike, and end.

use std::io;

use quorate_server::storage::StorageError;
use quorate_server::storage::epoch::EpochFile;
use quorate_server::storage::mem_disk::{MemDisk, Verb};
use quorate_server::zab::{Output, Packet};

use super::Micros;
use super::checker::{Checked, demand};
use super::member::Rot;
use super::network::WireId;
use super::plan::{Blow, Death, Fault, MILLI, Point, Ports, Shape, Whom};
use super::world::{Event, World};

/// What a fault that is in force has to take back.
#[derive(Debug)]
pub enum Active {
    /// These directions are cut.
    Cut(Ports, Vec<(usize, usize)>),
    /// The network is slow.
    SlowNetwork,
    /// A disk is slow, or hangs.
    Disk(usize),
    /// A clock runs at another speed.
    Drift(usize),
}

impl World {
    /// A fault of the plan strikes.
    pub(super) fn strike(&mut self, at: usize) -> Checked {
        let fault = self.plan.faults[at].1;
        if self.healed.is_some() {
            return Ok(());
        }
        self.trace.note(self.now, || format!("! {fault:?}"));
        match fault {
            Fault::Crash(whom, death, down) => {
                let victim = self.find(whom);
                self.kill(victim, death, down);
            }
            Fault::Blackout(death, down) => {
                for victim in 0..self.members.len() {
                    let down = self.rng.u64(MILLI..=down);
                    self.kill(victim, death, down);
                }
            }
            Fault::Pause(whom, length) => {
                let victim = self.find(whom);
                self.members[victim].paused_until = self.now + length;
            }
            Fault::Cut(shape, ports, length) => {
                let cuts = self.directions(shape);
                self.cut(ports, cuts, length);
            }
            Fault::Desert(whom, length) => {
                let victim = self.find(whom);
                self.isolate(victim, length);
                self.desert(victim);
            }
            Fault::Break(whom) => {
                let victim = self.find(whom);
                self.break_connections(|a, b| a == victim || b == victim);
            }
            Fault::SlowNetwork(slowness, length) => {
                self.net.slowness = slowness;
                self.last(length, Active::SlowNetwork);
            }
            Fault::SlowDisk(whom, slowness, length) => {
                let victim = self.find(whom);
                self.members[victim].slowness = slowness;
                self.last(length, Active::Disk(victim));
            }
            Fault::Hang(whom, length) => {
                let victim = self.find(whom);
                self.members[victim].hangs = true;
                self.last(length, Active::Disk(victim));
            }
            Fault::Drift(whom, speed, length) => {
                let victim = self.find(whom);
                self.members[victim].clock.drift(self.now, speed);
                self.clock_changed(victim);
                self.last(length, Active::Drift(victim));
            }
            Fault::Jump(whom, by) => {
                let victim = self.find(whom);
                self.members[victim].clock.jump(self.now, by);
                self.clock_changed(victim);
            }
            Fault::Damage(whom, down) => {
                let victim = self.find(whom);
                if self.members[victim].is_up() {
                    self.kill(victim, Death::Killed, down);
                    self.damage(victim);
                }
            }
            Fault::Ambush(point, passed, blow) => self.ambushes.push((point, passed, blow)),
            Fault::Reconfig(change) => self.changes.push_back(change),
            Fault::HandOver => {
                if let Some(leader) = self.leader() {
                    self.hand_over(leader)?;
                }
            }
        }
        Ok(())
    }

    /// A fault stays in force for a while.
    fn last(&mut self, length: Micros, active: Active) {
        let at = self.active.last_key_value().map_or(0, |(at, _)| at + 1);
        self.active.insert(at, active);
        self.after(length, Event::FaultEnds(at));
    }

    /// A fault ends.
    pub(super) fn relent(&mut self, at: usize) {
        match self.active.remove(&at) {
            Some(Active::Cut(ports, cuts)) => {
                for (from, to) in cuts {
                    self.net.cut(from, to, ports, false);
                }
                self.arm_everything();
            }
            Some(Active::SlowNetwork) => self.net.slowness = 1,
            Some(Active::Disk(victim)) => {
                self.members[victim].slowness = 1;
                self.members[victim].hangs = false;
                self.work(victim);
            }
            Some(Active::Drift(victim)) => {
                self.members[victim].clock.drift(self.now, 1_000_000);
                self.clock_changed(victim);
            }
            None => {}
        }
    }

    /// All faults end: from now on the ensemble has to come to work again.
    pub(super) fn heal(&mut self) -> Checked {
        self.trace.note(self.now, || "! everything heals");
        self.healed = Some(self.now);
        while let Some(at) = self.active.keys().next().copied() {
            self.relent(at);
        }
        self.ambushes.clear();
        self.changes.clear();
        self.net.heal();
        self.arm_everything();
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            member.paused_until = self.now;
            if let Some(process) = member.process.as_deref_mut() {
                process.outputs_left = None;
                // There is no write number 0 that could fail.
                member.disk.fail(Verb::Write, 0, io::ErrorKind::Other);
            }
            self.after(0, Event::Start(at));
        }
        self.after(0, Event::Look);
        Ok(())
    }

    fn arm_everything(&mut self) {
        let wires: Vec<WireId> = self.net.wires.keys().copied().collect();
        for wire in wires {
            self.arm_wire(wire);
        }
        let count = self.members.len();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            if from != to {
                self.arm_votes(from, to);
            }
        }
    }

    /// The blow that falls on who does this, if somebody lies in wait for it.
    pub(super) fn ambushed(&mut self, output: &Output) -> Option<Blow> {
        if self.ambushes.is_empty() {
            return None;
        }
        let point = point_of(output)?;
        let at = self.ambushes.iter().position(|(at, ..)| *at == point)?;
        match &mut self.ambushes[at].1 {
            0 => Some(self.ambushes.swap_remove(at).2),
            passed => {
                *passed -= 1;
                None
            }
        }
    }

    /// A blow falls on a member.
    pub(super) fn fall(&mut self, victim: usize, blow: Blow) {
        self.trace
            .note(self.now, || format!("! {blow:?} on {}", victim + 1));
        match blow {
            Blow::Die(_, down) => {
                self.crash(victim, Death::Power);
                self.after(down, Event::Start(victim));
            }
            Blow::Break => self.break_connections(|a, b| a == victim || b == victim),
            Blow::Pause(length) => self.members[victim].paused_until = self.now + length,
            Blow::Isolate(length) => self.isolate(victim, length),
        }
    }

    /// A member is alone for a while.
    fn isolate(&mut self, victim: usize, length: Micros) {
        let others = (0..self.members.len()).filter(|other| *other != victim);
        let cuts = others.flat_map(|other| [(victim, other), (other, victim)]);
        self.cut(Ports::All, cuts.collect(), length);
    }

    /// The others give up their connections to a member; what they have sent may still arrive.
    fn desert(&mut self, victim: usize) {
        let others = self.net.wires.values().filter_map(|wire| {
            let end = wire.ends.iter().position(|end| end.member == victim)?;
            let other = wire.ends[1 - end];
            Some((other.member, other.link.filter(|_| other.open)?))
        });
        for (member, link) in others.collect::<Vec<_>>() {
            self.close(member, link);
        }
    }

    /// Whom it hits.
    fn find(&mut self, whom: Whom) -> usize {
        let any = self.rng.usize(..self.members.len());
        match (whom, self.leader()) {
            (Whom::Leader, Some(leader)) => leader,
            (Whom::Other, Some(leader)) if leader == any => (any + 1) % self.members.len(),
            _ => any,
        }
    }

    fn kill(&mut self, victim: usize, death: Death, down: Micros) {
        let member = &mut self.members[victim];
        let Some(process) = member.process.as_deref_mut() else {
            return;
        };
        match death {
            Death::AtOutput(left) => {
                process.outputs_left = Some(left);
                // It has to start again whenever it dies; while it lives that changes nothing.
                self.after(down + 200 * MILLI, Event::Start(victim));
                self.after(down + 2_000 * MILLI, Event::Start(victim));
            }
            Death::Disk => {
                let verb = if self.rng.bool() {
                    Verb::Write
                } else {
                    Verb::Sync
                };
                let count = match verb {
                    Verb::Write => member.disk.writes(),
                    Verb::Sync => member.disk.syncs(),
                };
                let nth = count + self.rng.u64(1..6);
                member.disk.fail(verb, nth, io::ErrorKind::Other);
                member.failing = true;
                self.after(down + 200 * MILLI, Event::Start(victim));
                self.after(down + 2_000 * MILLI, Event::Start(victim));
            }
            Death::Killed | Death::Power => {
                self.crash(victim, death);
                self.after(down, Event::Start(victim));
            }
        }
    }

    fn clock_changed(&mut self, victim: usize) {
        if let Some(process) = self.members[victim].process.as_deref_mut() {
            process.wake = None;
        }
        self.rearm(victim);
    }

    fn cut(&mut self, ports: Ports, cuts: Vec<(usize, usize)>, length: Micros) {
        for (from, to) in &cuts {
            self.net.cut(*from, *to, ports, true);
        }
        // Some connections are given up at once, others wait for better times.
        if self.rng.bool() {
            self.break_connections(|a, b| cuts.contains(&(a, b)));
        }
        self.last(length, Active::Cut(ports, cuts));
    }

    /// The directions that a shape cuts.
    fn directions(&mut self, shape: Shape) -> Vec<(usize, usize)> {
        let count = self.members.len();
        let mut order: Vec<usize> = (0..count).collect();
        self.rng.shuffle(&mut order);
        let place = |member: usize| order.iter().position(|at| *at == member).unwrap_or(0);
        let hit = match shape {
            Shape::Alone(whom) | Shape::OneWay(whom, _) => self.find(whom),
            _ => order[0],
        };
        let half = count / 2;
        let is_cut = |from: usize, to: usize| match shape {
            Shape::Alone(_) => from == hit || to == hit,
            Shape::OneWay(_, true) => from == hit,
            Shape::OneWay(_, false) => to == hit,
            Shape::Halves => (place(from) <= half) != (place(to) <= half),
            Shape::Bridge => {
                place(from) != half
                    && place(to) != half
                    && (place(from) < half) != (place(to) < half)
            }
            Shape::Ring => {
                let distance = (place(from) + count - place(to)) % count;
                count > 3 && distance != 1 && distance != count - 1 || count <= 3 && distance == 1
            }
            Shape::Pair => {
                (from == order[0] && to == order[1]) || (from == order[1] && to == order[0])
            }
        };
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to && is_cut(*from, *to))
            .collect()
    }

    fn break_connections(&mut self, hit: impl Fn(usize, usize) -> bool) {
        let wires = self.net.wires.iter();
        let wires = wires.filter(|(_, wire)| hit(wire.ends[0].member, wire.ends[1].member));
        let wires: Vec<WireId> = wires.map(|(id, _)| *id).collect();
        for wire in wires {
            if self.rng.u8(..4) > 0 {
                self.break_wire(wire);
            }
        }
        let pairs: Vec<(usize, usize)> = self.net.votes.keys().copied().collect();
        for (a, b) in pairs.into_iter().filter(|(a, b)| hit(*a, *b)) {
            if self.rng.bool() {
                self.part(a, b);
            }
        }
    }

    /// Changes a byte somewhere in the first half of a log or a snapshot: behind it is enough that
    /// tells it from a write that was never completed.
    fn damage(&mut self, victim: usize) {
        let disk = &self.members[victim].disk;
        let files = ["/log/version-2", "/data/version-2"]
            .into_iter()
            .flat_map(|dir| {
                let names = disk.names(dir).into_iter();
                let names =
                    names.filter(|name| name.starts_with("log.") || name.starts_with("snapshot."));
                names.map(move |name| format!("{dir}/{name}"))
            });
        let files: Vec<String> = files.collect();
        // The newest snapshot is what all else may rely on.
        let snapshots = files.iter().filter(|file| file.contains("/snapshot."));
        let newest = snapshots.max_by_key(|file| (file.len(), *file));
        let any = self.rng.choice(&files);
        let Some(file) = newest.filter(|_| self.rng.bool()).or(any) else {
            return;
        };
        let content = disk.get(file).unwrap_or_default();
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if used < 64 {
            return;
        }
        let (offset, bits) = (self.rng.usize(..used / 2), self.rng.u8(1..));
        disk.damage(file, offset, bits);
        let now = content[offset] ^ bits;
        self.members[victim].rot = Some(Rot {
            file: file.clone(),
            offset,
            bits,
            now,
        });
        self.trace
            .note(self.now, || format!("! byte {offset} of {used} of {file}"));
    }

    /// A member refuses to start from what its disk says. It is right to if something was damaged;
    /// then it gets the disk back as it was, or an empty one, if the others can spare its data.
    pub(super) fn refuses(&mut self, at: usize, err: &StorageError) -> Checked {
        self.trace
            .note(self.now, || format!("{}: refuses: {err}", at + 1));
        let rotten = self.members[at].rot.is_some();
        demand!("P8", rotten, "member {} does not start: {err}", at + 1);
        self.members[at].mend();
        // Others may still be told of what it had: then it must have it.
        let is_heard = self.net.wires.values().any(|wire| wire.brings_word_of(at));
        if self.healed.is_none() && !is_heard && self.checker.can_spare(at) {
            self.trace.note(self.now, || {
                format!("{}: begins again without data", at + 1)
            });
            self.members[at].disk = MemDisk::new();
            self.members[at].blank = true;
            self.interrupted[at] = None;
            self.checker.wiped(at);
        }
        self.after(50 * MILLI, Event::Start(at));
        Ok(())
    }
}

/// The point that a member comes to by an output.
fn point_of(output: &Output) -> Option<Point> {
    Some(match output {
        Output::WriteEpoch { file, .. } => match file {
            EpochFile::Accepted => Point::Promise,
            EpochFile::Current => Point::Join,
        },
        Output::Send { packet, .. } => match packet {
            Packet::LeaderInfo { .. } => Point::LeaderInfo,
            Packet::AckEpoch { .. } => Point::AckEpoch,
            Packet::Diff { .. } | Packet::Truncate { .. } => Point::Synchronise,
            Packet::NewLeader { .. } => Point::NewLeader,
            Packet::Ack { .. } => Point::Ack,
            Packet::UpToDate => Point::UpToDate,
            Packet::Commit { .. } => Point::Commit,
            _ => return None,
        },
        Output::SendSnapshot { .. } => Point::Synchronise,
        Output::Lead { .. } => Point::Lead,
        Output::Broadcast { .. } => Point::Propose,
        Output::Append { .. } => Point::Append,
        Output::Truncate { .. } => Point::Truncate,
        Output::Propound { .. } => Point::Propound,
        Output::Activate { .. } => Point::Activate,
        _ => return None,
    })
}
