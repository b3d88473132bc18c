//! Queues of items (spec: recipes, section 3.11).

use std::marker::PhantomData;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::pending;
use quorate_client::{Client, CreateMode, Error as ClientError};
use tokio::time::sleep;
use tracing::{debug, instrument, warn};

use crate::chance::{now, unique};
use crate::changes::{children, look_synced};
use crate::error::Error;
use crate::guard::Guard;
use crate::hold::{Hold, LostReason, confirm};
use crate::layout::{Layout, Sequence};
use crate::lock::Lock;
use crate::payload::{Payload, decode, encode};
use crate::protect::{join, patient};
use crate::queue::{Contender, read_contenders};
use crate::receipt::Receipts;
use crate::settings::{Settings, setters};

/// The priority of kazoo's items for which none is given.
const KAZOO_PRIORITY: i32 = 100;

/// Items in the order in which they were put, each of which one consumer takes.
///
/// Items are put exactly once, also if connections are lost. A consumer that [takes](Items::take) an
/// item claims it, so that nobody else has it meanwhile; the item goes when the consumer says that it
/// is [done](Item::done), and is there for others again when the consumer drops it or dies. So every
/// item is handled at least once, and twice only if a consumer dies, or loses its session, before it
/// says so.
///
/// Consumers that find nothing stand in line, and only the first of them hears of new items.
///
/// With [`Layout::Curator`], the default, the items are those of Curator's `DistributedQueue` on the
/// same path, and claims those of its lock path, which is the path with `-locks` behind it unless
/// [another](Queue::claims_at) is named. With [`Layout::Kazoo`] they are those of kazoo's
/// `LockingQueue`.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::Queue;
///
/// let queue: Queue<String> = Queue::new(&client, "/queues/mail");
/// queue.put(&"hello".to_owned()).await?;
///
/// let item = queue.take().await?;
/// println!("{}", item.payload());
/// item.done().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a queue does nothing by itself"]
pub struct Queue<T> {
    items: Items<T>,
}

/// Items of which the one with the lowest priority number is taken first, and of several with the
/// same number the one that was put first; otherwise a [`Queue`].
///
/// The items are those of Curator's `DistributedPriorityQueue`, or kazoo's `LockingQueue` with
/// priorities from 0 to 999.
#[derive(Debug, Clone)]
#[must_use = "a queue does nothing by itself"]
pub struct PriorityQueue<T> {
    items: Items<T>,
}

/// Items that can be taken from a point in time on; otherwise a [`Queue`].
///
/// The items are those of Curator's `DistributedDelayQueue`. The time is that of the clocks of those
/// who put and take.
#[derive(Debug, Clone)]
#[must_use = "a queue does nothing by itself"]
pub struct DelayQueue<T> {
    items: Items<T>,
}

/// The consumer's side of a [`Queue`], a [`PriorityQueue`] or a [`DelayQueue`].
#[derive(Debug)]
#[must_use = "a queue does nothing by itself"]
pub struct Items<T> {
    settings: Settings,
    claims: Option<String>,
    kind: Kind,
    receipts: Receipts,
    payload: PhantomData<fn() -> T>,
}

impl<T> Clone for Items<T> {
    fn clone(&self) -> Self {
        Items {
            settings: self.settings.clone(),
            claims: self.claims.clone(),
            kind: self.kind,
            receipts: self.receipts.clone(),
            payload: PhantomData,
        }
    }
}

/// What decides about the order of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Arrival,
    Priority,
    Delay,
}

/// Methods that every kind of queue has.
macro_rules! queue {
    ($queue:ident, $kind:expr) => {
        impl<T: Payload> $queue<T> {
            /// The queue at `path`, where nothing but its items may be. The znode is created when it
            /// is needed.
            pub fn new(client: &Client, path: impl Into<String>) -> Self {
                $queue {
                    items: Items::new(client, path, $kind),
                }
            }

            /// Who may do what with the znodes that are created; everybody everything unless set.
            pub fn acl(mut self, acl: impl Into<Vec<crate::Acl<'static>>>) -> Self {
                self.items = self.items.acl(acl);
                self
            }

            /// Where consumers claim items: the lock path of Curator's queues.
            pub fn claims_at(mut self, path: impl Into<String>) -> Self {
                self.items.claims = Some(path.into());
                self
            }
        }

        impl<T> Deref for $queue<T> {
            type Target = Items<T>;

            fn deref(&self) -> &Items<T> {
                &self.items
            }
        }
    };
}

queue!(Queue, Kind::Arrival);
queue!(PriorityQueue, Kind::Priority);
queue!(DelayQueue, Kind::Delay);

impl<T: Payload> Queue<T> {
    /// Names the znodes as another library does.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.items.settings.layout = layout;
        self
    }

    /// Puts an item at the end, once.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`]; [`Error::Client`] when the session ends, and with what a server refuses.
    /// Only if [`Error::outcome`] says that it is unknown may the item be there nevertheless.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn put(&self, payload: &T) -> Result<(), Error> {
        let rank = match self.items.settings.layout {
            Layout::Curator => 0,
            Layout::Kazoo => KAZOO_PRIORITY.into(),
        };
        self.items.put(rank, payload).await
    }
}

impl<T: Payload> PriorityQueue<T> {
    /// Names the znodes as another library does.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.items.settings.layout = layout;
        self
    }

    /// Puts an item behind all that have this priority or a lower number, once.
    ///
    /// # Errors
    ///
    /// As for [`Queue::put`]; [`Error::Overflow`] for a priority that kazoo does not know.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn put(&self, payload: &T, priority: i32) -> Result<(), Error> {
        if self.items.settings.layout == Layout::Kazoo && !(0..=999).contains(&priority) {
            let path = self.items.path().to_owned();
            let (value, delta) = (0, priority.into());
            return Err(Error::Overflow { path, value, delta });
        }
        self.items.put(priority.into(), payload).await
    }
}

impl<T: Payload> DelayQueue<T> {
    /// Puts an item that can be taken from `due` on, once.
    ///
    /// # Errors
    ///
    /// As for [`Queue::put`].
    ///
    /// Dropping the future gives up the wait only.
    pub async fn put_at(&self, payload: &T, due: SystemTime) -> Result<(), Error> {
        self.items.put(milliseconds(due), payload).await
    }

    /// Puts an item that can be taken after `delay`, once.
    ///
    /// # Errors
    ///
    /// As for [`Queue::put`].
    ///
    /// Dropping the future gives up the wait only.
    pub async fn put_after(&self, payload: &T, delay: Duration) -> Result<(), Error> {
        let due = milliseconds(now(&self.items.settings.client))
            .saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
        self.items.put(due, payload).await
    }
}

/// Milliseconds since 1970.
fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl<T: Payload> Items<T> {
    fn new(client: &Client, path: impl Into<String>, kind: Kind) -> Self {
        Items {
            settings: Settings::new(client, path),
            claims: None,
            kind,
            receipts: Receipts::new(client),
            payload: PhantomData,
        }
    }

    setters!(acl);

    /// Waits for an item, behind those who wait already, and claims it.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] for an item that cannot be read, which stays where it is; otherwise as for
    /// [`Lock::acquire`].
    ///
    /// Cancel safe: dropping the future leaves all items and nothing else.
    #[instrument(name = "Items::take", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn take(&self) -> Result<Item<T>, Error> {
        loop {
            if let Some(item) = self.try_take().await? {
                return Ok(item);
            }
            let turn = self.line().acquire().await?;
            tokio::select! {
                biased;
                item = self.take_in_turn() => return item,
                // The place in the line is gone; a new one is taken while the session lives.
                _ = turn.lost() => {}
            }
        }
    }

    /// Claims the first item that can be had now; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`take`](Items::take).
    ///
    /// Cancel safe as [`take`](Items::take).
    #[instrument(name = "Items::try_take", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn try_take(&self) -> Result<Option<Item<T>>, Error> {
        let client = &self.settings.client;
        let claimed = list(client, &self.claims()).await?;
        let names = list(client, &self.entries()).await?;
        self.claim_first(&names, &claimed).await
    }

    /// Waits for an item, and removes it at once: it is handled once, or not at all if this process
    /// dies.
    ///
    /// # Errors
    ///
    /// As for [`take`](Items::take) and [`Item::done`].
    ///
    /// Dropping the future may lose the item if it is being removed at that moment; take it and say
    /// when it is [done](Item::done) if that matters.
    pub async fn pop(&self) -> Result<T, Error> {
        let Item {
            guard,
            path,
            mut payloads,
        } = self.take().await?;
        let payload = payloads.swap_remove(0);
        let item = Item::<T> {
            guard,
            path,
            payloads: Vec::new(),
        };
        item.done().await?;
        Ok(payload)
    }

    /// How many items there are, claimed ones included.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] when the session ends, and with what a server refuses.
    pub async fn len(&self) -> Result<usize, Error> {
        let client = &self.settings.client;
        let entries = self.entries();
        patient().run(|| client.sync(&entries)).await?;
        Ok(self.sort(&list(client, &entries).await?).len())
    }

    /// Is there no item, not even a claimed one?
    ///
    /// # Errors
    ///
    /// As for [`len`](Items::len).
    pub async fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len().await? == 0)
    }

    /// The consumers that have claimed an item.
    ///
    /// # Errors
    ///
    /// As for [`len`](Items::len).
    pub async fn claimed(&self) -> Result<Vec<Contender>, Error> {
        let (client, claims) = (&self.settings.client, self.claims());
        let names = list(client, &claims).await?;
        let paths = names.iter().map(|name| join(&claims, name)).collect();
        read_contenders(client, paths).await
    }

    /// The consumers that wait for an item, in order.
    ///
    /// # Errors
    ///
    /// As for [`Lock::contenders`].
    pub async fn waiters(&self) -> Result<Vec<Contender>, Error> {
        self.line().contenders().await
    }

    /// Where the items are.
    fn entries(&self) -> String {
        match self.settings.layout {
            Layout::Curator => self.settings.path.clone(),
            Layout::Kazoo => join(&self.settings.path, "entries"),
        }
    }

    /// Where items are claimed.
    fn claims(&self) -> String {
        let path = &self.settings.path;
        match (&self.claims, self.settings.layout) {
            (Some(claims), _) => claims.clone(),
            (None, Layout::Curator) => format!("{path}-locks"),
            (None, Layout::Kazoo) => join(path, "taken"),
        }
    }

    /// The lock that only the first consumer in line has.
    fn line(&self) -> Lock {
        Lock::with_settings(Settings {
            path: format!("{}-consumers", self.settings.path),
            ..self.settings.clone()
        })
    }

    /// Puts an item where its rank belongs.
    async fn put(&self, rank: i64, payload: &T) -> Result<(), Error> {
        let path = join(&self.entries(), &self.prefix(rank));
        let data = encode(&path, payload)?;
        let data = match self.settings.layout {
            Layout::Curator => frame(&data),
            Layout::Kazoo => data,
        };
        let mode = CreateMode::PersistentSequential;
        let put = self.receipts.create(&path, &data, mode, &self.settings.acl);
        Ok(put.await?)
    }

    /// The name, up to the server's number, of an item of this rank.
    fn prefix(&self, rank: i64) -> String {
        match (self.settings.layout, self.kind) {
            (Layout::Kazoo, _) => format!("entry-{rank:03}-"),
            (Layout::Curator, Kind::Arrival) => "queue-".to_owned(),
            (Layout::Curator, Kind::Priority) => {
                // Names are in the order of the numbers, negative ones first.
                let sign = u8::from(rank >= 0);
                let number = i32::try_from(rank).unwrap_or(i32::MAX);
                format!("queue-{sign}{number:08X}")
            }
            (Layout::Curator, Kind::Delay) => format!("queue-|{rank:08X}|"),
        }
    }

    /// The rank and the number in the name of an item; `None` if it is none.
    fn parse(&self, name: &str) -> Option<(i64, Sequence)> {
        let (rank, number) = match (self.settings.layout, self.kind) {
            (Layout::Kazoo, _) => {
                let (rank, number) = name.strip_prefix("entry-")?.split_once('-')?;
                (rank.parse().ok()?, number)
            }
            (Layout::Curator, Kind::Arrival) => (0, name.strip_prefix("queue-")?),
            (Layout::Curator, Kind::Priority) => {
                let text = name.strip_prefix("queue-")?;
                // What Curator puts back loses its priority, and comes first.
                match text
                    .split_at_checked(9)
                    .filter(|(_, number)| !number.is_empty())
                {
                    None => (i64::MIN, text),
                    Some((rank, number)) if number.len() >= 10 => {
                        let bits = u32::from_str_radix(rank.get(1..)?, 16).ok()?;
                        (bits.cast_signed().into(), number)
                    }
                    Some(_) => (i64::MIN, text),
                }
            }
            (Layout::Curator, Kind::Delay) => match name.strip_prefix("queue-|") {
                Some(text) => {
                    let (due, number) = text.split_once('|')?;
                    (i64::from_str_radix(due, 16).ok()?, number)
                }
                None => (0, name.strip_prefix("queue-")?),
            },
        };
        Some((rank, Sequence::parse(number)?))
    }

    /// The items among `names` with their ranks, in order.
    fn sort(&self, names: &[String]) -> Vec<(i64, String)> {
        let mut items = Vec::with_capacity(names.len());
        for name in names {
            match self.parse(name) {
                Some((rank, number)) => items.push((rank, number, name)),
                None => debug!(path = self.path(), name, "passing over what is no item"),
            }
        }
        // Numbers wrap around, so that the order is that of the distance from the first.
        let first = items.iter().map(|(_, number, _)| *number);
        let Some(first) = first.min_by(|a, b| a.behind(*b).cmp(&0)) else {
            return Vec::new();
        };
        items.sort_by_key(|(rank, number, name)| (*rank, number.behind(first), *name));
        let items = items.into_iter();
        items.map(|(rank, _, name)| (rank, name.clone())).collect()
    }

    /// Waits for an item while nobody else does.
    async fn take_in_turn(&self) -> Result<Item<T>, Error> {
        let client = &self.settings.client;
        loop {
            let (claimed, claim_gone) = children(client, &self.claims()).await?;
            let (names, item_put) = children(client, &self.entries()).await?;
            if let Some(item) = self.claim_first(&names, &claimed).await? {
                return Ok(item);
            }
            let due = self.next_due(&names, &claimed);
            tokio::select! {
                biased;
                changed = claim_gone => drop(changed?),
                changed = item_put => drop(changed?),
                () = due => {}
            }
        }
    }

    /// Waits until the next item that nobody has claimed can be taken.
    fn next_due(&self, names: &[String], claimed: &[String]) -> impl Future<Output = ()> + use<T> {
        let due = match self.kind {
            Kind::Delay => self.sort(names).into_iter(),
            _ => Vec::new().into_iter(),
        };
        let next = due
            .filter(|(_, name)| !claimed.contains(name))
            .map(|(due, _)| due)
            .next();
        let client = self.settings.client.clone();
        async move {
            match next {
                None => pending().await,
                Some(due) => {
                    let left = due.saturating_sub(milliseconds(now(&client)));
                    sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
                }
            }
        }
    }

    /// Claims the first of the items that nobody has claimed.
    async fn claim_first(
        &self,
        names: &[String],
        claimed: &[String],
    ) -> Result<Option<Item<T>>, Error> {
        let now = milliseconds(now(&self.settings.client));
        for (rank, name) in self.sort(names) {
            if self.kind == Kind::Delay && rank > now {
                break;
            }
            if claimed.contains(&name) {
                continue;
            }
            if let Some(item) = self.claim(&name).await? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// Claims an item; `None` if somebody else has, or it is gone.
    async fn claim(&self, name: &str) -> Result<Option<Item<T>>, Error> {
        let settings = Settings {
            path: self.claims(),
            // What kazoo writes there; it tells this claim from those of other tasks.
            data: unique(&self.settings.client)
                .simple()
                .to_string()
                .into_bytes(),
            ..self.settings.clone()
        };
        let site = settings.site(Layout::default().unique());
        let Some((node, _)) = site.plan_shared(name).create_at(site).await? else {
            return Ok(None);
        };
        let path = join(&self.entries(), name);
        // It may have been taken before it was claimed here.
        let Some((data, _)) = look_synced(site.client, &path).await? else {
            return Ok(None);
        };
        let Some(confirmed) = confirm(site.client, &node).await? else {
            return Ok(None);
        };
        let guard = Guard::new(Hold::new(site.client, self.path(), node, confirmed));
        let payloads = match self.settings.layout {
            Layout::Curator => unframe(&data).ok_or_else(|| Error::Mismatch {
                path: path.clone(),
                expected: "an item as Curator writes it".to_owned(),
                found: format!("{data:?}"),
            })?,
            Layout::Kazoo => vec![data],
        };
        let payloads = payloads.iter().map(|data| decode(&path, data));
        Ok(Some(Item {
            guard,
            payloads: payloads.collect::<Result<_, _>>()?,
            path,
        }))
    }
}

/// The names of the children; none if the znode does not exist.
async fn list(client: &Client, path: &str) -> Result<Vec<String>, Error> {
    match patient().run(|| client.get_children(path)).await {
        Ok(names) => Ok(names),
        Err(ClientError::NoNode { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// An item that this consumer has claimed, with the [`Guard`] of the claim. Dropping it gives it
/// back to its place.
///
/// A claim has the name of its item, whoever has it, so neither [transactions](Guard::transaction)
/// nor [`done`](Item::done) are fenced any more once an operator has deleted its znode and somebody
/// else has claimed the item, until the guard hears that it is lost.
#[derive(Debug)]
#[must_use = "dropping an item gives it back"]
pub struct Item<T> {
    guard: Guard,
    path: String,
    /// At least one.
    payloads: Vec<T>,
}

impl<T> Item<T> {
    /// What was put.
    pub fn payload(&self) -> &T {
        &self.payloads[0]
    }

    /// Everything that was put: Curator can put several things as one item.
    pub fn payloads(&self) -> &[T] {
        &self.payloads
    }

    /// The znode of the item, for instance to delete it in a [transaction](Guard::transaction)
    /// together with the effects of handling it.
    pub fn item_node(&self) -> &str {
        &self.path
    }

    /// Removes the item, which has been handled.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the claim was lost: the item is handled again by somebody else.
    ///
    /// Dropping the future gives up the wait; if the connection is lost at that moment, the item may
    /// be handled again.
    pub async fn done(self) -> Result<(), Error> {
        let (lost, path) = (self.guard.lost_as(LostReason::NodeDeleted), self.path);
        match self.guard.into_node()?.delete_with(&path).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(lost),
            Err(error) => {
                warn!(path = path, %error, "an item that was handled is still there");
                Err(error.into())
            }
        }
    }

    /// Gives the item back to its place, and waits until others can have it.
    ///
    /// # Errors
    ///
    /// As for [`Guard::release`].
    pub async fn give_back(self) -> Result<(), Error> {
        self.guard.release().await
    }
}

impl<T> Deref for Item<T> {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

/// What an item of Curator's begins with.
const FRAME_VERSION: [u8; 4] = 0x0001_0001_i32.to_be_bytes();
const FRAME_ITEM: u8 = 1;
const FRAME_END: u8 = 2;

/// An item as Curator writes it.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut framed = FRAME_VERSION.to_vec();
    framed.push(FRAME_ITEM);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(data);
    framed.push(FRAME_END);
    framed
}

/// What Curator wrote as one item; `None` if that is not what it is.
fn unframe(framed: &Bytes) -> Option<Vec<Bytes>> {
    let mut rest = framed.strip_prefix(&FRAME_VERSION)?;
    let mut items = Vec::new();
    loop {
        let (&kind, after) = rest.split_first()?;
        match kind {
            FRAME_END => return (!items.is_empty()).then_some(items),
            FRAME_ITEM => {
                let (length, after) = after.split_at_checked(4)?;
                let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
                let (item, after) = after.split_at_checked(length)?;
                items.push(framed.slice_ref(item));
                rest = after;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_are_framed_as_curator_does() {
        let framed = b"\0\x01\0\x01\x01\0\0\0\x02hi\x02";
        assert_eq!(frame(b"hi"), framed);
        let two = Bytes::from_static(b"\0\x01\0\x01\x01\0\0\0\x01a\x01\0\0\0\0\x02");
        assert_eq!(unframe(&two).unwrap(), ["a", ""]);
        for broken in [
            &b""[..],
            b"hi",
            b"\0\x01\0\x01",
            b"\0\x01\0\x01\x02",
            b"\0\x01\0\x01\x01\0\0\0\x03hi\x02",
            b"\0\x01\0\x01\x01\xff\xff\xff\xff\x02",
            b"\0\x01\0\x01\x03",
        ] {
            assert_eq!(unframe(&Bytes::from_static(broken)), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_framed_is_found_again(data: Vec<u8>) {
            prop_assert_eq!(unframe(&frame(&data).into()), Some(vec![data.into()]));
        }

        #[test]
        fn anything_can_be_read(data: Vec<u8>) {
            let _ = unframe(&data.into());
        }
    }
}
