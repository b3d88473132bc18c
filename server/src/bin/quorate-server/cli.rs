//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// A server of the ZooKeeper family.
///
/// It reads the zoo.cfg and the data directory of Apache ZooKeeper and serves the same clients.
/// CONFIG is the path of a file of settings, a directory with a zoo.cfg, or a name in the
/// directory of settings (--config, or ZOOCFGDIR, or conf beside the program's directory or here,
/// or /etc/zookeeper/conf). Without it, ZOOCFG or zoo.cfg in that directory is read, or, where
/// --data-dir is given, no file at all. Flags win over the file, the file over JVM options.
#[derive(Debug, Parser)]
#[command(
    name = "quorate-server",
    version,
    override_usage = USAGE,
    after_help = EXAMPLES,
    subcommand_precedence_over_arg = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Run in the foreground with these settings; or with a port, a data directory, a tick in ms
    /// and connections per client address instead of a file
    #[arg(value_name = "CONFIG | PORT DATADIR", num_args = 0..=4)]
    pub(crate) server: Vec<String>,

    #[command(flatten)]
    pub(crate) options: Options,
}

const USAGE: &str = "\
quorate-server [OPTIONS] COMMAND [CONFIG]
       quorate-server [OPTIONS] CONFIG
       quorate-server [OPTIONS] PORT DATADIR [TICK] [CNXNS]";

const EXAMPLES: &str = "\
Examples:
  Try a server out, with its data in /tmp/zk:
      quorate-server --client-port 2181 --data-dir /tmp/zk
  Look for what is wrong before the start, then start in the background:
      quorate-server check /etc/zookeeper/conf/zoo.cfg
      quorate-server start /etc/zookeeper/conf/zoo.cfg
  See whether it serves, and end it:
      quorate-server status
      quorate-server stop
  Run under a supervisor (systemd: Type=notify), with one setting changed:
      quorate-server start-foreground zoo.cfg --set snapCount=50000
  Three servers on this host, to which clients connect on the ports 2181 to 2183:
      quorate-server cluster start --nodes 3
  What a key means, and its default:
      quorate-server settings snapCount

Environment:
  ZOOCFGDIR, ZOOCFG    directory and name of the file of settings
  ZOOPIDFILE           pid file, instead of zookeeper_server.pid in dataDir
  ZOO_LOG_DIR          directory of the log of `start`, instead of dataDir
  ZOO_LOG_FILE         its name, instead of quorate-server.log
  SERVER_JVMFLAGS, JVMFLAGS
                       -Dzookeeper.KEY=VALUE options in them are honoured
  ZOO_DATADIR_AUTOCREATE_DISABLE
                       if not empty, missing data directories are not created
  RUST_LOG             what is logged, unless --log is given";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start in the background, and wait until the server can be reached
    ///
    /// A server that stands alone serves by then. A member of an ensemble does once it finds enough
    /// of the others; `status` tells.
    Start {
        #[command(flatten)]
        target: Target,
        /// Seconds to wait for the server to serve; reading a large data directory takes time
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// Run in the foreground, logging to standard error
    StartForeground {
        #[command(flatten)]
        target: Target,
        /// Leave the session of the terminal; given by `start`
        #[arg(long, hide = true)]
        detach: bool,
    },
    /// End the server that `start` or `start-foreground` started, and wait until it is gone
    Stop {
        #[command(flatten)]
        target: Target,
        /// Seconds to wait for its end
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// Stop, then start
    Restart {
        #[command(flatten)]
        target: Target,
        /// Seconds to wait for the end, and again for the start
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// Ask the server whether it serves, and as what; exit code 1 if it does not
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// Look for everything that keeps a server from running well, and say what to do
    ///
    /// Settings, directories, disk space, ports and who holds them, pid file, myid, data files and
    /// the clock are looked at; nothing is changed. Exit code 1 if there is an error.
    Check {
        #[command(flatten)]
        target: Target,
    },
    /// Remove old snapshots, and the logs that no remaining snapshot needs
    Purge {
        #[command(flatten)]
        target: Target,
        /// Snapshots to keep, 3 at least; the setting autopurge.snapRetainCount if not given
        #[arg(long, value_name = "N")]
        keep: Option<u32>,
    },
    /// Run a whole ensemble: all of it on this host, or by ssh on several
    ///
    /// Each server has a directory with its zoo.cfg, which the first start writes and which is
    /// yours from then on. What is known of one server works on each of them, as in
    /// `quorate-server status quorate-cluster/server-1/zoo.cfg`.
    #[command(subcommand, after_help = CLUSTER_EXAMPLES)]
    Cluster(ClusterCommand),
    /// List the settings: key, default, unit and meaning
    Settings {
        /// Only keys that contain this text, in any case
        #[arg(value_name = "TEXT")]
        filter: Option<String>,
    },
    /// Print the version
    Version,
}

/// The configuration that a command is about.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// File of settings, directory with a zoo.cfg, or name in the directory of settings
    #[arg(value_name = "CONFIG")]
    pub(crate) config: Option<String>,
}

const CLUSTER_EXAMPLES: &str = "\
Examples:
  Five servers below /tmp/zk, on ports that the system chooses; then how they are, and their end:
      quorate-server cluster start --nodes 5 --dir /tmp/zk \\
          --client-port 0 --quorum-port 0 --election-port 0
      quorate-server cluster status --dir /tmp/zk
      quorate-server cluster stop --dir /tmp/zk
  After a change of the files zoo.cfg, one server after the other:
      quorate-server cluster restart --dir /tmp/zk
  Three hosts that have this program in the PATH:
      quorate-server cluster start --hosts zk1,zk2,zk3 --dir quorate";

/// What to do with an ensemble.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start every server that does not run, and wait until all of them serve
    Start {
        #[command(flatten)]
        place: ClusterPlace,
        #[command(flatten)]
        plan: Plan,
        #[command(flatten)]
        patience: Patience,
    },
    /// End every server, the leader last
    Stop {
        #[command(flatten)]
        place: ClusterPlace,
        #[command(flatten)]
        patience: Patience,
    },
    /// Stop and start one server after the other, the leader last, so that the ensemble serves on
    Restart {
        #[command(flatten)]
        place: ClusterPlace,
        #[command(flatten)]
        patience: Patience,
    },
    /// Tell how each server is; exit code 1 if one of them does not serve
    Status {
        #[command(flatten)]
        place: ClusterPlace,
    },
}

/// Where an ensemble is described.
#[derive(Debug, Args)]
pub(crate) struct ClusterPlace {
    /// Directory that holds a directory for each server; the same on every host
    #[arg(long, value_name = "DIR", default_value = "quorate-cluster")]
    pub(crate) dir: PathBuf,
    /// Runs a command on another host, given the host and the command
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    pub(crate) ssh: String,
}

/// How long a change of a server may take.
#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// Seconds to wait for the start, and for the end, of a server
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u64,
}

/// What an ensemble is to be, if the directory does not hold one yet.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// How many servers, all on this host; 3 if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub(crate) nodes: Option<u16>,
    /// A server on each of these hosts, as ssh knows them
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', conflicts_with_all = ["nodes", "host"])]
    pub(crate) hosts: Vec<String>,
    /// Name or address of this host that the servers are bound to
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port of the first server for its followers; the next ones have the ports behind it; 0 lets
    /// the system choose, and so does --client-port 0, which is 2181 if not given
    #[arg(long, value_name = "PORT", default_value_t = 2888)]
    pub(crate) quorum_port: u16,
    /// Port of the first server for elections, likewise
    #[arg(long, value_name = "PORT", default_value_t = 3888)]
    pub(crate) election_port: u16,
}

/// Flags that every command takes.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Directory of settings, in which CONFIG is looked for
    #[arg(long = "config", value_name = "CONFDIR", global = true)]
    pub(crate) config_dir: Option<PathBuf>,
    /// Directory of the data (dataDir)
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<String>,
    /// Directory of the transaction log (dataLogDir)
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_log_dir: Option<String>,
    /// Port for clients (clientPort); 0 lets the system choose
    #[arg(long, value_name = "PORT", global = true)]
    pub(crate) client_port: Option<String>,
    /// Address of the port for clients (clientPortAddress)
    #[arg(long, value_name = "HOST", global = true)]
    pub(crate) client_address: Option<String>,
    /// Any setting, as in zoo.cfg; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub(crate) set: Vec<String>,
    /// What is logged: error, warn, info, debug, trace, or targets as in quorate_server::net=debug
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log: Option<String>,
    /// Directory of the log of `start`
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) log_dir: Option<PathBuf>,
    /// File that holds the pid of the running server
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) pid_file: Option<PathBuf>,
}

impl Options {
    /// The flags that stand for a setting: flag, key and value.
    pub(crate) fn settings(&self) -> Vec<(String, String, String)> {
        let named = [
            ("--data-dir", "dataDir", &self.data_dir),
            ("--data-log-dir", "dataLogDir", &self.data_log_dir),
            ("--client-port", "clientPort", &self.client_port),
            (
                "--client-address",
                "clientPortAddress",
                &self.client_address,
            ),
        ];
        let named = named.into_iter().filter_map(|(flag, key, value)| {
            let value = value.as_ref()?;
            Some((flag.to_owned(), key.to_owned(), value.clone()))
        });
        let set = self.set.iter().map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                format!("--set {pair}"),
                key.trim().to_owned(),
                value.trim().to_owned(),
            )
        });
        named.chain(set).collect()
    }

    /// The flags among them that name the place of one server.
    pub(crate) fn of_one_server(&self) -> Vec<&'static str> {
        let given = [
            ("--config", self.config_dir.is_some()),
            ("--data-dir", self.data_dir.is_some()),
            ("--data-log-dir", self.data_log_dir.is_some()),
            ("--client-address", self.client_address.is_some()),
            ("--log-dir", self.log_dir.is_some()),
            ("--pid-file", self.pid_file.is_some()),
        ];
        given
            .into_iter()
            .filter_map(|(flag, given)| given.then_some(flag))
            .collect()
    }

    /// The same flags as arguments for another run of this program.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        let mut push = |flag: &str, value: Option<OsString>| {
            if let Some(value) = value {
                args.push(OsString::from(flag));
                args.push(value);
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let path = |value: &Option<PathBuf>| value.as_ref().map(OsString::from);
        push("--config", path(&self.config_dir));
        push("--data-dir", text(&self.data_dir));
        push("--data-log-dir", text(&self.data_log_dir));
        push("--client-port", text(&self.client_port));
        push("--client-address", text(&self.client_address));
        for pair in &self.set {
            push("--set", Some(OsString::from(pair)));
        }
        push("--log", text(&self.log));
        push("--log-dir", path(&self.log_dir));
        push("--pid-file", path(&self.pid_file));
        args
    }
}
