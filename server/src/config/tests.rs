//! The reading of whole configurations.

use std::{fs, path::PathBuf, time::Duration};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A directory with a `zoo.cfg`; `DIR` in the text stands for the directory.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new(text: &str) -> Fixture {
        let fixture = Fixture {
            dir: TempDir::new().unwrap(),
        };
        fixture.write("zoo.cfg", text);
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("DIR", self.dir.path().to_str().unwrap());
        fs::write(self.path(name), text).unwrap();
    }

    fn with(self, name: &str, text: &str) -> Fixture {
        self.write(name, text);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> Source {
        Source::file(self.path("zoo.cfg"))
    }

    fn load(&self) -> Loaded {
        self.source()
            .load()
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn notices(&self) -> Vec<String> {
        let root = format!("{}/", self.dir.path().display());
        self.load()
            .notices
            .iter()
            .map(|notice| notice.to_string().replace(&root, ""))
            .collect()
    }

    #[track_caller]
    fn fails(&self, line: &str, phrase: &str, exit_code: u8) {
        let error = self
            .source()
            .load()
            .expect_err("this configuration must be refused");
        let text = error.to_string();
        assert!(text.contains(line), "{line:?} is not in {text:?}");
        assert!(text.contains(phrase), "{phrase:?} is not in {text:?}");
        assert_eq!(error.exit_code(), exit_code, "{text}");
    }
}

const THREE: &str =
    "server.1=a:2888:3888\nserver.2=b:2888:3888\nserver.3=c:2888:3888\ninitLimit=10\nsyncLimit=5\n";

#[test]
fn the_sample_of_apache_is_read() {
    let text = "# The number of milliseconds of each tick\ntickTime=2000\ninitLimit=10\nsyncLimit=5\n\
                dataDir=DIR\nclientPort=2181\n#maxClientCnxns=60\n";
    let fixture = Fixture::new(text);
    let loaded = fixture.load();
    assert_eq!(loaded.notices, []);
    let config = loaded.config;
    assert_eq!(config.data_dir, fixture.dir.path());
    assert_eq!(config.log_dir(), config.snapshot_dir());
    assert_eq!(config.client_address(), Some("[::]:2181".parse().unwrap()));
    assert_eq!(config.tick_time, Duration::from_secs(2));
    assert_eq!(
        config.session_timeouts(),
        Duration::from_secs(4)..=Duration::from_secs(40)
    );
    assert_eq!(config.max_client_cnxns, Some(60));
    assert!(config.ensemble.is_none());
    assert_eq!(config.server_id(), 0);
}

#[test]
fn the_documented_defaults_hold() {
    let defaults: Vec<_> = Setting::all()
        .iter()
        .map(|s| (s.key, s.default_text()))
        .collect();
    let expected = [
        ("tickTime", "3000"),
        ("maxClientCnxns", "60"),
        ("maxCnxns", ""),
        ("globalOutstandingLimit", "1000"),
        ("jute.maxbuffer", "1048575"),
        ("snapCount", "100000"),
        ("snapSizeLimitInKb", "4194304"),
        ("preAllocSize", "65536"),
        ("forceSync", "yes"),
        ("skipACL", "no"),
        ("fsync.warningthresholdms", "1000"),
        ("4lw.commands.whitelist", "srvr"),
        ("znode.container.checkIntervalMs", "60000"),
        ("autopurge.snapRetainCount", "3"),
        ("snapshot.compression.method", "none"),
        ("digest.enabled", "true"),
        ("commitLogCount", "500"),
    ];
    for (key, default) in expected {
        assert!(
            defaults.contains(&(key, default.to_owned())),
            "{key}={default}"
        );
    }
}

#[test]
fn every_default_reads_back_as_itself() {
    let defaults = Config::new("/data");
    for setting in Setting::all() {
        let text = setting.text_in(&defaults);
        if text.is_empty() {
            continue;
        }
        let mut config = Config::new("/data");
        (setting.set)(&mut config, &text).unwrap_or_else(|what| panic!("{}: {what}", setting.key));
        assert_eq!(setting.text_in(&config), text, "{}", setting.key);
    }
}

#[test]
fn no_key_is_both_honoured_and_not() {
    for setting in Setting::all() {
        assert!(setting.meaning().ends_with('.'), "{}", setting.key);
        let twins = Setting::all()
            .iter()
            .filter(|other| other.key == setting.key)
            .count();
        assert_eq!(twins, 1, "{}", setting.key);
    }
}

#[test]
fn units_may_be_written_out() {
    let text = "dataDir=DIR\ntickTime=2s\npreAllocSize=16MiB\nautopurge.purgeInterval=24\n\
                jute.maxbuffer=4m\nmaxSessionTimeout=2m\nsnapSizeLimitInKb=0\nnio.sessionlessCnxnTimeout=5";
    let config = Fixture::new(text).load().config;
    assert_eq!(config.tick_time, Duration::from_secs(2));
    assert_eq!(config.pre_alloc_size, 16 << 20);
    assert_eq!(
        config.autopurge_purge_interval,
        Some(Duration::from_secs(24 * 3600))
    );
    assert_eq!(config.jute_max_buffer, 4 << 20);
    assert_eq!(config.max_session_timeout, Some(Duration::from_secs(120)));
    assert_eq!(config.snap_size_limit, None);
    assert_eq!(config.sessionless_cnxn_timeout, Duration::from_millis(5));
}

#[test]
fn zero_and_minus_one_turn_limits_off() {
    let text = "dataDir=DIR\nmaxClientCnxns=0\nminSessionTimeout=-1\nclientPortListenBacklog=-1\n\
                txnLogSizeLimitInKb=-1\nautopurge.purgeInterval=0";
    let config = Fixture::new(text).load().config;
    assert_eq!(config.max_client_cnxns, None);
    assert_eq!(config.min_session_timeout, None);
    assert_eq!(config.client_port_listen_backlog, None);
    assert_eq!(config.txn_log_size_limit, None);
    assert_eq!(config.autopurge_purge_interval, None);
}

#[test]
fn pass_through_keys_need_no_prefix_and_may_have_one() {
    let text = "dataDir=DIR\nzookeeper.snapCount=7\nforceSync=no\nznode.container.maxPerMinute=5\n\
                4lw.commands.whitelist=ruok, mntr\nskipACL=yes\nenforceQuota=TRUE";
    let config = Fixture::new(text).load().config;
    assert_eq!(config.snap_count, 7);
    assert!(!config.force_sync);
    assert_eq!(config.container_max_per_minute, 5);
    assert!(config.four_letter_words.allows("mntr"));
    assert!(config.four_letter_words.allows("srvr"));
    assert!(!config.four_letter_words.allows("stat"));
    assert!(config.skip_acl && config.enforce_quota);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_jvm_options() {
    let fixture = Fixture::new("dataDir=DIR\nsnapCount=10\nclientPort=1\n");
    let loaded = fixture
        .source()
        .environment(
            "JVMFLAGS",
            "-Dzookeeper.snapCount=5 -Dzookeeper.maxCnxns=9 -Xmx1g",
        )
        .environment(
            "SERVER_JVMFLAGS",
            "-Djute.maxbuffer=2000 -Dzookeeper.tickTime=7",
        )
        .flag("--client-port", "clientPort", "2182")
        .load()
        .unwrap();
    assert_eq!(loaded.config.snap_count, 10);
    assert_eq!(loaded.config.max_cnxns, Some(9));
    assert_eq!(loaded.config.jute_max_buffer, 2000);
    assert_eq!(loaded.config.client_port, Some(2182));
    assert_eq!(loaded.config.tick_time, Duration::from_secs(3));
    let notices: Vec<_> = loaded.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "environment variable JVMFLAGS: options for a JVM have no effect: -Xmx1g",
            "environment variable SERVER_JVMFLAGS: zookeeper.tickTime: has no effect as a JVM \
             property; write tickTime=7 in zoo.cfg",
        ]
    );
}

#[test]
fn keys_without_effect_are_told_with_their_line() {
    let text = "dataDir=DIR\nclientport=2181\nnio.numWorkerThreads=4\nfoo.bar=1\n\
                throttledOpWaitTime=5\nadmin.enableServer=false\ntickTime=1000\ntickTime=2000\n";
    let notices = Fixture::new(text).notices();
    let expected = [
        "zoo.cfg:2: clientport: unknown, and has no effect; did you mean clientPort?",
        "zoo.cfg:3: nio.numWorkerThreads: known, and has no effect: ",
        "zoo.cfg:4: foo.bar: unknown, and has no effect",
        "zoo.cfg:5: throttledOpWaitTime: known, and has no effect: ",
        "zoo.cfg:6: admin.enableServer: known, and has no effect: ",
        "zoo.cfg:7: tickTime: has no effect: line 8 sets it again",
    ];
    assert_eq!(notices.len(), expected.len(), "{notices:#?}");
    for (notice, beginning) in notices.iter().zip(expected) {
        assert!(notice.starts_with(beginning), "{notice}");
    }
}

#[test]
fn odd_values_are_told() {
    let text = "dataDir=data\nenforceQuota=yes\nforceSync=false\nautopurge.snapRetainCount=1\n";
    let fixture = Fixture::new(text);
    let notices = fixture.notices();
    assert_eq!(
        notices,
        [
            "zoo.cfg:1: dataDir: data is relative: it depends on the directory in which the server is started",
            "zoo.cfg:2: enforceQuota: \"yes\" counts as false; write true/false",
            "zoo.cfg:3: forceSync: \"false\" counts as yes; write yes/no",
            "zoo.cfg:4: autopurge.snapRetainCount: 1 is too low; 3 is used",
        ]
    );
    assert_eq!(fixture.load().config.autopurge_snap_retain_count, 3);
}

#[test]
fn every_problem_is_told_at_once() {
    let error = Fixture::new("tickTime=x\nclientPort=70000\nstandaloneEnabled=maybe\n")
        .source()
        .load()
        .unwrap_err();
    let keys: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    assert_eq!(
        keys,
        ["tickTime", "clientPort", "standaloneEnabled", "dataDir"]
    );
}

#[test]
fn what_cannot_start_is_refused_with_its_line() {
    let base = "dataDir=DIR\n";
    let cases = [
        (
            "tickTime=0",
            "zoo.cfg:2: tickTime",
            "tickTime is not set",
            2,
        ),
        (
            "tickTime=fast",
            "zoo.cfg:2: tickTime",
            "not a whole number",
            2,
        ),
        (
            "clientPortAddress=127.0.0.1",
            "zoo.cfg:2",
            "clientPortAddress is set but clientPort is not set",
            2,
        ),
        (
            "clientPort=1\nclientPortAddress=no.such.host.invalid",
            "zoo.cfg:3",
            "unknown host",
            2,
        ),
        ("clientPort=99999", "zoo.cfg:2", "port out of range", 2),
        ("clientPort=-1", "zoo.cfg:2", "port out of range", 2),
        (
            "minSessionTimeout=9\nmaxSessionTimeout=8",
            "zoo.cfg:2",
            "must not be larger than",
            2,
        ),
        ("electionAlg=1", "zoo.cfg:2", "only 3 is supported", 2),
        (
            "syncEnabled=yes",
            "zoo.cfg:2: syncEnabled",
            "invalid option \"yes\"",
            2,
        ),
        ("peerType=boss", "zoo.cfg:2", "unrecognised peertype", 2),
        (
            "server.1=h:1:2:boss",
            "zoo.cfg:2",
            "unrecognised peertype",
            2,
        ),
        (
            "server.1=h:1:2:observer",
            "zoo.cfg",
            "observers w/o participants",
            2,
        ),
        (
            "server.1=h:1:2\nserver.2=h:1:2:observer",
            "zoo.cfg",
            "observers w/o quorum",
            2,
        ),
        (
            "standaloneEnabled=false",
            "zoo.cfg:2",
            "participants should be > 0",
            2,
        ),
        (
            "quorum.auth.learnerRequireSasl=true",
            "zoo.cfg:2",
            "is disabled, so cannot enable",
            2,
        ),
        (
            "metricsProvider.className=x.Y",
            "zoo.cfg:2",
            "metrics provider class was not found",
            2,
        ),
        (
            "secureClientPort=2281",
            "zoo.cfg:2",
            "SSL isn't supported",
            1,
        ),
        ("enforce.auth.enabled=true", "zoo.cfg", "names no scheme", 2),
        (
            "enforce.auth.enabled=true\nenforce.auth.schemes=sasl",
            "zoo.cfg:3",
            "not available",
            1,
        ),
        ("sessionRequireClientSASLAuth=true", "zoo.cfg:2", "SASL", 1),
        ("sslQuorum=true", "zoo.cfg:2", "TLS", 1),
        ("maxSessionTimeout=4294967296", "zoo.cfg:2", "too long", 2),
        ("maxSessionTimeout=2147483648", "zoo.cfg:2", "32 bits", 2),
        ("snapCount=-5", "zoo.cfg:2", "must not be negative", 2),
        ("bad=\\u12", "zoo.cfg:2", "malformed", 2),
        ("dynamicConfigFile=DIR/none", "none", "error processing", 2),
        (
            "dynamicConfigFile=DIR/none\nserver.1=h:1:2",
            "zoo.cfg:3",
            "must be in a separate dynamic config file",
            2,
        ),
    ];
    for (text, line, phrase, exit_code) in cases {
        Fixture::new(&format!("{base}{text}\n")).fails(line, phrase, exit_code);
    }
    Fixture::new("clientPort=2181\n").fails("zoo.cfg: dataDir", "dataDir is not set", 2);
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let fixture = Fixture::new("");
    let missing = Source::file(fixture.path("none.cfg")).load().unwrap_err();
    assert!(
        missing.to_string().contains("error processing"),
        "{missing}"
    );
    let directory = Source::file(fixture.dir.path()).load().unwrap_err();
    assert!(
        directory.to_string().contains("error processing"),
        "{directory}"
    );
    let endless = Source::file("/dev/zero").load().unwrap_err();
    assert!(endless.to_string().contains("larger than"), "{endless}");
}

#[test]
fn members_of_an_ensemble() {
    let text =
        format!("dataDir=DIR\nclientPort=2181\n{THREE}server.4=[::1]:1:2:observer;[::1]:2184\n");
    let fixture = Fixture::new(&text).with("myid", " 2 \n");
    let config = fixture.load().config;
    let ensemble = config.ensemble.clone().unwrap();
    assert_eq!((ensemble.my_id, ensemble.version), (2, 0));
    assert_eq!(ensemble.members.voters().count(), 3);
    let (id, observer) = ensemble.members.observers().next().unwrap();
    assert_eq!(id, 4);
    assert_eq!(observer.addresses[0].host, "::1");
    assert_eq!(observer.client.as_ref().unwrap().port, 2184);
    assert_eq!(
        ensemble.members.to_string(),
        "server.1=a:2888:3888:participant\nserver.2=b:2888:3888:participant\n\
         server.3=c:2888:3888:participant\nserver.4=[::1]:1:2:observer;[::1]:2184"
    );
    assert_eq!(config.server_id(), 2);
    assert_eq!(config.peer_type, PeerType::Participant);
}

#[test]
fn the_client_address_of_the_own_line_counts() {
    let lines = "dataDir=DIR\ninitLimit=1\nsyncLimit=1\nstandaloneEnabled=false\n";
    let load = |text: &str| Fixture::new(&format!("{lines}{text}")).with("myid", "1");
    let config = load("server.1=h:1:2;127.0.0.1:2184").load().config;
    assert_eq!(
        config.client_address(),
        Some("127.0.0.1:2184".parse().unwrap())
    );
    let config = load("server.1=h:1:2;2184\nclientPort=2184").load().config;
    assert_eq!(config.client_address(), Some("[::]:2184".parse().unwrap()));
    load("clientPort=2181\nserver.1=h:1:2;2184").fails("zoo.cfg:6: server.1", "client address", 2);
}

#[test]
fn broken_member_lines_are_refused() {
    let lines = [
        ("server.x=h:1:2", "not a whole number"),
        ("server.1=h:1", "does not have the form"),
        ("server.1=h:1:2:participant:3", "does not have the form"),
        ("server.1=h:1:2;3;4", "does not have the form"),
        ("server.1=[::1:1:2", "does not have the form"),
        ("server.1=h:1:1", "must be different"),
        ("server.1=h:1:70000", "port out of range"),
        (
            "server.1=h:1:2|g:1:2",
            "multiple addresses were specified for server 1",
        ),
        (
            "server.1=h:1:2:observer|g:1:2:participant",
            "different roles",
        ),
        ("group.1=1:2\ngroup.2=2:3", "server 2 is in multiple groups"),
        ("group.1=1:2", "server 3 is not in a group"),
        ("weight.1=x\ngroup.1=1:2:3", "not a whole number"),
        ("group=1", "needs a number"),
    ];
    for (line, phrase) in lines {
        let text = format!("dataDir=DIR\n{THREE}{line}\n");
        Fixture::new(&text)
            .with("myid", "2")
            .fails("zoo.cfg", phrase, 2);
    }
}

#[test]
fn groups_and_weights() {
    let text = format!("dataDir=DIR\n{THREE}group.1=1:2\ngroup.2=3\nweight.3=5\n");
    let members = Fixture::new(&text)
        .with("myid", "3")
        .load()
        .config
        .ensemble
        .unwrap()
        .members;
    assert!(members.hierarchical);
    assert_eq!((members.weight(1), members.weight(3)), (1, 5));
    assert_eq!(members.groups[&1].len(), 2);
}

#[test]
fn an_ensemble_needs_its_limits_and_myid() {
    let text = format!("dataDir=DIR\n{THREE}");
    Fixture::new(&text).fails("zoo.cfg", "myid file is missing", 2);
    Fixture::new(&text)
        .with("myid", "one")
        .fails("myid", "is not a number", 2);
    Fixture::new(&text)
        .with("myid", "9")
        .fails("zoo.cfg", "My id 9 not in the peer list", 1);
    let no_limits = text
        .replace("initLimit=10\n", "")
        .replace("syncLimit=5", "syncLimit=0");
    let fixture = Fixture::new(&no_limits).with("myid", "1");
    fixture.fails("zoo.cfg: initLimit", "initLimit is not set", 2);
    fixture.fails("zoo.cfg:5: syncLimit", "syncLimit is not set", 2);
    let ttl = "extendedTypesEnabled=true\nserver.255=x:1:2\nserver.256=y:1:2\n";
    Fixture::new(&format!("{text}{ttl}"))
        .with("myid", "255")
        .fails("zoo.cfg", "not between 1 and 254", 2);
}

#[test]
fn one_server_line_stands_alone_and_says_so() {
    let fixture = Fixture::new("dataDir=DIR\nserver.1=h:1:2\n");
    assert!(fixture.load().config.ensemble.is_none());
    assert!(fixture.notices()[0].contains("stands alone"));
}

#[test]
fn a_dynamic_file_holds_the_members() {
    let text =
        "dataDir=DIR\ninitLimit=1\nsyncLimit=1\ndynamicConfigFile=DIR/zoo.cfg.dynamic.1c00000002\n";
    let fixture = || Fixture::new(text).with("myid", "1");
    let dynamic = "zoo.cfg.dynamic.1c00000002";
    let good = fixture().with(dynamic, "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2");
    let ensemble = good.load().config.ensemble.unwrap();
    assert_eq!(ensemble.version, 0x1c_0000_0002);
    assert_eq!(ensemble.members.servers.len(), 3);
    fixture().with(dynamic, "server.1=a:1:2\nversion=1").fails(
        dynamic,
        "shouldn't have version",
        2,
    );
    fixture().with(dynamic, "server.1=a:1:2\ntickTime=1").fails(
        dynamic,
        "unrecognised parameter tickTime",
        2,
    );
}

#[test]
fn the_fixture_of_a_running_ensemble_is_read() {
    let text = "standaloneEnabled=false\nmaxSessionTimeout=3600000\ndataDir=DIR\ntickTime=1000\n\
                initLimit=10\nsyncLimit=5\nextendedTypesEnabled=true\nsnapCount=100\npreAllocSize=16\n\
                reconfigEnabled=true\ndynamicConfigFile=DIR/dynamic.200000122";
    let members = "server.1=127.0.0.1:25201:25301:participant;127.0.0.1:25101\n\
                   server.2=127.0.0.1:25202:25302:participant;127.0.0.1:25102\n\
                   server.3=127.0.0.1:25203:25303:participant;127.0.0.1:25103";
    let fixture = Fixture::new(text)
        .with("myid", "2")
        .with("dynamic.200000122", members);
    let loaded = fixture.load();
    assert_eq!(loaded.notices, []);
    assert_eq!(
        loaded.config.client_address(),
        Some("127.0.0.1:25102".parse().unwrap())
    );
    assert_eq!(loaded.config.ensemble.unwrap().members.to_string(), members);
}

#[test]
fn settings_made_in_code() {
    let config = Config::temporary().unwrap();
    config.validate().unwrap();
    assert_eq!(
        config.client_address(),
        Some("127.0.0.1:0".parse().unwrap())
    );
    let dir = config.data_dir.clone();
    let clone = config.clone();
    drop(config);
    assert!(dir.is_dir());
    drop(clone);
    assert!(!dir.exists());
    let nothing = Config::new("").validate().unwrap_err();
    assert!(
        nothing.to_string().contains("dataDir is not set"),
        "{nothing}"
    );
}

#[test]
fn secrets_are_not_shown() {
    let digest = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";
    let text = format!("dataDir=DIR\nDigestAuthenticationProvider.superDigest={digest}\n");
    let config = Fixture::new(&text).load().config;
    assert_eq!(config.super_digest.as_ref().unwrap().expose(), digest);
    assert!(!format!("{config:?}").contains("D/In"));
    assert!(
        Setting::all()
            .iter()
            .all(|setting| !setting.text_in(&config).contains("D/In"))
    );
}

/// Lines that come near to what is meaningful.
fn any_line() -> impl Strategy<Value = String> {
    let keys: Vec<&'static str> = Setting::all()
        .iter()
        .map(|setting| setting.key)
        .filter(|key| *key != "clientPortAddress")
        .chain(["server.1", "group.1", "weight.1", "version", "sslQuorum"])
        .collect();
    let value = prop_oneof![
        "-?[0-9]{1,25}[a-zA-Z]{0,3}",
        "[0-9a-z:;|.\\[\\]]{0,20}",
        "true|false|yes|no|none|gz",
        "\\PC*",
    ];
    (proptest::sample::select(keys), value).prop_map(|(key, value)| format!("{key}={value}"))
}

proptest! {
    #[test]
    fn any_text_gives_settings_or_problems(text in "\\PC*") {
        let fixture = Fixture::new("");
        fs::write(fixture.path("zoo.cfg"), text).unwrap();
        let _ = fixture.source().read();
    }

    #[test]
    fn any_settings_are_checked_without_a_panic(
        lines in proptest::collection::vec(any_line(), 0..12),
        id in "-?[0-9]{0,21}",
    ) {
        let text = format!("dataDir=DIR\n{}\n", lines.join("\n"));
        let fixture = Fixture::new(&text).with("myid", &id);
        if let Ok(loaded) = fixture.source().load() {
            prop_assert!(loaded.config.validate().is_ok());
        }
    }
}
