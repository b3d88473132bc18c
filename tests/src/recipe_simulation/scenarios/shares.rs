//! Things that are divided among processes: each has one owner at a time, and in the end it has one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_recipes::coordination::{Cluster, Worker, WorkerInfo};
use quorate_recipes::{Client, CreateMode, Partitioner};
use tokio::time::timeout;

use super::super::stage::Host;
use super::grants::Grants;
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

pub(super) const PARTITIONER: Recipe = Recipe {
    name: "partitioner",
    bypasses: &["takes-everything"],
    make: |bypass| {
        let owned = Owned::default();
        Rc::new(Partitions { bypass, owned })
    },
};
pub(super) const COORDINATION: Recipe = Recipe {
    name: "coordination",
    bypasses: &["serves-on"],
    make: |bypass| {
        let (owned, through) = (Owned::default(), Cell::default());
        Rc::new(Clusters {
            bypass,
            owned,
            through,
        })
    },
};

const PATH: &str = "/shares";
const THINGS: [&str; 4] = ["a", "b", "c", "d"];

/// Who owns what.
struct Owned {
    grants: BTreeMap<&'static str, Grants>,
    nodes: RefCell<BTreeMap<String, String>>,
}

impl Default for Owned {
    fn default() -> Self {
        Owned {
            grants: THINGS.map(|thing| (thing, Grants::of(1))).into(),
            nodes: RefCell::default(),
        }
    }
}

impl Owned {
    fn take(&self, host: &Host, thing: &str, node: &str, token: i64) -> Checked {
        self.grants[thing].granted(host, node, token, true)?;
        let mut nodes = self.nodes.borrow_mut();
        nodes.insert(thing.to_owned(), node.to_owned());
        Ok(())
    }

    fn give_back(&self, thing: &str, node: &str) {
        self.grants[thing].released(node);
        let mut nodes = self.nodes.borrow_mut();
        if nodes.get(thing).is_some_and(|owner| owner == node) {
            nodes.remove(thing);
        }
    }

    /// Has everything an owner that is there?
    fn is_complete(&self, host: &Host) -> bool {
        let nodes = self.nodes.borrow();
        let there = |node: &String| host.truth(|tree| tree.get(node).is_some());
        nodes.len() == THINGS.len() && nodes.values().all(there)
    }
}

struct Partitions {
    bypass: Bypass,
    owned: Owned,
}

impl Scenario for Partitions {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 200, async |client| self.round(&host, client).await).await }
            .boxed_local()
    }
}

impl Partitions {
    async fn round(&self, host: &Host, client: &Client) -> Round {
        if self.bypass.is_some() {
            return self.take_everything(host, client).await;
        }
        let last = host.is_over();
        let partitioner = Partitioner::new(client, PATH, THINGS);
        let mut share = partitioner.join(&format!("member-{}", host.slot)).await?;
        let mut mine: BTreeMap<String, String> = BTreeMap::new();
        for turn in 0.. {
            let guards = share.guards();
            mine.retain(|thing, node| {
                let kept = guards.get(thing).is_some_and(|guard| guard.node() == node);
                if !kept {
                    self.owned.give_back(thing, node);
                }
                kept
            });
            for (thing, guard) in guards.iter() {
                if !mine.contains_key(thing) && !guard.state().is_lost() {
                    let token = guard.fencing_token().get();
                    self.owned.take(host, thing, guard.node(), token)?;
                    mine.insert(thing.clone(), guard.node().to_owned());
                }
            }
            drop(guards);
            if (last && self.owned.is_complete(host)) || (!last && turn > 10) {
                break;
            }
            if let Ok(changed) = timeout(Duration::from_millis(200), share.changed()).await {
                changed?;
            }
        }
        for (thing, node) in &mine {
            self.owned.give_back(thing, node);
        }
        Ok(share.leave().await?)
    }

    async fn take_everything(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, PATH).await?;
        let name = format!("{PATH}/mine-");
        let created = client.create(&name, "", CreateMode::EphemeralSequential);
        let created = created.await?;
        for thing in THINGS {
            self.owned
                .take(host, thing, &created.path, created.stat.czxid)?;
        }
        host.work(500).await;
        Ok(())
    }
}

struct Clusters {
    bypass: Bypass,
    owned: Owned,
    /// Workers that are through.
    through: Cell<usize>,
}

const MASTERS: usize = 2;
const WORKERS: usize = 3;

impl Scenario for Clusters {
    fn slots(&self) -> usize {
        MASTERS + WORKERS
    }

    /// What a worker serves is told by a znode of one name.
    fn bears_operators(&self) -> bool {
        false
    }

    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < MASTERS {
                return rounds(&host, 100, async |client| self.govern(&host, client).await).await;
            }
            rounds(&host, 200, async |client| self.serve(&host, client).await).await?;
            self.through.set(self.through.get() + 1);
            Ok(())
        }
        .boxed_local()
    }
}

impl Clusters {
    async fn govern(&self, host: &Host, client: &Client) -> Round {
        let last = host.is_over();
        let cluster = Cluster::new(client, PATH);
        let master = cluster.master(format!("master-{}", host.slot));
        loop {
            let time = Duration::from_millis(fastrand::u64(500..3_000));
            match timeout(time, master.run()).await {
                Ok(error) => return Err(error.into()),
                Err(_) if last && self.through.get() < WORKERS => {}
                Err(_) => return Ok(()),
            }
        }
    }

    async fn serve(&self, host: &Host, client: &Client) -> Round {
        let last = host.is_over();
        let cluster = Cluster::new(client, PATH);
        for thing in THINGS {
            cluster.add_task(thing).await?;
        }
        let info = WorkerInfo::new(format!("worker-{}", host.slot));
        let mut worker = Worker::join(&cluster, &info).await?;
        let mut mine = BTreeMap::new();
        let node = worker.node().to_owned();
        for turn in 0.. {
            let tasks = worker.tasks();
            mine.retain(|thing: &String, _| {
                let kept = tasks.contains_key(thing);
                if !kept && self.bypass.is_none() {
                    self.owned.give_back(thing, &node);
                }
                kept
            });
            for (thing, task) in tasks.iter() {
                if !mine.contains_key(thing) {
                    let epoch = task.epoch().cast_signed();
                    self.owned.take(host, thing, &node, epoch)?;
                    mine.insert(thing.clone(), task.clone());
                }
            }
            drop(tasks);
            if (last && self.owned.is_complete(host)) || (!last && turn > 10) {
                break;
            }
            if let Ok(changed) = timeout(Duration::from_millis(300), worker.changed()).await {
                changed?;
            }
        }
        for thing in mine.keys() {
            self.owned.give_back(thing, &node);
        }
        Ok(())
    }
}
