//! Several services joined to an ensemble by a driver without a network, a disk or Zab: what one
//! proposes is committed at once, or when the test says so.

mod ending;
mod forwarding;
mod hub;
mod reconfig;
mod roles;
mod sessions;

#[path = "../../../tests/serving/client.rs"]
#[allow(dead_code, reason = "other tests need the rest of it")]
mod client;

use std::time::Duration;

use quorate_proto::{ErrorCode, OpCode, PathRecord, xid};
use tokio::time::{Instant, sleep, timeout};

use crate::tree::Tree;
use client::{Client, Message, Nothing, Session, data_of, request, unwatched, znode};
use hub::Ensemble;

/// How long anything may take that is to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long is waited for what is not to happen.
const MOMENT: Duration = Duration::from_millis(50);

/// Waits until `reached`.
async fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: never");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Nothing comes for a moment.
async fn silent(client: &mut Client) {
    let next = timeout(MOMENT, client.next()).await;
    assert!(next.is_err(), "{next:?} comes too early");
}

#[tokio::test]
async fn every_server_answers_writes_and_shows_them() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    for server in 0..3 {
        let mut client = Client::connect(ensemble.address(server)).await;
        let path = format!("/by{server}");
        assert_eq!(client.create(&path, b"x").await, ErrorCode::OK);
        assert!(client.exists(&path).await);
        let (err, _) = client.call(OpCode::Create, &znode(&path, b"", 0)).await;
        assert_eq!(err, ErrorCode::NODE_EXISTS);
        assert_eq!(client.set("/nowhere", b"").await, ErrorCode::NO_NODE);
        client
            .send(&request(77, OpCode::CloseSession, &Nothing))
            .await;
        assert_eq!(client.next().await.outcome(), (77, ErrorCode::OK));
        assert_eq!(client.next().await, Message::Closed);
    }
    ensemble.settle().await;
    let digests: Vec<_> = (0..3).map(|server| ensemble.digest(server)).collect();
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}

#[tokio::test]
async fn a_learner_answers_in_the_order_of_the_requests() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    let mut client = Client::connect(ensemble.address(1)).await;
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    let mut sent = Vec::new();
    for n in 0..300_i32 {
        let data = n.to_be_bytes();
        sent.extend(request(4 * n, OpCode::SetData, &data_of("/n", &data)));
        sent.extend(request(4 * n + 1, OpCode::GetData, &unwatched("/n")));
        sent.extend(request(4 * n + 2, OpCode::Sync, &PathRecord { path: "/" }));
        sent.extend(request(4 * n + 3, OpCode::Exists, &unwatched("/none")));
    }
    client.send(&sent).await;
    for n in 0..300_i32 {
        assert_eq!(client.next().await.outcome(), (4 * n, ErrorCode::OK));
        let Message::Reply(header, body) = client.next().await else {
            panic!("no reply");
        };
        assert_eq!(header.xid, 4 * n + 1);
        assert_eq!(body[4..8], n.to_be_bytes(), "a session reads what it wrote");
        assert_eq!(client.next().await.outcome(), (4 * n + 2, ErrorCode::OK));
        assert_eq!(
            client.next().await.outcome(),
            (4 * n + 3, ErrorCode::NO_NODE)
        );
    }
}

#[tokio::test]
async fn reads_wait_for_the_writes_of_their_own_session_only() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    for server in [0, 1] {
        let mut writer = Client::connect(ensemble.address(server)).await;
        let mut reader = Client::connect(ensemble.address(server)).await;
        let path = format!("/held{server}");
        ensemble.hold();
        let mut both = request(1, OpCode::Create, &znode(&path, b"", 0));
        both.extend(request(2, OpCode::Exists, &unwatched(&path)));
        writer.send(&both).await;
        silent(&mut writer).await;
        assert!(!reader.exists(&path).await);
        ensemble.release();
        assert_eq!(writer.next().await.outcome(), (1, ErrorCode::OK));
        assert_eq!(writer.next().await.outcome(), (2, ErrorCode::OK));
    }
}

#[tokio::test]
async fn a_sync_waits_for_what_was_proposed_before_it() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    let mut writer = Client::connect(ensemble.address(2)).await;
    let mut readers = Vec::new();
    for server in [0, 1] {
        readers.push(Client::connect(ensemble.address(server)).await);
    }
    ensemble.hold();
    writer
        .send(&request(1, OpCode::Create, &znode("/n", b"", 0)))
        .await;
    until("proposed", || ensemble.held() > 0).await;
    for reader in &mut readers {
        let mut both = request(1, OpCode::Sync, &PathRecord { path: "/" });
        both.extend(request(2, OpCode::Exists, &unwatched("/n")));
        reader.send(&both).await;
        silent(reader).await;
    }
    ensemble.release();
    for reader in &mut readers {
        assert_eq!(reader.next().await.outcome(), (1, ErrorCode::OK));
        assert_eq!(reader.next().await.outcome(), (2, ErrorCode::OK));
    }
}

#[tokio::test]
async fn a_learner_forwards_nothing_that_makes_no_sense() {
    let ensemble = Ensemble::start(2).await;
    ensemble.elect(0).await;
    let mut client = Client::connect(ensemble.address(1)).await;
    ensemble.settle().await;
    let before = ensemble.last_zxid(0);
    let path = PathRecord { path: "/n" };
    for op in [
        OpCode::Create,
        OpCode::SetData,
        OpCode::Multi,
        OpCode::Reconfig,
    ] {
        let (err, _) = client.call(op, &path).await;
        assert_eq!(err, ErrorCode::MARSHALLING_ERROR, "{op:?}");
    }
    let (err, _) = client.call(OpCode::Sync, &Nothing).await;
    assert_eq!(err, ErrorCode::MARSHALLING_ERROR);
    let (err, _) = client.call(OpCode::Create, &znode("/n", b"", 99)).await;
    assert_eq!(err, ErrorCode::BAD_ARGUMENTS);
    assert_eq!(ensemble.last_zxid(0), before, "no transaction was made");
    client.send(&request(9, OpCode::Check, &path)).await;
    assert_eq!(client.next().await.outcome(), (9, ErrorCode::UNIMPLEMENTED));
    assert_eq!(client.next().await, Message::Closed);
}
