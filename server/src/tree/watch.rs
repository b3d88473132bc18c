//! Watches: who wants to hear of which znode (spec: client protocol, section 10).
//!
//! ZooKeeper speaks of two tables, one for data and one for children. Here each watcher of a path
//! has one entry with its modes in both, so that an event finds everybody with one look-up.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use quorate_proto::{AddWatchMode, EventType, WatcherType};

/// A set of modes in which a watcher watches a path in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Modes(u8);

impl Modes {
    const NONE: Modes = Modes(0);
    /// Gone after its first event.
    const STANDARD: Modes = Modes(1);
    const PERSISTENT: Modes = Modes(2);
    /// Also hears of all descendants.
    const RECURSIVE: Modes = Modes(4);
    const ALL: Modes = Modes(7);

    fn has(self, other: Modes) -> bool {
        self.0 & other.0 != 0
    }

    fn add(&mut self, other: Modes) {
        self.0 |= other.0;
    }

    /// Answers whether any of `other` was there.
    fn remove(&mut self, other: Modes) -> bool {
        let had = self.has(other);
        self.0 &= !other.0;
        had
    }
}

/// The modes in which one watcher watches one path.
#[derive(Debug)]
struct Entry<S> {
    sink: S,
    data: Modes,
    child: Modes,
}

/// What `checkWatches` looks at and `removeWatches` removes, in the data and the child table.
fn selected(kind: WatcherType) -> (Modes, Modes) {
    match kind {
        WatcherType::Children => (Modes::NONE, Modes::STANDARD),
        WatcherType::Data => (Modes::STANDARD, Modes::NONE),
        WatcherType::Any => (Modes::ALL, Modes::ALL),
        WatcherType::Persistent => (Modes::PERSISTENT, Modes::PERSISTENT),
        WatcherType::PersistentRecursive => (Modes::RECURSIVE, Modes::NONE),
    }
}

/// Numbers of watches, as the four-letter words report them: of the data table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchCounts {
    /// Watchers with at least one watch.
    pub watchers: usize,
    /// Paths with at least one watch.
    pub paths: usize,
    /// Pairs of the two.
    pub total: usize,
}

/// Every watch of a server. `S` is where the events of a watcher go.
#[derive(Debug)]
pub struct Watches<S> {
    paths: HashMap<Arc<str>, HashMap<u64, Entry<S>>>,
    watchers: HashMap<u64, HashSet<Arc<str>>>,
    /// Number of entries that are recursive: none means that no ancestor needs to be looked up.
    recursive: usize,
}

impl<S> Default for Watches<S> {
    fn default() -> Self {
        Watches {
            paths: HashMap::new(),
            watchers: HashMap::new(),
            recursive: 0,
        }
    }
}

impl<S: Clone> Watches<S> {
    /// Leaves a one-shot watch on the data or the existence of `path`.
    pub fn watch_data(&mut self, watcher: u64, sink: &S, path: &str) {
        self.add(watcher, sink, path, Modes::STANDARD, Modes::NONE);
    }

    /// Leaves a one-shot watch on the children of `path`.
    pub fn watch_children(&mut self, watcher: u64, sink: &S, path: &str) {
        self.add(watcher, sink, path, Modes::NONE, Modes::STANDARD);
    }

    /// Adds a persistent watch.
    pub fn watch_persistently(&mut self, watcher: u64, sink: &S, path: &str, mode: AddWatchMode) {
        match mode {
            AddWatchMode::Persistent => {
                self.add(watcher, sink, path, Modes::PERSISTENT, Modes::PERSISTENT);
            }
            AddWatchMode::PersistentRecursive => {
                self.add(watcher, sink, path, Modes::RECURSIVE, Modes::NONE);
            }
        }
    }

    fn add(&mut self, watcher: u64, sink: &S, path: &str, data: Modes, child: Modes) {
        let path = match self.paths.get_key_value(path) {
            Some((path, _)) => Arc::clone(path),
            None => Arc::from(path),
        };
        let entries = self.paths.entry(Arc::clone(&path)).or_default();
        let entry = entries.entry(watcher).or_insert_with(|| Entry {
            sink: sink.clone(),
            data: Modes::NONE,
            child: Modes::NONE,
        });
        if data.has(Modes::RECURSIVE) && !entry.data.has(Modes::RECURSIVE) {
            self.recursive += 1;
        }
        entry.data.add(data);
        entry.child.add(child);
        self.watchers.entry(watcher).or_default().insert(path);
    }

    /// Calls `tell` once for each watcher that is to hear of `event` at `path`, and takes away the
    /// one-shot watches that it serves.
    pub fn fire(&mut self, event: EventType, path: &str, mut tell: impl FnMut(&S)) {
        let (data, child) = match event {
            EventType::None => return,
            EventType::NodeCreated | EventType::NodeDataChanged => (true, false),
            EventType::NodeDeleted => (true, true),
            EventType::NodeChildrenChanged => (false, true),
        };
        let hears = |entry: &Entry<S>| {
            (data && entry.data != Modes::NONE) || (child && entry.child != Modes::NONE)
        };
        if let Some(entries) = self.paths.get(path) {
            entries
                .values()
                .filter(|entry| hears(entry))
                .for_each(|entry| tell(&entry.sink));
        }
        if data && self.recursive > 0 {
            self.tell_ancestors(path, hears, &mut tell);
        }
        self.take_one_shots(path, data, child);
    }

    /// Tells recursive watchers of the ancestors, each once, unless it has heard at `path` itself.
    fn tell_ancestors(
        &self,
        path: &str,
        hears: impl Fn(&Entry<S>) -> bool,
        tell: &mut impl FnMut(&S),
    ) {
        let at_path = self.paths.get(path);
        let mut told = HashSet::new();
        let mut ancestor = quorate_proto::path::parent(path);
        while let Some(current) = ancestor {
            for (watcher, entry) in self.paths.get(current).into_iter().flatten() {
                let heard = at_path.and_then(|at| at.get(watcher)).is_some_and(&hears);
                if entry.data.has(Modes::RECURSIVE) && !heard && told.insert(*watcher) {
                    tell(&entry.sink);
                }
            }
            ancestor = quorate_proto::path::parent(current);
        }
    }

    fn take_one_shots(&mut self, path: &str, data: bool, child: bool) {
        let Some(entries) = self.paths.get_mut(path) else {
            return;
        };
        entries.retain(|watcher, entry| {
            if data {
                entry.data.remove(Modes::STANDARD);
            }
            if child {
                entry.child.remove(Modes::STANDARD);
            }
            let stays = entry.data != Modes::NONE || entry.child != Modes::NONE;
            if !stays {
                forget_path(&mut self.watchers, *watcher, path);
            }
            stays
        });
        if entries.is_empty() {
            self.paths.remove(path);
        }
    }

    /// Does `watcher` have a watch of this kind on `path`?
    pub fn contains(&self, watcher: u64, path: &str, kind: WatcherType) -> bool {
        let (data, mut child) = selected(kind);
        if kind == WatcherType::Persistent {
            child = Modes::NONE;
        }
        self.paths
            .get(path)
            .and_then(|entries| entries.get(&watcher))
            .is_some_and(|entry| entry.data.has(data) || entry.child.has(child))
    }

    /// Takes away the watches of this kind that `watcher` has on `path`; answers whether there
    /// were any.
    pub fn remove(&mut self, watcher: u64, path: &str, kind: WatcherType) -> bool {
        let (data, child) = selected(kind);
        let Some(entries) = self.paths.get_mut(path) else {
            return false;
        };
        let Some(entry) = entries.get_mut(&watcher) else {
            return false;
        };
        if data.has(Modes::RECURSIVE) && entry.data.has(Modes::RECURSIVE) {
            self.recursive -= 1;
        }
        let had_data = entry.data.remove(data);
        let had_child = entry.child.remove(child);
        if entry.data == Modes::NONE && entry.child == Modes::NONE {
            entries.remove(&watcher);
            if entries.is_empty() {
                self.paths.remove(path);
            }
            forget_path(&mut self.watchers, watcher, path);
        }
        had_data || had_child
    }

    /// Takes away everything that `watcher` watches.
    pub fn remove_watcher(&mut self, watcher: u64) {
        for path in self.watchers.remove(&watcher).unwrap_or_default() {
            let Some(entries) = self.paths.get_mut(&path) else {
                continue;
            };
            if entries
                .remove(&watcher)
                .is_some_and(|entry| entry.data.has(Modes::RECURSIVE))
            {
                self.recursive -= 1;
            }
            if entries.is_empty() {
                self.paths.remove(&path);
            }
        }
    }

    /// Each watch of the data table: the path and its watcher.
    pub fn data_watches(&self) -> impl Iterator<Item = (&str, u64)> {
        self.paths.iter().flat_map(|(path, entries)| {
            entries
                .iter()
                .filter(|(_, entry)| entry.data != Modes::NONE)
                .map(move |(watcher, _)| (&**path, *watcher))
        })
    }

    /// How many there are in the two tables together.
    pub fn total(&self) -> usize {
        let entries = self.paths.values().flat_map(HashMap::values);
        entries
            .map(|entry| {
                usize::from(entry.data != Modes::NONE) + usize::from(entry.child != Modes::NONE)
            })
            .sum()
    }

    /// How many there are of the data table.
    pub fn counts(&self) -> WatchCounts {
        let (mut watchers, mut paths) = (HashSet::new(), HashSet::new());
        let mut total = 0;
        for (path, watcher) in self.data_watches() {
            watchers.insert(watcher);
            paths.insert(path);
            total += 1;
        }
        WatchCounts {
            watchers: watchers.len(),
            paths: paths.len(),
            total,
        }
    }
}

fn forget_path(watchers: &mut HashMap<u64, HashSet<Arc<str>>>, watcher: u64, path: &str) {
    if let Some(paths) = watchers.get_mut(&watcher) {
        paths.remove(path);
        if paths.is_empty() {
            watchers.remove(&watcher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventType::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};

    fn fire(watches: &mut Watches<u64>, event: EventType, path: &str) -> Vec<u64> {
        let mut told = Vec::new();
        watches.fire(event, path, |sink| told.push(*sink));
        told.sort_unstable();
        told
    }

    #[test]
    fn one_shot_watches_fire_once_and_only_for_their_table() {
        let mut watches = Watches::default();
        watches.watch_data(1, &1, "/a");
        watches.watch_children(2, &2, "/a");
        assert_eq!(fire(&mut watches, NodeDataChanged, "/a"), [1]);
        assert_eq!(fire(&mut watches, NodeDataChanged, "/a"), []);
        assert_eq!(fire(&mut watches, NodeChildrenChanged, "/a"), [2]);
        assert_eq!(fire(&mut watches, NodeDeleted, "/a"), []);
        assert_eq!(watches.counts(), WatchCounts::default());
        assert!(watches.watchers.is_empty() && watches.paths.is_empty());
    }

    #[test]
    fn a_deletion_is_told_once_to_whoever_watches_data_and_children() {
        let mut watches = Watches::default();
        watches.watch_data(1, &1, "/a");
        watches.watch_children(1, &1, "/a");
        watches.watch_persistently(1, &1, "/", AddWatchMode::PersistentRecursive);
        assert_eq!(fire(&mut watches, NodeDeleted, "/a"), [1]);
        assert_eq!(
            fire(&mut watches, NodeDeleted, "/a"),
            [1],
            "the recursive watch stays"
        );
    }

    #[test]
    fn persistent_watches_hear_of_children_and_recursive_ones_of_descendants() {
        let mut watches = Watches::default();
        watches.watch_persistently(1, &1, "/a", AddWatchMode::Persistent);
        watches.watch_persistently(2, &2, "/a", AddWatchMode::PersistentRecursive);
        assert_eq!(fire(&mut watches, NodeCreated, "/a/b/c"), [2]);
        assert_eq!(fire(&mut watches, NodeChildrenChanged, "/a"), [1]);
        assert_eq!(fire(&mut watches, NodeDataChanged, "/a"), [1, 2]);
        assert_eq!(fire(&mut watches, NodeDataChanged, "/ab"), []);
    }

    #[test]
    fn a_filtered_child_watch_below_a_recursive_one_hears_of_each_event_once() {
        let mut watches = Watches::default();
        watches.watch_persistently(1, &1, "/", AddWatchMode::PersistentRecursive);
        watches.watch_children(1, &1, "/a");
        assert_eq!(
            fire(&mut watches, NodeCreated, "/a"),
            [1],
            "not served by its child watch"
        );
        assert_eq!(fire(&mut watches, NodeDeleted, "/a"), [1]);
    }

    #[test]
    fn watches_are_checked_and_removed_by_kind() {
        let mut watches = Watches::default();
        watches.watch_data(1, &1, "/a");
        watches.watch_persistently(1, &1, "/a", AddWatchMode::Persistent);
        watches.watch_persistently(1, &1, "/a", AddWatchMode::PersistentRecursive);
        for (kind, there) in [
            (WatcherType::Children, false),
            (WatcherType::Data, true),
            (WatcherType::Persistent, true),
            (WatcherType::PersistentRecursive, true),
            (WatcherType::Any, true),
        ] {
            assert_eq!(watches.contains(1, "/a", kind), there, "{kind:?}");
            assert!(!watches.contains(2, "/a", kind));
        }
        assert!(watches.remove(1, "/a", WatcherType::PersistentRecursive));
        assert!(!watches.remove(1, "/a", WatcherType::PersistentRecursive));
        assert_eq!(watches.recursive, 0);
        assert!(watches.remove(1, "/a", WatcherType::Any));
        assert!(!watches.contains(1, "/a", WatcherType::Any));
    }

    #[test]
    fn a_watcher_that_leaves_takes_everything_along() {
        let mut watches = Watches::default();
        watches.watch_persistently(1, &1, "/a", AddWatchMode::PersistentRecursive);
        watches.watch_data(1, &1, "/b");
        watches.watch_data(2, &2, "/b");
        watches.remove_watcher(1);
        assert_eq!(
            watches.counts(),
            WatchCounts {
                watchers: 1,
                paths: 1,
                total: 1
            }
        );
        assert_eq!(watches.recursive, 0);
        watches.watch_persistently(2, &2, "/a", AddWatchMode::Persistent);
        assert_eq!(watches.total(), 3);
        assert_eq!(fire(&mut watches, NodeDeleted, "/b"), [2]);
    }
}
