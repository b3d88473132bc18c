//! The tree as a leader sends it to a learner: the content of a snapshot, without header, seals
//! and compression (spec: quorum protocol, section 4.2).

use bytes::{Buf, BytesMut};
use quorate_proto::jute::{DecodeError, Encode, Reader};

use super::reader::{Body, MAX_ITEM};
use super::{Head, TERMINATOR};
use crate::storage::error::StorageError;
use crate::tree::{Loader, NodeWalk, Tree};

/// Ends the stream.
const SIGNATURE: &str = "BenWasHere";

/// Dumps a tree that goes on changing, some of it at a time.
///
/// ```
/// use bytes::BytesMut;
/// use quorate_server::storage::snapshot::{TreeDump, TreeReceiver};
/// use quorate_server::tree::Tree;
///
/// let tree = Tree::new();
/// let mut dump = TreeDump::begin(&tree);
/// let mut receiver = TreeReceiver::new(dump.zxid());
/// let mut received = None;
/// let mut more = true;
/// while more {
///     let mut chunk = Vec::new();
///     more = dump.next(&tree, 64, &mut chunk);
///     received = receiver.feed(&mut BytesMut::from(&chunk[..]))?;
/// }
/// assert_eq!(received.map(|received| received.digest()), Some(tree.digest()));
/// # Ok::<(), quorate_server::storage::StorageError>(())
/// ```
#[derive(Debug)]
pub struct TreeDump {
    zxid: i64,
    /// What comes first.
    head: Vec<u8>,
    walk: NodeWalk,
}

impl TreeDump {
    /// Begins a dump of what `tree` is now.
    pub fn begin(tree: &Tree) -> Self {
        let head = Head::of(tree);
        let mut encoded = Vec::new();
        head.encode(&mut encoded);
        TreeDump {
            zxid: head.zxid,
            head: encoded,
            walk: NodeWalk::new(tree),
        }
    }

    /// Everything up to this transaction is in the dump; of what came later there may be parts.
    pub fn zxid(&self) -> i64 {
        self.zxid
    }

    /// Appends what comes next, about `bytes` bytes. Answers false once that was all. It has to
    /// be the same tree each time.
    pub fn next(&mut self, tree: &Tree, bytes: usize, out: &mut Vec<u8>) -> bool {
        let wanted = out.len() + bytes;
        out.append(&mut self.head);
        if self.walk.encode_next(tree, wanted, out) {
            return true;
        }
        TERMINATOR.encode(out);
        SIGNATURE.encode(out);
        false
    }
}

/// Puts a tree together while it comes in.
///
/// It reserves no memory for what is only announced: what is not complete yet stays in the buffer
/// that the connection is read into.
#[derive(Debug)]
pub struct TreeReceiver {
    zxid: i64,
    loader: Loader,
    body: Body,
    /// Have all znodes come in?
    complete: bool,
    /// Bytes taken so far.
    offset: u64,
}

impl TreeReceiver {
    /// Expects the tree of the transaction `zxid`.
    pub fn new(zxid: i64) -> Self {
        TreeReceiver {
            zxid,
            loader: Loader::new(),
            body: Body::default(),
            complete: false,
            offset: 0,
        }
    }

    /// Takes what it can from the front of `input`, and answers the tree once it is there. What is
    /// in `input` then came behind it; before, it is the beginning of something.
    ///
    /// # Errors
    /// [`StorageError::Received`] if that makes no tree. There is no use in going on then.
    pub fn feed(&mut self, input: &mut BytesMut) -> Result<Option<Tree>, StorageError> {
        loop {
            let mut reader = Reader::new(input);
            let item = self.item(&mut reader);
            let taken = input.len() - reader.remaining().len();
            match item {
                Ok(Ok(more)) => {
                    input.advance(taken);
                    self.offset += taken as u64;
                    if !more {
                        let loader = std::mem::take(&mut self.loader);
                        return Ok(Some(loader.finish(self.zxid)));
                    }
                }
                Ok(Err(reason)) => return Err(self.refuse(reason)),
                Err(DecodeError::UnexpectedEnd { wanted, .. })
                    if wanted.max(input.len()) < MAX_ITEM =>
                {
                    return Ok(None);
                }
                Err(err) => return Err(self.refuse(err.to_string())),
            }
        }
    }

    /// Reads one part; false behind the last.
    fn item(&mut self, reader: &mut Reader<'_>) -> Result<Result<bool, String>, DecodeError> {
        if self.complete {
            let signed = reader.read::<&str>()? == SIGNATURE;
            return Ok(match signed {
                true => Ok(false),
                false => Err("it does not end as it should".to_owned()),
            });
        }
        let more = self.body.next(reader, &mut self.loader)?;
        Ok(more.map(|more| {
            self.complete = !more;
            true
        }))
    }

    fn refuse(&self, reason: String) -> StorageError {
        StorageError::Received {
            offset: self.offset,
            reason,
        }
    }
}
