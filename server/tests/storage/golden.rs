//! The annotated example of the format's description, byte by byte.

use std::path::Path;
use std::sync::Arc;

use quorate_proto::jute::Encode;
use quorate_proto::{
    Acl, CreateSessionTxn, CreateTxn, Perms, PersistedStat, Txn, TxnDigest, TxnEntry, TxnHeader,
};
use quorate_server::storage::disk::{Disk, LatchedDisk};
use quorate_server::storage::log::{LogOptions, LogReader, LogWriter};
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::snapshot::{Head, Progress, Source, Tail, encode_node};

use crate::support::{DATA, path, record, storage};

const LOG: &str = "
    5a4b4c47 00000002 0000000000000000
    00000000ba500a5c 00000030
    0100002819a40000 00000000 0000000000000001
    000001a1fa0b2eb8 fffffff6
    00007530
    00000002 0000000051c6d660 42
    00000000b4c90ba4 00000058
    0100002819a40000 00000001 0000000000000002
    000001a1fa0b2ec9 00000001
    00000002 2f61
    00000002 6869
    00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65
    01 00000001
    00000002 00000000c080266f 42
    00000000eac60a8d 00000036
    0100002819a40000 00000002 0000000000000003
    000001a1fa0b2ed9 fffffff5
    00000001 00000002 2f61
    00000002 00000000d199bd45 42";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs
        .map(|pair| u8::from_str_radix(&pair, 16).unwrap())
        .collect()
}

fn entries() -> [TxnEntry<'static>; 3] {
    let entry = |cxid, time, txn: Txn<'static>, digest| TxnEntry {
        header: TxnHeader {
            session_id: 0x0100_0028_19a4_0000,
            cxid,
            zxid: i64::from(cxid) + 1,
            time,
            op: txn.op().number(),
        },
        txn,
        digest: Some(TxnDigest { version: 2, digest }),
    };
    let create = CreateTxn {
        path: "/a",
        data: Some(b"hi"),
        acl: Some(vec![Acl::world(Perms::ALL)]),
        ephemeral: true,
        parent_cversion: 1,
    };
    let session = CreateSessionTxn { timeout: 30_000 };
    [
        entry(0, 0x1a1_fa0b_2eb8, Txn::CreateSession(session), 0x51c6_d660),
        entry(1, 0x1a1_fa0b_2ec9, Txn::Create(create), 0xc080_266f),
        entry(
            2,
            0x1a1_fa0b_2ed9,
            Txn::CloseSession(Some(vec!["/a"])),
            0xd199_bd45,
        ),
    ]
}

#[test]
fn the_log_is_written_as_described() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new(DATA)).unwrap();
    let latched = LatchedDisk::new(Arc::new(disk.clone()));
    let mut log = LogWriter::new(latched.clone(), DATA.into(), LogOptions::default());
    for entry in entries() {
        log.append(entry.header.zxid, &record(&entry.to_vec()))
            .unwrap();
    }
    log.sync().unwrap();
    let mut expected = bytes(LOG);
    assert_eq!(expected.len(), 245);
    expected.resize(16 + (64 << 20), 0);
    assert!(disk.get(path("log.1")).unwrap() == expected);
    let mut reader = LogReader::open(latched, Path::new(DATA), 0).unwrap();
    for entry in entries() {
        assert!(reader.advance().unwrap());
        assert_eq!(reader.record().zxid, entry.header.zxid);
        assert_eq!(reader.record().body, entry.to_vec());
    }
    assert!(!reader.advance().unwrap());
    assert_eq!(
        reader.end().map(|end| (end.offset, end.records)),
        Some((245, 3))
    );
}

#[test]
fn the_log_is_replayed_to_the_state_that_it_tells() {
    let disk = MemDisk::new();
    storage(&disk).recover().unwrap();
    disk.put(path("log.1"), &bytes(LOG));
    let recovered = storage(&disk).recover().unwrap();
    assert_eq!(recovered.report.digests_compared, 3);
    assert_eq!(recovered.report.findings, []);

    assert_eq!(recovered.tree.digest().digest, 0xd199_bd45);
}

/// The state behind that log, with the znodes in the order of the example.
struct Example;

impl Source for Example {
    fn head(&mut self) -> Head {
        let acl = vec![Acl::world(Perms::READ)];
        Head {
            zxid: 3,
            sessions: Vec::new(),
            acls: vec![(1, Encode::to_vec(&acl))],
        }
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        let stat = PersistedStat::default();
        let root = PersistedStat {
            cversion: 1,
            pzxid: 3,
            ..stat
        };
        let config = PersistedStat {
            aversion: -1,
            ..stat
        };
        encode_node("", Some(b""), -1, &root, out);
        encode_node("/zookeeper", Some(b""), -1, &stat, out);
        encode_node("/zookeeper/config", Some(b""), 1, &config, out);
        encode_node("/zookeeper/quota", Some(b""), -1, &stat, out);
        Progress::Done
    }

    fn tail(&mut self) -> Tail {
        let digest = TxnDigest {
            version: 2,
            digest: 0xd199_bd45,
        };
        Tail {
            digest: Some((3, digest)),
            last_zxid: Some(3),
        }
    }
}

#[test]
fn a_snapshot_is_written_as_described() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new(DATA)).unwrap();
    let written = storage(&disk)
        .write_snapshot(&mut Example)
        .unwrap()
        .unwrap();
    assert_eq!(
        (written.path, written.zxid, written.len),
        (path("snapshot.3"), 3, 478)
    );
    assert_eq!(disk.names(DATA), ["snapshot.3"]);
    let head = "
        5a4b534e 00000002 ffffffffffffffff
        00000000
        00000001 0000000000000001 00000001 00000001 00000005 776f726c64 00000006 616e796f6e65
        00000000
        00000000 ffffffffffffffff
        0000000000000000 0000000000000000 0000000000000000 0000000000000000
        00000000 00000001 00000000
        0000000000000000 0000000000000003";
    let tail = "
        00000001 2f
        00000000bd0a3b4d 00000001 2f
        0000000000000003 00000002 00000000d199bd45
        0000000091f33f3d 00000001 2f
        0000000000000003
        00000000e3cb4170 00000001 2f";
    let content = disk.get(path("snapshot.3")).unwrap();
    assert!(content.starts_with(&bytes(head)));
    assert_eq!(content[0x196..], bytes(tail));
    let recovered = storage(&disk).recover().unwrap();
    assert_eq!(
        (recovered.tree.digest().digest, recovered.tree.len()),
        (0xd199_bd45, 4)
    );
}
