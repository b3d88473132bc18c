//! The lock that everybody can read: one znode.

use std::time::Duration;

use quorate_client::{Client, path};
use tracing::instrument;

use crate::chance::unique;
use crate::error::Error;
use crate::guard::Guard;
use crate::hold::{Hold, confirm};
use crate::layout::Layout;
use crate::queue::{deleted, within};
use crate::settings::{Settings, setters};

/// A lock that is one ephemeral znode: whoever creates it holds the lock until it is gone.
///
/// It is simple to look at and to work with by hand, and that is its use. It costs more than
/// [`Lock`](crate::Lock) where several contend: a release wakes everybody who waits, all of them
/// try at once, and whoever is quickest wins, so that one can wait for ever while others take turns.
///
/// The znode is named by the user, so any program can create it too, and excludes this one then.
/// [Transactions](Guard::transaction) are fenced by that name, so the fence does not survive an
/// operator who deletes the znode of a holder: as soon as somebody else has created it, servers take
/// it for the holder's, until the holder's guard hears that it is lost.
/// What happens when the connection is lost, and when a future is dropped, is as for
/// [`Lock`](crate::Lock).
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::SimpleLock;
///
/// let guard = SimpleLock::new(&client, "/maintenance").acquire().await?;
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct SimpleLock {
    settings: Settings,
}

impl SimpleLock {
    /// The lock whose znode is `path` itself. Its parent is created when it is missing.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        SimpleLock {
            settings: Settings::new(client, path),
        }
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        SimpleLock { settings }
    }

    setters!(data, acl);

    /// Waits until the znode could be created.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] with [`quorate_client::Error::SessionExpired`] if the session ends
    /// meanwhile, and with what else a server refuses.
    ///
    /// Cancel safe: dropping the future leaves nothing behind.
    #[instrument(name = "SimpleLock::acquire", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn acquire(&self) -> Result<Guard, Error> {
        loop {
            if let Some(guard) = self.try_acquire().await? {
                return Ok(guard);
            }
            deleted(&self.settings.client, self.path()).await?;
        }
    }

    /// As [`acquire`](SimpleLock::acquire), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`acquire`](SimpleLock::acquire).
    pub async fn acquire_timeout(&self, time: Duration) -> Result<Guard, Error> {
        within(self.path(), time, self.acquire()).await
    }

    /// Takes the lock if the znode does not exist, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](SimpleLock::acquire).
    ///
    /// Cancel safe as [`acquire`](SimpleLock::acquire).
    #[instrument(name = "SimpleLock::try_acquire", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        path::validate(self.path()).map_err(quorate_client::Error::from)?;
        let (parent, name) = self.path().rsplit_once('/').unwrap_or_default();
        // Two tasks of one session must be told apart.
        let said = String::from_utf8_lossy(&self.settings.data);
        let mark = format!("{said} {}", unique(&self.settings.client));
        let settings = Settings {
            path: if parent.is_empty() { "/" } else { parent }.to_owned(),
            data: mark.trim_start().into(),
            ..self.settings.clone()
        };
        let site = settings.site(Layout::default().unique());
        let created = site.plan_shared(name).create_at(site).await?;
        let Some((node, _)) = created else {
            return Ok(None);
        };
        let confirmed = confirm(site.client, &node).await?;
        Ok(confirmed.map(|confirmed| {
            let hold = Hold::new(site.client, self.path(), node, confirmed);
            Guard::new(hold)
        }))
    }
}
