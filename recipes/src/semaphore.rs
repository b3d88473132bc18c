//! The counting semaphore (spec: recipes, section 3.3).

use std::time::Duration;

use futures::future::select_all;
use quorate_client::{Client, CreateMode, CreateOptions, Error as ClientError, OneshotWatch, path};
use tracing::instrument;

use crate::error::Error;
use crate::guard::{Guard, MultiGuard};
use crate::hold::{Hold, confirm};
use crate::layout::{Layout, is_unique, none_foreign};
use crate::lock::Lock;
use crate::protect::{Protected, create_parents, join, patient};
use crate::queue::{Contender, read_contenders, within};
use crate::settings::{Settings, setters};

/// A number of permits that are held for a while, over all processes that use the same path.
///
/// Who wants permits stands in line, whether for one or for many: only who is in front takes some,
/// all at once. A permit that comes back wakes that one alone. A large request is therefore not
/// overtaken by small ones for ever.
///
/// With [`Layout::Curator`], the default, it shares the permits with Curator's
/// `InterProcessSemaphoreV2` on the same path, with [`Layout::Kazoo`] with kazoo's `Semaphore`.
///
/// What happens when the connection is lost, and when a future is dropped, is as for [`Lock`].
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::Semaphore;
///
/// let downloads = Semaphore::new(&client, "/limits/downloads", 10);
/// let one = downloads.acquire().await?;
/// let three = downloads.acquire_many(3).await?;
/// three.release().await?;
/// one.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a semaphore does nothing until it is acquired"]
pub struct Semaphore {
    settings: Settings,
    limit: Limit,
}

/// How many permits there are.
#[derive(Debug, Clone)]
enum Limit {
    Fixed(usize),
    /// As many as the znode at this path says.
    At(String),
}

impl Semaphore {
    /// The semaphore at `path` with so many permits. Everybody on the path must name the same
    /// number: kazoo's layout refuses another one, Curator's does not know.
    pub fn new(client: &Client, path: impl Into<String>, permits: usize) -> Self {
        Semaphore {
            settings: Settings::new(client, path),
            limit: Limit::Fixed(permits),
        }
    }

    setters!(layout, data, acl);

    /// Has as many permits as the znode at `path` says at any time, which is Curator's
    /// `SharedCount`: a number of four bytes. Who holds permits keeps them when there are fewer.
    pub fn permits_at(mut self, path: impl Into<String>) -> Self {
        self.limit = Limit::At(path.into());
        self
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`]; [`Error::Mismatch`] if the path is set up with another number of
    /// permits.
    ///
    /// Cancel safe: dropping the future gives up the place in the line and leaves nothing behind.
    #[instrument(name = "Semaphore::acquire", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn acquire(&self) -> Result<Guard, Error> {
        let mut guards = self.take(1).await?;
        guards.pop().ok_or_else(|| self.too_many(1, 0))
    }

    /// Waits for so many permits, which are taken all together.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`] if there never are so many; otherwise as for
    /// [`acquire`](Semaphore::acquire).
    ///
    /// Cancel safe as [`acquire`](Semaphore::acquire).
    #[instrument(name = "Semaphore::acquire_many", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn acquire_many(&self, number: usize) -> Result<MultiGuard, Error> {
        self.take(number).await.map(MultiGuard::new)
    }

    /// As [`acquire`](Semaphore::acquire), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`acquire`](Semaphore::acquire).
    pub async fn acquire_timeout(&self, time: Duration) -> Result<Guard, Error> {
        within(self.path(), time, self.acquire()).await
    }

    /// Takes a permit if one is free and nobody is in line, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Semaphore::acquire).
    #[instrument(name = "Semaphore::try_acquire", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        self.check_setup(1).await?;
        let Some(turn) = self.line().try_acquire().await? else {
            return Ok(None);
        };
        let (limit, _) = self.limit().await?;
        let (taken, _) = self.taken().await?;
        if taken >= limit {
            return Ok(None);
        }
        let guards = self.create(1, &turn).await?;
        Ok(guards.and_then(|mut guards| guards.pop()))
    }

    /// Who has permits, one entry for each.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`].
    pub async fn holders(&self) -> Result<Vec<Contender>, Error> {
        let (client, path) = (&self.settings.client, self.permits().path);
        let (synced, names) = (client.sync(&path), client.get_children(&path));
        synced.await?;
        let names = match names.await {
            Err(ClientError::NoNode { .. }) => Vec::new(),
            names => names?,
        };
        let paths = names.iter().map(|name| join(&path, name)).collect();
        read_contenders(client, paths).await
    }

    /// Who is in line, in order.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`].
    pub async fn waiters(&self) -> Result<Vec<Contender>, Error> {
        self.line().contenders().await
    }

    /// The lock that only the first in line has.
    fn line(&self) -> Lock {
        let Settings { path, layout, .. } = &self.settings;
        let path = match layout {
            Layout::Curator => join(path, "locks"),
            Layout::Kazoo => format!("{path}-__lock__"),
        };
        Lock::with_settings(Settings {
            path,
            ..self.settings.clone()
        })
    }

    /// Where the permits that are held are.
    fn permits(&self) -> Settings {
        let Settings { path, layout, .. } = &self.settings;
        let path = match layout {
            Layout::Curator => join(path, "leases"),
            Layout::Kazoo => path.clone(),
        };
        Settings {
            path,
            ..self.settings.clone()
        }
    }

    async fn take(&self, number: usize) -> Result<Vec<Guard>, Error> {
        self.check_setup(number).await?;
        loop {
            let turn = self.line().acquire().await?;
            tokio::select! {
                biased;
                guards = self.take_in_turn(number, &turn) => if let Some(guards) = guards? {
                    return Ok(guards);
                },
                // The place in the line is gone; a new one is taken while the session lives.
                _ = turn.lost() => {}
            }
        }
    }

    /// Takes permits while nobody else does. `None` if the turn is lost.
    async fn take_in_turn(&self, number: usize, turn: &Guard) -> Result<Option<Vec<Guard>>, Error> {
        loop {
            let (limit, limit_changed) = self.limit().await?;
            let (taken, taken_changed) = self.taken().await?;
            if taken + number <= limit {
                // What is created here need not be told here.
                drop(taken_changed);
                return self.create(number, turn).await;
            }
            let changes: Vec<_> = limit_changed.into_iter().chain(taken_changed).collect();
            if changes.is_empty() {
                return Err(self.too_many(number, limit));
            }
            select_all(changes).await.0?;
        }
    }

    async fn create(&self, number: usize, turn: &Guard) -> Result<Option<Vec<Guard>>, Error> {
        let permits = self.permits();
        let site = permits.site(permits.layout.permit());
        let planned = (0..number).map(|_| site.plan()).collect();
        let Some(nodes) = Protected::create_all(site, planned, turn.node()).await? else {
            return Ok(None);
        };
        let mut guards = Vec::with_capacity(number);
        for node in nodes {
            let Some(confirmed) = confirm(site.client, &node).await? else {
                return Ok(None);
            };
            let hold = Hold::new(site.client, self.path(), node, confirmed);
            guards.push(Guard::new(hold));
        }
        Ok(Some(guards))
    }

    /// How many permits are taken, and what tells of a change.
    async fn taken(&self) -> Result<(usize, Option<OneshotWatch>), Error> {
        let (client, path) = (&self.settings.client, self.permits().path);
        let naming = self.settings.layout.permit();
        match patient().run(|| client.get_children_watched(&path)).await {
            Ok((names, _, watch)) => {
                none_foreign(&path, &names, |name| naming.is_one(name))?;
                Ok((names.len(), Some(watch)))
            }
            Err(ClientError::NoNode { .. }) => Ok((0, None)),
            Err(error) => Err(error.into()),
        }
    }

    /// How many permits there are, and what tells of a change.
    async fn limit(&self) -> Result<(usize, Option<OneshotWatch>), Error> {
        let path = match &self.limit {
            Limit::Fixed(limit) => return Ok((*limit, None)),
            Limit::At(path) => path,
        };
        let client = &self.settings.client;
        let (data, _, watch) = patient().run(|| client.get_data_watched(path)).await?;
        let number = <[u8; 4]>::try_from(&data[..]).map(i32::from_be_bytes);
        match number.map(usize::try_from) {
            Ok(Ok(limit)) => Ok((limit, Some(watch))),
            _ => Err(Error::Mismatch {
                path: path.clone(),
                expected: "a positive number of four bytes".into(),
                found: format!("{data:?}"),
            }),
        }
    }

    /// Looks whether so many permits can be had, and, in kazoo's layout, whether others agree about
    /// how many there are.
    async fn check_setup(&self, number: usize) -> Result<(), Error> {
        let Limit::Fixed(limit) = self.limit else {
            return Ok(());
        };
        if number > limit {
            return Err(self.too_many(number, limit));
        }
        match self.settings.layout {
            Layout::Curator => self.find_no_permits_of_kazoo().await,
            Layout::Kazoo => {
                self.taken().await?;
                self.agree(&limit.to_string()).await
            }
        }
    }

    /// Those would be right beside the line and the permits.
    async fn find_no_permits_of_kazoo(&self) -> Result<(), Error> {
        let Settings { client, path, .. } = &self.settings;
        match patient().run(|| client.get_children(path)).await {
            Ok(names) => none_foreign(path, &names, |name| !is_unique(name)),
            Err(ClientError::NoNode { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the number of permits where kazoo expects it, unless somebody did already.
    async fn agree(&self, limit: &str) -> Result<(), Error> {
        let Settings {
            client, path, acl, ..
        } = &self.settings;
        let policy = patient();
        loop {
            let (data, stat) = match policy.run(|| client.get_data(path)).await {
                Ok(found) => found,
                Err(ClientError::NoNode { .. }) => {
                    if let Some(parent) = path::parent(path).filter(|parent| *parent != "/") {
                        create_parents(client, parent, acl).await?;
                    }
                    let options = CreateOptions::new(CreateMode::Persistent).acl(acl);
                    let create = || client.create(path, limit, options);
                    match policy.run_idempotent(create).await {
                        Ok(_) => return Ok(()),
                        Err(ClientError::NodeExists { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            };
            let found = String::from_utf8_lossy(&data);
            if !data.is_empty() {
                return match found.trim() == limit {
                    true => Ok(()),
                    false => Err(Error::Mismatch {
                        path: path.clone(),
                        expected: format!("{limit} permits"),
                        found: format!("{found:?}"),
                    }),
                };
            }
            let set = || client.set_data(path, limit, stat.version);
            match policy.run_idempotent(set).await {
                Ok(_) | Err(ClientError::BadVersion { .. } | ClientError::NoNode { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn too_many(&self, asked: usize, limit: usize) -> Error {
        let path = self.settings.path.clone();
        Error::TooMany { path, asked, limit }
    }
}
