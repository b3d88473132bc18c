//! Mutual exclusion while everything goes wrong.

use std::time::Duration;

use fastrand::Rng;
use futures::future::{join_all, poll_fn};
use quorate_recipes::{Client, Error, FencingToken, Guard};
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep, timeout};

use crate::history::History;
use crate::relay::Relay;
use crate::support::{LONG, PATIENCE, Servers, connect, lock, no_orphans, soon};

const CONTENDERS: usize = 8;
/// How long everything goes wrong.
const STORM: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(50);
const SESSION: Duration = Duration::from_millis(500);

/// Contenders acquire, give up, are killed and are cut off; the server is restarted under them.
#[tokio::test(flavor = "multi_thread")]
async fn no_two_hold_the_lock_whatever_happens() {
    let seed =
        std::env::var("QUORATE_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    eprintln!("QUORATE_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut server = Servers::start_mortal(TICK).await;
    let history = History::default();
    let end = Instant::now() + STORM;
    let address = server.address();
    let contenders: Vec<_> = (0..CONTENDERS)
        .map(|_| {
            let (rng, history) = (rng.fork(), history.clone());
            tokio::spawn(async move {
                let relay = Relay::start(address).await;
                Contender {
                    rng,
                    relay,
                    history,
                }
                .run(end)
                .await;
            })
        })
        .collect();
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.u64(500..2500))).await;
        server.restart().await;
    }
    for contender in contenders {
        soon("the end of a contender", contender).await.unwrap();
    }
    eprintln!("{} grants", history.len());
    assert!(history.len() > CONTENDERS, "{} grants only", history.len());
    history.check().unwrap();
    // What was killed or cut off goes with its session, everything else at once.
    no_orphans(&server.client(LONG).await).await;
}

struct Contender {
    rng: Rng,
    relay: Relay,
    history: History,
}

impl Contender {
    /// Lives one life after the other.
    async fn run(mut self, end: Instant) {
        while Instant::now() < end {
            self.relay.heal();
            let client = connect(&self.relay.address(), SESSION).await;
            self.live(&client, end).await;
        }
        self.relay.heal();
    }

    /// Contends until the session is over.
    async fn live(&mut self, client: &Client, end: Instant) {
        while Instant::now() < end {
            let patience = Duration::from_millis(self.rng.u64(1..400));
            let acquired = match self.rng.u32(..4) {
                0 => lock(client).acquire_timeout(patience).await.map(Some),
                1 => lock(client).try_acquire().await,
                2 => polled(self.rng.usize(1..20), lock(client).acquire()).await,
                _ => lock(client).acquire().await.map(Some),
            };
            match acquired {
                Ok(Some(guard)) => {
                    if !self.hold(client, guard).await {
                        return;
                    }
                }
                Ok(None) | Err(Error::TimedOut { .. }) => {}
                Err(error) if error.is_session_over() => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Holds the lock for a while, and parts with it in one way or another; false if the client does
    /// not live on.
    async fn hold(&mut self, client: &Client, guard: Guard) -> bool {
        let (token, from) = (guard.fencing_token(), Instant::now());
        let mut work = Duration::from_millis(self.rng.u64(..20));
        if self.rng.u32(..12) == 0 {
            // The connection breaks, and the holder works on for longer or shorter than the session
            // lives.
            match self.rng.bool() {
                true => self.relay.cut(),
                false => self.relay.freeze(),
            }
            work = SESSION.mul_f64(self.rng.f64() * 2.5);
        }
        let mut until = from;
        while until < from + work {
            let now = Instant::now();
            if guard.state().is_lost() {
                break;
            }
            // The holder may act now, and only now.
            until = now;
            let _ = timeout(Duration::from_millis(1), guard.lost()).await;
        }
        self.history.record(token, from, until);
        match self.rng.u32(..24) {
            // As if the process died: its session ends when it expires.
            0 => {
                let _ = client.detach().await;
                return false;
            }
            1..8 => drop(guard),
            _ => {
                let released = tokio::spawn(guard.release());
                self.relay.heal();
                match soon("release", released).await.unwrap() {
                    Ok(()) | Err(Error::Lost { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        self.relay.heal();
        true
    }
}

/// Polls a future so many times, then drops it.
async fn polled<T>(
    polls: usize,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<Option<T>, Error> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    let polled = poll_fn(|cx| match left.checked_sub(1) {
        None => std::task::Poll::Ready(Ok(None)),
        Some(rest) => {
            left = rest;
            future.as_mut().poll(cx).map_ok(Some)
        }
    });
    timeout(SESSION, polled).await.unwrap_or(Ok(None))
}

/// The history would show it if two held the lock at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_check_sees_who_does_without_the_lock() {
    let server = Servers::start(Duration::from_secs(2)).await;
    let clients = join_all((0..4).map(|_| server.client(LONG))).await;
    // Without the lock, all are inside together.
    let together = Barrier::new(clients.len());
    for bypassed in [false, true] {
        let history = History::default();
        join_all(clients.iter().map(|client| {
            let (history, together) = (history.clone(), &together);
            async move {
                for _ in 0..5 {
                    let guard = lock(client).acquire().await.unwrap();
                    let token = guard.fencing_token();
                    let guard = (!bypassed).then_some(guard);
                    let from = Instant::now();
                    if bypassed {
                        together.wait().await;
                    }
                    sleep(Duration::from_millis(5)).await;
                    history.record(token, from, Instant::now());
                    drop(guard);
                }
            }
        }))
        .await;
        assert_eq!(history.check().is_err(), bypassed, "{:?}", history.check());
    }
}

/// The history would show it if tokens did not rise.
#[tokio::test]
async fn the_check_sees_tokens_that_do_not_rise() {
    let server = Servers::start(Duration::from_secs(2)).await;
    let client = server.client(LONG).await;
    let mut tokens: Vec<FencingToken> = Vec::new();
    for _ in 0..2 {
        let guard = lock(&client).acquire().await.unwrap();
        tokens.push(guard.fencing_token());
        guard.release().await.unwrap();
    }
    let now = Instant::now();
    let record = |order: [usize; 2]| {
        let history = History::default();
        history.record(tokens[order[0]], now, now);
        history.record(tokens[order[1]], now + PATIENCE, now + PATIENCE);
        history.check()
    };
    assert_eq!(record([0, 1]), Ok(()));
    assert!(record([1, 0]).is_err());
    assert!(record([1, 1]).is_err());
}
