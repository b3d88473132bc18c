//! What storage relies on holds for every disk, that of the tests included.

use std::io::ErrorKind;
use std::path::Path;

use quorate_server::storage::disk::{Access, Disk, Entry, RealDisk};
use quorate_server::storage::mem_disk::{MemDisk, Verb};
use quorate_server::storage::{Options, Storage};

fn check(disk: &dyn Disk, base: &Path) {
    let dir = base.join("a/b");
    let path = |name: &str| dir.join(name);
    assert_eq!(disk.list(&dir).unwrap_err().kind(), ErrorKind::NotFound);
    disk.create_dir(&dir).unwrap();
    disk.create_dir(&dir).unwrap();
    assert_eq!(disk.list(&dir).unwrap(), []);
    assert!(disk.free_space(&dir).unwrap() > 0);

    for access in [Access::Read, Access::Write] {
        let err = disk.open(&path("f"), access).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
    }
    let file = disk.open(&path("f"), Access::Create).unwrap();
    let err = disk.open(&path("f"), Access::Create).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::AlreadyExists);

    file.write_at(b"world", 5).unwrap();
    let mut buf = [1; 12];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 10);
    assert_eq!(&buf, b"\0\0\0\0\0world\x01\x01", "a hole reads as zeros");
    file.write_at(b"hello", 0).unwrap();
    assert_eq!(file.read_at(&mut buf[..3], 4).unwrap(), 3);
    assert_eq!(&buf[..3], b"owo");
    assert_eq!(file.read_at(&mut buf, 10).unwrap(), 0);
    file.set_len(12).unwrap();
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 12);
    assert_eq!(&buf, b"helloworld\0\0");
    file.set_len(5).unwrap();
    assert_eq!(file.size().unwrap(), 5);
    file.sync().unwrap();

    disk.open(&path("g"), Access::Create).unwrap();
    disk.rename(&path("f"), &path("g")).unwrap();
    disk.sync_dir(&dir).unwrap();
    let entry = Entry {
        name: "g".to_owned(),
        len: 5,
    };
    assert_eq!(disk.list(&dir).unwrap(), [entry]);
    disk.open(&path("g"), Access::Write)
        .unwrap()
        .write_at(b"H", 0)
        .unwrap();
    let reader = disk.open(&path("g"), Access::Read).unwrap();
    assert_eq!(reader.read_at(&mut buf, 0).unwrap(), 5);
    assert_eq!(&buf[..5], b"Hello");
    disk.remove(&path("g")).unwrap();
    assert_eq!(
        disk.remove(&path("g")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(disk.list(&dir).unwrap(), []);
    assert_eq!(
        reader.read_at(&mut buf, 0).unwrap(),
        5,
        "an open file outlives its name"
    );
}

#[test]
fn the_operating_systems() {
    let dir = tempfile::tempdir().unwrap();
    check(&RealDisk, dir.path());
}

#[test]
fn the_one_in_memory() {
    check(&MemDisk::new(), Path::new("/disk"));
}

#[test]
fn what_is_not_synced_may_be_lost_and_what_is_synced_never() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..40 {
        let disk = MemDisk::new();
        let dir = Path::new("/d");
        disk.create_dir(dir).unwrap();
        let synced = disk.open(&dir.join("synced"), Access::Create).unwrap();
        synced.write_at(&[1; 2000], 0).unwrap();
        synced.sync().unwrap();
        disk.sync_dir(dir).unwrap();
        synced.write_at(&[2; 2000], 0).unwrap();
        disk.open(&dir.join("new"), Access::Create).unwrap();

        let after = disk.lose_power(seed);
        let content = after.get("/d/synced").unwrap();
        assert!(
            content
                .chunks(512)
                .all(|sector| sector == &vec![sector[0]; sector.len()][..])
        );
        lost += content.iter().filter(|b| **b == 1).count();
        kept += content.iter().filter(|b| **b == 2).count();
        assert_eq!(after.lose_power(seed + 1).get("/d/synced"), Some(content));
    }
    assert!(lost > 0 && kept > 0);
}

#[test]
fn names_that_are_not_synced_are_lost_in_any_part() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = MemDisk::new();
        let path = |name: &str| Path::new("/d").join(name);
        disk.put(path("old"), b"1");
        disk.open(&path("new"), Access::Create).unwrap();
        disk.remove(&path("old")).unwrap();
        disk.rename(&path("new"), &path("renamed")).unwrap();
        seen.insert(disk.lose_power(seed).names("/d"));
        disk.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(disk.lose_power(seed).names("/d"), ["renamed"]);
    }
    let all = [
        vec![],
        vec!["new"],
        vec!["new", "old"],
        vec!["old"],
        vec!["old", "renamed"],
        vec!["renamed"],
    ];
    assert!(seen.iter().eq(all.iter()), "{seen:?}");
}

#[test]
fn a_disk_fails_hangs_and_rots_as_it_is_told() {
    let disk = MemDisk::new();
    disk.put("/d/f", b"abc");
    let file = disk.open(Path::new("/d/f"), Access::Write).unwrap();
    disk.set_failing(Verb::Sync, Some(ErrorKind::StorageFull));
    file.write_at(b"x", 0).unwrap();
    for _ in 0..2 {
        assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::StorageFull);
    }
    disk.set_failing(Verb::Sync, None);
    file.sync().unwrap();

    assert!(disk.damage("/d/f", 2, 1) && !disk.damage("/d/f", 3, 1));
    assert_eq!(disk.lose_power(0).get("/d/f").unwrap(), b"xbb");

    disk.set_hanging(true);
    assert_eq!(file.read_at(&mut [0; 3], 0).unwrap(), 3, "reading goes on");
    let writer = std::thread::spawn(move || file.write_at(b"late", 0));
    assert_eq!(disk.get("/d/f").unwrap(), b"xbb");
    disk.set_hanging(false);
    writer.join().unwrap().unwrap();
    assert_eq!(disk.get("/d/f").unwrap(), b"late");
}

#[test]
fn a_database_on_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let storage = Storage::new(Options::new(dir.path().join("data")));
        (storage.recover().unwrap(), storage)
    };
    let (mut recovered, storage) = start();
    let mut log = storage.log_writer();
    for zxid in 1..=20 {
        let entry = crate::support::apply_next(&mut recovered.tree);
        log.append(zxid, &crate::support::record(&entry)).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let (again, _) = start();
    assert_eq!(again.report.last_zxid, 20);
    assert_eq!(again.tree.digest(), crate::support::digest_at(20));
    assert_eq!(again.report.findings, []);
}
