//! Which watches a session has, and whom an event concerns (spec: client behaviour, section 6).
//!
//! No I/O: the session's task tells the registry what it sent and received, and the registry
//! answers what to remove on the server and what to set again.

use std::collections::HashMap;
use std::sync::Arc;

use quorate_proto::{EventType, SetWatches2, WatcherType, path};

use crate::error::Error;
use crate::watch::{EventKind, Mailbox, WatchKind};

/// Bytes of paths that go into one setWatches request, well below the frame limit of servers.
const SET_WATCHES_BYTES: usize = 128 * 1024;

/// The watches of a session by kind and path.
#[derive(Default)]
pub(crate) struct Registry {
    data: Table,
    children: Table,
    persistent: Table,
    recursive: Table,
}

type Table = HashMap<Box<str>, Slot>;

/// The watches of one kind on one path.
#[derive(Default)]
struct Slot {
    watchers: Vec<Watcher>,
    /// Requests under way that will register a watch here if they succeed.
    pending: usize,
    /// The server has a watch for this slot.
    on_server: bool,
}

struct Watcher {
    mailbox: Arc<Mailbox>,
    absent: bool,
}

/// A watch that the server keeps and nobody here needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) path: Box<str>,
    pub(crate) kind: WatcherType,
}

impl Registry {
    /// A request that may register a watch goes out.
    pub(crate) fn expect(&mut self, kind: WatchKind, path: &str) {
        let table = self.table(kind);
        match table.get_mut(path) {
            Some(slot) => slot.pending += 1,
            None => {
                let slot = Slot {
                    pending: 1,
                    ..Slot::default()
                };
                table.insert(path.into(), slot);
            }
        }
    }

    /// The reply to such a request: `registered` if the server now has the watch.
    #[must_use]
    pub(crate) fn settle(
        &mut self,
        kind: WatchKind,
        mailbox: &Arc<Mailbox>,
        registered: bool,
    ) -> Option<Removal> {
        let slot = self.table(kind).get_mut(&*mailbox.path)?;
        slot.pending = slot.pending.saturating_sub(1);
        if registered {
            slot.on_server = true;
            // Nobody but the request holds the mailbox of a watch whose user has gone.
            if Arc::strong_count(mailbox) > 1 {
                slot.watchers.push(Watcher {
                    mailbox: Arc::clone(mailbox),
                    absent: matches!(kind, WatchKind::Data { absent: true }),
                });
            }
        }
        self.tidy(kind, &mailbox.path)
    }

    /// The user of a watch has dropped it.
    #[must_use]
    pub(crate) fn release(&mut self, mailbox: &Arc<Mailbox>) -> Option<Removal> {
        for kind in WatchKind::ALL {
            let Some(slot) = self.table(kind).get_mut(&*mailbox.path) else {
                continue;
            };
            let before = slot.watchers.len();
            slot.watchers.retain(|w| !Arc::ptr_eq(&w.mailbox, mailbox));
            if slot.watchers.len() < before {
                return self.tidy(kind, &mailbox.path);
            }
        }
        None
    }

    /// Forgets a slot that nobody needs, and answers what that leaves behind on the server.
    fn tidy(&mut self, kind: WatchKind, path: &str) -> Option<Removal> {
        let table = self.table(kind);
        let slot = table.get(path)?;
        if !slot.watchers.is_empty() || slot.pending > 0 {
            return None;
        }
        let (path, slot) = table.remove_entry(path)?;
        slot.on_server.then(|| Removal {
            path,
            kind: kind.watcher_type(),
        })
    }

    /// Does nobody here watch `path`, in whatever way?
    pub(crate) fn is_unwatched(&self, path: &str) -> bool {
        [
            &self.data,
            &self.children,
            &self.persistent,
            &self.recursive,
        ]
        .iter()
        .all(|table| !table.contains_key(path))
    }

    /// Hands an event to all whom it concerns.
    pub(crate) fn dispatch(&mut self, event: EventType, path: &str, zxid: Option<i64>) {
        let kind = match event {
            EventType::None => return,
            EventType::NodeCreated => EventKind::Created,
            EventType::NodeDeleted => EventKind::Deleted,
            EventType::NodeDataChanged => EventKind::DataChanged,
            EventType::NodeChildrenChanged => EventKind::ChildrenChanged,
        };
        if kind != EventKind::ChildrenChanged {
            fire(&mut self.data, path, kind, zxid);
        }
        if matches!(kind, EventKind::ChildrenChanged | EventKind::Deleted) {
            fire(&mut self.children, path, kind, zxid);
        }
        if let Some(slot) = self.persistent.get(path) {
            slot.deliver(kind, path, zxid);
        }
        // A recursive watch never hears of a list of children: it hears of the children.
        if kind != EventKind::ChildrenChanged && !self.recursive.is_empty() {
            let mut ancestor = Some(path);
            while let Some(at) = ancestor {
                if let Some(slot) = self.recursive.get(at) {
                    slot.deliver(kind, path, zxid);
                }
                ancestor = path::parent(at);
            }
        }
    }

    /// The connection is gone, and with it the requests under way and the server's watches.
    pub(crate) fn disconnected(&mut self) {
        for kind in WatchKind::ALL {
            self.table(kind).retain(|_, slot| {
                slot.pending = 0;
                slot.on_server = false;
                !slot.watchers.is_empty()
            });
        }
    }

    /// What to send on a new connection so that the server has every watch again, in requests of
    /// bounded size. Streams are told that they may have missed something.
    pub(crate) fn set_again(&mut self, relative_zxid: i64) -> Vec<SetWatches2<'_>> {
        for kind in WatchKind::ALL {
            let streams = matches!(kind, WatchKind::Persistent | WatchKind::PersistentRecursive);
            for slot in self.table(kind).values_mut() {
                slot.on_server = true;
                if streams {
                    slot.watchers.iter().for_each(|w| w.mailbox.miss());
                }
            }
        }
        let mut chunks = Chunks::new(relative_zxid);
        for (path, slot) in &self.data {
            // The two lists differ in what the server makes of the znode's absence, so a path may
            // have to be in both.
            if slot.watchers.iter().any(|w| !w.absent) {
                chunks.next(path).data.push(path);
            }
            if slot.watchers.iter().any(|w| w.absent) {
                chunks.next(path).exist.push(path);
            }
        }
        for path in self.children.keys() {
            chunks.next(path).child.push(path);
        }
        for path in self.persistent.keys() {
            chunks.next(path).persistent.push(path);
        }
        for path in self.recursive.keys() {
            chunks.next(path).persistent_recursive.push(path);
        }
        chunks.done
    }

    /// The session is over: no watch gets another event.
    pub(crate) fn end(&mut self, error: &Error) {
        for kind in WatchKind::ALL {
            for (_, slot) in self.table(kind).drain() {
                for watcher in slot.watchers {
                    watcher.mailbox.end(error.clone());
                }
            }
        }
    }

    fn table(&mut self, kind: WatchKind) -> &mut Table {
        match kind {
            WatchKind::Data { .. } => &mut self.data,
            WatchKind::Children => &mut self.children,
            WatchKind::Persistent => &mut self.persistent,
            WatchKind::PersistentRecursive => &mut self.recursive,
        }
    }
}

/// However the session's task ends, nobody waits for events in vain.
impl Drop for Registry {
    fn drop(&mut self) {
        self.end(&Error::Closed);
    }
}

impl WatchKind {
    /// One for each table.
    const ALL: [WatchKind; 4] = [
        WatchKind::Data { absent: false },
        WatchKind::Children,
        WatchKind::Persistent,
        WatchKind::PersistentRecursive,
    ];

    fn watcher_type(self) -> WatcherType {
        match self {
            WatchKind::Data { .. } => WatcherType::Data,
            WatchKind::Children => WatcherType::Children,
            WatchKind::Persistent => WatcherType::Persistent,
            WatchKind::PersistentRecursive => WatcherType::PersistentRecursive,
        }
    }
}

impl Slot {
    fn deliver(&self, kind: EventKind, path: &str, zxid: Option<i64>) {
        for watcher in &self.watchers {
            watcher.mailbox.deliver(kind, path, zxid);
        }
    }
}

/// Delivers to the one-shot watches of `path` and forgets them, as the server has.
fn fire(table: &mut Table, path: &str, kind: EventKind, zxid: Option<i64>) {
    let Some(slot) = table.get_mut(path) else {
        return;
    };
    slot.deliver(kind, path, zxid);
    slot.watchers.clear();
    slot.on_server = false;
    if slot.pending == 0 {
        table.remove(path);
    }
}

/// Fills requests one after the other.
struct Chunks<'a> {
    relative_zxid: i64,
    bytes: usize,
    done: Vec<SetWatches2<'a>>,
}

impl<'a> Chunks<'a> {
    fn new(relative_zxid: i64) -> Self {
        Chunks {
            relative_zxid,
            bytes: usize::MAX,
            done: Vec::new(),
        }
    }

    /// The request that has room for `path`.
    fn next(&mut self, path: &str) -> &mut SetWatches2<'a> {
        self.bytes = self.bytes.saturating_add(path.len() + 4);
        if self.bytes > SET_WATCHES_BYTES || self.done.is_empty() {
            self.bytes = path.len() + 4;
            self.done.push(SetWatches2 {
                relative_zxid: self.relative_zxid,
                data: Vec::new(),
                exist: Vec::new(),
                child: Vec::new(),
                persistent: Vec::new(),
                persistent_recursive: Vec::new(),
            });
        }
        let last = self.done.len() - 1;
        &mut self.done[last]
    }
}
