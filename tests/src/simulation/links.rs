//! Packets and votes on their way.

use quorate_server::zab::election::Notification;
use quorate_server::zab::{Input, Link, Packet};

use super::checker::{Checked, Z, demand, sid};
use super::member::{Dump, DumpFor, Job};
use super::network::{End, Load, WireId};
use super::plan::MILLI;
use super::world::{Event, World};

impl World {
    pub(super) fn connect(&mut self, at: usize, link: Link, to: usize) {
        let end = End {
            member: at,
            life: self.members[at].life,
            link: Some(link),
            open: true,
        };
        let wire = self.net.connect(end, to);
        if let Some(process) = self.members[at].process.as_deref_mut() {
            process.links.insert(link, (wire, 0));
        }
        self.load(at, link, Load::Open);
    }

    pub(super) fn send(&mut self, at: usize, link: Link, packet: Packet) -> Checked {
        let wire = self.members[at].process.as_ref();
        let wire = wire.and_then(|process| process.links.get(&link).copied());
        if let Some((id, end)) = wire
            && self
                .net
                .wires
                .get(&id)
                .is_some_and(|wire| wire.ends[end].open)
        {
            self.checker.sends(id, at, end == 0, &packet)?;
            self.load(at, link, Load::Packet(packet));
        }
        Ok(())
    }

    /// Puts something on a connection, unless it is over.
    pub(super) fn load(&mut self, at: usize, link: Link, load: Load) {
        let due = self.now + self.net.delay(&mut self.rng);
        let process = self.members[at].process.as_ref();
        let Some((id, end)) = process.and_then(|process| process.links.get(&link).copied()) else {
            return;
        };
        if let Some(wire) = self
            .net
            .wires
            .get_mut(&id)
            .filter(|wire| wire.ends[end].open)
        {
            wire.lanes[end].push(due, load);
            self.arm_wire(id);
        }
    }

    pub(super) fn close(&mut self, at: usize, link: Link) {
        let due = self.now + self.net.delay(&mut self.rng);
        let process = self.members[at].process.as_ref();
        let Some((id, end)) = process.and_then(|process| process.links.get(&link).copied()) else {
            return;
        };
        if let Some(wire) = self.net.wires.get_mut(&id)
            && std::mem::replace(&mut wire.ends[end].open, false)
        {
            wire.end(end, due);
            let installing = wire.installing && end == 0;
            self.arm_wire(id);
            if !installing {
                self.say(at, Input::Closed { link });
            }
        }
    }

    /// A tree is installed: what has come meanwhile is heard of now.
    pub(super) fn installed(&mut self, at: usize, link: Link) {
        let process = self.members[at].process.as_ref();
        let wire = process.and_then(|process| process.links.get(&link).copied());
        let Some((id, _)) = wire else {
            return;
        };
        let Some(wire) = self.net.wires.get_mut(&id) else {
            return;
        };
        wire.installing = false;
        let closed = !wire.ends[0].open;
        self.arm_wire(id);
        if closed {
            self.say(at, Input::Closed { link });
        }
    }

    pub(super) fn send_tree(&mut self, at: usize, link: Link, least: i64) -> Checked {
        let Some(process) = self.members[at].process.as_deref() else {
            return Ok(());
        };
        let Some((wire, _)) = process.links.get(&link).copied() else {
            return Ok(());
        };
        let zxid = process.tree.last_zxid();
        demand!(
            "contract",
            zxid >= least,
            "member {} is to send a tree at {}, and has {}",
            at + 1,
            Z(least),
            Z(zxid)
        );
        if self.net.wires.contains_key(&wire) {
            self.checker.dumps(wire, at, zxid)?;
            self.say(at, Input::SnapshotBegun { link, zxid });
            self.load(at, link, Load::Tree(None));
            self.dump(at, DumpFor::Learner(wire));
        }
        Ok(())
    }

    pub(super) fn dumped(&mut self, wire: WireId, dump: Dump) {
        let Some(connection) = self.net.wires.get_mut(&wire) else {
            return;
        };
        // The learner is who connected, and so the leader's is the other end.
        let mut loads = connection.lanes[1].iter_mut();
        if let Some(tree) = loads.find(|load| matches!(load, Load::Tree(None))) {
            *tree = Load::Tree(Some(Box::new(dump)));
        }
        drop(loads);
        self.arm_wire(wire);
    }

    /// Schedules what arrives next on both lanes of a connection.
    pub(super) fn arm_wire(&mut self, id: WireId) {
        let Some(wire) = self.net.wires.get_mut(&id) else {
            return;
        };
        if wire.is_over() {
            self.net.wires.remove(&id);
            self.checker.over(id);
            return;
        }
        for from in 0..2 {
            let Some(wire) = self.net.wires.get_mut(&id) else {
                return;
            };
            let (sender, receiver) = (wire.ends[from].member, wire.ends[1 - from].member);
            if wire.waits(from) || self.net.is_cut(sender, receiver) {
                continue;
            }
            let Some(wire) = self.net.wires.get_mut(&id) else {
                return;
            };
            if let Some(due) = wire.lanes[from].arm() {
                self.at(due.max(self.now), Event::Arrive(id, from));
            }
        }
    }

    pub(super) fn arrive(&mut self, id: WireId, from: usize) -> Checked {
        let Some(wire) = self.net.wires.get(&id) else {
            return Ok(());
        };
        let (sender, receiver) = (wire.ends[from], wire.ends[1 - from]);
        if self.postponed(receiver.member, Event::Arrive(id, from)) {
            return Ok(());
        }
        let cut = self.net.is_cut(sender.member, receiver.member);
        let Some(wire) = self.net.wires.get_mut(&id) else {
            return Ok(());
        };
        wire.lanes[from].disarm();
        if !wire.waits(from)
            && !cut
            && let Some(load) = wire.lanes[from].pop(self.now)
        {
            self.take_load(id, from, load)?;
        }
        self.arm_wire(id);
        Ok(())
    }

    pub(super) fn take_load(&mut self, id: WireId, from: usize, load: Load) -> Checked {
        let rest = self.now + self.net.delay(&mut self.rng);
        let Some(wire) = self.net.wires.get_mut(&id) else {
            return Ok(());
        };
        let (sender, receiver) = (wire.ends[from], wire.ends[1 - from]);
        let link = receiver.link.filter(|_| receiver.open);
        match load {
            Load::Open => return self.accept(id, receiver.member),
            Load::Opened => {
                if let Some(link) = link {
                    self.step(receiver.member, Input::Connected { link })?;
                }
            }
            Load::Packet(packet) => {
                if let Some(link) = link {
                    self.step(receiver.member, Input::Received { link, packet })?;
                }
            }
            Load::Tree(None) => {}
            Load::Tree(Some(dump)) => {
                if let Some(link) = link {
                    let packet = Packet::Snapshot { zxid: dump.zxid() };
                    // The rest of the tree takes its time.
                    wire.lanes[from].push_front(rest, Load::Rest(dump));
                    self.step(receiver.member, Input::Received { link, packet })?;
                }
            }
            Load::Rest(dump) => {
                if let Some(link) = link {
                    wire.installing = true;
                    self.queue_job(receiver.member, Job::Install { link, dump });
                }
            }
            Load::Mark => {
                if let Some(link) = sender.link.filter(|_| sender.open) {
                    self.say(sender.member, Input::Drained { link });
                }
            }
            Load::End => {
                wire.ends[1 - from].open = false;
                wire.lanes[1 - from].truncate(0);
                if sender.open {
                    wire.end(1 - from, rest);
                }
                if let Some(link) = link {
                    self.step(receiver.member, Input::Closed { link })?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, id: WireId, at: usize) -> Checked {
        let due = self.now + self.net.delay(&mut self.rng);
        let life = self.members[at].life;
        let Some(wire) = self.net.wires.get_mut(&id) else {
            return Ok(());
        };
        let Some(process) = self.members[at].process.as_deref_mut() else {
            wire.end(1, due);
            return Ok(());
        };
        let link = Link(process.next_link);
        process.next_link += 1;
        process.links.insert(link, (id, 1));
        wire.ends[1] = End {
            member: at,
            life,
            link: Some(link),
            open: true,
        };
        wire.lanes[1].push(due, Load::Opened);
        self.step(at, Input::Accepted { link })
    }

    /// Breaks a connection: what is under way is lost, or some of it.
    pub(super) fn break_wire(&mut self, id: WireId) {
        let due = self.now + self.net.delay(&mut self.rng);
        if let Some(wire) = self.net.wires.get_mut(&id) {
            for end in 0..2 {
                let under_way = wire.lanes[end].len();
                wire.lanes[end].truncate(self.rng.usize(..=under_way));
                wire.end(end, due);
            }
        }
        self.arm_wire(id);
    }

    pub(super) fn send_vote(&mut self, from: usize, to: usize, vote: Notification) {
        if to >= self.members.len() {
            return;
        }
        let due = self.now + self.net.delay(&mut self.rng);
        let (pair, lane) = self.net.vote_lane(from, to);
        pair.last[lane] = Some(vote.clone());
        if pair.up {
            // One may be under way; of those that wait only the newest counts.
            match pair.lanes[lane].len() {
                0 | 1 => pair.lanes[lane].push(due, vote),
                _ => {
                    if let Some(waiting) = pair.lanes[lane].back_mut() {
                        *waiting = vote;
                    }
                }
            }
        }
        self.arm_votes(from, to);
    }

    pub(super) fn arm_votes(&mut self, from: usize, to: usize) {
        if self.net.votes_are_cut(from, to) {
            return;
        }
        let (pair, lane) = self.net.vote_lane(from, to);
        if let Some(due) = pair.lanes[lane].arm() {
            self.at(due.max(self.now), Event::Vote(from, to));
        }
    }

    pub(super) fn vote_arrives(&mut self, from: usize, to: usize) -> Checked {
        if self.postponed(to, Event::Vote(from, to)) {
            return Ok(());
        }
        let (now, cut) = (self.now, self.net.votes_are_cut(from, to));
        let (pair, lane) = self.net.vote_lane(from, to);
        pair.lanes[lane].disarm();
        if !cut
            && let Some(notification) = pair.lanes[lane].pop(now)
            && self.members[to].is_up()
        {
            let from = sid(from);
            self.step(to, Input::Notified { from, notification })?;
        }
        self.arm_votes(from, to);
        Ok(())
    }

    /// Two election ports connect, if they can.
    pub(super) fn meet(&mut self, a: usize, b: usize) -> Checked {
        let cut = self.net.votes_are_cut(a, b) || self.net.votes_are_cut(b, a);
        let up = self.members[a].is_up() && self.members[b].is_up();
        let (pair, _) = self.net.vote_lane(a, b);
        if pair.up || !up {
            return Ok(());
        }
        if cut {
            let delay = self.rng.u64(20 * MILLI..200 * MILLI);
            self.after(delay, Event::Meet(a, b));
            return Ok(());
        }
        pair.up = true;
        let last = pair.last.clone();
        for (from, to, last) in [(a, b, &last[0]), (b, a, &last[1])] {
            let (sid, reachable) = (sid(to), true);
            self.say(from, Input::Reachable { sid, reachable });
            if let Some(vote) = last {
                self.send_vote(from, to, vote.clone());
            }
        }
        Ok(())
    }

    /// The connection between two election ports ends; they try to connect again.
    pub(super) fn part(&mut self, a: usize, b: usize) {
        let (pair, _) = self.net.vote_lane(a, b);
        if !std::mem::replace(&mut pair.up, false) {
            return;
        }
        pair.lanes.iter_mut().for_each(|lane| lane.truncate(0));
        for (from, to) in [(a, b), (b, a)] {
            let (sid, reachable) = (sid(to), false);
            self.say(from, Input::Reachable { sid, reachable });
        }
        let delay = self.rng.u64(MILLI..100 * MILLI);
        self.after(delay, Event::Meet(a, b));
    }
}
