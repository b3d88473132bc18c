//! A master that assigns tasks to workers (spec: recipes, section 6.9).
//!
//! Tasks are names: regions of a table, shards, streams. One of several masters is active; the
//! others stand by. Workers join, and the active master gives each its part of the tasks, again
//! whenever a worker comes, leaves or dies. A worker serves a task through a [`ServedTask`], and a
//! task is served by one worker at a time: it goes to another one only when the worker has dropped
//! it, or when the ensemble has expired the worker's session, before which the worker knows that it
//! [has lost](crate::Guard::lost) it.
//!
//! All state is in znodes, so that the next master goes on where the last one stopped, and every
//! write of a master is refused by the servers once another one leads.
//!
//! | Path | What is there | Written by |
//! |---|---|---|
//! | `election/` | the candidates | masters |
//! | `workers/ID,UNIQUE` | ephemeral: id, address, capacity and load | the worker |
//! | `tasks/TASK` | state, worker and epoch | the master; the worker that opens or closes it |
//! | `assign/ID,UNIQUE/TASK` | there while the worker may serve the task; `stop` when it is to stop | the master; the worker that has stopped |
//!
//! ```no_run
//! # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
//! use quorate_recipes::coordination::{Cluster, Worker, WorkerInfo};
//!
//! let cluster = Cluster::new(&client, "/store");
//! cluster.add_task("region-1").await?;
//! let mastering = cluster.master("host-7");
//!
//! let mut worker = Worker::join(&cluster, &WorkerInfo::new("host-8")).await?;
//! tokio::select! {
//!     error = mastering.run() => return Err(error),
//!     changed = worker.changed() => changed?,
//! }
//! println!("serving {:?}", worker.tasks().keys());
//! # Ok(())
//! # }
//! ```

mod master;
mod overview;
mod plan;
mod worker;

use std::collections::BTreeMap;

use quorate_client::{Acl, Client, CreateMode, CreateOptions, Error as ClientError};
use serde::{Deserialize, Serialize};

pub use master::Master;
pub use overview::Overview;
pub use worker::{ServedTask, Worker};

use crate::cache::{Cache, CachedNode};
use crate::election::Election;
use crate::error::Error;
use crate::payload::{Json, Payload, decode, encode};
use crate::protect::{create_parents, join, patient};
use crate::settings::{Settings, setters};

/// What an assignment says when the worker is to stop serving the task.
const STOP: &str = "stop";

/// Where masters and workers meet, and which tasks there are.
#[derive(Debug, Clone)]
#[must_use = "a cluster does nothing by itself"]
pub struct Cluster {
    settings: Settings,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskState {
    /// Nobody serves it.
    Offline,
    /// A worker is to serve it, and does not yet.
    Opening,
    /// A worker serves it.
    Open,
    /// A worker is to stop serving it, and may serve it still.
    Closing,
}

/// A task, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Task {
    /// How far it is.
    pub state: TaskState,
    /// The worker, if it is not offline: the name of its znode.
    pub worker: Option<String>,
    /// How often it was given to a worker.
    pub epoch: u64,
}

/// What a worker says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its name.
    pub id: String,
    /// Where others reach it.
    pub address: String,
    /// Its part of the tasks, in relation to those of others.
    pub capacity: u32,
    /// How busy it [says](Worker::report) that it is, in whatever unit the workers agree on. Masters
    /// count tasks and do not look at it.
    #[serde(default)]
    pub load: u64,
}

impl WorkerInfo {
    /// A worker of this name, with capacity 1.
    pub fn new(id: impl Into<String>) -> Self {
        WorkerInfo {
            id: id.into(),
            address: String::new(),
            capacity: 1,
            load: 0,
        }
    }

    /// Sets where others reach it.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Sets its capacity.
    #[must_use]
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }
}

impl Cluster {
    /// The cluster at `path`. The znodes are created when they are needed.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Cluster {
            settings: Settings::new(client, path),
        }
    }

    setters!(acl);

    /// A master of this name, which is active while it [runs](Master::run) and leads.
    pub fn master(&self, id: impl Into<String>) -> Master {
        Master::new(self, id.into())
    }

    /// The election of the active master.
    pub fn election(&self) -> Election {
        let election = Election::new(self.client(), join(self.path(), "election"));
        election.acl(self.settings.acl.clone())
    }

    /// The names of all masters: the active one, then those who stand by, in the order in which they
    /// would follow it. The server that answers catches up with the leader before.
    ///
    /// # Errors
    ///
    /// As for [`Election::candidates`].
    pub async fn masters(&self) -> Result<Vec<String>, Error> {
        let candidates = self.election().candidates().await?.into_iter();
        let name = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        Ok(candidates.map(|candidate| name(&candidate.data)).collect())
    }

    /// Adds a task. Does nothing if it is there already.
    ///
    /// # Errors
    ///
    /// What a server refuses; the end of the session.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn add_task(&self, name: &str) -> Result<(), Error> {
        let path = self.task_path(name);
        let task = Task {
            state: TaskState::Offline,
            worker: None,
            epoch: 0,
        };
        let data = encode(&path, &Json(task))?;
        let options = CreateOptions::new(CreateMode::Persistent).acl(self.acls());
        loop {
            let create = || self.client().create(&path, &data, options);
            match patient().run_idempotent(create).await {
                Ok(_) | Err(ClientError::NodeExists { .. }) => return Ok(()),
                Err(ClientError::NoNode { .. }) => {
                    create_parents(self.client(), &self.tasks_path(), self.acls()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All tasks by name. The server that answers catches up with the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] that names what is no task; [`Error::Client`] when the session ends, and
    /// with what a server refuses.
    pub async fn tasks(&self) -> Result<BTreeMap<String, Task>, Error> {
        values(&self.synced(self.tasks_path()).await?)
    }

    /// All workers by the names of their znodes. The server that answers catches up with the leader
    /// before.
    ///
    /// # Errors
    ///
    /// As for [`tasks`](Cluster::tasks).
    pub async fn workers(&self) -> Result<BTreeMap<String, WorkerInfo>, Error> {
        values(&self.synced(self.workers_path()).await?)
    }

    /// A copy of the children of a path, as of now or later.
    async fn synced(&self, path: String) -> Result<Cache, Error> {
        patient().run(|| self.client().sync(&path)).await?;
        let cache = Cache::with_depth(self.client(), path, 1);
        cache.ready().await?;
        Ok(cache)
    }

    fn client(&self) -> &Client {
        &self.settings.client
    }

    fn acls(&self) -> &[Acl<'static>] {
        &self.settings.acl
    }

    fn tasks_path(&self) -> String {
        join(self.path(), "tasks")
    }

    fn task_path(&self, task: &str) -> String {
        join(&self.tasks_path(), task)
    }

    fn workers_path(&self) -> String {
        join(self.path(), "workers")
    }

    /// Where a worker finds its tasks.
    fn assignments_path(&self, worker: &str) -> String {
        join(&join(self.path(), "assign"), worker)
    }
}

/// What the children of a path say, by name, with their versions.
fn read<T>(cache: &Cache) -> Result<BTreeMap<String, (T, i32)>, Error>
where
    Json<T>: Payload,
{
    let mut found = BTreeMap::new();
    for (path, CachedNode { data, stat }) in cache.snapshot() {
        let name = path.strip_prefix(cache.path());
        if let Some(name) = name.and_then(|name| name.strip_prefix('/')) {
            let Json(value) = decode(&path, &data)?;
            found.insert(name.to_owned(), (value, stat.version));
        }
    }
    Ok(found)
}

/// As [`read`], without the versions.
fn values<T>(cache: &Cache) -> Result<BTreeMap<String, T>, Error>
where
    Json<T>: Payload,
{
    let found = read(cache)?.into_iter();
    Ok(found.map(|(name, (value, _))| (name, value)).collect())
}
