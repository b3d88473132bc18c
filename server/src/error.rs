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
    /// An ensemble is configured.
    #[error("{servers} voting servers are configured, and this version runs a single server only")]
    Ensemble {
        /// Voting servers in the configuration.
        servers: usize,
    },
    /// A transaction that this server has made cannot be read back.
    #[error("a transaction of this server's own cannot be read back: {0}")]
    OwnRecord(#[source] DecodeError),
}
