//! Which servers an ensemble has: their description, and lists of servers that follow it.

use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;

use quorate_proto::Stat;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::client::{Client, Shared};
use crate::connect_string::{self, Server};
use crate::driver::Control;
use crate::error::Error;

/// How long a name may take to be resolved where its address does not matter much.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before the description is read again after an error that passes.
const PAUSE: Duration = Duration::from_secs(1);

/// The servers of an ensemble, as [`Client::get_config`] finds them and [`Client::reconfig`] leaves
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnsembleConfig {
    /// The transaction that made it, by which [`Client::reconfig`] tells whether it still holds; 0
    /// for the one with which the ensemble began.
    pub version: i64,
    /// The servers in the order of the description; none on a server that stands alone.
    pub members: Vec<EnsembleMember>,
    /// The description itself: `server.N`, `group.N`, `weight.N` and `version` lines.
    pub text: String,
    /// The stat of the znode that holds it.
    pub stat: Stat,
}

/// A server of an ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnsembleMember {
    /// Its number.
    pub id: i64,
    /// Where other servers reach it: `host:2888:3888`, several separated by `|`.
    pub address: String,
    /// It follows without a vote.
    pub is_observer: bool,
    /// Where clients reach it: `host:2181`. `None` if the description does not say. A server that
    /// listens on all its addresses is given by the host under which other servers reach it.
    pub client: Option<String>,
    /// Where clients reach it by TLS, in the same way. Servers before 3.10 do not say.
    pub secure_client: Option<String>,
}

impl EnsembleConfig {
    /// From the content of `/zookeeper/config`. Lines of a kind that is not known say nothing about
    /// servers.
    pub(crate) fn parse(data: &[u8], stat: Stat) -> Self {
        let text = String::from_utf8_lossy(data).into_owned();
        let mut config = EnsembleConfig {
            version: 0,
            members: Vec::new(),
            text: String::new(),
            stat,
        };
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            if key == "version" {
                config.version = i64::from_str_radix(value, 16).unwrap_or(0);
            } else if let Some(id) = key.strip_prefix("server.") {
                config.members.extend(EnsembleMember::parse(id, value));
            }
        }
        config.text = text;
        config
    }

    /// Where clients reach the servers: `host:port,host:port`, for [`Client::connect`] and
    /// [`Client::update_servers`]. `None` if the description does not say it of any server.
    pub fn connect_string(&self) -> Option<String> {
        self.list(|member| member.client.as_deref())
    }

    /// As [`connect_string`](EnsembleConfig::connect_string), for clients that use TLS.
    pub fn secure_connect_string(&self) -> Option<String> {
        self.list(|member| member.secure_client.as_deref())
    }

    fn list<'a>(&'a self, of: impl Fn(&'a EnsembleMember) -> Option<&'a str>) -> Option<String> {
        let addresses: Vec<&str> = self.members.iter().filter_map(of).collect();
        (!addresses.is_empty()).then(|| addresses.join(","))
    }
}

impl EnsembleMember {
    /// From `host:quorumPort:electionPort[:role][|…][;[[host:]clientPort][;[host:]securePort]]`.
    fn parse(id: &str, value: &str) -> Option<Self> {
        let mut parts = value.split(';');
        let peers = parts.next()?;
        let mut for_clients = || client_address(parts.next()?, host(peers)?);
        let role = |peer: &str| peer.rsplit(':').next().map(str::to_ascii_lowercase);
        let is_observer = peers
            .split('|')
            .any(|peer| role(peer).is_some_and(|role| role == "observer"));
        let addresses = peers.split('|').map(without_role);
        let address: Vec<&str> = addresses.collect();
        Some(EnsembleMember {
            id: id.parse().ok()?,
            client: for_clients(),
            secure_client: for_clients(),
            address: address.join("|"),
            is_observer,
        })
    }
}

fn without_role(peer: &str) -> &str {
    match peer.rsplit_once(':') {
        Some((address, role)) if role.parse::<u16>().is_err() => address,
        _ => peer,
    }
}

/// The host with which an address begins, in its brackets if it has any.
fn host(address: &str) -> Option<&str> {
    let end = match address.starts_with('[') {
        true => address.find(']')? + 1,
        false => address.find(':')?,
    };
    Some(&address[..end])
}

/// `[host:]port`, where no host, or one that stands for all, is `reached_as`.
fn client_address(text: &str, reached_as: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => ("", text),
    };
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host {
        "" | "0.0.0.0" | "::" | "[::]" | "0:0:0:0:0:0:0:0" | "[0:0:0:0:0:0:0:0]" => reached_as,
        host => host,
    };
    Some(match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    })
}

/// The list of servers.
impl Client {
    /// Where the connection goes to, if there is one.
    pub fn server_addr(&self) -> Option<SocketAddr> {
        self.shared().status.server()
    }

    /// Puts another list of servers in the place of the one with which the client was set up, for
    /// all handles of the session.
    ///
    /// A client whose server is not in the new list goes to one that is; if there are more servers
    /// than before, some clients go to the new ones, by chance, so that all clients together are
    /// spread evenly again, and no more of them move than that takes. The session stays, and so do
    /// its watches and ephemeral znodes. What is under way is answered first, so that moving fails
    /// no request that is answered within a third of the session timeout.
    ///
    /// A server is the same if it is called the same, or if its name stands for the address that
    /// the connection goes to. Names are resolved again at every attempt to connect.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConnectString`] if `servers` is not `host:port[,host:port…]`, which may end
    /// in the chroot of this handle. Nothing changes then.
    ///
    /// Cancel safe: either nothing has changed or all.
    pub async fn update_servers(&self, servers: &str) -> Result<(), Error> {
        let (mut list, chroot) = connect_string::parse(servers)?;
        if chroot.as_str() != "/" && chroot.as_str() != self.chroot() {
            return Err(Error::InvalidConnectString {
                input: servers.to_owned(),
                reason: format!(
                    "its chroot is not {:?}, and the chroot of a handle stays what it is",
                    self.chroot()
                ),
            });
        }
        if self.shared().shuffle {
            fastrand::shuffle(&mut list);
        }
        let mine = match self.server_addr() {
            Some(address) => position(&list, address).await,
            None => None,
        };
        // Nobody listens once the session is over.
        let _ = self.shared().control.send(Control::Servers(list, mine));
        Ok(())
    }
}

/// Which of the servers has the address.
async fn position(list: &[Server], address: SocketAddr) -> Option<usize> {
    let names = list.iter().map(|server| async move {
        let found = lookup_host((server.host.as_str(), server.port));
        match timeout(PATIENCE, found).await {
            Ok(Ok(mut found)) => found.any(|found| found == address),
            _ => false,
        }
    });
    let is_mine = futures::future::join_all(names).await;
    is_mine.iter().position(|is_mine| *is_mine)
}

/// Keeps the list of servers as the ensemble describes itself, until the session is over. Holds no
/// handle while it waits, so that the session is closed with the last one of the application.
pub(crate) async fn follow(shared: Weak<Shared>, secure: bool) {
    let mut version = None;
    while let Some(client) = Client::of(&shared) {
        let reading = client.get_config_watched();
        drop(client);
        let error = match reading.await {
            Ok((config, changed)) => {
                if version != Some(config.version) {
                    version = Some(config.version);
                    adopt(&shared, &config, secure).await;
                }
                match changed.await {
                    Ok(_) => continue,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if error.is_session_over() {
            return;
        }
        if !error.is_transient() {
            warn!(%error, "cannot follow the membership of the ensemble");
            return;
        }
        sleep(PAUSE).await;
    }
}

async fn adopt(shared: &Weak<Shared>, config: &EnsembleConfig, secure: bool) {
    let servers = match secure {
        true => config.secure_connect_string(),
        false => config.connect_string(),
    };
    // A description without addresses for clients says nothing against those that are known.
    if let (Some(client), Some(servers)) = (Client::of(shared), servers)
        && let Err(error) = client.update_servers(&servers).await
    {
        warn!(%error, "the ensemble describes its servers in a way that is of no use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(text: &str) -> Vec<Option<String>> {
        let config = EnsembleConfig::parse(text.as_bytes(), Stat::default());
        config.members.into_iter().map(|m| m.client).collect()
    }

    #[test]
    fn a_description_is_taken_apart() {
        let text = "server.1=a:2888:3888:participant;0.0.0.0:2181\n\
                    server.12=b:1:2|c:3:4:observer;10.0.0.1:2182;10.0.0.1:2281\n\
                    group.1=1:12\nweight.1=3\nversion=1a00000002\n";
        let config = EnsembleConfig::parse(text.as_bytes(), Stat::default());
        assert_eq!(config.version, 0x1a_0000_0002);
        assert_eq!(config.text, text);
        let member =
            |id, address: &str, is_observer, client: &str, secure: Option<&str>| EnsembleMember {
                id,
                address: address.into(),
                is_observer,
                client: Some(client.into()),
                secure_client: secure.map(str::to_owned),
            };
        assert_eq!(
            config.members,
            [
                member(1, "a:2888:3888", false, "a:2181", None),
                member(
                    12,
                    "b:1:2|c:3:4",
                    true,
                    "10.0.0.1:2182",
                    Some("10.0.0.1:2281")
                ),
            ]
        );
        let list = config.connect_string();
        assert_eq!(list.as_deref(), Some("a:2181,10.0.0.1:2182"));
        let list = config.secure_connect_string();
        assert_eq!(list.as_deref(), Some("10.0.0.1:2281"));
    }

    #[test]
    fn the_address_for_clients_has_many_forms() {
        for (line, client) in [
            ("server.1=a:1:2;5", Some("a:5")),
            ("server.1=a:1:2:observer;b:5", Some("b:5")),
            ("server.1=[::1]:1:2;5", Some("[::1]:5")),
            ("server.1=[::1]:1:2;[::]:5", Some("[::1]:5")),
            ("server.1=a:1:2;0:0:0:0:0:0:0:0:5", Some("a:5")),
            ("server.1=a:1:2;fe80::1:5", Some("[fe80::1]:5")),
            ("server.1=a:1:2", None),
            ("server.1=a:1:2;", None),
            ("server.1=a:1:2;b:0", None),
            ("server.1=a:1:2;b:65536", None),
        ] {
            assert_eq!(clients(line), [client.map(str::to_owned)], "{line}");
        }
        for (line, secure) in [
            ("server.1=a:1:2;5;6", Some("a:6")),
            ("server.1=a:1:2;;b:6", Some("b:6")),
            ("server.1=a:1:2;5", None),
            ("server.1=a:1:2;5;", None),
        ] {
            let config = EnsembleConfig::parse(line.as_bytes(), Stat::default());
            assert_eq!(config.secure_connect_string().as_deref(), secure, "{line}");
        }
    }

    #[test]
    fn what_is_no_description_names_no_server() {
        for text in [
            &b""[..],
            b"x",
            b"server.x=a:1:2;3",
            b"server.=",
            b"\xff=\xfe",
        ] {
            let config = EnsembleConfig::parse(text, Stat::default());
            assert_eq!((config.members.len(), config.connect_string()), (0, None));
        }
    }
}
