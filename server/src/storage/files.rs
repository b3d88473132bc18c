//! The names of the files in a data directory (spec: disk formats, section 1).

use std::path::Path;

use super::disk::LatchedDisk;
use super::error::StorageError;
use super::snapshot::Compression;

/// Below `dataDir` and `dataLogDir`: the directory of the format's second version.
pub const VERSION_DIR: &str = "version-2";

/// Begins the name of a snapshot that is being written. Apache ZooKeeper reads everything that
/// begins with `snapshot.`, whatever follows.
pub(crate) const TEMPORARY_PREFIX: &str = "tmp-";
/// Ends the names of Apache ZooKeeper's temporary files.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// The kinds of files that are named after a zxid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `log.HEX`
    Log,
    /// `snapshot.HEX`, `snapshot.HEX.gz`, `snapshot.HEX.snappy`
    Snapshot,
    /// `install.HEX` with the suffixes of a snapshot: a snapshot that is to take the place of
    /// everything else.
    Install,
    /// `truncate.HEX`: empty; everything behind that transaction is to be removed.
    Truncate,
}

impl FileKind {
    fn prefix(self) -> &'static str {
        match self {
            FileKind::Log => "log.",
            FileKind::Snapshot => "snapshot.",
            FileKind::Install => "install.",
            FileKind::Truncate => "truncate.",
        }
    }
}

/// A log or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Name without the directory.
    pub name: String,
    /// For a log the first transaction in it, for a snapshot the last one that is in it for sure.
    pub zxid: i64,
    /// Length in bytes.
    pub len: u64,
}

/// The name of a file of that kind. The suffix is that of a snapshot's compression.
pub(crate) fn name(kind: FileKind, zxid: i64, suffix: &str) -> String {
    format!("{}{zxid:x}{suffix}", kind.prefix())
}

/// The zxid in `name`, if it is the name of a file of that kind. Copies that somebody made, such
/// as `log.5.bak`, are none.
pub(crate) fn parse(kind: FileKind, name: &str) -> Option<i64> {
    let rest = name.strip_prefix(kind.prefix())?;
    let hex = match kind {
        FileKind::Log | FileKind::Truncate => rest,
        FileKind::Snapshot | FileKind::Install => {
            rest.strip_suffix(Compression::of(rest).suffix())?
        }
    };
    // from_str_radix would take a sign.
    hex.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
    i64::from_str_radix(hex, 16).ok()
}

/// The files of a kind in `dir`, oldest first.
pub(crate) fn scan(
    disk: &LatchedDisk,
    dir: &Path,
    kind: FileKind,
) -> Result<Vec<DataFile>, StorageError> {
    let entries = disk.list(dir)?.into_iter();
    let files = entries.filter_map(|entry| {
        let zxid = parse(kind, &entry.name)?;
        Some(DataFile {
            name: entry.name,
            zxid,
            len: entry.len,
        })
    });
    let mut files: Vec<_> = files.collect();
    files.sort_by(|a, b| (a.zxid, &a.name).cmp(&(b.zxid, &b.name)));
    Ok(files)
}

/// Is it a file that an interrupted write left behind? The epochs' are not: they may be needed
/// (see [`super::epoch`]).
pub(crate) fn is_leftover(name: &str) -> bool {
    let java = name.starts_with("snapshot.") && name.ends_with(TEMPORARY_SUFFIX);
    java || name.strip_prefix(TEMPORARY_PREFIX).is_some_and(|name| {
        [FileKind::Snapshot, FileKind::Install]
            .iter()
            .any(|kind| name.starts_with(kind.prefix()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_zxid() {
        let snapshot = |name| parse(FileKind::Snapshot, name);
        assert_eq!(parse(FileKind::Log, "log.1f"), Some(0x1f));
        assert_eq!(parse(FileKind::Log, "log.200000001"), Some(0x2_0000_0001));
        assert_eq!(snapshot("snapshot.0"), Some(0));
        assert_eq!(snapshot("snapshot.a2.gz"), Some(0xa2));
        assert_eq!(snapshot("snapshot.a2.snappy"), Some(0xa2));
        for other in [
            "log.",
            "log.5.bak",
            "log.+5",
            "log.x",
            "snapshot.5",
            "log.8000000000000000",
        ] {
            assert_eq!(parse(FileKind::Log, other), None, "{other}");
        }
        for other in [
            "snapshot.5.tmp",
            "snapshot.5.gz.tmp",
            "tmp-snapshot.5",
            "log.5",
        ] {
            assert_eq!(snapshot(other), None, "{other}");
        }
        assert_eq!(parse(FileKind::Install, "install.a2.gz"), Some(0xa2));
        assert_eq!(parse(FileKind::Truncate, "truncate.a2"), Some(0xa2));
        assert_eq!(parse(FileKind::Truncate, "truncate.a2.gz"), None);
        assert!(is_leftover("tmp-snapshot.5.gz") && is_leftover("snapshot.5.tmp"));
        assert!(is_leftover("tmp-install.5"));
        assert!(!is_leftover("snapshot.5") && !is_leftover("currentEpoch.tmp"));
    }
}
