//! The queue that recipes stand in: ephemeral-sequential children of one znode, each of which
//! watches the one in front of it (spec: recipes, section 6.1).

use quorate_client::{Acl, Client, Error as ClientError, EventKind};
use tracing::warn;

use crate::error::Error;
use crate::layout::{Child, Naming, Sequence};
use crate::protect::{Protected, join, patient};

/// Where a recipe's queue is, and what its znodes are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue<'a> {
    pub(crate) client: &'a Client,
    pub(crate) path: &'a str,
    pub(crate) naming: Naming,
}

/// A place in a queue, which is given up when the value is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    queue: Queue<'a>,
    pub(crate) node: Protected,
    /// The transaction that created the znode.
    pub(crate) czxid: i64,
    sequence: Sequence,
}

/// How a place stands in its queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nobody is in front.
    First,
    /// The contender at this path is the last one in front.
    Behind(String),
    /// The place's znode is gone.
    Vanished,
}

impl<'a> Queue<'a> {
    /// Takes the place at the end.
    pub(crate) async fn enter(self, data: &str, acl: &[Acl<'_>]) -> Result<Place<'a>, Error> {
        let created = Protected::create(self.client, self.path, self.naming, data, acl).await;
        let (node, czxid) = created?;
        let Child::Contender(sequence) = self.naming.read(node.name()) else {
            let path = node.path().to_owned();
            return Err(Error::ForeignChild { path });
        };
        if sequence.is_soon_exhausted() {
            warn!(
                path = self.path,
                ?sequence,
                "the numbers of this path run out soon; use another path"
            );
        }
        Ok(Place {
            queue: self,
            node,
            czxid,
            sequence,
        })
    }

    /// All contenders by name, in no order; empty if the path does not exist.
    pub(crate) async fn contenders(self) -> Result<Vec<(String, Sequence)>, Error> {
        let names = match patient().run(|| self.client.get_children(self.path)).await {
            Ok(names) => names,
            Err(ClientError::NoNode { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut contenders = Vec::with_capacity(names.len());
        for name in names {
            match self.naming.read(&name) {
                Child::Contender(sequence) => contenders.push((name, sequence)),
                Child::Unrelated => {}
                Child::Foreign => {
                    let path = join(self.path, &name);
                    return Err(Error::ForeignChild { path });
                }
            }
        }
        Ok(contenders)
    }
}

impl Place<'_> {
    /// Looks who is in front now.
    pub(crate) async fn turn(&self) -> Result<Turn, Error> {
        let contenders = self.queue.contenders().await?;
        let (mut last, mut present) = (None, false);
        for (name, sequence) in contenders {
            if name == self.node.name() {
                present = true;
                continue;
            }
            let distance = sequence.behind(self.sequence);
            if distance > 0 || (distance == 0 && !self.is_younger_than(&name).await?) {
                continue;
            }
            if last.as_ref().is_none_or(|(nearest, _)| *nearest < distance) {
                last = Some((distance, name));
            }
        }
        Ok(match last {
            _ if !present => Turn::Vanished,
            None => Turn::First,
            Some((_, name)) => Turn::Behind(join(self.queue.path, &name)),
        })
    }

    /// Was the contender `name` created before this place? It decides between equal numbers, which
    /// servers give out once their counter stands at its end.
    async fn is_younger_than(&self, name: &str) -> Result<bool, Error> {
        let path = join(self.queue.path, name);
        let stat = patient().run(|| self.queue.client.exists(&path)).await?;
        // The names decide between those that one transaction created.
        Ok(stat.is_some_and(|stat| (stat.czxid, name) < (self.czxid, self.node.name())))
    }

    /// Waits until nobody is in front. One contender is watched at a time, so that a release wakes
    /// one waiter. False if the place's znode is gone.
    pub(crate) async fn wait(&self) -> Result<bool, Error> {
        loop {
            match self.turn().await? {
                Turn::First => return Ok(true),
                Turn::Vanished => return Ok(false),
                Turn::Behind(path) => deleted(self.queue.client, &path).await?,
            }
        }
    }
}

/// Waits until a znode is deleted. Its data may be set meanwhile.
async fn deleted(client: &Client, path: &str) -> Result<(), ClientError> {
    loop {
        // Unlike the watch of an existence check, this one is not left behind when the znode is
        // gone already.
        match patient().run(|| client.get_data_watched(path)).await {
            Ok((_, _, watch)) => {
                if watch.await?.kind == EventKind::Deleted {
                    return Ok(());
                }
            }
            Err(ClientError::NoNode { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
