//! A network of namespaces in which links between servers can be cut, made lossy and healed.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the thread's own namespace can be opened.
const OWN: &str = "/proc/thread-self/ns/net";

/// One namespace for each server, all on one switch; the thread that made the network, and those that
/// it starts from then on, sit on the switch themselves and reach every server. Nothing of it is seen
/// from outside, and all of it goes when the value is dropped.
#[derive(Debug)]
pub struct Network {
    /// What the names of all namespaces begin with.
    prefix: String,
    servers: usize,
    /// The namespace in which the thread was before.
    outside: File,
}

impl Network {
    /// A network for servers `1..=servers`.
    ///
    /// # Errors
    /// The reason why this process may not have one, or what is missing for it.
    pub fn new(servers: usize) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Network {
            prefix: format!("quorate-{}-{count}", std::process::id()),
            servers,
            outside: File::open(OWN).map_err(|error| format!("{OWN}: {error}"))?,
        };
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> Result<(), String> {
        let switch = self.name("switch");
        ip(&["netns", "add", &switch])?;
        let namespace = File::open(Path::new("/run/netns").join(&switch)).unwrap();
        enter(&namespace)?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "switch", "type", "bridge"])?;
        ip(&["address", "add", "10.0.0.254/24", "dev", "switch"])?;
        ip(&["link", "set", "switch", "up"])?;
        for id in 1..=self.servers {
            let (namespace, port) = (self.of(id), format!("port{id}"));
            ip(&["netns", "add", &namespace])?;
            ip(&[
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
            ])?;
            ip(&["link", "set", &port, "master", "switch", "up"])?;
            let inside = |arguments: &[&str]| ip(&[&["-n", &namespace], arguments].concat());
            inside(&[
                "address",
                "add",
                &format!("{}/24", self.address(id)),
                "dev",
                "eth0",
            ])?;
            inside(&["link", "set", "lo", "up"])?;
            inside(&["link", "set", "eth0", "up"])?;
        }
        // Shows at once whether packets can be dropped here.
        self.try_filter(1, &["-F"])
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    fn of(&self, id: usize) -> String {
        self.name(&id.to_string())
    }

    /// The address of a server.
    pub fn address(&self, id: usize) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, u8::try_from(id).unwrap()).into()
    }

    /// `command`, to be run where server `id` is.
    pub fn inside(&self, id: usize, command: &Command) -> Command {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", &self.of(id)])
            .arg(command.get_program())
            .args(command.get_args());
        ip
    }

    /// Loses all that `from` sends to `to` from now on, and nothing that `to` sends to `from`.
    pub fn cut(&self, from: usize, to: usize) {
        let source = self.address(from).to_string();
        self.filter(to, &["-A", "INPUT", "-s", &source, "-j", "DROP"]);
    }

    /// Loses all that the servers of one side and those of the other send each other.
    pub fn part(&self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    /// Loses so many of a hundred packets that `id` receives, from wherever.
    pub fn lose(&self, id: usize, percent: u32) {
        let share = format!("0.{percent:02}");
        let at_random = [
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            &share,
        ];
        self.filter(
            id,
            &[&["-A", "INPUT"], &at_random[..], &["-j", "DROP"]].concat(),
        );
    }

    /// Lets all that `id` sends take so many milliseconds, give or take a half.
    ///
    /// # Errors
    /// The reason, where the kernel cannot do that.
    pub fn delay(&self, id: usize, millis: u32) -> Result<(), String> {
        let (delay, jitter) = (format!("{millis}ms"), format!("{}ms", millis / 2));
        let namespace = self.of(id);
        let qdisc = ["-n", &namespace, "qdisc", "replace", "dev", "eth0", "root"];
        run(
            "tc",
            &[&qdisc[..], &["netem", "delay", &delay, &jitter]].concat(),
        )
    }

    /// Ends all cuts, losses and delays.
    pub fn heal(&self) {
        for id in 1..=self.servers {
            self.filter(id, &["-F"]);
            // Fails where there is nothing to be taken away.
            let _ = run(
                "tc",
                &["-n", &self.of(id), "qdisc", "del", "dev", "eth0", "root"],
            );
        }
    }

    fn filter(&self, id: usize, rule: &[&str]) {
        self.try_filter(id, rule).unwrap();
    }

    fn try_filter(&self, id: usize, rule: &[&str]) -> Result<(), String> {
        let namespace = self.of(id);
        ip(&[&["netns", "exec", &namespace, "iptables", "-w"], rule].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = enter(&self.outside);
        for id in 1..=self.servers {
            let _ = ip(&["netns", "del", &self.of(id)]);
        }
        let _ = ip(&["netns", "del", &self.name("switch")]);
    }
}

fn enter(namespace: &File) -> Result<(), String> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| format!("a network namespace cannot be entered: {error}"))
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let command = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{}: {error}", command()))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", command(), reason.trim()))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// A process of server `id` that listens is stood for by this thread, which goes there.
    fn listen(network: &Network, id: usize) -> TcpListener {
        let name = network.of(id);
        let address = SocketAddr::new(network.address(id), 2181);
        std::thread::spawn(move || {
            enter(&File::open(Path::new("/run/netns").join(name)).unwrap()).unwrap();
            TcpListener::bind(address).unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_cut_is_one_way_and_heals() {
        let network = match Network::new(2) {
            Ok(network) => network,
            Err(reason) => return eprintln!("not tested: {reason}"),
        };
        let listener = listen(&network, 1);
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert!(connect().is_ok(), "the switch reaches every server");
        let from_two = || {
            let name = network.of(2);
            std::thread::spawn(move || {
                enter(&File::open(Path::new("/run/netns").join(name)).unwrap()).unwrap();
                TcpStream::connect_timeout(&address, Duration::from_millis(300))
            })
            .join()
            .unwrap()
            .map(drop)
            .map_err(|error| error.kind())
        };
        assert_eq!(from_two(), Ok(()));
        network.cut(2, 1);
        assert_eq!(from_two(), Err(ErrorKind::TimedOut));
        assert!(connect().is_ok(), "nobody else is cut off");
        network.heal();
        network.cut(1, 2);
        assert_eq!(from_two(), Err(ErrorKind::TimedOut), "the answer is lost");
        network.heal();
        assert_eq!(from_two(), Ok(()));
    }
}
