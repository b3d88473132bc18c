use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{CreateRequest, MultiOp, ReconfigRequest, SetWatches, TxnEntry};

use super::*;
use crate::storage::log::record_body;
use crate::tree::Applied;

const SESSION: i64 = 0x0100_0000_0000_0001;

/// A preparer and the tree that it prepares for; applies only when told to.
struct Bench {
    tree: Tree,
    preparer: Preparer,
    records: Vec<Vec<u8>>,
    applied: usize,
}

impl Bench {
    fn new() -> Self {
        let rules = Rules {
            skip_acl: false,
            ttl_nodes: true,
            enforce_quota: true,
            digest: true,
            list_ephemerals: true,
            reconfig: true,
            digest_scheme: true,
        };
        let tree = Tree::new();
        let preparer = Preparer::new(&tree, rules);
        let mut bench = Bench {
            tree,
            preparer,
            records: Vec::new(),
            applied: 0,
        };
        bench.internal(SESSION, Internal::CreateSession(1000));
        bench
    }

    fn requester(session: i64) -> Requester<'static> {
        Requester {
            session,
            cxid: 1,
            ids: &[],
            time: 1000,
            local: false,
        }
    }

    fn internal(&mut self, session: i64, write: Internal<'_>) {
        let mut out = Vec::new();
        self.preparer
            .prepare_internal(&self.tree, Self::requester(session), write, &mut out);
        self.records.push(out);
    }

    /// Prepares a request; answers the error of its transaction.
    fn write(&mut self, op: OpCode, request: &impl Encode) -> Result<(), ErrorCode> {
        let mut out = Vec::new();
        let requester = Self::requester(SESSION);
        let zxid = self
            .preparer
            .prepare(&self.tree, requester, op, &request.to_vec(), &mut out)
            .ok_or(ErrorCode::MARSHALLING_ERROR)?;
        assert_eq!(zxid, self.records.len() as i64 + 1);
        self.records.push(out);
        match self.last().txn {
            Txn::Error(err) => Err(err),
            Txn::Multi(parts) => {
                let failed = |part: &Txn<'_>| match part {
                    Txn::Error(err) => Some(*err),
                    _ => None,
                };
                parts.iter().find_map(failed).map_or(Ok(()), Err)
            }
            _ => Ok(()),
        }
    }

    fn last(&self) -> TxnEntry<'_> {
        TxnEntry::from_slice(record_body(self.records.last().unwrap())).unwrap()
    }

    fn create(&mut self, path: &str, mode: CreateMode) -> Result<(), ErrorCode> {
        self.write(OpCode::Create, &create(path, mode.number()))
    }

    fn set(&mut self, path: &str, version: i32) -> Result<(), ErrorCode> {
        self.write(
            OpCode::SetData,
            &SetDataRequest {
                path,
                data: Some(b"new"),
                version,
            },
        )
    }

    fn delete(&mut self, path: &str) -> Result<(), ErrorCode> {
        self.write(OpCode::Delete, &VersionRequest { path, version: -1 })
    }

    /// Applies everything that is pending; each transaction must leave the digest it carries.
    fn apply(&mut self) {
        for record in &self.records[self.applied..] {
            let entry = TxnEntry::from_slice(record_body(record)).unwrap();
            let applied = self.tree.apply(&entry.header, &entry.txn, &mut ());
            assert_eq!(
                matches!(applied, Applied::Failed(_)),
                matches!(entry.txn, Txn::Error(_))
            );
            if let Some(digest) = entry.digest {
                assert_eq!(self.tree.digest(), digest, "behind {entry:?}");
            }
        }
        self.applied = self.records.len();
        self.preparer.applied(self.tree.last_zxid());
    }
}

fn create(path: &str, flags: i32) -> CreateRequest<'_> {
    CreateRequest {
        path,
        data: Some(b"x"),
        acl: Some(vec![Acl::world(Perms::ALL)]),
        flags,
    }
}

#[test]
fn pending_changes_count_as_done() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.create("/a/b", CreateMode::Persistent),
        Err(ErrorCode::NO_NODE)
    );
    assert_eq!(bench.create("/a", CreateMode::Persistent), Ok(()));
    assert_eq!(
        bench.create("/a", CreateMode::Persistent),
        Err(ErrorCode::NODE_EXISTS)
    );
    assert_eq!(bench.create("/a/b", CreateMode::Ephemeral), Ok(()));
    assert_eq!(bench.delete("/a"), Err(ErrorCode::NOT_EMPTY));
    assert_eq!(bench.set("/a", 0), Ok(()));
    assert_eq!(bench.set("/a", 0), Err(ErrorCode::BAD_VERSION));
    assert_eq!(
        bench.create("/a/b/c", CreateMode::Persistent),
        Err(ErrorCode::NO_CHILDREN_FOR_EPHEMERALS)
    );
    assert_eq!(bench.delete("/a/b"), Ok(()));
    assert_eq!(bench.delete("/a"), Ok(()));
    assert_eq!(bench.set("/a", -1), Err(ErrorCode::NO_NODE));
    bench.apply();
    assert_eq!(bench.tree.len(), 4);
}

#[test]
fn sequence_numbers_go_on_while_creates_are_pending() {
    let mut bench = Bench::new();
    for expected in ["/n0000000000", "/n0000000001"] {
        bench
            .create("/n", CreateMode::PersistentSequential)
            .unwrap();
        assert!(matches!(bench.last().txn, Txn::Create(txn) if txn.path == expected));
    }
    bench.apply();
    bench.create("/n", CreateMode::EphemeralSequential).unwrap();
    assert!(matches!(bench.last().txn, Txn::Create(txn) if txn.path == "/n0000000002"));
    assert_eq!(sequential_path("/n", -5), "/n-000000005");
    assert_eq!(sequential_path("/n", i32::MIN), "/n-2147483648");
}

#[test]
fn a_multi_that_fails_leaves_nothing_pending() {
    let mut bench = Bench::new();
    bench.create("/a", CreateMode::Persistent).unwrap();
    let check = VersionRequest {
        path: "/a",
        version: 7,
    };
    let multi = MultiRequest {
        ops: vec![
            MultiOp::Create(create("/a/n", 2)),
            MultiOp::SetData(SetDataRequest {
                path: "/a",
                data: None,
                version: 0,
            }),
            MultiOp::Check(check),
            MultiOp::Delete(VersionRequest {
                path: "/a",
                version: -1,
            }),
        ],
    };
    assert_eq!(
        bench.write(OpCode::Multi, &multi),
        Err(ErrorCode::BAD_VERSION)
    );
    let Txn::Multi(parts) = bench.last().txn else {
        panic!("no multi")
    };
    assert!(matches!(parts[0], Txn::Create(_)) && matches!(parts[1], Txn::SetData(_)));
    assert_eq!(parts[3], Txn::Error(ErrorCode::RUNTIME_INCONSISTENCY));
    bench
        .create("/a/n", CreateMode::PersistentSequential)
        .unwrap();
    assert!(matches!(bench.last().txn, Txn::Create(txn) if txn.path == "/a/n0000000000"));
    assert_eq!(bench.set("/a", 0), Ok(()));
    bench.apply();
}

#[test]
fn a_multi_sees_its_own_changes() {
    let mut bench = Bench::new();
    let set = |version| SetDataRequest {
        path: "/m",
        data: Some(b"y"),
        version,
    };
    let multi = MultiRequest {
        ops: vec![
            MultiOp::Create2(create("/m", 0)),
            MultiOp::SetData(set(0)),
            MultiOp::SetData(set(1)),
            MultiOp::Check(VersionRequest {
                path: "/m",
                version: 2,
            }),
        ],
    };
    assert_eq!(bench.write(OpCode::Multi, &multi), Ok(()));
    bench.apply();
    assert_eq!(bench.tree.get("/m").unwrap().stat().version, 2);
}

#[test]
fn closing_a_session_takes_pending_ephemerals_along_and_ends_its_writes() {
    let mut bench = Bench::new();
    bench.create("/a", CreateMode::Ephemeral).unwrap();
    bench.create("/b", CreateMode::Ephemeral).unwrap();
    bench.apply();
    bench.create("/c", CreateMode::Ephemeral).unwrap();
    bench.delete("/a").unwrap();
    bench.internal(SESSION, Internal::CloseSession);
    let Txn::CloseSession(Some(mut paths)) = bench.last().txn else {
        panic!("no list")
    };
    paths.sort_unstable();
    assert_eq!(paths, ["/b", "/c"]);
    assert_eq!(
        bench.create("/d", CreateMode::Persistent),
        Err(ErrorCode::SESSION_EXPIRED)
    );
    bench.apply();
    assert_eq!(
        bench.create("/d", CreateMode::Persistent),
        Err(ErrorCode::SESSION_EXPIRED)
    );
    assert_eq!(bench.tree.len(), 4);
}

#[test]
fn modes_and_opcodes_must_fit() {
    let mut bench = Bench::new();
    let ttl = |flags, ttl| {
        let CreateRequest {
            path, data, acl, ..
        } = create("/t", 0);
        CreateTtlRequest {
            path,
            data,
            acl,
            flags,
            ttl,
        }
    };
    for (flags, time) in [(5, 0), (5, -1), (5, MAX_TTL + 1), (0, -1), (0, 5), (9, 5)] {
        let refused = bench.write(OpCode::CreateTtl, &ttl(flags, time));
        assert_eq!(refused, Err(ErrorCode::BAD_ARGUMENTS), "{flags} {time}");
    }
    assert_eq!(bench.write(OpCode::CreateTtl, &ttl(5, MAX_TTL)), Ok(()));
    assert_eq!(
        bench.write(OpCode::Create, &create("/u", 5)),
        Err(ErrorCode::BAD_ARGUMENTS)
    );
    assert_eq!(
        bench.write(OpCode::CreateContainer, &create("/c", 0)),
        Ok(())
    );
    assert_eq!(bench.write(OpCode::Create, &create("/p", 4)), Ok(()));
    bench.apply();
    assert_eq!(bench.tree.reapable().count(), 2);
    bench.preparer.rules.ttl_nodes = false;
    assert_eq!(
        bench.write(OpCode::CreateTtl, &ttl(5, 1)),
        Err(ErrorCode::UNIMPLEMENTED)
    );
}

#[test]
fn paths_are_refused_in_the_order_of_the_documentation() {
    let mut bench = Bench::new();
    bench.create("/a", CreateMode::Persistent).unwrap();
    for (path, err) in [
        ("", ErrorCode::BAD_ARGUMENTS),
        ("a", ErrorCode::BAD_ARGUMENTS),
        ("/", ErrorCode::NODE_EXISTS),
        ("/a/", ErrorCode::BAD_ARGUMENTS),
        ("/x/", ErrorCode::NO_NODE),
        ("/a/./b", ErrorCode::NO_NODE),
        ("/a/..", ErrorCode::BAD_ARGUMENTS),
    ] {
        assert_eq!(
            bench.create(path, CreateMode::Persistent),
            Err(err),
            "{path:?}"
        );
    }
    for path in [
        "/",
        "/zookeeper",
        "/zookeeper/quota",
        "/zookeeper/config",
        "x",
    ] {
        assert_eq!(
            bench.delete(path),
            Err(ErrorCode::BAD_ARGUMENTS),
            "{path:?}"
        );
    }
    assert_eq!(
        bench.create("/a/", CreateMode::PersistentSequential),
        Ok(())
    );
    bench.apply();
    assert!(bench.tree.get("/a/0000000000").is_some());
}

#[test]
fn hard_quotas_are_enforced() {
    let mut bench = Bench::new();
    let text = b"count=-1,bytes=-1=;byteHardLimit=4;countHardLimit=2";
    bench.create("/q", CreateMode::Persistent).unwrap();
    bench
        .create("/zookeeper/quota/q", CreateMode::Persistent)
        .unwrap();
    for (name, data) in [("zookeeper_limits", &text[..]), ("zookeeper_stats", b"")] {
        let path = format!("/zookeeper/quota/q/{name}");
        let request = CreateRequest {
            data: Some(data),
            ..create(&path, 0)
        };
        bench.write(OpCode::Create, &request).unwrap();
    }
    bench.apply();
    bench.create("/q/1", CreateMode::Persistent).unwrap();
    bench.apply();
    assert_eq!(
        bench.create("/q/2", CreateMode::Persistent),
        Err(ErrorCode::QUOTA_EXCEEDED)
    );
    let big = SetDataRequest {
        path: "/q/1",
        data: Some(b"12345"),
        version: -1,
    };
    assert_eq!(
        bench.write(OpCode::SetData, &big),
        Err(ErrorCode::QUOTA_EXCEEDED)
    );
    assert_eq!(bench.delete("/q/1"), Ok(()));
}

#[test]
fn bytes_that_make_no_request_get_no_number_unless_they_claim_to_be_a_multi() {
    let mut bench = Bench::new();
    let nonsense = SetWatches {
        relative_zxid: 1,
        data: vec![],
        exist: vec![],
        child: vec![],
    };
    let last = bench.preparer.last_zxid();
    assert_eq!(
        bench.write(OpCode::SetAcl, &nonsense),
        Err(ErrorCode::MARSHALLING_ERROR)
    );
    assert_eq!(bench.preparer.last_zxid(), last);
    assert_eq!(
        bench.write(OpCode::Multi, &nonsense),
        Err(ErrorCode::MARSHALLING_ERROR)
    );
    assert_eq!(bench.preparer.last_zxid(), last + 1);
}

#[test]
fn a_server_that_stands_alone_has_no_members_to_change() {
    let mut bench = Bench::new();
    let request = ReconfigRequest {
        joining: None,
        leaving: Some("2"),
        new_members: None,
        config_id: -1,
    };
    let unimplemented = Err(ErrorCode::UNIMPLEMENTED);
    assert_eq!(bench.write(OpCode::Reconfig, &request), unimplemented);
    bench.preparer.rules.reconfig = false;
    let disabled = Err(ErrorCode::RECONFIG_DISABLED);
    assert_eq!(bench.write(OpCode::Reconfig, &request), disabled);
    let mut nothing = Vec::new();
    let requester = Bench::requester(SESSION);
    let prepared =
        bench
            .preparer
            .prepare(&bench.tree, requester, OpCode::Reconfig, &[], &mut nothing);
    assert_eq!((prepared, nothing.len()), (None, 0), "it makes no request");
}
