//! Which watches a session has, and whom an event concerns (spec: client behaviour, section 6).
//!
//! No I/O: the session's task tells the registry what it sent and received, and the registry
//! answers what to remove on the server and what to set again.

use std::collections::BTreeMap;
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

type Table = BTreeMap<Box<str>, Slot>;

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
    /// How many znodes are watched, those watched in several ways counted for each.
    pub(crate) fn len(&self) -> usize {
        let tables = [
            &self.data,
            &self.children,
            &self.persistent,
            &self.recursive,
        ];
        tables.iter().map(|table| table.len()).sum()
    }

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
            if !mailbox.is_abandoned() {
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
            for slot in std::mem::take(self.table(kind)).into_values() {
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

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;
    use crate::chroot::Chroot;
    use crate::driver::Control;
    use crate::watch::{OneshotWatch, Subscription};

    #[test]
    fn requests_to_set_watches_again_are_bounded_and_complete() {
        let mut registry = Registry::default();
        let (control, _drops) = mpsc::unbounded_channel();
        let mut held = Vec::new();
        for i in 0..10_000 {
            for kind in WatchKind::ALL {
                let path = format!("/some/path/of/usual/length/{i}");
                let watch = Subscription::new(&path, Chroot::default(), control.clone());
                registry.expect(kind, &path);
                assert_eq!(registry.settle(kind, watch.mailbox(), true), None);
                held.push(watch);
            }
        }
        registry.disconnected();
        let mut paths = 0;
        for request in registry.set_again(5) {
            assert_eq!(request.relative_zxid, 5);
            let lists = [
                &request.data,
                &request.exist,
                &request.child,
                &request.persistent,
                &request.persistent_recursive,
            ];
            let bytes: usize = lists.iter().flat_map(|l| l.iter()).map(|p| p.len()).sum();
            assert!(bytes <= SET_WATCHES_BYTES);
            paths += lists.iter().map(|list| list.len()).sum::<usize>();
        }
        assert_eq!(paths, 4 * 10_000);
    }

    #[test]
    fn a_path_that_is_longer_than_a_request_gets_one_of_its_own() {
        let mut chunks = Chunks::new(0);
        let long = "x".repeat(2 * SET_WATCHES_BYTES);
        for path in ["/a", &long, "/b"] {
            chunks.next(path);
        }
        assert_eq!(chunks.done.len(), 3);
    }

    /// The client's registry, a server, and the two queues between them.
    struct World {
        registry: Registry,
        to_server: VecDeque<ToServer>,
        to_client: VecDeque<ToClient>,
        /// What the server has.
        server: HashSet<(WatcherType, Box<str>)>,
        /// What users hold, asked for or set, until it fires.
        held: Vec<(WatchKind, OneshotWatch)>,
        control: mpsc::UnboundedSender<Control>,
        drops: mpsc::UnboundedReceiver<Control>,
    }

    enum ToServer {
        Watch(WatchKind, Arc<Mailbox>, bool),
        Remove(Removal),
    }

    enum ToClient {
        Reply(WatchKind, Arc<Mailbox>, bool),
        Event(EventType, Box<str>),
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask {
            kind: usize,
            path: &'static str,
            succeeds: bool,
        },
        Drop(prop::sample::Index),
        TellTask,
        ServerReads,
        ClientReads,
        Change(&'static str),
        Reconnect,
    }

    const PATHS: [&str; 2] = ["/a", "/b"];

    fn step() -> impl Strategy<Value = Step> {
        let path = prop::sample::select(&PATHS[..]);
        prop_oneof![
            3 => (0..4usize, path.clone(), prop::bool::weighted(0.7)).prop_map(
                |(kind, path, succeeds)| Step::Ask { kind, path, succeeds }
            ),
            2 => any::<prop::sample::Index>().prop_map(Step::Drop),
            2 => Just(Step::TellTask),
            4 => Just(Step::ServerReads),
            4 => Just(Step::ClientReads),
            1 => path.prop_map(Step::Change),
            1 => Just(Step::Reconnect),
        ]
    }

    impl World {
        fn new() -> Self {
            let (control, drops) = mpsc::unbounded_channel();
            World {
                registry: Registry::default(),
                to_server: VecDeque::new(),
                to_client: VecDeque::new(),
                server: HashSet::new(),
                held: Vec::new(),
                control,
                drops,
            }
        }

        fn take(&mut self, step: &Step) {
            match step {
                Step::Ask {
                    kind,
                    path,
                    succeeds,
                } => {
                    let kind = WatchKind::ALL[*kind];
                    let watch = Subscription::new(path, Chroot::default(), self.control.clone());
                    let mailbox = Arc::clone(watch.mailbox());
                    self.registry.expect(kind, path);
                    self.to_server
                        .push_back(ToServer::Watch(kind, mailbox, *succeeds));
                    self.held.push((kind, OneshotWatch::new(watch)));
                }
                Step::Drop(index) => {
                    if !self.held.is_empty() {
                        drop(self.held.swap_remove(index.index(self.held.len())));
                    }
                }
                Step::TellTask => {
                    while let Ok(Control::DropWatch(mailbox)) = self.drops.try_recv() {
                        let removal = self.registry.release(&mailbox);
                        self.to_server.extend(removal.map(ToServer::Remove));
                    }
                }
                Step::ServerReads => self.server_reads(),
                Step::ClientReads => self.client_reads(),
                Step::Change(path) => self.change(path),
                Step::Reconnect => self.reconnect(),
            }
        }

        fn server_reads(&mut self) {
            match self.to_server.pop_front() {
                Some(ToServer::Watch(kind, mailbox, succeeds)) => {
                    if succeeds {
                        let key = (kind.watcher_type(), mailbox.path.clone());
                        self.server.insert(key);
                    }
                    self.to_client
                        .push_back(ToClient::Reply(kind, mailbox, succeeds));
                }
                Some(ToServer::Remove(removal)) => {
                    self.server.remove(&(removal.kind, removal.path));
                }
                None => {}
            }
        }

        fn client_reads(&mut self) {
            match self.to_client.pop_front() {
                Some(ToClient::Reply(kind, mailbox, succeeded)) => {
                    let removal = self.registry.settle(kind, &mailbox, succeeded);
                    self.to_server.extend(removal.map(ToServer::Remove));
                    if !succeeded {
                        self.held
                            .retain(|(_, watch)| !Arc::ptr_eq(watch.mailbox(), &mailbox));
                    }
                }
                Some(ToClient::Event(event, path)) => {
                    self.registry.dispatch(event, &path, None);
                    for i in (0..self.held.len()).rev() {
                        let (kind, watch) = &mut self.held[i];
                        let one_shot = matches!(kind, WatchKind::Data { .. } | WatchKind::Children);
                        if one_shot && watch.now_or_never().is_some() {
                            drop(self.held.swap_remove(i));
                        }
                    }
                }
                None => {}
            }
        }

        /// Deletes a znode, which concerns watches of all kinds.
        fn change(&mut self, path: &'static str) {
            if self.server.iter().any(|(_, watched)| &**watched == path) {
                let event = ToClient::Event(EventType::NodeDeleted, path.into());
                self.to_client.push_back(event);
            }
            for kind in [WatcherType::Data, WatcherType::Children] {
                self.server.remove(&(kind, path.into()));
            }
        }

        fn reconnect(&mut self) {
            // Requests under way fail, and with them the watches they would have left.
            let mut failed = Vec::new();
            for message in self.to_server.drain(..) {
                if let ToServer::Watch(_, mailbox, _) = message {
                    failed.push(mailbox);
                }
            }
            for message in self.to_client.drain(..) {
                if let ToClient::Reply(_, mailbox, _) = message {
                    failed.push(mailbox);
                }
            }
            self.held
                .retain(|(_, watch)| !failed.iter().any(|m| Arc::ptr_eq(watch.mailbox(), m)));
            drop(failed);
            self.registry.disconnected();
            self.take(&Step::TellTask);
            self.to_server.clear();
            self.server.clear();
            for request in self.registry.set_again(0) {
                let lists = [
                    (WatcherType::Data, &request.data),
                    (WatcherType::Data, &request.exist),
                    (WatcherType::Children, &request.child),
                    (WatcherType::Persistent, &request.persistent),
                    (
                        WatcherType::PersistentRecursive,
                        &request.persistent_recursive,
                    ),
                ];
                for (kind, paths) in lists {
                    let keys = paths.iter().map(|path| (kind, Box::from(*path)));
                    self.server.extend(keys);
                }
            }
        }
    }

    proptest! {
        /// Whatever happens in whatever order, in the end the server has exactly the watches that
        /// somebody still holds: none is lost, and none is left behind.
        #[test]
        fn the_server_has_what_users_hold(steps in prop::collection::vec(step(), 0..80)) {
            let mut world = World::new();
            for step in &steps {
                world.take(step);
            }
            while !(world.to_server.is_empty()
                && world.to_client.is_empty()
                && world.drops.is_empty())
            {
                world.take(&Step::TellTask);
                world.take(&Step::ServerReads);
                world.take(&Step::ClientReads);
            }
            let wanted: HashSet<_> = world
                .held
                .iter()
                .map(|(kind, watch)| (kind.watcher_type(), watch.mailbox().path.clone()))
                .collect();
            prop_assert_eq!(&world.server, &wanted);
            for path in PATHS {
                let watched = wanted.iter().any(|(_, watched)| &**watched == path);
                prop_assert_eq!(!world.registry.is_unwatched(path), watched);
            }
        }
    }
}
