//! Where jobs wait for the applier of a member, and who does them: a thread of its own, or somebody
//! who brings one and has the time, which saves the way to that thread.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::roles::{Job, MemberApplier};
use crate::error::ServerError;

/// Who brings a job has time for so many transactions, or a few more.
const FEW: usize = 64;

/// See the [module](self). Jobs are done one by one, in their order.
#[derive(Debug)]
pub(super) struct Desk {
    inbox: Mutex<Inbox>,
    called: Condvar,
    /// `None` once it has ended.
    applier: Mutex<Option<MemberApplier>>,
}

#[derive(Debug, Default)]
struct Inbox {
    jobs: VecDeque<Job>,
    /// Transactions among them.
    txns: usize,
    /// The thread is to look.
    called: bool,
    /// The applier has ended, and why if nobody asked for it.
    over: Option<Option<ServerError>>,
}

/// Whoever does the jobs may panic; nobody else may go on with what that leaves.
struct Alarm<'a>(&'a Desk);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end(Some(ServerError::Panicked));
        }
    }
}

impl Desk {
    pub(super) fn new(applier: MemberApplier) -> Self {
        Desk {
            inbox: Mutex::default(),
            called: Condvar::new(),
            applier: Mutex::new(Some(applier)),
        }
    }

    /// Leaves a job here. Somebody is to see to it: [`Desk::call`] or [`Desk::catch_up`].
    pub(super) fn leave(&self, job: Job) {
        let mut inbox = self.inbox.lock();
        inbox.txns += job.txns();
        inbox.jobs.push_back(job);
    }

    /// Lets the thread do what waits.
    pub(super) fn call(&self) {
        self.inbox.lock().called = true;
        self.called.notify_one();
    }

    /// Does what waits, unless it is much: then the thread does. Not to be called with a lock held.
    pub(super) fn catch_up(&self) {
        let txns = self.inbox.lock().txns;
        match txns <= FEW {
            true => self.work(FEW),
            false => self.call(),
        }
    }

    /// The thread: works until the applier ends, and answers why, if nobody asked for it.
    pub(super) fn run(&self) -> Option<ServerError> {
        loop {
            let mut inbox = self.inbox.lock();
            while !inbox.called && inbox.over.is_none() {
                self.called.wait(&mut inbox);
            }
            if let Some(cause) = inbox.over.take() {
                return cause;
            }
            inbox.called = false;
            drop(inbox);
            self.work(usize::MAX);
        }
    }

    /// Does what waits, unless somebody else is at it: they see what has come before they leave.
    fn work(&self, most: usize) {
        let mut done = 0;
        while let Some(mut applier) = self.applier.try_lock() {
            let alarm = Alarm(self);
            while done <= most
                && let Some(job) = self.take()
            {
                done += job.txns();
                // One that has ended does nothing more.
                let going_on = applier.as_mut().map(|applier| applier.carry_out(job));
                if let Some(ControlFlow::Break(cause)) = going_on {
                    *applier = None;
                    self.end(cause);
                }
            }
            drop(applier);
            drop(alarm);
            if self.inbox.lock().jobs.is_empty() {
                return;
            }
            if done > most {
                return self.call();
            }
        }
    }

    fn take(&self) -> Option<Job> {
        let mut inbox = self.inbox.lock();
        let job = inbox.jobs.pop_front()?;
        inbox.txns -= job.txns();
        Some(job)
    }

    fn end(&self, cause: Option<ServerError>) {
        self.inbox.lock().over = Some(cause);
        self.called.notify_one();
    }
}
