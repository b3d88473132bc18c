//! What a guard promises to its holder.

use std::time::Duration;

use quorate_proto::OpCode;
use quorate_recipes::client::{self, TransactionResult};
use quorate_recipes::{CreateMode, Error, HoldState, Lock, LostReason};
use tokio::time::Instant;

use crate::relay::{Fault, Relay, Traffic};
use crate::support::{
    LONG, PATH, Servers, assert_node_deleted, children, connect, contenders, lock, no_orphans,
    server, soon,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_is_released_once_and_at_once() {
    let server = server().await;
    let client = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    assert_eq!(guard.path(), PATH);
    assert_eq!(guard.state(), HoldState::Held);
    let stat = client.exists(guard.node()).await.unwrap().unwrap();
    assert_eq!(guard.fencing_token().get(), stat.czxid);
    assert_eq!(stat.ephemeral_owner, client.session().unwrap().id().0);

    let lost = guard.lost();
    guard.release().await.unwrap();
    assert_eq!(soon("lost", lost).await, LostReason::Released);
    assert_eq!(children(&client, PATH).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_guard_is_released_before_the_next_request() {
    let server = server().await;
    let client = server.client(LONG).await;
    for _ in 0..50 {
        let guard = lock(&client).try_acquire().await.unwrap();
        drop(guard.expect("nobody else is there"));
    }
    no_orphans(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_rise_even_if_the_parent_is_created_anew() {
    let server = server().await;
    let client = server.client(LONG).await;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        let guard = lock(&client).acquire().await.unwrap();
        tokens.push(guard.fencing_token());
        assert!(guard.node().ends_with("0000000000"), "{}", guard.node());
        guard.release().await.unwrap();
        client.delete(PATH, None).await.unwrap();
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_are_created_as_containers_when_they_are_missing() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let lock = Lock::new(&client, "/a/b/c");
    for _ in 0..2 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    assert!(client.exists("/a/b/c").await.unwrap().is_some());
    // Those that found no parent, and those that did.
    assert_eq!(relay.traffic().requests(OpCode::CreateContainer), 3 + 2);
    assert_eq!(relay.traffic().requests(OpCode::Create2), 1 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_loses_the_lock() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    let guard = lock(&client).acquire().await.unwrap();
    operator.delete(guard.node(), None).await.unwrap();
    assert_eq!(soon("loss", guard.lost()).await, LostReason::NodeDeleted);
    assert_eq!(guard.state(), HoldState::Lost(LostReason::NodeDeleted));
    assert_node_deleted(&guard.release().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_set_on_the_node_changes_nothing() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    let guard = lock(&client).acquire().await.unwrap();
    for n in 0..10 {
        let data = format!("__REVOKE__{n}");
        operator.set_data(guard.node(), &data, None).await.unwrap();
    }
    // The watch that each change uses up is there again in the end.
    assert_eq!(guard.state(), HoldState::Held);
    operator.delete(guard.node(), None).await.unwrap();
    assert_eq!(soon("loss", guard.lost()).await, LostReason::NodeDeleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_session_loses_the_lock() {
    let server = server().await;
    let client = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    client.close().await.unwrap();
    // Whichever the client heard of first.
    let reason = soon("loss", guard.lost()).await;
    assert!(
        matches!(reason, LostReason::Closed | LostReason::NodeDeleted),
        "{reason}"
    );
    assert!(matches!(guard.release().await, Err(Error::Lost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_interruption_makes_the_lock_suspect_and_no_more() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    let mut state = guard.watch_state();
    relay.cut();
    let suspect = state.wait_for(|state| matches!(state, HoldState::Suspect { .. }));
    soon("suspicion", suspect).await.unwrap();
    relay.heal();
    let held = state.wait_for(|state| *state == HoldState::Held);
    soon("confirmation", held).await.unwrap();
    guard.release().await.unwrap();
    no_orphans(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_deleted_while_the_connection_is_away_is_found_lost() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let operator = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    relay.cut();
    operator.delete(guard.node(), None).await.unwrap();
    relay.heal();
    assert_eq!(soon("loss", guard.lost()).await, LostReason::NodeDeleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_another_session_has_made_its_own_is_found_lost() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let operator = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    relay.cut();
    operator.delete(guard.node(), None).await.unwrap();
    let mode = CreateMode::Ephemeral;
    operator.create(guard.node(), "", mode).await.unwrap();
    relay.heal();
    let owner = operator.session().unwrap().id();
    assert_eq!(
        soon("loss", guard.lost()).await,
        LostReason::NodeTaken { owner }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_can_be_dropped_outside_of_the_runtime() {
    let server = server().await;
    let (client, observer) = (server.client(LONG).await, server.client(LONG).await);
    let guard = lock(&client).acquire().await.unwrap();
    drop(client);
    std::thread::spawn(|| drop(guard)).join().unwrap();
    no_orphans(&observer).await;
}

/// The holder must know before the next contender is let in, whether its server is silent or its
/// connection refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_knows_before_the_next_one_holds() {
    let server = Servers::start(Duration::from_millis(100)).await;
    for silence in [Relay::freeze, Relay::cut] {
        let relay = Relay::start(server.address()).await;
        let timeout = Duration::from_secs(1);
        let holder = connect(&relay.address(), timeout).await;
        let waiter = server.client(timeout).await;
        let guard = lock(&holder).acquire().await.unwrap();
        let next = tokio::spawn({
            let lock = lock(&waiter);
            async move { (lock.acquire().await.unwrap(), Instant::now()) }
        });
        contenders(&waiter, 2).await;
        let cut_off = Instant::now();
        silence(&relay);
        let lost = soon("loss", guard.lost()).await;
        let known = Instant::now();
        assert_eq!(lost, LostReason::Unconfirmed);
        let until = guard.valid_until().unwrap();
        assert!(until < cut_off + timeout);
        assert!(known >= until);
        let late = known - until;
        assert!(late < Duration::from_millis(500), "{late:?} late");
        let (next, granted) = soon("the next grant", next).await.unwrap();
        assert!(until < granted);
        assert!(next.fencing_token() > guard.fencing_token());
        // Neither its clock nor the healed line makes it holder again.
        relay.heal();
        assert_eq!(guard.state(), HoldState::Lost(LostReason::Unconfirmed));
        next.release().await.unwrap();
        no_orphans(&waiter).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_was_given_up_in_time_frees_the_lock_when_the_server_is_heard_again() {
    let server = Servers::start(Duration::from_secs(10)).await;
    let relay = Relay::start(server.address()).await;
    // The server would keep the session: it lets sessions last for two of its ticks at least.
    let holder = connect(&relay.address(), Duration::from_secs(20)).await;
    let guard = lock(&holder).acquire().await.unwrap();
    relay.cut();
    drop(guard);
    let waiter = server.client(LONG).await;
    let next = lock(&waiter);
    assert!(next.try_acquire().await.unwrap().is_none());
    relay.heal();
    let next = soon("the next grant", next.acquire()).await;
    next.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_write_while_the_lock_is_held_and_not_after() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    client
        .create("/value", "0", CreateMode::Persistent)
        .await
        .unwrap();
    let guard = lock(&client).acquire().await.unwrap();

    let written = guard
        .transaction()
        .set_data("/value", "1", 0)
        .check("/value", 1);
    let results = written.commit().await.unwrap();
    assert!(
        matches!(
            results[..],
            [TransactionResult::DataSet(_), TransactionResult::Checked]
        ),
        "{results:?}"
    );
    // A failure of its own counts the caller's operations, and loses nothing.
    let failed = guard
        .transaction()
        .check("/value", 1)
        .check("/value", 0)
        .commit()
        .await;
    assert!(
        matches!(
            failed,
            Err(Error::Client(client::Error::Transaction { index: 1, .. }))
        ),
        "{failed:?}"
    );
    assert_eq!(guard.state(), HoldState::Held);

    let prepared = guard.transaction().set_data("/value", "2", None);
    operator.delete(guard.node(), None).await.unwrap();
    let refused = prepared.commit().await;
    assert_node_deleted(&refused);
    assert_eq!(guard.state(), HoldState::Lost(LostReason::NodeDeleted));
    assert_eq!(&client.get_data("/value").await.unwrap().0[..], b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_survives_the_loss_of_its_reply_and_of_its_request() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    for fault in [
        Fault::LoseReply(OpCode::Delete),
        Fault::LoseRequest(OpCode::Delete),
    ] {
        let guard = lock(&client).acquire().await.unwrap();
        relay.inject(fault);
        soon("release", guard.release()).await.unwrap();
        assert!(relay.traffic().is_through_with_faults(), "{fault:?}");
        assert_eq!(children(&client, PATH).await.len(), 0, "{fault:?}");
        let guard = lock(&client).acquire().await.unwrap();
        relay.inject(fault);
        drop(guard);
        relay.until(Traffic::is_through_with_faults).await;
        no_orphans(&client).await;
    }
}
