//! A tree of values that many follow: in the end they see the last ones, and no key ever goes back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use quorate_proto::{Txn, TxnEntry};
use quorate_recipes::{Client, Config, ConfigTree};
use tokio::time::timeout;

use super::super::stage::{Host, broken};
use super::{Bypass, Recipe, Round, Scenario, parts, rounds};
use crate::simulation::checker::Checked;

pub(super) const CONFIG_TREE: Recipe = Recipe {
    name: "config-tree",
    bypasses: &["reads-anywhere", "looks-once"],
    make: |bypass| {
        Rc::new(Trees {
            bypass,
            next: Cell::default(),
            history: RefCell::default(),
            last: RefCell::default(),
            through: Cell::default(),
        })
    },
};

const PATH: &str = "/settings";
const KEYS: [&str; 3] = ["limits/uploads", "limits/users", "motd"];
/// How long a change is waited for before one looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// Values by key.
type Values = BTreeMap<String, String>;

struct Trees {
    bypass: Bypass,
    /// The next value, which no other is like.
    next: Cell<u32>,
    /// The values of each key that were committed, in their order.
    history: RefCell<BTreeMap<String, Vec<String>>>,
    /// Those that were committed last.
    last: RefCell<Values>,
    /// Writers that are through.
    through: Cell<usize>,
}

impl Scenario for Trees {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < 2 {
                rounds(&host, 100, async |client| self.write(client).await).await?;
                self.through.set(self.through.get() + 1);
                return Ok(());
            }
            rounds(&host, 100, async |client| match self.bypass {
                Some("reads-anywhere") if !host.is_over() => self.read_anywhere(&host).await,
                _ => self.follow(&host, client).await,
            })
            .await
        }
        .boxed_local()
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        for part in parts(entry) {
            let (path, data) = match part {
                Txn::SetData(set) => (set.path, set.data),
                Txn::Create(create) | Txn::Create2(create) => (create.path, create.data),
                Txn::Delete(delete) => (delete.path, None),
                _ => continue,
            };
            let key = path.strip_prefix("/settings/").unwrap_or_default();
            if !KEYS.contains(&key) {
                continue;
            }
            let value = data.map(|data| String::from_utf8_lossy(data).into_owned());
            let mut last = self.last.borrow_mut();
            match value {
                Some(value) => {
                    let mut history = self.history.borrow_mut();
                    history
                        .entry(key.to_owned())
                        .or_default()
                        .push(value.clone());
                    last.insert(key.to_owned(), value);
                }
                None => drop(last.remove(key)),
            }
        }
        Ok(())
    }
}

impl Trees {
    async fn write(&self, client: &Client) -> Round {
        let key = KEYS[fastrand::usize(..KEYS.len())];
        let config: Config<String> = Config::new(client, format!("{PATH}/{key}"));
        if fastrand::u32(..5) == 0 {
            return Ok(config.delete().await?);
        }
        self.next.set(self.next.get() + 1);
        Ok(config.set(&self.next.get().to_string()).await?)
    }

    /// Looks at what comes, until it is what is there when all is over.
    async fn follow(&self, host: &Host, client: &Client) -> Round {
        let tree: ConfigTree<String> = ConfigTree::new(client, PATH);
        let mut changes = tree.changes();
        let (mut told, mut copied) = (Values::new(), Values::new());
        let (mut newest_told, mut newest_copied) = (Values::new(), Values::new());
        loop {
            match timeout(LOOK, changes.next()).await {
                Ok(Some(change)) => match change? {
                    (key, Some(value)) => {
                        self.advance(&mut newest_told, &key, &value)?;
                        told.insert(key, value);
                    }
                    (key, None) => drop(told.remove(&key)),
                },
                Ok(None) => return Ok(()),
                Err(_) if host.is_over() && self.through.get() == 2 => {
                    let last = self.last.borrow();
                    if told == *last && copied == *last {
                        return Ok(());
                    }
                }
                Err(_) if !host.is_over() && fastrand::u32(..10) == 0 => return Ok(()),
                Err(_) => {}
            }
            if self.bypass != Some("looks-once") || copied.is_empty() {
                copied = tree.values();
            }
            for (key, value) in &copied {
                self.advance(&mut newest_copied, key, value)?;
            }
        }
    }

    /// Asks one server after the other.
    async fn read_anywhere(&self, host: &Host) -> Round {
        let mut newest = Values::new();
        let others = [host.client(), host.client(), host.client()];
        for other in others.iter().cycle() {
            if host.is_over() {
                break;
            }
            for key in KEYS {
                if let Ok((data, _)) = other.get_data(&format!("{PATH}/{key}")).await {
                    self.advance(&mut newest, key, &String::from_utf8_lossy(&data))?;
                }
            }
            host.work(50).await;
        }
        Ok(())
    }

    /// A value is seen; the one that was seen before was not written after it.
    fn advance(&self, newest: &mut Values, key: &str, value: &str) -> Checked {
        let history = self.history.borrow();
        let history = history.get(key).map_or(&[][..], Vec::as_slice);
        let Some(at) = history.iter().rposition(|written| written == value) else {
            return broken("unknown", format!("nobody has made {key} {value}"));
        };
        let before = newest.insert(key.to_owned(), value.to_owned());
        let older = before.filter(|before| !history[..=at].contains(before));
        match older {
            None => Ok(()),
            Some(before) => broken("older", format!("{key} is {value} after {before}")),
        }
    }
}
