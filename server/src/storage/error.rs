//! What can go wrong with storage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::cases::{Case, Finding};

/// Why storage cannot do what it was asked to.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}; {}", path.display(), advice(source.kind()))]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The reason given.
        source: Arc<io::Error>,
    },
    /// A write or a sync failed earlier; since then nothing is done any more.
    #[error("storage has stopped, because it {0}")]
    Stopped(Arc<StorageError>),
    /// The files are in a state that no server may start from.
    #[error("{0}")]
    Refused(Box<Finding>),
    /// A snapshot that cannot be read.
    #[error("snapshot {} is damaged at offset {offset} of its content: {reason}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Offset within the uncompressed content.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A file with a configuration of the ensemble that makes no sense.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// What a leader sent is not its tree.
    #[error(
        "the tree that the leader sends cannot be read at offset {offset}: {reason}; it will be \
         asked for again"
    )]
    Received {
        /// Offset behind the SNAP packet.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A transaction that does not follow the one before it was to be appended.
    #[error(
        "transaction {next:#x} cannot be appended behind {last:#x}, because some are missing; this \
         is a bug of the server: please report it"
    )]
    OutOfOrder {
        /// The newest in the log.
        last: i64,
        /// What was to come next.
        next: i64,
    },
    /// An epoch file that holds no epoch, or contradicts the others.
    #[error("{}: {reason}", path.display())]
    Epoch {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}

impl StorageError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        StorageError::Io {
            operation,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// The case that made recovery refuse, if that is what happened.
    pub fn case(&self) -> Option<Case> {
        match self {
            StorageError::Refused(finding) => Some(finding.case),
            _ => None,
        }
    }
}

impl From<Finding> for StorageError {
    fn from(finding: Finding) -> Self {
        StorageError::Refused(Box::new(finding))
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on that file system, then start the server again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give the server's user the right to write there"
        }
        io::ErrorKind::NotFound => "create it, or mend the path in the configuration",
        io::ErrorKind::AlreadyExists => "move that file away",
        _ => "look for errors of the disk in the system's log",
    }
}
