//! Zab: how the members of an ensemble agree on one order of transactions, whichever of them fail
//! (spec: election, quorum protocol, Zab invariants).
//!
//! Everything here is a state machine without I/O. A [`Peer`] is one member: it takes [`Input`]s
//! (a packet came, something is durable, time has passed) and answers [`Output`]s (send, append,
//! apply). Threads, sockets, disks and clocks belong to whoever drives it: `quorum` in a
//! server, and the simulator, which replays any run from its seed.
//!
//! A driver carries the outputs out in their order, and gives the inputs of one source (a
//! connection, the disk) in theirs. It may take as long as it likes for each.

pub mod election;
mod history;
mod io;
mod leader;
mod learner;
mod membership;
mod mutant;
mod own;
mod packet;
mod peer;
mod remote;
mod sync;
#[cfg(test)]
mod tests;

pub use io::{Input, LogRead, Output, Role};
pub use membership::Membership;
#[doc(hidden)]
pub use mutant::Mutant;
pub use packet::{Features, Packet, Request};
pub use peer::{Peer, Recovered, Settings};

use bytes::Bytes;
use quorate_proto::OpCode;
use quorate_proto::SetDataTxn;
use quorate_proto::jute::Reader;

/// The id of a member, as its `myid` says.
pub type Sid = i64;

/// Milliseconds on a clock that never goes back. Only differences count.
pub type Millis = u64;

/// A connection to the quorum port. Whoever drives a [`Peer`] gives each a number of its own, for
/// both ends that are here, and never uses one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// How many entries this process has appended to its log. It grows even where a log is cut.
///
/// What may only be said once something is durable carries the position that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// A transaction as it is proposed, logged and applied: header, body, digest. The bytes never
/// change on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub zxid: i64,
    /// Its encoding: the body of a log record, and the data of a PROPOSAL.
    pub bytes: Bytes,
}

/// Session, cxid, zxid, time and operation.
const HEADER_SIZE: usize = 32;

impl Entry {
    /// The number of the operation, if the bytes are long enough to have one.
    pub fn op(&self) -> Option<i32> {
        let op = self.bytes.get(28..32)?;
        Some(i32::from_be_bytes(op.try_into().ok()?))
    }

    /// Does it change the members of the ensemble?
    pub fn is_reconfig(&self) -> bool {
        self.op() == Some(OpCode::Reconfig.number())
    }

    /// The members that the ensemble is to have, if the transaction changes them.
    fn config(&self) -> Result<Option<Membership>, &'static str> {
        const UNREADABLE: &str = "a change of the members cannot be read";
        if !self.is_reconfig() {
            return Ok(None);
        }
        let body = self.bytes.get(HEADER_SIZE..).unwrap_or_default();
        let set_data: SetDataTxn<'_> = Reader::new(body).read().map_err(|_| UNREADABLE)?;
        let text = std::str::from_utf8(set_data.data.unwrap_or_default());
        let config: Membership = text
            .map_err(|_| UNREADABLE)?
            .parse()
            .map_err(|_| UNREADABLE)?;
        match config.version == self.zxid.cast_unsigned() {
            true => Ok(Some(config)),
            false => Err("a change of the members has another version than its number"),
        }
    }
}

/// The epoch in a zxid: its upper half.
pub fn epoch_of(zxid: i64) -> u32 {
    (zxid.cast_unsigned() >> 32) as u32
}

/// The counter in a zxid: its lower half, which begins with 1 in each epoch.
pub fn counter_of(zxid: i64) -> u32 {
    zxid.cast_unsigned() as u32
}

/// The zxid of a counter in an epoch.
pub fn zxid_of(epoch: u32, counter: u32) -> i64 {
    (u64::from(epoch) << 32 | u64::from(counter)).cast_signed()
}
