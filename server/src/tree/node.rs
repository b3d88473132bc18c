//! One znode, and the arena that holds all of them.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use quorate_proto::{PersistedStat, Stat};

use super::acl::AclId;

/// The owner of a container, as it is stored and digested.
const CONTAINER_OWNER: u64 = 0x8000_0000_0000_0000;
/// The upper bits of the owner of a TTL node; the lower 40 are its time to live.
const TTL_OWNER: u64 = 0xff00_0000_0000_0000;
/// The longest time to live, in milliseconds.
pub(crate) const MAX_TTL: i64 = 0xff_ffff_ffff;

/// Below it lie the quotas and the configuration, which no digest covers.
const UNDIGESTED_PREFIX: &str = "/zookeeper/";

/// What a znode's lifetime depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nothing: it lives until it is deleted.
    Persistent,
    /// A session.
    Session(i64),
    /// Its children: it is reaped once the last one is gone.
    Container,
    /// The time since its data was set, in milliseconds.
    Ttl(i64),
}

impl Owner {
    /// Reads the stored form.
    pub fn from_stored(stored: i64) -> Self {
        match stored.cast_unsigned() {
            0 => Owner::Persistent,
            CONTAINER_OWNER => Owner::Container,
            owner if owner & !MAX_TTL.cast_unsigned() == TTL_OWNER => {
                Owner::Ttl((owner & MAX_TTL.cast_unsigned()).cast_signed())
            }
            _ => Owner::Session(stored),
        }
    }

    /// The stored form.
    pub fn to_stored(self) -> i64 {
        match self {
            Owner::Persistent => 0,
            Owner::Session(id) => id,
            Owner::Container => CONTAINER_OWNER.cast_signed(),
            Owner::Ttl(ttl) => (TTL_OWNER | ttl.cast_unsigned()).cast_signed(),
        }
    }
}

/// The stat of a znode at birth.
pub(crate) fn stat_at_birth(zxid: i64, time: i64, owner: Owner) -> PersistedStat {
    PersistedStat {
        czxid: zxid,
        mzxid: zxid,
        pzxid: zxid,
        ctime: time,
        mtime: time,
        ephemeral_owner: owner.to_stored(),
        ..PersistedStat::default()
    }
}

/// The stat as clients see it.
pub(crate) fn client_stat(stat: &PersistedStat, data_length: usize, children: usize) -> Stat {
    let children = saturating_i32(children);
    Stat {
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        ctime: stat.ctime,
        mtime: stat.mtime,
        version: stat.version,
        cversion: stat.cversion.wrapping_mul(2).wrapping_sub(children),
        aversion: stat.aversion,
        ephemeral_owner: match Owner::from_stored(stat.ephemeral_owner) {
            Owner::Session(id) => id,
            _ => 0,
        },
        data_length: saturating_i32(data_length),
        num_children: children,
        pzxid: stat.pzxid,
    }
}

fn saturating_i32(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The part of a znode's digest that its stat does not change: path and data
/// (spec: disk formats, section 12). A change of a parent's stat costs 60 bytes of checksum,
/// however long its data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyDigest(u32);

impl BodyDigest {
    pub(crate) fn new(path: &str, data: Option<&[u8]>) -> Self {
        let mut crc = crc32fast::Hasher::new();
        if path != "/" {
            crc.update(path.as_bytes());
        }
        crc.update(data.unwrap_or_default());
        BodyDigest(crc.finalize())
    }

    /// What the znode adds to the digest of the tree.
    pub(crate) fn with_stat(self, path: &str, stat: &PersistedStat) -> u64 {
        if path.starts_with(UNDIGESTED_PREFIX) {
            return 0;
        }
        let mut crc = crc32fast::Hasher::new_with_initial(self.0);
        crc.update(&digested_stat(stat));
        u64::from(crc.finalize())
    }
}

/// The stat in the order in which it is digested, which is not the order in which it is stored.
fn digested_stat(stat: &PersistedStat) -> [u8; 60] {
    let mut bytes = [0; 60];
    let longs = [stat.czxid, stat.mzxid, stat.pzxid, stat.ctime, stat.mtime];
    for (place, long) in bytes.chunks_exact_mut(8).zip(longs) {
        place.copy_from_slice(&long.to_be_bytes());
    }
    let ints = [stat.version, stat.cversion, stat.aversion];
    for (place, int) in bytes[40..52].chunks_exact_mut(4).zip(ints) {
        place.copy_from_slice(&int.to_be_bytes());
    }
    bytes[52..].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
    bytes
}

/// The place of a znode in the arena; free places are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u32);

/// The children of a znode that has some. Boxed, because most znodes have none.
#[derive(Debug, Default)]
struct Children {
    ids: Vec<NodeId>,
}

/// Path and data of a znode, in one piece of memory: there are many znodes, and most are small.
#[derive(Debug)]
struct Body {
    bytes: Box<[u8]>,
    /// Where the path ends; the topmost bit says that there is data behind it, if only an empty one.
    layout: u32,
}

impl Body {
    const HAS_DATA: u32 = 1 << 31;

    fn new(path: &str, data: Option<&[u8]>) -> Self {
        let bytes = [path.as_bytes(), data.unwrap_or_default()].concat().into();
        let has_data = if data.is_some() { Self::HAS_DATA } else { 0 };
        Body {
            bytes,
            layout: path.len() as u32 | has_data,
        }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        self.bytes
            .split_at((self.layout & !Self::HAS_DATA) as usize)
    }

    fn path(&self) -> &str {
        // It was text when it came in; checking that again costs less than a second allocation.
        std::str::from_utf8(self.split().0).unwrap_or_default()
    }

    fn data(&self) -> Option<&[u8]> {
        (self.layout & Self::HAS_DATA != 0).then(|| self.split().1)
    }
}

/// A znode.
#[derive(Debug)]
pub struct Node {
    body: Body,
    children: Option<Box<Children>>,
    pub(super) stat: PersistedStat,
    pub(super) acl: AclId,
    pub(super) digest: BodyDigest,
    parent: NodeId,
    /// Place among the parent's children.
    rank: u32,
}

impl Node {
    /// The full path.
    pub fn path(&self) -> &str {
        self.body.path()
    }

    /// The data; null and empty are different.
    pub fn data(&self) -> Option<&[u8]> {
        self.body.data()
    }

    /// Replaces the data.
    pub(super) fn set_data(&mut self, data: Option<&[u8]>) {
        // Memory of the right length is used again: most values keep their size.
        let path_len = self.body.split().0.len();
        match (self.body.data(), data) {
            (Some(old), Some(new)) if old.len() == new.len() => {
                self.body.bytes[path_len..].copy_from_slice(new);
            }
            _ => self.body = Body::new(self.body.path(), data),
        }
    }

    /// Number of children.
    pub fn child_count(&self) -> usize {
        self.child_ids().len()
    }

    pub(super) fn child_ids(&self) -> &[NodeId] {
        self.children.as_ref().map_or(&[], |children| &children.ids)
    }

    /// The stat as it is stored.
    pub fn persisted(&self) -> &PersistedStat {
        &self.stat
    }

    /// The stat as clients see it.
    pub fn stat(&self) -> Stat {
        client_stat(
            &self.stat,
            self.data().map_or(0, <[u8]>::len),
            self.child_count(),
        )
    }

    /// What the lifetime depends on.
    pub fn owner(&self) -> Owner {
        Owner::from_stored(self.stat.ephemeral_owner)
    }

    /// Key of the ACL in the tree's table.
    pub(crate) fn acl_id(&self) -> AclId {
        self.acl
    }

    pub(crate) fn body_digest(&self) -> BodyDigest {
        self.digest
    }

    /// What the znode adds to the digest of the tree.
    pub(super) fn digest(&self) -> u64 {
        self.digest.with_stat(self.path(), &self.stat)
    }
}

/// A place in the arena.
#[derive(Debug)]
enum Slot {
    Taken(Node),
    Free { next: Option<NodeId> },
}

/// Places are handed out in pieces of this many, so that growing never moves a znode.
const PIECE: usize = 1024;
/// The index by path is split into this many tables, so that growing one never holds up the
/// service for long.
const SHARDS: usize = 256;

/// All znodes: an arena, and an index by path.
#[derive(Debug)]
pub(crate) struct Nodes {
    pieces: Vec<Vec<Slot>>,
    free: Option<NodeId>,
    index: Box<[HashTable<NodeId>]>,
    hasher: RandomState,
    len: usize,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Nodes {
            pieces: Vec::new(),
            free: None,
            index: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: RandomState::default(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn hash(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }

    /// The znode in a place that may have been freed or taken by another since.
    pub(crate) fn at(&self, id: NodeId) -> Option<&Node> {
        match self
            .pieces
            .get(id.0 as usize / PIECE)?
            .get(id.0 as usize % PIECE)?
        {
            Slot::Taken(node) => Some(node),
            Slot::Free { .. } => None,
        }
    }

    /// The znode in a place that is known to be taken.
    ///
    /// # Panics
    /// If it is not: an index of the tree is broken, and going on would lose data.
    pub(crate) fn expect(&self, id: NodeId) -> &Node {
        match &self.pieces[id.0 as usize / PIECE][id.0 as usize % PIECE] {
            Slot::Taken(node) => node,
            Slot::Free { .. } => panic!("the tree's index names a place that is free: {id:?}"),
        }
    }

    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        let hash = self.hash(path.as_bytes());
        let same_path = |id: &NodeId| {
            self.at(*id)
                .is_some_and(|node| node.body.split().0 == path.as_bytes())
        };
        self.index[shard(hash)].find(hash, same_path).copied()
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.at(self.find(path)?)
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        match self
            .pieces
            .get_mut(id.0 as usize / PIECE)?
            .get_mut(id.0 as usize % PIECE)?
        {
            Slot::Taken(node) => Some(node),
            Slot::Free { .. } => None,
        }
    }

    /// Adds a znode that does not exist yet below `parent`; the root is its own parent.
    pub(crate) fn insert(
        &mut self,
        parent: Option<NodeId>,
        path: &str,
        data: Option<&[u8]>,
        stat: PersistedStat,
        acl: AclId,
        digest: BodyDigest,
    ) -> NodeId {
        let id = self.next_place();
        let rank = match parent.and_then(|parent| self.get_mut(parent)) {
            Some(parent) => {
                let siblings = &mut parent.children.get_or_insert_default().ids;
                siblings.push(id);
                siblings.len() as u32 - 1
            }
            None => 0,
        };
        let node = Node {
            body: Body::new(path, data),
            children: None,
            stat,
            acl,
            digest,
            parent: parent.unwrap_or(id),
            rank,
        };
        self.put(id, node);
        let hash = self.hash(path.as_bytes());
        let (pieces, hasher) = (&self.pieces, &self.hasher);
        self.index[shard(hash)].insert_unique(hash, id, |id| {
            match &pieces[id.0 as usize / PIECE][id.0 as usize % PIECE] {
                Slot::Taken(node) => hasher.hash_one(node.body.split().0),
                Slot::Free { .. } => 0,
            }
        });
        self.len += 1;
        id
    }

    fn next_place(&self) -> NodeId {
        if let Some(free) = self.free {
            return free;
        }
        let full = self.pieces.len().saturating_sub(1) * PIECE;
        let last = self.pieces.last().map_or(0, Vec::len);
        NodeId((full + last) as u32)
    }

    fn put(&mut self, id: NodeId, node: Node) {
        if let Some(slot) = self
            .pieces
            .get_mut(id.0 as usize / PIECE)
            .and_then(|piece| piece.get_mut(id.0 as usize % PIECE))
        {
            if let Slot::Free { next } = *slot {
                self.free = next;
            }
            *slot = Slot::Taken(node);
            return;
        }
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(Slot::Taken(node)),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(Slot::Taken(node));
                self.pieces.push(piece);
            }
        }
    }

    /// Takes a znode out. Its children must be gone.
    pub(crate) fn remove(&mut self, id: NodeId) -> Option<Node> {
        let slot = self
            .pieces
            .get_mut(id.0 as usize / PIECE)?
            .get_mut(id.0 as usize % PIECE)?;
        let free = Slot::Free { next: self.free };
        let Slot::Taken(node) = std::mem::replace(slot, free) else {
            return None;
        };
        self.free = Some(id);
        self.len -= 1;
        let hash = self.hash(node.body.split().0);
        if let Ok(entry) = self.index[shard(hash)].find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.leave_parent(id, &node);
        Some(node)
    }

    /// The last sibling takes the place that becomes free.
    fn leave_parent(&mut self, id: NodeId, node: &Node) {
        let Some(parent) = self.get_mut(node.parent) else {
            return;
        };
        let Some(children) = &mut parent.children else {
            return;
        };
        let rank = node.rank as usize;
        if children.ids.get(rank) != Some(&id) {
            return;
        }
        children.ids.swap_remove(rank);
        let moved = children.ids.get(rank).copied();
        if children.ids.is_empty() {
            parent.children = None;
        }
        if let Some(moved) = moved.and_then(|moved| self.get_mut(moved)) {
            moved.rank = node.rank;
        }
    }
}

/// Uses bits of the hash that the tables themselves look at last.
fn shard(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(nodes: &mut Nodes, parent: Option<NodeId>, path: &str) -> NodeId {
        let digest = BodyDigest::new(path, None);
        nodes.insert(
            parent,
            path,
            None,
            PersistedStat::default(),
            AclId::OPEN,
            digest,
        )
    }

    fn children(nodes: &Nodes, id: NodeId) -> Vec<&str> {
        let ids = nodes.at(id).unwrap().child_ids();
        let mut paths: Vec<_> = ids.iter().map(|id| nodes.at(*id).unwrap().path()).collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn places_are_used_again_and_siblings_stay_linked() {
        let mut nodes = Nodes::new();
        let root = insert(&mut nodes, None, "/");
        let ids: Vec<_> = ["/a", "/b", "/c"]
            .iter()
            .map(|path| insert(&mut nodes, Some(root), path))
            .collect();
        assert!(nodes.remove(ids[0]).is_some());
        assert_eq!(children(&nodes, root), ["/b", "/c"]);
        assert_eq!(nodes.find("/a"), None);
        assert_eq!(insert(&mut nodes, Some(root), "/d"), ids[0]);
        assert!(nodes.remove(ids[2]).is_some());
        assert!(nodes.remove(ids[1]).is_some());
        assert_eq!(children(&nodes, root), ["/d"]);
        assert_eq!(nodes.len(), 2);
    }

    #[test]
    fn the_arena_grows_over_many_pieces() {
        let mut nodes = Nodes::new();
        let root = insert(&mut nodes, None, "/");
        for i in 0..5000 {
            insert(&mut nodes, Some(root), &format!("/{i}"));
        }
        for i in 0..5000 {
            let path = format!("/{i}");
            assert_eq!(nodes.get(&path).map(Node::path), Some(path.as_str()));
        }
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Slot>() <= 112, "{}", size_of::<Slot>());
    }

    #[test]
    fn owners_keep_their_stored_form() {
        for owner in [
            Owner::Persistent,
            Owner::Session(0x0100_1234),
            Owner::Container,
            Owner::Ttl(5),
        ] {
            assert_eq!(Owner::from_stored(owner.to_stored()), owner);
        }
        assert_eq!(
            Owner::Ttl(MAX_TTL).to_stored().cast_unsigned(),
            0xff00_00ff_ffff_ffff
        );
    }

    #[test]
    fn digests_match_the_published_vectors() {
        let digest = |path| BodyDigest::new(path, None).with_stat(path, &PersistedStat::default());
        assert_eq!(digest("/"), 0x0412_8908);
        assert_eq!(digest("/zookeeper"), 0x4db4_4d58);
        assert_eq!(digest("/zookeeper/quota"), 0);
    }
}
