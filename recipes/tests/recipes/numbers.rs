//! The numbers that servers append to names, where they wrap or repeat at the end of their range.

use std::future::Future;

use quorate_proto::OpCode;
use quorate_recipes::{Client, CreateMode, Election, PriorityQueue, Queue, RwLock, Semaphore};

use crate::relay::Relay;
use crate::support::{LONG, PATH, beside, connect, server, soon};

#[tokio::test(flavor = "multi_thread")]
async fn writers_stand_in_the_order_of_creation() {
    let write = |client: Client| async move { RwLock::new(&client, PATH).write().await.unwrap() };
    in_the_order_of_creation(&format!("{PATH}/_c_x-__READ__"), write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_stand_in_the_order_of_creation() {
    let read = |client: Client| async move { RwLock::new(&client, PATH).read().await.unwrap() };
    in_the_order_of_creation(&format!("{PATH}/_c_x-__WRIT__"), read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_stand_in_the_order_of_creation() {
    let campaign = |client: Client| async move {
        let election = Election::new(&client, PATH);
        election.campaign().await.unwrap()
    };
    in_the_order_of_creation(&format!("{PATH}/_c_x-latch-"), campaign).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_permit_stands_in_the_order_of_creation() {
    let acquire = |client: Client| async move {
        let semaphore = Semaphore::new(&client, PATH, 1);
        semaphore.acquire().await.unwrap()
    };
    in_the_order_of_creation(&format!("{PATH}/locks/_c_x-lock-"), acquire).await;
}

/// Rivals are created raw: one with a number from beyond the wrap, which is behind although it is
/// less, and one with the number that comes next, which is in front because it was there first.
async fn in_the_order_of_creation<T, F>(rival: &str, acquire: impl Fn(Client) -> F)
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let server = server().await;
    let client = server.client(LONG).await;
    drop(soon("the first grant", acquire(client.clone())).await);
    let raw = async |name: &str, mode| client.create(name, "", mode).await.unwrap().path;

    let behind = raw(&format!("{rival}-2147483648"), CreateMode::Ephemeral).await;
    drop(soon("a grant past a wrapped number", acquire(client.clone())).await);
    client.delete(&behind, None).await.unwrap();

    let probe = raw(rival, CreateMode::EphemeralSequential).await;
    client.delete(&probe, None).await.unwrap();
    let number: i32 = probe[probe.len() - 10..].parse().unwrap();
    // The raw one counts as a child, too.
    let twin = format!("{rival}{:010}", number + 2);
    let twin = raw(&twin, CreateMode::Ephemeral).await;
    let relay = Relay::start(server.address()).await;
    let waiting = beside(acquire(connect(&relay.address(), LONG).await));
    // It watches its twin.
    relay
        .until(|traffic| traffic.requests(OpCode::GetData) > 0)
        .await;
    assert!(!waiting.is_finished());
    client.delete(&twin, None).await.unwrap();
    drop(soon("a grant after its twin", waiting).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn items_come_in_their_order_across_the_wrap() {
    let server = server().await;
    let client = server.client(LONG).await;
    let numbers = ["2147483646", "2147483647", "-2147483648", "-2147483647"];
    let frame = |text: &str| {
        let length = u32::try_from(text.len()).unwrap();
        let head = [
            &0x0001_0001_u32.to_be_bytes()[..],
            &[1],
            &length.to_be_bytes(),
        ];
        [&head.concat()[..], text.as_bytes(), &[2]].concat()
    };
    let queue = Queue::<String>::new(&client, "/queues/arrival");
    let priority = PriorityQueue::<String>::new(&client, "/queues/priority");
    queue.put(&"first".to_owned()).await.unwrap();
    priority.put(&"first".to_owned(), 1).await.unwrap();
    assert_eq!(queue.pop().await.unwrap(), "first");
    assert_eq!(priority.pop().await.unwrap(), "first");
    for number in numbers.iter().rev() {
        for path in ["arrival/queue-", "priority/queue-100000007"] {
            let path = format!("/queues/{path}{number}");
            let mode = CreateMode::Persistent;
            client.create(&path, &frame(number), mode).await.unwrap();
        }
    }
    for number in numbers {
        assert_eq!(soon("an item", queue.pop()).await.unwrap(), number);
        assert_eq!(soon("an item", priority.pop()).await.unwrap(), number);
    }
}
