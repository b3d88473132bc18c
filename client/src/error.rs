//! What can go wrong, and whether an operation took effect nevertheless.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::jute::DecodeError;
use quorate_proto::path::PathError;
use quorate_proto::{ErrorCode, OpCode};
use thiserror::Error;

use crate::session::SessionId;

/// Why an operation, a watch or a connection failed.
///
/// [`outcome`](Error::outcome) tells whether the operation took effect; that, rather than the
/// variant, decides what may be repeated.
///
/// ```
/// use quorate_client::{Error, Outcome};
///
/// # fn handle(error: Error) {
/// match error {
///     Error::NoNode { path } => println!("{path} is gone"),
///     error if error.outcome() == Outcome::Unknown => println!("look before repeating: {error}"),
///     error => println!("nothing was changed: {error}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// The path cannot name a znode; nothing was sent.
    #[error("invalid path: {0}")]
    InvalidPath(#[from] PathError),

    /// The connect string cannot be understood.
    #[error("invalid connect string {input:?}: {reason}")]
    InvalidConnectString {
        /// The string as given.
        input: String,
        /// What is wrong, and what is expected.
        reason: String,
    },

    /// Arguments that contradict each other; nothing was sent.
    #[error("{path:?}: {reason}")]
    InvalidArgument {
        /// The znode.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },

    /// The request is longer than servers take; nothing was sent.
    #[error(
        "{path:?}: a request of {size} bytes is above the limit of {max}; \
         store less in the znode, or raise jute.maxbuffer on the servers and `max_frame` here"
    )]
    TooLarge {
        /// The znode.
        path: String,
        /// Bytes of the request.
        size: usize,
        /// The longest request that is allowed.
        max: usize,
    },

    /// Too many requests wait to be sent; nothing was sent.
    #[error(
        "{path:?}: {limit} requests wait already; await replies before sending more, \
         or raise `max_queued`"
    )]
    QueueFull {
        /// The znode.
        path: String,
        /// The most requests that may wait.
        limit: usize,
    },

    /// The znode does not exist; for a create, its parent does not.
    #[error("{path:?}: the znode, or for a create its parent, does not exist")]
    NoNode {
        /// The znode.
        path: String,
    },

    /// The znode exists already.
    #[error("{path:?}: the znode exists already")]
    NodeExists {
        /// The znode.
        path: String,
    },

    /// The znode does not have the expected version.
    #[error("{path:?}: the znode does not have the expected version; read it again")]
    BadVersion {
        /// The znode.
        path: String,
    },

    /// The znode has children and cannot be deleted.
    #[error("{path:?}: the znode has children; delete them first")]
    NotEmpty {
        /// The znode.
        path: String,
    },

    /// The ACL does not permit the operation to this session's identities.
    #[error("{path:?}: the ACL does not permit this; add a credential with `add_auth`")]
    NoAuth {
        /// The znode.
        path: String,
    },

    /// The parent is ephemeral and cannot have children.
    #[error("{path:?}: the parent is ephemeral and cannot have children")]
    NoChildrenForEphemerals {
        /// The znode that was to be created.
        path: String,
    },

    /// The server does not accept the ACL.
    #[error(
        "{path:?}: the ACL is not valid: it is empty, names a scheme that the server does not \
         know, or says `auth` on a connection without credentials"
    )]
    InvalidAcl {
        /// The znode.
        path: String,
    },

    /// A hard quota does not allow the change.
    #[error("{path:?}: a quota does not allow this")]
    QuotaExceeded {
        /// The znode.
        path: String,
    },

    /// The server is read-only, being cut off from its ensemble. Writes do not even get to it.
    #[error("{path:?}: the server is read-only for now; wait for `State::Connected`")]
    ReadOnly {
        /// The znode.
        path: String,
    },

    /// The server refused the operation for another reason.
    #[error("{operation:?} of {path:?}: {code}")]
    Server {
        /// What was asked.
        operation: OpCode,
        /// The znode; empty for operations without one.
        path: String,
        /// The server's answer.
        code: ErrorCode,
    },

    /// An operation of a transaction failed, and so nothing of the transaction was done.
    #[error("operation {index} of the transaction failed: {source}")]
    Transaction {
        /// Which one, counted from 0.
        index: usize,
        /// Why.
        source: Box<Error>,
    },

    /// The operation succeeded, but its reply cannot be understood.
    #[error("{operation:?} of {path:?} succeeded, but its reply cannot be decoded: {source}")]
    InvalidReply {
        /// What was asked.
        operation: OpCode,
        /// The znode; empty for operations without one.
        path: String,
        /// What is wrong with the reply.
        source: DecodeError,
    },

    /// The connection was lost before the reply came. The session goes on, on another connection.
    #[error("{operation:?} of {path:?}: the connection was lost {}", loss(*.sent))]
    ConnectionLoss {
        /// What was asked.
        operation: OpCode,
        /// The znode; empty for operations without one.
        path: String,
        /// Had the whole request left by then? If not, it surely did not happen.
        sent: bool,
    },

    /// The session has expired. Its ephemeral znodes and watches are gone; connect anew.
    #[error("session {session} has expired; its ephemeral znodes are gone, connect anew")]
    SessionExpired {
        /// The session.
        session: SessionId,
    },

    /// The servers refused a credential, which ends the session's handle.
    #[error("a server refused a credential; connect anew with another one")]
    AuthFailed,

    /// Authentication with SASL failed, which ends the session's handle.
    #[error("SASL with {server} as {user:?}: {reason}; connect anew once that is put right")]
    SaslFailed {
        /// The server.
        server: String,
        /// The user.
        user: String,
        /// What went wrong.
        reason: String,
    },

    /// The client was closed or detached.
    #[error("the client is closed")]
    Closed,

    /// A file for TLS cannot be used; nothing was connected.
    #[error("cannot use {} for TLS: {reason}", file.display())]
    TlsFile {
        /// The file as given.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// No server could be reached in time.
    #[error("no server of {servers} could be reached within {within:?}; at last: {source}")]
    Connect {
        /// The servers tried.
        servers: String,
        /// How long they were tried.
        within: Duration,
        /// The last failure.
        source: Arc<io::Error>,
    },
}

fn loss(sent: bool) -> &'static str {
    if sent {
        "before the answer came, so it may or may not have been executed"
    } else {
        "before the request was sent, so it was not executed"
    }
}

/// Did an operation that ended in an error take effect?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It surely changed nothing. Reads never change anything.
    DidNotHappen,
    /// It surely took effect, only its result is not known.
    Happened,
    /// It may have taken effect, or still may shortly.
    Unknown,
}

impl Error {
    /// Whether the operation took effect although it failed.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::InvalidReply { operation, .. } if is_read(*operation) => Outcome::DidNotHappen,
            Error::InvalidReply { .. } => Outcome::Happened,
            Error::ConnectionLoss {
                operation, sent, ..
            } if *sent && !is_read(*operation) => Outcome::Unknown,
            Error::Server {
                operation, code, ..
            } if !is_read(*operation) && !is_refusal(*code) => Outcome::Unknown,
            _ => Outcome::DidNotHappen,
        }
    }

    /// May the same operation succeed when it is repeated on this client, nothing else having
    /// changed? Whether repeating is safe is a matter of [`outcome`](Error::outcome).
    pub fn is_transient(&self) -> bool {
        match self {
            Error::ConnectionLoss { .. } | Error::QueueFull { .. } | Error::ReadOnly { .. } => true,
            Error::Server { code, .. } => matches!(
                *code,
                ErrorCode::THROTTLED_OP | ErrorCode::OPERATION_TIMEOUT | ErrorCode::SESSION_MOVED
            ),
            Error::Transaction { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Is the session over, so that no operation can succeed on this client any more?
    pub fn is_session_over(&self) -> bool {
        matches!(
            self,
            Error::SessionExpired { .. }
                | Error::AuthFailed
                | Error::SaslFailed { .. }
                | Error::Closed
        )
    }

    /// The protocol's code for this error; `None` for what never came from a server.
    pub fn code(&self) -> Option<ErrorCode> {
        Some(match self {
            Error::NoNode { .. } => ErrorCode::NO_NODE,
            Error::NodeExists { .. } => ErrorCode::NODE_EXISTS,
            Error::BadVersion { .. } => ErrorCode::BAD_VERSION,
            Error::NotEmpty { .. } => ErrorCode::NOT_EMPTY,
            Error::NoAuth { .. } => ErrorCode::NO_AUTH,
            Error::NoChildrenForEphemerals { .. } => ErrorCode::NO_CHILDREN_FOR_EPHEMERALS,
            Error::InvalidAcl { .. } => ErrorCode::INVALID_ACL,
            Error::QuotaExceeded { .. } => ErrorCode::QUOTA_EXCEEDED,
            Error::ReadOnly { .. } => ErrorCode::NOT_READ_ONLY,
            Error::Server { code, .. } => *code,
            Error::Transaction { source, .. } => return source.code(),
            Error::ConnectionLoss { .. } => ErrorCode::CONNECTION_LOSS,
            Error::SessionExpired { .. } => ErrorCode::SESSION_EXPIRED,
            Error::AuthFailed | Error::SaslFailed { .. } => ErrorCode::AUTH_FAILED,
            _ => return None,
        })
    }

    /// The error for a server's answer other than [`ErrorCode::OK`].
    pub(crate) fn from_code(
        code: ErrorCode,
        operation: OpCode,
        path: &str,
        session: SessionId,
    ) -> Error {
        let path = path.to_owned();
        match code {
            ErrorCode::NO_NODE => Error::NoNode { path },
            ErrorCode::NODE_EXISTS => Error::NodeExists { path },
            ErrorCode::BAD_VERSION => Error::BadVersion { path },
            ErrorCode::NOT_EMPTY => Error::NotEmpty { path },
            ErrorCode::NO_AUTH => Error::NoAuth { path },
            ErrorCode::NO_CHILDREN_FOR_EPHEMERALS => Error::NoChildrenForEphemerals { path },
            ErrorCode::INVALID_ACL => Error::InvalidAcl { path },
            ErrorCode::QUOTA_EXCEEDED => Error::QuotaExceeded { path },
            ErrorCode::NOT_READ_ONLY => Error::ReadOnly { path },
            ErrorCode::SESSION_EXPIRED => Error::SessionExpired { session },
            ErrorCode::AUTH_FAILED => Error::AuthFailed,
            code => Error::Server {
                operation,
                path,
                code,
            },
        }
    }
}

/// Operations that change no znode, so that repeating them is always safe.
pub(crate) fn is_read(operation: OpCode) -> bool {
    !matches!(
        operation,
        OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::SetData
            | OpCode::SetAcl
            | OpCode::Multi
            | OpCode::Reconfig
            | OpCode::CloseSession
    )
}

/// Codes with which a server says that it did not execute a request. A code that is not known here
/// promises nothing.
fn is_refusal(code: ErrorCode) -> bool {
    code.name().is_some()
        && !matches!(
            code,
            ErrorCode::SYSTEM_ERROR
                | ErrorCode::DATA_INCONSISTENCY
                | ErrorCode::CONNECTION_LOSS
                | ErrorCode::OPERATION_TIMEOUT
                | ErrorCode::REQUEST_TIMEOUT
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(operation: OpCode, code: i32) -> Outcome {
        let session = SessionId::default();
        Error::from_code(ErrorCode(code), operation, "/a", session).outcome()
    }

    fn loss(operation: OpCode, sent: bool) -> Outcome {
        let path = String::from("/a");
        Error::ConnectionLoss {
            operation,
            path,
            sent,
        }
        .outcome()
    }

    #[test]
    fn only_a_write_that_left_is_unknown() {
        assert_eq!(loss(OpCode::SetData, true), Outcome::Unknown);
        assert_eq!(loss(OpCode::Multi, true), Outcome::Unknown);
        assert_eq!(loss(OpCode::SetData, false), Outcome::DidNotHappen);
        assert_eq!(loss(OpCode::GetData, true), Outcome::DidNotHappen);
        assert_eq!(loss(OpCode::Sync, true), Outcome::DidNotHappen);
    }

    #[test]
    fn a_refusal_did_not_happen_and_an_unknown_code_promises_nothing() {
        for code in [-2, -5, -6, -8, -101, -103, -110, -112, -119, -125, -127] {
            assert_eq!(
                server(OpCode::Create2, code),
                Outcome::DidNotHappen,
                "{code}"
            );
        }
        for code in [-1, -7, -126, -5000] {
            assert_eq!(server(OpCode::Create2, code), Outcome::Unknown, "{code}");
            assert_eq!(
                server(OpCode::GetData, code),
                Outcome::DidNotHappen,
                "{code}"
            );
        }
    }

    #[test]
    fn a_reply_that_cannot_be_read_says_that_the_write_happened() {
        let error = Error::InvalidReply {
            operation: OpCode::SetData,
            path: "/a".into(),
            source: DecodeError::InvalidUtf8,
        };
        assert_eq!(error.outcome(), Outcome::Happened);
    }
}
