//! Files with flipped bits, cut files and files of chance: never a panic, and never a
//! transaction less than was acknowledged without a refusal.

use proptest::prelude::*;
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::snapshot::{Compression, StillTree};
use quorate_server::storage::{Case, Options};
use quorate_server::tree::Tree;

use crate::cases::last_record;
use crate::support::{
    apply_next, database, digest_at, files, options, path, record, storage, storage_with,
};

const LAST: i64 = 19;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bits_in_a_log_lose_nothing_silently(
        log in prop::sample::select(vec!["log.1", "log.a"]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
        everywhere in any::<bool>(),
    ) {
        let disk = database();
        let mut content = disk.get(path(log)).unwrap();
        let end = content.iter().rposition(|b| *b != 0).unwrap() + 1;
        let range = if everywhere { content.len() } else { end };
        for (place, bit) in flips {
            content[place.index(range)] ^= 1 << bit;
        }
        disk.put(path(log), &content);
        if let Ok(recovered) = storage(&disk).recover() {
            prop_assert_eq!(recovered.report.last_zxid, LAST);
            prop_assert_eq!(recovered.tree.digest(), digest_at(LAST));
            let again = storage(&disk).recover().unwrap();
            prop_assert_eq!(again.tree.digest(), recovered.tree.digest());
        }
    }

    #[test]
    fn a_cut_log_yields_what_is_left(cut in any::<prop::sample::Index>()) {
        let disk = database();
        let mut content = disk.get(path("log.a")).unwrap();
        let end = content.iter().rposition(|b| *b != 0).unwrap() + 1;
        content.truncate(cut.index(end + 1));
        disk.put(path("log.a"), &content);
        let recovered = storage(&disk).recover().unwrap();
        let last = recovered.report.last_zxid;
        prop_assert!((9..=LAST).contains(&last));
        prop_assert_eq!(recovered.tree.digest(), digest_at(last));
        let again = storage(&disk).recover().unwrap().report;
        prop_assert_eq!((again.last_zxid, again.findings), (last, vec![]));
    }

    #[test]
    fn flipped_bits_in_a_snapshot_cost_only_time(
        compression in prop::sample::select(vec![
            Compression::None, Compression::Gzip, Compression::Snappy,
        ]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let disk = database();
        let storage = storage_with(&disk, Options { compression, ..options() });
        let tree = storage.recover().unwrap().tree;
        let name = storage.write_snapshot(&mut StillTree::new(&tree)).unwrap().unwrap().path;
        let mut content = disk.get(&name).unwrap();
        for (place, bit) in flips {
            let place = place.index(content.len());
            content[place] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            content.truncate(cut.index(content.len()));
        }
        disk.put(&name, &content);
        let recovered = storage.recover().unwrap();
        prop_assert_eq!(recovered.tree.digest(), tree.digest());
        prop_assert_eq!(recovered.report.last_zxid, LAST);
    }

    #[test]
    fn files_of_chance_are_refused_or_skipped(
        name in prop::sample::select(vec![
            "snapshot.13", "snapshot.13.gz", "snapshot.13.snappy", "log.14", "log.2",
        ]),
        magic in prop::option::of(prop::sample::select(vec![
            &b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0"[..], b"ZKSN\0\0\0\x02\0\0\0\0\0\0\0\0",
            b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", b"\x1f\x8b\x08\0\0\0\0\0\0\0",
        ])),
        content in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let disk = database();
        let mut file = magic.unwrap_or_default().to_vec();
        file.extend_from_slice(&content);
        disk.put(path(name), &file);
        match storage(&disk).recover() {
            Ok(recovered) => prop_assert_eq!(recovered.report.last_zxid, LAST),
            Err(err) => prop_assert!(err.case().is_some(), "{}", err),
        }
    }
}

/// A batch of several sectors, of which the disk wrote some and not others: the records behind the
/// gap were never acknowledged, whole or not.
#[test]
fn a_batch_with_a_sector_missing_is_torn() {
    let disk = database();
    let mut tree = storage(&disk).recover().unwrap().tree;
    let mut content = disk.get(path("log.a")).unwrap();
    let start = content.iter().rposition(|b| *b != 0).unwrap() + 1;
    content.truncate(start);
    for _ in 0..8 {
        content.extend_from_slice(&record(&apply_next(&mut tree)));
    }
    let end = content.len();
    content.resize(32 << 10, 0);
    for sector in start / 512..=end / 512 {
        let mut torn = content.clone();
        torn[(sector * 512).max(start)..(sector + 1) * 512].fill(0);
        let disk = disk.kill();
        disk.put(path("log.a"), &torn);
        let recovered = storage(&disk).recover().unwrap();
        let last = recovered.report.last_zxid;
        assert!((LAST..=LAST + 8).contains(&last));
        assert_eq!(recovered.tree.digest(), digest_at(last));
        assert_eq!(storage(&disk).recover().unwrap().report.findings, []);
    }
}

/// One byte after the other: damage of what was acknowledged is never taken for a torn tail.
#[test]
fn each_flipped_byte_of_the_last_record_is_noticed() {
    let disk = database();
    let content = disk.get(path("log.a")).unwrap();
    let end = content.iter().rposition(|b| *b != 0).unwrap() + 1;
    let (start, _) = last_record(&content);
    let head = start..start + 40;
    for place in head.chain(end - 40..end) {
        let mut flipped = content.clone();
        flipped[place] ^= 1 << (place % 8);
        disk.put(path("log.a"), &flipped);
        let case = storage(&disk).inspect().map_err(|err| err.case());
        assert_eq!(case.err(), Some(Some(Case::RecordDamaged)), "byte {place}");
    }
}

#[test]
fn a_missing_log_is_a_hole_unless_a_snapshot_covers_it() {
    let disk = database();
    let without = |gone: &[&str]| {
        let left = MemDisk::new();
        for (name, content) in files(&disk)
            .iter()
            .filter(|(name, _)| !gone.contains(&name.as_str()))
        {
            left.put(path(name), content);
        }
        storage(&left)
            .recover()
            .map(|recovered| recovered.report.last_zxid)
    };
    assert_eq!(without(&["log.1"]).unwrap(), LAST);
    assert_eq!(
        without(&["log.1", "snapshot.9"]).unwrap_err().case(),
        Some(Case::Hole)
    );
    assert_eq!(without(&["log.a"]).unwrap(), 9);
}

#[test]
fn an_empty_tree_stays_an_empty_tree() {
    let disk = MemDisk::new();
    let tree = storage(&disk).recover().unwrap().tree;
    assert_eq!(tree.digest(), Tree::new().digest());
    let again = storage(&disk).recover().unwrap();
    assert_eq!(
        (again.tree.digest(), again.report.findings),
        (tree.digest(), vec![])
    );
}
