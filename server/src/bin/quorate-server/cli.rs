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
    /// Start in the background, and wait until the server serves
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
