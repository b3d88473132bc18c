//! Recipes through handles that see a part of the tree only: they meet those who see all of it, and
//! speak of paths as each handle sees them.

use futures::StreamExt;
use quorate_recipes::{Client, CreateMode, Election, Error, Lock};

use crate::support::{LONG, beside, children, nothing_left, server, soon};

/// A handle that sees `/apps/billing` only. What is above is there when it can be used.
async fn billing(client: &Client) -> Client {
    for path in ["/apps", "/apps/billing"] {
        let create = || client.create(path, "", CreateMode::Persistent);
        client.retry_idempotent(create).await.unwrap();
    }
    client
        .with_chroot("/apps")
        .unwrap()
        .with_chroot("/billing")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_one_lock_however_much_its_handles_see() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    let inner = billing(&client).await;
    let whole = Lock::new(&other, "/apps/billing/lock").data("all");
    let part = Lock::new(&inner, "/lock").data("part");

    let held = part.acquire().await.unwrap();
    assert_eq!(held.path(), "/lock");
    assert!(held.node().starts_with("/lock/"), "{}", held.node());
    other.sync("/apps/billing/lock").await.unwrap();
    assert!(whole.try_acquire().await.unwrap().is_none());
    let waiting = beside({
        let whole = whole.clone();
        async move { whole.acquire().await }
    });
    // Both see both, by the paths that each of them has.
    soon("two contenders", async {
        while part.contenders().await.unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (lock, prefix) in [(&part, "/lock/"), (&whole, "/apps/billing/lock/")] {
        let contenders = lock.contenders().await.unwrap();
        assert!(contenders.iter().all(|one| one.node.starts_with(prefix)));
        let data: Vec<_> = contenders.iter().map(|one| &one.data[..]).collect();
        assert_eq!(data, [&b"part"[..], b"all"]);
    }
    // What the guard writes is in the part that its handle sees.
    let written = held.transaction().create("/n", "", CreateMode::Persistent);
    written.commit().await.unwrap();
    assert!(
        children(&client, "/apps/billing")
            .await
            .contains(&"n".to_owned())
    );
    assert!(whole.revoke().await.unwrap());
    soon("the request to let go", held.revoked()).await;
    let token = held.fencing_token();
    held.release().await.unwrap();
    let next = soon("the next grant", waiting).await.unwrap().unwrap();
    assert!(next.fencing_token() > token);
    // Errors name the path as the handle sees it.
    inner
        .create("/lock/notes", "", CreateMode::Persistent)
        .await
        .unwrap();
    let error = part.acquire().await.unwrap_err();
    assert!(
        matches!(&error, Error::ForeignChild { path } if path == "/lock/notes"),
        "{error}"
    );
    next.release().await.unwrap();
    nothing_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_is_one_election_however_much_its_handles_see() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    let inner = billing(&client).await;
    let whole = Election::new(&other, "/apps/billing/election").data("all");
    let part = Election::new(&inner, "/election").data("part");

    let leading = part.campaign().await.unwrap();
    let mut candidacy = whole.stand();
    let mut leaders = part.observe();
    let first = soon("a leader", leaders.next()).await.unwrap().unwrap();
    assert_eq!(first.unwrap().node, leading.node());
    leading.proclaim("part, still").await.unwrap();
    let again = soon("its word", leaders.next()).await.unwrap().unwrap();
    assert_eq!(&again.unwrap().data[..], b"part, still");
    assert!(!candidacy.is_leader());

    let token = leading.fencing_token();
    leading.resign().await.unwrap();
    let leadership = soon("the next", candidacy.leading()).await.unwrap();
    assert!(leadership.fencing_token() > token);
    assert!(leadership.node().starts_with("/apps/billing/election/"));
    let next = loop {
        let next = soon("the next leader", leaders.next()).await.unwrap();
        if let Some(next) = next.unwrap().filter(|next| next.token > token) {
            break next;
        }
    };
    assert!(next.node.starts_with("/election/"), "{}", next.node);
    assert_eq!(&next.data[..], b"all");
    drop((leadership, candidacy));
    nothing_left(&other).await;
    nothing_left(&client).await;
}
