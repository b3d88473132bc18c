//! The applier of a member: what the driver of Zab and the queue hand over comes to it in one
//! order, roles that begin and end included, so that a role begins on a tree that shows all that
//! was committed before.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use quorate_proto::jute::Decode;
use quorate_proto::{OpCode, TxnHeader};

use super::applier::{Applier, HOLD};
use super::gate::{Answer, Gate, Waiting};
use super::member::Member;
use super::queue::{Batch, LazyTree, Role, Upstream};
use super::{Mode, Service, wall_clock};
use crate::error::ServerError;
use crate::tree::Tree;
use crate::txn::Preparer;
use crate::zab::{Entry, Link, zxid_of};

/// See the [module](self).
#[derive(Debug)]
pub(super) enum Job {
    /// Something was queued, or proposed, that may need no commit to be answered.
    Look,
    /// Committed transactions.
    Apply(Vec<Entry>),
    /// The leader says that all which was committed when the oldest sync was asked for is applied
    /// before this.
    Synced,
    /// Lead.
    Lead { term: u64, epoch: u32 },
    /// Follow, or observe.
    Follow {
        term: u64,
        epoch: u32,
        link: Link,
        observer: bool,
    },
    /// The role is over.
    Pause {
        /// Will what was sent to the leader and is not proposed by now never be?
        handed_over: bool,
    },
    /// The configuration that is in force, or is proposed, has changed.
    Show,
    /// Somebody waits until everything before this is done, and hears of it by the end of this.
    Rest(Sender<()>),
    /// The member ends.
    Stop,
}

impl Job {
    /// How many transactions it has to apply.
    pub(super) fn txns(&self) -> usize {
        match self {
            Job::Apply(entries) => entries.len(),
            _ => 0,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct MemberApplier {
    service: Arc<Service>,
    applier: Applier,
    gate: Gate,
    leading: bool,
    /// Has a role begun since the last one ended? Else nothing has left the server.
    has_role: bool,
    /// What was taken from the queue, and is dealt with.
    works: Vec<(Batch, Option<i64>)>,
}

impl MemberApplier {
    pub(super) fn new(service: Arc<Service>) -> Self {
        MemberApplier {
            applier: Applier::new(Arc::clone(&service)),
            service,
            gate: Gate::default(),
            leading: false,
            has_role: false,
            works: Vec::new(),
        }
    }

    /// Does a job. Breaks when it is told to stop, or cannot go on, and says why.
    pub(super) fn carry_out(&mut self, job: Job) -> ControlFlow<Option<ServerError>> {
        match job {
            Job::Look => {}
            Job::Apply(entries) => {
                if let Err(error) = self.apply(&entries) {
                    return ControlFlow::Break(Some(error));
                }
            }
            Job::Synced => self.synced(),
            Job::Lead { term, epoch } => self.lead(term, epoch),
            Job::Follow {
                term,
                epoch,
                link,
                observer,
            } => {
                let mode = match observer {
                    true => Mode::Observing,
                    false => Mode::Following,
                };
                self.follow(term, epoch, link, mode);
            }
            Job::Pause { handed_over } => self.pause(handed_over),
            Job::Show => {
                if let Some(member) = self.service.member.get() {
                    self.service.show_config(&member.roster);
                }
            }
            Job::Rest(done) => drop(done),
            Job::Stop => return ControlFlow::Break(None),
        }
        self.look();
        ControlFlow::Continue(())
    }

    /// Takes what clients have queued, until there is nothing more: who queues something behind a
    /// request that is not answered yet relies on that to be seen with the answer.
    fn look(&mut self) {
        let mut works = std::mem::take(&mut self.works);
        let service = Arc::clone(&self.service);
        loop {
            let mut queue = service.queue.lock();
            for (batch, _) in works.drain(..) {
                queue.give_back(batch);
            }
            queue.take_works(&mut works);
            drop(queue);
            if works.is_empty() {
                break;
            }
            self.admit(&mut works);
        }
        self.works = works;
    }

    fn admit(&mut self, works: &mut [(Batch, Option<i64>)]) {
        let service = Arc::clone(&self.service);
        let tree = service.tree();
        self.applier.begin(&tree);
        let applier = &mut self.applier;
        for (batch, behind) in works {
            self.gate.admit(batch, *behind, |waiting| {
                answer(applier, &tree, &waiting);
            });
        }
        self.pass_barriers(&tree);
        drop(tree);
        self.applier.finish();
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), ServerError> {
        self.look();
        let service = Arc::clone(&self.service);
        for entries in entries.chunks(HOLD) {
            let mut tree = service.tree.write();
            self.applier.begin(&tree);
            for entry in entries {
                self.apply_entry(&mut tree, entry)?;
            }
            self.pass_barriers(&tree);
            drop(tree);
            self.applier.finish();
        }
        service.applied.notify_waiters();
        if let Some(last) = entries.last().filter(|_| self.leading) {
            service.queue.lock().applied(last.zxid);
        }
        Ok(())
    }

    fn apply_entry(&mut self, tree: &mut Tree, entry: &Entry) -> Result<(), ServerError> {
        // What the log held at the start is in the tree. Leaders of other makes give an error the
        // number of the transaction before it, and somebody waits for that, too.
        if entry.zxid <= tree.last_zxid() && entry.op() != Some(OpCode::Error.number()) {
            return Ok(());
        }
        let header = TxnHeader::from_slice(&entry.bytes).map_err(ServerError::OwnRecord)?;
        if self.gate.uncover(&header) {
            self.advance(tree, header.session_id);
        }
        let mut claimed = false;
        self.applier.apply_record(tree, &entry.bytes, |header| {
            let claim = self.gate.claim(header);
            claimed = claim.is_some();
            claim
        })?;
        if header.op == OpCode::CloseSession.number() {
            self.service.sessions.lock().remove(header.session_id);
            for waiting in self.gate.forget(header.session_id) {
                self.applier.abandon(&waiting.origin);
            }
        } else if claimed {
            self.advance(tree, header.session_id);
        }
        Ok(())
    }

    /// Answers what a session need not wait for any longer.
    fn advance(&mut self, tree: &Tree, session: i64) {
        while let Some(waiting) = self.gate.next(session) {
            answer(&mut self.applier, tree, &waiting);
        }
    }

    fn pass_barriers(&mut self, tree: &Tree) {
        while let Some(session) = self.gate.passed(tree.last_zxid()) {
            self.advance(tree, session);
        }
    }

    fn synced(&mut self) {
        self.look();
        let service = Arc::clone(&self.service);
        let tree = service.tree();
        self.applier.begin(&tree);
        if let Some(session) = self.gate.synced() {
            self.advance(&tree, session);
        }
        drop(tree);
        self.applier.finish();
    }

    fn lead(&mut self, term: u64, epoch: u32) {
        let service = Arc::clone(&self.service);
        let mut queue = service.queue.lock();
        let tree = LazyTree::new(&service.tree);
        let rules = queue.rules().clone();
        let mut preparer = Preparer::behind(zxid_of(epoch, 0), tree.get(), rules);
        if let Some(member) = service.member.get() {
            // What was proposed before is in force or forgotten.
            member.roster.settle();
            preparer = preparer.of(Arc::clone(&member.roster));
        }
        let Some(early) = queue.begin(term, Role::Leading { epoch, preparer }) else {
            return;
        };
        self.leading = true;
        self.has_role = true;
        let sessions = tree.get().sessions();
        let sessions = sessions.map(|(id, timeout)| (id, timeout.max(0).cast_unsigned()));
        service.sessions.lock().take_over(sessions, service.now());
        service.close_orphans(&mut queue, &tree);
        for waiting in self.gate.take() {
            let local = service.is_local(waiting.origin.session);
            queue.push_again(&tree, waiting, wall_clock(), local);
        }
        for (timeout, origin) in queue.take_revalidating().into_values() {
            service.resume_on(&mut queue, timeout, origin);
        }
        for (link, packet) in early {
            service.serve_learner(&mut queue, &tree, link, packet);
        }
        drop(tree);
        service.wake(queue);
        service.serve_as(Mode::Leading, epoch);
    }

    fn follow(&mut self, term: u64, epoch: u32, link: Link, mode: Mode) {
        let service = Arc::clone(&self.service);
        let mut queue = service.queue.lock();
        let upstream = Upstream::new(link);
        if queue.begin(term, Role::Following(upstream)).is_none() {
            return;
        }
        self.has_role = true;
        let connections = &service.connections;
        let here = |session| connections.has_session(session);
        let member = service.member.get();
        let told = member.map_or(0, Member::told_until);
        service.sessions.lock().hand_over(told, here);
        let tree = LazyTree::new(&service.tree);
        for waiting in self.gate.take() {
            let local = service.is_local(waiting.origin.session);
            queue.push_again(&tree, waiting, wall_clock(), local);
        }
        drop(tree);
        for (timeout, origin) in queue.take_revalidating().into_values() {
            service.resume_on(&mut queue, timeout, origin);
        }
        service.wake(queue);
        service.serve_as(mode, epoch);
    }

    fn pause(&mut self, handed_over: bool) {
        self.leading = false;
        self.look();
        if !std::mem::take(&mut self.has_role) {
            return;
        }
        let applier = &mut self.applier;
        let unknown = |waiting: &Waiting| match &waiting.answer {
            Answer::Write { request, .. } => !handed_over || request.is_none(),
            _ => false,
        };
        self.gate
            .suspend(unknown, |waiting| applier.abandon(&waiting.origin));
    }
}

fn answer(applier: &mut Applier, tree: &Tree, waiting: &Waiting) {
    let origin = &waiting.origin;
    match &waiting.answer {
        Answer::Local { op, ids, body } => applier.answer_local(tree, *op, ids, body, origin),
        Answer::Resumed { timeout } => applier.answer_resumed(*timeout, origin),
        Answer::Unknown => applier.answer_unknown(origin),
        Answer::Refused(err) => applier.answer_refused(tree, *err, origin),
        // Only its transaction answers a write.
        Answer::Write { .. } => {}
    }
}
