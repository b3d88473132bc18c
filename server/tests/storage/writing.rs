//! Files of the log, the epochs, and when snapshots are due.

use std::path::Path;

use quorate_proto::jute::Encode;
use quorate_proto::{CreateTxn, Txn, TxnEntry, TxnHeader};
use quorate_server::storage::epoch::EpochFile;
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::snapshot::{Compression, StillTree};
use quorate_server::storage::{Options, StorageError};

use crate::support::{DATA, Server, options, path, record, storage, storage_with};

fn log_names(disk: &MemDisk) -> Vec<String> {
    let mut names = disk.names(DATA);
    names.retain(|name| name.starts_with("log"));
    names
}

fn len(disk: &MemDisk, name: &str) -> usize {
    disk.get(path(name)).unwrap().len()
}

#[test]
fn files_grow_ahead_in_steps() {
    let disk = MemDisk::new();
    let mut server = Server::start(&disk).unwrap();
    let step = 16 << 10;
    server.log.append(1, &[9; 100]).unwrap();
    assert_eq!(len(&disk, "log.1"), 16 + step);
    server.log.append(2, &[9; 11 << 10]).unwrap();
    assert_eq!(len(&disk, "log.1"), 16 + step);
    server.log.append(3, &[9; 2 << 10]).unwrap();
    assert_eq!(
        len(&disk, "log.1"),
        16 + 2 * step,
        "less than 4096 bytes were left"
    );
    server.log.append(4, &[9; 100 << 10]).unwrap();
    assert_eq!(len(&disk, "log.1") % step, 16);
    assert_eq!(server.log.size(), len(&disk, "log.1") as u64);
    let content = disk.get(path("log.1")).unwrap();
    let end = 16 + 100 + (11 << 10) + (2 << 10) + (100 << 10);
    assert!(content[16..end].iter().all(|b| *b == 9));
    assert!(content[end..].iter().all(|b| *b == 0) && content.len() > end + 4096);
}

/// Around the lengths of the buffers that logs and snapshots are read and written with.
#[test]
fn transactions_and_znodes_of_any_length() {
    for compression in [Compression::None, Compression::Gzip, Compression::Snappy] {
        let disk = MemDisk::new();
        let storage = storage_with(
            &disk,
            Options {
                compression,
                ..options()
            },
        );
        let mut tree = storage.recover().unwrap().tree;
        let mut log = storage.log_writer();
        let lengths = (0..40)
            .map(|n| n * 977)
            .chain((-4..4).map(|n| (256 << 10) + n * 19));
        for (zxid, length) in (1..).zip(lengths.chain([(1 << 20) + 1])) {
            let data: Vec<u8> = (0..length).map(|n: i32| (n ^ (n >> 7)) as u8).collect();
            let path = format!("/n{zxid}");
            let txn = Txn::Create(CreateTxn {
                path: &path,
                data: Some(&data),
                acl: None,
                ephemeral: false,
                parent_cversion: zxid as i32,
            });
            let op = txn.op().number();
            let header = TxnHeader {
                session_id: 1,
                cxid: 0,
                zxid,
                time: 0,
                op,
            };
            tree.apply(&header, &txn, &mut ());
            let digest = Some(tree.digest());
            let entry = TxnEntry {
                header,
                txn,
                digest,
            };
            log.append(zxid, &record(&entry.to_vec())).unwrap();
        }
        log.sync().unwrap();
        let replayed = storage.recover().unwrap();
        assert_eq!(replayed.report.digests_compared, replayed.report.replayed);
        assert_eq!(
            (replayed.tree.digest(), replayed.report.findings),
            (tree.digest(), vec![])
        );
        storage.write_snapshot(&mut StillTree::new(&tree)).unwrap();
        let loaded = storage.recover().unwrap();
        assert_eq!(
            (loaded.tree.digest(), loaded.report.replayed),
            (tree.digest(), 0)
        );
    }
}

#[test]
fn files_need_not_grow_ahead() {
    let disk = MemDisk::new();
    let mut options = options();
    options.log.preallocation = 0;
    let storage = storage_with(&disk, options);
    storage.recover().unwrap();
    let mut log = storage.log_writer();
    log.append(1, &[9; 100]).unwrap();
    log.append(2, &[9; 100]).unwrap();
    assert_eq!(len(&disk, "log.1"), 216);
}

#[test]
fn files_are_closed_at_a_size_and_by_snapshots() {
    let disk = MemDisk::new();
    let mut options = options();
    options.log.size_limit = Some(20 << 10);
    let storage = storage_with(&disk, options);
    storage.recover().unwrap();
    let mut log = storage.log_writer();
    for zxid in 1..=5 {
        log.append(zxid, &record(&[1; 6 << 10])).unwrap();
        log.sync().unwrap();
    }
    assert_eq!(log_names(&disk), ["log.1", "log.3", "log.5"]);
    let lens: u64 = log_names(&disk)
        .iter()
        .map(|name| len(&disk, name) as u64)
        .sum();
    assert_eq!(log.size(), lens);
    log.roll().unwrap();
    assert_eq!(log.size(), 0);
    log.append(6, &record(&[1; 40])).unwrap();
    assert_eq!(log_names(&disk), ["log.1", "log.3", "log.5", "log.6"]);
}

#[test]
fn without_forced_syncs_there_are_none() {
    let disk = MemDisk::new();
    let mut options = options();
    options.log.force_sync = false;
    let storage = storage_with(&disk, options);
    storage.recover().unwrap();
    let mut log = storage.log_writer();
    let before = disk.syncs();
    log.append(1, &[9; 100]).unwrap();
    log.sync().unwrap();
    assert_eq!(disk.syncs(), before);
}

#[test]
fn no_file_is_written_over() {
    let disk = MemDisk::new();
    let mut server = Server::start(&disk).unwrap();
    disk.put(path("log.1"), b"precious");
    let err = server.commit(1).unwrap_err().to_string();
    assert!(
        err.contains("/data/version-2/log.1") && err.contains("move that file away"),
        "{err}"
    );
    assert_eq!(disk.get(path("log.1")).unwrap(), b"precious");
}

#[test]
fn epochs_are_read_and_mended() {
    let epoch = |n: i64| n << 32 | 5;
    let load = |files: &[(&str, &str)], last| {
        let disk = MemDisk::new();
        let storage = storage(&disk);
        storage.recover().unwrap();
        for (name, content) in files {
            disk.put(path(name), content.as_bytes());
        }
        let epochs = storage
            .epochs(last)
            .map(|epochs| (epochs.accepted, epochs.current));
        if let Ok((accepted, current)) = epochs {
            assert_eq!(
                disk.get(path("acceptedEpoch")).unwrap(),
                accepted.to_string().as_bytes()
            );
            assert_eq!(
                disk.get(path("currentEpoch")).unwrap(),
                current.to_string().as_bytes()
            );
        }
        epochs.map_err(|err| err.to_string())
    };
    let (accepted, current, next) = ("acceptedEpoch", "currentEpoch", "currentEpoch.tmp");
    assert_eq!(load(&[], -1), Ok((0, 0)));
    assert_eq!(load(&[], epoch(3)), Ok((3, 3)));
    assert_eq!(
        load(&[(accepted, "7"), (current, "6")], epoch(6)),
        Ok((7, 6))
    );
    // The history became durable, the epoch did not.
    assert_eq!(
        load(&[(accepted, "7"), (current, "6")], epoch(7)),
        Ok((7, 7))
    );
    assert_eq!(load(&[(current, "6"), (next, "7")], epoch(7)), Ok((7, 7)));
    for (files, last, reason) in [
        (
            vec![(accepted, "6"), (current, "6")],
            7,
            "older than the newest transaction's",
        ),
        (
            vec![(accepted, "6"), (current, "7")],
            7,
            "newer than the accepted one",
        ),
        (vec![(accepted, "-1")], 1, "not an epoch"),
        (vec![(current, "")], 1, "not an epoch"),
    ] {
        let err = load(&files, epoch(last)).unwrap_err();
        assert!(err.starts_with(DATA) && err.contains(reason), "{err}");
    }
}

#[test]
fn an_epoch_survives_as_a_whole() {
    let disk = MemDisk::new();
    storage(&disk).recover().unwrap();
    storage(&disk).write_epoch(EpochFile::Accepted, 41).unwrap();
    let before = disk.syncs();
    for nth in 1..=2 {
        for seed in 0..20 {
            let disk = disk.kill();
            disk.cut_power_at_sync(before + nth);
            let err = storage(&disk)
                .write_epoch(EpochFile::Accepted, 4200)
                .unwrap_err();
            assert!(matches!(err, StorageError::Io { .. }));
            let disk = disk.lose_power(seed);
            let epochs = storage(&disk).epochs(0).unwrap();
            assert!([41, 4200].contains(&epochs.accepted));
        }
    }
    storage(&disk)
        .write_epoch(EpochFile::Accepted, 4200)
        .unwrap();
    assert_eq!(
        storage(&disk.lose_power(1)).epochs(0).unwrap().accepted,
        4200
    );
}

#[test]
fn snapshots_are_due_after_half_to_all_of_the_transactions_or_bytes() {
    let options = Options {
        snap_count: 1000,
        snap_size_limit: Some(64 << 20),
        ..options()
    };
    let storage = storage_with(&MemDisk::new(), options);
    assert_eq!(storage.dirs().data, Path::new(DATA));
    let mut lengths = Vec::new();
    for seed in 0..50 {
        let mut trigger = storage.snapshot_trigger(seed);
        let mut txns = 0;
        for _ in 0..3 {
            while !trigger.appended(1, 0) {
                txns += 1;
            }
            lengths.push(txns);
            assert!((500..=1000).contains(&txns), "{txns}");
            txns = 0;
        }
        let mut size = 0;
        while !trigger.appended(0, size) {
            size += 1 << 20;
        }
        assert!((32..=64).contains(&(size >> 20)), "{size}");
    }
    lengths.sort_unstable();
    lengths.dedup();
    assert!(lengths.len() > 50, "they are spread");
}
