//! The disk of an ensemble's member: histories that are cut and replaced, crashes amid that, and
//! what learners get to read.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::jute::Encode;
use quorate_proto::{CreateTxn, Txn, TxnDigest, TxnEntry, TxnHeader};
use quorate_server::storage::epoch::EpochFile;
use quorate_server::storage::mem_disk::{MemDisk, Verb};
use quorate_server::storage::replica::Replica;
use quorate_server::storage::snapshot::StillTree;
use quorate_server::storage::{Storage, StorageError};
use quorate_server::tree::Tree;
use quorate_server::zab::{Entry, LogRead, zxid_of};

use crate::support::{DATA, storage};

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
            use quorate_proto::jute::Decode;
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
