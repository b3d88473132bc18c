//! How a leader that can no longer lead, or is asked not to, lets another lead without a search.

use super::Leader;
use crate::zab::own::{Over, Own, Turn};
use crate::zab::remote::{Remote, Stage};
use crate::zab::{Millis, Output, Packet, Sid};

/// The number of a transaction from which on the next epoch is to begin soon.
pub(super) const LAST_COUNTER: u32 = 0xffff_0000;
/// For the log.
pub(super) const SLOW_DISK: &str = "the disk takes too long";
/// For the log.
pub(super) const OUTDATED: &str = "a voter has promised a newer epoch";

/// Why a leader wants to lead no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resignation {
    /// The epoch has few numbers left; the same leader can go on in the next.
    Exhausted,
    /// A voter has promised a newer epoch, and can take part only in one that is newer still.
    Outdated,
    /// Its disk takes too long.
    Disk,
}

/// The leader hands over, and proposes nothing more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handing {
    pub(super) to: Option<Sid>,
    pub(super) until: Millis,
}

impl Leader {
    /// Asks for the last transactions, to lead no longer once they are committed.
    pub(super) fn resign(&mut self, own: &mut Own, why: Resignation) {
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
    pub(in crate::zab) fn hand_over(&mut self, own: &mut Own, to: Option<Sid>) -> Turn {
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
    pub(super) fn try_hand_over(&mut self, own: &mut Own) -> Turn {
        let Some(handing) = self.handing else {
            return Ok(());
        };
        let understands = |r: &Remote| r.stage == Stage::Joined && r.features.extended();
        if !self.has_quorum(own, understands) {
            return Over::because("too few would understand who is to take over");
        }
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
            .filter(|r| can_lead(own, handing.to, r) && r.acked >= last && r.has_all(last));
        match ready.map(|remote| remote.sid).max() {
            Some(to) => self.pass_on(own, to),
            None => Ok(()),
        }
    }

    /// Ends the role, and names the next leader to all who understand it and have heard of
    /// everything: to them it is a promise that nothing more of what they have asked for is done.
    pub(super) fn pass_on(&mut self, own: &mut Own, to: Sid) -> Turn {
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
}

/// Can this learner be the next leader, if that is to be `to`, once it has everything?
fn can_lead(own: &Own, to: Option<Sid>, remote: &Remote) -> bool {
    let named = to.is_none_or(|to| to == remote.sid);
    let follows = remote.stage == Stage::Joined && !remote.observer;
    named && follows && remote.features.extended() && own.committed.is_voter(remote.sid)
}
