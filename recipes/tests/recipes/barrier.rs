//! Barriers, simple and double.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::OpCode;
use quorate_recipes::{Barrier, Client, CreateMode, DoubleBarrier, Error, Inside, Layout};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::relay::{Fault, Relay};
use crate::support::{
    LONG, OPERATIONS, PATH, Servers, beside, children, connect, contenders, dropped_at_every_await,
    nothing_left, server, soon, with_every_fault,
};

#[tokio::test(flavor = "multi_thread")]
async fn everybody_waits_until_the_barrier_opens() {
    const WAITERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let barrier = Barrier::new(&client, PATH);
    soon("an open barrier", barrier.wait()).await.unwrap();
    barrier.close().await.unwrap();
    barrier.close().await.unwrap();
    assert!(barrier.is_closed().await.unwrap());
    let waiting: Vec<_> = (0..WAITERS)
        .map(|_| {
            let barrier = barrier.clone();
            beside(async move { barrier.wait().await })
        })
        .collect();
    relay.waiting(WAITERS).await;
    let late = barrier.wait_timeout(Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    // Waiting outlives the connection, also if the barrier opens while that is away.
    relay.cut();
    let operator = server.client(LONG).await;
    Barrier::new(&operator, PATH).open().await.unwrap();
    Barrier::new(&operator, PATH).open().await.unwrap();
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    relay.heal();
    for waiting in waiting {
        soon("the opening", waiting).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_can_open_when_its_owner_dies() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let owner = server.client(Duration::from_millis(200)).await;
    let client = server.client(LONG).await;
    let held = Barrier::new(&owner, PATH).close_while_held().await.unwrap();
    let held = held.unwrap();
    let barrier = Barrier::new(&client, PATH);
    assert!(barrier.close_while_held().await.unwrap().is_none());
    let waiting = beside(async move { barrier.wait().await });
    owner.detach().await.unwrap();
    soon("the opening", waiting).await.unwrap().unwrap();
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_do_not_matter_to_a_barrier() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let barrier = Barrier::new(&client, PATH);
    with_every_fault(&relay, &OPERATIONS, async |_| {
        barrier.close().await.unwrap();
        assert!(barrier.is_closed().await.unwrap());
        barrier.open().await.unwrap();
        barrier.wait().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_that_is_closed_again_is_not_opened_twice() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, operator) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let closed = Barrier::new(&operator, PATH);
    closed.close().await.unwrap();
    relay.inject(Fault::LoseReply(OpCode::Delete));
    let opening = beside(async move { Barrier::new(&client, PATH).open().await });
    soon("the opening", closed.wait()).await.unwrap();
    closed.close().await.unwrap();
    soon("its end", opening).await.unwrap().unwrap();
    assert!(!relay.withdraw_faults());
    assert!(closed.is_closed().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_that_is_opened_again_is_not_closed_twice() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, operator) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let opened = Barrier::new(&operator, PATH);
    Barrier::new(&client, PATH).close().await.unwrap();
    opened.open().await.unwrap();
    relay.inject(Fault::LoseReply(OpCode::Multi));
    let closing = beside(async move { Barrier::new(&client, PATH).close().await });
    soon("a closed barrier", async {
        while !opened.is_closed().await.unwrap() {}
    })
    .await;
    opened.open().await.unwrap();
    soon("its end", closing).await.unwrap().unwrap();
    assert!(!relay.withdraw_faults());
    assert!(!opened.is_closed().await.unwrap());
}

fn double(client: &Client, members: usize) -> DoubleBarrier {
    DoubleBarrier::new(client, PATH, members)
}

fn entering(barrier: DoubleBarrier) -> JoinHandle<Result<Inside, Error>> {
    beside(async move { barrier.enter().await })
}

#[tokio::test(flavor = "multi_thread")]
async fn all_enter_together_and_all_leave_together() {
    let server = server().await;
    let client = server.client(LONG).await;
    for layout in [Layout::Curator, Layout::Kazoo] {
        let barrier = double(&client, 3).layout(layout);
        let mut members = vec![entering(barrier.clone()), entering(barrier.clone())];
        contenders(&client, 2).await;
        assert!(members.iter().all(|member| !member.is_finished()));
        members.push(entering(barrier.clone()));
        let mut inside = Vec::new();
        for member in members {
            inside.push(soon("entry", member).await.unwrap().unwrap());
        }
        assert_eq!(barrier.members().await.unwrap().len(), 3);
        let last = inside.pop().unwrap();
        let leaving: Vec<_> = inside.into_iter().map(|one| beside(one.leave())).collect();
        sleep(Duration::from_millis(100)).await;
        assert!(leaving.iter().all(|leaving| !leaving.is_finished()));
        last.leave().await.unwrap();
        for leaving in leaving {
            soon("the end", leaving).await.unwrap().unwrap();
        }
        assert_eq!(children(&client, PATH).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_tells_each_that_the_room_is_open() {
    const MEMBERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let barrier = double(&client, MEMBERS + 1);
    let waiting: Vec<_> = (0..MEMBERS).map(|_| entering(barrier.clone())).collect();
    contenders(&server.client(LONG).await, MEMBERS).await;
    relay
        .until(|traffic| traffic.requests(quorate_proto::OpCode::GetChildren) >= MEMBERS)
        .await;
    // Nobody hears of those who come.
    assert_eq!(relay.traffic().notifications(), 0);
    let last = barrier.enter().await.unwrap();
    let inside = soon("entry", join_all(waiting)).await;
    // All of them share one session, which hears of it once.
    assert_eq!(relay.traffic().notifications(), 1);
    let mut leaving: Vec<_> = inside
        .into_iter()
        .map(|one| beside(one.unwrap().unwrap().leave()))
        .collect();
    leaving.push(beside(last.leave()));
    for leaving in leaving {
        soon("the end", leaving).await.unwrap().unwrap();
    }
    // One for each deletion that somebody waited for, however many waited for the last.
    assert!(relay.traffic().notifications() <= MEMBERS + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gave_up_or_died_is_not_counted() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(200)).await;
    let barrier = double(&client, 2);
    let late = barrier.enter_timeout(Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    contenders(&client, 0).await;
    let dead = entering(double(&dying, 2));
    contenders(&client, 1).await;
    let session = dying.session().unwrap().id();
    dying.detach().await.unwrap();
    let refused = soon("the end", dead).await.unwrap().unwrap_err();
    assert!(refused.is_session_over(), "{refused}");
    soon("expiry", async {
        while barrier
            .members()
            .await
            .unwrap()
            .iter()
            .any(|one| one.session == session)
        {}
    })
    .await;
    let one = entering(barrier.clone());
    contenders(&client, 1).await;
    assert!(!one.is_finished());
    let other = barrier.enter().await.unwrap();
    let one = soon("entry", one).await.unwrap().unwrap();
    // Whoever dies inside is not waited for, and whoever gives up waiting has left.
    drop(one);
    soon("the end", other.leave()).await.unwrap();
    nothing_left(&client).await;
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').unwrap().0
}

/// The room was open when all who were inside died: it is not open for those who come next.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_was_left_open_does_not_count() {
    let server = server().await;
    let client = server.client(LONG).await;
    for members in [2, 3] {
        let barrier = double(&client, members);
        for parent in [parent_of(PATH), PATH] {
            if client.exists(parent).await.unwrap().is_none() {
                let created = client.create(parent, "", CreateMode::Persistent);
                created.await.unwrap();
            }
        }
        let ready = format!("{PATH}/ready");
        client
            .create(&ready, "", CreateMode::Persistent)
            .await
            .unwrap();
        let mut waiting = Vec::new();
        for n in 1..members {
            waiting.push(entering(barrier.clone()));
            contenders(&client, n).await;
        }
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        waiting.push(entering(barrier.clone()));
        let inside = soon("entry", join_all(waiting)).await;
        let leaving = inside.into_iter().map(|one| one.unwrap().unwrap().leave());
        for left in soon("the end", join_all(leaving)).await {
            left.unwrap();
        }
        assert_eq!(children(&client, PATH).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_joins_those_inside() {
    let server = server().await;
    let client = server.client(LONG).await;
    let barrier = double(&client, 2);
    let one = entering(barrier.clone());
    let other = barrier.enter().await.unwrap();
    let one = soon("entry", one).await.unwrap().unwrap();
    let late = soon("late entry", barrier.enter()).await.unwrap();
    let leaving = join_all([one, other, late].map(Inside::leave));
    for left in soon("the end", leaving).await {
        left.unwrap();
    }
}

/// Nobody is in a round before everybody has left the one before, whoever dawdles and whatever is
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_barrier_is_used_again_and_again() {
    const MEMBERS: usize = 4;
    const ROUNDS: usize = 15;
    let server = server().await;
    let relays = join_all((0..MEMBERS).map(|_| Relay::start(server.address()))).await;
    let (inside, round) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let members: Vec<_> = relays
        .iter()
        .map(|relay| {
            let (address, inside, round) = (relay.address(), inside.clone(), round.clone());
            beside(async move {
                let client = connect(&address, LONG).await;
                let barrier = double(&client, MEMBERS);
                for n in 0..ROUNDS {
                    sleep(Duration::from_millis(fastrand::u64(..10))).await;
                    // So many have begun to enter this round or an earlier one.
                    round.fetch_add(1, Ordering::SeqCst);
                    let entered = barrier.enter().await.unwrap();
                    assert!(
                        round.load(Ordering::SeqCst) >= (n + 1) * MEMBERS,
                        "round {n}"
                    );
                    inside.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(fastrand::u64(..10))).await;
                    entered.leave().await.unwrap();
                    assert!(
                        inside.load(Ordering::SeqCst) >= (n + 1) * MEMBERS,
                        "round {n}"
                    );
                }
            })
        })
        .collect();
    let members = beside(join_all(members));
    let end = Instant::now() + Duration::from_secs(5);
    while !members.is_finished() && Instant::now() < end {
        sleep(Duration::from_millis(fastrand::u64(20..100))).await;
        fastrand::choice(&relays).unwrap().interrupt();
    }
    for member in soon("the end", members).await.unwrap() {
        member.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, other) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let happened = with_every_fault(&relay, &OPERATIONS, async |_| {
        let entering = entering(double(&other, 2));
        let one = double(&client, 2).enter().await.unwrap();
        let two = entering.await.unwrap().unwrap();
        let (one, two) = tokio::join!(one.leave(), two.leave());
        one.unwrap();
        two.unwrap();
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 6, "{happened}");
    dropped_at_every_await(&client, async || double(&client, 2).enter().await).await;
    dropped_at_every_await(&client, async || {
        double(&client, 1).enter().await.unwrap().leave().await
    })
    .await;
}
