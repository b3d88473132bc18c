//! A lock that contenders hand to each other, by ours and by Curator's means, beside what no client
//! can beat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_client::{CreateMode, OneshotWatch};
use quorate_recipes::{Client, Lock};
use quorate_tests::foreign::{Curator, Foreigner};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Who contend, each with a session of its own.
const CONTENDERS: usize = 10;

/// Turns of each kind, one after the other: what else the machine does hits all of them.
const ROUNDS: usize = 5;

/// How long a turn lasts.
const TURN: Duration = Duration::from_secs(4);

/// Where the znodes of the ring are.
const RING: &str = "/ring";

/// Measures on the servers of a connect string, and Curator on those of another as well.
pub(crate) fn locks(servers: &str, others: Option<&str>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let clients = connect(servers).await;
        let mut curator = start_curator(servers).await;
        let mut elsewhere = match others {
            Some(others) => Some(start_curator(others).await),
            None => None,
        };
        let (mut ours, mut theirs, mut bare, mut away) = (vec![], vec![], vec![], vec![]);
        for round in 1..=ROUNDS {
            ours.push(Handovers::new(contend(&clients).await));
            theirs.push(Handovers::new(handed(&mut curator).await));
            bare.push(Handovers::new(ring(&clients).await));
            if let Some(curator) = &mut elsewhere {
                away.push(Handovers::new(handed(curator).await));
            }
            println!("{round}:");
            let kinds = [
                ("ours", &ours),
                ("Curator's", &theirs),
                ("bare deletions", &bare),
                ("Curator's on the other servers", &away),
            ];
            for (kind, turns) in kinds {
                if let Some(turn) = turns.last() {
                    println!("  {kind}: {turn}");
                }
            }
        }
        println!("medians, of hand-overs a second, p50 and p99:");
        compare("ours to Curator's", &ours, &theirs);
        compare("ours to bare deletions", &ours, &bare);
        compare("Curator's to bare deletions", &theirs, &bare);
        if elsewhere.is_some() {
            compare("ours to Curator's on the other servers", &ours, &away);
        }
    });
}

/// Curator, warm.
async fn start_curator(servers: &str) -> Foreigner {
    let curator = Curator::compile("CuratorHandover");
    let mut curator = Foreigner::start(curator.optimised(), servers, "/locks/curator").await;
    // Compilers compile what is used often.
    handed(&mut curator).await;
    curator
}

fn compare(what: &str, one: &[Handovers], other: &[Handovers]) {
    let ratio = |of: fn(&Handovers) -> f64| median(one, of) / median(other, of);
    println!(
        "  {what}: {:.2}, {:.2}, {:.2}",
        ratio(|h| h.a_second),
        ratio(|h| h.p50.as_secs_f64()),
        ratio(|h| h.p99.as_secs_f64()),
    );
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

/// How long each hand-over of a turn took: from the call by which one lets go to the moment when the
/// next one has it.
#[derive(Debug)]
struct Log {
    began: Instant,
    released: AtomicU64,
    took: Mutex<Vec<Duration>>,
}

impl Log {
    fn begin() -> Arc<Self> {
        Arc::new(Log {
            began: Instant::now(),
            released: AtomicU64::new(0),
            took: Mutex::default(),
        })
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= TURN
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn acquired(&self) {
        let now = self.nanos();
        let before = self.released.load(Ordering::Relaxed);
        if before > 0 {
            self.took
                .lock()
                .unwrap()
                .push(Duration::from_nanos(now - before));
        }
    }

    fn releases(&self) {
        self.released.store(self.nanos(), Ordering::Relaxed);
    }

    fn end(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.took.lock().unwrap())
    }
}

/// Lets our contenders take and release the lock over and over.
async fn contend(clients: &[Client]) -> Vec<Duration> {
    let log = Log::begin();
    let mut contenders = JoinSet::new();
    for client in clients {
        let (lock, log) = (Lock::new(client, "/locks/ours"), Arc::clone(&log));
        contenders.spawn(async move {
            while !log.is_over() {
                let guard = lock.acquire().await.unwrap();
                log.acquired();
                log.releases();
                guard.release().await.unwrap();
            }
        });
    }
    contenders.join_all().await;
    log.end()
}

/// As [`contend`], by Curator.
async fn handed(curator: &mut Foreigner) -> Vec<Duration> {
    let asked = format!("contend {CONTENDERS} {}", TURN.as_millis());
    let told = curator.ask(&asked).await;
    let nanos = told.strip_prefix("handed").unwrap().split_whitespace();
    nanos
        .map(|nanos| Duration::from_nanos(nanos.parse().unwrap()))
        .collect()
}

/// As [`contend`], without a recipe: contenders stand in a ring, each deletes a znode as soon as it
/// hears that the one before has, and creates it again. No client is faster that lets go by deleting
/// a znode and comes back by creating one.
async fn ring(clients: &[Client]) -> Vec<Duration> {
    let _ = clients[0].create(RING, "", CreateMode::Persistent).await;
    let log = Log::begin();
    let all = Arc::new(Barrier::new(clients.len()));
    let mut contenders = JoinSet::new();
    for (n, client) in clients.iter().enumerate() {
        let (client, log, all) = (client.clone(), Arc::clone(&log), Arc::clone(&all));
        let own = format!("{RING}/{n}");
        let ahead = format!("{RING}/{}", (n + CONTENDERS - 1) % CONTENDERS);
        contenders.spawn(async move {
            let create = || client.create(&own, "", CreateMode::Ephemeral);
            create().await.unwrap();
            all.wait().await;
            let mut deleted = watch(&client, &ahead).await;
            all.wait().await;
            if n == 0 {
                client.delete(&own, None).await.unwrap();
                create().await.unwrap();
            }
            loop {
                deleted.await.unwrap();
                log.acquired();
                log.releases();
                client.delete(&own, None).await.unwrap();
                if log.is_over() {
                    return;
                }
                create().await.unwrap();
                deleted = watch(&client, &ahead).await;
            }
        });
    }
    contenders.join_all().await;
    log.end()
}

/// Watches a znode that is there, or is about to be.
async fn watch(client: &Client, path: &str) -> OneshotWatch {
    loop {
        let (stat, event) = client.exists_watched(path).await.unwrap();
        if stat.is_some() {
            return event;
        }
        event.await.unwrap();
    }
}
