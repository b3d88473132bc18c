//! What region servers note while they serve, and the proof that is drawn from it.
//!
//! Each process appends to a journal of its own, with the time of a clock that all processes of a
//! host share. What the journals say about writes can be compared with what the servers of the
//! ensemble say: each write of a region is a version of its znode, and versions have one order.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use quorate_examples::Failure;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) type Moment = i64;

/// The time, as every process of this host has it.
pub(crate) fn now() -> Moment {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Something that a region server noted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) region: String,
    /// The fencing token: which grant of the region it was under.
    pub(crate) epoch: u64,
    /// When it happened, or for writes, was asked for.
    pub(crate) at: Moment,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// The region is served from now on; until `lease` if no server of the ensemble is heard again.
    Granted { lease: Moment },
    /// The servers accepted a write, as this version.
    Wrote {
        version: i32,
        answered: Moment,
        lease: Moment,
    },
    /// The connection was lost before the answer.
    Unknown,
    /// The servers refused a write.
    Refused,
    /// The region is not served any more.
    Ended,
}

/// A file to which a region server appends.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn create(path: &Path) -> io::Result<Journal> {
        let options = OpenOptions::new().create(true).append(true).open(path);
        options.map(Journal)
    }

    /// Notes an entry. What was noted is there whatever happens to the process.
    pub(crate) fn note(&self, entry: &Entry) -> Result<(), Failure> {
        let line = serde_json::to_string(entry)? + "\n";
        Ok((&self.0).write_all(line.as_bytes())?)
    }
}

/// One life of a region server, from its start to its end.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) name: String,
    /// When it was dead for sure.
    pub(crate) ended: Moment,
    pub(crate) entries: Vec<Entry>,
}

impl Life {
    /// Reads the journal of a process that has ended.
    pub(crate) fn read(name: &str, journal: &Path, ended: Moment) -> Result<Life, Failure> {
        let text = match fs::read_to_string(journal) {
            // It died before it had served anything.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let lines = text.split_inclusive('\n');
        let whole = lines.filter(|line| line.ends_with('\n'));
        let entries = whole.map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Life {
            name: name.to_owned(),
            ended,
            entries: entries.map_err(|error| format!("{}: {error}", journal.display()))?,
        })
    }
}

/// What the servers of the ensemble say about a region in the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    /// Under which grant it was written last.
    pub(crate) epoch: u64,
    pub(crate) version: i32,
}

/// All that is known in the end.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) lives: Vec<Life>,
    pub(crate) regions: BTreeMap<String, Last>,
    /// When every region was to be served.
    pub(crate) curtain: Moment,
}

/// Something that was done to a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) begin: Moment,
    pub(crate) end: Moment,
    /// Is it the worse for it?
    pub(crate) harms: bool,
}

/// What was proved.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    regions: usize,
    grants: usize,
    writes: usize,
    refused: usize,
    unknown: usize,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proof {
            regions,
            grants,
            writes,
            refused,
            unknown,
        } = self;
        write!(
            f,
            "no region was served by two at once: {regions} regions, {grants} grants with rising \
             tokens, {writes} writes in their order, {refused} refused, {unknown} of unknown outcome"
        )
    }
}

/// The time in which a process served a region under one grant.
struct Service<'a> {
    epoch: u64,
    who: &'a str,
    from: Moment,
    until: Moment,
    /// It did not end by its own account.
    open: bool,
    unknown: usize,
    refused: usize,
}

/// A write that the servers accepted.
struct Accepted<'a> {
    version: i32,
    epoch: u64,
    who: &'a str,
    asked: Moment,
    answered: Moment,
}

impl Evidence {
    /// Checks that no region was served by two at once, and that all are served in the end; an error
    /// says which was not, and by whom.
    pub(crate) fn prove(&self) -> Result<Proof, String> {
        let mut proof = Proof::default();
        for (region, last) in &self.regions {
            let services = self.services(region)?;
            let writes = self.writes(region);
            let wrong = |what| format!("{region}: {what}");
            one_after_the_other(&services).map_err(wrong)?;
            in_order(&writes).map_err(wrong)?;
            served_in_the_end(&services, *last, self.curtain).map_err(wrong)?;
            accounted_for(&services, &writes, *last).map_err(wrong)?;
            proof.regions += 1;
            proof.grants += services.len();
            proof.writes += writes.len();
            proof.refused += services.iter().map(|s| s.refused).sum::<usize>();
            proof.unknown += services.iter().map(|s| s.unknown).sum::<usize>();
        }
        Ok(proof)
    }

    /// Who served a region, in the order of the grants.
    fn services<'a>(&'a self, region: &'a str) -> Result<Vec<Service<'a>>, String> {
        let mut services: BTreeMap<u64, Service<'a>> = BTreeMap::new();
        for (life, entry) in self.entries(region) {
            if let What::Granted { lease } = entry.what {
                let service = Service {
                    epoch: entry.epoch,
                    who: &life.name,
                    from: entry.at,
                    until: lease.min(life.ended),
                    open: true,
                    unknown: 0,
                    refused: 0,
                };
                if let Some(other) = services.insert(entry.epoch, service) {
                    let (epoch, who) = (entry.epoch, &life.name);
                    return Err(format!(
                        "{region}: token {epoch} went to {} and {who}",
                        other.who
                    ));
                }
                continue;
            }
            let service = services.get_mut(&entry.epoch);
            let Some(service) = service.filter(|service| service.who == life.name) else {
                let (epoch, who) = (entry.epoch, &life.name);
                return Err(format!(
                    "{region}: {who} used token {epoch} without a grant"
                ));
            };
            match entry.what {
                What::Wrote { lease, .. } => service.until = lease.min(life.ended),
                What::Unknown => service.unknown += 1,
                What::Refused => service.refused += 1,
                What::Ended => (service.until, service.open) = (entry.at, false),
                What::Granted { .. } => {}
            }
        }
        Ok(services.into_values().collect())
    }

    /// The accepted writes of a region, in the order of the servers.
    fn writes<'a>(&'a self, region: &'a str) -> Vec<Accepted<'a>> {
        let entries = self.entries(region);
        let writes = entries.filter_map(|(life, entry)| match entry.what {
            What::Wrote {
                version, answered, ..
            } => Some(Accepted {
                version,
                epoch: entry.epoch,
                who: &life.name,
                asked: entry.at,
                answered,
            }),
            _ => None,
        });
        let mut writes: Vec<_> = writes.collect();
        writes.sort_by_key(|write| (write.version, write.epoch));
        writes
    }

    fn entries<'a>(&'a self, region: &'a str) -> impl Iterator<Item = (&'a Life, &'a Entry)> {
        let entries = |life: &'a Life| life.entries.iter().map(move |entry| (life, entry));
        let entries = self.lives.iter().flat_map(entries);
        entries.filter(move |(_, entry)| entry.region == region)
    }

    /// The longest time in which a region had no write, for each of `events` that it can be blamed
    /// on, with the region.
    pub(crate) fn gaps(&self, events: &[Event]) -> Vec<(Moment, String)> {
        let mut longest = vec![(0, String::new()); events.len()];
        for region in self.regions.keys() {
            for pair in self.writes(region).windows(2) {
                let (from, to) = (pair[0].asked, pair[1].answered);
                if let Some(blamed) = blame(events, from, to)
                    && to - from > longest[blamed].0
                {
                    longest[blamed] = (to - from, region.clone());
                }
            }
        }
        longest
    }
}

/// Which event had the consequence that there was no write in this time: the first in it that does
/// harm, else the first in it, else the last before.
fn blame(events: &[Event], from: Moment, to: Moment) -> Option<usize> {
    let within = |event: &Event| event.begin <= to && event.end >= from;
    let harm = events.iter().position(|event| event.harms && within(event));
    harm.or_else(|| events.iter().position(within))
        .or_else(|| events.iter().rposition(|event| event.end < from))
}

/// Later grants must begin after the end of earlier ones.
fn one_after_the_other(services: &[Service<'_>]) -> Result<(), String> {
    for pair in services.windows(2) {
        let [before, after] = pair else { continue };
        if after.from < before.until {
            let both = (before.until.min(after.until) - after.from) as f64 / 1e6;
            return Err(format!(
                "{} (token {}) and {} (token {}) served it at once, for {both:.1} ms",
                before.who, before.epoch, after.who, after.epoch
            ));
        }
    }
    Ok(())
}

/// No write of an earlier grant may come behind one of a later grant.
fn in_order(writes: &[Accepted<'_>]) -> Result<(), String> {
    for pair in writes.windows(2) {
        let [before, after] = pair else { continue };
        if after.version == before.version {
            let (version, one, other) = (after.version, before.who, after.who);
            return Err(format!("{one} and {other} both wrote version {version}"));
        }
        if after.epoch < before.epoch {
            return Err(format!(
                "{} (token {}) wrote version {} after {} (token {}) had written version {}",
                after.who, after.epoch, after.version, before.who, before.epoch, before.version
            ));
        }
    }
    Ok(())
}

/// Versions that nobody has noted must be writes whose answer somebody did not live to note.
fn accounted_for(
    services: &[Service<'_>],
    writes: &[Accepted<'_>],
    last: Last,
) -> Result<(), String> {
    let noted = writes.iter().filter(|write| write.version <= last.version);
    let versions = usize::try_from(last.version).unwrap_or(0);
    let missing = versions.saturating_sub(noted.count());
    let open = services.iter().filter(|service| service.open).count();
    let unknown: usize = services.iter().map(|service| service.unknown).sum();
    match missing <= unknown + open {
        true => Ok(()),
        false => Err(format!(
            "{missing} of {} versions are in no journal",
            last.version
        )),
    }
}

/// The last one who got it must serve it.
fn served_in_the_end(services: &[Service<'_>], last: Last, curtain: Moment) -> Result<(), String> {
    match services.last() {
        None => Err("nobody has ever served it".to_owned()),
        Some(service) if service.until < curtain => Err(format!(
            "{} (token {}) has stopped, and nobody serves it in the end",
            service.who, service.epoch
        )),
        Some(service) if service.epoch != last.epoch => Err(format!(
            "it is with {} (token {}), and was written last under token {}",
            service.who, service.epoch, last.epoch
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(epoch: u64, at: Moment, what: What) -> Entry {
        let region = "r".to_owned();
        Entry {
            region,
            epoch,
            at,
            what,
        }
    }

    fn granted(epoch: u64, at: Moment) -> Entry {
        entry(epoch, at, What::Granted { lease: at + 20 })
    }

    fn wrote(epoch: u64, at: Moment, version: i32) -> Entry {
        let (answered, lease) = (at + 1, at + 20);
        let what = What::Wrote {
            version,
            answered,
            lease,
        };
        entry(epoch, at, what)
    }

    /// `a` serves from 0 to 30, where it dies; `b` from 50 on.
    fn evidence() -> Evidence {
        let life = |name: &str, ended, entries| Life {
            name: name.to_owned(),
            ended,
            entries,
        };
        let a = vec![granted(1, 0), wrote(1, 10, 1), wrote(1, 20, 2)];
        let b = vec![granted(2, 50), wrote(2, 60, 3), wrote(2, 70, 4)];
        let last = Last {
            epoch: 2,
            version: 4,
        };
        Evidence {
            lives: vec![life("a", 30, a), life("b", 100, b)],
            regions: BTreeMap::from([("r".to_owned(), last)]),
            curtain: 75,
        }
    }

    #[track_caller]
    fn refuted(change: impl FnOnce(&mut Evidence), by: &str) {
        let mut evidence = evidence();
        change(&mut evidence);
        let found = evidence.prove().unwrap_err();
        assert_eq!(found, format!("r: {by}"));
    }

    #[test]
    fn what_is_right_is_proved() {
        let proof = evidence().prove().unwrap();
        assert_eq!((proof.grants, proof.writes), (2, 4));
    }

    #[test]
    fn the_lease_of_one_that_was_paused_ends_its_service() {
        let mut paused = evidence();
        paused.lives[0].ended = 90;
        assert!(paused.prove().is_ok());
        paused.lives[0].entries.push(entry(1, 80, What::Refused));
        paused.lives[0].entries.push(entry(1, 40, What::Ended));
        assert_eq!(paused.prove().unwrap().refused, 1);
    }

    #[test]
    fn two_at_once_are_found() {
        refuted(
            |it| it.lives[0].entries.push(entry(1, 52, What::Ended)),
            "a (token 1) and b (token 2) served it at once, for 0.0 ms",
        );
        refuted(
            |it| it.lives[1].entries[0].at = 29,
            "a (token 1) and b (token 2) served it at once, for 0.0 ms",
        );
        refuted(
            |it| it.lives[0].entries[0] = granted(2, 0),
            "a used token 1 without a grant",
        );
        refuted(
            |it| it.lives[0].entries = vec![granted(2, 0)],
            "token 2 went to a and b",
        );
    }

    #[test]
    fn writes_of_zombies_are_found() {
        refuted(
            |it| {
                it.lives[0].entries.push(wrote(1, 65, 4));
                it.lives[0].entries.push(entry(1, 40, What::Ended));
                it.lives[1].entries[2] = wrote(2, 70, 5);
            },
            "a (token 1) wrote version 4 after b (token 2) had written version 3",
        );
        refuted(
            |it| it.lives[1].entries[1] = wrote(2, 60, 2),
            "a and b both wrote version 2",
        );
        refuted(
            |it| it.regions.values_mut().for_each(|last| last.version = 7),
            "3 of 7 versions are in no journal",
        );
    }

    #[test]
    fn what_is_not_served_in_the_end_is_found() {
        refuted(
            |it| it.lives[1].entries.push(entry(2, 72, What::Ended)),
            "b (token 2) has stopped, and nobody serves it in the end",
        );
        refuted(
            |it| it.regions.values_mut().for_each(|last| last.epoch = 1),
            "it is with b (token 2), and was written last under token 1",
        );
        refuted(|it| it.lives.clear(), "nobody has ever served it");
    }

    #[test]
    fn gaps_belong_to_the_harm_in_them_or_to_what_went_before() {
        let event = |begin, end, harms| Event { begin, end, harms };
        let lengths = |events: &[Event]| -> Vec<Moment> {
            let gaps = evidence().gaps(events).into_iter();
            gaps.map(|(length, _)| length).collect()
        };
        // The gaps are from 10 to 21, from 20 to 61, and from 60 to 71.
        let harm = [(5, 12), (22, 30), (55, 55), (65, 66)];
        let harm = harm.map(|(begin, end)| event(begin, end, true));
        assert_eq!(lengths(&harm), [11, 41, 0, 11]);
        let returns = [event(22, 22, false), event(23, 23, true)];
        assert_eq!(lengths(&returns), [0, 41]);
        assert_eq!(lengths(&[event(5, 5, false)]), [41]);
        assert_eq!(lengths(&[event(200, 200, true)]), [0]);
    }
}
