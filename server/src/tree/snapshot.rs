//! The tree as a snapshot sees it: taken znode by znode while transactions go on, and put together
//! again (spec: disk formats, sections 6 to 8).

use hashbrown::HashMap;
use quorate_proto::jute::Encode;
use quorate_proto::{Acl, Perms, PersistedStat, path};
use thiserror::Error;

use super::quota::{self, QuotaNode};
use super::{AclId, AclList, Node, NodeId, Owner, Tree};

/// A walk over the tree that may pause between any two znodes while transactions go on.
///
/// It visits the znodes that were there when it began and still are, parents first. What was
/// created since is left out, because replaying the log creates it; that also makes sure that a
/// place in the arena which changed hands is not mistaken for the znode that had it.
#[derive(Debug)]
pub struct NodeWalk {
    left: Vec<NodeId>,
    zxid: i64,
}

impl NodeWalk {
    /// Begins a walk over the state that `tree` has now.
    pub fn new(tree: &Tree) -> Self {
        NodeWalk {
            left: vec![tree.root],
            zxid: tree.last_zxid,
        }
    }

    /// Appends the next znodes in the format of a snapshot, until `out` is at least `bytes` long.
    /// Answers false once every znode has been visited.
    pub fn encode_next(&mut self, tree: &Tree, bytes: usize, out: &mut Vec<u8>) -> bool {
        while out.len() < bytes {
            let Some(id) = self.left.pop() else {
                return false;
            };
            let Some(node) = tree
                .nodes
                .at(id)
                .filter(|node| node.stat.czxid <= self.zxid)
            else {
                continue;
            };
            self.encode(node, out);
            self.left.extend_from_slice(node.child_ids());
        }
        true
    }

    fn encode(&self, node: &Node, out: &mut Vec<u8>) {
        let path = if node.path() == "/" { "" } else { node.path() };
        path.encode(out);
        node.data().encode(out);
        // The snapshot lacks a list from after its beginning; whoever loads it lets nobody at the
        // znode until the transaction that set the list is replayed.
        node.acl.snapshot_key().encode(out);
        node.stat.encode(out);
    }
}

impl Tree {
    /// The ACLs that a snapshot holds, with their keys.
    pub fn stored_acls(&self) -> impl ExactSizeIterator<Item = (i64, &AclList)> {
        self.acls
            .stored()
            .map(|(id, list)| (id.snapshot_key(), list))
    }
}

/// Why the content of a snapshot makes no tree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A znode without a parent in front of it.
    #[error("znode {path:?} comes without its parent")]
    NoParent {
        /// The znode.
        path: String,
    },
    /// A znode that came before.
    #[error("znode {path:?} comes twice")]
    Twice {
        /// The znode.
        path: String,
    },
}

/// Puts a tree together from the parts of a snapshot: ACLs and sessions first, then the znodes,
/// parents first.
#[derive(Debug)]
pub struct Loader {
    tree: Tree,
    acls: HashMap<i64, AclId>,
    /// The znode that the last one lies below: siblings tend to follow each other.
    last_parent: Option<(NodeId, String)>,
}

impl Default for Loader {
    fn default() -> Self {
        Loader::new()
    }
}

impl Loader {
    /// Starts with nothing but the root.
    pub fn new() -> Self {
        Loader {
            tree: Tree::bare(),
            acls: HashMap::new(),
            last_parent: None,
        }
    }

    /// Adds a session with its timeout in milliseconds.
    pub fn session(&mut self, id: i64, timeout: i32) {
        self.tree.sessions.insert(id, timeout);
    }

    /// Adds an ACL under the key that znodes name it by. Null stands for the open one.
    pub fn acl(&mut self, key: i64, acl: Option<&[Acl<'_>]>) {
        let id = self.tree.acls.acquire(acl);
        self.acls.insert(key, id);
    }

    /// Adds a znode. The root goes by the empty path.
    pub fn node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl_key: i64,
        stat: PersistedStat,
    ) -> Result<(), LoadError> {
        let acl = match acl_key {
            -1 => AclId::OPEN,
            // A list that was made while the snapshot was taken may be missing. The transaction
            // that set it is replayed; nobody is let in by mistake until then.
            key => *self.acls.entry(key).or_insert_with(|| {
                let nobody = Acl::world(Perms(0));
                self.tree.acls.acquire(Some(&[nobody]))
            }),
        };
        self.tree.acls.retain(acl);
        if path.is_empty() {
            let root = self.tree.root;
            self.tree.replace_acl(root, acl);
            self.tree.replace_data(root, data, |root| *root = stat);
            return Ok(());
        }
        if self.tree.nodes.find(path).is_some() {
            return Err(LoadError::Twice {
                path: path.to_owned(),
            });
        }
        let parent = self.parent(path).ok_or_else(|| LoadError::NoParent {
            path: path.to_owned(),
        })?;
        self.tree.insert(Some(parent), path, data, stat, acl);
        Ok(())
    }

    fn parent(&mut self, path: &str) -> Option<NodeId> {
        let parent = path::parent(path)?;
        if let Some((id, last)) = &self.last_parent
            && last == parent
        {
            return Some(*id);
        }
        let id = self.tree.nodes.find(parent)?;
        self.last_parent = Some((id, parent.to_owned()));
        Some(id)
    }

    /// The tree, as of `zxid`: built-in znodes that were missing are added, ACLs that nobody uses
    /// are dropped, and the quotas are counted.
    pub fn finish(mut self, zxid: i64) -> Tree {
        for acl in self.acls.into_values() {
            self.tree.acls.release(acl);
        }
        let mut tree = self.tree;
        for path in super::BUILT_IN {
            if tree.nodes.find(path).is_none() {
                let parent = path::parent(path).and_then(|parent| tree.nodes.find(parent));
                tree.insert(
                    parent,
                    path,
                    Some(&[]),
                    PersistedStat::default(),
                    AclId::OPEN,
                );
            }
        }
        tree.last_zxid = zxid;
        tree.count_quotas();
        tree
    }
}

impl Tree {
    fn count_quotas(&mut self) {
        let mut targets = Vec::new();
        if let Some(root) = self.get(quota::ROOT) {
            self.visit_below(root, |node| {
                if let Some(QuotaNode::Limits(target)) = QuotaNode::of(node.path()) {
                    targets.push(target.to_owned());
                }
            });
        }
        for target in targets {
            self.quotas.add(&target);
            self.recount_quota(&target);
        }
    }

    /// Sessions that own ephemeral znodes but do not exist; a server that leads removes what they
    /// left behind.
    pub fn orphaning_sessions(&self) -> Vec<i64> {
        self.ephemerals
            .keys()
            .copied()
            .filter(|id| !self.sessions.contains_key(id))
            .collect()
    }

    /// True if the znode's lifetime depends on its session.
    pub fn is_ephemeral(node: &Node) -> bool {
        matches!(node.owner(), Owner::Session(_))
    }
}
