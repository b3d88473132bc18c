//! Configuration that is watched (spec: recipes, section 6.7).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use async_stream::stream;
use futures::{Stream, StreamExt};
use quorate_client::{Client, CreateMode, Error as ClientError, Transaction};
use tokio::time::sleep;

use crate::cache::{Cache, CacheEvent};
use crate::changes::{Found, look_synced, of_node};
use crate::error::Error;
use crate::payload::{Payload, decode, encode};
use crate::protect::{delete_once, expect_writes};
use crate::receipt::Receipts;
use crate::settings::{Settings, setters};

/// Pauses before another try when several change a value at once.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A value that many read and follow, and some change.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use futures::StreamExt;
/// use quorate_recipes::{Config, Json};
///
/// #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// struct Limits {
///     uploads: u32,
/// }
///
/// let limits: Config<Json<Limits>> = Config::new(&client, "/config/limits");
/// limits
///     .update(|now| {
///         let mut limits = now.unwrap_or_default();
///         limits.uploads += 1;
///         Some(limits)
///     })
///     .await?;
/// let mut versions = limits.watch();
/// while let Some(version) = versions.next().await {
///     println!("{:?}", version?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a configuration does nothing by itself"]
pub struct Config<T> {
    settings: Settings,
    receipts: Receipts,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Config<T> {
    fn clone(&self) -> Self {
        Config {
            settings: self.settings.clone(),
            receipts: self.receipts.clone(),
            value: PhantomData,
        }
    }
}

/// A value in one of its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The version of the znode.
    pub version: i32,
    /// The number of the transaction that wrote it, which grows with every write, also if the znode
    /// is deleted and created again.
    pub zxid: i64,
}

impl<T: Payload> Config<T> {
    /// The value in the znode at `path`.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Config {
            settings: Settings::new(client, path),
            receipts: Receipts::new(client),
            value: PhantomData,
        }
    }

    setters!(acl);

    /// The current value; `None` if the znode does not exist. The server that answers catches up
    /// with the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] if there is something else; [`Error::Client`] when the session ends, and
    /// with what a server refuses.
    ///
    /// Cancel safe.
    pub async fn get(&self) -> Result<Option<Versioned<T>>, Error> {
        self.read(look_synced(&self.settings.client, self.path()).await?)
    }

    /// Writes a value, whatever is there. It is written exactly once, also if connections are lost,
    /// so that no newer value is overwritten by a repetition.
    ///
    /// # Errors
    ///
    /// As for [`update`](Config::update).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn set(&self, value: &T) -> Result<(), Error> {
        let data = encode(self.path(), value)?;
        // Others may delete and create it in between.
        while !self.overwrite(None, &data).await? && !self.create(&data).await? {}
        Ok(())
    }

    /// Changes the value from what it is, which others cannot change meanwhile: `change` is called
    /// again if they do. It gets `None` if the znode does not exist, and answers `None` to leave the
    /// value as it is. Answers the value that is there then.
    ///
    /// A change is made exactly once, also if connections are lost.
    ///
    /// # Errors
    ///
    /// As for [`get`](Config::get); [`Error::Client`] that names `/quorate/receipts` where
    /// [what such writes need](crate#nothing-twice) cannot be created. Only if [`Error::outcome`]
    /// says that it is unknown may the change have been made nevertheless.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn update(
        &self,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.try_update(|value| Ok(change(value))).await
    }

    /// As [`update`](Config::update), with a change that may fail.
    pub(crate) async fn try_update(
        &self,
        mut change: impl FnMut(Option<T>) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let client = &self.settings.client;
        expect_writes(client, self.path())?;
        let mut pause = FIRST_PAUSE;
        loop {
            let found = look_synced(client, self.path()).await?;
            let version = found.as_ref().map(|(_, stat)| stat.version);
            let value = self.read(found)?.map(|versioned| versioned.value);
            let Some(changed) = change(value)? else {
                return Ok(self.get().await?.map(|versioned| versioned.value));
            };
            if self.compare_and_set(version, &changed).await? {
                return Ok(Some(changed));
            }
            // Somebody else was quicker; not all should try again at once.
            sleep(pause.mul_f64(fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Writes a value if the one that was read still is there. Answers whether it did, also if
    /// connections are lost.
    ///
    /// The znode is looked at right before it is written: if it was deleted and created again since
    /// it was read, that tells, though the version may be the same. Servers themselves compare
    /// nothing but versions, so a znode that is deleted, created and brought to its old version
    /// between that look and the write is written over; so it is by [`update`](Config::update).
    /// Whoever changes values by these two methods should set them anew rather than delete them.
    ///
    /// # Errors
    ///
    /// As for [`update`](Config::update).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn exchange(&self, read: &Versioned<T>, value: &T) -> Result<bool, Error> {
        let client = &self.settings.client;
        expect_writes(client, self.path())?;
        let found = look_synced(client, self.path()).await?;
        if found.is_none_or(|(_, stat)| stat.mzxid != read.zxid) {
            return Ok(false);
        }
        self.compare_and_set(read.version, value).await
    }

    /// Writes a value if the znode has this version, or with `None` if it does not exist. Answers
    /// whether it did, also if connections are lost.
    ///
    /// A znode that is deleted and created again counts its versions anew: [`exchange`](Config::exchange)
    /// tells such a one from the one that was read.
    ///
    /// # Errors
    ///
    /// As for [`update`](Config::update).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn compare_and_set(
        &self,
        version: impl Into<Option<i32>>,
        value: &T,
    ) -> Result<bool, Error> {
        let data = encode(self.path(), value)?;
        match version.into() {
            Some(version) => self.overwrite(Some(version), &data).await,
            None => self.create(&data).await,
        }
    }

    /// Writes once over what is there, and answers whether it was, in that version if one is given.
    async fn overwrite(&self, version: Option<i32>, data: &[u8]) -> Result<bool, Error> {
        let path = self.path();
        let set = |transaction: Transaction| transaction.set_data(path, data, version);
        match self.receipts.commit(path, set).await {
            Ok(()) => Ok(true),
            Err(ClientError::BadVersion { .. } | ClientError::NoNode { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes once where nothing is, and answers whether nothing was.
    async fn create(&self, data: &[u8]) -> Result<bool, Error> {
        let Settings { path, acl, .. } = &self.settings;
        let create = self
            .receipts
            .create(path, data, CreateMode::Persistent, acl);
        match create.await {
            Ok(()) => Ok(true),
            Err(ClientError::NodeExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the value. Does nothing if there is none. A value that somebody else writes once it is
    /// gone stays, also if a reply is lost.
    ///
    /// # Errors
    ///
    /// What a server refuses; the end of the session.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn delete(&self) -> Result<(), Error> {
        let Settings { client, path, .. } = &self.settings;
        delete_once(client, path).await?;
        Ok(())
    }

    /// The current value, then each change; `None` while the znode does not exist. Several quick
    /// changes may be seen as one, but the last one is never missed, and no older value follows a
    /// newer one.
    ///
    /// Something that is no value is an [`Error::Payload`], after which the stream goes on. It ends
    /// after any other error, such as the end of the session.
    pub fn watch(
        &self,
    ) -> impl Stream<Item = Result<Option<Versioned<T>>, Error>> + Send + Unpin + use<T> {
        let mut found = of_node(self.settings.client.clone(), self.path().to_owned());
        let config = self.clone();
        Box::pin(stream! {
            while let Some(found) = found.next().await {
                yield found.and_then(|found| config.read(found));
            }
        })
    }

    fn read(&self, found: Found) -> Result<Option<Versioned<T>>, Error> {
        let Some((data, stat)) = found else {
            return Ok(None);
        };
        Ok(Some(Versioned {
            value: decode(self.path(), &data)?,
            version: stat.version,
            zxid: stat.mzxid,
        }))
    }
}

/// A whole tree of values, each in a znode of its own, as a local copy that follows the servers.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::ConfigTree;
///
/// let tree: ConfigTree<String> = ConfigTree::new(&client, "/config");
/// tree.ready().await?;
/// println!("{:?}", tree.get("database/url")?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the copy ends when it is dropped"]
pub struct ConfigTree<T> {
    cache: Cache,
    value: PhantomData<fn() -> T>,
}

impl<T: Payload> ConfigTree<T> {
    /// Begins to copy what is below `path`.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        ConfigTree {
            cache: Cache::new(client, path),
            value: PhantomData,
        }
    }

    /// Waits until everything that was there at the beginning is here.
    ///
    /// # Errors
    ///
    /// As for [`Cache::ready`].
    pub async fn ready(&self) -> Result<(), Error> {
        self.cache.ready().await
    }

    /// The value of a key such as `database/url`; `None` if there is none, or nothing in it.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] if there is something else.
    pub fn get(&self, key: &str) -> Result<Option<T>, Error> {
        let path = crate::protect::join(self.cache.path(), key);
        let found = self.cache.get(&path).filter(|node| !node.data.is_empty());
        found.map(|node| decode(&path, &node.data)).transpose()
    }

    /// All values by their keys, but for what is no value.
    pub fn values(&self) -> BTreeMap<String, T> {
        let nodes = self.cache.snapshot().into_iter();
        let values = nodes.filter_map(|(path, node)| {
            let value = T::decode(&node.data).ok()?;
            (!node.data.is_empty()).then_some((self.key(&path)?, value))
        });
        values.collect()
    }

    /// The keys whose values change, with the new value, or `None` when they are deleted: first all
    /// that are there.
    pub fn changes(
        &self,
    ) -> impl Stream<Item = Result<(String, Option<T>), Error>> + Send + Unpin + use<'_, T> {
        let events = self.cache.events();
        Box::pin(events.filter_map(async |event| match event {
            Ok(CacheEvent::Added { path, node } | CacheEvent::Changed { path, node }) => {
                let key = self.key(&path)?;
                let value = (!node.data.is_empty()).then(|| decode(&path, &node.data));
                Some(value.transpose().map(|value| (key, value)))
            }
            Ok(CacheEvent::Removed { path, .. }) => Some(Ok((self.key(&path)?, None))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }))
    }

    fn key(&self, path: &str) -> Option<String> {
        let key = path.strip_prefix(self.cache.path().trim_end_matches('/'))?;
        Some(key.strip_prefix('/')?.to_owned())
    }
}
