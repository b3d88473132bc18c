//! Leader election.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_recipes::{Client, CreateMode, Election, Error, Layout, LostReason};
use tokio::time::{Instant, sleep};

use crate::relay::Relay;
use crate::support::{
    LONG, OPERATIONS, PATH, Servers, assert_node_deleted, beside, connect, contenders,
    dropped_at_every_await, nothing_left, server, soon, with_every_fault,
};

fn election(client: &Client, who: &str) -> Election {
    Election::new(client, PATH).data(who)
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_lead_in_the_order_in_which_they_stand() {
    let server = server().await;
    let client = server.client(LONG).await;
    for layout in [Layout::Curator, Layout::Kazoo] {
        let election = |who| election(&client, who).layout(layout);
        let mut leading = election("0").campaign().await.unwrap();
        let mut waiting = Vec::new();
        for (n, who) in ["1", "2", "3"].into_iter().enumerate() {
            let election = election(who);
            waiting.push(beside(async move { election.campaign().await.unwrap() }));
            contenders(&client, n + 2).await;
        }
        let listed = election("").candidates().await.unwrap();
        let names: Vec<_> = listed.iter().map(|one| one.data.to_vec()).collect();
        assert_eq!(names, [b"0", b"1", b"2", b"3"]);
        for waiting in waiting {
            let token = leading.fencing_token();
            leading.resign().await.unwrap();
            leading = soon("the next leader", waiting).await.unwrap();
            assert!(leading.fencing_token() > token);
            let leader = election("").leader().await.unwrap().unwrap();
            assert_eq!(leader.node, leading.node());
        }
        leading.resign().await.unwrap();
        assert!(election("").leader().await.unwrap().is_none());
    }
    let latch = election(&client, "").campaign().await.unwrap();
    assert!(latch.node().contains("-latch-"));
    drop(latch);
    contenders(&client, 0).await;
    let selector = election(&client, "")
        .like_selector()
        .campaign()
        .await
        .unwrap();
    assert!(selector.node().contains("-lock-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_see_each_leader_and_not_the_other_candidates() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, watching) = (
        server.client(LONG).await,
        connect(&relay.address(), LONG).await,
    );
    let mut leaders = election(&watching, "").observe();
    let next = async |leaders: &mut (dyn futures::Stream<Item = _> + Send + Unpin)| {
        let leader: Result<Option<quorate_recipes::Contender>, Error> =
            soon("a leader", leaders.next()).await.unwrap();
        leader
            .unwrap()
            .map(|leader| String::from_utf8_lossy(&leader.data).into_owned())
    };
    assert_eq!(next(&mut leaders).await, None);
    let one = election(&client, "one").campaign().await.unwrap();
    assert_eq!(next(&mut leaders).await.unwrap(), "one");
    let events = relay.traffic().notifications();
    let mut candidates: FuturesUnordered<_> = (0..100)
        .map(|_| {
            let election = election(&client, "other");
            beside(async move { election.campaign().await })
        })
        .collect();
    contenders(&client, 101).await;
    assert_eq!(relay.traffic().notifications(), events);
    one.proclaim("uno").await.unwrap();
    assert_eq!(next(&mut leaders).await.unwrap(), "uno");
    one.resign().await.unwrap();
    assert_eq!(next(&mut leaders).await.unwrap(), "other");
    // The connection may be away in between.
    relay.cut();
    while let Some(candidate) = soon("leadership", candidates.next()).await {
        drop(candidate.unwrap().unwrap());
    }
    contenders(&client, 0).await;
    relay.heal();
    assert_eq!(next(&mut leaders).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_candidate_hears_that_the_leader_resigns() {
    const CANDIDATES: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let mut leading = election(&client, "").campaign().await.unwrap();
    let mut waiting: Vec<_> = (0..CANDIDATES)
        .map(|_| {
            let election = election(&client, "");
            beside(async move { election.campaign().await.unwrap() })
        })
        .collect();
    relay.waiting(CANDIDATES).await;
    for resigned in 1..=CANDIDATES {
        leading.resign().await.unwrap();
        let (next, _, others) = soon("a leader", futures::future::select_all(waiting)).await;
        (leading, waiting) = (next.unwrap(), others);
        assert_eq!(relay.traffic().notifications(), resigned);
    }
}

/// Whoever leads hears at once that its candidacy was deleted, and takes part again.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_node_is_deleted_steps_down_and_stands_again() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    let mut candidacy = election(&client, "me").stand();
    let first = soon("leadership", candidacy.leading()).await.unwrap();
    operator.delete(first.node(), None).await.unwrap();
    assert_eq!(soon("loss", first.lost()).await, LostReason::NodeDeleted);
    assert!(first.proclaim("still me").await.is_err());
    let again = soon("leadership again", async {
        loop {
            let next = candidacy.leading().await.unwrap();
            if next.fencing_token() > first.fencing_token() {
                return next;
            }
        }
    })
    .await;
    assert!(candidacy.is_leader());
    // It ends with the session, and says so.
    client.close().await.unwrap();
    soon("loss", again.lost()).await;
    assert!(!candidacy.is_leader());
    let ended = soon("the end", async {
        loop {
            if let Err(error) = candidacy.leading().await {
                return error;
            }
        }
    })
    .await;
    assert!(ended.is_session_over(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidacy_ends_when_it_is_dropped() {
    let server = server().await;
    let client = server.client(LONG).await;
    for leading in [true, false] {
        let first = match leading {
            true => None,
            false => Some(election(&client, "first").campaign().await.unwrap()),
        };
        let mut candidacy = election(&client, "me").stand();
        contenders(&client, 2 - usize::from(leading)).await;
        if leading {
            drop(soon("leadership", candidacy.leading()).await.unwrap());
        }
        drop(candidacy);
        drop(first);
        nothing_left(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_with_the_leadership() {
    let server = server().await;
    let (client, operator) = (server.client(LONG).await, server.client(LONG).await);
    let done = election(&client, "me")
        .lead(async |leadership| leadership.fencing_token())
        .await;
    assert!(done.unwrap().get() > 0);
    let candidate = election(&client, "me");
    let cut = candidate.lead(async |leadership| {
        operator.delete(leadership.node(), None).await.unwrap();
        std::future::pending::<()>().await;
    });
    let cut = soon("the end", cut).await;
    assert_node_deleted(&cut);
    nothing_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_znode_of_another_recipe_is_an_error_that_names_it() {
    let server = server().await;
    let client = server.client(LONG).await;
    drop(election(&client, "me").campaign().await.unwrap());
    let path = format!("{PATH}/_c_x-lock-0000000000");
    client
        .create(&path, "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let refused = election(&client, "me").campaign().await;
    assert!(
        matches!(&refused, Err(Error::ForeignChild { path: found }) if *found == path),
        "{refused:?}"
    );
    assert!(client.exists(&path).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let leadership = election(&client, "me").campaign().await.unwrap();
        leadership.proclaim("me, really").await.unwrap();
        let observed = election(&client, "")
            .observe()
            .next()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(observed.unwrap().data, "me, really", "{fault:?}");
        leadership.resign().await.unwrap();
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 6, "{happened}");
    dropped_at_every_await(&client, async || election(&client, "me").campaign().await).await;
}

/// Leaders are cut off and killed; no two lead at once, by their own account.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_never_more_than_one_leader() {
    const SESSION: Duration = Duration::from_millis(500);
    let server = Servers::start(Duration::from_millis(50)).await;
    let (leaders, terms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let end = Instant::now() + Duration::from_secs(5);
    let candidates: Vec<_> = (0..4)
        .map(|n| {
            let (address, leaders, terms) = (server.address(), leaders.clone(), terms.clone());
            beside(async move {
                let relay = Relay::start(address).await;
                while Instant::now() < end {
                    relay.heal();
                    let client = connect(&relay.address(), SESSION).await;
                    let candidate = election(&client, &n.to_string());
                    let _ = candidate
                        .lead(async |leadership| {
                            terms.fetch_add(1, Ordering::SeqCst);
                            for step in 0..fastrand::u64(1..100) {
                                if step == 20 {
                                    relay.cut();
                                }
                                if leadership.state().is_lost() {
                                    return;
                                }
                                assert_eq!(leaders.fetch_add(1, Ordering::SeqCst), 0);
                                leaders.fetch_sub(1, Ordering::SeqCst);
                                sleep(Duration::from_millis(5)).await;
                            }
                        })
                        .await;
                    relay.heal();
                    if fastrand::bool() {
                        let _ = client.detach().await;
                    }
                }
            })
        })
        .collect();
    for candidate in candidates {
        soon("the end of a candidate", candidate).await.unwrap();
    }
    let terms = terms.load(Ordering::SeqCst);
    assert!(terms > 4, "{terms} terms");
}
