//! Data directories on a disk in memory, and servers reduced to a tree and a log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use quorate_proto::jute::Encode;
use quorate_proto::{CreateTxn, SetDataTxn, Txn, TxnDigest, TxnEntry, TxnHeader};
use quorate_server::storage::log::{LogWriter, encode_record};
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::recovery::Recovered;
use quorate_server::storage::snapshot::StillTree;
use quorate_server::storage::{Options, Storage, StorageError, VERSION_DIR};
use quorate_server::tree::Tree;
use serde_json::Value;

/// The data directory of every test.
pub(crate) const DATA: &str = "/data/version-2";

pub(crate) fn options() -> Options {
    let mut options = Options::new("/data");
    options.log.preallocation = 16 << 10;
    options
}

pub(crate) fn storage(disk: &MemDisk) -> Storage {
    storage_with(disk, options())
}

pub(crate) fn storage_with(disk: &MemDisk, options: Options) -> Storage {
    Storage::on(Arc::new(disk.clone()), options)
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

/// The names and contents of the data directory.
pub(crate) fn files(disk: &MemDisk) -> Vec<(String, Vec<u8>)> {
    let content = |name: String| {
        let content = disk.get(path(&name)).unwrap();
        (name, content)
    };
    disk.names(DATA).into_iter().map(content).collect()
}

/// The transaction number `zxid` of a history that is the same in every test: it creates a znode,
/// or sets the data of one, with up to 3000 bytes and none of them zero.
pub(crate) fn apply_next(tree: &mut Tree) -> Vec<u8> {
    let zxid = tree.last_zxid() + 1;
    let header = TxnHeader {
        session_id: 0x1_0000,
        cxid: zxid as i32,
        zxid,
        time: 1_700_000_000_000 + zxid,
        op: 0,
    };
    let data = vec![1 + (zxid % 250) as u8; (zxid * 7919 % 3000) as usize];
    let name = format!("/n{}", zxid - zxid % 2);
    let txn = if zxid % 2 == 0 {
        Txn::Create(CreateTxn {
            path: &name,
            data: Some(&data),
            acl: None,
            ephemeral: false,
            parent_cversion: tree.get("/").unwrap().persisted().cversion + 1,
        })
    } else {
        Txn::SetData(SetDataTxn {
            path: &name,
            data: Some(&data),
            version: 1,
        })
    };
    let header = TxnHeader {
        op: txn.op().number(),
        ..header
    };
    tree.apply(&header, &txn, &mut ());
    let digest = Some(tree.digest());
    TxnEntry {
        header,
        txn,
        digest,
    }
    .to_vec()
}

/// A record that holds `entry`.
pub(crate) fn record(entry: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_record(&mut out, |out| out.extend_from_slice(entry));
    out
}

/// The digest of that history after transaction `zxid`.
pub(crate) fn digest_at(zxid: i64) -> TxnDigest {
    static DIGESTS: LazyLock<Vec<TxnDigest>> = LazyLock::new(|| {
        let mut tree = Tree::new();
        let mut digests = vec![tree.digest()];
        for _ in 0..300 {
            apply_next(&mut tree);
            digests.push(tree.digest());
        }
        digests
    });
    DIGESTS[usize::try_from(zxid).unwrap()]
}

/// A server without its clients.
pub(crate) struct Server {
    pub(crate) storage: Storage,
    pub(crate) tree: Tree,
    pub(crate) log: LogWriter,
    /// The newest transaction that was durable when the server said so.
    pub(crate) acknowledged: i64,
}

impl Server {
    pub(crate) fn start(disk: &MemDisk) -> Result<Self, StorageError> {
        let storage = storage(disk);
        let Recovered { tree, report } = storage.recover()?;
        Ok(Server {
            log: storage.log_writer(),
            storage,
            tree,
            acknowledged: report.last_zxid,
        })
    }

    /// Appends a batch of transactions and makes it durable.
    pub(crate) fn commit(&mut self, txns: usize) -> Result<(), StorageError> {
        self.append(txns)?;
        self.log.sync()?;
        self.acknowledged = self.tree.last_zxid();
        Ok(())
    }

    /// Appends a batch of transactions.
    pub(crate) fn append(&mut self, txns: usize) -> Result<(), StorageError> {
        let first = self.tree.last_zxid() + 1;
        let mut records = Vec::new();
        for _ in 0..txns {
            let entry = apply_next(&mut self.tree);
            records.extend_from_slice(&record(&entry));
        }
        self.log.append(first, &records)
    }

    pub(crate) fn snapshot(&mut self) -> Result<(), StorageError> {
        self.log.roll()?;
        self.storage
            .write_snapshot(&mut StillTree::new(&self.tree))?;
        Ok(())
    }
}

/// A disk with a snapshot of nothing, transactions 1 to 9 in one log, and a snapshot and a log of
/// 10 to 19; all durable.
pub(crate) fn database() -> MemDisk {
    static DATABASE: LazyLock<MemDisk> = LazyLock::new(|| {
        let disk = MemDisk::new();
        let mut server = Server::start(&disk).unwrap();
        for _ in 0..3 {
            server.commit(3).unwrap();
        }
        server.snapshot().unwrap();
        for _ in 0..5 {
            server.commit(2).unwrap();
        }
        disk
    });
    DATABASE.kill()
}
