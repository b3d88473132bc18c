//! Groups, and znodes that are looked after.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use quorate_recipes::{Client, CreateMode, Group, GroupEvent, Layout, NodeState, PersistentNode};

use crate::relay::Relay;
use crate::support::{
    LONG, OPERATIONS, PATH, Servers, beside, children, connect, dropped_at_every_await,
    nothing_left, server, soon, with_every_fault,
};

fn group(client: &Client) -> Group<String> {
    Group::new(client, PATH)
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_those_who_joined() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    assert!(group(&client).members().await.unwrap().is_empty());
    let a = group(&client).join("a", &text("one")).await.unwrap();
    let b = group(&other).join("b", &text("two")).await.unwrap();
    let members = group(&client).members().await.unwrap();
    let expected = [(text("a"), text("one")), (text("b"), text("two"))];
    assert_eq!(members, BTreeMap::from(expected));
    assert_eq!(children(&client, PATH).await.len(), 2);
    a.leave().await.unwrap();
    assert_eq!(group(&client).ids().await.unwrap().len(), 1);
    drop(b);
    nothing_left(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_kazoos_parties_have_their_names() {
    let server = server().await;
    let client = server.client(LONG).await;
    let party = group(&client).layout(Layout::Kazoo);
    let one = party.join("a", &text("host-1")).await.unwrap();
    assert!(one.node().path().ends_with("__party__"));
    let members = party.members().await.unwrap();
    assert_eq!(members.values().collect::<Vec<_>>(), ["host-1"]);
    one.leave().await.unwrap();
    let shallow = group(&client).layout(Layout::Kazoo).shallow();
    let two = shallow.join("host-2", &String::new()).await.unwrap();
    assert!(two.node().path().ends_with("-host-2"));
    assert_eq!(
        shallow.ids().await.unwrap().into_iter().collect::<Vec<_>>(),
        ["host-2"]
    );
    drop(two);
    nothing_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_changes_goes_or_dies_is_seen() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let relay = Relay::start(server.address()).await;
    let (client, watching) = (
        server.client(LONG).await,
        connect(&relay.address(), LONG).await,
    );
    let dying = server.client(Duration::from_millis(200)).await;
    let mut events = group(&watching).events();
    let mut snapshots = group(&watching).watch();
    let mut ids = group(&watching).watch_ids();
    let mut next = async || soon("an event", events.next()).await.unwrap().unwrap();
    assert_eq!(next().await, GroupEvent::Initialized);
    let a = group(&client).join("a", &text("one")).await.unwrap();
    let joined = |id, payload| GroupEvent::Joined {
        id: text(id),
        payload: text(payload),
    };
    assert_eq!(next().await, joined("a", "one"));
    a.set(&text("uno")).unwrap();
    let updated = GroupEvent::Updated {
        id: text("a"),
        payload: text("uno"),
    };
    assert_eq!(next().await, updated);
    let b = group(&dying).join("b", &text("two")).await.unwrap();
    assert_eq!(next().await, joined("b", "two"));
    soon("both", async {
        while snapshots.next().await.unwrap().unwrap().len() != 2 {}
        while ids.next().await.unwrap().unwrap().len() != 2 {}
    })
    .await;
    // One dies while nobody looks.
    relay.cut();
    dying.detach().await.unwrap();
    soon("expiry", async {
        while group(&client).ids().await.unwrap().len() == 2 {}
    })
    .await;
    relay.heal();
    assert_eq!(next().await, GroupEvent::Left { id: text("b") });
    drop(b);
    a.leave().await.unwrap();
    assert_eq!(next().await, GroupEvent::Left { id: text("a") });
    soon("nobody", async {
        while !snapshots.next().await.unwrap().unwrap().is_empty() {}
        while !ids.next().await.unwrap().unwrap().is_empty() {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_that_comes_is_told_once() {
    const MEMBERS: usize = 100;
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, watching) = (
        server.client(LONG).await,
        connect(&relay.address(), LONG).await,
    );
    let mut events = group(&watching).events();
    assert_eq!(
        soon("an event", events.next()).await.unwrap().unwrap(),
        GroupEvent::Initialized
    );
    let before = relay.traffic().notifications();
    let joining = (0..MEMBERS).map(|n| {
        let group = group(&client);
        async move { group.join(&n.to_string(), &String::new()).await.unwrap() }
    });
    let members = join_all(joining).await;
    for _ in 0..MEMBERS {
        soon("a member", events.next()).await.unwrap().unwrap();
    }
    // One more if the znode of the group was created meanwhile.
    let told = relay.traffic().notifications() - before;
    assert!(told <= MEMBERS + 3, "{told}");
    drop(members);
    nothing_left(&client).await;
}

/// The znode of the last life of a process is still there when the next one begins, and goes when it
/// expires: somebody must create it again then.
#[tokio::test(flavor = "multi_thread")]
async fn a_znode_of_the_dead_is_not_taken_for_the_new_one() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let before = server.client(Duration::from_millis(300)).await;
    let client = server.client(LONG).await;
    let old = group(&before).join("a", &text("old")).await.unwrap();
    let owner = before.session().unwrap().id();
    before.detach().await.unwrap();
    drop(old);
    let node = PersistentNode::new(&client, format!("{PATH}/a"), "new");
    let mut state = node.watch_state();
    let taken = state.wait_for(|state| matches!(state, NodeState::Taken { .. }));
    let taken = soon("the old one", taken).await.unwrap().clone();
    assert!(matches!(taken, NodeState::Taken { owner: found } if found == owner));
    soon("the new one", node.present()).await.unwrap();
    let (data, stat) = client.get_data(node.path()).await.unwrap();
    assert_eq!(data, "new");
    assert_eq!(stat.ephemeral_owner, client.session().unwrap().id().0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_znode_that_is_looked_after_comes_back() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let (client, other) = (
        connect(&relay.address(), LONG).await,
        server.client(LONG).await,
    );
    let node = PersistentNode::new(&client, "/a/b/node", "0");
    soon("the znode", node.present()).await.unwrap();
    let is = async |data: &str| {
        soon(data, async {
            while !other
                .get_data("/a/b/node")
                .await
                .is_ok_and(|(found, _)| found == data)
            {}
        })
        .await;
    };
    other.delete("/a/b/node", None).await.unwrap();
    is("0").await;
    other.set_data("/a/b/node", "x", None).await.unwrap();
    is("0").await;
    relay.cut();
    other.delete("/a/b/node", None).await.unwrap();
    node.set("1");
    relay.heal();
    is("1").await;
    node.close().await.unwrap();
    assert!(other.exists("/a/b/node").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_others_is_touched() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    other
        .create("/mine", "mine", CreateMode::Ephemeral)
        .await
        .unwrap();
    let node = PersistentNode::new(&client, "/mine", "yours");
    let mut state = node.watch_state();
    let taken = state.wait_for(|state| matches!(state, NodeState::Taken { .. }));
    soon("the other", taken).await.unwrap();
    node.set("yours, really");
    node.close().await.unwrap();
    assert_eq!(other.get_data("/mine").await.unwrap().0, "mine");
    // A parent that cannot have children is an error that says so.
    let refused = PersistentNode::new(&client, "/mine/child", "");
    let error = soon("refusal", refused.present()).await.unwrap_err();
    assert!(error.to_string().contains("/mine/child"), "{error}");
    let ended = soon("the end", refused.ended()).await;
    assert_eq!(ended.to_string(), error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_do_no_harm() {
    let server = server().await;
    let relay = Relay::start(server.address()).await;
    let client = connect(&relay.address(), LONG).await;
    let happened = with_every_fault(&relay, &OPERATIONS, async |fault| {
        let member = group(&client).join("a", &text("one")).await.unwrap();
        assert_eq!(children(&client, PATH).await, ["a"], "{fault:?}");
        member.leave().await.unwrap();
        assert!(children(&client, PATH).await.is_empty(), "{fault:?}");
    })
    .await;
    assert!(happened >= 6, "{happened}");
    dropped_at_every_await(&client, async || {
        group(&client).join("a", &text("one")).await
    })
    .await;
    let end = tokio::time::Instant::now() + Duration::from_secs(1);
    while tokio::time::Instant::now() < end {
        let joining = beside({
            let group = group(&client);
            async move { group.join("a", &text("one")).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
        joining.abort();
        relay.interrupt();
    }
    nothing_left(&client).await;
}
