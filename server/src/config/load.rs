//! From `zoo.cfg`, the environment and flags to a [`Config`].

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, ConfigError, Ensemble, Members, Notice, Origin, Problem, ProblemKind, Scope, Setting,
    properties::{self, Property},
    unhonoured::{self, Treatment},
    values::{self, hexadecimal, integer},
};

/// Where the settings of a server come from.
///
/// What is added later wins over what was added earlier, and flags win over the file, which wins
/// over the environment.
///
/// ```no_run
/// use quorate_server::config::Source;
///
/// let loaded = Source::file("/etc/zookeeper/zoo.cfg")
///     .flag("--client-port", "clientPort", "2182")
///     .load()?;
/// for notice in &loaded.notices {
///     eprintln!("{notice}");
/// }
/// println!("clients connect to {:?}", loaded.config.client_address());
/// # Ok::<(), quorate_server::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Source {
    file: Option<PathBuf>,
    /// Variables and their content, in rising order of precedence.
    environment: Vec<(String, String)>,
    /// Flag, key and value.
    flags: Vec<(String, String, String)>,
}

/// Settings that a server can run with, and what is worth saying about them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Keys without effect, and other remarks.
    pub notices: Vec<Notice>,
}

/// Settings as far as they could be read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Reading {
    /// What could be read; the defaults for all else.
    pub config: Config,
    /// What keeps a server from running with it.
    pub problems: Vec<Problem>,
    /// Keys without effect, and other remarks.
    pub notices: Vec<Notice>,
}

impl Source {
    /// Starts from the settings in a file.
    pub fn file(path: impl Into<PathBuf>) -> Source {
        Source {
            file: Some(path.into()),
            ..Source::default()
        }
    }

    /// Starts from the defaults.
    pub fn defaults() -> Source {
        Source::default()
    }

    /// Adds the `-Dname=value` options in the content of an environment variable such as
    /// `SERVER_JVMFLAGS`.
    pub fn environment(mut self, variable: &str, content: &str) -> Source {
        self.environment
            .push((variable.to_owned(), content.to_owned()));
        self
    }

    /// Adds a setting that came from a flag of the command line.
    pub fn flag(mut self, flag: &str, key: &str, value: &str) -> Source {
        self.flags
            .push((flag.to_owned(), key.to_owned(), value.to_owned()));
        self
    }

    /// Reads the settings, and the files that they lead to (`myid`, `dynamicConfigFile`).
    ///
    /// # Errors
    /// Everything that is wrong, each with its line.
    pub fn load(self) -> Result<Loaded, ConfigError> {
        let Reading {
            config,
            problems,
            notices,
        } = self.read();
        ConfigError::check(problems)?;
        Ok(Loaded { config, notices })
    }

    /// Reads as [`Source::load`] does, and tells what could be read also when something is wrong.
    pub fn read(self) -> Reading {
        let mut reader = Reader::new(self.file.as_deref());
        for (variable, content) in &self.environment {
            reader.read_environment(variable, content);
        }
        if let Some(path) = &self.file
            && let Some(entries) = reader.read_properties(path)
        {
            reader.read_entries(path, entries);
        }
        for (flag, key, value) in &self.flags {
            reader.read_setting(key, value, &Origin::Flag(flag.clone()));
        }
        reader.finish()
    }
}

/// A `zoo.cfg` beyond this size is not one.
const LARGEST_FILE: u64 = 4 << 20;

struct Reader {
    config: Config,
    members: Members,
    /// Version of the members, in hex, from a key `version` or the name of the dynamic file.
    version: u64,
    /// Where each key was set that was.
    origins: HashMap<String, Origin>,
    /// What problems that concern no line are about.
    whole: Origin,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
}

impl Reader {
    fn new(file: Option<&Path>) -> Reader {
        let mut config = Config::blank();
        config.file = file.map(Path::to_owned);
        Reader {
            config,
            members: Members::default(),
            version: 0,
            origins: HashMap::new(),
            whole: match file {
                Some(path) => Origin::WholeFile(Arc::new(path.to_owned())),
                None => Origin::Code,
            },
            problems: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn problem(
        &mut self,
        origin: &Origin,
        key: &str,
        kind: ProblemKind,
        what: impl Into<String>,
        advice: &str,
    ) {
        self.problems.push(Problem {
            origin: origin.clone(),
            key: key.to_owned(),
            kind,
            what: what.into(),
            advice: advice.to_owned(),
        });
    }

    fn notice(&mut self, origin: &Origin, key: &str, text: impl Into<String>) {
        let notice = Notice {
            origin: origin.clone(),
            key: key.to_owned(),
            text: text.into(),
        };
        self.notices.push(notice);
    }

    /// Where `key` was set, or else the file as a whole.
    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).unwrap_or(&self.whole).clone()
    }

    fn read_environment(&mut self, variable: &str, content: &str) {
        let origin = Origin::Environment(variable.to_owned());
        let mut for_a_jvm = Vec::new();
        for option in content.split_whitespace() {
            let property = option
                .strip_prefix("-D")
                .map(|rest| rest.split_once('=').unwrap_or((rest, "")));
            match property {
                Some((name, value)) if Self::is_ours(name) => {
                    self.read_jvm_property(name, value, &origin);
                }
                _ => for_a_jvm.push(option),
            }
        }
        if !for_a_jvm.is_empty() {
            let text = format!("options for a JVM have no effect: {}", for_a_jvm.join(" "));
            self.notice(&origin, "", text);
        }
    }

    fn is_ours(property: &str) -> bool {
        let jvm = |setting: &Setting| setting.scope == Scope::Jvm && setting.key == property;
        property.starts_with("zookeeper.") || Setting::all().iter().any(jvm)
    }

    /// Reads a `-Dname=value`. A key of [`Scope::File`] does not work as a property.
    fn read_jvm_property(&mut self, name: &str, value: &str, origin: &Origin) {
        let key = name.strip_prefix("zookeeper.").unwrap_or(name);
        let in_file_only = |setting: &Setting| setting.scope == Scope::File && setting.key == key;
        if Setting::all().iter().any(in_file_only) || Members::owns(key) {
            let text = format!("has no effect as a JVM property; write {key}={value} in zoo.cfg");
            self.notice(origin, name, text);
        } else {
            self.read_setting(name, value, origin);
        }
    }

    /// Reads the entries of a file; says so when it cannot.
    fn read_properties(&mut self, path: &Path) -> Option<Vec<Property>> {
        let shared = Arc::new(path.to_owned());
        let whole = Origin::WholeFile(Arc::clone(&shared));
        let unreadable = ProblemKind::Unreadable;
        let error = match read_bounded(path) {
            Ok(bytes) => match properties::parse(&properties::decode(bytes)) {
                Ok(entries) => return Some(entries),
                Err(bad) => {
                    let origin = Origin::File {
                        path: shared,
                        line: bad.line,
                    };
                    let what = format!("error processing {}: {}", path.display(), bad.what);
                    self.problem(&origin, "", unreadable, what, "");
                    return None;
                }
            },
            Err(error) => error,
        };
        let advice = match error.kind() {
            std::io::ErrorKind::NotFound => "name the file that holds the settings, or create it",
            std::io::ErrorKind::PermissionDenied => "let this user read it",
            _ => "name a file of settings",
        };
        let what = format!("error processing {}: {error}", path.display());
        self.problem(&whole, "", unreadable, what, advice);
        None
    }

    fn read_entries(&mut self, path: &Path, entries: Vec<Property>) {
        let path = Arc::new(path.to_owned());
        let dynamic = entries.iter().any(|entry| entry.key == "dynamicConfigFile");
        let mut last: HashMap<String, usize> = HashMap::new();
        for entry in &entries {
            last.insert(entry.key.clone(), entry.line);
        }
        for entry in entries {
            let origin = Origin::File {
                path: Arc::clone(&path),
                line: entry.line,
            };
            let winner = last.get(&entry.key).copied().unwrap_or(entry.line);
            if winner != entry.line {
                let text = format!("has no effect: line {winner} sets it again");
                self.notice(&origin, &entry.key, text);
            } else if dynamic && Members::owns(&entry.key) {
                let what = "must be in a separate dynamic config file";
                let advice = "move it to the file that dynamicConfigFile names";
                self.problem(&origin, &entry.key, ProblemKind::Members, what, advice);
            } else {
                self.read_setting(&entry.key, &entry.value, &origin);
            }
        }
    }

    /// Takes in one setting, under a key with or without the prefix `zookeeper.`.
    fn read_setting(&mut self, key: &str, value: &str, origin: &Origin) {
        let bare = key.strip_prefix("zookeeper.").unwrap_or(key);
        let known = Setting::all()
            .iter()
            .find(|s| s.key == key || (s.scope != Scope::File && s.key == bare));
        if let Some(setting) = known {
            match (setting.set)(&mut self.config, value) {
                Ok(()) => self.remark_on(setting, value, origin),
                Err(what) => {
                    let unit = match setting.unit {
                        "" => String::new(),
                        unit => format!(", in {unit}"),
                    };
                    let advice = match setting.default_text() {
                        default if default.is_empty() => String::new(),
                        default => format!("its default is {default}{unit}"),
                    };
                    self.problem(origin, key, ProblemKind::BadValue, what, &advice);
                }
            }
            self.origins.insert(setting.key.to_owned(), origin.clone());
        } else if Members::owns(key) {
            self.read_member(key, value, origin);
        } else if key == "version" {
            match hexadecimal(value) {
                Ok(version) => self.version = version,
                Err(what) => self.problem(origin, key, ProblemKind::BadValue, what, ""),
            }
        } else {
            self.read_unhonoured(key, bare, value, origin);
        }
    }

    /// Says when a value is taken otherwise than it looks.
    fn remark_on(&mut self, setting: &Setting, value: &str, origin: &Origin) {
        let boolean = matches!(setting.unit, "true/false" | "yes/no");
        let shown = setting.text_in(&self.config);
        if boolean && !shown.eq_ignore_ascii_case(value) {
            let text = format!("{value:?} counts as {shown}; write {}", setting.unit);
            self.notice(origin, setting.key, text);
        }
    }

    fn read_member(&mut self, key: &str, value: &str, origin: &Origin) {
        if let Err(what) = self.members.add(key, value) {
            self.problem(origin, key, ProblemKind::Members, what, "");
        }
        self.origins.insert(key.to_owned(), origin.clone());
    }

    fn read_unhonoured(&mut self, key: &str, bare: &str, value: &str, origin: &Origin) {
        match unhonoured::treatment(bare) {
            Some(Treatment::NoEffect(why)) => {
                self.notice(origin, key, format!("known, and has no effect: {why}"));
            }
            Some(Treatment::Refused {
                kind,
                asks,
                what,
                advice,
            }) if asks(value) => {
                self.problem(origin, key, kind, what, advice);
            }
            Some(Treatment::Refused { .. }) => {}
            None => {
                let hint = match similar_key(bare) {
                    Some(working) => format!("; did you mean {working}?"),
                    None => String::new(),
                };
                self.notice(origin, key, format!("unknown, and has no effect{hint}"));
            }
        }
    }

    fn finish(mut self) -> Reading {
        self.raise_minima();
        self.read_dynamic_file();
        self.form_ensemble();
        self.remark_on_paths();
        for mut problem in self.config.problems() {
            problem.origin = self.origin(&problem.key);
            // What a file that cannot be read lacks, nobody knows.
            let told =
                |known: &Problem| known.key == problem.key || known.kind == ProblemKind::Unreadable;
            if !self.problems.iter().any(told) {
                self.problems.push(problem);
            }
        }
        self.problems
            .sort_by_key(|problem| line_of(&problem.origin));
        self.notices.sort_by_key(|notice| line_of(&notice.origin));
        Reading {
            config: self.config,
            problems: self.problems,
            notices: self.notices,
        }
    }

    fn raise_minima(&mut self) {
        let config = &mut self.config;
        let minima = [
            (
                "autopurge.snapRetainCount",
                &mut config.autopurge_snap_retain_count,
                3,
            ),
            ("snapCount", &mut config.snap_count, 2),
            ("commitLogCount", &mut config.commit_log_count, 500),
        ];
        let mut raised = Vec::new();
        for (key, value, least) in minima {
            if *value < least {
                raised.push((key, format!("{value} is too low; {least} is used")));
                *value = least;
            }
        }
        for (key, text) in raised {
            self.notice(&self.origin(key), key, text);
        }
    }

    fn remark_on_paths(&mut self) {
        let paths = [
            ("dataDir", Some(self.config.data_dir.clone())),
            ("dataLogDir", self.config.data_log_dir.clone()),
        ];
        for (key, path) in paths {
            if let Some(path) = path
                && path.is_relative()
                && !path.as_os_str().is_empty()
            {
                let text = format!(
                    "{} is relative: it depends on the directory in which the server is started",
                    path.display()
                );
                self.notice(&self.origin(key), key, text);
            }
        }
    }

    /// Reads the members from the file that `dynamicConfigFile` names.
    fn read_dynamic_file(&mut self) {
        let Some(path) = self.config.dynamic_config_file.clone() else {
            return;
        };
        let Some(entries) = self.read_properties(&path) else {
            return;
        };
        let shared = Arc::new(path.clone());
        for entry in entries {
            let origin = Origin::File {
                path: Arc::clone(&shared),
                line: entry.line,
            };
            if Members::owns(&entry.key) {
                self.read_member(&entry.key, &entry.value, &origin);
                continue;
            }
            let (what, advice) = match entry.key.as_str() {
                "version" => (
                    "dynamic file shouldn't have version inside".to_owned(),
                    "the version is the end of the file's name",
                ),
                key => (
                    format!("unrecognised parameter {key}"),
                    "it belongs in zoo.cfg",
                ),
            };
            self.problem(&origin, &entry.key, ProblemKind::Members, what, advice);
        }
        let suffix = path.extension().and_then(|extension| extension.to_str());
        self.version = suffix
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .unwrap_or(0);
    }

    /// Decides whether this server stands alone, and finds its own place among the members.
    fn form_ensemble(&mut self) {
        let standalone_enabled = self.config.standalone_enabled;
        let multi = self.config.multi_address_enabled;
        if let Err((key, what)) = self.members.check(standalone_enabled, multi) {
            self.problem(&self.origin(&key), &key, ProblemKind::Members, what, "");
        }
        let my_id = self.read_my_id();
        if let Some(id) = my_id {
            self.take_client_address(id);
        }
        let voters = self.members.voters().count();
        if voters < 2 && standalone_enabled {
            if voters == 1 {
                let text = "only one server is configured, so that it stands alone and its server.N line has no effect";
                self.notice(&self.whole.clone(), "", text);
            }
            return;
        }
        self.remark_on_votes(voters);
        let my_id = match my_id {
            Some(id) => self.check_membership(id),
            None => {
                self.missing_my_id();
                -1
            }
        };
        let members = std::mem::take(&mut self.members);
        self.config.ensemble = Some(Ensemble {
            my_id,
            version: self.version,
            members,
        });
    }

    fn remark_on_votes(&mut self, voters: usize) {
        let whole = self.whole.clone();
        if voters == 2 {
            let text = "with 2 voters no server may fail; 3 survive the loss of one";
            self.notice(&whole, "", text);
        } else if voters > 2 && voters.is_multiple_of(2) {
            let text = format!(
                "{voters} voters survive no more failures than {}; an odd number is better",
                voters - 1
            );
            self.notice(&whole, "", text);
        }
    }

    /// The number in `myid`, if that file is there and holds one.
    fn read_my_id(&mut self) -> Option<i64> {
        let path = self.config.data_dir.join("myid");
        if self.config.data_dir.as_os_str().is_empty() || !path.is_file() {
            return None;
        }
        let origin = Origin::WholeFile(Arc::new(path.clone()));
        let text = match read_bounded(&path) {
            Ok(bytes) => properties::decode(bytes),
            Err(error) => {
                let what = format!("cannot read {}: {error}", path.display());
                self.problem(
                    &origin,
                    "",
                    ProblemKind::MyId,
                    what,
                    "let this user read it",
                );
                return None;
            }
        };
        let first = text.lines().next().unwrap_or_default().trim();
        integer(first)
            .map_err(|_| {
                let what = format!("serverid {first:?} is not a number");
                let advice = "its first line is the N of this server's server.N line";
                self.problem(&origin, "", ProblemKind::MyId, what, advice);
            })
            .ok()
    }

    fn missing_my_id(&mut self) {
        let path = self.config.data_dir.join("myid");
        let told = self
            .problems
            .iter()
            .any(|problem| problem.kind == ProblemKind::MyId);
        if told || self.config.data_dir.as_os_str().is_empty() {
            return;
        }
        let what = format!("myid file is missing: {}", path.display());
        let advice = "write the N of this server's server.N line into it";
        self.problem(&self.whole.clone(), "", ProblemKind::MyId, what, advice);
    }

    /// Checks that server `id` is a member, and says what is odd about it.
    fn check_membership(&mut self, id: i64) -> i64 {
        let whole = self.whole.clone();
        match self.members.servers.get(&id).map(|server| server.role) {
            None => {
                let what = format!("My id {id} not in the peer list");
                let advice = "the number in myid must be the N of a server.N line";
                self.problem(&whole, "", ProblemKind::NotAMember, what, advice);
            }
            Some(role) => {
                if role != self.config.peer_type && self.origins.contains_key("peerType") {
                    let text = format!("has no effect: the line server.{id} says {role}");
                    self.notice(&self.origin("peerType"), "peerType", text);
                }
                self.config.peer_type = role;
            }
        }
        let largest = if self.config.extended_types_enabled {
            254
        } else {
            255
        };
        if !(1..=largest).contains(&id) {
            let what = format!("server id {id} is not between 1 and {largest}");
            match self.config.extended_types_enabled && id > largest {
                true => {
                    let advice = "extendedTypesEnabled=true needs a smaller number in myid";
                    self.problem(&whole, "", ProblemKind::MyId, what, advice);
                }
                false => {
                    let text = format!("{what}; its lowest byte may not make session ids unique");
                    self.notice(&whole, "", text);
                }
            }
        }
        id
    }

    /// A client address in this server's own line counts, and must fit `clientPort`.
    fn take_client_address(&mut self, id: i64) {
        let Some(client) = self
            .members
            .servers
            .get(&id)
            .and_then(|server| server.client.clone())
        else {
            return;
        };
        let key = format!("server.{id}");
        let origin = self.origin(&key);
        let address = match (values::HOST.parse)(&client.host) {
            Ok(Some(address)) => address,
            Ok(None) => return,
            Err(what) => return self.problem(&origin, &key, ProblemKind::Members, what, ""),
        };
        let same_host = self
            .config
            .client_port_address
            .is_none_or(|fixed| fixed.is_unspecified() || fixed == address);
        let same_port = self
            .config
            .client_port
            .is_none_or(|port| port == client.port);
        if !same_host || !same_port {
            let what = format!(
                "client address for this server (id = {id}) is {client} here and {} by clientPort",
                show_client_address(&self.config)
            );
            let advice = "remove clientPort and clientPortAddress, or make them agree";
            self.problem(&origin, &key, ProblemKind::Conflict, what, advice);
        }
        self.config.client_port = Some(client.port);
        self.config.client_port_address = match client.host.as_str() {
            // Without a host in the line Apache takes the IPv4 wildcard, by which Java means all
            // addresses of both kinds.
            "0.0.0.0" => None,
            _ => Some(address),
        };
    }
}

fn show_client_address(config: &Config) -> String {
    let host = config
        .client_port_address
        .as_ref()
        .map_or_else(|| "*".to_owned(), IpAddr::to_string);
    format!("{host}:{}", config.client_port.unwrap_or_default())
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > LARGEST_FILE {
        let what = format!("it is larger than {LARGEST_FILE} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

/// Sorts what is said: by line within a file, what concerns no line last.
fn line_of(origin: &Origin) -> usize {
    match origin {
        Origin::File { line, .. } => *line,
        _ => usize::MAX,
    }
}

/// The known key that `key` is probably a misspelling of.
fn similar_key(key: &str) -> Option<&'static str> {
    const LONGEST_KEY: usize = 64;
    if key.len() > LONGEST_KEY {
        return None;
    }
    let distance = |setting: &&Setting| {
        edit_distance(&key.to_ascii_lowercase(), &setting.key.to_ascii_lowercase())
    };
    let nearest = Setting::all().iter().min_by_key(distance)?;
    (distance(&nearest) <= 2).then_some(nearest.key)
}

/// How many characters must be inserted, removed or replaced to make one text the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
