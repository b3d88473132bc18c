//! What a member has in every role.

use super::history::History;
use super::{Entry, Link, Membership, Millis, Mutant, Output, Packet, Position, Settings, Sid};
use crate::config::PeerType;
use crate::storage::epoch::{EpochFile, Epochs};

/// What outlives a role: history, promises, configurations; and the outputs of the step.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) settings: Settings,
    pub(super) now: Millis,
    pub(super) out: Vec<Output>,
    pub(super) history: History,
    /// What the epoch files say.
    pub(super) epochs: Epochs,
    /// What they will say once everything asked for is written.
    pub(super) promised: Epochs,
    pub(super) committed: Membership,
    pub(super) proposed: Option<Membership>,
    /// Have the configurations changed in this step?
    pub(super) reconfigured: bool,
    /// The changes of configuration that were committed in the leader's epoch, and whom each made
    /// the leader.
    pub(super) activated: Vec<(i64, Sid)>,
    /// The newest epoch that a member is known to have promised, be it that it voted then. Whoever
    /// leads an older one will never be followed by it.
    pub(super) newest_epoch: u32,
    /// The log could not be cut as a leader asked: only a whole tree helps.
    pub(super) needs_tree: bool,
    /// There is no database, and the member must not vote until it has one.
    pub(super) missing: bool,
    /// The log is being cut.
    cutting: bool,
    /// A whole tree comes on this link, and may take the place of the history even after the role
    /// has ended.
    installing: Option<Link>,
    mutant: Option<Mutant>,
    /// The number of the next connection that is made from here.
    next_link: u64,
}

/// A role has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Over {
    /// For the log.
    pub(super) reason: &'static str,
    /// Who leads next, if no search is needed to know it.
    pub(super) next: Option<Sid>,
    /// Has the leader promised that it proposes nothing more of what it was asked for?
    pub(super) handed_over: bool,
}

impl Over {
    pub(super) fn because<T>(reason: &'static str) -> Result<T, Over> {
        Err(Over {
            reason,
            next: None,
            handed_over: false,
        })
    }
}

/// A step that may end the role.
pub(super) type Turn = Result<(), Over>;

impl Own {
    pub(super) fn new(settings: Settings, recovered: super::Recovered, now: Millis) -> Self {
        let missing = recovered.last_zxid < 0;
        let history = History::new(
            recovered.last_zxid,
            recovered.recent,
            settings.commit_log_count,
            settings.commit_log_bytes,
        );
        Own {
            settings,
            now,
            out: Vec::new(),
            history,
            epochs: recovered.epochs,
            promised: recovered.epochs,
            committed: recovered.committed,
            proposed: recovered.proposed,
            reconfigured: false,
            activated: Vec::new(),
            newest_epoch: recovered.epochs.accepted,
            needs_tree: false,
            missing,
            cutting: false,
            installing: None,
            mutant: None,
            next_link: u64::MAX,
        }
    }

    pub(super) fn mutate(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
    }

    /// Is this fault put in?
    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn id(&self) -> Sid {
        self.settings.id
    }

    pub(super) fn send(&mut self, link: Link, packet: Packet) {
        self.out.push(Output::Send { link, packet });
    }

    pub(super) fn close(&mut self, link: Link, reason: &'static str) {
        self.out.push(Output::Close { link, reason });
    }

    /// Asks for a connection.
    pub(super) fn connect(&mut self, to: Sid) -> Link {
        let link = Link(self.next_link);
        self.next_link -= 1;
        self.out.push(Output::Connect { link, to });
        link
    }

    /// Adds entries to the history; the position is to be waited for by whatever says that they
    /// are durable.
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Result<Position, Over> {
        for entry in &entries {
            match entry.config() {
                Ok(Some(config)) => {
                    self.succeed(config.version);
                    self.propound(config);
                }
                Ok(None) => {}
                Err(reason) => return Over::because(reason),
            }
        }
        let position = self.history.append(&entries, self.now);
        self.out.push(Output::Append { entries, position });
        Ok(position)
    }

    /// A change of the members with this version has been proposed, and none is before the one before
    /// it is committed.
    fn succeed(&mut self, version: u64) {
        let before = |config: &mut Membership| config.is_change() && config.version < version;
        if let Some(config) = self.proposed.take_if(before) {
            self.activate(config);
        }
    }

    /// Takes note of a configuration that has been proposed: from here on nothing is agreed on
    /// without a quorum of it.
    pub(super) fn propound(&mut self, config: Membership) {
        self.out.push(Output::Propound {
            config: config.clone(),
        });
        self.proposed = Some(config);
        self.reconfigured = true;
        if self.is(Mutant::ActivateProposed) {
            self.activate_upto(i64::MAX);
        }
    }

    /// The configuration that was proposed last is none any more.
    pub(super) fn withdraw(&mut self) {
        if self.proposed.take().is_some() {
            self.out.push(Output::Propound {
                config: self.committed.clone(),
            });
            self.reconfigured = true;
        }
    }

    /// Goes by a configuration that has been committed.
    pub(super) fn activate(&mut self, config: Membership) {
        if config.version <= self.committed.version {
            return;
        }
        self.out.push(Output::Activate {
            config: config.clone(),
        });
        let newer = |proposed: &Membership| proposed.version > config.version;
        self.proposed = self.proposed.take().filter(newer);
        self.committed = config;
        self.reconfigured = true;
    }

    /// Goes by the configuration that was proposed last, if it is committed with `zxid`.
    pub(super) fn activate_upto(&mut self, zxid: i64) {
        let proposed = &mut self.proposed;
        if let Some(config) = proposed.take_if(|config| config.version.cast_signed() <= zxid) {
            self.activate(config);
        }
    }

    /// The change of configuration that waits to be committed, by its number.
    pub(super) fn pending_config(&self) -> Option<i64> {
        let version = self.proposed.as_ref()?.version.cast_signed();
        Some(version).filter(|zxid| *zxid > self.history.applied())
    }

    /// Removes what comes behind a transaction.
    pub(super) fn truncate(&mut self, zxid: i64) {
        self.cutting = true;
        self.out.push(Output::Truncate { zxid });
    }

    /// The log was cut, or could not be.
    pub(super) fn truncated(&mut self, last: Option<i64>) {
        self.cutting = false;
        match last {
            Some(last) => {
                self.history.cut(last);
                let version = |config: &Membership| config.version.cast_signed();
                if self.proposed.as_ref().map(version) > Some(last) {
                    self.withdraw();
                }
            }
            None => self.needs_tree = true,
        }
    }

    /// A whole tree begins to come.
    pub(super) fn install(&mut self, link: Link) {
        self.installing = Some(link);
    }

    /// A link is over, and with it the tree that was coming, unless it was there before.
    pub(super) fn closed(&mut self, link: Link) {
        self.installing.take_if(|installing| *installing == link);
    }

    /// A whole tree has taken the place of everything else. The configuration that it shows may not
    /// be committed, and is not to be forgotten, as the tree is not.
    pub(super) fn installed(&mut self, zxid: i64, shown: Option<Membership>) {
        self.installing = None;
        if !self.is(Mutant::KeepHistory) {
            self.history.replace(zxid);
        }
        match shown.filter(|shown| shown.version > self.committed.version) {
            Some(shown) => self.propound(shown),
            None => self.withdraw(),
        }
        self.needs_tree = false;
        self.missing = false;
    }

    /// The last transaction; -1 if there is no database.
    pub(super) fn last_zxid(&self) -> i64 {
        match self.missing {
            true => -1,
            false => self.history.last(),
        }
    }

    /// Hands committed transactions to the tree.
    pub(super) fn apply(&mut self, zxid: i64) {
        let mut entries = self.history.apply(zxid);
        if self.is(Mutant::ApplyReversed) {
            entries.reverse();
        }
        if !entries.is_empty() {
            self.out.push(Output::Apply { entries });
        }
    }

    pub(super) fn write_epoch(&mut self, file: EpochFile, epoch: u32) {
        *of(&mut self.promised, file) = epoch;
        self.out.push(Output::WriteEpoch { file, epoch });
    }

    pub(super) fn epoch_written(&mut self, file: EpochFile, epoch: u32) {
        *of(&mut self.epochs, file) = epoch;
    }

    /// Says that a transaction is committed.
    pub(super) fn send_commit(&mut self, link: Link, zxid: i64) {
        let activated = self.activated.iter().find(|(version, _)| *version == zxid);
        let packet = match activated.copied() {
            Some((zxid, leader)) => Packet::CommitAndActivate { zxid, leader },
            None => Packet::Commit { zxid },
        };
        self.send(link, packet);
    }

    /// Sends a committed transaction to a member that did not vote on it.
    pub(super) fn send_inform(&mut self, link: Link, entry: Entry) {
        let activated = self
            .activated
            .iter()
            .find(|(version, _)| *version == entry.zxid);
        let packet = match activated.copied() {
            Some((_, leader)) => Packet::InformAndActivate { entry, leader },
            None => Packet::Inform(entry),
        };
        self.send(link, packet);
    }

    /// Is everything durable that a vote would speak of?
    pub(super) fn is_settled(&self) -> bool {
        let durable = self.history.durable() == self.history.appended();
        let durable = durable || self.is(Mutant::VoteEarly);
        durable && self.epochs == self.promised && !self.cutting && self.installing.is_none()
    }

    /// Does the member vote in the newest configuration, at the address that the others know? Of one
    /// that is new they know no other.
    pub(super) fn keeps_its_place(&self) -> bool {
        let place = |config: &Membership| {
            let member = config.members.servers.get(&self.id())?;
            Some(member.addresses.clone())
        };
        let moves = place(&self.committed).is_some_and(|old| Some(old) != place(self.last_seen()));
        self.last_seen().is_voter(self.id()) && !moves
    }

    /// Does the member only observe?
    pub(super) fn observes(&self) -> bool {
        let member = self.committed.members.servers.get(&self.id());
        match member {
            Some(member) => member.role == PeerType::Observer,
            None => self.settings.observer,
        }
    }

    /// Do `acks` hold of a quorum of the committed configuration, and of the one that is to
    /// replace it?
    pub(super) fn is_quorum(&self, acks: impl Fn(Sid) -> bool) -> bool {
        let proposed = self.proposed.as_ref();
        let proposed = proposed.filter(|_| !self.is(Mutant::CommitByOldMembers));
        self.committed.is_quorum(&acks) && proposed.is_none_or(|config| config.is_quorum(&acks))
    }

    /// Does a server vote, be it only once the proposed configuration is committed?
    pub(super) fn is_voter(&self, sid: Sid) -> bool {
        let proposed = self.proposed.as_ref();
        self.committed.is_voter(sid) || proposed.is_some_and(|config| config.is_voter(sid))
    }

    /// Does a server belong to the ensemble, with a vote or without?
    pub(super) fn knows(&self, sid: Sid) -> bool {
        let mut configs = [&self.committed].into_iter().chain(&self.proposed);
        configs.any(|config| config.members.servers.contains_key(&sid))
    }

    /// The newest configuration.
    pub(super) fn last_seen(&self) -> &Membership {
        self.proposed.as_ref().unwrap_or(&self.committed)
    }
}

fn of(epochs: &mut Epochs, file: EpochFile) -> &mut u32 {
    match file {
        EpochFile::Accepted => &mut epochs.accepted,
        EpochFile::Current => &mut epochs.current,
    }
}
