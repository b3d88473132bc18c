//! How a learner's history is made the leader's (spec: quorum protocol, section 4).

use super::history::History;
use super::{counter_of, epoch_of};

/// What a learner is sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// It has nothing that is to be removed.
    Diff,
    /// It is to remove what comes behind this transaction, which it has.
    Truncate(i64),
    /// It is to be sent the whole tree.
    Snapshot,
    /// It has nothing that is to be removed, if its last transaction is found in the log on disk.
    Log,
}

/// Compares the history of a learner that ends with `peer` with our own up to `limit`, the last
/// transaction that is or counts as committed.
pub(super) fn plan(own: &History, limit: i64, peer: i64) -> Plan {
    // The zeroth transaction of an epoch stands for everything older.
    let epoch_start = counter_of(peer) == 0;
    // A transaction is in both histories if the learner has a newer one of the same epoch, since
    // a leader sends all of them in order.
    let shared = |zxid: i64| match epoch_of(zxid) == epoch_of(peer) {
        true => Plan::Truncate(zxid),
        false => Plan::Snapshot,
    };
    match peer {
        ..0 => Plan::Snapshot,
        _ if peer > limit && epoch_start => Plan::Snapshot,
        _ if peer > limit => shared(limit),
        _ if peer < own.floor() => Plan::Log,
        _ if epoch_start || own.contains(peer) => Plan::Diff,
        _ => shared(own.before(peer)),
    }
}
