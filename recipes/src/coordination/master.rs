//! The master.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::select;
use quorate_client::{CreateMode, CreateOptions, Error as ClientError};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, instrument};

use super::plan::{Step, plan};
use super::{Cluster, STOP, Task, TaskState, read, values};
use crate::election::{Election, Leadership};
use crate::error::Error;
use crate::guard::FencingToken;
use crate::payload::{Json, encode};
use crate::protect::{create_parents, join, patient};

/// After how long a step of unknown outcome is planned again, if no event does so before.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// One of those who can be the active master of a [`Cluster`]; from [`Cluster::master`].
#[derive(Debug)]
#[must_use = "a master does nothing until it runs"]
pub struct Master {
    cluster: Cluster,
    election: Election,
    active: watch::Sender<Option<FencingToken>>,
}

/// Tasks with their versions.
type Tasks = BTreeMap<String, (Task, i32)>;

impl Master {
    pub(super) fn new(cluster: &Cluster, id: String) -> Self {
        Master {
            cluster: cluster.clone(),
            election: cluster.election().data(id),
            active: watch::Sender::new(None),
        }
    }

    /// A channel that holds the token of the leadership while this master is active.
    pub fn watch_active(&self) -> watch::Receiver<Option<FencingToken>> {
        self.active.subscribe()
    }

    /// Stands by until it leads, assigns tasks to workers while it does, and stands by again, until
    /// that is not possible any more: it ends with the session, or if a server refuses.
    ///
    /// Cancel safe: dropping the future resigns, and leaves everything to the next master.
    #[instrument(name = "Master::run", level = "debug", skip_all, fields(path = self.cluster.path()))]
    pub async fn run(&self) -> Error {
        loop {
            let leadership = match self.election.campaign().await {
                Ok(leadership) => leadership,
                Err(error) => return error,
            };
            info!(path = self.cluster.path(), token = %leadership.fencing_token(), "active");
            self.active.send_replace(Some(leadership.fencing_token()));
            let ended = tokio::select! {
                biased;
                _ = leadership.lost() => None,
                error = self.govern(&leadership) => Some(error),
            };
            self.active.send_replace(None);
            match ended {
                // Another one leads, or soon does.
                None | Some(Error::Lost { .. }) => {}
                Some(error) => return error,
            }
        }
    }

    /// Does what is to be done, after each change of a worker or a task.
    async fn govern(&self, leadership: &Leadership) -> Error {
        match self.try_govern(leadership).await {
            Ok(()) => ClientError::Closed.into(),
            Err(error) => error,
        }
    }

    async fn try_govern(&self, leadership: &Leadership) -> Result<(), Error> {
        // Whatever masters before did is seen from here on, since nobody else writes any more.
        let workers = self.cluster.synced(self.cluster.workers_path()).await?;
        let tasks = self.cluster.synced(self.cluster.tasks_path()).await?;
        let mut changes = select(workers.events(), tasks.events());
        let mut settled = true;
        loop {
            tokio::select! {
                biased;
                change = changes.next() => match change {
                    Some(change) => drop(change?),
                    None => return Ok(()),
                },
                () = sleep(SECOND_LOOK), if !settled => {}
            }
            let known = values(&workers)?;
            let found: Tasks = read(&tasks)?;
            let states = found
                .iter()
                .map(|(name, (task, _))| (name.clone(), task.clone()));
            settled = true;
            for step in plan(&known, &states.collect()) {
                settled &= self.execute(leadership, &step, &found).await?;
            }
        }
    }

    /// Takes a step, unless the task has changed meanwhile, which is an event to come. False if nobody
    /// knows whether it was taken.
    async fn execute(
        &self,
        leadership: &Leadership,
        step: &Step,
        tasks: &Tasks,
    ) -> Result<bool, Error> {
        debug!(path = self.cluster.path(), ?step);
        let (name, worker) = match step {
            Step::Free(name) | Step::Close(name) => (name, None),
            Step::Assign(name, worker) => (name, Some(worker)),
        };
        let Some((task, version)) = tasks.get(name) else {
            return Ok(true);
        };
        let next = match step {
            Step::Free(_) => Task {
                state: TaskState::Offline,
                worker: None,
                epoch: task.epoch,
            },
            Step::Close(_) => Task {
                state: TaskState::Closing,
                ..task.clone()
            },
            Step::Assign(..) => Task {
                state: TaskState::Opening,
                worker: worker.cloned(),
                epoch: task.epoch + 1,
            },
        };
        if matches!(step, Step::Free(_)) && !self.is_gone(task).await? {
            return Ok(true);
        }
        let path = self.cluster.task_path(name);
        let data = encode(&path, &Json(next))?;
        let owner = worker.or(task.worker.as_ref());
        let directory = self
            .cluster
            .assignments_path(owner.map_or("", String::as_str));
        let assignment = join(&directory, name);
        let options = CreateOptions::new(CreateMode::Persistent).acl(self.cluster.acls());
        let write = || leadership.transaction().set_data(&path, &data, *version);
        if worker.is_some() {
            create_parents(self.cluster.client(), &directory, self.cluster.acls()).await?;
        }
        let written = match step {
            Step::Assign(..) => write().create(&assignment, "", options).commit().await,
            Step::Close(_) => write().set_data(&assignment, STOP, None).commit().await,
            Step::Free(_) => match write().delete(&assignment, None).commit().await {
                // It was the worker's last deed to delete it.
                Err(Error::Client(ClientError::Transaction { index: 1, .. })) => {
                    write().commit().await
                }
                outcome => outcome,
            },
        };
        settled(written)
    }

    /// Is the worker that has the task gone for good? Names of workers are not used again, and a
    /// worker is there before it gets a task.
    async fn is_gone(&self, task: &Task) -> Result<bool, Error> {
        let Some(worker) = &task.worker else {
            return Ok(true);
        };
        let client = self.cluster.client();
        let path = join(&self.cluster.workers_path(), worker);
        let look = || {
            let (synced, found) = (client.sync(&path), client.exists(&path));
            async {
                synced.await?;
                found.await
            }
        };
        Ok(patient().run(look).await?.is_none())
    }
}

/// Passes over what the next look at the tasks settles by itself.
fn settled<T>(outcome: Result<T, Error>) -> Result<bool, Error> {
    match outcome {
        Ok(_) => Ok(true),
        // Somebody was quicker.
        Err(Error::Client(ClientError::Transaction { source, .. }))
            if matches!(
                *source,
                ClientError::BadVersion { .. }
                    | ClientError::NoNode { .. }
                    | ClientError::NodeExists { .. }
            ) =>
        {
            Ok(true)
        }
        Err(Error::Client(error)) if error.is_transient() => Ok(false),
        Err(error) => Err(error),
    }
}
