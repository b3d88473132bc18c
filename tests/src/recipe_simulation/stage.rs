//! What the processes of a run share, and what each of them is given: the world its clients live in.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorate_client::simulation::{Stream, World};
use quorate_client::{Client, CreateMode, Error as ClientError};
use quorate_server::tree::{Node, Tree};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::ensemble::{Ensemble, Millis};
use super::executor::{Inbox, ProcessId, Task, lock};
use super::reads::ConnId;
use crate::simulation::checker::{Checked, Violation};

/// What the processes of a run share.
pub struct Stage {
    /// The servers and the network.
    pub ensemble: Mutex<Ensemble>,
    /// Where tasks come in.
    pub inbox: Arc<Inbox>,
    /// Everything has healed some time ago: who begins another round now begins the last one.
    pub over: AtomicBool,
    /// What went wrong first.
    pub violation: Mutex<Option<Violation>>,
    /// The timeout of sessions.
    pub session: Millis,
    /// Who goes by the clock is right.
    pub honest: bool,
    /// Clients are content with servers that only read.
    pub read_only: bool,
    unique: Mutex<fastrand::Rng>,
}

impl Stage {
    /// A stage with these servers.
    pub fn new(ensemble: Ensemble, session: Millis, unique: fastrand::Rng) -> Self {
        Stage {
            honest: ensemble.habits.honest,
            read_only: ensemble.habits.read_only,
            ensemble: Mutex::new(ensemble),
            inbox: Arc::default(),
            over: AtomicBool::new(false),
            violation: Mutex::default(),
            session,
            unique: Mutex::new(unique),
        }
    }

    /// Keeps what went wrong first.
    pub fn check(&self, checked: Checked) {
        if let Err(violation) = checked {
            lock(&self.violation).get_or_insert(violation);
        }
    }
}

/// A process.
#[derive(Clone)]
pub struct Host {
    /// What it shares with others.
    pub stage: Arc<Stage>,
    /// Which one it is.
    pub process: ProcessId,
    /// In which place it is.
    pub slot: usize,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} at {}", self.process, self.slot)
    }
}

impl Host {
    /// A client with a session of its own, soon.
    pub fn client(&self) -> Client {
        let servers = lock(&self.stage.ensemble).addresses();
        Client::builder()
            .session_timeout(Duration::from_millis(self.stage.session))
            .read_only(self.stage.read_only)
            .world(Arc::new(self.clone()))
            .connect_lazy(&servers)
            .expect("the addresses are well formed")
    }

    /// Is it time to come to an end?
    pub fn is_over(&self) -> bool {
        self.stage.over.load(Relaxed)
    }

    /// Looks at what is committed.
    pub fn truth<T>(&self, look: impl FnOnce(&Tree) -> T) -> T {
        look(&lock(&self.stage.ensemble).truth)
    }

    /// A line of the trace.
    pub fn note<T: fmt::Display>(&self, text: impl FnOnce() -> T) {
        let (process, slot) = (self.process, self.slot);
        lock(&self.stage.ensemble).note(|| format!("process {process} at {slot}: {}", text()));
    }

    /// Does something for a while.
    pub async fn work(&self, most: Millis) {
        sleep(Duration::from_millis(fastrand::u64(..=most))).await;
    }

    /// Creates a znode that all of them use.
    pub async fn prepare(&self, client: &Client, path: &str) -> Result<(), ClientError> {
        let create = || client.create(path, "", CreateMode::Persistent);
        match client.retry_idempotent(create).await {
            Ok(_) | Err(ClientError::NodeExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the session has left nothing behind, and ends it.
    pub async fn leave(&self, client: Client) -> Checked {
        let Some(session) = client.session() else {
            return Ok(());
        };
        let left = || {
            self.truth(|tree| {
                let owned = tree.ephemerals(session.id().0).map(Node::path);
                let owned = owned.filter(|path| !path.starts_with("/quorate/"));
                let mut owned: Vec<_> = owned.map(str::to_owned).collect();
                owned.sort();
                owned
            })
        };
        for _ in 0..200 {
            if left().is_empty() || client.state().is_over() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        if !client.state().is_over() && !left().is_empty() {
            return broken("orphans", format!("{self:?} leaves {:?} behind", left()));
        }
        // Where the connection is lost, the session expires.
        let _ = client.close().await;
        Ok(())
    }
}

/// Something that must not be.
pub fn broken<T>(rule: &'static str, what: impl Into<String>) -> Checked<T> {
    let what = what.into();
    Err(Violation { rule, what })
}

impl World for Host {
    fn connect(&self, server: String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let host = self.clone();
        async move {
            let name = server.split(':').next().unwrap_or_default();
            let server = name.trim_start_matches('s').parse().unwrap_or(usize::MAX);
            let way = lock(&host.stage.ensemble).way(host.process, server);
            sleep(Duration::from_millis(way)).await;
            let conn = lock(&host.stage.ensemble).connect(host.process, server);
            let conn = conn.ok_or(io::ErrorKind::ConnectionRefused)?;
            let stream: Box<dyn Stream> = Box::new(Socket { host, conn });
            Ok(stream)
        }
        .boxed()
    }

    fn spawn(&self, future: Task) {
        self.stage.inbox.start(self.process, future);
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(lock(&self.stage.ensemble).time_of_day())
    }

    fn unique(&self) -> u128 {
        lock(&self.stage.unique).u128(..)
    }
}

/// The client's end of a connection.
struct Socket {
    host: Host,
    conn: ConnId,
}

impl Drop for Socket {
    fn drop(&mut self) {
        lock(&self.host.stage.ensemble).hang_up(self.conn);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ensemble = lock(&self.host.stage.ensemble);
        let Some(conn) = ensemble.conns.get_mut(&self.conn) else {
            return Poll::Ready(Ok(()));
        };
        if conn.inbox.is_empty() && !conn.ended {
            conn.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = conn.inbox.len().min(buffer.remaining());
        for byte in conn.inbox.drain(..length) {
            buffer.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut ensemble = lock(&self.host.stage.ensemble);
        let ended = ensemble.conns.get(&self.conn).is_none_or(|conn| conn.ended);
        if ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ensemble.send(self.conn, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
