//! Transactions that are executed exactly once, whatever replies are lost (spec: recipes, section
//! 2.5).
//!
//! Each contains a write to a znode of the session, its receipt, that succeeds in one version only.
//! Repeating the transaction is harmless, and a refusal of that write says that the one before had
//! succeeded.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate_client::{
    Acl, Client, CreateMode, CreateOptions, Error as ClientError, OPEN_ACL, Outcome, Transaction,
    path,
};

use crate::layout::Layout;
use crate::protect::{Protected, Site, create_parents, expect_writes, patient};

/// Where the receipts of all sessions are.
const PATH: &str = "/quorate/receipts";

/// Receipts that are not in use. As many are created as are needed at once.
#[derive(Debug, Clone)]
pub(crate) struct Receipts {
    client: Client,
    idle: Arc<Mutex<Vec<Receipt>>>,
}

#[derive(Debug)]
struct Receipt {
    node: Protected,
    /// The version that it has, unless an unanswered transaction was executed.
    version: i32,
}

impl Receipts {
    pub(crate) fn new(client: &Client) -> Self {
        Receipts {
            client: client.clone(),
            idle: Arc::default(),
        }
    }

    /// Creates a znode, once, and its parents as containers where they are missing.
    ///
    /// Dropping the future gives up the wait only.
    pub(crate) async fn create(
        &self,
        path: &str,
        data: &[u8],
        mode: CreateMode,
        acl: &[Acl<'_>],
    ) -> Result<(), ClientError> {
        let options = CreateOptions::new(mode).acl(acl);
        let create = |transaction: Transaction| transaction.create(path, data, options);
        loop {
            match (self.commit(path, create).await, path::parent(path)) {
                (Err(ClientError::NoNode { .. }), Some(parent)) if parent != "/" => {
                    create_parents(&self.client, parent, acl).await?;
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// Executes, once, what `write` adds to a transaction, all for the sake of `path`. If the outcome
    /// of an error is unknown, so is that of the transaction. A server that only reads is an error at
    /// once, as it is for whoever wants to hold something.
    ///
    /// Dropping the future gives up the wait only.
    pub(crate) async fn commit(
        &self,
        path: &str,
        write: impl Fn(Transaction) -> Transaction,
    ) -> Result<(), ClientError> {
        expect_writes(&self.client, path)?;
        loop {
            let mut receipt = self.take().await?;
            let transaction = write(self.client.transaction().set_data(
                receipt.node.path(),
                "",
                receipt.version,
            ));
            let unanswered = Mutex::new(None);
            let commit = || async {
                let reply = transaction.clone().commit();
                reply.await.inspect_err(|error| {
                    if error.outcome() != Outcome::DidNotHappen {
                        *unanswered.lock() = Some(error.clone());
                    }
                })
            };
            let committed = patient().run_idempotent(commit).await;
            return match (committed, unanswered.into_inner()) {
                (Ok(_), _) => {
                    receipt.version = receipt.version.wrapping_add(1);
                    self.idle.lock().push(receipt);
                    Ok(())
                }
                (Err(ClientError::Transaction { index: 0, source }), unanswered) => {
                    match (*source, unanswered) {
                        (ClientError::BadVersion { .. }, Some(_)) => Ok(()),
                        // Somebody has deleted or set it, so that it tells nothing any more.
                        (_, Some(unknown)) => Err(unknown),
                        (ClientError::BadVersion { .. } | ClientError::NoNode { .. }, None) => {
                            continue;
                        }
                        (source, None) => Err(source),
                    }
                }
                (Err(ClientError::Transaction { source, .. }), _) => {
                    self.idle.lock().push(receipt);
                    Err(*source)
                }
                (Err(_), Some(unknown)) => Err(unknown),
                (Err(error), None) => Err(error),
            };
        }
    }

    async fn take(&self) -> Result<Receipt, ClientError> {
        let idle = self.idle.lock().pop();
        if let Some(receipt) = idle {
            return Ok(receipt);
        }
        let site = Site {
            client: &self.client,
            path: PATH,
            naming: Layout::default().unique(),
            data: b"",
            acl: OPEN_ACL,
        };
        let (node, _) = Protected::create(site).await?;
        Ok(Receipt { node, version: 0 })
    }
}
