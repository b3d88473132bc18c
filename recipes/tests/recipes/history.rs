//! Who held a lock from when to when, and whether that can be.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate_recipes::FencingToken;
use tokio::time::Instant;

/// Grants of one lock, as their holders saw them.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Vec<Grant>>>);

/// One holder's time with the lock.
#[derive(Debug, Clone, Copy)]
struct Grant {
    token: FencingToken,
    from: Instant,
    /// When the holder began to let go of it, or was told that it is lost.
    until: Instant,
}

impl History {
    pub(crate) fn record(&self, token: FencingToken, from: Instant, until: Instant) {
        self.0.lock().push(Grant { token, from, until });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Checks that no two held the lock at once, and that later grants have larger tokens.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut grants = self.0.lock().clone();
        grants.sort_by_key(|grant| grant.from);
        for pair in grants.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            if after.from < before.until {
                let overlap = before.until - after.from;
                return Err(format!("{before:?} and {after:?} overlap by {overlap:?}"));
            }
            if after.token <= before.token {
                return Err(format!(
                    "{after:?} does not have a larger token than {before:?}"
                ));
            }
        }
        Ok(())
    }
}
