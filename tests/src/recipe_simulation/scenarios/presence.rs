//! What is there for as long as somebody lives: znodes that are kept, and services that are found.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use quorate_recipes::client::Error as ClientError;
use quorate_recipes::{Client, CreateMode, Instance, NameService, NodeState, PersistentNode, Pick};
use tokio::time::timeout;

use super::super::stage::{Host, broken};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

pub(super) const PERSISTENT_NODE: Recipe = Recipe {
    name: "persistent-node",
    bypasses: &["creates-once"],
    make: |bypass| {
        let quiet = Cell::default();
        Rc::new(Nodes { bypass, quiet })
    },
};
pub(super) const NAME_SERVICE: Recipe = Recipe {
    name: "name-service",
    bypasses: &["looks-once", "publishes"],
    make: |bypass| {
        let (next, registered, found) = Default::default();
        Rc::new(Names {
            bypass,
            next,
            registered,
            found,
        })
    },
};

const PATH: &str = "/here";
const SERVICE: &str = "mail";
/// How long a change is waited for before one looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);
/// Those who are there; one more looks at them.
const PRESENT: usize = 3;

struct Nodes {
    bypass: Bypass,
    /// Nobody interferes any more.
    quiet: Cell<bool>,
}

impl Scenario for Nodes {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < PRESENT {
                return rounds(&host, 200, async |client| self.keep(&host, client).await).await;
            }
            rounds(&host, 500, async |client| self.interfere(client).await).await?;
            self.quiet.set(true);
            Ok(())
        }
        .boxed_local()
    }
}

impl Nodes {
    /// Deletes or overwrites what others keep.
    async fn interfere(&self, client: &Client) -> Round {
        let path = format!("{PATH}/{}", fastrand::usize(..PRESENT));
        let outcome = match fastrand::bool() {
            true => client.delete(&path, None).await,
            false => client.set_data(&path, "another", None).await.map(drop),
        };
        match outcome {
            Err(error) if error.is_session_over() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn keep(&self, host: &Host, client: &Client) -> Round {
        let last = host.is_over();
        let path = format!("{PATH}/{}", host.slot);
        if self.bypass == Some("creates-once") {
            host.prepare(client, PATH).await?;
            let _ = client.create(&path, "last", CreateMode::Ephemeral).await;
            if last {
                self.wait_until_there(host, client, &path).await?;
            }
            let _ = client.delete(&path, None).await;
            return Ok(());
        }
        let node = PersistentNode::new(client, &path, "first");
        node.present().await?;
        host.work(400).await;
        node.set("last");
        host.work(400).await;
        if last {
            self.wait_until_there(host, client, &path).await?;
            if let NodeState::Ended(error) = node.state() {
                return Err(error.into());
            }
            self.stays(host, client, &path).await?;
            if fastrand::bool() {
                // It goes nevertheless, as it has to before the process leaves.
                drop(node);
                return Ok(());
            }
        }
        node.close().await?;
        if !client.state().is_over() && self.is_there(host, client, &path, None) {
            return Ok(broken(
                "orphans",
                format!("{path} is there though it was closed"),
            )?);
        }
        Ok(())
    }

    /// Is the znode of this client there, with this data if that matters?
    fn is_there(&self, host: &Host, client: &Client, path: &str, data: Option<&str>) -> bool {
        let Some(session) = client.session() else {
            return false;
        };
        host.truth(|tree| {
            tree.get(path).is_some_and(|node| {
                let own = node.persisted().ephemeral_owner == session.id().0;
                own && data.is_none_or(|data| node.data() == Some(data.as_bytes()))
            })
        })
    }

    async fn wait_until_there(&self, host: &Host, client: &Client, path: &str) -> Round {
        while !self.quiet.get() || !self.is_there(host, client, path, Some("last")) {
            if client.state().is_over() {
                return Err(ClientError::Closed.into());
            }
            host.work(200).await;
        }
        Ok(())
    }

    async fn stays(&self, host: &Host, client: &Client, path: &str) -> Round {
        for _ in 0..5 {
            host.work(200).await;
            if !self.is_there(host, client, path, Some("last")) {
                // Unless the session is over, of which this hears.
                client.retry(|| client.sync(path)).await?;
                return Ok(broken(
                    "gone",
                    format!("{path} has gone, and {host:?} lives"),
                )?);
            }
        }
        Ok(())
    }
}

/// Ports by the ids of instances.
type Ports = BTreeMap<String, u16>;

fn ports(instances: impl IntoIterator<Item = Instance<String>>) -> Ports {
    let instances = instances.into_iter();
    let port = |instance: Instance<String>| Some((instance.id, instance.port?));
    instances.filter_map(port).collect()
}

struct Names {
    bypass: Bypass,
    next: Cell<u16>,
    /// What each place has registered in the end, if that stays.
    registered: RefCell<BTreeMap<usize, Option<(String, u16)>>>,
    /// All have been found.
    found: Cell<bool>,
}

impl Scenario for Names {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < PRESENT {
                return rounds(&host, 200, async |client| {
                    self.register(&host, client).await
                })
                .await;
            }
            rounds(&host, 100, async |client| self.find(&host, client).await).await?;
            self.found.set(true);
            Ok(())
        }
        .boxed_local()
    }
}

impl Names {
    /// Is found under an id that the next process in its place does not have.
    async fn register(&self, host: &Host, client: &Client) -> Round {
        let last = host.is_over();
        let names = NameService::new(client, PATH);
        self.next.set(self.next.get() + 1);
        let (id, port) = (host.process.to_string(), self.next.get());
        let mut instance = Instance::<String>::new(SERVICE).id(&id).port(port);
        instance.registration_time_utc = 0;
        let registration = match self.bypass {
            Some("publishes") => {
                names.publish(&instance).await?;
                None
            }
            _ => Some(names.register(&instance).await?),
        };
        host.work(400).await;
        let stays = last && host.slot != 0;
        if stays {
            let registered = Some((id, port));
            self.registered.borrow_mut().insert(host.slot, registered);
            while !self.found.get() {
                if client.state().is_over() {
                    return Err(ClientError::Closed.into());
                }
                host.work(200).await;
            }
        }
        match registration {
            Some(registration) => registration.close().await?,
            None if last => {}
            None => names.withdraw(&instance).await?,
        }
        if last && !stays {
            self.registered.borrow_mut().insert(host.slot, None);
        }
        Ok(())
    }

    /// Follows in one of three ways who is there, until it is who has to be when all is over.
    async fn find(&self, host: &Host, client: &Client) -> Round {
        let names = NameService::new(client, PATH);
        let way = fastrand::u32(..3);
        let mut watched = names.watch::<String>(SERVICE);
        let resolver = names.resolver::<String>(SERVICE, Pick::Random);
        let mut seen = Ports::new();
        loop {
            let looks = self.bypass != Some("looks-once") || seen.is_empty();
            match way {
                _ if !looks => host.work(200).await,
                0 => match timeout(LOOK, watched.next()).await {
                    Ok(Some(now)) => seen = ports(now?),
                    Ok(None) => return Err(ClientError::Closed.into()),
                    Err(_) => {}
                },
                1 => {
                    host.work(200).await;
                    seen = ports(resolver.instances().into_values());
                }
                _ => {
                    host.work(200).await;
                    seen = ports(names.resolve(SERVICE).await?);
                }
            }
            let registered = self.registered.borrow().clone();
            let settled = host.is_over() && registered.len() == PRESENT;
            if settled && seen == Ports::from_iter(registered.into_values().flatten()) {
                return Ok(());
            }
            if client.state().is_over() {
                return Err(ClientError::Closed.into());
            }
            if !host.is_over() && fastrand::u32(..10) == 0 {
                return Ok(());
            }
        }
    }
}
