//! The configuration of a server: `zoo.cfg` with its keys and defaults, typed and checked.
//!
//! A [`Config`] holds the settings. [`Source`] reads them from a file, from the JVM options in the
//! environment and from flags; an embedding program starts from [`Config::new`] or
//! [`Config::temporary`] and sets the fields. [`Setting::all`] lists every key with its default and meaning.
//! What cannot work is a [`ConfigError`] that names every problem with its line; what is worth
//! saying, such as a key without effect, is a [`Notice`].

mod dynamic;
mod error;
mod load;
mod members;
mod properties;
mod rules;
mod settings;
#[cfg(test)]
mod tests;
mod types;
mod unhonoured;
mod values;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use dynamic::DynamicFiles;
pub use error::{ConfigError, Notice, Origin, Problem, ProblemKind};
pub use load::{Loaded, Reading, Source};
pub use members::{ClientAddress, Ensemble, Member, Members, PeerAddress};
pub use settings::{Config, Scope, Setting};
pub use types::{FourLetterWords, PeerType, Secret, SnapshotCompression};

impl Config {
    /// The defaults for a server that keeps its data in `data_dir` and has no client port yet.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            ..Config::blank()
        }
    }

    /// The defaults for a server that listens on a free port of the loopback address and keeps its
    /// data in a new temporary directory, removed with the last clone of these settings.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn temporary() -> Result<Config, std::io::Error> {
        let scratch = tempfile::Builder::new().prefix("quorate-").tempdir()?;
        let mut config = Config::new(scratch.path());
        config.client_port = Some(0);
        config.client_port_address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        config.scratch = Some(Arc::new(scratch));
        Ok(config)
    }

    /// Directory of the snapshots and the epoch files: `version-2` below `data_dir`.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.data_dir.join("version-2")
    }

    /// Directory of the transaction log: `version-2` below `data_log_dir`, or else below `data_dir`.
    pub fn log_dir(&self) -> PathBuf {
        self.data_log_root().join("version-2")
    }

    /// The directory above [`Config::log_dir`].
    pub fn data_log_root(&self) -> &Path {
        self.data_log_dir.as_deref().unwrap_or(&self.data_dir)
    }

    /// Where clients are served; `None` if nowhere. Port 0 lets the system choose. Without
    /// `clientPortAddress` it is the wildcard `[::]`, to be bound for IPv4 and IPv6 alike, or
    /// `0.0.0.0` on a machine without IPv6.
    pub fn client_address(&self) -> Option<SocketAddr> {
        let address = self
            .client_port_address
            .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        self.client_port.map(|port| SocketAddr::new(address, port))
    }

    /// Shortest and longest session timeout that a client can have.
    pub fn session_timeouts(&self) -> RangeInclusive<Duration> {
        let shortest = self.min_session_timeout.unwrap_or(self.tick_time * 2);
        let longest = self.max_session_timeout.unwrap_or(self.tick_time * 20);
        shortest..=longest
    }

    /// Id of this server: `myid` in an ensemble, 0 for a server that stands alone.
    pub fn server_id(&self) -> i64 {
        self.ensemble.as_ref().map_or(0, |ensemble| ensemble.my_id)
    }

    /// Checks that a server can run with these settings.
    ///
    /// # Errors
    /// Every problem found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::check(self.problems())
    }
}
