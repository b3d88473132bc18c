//! Sessions: opened, resumed, closed and expired (spec: client protocol, section 2; server
//! semantics, section 2).

use quorate_proto::{CreateMode, ErrorCode, EventType, OpCode};

use crate::client::{Client, Message, Nothing, Session, request, watched, znode};
use crate::{await_metric, server};

async fn create_ephemeral(client: &mut Client, path: &str) {
    let request = znode(path, b"", CreateMode::Ephemeral.number());
    assert_eq!(client.call(OpCode::Create, &request).await.0, ErrorCode::OK);
}

#[tokio::test]
async fn timeouts_are_kept_within_2_and_20_ticks() {
    let (_server, address) = server(|_| {}).await;
    for (asked, granted) in [
        (i32::MIN, 1000),
        (0, 1000),
        (4321, 4321),
        (i32::MAX, 10_000),
    ] {
        let client = Client::connect_for(address, asked).await;
        assert_eq!(client.session.timeout, granted);
    }
}

#[tokio::test]
async fn a_session_moves_to_the_connection_that_resumes_it() {
    let (_server, address) = server(|_| {}).await;
    let mut old = Client::connect(address).await;
    create_ephemeral(&mut old, "/mine").await;
    let mut asked = old.session.clone();
    asked.timeout = 5000;
    let mut new = Client::resume(address, &asked).await;
    assert_eq!(new.session, asked, "with the timeout that it asks for now");
    assert_eq!(old.next().await, Message::Closed);
    assert!(new.exists("/mine").await);
}

#[tokio::test]
async fn a_wrong_password_gets_no_session_but_closes_the_connection_that_has_it() {
    let (_server, address) = server(|_| {}).await;
    let mut holder = Client::connect(address).await;
    create_ephemeral(&mut holder, "/mine").await;
    let mut forged = holder.session.clone();
    forged.password = vec![7; 16];
    let mut thief = Client::resume(address, &forged).await;
    let refused = Session::new(0);
    assert_eq!(thief.session, refused);
    assert_eq!(thief.next().await, Message::Closed);
    assert_eq!(holder.next().await, Message::Closed);
    let mut back = Client::resume(address, &holder.session).await;
    assert!(back.exists("/mine").await, "the session lives on");
}

#[tokio::test]
async fn a_session_that_nobody_has_is_not_resumed() {
    let (_server, address) = server(|_| {}).await;
    for id in [1, -1, i64::MAX, i64::MIN] {
        let session = Session {
            id,
            ..Session::new(5000)
        };
        let mut client = Client::resume(address, &session).await;
        assert_eq!(client.session, Session::new(0));
        assert_eq!(client.next().await, Message::Closed);
    }
}

#[tokio::test]
async fn a_client_from_the_future_is_sent_away() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::open(address).await;
    client.last_zxid_seen = i64::MAX;
    assert_eq!(client.handshake(&Session::new(5000)).await, None);
}

#[tokio::test]
async fn closing_a_session_takes_its_ephemerals_along() {
    let (_server, address) = server(|_| {}).await;
    let mut witness = Client::connect(address).await;
    let mut client = Client::connect(address).await;
    create_ephemeral(&mut client, "/mine").await;
    witness.call(OpCode::Exists, &watched("/mine")).await;
    client
        .send(&request(9, OpCode::CloseSession, &Nothing))
        .await;
    assert_eq!(client.next().await.outcome(), (9, ErrorCode::OK));
    assert_eq!(client.next().await, Message::Closed);
    let deleted = Message::Event(EventType::NodeDeleted, "/mine".to_owned());
    assert_eq!(witness.next().await, deleted);
    let late = Client::resume(address, &client.session).await;
    assert_eq!(late.session, Session::new(0), "it cannot be resumed");
}

#[tokio::test]
async fn a_silent_session_expires_and_is_closed_without_a_word() {
    let (_server, address) = server(|_| {}).await;
    let mut witness = Client::connect(address).await;
    let mut silent = Client::connect_for(address, 0).await;
    create_ephemeral(&mut silent, "/mine").await;
    witness.call(OpCode::Exists, &watched("/mine")).await;
    assert_eq!(silent.next().await, Message::Closed);
    let deleted = Message::Event(EventType::NodeDeleted, "/mine".to_owned());
    assert_eq!(witness.next().await, deleted);
}

/// What the server does by itself was nobody's request, and is not counted as one that is answered.
#[tokio::test]
async fn expired_sessions_leave_no_trace_in_the_numbers() {
    let (_server, address) = server(|_| {}).await;
    for _ in 0..20 {
        Client::connect_for(address, 0).await.reset();
    }
    await_metric(address, "zk_global_sessions", 0).await;
    await_metric(address, "zk_outstanding_requests", 0).await;
}
