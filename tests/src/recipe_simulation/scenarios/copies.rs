//! What follows a part of the tree: in the end it is as the tree is, and it never goes back.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use quorate_recipes::client::{Error as ClientError, EventKind};
use quorate_recipes::{Cache, CacheEvent, Client, CreateMode, Group};
use quorate_server::tree::{Node, Tree};
use tokio::time::timeout;

use super::super::stage::{Host, broken};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

pub(super) const CACHE: Recipe = Recipe {
    name: "cache",
    bypasses: &["ignores-gaps"],
    make: |bypass| {
        let through = Cell::default();
        Rc::new(Copies { bypass, through })
    },
};
pub(super) const GROUP: Recipe = Recipe {
    name: "group",
    bypasses: &["looks-once"],
    make: |bypass| {
        let through = Cell::default();
        Rc::new(Groups { bypass, through })
    },
};

const PATH: &str = "/tree";
/// How long a stream is waited for before one looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// Versions by path.
type Versions = BTreeMap<String, (i64, i64)>;

/// What is committed at a path and below.
fn below(tree: &Tree, path: &str) -> Versions {
    let mut found = Versions::new();
    let mut left: Vec<&Node> = tree.get(path).into_iter().collect();
    while let Some(node) = left.pop() {
        let stat = node.persisted();
        found.insert(node.path().to_owned(), (stat.czxid, stat.mzxid));
        left.extend(tree.children(node));
    }
    found
}

struct Copies {
    bypass: Bypass,
    /// Writers that are through.
    through: Cell<usize>,
}

impl Scenario for Copies {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < 2 {
                rounds(&host, 100, async |client| self.write(client).await).await?;
                self.through.set(self.through.get() + 1);
                return Ok(());
            }
            rounds(&host, 100, async |client| match self.bypass {
                Some(_) => self.copy_with_gaps(&host, client).await,
                None => self.copy(&host, client).await,
            })
            .await
        }
        .boxed_local()
    }
}

impl Copies {
    async fn write(&self, client: &Client) -> Round {
        for _ in 0..fastrand::u32(1..6) {
            let paths = ["/tree", "/tree/a", "/tree/b"];
            let parent = paths[fastrand::usize(..paths.len())];
            let below = format!("{parent}/{}", fastrand::u32(..30));
            let path = match fastrand::u32(..4) {
                0 => parent,
                _ => &below,
            };
            let written = match fastrand::u32(..4) {
                0 | 1 => client
                    .create(path, "", CreateMode::Persistent)
                    .await
                    .map(drop),
                2 => client.set_data(path, "", None).await.map(drop),
                _ => client.delete(path, None).await,
            };
            if let Err(error) = written
                && error.is_session_over()
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn is_settled(&self, host: &Host) -> bool {
        host.is_over() && self.through.get() == 2
    }

    async fn copy(&self, host: &Host, client: &Client) -> Round {
        let cache = Cache::new(client, PATH);
        let mut events = cache.events();
        let (mut told, mut newest) = (Versions::new(), Versions::new());
        loop {
            match timeout(LOOK, events.next()).await {
                Ok(Some(event)) => match event? {
                    CacheEvent::Added { path, node } | CacheEvent::Changed { path, node } => {
                        let version = (node.stat.czxid, node.stat.mzxid);
                        let before = newest.insert(path.clone(), version);
                        if before.is_some_and(|before| before >= version) {
                            let what = format!("{path} is {version:x?} after {before:x?}");
                            return Ok(broken("older", what)?);
                        }
                        told.insert(path, version);
                    }
                    CacheEvent::Removed { path } => drop(told.remove(&path)),
                    _ => {}
                },
                Ok(None) => return Ok(()),
                Err(_) => {
                    let nodes = cache.snapshot().into_iter();
                    let copied: Versions = nodes
                        .map(|(path, node)| (path, (node.stat.czxid, node.stat.mzxid)))
                        .collect();
                    let truth = host.truth(|tree| below(tree, PATH));
                    if self.is_settled(host) && copied == truth && told == truth {
                        return Ok(());
                    }
                    if !host.is_over() && fastrand::u32(..10) == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Follows what is told, and does not mind what is not.
    async fn copy_with_gaps(&self, host: &Host, client: &Client) -> Round {
        let mut events = client.retry(|| client.watch_recursive(PATH)).await?;
        let mut copied = host.truth(|tree| below(tree, PATH));
        loop {
            match timeout(LOOK, events.next()).await {
                Ok(Some(event)) => {
                    let event = event?;
                    if event.kind == EventKind::Missed {
                        continue;
                    }
                    match client.retry(|| client.exists(&event.path)).await? {
                        Some(stat) => copied.insert(event.path, (stat.czxid, stat.mzxid)),
                        None => copied.remove(&event.path),
                    };
                }
                Ok(None) => return Ok(()),
                Err(_) if self.is_settled(host) => {
                    if copied == host.truth(|tree| below(tree, PATH)) {
                        return Ok(());
                    }
                }
                Err(_) => {}
            }
        }
    }
}

struct Groups {
    bypass: Bypass,
    /// Members that are through.
    through: Cell<usize>,
}

impl Scenario for Groups {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < 3 {
                rounds(&host, 200, async |client| self.join(&host, client).await).await?;
                self.through.set(self.through.get() + 1);
                return Ok(());
            }
            rounds(&host, 100, async |client| self.watch(&host, client).await).await
        }
        .boxed_local()
    }
}

impl Groups {
    async fn join(&self, host: &Host, client: &Client) -> Round {
        let group: Group<String> = Group::new(client, PATH);
        let id = format!("member-{}", host.slot);
        let membership = group.join(&id, &"first".to_owned()).await?;
        host.work(400).await;
        membership.set(&"second".to_owned())?;
        host.work(400).await;
        match membership.leave().await {
            Err(error) if error.is_session_over() => Err(error.into()),
            left => Ok(left?),
        }
    }

    async fn watch(&self, host: &Host, client: &Client) -> Round {
        let group: Group<String> = Group::new(client, PATH);
        let mut ids = group.watch_ids();
        let mut seen = BTreeSet::new();
        let mut looked = false;
        loop {
            if self.bypass.is_none() || !looked {
                match timeout(LOOK, ids.next()).await {
                    Ok(Some(now)) => {
                        seen = now?;
                        looked = !seen.is_empty();
                    }
                    Ok(None) => return Err(ClientError::Closed.into()),
                    Err(_) => {}
                }
            } else {
                host.work(200).await;
            }
            let truth: BTreeSet<String> = host.truth(|tree| {
                let versions = below(tree, PATH).into_keys();
                let names = versions.filter_map(|path| {
                    let name = path.strip_prefix("/tree/")?;
                    Some(name.to_owned())
                });
                names.collect()
            });
            if host.is_over() && self.through.get() == 3 && seen == truth {
                return Ok(());
            }
        }
    }
}
