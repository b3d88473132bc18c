use quorate_proto::{
    CreateContainerTxn, CreateSessionTxn, CreateTtlTxn, DeleteTxn, OpCode, Perms, SetAclTxn,
};

use super::*;

fn header(zxid: i64) -> TxnHeader {
    TxnHeader {
        session_id: 7,
        cxid: 1,
        zxid,
        time: 1000 + zxid,
        op: OpCode::Error.number(),
    }
}

fn create(path: &str, ephemeral: bool, parent_cversion: i32) -> Txn<'_> {
    let acl = Some(vec![Acl::world(Perms::ALL)]);
    Txn::Create(CreateTxn {
        path,
        data: Some(b"x"),
        acl,
        ephemeral,
        parent_cversion,
    })
}

fn set(path: &'static str, data: &'static [u8], version: i32) -> Txn<'static> {
    Txn::SetData(SetDataTxn {
        path,
        data: Some(data),
        version,
    })
}

fn delete(path: &str) -> Txn<'_> {
    Txn::Delete(DeleteTxn { path })
}

/// The digest counted from nothing.
fn recount(tree: &Tree) -> u64 {
    let root = tree.get("/").unwrap();
    let digest = |node: &Node| {
        BodyDigest::new(node.path(), node.data()).with_stat(node.path(), node.persisted())
    };
    let mut sum = digest(root);
    tree.visit_below(root, |node| sum = sum.wrapping_add(digest(node)));
    sum
}

#[derive(Default)]
struct Events(Vec<(EventType, String)>);

impl Observer for Events {
    fn changed(&mut self, event: EventType, path: &str, _: &AclList) {
        self.0.push((event, path.to_owned()));
    }
}

#[test]
fn a_fresh_tree_is_apaches() {
    let tree = Tree::new();
    assert_eq!(tree.digest().digest, 0x51c6_d660);
    let stat = |path| tree.get(path).unwrap().stat();
    assert_eq!((stat("/").cversion, stat("/zookeeper").cversion), (-1, -2));
    assert_eq!(stat(CONFIG_PATH).aversion, -1);
    assert_eq!(tree.count_descendants(tree.get("/").unwrap()), 3);
    assert_eq!(tree.count_descendants(tree.get("/zookeeper").unwrap()), 2);
}

#[test]
fn the_documented_log_leads_to_its_digests() {
    let mut tree = Tree::new();
    let session = 0x0100_0028_19a4_0000;
    let at = |zxid, time| TxnHeader {
        session_id: session,
        cxid: 0,
        zxid,
        time,
        op: 0,
    };
    let start = Txn::CreateSession(CreateSessionTxn { timeout: 30000 });
    tree.apply(&at(1, 0x0000_01a1_fa0b_2eb8), &start, &mut ());
    assert_eq!(tree.digest().digest, 0x51c6_d660);
    let hi = Txn::Create(CreateTxn {
        path: "/a",
        data: Some(b"hi"),
        acl: Some(vec![Acl::world(Perms::ALL)]),
        ephemeral: true,
        parent_cversion: 1,
    });
    tree.apply(&at(2, 0x0000_01a1_fa0b_2ec9), &hi, &mut ());
    assert_eq!(tree.digest().digest, 0xc080_266f);
    let close = Txn::CloseSession(Some(vec!["/a"]));
    tree.apply(&at(3, 0x0000_01a1_fa0b_2ed9), &close, &mut ());
    assert_eq!(tree.digest().digest, 0xd199_bd45);
    assert_eq!(tree.sessions().len(), 0);
}

#[test]
fn stats_change_as_documented_and_events_come_in_order() {
    let mut tree = Tree::new();
    let mut events = Events::default();
    tree.apply(&header(1), &create("/a", false, 1), &mut events);
    tree.apply(&header(2), &create("/a/b", false, 1), &mut events);
    let Applied::Stat(stat) = tree.apply(&header(3), &set("/a", b"longer", 1), &mut events) else {
        panic!("not set")
    };
    assert_eq!(
        (stat.version, stat.mzxid, stat.mtime, stat.data_length),
        (1, 3, 1003, 6)
    );
    assert_eq!((stat.cversion, stat.num_children, stat.pzxid), (1, 1, 2));
    tree.apply(&header(4), &delete("/a/b"), &mut events);
    let stat = tree.get("/a").unwrap().stat();
    assert_eq!(
        (stat.cversion, stat.num_children, stat.pzxid, stat.mzxid),
        (2, 0, 4, 3)
    );
    assert_eq!(tree.digest().digest, recount(&tree));
    use EventType::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};
    let expected = [
        (NodeCreated, "/a"),
        (NodeChildrenChanged, "/"),
        (NodeCreated, "/a/b"),
        (NodeChildrenChanged, "/a"),
        (NodeDataChanged, "/a"),
        (NodeDeleted, "/a/b"),
        (NodeChildrenChanged, "/a"),
    ];
    assert_eq!(
        events.0,
        expected.map(|(event, path)| (event, path.to_owned()))
    );
}

#[test]
fn a_session_takes_its_ephemerals_along_even_those_not_listed() {
    let mut tree = Tree::new();
    tree.apply(
        &header(1),
        &Txn::CreateSession(CreateSessionTxn { timeout: 1 }),
        &mut (),
    );
    tree.apply(&header(2), &create("/a", true, 1), &mut ());
    tree.apply(&header(3), &create("/b", true, 2), &mut ());
    assert_eq!(tree.ephemerals(7).count(), 2);
    tree.apply(&header(4), &Txn::CloseSession(Some(vec!["/a"])), &mut ());
    assert!(tree.get("/a").is_none() && tree.get("/b").is_none());
    assert_eq!(tree.ephemeral_owners().count(), 0);
    assert_eq!(tree.digest().digest, recount(&tree));
}

#[test]
fn a_multi_with_an_error_changes_nothing() {
    let mut tree = Tree::new();
    let multi = Txn::Multi(vec![
        create("/a", false, 1),
        Txn::Error(ErrorCode::BAD_VERSION),
        create("/b", false, 2),
    ]);
    let failed = Applied::Failed;
    assert_eq!(
        tree.apply(&header(1), &multi, &mut ()),
        Applied::Multi(vec![
            failed(ErrorCode::OK),
            failed(ErrorCode::BAD_VERSION),
            failed(ErrorCode::RUNTIME_INCONSISTENCY)
        ])
    );
    assert_eq!((tree.len(), tree.last_zxid()), (4, 1));
}

#[test]
fn quotas_count_their_subtree() {
    let mut tree = Tree::new();
    let usage = |tree: &Tree| {
        let node = tree.get("/zookeeper/quota/a/zookeeper_stats").unwrap();
        assert_eq!((node.stat().version, node.stat().mzxid), (0, 4));
        String::from_utf8(node.data().unwrap().to_vec()).unwrap()
    };
    for (zxid, path) in [
        "/a",
        "/zookeeper/quota/a",
        "/zookeeper/quota/a/zookeeper_limits",
    ]
    .into_iter()
    .enumerate()
    {
        tree.apply(&header(zxid as i64 + 1), &create(path, false, -1), &mut ());
    }
    tree.apply(
        &header(4),
        &create("/zookeeper/quota/a/zookeeper_stats", false, -1),
        &mut (),
    );
    assert_eq!(usage(&tree), "count=1,bytes=1");
    tree.apply(&header(5), &create("/a/b", false, -1), &mut ());
    tree.apply(&header(6), &set("/a/b", b"12345", 1), &mut ());
    assert_eq!(usage(&tree), "count=2,bytes=6");
    tree.apply(&header(7), &delete("/a/b"), &mut ());
    assert_eq!(usage(&tree), "count=1,bytes=1");
    assert_eq!(tree.digest().digest, recount(&tree));
}

#[test]
fn containers_and_ttl_nodes_are_known() {
    let mut tree = Tree::new();
    let acl = Some(vec![Acl::world(Perms::READ)]);
    let container = CreateContainerTxn {
        path: "/c",
        data: None,
        acl: acl.clone(),
        parent_cversion: 1,
    };
    let ttl = CreateTtlTxn {
        path: "/t",
        data: None,
        acl,
        parent_cversion: 2,
        ttl: 9,
    };
    tree.apply(&header(1), &Txn::CreateContainer(container), &mut ());
    tree.apply(&header(2), &Txn::CreateTtl(ttl), &mut ());
    let mut kinds: Vec<_> = tree
        .reapable()
        .map(|node| (node.path(), node.owner()))
        .collect();
    kinds.sort_unstable_by_key(|(path, _)| *path);
    assert_eq!(kinds, [("/c", Owner::Container), ("/t", Owner::Ttl(9))]);
    assert_eq!(tree.get("/c").unwrap().stat().ephemeral_owner, 0);
    tree.apply(
        &header(3),
        &Txn::DeleteContainer(DeleteTxn { path: "/c" }),
        &mut (),
    );
    tree.apply(&header(4), &delete("/t"), &mut ());
    assert_eq!(tree.reapable().count(), 0);
}

/// A history with every kind of change; names are used again on purpose.
fn history() -> Vec<Txn<'static>> {
    vec![
        Txn::CreateSession(CreateSessionTxn { timeout: 1 }),
        create("/a", false, 1),
        create("/a/b", false, 1),
        create("/e", true, 2),
        set("/a", b"one", 1),
        delete("/a/b"),
        create("/a/b", true, 2),
        Txn::SetAcl(SetAclTxn {
            path: "/a",
            acl: Some(vec![Acl::world(Perms::READ)]),
            version: 1,
        }),
        Txn::Multi(vec![
            create("/a/c", false, 3),
            set("/a/c", b"two", 1),
            delete("/e"),
        ]),
        Txn::CloseSession(Some(vec!["/a/b"])),
        create("/e", false, 3),
    ]
}

fn dump(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    let root = tree.get("/").unwrap();
    let line = |node: &Node| {
        let acl = tree.acl(node).entries();
        format!(
            "{} {:?} {:?} {acl:?}",
            node.path(),
            node.data(),
            node.persisted()
        )
    };
    lines.push(line(root));
    tree.visit_below(root, |node| lines.push(line(node)));
    lines.sort_unstable();
    lines
}

#[test]
fn a_walk_among_transactions_and_a_replay_lead_to_the_same_tree() {
    let history = history();
    let apply = |tree: &mut Tree, range: std::ops::Range<usize>| {
        for i in range {
            tree.apply(&header(i as i64 + 1), &history[i], &mut ());
        }
    };
    let mut live = Tree::new();
    apply(&mut live, 0..history.len());
    for start in 0..history.len() {
        // One transaction more before every znode that the walk visits.
        let mut tree = Tree::new();
        apply(&mut tree, 0..start);
        let zxid = tree.last_zxid();
        let acls: Vec<_> = tree
            .stored_acls()
            .map(|(key, acl)| (key, acl.entries().to_vec()))
            .collect();
        let sessions: Vec<_> = tree.sessions().collect();
        let mut walk = NodeWalk::new(&tree);
        let (mut nodes, mut next) = (Vec::new(), start);
        loop {
            let more = walk.encode_next(&tree, nodes.len() + 1, &mut nodes);
            if next < history.len() {
                apply(&mut tree, next..next + 1);
                next += 1;
            }
            if !more {
                break;
            }
        }
        let mut loader = Loader::new();
        sessions
            .into_iter()
            .for_each(|(id, timeout)| loader.session(id, timeout));
        acls.iter()
            .for_each(|(key, acl)| loader.acl(*key, Some(acl)));
        let mut reader = quorate_proto::jute::Reader::new(&nodes);
        while !reader.is_empty() {
            let path: &str = reader.read().unwrap();
            let data: Option<&[u8]> = reader.read().unwrap();
            let (acl, stat) = (reader.read().unwrap(), reader.read().unwrap());
            loader.node(path, data, acl, stat).unwrap();
        }
        let mut loaded = loader.finish(zxid);
        apply(&mut loaded, start..history.len());
        assert_eq!(
            dump(&loaded),
            dump(&live),
            "walk that began after {start} transactions"
        );
        assert_eq!(loaded.digest(), live.digest());
        assert_eq!(loaded.digest().digest, recount(&loaded));
    }
}
