//! Snapshots: written from a running server, and read back (spec: disk formats, section 6).
//!
//! A snapshot is written under a temporary name, synced, and then renamed, so that whatever bears
//! the name of a snapshot is whole.

mod reader;
mod snappy;
mod stream;
mod writer;

use quorate_proto::TxnDigest;
use quorate_proto::jute::Encode;

use crate::tree::Tree;

pub use reader::{Visitor, read};
pub use stream::{TreeDump, TreeReceiver};
pub use writer::{Progress, Source, StillTree, Written, encode_node};
pub(super) use writer::{Unnamed, write};

const MAGIC: [u8; 4] = *b"ZKSN";
const VERSION: i32 = 2;
const DBID: i64 = -1;
/// Stands in the place of a path behind the last znode, and behind every checksum.
const TERMINATOR: &str = "/";

/// How snapshots are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
    /// With snappy, in the framing of `snappy-java`.
    Snappy,
}

impl Compression {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Snappy => ".snappy",
        }
    }

    /// The compression of a file by its name.
    pub(crate) fn of(name: &str) -> Self {
        if name.ends_with(Compression::Gzip.suffix()) {
            Compression::Gzip
        } else if name.ends_with(Compression::Snappy.suffix()) {
            Compression::Snappy
        } else {
            Compression::None
        }
    }
}

/// What stands in front of the znodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Everything up to this transaction is in the snapshot; it becomes part of the name.
    pub zxid: i64,
    /// The sessions and their timeouts in milliseconds.
    pub sessions: Vec<(i64, i32)>,
    /// The keys of the ACLs, and the ACLs as encoded vectors.
    pub acls: Vec<(i64, Vec<u8>)>,
}

impl Head {
    /// What stands in front of the znodes of `tree`.
    pub fn of(tree: &Tree) -> Self {
        let acls = tree.stored_acls();
        Head {
            zxid: tree.last_zxid(),
            sessions: tree.sessions().collect(),
            acls: acls
                .map(|(key, list)| (key, list.encoded().to_vec()))
                .collect(),
        }
    }
}

impl Encode for Head {
    fn encode(&self, out: &mut Vec<u8>) {
        let count = |n| i32::try_from(n).unwrap_or(i32::MAX);
        count(self.sessions.len()).encode(out);
        for (id, timeout) in &self.sessions {
            id.encode(out);
            timeout.encode(out);
        }
        count(self.acls.len()).encode(out);
        for (key, acl) in &self.acls {
            key.encode(out);
            out.extend_from_slice(acl);
        }
    }
}

/// What stands behind the znodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    /// The digest of the tree once all znodes were written, and its transaction.
    pub digest: Option<(i64, TxnDigest)>,
    /// The last transaction of which the snapshot may show something.
    pub last_zxid: Option<i64>,
}

impl Tail {
    /// May the snapshot, which is named after `zxid`, show something of a transaction behind
    /// `limit`? One that tells nothing about its end might, unless it is the first of all.
    pub(super) fn may_be_ahead(&self, zxid: i64, limit: i64) -> bool {
        let end = self.last_zxid.or(self.digest.map(|(zxid, _)| zxid));
        match end {
            Some(end) => end > limit,
            None => zxid != 0,
        }
    }
}
