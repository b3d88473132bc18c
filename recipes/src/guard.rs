//! What the holder of something has in hand.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use futures::future::select_all;
use quorate_client::{Client, CreateOptions, Data, Error as ClientError, TransactionResult};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::hold::{Hold, HoldState, LostReason};
use crate::protect::{Protected, patient};

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
        FencingToken(self.hold.token)
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

    /// Lets go, but leaves the znode to the caller; fails if it was lost.
    pub(crate) fn into_node(self) -> Result<Protected, Error> {
        self.check()?;
        let node = self.hold.end(LostReason::Released);
        node.ok_or_else(|| self.hold.lost(LostReason::NodeDeleted))
    }

    pub(crate) fn lose(&self, reason: LostReason) {
        self.hold.lose(reason);
    }

    /// The error for what was found to be lost.
    pub(crate) fn lost_as(&self, reason: LostReason) -> Error {
        self.hold.lost(reason)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.hold.client
    }

    /// Sets the data of the znode that stands for the holder.
    pub(crate) async fn set_data(&self, data: &[u8]) -> Result<(), Error> {
        self.check()?;
        let set = || self.client().set_data(self.node(), data, None);
        match patient().run_idempotent(set).await {
            Ok(_) => Ok(()),
            Err(ClientError::NoNode { .. }) => Err(self.lost_as(LostReason::NodeDeleted)),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails if it is lost.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.state() {
            HoldState::Lost(reason) => Err(self.hold.lost(reason)),
            _ => Ok(()),
        }
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

    /// Resolves when somebody asks for what is held by [`Lock::revoke`](crate::Lock::revoke) or by
    /// Curator's `Revoker`; never if nobody does. It is up to the holder whether to let go. The
    /// future does not borrow the guard.
    ///
    /// Cancel safe, and can be called any number of times.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut revoked = self.hold.subscribe_to_revocation();
        async move {
            if revoked.wait_for(|revoked| *revoked).await.is_err() {
                pending::<()>().await;
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
        FencedTransaction::new(vec![Arc::clone(&self.hold)], &self.hold.client)
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
        let hold = Arc::clone(&self.hold);
        let lost = |reason| Err(hold.lost(reason));
        match self.into_node()?.delete().await {
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

/// Proof that several things are held at once, such as the permits of a
/// [`Semaphore`](crate::Semaphore) or the locks of a [`MultiLock`](crate::MultiLock). It is lost as
/// soon as one of them is.
///
/// Dropping it releases everything in the background.
#[derive(Debug)]
#[must_use = "dropping a guard releases what it guards"]
pub struct MultiGuard {
    guards: Vec<Guard>,
}

impl MultiGuard {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        MultiGuard { guards }
    }

    /// The guards of all that is held, in the order in which it was acquired.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// How the guard that stands worst stands at this very moment.
    pub fn state(&self) -> HoldState {
        let states = self.guards.iter().map(Guard::state);
        let badness = |state: &HoldState| match state {
            HoldState::Held => 0,
            HoldState::Suspect { .. } => 1,
            HoldState::Lost(_) => 2,
        };
        states.max_by_key(badness).unwrap_or(HoldState::Held)
    }

    /// Resolves as soon as anything is lost; see [`Guard::lost`].
    pub fn lost(&self) -> impl Future<Output = LostReason> + Send + use<> {
        let losses: Vec<_> = self
            .guards
            .iter()
            .map(|guard| Box::pin(guard.lost()))
            .collect();
        async move {
            match losses.is_empty() {
                true => pending().await,
                false => select_all(losses).await.0,
            }
        }
    }

    /// Writes that happen all together, and only while nothing is lost; see
    /// [`Guard::transaction`]. `None` if nothing is held.
    pub fn transaction(&self) -> Option<FencedTransaction> {
        let client = &self.guards.first()?.hold.client;
        let holds = self.guards.iter().map(|guard| Arc::clone(&guard.hold));
        Some(FencedTransaction::new(holds.collect(), client))
    }

    /// Lets go of everything, the last first, and waits until others can have it.
    ///
    /// # Errors
    ///
    /// The first one of [`Guard::release`]. Nothing is held any more in any case.
    ///
    /// Cancel safe: dropping the future leaves the rest to the background.
    pub async fn release(self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for guard in self.guards.into_iter().rev() {
            outcome = outcome.and(guard.release().await);
        }
        outcome
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
    holds: Vec<Arc<Hold>>,
    /// A znode that must be there, checked behind those of the holds.
    fence: Option<String>,
}

impl FencedTransaction {
    /// Writes that happen only while everything of `holds` is held.
    pub(crate) fn new(holds: Vec<Arc<Hold>>, client: &Client) -> Self {
        let inner = holds.iter().fold(client.transaction(), |fenced, hold| {
            fenced.check(&hold.node, None)
        });
        FencedTransaction {
            inner,
            holds,
            fence: None,
        }
    }

    /// Also fails if a znode is not there any more. To be called before anything is added.
    pub(crate) fn fence(mut self, path: &str) -> Self {
        self.inner = self.inner.check(path, None);
        self.fence = Some(path.to_owned());
        self
    }

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
        let FencedTransaction {
            inner,
            holds,
            fence,
        } = self;
        let broken = holds.iter().find_map(|hold| match hold.state() {
            HoldState::Lost(reason) => Some(hold.lost(reason)),
            _ => None,
        });
        let sent = match broken {
            Some(error) => Err(error),
            None => Ok(inner.commit()),
        };
        async move {
            let outcome = sent?.await;
            let checks = holds.len() + usize::from(fence.is_some());
            outcome
                .map(|mut results| results.split_off(checks.min(results.len())))
                .map_err(|error| match error {
                    ClientError::Transaction { index, source } => match holds.get(index) {
                        Some(hold) if matches!(*source, ClientError::NoNode { .. }) => {
                            hold.lose(LostReason::NodeDeleted);
                            hold.lost(LostReason::NodeDeleted)
                        }
                        None if index < checks => Error::Lost {
                            path: fence.unwrap_or_default(),
                            reason: LostReason::Reassigned,
                        },
                        _ => {
                            let index = index.saturating_sub(checks);
                            ClientError::Transaction { index, source }.into()
                        }
                    },
                    error => match (LostReason::of(&error), holds.first()) {
                        (Some(reason), Some(hold)) => hold.lost(reason),
                        _ => error.into(),
                    },
                })
        }
    }
}
