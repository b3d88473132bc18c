//! Ensembles of servers as processes, of any programs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use quorate_proto::{ErrorCode, OpCode, PathRecord};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::differential::tree::{Tree, difference, forget_start, walk};
use crate::network::Network;
use crate::process::{Program, Running, Settings, ask, eventually};
use crate::raw::RawClient;

/// How long an ensemble may take until it has one leader and everybody follows.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a server may take to say what it is.
const PROBE: Duration = Duration::from_secs(1);

/// How many lines of each server's log a test that fails shows.
const LINES: usize = 150;

/// What a server is, by its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows and votes.
    Follower,
    /// It follows without a vote.
    Observer,
    /// It is an ensemble by itself.
    Standalone,
    /// It is cut off from its ensemble and serves reads.
    ReadOnly,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Observer => "observer",
            Role::Standalone => "standalone",
            Role::ReadOnly => "read-only",
        })
    }
}

impl Role {
    const ALL: [Role; 5] = [
        Role::Leader,
        Role::Follower,
        Role::Observer,
        Role::Standalone,
        Role::ReadOnly,
    ];

    fn of(answer: &str) -> Option<Self> {
        let mode = answer
            .lines()
            .find_map(|line| line.strip_prefix("Mode: "))?;
        let role = Role::ALL.into_iter().find(|role| role.to_string() == mode);
        Some(role.unwrap_or_else(|| panic!("a server calls itself {mode:?}")))
    }
}

/// A place in an ensemble and the program that takes it.
pub struct Seat {
    program: Box<dyn Program>,
    observer: bool,
}

impl Seat {
    /// For a server with a vote.
    pub fn voter(program: impl Program + 'static) -> Self {
        Seat {
            program: Box::new(program),
            observer: false,
        }
    }

    /// For a server without a vote.
    pub fn observer(program: impl Program + 'static) -> Self {
        Seat {
            observer: true,
            ..Seat::voter(program)
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
struct Place {
    address: IpAddr,
    client: u16,
    quorum: u16,
    election: u16,
}

struct Member {
    seat: Seat,
    place: Place,
    home: PathBuf,
    /// Settings of its own.
    own: Vec<(String, String)>,
    running: Option<Running>,
    paused: bool,
}

/// An ensemble of which each server is a process with a directory of its own. Servers are numbered
/// from 1.
///
/// Addresses and directories stay, so that a server can be stopped and started again, also with
/// another program. All processes end when the value is dropped, or when the test's process dies.
///
/// ```no_run
/// use quorate_tests::cluster::{Cluster, Role, Seat};
/// use quorate_tests::ours::Quorate;
///
/// let seats = (0..3).map(|_| Seat::voter(Quorate::from_env()));
/// let mut cluster = Cluster::start(seats.collect(), Cluster::settings());
/// let leader = cluster.leader();
/// cluster.kill(leader);
/// assert_ne!(cluster.settle(), leader);
/// cluster.restart(leader);
/// cluster.settle();
/// assert_eq!(cluster.role(leader), Some(Role::Follower));
/// ```
pub struct Cluster {
    settings: Settings,
    // Servers end before what they stand on goes.
    members: BTreeMap<usize, Member>,
    network: Option<Network>,
    _home: TempDir,
}

impl Cluster {
    /// Settings under which servers soon notice what happens, and sessions outlive it.
    pub fn settings() -> Settings {
        Settings::default()
            .with("tickTime", 200)
            .with("initLimit", 20)
            .with("syncLimit", 10)
            .with("maxSessionTimeout", 60_000)
    }

    /// Starts an ensemble on new directories and waits until it has settled.
    pub fn start(seats: Vec<Seat>, settings: Settings) -> Self {
        let mut cluster = Self::prepare(seats, settings);
        cluster.start_all();
        cluster
    }

    /// Makes the directories of an ensemble on this host, and starts nothing.
    pub fn prepare(seats: Vec<Seat>, settings: Settings) -> Self {
        let places = loopback(seats.len());
        Self::at(places, seats, settings, None)
    }

    /// As [`Cluster::prepare`], with each server in a network namespace of its own.
    ///
    /// # Errors
    /// The reason why this process may not have a network.
    pub fn prepare_apart(seats: Vec<Seat>, settings: Settings) -> Result<Self, String> {
        let network = Network::new(seats.len())?;
        let place = |id| Place {
            address: network.address(id),
            client: 2181,
            quorum: 2888,
            election: 3888,
        };
        let places = (1..=seats.len()).map(place).collect();
        Ok(Self::at(places, seats, settings, Some(network)))
    }

    fn at(
        places: Vec<Place>,
        seats: Vec<Seat>,
        settings: Settings,
        network: Option<Network>,
    ) -> Self {
        let home = tempfile::Builder::new()
            .prefix("quorate-ensemble-")
            .tempdir()
            .unwrap();
        let members = (1..)
            .zip(seats.into_iter().zip(places))
            .map(|(id, (seat, place))| {
                let home = home.path().join(id.to_string());
                fs::create_dir_all(home.join("data")).unwrap();
                fs::write(home.join("data/myid"), format!("{id}\n")).unwrap();
                let member = Member {
                    seat,
                    place,
                    home,
                    own: Vec::new(),
                    running: None,
                    paused: false,
                };
                (id, member)
            })
            .collect();
        Cluster {
            _home: home,
            settings,
            members,
            network,
        }
    }

    /// The ids of all servers.
    pub fn ids(&self) -> Vec<usize> {
        self.members.keys().copied().collect()
    }

    /// The ids of the servers that run and are not paused.
    pub fn active(&self) -> Vec<usize> {
        let active = self.members.iter().filter(|(_, member)| member.is_active());
        active.map(|(id, _)| *id).collect()
    }

    /// The network of an ensemble that was prepared apart.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("prepared apart")
    }

    /// Sets something for one server only, from its next start on.
    pub fn set(&mut self, id: usize, key: &str, value: impl fmt::Display) {
        let own = &mut self.member_mut(id).own;
        own.push((key.to_owned(), value.to_string()));
    }

    /// Where clients of a server connect.
    pub fn address(&self, id: usize) -> SocketAddr {
        let Place {
            address, client, ..
        } = self.member(id).place;
        SocketAddr::new(address, client)
    }

    /// Where clients connect, to every server.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ids = self.ids().into_iter();
        ids.map(|id| self.address(id)).collect()
    }

    /// Where the other servers connect for elections.
    pub fn election_address(&self, id: usize) -> SocketAddr {
        let place = self.member(id).place;
        SocketAddr::new(place.address, place.election)
    }

    /// Where the other servers connect while this one leads.
    pub fn quorum_address(&self, id: usize) -> SocketAddr {
        let place = self.member(id).place;
        SocketAddr::new(place.address, place.quorum)
    }

    /// The directory of a server: `zoo.cfg`, `server.log`, and `data` for its `dataDir`.
    pub fn home(&self, id: usize) -> &Path {
        &self.member(id).home
    }

    /// What a server has printed in all its lives.
    pub fn log(&self, id: usize) -> String {
        let bytes = fs::read(self.home(id).join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The process id of a server that runs.
    pub fn pid(&self, id: usize) -> u32 {
        self.member(id).running.as_ref().expect("it runs").pid()
    }

    /// Starts a server that does not run, without waiting for anything.
    pub fn restart(&mut self, id: usize) {
        let settings = self.write_zoo_cfg(id);
        let member = self.member(id);
        assert!(member.running.is_none(), "server {id} runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(member.home.join("server.log"))
            .unwrap();
        let zoo_cfg = member.home.join("zoo.cfg");
        let mut command = member.seat.program.command(&zoo_cfg, &settings);
        if let Some(network) = &self.network {
            command = network.inside(id, &command);
        }
        let running = Running::spawn(&command, &member.home, log);
        self.member_mut(id).running = Some(running);
    }

    /// Starts every server that does not run, and waits until the ensemble has settled.
    pub fn start_all(&mut self) {
        for id in self.ids() {
            if self.member(id).running.is_none() {
                self.restart(id);
            }
        }
        self.settle();
    }

    /// Writes the configuration with which a server starts next; answers what is in it.
    pub fn write_zoo_cfg(&self, id: usize) -> Settings {
        let member = self.member(id);
        let mut settings = self
            .settings
            .clone()
            .with("dataDir", member.home.join("data").display())
            .with("clientPort", member.place.client)
            .with("clientPortAddress", member.place.address);
        for (id, other) in &self.members {
            let Place {
                address,
                quorum,
                election,
                ..
            } = other.place;
            let role = if other.seat.observer { ":observer" } else { "" };
            let server = format!("{address}:{quorum}:{election}{role}");
            settings = settings.with(&format!("server.{id}"), server);
        }
        if member.seat.observer {
            settings = settings.with("peerType", "observer");
        }
        for (key, value) in &member.own {
            settings = settings.with(key, value);
        }
        let text = member.seat.program.zoo_cfg(&settings);
        fs::write(member.home.join("zoo.cfg"), text).unwrap();
        settings
    }

    /// Gives a server's place, data and addresses to another program, from its next start on.
    pub fn replace(&mut self, id: usize, program: impl Program + 'static) {
        let member = self.member_mut(id);
        assert!(member.running.is_none(), "server {id} runs");
        member.seat.program = Box::new(program);
    }

    /// Ends a server with SIGTERM and waits until it has ended.
    pub fn stop(&mut self, id: usize) -> ExitStatus {
        let running = self.member_mut(id).take();
        running.signal(Signal::TERM);
        running
            .wait()
            .unwrap_or_else(|| panic!("server {id} does not end in time"))
    }

    /// Ends a server with SIGKILL, also one that is paused.
    pub fn kill(&mut self, id: usize) {
        drop(self.member_mut(id).take());
    }

    /// Waits until a server has ended by itself.
    pub fn wait(&mut self, id: usize) -> ExitStatus {
        let running = self.member_mut(id).take();
        running
            .wait()
            .unwrap_or_else(|| panic!("server {id} does not end in time"))
    }

    /// Lets a server stand still, with SIGSTOP.
    pub fn pause(&mut self, id: usize) {
        let member = self.member_mut(id);
        member
            .running
            .as_ref()
            .expect("it runs")
            .signal(Signal::STOP);
        member.paused = true;
    }

    /// Lets a server that stands still go on.
    pub fn resume(&mut self, id: usize) {
        let member = self.member_mut(id);
        member
            .running
            .as_ref()
            .expect("it runs")
            .signal(Signal::CONT);
        member.paused = false;
    }

    /// What a server says that it is; `None` while it does not serve.
    pub fn role(&self, id: usize) -> Option<Role> {
        Role::of(&ask(self.address(id), "srvr", PROBE).ok()?)
    }

    /// The leader of an ensemble that has settled.
    pub fn leader(&self) -> usize {
        self.settle()
    }

    /// The servers of an ensemble that has settled which do not lead but have a vote.
    pub fn followers(&self) -> Vec<usize> {
        let leader = self.settle();
        let mut ids = self.active();
        ids.retain(|id| *id != leader && !self.member(*id).seat.observer);
        ids
    }

    /// Waits until, of the servers that run, one leads and all others follow; answers the leader.
    pub fn settle(&self) -> usize {
        self.settle_among(&self.active())
    }

    /// Waits until, of these servers, one leads and all others follow; answers the leader.
    pub fn settle_among(&self, ids: &[usize]) -> usize {
        let what = format!("one of {ids:?} leads, the others follow");
        eventually(&what, PATIENCE, || self.leader_among(ids))
    }

    fn leader_among(&self, ids: &[usize]) -> Option<usize> {
        let mut leader = None;
        for id in ids {
            match self.role(*id)? {
                Role::Leader if leader.is_none() => leader = Some(*id),
                Role::Follower | Role::Observer => {}
                _ => return None,
            }
        }
        leader
    }

    /// Checks that all servers that run have the same tree: every znode with its data, ACL and stat,
    /// and the digests that they tell. Nobody may be writing.
    pub fn compare(&self) {
        self.compare_among(&self.active());
    }

    /// As [`Cluster::compare`], for these servers.
    pub fn compare_among(&self, ids: &[usize]) {
        self.settle_among(ids);
        let trees: Vec<_> = ids.iter().map(|id| self.tree(*id)).collect();
        for (id, tree) in ids.iter().zip(&trees) {
            let lines = difference((&trees[0], None), (tree, None));
            let lines = &lines[..lines.len().min(20)];
            let first = ids[0];
            assert!(
                lines.is_empty(),
                "servers {first} and {id}:\n{}",
                lines.join("\n")
            );
        }
        let mut digests = BTreeMap::new();
        for id in ids.iter().copied() {
            let metrics = self.word(id, "mntr");
            let mismatches = metrics
                .lines()
                .find_map(|line| line.strip_prefix("zk_digest_mismatches_count\t"));
            assert_eq!(mismatches, Some("0"), "server {id}");
            for line in self.word(id, "hash").lines() {
                let (zxid, digest) = line.split_once(": ").expect("a digest at a zxid");
                let before = digests.entry(zxid.to_owned()).or_insert(digest.to_owned());
                assert_eq!(before, digest, "at {zxid} server {id} has another digest");
            }
        }
    }

    /// The tree of a server, with all that was written anywhere before.
    fn tree(&self, id: usize) -> Tree {
        let mut client = RawClient::connect(self.address(id), 10_000);
        let (header, _) = client.call(OpCode::Sync, &PathRecord { path: "/" });
        assert_eq!(header.err, ErrorCode::OK, "server {id}");
        let (header, _) = client.call(OpCode::CloseSession, &0);
        assert_eq!(header.err, ErrorCode::OK, "server {id}");
        let mut tree = walk(self.address(id));
        forget_start(&mut tree);
        tree
    }

    fn word(&self, id: usize, word: &str) -> String {
        ask(self.address(id), word, PATIENCE).unwrap()
    }

    fn member(&self, id: usize) -> &Member {
        &self.members[&id]
    }

    fn member_mut(&mut self, id: usize) -> &mut Member {
        self.members
            .get_mut(&id)
            .expect("a server of this ensemble")
    }
}

impl Member {
    fn is_active(&self) -> bool {
        self.running.is_some() && !self.paused
    }

    fn take(&mut self) -> Running {
        self.paused = false;
        self.running.take().expect("the server runs")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for (id, member) in &self.members {
            let log = self.log(*id);
            let skipped = log.lines().count().saturating_sub(LINES);
            let last: Vec<&str> = log.lines().skip(skipped).collect();
            let name = member.seat.program.name();
            eprintln!("--- server {id}, {name}, in the end:\n{}", last.join("\n"));
        }
    }
}

/// Free ports for so many servers, on a loopback address of their own: the ends of connections that
/// others open are on 127.0.0.1, and take none of these ports while a server is down.
fn loopback(servers: usize) -> Vec<Place> {
    let octet = || fastrand::u8(1..255);
    let address = Ipv4Addr::new(127, octet(), octet(), octet());
    let bind = || TcpListener::bind((address, 0)).unwrap();
    // All are held until all are known.
    let listeners: Vec<_> = (0..servers).map(|_| [bind(), bind(), bind()]).collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let places = listeners.iter().map(|[client, quorum, election]| Place {
        address: address.into(),
        client: port(client),
        quorum: port(quorum),
        election: port(election),
    });
    places.collect()
}
