//! Values that many change: numbers that are exact, ids that are given out once, and a history of
//! changes each of which was made of the one before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use quorate_proto::{Txn, TxnEntry};
use quorate_recipes::client::Error as ClientError;
use quorate_recipes::{Client, Config, Counter, Encoding, IdGenerator};
use tokio::time::timeout;

use super::super::executor::lock;
use super::super::stage::{Host, Stage, broken};
use super::{Bypass, Recipe, Round, Scenario, parts, rounds};
use crate::simulation::checker::Checked;

pub(super) const COUNTER: Recipe = Recipe {
    name: "counter",
    bypasses: &["sets-blindly", "adds-again"],
    make: |bypass| {
        let (begun, added) = Default::default();
        let seen = RefCell::default();
        Rc::new(Counters {
            bypass,
            begun,
            added,
            seen,
        })
    },
};
pub(super) const ID_GENERATOR: Recipe = Recipe {
    name: "id-generator",
    bypasses: &["sets-blindly"],
    make: |bypass| {
        let given = RefCell::default();
        Rc::new(Ids { bypass, given })
    },
};
pub(super) const SHARED_VALUE: Recipe = Recipe {
    name: "shared-value",
    bypasses: &["sets-blindly", "reads-anywhere"],
    make: |bypass| {
        Rc::new(Values {
            bypass,
            last: RefCell::default(),
            acked: RefCell::default(),
            next: Cell::default(),
        })
    },
};

const PATH: &str = "/number";

fn counter(client: &Client) -> Counter {
    Counter::new(client, PATH).encoding(Encoding::Text)
}

/// Sets what was read and one more, whatever is there by then.
async fn set_blindly(client: &Client) -> Result<i64, quorate_recipes::Error> {
    let counter = counter(client);
    let number = counter.get().await? + 1;
    counter.set(number).await?;
    Ok(number)
}

struct Counters {
    bypass: Bypass,
    /// Additions that were begun, and those that were acknowledged.
    begun: Cell<i64>,
    added: Cell<i64>,
    /// What they came to.
    seen: RefCell<BTreeSet<i64>>,
}

impl Scenario for Counters {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 50, async |client| self.round(&host, client).await).await }
            .boxed_local()
    }

    fn finished(&self, stage: &Stage) -> Checked {
        let ensemble = lock(&stage.ensemble);
        let node = ensemble.truth.get(PATH);
        let text = node.and_then(|node| std::str::from_utf8(node.data()?).ok());
        let number: i64 = text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let (added, begun) = (self.added.get(), self.begun.get());
        match (added..=begun).contains(&number) {
            true => Ok(()),
            false => broken(
                "exact",
                format!("{number} after {added} of {begun} additions"),
            ),
        }
    }
}

impl Counters {
    async fn round(&self, host: &Host, client: &Client) -> Round {
        self.begun.set(self.begun.get() + 1);
        let number = match self.bypass {
            Some("sets-blindly") => set_blindly(client).await?,
            Some(_) => self.add_again(host, client).await?,
            None => counter(client).add(1).await?,
        };
        self.added.set(self.added.get() + 1);
        host.note(|| format!("made it {number}"));
        match self.seen.borrow_mut().insert(number) {
            true => Ok(()),
            false => Ok(broken("exact", format!("two additions made it {number}"))?),
        }
    }

    /// Adds again where the answer to the first attempt was lost.
    async fn add_again(&self, host: &Host, client: &Client) -> Round<i64> {
        host.prepare(client, PATH).await?;
        loop {
            let (data, stat) = client.retry(|| client.get_data(PATH)).await?;
            let text = String::from_utf8_lossy(&data).into_owned();
            let number = text.parse().unwrap_or(0) + 1;
            let text = number.to_string();
            let set = || client.set_data(PATH, &text, stat.version);
            match client.retry_idempotent(set).await {
                Ok(_) => return Ok(number),
                Err(ClientError::BadVersion { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Ids {
    bypass: Bypass,
    given: RefCell<BTreeSet<i64>>,
}

impl Scenario for Ids {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 100, async |client| self.round(client).await).await }
            .boxed_local()
    }
}

impl Ids {
    async fn round(&self, client: &Client) -> Round {
        let ids = IdGenerator::new(counter(client), fastrand::u32(1..5));
        for _ in 0..fastrand::u32(1..10) {
            let id = match self.bypass {
                Some(_) => set_blindly(client).await?,
                None => ids.next().await?,
            };
            if !self.given.borrow_mut().insert(id) {
                return Ok(broken("unique", format!("{id} was given out twice"))?);
            }
        }
        Ok(())
    }
}

struct Values {
    bypass: Bypass,
    /// What was committed last.
    last: RefCell<Vec<u8>>,
    /// Changes that were acknowledged.
    acked: RefCell<Vec<String>>,
    next: Cell<u32>,
}

impl Scenario for Values {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            rounds(&host, 100, async |client| match host.slot {
                0 | 1 => self.follow(&host, client).await,
                _ => self.change(client).await,
            })
            .await
        }
        .boxed_local()
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        for part in parts(entry) {
            let data = match part {
                Txn::SetData(set) if set.path == PATH => set.data,
                Txn::Create(create) | Txn::Create2(create) if create.path == PATH => create.data,
                _ => continue,
            };
            let data = data.unwrap_or_default();
            let mut last = self.last.borrow_mut();
            if !data.starts_with(&last) {
                let (data, last) = (data.escape_ascii(), last.escape_ascii());
                return broken("linear", format!("{data} was made of {last}"));
            }
            *last = data.to_vec();
        }
        Ok(())
    }

    fn finished(&self, _: &Stage) -> Checked {
        let last = String::from_utf8_lossy(&self.last.borrow()).into_owned();
        for mark in self.acked.borrow().iter() {
            let times = last.matches(mark.as_str()).count();
            if times != 1 {
                return broken("exact", format!("{mark} is {times} times in {last}"));
            }
        }
        Ok(())
    }
}

impl Values {
    /// Appends a mark.
    async fn change(&self, client: &Client) -> Round {
        let config: Config<String> = Config::new(client, PATH);
        self.next.set(self.next.get() + 1);
        let mark = format!("<{}>", self.next.get());
        if self.bypass == Some("sets-blindly") {
            let found = config.get().await?.map(|found| found.value);
            config.set(&(found.unwrap_or_default() + &mark)).await?;
        } else {
            let append = |found: Option<String>| Some(found.unwrap_or_default() + &mark);
            config.update(append).await?;
        }
        self.acked.borrow_mut().push(mark);
        Ok(())
    }

    /// Looks at what comes, until it is what is there when all is over.
    async fn follow(&self, host: &Host, client: &Client) -> Round {
        let config: Config<String> = Config::new(client, PATH);
        let mut values = config.watch();
        let mut seen = 0;
        loop {
            let elsewhere = self.bypass == Some("reads-anywhere") && !host.is_over();
            let length = if elsewhere {
                let other = host.client();
                let found = other.get_data(PATH).await;
                host.work(200).await;
                found.map_or(0, |(data, _)| data.len())
            } else {
                match timeout(Duration::from_millis(500), values.next()).await {
                    Ok(Some(value)) => value?.map_or(0, |found| found.value.len()),
                    Ok(None) => return Ok(()),
                    Err(_) => seen,
                }
            };
            if length < seen {
                return Ok(broken("older", format!("{length} bytes after {seen}"))?);
            }
            seen = length;
            if host.is_over() && seen == self.last.borrow().len() {
                return Ok(());
            }
        }
    }
}
