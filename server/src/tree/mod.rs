//! The replicated state: znodes, their ACLs and quotas, and the sessions.
//!
//! Pure data without I/O or clocks. It changes in one way only, by [`Tree::apply`], whether a
//! transaction comes from a client, from the leader or from the log; and it holds committed
//! transactions only, so that nothing is ever undone.

mod acl;
mod node;
mod quota;
mod snapshot;
mod watch;

use hashbrown::{HashMap, HashSet};
use quorate_proto::{
    Acl, CreateTxn, ErrorCode, EventType, PersistedStat, SetDataTxn, Stat, Txn, TxnDigest,
    TxnHeader, path,
};

pub(crate) use acl::AclTable;
pub use acl::{AclId, AclList, IpRange, masked, permits};
pub(crate) use node::{BodyDigest, MAX_TTL, NodeId, Nodes, stat_at_birth};
pub use node::{Node, Owner};
pub(crate) use quota::QuotaIndex;
use quota::QuotaNode;
pub use quota::{Limit, QuotaNumbers};
pub use snapshot::{LoadError, Loader, NodeWalk};
pub use watch::{WatchCounts, Watches};

/// The only digest algorithm in use (spec: disk formats, section 12).
pub const DIGEST_VERSION: i32 = 2;

/// The znode that shows the configuration of the ensemble.
pub const CONFIG_PATH: &str = "/zookeeper/config";

/// The znodes that every tree has and no client may delete.
const BUILT_IN: [&str; 4] = ["/", "/zookeeper", quota::ROOT, CONFIG_PATH];

/// Is `path` one of the znodes that no client may delete?
pub fn is_built_in(path: &str) -> bool {
    BUILT_IN.contains(&path)
}

/// Is told of every change while a transaction is applied, in the order of the changes.
pub trait Observer {
    /// `event` happened to the znode at `path`, which has (or had) the ACL `acl`.
    fn changed(&mut self, event: EventType, path: &str, acl: &AclList);
}

/// Replay tells nobody.
impl Observer for () {
    fn changed(&mut self, _: EventType, _: &str, _: &AclList) {}
}

/// What applying a transaction came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Done; there is no more to say.
    Done,
    /// Done; the stat of the znode that was created or set.
    Stat(Stat),
    /// One outcome for each part of a multi.
    Multi(Vec<Applied>),
    /// Nothing was changed.
    Failed(ErrorCode),
}

/// All replicated state of a server.
#[derive(Debug)]
pub struct Tree {
    nodes: Nodes,
    root: NodeId,
    acls: AclTable,
    quotas: QuotaIndex,
    ephemerals: HashMap<i64, HashSet<NodeId>>,
    containers: HashSet<NodeId>,
    ttls: HashSet<NodeId>,
    sessions: HashMap<i64, i32>,
    digest: u64,
    /// Bytes of paths and data.
    size: u64,
    last_zxid: i64,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

impl Tree {
    /// The tree of an empty database: the built-in znodes, zxid 0.
    pub fn new() -> Self {
        let mut tree = Tree::bare();
        for path in ["/zookeeper", quota::ROOT, CONFIG_PATH] {
            let parent = path::parent(path).and_then(|parent| tree.nodes.find(parent));
            tree.insert(
                parent,
                path,
                Some(&[]),
                PersistedStat::default(),
                AclId::OPEN,
            );
        }
        let read_only = tree
            .acls
            .acquire(Some(&[Acl::world(quorate_proto::Perms::READ)]));
        if let Some(config) = tree
            .nodes
            .find(CONFIG_PATH)
            .and_then(|id| tree.nodes.get_mut(id))
        {
            config.acl = read_only;
            config.stat.aversion = -1;
        }
        tree
    }

    /// A tree with nothing but the root.
    fn bare() -> Self {
        let mut nodes = Nodes::new();
        let body = BodyDigest::new("/", Some(&[]));
        let stat = PersistedStat::default();
        let root = nodes.insert(None, "/", Some(&[]), stat, AclId::OPEN, body);
        Tree {
            nodes,
            root,
            acls: AclTable::new(),
            quotas: QuotaIndex::default(),
            ephemerals: HashMap::new(),
            containers: HashSet::new(),
            ttls: HashSet::new(),
            sessions: HashMap::new(),
            digest: body.with_stat("/", &stat),
            size: 1,
            last_zxid: 0,
        }
    }

    /// The transaction that was applied last.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// The digest of all znodes (spec: disk formats, section 12).
    pub fn digest(&self) -> TxnDigest {
        TxnDigest {
            version: DIGEST_VERSION,
            digest: self.digest,
        }
    }

    /// The znode at `path`. The empty path is another name of the root.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(if path.is_empty() { "/" } else { path })
    }

    /// The ACL of a znode of this tree.
    pub fn acl(&self, node: &Node) -> &AclList {
        self.acl_list(node.acl)
    }

    pub(crate) fn acl_list(&self, id: AclId) -> &AclList {
        // Znodes hold a use of their list, so that it is always there; a list that is not is
        // answered with the open one only where a snapshot named a key that it does not define,
        // and loading refuses those.
        self.acls.get(id).unwrap_or_else(|| self.acls.open())
    }

    /// The children of a znode of this tree, in no order.
    pub fn children<'a>(&'a self, node: &'a Node) -> impl ExactSizeIterator<Item = &'a Node> {
        let nodes = &self.nodes;
        node.child_ids().iter().map(move |id| nodes.expect(*id))
    }

    /// Number of znodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of all paths and data.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of descendants of a znode of this tree.
    pub fn count_descendants(&self, node: &Node) -> usize {
        if node.path() == "/" {
            return self.len() - 1;
        }
        let mut count = 0;
        self.visit_below(node, |_| count += 1);
        count
    }

    /// Calls `visit` for each descendant, parents first.
    fn visit_below(&self, node: &Node, mut visit: impl FnMut(&Node)) {
        let mut left: Vec<NodeId> = node.child_ids().to_vec();
        while let Some(node) = left.pop().map(|id| self.nodes.expect(id)) {
            visit(node);
            left.extend_from_slice(node.child_ids());
        }
    }

    /// The sessions with their timeouts in milliseconds.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = (i64, i32)> {
        self.sessions.iter().map(|(id, timeout)| (*id, *timeout))
    }

    /// The timeout of a session in milliseconds, if it exists.
    pub fn session_timeout(&self, session: i64) -> Option<i32> {
        self.sessions.get(&session).copied()
    }

    /// The ephemeral znodes of a session, in no order.
    pub fn ephemerals(&self, session: i64) -> impl Iterator<Item = &Node> {
        self.ephemerals
            .get(&session)
            .into_iter()
            .flatten()
            .map(|id| self.nodes.expect(*id))
    }

    /// Every session that owns ephemeral znodes.
    pub fn ephemeral_owners(&self) -> impl Iterator<Item = i64> {
        self.ephemerals.keys().copied()
    }

    /// The containers and TTL nodes, in no order.
    pub fn reapable(&self) -> impl Iterator<Item = &Node> {
        self.containers
            .iter()
            .chain(&self.ttls)
            .map(|id| self.nodes.expect(*id))
    }

    /// The deepest path with a quota at or above `path`.
    pub fn quota_covering<'a>(&self, path: &'a str) -> Option<&'a str> {
        self.quotas.covering(path)
    }

    /// Limits and usage of the quota on `target`.
    pub fn quota(&self, target: &str) -> Option<(QuotaNumbers, QuotaNumbers)> {
        let read = |path: String| {
            let node = self.get(&path)?;
            Some(QuotaNumbers::parse(node.data().unwrap_or_default()))
        };
        read(quota::limits_path(target)).zip(read(quota::usage_path(target)))
    }

    /// Shows the configuration of the ensemble, which was committed in the transaction `zxid`, as
    /// far as that is not in the tree. No digest covers it.
    pub fn show_config(&mut self, config: &str, zxid: i64) {
        if let Some(id) = self.nodes.find(CONFIG_PATH) {
            self.replace_data(id, Some(config.as_bytes()), |stat| {
                stat.version = -1;
                stat.mzxid = zxid;
            });
        }
    }

    /// Applies a committed transaction.
    ///
    /// Applying it to a tree that shows it already, in part or as a whole, leads to the same tree:
    /// snapshots are taken while transactions go on, and a restart replays more than they lack
    /// (spec: disk formats, section 7).
    pub fn apply(
        &mut self,
        header: &TxnHeader,
        txn: &Txn<'_>,
        observer: &mut impl Observer,
    ) -> Applied {
        let applied = self.apply_part(header, txn, observer);
        self.last_zxid = self.last_zxid.max(header.zxid);
        applied
    }

    fn apply_part(
        &mut self,
        header: &TxnHeader,
        txn: &Txn<'_>,
        observer: &mut impl Observer,
    ) -> Applied {
        match txn {
            Txn::CreateSession(session) => {
                self.sessions.insert(header.session_id, session.timeout);
                Applied::Done
            }
            Txn::CloseSession(paths) => {
                self.close_session(header, paths.as_deref().unwrap_or_default(), observer)
            }
            Txn::Error(err) => Applied::Failed(*err),
            Txn::Create(txn) | Txn::Create2(txn) => {
                let owner = if txn.ephemeral {
                    Owner::Session(header.session_id)
                } else {
                    Owner::Persistent
                };
                self.create(header, txn, owner, observer)
            }
            Txn::CreateContainer(txn) => {
                let create = CreateTxn {
                    path: txn.path,
                    data: txn.data,
                    acl: txn.acl.clone(),
                    ephemeral: false,
                    parent_cversion: txn.parent_cversion,
                };
                self.create(header, &create, Owner::Container, observer)
            }
            Txn::CreateTtl(txn) => {
                let create = CreateTxn {
                    path: txn.path,
                    data: txn.data,
                    acl: txn.acl.clone(),
                    ephemeral: false,
                    parent_cversion: txn.parent_cversion,
                };
                self.create(header, &create, Owner::Ttl(txn.ttl), observer)
            }
            Txn::Delete(txn) | Txn::DeleteContainer(txn) => self.delete(header, txn.path, observer),
            Txn::SetData(txn) | Txn::Reconfig(txn) => self.set_data(header, txn, observer),
            Txn::SetAcl(txn) => self.set_acl(txn.path, txn.acl.as_deref(), txn.version),
            Txn::Check(_) => Applied::Done,
            Txn::Multi(parts) => self.apply_multi(header, parts, observer),
        }
    }

    /// All parts, or none where one of them is an error.
    fn apply_multi(
        &mut self,
        header: &TxnHeader,
        parts: &[Txn<'_>],
        observer: &mut impl Observer,
    ) -> Applied {
        let Some(failed) = parts.iter().position(|part| matches!(part, Txn::Error(_))) else {
            let parts = parts
                .iter()
                .map(|part| self.apply_part(header, part, observer));
            return Applied::Multi(parts.collect());
        };
        let outcome = |(i, part): (usize, &Txn<'_>)| match part {
            Txn::Error(err) => Applied::Failed(*err),
            _ if i < failed => Applied::Failed(ErrorCode::OK),
            _ => Applied::Failed(ErrorCode::RUNTIME_INCONSISTENCY),
        };
        Applied::Multi(parts.iter().enumerate().map(outcome).collect())
    }

    fn create(
        &mut self,
        header: &TxnHeader,
        txn: &CreateTxn<'_>,
        owner: Owner,
        observer: &mut impl Observer,
    ) -> Applied {
        let Some(parent) = path::parent(txn.path).and_then(|parent| self.nodes.find(parent)) else {
            return Applied::Failed(ErrorCode::NO_NODE);
        };
        let acl = self.acls.acquire(txn.acl.as_deref());
        self.raise_cversion(parent, txn.parent_cversion, header.zxid);
        if let Some(existing) = self.nodes.find(txn.path) {
            self.replace_acl(existing, acl);
            return Applied::Failed(ErrorCode::NODE_EXISTS);
        }
        let stat = stat_at_birth(header.zxid, header.time, owner);
        let id = self.insert(Some(parent), txn.path, txn.data, stat, acl);
        // A node that shows the usage of a quota is answered as it was sent.
        let created = self.nodes.expect(id).stat();
        self.note_quota_created(txn.path);
        self.charge_quota(txn.path, 1, len(txn.data));
        observer.changed(EventType::NodeCreated, txn.path, self.acl_list(acl));
        self.tell_children_changed(parent, observer);
        Applied::Stat(created)
    }

    /// A replayed create must not take back what a later one did.
    fn raise_cversion(&mut self, parent: NodeId, cversion: i32, zxid: i64) {
        self.change_stat(parent, |stat| {
            let cversion = if cversion == -1 {
                stat.cversion.wrapping_add(1)
            } else {
                cversion
            };
            // Compared by distance, so that the counter may wrap around.
            if cversion.wrapping_sub(stat.cversion) > 0 {
                stat.cversion = cversion;
                stat.pzxid = zxid;
            }
        });
    }

    fn delete(&mut self, header: &TxnHeader, path: &str, observer: &mut impl Observer) -> Applied {
        let Some(parent) = path::parent(path).and_then(|parent| self.nodes.find(parent)) else {
            return Applied::Failed(ErrorCode::NO_NODE);
        };
        self.change_stat(parent, |stat| stat.pzxid = stat.pzxid.max(header.zxid));
        let Some(id) = self.nodes.find(path) else {
            return Applied::Failed(ErrorCode::NO_NODE);
        };
        if self.nodes.expect(id).child_count() > 0 {
            // No leader lets this happen; the children must not lose their parent if one did.
            return Applied::Failed(ErrorCode::NOT_EMPTY);
        }
        let Some(node) = self.nodes.remove(id) else {
            return Applied::Failed(ErrorCode::NO_NODE);
        };
        self.forget(id, &node);
        observer.changed(EventType::NodeDeleted, path, self.acl_list(node.acl));
        self.acls.release(node.acl);
        self.tell_children_changed(parent, observer);
        Applied::Done
    }

    /// Takes a removed znode out of the digest, the indices and the quotas.
    fn forget(&mut self, id: NodeId, node: &Node) {
        self.digest = self.digest.wrapping_sub(node.digest());
        self.size -= size(node.path(), node.data());
        match node.owner() {
            Owner::Persistent => {}
            Owner::Container => {
                self.containers.remove(&id);
            }
            Owner::Ttl(_) => {
                self.ttls.remove(&id);
            }
            Owner::Session(session) => {
                if let Some(owned) = self.ephemerals.get_mut(&session) {
                    owned.remove(&id);
                    if owned.is_empty() {
                        self.ephemerals.remove(&session);
                    }
                }
            }
        }
        if let Some(QuotaNode::Limits(target)) = QuotaNode::of(node.path()) {
            self.quotas.remove(target);
        }
        self.charge_quota(node.path(), -1, -len(node.data()));
    }

    fn set_data(
        &mut self,
        header: &TxnHeader,
        txn: &SetDataTxn<'_>,
        observer: &mut impl Observer,
    ) -> Applied {
        let Some(id) = self.nodes.find(txn.path) else {
            return Applied::Failed(ErrorCode::NO_NODE);
        };
        let grown = len(txn.data) - len(self.nodes.expect(id).data());
        self.replace_data(id, txn.data, |stat| {
            stat.version = txn.version;
            stat.mzxid = header.zxid;
            stat.mtime = header.time;
        });
        self.charge_quota(txn.path, 0, grown);
        let node = self.nodes.expect(id);
        observer.changed(
            EventType::NodeDataChanged,
            txn.path,
            self.acl_list(node.acl),
        );
        Applied::Stat(node.stat())
    }

    fn set_acl(&mut self, path: &str, acl: Option<&[Acl<'_>]>, aversion: i32) -> Applied {
        let Some(id) = self.nodes.find(path) else {
            return Applied::Failed(ErrorCode::NO_NODE);
        };
        let acl = self.acls.acquire(acl);
        self.replace_acl(id, acl);
        self.change_stat(id, |stat| stat.aversion = aversion);
        Applied::Stat(self.nodes.expect(id).stat())
    }

    fn close_session(
        &mut self,
        header: &TxnHeader,
        listed: &[&str],
        observer: &mut impl Observer,
    ) -> Applied {
        self.sessions.remove(&header.session_id);
        for path in listed {
            self.delete(header, path, observer);
        }
        for id in self
            .ephemerals
            .remove(&header.session_id)
            .unwrap_or_default()
        {
            let path = self.nodes.expect(id).path().to_owned();
            self.delete(header, &path, observer);
        }
        Applied::Done
    }

    fn tell_children_changed(&self, parent: NodeId, observer: &mut impl Observer) {
        let parent = self.nodes.expect(parent);
        observer.changed(
            EventType::NodeChildrenChanged,
            parent.path(),
            self.acl_list(parent.acl),
        );
    }

    /// Adds a znode that does not exist to the arena, the digest and the indices.
    fn insert(
        &mut self,
        parent: Option<NodeId>,
        path: &str,
        data: Option<&[u8]>,
        stat: PersistedStat,
        acl: AclId,
    ) -> NodeId {
        let body = BodyDigest::new(path, data);
        let id = self.nodes.insert(parent, path, data, stat, acl, body);
        self.digest = self.digest.wrapping_add(body.with_stat(path, &stat));
        self.size += size(path, data);
        match Owner::from_stored(stat.ephemeral_owner) {
            Owner::Persistent => {}
            Owner::Container => {
                self.containers.insert(id);
            }
            Owner::Ttl(_) => {
                self.ttls.insert(id);
            }
            Owner::Session(session) => {
                self.ephemerals.entry(session).or_default().insert(id);
            }
        }
        id
    }

    /// Changes a stat and keeps the digest true.
    fn change_stat(&mut self, id: NodeId, change: impl FnOnce(&mut PersistedStat)) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let before = node.digest();
        change(&mut node.stat);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(node.digest());
    }

    /// Changes data and stat and keeps digest and size true.
    fn replace_data(
        &mut self,
        id: NodeId,
        data: Option<&[u8]>,
        change: impl FnOnce(&mut PersistedStat),
    ) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let before = node.digest();
        self.size -= size(node.path(), node.data());
        node.set_data(data);
        node.digest = BodyDigest::new(node.path(), data);
        change(&mut node.stat);
        self.size += size(node.path(), data);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(node.digest());
    }

    /// Gives a znode a list of which one use was acquired for it.
    fn replace_acl(&mut self, id: NodeId, acl: AclId) {
        if let Some(node) = self.nodes.get_mut(id) {
            let before = std::mem::replace(&mut node.acl, acl);
            self.acls.release(before);
        }
    }

    /// A new znode may be the limits or the usage of a quota.
    fn note_quota_created(&mut self, path: &str) {
        match QuotaNode::of(path) {
            Some(QuotaNode::Limits(target)) => self.quotas.add(target),
            Some(QuotaNode::Usage(target)) => self.recount_quota(target),
            None => {}
        }
    }

    /// Counts the subtree of a quota afresh.
    fn recount_quota(&mut self, target: &str) {
        let (mut count, mut bytes) = (0, 0);
        if let Some(node) = self.get(target) {
            (count, bytes) = (1, len(node.data()));
            self.visit_below(node, |node| {
                count += 1;
                bytes += len(node.data());
            });
        }
        self.write_usage(target, &QuotaNumbers::usage(count, bytes));
    }

    /// Adds to the usage of the quota that covers `path`. The usage is not replicated: each server
    /// keeps it by itself, without a transaction and without touching the stat.
    fn charge_quota(&mut self, path: &str, count: i64, bytes: i64) {
        let Some(target) = self.quotas.covering(path) else {
            return;
        };
        let Some(usage) = self.get(&quota::usage_path(target)) else {
            return;
        };
        let mut numbers = QuotaNumbers::parse(usage.data().unwrap_or_default());
        // Clients can write any usage.
        numbers.count = numbers.count.wrapping_add(count);
        numbers.bytes = numbers.bytes.wrapping_add(bytes);
        self.write_usage(target, &numbers);
    }

    fn write_usage(&mut self, target: &str, numbers: &QuotaNumbers) {
        if let Some(id) = self.nodes.find(&quota::usage_path(target)) {
            self.replace_data(id, Some(numbers.to_string().as_bytes()), |_| {});
        }
    }
}

fn len(data: Option<&[u8]>) -> i64 {
    data.map_or(0, |data| data.len() as i64)
}

fn size(path: &str, data: Option<&[u8]>) -> u64 {
    (path.len() + data.map_or(0, <[u8]>::len)) as u64
}

#[cfg(test)]
mod tests;
