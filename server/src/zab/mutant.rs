//! Faults that are put into a member on purpose, to see that the simulator finds them.

/// What a member does wrong. Each is a fault that an implementation of Zab once had, or is one
/// slip away from.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Acknowledges a proposal that is not durable.
    AckEarly,
    /// Acknowledges NEWLEADER before the history is durable.
    JoinEarly,
    /// Makes the current epoch durable before the history.
    EpochBeforeHistory,
    /// Acknowledges NEWLEADER without writing the current epoch.
    ForgetCurrentEpoch,
    /// Promises an epoch without writing it down.
    ForgetAcceptedEpoch,
    /// Promises an epoch before that is durable.
    PromiseEarly,
    /// Promises an epoch a second time.
    PromiseTwice,
    /// Follows a leader of an epoch that is over.
    FollowOldEpoch,
    /// Acknowledges proposals before NEWLEADER.
    AckOvertakes,
    /// A follower applies what is only proposed.
    ApplyProposed,
    /// Applies transactions in another order.
    ApplyReversed,
    /// Votes for itself with what is not durable.
    VoteEarly,
    /// Keeps its own history where the whole tree was installed.
    KeepHistory,
    /// Goes by a configuration that is only proposed.
    ActivateProposed,
    /// Begins an epoch without having written down its own promise.
    LeadUnpromised,
    /// Leads those whose history is newer.
    LeadNewer,
    /// Leads before a quorum has its history.
    LeadEarly,
    /// Counts learners that do not vote.
    CountObservers,
    /// Counts what is not durable on its own disk.
    CountEarly,
    /// Commits with one voice less than a quorum.
    CommitByMinority,
    /// Needs no quorum of the new members to change them.
    CommitByOldMembers,
    /// A leader applies what is only proposed.
    CommitAtOnce,
    /// Lets learners keep what is to be removed.
    TruncateNothing,
    /// Lets learners remove one transaction too many.
    TruncateTooMuch,
    /// Sends a tree that does not show yet what the learner's own history may have held.
    DumpTooSoon,
    /// Leaves out the first transaction that a learner lacks.
    SkipFirst,
    /// Leaves out what is proposed and not committed when a learner joins.
    SkipOutstanding,
    /// Takes what is only proposed for a part of the history that a learner may keep.
    KeepUncommitted,
    /// Tells a learner that it has everything before it is sent that.
    OfferEarly,
    /// Says that everything is committed before it is.
    SyncEarly,
    /// Says that everything is committed although nobody may follow it any more.
    SyncUnconfirmed,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 31] = [
        Mutant::AckEarly,
        Mutant::JoinEarly,
        Mutant::EpochBeforeHistory,
        Mutant::ForgetCurrentEpoch,
        Mutant::ForgetAcceptedEpoch,
        Mutant::PromiseEarly,
        Mutant::PromiseTwice,
        Mutant::FollowOldEpoch,
        Mutant::AckOvertakes,
        Mutant::ApplyProposed,
        Mutant::ApplyReversed,
        Mutant::VoteEarly,
        Mutant::KeepHistory,
        Mutant::ActivateProposed,
        Mutant::LeadUnpromised,
        Mutant::LeadNewer,
        Mutant::LeadEarly,
        Mutant::CountObservers,
        Mutant::CountEarly,
        Mutant::CommitByMinority,
        Mutant::CommitByOldMembers,
        Mutant::CommitAtOnce,
        Mutant::TruncateNothing,
        Mutant::TruncateTooMuch,
        Mutant::DumpTooSoon,
        Mutant::SkipFirst,
        Mutant::SkipOutstanding,
        Mutant::KeepUncommitted,
        Mutant::OfferEarly,
        Mutant::SyncEarly,
        Mutant::SyncUnconfirmed,
    ];
}
