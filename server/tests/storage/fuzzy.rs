//! Snapshots that are taken while transactions go on.

use quorate_proto::jute::Encode;
use quorate_proto::{Acl, Perms, SetAclTxn, Txn, TxnEntry, TxnHeader};
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::snapshot::{Head, Progress, Source, StillTree, Tail, encode_node};
use quorate_server::tree::{NodeWalk, Tree};

use crate::support::{Server, apply_next, digest_at, record, storage};

/// A tree that is changed between any two looks at it.
struct BusyTree<'a> {
    server: &'a mut Server,
    walk: Option<NodeWalk>,
    /// Transactions between two looks.
    txns: usize,
}

impl Source for BusyTree<'_> {
    fn head(&mut self) -> Head {
        let head = StillTree::new(&self.server.tree).head();
        self.walk = Some(NodeWalk::new(&self.server.tree));
        self.server.commit(self.txns).unwrap();
        head
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        let walk = self.walk.as_mut().unwrap();
        let more = walk.encode_next(&self.server.tree, out.len() + 1, out);
        self.server.commit(self.txns).unwrap();
        if more { Progress::More } else { Progress::Done }
    }

    fn tail(&mut self) -> Tail {
        let tail = StillTree::new(&self.server.tree).tail();
        self.server.commit(self.txns).unwrap();
        tail
    }
}

#[test]
fn what_changes_meanwhile_is_replayed() {
    for txns in 0..4 {
        let disk = MemDisk::new();
        let mut server = Server::start(&disk).unwrap();
        server.commit(30).unwrap();
        let storage = server.storage.clone();
        let mut source = BusyTree {
            server: &mut server,
            walk: None,
            txns,
        };
        let written = storage.write_snapshot(&mut source).unwrap().unwrap();
        assert_eq!(written.zxid, 30);
        let last = server.tree.last_zxid();
        let recovered = crate::support::storage(&disk).recover().unwrap();
        assert_eq!(recovered.report.snapshot, Some(written.path));
        assert_eq!(recovered.report.last_zxid, last);
        assert_eq!(recovered.report.findings, []);
        assert_eq!(recovered.tree.digest(), digest_at(last));
        if txns > 0 {
            // From the digest in the tail on, and not before.
            let compared = recovered.report.digests_compared;
            assert_eq!(compared, txns as u64 + 1);
        }
    }
}

/// Names an ACL that was made after the list of ACLs had been written.
struct LateAcl<'a>(&'a Tree);

impl Source for LateAcl<'_> {
    fn head(&mut self) -> Head {
        StillTree::new(self.0).head()
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        for node in [self.0.get("/"), self.0.get("/n2")].into_iter().flatten() {
            let root = node.path() == "/";
            let path = if root { "" } else { node.path() };
            let acl_key = if root { -1 } else { 77 };
            encode_node(path, node.data(), acl_key, node.persisted(), out);
        }
        Progress::Done
    }

    fn tail(&mut self) -> Tail {
        Tail::default()
    }
}

#[test]
fn an_acl_that_the_snapshot_lacks_comes_with_its_transaction() {
    let disk = MemDisk::new();
    let mut server = Server::start(&disk).unwrap();
    server.commit(2).unwrap();
    server
        .storage
        .write_snapshot(&mut LateAcl(&server.tree))
        .unwrap();
    let acl = |tree: &Tree| tree.acl(tree.get("/n2").unwrap()).entries().to_vec();
    let before = storage(&disk).recover().unwrap().tree;
    assert_eq!(
        acl(&before),
        [Acl::world(Perms(0))],
        "until then it lets nobody in"
    );

    let txn = Txn::SetAcl(SetAclTxn {
        path: "/n2",
        acl: Some(vec![Acl::new(Perms::READ, "ip", "::1")]),
        version: 1,
    });
    let header = TxnHeader {
        session_id: 1,
        cxid: 0,
        zxid: 3,
        time: 0,
        op: txn.op().number(),
    };
    let entry = TxnEntry {
        header,
        txn,
        digest: None,
    };
    server.log.append(3, &record(&entry.to_vec())).unwrap();
    server.log.sync().unwrap();
    let after = storage(&disk).recover().unwrap().tree;
    assert_eq!(acl(&after), [Acl::new(Perms::READ, "ip", "::1")]);
}

#[test]
fn an_abandoned_snapshot_leaves_nothing() {
    struct Unwanted<'a>(StillTree<'a>);
    impl Source for Unwanted<'_> {
        fn head(&mut self) -> Head {
            self.0.head()
        }
        fn nodes(&mut self, _: &mut Vec<u8>) -> Progress {
            Progress::Abandon
        }
        fn tail(&mut self) -> Tail {
            self.0.tail()
        }
    }
    let disk = MemDisk::new();
    let storage = storage(&disk);
    let mut tree = storage.recover().unwrap().tree;
    apply_next(&mut tree);
    let written = storage.write_snapshot(&mut Unwanted(StillTree::new(&tree)));
    assert_eq!(written.unwrap(), None);
    assert_eq!(disk.names(crate::support::DATA), ["snapshot.0"]);
}
