//! What goes over the election port (spec: election, section 3).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::zab::{Role, Sid, epoch_of};

/// The format of the votes that are sent.
const FORMAT: i32 = 2;
/// A vote of the oldest format, which has neither an epoch nor what follows it.
const WITHOUT_EPOCH: usize = 28;
/// A vote whose format is not to be believed.
const WITHOUT_FORMAT: usize = 40;

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
    /// The sender's committed configuration, as text; empty in formats before 2.
    pub config: Bytes,
    /// A newer one that is proposed, or empty. It comes behind everything that Apache ZooKeeper
    /// sends and reads.
    pub proposed: Bytes,
}

/// Bytes that are no vote.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadNotification {
    /// It ends too early.
    #[error("{length} bytes are no vote: it ends before its {missing}")]
    Short {
        /// How long it is.
        length: usize,
        /// What is not there.
        missing: &'static str,
    },
    /// The sender is in a state that nobody can be in.
    #[error("a vote of a server in state {0}; 0 to 3 are known")]
    State(i32),
}

impl Notification {
    /// The bytes of the vote, in the newest format whatever `format` says.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(48 + self.config.len() + self.proposed.len());
        bytes.put_i32(match self.state {
            Role::Looking => 0,
            Role::Following => 1,
            Role::Leading => 2,
            Role::Observing => 3,
        });
        bytes.put_i64(self.leader);
        bytes.put_i64(self.zxid);
        bytes.put_i64(self.round);
        bytes.put_i64(self.epoch);
        bytes.put_i32(FORMAT);
        encode_config(&self.config, &mut bytes);
        if !self.proposed.is_empty() {
            encode_config(&self.proposed, &mut bytes);
        }
        bytes.freeze()
    }

    /// Reads a vote of any format.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(mut bytes: Bytes) -> Result<Notification, BadNotification> {
        let length = bytes.len();
        let short = |missing| move |_| BadNotification::Short { length, missing };
        let state = match bytes.try_get_i32().map_err(short("state"))? {
            0 => Role::Looking,
            1 => Role::Following,
            2 => Role::Leading,
            3 => Role::Observing,
            other => return Err(BadNotification::State(other)),
        };
        let leader = bytes.try_get_i64().map_err(short("leader"))?;
        let zxid = bytes.try_get_i64().map_err(short("zxid"))?;
        let round = bytes.try_get_i64().map_err(short("round"))?;
        let epoch = match length {
            WITHOUT_EPOCH => i64::from(epoch_of(zxid).cast_signed()),
            _ => bytes.try_get_i64().map_err(short("epoch"))?,
        };
        let format = match length {
            WITHOUT_EPOCH | WITHOUT_FORMAT => 0,
            _ => bytes.try_get_i32().map_err(short("format"))?,
        };
        let config = match format {
            ..FORMAT => Bytes::new(),
            FORMAT.. => decode_config(&mut bytes).ok_or(BadNotification::Short {
                length,
                missing: "configuration's end",
            })?,
        };
        let proposed = match format {
            ..FORMAT => Bytes::new(),
            FORMAT.. => decode_config(&mut bytes).unwrap_or_default(),
        };
        Ok(Notification {
            state,
            leader,
            zxid,
            round,
            epoch,
            format,
            config,
            proposed,
        })
    }
}

fn encode_config(config: &[u8], bytes: &mut BytesMut) {
    bytes.put_u32(u32::try_from(config.len()).unwrap_or(u32::MAX));
    bytes.put_slice(config);
}

fn decode_config(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}
