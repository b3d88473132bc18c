//! The barrier at which a number of processes begin and end together (spec: recipes, sections 3.6
//! and 6.4).

use std::collections::BTreeSet;
use std::ops::Deref;
use std::time::Duration;

use quorate_client::{
    Client, CreateMode, CreateOptions, Error as ClientError, EventKind, OneshotWatch, Stat,
};
use tokio::select;
use tracing::instrument;

use crate::error::Error;
use crate::guard::Guard;
use crate::hold::{Hold, confirm};
use crate::layout::{is_unique, none_foreign};
use crate::protect::{Protected, join, patient};
use crate::queue::{Contender, deleted, read_contenders, within};
use crate::settings::{Settings, setters};

/// The name of the znode that says that enough have come.
const READY: &str = "ready";

/// A room that opens when enough have come, and that they leave together.
///
/// Everybody waits in [`enter`](DoubleBarrier::enter) until so many have come as are expected, and
/// in [`leave`](Inside::leave) until everybody who was inside then has left or died. The room can be
/// used again at once. Who comes while others are inside joins them.
///
/// It works together with Curator's `DistributedDoubleBarrier` and kazoo's `DoubleBarrier` on the
/// same path, and names its members as kazoo does with [`Layout::Kazoo`](crate::Layout::Kazoo).
/// Nothing but members may be below the path: whatever else is found there is an
/// [`Error::ForeignChild`].
///
/// | | who waits to enter | who is inside, or waits to leave |
/// |---|---|---|
/// | the connection is away | keeps its place and waits on | is still counted |
/// | the session has expired | fails | fails; the others go on without it |
/// | the future or the guard is dropped | is not counted any more | is not waited for any more |
///
/// ```no_run
/// # async fn compute() {}
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::DoubleBarrier;
///
/// let barrier = DoubleBarrier::new(&client, "/barriers/step", 5);
/// let inside = barrier.enter().await?;
/// compute().await;
/// inside.leave().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a barrier does nothing by itself"]
pub struct DoubleBarrier {
    settings: Settings,
    members: usize,
}

impl DoubleBarrier {
    /// The barrier at `path`, which opens for so many. The path is created when it is missing.
    pub fn new(client: &Client, path: impl Into<String>, members: usize) -> Self {
        DoubleBarrier {
            settings: Settings::new(client, path),
            members,
        }
    }

    setters!(layout, data, acl);

    /// Waits until enough have come.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if this member's znode is lost meanwhile; [`Error::ForeignChild`];
    /// [`Error::Client`] when the session ends, and with what a server refuses.
    ///
    /// Cancel safe: dropping the future leaves nothing behind, and this one is not counted.
    #[instrument(name = "DoubleBarrier::enter", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn enter(&self) -> Result<Inside, Error> {
        let client = &self.settings.client;
        let ready = self.ready();
        loop {
            let early = patient().run(|| client.exists_watched(&ready)).await?;
            let site = self.settings.site(self.settings.layout.unique());
            let (node, born) = Protected::create(site).await?;
            let Some(confirmed) = confirm(client, &node).await? else {
                continue;
            };
            let guard = Guard::new(Hold::new(client, self.path(), node, confirmed));
            select! {
                biased;
                reason = guard.lost() => return Err(guard.lost_as(reason)),
                opened = self.opened(early, born) => opened?,
            }
            return Ok(Inside {
                guard,
                barrier: self.clone(),
            });
        }
    }

    /// As [`enter`](DoubleBarrier::enter), for no longer than `time`, all in all.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`enter`](DoubleBarrier::enter).
    pub async fn enter_timeout(&self, time: Duration) -> Result<Inside, Error> {
        within(self.path(), time, self.enter()).await
    }

    /// Who is inside or waits to enter, in the order in which they came.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`](crate::Lock::contenders).
    pub async fn members(&self) -> Result<Vec<Contender>, Error> {
        let client = &self.settings.client;
        let names = self.names().await?;
        let paths = names.iter().map(|name| join(self.path(), name)).collect();
        read_contenders(client, paths).await
    }

    fn ready(&self) -> String {
        join(self.path(), READY)
    }

    /// The names of the members, of whichever layout, in the order in which they leave.
    async fn names(&self) -> Result<BTreeSet<String>, Error> {
        let client = &self.settings.client;
        match patient().run(|| client.get_children(self.path())).await {
            Ok(mut names) => {
                names.retain(|name| name != READY);
                // All three libraries count every child, and wait for every child to go.
                none_foreign(self.path(), &names, is_unique)?;
                Ok(names.into_iter().collect())
            }
            Err(ClientError::NoNode { .. }) => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the room is open for the member that was created by the transaction `born`.
    async fn opened(&self, early: (Option<Stat>, OneshotWatch), born: i64) -> Result<(), Error> {
        let client = &self.settings.client;
        let ready = self.ready();
        let (_, mut watch) = early;
        loop {
            // Set before the members are counted: whoever makes them enough, and sees that first,
            // opens the room after this.
            let (found, next) = patient().run(|| client.exists_watched(&ready)).await?;
            let earlier = std::mem::replace(&mut watch, next);
            if opened_after(earlier, born).await {
                return Ok(());
            }
            match found {
                Some(stat) if stat.czxid > born || self.is_in_use(stat.czxid).await? => {
                    return Ok(());
                }
                Some(stat) => {
                    // Those whom it was for have all gone without deleting it.
                    let delete = || client.delete(&ready, stat.version);
                    match patient().run_idempotent(delete).await {
                        Ok(())
                        | Err(ClientError::NoNode { .. } | ClientError::BadVersion { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                    continue;
                }
                None => {}
            }
            if self.names().await?.len() >= self.members {
                return self.open().await;
            }
            let event = (&mut watch).await?;
            // The watch was set when the room was not open, and this member there.
            if event.kind == EventKind::Created {
                return Ok(());
            }
        }
    }

    /// Is there a member for whom the room was opened by the transaction `opened`?
    async fn is_in_use(&self, opened: i64) -> Result<bool, Error> {
        loop {
            match self.members().await {
                Ok(members) => {
                    return Ok(members.iter().any(|member| member.token.get() < opened));
                }
                // The next reads wait for a connection.
                Err(Error::Client(error)) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn open(&self) -> Result<(), Error> {
        let Settings { client, acl, .. } = &self.settings;
        let options = CreateOptions::new(CreateMode::Persistent).acl(acl);
        let ready = self.ready();
        let create = || client.create(&ready, "", options);
        match patient().run_idempotent(create).await {
            Ok(_) | Err(ClientError::NodeExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Has the watch seen the room open after the transaction `born`? Others may have closed it again.
async fn opened_after(watch: OneshotWatch, born: i64) -> bool {
    select! {
        biased;
        Ok(event) = watch => {
            event.kind == EventKind::Created && event.zxid.is_some_and(|zxid| zxid > born)
        }
        () = std::future::ready(()) => false,
    }
}

/// Proof of being inside a [`DoubleBarrier`]; dropping it leaves without waiting for the others.
#[derive(Debug)]
#[must_use = "dropping it leaves the barrier"]
pub struct Inside {
    guard: Guard,
    barrier: DoubleBarrier,
}

impl Inside {
    /// Waits until everybody who is inside has left or died.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if this member's znode was lost before; [`Error::ForeignChild`];
    /// [`Error::Client`] when the session ends, and with what a server refuses.
    ///
    /// Cancel safe: dropping the future leaves without waiting for the others.
    pub async fn leave(self) -> Result<(), Error> {
        let Inside { guard, barrier } = self;
        let own = guard.node().rsplit('/').next().unwrap_or_default();
        let own = own.to_owned();
        // Who has come meanwhile may not be known yet to the server that answers.
        let client = &barrier.settings.client;
        patient().run(|| client.sync(barrier.path())).await?;
        // Who comes later is not waited for, such as those who use the barrier again already.
        let mut inside = barrier.names().await?;
        let mut guard = Some(guard);
        loop {
            let now = barrier.names().await?;
            inside.retain(|name| now.contains(name) && *name != own);
            let (Some(lowest), Some(highest)) = (inside.first(), inside.last()) else {
                let Some(guard) = guard else { return Ok(()) };
                let node = guard.into_node()?;
                return match now.len() {
                    // The last one closes the room.
                    0 | 1 => Ok(node.delete_with(&barrier.ready()).await.map(drop)?),
                    _ => Ok(node.delete().await.map(drop)?),
                };
            };
            let awaited = match own < *lowest {
                true => highest,
                false => {
                    if let Some(guard) = guard.take() {
                        guard.release().await?;
                    }
                    lowest
                }
            };
            let awaited = join(barrier.path(), awaited);
            deleted(&barrier.settings.client, &awaited).await?;
        }
    }

    /// As [`leave`](Inside::leave), for no longer than `time`, all in all. This member has left in
    /// any case.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; otherwise as for [`leave`](Inside::leave).
    pub async fn leave_timeout(self, time: Duration) -> Result<(), Error> {
        let path = self.barrier.path().to_owned();
        within(&path, time, self.leave()).await
    }
}

impl Deref for Inside {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
