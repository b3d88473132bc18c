//! The service of a member of an ensemble, as the driver of Zab sees it.
//!
//! What [`Peer`](crate::zab::Peer) puts out for the service has a method of the same name here:
//! `Apply` → [`Service::apply`], `Lead` → [`Service::lead`], `Follow` → [`Service::follow`],
//! `Looking` → [`Service::pause`], `LearnerJoined` → [`Service::learner_joined`], `LearnerLeft` →
//! [`Service::learner_left`], `Deliver` → [`Service::deliver`]. They are called in the order of the
//! outputs; none of them waits for anything.

use std::sync::Arc;

use super::Service;
use crate::zab::{Entry, Features, Link, Membership, Packet, Sid};

/// The way to other members, which the driver of Zab provides. Its methods are called while locks
/// are held, so that they must neither wait nor call the service.
pub(crate) trait Outlet: std::fmt::Debug + Send + Sync {
    /// Sends packets on a link, behind those sent before. A link that has ended forgets them.
    fn send(&self, link: Link, packets: &[Packet]);

    /// Something waits for [`Service::take_proposals`]. Said once until that has answered `None`.
    fn proposals(&self);
}

/// What the leader's queue held: see [`Service::take_proposals`].
#[derive(Debug)]
pub(crate) struct Proposals {
    /// The epoch in which the entries were numbered.
    pub(crate) epoch: u32,
    /// For [`Input::Propose`](crate::zab::Input::Propose); slices of one buffer of log records.
    pub(crate) entries: Vec<Entry>,
    /// Learners for whom an [`Input::Sync`](crate::zab::Input::Sync) follows the entries.
    pub(crate) syncs: Vec<Link>,
}

impl Service {
    /// Takes what has been queued since the last time. `None` if that is nothing.
    pub(crate) fn take_proposals(&self) -> Option<Proposals> {
        None
    }

    /// Committed transactions, behind those before.
    pub(crate) fn apply(&self, entries: Vec<Entry>) {
        let _ = entries;
    }

    /// Serves as the leader of `epoch`, once everything that was committed before is applied.
    pub(crate) fn lead(&self, epoch: u32) {
        let _ = epoch;
    }

    /// Serves as a learner of `epoch`, once everything that was committed before is applied, and
    /// forwards on `link`.
    pub(crate) fn follow(&self, epoch: u32, link: Link, features: Features, observer: bool) {
        let _ = (epoch, link, features, observer);
    }

    /// Serves nobody from now on. Connections stay, but for those that have a write under way.
    pub(crate) fn pause(&self) {}

    /// A learner may send requests from now on.
    pub(crate) fn learner_joined(&self, link: Link, sid: Sid, features: Features) {
        let _ = (link, sid, features);
    }

    /// A learner is gone.
    pub(crate) fn learner_left(&self, link: Link) {
        let _ = link;
    }

    /// A packet that is about sessions or requests: see
    /// [`Output::Deliver`](crate::zab::Output::Deliver).
    pub(crate) fn deliver(&self, link: Link, packet: Packet) {
        let _ = (link, packet);
    }

    /// The configuration of the ensemble that is in force, and a newer one that is proposed.
    pub(crate) fn set_memberships(
        &self,
        committed: Arc<Membership>,
        proposed: Option<Arc<Membership>>,
    ) {
        let _ = (committed, proposed);
    }

    /// Another tree takes the place of this one: a snapshot has come, or the log was cut. Only while
    /// paused. Clients whose watches it may have passed over are disconnected.
    pub(crate) fn replace_tree(&self, tree: crate::tree::Tree) {
        let _ = tree;
    }
}
