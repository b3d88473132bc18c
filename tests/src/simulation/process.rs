//! Processes start, are told things, do what their peers want, and die.

use std::collections::BTreeMap;

use quorate_proto::TxnEntry;
use quorate_proto::jute::Decode as _;
use quorate_server::tree::Tree;
use quorate_server::zab::{Entry, Input, Millis, Output, Packet, Peer, Recovered, Settings};

use super::checker::{Checked, Violation, Z, demand, index, sid};
use super::member::{DiskHost, DumpFor, Job, Process};
use super::network::{Load, WireId};
use super::plan::{Blow, Death, MILLI, SECOND};
use super::service::{ConnId, Service, Tell, Wishes};
use super::show::Show;
use super::world::{Event, World};
use super::{Micros, Mutant};

/// A run with more steps than this goes round in circles.
const MOST_STEPS: u64 = 200_000;

impl World {
    /// The process of a member, if it is the one meant.
    pub(super) fn process(&mut self, member: usize, life: u64) -> Option<&mut Process> {
        let member = &mut self.members[member];
        let alive = member.life == life;
        member.process.as_deref_mut().filter(|_| alive)
    }

    /// If a process is paused, lets the event come when it goes on.
    pub(super) fn postponed(&mut self, member: usize, event: Event) -> bool {
        let until = self.members[member].paused_until;
        let paused = until > self.now;
        if paused {
            self.at(until, event);
        }
        paused
    }

    pub(super) fn start(&mut self, at: usize) -> Checked {
        if self.members[at].is_up() {
            return Ok(());
        }
        let flaw = self.flaw();
        let member = &mut self.members[at];
        let stumbles =
            self.healed.is_none() && self.interrupted[at].is_some() && self.rng.u8(..) < 20;
        if stumbles {
            // The power goes again while it recovers.
            member
                .disk
                .cut_power_at_sync(member.disk.syncs() + self.rng.u64(1..8));
        }
        let found = DiskHost::recover(member, &member.disk, flaw);
        let found = match found {
            Ok(found) => found,
            Err(_) if stumbles => {
                member.disk = member.disk.lose_power(self.rng.u64(..));
                self.trace
                    .note(self.now, || format!("{}: dies while it recovers", at + 1));
                self.after(50 * MILLI, Event::Start(at));
                return Ok(());
            }
            Err(err) => {
                return self.refuses(at, &err);
            }
        };
        if stumbles {
            member.disk = member.disk.kill();
            return self.start(at);
        }
        // Nobody leaves a disk as it is that has begun to rot.
        self.members[at].mend();
        let job = self.interrupted[at].take();
        let (committed, proposed) = found.configs;
        self.checker.started(
            at,
            &committed,
            found.last_zxid,
            found.epochs,
            &found.tree,
            job.as_ref(),
        )?;
        let recent = found
            .host
            .recent(found.last_zxid, self.plan.commit_log_count);
        let recent = recent.map_err(|err| Violation {
            rule: "P8",
            what: err.to_string(),
        })?;
        let member = &mut self.members[at];
        member.life += 1;
        let (life, epochs) = (member.life, found.epochs);
        self.trace.note(self.now, || {
            format!(
                "{}: starts with {} and {epochs:?}, configuration {:x}",
                at + 1,
                Z(found.last_zxid),
                committed.version
            )
        });
        let service = Service::new(at, life, committed.clone(), proposed.clone());
        let recovered = Recovered {
            epochs,
            last_zxid: found.last_zxid,
            recent,
            committed,
            proposed,
        };
        let settings = self.settings(at);
        let member = &mut self.members[at];
        let now = member.clock.millis(self.now);
        let mut peer = Peer::new(settings, recovered, self.rng.u64(..), now);
        if let Some(Mutant::Zab(mutant)) = self.mutant {
            peer.mutate(mutant);
        }
        member.process = Some(Box::new(Process {
            peer,
            tree: found.tree,
            host: found.host,
            service,
            inbox: [Input::Wake].into(),
            called: false,
            dumps: Vec::new(),
            wake: None,
            outputs_left: None,
            since_snapshot: 0,
            next_link: 0,
            links: BTreeMap::new(),
        }));
        self.call(at, 0);
        for other in (0..self.members.len()).filter(|other| *other != at) {
            let delay = self.net.delay(&mut self.rng);
            self.after(delay, Event::Meet(at.min(other), at.max(other)));
        }
        Ok(())
    }

    /// Settings are drawn anew at each start: nothing may depend on their being the same.
    pub(super) fn settings(&mut self, member: usize) -> Settings {
        let tick = self.rng.u64(60..140);
        Settings {
            id: sid(member),
            tick,
            init_limit: tick * 10,
            sync_limit: tick * 5,
            connect_limit: tick * 10,
            disk_limit: tick * self.rng.u64(5..20),
            notification_interval: (self.rng.u64(20..200), self.rng.u64(500..3_000)),
            finalize_wait: self.rng.u64(10..200),
            commit_log_count: self.plan.commit_log_count,
            commit_log_bytes: 1 << 20,
            force_snapshot: self.plan.force_snapshot,
            observer: self.plan.observes(member),
            reconfig: self.plan.spares > 0,
        }
    }

    /// Tells a process that something is in its inbox.
    pub(super) fn call(&mut self, member: usize, delay: Micros) {
        let life = self.members[member].life;
        let Some(process) = self.process(member, life) else {
            return;
        };
        if !process.inbox.is_empty() && !std::mem::replace(&mut process.called, true) {
            self.after(delay, Event::Inbox(member, life));
        }
    }

    pub(super) fn open_inbox(&mut self, member: usize, life: u64) -> Checked {
        if self.postponed(member, Event::Inbox(member, life)) {
            return Ok(());
        }
        let Some(process) = self.process(member, life) else {
            return Ok(());
        };
        process.called = false;
        if let Some(input) = process.inbox.pop_front() {
            self.step(member, input)?;
        }
        let delay = self.rng.u64(..100);
        self.call(member, delay);
        Ok(())
    }

    pub(super) fn wake(&mut self, at: usize, life: u64) -> Checked {
        if self.postponed(at, Event::Wake(at, life)) {
            return Ok(());
        }
        let now = self.members[at].clock.millis(self.now);
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        process.wake = None;
        if process
            .peer
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.step(at, Input::Wake)?;
        } else {
            self.rearm(at);
        }
        Ok(())
    }

    /// Lets a process be woken when it wants to be.
    pub(super) fn rearm(&mut self, at: usize) {
        let member = &mut self.members[at];
        let Some(process) = member.process.as_deref_mut() else {
            return;
        };
        let Some(deadline) = process.peer.deadline() else {
            return;
        };
        if process.wake.is_none_or(|wake| deadline < wake) {
            process.wake = Some(deadline);
            let when = member.clock.when(deadline, self.now);
            let life = member.life;
            self.at(when, Event::Wake(at, life));
        }
    }

    /// Tells a peer something, and carries out what it wants.
    pub(super) fn step(&mut self, at: usize, input: Input) -> Checked {
        self.counts.steps += 1;
        demand!(
            "livelock",
            self.counts.steps < MOST_STEPS,
            "it goes round in circles"
        );
        let now = self.members[at].clock.millis(self.now);
        self.trace
            .note(self.now, || format!("{} < {}", at + 1, Show(&input)));
        match &input {
            Input::Notified { from, notification } => self.checker.hears(at, *from, notification),
            Input::Received {
                packet:
                    Packet::HandOver { .. }
                    | Packet::CommitAndActivate { .. }
                    | Packet::InformAndActivate { .. },
                ..
            } => self.checker.is_told(at),
            Input::Sync {
                link: Some(link), ..
            } => {
                let process = self.members[at].process.as_ref();
                let wire = process.and_then(|process| process.links.get(link));
                if let Some((wire, _)) = wire {
                    self.checker.syncs(*wire, at);
                }
            }
            Input::Truncated {
                last_zxid: Some(zxid),
            }
            | Input::Installed { zxid, .. } => self.checker.resumes(at, *zxid),
            _ => {}
        }
        let installed = match &input {
            Input::Installed { link, .. } => Some(*link),
            _ => None,
        };
        let mut outputs = std::mem::take(&mut self.outputs);
        let Some(process) = self.members[at].process.as_deref_mut() else {
            return Ok(());
        };
        process.peer.step(now, input, &mut outputs);
        let role = process.peer.role();
        self.checker.becomes(at, role)?;
        for output in outputs.drain(..) {
            let blow = self.ambushed(&output);
            if self.dies_here(at) || matches!(blow, Some(Blow::Die(false, _))) {
                self.trace.note(self.now, || {
                    format!("{} dies before {}", at + 1, Show(&output))
                });
                self.crash(at, Death::Power);
            } else {
                self.trace
                    .note(self.now, || format!("{} > {}", at + 1, Show(&output)));
                self.carry_out(at, output)?;
            }
            if let Some(blow) = blow {
                self.fall(at, blow);
            }
            if !self.members[at].is_up() {
                break;
            }
        }
        outputs.clear();
        self.outputs = outputs;
        if let Some(link) = installed {
            self.installed(at, link);
        }
        self.rearm(at);
        let delay = self.rng.u64(..100);
        self.call(at, delay);
        Ok(())
    }

    pub(super) fn dies_here(&mut self, at: usize) -> bool {
        let process = self.members[at].process.as_deref_mut();
        match process.and_then(|process| process.outputs_left.as_mut()) {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    pub(super) fn carry_out(&mut self, at: usize, output: Output) -> Checked {
        match output {
            Output::Notify { to, notification } => {
                self.checker.votes(at, &notification)?;
                self.send_vote(at, index(to), notification);
            }
            Output::Connect { link, to } => {
                self.checker.elects(at, to)?;
                self.connect(at, link, index(to));
            }
            Output::Send { link, packet } => self.send(at, link, packet)?,
            Output::Broadcast { links, entries } => {
                self.checker.proposes(at, &entries)?;
                for link in links {
                    for entry in &entries {
                        self.send(at, link, Packet::Proposal(entry.clone()))?;
                    }
                }
            }
            Output::Mark { link } => self.load(at, link, Load::Mark),
            Output::Close { link, .. } => self.close(at, link),
            Output::SendSnapshot { link, zxid } => self.send_tree(at, link, zxid)?,
            Output::ReadLog { link, after, upto } => self.read_log(at, link, after, upto),
            Output::Append { entries, position } => {
                self.checker.appends(at, &entries)?;
                self.queue_job(at, Job::Append { entries, position });
            }
            Output::WriteEpoch { file, epoch } => {
                self.checker.wants_epoch(at, file, epoch)?;
                self.queue_job(at, Job::Epoch { file, epoch });
            }
            Output::Truncate { zxid } => self.queue_job(at, Job::Truncate { zxid }),
            Output::Apply { entries } => self.apply(at, &entries)?,
            Output::Synced => {
                self.serve(at, |service, tree, _, wishes| service.synced(tree, wishes))?;
            }
            Output::Looking { handed_over, .. } => {
                self.checker.looks(at, handed_over);
                self.serve(at, |service, _, _, wishes| service.pause(wishes))?;
            }
            Output::Resign { .. } => {
                self.serve(at, |service, _, _, wishes| service.resign(wishes))?;
            }
            Output::Lead { epoch } => {
                self.checker.leads(at, epoch)?;
                let life = self.members[at].life;
                self.after(100 * MILLI, Event::Expire(at, life));
                self.serve(at, |service, tree, now, wishes| {
                    service.lead(epoch, tree, now, wishes);
                })?;
            }
            Output::Follow { epoch, link, .. } => {
                self.checker.follows(at, epoch)?;
                self.serve(at, |service, tree, now, wishes| {
                    service.follow(link, tree, now, wishes);
                })?;
            }
            Output::Deliver { link, packet } => {
                self.serve(at, |service, tree, now, wishes| {
                    service.deliver(link, packet, tree, now, wishes);
                })?;
            }
            output => self.count_members(at, output)?,
        }
        Ok(())
    }

    /// What changes who belongs to the ensemble, and who of it is here.
    fn count_members(&mut self, at: usize, output: Output) -> Checked {
        let Some(process) = self.members[at].process.as_deref() else {
            return Ok(());
        };
        let roster = &process.service.roster;
        match output {
            Output::LearnerJoined {
                link,
                sid,
                observer,
                ..
            } => roster.join(link, sid, observer),
            Output::LearnerLeft { link } => roster.leave(link),
            Output::Propound { config } => {
                roster.propound(config.clone());
                self.queue_job(at, Job::Propound(config.into()));
            }
            Output::Activate { config } => {
                roster.activate(config.clone());
                self.checker.activates(at, &config)?;
                self.queue_job(at, Job::Activate(config.into()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets the service of a member do something, and fulfils its wishes.
    pub(super) fn serve(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut Service, &Tree, Millis, &mut Wishes),
    ) -> Checked {
        let mut wishes = Wishes::default();
        let now = self.members[at].clock.millis(self.now);
        if let Some(process) = self.members[at].process.as_deref_mut() {
            act(&mut process.service, &process.tree, now, &mut wishes);
            process.inbox.extend(wishes.inputs);
        }
        for (link, packet) in wishes.packets {
            self.send(at, link, packet)?;
        }
        for (conn, tell) in wishes.tells {
            self.tell(conn, tell);
        }
        let delay = self.rng.u64(..200);
        self.call(at, delay);
        Ok(())
    }

    pub(super) fn apply(&mut self, at: usize, entries: &[Entry]) -> Checked {
        for entry in entries {
            let parsed = TxnEntry::from_slice(&entry.bytes);
            if let Ok(parsed) = &parsed {
                self.serve(at, |service, tree, _, wishes| {
                    service.uncover(&parsed.header, tree, wishes);
                })?;
            }
            let Some(process) = self.members[at].process.as_deref_mut() else {
                return Ok(());
            };
            if let Ok(parsed) = &parsed {
                process.tree.apply(&parsed.header, &parsed.txn, &mut ());
            }
            process.since_snapshot += 1;
            self.checker.applied(at, entry, &process.tree)?;
            self.serve(at, |service, tree, _, wishes| {
                service.applied(entry, tree, wishes);
            })?;
        }
        let snap_count = self.plan.snap_count;
        if let Some(process) = self.members[at].process.as_deref_mut()
            && process.since_snapshot >= snap_count
            && process.service.serves()
            && process.dumps.iter().all(|(whom, _)| *whom != DumpFor::Disk)
        {
            process.since_snapshot = 0;
            self.dump(at, DumpFor::Disk);
        }
        Ok(())
    }

    pub(super) fn expire(&mut self, at: usize, life: u64, event: Event) -> Checked {
        if self.postponed(at, event) {
            return Ok(());
        }
        if self
            .process(at, life)
            .is_some_and(|process| process.service.serves())
        {
            self.serve(at, |service, tree, now, wishes| {
                service.expire(tree, now, wishes);
            })?;
            self.after(100 * MILLI, event);
        }
        Ok(())
    }

    /// A member dies.
    pub(super) fn crash(&mut self, at: usize, death: Death) {
        let Some(mut process) = self.members[at].process.take() else {
            return;
        };
        self.counts.crashes += 1;
        self.trace
            .note(self.now, || format!("{} dies: {death:?}", at + 1));
        let disk = &mut self.members[at].disk;
        if process.host.busy && self.rng.bool() {
            // It dies somewhere in the middle of what the disk is doing.
            disk.cut_power_at_sync(disk.syncs() + self.rng.u64(1..6));
            self.interrupted[at] = process.host.interrupt();
        }
        *disk = match death {
            Death::Killed | Death::Disk => disk.kill(),
            Death::Power | Death::AtOutput(_) => disk.lose_power(self.rng.u64(..)),
        };
        self.members[at].paused_until = 0;
        self.lose_connections(at, matches!(death, Death::Killed | Death::Disk));
    }

    pub(super) fn lose_connections(&mut self, at: usize, orderly: bool) {
        let life = self.members[at].life;
        let wires: Vec<WireId> = self.net.wires.keys().copied().collect();
        for id in wires {
            let delay = match orderly {
                true => self.net.delay(&mut self.rng),
                // Nobody is there to say that nobody is there.
                false => self.rng.u64(MILLI..2 * SECOND),
            };
            let Some(wire) = self.net.wires.get_mut(&id) else {
                continue;
            };
            for end in 0..2 {
                if wire.ends[end].member == at && wire.ends[end].life == life {
                    wire.ends[end].open = false;
                    wire.installing &= end == 1;
                    let under_way = wire.lanes[end].len();
                    wire.lanes[end].truncate(self.rng.usize(..=under_way));
                    wire.end(end, self.now + delay);
                }
            }
            self.arm_wire(id);
        }
        for other in (0..self.members.len()).filter(|other| *other != at) {
            let (pair, _) = self.net.vote_lane(at, other);
            pair.last[usize::from(at > other)] = None;
            self.part(at.min(other), at.max(other));
        }
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            if self.conns[&conn].member == at && self.conns[&conn].life == life {
                self.tell(conn, Tell::Closed);
            }
        }
    }
}
