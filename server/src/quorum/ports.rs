//! The ports on which a member is reached.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};
use tokio::time::sleep;

use crate::config::{ClientAddress, Config, PeerAddress};
use crate::error::ServerError;
use crate::net::listen;

/// Between two attempts to open a port that is taken.
const RETRY: Duration = Duration::from_secs(1);

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
            quorum: vec![open((host, 0).into(), Some(0)).await?],
            election: vec![open((host, 0).into(), Some(0)).await?],
            client: Some(open((host, 0).into(), Some(0)).await?),
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
                let address = if config.quorum_listen_on_all_ips {
                    (Ipv6Addr::UNSPECIFIED, number).into()
                } else {
                    resolve(&peer.host, number).await?
                };
                listeners.push(open(address, retries).await?);
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

async fn open(address: SocketAddr, retries: Option<u32>) -> Result<TcpListener, ServerError> {
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
