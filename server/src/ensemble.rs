//! A whole ensemble in one process, for tests and demos: real servers on loopback sockets, and the
//! faults of real life as methods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::config::{self, Config, Member, Members, PeerType};
use crate::error::ServerError;
use crate::quorum::{Faults, Ports, Standing};
use crate::server::Server;
use crate::storage::throttle::DiskFaults;

/// How long an ensemble may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what the servers have come to.
const LOOK: Duration = Duration::from_millis(2);

/// Servers that form an ensemble on 127.0.0.1.
///
/// Dropping it stops them all.
///
/// ```
/// use quorate_server::Ensemble;
///
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut ensemble = Ensemble::start(3).await?;
/// println!("clients connect to {}", ensemble.connect_string());
/// let leader = ensemble.leader().await?;
/// ensemble.kill(leader).await;
/// assert_ne!(ensemble.leader().await?, leader);
/// ensemble.restart(leader).await?;
/// ensemble.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ensemble {
    members: BTreeMap<i64, Slot>,
    settings: EnsembleBuilder,
}

/// The place of one server, be it running or not.
#[derive(Debug)]
struct Slot {
    config: Config,
    client: Option<SocketAddr>,
    server: Option<Server>,
    links: Faults,
    disk: DiskFaults,
}

impl Ensemble {
    /// Starts `servers` voters with ids from 1, and waits until a leader serves.
    ///
    /// # Errors
    /// No temporary directories, no ports, or no leader within 30 seconds.
    pub async fn start(servers: usize) -> Result<Ensemble, ServerError> {
        Ensemble::builder().voters(servers).start().await
    }

    /// Settings for an ensemble.
    pub fn builder() -> EnsembleBuilder {
        EnsembleBuilder::default()
    }

    /// Where clients connect: every server, as `host:port,host:port`.
    pub fn connect_string(&self) -> String {
        let addresses: Vec<String> = self
            .members
            .values()
            .filter_map(Slot::client_addr)
            .map(|address| address.to_string())
            .collect();
        addresses.join(",")
    }

    /// The ids of the servers, running or not.
    pub fn ids(&self) -> Vec<i64> {
        self.members.keys().copied().collect()
    }

    /// Where the clients of one server connect.
    pub fn client_addr(&self, id: i64) -> Option<SocketAddr> {
        self.members.get(&id)?.client_addr()
    }

    /// A server, while it runs.
    pub fn server(&self, id: i64) -> Option<&Server> {
        self.members.get(&id)?.server.as_ref()
    }

    /// The server that leads: the one of the newest epoch, should an old leader not have noticed
    /// yet. Waits until there is one. Cancel safe.
    ///
    /// # Errors
    /// If there is none within 30 seconds.
    pub async fn leader(&self) -> Result<i64, ServerError> {
        self.wait_for(|standings| {
            let leaders = standings.iter().filter(|(_, standing)| standing.leads);
            leaders
                .max_by_key(|(_, standing)| standing.epoch)
                .map(|(id, _)| *id)
        })
        .await
        .ok_or(ServerError::NoLeader { patience: PATIENCE })
    }

    /// Waits until every server that runs serves, in one epoch. Cancel safe.
    ///
    /// # Errors
    /// If that is not so within 30 seconds.
    pub async fn settled(&self) -> Result<i64, ServerError> {
        self.wait_for(|standings| {
            let mut epochs = standings.values().map(|standing| standing.epoch);
            let first = epochs.next()?;
            let settled = standings.values().all(|standing| standing.serves)
                && epochs.all(|epoch| epoch == first);
            let leader = standings.iter().find(|(_, standing)| standing.leads)?;
            settled.then_some(*leader.0)
        })
        .await
        .ok_or(ServerError::NoLeader { patience: PATIENCE })
    }

    async fn wait_for<T>(
        &self,
        mut found: impl FnMut(&BTreeMap<i64, Standing>) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let running = self
                .members
                .iter()
                .filter_map(|(id, slot)| Some((*id, slot.server.as_ref()?.standing()?)));
            if let Some(found) = found(&running.collect()) {
                return Some(found);
            }
            if Instant::now() > deadline {
                return None;
            }
            sleep(LOOK).await;
        }
    }

    /// Ends a server as if its process were killed: no farewell to anybody, nothing written that
    /// was not. Its data stays for [`Ensemble::restart`].
    pub async fn kill(&mut self, id: i64) {
        if let Some(server) = self
            .members
            .get_mut(&id)
            .and_then(|slot| slot.server.take())
        {
            server.kill().await;
        }
    }

    /// Stops a server in order; a leader hands over first.
    ///
    /// # Errors
    /// What had made it stop by itself before.
    pub async fn stop(&mut self, id: i64) -> Result<(), Arc<ServerError>> {
        match self
            .members
            .get_mut(&id)
            .and_then(|slot| slot.server.take())
        {
            Some(server) => server.shutdown().await,
            None => Ok(()),
        }
    }

    /// Starts a server again on its data and its ports. Does nothing if it runs.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart(&mut self, id: i64) -> Result<(), ServerError> {
        let Some(slot) = self.members.get_mut(&id) else {
            return Ok(());
        };
        if slot.server.is_none() {
            let ports = Ports::bind(&slot.config).await?;
            slot.start(ports).await?;
        }
        Ok(())
    }

    /// Starts one more server, with the next id. It follows without a vote, and is no member, until
    /// a client's `reconfig` takes it in by its [`member_line`](Ensemble::member_line). Answers its
    /// id.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn add(&mut self) -> Result<i64, ServerError> {
        let id = self.members.keys().next_back().map_or(1, |last| last + 1);
        let ports = Ports::any(IpAddr::V4(Ipv4Addr::LOCALHOST)).await?;
        let mut members = Members::default();
        members.servers = self
            .members
            .iter()
            .filter_map(|(id, slot)| Some((*id, slot.member(*id)?.clone())))
            .chain([(id, self.settings.member(id, &ports)?)])
            .collect();
        let mut slot = self.settings.slot(id, &members)?;
        slot.start(ports).await?;
        self.members.insert(id, slot);
        Ok(id)
    }

    /// How `reconfig` and configuration files describe a server: `server.1=127.0.0.1:…`.
    pub fn member_line(&self, id: i64) -> Option<String> {
        let member = self.members.get(&id)?.member(id)?;
        Some(format!("server.{id}={member}"))
    }

    /// Lets the leader hand over to a server that follows it, once all that run do; `None` lets it
    /// choose. Answers who leads then.
    ///
    /// # Errors
    /// If there is no leader within 30 seconds.
    pub async fn hand_over(&self, to: Option<i64>) -> Result<i64, ServerError> {
        // Whoever has not joined it yet could not take over.
        let before = self.settled().await?;
        if let Some(server) = self.server(before) {
            server.hand_over(to);
        }
        self.wait_for(|standings| {
            let mut leaders = standings.iter().filter(|(_, standing)| standing.leads);
            leaders.find(|(id, _)| **id != before).map(|(id, _)| *id)
        })
        .await
        .ok_or(ServerError::NoLeader { patience: PATIENCE })
    }

    /// Lets nothing through from one server to another any more. What is sent waits, as it does
    /// where a network loses packets.
    pub fn cut(&self, from: i64, to: i64) {
        if let (Some(sender), Some(receiver)) = (self.members.get(&from), self.members.get(&to)) {
            sender.links.cut_to(to);
            receiver.links.cut_from(from);
        }
    }

    /// Cuts every link between servers of different groups, both ways. A server in no group is
    /// alone.
    pub fn partition(&self, groups: &[&[i64]]) {
        let group_of = |id: i64| groups.iter().position(|group| group.contains(&id));
        for from in self.ids() {
            for to in self.ids() {
                if from != to && (group_of(from).is_none() || group_of(from) != group_of(to)) {
                    self.cut(from, to);
                }
            }
        }
    }

    /// Mends every link, and takes all delays away.
    pub fn heal(&self) {
        self.members.values().for_each(|slot| slot.links.heal());
    }

    /// Makes everything from one server to another take longer.
    pub fn slow_link(&self, from: i64, to: i64, delay: Duration) {
        if let Some(slot) = self.members.get(&from) {
            slot.links.delay_to(to, delay);
        }
    }

    /// Makes each sync of a server's disk take longer; zero makes it fast again.
    pub fn slow_disk(&self, id: i64, delay: Duration) {
        if let Some(slot) = self.members.get(&id) {
            slot.disk.delay(delay);
        }
    }

    /// Lets a server's disk hang, or go on.
    pub fn hang_disk(&self, id: i64, hanging: bool) {
        if let Some(slot) = self.members.get(&id) {
            slot.disk.hang(hanging);
        }
    }

    /// Ends a session as if nothing had been heard of it for its timeout.
    ///
    /// # Errors
    /// If there is no leader within 30 seconds.
    pub async fn expire_session(&self, session: i64) -> Result<(), ServerError> {
        let leader = self.leader().await?;
        if let Some(server) = self.server(leader) {
            server.expire_session(session);
        }
        Ok(())
    }

    /// Stops all servers that run.
    ///
    /// # Errors
    /// What had made one of them stop by itself before.
    pub async fn shutdown(mut self) -> Result<(), Arc<ServerError>> {
        let slots = self.members.values_mut();
        let servers = slots.filter_map(|slot| slot.server.take());
        let mut stopping: JoinSet<_> = servers.map(Server::stop).collect();
        let mut stopped = Ok(());
        while let Some(outcome) = stopping.join_next().await {
            stopped = stopped.and(outcome.unwrap_or(Ok(())));
        }
        stopped
    }
}

impl Slot {
    /// The server `id`, which this is the place of, as it knows itself.
    fn member(&self, id: i64) -> Option<&Member> {
        let ensemble = self.config.ensemble.as_ref()?;
        ensemble.members.servers.get(&id)
    }

    /// Where clients connect, or did before it ended.
    fn client_addr(&self) -> Option<SocketAddr> {
        let server = self.server.as_ref();
        server.and_then(Server::client_addr).or(self.client)
    }

    async fn start(&mut self, ports: Ports) -> Result<(), ServerError> {
        let config = self.config.clone();
        let (links, disk) = (self.links.clone(), self.disk.clone());
        let server = Server::start_member(config, ports, links, disk).await?;
        self.client = server.client_addr();
        // It comes back where its clients look for it.
        self.config.client_port = self.client.map(|address| address.port());
        self.server = Some(server);
        Ok(())
    }
}

/// Settings for an [`Ensemble`].
#[derive(Debug)]
pub struct EnsembleBuilder {
    voters: usize,
    observers: usize,
    tick_time: Duration,
    configure: Option<fn(&mut Config)>,
}

impl Default for EnsembleBuilder {
    fn default() -> Self {
        EnsembleBuilder {
            voters: 3,
            observers: 0,
            tick_time: Duration::from_millis(500),
            configure: None,
        }
    }
}

impl EnsembleBuilder {
    /// Servers that vote; 3 if not said.
    pub fn voters(mut self, voters: usize) -> Self {
        self.voters = voters;
        self
    }

    /// Servers that follow without a vote; their ids come behind those of the voters.
    pub fn observers(mut self, observers: usize) -> Self {
        self.observers = observers;
        self
    }

    /// The unit of time, half a second if not said: sessions last 2 to 60 ticks, and a server that
    /// is silent for 4 counts as lost.
    pub fn tick_time(mut self, tick: Duration) -> Self {
        self.tick_time = tick;
        self
    }

    /// Changes the settings of each server before it starts.
    pub fn configure(mut self, configure: fn(&mut Config)) -> Self {
        self.configure = Some(configure);
        self
    }

    /// Starts the servers and waits until a leader serves.
    ///
    /// # Errors
    /// As [`Ensemble::start`].
    pub async fn start(self) -> Result<Ensemble, ServerError> {
        let mut all_ports = Vec::new();
        let mut members = Members::default();
        for id in 1..=i64::try_from(self.voters + self.observers).unwrap_or(i64::MAX) {
            let ports = Ports::any(IpAddr::V4(Ipv4Addr::LOCALHOST)).await?;
            let member = self.member(id, &ports)?;
            members.servers.insert(id, member);
            all_ports.push((id, ports));
        }
        let mut ensemble = Ensemble {
            members: BTreeMap::new(),
            settings: self,
        };
        for (id, ports) in all_ports {
            let mut slot = ensemble.settings.slot(id, &members)?;
            slot.start(ports).await?;
            ensemble.members.insert(id, slot);
        }
        ensemble.leader().await?;
        Ok(ensemble)
    }

    fn member(&self, id: i64, ports: &Ports) -> Result<Member, ServerError> {
        let observes = (self.voters + 1..=self.voters + self.observers)
            .any(|number| i64::try_from(number) == Ok(id));
        Ok(Member {
            addresses: vec![ports.address().map_err(ServerError::Scratch)?],
            role: match observes {
                true => PeerType::Observer,
                false => PeerType::Participant,
            },
            client: ports.client_address().map_err(ServerError::Scratch)?,
        })
    }

    fn slot(&self, id: i64, members: &Members) -> Result<Slot, ServerError> {
        let mut config = Config::temporary().map_err(ServerError::Scratch)?;
        config.ensemble = Some(config::Ensemble {
            my_id: id,
            version: 0,
            members: members.clone(),
        });
        config.tick_time = self.tick_time;
        config.max_session_timeout = Some(self.tick_time * 60);
        config.init_limit = 20;
        config.sync_limit = 4;
        if let Some(configure) = self.configure {
            configure(&mut config);
        }
        Ok(Slot {
            config,
            client: None,
            server: None,
            links: Faults::default(),
            disk: DiskFaults::default(),
        })
    }
}
