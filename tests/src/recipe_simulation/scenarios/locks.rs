//! The exclusive lock.

use std::rc::Rc;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_proto::TxnEntry;
use quorate_recipes::{Client, CreateMode, Lock};

use super::super::stage::Host;
use super::grants::{Grants, WORK};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

pub(super) const RECIPE: Recipe = Recipe {
    name: "lock",
    bypasses: &["waits-for-nobody", "ignores-loss", "writes-unfenced"],
    make: |bypass| {
        let grants = Grants::of(1);
        Rc::new(Locks { bypass, grants })
    },
};

const PATH: &str = "/lock";

struct Locks {
    bypass: Bypass,
    grants: Grants,
}

impl Scenario for Locks {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move { rounds(&host, 300, async |client| self.round(&host, client).await).await }
            .boxed_local()
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        self.grants.committed(entry)
    }
}

impl Locks {
    async fn round(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, WORK).await?;
        if self.bypass == Some("waits-for-nobody") {
            return self.push_in(host, client).await;
        }
        let guard = Lock::new(client, PATH).acquire().await?;
        let token = guard.fencing_token().get();
        self.grants.granted(host, guard.node(), token, true)?;
        for _ in 0..fastrand::u32(1..4) {
            host.work(400).await;
            let lost = guard.state().is_lost();
            if !lost {
                self.grants.still_held(host, guard.node())?;
            }
            if !lost || self.bypass == Some("ignores-loss") {
                self.grants.write_outside(host, token)?;
            }
            if self.bypass == Some("writes-unfenced") {
                let _ = client.set_data(WORK, &token.to_string(), None).await;
            } else if !self.grants.write_inside(guard.transaction(), token).await? {
                break;
            }
        }
        Ok(guard.release().await?)
    }

    /// Takes a place, and the lock with it.
    async fn push_in(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, PATH).await?;
        let name = format!("{PATH}/lock-");
        let created = client.create(&name, "", CreateMode::EphemeralSequential);
        let Ok(created) = created.await else {
            return Ok(());
        };
        let token = created.stat.czxid;
        self.grants.granted(host, &created.path, token, true)?;
        host.work(400).await;
        let _ = client.delete(&created.path, None).await;
        Ok(())
    }
}
