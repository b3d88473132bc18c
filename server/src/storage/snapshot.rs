//! Snapshots: written from a running server, and read back (spec: disk formats, section 6).
//!
//! A snapshot is written under a temporary name, synced, and then renamed, so that whatever bears
//! the name of a snapshot is whole.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use quorate_proto::jute::{DecodeError, Encode, Reader};
use quorate_proto::{Acl, PersistedStat, TxnDigest};
use simd_adler32::Adler32;

use super::disk::{LatchedDisk, LatchedFile};
use super::error::StorageError;
use super::files;
use super::snappy::{SnappyReader, SnappyWriter};
use crate::tree::{Loader, NodeWalk, Tree};

const MAGIC: [u8; 4] = *b"ZKSN";
const VERSION: i32 = 2;
const DBID: i64 = -1;
/// Stands in the place of a path behind the last znode, and behind every checksum.
const TERMINATOR: &str = "/";

/// How snapshots are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
    /// With snappy, in the framing of `snappy-java`.
    Snappy,
}

impl Compression {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Snappy => ".snappy",
        }
    }

    /// The compression of a file by its name.
    pub(crate) fn of(name: &str) -> Self {
        if name.ends_with(Compression::Gzip.suffix()) {
            Compression::Gzip
        } else if name.ends_with(Compression::Snappy.suffix()) {
            Compression::Snappy
        } else {
            Compression::None
        }
    }
}

/// What stands in front of the znodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Everything up to this transaction is in the snapshot; it becomes part of the name.
    pub zxid: i64,
    /// The sessions and their timeouts in milliseconds.
    pub sessions: Vec<(i64, i32)>,
    /// The keys of the ACLs, and the ACLs as encoded vectors.
    pub acls: Vec<(i64, Vec<u8>)>,
}

/// What stands behind the znodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    /// The digest of the tree once all znodes were written, and its transaction.
    pub digest: Option<(i64, TxnDigest)>,
    /// The last transaction of which the snapshot may show something.
    pub last_zxid: Option<i64>,
}

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
}

impl<'a> StillTree<'a> {
    /// Takes a snapshot of `tree`.
    pub fn new(tree: &'a Tree) -> Self {
        StillTree {
            tree,
            walk: NodeWalk::new(tree),
        }
    }
}

impl Source for StillTree<'_> {
    fn head(&mut self) -> Head {
        let acls = self.tree.stored_acls();
        Head {
            zxid: self.tree.last_zxid(),
            sessions: self.tree.sessions().collect(),
            acls: acls
                .map(|(key, list)| (key, list.encoded().to_vec()))
                .collect(),
        }
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
            digest: Some((zxid, self.tree.digest())),
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

/// Writes a snapshot of `source` to `dir`. Answers none if the source abandoned it.
///
/// Memory is bounded by one call of [`Source::nodes`] and a few buffers. It blocks the thread, so
/// that it belongs on one of its own.
pub fn write(
    disk: &LatchedDisk,
    dir: &Path,
    compression: Compression,
    source: &mut dyn Source,
) -> Result<Option<Written>, StorageError> {
    let begin = Instant::now();
    let head = source.head();
    let name = files::snapshot_name(head.zxid, compression);
    let temporary = dir.join(format!("{}{name}", files::TEMPORARY_PREFIX));
    disk.remove(&temporary)?;
    let file = disk.create(&temporary)?;
    let content = write_content(file, compression, &head, source);
    let len = match content {
        Ok(Some(len)) => len,
        Ok(None) => {
            disk.remove(&temporary)?;
            return Ok(None);
        }
        Err(err) => return Err(err),
    };
    let path = dir.join(name);
    disk.rename(&temporary, &path)?;
    disk.sync_dir(dir)?;
    Ok(Some(Written {
        path,
        zxid: head.zxid,
        len,
        elapsed: begin.elapsed(),
    }))
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
    count(head.sessions.len()).encode(&mut buf);
    for (id, timeout) in &head.sessions {
        id.encode(&mut buf);
        timeout.encode(&mut buf);
    }
    count(head.acls.len()).encode(&mut buf);
    for (key, acl) in &head.acls {
        key.encode(&mut buf);
        buf.extend_from_slice(acl);
    }
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

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
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

/// Bytes written to the file at once.
const BLOCK: usize = 256 << 10;
/// Bytes after which the file is synced. The log shares the file system's journal with the
/// snapshot, and a sync of the log may have to wait for what the snapshot has left unwritten: little
/// by little keeps that wait short.
const SYNC_EVERY: u64 = 1 << 20;

struct FileWriter {
    file: LatchedFile,
    buf: Vec<u8>,
    position: u64,
    synced: u64,
}

impl FileWriter {
    fn new(file: LatchedFile) -> Self {
        FileWriter {
            file,
            buf: Vec::with_capacity(BLOCK),
            position: 0,
            synced: 0,
        }
    }

    fn write_block(&mut self) -> Result<(), StorageError> {
        self.file.write_at(&self.buf, self.position)?;
        self.position += self.buf.len() as u64;
        self.buf.clear();
        if self.position - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.position;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.file.sync().map_err(io::Error::other)?;
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

/// Takes up what is in a snapshot: sessions, ACLs, then znodes, parents first.
pub trait Visitor {
    /// A session and its timeout in milliseconds.
    fn session(&mut self, id: i64, timeout: i32);
    /// An ACL and its key.
    fn acl(&mut self, key: i64, acl: Option<&[Acl<'_>]>);
    /// A znode; the path of the root is empty. The error says why it cannot be.
    fn node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl_key: i64,
        stat: PersistedStat,
    ) -> Result<(), String>;
}

/// Looks at the checksums only.
impl Visitor for () {
    fn session(&mut self, _: i64, _: i32) {}
    fn acl(&mut self, _: i64, _: Option<&[Acl<'_>]>) {}
    fn node(&mut self, _: &str, _: Option<&[u8]>, _: i64, _: PersistedStat) -> Result<(), String> {
        Ok(())
    }
}

impl Visitor for Loader {
    fn session(&mut self, id: i64, timeout: i32) {
        self.session(id, timeout);
    }
    fn acl(&mut self, key: i64, acl: Option<&[Acl<'_>]>) {
        self.acl(key, acl);
    }
    fn node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl_key: i64,
        stat: PersistedStat,
    ) -> Result<(), String> {
        self.node(path, data, acl_key, stat)
            .map_err(|err| err.to_string())
    }
}

/// Reads a snapshot. What `visitor` was told counts only if all seals hold, that is, if this
/// returns without an error.
pub fn read(
    disk: &LatchedDisk,
    path: &Path,
    visitor: &mut impl Visitor,
) -> Result<Tail, StorageError> {
    let mut content = Content::open(disk, path)?;
    content.header()?;
    for _ in 0..content.take::<i32>()? {
        let (id, timeout) = (content.take()?, content.take()?);
        visitor.session(id, timeout);
    }
    for _ in 0..content.take::<i32>()? {
        let key = content.take()?;
        content.next(|reader| {
            let acl: Option<Vec<Acl<'_>>> = reader.read()?;
            visitor.acl(key, acl.as_deref());
            Ok(())
        })?;
    }
    while content.node(visitor)? {}
    content.check_seal()?;
    content.tail()
}

/// Bytes decompressed at once.
const CHUNK: usize = 256 << 10;
/// No znode is larger, so that a damaged length does not make us read everything there is.
const MAX_ITEM: usize = 256 << 20;
/// Bytes of the last transaction with its seal.
const LAST_ZXID_SIZE: usize = 8 + 13;

/// The uncompressed content of a snapshot.
struct Content {
    path: PathBuf,
    input: Box<dyn Read>,
    buf: Vec<u8>,
    /// Next byte in `buf`.
    at: usize,
    /// Bytes of `buf` that hold content.
    filled: usize,
    /// Up to here, the bytes of `buf` are in the checksum.
    summed: usize,
    /// Offset of `buf` in the content.
    start: u64,
    adler: Adler32,
    ended: bool,
}

impl Content {
    fn open(disk: &LatchedDisk, path: &Path) -> Result<Self, StorageError> {
        let file = FileReader {
            file: disk.open(path)?,
            position: 0,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let buffered = |file| io::BufReader::with_capacity(CHUNK, file);
        let input: Box<dyn Read> = match Compression::of(&name) {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(MultiGzDecoder::new(buffered(file))),
            Compression::Snappy => Box::new(SnappyReader::new(buffered(file))),
        };
        Ok(Content {
            path: path.to_owned(),
            input,
            buf: vec![0; CHUNK],
            at: 0,
            filled: 0,
            summed: 0,
            start: 0,
            adler: Adler32::new(),
            ended: false,
        })
    }

    fn damaged(&self, reason: impl fmt::Display) -> StorageError {
        StorageError::Snapshot {
            path: self.path.clone(),
            offset: self.start + self.at as u64,
            reason: reason.to_string(),
        }
    }

    /// Decodes the next item, getting more content as long as `decode` finds that it ends early.
    fn next<T>(
        &mut self,
        mut decode: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, StorageError> {
        loop {
            let left = &self.buf[self.at..self.filled];
            let mut reader = Reader::new(left);
            match decode(&mut reader) {
                Ok(item) => {
                    self.at += left.len() - reader.remaining().len();
                    return Ok(item);
                }
                Err(DecodeError::UnexpectedEnd { .. }) if !self.ended && left.len() < MAX_ITEM => {
                    self.fill()?;
                }
                Err(err) => return Err(self.damaged(err)),
            }
        }
    }

    fn take<T: for<'a> quorate_proto::jute::Decode<'a>>(&mut self) -> Result<T, StorageError> {
        self.next(|reader| {
            let item = reader.read()?;
            Ok(item)
        })
    }

    /// Gets more content, at least one byte unless it has ended.
    fn fill(&mut self) -> Result<(), StorageError> {
        self.sum();
        self.buf.copy_within(self.at..self.filled, 0);
        self.start += self.at as u64;
        self.filled -= self.at;
        self.at = 0;
        self.summed = 0;
        if self.buf.len() < self.filled + CHUNK {
            self.buf
                .resize((self.filled + CHUNK).max(2 * self.filled), 0);
        }
        let wanted = self.buf.len();
        while self.filled < wanted {
            match self.input.read(&mut self.buf[self.filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => self.filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.input_error(err)),
            }
        }
        Ok(())
    }

    fn input_error(&self, err: io::Error) -> StorageError {
        match err.downcast::<StorageError>() {
            Ok(err) => err,
            Err(err) => self.damaged(err),
        }
    }

    /// Brings the checksum up to the next byte.
    fn sum(&mut self) {
        self.adler.write(&self.buf[self.summed..self.at]);
        self.summed = self.at;
    }

    fn header(&mut self) -> Result<(), StorageError> {
        let magic = self.next(|reader| Ok(reader.take(4)? == MAGIC))?;
        if !magic {
            return Err(self.damaged("it does not begin like a snapshot"));
        }
        let (_version, _dbid): (i32, i64) = (self.take()?, self.take()?);
        Ok(())
    }

    /// Reads a znode; false at the end of all.
    fn node(&mut self, visitor: &mut impl Visitor) -> Result<bool, StorageError> {
        let node = self.next(|reader| {
            let path: &str = reader.read()?;
            if path == TERMINATOR {
                return Ok(None);
            }
            let data: Option<&[u8]> = reader.read()?;
            let (acl_key, stat) = (reader.read()?, reader.read()?);
            Ok(Some(visitor.node(path, data, acl_key, stat)))
        })?;
        match node {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(reason)) => Err(self.damaged(reason)),
        }
    }

    fn check_seal(&mut self) -> Result<(), StorageError> {
        self.sum();
        let sum = i64::from(self.adler.finish());
        let (stored, ends) = self.next(|reader| {
            let stored: i64 = reader.read()?;
            Ok((stored, reader.read::<&str>()? == TERMINATOR))
        })?;
        if stored != sum || !ends {
            return Err(self.damaged("a checksum does not match"));
        }
        Ok(())
    }

    /// How many bytes are left, as far as telling the trailers apart needs it.
    fn left(&mut self) -> Result<usize, StorageError> {
        while !self.ended && self.filled - self.at <= LAST_ZXID_SIZE {
            self.fill()?;
        }
        Ok(self.filled - self.at)
    }

    /// Both parts are optional and have no tag.
    fn tail(&mut self) -> Result<Tail, StorageError> {
        let mut tail = Tail::default();
        if self.left()? > LAST_ZXID_SIZE {
            let (zxid, version): (i64, i32) = (self.take()?, self.take()?);
            if version < 2 {
                self.next(|reader| reader.read::<&str>().map(|_| ()))?;
            } else {
                let digest = TxnDigest {
                    version,
                    digest: self.take()?,
                };
                // Zero stands for none.
                tail.digest = (zxid != 0).then_some((zxid, digest));
            }
            self.check_seal()?;
        }
        if self.left()? > 0 {
            tail.last_zxid = Some(self.take()?);
            self.check_seal()?;
        }
        if self.left()? > 0 {
            return Err(self.damaged("there is more behind the last seal"));
        }
        Ok(tail)
    }
}

struct FileReader {
    file: LatchedFile,
    position: u64,
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self
            .file
            .read_at(buf, self.position)
            .map_err(io::Error::other)?;
        self.position += n as u64;
        Ok(n)
    }
}
