//! Who belongs to an ensemble, and who of them make a quorum (spec: election, section 8).

use std::collections::BTreeMap;
use std::fmt;

use super::Sid;
use crate::config::{Members, PeerType};

/// A configuration of the ensemble. Two of the same version are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// The zxid of the transaction that made it; 0 for one that was never agreed on.
    pub version: u64,
    /// The servers.
    pub members: Members,
}

impl Membership {
    /// Does `sid` vote?
    pub fn is_voter(&self, sid: Sid) -> bool {
        self.members
            .servers
            .get(&sid)
            .is_some_and(|member| member.role == PeerType::Participant)
    }

    /// Do the voters that `acks` holds of make a quorum: a majority, or a majority of the weight
    /// in a majority of the groups? Servers that do not vote here do not count.
    pub fn is_quorum(&self, acks: impl Fn(Sid) -> bool) -> bool {
        if !self.members.hierarchical {
            let (mut voters, mut acking) = (0, 0);
            for (sid, _) in self.members.voters() {
                voters += 1;
                acking += usize::from(acks(sid));
            }
            return acking > voters / 2;
        }
        let mut weights: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
        for (group, sids) in &self.members.groups {
            for sid in sids.iter().copied().filter(|sid| self.is_voter(*sid)) {
                let weight = self.members.weight(sid);
                let (all, acking) = weights.entry(*group).or_default();
                *all += weight;
                *acking += if acks(sid) { weight } else { 0 };
            }
        }
        let counted = weights.values().filter(|(all, _)| *all > 0);
        let won = counted.clone().filter(|(all, acking)| *acking > all / 2);
        won.count() > counted.count() / 2
    }
}

impl fmt::Display for Membership {
    /// The text that goes over the wire and into `/zookeeper/config`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nversion={:x}", self.members, self.version)
    }
}
