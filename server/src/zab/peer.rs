//! One member of an ensemble.

use super::{Entry, Input, Membership, Millis, Output, Role, Sid};
use crate::storage::epoch::Epochs;

/// What a member goes by. Times are those of `zoo.cfg`, in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The member's own id.
    pub id: Sid,
    /// The unit of the following limits (`tickTime`).
    pub tick: Millis,
    /// How long discovery and synchronisation may take (`initLimit` ticks).
    pub init_limit: Millis,
    /// How long a member may be silent or behind (`syncLimit` ticks).
    pub sync_limit: Millis,
    /// How long a learner tries to reach its leader (`connectToLearnerMasterLimit` ticks).
    pub connect_limit: Millis,
    /// A log whose writes take longer makes a leader step down.
    pub disk_limit: Millis,
    /// Shortest and longest pause before votes are sent again.
    pub notification_interval: (Millis, Millis),
    /// How long a search waits for a better vote once it has a quorum, while not every voter
    /// that can be reached has agreed.
    pub finalize_wait: Millis,
    /// Committed transactions kept in memory for learners that come back (`commitLogCount`).
    pub commit_log_count: usize,
    /// Bytes of them at most.
    pub commit_log_bytes: usize,
    /// Always send learners the whole tree (`forceSnapshotSync`).
    pub force_snapshot: bool,
    /// Does this member only observe (`peerType`)?
    pub observer: bool,
    /// May the members be changed (`reconfigEnabled`)?
    pub reconfig: bool,
}

/// What the disk had at the start.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The epoch files.
    pub epochs: Epochs,
    /// The last transaction in the log; -1 for a missing database, which must not vote.
    pub last_zxid: i64,
    /// The last transactions of the log, without a gap up to `last_zxid`; as many as are to be
    /// kept in memory, or none.
    pub recent: Vec<Entry>,
    /// The configuration that was committed last, as far as this member knows.
    pub committed: Membership,
    /// A newer one that was only proposed.
    pub proposed: Option<Membership>,
}

/// One member of an ensemble: everything that it promises to others, and when.
#[derive(Debug)]
pub struct Peer {
    settings: Settings,
}

impl Peer {
    /// A member that has just started, and searches for a leader. `seed` is its randomness.
    pub fn new(settings: Settings, recovered: Recovered, seed: u64, now: Millis) -> Self {
        let _ = (recovered, seed, now);
        Peer { settings }
    }

    /// Takes an input, and appends what is to be done to `out`.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Output>) {
        let _ = (now, input, out, &self.settings);
    }

    /// When [`Input::Wake`] is due; `None` if nothing waits for the time.
    pub fn deadline(&self) -> Option<Millis> {
        None
    }

    /// What it is at the moment.
    pub fn role(&self) -> Role {
        Role::Looking
    }
}
