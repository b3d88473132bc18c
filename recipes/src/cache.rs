//! A local copy of a subtree (spec: recipes, section 3.10).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_stream::stream;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use quorate_client::{
    Client, Error as ClientError, EventKind, PersistentWatch, Stat, WatchedEvent,
};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::debug;

use crate::error::Error;
use crate::protect::{join, patient};

/// How many znodes are read with one request behind the other.
const READS_AT_ONCE: usize = 256;
/// After an outage, everybody who has a copy reads it anew within this time.
const SPREAD: Duration = Duration::from_millis(200);

/// A copy of a znode and of what is below it, which follows the servers.
///
/// It lags behind the servers for a moment, and different znodes may be seen as of different times;
/// what is seen of one znode never goes back. After a loss of the connection the subtree is read
/// again, so that no last change is missed, also not that a znode was deleted and created again.
///
/// It ends with the session, or when it is dropped.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use futures::StreamExt;
/// use quorate_recipes::{Cache, CacheEvent};
///
/// let cache = Cache::new(&client, "/services");
/// let mut events = cache.events();
/// while let Some(event) = events.next().await {
///     match event? {
///         CacheEvent::Initialized => println!("{} znodes", cache.snapshot().len()),
///         event => println!("{event:?}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the copy ends when it is dropped"]
pub struct Cache {
    shared: Arc<Shared>,
    /// Its task ends when this is dropped.
    _alive: watch::Sender<()>,
}

/// A znode of a [`Cache`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedNode {
    /// Its data.
    pub data: Bytes,
    /// Its stat, as of when the data was read: counts of children may be newer on the servers.
    pub stat: Stat,
}

/// What happened to a [`Cache`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheEvent {
    /// A znode has come, or was there already.
    Added {
        /// Its path.
        path: String,
        /// What it is.
        node: CachedNode,
    },
    /// The data of a znode was set.
    Changed {
        /// Its path.
        path: String,
        /// What it is now.
        node: CachedNode,
    },
    /// A znode is gone. One that was deleted and created again is removed and added.
    Removed {
        /// Its path.
        path: String,
    },
    /// Everything that was there at the beginning has been told. Comes once.
    Initialized,
    /// The connection had been away, and everything that has changed meanwhile has been told.
    Resynced,
}

#[derive(Debug)]
struct Shared {
    root: String,
    depth: usize,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, CachedNode>,
    readers: Vec<Weak<Reader>>,
}

/// How far the copy is.
#[derive(Debug, Clone, Default)]
enum Progress {
    #[default]
    Filling,
    Ready,
    Ended(Error),
}

/// What a stream of events has yet to look at: bounded by the number of znodes.
#[derive(Debug, Default)]
struct Reader {
    dirty: Mutex<Dirty>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Dirty {
    paths: BTreeSet<String>,
    resynced: bool,
}

impl Cache {
    /// Begins to copy the znode at `path`, which need not exist, and everything below it.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Cache::with_depth(client, path, usize::MAX)
    }

    /// As [`new`](Cache::new), with no more than so many levels below `path`.
    pub fn with_depth(client: &Client, path: impl Into<String>, depth: usize) -> Self {
        let shared = Arc::new(Shared {
            root: path.into(),
            depth,
            state: Mutex::default(),
            progress: watch::Sender::default(),
        });
        let alive = watch::Sender::new(());
        let copy = Copy {
            client: client.clone(),
            shared: Arc::clone(&shared),
        };
        let mut dropped = alive.subscribe();
        client.spawn(async move {
            let error = tokio::select! {
                biased;
                _ = dropped.changed() => ClientError::Closed.into(),
                error = copy.run() => error,
            };
            copy.shared.progress.send_replace(Progress::Ended(error));
            copy.shared.tell(|_| {});
        });
        Cache {
            shared,
            _alive: alive,
        }
    }

    /// The path of the topmost znode.
    pub fn path(&self) -> &str {
        &self.shared.root
    }

    /// Waits until everything that was there at the beginning is here.
    ///
    /// # Errors
    ///
    /// Why the copy has ended: with the session, or because a server refused to show it.
    ///
    /// Cancel safe.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut progress = self.shared.progress.subscribe();
        let settled = progress.wait_for(|progress| !matches!(progress, Progress::Filling));
        match settled.await.as_deref() {
            Ok(Progress::Ended(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// A znode, if it is here.
    pub fn get(&self, path: &str) -> Option<CachedNode> {
        self.shared.state.lock().nodes.get(path).cloned()
    }

    /// The names of the children of a znode that are here, in order.
    pub fn children(&self, path: &str) -> Vec<String> {
        let prefix = join(path, "");
        let state = self.shared.state.lock();
        let below = state.nodes.range(prefix.clone()..);
        below
            .map_while(|(path, _)| path.strip_prefix(&prefix))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    /// Everything that is here, by path.
    pub fn snapshot(&self) -> BTreeMap<String, CachedNode> {
        self.shared.state.lock().nodes.clone()
    }

    /// What happens, from what is here already: first a znode after the other as
    /// [`CacheEvent::Added`], then [`CacheEvent::Initialized`], then each change.
    ///
    /// A stream that is read slowly keeps nobody waiting: of several changes of one znode it yields
    /// the last. It ends after an error, which says why the copy has ended.
    pub fn events(&self) -> impl Stream<Item = Result<CacheEvent, Error>> + Send + Unpin + use<> {
        let shared = Arc::clone(&self.shared);
        let reader = Arc::new(Reader::default());
        {
            let mut state = shared.state.lock();
            reader.dirty.lock().paths = state.nodes.keys().cloned().collect();
            state.readers.retain(|reader| reader.strong_count() > 0);
            state.readers.push(Arc::downgrade(&reader));
        }
        Box::pin(stream! {
            let mut seen: BTreeMap<String, (i64, i64)> = BTreeMap::new();
            let mut progress = shared.progress.subscribe();
            let settled = progress.wait_for(|progress| !matches!(progress, Progress::Filling));
            let _ = settled.await.map(drop);
            let mut initialized = false;
            loop {
                let ended = shared.ended();
                let dirty = std::mem::take(&mut *reader.dirty.lock());
                for path in dirty.paths {
                    for event in shared.compare(&mut seen, path) {
                        yield Ok(event);
                    }
                }
                if let Some(error) = ended {
                    yield Err(error);
                    return;
                }
                if !initialized {
                    initialized = true;
                    yield Ok(CacheEvent::Initialized);
                } else if dirty.resynced {
                    yield Ok(CacheEvent::Resynced);
                }
                reader.woken.notified().await;
            }
        })
    }
}

impl Shared {
    fn ended(&self) -> Option<Error> {
        match &*self.progress.borrow() {
            Progress::Ended(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// Is it part of the copy?
    fn covers(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.root.trim_end_matches('/'));
        below.is_some_and(|below| below.matches('/').count() <= self.depth)
    }

    /// What has become of a znode since it was seen.
    fn compare(&self, seen: &mut BTreeMap<String, (i64, i64)>, path: String) -> Vec<CacheEvent> {
        let node = self.state.lock().nodes.get(&path).cloned();
        let before = seen.get(&path).copied();
        let Some(node) = node else {
            return match seen.remove(&path) {
                Some(_) => vec![CacheEvent::Removed { path }],
                None => Vec::new(),
            };
        };
        let version = (node.stat.czxid, node.stat.mzxid);
        seen.insert(path.clone(), version);
        match before {
            Some(before) if before == version => Vec::new(),
            Some((czxid, _)) if czxid == version.0 => vec![CacheEvent::Changed { path, node }],
            Some(_) => vec![
                CacheEvent::Removed { path: path.clone() },
                CacheEvent::Added { path, node },
            ],
            None => vec![CacheEvent::Added { path, node }],
        }
    }

    /// Takes in what was read of a znode, and tells the readers of a change.
    fn put(&self, path: &str, found: Option<CachedNode>) {
        let mut state = self.state.lock();
        let unchanged = match (state.nodes.get(path), &found) {
            (Some(old), Some(new)) => {
                (old.stat.czxid, old.stat.mzxid) == (new.stat.czxid, new.stat.mzxid)
            }
            (old, new) => old.is_none() && new.is_none(),
        };
        match found {
            Some(node) => state.nodes.insert(path.to_owned(), node),
            None => state.nodes.remove(path),
        };
        drop(state);
        if !unchanged {
            self.tell(|dirty| {
                dirty.paths.insert(path.to_owned());
            });
        }
    }

    fn tell(&self, change: impl Fn(&mut Dirty)) {
        let readers = self.state.lock().readers.clone();
        for reader in readers.iter().filter_map(Weak::upgrade) {
            change(&mut reader.dirty.lock());
            reader.woken.notify_one();
        }
    }
}

/// The task that keeps a copy up to date.
struct Copy {
    client: Client,
    shared: Arc<Shared>,
}

impl Copy {
    /// Runs until that is not possible any more.
    async fn run(&self) -> Error {
        match self.follow().await {
            Ok(()) => ClientError::Closed.into(),
            Err(error) => error.into(),
        }
    }

    async fn follow(&self) -> Result<(), ClientError> {
        let root = &self.shared.root;
        // What happens from here on is told; then everything that was there before is read.
        let watching = patient().run(|| self.client.watch_recursive(root)).await;
        let mut events = watching?;
        self.fill().await?;
        self.shared.progress.send_replace(Progress::Ready);
        while let Some(event) = events.next().await {
            let mut changed = BTreeSet::new();
            let mut missed = self.gather(event?, &mut changed);
            while let Some(Some(event)) = events.next().now_or_never() {
                missed |= self.gather(event?, &mut changed);
            }
            if missed {
                self.resync(&mut events).await?;
            } else {
                self.read(changed).await?;
            }
        }
        Ok(())
    }

    /// Notes which znode an event is about; true if events are missing.
    fn gather(&self, event: WatchedEvent, changed: &mut BTreeSet<String>) -> bool {
        if event.kind == EventKind::Missed {
            return true;
        }
        if self.shared.covers(&event.path) {
            changed.insert(event.path);
        }
        false
    }

    /// Reads everything again after events were missed.
    async fn resync(&self, events: &mut PersistentWatch) -> Result<(), ClientError> {
        debug!(path = self.shared.root, "reading everything again");
        sleep(SPREAD.mul_f64(fastrand::f64())).await;
        // Whatever they tell is read now.
        while let Some(Some(event)) = events.next().now_or_never() {
            event?;
        }
        self.fill().await?;
        self.shared.tell(|dirty| dirty.resynced = true);
        Ok(())
    }

    /// Reads the whole subtree, and forgets what is not there.
    async fn fill(&self) -> Result<(), ClientError> {
        let mut gone: BTreeSet<String> = self.shared.state.lock().nodes.keys().cloned().collect();
        let mut level = vec![self.shared.root.clone()];
        while !level.is_empty() {
            let mut next = Vec::new();
            for paths in level.chunks(READS_AT_ONCE) {
                self.read(paths.iter().cloned()).await?;
                for path in paths {
                    gone.remove(path);
                }
                next.extend(self.list(paths).await?);
            }
            next.retain(|path| self.shared.covers(path));
            level = next;
        }
        for path in gone {
            self.shared.put(&path, None);
        }
        Ok(())
    }

    /// Reads znodes into the copy.
    async fn read(&self, paths: impl IntoIterator<Item = String>) -> Result<(), ClientError> {
        let paths: Vec<_> = paths.into_iter().collect();
        for paths in paths.chunks(READS_AT_ONCE) {
            let reads: Vec<_> = paths
                .iter()
                .map(|path| self.client.get_data(path))
                .collect();
            for (path, read) in paths.iter().zip(reads) {
                let found = match read.await {
                    Err(error) if error.is_transient() => {
                        patient().run(|| self.client.get_data(path)).await
                    }
                    found => found,
                };
                let node = match found {
                    Ok((data, stat)) => Some(CachedNode { data, stat }),
                    Err(ClientError::NoNode { .. }) => None,
                    Err(error) => return Err(error),
                };
                self.shared.put(path, node);
            }
        }
        Ok(())
    }

    /// The paths of the children of znodes.
    async fn list(&self, paths: &[String]) -> Result<Vec<String>, ClientError> {
        let lists: Vec<_> = paths
            .iter()
            .map(|path| self.client.get_children(path))
            .collect();
        let mut children = Vec::new();
        for (path, list) in paths.iter().zip(lists) {
            let found = match list.await {
                Err(error) if error.is_transient() => {
                    patient().run(|| self.client.get_children(path)).await
                }
                found => found,
            };
            match found {
                Ok(names) => children.extend(names.iter().map(|name| join(path, name))),
                Err(ClientError::NoNode { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }
}
