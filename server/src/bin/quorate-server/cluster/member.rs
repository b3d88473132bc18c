//! One server of an ensemble: the commands that start and end it, and what it says of itself.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use quorate_server::config::Config;

use super::{
    failure, layout,
    remote::{Remote, quote},
};
use crate::{
    background,
    cli::Options,
    pid_file::{self, Holder},
    place::{LOG_FILE, OF_ONE_SERVER, PID_FILE, Place},
    status,
};

/// A server, here or on another host.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: i64,
    /// Its `zoo.cfg` on this host.
    pub(super) file: PathBuf,
    pub(super) config: Config,
    pub(super) remote: Option<Remote>,
}

/// How a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Serves(Serving),
    /// It is there and refuses to serve.
    Waits,
    /// It cannot be reached, for this reason.
    Gone(String),
}

/// What a server that serves says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) mode: String,
    pub(super) zxid: String,
    pub(super) connections: String,
}

impl Standing {
    /// Is it the one that the others follow?
    pub(super) fn leads(&self) -> bool {
        let leading = |mode: &str| mode == "leader" || mode == "standalone";
        matches!(self, Standing::Serves(serving) if leading(&serving.mode))
    }

    pub(super) fn serves(&self) -> bool {
        matches!(self, Standing::Serves(_))
    }

    fn read(answer: &str) -> Standing {
        let field = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        match field("Mode:") {
            Some(mode) => Standing::Serves(Serving {
                mode,
                zxid: field("Zxid:").unwrap_or_default(),
                connections: field("Connections:").unwrap_or_default(),
            }),
            None => Standing::Waits,
        }
    }
}

impl Member {
    pub(super) fn new(id: i64, file: PathBuf, remote: Option<Remote>) -> Member {
        let place = Place::find(file.to_str(), &Options::default());
        // What is wrong with it is told by the server when it starts.
        let config = place.read().config;
        Member {
            id,
            file,
            config,
            remote,
        }
    }

    /// Puts in place what the server needs to start: its `myid`, and on another host its `zoo.cfg`.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let my_id = self.config.data_dir.join("myid");
        let Some(remote) = &self.remote else {
            if !my_id.exists() {
                layout::create_dir(&self.config.data_dir)?;
                layout::write(&my_id, &format!("{}\n", self.id))?;
            }
            return Ok(());
        };
        let text = std::fs::read_to_string(&self.file)?;
        let (data, my_id) = (
            self.config.data_dir.to_string_lossy(),
            my_id.to_string_lossy(),
        );
        let line = format!(
            "mkdir -p {} {} && echo {} > {} && cat > {}",
            quote(&remote.dir),
            quote(&data),
            self.id,
            quote(&my_id),
            quote(&self.file_there(remote))
        );
        remote.run(&line, &text).map(drop)
    }

    fn file_there(&self, remote: &Remote) -> String {
        format!("{}/zoo.cfg", remote.dir)
    }

    /// Runs this program where the server is, on its `zoo.cfg`.
    pub(super) fn run(&self, arguments: &[String]) -> io::Result<Child> {
        let mut command = match &self.remote {
            None => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(arguments).arg(&self.file);
                // They would give all servers of this host the same files.
                OF_ONE_SERVER.iter().for_each(|name| {
                    command.env_remove(name);
                });
                command
            }
            Some(remote) => {
                let file = self.file_there(remote);
                let words = arguments.iter().chain([&file]).map(|word| quote(word));
                let words: Vec<String> = words.collect();
                remote.command(&format!("quorate-server {}", words.join(" ")))
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                failure(format!(
                    "server {}: cannot run {command:?}: {error}",
                    self.id
                ))
            })
    }

    /// Where clients connect, `host:port`; `None` if the server has no port for them.
    pub(super) fn client_address(&self) -> Option<String> {
        let member = self.config.ensemble.as_ref();
        let member = member.and_then(|ensemble| ensemble.members.servers.get(&self.id));
        let in_line = member.and_then(|member| member.client.as_ref());
        let port = self
            .config
            .client_port
            .or(in_line.map(|client| client.port))?;
        let bound = self
            .config
            .client_port_address
            .filter(|address| !address.is_unspecified());
        if let Some(address) = bound {
            return Some(SocketAddr::new(address, port).to_string());
        }
        let host = member.and_then(|member| member.addresses.first());
        let host = host.map_or("localhost", |address| address.host.as_str());
        Some(match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        })
    }

    /// Asks the server how it is.
    pub(super) fn ask(&self) -> Standing {
        let Some(address) = self.client_address() else {
            return Standing::Gone("its zoo.cfg sets no clientPort to ask it on".to_owned());
        };
        let found = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        match found.and_then(|found| status::ask(&found, "srvr")) {
            Ok(answer) => Standing::read(&answer),
            Err(error) => Standing::Gone(format!("{address}: {error}")),
        }
    }

    /// The process of the server, if it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        let path = self.config.data_dir.join(PID_FILE);
        match &self.remote {
            None => match pid_file::holder(&path) {
                Ok(Holder::Server(pid) | Holder::Apache(pid)) => Some(pid),
                _ => None,
            },
            Some(remote) => {
                let said = remote.run(&format!("cat {}", quote(&path.to_string_lossy())), "");
                said.ok()?.trim().parse().ok()
            }
        }
    }

    /// Is its process surely gone? On another host that is not found out.
    pub(super) fn has_ended(&self) -> bool {
        self.remote.is_none() && self.pid().is_none()
    }

    /// The last lines of its log, or why they cannot be read.
    pub(super) fn last_words(&self) -> String {
        let log = self.config.data_dir.join(LOG_FILE);
        let read = match &self.remote {
            None => background::last_words(&log, 0),
            Some(remote) => remote.run(&format!("tail {}", quote(&log.to_string_lossy())), ""),
        };
        read.unwrap_or_else(|error| format!("{}: {error}", log.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let answer = "Zookeeper version: 3.9.4\nConnections: 2\nZxid: 0x100000007\nMode: leader\n";
        let standing = Standing::read(answer);
        assert!(standing.leads());
        let Standing::Serves(serving) = standing else {
            panic!("it serves");
        };
        assert_eq!(
            (serving.zxid.as_str(), serving.connections.as_str()),
            ("0x100000007", "2")
        );
        let refusal = "This ZooKeeper instance is not currently serving requests\n";
        assert_eq!(Standing::read(refusal), Standing::Waits);
        assert!(Standing::read("Mode: observer").serves());
        assert!(!Standing::read("Mode: observer").leads());
    }
}
