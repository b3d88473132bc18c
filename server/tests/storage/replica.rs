//! The disk of an ensemble's member: histories that are cut and replaced, crashes amid that, and
//! what learners get to read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{CreateTxn, Txn, TxnDigest, TxnEntry, TxnHeader};
use quorate_server::storage::epoch::EpochFile;
use quorate_server::storage::mem_disk::{MemDisk, Verb};
use quorate_server::storage::replica::Replica;
use quorate_server::storage::snapshot::{Head, Progress, Source, StillTree, Tail};
use quorate_server::storage::{Case, Options, Storage, StorageError};
use quorate_server::tree::Tree;
use quorate_server::zab::{Entry, LogRead, zxid_of};

use crate::support::{DATA, options, storage, storage_with};

/// A transaction that creates a znode named after it, and says who made it up.
fn make(tree: &mut Tree, zxid: i64, author: &str) -> Entry {
    let path = format!("/{author}-{zxid:x}");
    let data = vec![b'd'; (zxid % 7 * 150) as usize];
    let txn = Txn::Create(CreateTxn {
        path: &path,
        data: Some(&data),
        acl: None,
        ephemeral: false,
        parent_cversion: tree.get("/").unwrap().persisted().cversion + 1,
    });
    let header = TxnHeader {
        session_id: 7,
        cxid: 0,
        zxid,
        time: 0,
        op: txn.op().number(),
    };
    tree.apply(&header, &txn, &mut ());
    let digest = Some(tree.digest());
    let entry = TxnEntry {
        header,
        txn,
        digest,
    };
    Entry {
        zxid,
        bytes: Bytes::from(entry.to_vec()),
    }
}

/// A history, and the digest of the tree behind each transaction.
#[derive(Clone)]
struct History {
    entries: Vec<Entry>,
    digests: BTreeMap<i64, TxnDigest>,
}

impl History {
    fn new(zxids: impl IntoIterator<Item = i64>, author: &str) -> Self {
        let mut tree = Tree::new();
        let mut digests = BTreeMap::from([(0, tree.digest())]);
        let mut entries = Vec::new();
        for zxid in zxids {
            entries.push(make(&mut tree, zxid, author));
            digests.insert(zxid, tree.digest());
        }
        History { entries, digests }
    }

    /// The tree behind one of them.
    fn tree(&self, zxid: i64) -> Tree {
        let mut tree = Tree::new();
        for entry in self.entries.iter().filter(|entry| entry.zxid <= zxid) {
            let entry = TxnEntry::from_slice(&entry.bytes).unwrap();
            tree.apply(&entry.header, &entry.txn, &mut ());
        }
        tree
    }

    fn zxids(&self) -> Vec<i64> {
        self.digests.keys().copied().collect()
    }
}

/// Three epochs: four, five and three transactions.
fn three_epochs() -> History {
    let epoch = |epoch, len| (1..=len).map(move |counter| zxid_of(epoch, counter));
    History::new(epoch(1, 4).chain(epoch(2, 5)).chain(epoch(3, 3)), "a")
}

/// Appends that history in batches of two; every third batch is followed by a snapshot.
fn write(storage: &Storage, history: &History) -> Result<Replica, StorageError> {
    let mut replica = Replica::new(storage.clone(), storage.recover()?.report.last_zxid);
    for (at, batch) in history.entries.chunks(2).enumerate() {
        replica.append(batch)?;
        replica.sync()?;
        if at % 3 == 2 {
            replica.roll()?;
            let tree = history.tree(replica.last_zxid());
            storage.write_snapshot(&mut StillTree::new(&tree))?;
        } else if at % 2 == 1 {
            replica.roll()?;
        }
    }
    Ok(replica)
}

fn member(history: &History) -> (MemDisk, Replica) {
    let disk = MemDisk::new();
    let replica = write(&storage(&disk), history).unwrap();
    (disk, replica)
}

/// What recovery finds, which has to be one of the histories up to some transaction.
fn recovers(disk: &MemDisk, histories: &[&History], what: &str) -> i64 {
    let storage = storage(disk);
    let recovered = storage
        .recover()
        .unwrap_or_else(|err| panic!("{what}: {err}; {:?}", disk.names(DATA)));
    let last = recovered.report.last_zxid;
    let digest = Some(recovered.tree.digest());
    assert!(
        histories
            .iter()
            .any(|history| history.digests.get(&last).copied() == digest),
        "{what}: {last:#x} is of no history; {:?}",
        disk.names(DATA)
    );
    assert_eq!(recovered.report.digests_different, 0, "{what}");
    last
}

#[test]
fn a_history_can_be_cut_behind_each_transaction_and_goes_on_from_there() {
    let history = three_epochs();
    for zxid in history.zxids() {
        let (disk, mut replica) = member(&history);
        let tree = replica.truncate(zxid).unwrap().unwrap();
        assert_eq!(tree.last_zxid(), zxid);
        assert_eq!(tree.digest(), history.digests[&zxid]);
        assert_eq!(replica.last_zxid(), zxid);
        for seed in 0..4 {
            let what = format!("truncated to {zxid:#x}, seed {seed}");
            assert_eq!(recovers(&disk.lose_power(seed), &[&history], &what), zxid);
        }
        let kept = history
            .zxids()
            .into_iter()
            .filter(|z| *z != 0 && *z <= zxid);
        let next = (1..=3).map(|counter| zxid_of(4, counter));
        let other = History::new(kept.chain(next), "a");
        replica
            .append(&other.entries[other.entries.len() - 3..])
            .unwrap();
        replica.sync().unwrap();
        let what = format!("gone on from {zxid:#x}");
        assert_eq!(recovers(&disk, &[&other], &what), zxid_of(4, 3));
    }
}

#[test]
fn without_a_way_back_nothing_is_touched() {
    let history = three_epochs();
    for zxid in [zxid_of(1, 5), zxid_of(2, 0), zxid_of(3, 4), zxid_of(4, 1)] {
        let (disk, mut replica) = member(&history);
        let before = crate::support::files(&disk);
        assert!(replica.truncate(zxid).unwrap().is_none());
        assert_eq!(crate::support::files(&disk), before, "{zxid:#x}");
        assert_eq!(replica.last_zxid(), zxid_of(3, 3));
    }
    // All snapshots are ahead of what is wanted.
    let (disk, mut replica) = member(&history);
    storage(&disk).purge(3).unwrap();
    let disk = disk.kill();
    for name in ["snapshot.0", "log.100000001"] {
        quorate_server::storage::disk::Disk::remove(&disk, &crate::support::path(name)).ok();
    }
    let mut left = Replica::new(storage(&disk), replica.last_zxid());
    assert!(left.truncate(zxid_of(1, 2)).unwrap().is_none());
    assert!(replica.truncate(zxid_of(1, 2)).unwrap().is_some());
}

/// Does `act` to a member with the history, with a crash at each of its steps on the disk, and
/// lets `check` judge what recovery finds.
fn crash_everywhere(
    history: &History,
    act: impl Fn(&mut Replica) -> Result<(), StorageError>,
    check: impl Fn(&MemDisk, &str),
) {
    let (disk, mut replica) = member(history);
    let (syncs, writes) = (disk.syncs(), disk.writes());
    act(&mut replica).unwrap();
    assert!(disk.syncs() > syncs && disk.writes() > writes);
    for verb in [Verb::Sync, Verb::Write] {
        let (from, to) = match verb {
            Verb::Sync => (syncs, disk.syncs()),
            Verb::Write => (writes, disk.writes()),
        };
        for nth in from + 1..=to {
            let (disk, mut replica) = member(history);
            disk.fail(verb, nth, std::io::ErrorKind::Other);
            let done = act(&mut replica);
            check(&disk.kill(), &format!("{verb:?} {nth} fails, killed"));
            for seed in 0..12 {
                let what = format!("{verb:?} {nth} fails ({done:?}), power lost, seed {seed}");
                let disk = disk.lose_power(seed);
                check(&disk, &what);
                // Crashes during the recovery that completes it.
                for nth in disk.syncs() + 1.. {
                    let disk = disk.kill();
                    disk.cut_power_at_sync(nth);
                    if storage(&disk).recover().is_ok() {
                        break;
                    }
                    check(&disk.lose_power(seed), &format!("{what}, again at {nth}"));
                }
            }
        }
    }
}

#[test]
fn crashes_amid_a_truncation_leave_one_history() {
    let history = three_epochs();
    for zxid in [
        0,
        zxid_of(1, 3),
        zxid_of(2, 2),
        zxid_of(2, 5),
        zxid_of(3, 2),
    ] {
        crash_everywhere(
            &history,
            |replica| replica.truncate(zxid).map(drop),
            |disk, what| {
                let last = recovers(disk, &[&history], what);
                let whole = [zxid, zxid_of(3, 3)];
                assert!(whole.contains(&last), "{what}: {last:#x}");
            },
        );
    }
}

#[test]
fn crashes_amid_an_installation_leave_one_history() {
    let history = three_epochs();
    let zxids = [
        // Older than everything, in the middle, newer than everything.
        zxid_of(1, 9),
        zxid_of(2, 3),
        zxid_of(4, 0),
    ];
    for zxid in zxids {
        let leaders = History::new([1, zxid], "leader");
        let tree = leaders.tree(zxid);
        crash_everywhere(
            &history,
            |replica| replica.install(&tree),
            |disk, what| {
                let last = recovers(disk, &[&history, &leaders], what);
                assert!([zxid, zxid_of(3, 3)].contains(&last), "{what}: {last:#x}");
            },
        );
    }
}

#[test]
fn the_log_may_lie_in_a_directory_of_its_own() {
    let history = three_epochs();
    let leaders = History::new([1, zxid_of(2, 3)], "leader");
    let storage = |disk: &MemDisk| {
        let mut options = crate::support::options();
        options.log_dir = "/log".into();
        crate::support::storage_with(disk, options)
    };
    let act = |replica: &mut Replica, install: bool| match install {
        true => replica.install(&leaders.tree(zxid_of(2, 3))),
        false => replica.truncate(zxid_of(1, 3)).map(drop),
    };
    for install in [false, true] {
        for nth in 1.. {
            let disk = MemDisk::new();
            let mut replica = write(&storage(&disk), &history).unwrap();
            disk.cut_power_at_sync(disk.syncs() + nth);
            let done = act(&mut replica, install).is_ok();
            for seed in 0..12 {
                let recovered = storage(&disk.lose_power(seed)).recover().unwrap();
                let last = recovered.report.last_zxid;
                let found = [&history, &leaders].map(|history| history.digests.get(&last));
                assert!(found.contains(&Some(&recovered.tree.digest())));
                assert!(!done || last == replica.last_zxid());
            }
            if done {
                break;
            }
        }
    }
}

#[test]
fn an_installed_tree_is_all_there_is_and_the_log_goes_on_behind_it() {
    let history = three_epochs();
    let (disk, mut replica) = member(&history);
    let zxid = zxid_of(2, 3);
    let leaders = History::new([1, 2, zxid, zxid_of(4, 1), zxid_of(4, 2)], "leader");
    replica.install(&leaders.tree(zxid)).unwrap();
    let names = disk.names(DATA);
    assert_eq!(names, [format!("snapshot.{zxid:x}")]);
    replica.append(&leaders.entries[3..]).unwrap();
    replica.write_epoch(EpochFile::Accepted, 4).unwrap();
    let disk = disk.lose_power(0);
    assert_eq!(recovers(&disk, &[&leaders], "installed"), zxid_of(4, 2));
    // The end of epoch 2 is known only as far as the snapshot's name goes.
    let storage = storage(&disk);
    let read = |after| storage.log_range().read(after, zxid_of(4, 2), 1 << 20);
    assert!(matches!(read(zxid), LogRead::Entries(entries) if entries.len() == 2));
    for after in [0, zxid_of(2, 2), zxid_of(2, 4), zxid_of(3, 1)] {
        assert!(matches!(read(after), LogRead::Gap), "{after:#x}");
    }
    // And it can be cut back to.
    let mut replica = Replica::new(storage, zxid_of(4, 2));
    assert!(replica.truncate(zxid).unwrap().is_some());
    assert_eq!(recovers(&disk, &[&leaders], "truncated"), zxid);
}

#[test]
fn epochs_survive_crashes() {
    let history = three_epochs();
    for (file, epoch) in [(EpochFile::Accepted, 4), (EpochFile::Current, 4)] {
        let act = |replica: &mut Replica| {
            replica.write_epoch(EpochFile::Accepted, 3)?;
            replica.write_epoch(EpochFile::Current, 3)?;
            if file == EpochFile::Current {
                replica.write_epoch(EpochFile::Accepted, epoch)?;
            }
            replica.write_epoch(file, epoch)
        };
        crash_everywhere(&history, act, |disk, what| {
            let last = recovers(disk, &[&history], what);
            let epochs = storage(disk).epochs(last).unwrap();
            assert!(epochs.current <= epochs.accepted, "{what}: {epochs:?}");
            assert!(epochs.current >= 3, "{what}: {epochs:?}");
        });
    }
}

#[test]
fn what_leaves_a_gap_is_not_appended() {
    let history = three_epochs();
    let (disk, mut replica) = member(&history);
    let before = crate::support::files(&disk);
    for zxid in [zxid_of(3, 3), zxid_of(3, 5), zxid_of(4, 2), zxid_of(2, 6)] {
        let entry = make(&mut Tree::new(), zxid, "b");
        let err = replica.append(&[entry]).unwrap_err();
        assert!(matches!(err, StorageError::OutOfOrder { .. }), "{err}");
    }
    assert_eq!(crate::support::files(&disk), before);
    replica
        .append(&[make(&mut Tree::new(), zxid_of(4, 1), "b")])
        .unwrap();
}

#[test]
fn a_member_without_a_database_begins_one_with_its_first_transaction() {
    let disk = MemDisk::new();
    let mut options = crate::support::options();
    options.create_database = false;
    let storage = crate::support::storage_with(&disk, options);
    let last_zxid = storage.recover().unwrap().report.last_zxid;
    assert_eq!(last_zxid, -1);
    let mut replica = Replica::new(storage, last_zxid);
    let history = History::new([zxid_of(1, 1)], "a");
    replica.append(&history.entries).unwrap();
    replica.sync().unwrap();
    let last = recovers(&disk.lose_power(1), &[&history], "begun");
    assert_eq!(last, zxid_of(1, 1));
}

/// An entry that nobody is going to apply.
fn filler(zxid: i64, len: usize) -> Entry {
    let mut bytes = vec![zxid as u8; 32 + len];
    bytes[12..20].copy_from_slice(&zxid.to_be_bytes());
    Entry {
        zxid,
        bytes: Bytes::from(bytes),
    }
}

/// Reads up to `last` as it becomes durable; answers the place behind which there was a gap.
fn follow(storage: &Storage, durable: &AtomicI64, last: i64, limit: usize) -> Option<i64> {
    let mut range = storage.log_range();
    let mut place = 0;
    while place < last {
        let upto = durable.load(Ordering::Acquire);
        match range.read(place, upto, limit) {
            LogRead::Gap => return Some(place),
            LogRead::Entries(entries) => {
                for entry in entries {
                    let first = entry.zxid >> 32 != place >> 32;
                    let next = if first { zxid_of(2, 1) } else { place + 1 };
                    assert_eq!(entry, filler(next, (next % 900) as usize));
                    place = entry.zxid;
                }
                assert!(place <= upto);
            }
        }
        std::thread::yield_now();
    }
    None
}

#[test]
fn a_learner_reads_a_log_that_is_being_written() {
    let disk = MemDisk::new();
    let storage = storage(&disk);
    storage.recover().unwrap();
    let mut replica = Replica::new(storage.clone(), 0);
    let durable = AtomicI64::new(0);
    let last = zxid_of(2, 1500);
    std::thread::scope(|scope| {
        let (storage, durable) = (&storage, &durable);
        let readers = [0, 5_000, 1 << 20]
            .map(|limit| scope.spawn(move || follow(storage, durable, last, limit)));
        let zxids = (1..=1500).chain((1..=1500).map(|counter| zxid_of(2, counter)));
        let entries: Vec<_> = zxids.map(|z| filler(z, (z % 900) as usize)).collect();
        for (at, batch) in entries.chunks(7).enumerate() {
            replica.append(batch).unwrap();
            replica.sync().unwrap();
            durable.store(replica.last_zxid(), Ordering::Release);
            if at % 50 == 49 {
                replica.roll().unwrap();
            }
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), None);
        }
    });
}

#[test]
fn what_is_purged_while_a_learner_reads_is_a_gap() {
    let disk = MemDisk::new();
    let storage = storage(&disk);
    storage.recover().unwrap();
    let mut replica = Replica::new(storage.clone(), 0);
    let history = History::new(1..=60, "a");
    let mut range = storage.log_range();
    for (at, batch) in history.entries.chunks(10).enumerate() {
        replica.append(batch).unwrap();
        replica.roll().unwrap();
        let tree = history.tree(replica.last_zxid());
        storage.write_snapshot(&mut StillTree::new(&tree)).unwrap();
        if at == 0 {
            let read = range.read(0, 10, 0);
            assert!(matches!(read, LogRead::Entries(entries) if entries.len() == 1));
        }
    }
    assert!(!storage.purge(3).unwrap().removed.is_empty());
    let mut place = 1;
    while let LogRead::Entries(entries) = range.read(place, 60, 500) {
        assert_eq!(entries.first().unwrap().zxid, place + 1);
        place = entries.last().unwrap().zxid;
    }
    assert_eq!(place, 10, "the file that was open stays readable");
    let kept = storage.log_range().read(30, 60, 1 << 20);
    assert!(matches!(kept, LogRead::Entries(_)));
    assert_eq!(recovers(&disk, &[&history], "purged"), 60);
}

#[test]
fn a_crash_amid_a_purge_leaves_no_hole_behind_a_snapshot() {
    let batches = [(1, 1..=3), (1, 4..=5), (2, 1..=1), (2, 2..=4), (2, 5..=7)];
    let zxids = |(epoch, counters): &(u32, std::ops::RangeInclusive<u32>)| {
        let epoch = *epoch;
        counters.clone().map(move |counter| zxid_of(epoch, counter))
    };
    let history = History::new(batches.iter().flat_map(zxids), "a");
    let apart = |disk: &MemDisk| {
        let options = Options {
            log_dir: "/log".into(),
            ..options()
        };
        storage_with(disk, options)
    };
    let purge = |cut: Option<u64>| {
        let disk = MemDisk::new();
        let storage = apart(&disk);
        storage.recover().unwrap();
        let mut replica = Replica::new(storage.clone(), 0);
        let mut entries = &history.entries[..];
        for batch in &batches {
            let (now, rest) = entries.split_at(zxids(batch).count());
            entries = rest;
            replica.append(now).unwrap();
            replica.roll().unwrap();
            // One at the end of the epoch would tell that something lies in between.
            if replica.last_zxid() != zxid_of(1, 5) {
                let tree = history.tree(replica.last_zxid());
                storage.write_snapshot(&mut StillTree::new(&tree)).unwrap();
            }
        }
        let before = disk.syncs();
        if let Some(nth) = cut {
            disk.cut_power_at_sync(before + nth);
        }
        (storage.purge(3).is_ok(), disk.syncs() - before, disk)
    };
    let (purged, syncs, _) = purge(None);
    assert!(purged && syncs > 1);
    let mut left = 0;
    for nth in 1..=syncs {
        let (purged, _, disk) = purge(Some(nth));
        assert!(!purged, "sync {nth}");
        for seed in 0..24 {
            let disk = disk.lose_power(seed);
            let names = disk.names(DATA);
            left += u32::from(names.iter().any(|name| name == "snapshot.100000003"));
            let read = apart(&disk)
                .log_range()
                .read(zxid_of(1, 3), zxid_of(2, 7), 1 << 20);
            if let LogRead::Entries(entries) = read {
                let first = entries.first().map(|entry| entry.zxid);
                assert_eq!(
                    first,
                    Some(zxid_of(1, 4)),
                    "sync {nth}, seed {seed}: {names:?}"
                );
            }
        }
    }
    assert!(left > 0, "the old snapshot never comes back");
}

/// Lets something happen while a snapshot is taken.
struct Meanwhile<'a, F>(StillTree<'a>, Option<F>);

impl<F: FnOnce()> Source for Meanwhile<'_, F> {
    fn head(&mut self) -> Head {
        self.0.head()
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        if let Some(act) = self.1.take() {
            act();
        }
        self.0.nodes(out)
    }

    fn tail(&mut self) -> Tail {
        self.0.tail()
    }
}

#[test]
fn a_snapshot_of_a_history_that_is_no_more_gets_no_name() {
    let history = three_epochs();
    let installed = History::new([1], "leader").tree(1);
    for install in [false, true] {
        let disk = MemDisk::new();
        let storage = storage(&disk);
        let mut replica = write(&storage, &history).unwrap();
        let tree = history.tree(zxid_of(3, 3));
        let act = || match install {
            true => replica.install(&installed).unwrap(),
            false => drop(replica.truncate(zxid_of(3, 1)).unwrap().unwrap()),
        };
        let mut source = Meanwhile(StillTree::new(&tree), Some(act));
        assert_eq!(storage.write_snapshot(&mut source).unwrap(), None);
        let names = disk.names(DATA);
        assert!(
            names.iter().all(|name| !name.contains("300000003")),
            "{names:?}"
        );
    }
}

/// A snapshot that shows more than its name says.
struct Ahead<'a> {
    tree: &'a Tree,
    zxid: i64,
    end: Option<i64>,
}

impl Source for Ahead<'_> {
    fn head(&mut self) -> Head {
        let zxid = self.zxid;
        Head {
            zxid,
            ..Head::of(self.tree)
        }
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        StillTree::new(self.tree).nodes(out)
    }

    fn tail(&mut self) -> Tail {
        Tail {
            digest: self.end.map(|end| (end, self.tree.digest())),
            last_zxid: None,
        }
    }
}

#[test]
fn a_snapshot_that_shows_what_is_cut_off_goes_with_it() {
    let history = three_epochs();
    let (disk, mut replica) = member(&history);
    // Named after (2,4), and yet it shows what came up to (3,1); another tells nothing.
    let ahead = history.tree(zxid_of(3, 1));
    for (zxid, end) in [(zxid_of(2, 4), Some(zxid_of(3, 1))), (zxid_of(2, 5), None)] {
        let mut source = Ahead {
            tree: &ahead,
            zxid,
            end,
        };
        storage(&disk).write_snapshot(&mut source).unwrap().unwrap();
    }
    let cut = zxid_of(2, 5);
    let tree = replica.truncate(cut).unwrap().unwrap();
    assert_eq!(tree.digest(), history.digests[&cut]);
    assert_eq!(recovers(&disk, &[&history], "cut"), cut);
}

#[test]
fn a_snapshot_tells_of_transactions_that_the_log_lacks() {
    let history = three_epochs();
    let (disk, _) = member(&history);
    // A leader's tree of (2,7), as Apache's servers leave the logs from before beside it.
    let leaders = History::new([1, zxid_of(2, 7)], "leader").tree(zxid_of(2, 7));
    storage(&disk)
        .write_snapshot(&mut StillTree::new(&leaders))
        .unwrap();
    let read = |after| {
        storage(&disk)
            .log_range()
            .read(after, zxid_of(3, 3), 1 << 20)
    };
    let LogRead::Entries(entries) = read(zxid_of(2, 3)) else {
        panic!("there are some");
    };
    assert_eq!(entries.last().unwrap().zxid, zxid_of(2, 5));
    assert!(matches!(read(zxid_of(2, 5)), LogRead::Gap));
    assert!(matches!(read(zxid_of(2, 7)), LogRead::Entries(entries) if entries.len() == 3));
    let recent = storage(&disk).recent(zxid_of(3, 3), 100, 1 << 20).unwrap();
    assert_eq!(recent.first().unwrap().zxid, zxid_of(3, 1));
    // Without it, what is left makes no history, though the numbers would fit.
    for name in disk.names(DATA) {
        if name.starts_with("snapshot.3") || name == "snapshot.200000007" {
            disk.damage(crate::support::path(&name), 40, 1);
        }
    }
    let err = storage(&disk).recover().unwrap_err();
    assert_eq!(err.case(), Some(Case::Hole), "{err}");
}

#[test]
fn the_directory_of_an_apache_server_is_cut_and_read() {
    let (whole, _) = crate::support::fixture("ensemble-member");
    let last = zxid_of(3, 0x19);
    let read = storage(&whole)
        .log_range()
        .read(zxid_of(2, 0), last, usize::MAX);
    let LogRead::Entries(entries) = read else {
        panic!("the log is whole");
    };
    assert_eq!(entries.len(), 0x123 + 0x19);
    let recent = storage(&whole).recent(last, 500, 1 << 20).unwrap();
    assert_eq!(recent, entries);
    for entry in entries.iter().step_by(23).chain(entries.last()) {
        let disk = whole.kill();
        let mut replica = Replica::new(storage(&disk), last);
        let tree = replica.truncate(entry.zxid).unwrap().unwrap();
        let logged = TxnEntry::from_slice(&entry.bytes).unwrap().digest;
        assert_eq!(Some(tree.digest()), logged.or(Some(tree.digest())));
        let recovered = storage(&disk).recover().unwrap();
        assert_eq!(recovered.report.last_zxid, entry.zxid);
        assert_eq!(recovered.tree.digest(), tree.digest());
        assert_eq!(recovered.report.digests_different, 0);
    }
}

#[test]
fn a_learner_reads_everything_some_at_a_time() {
    let history = three_epochs();
    let (disk, _replica) = member(&history);
    let storage = storage(&disk);
    let last = zxid_of(3, 3);
    for (at, after) in history.zxids().into_iter().enumerate() {
        for limit in [0, 500, 1 << 20] {
            let mut range = storage.log_range();
            let mut read = Vec::new();
            let mut place = after;
            while place < last {
                match range.read(place, last, limit) {
                    LogRead::Entries(entries) => read.extend(entries),
                    LogRead::Gap => panic!("a gap behind {place:#x}"),
                }
                place = read.last().unwrap().zxid;
            }
            assert_eq!(read, &history.entries[at..], "behind {after:#x}");
            assert!(matches!(range.read(last, last, limit), LogRead::Entries(e) if e.is_empty()));
        }
        for upto in history.zxids().into_iter().filter(|upto| *upto > after) {
            let read = storage.log_range().read(after, upto, 1 << 20);
            let LogRead::Entries(entries) = read else {
                panic!()
            };
            assert_eq!(entries.last().unwrap().zxid, upto);
        }
        let recent = storage.recent(last, at, 1 << 20).unwrap();
        assert_eq!(recent, &history.entries[history.entries.len() - at..]);
    }
    assert_eq!(storage.recent(last, 100, 100).unwrap(), []);
    assert_eq!(storage.recent(zxid_of(4, 0), 100, 1 << 20).unwrap(), []);
    for after in [zxid_of(1, 5), zxid_of(2, 7), zxid_of(3, 4)] {
        let read = storage.log_range().read(after, zxid_of(4, 1), 1 << 20);
        assert!(matches!(read, LogRead::Gap), "{after:#x}");
    }
}
