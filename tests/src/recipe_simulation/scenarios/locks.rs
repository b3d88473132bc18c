//! Everything that gives something to one, to a few, or to readers and a writer.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_proto::TxnEntry;
use quorate_recipes::{
    Client, CreateMode, Election, Error, Guard, HoldState, Leadership, Lock, MultiGuard, MultiLock,
    ReentrantGuard, ReentrantLock, RwLock, Semaphore, SimpleLock, State, WriteGuard,
};
use tokio::time::timeout;

use super::super::stage::{Host, broken};
use super::grants::{Grants, WORK};
use super::ways::{Place, Way};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

const EXCLUSIVE: &[&str] = &["waits-for-nobody", "ignores-loss"];
const SHARED: &[&str] = &["waits-for-nobody"];

pub(super) const LOCK: Recipe = Recipe {
    name: "lock",
    bypasses: &["waits-for-nobody", "ignores-loss", "writes-unfenced"],
    make: |bypass| Locks::of(Kind::Lock, Way::Plain, bypass),
};
pub(super) const MULTI_LOCK: Recipe = Recipe {
    name: "multi-lock",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::MultiLock, Way::Plain, bypass),
};
pub(super) const REENTRANT_LOCK: Recipe = Recipe {
    name: "reentrant-lock",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::Reentrant, Way::Plain, bypass),
};
pub(super) const SIMPLE_LOCK: Recipe = Recipe {
    name: "simple-lock",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::Simple, Way::Plain, bypass),
};
pub(super) const RW_LOCK: Recipe = Recipe {
    name: "rw-lock",
    bypasses: SHARED,
    make: |bypass| Locks::of(Kind::ReadWrite, Way::Plain, bypass),
};
pub(super) const SEMAPHORE: Recipe = Recipe {
    name: "semaphore",
    bypasses: SHARED,
    make: |bypass| Locks::of(Kind::Semaphore, Way::Plain, bypass),
};
pub(super) const ELECTION: Recipe = Recipe {
    name: "election",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::Election, Way::Plain, bypass),
};
pub(super) const KAZOO_LAYOUT: Recipe = Recipe {
    name: "kazoo-layout",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of_one(LAID_OUT, Way::Kazoo, bypass),
};
pub(super) const MIXED_LAYOUTS: Recipe = Recipe {
    name: "mixed-layouts",
    bypasses: &["overlooks-others"],
    make: |bypass| Locks::of_one(MIXABLE, Way::Mixed, bypass),
};
pub(super) const CHROOT: Recipe = Recipe {
    name: "chroot",
    bypasses: &["waits-for-nobody", "forgets-chroot"],
    make: |bypass| Locks::of_one(ALL, Way::Chroot, bypass),
};
pub(super) const READ_ONLY: Recipe = Recipe {
    name: "read-only",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of_one(ALL, Way::Readers, bypass),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lock,
    MultiLock,
    Reentrant,
    Simple,
    ReadWrite,
    Semaphore,
    Election,
}

const ALL: &[Kind] = &[
    Kind::Lock,
    Kind::MultiLock,
    Kind::Reentrant,
    Kind::Simple,
    Kind::ReadWrite,
    Kind::Semaphore,
    Kind::Election,
];
/// Those whose znodes are called as another library calls them.
const LAID_OUT: &[Kind] = &[
    Kind::Lock,
    Kind::MultiLock,
    Kind::Reentrant,
    Kind::ReadWrite,
    Kind::Semaphore,
    Kind::Election,
];
/// Those who notice znodes of another library.
const MIXABLE: &[Kind] = &[
    Kind::Lock,
    Kind::MultiLock,
    Kind::Reentrant,
    Kind::ReadWrite,
    Kind::Election,
];

const PATH: &str = "/held";
const OTHER: &str = "/other";
/// Permits of the semaphore.
const PERMITS: usize = 2;

struct Locks {
    kind: Kind,
    way: Way,
    bypass: Bypass,
    /// By path.
    grants: BTreeMap<&'static str, Grants>,
}

/// What was acquired.
enum Held {
    One(Guard),
    Several(MultiGuard),
    Writing(WriteGuard),
    Share(ReentrantGuard, ReentrantGuard),
    Leading(Leadership),
}

impl Held {
    fn guards(&self) -> Vec<&Guard> {
        match self {
            Held::One(guard) => vec![guard],
            Held::Several(guards) => guards.guards().iter().collect(),
            Held::Writing(guard) => vec![guard],
            Held::Share(guard, _) => vec![guard],
            Held::Leading(leadership) => vec![leadership],
        }
    }

    async fn release(self) -> Result<(), Error> {
        match self {
            Held::One(guard) => guard.release().await,
            Held::Several(guards) => guards.release().await,
            Held::Writing(guard) => guard.release().await,
            Held::Share(one, other) => one.release().await.and(other.release().await),
            Held::Leading(leadership) => leadership.resign().await,
        }
    }
}

impl Scenario for Locks {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 300, async |client| self.round(&host, client).await).await }
            .boxed_local()
    }

    /// The znode of the simple lock has one name, whoever holds it.
    fn bears_operators(&self) -> bool {
        self.kind != Kind::Simple
    }

    fn meets_readers(&self) -> bool {
        self.way == Way::Readers
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        self.grants[PATH].committed(entry)
    }
}

impl Locks {
    /// One of these kinds, by the seed.
    fn of_one(kinds: &[Kind], way: Way, bypass: Bypass) -> Rc<dyn Scenario> {
        Locks::of(kinds[fastrand::usize(..kinds.len())], way, bypass)
    }

    fn of(kind: Kind, way: Way, bypass: Bypass) -> Rc<dyn Scenario> {
        let most = match kind {
            Kind::ReadWrite => usize::MAX,
            Kind::Semaphore => PERMITS,
            _ => 1,
        };
        let grants = || match kind {
            Kind::Simple => Grants::of(most).by_name(),
            _ => Grants::of(most),
        };
        let grants = [PATH, OTHER].map(|path| (path, grants().below(way.root())));
        Rc::new(Locks {
            kind,
            way,
            bypass,
            grants: grants.into(),
        })
    }

    async fn acquire(&self, place: &Place) -> Result<Held, Error> {
        let (client, path, layout) = (&place.client, place.path(PATH), self.way.layout());
        let lock = Lock::new(client, &path).layout(layout);
        Ok(match self.kind {
            Kind::Lock => Held::One(lock.acquire().await?),
            Kind::MultiLock => {
                let other = Lock::new(client, place.path(OTHER)).layout(layout);
                Held::Several(MultiLock::new([other, lock]).acquire().await?)
            }
            Kind::Reentrant => {
                let lock = ReentrantLock::new(lock);
                let first = lock.acquire("me").await?;
                Held::Share(first, lock.acquire("me").await?)
            }
            Kind::Simple => Held::One(SimpleLock::new(client, path).acquire().await?),
            Kind::ReadWrite => {
                let lock = RwLock::new(client, path).layout(layout);
                match fastrand::bool() {
                    true => Held::One(lock.read().await?),
                    false => Held::Writing(lock.write().await?),
                }
            }
            Kind::Semaphore => {
                let semaphore = Semaphore::new(client, path, PERMITS).layout(layout);
                match fastrand::bool() {
                    true => Held::One(semaphore.acquire().await?),
                    false => Held::Several(semaphore.acquire_many(PERMITS).await?),
                }
            }
            Kind::Election => {
                let election = Election::new(client, path).layout(layout);
                Held::Leading(election.campaign().await?)
            }
        })
    }

    /// Does who holds this hold it alone?
    fn is_exclusive(&self, held: &Held) -> bool {
        match self.kind {
            Kind::Semaphore => false,
            Kind::ReadWrite => matches!(held, Held::Writing(_)),
            _ => true,
        }
    }

    /// Who was granted what a guard stands for.
    fn grants(&self, guard: &Guard) -> &Grants {
        match guard.path().ends_with(OTHER) {
            true => &self.grants[OTHER],
            false => &self.grants[PATH],
        }
    }

    async fn round(&self, host: &Host, client: &Client) -> Round {
        let place = self.way.place(host, client, self.bypass).await?;
        host.prepare(&place.client, &place.path(WORK)).await?;
        if matches!(self.bypass, Some("waits-for-nobody" | "overlooks-others")) {
            return self.push_in(host, &place).await;
        }
        let gives_up = !host.is_over() && fastrand::u32(..4) == 0;
        let patience = match gives_up {
            true => Duration::from_millis(fastrand::u64(..300)),
            false => Duration::MAX,
        };
        let held = match timeout(patience, self.acquire(&place)).await {
            Err(_) => return Ok(()),
            Ok(Err(Error::ForeignChild { .. })) if self.way == Way::Mixed => return Ok(()),
            Ok(held) => held?,
        };
        let exclusive = self.is_exclusive(&held);
        for guard in held.guards() {
            self.granted(host, &place, guard, exclusive)?;
        }
        // Long enough to be expired meanwhile, where that may not be noticed.
        let works = match self.way {
            Way::Readers => host.stage.session,
            _ => 400,
        };
        for _ in 0..fastrand::u32(1..4) {
            host.work(works).await;
            if !self.use_it(host, &place, &held, exclusive).await? {
                break;
            }
        }
        match held {
            Held::Writing(guard) if fastrand::bool() => self.downgrade(host, &place, guard).await,
            // Dropping is letting go, too.
            held if !host.is_over() && fastrand::u32(..4) == 0 => {
                drop(held);
                Ok(())
            }
            held => Ok(held.release().await?),
        }
    }

    fn granted(&self, host: &Host, place: &Place, guard: &Guard, exclusive: bool) -> Checked {
        if place.client.state() == State::ConnectedReadOnly && guard.state() == HoldState::Held {
            let what = format!("{} was granted on a server that only reads", guard.node());
            return broken("read-only", what);
        }
        let (node, token) = (place.full(guard.node()), guard.fencing_token().get());
        self.grants(guard).granted(host, &node, token, exclusive)
    }

    /// Writes into what is guarded; false if it is not guarded any more.
    async fn use_it(
        &self,
        host: &Host,
        place: &Place,
        held: &Held,
        exclusive: bool,
    ) -> Checked<bool> {
        let guards = held.guards();
        let lost = guards.iter().any(|guard| guard.state().is_lost());
        if !lost {
            for guard in &guards {
                let node = place.full(guard.node());
                self.grants(guard).still_held(host, &node)?;
            }
        }
        if !exclusive {
            return Ok(!lost);
        }
        let main = place.path(PATH);
        let Some(guard) = guards.iter().find(|guard| guard.path() == main) else {
            return Ok(false);
        };
        let (grants, token) = (&self.grants[PATH], guard.fencing_token().get());
        if !lost || self.bypass == Some("ignores-loss") {
            grants.write_outside(host, token)?;
        }
        let work = place.path(WORK);
        if self.bypass == Some("writes-unfenced") {
            let text = token.to_string();
            let _ = place.client.set_data(&work, &text, None).await;
            return Ok(true);
        }
        grants.write_inside(guard.transaction(), &work, token).await
    }

    async fn downgrade(&self, host: &Host, place: &Place, guard: WriteGuard) -> Round {
        let reading = guard.downgrade().await?;
        self.granted(host, place, &reading, false)?;
        host.work(300).await;
        Ok(reading.release().await?)
    }

    /// Takes a place, and what is waited for with it. Who overlooks others looks for those of its
    /// own kind.
    async fn push_in(&self, host: &Host, place: &Place) -> Round {
        let (client, path) = (&place.client, place.path(PATH));
        host.prepare(client, &path).await?;
        let marker = ["lock-", "__lock__"][host.process % 2];
        let created = client.create(
            &format!("{path}/{marker}"),
            "",
            CreateMode::EphemeralSequential,
        );
        let Ok(created) = created.await else {
            return Ok(());
        };
        let node = place.full(&created.path);
        let number = node.rsplit(marker).next().unwrap_or_default();
        let in_front = |name: &String| {
            let other = name.rsplit_once(marker);
            other.is_some_and(|(_, other)| other < number)
        };
        let first = match client.get_children(&path).await {
            _ if self.bypass == Some("waits-for-nobody") => true,
            Ok(names) => !names.iter().any(in_front),
            Err(_) => false,
        };
        if first {
            let exclusive = self.kind != Kind::Semaphore;
            let token = created.stat.czxid;
            self.grants[PATH].granted(host, &node, token, exclusive)?;
            host.work(400).await;
        }
        let _ = client.delete(&created.path, None).await;
        Ok(())
    }
}
