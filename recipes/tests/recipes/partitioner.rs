//! Things that are divided among members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_recipes::{Client, Partitioner, Share};
use tokio::time::{Instant, sleep};

use crate::relay::Relay;
use crate::support::{LONG, PATH, Servers, beside, connect, nothing_left, server, soon};

const ITEMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn partitioner(client: &Client) -> Partitioner {
    Partitioner::new(client, PATH, ITEMS)
}

/// Awaits that a member has so many.
async fn has(share: &mut Share, number: usize) {
    soon(&format!("a share of {number}"), async {
        while share.guards().len() != number {
            share.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_divided_and_divided_again() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(200)).await;
    let mut one = partitioner(&client).join("one").await.unwrap();
    has(&mut one, 6).await;
    let kept = one.guards();
    let mut two = partitioner(&dying).join("two").await.unwrap();
    has(&mut one, 3).await;
    // What goes to another is held for as long as it is used here.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(two.guards().len(), 0);
    let before = kept["a"].fencing_token().max(kept["f"].fencing_token());
    drop(kept);
    has(&mut two, 3).await;
    assert!(
        two.guards()
            .values()
            .all(|guard| guard.fencing_token() > before)
    );
    assert!(
        two.guards()
            .keys()
            .all(|item| !one.guards().contains_key(item))
    );
    // What the dead had goes to those who live.
    dying.detach().await.unwrap();
    has(&mut one, 6).await;
    let third = partitioner(&client).join("three").await.unwrap();
    has(&mut one, 3).await;
    third.leave().await.unwrap();
    has(&mut one, 6).await;
    // Whoever loses one gets it again.
    let node = one.guards()["a"].node().to_owned();
    client.delete(&node, None).await.unwrap();
    soon("another guard", async {
        while one
            .guards()
            .get("a")
            .is_none_or(|guard| guard.node() == node)
        {
            one.changed().await.unwrap();
        }
    })
    .await;
    drop(one);
    nothing_left(&client).await;
    let error = soon("the end", async {
        loop {
            if let Err(error) = two.changed().await {
                return error;
            }
        }
    })
    .await;
    assert!(error.is_session_over(), "{error}");
}

/// Members come, go and are cut off; nothing is ever used by two.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_belongs_to_two() {
    let server = server().await;
    let users = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let end = Instant::now() + Duration::from_secs(3);
    let members: Vec<_> = (0..4)
        .map(|n| {
            let (address, users) = (server.address(), Arc::clone(&users));
            beside(async move {
                let relay = Relay::start(address).await;
                let client = connect(&relay.address(), LONG).await;
                let mut used = 0;
                while Instant::now() < end {
                    let share = partitioner(&client)
                        .join(&format!("host-{n}"))
                        .await
                        .unwrap();
                    for _ in 0..fastrand::u32(1..60) {
                        for (item, guard) in &*share.guards() {
                            let user = users.lock().insert(item.clone(), n);
                            assert!(user.is_none(), "{item} belongs to {user:?} and {n}");
                            used += usize::from(!guard.state().is_lost());
                            sleep(Duration::from_millis(1)).await;
                            users.lock().remove(item);
                        }
                        sleep(Duration::from_millis(2)).await;
                        if fastrand::u8(..20) == 0 {
                            relay.interrupt();
                        }
                    }
                    share.leave().await.unwrap();
                }
                used
            })
        })
        .collect();
    let mut used = 0;
    for member in members {
        used += soon("a member", member).await.unwrap();
    }
    assert!(used > 50, "{used}");
}
