//! Changes that have a number and are not in the tree yet.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use quorate_proto::{Acl, ErrorCode, PersistedStat};

use crate::tree::{AclId, BodyDigest, Node, Owner, Tree};

/// The ACL of a znode, in the tree or on its way there.
#[derive(Debug, Clone)]
pub(super) enum ViewAcl {
    Stored(AclId),
    New(Arc<[Acl<'static>]>),
}

impl ViewAcl {
    fn new(acl: &[Acl<'_>]) -> Self {
        ViewAcl::New(acl.iter().map(|entry| entry.clone().into_owned()).collect())
    }

    pub(super) fn entries<'a>(&'a self, tree: &'a Tree) -> &'a [Acl<'static>] {
        match self {
            ViewAcl::Stored(id) => tree.acl_list(*id).entries(),
            ViewAcl::New(entries) => entries,
        }
    }
}

/// A znode as it will be once everything that is pending is applied.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) stat: PersistedStat,
    pub(super) children: usize,
    pub(super) data_length: i64,
    pub(super) acl: ViewAcl,
    body: BodyDigest,
}

impl View {
    pub(super) fn new(
        path: &str,
        data: Option<&[u8]>,
        stat: PersistedStat,
        acl: &[Acl<'_>],
    ) -> Self {
        View {
            stat,
            children: 0,
            data_length: super::length(data),
            acl: ViewAcl::new(acl),
            body: BodyDigest::new(path, data),
        }
    }

    fn of(node: &Node) -> Self {
        View {
            stat: *node.persisted(),
            children: node.child_count(),
            data_length: super::length(node.data()),
            acl: ViewAcl::Stored(node.acl_id()),
            body: node.body_digest(),
        }
    }

    pub(super) fn set_data(&mut self, path: &str, data: Option<&[u8]>) {
        self.data_length = super::length(data);
        self.body = BodyDigest::new(path, data);
    }

    pub(super) fn set_acl(&mut self, acl: &[Acl<'_>]) {
        self.acl = ViewAcl::new(acl);
    }

    fn digest(&self, path: &str) -> u64 {
        self.body.with_stat(path, &self.stat)
    }
}

/// The last pending change of a znode.
#[derive(Debug, Clone)]
pub(super) struct Change {
    zxid: i64,
    /// `None` once it is deleted.
    view: Option<View>,
}

/// Where a multi began, to return there if it fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Savepoint {
    digest: u64,
    changes: usize,
}

/// The pending changes, by path and in order.
#[derive(Debug)]
pub(super) struct Pending {
    by_path: HashMap<Arc<str>, Change>,
    /// Each change, with what it replaced among the pending ones.
    order: VecDeque<(i64, Arc<str>, Option<Change>)>,
    digest: u64,
}

impl Pending {
    pub(super) fn new(digest: u64) -> Self {
        Pending {
            by_path: HashMap::new(),
            order: VecDeque::new(),
            digest,
        }
    }

    /// The digest of the tree once everything is applied.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The znode at `path` as it will be.
    pub(super) fn view(&self, tree: &Tree, path: &str) -> Result<View, ErrorCode> {
        match self.by_path.get(path) {
            Some(change) => change.view.clone().ok_or(ErrorCode::NO_NODE),
            None => tree.get(path).map(View::of).ok_or(ErrorCode::NO_NODE),
        }
    }

    pub(super) fn add(&mut self, zxid: i64, path: &str, view: View) {
        self.digest = self.digest.wrapping_add(view.digest(path));
        self.push(zxid, path, Some(view));
    }

    pub(super) fn replace(&mut self, zxid: i64, path: &str, before: &View, after: View) {
        self.digest = self
            .digest
            .wrapping_sub(before.digest(path))
            .wrapping_add(after.digest(path));
        self.push(zxid, path, Some(after));
    }

    pub(super) fn remove(&mut self, zxid: i64, path: &str, before: &View) {
        self.digest = self.digest.wrapping_sub(before.digest(path));
        self.push(zxid, path, None);
    }

    fn push(&mut self, zxid: i64, path: &str, view: Option<View>) {
        let change = Change { zxid, view };
        let (path, before) = match self.by_path.get_key_value(path) {
            Some((path, _)) => {
                let path = Arc::clone(path);
                let before = self.by_path.insert(Arc::clone(&path), change);
                (path, before)
            }
            None => {
                let path: Arc<str> = path.into();
                self.by_path.insert(Arc::clone(&path), change);
                (path, None)
            }
        };
        self.order.push_back((zxid, path, before));
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint {
            digest: self.digest,
            changes: self.order.len(),
        }
    }

    /// Takes back everything since `savepoint`.
    pub(super) fn roll_back(&mut self, savepoint: Savepoint) {
        self.digest = savepoint.digest;
        while self.order.len() > savepoint.changes {
            let Some((_, path, before)) = self.order.pop_back() else {
                return;
            };
            match before {
                Some(before) => self.by_path.insert(path, before),
                None => self.by_path.remove(&path),
            };
        }
    }

    /// Forgets what the tree shows now.
    pub(super) fn applied(&mut self, zxid: i64) {
        while self
            .order
            .front()
            .is_some_and(|(changed, ..)| *changed <= zxid)
        {
            let Some((_, path, _)) = self.order.pop_front() else {
                return;
            };
            if self
                .by_path
                .get(&path)
                .is_some_and(|last| last.zxid <= zxid)
            {
                self.by_path.remove(&path);
            }
        }
    }

    /// The ephemeral znodes that a session will have.
    pub(super) fn ephemerals(&self, tree: &Tree, session: i64) -> Vec<Arc<str>> {
        let stored = tree
            .ephemerals(session)
            .map(Node::path)
            .filter(|path| !self.by_path.contains_key(*path))
            .map(Arc::from);
        let changed = self.by_path.iter().filter_map(|(path, change)| {
            let owner = Owner::from_stored(change.view.as_ref()?.stat.ephemeral_owner);
            (owner == Owner::Session(session)).then(|| Arc::clone(path))
        });
        let mut paths: Vec<_> = stored.chain(changed).collect();
        // A transaction says the same whatever the order in which a process keeps them.
        paths.sort_unstable();
        paths
    }
}
