//! The one table of settings: field, key, default, unit and meaning of each, from which the struct
//! [`Config`], its defaults, the reader of `zoo.cfg` and the listing of keys are made.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use tempfile::TempDir;

use super::{
    members::Ensemble,
    types::{FourLetterWords, PeerType, Secret, SnapshotCompression},
    values::{self, Format},
};

/// Where a key may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only in `zoo.cfg`, under its bare name.
    File,
    /// In `zoo.cfg`, with or without the prefix `zookeeper.`, and as the JVM property `zookeeper.KEY`.
    Property,
    /// In `zoo.cfg` and as a JVM property, both under its bare name.
    Jvm,
}

/// One setting of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The key as `zoo.cfg` spells it.
    pub key: &'static str,
    /// Where the key may be set.
    pub scope: Scope,
    /// What a bare number counts, or the values to choose from; empty if the name says it.
    pub unit: &'static str,
    /// What the setting does, a line of text each.
    pub(super) lines: &'static [&'static str],
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

impl Setting {
    /// Every setting, in the order in which they are best read.
    pub fn all() -> &'static [Setting] {
        SETTINGS
    }

    /// What the setting does, in a sentence or a few.
    pub fn meaning(&self) -> String {
        self.lines
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The default as it would stand in `zoo.cfg`; empty for "not set".
    pub fn default_text(&self) -> String {
        (self.show)(&Config::blank())
    }

    /// The value that `config` has, as it would stand in `zoo.cfg`; empty for "not set".
    /// Secrets are shown as `(hidden)`.
    pub fn text_in(&self, config: &Config) -> String {
        (self.show)(config)
    }
}

macro_rules! settings {
    ($(
        $(#[doc = $line:literal])+
        $key:literal $scope:ident $format:ident => $field:ident: $type:ty = $default:expr;
    )+) => {
        /// The settings of a server, typed.
        ///
        /// The fields carry the names of their `zoo.cfg` keys. Built from a file by
        /// [`Source`](super::Source), or in code:
        ///
        /// ```
        /// use std::time::Duration;
        /// use quorate_server::config::Config;
        ///
        /// let mut config = Config::new("/var/lib/quorate");
        /// config.client_port = Some(2181);
        /// config.tick_time = Duration::from_secs(2);
        /// config.validate()?;
        /// assert_eq!(*config.session_timeouts().start(), Duration::from_secs(4));
        /// # Ok::<(), quorate_server::config::ConfigError>(())
        /// ```
        #[derive(Debug, Clone)]
        #[non_exhaustive]
        pub struct Config {
            $(
                $(#[doc = $line])+
                #[doc = concat!("\n\nKey `", $key, "`; default `", stringify!($default), "`.")]
                pub $field: $type,
            )+
            /// The ensemble that this server belongs to; `None` for a server that stands alone.
            ///
            /// Keys `server.N`, `group.G`, `weight.N`, and the file `myid`.
            pub ensemble: Option<Ensemble>,
            /// The file that they were read from; `None` if they were made in code.
            pub file: Option<PathBuf>,
            /// Keeps a temporary data directory alive while any clone of the settings is.
            pub(super) scratch: Option<Arc<TempDir>>,
        }

        impl Config {
            /// The defaults; without a data directory, which has none.
            pub(super) fn blank() -> Config {
                Config { $($field: $default,)+ ensemble: None, file: None, scratch: None }
            }
        }

        static SETTINGS: &[Setting] = &[$(
            Setting {
                key: $key,
                scope: Scope::$scope,
                unit: values::$format.unit,
                lines: &[$($line),+],
                set: |config, text| {
                    const FORMAT: Format<$type> = values::$format;
                    config.$field = (FORMAT.parse)(text)?;
                    Ok(())
                },
                show: |config| {
                    const FORMAT: Format<$type> = values::$format;
                    (FORMAT.show)(&config.$field)
                },
            },
        )+];
    };
}

settings! {
    /// Directory of the snapshots, `myid` and the epoch files; and of the transaction log unless
    /// `dataLogDir` is set. Required.
    "dataDir" File DIRECTORY => data_dir: PathBuf = PathBuf::new();
    /// Directory of the transaction log. A disk of its own makes writes faster.
    "dataLogDir" File OPTIONAL_PATH => data_log_dir: Option<PathBuf> = None;
    /// Creates missing data directories at the start.
    "datadir.autocreate" Property PROPERTY_SWITCH => datadir_autocreate: bool = true;
    /// Takes an empty data directory for a new server; when off, an empty directory needs the file
    /// `initialize` beside `version-2` to be believed.
    "db.autocreate" Property PROPERTY_SWITCH => db_autocreate: bool = true;

    /// Port for clients; 0 lets the system choose. Not set: no port for clients is opened.
    "clientPort" File PORT => client_port: Option<u16> = None;
    /// Address that the client port is bound to; all addresses if not set.
    "clientPortAddress" File HOST => client_port_address: Option<IpAddr> = None;
    /// Connections that the system holds ready before the server accepts them.
    "clientPortListenBacklog" File COUNT_OR_OFF => client_port_listen_backlog: Option<u32> = None;
    /// Connections that one client address may hold open; more are closed at once.
    "maxClientCnxns" File COUNT_OR_OFF => max_client_cnxns: Option<u32> = Some(60);
    /// Connections that the server holds open in total; more are closed at once.
    "maxCnxns" Property COUNT_OR_OFF => max_cnxns: Option<u32> = None;
    /// Turns on TCP keep-alive for client connections.
    "clientTcpKeepAlive" Property PROPERTY_SWITCH => client_tcp_keep_alive: bool = false;
    /// How long a connection may stay open without a session. Checked in steps of this time, so
    /// that it is closed after once to twice as long.
    "nio.sessionlessCnxnTimeout" Property MILLIS => sessionless_cnxn_timeout: Duration = Duration::from_millis(10_000);
    /// Four-letter words that are answered beside `srvr`; `*` for all.
    "4lw.commands.whitelist" Property WORDS => four_letter_words: FourLetterWords = FourLetterWords::from_list("");

    /// The unit of time: sessions expire, and the limits of an ensemble count, in ticks.
    "tickTime" File MILLIS => tick_time: Duration = Duration::from_millis(3000);
    /// Shortest session timeout that a client can have; 2 ticks if not set.
    "minSessionTimeout" File MILLIS_OR_DEFAULT => min_session_timeout: Option<Duration> = None;
    /// Longest session timeout that a client can have; 20 ticks if not set.
    "maxSessionTimeout" File MILLIS_OR_DEFAULT => max_session_timeout: Option<Duration> = None;

    /// Largest frame that is read from a client. Clients need the same setting to read and write
    /// nodes this large.
    "jute.maxbuffer" Jvm BYTES => jute_max_buffer: usize = 0xf_ffff;
    /// Requests that may be in work in the whole server. Above it, a connection that still waits for
    /// an answer is not read from.
    "globalOutstandingLimit" Property COUNT => global_outstanding_limit: u32 = 1000;
    /// How long a server that stops may take to answer the requests in work and to close; beyond it
    /// the program `quorate-server` ends at once.
    "request_throttler.shutdownTimeout" Property MILLIS => shutdown_timeout: Duration = Duration::from_millis(10_000);

    /// Transactions between two snapshots: one is taken after between half and all of this number.
    "snapCount" Property COUNT => snap_count: u32 = 100_000;
    /// Bytes of log between two snapshots, likewise; not set: only `snapCount` counts.
    "snapSizeLimitInKb" Property KIB_OR_OFF => snap_size_limit: Option<u64> = Some(4_194_304 * 1024);
    /// Size at which a new log file is begun without a snapshot.
    "txnLogSizeLimitInKb" Property KIB_OR_OFF => txn_log_size_limit: Option<u64> = None;
    /// Step by which log files grow ahead of what is written, in bytes here and KiB in `zoo.cfg`.
    "preAllocSize" Property KIB => pre_alloc_size: u64 = 65_536 * 1024;
    /// Waits for the disk before a write is acknowledged. `no` is fast and loses acknowledged writes
    /// when the machine fails.
    "forceSync" Property YES_UNLESS_NO => force_sync: bool = true;
    /// A sync of the log that takes longer is told in a warning.
    "fsync.warningthresholdms" Property MILLIS => fsync_warning_threshold: Duration = Duration::from_millis(1000);
    /// Compression of the snapshots that are written. All kinds are read.
    "snapshot.compression.method" Property COMPRESSION => snapshot_compression: SnapshotCompression = SnapshotCompression::None;
    /// Believes a transaction log without any snapshot, as servers before 3.5 could leave behind.
    "snapshot.trust.empty" Property PROPERTY_SWITCH => snapshot_trust_empty: bool = false;
    /// Keeps a digest of the tree in transactions and snapshots, and compares it on replay.
    "digest.enabled" Property PROPERTY_SWITCH => digest_enabled: bool = true;
    /// Writes the ephemeral nodes of a closing session into its transaction.
    "closeSessionTxn.enabled" Property PROPERTY_SWITCH => close_session_txn_enabled: bool = true;
    /// Snapshots that purging leaves, with the logs they need; 3 at least.
    "autopurge.snapRetainCount" File COUNT => autopurge_snap_retain_count: u32 = 3;
    /// Time between two purges of old snapshots and logs; not set: only `quorate-server purge` does it.
    "autopurge.purgeInterval" File HOURS_OR_OFF => autopurge_purge_interval: Option<Duration> = None;

    /// Allows TTL nodes.
    "extendedTypesEnabled" Property PROPERTY_SWITCH => extended_types_enabled: bool = false;
    /// Refuses writes beyond a hard quota.
    "enforceQuota" Property PROPERTY_SWITCH => enforce_quota: bool = false;
    /// Time between two searches for containers and TTL nodes to remove.
    "znode.container.checkIntervalMs" Jvm MILLIS => container_check_interval: Duration = Duration::from_millis(60_000);
    /// Containers and TTL nodes removed a minute at most.
    "znode.container.maxPerMinute" Jvm COUNT => container_max_per_minute: u32 = 10_000;
    /// Age after which a container that never had a child is removed too.
    "znode.container.maxNeverUsedIntervalMs" Jvm MILLIS_OR_OFF => container_max_never_used_interval: Option<Duration> = None;

    /// Checks no permissions at all.
    "skipACL" Property NO_UNLESS_YES => skip_acl: bool = false;
    /// Offers the authentication scheme `digest`.
    "DigestAuthenticationProvider.enabled" Property PROPERTY_SWITCH => digest_auth_enabled: bool = true;
    /// `super:` and the digest of the superuser's password, who may do everything.
    "DigestAuthenticationProvider.superDigest" Property SECRET => super_digest: Option<Secret> = None;
    /// Refuses sessions that did not authenticate in one of `enforce.auth.schemes`.
    "enforce.auth.enabled" Property PROPERTY_SWITCH => enforce_auth_enabled: bool = false;
    /// Schemes of which a session must have used one.
    "enforce.auth.schemes" Property NAMES => enforce_auth_schemes: Vec<String> = Vec::new();

    /// Ticks that a follower has to connect to its leader and copy its state. Required in an ensemble.
    "initLimit" File COUNT => init_limit: u32 = 0;
    /// Ticks that a follower may lag behind its leader. Required in an ensemble.
    "syncLimit" File COUNT => sync_limit: u32 = 0;
    /// Ticks that a follower tries to connect to its leader; `initLimit` if not set.
    "connectToLearnerMasterLimit" File COUNT_OR_OFF => connect_to_learner_master_limit: Option<u32> = None;
    /// What this server is, if its `server.N` line does not say.
    "peerType" File PEER_TYPE => peer_type: PeerType = PeerType::Participant;
    /// A single server stands alone; when off it forms an ensemble of one, which can grow.
    "standaloneEnabled" File SWITCH => standalone_enabled: bool = true;
    /// Allows changes of the ensemble's members while it runs.
    "reconfigEnabled" File SWITCH => reconfig_enabled: bool = false;
    /// File that holds the `server.N`, `group.G` and `weight.N` lines.
    "dynamicConfigFile" File OPTIONAL_PATH => dynamic_config_file: Option<PathBuf> = None;
    /// Binds the ports for other servers to all addresses.
    "quorumListenOnAllIPs" File SWITCH => quorum_listen_on_all_ips: bool = false;
    /// Observers keep a log and snapshots.
    "syncEnabled" File SWITCH => observer_sync_enabled: bool = true;
    /// Port on which a follower serves observers.
    "observerMasterPort" File PORT_OR_OFF => observer_master_port: Option<u16> = None;
    /// Allows several addresses a server, separated by `|`.
    "multiAddress.enabled" File SWITCH => multi_address_enabled: bool = false;
    /// Lets the leader serve clients.
    "leaderServes" Property YES_UNLESS_NO => leader_serves: bool = true;
    /// Sessions of an ensemble live on the server that their client is connected to, and cost no
    /// write, until they create an ephemeral node.
    "localSessionsEnabled" File SWITCH => local_sessions_enabled: bool = false;
    /// Makes such a session known to all servers when it creates an ephemeral node; when off, it
    /// cannot create any.
    "localSessionsUpgradingEnabled" File SWITCH => local_sessions_upgrading_enabled: bool = false;
    /// A server that is cut off from the others serves reads to clients that accept that.
    "readonlymode.enabled" Jvm PROPERTY_SWITCH => read_only_mode_enabled: bool = false;
    /// Transactions kept in memory to bring followers up to date.
    "commitLogCount" Property COUNT => commit_log_count: u32 = 500;
    /// A follower is sent a log up to this part of the snapshot's size instead of the snapshot.
    "snapshotSizeFactor" Property RATIO => snapshot_size_factor: f64 = 0.33;
    /// Always sends followers a snapshot.
    "forceSnapshotSync" Property PROPERTY_SWITCH => force_snapshot_sync: bool = false;
    /// How long connecting to another server's election port may take.
    "cnxTimeout" Property MILLIS => cnx_timeout: Duration = Duration::from_millis(5000);
    /// Attempts to bind the election port; not set: it never gives up.
    "electionPortBindRetry" Property COUNT_OR_OFF => election_port_bind_retry: Option<u32> = Some(3);
    /// Shortest pause before election votes are sent again.
    "fastleader.minNotificationInterval" Property MILLIS => min_notification_interval: Duration = Duration::from_millis(200);
    /// Longest pause before election votes are sent again.
    "fastleader.maxNotificationInterval" Property MILLIS => max_notification_interval: Duration = Duration::from_millis(60_000);
}
