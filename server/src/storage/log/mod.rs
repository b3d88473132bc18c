//! The transaction log: one writer that appends and syncs in batches, and readers that tell a torn
//! tail from damage (spec: disk formats, sections 3, 4 and 10).

mod file;
mod range;
mod reader;
mod writer;

use quorate_proto::TxnHeader;
use quorate_proto::jute::Decode;
use simd_adler32::Adler32;

pub(super) use file::cut;
pub use range::LogRange;
pub(super) use range::recent;
pub use reader::{LogEnd, LogReader};
pub use writer::{LogOptions, LogWriter};

const MAGIC: [u8; 4] = *b"ZKLG";
const VERSION: i32 = 2;
const DBID: i64 = 0;
/// Bytes of the header of a file.
const HEADER_SIZE: usize = 16;

/// Bytes in front of a record's body: checksum and length.
const HEAD_SIZE: usize = 12;
/// Behind every record.
const END_BYTE: u8 = b'B';
/// Bytes of the shortest body: a header without a transaction.
const MIN_BODY: usize = TxnHeader::MIN_SIZE;
/// No record is longer, so that a damaged length reserves no memory. The longest in practice lists
/// the ephemerals of a session that ends.
const MAX_BODY: usize = 256 << 20;

/// Appends one record: checksum, length, the body that `body` appends, end byte.
///
/// ```
/// let mut out = Vec::new();
/// quorate_server::storage::log::encode_record(&mut out, |out| out.extend_from_slice(b"body"));
/// assert_eq!(out.len(), 12 + 4 + 1);
/// ```
pub fn encode_record(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_SIZE]);
    body(out);
    let (head, body) = out[start..].split_at_mut(HEAD_SIZE);
    head[..8].copy_from_slice(&i64::from(adler32(body)).to_be_bytes());
    let length = i32::try_from(body.len()).unwrap_or(i32::MAX);
    head[8..].copy_from_slice(&length.to_be_bytes());
    out.push(END_BYTE);
}

/// The body of a record that [`encode_record`] has made.
pub fn record_body(record: &[u8]) -> &[u8] {
    record
        .get(HEAD_SIZE..record.len().saturating_sub(1))
        .unwrap_or_default()
}

fn adler32(bytes: &[u8]) -> u32 {
    let mut adler = Adler32::new();
    adler.write(bytes);
    adler.finish()
}

/// One transaction as it lies in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it begins in its file.
    pub offset: u64,
    /// Its number.
    pub zxid: i64,
    /// A transaction entry: header, transaction, optional digest.
    pub body: &'a [u8],
}

/// May `next` come right after `last`? Each leader numbers from 1 in an epoch of its own.
pub(super) fn follows(last: i64, next: i64) -> bool {
    let (epoch, counter) = (next >> 32, next & 0xffff_ffff);
    last.checked_add(1) == Some(next) || (epoch > last >> 32 && counter == 1)
}

/// The zxid in the header of a transaction.
fn zxid_of(body: &[u8]) -> i64 {
    let zxid = body.get(12..20).and_then(|zxid| zxid.try_into().ok());
    i64::from_be_bytes(zxid.unwrap_or_default())
}

/// What stands in front of a body.
#[derive(Debug, Clone, Copy)]
struct Head {
    checksum: i64,
    length: i32,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Head> {
        let (checksum, rest) = bytes.split_first_chunk::<8>()?;
        let length = rest.first_chunk::<4>()?;
        Some(Head {
            checksum: i64::from_be_bytes(*checksum),
            length: i32::from_be_bytes(*length),
        })
    }

    fn is_padding(self) -> bool {
        self.checksum == 0 && self.length == 0
    }

    /// Size of the whole record, if the length is one that a record can have.
    fn record_size(self) -> Option<usize> {
        let length = usize::try_from(self.length).ok()?;
        (MIN_BODY..=MAX_BODY)
            .contains(&length)
            .then_some(HEAD_SIZE + length + 1)
    }
}

/// Does `record` have its end byte and its checksum?
fn is_whole(record: &[u8]) -> bool {
    let (Some(head), Some((&END_BYTE, rest))) = (Head::read(record), record.split_last()) else {
        return false;
    };
    rest.get(HEAD_SIZE..)
        .is_some_and(|body| head.checksum == i64::from(adler32(body)))
}
