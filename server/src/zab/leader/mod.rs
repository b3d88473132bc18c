//! The part of a member that leads (spec: quorum protocol, sections 3 to 6).

mod broadcast;
pub(super) mod confirmation;
mod founding;
mod succession;

use std::collections::BTreeMap;

use self::confirmation::Confirmation;
use self::succession::Handing;
use super::own::{Over, Own, Turn};
use super::remote::{Remote, Stage, Terms};
use super::{Link, LogRead, Millis, Mutant, Output, Packet, Sid};

/// Leads, or is about to.
#[derive(Debug)]
pub(super) struct Leader {
    phase: Phase,
    /// The epoch that begins; the newest that is known of until it is fixed.
    epoch: u32,
    /// The last transaction before the epoch.
    initial: i64,
    learners: BTreeMap<Link, Remote>,
    /// Until when the phase has to be over, as long as the leader is not active.
    until: Millis,
    /// When learners are looked after next.
    beat_at: Millis,
    /// Beats since a quorum followed.
    lonely_beats: u32,
    confirmation: Confirmation,
    /// Has it asked for the last proposal, to begin a new epoch?
    resigned: bool,
    handing: Option<Handing>,
    /// The round of the election that it has won, if there was one.
    round: Option<i64>,
    /// When it gives up, unless a quorum comes that seems to have gone to another.
    doubts_until: Option<Millis>,
}

/// How far the epoch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It hears which epochs are over, until it has heard a quorum.
    Gathering,
    /// It makes its own promise durable.
    Promising,
    /// It waits for a quorum that promises, none of which has a newer history.
    Electing,
    /// It makes durable that it follows itself.
    Confirming,
    /// It waits for a quorum that has its history.
    Synchronising,
    /// It proposes.
    Active,
}

impl Leader {
    /// Begins to lead, elected in a round or named by the leader before. The member's history is
    /// durable.
    pub(super) fn new(own: &mut Own, round: Option<i64>) -> Self {
        let limit = match round {
            Some(_) => own.settings.init_limit,
            None => own.settings.connect_limit,
        };
        let mut leader = Leader {
            phase: Phase::Gathering,
            epoch: own.promised.accepted.max(own.newest_epoch),
            initial: own.history.last(),
            learners: BTreeMap::new(),
            until: own.now + limit,
            beat_at: own.now + own.settings.tick / 2,
            lonely_beats: 0,
            confirmation: Confirmation::default(),
            resigned: false,
            handing: None,
            round,
            doubts_until: None,
        };
        own.activated.clear();
        leader.gather(own);
        leader
    }

    /// The epoch, once it is fixed.
    pub(super) fn epoch(&self) -> u32 {
        match self.phase {
            Phase::Gathering => 0,
            _ => self.epoch,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Ends all connections.
    pub(super) fn leave(&mut self, own: &mut Own, reason: &'static str) {
        for link in std::mem::take(&mut self.learners).into_keys() {
            own.close(link, reason);
        }
    }

    pub(super) fn deadline(&self, own: &Own) -> Option<Millis> {
        let phase = match self.is_active() {
            true => self.handing.map(|handing| handing.until),
            false => Some(self.until),
        };
        let (beat, disk) = (Some(self.beat_at), self.disk_deadline(own));
        let waits = [beat, disk, phase, self.doubts()];
        waits.into_iter().flatten().min()
    }

    /// Until when the disk is to get on.
    fn disk_deadline(&self, own: &Own) -> Option<Millis> {
        let since = own.history.waiting_since();
        let since = since.filter(|_| self.is_active() && self.handing.is_none());
        Some(since? + own.settings.disk_limit)
    }

    pub(super) fn wake(&mut self, own: &mut Own) -> Turn {
        if !self.is_active() && own.now >= self.until {
            return Over::because("no quorum has joined in time");
        }
        if self.doubts().is_some_and(|until| own.now >= until) {
            return Over::because("those who have elected it do not come any more");
        }
        if self.handing.is_some_and(|handing| own.now >= handing.until) {
            return Over::because("no follower was ready to take over in time");
        }
        let late = |deadline| own.now >= deadline;
        if self.disk_deadline(own).is_some_and(late) {
            self.abdicate(own)?;
        }
        if own.now >= self.beat_at {
            self.beat_at = own.now + (own.settings.tick / 2).max(1);
            self.beat(own)?;
        }
        Ok(())
    }

    /// Looks after the learners.
    fn beat(&mut self, own: &mut Own) -> Turn {
        let late: Vec<(Link, &'static str)> = self
            .learners
            .iter()
            .filter_map(|(link, remote)| Some((*link, remote.lateness(own)?)))
            .collect();
        for (link, reason) in late {
            self.drop_learner(own, link, reason);
        }
        for remote in self.learners.values_mut() {
            if remote.stage >= Stage::Acked {
                remote.ping(own);
            }
        }
        // A follower that has lost its connection has the time of a beat to come back.
        self.lonely_beats += 1;
        if self.is_supported(own, Stage::Acked) {
            self.lonely_beats = 0;
        }
        match self.is_active() && self.lonely_beats > 1 {
            true => Over::because("no quorum follows any more"),
            false => Ok(()),
        }
    }

    /// Has it waited for a quorum in vain?
    pub(super) fn is_lonely(&self, own: &Own) -> bool {
        match self.is_active() {
            true => self.lonely_beats > 1,
            false => own.now >= self.until,
        }
    }

    /// Have enough voters come so far, the member itself included?
    fn is_supported(&self, own: &Own, stage: Stage) -> bool {
        self.has_quorum(own, |remote| remote.stage >= stage)
    }

    fn has_quorum(&self, own: &Own, agrees: impl Fn(&Remote) -> bool) -> bool {
        if own.is(Mutant::CountObservers) {
            let agreeing = self
                .learners
                .values()
                .filter(|remote| agrees(remote))
                .count();
            return agreeing + 1 > own.committed.members.voters().count() / 2;
        }
        own.is_quorum(|sid| sid == own.id() || self.voters(sid).any(&agrees))
    }

    /// The learners that may vote as `sid`. One that does not know yet that it votes has promised,
    /// and made durable what it was sent, like any other.
    fn voters(&self, sid: Sid) -> impl Iterator<Item = &Remote> {
        let learners = self.learners.values();
        learners.filter(move |remote| remote.sid == sid)
    }

    /// Takes a connection in.
    pub(super) fn accepted(&mut self, own: &Own, link: Link) {
        self.learners.insert(link, Remote::new(link, own.now));
    }

    pub(super) fn owns(&self, link: Link) -> bool {
        self.learners.contains_key(&link)
    }

    pub(super) fn closed(&mut self, own: &mut Own, link: Link) {
        let gone = self.learners.remove(&link);
        if gone.is_some_and(|remote| remote.stage == Stage::Joined) {
            own.out.push(Output::LearnerLeft { link });
        }
    }

    fn drop_learner(&mut self, own: &mut Own, link: Link, reason: &'static str) {
        own.close(link, reason);
        self.closed(own, link);
    }

    pub(super) fn receive(&mut self, own: &mut Own, link: Link, packet: Packet) -> Turn {
        let Some(remote) = self.learners.get_mut(&link) else {
            return Ok(());
        };
        remote.heard = own.now;
        match (remote.stage, packet) {
            (Stage::Connected, packet @ Packet::LearnerInfo { .. }) => {
                return self.introduced(own, link, &packet);
            }
            (Stage::Informed, packet @ Packet::AckEpoch { .. }) => {
                self.promised(own, link, &packet);
            }
            (Stage::Offered, Packet::Ack { zxid }) => return self.joined(own, link, zxid),
            (Stage::Acked | Stage::Joined, Packet::Ack { zxid }) => {
                return self.acknowledged(own, link, zxid);
            }
            (Stage::Joined, packet @ (Packet::Request(_) | Packet::Revalidate(_))) => {
                own.out.push(Output::Deliver { link, packet });
            }
            (Stage::Joined, packet @ Packet::Ping { .. }) => {
                own.out.push(Output::Deliver { link, packet });
                self.ponged(own, link);
            }
            (Stage::Acked, Packet::Ping { .. })
            | (Stage::Acked | Stage::Joined, Packet::Unknown { .. }) => {}
            _ => self.drop_learner(own, link, "it has spoken out of turn"),
        }
        Ok(())
    }

    fn terms(&self, own: &Own) -> Terms {
        Terms {
            epoch: self.epoch,
            active: self.is_active(),
            committed: match self.is_active() {
                true => own.history.applied(),
                false => self.initial,
            },
            confirmed: self.confirmation.over(),
        }
    }

    /// The voters that have the whole history, but for what is on its way, the member itself
    /// included.
    pub(super) fn synced(&self, own: &Own) -> Vec<Sid> {
        let learners = self.learners.values();
        let synced = learners.filter(|r| r.stage == Stage::Joined && !r.observer);
        synced.map(|r| r.sid).chain([own.id()]).collect()
    }

    /// Is a voter connected?
    pub(super) fn is_followed(&self, own: &Own) -> bool {
        let mut learners = self.learners.values();
        learners.any(|r| r.stage > Stage::Connected && own.is_voter(r.sid))
    }

    pub(super) fn drained(&mut self, own: &mut Own, link: Link) {
        let terms = self.terms(own);
        if let Some(remote) = self.learners.get_mut(&link) {
            remote.drained(own, &terms);
        }
    }

    pub(super) fn snapshot_begun(&mut self, own: &mut Own, link: Link, zxid: i64) {
        if let Some(remote) = self.learners.get_mut(&link) {
            remote.snapshot_begun(own, zxid);
        }
    }

    pub(super) fn log_read(&mut self, own: &mut Own, link: Link, read: LogRead) {
        let terms = self.terms(own);
        let Some(remote) = self.learners.get_mut(&link) else {
            return;
        };
        if let Err(reason) = remote.log_read(own, &terms, read) {
            self.drop_learner(own, link, reason);
        }
    }
}
