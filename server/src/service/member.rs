//! The service of a member of an ensemble, as the driver of Zab sees it.
//!
//! What [`Peer`](crate::zab::Peer) puts out for the service has a method of the same name here:
//! `Apply` → [`Service::apply`], `Synced` → [`Service::synced`], `Lead` → [`Service::lead`],
//! `Follow` → [`Service::follow`], `Looking` → [`Service::pause`], `LearnerJoined` →
//! [`Service::learner_joined`], `LearnerLeft` → [`Service::learner_left`], `Deliver` →
//! [`Service::deliver`]. They are called in the order of the outputs; none of them waits for
//! anything but short locks.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::OpCode;
use quorate_proto::jute::{Decode, Encode};

use super::desk::Desk;
use super::logger::End;
use super::queue::{LazyTree, Queue, timeout_in};
use super::roles::{Job, MemberApplier};
use super::{Mode, Service, wall_clock};
use crate::error::ServerError;
use crate::tree::Tree;
use crate::txn::{Internal, Requester, Roster, is_write};
use crate::zab::{Entry, Input, Link, Membership, Packet, Request, Sid};

/// The way to other members, which the driver of Zab provides.
pub(crate) trait Outlet: Debug + Send + Sync {
    /// Sends packets on a link, behind those sent before. A link that has ended forgets them. Called
    /// while locks are held, so that it must neither wait nor call the service.
    fn send(&self, link: Link, packets: &[Packet]);

    /// Something waits for [`Service::take_proposals`]. Said once until that has answered `None`,
    /// while no lock is held.
    fn proposals(&self);
}

/// What the leader's queue held: see [`Service::take_proposals`].
#[derive(Debug)]
pub(crate) struct Proposals {
    epoch: u32,
    /// Slices of one buffer of log records.
    entries: Vec<Entry>,
    /// Learners, or clients of the leader, that want to hear when so many of the entries are
    /// committed, and no more.
    syncs: Vec<(usize, Option<Link>)>,
}

impl Proposals {
    pub(super) fn new(epoch: u32, entries: Vec<Entry>, syncs: Vec<(usize, Option<Link>)>) -> Self {
        Proposals {
            epoch,
            entries,
            syncs,
        }
    }

    /// What to tell the [`Peer`](crate::zab::Peer), in this order.
    pub(crate) fn inputs(self) -> Vec<Input> {
        let Proposals {
            epoch,
            mut entries,
            syncs,
        } = self;
        let mut inputs = Vec::with_capacity(1 + 2 * syncs.len());
        let mut proposed = 0;
        for (behind, link) in syncs {
            if behind > proposed {
                let rest = entries.split_off(behind - proposed);
                let entries = std::mem::replace(&mut entries, rest);
                inputs.push(Input::Propose { epoch, entries });
                proposed = behind;
            }
            inputs.push(Input::Sync { epoch, link });
        }
        if !entries.is_empty() {
            inputs.push(Input::Propose { epoch, entries });
        }
        inputs
    }
}

/// What a member of an ensemble has beyond a server that stands alone.
#[derive(Debug)]
pub(super) struct Member {
    outlet: Arc<dyn Outlet>,
    /// Held by whoever sends requests to the leader: they keep their order.
    forwarding: Mutex<Vec<Packet>>,
    desk: Desk,
    /// The ensemble, and who of it is here.
    pub(super) roster: Arc<Roster>,
    /// When the leader was last told of the sessions here.
    reported: AtomicU64,
}

impl Member {
    /// Up to when the leader was told of the sessions here.
    pub(super) fn told_until(&self) -> u64 {
        self.reported.load(Relaxed)
    }
}

/// Milliseconds in which a learner looks through its sessions for the leader once at most.
const REPORT_PAUSE: u64 = 10;

/// Bytes of a session and its timeout, as a list of them has it.
const SESSION_SIZE: usize = size_of::<i64>() + size_of::<i32>();

impl Member {
    pub(super) fn outlet(&self) -> &dyn Outlet {
        &*self.outlet
    }

    /// Sends what is queued for the leader, unless somebody else is at it: they see what has come
    /// before they leave. The queue is not locked meanwhile.
    pub(super) fn forward(&self, queue: &Mutex<Queue>) {
        while let Some(mut packets) = self.forwarding.try_lock() {
            while let Some(link) = {
                let mut queue = queue.lock();
                queue.take_requests(&mut packets)
            } {
                self.outlet.send(link, &packets);
                packets.clear();
            }
            drop(packets);
            if !queue.lock().has_requests() {
                return;
            }
        }
    }
}

impl Service {
    /// Makes the service that of a member, which serves nobody until it has a role. The thread that
    /// applies ends with [`Service::stopped`].
    pub(crate) fn join(
        self: &Arc<Self>,
        outlet: Arc<dyn Outlet>,
    ) -> Result<JoinHandle<()>, ServerError> {
        let desk = Desk::new(MemberApplier::new(Arc::clone(self)));
        let config = &self.config;
        let members = config.ensemble.as_ref().map(Membership::from);
        let one_suffices = !config.standalone_enabled;
        let roster = Roster::new(
            config.server_id(),
            members.unwrap_or_default(),
            one_suffices,
        );
        self.show_config(&roster);
        self.member.get_or_init(|| Member {
            outlet,
            forwarding: Mutex::default(),
            desk,
            roster: Arc::new(roster),
            reported: AtomicU64::new(0),
        });
        let (service, end) = (Arc::clone(self), End::new(Arc::clone(self)));
        thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || {
                let mut end = end;
                end.cause = service.member.get().and_then(|member| member.desk.run());
            })
            .map_err(ServerError::Thread)
    }

    /// The members of the ensemble, if this is one.
    pub(crate) fn roster(&self) -> Option<&Roster> {
        self.member.get().map(|member| &*member.roster)
    }

    pub(super) fn submit_job(&self, job: Job) {
        if let Some(member) = self.member.get() {
            member.desk.leave(job);
            member.desk.call();
        }
    }

    /// Takes what has been queued since the last time. `None` if that is nothing.
    pub(crate) fn take_proposals(&self) -> Option<Proposals> {
        let mut queue = self.queue.lock();
        let proposals = queue.take_proposals()?;
        for entry in &proposals.entries {
            self.stats.proposals.add(entry.bytes.len());
        }
        if queue.wants_applier() {
            self.submit_job(Job::Look);
        }
        Some(proposals)
    }

    /// Leaves committed transactions to be applied, behind those before: by
    /// [`Service::catch_up`] or [`Service::call_applier`], once no lock is held.
    pub(crate) fn apply(&self, entries: Vec<Entry>) {
        if let Some(member) = self.member.get() {
            member.desk.leave(Job::Apply(entries));
        }
    }

    /// The leader: what the oldest sync of its own clients has waited for is applied by now, or was
    /// left to be. See to it as with [`Service::apply`].
    pub(crate) fn synced(&self) {
        if let Some(member) = self.member.get() {
            member.desk.leave(Job::Synced);
        }
    }

    /// Applies what waits for it, or has it applied if that is much. Not to be called with a lock held.
    pub(crate) fn catch_up(&self) {
        if let Some(member) = self.member.get() {
            member.desk.catch_up();
        }
    }

    /// Has what waits for it applied.
    pub(crate) fn call_applier(&self) {
        if let Some(member) = self.member.get() {
            member.desk.call();
        }
    }

    /// Serves as the leader of `epoch`, once everything that was committed before is applied.
    pub(crate) fn lead(&self, epoch: u32) {
        let mut queue = self.queue.lock();
        let term = queue.announce(true);
        self.submit_job(Job::Lead { term, epoch });
    }

    /// Serves as a learner of `epoch`, once everything that was committed before is applied, and
    /// forwards on `link`.
    pub(crate) fn follow(&self, epoch: u32, link: Link, observer: bool) {
        let mut queue = self.queue.lock();
        let term = queue.announce(false);
        self.submit_job(Job::Follow {
            term,
            epoch,
            link,
            observer,
        });
    }

    /// Serves nobody from now on. Connections stay, but for those that have a write under way.
    pub(crate) fn pause(&self) {
        self.end_role(false);
    }

    /// Serves nobody from now on, and follows or leads soon: the leader has promised that whatever
    /// it has not proposed by now it never will. All connections stay; what they have asked for
    /// waits for the next role, unless a proposal from before turns out to be it.
    pub(crate) fn await_successor(&self) {
        self.end_role(true);
    }

    fn end_role(&self, handed_over: bool) {
        let mut queue = self.queue.lock();
        queue.pause();
        self.set_mode(Mode::Paused(Instant::now()));
        if let Some(member) = self.member.get() {
            member.roster.clear();
        }
        self.submit_job(Job::Pause { handed_over });
    }

    /// The leader: takes no more requests, before it hands over. Once
    /// [`Service::take_proposals`] has nothing more, nothing more will come.
    pub(crate) fn resign(&self) {
        let mut queue = self.queue.lock();
        queue.resign();
        self.set_mode(Mode::Paused(Instant::now()));
    }

    /// A learner may send requests from now on.
    pub(crate) fn learner_joined(&self, link: Link, sid: Sid, observer: bool) {
        if let Some(member) = self.member.get() {
            member.roster.join(link, sid, observer);
        }
    }

    /// A learner is gone.
    pub(crate) fn learner_left(&self, link: Link) {
        if let Some(member) = self.member.get() {
            member.roster.leave(link);
        }
    }

    /// Packets that are about sessions or requests: see
    /// [`Output::Deliver`](crate::zab::Output::Deliver).
    pub(crate) fn deliver(&self, packets: Vec<(Link, Packet)>) {
        let Some(member) = self.member.get() else {
            return;
        };
        let mut packets = packets.into_iter().peekable();
        while let Some((link, packet)) = packets.next() {
            let from_learner = member.roster.learner(link).is_some();
            match packet {
                // A leader that does not lead yet takes all sessions for heard from anyway.
                Packet::Ping { sessions, .. } if from_learner => self.heard_from(&sessions),
                packet if from_learner => {
                    let more = std::iter::from_fn(|| {
                        packets.next_if(|(from, packet)| {
                            *from == link && !matches!(packet, Packet::Ping { .. })
                        })
                    });
                    self.serve_asked(
                        link,
                        std::iter::once(packet).chain(more.map(|(_, packet)| packet)),
                    );
                }
                Packet::Ping { zxid, .. } => self.answer_ping(member, link, zxid),
                Packet::Revalidate(answers) => self.revalidated(link, &answers),
                // Not what a leader of the past has answered.
                Packet::Sync if self.queue.lock().follows(link) => self.submit_job(Job::Synced),
                _ => {}
            }
        }
    }

    /// Does what a learner asks for, or will, once it leads.
    fn serve_asked(&self, link: Link, packets: impl Iterator<Item = Packet>) {
        let mut queue = self.queue.lock();
        let tree = LazyTree::new(&self.tree);
        for packet in packets {
            if let Some(packet) = queue.defer(link, packet) {
                self.serve_learner(&mut queue, &tree, link, packet);
            }
        }
        drop(tree);
        self.wake(queue);
    }

    /// A configuration of the ensemble is proposed.
    pub(crate) fn propound(&self, config: Membership) {
        if let Some(member) = self.member.get() {
            member.roster.propound(config);
            self.submit_job(Job::Show);
        }
    }

    /// A configuration of the ensemble is in force, be it that its transaction comes to the tree or
    /// that it is known from elsewhere.
    pub(crate) fn activate(&self, config: Membership) {
        if let Some(member) = self.member.get() {
            member.roster.activate(config);
            self.submit_job(Job::Show);
        }
    }

    /// Shows the configuration in the tree, as far as no transaction has put it there.
    pub(super) fn show_config(&self, roster: &Roster) {
        let mut tree = self.tree.write();
        let config = roster.upto(tree.last_zxid());
        tree.show_config(&config.to_string(), config.version.cast_signed());
    }

    /// Waits until everything is applied that was given to [`Service::apply`].
    pub(crate) fn rest(&self) {
        let (done, rested) = mpsc::channel();
        self.submit_job(Job::Rest(done));
        // Nothing is ever sent: it ends with the job.
        let _ = rested.recv();
    }

    /// Waits until the tree shows the transaction `zxid`. Cancel safe.
    pub(crate) async fn shows(&self, zxid: i64) {
        loop {
            let applied = self.applied.notified();
            if self.tree().last_zxid() >= zxid {
                return;
            }
            applied.await;
        }
    }

    /// Another tree takes the place of this one: a snapshot has come, or the log was cut. Only while
    /// paused. Clients whose watches it may have passed over are disconnected.
    pub(crate) fn replace_tree(&self, tree: Tree) {
        let mut current = self.tree.write();
        *current = tree;
        self.generation.fetch_add(1, Relaxed);
        drop(current);
        if let Some(member) = self.member.get() {
            self.show_config(&member.roster);
        }
        self.connections.close_sessions();
    }

    /// A learner: tells the leader which sessions were heard from since the last time, unless that
    /// was just now: each `sync` may bring a PING.
    fn answer_ping(&self, member: &Member, link: Link, zxid: i64) {
        let (now, since) = (self.now(), member.reported.load(Relaxed));
        if now < since + REPORT_PAUSE {
            let sessions = Bytes::new();
            return member.outlet.send(link, &[Packet::Ping { zxid, sessions }]);
        }
        member.reported.store(now, Relaxed);
        let mut heard = Vec::new();
        let mut tracker = self.sessions.lock();
        let sessions: Vec<_> = tracker.heard(since).collect();
        for (session, timeout) in sessions {
            session.encode(&mut heard);
            timeout.cast_signed().encode(&mut heard);
            // It was kept to be told of only.
            if !self.connections.has_session(session) {
                tracker.remove(session);
            }
        }
        drop(tracker);
        let sessions = heard.into();
        member.outlet.send(link, &[Packet::Ping { zxid, sessions }]);
    }

    /// A learner: the leader has said whether there are the sessions of handshakes that wait.
    fn revalidated(&self, link: Link, answers: &[u8]) {
        let mut queue = self.queue.lock();
        if !queue.follows(link) {
            return;
        }
        for answer in answers.chunks_exact(size_of::<i64>() + 1) {
            let Ok(session) = i64::from_slice(answer) else {
                continue;
            };
            let known = answer.last() != Some(&0);
            let Some((timeout, origin)) = queue.revalidated(session) else {
                continue;
            };
            if known {
                let now = self.now();
                self.sessions
                    .lock()
                    .track(session, timeout.max(0).cast_unsigned(), now);
            }
            queue.push_resumed(known, timeout, origin);
        }
        self.wake(queue);
    }

    /// The leader: a learner has heard from sessions.
    fn heard_from(&self, sessions: &[u8]) {
        let mut tracker = self.sessions.lock();
        let now = self.now();
        for (session, timeout) in sessions_in(sessions) {
            if tracker.get(session).is_some() {
                tracker.track(session, timeout, now);
            }
        }
    }

    /// The leader: does what a learner asks for.
    pub(super) fn serve_learner(
        &self,
        queue: &mut Queue,
        tree: &LazyTree<'_>,
        link: Link,
        packet: Packet,
    ) {
        let Some(member) = self.member.get().filter(|_| queue.is_leading()) else {
            return;
        };
        let Some(sid) = member.roster.learner(link) else {
            return;
        };
        match packet {
            Packet::Revalidate(asked) => {
                let answers = self.revalidate(sid, &asked).into();
                member.outlet.send(link, &[Packet::Revalidate(answers)]);
            }
            Packet::Request(request) => self.serve_request(queue, tree, (link, sid), &request),
            _ => {}
        }
    }

    /// Lets the server `sid` have sessions, and answers which of them there are.
    pub(super) fn revalidate(&self, sid: Sid, asked: &[u8]) -> Vec<u8> {
        let mut answers = Vec::new();
        for (session, timeout) in sessions_in(asked) {
            let mut tracker = self.sessions.lock();
            let known = tracker.get(session).is_some();
            if known {
                tracker.track(session, timeout, self.now()).move_to(sid);
            }
            drop(tracker);
            if known {
                // A connection that it has here is of the past.
                self.connections.close_session(session);
            }
            session.encode(&mut answers);
            known.encode(&mut answers);
        }
        answers
    }

    fn serve_request(
        &self,
        queue: &mut Queue,
        tree: &LazyTree<'_>,
        (link, sid): (Link, Sid),
        request: &Request,
    ) {
        let Ok(op) = OpCode::try_from(request.op) else {
            return;
        };
        let requester = Requester {
            session: request.session,
            cxid: request.cxid,
            ids: &request.ids,
            time: wall_clock(),
            local: false,
        };
        let session = self.sessions.lock().get(request.session).cloned();
        // The sessions that only another server knows carry its number.
        let elsewhere = (request.session ^ (self.config.server_id() << 56)) >> 56 != 0;
        let requester = Requester {
            local: session.is_none() && elsewhere && self.config.local_sessions_enabled,
            ..requester
        };
        let moved = session.is_some_and(|session| !session.is_at(sid));
        match op {
            OpCode::Sync => queue.push_sync(Some(link)),
            OpCode::CreateSession => {
                let timeout = timeout_in(&request.body);
                let mut sessions = self.sessions.lock();
                let millis = timeout.max(0).cast_unsigned();
                sessions
                    .track(request.session, millis, self.now())
                    .move_to(sid);
                drop(sessions);
                queue.push_unasked(tree, requester, op, Internal::CreateSession(timeout));
            }
            OpCode::CloseSession if !moved => {
                self.sessions.lock().remove(request.session);
                queue.push_unasked(tree, requester, op, Internal::CloseSession);
            }
            OpCode::CloseSession => queue.push_forwarded(tree, requester, op, &[], true),
            _ if is_write(op) => {
                queue.push_forwarded(tree, requester, op, &request.body, moved);
            }
            // Whoever waits for a read waits at the wrong server.
            _ => {}
        }
    }
}

/// The sessions and timeouts that a list holds.
fn sessions_in(list: &[u8]) -> impl Iterator<Item = (i64, u32)> {
    list.chunks_exact(SESSION_SIZE).filter_map(|item| {
        let (session, timeout) = item.split_at(size_of::<i64>());
        let timeout = i32::from_slice(timeout).ok()?;
        Some((
            i64::from_slice(session).ok()?,
            timeout.max(0).cast_unsigned(),
        ))
    })
}
