//! What errors say about the outcome of operations is true.

use std::time::Duration;

use quorate_client::{Client, CreateMode, Error, Outcome, RetryPolicy};

use crate::proxy::Proxy;
use crate::{address, start_server, within};

/// Requests queued together, and as many as may be under way.
const HALF: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Unknown,
    NotDone,
}

fn fate<T>(result: &Result<T, Error>) -> Fate {
    match result.as_ref().map_err(Error::outcome) {
        Ok(_) | Err(Outcome::Happened) => Fate::Done,
        Err(Outcome::Unknown) => Fate::Unknown,
        Err(Outcome::DidNotHappen) => Fate::NotDone,
    }
}

#[tokio::test]
async fn writes_over_breaking_connections_end_as_their_errors_say() {
    let server = start_server().await;
    let proxy = Proxy::start(address(&server)).await;
    let builder = Client::builder().max_queued(HALF);
    let client = builder.connect(&proxy.address()).await.unwrap();
    let direct = Client::connect(&address(&server)).await.unwrap();
    proxy.break_after(Some(50..3000)).await;
    proxy.cut();

    let mut seen = [0; 3];
    for round in 0..150 {
        let parent = format!("/round-{round}");
        direct
            .create(&parent, "", CreateMode::Persistent)
            .await
            .unwrap();
        within("a connection", client.connected()).await.unwrap();
        let create = |i| client.create(&format!("{parent}/{i}"), "x", CreateMode::Persistent);
        // The first half goes out, the second half has to wait behind it.
        let mut replies: Vec<_> = (0..HALF).map(create).collect();
        tokio::task::yield_now().await;
        replies.extend((HALF..2 * HALF).map(create));
        let mut fates = Vec::new();
        for reply in replies {
            fates.push(fate(&within("a create", reply).await));
        }
        // A server can still execute what a broken connection has brought. It has got over that
        // once the session is back and a later write is through.
        let back = client.retry(|| client.sync("/"));
        within("the session", back).await.unwrap();
        direct.set_data(&parent, "", None).await.unwrap();
        let mut done = Vec::new();
        for (i, fate) in fates.iter().enumerate() {
            seen[*fate as usize] += 1;
            let exists = direct.exists(&format!("{parent}/{i}")).await.unwrap();
            done.push(exists.is_some());
            match fate {
                Fate::Done => assert!(exists.is_some(), "{parent}/{i} {fates:?}"),
                Fate::NotDone => assert!(exists.is_none(), "{parent}/{i} {fates:?}"),
                Fate::Unknown => {}
            }
        }
        // What was queued together was executed up to some point and not beyond it.
        for (fates, done) in fates.chunks(HALF).zip(done.chunks(HALF)) {
            assert!(fates.is_sorted_by_key(|fate| *fate as usize), "{fates:?}");
            assert!(done.is_sorted_by(|a, b| a >= b), "{done:?} {fates:?}");
        }
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
}

#[tokio::test]
async fn what_is_safe_to_repeat_gets_through() {
    let server = start_server().await;
    let proxy = Proxy::start(address(&server)).await;
    let policy = RetryPolicy::default()
        .first_pause(Duration::from_millis(1))
        .give_up_after(None);
    let builder = Client::builder().retry_policy(policy);
    let client = builder.connect(&proxy.address()).await.unwrap();
    client
        .create("/a", "", CreateMode::Persistent)
        .await
        .unwrap();
    proxy.break_after(Some(100..800)).await;
    proxy.cut();
    for i in 0..100 {
        let value = i.to_string();
        let write = client.retry_idempotent(|| client.set_data("/a", &value, None));
        within("the write", write).await.unwrap();
        let read = client.retry(|| client.get_data("/a"));
        let (data, _) = within("the read", read).await.unwrap();
        assert_eq!(&data[..], value.as_bytes());
    }
}
