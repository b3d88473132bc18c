//! Nothing waits for ever: whatever the end of a session is, it ends everything that waits for
//! something of it.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use quorate_recipes::{
    Barrier, Cache, Client, Config, Counter, CreateMode, DoubleBarrier, Election, Group, Lock,
    NameService, Partitioner, PersistentNode, Queue, RwLock, Semaphore, State, client,
};
use quorate_server::Ensemble;
use tokio::task::JoinHandle;

use crate::support::{LONG, connect, soon};

/// What waits, and for what.
type Waiting = Vec<(&'static str, JoinHandle<()>)>;

/// Awaits the end of a stream, which an error may announce.
async fn drained<T>(mut items: impl Stream<Item = T> + Unpin) {
    while items.next().await.is_some() {}
}

/// What a client has pending without a recipe. None of it holds a handle of the session.
async fn of_the_client(client: &Client) -> Waiting {
    let (_, absent) = client.exists_watched("/absent").await.unwrap();
    let (_, _, data) = client.get_data_watched("/").await.unwrap();
    let (_, _, list) = client.get_children_watched("/busy").await.unwrap();
    let persistent = client.watch("/busy").await.unwrap();
    let recursive = client.watch_recursive("/busy").await.unwrap();
    let mut states = client.watch_state();
    let over = async move { states.wait_for(|state| state.is_over()).await.map(drop) };
    let pending: [(&str, BoxFuture<'static, ()>); 7] = [
        ("a watch of what is not there", absent.map(drop).boxed()),
        ("a watch of data", data.map(drop).boxed()),
        ("a watch of children", list.map(drop).boxed()),
        ("a persistent watch", drained(persistent).boxed()),
        ("a recursive watch", drained(recursive).boxed()),
        ("the stream of states", drained(client.states()).boxed()),
        ("the channel of states", over.map(drop).boxed()),
    ];
    pending
        .map(|(what, future)| (what, tokio::spawn(future)))
        .into()
}

/// A recipe of each kind that waits for `other`, or holds something. All of it holds handles.
async fn of_recipes(client: &Client, other: &Client) -> Waiting {
    let their_lock = Lock::new(other, "/lock").acquire().await.unwrap();
    let their_write = RwLock::new(other, "/rw").write().await.unwrap();
    let they_lead = Election::new(other, "/campaign").campaign().await.unwrap();
    Barrier::new(other, "/barrier").close().await.unwrap();
    let held = Lock::new(client, "/held").acquire().await.unwrap();
    let led = Election::new(client, "/led").campaign().await.unwrap();
    let node = PersistentNode::new(client, "/persistent", "");
    node.present().await.unwrap();
    let mut share = Partitioner::new(client, "/parts", ["a"])
        .join("me")
        .await
        .unwrap();
    let mut candidacy = Election::new(client, "/campaign").stand();
    let resolver = NameService::new(client, "/services").watch::<String>("s");
    let ended = node.ended();
    let lost = held.lost();
    let deposed = led.lost();
    let permit = Semaphore::new(other, "/semaphore", 1)
        .acquire()
        .await
        .unwrap();
    let c = client.clone();
    let all = [
        (
            "a lock",
            spawn(&c, async |c| drop(Lock::new(&c, "/lock").acquire().await)),
        ),
        (
            "a read lock",
            spawn(&c, async |c| drop(RwLock::new(&c, "/rw").read().await)),
        ),
        (
            "a write lock",
            spawn(&c, async |c| drop(RwLock::new(&c, "/rw").write().await)),
        ),
        (
            "a permit",
            spawn(&c, async |c| {
                drop(Semaphore::new(&c, "/semaphore", 1).acquire().await);
            }),
        ),
        (
            "a barrier",
            spawn(&c, async |c| {
                drop(Barrier::new(&c, "/barrier").wait().await);
            }),
        ),
        (
            "a double barrier",
            spawn(&c, async |c| {
                drop(DoubleBarrier::new(&c, "/double", 2).enter().await);
            }),
        ),
        (
            "a campaign",
            spawn(&c, async |c| {
                drop(Election::new(&c, "/campaign").campaign().await);
            }),
        ),
        (
            "the leaders",
            spawn(&c, async |c| {
                drained(Election::new(&c, "/campaign").observe().boxed()).await;
            }),
        ),
        (
            "an item",
            spawn(&c, async |c| {
                drop(Queue::<String>::new(&c, "/queue").take().await);
            }),
        ),
        (
            "members",
            spawn(&c, async |c| {
                drained(Group::<String>::new(&c, "/group").watch()).await;
            }),
        ),
        (
            "ids of members",
            spawn(&c, async |c| {
                drained(Group::<String>::new(&c, "/group").watch_ids()).await;
            }),
        ),
        (
            "a value",
            spawn(&c, async |c| {
                drained(Config::<String>::new(&c, "/config").watch()).await;
            }),
        ),
        (
            "a number",
            spawn(&c, async |c| {
                drained(Counter::new(&c, "/counter").watch()).await;
            }),
        ),
        (
            "a subtree",
            spawn(&c, async |c| {
                drained(Cache::new(&c, "/busy").events()).await;
            }),
        ),
    ];
    let mut waiting: Waiting = all.into();
    waiting.extend([
        ("instances", tokio::spawn(drained(resolver))),
        ("the loss of a lock", tokio::spawn(lost.map(drop))),
        ("the loss of a leadership", tokio::spawn(deposed.map(drop))),
        (
            "the end of a persistent node",
            tokio::spawn(ended.map(drop)),
        ),
        (
            "a candidacy",
            tokio::spawn(async move {
                drop(candidacy.leading().await);
            }),
        ),
        (
            "a share",
            tokio::spawn(async move { while share.changed().await.is_ok() {} }),
        ),
    ]);
    // They end with the test, and not before.
    waiting.push((
        "what others hold",
        tokio::spawn({
            let mut states = client.watch_state();
            async move {
                let _held = (their_lock, their_write, they_lead, permit, held, led, node);
                let _ = states.wait_for(|state| state.is_over()).await;
            }
        }),
    ));
    waiting
}

fn spawn<F>(client: &Client, wait: impl FnOnce(Client) -> F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(wait(client.clone()))
}

/// An ensemble of one server, a client of it under test, and another one.
async fn scene(timeout: Duration) -> (Ensemble, Client, Client) {
    let ensemble = Ensemble::builder()
        .voters(1)
        .tick_time(Duration::from_millis(100))
        .start()
        .await
        .unwrap();
    let servers = ensemble.connect_string();
    let other = connect(&servers, LONG).await;
    other
        .create("/busy", "", CreateMode::Persistent)
        .await
        .unwrap();
    (ensemble, connect(&servers, timeout).await, other)
}

/// Gives everything the time to find out that it has to wait.
async fn all_wait(waiting: &Waiting, client: &Client) {
    for _ in 0..50 {
        client.sync("/").await.unwrap();
    }
    for (what, task) in waiting {
        assert!(!task.is_finished(), "{what} does not wait");
    }
}

async fn all_end(waiting: Waiting) {
    for (what, task) in waiting {
        soon(what, task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_ends_everything_that_waits() {
    let (_ensemble, client, other) = scene(LONG).await;
    let mut waiting = of_the_client(&client).await;
    waiting.extend(of_recipes(&client, &other).await);
    all_wait(&waiting, &client).await;
    soon("the close", client.close()).await.unwrap();
    all_end(waiting).await;
    assert_eq!(client.state(), State::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_ends_everything_that_waits() {
    let (ensemble, client, other) = scene(LONG).await;
    let mut waiting = of_the_client(&client).await;
    waiting.extend(of_recipes(&client, &other).await);
    all_wait(&waiting, &client).await;
    let session = client.session().unwrap().id();
    ensemble.expire_session(session.0).await.unwrap();
    all_end(waiting).await;
    assert_eq!(client.state(), State::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_never_come_back_end_everything_that_waits() {
    let (mut ensemble, client, other) = scene(Duration::from_secs(1)).await;
    let mut waiting = of_the_client(&client).await;
    waiting.extend(of_recipes(&client, &other).await);
    all_wait(&waiting, &client).await;
    ensemble.kill(1).await;
    let again = client.clone();
    waiting.extend([
        (
            "a request without a connection",
            spawn(&client, async |c| drop(c.sync("/").await)),
        ),
        (
            "a read behind a sync",
            spawn(&client, async |c| {
                drop(c.linearizable().exists("/").await);
            }),
        ),
        (
            "a transaction",
            spawn(&client, async |c| {
                drop(c.transaction().check("/", None).commit().await);
            }),
        ),
        (
            "several reads",
            spawn(&client, async |c| {
                drop(c.multi_read().get_data("/").send().await);
            }),
        ),
        (
            "a credential",
            spawn(&client, async |c| drop(c.add_auth("digest", "a:b").await)),
        ),
        (
            "a repetition",
            spawn(&client, async |c| drop(c.retry(|| c.exists("/")).await)),
        ),
        (
            "a connection",
            tokio::spawn(async move {
                let mut states = again.watch_state();
                let _ = states.wait_for(|state| !state.is_connected()).await;
                let error = again.connected().await.unwrap_err();
                assert!(matches!(error, client::Error::SessionExpired { .. }));
            }),
        ),
    ]);
    client.delete_in_background("/busy");
    all_end(waiting).await;
    assert_eq!(client.state(), State::Expired);
    soon("the close", client.close()).await.unwrap();
    soon("the detachment", client.detach()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_handle_takes_with_it_what_holds_none() {
    let (_ensemble, client, _other) = scene(LONG).await;
    let waiting = of_the_client(&client).await;
    all_wait(&waiting, &client).await;
    drop(client);
    all_end(waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_found_a_server_ends_what_waits_for_one() {
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let client = Client::builder().connect_lazy(&address).unwrap();
    let read = client.exists("/");
    let watch = client.watch("/");
    let connected = spawn(&client, async |c| drop(c.connected().await));
    // Nobody can close a session that no server knows of.
    soon("the close", client.close()).await.unwrap_err();
    assert!(matches!(
        soon("the read", read).await,
        Err(client::Error::Closed)
    ));
    assert!(matches!(
        soon("the watch", watch).await,
        Err(client::Error::Closed)
    ));
    soon("the connection", connected).await.unwrap();
}
