//! The worker.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use quorate_client::{CreateMode, Error as ClientError};
use tokio::sync::watch;
use tracing::instrument;

use super::{Cluster, STOP, Task, TaskState, WorkerInfo};
use crate::cache::Cache;
use crate::chance::unique;
use crate::changes::look_synced;
use crate::error::Error;
use crate::guard::{FencedTransaction, Guard};
use crate::hold::{Hold, LostReason, confirm};
use crate::layout::Layout;
use crate::payload::{Json, decode, encode};
use crate::protect::join;
use crate::settings::Settings;

/// Tasks that are served, by name.
type Served = Arc<BTreeMap<String, ServedTask>>;

/// A worker of a [`Cluster`]. Dropping it leaves the cluster.
#[derive(Debug)]
#[must_use = "dropping it leaves the cluster"]
pub struct Worker {
    guard: Arc<Guard>,
    name: String,
    info: WorkerInfo,
    current: watch::Receiver<Result<Served, Error>>,
}

/// A task that a worker serves, for as long as it has this: the master gives the task to another one
/// only when every clone of it is dropped, or the worker's session is over.
///
/// It is a [`Guard`] of the worker's membership; its [`transaction`](ServedTask::transaction) also
/// checks that the task is this worker's.
#[derive(Debug, Clone)]
#[must_use = "dropping it gives up the task"]
pub struct ServedTask {
    guard: Arc<Guard>,
    /// The znode that is there while the task is this worker's.
    assignment: String,
    epoch: u64,
    /// Tells the worker when the last clone is dropped.
    _in_use: watch::Receiver<()>,
}

impl Worker {
    /// Joins a cluster, and waits until its master can see it.
    ///
    /// # Errors
    ///
    /// As for [`Group::join`](crate::Group::join).
    ///
    /// Cancel safe: dropping the future leaves nothing behind.
    #[instrument(name = "Worker::join", level = "debug", skip_all, fields(path = cluster.path()))]
    pub async fn join(cluster: &Cluster, info: &WorkerInfo) -> Result<Self, Error> {
        // Another one under the same id, such as the next life of this process, is another worker.
        let name = format!("{},{}", info.id, unique(cluster.client()).simple());
        let path = cluster.workers_path();
        let settings = Settings {
            data: encode(&path, &Json(info.clone()))?,
            path,
            ..cluster.settings.clone()
        };
        let site = settings.site(Layout::default().unique());
        let planned = site.plan_named(name.clone(), CreateMode::Ephemeral);
        let lost = |reason| {
            let path = join(site.path, &name);
            Error::Lost { path, reason }
        };
        let created = planned.create_at(site).await?;
        let (node, _) = created.ok_or_else(|| lost(LostReason::NodeDeleted))?;
        let confirmed = confirm(site.client, &node).await?;
        let confirmed = confirmed.ok_or_else(|| lost(LostReason::NodeDeleted))?;
        let hold = Hold::new(site.client, cluster.path(), node, confirmed);
        let guard = Arc::new(Guard::new(hold));
        let (served, current) = watch::channel(Ok(Served::default()));
        let mut servant = Servant {
            cluster: cluster.clone(),
            name: name.clone(),
            guard: Arc::clone(&guard),
            in_use: BTreeMap::new(),
            closing: FuturesUnordered::new(),
            served,
        };
        cluster.client().spawn(async move {
            let (left, lost) = (servant.served.clone(), servant.guard.lost());
            tokio::select! {
                biased;
                () = left.closed() => {}
                reason = lost => {
                    drop(left.send_replace(Err(servant.guard.lost_as(reason))));
                }
                error = servant.run() => drop(left.send_replace(Err(error))),
            }
        });
        Ok(Worker {
            guard,
            name,
            info: info.clone(),
            current,
        })
    }

    /// The name of its znode, by which tasks name their worker.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells everybody how busy it is, as [`WorkerInfo::load`].
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if it is no worker any more; [`Error::Client`] with what a server refuses.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn report(&self, load: u64) -> Result<(), Error> {
        let info = WorkerInfo {
            load,
            ..self.info.clone()
        };
        let data = encode(self.guard.node(), &Json(info))?;
        self.guard.set_data(&data).await
    }

    /// What it serves now, by name.
    pub fn tasks(&self) -> Arc<BTreeMap<String, ServedTask>> {
        self.current.borrow().clone().unwrap_or_default()
    }

    /// Waits until it serves something else.
    ///
    /// # Errors
    ///
    /// Why it is no worker any more: [`Error::Lost`], or what a server refused. Nothing is served
    /// then.
    ///
    /// Cancel safe.
    pub async fn changed(&mut self) -> Result<(), Error> {
        if let Err(error) = &*self.current.borrow() {
            return Err(error.clone());
        }
        if self.current.changed().await.is_err() {
            return Err(ClientError::Closed.into());
        }
        let outcome = self.current.borrow_and_update().clone();
        outcome.map(drop)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Tasks that are still in use are lost with it.
        self.guard.lose(LostReason::Released);
    }
}

impl Deref for Worker {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl ServedTask {
    /// How often the task was given to a worker: a larger number is a later one. Stores that refuse
    /// smaller numbers than they have seen are safe from workers that do not know yet that they have
    /// lost the task.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The znodes that are there while the task is this worker's. A transaction that checks both is
    /// fenced as [`transaction`](ServedTask::transaction) is, also in another session.
    pub fn fences(&self) -> [&str; 2] {
        [self.guard.node(), &self.assignment]
    }

    /// Writes that happen all together, and only while this worker serves the task; see
    /// [`Guard::transaction`].
    pub fn transaction(&self) -> FencedTransaction {
        self.guard.transaction().fence(&self.assignment)
    }
}

impl Deref for ServedTask {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

/// The task of a worker.
struct Servant {
    cluster: Cluster,
    name: String,
    guard: Arc<Guard>,
    /// What is served, with what tells when it is not used any more.
    in_use: BTreeMap<String, watch::Sender<()>>,
    /// What is not to be served any more.
    closing: FuturesUnordered<BoxFuture<'static, (String, watch::Sender<()>)>>,
    served: watch::Sender<Result<Served, Error>>,
}

impl Servant {
    async fn run(&mut self) -> Error {
        match self.serve().await {
            Ok(()) => ClientError::Closed.into(),
            Err(error) => error,
        }
    }

    async fn serve(&mut self) -> Result<(), Error> {
        let path = self.cluster.assignments_path(&self.name);
        let assignments = Cache::with_depth(self.cluster.client(), path, 1);
        let mut events = assignments.events();
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => drop(event?),
                    None => return Ok(()),
                },
                // It may be this worker's again.
                Some((task, _)) = self.closing.next() => self.closed(&task).await?,
            }
            self.adjust(&assigned(&assignments)).await?;
        }
    }

    /// Opens what is assigned, and stops what is not any more.
    async fn adjust(&mut self, assigned: &BTreeSet<String>) -> Result<(), Error> {
        let before = self.served.borrow().clone()?;
        let mut served = (*before).clone();
        drop(before);
        let gone: Vec<_> = served
            .keys()
            .filter(|task| !assigned.contains(*task))
            .cloned()
            .collect();
        for task in gone {
            drop(served.remove(&task));
            if let Some(in_use) = self.in_use.remove(&task) {
                let unused = async move {
                    in_use.closed().await;
                    (task, in_use)
                };
                self.closing.push(unused.boxed());
            }
        }
        self.publish(&served);
        for task in assigned {
            if !served.contains_key(task)
                && let Some(opened) = self.open(task).await?
            {
                served.insert(task.clone(), opened);
                self.publish(&served);
            }
        }
        Ok(())
    }

    fn publish(&self, served: &BTreeMap<String, ServedTask>) {
        self.served.send_if_modified(|current| {
            let same = matches!(current, Ok(now) if now.keys().eq(served.keys()));
            if !same {
                *current = Ok(Arc::new(served.clone()));
            }
            !same
        });
    }

    /// Takes up a task that the master has given to this worker; `None` if it has changed its mind.
    async fn open(&mut self, name: &str) -> Result<Option<ServedTask>, Error> {
        let opened = self.change(name, TaskState::Opening, TaskState::Open);
        let Some(task) = opened.await? else {
            return Ok(None);
        };
        let (in_use, alive) = watch::channel(());
        self.in_use.insert(name.to_owned(), in_use);
        Ok(Some(ServedTask {
            guard: Arc::clone(&self.guard),
            assignment: join(&self.cluster.assignments_path(&self.name), name),
            epoch: task.epoch,
            _in_use: alive,
        }))
    }

    /// Tells the master that a task is not served any more.
    async fn closed(&mut self, name: &str) -> Result<(), Error> {
        let closed = self.change(name, TaskState::Closing, TaskState::Offline);
        closed.await.map(drop)
    }

    /// Takes a task of this worker from one state to another; `None` if it is not in that state.
    async fn change(
        &mut self,
        name: &str,
        from: TaskState,
        to: TaskState,
    ) -> Result<Option<Task>, Error> {
        let path = self.cluster.task_path(name);
        loop {
            let Some((data, stat)) = look_synced(self.cluster.client(), &path).await? else {
                return Ok(None);
            };
            let Json(mut task) = decode::<Json<Task>>(&path, &data)?;
            if task.worker.as_deref() != Some(&self.name) {
                return Ok(None);
            }
            // Where the reply of an earlier attempt was lost, it is in that state already.
            if task.state == to {
                return Ok(Some(task));
            }
            if task.state != from {
                return Ok(None);
            }
            task.state = to;
            if to == TaskState::Offline {
                task.worker = None;
            }
            let data = encode(&path, &Json(task.clone()))?;
            let mut write = self
                .guard
                .transaction()
                .set_data(&path, &data, stat.version);
            if to == TaskState::Offline {
                let assignments = self.cluster.assignments_path(&self.name);
                write = write.delete(&join(&assignments, name), None);
            }
            match write.commit().await {
                Ok(_) => return Ok(Some(task)),
                Err(Error::Client(ClientError::Transaction { source, .. }))
                    if matches!(
                        *source,
                        ClientError::BadVersion { .. } | ClientError::NoNode { .. }
                    ) => {}
                Err(Error::Client(error)) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The tasks that a worker is to serve.
fn assigned(assignments: &Cache) -> BTreeSet<String> {
    let nodes = assignments.snapshot().into_iter();
    let wanted = nodes.filter(|(_, node)| node.data != STOP);
    wanted
        .filter_map(|(path, _)| {
            let name = path.strip_prefix(assignments.path())?;
            Some(name.strip_prefix('/')?.to_owned())
        })
        .collect()
}
