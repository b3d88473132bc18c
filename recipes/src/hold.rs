//! What a process holds by a znode of its own: whether it still does, and the moment when it no
//! longer can be sure (spec: recipes, section 2.4).

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_client::{
    Client, Error as ClientError, EventKind, OneshotWatch, SessionId, Stat, State, WatchedEvent,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::error::Error;
use crate::protect::{Protected, is_own, patient};

/// The part of the session timeout that is kept in reserve, for clocks that do not run alike and
/// timers that fire late.
const RESERVE: u32 = 100;

/// What is written into the znode of a holder that is asked to let go, as Curator does.
pub(crate) const REVOKE: &str = "__REVOKE__";

/// How a guard stands with what it guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldState {
    /// It is held.
    Held,
    /// The connection is away, so that it may be lost soon, but it is still held: nobody else gets
    /// it before the guard is [`Lost`](HoldState::Lost). Held again once a server confirms it.
    Suspect {
        /// When the loss of the connection was noticed.
        since: Instant,
    },
    /// It is not held any more, or soon may not be. Final.
    Lost(LostReason),
}

impl HoldState {
    /// Is it lost for good?
    pub fn is_lost(self) -> bool {
        matches!(self, HoldState::Lost(_))
    }
}

/// Why something is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LostReason {
    /// No server has confirmed the session for so long that the ensemble can expire it.
    Unconfirmed,
    /// The ensemble has expired the session.
    SessionExpired,
    /// Somebody has deleted the znode.
    NodeDeleted,
    /// The znode belongs to another session.
    NodeTaken {
        /// The session.
        owner: SessionId,
    },
    /// It was given to somebody else.
    Reassigned,
    /// The servers refused a credential of the client.
    AuthFailed,
    /// The client was closed or detached.
    Closed,
    /// The guard was released or dropped.
    Released,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostReason::Unconfirmed => f.write_str(
                "no server has confirmed the session for so long that the ensemble can expire it",
            ),
            LostReason::SessionExpired => f.write_str("the session has expired"),
            LostReason::NodeDeleted => f.write_str("somebody has deleted its znode"),
            LostReason::NodeTaken { owner } => write!(f, "its znode belongs to session {owner}"),
            LostReason::Reassigned => f.write_str("it was given to somebody else"),
            LostReason::AuthFailed => f.write_str("the servers refused a credential"),
            LostReason::Closed => f.write_str("the client is closed"),
            LostReason::Released => f.write_str("it was released"),
        }
    }
}

impl LostReason {
    /// Why nothing is held any more after `error`; `None` if that error says nothing about it.
    pub(crate) fn of(error: &ClientError) -> Option<Self> {
        match error {
            ClientError::SessionExpired { .. } => Some(LostReason::SessionExpired),
            ClientError::AuthFailed | ClientError::SaslFailed { .. } => {
                Some(LostReason::AuthFailed)
            }
            ClientError::Closed => Some(LostReason::Closed),
            _ => None,
        }
    }
}

/// Something held by a znode, shared by the guard and the task that keeps an eye on it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) client: Client,
    /// The recipe's path.
    pub(crate) path: String,
    /// The znode.
    pub(crate) node: String,
    /// The transaction that created it.
    czxid: i64,
    /// The transaction that orders this grant among all others.
    pub(crate) token: i64,
    state: watch::Sender<HoldState>,
    revoked: watch::Sender<bool>,
    /// Gone as soon as nothing is held any more.
    own: Mutex<Option<Own>>,
}

/// The watch goes first when this is dropped, so that its user is not told of its own deletion.
#[derive(Debug)]
struct Own {
    watch: Option<OneshotWatch>,
    node: Protected,
}

/// A znode that was seen to be there and to belong to the session, with the means to hear of any
/// change since then.
#[derive(Debug)]
pub(crate) struct Confirmed {
    stat: Stat,
    watch: OneshotWatch,
    connection: watch::Receiver<State>,
}

impl Confirmed {
    /// Is everything as it was? The znode is there, for nothing was heard of it, the connection is
    /// the one on which that would have been heard, and the session lives.
    pub(crate) fn is_current(&mut self, client: &Client) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.connection.has_changed().is_ok_and(|changed| !changed)
            && Pin::new(&mut self.watch).poll(&mut nobody).is_pending()
            && is_valid(client)
    }
}

/// As [`confirm`], unless everything still is as it was confirmed before.
pub(crate) async fn reconfirm(
    client: &Client,
    node: &Protected,
    confirmed: Option<Confirmed>,
) -> Result<Option<Confirmed>, ClientError> {
    if let Some(mut confirmed) = confirmed
        && confirmed.is_current(client)
    {
        return Ok(Some(confirmed));
    }
    confirm(client, node).await
}

/// Looks whether `node` is there, belongs to this session, and the session lives. `None` if not.
pub(crate) async fn confirm(
    client: &Client,
    node: &Protected,
) -> Result<Option<Confirmed>, ClientError> {
    let mut connection = client.watch_state();
    loop {
        // A server that is cut off from its ensemble does not know whether the session lives.
        let settled = connection.wait_for(|state| *state == State::Connected || state.is_over());
        let _ = settled.await.map(drop);
        let (stat, watch) = patient().run(|| client.exists_watched(node.path())).await?;
        let Some(stat) = stat.filter(|stat| is_own(client, stat)) else {
            return Ok(None);
        };
        let connected = *connection.borrow() == State::Connected;
        if connected && is_valid(client) {
            return Ok(Some(Confirmed {
                stat,
                watch,
                connection,
            }));
        }
    }
}

/// Until when the ensemble surely does not expire the session, by what is known now.
fn valid_until(client: &Client) -> Option<Instant> {
    let timeout = client.session()?.timeout();
    let reserve = (timeout / RESERVE).max(Duration::from_millis(2));
    client.session_deadline()?.checked_sub(reserve)
}

/// Does the session surely live, by what is known now?
fn is_valid(client: &Client) -> bool {
    valid_until(client).is_some_and(|until| Instant::now() < until)
}

impl Hold {
    /// Holds `path` by a znode that was just confirmed.
    pub(crate) fn new(
        client: &Client,
        path: &str,
        node: Protected,
        confirmed: Confirmed,
    ) -> Arc<Self> {
        let token = confirmed.stat.czxid;
        Hold::with_token(client, path, node, token, confirmed)
    }

    /// As [`new`](Hold::new), as the continuation of another grant.
    pub(crate) fn with_token(
        client: &Client,
        path: &str,
        node: Protected,
        token: i64,
        confirmed: Confirmed,
    ) -> Arc<Self> {
        let Confirmed {
            stat,
            watch,
            connection,
        } = confirmed;
        let hold = Arc::new(Hold {
            client: client.clone(),
            path: path.to_owned(),
            node: node.path().to_owned(),
            czxid: stat.czxid,
            token,
            state: watch::Sender::new(HoldState::Held),
            revoked: watch::Sender::new(false),
            own: Mutex::new(Some(Own {
                watch: Some(watch),
                node,
            })),
        });
        debug!(path, node = %hold.node, token, "held");
        // Its data may have been set before it was confirmed.
        let check = (stat.version != 0).then(|| hold.check());
        client.spawn(Arc::clone(&hold).keep(connection, check));
        hold
    }

    /// How it stands at this very moment, by the clock as well as by what was heard.
    pub(crate) fn state(&self) -> HoldState {
        self.expire();
        *self.state.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<HoldState> {
        self.state.subscribe()
    }

    /// The error for what is not held any more.
    pub(crate) fn lost(&self, reason: LostReason) -> Error {
        let path = self.path.clone();
        Error::Lost { path, reason }
    }

    /// Tells when somebody else would like to have it.
    pub(crate) fn subscribe_to_revocation(&self) -> watch::Receiver<bool> {
        self.revoked.subscribe()
    }

    pub(crate) fn valid_until(&self) -> Option<Instant> {
        valid_until(&self.client)
    }

    /// Nothing is held any more. The znode is deleted, should it still be there.
    pub(crate) fn lose(&self, reason: LostReason) {
        self.end(reason);
    }

    /// As [`lose`](Hold::lose), but leaves the znode to the caller; `None` if it was lost before.
    pub(crate) fn end(&self, reason: LostReason) -> Option<Protected> {
        let first = self.state.send_if_modified(|state| {
            let held = !state.is_lost();
            if held {
                *state = HoldState::Lost(reason);
            }
            held
        });
        if first {
            let (path, node) = (&self.path, &self.node);
            match reason {
                LostReason::Released => debug!(path, node, "released"),
                _ => warn!(path, node, %reason, "lost"),
            }
        }
        let Own { watch, node } = self.own.lock().take()?;
        drop(watch);
        Some(node)
    }

    /// Loses it if the ensemble may have expired the session by now.
    fn expire(&self) {
        let until = self.valid_until();
        if !self.state.borrow().is_lost() && until.is_none_or(|until| until <= Instant::now()) {
            self.lose(LostReason::Unconfirmed);
        }
    }

    /// Keeps the state up to date until nothing is held any more.
    async fn keep(
        self: Arc<Self>,
        mut connection: watch::Receiver<State>,
        mut check: Option<Check>,
    ) {
        let mut state = self.subscribe();
        loop {
            let until = self.valid_until().unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                _ = async { state.wait_for(|state| state.is_lost()).await.is_ok() } => return,
                event = self.event() => match event {
                    Ok(event) if event.kind == EventKind::Deleted => {
                        self.lose(LostReason::NodeDeleted);
                    }
                    // Its data was set, which uses up the watch.
                    Ok(_) => check = Some(self.check()),
                    Err(error) => self.lose(LostReason::of(&error).unwrap_or(LostReason::Closed)),
                },
                answer = answered(&mut check) => {
                    check = None;
                    // The client looks at its state, too: it is not to be locked twice.
                    let now = *connection.borrow();
                    self.checked(answer, now);
                }
                Ok(()) = connection.changed() => {
                    let now = *connection.borrow_and_update();
                    match now {
                        State::Connected => check = Some(self.check()),
                        State::Expired => self.lose(LostReason::SessionExpired),
                        State::AuthFailed => self.lose(LostReason::AuthFailed),
                        State::Closed => self.lose(LostReason::Closed),
                        _ => self.suspect(),
                    }
                }
                () = sleep_until(until) => self.expire(),
            }
        }
    }

    /// The next event of the znode.
    async fn event(&self) -> Result<WatchedEvent, ClientError> {
        poll_fn(|cx| {
            let mut own = self.own.lock();
            let Some(Own {
                watch: Some(watch), ..
            }) = own.as_mut()
            else {
                return Poll::Pending;
            };
            let event = Pin::new(&mut *watch).poll(cx);
            if event.is_ready()
                && let Some(own) = own.as_mut()
            {
                own.watch = None;
            }
            event
        })
        .await
    }

    fn check(&self) -> Check {
        let (client, node) = (self.client.clone(), self.node.clone());
        Box::pin(async move { patient().run(|| client.get_data_watched(&node)).await })
    }

    fn checked(&self, answer: Answer, connection: State) {
        match answer {
            Err(ClientError::NoNode { .. }) => self.lose(LostReason::NodeDeleted),
            Ok((_, stat, _)) if !is_own(&self.client, &stat) || stat.czxid != self.czxid => {
                let owner = SessionId(stat.ephemeral_owner);
                self.lose(LostReason::NodeTaken { owner });
            }
            Ok((data, _, watch)) => {
                if data == REVOKE {
                    self.revoked.send_replace(true);
                }
                if let Some(own) = self.own.lock().as_mut() {
                    own.watch = Some(watch);
                }
                if connection == State::Connected {
                    self.change(
                        |state| matches!(state, HoldState::Suspect { .. }),
                        HoldState::Held,
                    );
                }
            }
            Err(error) => self.lose(LostReason::of(&error).unwrap_or(LostReason::Unconfirmed)),
        }
    }

    fn suspect(&self) {
        let since = Instant::now();
        self.change(
            |state| state == HoldState::Held,
            HoldState::Suspect { since },
        );
    }

    fn change(&self, from: impl FnOnce(HoldState) -> bool, to: HoldState) {
        self.state.send_if_modified(|state| {
            let changes = from(*state);
            if changes {
                debug!(path = %self.path, from = ?state, ?to, "held");
                *state = to;
            }
            changes
        });
    }
}

/// A question to the server about the znode, and its answer.
type Check = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Answer = Result<(Bytes, Stat, OneshotWatch), ClientError>;

/// The answer to the question under way, which may be none.
async fn answered(check: &mut Option<Check>) -> Answer {
    match check {
        Some(check) => check.await,
        None => pending().await,
    }
}
