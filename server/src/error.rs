//! Why a server does not start, or stops.

use std::net::SocketAddr;

use quorate_proto::jute::DecodeError;
use thiserror::Error;

use crate::config::ConfigError;
use crate::storage::StorageError;

/// Why a server does not start, or stops by itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A temporary data directory could not be made.
    #[error("no temporary data directory could be made: {0}")]
    Scratch(#[source] std::io::Error),
    /// Data cannot be read, or can no longer be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The client port cannot be opened.
    #[error(
        "clients cannot be served on {address}: {source}; \
         is another server running there, or is the address not one of this machine?"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The thread that writes has panicked, which is a fault of this program.
    #[error("the thread that writes has panicked; the log of this server says where")]
    Panicked,
    /// The name of this server in the configuration of the ensemble has no address.
    #[error(
        "this server's own host name {host:?} cannot be resolved: {source}; mend its server line, or the name service"
    )]
    OwnHost {
        /// The name.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A port for other members cannot be opened.
    #[error(
        "other members cannot be served on {address}: {source}; is another server running there, or is \
         the address not one of this machine (quorumListenOnAllIPs=true binds all)?"
    )]
    QuorumPort {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No server of an ensemble has come to lead.
    #[error(
        "no server leads within {patience:?}; do the logs of the servers say why, and is there a quorum?"
    )]
    NoLeader {
        /// How long was waited.
        patience: std::time::Duration,
    },
    /// A transaction that this server has made cannot be read back.
    #[error("a transaction of this server's own cannot be read back: {0}")]
    OwnRecord(#[source] DecodeError),
}
