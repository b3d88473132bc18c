//! Masters and region servers on an ensemble, as processes that are killed, paused and started again.
//!
//!     cargo run --release --example hbase
//!
//! One of the masters is active and spreads regions over the region servers. Each region server writes
//! its regions all the time, with transactions that the ensemble refuses as soon as a region is not
//! this server's any more. A script, or with `--interactive` the user, kills region servers, the active
//! master and the leader of the ensemble, and pauses a region server for longer than its session lives:
//! it comes back as a zombie, and its writes are refused.
//!
//! All processes note what they do. At the end the demo proves from that, and from what the ensemble
//! holds, that each region was served by at most one server at any time. `roles.rs` has the processes,
//! `stage.rs` starts and kills them, `proof.rs` is the proof, `view.rs` what is seen.

mod proof;
mod roles;
mod stage;
mod view;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fastrand::Rng;
use quorate_examples::Failure;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, interval};

use crate::proof::{Event, Evidence};
use crate::stage::{Chronicle, Kind, RETURN, Scene, Stage};
use crate::view::{View, say, stamped};

/// Masters and region servers on an ensemble, as processes that are killed, paused and started again.
#[derive(Parser)]
struct Args {
    /// A running ensemble to use, whose servers are left alone; without it, one of three servers is
    /// started for the time of the demo
    #[arg(long, value_name = "HOST:PORT[,…]")]
    connect: Option<String>,
    /// How many region servers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=50))]
    region_servers: u16,
    /// How many regions
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=200))]
    regions: u16,
    /// How many masters, of which one is active
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=20))]
    masters: u16,
    /// How long the script takes, or longer where it must: it has a blow for every five seconds, and
    /// five at least
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=86400))]
    seconds: u32,
    /// Leaves it to the user to kill, by keys
    #[arg(long, visible_alias = "keys")]
    interactive: bool,
    /// Chooses the victims; a random one unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Lets region servers write without asking whether a region is still theirs, which the proof
    /// must find out
    #[arg(long, hide = true)]
    without_fencing: bool,
}

/// What can happen to the processes, in the order of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    KillRegionServer,
    KillMaster,
    KillLeader,
    PauseRegionServer,
    KillMasterAndRegionServer,
}

impl Blow {
    const SCRIPT: [Blow; 5] = [
        Blow::KillRegionServer,
        Blow::KillMaster,
        Blow::KillLeader,
        Blow::PauseRegionServer,
        Blow::KillMasterAndRegionServer,
    ];

    /// What it is called where its consequences are told.
    fn name(self) -> &'static str {
        match self {
            Blow::KillRegionServer => "a region server is killed",
            Blow::KillMaster => "the active master is killed",
            Blow::KillLeader => "the leader of the ensemble is killed",
            Blow::PauseRegionServer => "a region server is paused",
            Blow::KillMasterAndRegionServer => "the active master and a region server are killed",
        }
    }
}

/// Seconds between two blows of the script.
const ACT: u32 = 5;
/// What the user presses.
type Keys = UnboundedReceiver<char>;

/// Between two pictures.
const FRAME: Duration = Duration::from_millis(100);
const INTERACTIVE: &str = "kill: r region server, m master, l leader │ p pause a region server │ \
                           b bring all back │ q prove";
const SCRIPTED: &str = "Ctrl-C ends it";

fn main() -> ExitCode {
    let outcome = match env::args_os().nth(1) {
        Some(word) if word == "role" => {
            roles::play(roles::Role::parse_from(env::args_os().skip(1))).map(|()| true)
        }
        // On one thread: the processes are to die with the thread that has started them.
        _ => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::from)
            .and_then(|runtime| runtime.block_on(run(Args::parse()))),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is there to be told that nobody listens.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; true if the proof succeeds.
async fn run(args: Args) -> Result<bool, Failure> {
    if args.interactive && !view::has_terminal() {
        return Err("--interactive needs a terminal".into());
    }
    let (caretaker, home) = Caretaker::start()?;
    let chronicle = Chronicle::new();
    let mut view = View::open(if args.interactive {
        INTERACTIVE
    } else {
        SCRIPTED
    })?;
    let keys = view::has_terminal().then(view::keys);
    let outcome = tokio::select! {
        outcome = play(&args, home, &chronicle, keys) => outcome,
        outcome = show(&mut view, &chronicle) => outcome,
        outcome = interruption() => outcome,
    };
    view.close(&chronicle);
    caretaker.dismiss()?;
    let evidence = outcome?;
    tell_gaps(&chronicle, &evidence);
    let (is_right, verdict) = match evidence.prove() {
        Ok(proof) => (true, format!("RIGHT: {proof}")),
        Err(wrong) => (false, format!("WRONG: {wrong}")),
    };
    say(&stamped(chronicle.start, proof::now(), &verdict));
    Ok(is_right)
}

/// Runs the processes, and answers what they have noted.
async fn play(
    args: &Args,
    home: PathBuf,
    chronicle: &Arc<Chronicle>,
    keys: Option<Keys>,
) -> Result<Evidence, Failure> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut rng = Rng::with_seed(seed);
    chronicle.tell(format_args!("victims are chosen by --seed {seed}"));
    let mut stage = Stage::start(args, home, Arc::clone(chronicle)).await?;
    chronicle.tell("every region is served");
    match keys {
        Some(keys) if args.interactive => follow_keys(&mut stage, keys, &mut rng).await?,
        _ => follow_script(&mut stage, args, &mut rng).await?,
    }
    let evidence = stage.bring_down_the_curtain().await?;
    chronicle.tell("everything is stopped, and all journals are read");
    stage.clear().await?;
    Ok(evidence)
}

/// Strikes as the script says, and each time waits until everybody is back.
async fn follow_script(stage: &mut Stage, args: &Args, rng: &mut Rng) -> Result<(), Failure> {
    let blows = (args.seconds / ACT).max(Blow::SCRIPT.len() as u32);
    let mut acts = interval(Duration::from_secs(args.seconds.into()) / blows);
    for blow in (0..blows)
        .zip(Blow::SCRIPT.iter().cycle())
        .map(|(_, blow)| *blow)
    {
        if blow == Blow::KillLeader && args.connect.is_some() {
            continue;
        }
        acts.tick().await;
        let began = Instant::now();
        let victims = strike(stage, blow, rng).await?;
        let are_replaced = |scene: &Scene| victims.iter().all(|name| scene.has_replaced(name));
        stage.until("others take over", are_replaced).await?;
        let seconds = began.elapsed().as_secs_f64();
        let chronicle = Arc::clone(&stage.chronicle);
        chronicle.tell(format_args!("others have taken over within {seconds:.2} s"));
        let refused = |scene: &Scene| scene.refused.values().sum::<usize>();
        let before = refused(&chronicle.scene());
        stage.revive()?;
        if blow == Blow::PauseRegionServer && !args.without_fencing {
            let is_refused = |scene: &Scene| refused(scene) > before;
            stage
                .until("the writes of the zombie are refused", is_refused)
                .await?;
        }
        stage.settled().await?;
        chronicle.tell("everybody is there and has a share");
    }
    Ok(())
}

/// Does what the user wants, until that is the end.
async fn follow_keys(stage: &mut Stage, mut keys: Keys, rng: &mut Rng) -> Result<(), Failure> {
    while let Some(key) = keys.recv().await {
        let blow = match key {
            'r' => Blow::KillRegionServer,
            'm' => Blow::KillMaster,
            'l' => Blow::KillLeader,
            'p' => Blow::PauseRegionServer,
            'b' => {
                stage.revive()?;
                continue;
            }
            'q' => break,
            _ => continue,
        };
        if strike(stage, blow, rng).await?.is_empty() {
            stage.chronicle.tell("there is nobody of that kind now");
        }
    }
    stage.revive()
}

/// Strikes; answers whom.
async fn strike(stage: &mut Stage, blow: Blow, rng: &mut Rng) -> Result<Vec<String>, Failure> {
    let victims = victims(&stage.chronicle.scene(), blow, rng);
    for name in &victims {
        match blow {
            Blow::PauseRegionServer => stage.pause(name, blow.name())?,
            _ => stage.kill(name, blow.name()).await?,
        }
    }
    Ok(victims)
}

/// Whom a blow hits: nobody who is dead or paused already.
fn victims(scene: &Scene, blow: Blow, rng: &mut Rng) -> Vec<String> {
    let is_up = |kind, name: &str| scene.up(kind).contains(&name);
    let leader = scene.leader().filter(|name| is_up(Kind::Server, name));
    let master = scene.overview.masters.first().map(String::as_str);
    let master = master.filter(|name| is_up(Kind::Master, name));
    let mut servers = scene.up(Kind::RegionServer);
    servers.retain(|name| !scene.regions_of(name).is_empty());
    let server = rng.choice(servers);
    let victims = match blow {
        Blow::KillLeader => [leader, None],
        Blow::KillMaster => [master, None],
        Blow::KillRegionServer | Blow::PauseRegionServer => [server, None],
        Blow::KillMasterAndRegionServer => [master, server],
    };
    victims.into_iter().flatten().map(str::to_owned).collect()
}

/// Shows how things stand for as long as the demo can go on.
async fn show(view: &mut View, chronicle: &Chronicle) -> Result<Evidence, Failure> {
    let mut frames = interval(FRAME);
    loop {
        frames.tick().await;
        view.show(chronicle)?;
        if let Some(failure) = &chronicle.scene().failure {
            return Err(failure.clone().into());
        }
    }
}

/// Waits for a signal that ends the demo.
async fn interruption() -> Result<Evidence, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Err("interrupted, and nothing is proved".into())
}

/// Tells the longest time without a write to a region, for each kind of blow.
fn tell_gaps(chronicle: &Chronicle, evidence: &Evidence) {
    let lines = chronicle.lines().into_iter();
    let blows = lines.filter_map(|line| Some((line.at, line.blow?)));
    let event = |(begin, (blow, end))| {
        let harms = blow != RETURN;
        (Event { begin, end, harms }, blow)
    };
    let (events, blows): (Vec<_>, Vec<_>) = blows.map(event).unzip();
    let mut longest = BTreeMap::new();
    for (blow, gap) in blows.into_iter().zip(evidence.gaps(&events)) {
        let known = longest.entry(blow).or_insert_with(|| gap.clone());
        *known = gap.max(known.clone());
    }
    say("\nThe longest time without a write to a region, when");
    for (blow, (nanos, region)) in longest {
        say(&format!("{:6.2} s  {blow} ({region})", nanos as f64 / 1e9));
    }
    say("");
}

/// The process that tidies up, however the demo ends.
struct Caretaker(Child);

impl Caretaker {
    /// Makes a directory for the demo, of which the process takes care.
    fn start() -> Result<(Caretaker, PathBuf), Failure> {
        let home = tempfile::Builder::new()
            .prefix("quorate-hbase-")
            .tempdir()?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["role", "caretaker"]).arg(home.path());
        let process = command.stdin(Stdio::piped()).spawn()?;
        Ok((Caretaker(process), home.keep()))
    }

    /// Waits until it has tidied up.
    fn dismiss(mut self) -> Result<(), Failure> {
        if let Some(mut ear) = self.0.stdin.take() {
            ear.write_all(roles::FAREWELL)?;
        }
        self.0.wait()?;
        Ok(())
    }
}
