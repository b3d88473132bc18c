//! How transactions are agreed on, once the leader is active (spec: quorum protocol, sections 6 and
//! 9).

use super::Leader;
use super::succession::{LAST_COUNTER, Resignation};
use crate::zab::history::follows;
use crate::zab::own::{Over, Own, Turn};
use crate::zab::remote::{Remote, Stage};
use crate::zab::{Entry, Link, Mutant, Output, Sid, counter_of, epoch_of, zxid_of};

impl Leader {
    /// Numbered transactions: they are sent out and logged.
    pub(in crate::zab) fn propose(
        &mut self,
        own: &mut Own,
        epoch: u32,
        entries: Vec<Entry>,
    ) -> Turn {
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

    pub(super) fn acknowledged(&mut self, own: &mut Own, link: Link, zxid: i64) -> Turn {
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
    pub(in crate::zab) fn advance(&mut self, own: &mut Own) -> Turn {
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
        let changes = own.pending_config() == Some(zxid);
        if changes {
            let stays = own.keeps_its_place();
            own.activate_upto(zxid);
            let leader = match stays {
                true => own.id(),
                false => self.successor(own, zxid),
            };
            own.activated.push((zxid, leader));
            next = (!stays).then_some(leader);
        }
        own.apply(zxid);
        let terms = self.terms(own);
        for remote in self.learners.values_mut() {
            remote.committed(own, &terms);
        }
        self.answer_syncs(own);
        if changes {
            // Of the members that are in force now, a quorum may have answered already.
            self.confirm(own);
        }
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
    pub(super) fn successor(&self, own: &Own, zxid: i64) -> Sid {
        let learners = self.learners.values();
        let ready = learners.filter(|r| {
            let votes = !r.observer && own.committed.is_voter(r.sid);
            votes && r.stage >= Stage::Acked && r.acked >= zxid
        });
        let newest = ready.map(|r| (r.acked, r.sid)).max();
        newest.map_or(own.id(), |(_, sid)| sid)
    }
}
