//! What the processes of a run do with a recipe, and what it has promised them.

mod barriers;
mod configs;
mod copies;
mod elections;
mod grants;
mod items;
mod leases;
mod locks;
mod numbers;
mod presence;
mod shares;
mod ways;

use std::rc::Rc;

use futures::future::LocalBoxFuture;
use quorate_proto::{Txn, TxnEntry};
use quorate_recipes::client::Error as ClientError;
use quorate_recipes::{Client, Error};

use super::ensemble::Millis;
use super::stage::{Host, Stage, broken};
use crate::simulation::checker::{Checked, Violation};

/// A use of a recipe that checks itself.
pub trait Scenario {
    /// How many processes there are.
    fn slots(&self) -> usize {
        4
    }

    /// Does the recipe keep its promises although operators delete what is not theirs?
    fn bears_operators(&self) -> bool {
        true
    }

    /// Do clients find servers that only read?
    fn meets_readers(&self) -> bool {
        false
    }

    /// What a process does, until it is over.
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked>;

    /// A transaction has been committed.
    fn committed(&self, _: &TxnEntry<'_>) -> Checked {
        Ok(())
    }

    /// Everybody is through.
    fn finished(&self, _: &Stage) -> Checked {
        Ok(())
    }
}

/// The guard that a scenario goes without, by name.
pub type Bypass = Option<&'static str>;

/// A recipe that can be simulated.
pub struct Recipe {
    /// Its name on the command line.
    pub name: &'static str,
    /// The guards that can be bypassed, each of which must be noticed.
    pub bypasses: &'static [&'static str],
    /// Makes its scenario.
    pub make: fn(Bypass) -> Rc<dyn Scenario>,
}

/// All of them.
pub const RECIPES: &[Recipe] = &[
    locks::LOCK,
    locks::MULTI_LOCK,
    locks::REENTRANT_LOCK,
    locks::SIMPLE_LOCK,
    locks::RW_LOCK,
    locks::SEMAPHORE,
    locks::ELECTION,
    elections::LEADERSHIP,
    locks::KAZOO_LAYOUT,
    locks::MIXED_LAYOUTS,
    locks::CHROOT,
    locks::READ_ONLY,
    items::QUEUE,
    items::PRIORITY_QUEUE,
    items::DELAY_QUEUE,
    numbers::COUNTER,
    numbers::ID_GENERATOR,
    numbers::SHARED_VALUE,
    barriers::BARRIER,
    barriers::DOUBLE_BARRIER,
    copies::CACHE,
    copies::GROUP,
    shares::PARTITIONER,
    shares::COORDINATION,
    leases::LEASE,
    configs::CONFIG_TREE,
    presence::PERSISTENT_NODE,
    presence::NAME_SERVICE,
];

/// What a transaction does, part by part; nothing if it fails.
fn parts<'e, 't>(entry: &'e TxnEntry<'t>) -> &'e [Txn<'t>] {
    match &entry.txn {
        Txn::Multi(parts) if parts.iter().any(|part| matches!(part, Txn::Error(_))) => &[],
        Txn::Multi(parts) => parts,
        txn => std::slice::from_ref(txn),
    }
}

/// Why a round came to no good end.
enum Fail {
    /// A recipe failed, which may have to be.
    Error(Error),
    /// Something is not as it was promised.
    Violation(Violation),
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Fail::Error(error)
    }
}

impl From<ClientError> for Fail {
    fn from(error: ClientError) -> Self {
        Fail::Error(error.into())
    }
}

impl From<Violation> for Fail {
    fn from(violation: Violation) -> Self {
        Fail::Violation(violation)
    }
}

type Round<T = ()> = Result<T, Fail>;

/// Goes through one round after the other, with a new client where a session is over. The last one
/// begins when everything has healed, and has to come to a good end.
async fn rounds(host: &Host, pause: Millis, round: impl AsyncFn(&Client) -> Round) -> Checked {
    loop {
        let client = host.client();
        loop {
            let last = host.is_over();
            match round(&client).await {
                Ok(()) if last => return host.leave(client).await,
                Ok(()) => host.work(pause).await,
                Err(Fail::Violation(violation)) => return Err(violation),
                Err(Fail::Error(error)) if error.is_session_over() => break,
                // Whether it took effect is not known, and never will be.
                Err(Fail::Error(_)) if client.state().is_over() => break,
                // What the servers that only read refuse is asked for again.
                Err(Fail::Error(Error::Client(ClientError::ReadOnly { .. }))) => {
                    host.work(pause).await;
                }
                Err(Fail::Error(Error::Lost { .. })) => host.work(pause).await,
                Err(Fail::Error(error)) => return broken("error", format!("{host:?}: {error}")),
            }
        }
    }
}
