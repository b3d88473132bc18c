//! The exclusive lock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_client::{Acl, Client, Error as ClientError, OPEN_ACL, SessionId};
use tokio::time::timeout;

use crate::error::Error;
use crate::guard::{FencingToken, Guard};
use crate::hold::{Hold, confirm};
use crate::layout::Layout;
use crate::protect::join;
use crate::queue::{Place, Queue, Turn};

/// A lock that at most one holds, over all processes that use the same path.
///
/// Contenders get it in the order in which they asked. Each release wakes one of them. A lock is
/// nothing but settings: it can be cloned, shared, and acquired any number of times, also by
/// several tasks at once, which then exclude each other.
///
/// With [`Layout::Curator`], the default, it excludes Curator's `InterProcessMutex` on the same
/// path, with [`Layout::Kazoo`] kazoo's `Lock`.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate_recipes::{Client, Lock};
///
/// let client = Client::connect("zk1:2181,zk2:2181,zk3:2181").await?;
/// let lock = Lock::new(&client, "/locks/billing").data("host-7");
///
/// let guard = lock.acquire().await?;
/// println!("the lock is mine, as grant {}", guard.fencing_token());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # When the connection is lost
///
/// | | who waits | who holds |
/// |---|---|---|
/// | the connection is away | keeps its place and waits on | is [`Suspect`](crate::HoldState::Suspect), and still holds the lock |
/// | it is back in time | goes on | holds it, once a server has confirmed that |
/// | the ensemble can have expired the session | waits on | has [`Lost`](crate::HoldState::Lost) it for good |
/// | the session has expired | fails with [`quorate_client::Error::SessionExpired`] | has lost it by then |
/// | somebody deletes its znode | takes a new place, at the end | has lost it |
///
/// # Cancellation
///
/// Every future may be dropped at any time. Whatever it has left on the servers by then is deleted
/// in the background, also if it is not known yet whether there is anything.
#[derive(Debug, Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct Lock {
    client: Client,
    path: String,
    layout: Layout,
    data: String,
    acl: Vec<Acl<'static>>,
}

impl Lock {
    /// The lock at `path`, where nothing but this lock may keep children. The znode is created when
    /// it is needed, as a container, which the servers reap when it is not.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Lock {
            client: client.clone(),
            path: path.into(),
            layout: Layout::default(),
            data: String::new(),
            acl: OPEN_ACL.to_vec(),
        }
    }

    /// Names the znodes as another library does.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// What others find in the znodes of this contender, such as the name of its host; nothing
    /// unless set. Text, because kazoo reads it as such.
    pub fn data(mut self, data: impl Into<String>) -> Self {
        self.data = data.into();
        self
    }

    /// Who may do what with the znodes that are created; everybody everything unless set.
    /// Contenders must be able to read the path, and to create and delete its children.
    pub fn acl(mut self, acl: impl Into<Vec<Acl<'static>>>) -> Self {
        self.acl = acl.into();
        self
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Waits until the lock is held, behind everybody who came before. Losses of the connection are
    /// survived, and the place in the queue with them.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignChild`]; [`Error::Client`] with [`quorate_client::Error::SessionExpired`] if
    /// the session ends meanwhile, and with what else a server refuses.
    ///
    /// Cancel safe in this sense: dropping the future gives up the place in the queue and leaves
    /// nothing behind.
    pub async fn acquire(&self) -> Result<Guard, Error> {
        loop {
            let place = self.queue().enter(&self.data, &self.acl).await?;
            // A place whose znode has gone is taken anew, at the end.
            if place.wait().await?
                && let Some(guard) = self.grant(place).await?
            {
                return Ok(guard);
            }
        }
    }

    /// As [`acquire`](Lock::acquire), for no longer than `within`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it was not this contender's turn by then; otherwise as for
    /// [`acquire`](Lock::acquire).
    ///
    /// Cancel safe as [`acquire`](Lock::acquire).
    pub async fn acquire_timeout(&self, within: Duration) -> Result<Guard, Error> {
        let acquired = timeout(within, self.acquire()).await;
        acquired.unwrap_or_else(|_| {
            let path = self.path.clone();
            Err(Error::TimedOut { path, within })
        })
    }

    /// Takes the lock if nobody has it or waits for it, otherwise answers `None`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Lock::acquire).
    ///
    /// Does not wait for other contenders, but for the servers; cancel safe as
    /// [`acquire`](Lock::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        loop {
            let place = self.queue().enter(&self.data, &self.acl).await?;
            match place.turn().await? {
                Turn::Behind(_) => return Ok(None),
                Turn::Vanished => {}
                Turn::First => {
                    if let Some(guard) = self.grant(place).await? {
                        return Ok(Some(guard));
                    }
                }
            }
        }
    }

    /// Everybody who holds the lock or waits for it, the holder first. The server that answers
    /// catches up with the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignChild`]; [`Error::Client`] if the connection is lost meanwhile, and with what
    /// a server refuses.
    pub async fn contenders(&self) -> Result<Vec<Contender>, Error> {
        let synced = self.client.sync(&self.path);
        let names = self.queue().contenders().await?;
        synced.await?;
        let mut contenders = Vec::with_capacity(names.len());
        for names in names.chunks(READS_AT_ONCE) {
            let reads = names.iter().map(|(name, _)| {
                let path = join(&self.path, name);
                let found = self.client.get_data(&path);
                (path, found)
            });
            for (node, found) in reads.collect::<Vec<_>>() {
                match found.await {
                    Ok((data, stat)) => contenders.push(Contender {
                        node,
                        token: FencingToken(stat.czxid),
                        session: SessionId(stat.ephemeral_owner),
                        since: UNIX_EPOCH
                            + Duration::from_millis(u64::try_from(stat.ctime).unwrap_or(0)),
                        data,
                    }),
                    // It has left since the list was made.
                    Err(ClientError::NoNode { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        // The order in which they were created, which is that of their numbers, and also decides
        // where servers have run out of numbers.
        contenders.sort_by(|a, b| (a.token, &a.node).cmp(&(b.token, &b.node)));
        Ok(contenders)
    }

    fn queue(&self) -> Queue<'_> {
        Queue {
            client: &self.client,
            path: &self.path,
            naming: self.layout.lock(),
        }
    }

    /// Makes a guard of a place at the front, if it still is one.
    async fn grant(&self, place: Place<'_>) -> Result<Option<Guard>, Error> {
        let confirmed = confirm(&self.client, &place.node).await?;
        Ok(confirmed.map(|confirmed| {
            let Place { node, czxid, .. } = place;
            let hold = Hold::new(&self.client, &self.path, node, czxid, confirmed);
            Guard::new(hold)
        }))
    }
}

/// How many contenders are read with one request behind the other.
const READS_AT_ONCE: usize = 512;

/// Somebody who holds a lock or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// The path of its znode.
    pub node: String,
    /// The token that its guard has, or will have.
    pub token: FencingToken,
    /// Its session; 0 if its znode belongs to none, and outlives its process.
    pub session: SessionId,
    /// Since when it holds the lock or waits for it, by the leader's clock.
    pub since: SystemTime,
    /// What it says about itself; see [`Lock::data`].
    pub data: Bytes,
}
