//! One member of an ensemble.

use std::collections::BTreeMap;

use super::election::{Credentials, Decision, Election};
use super::leader::Leader;
use super::learner::Learner;
use super::own::{Over, Own, Turn};
use super::{Entry, Input, Link, Membership, Millis, Mutant, Output, Packet, Role, Sid};
use crate::storage::epoch::Epochs;

/// What a member goes by. Times are those of `zoo.cfg`, in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The member's own id.
    pub id: Sid,
    /// The unit of the following limits (`tickTime`).
    pub tick: Millis,
    /// How long discovery and synchronisation may take (`initLimit` ticks).
    pub init_limit: Millis,
    /// How long a member may be silent or behind (`syncLimit` ticks).
    pub sync_limit: Millis,
    /// How long a learner tries to reach its leader (`connectToLearnerMasterLimit` ticks).
    pub connect_limit: Millis,
    /// A log whose writes take longer makes a leader step down.
    pub disk_limit: Millis,
    /// Shortest and longest pause before votes are sent again.
    pub notification_interval: (Millis, Millis),
    /// How long a search waits for a better vote once it has a quorum, while not every voter
    /// that can be reached has agreed.
    pub finalize_wait: Millis,
    /// Committed transactions kept in memory for learners that come back (`commitLogCount`).
    pub commit_log_count: usize,
    /// Bytes of them at most.
    pub commit_log_bytes: usize,
    /// Always send learners the whole tree (`forceSnapshotSync`).
    pub force_snapshot: bool,
    /// Does this member only observe (`peerType`)?
    pub observer: bool,
    /// May the members be changed (`reconfigEnabled`)?
    pub reconfig: bool,
}

/// What the disk had at the start.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The epoch files.
    pub epochs: Epochs,
    /// The last transaction in the log; -1 for a missing database, which must not vote.
    pub last_zxid: i64,
    /// The last transactions of the log, without a gap up to `last_zxid`; as many as are to be
    /// kept in memory, or none.
    pub recent: Vec<Entry>,
    /// The configuration that was committed last, as far as this member knows.
    pub committed: Membership,
    /// A newer one that was only proposed, and is in the history.
    pub proposed: Option<Membership>,
}

/// One member of an ensemble: everything that it promises to others, and when.
#[derive(Debug)]
pub struct Peer {
    pub(super) own: Own,
    election: Election,
    state: State,
    /// Connections of learners that have decided before this member has.
    early: BTreeMap<Link, Early>,
    /// When it took its present role, if it has not come to serve in it yet.
    began: Option<Millis>,
    /// Where its randomness has got to.
    random: u64,
}

/// What it does at the moment.
#[derive(Debug)]
enum State {
    /// It waits until all that it has is durable, and for a time, before it votes or goes with
    /// `next`.
    Settling { next: Option<Sid>, until: Millis },
    /// It searches.
    Looking,
    /// It leads.
    Leading(Box<Leader>),
    /// It follows or observes.
    Learning(Box<Learner>),
}

#[derive(Debug)]
struct Early {
    until: Millis,
    /// The first packet, once it has come.
    info: Option<Packet>,
}

/// The usual pause before a search behind one that led to nothing.
const PAUSE: Millis = 100;
/// How long a member whom no quorum follows waits before it votes again, in times of what a search
/// waits for a better vote.
const MODESTY: Millis = 3;
/// Connections that are kept while the member does not lead. An ensemble has 255 servers at most.
const MAX_EARLY: usize = 255;

impl Peer {
    /// A member that has just started, and searches for a leader from its first wake on, which is
    /// due. `seed` is its randomness.
    pub fn new(settings: Settings, recovered: Recovered, seed: u64, now: Millis) -> Self {
        let own = Own::new(settings, recovered, now);
        let (committed, proposed) = (own.committed.clone(), own.proposed.clone());
        Peer {
            election: Election::new(&own.settings, committed, proposed),
            own,
            state: State::Settling {
                next: None,
                until: now,
            },
            early: BTreeMap::new(),
            began: None,
            random: seed,
        }
    }

    /// Puts a fault in.
    #[doc(hidden)]
    pub fn mutate(&mut self, mutant: Mutant) {
        self.own.mutate(mutant);
    }

    /// Takes an input, and appends what is to be done to `out`.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Output>) {
        self.own.now = now;
        std::mem::swap(&mut self.own.out, out);
        if let Err(over) = self.take(input) {
            self.end(over);
        }
        self.tell_election();
        if let Err(over) = self.settle() {
            self.end(over);
        }
        self.tell_election();
        std::mem::swap(&mut self.own.out, out);
    }

    /// When [`Input::Wake`] is due; `None` if nothing waits for the time.
    pub fn deadline(&self) -> Option<Millis> {
        let state = match &self.state {
            State::Settling { until, .. } => self.own.is_settled().then_some(*until),
            State::Looking => self.election.deadline(),
            State::Leading(leader) => leader.deadline(&self.own),
            State::Learning(learner) => learner.deadline(&self.own),
        };
        let early = self.early.values().map(|early| early.until);
        early.chain(state).min()
    }

    /// What it is at the moment.
    pub fn role(&self) -> Role {
        match &self.state {
            State::Settling { .. } | State::Looking => Role::Looking,
            State::Leading(_) => Role::Leading,
            State::Learning(learner) if learner.observer() => Role::Observing,
            State::Learning(_) => Role::Following,
        }
    }

    /// The epoch in which it leads or follows; 0 while it does not know one.
    pub fn epoch(&self) -> u32 {
        match &self.state {
            State::Settling { .. } | State::Looking => 0,
            State::Leading(leader) => leader.epoch(),
            State::Learning(learner) => learner.epoch(),
        }
    }

    /// Whom it takes for the leader.
    pub fn leader(&self) -> Option<Sid> {
        match &self.state {
            State::Settling { .. } | State::Looking => None,
            State::Leading(_) => Some(self.own.id()),
            State::Learning(learner) => Some(learner.leader()),
        }
    }

    /// Does it lead a quorum?
    pub fn is_active_leader(&self) -> bool {
        matches!(&self.state, State::Leading(leader) if leader.is_active())
    }

    /// Does it serve, as a leader or as a learner?
    pub fn is_serving(&self) -> bool {
        match &self.state {
            State::Leading(leader) => leader.is_active(),
            State::Learning(learner) => learner.is_following(),
            _ => false,
        }
    }

    /// The last transaction that it has accepted, durable or not.
    pub fn last_zxid(&self) -> i64 {
        self.own.last_zxid()
    }

    /// The last transaction that was handed to the tree. While it serves, that is the last that
    /// it knows to be committed.
    pub fn applied(&self) -> i64 {
        self.own.history.applied()
    }

    /// The committed configuration, and a newer one that is only proposed.
    pub fn membership(&self) -> (&Membership, Option<&Membership>) {
        (&self.own.committed, self.own.proposed.as_ref())
    }

    /// Is a voter connected to this leader, however far it has come?
    pub fn is_followed(&self) -> bool {
        matches!(&self.state, State::Leading(leader) if leader.is_followed(&self.own))
    }

    /// The followers of an active leader that have its whole history, but for what is on its way,
    /// and the member itself: of these a new configuration must have a quorum.
    pub fn synced(&self) -> Vec<Sid> {
        match &self.state {
            State::Leading(leader) if leader.is_active() => leader.synced(&self.own),
            _ => Vec::new(),
        }
    }

    fn take(&mut self, input: Input) -> Turn {
        match input {
            Input::Wake => self.wake(),
            Input::Notified { from, notification } => {
                let (now, out) = (self.own.now, &mut self.own.out);
                let decision = self.election.receive(now, from, &notification, out);
                if let State::Leading(leader) = &mut self.state
                    && notification.state == Role::Looking
                {
                    let deserted = self.election.is_deserted();
                    leader.doubt(&self.own, from, notification.round, deserted);
                }
                self.decided(decision)
            }
            Input::Reachable { sid, reachable } => {
                let (now, out) = (self.own.now, &mut self.own.out);
                let decision = self.election.reachable(now, sid, reachable, out);
                self.decided(decision)
            }
            Input::Accepted { link } => {
                self.accepted(link);
                Ok(())
            }
            Input::Connected { link } => {
                match &mut self.state {
                    State::Learning(learner) if learner.owns(link) => {
                        learner.connected(&mut self.own, link);
                    }
                    _ => self.own.close(link, "it is no longer needed"),
                }
                Ok(())
            }
            Input::Received { link, packet } => self.received(link, packet),
            Input::Closed { link } => self.closed(link),
            Input::Durable { .. }
            | Input::EpochWritten { .. }
            | Input::Truncated { .. }
            | Input::Installed { .. } => self.stored(input),
            Input::Drained { .. }
            | Input::LogRead { .. }
            | Input::SnapshotBegun { .. }
            | Input::Propose { .. }
            | Input::Sync { .. }
            | Input::HandOver { .. } => self.lead_on(input),
        }
    }

    /// The disk has got on.
    fn stored(&mut self, input: Input) -> Turn {
        let own = &mut self.own;
        match input {
            Input::Durable { position } => own.history.made_durable(position, own.now),
            Input::EpochWritten { file, epoch } => own.epoch_written(file, epoch),
            Input::Truncated { last_zxid } => own.truncated(last_zxid),
            Input::Installed {
                zxid, ref shown, ..
            } => own.installed(zxid, shown.clone()),
            _ => {}
        }
        match (&mut self.state, input) {
            (State::Leading(leader), Input::Durable { .. }) => return leader.advance(own),
            (State::Leading(leader), Input::EpochWritten { .. }) => {
                return leader.epoch_written(own);
            }
            (State::Learning(learner), Input::Durable { .. }) => learner.acknowledge(own),
            (State::Learning(learner), Input::EpochWritten { .. }) => learner.epoch_written(own),
            (State::Learning(learner), Input::Truncated { last_zxid }) => {
                return learner.truncated(own, last_zxid);
            }
            (State::Learning(learner), Input::Installed { link, zxid, .. })
                if learner.owns(link) =>
            {
                return learner.installed(own, zxid);
            }
            _ => {}
        }
        Ok(())
    }

    /// What concerns only a leader.
    fn lead_on(&mut self, input: Input) -> Turn {
        let State::Leading(leader) = &mut self.state else {
            return Ok(());
        };
        let own = &mut self.own;
        match input {
            Input::Drained { link } => leader.drained(own, link),
            Input::LogRead { link, read } => leader.log_read(own, link, read),
            Input::SnapshotBegun { link, zxid } => leader.snapshot_begun(own, link, zxid),
            Input::Propose { epoch, entries } => return leader.propose(own, epoch, entries),
            Input::Sync { epoch, link } => leader.sync(own, epoch, link),
            Input::HandOver { to } => return leader.hand_over(own, to),
            _ => {}
        }
        Ok(())
    }

    fn wake(&mut self) -> Turn {
        let now = self.own.now;
        let late = self.early.extract_if(.., |_, early| early.until <= now);
        for (link, _) in late {
            self.own.close(link, "this server does not lead");
        }
        match &mut self.state {
            State::Settling { .. } => Ok(()),
            State::Looking => {
                let decision = self.election.wake(now, &mut self.own.out);
                self.decided(decision)
            }
            State::Leading(leader) => leader.wake(&mut self.own),
            State::Learning(learner) => learner.wake(&mut self.own),
        }
    }

    fn accepted(&mut self, link: Link) {
        if let State::Leading(leader) = &mut self.state {
            leader.accepted(&self.own, link);
        } else if self.early.len() < MAX_EARLY {
            let settings = &self.own.settings;
            // It may have decided as soon as this member began to wait for a better vote.
            let search = 2 * settings.finalize_wait;
            let until = self.own.now + settings.connect_limit.min(settings.tick).max(search);
            self.early.insert(link, Early { until, info: None });
        } else {
            self.own.close(link, "this server does not lead");
        }
    }

    fn received(&mut self, link: Link, packet: Packet) -> Turn {
        match &mut self.state {
            State::Leading(leader) if leader.owns(link) => {
                return leader.receive(&mut self.own, link, packet);
            }
            State::Learning(learner) if learner.owns(link) => {
                return learner.receive(&mut self.own, link, packet);
            }
            _ => {
                let Some(early) = self.early.get_mut(&link) else {
                    return Ok(());
                };
                if early.info.replace(packet).is_some() {
                    self.early.remove(&link);
                    self.own.close(link, "it has spoken out of turn");
                }
            }
        }
        Ok(())
    }

    fn closed(&mut self, link: Link) -> Turn {
        self.early.remove(&link);
        self.own.closed(link);
        match &mut self.state {
            State::Leading(leader) => leader.closed(&mut self.own, link),
            State::Learning(learner) if learner.owns(link) => return learner.closed(&mut self.own),
            _ => {}
        }
        Ok(())
    }

    /// Ends the role. Nothing of it is left but what is on disk or on its way there.
    pub(super) fn end(&mut self, over: Over) {
        let next = over.next;
        let now = self.own.now;
        // A leader that will not have this member is not asked again at once.
        let hasty = self.began.take().is_some_and(|began| now < began + PAUSE);
        // One that hears nothing may be heard all the same, and would be elected again: it leaves it
        // to the others to find another leader first.
        let lonely = matches!(&self.state, State::Leading(leader) if leader.is_lonely(&self.own));
        let until = match next {
            None if lonely => now + MODESTY * self.own.settings.finalize_wait,
            None if hasty => now + self.pause(),
            _ => now,
        };
        match std::mem::replace(&mut self.state, State::Settling { next, until }) {
            State::Leading(mut leader) => leader.leave(&mut self.own, over.reason),
            State::Learning(mut learner) => {
                if learner.is_unheard(&self.own) {
                    self.election.unheard(now, learner.leader());
                }
                learner.leave(&mut self.own, over.reason);
            }
            State::Settling { .. } | State::Looking => {}
        }
        self.election.stop();
        self.own.out.push(Output::Looking {
            reason: over.reason,
            handed_over: over.handed_over,
        });
    }

    /// A pause that is another for each member and each time, so that no two keep missing each
    /// other.
    fn pause(&mut self) -> Millis {
        // As Knuth's linear congruential generator does it; the upper half is the better one.
        let (factor, step) = (6_364_136_223_846_793_005, 1_442_695_040_888_963_407);
        self.random = self.random.wrapping_mul(factor).wrapping_add(step);
        PAUSE / 2 + (self.random >> 32) % PAUSE
    }

    /// Lets votes go by the present configurations.
    fn tell_election(&mut self) {
        if std::mem::take(&mut self.own.reconfigured) {
            let (committed, proposed) = (self.own.committed.clone(), self.own.proposed.clone());
            self.election.set_membership(committed, proposed);
        }
    }

    /// Goes on once all is durable that a vote would speak of; and tells the votes of a role that
    /// has come to serve what epoch it is.
    fn settle(&mut self) -> Turn {
        match &self.state {
            State::Settling { next, until } if self.own.is_settled() && *until <= self.own.now => {
                let next = *next;
                self.state = State::Looking;
                let credentials = Credentials {
                    last_zxid: self.own.last_zxid(),
                    current_epoch: self.own.epochs.current,
                };
                let out = &mut self.own.out;
                if let Some(leader) = next {
                    self.election.appoint(leader, credentials.last_zxid, out);
                    return self.take_role(leader, None);
                }
                let decision = self.election.start(self.own.now, credentials, out);
                self.decided(decision)
            }
            State::Leading(_) | State::Learning(_) if self.is_serving() => {
                self.election.settled(self.epoch());
                self.began = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn decided(&mut self, decision: Option<Decision>) -> Turn {
        match decision {
            Some(Decision::Elected { leader, round }) => self.take_role(leader, Some(round)),
            Some(Decision::Reconfigured(config)) => {
                self.own.activate(config);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Leads, or follows a leader that was elected in a round or named by the one before.
    fn take_role(&mut self, leader: Sid, round: Option<i64>) -> Turn {
        self.began = Some(self.own.now);
        if leader != self.own.id() {
            self.state = State::Learning(Box::new(Learner::new(&mut self.own, leader)));
            // Whoever has decided for this member does well to decide again.
            for link in std::mem::take(&mut self.early).into_keys() {
                self.own.close(link, "this server follows another");
            }
            return Ok(());
        }
        let leader = Box::new(Leader::new(&mut self.own, round));
        self.state = State::Leading(leader);
        for (link, early) in std::mem::take(&mut self.early) {
            self.accepted(link);
            if let Some(packet) = early.info {
                self.received(link, packet)?;
            }
        }
        Ok(())
    }
}
