//! The session: its identity, and what its task shares with the handles.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::meter::Meter;
use crate::state::State;

/// Identifies a session within an ensemble; printed in hexadecimal, as servers do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What another process, or this one later, needs to go on with a session.
///
/// ```no_run
/// # async fn demo() -> Result<(), quorate_client::Error> {
/// use quorate_client::Client;
///
/// let client = Client::connect("localhost:2181").await?;
/// let session = client.detach().await?;
/// let again = Client::builder().session(session).connect("localhost:2181").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    id: SessionId,
    password: [u8; 16],
    timeout: Duration,
    last_zxid: i64,
}

impl Session {
    /// A session from its saved id and password. Its timeout is negotiated anew, and it may attach
    /// to a server that has not caught up with what the session saw before.
    pub fn new(id: SessionId, password: [u8; 16]) -> Self {
        Session {
            id,
            password,
            timeout: Duration::ZERO,
            last_zxid: 0,
        }
    }

    /// The same session, which has seen everything up to the transaction `zxid`: servers that have
    /// not are passed over.
    pub fn with_last_zxid(mut self, zxid: i64) -> Self {
        self.last_zxid = zxid;
        self
    }

    /// The id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The password, which whoever attaches to the session must know.
    pub fn password(&self) -> [u8; 16] {
        self.password
    }

    /// The negotiated timeout: the ensemble expires the session when it hears nothing for so long.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The last transaction that the session has seen.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("timeout", &self.timeout)
            .field("last_zxid", &format_args!("{:#x}", self.last_zxid))
            .finish_non_exhaustive()
    }
}

/// What the session's task tells the handles.
#[derive(Debug)]
pub(crate) struct Status {
    state: watch::Sender<State>,
    /// Written once for a batch of replies.
    live: Mutex<Live>,
    last_zxid: AtomicI64,
    pub(crate) meter: Meter,
}

#[derive(Debug)]
struct Live {
    session: Option<Session>,
    /// Where the connection goes to, while there is one.
    server: Option<SocketAddr>,
    last_heartbeat: Option<Instant>,
    /// Why the last attempt to connect failed, or why the last connection was lost.
    last_failure: Option<Arc<io::Error>>,
    /// Why the state is [`State::AuthFailed`], if more is known than that.
    denial: Option<Error>,
}

impl Status {
    pub(crate) fn new(saved: Option<Session>) -> Self {
        Status {
            state: watch::Sender::new(State::Connecting),
            last_zxid: AtomicI64::new(saved.as_ref().map_or(0, |s| s.last_zxid)),
            meter: Meter::default(),
            live: Mutex::new(Live {
                session: saved,
                server: None,
                last_heartbeat: None,
                last_failure: None,
                denial: None,
            }),
        }
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Says the state to whoever watches; nothing follows a final one.
    pub(crate) fn set_state(&self, state: State) {
        self.state.send_if_modified(|current| {
            let changes = *current != state && !current.is_over();
            if changes {
                *current = state;
            }
            changes
        });
    }

    /// Why no operation can succeed any more, once the state is final.
    pub(crate) fn end(&self) -> Error {
        match self.state() {
            State::Expired => Error::SessionExpired {
                session: self.session_id(),
            },
            State::AuthFailed => {
                let denial = self.live.lock().denial.clone();
                denial.unwrap_or(Error::AuthFailed)
            }
            _ => Error::Closed,
        }
    }

    pub(crate) fn session_id(&self) -> SessionId {
        self.live
            .lock()
            .session
            .as_ref()
            .map_or(SessionId::default(), |s| s.id)
    }

    pub(crate) fn session(&self) -> Option<Session> {
        let session = self.live.lock().session.clone()?;
        Some(session.with_last_zxid(self.last_zxid()))
    }

    /// A server has taken the session: `heartbeat` is when it was asked, unless it takes sessions
    /// without its ensemble.
    pub(crate) fn attached(
        &self,
        id: SessionId,
        password: [u8; 16],
        timeout: Duration,
        heartbeat: Option<Instant>,
    ) {
        let mut live = self.live.lock();
        live.last_heartbeat = heartbeat.or(live.last_heartbeat);
        live.session = Some(Session {
            id,
            password,
            timeout,
            last_zxid: 0,
        });
    }

    /// A request sent at `sent` was answered.
    pub(crate) fn heartbeat(&self, sent: Instant) {
        // The ensemble does not hear of it, and expires the session all the same.
        if self.state() == State::ConnectedReadOnly {
            return;
        }
        let mut live = self.live.lock();
        if live.last_heartbeat.is_none_or(|last| last < sent) {
            live.last_heartbeat = Some(sent);
        }
    }

    /// Where the connection goes to, if there is one.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        self.live.lock().server
    }

    pub(crate) fn set_server(&self, server: Option<SocketAddr>) {
        self.live.lock().server = server;
    }

    pub(crate) fn failed(&self, error: io::Error) {
        self.live.lock().last_failure = Some(Arc::new(error));
    }

    /// Why the state will be [`State::AuthFailed`].
    pub(crate) fn denied(&self, error: Error) {
        self.live.lock().denial = Some(error);
    }

    pub(crate) fn last_failure(&self) -> Option<Arc<io::Error>> {
        self.live.lock().last_failure.clone()
    }

    pub(crate) fn last_heartbeat(&self) -> Option<Instant> {
        self.live.lock().last_heartbeat
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let live = self.live.lock();
        Some(live.last_heartbeat? + live.session.as_ref()?.timeout)
    }

    pub(crate) fn last_zxid(&self) -> i64 {
        self.last_zxid.load(Ordering::Relaxed)
    }

    /// Replies of another connection cannot come late, but those of one connection may repeat.
    pub(crate) fn saw_zxid(&self, zxid: i64) {
        self.last_zxid.fetch_max(zxid, Ordering::Relaxed);
    }
}
