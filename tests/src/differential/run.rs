//! Runs programs on two servers, compares, and makes a failing program small.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::generate::{self, Generator};
use super::observe::{Seen, Side, What};
use super::program::{Program, SLOTS, Step, op_name};
use super::rules::{Verdict, Version, Versions, judge};
use super::tree::{self, Tree};
use crate::apache::Apache;
use crate::ours::Quorate;
use crate::process::{ServerProcess, Settings};

/// How long the search for a smaller program may take, unless `QUORATE_DIFFERENTIAL_SHRINK` says
/// how many seconds.
const SHRINK_TIME: Duration = Duration::from_secs(120);

/// One of the two kinds of server.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Apache ZooKeeper.
    Apache(Apache),
    /// Our server.
    Quorate(Quorate),
}

impl Kind {
    fn prepare(&self, settings: &Settings) -> ServerProcess {
        match self {
            Kind::Apache(apache) => ServerProcess::prepare(apache.clone(), settings.clone()),
            Kind::Quorate(ours) => ServerProcess::prepare(ours.clone(), settings.clone()),
        }
    }

    fn side(&self, settings: &Settings) -> Side {
        let mut server = self.prepare(settings);
        server.restart();
        Side::new(server, matches!(self, Kind::Apache(_)))
    }
}

/// The two servers that are compared: the reference first.
pub type Pair = [Kind; 2];

/// What was compared, for the reader to see what was covered.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Requests sent to each of the servers.
    pub requests: u64,
    /// Answers by opcode and error code.
    pub answers: BTreeMap<(String, i32), u64>,
    /// Events by type.
    pub events: BTreeMap<String, u64>,
    /// Differences that have a reason, by the reason.
    pub explained: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Adds up two reports.
    pub fn add(&mut self, other: Report) {
        self.requests += other.requests;
        for (key, n) in other.answers {
            *self.answers.entry(key).or_default() += n;
        }
        for (key, n) in other.events {
            *self.events.entry(key).or_default() += n;
        }
        for (key, n) in other.explained {
            *self.explained.entry(key).or_default() += n;
        }
    }

    fn count(&mut self, seen: &Seen) {
        match &seen.what {
            What::Reply { op, err, .. } => {
                *self.answers.entry((op_name(*op), err.0)).or_default() += 1;
            }
            What::Event { kind, .. } => {
                *self.events.entry(format!("{kind:?}")).or_default() += 1;
            }
            _ => {}
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} requests compared", self.requests)?;
        let mut last = "";
        for ((op, err), n) in &self.answers {
            if op != last {
                write!(f, "{}  {op}:", if last.is_empty() { "" } else { "\n" })?;
                last = op;
            }
            write!(f, " {err} × {n},")?;
        }
        writeln!(f, "\n  events: {:?}", self.events)?;
        for (why, n) in &self.explained {
            writeln!(f, "  explained: {why} × {n}")?;
        }
        Ok(())
    }
}

/// Where two servers differ without a reason.
#[derive(Debug, Clone)]
pub struct Difference {
    /// After how many steps.
    pub steps: usize,
    /// What each of the servers answered.
    pub what: String,
}

/// Where steps come from: a generator, or a recorded program.
trait Source {
    fn next(&mut self, connected: [bool; SLOTS]) -> Option<Step>;
    fn learn(&mut self, seen: &[Seen]);
}

struct Recorded<'a>(std::slice::Iter<'a, Step>);

impl Source for Recorded<'_> {
    fn next(&mut self, _: [bool; SLOTS]) -> Option<Step> {
        self.0.next().cloned()
    }
    fn learn(&mut self, _: &[Seen]) {}
}

struct Generated {
    generator: Generator,
    steps: Vec<Step>,
    requests: usize,
    wanted: usize,
}

impl Source for Generated {
    fn next(&mut self, connected: [bool; SLOTS]) -> Option<Step> {
        if self.requests >= self.wanted && self.generator.may_end() {
            return None;
        }
        let step = self.generator.step(connected);
        self.requests += match &step {
            Step::Batch { requests, .. } => requests.len(),
            _ => 1,
        };
        self.steps.push(step.clone());
        Some(step)
    }

    fn learn(&mut self, seen: &[Seen]) {
        self.generator.learn(seen);
    }
}

/// The version of a server.
pub fn version(kind: &Kind) -> Version {
    let mut server = kind.prepare(&Settings::default());
    server.restart();
    version_of(&server)
}

fn version_of(server: &ServerProcess) -> Version {
    let text = server.version();
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no version"))
}

/// Runs the program of `seed` with about `requests` requests; `reference` is the version of the
/// reference, as [`version`] tells it.
///
/// # Errors
/// The first difference without a reason, with the smallest program found that shows it.
pub fn run_seed(
    pair: &Pair,
    seed: u64,
    requests: usize,
    reference: Version,
) -> Result<Report, String> {
    let settings = generate::settings(seed);
    let mut source = Generated {
        generator: Generator::new(seed, &settings, reference),
        steps: Vec::new(),
        requests: 0,
        wanted: requests,
    };
    let found = match execute(pair, &settings, &mut source) {
        Ok(report) => return Ok(report),
        Err(found) => found,
    };
    eprintln!(
        "seed {seed} after {} steps, to be shrunk:\n{}",
        found.steps, found.what
    );
    let mut program = Program {
        settings,
        steps: source.steps,
    };
    program.steps.truncate(found.steps);
    let (program, found) = shrink(pair, program, found);
    Err(explain(seed, &program, &found))
}

/// Runs a program that was recorded, or written by hand.
///
/// # Errors
/// The first difference without a reason.
pub fn replay(pair: &Pair, program: &Program) -> Result<Report, Difference> {
    let mut source = Recorded(program.steps.iter());
    execute(pair, &program.settings, &mut source)
}

fn execute(
    pair: &Pair,
    settings: &Settings,
    source: &mut dyn Source,
) -> Result<Report, Difference> {
    let mut left = pair[0].side(settings);
    let mut right = pair[1].side(settings);
    let versions = [&left, &right].map(|side| version_of(&side.server));
    let mut report = Report::default();
    let mut done = 0;
    let last = (0..SLOTS).map(|slot| Step::HangUp { slot });
    let mut last = last.collect::<Vec<_>>().into_iter();
    while let Some(step) = source
        .next(std::array::from_fn(|slot| left.connected(slot)))
        .or_else(|| last.next())
    {
        done += 1;
        let shown = step.clone();
        let differs = |what| Difference {
            steps: done,
            what: format!("{shown}\n{what}"),
        };
        left.begin(&step);
        right.begin(&step);
        let seen = [left.finish(&step), right.finish(&step)];
        let seen = match step {
            Step::Word(_) => settle(&step, seen, [&mut left, &mut right]),
            _ => seen,
        };
        compare(&versions, &seen, &mut report).map_err(differs)?;
        if let Step::Batch { requests, .. } = &step {
            report.requests += requests.len() as u64;
        }
        source.learn(&seen[0]);
    }
    compare_trees(pair, settings, left, right).map_err(|what| Difference { steps: done, what })?;
    Ok(report)
}

/// Servers notice that a client has hung up a little later: a word is asked again until the answers
/// agree, or do not for too long.
fn settle(step: &Step, mut seen: [Vec<Seen>; 2], mut sides: [&mut Side; 2]) -> [Vec<Seen>; 2] {
    let deadline = Instant::now() + Duration::from_secs(3);
    while seen[0] != seen[1] && Instant::now() < deadline {
        for (seen, side) in seen.iter_mut().zip(&mut sides) {
            *seen = side.finish(step);
        }
        std::thread::yield_now();
    }
    seen
}

fn compare(
    versions: &Versions,
    [left, right]: &[Vec<Seen>; 2],
    report: &mut Report,
) -> Result<(), String> {
    for i in 0..left.len().max(right.len()) {
        let verdict = match (left.get(i), right.get(i)) {
            (Some(left), Some(right)) => judge(versions, left, right),
            _ => None,
        };
        match verdict {
            Some(Verdict::Same) => {}
            Some(Verdict::Explained(rule)) => *report.explained.entry(rule.why).or_default() += 1,
            None => return Err(side_by_side(left, right, i)),
        }
        report.count(&left[i]);
    }
    Ok(())
}

/// The answers around the first difference.
fn side_by_side(left: &[Seen], right: &[Seen], at: usize) -> String {
    let mut text = String::new();
    for (name, seen) in [("reference", left), ("subject", right)] {
        text += &format!("{name}:\n");
        let from = at.saturating_sub(3);
        for (i, seen) in seen.iter().enumerate().skip(from).take(7) {
            let mark = if i == at { "→" } else { " " };
            text += &format!("  {mark} {seen}\n");
        }
        if seen.len() <= at {
            text += "  → nothing\n";
        }
    }
    text
}

/// The trees at the end of a program: of both servers, after a restart of each, and after each has
/// opened the other's directory.
fn compare_trees(
    pair: &Pair,
    settings: &Settings,
    mut left: Side,
    mut right: Side,
) -> Result<(), String> {
    let mut trees = [&left, &right].map(|side| tree::walk(side.server.address()));
    let lines = tree::difference(
        (&trees[0], Some(left.masks())),
        (&trees[1], Some(right.masks())),
    );
    told("the trees of reference and subject", &lines)?;
    for (side, tree) in [&mut left, &mut right].into_iter().zip(&mut trees) {
        side.server.kill();
        side.server.restart();
        tree::forget_usage(tree);
        let what = format!("the tree of {} after a restart", side.server.name());
        same(&side.server, tree, &what)?;
        side.server.stop();
    }
    for (kind, (origin, tree)) in pair.iter().zip([(&right, &trees[1]), (&left, &trees[0])]) {
        let mut server = kind.prepare(settings);
        copy(&origin.server.data_dir(), &server.data_dir());
        server.restart();
        let (name, origin) = (server.name(), origin.server.name());
        let what = format!("the tree of {name} in the directory of {origin}");
        same(&server, tree, &what)?;
    }
    Ok(())
}

fn same(server: &ServerProcess, before: &Tree, what: &str) -> Result<(), String> {
    let mut after = tree::walk(server.address());
    tree::forget_usage(&mut after);
    told(what, &tree::difference((before, None), (&after, None)))
}

fn told(what: &str, lines: &[String]) -> Result<(), String> {
    match lines.len() {
        0 => Ok(()),
        n => Err(format!(
            "{what}: {n} znodes differ\n{}",
            lines[..n.min(10)].join("\n")
        )),
    }
}

/// Copies a directory with what is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Looks for a smaller program that differs, too: without some of its steps, then without some of
/// its requests.
fn shrink(pair: &Pair, mut program: Program, mut found: Difference) -> (Program, Difference) {
    let seconds = std::env::var("QUORATE_DIFFERENTIAL_SHRINK").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    let deadline = Instant::now() + seconds.map_or(SHRINK_TIME, Duration::from_secs);
    let mut try_steps = |program: &mut Program, steps: Vec<Step>| -> bool {
        if Instant::now() > deadline {
            return false;
        }
        let smaller = Program {
            settings: program.settings.clone(),
            steps,
        };
        let Err(difference) = replay(pair, &smaller) else {
            return false;
        };
        *program = smaller;
        program.steps.truncate(difference.steps);
        found = difference;
        true
    };
    let same = program.steps.clone();
    if !try_steps(&mut program, same) {
        found.what += "It does not repeat.\n";
        return (program, found);
    }
    remove_parts(program.steps.len(), |from, to| {
        let mut steps = program.steps.clone();
        let to = to.min(steps.len());
        steps.drain(from.min(to)..to);
        try_steps(&mut program, steps).then_some(program.steps.len())
    });
    for at in (0..program.steps.len()).rev() {
        let Some(Step::Batch { requests, .. }) = program.steps.get(at) else {
            continue;
        };
        remove_parts(requests.len(), |from, to| {
            let mut steps = program.steps.clone();
            let Some(Step::Batch { requests, .. }) = steps.get_mut(at) else {
                return None;
            };
            let to = to.min(requests.len());
            requests.drain(from.min(to)..to);
            let left = requests.len();
            try_steps(&mut program, steps).then_some(left)
        });
    }
    (program, found)
}

/// Tries to remove ever smaller parts of a list of `len`; `remove` answers the new length where it
/// could.
fn remove_parts(mut len: usize, mut remove: impl FnMut(usize, usize) -> Option<usize>) {
    let mut part = len.div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < len {
            match remove(at, at + part) {
                Some(left) => len = left,
                None => at += part,
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
}

fn explain(seed: u64, program: &Program, found: &Difference) -> String {
    let settings: Vec<String> = program
        .settings
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let shown = program.steps.len().saturating_sub(60);
    let steps: Vec<String> = program.steps[shown..]
        .iter()
        .map(ToString::to_string)
        .collect();
    format!(
        "seed {seed} shows a difference; replay it with QUORATE_DIFFERENTIAL_SEED={seed}\n\
         settings: {}\n{shown} steps, then:\n{}\n{}",
        settings.join(" "),
        steps.join("\n"),
        found.what
    )
}
