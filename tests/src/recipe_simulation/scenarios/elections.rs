//! Elections, in every way in which one stands in them and looks at them: at most one leads at a
//! time, and nobody sees an older leader after a newer one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use quorate_proto::TxnEntry;
use quorate_recipes::client::Error as ClientError;
use quorate_recipes::{Client, Contender, Election, Error, Guard, Layout, Leadership};
use tokio::time::timeout;

use super::super::stage::{Host, broken};
use super::grants::{Grants, WORK};
use super::{Bypass, Recipe, Round, Scenario, rounds};
use crate::simulation::checker::Checked;

pub(super) const LEADERSHIP: Recipe = Recipe {
    name: "leadership",
    bypasses: &["ignores-loss", "looks-anywhere", "looks-once"],
    make: |bypass| {
        Rc::new(Elections {
            bypass,
            layout: [Layout::Curator, Layout::Kazoo][fastrand::usize(..2)],
            like_selector: fastrand::bool(),
            grants: Grants::of(1),
            next: Cell::default(),
            through: Cell::default(),
        })
    },
};

const PATH: &str = "/election";
/// Those who stand; others observe.
const CANDIDATES: usize = 3;
/// How long a change is waited for before one looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);

struct Elections {
    bypass: Bypass,
    layout: Layout,
    like_selector: bool,
    grants: Grants,
    /// What is proclaimed next.
    next: Cell<u32>,
    /// Candidates that are through.
    through: Cell<usize>,
}

impl Scenario for Elections {
    fn slots(&self) -> usize {
        CANDIDATES + 2
    }

    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            if host.slot < CANDIDATES {
                rounds(&host, 200, async |client| self.stand(&host, client).await).await?;
                self.through.set(self.through.get() + 1);
                return Ok(());
            }
            rounds(&host, 200, async |client| match self.bypass {
                Some("looks-anywhere") if !host.is_over() => self.look_anywhere(&host).await,
                _ => self.observe(&host, client).await,
            })
            .await
        }
        .boxed_local()
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        self.grants.committed(entry)
    }
}

impl Elections {
    fn election(&self, client: &Client) -> Election {
        let election = Election::new(client, PATH).layout(self.layout).data("0");
        match self.like_selector {
            true => election.like_selector(),
            false => election,
        }
    }

    /// Leads in one of the ways that there are.
    async fn stand(&self, host: &Host, client: &Client) -> Round {
        host.prepare(client, WORK).await?;
        let election = self.election(client);
        match fastrand::u32(..4) {
            0 => {
                let leadership = election.campaign().await?;
                self.govern(host, &leadership).await?;
                Ok(leadership.resign().await?)
            }
            1 => match election.campaign_timeout(Duration::from_millis(500)).await {
                Ok(leadership) => Ok(self.govern(host, &leadership).await?),
                Err(Error::TimedOut { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            },
            2 => {
                let led = election.lead(async |leadership| self.govern(host, leadership).await);
                Ok(led.await??)
            }
            _ => self.stand_by(host, &election).await,
        }
    }

    /// Leads whenever it can, in the background.
    async fn stand_by(&self, host: &Host, election: &Election) -> Round {
        let mut candidacy = election.stand();
        for _ in 0..2 {
            let leadership = candidacy.leading().await?;
            self.govern(host, &leadership).await?;
            if let Some(leadership) = candidacy.leadership() {
                self.grants.still_held(host, leadership.node())?;
                break;
            }
        }
        Ok(())
    }

    async fn govern(&self, host: &Host, leadership: &Leadership) -> Checked {
        let guard: &Guard = leadership;
        let token = guard.fencing_token().get();
        self.grants.granted(host, guard.node(), token, true)?;
        for _ in 0..fastrand::u32(1..4) {
            host.work(1_000).await;
            let lost = guard.state().is_lost();
            if !lost {
                self.grants.still_held(host, guard.node())?;
            }
            if !lost || self.bypass == Some("ignores-loss") {
                self.grants.write_outside(host, token)?;
            }
            let fenced = guard.transaction();
            if !self.grants.write_inside(fenced, WORK, token).await? {
                break;
            }
            self.next.set(self.next.get() + 1);
            if leadership
                .proclaim(self.next.get().to_string())
                .await
                .is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// Follows who leads, until nobody does any more.
    async fn observe(&self, host: &Host, client: &Client) -> Round {
        let election = self.election(client);
        let mut leaders = election.observe();
        let mut sight = Sight::default();
        let mut leader = None;
        loop {
            if self.bypass == Some("looks-once") && leader.is_some() {
                host.work(200).await;
            } else if let Ok(next) = timeout(LOOK, leaders.next()).await {
                let next = next.unwrap_or(Err(ClientError::Closed.into()))?;
                sight.catches(next.as_ref())?;
                leader = Some(next);
                continue;
            }
            if host.is_over() && self.through.get() == CANDIDATES && leader == Some(None) {
                return Ok(());
            }
            if !host.is_over() && fastrand::u32(..10) == 0 {
                return Ok(());
            }
            self.ask(&election).await?;
            if client.state().is_over() {
                return Err(ClientError::Closed.into());
            }
        }
    }

    /// Asks who leads, which is nobody who led before those who are known to have led by now.
    async fn ask(&self, election: &Election) -> Round {
        let newest = self.grants.newest();
        match election.candidates().await {
            Ok(candidates) => {
                let tokens = candidates.iter().map(|candidate| candidate.token.get());
                let older = |token: &i64| newest.is_some_and(|newest| *token < newest);
                if !candidates.is_sorted_by_key(|candidate| candidate.token) {
                    Ok(broken("order", format!("candidates: {candidates:?}"))?)
                } else if let Some(token) = tokens.min().filter(older) {
                    let what = format!("{token:x} leads after {newest:x?}");
                    Ok(broken("order", what)?)
                } else {
                    Ok(())
                }
            }
            Err(Error::Client(error)) if error.is_transient() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Observes by one session after the other.
    async fn look_anywhere(&self, host: &Host) -> Round {
        let mut sight = Sight::default();
        let others = [host.client(), host.client(), host.client()];
        for other in others.iter().cycle() {
            let mut leaders = self.election(other).observe();
            if let Ok(Some(Ok(leader))) = timeout(LOOK, leaders.next()).await {
                sight.catches(leader.as_ref())?;
            }
            if host.is_over() {
                break;
            }
        }
        Ok(())
    }
}

/// What an observer has seen last: a leader, and what it has proclaimed.
#[derive(Debug, Default)]
struct Sight(Option<(i64, u32)>);

impl Sight {
    fn catches(&mut self, leader: Option<&Contender>) -> Checked {
        let Some(leader) = leader else { return Ok(()) };
        let text = std::str::from_utf8(&leader.data).unwrap_or_default();
        let now = Some((leader.token.get(), text.parse().unwrap_or(0)));
        if now < self.0 {
            let what = format!("leader and its word {now:x?} after {:x?}", self.0);
            return broken("order", what);
        }
        self.0 = now;
        Ok(())
    }
}
