//! The watches that commands leave behind, each a task that prints what happens.

use std::sync::Arc;

use futures::StreamExt;
use parking_lot::Mutex;
use quorate_client::{Client, EventKind, OneshotWatch, PersistentWatch, WatchedEvent};
use quorate_proto::WatcherType;
use tokio::task::JoinHandle;

use crate::console::{Console, Event};
use crate::shell::session_event;

/// All watches of a shell. They end with the session, and when they are removed.
pub(crate) struct Watches {
    console: Console,
    held: Arc<Mutex<Vec<Held>>>,
    next_id: u64,
    /// Prints what happens to the session.
    session: Option<JoinHandle<()>>,
}

/// A watch; the task owns it, and dropping it there removes it from the server.
struct Held {
    id: u64,
    path: String,
    kind: WatcherType,
    task: JoinHandle<()>,
}

impl Watches {
    pub(crate) fn new(console: Console) -> Self {
        Watches {
            console,
            held: Arc::default(),
            next_id: 0,
            session: None,
        }
    }

    /// Prints how the session of `client` fares from now on.
    pub(crate) fn follow_session(&mut self, client: &Client) {
        let console = self.console.clone();
        // The first is the state that the session is in already.
        let mut states = client.states().skip(1);
        let task = tokio::spawn(async move {
            while let Some(state) = states.next().await {
                if let Some(event) = session_event(state) {
                    console.event(&event);
                }
            }
        });
        if let Some(previous) = self.session.replace(task) {
            previous.abort();
        }
    }

    /// Prints the one event of a watch on data or existence, or on children.
    pub(crate) fn add_once(&mut self, kind: WatcherType, watch: OneshotWatch) {
        let path = watch.path().to_owned();
        let (console, held, id) = self.context();
        self.hold(path, kind, async move {
            // A watch that ends with its session has its end printed as the session's.
            if let Ok(event) = watch.await {
                held.lock().retain(|watch| watch.id != id);
                console.event(&znode_event(event));
            }
        });
    }

    /// Prints all events of a persistent watch.
    pub(crate) fn add_stream(&mut self, kind: WatcherType, mut watch: PersistentWatch) {
        let path = watch.path().to_owned();
        let (console, _, _) = self.context();
        self.hold(path, kind, async move {
            while let Some(Ok(event)) = watch.next().await {
                console.event(&znode_event(event));
            }
        });
    }

    /// Removes the watches of `path` and `kind`, and prints that; answers whether there were any.
    pub(crate) fn remove(&mut self, path: &str, kind: WatcherType) -> bool {
        let matches =
            |held: &mut Held| held.path == path && (kind == WatcherType::Any || held.kind == kind);
        let removed: Vec<Held> = self.held.lock().extract_if(.., matches).collect();
        for held in &removed {
            held.task.abort();
            self.console.event(&removed_event(held));
        }
        !removed.is_empty()
    }

    /// Forgets all watches, since their session ends.
    pub(crate) fn clear(&mut self) {
        for held in self.held.lock().drain(..) {
            held.task.abort();
        }
        if let Some(session) = self.session.take() {
            session.abort();
        }
    }

    fn context(&self) -> (Console, Arc<Mutex<Vec<Held>>>, u64) {
        (self.console.clone(), Arc::clone(&self.held), self.next_id)
    }

    fn hold(
        &mut self,
        path: String,
        kind: WatcherType,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        // Locked until the watch is listed, so that its task finds it there.
        let mut held = self.held.lock();
        held.push(Held {
            id: self.next_id,
            path,
            kind,
            task: tokio::spawn(task),
        });
        self.next_id += 1;
    }
}

fn znode_event(event: WatchedEvent) -> Event {
    Event {
        state: "SyncConnected",
        kind: match event.kind {
            EventKind::Created => "NodeCreated",
            EventKind::Deleted => "NodeDeleted",
            EventKind::DataChanged => "NodeDataChanged",
            EventKind::ChildrenChanged => "NodeChildrenChanged",
            // Not a word of zkCli, which does not tell.
            _ => "EventsMissed",
        },
        path: Some(event.path),
        zxid: event.zxid,
    }
}

fn removed_event(held: &Held) -> Event {
    Event {
        state: "SyncConnected",
        kind: match held.kind {
            WatcherType::Data => "DataWatchRemoved",
            WatcherType::Children => "ChildWatchRemoved",
            _ => "PersistentWatchRemoved",
        },
        path: Some(held.path.clone()),
        zxid: None,
    }
}
