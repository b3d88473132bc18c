//! The election port: one connection to each other server, on which votes go both ways (spec:
//! election, section 2).
//!
//! Of two servers the one with the larger id makes the connection. The other one may ask for it by
//! connecting and going away again.
//!
//! Each other server has a task of its own, a [`Caller`], that makes, keeps and replaces the
//! connection. A connection that has been accepted is given to the task of the server that it
//! names, known or not: who asks is answered.

mod caller;
mod greeting;
pub mod probe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use self::caller::{Caller, Word};
use self::greeting::{Greeting, HostPort, Refusal};
use super::faults::Faults;
use super::told::Told;
use crate::config::{Config, Member};
use crate::zab::election::Notification;
use crate::zab::{Input, Membership, Sid};

/// How long to wait after the system had no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that have not yet said whose they are.
const MAX_UNNAMED: usize = 256;
/// Servers in no configuration that are talked with at once.
const MAX_STRANGERS: usize = 256;

/// The election port of a member. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct ElectionPort {
    port: Arc<Port>,
}

/// What the tasks share.
struct Port {
    id: Sid,
    /// How long a connection may take to be made.
    connect_timeout: Duration,
    /// How long a connection may take to say whose it is.
    greeting_timeout: Duration,
    /// Name all addresses, as only servers with `multiAddress.enabled` understand.
    multi_address: bool,
    /// The port that was opened last, for a member that is in no configuration.
    local_port: AtomicU16,
    faults: Faults,
    on_event: Box<dyn Fn(Input) + Send + Sync>,
    /// Where the servers are.
    addresses: RwLock<BTreeMap<Sid, Vec<HostPort>>>,
    peers: Mutex<BTreeMap<Sid, Peer>>,
    tasks: Mutex<JoinSet<()>>,
    /// Where the tasks run: votes are sent by threads that belong to none.
    runtime: Handle,
    unnamed: Arc<Semaphore>,
    told: Told,
}

/// The way to the task of another server.
#[derive(Debug)]
struct Peer {
    outbox: Arc<Outbox>,
    words: mpsc::Sender<Word>,
}

/// What is to be sent to a server: only the newest vote counts.
#[derive(Debug, Default)]
struct Outbox {
    votes: Mutex<Votes>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Votes {
    waiting: Option<Bytes>,
    /// The last that was sent. It may be lost with its connection, and goes out again on the next.
    last: Option<Bytes>,
}

impl ElectionPort {
    /// Connects to whom something is sent. Whatever is heard, also on connections that are
    /// [taken](Self::open), is told to `on_event`, as [`Input::Notified`] or [`Input::Reachable`].
    pub(crate) fn start(
        config: &Config,
        members: &[Arc<Membership>],
        faults: Faults,
        on_event: impl Fn(Input) + Send + Sync + 'static,
    ) -> ElectionPort {
        let port = Arc::new(Port {
            id: config.server_id(),
            connect_timeout: config.cnx_timeout,
            greeting_timeout: config.tick_time * config.sync_limit,
            multi_address: config.multi_address_enabled,
            local_port: AtomicU16::new(0),
            faults,
            on_event: Box::new(on_event),
            addresses: RwLock::default(),
            peers: Mutex::default(),
            tasks: Mutex::default(),
            runtime: Handle::current(),
            unnamed: Arc::new(Semaphore::new(MAX_UNNAMED)),
            told: Told::default(),
        });
        let this = ElectionPort { port };
        this.set_members(members);
        this
    }

    /// Takes connections on `listener`, until the task is aborted.
    pub(crate) fn open(&self, listener: TcpListener) -> AbortHandle {
        if let Ok(local) = listener.local_addr() {
            self.port.local_port.store(local.port(), Relaxed);
        }
        let accept = Arc::clone(&self.port).accept(listener);
        self.port.tasks.lock().spawn_on(accept, &self.port.runtime)
    }

    /// Connects to the servers of these configurations from now on, first by the first.
    pub(crate) fn set_members(&self, members: &[Arc<Membership>]) {
        let mut addresses: BTreeMap<Sid, Vec<HostPort>> = BTreeMap::new();
        for config in members {
            for (sid, member) in &config.members.servers {
                let known = addresses.entry(*sid).or_default();
                known.extend(election_addresses(member));
            }
        }
        *self.port.addresses.write() = addresses;
    }

    /// Sends a vote. It takes the place of one that still waits.
    pub(crate) fn send(&self, to: Sid, notification: &Notification) {
        let mut peers = self.port.peers.lock();
        if !peers.contains_key(&to) && !self.port.addresses.read().contains_key(&to) {
            tracing::debug!(server = to, "a vote for a server that is nowhere");
            return;
        }
        let peer = self.port.peer(&mut peers, to);
        peer.outbox.votes.lock().waiting = Some(to_frame(notification));
        peer.outbox.filled.notify_one();
    }

    /// Closes the port and all connections, and waits until that is done.
    pub(crate) async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.port.tasks.lock());
        tasks.shutdown().await;
    }
}

impl Drop for ElectionPort {
    fn drop(&mut self) {
        // The tasks hold what they share, and it holds them.
        self.port.tasks.lock().abort_all();
    }
}

impl Port {
    /// Takes connections for as long as the port is open.
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut greetings = JoinSet::new();
        loop {
            while greetings.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, address)) => {
                    let Ok(permit) = Arc::clone(&self.unnamed).try_acquire_owned() else {
                        self.refuse(address, &Refusal::TooMany);
                        continue;
                    };
                    let this = Arc::clone(&self);
                    greetings.spawn(async move {
                        if let Err(refusal) = this.welcome(stream, address).await {
                            this.refuse(address, &refusal);
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for an election could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Learns whose a connection is, and gives it to the task of that server.
    async fn welcome(
        self: &Arc<Self>,
        mut stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(), Refusal> {
        let greeting = timeout(self.greeting_timeout, Greeting::read(&mut stream))
            .await
            .map_err(|_| Refusal::Silent)??;
        self.faults.inbound(greeting.sid).await;
        if greeting.sid == self.id {
            return Err(Refusal::OwnId(self.id));
        }
        let word = if greeting.sid > self.id {
            caller::adjust(&stream, self.connect_timeout);
            Word::Accepted(stream)
        } else {
            Word::CallBack(greeting.addresses)
        };
        tracing::debug!(server = greeting.sid, %address, "a server has connected for elections");
        self.tell(greeting.sid, word)
    }

    /// Gives word to the task of a server.
    fn tell(self: &Arc<Self>, sid: Sid, word: Word) -> Result<(), Refusal> {
        let mut peers = self.peers.lock();
        if !peers.contains_key(&sid) {
            let addresses = self.addresses.read();
            let strangers = peers.keys().filter(|sid| !addresses.contains_key(sid));
            if !addresses.contains_key(&sid) && strangers.count() >= MAX_STRANGERS {
                return Err(Refusal::TooMany);
            }
        }
        let peer = self.peer(&mut peers, sid);
        peer.words.try_send(word).map_err(|_| Refusal::TooMany)
    }

    /// The task of a server, which is started if there is none.
    fn peer<'a>(self: &Arc<Self>, peers: &'a mut BTreeMap<Sid, Peer>, sid: Sid) -> &'a mut Peer {
        peers.entry(sid).or_insert_with(|| {
            let outbox = Arc::<Outbox>::default();
            let (words, heard) = mpsc::channel(8);
            let caller = Caller::new(Arc::clone(self), sid, Arc::clone(&outbox), heard);
            let mut tasks = self.tasks.lock();
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(caller.run(), &self.runtime);
            Peer { outbox, words }
        })
    }

    /// What this member says when it calls.
    fn greeting(&self) -> Bytes {
        let own = self.addresses.read().get(&self.id).cloned();
        let addresses =
            own.unwrap_or_else(|| vec![HostPort::wildcard(self.local_port.load(Relaxed))]);
        let greeting = Greeting {
            sid: self.id,
            addresses,
        };
        greeting.encode(self.multi_address)
    }

    /// Says once for an address why it is refused.
    fn refuse(&self, address: SocketAddr, refusal: &Refusal) {
        if self.told.is_news(address.ip(), refusal.kind()) {
            tracing::warn!(%address, "refused on the election port: {refusal}");
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("id", &self.id)
            .field("addresses", &self.addresses)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// What is to be sent next.
    fn take(&self) -> Option<Bytes> {
        let mut votes = self.votes.lock();
        let next = votes.waiting.take()?;
        votes.last = Some(next.clone());
        Some(next)
    }

    /// On a new connection the last vote is sent again, unless there is a newer one.
    fn repeat_last(&self) {
        let mut votes = self.votes.lock();
        if votes.waiting.is_none() {
            votes.waiting = votes.last.clone();
        }
    }

    fn is_empty(&self) -> bool {
        self.votes.lock().waiting.is_none()
    }
}

fn to_frame(notification: &Notification) -> Bytes {
    let payload = notification.encode();
    let mut frame = BytesMut::with_capacity(4 + payload.len());
    frame.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    frame.put(payload);
    frame.freeze()
}

fn election_addresses(member: &Member) -> impl Iterator<Item = HostPort> {
    member.addresses.iter().map(|address| HostPort {
        host: address.host.clone(),
        port: address.election_port,
    })
}
