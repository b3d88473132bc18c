//! The barrier (spec: recipes, sections 3.5 and 6.3).

use std::time::Duration;

use quorate_client::{Client, CreateMode, Error as ClientError};
use tracing::instrument;

use crate::error::Error;
use crate::guard::Guard;
use crate::protect::{delete_once, patient};
use crate::queue::{deleted, within};
use crate::receipt::Receipts;
use crate::settings::{Settings, setters};
use crate::simple_lock::SimpleLock;

/// A gate that everybody waits at until somebody opens it. It is closed while its znode exists, as
/// for Curator's `DistributedBarrier` and kazoo's `Barrier`.
///
/// When it is opened, everybody who waits is told, which is what a barrier is for. Waiting survives
/// losses of the connection; a barrier that was opened and closed again meanwhile may go unnoticed.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::Barrier;
///
/// let migration = Barrier::new(&client, "/barriers/migration");
/// migration.close().await?;
/// // Elsewhere: migration.wait().await?;
/// migration.open().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a barrier does nothing by itself"]
pub struct Barrier {
    settings: Settings,
    receipts: Receipts,
}

impl Barrier {
    /// The barrier whose znode is `path` itself. Its parents are created when they are missing.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Barrier {
            settings: Settings::new(client, path),
            receipts: Receipts::new(client),
        }
    }

    setters!(data, acl);

    /// Closes the barrier for good, until it is opened. Does nothing if it is closed. A barrier that
    /// somebody opens again meanwhile is left open, also if a reply is lost.
    ///
    /// # Errors
    ///
    /// What a server refuses, such as [what such writes need](crate#nothing-twice); the end of the
    /// session.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn close(&self) -> Result<(), Error> {
        let Settings {
            path, data, acl, ..
        } = &self.settings;
        let create = self
            .receipts
            .create(path, data, CreateMode::Persistent, acl);
        match create.await {
            Ok(()) | Err(ClientError::NodeExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the barrier for as long as the guard, and the session, lives: it opens by itself when
    /// the process dies. `None` if it is closed already.
    ///
    /// # Errors
    ///
    /// As for [`close`](Barrier::close).
    ///
    /// Cancel safe: dropping the future leaves the barrier as it was.
    pub async fn close_while_held(&self) -> Result<Option<Guard>, Error> {
        let lock = SimpleLock::with_settings(self.settings.clone());
        lock.try_acquire().await
    }

    /// Opens the barrier. Does nothing if it is open. A barrier that somebody closes again meanwhile
    /// is left closed, also if a reply is lost.
    ///
    /// # Errors
    ///
    /// As for [`close`](Barrier::close).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn open(&self) -> Result<(), Error> {
        let Settings { client, path, .. } = &self.settings;
        delete_once(client, path).await?;
        Ok(())
    }

    /// Is it closed? The server that answers catches up with the leader before.
    ///
    /// # Errors
    ///
    /// As for [`close`](Barrier::close).
    pub async fn is_closed(&self) -> Result<bool, Error> {
        let Settings { client, path, .. } = &self.settings;
        let look = || {
            let (synced, found) = (client.sync(path), client.exists(path));
            async {
                synced.await?;
                found.await
            }
        };
        Ok(patient().run(look).await?.is_some())
    }

    /// Waits until the barrier is open; not at all if it is.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] when the session ends, and with what a server refuses.
    ///
    /// Cancel safe.
    #[instrument(name = "Barrier::wait", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn wait(&self) -> Result<(), Error> {
        let Settings { client, path, .. } = &self.settings;
        if self.is_closed().await? {
            deleted(client, path).await?;
        }
        Ok(())
    }

    /// As [`wait`](Barrier::wait), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`wait`](Barrier::wait).
    pub async fn wait_timeout(&self, time: Duration) -> Result<(), Error> {
        within(self.path(), time, self.wait()).await
    }
}
