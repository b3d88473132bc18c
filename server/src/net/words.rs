//! Four-letter words: questions of operators and their scripts
//! (spec: client protocol, section 14).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use quorate_proto::OpCode;

use super::Connection;
use crate::config::{FourLetterWords, PeerType};
use crate::service::{Mode, Service, wall_clock};
use crate::txn::Roster;

/// What servers of the family say of their version, with ours behind it.
const VERSION: &str = concat!(
    "3.9.5-quorate-",
    env!("CARGO_PKG_VERSION"),
    ", built on 2026-11-20 00:00 UTC"
);

/// A word and how it is answered.
struct Word {
    name: &'static str,
    /// Answered also by a server that does not serve.
    always: bool,
    answer: fn(&Service, &mut String),
}

const fn word_of(name: &'static str, answer: fn(&Service, &mut String)) -> Word {
    Word {
        name,
        always: false,
        answer,
    }
}

const fn always(name: &'static str, answer: fn(&Service, &mut String)) -> Word {
    Word {
        name,
        always: true,
        answer,
    }
}

static WORDS: [Word; 18] = [
    word_of("conf", conf),
    word_of("cons", cons),
    word_of("crst", reset_connections),
    word_of("dirs", dirs),
    word_of("dump", dump),
    always("envi", envi),
    always("gtmk", trace_mask),
    word_of("hash", hash),
    always("isro", isro),
    word_of("mntr", mntr),
    always("ruok", ruok),
    word_of("srst", reset_server),
    word_of("srvr", srvr),
    word_of("stat", stat),
    always(SET_TRACE_MASK, trace_mask),
    word_of("wchc", watches_by_session),
    word_of("wchp", watches_by_path),
    word_of("wchs", watch_summary),
];

/// What telnet sends when it closes, which is no word that anybody could allow.
const TELNET_CLOSE: ([u8; 4], &str) = ([0xff, 0xf4, 0xff, 0xfd], "telnet close");

/// The word that a connection begins with, if it is one.
pub(super) fn word(input: &[u8]) -> Option<&'static str> {
    let begin = input.first_chunk::<4>()?;
    if *begin == TELNET_CLOSE.0 {
        return Some(TELNET_CLOSE.1);
    }
    let mut names = WORDS.iter().map(|word| word.name);
    names.find(|name| name.as_bytes() == begin)
}

/// Bytes that follow a word before it can be answered.
pub(super) fn argument_size(name: &str, allowed: &FourLetterWords) -> usize {
    if name == SET_TRACE_MASK && allowed.allows(name) {
        size_of::<i64>()
    } else {
        0
    }
}

/// The only word with an argument.
const SET_TRACE_MASK: &str = "stmk";

/// The answer to a word; `argument` is what follows it.
pub(super) fn answer(name: &str, argument: &[u8], service: &Service) -> Option<String> {
    if !service.config.four_letter_words.allows(name) {
        return Some(format!(
            "{name} is not executed because it is not in the whitelist.\n"
        ));
    }
    let word = WORDS.iter().find(|word| word.name == name)?;
    if !word.always && !service.is_serving() && !service.is_read_only() {
        return Some("This ZooKeeper instance is not currently serving requests\n".to_owned());
    }
    if name == SET_TRACE_MASK {
        let mask = argument.first_chunk::<8>()?;
        TRACE_MASK.store(i64::from_be_bytes(*mask), Relaxed);
    }
    let mut text = String::new();
    (word.answer)(service, &mut text);
    Some(text)
}

/// Writes to a text, which cannot fail.
macro_rules! say {
    ($out:expr, $($arg:tt)*) => {
        let _ = write!($out, $($arg)*);
    };
}

fn ruok(_: &Service, out: &mut String) {
    out.push_str("imok");
}

fn isro(service: &Service, out: &mut String) {
    out.push_str(match (service.is_serving(), service.is_read_only()) {
        (true, _) => "rw",
        (false, true) => "ro",
        (false, false) => "null",
    });
}

/// Nothing is traced by the mask of Apache's server; it is kept for the tools that set and get it.
static TRACE_MASK: AtomicI64 = AtomicI64::new(0b1_0011_0010);

fn trace_mask(_: &Service, out: &mut String) {
    say!(out, "{}", TRACE_MASK.load(Relaxed));
}

fn srvr(service: &Service, out: &mut String) {
    head(service, out);
    numbers(service, out);
}

fn stat(service: &Service, out: &mut String) {
    head(service, out);
    out.push_str("Clients:\n");
    for connection in connections(service) {
        describe(&connection, true, out);
    }
    out.push('\n');
    numbers(service, out);
}

fn head(service: &Service, out: &mut String) {
    say!(out, "Zookeeper version: {VERSION}\n");
    if service.is_read_only() {
        out.push_str("READ-ONLY mode; serving only read-only clients\n");
    }
}

/// What a server is to its clients.
fn mode_name(service: &Service) -> String {
    match service.is_read_only() {
        true => "read-only".to_owned(),
        false => service.mode().to_string(),
    }
}

/// The part that `srvr` and `stat` share.
fn numbers(service: &Service, out: &mut String) {
    let (zxid, nodes) = {
        let tree = service.tree();
        (tree.last_zxid(), tree.len())
    };
    let stats = &service.stats;
    let latency = &stats.latency;
    say!(
        out,
        "Latency min/avg/max: {}/{:?}/{}\n\
         Received: {}\nSent: {}\nConnections: {}\nOutstanding: {}\n\
         Zxid: {zxid:#x}\nMode: {}\nNode count: {}\n",
        latency.min(),
        four_decimals(latency.average()),
        latency.max(),
        stats.received.load(Relaxed),
        stats.sent.load(Relaxed),
        service.connections.len(),
        stats.outstanding.load(Relaxed),
        mode_name(service),
        nodes + COUNTED_TWICE,
    );
    if service.mode() == Mode::Leading {
        say!(out, "Proposal sizes last/min/max: {}\n", stats.proposals);
    }
}

/// The root has two names in Apache's table of nodes, and so counts twice there.
const COUNTED_TWICE: usize = 1;

fn four_decimals(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn cons(service: &Service, out: &mut String) {
    for connection in connections(service) {
        describe(&connection, false, out);
    }
    out.push('\n');
}

/// All connections, in the order in which they were accepted.
fn connections(service: &Service) -> Vec<std::sync::Arc<Connection>> {
    let mut all = service.connections.all();
    all.sort_by_key(|connection| connection.id());
    all
}

/// One line about a connection. The number in brackets says that its server waits for input, or,
/// without a session, that it does not.
fn describe(connection: &Connection, brief: bool, out: &mut String) {
    let stats = &connection.stats;
    let session = connection.session();
    let (received, sent) = (stats.received.load(Relaxed), stats.sent.load(Relaxed));
    let queued = match session {
        Some(_) => received.saturating_sub(sent),
        None => 0,
    };
    let reads = u8::from(session.is_some());
    let address = connection.address();
    say!(
        out,
        " /{address}[{reads}](queued={queued},recved={received},sent={sent}"
    );
    if let Some(session) = session.filter(|_| !brief) {
        say!(
            out,
            ",sid={:#x},lop={},est={},to={}",
            session.id(),
            operation(stats.last_op.load(Relaxed)),
            connection.established,
            session.timeout()
        );
        let cxid = stats.last_cxid.load(Relaxed);
        if cxid >= 0 {
            say!(out, ",lcxid={cxid:#x}");
        }
        let latency = &stats.latency;
        say!(
            out,
            ",lzxid={:#x},lresp={},llat={},minlat={},avglat={},maxlat={}",
            stats.last_zxid.load(Relaxed),
            stats.last_response.load(Relaxed),
            latency.last(),
            latency.min(),
            latency.average() as u64,
            latency.max()
        );
    }
    out.push_str(")\n");
}

/// The short name of an operation.
fn operation(number: i32) -> &'static str {
    use OpCode::{
        AddWatch, Check, CheckWatches, CloseSession, Create, Create2, CreateContainer,
        CreateSession, CreateTtl, Delete, Exists, GetAcl, GetAllChildrenNumber, GetChildren,
        GetChildren2, GetData, GetEphemerals, Multi, MultiRead, Notification, Ping, Reconfig,
        RemoveWatches, SetAcl, SetData, SetWatches, SetWatches2, Sync, WhoAmI,
    };
    let Ok(op) = OpCode::try_from(number) else {
        return "NA";
    };
    match op {
        // The handshake is the first thing that a connection does, and is no numbered operation.
        Notification | CreateSession => "SESS",
        Ping => "PING",
        Create | Create2 | CreateContainer | CreateTtl => "CREA",
        Delete => "DELE",
        Exists => "EXIS",
        GetData => "GETD",
        SetData => "SETD",
        GetAcl => "GETA",
        SetAcl => "SETA",
        GetChildren | GetChildren2 => "GETC",
        GetAllChildrenNumber => "GETACN",
        GetEphemerals => "GETE",
        Sync => "SYNC",
        Check => "CHEC",
        Multi => "MULT",
        MultiRead => "MLTR",
        Reconfig => "RECO",
        SetWatches => "SETW",
        SetWatches2 => "STW2",
        AddWatch => "ADDW",
        CheckWatches => "CHKW",
        RemoveWatches => "REMW",
        WhoAmI => "HOMI",
        CloseSession => "CLOS",
        _ => "NA",
    }
}

fn reset_connections(service: &Service, out: &mut String) {
    for connection in service.connections.all() {
        let stats = &connection.stats;
        stats.received.store(0, Relaxed);
        stats.sent.store(0, Relaxed);
        stats.last_op.store(OpCode::Error.number(), Relaxed);
        stats.last_cxid.store(-1, Relaxed);
        stats.last_zxid.store(-1, Relaxed);
        stats.last_response.store(0, Relaxed);
        stats.latency.reset();
    }
    out.push_str("Connection stats reset.\n");
}

fn reset_server(service: &Service, out: &mut String) {
    service.stats.reset();
    out.push_str("Server stats reset.\n");
}

fn conf(service: &Service, out: &mut String) {
    let config = &service.config;
    let timeouts = config.session_timeouts();
    let (data, log) = (config.snapshot_dir(), config.log_dir());
    say!(
        out,
        "clientPort={}\nsecureClientPort=-1\n\
         dataDir={}\ndataDirSize={}\ndataLogDir={}\ndataLogSize={}\n\
         tickTime={}\nmaxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\n\
         clientPortListenBacklog={}\nserverId={}\n",
        service
            .reception
            .address()
            .map_or(-1, |address| address.port().into()),
        data.display(),
        size(&data),
        log.display(),
        size(&log),
        config.tick_time.as_millis(),
        config.max_client_cnxns.unwrap_or(0),
        timeouts.start().as_millis(),
        timeouts.end().as_millis(),
        config.client_port_listen_backlog.map_or(-1, i64::from),
        config.server_id(),
    );
    if let Some(roster) = service.roster() {
        conf_of_member(service, roster, out);
    }
}

/// What a member of an ensemble goes by.
fn conf_of_member(service: &Service, roster: &Roster, out: &mut String) {
    let (config, membership) = (&service.config, roster.committed());
    let member = membership.members.servers.get(&roster.me());
    let address = member.and_then(|member| member.addresses.first());
    let observes = member.is_some_and(|member| member.role == PeerType::Observer);
    say!(
        out,
        "initLimit={}\nsyncLimit={}\nelectionAlg=3\nelectionPort={}\nquorumPort={}\n\
         peerType={}\nmembership: \n{membership}",
        config.init_limit,
        config.sync_limit,
        address.map_or(-1, |address| i32::from(address.election_port)),
        address.map_or(-1, |address| i32::from(address.quorum_port)),
        u8::from(observes),
    );
}

fn dirs(service: &Service, out: &mut String) {
    let data = size(&service.config.snapshot_dir());
    let log = size(&service.config.log_dir());
    say!(out, "datadir_size: {data}\nlogdir_size: {log}\n");
}

/// Bytes of all files in a directory and below.
fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn dump(service: &Service, out: &mut String) {
    let (sessions, now) = (service.sessions.lock().by_bucket(), service.now());
    out.push_str("SessionTracker dump:\n");
    if matches!(service.mode(), Mode::Following | Mode::Observing) {
        // When they expire is up to the leader.
        let mut sessions: Vec<_> = service.tree().sessions().collect();
        sessions.sort_unstable();
        say!(out, "Global Sessions({}):\n", sessions.len());
        for (session, timeout) in sessions {
            say!(out, "{session:#x}\t{timeout}ms\n");
        }
    } else {
        out.push_str("Session ");
        let shown = |id: &i64| format!("{id:#x}");
        let buckets = sessions
            .iter()
            .map(|(end, ids)| (*end, ids.iter().map(shown).collect()));
        expiries(buckets.collect(), now, out);
    }
    dump_ephemerals(service, out);
    out.push_str("Connections dump:\nConnections ");
    expiries(connection_expiries(service, &sessions), now, out);
}

/// Writes what expires in which bucket; times are milliseconds of the server's own clock.
fn expiries(buckets: BTreeMap<u64, Vec<String>>, now: u64, out: &mut String) {
    let total: usize = buckets.values().map(Vec::len).sum();
    say!(out, "Sets ({})/({total}):\n", buckets.len());
    for (end, mut members) in buckets {
        members.sort();
        let ahead = i64::try_from(end)
            .unwrap_or(i64::MAX)
            .saturating_sub_unsigned(now);
        let date = Timestamp::from_millisecond(wall_clock().saturating_add(ahead))
            .unwrap_or_default()
            .to_zoned(TimeZone::system())
            .strftime("%a %b %d %H:%M:%S %Z %Y");
        say!(out, "{} expire at {date}:\n", members.len());
        for member in members {
            say!(out, "\t{member}\n");
        }
    }
}

fn dump_ephemerals(service: &Service, out: &mut String) {
    let tree = service.tree();
    let mut owners: Vec<i64> = tree.ephemeral_owners().collect();
    owners.sort_unstable();
    say!(
        out,
        "ephemeral nodes dump:\nSessions with Ephemerals ({}):\n",
        owners.len()
    );
    for owner in owners {
        say!(out, "{owner:#x}:\n");
        let mut paths: Vec<_> = tree
            .ephemerals(owner)
            .map(crate::tree::Node::path)
            .collect();
        paths.sort_unstable();
        for path in paths {
            say!(out, "\t{path}\n");
        }
    }
}

/// When each connection would be closed if nothing more came.
fn connection_expiries(
    service: &Service,
    sessions: &BTreeMap<u64, Vec<i64>>,
) -> BTreeMap<u64, Vec<String>> {
    let ends: HashMap<i64, u64> = sessions
        .iter()
        .flat_map(|(end, ids)| ids.iter().map(|id| (*id, *end)))
        .collect();
    let patience = service.config.sessionless_cnxn_timeout.as_millis();
    let patience = u64::try_from(patience).unwrap_or(u64::MAX).max(1);
    let mut buckets: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for connection in service.connections.all() {
        let id = connection.session().map_or(0, |session| session.id());
        let end = match ends.get(&id) {
            Some(end) => *end,
            None => {
                let age = wall_clock().saturating_sub(connection.established);
                let begun = service.now().saturating_sub(age.max(0).cast_unsigned());
                begun.saturating_add(patience)
            }
        };
        let bucket = (end / patience).saturating_add(1).saturating_mul(patience);
        let shown = format!("ip: /{} sessionId: {id:#x}", connection.address());
        buckets.entry(bucket).or_default().push(shown);
    }
    buckets
}

fn watch_summary(service: &Service, out: &mut String) {
    let counts = service.watches.lock().counts();
    say!(
        out,
        "{} connections watching {} paths\nTotal watches:{}\n",
        counts.watchers,
        counts.paths,
        counts.total
    );
}

fn watches_by_session(service: &Service, out: &mut String) {
    let mut by_session: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, session) in watches(service) {
        by_session.entry(session).or_default().push(path);
    }
    tabulate(by_session, out);
}

fn watches_by_path(service: &Service, out: &mut String) {
    let mut by_path: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, session) in watches(service) {
        by_path.entry(path).or_default().push(session);
    }
    tabulate(by_path, out);
}

/// Each watch of the data table: its path, and the session of its watcher.
fn watches(service: &Service) -> Vec<(String, String)> {
    let sessions: HashMap<u64, i64> = service
        .connections
        .all()
        .iter()
        .filter_map(|connection| Some((connection.id(), connection.session()?.id())))
        .collect();
    let watches = service.watches.lock();
    watches
        .data_watches()
        .map(|(path, watcher)| {
            let session = sessions.get(&watcher).copied().unwrap_or(0);
            (path.to_owned(), format!("{session:#x}"))
        })
        .collect()
}

fn tabulate(table: BTreeMap<String, Vec<String>>, out: &mut String) {
    for (head, mut rows) in table {
        rows.sort();
        say!(out, "{head}\n");
        for row in rows {
            say!(out, "\t{row}\n");
        }
    }
    out.push('\n');
}

/// The digest of the whole tree as it is now, by which two servers can be compared.
fn hash(service: &Service, out: &mut String) {
    let (zxid, digest) = {
        let tree = service.tree();
        (tree.last_zxid(), tree.digest())
    };
    say!(out, "{zxid:x}: {}\n", digest.digest);
}

fn mntr(service: &Service, out: &mut String) {
    let (nodes, size, sessions, ephemerals) = {
        let tree = service.tree();
        let ephemerals: usize = tree
            .ephemeral_owners()
            .map(|owner| tree.ephemerals(owner).count())
            .sum();
        (tree.len(), tree.size(), tree.sessions().len(), ephemerals)
    };
    let stats = &service.stats;
    let latency = &stats.latency;
    let metrics: [(&str, &dyn std::fmt::Display); 18] = [
        ("version", &VERSION),
        ("server_state", &mode_name(service)),
        (
            "avg_latency",
            &format!("{:?}", four_decimals(latency.average())),
        ),
        ("max_latency", &latency.max()),
        ("min_latency", &latency.min()),
        ("packets_received", &stats.received.load(Relaxed)),
        ("packets_sent", &stats.sent.load(Relaxed)),
        ("num_alive_connections", &service.connections.len()),
        ("outstanding_requests", &stats.outstanding.load(Relaxed)),
        ("uptime", &service.now()),
        ("znode_count", &(nodes + COUNTED_TWICE)),
        ("watch_count", &service.watches.lock().total()),
        ("ephemerals_count", &ephemerals),
        ("approximate_data_size", &size),
        ("global_sessions", &sessions),
        ("local_sessions", &service.local_sessions.lock().len()),
        (
            "digest_mismatches_count",
            &stats.digest_mismatches.load(Relaxed),
        ),
        ("connection_drop_probability", &"0.0"),
    ];
    for (key, value) in metrics {
        say!(out, "zk_{key}\t{value}\n");
    }
    if let Some(roster) = service.roster() {
        mntr_of_member(service.mode(), roster, out);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        say!(out, "zk_open_file_descriptor_count\t{}\n", open.count());
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    say!(
        out,
        "zk_max_file_descriptor_count\t{}\n",
        limit.unwrap_or(u64::MAX)
    );
}

/// What a member of an ensemble knows of the others.
fn mntr_of_member(mode: Mode, roster: &Roster, out: &mut String) {
    let doing = match mode {
        Mode::Leading => "leading - broadcast",
        Mode::Following => "following - broadcast",
        Mode::Observing => "observing - broadcast",
        Mode::Standalone | Mode::Paused(_) => "looking",
    };
    let voters = roster.committed().members.voters().count();
    say!(out, "zk_peer_state\t{doing}\nzk_quorum_size\t{voters}\n");
    if mode == Mode::Leading {
        // Only those that have everything are learners here.
        let (followers, observers) = roster.learners();
        for (key, count) in [
            ("learners", followers + observers),
            ("followers", followers),
            ("synced_followers", followers),
            ("synced_observers", observers),
        ] {
            say!(out, "zk_{key}\t{count}\n");
        }
    }
}

fn envi(_: &Service, out: &mut String) {
    let system = rustix::system::uname();
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| UNKNOWN.to_owned());
    const UNKNOWN: &str = "<NA>";
    let directory = std::env::current_dir()
        .map_or_else(|_| UNKNOWN.to_owned(), |path| path.display().to_string());
    let memory = Memory::read();
    say!(out, "Environment:\nzookeeper.version={VERSION}\n");
    say!(out, "host.name={}\n", system.nodename().to_string_lossy());
    // Scripts may look for the names; there is no JVM to tell of.
    for name in [
        "version",
        "vendor",
        "home",
        "class.path",
        "library.path",
        "io.tmpdir",
        "compiler",
    ] {
        say!(out, "java.{name}={UNKNOWN}\n");
    }
    say!(
        out,
        "os.name={}\nos.arch={}\nos.version={}\n",
        system.sysname().to_string_lossy(),
        system.machine().to_string_lossy(),
        system.release().to_string_lossy()
    );
    say!(
        out,
        "user.name={}\nuser.home={}\nuser.dir={directory}\n",
        variable("USER"),
        variable("HOME")
    );
    say!(
        out,
        "os.memory.free={}MB\nos.memory.max={}MB\nos.memory.total={}MB\n",
        memory.free,
        memory.total,
        memory.used
    );
}

/// Memory in MiB: free and in total on this machine, and used by this process.
#[derive(Default)]
struct Memory {
    free: u64,
    total: u64,
    used: u64,
}

impl Memory {
    fn read() -> Memory {
        let kib = |file: &str, key: &str| -> u64 {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Memory {
            free: kib("/proc/meminfo", "MemAvailable:") / 1024,
            total: kib("/proc/meminfo", "MemTotal:") / 1024,
            used: kib("/proc/self/status", "VmRSS:") / 1024,
        }
    }
}
