//! The ports on which a member is reached.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::Quorum;
use crate::config::{ClientAddress, Config, Member, PeerAddress};
use crate::error::ServerError;
use crate::net::listen;

/// Between two attempts to open a port that is taken.
const RETRY: Duration = Duration::from_secs(1);

/// What a port of a member is for, and where it is.
type Door = (Purpose, SocketAddr);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Quorum,
    Election,
}

impl Quorum {
    /// Takes connections for as long as the member lives: of other members where the configuration
    /// in force has this one, and of clients, if that says where. A reconfiguration may change both.
    /// Connections that there are stay.
    pub(super) async fn keep_ports(self: Arc<Self>, ports: Ports) {
        let config = &self.service.config;
        let mut open = BTreeMap::new();
        for (purpose, listeners) in [
            (Purpose::Quorum, ports.quorum),
            (Purpose::Election, ports.election),
        ] {
            for listener in listeners {
                self.receive(purpose, listener, &mut open);
            }
        }
        let configured = config.ensemble.as_ref();
        let mut known = configured.and_then(|of| of.members.servers.get(&of.my_id).cloned());
        loop {
            match self.own_line() {
                Some(line) if known.as_ref() != Some(&line) => {
                    let moved = tokio::select! {
                        moved = self.move_to(&line, &mut open) => Some(moved),
                        // What comes next may do without a port that is taken.
                        () = self.reconfigured.notified() => None,
                    };
                    if let Some(Err(error)) = &moved {
                        tracing::warn!(%error, "not reached where the configuration says");
                    }
                    // One that was begun only is gone through again.
                    known = moved.map(|_| line);
                }
                // Nor does a server that has left the configuration change anything.
                _ => self.reconfigured.notified().await,
            }
        }
    }

    /// This server in the configuration that is in force.
    fn own_line(&self) -> Option<Member> {
        let committed = self.committed();
        let servers = &committed.members.servers;
        servers.get(&self.service.config.server_id()).cloned()
    }

    /// Opens the ports that `line` names, and closes all others. Cancel safe.
    async fn move_to(
        self: &Arc<Self>,
        line: &Member,
        open: &mut BTreeMap<Door, AbortHandle>,
    ) -> Result<(), ServerError> {
        let config = &self.service.config;
        let mut wanted = Vec::new();
        for peer in &line.addresses {
            for (purpose, number) in [
                (Purpose::Quorum, peer.quorum_port),
                (Purpose::Election, peer.election_port),
            ] {
                wanted.push((purpose, address_of(config, &peer.host, number).await?));
            }
        }
        let close = |open: &mut BTreeMap<Door, AbortHandle>, number: Option<u16>| {
            open.retain(|door, task| {
                let is_over = !wanted.contains(door) && number.is_none_or(|n| n == door.1.port());
                is_over.then(|| task.abort()).is_none()
            });
        };
        for (purpose, address) in &wanted {
            if !open.contains_key(&(*purpose, *address)) {
                // Of the whole machine, or of one of its addresses: not of both.
                close(open, Some(address.port()));
                let listener = listen_at(*address, None).await?;
                self.receive(*purpose, listener, open);
            }
        }
        close(open, None);
        self.move_reception(line).await
    }

    /// Opens the port for clients where `line` says, if it does.
    async fn move_reception(&self, line: &Member) -> Result<(), ServerError> {
        let Some(client) = &line.client else {
            return Ok(());
        };
        let reception = &self.service.reception;
        let address = everywhere(resolve(&client.host, client.port).await?);
        let before = reception.address().map(everywhere);
        if before == Some(address) {
            return Ok(());
        }
        if before.is_some_and(|before| before.port() == address.port()) {
            reception.close();
        }
        let listener = listen_at(address, None).await?;
        reception.open(&self.service, listener, address);
        Ok(())
    }

    /// Takes connections of other members.
    fn receive(
        self: &Arc<Self>,
        purpose: Purpose,
        listener: TcpListener,
        open: &mut BTreeMap<Door, AbortHandle>,
    ) {
        let Ok(address) = listener.local_addr() else {
            return;
        };
        let mut tasks = self.tasks.lock();
        if self.stopped.load(Relaxed) {
            return;
        }
        let task = match purpose {
            Purpose::Quorum => tasks.spawn(Arc::clone(self).accept(listener)),
            Purpose::Election => self.election.open(listener),
        };
        open.insert((purpose, everywhere(address)), task);
    }
}

/// One name for the address that stands for all addresses of a machine.
fn everywhere(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => (Ipv6Addr::UNSPECIFIED, address.port()).into(),
        false => address,
    }
}

/// Open ports: they keep who connects waiting until the member has started.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(super) quorum: Vec<TcpListener>,
    pub(super) election: Vec<TcpListener>,
    /// The port for clients, if it had to be known before the member starts.
    pub(crate) client: Option<TcpListener>,
}

impl Ports {
    /// Ports that the system chooses.
    pub(crate) async fn any(host: IpAddr) -> Result<Self, ServerError> {
        Ok(Ports {
            quorum: vec![listen_at((host, 0).into(), Some(0)).await?],
            election: vec![listen_at((host, 0).into(), Some(0)).await?],
            client: Some(listen_at((host, 0).into(), Some(0)).await?),
        })
    }

    /// The ports that the configuration names for this server. One that is taken is tried again
    /// (`electionPortBindRetry`).
    pub(crate) async fn bind(config: &Config) -> Result<Self, ServerError> {
        let retries = config.election_port_bind_retry;
        let mut ports = Ports {
            quorum: Vec::new(),
            election: Vec::new(),
            client: None,
        };
        for peer in own_addresses(config) {
            for (number, listeners) in [
                (peer.quorum_port, &mut ports.quorum),
                (peer.election_port, &mut ports.election),
            ] {
                let address = address_of(config, &peer.host, number).await?;
                listeners.push(listen_at(address, retries).await?);
            }
        }
        Ok(ports)
    }

    /// Where other members reach them.
    pub(crate) fn address(&self) -> io::Result<PeerAddress> {
        let address = |listeners: &[TcpListener]| match listeners.first() {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let quorum = address(&self.quorum)?;
        Ok(PeerAddress {
            host: quorum.ip().to_string(),
            quorum_port: quorum.port(),
            election_port: address(&self.election)?.port(),
        })
    }

    /// Where clients reach it, if that is known already.
    pub(crate) fn client_address(&self) -> io::Result<Option<ClientAddress>> {
        let Some(listener) = &self.client else {
            return Ok(None);
        };
        let address = listener.local_addr()?;
        Ok(Some(ClientAddress {
            host: address.ip().to_string(),
            port: address.port(),
        }))
    }
}

fn own_addresses(config: &Config) -> &[PeerAddress] {
    config
        .ensemble
        .as_ref()
        .and_then(|ensemble| ensemble.members.servers.get(&ensemble.my_id))
        .map_or(&[], |member| &member.addresses)
}

/// Where a port for other members is opened.
async fn address_of(config: &Config, host: &str, number: u16) -> Result<SocketAddr, ServerError> {
    match config.quorum_listen_on_all_ips {
        true => Ok((Ipv6Addr::UNSPECIFIED, number).into()),
        false => resolve(host, number).await,
    }
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr, ServerError> {
    let source = match lookup_host((host, port)).await {
        Ok(mut addresses) => match addresses.next() {
            Some(address) => return Ok(address),
            None => io::ErrorKind::NotFound.into(),
        },
        Err(error) => error,
    };
    let host = host.to_owned();
    Err(ServerError::OwnHost { host, source })
}

async fn listen_at(address: SocketAddr, retries: Option<u32>) -> Result<TcpListener, ServerError> {
    let mut attempt = 0;
    loop {
        match listen(address, None) {
            Ok(listener) => return Ok(listener),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && retries.is_none_or(|most| attempt < most) =>
            {
                tracing::warn!(%address, %error, "the port is taken; trying again");
                attempt += 1;
                sleep(RETRY).await;
            }
            Err(source) => return Err(ServerError::QuorumPort { address, source }),
        }
    }
}
