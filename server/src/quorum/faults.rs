//! Faults of the network between members, for tests and demos: links that are cut or slow.
//!
//! What is sent on a link that is cut waits, as it does where a network loses packets: nobody is
//! told, and it arrives once the link is whole again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::zab::Sid;

/// The faults of one member's links. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Is there any fault? Looked at first, so that members without faults pay nothing.
    any: AtomicBool,
    links: watch::Sender<BTreeMap<Sid, LinkFaults>>,
}

/// The faults of the link to one server.
#[derive(Debug, Clone, Copy, Default)]
struct LinkFaults {
    cut_to: bool,
    cut_from: bool,
    delay: Duration,
}

impl Faults {
    /// Lets nothing through to a server.
    pub(crate) fn cut_to(&self, sid: Sid) {
        self.change(sid, |link| link.cut_to = true);
    }

    /// Lets nothing through from a server.
    pub(crate) fn cut_from(&self, sid: Sid) {
        self.change(sid, |link| link.cut_from = true);
    }

    /// Makes everything to a server take longer.
    pub(crate) fn delay_to(&self, sid: Sid, delay: Duration) {
        self.change(sid, |link| link.delay = delay);
    }

    /// Takes all faults away.
    pub(crate) fn heal(&self) {
        self.0.any.store(false, Relaxed);
        self.0.links.send_modify(BTreeMap::clear);
    }

    /// Does what is sent to a server go out at once? If not, [`Faults::outbound`] tells when.
    pub(crate) fn is_clear(&self, sid: Sid) -> bool {
        !self.0.any.load(Relaxed)
            || self
                .0
                .links
                .borrow()
                .get(&sid)
                .is_none_or(|link| !link.cut_to && link.delay.is_zero())
    }

    /// Waits until something that is to be sent to a server may go out. Cancel safe.
    pub(crate) async fn outbound(&self, sid: Sid) {
        let delay = self.wait_unless(sid, |link| link.cut_to).await;
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    /// Waits until what has come from a server may be seen. Cancel safe.
    pub(crate) async fn inbound(&self, sid: Sid) {
        self.wait_unless(sid, |link| link.cut_from).await;
    }

    /// Waits until a connection to a server may be made, which takes packets both ways. Cancel
    /// safe.
    pub(crate) async fn connect(&self, sid: Sid) {
        self.wait_unless(sid, |link| link.cut_to || link.cut_from)
            .await;
    }

    fn change(&self, sid: Sid, change: impl FnOnce(&mut LinkFaults)) {
        self.0
            .links
            .send_modify(|links| change(links.entry(sid).or_default()));
        self.0.any.store(true, Relaxed);
    }

    /// Waits while the link is cut, and tells its delay.
    async fn wait_unless(&self, sid: Sid, cut: impl Fn(&LinkFaults) -> bool) -> Duration {
        if !self.0.any.load(Relaxed) {
            return Duration::ZERO;
        }
        let mut links = self.0.links.subscribe();
        let whole = links
            .wait_for(|links| !links.get(&sid).is_some_and(&cut))
            .await;
        // The sender lives as long as `self`, so that there is always an answer.
        whole
            .ok()
            .and_then(|links| links.get(&sid).map(|link| link.delay))
            .unwrap_or_default()
    }
}
