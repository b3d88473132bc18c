//! Snapshots are written beside the running service.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use quorate_proto::PersistedStat;
use quorate_proto::jute::Encode;
use simd_adler32::Adler32;

use super::snappy::SnappyWriter;
use super::{Compression, DBID, Head, MAGIC, TERMINATOR, Tail, VERSION};
use crate::storage::disk::{LatchedDisk, LatchedFile, directory};
use crate::storage::error::StorageError;
use crate::storage::files::{self, FileKind};
use crate::tree::{NodeWalk, Tree};

/// How far a [`Source`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There are more znodes.
    More,
    /// There are no more znodes.
    Done,
    /// The snapshot is not wanted any more, because the server stops.
    Abandon,
}

/// What a snapshot is taken of. The methods are called in the order in which they stand here; the
/// state may change between any two calls, because what the snapshot lacks is replayed from the
/// log.
pub trait Source {
    /// Sessions and ACLs.
    fn head(&mut self) -> Head;
    /// Appends some more encoded znodes: a path and what [`encode_node`] appends. A few
    /// kilobytes at a time let others at the state in between.
    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress;
    /// Digest and last transaction, both of the same moment.
    fn tail(&mut self) -> Tail;
}

/// Appends a znode in the format of a snapshot. The path of the root is empty; `acl_key` is -1 or
/// one of [`Head::acls`].
pub fn encode_node(
    path: &str,
    data: Option<&[u8]>,
    acl_key: i64,
    stat: &PersistedStat,
    out: &mut Vec<u8>,
) {
    path.encode(out);
    data.encode(out);
    acl_key.encode(out);
    stat.encode(out);
}

/// A tree that nobody changes, as a source.
#[derive(Debug)]
pub struct StillTree<'a> {
    tree: &'a Tree,
    walk: NodeWalk,
    digest: bool,
}

impl<'a> StillTree<'a> {
    /// Takes a snapshot of `tree`.
    pub fn new(tree: &'a Tree) -> Self {
        StillTree {
            tree,
            walk: NodeWalk::new(tree),
            digest: true,
        }
    }

    /// Leaves the digest out unless `digest` is set.
    pub fn with_digest(self, digest: bool) -> Self {
        StillTree { digest, ..self }
    }
}

impl Source for StillTree<'_> {
    fn head(&mut self) -> Head {
        Head::of(self.tree)
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        if self.walk.encode_next(self.tree, BLOCK, out) {
            Progress::More
        } else {
            Progress::Done
        }
    }

    fn tail(&mut self) -> Tail {
        let zxid = self.tree.last_zxid();
        Tail {
            digest: self.digest.then(|| (zxid, self.tree.digest())),
            last_zxid: Some(zxid),
        }
    }
}

/// A snapshot that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Everything up to this transaction is in it.
    pub zxid: i64,
    /// Length of the file in bytes.
    pub len: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// A snapshot that is whole and durable, and has no name yet that counts.
#[derive(Debug)]
pub(in crate::storage) struct Unnamed {
    temporary: PathBuf,
    written: Written,
}

/// Writes a snapshot of `source` to `dir`, under the name that [`Unnamed::publish`] will take
/// away. Answers none if the source abandoned it.
///
/// Memory is bounded by one call of [`Source::nodes`] and a few buffers. It blocks the thread, so
/// that it belongs on one of its own.
pub(in crate::storage) fn write(
    disk: &LatchedDisk,
    dir: &Path,
    kind: FileKind,
    compression: Compression,
    source: &mut dyn Source,
) -> Result<Option<Unnamed>, StorageError> {
    let begin = Instant::now();
    let head = source.head();
    let name = files::name(kind, head.zxid, compression.suffix());
    let temporary = dir.join(format!("{}{name}", files::TEMPORARY_PREFIX));
    disk.remove(&temporary)?;
    let file = disk.create(&temporary)?;
    let Some(len) = write_content(file, compression, &head, source)? else {
        disk.remove(&temporary)?;
        return Ok(None);
    };
    let written = Written {
        path: dir.join(name),
        zxid: head.zxid,
        len,
        elapsed: begin.elapsed(),
    };
    Ok(Some(Unnamed { temporary, written }))
}

impl Unnamed {
    /// Gives it its name, durably.
    pub(in crate::storage) fn publish(self, disk: &LatchedDisk) -> Result<Written, StorageError> {
        disk.rename(&self.temporary, &self.written.path)?;
        disk.sync_dir(directory(&self.written.path))?;
        Ok(self.written)
    }

    /// Removes it.
    pub(in crate::storage) fn discard(self, disk: &LatchedDisk) -> Result<(), StorageError> {
        disk.remove(&self.temporary)
    }
}

fn write_content(
    file: LatchedFile,
    compression: Compression,
    head: &Head,
    source: &mut dyn Source,
) -> Result<Option<u64>, StorageError> {
    let path = file.path().to_owned();
    let mut sealer = Sealer::new(Compressor::new(compression, FileWriter::new(file)));
    let written = write_parts(&mut sealer, head, source);
    match written.map_err(|err| storage_error(err, &path))? {
        Progress::Abandon => Ok(None),
        _ => {
            let len = sealer
                .out
                .finish()
                .map_err(|err| storage_error(err, &path))?;
            Ok(Some(len))
        }
    }
}

fn write_parts(out: &mut Sealer, head: &Head, source: &mut dyn Source) -> io::Result<Progress> {
    let mut buf = Vec::new();
    buf.extend_from_slice(&MAGIC);
    VERSION.encode(&mut buf);
    DBID.encode(&mut buf);
    head.encode(&mut buf);
    out.write(&mut buf)?;
    loop {
        let progress = source.nodes(&mut buf);
        out.write(&mut buf)?;
        match progress {
            Progress::More => std::thread::yield_now(),
            Progress::Done => break,
            Progress::Abandon => return Ok(progress),
        }
    }
    TERMINATOR.encode(&mut buf);
    out.seal(&mut buf)?;
    let tail = source.tail();
    if let Some((zxid, mut digest)) = tail.digest {
        if zxid == 0 {
            // Zero stands for none, as in the first snapshot of Apache ZooKeeper.
            digest.digest = 0;
        }
        zxid.encode(&mut buf);
        digest.encode(&mut buf);
        out.seal(&mut buf)?;
    }
    if let Some(zxid) = tail.last_zxid {
        zxid.encode(&mut buf);
        out.seal(&mut buf)?;
    }
    Ok(Progress::Done)
}

/// Writes what has a checksum behind it.
struct Sealer {
    out: Compressor,
    adler: Adler32,
}

impl Sealer {
    fn new(out: Compressor) -> Self {
        Sealer {
            out,
            adler: Adler32::new(),
        }
    }

    /// Writes `buf` and clears it.
    fn write(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        self.adler.write(buf);
        self.out.write_all(buf)?;
        buf.clear();
        Ok(())
    }

    /// Writes `buf` and the checksum of everything up to its end.
    fn seal(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        self.write(buf)?;
        i64::from(self.adler.finish()).encode(buf);
        TERMINATOR.encode(buf);
        self.write(buf)
    }
}

enum Compressor {
    Plain(FileWriter),
    Gzip(Box<GzEncoder<FileWriter>>),
    Snappy(Box<SnappyWriter<FileWriter>>),
}

impl Compressor {
    fn new(compression: Compression, file: FileWriter) -> Self {
        match compression {
            Compression::None => Compressor::Plain(file),
            Compression::Gzip => Compressor::Gzip(Box::new(GzEncoder::new(
                file,
                flate2::Compression::default(),
            ))),
            Compression::Snappy => Compressor::Snappy(Box::new(SnappyWriter::new(file))),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Compressor::Plain(out) => out.write_all(bytes),
            Compressor::Gzip(out) => out.write_all(bytes),
            Compressor::Snappy(out) => out.write_all(bytes),
        }
    }

    /// Completes and syncs the file; answers its length.
    fn finish(self) -> io::Result<u64> {
        let file = match self {
            Compressor::Plain(file) => file,
            Compressor::Gzip(out) => out.finish()?,
            Compressor::Snappy(out) => out.finish()?,
        };
        file.finish()
    }
}

/// Bytes written to the file at once, and synced at once. The log shares the file system's journal
/// with the snapshot, and a sync of the log may have to wait for what the snapshot has left
/// unwritten: little by little keeps that wait short.
const BLOCK: usize = 256 << 10;

struct FileWriter {
    file: LatchedFile,
    buf: Vec<u8>,
    position: u64,
}

impl FileWriter {
    fn new(file: LatchedFile) -> Self {
        FileWriter {
            file,
            buf: Vec::with_capacity(BLOCK),
            position: 0,
        }
    }

    fn write_block(&mut self) -> Result<(), StorageError> {
        self.file.write_at(&self.buf, self.position)?;
        self.position += self.buf.len() as u64;
        self.buf.clear();
        self.file.sync()
    }

    /// Answers the length of the file.
    fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        Ok(self.position)
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buf.len() == BLOCK {
            self.flush()?;
        }
        let n = bytes.len().min(BLOCK - self.buf.len());
        self.buf.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        self.write_block().map_err(io::Error::other)
    }
}

/// The error that went through a compressor.
fn storage_error(err: io::Error, path: &Path) -> StorageError {
    match err.downcast::<StorageError>() {
        Ok(err) => err,
        Err(err) => StorageError::io("write", path, err),
    }
}
