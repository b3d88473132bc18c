//! Requests on their way through the logger and the applier: writes, and whatever has to wait behind them.

use std::ops::Range;
use std::sync::Arc;

use quorate_proto::{ErrorCode, Id, OpCode};

use crate::net::Connection;
use crate::tree::Tree;
use crate::txn::{Internal, Preparer, Requester};

/// Where a request came from, and where its answer goes.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) connection: Arc<Connection>,
    pub(crate) xid: i32,
    /// When it was read, on the service's clock.
    pub(crate) received: u64,
}

/// One request.
#[derive(Debug)]
pub(crate) enum Work {
    /// A transaction, whose record ends at this place of [`Batch::records`].
    Txn {
        end: usize,
        op: OpCode,
        origin: Option<Origin>,
    },
    /// A request without a transaction that has to be answered in its place among others.
    Local {
        body: Range<usize>,
        op: OpCode,
        ids: Arc<[Id<'static>]>,
        origin: Origin,
    },
    /// A session that is resumed, behind all that it asked on another connection.
    Resumed {
        session: i64,
        timeout: i32,
        origin: Origin,
    },
    /// A write that made no sense.
    Refused { err: ErrorCode, origin: Origin },
}

/// What becomes durable, and is applied, at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Log records of the transactions, one behind the other.
    pub(crate) records: Vec<u8>,
    pub(crate) first_zxid: i64,
    /// Bodies of local requests, one behind the other.
    pub(crate) bodies: Vec<u8>,
    pub(crate) work: Vec<Work>,
}

/// Buffers that one huge batch has left behind are not kept for ever.
const KEPT_CAPACITY: usize = 1 << 20;

impl Batch {
    /// Number of transactions.
    pub(crate) fn txns(&self) -> u64 {
        self.work
            .iter()
            .filter(|work| matches!(work, Work::Txn { .. }))
            .count() as u64
    }

    /// Makes the batch empty and keeps its buffers.
    pub(crate) fn clear(&mut self) {
        self.work.clear();
        for buffer in [&mut self.records, &mut self.bodies] {
            buffer.clear();
            buffer.shrink_to(KEPT_CAPACITY);
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Queue {
    preparer: Preparer,
    batch: Batch,
    /// The logger waits for work.
    idle: bool,
    stopping: bool,
}

impl Queue {
    pub(crate) fn new(preparer: Preparer) -> Self {
        Queue {
            preparer,
            batch: Batch::default(),
            idle: false,
            stopping: false,
        }
    }

    /// Queues a client's write.
    pub(crate) fn push_write(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        op: OpCode,
        body: &[u8],
        origin: Origin,
    ) {
        let first = self.batch.records.is_empty();
        match self
            .preparer
            .prepare(tree, requester, op, body, &mut self.batch.records)
        {
            Some(zxid) => self.push_txn(first, zxid, op, Some(origin)),
            None => {
                let err = ErrorCode::MARSHALLING_ERROR;
                self.batch.work.push(Work::Refused { err, origin });
            }
        }
    }

    /// Queues a write of the server itself.
    pub(crate) fn push_internal(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        origin: Option<Origin>,
        op: OpCode,
        write: Internal<'_>,
    ) {
        if self.stopping {
            return;
        }
        let first = self.batch.records.is_empty();
        let zxid = self
            .preparer
            .prepare_internal(tree, requester, write, &mut self.batch.records);
        self.push_txn(first, zxid, op, origin);
    }

    /// Queues the end of a session that its client asks for.
    pub(crate) fn push_close(&mut self, tree: &Tree, requester: Requester<'_>, origin: Origin) {
        let close = Internal::CloseSession;
        self.push_internal(tree, requester, Some(origin), OpCode::CloseSession, close);
    }

    /// Queues the answer to a connection that resumes a session.
    pub(super) fn push_resumed(&mut self, session: i64, timeout: i32, origin: Origin) {
        self.batch.work.push(Work::Resumed {
            session,
            timeout,
            origin,
        });
    }

    fn push_txn(&mut self, first: bool, zxid: i64, op: OpCode, origin: Option<Origin>) {
        if first {
            self.batch.first_zxid = zxid;
        }
        self.batch.work.push(Work::Txn {
            end: self.batch.records.len(),
            op,
            origin,
        });
    }

    /// Queues a request that has to wait for those in front of it.
    pub(crate) fn push_local(
        &mut self,
        op: OpCode,
        body: &[u8],
        ids: Arc<[Id<'static>]>,
        origin: Origin,
    ) {
        let start = self.batch.bodies.len();
        self.batch.bodies.extend_from_slice(body);
        let body = start..self.batch.bodies.len();
        self.batch.work.push(Work::Local {
            body,
            op,
            ids,
            origin,
        });
    }

    /// True if the logger has to be woken; it is, then.
    pub(super) fn wants_logger(&mut self) -> bool {
        !self.batch.work.is_empty() && std::mem::take(&mut self.idle)
    }

    /// Queues a transaction of any bytes.
    #[cfg(test)]
    pub(crate) fn push_record(&mut self, record: &[u8]) {
        let first = self.batch.records.is_empty();
        self.batch.records.extend_from_slice(record);
        self.push_txn(first, self.preparer.last_zxid() + 1, OpCode::SetData, None);
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Exchanges what is queued for an empty batch; false if nothing is queued, and then the
    /// logger counts as idle.
    pub(super) fn take(&mut self, empty: &mut Batch) -> bool {
        if self.batch.work.is_empty() {
            self.idle = true;
            return false;
        }
        std::mem::swap(&mut self.batch, empty);
        true
    }

    pub(super) fn preparer(&mut self) -> &mut Preparer {
        &mut self.preparer
    }
}
