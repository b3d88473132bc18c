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
//!
//! # One session, many handles
//!
//! A handle is cheap to clone, and a thousand tasks can share one: requests reach the session's task
//! through a queue without locks, and travel together. Handles differ in what they see:
//! [`with_chroot`](Client::with_chroot) in the subtree, [`linearizable`](Client::linearizable) in
//! how recent. The recipes take any of them.
//!
//! ```no_run
//! # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
//! let billing = client.with_chroot("/apps/billing")?;
//! let (balance, _) = billing.linearizable().get_data("/balance").await?;
//! # let _ = balance;
//! # Ok(())
//! # }
//! ```
//!
//! # Servers that come and go
//!
//! Names are resolved at every attempt to connect. [`update_servers`](Client::update_servers) puts
//! another list in the place of the one that the client was set up with, and
//! [`follow_membership`](ClientBuilder::follow_membership) does so whenever the ensemble's membership
//! changes; the session lives through it. With [`read_only`](ClientBuilder::read_only) a new session
//! may begin on a server that is cut off from its ensemble: writes fail with [`Error::ReadOnly`]
//! until one that writes is found in the background.
//!
//! # The end
//!
//! However a session ends, by [`close`](Client::close), with its last handle, by expiry, or for want
//! of any server for longer than its timeout, everything that waits for something of it ends with an
//! error that says so: requests, watches and [`states`](Client::states).
//!
//! # TLS and SASL
//!
//! With the feature `tls`, [`ClientBuilder::tls`] secures every connection; [`TlsOptions`] says whom
//! to trust. [`ClientBuilder::sasl_digest_md5`] proves to the servers who the client is, and to the
//! client that the servers know the password:
//!
//! ```no_run
//! # async fn demo(password: String) -> Result<(), quorate_client::Error> {
//! use quorate_client::{Acl, Client, CreateMode, CreateOptions, Perms};
//!
//! let client = Client::builder()
//!     .sasl_digest_md5("alice", password)
//!     .connect("zk1:2181")
//!     .await?;
//! let acl = [Acl::new(Perms::ALL, "sasl", "alice")];
//! let only_alice = CreateOptions::new(CreateMode::Persistent).acl(&acl);
//! client.create("/alice", "", only_alice).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Metrics
//!
//! With the feature `metrics`, the client counts for the recorder of the crate of that name, which
//! has to be installed before the client is built. Without the feature it counts nothing.
//!
//! | Name | Kind | Labels | What |
//! |---|---|---|---|
//! | `quorate_client_requests_total` | counter | `operation` | requests that were answered, or will never be |
//! | `quorate_client_request_errors_total` | counter | `operation`, `code` | those answered with an error, or lost with their connection |
//! | `quorate_client_request_seconds` | histogram | `operation` | from sending a request to its answer |
//! | `quorate_client_requests_in_flight` | gauge | | requests sent and not answered |
//! | `quorate_client_watches` | gauge | | watched znodes, for each kind of watch |
//! | `quorate_client_connections` | gauge | | connections that stand |
//! | `quorate_client_connections_made_total` | counter | | sessions taken by a server, the first time or again |
//! | `quorate_client_connections_lost_total` | counter | | connections that ended before their session |
//! | `quorate_client_connect_failures_total` | counter | | attempts to connect that failed |
//! | `quorate_client_sessions_expired_total` | counter | | sessions that expired |
//! | `quorate_client_sent_bytes_total` | counter | | bytes sent, before TLS |
//! | `quorate_client_received_bytes_total` | counter | | bytes received, after TLS |
//!
//! Operations are named as [`OpCode`] names them, codes as [`ErrorCode::name`] does. Heartbeats and
//! what restores a session on a new connection do not count as requests.
//!
//! # Spans
//!
//! Every operation is a span of `tracing` named `request`, of level `DEBUG` and with the target
//! `quorate_client::request`, from the call until the [`Reply`] is taken or dropped. Its fields are
//! `operation`, `path`, `xid`, `zxid` and `outcome`: `ok`, an error, or nothing where the reply was
//! not waited for.

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
