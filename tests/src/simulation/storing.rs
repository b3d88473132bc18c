//! What disks do: one job after the other; and dumps of the tree.

use quorate_server::zab::{Input, Link};

use super::checker::{Checked, demand};
use super::member::{DiskHost, Done, Dump, DumpFor, Dumping, Job, Process};
use super::plan::{Death, MILLI};
use super::world::{Event, World};

impl World {
    pub(super) fn queue_job(&mut self, at: usize, job: Job) {
        if let Some(process) = self.members[at].process.as_deref_mut() {
            process.host.jobs.push_back(job);
        }
        self.work(at);
    }

    /// Lets an idle disk begin with what waits.
    pub(super) fn work(&mut self, at: usize) {
        let (least, most) = self.plan.disk;
        let member = &mut self.members[at];
        let Some(process) = member.process.as_deref_mut() else {
            return;
        };
        if process.host.jobs.is_empty() || process.host.busy || member.hangs {
            return;
        }
        process.host.busy = true;
        let (life, slowness) = (member.life, member.slowness);
        let delay = self.rng.u64(least..=most) * slowness;
        self.after(delay, Event::Disk(at, life));
    }

    pub(super) fn disk_done(&mut self, at: usize, life: u64) -> Checked {
        let hangs = self.members[at].hangs;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        process.host.busy = false;
        if hangs {
            return Ok(());
        }
        let worked = process.host.work();
        let (job, done) = match worked {
            Ok(Some(worked)) => worked,
            Ok(None) => return Ok(()),
            Err((job, err)) => {
                demand!(
                    "storage",
                    self.members[at].failing,
                    "member {}: {err}",
                    at + 1
                );
                self.interrupted[at] = Some(job);
                self.crash(at, Death::Disk);
                return Ok(());
            }
        };
        self.trace
            .note(self.now, || format!("{} | {}", at + 1, done));
        self.checker.disk(at, &job, &done)?;
        let routine = matches!(
            job,
            Job::Append { .. } | Job::Epoch { .. } | Job::Propound(_)
        );
        if !routine || self.rng.u8(..) < 2 {
            self.check_disk(at)?;
        }
        match done {
            Done::Said(input) => self.say(at, input),
            Done::Replaced(tree, input) => {
                self.counts.rewrites += 1;
                if let Some(process) = self.process(at, life) {
                    process.replace(*tree, matches!(job, Job::Install { .. }));
                }
                self.say(at, input);
            }
            Done::Nothing => {}
        }
        self.work(at);
        Ok(())
    }

    /// Recovers beside the running process from what would be left of its disk if the power went
    /// now.
    pub(super) fn check_disk(&mut self, at: usize) -> Checked {
        let member = &self.members[at];
        let disk = member.disk.lose_power(self.rng.u64(..));
        match DiskHost::recover(member, &disk, self.flaw()) {
            Ok(found) => {
                self.checker
                    .recovered(at, found.last_zxid, found.epochs, &found.tree, None)
            }
            Err(err) => {
                demand!(
                    "P8",
                    false,
                    "member {} would not start again: {err}",
                    at + 1
                );
                Ok(())
            }
        }
    }

    /// Lets a peer be told something, behind what it is to be told already.
    pub(super) fn say(&mut self, at: usize, input: Input) {
        if let Some(process) = self.members[at].process.as_deref_mut() {
            process.inbox.push_back(input);
        }
        let delay = self.rng.u64(..200);
        self.call(at, delay);
    }

    pub(super) fn read_log(&mut self, at: usize, link: Link, after: i64, upto: i64) {
        let delay = self.rng.u64(20..2_000);
        let life = self.members[at].life;
        if let Some(process) = self.members[at].process.as_deref_mut() {
            process.host.reads.push_back((link, after, upto));
            self.after(delay, Event::Read(at, life));
        }
    }

    pub(super) fn log_read(&mut self, at: usize, life: u64, event: Event) {
        if self.members[at].hangs {
            self.after(10 * MILLI, event);
            return;
        }
        let read = self
            .process(at, life)
            .and_then(|process| process.host.read());
        if let Some(input) = read {
            self.say(at, input);
        }
    }

    pub(super) fn dump(&mut self, at: usize, whom: DumpFor) {
        let life = self.members[at].life;
        if let Some(process) = self.members[at].process.as_deref_mut() {
            let idle = process.dumps.is_empty();
            process.dumps.push((whom, Dumping::new(&process.tree)));
            if idle {
                self.after(200, Event::Dump(at, life));
            }
        }
    }

    pub(super) fn go_on_dumping(&mut self, at: usize, life: u64, event: Event) -> Checked {
        if self.postponed(at, event) {
            return Ok(());
        }
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        let mut complete: Vec<(DumpFor, Dump)> = Vec::new();
        let Process { dumps, tree, .. } = process;
        dumps.retain_mut(|(whom, dumping)| match dumping.go_on(tree) {
            Some(dump) => {
                complete.push((*whom, dump));
                false
            }
            None => true,
        });
        if !dumps.is_empty() {
            let delay = self.rng.u64(100..5_000);
            self.after(delay, event);
        }
        for (whom, dump) in complete {
            match whom {
                DumpFor::Disk => {
                    let purges = self.plan.purges;
                    self.queue_job(at, Job::Snapshot(Box::new(dump), purges));
                }
                DumpFor::Learner(wire) => self.dumped(wire, dump),
            }
        }
        Ok(())
    }
}
