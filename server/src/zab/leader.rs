//! The part of a member that leads (spec: quorum protocol, sections 3 to 6).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::own::{Over, Own, Turn};
use super::remote::{Remote, Stage, Terms};
use super::{
    Entry, Features, Link, LogRead, Millis, Mutant, Output, Packet, Sid, counter_of, epoch_of,
    history::follows, zxid_of,
};
use crate::storage::epoch::EpochFile;

/// The newest epoch that may begin: an `int` in the files of Apache ZooKeeper.
const LAST_EPOCH: u32 = i32::MAX.cast_unsigned();

/// The number of a transaction from which on the next epoch is to begin soon.
const LAST_COUNTER: u32 = 0xffff_0000;
/// For the log.
const SLOW_DISK: &str = "the disk takes too long";
/// For the log.
const OUTDATED: &str = "a voter has promised a newer epoch";

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
    /// Learners that want to hear when a transaction is committed.
    syncs: Vec<(i64, Link)>,
    /// Why, and since when, it wants to lead no longer.
    resigned: Option<(Resignation, Millis)>,
    handing: Option<Handing>,
    /// The round of the election that it has won, if there was one.
    round: Option<i64>,
}

/// Why a leader wants to lead no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resignation {
    /// The epoch has few numbers left; the same leader can go on in the next.
    Exhausted,
    /// A voter has promised a newer epoch, and can take part only in one that is newer still.
    Outdated,
    /// Its disk takes too long.
    Disk,
}

/// The leader hands over, and proposes nothing more.
#[derive(Debug, Clone, Copy)]
struct Handing {
    to: Option<Sid>,
    until: Millis,
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
            syncs: Vec::new(),
            resigned: None,
            handing: None,
            round,
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
        let waits = [Some(self.beat_at), self.disk_deadline(own), phase];
        waits.into_iter().flatten().min()
    }

    /// Until when the disk is to get on, or once the leader has resigned, the resignation is to be
    /// taken notice of.
    fn disk_deadline(&self, own: &Own) -> Option<Millis> {
        let since = match self.resigned {
            Some((Resignation::Disk, since)) => Some(since),
            _ => own.history.waiting_since(),
        };
        let waits = since.filter(|_| self.handing.is_none());
        Some(waits? + own.settings.disk_limit)
    }

    pub(super) fn wake(&mut self, own: &mut Own) -> Turn {
        if !self.is_active() && own.now >= self.until {
            return Over::because("no quorum has joined in time");
        }
        if self.handing.is_some_and(|handing| own.now >= handing.until) {
            return Over::because("no follower was ready to take over in time");
        }
        let late = |deadline| own.now >= deadline;
        if self.disk_deadline(own).is_some_and(late) {
            match self.resigned {
                None if self.is_active() => self.resign(own, Resignation::Disk),
                _ => return Over::because(SLOW_DISK),
            }
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
        let zxid = own.history.last();
        for (link, remote) in &self.learners {
            if remote.stage >= Stage::Acked {
                let sessions = Bytes::new();
                own.send(*link, Packet::Ping { zxid, sessions });
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

    /// The learners that may vote as `sid`.
    fn voters(&self, sid: Sid) -> impl Iterator<Item = &Remote> {
        let learners = self.learners.values();
        learners.filter(move |remote| remote.sid == sid && !remote.observer)
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
        self.syncs.retain(|(_, waiting)| *waiting != link);
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
            (
                Stage::Joined,
                packet @ (Packet::Request(_) | Packet::Revalidate(_) | Packet::Ping { .. }),
            ) => {
                own.out.push(Output::Deliver { link, packet });
            }
            (Stage::Acked, Packet::Ping { .. })
            | (Stage::Acked | Stage::Joined, Packet::Unknown { .. }) => {}
            _ => self.drop_learner(own, link, "it has spoken out of turn"),
        }
        Ok(())
    }

    /// FOLLOWERINFO, OBSERVERINFO.
    fn introduced(&mut self, own: &mut Own, link: Link, packet: &Packet) -> Turn {
        let Packet::LearnerInfo {
            observer,
            accepted,
            sid,
            config_version,
        } = *packet
        else {
            return Ok(());
        };
        let refusal = if sid == own.id() {
            Some("it has this server's id")
        } else if config_version > own.committed.version {
            Some("its configuration is newer")
        } else if accepted >= LAST_EPOCH {
            Some("it claims that no epoch is left")
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.drop_learner(own, link, reason);
            return Ok(());
        }
        let mut others = self
            .learners
            .values()
            .filter(|r| r.stage > Stage::Connected);
        if let Some(former) = others.find(|remote| remote.sid == sid).map(|r| r.link) {
            self.drop_learner(own, former, "it has connected again");
        }
        if let Some(remote) = self.learners.get_mut(&link) {
            remote.sid = sid;
            remote.observer = observer;
            remote.stage = Stage::Greeted;
        }
        if !observer && own.is_voter(sid) {
            own.newest_epoch = own.newest_epoch.max(accepted);
        }
        if self.phase == Phase::Gathering {
            self.epoch = self.epoch.max(own.newest_epoch);
            self.gather(own);
        }
        self.inform(own);
        self.keep_up(own)
    }

    /// Begins anew if the epoch is older than one that a voter has promised.
    fn keep_up(&mut self, own: &mut Own) -> Turn {
        if self.phase == Phase::Gathering || own.newest_epoch <= self.epoch {
            return Ok(());
        }
        if self.is_active() {
            self.resign(own, Resignation::Outdated);
            return Ok(());
        }
        Err(Over {
            reason: OUTDATED,
            next: Some(own.id()),
            handed_over: false,
        })
    }

    /// A voter searches in a later round: whoever has elected this leader does not come any more.
    pub(super) fn searched(&self, own: &Own, from: Sid, round: i64) -> Turn {
        let later = self.round.is_some_and(|own_round| own_round < round);
        match later && self.phase == Phase::Gathering && own.is_voter(from) {
            true => Over::because("another election has begun before a quorum came"),
            false => Ok(()),
        }
    }

    /// Begins an epoch newer than all that a quorum knows of.
    fn gather(&mut self, own: &mut Own) {
        if self.epoch < LAST_EPOCH && self.is_supported(own, Stage::Greeted) {
            self.epoch += 1;
            self.phase = Phase::Promising;
            if own.is(Mutant::LeadUnpromised) {
                self.begin(own, Phase::Electing);
                return;
            }
            own.write_epoch(EpochFile::Accepted, self.epoch);
        }
    }

    /// Tells of the epoch, once the member's own promise is durable.
    fn inform(&mut self, own: &mut Own) {
        if self.phase <= Phase::Promising {
            return;
        }
        for (link, remote) in &mut self.learners {
            if remote.stage == Stage::Greeted {
                remote.stage = Stage::Informed;
                let packet = Packet::LeaderInfo {
                    epoch: self.epoch,
                    features: Features::ALL,
                };
                own.send(*link, packet);
            }
        }
    }

    /// ACKEPOCH.
    fn promised(&mut self, own: &mut Own, link: Link, packet: &Packet) {
        let Packet::AckEpoch {
            last_zxid,
            current,
            features,
        } = *packet
        else {
            return;
        };
        let newer = current
            .is_some_and(|current| (current, last_zxid) > (own.epochs.current, own.history.last()));
        if self.phase == Phase::Electing && newer && !own.is(Mutant::LeadNewer) {
            return self.drop_learner(own, link, "its history is newer");
        }
        if let Some(remote) = self.learners.get_mut(&link) {
            remote.features = features;
            remote.stage = Stage::Promised;
            remote.sent = last_zxid;
            remote.counts = current.is_some() && last_zxid != -1;
        }
        match self.phase {
            Phase::Electing => self.elect(own),
            Phase::Synchronising | Phase::Active => self.synchronise(own),
            _ => {}
        }
    }

    fn elect(&mut self, own: &mut Own) {
        if self.has_quorum(own, |remote| remote.counts) {
            self.phase = Phase::Confirming;
            own.write_epoch(EpochFile::Current, self.epoch);
        }
    }

    /// An epoch has become durable.
    pub(super) fn epoch_written(&mut self, own: &mut Own) -> Turn {
        if self.phase == Phase::Promising && own.epochs.accepted == self.epoch {
            self.begin(own, Phase::Electing);
            self.inform(own);
            self.elect(own);
        }
        if self.phase == Phase::Confirming && own.epochs.current == self.epoch {
            self.begin(own, Phase::Synchronising);
            self.label_config(own);
            self.synchronise(own);
            return self.activate(own);
        }
        Ok(())
    }

    /// The configuration that an ensemble was started with gets a version of its own.
    fn label_config(&self, own: &mut Own) {
        if own.settings.reconfig && own.last_seen().version == 0 {
            let mut config = own.committed.clone();
            config.version = zxid_of(self.epoch, 0).cast_unsigned();
            own.propound(config);
        }
    }

    fn begin(&mut self, own: &Own, phase: Phase) {
        self.phase = phase;
        self.until = own.now + own.settings.init_limit;
    }

    /// Begins to send what they lack to those who have promised.
    fn synchronise(&mut self, own: &mut Own) {
        let terms = self.terms(own);
        for remote in self.learners.values_mut() {
            if remote.stage == Stage::Promised {
                remote.begin_sync(own, &terms);
            }
        }
    }

    fn terms(&self, own: &Own) -> Terms {
        Terms {
            epoch: self.epoch,
            active: self.is_active(),
            committed: match self.is_active() {
                true => own.history.applied(),
                false => self.initial,
            },
        }
    }

    /// The acknowledgement of NEWLEADER.
    fn joined(&mut self, own: &mut Own, link: Link, zxid: i64) -> Turn {
        if zxid != zxid_of(self.epoch, 0) {
            self.drop_learner(own, link, "it has acknowledged another epoch");
            return Ok(());
        }
        if let Some(remote) = self.learners.get_mut(&link) {
            remote.stage = Stage::Acked;
        }
        match self.phase {
            Phase::Active => {
                self.admit(own);
                self.advance(own)
            }
            _ => self.activate(own),
        }
    }

    /// Leads, if a quorum has the history that the epoch begins with.
    fn activate(&mut self, own: &mut Own) -> Turn {
        let stage = match own.is(Mutant::LeadEarly) {
            true => Stage::Promised,
            false => Stage::Acked,
        };
        if self.phase != Phase::Synchronising || !self.is_supported(own, stage) {
            return Ok(());
        }
        self.phase = Phase::Active;
        // Whatever was proposed is part of the history that is committed now.
        let stays = own.keeps_its_place();
        if let Some(config) = own.proposed.take() {
            own.activate(config);
        }
        own.apply(self.initial);
        if !stays {
            self.admit(own);
            let next = self.successor(own, self.initial);
            return self.pass_on(own, next);
        }
        own.out.push(Output::Lead { epoch: self.epoch });
        self.admit(own);
        Ok(())
    }

    /// Lets those serve who have everything.
    fn admit(&mut self, own: &mut Own) {
        for (link, remote) in &mut self.learners {
            if remote.stage == Stage::Acked {
                remote.stage = Stage::Joined;
                remote.heard = own.now;
                own.send(*link, Packet::UpToDate);
                own.out.push(Output::LearnerJoined {
                    link: *link,
                    sid: remote.sid,
                    features: remote.features,
                });
            }
        }
    }

    /// Numbered transactions: they are sent out and logged.
    pub(super) fn propose(&mut self, own: &mut Own, epoch: u32, entries: Vec<Entry>) -> Turn {
        let Some(newest) = entries.last().map(|entry| entry.zxid) else {
            return Ok(());
        };
        if !self.is_active() || epoch != self.epoch || self.handing.is_some() {
            return Ok(());
        }
        let mut last = own.history.last();
        for entry in &entries {
            if !follows(last, entry.zxid) || epoch_of(entry.zxid) != epoch {
                return Over::because("transactions were numbered with a gap");
            }
            last = entry.zxid;
        }
        let changes = entries.iter().filter(|entry| entry.is_reconfig()).count();
        if changes > usize::from(own.pending_config().is_none()) {
            return Over::because("the members were changed again before that was committed");
        }
        own.append(entries.clone())?;
        if own.is(Mutant::CommitAtOnce) {
            self.commit(own, newest)?;
        }
        self.broadcast(own, entries, newest);
        if counter_of(newest) >= LAST_COUNTER {
            self.resign(own, Resignation::Exhausted);
        }
        Ok(())
    }

    fn broadcast(&mut self, own: &mut Own, entries: Vec<Entry>, newest: i64) {
        let live = self.learners.values().filter(|r| r.is_live_follower());
        let links: Vec<Link> = live.map(|remote| remote.link).collect();
        if links.is_empty() {
            return;
        }
        let bytes = entries.iter().map(|entry| entry.bytes.len()).sum();
        own.out.push(Output::Broadcast {
            links: links.clone(),
            entries,
        });
        for link in links {
            if let Some(remote) = self.learners.get_mut(&link) {
                remote.broadcast(own, newest, bytes);
            }
        }
    }

    fn acknowledged(&mut self, own: &mut Own, link: Link, zxid: i64) -> Turn {
        let Some(remote) = self.learners.get_mut(&link) else {
            return Ok(());
        };
        // The zeroth transaction of the epoch stands for UPTODATE.
        if zxid == zxid_of(self.epoch, 0) {
            return Ok(());
        }
        if zxid > remote.sent {
            self.drop_learner(own, link, "it has acknowledged what it was not sent");
            return Ok(());
        }
        remote.acknowledged(own, zxid);
        self.advance(own)
    }

    /// Commits what a quorum has made durable.
    pub(super) fn advance(&mut self, own: &mut Own) -> Turn {
        if !self.is_active() {
            return Ok(());
        }
        while let Some(zxid) = self.committable(own) {
            self.commit(own, zxid)?;
        }
        self.try_hand_over(own)
    }

    /// The newest transaction that a quorum has, if it is not committed yet. A change of the
    /// members, and what comes behind it, needs a quorum of the new ones, too; and since it decides
    /// on whose word the next is committed, it is the last that is committed at a time.
    fn committable(&self, own: &Own) -> Option<i64> {
        let committed = own.history.applied();
        let durable = match own.is(Mutant::CountEarly) {
            true => own.history.last(),
            false => own.history.durable_zxid(),
        };
        let acked = self.learners.values().map(|remote| remote.acked);
        let mut candidates: Vec<i64> = acked.chain([durable]).filter(|z| *z > committed).collect();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        let change = own.pending_config().unwrap_or(i64::MAX);
        candidates.into_iter().find_map(|zxid| {
            let has_it = |sid| {
                let has = |r: &Remote| r.stage >= Stage::Acked && r.acked >= zxid;
                (sid == own.id() && durable >= zxid) || self.voters(sid).any(has)
            };
            if own.is(Mutant::CommitByMinority) {
                return Some(zxid);
            }
            let newest = match zxid < change {
                true => zxid,
                false if own.is_quorum(has_it) => return Some(change),
                false => own.history.before(change),
            };
            (newest > committed && own.committed.is_quorum(has_it)).then_some(newest)
        })
    }

    fn commit(&mut self, own: &mut Own, zxid: i64) -> Turn {
        let mut next = None;
        if own.pending_config() == Some(zxid) {
            let stays = own.keeps_its_place();
            own.activate_upto(zxid);
            let leader = match stays {
                true => own.id(),
                false => self.successor(own, zxid),
            };
            own.activated.push((zxid, leader));
            next = (!stays).then_some(leader);
        }
        let entries = own.apply(zxid);
        let terms = self.terms(own);
        for remote in self.learners.values_mut() {
            remote.committed(own, &terms, &entries);
        }
        self.syncs.retain(|(waits_for, link)| {
            let waits = *waits_for > zxid;
            if !waits {
                own.send(*link, Packet::Sync);
            }
            waits
        });
        match next {
            None => Ok(()),
            next => Err(Over {
                reason: "the members have changed",
                next,
                handed_over: false,
            }),
        }
    }

    /// Who leads instead of the member under the committed configuration: a voter that has
    /// everything up to `zxid`.
    fn successor(&self, own: &Own, zxid: i64) -> Sid {
        let learners = self.learners.values();
        let ready = learners.filter(|r| {
            let votes = !r.observer && own.committed.is_voter(r.sid);
            votes && r.stage >= Stage::Acked && r.acked >= zxid
        });
        let newest = ready.map(|r| (r.acked, r.sid)).max();
        newest.map_or(own.id(), |(_, sid)| sid)
    }

    /// Asks for the last transactions, to lead no longer once they are committed.
    fn resign(&mut self, own: &mut Own, why: Resignation) {
        if self.resigned.is_some() || self.handing.is_some() {
            return;
        }
        self.resigned = Some((why, own.now));
        let reason = match why {
            Resignation::Exhausted => "the epoch has few numbers left",
            Resignation::Outdated => OUTDATED,
            Resignation::Disk => SLOW_DISK,
        };
        own.out.push(Output::Resign { reason });
    }

    /// Nothing more will be proposed: leads until everything is committed, then lets another.
    pub(super) fn hand_over(&mut self, own: &mut Own, to: Option<Sid>) -> Turn {
        if !self.is_active() {
            return Over::because("it was asked to lead no longer");
        }
        let (to, limit) = match self.resigned {
            Some((Resignation::Exhausted | Resignation::Outdated, _)) => {
                (to.or(Some(own.id())), own.settings.sync_limit)
            }
            Some((Resignation::Disk, _)) => (to, own.settings.disk_limit),
            None => (to, own.settings.sync_limit),
        };
        let until = own.now + limit;
        self.handing.get_or_insert(Handing { to, until });
        self.try_hand_over(own)
    }

    /// Ends the role in favour of a follower that has everything, if there is one by now.
    fn try_hand_over(&mut self, own: &mut Own) -> Turn {
        let Some(handing) = self.handing else {
            return Ok(());
        };
        if !self.learners.values().any(|r| can_lead(own, handing.to, r))
            && handing.to != Some(own.id())
        {
            return Over::because("there is no follower that can take over");
        }
        let last = own.history.last();
        if own.history.applied() < last {
            return Ok(());
        }
        if handing.to == Some(own.id()) {
            return self.pass_on(own, own.id());
        }
        let ready = self
            .learners
            .values()
            .filter(|r| can_lead(own, handing.to, r) && r.acked >= last);
        match ready.map(|remote| remote.sid).max() {
            Some(to) => self.pass_on(own, to),
            None => Ok(()),
        }
    }

    /// Ends the role, and names the next leader to all who understand it and have heard of
    /// everything: to them it is a promise that nothing more of what they have asked for is done.
    fn pass_on(&mut self, own: &mut Own, to: Sid) -> Turn {
        for (link, remote) in &self.learners {
            let has_all = remote.has_all(own.history.last());
            if has_all && remote.stage == Stage::Joined && remote.features.extended() {
                own.send(*link, Packet::HandOver { to });
            }
        }
        Err(Over {
            reason: "it hands over",
            next: Some(to),
            handed_over: true,
        })
    }

    /// The voters that have the whole history, but for what is on its way, the member itself
    /// included.
    pub(super) fn synced(&self, own: &Own) -> Vec<Sid> {
        let learners = self.learners.values();
        let synced = learners.filter(|r| r.stage == Stage::Joined && !r.observer);
        synced.map(|r| r.sid).chain([own.id()]).collect()
    }

    /// A learner wants to hear when everything proposed so far is committed.
    pub(super) fn sync(&mut self, own: &mut Own, link: Link) {
        if self
            .learners
            .get(&link)
            .is_none_or(|remote| remote.stage != Stage::Joined)
        {
            return;
        }
        let last = own.history.last();
        match last <= own.history.applied() || own.is(Mutant::SyncEarly) {
            true => own.send(link, Packet::Sync),
            false => self.syncs.push((last, link)),
        }
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

/// Can this learner be the next leader, if that is to be `to`, once it has everything?
fn can_lead(own: &Own, to: Option<Sid>, remote: &Remote) -> bool {
    let named = to.is_none_or(|to| to == remote.sid);
    let follows = remote.stage == Stage::Joined && !remote.observer;
    named && follows && remote.features.extended() && own.committed.is_voter(remote.sid)
}
