//! What the tests share: servers, clients, and waiting for a state.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use quorate_recipes::{Client, Lock, client};
use quorate_server::Server;
use tempfile::TempDir;
use tokio::time::timeout;

/// How long any state may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A session timeout that no busy machine exceeds by accident.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Where the tests lock.
pub(crate) const PATH: &str = "/locks/test";

/// A server that can be stopped and started again where it was.
pub(crate) struct Standalone {
    home: TempDir,
    tick: Duration,
    port: u16,
    server: Option<Server>,
}

impl Standalone {
    /// A server of which sessions last from twice to twenty times `tick`.
    pub(crate) async fn start(tick: Duration) -> Self {
        tracing();
        let mut standalone = Standalone {
            home: TempDir::new().unwrap(),
            tick,
            port: 0,
            server: None,
        };
        standalone.restart().await;
        standalone
    }

    pub(crate) async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await.unwrap();
        }
        let server = Server::builder()
            .data_dir(PathBuf::from(self.home.path()))
            .client_port(self.port)
            .tick_time(self.tick)
            .start()
            .await
            .unwrap();
        self.port = server.client_addr().unwrap().port();
        self.server = Some(server);
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.server.as_ref().unwrap().client_addr().unwrap()
    }

    /// A client with the given session timeout.
    pub(crate) async fn client(&self, timeout: Duration) -> Client {
        connect(&self.address().to_string(), timeout).await
    }
}

/// A server with the usual ticks.
pub(crate) async fn server() -> Standalone {
    Standalone::start(Duration::from_secs(2)).await
}

pub(crate) async fn connect(address: &str, timeout: Duration) -> Client {
    Client::builder()
        .session_timeout(timeout)
        .connect_timeout(PATIENCE)
        .connect(address)
        .await
        .unwrap()
}

/// Awaits what must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// The names of the children of `path`, in no order; none if it does not exist.
pub(crate) async fn children(client: &Client, path: &str) -> Vec<String> {
    match client.get_children(path).await {
        Ok(names) => names,
        Err(client::Error::NoNode { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Awaits that so many contend for the lock.
pub(crate) async fn contenders(client: &Client, number: usize) {
    soon(&format!("{number} contenders"), async {
        loop {
            match client.retry(|| client.get_children_watched(PATH)).await {
                Ok((names, ..)) if names.len() == number => return,
                Ok((_, _, watch)) => drop(watch.await.unwrap()),
                Err(client::Error::NoNode { .. }) if number == 0 => return,
                Err(client::Error::NoNode { .. }) => {
                    if let (None, watch) = client.exists_watched(PATH).await.unwrap() {
                        watch.await.unwrap();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
}

/// Awaits that nothing is left behind.
pub(crate) async fn no_orphans(client: &Client) {
    contenders(client, 0).await;
}

pub(crate) fn lock(client: &Client) -> Lock {
    Lock::new(client, PATH)
}

/// Prints what `RUST_LOG` asks for, with the output of the test.
fn tracing() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}
