//! ZooKeeper's client protocol and its transactions: what the server and the client share.
//!
//! No I/O and no async: bytes in, records out. Records borrow from the bytes they were decoded
//! from; encoding appends to a `Vec<u8>`.
//!
//! ```
//! use quorate_proto::jute::{Decode, Encode};
//! use quorate_proto::{frame, OpCode, RequestHeader, WatchedRequest};
//!
//! let mut out = Vec::new();
//! frame::write(&mut out, |out| {
//!     RequestHeader { xid: 1, op: OpCode::GetData.number() }.encode(out);
//!     WatchedRequest { path: "/app", watch: false }.encode(out);
//! });
//! let body = frame::split(&out, frame::DEFAULT_MAX_FRAME)?.expect("a whole frame");
//! assert_eq!(RequestHeader::from_slice(body)?.xid, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod acl;
mod code;
pub mod frame;
pub mod jute;
mod multi;
pub mod path;
mod records;
mod txn;

pub use acl::{Acl, Id, Perms};
pub use code::{
    AddWatchMode, CreateMode, ErrorCode, EventType, OpCode, STATE_SYNC_CONNECTED, WatcherType,
};
pub use multi::{MultiOp, MultiRequest, MultiResponse, MultiResult};
pub use records::*;
pub use txn::{
    CheckTxn, CreateContainerTxn, CreateSessionTxn, CreateTtlTxn, CreateTxn, DeleteTxn,
    PersistedStat, SetAclTxn, SetDataTxn, Txn, TxnDigest, TxnEntry, TxnHeader,
};
