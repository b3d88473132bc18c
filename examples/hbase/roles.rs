//! What the processes of the demo do: this program runs itself again, once for each of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser};
use quorate_examples::Failure;
use quorate_recipes::client::{Error as ClientError, TransactionResult};
use quorate_recipes::coordination::{Cluster, ServedTask, Worker, WorkerInfo};
use quorate_recipes::{Client, Error};
use quorate_server::Server;
use quorate_server::config::Source;
use ratatui::crossterm::{cursor, execute, terminal};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::termios::{InputModes, LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::proof::{Entry, Journal, Moment, What, now};

/// How long a master or a region server that is dead or stands still counts among the living.
pub(crate) const SESSION: Duration = Duration::from_secs(2);
/// The session in which regions are written outlives that.
const DATA_SESSION: Duration = Duration::from_secs(30);
/// Whoever looks for the ensemble does so until it is there.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// Between two reports of how busy a region server is.
const REPORT: Duration = Duration::from_millis(500);
/// The word with which the line about a refused write begins.
pub(crate) const REFUSED: &str = "is refused";
/// What the caretaker is told where there is nothing to take care of but the directory.
pub(crate) const FAREWELL: &[u8] = b"farewell";

/// What a process is.
#[derive(Parser)]
#[command(about = "A process of the demo, which starts it")]
pub(crate) enum Role {
    /// A server of the ensemble
    Server { parent: i32, zoo_cfg: PathBuf },
    /// A master, active or standing by
    Master {
        parent: i32,
        #[command(flatten)]
        post: Post,
    },
    /// A server of regions
    RegionServer {
        parent: i32,
        #[command(flatten)]
        post: Post,
        #[command(flatten)]
        shop: Shop,
    },
    /// Tidies up behind the demo, however that ends
    Caretaker { home: PathBuf },
}

/// Where a master or a region server belongs.
#[derive(Args)]
pub(crate) struct Post {
    id: String,
    /// The ensemble
    connect: String,
    /// The znode of the cluster
    path: String,
}

/// How a region server works.
#[derive(Args)]
pub(crate) struct Shop {
    journal: PathBuf,
    /// Between two writes of a region
    pause_ms: u64,
    /// Writes without asking the servers whether the region is still this server's
    #[arg(long)]
    without_fencing: bool,
}

/// Where the data of a region is.
pub(crate) fn region_path(cluster: &str, region: &str) -> String {
    format!("{cluster}/regions/{region}")
}

/// Plays a role until the process is killed, or cannot go on.
pub(crate) fn play(role: Role) -> Result<(), Failure> {
    match role {
        Role::Server { parent, zoo_cfg } => {
            die_with(parent)?;
            Runtime::new()?.block_on(serve(&zoo_cfg))
        }
        Role::Master { parent, post } => {
            die_with(parent)?;
            alone(be_master(&post))
        }
        Role::RegionServer { parent, post, shop } => {
            die_with(parent)?;
            alone(be_region_server(post, &shop))
        }
        Role::Caretaker { home } => take_care(&home),
    }
}

/// Lets the system kill this process when its parent ends, whatever ends that.
fn die_with(parent: i32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended just before.
    match getppid().map(Pid::as_raw_pid) == Some(parent) {
        true => Ok(()),
        false => Err("the demo is gone".into()),
    }
}

/// Runs everything on this thread.
fn alone(role: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, role)
}

/// A line for the log of the demo.
fn say(line: &str) {
    // Nobody is there to be told that nobody listens.
    let _ = stdout().write_all(format!("{line}\n").as_bytes());
}

async fn serve(zoo_cfg: &Path) -> Result<(), Failure> {
    let server = Server::start(Source::file(zoo_cfg).load()?.config).await?;
    Ok(server.stopped().await?)
}

async fn connect(post: &Post, session: Duration) -> Result<Client, Failure> {
    let client = Client::builder().session_timeout(session);
    Ok(client
        .connect_timeout(FOR_EVER)
        .connect(&post.connect)
        .await?)
}

/// Is the active master or stands by, with one session after the other.
async fn be_master(post: &Post) -> Result<(), Failure> {
    loop {
        let client = connect(post, SESSION).await?;
        let master = Cluster::new(&client, &post.path).master(&post.id);
        let mut active = master.watch_active();
        let tell = async {
            while active.changed().await.is_ok() {
                let now = *active.borrow_and_update();
                match now {
                    Some(token) => say(&format!("is the active master, token {token}")),
                    None => say("is not the active master any more"),
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            error = master.run() => match error.is_session_over() {
                true => say("stands by again, since its session is over"),
                false => return Err(error.into()),
            },
            () = tell => {}
        }
    }
}

/// Serves the regions that it gets, in one session after the other.
async fn be_region_server(post: Post, shop: &Shop) -> Result<(), Failure> {
    let journal = Rc::new(Journal::create(&shop.journal)?);
    loop {
        let data = connect(&post, DATA_SESSION).await?;
        let client = connect(&post, SESSION).await?;
        let cluster = Cluster::new(&client, &post.path);
        let worker = match Worker::join(&cluster, &WorkerInfo::new(&post.id)).await {
            Ok(worker) => worker,
            // It stood still meanwhile.
            Err(error) if error.is_session_over() || matches!(error, Error::Lost { .. }) => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let desk = Desk {
            id: post.id.clone(),
            cluster: post.path.clone(),
            data,
            journal: Rc::clone(&journal),
            pause: Duration::from_millis(shop.pause_ms),
            fencing: !shop.without_fencing,
            writes: AtomicU64::new(0),
        };
        let lost = attend(worker, Rc::new(desk)).await?;
        let why = match lost {
            Error::Lost { reason, .. } => reason.to_string(),
            error => error.to_string(),
        };
        say(&format!("joins again, since {why}"));
    }
}

/// Serves what is assigned to a worker; answers why it is none any more.
async fn attend(mut worker: Worker, desk: Rc<Desk>) -> Result<Error, Failure> {
    let mut clerks: JoinSet<Result<(), Failure>> = JoinSet::new();
    // A clerk stops when this is dropped.
    let mut regions: BTreeMap<String, oneshot::Sender<()>> = BTreeMap::new();
    let mut reports = interval(REPORT);
    let lost = loop {
        tokio::select! {
            changed = worker.changed() => if let Err(error) = changed { break error },
            Some(done) = clerks.join_next() => done??,
            _ = reports.tick() => {
                let writes = desk.writes.swap(0, Ordering::Relaxed);
                let rate = writes * 1000 / REPORT.as_millis() as u64;
                // Whether it is a worker still is told otherwise.
                drop(worker.report(rate).await);
            }
        }
        if worker.state().is_lost() {
            continue;
        }
        let served = worker.tasks();
        regions.retain(|region, _| served.contains_key(region));
        for (region, task) in &*served {
            if !regions.contains_key(region) {
                let (stop, stopped) = oneshot::channel();
                regions.insert(region.clone(), stop);
                let (desk, region, task) = (Rc::clone(&desk), region.clone(), task.clone());
                clerks.spawn_local(async move { desk.serve(&region, &task, stopped).await });
            }
        }
    };
    // Nobody tells the clerks: it is the servers that must hold them back.
    while let Some(done) = clerks.join_next().await {
        done??;
    }
    Ok(lost)
}

/// What the clerks of a region server, one for each region, have in common.
struct Desk {
    id: String,
    cluster: String,
    data: Client,
    journal: Rc<Journal>,
    pause: Duration,
    fencing: bool,
    /// Since the last report.
    writes: AtomicU64,
}

impl Desk {
    /// Serves a region until it is to stop, or is refused. One that has lost the region without a
    /// word about it, because it stood still, still does what it was about to do: one more write.
    async fn serve(
        &self,
        region: &str,
        task: &ServedTask,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result<(), Failure> {
        let note = |at, what| {
            let (region, epoch) = (region.to_owned(), task.epoch());
            self.journal.note(&Entry {
                region,
                epoch,
                at,
                what,
            })
        };
        let mut lease = lease(task, now());
        note(now(), What::Granted { lease })?;
        let mut ticks = interval(self.pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = &mut stopped => break,
            }
            lease = self::lease(task, lease);
            let (was_lost, asked) = (task.state().is_lost(), now());
            match self.write(region, task).await {
                Ok(version) => {
                    let answered = now();
                    let wrote = What::Wrote {
                        version,
                        answered,
                        lease,
                    };
                    note(asked, wrote)?;
                    self.writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.is_transient() => note(asked, What::Unknown)?,
                Err(error) => {
                    note(asked, What::Refused)?;
                    let why = match error {
                        ClientError::Transaction { index: 0, .. } => "its session is over".into(),
                        ClientError::Transaction { index: 1, .. } => "it is another's".into(),
                        error => error.to_string(),
                    };
                    let epoch = task.epoch();
                    say(&format!(
                        "{REFUSED} a write of {region} with token {epoch}: {why}"
                    ));
                    break;
                }
            }
            if was_lost {
                break;
            }
        }
        let end = match task.state().is_lost() {
            true => now().min(lease),
            false => now(),
        };
        note(end, What::Ended)
    }

    /// Writes a region, which the servers accept only while it is this server's; answers the version.
    async fn write(&self, region: &str, task: &ServedTask) -> Result<i32, ClientError> {
        let mut write = self.data.transaction();
        if self.fencing {
            for fence in task.fences() {
                write = write.check(fence, None);
            }
        }
        let text = format!("{} {}", task.epoch(), self.id);
        let path = region_path(&self.cluster, region);
        let results = write.set_data(&path, &text, None).commit().await?;
        match results.last() {
            Some(TransactionResult::DataSet(stat)) => Ok(stat.version),
            _ => Err(ClientError::Closed),
        }
    }
}

/// Until when a task is surely served by nobody else; what was known before if nothing is any more.
fn lease(task: &ServedTask, before: Moment) -> Moment {
    let Some(until) = task.valid_until() else {
        return before;
    };
    let (from_now, ago) = (until - Instant::now(), Instant::now() - until);
    let nanos = |time: Duration| Moment::try_from(time.as_nanos()).unwrap_or(Moment::MAX / 2);
    now() + nanos(from_now) - nanos(ago)
}

/// Waits for the end of the demo, and then removes its directory. If the demo has not said farewell,
/// the terminal is given back too.
fn take_care(home: &Path) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let _runtime = runtime.enter();
    // What ends the demo from the terminal must not end this one before.
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        drop(signal(kind)?);
    }
    let mut said = Vec::new();
    stdin().read_to_end(&mut said)?;
    if said != FAREWELL {
        give_terminal_back();
    }
    // Processes that are being killed may still write.
    for _ in 0..100 {
        if fs::remove_dir_all(home).is_ok() || !home.exists() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Undoes what a live view does to a terminal, should there be one.
fn give_terminal_back() {
    let Ok(mut modes) = tcgetattr(stdout()) else {
        return;
    };
    modes.input_modes |= InputModes::ICRNL | InputModes::IXON;
    modes.output_modes |= OutputModes::OPOST;
    modes.local_modes |=
        LocalModes::ECHO | LocalModes::ICANON | LocalModes::IEXTEN | LocalModes::ISIG;
    // It may be what has gone first.
    let _ = execute!(stdout(), terminal::LeaveAlternateScreen, cursor::Show);
    let _ = tcsetattr(stdout(), OptionalActions::Now, &modes);
}
