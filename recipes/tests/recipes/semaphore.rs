//! The counting semaphore.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use quorate_recipes::{Client, CreateMode, Error, Layout, Semaphore};
use tokio::time::{Instant, sleep};

use crate::relay::Relay;
use crate::support::{
    LONG, OPERATIONS, PATH, Servers, beside, children, connect, dropped_at_every_await,
    nothing_left, on_breaking_connections, server, soon, with_every_fault,
};

fn semaphore(client: &Client, permits: usize) -> Semaphore {
    Semaphore::new(client, PATH, permits)
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_permits_and_no_more() {
    let server = server().await;
    let client = server.client(LONG).await;
    for layout in [Layout::Curator, Layout::Kazoo] {
        // kazoo takes every child for a permit.
        let path = format!("{PATH}-{layout:?}");
        let semaphore = Semaphore::new(&client, &path, 3).layout(layout).data("me");
        let one = semaphore.acquire().await.unwrap();
        let two = semaphore.acquire_many(2).await.unwrap();
        assert!(semaphore.try_acquire().await.unwrap().is_none());
        let holders = semaphore.holders().await.unwrap();
        assert_eq!(holders.len(), 3);
        assert!(holders.iter().all(|holder| holder.data == "me"));
        one.release().await.unwrap();
        let again = semaphore.try_acquire().await.unwrap().unwrap();
        two.release().await.unwrap();
        assert_eq!(semaphore.holders().await.unwrap().len(), 1);
        again.release().await.unwrap();
        let refused = semaphore.acquire_many(4).await;
        assert!(
            matches!(
                refused,
                Err(Error::TooMany {
                    asked: 4,
                    limit: 3,
                    ..
                })
            ),
            "{refused:?}"
        );
        nothing_left(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kazoos_layout_has_one_number_of_permits_for_all() {
    let server = server().await;
    let client = server.client(LONG).await;
    let layout = Layout::Kazoo;
    drop(
        semaphore(&client, 2)
            .layout(layout)
            .acquire()
            .await
            .unwrap(),
    );
    assert_eq!(&client.get_data(PATH).await.unwrap().0[..], b"2");
    let refused = semaphore(&client, 3).layout(layout).acquire().await;
    assert!(
        matches!(refused, Err(Error::Mismatch { .. })),
        "{refused:?}"
    );
}

/// Two that want several at once would each have some and wait for the other if they took them one
/// by one.
#[tokio::test(flavor = "multi_thread")]
async fn several_permits_are_taken_all_together() {
    let server = server().await;
    let clients = join_all((0..4).map(|_| server.client(LONG))).await;
    let tasks = clients.iter().map(|client| async move {
        for _ in 0..10 {
            let permits = semaphore(client, 3).acquire_many(2).await.unwrap();
            assert_eq!(permits.guards().len(), 2);
            permits.release().await.unwrap();
        }
    });
    soon("the end", join_all(tasks)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_comes_back_wakes_one() {
    const WAITERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let mut held = vec![
        semaphore(&client, 2).acquire().await.unwrap(),
        semaphore(&client, 2).acquire().await.unwrap(),
    ];
    let waiting: Vec<_> = (0..WAITERS)
        .map(|_| {
            let semaphore = semaphore(&client, 2);
            beside(async move { semaphore.acquire().await.unwrap() })
        })
        .collect();
    // All but the first in line watch the one in front.
    relay.waiting(WAITERS - 1).await;
    let (mut waiting, before) = (waiting, relay.traffic().notifications());
    for released in 1..=WAITERS {
        held.remove(0).release().await.unwrap();
        let (granted, _, others) = soon("a permit", futures::future::select_all(waiting)).await;
        held.push(granted.unwrap());
        waiting = others;
        // One tells the first in line of the permit; that one goes, which tells the second.
        let told = relay.traffic().notifications() - before;
        assert!(told <= 2 * released, "{told} events");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_permits_can_change() {
    let server = server().await;
    let client = server.client(LONG).await;
    let count = |n: i32| n.to_be_bytes();
    let mode = CreateMode::Persistent;
    client.create("/permits", &count(0), mode).await.unwrap();
    let semaphore = semaphore(&client, 0).permits_at("/permits");
    let waiting = beside({
        let semaphore = semaphore.clone();
        async move { semaphore.acquire().await.unwrap() }
    });
    soon("a waiter", async {
        while semaphore.waiters().await.unwrap().is_empty() {}
    })
    .await;
    client.set_data("/permits", &count(1), None).await.unwrap();
    let one = soon("a permit", waiting).await.unwrap();
    assert!(semaphore.try_acquire().await.unwrap().is_none());
    client.set_data("/permits", "several", None).await.unwrap();
    let refused = semaphore.acquire().await;
    assert!(
        matches!(refused, Err(Error::Mismatch { .. })),
        "{refused:?}"
    );
    one.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_by_a_future_that_is_dropped() {
    let server = server().await;
    let client = server.client(LONG).await;
    for layout in [Layout::Curator, Layout::Kazoo] {
        let path = format!("{PATH}-{layout:?}");
        let semaphore = Semaphore::new(&client, path, 3).layout(layout);
        dropped_at_every_await(&client, async || semaphore.acquire_many(2).await).await;
        dropped_at_every_await(&client, async || semaphore.try_acquire().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let permits = semaphore(&client, 2).acquire_many(2).await.unwrap();
        let held = children(&client, &format!("{PATH}/leases")).await;
        assert_eq!(held.len(), 2, "{fault:?}: {held:?}");
        permits.release().await.unwrap();
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 10, "{happened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permits_of_the_dead_come_back() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let dying = server.client(Duration::from_millis(200)).await;
    let client = server.client(LONG).await;
    let permits = semaphore(&dying, 2).acquire_many(2).await.unwrap();
    dying.detach().await.unwrap();
    let again = soon("the permits", semaphore(&client, 2).acquire_many(2)).await;
    again.unwrap().release().await.unwrap();
    drop(permits);
}

/// Counts who is inside, while connections break and waiters give up.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_inside() {
    const PERMITS: usize = 3;
    let server = server().await;
    let inside = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(4);
    let all_entered = on_breaking_connections(&server, end, |client| {
        let inside = Arc::clone(&inside);
        async move {
            let mut entered = 0;
            while Instant::now() < end || entered == 0 {
                let number = fastrand::usize(1..=2);
                let most = if Instant::now() < end { 300 } else { 3_000 };
                let patience = Duration::from_millis(fastrand::u64(1..most));
                let semaphore = semaphore(&client, PERMITS);
                let taking = tokio::time::timeout(patience, semaphore.acquire_many(number));
                let Ok(permits) = taking.await else {
                    continue;
                };
                let permits = permits.unwrap();
                let others = inside.fetch_add(number, Ordering::SeqCst);
                assert!(others + number <= PERMITS, "{others} + {number}");
                sleep(Duration::from_millis(fastrand::u64(..5))).await;
                inside.fetch_sub(number, Ordering::SeqCst);
                entered += 1;
                drop(permits);
            }
            nothing_left(&client).await;
            entered
        }
    });
    for entered in all_entered.await {
        assert!(entered > 0);
    }
}
