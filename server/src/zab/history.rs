//! The transactions that a member has accepted, as far as they are kept in memory.

use std::collections::VecDeque;

use super::{Entry, Millis, Position, counter_of, epoch_of};

/// The newest end of a member's history, and how far it is durable and applied.
///
/// What is not applied yet is always held, whatever the bounds say.
#[derive(Debug)]
pub(super) struct History {
    /// The transaction right before the first of the entries. Whether the history holds anything
    /// older is for the disk to tell.
    floor: i64,
    entries: VecDeque<Entry>,
    bytes: usize,
    count_limit: usize,
    bytes_limit: usize,
    /// The last transaction that was handed to the tree.
    applied: i64,
    appended: Position,
    durable: Position,
    /// Since when the disk owes an answer; `None` if everything is durable.
    waiting_since: Option<Millis>,
}

/// May `next` come right behind `last`?
pub(super) fn follows(last: i64, next: i64) -> bool {
    if epoch_of(next) == epoch_of(last) {
        return last.checked_add(1) == Some(next);
    }
    epoch_of(next) > epoch_of(last) && counter_of(next) == 1
}

impl History {
    /// What a member has after a start: the tree holds all of it.
    pub(super) fn new(last: i64, recent: Vec<Entry>, count_limit: usize, bytes: usize) -> Self {
        let mut entries = VecDeque::from(recent);
        // An entry does not say what comes before it, so the oldest only marks the place.
        let oldest = entries.pop_front();
        let last = last.max(0);
        History {
            floor: oldest.map_or(last, |entry| entry.zxid),
            bytes: entries.iter().map(|entry| entry.bytes.len()).sum(),
            entries,
            count_limit,
            bytes_limit: bytes,
            applied: last,
            appended: Position(0),
            durable: Position(0),
            waiting_since: None,
        }
    }

    /// The last transaction.
    pub(super) fn last(&self) -> i64 {
        self.entries.back().map_or(self.floor, |entry| entry.zxid)
    }

    /// The oldest transaction behind which everything is in memory.
    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    /// The last transaction that was handed to the tree.
    pub(super) fn applied(&self) -> i64 {
        self.applied
    }

    /// The position behind the last transaction.
    pub(super) fn appended(&self) -> Position {
        self.appended
    }

    /// The position up to which everything is durable.
    pub(super) fn durable(&self) -> Position {
        self.durable
    }

    /// Since when the disk has not got on with what it was given.
    pub(super) fn waiting_since(&self) -> Option<Millis> {
        self.waiting_since
    }

    /// Takes entries in, and returns the position behind them.
    pub(super) fn append(&mut self, entries: &[Entry], now: Millis) -> Position {
        self.bytes += entries.iter().map(|entry| entry.bytes.len()).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
        self.appended.0 += entries.len() as u64;
        self.waiting_since.get_or_insert(now);
        self.trim();
        self.appended
    }

    /// Everything up to `position` is durable.
    pub(super) fn made_durable(&mut self, position: Position, now: Millis) {
        self.durable = self.durable.max(position.min(self.appended));
        self.waiting_since = (self.durable < self.appended).then_some(now);
    }

    /// The last transaction that is durable.
    pub(super) fn durable_zxid(&self) -> i64 {
        let waiting = usize::try_from(self.appended.0 - self.durable.0).unwrap_or(usize::MAX);
        let durable = self.entries.len().saturating_sub(waiting);
        match durable.checked_sub(1) {
            Some(index) => self.entries.get(index).map_or(self.floor, |e| e.zxid),
            None => self.floor,
        }
    }

    /// Takes out for the tree what is not applied yet, up to `zxid`.
    pub(super) fn apply(&mut self, zxid: i64) -> Vec<Entry> {
        let from = self.index_behind(self.applied);
        let to = self.index_behind(zxid).max(from);
        let entries: Vec<Entry> = self.entries.range(from..to).cloned().collect();
        if let Some(entry) = entries.last() {
            self.applied = entry.zxid;
        }
        self.trim();
        entries
    }

    /// Entries behind `zxid` and up to `upto`: at least one if there is one, and no more than make
    /// `bytes`.
    pub(super) fn behind(&self, zxid: i64, upto: i64, bytes: usize) -> Vec<Entry> {
        let mut room = bytes;
        let found = self.entries.range(self.index_behind(zxid)..);
        let mut first = true;
        found
            .take_while(|entry| {
                let fits = entry.zxid <= upto && (first || entry.bytes.len() <= room);
                room = room.saturating_sub(entry.bytes.len());
                first = false;
                fits
            })
            .cloned()
            .collect()
    }

    /// Is this transaction known to be part of the history? Everything older is not.
    pub(super) fn contains(&self, zxid: i64) -> bool {
        zxid == self.floor || self.entries.binary_search_by_key(&zxid, |e| e.zxid).is_ok()
    }

    /// The last transaction before `zxid`, which is above the floor.
    pub(super) fn before(&self, zxid: i64) -> i64 {
        let index = self.entries.partition_point(|entry| entry.zxid < zxid);
        let entry = index.checked_sub(1).and_then(|i| self.entries.get(i));
        entry.map_or(self.floor, |entry| entry.zxid)
    }

    /// The transaction right behind `zxid`.
    pub(super) fn next(&self, zxid: i64) -> Option<&Entry> {
        self.entries.get(self.index_behind(zxid))
    }

    /// Does the part that waits for the tree fill the memory that is meant for all?
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() > self.count_limit || self.bytes > self.bytes_limit
    }

    /// The log was cut behind `last`, and all that is left of it is durable.
    pub(super) fn cut(&mut self, last: i64) {
        self.entries.truncate(self.index_behind(last));
        self.bytes = self.entries.iter().map(|entry| entry.bytes.len()).sum();
        self.floor = self.floor.min(last);
        self.applied = self.applied.min(last);
        self.durable = self.appended;
        self.waiting_since = None;
    }

    /// A whole tree has taken the place of the history.
    pub(super) fn replace(&mut self, zxid: i64) {
        self.entries.clear();
        self.bytes = 0;
        self.floor = zxid;
        self.applied = zxid;
        self.durable = self.appended;
        self.waiting_since = None;
    }

    fn index_behind(&self, zxid: i64) -> usize {
        self.entries.partition_point(|entry| entry.zxid <= zxid)
    }

    fn trim(&mut self) {
        while self.is_full() {
            match self.entries.front() {
                Some(entry) if entry.zxid <= self.applied => self.floor = entry.zxid,
                _ => return,
            }
            let gone = self.entries.pop_front();
            self.bytes -= gone.map_or(0, |entry| entry.bytes.len());
        }
    }
}
