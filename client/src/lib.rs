//! An async client for ensembles that speak ZooKeeper's protocol.
//!
//! [`Client`] is the place to begin: a cheap handle to a session whose socket is owned by a task in
//! the background. Operations are ordered when they are called, every future may be dropped, and
//! every error tells whether the operation took effect ([`Error::outcome`]).
//!
//! ```no_run
//! use futures::StreamExt;
//! use quorate_client::{Client, CreateMode, Error};
//!
//! # async fn demo() -> Result<(), Error> {
//! let client = Client::connect("zk1:2181,zk2:2181,zk3:2181/app").await?;
//!
//! // One-shot watch: the next change after this read.
//! let (data, stat, watch) = client.get_data_watched("/config").await?;
//! println!("{} bytes in version {}", data.len(), stat.version);
//! println!("{:?}", watch.await?.kind);
//!
//! // Persistent watch: a stream of all changes in a subtree.
//! let mut changes = client.watch_recursive("/workers").await?;
//! client.create("/workers/w-", "10.0.0.7", CreateMode::EphemeralSequential).await?;
//! println!("{:?}", changes.next().await);
//! # Ok(())
//! # }
//! ```

mod builder;
mod chroot;
mod client;
mod connect_string;
mod connection;
mod create;
mod dial;
mod driver;
mod error;
mod host;
mod membership;
mod meter;
mod operations;
mod probe;
mod reconnect;
mod registry;
mod request;
mod retry;
mod sasl;
mod servers;
mod session;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod state;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod transaction;
mod watch;
mod wire;

pub use builder::ClientBuilder;
pub use client::Client;
pub use create::{CreateOptions, Created, Data, OPEN_ACL};
pub use error::{Error, Outcome};
pub use membership::{EnsembleConfig, EnsembleMember};
pub use operations::{Identity, Membership};
pub use quorate_proto::{Acl, CreateMode, ErrorCode, Id, OpCode, Perms, Stat, path};
pub use request::Reply;
pub use retry::RetryPolicy;
pub use session::{Session, SessionId};
pub use state::State;
#[cfg(feature = "tls")]
pub use tls::TlsOptions;
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
pub use transaction::{MultiRead, ReadResult, Transaction, TransactionResult};
pub use watch::{EventKind, OneshotWatch, PersistentWatch, WatchedEvent};
