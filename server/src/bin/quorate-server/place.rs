//! Where things are: the file of settings, the pid file and the log.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
};

use quorate_server::config::{Config, ConfigError, Reading, Source};

use crate::cli::Options;

/// The settings of one server, and the files that belong to its process.
pub(crate) struct Place {
    /// The file of settings; `None` if flags are all.
    pub(crate) file: Option<PathBuf>,
    source: Source,
}

impl Place {
    /// Finds the settings that `target` and the environment name.
    pub(crate) fn find(target: Option<&str>, options: &Options) -> Place {
        // Flags that say where the data is are all there is, unless a file is named beside them.
        let named = target.is_some()
            || named_settings_dir(options).is_some()
            || env_path("ZOOCFG").is_some();
        let file = (named || options.data_dir.is_none()).then(|| find_file(target, options));
        let mut source = match &file {
            Some(file) => Source::file(file),
            None => Source::defaults(),
        };
        source = with_environment(source);
        for (flag, key, value) in options.settings() {
            source = source.flag(&flag, &key, &value);
        }
        Place { file, source }
    }

    /// Takes the arguments PORT DATADIR [TICK] [CNXNS] for settings. Without CNXNS a client address
    /// may open any number of connections, as in this form it always could.
    pub(crate) fn from_arguments(arguments: &[String], options: &Options) -> Place {
        let names = [
            ("PORT", "clientPort"),
            ("DATADIR", "dataDir"),
            ("TICK", "tickTime"),
        ];
        let mut source = with_environment(Source::defaults());
        for ((name, key), value) in names.iter().zip(arguments) {
            source = source.flag(name, key, value);
        }
        let cnxns = arguments.get(3).map_or("0", String::as_str);
        source = source.flag("CNXNS", "maxClientCnxns", cnxns);
        for (flag, key, value) in options.settings() {
            source = source.flag(&flag, &key, &value);
        }
        Place { file: None, source }
    }

    /// Reads the settings as far as they can be read.
    pub(crate) fn read(&self) -> Reading {
        self.source.clone().read()
    }

    /// Reads settings with which a server can run.
    pub(crate) fn load(&self) -> Result<quorate_server::config::Loaded, ConfigError> {
        self.source.clone().load()
    }

    /// Tells which file is used, as `zkServer.sh` does.
    pub(crate) fn announce(&self) {
        if let Some(file) = &self.file {
            let _ = writeln!(io::stderr(), "Using config: {}", file.display());
        }
    }
}

/// Names of the files in the data directory, unless the environment or a flag has others.
pub(crate) const PID_FILE: &str = "zookeeper_server.pid";
pub(crate) const LOG_FILE: &str = "quorate-server.log";
/// The environment variables that give them other names and places.
pub(crate) const OF_ONE_SERVER: [&str; 3] = ["ZOOPIDFILE", "ZOO_LOG_DIR", "ZOO_LOG_FILE"];

/// The file that holds the pid of the server that uses `config`.
pub(crate) fn pid_file(config: &Config, options: &Options) -> PathBuf {
    let named = options.pid_file.clone().or_else(|| env_path("ZOOPIDFILE"));
    named.unwrap_or_else(|| config.data_dir.join(PID_FILE))
}

/// The file that a server in the background logs to.
pub(crate) fn log_file(config: &Config, options: &Options) -> PathBuf {
    let directory = options.log_dir.clone().or_else(|| env_path("ZOO_LOG_DIR"));
    let name = env_path("ZOO_LOG_FILE").unwrap_or_else(|| PathBuf::from(LOG_FILE));
    directory
        .unwrap_or_else(|| config.data_dir.clone())
        .join(name)
}

fn with_environment(mut source: Source) -> Source {
    // zkServer.sh puts JVMFLAGS behind SERVER_JVMFLAGS, where it wins.
    for variable in ["SERVER_JVMFLAGS", "JVMFLAGS"] {
        if let Ok(content) = env::var(variable) {
            source = source.environment(variable, &content);
        }
    }
    const NO_AUTOCREATE: &str = "ZOO_DATADIR_AUTOCREATE_DISABLE";
    if env::var_os(NO_AUTOCREATE).is_some_and(|value| !value.is_empty()) {
        source = source.environment(NO_AUTOCREATE, "-Dzookeeper.datadir.autocreate=false");
    }
    source
}

fn find_file(target: Option<&str>, options: &Options) -> PathBuf {
    let named = named_settings_dir(options);
    let directory = settings_dir(options);
    let file = match target {
        None => directory.join(env_path("ZOOCFG").unwrap_or_else(|| PathBuf::from("zoo.cfg"))),
        Some(path) if path.contains('/') => PathBuf::from(path),
        Some(name) => {
            // A directory that somebody named comes before the current one, a usual one after it.
            let (here, there) = (PathBuf::from(name), directory.join(name));
            let (first, second) = if named.is_some() {
                (there, here)
            } else {
                (here, there)
            };
            if first.exists() || !second.exists() {
                first
            } else {
                second
            }
        }
    };
    if file.is_dir() {
        file.join("zoo.cfg")
    } else {
        file
    }
}

fn named_settings_dir(options: &Options) -> Option<PathBuf> {
    options.config_dir.clone().or_else(|| env_path("ZOOCFGDIR"))
}

/// The directory of settings: as named, or else the first of the usual ones that has a `zoo.cfg`.
pub(crate) fn settings_dir(options: &Options) -> PathBuf {
    if let Some(named) = named_settings_dir(options) {
        return named;
    }
    let beside_program = env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("conf")));
    let fixed = ["conf", "/etc/zookeeper/conf", "/etc/zookeeper"].map(PathBuf::from);
    let mut candidates = beside_program.into_iter().chain(fixed);
    candidates
        .find(|candidate| candidate.join("zoo.cfg").is_file())
        .unwrap_or_else(|| PathBuf::from("conf"))
}

fn env_path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// `path` seen from the root, so that it means the same after a change of directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
