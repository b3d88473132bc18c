//! A lock that contenders hand to each other, by ours and by Curator's means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_recipes::{Client, Lock};
use quorate_tests::foreign::{Curator, Foreigner};
use tokio::sync::Mutex;

/// Who contend, each with a session of its own.
const CONTENDERS: usize = 10;

/// Turns of each kind, one after the other: what else the machine does hits both.
const ROUNDS: usize = 5;

/// How long a turn lasts.
const TURN: Duration = Duration::from_secs(4);

/// Measures both on the servers of a connect string.
pub(crate) fn locks(servers: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let curator = Curator::compile("CuratorHandover");
        let mut curator = Foreigner::start(curator.optimised(), servers, "/locks/curator").await;
        let clients = connect(servers).await;
        // Compilers compile what is used often.
        handed(&mut curator, CONTENDERS, TURN).await;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let one = Handovers::new(contend(&clients).await);
            let other = Handovers::new(handed(&mut curator, CONTENDERS, TURN).await);
            println!("{round}: ours {one}; Curator's {other}");
            ours.push(one);
            theirs.push(other);
        }
        let ratio = |of: fn(&Handovers) -> f64| median(&ours, of) / median(&theirs, of);
        println!(
            "medians, ours to Curator's: hand-overs {:.2}, p50 {:.2}, p99 {:.2}",
            ratio(|h| h.a_second),
            ratio(|h| h.p50.as_secs_f64()),
            ratio(|h| h.p99.as_secs_f64()),
        );
    });
}

/// Hand-overs of one turn.
struct Handovers {
    a_second: f64,
    p50: Duration,
    p99: Duration,
}

impl Handovers {
    fn new(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |part: f64| took[(took.len() as f64 * part) as usize];
        Handovers {
            a_second: took.len() as f64 / TURN.as_secs_f64(),
            p50: at(0.50),
            p99: at(0.99),
        }
    }
}

impl std::fmt::Display for Handovers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Handovers { a_second, p50, p99 } = self;
        write!(f, "{a_second:.0} a second, p50 {p50:.1?}, p99 {p99:.1?}")
    }
}

fn median(turns: &[Handovers], of: fn(&Handovers) -> f64) -> f64 {
    let mut values: Vec<f64> = turns.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Clients, spread evenly over the servers.
async fn connect(servers: &str) -> Vec<Client> {
    let servers: Vec<&str> = servers.split(',').collect();
    let mut clients = Vec::new();
    for n in 0..CONTENDERS {
        let client = Client::builder().session_timeout(Duration::from_secs(20));
        let connected = client.connect(servers[n % servers.len()]).await;
        clients.push(connected.unwrap());
    }
    clients
}

/// Lets our contenders take and release the lock over and over; answers how long each hand-over took,
/// from the call of one's release to the end of the next one's acquire.
async fn contend(clients: &[Client]) -> Vec<Duration> {
    let took = Arc::new(Mutex::new(Vec::new()));
    let released = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let contenders: Vec<_> = clients
        .iter()
        .map(|client| {
            let lock = Lock::new(client, "/locks/ours");
            let (took, released) = (Arc::clone(&took), Arc::clone(&released));
            let nanos = move || u64::try_from(begun.elapsed().as_nanos()).unwrap();
            tokio::spawn(async move {
                while begun.elapsed() < TURN {
                    let guard = lock.acquire().await.unwrap();
                    let now = nanos();
                    let before = released.load(Ordering::Relaxed);
                    if before > 0 {
                        took.lock().await.push(Duration::from_nanos(now - before));
                    }
                    released.store(nanos(), Ordering::Relaxed);
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for contender in contenders {
        contender.await.unwrap();
    }
    std::mem::take(&mut *took.lock().await)
}

/// As [`contend`], by Curator.
async fn handed(curator: &mut Foreigner, contenders: usize, time: Duration) -> Vec<Duration> {
    let asked = format!("contend {contenders} {}", time.as_millis());
    let told = curator.ask(&asked).await;
    let nanos = told.strip_prefix("handed").unwrap().split_whitespace();
    nanos
        .map(|nanos| Duration::from_nanos(nanos.parse().unwrap()))
        .collect()
}
