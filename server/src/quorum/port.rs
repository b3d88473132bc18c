//! The quorum port: learners that connect to us, and connections to the leader.

use std::future::pending;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use super::Quorum;
use super::codec::{self, PacketError};
use super::link::{Flushed, LinkSocket};
use crate::storage::StorageError;
use crate::zab::{Input, Link, Packet, Sid};

/// How long to wait after the system had no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long what is to be sent before the end of a link may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// Beyond `jute.maxbuffer`, for what a request grows by on its way through the leader.
const EXTRA: usize = 0xf_ffff;

impl Quorum {
    /// Takes connections for as long as the member lives.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let link = Link(self.next_link.fetch_add(1, Relaxed));
                    let link = LinkSocket::new(link, stream, address, self.faults.clone());
                    self.runtime
                        .spawn(Arc::clone(&self).run(link, Side::Leader));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of another member could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Connects to the quorum port of a member, in a task of its own.
    pub(super) fn connect(self: &Arc<Self>, link: Link, to: Sid) {
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            match this.dial(to).await {
                Ok((stream, address)) => {
                    let link = LinkSocket::new(link, stream, address, this.faults.clone());
                    link.set_peer(to);
                    this.run(link, Side::Learner).await;
                }
                Err(error) => {
                    tracing::info!(server = to, %error, "the leader cannot be reached");
                    this.tell([Input::Closed { link }]);
                }
            }
        });
    }

    /// Names are resolved at each attempt: a server may have moved.
    async fn dial(&self, to: Sid) -> io::Result<(TcpStream, SocketAddr)> {
        let peers = self.peer_addresses(to);
        if peers.is_empty() {
            let reason = "it is not in the configuration";
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        }
        let patience = self.service.config.cnx_timeout;
        self.faults.connect(to).await;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for peer in peers {
            let addresses = match lookup_host((peer.host.as_str(), peer.quorum_port)).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            for address in addresses {
                match timeout(patience, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => return Ok((stream, address)),
                    Ok(Err(error)) => failure = error,
                    Err(_) => failure = io::ErrorKind::TimedOut.into(),
                }
            }
        }
        Err(failure)
    }

    /// Serves a link to its end.
    async fn run(self: Arc<Self>, link: Arc<LinkSocket>, side: Side) {
        let id = link.id;
        if let Err(error) = link.stream.set_nodelay(true) {
            tracing::debug!(address = %link.address, %error, "no TCP_NODELAY");
        }
        self.wires.links.lock().insert(id, Arc::clone(&link));
        self.tell([match side {
            Side::Leader => Input::Accepted { link: id },
            Side::Learner => Input::Connected { link: id },
        }]);
        let address = link.address;
        match self.exchange(&link, side).await {
            Ok(()) => tracing::debug!(%address, "a connection to another member has ended"),
            Err(Fault::Io(error)) => {
                tracing::debug!(%address, %error, "a connection to another member is lost");
            }
            Err(fault) => {
                if self.is_member(&link) || self.told.is_news(address.ip(), fault.kind()) {
                    tracing::warn!(
                        %address, error = %fault, "closing a connection on the quorum port"
                    );
                }
            }
        }
        self.wires.links.lock().remove(&id);
        self.cursors.lock().remove(&id);
        // A tree that came in takes its place whatever becomes of the link.
        link.installed().await;
        self.tell([Input::Closed { link: id }]);
    }

    async fn exchange(self: &Arc<Self>, link: &Arc<LinkSocket>, side: Side) -> Result<(), Fault> {
        tokio::select! {
            read = self.read(link, side) => read,
            sent = self.send_rest(link) => sent,
        }
    }

    /// Sends what is left to it, until the link is to end.
    async fn send_rest(self: &Arc<Self>, link: &LinkSocket) -> Result<(), Fault> {
        loop {
            link.unblocked().await?;
            match link.flush_now() {
                Flushed::Drained => self.tell([Input::Drained { link: link.id }]),
                // Of a link that is over who reads hears, behind what the other end has sent before.
                Flushed::Quiet | Flushed::Over => {}
            }
            if link.is_closing() {
                return farewell(link).await;
            }
        }
    }

    async fn read(self: &Arc<Self>, link: &Arc<LinkSocket>, side: Side) -> Result<(), Fault> {
        let max = self.service.config.jute_max_buffer + EXTRA;
        let mut input = BytesMut::new();
        let mut is_first = side == Side::Leader;
        while link.read(&mut input).await? {
            if is_first {
                codec::check_first(&input)?;
            }
            let mut inputs = Vec::new();
            while let Some(packet) = codec::decode(&mut input, max)? {
                is_first = false;
                let dumped = match &packet {
                    Packet::Snapshot { zxid } => Some(*zxid),
                    Packet::LearnerInfo { sid, .. } => {
                        link.set_peer(*sid);
                        None
                    }
                    _ => None,
                };
                inputs.push(Input::Received {
                    link: link.id,
                    packet,
                });
                if let Some(zxid) = dumped {
                    self.tell(std::mem::take(&mut inputs));
                    self.receive_tree(link, zxid, &mut input).await?;
                }
            }
            if !inputs.is_empty() {
                self.tell(inputs);
                self.wires.disk.has_room().await;
            }
        }
        Ok(())
    }
}

/// Sends the rest of a link that is to end, and leaves it to the other end to close it, within
/// bounds: if this end closed it with something unread, the rest would be lost.
async fn farewell(link: &LinkSocket) -> Result<(), Fault> {
    let part = async {
        while link.flush_now() != Flushed::Over {
            link.stream.writable().await?;
        }
        SockRef::from(&link.stream).shutdown(Shutdown::Write)?;
        pending().await
    };
    timeout(FAREWELL, part).await.unwrap_or(Ok(()))
}

/// Which end of a link is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Leader,
    Learner,
}

/// Why a link ends before its other end ends it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Tree(#[from] StorageError),
}

impl Fault {
    /// What a stranger is told of once for.
    fn kind(&self) -> &'static str {
        match self {
            Fault::Io(_) => "connection",
            Fault::Packet(error) => error.kind(),
            Fault::Tree(_) => "tree",
        }
    }
}
