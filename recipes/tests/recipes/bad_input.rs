//! Bad input is an error that names the path and the cause, and costs nobody else anything: every
//! recipe is asked for the same impossible things.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use quorate_recipes::client::Error as ClientError;
use quorate_recipes::coordination::{Cluster, Worker, WorkerInfo};
use quorate_recipes::{
    Acl, Barrier, Cache, Client, Config, ConfigTree, Counter, CreateMode, CreateOptions,
    DelayQueue, DoubleBarrier, Election, Encoding, Error, Group, IdGenerator, Instance, Json,
    Layout, Lease, Lock, MultiLock, NameService, Partitioner, Perms, PersistentNode, PriorityQueue,
    Queue, ReentrantLock, RwLock, Semaphore, SharedValue, SimpleLock,
};
use quorate_server::Ensemble;
use tokio::time::timeout;

use crate::support::{LONG, nothing_left, server};

type Outcome = Result<(), Error>;

/// Something that a recipe is asked for at a path.
struct Attempt {
    what: &'static str,
    run: fn(Client, String) -> BoxFuture<'static, Outcome>,
}

/// Attempts, each a name and what is asked for.
macro_rules! attempts {
    ($($what:literal: |$client:ident, $path:ident| $run:expr;)*) => {
        [$(Attempt {
            what: $what,
            run: |client, path| {
                async move {
                    let ($client, $path) = (&client, &*path);
                    $run.await.map(drop)
                }
                .boxed()
            },
        }),*]
    };
}

/// How long an error may take.
const PATIENCE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Whatever creates something at the path or below it.
fn writers() -> Vec<Attempt> {
    attempts! {
        "Lock::acquire": |c, p| Lock::new(c, p).acquire();
        "Lock::try_acquire": |c, p| Lock::new(c, p).try_acquire();
        "Lock, kazoo": |c, p| Lock::new(c, p).layout(Layout::Kazoo).acquire();
        "MultiLock": |c, p| MultiLock::new([Lock::new(c, p)]).acquire();
        "ReentrantLock": |c, p| ReentrantLock::new(Lock::new(c, p)).acquire("me");
        "SimpleLock": |c, p| SimpleLock::new(c, p).acquire();
        "RwLock::read": |c, p| RwLock::new(c, p).read();
        "RwLock::write": |c, p| RwLock::new(c, p).write();
        "Semaphore": |c, p| Semaphore::new(c, p, 1).acquire();
        "Semaphore, kazoo": |c, p| Semaphore::new(c, p, 1).layout(Layout::Kazoo).acquire();
        "Lease": |c, p| Lease::new(c, p, "me").obtain(SECOND);
        "Barrier::close": |c, p| Barrier::new(c, p).close();
        "Barrier::close_while_held": |c, p| Barrier::new(c, p).close_while_held();
        "DoubleBarrier": |c, p| DoubleBarrier::new(c, p, 1).enter();
        "Election::campaign": |c, p| Election::new(c, p).campaign();
        "Election::lead": |c, p| Election::new(c, p).lead(async |_| ());
        "Election::stand": |c, p| async { Election::new(c, p).stand().leading().await };
        "Group::join": |c, p| async { Group::new(c, p).join("me", &String::new()).await };
        "PersistentNode": |c, p| async { PersistentNode::new(c, p, "").present().await };
        "Config::set": |c, p| async { Config::new(c, p).set(&String::new()).await };
        "SharedValue": |c, p| async { SharedValue::new(c, p, String::new()).get().await };
        "Counter::add": |c, p| Counter::new(c, p).add(1);
        "Counter::set": |c, p| Counter::new(c, p).set(1);
        "IdGenerator": |c, p| async { IdGenerator::new(Counter::new(c, p), 1).next().await };
        "Queue::put": |c, p| async { Queue::new(c, p).put(&String::new()).await };
        "PriorityQueue::put": |c, p| async { PriorityQueue::new(c, p).put(&String::new(), 1).await };
        "DelayQueue::put": |c, p| async { DelayQueue::new(c, p).put_after(&String::new(), SECOND).await };
        "Partitioner": |c, p| async { Partitioner::new(c, p, ["a"]).join("me").await };
        "NameService::register": |c, p| async { NameService::new(c, p).register(&instance()).await };
        "NameService::publish": |c, p| async { NameService::new(c, p).publish(&instance()).await };
        "Cluster::add_task": |c, p| async { Cluster::new(c, p).add_task("a").await };
        "Worker": |c, p| async { Worker::join(&Cluster::new(c, p), &WorkerInfo::new("me")).await };
        "Master": |c, p| async { Err::<(), _>(Cluster::new(c, p).master("me").run().await) };
    }
    .into()
}

/// Whatever reads the path.
fn readers() -> Vec<Attempt> {
    attempts! {
        "Lock::contenders": |c, p| Lock::new(c, p).contenders();
        "Lock::revoke": |c, p| Lock::new(c, p).revoke();
        "RwLock::contenders": |c, p| RwLock::new(c, p).contenders();
        "DoubleBarrier::members": |c, p| DoubleBarrier::new(c, p, 1).members();
        "Election::leader": |c, p| Election::new(c, p).leader();
        "Election::observe": |c, p| async { next(Election::new(c, p).observe()).await };
        "Group::members": |c, p| async { Group::<String>::new(c, p).members().await };
        "Group::watch": |c, p| async { next(Group::<String>::new(c, p).watch()).await };
        "Group::watch_ids": |c, p| async { next(Group::<String>::new(c, p).watch_ids()).await };
        "Config::get": |c, p| async { Config::<String>::new(c, p).get().await };
        "Config::update": |c, p| async { Config::<String>::new(c, p).update(|_| None).await };
        "Config::watch": |c, p| async { next(Config::<String>::new(c, p).watch()).await };
        "ConfigTree": |c, p| async { ConfigTree::<String>::new(c, p).ready().await };
        "Counter::get": |c, p| Counter::new(c, p).get();
        "Counter::watch": |c, p| async { next(Counter::new(c, p).watch()).await };
        "Queue::take": |c, p| async { Queue::<String>::new(c, p).take().await };
        "Queue::len": |c, p| async { Queue::<String>::new(c, p).len().await };
        "PriorityQueue::take": |c, p| async { PriorityQueue::<String>::new(c, p).take().await };
        "DelayQueue::take": |c, p| async { DelayQueue::<String>::new(c, p).take().await };
        "Cache::ready": |c, p| async { Cache::new(c, p).ready().await };
        "Cache::events": |c, p| async { next(Cache::new(c, p).events()).await };
        "NameService::services": |c, p| async { NameService::new(c, p).services().await };
    }
    .into()
}

/// The first error of a stream.
async fn next<T>(items: impl futures::Stream<Item = Result<T, Error>>) -> Outcome {
    let mut items = std::pin::pin!(items);
    while let Some(item) = items.next().await {
        item?;
    }
    Ok(())
}

/// Names of members of kazoo's two kinds of parties.
const PARTY: &str = "de305d5475b4431badb2eb6b9e546014__party__";
const SHALLOW: &str = "de305d5475b4431badb2eb6b9e546014-me";

fn party(client: &Client, path: &str) -> Group<String> {
    Group::new(client, path).layout(Layout::Kazoo)
}

/// Takes part in a partitioner, whose members are at `/party`, for as long as that is possible.
async fn divide(client: &Client) -> Outcome {
    let mut share = Partitioner::new(client, "/", ["a"]).join("me").await?;
    loop {
        share.changed().await?;
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn instance() -> Instance<String> {
    Instance::new("mail").id("me").port(25)
}

/// Asks for each at a path. The error, which has to come soon, has to be as `expected`, and name
/// `named`; whatever `other` sees stays as it is.
async fn refused(
    attempts: &[Attempt],
    (client, other): (&Client, &Client),
    (path, named): (&str, &str),
    expected: fn(&Error) -> bool,
) {
    let before = everything(other).await;
    client.sync("/").await.unwrap();
    let mut wrong = Vec::new();
    for Attempt { what, run } in attempts {
        let outcome = timeout(PATIENCE, run(client.clone(), path.to_owned())).await;
        match outcome {
            Ok(Err(error)) if expected(&error) && error.to_string().contains(named) => {}
            outcome => wrong.push(format!("{what} at {path:?}: {outcome:?}")),
        }
        let after = everything(other).await;
        let lost = before
            .iter()
            .find(|(path, found)| after.get(*path) != Some(*found));
        wrong.extend(lost.map(|lost| format!("{what} at {path:?} has changed {lost:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_left(client).await;
}

/// The data and the creation of every znode, but for those of the recipes' own.
async fn everything(client: &Client) -> BTreeMap<String, (Bytes, i64, i32)> {
    let (mut found, mut paths) = (BTreeMap::new(), vec!["/".to_owned()]);
    while let Some(path) = paths.pop() {
        let Ok((names, _)) = client.get_children_and_stat(&path).await else {
            continue;
        };
        let below = path.trim_end_matches('/');
        let names = names.into_iter().filter(|name| name != "zookeeper");
        paths.extend(names.map(|name| format!("{below}/{name}")));
        if let Ok((data, stat)) = client.get_data(&path).await {
            found.insert(path, (data, stat.czxid, stat.version));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_path_is_an_error_that_names_it() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    for path in ["", "a/b", "/a//b", "/a/../b", "/a/"] {
        for attempts in [writers(), readers()] {
            refused(&attempts, (&client, &other), (path, path), |error| {
                matches!(error, Error::Client(ClientError::InvalidPath(_)))
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_parent_is_an_error_that_names_the_child() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    let mode = CreateMode::Ephemeral;
    other.create("/mortal", "theirs", mode).await.unwrap();
    let paths = ("/mortal/x", "/mortal/x");
    refused(&writers(), (&client, &other), paths, |error| {
        matches!(
            error,
            Error::Client(ClientError::NoChildrenForEphemerals { .. })
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_permitted_is_an_error_that_names_it() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    other.add_auth("digest", "other:secret").await.unwrap();
    let theirs = [Acl::new(Perms::ALL, "auth", "")];
    for path in ["/closed", "/closed/x"] {
        let closed = CreateOptions::new(CreateMode::Persistent).acl(&theirs);
        other.create(path, "theirs", closed).await.unwrap();
    }
    let not_permitted = |error: &Error| matches!(error, Error::Client(ClientError::NoAuth { .. }));
    let both = (&client, &other);
    refused(&writers(), both, ("/closed/y", "/closed/y"), not_permitted).await;
    refused(&readers(), both, ("/closed/x", "/closed/x"), not_permitted).await;
}

/// Whatever is sent together with a receipt.
fn once() -> Vec<Attempt> {
    attempts! {
        "Barrier::close": |c, p| Barrier::new(c, p).close();
        "Config::set": |c, p| async { Config::new(c, p).set(&String::new()).await };
        "Config::update": |c, p| async { Config::new(c, p).update(|_| Some(String::new())).await };
        "Config::compare_and_set": |c, p| async { Config::new(c, p).compare_and_set(None, &String::new()).await };
        "Counter::add": |c, p| Counter::new(c, p).add(1);
        "Queue::put": |c, p| async { Queue::new(c, p).put(&String::new()).await };
    }
    .into()
}

/// The znodes that some writes need beside their own are not always there for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_cannot_be_created_are_an_error_that_names_them() {
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    other.add_auth("digest", "other:secret").await.unwrap();
    let theirs = [Acl::new(Perms::ALL, "auth", "")];
    let (open, closed) = (
        CreateOptions::new(CreateMode::Persistent),
        CreateOptions::new(CreateMode::Persistent).acl(&theirs),
    );
    for (path, options) in [
        ("/x", open),
        ("/app", open),
        ("/app/x", open),
        ("/app/quorate", open),
        ("/app/quorate/receipts", closed),
        ("/mortal", open),
        ("/mortal/x", open),
        ("/mortal/quorate", open),
        (
            "/mortal/quorate/receipts",
            CreateOptions::new(CreateMode::Ephemeral),
        ),
        ("/shut", open),
        ("/shut/x", open),
    ] {
        other.create(path, "", options).await.unwrap();
    }
    let [all] = theirs.clone();
    let others_read = [all, Acl::new(Perms::READ, "world", "anyone")];
    other.set_acl("/shut", &others_read, None).await.unwrap();
    // Each handle has its own.
    for (chroot, named) in [
        ("/app", "\"/quorate/receipts/"),
        ("/shut", "\"/quorate\""),
        ("/mortal", "\"/quorate/receipts/"),
    ] {
        let inner = client.with_chroot(chroot).unwrap();
        refused(&once(), (&inner, &other), ("/x/y", named), |error| {
            matches!(
                error,
                Error::Client(
                    ClientError::NoAuth { .. } | ClientError::NoChildrenForEphemerals { .. }
                )
            )
        })
        .await;
    }
    // An operator has created them, and the root is still closed.
    for path in ["/shut/quorate", "/shut/quorate/receipts"] {
        other.create(path, "", open).await.unwrap();
    }
    let inner = client.with_chroot("/shut").unwrap();
    for (number, Attempt { what, run }) in once().into_iter().enumerate() {
        let written = timeout(PATIENCE, run(inner.clone(), format!("/x/{number}"))).await;
        assert!(matches!(written, Ok(Ok(()))), "{what}: {written:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_reads_is_an_error_that_names_the_path() {
    let ensemble = Ensemble::builder()
        .tick_time(Duration::from_millis(300))
        .configure(|config| config.read_only_mode_enabled = true);
    let ensemble = ensemble.start().await.unwrap();
    let leader = ensemble.settled().await.unwrap();
    let mut ids = ensemble.ids().into_iter();
    let cut_off = ids.find(|id| *id != leader).unwrap();
    ensemble.partition(&[&ids.chain([leader]).collect::<Vec<_>>()]);
    let connecting = Client::builder().read_only(true);
    let address = ensemble.client_addr(cut_off).unwrap().to_string();
    let client = connecting.connect(&address).await.unwrap();
    for Attempt { what, run } in once() {
        let refused = timeout(PATIENCE, run(client.clone(), "/x/y".to_owned())).await;
        let refused = refused.expect(what);
        assert!(
            matches!(&refused, Err(Error::Client(ClientError::ReadOnly { path })) if path.starts_with("/x/y")),
            "{what}: {refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_value_is_an_error_that_names_it() {
    let attempts = attempts! {
        "Config::get": |c, p| async { Config::<Json<u32>>::new(c, p).get().await };
        "Config::update": |c, p| async { Config::<Json<u32>>::new(c, p).update(|_| Some(Json(1))).await };
        "Config::watch": |c, p| async { next(Config::<Json<u32>>::new(c, p).watch()).await };
        "SharedValue": |c, p| async { SharedValue::new(c, p, Json(1)).get().await };
        "Counter::get": |c, p| Counter::new(c, p).get();
        "Counter::add": |c, p| Counter::new(c, p).add(1);
        "Counter::watch": |c, p| async { next(Counter::new(c, p).watch()).await };
        "Counter, text": |c, p| Counter::new(c, p).encoding(Encoding::Text).add(1);
        "IdGenerator": |c, p| async { IdGenerator::new(Counter::new(c, p), 1).next().await };
        "Lease::obtain": |c, p| async { Lease::new(c, parent(p), "me").obtain(SECOND).await };
        "Lease::term": |c, p| async { Lease::new(c, parent(p), "me").term().await };
        "Semaphore, kazoo": |c, p| Semaphore::new(c, p, 1).layout(Layout::Kazoo).acquire();
        "Semaphore::permits_at": |c, p| async { Semaphore::new(c, "/permits", 1).permits_at(p).acquire().await };
    };
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    let mode = CreateMode::Persistent;
    other.create("/odd", "", mode).await.unwrap();
    other
        .create("/odd/lease_holder", "[not a value]", mode)
        .await
        .unwrap();
    let path = "/odd/lease_holder";
    refused(&attempts, (&client, &other), (path, path), |error| {
        matches!(error, Error::Payload { .. } | Error::Mismatch { .. })
    })
    .await;
}

/// Neither sees what the other library does, so that nothing is granted, and nobody counted, beside
/// its znodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_znode_of_another_layout_is_an_error_that_names_it() {
    let beside_kazoo = attempts! {
        "Lock": |c, p| Lock::new(c, p).acquire();
        "Lock::try_acquire": |c, p| Lock::new(c, p).try_acquire();
        "Lock::contenders": |c, p| Lock::new(c, p).contenders();
        "Lock::revoke": |c, p| Lock::new(c, p).revoke();
        "MultiLock": |c, p| MultiLock::new([Lock::new(c, p)]).acquire();
        "ReentrantLock": |c, p| ReentrantLock::new(Lock::new(c, p)).acquire("me");
        "RwLock::read": |c, p| RwLock::new(c, p).read();
        "RwLock::write": |c, p| RwLock::new(c, p).write();
        "Semaphore": |c, p| Semaphore::new(c, p, 1).acquire();
        "Semaphore::try_acquire": |c, p| Semaphore::new(c, p, 1).try_acquire();
        "Election": |c, p| Election::new(c, p).campaign();
        "Election::observe": |c, p| async { next(Election::new(c, p).observe()).await };
        "DoubleBarrier": |c, p| DoubleBarrier::new(c, p, 1).enter();
        "DoubleBarrier::members": |c, p| DoubleBarrier::new(c, p, 1).members();
    };
    let beside_a_party = attempts! {
        "Group::join": |c, p| async { Group::new(c, p).join(PARTY, &String::new()).await };
        "Group::ids": |c, p| async { Group::<String>::new(c, p).ids().await };
        "Group::members": |c, p| async { Group::<String>::new(c, p).members().await };
        "Group::watch": |c, p| async { next(Group::<String>::new(c, p).watch()).await };
        "Group::watch_ids": |c, p| async { next(Group::<String>::new(c, p).watch_ids()).await };
        "Group::events": |c, p| async { next(Group::<String>::new(c, p).events()).await };
        "Group, shallow": |c, p| async { party(c, p).shallow().ids().await };
        "Partitioner": |c, _p| divide(c);
    };
    let beside_a_shallow_party = attempts! {
        "Group::join": |c, p| async { Group::new(c, p).join(SHALLOW, &String::new()).await };
        "Group::ids": |c, p| async { Group::<String>::new(c, p).ids().await };
        "Group::members": |c, p| async { Group::<String>::new(c, p).members().await };
        "Group, kazoo": |c, p| async { party(c, p).members().await };
    };
    let beside_curator = attempts! {
        "Lock": |c, p| Lock::new(c, p).layout(Layout::Kazoo).acquire();
        "RwLock::read": |c, p| RwLock::new(c, p).layout(Layout::Kazoo).read();
        "RwLock::write": |c, p| RwLock::new(c, p).layout(Layout::Kazoo).write();
        "Semaphore": |c, p| Semaphore::new(c, p, 1).layout(Layout::Kazoo).acquire();
        "Semaphore::try_acquire": |c, p| Semaphore::new(c, p, 1).layout(Layout::Kazoo).try_acquire();
        "Election": |c, p| Election::new(c, p).layout(Layout::Kazoo).campaign();
        "DoubleBarrier": |c, p| DoubleBarrier::new(c, p, 1).layout(Layout::Kazoo).enter();
        "Group::ids": |c, p| async { party(c, p).ids().await };
        "Group::members": |c, p| async { party(c, p).members().await };
        "Group::watch": |c, p| async { next(party(c, p).watch()).await };
        "Group, shallow": |c, p| async { party(c, p).shallow().ids().await };
    };
    let server = server().await;
    let (client, other) = (server.client(LONG).await, server.client(LONG).await);
    for path in [
        "/kazoo",
        "/curator",
        "/kazoo/de305d5475b4431badb2eb6b9e546014",
        "/kazoo/de305d5475b4431badb2eb6b9e546014__lock__0000000007",
        "/curator/_c_de305d54-75b4-431b-adb2-eb6b9e546014-lock-0000000007",
        "/curator/leases",
        "/party",
        &format!("/party/{PARTY}"),
        "/shallow",
        &format!("/shallow/{SHALLOW}"),
    ] {
        other
            .create(path, "", CreateMode::Persistent)
            .await
            .unwrap();
    }
    for (attempts, path) in [
        (&beside_kazoo[..], "/kazoo"),
        (&beside_curator[..], "/curator"),
        (&beside_a_party[..], "/party"),
        (&beside_a_shallow_party[..], "/shallow"),
    ] {
        let named = format!("{path}/");
        refused(attempts, (&client, &other), (path, &named), |error| {
            matches!(error, Error::ForeignChild { .. })
        })
        .await;
    }
}
