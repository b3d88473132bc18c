//! Power failures at every point, processes killed, disks that fail: nothing acknowledged is lost,
//! and nothing is half there.

use std::io::ErrorKind;

use quorate_server::storage::StorageError;
use quorate_server::storage::epoch::EpochFile;
use quorate_server::storage::mem_disk::{MemDisk, Verb};

use crate::support::{Server, digest_at, storage};

/// Everything that a server does to its disk, a few times over.
fn work(disk: &MemDisk, acknowledged: &mut i64) -> Result<(), StorageError> {
    let mut server = Server::start(disk)?;
    *acknowledged = server.acknowledged;
    for round in 0..4u32 {
        for txns in [1, 5, 2] {
            let committed = server.commit(txns);
            *acknowledged = server.acknowledged;
            committed?;
        }
        server.storage.write_epoch(EpochFile::Accepted, round)?;
        server.snapshot()?;
        server.commit(1)?;
        *acknowledged = server.acknowledged;
        server.storage.purge(3)?;
    }
    Ok(())
}

/// Starts from what a crash left and checks it.
fn check(disk: &MemDisk, acknowledged: i64, what: &str) -> i64 {
    let recovered = match storage(disk).recover() {
        Ok(recovered) => recovered,
        Err(err) => panic!("{what}: {err}"),
    };
    let last = recovered.report.last_zxid;
    assert!(
        last >= acknowledged,
        "{what}: {last} recovered, {acknowledged} acknowledged"
    );
    assert_eq!(recovered.tree.digest(), digest_at(last), "{what}");
    assert_eq!(recovered.report.digests_different, 0, "{what}");
    last
}

#[test]
fn power_failures_at_every_sync() {
    let whole = MemDisk::new();
    work(&whole, &mut 0).unwrap();
    let syncs = whole.syncs();
    assert!(syncs > 40);
    for nth in 1..=syncs {
        for seed in 0..6 {
            let what = format!("power failure at sync {nth}, seed {seed}");
            let disk = MemDisk::new();
            disk.cut_power_at_sync(nth);
            let mut acknowledged = 0;
            work(&disk, &mut acknowledged).unwrap_err();
            let disk = disk.lose_power(seed);
            let last = check(&disk, acknowledged, &what);
            // What was recovered may have been shown to somebody, so that it has to stay.
            let disk = disk.lose_power(seed + 1);
            assert_eq!(check(&disk, last, &what), last, "{what}");
            // And work goes on.
            work(&disk, &mut acknowledged).unwrap_or_else(|err| panic!("{what}: {err}"));
            check(&disk.lose_power(seed), acknowledged, &what);
        }
    }
}

#[test]
fn processes_killed_at_every_sync_and_power_failures_after_the_restart() {
    let whole = MemDisk::new();
    work(&whole, &mut 0).unwrap();
    for nth in 1..=whole.syncs() {
        let what = format!("killed at sync {nth}");
        let disk = MemDisk::new();
        disk.cut_power_at_sync(nth);
        let mut acknowledged = 0;
        work(&disk, &mut acknowledged).unwrap_err();
        let disk = disk.kill();
        let last = check(&disk, acknowledged, &what);
        for seed in 0..4 {
            assert_eq!(check(&disk.lose_power(seed), last, &what), last, "{what}");
        }
    }
}

#[test]
fn power_failures_during_recovery() {
    for seed in 0..8 {
        let disk = MemDisk::new();
        let mut server = Server::start(&disk).unwrap();
        server.commit(3).unwrap();
        server.append(6).unwrap();
        let crashed = disk.lose_power(seed);
        for nth in crashed.syncs() + 1.. {
            let disk = crashed.kill();
            disk.cut_power_at_sync(nth);
            if storage(&disk).recover().is_ok() {
                break;
            }
            check(
                &disk.lose_power(seed),
                3,
                &format!("recovery cut at sync {nth}, seed {seed}"),
            );
        }
    }
}

#[test]
fn a_failed_write_or_sync_is_the_last() {
    let whole = MemDisk::new();
    work(&whole, &mut 0).unwrap();
    let verbs = [
        (Verb::Write, whole.writes(), ErrorKind::StorageFull),
        (Verb::Sync, whole.syncs(), ErrorKind::Other),
    ];
    for (verb, count, error) in verbs {
        for nth in 1..=count {
            let what = format!("{verb:?} {nth} fails");
            let disk = MemDisk::new();
            disk.fail(verb, nth, error);
            let mut acknowledged = 0;
            if work(&disk, &mut acknowledged).is_ok() {
                // A file that could not be removed does no harm.
                assert_eq!(verb, Verb::Write);
            }
            check(&disk.kill(), acknowledged, &what);
            check(&disk.lose_power(nth), acknowledged, &what);
        }
    }
}

#[test]
fn after_a_failure_everything_is_refused_with_its_cause() {
    let disk = MemDisk::new();
    let mut server = Server::start(&disk).unwrap();
    server.commit(2).unwrap();
    disk.fail(Verb::Write, disk.writes() + 1, ErrorKind::StorageFull);
    let first = server.commit(1).unwrap_err();
    assert!(matches!(first, StorageError::Io { .. }));
    let cause = first.to_string();
    assert!(
        cause.contains("/data/version-2/log.1") && cause.contains("make room"),
        "{cause}"
    );
    assert_eq!(
        server.storage.failure().map(ToString::to_string),
        Some(cause.clone())
    );
    let later = [
        server.commit(1).unwrap_err(),
        server.snapshot().unwrap_err(),
        server.storage.purge(3).unwrap_err(),
        server
            .storage
            .write_epoch(EpochFile::Current, 1)
            .unwrap_err(),
        server.storage.recover().unwrap_err(),
    ];
    for err in later {
        assert!(matches!(err, StorageError::Stopped(_)));
        assert!(err.to_string().contains(&cause), "{err}");
    }
    check(&disk.kill(), 2, "after a full disk");
}
