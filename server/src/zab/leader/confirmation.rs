//! How a leader makes sure that it still leads before it answers a `sync`: another may have been
//! elected, and have committed what this one has never heard of. A round of PINGs to all learners
//! is over once a quorum has answered: whoever has done so had promised no newer epoch by then, so
//! that no other leader had committed anything when the round began. Syncs that come during a round
//! wait for the next one, so that one round does for many.
//!
//! What is committed of that which was proposed behind a sync shows the same.

use std::collections::VecDeque;

use super::Leader;
use crate::zab::own::Own;
use crate::zab::remote::{Remote, Stage, Terms};
use crate::zab::{Link, Mutant, Output};

/// The rounds, which are counted from 1 on.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    begun: u64,
    over: u64,
    /// The last one that a sync waits for.
    wanted: u64,
    /// What clients of the leader itself wait for.
    syncs: Syncs,
}

impl Confirmation {
    /// Does a round go on?
    pub(super) fn is_open(&self) -> bool {
        self.begun > self.over
    }

    /// The last round that is over.
    pub(super) fn over(&self) -> u64 {
        self.over
    }
}

/// Syncs that are not answered yet, in the order in which they came.
#[derive(Debug, Default)]
pub(in crate::zab) struct Syncs(VecDeque<Pending>);

/// Each waits until everything up to `behind` is committed and the round is over.
#[derive(Debug, Clone, Copy)]
struct Pending {
    behind: i64,
    round: u64,
}

impl Syncs {
    /// How many can be answered to somebody who was told that everything up to `told` is committed.
    pub(in crate::zab) fn take(&mut self, told: i64, terms: &Terms) -> usize {
        let ready = |sync: &Pending| {
            let confirmed = sync.round <= terms.confirmed || sync.behind < terms.committed;
            sync.behind <= told && confirmed
        };
        let many = self.0.iter().take_while(|sync| ready(sync)).count();
        self.0.drain(..many);
        many
    }
}

impl Leader {
    /// A learner, or a client of the leader itself in an epoch, wants to hear when everything
    /// proposed so far is committed, by a leader that still leads then.
    pub(in crate::zab) fn sync(&mut self, own: &mut Own, epoch: u32, link: Option<Link>) {
        if !self.is_active() || epoch != self.epoch {
            return;
        }
        let behind = match own.is(Mutant::SyncEarly) {
            true => 0,
            false => own.history.last(),
        };
        let round = self.confirmation.begun + 1;
        let syncs = match link {
            None => Some(&mut self.confirmation.syncs),
            Some(link) => {
                let learner = self.learners.get_mut(&link);
                let learner = learner.filter(|remote| remote.stage == Stage::Joined);
                learner.map(|remote| &mut remote.syncs)
            }
        };
        let Some(syncs) = syncs else {
            return;
        };
        syncs.0.push_back(Pending { behind, round });
        self.confirmation.wanted = round;
        self.confirm(own);
    }

    /// A learner has answered a PING.
    pub(super) fn ponged(&mut self, own: &mut Own, link: Link) {
        if let Some(remote) = self.learners.get_mut(&link) {
            remote.ponged();
        }
        self.confirm(own);
    }

    /// Begins the round that is waited for if none goes on, and ends the one that goes on if a
    /// quorum has answered.
    pub(super) fn confirm(&mut self, own: &mut Own) {
        loop {
            if !self.confirmation.is_open() {
                if self.confirmation.wanted == self.confirmation.begun {
                    return;
                }
                self.confirmation.begun += 1;
                for remote in self.learners.values_mut() {
                    remote.begin_round(own);
                }
            }
            let confirmed = self.has_quorum(own, Remote::confirms);
            if !confirmed && !own.is(Mutant::SyncUnconfirmed) {
                return;
            }
            self.confirmation.over = self.confirmation.begun;
            self.answer_syncs(own);
        }
    }

    /// Answers the syncs for which there is nothing more to wait.
    pub(super) fn answer_syncs(&mut self, own: &mut Own) {
        let terms = self.terms(own);
        for remote in self.learners.values_mut() {
            remote.answer_syncs(own, &terms);
        }
        let many = self.confirmation.syncs.take(terms.committed, &terms);
        own.out.extend((0..many).map(|_| Output::Synced));
    }
}
