//! The lock that many can read under, or one write (spec: recipes, sections 3.2 and 6.2).

use std::ops::Deref;
use std::time::Duration;

use quorate_client::{Client, CreateMode};
use tracing::instrument;

use crate::chance::unique;
use crate::error::Error;
use crate::guard::Guard;
use crate::hold::{Hold, LostReason, confirm};
use crate::layout::Child;
use crate::protect::Protected;
use crate::queue::{Contender, Queue, within};
use crate::settings::{Settings, setters};

/// A lock that any number of readers hold together, or one writer alone.
///
/// Whoever came first goes first: readers do not overtake a writer that waits, and a writer does
/// not overtake readers. A reader watches the last writer in front of it and a writer whoever is
/// just in front, so that a release wakes one writer, or the readers that may enter.
///
/// With [`Layout::Curator`](crate::Layout::Curator), the default, it works together with Curator's
/// `InterProcessReadWriteLock` on the same path, with [`Layout::Kazoo`](crate::Layout::Kazoo) with
/// kazoo's `ReadLock` and `WriteLock`.
///
/// What happens when the connection is lost, and when a future is dropped, is as for
/// [`Lock`](crate::Lock).
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::RwLock;
///
/// let lock = RwLock::new(&client, "/locks/catalogue");
/// let writing = lock.write().await?;
/// // Nobody can write between the change and the look at its effect.
/// let reading = writing.downgrade().await?;
/// reading.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct RwLock {
    settings: Settings,
}

/// What somebody does, or waits to do, under an [`RwLock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read, together with others.
    Read,
    /// Write, alone.
    Write,
}

impl RwLock {
    /// The lock at `path`, where nothing but this lock may keep children.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        RwLock {
            settings: Settings::new(client, path),
        }
    }

    setters!(layout, data, acl);

    /// Waits until no writer is in front, and reads then.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::Lock::acquire).
    ///
    /// Cancel safe: dropping the future gives up the place and leaves nothing behind.
    #[instrument(name = "RwLock::read", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn read(&self) -> Result<Guard, Error> {
        self.queue(Access::Read).acquire().await
    }

    /// Waits until nobody is in front, and writes then.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::Lock::acquire).
    ///
    /// Cancel safe: dropping the future gives up the place and leaves nothing behind.
    #[instrument(name = "RwLock::write", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn write(&self) -> Result<WriteGuard, Error> {
        let guard = self.queue(Access::Write).acquire().await?;
        Ok(self.writing(guard))
    }

    /// As [`read`](RwLock::read), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`read`](RwLock::read).
    pub async fn read_timeout(&self, time: Duration) -> Result<Guard, Error> {
        within(self.path(), time, self.read()).await
    }

    /// As [`write`](RwLock::write), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`write`](RwLock::write).
    pub async fn write_timeout(&self, time: Duration) -> Result<WriteGuard, Error> {
        within(self.path(), time, self.write()).await
    }

    /// Reads if no writer is there or waits, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`read`](RwLock::read).
    #[instrument(name = "RwLock::try_read", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn try_read(&self) -> Result<Option<Guard>, Error> {
        self.queue(Access::Read).try_acquire().await
    }

    /// Writes if nobody is there or waits, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`write`](RwLock::write).
    #[instrument(name = "RwLock::try_write", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn try_write(&self) -> Result<Option<WriteGuard>, Error> {
        let guard = self.queue(Access::Write).try_acquire().await?;
        Ok(guard.map(|guard| self.writing(guard)))
    }

    /// Everybody who holds the lock or waits for it, in order: the first writer, or all readers
    /// before the first writer, hold it.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`](crate::Lock::contenders).
    pub async fn contenders(&self) -> Result<Vec<(Access, Contender)>, Error> {
        let queue = self.queue(Access::Read);
        let contenders = queue.contenders().await?.into_iter();
        let accessed = contenders.map(|contender| {
            let name = contender.node.rsplit('/').next().unwrap_or_default();
            let access = match queue.0.naming.read(name) {
                Child::Fellow(_) => Access::Read,
                _ => Access::Write,
            };
            (access, contender)
        });
        Ok(accessed.collect())
    }

    fn queue(&self, access: Access) -> Queue<'_> {
        let layout = self.settings.layout;
        Queue(self.settings.site(match access {
            Access::Read => layout.reader(),
            Access::Write => layout.writer(),
        }))
    }

    fn writing(&self, guard: Guard) -> WriteGuard {
        WriteGuard {
            guard,
            settings: self.settings.clone(),
        }
    }
}

/// A [`Guard`] of the only writer under an [`RwLock`].
#[derive(Debug)]
#[must_use = "dropping a guard releases what it guards"]
pub struct WriteGuard {
    guard: Guard,
    settings: Settings,
}

impl WriteGuard {
    /// Goes on as a reader, without letting any other writer in between. The guard keeps its
    /// fencing token.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if it was lost; [`Error::Client`] if a server refuses. Nothing is held then.
    ///
    /// Cancel safe: dropping the future gives up the lock altogether.
    pub async fn downgrade(self) -> Result<Guard, Error> {
        let WriteGuard { guard, settings } = self;
        guard.check()?;
        // The reader takes the number of the writer, and with it the place: who waits behind the
        // writer waits behind the reader.
        let name = guard.node().rsplit('/').next().unwrap_or_default();
        let site = settings.site(settings.layout.reader());
        let number = settings.layout.writer().number(name);
        let prefix = site.naming.prefix(unique(site.client)) + number;
        let planned = vec![site.plan_named(prefix, CreateMode::Ephemeral)];
        let created = Protected::create_all(site, planned, guard.node()).await?;
        let lost = || guard.lost_as(LostReason::NodeDeleted);
        let node = created.and_then(|mut nodes| nodes.pop());
        let node = node.ok_or_else(lost)?;
        let confirmed = confirm(site.client, &node).await?.ok_or_else(lost)?;
        let token = guard.fencing_token().get();
        let hold = Hold::with_token(site.client, site.path, node, token, confirmed);
        let reading = Guard::new(hold);
        guard.release().await?;
        Ok(reading)
    }

    /// As [`Guard::release`].
    ///
    /// # Errors
    ///
    /// As for [`Guard::release`].
    pub async fn release(self) -> Result<(), Error> {
        self.guard.release().await
    }
}

impl Deref for WriteGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
