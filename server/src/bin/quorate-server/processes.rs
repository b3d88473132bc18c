//! What the system tells about processes, and who holds a port.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// Says whether process `pid` is there and not a mere entry that waits for its parent.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(proc_path(pid, "stat")).unwrap_or_default();
    // The fields follow the name, which is in parentheses and may itself hold some.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = fields.split_whitespace();
    let dead = matches!(fields.next(), Some("Z" | "X"));
    // The first thread may be dead while others still hold files and ports.
    const THREADS: usize = 16;
    let others = fields
        .nth(THREADS)
        .is_some_and(|threads| threads != "0" && threads != "1");
    !dead || others
}

/// The command line of process `pid`, arguments separated by blanks; `None` if it cannot be read.
pub(crate) fn command_line(pid: u32) -> Option<String> {
    let raw = fs::read(proc_path(pid, "cmdline")).ok()?;
    let arguments: Vec<_> = raw
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    (!arguments.is_empty()).then(|| shorten(&arguments.join(" ")))
}

/// Says whether process `pid` is a server of Apache ZooKeeper.
pub(crate) fn is_apache(pid: u32) -> bool {
    let classes = ["QuorumPeerMain", "ZooKeeperServerMain"];
    let raw = fs::read(proc_path(pid, "cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&raw);
    classes.iter().any(|class| line.contains(class))
}

/// A process that listens on a port.
pub(crate) struct Listener {
    /// The address that it is bound to.
    pub(crate) address: SocketAddr,
    /// Its pid, if this user may look.
    pub(crate) pid: Option<u32>,
}

impl Listener {
    /// The process in words.
    pub(crate) fn describe(&self) -> String {
        match self.pid {
            Some(pid) => match command_line(pid) {
                Some(command) => format!("process {pid} ({command})"),
                None => format!("process {pid}"),
            },
            None => "a process of another user".to_owned(),
        }
    }
}

/// The listeners on TCP port `port`, whatever their address.
pub(crate) fn listeners(port: u16) -> Vec<Listener> {
    let mut found: Vec<(SocketAddr, u64)> = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(table).unwrap_or_default();
        found.extend(table.lines().skip(1).filter_map(parse_listener));
    }
    found.retain(|(address, _)| address.port() == port);
    let owners = |inode: u64| owner_of_socket(inode);
    found
        .into_iter()
        .map(|(address, inode)| Listener {
            address,
            pid: owners(inode),
        })
        .collect()
}

/// Who holds TCP port `port`, in words.
pub(crate) fn holders(port: u16) -> String {
    let holders: Vec<String> = listeners(port)
        .iter()
        .map(|listener| format!("{} at {}", listener.describe(), listener.address))
        .collect();
    match holders.is_empty() {
        true => "an unknown process".to_owned(),
        false => holders.join(", "),
    }
}

/// Address and inode of a listening socket in a line of `/proc/net/tcp` or `/proc/net/tcp6`.
fn parse_listener(line: &str) -> Option<(SocketAddr, u64)> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != LISTENING {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((
        SocketAddr::new(parse_address(address)?, port),
        inode.parse().ok()?,
    ))
}

/// The kernel writes an address as hexadecimal 32-bit words of the machine's own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        Some(u32::from_be(u32::from_str_radix(digits, 16).ok()?))
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from_bits(word(0)?))),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bits = words
                .into_iter()
                .fold(0u128, |bits, word| bits << 32 | u128::from(word));
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
        _ => None,
    }
}

fn owner_of_socket(inode: u64) -> Option<u32> {
    let link = PathBuf::from(format!("socket:[{inode}]"));
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(proc_path(*pid, "fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .into_iter()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == link))
    };
    pids().into_iter().find(holds)
}

fn pids() -> HashSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn proc_path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// The beginning of a text that may be long, such as the class path of a JVM.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let bound = listener.local_addr().unwrap();
            let found = listeners(bound.port());
            let mine = found.iter().find(|found| found.address == bound).unwrap();
            assert_eq!(mine.pid, Some(std::process::id()));
            assert!(
                mine.describe()
                    .starts_with(&format!("process {}", std::process::id()))
            );
        }
    }

    #[test]
    fn this_process_runs_and_an_impossible_one_does_not() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
        assert!(!is_apache(std::process::id()));
    }
}
