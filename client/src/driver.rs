//! The task that owns a session: it connects, sends, receives, and connects again.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_proto::{ErrorCode, OpCode, xid};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::connect_string::Server;
use crate::connection::{Connection, Received};
use crate::dial::{Attach, Attached, Refused, dial};
use crate::error::Error;
use crate::meter::Levels;
use crate::probe::{self, Found};
use crate::reconnect::{Decision, History, Rhythm, decide};
use crate::registry::{Registry, Removal};
use crate::request::{Answer, Failure, Request};
use crate::servers::Servers;
use crate::session::{Session, SessionId, Status};
use crate::state::State;
use crate::stream::Security;
use crate::watch::Mailbox;

/// Requests are encoded into the output until so much of it waits to leave.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// Requests taken from the queue at once.
const BATCH: usize = 256;

/// What the handles ask for, in order.
pub(crate) enum Command {
    Request(Request),
    Auth(Credential, oneshot::Sender<Result<Answer, Failure>>),
}

/// What the handles ask for out of order.
pub(crate) enum Control {
    /// The user of a watch has gone.
    DropWatch(Arc<Mailbox>),
    /// Close the session once everything queued is answered.
    Close(Option<oneshot::Sender<Result<(), Error>>>),
    /// Leave the session once everything queued is answered.
    Detach(oneshot::Sender<Result<Session, Error>>),
    /// These are the servers from now on, and at this place is the one that is connected, if it has
    /// another name there.
    Servers(Vec<Server>, Option<usize>),
}

/// A credential, which every connection of the session presents.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) scheme: String,
    pub(crate) data: Vec<u8>,
}

/// Says the scheme and keeps the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// What the session's task is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// In the order in which they are tried.
    pub(crate) servers: Vec<Server>,
    pub(crate) timeout: Duration,
    pub(crate) read_only: bool,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) saved: Option<Session>,
    pub(crate) max_in_flight: usize,
    pub(crate) security: Security,
}

/// A credential, and who waits for a server's word about it.
struct Identity {
    credential: Credential,
    respond: Option<oneshot::Sender<Result<Answer, Failure>>>,
}

/// The session's task.
pub(crate) struct Driver {
    servers: Servers,
    read_only: bool,
    max_in_flight: usize,
    security: Security,
    commands: mpsc::Receiver<Command>,
    control: mpsc::UnboundedReceiver<Control>,
    status: Arc<Status>,
    registry: Registry,
    identities: Vec<Identity>,
    batch: Vec<Command>,
    session: Option<(SessionId, [u8; 16])>,
    /// The timeout to ask for, which is not always the one that servers grant.
    requested: Duration,
    negotiated: Duration,
    /// Attempts since the last connection that was of use, and when a server was last heard of the
    /// session.
    failures: u32,
    last_heard: Option<Instant>,
    /// Looks for a server that writes, while connected to one that does not.
    search: Option<BoxFuture<'static, Found>>,
    search_pause: Duration,
    /// Since when the connection is to be given up in favour of another server.
    moving: Option<Instant>,
    farewell: Farewell,
}

/// Who waits for the session to be closed or left.
#[derive(Default)]
struct Farewell {
    begun: Option<Leave>,
    closers: Vec<oneshot::Sender<Result<(), Error>>>,
    detachers: Vec<oneshot::Sender<Result<Session, Error>>>,
    close_sent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Close,
    Detach,
}

/// How the session ended for this client.
enum End {
    Expired,
    AuthFailed,
    /// Closed or detached; an error if the server may not know of it.
    Left(Result<(), Error>),
}

impl Driver {
    pub(crate) fn new(
        settings: Settings,
        commands: mpsc::Receiver<Command>,
        control: mpsc::UnboundedReceiver<Control>,
        status: Arc<Status>,
    ) -> Self {
        let identities = settings.credentials.into_iter().map(|credential| Identity {
            credential,
            respond: None,
        });
        Driver {
            servers: Servers::new(settings.servers),
            read_only: settings.read_only,
            max_in_flight: settings.max_in_flight,
            security: settings.security,
            commands,
            control,
            status,
            registry: Registry::default(),
            identities: identities.collect(),
            batch: Vec::new(),
            // A saved session counts from now on as if it had just been heard of.
            last_heard: settings.saved.as_ref().map(|_| Instant::now()),
            session: settings.saved.map(|saved| (saved.id(), saved.password())),
            requested: settings.timeout,
            negotiated: settings.timeout,
            failures: 0,
            search: None,
            search_pause: probe::FIRST_PAUSE,
            moving: None,
            farewell: Farewell::default(),
        }
    }

    /// Serves the session until it ends.
    pub(crate) async fn run(mut self) {
        let end = loop {
            let mut connection = match self.connect().await {
                Ok(connection) => connection,
                Err(end) => break end,
            };
            let served = poll_fn(|cx| self.poll_serve(&mut connection, cx)).await;
            self.observe(&connection);
            match served {
                Ok(end) => {
                    // The state comes first, so that whoever is told of a failure finds it.
                    self.status.set_state(end.state());
                    self.status.meter.disconnected(false);
                    connection.fail(&self.status.meter);
                    break end;
                }
                Err(error) => self.lose(connection, error),
            }
            if self.farewell.begun.is_some() {
                break End::Left(Err(self.unanswered_close()));
            }
        };
        self.finish(end);
    }

    /// Connects to one server after the other until one takes the session.
    async fn connect(&mut self) -> Result<Connection, End> {
        loop {
            let Decision::Try { after, within } = decide(&self.history(), fastrand::f64()) else {
                return Err(End::Expired);
            };
            self.moving = None;
            let server = self.servers.next(fastrand::f64());
            let attach = self.attach();
            let security = self.security.clone();
            let attempt = async {
                sleep(after).await;
                timeout(within, dial(&server, &security, &attach))
                    .await
                    .unwrap_or_else(|_| Err(late(within).into()))
            };
            let Some(outcome) = self.unless_told_otherwise(attempt).await? else {
                continue;
            };
            match outcome {
                Ok(attached) => {
                    info!(%server, session = %attached.session.0, "connected");
                    return Ok(self.attached(attached));
                }
                Err(Refused::Expired) => return Err(End::Expired),
                Err(Refused::Denied(error)) => {
                    warn!(%error, "authentication failed");
                    self.status.denied(error);
                    return Err(End::AuthFailed);
                }
                Err(Refused::Unreachable(error)) => {
                    debug!(%server, %error, "cannot connect");
                    self.failures = self.failures.saturating_add(1);
                    self.status.meter.attempt_failed();
                    self.status.failed(error);
                }
            }
        }
    }

    /// Runs an attempt to connect, which ends early if the session is to be closed; answers nothing
    /// if another server is to be tried instead.
    async fn unless_told_otherwise<T>(
        &mut self,
        attempt: impl Future<Output = T>,
    ) -> Result<Option<T>, End> {
        let mut attempt = std::pin::pin!(attempt);
        loop {
            tokio::select! {
                biased;
                outcome = &mut attempt => return Ok(Some(outcome)),
                Some(control) = self.control.recv() => {
                    // A server that is not connected has no watch to remove.
                    let _ = self.control(control);
                }
            }
            match self.farewell.begun {
                None if self.moving.is_some() => return Ok(None),
                None => {}
                Some(Leave::Detach) => return Err(End::Left(Ok(()))),
                Some(Leave::Close) => return Err(End::Left(Err(self.unanswered_close()))),
            }
        }
    }

    fn unanswered_close(&self) -> Error {
        Error::ConnectionLoss {
            operation: OpCode::CloseSession,
            path: String::new(),
            sent: self.farewell.close_sent,
        }
    }

    fn history(&self) -> History {
        History {
            servers: self.servers.list().len(),
            untried: self.servers.is_untried(),
            failures: self.failures,
            timeout: self.negotiated,
            silence: self.last_heard.map(|heard| heard.elapsed()),
        }
    }

    fn attach(&self) -> Attach {
        Attach {
            session: self.session,
            last_zxid: self.status.last_zxid(),
            timeout: self.requested,
            read_only: self.read_only,
        }
    }

    /// A server has taken the session: restores on it what belongs to connections.
    fn attached(&mut self, attached: Attached) -> Connection {
        let (id, password) = attached.session;
        // The id that a read-only server gives is not known to the ensemble.
        if !attached.read_only || self.session.is_some() {
            self.session = Some((id, password));
            self.last_heard = Some(Instant::now());
        }
        self.negotiated = attached.timeout;
        self.servers.settle();
        self.status.set_server(attached.server);
        if attached.read_only {
            self.search();
        } else {
            self.search_pause = probe::FIRST_PAUSE;
        }
        let mut connection = Connection::new(
            attached.wire,
            Rhythm::new(attached.timeout),
            attached.read_only,
        );
        for (position, identity) in self.identities.iter().enumerate() {
            connection.send_auth(position, &identity.credential);
        }
        connection.send_watches(&mut self.registry, self.status.last_zxid());
        self.status.meter.connected();
        let heartbeat = (!attached.read_only).then_some(attached.asked);
        self.status
            .attached(id, password, attached.timeout, heartbeat);
        self.status.set_state(if attached.read_only {
            State::ConnectedReadOnly
        } else {
            State::Connected
        });
        connection
    }

    /// Begins to look for a server that writes.
    fn search(&mut self) {
        let servers = self.servers.rotation();
        let security = self.security.clone();
        let search = probe::find_writer(servers.into(), security, self.search_pause);
        self.search = Some(Box::pin(search));
    }

    /// Moves everything that can move. Ready with how the session ended, or with why the
    /// connection is lost.
    fn poll_serve(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<End>> {
        loop {
            let mut moved = false;
            while let Poll::Ready(Some(control)) = self.control.poll_recv(cx) {
                if let Some(removal) = self.control(control) {
                    connection.send_removal(removal);
                }
                moved = true;
            }
            moved |= self.poll_commands(connection, cx);
            if let Poll::Ready(error) = connection.poll_timer(cx) {
                return Poll::Ready(Err(error));
            }
            let received = connection.poll_read(cx, &mut self.registry, &self.status);
            if let Poll::Ready(received) = received {
                if let Some(end) = self.received(received?) {
                    return Poll::Ready(Ok(end));
                }
                moved = true;
            }
            // Last, for everything above may have added to the output.
            if let Poll::Ready(written) = connection.poll_write(cx) {
                written?;
                moved = true;
            }
            self.poll_search(cx);
            if self.has_to_move(connection) {
                return Poll::Ready(Err(io::Error::other("another server takes over")));
            }
            if self.farewell.begun == Some(Leave::Detach)
                && self.commands.is_empty()
                && connection.is_idle()
            {
                return Poll::Ready(Ok(End::Left(Ok(()))));
            }
            if !moved {
                if connection.is_idle() {
                    connection.wire.pause();
                }
                self.observe(connection);
                return Poll::Pending;
            }
        }
    }

    /// Once for a batch, not for a request.
    fn observe(&self, connection: &Connection) {
        self.status.meter.observe(Levels {
            in_flight: connection.in_flight(),
            watches: self.registry.len(),
            sent: connection.wire.sent(),
            received: connection.wire.received(),
        });
    }

    /// Moves requests from the queue into the output, as far as there is room.
    fn poll_commands(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let stays = self.moving.is_none() || self.farewell.begun.is_some();
        while stays && connection.wire.unsent() < OUTPUT_LIMIT {
            let room = self.max_in_flight.saturating_sub(connection.in_flight());
            if room == 0 {
                break;
            }
            let limit = room.min(BATCH);
            match self.commands.poll_recv_many(cx, &mut self.batch, limit) {
                Poll::Pending => break,
                Poll::Ready(0) => {
                    if self.farewell.begun == Some(Leave::Close) && !self.farewell.close_sent {
                        self.farewell.close_sent = true;
                        connection.send_close();
                        moved = true;
                    }
                    break;
                }
                Poll::Ready(_) => moved = true,
            }
            // One sync is for all reads that were issued before it goes out.
            let mut synced = false;
            for command in self.batch.drain(..) {
                match command {
                    Command::Request(request) => {
                        if request.synced && !synced {
                            connection.send_sync();
                            synced = true;
                        }
                        connection.send(request, &mut self.registry);
                    }
                    Command::Auth(credential, respond) => {
                        connection.send_auth(self.identities.len(), &credential);
                        self.identities.push(Identity {
                            credential,
                            respond: Some(respond),
                        });
                    }
                }
            }
        }
        moved
    }

    /// Leaves a read-only server once there is a better one, which is then tried first.
    fn poll_search(&mut self, cx: &mut Context<'_>) {
        if let Some(search) = &mut self.search
            && let Poll::Ready(found) = search.as_mut().poll(cx)
        {
            self.search = None;
            self.search_pause = found.pause;
            self.servers.prefer(&found.server);
            self.moving = Some(Instant::now());
        }
    }

    /// Is the connection to be given up now? That waits for the replies under way, so that a move
    /// fails no request, but not for ever.
    fn has_to_move(&self, connection: &Connection) -> bool {
        self.farewell.begun.is_none()
            && self.moving.is_some_and(|since| {
                connection.is_idle() || since.elapsed() > Rhythm::new(self.negotiated).heartbeat
            })
    }

    /// Does what the handles ask for out of order; answers what to remove on the server.
    fn control(&mut self, control: Control) -> Option<Removal> {
        match control {
            Control::DropWatch(mailbox) => return self.registry.release(&mailbox),
            Control::Close(reply) => {
                self.farewell.closers.extend(reply);
                self.farewell.begun.get_or_insert(Leave::Close);
            }
            Control::Detach(reply) => {
                self.farewell.detachers.push(reply);
                self.farewell.begun.get_or_insert(Leave::Detach);
            }
            Control::Servers(list, mine) => {
                self.relist(list, mine);
                return None;
            }
        }
        // No request comes in any more; those that are queued are still sent.
        self.commands.close();
        None
    }

    /// Takes another list of servers.
    fn relist(&mut self, list: Vec<Server>, mine: Option<usize>) {
        let moves = self.servers.update(list, mine, fastrand::f64());
        let session = self.status.session_id();
        info!(%session, servers = self.servers.list().len(), moves, "another list of servers");
        if moves {
            self.moving = Some(Instant::now());
        } else if self.search.is_some() {
            self.search();
        }
    }

    /// Deals with the part of the input that concerns the whole session.
    fn received(&mut self, received: Received) -> Option<End> {
        for (position, code) in received.auths {
            let Some(identity) = self.identities.get_mut(position) else {
                continue;
            };
            if let Some(respond) = identity.respond.take() {
                let _ = respond.send(Ok(Answer {
                    xid: xid::AUTH,
                    zxid: 0,
                    code,
                    body: Bytes::new(),
                }));
            }
            if code != ErrorCode::OK {
                let scheme = &identity.credential.scheme;
                warn!(session = %self.status.session_id(), scheme, "authentication failed");
                return Some(End::AuthFailed);
            }
        }
        received.closed.then_some(End::Left(Ok(())))
    }

    /// The connection is lost. Its requests fail, and with them those queued behind: a request is
    /// never executed if one that was issued before it was not. Where all was answered, those that
    /// are queued wait for the next connection.
    fn lose(&mut self, connection: Connection, error: io::Error) {
        let session = self.status.session_id();
        info!(%session, %error, "connection lost");
        if self.session.is_some() {
            self.last_heard = Some(connection.last_received());
        }
        // A server that takes the session only to drop it again is not asked again at once.
        self.failures = if connection.was_of_use() {
            0
        } else {
            self.failures.saturating_add(1)
        };
        self.status.failed(error);
        if self.farewell.begun.is_none() {
            self.status.set_state(State::Disconnected);
        }
        self.search = None;
        self.status.set_server(None);
        self.registry.disconnected();
        self.status.meter.disconnected(true);
        let is_idle = connection.is_idle();
        connection.fail(&self.status.meter);
        if is_idle {
            return;
        }
        for _ in 0..self.commands.len() {
            match self.commands.try_recv() {
                Ok(Command::Request(request)) => {
                    self.status.meter.unanswered(request.operation);
                    let _ = request.respond.send(Err(Failure::Lost { sent: false }));
                }
                // Every connection gets all credentials, so this one is not lost.
                Ok(Command::Auth(credential, respond)) => self.identities.push(Identity {
                    credential,
                    respond: Some(respond),
                }),
                Err(_) => break,
            }
        }
    }

    /// The session is over: settles everything that waits.
    fn finish(mut self, end: End) {
        self.status.set_state(end.state());
        self.status.set_server(None);
        let error = self.status.end();
        info!(session = %self.status.session_id(), state = %self.status.state(), "session over");
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            let (Command::Request(Request { respond, .. }) | Command::Auth(_, respond)) = command;
            let _ = respond.send(Err(Failure::Ended(error.clone())));
        }
        for respond in self.identities.into_iter().filter_map(|i| i.respond) {
            let _ = respond.send(Err(Failure::Ended(error.clone())));
        }
        self.registry.end(&error);
        self.status.meter.observe(Levels::default());
        if matches!(end, End::Expired) {
            self.status.meter.expired();
        }
        // What expired or was refused is over as well.
        let (closed, left) = match (end, self.farewell.begun) {
            (End::Left(closed), Some(Leave::Detach)) => (closed, Ok(())),
            (End::Left(closed), _) => (closed, Err(Error::Closed)),
            _ => (Ok(()), Err(error)),
        };
        for closer in self.farewell.closers {
            let _ = closer.send(closed.clone());
        }
        let session = left.and_then(|()| self.status.session().ok_or(Error::Closed));
        for detacher in self.farewell.detachers {
            let _ = detacher.send(session.clone());
        }
    }
}

impl End {
    fn state(&self) -> State {
        match self {
            End::Expired => State::Expired,
            End::AuthFailed => State::AuthFailed,
            End::Left(_) => State::Closed,
        }
    }
}

/// The attempt took too long.
fn late(within: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no connection within {within:?}"),
    )
}
