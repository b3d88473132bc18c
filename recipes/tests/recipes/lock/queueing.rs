//! How contenders wait.

use std::time::Duration;

use futures::future::join_all;
use quorate_proto::OpCode;
use quorate_recipes::{Client, CreateMode, Error, Guard, Layout, Lock, client};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::relay::{Fault, Relay, Traffic};
use crate::support::{
    LONG, PATH, Servers, children, connect, contenders, dropped_at_every_await, lock, no_orphans,
    server, soon,
};

fn acquiring(lock: Lock) -> JoinHandle<Result<Guard, Error>> {
    tokio::spawn(async move { lock.acquire().await })
}

#[tokio::test(flavor = "multi_thread")]
async fn contenders_get_the_lock_in_the_order_in_which_they_asked() {
    let server = server().await;
    let clients = join_all((0..3).map(|_| server.client(LONG))).await;
    let first = lock(&clients[0]).acquire().await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..9 {
        let lock = lock(&clients[n % 3]).data(format!("waiter {n}"));
        waiting.push(acquiring(lock));
        contenders(&clients[0], n + 2).await;
    }
    let listed = lock(&clients[0]).contenders().await.unwrap();
    assert_eq!(listed[0].token, first.fencing_token());
    assert_eq!(listed[0].node, first.node());
    for (n, contender) in listed[1..].iter().enumerate() {
        assert_eq!(contender.data, format!("waiter {n}"));
        let session = clients[n % 3].session().unwrap().id();
        assert_eq!(contender.session, session);
    }
    first.release().await.unwrap();
    for (waiter, contender) in waiting.into_iter().zip(&listed[1..]) {
        let guard = soon("grant", waiter).await.unwrap().unwrap();
        assert_eq!(guard.fencing_token(), contender.token);
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_waiter_hears_of_a_release_however_many_there_are() {
    const WAITERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let clients = join_all((0..10).map(|_| async { connect(&relay.address(), LONG).await })).await;
    let mut guard = lock(&clients[0]).acquire().await.unwrap();
    let mut waiting: Vec<_> = (0..WAITERS)
        .map(|n| acquiring(lock(&clients[n % clients.len()])))
        .collect();
    contenders(&server.client(LONG).await, WAITERS + 1).await;
    relay.waiting(WAITERS).await;
    assert_eq!(relay.traffic().notifications(), 0);
    for released in 1..=WAITERS {
        let lists = relay.traffic().requests(OpCode::GetChildren);
        guard.release().await.unwrap();
        let (granted, _, others) = soon("grant", futures::future::select_all(waiting)).await;
        (guard, waiting) = (granted.unwrap().unwrap(), others);
        // One event, one look at the queue: the waiter that had nobody but the holder in front needs
        // none.
        let looks = usize::from(released > 1);
        assert_eq!(relay.traffic().notifications(), released);
        assert_eq!(relay.traffic().requests(OpCode::GetChildren), lists + looks);
    }
    assert_eq!(relay.traffic().requests(OpCode::GetData), WAITERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_gives_up_lets_those_behind_it_move_up() {
    let server = server().await;
    let client = server.client(LONG).await;
    let holder = lock(&client).acquire().await.unwrap();
    let relay = Relay::start(server.address()).await;
    let waiter = connect(&relay.address(), LONG).await;
    let impatient = acquiring(lock(&waiter));
    relay.waiting(1).await;
    let patient = acquiring(lock(&waiter));
    relay.waiting(2).await;
    impatient.abort();
    // It watches the one in front of the one that has gone.
    relay.waiting(3).await;
    contenders(&client, 2).await;
    holder.release().await.unwrap();
    drop(soon("grant", patient).await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn trying_takes_a_free_lock_and_leaves_a_held_one() {
    let server = server().await;
    let (one, other) = (server.client(LONG).await, server.client(LONG).await);
    let guard = lock(&one).try_acquire().await.unwrap().unwrap();
    assert!(lock(&other).try_acquire().await.unwrap().is_none());
    // Neither can the holder take it twice.
    assert!(lock(&one).try_acquire().await.unwrap().is_none());
    contenders(&other, 1).await;
    guard.release().await.unwrap();
    assert!(lock(&other).try_acquire().await.unwrap().is_some());
}

/// Each wake-up would start the time anew if there were not one deadline for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn one_deadline_covers_all_wake_ups() {
    let server = server().await;
    let client = server.client(LONG).await;
    let _holder = lock(&client).acquire().await.unwrap();
    let mut ahead = Vec::new();
    for n in 0..5 {
        ahead.push(acquiring(lock(&client)));
        contenders(&client, n + 2).await;
    }
    let within = Duration::from_millis(600);
    let started = Instant::now();
    let waiting = tokio::spawn({
        let lock = lock(&client);
        async move { lock.acquire_timeout(within).await }
    });
    // Each of those ahead goes away shortly before the time would be up.
    let mut pace = tokio::time::interval_at(started + within / 6, within / 6);
    while let Some(last) = ahead.pop() {
        pace.tick().await;
        last.abort();
    }
    let error = soon("timeout", waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let took = started.elapsed();
    assert!(took >= within && took < within * 2, "{took:?}");
    contenders(&client, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_reply_is_lost_is_found_again() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    for fault in [
        Fault::LoseReply(OpCode::Create2),
        Fault::LoseRequest(OpCode::Create2),
        Fault::LoseReply(OpCode::CreateContainer),
        Fault::LoseReply(OpCode::GetChildren),
        Fault::LoseReply(OpCode::Exists),
    ] {
        if fault == Fault::LoseReply(OpCode::CreateContainer) {
            client.delete(PATH, None).await.unwrap();
        }
        relay.inject(fault);
        let guard = soon("grant", lock(&client).acquire()).await.unwrap();
        assert!(relay.traffic().is_through_with_faults(), "{fault:?}");
        let names = children(&client, PATH).await;
        assert_eq!(names.len(), 1, "{fault:?}: {names:?}");
        assert!(guard.node().ends_with(&names[0]), "{fault:?}");
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_by_a_future_that_is_dropped_at_any_await() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, holder) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    for held in [false, true] {
        let _guard = match held {
            true => Some(lock(&holder).acquire().await.unwrap()),
            false => None,
        };
        dropped_at_every_await(&client, async || lock(&client).acquire().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_by_a_future_that_is_dropped_while_its_create_is_unanswered() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, observer) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    for fault in [
        Fault::LoseReply(OpCode::Create2),
        Fault::LoseRequest(OpCode::Create2),
    ] {
        let before = relay.traffic().requests(OpCode::Create2);
        relay.inject(fault);
        let waiting = acquiring(lock(&client));
        relay.until(Traffic::is_through_with_faults).await;
        waiting.abort();
        let _ = waiting.await;
        // Whatever it was doing, a client of the same session can take the lock and leave it.
        let guard = soon("grant", lock(&client).acquire()).await.unwrap();
        guard.release().await.unwrap();
        no_orphans(&observer).await;
        assert!(relay.traffic().requests(OpCode::Create2) > before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_survives_interruptions_and_restarts() {
    let mut server = Servers::start_mortal(Duration::from_secs(2)).await;
    let relay = Relay::start(server.address()).await;
    let (holder, waiter) = (
        server.client(LONG).await,
        connect(&relay.address(), LONG).await,
    );
    let guard = lock(&holder).acquire().await.unwrap();
    let waiting = acquiring(lock(&waiter));
    contenders(&holder, 2).await;
    relay.interrupt();
    soon("reconnect", waiter.get_data("/")).await.ok();
    server.restart().await;
    soon("reconnect", holder.connected()).await.unwrap();
    soon("reconnect", waiter.connected()).await.unwrap();
    // The lock is released while the waiter is away, which finds out when it is back.
    relay.cut();
    soon("release", guard.release()).await.unwrap();
    relay.heal();
    let guard = soon("grant", waiting).await.unwrap().unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_session_expires_is_told() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let relay = Relay::start(server.address()).await;
    let holder = server.client(LONG).await;
    let waiter = connect(&relay.address(), Duration::from_millis(200)).await;
    let _guard = lock(&holder).acquire().await.unwrap();
    let waiting = acquiring(lock(&waiter));
    contenders(&holder, 2).await;
    relay.cut();
    contenders(&holder, 1).await;
    relay.heal();
    let error = soon("error", waiting).await.unwrap().unwrap_err();
    assert!(error.is_session_over());
    assert!(
        matches!(error, Error::Client(client::Error::SessionExpired { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_node_was_deleted_queues_again() {
    let server = server().await;
    let client = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    let waiting = acquiring(lock(&client));
    contenders(&client, 2).await;
    let listed = lock(&client).contenders().await.unwrap();
    client.delete(&listed[1].node, None).await.unwrap();
    guard.release().await.unwrap();
    let guard = soon("grant", waiting).await.unwrap().unwrap();
    assert!(guard.fencing_token() > listed[1].token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_parent_was_deleted_creates_it_again() {
    let server = server().await;
    let client = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    let waiting = acquiring(lock(&client));
    contenders(&client, 2).await;
    let listed = lock(&client).contenders().await.unwrap();
    let mut everything = client.transaction();
    for contender in listed.iter().rev() {
        everything = everything.delete(&contender.node, None);
    }
    everything.delete(PATH, None).commit().await.unwrap();
    let next = soon("grant", waiting).await.unwrap().unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    assert!(client.exists(next.node()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_set_on_the_predecessor_is_no_release() {
    let server = server().await;
    let client = server.client(LONG).await;
    let guard = lock(&client).acquire().await.unwrap();
    let relay = Relay::start(server.address()).await;
    let waiter = connect(&relay.address(), LONG).await;
    let waiting = acquiring(lock(&waiter));
    for n in 1..=5 {
        relay.waiting(n).await;
        client
            .set_data(guard.node(), "__REVOKE__", None)
            .await
            .unwrap();
    }
    // It has used up five watches, and waits with the sixth.
    relay.waiting(6).await;
    assert_eq!(relay.traffic().requests(OpCode::GetChildren), 1);
    guard.release().await.unwrap();
    drop(soon("grant", waiting).await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_child_is_an_error_that_names_it() {
    let server = server().await;
    let client = server.client(LONG).await;
    drop(lock(&client).acquire().await.unwrap());
    for (layout, name) in [
        (Layout::Curator, "notes"),
        (
            Layout::Curator,
            "de305d5475b4431badb2eb6b9e546014__lock__0000000007",
        ),
        (
            Layout::Kazoo,
            "_c_de305d54-75b4-431b-adb2-eb6b9e546014-lock-0000000007",
        ),
    ] {
        let path = format!("{PATH}/{name}");
        client
            .create(&path, "", CreateMode::Ephemeral)
            .await
            .unwrap();
        let lock = lock(&client).layout(layout);
        let error = soon("error", lock.acquire()).await.unwrap_err();
        assert!(
            matches!(&error, Error::ForeignChild { path: found } if *found == path),
            "{error}"
        );
        assert!(lock.contenders().await.is_err());
        client.delete(&path, None).await.unwrap();
        contenders(&client, 0).await;
    }
    // kazoo does not mind what has no number.
    client
        .create(&format!("{PATH}/notes"), "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let lock = lock(&client).layout(Layout::Kazoo);
    lock.acquire().await.unwrap().release().await.unwrap();
}

/// Contenders of other programs, as raw creates, on both sides of ours.
#[tokio::test(flavor = "multi_thread")]
async fn contenders_of_other_programs_are_waited_for_in_order() {
    let server = server().await;
    let client = server.client(LONG).await;
    let id = "de305d54-75b4-431b-adb2-eb6b9e546014";
    for (layout, prefix) in [
        (Layout::Curator, format!("_c_{id}-lock-")),
        (Layout::Curator, "lock-".to_owned()),
        (Layout::Kazoo, format!("{}__lock__", id.replace('-', ""))),
    ] {
        let other = async || {
            let path = format!("{PATH}/{prefix}");
            let mode = CreateMode::EphemeralSequential;
            client.create(&path, "10.0.0.7", mode).await.unwrap().path
        };
        drop(lock(&client).layout(layout).acquire().await.unwrap());
        let before = other().await;
        let relay = Relay::start(server.address()).await;
        let waiter = connect(&relay.address(), LONG).await;
        let waiting = acquiring(lock(&waiter).layout(layout));
        relay.waiting(1).await;
        let behind = other().await;
        client.delete(&before, None).await.unwrap();
        let guard = soon("grant", waiting).await.unwrap().unwrap();
        let name = guard.node().strip_prefix(&format!("{PATH}/")).unwrap();
        let (guid, number) = name.split_at(name.len() - 10);
        assert!(number.bytes().all(|b| b.is_ascii_digit()), "{name}");
        match layout {
            Layout::Kazoo => assert_eq!(guid.len(), 32 + "__lock__".len(), "{name}"),
            _ => assert_eq!(guid.len(), "_c_".len() + 36 + "-lock-".len(), "{name}"),
        }
        guard.release().await.unwrap();
        client.delete(&behind, None).await.unwrap();
    }
}

/// Numbers around the point where they wrap, and equal ones, as servers at the end of their
/// counter give them out.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_creation_holds_where_numbers_wrap_or_repeat() {
    let server = server().await;
    let client = server.client(LONG).await;
    drop(lock(&client).acquire().await.unwrap());
    no_orphans(&client).await;
    let raw = async |name: &str| {
        let path = format!("{PATH}/{name}");
        client
            .create(&path, "", CreateMode::Ephemeral)
            .await
            .unwrap()
            .path
    };
    // Far behind by the numbers, although created before.
    let after = raw("lock--2147483648").await;
    let guard = soon("grant", lock(&client).acquire()).await.unwrap();
    let number = &guard.node()[guard.node().len() - 10..];
    // As old by the number, but younger.
    let twin = raw(&format!("lock-{number}")).await;
    guard.release().await.unwrap();
    client.delete(&after, None).await.unwrap();
    client.delete(&twin, None).await.unwrap();
    // The number that comes next, taken already.
    let next = format!("lock-{:010}", children_created(&client).await + 1);
    let before = raw(&next).await;
    let relay = Relay::start(server.address()).await;
    let waiter = connect(&relay.address(), LONG).await;
    let waiting = acquiring(lock(&waiter));
    relay.waiting(1).await;
    let listed = lock(&client).contenders().await.unwrap();
    assert_eq!(listed[0].node, before);
    assert!(listed[1].node.ends_with(&next[5..]), "{listed:?}");
    client.delete(&before, None).await.unwrap();
    drop(soon("grant", waiting).await.unwrap().unwrap());
}

/// The number that the server would append to the next child.
async fn children_created(client: &Client) -> i32 {
    let probe = format!("{PATH}/lock-");
    let created = client
        .create(&probe, "", CreateMode::EphemeralSequential)
        .await;
    let path = created.unwrap().path;
    client.delete(&path, None).await.unwrap();
    path[path.len() - 10..].parse::<i32>().unwrap() + 1
}
