//! `check`: everything that keeps a server from running well, in words, with what to do.

mod data;
mod ensemble;
mod network;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime},
};

use quorate_server::config::{Config, Problem, ProblemKind, Reading};
use rustix::process::{Resource, getrlimit};

use crate::{
    cli::Options,
    pid_file::{self, Holder},
    place::{self, Place},
};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    level: Level,
    subject: String,
    what: String,
    advice: String,
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, level: Level, subject: &str, what: impl Into<String>, advice: &str) {
        self.findings.push(Finding {
            level,
            subject: subject.to_owned(),
            what: what.into(),
            advice: advice.to_owned(),
        });
    }

    fn ok(&mut self, subject: &str, what: impl Into<String>) {
        self.add(Level::Ok, subject, what, "");
    }

    fn warning(&mut self, subject: &str, what: impl Into<String>, advice: &str) {
        self.add(Level::Warning, subject, what, advice);
    }

    fn error(&mut self, subject: &str, what: impl Into<String>, advice: &str) {
        self.add(Level::Error, subject, what, advice);
    }

    fn count(&self, level: Level) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    }

    /// Whether nothing keeps a server from running.
    pub(crate) fn passed(&self) -> bool {
        self.count(Level::Error) == 0
    }

    /// Prints the findings, one a line, each with what to do below it, and a summary.
    pub(crate) fn print(&self, out: &mut (impl Write + IsTerminal)) -> io::Result<()> {
        let colour = out.is_terminal();
        let width = self
            .findings
            .iter()
            .map(|found| found.subject.len())
            .max()
            .unwrap_or(0);
        for Finding {
            level,
            subject,
            what,
            advice,
        } in &self.findings
        {
            let (on, off) = match level {
                Level::Ok if colour => ("\x1b[32m", "\x1b[0m"),
                Level::Warning if colour => ("\x1b[33m", "\x1b[0m"),
                Level::Error if colour => ("\x1b[31m", "\x1b[0m"),
                _ => ("", ""),
            };
            writeln!(out, "{on}{level:<8}{off} {subject:<width$}  {what}")?;
            if !advice.is_empty() {
                writeln!(out, "{:8} {:<width$}  -> {advice}", "", "")?;
            }
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        writeln!(
            out,
            "{} checked: {errors} errors, {warnings} warnings",
            self.findings.len()
        )
    }
}

/// Looks at everything that the server at `place` needs. Changes nothing.
pub(crate) fn run(place: &Place, options: &Options) -> Report {
    let mut report = Report::default();
    let reading = place.read();
    settings(place, options, &reading, &mut report);
    let unreadable = |problem: &Problem| problem.kind == ProblemKind::Unreadable;
    if reading.problems.iter().any(unreadable) {
        // Whatever else there is to look at, they say where.
        return report;
    }
    let config = &reading.config;
    let running = process(config, options, &mut report);
    data::check(config, running, &mut report);
    my_id(config, &mut report);
    network::check(config, running, &mut report);
    ensemble::check(config, running, &mut report);
    clock(config, &mut report);
    open_files(config, &mut report);
    report
}

fn settings(place: &Place, options: &Options, reading: &Reading, report: &mut Report) {
    let file = place.file.as_ref().map(|file| file.display().to_string());
    let name = file.as_deref().unwrap_or("flags");
    if reading.problems.is_empty() {
        report.ok("settings", format!("{name} can be used"));
    }
    for problem in &reading.problems {
        let what = format!("{}: {}", problem.origin, problem.what);
        report.error("settings", what, &problem.advice);
    }
    for notice in &reading.notices {
        report.warning("settings", notice.to_string(), "");
    }
    for script in ["java.env", "zookeeper-env.sh"] {
        let script = place::settings_dir(options).join(script);
        if place.file.is_some() && script.is_file() {
            report.warning(
                "environment",
                format!("{} is not read", script.display()),
                "set what it exports (such as SERVER_JVMFLAGS) in the environment of the server",
            );
        }
    }
    if !reading.config.force_sync {
        report.warning(
            "forceSync",
            "acknowledged writes are lost when the machine fails",
            "remove forceSync=no unless the data may be lost",
        );
    }
}

/// Looks at the pid file; returns the pid of the server that runs.
fn process(config: &Config, options: &Options, report: &mut Report) -> Option<u32> {
    const SUBJECT: &str = "process";
    let path = place::pid_file(config, options);
    let shown = path.display();
    match pid_file::holder(&path) {
        Ok(Holder::Nobody) => report.ok(SUBJECT, format!("no server runs (no pid file {shown})")),
        Ok(Holder::Server(pid)) => {
            report.ok(
                SUBJECT,
                format!("the server runs as process {pid} ({shown})"),
            );
            return Some(pid);
        }
        Ok(Holder::Apache(pid)) => {
            report.warning(
                SUBJECT,
                format!("Apache ZooKeeper runs on this configuration as process {pid} ({shown})"),
                "stop it before this server is started on the same data",
            );
            return Some(pid);
        }
        Ok(Holder::Stale(why)) => report.warning(
            SUBJECT,
            format!("the pid file {shown} was left behind: {why}"),
            "nothing is to be done: the next start takes it over",
        ),
        Err(error) => report.error(
            SUBJECT,
            format!("cannot read the pid file {shown}: {error}"),
            "let this user read and write it, or name another by ZOOPIDFILE",
        ),
    }
    None
}

fn my_id(config: &Config, report: &mut Report) {
    let path = config.data_dir.join("myid");
    match &config.ensemble {
        Some(ensemble) if ensemble.members.servers.contains_key(&ensemble.my_id) => {
            let others = ensemble.members.servers.len() - 1;
            let id = ensemble.my_id;
            report.ok(
                "myid",
                format!("this is server {id} beside {others} others"),
            );
        }
        // What is wrong with it has been told with the settings.
        Some(_) => {}
        None if path.is_file() => {
            report.warning(
                "myid",
                "this server stands alone, and myid is ignored",
                "if it belongs to an ensemble, zoo.cfg lacks the server.N lines of its members",
            );
        }
        None => report.ok("myid", "not needed by a server that stands alone"),
    }
}

fn clock(config: &Config, report: &mut Report) {
    const SUBJECT: &str = "clock";
    const TOLERANCE: Duration = Duration::from_secs(60);
    let built = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600);
    let now = SystemTime::now();
    if now < built {
        report.error(
            SUBJECT,
            "the clock of this machine is in the past",
            "set it: the times of nodes and the TTL of nodes come from it",
        );
        return;
    }
    match data::newest_file(config) {
        Some((path, written)) if written > now + TOLERANCE => report.warning(
            SUBJECT,
            format!("{} was written in the future", path.display()),
            "the clock was set back, or the file comes from another machine; see that NTP runs",
        ),
        _ => report.ok(SUBJECT, "agrees with the times of the data files"),
    }
}

fn open_files(config: &Config, report: &mut Report) {
    const SUBJECT: &str = "open files";
    /// What a server needs besides its clients' connections, with room to spare.
    const OWN_USE: u64 = 64;
    let wanted = u64::from(config.max_cnxns.unwrap_or(1000)) + OWN_USE;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < wanted => report.warning(
            SUBJECT,
            format!("the limit of {limit} open files leaves room for few connections"),
            &format!("raise it to {wanted} or more (ulimit -n, LimitNOFILE= of systemd)"),
        ),
        Some(limit) => report.ok(SUBJECT, format!("up to {limit}")),
        None => report.ok(SUBJECT, "no limit"),
    }
}
