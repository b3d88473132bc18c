//! A server to embed: started in the process of a program or a test, or as a process of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::config::{Config, SnapshotCompression};
use crate::error::ServerError;
use crate::net;
use crate::quorum::{Faults, Ports, Quorum, Standing, Wires};
use crate::service::{Chores, Logger, Phase, Service, Snapshots};
use crate::storage::log::LogOptions;
use crate::storage::recovery::Recovered;
use crate::storage::snapshot::Compression;
use crate::storage::throttle::{DiskFaults, ThrottledDisk};
use crate::storage::{Options, Storage};

/// How long clients that never cease to ask are served on when the server is to stop.
const FAREWELL: Duration = Duration::from_millis(500);

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
    quorum: Option<Arc<Quorum>>,
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
        if config.ensemble.is_some() {
            let ports = Ports::bind(&config).await?;
            let (links, disk) = Default::default();
            return Server::start_member(config, ports, links, disk).await;
        }
        let storage = Storage::new(storage_options(&config));
        let recovered = recover(&storage).await?;
        let listener = ClientPort::open(&mut config, None)?;
        let service = Arc::new(Service::new(config, recovered.tree));
        let trigger = storage.snapshot_trigger(seed());
        let snapshots = Snapshots::new(storage.clone(), trigger, recovered.report.replayed);
        let logger = Logger::new(Arc::clone(&service), storage.log_writer(), snapshots);
        thread::Builder::new()
            .name("logger".to_owned())
            .spawn(move || logger.run())
            .map_err(ServerError::Thread)?;
        Ok(Server::serve(service, &storage, listener, None))
    }

    /// Starts a member of an ensemble, on ports that are open already. It serves once there is a
    /// leader.
    pub(crate) async fn start_member(
        mut config: Config,
        mut ports: Ports,
        links: Faults,
        disk: DiskFaults,
    ) -> Result<Server, ServerError> {
        config.validate()?;
        let disk = Arc::new(ThrottledDisk::new(disk));
        let storage = Storage::on(disk, storage_options(&config));
        let recovered = recover(&storage).await?;
        let listener = ClientPort::open(&mut config, ports.client.take())?;
        let wires = Arc::new(Wires::default());
        let service = Arc::new(Service::new(config, recovered.tree));
        let outlet = Arc::clone(&wires);
        service.join(outlet)?;
        let last_zxid = recovered.report.last_zxid;
        let disk = storage.clone();
        let quorum = Quorum::start(&service, wires, disk, last_zxid, ports, links, seed())?;
        Ok(Server::serve(service, &storage, listener, Some(quorum)))
    }

    fn serve(
        service: Arc<Service>,
        storage: &Storage,
        port: Option<ClientPort>,
        quorum: Option<Arc<Quorum>>,
    ) -> Server {
        let chores = Chores::start(&service, storage);
        if let Some(ClientPort { listener, bound }) = port {
            service.reception.open(&service, listener, bound);
        }
        Server {
            service,
            quorum,
            _chores: chores,
        }
    }

    /// Where clients are served, with the port that the system chose if it was to. A
    /// reconfiguration can change it.
    pub fn client_addr(&self) -> Option<SocketAddr> {
        self.service.reception.address()
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
    /// waits for all of it. Sessions and their ephemeral znodes stay, for the next start. A leader
    /// hands over first, so that the rest of its ensemble goes on. The connection of a client
    /// that pauses now and then ends in a pause.
    ///
    /// # Errors
    /// What made the server stop by itself before.
    pub async fn shutdown(self) -> Result<(), Arc<ServerError>> {
        if let Some(quorum) = &self.quorum {
            // Where there is nobody to hand over to, it stops all the same.
            let patience = self.service.config.shutdown_timeout;
            let _ = timeout(patience, quorum.give_up_leadership()).await;
        }
        self.service.reception.close();
        let connections = &self.service.connections;
        connections.take_leave();
        let _ = timeout(FAREWELL, connections.wait_until_closed()).await;
        self.stop().await
    }

    /// [`Server::shutdown`] of a server whose ensemble stops with it.
    pub(crate) async fn stop(self) -> Result<(), Arc<ServerError>> {
        self.service.drain();
        self.service.reception.closed().await;
        if let Some(quorum) = &self.quorum {
            let patience = self.service.config.shutdown_timeout;
            let _ = timeout(patience, self.service.connections.wait_until_closed()).await;
            quorum.stop().await;
        }
        let stopped = self.stopped().await;
        self.service.connections.wait_until_closed().await;
        stopped
    }

    /// Ends the server as if its process were killed, but for what it keeps in memory.
    pub(crate) async fn kill(self) {
        self.service.reception.close();
        if let Some(quorum) = &self.quorum {
            quorum.stop().await;
        }
        self.service.drain();
        self.service.connections.close_all();
        // It ends because it is told to.
        let _ = self.stopped().await;
        self.service.connections.wait_until_closed().await;
    }

    /// What it has come to in its ensemble, if it has one.
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.quorum.as_ref().map(|quorum| quorum.standing())
    }

    /// Lets a leader hand over to a server that follows it; `None` lets it choose.
    pub(crate) fn hand_over(&self, to: Option<i64>) {
        if let Some(quorum) = &self.quorum {
            quorum.hand_over(to);
        }
    }

    /// Ends a session, as the leader does where it has expired.
    pub(crate) fn expire_session(&self, session: i64) {
        self.service.sessions.lock().remove(session);
        self.service.expire_session(session);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.drain();
        if let Some(quorum) = &self.quorum {
            quorum.begin_stop();
        }
    }
}

async fn recover(storage: &Storage) -> Result<Recovered, ServerError> {
    let storage = storage.clone();
    let recovered = tokio::task::spawn_blocking(move || storage.recover()).await;
    Ok(recovered.map_err(|panic| ServerError::Thread(panic.into()))??)
}

/// Different for each start.
fn seed() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_nanos() as u64
}

/// The open port for clients.
struct ClientPort {
    listener: TcpListener,
    bound: SocketAddr,
}

impl ClientPort {
    /// Opens the port that `config` names, if it names one and it is not `opened` already, and notes
    /// there which one the system has chosen: operators who ask for the configuration want that.
    fn open(config: &mut Config, opened: Option<TcpListener>) -> Result<Option<Self>, ServerError> {
        let Some(address) = config.client_address() else {
            return Ok(None);
        };
        let failed = |source| ServerError::Listen { address, source };
        let listener = match opened {
            Some(listener) => listener,
            None => net::listen(address, config.client_port_listen_backlog).map_err(failed)?,
        };
        let bound = listener.local_addr().map_err(failed)?;
        config.client_port = Some(bound.port());
        Ok(Some(ClientPort { listener, bound }))
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
