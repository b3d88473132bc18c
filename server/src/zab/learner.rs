//! The part of a member that follows a leader, with a vote or without (spec: quorum protocol,
//! sections 3, 4.3 and 6).

use std::collections::VecDeque;

use bytes::Bytes;

use super::history::follows;
use super::own::{Over, Own, Turn};
use super::{
    Entry, Features, Link, Membership, Millis, Mutant, Output, Packet, Position, Sid, counter_of,
    epoch_of, zxid_of,
};
use crate::storage::epoch::EpochFile;

/// The first pause before a leader that could not be reached is tried again.
const FIRST_PAUSE: Millis = 100;
/// The longest such pause. Behind it another leader is looked for.
const LAST_PAUSE: Millis = 400;
/// What a leader may send while the log is being cut. It is no more than it keeps for others.
const MAX_HELD: usize = 256 << 20;

/// Follows one leader, over one connection.
#[derive(Debug)]
pub(super) struct Learner {
    leader: Sid,
    observer: bool,
    phase: Phase,
    /// The connection, or the attempt to make one.
    link: Option<Link>,
    epoch: u32,
    features: Features,
    /// When the leader was last heard.
    heard: Millis,
    /// The last transaction known to be committed; what is applied may be older until the
    /// member is up to date.
    committed: i64,
    /// Acknowledgements, in the order in which they are to be sent.
    owed: VecDeque<Owed>,
    /// It has asked for the whole tree.
    wants_tree: bool,
    /// What came in while the log was being cut.
    held: Vec<Packet>,
    held_bytes: usize,
    /// The leader's configuration, if it is newer.
    config: Option<Membership>,
}

/// How far the member has come with its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It tries to reach the leader, and gives up at a time.
    Connecting {
        pause: Millis,
        retry_at: Option<Millis>,
        until: Millis,
    },
    /// It has introduced itself, and waits to hear of the epoch.
    Greeting,
    /// It writes down that it takes part in the epoch. Its promise counts if it is a new one.
    Promising { counts: bool },
    /// It has said how far its history goes.
    Waiting,
    /// Its log is being cut.
    Cutting { zxid: i64 },
    /// It receives the whole tree.
    Installing,
    /// It receives what it lacks.
    Syncing,
    /// It has everything, and makes it durable.
    Joining,
    /// It serves.
    Following,
}

/// An acknowledgement that waits for the disk.
#[derive(Debug, Clone, Copy)]
enum Owed {
    /// The whole history up to this position is durable, and so is the epoch behind it.
    NewLeader { after: Position },
    /// Everything up to this transaction, which ends at this position, is durable.
    Proposal { zxid: i64, after: Position },
}

impl Learner {
    /// Begins to follow.
    pub(super) fn new(own: &mut Own, leader: Sid) -> Self {
        let phase = Phase::Connecting {
            pause: FIRST_PAUSE,
            retry_at: None,
            until: own.now + own.settings.connect_limit,
        };
        Learner {
            leader,
            observer: own.observes(),
            phase,
            link: Some(own.connect(leader)),
            epoch: 0,
            features: Features::default(),
            heard: own.now,
            committed: 0,
            owed: VecDeque::new(),
            wants_tree: false,
            held: Vec::new(),
            held_bytes: 0,
            config: None,
        }
    }

    pub(super) fn leader(&self) -> Sid {
        self.leader
    }

    /// The epoch of the leader, once it has said so.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn observer(&self) -> bool {
        self.observer
    }

    pub(super) fn owns(&self, link: Link) -> bool {
        self.link == Some(link)
    }

    /// Has the leader said that everything is there?
    pub(super) fn is_following(&self) -> bool {
        self.phase == Phase::Following
    }

    /// Has the leader that it serves been silent for too long?
    pub(super) fn is_unheard(&self, own: &Own) -> bool {
        let deadline = self.deadline(own).filter(|_| self.is_following());
        deadline.is_some_and(|deadline| own.now >= deadline)
    }

    /// Ends the connection.
    pub(super) fn leave(&mut self, own: &mut Own, reason: &'static str) {
        if let Some(link) = self.link.take() {
            own.close(link, reason);
        }
    }

    pub(super) fn deadline(&self, own: &Own) -> Option<Millis> {
        let settings = &own.settings;
        match self.phase {
            Phase::Connecting {
                retry_at, until, ..
            } => Some(retry_at.unwrap_or(until).min(until)),
            Phase::Cutting { .. } | Phase::Installing => None,
            Phase::Joining if !self.owes_new_leader() => Some(self.heard + settings.sync_limit),
            Phase::Following => Some(self.heard + settings.sync_limit),
            _ => Some(self.heard + settings.init_limit),
        }
    }

    pub(super) fn wake(&mut self, own: &mut Own) -> Turn {
        if self.deadline(own).is_none_or(|deadline| own.now < deadline) {
            return Ok(());
        }
        let Phase::Connecting {
            pause,
            retry_at,
            until,
        } = self.phase
        else {
            return Over::because("the leader has been silent for too long");
        };
        if own.now >= until {
            return Over::because("the leader could not be reached");
        }
        if retry_at.is_some() {
            self.link = Some(own.connect(self.leader));
            self.phase = Phase::Connecting {
                pause: pause + pause / 2,
                retry_at: None,
                until,
            };
        }
        Ok(())
    }

    pub(super) fn connected(&mut self, own: &mut Own, link: Link) {
        self.phase = Phase::Greeting;
        self.heard = own.now;
        let info = Packet::LearnerInfo {
            observer: self.observer,
            accepted: own.promised.accepted,
            sid: own.id(),
            config_version: own.committed.version,
        };
        own.send(link, info);
    }

    pub(super) fn closed(&mut self, own: &mut Own) -> Turn {
        self.link = None;
        match &mut self.phase {
            Phase::Connecting { pause, .. } if *pause > LAST_PAUSE => {
                Over::because("the leader could not be reached")
            }
            Phase::Connecting {
                pause, retry_at, ..
            } => {
                *retry_at = Some(own.now + *pause);
                Ok(())
            }
            _ => Over::because("the connection to the leader has ended"),
        }
    }

    pub(super) fn receive(&mut self, own: &mut Own, link: Link, packet: Packet) -> Turn {
        self.heard = own.now;
        match self.phase {
            Phase::Greeting | Phase::Waiting => self.begin_sync(own, link, packet),
            Phase::Cutting { .. } => self.hold(packet),
            Phase::Syncing | Phase::Joining => self.synchronise(own, link, packet),
            Phase::Following => self.follow(own, link, packet),
            Phase::Connecting { .. } | Phase::Promising { .. } | Phase::Installing => {
                Over::because("the leader has spoken out of turn")
            }
        }
    }

    /// The epoch, and then what becomes of the learner's own history.
    fn begin_sync(&mut self, own: &mut Own, link: Link, packet: Packet) -> Turn {
        match (self.phase, packet) {
            (Phase::Greeting, Packet::LeaderInfo { epoch, features }) => {
                self.promise(own, epoch, features)
            }
            (Phase::Waiting, Packet::Snapshot { .. }) => {
                self.phase = Phase::Installing;
                own.install(link);
                Ok(())
            }
            (Phase::Waiting, Packet::Diff { .. } | Packet::Truncate { .. }) if self.wants_tree => {
                Over::because("the leader sends less than the whole tree, which is needed")
            }
            (Phase::Waiting, Packet::Diff { .. }) => {
                own.needs_tree = false;
                self.start_from(own.history.last());
                Ok(())
            }
            (Phase::Waiting, Packet::Truncate { zxid }) => self.cut(own, zxid),
            (_, Packet::Unknown { .. } | Packet::Ping { .. }) => Ok(()),
            _ => Over::because("the leader has not begun as it has to"),
        }
    }

    fn promise(&mut self, own: &mut Own, epoch: u32, features: Features) -> Turn {
        if epoch < own.promised.accepted && !own.is(Mutant::FollowOldEpoch) {
            return Over::because("the leader is of an epoch that is over");
        }
        self.epoch = epoch;
        self.features = features;
        let counts = epoch > own.promised.accepted || own.is(Mutant::PromiseTwice);
        if counts && !own.is(Mutant::ForgetAcceptedEpoch) {
            own.write_epoch(EpochFile::Accepted, epoch);
        }
        self.phase = Phase::Promising { counts };
        self.epoch_written(own);
        Ok(())
    }

    /// An epoch has become durable: what waited for it can be said.
    pub(super) fn epoch_written(&mut self, own: &mut Own) {
        let (Phase::Promising { counts }, Some(link)) = (self.phase, self.link) else {
            return self.acknowledge(own);
        };
        let hasty = own.is(Mutant::PromiseEarly) || own.is(Mutant::ForgetAcceptedEpoch);
        if own.epochs.accepted < self.epoch && !hasty {
            return;
        }
        // A promise is compared with the leader's history, so it has to tell the truth.
        self.wants_tree = own.needs_tree && !counts;
        let last_zxid = match self.wants_tree {
            true => -1,
            false => own.last_zxid(),
        };
        let ack = Packet::AckEpoch {
            last_zxid,
            current: counts.then_some(own.epochs.current),
            features: match self.features.extended() {
                true => Features::ALL,
                false => Features::default(),
            },
        };
        own.send(link, ack);
        self.phase = Phase::Waiting;
        self.heard = own.now;
    }

    /// Everything up to `zxid` is the leader's, too; what it lacks follows.
    fn start_from(&mut self, zxid: i64) {
        self.committed = zxid;
        self.phase = Phase::Syncing;
    }

    fn cut(&mut self, own: &mut Own, zxid: i64) -> Turn {
        if zxid >= own.history.last() {
            return self.after_cut(own, own.history.last(), zxid);
        }
        self.phase = Phase::Cutting { zxid };
        own.truncate(zxid);
        Ok(())
    }

    pub(super) fn truncated(&mut self, own: &mut Own, last: Option<i64>) -> Turn {
        let (Phase::Cutting { zxid }, Some(link)) = (self.phase, self.link) else {
            return Ok(());
        };
        let Some(last) = last else {
            return self.ask_for_tree("the log cannot be cut as far back as the leader wants");
        };
        self.after_cut(own, last, zxid)?;
        self.heard = own.now;
        self.held_bytes = 0;
        let held = std::mem::take(&mut self.held);
        held.into_iter()
            .try_for_each(|packet| self.receive(own, link, packet))
    }

    /// The history ends with `last` now, and the leader goes on behind `zxid`, which may be the
    /// zeroth of an epoch, that is to say nothing.
    fn after_cut(&mut self, own: &mut Own, last: i64, zxid: i64) -> Turn {
        if last != zxid && (counter_of(zxid) != 0 || last > zxid) {
            own.needs_tree = true;
            return self.ask_for_tree("the log does not hold the transaction to go back to");
        }
        self.start_from(last);
        Ok(())
    }

    /// Connects to the leader again: only who has promised its epoch before may ask for a tree.
    fn ask_for_tree(&self, reason: &'static str) -> Turn {
        Err(Over {
            reason,
            next: Some(self.leader),
            handed_over: false,
        })
    }

    fn hold(&mut self, packet: Packet) -> Turn {
        if let Packet::Proposal(entry) | Packet::Inform(entry) = &packet {
            self.held_bytes += entry.bytes.len();
        }
        if self.held_bytes > MAX_HELD {
            return Over::because("too much came in while the log was being cut");
        }
        self.held.push(packet);
        Ok(())
    }

    pub(super) fn installed(&mut self, own: &mut Own, zxid: i64) -> Turn {
        if self.phase != Phase::Installing {
            return Over::because("a tree came that was not awaited");
        }
        self.heard = own.now;
        self.start_from(zxid);
        Ok(())
    }

    /// What comes between the decision on the learner's history and the word to serve.
    fn synchronise(&mut self, own: &mut Own, link: Link, packet: Packet) -> Turn {
        if own.is(Mutant::EpochBeforeHistory) && own.promised.current != self.epoch {
            own.write_epoch(EpochFile::Current, self.epoch);
        }
        match packet {
            Packet::NewLeader { epoch, config } if self.phase == Phase::Syncing => {
                self.new_leader(own, epoch, &config)
            }
            Packet::UpToDate if self.phase == Phase::Joining && !self.owes_new_leader() => {
                self.up_to_date(own, link)
            }
            Packet::Ping { .. } | Packet::Unknown { .. } => Ok(()),
            other => self.history(own, other),
        }
    }

    fn new_leader(&mut self, own: &mut Own, epoch: u32, config: &Bytes) -> Turn {
        if epoch != self.epoch {
            return Over::because("the leader has confused its epochs");
        }
        self.take_config(own, config);
        self.phase = Phase::Joining;
        let after = own.history.appended();
        self.owed.push_back(Owed::NewLeader { after });
        // The leader counts no promise for what it has not committed yet, but an acknowledgement.
        let open = own.history.behind(self.committed, i64::MAX, usize::MAX);
        for entry in open {
            self.owe(entry.zxid, after);
        }
        self.acknowledge(own);
        Ok(())
    }

    /// The leader's configuration replaces what was proposed before.
    fn take_config(&mut self, own: &mut Own, text: &Bytes) {
        let config = String::from_utf8_lossy(text).parse::<Membership>().ok();
        self.config = config.filter(|config| config.version > own.committed.version);
        let proposed = own.proposed.as_ref().map(|config| config.version);
        match &self.config {
            Some(config) if proposed != Some(config.version) => own.propound(config.clone()),
            None if own
                .proposed
                .as_ref()
                .is_some_and(|config| !config.is_change()) =>
            {
                own.withdraw();
            }
            _ => {}
        }
    }

    fn up_to_date(&mut self, own: &mut Own, link: Link) -> Turn {
        // A change of the members that is still to be committed stays what it is.
        let committed = self.committed.max(zxid_of(self.epoch, 0));
        let config = self.config.take();
        if let Some(config) = config.filter(|c| c.version.cast_signed() <= committed) {
            own.activate(config);
        }
        // And one that was proposed meanwhile may be committed by now, too.
        own.activate_upto(self.committed);
        own.apply(self.committed);
        own.missing = false;
        self.phase = Phase::Following;
        own.send(
            link,
            Packet::Ack {
                zxid: zxid_of(self.epoch, 0),
            },
        );
        own.out.push(Output::Follow {
            epoch: self.epoch,
            leader: self.leader,
            link,
            features: self.features,
            observer: self.observer,
        });
        self.take_part(own, self.leader)
    }

    /// Ends the role if the configuration asks for another, or for another leader.
    fn take_part(&self, own: &Own, leader: Sid) -> Turn {
        if leader == self.leader && own.observes() == self.observer {
            return Ok(());
        }
        Err(Over {
            reason: "the members have changed",
            next: Some(leader).filter(|leader| own.is_voter(*leader)),
            handed_over: false,
        })
    }

    /// What comes once the member serves.
    fn follow(&mut self, own: &mut Own, link: Link, packet: Packet) -> Turn {
        match packet {
            Packet::Ping { .. } | Packet::Sync | Packet::Revalidate(_) => {
                own.out.push(Output::Deliver { link, packet });
                Ok(())
            }
            Packet::HandOver { to } if self.features.extended() => Err(Over {
                reason: "the leader hands over",
                next: Some(to).filter(|to| own.is_voter(*to)),
                handed_over: true,
            }),
            Packet::Unknown { .. } => Ok(()),
            other => self.history(own, other),
        }
    }

    /// Transactions, and how far they are committed.
    fn history(&mut self, own: &mut Own, packet: Packet) -> Turn {
        match packet {
            Packet::Proposal(entry) => self.proposed(own, entry),
            Packet::Commit { zxid } => self.commit(own, zxid, self.leader),
            Packet::CommitAndActivate { zxid, leader } => self.commit(own, zxid, leader),
            Packet::Inform(entry) => {
                let zxid = entry.zxid;
                self.proposed(own, entry)?;
                self.commit(own, zxid, self.leader)
            }
            Packet::InformAndActivate { entry, leader } => {
                let zxid = entry.zxid;
                self.proposed(own, entry)?;
                self.commit(own, zxid, leader)
            }
            _ => Over::because("the leader has spoken out of turn"),
        }
    }

    fn proposed(&mut self, own: &mut Own, entry: Entry) -> Turn {
        let last = own.history.last();
        if entry.zxid <= last {
            // It was part of a tree, or of what was found in the log.
            return Ok(());
        }
        let follows = follows(last, entry.zxid) || is_careless(own);
        if !follows || epoch_of(entry.zxid) > self.epoch {
            return Over::because("the leader has left out a transaction");
        }
        let zxid = entry.zxid;
        let after = own.append(vec![entry])?;
        if matches!(self.phase, Phase::Joining | Phase::Following) {
            self.owe(zxid, after);
        }
        if own.is(Mutant::ApplyProposed) {
            own.apply(zxid);
        }
        if own.is(Mutant::AckEarly) {
            self.acknowledge(own);
        }
        Ok(())
    }

    fn owe(&mut self, zxid: i64, after: Position) {
        if !self.observer {
            self.owed.push_back(Owed::Proposal { zxid, after });
        }
    }

    fn commit(&mut self, own: &mut Own, zxid: i64, leader: Sid) -> Turn {
        if zxid <= self.committed {
            return Ok(());
        }
        let next = own.history.next(self.committed).map(|entry| entry.zxid);
        let known = match self.features.extended() {
            true => own.history.contains(zxid),
            false => next == Some(zxid),
        };
        if !known {
            return Over::because("the leader has committed what it did not propose");
        }
        self.committed = zxid;
        // Until the leader is known to lead, all this may still be taken back, and a tree that
        // has to be taken back is dear: it waits as long as there is room.
        if !self.is_following() {
            if own.history.is_full() {
                own.apply(zxid);
            }
            return Ok(());
        }
        own.activate_upto(zxid);
        own.apply(zxid);
        self.take_part(own, leader)
    }

    /// Sends the acknowledgements whose time has come, in their order.
    pub(super) fn acknowledge(&mut self, own: &mut Own) {
        let Some(link) = self.link else {
            return;
        };
        if own.is(Mutant::AckOvertakes) {
            let order = |owed: &Owed| matches!(owed, Owed::NewLeader { .. });
            self.owed.make_contiguous().sort_by_key(order);
        }
        let durable = |unless: Mutant| match own.is(unless) {
            true => own.history.appended(),
            false => own.history.durable(),
        };
        let (joinable, ackable) = (durable(Mutant::JoinEarly), durable(Mutant::AckEarly));
        let mut last = None;
        while let Some(owed) = self.owed.front().copied() {
            match owed {
                Owed::NewLeader { after } if after <= joinable => {
                    if own.epochs.current != self.epoch && !own.is(Mutant::ForgetCurrentEpoch) {
                        if own.promised.current != self.epoch {
                            own.write_epoch(EpochFile::Current, self.epoch);
                        }
                        if !own.is(Mutant::JoinEarly) {
                            break;
                        }
                    }
                    let zxid = zxid_of(self.epoch, 0);
                    own.send(link, Packet::Ack { zxid });
                    self.heard = own.now;
                }
                Owed::Proposal { zxid, after } if after <= ackable => {
                    match self.features.extended() {
                        true => last = Some(zxid),
                        false => own.send(link, Packet::Ack { zxid }),
                    }
                }
                _ => break,
            }
            self.owed.pop_front();
        }
        if let Some(zxid) = last {
            own.send(link, Packet::Ack { zxid });
        }
    }

    fn owes_new_leader(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::NewLeader { .. }))
    }
}

/// Does a fault that is put in need a learner that believes everything?
fn is_careless(own: &Own) -> bool {
    let careless = [
        Mutant::TruncateTooMuch,
        Mutant::SkipFirst,
        Mutant::SkipOutstanding,
        Mutant::OfferEarly,
    ];
    careless.into_iter().any(|mutant| own.is(mutant))
}
