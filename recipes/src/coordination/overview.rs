//! Who is there, and who serves what.

use std::collections::BTreeMap;

use async_stream::try_stream;
use futures::stream::select_all;
use futures::{Stream, StreamExt};

use super::{Cluster, Task, WorkerInfo, values};
use crate::cache::{Cache, CacheEvent};
use crate::error::Error;
use crate::protect::join;

/// How many changes are taken together, at most.
const CHANGES_AT_ONCE: usize = 256;

/// Who takes part in a [`Cluster`], and who serves what; from [`Cluster::observe`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overview {
    /// The names of all masters: the active one, then those who stand by, in the order in which they
    /// would follow it.
    pub masters: Vec<String>,
    /// All workers by the names of their znodes.
    pub workers: BTreeMap<String, WorkerInfo>,
    /// All tasks by name.
    pub tasks: BTreeMap<String, Task>,
}

impl Overview {
    /// The worker that has a task, if any has.
    pub fn worker_of(&self, task: &str) -> Option<&WorkerInfo> {
        self.workers.get(self.tasks.get(task)?.worker.as_deref()?)
    }
}

impl Cluster {
    /// How things stand, and then again after each change of a master, a worker or a task; changes
    /// that come close together may be seen as one.
    ///
    /// The stream ends after an error, such as the end of the session. Dropping it removes its
    /// watches.
    ///
    /// ```no_run
    /// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
    /// use futures::StreamExt;
    /// use quorate_recipes::coordination::Cluster;
    ///
    /// let mut changes = Cluster::new(&client, "/store").observe();
    /// while let Some(overview) = changes.next().await.transpose()? {
    ///     println!("{:?} is active", overview.masters.first());
    ///     for task in overview.tasks.keys() {
    ///         println!("{task} is with {:?}", overview.worker_of(task));
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn observe(&self) -> impl Stream<Item = Result<Overview, Error>> + Send + Unpin + use<> {
        let cluster = self.clone();
        Box::pin(try_stream! {
            let election = join(cluster.path(), "election");
            let masters = Cache::with_depth(cluster.client(), &election, 1);
            let workers = cluster.synced(cluster.workers_path()).await?;
            let tasks = cluster.synced(cluster.tasks_path()).await?;
            let streams = [&masters, &workers, &tasks].map(Cache::events);
            let mut changes = select_all(streams).ready_chunks(CHANGES_AT_ONCE);
            let mut seen = Overview::default();
            while let Some(changes) = changes.next().await {
                let changes = changes.into_iter().collect::<Result<Vec<_>, _>>()?;
                if changes.iter().any(|change| is_below(&election, change)) {
                    seen.masters = cluster.masters().await?;
                }
                seen.workers = values(&workers)?;
                seen.tasks = values(&tasks)?;
                yield seen.clone();
            }
        })
    }
}

/// Is it about a znode below `path`?
fn is_below(path: &str, change: &CacheEvent) -> bool {
    match change {
        CacheEvent::Added { path: at, .. }
        | CacheEvent::Changed { path: at, .. }
        | CacheEvent::Removed { path: at } => at.starts_with(path),
        _ => false,
    }
}
