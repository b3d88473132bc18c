//! Everything that gives something to one, to a few, or to readers and a writer.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_proto::TxnEntry;
use quorate_recipes::{
    Client, CreateMode, Election, Error, Guard, Leadership, Lock, MultiGuard, MultiLock,
    ReentrantGuard, ReentrantLock, RwLock, Semaphore, SimpleLock, WriteGuard,
};
use tokio::time::timeout;

use super::super::stage::Host;
use super::grants::{Grants, WORK};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

const EXCLUSIVE: &[&str] = &["waits-for-nobody", "ignores-loss"];
const SHARED: &[&str] = &["waits-for-nobody"];

pub(super) const LOCK: Recipe = Recipe {
    name: "lock",
    bypasses: &["waits-for-nobody", "ignores-loss", "writes-unfenced"],
    make: |bypass| Locks::of(Kind::Lock, bypass),
};
pub(super) const MULTI_LOCK: Recipe = Recipe {
    name: "multi-lock",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::MultiLock, bypass),
};
pub(super) const REENTRANT_LOCK: Recipe = Recipe {
    name: "reentrant-lock",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::Reentrant, bypass),
};
pub(super) const SIMPLE_LOCK: Recipe = Recipe {
    name: "simple-lock",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::Simple, bypass),
};
pub(super) const RW_LOCK: Recipe = Recipe {
    name: "rw-lock",
    bypasses: SHARED,
    make: |bypass| Locks::of(Kind::ReadWrite, bypass),
};
pub(super) const SEMAPHORE: Recipe = Recipe {
    name: "semaphore",
    bypasses: SHARED,
    make: |bypass| Locks::of(Kind::Semaphore, bypass),
};
pub(super) const ELECTION: Recipe = Recipe {
    name: "election",
    bypasses: EXCLUSIVE,
    make: |bypass| Locks::of(Kind::Election, bypass),
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

const PATH: &str = "/held";
const OTHER: &str = "/other";
/// Permits of the semaphore.
const PERMITS: usize = 2;

struct Locks {
    kind: Kind,
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

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        self.grants[PATH].committed(entry)
    }
}

impl Locks {
    fn of(kind: Kind, bypass: Bypass) -> Rc<dyn Scenario> {
        let most = match kind {
            Kind::ReadWrite => usize::MAX,
            Kind::Semaphore => PERMITS,
            _ => 1,
        };
        let grants = match kind {
            Kind::Simple => [(PATH, Grants::of(1).by_name()), (OTHER, Grants::of(1))],
            _ => [(PATH, Grants::of(most)), (OTHER, Grants::of(most))],
        };
        Rc::new(Locks {
            kind,
            bypass,
            grants: grants.into(),
        })
    }

    async fn acquire(&self, client: &Client) -> Result<Held, Error> {
        let lock = Lock::new(client, PATH);
        Ok(match self.kind {
            Kind::Lock => Held::One(lock.acquire().await?),
            Kind::MultiLock => {
                let locks = MultiLock::new([Lock::new(client, OTHER), lock]);
                Held::Several(locks.acquire().await?)
            }
            Kind::Reentrant => {
                let lock = ReentrantLock::new(lock);
                let first = lock.acquire("me").await?;
                Held::Share(first, lock.acquire("me").await?)
            }
            Kind::Simple => Held::One(SimpleLock::new(client, PATH).acquire().await?),
            Kind::ReadWrite => {
                let lock = RwLock::new(client, PATH);
                match fastrand::bool() {
                    true => Held::One(lock.read().await?),
                    false => Held::Writing(lock.write().await?),
                }
            }
            Kind::Semaphore => {
                let semaphore = Semaphore::new(client, PATH, PERMITS);
                match fastrand::bool() {
                    true => Held::One(semaphore.acquire().await?),
                    false => Held::Several(semaphore.acquire_many(PERMITS).await?),
                }
            }
            Kind::Election => Held::Leading(Election::new(client, PATH).campaign().await?),
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

    async fn round(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, WORK).await?;
        if self.bypass == Some("waits-for-nobody") {
            return self.push_in(host, client).await;
        }
        let gives_up = !host.is_over() && fastrand::u32(..4) == 0;
        let patience = match gives_up {
            true => Duration::from_millis(fastrand::u64(..300)),
            false => Duration::MAX,
        };
        let Ok(held) = timeout(patience, self.acquire(client)).await else {
            return Ok(());
        };
        let held = held?;
        let exclusive = self.is_exclusive(&held);
        for guard in held.guards() {
            let token = guard.fencing_token().get();
            self.grants[guard.path()].granted(host, guard.node(), token, exclusive)?;
        }
        for _ in 0..fastrand::u32(1..4) {
            host.work(400).await;
            if !self.use_it(host, client, &held, exclusive).await? {
                break;
            }
        }
        match held {
            Held::Writing(guard) if fastrand::bool() => self.downgrade(host, guard).await,
            // Dropping is letting go, too.
            held if !host.is_over() && fastrand::u32(..4) == 0 => {
                drop(held);
                Ok(())
            }
            held => Ok(held.release().await?),
        }
    }

    /// Writes into what is guarded; false if it is not guarded any more.
    async fn use_it(
        &self,
        host: &Host,
        client: &Client,
        held: &Held,
        exclusive: bool,
    ) -> Checked<bool> {
        let guards = held.guards();
        let lost = guards.iter().any(|guard| guard.state().is_lost());
        if !lost {
            for guard in &guards {
                self.grants[guard.path()].still_held(host, guard.node())?;
            }
        }
        if !exclusive {
            return Ok(!lost);
        }
        let Some(guard) = guards.iter().find(|guard| guard.path() == PATH) else {
            return Ok(false);
        };
        let (grants, token) = (&self.grants[PATH], guard.fencing_token().get());
        if !lost || self.bypass == Some("ignores-loss") {
            grants.write_outside(host, token)?;
        }
        if self.bypass == Some("writes-unfenced") {
            let _ = client.set_data(WORK, &token.to_string(), None).await;
            return Ok(true);
        }
        grants.write_inside(guard.transaction(), token).await
    }

    async fn downgrade(&self, host: &Host, guard: WriteGuard) -> Round {
        let reading = guard.downgrade().await?;
        let token = reading.fencing_token().get();
        self.grants[PATH].granted(host, reading.node(), token, false)?;
        host.work(300).await;
        Ok(reading.release().await?)
    }

    /// Takes a place, and what is waited for with it.
    async fn push_in(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, PATH).await?;
        let name = format!("{PATH}/lock-");
        let created = client.create(&name, "", CreateMode::EphemeralSequential);
        let Ok(created) = created.await else {
            return Ok(());
        };
        let token = created.stat.czxid;
        let exclusive = self.kind != Kind::Semaphore;
        self.grants[PATH].granted(host, &created.path, token, exclusive)?;
        host.work(400).await;
        let _ = client.delete(&created.path, None).await;
        Ok(())
    }
}
