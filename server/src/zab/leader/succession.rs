//! How a leader that can no longer lead, or is asked not to, lets another lead without a search.

use super::Leader;
use crate::zab::own::{Over, Own, Turn};
use crate::zab::remote::{Remote, Stage};
use crate::zab::{Millis, Output, Packet, Sid};

/// The number of a transaction from which on the next epoch is to begin soon.
pub(super) const LAST_COUNTER: u32 = 0xffff_0000;
/// For the log.
pub(super) const OUTDATED: &str = "a member has promised a newer epoch";

/// Why a leader wants a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resignation {
    /// The epoch has few numbers left; the same leader can go on in the next.
    Exhausted,
    /// A member has promised a newer epoch, and can take part only in one that is newer still.
    Outdated,
}

/// The leader hands over, and proposes nothing more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handing {
    pub(super) to: Option<Sid>,
    pub(super) until: Millis,
    /// For the log.
    reason: &'static str,
}

impl Leader {
    /// Asks for the last transactions, to lead no longer once they are committed.
    pub(super) fn resign(&mut self, own: &mut Own, why: Resignation) {
        if self.resigned || self.handing.is_some() {
            return;
        }
        self.resigned = true;
        let reason = match why {
            Resignation::Exhausted => "the epoch has few numbers left",
            Resignation::Outdated => OUTDATED,
        };
        own.out.push(Output::Resign { reason });
    }

    /// Nothing more will be proposed: leads until everything is committed, then lets another.
    pub(in crate::zab) fn hand_over(&mut self, own: &mut Own, to: Option<Sid>) -> Turn {
        if !self.is_active() {
            return Over::because("it was asked to lead no longer");
        }
        // One that only wants a new epoch can go on itself.
        let to = to.or_else(|| self.resigned.then_some(own.id()));
        let until = own.now + own.settings.sync_limit;
        self.handing.get_or_insert(Handing {
            to,
            until,
            reason: "it hands over",
        });
        self.try_hand_over(own)
    }

    /// Lets another lead because the disk takes too long. Whoever proposes may be waiting for the
    /// same disk, and is not waited for: what he proposes from here on is not proposed.
    pub(super) fn abdicate(&mut self, own: &mut Own) -> Turn {
        let until = own.now + own.settings.disk_limit;
        self.handing = Some(Handing {
            to: None,
            until,
            reason: "it hands over, because its disk takes too long",
        });
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
            return self.pass_on(own, own.id(), handing.reason);
        }
        let ready = self
            .learners
            .values()
            .filter(|r| can_lead(own, handing.to, r) && r.acked >= last && r.has_all(last));
        match ready.map(|remote| remote.sid).max() {
            Some(to) => self.pass_on(own, to, handing.reason),
            None => Ok(()),
        }
    }

    /// Ends the role, and names the next leader to all who understand it and have heard of
    /// everything: to them it is a promise that nothing more of what they have asked for is done.
    pub(super) fn pass_on(&mut self, own: &mut Own, to: Sid, reason: &'static str) -> Turn {
        for (link, remote) in &self.learners {
            let has_all = remote.has_all(own.history.last());
            if has_all && remote.stage == Stage::Joined && remote.features.extended() {
                own.send(*link, Packet::HandOver { to });
            }
        }
        Err(Over {
            reason,
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
