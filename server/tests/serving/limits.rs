//! What clients may not do, or not too much of (spec: server semantics, section 5).

use std::time::Duration;

use quorate_proto::{
    CreateTtlRequest, ErrorCode, MultiOp, MultiRequest, OpCode, WatchRequest, WatchedRequest,
};
use tokio::time::timeout;

use crate::client::{Client, Message, Nothing, Session, data_of, request, unwatched, znode};
use crate::{PATIENCE, await_metric, metric, server};

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let (_server, address) = server(|config| config.max_client_cnxns = Some(2)).await;
    let first = Client::connect(address).await;
    let mut second = Client::connect(address).await;
    let mut third = Client::open(address).await;
    assert_eq!(third.next().await, Message::Closed);
    drop(first);
    second.sync().await;
    let mut again = Client::open(address).await;
    while again.handshake(&Session::new(5000)).await.is_none() {
        again = Client::open(address).await;
    }
}

#[tokio::test]
async fn a_connection_without_a_session_is_given_up() {
    let (_server, address) = server(|config| {
        config.sessionless_cnxn_timeout = Duration::from_millis(200);
    })
    .await;
    let mut silent = Client::open(address).await;
    let mut slow = Client::open(address).await;
    slow.send(&[0, 0, 0, 45, 0]).await;
    assert_eq!(silent.next().await, Message::Closed);
    assert_eq!(slow.next().await, Message::Closed);
}

#[tokio::test]
async fn a_full_server_still_answers_everybody() {
    let (_server, address) = server(|config| config.global_outstanding_limit = 1).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(address).await);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let path = format!("/n{n}");
        let create = request(1, OpCode::Create, &znode(&path, b"", 0));
        let set = request(2, OpCode::SetData, &data_of(&path, b"x")).repeat(50);
        client.send(&[create, set].concat()).await;
    }
    for client in &mut clients {
        assert_eq!(client.next().await.outcome(), (1, ErrorCode::OK));
        for _ in 0..50 {
            assert_eq!(client.next().await.outcome(), (2, ErrorCode::OK));
        }
    }
    await_metric(address, "zk_outstanding_requests", 0).await;
}

#[tokio::test]
async fn who_has_not_authenticated_is_refused() {
    let (_server, address) = server(|config| {
        config.enforce_auth_enabled = true;
        config.enforce_auth_schemes = vec!["digest".to_owned()];
    })
    .await;
    let mut stranger = Client::connect(address).await;
    stranger.send(&request(3, OpCode::Ping, &Nothing)).await;
    let refused = (3, ErrorCode::SESSION_CLOSED_REQUIRE_SASL_AUTH);
    assert_eq!(stranger.next().await.outcome(), refused);
    assert_eq!(stranger.next().await, Message::Closed);
    let mut known = Client::connect(address).await;
    assert_eq!(known.authenticate("digest", b"u:p").await, ErrorCode::OK);
    known.sync().await;
}

#[tokio::test]
async fn a_credential_that_proves_nothing_ends_the_connection() {
    let (_server, address) = server(|_| {}).await;
    for scheme in ["unheard", "sasl", "world", "super"] {
        let mut client = Client::connect(address).await;
        let err = client.authenticate(scheme, b"u:p").await;
        assert_eq!(err, ErrorCode::AUTH_FAILED, "{scheme}");
        assert_eq!(client.next().await, Message::Closed);
    }
}

#[tokio::test]
async fn identities_do_not_pile_up_without_end() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    let mut accepted = 0;
    loop {
        let credential = format!("{}{accepted}:p", "u".repeat(10_000));
        match client.authenticate("digest", credential.as_bytes()).await {
            ErrorCode::OK => accepted += 1,
            err => break assert_eq!(err, ErrorCode::AUTH_FAILED),
        }
        assert!(accepted < 1000, "ten megabytes of identities are kept");
    }
    assert_eq!(client.next().await, Message::Closed);
}

/// A client that watches and does not read is given up before its events fill the memory.
#[tokio::test]
async fn events_that_nobody_reads_do_not_pile_up() {
    // Nobody's session ends meanwhile.
    let (_server, address) = server(|config| config.tick_time = PATIENCE).await;
    let mut writer = Client::connect(address).await;
    let path = format!("/{}", "n".repeat(500_000));
    assert_eq!(writer.create(&path, b"").await, ErrorCode::OK);
    let mut deaf = Client::connect_for(address, i32::MAX).await;
    let everything = WatchRequest { path: "/", kind: 1 };
    assert_eq!(
        deaf.call(OpCode::AddWatch, &everything).await.0,
        ErrorCode::OK
    );
    let mut written = 0;
    // The writer, the deaf one, and the one that asks.
    while metric(address, "zk_num_alive_connections").await == 3 {
        assert!(written < 300, "150 megabytes are kept");
        assert_eq!(writer.set(&path, b"x").await, ErrorCode::OK);
        written += 1;
    }
}

#[tokio::test]
async fn many_reads_of_much_data_are_not_answered_at_once() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    let large = vec![7; 1_000_000];
    assert_eq!(client.create("/large", &large).await, ErrorCode::OK);
    let reads = |n: usize| MultiRequest {
        ops: vec![MultiOp::GetData(unwatched("/large")); n],
    };
    let (err, body) = client.call(OpCode::MultiRead, &reads(3)).await;
    assert_eq!(err, ErrorCode::OK);
    assert!(body.len() > 3 * large.len());
    let (err, _) = client.call(OpCode::MultiRead, &reads(2000)).await;
    assert_eq!(err, ErrorCode::MARSHALLING_ERROR);
    client.sync().await;
}

#[tokio::test]
async fn a_large_multi_is_one_transaction() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    let paths: Vec<String> = (0..10_000).map(|n| format!("/n/{n}")).collect();
    let mut ops: Vec<MultiOp<'_>> = paths
        .iter()
        .map(|path| MultiOp::Create(znode(path, b"", 0)))
        .collect();
    ops.push(MultiOp::SetData(data_of("/nowhere", b"")));
    let (err, _) = client
        .call(OpCode::Multi, &MultiRequest { ops: ops.clone() })
        .await;
    assert_eq!(err, ErrorCode::OK, "the failure is in the results");
    assert!(!client.exists("/n/0").await);
    ops.pop();
    client.call(OpCode::Multi, &MultiRequest { ops }).await;
    assert!(client.exists("/n/9999").await);
    assert_eq!(metric(address, "zk_digest_mismatches_count").await, 0);
}

#[tokio::test]
async fn numbers_at_their_ends_do_no_harm() {
    let (_server, address) = server(|config| {
        config.extended_types_enabled = true;
        config.enforce_quota = true;
    })
    .await;
    let mut client = Client::connect(address).await;
    for ttl in [i64::MIN, -1, 0, 1 << 40, i64::MAX] {
        let plain = znode("/ttl", b"", 5);
        let create = CreateTtlRequest {
            path: plain.path,
            data: plain.data,
            acl: plain.acl,
            flags: plain.flags,
            ttl,
        };
        let (err, _) = client.call(OpCode::CreateTtl, &create).await;
        assert_eq!(err, ErrorCode::BAD_ARGUMENTS, "{ttl}");
    }
    for path in ["/q", "/zookeeper/quota/q"] {
        assert_eq!(client.create(path, b"").await, ErrorCode::OK);
    }
    let limits = "/zookeeper/quota/q/zookeeper_limits";
    let usage = "/zookeeper/quota/q/zookeeper_stats";
    let extremes = format!("count={0},bytes={0}=;countHardLimit={0}", i64::MAX);
    assert_eq!(
        client.create(limits, extremes.as_bytes()).await,
        ErrorCode::OK
    );
    assert_eq!(client.create(usage, b"").await, ErrorCode::OK);
    for extreme in [i64::MAX, i64::MIN] {
        let forged = format!("count={extreme},bytes={extreme}");
        assert_eq!(client.set(usage, forged.as_bytes()).await, ErrorCode::OK);
        client.create("/q/child", b"data").await;
        client.delete("/q/child").await;
    }
    client.sync().await;
}

#[tokio::test]
async fn quotas_are_enforced_and_freed() {
    let (_server, address) = server(|config| config.enforce_quota = true).await;
    let mut client = Client::connect(address).await;
    for path in ["/q", "/zookeeper/quota/q"] {
        assert_eq!(client.create(path, b"").await, ErrorCode::OK);
    }
    let limits = b"count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=2";
    let limits_path = "/zookeeper/quota/q/zookeeper_limits";
    assert_eq!(client.create(limits_path, limits).await, ErrorCode::OK);
    let usage_path = "/zookeeper/quota/q/zookeeper_stats";
    assert_eq!(client.create(usage_path, b"").await, ErrorCode::OK);
    assert_eq!(client.create("/q/a", b"12345").await, ErrorCode::OK);
    assert_eq!(client.create("/q/b", b"").await, ErrorCode::QUOTA_EXCEEDED);
    let long = b"12345678901";
    assert_eq!(client.set("/q/a", long).await, ErrorCode::QUOTA_EXCEEDED);
    assert_eq!(client.delete("/q/a").await, ErrorCode::OK);
    assert_eq!(client.create("/q/b", b"").await, ErrorCode::OK);
}

/// A frame that comes in many pieces is put together, while others are served.
#[tokio::test]
async fn a_large_frame_may_come_byte_by_byte() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    let bytes = request(1, OpCode::Create, &znode("/n", &[7; 5000], 0));
    for byte in bytes {
        client.send(&[byte]).await;
    }
    assert_eq!(client.next().await.outcome(), (1, ErrorCode::OK));
}

#[tokio::test]
async fn a_hundred_thousand_reads_at_once_are_answered() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    let get = WatchedRequest {
        path: "/zookeeper",
        watch: true,
    };
    let reads = request(1, OpCode::GetData, &get).repeat(100_000);
    let answers = async {
        for _ in 0..10 {
            client.send(&reads[..reads.len() / 10]).await;
            for _ in 0..10_000 {
                assert_eq!(client.next().await.outcome(), (1, ErrorCode::OK));
            }
        }
    };
    timeout(PATIENCE * 3, answers).await.unwrap();
}
