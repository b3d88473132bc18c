//! The records of the client protocol, under the names that ZooKeeper gives them.

use crate::acl::Acl;
use crate::code::{ErrorCode, EventType, OpCode, STATE_SYNC_CONNECTED};
use crate::jute::{Decode, DecodeError, Encode, Reader, records};

/// Transaction ids that requests and replies outside the numbering carry.
pub mod xid {
    /// A watch event.
    pub const NOTIFICATION: i32 = -1;
    /// A heartbeat.
    pub const PING: i32 = -2;
    /// A credential.
    pub const AUTH: i32 = -4;
    /// Watches set again after a reconnect.
    pub const SET_WATCHES: i32 = -8;
}

records! {
    /// In front of every request.
    #[derive(Copy)]
    pub struct RequestHeader {
        /// Chosen by the client, repeated in the reply.
        xid: i32,
        /// An opcode, not checked yet.
        op: i32,
    }

    /// In front of every reply and watch event.
    #[derive(Copy)]
    pub struct ReplyHeader {
        /// The request's xid, or one of [`xid`].
        xid: i32,
        /// The last transaction that the answering server had applied.
        zxid: i64,
        /// The outcome; a body follows only where it is [`ErrorCode::OK`].
        err: ErrorCode,
    }

    /// What every znode carries beside its data.
    #[derive(Copy, Default)]
    pub struct Stat {
        /// Transaction that created the znode.
        czxid: i64,
        /// Transaction that last set the data.
        mzxid: i64,
        /// Creation time, milliseconds since 1970.
        ctime: i64,
        /// Time of the last change of the data, milliseconds since 1970.
        mtime: i64,
        /// Changes of the data.
        version: i32,
        /// Changes of the list of children.
        cversion: i32,
        /// Changes of the ACL.
        aversion: i32,
        /// The session of an ephemeral znode, otherwise 0.
        ephemeral_owner: i64,
        /// Bytes of data.
        data_length: i32,
        /// Number of children.
        num_children: i32,
        /// Transaction that last changed the list of children.
        pzxid: i64,
    }

    /// A credential for the connection.
    pub struct AuthPacket<'a> {
        /// Sent as 0 and ignored.
        kind: i32,
        /// The scheme, such as `digest`.
        scheme: &'a str,
        /// What the scheme asks for, such as `user:password`.
        auth: Option<&'a [u8]>,
    }

    /// Creates a znode or a container.
    pub struct CreateRequest<'a> {
        /// Full path; the beginning of it for sequential modes.
        path: &'a str,
        /// The data; null and empty are different.
        data: Option<&'a [u8]>,
        /// The ACL; null is refused by servers.
        acl: Option<Vec<Acl<'a>>>,
        /// A [`CreateMode`](crate::CreateMode), not checked yet.
        flags: i32,
    }

    /// Creates a znode with a time to live.
    pub struct CreateTtlRequest<'a> {
        /// Full path; the beginning of it for sequential modes.
        path: &'a str,
        /// The data; null and empty are different.
        data: Option<&'a [u8]>,
        /// The ACL; null is refused by servers.
        acl: Option<Vec<Acl<'a>>>,
        /// A [`CreateMode`](crate::CreateMode), not checked yet.
        flags: i32,
        /// Time to live in milliseconds.
        ttl: i64,
    }

    /// The path of a created znode.
    pub struct CreateResponse<'a> {
        /// With the counter that the server appended, if any.
        path: &'a str,
    }

    /// Path and stat of a created znode.
    pub struct Create2Response<'a> {
        /// With the counter that the server appended, if any.
        path: &'a str,
        /// The new stat.
        stat: Stat,
    }

    /// A path and the version it is expected to have: delete and check.
    pub struct VersionRequest<'a> {
        /// The znode.
        path: &'a str,
        /// -1 matches any version.
        version: i32,
    }

    /// A read that may leave a watch: exists, getData, getChildren, getChildren2.
    pub struct WatchedRequest<'a> {
        /// The znode.
        path: &'a str,
        /// Leave a one-shot watch.
        watch: bool,
    }

    /// A request or reply that is nothing but a path: getACL, sync, getEphemerals (where it is a
    /// prefix), getAllChildrenNumber, deleteContainer.
    pub struct PathRecord<'a> {
        /// The path.
        path: &'a str,
    }

    /// Data and stat of a znode.
    pub struct GetDataResponse<'a> {
        /// Null and empty are different.
        data: Option<&'a [u8]>,
        /// The stat.
        stat: Stat,
    }

    /// Replaces the data of a znode.
    pub struct SetDataRequest<'a> {
        /// The znode.
        path: &'a str,
        /// Null and empty are different.
        data: Option<&'a [u8]>,
        /// -1 matches any version.
        version: i32,
    }

    /// A stat alone: exists, setData, setACL.
    pub struct StatResponse {
        /// The stat.
        stat: Stat,
    }

    /// Names of the children, in no order.
    pub struct GetChildrenResponse<'a> {
        /// Names without a slash.
        children: Vec<&'a str>,
    }

    /// Names of the children, in no order, and the stat.
    pub struct GetChildren2Response<'a> {
        /// Names without a slash.
        children: Vec<&'a str>,
        /// The stat of the parent.
        stat: Stat,
    }

    /// ACL and stat of a znode.
    pub struct GetAclResponse<'a> {
        /// The entries in stored order.
        acl: Vec<Acl<'a>>,
        /// The stat.
        stat: Stat,
    }

    /// Replaces the ACL of a znode.
    pub struct SetAclRequest<'a> {
        /// The znode.
        path: &'a str,
        /// Null is refused by servers.
        acl: Option<Vec<Acl<'a>>>,
        /// Compared with the stat's `aversion`; -1 matches any.
        version: i32,
    }

    /// The number of descendants.
    pub struct GetAllChildrenNumberResponse {
        /// Descendants, the znode itself not counted.
        total: i32,
    }

    /// Paths of the session's ephemeral znodes.
    pub struct GetEphemeralsResponse<'a> {
        /// Full paths, in no order.
        paths: Vec<&'a str>,
    }

    /// One-shot watches to set again after a reconnect.
    pub struct SetWatches<'a> {
        /// The last zxid that the client has seen.
        relative_zxid: i64,
        /// Paths with data watches.
        data: Vec<&'a str>,
        /// Paths with watches for creation.
        exist: Vec<&'a str>,
        /// Paths with watches on their children.
        child: Vec<&'a str>,
    }

    /// Watches of every kind to set again after a reconnect.
    pub struct SetWatches2<'a> {
        /// The last zxid that the client has seen.
        relative_zxid: i64,
        /// Paths with data watches.
        data: Vec<&'a str>,
        /// Paths with watches for creation.
        exist: Vec<&'a str>,
        /// Paths with watches on their children.
        child: Vec<&'a str>,
        /// Paths with persistent watches.
        persistent: Vec<&'a str>,
        /// Paths with persistent recursive watches.
        persistent_recursive: Vec<&'a str>,
    }

    /// A path and a mode or watcher type, not checked yet: addWatch, checkWatches, removeWatches.
    pub struct WatchRequest<'a> {
        /// The znode.
        path: &'a str,
        /// An [`AddWatchMode`](crate::AddWatchMode) or a [`WatcherType`](crate::WatcherType).
        kind: i32,
    }

    /// Something happened to a watched znode.
    pub struct WatcherEvent<'a> {
        /// What happened.
        kind: EventType,
        /// Always [`STATE_SYNC_CONNECTED`].
        state: i32,
        /// To which znode.
        path: &'a str,
    }

    /// An error code as a body: a failed operation of a multi, and the reply to addWatch.
    pub struct ErrorResponse {
        /// The code.
        err: ErrorCode,
    }

    /// In front of every operation and result of a multi.
    pub struct MultiHeader {
        /// An opcode; -1 for an error and at the end.
        op: i32,
        /// True behind the last operation.
        done: bool,
        /// The result's error code; -1 in requests.
        err: i32,
    }

    /// Changes the membership of the ensemble.
    pub struct ReconfigRequest<'a> {
        /// Servers to add, `server.N=…` separated by commas.
        joining: Option<&'a str>,
        /// Ids of servers to remove, separated by commas.
        leaving: Option<&'a str>,
        /// The whole new membership, instead of the two above.
        new_members: Option<&'a str>,
        /// The configuration that this one replaces; -1 for any.
        config_id: i64,
    }

    /// One step of a SASL exchange, either way.
    pub struct SaslToken<'a> {
        /// The mechanism's message.
        token: Option<&'a [u8]>,
    }

    /// One identity of a connection.
    pub struct ClientInfo<'a> {
        /// The scheme.
        scheme: &'a str,
        /// The user, without any secret.
        user: &'a str,
    }

    /// The identities of a connection.
    pub struct WhoAmIResponse<'a> {
        /// In no order.
        infos: Vec<ClientInfo<'a>>,
    }
}

impl<'a> WatcherEvent<'a> {
    /// An event as servers send it.
    pub fn new(kind: EventType, path: &'a str) -> Self {
        WatcherEvent {
            kind,
            state: STATE_SYNC_CONNECTED,
            path,
        }
    }
}

impl MultiHeader {
    /// The trailer of every multi.
    pub const END: MultiHeader = MultiHeader {
        op: -1,
        done: true,
        err: -1,
    };

    /// In front of an operation of a request.
    pub fn request(op: OpCode) -> Self {
        MultiHeader {
            op: op.number(),
            done: false,
            err: -1,
        }
    }

    /// In front of a result.
    pub fn result(op: OpCode, err: ErrorCode) -> Self {
        MultiHeader {
            op: op.number(),
            done: false,
            err: err.0,
        }
    }
}

/// The first frame of a connection. It has no header of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// Always 0.
    pub protocol_version: i32,
    /// The highest zxid that the client has seen.
    pub last_zxid_seen: i64,
    /// The session timeout that the client asks for, in milliseconds.
    pub timeout: i32,
    /// The session to reattach, 0 for a new one.
    pub session_id: i64,
    /// The session's password, 16 bytes.
    pub password: Option<&'a [u8]>,
    /// Does the client accept a read-only server? `None` from clients that do not know the field.
    pub read_only: Option<bool>,
}

impl Encode for ConnectRequest<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.protocol_version.encode(out);
        self.last_zxid_seen.encode(out);
        self.timeout.encode(out);
        self.session_id.encode(out);
        self.password.encode(out);
        if let Some(read_only) = self.read_only {
            read_only.encode(out);
        }
    }
}

impl<'a> Decode<'a> for ConnectRequest<'a> {
    const MIN_SIZE: usize = 28;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(ConnectRequest {
            protocol_version: reader.read()?,
            last_zxid_seen: reader.read()?,
            timeout: reader.read()?,
            session_id: reader.read()?,
            password: reader.read()?,
            read_only: optional_flag(reader)?,
        })
    }
}

/// The server's answer to a [`ConnectRequest`]. It has no header of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse<'a> {
    /// Always 0.
    pub protocol_version: i32,
    /// The negotiated session timeout in milliseconds; 0 or less says that the session has expired.
    pub timeout: i32,
    /// The session.
    pub session_id: i64,
    /// The session's password, 16 bytes.
    pub password: Option<&'a [u8]>,
    /// Is the server read-only? Only sent to clients that sent the field.
    pub read_only: Option<bool>,
}

impl Encode for ConnectResponse<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.protocol_version.encode(out);
        self.timeout.encode(out);
        self.session_id.encode(out);
        self.password.encode(out);
        if let Some(read_only) = self.read_only {
            read_only.encode(out);
        }
    }
}

impl<'a> Decode<'a> for ConnectResponse<'a> {
    const MIN_SIZE: usize = 20;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(ConnectResponse {
            protocol_version: reader.read()?,
            timeout: reader.read()?,
            session_id: reader.read()?,
            password: reader.read()?,
            read_only: optional_flag(reader)?,
        })
    }
}

/// The flag that clients before 3.4 do not know, at the end of both connect records.
fn optional_flag(reader: &mut Reader<'_>) -> Result<Option<bool>, DecodeError> {
    if reader.is_empty() {
        Ok(None)
    } else {
        reader.read().map(Some)
    }
}
