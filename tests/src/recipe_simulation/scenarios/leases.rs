//! The lease: whoever has it has it alone until its end, by clocks that agree.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_client::simulation::World as _;
use quorate_recipes::{Client, Lease};

use super::super::stage::{Host, broken};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

pub(super) const LEASE: Recipe = Recipe {
    name: "lease",
    bypasses: &["asks-only", "ignores-end"],
    make: |bypass| {
        let terms = RefCell::default();
        Rc::new(Leases { bypass, terms })
    },
};

const PATH: &str = "/lease";

struct Leases {
    bypass: Bypass,
    /// Until when it was obtained at least, by the place of the holder.
    terms: RefCell<BTreeMap<usize, SystemTime>>,
}

impl Scenario for Leases {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 500, async |client| self.round(&host, client).await).await }
            .boxed_local()
    }
}

impl Leases {
    async fn round(&self, host: &Host, client: &Client) -> Round {
        let lease = Lease::new(client, PATH, format!("holder-{}", host.slot));
        let last = host.is_over();
        let time = Duration::from_millis(fastrand::u64(1..3_000));
        let end = loop {
            // It may be cut short from now on.
            self.terms.borrow_mut().remove(&host.slot);
            let end = host.now() + time;
            if self.obtain(&lease, time).await? {
                break end;
            }
            if !last {
                return Ok(());
            }
            host.work(500).await;
        };
        host.note(|| format!("has it until {end:?}"));
        self.terms.borrow_mut().insert(host.slot, end);
        for _ in 0..fastrand::u32(1..5) {
            if host.now() < end || self.bypass == Some("ignores-end") {
                self.use_it(host)?;
            }
            host.work(500).await;
        }
        if last || fastrand::bool() {
            // From now on, others may have it.
            self.terms.borrow_mut().remove(&host.slot);
            lease.end().await?;
        }
        Ok(())
    }

    async fn obtain(&self, lease: &Lease, time: Duration) -> Round<bool> {
        Ok(match self.bypass {
            Some("asks-only") => lease.term().await?.is_none(),
            _ => lease.obtain(time).await?,
        })
    }

    /// Nobody else has it.
    fn use_it(&self, host: &Host) -> Checked {
        let now = host.now();
        let terms = self.terms.borrow();
        let other = terms
            .iter()
            .find(|(slot, end)| **slot != host.slot && now < **end);
        match other {
            None => Ok(()),
            Some((slot, end)) => broken(
                "exclusion",
                format!("{host:?} uses at {now:?} what {slot} has until {end:?}"),
            ),
        }
    }
}
