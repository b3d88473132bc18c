//! The invariants of the specification (spec: Zab invariants), by their names there.
//!
//! Whatever a member does is shown to the [`Checker`] when it happens; it knows what every member
//! has on its disk, has applied, has promised. None of the checks looks into a member.

mod chain;
mod dialogue;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quorate_server::storage::epoch::{EpochFile, Epochs};
use quorate_server::tree::Tree;
use quorate_server::zab::election::Notification;
use quorate_server::zab::{Entry, Membership, Packet, Role, Sid, counter_of, epoch_of, zxid_of};

pub use chain::Chain;
use dialogue::Dialogue;

use super::member::{Done, Job};
use super::network::WireId;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name in the specification.
    pub rule: &'static str,
    /// How it was broken.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// What comes of a step.
pub type Checked<T = ()> = Result<T, Violation>;

/// Demands that something holds.
macro_rules! demand {
    ($rule:literal, $holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err($crate::simulation::checker::Violation {
                rule: $rule,
                what: format!($($what)*),
            });
        }
    };
}
pub(crate) use demand;

/// A transaction, as people write it.
pub struct Z(pub i64);

impl fmt::Display for Z {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What is known of a member.
#[derive(Debug)]
struct Seen {
    /// The configuration that it knows to be committed.
    config: Membership,
    /// On the disk, for sure.
    epochs: Epochs,
    /// The durable history.
    logged: i64,
    /// With what is on its way to the disk.
    appended: i64,
    applied: i64,
    /// Up to there the tree may show more than is applied, because it was dumped while it changed.
    fuzzy: i64,
    /// The epoch in which it serves.
    serves: Option<u32>,
    /// The last epoch in which it led a quorum.
    founded: u32,
    role: Role,
    /// The newest epoch that it took part in by an ACKEPOCH that counts, and what it said there
    /// each time of itself.
    promised: u32,
    offers: BTreeMap<u32, (u32, i64)>,
    /// It lost its disk, and has not got everything back yet.
    blank: bool,
    round: i64,
    /// Who voted for whom, as it was told since its search began.
    votes: BTreeMap<Sid, BTreeSet<Sid>>,
    /// Who votes in what a voter said to be proposed, since then.
    heard: BTreeSet<Sid>,
    /// It was told whom to follow, and did not have to search.
    told: bool,
    /// Whom it has found, since it has voted last.
    found: Option<Sid>,
}

impl Seen {
    /// Was this member, which is `own`, told of a quorum that votes for `leader`?
    fn has_votes_for(&self, leader: Sid, own: Sid) -> bool {
        self.config.is_quorum(|voter| {
            let votes = self.votes.get(&voter);
            voter == own || votes.is_some_and(|votes| votes.contains(&leader))
        })
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Checker {
    /// Everything that was ever proposed.
    pub chain: Chain,
    members: Vec<Seen>,
    dialogues: BTreeMap<WireId, Dialogue>,
    /// The newest committed transaction.
    pub committed: i64,
    /// The newest epoch whose leader had a quorum.
    pub established: u32,
    /// How many leaders had a quorum.
    pub leaders: u32,
}

impl Checker {
    /// Before anything has happened: the ensemble as it begins, and as each member knows it.
    pub fn new(config: Membership, known: Vec<Membership>) -> Self {
        let seen = |config| Seen {
            config,
            epochs: Epochs {
                accepted: 0,
                current: 0,
            },
            logged: 0,
            appended: 0,
            applied: 0,
            fuzzy: 0,
            serves: None,
            founded: 0,
            role: Role::Looking,
            promised: 0,
            offers: BTreeMap::new(),
            blank: false,
            round: 0,
            votes: BTreeMap::new(),
            heard: BTreeSet::new(),
            told: false,
            found: None,
        };
        Checker {
            chain: Chain::new(config),
            members: known.into_iter().map(seen).collect(),
            dialogues: BTreeMap::new(),
            committed: 0,
            established: 0,
            leaders: 0,
        }
    }

    /// The epoch in which a member serves.
    pub fn serves(&self, member: usize) -> Option<u32> {
        self.members[member].serves
    }

    /// The durable history of a member.
    pub fn logged(&self, member: usize) -> i64 {
        self.members[member].logged
    }

    /// The epochs on the disk of a member.
    pub fn epochs(&self, member: usize) -> Epochs {
        self.members[member].epochs
    }

    /// Would the ensemble live on without the disk of a member? Only if every quorum of the others
    /// has everything that was committed; and if they are one, too, under the configurations that
    /// they know to be committed: that a newer one is in force the member may have known alone.
    pub fn can_spare(&self, member: usize) -> bool {
        let others = |sid: Sid| {
            let seen = &self.members[index(sid)];
            index(sid) != member && !seen.blank && self.chain.contains(seen.logged, self.committed)
        };
        let mut members = self.members.iter();
        members.all(|seen| self.is_quorum(seen.appended, others) && seen.config.is_quorum(others))
    }

    /// The configuration in force.
    pub fn config(&self) -> &Membership {
        self.chain.config(self.committed)
    }

    /// Do these make a quorum for a history: of the configuration in force, and of those that the
    /// history is to bring into force?
    fn is_quorum(&self, history: i64, acks: impl Fn(Sid) -> bool) -> bool {
        let chain = &self.chain;
        let known = match chain.contains(history, self.committed) {
            true => self.committed,
            false => history,
        };
        let changes = chain.changes(known, history);
        let mut needed = [known].into_iter().chain(changes);
        needed.all(|change| chain.config(change).is_quorum(&acks))
    }

    /// A member has lost its disk.
    pub fn wiped(&mut self, member: usize) {
        let seen = &mut self.members[member];
        seen.blank = true;
        (seen.logged, seen.applied, seen.fuzzy) = (-1, 0, 0);
        seen.epochs = Epochs {
            accepted: 0,
            current: 0,
        };
    }

    /// A process has recovered from the disk, with what it knows of the ensemble. The `job` was
    /// under way when the last one died.
    pub fn started(
        &mut self,
        member: usize,
        config: &Membership,
        last_zxid: i64,
        epochs: Epochs,
        tree: &Tree,
        job: Option<&Job>,
    ) -> Checked {
        self.recovered(member, last_zxid, epochs, tree, job)?;
        let seen = &mut self.members[member];
        if let Some(Job::Install { dump, .. }) = job
            && last_zxid == dump.zxid()
        {
            seen.fuzzy = seen.fuzzy.max(dump.end());
        }
        seen.config = config.clone();
        seen.epochs = epochs;
        seen.logged = last_zxid;
        seen.appended = last_zxid;
        seen.applied = last_zxid.max(0);
        seen.serves = None;
        seen.role = Role::Looking;
        seen.round = 0;
        seen.votes.clear();
        seen.heard.clear();
        (seen.told, seen.found) = (false, None);
        self.nothing_lost()
    }

    /// What a process recovers from the disk: exactly what was durable, and perhaps a part of what
    /// was being written.
    pub fn recovered(
        &self,
        member: usize,
        last_zxid: i64,
        epochs: Epochs,
        tree: &Tree,
        job: Option<&Job>,
    ) -> Checked {
        let seen = &self.members[member];
        let chain = &self.chain;
        let before = seen.logged;
        let fits = last_zxid == before
            || match job {
                Some(Job::Append { entries, .. }) => {
                    entries.iter().any(|entry| entry.zxid == last_zxid)
                }
                Some(Job::Truncate { zxid }) => last_zxid == *zxid,
                Some(Job::Install { dump, .. }) => last_zxid == dump.zxid(),
                _ => false,
            };
        demand!(
            "P8",
            fits,
            "{} recovers {}, and had {} on its disk",
            name(member),
            Z(last_zxid),
            Z(before)
        );
        let Epochs { accepted, current } = seen.epochs;
        let (mut most_accepted, mut most_current) = (accepted, current);
        match job {
            Some(Job::Epoch {
                file: EpochFile::Accepted,
                epoch,
            }) => most_accepted = *epoch,
            Some(Job::Epoch {
                file: EpochFile::Current,
                epoch,
            }) => most_current = *epoch,
            _ => {}
        }
        // What the history says for sure may be taken for the epoch (spec: quorum protocol, 13).
        let repaired = current.max(epoch_of(last_zxid.max(0)));
        demand!(
            "P1",
            [accepted, most_accepted].contains(&epochs.accepted)
                && [current, most_current, repaired].contains(&epochs.current),
            "{} recovers {epochs:?}, and had {:?}",
            name(member),
            seen.epochs
        );
        let fuzzy = last_zxid < seen.fuzzy || matches!(job, Some(Job::Install { .. }));
        demand!(
            "P11",
            fuzzy || tree.digest().digest == chain.digest(last_zxid),
            "{} recovers another tree than there was at {}",
            name(member),
            Z(last_zxid)
        );
        Ok(())
    }

    /// The disk has done something.
    pub fn disk(&mut self, member: usize, job: &Job, done: &Done) -> Checked {
        match job {
            Job::Append { entries, .. } => {
                for entry in entries {
                    self.logs(member, entry)?;
                }
            }
            Job::Epoch { file, epoch } => self.writes_epoch(member, *file, *epoch)?,
            Job::Propound(_) | Job::Activate(_) => {}
            Job::Truncate { zxid } => {
                if matches!(done, Done::Replaced(..)) {
                    let seen = &mut self.members[member];
                    demand!(
                        "M5",
                        self.chain.contains(seen.logged, *zxid),
                        "{} cuts {} behind {}, which is not in it",
                        name(member),
                        Z(seen.logged),
                        Z(*zxid)
                    );
                    seen.logged = *zxid;
                    seen.applied = seen.applied.min(*zxid);
                    self.nothing_lost()?;
                }
            }
            Job::Install { dump, .. } => {
                let seen = &mut self.members[member];
                seen.logged = dump.zxid();
                seen.applied = dump.zxid();
                seen.fuzzy = dump.end();
                self.nothing_lost()?;
            }
            // What a snapshot shows beyond its number makes no difference: it is replayed.
            Job::Snapshot(dump, _) => {
                demand!(
                    "P12",
                    self.chain.contains(self.committed, dump.zxid()),
                    "{} writes a snapshot of {}, and {} is committed",
                    name(member),
                    Z(dump.zxid()),
                    Z(self.committed)
                );
            }
        }
        Ok(())
    }

    fn logs(&mut self, member: usize, entry: &Entry) -> Checked {
        let seen = &mut self.members[member];
        demand!(
            "P10",
            self.chain.parent(entry.zxid) == Some(seen.logged.max(0)),
            "{} logs {} behind {}",
            name(member),
            Z(entry.zxid),
            Z(seen.logged)
        );
        demand!(
            "S2",
            self.chain.entry(entry.zxid) == Some(entry),
            "{} logs another {} than was proposed",
            name(member),
            Z(entry.zxid)
        );
        seen.logged = entry.zxid;
        Ok(())
    }

    fn writes_epoch(&mut self, member: usize, file: EpochFile, epoch: u32) -> Checked {
        let initial = self.chain.initial(epoch);
        let leads = self.chain.leader(epoch) == Some(member);
        let seen = &mut self.members[member];
        let old = match file {
            EpochFile::Accepted => std::mem::replace(&mut seen.epochs.accepted, epoch),
            EpochFile::Current => std::mem::replace(&mut seen.epochs.current, epoch),
        };
        demand!(
            "P1",
            old <= epoch && seen.epochs.current <= seen.epochs.accepted,
            "{} writes {file:?} {epoch} over {old}: {:?}",
            name(member),
            seen.epochs
        );
        if file == EpochFile::Current && !leads {
            demand!(
                "P5",
                initial.is_some_and(|initial| self.chain.contains(seen.logged, initial)),
                "{} joins epoch {epoch} with {}, and the leader began with {}",
                name(member),
                Z(seen.logged),
                Z(initial.unwrap_or(-1))
            );
            seen.blank = false;
        }
        Ok(())
    }

    /// Every quorum of members that come back has somebody with everything that was committed.
    fn nothing_lost(&self) -> Checked {
        let lacks = |sid: Sid| {
            let seen = &self.members[index(sid)];
            !seen.blank && !self.chain.contains(seen.logged, self.committed)
        };
        demand!(
            "S9",
            !self.config().is_quorum(lacks),
            "{} is committed, and a quorum has lost it",
            Z(self.committed)
        );
        Ok(())
    }

    /// A leader sends out what is new, or has it appended, whatever comes first.
    pub fn proposes(&mut self, member: usize, entries: &[Entry]) -> Checked {
        for entry in entries {
            let epoch = epoch_of(entry.zxid);
            if self.chain.leader(epoch) != Some(member) || self.chain.entry(entry.zxid).is_some() {
                continue;
            }
            demand!(
                "S11",
                self.chain.next(epoch) == Some(entry.zxid),
                "{} proposes {} out of order",
                name(member),
                Z(entry.zxid)
            );
            demand!(
                "S8",
                self.members[member].serves == Some(epoch),
                "{} proposes {} before it leads",
                name(member),
                Z(entry.zxid)
            );
            demand!(
                "R1",
                !entry.is_reconfig()
                    || self
                        .chain
                        .changes(self.committed, entry.zxid - 1)
                        .is_empty(),
                "{} changes the members by {} before the last change is committed",
                name(member),
                Z(entry.zxid)
            );
            self.chain.propose(entry);
        }
        Ok(())
    }

    /// A member wants something to be appended.
    pub fn appends(&mut self, member: usize, entries: &[Entry]) -> Checked {
        self.proposes(member, entries)?;
        if let Some(last) = entries.last() {
            self.members[member].appended = last.zxid;
        }
        Ok(())
    }

    /// A member wants an epoch to be written. By its current epoch a leader begins to lead.
    pub fn wants_epoch(&mut self, member: usize, file: EpochFile, epoch: u32) -> Checked {
        let seen = &self.members[member];
        if file == EpochFile::Accepted || seen.role != Role::Leading {
            return Ok(());
        }
        demand!(
            "S1",
            self.chain.leader(epoch).is_none(),
            "{} leads epoch {epoch}, and {} has led it",
            name(member),
            name(self.chain.leader(epoch).unwrap_or(member))
        );
        let own = (seen.epochs.current, seen.appended);
        let yields = |sid: Sid| {
            let offer = self.members[index(sid)].offers.get(&epoch);
            index(sid) == member || offer.is_some_and(|offer| *offer <= own)
        };
        demand!(
            "E3",
            self.is_quorum(seen.appended, yields),
            "{} leads epoch {epoch} with {own:?}, and no quorum has promised to follow that",
            name(member)
        );
        self.chain.begin(epoch, member, seen.appended);
        Ok(())
    }

    /// A member has a history again that was cut or replaced.
    pub fn resumes(&mut self, member: usize, zxid: i64) {
        self.members[member].appended = zxid;
    }

    /// A leader proposes from now on.
    pub fn leads(&mut self, member: usize, epoch: u32) -> Checked {
        self.founds(member, epoch)?;
        self.members[member].serves = Some(epoch);
        Ok(())
    }

    /// A leader has a quorum that follows it. It may not serve itself, if it is to lead no more by
    /// what is committed now.
    fn founds(&mut self, member: usize, epoch: u32) -> Checked {
        if self.members[member].founded == epoch {
            return Ok(());
        }
        demand!(
            "S1",
            self.chain.leader(epoch) == Some(member),
            "{} leads epoch {epoch}, which it has not begun",
            name(member)
        );
        let initial = self.chain.initial(epoch).unwrap_or(0);
        // A leader that hears late of its quorum may find that a newer one has gone on.
        let before = self.chain.before(self.committed, epoch);
        demand!(
            "S8",
            self.chain.contains(initial, before),
            "{} leads epoch {epoch} from {}, and {} is committed",
            name(member),
            Z(initial),
            Z(before)
        );
        let joined = |sid: Sid| self.members[index(sid)].epochs.current >= epoch;
        demand!(
            "S10",
            self.is_quorum(initial, joined),
            "{} leads epoch {epoch}, which no quorum has joined",
            name(member)
        );
        self.decides(member, initial)?;
        let seen = &mut self.members[member];
        demand!(
            "S8",
            seen.applied == initial,
            "{} leads epoch {epoch} from {}, and has applied {}",
            name(member),
            Z(initial),
            Z(seen.applied)
        );
        seen.founded = epoch;
        self.established = self.established.max(epoch);
        self.leaders += 1;
        Ok(())
    }

    /// A leader decides that everything up to `zxid` is committed.
    pub fn decides(&mut self, member: usize, zxid: i64) -> Checked {
        if self.chain.contains(self.committed, zxid) {
            return Ok(());
        }
        demand!(
            "S11",
            self.chain.contains(zxid, self.committed),
            "{} commits {}, and {} is committed",
            name(member),
            Z(zxid),
            Z(self.committed)
        );
        // A change of the members needs both the old and the new ones, what is behind it only these.
        let changes = self.chain.changes(self.committed, zxid);
        let before = [self.committed].into_iter().chain(changes.iter().copied());
        let steps = before.zip(changes.iter().copied().chain([zxid]));
        for (before, step) in steps {
            let durable = |sid: Sid| self.chain.contains(self.members[index(sid)].logged, step);
            demand!(
                "S10",
                [before, step]
                    .iter()
                    .all(|z| self.chain.config(*z).is_quorum(durable)),
                "{} commits {}, and the disks have {}",
                name(member),
                Z(step),
                self.disks()
            );
        }
        let own = self.members[member].serves == Some(epoch_of(zxid));
        let in_force = self.chain.config(self.chain.parent(zxid).unwrap_or(0));
        demand!(
            "R5",
            !own || in_force.is_voter(sid(member)),
            "{} commits {}, and does not vote any more",
            name(member),
            Z(zxid)
        );
        self.committed = zxid;
        Ok(())
    }

    /// A member goes by a configuration from now on, and may have learnt by it whom to follow.
    pub fn activates(&mut self, member: usize, config: &Membership) -> Checked {
        let zxid = config.version.cast_signed();
        let epoch = self.members[member].epochs.current;
        let led = self.chain.leader(epoch) == Some(member);
        let is_label = counter_of(zxid) == 0;
        if led && !is_label && (epoch_of(zxid) == epoch || self.chain.initial(epoch) >= Some(zxid))
        {
            self.decides(member, zxid)?;
        }
        let old = self.members[member].config.version;
        demand!(
            "R2",
            config.version > old && self.chain.config(zxid).members == config.members,
            "{} goes from configuration {old:x} to another than was agreed on: {config:?}",
            name(member)
        );
        // That with which an ensemble begins is given a number by its leader.
        demand!(
            "R3",
            is_label || self.chain.contains(self.committed, zxid),
            "{} goes by the members of {}, and {} is committed",
            name(member),
            Z(zxid),
            Z(self.committed)
        );
        self.members[member].config = config.clone();
        self.members[member].told = true;
        Ok(())
    }

    /// Does a member go by the configuration in force?
    pub fn is_informed(&self, member: usize) -> bool {
        self.members[member].config.members == self.config().members
    }

    /// What the members have on their disks.
    pub fn disks(&self) -> String {
        let disks = self.members.iter().map(|seen| Z(seen.logged).to_string());
        disks.collect::<Vec<_>>().join(", ")
    }

    /// A learner serves from now on.
    pub fn follows(&mut self, member: usize, epoch: u32) -> Checked {
        let seen = &mut self.members[member];
        demand!(
            "S12",
            self.chain.contains(self.committed, seen.applied),
            "{} serves {}, and {} is committed",
            name(member),
            Z(seen.applied),
            Z(self.committed)
        );
        demand!(
            "S1",
            epoch <= self.established,
            "{} serves in epoch {epoch}, whose leader has no quorum",
            name(member)
        );
        seen.serves = Some(epoch);
        Ok(())
    }

    /// A member was told whom to follow.
    pub fn is_told(&mut self, member: usize) {
        self.members[member].told = true;
    }

    /// The role of a member is over; it may know already who is to lead next.
    pub fn looks(&mut self, member: usize, told: bool) {
        let seen = &mut self.members[member];
        seen.told |= told;
        // Whoever was elected and needs another epoch can go on at once.
        if seen.has_votes_for(sid(member), sid(member)) {
            seen.found = Some(sid(member));
        }
        seen.serves = None;
        seen.votes.clear();
        seen.heard.clear();
    }

    /// A member has applied a transaction.
    pub fn applied(&mut self, member: usize, entry: &Entry, tree: &Tree) -> Checked {
        let serves = self.members[member].serves;
        if serves.is_some_and(|epoch| self.chain.leader(epoch) == Some(member)) {
            self.decides(member, entry.zxid)?;
        }
        let seen = &mut self.members[member];
        demand!(
            "S6",
            self.chain.parent(entry.zxid) == Some(seen.applied),
            "{} applies {} behind {}",
            name(member),
            Z(entry.zxid),
            Z(seen.applied)
        );
        demand!(
            "S3",
            self.chain.entry(entry.zxid) == Some(entry),
            "{} applies another {} than was proposed",
            name(member),
            Z(entry.zxid)
        );
        demand!(
            "S12",
            seen.serves.is_none() || self.chain.contains(self.committed, entry.zxid),
            "{} applies {}, and {} is committed",
            name(member),
            Z(entry.zxid),
            Z(self.committed)
        );
        demand!(
            "S12",
            self.chain.contains(seen.appended, entry.zxid),
            "{} applies {}, and has no more than {} in its log",
            name(member),
            Z(entry.zxid),
            Z(seen.appended)
        );
        seen.applied = entry.zxid;
        demand!(
            "S13",
            entry.zxid < seen.fuzzy || tree.digest().digest == self.chain.digest(entry.zxid),
            "{} has another tree at {} than its leader had",
            name(member),
            Z(entry.zxid)
        );
        Ok(())
    }

    /// A member is something else now.
    pub fn becomes(&mut self, member: usize, role: Role) -> Checked {
        let seen = &mut self.members[member];
        let old = std::mem::replace(&mut seen.role, role);
        if old != role && role == Role::Leading {
            self.elects(member, sid(member))?;
        }
        Ok(())
    }

    /// A member has found a leader.
    pub fn elects(&mut self, member: usize, leader: Sid) -> Checked {
        let found = self.members[member].found.replace(leader);
        let seen = &self.members[member];
        if seen.told || found == Some(leader) {
            return Ok(());
        }
        demand!(
            "E1",
            seen.has_votes_for(leader, sid(member)),
            "{} takes {leader} for its leader on the votes {:?}",
            name(member),
            seen.votes
        );
        let proposed = self.chain.config(seen.appended);
        demand!(
            "E2",
            seen.config.is_voter(leader)
                || proposed.is_voter(leader)
                || seen.heard.contains(&leader),
            "{} takes {leader} for its leader, who does not vote",
            name(member)
        );
        Ok(())
    }

    /// A vote has come in.
    pub fn hears(&mut self, member: usize, from: Sid, vote: &Notification) {
        let seen = &mut self.members[member];
        seen.votes.entry(from).or_default().insert(vote.leader);
        let proposed = String::from_utf8_lossy(&vote.proposed).parse::<Membership>();
        if let Ok(proposed) = proposed
            && seen.config.is_voter(from)
        {
            seen.heard
                .extend(proposed.members.voters().map(|(sid, _)| sid));
        }
    }

    /// A member votes.
    pub fn votes(&mut self, member: usize, vote: &Notification) -> Checked {
        let seen = &mut self.members[member];
        if vote.state != Role::Looking {
            return Ok(());
        }
        demand!(
            "E4",
            vote.round >= seen.round,
            "{} goes back from round {} to {}",
            name(member),
            seen.round,
            vote.round
        );
        seen.round = vote.round;
        (seen.told, seen.found) = (false, None);
        if vote.leader == sid(member) {
            demand!(
                "P7",
                vote.zxid == seen.logged && vote.epoch <= i64::from(seen.epochs.current),
                "{} offers {} of epoch {}, and has {} of {:?} on its disk",
                name(member),
                Z(vote.zxid),
                vote.epoch,
                Z(seen.logged),
                seen.epochs
            );
            demand!(
                "P7",
                seen.config.is_voter(sid(member))
                    || self.chain.config(seen.logged).is_voter(sid(member)),
                "{} offers to lead, and must not vote",
                name(member)
            );
        }
        Ok(())
    }

    /// A packet is sent on a connection, by its learner or by its leader.
    pub fn sends(
        &mut self,
        wire: WireId,
        member: usize,
        by_learner: bool,
        packet: &Packet,
    ) -> Checked {
        let dialogue = self.dialogues.entry(wire).or_default();
        if by_learner {
            let epoch = dialogue.epoch;
            dialogue.learner_sends(packet)?;
            self.learner_sends(member, epoch, packet)
        } else {
            dialogue.leader_sends(packet, &self.chain)?;
            let epoch = dialogue.epoch;
            let established = epoch.filter(|epoch| self.members[member].serves == Some(*epoch));
            if let Packet::CommitAndActivate { zxid, leader }
            | Packet::InformAndActivate {
                entry: Entry { zxid, .. },
                leader,
            } = packet
            {
                let named = self.members.get(index(*leader));
                let has_it = named.is_some_and(|seen| self.chain.contains(seen.logged, *zxid));
                demand!(
                    "R4",
                    has_it || index(*leader) == member,
                    "{} names {leader} to lead behind {}, and the disks have {}",
                    name(member),
                    Z(*zxid),
                    self.disks()
                );
            }
            match packet {
                Packet::UpToDate => self.founds(member, epoch.unwrap_or(0)),
                Packet::Commit { zxid } | Packet::CommitAndActivate { zxid, .. }
                    if Some(epoch_of(*zxid)) == established =>
                {
                    self.decides(member, *zxid)
                }
                Packet::Inform(entry) | Packet::InformAndActivate { entry, .. }
                    if Some(epoch_of(entry.zxid)) == established =>
                {
                    self.decides(member, entry.zxid)
                }
                _ => Ok(()),
            }
        }
    }

    fn learner_sends(&mut self, member: usize, epoch: Option<u32>, packet: &Packet) -> Checked {
        let seen = &mut self.members[member];
        let epoch = epoch.unwrap_or(0);
        if let Packet::AckEpoch { .. } = packet {
            demand!(
                "P2",
                seen.epochs.accepted == epoch,
                "{} takes part in epoch {epoch}, and {:?} is on its disk",
                name(member),
                seen.epochs
            );
        }
        match packet {
            Packet::AckEpoch {
                current: Some(current),
                last_zxid,
                ..
            } => {
                demand!(
                    "P3",
                    seen.promised < epoch || seen.blank,
                    "{} takes part in epoch {epoch}, and has in {}",
                    name(member),
                    seen.promised
                );
                seen.promised = epoch;
                seen.offers.insert(epoch, (*current, *last_zxid));
            }
            Packet::Ack { zxid } if *zxid == zxid_of(epoch, 0) => {
                let initial = self.chain.initial(epoch).unwrap_or(i64::MAX);
                demand!(
                    "P4",
                    self.chain.contains(seen.logged, initial)
                        && (seen.logged == initial || epoch_of(seen.logged) == epoch)
                        && seen.epochs.current == epoch,
                    "{} joins epoch {epoch}, which began with {}, with {} and {:?} on its disk",
                    name(member),
                    Z(initial),
                    Z(seen.logged),
                    seen.epochs
                );
            }
            Packet::Ack { zxid } => {
                demand!(
                    "P6",
                    self.chain.contains(seen.logged, *zxid),
                    "{} acknowledges {}, and has {} on its disk",
                    name(member),
                    Z(*zxid),
                    Z(seen.logged)
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// A leader hears of a learner's `sync`.
    pub fn syncs(&mut self, wire: WireId, member: usize) {
        let proposed = self.members[member].appended;
        self.dialogues.entry(wire).or_default().sync(proposed);
    }

    /// A leader has begun to send its tree. Who receives it gives up what it has, and may be one of
    /// those that everything which is committed relies on.
    pub fn dumps(&mut self, wire: WireId, member: usize, zxid: i64) -> Checked {
        demand!(
            "S9",
            self.chain.newest_leader() != Some(member) || self.chain.contains(zxid, self.committed),
            "{} sends its tree at {}, and {} is committed",
            name(member),
            Z(zxid),
            Z(self.committed)
        );
        let dialogue = self.dialogues.entry(wire).or_default();
        dialogue.leader_sends(&Packet::Snapshot { zxid }, &self.chain)
    }

    /// A connection is over.
    pub fn over(&mut self, wire: WireId) {
        self.dialogues.remove(&wire);
    }
}

/// The id of a member.
pub fn sid(index: usize) -> Sid {
    Sid::try_from(index + 1).unwrap_or(Sid::MAX)
}

/// The place of a member.
pub fn index(sid: Sid) -> usize {
    usize::try_from(sid - 1).unwrap_or(usize::MAX)
}

fn name(member: usize) -> String {
    format!("member {}", sid(member))
}
