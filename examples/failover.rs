//! An ensemble under load, of which one server after another fails and comes back.
//!
//!     cargo run --release --example failover
//!
//! Clients read and write, 30 % writes, while a follower is killed, another follower, the leader, two
//! followers at once, and the next leader; each comes back after a while. Throughput over time is
//! drawn. At the end every write that was acknowledged must be there, once, on every server.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_examples::Screen;
use quorate_examples::chart::{Chart, Mark, Series};
use quorate_recipes::client::{Error as ClientError, Stat};
use quorate_recipes::{Client, CreateMode, Outcome};
use quorate_server::Ensemble;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep_until, timeout};

/// An ensemble under load, of which one server after another fails and comes back.
#[derive(Parser)]
struct Args {
    /// How many servers: 5 or 7
    #[arg(long, value_name = "N", default_value = "5", value_parser = ["5", "7"])]
    servers: String,
    /// How long it takes, 5 at least
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(5..=3600))]
    seconds: u16,
    /// How many clients, each with 16 requests in flight
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=500))]
    clients: u16,
    /// File to draw the throughput to, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

type Failure = Box<dyn Error + Send + Sync>;

const PATH: &str = "/failover";
/// Requests that each client keeps in flight.
const DEPTH: u16 = 16;
/// What the throughput is counted in.
const SPAN: Duration = Duration::from_millis(100);
/// How long whatever ought to come by itself may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("WRONG: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; an error if an acknowledged write was lost, or the ensemble did not come back.
async fn run(args: Args) -> Result<(), Failure> {
    let mut screen = Screen::default();
    let began = Instant::now();
    let mut ensemble = Ensemble::start(args.servers.parse()?).await?;
    let took = began.elapsed().as_millis();
    let servers = ensemble.connect_string();
    screen.tell(format_args!(
        "{} servers are up after {took} ms: {servers}",
        args.servers
    ));

    let length = Duration::from_secs(args.seconds.into());
    let posts = prepare(&servers, args.clients).await?;
    let load = Arc::new(Load::new(length));
    let mut workers = JoinSet::new();
    for (client, path) in posts {
        let load = Arc::clone(&load);
        workers.spawn(async move { load.work(&client, path).await });
    }
    tokio::try_join!(show(&load, &mut screen), fail_in_turn(&mut ensemble, &load))?;
    load.stop();
    let mut ledgers = Vec::new();
    while let Some(ended) = timeout(PATIENCE, workers.join_next()).await? {
        ledgers.push(ended??);
    }
    let mut chart = load.chart(&format!("{} servers, 30 % writes", args.servers));
    load.tell_gaps(&mut chart);
    screen.add(&chart.text(72, 12));
    screen.add(&chart.legend());
    if let Some(file) = &args.svg {
        fs::write(file, chart.svg())?;
        screen.tell(format_args!("drawn to {}", file.display()));
    }
    let failed = load.record().failed;
    screen.tell(format_args!(
        "{failed} requests failed with their connection"
    ));
    screen.tell(format_args!("RIGHT: {}", verify(&servers, &ledgers).await?));
    ensemble.shutdown().await?;
    Ok(())
}

/// Draws the throughput, and tells what happens, until the time is over.
async fn show(load: &Load, screen: &mut Screen) -> Result<(), Failure> {
    let mut looks = interval(Duration::from_millis(250));
    let mut told = 0;
    while load.start.elapsed() < load.length {
        looks.tick().await;
        let chart = load.chart("requests a second");
        for mark in chart.marks.iter().skip(told) {
            screen.tell(&mark.label);
        }
        told = chart.marks.len();
        screen.show(chart.text(72, 8));
        let failure = load.record().failure.take();
        if let Some(failure) = failure {
            return Err(failure.into());
        }
    }
    screen.show(Vec::new());
    Ok(())
}

/// Kills servers and lets them come back, in five episodes.
async fn fail_in_turn(ensemble: &mut Ensemble, load: &Load) -> Result<(), Failure> {
    const EPISODES: [Victims; 5] = [
        Victims::Followers(1),
        Victims::Followers(1),
        Victims::Leader,
        Victims::Followers(2),
        Victims::Leader,
    ];
    let slot = load.length / EPISODES.len() as u32;
    let mut spared = ensemble.ids();
    for (episode, victims) in (0..).zip(EPISODES) {
        let from = load.start + slot * episode;
        sleep_until((from + slot / 4).into()).await;
        let leader = ensemble.leader().await?;
        let chosen = victims.choose(leader, &ensemble.ids(), &mut spared);
        let name = victims.name(&chosen);
        load.mark(format!("{name} killed"));
        for id in &chosen {
            ensemble.kill(*id).await;
        }
        sleep_until((from + slot * 3 / 4).into()).await;
        load.mark(format!("{name} back"));
        for id in &chosen {
            ensemble.restart(*id).await?;
        }
    }
    sleep_until((load.start + load.length).into()).await;
    Ok(())
}

/// Who fails.
#[derive(Clone, Copy)]
enum Victims {
    Leader,
    Followers(usize),
}

impl Victims {
    /// Chooses followers that have been spared so far, as long as there are any.
    fn choose(self, leader: i64, ids: &[i64], spared: &mut Vec<i64>) -> Vec<i64> {
        let count = match self {
            Victims::Leader => return vec![leader],
            Victims::Followers(count) => count,
        };
        let mut followers: Vec<i64> = ids.iter().copied().filter(|id| *id != leader).collect();
        followers.sort_by_key(|id| !spared.contains(id));
        followers.truncate(count);
        spared.retain(|id| !followers.contains(id));
        followers
    }

    fn name(self, ids: &[i64]) -> String {
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        match self {
            Victims::Leader => format!("leader {}", ids.join(" ")),
            Victims::Followers(1) => format!("follower {}", ids.join(" ")),
            Victims::Followers(_) => format!("followers {}", ids.join(" and ")),
        }
    }
}

/// Connects the clients, and creates a znode for each request that is to be in flight.
async fn prepare(servers: &str, clients: u16) -> Result<Vec<(Client, String)>, Failure> {
    let mut posts = Vec::new();
    for number in 0..clients {
        let client = Client::connect(servers).await?;
        if number == 0 {
            client.create(PATH, "", CreateMode::Persistent).await?;
        }
        // It may be connected to a server that has not heard of it yet.
        client.sync(PATH).await?;
        for post in 0..DEPTH {
            let path = format!("{PATH}/{number}-{post}");
            client.create(&path, "", CreateMode::Persistent).await?;
            posts.push((client.clone(), path));
        }
    }
    Ok(posts)
}

/// What a worker has written to its znode.
struct Ledger {
    path: String,
    attempts: u32,
    /// Writes that were acknowledged, and the number of the newest.
    acknowledged: u32,
    newest: u32,
    /// Writes that may have happened or not.
    unknown: u32,
}

impl Ledger {
    fn new(path: String) -> Ledger {
        Ledger {
            path,
            attempts: 0,
            acknowledged: 0,
            newest: 0,
            unknown: 0,
        }
    }

    /// The version counts the writes that happened: all that were acknowledged, and some of those of
    /// unknown outcome.
    fn check(&self, version: i32) -> Result<(), String> {
        let (least, most) = (self.acknowledged, self.acknowledged + self.unknown);
        let found = u32::try_from(version).unwrap_or_default();
        match found {
            _ if found < least => Err(format!("{}: {} writes were lost", self.path, least - found)),
            _ if found > most => Err(format!(
                "{}: {} writes happened twice",
                self.path,
                found - most
            )),
            _ => Ok(()),
        }
    }

    /// What the znode holds must be the newest write that was acknowledged, or one behind it.
    fn check_data(&self, data: &[u8]) -> Result<(), String> {
        let held = str::from_utf8(data)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        match (self.newest..=self.attempts).contains(&held) {
            true => Ok(()),
            false => Err(format!(
                "{}: it holds write {held}, not {}",
                self.path, self.newest
            )),
        }
    }
}

/// Looks on every server whether all that was acknowledged is there, once.
async fn verify(servers: &str, ledgers: &[Ledger]) -> Result<String, Failure> {
    let mut first = None;
    for server in servers.split(',') {
        let client = Client::connect(server).await?;
        client.sync(PATH).await?;
        let mut found = Vec::with_capacity(ledgers.len());
        for ledger in ledgers {
            let (data, stat) = client.get_data(&ledger.path).await?;
            ledger
                .check(stat.version)
                .map_err(|what| format!("at {server}: {what}"))?;
            ledger
                .check_data(&data)
                .map_err(|what| format!("at {server}: {what}"))?;
            found.push((data, stat));
        }
        client.close().await?;
        if *first.get_or_insert_with(|| found.clone()) != found {
            return Err(format!("{server} does not hold what the others do").into());
        }
    }
    let sum = |of: fn(&Ledger) -> u32| -> u32 { ledgers.iter().map(of).sum() };
    Ok(format!(
        "{} acknowledged writes are on every server, none is lost, none is there twice; {} were \
         of unknown outcome",
        sum(|ledger| ledger.acknowledged),
        sum(|ledger| ledger.unknown)
    ))
}

/// What all workers share.
struct Load {
    start: Instant,
    length: Duration,
    over: AtomicBool,
    record: Mutex<Record>,
}

/// What was done, and what happened.
#[derive(Default)]
struct Record {
    reads: Vec<u64>,
    writes: Vec<u64>,
    /// When writes were acknowledged, since the start.
    acknowledged: Vec<Duration>,
    /// Requests that failed with their connection.
    failed: u64,
    /// What must not have happened.
    failure: Option<String>,
    marks: Vec<Mark>,
}

impl Load {
    fn new(length: Duration) -> Load {
        Load {
            start: Instant::now(),
            length,
            over: AtomicBool::new(false),
            record: Mutex::default(),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Reads and writes one znode until the time is over, and keeps account of it.
    async fn work(&self, client: &Client, path: String) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::new(path);
        for request in 1u64.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            // Three of ten.
            let outcome = if request * 3 % 10 < 3 {
                self.write(client, &mut ledger).await
            } else {
                self.read(client, &ledger.path).await
            };
            let judged = match outcome {
                Ok(stat) => ledger.check(stat.version).map_err(Failure::from),
                // The client goes on at the next server, and requests wait until it does.
                Err(error) if error.is_transient() => {
                    self.record().failed += 1;
                    Ok(())
                }
                Err(error) => Err(error.into()),
            };
            if let Err(failure) = judged {
                self.record().failure = Some(failure.to_string());
                return Err(failure);
            }
        }
        Ok(ledger)
    }

    async fn read(&self, client: &Client, path: &str) -> Result<Stat, ClientError> {
        let (_, stat) = client.get_data(path).await?;
        count(&mut self.record().reads, self.start.elapsed());
        Ok(stat)
    }

    async fn write(&self, client: &Client, ledger: &mut Ledger) -> Result<Stat, ClientError> {
        ledger.attempts += 1;
        let data = ledger.attempts.to_string();
        let written = client.set_data(&ledger.path, &data, None).await;
        match &written {
            Ok(_) => {
                ledger.acknowledged += 1;
                ledger.newest = ledger.attempts;
                let mut record = self.record();
                let now = self.start.elapsed();
                count(&mut record.writes, now);
                record.acknowledged.push(now);
            }
            Err(error) => {
                ledger.unknown += u32::from(error.outcome() != Outcome::DidNotHappen);
            }
        }
        written
    }

    /// Something happens now.
    fn mark(&self, label: String) {
        let at = self.start.elapsed();
        self.record().marks.push(Mark { at, label });
    }

    fn chart(&self, title: &str) -> Chart {
        let record = self.record();
        let series = |name: &str, counts: &[u64]| Series {
            name: name.to_owned(),
            counts: counts.to_vec(),
        };
        Chart {
            title: title.to_owned(),
            length: self.length,
            span: SPAN,
            series: vec![
                series("writes", &record.writes),
                series("reads", &record.reads),
            ],
            marks: record.marks.clone(),
        }
    }

    /// Adds to each mark the longest time without a write until the next one.
    fn tell_gaps(&self, chart: &mut Chart) {
        let record = self.record();
        let later = record.marks.iter().skip(1).map(|next| next.at);
        for (mark, end) in chart.marks.iter_mut().zip(later.chain([self.length])) {
            let gap = longest_gap(&record.acknowledged, mark.at, end).as_secs_f64() * 1e3;
            mark.label += &format!(": at most {gap:.0} ms without a write");
        }
    }
}

fn count(counts: &mut Vec<u64>, at: Duration) {
    let span = (at.as_millis() / SPAN.as_millis()) as usize;
    if counts.len() <= span {
        counts.resize(span + 1, 0);
    }
    counts[span] += 1;
}

/// The longest time without one of `moments`, which ascend, that has a part between `from` and `to`.
fn longest_gap(moments: &[Duration], from: Duration, to: Duration) -> Duration {
    let before = moments
        .partition_point(|moment| *moment < from)
        .saturating_sub(1);
    let mut last = moments.get(before).copied().unwrap_or(from).min(from);
    let mut longest = Duration::ZERO;
    for moment in moments[before..].iter().copied().chain([to]) {
        longest = longest.max(moment.saturating_sub(last));
        last = moment;
        if moment >= to {
            break;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_finds_what_is_lost_or_twice() {
        let ledger = Ledger {
            attempts: 9,
            acknowledged: 5,
            newest: 8,
            unknown: 2,
            ..Ledger::new("/x".to_owned())
        };
        assert!(ledger.check(4).unwrap_err().contains("1 writes were lost"));
        assert!(ledger.check(5).is_ok() && ledger.check(7).is_ok());
        assert!(
            ledger
                .check(8)
                .unwrap_err()
                .contains("1 writes happened twice")
        );
        assert!(ledger.check_data(b"8").is_ok() && ledger.check_data(b"9").is_ok());
        assert!(ledger.check_data(b"7").is_err() && ledger.check_data(b"").is_err());
    }

    #[test]
    fn gaps_count_from_the_write_before_to_the_write_behind() {
        let ms = Duration::from_millis;
        let moments = [10, 11, 31, 32, 90].map(ms);
        assert_eq!(longest_gap(&moments, ms(20), ms(40)), ms(58));
        assert_eq!(longest_gap(&moments, ms(20), ms(30)), ms(20));
        assert_eq!(longest_gap(&moments, ms(0), ms(11)), ms(10));
        assert_eq!(longest_gap(&moments, ms(11), ms(12)), ms(20));
        assert_eq!(longest_gap(&moments, ms(80), ms(200)), ms(110));
        assert_eq!(longest_gap(&[], ms(20), ms(30)), ms(10));
    }

    #[test]
    fn other_followers_come_first() {
        let (ids, mut spared) = ([1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5]);
        let mut choose = |victims: Victims, leader| victims.choose(leader, &ids, &mut spared);
        assert_eq!(choose(Victims::Followers(1), 5), [1]);
        assert_eq!(choose(Victims::Followers(1), 5), [2]);
        assert_eq!(choose(Victims::Leader, 5), [5]);
        assert_eq!(choose(Victims::Followers(2), 4), [3, 5]);
    }
}
