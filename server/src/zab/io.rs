//! What goes into a [`Peer`](super::Peer) and what comes out of it.

use super::election::Notification;
use super::{Entry, Features, Link, Membership, Packet, Position, Sid};
use crate::storage::epoch::EpochFile;

/// Something has happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The time that [`Peer::deadline`](super::Peer::deadline) named has come.
    Wake,

    /// A vote came in on the election port.
    Notified {
        /// Who sent it.
        from: Sid,
        /// The vote.
        notification: Notification,
    },
    /// Whether votes can be sent to a server: its election port was reached, or was not.
    Reachable {
        /// The other server.
        sid: Sid,
        /// Is there a connection?
        reachable: bool,
    },

    /// A learner has connected to our quorum port.
    Accepted {
        /// The new connection.
        link: Link,
    },
    /// The connection that [`Output::Connect`] asked for is there.
    Connected {
        /// The attempt.
        link: Link,
    },
    /// A packet came in. After [`Packet::Snapshot`], the next that is heard of the link is
    /// [`Input::Installed`] or [`Input::Closed`].
    Received {
        /// Where.
        link: Link,
        /// What.
        packet: Packet,
    },
    /// Everything sent on the link before an [`Output::Mark`] has gone out.
    Drained {
        /// Where.
        link: Link,
    },
    /// A link has ended, or could not be made. Also said after [`Output::Close`]. Nothing more is
    /// heard of it: a tree that is being installed is first told of as [`Input::Installed`].
    Closed {
        /// Which.
        link: Link,
    },

    /// Everything appended up to here is durable.
    Durable {
        /// Up to here.
        position: Position,
    },
    /// An epoch is durable.
    EpochWritten {
        /// Which file.
        file: EpochFile,
        /// What it says.
        epoch: u32,
    },
    /// The log was cut as [`Output::Truncate`] asked, and that is durable.
    Truncated {
        /// The last transaction that there is now; `None` if there was no way back to it and
        /// nothing was changed: then the whole tree has to be sent.
        last_zxid: Option<i64>,
    },
    /// The tree that came behind [`Packet::Snapshot`] is durable, and everything newer is gone.
    Installed {
        /// The link that it came on.
        link: Link,
        /// Its transaction.
        zxid: i64,
        /// The configuration that it shows, which is kept like a proposed one from before the tree
        /// is durable.
        shown: Option<Membership>,
    },
    /// What [`Output::ReadLog`] asked for.
    LogRead {
        /// For whom.
        link: Link,
        /// What was found.
        read: LogRead,
    },
    /// The dump of the tree that [`Output::SendSnapshot`] asked for begins: it is at `zxid`.
    /// Its answer to the next [`Output::Mark`] tells when it is through.
    SnapshotBegun {
        /// To whom.
        link: Link,
        /// The last transaction applied to the tree before the dump.
        zxid: i64,
    },

    /// Transactions for the active leader to propose, numbered without a gap behind the last.
    /// They are ignored if it no longer leads.
    Propose {
        /// The epoch in which they were numbered.
        epoch: u32,
        /// The transactions.
        entries: Vec<Entry>,
    },
    /// Somebody wants to hear when everything proposed so far is committed, from a leader that a
    /// quorum still follows. It is ignored if it no longer leads; else the answer is
    /// [`Packet::Sync`] or [`Output::Synced`], in the order of these.
    Sync {
        /// The epoch in which it was asked.
        epoch: u32,
        /// The learner's, or `None` for a client of the leader itself.
        link: Option<Link>,
    },
    /// Stop leading, in favour of a follower that has everything; `None` lets the leader choose.
    /// Whoever says so has stopped to number transactions: no [`Input::Propose`] follows in this
    /// epoch. It ends with [`Output::Looking`], whether a successor was found or not.
    HandOver {
        /// The next leader.
        to: Option<Sid>,
    },
}

/// An answer to [`Output::ReadLog`].
#[derive(Debug, Clone)]
pub enum LogRead {
    /// Transactions without a gap, the first of them right behind the one asked for.
    Entries(Vec<Entry>),
    /// The log does not hold the transaction asked for, or what comes next (any more), or a tree
    /// was installed in between, or so much was written since that the tree is shorter. An empty
    /// log that was never anything else holds transaction 0.
    Gap,
}

/// What a member is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It searches for a leader.
    Looking,
    /// It votes and follows.
    Following,
    /// It leads.
    Leading,
    /// It follows without a vote.
    Observing,
}

/// Something is to be done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a vote. Only the newest to each server counts; one that waits is replaced. A vote to
    /// the member itself never comes out here.
    Notify {
        /// To whom.
        to: Sid,
        /// The vote.
        notification: Notification,
    },

    /// Connect to the quorum port of a server, and say [`Input::Connected`] or [`Input::Closed`].
    /// The peer has chosen the number, from those that count down from `u64::MAX`.
    Connect {
        /// The number of the attempt.
        link: Link,
        /// The server.
        to: Sid,
    },
    /// Send packets.
    Send {
        /// Where.
        link: Link,
        /// What.
        packet: Packet,
    },
    /// Send the same transactions to several followers, as PROPOSALs.
    Broadcast {
        /// Where.
        links: Vec<Link>,
        /// What.
        entries: Vec<Entry>,
    },
    /// Say [`Input::Drained`] once all that was sent on the link before has gone out.
    Mark {
        /// Where.
        link: Link,
    },
    /// Send what is waiting, then close a link. A link on which nothing more goes out for long
    /// is for the driver to close.
    Close {
        /// Which.
        link: Link,
        /// For the log.
        reason: &'static str,
    },
    /// Dump the tree on a link, once everything is applied that was to be applied before: say
    /// [`Input::SnapshotBegun`], then send [`Packet::Snapshot`] and the tree, before anything that
    /// is sent on the link from now on.
    SendSnapshot {
        /// Where.
        link: Link,
        /// The tree has to show this transaction, and all before it.
        zxid: i64,
    },
    /// Read the log behind the transaction `after`, some of it at a time, and say
    /// [`Input::LogRead`]. Nothing behind `upto` is wanted.
    ReadLog {
        /// For whom: the answer carries it.
        link: Link,
        /// The last transaction that is not wanted.
        after: i64,
        /// The last transaction that is wanted.
        upto: i64,
    },

    /// Append to the log and make durable, then say [`Input::Durable`]. Many of these may be made
    /// durable at once.
    Append {
        /// The transactions.
        entries: Vec<Entry>,
        /// The position behind the last of them.
        position: Position,
    },
    /// Make an epoch durable, behind all that was appended before, then say
    /// [`Input::EpochWritten`].
    WriteEpoch {
        /// Which file.
        file: EpochFile,
        /// What it is to say.
        epoch: u32,
    },
    /// Cut the log behind a transaction, and if the tree is ahead of it bring that back, then say
    /// [`Input::Truncated`]. A tree that is behind stays where it is.
    Truncate {
        /// The last to keep.
        zxid: i64,
    },
    /// Apply committed transactions to the tree.
    Apply {
        /// The transactions, behind those applied before.
        entries: Vec<Entry>,
    },

    /// The role is over: serve nobody, propose nothing, forward nothing.
    Looking {
        /// For the log.
        reason: &'static str,
        /// Was everything committed that was proposed, and will the leader that was propose
        /// nothing more? Then what clients wait for can be asked of the next leader again.
        handed_over: bool,
    },
    /// The leader wants to be one no longer: stop to number transactions, keep the requests, and
    /// say [`Input::HandOver`] behind the last [`Input::Propose`].
    Resign {
        /// For the log.
        reason: &'static str,
    },
    /// Lead: everything is applied, number the next transaction as the first of this epoch.
    Lead {
        /// The epoch.
        epoch: u32,
    },
    /// Serve as a learner, on what is applied, and forward writes on this link.
    Follow {
        /// The epoch.
        epoch: u32,
        /// The leader.
        leader: Sid,
        /// The link to it.
        link: Link,
        /// What the leader can do.
        features: Features,
        /// Does this member not vote?
        observer: bool,
    },
    /// A learner has everything and may send requests; behind this come its
    /// [`Output::Deliver`]s.
    LearnerJoined {
        /// Its link.
        link: Link,
        /// Its id.
        sid: Sid,
        /// Does it not vote?
        observer: bool,
        /// What it can do.
        features: Features,
    },
    /// A learner that had joined is gone.
    LearnerLeft {
        /// Its link.
        link: Link,
    },
    /// A packet for the part of the server that knows of sessions: REQUEST, REVALIDATE, SYNC and
    /// the answer to a PING; and on a learner a PING, which it has to answer with the sessions
    /// that it has heard from.
    Deliver {
        /// Where it came from.
        link: Link,
        /// What.
        packet: Packet,
    },
    /// What the oldest unanswered [`Input::Sync`] without a link waited for has come to the tree, or
    /// does with what is to be applied before.
    Synced,
    /// A configuration has been proposed, and is to survive a restart.
    Propound {
        /// The configuration.
        config: Membership,
    },
    /// Another voter says that a configuration is proposed which this member does not know of: its
    /// servers may have to be reached, until the next [`Output::Propound`] or [`Output::Activate`].
    Heard {
        /// The configuration.
        config: Membership,
    },
    /// A configuration has been committed: connect to its members and to no others.
    Activate {
        /// The configuration.
        config: Membership,
    },
}
