//! How a server ends, and what it finds when it starts again.

use std::time::Duration;

use quorate_proto::{CreateMode, ErrorCode, OpCode};
use quorate_server::Server;
use quorate_server::config::Config;
use tokio::time::timeout;

use crate::client::{Client, Message, data_of, request, znode};
use crate::server;

/// Long enough for an orderly end, and less than anything that a server waits for.
const SOON: Duration = Duration::from_secs(4);

#[tokio::test]
async fn what_was_asked_is_answered_before_the_end() {
    let (server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    client
        .send(&request(1, OpCode::SetData, &data_of("/n", b"x")).repeat(200))
        .await;
    assert_eq!(client.next().await.outcome(), (1, ErrorCode::OK));
    timeout(SOON, server.shutdown()).await.unwrap().unwrap();
    let mut answers = 1;
    loop {
        match client.next().await {
            Message::Closed => break,
            message => assert_eq!(message.outcome(), (1, ErrorCode::OK)),
        }
        answers += 1;
    }
    assert!(answers <= 200);
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_hold_up_the_end() {
    let (server, address) = server(|_| {}).await;
    let mut silent = Client::open(address).await;
    let mut half = Client::open(address).await;
    half.send(&[0, 0, 0, 45, 0]).await;
    let mut idle = Client::connect(address).await;
    timeout(SOON, server.shutdown()).await.unwrap().unwrap();
    for client in [&mut silent, &mut half, &mut idle] {
        assert_eq!(client.next().await, Message::Closed);
    }
}

#[tokio::test]
async fn connections_that_keep_coming_do_not_hold_up_the_end() {
    let (server, address) = server(|config| config.max_client_cnxns = None).await;
    let flood = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(stream) = tokio::net::TcpStream::connect(address).await {
            open.push(stream);
        }
    });
    let mut client = Client::connect(address).await;
    client.sync().await;
    timeout(SOON, server.shutdown()).await.unwrap().unwrap();
    flood.await.unwrap();
}

#[tokio::test]
async fn sessions_outlive_a_restart_until_they_expire() {
    let mut config = Config::temporary().unwrap();
    config.tick_time = Duration::from_millis(200);
    let start = || Server::start(config.clone());
    let first = start().await.unwrap();
    let address = first.client_addr().unwrap();
    let mut kept = Client::connect(address).await;
    let mut lost = Client::connect_for(address, 0).await;
    for (client, path) in [(&mut kept, "/kept"), (&mut lost, "/lost")] {
        let create = znode(path, b"", CreateMode::Ephemeral.number());
        assert_eq!(client.call(OpCode::Create, &create).await.0, ErrorCode::OK);
    }
    first.shutdown().await.unwrap();

    let second = start().await.unwrap();
    let address = second.client_addr().unwrap();
    let mut kept = Client::resume(address, &kept.session).await;
    assert!(kept.session.timeout > 0);
    kept.call(OpCode::Exists, &crate::client::watched("/lost"))
        .await;
    assert!(matches!(kept.next().await, Message::Event(_, path) if path == "/lost"));
    assert!(kept.exists("/kept").await);
}

#[tokio::test]
async fn a_long_replay_is_followed_by_a_snapshot() {
    let mut config = Config::temporary().unwrap();
    config.snap_count = 1_000_000;
    let server = Server::start(config.clone()).await.unwrap();
    let mut client = Client::connect(server.client_addr().unwrap()).await;
    for i in 0..20 {
        assert_eq!(client.create(&format!("/{i}"), b"").await, ErrorCode::OK);
    }
    server.shutdown().await.unwrap();

    config.snap_count = 10;
    let server = Server::start(config.clone()).await.unwrap();
    let mut client = Client::connect(server.client_addr().unwrap()).await;
    assert_eq!(client.create("/one", b"").await, ErrorCode::OK);
    let newer = || {
        let files = std::fs::read_dir(config.snapshot_dir()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("snapshot.")).count() > 1
    };
    timeout(Duration::from_secs(20), async {
        while !newer() {
            client.sync().await;
        }
    })
    .await
    .expect("a snapshot beside the first one");
    server.shutdown().await.unwrap();
}
