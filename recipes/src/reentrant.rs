//! The lock that its owner can acquire again.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::error::Error;
use crate::guard::Guard;
use crate::lock::Lock;

/// A [`Lock`] that its owner, who is told by a name, can acquire again while it holds it.
///
/// Tasks move between threads, so the owner is whatever the caller says: a request, a job, a user.
/// Everybody else, in this process and in others, waits until every guard of the owner is gone.
/// Clones share their owners; two values made by [`new`](ReentrantLock::new) do not.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::{Lock, ReentrantLock};
///
/// let lock = ReentrantLock::new(Lock::new(&client, "/locks/ledger"));
/// let outer = lock.acquire("request 17").await?;
/// let inner = lock.acquire("request 17").await?;
/// assert_eq!(outer.fencing_token(), inner.fencing_token());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct ReentrantLock {
    lock: Lock,
    owners: Arc<Mutex<HashMap<String, Slot>>>,
}

/// What an owner holds. Only one of its tasks acquires at a time.
type Slot = Arc<tokio::sync::Mutex<Weak<Guard>>>;

impl ReentrantLock {
    /// Makes a lock re-entrant.
    pub fn new(lock: Lock) -> Self {
        ReentrantLock {
            lock,
            owners: Arc::default(),
        }
    }

    /// The lock underneath, for its introspection.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Waits until the lock is held, or takes part in what `owner` holds already.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the owner still has a guard and that is lost: it must drop it first. As
    /// for [`Lock::acquire`] otherwise.
    ///
    /// Cancel safe as [`Lock::acquire`].
    pub async fn acquire(&self, owner: &str) -> Result<ReentrantGuard, Error> {
        let slot = {
            let mut owners = self.owners.lock();
            owners.retain(|_, slot| Arc::strong_count(slot) > 1 || is_held(slot));
            Arc::clone(owners.entry(owner.to_owned()).or_default())
        };
        let mut held = slot.lock().await;
        if let Some(guard) = held.upgrade() {
            guard.check()?;
            return Ok(ReentrantGuard(guard));
        }
        let guard = Arc::new(self.lock.acquire().await?);
        *held = Arc::downgrade(&guard);
        Ok(ReentrantGuard(guard))
    }
}

fn is_held(slot: &Slot) -> bool {
    slot.try_lock().is_ok_and(|held| held.strong_count() > 0)
}

/// An owner's share of a [`ReentrantLock`]. The lock is released when the last one is dropped.
#[derive(Debug, Clone)]
#[must_use = "dropping the last guard releases the lock"]
pub struct ReentrantGuard(Arc<Guard>);

impl ReentrantGuard {
    /// Gives up this share; the last one waits until others can have the lock.
    ///
    /// # Errors
    ///
    /// As for [`Guard::release`].
    pub async fn release(self) -> Result<(), Error> {
        match Arc::try_unwrap(self.0) {
            Ok(guard) => guard.release().await,
            Err(_) => Ok(()),
        }
    }
}

impl Deref for ReentrantGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0
    }
}
