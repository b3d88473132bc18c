//! What may be said on one connection of the quorum port, and when.

use std::collections::VecDeque;

use quorate_server::zab::{Packet, zxid_of};

use super::{Chain, Checked, Z, demand};

/// What has been said on a connection.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    /// The epoch that the leader has named.
    pub(super) epoch: Option<u32>,
    observer: bool,
    /// The last transaction that the learner said it had.
    had: i64,
    /// What the learner has or was sent.
    sent: Option<i64>,
    /// Where the synchronisation began; that much is committed.
    begun: i64,
    committed: i64,
    new_leader: bool,
    acknowledged: Option<i64>,
    up_to_date: bool,
    /// What the learner has to be told of before each of its `sync`s is answered.
    syncs: VecDeque<i64>,
}

impl Dialogue {
    /// The learner's `sync` has come in when this was the last proposal.
    pub(super) fn sync(&mut self, proposed: i64) {
        self.syncs.push_back(proposed);
    }

    /// The leader sends a packet.
    pub(super) fn leader_sends(&mut self, packet: &Packet, chain: &Chain) -> Checked {
        match packet {
            Packet::LeaderInfo { epoch, .. } => {
                demand!("M1", self.epoch.is_none(), "a second LEADERINFO");
                self.epoch = Some(*epoch);
            }
            Packet::Diff { .. } => self.begin(self.had)?,
            Packet::Truncate { zxid } | Packet::Snapshot { zxid } => self.begin(*zxid)?,
            Packet::Proposal(entry) => {
                demand!(
                    "M6",
                    !(self.observer && self.up_to_date),
                    "an observer is sent the proposal {}",
                    Z(entry.zxid)
                );
                self.send(entry.zxid, chain)?;
            }
            Packet::Inform(entry) | Packet::InformAndActivate { entry, .. } => {
                demand!(
                    "M6",
                    self.observer,
                    "a follower is informed of {}",
                    Z(entry.zxid)
                );
                self.send(entry.zxid, chain)?;
            }
            Packet::Commit { zxid } | Packet::CommitAndActivate { zxid, .. } => {
                demand!(
                    "M6",
                    !(self.observer && self.up_to_date),
                    "an observer is sent the commit of {}",
                    Z(*zxid)
                );
                let sent = self.sent.unwrap_or(0);
                demand!(
                    "M2",
                    *zxid > self.committed && chain.contains(sent, *zxid),
                    "the commit of {} behind that of {}, and {} was proposed",
                    Z(*zxid),
                    Z(self.committed),
                    Z(sent)
                );
                self.committed = *zxid;
            }
            Packet::Sync => {
                let proposed = self.syncs.pop_front().unwrap_or(0);
                let told = match self.observer {
                    true => self.sent.unwrap_or(0),
                    false => self.committed,
                };
                demand!(
                    "C4",
                    chain.contains(told, proposed) || proposed <= self.begun,
                    "a sync behind {} is answered behind {}",
                    Z(proposed),
                    Z(told)
                );
            }
            Packet::NewLeader { epoch, .. } => {
                let expected = self.sent.is_some() && !self.new_leader;
                demand!("M1", expected, "NEWLEADER out of its place");
                demand!(
                    "M1",
                    self.epoch == Some(*epoch),
                    "NEWLEADER of epoch {epoch}"
                );
                self.new_leader = true;
            }
            Packet::UpToDate => {
                let expected = self.acknowledged.is_some() && !self.up_to_date;
                demand!("M1", expected, "UPTODATE out of its place");
                self.up_to_date = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The synchronisation begins from a transaction.
    fn begin(&mut self, zxid: i64) -> Checked {
        let expected = self.epoch.is_some() && self.sent.is_none();
        demand!(
            "M1",
            expected,
            "a second DIFF, TRUNC or SNAP, or one without an epoch"
        );
        self.sent = Some(zxid);
        self.begun = zxid;
        Ok(())
    }

    fn send(&mut self, zxid: i64, chain: &Chain) -> Checked {
        demand!(
            "M4",
            self.sent.is_some() && chain.parent(zxid) == self.sent.map(|sent| sent.max(0)),
            "{} is sent behind {}",
            Z(zxid),
            Z(self.sent.unwrap_or(-1))
        );
        self.sent = Some(zxid);
        Ok(())
    }

    /// The learner sends a packet.
    pub(super) fn learner_sends(&mut self, packet: &Packet) -> Checked {
        match packet {
            Packet::LearnerInfo { observer, .. } => self.observer = *observer,
            Packet::AckEpoch { last_zxid, .. } => self.had = *last_zxid,
            Packet::Ack { zxid } => {
                let joins = zxid_of(self.epoch.unwrap_or(0), 0);
                demand!(
                    "M3",
                    match self.acknowledged {
                        None => self.new_leader && *zxid == joins,
                        Some(last) => *zxid >= last || *zxid == joins,
                    },
                    "the acknowledgement of {} behind that of {}",
                    Z(*zxid),
                    Z(self.acknowledged.unwrap_or(-1))
                );
                self.acknowledged = self.acknowledged.max(Some(*zxid));
            }
            _ => {}
        }
        Ok(())
    }
}
