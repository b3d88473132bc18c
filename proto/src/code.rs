//! Numbers with names: opcodes, error codes, event types, states and modes.

use std::fmt;

use crate::jute::{Decode, DecodeError, Encode, Reader};

/// Declares an enum over `i32` that is encoded as its number.
macro_rules! numbers {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident as $what:literal {
            $( $(#[$vmeta:meta])* $variant:ident = $value:literal, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i32)]
        pub enum $name {
            $( $(#[$vmeta])* $variant = $value, )*
        }
        impl $name {
            /// Every value, in the order of the protocol's documentation.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The number on the wire.
            pub const fn number(self) -> i32 {
                self as i32
            }
        }
        impl TryFrom<i32> for $name {
            type Error = DecodeError;
            fn try_from(value: i32) -> Result<Self, DecodeError> {
                match value {
                    $( $value => Ok($name::$variant), )*
                    _ => Err(DecodeError::Unknown { what: $what, value }),
                }
            }
        }
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.number().encode(out);
            }
        }
        impl Decode<'_> for $name {
            const MIN_SIZE: usize = 4;
            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                i32::decode(reader)?.try_into()
            }
        }
    )*};
}

numbers! {
    /// What a request asks for, and what a transaction does.
    pub enum OpCode as "opcode" {
        /// A watch event; only servers send it.
        Notification = 0,
        /// Creates a znode, answers its path.
        Create = 1,
        /// Deletes a znode.
        Delete = 2,
        /// The stat of a znode.
        Exists = 3,
        /// Data and stat of a znode.
        GetData = 4,
        /// Replaces the data of a znode.
        SetData = 5,
        /// ACL and stat of a znode.
        GetAcl = 6,
        /// Replaces the ACL of a znode.
        SetAcl = 7,
        /// Names of the children.
        GetChildren = 8,
        /// Waits until the server has caught up with the leader.
        Sync = 9,
        /// Heartbeat.
        Ping = 11,
        /// Names of the children, and the stat.
        GetChildren2 = 12,
        /// Compares a version, inside a multi.
        Check = 13,
        /// Several writes as one transaction.
        Multi = 14,
        /// Creates a znode, answers its path and stat.
        Create2 = 15,
        /// Changes the membership of the ensemble.
        Reconfig = 16,
        /// Is a watch set?
        CheckWatches = 17,
        /// Removes watches.
        RemoveWatches = 18,
        /// Creates a container.
        CreateContainer = 19,
        /// Reaps a container or an expired TTL node; only servers send it.
        DeleteContainer = 20,
        /// Creates a znode with a time to live.
        CreateTtl = 21,
        /// Several reads in one request.
        MultiRead = 22,
        /// Adds a credential to the connection.
        Auth = 100,
        /// Sets one-shot watches again after a reconnect.
        SetWatches = 101,
        /// One step of a SASL exchange.
        Sasl = 102,
        /// Ephemeral znodes of the session.
        GetEphemerals = 103,
        /// Number of descendants.
        GetAllChildrenNumber = 104,
        /// Sets watches of every kind again after a reconnect.
        SetWatches2 = 105,
        /// Adds a persistent watch.
        AddWatch = 106,
        /// The identities of the connection.
        WhoAmI = 107,
        /// Opens a session; only servers send it.
        CreateSession = -10,
        /// Closes the session.
        CloseSession = -11,
        /// The transaction of a write that failed.
        Error = -1,
    }

    /// What happened to a znode.
    pub enum EventType as "event type" {
        /// A change of the session, not of a znode.
        None = -1,
        /// The znode was created.
        NodeCreated = 1,
        /// The znode was deleted.
        NodeDeleted = 2,
        /// The data of the znode was set.
        NodeDataChanged = 3,
        /// A child of the znode was created or deleted.
        NodeChildrenChanged = 4,
    }

    /// What kind of persistent watch to add.
    pub enum AddWatchMode as "watch mode" {
        /// The znode and the list of its children.
        Persistent = 0,
        /// The znode and all its descendants.
        PersistentRecursive = 1,
    }

    /// Which watches to check or remove.
    pub enum WatcherType as "watcher type" {
        /// One-shot watches on the list of children.
        Children = 1,
        /// One-shot watches on data or existence.
        Data = 2,
        /// Watches of every kind.
        Any = 3,
        /// Persistent watches.
        Persistent = 4,
        /// Persistent recursive watches.
        PersistentRecursive = 5,
    }

    /// How a znode lives and how its name is made.
    pub enum CreateMode as "create mode" {
        /// Lives until it is deleted.
        Persistent = 0,
        /// Lives as long as its session.
        Ephemeral = 1,
        /// Persistent; the server appends a counter to the name.
        PersistentSequential = 2,
        /// Ephemeral; the server appends a counter to the name.
        EphemeralSequential = 3,
        /// Reaped by the server once its last child is gone.
        Container = 4,
        /// Reaped by the server when it has no children and was not set for its time to live.
        PersistentWithTtl = 5,
        /// As `PersistentWithTtl`; the server appends a counter to the name.
        PersistentSequentialWithTtl = 6,
    }
}

impl CreateMode {
    /// Does the znode end with its session?
    pub const fn is_ephemeral(self) -> bool {
        matches!(
            self,
            CreateMode::Ephemeral | CreateMode::EphemeralSequential
        )
    }

    /// Does the server append a counter to the name?
    pub const fn is_sequential(self) -> bool {
        matches!(
            self,
            CreateMode::PersistentSequential
                | CreateMode::EphemeralSequential
                | CreateMode::PersistentSequentialWithTtl
        )
    }

    /// Does the znode have a time to live?
    pub const fn is_ttl(self) -> bool {
        matches!(
            self,
            CreateMode::PersistentWithTtl | CreateMode::PersistentSequentialWithTtl
        )
    }
}

/// The state that every watch event carries.
pub const STATE_SYNC_CONNECTED: i32 = 3;

/// The result of an operation, as servers send it. Codes that we do not know stay as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i32);

macro_rules! error_codes {
    ($( $(#[$meta:meta])* $name:ident = $value:literal, $text:literal; )*) => {
        impl ErrorCode {
            $( $(#[$meta])* #[doc = $text] pub const $name: ErrorCode = ErrorCode($value); )*

            /// Every code that has a name.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The name of the code, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $value => Some(stringify!($name)), )*
                    _ => None,
                }
            }

            /// What the code means, in words.
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $( $value => $text, )*
                    _ => "an error code this version does not know",
                }
            }
        }
    };
}

error_codes! {
    OK = 0, "success";
    SYSTEM_ERROR = -1, "system error";
    RUNTIME_INCONSISTENCY = -2, "not tried, because an earlier operation of the transaction failed";
    DATA_INCONSISTENCY = -3, "data inconsistency";
    CONNECTION_LOSS = -4, "the connection was lost before the answer came";
    MARSHALLING_ERROR = -5, "the server could not decode the request";
    UNIMPLEMENTED = -6, "the server does not offer this operation";
    OPERATION_TIMEOUT = -7, "the operation took too long";
    BAD_ARGUMENTS = -8, "invalid arguments";
    UNKNOWN_SESSION = -12, "the server does not know the session";
    NEW_CONFIG_NO_QUORUM = -13, "the new configuration has no quorum that is up to date";
    RECONFIG_IN_PROGRESS = -14, "another reconfiguration is under way";
    API_ERROR = -100, "API error";
    NO_NODE = -101, "the znode does not exist";
    NO_AUTH = -102, "the ACL does not permit this";
    BAD_VERSION = -103, "the version does not match";
    NO_CHILDREN_FOR_EPHEMERALS = -108, "an ephemeral znode cannot have children";
    NODE_EXISTS = -110, "the znode exists already";
    NOT_EMPTY = -111, "the znode has children";
    SESSION_EXPIRED = -112, "the session has expired";
    INVALID_CALLBACK = -113, "invalid callback";
    INVALID_ACL = -114, "the ACL is not valid";
    AUTH_FAILED = -115, "authentication failed";
    SESSION_MOVED = -118, "the session has moved to another server";
    NOT_READ_ONLY = -119, "the server is read-only";
    EPHEMERAL_ON_LOCAL_SESSION = -120, "a local session cannot create ephemeral znodes";
    NO_WATCHER = -121, "no such watch";
    REQUEST_TIMEOUT = -122, "the request timed out";
    RECONFIG_DISABLED = -123, "reconfiguration is disabled";
    SESSION_CLOSED_REQUIRE_SASL_AUTH = -124, "the server requires authentication";
    QUOTA_EXCEEDED = -125, "the quota is exceeded";
    THROTTLED_OP = -127, "the server is overloaded and did not execute the request";
}

impl ErrorCode {
    /// `Ok(())` for success, the code itself for anything else.
    pub const fn into_result(self) -> Result<(), ErrorCode> {
        if self.0 == 0 { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name}, {})", self.text(), self.0),
            None => write!(f, "{} ({})", self.text(), self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "ErrorCode({})", self.0),
        }
    }
}

impl std::error::Error for ErrorCode {}

impl Encode for ErrorCode {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Decode<'_> for ErrorCode {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.read().map(ErrorCode)
    }
}
