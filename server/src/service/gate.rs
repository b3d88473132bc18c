//! What waits for committed transactions, on a member of an ensemble: session by session, so that
//! each sees its answers in the order of its requests, and reads what it wrote.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use quorate_proto::{ErrorCode, Id, OpCode, TxnHeader};

use super::queue::{Batch, Origin, Work};
use crate::zab::Request;

/// A request that is to be answered behind others.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) answer: Answer,
    /// Must something happen before it is answered, beside the answers in front of it?
    blocked: bool,
}

/// How it is to be answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// As its transaction says. The request is there where it was sent to a leader.
    Write {
        op: OpCode,
        request: Option<Request>,
    },
    /// From the tree.
    Local {
        op: OpCode,
        ids: Arc<[Id<'static>]>,
        body: Bytes,
    },
    /// The session is the connection's.
    Resumed { timeout: i32 },
    /// There is no such session.
    Unknown,
    /// An error.
    Refused(ErrorCode),
}

/// A session that waits at a barrier; `None` once it waits no longer.
type Held = Option<i64>;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Those that have nothing to wait for keep their room for the next time.
    sessions: HashMap<i64, VecDeque<Waiting>>,
    /// With more sessions, those that wait for nothing are forgotten.
    most: usize,
    /// `sync`s, each of which waits for the word of the leader, in the order in which that comes.
    syncs: VecDeque<Held>,
    /// Sessions that are resumed on the leader, with the last transaction that each waits for.
    resumed: VecDeque<(Held, i64)>,
}

/// Room for so many sessions is always kept.
const KEPT_SESSIONS: usize = 1 << 10;

impl Gate {
    /// Adds what was queued, in its order. `behind` is the last transaction numbered so far, on the
    /// leader. What need not wait is given to `ready`.
    pub(super) fn admit(
        &mut self,
        batch: &mut Batch,
        behind: Option<i64>,
        mut ready: impl FnMut(Waiting),
    ) {
        if self.sessions.len() > self.most {
            self.sessions.retain(|_, queue| !queue.is_empty());
            self.most = KEPT_SESSIONS.max(2 * self.sessions.len());
        }
        let bodies = Bytes::from(std::mem::take(&mut batch.bodies));
        for work in batch.work.drain(..) {
            let (origin, answer, blocked) = match work {
                Work::Txn { origin: None, .. } => continue,
                Work::Txn {
                    op,
                    origin: Some(origin),
                    ..
                } => (origin, Answer::Write { op, request: None }, true),
                Work::Forwarded {
                    op,
                    request,
                    origin,
                } => {
                    let request = Some(request);
                    (origin, Answer::Write { op, request }, true)
                }
                Work::Local {
                    body,
                    op,
                    ids,
                    origin,
                } => {
                    let body = bodies.slice(body);
                    (origin, Answer::Local { op, ids, body }, op == OpCode::Sync)
                }
                Work::Resumed { timeout, origin } => {
                    // Elsewhere the leader has looked at the session before it said so.
                    (origin, Answer::Resumed { timeout }, behind.is_some())
                }
                Work::Unknown { origin } => (origin, Answer::Unknown, false),
                Work::Refused { err, origin } => (origin, Answer::Refused(err), false),
            };
            let session = origin.session;
            let waiting = Waiting {
                origin,
                answer,
                blocked,
            };
            match (&waiting.answer, behind) {
                _ if waiting.is_sync() => self.syncs.push_back(Some(session)),
                (Answer::Resumed { .. }, Some(behind)) => {
                    self.resumed.push_back((Some(session), behind));
                }
                _ => {}
            }
            let queue = self.sessions.entry(session).or_default();
            if queue.is_empty() && !blocked {
                ready(waiting);
            } else {
                queue.push_back(waiting);
            }
        }
    }

    /// Makes way for the write that waits for this transaction: barriers in front of it fall, because
    /// the leader had their requests before it numbered this one. True if there were any.
    pub(super) fn uncover(&mut self, header: &TxnHeader) -> bool {
        if self.syncs.is_empty() && self.resumed.is_empty() {
            return false;
        }
        let Some(queue) = self.sessions.get_mut(&header.session_id) else {
            return false;
        };
        let is_write = |waiting: &Waiting| matches!(waiting.answer, Answer::Write { .. });
        let Some(write) = queue.iter().position(is_write) else {
            return false;
        };
        if !queue[write].is_for(header) {
            return false;
        }
        let mut uncovered = false;
        for waiting in queue.range_mut(..write).filter(|waiting| waiting.blocked) {
            waiting.blocked = false;
            uncovered = true;
            let is_its = |held: &&mut Held| **held == Some(header.session_id);
            let held = match waiting.is_sync() {
                true => self.syncs.iter_mut().find(is_its),
                false => self.resumed.iter_mut().map(|(held, _)| held).find(is_its),
            };
            if let Some(held) = held {
                *held = None;
            }
        }
        uncovered
    }

    /// The write that waits for this transaction: the first of its session, if it is that one.
    pub(super) fn claim(&mut self, header: &TxnHeader) -> Option<(Origin, OpCode)> {
        let queue = self.sessions.get_mut(&header.session_id)?;
        let first = queue.front()?;
        let Answer::Write { op, .. } = first.answer else {
            return None;
        };
        if !first.is_for(header) {
            return None;
        }
        let first = queue.pop_front()?;
        Some((first.origin, op))
    }

    /// The next of a session that waits for nothing any more.
    pub(super) fn next(&mut self, session: i64) -> Option<Waiting> {
        let queue = self.sessions.get_mut(&session)?;
        if queue.front()?.blocked {
            return None;
        }
        queue.pop_front()
    }

    /// Lets sessions be resumed for which everything up to `zxid` was to be applied. Answers one of
    /// them; to be called until there is none.
    pub(super) fn passed(&mut self, zxid: i64) -> Option<i64> {
        while let Some((held, _)) = self.resumed.pop_front_if(|(_, behind)| *behind <= zxid) {
            let resumes = |waiting: &Waiting| matches!(waiting.answer, Answer::Resumed { .. });
            if let Some(session) = self.unblock(held, resumes) {
                return Some(session);
            }
        }
        None
    }

    /// The oldest `sync` waits no longer. Answers its session, unless nothing waits there any more.
    pub(super) fn synced(&mut self) -> Option<i64> {
        let held = self.syncs.pop_front()?;
        self.unblock(held, Waiting::is_sync)
    }

    fn unblock(&mut self, held: Held, is_it: impl Fn(&Waiting) -> bool) -> Option<i64> {
        let session = held?;
        let mut queue = self.sessions.get_mut(&session)?.iter_mut();
        let waiting = queue.find(|waiting| waiting.blocked && is_it(waiting))?;
        waiting.blocked = false;
        Some(session)
    }

    /// A session is over: what it still waits for will never come.
    pub(super) fn forget(&mut self, session: i64) -> impl Iterator<Item = Waiting> {
        self.sessions.remove(&session).into_iter().flatten()
    }

    /// The role is over. Gives all that waits in a session to `lost` if the outcome of some of it is
    /// `unknown`. The rest waits on.
    pub(super) fn suspend(
        &mut self,
        unknown: impl Fn(&Waiting) -> bool,
        mut lost: impl FnMut(Waiting),
    ) {
        self.syncs.clear();
        self.resumed.clear();
        self.sessions.retain(|_, queue| {
            if queue.iter().any(&unknown) {
                queue.drain(..).for_each(&mut lost);
            }
            !queue.is_empty()
        });
    }

    /// All that waits, in the order of each session.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Waiting> {
        std::mem::take(&mut self.sessions).into_values().flatten()
    }
}

impl Waiting {
    /// Is it the write that has become this transaction?
    fn is_for(&self, header: &TxnHeader) -> bool {
        let Answer::Write { op, .. } = self.answer else {
            return false;
        };
        // A session that expires ends without having asked for it.
        let closes = header.op == OpCode::CloseSession.number();
        self.origin.xid == header.cxid && (!closes || op == OpCode::CloseSession)
    }

    fn is_sync(&self) -> bool {
        matches!(
            self.answer,
            Answer::Local {
                op: OpCode::Sync,
                ..
            }
        )
    }
}
