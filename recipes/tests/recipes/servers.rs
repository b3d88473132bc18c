//! The servers of the tests: one in this process or, with `QUORATE_RECIPES_SERVERS` set, an ensemble
//! of so many; with `apache` in it, an ensemble of three of Apache's servers, as processes.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use quorate_recipes::{Client, CreateMode, client};
use quorate_server::{Ensemble, Server};
use quorate_tests::apache::Apache;
use quorate_tests::cluster::{Cluster, Seat};
use tempfile::TempDir;
use tokio::task::{block_in_place, spawn_blocking};

use crate::support::{LONG, connect, tracing};

/// What the servers of a test are to be.
const SERVERS: &str = "QUORATE_RECIPES_SERVERS";

/// Servers, to whose members clients connect in turn.
pub(crate) struct Servers {
    kind: Kind,
    turn: AtomicUsize,
}

enum Kind {
    /// One, where it always was.
    One {
        home: TempDir,
        tick: Duration,
        port: u16,
        server: Option<Server>,
    },
    Ensemble(Ensemble),
    /// Processes take seconds to start, so tests share an ensemble, and have a subtree each.
    Apache {
        cluster: Arc<Cluster>,
        chroot: Subtree,
    },
}

/// Where clients connect.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    pub(crate) chroot: Option<Subtree>,
}

/// A path that one test has for itself.
#[derive(Clone, Copy)]
pub(crate) struct Subtree(usize);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.socket)?;
        self.chroot.map_or(Ok(()), |chroot| chroot.fmt(f))
    }
}

impl fmt::Display for Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/test-{}", self.0)
    }
}

impl Servers {
    /// Servers whose sessions last for two of their ticks at least.
    pub(crate) async fn start(tick: Duration) -> Self {
        Servers::start_with(tick, shared).await
    }

    /// As [`start`](Servers::start), for a test that [kills](Servers::restart) some.
    pub(crate) async fn start_mortal(tick: Duration) -> Self {
        Servers::start_with(tick, || Arc::new(apache())).await
    }

    async fn start_with(tick: Duration, apache: fn() -> Arc<Cluster>) -> Self {
        tracing();
        let kind = match std::env::var(SERVERS).as_deref() {
            Ok("apache") => {
                let cluster = spawn_blocking(apache).await.unwrap();
                let chroot = Subtree::create(&cluster).await;
                Kind::Apache { cluster, chroot }
            }
            Ok(number) => {
                let ensemble = Ensemble::builder().voters(number.parse().unwrap());
                Kind::Ensemble(ensemble.tick_time(tick).start().await.unwrap())
            }
            Err(_) => Kind::One {
                home: TempDir::new().unwrap(),
                tick,
                port: 0,
                server: None,
            },
        };
        let turn = AtomicUsize::new(0);
        let mut servers = Servers { kind, turn };
        if let Kind::One { .. } = servers.kind {
            servers.restart().await;
        }
        servers
    }

    /// Restarts the server, or kills the leader of the ensemble and starts it again.
    pub(crate) async fn restart(&mut self) {
        match &mut self.kind {
            Kind::One {
                home,
                tick,
                port,
                server,
            } => {
                if let Some(server) = server.take() {
                    server.shutdown().await.unwrap();
                }
                let started = Server::builder()
                    .data_dir(PathBuf::from(home.path()))
                    .client_port(*port)
                    .tick_time(*tick)
                    .start()
                    .await
                    .unwrap();
                *port = started.client_addr().unwrap().port();
                *server = Some(started);
            }
            Kind::Ensemble(ensemble) => {
                let leader = ensemble.leader().await.unwrap();
                ensemble.kill(leader).await;
                ensemble.restart(leader).await.unwrap();
            }
            Kind::Apache { cluster, .. } => {
                let cluster = Arc::get_mut(cluster).expect("a cluster of its own");
                block_in_place(|| {
                    let leader = cluster.leader();
                    cluster.kill(leader);
                    cluster.restart(leader);
                });
            }
        }
    }

    /// Where the next client connects.
    pub(crate) fn address(&self) -> Address {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let socket = match &self.kind {
            Kind::One { server, .. } => server.as_ref().unwrap().client_addr().unwrap(),
            Kind::Ensemble(ensemble) => {
                let ids = ensemble.ids();
                ensemble.client_addr(ids[turn % ids.len()]).unwrap()
            }
            Kind::Apache { cluster, .. } => {
                let addresses = cluster.addresses();
                addresses[turn % addresses.len()]
            }
        };
        let chroot = match &self.kind {
            Kind::Apache { chroot, .. } => Some(*chroot),
            _ => None,
        };
        Address { socket, chroot }
    }

    /// A client with the given session timeout.
    pub(crate) async fn client(&self, timeout: Duration) -> Client {
        connect(&self.address().to_string(), timeout).await
    }
}

/// A server with the usual ticks.
pub(crate) async fn server() -> Servers {
    Servers::start(Duration::from_secs(2)).await
}

/// The ensemble that tests share for as long as there is one that uses it.
fn shared() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let cluster = Arc::new(apache());
        *shared = Arc::downgrade(&cluster);
        cluster
    })
}

/// An ensemble in which sessions are as short and as long as any test likes.
fn apache() -> Cluster {
    let seats = (0..3).map(|_| Seat::voter(Apache::from_env()));
    let settings = Cluster::settings()
        .with("tickTime", 50)
        .with("initLimit", 200)
        .with("syncLimit", 100);
    Cluster::start(seats.collect(), settings)
}

impl Subtree {
    /// One that no test has had, on every server.
    async fn create(cluster: &Cluster) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let subtree = Subtree(NEXT.fetch_add(1, Ordering::Relaxed));
        let path = subtree.to_string();
        for address in cluster.addresses() {
            let client = connect(&address.to_string(), LONG).await;
            let create = || client.create(&path, "", CreateMode::Persistent);
            match client.retry_idempotent(create).await {
                Ok(_) | Err(client::Error::NodeExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            client.retry(|| client.sync(&path)).await.unwrap();
            client.close().await.unwrap();
        }
        subtree
    }
}
