//! A server to embed: started in the process of a program or a test, or as a process of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::config::{Config, SnapshotCompression};
use crate::error::ServerError;
use crate::net;
use crate::service::{Chores, Logger, Phase, Service, Snapshots};
use crate::storage::log::LogOptions;
use crate::storage::snapshot::Compression;
use crate::storage::{Options, Storage};

/// A running server.
///
/// Dropping it stops it like [`Server::shutdown`], but without waiting for the end.
///
/// ```
/// use quorate_server::Server;
///
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 1)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A free port of 127.0.0.1 and a temporary directory, unless the builder is told otherwise.
/// let server = Server::builder().start().await?;
/// let address = server.client_addr().expect("clients are served");
/// println!("clients connect to {address}");
/// server.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    client_addr: Option<SocketAddr>,
    acceptor: Option<JoinHandle<()>>,
    _chores: Chores,
}

impl Server {
    /// Settings for a server to embed.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Recovers the data, opens the client port, and serves.
    ///
    /// # Errors
    /// Settings that cannot work, data that cannot be read, a port that cannot be opened.
    pub async fn start(mut config: Config) -> Result<Server, ServerError> {
        config.validate()?;
        if let Some(ensemble) = &config.ensemble {
            return Err(ServerError::Ensemble {
                servers: ensemble.members.voters().count(),
            });
        }
        let storage = Storage::new(storage_options(&config));
        let recovering = storage.clone();
        let recovered = tokio::task::spawn_blocking(move || recovering.recover())
            .await
            .map_err(|panic| ServerError::Thread(panic.into()))??;
        let listener = match config.client_address() {
            Some(address) => {
                let listener = net::listen(address, config.client_port_listen_backlog)
                    .map_err(|source| ServerError::Listen { address, source })?;
                let bound = listener
                    .local_addr()
                    .map_err(|source| ServerError::Listen { address, source })?;
                Some((listener, bound))
            }
            None => None,
        };
        // Operators who ask for the configuration want the port that the system chose.
        config.client_port = listener.as_ref().map(|(_, bound)| bound.port());
        let service = Arc::new(Service::new(config, recovered.tree));
        let seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let trigger = storage.snapshot_trigger(seed as u64);
        let snapshots = Snapshots::new(storage.clone(), trigger, recovered.report.replayed);
        let logger = Logger::new(Arc::clone(&service), storage.log_writer(), snapshots);
        thread::Builder::new()
            .name("logger".to_owned())
            .spawn(move || logger.run())
            .map_err(ServerError::Thread)?;
        let chores = Chores::start(&service, &storage);
        let client_addr = listener.as_ref().map(|(_, bound)| *bound);
        let acceptor = listener.map(|(listener, bound)| {
            tracing::info!(address = %bound, "serving clients");
            tokio::spawn(net::accept(Arc::clone(&service), listener))
        });
        Ok(Server {
            service,
            client_addr,
            acceptor,
            _chores: chores,
        })
    }

    /// Where clients are served, with the port that the system chose if it was to.
    pub fn client_addr(&self) -> Option<SocketAddr> {
        self.client_addr
    }

    /// Waits until the server has stopped: by [`Server::shutdown`], or by itself because it can no
    /// longer write. Cancel safe.
    ///
    /// # Errors
    /// What made it stop by itself.
    pub async fn stopped(&self) -> Result<(), Arc<ServerError>> {
        let mut phase = self.service.phase();
        let stopped = phase
            .wait_for(|phase| matches!(phase, Phase::Stopped(_)))
            .await;
        match stopped.as_deref() {
            Ok(Phase::Stopped(Some(cause))) => Err(Arc::clone(cause)),
            _ => Ok(()),
        }
    }

    /// Takes no more requests, answers those in work, closes the connections and the files, and
    /// waits for all of it. Sessions and their ephemeral znodes stay, for the next start.
    ///
    /// # Errors
    /// What made the server stop by itself before.
    pub async fn shutdown(mut self) -> Result<(), Arc<ServerError>> {
        self.service.drain();
        if let Some(acceptor) = self.acceptor.take() {
            // It only ever ends by returning; the port is closed then.
            let _ = acceptor.await;
        }
        let stopped = self.stopped().await;
        self.service.connections.wait_until_closed().await;
        stopped
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.drain();
    }
}

fn storage_options(config: &Config) -> Options {
    Options {
        data_dir: config.data_dir.clone(),
        log_dir: config.data_log_root().to_owned(),
        create_dirs: config.datadir_autocreate,
        create_database: config.db_autocreate,
        trust_empty_snapshot: config.snapshot_trust_empty,
        compression: match config.snapshot_compression {
            SnapshotCompression::None => Compression::None,
            SnapshotCompression::Gzip => Compression::Gzip,
            SnapshotCompression::Snappy => Compression::Snappy,
        },
        digests: config.digest_enabled,
        snap_count: config.snap_count,
        snap_size_limit: config.snap_size_limit,
        log: LogOptions {
            preallocation: config.pre_alloc_size,
            size_limit: config.txn_log_size_limit,
            force_sync: config.force_sync,
            slow_sync: config.fsync_warning_threshold,
        },
    }
}

/// Settings for a server to embed. Without any, it listens on a free port of 127.0.0.1 and keeps
/// its data in a temporary directory, which goes with it.
#[derive(Debug, Default)]
pub struct Builder {
    data_dir: Option<PathBuf>,
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Port(u16),
    Address(IpAddr),
    TickTime(Duration),
}

impl Builder {
    /// Keeps the data in `dir`, where a later start finds it again.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Serves clients on `port`; 0 lets the system choose.
    pub fn client_port(mut self, port: u16) -> Self {
        self.changes.push(Change::Port(port));
        self
    }

    /// Serves clients on the address `address`.
    pub fn client_address(mut self, address: IpAddr) -> Self {
        self.changes.push(Change::Address(address));
        self
    }

    /// The unit of time: sessions last 2 to 20 ticks.
    pub fn tick_time(mut self, tick: Duration) -> Self {
        self.changes.push(Change::TickTime(tick));
        self
    }

    /// Starts the server. For settings beyond these, see [`Server::start`].
    ///
    /// # Errors
    /// As [`Server::start`], and where no temporary directory can be made.
    pub async fn start(self) -> Result<Server, ServerError> {
        let mut config = Config::temporary().map_err(ServerError::Scratch)?;
        if let Some(dir) = self.data_dir {
            config.data_dir = dir;
        }
        for change in self.changes {
            match change {
                Change::Port(port) => config.client_port = Some(port),
                Change::Address(address) => config.client_port_address = Some(address),
                Change::TickTime(tick) => config.tick_time = tick,
            }
        }
        Server::start(config).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_transaction_that_cannot_be_applied_ends_the_server() {
        let server = Server::builder().start().await.unwrap();
        server
            .service
            .enqueue(|queue, _| queue.push_record(&[7; 40]));
        let stopped = timeout(Duration::from_secs(20), server.stopped());
        let cause = stopped.await.expect("the server waits for more work");
        assert!(matches!(*cause.unwrap_err(), ServerError::OwnRecord(_)));
    }
}
