//! The queues: nothing is lost, and nothing is handled twice unless a claim died.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_client::simulation::World as _;
use quorate_recipes::{Client, CreateMode, DelayQueue, Error, Item, Items, PriorityQueue, Queue};
use tokio::time::timeout;

use super::super::executor::lock;
use super::super::stage::{Host, Stage, broken};
use super::grants::Grants;
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

const BYPASSES: &[&str] = &["takes-unclaimed"];

pub(super) const QUEUE: Recipe = Recipe {
    name: "queue",
    bypasses: &["takes-unclaimed", "puts-again"],
    make: |bypass| Queues::of(Kind::Queue, bypass),
};
pub(super) const PRIORITY_QUEUE: Recipe = Recipe {
    name: "priority-queue",
    bypasses: BYPASSES,
    make: |bypass| Queues::of(Kind::Priority, bypass),
};
pub(super) const DELAY_QUEUE: Recipe = Recipe {
    name: "delay-queue",
    bypasses: BYPASSES,
    make: |bypass| Queues::of(Kind::Delay, bypass),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Queue,
    Priority,
    Delay,
}

const PATH: &str = "/queue";
const CLAIMS: &str = "/claims";

struct Queues {
    kind: Kind,
    bypass: Bypass,
    known: RefCell<Known>,
}

/// What is known of items, by what was put.
#[derive(Default)]
struct Known {
    /// Puts that were begun.
    next: u32,
    /// Those that were acknowledged, and when they are due.
    put: BTreeSet<String>,
    due: BTreeMap<String, u64>,
    /// The znode that each was found at.
    nodes: BTreeMap<String, String>,
    claims: BTreeMap<String, Rc<Grants>>,
    /// Those that somebody has removed, surely or perhaps.
    done: BTreeSet<String>,
    perhaps: BTreeSet<String>,
}

impl Scenario for Queues {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 100, async |client| self.round(&host, client).await).await }
            .boxed_local()
    }

    /// A claim has one name, whoever has it.
    fn bears_operators(&self) -> bool {
        false
    }

    fn finished(&self, stage: &Stage) -> Checked {
        let ensemble = lock(&stage.ensemble);
        let mut left = Vec::new();
        let mut below = vec![PATH.to_owned()];
        while let Some(path) = below.pop() {
            let Some(node) = ensemble.truth.get(&path) else {
                continue;
            };
            left.push(String::from_utf8_lossy(node.data().unwrap_or_default()).into_owned());
            let children = ensemble.truth.children(node);
            below.extend(children.map(|child| child.path().to_owned()));
        }
        let known = self.known.borrow();
        for item in &known.put {
            let there = left
                .iter()
                .filter(|data| data.contains(item.as_str()))
                .count();
            let gone = known.done.contains(item) || known.perhaps.contains(item);
            if there == 0 && !gone {
                return broken("lost", format!("{item} was put, and nobody has removed it"));
            }
            if there > 0 && known.done.contains(item) {
                return broken("doubled", format!("{item} was removed, and is still there"));
            }
            if there > 1 {
                return broken("doubled", format!("{item} is there {there} times"));
            }
        }
        Ok(())
    }
}

impl Queues {
    fn of(kind: Kind, bypass: Bypass) -> Rc<dyn Scenario> {
        let known = RefCell::default();
        Rc::new(Queues {
            kind,
            bypass,
            known,
        })
    }

    async fn round(&self, host: &Host, client: &Client) -> Round {
        let last = host.is_over();
        if last || fastrand::bool() {
            self.put(host, client).await?;
        }
        if !last && fastrand::bool() {
            return Ok(());
        }
        let patience = match last {
            true => Duration::from_secs(5),
            false => Duration::from_millis(fastrand::u64(..2_000)),
        };
        if self.bypass == Some("takes-unclaimed") {
            return self.grab(host, client).await;
        }
        let queue: Queue<String> = Queue::new(client, PATH);
        let priority: PriorityQueue<String> = PriorityQueue::new(client, PATH);
        let delay: DelayQueue<String> = DelayQueue::new(client, PATH);
        let items: &Items<String> = match self.kind {
            Kind::Queue => queue.deref(),
            Kind::Priority => priority.deref(),
            Kind::Delay => delay.deref(),
        };
        loop {
            match timeout(patience, items.take()).await {
                Ok(item) => return self.handle(host, item?).await,
                // Others may have taken what this one has put.
                Err(_) if !last || self.is_empty(host) => return Ok(()),
                Err(_) => {}
            }
        }
    }

    fn is_empty(&self, host: &Host) -> bool {
        host.truth(|tree| tree.get(PATH).is_none_or(|node| node.child_count() == 0))
    }

    async fn put(&self, host: &Host, client: &Client) -> Round {
        let item = {
            let mut known = self.known.borrow_mut();
            known.next += 1;
            format!("<{}>", known.next)
        };
        host.note(|| format!("puts {item}"));
        if self.bypass == Some("puts-again") {
            host.prepare(client, PATH).await?;
            let name = format!("{PATH}/queue-");
            let mut data = b"\0\x01\0\x01\x01\0\0\0".to_vec();
            data.push(u8::try_from(item.len()).unwrap_or(u8::MAX));
            data.extend_from_slice(item.as_bytes());
            data.push(2);
            let put = || client.create(&name, &data, CreateMode::PersistentSequential);
            client.retry_idempotent(put).await?;
        } else {
            let put = match self.kind {
                Kind::Queue => Queue::new(client, PATH).put(&item).await,
                Kind::Priority => {
                    let priority = fastrand::i32(-5..5);
                    PriorityQueue::new(client, PATH).put(&item, priority).await
                }
                Kind::Delay => {
                    let due = host.now() + Duration::from_millis(fastrand::u64(..500));
                    let millis = due.duration_since(UNIX_EPOCH).unwrap_or_default();
                    let millis = u64::try_from(millis.as_millis()).unwrap_or_default();
                    self.known.borrow_mut().due.insert(item.clone(), millis);
                    DelayQueue::new(client, PATH).put_at(&item, due).await
                }
            };
            put?;
        }
        self.known.borrow_mut().put.insert(item);
        Ok(())
    }

    /// Somebody has an item, by a claim or what stands for one.
    fn taken(&self, host: &Host, item: &str, node: &str, claim: &str, token: i64) -> Checked {
        let mut known = self.known.borrow_mut();
        if known.done.contains(item) {
            return broken("doubled", format!("{item} is taken after it was removed"));
        }
        let before = known.nodes.insert(item.to_owned(), node.to_owned());
        if before.as_deref().is_some_and(|before| before != node) {
            return broken(
                "doubled",
                format!("{item} is at {node} and was at {before:?}"),
            );
        }
        let now = lock(&host.stage.ensemble).time_of_day();
        if known.due.get(item).is_some_and(|due| *due > now) {
            return broken("early", format!("{item} is taken before it is due"));
        }
        let claims = known.claims.entry(item.to_owned());
        let claims = Rc::clone(claims.or_insert_with(|| Rc::new(Grants::of(1).by_name())));
        drop(known);
        claims.granted(host, claim, token, true)
    }

    async fn handle(&self, host: &Host, item: Item<String>) -> Round {
        let payload = item.payload().clone();
        let token = item.fencing_token().get();
        self.taken(host, &payload, item.item_node(), item.node(), token)?;
        host.work(200).await;
        if fastrand::u32(..5) == 0 && !host.is_over() {
            return Ok(item.give_back().await?);
        }
        // Until the answer comes, nobody knows.
        self.known.borrow_mut().perhaps.insert(payload.clone());
        let done = item.done().await;
        let mut known = self.known.borrow_mut();
        match done {
            Ok(()) => drop(known.done.insert(payload)),
            Err(Error::Lost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes the first item that is there, without a claim that others respect.
    async fn grab(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, CLAIMS).await?;
        let Ok(names) = client.get_children(PATH).await else {
            return Ok(());
        };
        let Some(name) = names.iter().min() else {
            return Ok(());
        };
        let node = format!("{PATH}/{name}");
        let mark = format!("{CLAIMS}/mark-");
        let (Ok((data, _)), Ok(mark)) = (
            client.get_data(&node).await,
            client
                .create(&mark, "", CreateMode::EphemeralSequential)
                .await,
        ) else {
            return Ok(());
        };
        let data = String::from_utf8_lossy(&data).into_owned();
        let begin = data.find('<').unwrap_or(0);
        let item = &data[begin..=data.find('>').unwrap_or(begin)];
        self.taken(host, item, &node, &mark.path, mark.stat.czxid)?;
        host.work(200).await;
        let _ = client.delete(&node, None).await;
        let _ = client.delete(&mark.path, None).await;
        Ok(())
    }
}
