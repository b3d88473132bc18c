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

/// What is waiting for all that was proposed, or asked of the leader, before it.
#[derive(Debug)]
struct Barrier {
    session: i64,
    /// The last transaction that it waits for; `None` where the leader has to say so.
    behind: Option<i64>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Gate {
    sessions: HashMap<i64, VecDeque<Waiting>>,
    barriers: VecDeque<Barrier>,
}

impl Gate {
    /// Adds what was queued, in its order. `behind` is the last transaction numbered so far, on the
    /// leader. What need not wait is given to `ready`.
    pub(super) fn admit(
        &mut self,
        batch: &mut Batch,
        behind: Option<i64>,
        mut ready: impl FnMut(Waiting),
    ) {
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
            if waiting.is_barrier() {
                self.barriers.push_back(Barrier { session, behind });
            }
            let queue = self.sessions.entry(session).or_default();
            if queue.is_empty() && !blocked {
                ready(waiting);
            } else {
                queue.push_back(waiting);
            }
        }
    }

    /// The write that waits for this transaction: the first of its session, if it is that one.
    pub(super) fn claim(&mut self, header: &TxnHeader) -> Option<(Origin, OpCode)> {
        let queue = self.sessions.get_mut(&header.session_id)?;
        let first = queue.front()?;
        let Answer::Write { op, .. } = first.answer else {
            return None;
        };
        // A session that expires ends without having asked for it.
        let closes = header.op == OpCode::CloseSession.number();
        if first.origin.xid != header.cxid || (closes && op != OpCode::CloseSession) {
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

    /// The session of a barrier that falls, because everything up to `zxid` is applied.
    pub(super) fn passed(&mut self, zxid: i64) -> Option<i64> {
        if self.barriers.front()?.behind? > zxid {
            return None;
        }
        self.released()
    }

    /// The session of the oldest barrier, which falls. The session may be over.
    pub(super) fn released(&mut self) -> Option<i64> {
        let session = self.barriers.pop_front()?.session;
        let queue = self.sessions.get_mut(&session).into_iter().flatten();
        let mut barriers = queue.filter(|waiting| waiting.is_barrier());
        if let Some(barrier) = barriers.next() {
            barrier.blocked = false;
        }
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
        self.barriers.clear();
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
    fn is_barrier(&self) -> bool {
        self.blocked && !matches!(self.answer, Answer::Write { .. })
    }
}
