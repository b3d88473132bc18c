//! Client connections: the listener, one task for each connection, and the requests that a server
//! answers by itself.

mod auth;
mod connection;
mod handler;
pub(crate) mod local;
mod words;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub(crate) use connection::Connection;

use crate::service::{Phase, Service};

/// Opens a port. The wildcard address of IPv6 serves IPv4 as well, or stands for that of IPv4 on a
/// machine without IPv6.
pub(crate) fn listen(address: SocketAddr, backlog: Option<u32>) -> io::Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        socket
            .listen(backlog.map_or(1024, |backlog| i32::try_from(backlog).unwrap_or(i32::MAX)))?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    };
    match bind(address) {
        Err(error) if address.is_ipv6() && error.raw_os_error() == Some(NO_IPV6) => bind(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()),
        ),
        other => other,
    }
}

/// `EAFNOSUPPORT`: the machine knows no such addresses.
const NO_IPV6: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();

/// How long to wait after the system had no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Open files that a server keeps for its data, its ports and the other members: it cannot go on
/// when it lacks one for its log.
const OWN_FILES: u64 = 64;

/// How many connections of clients the limit of open files leaves room for.
fn room_for_clients() -> Option<u32> {
    let limit = getrlimit(Resource::Nofile).current?;
    let room = limit - OWN_FILES.min(limit / 2);
    Some(u32::try_from(room).unwrap_or(u32::MAX))
}

/// The port for clients, while one is open, and the task that takes their connections there.
#[derive(Debug, Default)]
pub(crate) struct Reception(Mutex<Option<(SocketAddr, JoinHandle<()>)>>);

impl Reception {
    /// Takes connections on `listener` until the service stops, and nowhere else any more. Those that
    /// there are stay.
    pub(crate) fn open(&self, service: &Arc<Service>, listener: TcpListener, address: SocketAddr) {
        tracing::info!(%address, "serving clients");
        let task = tokio::spawn(accept(Arc::clone(service), listener));
        let before = self.0.lock().replace((address, task));
        if let Some((_, before)) = before {
            before.abort();
        }
    }

    /// Closes the port at once.
    pub(crate) fn close(&self) {
        let open = self.0.lock().take();
        if let Some((_, task)) = open {
            task.abort();
        }
    }

    /// Where it is, if it is open.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.0.lock().as_ref().map(|(address, _)| *address)
    }

    /// Waits until the port of a service that stops is closed.
    pub(crate) async fn closed(&self) {
        let open = self.0.lock().take();
        if let Some((_, task)) = open {
            // However it ends, the port is closed then.
            let _ = task.await;
        }
    }
}

/// Takes connections until the service stops.
async fn accept(service: Arc<Service>, listener: TcpListener) {
    let mut phase = service.phase();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| !matches!(phase, Phase::Serving)) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                failing = false;
                welcome(&service, stream, address);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "connections cannot be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn welcome(service: &Arc<Service>, stream: TcpStream, address: SocketAddr) {
    // IPv4 clients of a socket for both families are known by their IPv4 address.
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let Some(connection) = service.connections.add(service, address) else {
        tracing::warn!(%address, "connection refused: too many (maxClientCnxns, maxCnxns, open files)");
        return;
    };
    if !service.is_running() {
        // The connections that there were have been told already.
        connection.close();
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no TCP_NODELAY");
    }
    if service.config.client_tcp_keep_alive {
        let socket = socket2::SockRef::from(&stream);
        if let Err(error) = socket.set_keepalive(true) {
            tracing::debug!(%address, %error, "no TCP keep-alive");
        }
    }
    tokio::spawn(handler::serve(Arc::clone(service), connection, stream));
}

/// Every open connection.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next_id: AtomicU64,
    open: Mutex<Open>,
    /// Told whenever one has ended.
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    by_id: HashMap<u64, Arc<Connection>>,
    by_session: HashMap<i64, u64>,
    by_address: HashMap<IpAddr, u32>,
}

impl Connections {
    /// A connection that has just been accepted; `None` if there are too many.
    fn add(&self, service: &Service, address: SocketAddr) -> Option<Arc<Connection>> {
        let mut open = self.open.lock();
        let config = &service.config;
        let total = u32::try_from(open.by_id.len()).unwrap_or(u32::MAX);
        let of_client = open.by_address.get(&address.ip()).map_or(0, |count| *count);
        let is_full = |most: Option<u32>, count| most.is_some_and(|most| most > 0 && count >= most);
        if is_full(config.max_client_cnxns, of_client)
            || is_full(config.max_cnxns, total)
            || is_full(room_for_clients(), total)
        {
            return None;
        }
        *open.by_address.entry(address.ip()).or_default() += 1;
        let id = self.next_id.fetch_add(1, Relaxed);
        let connection = Arc::new(Connection::new(id, address));
        open.by_id.insert(id, Arc::clone(&connection));
        Some(connection)
    }

    /// Takes out a connection that has ended.
    /// Answers its session, unless that has another one by now.
    fn remove(&self, connection: &Connection) -> Option<i64> {
        let mut open = self.open.lock();
        open.by_id.remove(&connection.id())?;
        let ip = connection.address().ip();
        if let Some(count) = open.by_address.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&ip);
            }
        }
        let session = connection.attached();
        let session = session.filter(|id| open.by_session.get(id) == Some(&connection.id()));
        if let Some(session) = session {
            open.by_session.remove(&session);
        }
        drop(open);
        self.closed.notify_waiters();
        session
    }

    /// Makes `connection` the one of its session; another one gives way.
    fn attach(&self, session: i64, connection: &Connection) {
        connection.attach(session);
        let mut open = self.open.lock();
        let before = open.by_session.insert(session, connection.id());
        if let Some(before) = before.and_then(|id| open.by_id.get(&id)) {
            before.close();
        }
    }

    /// Closes the connection of a session that is over or has moved, if it is here. What was
    /// answered is still sent.
    pub(crate) fn close_session(&self, session: i64) {
        let mut open = self.open.lock();
        let connection = open
            .by_session
            .remove(&session)
            .and_then(|id| open.by_id.get(&id));
        if let Some(connection) = connection {
            connection.close();
        }
    }

    /// Is the connection of this session here?
    pub(crate) fn has_session(&self, session: i64) -> bool {
        self.open.lock().by_session.contains_key(&session)
    }

    /// Lets those that have a session look whether they may go on.
    pub(crate) fn nudge_sessions(&self) {
        self.with_session(Connection::nudge);
    }

    /// Closes those that have a session.
    pub(crate) fn close_sessions(&self) {
        self.with_session(Connection::close);
    }

    /// Closes those that only read.
    pub(crate) fn close_read_only(&self) {
        self.with_session(|connection| {
            if connection.is_read_only() {
                connection.close();
            }
        });
    }

    fn with_session(&self, act: impl Fn(&Connection)) {
        let open = self.open.lock();
        let all = open.by_id.values();
        all.filter(|connection| connection.session().is_some())
            .for_each(|connection| act(connection));
    }

    /// Lets each of them end as soon as its client asks for nothing.
    pub(crate) fn take_leave(&self) {
        self.with_all(Connection::take_leave);
    }

    /// Lets all of them end once their requests are answered.
    pub(crate) fn drain_all(&self) {
        self.with_all(Connection::drain_requests);
    }

    /// Closes all of them.
    pub(crate) fn close_all(&self) {
        self.with_all(Connection::close);
    }

    fn with_all(&self, act: impl Fn(&Connection)) {
        let open = self.open.lock();
        open.by_id.values().for_each(|connection| act(connection));
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.open.lock().by_id.values().cloned().collect()
    }

    /// Waits until none is left. Cancel safe.
    pub(crate) async fn wait_until_closed(&self) {
        loop {
            let closed = self.closed.notified();
            if self.len() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().by_id.len()
    }
}
