//! The members of an ensemble: `server.N`, `group.G` and `weight.N` lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use super::{
    properties::{self, Property},
    types::PeerType,
    values::{hexadecimal, integer, port},
};

/// The ensemble that a server belongs to, as its configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ensemble {
    /// Id of this server: the content of `myid`.
    pub my_id: i64,
    /// Version of the configuration: the zxid at which it was committed, 0 for the first.
    pub version: u64,
    /// The servers and how they are counted.
    pub members: Members,
}

/// Servers by id, with the groups and weights by which their votes are counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Members {
    /// Every server by its id.
    pub servers: BTreeMap<i64, Member>,
    /// Voters by group; empty when a simple majority of the voters is a quorum.
    pub groups: BTreeMap<i64, BTreeSet<i64>>,
    /// Weights of voters other than 1.
    pub weights: BTreeMap<i64, u64>,
    /// Whether a quorum is counted in groups: a majority of the weight in a majority of the groups.
    pub hierarchical: bool,
}

/// One server of an ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Where other servers reach it; at least one address.
    pub addresses: Vec<PeerAddress>,
    /// Whether it votes.
    pub role: PeerType,
    /// Where clients reach it, if its line says so.
    pub client: Option<ClientAddress>,
}

/// Host and ports on which a server talks with other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerAddress {
    /// Name or address; an IPv6 address without brackets. Resolved when a connection is made.
    pub host: String,
    /// Port on which a leader serves followers.
    pub quorum_port: u16,
    /// Port for elections.
    pub election_port: u16,
}

/// Host and port on which a server serves clients.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientAddress {
    /// Name or address; an IPv6 address without brackets; `0.0.0.0` if the line names none.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Members {
    /// The servers that vote.
    pub fn voters(&self) -> impl Iterator<Item = (i64, &Member)> {
        self.with_role(PeerType::Participant)
    }

    /// The servers that follow without a vote.
    pub fn observers(&self) -> impl Iterator<Item = (i64, &Member)> {
        self.with_role(PeerType::Observer)
    }

    /// Weight of the vote of server `id`.
    pub fn weight(&self, id: i64) -> u64 {
        self.weights.get(&id).copied().unwrap_or(1)
    }

    fn with_role(&self, role: PeerType) -> impl Iterator<Item = (i64, &Member)> {
        let servers = self.servers.iter().map(|(id, member)| (*id, member));
        servers.filter(move |(_, member)| member.role == role)
    }

    /// Reads what a dynamic configuration holds: the members, and its version.
    pub(crate) fn read(text: &str) -> Result<(Members, u64), String> {
        let mut members = Members::default();
        let mut version = 0;
        let entries = properties::parse(text)
            .map_err(|malformed| format!("line {}: {}", malformed.line, malformed.what))?;
        for Property { key, value, line } in entries {
            let read = match key.as_str() {
                "version" => hexadecimal(&value).map(|number| version = number),
                _ => members.add(&key, &value),
            };
            read.map_err(|what| format!("line {line}: {what}"))?;
        }
        if members.voters().next().is_none() {
            return Err("no participant is among the servers; one at least must be".to_owned());
        }
        if members.hierarchical {
            members.check_groups().map_err(|(_, what)| what)?;
        }
        Ok((members, version))
    }

    /// Says whether `key` describes members.
    pub(super) fn owns(key: &str) -> bool {
        key.starts_with("server.") || Self::counts_votes(key)
    }

    fn counts_votes(key: &str) -> bool {
        key.starts_with("group") || key.starts_with("weight")
    }

    /// Takes in one `server.N`, `group.G` or `weight.N` setting.
    pub(super) fn add(&mut self, key: &str, value: &str) -> Result<(), String> {
        let (kind, number) = key
            .split_once('.')
            .ok_or_else(|| format!("{key} needs a number, as in {key}.1"))?;
        let number: i64 = integer(number)?;
        match kind {
            "server" => {
                self.servers.insert(number, value.parse()?);
            }
            "weight" => {
                match integer(value)? {
                    1 => self.weights.remove(&number),
                    weight => self.weights.insert(number, weight),
                };
                self.hierarchical = true;
            }
            "group" => self.add_group(number, value)?,
            _ => {
                return Err(format!(
                    "{key} is not known; server.N, group.G and weight.N are"
                ));
            }
        }
        Ok(())
    }

    fn add_group(&mut self, group: i64, value: &str) -> Result<(), String> {
        let mut voters = BTreeSet::new();
        for id in value.split(':') {
            let id: i64 = integer(id.trim())?;
            let elsewhere = self
                .groups
                .iter()
                .any(|(g, ids)| *g != group && ids.contains(&id));
            if elsewhere || !voters.insert(id) {
                return Err(format!("server {id} is in multiple groups"));
            }
        }
        self.groups.insert(group, voters);
        self.hierarchical = true;
        Ok(())
    }

    /// Checks what only all lines together tell; the error names the key to look at.
    pub(super) fn check(
        &self,
        standalone_enabled: bool,
        multi_address_enabled: bool,
    ) -> Result<(), (String, String)> {
        let about = |key: String, what: String| Err((key, what));
        for (id, server) in &self.servers {
            if server.addresses.len() > 1 && !multi_address_enabled {
                let what = format!(
                    "multiple addresses were specified for server {id}, but multiAddress.enabled is not true"
                );
                return about(format!("server.{id}"), what);
            }
        }
        let observers = self.observers().count();
        match self.voters().count() {
            0 if !standalone_enabled => about(
                "standaloneEnabled".to_owned(),
                "with standaloneEnabled=false the number of participants should be > 0".to_owned(),
            ),
            0 if observers > 0 => about(
                String::new(),
                "observers w/o participants: an ensemble needs voters".to_owned(),
            ),
            1 if standalone_enabled && observers > 0 => about(
                String::new(),
                "observers w/o quorum: with a single voter, standaloneEnabled=false is needed"
                    .to_owned(),
            ),
            _ if self.hierarchical => self.check_groups(),
            _ => Ok(()),
        }
    }

    fn check_groups(&self) -> Result<(), (String, String)> {
        let grouped = |id: &i64| self.groups.values().any(|ids| ids.contains(id));
        if let Some((id, _)) = self.voters().find(|(id, _)| !grouped(id)) {
            return Err((
                format!("server.{id}"),
                format!("server {id} is not in a group"),
            ));
        }
        let mut ids = self.groups.values().flatten();
        if let Some(id) = ids.find(|id| !self.servers.contains_key(id)) {
            return Err((
                String::new(),
                format!("server {id} is in a group and has no server.{id} line"),
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Members {
    /// Writes the lines by which `zoo.cfg` describes the members, sorted, without a final line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(
            self.servers
                .iter()
                .map(|(id, server)| format!("server.{id}={server}")),
        );
        for (group, ids) in &self.groups {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            lines.push(format!("group.{group}={}", ids.join(":")));
        }
        if self.hierarchical {
            let weights = self
                .voters()
                .map(|(id, _)| format!("weight.{id}={}", self.weight(id)));
            lines.extend(weights);
        }
        lines.sort();
        f.write_str(&lines.join("\n"))
    }
}

impl FromStr for Member {
    type Err = String;

    /// Reads `host:quorumPort:electionPort[:role][|...][;[host:]clientPort]`.
    fn from_str(text: &str) -> Result<Member, String> {
        let wrong_format = || {
            format!(
                "{text:?} does not have the form host:quorumPort:electionPort[:role][|…][;[clientHost:]clientPort]"
            )
        };
        let (peers, client) = match text.split_once(';') {
            Some((peers, client)) if !client.contains(';') => (peers, Some(client)),
            Some(_) => return Err(wrong_format()),
            None => (text, None),
        };
        let mut addresses = Vec::new();
        let mut roles = BTreeMap::new();
        for peer in peers.split('|') {
            let parts = split_host(peer.trim()).ok_or_else(wrong_format)?;
            let (host, quorum, election, role) = match parts[..] {
                [host, quorum, election] => (host, quorum, election, None),
                [host, quorum, election, role] => (host, quorum, election, Some(role)),
                _ => return Err(wrong_format()),
            };
            let address = PeerAddress {
                host: host.to_owned(),
                quorum_port: port(quorum)?,
                election_port: port(election)?,
            };
            if address.quorum_port == address.election_port {
                return Err(format!(
                    "quorum and election port must be different; both are {quorum} in {text:?}"
                ));
            }
            addresses.push(address);
            if let Some(role) = role {
                roles.insert(
                    role.parse::<PeerType>()?.to_string(),
                    role.parse::<PeerType>()?,
                );
            }
        }
        if roles.len() > 1 {
            return Err(format!("the addresses in {text:?} have different roles"));
        }
        let role = roles.into_values().next().unwrap_or_default();
        let client = client
            .map(|client| client_address(client).ok_or_else(wrong_format)?)
            .transpose()?;
        Ok(Member {
            addresses,
            role,
            client,
        })
    }
}

fn client_address(text: &str) -> Option<Result<ClientAddress, String>> {
    let (host, number) = match split_host(text.trim())?[..] {
        [number] => ("0.0.0.0", number),
        [host, number] => (host, number),
        _ => return None,
    };
    Some(port(number).map(|port| ClientAddress {
        host: host.to_owned(),
        port,
    }))
}

/// Splits at colons, except within the brackets of an IPv6 address, which are taken off.
fn split_host(text: &str) -> Option<Vec<&str>> {
    let Some(rest) = text.strip_prefix('[') else {
        return Some(text.split(':').collect());
    };
    let (host, rest) = rest.split_once(']')?;
    let rest = rest.strip_prefix(':')?;
    (!host.is_empty()).then(|| [host].into_iter().chain(rest.split(':')).collect())
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            let separator = if index == 0 { "" } else { "|" };
            write!(f, "{separator}{address}")?;
        }
        write!(f, ":{}", self.role)?;
        match &self.client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            bracketed(&self.host),
            self.quorum_port,
            self.election_port
        )
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}
