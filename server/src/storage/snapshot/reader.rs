//! Snapshots are read as a stream, and believed once all seals hold.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use quorate_proto::jute::{Decode, DecodeError, Reader};
use quorate_proto::{Acl, PersistedStat, TxnDigest};
use simd_adler32::Adler32;

use super::snappy::SnappyReader;
use super::{Compression, MAGIC, TERMINATOR, Tail};
use crate::storage::disk::{LatchedDisk, LatchedFile};
use crate::storage::error::StorageError;
use crate::tree::Loader;

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
    let mut body = Body::default();
    while content
        .next(|reader| body.next(reader, visitor))?
        .map_err(|reason| content.damaged(reason))?
    {}
    content.check_seal()?;
    content.tail()
}

/// What a snapshot has between its header and its first seal: sessions, ACLs, znodes, each with
/// what ends it.
#[derive(Debug, Default)]
pub(super) enum Body {
    #[default]
    Begin,
    /// So many sessions are left.
    Sessions(i32),
    /// So many ACLs are left.
    Acls(i32),
}

impl Body {
    /// Reads what comes next; false at the end of the znodes. The inner error says why it cannot
    /// be. Behind an outer one, the same can be read again once there is more of it.
    pub(super) fn next(
        &mut self,
        reader: &mut Reader<'_>,
        visitor: &mut impl Visitor,
    ) -> Result<Result<bool, String>, DecodeError> {
        match *self {
            Body::Begin => *self = Body::Sessions(reader.read()?),
            Body::Sessions(left @ 1..) => {
                let (id, timeout) = (reader.read()?, reader.read()?);
                visitor.session(id, timeout);
                *self = Body::Sessions(left - 1);
            }
            Body::Sessions(_) => *self = Body::Acls(reader.read()?),
            Body::Acls(left @ 1..) => {
                let key = reader.read()?;
                let acl: Option<Vec<Acl<'_>>> = reader.read()?;
                visitor.acl(key, acl.as_deref());
                *self = Body::Acls(left - 1);
            }
            Body::Acls(_) => {
                let path: &str = reader.read()?;
                if path == TERMINATOR {
                    return Ok(Ok(false));
                }
                let data: Option<&[u8]> = reader.read()?;
                let (acl_key, stat) = (reader.read()?, reader.read()?);
                return Ok(visitor.node(path, data, acl_key, stat).map(|()| true));
            }
        }
        Ok(Ok(true))
    }
}

/// Bytes decompressed at once.
const CHUNK: usize = 256 << 10;
/// No znode is larger, so that a damaged length does not make us read everything there is.
pub(super) const MAX_ITEM: usize = 256 << 20;
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

    fn take<T: for<'a> Decode<'a>>(&mut self) -> Result<T, StorageError> {
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
