//! What the holder of something has in hand.

use std::fmt;
use std::sync::Arc;

use quorate_client::{CreateOptions, Data, Error as ClientError, TransactionResult};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::hold::{Hold, HoldState, LostReason};

/// Proof that something is held, such as a [`Lock`](crate::Lock), for as long as it is.
///
/// Dropping the guard releases it in the background; [`release`](Guard::release) waits until others
/// can have it.
///
/// # What a guard cannot do
///
/// A process can be stopped between asking the guard and acting, for longer than its session lives.
/// Whatever must not be done by two at once should therefore be done through
/// [`transaction`](Guard::transaction), which the servers refuse once the guard is lost, or carry
/// the [`fencing_token`](Guard::fencing_token) to a store that refuses smaller tokens than it has
/// seen. For everything else, stop working when [`lost`](Guard::lost) resolves:
///
/// ```no_run
/// # async fn work() {}
/// # async fn demo(lock: quorate_recipes::Lock) -> Result<(), quorate_recipes::Error> {
/// let guard = lock.acquire().await?;
/// tokio::select! {
///     () = work() => guard.release().await?,
///     reason = guard.lost() => eprintln!("stopped: {reason}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping a guard releases what it guards"]
pub struct Guard {
    hold: Arc<Hold>,
}

impl Guard {
    pub(crate) fn new(hold: Arc<Hold>) -> Self {
        Guard { hold }
    }

    /// A number that grows with every grant, over all holders and for as long as the ensemble
    /// keeps its data.
    pub fn fencing_token(&self) -> FencingToken {
        FencingToken(self.hold.czxid)
    }

    /// The path of the recipe.
    pub fn path(&self) -> &str {
        &self.hold.path
    }

    /// The path of the znode that stands for the holder.
    pub fn node(&self) -> &str {
        &self.hold.node
    }

    /// How the guard stands at this very moment.
    ///
    /// It is lost at the latest when the ensemble can have expired the session, also if nothing has
    /// been heard of that: the negotiated timeout after the last request that was answered had been
    /// sent, less a hundredth in reserve.
    pub fn state(&self) -> HoldState {
        self.hold.state()
    }

    /// A channel that holds the state and tells of its changes.
    pub fn watch_state(&self) -> watch::Receiver<HoldState> {
        self.hold.subscribe()
    }

    /// Until when it is held even if no server is heard any more; it moves on with every answer.
    /// `None` once the session is over.
    pub fn valid_until(&self) -> Option<Instant> {
        self.hold.valid_until()
    }

    /// Resolves as soon as the guard is lost, at once if it is already, and with
    /// [`LostReason::Released`] when it is released. The future does not borrow the guard.
    ///
    /// Cancel safe, and can be called any number of times.
    pub fn lost(&self) -> impl Future<Output = LostReason> + Send + use<> {
        let mut state = self.hold.subscribe();
        async move {
            // The state is final before the channel closes.
            match state.wait_for(|state| state.is_lost()).await.as_deref() {
                Ok(HoldState::Lost(reason)) => *reason,
                _ => LostReason::Released,
            }
        }
    }

    /// Writes that happen all together, and only if the guard is not lost by then: the servers
    /// check that in the same transaction.
    ///
    /// ```no_run
    /// # async fn demo(guard: quorate_recipes::Guard) -> Result<(), quorate_recipes::Error> {
    /// guard.transaction().set_data("/billing/cursor", "4711", None).commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn transaction(&self) -> FencedTransaction {
        let client = &self.hold.client;
        FencedTransaction {
            inner: client.transaction().check(&self.hold.node, None),
            hold: Arc::clone(&self.hold),
        }
    }

    /// Lets go, and waits until others can have it.
    ///
    /// Takes as long as it needs to reach a server, at most until the session is over.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if it was lost before it could be released. It is not held any more then,
    /// just as after success.
    ///
    /// Cancel safe: dropping the future leaves the rest to the background.
    pub async fn release(self) -> Result<(), Error> {
        let lost = |reason| {
            let path = self.hold.path.clone();
            Err(Error::Lost { path, reason })
        };
        if let HoldState::Lost(reason) = self.state() {
            return lost(reason);
        }
        let Some(node) = self.hold.end(LostReason::Released) else {
            return lost(LostReason::NodeDeleted);
        };
        match node.delete().await {
            Ok(true) => Ok(()),
            Ok(false) => lost(LostReason::NodeDeleted),
            Err(error) => match LostReason::of(&error) {
                Some(reason) => lost(reason),
                None => Err(error.into()),
            },
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hold.lose(LostReason::Released);
    }
}

/// Tells which of two holders came later: a larger token is a later grant.
///
/// It is the number of the transaction that created the holder's znode (`czxid`), not the number at
/// the end of its name, which begins anew when the parent is deleted and created again.
///
/// ```
/// use quorate_recipes::FencingToken;
///
/// #[derive(Default)]
/// struct Store {
///     newest: Option<FencingToken>,
/// }
///
/// impl Store {
///     /// Refuses writes of whoever held the lock before somebody else did.
///     fn admits(&mut self, token: FencingToken) -> bool {
///         let admitted = Some(token) >= self.newest;
///         self.newest = self.newest.max(Some(token));
///         admitted
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub(crate) i64);

impl FencingToken {
    /// The number, for stores that keep it: a `BIGINT` holds it.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl From<FencingToken> for i64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Writes that happen all together, and only while the guard that made them is not lost; from
/// [`Guard::transaction`].
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `commit`"]
pub struct FencedTransaction {
    inner: quorate_client::Transaction,
    hold: Arc<Hold>,
}

impl FencedTransaction {
    /// Creates a znode; see [`Client::create`](crate::Client::create).
    pub fn create<'a>(
        mut self,
        path: &str,
        data: impl Into<Data<'a>>,
        options: impl Into<CreateOptions<'a>>,
    ) -> Self {
        self.inner = self.inner.create(path, data, options);
        self
    }

    /// Deletes a znode; see [`Client::delete`](crate::Client::delete).
    pub fn delete(mut self, path: &str, version: impl Into<Option<i32>>) -> Self {
        self.inner = self.inner.delete(path, version);
        self
    }

    /// Replaces the data of a znode; see [`Client::set_data`](crate::Client::set_data).
    pub fn set_data<'a>(
        mut self,
        path: &str,
        data: impl Into<Data<'a>>,
        version: impl Into<Option<i32>>,
    ) -> Self {
        self.inner = self.inner.set_data(path, data, version);
        self
    }

    /// Lets the transaction fail unless the znode exists and, if one is given, has the version.
    pub fn check(mut self, path: &str, version: impl Into<Option<i32>>) -> Self {
        self.inner = self.inner.check(path, version);
        self
    }

    /// Sends the transaction. It is ordered at this call, not when the future is first polled, and
    /// dropping the future gives up the wait only.
    ///
    /// Answers one result for each operation, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the guard is lost, in which case nothing was done.
    /// [`quorate_client::Error::Transaction`] says which operation failed and why, counted from 0
    /// in the order in which they were added; nothing was done either. After
    /// [`quorate_client::Error::ConnectionLoss`] it is unknown whether all or nothing was done.
    pub fn commit(
        self,
    ) -> impl Future<Output = Result<Vec<TransactionResult>, Error>> + Send + use<> {
        let FencedTransaction { inner, hold } = self;
        let sent = match hold.state() {
            HoldState::Lost(reason) => Err(reason),
            _ => Ok(inner.commit()),
        };
        async move {
            let lost = |reason| {
                let path = hold.path.clone();
                Error::Lost { path, reason }
            };
            let outcome = sent.map_err(lost)?.await;
            outcome.map(without_check).map_err(|error| match error {
                ClientError::Transaction { index: 0, source }
                    if matches!(*source, ClientError::NoNode { .. }) =>
                {
                    hold.lose(LostReason::NodeDeleted);
                    lost(LostReason::NodeDeleted)
                }
                ClientError::Transaction { index, source } => ClientError::Transaction {
                    index: index.saturating_sub(1),
                    source,
                }
                .into(),
                error => match LostReason::of(&error) {
                    Some(reason) => lost(reason),
                    None => error.into(),
                },
            })
        }
    }
}

/// The results of the caller's own operations.
fn without_check(mut results: Vec<TransactionResult>) -> Vec<TransactionResult> {
    if !results.is_empty() {
        results.remove(0);
    }
    results
}
