//! Things that are divided among the members of a group (spec: recipes, section 3.9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use quorate_client::{Client, Error as ClientError};
use tokio::sync::watch;
use tracing::instrument;

use crate::error::Error;
use crate::group::{Group, Membership};
use crate::guard::Guard;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::protect::join;
use crate::settings::{Settings, setters};

/// Divides a set of things, such as partitions of a topic, among those who take part.
///
/// Everybody gets about as many. When somebody comes or goes, few change hands, and what does is
/// given up by one before another has it: each is guarded by a [`Lock`] of its own, whose fencing
/// token tells who has it now from who had it before.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::Partitioner;
///
/// let partitioner = Partitioner::new(&client, "/work", ["a", "b", "c"]);
/// let mut share = partitioner.join("host-7").await?;
/// loop {
///     println!("mine: {:?}", share.guards().keys());
///     share.changed().await?;
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a partitioner does nothing until it is joined"]
pub struct Partitioner {
    settings: Settings,
    items: BTreeSet<String>,
}

impl Partitioner {
    /// Divides these things, which are names that can be part of a path. Everybody on `path` must
    /// name the same.
    pub fn new<I: Into<String>>(
        client: &Client,
        path: impl Into<String>,
        items: impl IntoIterator<Item = I>,
    ) -> Self {
        let mut settings = Settings::new(client, path);
        settings.layout = Layout::Kazoo;
        Partitioner {
            settings,
            items: items.into_iter().map(Into::into).collect(),
        }
    }

    setters!(acl);

    /// Takes part under a name that nobody else has, and waits until others can see it.
    ///
    /// # Errors
    ///
    /// As for [`Group::join`].
    ///
    /// Cancel safe: dropping the future leaves nothing behind.
    #[instrument(name = "Partitioner::join", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn join(&self, id: &str) -> Result<Share, Error> {
        let Settings {
            client, path, acl, ..
        } = &self.settings;
        let group = Group::<String>::new(client, join(path, "party")).acl(acl.clone());
        let group = group.layout(Layout::Kazoo).shallow();
        let membership = group.join(id, &String::new()).await?;
        let (held, current) = watch::channel(Ok(Guards::default()));
        let mut divider = Divider {
            partitioner: self.clone(),
            id: id.to_owned(),
            held,
            acquiring: FuturesUnordered::new(),
        };
        client.spawn(async move {
            let closed = divider.held.clone();
            tokio::select! {
                biased;
                () = closed.closed() => {}
                error = divider.run(&group) => drop(closed.send_replace(Err(error))),
            }
        });
        Ok(Share {
            membership,
            current,
        })
    }
}

/// What somebody has, by name.
type Guards = Arc<BTreeMap<String, Arc<Guard>>>;

/// What one of those who take part in a [`Partitioner`] has. Dropping it gives up everything.
#[derive(Debug)]
#[must_use = "dropping it gives up everything"]
pub struct Share {
    membership: Membership<String>,
    current: watch::Receiver<Result<Guards, Error>>,
}

impl Share {
    /// What is held now, by name. Something that is to go to somebody else is held until every
    /// guard of it is dropped.
    pub fn guards(&self) -> Arc<BTreeMap<String, Arc<Guard>>> {
        self.current.borrow().clone().unwrap_or_default()
    }

    /// Waits until it is something else that is held.
    ///
    /// # Errors
    ///
    /// Why nothing is divided any more, such as the end of the session.
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

    /// Gives up everything, and waits until others see that this one does not take part any more.
    ///
    /// # Errors
    ///
    /// What a server refuses.
    ///
    /// Cancel safe: dropping the future leaves the rest to the background.
    pub async fn leave(self) -> Result<(), Error> {
        drop(self.current);
        self.membership.leave().await
    }
}

/// What happened to one of the things.
enum Event {
    Acquired(String, Result<Guard, Error>),
    Lost(String, Arc<Guard>),
}

/// The task of one of those who take part.
struct Divider {
    partitioner: Partitioner,
    id: String,
    held: watch::Sender<Result<Guards, Error>>,
    /// What is being acquired or watched over, until it is not wanted any more.
    acquiring: FuturesUnordered<BoxFuture<'static, Event>>,
}

impl Divider {
    /// Holds what falls to this member, until that is not possible any more.
    async fn run(&mut self, group: &Group<String>) -> Error {
        let mut members = group.watch_ids();
        loop {
            tokio::select! {
                biased;
                ids = members.next() => match ids {
                    Some(Ok(ids)) => self.divide(&ids),
                    Some(Err(error)) => return error,
                    None => return ClientError::Closed.into(),
                },
                Some(event) = self.acquiring.next() => {
                    if let Err(error) = self.handle(event) {
                        return error;
                    }
                }
            }
        }
    }

    fn divide(&mut self, members: &BTreeSet<String>) {
        let wanted = share(&self.id, members, &self.partitioner.items);
        let mut held = self.guards();
        held.retain(|item, _| wanted.contains(item));
        // What was being acquired is begun anew where it is still wanted, which costs its place in
        // the queue only: one waits for one other at most.
        self.acquiring = FuturesUnordered::new();
        for item in &wanted {
            match held.get(item) {
                Some(guard) => self.watch_over(item.clone(), guard),
                None => self.acquire(item.clone()),
            }
        }
        self.publish(held);
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        let mut held = self.guards();
        match event {
            Event::Acquired(item, guard) => {
                let guard = Arc::new(guard?);
                held.insert(item.clone(), Arc::clone(&guard));
                self.watch_over(item, &guard);
            }
            Event::Lost(item, guard) => {
                drop(guard);
                held.remove(&item);
                self.acquire(item);
            }
        }
        self.publish(held);
        Ok(())
    }

    fn acquire(&self, item: String) {
        let settings = Settings {
            path: join(&join(self.partitioner.path(), "locks"), &item),
            data: self.id.clone().into_bytes(),
            ..self.partitioner.settings.clone()
        };
        let lock = Lock::with_settings(settings);
        let acquire = async move { Event::Acquired(item, lock.acquire().await) };
        self.acquiring.push(acquire.boxed());
    }

    fn watch_over(&self, item: String, guard: &Arc<Guard>) {
        let lost = guard.lost();
        // Only the published guards keep it held.
        let guard = Arc::downgrade(guard);
        let watch = async move {
            lost.await;
            match guard.upgrade() {
                Some(guard) => Event::Lost(item, guard),
                None => futures::future::pending().await,
            }
        };
        self.acquiring.push(watch.boxed());
    }

    fn guards(&self) -> BTreeMap<String, Arc<Guard>> {
        let held = self.held.borrow();
        held.as_ref()
            .map(|held| (**held).clone())
            .unwrap_or_default()
    }

    fn publish(&self, held: BTreeMap<String, Arc<Guard>>) {
        self.held.send_if_modified(|current| {
            let same = matches!(current, Ok(now) if now.len() == held.len()
                && now.iter().zip(&held).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y)));
            *current = Ok(Arc::new(held));
            !same
        });
    }
}

/// What falls to the member `id`: everybody who knows the same members and things comes to the same
/// division. Each thing goes to the member that it prefers among those that have not got their part.
fn share(id: &str, members: &BTreeSet<String>, items: &BTreeSet<String>) -> BTreeSet<String> {
    if members.is_empty() {
        return BTreeSet::new();
    }
    let part = items.len().div_ceil(members.len());
    let mut room: BTreeMap<&String, usize> = members.iter().map(|member| (member, part)).collect();
    let mut mine = BTreeSet::new();
    for item in items {
        let free = room.iter().filter(|(_, room)| **room > 0);
        let Some(chosen) = free
            .map(|(member, _)| *member)
            .max_by_key(|member| weight(member, item))
        else {
            continue;
        };
        if let Some(room) = room.get_mut(chosen) {
            *room -= 1;
        }
        if chosen == id {
            mine.insert(item.clone());
        }
    }
    mine
}

/// How much `item` prefers `member`: a number without a pattern that is the same everywhere.
fn weight(member: &str, item: &str) -> u64 {
    let bytes = member.bytes().chain([0]).chain(item.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everything_falls_to_one_member_and_nobody_has_much_more(
            members in btree_set("[a-z]{1,8}", 1..8),
            items in btree_set("[a-z]{1,8}", 0..40),
        ) {
            let shares: Vec<_> = members.iter().map(|id| share(id, &members, &items)).collect();
            let total: usize = shares.iter().map(BTreeSet::len).sum();
            prop_assert_eq!(total, items.len());
            let all: BTreeSet<_> = shares.iter().flatten().cloned().collect();
            prop_assert_eq!(&all, &items);
            let most = items.len().div_ceil(members.len());
            prop_assert!(shares.iter().all(|share| share.len() <= most));
        }
    }

    #[test]
    fn few_change_hands_when_somebody_comes() {
        let items: BTreeSet<String> = (0..100).map(|n| n.to_string()).collect();
        let members = |n: usize| (0..n).map(|n| format!("host-{n}")).collect::<BTreeSet<_>>();
        let kept: usize = members(4)
            .iter()
            .map(|id| {
                let before = share(id, &members(4), &items);
                share(id, &members(5), &items).intersection(&before).count()
            })
            .sum();
        assert!(kept > 60, "{kept}");
    }
}
