//! A member of an ensemble at work: the sockets, threads and timers that drive [`crate::zab`].
//!
//! One lock guards the [`Peer`]. Whoever has something to tell it (a link's task that has read a
//! packet, the thread that has made something durable, the timer) takes the lock, steps, and
//! carries out what comes back, in its order; nothing of that waits. Sockets are written to behind
//! the lock.
//!
//! Locks are taken in this order: peer, links, those of the service, a link's outbox.

mod codec;
mod disk;
mod election;
mod faults;
mod link;
mod logger;
mod port;
mod ports;
mod told;
mod tree_stream;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::election::probe;
pub(crate) use self::faults::Faults;
pub(crate) use self::ports::Ports;

use self::disk::{DiskQueue, DiskWork};
use self::election::ElectionPort;
use self::link::{Flushed, LinkSocket};
use self::logger::Logger;
use self::told::Told;
use crate::config::{Config, DynamicFiles, PeerAddress, PeerType};
use crate::error::ServerError;
use crate::service::{End, Mode, Outlet, Phase, Service, Snapshots};
use crate::storage::Storage;
use crate::storage::log::LogRange;
use crate::storage::replica::Replica;
use crate::zab::{
    Input, Link, Membership, Millis, Output, Packet, Peer, Recovered, Role, Settings, Sid,
};

/// A leader whose log takes longer to write steps down.
const DISK_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at who follows.
const LOOK: Duration = Duration::from_millis(5);
/// How long a server that stops waits for a successor.
const SUCCESSION: Duration = Duration::from_secs(1);
/// How long a search waits for a better vote.
const FINALIZE_WAIT: Duration = Duration::from_millis(200);
/// Bytes of transactions that are kept for learners that come back.
const COMMIT_LOG_BYTES: usize = 64 << 20;
/// Transactions that are kept at least (`commitLogCount`).
const COMMIT_LOG_COUNT: usize = 500;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Quorum {
    core: Mutex<Core>,
    service: Arc<Service>,
    wires: Arc<Wires>,
    election: ElectionPort,
    /// The configuration that is in force, and behind it what is proposed.
    members: Mutex<Vec<Arc<Membership>>>,
    storage: Storage,
    /// Where learners are in the log that is read for them.
    cursors: Mutex<HashMap<Link, LogRange>>,
    faults: Faults,
    /// Strangers that were refused.
    told: Told,
    /// Where links have their tasks.
    runtime: Handle,
    next_link: AtomicU64,
    clock: Instant,
    deadline: AtomicU64,
    /// The deadline has come nearer.
    sooner: Notify,
    /// Another configuration is in force.
    reconfigured: Notify,
    stopped: AtomicBool,
    /// Held by whoever takes proposals from the service until the peer has them: they keep their order.
    proposing: Mutex<()>,
    /// What goes on for as long as the member lives.
    tasks: Mutex<JoinSet<()>>,
}

/// What a member has come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) leads: bool,
    pub(crate) epoch: u32,
    pub(crate) serves: bool,
}

/// The peer, and room for what it puts out.
#[derive(Debug)]
struct Core {
    peer: Peer,
    outputs: Vec<Output>,
}

/// What is left to do once the lock of the peer is released.
#[derive(Debug, Default)]
struct Aftermath {
    flush: Vec<Arc<LinkSocket>>,
    deliver: Vec<(Link, Packet)>,
    /// There is something to apply.
    apply: bool,
}

/// Who applies what a step has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applying {
    /// Who has told the peer of it: that saves the way to another thread.
    Here,
    /// The applier's own thread.
    There,
}

/// The ways out of a member: its links and its disk.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    links: Mutex<BTreeMap<Link, Arc<LinkSocket>>>,
    disk: DiskQueue,
    quorum: OnceLock<Weak<Quorum>>,
}

impl Wires {
    fn link(&self, link: Link) -> Option<Arc<LinkSocket>> {
        self.links.lock().get(&link).cloned()
    }
}

impl Outlet for Wires {
    fn send(&self, link: Link, packets: &[Packet]) {
        if let Some(link) = self.link(link) {
            packets.iter().for_each(|packet| link.push(packet));
            link.flush_quietly();
        }
    }

    fn proposals(&self) {
        // A logger that is busy takes all that has come meanwhile at once. One that is not would have
        // to be woken first.
        let idle = self.disk.is_idle().then(|| self.quorum.get()?.upgrade());
        match idle.flatten() {
            Some(quorum) => while quorum.propose() {},
            None => self.disk.wake(),
        }
    }
}

impl Quorum {
    /// Starts to search for a leader. The service serves whenever there is one.
    pub(crate) fn start(
        service: &Arc<Service>,
        wires: Arc<Wires>,
        storage: Storage,
        last_zxid: i64,
        ports: Ports,
        faults: Faults,
        seed: u64,
    ) -> Result<Arc<Self>, ServerError> {
        let config = &service.config;
        let settings = settings(config);
        let shown = Membership::shown_by(&service.tree());
        let (configured, files) = (config.ensemble.as_ref(), DynamicFiles::new(config));
        let configs = files.load(configured.map(Membership::from).unwrap_or_default(), shown)?;
        let recovered = recover(&settings, &storage, last_zxid, configs)?;
        let members = [&recovered.committed]
            .into_iter()
            .chain(&recovered.proposed);
        let members: Vec<_> = members.cloned().map(Arc::new).collect();
        service.activate(recovered.committed.clone());
        if let Some(proposed) = recovered.proposed.clone() {
            service.propound(proposed);
        }
        let replica = Replica::new(storage.clone(), last_zxid);
        let snapshots = Snapshots::new(storage.clone(), storage.snapshot_trigger(seed), 0);
        let quorum = Arc::new_cyclic(|quorum: &Weak<Quorum>| {
            let quorum = Weak::clone(quorum);
            let on_event = move |event| {
                if let Some(quorum) = quorum.upgrade() {
                    quorum.tell([event]);
                }
            };
            let election = ElectionPort::start(config, &members, faults.clone(), on_event);
            Quorum {
                election,
                core: Mutex::new(Core {
                    peer: Peer::new(settings, recovered, seed, 0),
                    outputs: Vec::new(),
                }),
                service: Arc::clone(service),
                wires,
                members: Mutex::new(members),
                storage,
                cursors: Mutex::default(),
                faults,
                told: Told::default(),
                runtime: Handle::current(),
                next_link: AtomicU64::new(1),
                clock: Instant::now(),
                deadline: AtomicU64::new(0),
                sooner: Notify::new(),
                reconfigured: Notify::new(),
                stopped: AtomicBool::new(false),
                proposing: Mutex::default(),
                tasks: Mutex::default(),
            }
        });
        quorum.wires.quorum.get_or_init(|| Arc::downgrade(&quorum));
        let logger = Logger::new(Arc::clone(&quorum), replica, files, snapshots);
        let end = End::new(Arc::clone(service));
        thread::Builder::new()
            .name("logger".to_owned())
            .spawn(move || logger.run(end))
            .map_err(ServerError::Thread)?;
        let mut tasks = quorum.tasks.lock();
        tasks.spawn(Arc::clone(&quorum).keep_time());
        tasks.spawn(Arc::clone(&quorum).keep_ports(ports));
        drop(tasks);
        Ok(quorum)
    }

    /// What the member has come to.
    pub(crate) fn standing(&self) -> Standing {
        let core = self.core.lock();
        Standing {
            leads: core.peer.is_active_leader() && self.service.mode() == Mode::Leading,
            epoch: core.peer.epoch(),
            serves: self.service.is_serving(),
        }
    }

    /// Lets a leader hand over, to this server if it is said; others do nothing.
    pub(crate) fn hand_over(&self, to: Option<Sid>) {
        if self.service.mode() == Mode::Leading {
            self.service.resign();
            self.wires.disk.resign(to);
        }
    }

    /// Lets a leader hand over, and waits until there is another, but not for long. Cancel safe.
    pub(crate) async fn give_up_leadership(&self) {
        let mut mode = self.service.follow_mode();
        if *mode.borrow_and_update() != Mode::Leading {
            return;
        }
        let has_heirs = async {
            while self.leads() && self.is_followed() && self.core.lock().peer.synced().len() < 2 {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(SUCCESSION, has_heirs).await;
        let is_followed = self.is_followed();
        let epoch = self.core.lock().peer.epoch();
        self.hand_over(None);
        // The only voter leads again at once, in another epoch. The service outlives this.
        while self.leads_in(epoch) && mode.changed().await.is_ok() {}
        if !is_followed {
            return;
        }
        let serves = mode.wait_for(|mode| !matches!(mode, Mode::Paused(_)));
        let _ = timeout(SUCCESSION, serves).await.map(drop);
    }

    fn is_followed(&self) -> bool {
        self.core.lock().peer.is_followed()
    }

    fn leads_in(&self, epoch: u32) -> bool {
        let core = self.core.lock();
        core.peer.role() == Role::Leading && core.peer.epoch() == epoch
    }

    fn leads(&self) -> bool {
        self.core.lock().peer.role() == Role::Leading
    }

    /// Ends everything that the member does, and waits for the end of what may take a moment.
    pub(crate) async fn stop(&self) {
        self.begin_stop();
        self.election.shutdown().await;
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        let mut phase = self.service.phase();
        // The service outlives this.
        let _ = phase
            .wait_for(|phase| matches!(phase, Phase::Stopped(_)))
            .await;
    }

    /// Takes no more part in anything.
    pub(crate) fn begin_stop(&self) {
        self.stopped.store(true, Relaxed);
        self.tasks.lock().abort_all();
        self.wires.disk.stop();
        let links = std::mem::take(&mut *self.wires.links.lock());
        links.values().for_each(|link| link.abort());
    }

    /// Milliseconds since the start.
    fn now(&self) -> Millis {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells the peer what has happened.
    fn tell(self: &Arc<Self>, inputs: impl IntoIterator<Item = Input>) {
        let aftermath = self.step(inputs);
        self.conclude(aftermath, Applying::Here);
    }

    /// Proposes what the service has numbered; false if that is nothing.
    fn propose(self: &Arc<Self>) -> bool {
        let turn = self.proposing.lock();
        let Some(proposals) = self.service.take_proposals() else {
            return false;
        };
        let aftermath = self.step(proposals.inputs());
        drop(turn);
        self.conclude(aftermath, Applying::There);
        true
    }

    /// Does what a step has left to do, and whatever that leads to.
    fn conclude(self: &Arc<Self>, mut aftermath: Aftermath, applying: Applying) {
        loop {
            let mut drained = aftermath.flush;
            if aftermath.apply && applying == Applying::Here {
                // This thread answers the clients that wait here as soon as it is let go, and each
                // send would keep it for longer than an answer takes.
                drained.drain(..).for_each(|link| link.flush_soon());
                self.service.catch_up();
            }
            drained.retain(|link| link.flush() == Flushed::Drained);
            if aftermath.apply && applying == Applying::There {
                self.service.call_applier();
            }
            self.service.deliver(aftermath.deliver);
            if drained.is_empty() {
                return;
            }
            aftermath = self.step(drained.iter().map(|link| Input::Drained { link: link.id }));
        }
    }

    fn step(self: &Arc<Self>, inputs: impl IntoIterator<Item = Input>) -> Aftermath {
        let mut aftermath = Aftermath::default();
        if self.stopped.load(Relaxed) {
            return aftermath;
        }
        let mut core = self.core.lock();
        let Core { peer, outputs } = &mut *core;
        let now = self.now();
        for input in inputs {
            peer.step(now, input, outputs);
        }
        for output in outputs.drain(..) {
            self.carry_out(output, &mut aftermath);
        }
        let deadline = peer.deadline().unwrap_or(u64::MAX);
        if self.deadline.swap(deadline, Relaxed) > deadline {
            self.sooner.notify_one();
        }
        aftermath
    }

    fn carry_out(self: &Arc<Self>, output: Output, aftermath: &mut Aftermath) {
        let disk = &self.wires.disk;
        match output {
            Output::Notify { to, notification } => self.election.send(to, &notification),
            Output::Connect { link, to } => self.connect(link, to),
            Output::Send { link, packet } => {
                if let Some(link) = self.wires.link(link) {
                    link.push(&packet);
                    aftermath.flush_later(link);
                }
            }
            Output::Broadcast { links, entries } => {
                for link in links.iter().filter_map(|link| self.wires.link(*link)) {
                    link.push_proposals(&entries);
                    aftermath.flush_later(link);
                }
            }
            Output::Mark { link } => {
                if let Some(link) = self.wires.link(link) {
                    link.mark();
                    aftermath.flush_later(link);
                }
            }
            Output::Close { link, reason } => self.close(link, reason),
            Output::SendSnapshot { link, zxid } => self.send_tree(link, zxid),
            Output::ReadLog { link, after, upto } => self.read_log(link, after, upto),
            Output::Append { entries, position } => {
                disk.push(DiskWork::Append { entries, position });
            }
            Output::WriteEpoch { file, epoch } => disk.push(DiskWork::Epoch { file, epoch }),
            Output::Truncate { zxid } => disk.push(DiskWork::Truncate { zxid }),
            Output::Apply { entries } => {
                self.service.apply(entries);
                aftermath.apply = true;
            }
            Output::Synced => {
                self.service.synced();
                aftermath.apply = true;
            }
            Output::Looking {
                reason,
                handed_over,
            } => {
                tracing::info!(reason, "looking for a leader");
                match handed_over {
                    true => self.service.await_successor(),
                    false => self.service.pause(),
                }
            }
            Output::Resign { reason } => {
                tracing::info!(reason, "handing over");
                self.hand_over(None);
            }
            Output::Lead { epoch } => {
                tracing::info!(epoch, "this server leads");
                self.service.lead(epoch);
            }
            Output::Follow {
                epoch,
                leader,
                link,
                observer,
                ..
            } => {
                tracing::info!(leader, epoch, observer, "this server has a leader");
                self.service.follow(epoch, link, observer);
            }
            Output::LearnerJoined {
                link,
                sid,
                observer,
                ..
            } => {
                tracing::info!(server = sid, observer, "a server is in step");
                self.service.learner_joined(link, sid, observer);
            }
            Output::LearnerLeft { link } => self.service.learner_left(link),
            Output::Deliver { link, packet } => aftermath.deliver.push((link, packet)),
            Output::Propound { config } => {
                disk.push(DiskWork::Propound(config.clone()));
                self.service.propound(config.clone());
                self.go_by(vec![self.committed(), Arc::new(config)]);
            }
            Output::Heard { config } => {
                let mut members = self.members.lock().clone();
                // Each search may hear of it again.
                if members.iter().all(|known| known.version != config.version) {
                    members.push(Arc::new(config));
                    self.go_by(members);
                }
            }
            Output::Activate { config } => {
                disk.push(DiskWork::Activate(config.clone()));
                self.service.activate(config.clone());
                self.go_by(vec![Arc::new(config)]);
                self.reconfigured.notify_one();
            }
        }
    }

    fn committed(&self) -> Arc<Membership> {
        Arc::clone(&self.members.lock()[0])
    }

    /// Where a server is to be found, first by the configuration that is in force. One that moves
    /// may be at either of two places.
    fn peer_addresses(&self, sid: Sid) -> Vec<PeerAddress> {
        let members = self.members.lock();
        let servers = members
            .iter()
            .flat_map(|config| config.members.servers.get(&sid));
        let mut addresses: Vec<PeerAddress> = Vec::new();
        for address in servers.flat_map(|server| &server.addresses) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    fn go_by(&self, members: Vec<Arc<Membership>>) {
        self.election.set_members(&members);
        *self.members.lock() = members;
    }

    fn close(&self, link: Link, reason: &'static str) {
        let Some(link) = self.wires.links.lock().remove(&link) else {
            return;
        };
        let address = link.address;
        if self.is_member(&link) || self.told.is_news(address.ip(), reason) {
            tracing::info!(%address, reason, "closing a connection to another member");
        }
        link.close();
    }

    /// Does a link say that it belongs to a member?
    fn is_member(&self, link: &LinkSocket) -> bool {
        let Some(sid) = link.peer() else {
            return false;
        };
        let members = self.members.lock();
        members
            .iter()
            .any(|config| config.members.servers.contains_key(&sid))
    }

    /// Wakes the peer whenever it wants to be.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let deadline = self.deadline.load(Relaxed);
            let wait = Duration::from_millis(deadline.saturating_sub(self.now()).min(60_000));
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    if self.now() >= self.deadline.load(Relaxed) {
                        self.tell([Input::Wake]);
                    }
                }
                () = self.sooner.notified() => {}
            }
        }
    }
}

fn settings(config: &Config) -> Settings {
    let ticks = |count: u32| millis(config.tick_time * count);
    Settings {
        id: config.server_id(),
        tick: millis(config.tick_time),
        init_limit: ticks(config.init_limit),
        sync_limit: ticks(config.sync_limit),
        connect_limit: ticks(
            config
                .connect_to_learner_master_limit
                .unwrap_or(config.init_limit),
        ),
        disk_limit: millis(DISK_LIMIT),
        notification_interval: (
            millis(config.min_notification_interval),
            millis(config.max_notification_interval),
        ),
        finalize_wait: millis(FINALIZE_WAIT),
        commit_log_count: (config.commit_log_count as usize).max(COMMIT_LOG_COUNT),
        commit_log_bytes: COMMIT_LOG_BYTES,
        force_snapshot: config.force_snapshot_sync,
        observer: config.peer_type == PeerType::Observer,
        reconfig: config.reconfig_enabled,
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// What the member's disk had at the start, beside the tree.
fn recover(
    settings: &Settings,
    storage: &Storage,
    last_zxid: i64,
    (committed, proposed): (Membership, Option<Membership>),
) -> Result<Recovered, ServerError> {
    Ok(Recovered {
        epochs: storage.epochs(last_zxid)?,
        last_zxid,
        recent: storage.recent(
            last_zxid,
            settings.commit_log_count,
            settings.commit_log_bytes,
        )?,
        committed,
        proposed,
    })
}

impl Aftermath {
    fn flush_later(&mut self, link: Arc<LinkSocket>) {
        if !self.flush.iter().any(|known| known.id == link.id) {
            self.flush.push(link);
        }
    }
}
