//! Data directories on a disk in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::{Options, Storage, VERSION_DIR};
use serde_json::Value;

/// The data directory of every test.
pub(crate) const DATA: &str = "/data/version-2";

pub(crate) fn options() -> Options {
    let mut options = Options::new("/data");
    options.log.preallocation = 16 << 10;
    options
}

pub(crate) fn storage(disk: &MemDisk) -> Storage {
    Storage::on(Arc::new(disk.clone()), options())
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

fn fixture_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/apache-3.9.5")
        .join(name)
}

/// A directory that Apache ZooKeeper wrote, and what must be found in it.
pub(crate) fn fixture(name: &str) -> (MemDisk, Value) {
    let dir = fixture_dir(name);
    let disk = MemDisk::new();
    for entry in fs::read_dir(dir.join("data").join(VERSION_DIR)).unwrap() {
        let entry = entry.unwrap();
        let content = fs::read(entry.path()).unwrap();
        disk.put(path(entry.file_name().to_str().unwrap()), &content);
    }
    let manifest = fs::read(dir.join("manifest.json")).unwrap();
    (disk, serde_json::from_slice(&manifest).unwrap())
}
