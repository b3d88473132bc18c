//! Counters, shared values, ids and leases.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use quorate_proto::OpCode;
use quorate_recipes::{
    Client, Counter, CreateMode, Encoding, Error, IdGenerator, Lease, SharedValue,
};
use tokio::time::{Instant, sleep};

use crate::relay::{Fault, Relay};
use crate::support::{
    LONG, OPERATIONS, beside, connect, nothing_left, server, soon, with_every_fault,
};

const COUNTER: &str = "/counters/visits";

fn counter(client: &Client) -> Counter {
    Counter::new(client, COUNTER)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_counts() {
    let server = server().await;
    let client = server.client(LONG).await;
    for encoding in [Encoding::Long, Encoding::Int, Encoding::Text] {
        let path = format!("/counters/{encoding:?}");
        let counter = Counter::new(&client, &path).encoding(encoding);
        assert_eq!(counter.get().await.unwrap(), 0);
        let mut values = counter.watch();
        assert_eq!(soon("nothing", values.next()).await.unwrap().unwrap(), 0);
        assert_eq!(counter.add(5).await.unwrap(), 5);
        assert_eq!(counter.add(-7).await.unwrap(), -2);
        assert!(!counter.compare_and_set(5, 6).await.unwrap());
        assert!(counter.compare_and_set(-2, 6).await.unwrap());
        soon("the value", async {
            while values.next().await.unwrap().unwrap() != 6 {}
        })
        .await;
        counter.set(i64::from(i32::MAX)).await.unwrap();
        match encoding {
            Encoding::Int => {
                let refused = counter.add(1).await;
                assert!(
                    matches!(refused, Err(Error::Overflow { delta: 1, .. })),
                    "{refused:?}"
                );
            }
            _ => assert_eq!(counter.add(1).await.unwrap(), 1 << 31),
        }
        client.set_data(&path, "what?", None).await.unwrap();
        let refused = counter.add(1).await;
        assert!(
            matches!(&refused, Err(Error::Mismatch { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().to_string().contains(&path));
    }
    // kazoo creates it empty.
    client
        .create("/counters/empty", "", CreateMode::Persistent)
        .await
        .unwrap();
    assert_eq!(
        Counter::new(&client, "/counters/empty")
            .add(1)
            .await
            .unwrap(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_count_nothing_twice() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let mut expected = 0;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let counter = counter(&client);
        for _ in 0..2 {
            expected += 1;
            assert_eq!(counter.add(1).await.unwrap(), expected, "{fault:?}");
            assert_eq!(counter.get().await.unwrap(), expected, "{fault:?}");
        }
        assert!(
            counter
                .compare_and_set(expected, expected + 1)
                .await
                .unwrap(),
            "{fault:?}"
        );
        expected += 1;
        drop(counter);
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 6, "{happened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_count_together() {
    const EACH: usize = 30;
    let server = server().await;
    let relays = join_all((0..4).map(|_| Relay::start(server.address()))).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let address = relays[n % 4].address();
            beside(async move {
                let client = connect(&address, LONG).await;
                let mut seen = Vec::new();
                for _ in 0..EACH {
                    seen.push(counter(&client).add(1).await.unwrap());
                }
                seen
            })
        })
        .collect();
    let tasks = beside(join_all(tasks));
    let end = Instant::now() + Duration::from_secs(3);
    while !tasks.is_finished() && Instant::now() < end {
        let relay = fastrand::choice(&relays).unwrap();
        match fastrand::bool() {
            true => relay.interrupt(),
            false => relay.inject(Fault::LoseReply(OpCode::Multi)),
        }
        sleep(Duration::from_millis(50)).await;
    }
    let seen = soon("the end", tasks).await.unwrap();
    let seen: BTreeSet<i64> = seen.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(seen, (1..=8 * EACH as i64).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_given_out_once() {
    let server = server().await;
    let clients = join_all((0..3).map(|_| server.client(LONG))).await;
    let ids = clients.iter().map(|client| async move {
        let generator = IdGenerator::new(Counter::new(client, "/ids"), 7);
        let mut ids = Vec::new();
        for _ in 0..50 {
            ids.push(generator.next().await.unwrap());
        }
        ids
    });
    let ids: Vec<_> = join_all(ids).await.concat();
    let different: BTreeSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_value_is_changed_from_what_was_read_only() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let text = |text: &str| text.to_owned();
    let colour = SharedValue::new(&client, "/values/colour", text("red"));
    let red = colour.get().await.unwrap();
    assert_eq!((&red.value[..], red.version), ("red", 0));
    // An answer that is lost does not make a success a failure.
    relay.inject(Fault::LoseReply(OpCode::Multi));
    assert!(colour.compare_and_set(&red, &text("blue")).await.unwrap());
    assert!(relay.traffic().is_through_with_faults());
    assert!(!colour.compare_and_set(&red, &text("green")).await.unwrap());
    assert_eq!(colour.get().await.unwrap().value, "blue");
    assert_eq!(
        colour
            .config()
            .update(|_| Some(text("black")))
            .await
            .unwrap()
            .unwrap(),
        "black"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_value_that_was_deleted_and_written_anew_is_another_one() {
    let server = server().await;
    let client = server.client(LONG).await;
    let text = |text: &str| text.to_owned();
    let colour = SharedValue::new(&client, "/values/colour", text("red"));
    let red = colour.get().await.unwrap();
    colour.config().delete().await.unwrap();
    let again = colour.get().await.unwrap();
    assert_eq!((&again.value, again.version), (&red.value, red.version));
    assert!(!colour.compare_and_set(&red, &text("blue")).await.unwrap());
    assert_eq!(colour.get().await.unwrap(), again);
    assert!(colour.compare_and_set(&again, &text("blue")).await.unwrap());
    // Nor is there anything to exchange where nothing is.
    colour.config().delete().await.unwrap();
    assert!(
        !colour
            .compare_and_set(&again, &text("green"))
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_holder_has_a_lease_until_its_end() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let hour = Duration::from_secs(3600);
    let [one, other] = ["one", "other"].map(|name| Lease::new(&client, "/lease", name));
    assert_eq!(one.term().await.unwrap(), None);
    assert!(one.obtain(Duration::from_secs(1)).await.unwrap());
    assert!(!other.obtain(hour).await.unwrap());
    assert_eq!(other.term().await.unwrap().unwrap().holder, "one");
    assert!(!other.end().await.unwrap());
    soon("the end", async {
        while !other.obtain(hour).await.unwrap() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(!one.obtain(hour).await.unwrap());
    assert!(other.end().await.unwrap());
    assert!(one.obtain(hour).await.unwrap());
    let (data, _) = client.get_data("/lease/lease_holder").await.unwrap();
    let text = String::from_utf8(data.to_vec()).unwrap();
    assert!(
        text.starts_with(r#"{"version":1,"holder":"one","end":"20"#),
        "{text}"
    );

    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        assert!(one.obtain(hour).await.unwrap(), "{fault:?}");
        assert!(one.end().await.unwrap(), "{fault:?}");
        client.delete("/lease/lease_holder", None).await.ok();
        nothing_left(&client).await;
    })
    .await;
    assert!(happened >= 6, "{happened}");
    for broken in [
        "?",
        r#"{"version":2,"holder":"x","end":"2026-01-31T00:00:00"}"#,
        r#"{"version":1,"holder":"x","end":"tomorrow"}"#,
    ] {
        client.delete("/lease/lease_holder", None).await.ok();
        let mode = CreateMode::Persistent;
        client
            .create("/lease/lease_holder", broken, mode)
            .await
            .unwrap();
        let error = one.obtain(hour).await.unwrap_err();
        assert!(error.to_string().contains("/lease/lease_holder"), "{error}");
    }
}
