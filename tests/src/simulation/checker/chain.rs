//! Every transaction that was ever proposed, and what came before each.
//!
//! A leader's proposals follow the history that it began its epoch with, and so the number of a
//! transaction stands for a whole history: that up to this transaction. Histories are compared by
//! their last transactions.

use std::collections::BTreeMap;

use quorate_proto::jute::Decode as _;
use quorate_proto::{Txn, TxnEntry, TxnHeader};
use quorate_server::tree::Tree;
use quorate_server::zab::{Entry, Membership, counter_of, epoch_of, zxid_of};

/// What one leader proposed.
#[derive(Debug)]
struct Epoch {
    /// Who.
    leader: usize,
    /// The history that it began with.
    initial: i64,
    txns: Vec<Proposed>,
}

#[derive(Debug)]
struct Proposed {
    entry: Entry,
    /// The digest of the tree once it is applied.
    digest: u64,
    /// The last change of the members up to it.
    change: i64,
}

/// See the module.
#[derive(Debug)]
pub struct Chain {
    epochs: BTreeMap<u32, Epoch>,
    empty_digest: u64,
    /// Who belongs to the ensemble from a transaction on.
    configs: BTreeMap<i64, Membership>,
}

impl Chain {
    /// Before anything is proposed to an ensemble.
    pub fn new(config: Membership) -> Self {
        Chain {
            epochs: BTreeMap::new(),
            empty_digest: Tree::new().digest().digest,
            configs: [(0, config)].into(),
        }
    }

    /// Who leads an epoch, if anybody ever did.
    pub fn leader(&self, epoch: u32) -> Option<usize> {
        self.epochs.get(&epoch).map(|epoch| epoch.leader)
    }

    /// Who leads the newest epoch.
    pub fn newest_leader(&self) -> Option<usize> {
        self.epochs.last_key_value().map(|(_, epoch)| epoch.leader)
    }

    /// The history that an epoch began with.
    pub fn initial(&self, epoch: u32) -> Option<i64> {
        self.epochs.get(&epoch).map(|epoch| epoch.initial)
    }

    /// An epoch begins.
    pub fn begin(&mut self, epoch: u32, leader: usize, initial: i64) {
        let txns = Vec::new();
        self.epochs.insert(
            epoch,
            Epoch {
                leader,
                initial,
                txns,
            },
        );
    }

    /// The transaction that is to be proposed next in an epoch.
    pub fn next(&self, epoch: u32) -> Option<i64> {
        let proposed = self.epochs.get(&epoch)?.txns.len();
        Some(zxid_of(epoch, u32::try_from(proposed).ok()? + 1))
    }

    /// The next transaction is proposed.
    pub fn propose(&mut self, entry: &Entry) {
        let parsed = TxnEntry::from_slice(&entry.bytes).ok();
        let digest = match parsed.and_then(|entry| entry.digest) {
            Some(digest) => digest.digest,
            // A transaction that failed changes nothing.
            None => self.digest(self.parent(entry.zxid).unwrap_or(0)),
        };
        let change = match config_in(entry) {
            Some(config) => {
                self.configs.insert(entry.zxid, config);
                entry.zxid
            }
            None => self.change(self.parent(entry.zxid).unwrap_or(0)),
        };
        if let Some(epoch) = self.epochs.get_mut(&epoch_of(entry.zxid)) {
            epoch.txns.push(Proposed {
                entry: entry.clone(),
                digest,
                change,
            });
        }
    }

    /// The last change of the members in a history; 0 if there was none.
    fn change(&self, history: i64) -> i64 {
        match (self.get(history), self.initial(epoch_of(history))) {
            (Some(proposed), _) => proposed.change,
            (None, Some(initial)) if initial < history => self.change(initial),
            _ => 0,
        }
    }

    /// Who belongs to the ensemble behind a history.
    pub fn config(&self, history: i64) -> &Membership {
        &self.configs[&self.change(history)]
    }

    /// The changes of the members in a history behind what is committed, in their order.
    pub fn changes(&self, committed: i64, history: i64) -> Vec<i64> {
        let mut changes = Vec::new();
        let mut change = self.change(history);
        while !self.contains(committed.max(0), change) {
            changes.push(change);
            change = self.change(self.parent(change).unwrap_or(0));
        }
        changes.reverse();
        changes
    }

    fn get(&self, zxid: i64) -> Option<&Proposed> {
        let epoch = self.epochs.get(&epoch_of(zxid))?;
        let place = counter_of(zxid).checked_sub(1)?;
        epoch.txns.get(place as usize)
    }

    /// A transaction that was proposed.
    pub fn entry(&self, zxid: i64) -> Option<&Entry> {
        self.get(zxid).map(|proposed| &proposed.entry)
    }

    /// The header of a transaction that was proposed.
    pub fn header(&self, zxid: i64) -> Option<TxnHeader> {
        let entry = self.entry(zxid)?;
        TxnEntry::from_slice(&entry.bytes)
            .ok()
            .map(|entry| entry.header)
    }

    /// The digest of the tree behind a transaction.
    pub fn digest(&self, zxid: i64) -> u64 {
        self.get(zxid)
            .map_or(self.empty_digest, |proposed| proposed.digest)
    }

    /// The transaction in front of one.
    pub fn parent(&self, zxid: i64) -> Option<i64> {
        match counter_of(zxid) {
            0 => None,
            1 => self.initial(epoch_of(zxid)),
            _ => Some(zxid - 1),
        }
    }

    /// Is the history up to `prefix` a prefix of that up to `history`?
    pub fn contains(&self, mut history: i64, prefix: i64) -> bool {
        if prefix <= 0 {
            return history >= prefix;
        }
        while epoch_of(history) > epoch_of(prefix) {
            match self.initial(epoch_of(history)) {
                Some(initial) => history = initial,
                None => return false,
            }
        }
        epoch_of(history) == epoch_of(prefix) && history >= prefix
    }

    /// The newest transaction of a history that is older than an epoch.
    pub fn before(&self, mut history: i64, epoch: u32) -> i64 {
        while epoch_of(history) >= epoch
            && let Some(initial) = self.initial(epoch_of(history))
        {
            history = initial;
        }
        history
    }

    /// The transactions of a history, from its beginning.
    pub fn history(&self, upto: i64) -> Vec<&Entry> {
        let mut history = Vec::new();
        let mut last = Some(upto).filter(|zxid| *zxid > 0);
        while let Some(entry) = last.and_then(|zxid| self.entry(zxid)) {
            history.push(entry);
            last = self.parent(entry.zxid);
        }
        history.reverse();
        history
    }
}

/// The members that the ensemble has from a transaction on, if that changes them.
fn config_in(entry: &Entry) -> Option<Membership> {
    match TxnEntry::from_slice(&entry.bytes).ok()?.txn {
        Txn::Reconfig(set_data) => {
            let text = std::str::from_utf8(set_data.data.unwrap_or_default());
            text.ok()?.parse().ok()
        }
        _ => None,
    }
}
