//! The queue that recipes stand in: ephemeral-sequential children of one znode, each of which
//! watches the one in front of it (spec: recipes, sections 6.1 and 6.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_client::{Client, Error as ClientError, EventKind, SessionId, Stat};
use tokio::time::timeout;
use tracing::warn;

use crate::error::Error;
use crate::guard::{FencingToken, Guard};
use crate::hold::{Hold, reconfirm};
use crate::layout::{Child, Sequence};
use crate::protect::{Protected, Site, join, patient};

/// A queue whose znodes are at a site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue<'a>(pub(crate) Site<'a>);

/// A place in a queue, which is given up when the value is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    queue: Queue<'a>,
    node: Protected,
    /// The transaction that created the znode.
    czxid: i64,
    sequence: Sequence,
}

/// How a place stands in its queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nobody for whom it has to wait is in front.
    First,
    /// The contender at this path is the last one in front.
    Behind {
        path: String,
        /// Nobody else is in front.
        alone: bool,
    },
    /// The place's znode is gone.
    Vanished,
}

impl<'a> Queue<'a> {
    /// Waits until it is this contender's turn, behind everybody who came before.
    pub(crate) async fn acquire(self) -> Result<Guard, Error> {
        loop {
            let (place, turn) = self.enter().await?;
            // A place whose znode has gone is taken anew, at the end.
            if let Some(guard) = place.wait(turn).await? {
                return Ok(guard);
            }
        }
    }

    /// As [`acquire`](Queue::acquire), if nobody has to be waited for.
    pub(crate) async fn try_acquire(self) -> Result<Option<Guard>, Error> {
        loop {
            let (place, turn) = self.enter().await?;
            if let Turn::Behind { .. } = turn {
                return Ok(None);
            }
            if let Some(guard) = place.wait(turn).await? {
                return Ok(Some(guard));
            }
        }
    }

    /// Takes the place at the end, and looks who is in front of it.
    async fn enter(self) -> Result<(Place<'a>, Turn), Error> {
        // The list is asked for right behind the znode, and shows it then.
        let (created, names) = tokio::join!(biased; Protected::create(self.0), self.names());
        let (node, czxid) = created?;
        let Some(sequence) = self.0.naming.sequence(node.name()) else {
            let path = node.path().to_owned();
            return Err(Error::ForeignChild { path });
        };
        if sequence.is_soon_exhausted() {
            warn!(
                path = self.0.path,
                ?sequence,
                "the numbers of this path run out soon; use another path"
            );
        }
        let place = Place {
            queue: self,
            node,
            czxid,
            sequence,
        };
        let turn = match place.turn(names?).await? {
            // It was asked for more than once to create the znode.
            Turn::Vanished => place.look().await?,
            turn => turn,
        };
        Ok((place, turn))
    }

    /// All contenders by name, in no order; empty if the path does not exist.
    async fn names(self) -> Result<Vec<(String, Child)>, Error> {
        let Site { client, path, .. } = self.0;
        let names = match patient().run(|| client.get_children(path)).await {
            Ok(names) => names,
            Err(ClientError::NoNode { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut contenders = Vec::with_capacity(names.len());
        for name in names {
            match self.0.naming.read(&name) {
                Child::Unrelated => {}
                Child::Foreign => {
                    let path = join(path, &name);
                    return Err(Error::ForeignChild { path });
                }
                contender => contenders.push((name, contender)),
            }
        }
        Ok(contenders)
    }

    /// The path of who is in front of everybody, by the numbers.
    pub(crate) async fn first(self) -> Result<Option<String>, Error> {
        let names = self.names().await?.into_iter();
        let numbered = names.filter_map(|(name, contender)| match contender {
            Child::Rival(sequence) | Child::Fellow(sequence) => Some((name, sequence)),
            Child::Foreign | Child::Unrelated => None,
        });
        let first = numbered.min_by(|(_, a), (_, b)| a.behind(*b).cmp(&0));
        Ok(first.map(|(name, _)| join(self.0.path, &name)))
    }

    /// Everybody in the queue, in order. The server that answers catches up with the leader before.
    pub(crate) async fn contenders(self) -> Result<Vec<Contender>, Error> {
        let Site { client, path, .. } = self.0;
        let synced = client.sync(path);
        let names = self.names().await?;
        synced.await?;
        let paths = names.iter().map(|(name, _)| join(path, name));
        read_contenders(client, paths.collect()).await
    }
}

/// Waits for a grant for no longer than `within`.
pub(crate) async fn within<T>(
    path: &str,
    within: Duration,
    acquire: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(within, acquire).await.unwrap_or_else(|_| {
        let path = path.to_owned();
        Err(Error::TimedOut { path, within })
    })
}

/// Reads who is behind znodes, and puts them in the order in which they were created: that is the
/// order of their numbers, and decides also where servers have run out of numbers.
pub(crate) async fn read_contenders(
    client: &Client,
    paths: Vec<String>,
) -> Result<Vec<Contender>, Error> {
    let mut contenders = Vec::with_capacity(paths.len());
    for paths in paths.chunks(READS_AT_ONCE) {
        let reads: Vec<_> = paths.iter().map(|path| client.get_data(path)).collect();
        for (node, found) in paths.iter().zip(reads) {
            match found.await {
                Ok((data, stat)) => contenders.push(Contender::new(node.clone(), data, &stat)),
                // It has left since the list was made.
                Err(ClientError::NoNode { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    contenders.sort_by(|a, b| (a.token, &a.node).cmp(&(b.token, &b.node)));
    Ok(contenders)
}

/// How many contenders are read with one request behind the other.
const READS_AT_ONCE: usize = 512;

/// Somebody who holds something or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// The path of its znode.
    pub node: String,
    /// The token that its guard has, or will have.
    pub token: FencingToken,
    /// Its session; 0 if its znode belongs to none, and outlives its process.
    pub session: SessionId,
    /// Since when it holds or waits, by the leader's clock.
    pub since: SystemTime,
    /// What it says about itself, such as by [`Lock::data`](crate::Lock::data).
    pub data: Bytes,
}

impl Contender {
    pub(crate) fn new(node: String, data: Bytes, stat: &Stat) -> Self {
        Contender {
            node,
            token: FencingToken(stat.czxid),
            session: SessionId(stat.ephemeral_owner),
            since: UNIX_EPOCH + Duration::from_millis(u64::try_from(stat.ctime).unwrap_or(0)),
            data,
        }
    }
}

impl Place<'_> {
    /// Looks who is in front now.
    async fn look(&self) -> Result<Turn, Error> {
        self.turn(self.queue.names().await?).await
    }

    /// Who is in front, if these are all contenders.
    async fn turn(&self, contenders: Vec<(String, Child)>) -> Result<Turn, Error> {
        let (mut last, mut in_front, mut present) = (None, 0, false);
        for (name, contender) in contenders {
            if name == self.node.name() {
                present = true;
                continue;
            }
            let Child::Rival(sequence) = contender else {
                continue;
            };
            let distance = sequence.behind(self.sequence);
            if distance > 0 || (distance == 0 && !self.is_younger_than(&name).await?) {
                continue;
            }
            in_front += 1;
            if last.as_ref().is_none_or(|(nearest, _)| *nearest < distance) {
                last = Some((distance, name));
            }
        }
        Ok(match last {
            _ if !present => Turn::Vanished,
            None => Turn::First,
            Some((_, name)) => Turn::Behind {
                path: join(self.queue.0.path, &name),
                alone: in_front == 1,
            },
        })
    }

    /// Was the contender `name` created before this place? It decides between equal numbers, which
    /// servers give out once their counter stands at its end.
    async fn is_younger_than(&self, name: &str) -> Result<bool, Error> {
        let Site { client, path, .. } = self.queue.0;
        let path = join(path, name);
        let stat = patient().run(|| client.exists(&path)).await?;
        // The names decide between those that one transaction created.
        Ok(stat.is_some_and(|stat| (stat.czxid, name) < (self.czxid, self.node.name())))
    }

    /// Waits until nobody is in front, and makes a guard of the place; `None` if its znode is gone.
    /// One contender is watched at a time, so that a release wakes one waiter.
    async fn wait(self, mut turn: Turn) -> Result<Option<Guard>, Error> {
        let Site {
            client,
            path,
            naming,
            ..
        } = self.queue.0;
        let mut own = None;
        while let Turn::Behind { path, alone } = turn {
            // What will be needed then is asked for now.
            let confirmed = reconfirm(client, &self.node, own);
            (own, ()) = tokio::try_join!(confirmed, deleted(client, &path))?;
            let still = own.as_mut().is_some_and(|own| own.is_current(client));
            // Whoever has come meanwhile is behind.
            turn = match still && alone && naming.is_in_order() {
                true => Turn::First,
                false => self.look().await?,
            };
        }
        if turn == Turn::Vanished {
            return Ok(None);
        }
        let confirmed = reconfirm(client, &self.node, own).await?;
        Ok(confirmed.map(|confirmed| Guard::new(Hold::new(client, path, self.node, confirmed))))
    }
}

/// Waits until a znode is deleted. Its data may be set meanwhile.
pub(crate) async fn deleted(client: &Client, path: &str) -> Result<(), ClientError> {
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
