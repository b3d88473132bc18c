//! What clients asked and were answered while servers failed, and whether an ensemble may answer so.
//!
//! Every write leaves a number that no other write leaves, and nearly every answer tells the zxid at
//! which the ensemble ordered it. So nothing has to be searched: the zxids are the order of the
//! writes, and each answer is held against it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::time::Duration;

/// A write, by the number that it leaves as data. 0 is what was there before all writes.
pub type WriteId = u64;

/// What a session asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To set a register, if it has a version.
    Set(WriteId, usize, Option<i32>),
    /// To set two registers in one transaction.
    SetBoth(WriteId, [usize; 2]),
    /// To create a sequential znode.
    Push(WriteId),
    /// To delete a sequential znode and set a register in one transaction.
    Take(WriteId, String, usize),
    /// To create an ephemeral znode.
    Mark(WriteId),
    /// To delete the ephemeral znode of another write.
    Unmark(WriteId),
    /// To see a register.
    Get(usize),
    /// To see a register after a sync.
    SyncGet(usize),
    /// To see whether the ephemeral znode of a write is there.
    Find(WriteId),
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The write that left it.
    pub id: WriteId,
    /// How often the register was set.
    pub version: i32,
    /// When it was set last.
    pub zxid: i64,
}

/// How a session was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Registers were set: the version of each, and the zxid of all.
    Set(Vec<i32>, i64),
    /// A znode was created: its name and zxid.
    Created(String, i64),
    /// A znode was deleted.
    Deleted,
    /// What a register holds.
    Held(Held),
    /// Whether there is such a znode.
    Found(bool),
    /// It was not done, surely.
    Refused,
    /// It was done, or not, or still may be.
    Unknown,
}

/// A question with its answer.
#[derive(Debug, Clone)]
pub struct Call {
    /// What was asked.
    pub asked: Asked,
    /// How it was answered.
    pub answer: Answer,
    /// When it was asked, since the beginning of the history.
    pub invoked: Duration,
    /// When it was answered.
    pub answered: Duration,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The ensemble closed it.
    Closed,
    /// Its client gave it up. The ensemble has expired it, or will.
    Lost,
}

/// All that one session did, in the order in which it asked.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Who owns its ephemeral znodes.
    pub session: i64,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// In the order of the questions.
    pub calls: Vec<Call>,
}

/// What there is in the end.
#[derive(Debug, Clone, Default)]
pub struct Remains {
    /// Every register.
    pub registers: Vec<Held>,
    /// Sequential znodes by name: the write that left each, and its zxid.
    pub queue: BTreeMap<String, (WriteId, i64)>,
    /// Ephemeral znodes by write, each with its owner.
    pub marks: BTreeMap<WriteId, i64>,
}

/// How much a history that passed its check had in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes of unknown outcome.
    pub unknown: usize,
    /// Of those, the writes of which the trace was found.
    pub landed: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// The longest time in which no write was acknowledged.
    pub longest_gap: Duration,
}

/// Checks a history against what remains of it. Reads behind a sync show all that was acknowledged
/// before only if they are `strict`, as they are where all servers are ours.
///
/// # Errors
/// Everything that no ensemble may answer.
pub fn check(
    conversations: &[Conversation],
    remains: &Remains,
    strict: bool,
) -> Result<Summary, Vec<String>> {
    let mut checker = Checker::new(conversations, remains);
    checker.read_registers();
    checker.read_names();
    checker.check_real_time();
    checker.check_registers();
    checker.check_conditions();
    checker.check_atomicity();
    checker.check_queue();
    checker.check_marks();
    for conversation in conversations {
        checker.check_conversation(conversation);
        if strict {
            checker.check_synced(conversation);
        }
    }
    if checker.wrong.is_empty() {
        Ok(checker.summary())
    } else {
        Err(checker.wrong)
    }
}

impl Asked {
    /// The write that this is, if it is one that leaves a number.
    pub fn id(&self) -> Option<WriteId> {
        match self {
            Asked::Set(id, ..)
            | Asked::SetBoth(id, _)
            | Asked::Push(id)
            | Asked::Take(id, ..)
            | Asked::Mark(id) => Some(*id),
            _ => None,
        }
    }

    /// Does it change anything?
    pub fn is_write(&self) -> bool {
        self.id().is_some() || matches!(self, Asked::Unmark(_))
    }

    fn registers(&self) -> &[usize] {
        match self {
            Asked::Set(_, register, _)
            | Asked::Take(_, _, register)
            | Asked::Get(register)
            | Asked::SyncGet(register) => std::slice::from_ref(register),
            Asked::SetBoth(_, both) => both,
            _ => &[],
        }
    }
}

impl Call {
    /// The zxid of a write that was acknowledged with it.
    fn zxid(&self) -> Option<i64> {
        match self.answer {
            Answer::Set(_, zxid) | Answer::Created(_, zxid) => Some(zxid),
            _ => None,
        }
    }

    fn is_acknowledged(&self) -> bool {
        self.zxid().is_some() || self.answer == Answer::Deleted
    }

    /// What it tells of registers: which one, and what that held.
    fn told(&self) -> Vec<(usize, Held)> {
        let registers = self.asked.registers().iter().copied();
        match (&self.answer, self.asked.id()) {
            (Answer::Held(held), _) => registers.map(|register| (register, *held)).collect(),
            (Answer::Set(versions, zxid), Some(id)) => registers
                .zip(versions)
                .map(|(register, version)| {
                    let (version, zxid) = (*version, *zxid);
                    (register, Held { id, version, zxid })
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

struct Checker<'a> {
    conversations: &'a [Conversation],
    remains: &'a Remains,
    /// Every call that is a write with a number.
    writes: HashMap<WriteId, &'a Call>,
    /// What each register held in each version, as far as anybody was told.
    registers: Vec<BTreeMap<i32, Held>>,
    /// The zxids of writes whose trace was seen.
    seen: HashMap<WriteId, i64>,
    wrong: Vec<String>,
}

impl<'a> Checker<'a> {
    fn new(conversations: &'a [Conversation], remains: &'a Remains) -> Self {
        let calls = conversations.iter().flat_map(|c| &c.calls);
        Checker {
            conversations,
            remains,
            writes: calls.filter_map(|c| Some((c.asked.id()?, c))).collect(),
            registers: vec![BTreeMap::new(); remains.registers.len()],
            seen: HashMap::new(),
            wrong: Vec::new(),
        }
    }

    fn calls(&self) -> impl Iterator<Item = &'a Call> + use<'a> {
        self.conversations.iter().flat_map(|c| &c.calls)
    }

    fn wrong(&mut self, what: impl Display) {
        self.wrong.push(what.to_string());
    }

    /// Takes note that a write left its trace at a zxid, seen at a time.
    fn see(&mut self, id: WriteId, zxid: i64, at: Duration) {
        let Some(call) = self.writes.get(&id).copied() else {
            if id != 0 {
                self.wrong(format!("{id} at {zxid:#x} was never asked for"));
            }
            return;
        };
        if call.answer == Answer::Refused {
            self.wrong(format!("{call:?} was refused and is there at {zxid:#x}"));
        }
        if at < call.invoked {
            self.wrong(format!("{call:?} was seen at {at:?}, before it was asked"));
        }
        if call.zxid().is_some_and(|told| told != zxid) {
            self.wrong(format!("{call:?} is there at {zxid:#x}"));
        }
        let before = *self.seen.entry(id).or_insert(zxid);
        if before != zxid {
            self.wrong(format!("{call:?} landed at {before:#x} and at {zxid:#x}"));
        }
    }

    /// Collects what each register held, of which everybody has to say the same.
    fn read_registers(&mut self) {
        let remains = self.remains.registers.iter().copied().enumerate();
        let remains = remains.map(|(register, held)| (register, held, Duration::MAX));
        let told = self.calls().flat_map(|call| {
            let told = call.told().into_iter();
            told.map(|(register, held)| (register, held, call.answered))
        });
        for (register, held, at) in told.chain(remains).collect::<Vec<_>>() {
            self.see(held.id, held.zxid, at);
            let before = *self.registers[register].entry(held.version).or_insert(held);
            if before != held {
                self.wrong(format!("register {register}: both {before:?} and {held:?}"));
            }
        }
    }

    /// Collects the sequential znodes, each under one name, in the order of their zxids.
    fn read_names(&mut self) {
        let remains = self.remains.queue.iter();
        let remains = remains.map(|(name, (id, zxid))| (name, *id, *zxid, Duration::MAX));
        let told = self
            .calls()
            .filter_map(|call| match (&call.asked, &call.answer) {
                (Asked::Push(id), Answer::Created(name, zxid)) => {
                    Some((name, *id, *zxid, call.answered))
                }
                _ => None,
            });
        let mut by_name = BTreeMap::new();
        for (name, id, zxid, at) in told.chain(remains).collect::<Vec<_>>() {
            self.see(id, zxid, at);
            let before = *by_name.entry(name).or_insert((id, zxid));
            if before != (id, zxid) {
                self.wrong(format!(
                    "{name} is of two writes: {before:?}, {id} at {zxid:#x}"
                ));
            }
        }
        let order: Vec<_> = by_name.into_iter().collect();
        for pair in order.windows(2) {
            let [(left, (_, earlier)), (right, (_, later))] = pair else {
                continue;
            };
            if earlier >= later {
                self.wrong(format!("{left} at {earlier:#x} and {right} at {later:#x}"));
            }
        }
    }

    /// A write that is asked for when another has been acknowledged comes behind that one.
    fn check_real_time(&mut self) {
        let ordered = |call: &&Call| call.zxid().is_some();
        let mut by_invocation: Vec<&Call> = self.calls().filter(ordered).collect();
        let mut by_answer = by_invocation.clone();
        by_invocation.sort_by_key(|call| call.invoked);
        by_answer.sort_by_key(|call| call.answered);
        let mut answered = by_answer.into_iter().peekable();
        let mut latest: Option<&Call> = None;
        for call in by_invocation {
            while let Some(earlier) = answered.next_if(|earlier| earlier.answered < call.invoked) {
                if latest.is_none_or(|latest| latest.zxid() < earlier.zxid()) {
                    latest = Some(earlier);
                }
            }
            if let Some(latest) = latest.filter(|latest| latest.zxid() >= call.zxid()) {
                self.wrong(format!(
                    "{call:?} was asked behind {latest:?}, which is later"
                ));
            }
        }
        let mut owners = HashMap::new();
        for (id, zxid) in self.seen.clone() {
            if let Some(other) = owners.insert(zxid, id).filter(|_| zxid != 0 && id != 0) {
                self.wrong(format!("{id} and {other} have one zxid, {zxid:#x}"));
            }
        }
    }

    /// The versions of a register rise with the zxids, end with what remains, and each of them is
    /// the work of one write.
    fn check_registers(&mut self) {
        for (register, versions) in self.registers.clone().into_iter().enumerate() {
            let all: Vec<Held> = versions.values().copied().collect();
            for pair in all.windows(2).filter(|pair| pair[0].zxid >= pair[1].zxid) {
                self.wrong(format!("register {register}: {pair:?}"));
            }
            let ids: BTreeSet<WriteId> = all.iter().map(|held| held.id).collect();
            if ids.len() < all.len() {
                self.wrong(format!("register {register}: a write landed twice"));
            }
            let last = self.remains.registers[register];
            for lost in all.iter().filter(|held| held.version > last.version) {
                self.wrong(format!(
                    "register {register}: {lost:?} is lost, {last:?} remains"
                ));
            }
            let known = versions.range(1..=last.version).count();
            let hidden = usize::try_from(last.version)
                .unwrap_or(0)
                .saturating_sub(known);
            let may_have = self.writes.values().filter(|call| {
                call.answer == Answer::Unknown
                    && call.asked.registers().contains(&register)
                    && call.asked.id().is_some_and(|id| !ids.contains(&id))
            });
            if hidden > may_have.count() {
                let text = format!("register {register}: {hidden} versions of nobody");
                self.wrong(text);
            }
        }
    }

    /// A register is set under a condition only if that holds.
    fn check_conditions(&mut self) {
        for call in self.calls() {
            if let (Asked::Set(_, _, Some(expected)), Answer::Set(versions, _)) =
                (&call.asked, &call.answer)
                && versions[0] != expected + 1
            {
                self.wrong(format!("{call:?} met another version"));
            }
        }
    }

    /// A transaction that was seen in one register is in the other too, perhaps unseen.
    fn check_atomicity(&mut self) {
        for call in self.calls() {
            let Asked::SetBoth(id, both) = call.asked else {
                continue;
            };
            let Some(zxid) = self.seen.get(&id).copied() else {
                continue;
            };
            for register in both {
                let versions = self.registers[register].values();
                let after = versions.clone().find(|held| held.zxid >= zxid);
                let before = versions.rev().find(|held| held.zxid < zxid);
                let version = |held: Option<&Held>| held.map_or(0, |held| held.version);
                let there = after.is_some_and(|held| held.zxid == zxid);
                if !there && version(after) <= version(before) + 1 {
                    self.wrong(format!("{call:?} is not in register {register}"));
                }
            }
        }
    }

    /// What was pushed is there unless it was taken, and is taken with the register that tells so.
    fn check_queue(&mut self) {
        let mut takes: HashMap<&str, Vec<&Call>> = HashMap::new();
        for call in self.calls() {
            if let Asked::Take(_, name, _) = &call.asked
                && call.answer != Answer::Refused
            {
                takes.entry(name).or_default().push(call);
            }
        }
        for (name, takes) in &takes {
            let landed = |call: &&&Call| {
                let id = call.asked.id();
                id.is_some_and(|id| self.seen.contains_key(&id))
            };
            let landed: Vec<&&Call> = takes.iter().filter(landed).collect();
            if landed.len() > 1 {
                self.wrong(format!("{name} was taken twice: {landed:?}"));
            } else if !landed.is_empty() && self.remains.queue.contains_key(*name) {
                self.wrong(format!("{name} was taken and is there: {landed:?}"));
            }
        }
        for call in self.calls() {
            if let (Asked::Push(_), Answer::Created(name, _)) = (&call.asked, &call.answer)
                && !self.remains.queue.contains_key(name)
                && !takes.contains_key(name.as_str())
            {
                self.wrong(format!("{call:?} is lost"));
            }
        }
    }

    /// Ephemeral znodes are there as long as their sessions, unless they were deleted before.
    fn check_marks(&mut self) {
        let mut owners = HashMap::new();
        for conversation in self.conversations {
            let unmarked = |id| {
                let unmarks = conversation.calls.iter();
                unmarks.rev().find(|call| call.asked == Asked::Unmark(id))
            };
            for call in &conversation.calls {
                let Asked::Mark(id) = call.asked else {
                    continue;
                };
                owners.insert(id, conversation.session);
                let there = self.remains.marks.contains_key(&id);
                let deleted = unmarked(id).map(|call| &call.answer);
                let may_be = conversation.end != Some(End::Closed)
                    && call.answer != Answer::Refused
                    && deleted != Some(&Answer::Deleted);
                let must_be = may_be
                    && conversation.end.is_none()
                    && call.is_acknowledged()
                    && deleted != Some(&Answer::Unknown);
                if there && !may_be || !there && must_be {
                    let presence = if there { "is there" } else { "is gone" };
                    let Conversation { session, end, .. } = conversation;
                    self.wrong(format!(
                        "{call:?} of session {session:#x} {presence}; end: {end:?}, deleted: {deleted:?}"
                    ));
                }
            }
        }
        for (id, owner) in &self.remains.marks {
            if owners.get(id) != Some(owner) {
                self.wrong(format!("the ephemeral {id} belongs to {owner:#x}"));
            }
        }
    }

    /// A session never sees the past of what it has seen, wherever it is connected.
    fn check_conversation(&mut self, conversation: &Conversation) {
        let mut seen = 0;
        let mut marks: HashMap<WriteId, bool> = HashMap::new();
        for call in &conversation.calls {
            if let Some(zxid) = call.zxid().filter(|zxid| *zxid <= seen) {
                self.wrong(format!("{call:?} is at {zxid:#x}, but {seen:#x} was seen"));
            }
            if let Answer::Held(held) = &call.answer {
                let register = call.asked.registers()[0];
                let versions = &self.registers[register];
                let newest = versions.values().rev().find(|other| other.zxid <= seen);
                if let Some(newest) = newest.filter(|newest| newest.version > held.version) {
                    self.wrong(format!("{call:?}, but {seen:#x} was seen and {newest:?}"));
                }
            }
            match (&call.asked, &call.answer) {
                (Asked::Mark(id), Answer::Created(..)) => {
                    marks.insert(*id, true);
                }
                (Asked::Unmark(id), Answer::Deleted) => {
                    marks.insert(*id, false);
                }
                (Asked::Unmark(id), Answer::Unknown) => {
                    marks.remove(id);
                }
                (Asked::Find(id), Answer::Found(found))
                    if marks.get(id).is_some_and(|there| there != found) =>
                {
                    self.wrong(format!("{call:?} is not what the session did"));
                }
                _ => {}
            }
            let told = call.told().into_iter().map(|(_, held)| held.zxid);
            seen = told.chain(call.zxid()).fold(seen, i64::max);
        }
    }

    /// After a sync a session sees all that was acknowledged before.
    fn check_synced(&mut self, conversation: &Conversation) {
        for call in &conversation.calls {
            let (Asked::SyncGet(register), Answer::Held(held)) = (&call.asked, &call.answer) else {
                continue;
            };
            let newer = self.registers[*register].range(held.version + 1..);
            let missed = newer.into_iter().find(|(_, other)| {
                let write = self.writes.get(&other.id);
                write.is_some_and(|w| w.is_acknowledged() && w.answered < call.invoked)
            });
            if let Some((_, missed)) = missed {
                let session = conversation.session;
                self.wrong(format!(
                    "session {session:#x}: {call:?} does not show {missed:?}"
                ));
            }
        }
    }

    fn summary(&self) -> Summary {
        let writes = || self.calls().filter(|call| call.asked.is_write());
        let unknown = || writes().filter(|call| call.answer == Answer::Unknown);
        let landed = |call: &&Call| {
            let id = call.asked.id();
            id.is_some_and(|id| self.seen.contains_key(&id))
        };
        let mut times: Vec<Duration> = writes()
            .filter(|call| call.is_acknowledged())
            .map(|call| call.answered)
            .collect();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        Summary {
            acknowledged: times.len(),
            unknown: unknown().count(),
            landed: unknown().filter(landed).count(),
            reads: self
                .calls()
                .filter(|call| matches!(call.answer, Answer::Held(_) | Answer::Found(_)))
                .count(),
            longest_gap: gaps.max().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sessions, one register, one queue, in which all is well; times are in milliseconds.
    struct Story {
        first: Conversation,
        second: Conversation,
        remains: Remains,
    }

    fn call(asked: Asked, answer: Answer, invoked: u64, answered: u64) -> Call {
        Call {
            asked,
            answer,
            invoked: Duration::from_millis(invoked),
            answered: Duration::from_millis(answered),
        }
    }

    fn held(id: WriteId, version: i32, zxid: i64) -> Held {
        Held { id, version, zxid }
    }

    impl Story {
        fn new() -> Self {
            let set = |id, version, zxid, at| {
                let answer = Answer::Set(vec![version], zxid);
                call(Asked::Set(id, 0, None), answer, at, at + 5)
            };
            let both = call(
                Asked::SetBoth(4, [0, 1]),
                Answer::Set(vec![3, 1], 13),
                30,
                35,
            );
            let first = Conversation {
                session: 1,
                end: None,
                calls: vec![
                    set(1, 1, 10, 0),
                    call(Asked::Get(0), Answer::Held(held(1, 1, 10)), 6, 9),
                    both,
                    call(Asked::SyncGet(0), Answer::Held(held(4, 3, 13)), 40, 45),
                    call(Asked::Set(5, 1, None), Answer::Unknown, 50, 60),
                    call(Asked::Mark(6), Answer::Created("m".into(), 15), 61, 62),
                    call(Asked::Find(6), Answer::Found(true), 63, 64),
                ],
            };
            let second = Conversation {
                session: 2,
                end: Some(End::Closed),
                calls: vec![
                    set(2, 2, 11, 10),
                    call(Asked::Push(3), Answer::Created("q1".into(), 12), 20, 25),
                    call(Asked::Push(7), Answer::Created("q2".into(), 16), 65, 66),
                    call(
                        Asked::Take(8, "q1".into(), 0),
                        Answer::Set(vec![4], 17),
                        67,
                        68,
                    ),
                    call(Asked::Set(9, 0, Some(3)), Answer::Refused, 69, 70),
                    call(Asked::Mark(10), Answer::Created("n".into(), 18), 71, 72),
                ],
            };
            let remains = Remains {
                registers: vec![held(8, 4, 17), held(5, 2, 14)],
                queue: BTreeMap::from([("q2".to_owned(), (7, 16))]),
                marks: BTreeMap::from([(6, 1)]),
            };
            Story {
                first,
                second,
                remains,
            }
        }

        fn check(&self) -> Result<Summary, Vec<String>> {
            let both = [self.first.clone(), self.second.clone()];
            check(&both, &self.remains, true)
        }
    }

    #[test]
    fn a_history_that_may_be() {
        let summary = Story::new().check().unwrap();
        assert_eq!((summary.acknowledged, summary.unknown), (8, 1));
        assert_eq!((summary.landed, summary.reads), (1, 3));
        assert_eq!(summary.longest_gap, Duration::from_millis(27));
    }

    /// Changes the story in one place and demands that just this is found out.
    #[track_caller]
    fn wrong(change: impl FnOnce(&mut Story), expected: &str) {
        let mut story = Story::new();
        change(&mut story);
        let errors = story.check().unwrap_err();
        let found = errors.iter().any(|error| error.contains(expected));
        assert!(found, "{expected:?} is not in {errors:#?}");
    }

    #[test]
    fn what_is_lost() {
        wrong(|s| s.remains.registers[0] = held(4, 3, 13), "is lost");
        wrong(|s| s.remains.queue.clear(), "is lost");
        wrong(|s| s.remains.marks.clear(), "is gone");
    }

    #[test]
    fn what_landed_twice_or_never_should_have() {
        wrong(|s| s.remains.registers[1] = held(5, 3, 14), "of nobody");
        wrong(|s| s.first.calls[4].answer = Answer::Refused, "was refused");
        wrong(|s| s.remains.registers[1].id = 99, "never asked for");
        wrong(
            |s| {
                s.remains.queue.insert("q3".into(), (7, 20));
            },
            "landed at",
        );
        wrong(
            |s| {
                s.remains.queue.insert("q1".into(), (3, 12));
            },
            "was taken and is there",
        );
    }

    #[test]
    fn order() {
        wrong(
            |s| s.second.calls[0].answer = Answer::Set(vec![2], 9),
            "register 0",
        );
        wrong(
            |s| s.second.calls[1].answer = Answer::Created("q1".into(), 7),
            "was asked behind",
        );
        wrong(
            |s| s.second.calls[1].answer = Answer::Created("q9".into(), 12),
            "q2 at",
        );
        wrong(
            |s| s.second.calls[1].answer = Answer::Created("q1".into(), 10),
            "one zxid",
        );
    }

    #[test]
    fn transactions_and_conditions() {
        wrong(
            |s| {
                s.first.calls[2].answer = Answer::Unknown;
                s.remains.registers[1] = held(5, 1, 14);
            },
            "is not in register 1",
        );
        wrong(
            |s| {
                s.second.calls[4].asked = Asked::Set(9, 1, Some(0));
                s.second.calls[4].answer = Answer::Set(vec![2], 14);
            },
            "met another version",
        );
    }

    #[test]
    fn what_a_session_sees() {
        let stale = Answer::Held(held(1, 1, 10));
        wrong(
            |s| {
                s.first.calls[3].asked = Asked::Get(0);
                s.first.calls[3].answer = stale.clone();
            },
            "was seen and",
        );
        // Another session may see the past, but not behind a sync.
        let late = |asked| call(asked, stale.clone(), 40, 45);
        let mut story = Story::new();
        story.second.calls.insert(0, late(Asked::Get(0)));
        assert!(story.check().is_ok());
        wrong(
            |s| s.second.calls.insert(0, late(Asked::SyncGet(0))),
            "does not show",
        );
        wrong(
            |s| s.first.calls[6].answer = Answer::Found(false),
            "what the session did",
        );
        wrong(
            |s| s.first.calls[0].invoked = Duration::from_millis(10),
            "before it was asked",
        );
    }

    #[test]
    fn ephemeral_znodes() {
        let mut story = Story::new();
        story.second.end = Some(End::Lost);
        assert!(story.check().is_ok(), "it has expired");
        story.remains.marks.insert(10, 2);
        assert!(story.check().is_ok(), "it will expire");
        wrong(
            |s| {
                s.remains.marks.insert(10, 2);
            },
            "is there",
        );
        wrong(
            |s| s.remains.marks.insert(6, 2).map_or((), drop),
            "belongs to",
        );
    }
}
