//! The exclusive lock, also several of them at once.

use std::time::Duration;

use quorate_client::{Client, Error as ClientError};
use tracing::instrument;

use crate::error::Error;
use crate::guard::{Guard, MultiGuard};
use crate::hold::REVOKE;
use crate::protect::patient;
use crate::queue::{Contender, Queue, within};
use crate::settings::{Settings, setters};

/// A lock that at most one holds, over all processes that use the same path.
///
/// Contenders get it in the order in which they asked. Each release wakes one of them. A lock is
/// nothing but settings: it can be cloned, shared, and acquired any number of times, also by
/// several tasks at once, which then exclude each other.
///
/// With [`Layout::Curator`](crate::Layout::Curator), the default, it excludes Curator's `InterProcessMutex` on the same
/// path, with [`Layout::Kazoo`](crate::Layout::Kazoo) kazoo's `Lock`.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate_recipes::{Client, Lock};
///
/// let client = Client::connect("zk1:2181,zk2:2181,zk3:2181").await?;
/// let lock = Lock::new(&client, "/locks/billing").data("host-7");
///
/// let guard = lock.acquire().await?;
/// println!("the lock is mine, as grant {}", guard.fencing_token());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # When the connection is lost
///
/// | | who waits | who holds |
/// |---|---|---|
/// | the connection is away | keeps its place and waits on | is [`Suspect`](crate::HoldState::Suspect), and still holds the lock |
/// | it is back in time | goes on | holds it, once a server has confirmed that |
/// | the ensemble can have expired the session | waits on | has [`Lost`](crate::HoldState::Lost) it for good |
/// | the session has expired | fails with [`quorate_client::Error::SessionExpired`] | has lost it by then |
/// | somebody deletes its znode | takes a new place, at the end | has lost it |
///
/// # Cancellation
///
/// Every future may be dropped at any time. Whatever it has left on the servers by then is deleted
/// in the background, also if it is not known yet whether there is anything.
#[derive(Debug, Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct Lock {
    settings: Settings,
}

impl Lock {
    /// The lock at `path`, where nothing but this lock may keep children. The znode is created when
    /// it is needed, as a container, which the servers reap when it is not.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Lock {
            settings: Settings::new(client, path),
        }
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        Lock { settings }
    }

    setters!(layout, data, acl);

    /// Waits until the lock is held, behind everybody who came before. Losses of the connection are
    /// survived, and the place in the queue with them.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignChild`]; [`Error::Client`] with [`quorate_client::Error::SessionExpired`] if
    /// the session ends meanwhile, and with what else a server refuses.
    ///
    /// Cancel safe in this sense: dropping the future gives up the place in the queue and leaves
    /// nothing behind.
    #[instrument(name = "Lock::acquire", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn acquire(&self) -> Result<Guard, Error> {
        self.queue().acquire().await
    }

    /// As [`acquire`](Lock::acquire), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it was not this contender's turn by then; otherwise as for
    /// [`acquire`](Lock::acquire).
    ///
    /// Cancel safe as [`acquire`](Lock::acquire).
    pub async fn acquire_timeout(&self, time: Duration) -> Result<Guard, Error> {
        within(self.path(), time, self.acquire()).await
    }

    /// Takes the lock if nobody has it or waits for it, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Lock::acquire).
    ///
    /// Does not wait for other contenders, but for the servers; cancel safe as
    /// [`acquire`](Lock::acquire).
    #[instrument(name = "Lock::try_acquire", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        self.queue().try_acquire().await
    }

    /// Everybody who holds the lock or waits for it, the holder first. The server that answers
    /// catches up with the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignChild`]; [`Error::Client`] if the connection is lost meanwhile, and with what
    /// a server refuses.
    pub async fn contenders(&self) -> Result<Vec<Contender>, Error> {
        self.queue().contenders().await
    }

    /// Asks whoever holds the lock to let go; false if nobody does. The holder hears of it by
    /// [`Guard::revoked`], or by the listener of a revocable lock of Curator, and may ignore it.
    ///
    /// # Errors
    ///
    /// As for [`contenders`](Lock::contenders). Asking takes effect even if the reply is lost.
    pub async fn revoke(&self) -> Result<bool, Error> {
        let contenders = self.contenders().await?;
        let Some(holder) = contenders.first() else {
            return Ok(false);
        };
        let client = &self.settings.client;
        let ask = || client.set_data(&holder.node, REVOKE, None);
        match patient().run_idempotent(ask).await {
            Ok(_) => Ok(true),
            Err(ClientError::NoNode { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn queue(&self) -> Queue<'_> {
        Queue(self.settings.site(self.settings.layout.lock()))
    }
}

/// Several locks that are held together or not at all.
///
/// They are acquired in the order of their paths, whatever the order in which they are given, so
/// that two who want some of the same locks do not wait for each other for ever.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::{Lock, MultiLock};
///
/// let both = MultiLock::new([
///     Lock::new(&client, "/locks/from"),
///     Lock::new(&client, "/locks/to"),
/// ]);
/// let guard = both.acquire().await?;
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct MultiLock {
    locks: Vec<Lock>,
}

impl MultiLock {
    /// These locks, which must be different ones.
    pub fn new(locks: impl IntoIterator<Item = Lock>) -> Self {
        let mut locks: Vec<_> = locks.into_iter().collect();
        locks.sort_by(|a, b| a.path().cmp(b.path()));
        MultiLock { locks }
    }

    /// Waits until all locks are held.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`]; [`Error::Lost`] if a lock was lost while others were waited for.
    /// Nothing is held then.
    ///
    /// Cancel safe as [`Lock::acquire`].
    pub async fn acquire(&self) -> Result<MultiGuard, Error> {
        let mut guards: Vec<Guard> = Vec::with_capacity(self.locks.len());
        for lock in &self.locks {
            guards.push(lock.acquire().await?);
            for guard in &guards {
                guard.check()?;
            }
        }
        Ok(MultiGuard::new(guards))
    }

    /// As [`acquire`](MultiLock::acquire), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] with the paths; otherwise as for [`acquire`](MultiLock::acquire).
    ///
    /// Cancel safe as [`Lock::acquire`].
    pub async fn acquire_timeout(&self, time: Duration) -> Result<MultiGuard, Error> {
        let paths: Vec<_> = self.locks.iter().map(Lock::path).collect();
        within(&paths.join(" and "), time, self.acquire()).await
    }

    /// Takes the locks if nobody has or waits for any of them, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](MultiLock::acquire).
    ///
    /// Cancel safe as [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<MultiGuard>, Error> {
        let mut guards = Vec::with_capacity(self.locks.len());
        for lock in &self.locks {
            match lock.try_acquire().await? {
                Some(guard) => guards.push(guard),
                None => return Ok(None),
            }
        }
        Ok(Some(MultiGuard::new(guards)))
    }
}
