//! What a member has in every role.

use super::history::History;
use super::{Entry, Link, Membership, Millis, Output, Packet, Position, Settings, Sid};
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
    /// The log could not be cut as a leader asked: only a whole tree helps.
    pub(super) needs_tree: bool,
    /// There is no database, and the member must not vote until it has one.
    missing: bool,
    /// The log is being cut.
    cutting: bool,
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
}

impl Over {
    pub(super) fn because<T>(reason: &'static str) -> Result<T, Over> {
        Err(Over { reason, next: None })
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
            needs_tree: false,
            missing,
            cutting: false,
            next_link: u64::MAX,
        }
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
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Position {
        let position = self.history.append(&entries, self.now);
        self.out.push(Output::Append { entries, position });
        position
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
            Some(last) => self.history.cut(last),
            None => self.needs_tree = true,
        }
    }

    /// A whole tree has taken the place of everything else.
    pub(super) fn installed(&mut self, zxid: i64) {
        self.history.replace(zxid);
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
    pub(super) fn apply(&mut self, zxid: i64) -> Vec<Entry> {
        let entries = self.history.apply(zxid);
        if !entries.is_empty() {
            let entries = entries.clone();
            self.out.push(Output::Apply { entries });
        }
        entries
    }

    pub(super) fn write_epoch(&mut self, file: EpochFile, epoch: u32) {
        *of(&mut self.promised, file) = epoch;
        self.out.push(Output::WriteEpoch { file, epoch });
    }

    pub(super) fn epoch_written(&mut self, file: EpochFile, epoch: u32) {
        *of(&mut self.epochs, file) = epoch;
    }

    /// Is everything durable that a vote would speak of?
    pub(super) fn is_settled(&self) -> bool {
        let durable = self.history.durable() == self.history.appended();
        durable && self.epochs == self.promised && !self.cutting
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
        self.committed.is_quorum(&acks) && proposed.is_none_or(|config| config.is_quorum(&acks))
    }

    /// Does a server vote, be it only once the proposed configuration is committed?
    pub(super) fn is_voter(&self, sid: Sid) -> bool {
        let proposed = self.proposed.as_ref();
        self.committed.is_voter(sid) || proposed.is_some_and(|config| config.is_voter(sid))
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
