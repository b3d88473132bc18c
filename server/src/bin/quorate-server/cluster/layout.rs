//! The files of an ensemble: below its directory one for each server, `server-1`, `server-2`, …,
//! with the `zoo.cfg` of that server, which is written once and then left to its user.

use std::{
    fmt::Write as _,
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
};

use super::{failure, member::Member, remote::Remote};
use crate::{
    cli::{ClusterPlace, Plan},
    place::absolute,
    processes,
};

/// Tells which servers run on other hosts: a line each of id, host and directory.
const HOSTS_FILE: &str = "hosts";

/// The servers whose `zoo.cfg` is there, in the order of their ids.
pub(super) fn open(place: &ClusterPlace) -> io::Result<Vec<Member>> {
    let mut remotes = read_hosts(place)?;
    let mut members = Vec::new();
    let entries = match fs::read_dir(&place.dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(members),
        Err(error) => return Err(about(&place.dir, "read", &error)),
    };
    for entry in entries {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| id_of(name.to_str()?));
        let file = path.join("zoo.cfg");
        if let Some(id) = id.filter(|_| file.is_file()) {
            let at = remotes.iter().position(|(of, _)| *of == id);
            let remote = at.map(|at| remotes.swap_remove(at).1);
            members.push(Member::new(id, file, remote));
        }
    }
    members.sort_by_key(|member| member.id);
    Ok(members)
}

fn id_of(directory: &str) -> Option<i64> {
    directory.strip_prefix("server-")?.parse().ok()
}

fn read_hosts(place: &ClusterPlace) -> io::Result<Vec<(i64, Remote)>> {
    let path = place.dir.join(HOSTS_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(about(&path, "read", &error)),
    };
    let lines = text.lines().zip(1..).map(|(line, number)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let mut words = line.splitn(3, ' ');
        let id = words.next().and_then(|id| id.parse().ok());
        match (id, words.next(), words.next()) {
            (Some(id), Some(host), Some(dir)) => Ok(Some((id, Remote::new(&place.ssh, host, dir)))),
            _ => Err(failure(format!(
                "{}:{number}: {line:?} is not ID HOST DIRECTORY",
                path.display()
            ))),
        }
    });
    lines.filter_map(Result::transpose).collect()
}

/// Writes the files of a new ensemble.
pub(super) fn create(place: &ClusterPlace, plan: &Plan, client_port: u16) -> io::Result<()> {
    let servers = match plan.hosts.is_empty() {
        true => on_this_host(&absolute(&place.dir), plan, client_port)?,
        false => on_hosts(place, plan, client_port)?,
    };
    let lines: String = servers
        .iter()
        .map(|server| {
            let (host, ports) = (bracketed(&server.host), server.ports);
            format!(
                "server.{}={host}:{}:{}\n",
                server.id, ports.quorum, ports.election
            )
        })
        .collect();
    for server in &servers {
        let dir = place.dir.join(format!("server-{}", server.id));
        create_dir(&dir)?;
        let text = zoo_cfg(server, servers.len(), &lines)?;
        write(&dir.join("zoo.cfg"), &text)?;
    }
    let hosts: String = servers
        .iter()
        .filter_map(|server| Some((server, server.remote.as_ref()?)))
        .map(|(server, remote)| format!("{} {} {}\n", server.id, remote.host, remote.dir))
        .collect();
    if !hosts.is_empty() {
        let heading = "# Where the servers run: id, host as ssh knows it, directory there.\n";
        write(&place.dir.join(HOSTS_FILE), &format!("{heading}{hosts}"))?;
    }
    Ok(())
}

/// A server that is to be.
struct Server {
    id: usize,
    /// How the other servers reach it.
    host: String,
    /// Whether it serves clients at that host only, and not at all addresses of its machine.
    bound: bool,
    ports: Ports,
    data: PathBuf,
    remote: Option<Remote>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    client: u16,
    quorum: u16,
    election: u16,
}

fn on_this_host(dir: &Path, plan: &Plan, client_port: u16) -> io::Result<Vec<Server>> {
    let nodes = usize::from(plan.nodes.unwrap_or(3));
    let mut taken = Vec::new();
    let mut choose = |name: &str, base: u16| -> io::Result<Vec<u16>> {
        let ports = (0..nodes).map(|index| free_port(&plan.host, name, base, index, &mut taken));
        ports.collect()
    };
    let client = choose("client", client_port)?;
    let quorum = choose("quorum", plan.quorum_port)?;
    let election = choose("election", plan.election_port)?;
    let servers = (0..nodes).map(|index| Server {
        id: index + 1,
        host: plan.host.clone(),
        bound: true,
        ports: Ports {
            client: client[index],
            quorum: quorum[index],
            election: election[index],
        },
        data: dir.join(format!("server-{}", index + 1)).join("data"),
        remote: None,
    });
    Ok(servers.collect())
}

/// Chooses the port at `index` behind `base`. It stays in `taken`, so that no two are the same.
fn free_port(
    host: &str,
    name: &str,
    base: u16,
    index: usize,
    taken: &mut Vec<TcpListener>,
) -> io::Result<u16> {
    let port = match base {
        0 => Some(0),
        base => u16::try_from(index)
            .ok()
            .and_then(|index| base.checked_add(index)),
    };
    let port = port.ok_or_else(|| {
        failure(format!(
            "there is no port {base} + {index}; choose a lower --{name}-port"
        ))
    })?;
    let listener = TcpListener::bind((host, port)).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => failure(format!(
            "the {name} port {port} of server {} is taken by {}; choose others by --{name}-port, \
             where 0 lets the system choose",
            index + 1,
            processes::holders(port)
        )),
        _ => failure(format!(
            "cannot listen on {host}:{port}: {error}; see --host and --{name}-port"
        )),
    })?;
    let port = listener.local_addr()?.port();
    taken.push(listener);
    Ok(port)
}

fn on_hosts(place: &ClusterPlace, plan: &Plan, client_port: u16) -> io::Result<Vec<Server>> {
    let ports = Ports {
        client: client_port,
        quorum: plan.quorum_port,
        election: plan.election_port,
    };
    if [ports.client, ports.quorum, ports.election].contains(&0) {
        return Err(failure(
            "port 0 lets the system choose, which is possible on this host only; name the ports \
             of the servers on other hosts"
                .to_owned(),
        ));
    }
    let servers = plan.hosts.iter().zip(1..).map(|(target, id)| {
        let dir = place.dir.join(format!("server-{id}"));
        let remote = Remote::found(&place.ssh, target, text(&dir)?)?;
        let host = target
            .rsplit_once('@')
            .map_or(target.as_str(), |(_, host)| host);
        Ok(Server {
            id,
            host: host.to_owned(),
            // An address says what to bind to. A name may mean the loopback address on its own host.
            bound: host.parse::<IpAddr>().is_ok(),
            ports,
            data: Path::new(&remote.dir).join("data"),
            remote: Some(remote),
        })
    });
    servers.collect()
}

/// The configuration of one server, as Apache's servers read it too.
fn zoo_cfg(server: &Server, servers: usize, lines: &str) -> io::Result<String> {
    let Server { id, host, .. } = server;
    let place = match &server.remote {
        Some(remote) => format!(
            "on the host {}, to which every start of the ensemble copies this file",
            remote.host
        ),
        None => "on this host".to_owned(),
    };
    // A backslash begins an escape in a file of properties.
    let data = text(&server.data)?.replace('\\', "\\\\");
    let mut file = format!(
        "# Server {id} of {servers}, {place}.\n\
         # Written once by `quorate-server cluster start`; what you change stays.\n\
         # `quorate-server settings` explains every key.\n\
         \n\
         # Data, log and the file myid, which holds this server's number: {id}\n\
         dataDir={data}\n\
         \n\
         # Where clients connect\n\
         clientPort={}\n",
        server.ports.client
    );
    if server.bound {
        let _ = writeln!(file, "clientPortAddress={host}");
    }
    let _ = write!(
        file,
        "\n\
         # The unit of time in ms; the ticks that a follower has to connect and to copy the data;\n\
         # and the ticks that it may then lag behind\n\
         tickTime=2000\n\
         initLimit=10\n\
         syncLimit=5\n\
         \n\
         # Every server: host, port for its followers, port for elections; the same in each zoo.cfg\n\
         {lines}"
    );
    Ok(file)
}

fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

fn text(path: &Path) -> io::Result<&str> {
    let unusual = || {
        failure(format!(
            "{} is not UTF-8; choose another --dir",
            path.display()
        ))
    };
    path.to_str().ok_or_else(unusual)
}

pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path).map_err(|error| about(path, "create", &error))
}

pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| about(path, "write", &error))
}

fn about(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {what} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use quorate_server::config::Source;

    use super::*;

    fn plan(nodes: u16, port: u16) -> Plan {
        Plan {
            nodes: Some(nodes),
            hosts: Vec::new(),
            host: "127.0.0.1".to_owned(),
            quorum_port: port,
            election_port: 0,
        }
    }

    #[test]
    fn what_is_written_is_a_configuration_without_remarks() {
        let dir = tempfile::TempDir::new().unwrap();
        let place = ClusterPlace {
            dir: dir.path().join("a \\ b"),
            ssh: String::new(),
        };
        create(&place, &plan(5, 0), 0).unwrap();
        let members = open(&place).unwrap();
        assert_eq!(
            members.iter().map(|member| member.id).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        let mut ports = Vec::new();
        for member in &members {
            member.prepare().unwrap();
            let loaded = Source::file(&member.file).load().unwrap();
            assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
            let ensemble = loaded.config.ensemble.unwrap();
            assert_eq!(
                (ensemble.my_id, ensemble.members.voters().count()),
                (member.id, 5)
            );
            let own = &ensemble.members.servers[&member.id].addresses[0];
            ports.extend([
                own.quorum_port,
                own.election_port,
                loaded.config.client_port.unwrap(),
            ]);
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 15, "{ports:?}");
    }

    #[test]
    fn ports_that_are_taken_or_impossible_are_said() {
        let dir = tempfile::TempDir::new().unwrap();
        let place = ClusterPlace {
            dir: dir.path().to_owned(),
            ssh: String::new(),
        };
        let said = |plan| create(&place, &plan, 0).unwrap_err().to_string();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = said(plan(1, port));
        assert!(error.contains(&format!(
            "quorum port {port} of server 1 is taken by process"
        )));
        assert!(error.contains("--quorum-port"), "{error}");
        assert!(said(plan(2, u16::MAX)).contains("there is no port 65535 + 1"));
        assert!(open(&place).unwrap().is_empty());
    }
}
