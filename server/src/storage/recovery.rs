//! From the files in a data directory to the state at the moment the server stopped
//! (spec: disk formats, sections 4 and 8).
//!
//! Everything is read before anything is changed, so that a refusal leaves the directory as it
//! was. What can be met, and what is done about it, is the table in [`super::cases`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_proto::TxnEntry;
use quorate_proto::jute::Decode;

use super::cases::{Case, Finding};
use super::disk::{LatchedDisk, directory};
use super::error::StorageError;
use super::files::{self, DataFile, FileKind};
use super::log::{LogReader, Record};
use super::rewrite::Rewrite;
use super::snapshot::{self, StillTree, Tail};
use super::{Dirs, Options};
use crate::tree::{DIGEST_VERSION, Loader, Tree};

/// Below `dataLogDir`: allows a server to begin a new database where that is otherwise forbidden.
const INITIALIZE: &str = "initialize";

/// Snapshots that are tried at most.
const MAX_SNAPSHOTS: usize = 100;

/// The state that was found.
#[derive(Debug)]
pub struct Recovered {
    /// The state.
    pub tree: Tree,
    /// How it was found.
    pub report: Report,
}

/// What recovery read and met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The newest transaction; 0 for a new database, and -1 for an empty one that must not vote.
    pub last_zxid: i64,
    /// The snapshot that was loaded, if there was one.
    pub snapshot: Option<PathBuf>,
    /// The transaction after which the log was replayed.
    pub snapshot_zxid: i64,
    /// Transactions that were replayed.
    pub replayed: u64,
    /// Transactions behind which the digest of the tree was compared.
    pub digests_compared: u64,
    /// Transactions behind which it was a different one. They have one finding together.
    pub digests_different: u64,
    /// Everything out of the ordinary, in the order in which it was met.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Recovers the state and mends the files. Everything that was read is durable afterwards, so that
/// the state may be shown to others.
pub(super) fn recover(
    disk: &LatchedDisk,
    dirs: &Dirs,
    options: &Options,
) -> Result<Recovered, StorageError> {
    let recovery = Recovery::read(disk, dirs, options)?;
    recovery.mend(options)?;
    Ok(recovery.finish())
}

/// Finds out what [`recover`] would do, and changes nothing.
pub(super) fn inspect(
    disk: &LatchedDisk,
    dirs: &Dirs,
    options: &Options,
) -> Result<Report, StorageError> {
    let recovery = Recovery::read(disk, dirs, options)?;
    Ok(recovery.finish().report)
}

/// Goes back to the moment behind the transaction `zxid`, in memory only. Answers none if that is
/// in no history that the files tell from its beginning.
pub(super) fn rewind<'a>(
    disk: &'a LatchedDisk,
    dirs: &'a Dirs,
    zxid: i64,
) -> Result<Option<Past<'a>>, StorageError> {
    let rewrite = Some(Rewrite::Truncate(zxid));
    let mut recovery = Recovery::new(disk, dirs, rewrite);
    let read = recovery.load().and_then(|check| match check {
        Some(check) => recovery.replay(check),
        None => Ok(()),
    });
    match read {
        Err(err @ StorageError::Refused(_)) => {
            tracing::warn!(%err, "there is no way back to transaction {zxid:#x}");
            Ok(None)
        }
        Err(err) => Err(err),
        Ok(()) if recovery.report.snapshot.is_none() => Ok(None),
        Ok(()) if recovery.report.last_zxid != zxid => Ok(None),
        Ok(()) => Ok(Some(Past { recovery, zxid })),
    }
}

/// A moment of the past that the history can be cut back to.
pub(super) struct Past<'a> {
    recovery: Recovery<'a>,
    zxid: i64,
}

impl Past<'_> {
    /// Removes everything that came after it, and answers the tree as it was then.
    pub(super) fn truncate(self) -> Result<Tree, StorageError> {
        let Recovery { disk, dirs, .. } = self.recovery;
        let rewrite = Rewrite::truncate(disk, dirs, self.zxid)?;
        rewrite.complete(disk, dirs, self.recovery.report.snapshot.as_deref())?;
        Ok(self.recovery.tree)
    }
}

struct Recovery<'a> {
    disk: &'a LatchedDisk,
    dirs: &'a Dirs,
    /// What was decided about the past.
    rewrite: Option<Rewrite>,
    begin: Instant,
    tree: Tree,
    report: Report,
    /// Files that the state depends on.
    used: Vec<PathBuf>,
}

impl<'a> Recovery<'a> {
    fn new(disk: &'a LatchedDisk, dirs: &'a Dirs, rewrite: Option<Rewrite>) -> Self {
        Recovery {
            disk,
            dirs,
            rewrite,
            begin: Instant::now(),
            tree: Tree::new(),
            report: Report {
                last_zxid: 0,
                snapshot: None,
                snapshot_zxid: 0,
                replayed: 0,
                digests_compared: 0,
                digests_different: 0,
                findings: Vec::new(),
                elapsed: Duration::ZERO,
            },
            used: Vec::new(),
        }
    }

    fn read(
        disk: &'a LatchedDisk,
        dirs: &'a Dirs,
        options: &Options,
    ) -> Result<Self, StorageError> {
        let rewrite = Rewrite::pending(disk, dirs)?;
        let mut recovery = Recovery::new(disk, dirs, rewrite);
        recovery.report.findings = check_layout(disk, dirs)?;
        if let Some(rewrite) = &recovery.rewrite {
            let finding = Finding::new(Case::RewriteUnfinished, rewrite.mark(dirs));
            recovery.report.findings.push(finding);
        }
        let check = match recovery.load()? {
            Some(check) => check,
            None => {
                recovery.begin_empty(options)?;
                DigestCheck::Compare
            }
        };
        recovery.replay(check)?;
        Ok(recovery)
    }

    /// Loads a snapshot, if there is one.
    fn load(&mut self) -> Result<Option<DigestCheck>, StorageError> {
        let candidates = match &self.rewrite {
            Some(Rewrite::Install(snapshot)) => vec![snapshot.clone()],
            _ => files::scan(self.disk, &self.dirs.data, FileKind::Snapshot)?,
        };
        let findings = &mut self.report.findings;
        let limit = limit(self.rewrite.as_ref());
        let Some(loaded) = load_snapshot(self.disk, self.dirs, &candidates, limit, findings)?
        else {
            return Ok(None);
        };
        let check = DigestCheck::after(&loaded);
        self.report.snapshot_zxid = loaded.zxid;
        self.report.last_zxid = loaded.zxid;
        self.report.snapshot = Some(loaded.path.clone());
        self.used.push(loaded.path);
        self.tree = loaded.tree;
        self.compare_with_snapshot(loaded.tail);
        Ok(Some(check))
    }

    /// There is no snapshot.
    fn begin_empty(&mut self, options: &Options) -> Result<(), StorageError> {
        let logs = files::scan(self.disk, &self.dirs.log, FileKind::Log)?;
        let case = match logs.first() {
            Some(log) if options.trust_empty_snapshot => {
                Finding::new(Case::LogTrusted, self.dirs.log.join(&log.name))
            }
            Some(log) => {
                let path = self.dirs.log.join(&log.name);
                return Err(Finding::new(Case::LogWithoutSnapshot, path).into());
            }
            None if options.create_database || self.may_initialize()? => {
                Finding::new(Case::Empty, &self.dirs.data)
            }
            None => {
                self.report.last_zxid = -1;
                Finding::new(Case::EmptyUnexpected, &self.dirs.data)
            }
        };
        self.report.findings.push(case);
        Ok(())
    }

    /// A snapshot that was taken of a tree at rest has the digest of just that tree.
    fn compare_with_snapshot(&mut self, tail: Tail) {
        let of_now = tail
            .digest
            .filter(|(zxid, _)| *zxid == self.report.snapshot_zxid);
        if let Some((zxid, digest)) = of_now.filter(|(_, digest)| digest.version == DIGEST_VERSION)
        {
            self.report.digests_compared += 1;
            if digest != self.tree.digest() {
                self.report.digests_different += 1;
                let path = self.report.snapshot.clone().unwrap_or_default();
                let finding = Finding::new(Case::DigestDiffers, path);
                self.report
                    .findings
                    .push(finding.detail(format!("transaction {zxid:#x}")));
            }
        }
    }

    fn initialize_marker(&self) -> PathBuf {
        directory(&self.dirs.log).join(INITIALIZE)
    }

    fn may_initialize(&self) -> Result<bool, StorageError> {
        Ok(self.disk.read(&self.initialize_marker(), 0)?.is_some())
    }

    fn replay(&mut self, mut check: DigestCheck) -> Result<(), StorageError> {
        if matches!(self.rewrite, Some(Rewrite::Install(_))) {
            return Ok(());
        }
        let limit = limit(self.rewrite.as_ref());
        let after = self.report.snapshot_zxid;
        let mut log = LogReader::open(self.disk.clone(), &self.dirs.log, after)?.until(limit);
        let mut different = None;
        while log.advance()? {
            let record = log.record();
            self.check_for_hole(&log)?;
            let entry = TxnEntry::from_slice(record.body)
                .map_err(|err| unknown(log.path(), record, &err.to_string()))?;
            self.tree.apply(&entry.header, &entry.txn, &mut ());
            self.report.replayed += 1;
            self.report.last_zxid = record.zxid;
            let stored = entry
                .digest
                .filter(|digest| digest.version == DIGEST_VERSION);
            match check.expect(record.zxid, stored.map(|digest| digest.digest)) {
                Some(expected) if expected != self.tree.digest().digest => {
                    self.report.digests_compared += 1;
                    self.report.digests_different += 1;
                    different.get_or_insert_with(|| {
                        Finding::new(Case::DigestDiffers, log.path())
                            .at(record.offset)
                            .detail(format!("transaction {:#x}", record.zxid))
                    });
                }
                Some(_) => self.report.digests_compared += 1,
                None => {}
            }
        }
        self.used.extend_from_slice(log.opened());
        self.report.findings.extend_from_slice(log.findings());
        self.report.findings.extend(different);
        Ok(())
    }

    /// The numbers do not tell where an epoch ends. If there is a snapshot of a transaction in
    /// between, the log lacks that one at least: the snapshot came from a leader.
    fn check_for_hole(&self, log: &LogReader) -> Result<(), StorageError> {
        let (last, next) = (self.report.last_zxid, log.record().zxid);
        if last.checked_add(1) == Some(next) {
            return Ok(());
        }
        let snapshots = files::scan(self.disk, &self.dirs.data, FileKind::Snapshot)?;
        // A leader may have named one after the beginning of its epoch.
        let between = |zxid: i64| last < zxid && zxid < next && zxid & 0xffff_ffff != 0;
        match snapshots.iter().find(|file| between(file.zxid)) {
            None => Ok(()),
            Some(file) => {
                let finding = Finding::new(Case::Hole, log.path()).at(log.record().offset);
                let detail = format!("{next:#x} after {last:#x}, and there is {}", file.name);
                Err(finding.detail(detail).into())
            }
        }
    }

    /// Mends what the findings say, and makes durable what was read.
    fn mend(&self, options: &Options) -> Result<(), StorageError> {
        let mut gone = None;
        for finding in &self.report.findings {
            match finding.case {
                Case::Leftover => self.disk.remove(&finding.path)?,
                Case::LogUnstarted => {
                    self.disk.remove(&finding.path)?;
                    gone = Some(&finding.path);
                }
                Case::TornTail => {
                    let log = self.disk.modify(&finding.path)?;
                    log.set_len(finding.offset.unwrap_or_default())?;
                }
                _ => {}
            }
        }
        for path in self.used.iter().filter(|path| Some(*path) != gone) {
            self.disk.modify(path)?.sync()?;
        }
        self.disk.sync_dir(&self.dirs.log)?;
        if self.dirs.data != self.dirs.log {
            self.disk.sync_dir(&self.dirs.data)?;
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.complete(self.disk, self.dirs, self.report.snapshot.as_deref())?;
        }
        let is_new = |finding: &Finding| finding.case == Case::Empty;
        if self.report.findings.iter().any(is_new) {
            let mut source = StillTree::new(&self.tree).with_digest(options.digests);
            let (dir, kind) = (&self.dirs.data, FileKind::Snapshot);
            let written = snapshot::write(self.disk, dir, kind, options.compression, &mut source)?;
            if let Some(snapshot) = written {
                snapshot.publish(self.disk)?;
            }
        }
        self.disk.remove(&self.initialize_marker())
    }

    fn finish(mut self) -> Recovered {
        self.report.elapsed = self.begin.elapsed();
        Recovered {
            tree: self.tree,
            report: self.report,
        }
    }
}

fn unknown(path: &Path, record: Record<'_>, reason: &str) -> StorageError {
    let finding = Finding::new(Case::RecordUnknown, path).at(record.offset);
    finding
        .detail(format!("transaction {:#x}: {reason}", record.zxid))
        .into()
}

/// Looks for files in the wrong place and for leftovers.
fn check_layout(disk: &LatchedDisk, dirs: &Dirs) -> Result<Vec<Finding>, StorageError> {
    let misplaced = |dir: &Path, kind, case| -> Result<(), StorageError> {
        match files::scan(disk, dir, kind)?.first() {
            Some(file) => Err(Finding::new(case, dir.join(&file.name)).into()),
            None => Ok(()),
        }
    };
    if dirs.data != dirs.log {
        misplaced(&dirs.log, FileKind::Snapshot, Case::SnapshotInLogDir)?;
        misplaced(&dirs.data, FileKind::Log, Case::LogInSnapshotDir)?;
    }
    let entries = disk.list(&dirs.data)?.into_iter();
    let leftovers = entries.filter(|entry| files::is_leftover(&entry.name));
    Ok(leftovers
        .map(|entry| Finding::new(Case::Leftover, dirs.data.join(entry.name)))
        .collect())
}

/// A snapshot whose seals hold.
struct Loaded {
    path: PathBuf,
    zxid: i64,
    tree: Tree,
    tail: Tail,
}

/// The newest transaction that is wanted.
fn limit(rewrite: Option<&Rewrite>) -> i64 {
    match rewrite {
        Some(Rewrite::Truncate(zxid)) => *zxid,
        _ => i64::MAX,
    }
}

/// Loads the newest snapshot that is whole and shows nothing behind `limit`, each attempt into a
/// tree of its own.
fn load_snapshot(
    disk: &LatchedDisk,
    dirs: &Dirs,
    snapshots: &[DataFile],
    limit: i64,
    findings: &mut Vec<Finding>,
) -> Result<Option<Loaded>, StorageError> {
    let candidates = snapshots.iter().rev().filter(|file| file.zxid <= limit);
    for file in candidates.take(MAX_SNAPSHOTS) {
        let path = dirs.data.join(&file.name);
        let mut loader = Loader::new();
        match snapshot::read(disk, &path, &mut loader) {
            Ok(tail) if limit < i64::MAX && tail.may_be_ahead(file.zxid, limit) => {}
            Ok(tail) => {
                let (zxid, tree) = (file.zxid, loader.finish(file.zxid));
                return Ok(Some(Loaded {
                    path,
                    zxid,
                    tree,
                    tail,
                }));
            }
            Err(StorageError::Snapshot { offset, reason, .. }) => {
                let finding = Finding::new(Case::SnapshotDamaged, path).at(offset);
                findings.push(finding.detail(reason));
            }
            Err(err) => return Err(err),
        }
    }
    let damaged = findings
        .iter()
        .find(|finding| finding.case == Case::SnapshotDamaged);
    match damaged {
        None => Ok(None),
        Some(newest) => {
            let detail = format!("{} were tried, the newest is {newest}", snapshots.len());
            Err(Finding::new(Case::NoSnapshotWhole, &dirs.data)
                .detail(detail)
                .into())
        }
    }
}

/// From when on the digests in the log can be compared with the tree.
#[derive(Debug, Clone, Copy)]
enum DigestCheck {
    /// Always.
    Compare,
    /// From this transaction on; up to there the tree shows more than was replayed. The snapshot
    /// has its digest.
    From(i64, u64),
    /// Never: nobody knows how far ahead the tree is.
    Unknown,
}

impl DigestCheck {
    fn after(loaded: &Loaded) -> Self {
        match loaded.tail.digest {
            Some((zxid, digest)) if zxid > loaded.zxid && digest.version == DIGEST_VERSION => {
                DigestCheck::From(zxid, digest.digest)
            }
            Some((_, digest)) if digest.version == DIGEST_VERSION => DigestCheck::Compare,
            _ if loaded.zxid == 0 => DigestCheck::Compare,
            _ => DigestCheck::Unknown,
        }
    }

    /// The digest that the tree must have once `zxid` is applied, if that is known.
    fn expect(&mut self, zxid: i64, logged: Option<u64>) -> Option<u64> {
        match *self {
            DigestCheck::Compare => logged,
            DigestCheck::From(from, digest) if zxid == from => {
                *self = DigestCheck::Compare;
                Some(digest)
            }
            DigestCheck::From(from, _) if zxid > from => {
                *self = DigestCheck::Compare;
                logged
            }
            DigestCheck::From(..) | DigestCheck::Unknown => None,
        }
    }
}
