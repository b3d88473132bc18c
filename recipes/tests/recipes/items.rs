//! Queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use parking_lot::Mutex;
use quorate_proto::OpCode;
use quorate_recipes::{Client, CreateMode, DelayQueue, Error, Json, Layout, PriorityQueue, Queue};
use tokio::time::{Instant, sleep, timeout};

use crate::relay::{Fault, Relay};
use crate::support::{
    LONG, OPERATIONS, PATH, Servers, assert_node_deleted, beside, children, connect,
    dropped_at_every_await, nothing_left, server, soon, with_every_fault,
};

fn queue(client: &Client) -> Queue<String> {
    Queue::new(client, PATH)
}

#[tokio::test(flavor = "multi_thread")]
async fn items_come_in_the_order_in_which_they_were_put() {
    let server = server().await;
    let client = server.client(LONG).await;
    for (layout, directory) in [
        (Layout::Curator, PATH.to_owned()),
        (Layout::Kazoo, format!("{PATH}/entries")),
    ] {
        let queue = queue(&client).layout(layout);
        assert!(queue.try_take().await.unwrap().is_none());
        for n in 0..20 {
            queue.put(&n.to_string()).await.unwrap();
        }
        assert_eq!(queue.len().await.unwrap(), 20);
        for n in 0..20 {
            let item = soon("an item", queue.take()).await.unwrap();
            assert_eq!(*item.payload(), n.to_string());
            assert_eq!(queue.claimed().await.unwrap().len(), 1);
            item.done().await.unwrap();
        }
        assert!(queue.is_empty().await.unwrap());
        assert!(children(&client, &directory).await.is_empty());
        assert!(queue.claimed().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_given_back_to_its_place() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(200)).await;
    for text in ["a", "b"] {
        queue(&client).put(&text.to_owned()).await.unwrap();
    }
    let first = queue(&client).take().await.unwrap();
    let second = queue(&client).take().await.unwrap();
    assert_eq!((&first.payload()[..], &second.payload()[..]), ("a", "b"));
    first.give_back().await.unwrap();
    let again = queue(&dying).take().await.unwrap();
    assert_eq!(again.payload(), "a");
    // One consumer waits, and gets it when the one that has it dies.
    let waiting = beside({
        let queue = queue(&client);
        async move { queue.take().await.unwrap() }
    });
    soon("a waiter", async {
        while queue(&client).waiters().await.unwrap().is_empty() {}
    })
    .await;
    dying.detach().await.unwrap();
    let last = soon("the item of the dead", waiting).await.unwrap();
    assert_eq!(last.payload(), "a");
    assert!(matches!(again.done().await, Err(Error::Lost { .. })));
    last.done().await.unwrap();
    drop(second);
    assert_eq!(soon("the other", queue(&client).pop()).await.unwrap(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_claim_is_gone_cannot_say_that_it_is_done() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    queue(&client).put(&"a".to_owned()).await.unwrap();
    let item = queue(&client).take().await.unwrap();
    let fenced = item.transaction().delete(item.item_node(), None);
    operator.delete(item.node(), None).await.unwrap();
    let refused = fenced.commit().await;
    assert_node_deleted(&refused);
    assert!(item.done().await.is_err());
    assert_eq!(queue(&client).len().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_priority_number_comes_first() {
    let server = server().await;
    let client = server.client(LONG).await;
    for (layout, priorities) in [
        (Layout::Curator, [5, -3, 0, i32::MAX, i32::MIN, 5, -3]),
        (Layout::Kazoo, [5, 100, 0, 999, 7, 5, 100]),
    ] {
        let queue = PriorityQueue::<Json<(i32, usize)>>::new(&client, PATH).layout(layout);
        for (n, priority) in priorities.into_iter().enumerate() {
            queue.put(&Json((priority, n)), priority).await.unwrap();
        }
        let mut popped = Vec::new();
        for _ in priorities {
            popped.push(queue.pop().await.unwrap().0);
        }
        assert!(popped.is_sorted(), "{popped:?}");
    }
    let refused = PriorityQueue::<String>::new(&client, PATH).layout(Layout::Kazoo);
    let refused = refused.put(&String::new(), 1000).await;
    assert!(
        matches!(refused, Err(Error::Overflow { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_items_come_when_they_are_due() {
    let server = server().await;
    let client = server.client(LONG).await;
    let queue: DelayQueue<String> = DelayQueue::new(&client, PATH);
    let begun = Instant::now();
    let delay = Duration::from_secs(2);
    queue.put_after(&"late".to_owned(), delay).await.unwrap();
    assert!(queue.try_take().await.unwrap().is_none());
    let popping = beside({
        let queue = queue.clone();
        async move { queue.pop().await.unwrap() }
    });
    let past = SystemTime::now() - Duration::from_secs(60);
    queue.put_at(&"early".to_owned(), past).await.unwrap();
    assert_eq!(soon("early", popping).await.unwrap(), "early");
    assert_eq!(soon("late", queue.pop()).await.unwrap(), "late");
    assert!(begun.elapsed() >= delay);
}

/// Whoever waits stands in line, and the first hears of what is put.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_wakes_one_consumer_however_many_wait() {
    const CONSUMERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, producer) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let mut waiting: Vec<_> = (0..CONSUMERS)
        .map(|_| {
            let queue = queue(&client);
            beside(async move { queue.pop().await.unwrap() })
        })
        .collect();
    // All but the first watch the one in front.
    relay
        .until(|traffic| traffic.requests(OpCode::GetData) >= CONSUMERS - 1)
        .await;
    let producer = queue(&producer);
    for n in 0..CONSUMERS {
        producer.put(&n.to_string()).await.unwrap();
        let (popped, _, others) = soon("an item", futures::future::select_all(waiting)).await;
        assert_eq!(popped.unwrap(), n.to_string());
        waiting = others;
        // The item, its claim, the end of both, the place in the line; nothing for each consumer.
        let events = relay.traffic().notifications();
        assert!(events <= 6 * (n + 1) + 6, "{events} events after {n} items");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_items_are_left_alone() {
    let server = server().await;
    let client = server.client(LONG).await;
    queue(&client).put(&"good".to_owned()).await.unwrap();
    let mode = CreateMode::Persistent;
    client
        .create(&format!("{PATH}/notes"), "", mode)
        .await
        .unwrap();
    client
        .create(&format!("{PATH}/queue-x"), "", mode)
        .await
        .unwrap();
    assert_eq!(queue(&client).pop().await.unwrap(), "good");
    assert!(queue(&client).try_take().await.unwrap().is_none());
    let broken = format!("{PATH}/queue-0000000000");
    client.create(&broken, "no frame", mode).await.unwrap();
    let refused = queue(&client).take().await;
    assert!(
        matches!(&refused, Err(Error::Mismatch { path, .. }) if *path == broken),
        "{refused:?}"
    );
    assert_eq!(children(&client, PATH).await.len(), 3);
    nothing_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_lose_and_double_nothing() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let queue = queue(&client);
        queue.put(&"a".to_owned()).await.unwrap();
        queue.put(&"b".to_owned()).await.unwrap();
        let item = queue.take().await.unwrap();
        assert_eq!(item.payload(), "a", "{fault:?}");
        item.done().await.unwrap();
        assert_eq!(queue.pop().await.unwrap(), "b", "{fault:?}");
        assert!(queue.try_take().await.unwrap().is_none(), "{fault:?}");
        drop(queue);
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 8, "{happened}");
    dropped_at_every_await(&client, async || queue(&client).take().await).await;
    queue(&client).put(&"a".to_owned()).await.unwrap();
    dropped_at_every_await(&client, async || queue(&client).take().await).await;
    assert_eq!(queue(&client).len().await.unwrap(), 1);
}

/// Producers and consumers under broken connections: everything that was put is handled, once, since
/// nobody dies.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_handled_once() {
    const EACH: u64 = 60;
    let server = server().await;
    let relays = join_all((0..3).map(|_| Relay::start(server.address()))).await;
    let handled = Arc::new(Mutex::new(BTreeMap::<u64, usize>::new()));
    let end = Instant::now() + Duration::from_secs(5);
    let producers: Vec<_> = (0..3)
        .map(|n| {
            let address = relays[n].address();
            beside(async move {
                let client = connect(&address, LONG).await;
                let queue = Queue::<Json<u64>>::new(&client, PATH);
                for item in 0..EACH {
                    queue.put(&Json(n as u64 * EACH + item)).await.unwrap();
                }
            })
        })
        .collect();
    let consumers: Vec<_> = (0..6)
        .map(|n| {
            let (address, handled) = (relays[n % 3].address(), Arc::clone(&handled));
            beside(async move {
                let client = connect(&address, LONG).await;
                let queue = Queue::<Json<u64>>::new(&client, PATH);
                loop {
                    let most = if Instant::now() < end { 200 } else { 2_000 };
                    let patience = Duration::from_millis(fastrand::u64(1..most));
                    if let Ok(item) = timeout(patience, queue.take()).await {
                        let item = item.unwrap();
                        let payload = item.payload().0;
                        if fastrand::u8(..4) == 0 {
                            continue;
                        }
                        item.done().await.unwrap();
                        *handled.lock().entry(payload).or_default() += 1;
                    }
                    if handled.lock().len() as u64 == 3 * EACH {
                        return;
                    }
                }
            })
        })
        .collect();
    let consumers = beside(join_all(consumers));
    while !consumers.is_finished() && Instant::now() < end {
        let relay = fastrand::choice(&relays).unwrap();
        match fastrand::u8(..3) {
            0 => relay.interrupt(),
            1 => relay.inject(Fault::LoseReply(OpCode::Multi)),
            _ => relay.inject(Fault::LoseReply(OpCode::Create2)),
        }
        sleep(Duration::from_millis(fastrand::u64(20..100))).await;
    }
    for task in producers {
        soon("a producer", task).await.unwrap();
    }
    for task in soon("the consumers", consumers).await.unwrap() {
        task.unwrap();
    }
    let twice: Vec<_> = handled
        .lock()
        .iter()
        .filter(|(_, n)| **n != 1)
        .map(|(k, _)| *k)
        .collect();
    assert_eq!(twice, Vec::<u64>::new());
    let client = server.client(LONG).await;
    assert!(children(&client, PATH).await.is_empty());
}
