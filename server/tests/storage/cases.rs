//! Every row of the table of cases, brought about on purpose.

use quorate_proto::jute::Encode;
use quorate_proto::{Txn, TxnDigest, TxnEntry, TxnHeader};
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::{Case, Decision, Options};
use quorate_server::tree::Tree;

use crate::support::{
    DATA, Server, apply_next, database, digest_at, files, options, path, record, storage_with,
};

/// Lets `change` at a file.
fn edit(disk: &MemDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = disk.get(path(name)).unwrap();
    change(&mut content);
    disk.put(path(name), &content);
}

/// Where the last record of a log begins and ends.
pub(crate) fn last_record(content: &[u8]) -> (usize, usize) {
    let (mut start, mut end) = (16, 16);
    loop {
        let Some(length) = content.get(end + 8..end + 12) else {
            return (start, end);
        };
        let length = i32::from_be_bytes(length.try_into().unwrap());
        if length == 0 {
            return (start, end);
        }
        start = end;
        end += 12 + usize::try_from(length).unwrap() + 1;
    }
}

/// The record that would come next in [`database`].
fn next_record() -> Vec<u8> {
    let mut tree = Tree::new();
    for _ in 0..19 {
        apply_next(&mut tree);
    }
    record(&apply_next(&mut tree))
}

fn separate_log_dir() -> Options {
    let mut options = options();
    options.log_dir = "/log".into();
    options
}

/// A disk in the state of a case, and the options to start with.
fn scenario(case: Case) -> (MemDisk, Options) {
    let disk = database();
    let mut options = options();
    match case {
        Case::SnapshotInLogDir => {
            disk.put("/log/version-2/snapshot.5", b"");
            options = separate_log_dir();
        }
        Case::LogInSnapshotDir => options = separate_log_dir(),
        Case::Leftover => disk.put(path("tmp-snapshot.9"), b"ZKSN"),
        Case::RewriteUnfinished => disk.put(path("truncate.c"), b""),
        Case::SnapshotDamaged => edit(&disk, "snapshot.9", |content| content[100] ^= 1),
        Case::NoSnapshotWhole => {
            for name in ["snapshot.0", "snapshot.9"] {
                edit(&disk, name, |content| content.truncate(90));
            }
        }
        Case::LogWithoutSnapshot | Case::LogTrusted => {
            let only_logs = MemDisk::new();
            for (name, content) in files(&disk)
                .iter()
                .filter(|(name, _)| name.starts_with("log"))
            {
                only_logs.put(path(name), content);
            }
            options.trust_empty_snapshot = case == Case::LogTrusted;
            return (only_logs, options);
        }
        Case::Empty => return (MemDisk::new(), options),
        Case::EmptyUnexpected => {
            options.create_database = false;
            return (MemDisk::new(), options);
        }
        Case::LogUnstarted => disk.put(path("log.14"), &[0; 1000]),
        Case::LogHeaderDamaged => edit(&disk, "log.a", |content| content[0] = b'X'),
        Case::TornTail => edit(&disk, "log.a", |content| {
            let (start, _) = last_record(content);
            content[start + 40..].fill(0);
        }),
        Case::TornTailPassed => {
            edit(&disk, "log.a", |content| {
                let (_, end) = last_record(content);
                content.truncate(end);
                content.extend_from_slice(&next_record()[..50]);
            });
            let mut next = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
            next.extend_from_slice(&next_record());
            disk.put(path("log.14"), &next);
        }
        Case::RecordDamaged => edit(&disk, "log.a", |content| {
            let (start, _) = last_record(content);
            content[start + 40] ^= 0x10;
        }),
        Case::RecordUnknown => edit(&disk, "log.a", |content| {
            let (_, end) = last_record(content);
            content.truncate(end);
            let header = TxnHeader {
                session_id: 0,
                cxid: 0,
                zxid: 20,
                time: 0,
                op: 999,
            };
            content.extend_from_slice(&record(&header.to_vec()));
        }),
        Case::Hole => {
            let (_, end) = last_record(&disk.get(path("log.a")).unwrap());
            edit(&disk, "log.a", |content| {
                content.truncate(end);
                let header = TxnHeader {
                    session_id: 0,
                    cxid: 0,
                    zxid: 21,
                    time: 0,
                    op: -1,
                };
                let mut entry = header.to_vec();
                (-4i32).encode(&mut entry);
                content.extend_from_slice(&record(&entry));
            });
        }
        Case::Repeated => edit(&disk, "log.a", |content| {
            let (start, end) = last_record(content);
            content.truncate(end);
            content.extend_from_within(start..end);
        }),
        Case::DigestDiffers => edit(&disk, "log.a", |content| {
            let (_, end) = last_record(content);
            content.truncate(end);
            let txn = Txn::CloseSession(Some(Vec::new()));
            let op = txn.op().number();
            let header = TxnHeader {
                session_id: 1,
                cxid: 0,
                zxid: 20,
                time: 0,
                op,
            };
            let digest = Some(TxnDigest {
                version: 2,
                digest: 7,
            });
            content.extend_from_slice(&record(
                &TxnEntry {
                    header,
                    txn,
                    digest,
                }
                .to_vec(),
            ));
        }),
    }
    (disk, options)
}

#[test]
fn each_case_is_met_and_decided_as_the_table_says() {
    for case in Case::ALL.iter().copied() {
        let (disk, options) = scenario(case);
        let before = files(&disk);
        let inspected = storage_with(&disk, options.clone()).inspect();
        assert_eq!(
            files(&disk),
            before,
            "{}: inspecting changes nothing",
            case.label()
        );
        let recovered = storage_with(&disk, options.clone()).recover();
        if case.decision() == Decision::Refuse {
            assert_eq!(inspected.unwrap_err().case(), Some(case));
            assert_eq!(recovered.unwrap_err().case(), Some(case));
            assert_eq!(
                files(&disk),
                before,
                "{}: a refusal changes nothing",
                case.label()
            );
            continue;
        }
        let report = recovered
            .unwrap_or_else(|err| panic!("{}: {err}", case.label()))
            .report;
        let cases: Vec<Case> = report.findings.iter().map(|finding| finding.case).collect();
        assert_eq!(cases, [case]);
        assert_eq!(inspected.unwrap().findings, report.findings);
        let again = storage_with(&disk.lose_power(7), options)
            .recover()
            .unwrap()
            .report;
        assert_eq!(again.last_zxid, report.last_zxid, "{}", case.label());
        if case.decision() == Decision::Repair {
            assert_eq!(again.findings, [], "{}: mended for good", case.label());
        }
    }
}

#[test]
fn every_message_names_the_place_and_the_way_out() {
    for case in Case::ALL
        .iter()
        .copied()
        .filter(|case| case.decision() == Decision::Refuse)
    {
        let (disk, options) = scenario(case);
        let err = storage_with(&disk, options)
            .recover()
            .unwrap_err()
            .to_string();
        assert!(err.starts_with("/data") || err.starts_with("/log"), "{err}");
        assert!(
            err.contains(case.cause()) && err.ends_with(case.advice()),
            "{err}"
        );
    }
}

#[test]
fn what_is_recovered_from_damage_is_a_state_that_was() {
    for (case, last) in [
        (Case::SnapshotDamaged, 19),
        (Case::TornTail, 18),
        (Case::TornTailPassed, 20),
        (Case::Repeated, 19),
        (Case::LogTrusted, 19),
    ] {
        let (disk, options) = scenario(case);
        let recovered = storage_with(&disk, options).recover().unwrap();
        assert_eq!(recovered.tree.last_zxid(), last);
        assert_eq!(recovered.tree.digest(), digest_at(last), "{}", case.label());
    }
}

#[test]
fn the_marker_allows_one_new_database() {
    let (disk, options) = scenario(Case::EmptyUnexpected);
    let recover = || {
        storage_with(&disk, options.clone())
            .recover()
            .unwrap()
            .report
    };
    assert_eq!(recover().last_zxid, -1);
    assert_eq!(disk.names(DATA), [""; 0]);
    disk.put("/data/initialize", b"");
    assert_eq!(recover().last_zxid, 0);
    assert_eq!(disk.get("/data/initialize"), None);
    assert_eq!(disk.names(DATA), ["snapshot.0"]);
}

#[test]
fn missing_directories_are_not_created_if_that_is_forbidden() {
    let disk = MemDisk::new();
    let options = Options {
        create_dirs: false,
        ..options()
    };
    let err = storage_with(&disk, options)
        .recover()
        .unwrap_err()
        .to_string();
    assert!(
        err.contains("/data/version-2") && err.contains("create it"),
        "{err}"
    );
}

#[test]
fn purge_keeps_what_a_restart_from_the_oldest_kept_snapshot_needs() {
    let disk = MemDisk::new();
    let mut server = Server::start(&disk).unwrap();
    for _ in 0..6 {
        server.commit(3).unwrap();
        server.snapshot().unwrap();
        server.commit(1).unwrap();
    }
    let snapshots = |disk: &MemDisk| {
        let mut names = disk.names(DATA);
        names.retain(|name| name.starts_with("snapshot"));
        names
    };
    assert_eq!(snapshots(&disk).len(), 7);
    // The newest snapshot is damaged and does not count.
    let damaged = disk.kill();
    edit(&damaged, "snapshot.17", |content| content.truncate(200));
    let purged = server.storage.purge(1).unwrap();
    assert_eq!(
        snapshots(&disk),
        ["snapshot.13", "snapshot.17", "snapshot.f"]
    );
    assert_eq!(purged.removed.len(), 4 + 3);
    assert!(purged.bytes > 0);

    storage_with(&damaged, options()).purge(3).unwrap();
    let kept = ["snapshot.13", "snapshot.17", "snapshot.b", "snapshot.f"];
    assert_eq!(snapshots(&damaged), kept);
    for disk in [disk, damaged] {
        let recovered = storage_with(&disk, options()).recover().unwrap();
        assert_eq!(recovered.tree.digest(), digest_at(24));
    }
}
