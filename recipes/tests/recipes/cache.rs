//! The copy of a subtree.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt};
use quorate_proto::OpCode;
use quorate_recipes::{Cache, CacheEvent, Client, CreateMode, Error, client};
use tokio::time::Instant;

use crate::relay::Relay;
use crate::support::{LONG, beside, connect, server, soon};

/// What the next event says, in short.
async fn next(
    events: &mut (impl Stream<Item = Result<CacheEvent, Error>> + Unpin),
) -> (&'static str, String) {
    match soon("an event", events.next()).await.unwrap().unwrap() {
        CacheEvent::Added { path, .. } => ("added", path),
        CacheEvent::Changed { path, .. } => ("changed", path),
        CacheEvent::Removed { path } => ("removed", path),
        CacheEvent::Initialized => ("initialized", String::new()),
        CacheEvent::Resynced => ("resynced", String::new()),
        other => panic!("{other:?}"),
    }
}

async fn make(client: &Client, paths: &[&str]) {
    for path in paths {
        client
            .create(path, "0", CreateMode::Persistent)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_follows_the_subtree() {
    let server = server().await;
    let client = server.client(LONG).await;
    make(&client, &["/a", "/a/b", "/a/b/c", "/ab"]).await;
    let cache = Cache::new(&client, "/a");
    let mut events = cache.events();
    for path in ["/a", "/a/b", "/a/b/c"] {
        assert_eq!(next(&mut events).await, ("added", path.into()));
    }
    assert_eq!(next(&mut events).await.0, "initialized");
    assert_eq!(cache.children("/a"), ["b"]);

    client.set_data("/a/b", "1", None).await.unwrap();
    assert_eq!(next(&mut events).await, ("changed", "/a/b".into()));
    assert_eq!(cache.get("/a/b").unwrap().data, "1");
    client.set_data("/ab", "1", None).await.unwrap();
    make(&client, &["/a/d"]).await;
    assert_eq!(next(&mut events).await, ("added", "/a/d".into()));
    client.delete("/a/b/c", None).await.unwrap();
    assert_eq!(next(&mut events).await, ("removed", "/a/b/c".into()));
    // A stream that begins later sees what is there then.
    let mut late = cache.events();
    for path in ["/a", "/a/b", "/a/d"] {
        assert_eq!(next(&mut late).await, ("added", path.into()));
    }
    assert_eq!(next(&mut late).await.0, "initialized");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_may_begin_before_the_subtree_does_and_end_at_a_depth() {
    let server = server().await;
    let client = server.client(LONG).await;
    let cache = Cache::with_depth(&client, "/late", 1);
    cache.ready().await.unwrap();
    let mut events = cache.events();
    assert_eq!(next(&mut events).await.0, "initialized");
    make(&client, &["/late", "/late/a", "/late/a/deep", "/late/b"]).await;
    for path in ["/late", "/late/a", "/late/b"] {
        assert_eq!(next(&mut events).await, ("added", path.into()));
    }
    client.delete("/late/a/deep", None).await.unwrap();
    client.delete("/late/a", None).await.unwrap();
    assert_eq!(next(&mut events).await, ("removed", "/late/a".into()));
    assert!(cache.get("/late/a/deep").is_none());
}

/// The znode that is there afterwards has the version of the one before.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_connection_is_away_is_not_missed() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, other) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    make(&other, &["/a", "/a/same", "/a/set", "/a/gone", "/a/back"]).await;
    client.sync("/").await.unwrap();
    let cache = Cache::new(&client, "/a");
    let mut events = cache.events();
    while next(&mut events).await.0 != "initialized" {}
    relay.cut();
    other.delete("/a/gone", None).await.unwrap();
    other.delete("/a/back", None).await.unwrap();
    make(&other, &["/a/back", "/a/new"]).await;
    other.set_data("/a/set", "1", None).await.unwrap();
    relay.heal();
    let mut told = Vec::new();
    loop {
        let event = next(&mut events).await;
        if event.0 == "resynced" {
            break;
        }
        told.push(event);
    }
    told.sort_by_key(|(_, path)| path.clone());
    let expected = [
        ("removed", "/a/back"),
        ("added", "/a/back"),
        ("removed", "/a/gone"),
        ("added", "/a/new"),
        ("changed", "/a/set"),
    ];
    assert_eq!(told, expected.map(|(what, path)| (what, path.to_owned())));
}

/// Not everybody reads everything anew in the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_read_anew_one_after_the_other() {
    const COPIES: usize = 20;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    make(&client, &["/a"]).await;
    let caches: Vec<_> = (0..COPIES).map(|_| Cache::new(&client, "/a")).collect();
    for cache in &caches {
        soon("a copy", cache.ready()).await.unwrap();
    }
    let events = caches.iter().map(|cache| async {
        let mut events = cache.events();
        while next(&mut events).await.0 != "initialized" {}
        while next(&mut events).await.0 != "resynced" {}
        Instant::now()
    });
    let resynced = futures::future::join_all(events);
    let (read, ()) = tokio::join!(resynced, async { relay.interrupt() });
    let spread = *read.iter().max().unwrap() - *read.iter().min().unwrap();
    assert!(spread > Duration::from_millis(50), "all within {spread:?}");
}

/// Many changes under broken connections: the copy is right in the end, and so is what events say.
#[tokio::test(flavor = "multi_thread")]
async fn the_copy_is_right_in_the_end() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, other) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    make(&other, &["/a"]).await;
    client.sync("/").await.unwrap();
    let cache = Cache::new(&client, "/a");
    let mut events = cache.events();
    let follower = beside(async move {
        let mut told: BTreeMap<String, i64> = BTreeMap::new();
        loop {
            match events.next().await.unwrap().unwrap() {
                CacheEvent::Added { path, node } => {
                    assert!(told.insert(path, node.stat.mzxid).is_none());
                }
                CacheEvent::Changed { path, node } => {
                    let before = told.insert(path.clone(), node.stat.mzxid).unwrap();
                    assert!(before < node.stat.mzxid);
                    if path == "/a" {
                        return told;
                    }
                }
                CacheEvent::Removed { path } => assert!(told.remove(&path).is_some()),
                _ => {}
            }
        }
    });
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for _ in 0..50 {
            let path = format!("/a/{}", fastrand::u8(..20));
            let done = match fastrand::u8(..3) {
                0 => other
                    .create(&path, "", CreateMode::Persistent)
                    .await
                    .map(drop),
                1 => other.set_data(&path, "x", None).await.map(drop),
                _ => other.delete(&path, None).await,
            };
            match done {
                Ok(()) | Err(client::Error::NoNode { .. } | client::Error::NodeExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if fastrand::bool() {
            relay.interrupt();
        }
    }
    client.connected().await.unwrap();
    other.sync("/a").await.unwrap();
    let there = other.get_children("/a").await.unwrap();
    other.set_data("/a", "the end", None).await.unwrap();
    let told = soon("the end", follower).await.unwrap();
    assert!(told.len() > 1 || there.is_empty());
    // What was told last may be told before the rest of it.
    for name in there {
        let path = format!("/a/{name}");
        let stat = other.exists(&path).await.unwrap().unwrap();
        soon(&path, async {
            while cache
                .get(&path)
                .is_none_or(|node| node.stat.mzxid != stat.mzxid)
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_one_event_and_one_read() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, other) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    make(&other, &["/a", "/a/b"]).await;
    client.sync("/").await.unwrap();
    let cache = Cache::new(&client, "/a");
    let mut events = cache.events();
    while next(&mut events).await.0 != "initialized" {}
    let reads = relay.traffic().requests(OpCode::GetData);
    for n in 1..=10 {
        other.set_data("/a/b", "x", None).await.unwrap();
        assert_eq!(next(&mut events).await.0, "changed");
        assert_eq!(relay.traffic().notifications(), n);
        assert_eq!(relay.traffic().requests(OpCode::GetData), reads + n);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_ends_with_the_session() {
    let server = server().await;
    let client = server.client(LONG).await;
    let cache = Cache::new(&client, "/a");
    let mut events = cache.events();
    assert_eq!(next(&mut events).await.0, "initialized");
    client.close().await.unwrap();
    let error = soon("the end", events.next()).await.unwrap().unwrap_err();
    assert!(error.is_session_over(), "{error}");
    assert!(soon("nothing more", events.next()).await.is_none());
    assert!(cache.ready().await.is_err());
    let broken = Cache::new(&server.client(LONG).await, "not/a/path");
    assert!(matches!(
        soon("the end", broken.ready()).await,
        Err(Error::Client(client::Error::InvalidPath(_)))
    ));
}
