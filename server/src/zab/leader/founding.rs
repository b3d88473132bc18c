//! How an epoch begins: a quorum promises it, none of which has a newer history, and then has the
//! leader's (spec: quorum protocol, sections 3 and 5).

use super::succession::{OUTDATED, Resignation};
use super::{Leader, Phase};
use crate::storage::epoch::EpochFile;
use crate::zab::own::{Over, Own, Turn};
use crate::zab::remote::Stage;
use crate::zab::{Features, Link, Millis, Mutant, Output, Packet, Sid, zxid_of};

/// The newest epoch that may begin: an `int` in the files of Apache ZooKeeper.
const LAST_EPOCH: u32 = i32::MAX.cast_unsigned();

impl Leader {
    /// FOLLOWERINFO, OBSERVERINFO.
    pub(super) fn introduced(&mut self, own: &mut Own, link: Link, packet: &Packet) -> Turn {
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
        if own.knows(sid) {
            own.newest_epoch = own.newest_epoch.max(accepted);
        }
        if self.phase == Phase::Gathering {
            self.epoch = self.epoch.max(own.newest_epoch);
            self.gather(own);
        }
        self.inform(own);
        self.keep_up(own)
    }

    /// Begins anew if the epoch is older than one that a member has promised.
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

    /// Takes in that `from` searches in this round, and whether so many have gone to another that
    /// no quorum is left. Votes that are under way may say so of some who come all the same.
    pub(in crate::zab) fn doubt(&mut self, own: &Own, from: Sid, round: i64, deserted: bool) {
        let later = self.round.is_some_and(|own_round| own_round < round);
        let patience = own.settings.finalize_wait;
        self.doubts_until = match deserted || later && own.is_voter(from) {
            true => self.doubts_until.or(Some(own.now + patience)),
            false => None,
        };
    }

    /// When it gives up because nobody seems to come any more.
    pub(super) fn doubts(&self) -> Option<Millis> {
        self.doubts_until.filter(|_| self.phase == Phase::Gathering)
    }

    /// Begins an epoch newer than all that a quorum knows of.
    pub(super) fn gather(&mut self, own: &mut Own) {
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
    pub(super) fn promised(&mut self, own: &mut Own, link: Link, packet: &Packet) {
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
    pub(in crate::zab) fn epoch_written(&mut self, own: &mut Own) -> Turn {
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

    /// The acknowledgement of NEWLEADER.
    pub(super) fn joined(&mut self, own: &mut Own, link: Link, zxid: i64) -> Turn {
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
            return self.pass_on(own, next, "the members have changed");
        }
        own.out.push(Output::Lead { epoch: self.epoch });
        self.admit(own);
        Ok(())
    }

    /// Lets those serve who have everything.
    pub(super) fn admit(&mut self, own: &mut Own) {
        for (link, remote) in &mut self.learners {
            if remote.stage == Stage::Acked {
                remote.stage = Stage::Joined;
                remote.heard = own.now;
                own.send(*link, Packet::UpToDate);
                own.out.push(Output::LearnerJoined {
                    link: *link,
                    sid: remote.sid,
                    observer: remote.observer,
                    features: remote.features,
                });
                if self.confirmation.is_open() {
                    remote.ping(own);
                }
            }
        }
    }
}
