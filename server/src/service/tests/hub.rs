//! The driver: one thread that carries packets and commits proposals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use quorate_proto::jute::Decode;
use quorate_proto::{Txn, TxnEntry};
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use super::until;
use crate::config::{self, Config, FourLetterWords, Members};
use crate::net;
use crate::service::{Chores, Mode, Outlet, Service};
use crate::tree::Tree;
use crate::zab::{Entry, Input, Link, Membership, Packet};

enum Event {
    /// A packet, as who gets it calls the link.
    Packet(Link, Packet),
    /// A member has proposals.
    Proposals(usize),
    /// Commit nothing more, or what was held back and everything from now on.
    Hold(bool),
    /// End all roles. `committed`: what is held back will have been committed, or else is lost.
    Depose {
        committed: bool,
        kindly: bool,
    },
    /// Begin a new epoch.
    Elect(usize),
    /// Say that all before was done.
    Settle(oneshot::Sender<()>),
    Stop,
}

/// What one member sees of the driver.
#[derive(Debug)]
struct Wire {
    me: usize,
    events: Sender<Event>,
    stall: Arc<Stall>,
}

/// Holds up whoever is about to send.
#[derive(Debug, Default)]
struct Stall {
    shut: Mutex<bool>,
    opened: Condvar,
    /// Somebody is held up.
    holds: AtomicBool,
}

impl Stall {
    fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut shut = self.shut.lock();
        if *shut {
            self.holds.store(true, SeqCst);
            block_in_place(|| self.opened.wait_while(&mut shut, |shut| *shut));
            self.holds.store(false, SeqCst);
        }
    }
}

/// The link of member `at` to the member `to` in a term.
fn link(term: usize, at: usize, to: usize) -> Link {
    Link((term * 10_000 + at * 100 + to) as u64)
}

/// The term, and both members.
fn ends(link: Link) -> (usize, usize, usize) {
    let link = link.0 as usize;
    (link / 10_000, link / 100 % 100, link % 100)
}

impl Outlet for Wire {
    fn send(&self, over: Link, packets: &[Packet]) {
        self.stall.pass();
        let (term, _, to) = ends(over);
        for packet in packets {
            let link = link(term, to, self.me);
            let _ = self.events.send(Event::Packet(link, packet.clone()));
        }
    }

    fn proposals(&self) {
        let _ = self.events.send(Event::Proposals(self.me));
    }
}

struct Driver {
    services: Vec<Arc<Service>>,
    term: Arc<AtomicUsize>,
    leader: Option<usize>,
    epoch: u32,
    holding: bool,
    held: Vec<Entry>,
    held_count: Arc<AtomicUsize>,
    syncs: Vec<Option<Link>>,
}

impl Driver {
    fn run(mut self, events: &Receiver<Event>) {
        for event in events {
            match event {
                Event::Packet(link, packet) => {
                    let (term, at, _) = ends(link);
                    // The links of a term end with it.
                    if term == self.term.load(SeqCst)
                        && let Some(service) = self.services.get(at)
                    {
                        service.deliver(vec![(link, packet)]);
                    }
                }
                Event::Proposals(member) => self.propose(member),
                Event::Hold(holding) => {
                    self.holding = holding;
                    self.commit();
                }
                Event::Depose { committed, kindly } => self.depose(committed, kindly),
                Event::Elect(leader) => self.elect(leader),
                Event::Settle(done) => {
                    let _ = done.send(());
                }
                Event::Stop => break,
            }
        }
        for service in &self.services {
            service.drain();
            service.stopped(None);
        }
    }

    fn propose(&mut self, member: usize) {
        while let Some(proposals) = self.services[member].take_proposals() {
            for input in proposals.inputs() {
                match input {
                    Input::Propose { epoch, entries } => {
                        assert_eq!(epoch, self.epoch);
                        self.held.extend(entries);
                    }
                    Input::Sync { link, .. } => self.syncs.push(link),
                    other => panic!("{other:?} is no proposal"),
                }
            }
        }
        self.commit();
    }

    fn commit(&mut self) {
        self.held_count.store(self.held.len(), SeqCst);
        if self.holding {
            return;
        }
        let entries = std::mem::take(&mut self.held);
        if !entries.is_empty() {
            for service in &self.services {
                service.apply(entries.clone());
                service.call_applier();
            }
        }
        for entry in entries.iter().filter(|entry| entry.is_reconfig()) {
            let entry = TxnEntry::from_slice(&entry.bytes).unwrap();
            if let Txn::Reconfig(txn) = entry.txn {
                let text = std::str::from_utf8(txn.data.unwrap()).unwrap();
                let config: Membership = text.parse().unwrap();
                for service in &self.services {
                    service.activate(config.clone());
                }
            }
        }
        for sync in self.syncs.drain(..) {
            let Some(sync) = sync else {
                let leader = &self.services[self.leader.unwrap()];
                leader.synced();
                leader.call_applier();
                continue;
            };
            let (term, leader, learner) = ends(sync);
            self.services[learner].deliver(vec![(link(term, learner, leader), Packet::Sync)]);
        }
        self.held_count.store(0, SeqCst);
    }

    fn depose(&mut self, committed: bool, kindly: bool) {
        if let Some(leader) = self.leader.take()
            && kindly
        {
            self.services[leader].resign();
            self.propose(leader);
        }
        self.term.fetch_add(1, SeqCst);
        for service in &self.services {
            match kindly {
                true => service.await_successor(),
                false => service.pause(),
            }
        }
        self.syncs.clear();
        if !committed {
            self.held.clear();
            self.held_count.store(0, SeqCst);
        }
    }

    fn elect(&mut self, leader: usize) {
        self.epoch += 1;
        self.leader = Some(leader);
        self.holding = false;
        self.commit();
        self.services[leader].lead(self.epoch);
        let term = self.term.load(SeqCst);
        for learner in (0..self.services.len()).filter(|learner| *learner != leader) {
            let (down, up) = (link(term, leader, learner), link(term, learner, leader));
            self.services[leader].learner_joined(down, learner as i64 + 1, false);
            self.services[learner].follow(self.epoch, up, false);
        }
    }
}

/// See the [module](super).
pub(super) struct Ensemble {
    pub(super) services: Vec<Arc<Service>>,
    addresses: Vec<SocketAddr>,
    events: Sender<Event>,
    term: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    stalls: Vec<Arc<Stall>>,
}

impl Ensemble {
    pub(super) async fn start(servers: usize) -> Self {
        Self::with(servers, |_| {}).await
    }

    /// `servers` of them, with settings that differ from the defaults. None has a role yet.
    pub(super) async fn with(servers: usize, change: impl Fn(&mut Config)) -> Self {
        let (events, todo) = mpsc::channel();
        let term = Arc::new(AtomicUsize::new(0));
        let (mut services, mut addresses, mut stalls) = (Vec::new(), Vec::new(), Vec::new());
        for me in 0..servers {
            let mut config = Config::temporary().unwrap();
            config.tick_time = Duration::from_millis(500);
            config.four_letter_words = FourLetterWords::from_list("*");
            config.ensemble = Some(config::Ensemble {
                my_id: me as i64 + 1,
                version: 0,
                members: Members::default(),
            });
            change(&mut config);
            let service = Arc::new(Service::new(config, Tree::new()));
            let stall = Arc::<Stall>::default();
            stalls.push(Arc::clone(&stall));
            let events = events.clone();
            service.join(Arc::new(Wire { me, events, stall })).unwrap();
            let local = "127.0.0.1:0".parse().unwrap();
            let listener = net::listen(local, None).unwrap();
            let address = listener.local_addr().unwrap();
            addresses.push(address);
            service.reception.open(&service, listener, address);
            services.push(service);
        }
        let held = Arc::new(AtomicUsize::new(0));
        let driver = Driver {
            services: services.clone(),
            term: Arc::clone(&term),
            leader: None,
            epoch: 0,
            holding: false,
            held: Vec::new(),
            held_count: Arc::clone(&held),
            syncs: Vec::new(),
        };
        std::thread::spawn(move || driver.run(&todo));
        Ensemble {
            services,
            addresses,
            events,
            term,
            held,
            stalls,
        }
    }

    /// What the members do by themselves, until it is dropped.
    pub(super) fn chores(&self) -> Vec<Chores> {
        self.services.iter().map(Chores::of_sessions).collect()
    }

    pub(super) fn address(&self, server: usize) -> SocketAddr {
        self.addresses[server]
    }

    fn tell(&self, event: Event) {
        assert!(self.events.send(event).is_ok(), "the driver has panicked");
    }

    /// Waits until everything that was told the driver is done.
    pub(super) async fn settle(&self) {
        let (done, heard) = oneshot::channel();
        self.tell(Event::Settle(done));
        heard.await.unwrap();
        // Commits may still be on their way to the trees.
        let newest = || (0..self.services.len()).map(|server| self.last_zxid(server));
        until("all trees alike", || newest().min() == newest().max()).await;
    }

    /// Begins an epoch under a leader, and waits until all serve.
    pub(super) async fn elect(&self, leader: usize) {
        self.tell(Event::Elect(leader));
        let serves = |service: &Arc<Service>| !matches!(service.mode(), Mode::Paused(_));
        until("all serve", || self.services.iter().all(serves)).await;
    }

    /// Ends the epoch: what is not committed yet will be, or never will.
    pub(super) async fn depose(&self, committed: bool) {
        let kindly = false;
        self.tell(Event::Depose { committed, kindly });
        self.pauses().await;
    }

    /// Ends the epoch in order: what is not proposed by now waits for the next leader.
    pub(super) async fn hand_over(&self) {
        let (committed, kindly) = (true, true);
        self.tell(Event::Depose { committed, kindly });
        self.pauses().await;
    }

    async fn pauses(&self) {
        let serves = |service: &Arc<Service>| !matches!(service.mode(), Mode::Paused(_));
        until("all pause", || !self.services.iter().any(serves)).await;
    }

    /// Commits nothing more.
    pub(super) fn hold(&self) {
        self.tell(Event::Hold(true));
    }

    /// Commits what was held back, and everything from now on.
    pub(super) fn release(&self) {
        self.tell(Event::Hold(false));
    }

    /// How many proposals are held back.
    pub(super) fn held(&self) -> usize {
        self.held.load(SeqCst)
    }

    /// Holds up whoever sends something for a member, from the next one on. Only on a runtime with
    /// threads to spare.
    pub(super) fn stall(&self, member: usize) {
        self.stalls[member].set(true);
    }

    /// Is somebody about to send something for a member, and held up?
    pub(super) fn is_stalled(&self, member: usize) -> bool {
        self.stalls[member].holds.load(SeqCst)
    }

    /// Holds up nobody any more.
    pub(super) fn go_on(&self, member: usize) {
        self.stalls[member].set(false);
    }

    /// Sends a packet as if a member had.
    pub(super) fn deliver(&self, from: usize, to: usize, packet: Packet) {
        let link = link(self.term.load(SeqCst), to, from);
        self.services[to].deliver(vec![(link, packet)]);
    }

    pub(super) fn last_zxid(&self, server: usize) -> i64 {
        self.services[server].tree().last_zxid()
    }

    pub(super) fn digest(&self, server: usize) -> (i64, u64) {
        let tree = self.services[server].tree();
        (tree.last_zxid(), tree.digest().digest)
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        self.stalls.iter().for_each(|stall| stall.set(false));
        let _ = self.events.send(Event::Stop);
    }
}
