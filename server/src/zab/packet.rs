//! What members say to each other on the quorum port (spec: quorum protocol, section 1).

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::Id;

use super::{Entry, Sid};

/// What a member can do beyond the protocol of Apache ZooKeeper. A leader says it behind the
/// version in LEADERINFO, and only then a learner answers it behind its epoch in ACKEPOCH: members
/// that do not know of it read neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u32);

impl Features {
    /// Everything that this version can do.
    pub const ALL: Features = Features(1);

    /// One COMMIT stands for all proposals up to its zxid, and one ACK likewise;
    /// HANDOVER is understood; REVALIDATE may ask for many sessions.
    pub fn extended(self) -> bool {
        self.0 & 1 != 0
    }
}

/// A client's request that a learner forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The client's session.
    pub session: i64,
    /// The client's number of the request.
    pub cxid: i32,
    /// The operation.
    pub op: i32,
    /// The request without its header.
    pub body: Bytes,
    /// The identities of the client.
    pub ids: Arc<[Id<'static>]>,
}

/// A packet of the quorum port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// FOLLOWERINFO, OBSERVERINFO: the first packet of a learner.
    LearnerInfo {
        /// Does it not vote?
        observer: bool,
        /// The newest epoch that it has promised to take part in.
        accepted: u32,
        /// Its id.
        sid: Sid,
        /// The version of its committed configuration.
        config_version: u64,
    },
    /// LEADERINFO: the epoch that begins.
    LeaderInfo {
        /// The new epoch.
        epoch: u32,
        /// What the leader can do.
        features: Features,
    },
    /// ACKEPOCH: the learner takes part in the epoch.
    AckEpoch {
        /// The last transaction in its log.
        last_zxid: i64,
        /// The epoch whose leader it followed last; `None` if it has promised this epoch before,
        /// and does not count again.
        current: Option<u32>,
        /// What the learner can do.
        features: Features,
    },
    /// DIFF: nothing is to be removed; what is missing follows.
    Diff {
        /// The newest committed transaction.
        zxid: i64,
    },
    /// TRUNC: everything behind `zxid` is to be removed; what is missing follows.
    Truncate {
        /// The last transaction to keep.
        zxid: i64,
    },
    /// SNAP: the whole tree follows on the same connection, outside of packets.
    Snapshot {
        /// The transaction at which the tree is dumped, at least.
        zxid: i64,
    },
    /// PROPOSAL.
    Proposal(Entry),
    /// COMMIT. Between members that are [`Features::extended`] it stands for all up to `zxid`.
    Commit {
        /// The transaction.
        zxid: i64,
    },
    /// COMMITANDACTIVATE: the commit of a new configuration.
    CommitAndActivate {
        /// The transaction.
        zxid: i64,
        /// Who leads from here on.
        leader: Sid,
    },
    /// INFORM: a committed transaction, for observers.
    Inform(Entry),
    /// INFORMANDACTIVATE: a committed new configuration, for observers.
    InformAndActivate {
        /// The transaction.
        entry: Entry,
        /// Who leads from here on.
        leader: Sid,
    },
    /// NEWLEADER: the learner has everything; once that is durable it acknowledges.
    NewLeader {
        /// The epoch.
        epoch: u32,
        /// The leader's newest configuration, as text.
        config: Bytes,
    },
    /// UPTODATE: the learner may serve.
    UpToDate,
    /// ACK.
    Ack {
        /// The transaction, or the zeroth of the epoch for NEWLEADER and UPTODATE.
        zxid: i64,
    },
    /// PING, and the answer to it.
    Ping {
        /// The last proposal.
        zxid: i64,
        /// In the answer: the sessions heard from, with their timeouts.
        sessions: Bytes,
    },
    /// REQUEST.
    Request(Request),
    /// SYNC: everything that was committed when it was asked for has been sent.
    Sync,
    /// REVALIDATE, and the answer to it.
    Revalidate(Bytes),
    /// The leader stops leading and names who is to follow it. Only between members that are
    /// [`Features::extended`].
    HandOver {
        /// The next leader.
        to: Sid,
    },
    /// A packet that this version does not know; it is passed over.
    Unknown {
        /// Its type.
        kind: i32,
    },
}
