//! Configuration.

use futures::StreamExt;
use futures::future::join_all;
use quorate_recipes::{Client, Config, ConfigTree, CreateMode, Error, Json};

use crate::relay::{Fault, Relay};
use crate::support::{
    LONG, OPERATIONS, beside, connect, nothing_left, server, soon, with_every_fault,
};
use quorate_proto::OpCode;

const KEY: &str = "/config/limit";

fn config(client: &Client) -> Config<Json<u64>> {
    Config::new(client, KEY)
}

fn increment(now: Option<Json<u64>>) -> Option<Json<u64>> {
    Some(Json(now.map_or(0, |now| now.0) + 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_set_read_changed_and_followed() {
    let server = server().await;
    let client = server.client(LONG).await;
    let config = config(&client);
    assert_eq!(config.get().await.unwrap(), None);
    let mut versions = config.watch();
    assert_eq!(
        soon("nothing", versions.next()).await.unwrap().unwrap(),
        None
    );
    config.set(&Json(7)).await.unwrap();
    let first = soon("a value", versions.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!((first.value, first.version), (Json(7), 0));
    assert_eq!(config.update(increment).await.unwrap(), Some(Json(8)));
    let second = soon("a value", versions.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(second.value, Json(8));
    assert!(second.zxid > first.zxid);
    assert_eq!(config.update(|_| None).await.unwrap(), Some(Json(8)));
    // What is no value is told, and followed further.
    client.set_data(KEY, "eight", None).await.unwrap();
    let error = soon("an error", versions.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&error, Error::Payload { path, .. } if path == KEY),
        "{error}"
    );
    assert!(matches!(
        config.update(increment).await,
        Err(Error::Payload { .. })
    ));
    config.delete().await.unwrap();
    config.delete().await.unwrap();
    assert_eq!(
        soon("nothing", versions.next()).await.unwrap().unwrap(),
        None
    );
    assert_eq!(config.update(increment).await.unwrap(), Some(Json(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_value_is_never_missed_and_none_is_older_than_the_one_before() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, writer) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let mut versions = config(&client).watch();
    let follower = beside(async move {
        let mut newest = (0, 0);
        while let Some(version) = versions.next().await {
            if let Some(version) = version.unwrap() {
                assert!(version.zxid > newest.0 && version.value.0 > newest.1);
                newest = (version.zxid, version.value.0);
                if newest.1 == 500 {
                    return;
                }
            }
        }
    });
    for n in 1..=500 {
        config(&writer).set(&Json(n)).await.unwrap();
        if n % 50 == 0 {
            relay.interrupt();
        }
        if n % 90 == 0 {
            config(&writer).delete().await.unwrap();
        }
    }
    soon("the last value", follower).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_does_not_undo_what_others_do_next() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, operator) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let (ours, theirs) = (config(&client), config(&operator));
    let mut versions = theirs.watch();
    let mut until = async |value: Option<u64>| {
        while soon("a version", versions.next())
            .await
            .unwrap()
            .unwrap()
            .map(|version| version.value.0)
            != value
        {}
    };
    for (value, operation) in [(1, OpCode::SetData), (3, OpCode::Multi)] {
        theirs.set(&Json(0)).await.unwrap();
        relay.inject(Fault::LoseReply(operation));
        let setting = beside({
            let ours = ours.clone();
            async move { ours.set(&Json(value)).await }
        });
        until(Some(value)).await;
        theirs.set(&Json(value + 1)).await.unwrap();
        soon("the end", setting).await.unwrap().unwrap();
        relay.withdraw_faults();
        let left = theirs.get().await.unwrap().unwrap();
        assert_eq!(left.value, Json(value + 1), "{operation:?}");
    }
    relay.inject(Fault::LoseReply(OpCode::Delete));
    let deleting = beside(async move { ours.delete().await });
    until(None).await;
    theirs.set(&Json(5)).await.unwrap();
    soon("the end", deleting).await.unwrap().unwrap();
    assert_eq!(theirs.get().await.unwrap().unwrap().value, Json(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_many_are_all_made_once() {
    const EACH: usize = 25;
    let server = server().await;
    let relays = join_all((0..4).map(|_| Relay::start(server.address()))).await;
    let writers: Vec<_> = relays
        .iter()
        .map(|relay| {
            let address = relay.address();
            beside(async move {
                let client = connect(&address, LONG).await;
                let config = config(&client);
                for _ in 0..EACH {
                    config.update(increment).await.unwrap();
                }
            })
        })
        .collect();
    for n in 0..12 {
        relays[n % 4].inject(Fault::LoseReply(OpCode::Multi));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for writer in writers {
        soon("a writer", writer).await.unwrap();
    }
    let client = server.client(LONG).await;
    let total = config(&client).get().await.unwrap().unwrap().value;
    assert_eq!(total, Json(4 * EACH as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let config = config(&client);
        config.delete().await.unwrap();
        assert_eq!(
            config.update(increment).await.unwrap(),
            Some(Json(1)),
            "{fault:?}"
        );
        assert_eq!(
            config.update(increment).await.unwrap(),
            Some(Json(2)),
            "{fault:?}"
        );
        assert_eq!(
            config.get().await.unwrap().unwrap().value,
            Json(2),
            "{fault:?}"
        );
        config.set(&Json(9)).await.unwrap();
        drop(config);
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 8, "{happened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_values_is_followed() {
    let server = server().await;
    let client = server.client(LONG).await;
    let set = async |key: &str, value: &str| {
        let config: Config<String> = Config::new(&client, format!("/config/{key}"));
        config.set(&value.to_owned()).await.unwrap();
    };
    set("database/url", "db://a").await;
    set("name", "test").await;
    let tree: ConfigTree<String> = ConfigTree::new(&client, "/config");
    tree.ready().await.unwrap();
    assert_eq!(tree.get("database/url").unwrap().unwrap(), "db://a");
    assert_eq!(tree.get("database").unwrap(), None);
    assert_eq!(tree.values().len(), 2);
    let mut changes = tree.changes();
    set("name", "production").await;
    let value = soon("the change", async {
        loop {
            let (key, value) = changes.next().await.unwrap().unwrap();
            if key == "name" && value.as_deref() != Some("test") {
                return value;
            }
        }
    })
    .await;
    assert_eq!(value.unwrap(), "production");
    client.delete("/config/name", None).await.unwrap();
    let gone = soon("the end", changes.next()).await.unwrap().unwrap();
    assert_eq!(gone, ("name".to_owned(), None));
    client
        .create("/config/odd", &[0xff_u8][..], CreateMode::Persistent)
        .await
        .unwrap();
    assert!(matches!(
        soon("an error", changes.next()).await.unwrap(),
        Err(Error::Payload { .. })
    ));
}
