//! Sessions, ephemeral znodes and watches over lost connections and restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use quorate_client::{Client, CreateMode, Error, EventKind, State};
use quorate_server::Server;

use crate::proxy::Proxy;
use crate::{address, start_server, state, within};

#[tokio::test]
async fn a_session_outlives_its_connection_and_not_its_timeout() {
    let server = start_server().await;
    let proxy = Proxy::start(address(&server)).await;
    let builder = Client::builder().session_timeout(Duration::from_millis(1000));
    let client = builder.connect(&proxy.address()).await.unwrap();
    let id = client.session().unwrap().id();
    let direct = Client::connect(&address(&server)).await.unwrap();
    client
        .create("/mine", "", CreateMode::Ephemeral)
        .await
        .unwrap();
    proxy.cut();
    state(&client, State::Disconnected).await;
    state(&client, State::Connected).await;
    let owner = direct.exists("/mine").await.unwrap().unwrap();
    assert_eq!(owner.ephemeral_owner, id.0);

    let (_, _, gone) = direct.get_data_watched("/mine").await.unwrap();
    let (_, _, mut fires) = client.get_data_watched("/mine").await.unwrap();
    proxy.freeze(true);
    let deadline = client.session_deadline().unwrap();
    let event = within("the expiry", gone).await.unwrap();
    assert_eq!(event.kind, EventKind::Deleted);
    // The holder could tell from its own clock that it might have lost what it held.
    assert!(tokio::time::Instant::now() >= deadline);
    assert_eq!(client.session_deadline(), Some(deadline));
    proxy.freeze(false);
    state(&client, State::Expired).await;
    let end = within("the watch's end", &mut fires).await;
    assert!(matches!(end, Err(Error::SessionExpired { session }) if session == id));
}

#[tokio::test]
async fn a_restart_of_the_server_keeps_sessions_and_catches_watches_up() {
    let dir = tempfile::tempdir().unwrap();
    let start = |port| {
        Server::builder()
            .data_dir(dir.path())
            .client_port(port)
            .tick_time(Duration::from_millis(500))
            .start()
    };
    let server = start(0).await.unwrap();
    let port = server.client_addr().unwrap().port();
    let client = Client::connect(&address(&server)).await.unwrap();
    for path in ["/changed", "/deleted", "/parent"] {
        client
            .create(path, "", CreateMode::Persistent)
            .await
            .unwrap();
    }
    client
        .create("/mine", "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let (_, _, changed) = client.get_data_watched("/changed").await.unwrap();
    let (_, _, deleted) = client.get_data_watched("/deleted").await.unwrap();
    let (_, _, parent) = client.get_children_watched("/parent").await.unwrap();
    let (_, created) = client.exists_watched("/created").await.unwrap();
    let mut stream = client.watch_recursive("/").await.unwrap();
    server.shutdown().await.unwrap();
    state(&client, State::Disconnected).await;

    // Somebody else comes first after the restart, over a port that the client does not know.
    let server = start(0).await.unwrap();
    let other = Client::connect(&address(&server)).await.unwrap();
    other.set_data("/changed", "x", None).await.unwrap();
    other.delete("/deleted", None).await.unwrap();
    for path in ["/parent/x", "/created"] {
        other
            .create(path, "", CreateMode::Persistent)
            .await
            .unwrap();
    }
    other.close().await.unwrap();
    server.shutdown().await.unwrap();

    let _server = start(port).await.unwrap();
    state(&client, State::Connected).await;
    for (watch, kind) in [
        (changed, EventKind::DataChanged),
        (deleted, EventKind::Deleted),
        (parent, EventKind::ChildrenChanged),
        (created, EventKind::Created),
    ] {
        assert_eq!(within("the event", watch).await.unwrap().kind, kind);
    }
    let missed = within("the marker", stream.next()).await.unwrap().unwrap();
    assert_eq!(missed.kind, EventKind::Missed);
    assert!(client.exists("/mine").await.unwrap().is_some());
    let session = client.session().unwrap();
    let ephemerals = client.get_ephemerals("/").await.unwrap();
    assert_eq!(ephemerals, ["/mine"]);
    assert!(session.last_zxid() > 0);
}

/// A copy of a subtree, kept from events, and read anew when events may have been missed.
async fn mirror(client: &Client, root: &str, until: impl Fn(&BTreeMap<String, Vec<u8>>) -> bool) {
    let mut watch = client
        .retry_idempotent(|| client.watch_recursive(root))
        .await
        .unwrap();
    let mut copy = read_all(client, root).await;
    while !until(&copy) {
        let event = watch.next().await.unwrap().unwrap();
        match event.kind {
            EventKind::Missed => copy = read_all(client, root).await,
            EventKind::Deleted => {
                copy.remove(&event.path);
            }
            _ => match client.retry(|| client.get_data(&event.path)).await {
                Ok((data, _)) => {
                    copy.insert(event.path, data.to_vec());
                }
                Err(Error::NoNode { .. }) => {}
                Err(error) => panic!("{error}"),
            },
        }
    }
}

async fn read_all(client: &Client, root: &str) -> BTreeMap<String, Vec<u8>> {
    let mut copy = BTreeMap::new();
    let names = client.retry(|| client.get_children(root)).await.unwrap();
    for name in names {
        let path = format!("{root}/{name}");
        match client.retry(|| client.get_data(&path)).await {
            Ok((data, _)) => {
                copy.insert(path, data.to_vec());
            }
            Err(Error::NoNode { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    copy
}

#[tokio::test]
async fn a_copy_kept_by_a_recursive_watch_over_breaking_connections_is_exact() {
    let server = start_server().await;
    let proxy = Proxy::start(address(&server)).await;
    let client = Client::connect(&proxy.address()).await.unwrap();
    let direct = Client::connect(&address(&server)).await.unwrap();
    direct
        .create("/r", "", CreateMode::Persistent)
        .await
        .unwrap();
    proxy.break_after(Some(100..4000)).await;
    proxy.cut();

    let mut expected = BTreeMap::new();
    let writing = async {
        for i in 0..1000 {
            let path = format!("/r/{}", fastrand::u8(..20));
            let value = i.to_string();
            if expected.contains_key(&path) {
                if fastrand::bool() {
                    direct.delete(&path, None).await.unwrap();
                    expected.remove(&path);
                    continue;
                }
                direct.set_data(&path, &value, None).await.unwrap();
            } else {
                let mode = CreateMode::Persistent;
                direct.create(&path, &value, mode).await.unwrap();
            }
            expected.insert(path, value.into_bytes());
        }
        direct
            .create("/r/end", "", CreateMode::Persistent)
            .await
            .unwrap();
        expected.insert("/r/end".into(), Vec::new());
        proxy.break_after(None).await;
        expected
    };
    let at_end = tokio::sync::watch::Sender::new(None);
    let watching = mirror(&client, "/r", |copy| at_end.borrow().as_ref() == Some(copy));
    let writing = async {
        at_end.send_replace(Some(writing.await));
        // Lets the watcher look once more, should it be waiting already.
        proxy.cut();
    };
    within("the copy", async { tokio::join!(watching, writing) }).await;
}

#[tokio::test]
async fn a_loop_of_one_shot_watches_misses_no_last_value() {
    let server = start_server().await;
    let proxy = Proxy::start(address(&server)).await;
    let client = Client::connect(&proxy.address()).await.unwrap();
    let direct = Client::connect(&address(&server)).await.unwrap();
    direct
        .create("/v", "0", CreateMode::Persistent)
        .await
        .unwrap();
    proxy.break_after(Some(100..2000)).await;
    proxy.cut();
    let writing = async {
        for i in 1..=1000 {
            direct.set_data("/v", &i.to_string(), None).await.unwrap();
        }
    };
    let reading = async {
        loop {
            let read = client.retry(|| client.get_data_watched("/v"));
            let (data, _, watch) = read.await.unwrap();
            if &data[..] == b"1000" {
                break;
            }
            watch.await.unwrap();
        }
    };
    within("the last value", async { tokio::join!(writing, reading) }).await;
}
