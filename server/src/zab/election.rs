//! Fast leader election (spec: election).

use bytes::Bytes;

use super::{Role, Sid};

/// A vote as it goes over the election port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What the sender is.
    pub state: Role,
    /// Whom it votes for; `i64::MIN` if it has no vote.
    pub leader: Sid,
    /// The last transaction of that server; `i64::MIN` if the sender has no vote.
    pub zxid: i64,
    /// The round of the election.
    pub round: i64,
    /// The epoch that server followed last; `i64::MIN` if the sender has no vote.
    pub epoch: i64,
    /// The version of the vote's format.
    pub format: i32,
    /// The sender's committed configuration, as text.
    pub config: Bytes,
}
