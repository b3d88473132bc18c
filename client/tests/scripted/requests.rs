//! What each operation sends, and what it makes of the reply.

use std::time::Duration;

use quorate_client::{
    Acl, Client, CreateMode, CreateOptions, Data, Error, Identity, Outcome, Perms, ReadResult,
    RetryPolicy, TransactionResult,
};
use quorate_proto::{
    ClientInfo, Create2Response, CreateRequest, CreateResponse, CreateTtlRequest, ErrorCode,
    GetAclResponse, GetAllChildrenNumberResponse, GetChildren2Response, GetChildrenResponse,
    GetDataResponse, GetEphemeralsResponse, MultiOp, MultiRequest, MultiResponse, MultiResult,
    OpCode, PathRecord, SetAclRequest, SetDataRequest, Stat, StatResponse, VersionRequest,
    WatchedRequest, WhoAmIResponse,
};

use crate::server::{Nothing, Peer, Server, connect, connect_with, state, within};

const LONG: Duration = Duration::from_secs(60);
const STAT: Stat = Stat {
    czxid: 1,
    mzxid: 2,
    ctime: 3,
    mtime: 4,
    version: 5,
    cversion: 6,
    aversion: 7,
    ephemeral_owner: 8,
    data_length: 9,
    num_children: 10,
    pzxid: 11,
};

/// A client whose tree is `/app`, so that every test also tests the chroot.
async fn in_chroot(server: &Server) -> (Client, Peer) {
    connect_with(Client::builder(), server, "/app", LONG).await
}

#[tokio::test]
async fn create_in_every_mode() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let acl = [Acl::new(Perms::READ, "auth", "")];
    let minute = Duration::from_secs(60);
    let options = |mode| CreateOptions::new(mode);
    let cases = [
        (OpCode::Create2, 0, options(CreateMode::Persistent)),
        (OpCode::Create2, 1, options(CreateMode::Ephemeral)),
        (
            OpCode::Create2,
            2,
            options(CreateMode::PersistentSequential),
        ),
        (OpCode::Create2, 3, options(CreateMode::EphemeralSequential)),
        (OpCode::CreateContainer, 4, options(CreateMode::Container)),
        (
            OpCode::CreateTtl,
            5,
            options(CreateMode::Persistent).ttl(minute),
        ),
        (
            OpCode::CreateTtl,
            5,
            options(CreateMode::PersistentWithTtl).ttl(minute),
        ),
        (
            OpCode::CreateTtl,
            6,
            options(CreateMode::PersistentSequential).ttl(minute),
        ),
    ];
    for (op, flags, options) in cases {
        let reply = client.create("/a", "data", options.acl(&acl));
        let request = peer.expect(op).await;
        let created: CreateRequest<'_> = request.decode();
        assert_eq!((created.path, created.flags), ("/app/a", flags));
        assert_eq!(created.data, Some(&b"data"[..]));
        assert_eq!(created.acl.as_deref(), Some(&acl[..]));
        if op == OpCode::CreateTtl {
            assert_eq!(request.decode::<CreateTtlRequest<'_>>().ttl, 60_000);
        }
        let path = "/app/a0000000001";
        peer.ok(&request, &Create2Response { path, stat: STAT })
            .await;
        let created = within("the reply", reply).await.unwrap();
        assert_eq!(
            (created.path.as_str(), created.stat),
            ("/a0000000001", STAT)
        );
    }
}

#[tokio::test]
async fn null_and_empty_data_stay_apart() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    for data in [None, Some(&b""[..]), Some(&b"x"[..])] {
        let set = client.set_data("/a", data, 3);
        let request = peer.expect(OpCode::SetData).await;
        let sent: SetDataRequest<'_> = request.decode();
        assert_eq!((sent.path, sent.data, sent.version), ("/a", data, 3));
        peer.ok(&request, &StatResponse { stat: STAT }).await;
        assert_eq!(within("set", set).await.unwrap(), STAT);

        let (exact, plain) = (client.get_data_or_null("/a"), client.get_data("/a"));
        for _ in 0..2 {
            let request = peer.expect(OpCode::GetData).await;
            peer.ok(&request, &GetDataResponse { data, stat: STAT })
                .await;
        }
        assert_eq!(within("get", exact).await.unwrap().0.as_deref(), data);
        let plain = within("get", plain).await.unwrap().0;
        assert_eq!(&plain[..], data.unwrap_or_default());
    }
    let null = client.create("/a", Data::NULL, CreateMode::Persistent);
    let request = peer.expect(OpCode::Create2).await;
    assert_eq!(request.decode::<CreateRequest<'_>>().data, None);
    drop(null);
}

#[tokio::test]
async fn the_other_operations() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;

    let reply = client.delete("/a", None);
    let request = peer.expect(OpCode::Delete).await;
    let sent: VersionRequest<'_> = request.decode();
    assert_eq!((sent.path, sent.version), ("/app/a", -1));
    peer.ok(&request, &Nothing).await;
    within("delete", reply).await.unwrap();

    let reply = client.delete("/", 0);
    let request = peer.expect(OpCode::Delete).await;
    assert_eq!(request.path(), "/", "a chroot cannot delete its own root");
    peer.refuse(&request, ErrorCode::BAD_ARGUMENTS).await;
    let error = within("delete", reply).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BAD_ARGUMENTS));

    let reply = client.exists("/");
    let request = peer.expect(OpCode::Exists).await;
    let sent: WatchedRequest<'_> = request.decode();
    assert_eq!((sent.path, sent.watch), ("/app", false));
    peer.ok(&request, &StatResponse { stat: STAT }).await;
    assert_eq!(within("exists", reply).await.unwrap(), Some(STAT));

    let acl = vec![Acl::world(Perms::ALL)];
    let reply = client.get_acl("/a");
    let request = peer.expect(OpCode::GetAcl).await;
    let body = GetAclResponse {
        acl: acl.clone(),
        stat: STAT,
    };
    peer.ok(&request, &body).await;
    assert_eq!(within("getACL", reply).await.unwrap(), (acl.clone(), STAT));

    let reply = client.set_acl("/a", &acl, 7);
    let request = peer.expect(OpCode::SetAcl).await;
    let sent: SetAclRequest<'_> = request.decode();
    assert_eq!(
        (sent.path, sent.acl, sent.version),
        ("/app/a", Some(acl), 7)
    );
    peer.ok(&request, &StatResponse { stat: STAT }).await;
    assert_eq!(within("setACL", reply).await.unwrap(), STAT);

    let children = vec!["x", "y"];
    let reply = client.get_children("/a");
    let request = peer.expect(OpCode::GetChildren).await;
    let body = GetChildrenResponse {
        children: children.clone(),
    };
    peer.ok(&request, &body).await;
    assert_eq!(within("getChildren", reply).await.unwrap(), children);

    let reply = client.get_children_and_stat("/a");
    let request = peer.expect(OpCode::GetChildren2).await;
    let body = GetChildren2Response {
        children: children.clone(),
        stat: STAT,
    };
    peer.ok(&request, &body).await;
    let (names, stat) = within("getChildren2", reply).await.unwrap();
    assert_eq!((names, stat), (vec!["x".into(), "y".into()], STAT));

    let reply = client.get_all_children_number("/a");
    let request = peer.expect(OpCode::GetAllChildrenNumber).await;
    assert_eq!(request.path(), "/app/a");
    peer.ok(&request, &GetAllChildrenNumberResponse { total: 4 })
        .await;
    assert_eq!(within("the number", reply).await.unwrap(), 4);

    let reply = client.get_ephemerals("/");
    let request = peer.expect(OpCode::GetEphemerals).await;
    assert_eq!(request.path(), "/app");
    let body = GetEphemeralsResponse {
        paths: vec!["/app", "/app/a/b", "/apple"],
    };
    peer.ok(&request, &body).await;
    assert_eq!(within("ephemerals", reply).await.unwrap(), ["/", "/a/b"]);

    let reply = client.sync("/a");
    let request = peer.expect(OpCode::Sync).await;
    peer.ok(&request, &PathRecord { path: "/app/a" }).await;
    within("sync", reply).await.unwrap();

    let reply = client.who_am_i();
    let request = peer.expect(OpCode::WhoAmI).await;
    assert!(request.body.is_empty());
    let (scheme, user) = ("ip", "127.0.0.1");
    let infos = vec![ClientInfo { scheme, user }];
    peer.ok(&request, &WhoAmIResponse { infos }).await;
    let identity = Identity {
        scheme: scheme.into(),
        user: user.into(),
    };
    assert_eq!(within("whoAmI", reply).await.unwrap(), [identity]);

    let reply = client.get_config();
    let request = peer.expect(OpCode::GetData).await;
    assert_eq!(request.path(), "/zookeeper/config");
    let data = Some(&b"server.1=h:2888:3888:participant;2181\nversion=1f"[..]);
    peer.ok(&request, &GetDataResponse { data, stat: STAT })
        .await;
    let config = within("getConfig", reply).await.unwrap();
    assert_eq!(config.version, 0x1f);
    assert_eq!(config.connect_string().as_deref(), Some("h:2181"));
}

#[tokio::test]
async fn every_error_names_its_path_as_the_user_knows_it() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    for code in ErrorCode::ALL.iter().skip(1) {
        let reply = client.set_data("/a", "", None);
        let request = peer.expect(OpCode::SetData).await;
        peer.refuse(&request, *code).await;
        let error = within("the error", reply).await.unwrap_err();
        assert_eq!(error.code(), Some(*code));
        if !error.is_session_over() {
            assert!(error.to_string().contains("\"/a\""), "{error}");
        }
    }
}

#[tokio::test]
async fn what_cannot_succeed_is_not_sent() {
    let server = Server::start().await;
    let builder = Client::builder().max_frame(1000);
    let (client, mut peer) = connect_with(builder, &server, "", LONG).await;
    let ttl = Duration::from_secs(1);
    let refused = [
        client
            .create("a", "", CreateMode::Persistent)
            .await
            .unwrap_err(),
        client
            .create("/a/", "", CreateMode::Persistent)
            .await
            .unwrap_err(),
        client
            .create("/a", "", CreateMode::PersistentWithTtl)
            .await
            .unwrap_err(),
        client
            .create("/a", "", CreateOptions::new(CreateMode::Ephemeral).ttl(ttl))
            .await
            .unwrap_err(),
        client.get_data("/a//b").await.unwrap_err(),
        client.exists_watched("").await.unwrap_err(),
        client.watch("/..").await.unwrap_err(),
        client.get_ephemerals("a").await.unwrap_err(),
        client.set_data("/a", &[0; 1000], None).await.unwrap_err(),
        client
            .transaction()
            .delete("x", None)
            .commit()
            .await
            .unwrap_err(),
        client.multi_read().get_data("x").send().await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.outcome(), Outcome::DidNotHappen, "{error}");
        assert!(!error.is_transient(), "{error}");
    }
    // The counter can make up the whole name.
    let reply = client.create("/a/", "", CreateMode::PersistentSequential);
    assert_eq!(peer.expect(OpCode::Create2).await.path(), "/a/");
    drop(reply);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_until_there_is_room() {
    let server = Server::start().await;
    let builder = Client::builder().max_queued(2);
    let (client, mut peer) = connect_with(builder, &server, "", LONG).await;
    let exists = |n: usize| (0..n).map(|_| client.exists("/a")).collect::<Vec<_>>();
    // Two are under way, which is the limit; two more may wait.
    let sent = exists(2);
    let (first, _second) = (peer.request().await, peer.request().await);
    let waiting = exists(2);
    let error = client.exists("/a").await.unwrap_err();
    assert!(matches!(error, Error::QueueFull { limit: 2, .. }));
    assert!(error.is_transient());
    assert_eq!(error.outcome(), Outcome::DidNotHappen);

    peer.refuse(&first, ErrorCode::NO_NODE).await;
    peer.expect(OpCode::Exists).await;
    let another = client.exists("/a");
    drop((sent, waiting, another));
}

#[tokio::test]
async fn a_transaction_is_done_whole() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let commit = client
        .transaction()
        .check("/c", 4)
        .create("/n-", "1", CreateMode::EphemeralSequential)
        .create("/k", "", CreateMode::Container)
        .set_data("/s", "2", None)
        .delete("/d", 0)
        .commit();
    let request = peer.expect(OpCode::Multi).await;
    let sent: MultiRequest<'_> = request.decode();
    let paths: Vec<_> = sent.ops.iter().map(op_and_path).collect();
    assert_eq!(
        paths,
        [
            (OpCode::Check, "/app/c"),
            (OpCode::Create2, "/app/n-"),
            (OpCode::CreateContainer, "/app/k"),
            (OpCode::SetData, "/app/s"),
            (OpCode::Delete, "/app/d"),
        ]
    );
    let body = MultiResponse {
        results: vec![
            MultiResult::Check,
            // So do servers before 3.9.
            MultiResult::Create(CreateResponse { path: "/app/n-1" }),
            MultiResult::Create2(Create2Response {
                path: "/app/k",
                stat: STAT,
            }),
            MultiResult::SetData(StatResponse { stat: STAT }),
            MultiResult::Delete,
        ],
    };
    peer.ok(&request, &body).await;
    let created = |path: &str, stat| TransactionResult::Created {
        path: path.into(),
        stat,
    };
    assert_eq!(
        within("the results", commit).await.unwrap(),
        [
            TransactionResult::Checked,
            created("/n-1", None),
            created("/k", Some(STAT)),
            TransactionResult::DataSet(STAT),
            TransactionResult::Deleted,
        ]
    );
}

fn op_and_path<'a>(op: &MultiOp<'a>) -> (OpCode, &'a str) {
    let path = match op {
        MultiOp::Create(r) | MultiOp::Create2(r) | MultiOp::CreateContainer(r) => r.path,
        MultiOp::CreateTtl(r) => r.path,
        MultiOp::Delete(r) | MultiOp::Check(r) => r.path,
        MultiOp::SetData(r) => r.path,
        MultiOp::GetData(r) | MultiOp::GetChildren(r) => r.path,
    };
    (op.op(), path)
}

#[tokio::test]
async fn a_failed_transaction_says_which_operation_failed() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let commit = client
        .transaction()
        .delete("/a", None)
        .check("/b", 1)
        .delete("/c", None)
        .commit();
    let request = peer.expect(OpCode::Multi).await;
    let results = [
        ErrorCode::OK,
        ErrorCode::BAD_VERSION,
        ErrorCode::RUNTIME_INCONSISTENCY,
    ];
    let results = results.into_iter().map(MultiResult::Error).collect();
    peer.ok(&request, &MultiResponse { results }).await;
    let error = within("the error", commit).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::DidNotHappen);
    assert_eq!(error.code(), Some(ErrorCode::BAD_VERSION));
    let Error::Transaction { index: 1, source } = error else {
        panic!("{error}");
    };
    assert!(matches!(*source, Error::BadVersion { path } if path == "/b"));
}

#[tokio::test]
async fn a_transaction_whose_reply_is_lost_is_unknown() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let commit = client.transaction().delete("/a", None).commit();
    peer.expect(OpCode::Multi).await;
    drop(peer);
    let error = within("the error", commit).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn reads_that_travel_together_fail_one_by_one() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let reading = client
        .multi_read()
        .get_data("/a")
        .get_children("/b")
        .get_data("/c")
        .send();
    let request = peer.expect(OpCode::MultiRead).await;
    let sent: MultiRequest<'_> = request.decode();
    let paths: Vec<_> = sent.ops.iter().map(|op| op_and_path(op).1).collect();
    assert_eq!(paths, ["/app/a", "/app/b", "/app/c"]);
    let body = MultiResponse {
        results: vec![
            MultiResult::GetData(GetDataResponse {
                data: None,
                stat: STAT,
            }),
            MultiResult::GetChildren(GetChildrenResponse {
                children: vec!["x"],
            }),
            MultiResult::Error(ErrorCode::NO_NODE),
        ],
    };
    peer.ok(&request, &body).await;
    let results = within("the results", reading).await.unwrap();
    let data = ReadResult::Data {
        data: None,
        stat: STAT,
    };
    assert_eq!(*results[0].as_ref().unwrap(), data);
    let children = ReadResult::Children(vec!["x".into()]);
    assert_eq!(*results[1].as_ref().unwrap(), children);
    assert!(matches!(&results[2], Err(Error::NoNode { path }) if path == "/c"));
}

#[tokio::test]
async fn a_reply_that_cannot_be_decoded_is_an_error_of_its_own() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let write = client.set_data("/a", "", None);
    let after = client.exists("/a");
    let request = peer.expect(OpCode::SetData).await;
    peer.ok(&request, &Nothing).await;
    let error = within("the error", write).await.unwrap_err();
    assert!(matches!(error, Error::InvalidReply { .. }));
    assert_eq!(error.outcome(), Outcome::Happened);
    let request = peer.expect(OpCode::Exists).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    assert_eq!(within("the next", after).await.unwrap(), None);
}

#[tokio::test]
async fn order_is_that_of_the_calls_and_dropping_a_reply_changes_nothing() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let first = client.set_data("/1", "", None);
    let second = client.set_data("/2", "", None);
    drop(client.set_data("/3", "", None));
    let commit = client.transaction().delete("/4", None).commit();
    let sync = client.clone().sync("/5");
    // Awaited in another order than called.
    let awaiting = async { tokio::join!(sync, commit, second, first) };
    let serving = async {
        let mut paths = Vec::new();
        for _ in 0..5 {
            let request = peer.request().await;
            if request.op == OpCode::Multi {
                let results = vec![MultiResult::Delete];
                peer.ok(&request, &MultiResponse { results }).await;
                paths.push("/4".into());
            } else {
                peer.ok(&request, &StatResponse { stat: STAT }).await;
                paths.push(request.path().to_owned());
            }
        }
        paths
    };
    let (replies, paths) = tokio::join!(awaiting, serving);
    assert_eq!(paths, ["/1", "/2", "/3", "/4", "/5"]);
    assert!(replies.0.is_ok() && replies.1.is_ok());
    assert!(replies.2.is_ok() && replies.3.is_ok());
}

#[tokio::test]
async fn retry_repeats_reads_and_leaves_writes_that_may_have_happened() {
    let server = Server::start().await;
    let policy = RetryPolicy::default().first_pause(Duration::from_millis(1));
    let builder = Client::builder().retry_policy(policy);
    let (client, mut peer) = connect_with(builder, &server, "", LONG).await;

    let reading = client.retry(|| client.exists("/a"));
    let serving = async {
        peer.expect(OpCode::Exists).await;
        drop(peer);
        let mut peer = server.serve(LONG).await;
        let request = peer.expect(OpCode::Exists).await;
        peer.refuse(&request, ErrorCode::NO_NODE).await;
        peer
    };
    let (found, mut peer) = tokio::join!(reading, serving);
    assert_eq!(found.unwrap(), None);

    let writing = client.retry(|| client.set_data("/a", "", None));
    let serving = async {
        peer.expect(OpCode::SetData).await;
        drop(peer);
        server.serve(LONG).await
    };
    let (written, mut peer) = tokio::join!(writing, serving);
    assert_eq!(written.unwrap_err().outcome(), Outcome::Unknown);
    state(&client, quorate_client::State::Connected).await;

    let writing = client.retry_idempotent(|| client.set_data("/a", "", None));
    let serving = async {
        peer.expect(OpCode::SetData).await;
        drop(peer);
        let mut peer = server.serve(LONG).await;
        let request = peer.expect(OpCode::SetData).await;
        peer.ok(&request, &StatResponse { stat: STAT }).await;
        peer
    };
    let (written, _peer) = tokio::join!(writing, serving);
    assert_eq!(written.unwrap(), STAT);
}
