//! A znode that is kept where it should be (spec: recipes, section 3.8).

use bytes::Bytes;
use quorate_client::{
    Acl, Client, CreateMode, CreateOptions, Error as ClientError, OPEN_ACL, OneshotWatch,
    SessionId, Stat, path,
};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::changes::{Found, look, look_synced};
use crate::error::Error;
use crate::protect::{create_parents, delete_found, is_own, patient};

/// An ephemeral znode that is there for as long as the value and the session live.
///
/// A task compares what is there with what should be: it creates the znode when it is missing, also
/// after somebody has deleted it, and writes its data when that is another. A znode of another
/// session is left alone and waited for: so one that a process has left behind when it was killed is
/// replaced as soon as it has expired, and not taken for the new one.
///
/// Within one session, only one value may be in charge of a path.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::PersistentNode;
///
/// let node = PersistentNode::new(&client, "/up/host-7", "starting");
/// node.present().await?;
/// node.set("running");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the znode is deleted when this is dropped"]
pub struct PersistentNode {
    path: String,
    desired: watch::Sender<Desired>,
    state: watch::Receiver<NodeState>,
}

/// How a [`PersistentNode`] stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NodeState {
    /// It is being created.
    Absent,
    /// It is there, with the data that it should have.
    Present,
    /// The path belongs to another session, whose end is waited for.
    Taken {
        /// The session; 0 if the znode belongs to none.
        owner: SessionId,
    },
    /// It is not looked after any more, for this reason. Final.
    Ended(Error),
}

#[derive(Debug, Clone)]
struct Desired {
    data: Bytes,
    closed: bool,
}

impl PersistentNode {
    /// Keeps a znode with this data at `path`, in the background. Missing parents are created.
    pub fn new(client: &Client, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        PersistentNode::with_acl(client, path, data, OPEN_ACL.to_vec())
    }

    /// As [`new`](PersistentNode::new), for those whom the ACL permits.
    pub fn with_acl(
        client: &Client,
        path: impl Into<String>,
        data: impl Into<Bytes>,
        acl: impl Into<Vec<Acl<'static>>>,
    ) -> Self {
        let path = path.into();
        let data = data.into();
        let desired = watch::Sender::new(Desired {
            data,
            closed: false,
        });
        let state = watch::Sender::new(NodeState::Absent);
        let (receiver, keeper) = (
            state.subscribe(),
            Keeper {
                client: client.clone(),
                path: path.clone(),
                acl: acl.into(),
                state,
            },
        );
        client.spawn(keeper.run(desired.subscribe()));
        PersistentNode {
            path,
            desired,
            state: receiver,
        }
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How it stands now.
    pub fn state(&self) -> NodeState {
        self.state.borrow().clone()
    }

    /// A channel that holds the state and tells of its changes.
    pub fn watch_state(&self) -> watch::Receiver<NodeState> {
        self.state.clone()
    }

    /// Changes the data, soon.
    pub fn set(&self, data: impl Into<Bytes>) {
        let data = data.into();
        self.desired.send_if_modified(|desired| {
            let changes = desired.data != data;
            desired.data = data;
            changes
        });
    }

    /// Waits until it is there. The data that was [set](PersistentNode::set) last may still follow.
    ///
    /// # Errors
    ///
    /// Why it is not looked after any more: the session has ended, or a server refuses.
    ///
    /// Cancel safe.
    pub async fn present(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        let settled =
            state.wait_for(|state| matches!(state, NodeState::Present | NodeState::Ended(_)));
        match settled.await.as_deref() {
            Ok(NodeState::Present) => Ok(()),
            Ok(NodeState::Ended(error)) => Err(error.clone()),
            _ => Err(ClientError::Closed.into()),
        }
    }

    /// Waits until it is not looked after any more, and answers why. The future does not borrow the
    /// value.
    ///
    /// Cancel safe.
    pub fn ended(&self) -> impl Future<Output = Error> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            let ended = state.wait_for(|state| matches!(state, NodeState::Ended(_)));
            match ended.await.as_deref() {
                Ok(NodeState::Ended(error)) => error.clone(),
                _ => ClientError::Closed.into(),
            }
        }
    }

    /// Deletes the znode, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// What a server refuses.
    ///
    /// Cancel safe: dropping the future leaves the rest to the background.
    pub async fn close(self) -> Result<(), Error> {
        self.desired.send_modify(|desired| desired.closed = true);
        match self.ended().await {
            Error::Client(ClientError::Closed) => Ok(()),
            error if error.is_session_over() => Ok(()),
            error => Err(error),
        }
    }
}

struct Keeper {
    client: Client,
    path: String,
    acl: Vec<Acl<'static>>,
    state: watch::Sender<NodeState>,
}

impl Keeper {
    async fn run(self, mut desired: watch::Receiver<Desired>) {
        let mut wanted = desired.clone();
        let closed = async { drop(wanted.wait_for(|desired| desired.closed).await) };
        let ended = tokio::select! {
            biased;
            () = closed => None,
            error = self.keep(&mut desired) => Some(error),
        };
        // Whatever was under way, what is there now and is this session's own goes.
        let deleted = match look_synced(&self.client, &self.path).await {
            Ok(found) => {
                let own = found.map(|(_, stat)| stat).filter(|stat| self.owns(stat));
                delete_found(&self.client, &self.path, Ok(own.map(|stat| stat.czxid))).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        let error = ended.or(deleted.err()).unwrap_or(ClientError::Closed);
        match &error {
            ClientError::Closed => {}
            error => warn!(path = self.path, %error, "a znode is not looked after any more"),
        }
        self.state.send_replace(NodeState::Ended(error.into()));
    }

    fn owns(&self, stat: &Stat) -> bool {
        is_own(&self.client, stat)
    }

    /// Makes what is there what should be there, until that is not possible any more.
    async fn keep(&self, desired: &mut watch::Receiver<Desired>) -> ClientError {
        loop {
            let data = desired.borrow_and_update().data.clone();
            let step = async {
                let (found, watch) = look(&self.client, &self.path).await?;
                match self.adjust(found, &data).await? {
                    true => Ok(None),
                    false => Ok::<Option<OneshotWatch>, ClientError>(Some(watch)),
                }
            };
            match step.await {
                Err(error) => return error,
                // What was done is looked at.
                Ok(None) => {}
                Ok(Some(watch)) => tokio::select! {
                    biased;
                    event = watch => if let Err(error) = event {
                        return error;
                    },
                    Ok(()) = desired.changed() => {}
                },
            }
        }
    }

    /// Brings the znode nearer to what it should be; false if there is nothing to do.
    async fn adjust(&self, found: Found, data: &Bytes) -> Result<bool, ClientError> {
        let Self {
            client, path, acl, ..
        } = self;
        let state = match found {
            None => {
                self.change(NodeState::Absent);
                let options = CreateOptions::new(CreateMode::Ephemeral).acl(acl);
                let create = || client.create(path, data, options);
                match patient().run_idempotent(create).await {
                    Ok(_) | Err(ClientError::NodeExists { .. }) => {}
                    Err(error @ ClientError::NoNode { .. }) => match path::parent(path) {
                        Some(parent) if parent != "/" => {
                            create_parents(client, parent, acl).await?;
                        }
                        _ => return Err(error),
                    },
                    Err(error) => return Err(error),
                }
                return Ok(true);
            }
            Some((found, stat)) if self.owns(&stat) => {
                if found != *data {
                    let set = || client.set_data(path, data, stat.version);
                    match patient().run_idempotent(set).await {
                        Ok(_)
                        | Err(ClientError::NoNode { .. } | ClientError::BadVersion { .. }) => {}
                        Err(error) => return Err(error),
                    }
                    return Ok(true);
                }
                NodeState::Present
            }
            Some((_, stat)) => NodeState::Taken {
                owner: SessionId(stat.ephemeral_owner),
            },
        };
        self.change(state);
        Ok(false)
    }

    fn change(&self, to: NodeState) {
        debug!(path = self.path, state = ?to, "looked after");
        self.state.send_replace(to);
    }
}
