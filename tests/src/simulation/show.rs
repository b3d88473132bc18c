//! Inputs, outputs and packets in the words of a trace.

use std::fmt;

use quorate_server::zab::{Entry, Input, LogRead, Output, Packet, Sid};

use super::checker::Z;

/// Something that is shown in a trace.
pub(super) struct Show<'a, T>(pub(super) &'a T);

fn entries(entries: &[Entry]) -> String {
    match entries {
        [] => "nothing".to_owned(),
        [one] => Z(one.zxid).to_string(),
        [first, .., last] => format!("{}..{}", Z(first.zxid), Z(last.zxid)),
    }
}

impl fmt::Display for Show<'_, Packet> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Packet::Proposal(entry) => write!(f, "PROPOSAL {}", Z(entry.zxid)),
            Packet::Inform(entry) => write!(f, "INFORM {}", Z(entry.zxid)),
            Packet::Commit { zxid } => write!(f, "COMMIT {}", Z(*zxid)),
            Packet::Ack { zxid } => write!(f, "ACK {}", Z(*zxid)),
            Packet::Diff { zxid } => write!(f, "DIFF {}", Z(*zxid)),
            Packet::Truncate { zxid } => write!(f, "TRUNC {}", Z(*zxid)),
            Packet::Snapshot { zxid } => write!(f, "SNAP {}", Z(*zxid)),
            Packet::NewLeader { epoch, .. } => write!(f, "NEWLEADER {epoch}"),
            Packet::LeaderInfo { epoch, .. } => write!(f, "LEADERINFO {epoch}"),
            Packet::LearnerInfo { sid, accepted, .. } => {
                write!(f, "LEARNERINFO of {sid}, accepted {accepted}")
            }
            Packet::AckEpoch {
                last_zxid, current, ..
            } => write!(f, "ACKEPOCH {}, current {current:?}", Z(*last_zxid)),
            Packet::Ping { zxid, .. } => write!(f, "PING {}", Z(*zxid)),
            Packet::Request(request) => {
                write!(f, "REQUEST {:x}/{}", request.session, request.cxid)
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Show<'_, Input> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Input::Received { link, packet } => write!(f, "{link:?}: {}", Show(packet)),
            Input::Notified { from, notification } => {
                let vote = notification;
                let (leader, state) = (vote.leader, vote.state);
                let (round, epoch) = (vote.round, vote.epoch);
                write!(
                    f,
                    "vote of {from} for {leader} ({}, epoch {epoch}, round {round}, {state:?})",
                    Z(vote.zxid)
                )
            }
            Input::Propose { entries: some, .. } => write!(f, "propose {}", entries(some)),
            Input::LogRead {
                link,
                read: LogRead::Entries(some),
            } => write!(f, "{link:?}: read {}", entries(some)),
            Input::Truncated {
                last_zxid: Some(zxid),
            } => write!(f, "truncated to {}", Z(*zxid)),
            Input::Installed { link, zxid, .. } => write!(f, "{link:?}: installed {}", Z(*zxid)),
            Input::SnapshotBegun { link, zxid } => write!(f, "{link:?}: dumping {}", Z(*zxid)),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Show<'_, Output> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Output::Notify { to, notification } => {
                let vote = notification;
                let (leader, state) = (vote.leader, vote.state);
                let (round, epoch) = (vote.round, vote.epoch);
                write!(
                    f,
                    "to {to}: vote for {leader} ({}, epoch {epoch}, round {round}, {state:?})",
                    Z(vote.zxid)
                )
            }
            Output::Send { link, packet } => write!(f, "{link:?}: {}", Show(packet)),
            Output::Broadcast {
                links,
                entries: some,
            } => write!(f, "{links:?}: PROPOSALs {}", entries(some)),
            Output::Append {
                entries: some,
                position,
            } => write!(f, "append {} as {}", entries(some), position.0),
            Output::Apply { entries: some } => write!(f, "apply {}", entries(some)),
            Output::Truncate { zxid } => write!(f, "truncate to {}", Z(*zxid)),
            Output::ReadLog { link, after, upto } => {
                write!(f, "{link:?}: read {} to {}", Z(*after), Z(*upto))
            }
            Output::Deliver { link, packet } => write!(f, "{link:?}: deliver {}", Show(packet)),
            Output::Propound { config } => write!(f, "propound {:x}", config.version),
            Output::Heard { config } => write!(f, "heard of {:x}", config.version),
            Output::Activate { config } => {
                let voters: Vec<Sid> = config.members.voters().map(|(sid, _)| sid).collect();
                write!(f, "activate {:x}, in which {voters:?} vote", config.version)
            }
            other => write!(f, "{other:?}"),
        }
    }
}
