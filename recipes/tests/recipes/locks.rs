//! Locks besides the plain one: re-entrant, several at once, on request given back, and simple.

use std::time::Duration;

use futures::future::join_all;
use quorate_proto::OpCode;
use quorate_recipes::{
    Client, CreateMode, Error, Lock, LostReason, MultiLock, ReentrantLock, SimpleLock,
};
use tokio::time::timeout;

use crate::relay::{Fault, Relay};
use crate::support::{
    LONG, OPERATIONS, Servers, assert_node_deleted, beside, connect, contenders,
    dropped_at_every_await, lock, nothing_left, server, soon, with_every_fault,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_acquires_its_lock_again_and_others_wait() {
    let server = server().await;
    let client = server.client(LONG).await;
    let reentrant = ReentrantLock::new(lock(&client));
    let outer = reentrant.acquire("me").await.unwrap();
    let inner = soon("the same lock", reentrant.clone().acquire("me")).await;
    let inner = inner.unwrap();
    assert_eq!(outer.fencing_token(), inner.fencing_token());
    let other = beside(async move { reentrant.acquire("you").await.unwrap() });
    contenders(&client, 2).await;
    outer.release().await.unwrap();
    contenders(&client, 2).await;
    assert!(!other.is_finished());
    inner.release().await.unwrap();
    drop(soon("the other", other).await.unwrap());
}

/// What an owner had before does not count: the lock may be somebody else's by now.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_lost_its_lock_does_not_get_it_again_by_itself() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    let reentrant = ReentrantLock::new(lock(&client));
    let guard = reentrant.acquire("me").await.unwrap();
    operator.delete(guard.node(), None).await.unwrap();
    soon("loss", guard.lost()).await;
    let refused = reentrant.acquire("me").await;
    assert_node_deleted(&refused);
    drop(guard);
    reentrant
        .acquire("me")
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_taken_together_in_one_order() {
    let server = server().await;
    let clients = join_all((0..4).map(|_| server.client(LONG))).await;
    let locks = |client: &Client, paths: [&str; 2]| {
        MultiLock::new(paths.map(|path| Lock::new(client, path)))
    };
    let tasks = clients.iter().enumerate().map(|(n, client)| {
        let paths = if n % 2 == 0 {
            ["/a", "/b"]
        } else {
            ["/b", "/a"]
        };
        let both = locks(client, paths);
        async move {
            for _ in 0..10 {
                let guard = both.acquire().await.unwrap();
                assert_eq!(guard.guards()[0].path(), "/a");
                guard.release().await.unwrap();
            }
        }
    });
    soon("no deadlock", join_all(tasks)).await;

    let client = &clients[0];
    let both = locks(client, ["/a", "/b"]);
    let guard = both.acquire().await.unwrap();
    let written = guard.transaction().unwrap();
    let written = written
        .create("/fruit", "", CreateMode::Persistent)
        .commit()
        .await
        .unwrap();
    assert_eq!(written.len(), 1);
    let lost = guard.lost();
    clients[1]
        .delete(guard.guards()[1].node(), None)
        .await
        .unwrap();
    assert_eq!(soon("loss", lost).await, LostReason::NodeDeleted);
    let refused = guard.transaction().unwrap().commit().await;
    assert!(matches!(refused, Err(Error::Lost { .. })), "{refused:?}");
    drop(guard);

    let _b = Lock::new(&clients[1], "/b").acquire().await.unwrap();
    assert!(both.try_acquire().await.unwrap().is_none());
    let late = both.acquire_timeout(Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    dropped_at_every_await(client, async || both.acquire().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_is_asked_to_let_go() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    assert!(!lock(&other).revoke().await.unwrap());
    let guard = lock(&client).acquire().await.unwrap();
    let asked = guard.revoked();
    // Other data is no request.
    other.set_data(guard.node(), "hello", None).await.unwrap();
    assert!(
        timeout(Duration::from_millis(50), guard.revoked())
            .await
            .is_err()
    );
    assert!(lock(&other).revoke().await.unwrap());
    soon("the request", asked).await;
    soon("the request", guard.revoked()).await;
    assert!(!guard.state().is_lost());
    guard.release().await.unwrap();
}

/// The request may come while the lock is not held yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_waiter_is_not_missed() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    let first = lock(&client).acquire().await.unwrap();
    let waiting = beside({
        let lock = lock(&client);
        async move { lock.acquire().await.unwrap() }
    });
    contenders(&client, 2).await;
    let node = lock(&other).contenders().await.unwrap()[1].node.clone();
    other.set_data(&node, "__REVOKE__", None).await.unwrap();
    first.release().await.unwrap();
    let guard = soon("grant", waiting).await.unwrap();
    soon("the request", guard.revoked()).await;
}

fn simple(client: &Client) -> SimpleLock {
    SimpleLock::new(client, "/locks/simple").data("me")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simple_lock_is_one_znode() {
    let server = server().await;
    let (one, other) = (server.client(LONG).await, server.client(LONG).await);
    let guard = simple(&one).acquire().await.unwrap();
    assert_eq!(guard.node(), "/locks/simple");
    assert!(
        one.get_data("/locks/simple")
            .await
            .unwrap()
            .0
            .starts_with(b"me ")
    );
    assert!(simple(&other).try_acquire().await.unwrap().is_none());
    // Tasks of one session exclude each other too.
    assert!(simple(&one).try_acquire().await.unwrap().is_none());
    let waiting = beside({
        let lock = simple(&other);
        async move { lock.acquire().await.unwrap() }
    });
    let token = guard.fencing_token();
    guard.release().await.unwrap();
    let guard = soon("grant", waiting).await.unwrap();
    assert!(guard.fencing_token() > token);
    drop(guard);
    drop(soon("grant", simple(&one).acquire()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simple_lock_deletes_nothing_of_others() {
    let server = server().await;
    let (one, other) = (server.client(LONG).await, server.client(LONG).await);
    let guard = simple(&one).acquire().await.unwrap();
    one.delete(guard.node(), None).await.unwrap();
    let next = simple(&other).acquire().await.unwrap();
    soon("loss", guard.lost()).await;
    drop(guard);
    nothing_left(&one).await;
    one.sync("/").await.unwrap();
    assert!(!next.state().is_lost());
    assert!(one.exists(next.node()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simple_lock_leaves_nothing_behind() {
    let server = Servers::start(Duration::from_secs(2)).await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    dropped_at_every_await(&client, async || simple(&client).acquire().await).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |_| {
        let guard = simple(&client).acquire().await.unwrap();
        guard.release().await.unwrap();
        let guard = simple(&client).acquire().await.unwrap();
        drop(guard);
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 6, "{happened}");
    assert_eq!(client.get_children("/locks").await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_repeated_leaves_the_next_holder_alone() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let one = connect(&relay.address(), LONG).await;
    let other = server.client(LONG).await;
    let guard = simple(&one).acquire().await.unwrap();
    let next = simple(&other);
    let next = beside(async move { next.acquire().await.unwrap() });
    // The znode goes at once, and the one who let go has to ask again.
    relay.inject(Fault::LoseReply(OpCode::Delete));
    soon("the release", guard.release()).await.unwrap();
    let next = soon("the next holder", next).await.unwrap();
    other.sync("/").await.unwrap();
    assert!(other.exists("/locks/simple").await.unwrap().is_some());
    assert!(!next.state().is_lost());
}
