//! What is wrong with the network between this member and others, for tests and demos: links that
//! let nothing through, one way or both, and links that are slow.
//!
//! As where a network loses packets, nothing is lost on a connection that lives: what is sent waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::zab::Sid;

/// The faults of one member's network. Clones are handles of the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Was there ever a fault? Spares everybody else a look.
    used: AtomicBool,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    cut_to: BTreeSet<Sid>,
    cut_from: BTreeSet<Sid>,
    delays: BTreeMap<Sid, Duration>,
}

impl Faults {
    /// Lets nothing out to a server.
    pub(crate) fn cut_to(&self, to: Sid) {
        self.change(|state| {
            state.cut_to.insert(to);
        });
    }

    /// Lets nothing in from a server.
    pub(crate) fn cut_from(&self, from: Sid) {
        self.change(|state| {
            state.cut_from.insert(from);
        });
    }

    /// Makes everything to a server take longer.
    pub(crate) fn delay_to(&self, to: Sid, delay: Duration) {
        self.change(|state| {
            state.delays.insert(to, delay);
        });
    }

    /// Nothing is wrong any more.
    pub(crate) fn heal(&self) {
        self.change(|state| *state = State::default());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.0.used.store(true, Relaxed);
        self.0.state.send_modify(change);
    }

    /// Does what is sent to a server go out at once? If not, [`Faults::lets_out`] tells when.
    pub(super) fn is_clear(&self, to: Sid) -> bool {
        !self.0.used.load(Relaxed) || {
            let state = self.0.state.borrow();
            !state.cut_to.contains(&to) && !state.delays.contains_key(&to)
        }
    }

    /// Waits until something may go out to a server, and for as long as that takes. Cancel safe.
    pub(super) async fn lets_out(&self, to: Sid) {
        if self.is_clear(to) {
            return;
        }
        self.until(|state| !state.cut_to.contains(&to)).await;
        let delay = self.0.state.borrow().delays.get(&to).copied();
        if let Some(delay) = delay {
            sleep(delay).await;
        }
    }

    /// Waits until something may come in from a server. Cancel safe.
    pub(super) async fn lets_in(&self, from: Sid) {
        if self.0.used.load(Relaxed) {
            self.until(|state| !state.cut_from.contains(&from)).await;
        }
    }

    async fn until(&self, is_mended: impl FnMut(&State) -> bool) {
        // The sender lives as long as this handle.
        let _ = self.0.state.subscribe().wait_for(is_mended).await.map(drop);
    }
}
