//! The lock for many readers or one writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::OpCode;
use quorate_recipes::{Access, Client, Error, Guard, Layout, RwLock};
use tokio::time::{Instant, sleep};

use crate::relay::Relay;
use crate::support::{
    LONG, OPERATIONS, PATH, beside, connect, contenders, dropped_at_every_await, nothing_left,
    on_breaking_connections, server, soon, with_every_fault,
};

fn lock(client: &Client) -> RwLock {
    RwLock::new(client, PATH)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_and_writers_do_not() {
    let server = server().await;
    let client = server.client(LONG).await;
    for layout in [Layout::Curator, Layout::Kazoo] {
        let lock = lock(&client).layout(layout);
        let readers = [lock.read().await.unwrap(), lock.read().await.unwrap()];
        assert!(lock.try_write().await.unwrap().is_none());
        let listed = lock.contenders().await.unwrap();
        assert!(listed.iter().all(|(access, _)| *access == Access::Read));
        join_all(readers.map(Guard::release)).await;
        let writer = lock.write().await.unwrap();
        assert!(lock.try_read().await.unwrap().is_none());
        assert!(lock.try_write().await.unwrap().is_none());
        let listed = lock.contenders().await.unwrap();
        assert_eq!(listed[0].0, Access::Write);
        writer.release().await.unwrap();
        contenders(&client, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_overtakes() {
    let server = server().await;
    let client = server.client(LONG).await;
    let reader = lock(&client).read().await.unwrap();
    let writer = beside({
        let lock = lock(&client);
        async move { lock.write().await.unwrap() }
    });
    contenders(&client, 2).await;
    // The first reader would let it in, the writer in between does not.
    assert!(lock(&client).try_read().await.unwrap().is_none());
    let late = beside({
        let lock = lock(&client);
        async move { lock.read().await.unwrap() }
    });
    contenders(&client, 3).await;
    reader.release().await.unwrap();
    let writer = soon("the writer", writer).await.unwrap();
    assert!(!late.is_finished());
    writer.release().await.unwrap();
    drop(soon("the reader", late).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_wakes_one_writer_or_the_readers_that_may_enter() {
    const WAITERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let mut writers = Vec::new();
    let first = lock(&client).write().await.unwrap();
    for n in 0..2 {
        let lock = lock(&client);
        writers.push(beside(async move { lock.write().await.unwrap() }));
        relay.waiting(n + 1).await;
    }
    let readers: Vec<_> = (0..WAITERS)
        .map(|_| {
            let lock = lock(&client);
            beside(async move { lock.read().await.unwrap() })
        })
        .collect();
    relay.waiting(WAITERS + 2).await;
    let mut writer = first;
    for (n, next) in writers.into_iter().enumerate() {
        writer.release().await.unwrap();
        writer = soon("the next writer", next).await.unwrap();
        // The readers do not hear of it, although writers are in front of them.
        assert_eq!(relay.traffic().notifications(), n + 1);
    }
    writer.release().await.unwrap();
    let readers = soon("the readers", join_all(readers)).await;
    assert_eq!(relay.traffic().notifications(), 2 + 1);
    // One look of each who enters, two of the first, who finds no queue yet, and one when the writer
    // in front has gone.
    assert_eq!(
        relay.traffic().requests(OpCode::GetChildren),
        4 + 2 + 2 * WAITERS
    );

    // All readers but the last go, and nobody is told.
    let last = beside({
        let lock = lock(&client);
        async move { lock.write().await.unwrap() }
    });
    relay.waiting(WAITERS + 3).await;
    let mut readers: Vec<_> = readers.into_iter().map(Result::unwrap).collect();
    readers.sort_by_key(Guard::fencing_token);
    for reader in readers.drain(..WAITERS - 1) {
        reader.release().await.unwrap();
    }
    assert_eq!(relay.traffic().notifications(), 3);
    readers.pop().unwrap().release().await.unwrap();
    drop(soon("the last writer", last).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_becomes_a_reader_without_letting_a_writer_in_between() {
    let server = server().await;
    let client = server.client(LONG).await;
    for layout in [Layout::Curator, Layout::Kazoo] {
        let lock = lock(&client).layout(layout);
        let writing = lock.write().await.unwrap();
        let token = writing.fencing_token();
        let waiting = beside({
            let lock = lock.clone();
            async move { lock.write().await.unwrap() }
        });
        contenders(&client, 2).await;
        let reading = writing.downgrade().await.unwrap();
        assert_eq!(reading.fencing_token(), token);
        let listed = lock.contenders().await.unwrap();
        let accesses: Vec<_> = listed.iter().map(|(access, _)| *access).collect();
        // The node of the reader is younger, but has the number of the writer.
        assert_eq!(accesses, [Access::Write, Access::Read]);
        assert!(!waiting.is_finished());
        assert!(lock.try_read().await.unwrap().is_none());
        reading.release().await.unwrap();
        let writing = soon("the next writer", waiting).await.unwrap();
        assert!(writing.fencing_token() > token);
        writing.release().await.unwrap();
        nothing_left(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_node_is_gone_cannot_become_a_reader() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    let writing = lock(&client).write().await.unwrap();
    operator.delete(writing.node(), None).await.unwrap();
    let refused = writing.downgrade().await;
    assert!(matches!(refused, Err(Error::Lost { .. })), "{refused:?}");
    nothing_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_by_a_future_that_is_dropped() {
    let server = server().await;
    let client = server.client(LONG).await;
    dropped_at_every_await(&client, async || lock(&client).read().await).await;
    dropped_at_every_await(&client, async || {
        lock(&client).write().await.unwrap().downgrade().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let writing = lock(&client).write().await.unwrap();
        let reading = writing.downgrade().await.unwrap();
        let other = lock(&client).read().await.unwrap();
        assert_eq!(
            lock(&client).contenders().await.unwrap_or_default().len() % 2,
            0,
            "{fault:?}"
        );
        reading.release().await.unwrap();
        other.release().await.unwrap();
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 10, "{happened}");
}

/// Counts who is inside, while connections break.
#[tokio::test(flavor = "multi_thread")]
async fn no_writer_is_ever_beside_anybody() {
    const WRITING: i32 = 1000;
    let server = server().await;
    let inside = Arc::new(AtomicI32::new(0));
    let end = Instant::now() + Duration::from_secs(4);
    let all_entered = on_breaking_connections(&server, end, |client| {
        let inside = Arc::clone(&inside);
        async move {
            let mut entered = [0; 2];
            while Instant::now() < end {
                let write = fastrand::u8(..3) == 0;
                let (reading, writing) = match write {
                    true => (None, Some(lock(&client).write().await.unwrap())),
                    false => (Some(lock(&client).read().await.unwrap()), None),
                };
                let weight = if write { WRITING } else { 1 };
                let others = inside.fetch_add(weight, Ordering::SeqCst);
                assert!(
                    if write { others == 0 } else { others < WRITING },
                    "{others}"
                );
                sleep(Duration::from_millis(fastrand::u64(..5))).await;
                inside.fetch_sub(weight, Ordering::SeqCst);
                entered[usize::from(write)] += 1;
                drop((reading, writing));
            }
            entered
        }
    });
    for [read, written] in all_entered.await {
        assert!(read > 0 && written > 0);
    }
}
