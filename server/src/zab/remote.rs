//! What a leader knows of one learner, and what it sends it (spec: quorum protocol, section 4).
//!
//! Every learner is served from a cursor on the leader's history. One that keeps up is live: it is
//! sent what is new as it comes. One that lags is sent the next piece only once the piece before
//! has gone out, from memory, else from the log on disk, else as a whole tree, so that it takes no
//! memory however far behind it is.

use bytes::Bytes;

use super::leader::confirmation::Syncs;
use super::own::Own;
use super::sync::{Plan, plan};
use super::{
    Entry, Features, Link, LogRead, Millis, Mutant, Output, Packet, Sid, epoch_of, zxid_of,
};

/// Bytes after which a link has to tell that they have gone out.
const PIECE: usize = 256 << 10;
/// Bytes that may wait on a link before what comes next stays where it is.
const BACKLOG: usize = 4 << 20;
/// What a packet takes besides its data, roughly.
const PACKET: usize = 32;

/// One learner.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) link: Link,
    pub(super) sid: Sid,
    pub(super) observer: bool,
    pub(super) features: Features,
    pub(super) stage: Stage,
    /// When something was heard of it, or got on with it.
    pub(super) heard: Millis,
    /// Does its promise of the epoch count?
    pub(super) counts: bool,
    /// The last transaction that it has, and has confirmed to have on disk.
    pub(super) acked: i64,
    /// The last transaction that it was sent.
    pub(super) sent: i64,
    /// The last transaction of which it was told that it is committed.
    told: i64,
    /// What it waits for.
    pub(super) syncs: Syncs,
    pings: Pings,
    /// The transaction whose acknowledgement is awaited, and since when.
    tracked: Option<(i64, Millis)>,
    flow: Flow,
}

/// How far a learner has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It is connected.
    Connected,
    /// It has introduced itself.
    Greeted,
    /// It knows of the epoch.
    Informed,
    /// It has said how far its history goes.
    Promised,
    /// Its place is being looked for in the log on disk, or its tree dumped.
    Preparing,
    /// It is sent what it lacks.
    Syncing,
    /// It has everything, and is asked to make it durable.
    Offered,
    /// It has.
    Acked,
    /// It serves.
    Joined,
}

/// PINGs since it serves: before, it answers none; from then on each, in their order.
#[derive(Debug, Default)]
struct Pings {
    sent: u64,
    answered: u64,
    /// The first one of the leader's round, if it was sent one.
    of_round: Option<u64>,
}

/// What is on its way to a learner.
#[derive(Debug, Default)]
struct Flow {
    /// Is it sent what is new at once?
    live: bool,
    /// Is the log on disk being read for it?
    reading: bool,
    /// Bytes in front of the mark that has not been reached yet, if there is one.
    marked: Option<usize>,
    /// Bytes behind that mark.
    unmarked: usize,
}

/// What a leader tells its learners.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) epoch: u32,
    /// Does the leader lead a quorum?
    pub(super) active: bool,
    /// The last transaction that is, or for this synchronisation counts as, committed.
    pub(super) committed: i64,
    /// The last round in which a quorum has said that it still follows.
    pub(super) confirmed: u64,
}

impl Remote {
    pub(super) fn new(link: Link, now: Millis) -> Self {
        Remote {
            link,
            sid: 0,
            observer: false,
            features: Features::default(),
            stage: Stage::Connected,
            heard: now,
            counts: false,
            acked: 0,
            sent: 0,
            told: 0,
            syncs: Syncs::default(),
            pings: Pings::default(),
            tracked: None,
            flow: Flow::default(),
        }
    }

    /// Is it sent what is proposed as soon as it is?
    pub(super) fn is_live_follower(&self) -> bool {
        self.flow.live && !self.observer
    }

    /// Has it been sent everything up to `zxid`, and told that it is committed?
    pub(super) fn has_all(&self, zxid: i64) -> bool {
        self.sent >= zxid && self.told >= zxid
    }

    /// Decides how the learner's history, which ends with `self.sent`, becomes the leader's.
    pub(super) fn begin_sync(&mut self, own: &mut Own, terms: &Terms) {
        let peer = self.sent;
        let plan = match own.settings.force_snapshot {
            true => Plan::Snapshot,
            false if own.is(Mutant::KeepUncommitted) => {
                plan(&own.history, own.history.last(), peer)
            }
            false => plan(&own.history, terms.committed, peer),
        };
        self.stage = Stage::Preparing;
        match plan {
            Plan::Snapshot => self.send_tree(own, terms),
            Plan::Log => self.read_log(own, own.history.floor()),
            Plan::Diff => self.start_from(
                own,
                terms,
                peer,
                Packet::Diff {
                    zxid: terms.committed,
                },
            ),
            Plan::Truncate(zxid) if own.is(Mutant::TruncateNothing) => {
                self.start_from(own, terms, zxid, Packet::Diff { zxid });
            }
            Plan::Truncate(keep) if own.is(Mutant::TruncateTooMuch) => {
                let zxid = own.history.before(keep);
                self.start_from(own, terms, keep, Packet::Truncate { zxid });
            }
            Plan::Truncate(zxid) => self.start_from(own, terms, zxid, Packet::Truncate { zxid }),
        }
    }

    fn start_from(&mut self, own: &mut Own, terms: &Terms, zxid: i64, packet: Packet) {
        own.send(self.link, packet);
        self.sent = zxid;
        if own.is(Mutant::SkipFirst) {
            self.sent = own.history.next(zxid).map_or(zxid, |entry| entry.zxid);
        }
        self.told = zxid;
        self.stage = Stage::Syncing;
        self.pump(own, terms);
    }

    /// The tree has to show everything that is committed, or is to be once a quorum has it: the
    /// learner gives up what it has itself for the tree, and may be the one that made the quorum.
    fn send_tree(&mut self, own: &mut Own, terms: &Terms) {
        if !own.is(Mutant::DumpTooSoon) {
            own.apply(terms.committed);
        }
        own.out.push(Output::SendSnapshot {
            link: self.link,
            zxid: own.history.applied(),
        });
    }

    /// The dump of the tree has begun.
    pub(super) fn snapshot_begun(&mut self, own: &mut Own, zxid: i64) {
        if self.stage == Stage::Preparing && !self.flow.reading {
            self.sent = zxid;
            self.told = zxid;
            self.stage = Stage::Syncing;
            self.mark(own);
        }
    }

    fn read_log(&mut self, own: &mut Own, upto: i64) {
        self.flow.reading = true;
        own.out.push(Output::ReadLog {
            link: self.link,
            after: self.sent,
            upto,
        });
    }

    /// The log was read for it. `Err` if it can no longer be served.
    pub(super) fn log_read(
        &mut self,
        own: &mut Own,
        terms: &Terms,
        read: LogRead,
    ) -> Result<(), &'static str> {
        if !std::mem::take(&mut self.flow.reading) {
            return Ok(());
        }
        self.heard = own.now;
        let first = self.stage == Stage::Preparing;
        match read {
            LogRead::Entries(entries) if is_chain(self.sent, &entries) => {
                if first {
                    let zxid = terms.committed;
                    own.send(self.link, Packet::Diff { zxid });
                    self.told = self.sent;
                    self.stage = Stage::Syncing;
                }
                self.send_entries(own, terms, entries);
                self.pump(own, terms);
                Ok(())
            }
            _ if first => {
                self.send_tree(own, terms);
                Ok(())
            }
            _ => Err("the log no longer holds what the learner lacks"),
        }
    }

    /// What was sent before the mark has gone out.
    pub(super) fn drained(&mut self, own: &mut Own, terms: &Terms) {
        self.flow.marked = None;
        if self.stage < Stage::Acked {
            self.heard = own.now;
        }
        self.mark_if_due(own);
        self.pump(own, terms);
    }

    /// Sends a learner that is not live what it lacks, as much as there is room for.
    pub(super) fn pump(&mut self, own: &mut Own, terms: &Terms) {
        if self.stage < Stage::Syncing {
            return;
        }
        while !self.flow.live && !self.flow.reading && self.flow.marked.is_none() {
            let target = match self.observer || self.stage == Stage::Syncing {
                true => terms.committed,
                false => own.history.last(),
            };
            let offers = self.stage == Stage::Syncing && own.is(Mutant::OfferEarly);
            if self.sent >= target || offers {
                self.tell(own, terms);
                if self.stage == Stage::Syncing {
                    self.offer(own, terms);
                } else {
                    self.flow.live = true;
                }
            } else if self.sent < own.history.floor() {
                self.read_log(own, own.history.floor().min(target));
            } else {
                let entries = own.history.behind(self.sent, target, PIECE);
                self.send_entries(own, terms, entries);
            }
        }
    }

    fn offer(&mut self, own: &mut Own, terms: &Terms) {
        // What is proposed by an active leader follows as a proposal, and may come to nothing.
        let config = match terms.active {
            true => &own.committed,
            false => own.last_seen(),
        };
        let packet = Packet::NewLeader {
            epoch: terms.epoch,
            config: Bytes::from(config.to_string()),
        };
        own.send(self.link, packet);
        self.stage = Stage::Offered;
        self.heard = own.now;
        if own.is(Mutant::SkipOutstanding) {
            self.sent = own.history.last();
        }
        // With its acknowledgement it confirms everything that it was sent so far.
        self.acked = self.sent;
    }

    fn send_entries(&mut self, own: &mut Own, terms: &Terms, entries: Vec<Entry>) {
        self.tell(own, terms);
        for entry in entries {
            let zxid = entry.zxid;
            self.count(entry.bytes.len());
            self.sent = zxid;
            if self.observer && self.stage > Stage::Syncing {
                own.send_inform(self.link, entry);
                self.has_told(own, terms, zxid);
                continue;
            }
            own.send(self.link, Packet::Proposal(entry));
            self.track(own.now);
            if !self.features.extended() && zxid <= terms.committed {
                own.send_commit(self.link, zxid);
                self.has_told(own, terms, zxid);
            }
        }
        self.tell(own, terms);
        self.mark_if_due(own);
    }

    /// New transactions go out to it together with others.
    pub(super) fn broadcast(&mut self, own: &mut Own, last: i64, bytes: usize) {
        self.sent = last;
        self.track(own.now);
        self.count(bytes);
        self.mark_if_due(own);
    }

    /// Transactions have been committed: tells a learner that keeps up.
    pub(super) fn committed(&mut self, own: &mut Own, terms: &Terms) {
        if !self.flow.live {
            return;
        }
        if self.observer {
            // It is sent nothing else, so that it is behind whenever there is something new.
            self.flow.live = false;
            self.pump(own, terms);
        } else {
            self.tell(own, terms);
        }
    }

    /// Tells how much of what it was sent is committed.
    fn tell(&mut self, own: &mut Own, terms: &Terms) {
        self.answer_syncs(own, terms);
        let zxid = terms.committed.min(self.sent);
        if zxid <= self.told {
            return;
        }
        if self.features.extended() {
            let activated = own.activated.iter().map(|(version, _)| *version);
            let told = self.told;
            let crossed: Vec<i64> = activated.filter(|v| (told + 1..zxid).contains(v)).collect();
            for version in crossed.into_iter().chain([zxid]) {
                own.send_commit(self.link, version);
            }
            self.has_told(own, terms, zxid);
        } else {
            // Older epochs were told of one by one as they were sent.
            let from = self.told.max(zxid_of(epoch_of(zxid), 0));
            for zxid in from + 1..=zxid {
                own.send_commit(self.link, zxid);
                self.has_told(own, terms, zxid);
            }
        }
    }

    /// Takes note of what it was told of, and answers the syncs that waited for just that: servers of
    /// Apache's get stuck where such an answer comes out of the order of the commits.
    fn has_told(&mut self, own: &mut Own, terms: &Terms, zxid: i64) {
        self.told = zxid;
        self.answer_syncs(own, terms);
    }

    pub(super) fn answer_syncs(&mut self, own: &mut Own, terms: &Terms) {
        for _ in 0..self.syncs.take(self.told, terms) {
            own.send(self.link, Packet::Sync);
        }
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self, own: &mut Own) {
        let (zxid, sessions) = (own.history.last(), Bytes::new());
        own.send(self.link, Packet::Ping { zxid, sessions });
        if self.stage == Stage::Joined {
            self.pings.sent += 1;
            self.pings.of_round.get_or_insert(self.pings.sent);
        }
    }

    /// It has answered.
    pub(super) fn ponged(&mut self) {
        self.pings.answered = self.pings.sent.min(self.pings.answered + 1);
    }

    /// The leader begins a round.
    pub(super) fn begin_round(&mut self, own: &mut Own) {
        self.pings.of_round = None;
        if self.stage == Stage::Joined {
            self.ping(own);
        }
    }

    /// Has it said in the leader's round that it still follows?
    pub(super) fn confirms(&self) -> bool {
        let asked = self.pings.of_round;
        asked.is_some_and(|ping| ping <= self.pings.answered)
    }

    /// The learner has made everything up to `zxid` durable.
    pub(super) fn acknowledged(&mut self, own: &Own, zxid: i64) {
        self.acked = self.acked.max(zxid);
        if self.tracked.is_some_and(|(tracked, _)| tracked <= zxid) {
            self.tracked = None;
            self.track(own.now);
        }
    }

    fn track(&mut self, now: Millis) {
        let waits = self.sent > self.acked && self.stage > Stage::Syncing;
        if waits && !self.observer && self.tracked.is_none() {
            self.tracked = Some((self.sent, now));
        }
    }

    /// Why the learner is given up, if it is.
    pub(super) fn lateness(&self, own: &Own) -> Option<&'static str> {
        let since = |time: Millis| own.now.saturating_sub(time);
        let settings = &own.settings;
        // While a tree is dumped, nothing but the driver can tell whether it gets on.
        let waits = self.stage != Stage::Preparing && self.flow.marked.is_none();
        if self.stage >= Stage::Acked {
            // Before it serves, it is the leader who keeps it waiting.
            let joined = self.stage == Stage::Joined;
            let slow = self
                .tracked
                .filter(|(_, at)| since(*at) > settings.sync_limit);
            let slow = slow.map(|_| "it has not acknowledged a proposal in time");
            let silent = joined && since(self.heard) > settings.sync_limit;
            return slow.or(silent.then_some("it has been silent for too long"));
        }
        let late = waits && since(self.heard) > settings.init_limit;
        late.then_some("it has taken too long to join")
    }

    fn count(&mut self, bytes: usize) {
        self.flow.unmarked += bytes + PACKET;
    }

    fn mark_if_due(&mut self, own: &mut Own) {
        if self.flow.marked.is_none() && self.flow.unmarked >= PIECE {
            self.mark(own);
        }
        let waiting = self.flow.unmarked + self.flow.marked.unwrap_or(0);
        self.flow.live &= waiting <= BACKLOG;
    }

    fn mark(&mut self, own: &mut Own) {
        self.flow.marked = Some(std::mem::take(&mut self.flow.unmarked));
        own.out.push(Output::Mark { link: self.link });
    }
}

/// Are these transactions right behind `last`, without a gap?
fn is_chain(mut last: i64, entries: &[Entry]) -> bool {
    let holds = entries.iter().all(|entry| {
        let follows = super::history::follows(last, entry.zxid);
        last = entry.zxid;
        follows
    });
    holds && !entries.is_empty()
}
