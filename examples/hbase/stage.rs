//! The processes of the demo, what becomes of them, and what is seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use quorate_examples::Failure;
use quorate_recipes::coordination::{Cluster, Overview, TaskState};
use quorate_recipes::{Client, CreateMode};
use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use crate::Args;
use crate::proof::{Evidence, Last, Life, Moment, now};
use crate::roles::{REFUSED, SESSION, region_path};

/// How long whatever ought to come by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at who leads the ensemble.
const LOOK: Duration = Duration::from_millis(50);
/// How long a server may take to say what it is.
const ANSWER: Duration = Duration::from_millis(300);
const SERVERS: usize = 3;
/// What the consequences are of when one comes back.
pub(crate) const RETURN: &str = "one that comes back gets its share";
const ALL: [Kind; 3] = [Kind::Server, Kind::Master, Kind::RegionServer];
/// Those for whom the ensemble is.
const PARTICIPANTS: [Kind; 2] = [Kind::Master, Kind::RegionServer];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Master,
    RegionServer,
}

/// What the demo has done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Up,
    Paused,
    Dead,
}

/// How things stand, as the servers of the ensemble tell it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scene {
    /// All processes. The length of a name comes first so that 10 is behind 9.
    pub(crate) cast: BTreeMap<(usize, String), (Kind, Fate)>,
    /// Why the demo cannot go on.
    pub(crate) failure: Option<String>,
    pub(crate) overview: Overview,
    /// What each server says that it is, while it says anything.
    pub(crate) servers: BTreeMap<String, String>,
    /// How many writes of each region server were refused.
    pub(crate) refused: BTreeMap<String, usize>,
}

impl Scene {
    /// The processes of a kind, in the order of their numbers.
    pub(crate) fn cast(&self, kind: Kind) -> impl Iterator<Item = (&str, Fate)> {
        let cast = self.cast.iter().filter(move |(_, (it, _))| *it == kind);
        cast.map(|((_, name), (_, fate))| (name.as_str(), *fate))
    }

    /// The processes of a kind that the demo has left alone.
    pub(crate) fn up(&self, kind: Kind) -> Vec<&str> {
        let up = self.cast(kind).filter(|(_, fate)| *fate == Fate::Up);
        up.map(|(name, _)| name).collect()
    }

    /// The server that leads the ensemble.
    pub(crate) fn leader(&self) -> Option<&str> {
        let mut servers = self.servers.iter();
        let leader = servers.find(|(_, mode)| *mode == "leader" || *mode == "standalone");
        leader.map(|(name, _)| name.as_str())
    }

    /// Is every region served?
    pub(crate) fn all_served(&self) -> bool {
        let Overview { tasks, .. } = &self.overview;
        let mut regions = tasks.iter();
        let served = regions.all(|(region, task)| {
            task.state == TaskState::Open && self.overview.worker_of(region).is_some()
        });
        served && !tasks.is_empty()
    }

    /// The regions that a region server has.
    pub(crate) fn regions_of(&self, server: &str) -> Vec<&str> {
        let regions = self.overview.tasks.keys().map(String::as_str);
        let is_its = |region: &&str| {
            let worker = self.overview.worker_of(region);
            worker.is_some_and(|worker| worker.id == server)
        };
        regions.filter(is_its).collect()
    }

    pub(crate) fn is_member(&self, server: &str) -> bool {
        let mut workers = self.overview.workers.values();
        workers.any(|worker| worker.id == server)
    }

    /// Is everybody there, and every region served by one who has no more than its share?
    pub(crate) fn is_settled(&self) -> bool {
        let loads = self.cast(Kind::RegionServer);
        let loads: BTreeSet<_> = loads.map(|(name, _)| self.regions_of(name).len()).collect();
        let (least, most) = (loads.first(), loads.last());
        let spread = most
            .zip(least)
            .is_some_and(|(most, least)| most - least <= 1);
        let mut region_servers = self.cast(Kind::RegionServer);
        self.servers.len() == self.cast(Kind::Server).count()
            && (self.servers.is_empty() || self.leader().is_some())
            && self.overview.masters.len() == self.cast(Kind::Master).count()
            && region_servers.all(|(name, _)| self.is_member(name))
            && self.all_served()
            && spread
    }

    /// Does everything go on without a process of whatever kind?
    pub(crate) fn has_replaced(&self, name: &str) -> bool {
        let masters = &self.overview.masters;
        (self.servers.is_empty() || self.leader().is_some_and(|leader| leader != name))
            && !masters.is_empty()
            && !masters.iter().any(|master| master == name)
            && !self.is_member(name)
            && self.all_served()
    }
}

/// A line of the log.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at: Moment,
    pub(crate) text: String,
    /// What kind of blow it was, if it was one, and when it was done.
    pub(crate) blow: Option<(&'static str, Moment)>,
}

/// What happened, and how things stand; shared with whoever watches.
#[derive(Debug)]
pub(crate) struct Chronicle {
    pub(crate) start: Moment,
    lines: Mutex<Vec<Line>>,
    scene: watch::Sender<Scene>,
}

impl Chronicle {
    pub(crate) fn new() -> Arc<Chronicle> {
        Arc::new(Chronicle {
            start: now(),
            lines: Mutex::default(),
            scene: watch::Sender::default(),
        })
    }

    pub(crate) fn tell(&self, text: impl Display) {
        let (at, text, blow) = (now(), text.to_string(), None);
        self.lines_mut().push(Line { at, text, blow });
    }

    /// As [`tell`](Chronicle::tell), of a blow that began then and has been done now.
    fn tell_blow(&self, at: Moment, text: impl Display, blow: &'static str) {
        let (text, blow) = (text.to_string(), Some((blow, now())));
        self.lines_mut().push(Line { at, text, blow });
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines_mut().clone()
    }

    pub(crate) fn scene(&self) -> watch::Ref<'_, Scene> {
        self.scene.borrow()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Scene)) {
        self.scene.send_modify(change);
    }

    fn fail(&self, why: String) {
        self.change(|scene| scene.failure = Some(why));
    }

    fn note_fate(&self, name: &str, kind: Kind, fate: Fate) {
        let key = (name.len(), name.to_owned());
        self.change(|scene| {
            scene.cast.insert(key, (kind, fate));
        });
    }

    fn fate(&self, name: &str) -> Option<Fate> {
        let key = (name.len(), name.to_owned());
        self.scene().cast.get(&key).map(|(_, fate)| *fate)
    }

    fn lines_mut(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process, and the task that listens to it.
#[derive(Debug)]
struct Running {
    child: Child,
    listener: JoinHandle<()>,
}

/// A process that runs, or has run.
#[derive(Debug)]
struct Actor {
    kind: Kind,
    running: Option<Running>,
    /// The journals of its lives, with the ends of those that are over.
    lives: Vec<(PathBuf, Option<Moment>)>,
}

/// All processes, and the client with which the demo looks at what they do.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) chronicle: Arc<Chronicle>,
    home: PathBuf,
    /// Where the ensemble is.
    connect: String,
    client: Client,
    /// The znode of the cluster.
    path: String,
    /// For region servers.
    options: Vec<String>,
    actors: BTreeMap<String, Actor>,
}

impl Stage {
    /// Starts all processes, and waits until every region is served.
    pub(crate) async fn start(
        args: &Args,
        home: PathBuf,
        chronicle: Arc<Chronicle>,
    ) -> Result<Stage, Failure> {
        let mut actors = BTreeMap::new();
        let (addresses, connect) = match &args.connect {
            Some(connect) => (BTreeMap::new(), connect.clone()),
            None => {
                let addresses = found_ensemble(&home)?;
                let connect: Vec<_> = addresses.values().cloned().collect();
                (addresses, connect.join(","))
            }
        };
        let mut enlist = |name: String, kind| {
            chronicle.note_fate(&name, kind, Fate::Dead);
            actors.insert(name, Actor::new(kind));
        };
        for name in addresses.keys() {
            enlist(name.clone(), Kind::Server);
        }
        // Lazily: the servers are to be started yet.
        let client = Client::builder().session_timeout(PATIENCE);
        let client = client.connect_lazy(&connect)?;
        for n in 1..=args.masters {
            enlist(format!("m{n}"), Kind::Master);
        }
        for n in 1..=args.region_servers {
            enlist(format!("rs{n}"), Kind::RegionServer);
        }
        // Together, all regions have a few hundred writes a second.
        let pause = (2 * u64::from(args.regions)).max(20);
        let mut options = vec![pause.to_string()];
        if args.without_fencing {
            options.push("--without-fencing".to_owned());
        }
        let mut stage = Stage {
            chronicle,
            home,
            connect,
            client,
            path: format!("/quorate/demo/hbase-{:016x}", now()),
            options,
            actors,
        };
        stage.raise(args, addresses).await?;
        Ok(stage)
    }

    async fn raise(
        &mut self,
        args: &Args,
        addresses: BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        for name in addresses.keys() {
            self.spawn(name)?;
        }
        tokio::spawn(watch_servers(Arc::clone(&self.chronicle), addresses));
        timeout(PATIENCE, self.client.connected()).await??;
        let connect = &self.connect;
        self.chronicle
            .tell(format_args!("the ensemble is at {connect}"));
        let cluster = Cluster::new(&self.client, &self.path);
        for n in 1..=args.regions {
            let region = format!("r{n:02}");
            cluster.add_task(&region).await?;
            self.create_region(&region).await?;
        }
        tokio::spawn(watch_cluster(Arc::clone(&self.chronicle), cluster));
        for name in self.names(&PARTICIPANTS, None) {
            self.spawn(&name)?;
        }
        self.settled().await
    }

    async fn create_region(&self, region: &str) -> Result<(), Failure> {
        let regions = region_path(&self.path, "");
        let directory = regions.trim_end_matches('/');
        let options = CreateMode::Persistent;
        if self.client.exists(directory).await?.is_none() {
            self.client.create(directory, "", options).await?;
        }
        let path = region_path(&self.path, region);
        self.client.create(&path, "", options).await?;
        Ok(())
    }

    /// The names of all processes of these kinds, or of those with this fate.
    fn names(&self, kinds: &[Kind], fate: Option<Fate>) -> Vec<String> {
        let scene = self.chronicle.scene();
        let cast = scene.cast.iter().filter(|(_, (kind, found))| {
            kinds.contains(kind) && fate.is_none_or(|fate| fate == *found)
        });
        cast.map(|((_, name), _)| name.clone()).collect()
    }

    /// Starts a process that does not run.
    fn spawn(&mut self, name: &str) -> Result<(), Failure> {
        let Some(actor) = self.actors.get_mut(name) else {
            return Ok(());
        };
        let parent = getpid().as_raw_pid().to_string();
        let mut command = Command::new(env::current_exe()?);
        command.arg("role");
        match actor.kind {
            Kind::Server => {
                command.args(["server", &parent]);
                command.arg(self.home.join(name).join("zoo.cfg"));
            }
            Kind::Master => {
                command.args(["master", &parent, name, &self.connect, &self.path]);
            }
            Kind::RegionServer => {
                let life = actor.lives.len() + 1;
                let journal = self.home.join(format!("{name}.{life}.journal"));
                command.args(["region-server", &parent, name, &self.connect, &self.path]);
                command.arg(&journal).args(&self.options);
                actor.lives.push((journal, None));
            }
        }
        let errors = self.home.join(format!("{name}.stderr"));
        // Signals that the terminal sends are for the demo alone.
        let spawned = command
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&errors)?);
        let mut child = spawned.spawn()?;
        let stdout = child.stdout.take();
        let chronicle = Arc::clone(&self.chronicle);
        let heard = listen(chronicle, name.to_owned(), stdout, errors);
        let listener = tokio::spawn(heard);
        actor.running = Some(Running { child, listener });
        self.chronicle.note_fate(name, actor.kind, Fate::Up);
        Ok(())
    }

    /// Kills a process as `kill -9` does, and waits until it is dead.
    pub(crate) async fn kill(&mut self, name: &str, blow: &'static str) -> Result<(), Failure> {
        let (began, burden) = (now(), self.burden(name));
        self.end(name).await?;
        let text = format_args!("{name} is killed{burden}");
        self.chronicle.tell_blow(began, text, blow);
        Ok(())
    }

    async fn end(&mut self, name: &str) -> Result<(), Failure> {
        let Some(actor) = self.actors.get_mut(name) else {
            return Ok(());
        };
        self.chronicle.note_fate(name, actor.kind, Fate::Dead);
        if let Some(mut running) = actor.running.take() {
            running.child.kill().await?;
            running.listener.await?;
            if let Some((_, ended)) = actor.lives.last_mut() {
                *ended = Some(now());
            }
        }
        Ok(())
    }

    /// Lets a process stand still.
    pub(crate) fn pause(&mut self, name: &str, blow: &'static str) -> Result<(), Failure> {
        let (began, burden) = (now(), self.burden(name));
        self.signal(name, Signal::STOP, Fate::Paused)?;
        let text = format_args!("{name} is paused{burden}");
        self.chronicle.tell_blow(began, text, blow);
        Ok(())
    }

    /// Lets a process that stands still go on.
    pub(crate) fn resume(&mut self, name: &str) -> Result<(), Failure> {
        let text = format_args!("{name} goes on");
        self.chronicle.tell_blow(now(), text, RETURN);
        self.signal(name, Signal::CONT, Fate::Up)
    }

    fn signal(&mut self, name: &str, signal: Signal, fate: Fate) -> Result<(), Failure> {
        let Some(actor) = self.actors.get(name) else {
            return Ok(());
        };
        let pid = actor
            .running
            .as_ref()
            .and_then(|running| running.child.id());
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, signal)?;
            self.chronicle.note_fate(name, actor.kind, fate);
        }
        Ok(())
    }

    /// What a process has to do, for the line about its end.
    fn burden(&self, name: &str) -> String {
        let scene = self.chronicle.scene();
        if scene.leader() == Some(name) {
            return ", which leads the ensemble".to_owned();
        }
        if scene
            .overview
            .masters
            .first()
            .is_some_and(|first| first == name)
        {
            return ", which is the active master".to_owned();
        }
        match scene.regions_of(name) {
            regions if regions.is_empty() => String::new(),
            regions => format!(", which serves {}", regions.join(" ")),
        }
    }

    /// Starts all that are dead, and lets those go on that stand still.
    pub(crate) fn revive(&mut self) -> Result<(), Failure> {
        for name in self.names(&ALL, Some(Fate::Dead)) {
            let text = format_args!("{name} is started again");
            self.chronicle.tell_blow(now(), text, RETURN);
            self.spawn(&name)?;
        }
        for name in self.names(&ALL, Some(Fate::Paused)) {
            self.resume(&name)?;
        }
        Ok(())
    }

    /// Waits for what ought to come by itself.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&Scene) -> bool,
    ) -> Result<(), Failure> {
        let mut scene = self.chronicle.scene.subscribe();
        match timeout(PATIENCE, scene.wait_for(is_so)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("not within {PATIENCE:?}: {what}").into()),
        }
    }

    /// Waits until everybody is there, and every region is served by one who has its share.
    pub(crate) async fn settled(&self) -> Result<(), Failure> {
        self.until("everybody is there and serves", Scene::is_settled)
            .await
    }

    /// Waits until every region is served and has been written once more, ends everything, and
    /// collects what all have noted.
    pub(crate) async fn bring_down_the_curtain(&mut self) -> Result<Evidence, Failure> {
        let (curtain, regions) = timeout(PATIENCE, self.look_at_all_regions()).await??;
        for name in self.names(&PARTICIPANTS, None) {
            self.end(&name).await?;
        }
        let mut lives = Vec::new();
        for (name, actor) in &self.actors {
            for (journal, ended) in &actor.lives {
                let ended = ended.ok_or_else(|| format!("{name} is not dead"))?;
                lives.push(Life::read(name, journal, ended)?);
            }
        }
        Ok(Evidence {
            lives,
            regions,
            curtain,
        })
    }

    /// What each region holds, behind a write that came after the moment that is answered too.
    async fn look_at_all_regions(&self) -> Result<(Moment, BTreeMap<String, Last>), Failure> {
        let cluster = Cluster::new(&self.client, &self.path);
        loop {
            self.settled().await?;
            let (curtain, mut regions) = (now(), BTreeMap::new());
            for region in cluster.tasks().await?.into_keys() {
                let path = region_path(&self.path, &region);
                let client = &self.client;
                let (_, _, written) = client.retry(|| client.get_data_watched(&path)).await?;
                written.await?;
                let (data, stat) = client.retry(|| client.get_data(&path)).await?;
                let text = String::from_utf8_lossy(&data);
                let epoch = text.split(' ').next().unwrap_or_default().parse()?;
                let version = stat.version;
                regions.insert(region, Last { epoch, version });
            }
            // Where one has moved meanwhile, all are looked at again.
            let tasks = cluster.tasks().await?;
            let stays = |(region, last): (&String, &Last)| {
                let task = tasks.get(region);
                task.is_some_and(|task| task.state == TaskState::Open && task.epoch == last.epoch)
            };
            if regions.iter().all(stays) {
                return Ok((curtain, regions));
            }
        }
    }

    /// Ends every process. An ensemble that was there before is left as it was.
    pub(crate) async fn clear(mut self) -> Result<(), Failure> {
        for name in self.names(&PARTICIPANTS, None) {
            self.end(&name).await?;
        }
        if self.names(&[Kind::Server], None).is_empty() {
            self.remove_znodes().await?;
        }
        for name in self.names(&[Kind::Server], None) {
            self.end(&name).await?;
        }
        Ok(())
    }

    async fn remove_znodes(&self) -> Result<(), Failure> {
        let mut paths = vec![self.path.clone()];
        for next in 0.. {
            let Some(path) = paths.get(next).cloned() else {
                break;
            };
            // What is ephemeral may have gone by itself.
            let children = self.client.get_children(&path).await.unwrap_or_default();
            paths.extend(children.iter().map(|child| format!("{path}/{child}")));
        }
        for path in paths.iter().rev() {
            drop(self.client.delete(path, None).await);
        }
        Ok(self.client.close().await?)
    }
}

impl Actor {
    fn new(kind: Kind) -> Actor {
        Actor {
            kind,
            running: None,
            lives: Vec::new(),
        }
    }
}

/// Puts the files of each server in place; answers where clients will find them, by name.
fn found_ensemble(home: &Path) -> Result<BTreeMap<String, String>, Failure> {
    // The ends of connections that others open are on 127.0.0.1, and take no port of this address
    // while a server is down.
    let octet = || fastrand::u8(1..255);
    let address = Ipv4Addr::new(127, octet(), octet(), octet());
    // All are held until all are known.
    let mut held = Vec::new();
    let mut free_port = || -> Result<u16, Failure> {
        let listener = TcpListener::bind((address, 0))?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let (mut common, mut clients) = (String::new(), BTreeMap::new());
    for id in 1..=SERVERS {
        let (quorum, election, client) = (free_port()?, free_port()?, free_port()?);
        common += &format!("server.{id}={address}:{quorum}:{election}\n");
        clients.insert(id, client);
    }
    for (id, client) in &clients {
        let home = home.join(format!("s{id}"));
        fs::create_dir(&home)?;
        fs::write(home.join("myid"), format!("{id}\n"))?;
        let tick = SESSION.as_millis() / 10;
        let mut zoo_cfg = File::create(home.join("zoo.cfg"))?;
        write!(
            zoo_cfg,
            "dataDir={}\nclientPort={client}\nclientPortAddress={address}\ntickTime={tick}\n\
             initLimit=20\nsyncLimit=5\nmaxSessionTimeout=60000\n{common}",
            home.display()
        )?;
    }
    let clients = clients.into_iter();
    Ok(clients
        .map(|(id, port)| (format!("s{id}"), format!("{address}:{port}")))
        .collect())
}

/// Passes on what a process says, until it ends, which only the demo may do to it.
async fn listen(
    chronicle: Arc<Chronicle>,
    name: String,
    stdout: Option<ChildStdout>,
    errors: PathBuf,
) {
    let Some(stdout) = stdout else { return };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        chronicle.tell(format_args!("{name} {line}"));
        if line.starts_with(REFUSED) {
            let count = |scene: &mut Scene| *scene.refused.entry(name.clone()).or_default() += 1;
            chronicle.change(count);
        }
    }
    if chronicle.fate(&name) != Some(Fate::Dead) {
        let errors = fs::read_to_string(errors).unwrap_or_default();
        chronicle.fail(format!("{name} has ended by itself: {errors}"));
    }
}

/// Follows masters, region servers and regions.
async fn watch_cluster(chronicle: Arc<Chronicle>, cluster: Cluster) {
    let mut changes = cluster.observe();
    while let Some(overview) = changes.next().await {
        match overview {
            Ok(overview) => chronicle.change(|scene| scene.overview = overview),
            Err(error) => chronicle.fail(format!("the demo cannot see the cluster: {error}")),
        }
    }
}

/// Follows what the servers of the ensemble are.
async fn watch_servers(chronicle: Arc<Chronicle>, addresses: BTreeMap<String, String>) {
    let mut looks = interval(LOOK);
    loop {
        looks.tick().await;
        for (name, address) in &addresses {
            let mode = timeout(ANSWER, mode(address)).await.ok().flatten();
            chronicle.scene.send_if_modified(|scene| {
                let before = match mode.clone() {
                    Some(mode) => scene.servers.insert(name.clone(), mode),
                    None => scene.servers.remove(name),
                };
                before != mode
            });
        }
    }
}

/// What a server says that it is, if it serves.
async fn mode(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"srvr").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "));
    mode.map(str::to_owned)
}
