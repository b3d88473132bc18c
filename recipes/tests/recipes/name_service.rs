//! Services that are found by name.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use quorate_recipes::{Client, CreateMode, Instance, NameService, Pick};

use crate::relay::Relay;
use crate::support::{
    LONG, OPERATIONS, Servers, connect, dropped_at_every_await, nothing_left, server, soon,
    with_every_fault,
};

fn names(client: &Client) -> NameService {
    NameService::new(client, "/services")
}

fn instance(id: &str) -> Instance<String> {
    Instance::new("mail").id(id).address("10.0.0.7").port(25)
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_found_for_as_long_as_they_live() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(200)).await;
    assert!(names(&client).services().await.unwrap().is_empty());
    assert!(
        names(&client)
            .resolve::<String>("mail")
            .await
            .unwrap()
            .is_empty()
    );
    let mut found = names(&client).watch::<String>("mail");
    assert!(
        soon("nothing", found.next())
            .await
            .unwrap()
            .unwrap()
            .is_empty()
    );
    let one = names(&client)
        .register(&instance("1").payload("eu".into()))
        .await
        .unwrap();
    let two = names(&dying).register(&instance("2")).await.unwrap();
    names(&client).publish(&instance("3")).await.unwrap();
    assert_eq!(names(&client).services().await.unwrap(), ["mail"]);
    let resolved = names(&client).resolve::<String>("mail").await.unwrap();
    assert_eq!(resolved.len(), 3);
    assert_eq!(resolved[0].payload.as_deref(), Some("eu"));
    soon("three", async {
        while found.next().await.unwrap().unwrap().len() != 3 {}
    })
    .await;
    dying.detach().await.unwrap();
    soon("two", async {
        while found.next().await.unwrap().unwrap().len() != 2 {}
    })
    .await;
    drop(two);
    names(&client).withdraw(&instance("3")).await.unwrap();
    one.close().await.unwrap();
    soon("none", async {
        while !found.next().await.unwrap().unwrap().is_empty() {}
    })
    .await;
}

/// An instance that goes and comes at each reconnect would be seen to do so.
#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_does_not_register_anew() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, other) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let node = names(&client).register(&instance("1")).await.unwrap();
    let before = other.exists(node.path()).await.unwrap().unwrap();
    for _ in 0..5 {
        relay.interrupt();
        client.retry(|| client.exists("/")).await.unwrap();
    }
    let after = other.exists(node.path()).await.unwrap().unwrap();
    assert_eq!((before.czxid, before.mzxid), (after.czxid, after.mzxid));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_picked() {
    let server = server().await;
    let client = server.client(LONG).await;
    let mut registrations = Vec::new();
    for id in ["1", "2", "3"] {
        registrations.push(names(&client).register(&instance(id)).await.unwrap());
    }
    let mut disabled = instance("4");
    disabled.enabled = Some(false);
    registrations.push(names(&client).register(&disabled).await.unwrap());
    // What is no instance is passed over.
    let mode = CreateMode::Persistent;
    client
        .create("/services/mail/empty", "", mode)
        .await
        .unwrap();
    for pick in [Pick::RoundRobin, Pick::Random, Pick::Sticky] {
        let mail = names(&client).resolver::<String>("mail", pick);
        mail.ready().await.unwrap();
        assert_eq!(mail.instances().len(), 4);
        let picked: Vec<_> = (0..60).map(|_| mail.pick().unwrap().id).collect();
        let different: BTreeSet<_> = picked.iter().collect();
        let expected = if pick == Pick::Sticky { 1 } else { 3 };
        assert_eq!(different.len(), expected, "{pick:?}");
        if pick == Pick::RoundRobin {
            assert!(picked.windows(2).all(|pair| pair[0] != pair[1]));
        }
        mail.failed(&picked[0]);
        assert!((0..60).any(|_| mail.pick().unwrap().id == picked[0]));
        mail.failed(&picked[0]);
        assert!((0..60).all(|_| mail.pick().unwrap().id != picked[0]));
    }
    let nobody = names(&client).resolver::<String>("nobody", Pick::Random);
    nobody.ready().await.unwrap();
    assert!(nobody.pick().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let node = names(&client).register(&instance("1")).await.unwrap();
        let found = client
            .retry(|| client.get_children("/services/mail"))
            .await
            .unwrap();
        assert_eq!(found, ["1"], "{fault:?}");
        node.close().await.unwrap();
    })
    .await;
    assert!(happened >= 4, "{happened}");
    dropped_at_every_await(&client, async || {
        names(&client).register(&instance("1")).await
    })
    .await;
    nothing_left(&client).await;
}
