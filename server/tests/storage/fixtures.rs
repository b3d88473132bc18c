//! Directories written by Apache ZooKeeper recover to exactly what it had.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quorate_server::storage::Case;
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::recovery::Recovered;
use quorate_server::tree::{Node, Tree};
use serde_json::Value;

use crate::support::{DATA, fixture, path, storage};

fn hex(value: &Value) -> i64 {
    let text = value.as_str().unwrap().trim_start_matches("0x");
    u64::from_str_radix(text, 16).unwrap().cast_signed()
}

fn check_recovered(recovered: &Recovered, manifest: &Value) {
    let expected = &manifest["recovered"];
    let report = &recovered.report;
    assert_eq!(
        report.snapshot,
        Some(path(expected["snapshot"].as_str().unwrap()))
    );
    assert_eq!(report.snapshot_zxid, hex(&expected["snapshotZxid"]));
    assert_eq!(report.replayed, expected["replayedTxns"].as_u64().unwrap());
    assert_eq!(report.last_zxid, hex(&expected["lastZxid"]));
    assert_eq!(recovered.tree.last_zxid(), report.last_zxid);
    assert_eq!(report.digests_different, 0);
    let digest = hex(&expected["treeDigest"]).cast_unsigned();
    assert_eq!(recovered.tree.digest().digest, digest);
    let mut sessions: Vec<_> = recovered.tree.sessions().collect();
    sessions.sort_unstable();
    let listed = expected["sessions"].as_array().unwrap().iter();
    let mut listed: Vec<_> = listed
        .map(|s| {
            (
                hex(&s["id"]),
                i32::try_from(s["timeoutMs"].as_i64().unwrap()).unwrap(),
            )
        })
        .collect();
    listed.sort_unstable();
    assert_eq!(sessions, listed);
    check_nodes(&recovered.tree, manifest);
}

fn check_nodes(tree: &Tree, manifest: &Value) {
    let nodes = manifest["nodes"].as_array().unwrap();
    assert_eq!(tree.len(), nodes.len());
    for expected in nodes {
        let path = expected["path"].as_str().unwrap();
        let node = tree
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        check_acl(tree, node, &expected["acl"], path);
        if path == "/zookeeper/config" {
            // Rewritten from the configuration at every start.
            continue;
        }
        let data = expected["data"]
            .as_str()
            .map(|data| STANDARD.decode(data).unwrap());
        assert_eq!(node.data(), data.as_deref(), "data of {path}");
        check_stat(node, expected, path);
    }
}

fn check_acl(tree: &Tree, node: &Node, expected: &Value, path: &str) {
    let found = tree.acl(node).entries().iter();
    let found: Vec<_> = found
        .map(|acl| {
            (
                acl.perms.0,
                acl.id.scheme.to_string(),
                acl.id.id.to_string(),
            )
        })
        .collect();
    let expected = expected.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let expected: Vec<_> = expected
        .map(|acl| {
            let perms = i32::try_from(acl["perms"].as_i64().unwrap()).unwrap();
            (perms, text(&acl["scheme"]), text(&acl["id"]))
        })
        .collect();
    assert_eq!(found, expected, "ACL of {path}");
}

fn check_stat(node: &Node, expected: &Value, path: &str) {
    let stat = node.stat();
    let found = [
        ("czxid", stat.czxid),
        ("mzxid", stat.mzxid),
        ("ctime", stat.ctime),
        ("mtime", stat.mtime),
        ("version", i64::from(stat.version)),
        ("cversion", i64::from(stat.cversion)),
        ("aversion", i64::from(stat.aversion)),
        ("ephemeralOwner", stat.ephemeral_owner),
        ("dataLength", i64::from(stat.data_length)),
        ("numChildren", i64::from(stat.num_children)),
        ("pzxid", stat.pzxid),
    ];
    for (field, found) in found {
        let listed = &expected["stat"][field];
        let listed = listed
            .as_i64()
            .unwrap_or_else(|| panic!("{path}: {field} {listed}"));
        assert_eq!(found, listed, "{field} of {path}");
    }
}

/// Recovers a fixture, and again from what the first recovery left behind.
fn recovers(name: &str) -> Recovered {
    let (disk, manifest) = fixture(name);
    let recovered = storage(&disk).recover().unwrap();
    check_recovered(&recovered, &manifest);
    let disk = disk.lose_power(0);
    let again = storage(&disk).recover().unwrap();
    check_recovered(&again, &manifest);
    assert_eq!(
        again.report.findings,
        [],
        "the first recovery left nothing to mend"
    );
    recovered
}

#[test]
fn plain_snapshots() {
    let report = recovers("standalone-plain").report;
    assert_eq!(report.findings, []);
    assert!(report.digests_compared > 0);
}

#[test]
fn gzip_snapshots() {
    assert_eq!(recovers("standalone-gzip").report.findings, []);
}

#[test]
fn snappy_snapshots() {
    assert_eq!(recovers("standalone-snappy").report.findings, []);
}

#[test]
fn without_digests_and_trailers() {
    let report = recovers("standalone-nodigest").report;
    assert_eq!(
        (report.findings.as_slice(), report.digests_compared),
        ([].as_slice(), 0)
    );
}

#[test]
fn member_of_an_ensemble() {
    let report = recovers("ensemble-member").report;
    assert_eq!(report.findings, []);
    let (disk, _) = fixture("ensemble-member");
    let epochs = storage(&disk).epochs(report.last_zxid).unwrap();
    assert_eq!((epochs.accepted, epochs.current), (3, 3));
}

#[test]
fn torn_tails() {
    for (name, len) in [("torn-tail-cut", 360), ("torn-tail-zero", 16400)] {
        let (disk, _) = fixture(name);
        assert_eq!(disk.get(path("log.190")).unwrap().len(), len);
        let report = recovers(name).report;
        let [finding] = report.findings.as_slice() else {
            panic!("{:?}", report.findings)
        };
        assert_eq!(
            (finding.case, &finding.path),
            (Case::TornTail, &path("log.190"))
        );
    }
}

#[test]
fn a_checksum_that_does_not_match_in_front_of_whole_records() {
    let (disk, _) = fixture("crc-error");
    let before = disk.get(path("log.190"));
    let err = storage(&disk).recover().unwrap_err();
    assert_eq!(err.case(), Some(Case::RecordDamaged));
    let text = err.to_string();
    assert!(
        text.starts_with("/data/version-2/log.190 at offset 16: "),
        "{text}"
    );
    assert_eq!(
        disk.get(path("log.190")),
        before,
        "a refusal changes nothing"
    );
}

#[test]
fn replay_from_any_snapshot_comes_to_the_same_state() {
    for name in [
        "standalone-plain",
        "standalone-gzip",
        "standalone-snappy",
        "ensemble-member",
    ] {
        let (disk, manifest) = fixture(name);
        let digest = hex(&manifest["recovered"]["treeDigest"]).cast_unsigned();
        let names = disk.names(DATA);
        let (snapshots, logs): (Vec<_>, Vec<_>) = names
            .iter()
            .filter(|name| name.contains('.'))
            .partition(|name| name.starts_with("snapshot"));
        assert!(snapshots.len() > 3);
        for only in snapshots {
            let fresh = MemDisk::new();
            for file in logs.iter().copied().chain([only]) {
                fresh.put(path(file), &disk.get(path(file)).unwrap());
            }
            let recovered = storage(&fresh).recover().unwrap();
            assert_eq!(recovered.report.digests_different, 0, "{name} from {only}");
            assert_eq!(recovered.tree.digest().digest, digest, "{name} from {only}");
            check_nodes(&recovered.tree, &manifest);
        }
    }
}

#[test]
fn a_new_database_begins_with_the_snapshot_that_apache_writes() {
    let disk = MemDisk::new();
    storage(&disk).recover().unwrap();
    let (apache, _) = fixture("standalone-plain");
    assert_eq!(disk.get(path("snapshot.0")), apache.get(path("snapshot.0")));
}
