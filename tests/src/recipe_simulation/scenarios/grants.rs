//! Who was given what: the ground truth about mutual exclusion, and a resource that is written by
//! whoever holds it.

use std::sync::Mutex;

use quorate_proto::{Txn, TxnEntry};
use quorate_recipes::client::Error as ClientError;
use quorate_recipes::{Error, FencedTransaction};

use super::super::executor::lock;
use super::super::stage::{Host, broken};
use super::parts;
use crate::simulation::checker::Checked;

/// What holders write into, inside of the tree.
pub(super) const WORK: &str = "/work";

/// A grant, by the znode that stands for it.
#[derive(Debug, Clone)]
struct Grant {
    node: String,
    czxid: i64,
    token: i64,
    exclusive: bool,
}

/// All grants of one thing.
#[derive(Debug)]
pub(super) struct Grants {
    /// The znode that holders write into.
    work: String,
    most: usize,
    /// Later grants have larger tokens.
    fair: bool,
    /// Others may create the znode of the same name: the token tells whose it is.
    shared_name: bool,
    granted: Mutex<Vec<Grant>>,
    /// The newest token that the resource outside of the tree was written with.
    newest: Mutex<i64>,
    /// The newest token that was committed.
    committed: Mutex<i64>,
}

impl Grants {
    /// Of something that so many may have at once.
    pub(super) fn of(most: usize) -> Self {
        Grants {
            work: WORK.to_owned(),
            most,
            fair: most == 1 || most == usize::MAX,
            shared_name: false,
            granted: Mutex::default(),
            newest: Mutex::default(),
            committed: Mutex::default(),
        }
    }

    /// Of something whose znode has one name, whoever has it.
    pub(super) fn by_name(mut self) -> Self {
        self.shared_name = true;
        self
    }

    /// Of something in a part of the tree.
    pub(super) fn below(mut self, root: &str) -> Self {
        self.work = format!("{root}{WORK}");
        self
    }

    /// Something was granted by this znode. Whoever else was granted it, and whose znode is still
    /// there, has it too.
    pub(super) fn granted(&self, host: &Host, node: &str, token: i64, exclusive: bool) -> Checked {
        host.note(|| format!("granted {token:x} by {node}"));
        let czxid = host.truth(|tree| tree.get(node).map(|node| node.persisted().czxid));
        let own = |czxid: &i64| !self.shared_name || *czxid == token;
        let Some(czxid) = czxid.filter(own) else {
            // The session has just ended, which its guard is about to hear.
            return Ok(());
        };
        let mut granted = lock(&self.granted);
        let rivals = granted.iter().filter(|grant| exclusive || grant.exclusive);
        let newest = rivals.map(|grant| grant.token).max();
        let there = |grant: &&Grant| {
            let found = host.truth(|tree| tree.get(&grant.node).map(|node| node.persisted().czxid));
            found == Some(grant.czxid) && grant.node != node
        };
        let others: Vec<&Grant> = granted.iter().filter(there).collect();
        let conflict = match exclusive {
            true => !others.is_empty(),
            false => others.iter().any(|grant| grant.exclusive),
        };
        if conflict || others.len() >= self.most {
            let what = format!("{host:?} was granted {node}, and others hold it: {others:?}");
            return broken("exclusion", what);
        }
        if self.fair && newest.is_some_and(|newest| newest > token) {
            return broken("order", format!("{node} with {token:x} after {newest:x?}"));
        }
        let node = node.to_owned();
        granted.push(Grant {
            node,
            czxid,
            token,
            exclusive,
        });
        Ok(())
    }

    /// The newest token that was granted.
    pub(super) fn newest(&self) -> Option<i64> {
        lock(&self.granted).iter().map(|grant| grant.token).max()
    }

    /// It was given back, although its znode stays.
    pub(super) fn released(&self, node: &str) {
        lock(&self.granted).retain(|grant| grant.node != node);
    }

    /// The holder writes into the resource outside of the tree, which trusts it: a guard says that
    /// it still holds.
    pub(super) fn write_outside(&self, host: &Host, token: i64) -> Checked {
        let mut newest = lock(&self.newest);
        if token < *newest && host.stage.honest {
            let what = format!("{host:?} wrote with {token:x} after {:x}", *newest);
            return broken("fence", what);
        }
        *newest = token.max(*newest);
        Ok(())
    }

    /// The guard says that it holds; by the clock, which is right.
    pub(super) fn still_held(&self, host: &Host, node: &str) -> Checked {
        if host.stage.honest && host.truth(|tree| tree.get(node).is_none()) {
            let what = format!("{host:?} has not heard that {node} is gone");
            return broken("loss", what);
        }
        Ok(())
    }

    /// Writes the token into the tree, in a transaction that the guard has made, to `work` as its
    /// handle sees it; false if it was lost.
    pub(super) async fn write_inside(
        &self,
        fenced: FencedTransaction,
        work: &str,
        token: i64,
    ) -> Checked<bool> {
        let written = fenced.set_data(work, &token.to_string(), None).commit();
        match written.await {
            Ok(_) => Ok(true),
            Err(Error::Lost { .. }) => Ok(false),
            Err(Error::Client(error)) if error.is_transient() => Ok(true),
            Err(Error::Client(error)) if error.is_session_over() => Ok(false),
            Err(Error::Client(ClientError::Transaction { source, .. })) => {
                broken("fence", format!("a fenced transaction fails: {source}"))
            }
            Err(error) => broken("fence", format!("a fenced transaction fails: {error}")),
        }
    }

    /// A transaction has been committed: no token is older than the one before.
    pub(super) fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        for part in parts(entry) {
            let Txn::SetData(set) = part else { continue };
            if set.path != self.work {
                continue;
            }
            let text = std::str::from_utf8(set.data.unwrap_or_default());
            let token = text.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            let mut newest = lock(&self.committed);
            if token < *newest {
                let what = format!("{token:x} was written after {:x}", *newest);
                return broken("fence", what);
            }
            *newest = token;
        }
        Ok(())
    }
}
