//! Znodes under a name that nobody else uses, so that a create whose reply was lost is found again,
//! and none is left behind by a future that was dropped (spec: recipes, sections 2.2 and 2.5).

use std::sync::atomic::{AtomicBool, Ordering};

use quorate_client::{
    Acl, Client, CreateMode, CreateOptions, Error, ErrorCode, Outcome, RetryPolicy, SessionId,
    Stat, State, path,
};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::layout::Naming;

/// An ephemeral-sequential znode of this session, which is deleted when the value is dropped.
///
/// The value exists from before the request to create the znode goes out. Wherever a future that
/// holds it is dropped, the znode is deleted in the background: by its path once that is known, and
/// before by searching for its name.
#[derive(Debug)]
pub(crate) struct Protected {
    client: Client,
    parent: String,
    /// The name up to the server's number.
    prefix: String,
    existence: Existence,
}

#[derive(Debug)]
enum Existence {
    /// There surely is no such znode.
    No,
    /// A create is under way, or ended without an answer.
    Maybe,
    /// It was created at this path.
    At(String),
}

/// What became of a create without an answer.
enum Search {
    Found(String, Stat),
    Absent,
    /// A znode has the name and belongs to somebody else.
    Taken,
}

impl Protected {
    /// Creates a znode, and its parents as containers where they are missing. Answers the number of
    /// the transaction that created it as well.
    ///
    /// Lost connections are survived for as long as the session lives.
    pub(crate) async fn create(
        client: &Client,
        parent: &str,
        naming: Naming,
        data: &str,
        acl: &[Acl<'_>],
    ) -> Result<(Self, i64), Error> {
        let mut node = Protected::planned(client, parent, naming);
        let options = CreateOptions::new(CreateMode::EphemeralSequential).acl(acl);
        loop {
            let pattern = join(parent, &node.prefix);
            if client.state() == State::ConnectedReadOnly {
                return Err(Error::ReadOnly { path: pattern });
            }
            node.existence = Existence::Maybe;
            let created = patient()
                .run(|| client.create(&pattern, data, options))
                .await;
            let error = match created {
                Ok(created) => {
                    node.existence = Existence::At(created.path);
                    return Ok((node, created.stat.czxid));
                }
                Err(error) => error,
            };
            if error.outcome() == Outcome::DidNotHappen {
                node.existence = Existence::No;
                match error {
                    Error::NoNode { .. } => create_parents(client, parent, acl).await?,
                    error => return Err(error),
                }
                continue;
            }
            debug!(path = %pattern, %error, "looking for a znode whose creation was not answered");
            match node.search().await? {
                Search::Found(path, stat) => {
                    node.existence = Existence::At(path);
                    return Ok((node, stat.czxid));
                }
                Search::Absent => {}
                // The old value deletes what it finds under its name.
                Search::Taken => node = Protected::planned(client, parent, naming),
            }
        }
    }

    fn planned(client: &Client, parent: &str, naming: Naming) -> Self {
        Protected {
            client: client.clone(),
            parent: parent.to_owned(),
            prefix: naming.prefix(Uuid::new_v4()),
            existence: Existence::No,
        }
    }

    /// Where the znode is.
    pub(crate) fn path(&self) -> &str {
        match &self.existence {
            Existence::At(path) => path,
            // Only values whose znode was created are handed out.
            Existence::No | Existence::Maybe => &self.parent,
        }
    }

    /// The name of the znode.
    pub(crate) fn name(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    async fn search(&self) -> Result<Search, Error> {
        let names = named(&self.client, &self.parent, &self.prefix).await?;
        let Some(name) = names.into_iter().next() else {
            return Ok(Search::Absent);
        };
        let path = join(&self.parent, &name);
        let found = patient().run(|| self.client.exists(&path)).await?;
        Ok(match found {
            None => Search::Absent,
            Some(stat) if is_own(&self.client, &stat) => Search::Found(path, stat),
            Some(_) => Search::Taken,
        })
    }

    /// Deletes the znode and waits until it is gone. Answers whether it had been there.
    ///
    /// Dropping the future leaves the rest to the background.
    pub(crate) async fn delete(mut self) -> Result<bool, Error> {
        let path = self.path().to_owned();
        let unanswered = AtomicBool::new(false);
        let delete = || async {
            let reply = self.client.delete(&path, None);
            reply.await.inspect_err(|error| {
                if error.outcome() != Outcome::DidNotHappen {
                    unanswered.store(true, Ordering::Relaxed);
                }
            })
        };
        let deleted = patient().run_idempotent(delete).await;
        self.existence = Existence::No;
        match deleted {
            Ok(()) => Ok(true),
            // Nobody else deletes it, so an earlier attempt did and its reply was lost.
            Err(Error::NoNode { .. }) => Ok(unanswered.into_inner()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.existence, Existence::No) {
            Existence::No => {}
            Existence::At(path) => self.client.delete_in_background(path),
            Existence::Maybe => {
                let (client, parent) = (self.client.clone(), self.parent.clone());
                let prefix = std::mem::take(&mut self.prefix);
                self.client.spawn(async move {
                    match named(&client, &parent, &prefix).await {
                        Ok(names) => names
                            .iter()
                            .for_each(|name| client.delete_in_background(join(&parent, name))),
                        // The znode goes with the session.
                        Err(error) if error.is_session_over() => {}
                        Err(error) => {
                            warn!(%parent, %prefix, %error, "cannot look for a znode to delete");
                        }
                    }
                });
            }
        }
    }
}

/// The children of `parent` whose names begin with `prefix`, as of now: what a lost request has
/// done may not have come yet to the server that answers, unless it is told to catch up first.
async fn named(client: &Client, parent: &str, prefix: &str) -> Result<Vec<String>, Error> {
    let listed = patient()
        .run(|| {
            let (synced, listed) = (client.sync(parent), client.get_children(parent));
            async {
                synced.await?;
                listed.await
            }
        })
        .await;
    match listed {
        Ok(mut names) => {
            names.retain(|name| name.starts_with(prefix));
            Ok(names)
        }
        Err(Error::NoNode { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Creates `path`, and what is missing above it, as containers: the servers reap them when they are
/// not used any more.
async fn create_parents(client: &Client, path: &str, acl: &[Acl<'_>]) -> Result<(), Error> {
    let mut missing = vec![path];
    while let Some(&path) = missing.last() {
        match create_container(client, path, acl).await {
            Ok(()) | Err(Error::NodeExists { .. }) => {
                missing.pop();
            }
            Err(error @ Error::NoNode { .. }) => match path::parent(path) {
                Some(parent) if parent != "/" => missing.push(parent),
                // Above it is only the chroot, which is not this client's to create.
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn create_container(client: &Client, path: &str, acl: &[Acl<'_>]) -> Result<(), Error> {
    let create = async |mode| {
        let options = CreateOptions::new(mode).acl(acl);
        let policy = patient();
        let created = policy.run_idempotent(|| client.create(path, "", options));
        created.await.map(drop)
    };
    match create(CreateMode::Container).await {
        // The server does not have containers.
        Err(Error::Server {
            code: ErrorCode::UNIMPLEMENTED,
            ..
        }) => create(CreateMode::Persistent).await,
        outcome => outcome,
    }
}

/// Does a znode belong to this very session?
pub(crate) fn is_own(client: &Client, stat: &Stat) -> bool {
    let owner = SessionId(stat.ephemeral_owner);
    client
        .session()
        .is_some_and(|session| session.id() == owner)
}

/// For as long as the session lives: requests wait for a connection by themselves, so this only
/// repeats those that were under way when it was lost.
pub(crate) fn patient() -> RetryPolicy {
    RetryPolicy::default().give_up_after(None)
}

/// The path of a child.
pub(crate) fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}
