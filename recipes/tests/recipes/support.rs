//! What the tests share: servers, clients, and waiting for a state.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use quorate_proto::OpCode;
use quorate_recipes::{Client, Error, Lock, LostReason, client};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::relay::{Fault, Relay};
pub(crate) use crate::servers::{Servers, server};

/// How long any state may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A session timeout that no busy machine exceeds by accident.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Where the tests lock.
pub(crate) const PATH: &str = "/locks/test";

pub(crate) async fn connect(address: &str, timeout: Duration) -> Client {
    Client::builder()
        .session_timeout(timeout)
        .connect_timeout(PATIENCE)
        .connect(address)
        .await
        .unwrap()
}

/// Awaits what must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// The names of the children of `path`, in no order; none if it does not exist.
pub(crate) async fn children(client: &Client, path: &str) -> Vec<String> {
    match client.retry(|| client.get_children(path)).await {
        Ok(names) => names,
        Err(client::Error::NoNode { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Awaits that so many contend for the lock.
pub(crate) async fn contenders(client: &Client, number: usize) {
    soon(&format!("{number} contenders"), async {
        loop {
            match client.retry(|| client.get_children_watched(PATH)).await {
                Ok((names, ..)) if names.len() == number => return,
                Ok((_, _, watch)) => drop(watch.await.unwrap()),
                Err(client::Error::NoNode { .. }) if number == 0 => return,
                Err(client::Error::NoNode { .. }) => {
                    if let (None, watch) = client.exists_watched(PATH).await.unwrap() {
                        watch.await.unwrap();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
}

/// Awaits that nothing is left behind.
pub(crate) async fn no_orphans(client: &Client) {
    contenders(client, 0).await;
}

/// Awaits that the session has no ephemeral znode.
pub(crate) async fn nothing_left(client: &Client) {
    let watching = client.retry(|| client.watch_recursive("/")).await;
    let mut changes = watching.unwrap();
    soon("no ephemeral znode", async {
        loop {
            let left = client.retry(|| client.get_ephemerals("/")).await.unwrap();
            if left.is_empty() {
                return;
            }
            changes.next().await.unwrap().unwrap();
        }
    })
    .await;
}

/// Drops `future` when it was polled so many times; false if it ended before.
pub(crate) async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|cx| {
        if polled == polls {
            return Poll::Ready(true);
        }
        polled += 1;
        future.as_mut().poll(cx).map(|_| false)
    })
    .await
}

/// Drops what `attempt` makes at its first await, at its second and so on, and awaits each time that
/// nothing is left of it. It ends when the future does, or waits for others.
pub(crate) async fn dropped_at_every_await<T>(
    client: &Client,
    mut attempt: impl AsyncFnMut() -> T,
) {
    for polls in 0.. {
        // A future that waits for others is not polled any more.
        let dropping = dropped_after(polls, attempt().map(drop));
        let dropped = timeout(Duration::from_secs(1), dropping).await;
        nothing_left(client).await;
        if dropped != Ok(true) {
            assert!(polls > 0);
            return;
        }
    }
}

/// Runs `attempt` once for each of `operations` whose reply is lost, and once for each whose request
/// is. Answers how many of these faults happened.
pub(crate) async fn with_every_fault(
    relay: &Relay,
    operations: &[OpCode],
    mut attempt: impl AsyncFnMut(Fault),
) -> usize {
    let mut happened = 0;
    for &operation in operations {
        for fault in [Fault::LoseReply(operation), Fault::LoseRequest(operation)] {
            relay.inject(fault);
            soon(&format!("{fault:?}"), attempt(fault)).await;
            happened += usize::from(!relay.withdraw_faults());
        }
    }
    happened
}

/// Everything that a recipe asks of a server.
pub(crate) const OPERATIONS: [OpCode; 8] = [
    OpCode::Create2,
    OpCode::Delete,
    OpCode::SetData,
    OpCode::Multi,
    OpCode::Exists,
    OpCode::GetData,
    OpCode::GetChildren,
    OpCode::GetChildren2,
];

/// Lets eight work until `end` on four connections that break again and again, and answers what they
/// answer.
pub(crate) async fn on_breaking_connections<T: Send + 'static, F>(
    server: &Servers,
    end: Instant,
    work: impl Fn(Client) -> F,
) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let relays = join_all((0..4).map(|_| Relay::start(server.address()))).await;
    let mut tasks = Vec::new();
    for relay in relays.iter().cycle().take(8) {
        let client = connect(&relay.address(), LONG).await;
        tasks.push(beside(work(client)));
    }
    while Instant::now() < end {
        sleep(Duration::from_millis(fastrand::u64(50..300))).await;
        fastrand::choice(&relays).unwrap().interrupt();
    }
    let ended = soon("the end", join_all(tasks)).await;
    ended.into_iter().map(Result::unwrap).collect()
}

/// What was held is lost because its znode was deleted, and whoever goes on is told so.
#[track_caller]
pub(crate) fn assert_node_deleted<T: Debug>(outcome: &Result<T, Error>) {
    let deleted = LostReason::NodeDeleted;
    assert!(
        matches!(outcome, Err(Error::Lost { reason, .. }) if *reason == deleted),
        "{outcome:?}"
    );
}

/// Runs a future beside the test.
pub(crate) fn beside<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(future)
}

pub(crate) fn lock(client: &Client) -> Lock {
    Lock::new(client, PATH)
}

/// Prints what `RUST_LOG` asks for, with the output of the test.
pub(crate) fn tracing() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}
