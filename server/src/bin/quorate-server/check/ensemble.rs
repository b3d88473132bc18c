//! Checks of the ensemble: what this server needs of the others, and whether they agree with it.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quorate_server::{
    config::{Config, Ensemble, Member, Members, PeerAddress},
    probe::{self, Answer},
    zab::{Membership, Role, Sid},
};
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};

use super::{Report, network::port};
use crate::processes;

/// How long another server may take for each step of an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found at an address of another server.
struct Found {
    sid: Sid,
    address: PeerAddress,
    /// Its address, if its name has one.
    ip: io::Result<IpAddr>,
    election: io::Result<Answer>,
    quorum: io::Result<()>,
}

/// Looks at this server's own ports, and asks the other servers; `running` is the pid of the server
/// if it runs already.
pub(super) fn check(config: &Config, running: Option<u32>, report: &mut Report) {
    let Some(ensemble) = &config.ensemble else {
        return;
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report.error(
                "ensemble",
                format!("the others cannot be asked: {error}"),
                "",
            );
            return;
        }
    };
    if let Some(own) = ensemble.members.servers.get(&ensemble.my_id) {
        for address in &own.addresses {
            let resolved = runtime.block_on(resolve(address));
            own_ports(config, ensemble, address, resolved, running, report);
        }
    }
    let found = runtime.block_on(ask_all(ensemble));
    for found in &found {
        peer(ensemble, found, report);
    }
    same_ids(ensemble, &found, report);
}

/// Checks that this server can listen where the others will look for it.
fn own_ports(
    config: &Config,
    ensemble: &Ensemble,
    address: &PeerAddress,
    resolved: io::Result<IpAddr>,
    running: Option<u32>,
    report: &mut Report,
) {
    let subject = format!("server.{}", ensemble.my_id);
    let host = &address.host;
    let ip = match resolved {
        Ok(ip) => ip,
        Err(error) => {
            report.error(
                &subject,
                format!("the name of this server, {host:?}, has no address: {error}"),
                "correct the name, or see that DNS or /etc/hosts knows it",
            );
            return;
        }
    };
    let others_elsewhere = ensemble
        .members
        .servers
        .iter()
        .filter(|(sid, _)| **sid != ensemble.my_id)
        .flat_map(|(_, member)| &member.addresses)
        .any(|other| !is_local(&other.host));
    if ip.is_loopback() && others_elsewhere && !config.quorum_listen_on_all_ips {
        report.error(
            &subject,
            format!("{host} is {ip} on this machine, where no other server reaches it"),
            "let the name resolve to the address that the others use (see /etc/hosts), \
             or set quorumListenOnAllIPs=true",
        );
    }
    let ip = match config.quorum_listen_on_all_ips {
        true => IpAddr::from([0_u16; 8]),
        false => ip,
    };
    for (name, number) in [
        ("quorum port", address.quorum_port),
        ("election port", address.election_port),
    ] {
        let subject = format!("{subject} {name}");
        let wanted = SocketAddr::new(ip, number);
        let elsewhere = running.and_then(|pid| {
            let mut listeners = processes::listeners(number).into_iter();
            let own = listeners
                .find(|listener| listener.pid == Some(pid))?
                .address;
            let reaches = own.ip().is_unspecified() || own.ip().to_canonical() == ip;
            (!reaches).then_some((pid, own))
        });
        match elsewhere {
            Some((pid, own)) => report.error(
                &subject,
                format!("{host} is {ip}, and process {pid} listens on {own}"),
                "the name has got another address since the start: correct it, or restart the server",
            ),
            None => port(&subject, wanted, running, report),
        }
    }
}

/// Is that a name or an address that every machine has for itself?
fn is_local(host: &str) -> bool {
    let ip = host
        .parse()
        .is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified());
    ip || host == "localhost"
}

async fn resolve(address: &PeerAddress) -> io::Result<IpAddr> {
    let mut found = lookup_host((address.host.as_str(), address.quorum_port)).await?;
    let first = found.next().ok_or(ErrorKind::NotFound)?;
    Ok(first.ip())
}

/// Asks all servers but this one, at the same time.
async fn ask_all(ensemble: &Ensemble) -> Vec<Found> {
    let mut asked = JoinSet::new();
    for (sid, member) in &ensemble.members.servers {
        for address in &member.addresses {
            if *sid != ensemble.my_id {
                let membership = Membership::from(ensemble);
                asked.spawn(ask(*sid, address.clone(), membership));
            }
        }
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|found| found.sid);
    found
}

async fn ask(sid: Sid, address: PeerAddress, membership: Membership) -> Found {
    let ip = resolve(&address).await;
    let unresolved = || Err(ErrorKind::NotFound.into());
    let (election, quorum) = match &ip {
        Err(_) => (unresolved(), Err(ErrorKind::NotFound.into())),
        Ok(ip) => {
            let election = SocketAddr::new(*ip, address.election_port);
            let quorum = SocketAddr::new(*ip, address.quorum_port);
            let connected = timeout(PATIENCE, TcpStream::connect(quorum));
            tokio::join!(probe::ask(election, &membership, PATIENCE), async {
                match connected.await {
                    Ok(connected) => connected.map(drop),
                    Err(_) => Err(ErrorKind::TimedOut.into()),
                }
            })
        }
    };
    Found {
        sid,
        address,
        ip,
        election,
        quorum,
    }
}

/// Says what was found of another server.
fn peer(ensemble: &Ensemble, found: &Found, report: &mut Report) {
    let subject = format!("server.{}", found.sid);
    let PeerAddress {
        host,
        quorum_port,
        election_port,
        ..
    } = &found.address;
    let ip = match &found.ip {
        Ok(ip) => ip,
        Err(_) => {
            return report.warning(
                &subject,
                format!("the host {host:?} has no address"),
                "correct the name, or see that DNS or /etc/hosts knows it",
            );
        }
    };
    let answer = match &found.election {
        Ok(answer) => answer,
        Err(error) => {
            return report.warning(
                &subject,
                format!("{host} is {ip}, and its election port {election_port} cannot be reached: {error}"),
                "start that server, or see that no firewall is between",
            );
        }
    };
    let Some(vote) = &answer.vote else {
        return report.warning(
            &subject,
            format!(
                "what listens at {host}:{election_port} does not answer as a server of an ensemble"
            ),
            "see that the line names the right host, and the election port last",
        );
    };
    let state = match vote.state {
        Role::Looking => "looks for a leader".to_owned(),
        Role::Leading => "leads".to_owned(),
        Role::Following | Role::Observing => format!("follows server {}", vote.leader),
    };
    report.ok(&subject, format!("{host} is {ip}; it {state}"));
    match &found.quorum {
        // Apache's servers open this port only while they lead.
        Err(error)
            if error.kind() != ErrorKind::ConnectionRefused || vote.state == Role::Leading =>
        {
            report.error(
                &subject,
                format!("its quorum port {quorum_port} cannot be reached: {error}"),
                "see that no firewall is between: a follower connects to it when that server leads",
            );
        }
        _ => {}
    }
    let text = String::from_utf8_lossy(&vote.config);
    match text.parse() {
        Ok(theirs) => same_lists(&subject, ensemble, &theirs, report),
        Err(error) => report.warning(
            &subject,
            format!("its configuration cannot be read: {error}"),
            "",
        ),
    }
}

/// Compares the servers of another server's configuration with this one's.
fn same_lists(subject: &str, ensemble: &Ensemble, theirs: &Membership, report: &mut Report) {
    let differences = differences(&ensemble.members, &theirs.members);
    if differences.is_empty() {
        return;
    }
    let what = differences.join("; ");
    if theirs.version > ensemble.version {
        report.warning(
            subject,
            format!(
                "its configuration is newer (version {:x}): {what}",
                theirs.version
            ),
            "this server takes it over when it joins; until then the line of each must reach the other",
        );
    } else {
        report.error(
            subject,
            format!("its list of servers is another: {what}"),
            "let all servers have the same server.N, group and weight lines",
        );
    }
}

/// What a server has otherwise than this one, in words.
fn differences(ours: &Members, theirs: &Members) -> Vec<String> {
    let mut found = Vec::new();
    let sids = ours.servers.keys().chain(theirs.servers.keys());
    let mut sids: Vec<&Sid> = sids.collect();
    sids.sort();
    sids.dedup();
    for sid in sids {
        match (ours.servers.get(sid), theirs.servers.get(sid)) {
            (Some(_), None) => found.push(format!("server.{sid} is missing there")),
            (None, Some(_)) => found.push(format!("server.{sid} is missing here")),
            (Some(here), Some(there)) if !same_member(here, there) => {
                found.push(format!("server.{sid} is {here} here and {there} there"));
            }
            _ => {}
        }
    }
    if ours.groups != theirs.groups || ours.weights != theirs.weights {
        found.push("the groups or weights differ".to_owned());
    }
    found
}

/// Where clients are served is no part of it: that may stand elsewhere. Neither is a host that a
/// server gives itself to listen on all addresses.
fn same_member(here: &Member, there: &Member) -> bool {
    let is_wildcard = |host: &str| host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    let same_address = |(here, there): (&PeerAddress, &PeerAddress)| {
        let same_host =
            here.host == there.host || is_wildcard(&here.host) || is_wildcard(&there.host);
        let same_ports =
            (here.quorum_port, here.election_port) == (there.quorum_port, there.election_port);
        same_host && same_ports
    };
    here.role == there.role
        && here.addresses.len() == there.addresses.len()
        && here
            .addresses
            .iter()
            .zip(&there.addresses)
            .all(same_address)
}

/// Checks that each server has the id of its line, and no two the same.
fn same_ids(ensemble: &Ensemble, found: &[Found], report: &mut Report) {
    // By the id that a server says, and the one of its line: a line may have several addresses.
    let mut said: BTreeMap<Sid, BTreeMap<Sid, String>> = BTreeMap::new();
    let my_id = ensemble.my_id;
    said.insert(my_id, BTreeMap::from([(my_id, "this server".to_owned())]));
    for found in found {
        let Ok(Answer { sid: Some(sid), .. }) = &found.election else {
            continue;
        };
        let PeerAddress {
            host,
            election_port,
            ..
        } = &found.address;
        let one = format!("the one at {host}:{election_port}");
        said.entry(*sid).or_default().insert(found.sid, one);
        if *sid != found.sid {
            report.error(
                &format!("server.{}", found.sid),
                format!("the server at {host}:{election_port} says that it is server {sid}"),
                "let the number in its file myid and the server.N lines of all servers agree",
            );
        }
    }
    for (sid, servers) in said.iter().filter(|(_, servers)| servers.len() > 1) {
        let servers: Vec<&str> = servers.values().map(String::as_str).collect();
        report.error(
            "myid",
            format!("{} have the id {sid}", servers.join(" and ")),
            "give each server a number of its own in its file myid",
        );
    }
}
