//! What the server takes away by itself (spec: server semantics, section 6).

use std::time::Duration;

use quorate_proto::{CreateMode, CreateTtlRequest, ErrorCode, EventType, OpCode};

use crate::client::{Client, Message, watched, znode};
use crate::server;

/// A server that looks for what to reap all the time.
macro_rules! reaper {
    () => {
        server(|config| {
            config.extended_types_enabled = true;
            config.container_check_interval = Duration::from_millis(20);
            config.container_max_per_minute = 60_000;
        })
    };
}

fn deleted(path: &str) -> Message {
    Message::Event(EventType::NodeDeleted, path.to_owned())
}

#[tokio::test]
async fn a_container_goes_with_its_last_child() {
    let (_server, address) = reaper!().await;
    let mut client = Client::connect(address).await;
    let container = znode("/c", b"", CreateMode::Container.number());
    let (err, _) = client.call(OpCode::CreateContainer, &container).await;
    assert_eq!(err, ErrorCode::OK);
    assert_eq!(client.create("/c/child", b"").await, ErrorCode::OK);
    assert_eq!(client.create("/kept", b"").await, ErrorCode::OK);
    client.call(OpCode::Exists, &watched("/c")).await;
    assert_eq!(client.delete("/c/child").await, ErrorCode::OK);
    assert_eq!(client.next().await, deleted("/c"));
    assert!(client.exists("/kept").await);
}

#[tokio::test]
async fn a_container_that_never_had_a_child_stays() {
    let (_server, address) = reaper!().await;
    let mut client = Client::connect(address).await;
    let container = znode("/unused", b"", CreateMode::Container.number());
    client.call(OpCode::CreateContainer, &container).await;
    // One that is reaped later tells that the search went past the first.
    let container = znode("/used", b"", CreateMode::Container.number());
    client.call(OpCode::CreateContainer, &container).await;
    client.create("/used/child", b"").await;
    client.call(OpCode::Exists, &watched("/used")).await;
    client.delete("/used/child").await;
    assert_eq!(client.next().await, deleted("/used"));
    assert!(client.exists("/unused").await);
}

#[tokio::test]
async fn a_znode_goes_after_its_time_to_live() {
    let (_server, address) = reaper!().await;
    let mut client = Client::connect(address).await;
    let plain = znode("/t", b"", CreateMode::PersistentWithTtl.number());
    let create = CreateTtlRequest {
        path: plain.path,
        data: plain.data,
        acl: plain.acl,
        flags: plain.flags,
        ttl: 50,
    };
    assert_eq!(
        client.call(OpCode::CreateTtl, &create).await.0,
        ErrorCode::OK
    );
    client
        .send(&crate::client::request(77, OpCode::Exists, &watched("/t")))
        .await;
    // It may be gone already.
    match client.next().await {
        Message::Reply(header, _) if header.err == ErrorCode::OK => {
            assert_eq!(client.next().await, deleted("/t"));
        }
        other => assert_eq!(other.outcome(), (77, ErrorCode::NO_NODE)),
    }
}
