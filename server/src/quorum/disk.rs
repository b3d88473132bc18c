//! The member's disk: a queue of work, and the thread that does it.
//!
//! All that waits is appended with one write and made durable with one sync.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, OwnedMutexGuard};

use crate::storage::epoch::EpochFile;
use crate::tree::Tree;
use crate::zab::{Entry, Link, Membership, Position, Sid};

/// Bytes of entries that may wait for the disk before learners stop reading from their leader.
const ROOM: usize = 64 << 20;

/// Something for the disk.
#[derive(Debug)]
pub(super) enum DiskWork {
    /// See [`Output::Append`](crate::zab::Output::Append).
    Append {
        entries: Vec<Entry>,
        position: Position,
    },
    /// See [`Output::WriteEpoch`](crate::zab::Output::WriteEpoch).
    Epoch { file: EpochFile, epoch: u32 },
    /// See [`Output::Truncate`](crate::zab::Output::Truncate).
    Truncate { zxid: i64 },
    /// See [`Output::Propound`](crate::zab::Output::Propound).
    Propound(Membership),
    /// See [`Output::Activate`](crate::zab::Output::Activate).
    Activate(Membership),
    /// A tree that came from the leader takes the place of everything that there is.
    Install {
        link: Link,
        zxid: i64,
        tree: Box<Tree>,
        /// Held until that is done.
        installing: OwnedMutexGuard<()>,
    },
}

#[derive(Debug, Default)]
struct Waiting {
    work: VecDeque<DiskWork>,
    bytes: usize,
    /// The service has something to propose.
    proposals: bool,
    /// The member is to lead no longer, in favour of this server.
    resign: Option<Option<Sid>>,
    stopping: bool,
    /// The thread waits for something to do.
    idle: bool,
}

/// What wakes the thread.
#[derive(Debug, Default)]
pub(super) struct Woken {
    pub(super) work: VecDeque<DiskWork>,
    pub(super) proposals: bool,
    pub(super) resign: Option<Option<Sid>>,
    pub(super) stopping: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct DiskQueue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    room: Notify,
}

impl DiskQueue {
    pub(super) fn push(&self, work: DiskWork) {
        let mut waiting = self.waiting.lock();
        if let DiskWork::Append { entries, .. } = &work {
            waiting.bytes += entries.iter().map(|entry| entry.bytes.len()).sum::<usize>();
        }
        waiting.work.push_back(work);
        // Woken with the lock held, the thread would be given it, and be waited for.
        drop(waiting);
        self.filled.notify_one();
    }

    /// The service has something to propose.
    pub(super) fn wake(&self) {
        self.waiting.lock().proposals = true;
        self.filled.notify_one();
    }

    /// Lets the member hand over, behind its last proposal.
    pub(super) fn resign(&self, to: Option<Sid>) {
        self.waiting.lock().resign = Some(to);
        self.filled.notify_one();
    }

    pub(super) fn stop(&self) {
        self.waiting.lock().stopping = true;
        self.filled.notify_one();
        self.room.notify_waiters();
    }

    /// Waits for something to do, and takes all of it.
    pub(super) fn take(&self) -> Woken {
        let mut waiting = self.waiting.lock();
        while waiting.work.is_empty()
            && !waiting.proposals
            && waiting.resign.is_none()
            && !waiting.stopping
        {
            waiting.idle = true;
            self.filled.wait(&mut waiting);
        }
        waiting.idle = false;
        self.take_from(&mut waiting)
    }

    /// Does the thread wait for something to do?
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.lock().idle
    }

    /// Takes what there is.
    pub(super) fn poll(&self) -> Woken {
        self.take_from(&mut self.waiting.lock())
    }

    fn take_from(&self, waiting: &mut Waiting) -> Woken {
        if std::mem::take(&mut waiting.bytes) > ROOM {
            self.room.notify_waiters();
        }
        Woken {
            work: std::mem::take(&mut waiting.work),
            proposals: std::mem::take(&mut waiting.proposals),
            resign: waiting.resign.take(),
            stopping: waiting.stopping,
        }
    }

    /// Waits until not too much is waiting. Cancel safe.
    pub(super) async fn has_room(&self) {
        loop {
            let room = self.room.notified();
            {
                let waiting = self.waiting.lock();
                if waiting.bytes <= ROOM || waiting.stopping {
                    return;
                }
            }
            room.await;
        }
    }
}
