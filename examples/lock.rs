//! Contenders for one lock, one of which dies while it holds it, on an ensemble whose leader dies.
//!
//!     cargo run --release --example lock
//!
//! Every contender has a session of its own, as if it were a process of its own. They take turns at
//! a resource that two must never use at once. One of them is killed: it goes without a word, and
//! the ensemble has to find out that its session is dead before the next one gets the lock. Later it
//! tries to use the resource as if nothing had happened, which its old fencing token prevents. Then
//! the leader of the three servers is killed, and whoever holds the lock goes on holding it.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_examples::Screen;
use quorate_recipes::{Client, FencingToken, Lock};
use quorate_server::Ensemble;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep};

/// Contenders for one lock, one of which dies while it holds it, on an ensemble whose leader dies.
#[derive(Parser)]
struct Args {
    /// A running ensemble to use; without it, three servers are started for the time of the demo
    #[arg(long, value_name = "HOST:PORT[,…]")]
    connect: Option<String>,
    /// How many contend
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    contenders: u16,
    /// How often each of them takes the lock
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

type Failure = Box<dyn Error + Send + Sync>;

const PATH: &str = "/quorate/demo/lock";
/// How long a contender uses the resource.
const WORK: Duration = Duration::from_millis(300);
/// The session timeout to ask for: how long the dead keep the lock.
const SESSION: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; true if the lock did what it should.
async fn run(args: Args) -> Result<bool, Failure> {
    let mut screen = Screen::default();
    let (mut ensemble, servers) = match args.connect {
        Some(servers) => (None, servers),
        None => {
            // Sessions last two ticks at least.
            let ensemble = Ensemble::builder().tick_time(SESSION / 12).start().await?;
            let servers = ensemble.connect_string();
            let leader = ensemble.leader().await?;
            screen.tell(format_args!(
                "three servers are up at {servers}; server {leader} leads"
            ));
            (Some(ensemble), servers)
        }
    };
    let total = usize::from(args.contenders) * usize::from(args.rounds);
    let (events, mut happened) = mpsc::unbounded_channel();
    let stage = Arc::new(Stage {
        servers,
        resource: Resource::default(),
        before_murder: AtomicUsize::new(total / 3),
        events,
    });
    let observer = Lock::new(&stage.connect().await?, PATH);
    for who in 1..=args.contenders {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move {
            let outcome = contend(who, args.rounds, &stage).await;
            stage.tell(Event::Done(outcome));
        });
    }
    let mut looks = interval(Duration::from_millis(100));
    let mut contending = args.contenders;
    let mut leader_died = false;
    while contending > 0 {
        tokio::select! {
            Some(event) = happened.recv() => match event {
                Event::Line(line) => screen.tell(line),
                Event::Done(outcome) => {
                    outcome?;
                    contending -= 1;
                }
            },
            _ = looks.tick() => {
                let usages = stage.resource.usages().clone();
                if usages.len() > 2 * total / 3 && let Some(ensemble) = &mut ensemble && !leader_died {
                    leader_died = true;
                    kill_leader(ensemble, &mut screen).await?;
                }
                // A look may fail while nobody leads; there will be another.
                if let Ok(picture) = picture(&observer, &usages, total).await {
                    screen.show(picture);
                }
            }
        }
    }
    screen.show(Vec::new());
    let verdict = verdict(&stage.resource.usages(), total);
    if ensemble.is_some() && !leader_died {
        return Err("the leader was not killed in time".into());
    }
    let (Ok(text) | Err(text)) = &verdict;
    screen.tell(text);
    Ok(verdict.is_ok())
}

/// Kills the server that leads, waits for the next to lead, and starts the dead one again.
async fn kill_leader(ensemble: &mut Ensemble, screen: &mut Screen) -> Result<(), Failure> {
    let old = ensemble.leader().await?;
    screen.tell(format_args!("server {old}, which leads, is killed"));
    let begin = Instant::now();
    ensemble.kill(old).await;
    let new = ensemble.leader().await?;
    let millis = begin.elapsed().as_millis();
    screen.tell(format_args!("server {new} leads, {millis} ms later"));
    ensemble.restart(old).await?;
    Ok(())
}

/// Takes the lock, uses the resource, lets go, and all of that again.
async fn contend(who: u16, rounds: u16, stage: &Stage) -> Result<(), Failure> {
    let name = format!("#{who}");
    let mut client = stage.connect().await?;
    for _ in 0..rounds {
        let lock = Lock::new(&client, PATH).data(&name);
        let guard = lock.acquire().await?;
        let token = guard.fencing_token();
        let usage = stage.resource.begin(&name, token)?;
        let queue = queue(&lock).await.unwrap_or_else(|_| "unknown".to_owned());
        stage.say(format!(
            "{name} holds the lock, token {token}; queue: {queue}"
        ));

        if stage.is_victim() {
            sleep(WORK / 2).await;
            stage.resource.end(usage);
            // The session is left open, as by a process that is killed.
            client.detach().await?;
            stage.say(format!(
                "{name} is killed; its lock stays until its session expires"
            ));
            stage.resource.wait_for_newer(token).await;
            sleep(WORK / 2).await;
            let Err(refusal) = stage.resource.begin(&name, token) else {
                return Err("the resource took an old token".into());
            };
            stage.say(format!(
                "{name} is back from the dead and uses its token: {refusal}"
            ));
            client = stage.connect().await?;
            continue;
        }

        tokio::select! {
            () = sleep(WORK) => {}
            reason = guard.lost() => stage.say(format!("{name} stops: {reason}")),
        }
        stage.resource.end(usage);
        if let Err(error) = guard.release().await {
            stage.say(format!("{name}: {error}"));
        }
    }
    client.close().await?;
    Ok(())
}

/// What all contenders share.
struct Stage {
    servers: String,
    resource: Resource,
    /// Grants until one is killed.
    before_murder: AtomicUsize,
    events: mpsc::UnboundedSender<Event>,
}

enum Event {
    Line(String),
    Done(Result<(), Failure>),
}

impl Stage {
    async fn connect(&self) -> Result<Client, Failure> {
        let client = Client::builder().session_timeout(SESSION);
        Ok(client.connect(&self.servers).await?)
    }

    /// Is it the turn of the one that is to be killed?
    fn is_victim(&self) -> bool {
        self.before_murder.fetch_sub(1, Ordering::Relaxed) == 0
    }

    fn say(&self, line: String) {
        self.tell(Event::Line(line));
    }

    fn tell(&self, event: Event) {
        // The other end is gone once another contender has failed.
        let _ = self.events.send(event);
    }
}

/// Something that must not be used by two at once. It refuses whoever comes with a smaller token
/// than it has seen, and keeps a record of who used it when.
#[derive(Default)]
struct Resource {
    usages: Mutex<Vec<Usage>>,
    newest: watch::Sender<Option<FencingToken>>,
}

#[derive(Clone)]
struct Usage {
    who: String,
    token: i64,
    from: Instant,
    /// `None` while it is in use.
    until: Option<Instant>,
}

impl Resource {
    /// Begins to use it; answers the number of the usage.
    fn begin(&self, who: &str, token: FencingToken) -> Result<usize, String> {
        let is_newest = self.newest.send_if_modified(|newest| {
            let rises = *newest < Some(token);
            *newest = (*newest).max(Some(token));
            rises
        });
        if !is_newest {
            return Err(format!(
                "token {token} is refused, a newer one has been seen"
            ));
        }
        let mut usages = self.usages();
        usages.push(Usage {
            who: who.to_owned(),
            token: token.get(),
            from: Instant::now(),
            until: None,
        });
        Ok(usages.len() - 1)
    }

    fn end(&self, usage: usize) {
        self.usages()[usage].until = Some(Instant::now());
    }

    /// Waits until a larger token was seen.
    async fn wait_for_newer(&self, token: FencingToken) {
        let mut newest = self.newest.subscribe();
        // The channel stays open as long as the resource.
        let _ = newest.wait_for(|newest| *newest > Some(token)).await;
    }

    fn usages(&self) -> MutexGuard<'_, Vec<Usage>> {
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether everybody had a turn, tokens rose, and no two used the resource at once.
fn verdict(usages: &[Usage], expected: usize) -> Result<String, String> {
    for pair in usages.windows(2) {
        let [before, after] = pair else { continue };
        if before.until.is_none_or(|until| until > after.from) {
            let (one, other) = (&before.who, &after.who);
            return Err(format!("WRONG: {one} and {other} held the lock at once"));
        }
        if before.token >= after.token {
            let (old, new) = (before.token, after.token);
            return Err(format!("WRONG: token {new} was granted after {old}"));
        }
    }
    if usages.len() != expected {
        let found = usages.len();
        return Err(format!("WRONG: {found} grants instead of {expected}"));
    }
    Ok(format!(
        "RIGHT: {expected} grants, no two at once, tokens rising from {} to {}",
        usages.first().map_or(0, |usage| usage.token),
        usages.last().map_or(0, |usage| usage.token),
    ))
}

/// Who waits for the lock, in order.
async fn queue(lock: &Lock) -> Result<String, Failure> {
    let contenders = lock.contenders().await?;
    let waiting = contenders.iter().skip(1);
    let names = waiting.map(|contender| String::from_utf8_lossy(&contender.data));
    let names = names.collect::<Vec<_>>().join(" ");
    Ok(if names.is_empty() {
        "nobody".to_owned()
    } else {
        names
    })
}

/// How things stand.
async fn picture(lock: &Lock, usages: &[Usage], total: usize) -> Result<Vec<String>, Failure> {
    let holder = usages.last().map(|usage| match usage.until {
        None => format!("{}, token {}", usage.who, usage.token),
        Some(until) => format!("nobody for {:.1} s", until.elapsed().as_secs_f64()),
    });
    Ok(vec![
        String::new(),
        format!("   in use by  {}", holder.unwrap_or_default()),
        format!("   in line    {}", queue(lock).await?),
        format!("   grants     {} of {total}", "■".repeat(usages.len())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_not_always_right() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let usage = |token, from, until: Option<u64>| Usage {
            who: format!("contender {token}"),
            token,
            from: at(from),
            until: until.map(at),
        };
        let right = [usage(3, 0, Some(10)), usage(5, 10, Some(20))];
        assert!(verdict(&right, 2).is_ok());
        assert!(verdict(&right, 3).is_err());
        assert!(verdict(&[usage(3, 0, Some(11)), usage(5, 10, Some(20))], 2).is_err());
        assert!(verdict(&[usage(3, 0, None), usage(5, 10, Some(20))], 2).is_err());
        assert!(verdict(&[usage(5, 0, Some(10)), usage(3, 10, Some(20))], 2).is_err());
    }
}
