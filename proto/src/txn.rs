//! Transactions: what a write becomes once it has been validated and numbered. They travel between
//! servers and lie in the transaction log (spec: disk formats, section 5).

use crate::acl::Acl;
use crate::code::{ErrorCode, OpCode};
use crate::frame;
use crate::jute::{Decode, DecodeError, Encode, Reader, records};

records! {
    /// In front of every transaction.
    #[derive(Copy)]
    pub struct TxnHeader {
        /// The session that asked for it; 0 for the server itself.
        session_id: i64,
        /// The request's xid.
        cxid: i32,
        /// Number of the transaction: epoch in the upper half, counter in the lower.
        zxid: i64,
        /// The leader's wall clock, milliseconds since 1970.
        time: i64,
        /// An opcode, not checked yet.
        op: i32,
    }

    /// A session begins.
    #[derive(Copy)]
    pub struct CreateSessionTxn {
        /// Session timeout in milliseconds.
        timeout: i32,
    }

    /// The stat as snapshots store it: `cversion` counts creates only, the owner tells the kind.
    #[derive(Copy, Default)]
    pub struct PersistedStat {
        /// Transaction that created the znode.
        czxid: i64,
        /// Transaction that last set the data.
        mzxid: i64,
        /// Creation time, milliseconds since 1970.
        ctime: i64,
        /// Time of the last change of the data.
        mtime: i64,
        /// Changes of the data.
        version: i32,
        /// Children ever created.
        cversion: i32,
        /// Changes of the ACL.
        aversion: i32,
        /// 0, a session, or a number that stands for a container or a time to live.
        ephemeral_owner: i64,
        /// Transaction that last changed the list of children.
        pzxid: i64,
    }

    /// The digest of the tree behind a transaction.
    #[derive(Copy)]
    pub struct TxnDigest {
        /// 2 for the only algorithm in use.
        version: i32,
        /// Sum of the digests of all znodes.
        digest: u64,
    }

    /// Deletes a znode, or reaps a container.
    pub struct DeleteTxn<'a> {
        /// The znode.
        path: &'a str,
    }

    /// Replaces data.
    pub struct SetDataTxn<'a> {
        /// The znode.
        path: &'a str,
        /// Null and empty are different.
        data: Option<&'a [u8]>,
        /// The version that the znode gets.
        version: i32,
    }

    /// Replaces the ACL.
    pub struct SetAclTxn<'a> {
        /// The znode.
        path: &'a str,
        /// The new entries.
        acl: Option<Vec<Acl<'a>>>,
        /// The `aversion` that the znode gets.
        version: i32,
    }

    /// A version that was checked; changes nothing.
    pub struct CheckTxn<'a> {
        /// The znode.
        path: &'a str,
        /// Not used.
        version: i32,
    }

    /// Creates a container.
    pub struct CreateContainerTxn<'a> {
        /// The znode, with its final name.
        path: &'a str,
        /// Null and empty are different.
        data: Option<&'a [u8]>,
        /// The entries.
        acl: Option<Vec<Acl<'a>>>,
        /// Children ever created under the parent, this one included.
        parent_cversion: i32,
    }

    /// Creates a znode with a time to live.
    pub struct CreateTtlTxn<'a> {
        /// The znode, with its final name.
        path: &'a str,
        /// Null and empty are different.
        data: Option<&'a [u8]>,
        /// The entries.
        acl: Option<Vec<Acl<'a>>>,
        /// Children ever created under the parent, this one included.
        parent_cversion: i32,
        /// Time to live in milliseconds.
        ttl: i64,
    }
}

/// Creates a persistent or ephemeral znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTxn<'a> {
    /// The znode, with its final name.
    pub path: &'a str,
    /// Null and empty are different.
    pub data: Option<&'a [u8]>,
    /// The entries.
    pub acl: Option<Vec<Acl<'a>>>,
    /// Does the znode end with its session?
    pub ephemeral: bool,
    /// Children ever created under the parent, this one included; -1 in records before 3.4, which
    /// lack the field.
    pub parent_cversion: i32,
}

impl Encode for CreateTxn<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.path.encode(out);
        self.data.encode(out);
        self.acl.encode(out);
        self.ephemeral.encode(out);
        self.parent_cversion.encode(out);
    }
}

impl<'a> Decode<'a> for CreateTxn<'a> {
    const MIN_SIZE: usize = 13;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(CreateTxn {
            path: reader.read()?,
            data: reader.read()?,
            acl: reader.read()?,
            ephemeral: reader.read()?,
            parent_cversion: if reader.is_empty() {
                -1
            } else {
                reader.read()?
            },
        })
    }
}

/// The body of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Txn<'a> {
    /// A session begins.
    CreateSession(CreateSessionTxn),
    /// A session ends, and these ephemerals with it. `None` in records that do not list them.
    CloseSession(Option<Vec<&'a str>>),
    /// A write failed; it has a zxid and changes nothing.
    Error(ErrorCode),
    /// Creates a znode.
    Create(CreateTxn<'a>),
    /// Creates a znode; the client asked for its stat.
    Create2(CreateTxn<'a>),
    /// Creates a container.
    CreateContainer(CreateContainerTxn<'a>),
    /// Creates a znode with a time to live.
    CreateTtl(CreateTtlTxn<'a>),
    /// Deletes a znode.
    Delete(DeleteTxn<'a>),
    /// Reaps a container or an expired TTL node.
    DeleteContainer(DeleteTxn<'a>),
    /// Replaces data.
    SetData(SetDataTxn<'a>),
    /// Replaces the ACL.
    SetAcl(SetAclTxn<'a>),
    /// Replaces the data of `/zookeeper/config`.
    Reconfig(SetDataTxn<'a>),
    /// A version that was checked; inside a multi only.
    Check(CheckTxn<'a>),
    /// Several of the above as one. If one of them is an [`Txn::Error`], nothing is applied.
    Multi(Vec<Txn<'a>>),
}

impl<'a> Txn<'a> {
    /// The opcode that the header carries.
    pub fn op(&self) -> OpCode {
        match self {
            Txn::CreateSession(_) => OpCode::CreateSession,
            Txn::CloseSession(_) => OpCode::CloseSession,
            Txn::Error(_) => OpCode::Error,
            Txn::Create(_) => OpCode::Create,
            Txn::Create2(_) => OpCode::Create2,
            Txn::CreateContainer(_) => OpCode::CreateContainer,
            Txn::CreateTtl(_) => OpCode::CreateTtl,
            Txn::Delete(_) => OpCode::Delete,
            Txn::DeleteContainer(_) => OpCode::DeleteContainer,
            Txn::SetData(_) => OpCode::SetData,
            Txn::SetAcl(_) => OpCode::SetAcl,
            Txn::Reconfig(_) => OpCode::Reconfig,
            Txn::Check(_) => OpCode::Check,
            Txn::Multi(_) => OpCode::Multi,
        }
    }

    /// Decodes the body behind a header that says `op`.
    pub fn decode(op: i32, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if op == OpCode::Multi.number() {
            let entries: Vec<MultiEntry<'a>> = reader.read()?;
            return entries
                .iter()
                .map(Txn::decode_part)
                .collect::<Result<_, _>>()
                .map(Txn::Multi);
        }
        Txn::decode_single(op, reader)
    }

    /// Sessions, ACLs and the membership do not change inside a multi.
    fn decode_part(entry: &MultiEntry<'a>) -> Result<Self, DecodeError> {
        let txn = Txn::decode_single(entry.op, &mut Reader::new(entry.body))?;
        match txn {
            Txn::CreateSession(_) | Txn::CloseSession(_) | Txn::SetAcl(_) | Txn::Reconfig(_) => {
                Err(DecodeError::Unknown {
                    what: "transaction type in a multi",
                    value: entry.op,
                })
            }
            txn => Ok(txn),
        }
    }

    fn decode_single(op: i32, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match OpCode::try_from(op)? {
            OpCode::CreateSession => Txn::CreateSession(reader.read()?),
            OpCode::CloseSession => Txn::CloseSession(decode_closed(reader)?),
            OpCode::Error => Txn::Error(reader.read()?),
            OpCode::Create => Txn::Create(reader.read()?),
            OpCode::Create2 => Txn::Create2(reader.read()?),
            OpCode::CreateContainer => Txn::CreateContainer(reader.read()?),
            OpCode::CreateTtl => Txn::CreateTtl(reader.read()?),
            OpCode::Delete => Txn::Delete(reader.read()?),
            OpCode::DeleteContainer => Txn::DeleteContainer(reader.read()?),
            OpCode::SetData => Txn::SetData(reader.read()?),
            OpCode::SetAcl => Txn::SetAcl(reader.read()?),
            OpCode::Reconfig => Txn::Reconfig(reader.read()?),
            OpCode::Check => Txn::Check(reader.read()?),
            _ => {
                return Err(DecodeError::Unknown {
                    what: "transaction type",
                    value: op,
                });
            }
        })
    }
}

impl Encode for Txn<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Txn::CreateSession(t) => t.encode(out),
            Txn::CloseSession(paths) => {
                if let Some(paths) = paths {
                    paths.encode(out);
                }
            }
            Txn::Error(err) => err.encode(out),
            Txn::Create(t) | Txn::Create2(t) => t.encode(out),
            Txn::CreateContainer(t) => t.encode(out),
            Txn::CreateTtl(t) => t.encode(out),
            Txn::Delete(t) | Txn::DeleteContainer(t) => t.encode(out),
            Txn::SetData(t) | Txn::Reconfig(t) => t.encode(out),
            Txn::SetAcl(t) => t.encode(out),
            Txn::Check(t) => t.encode(out),
            Txn::Multi(txns) => {
                i32::try_from(txns.len()).unwrap_or(i32::MAX).encode(out);
                for txn in txns {
                    txn.op().encode(out);
                    frame::write(out, |out| txn.encode(out));
                }
            }
        }
    }
}

/// One transaction inside a multi: its body has a length of its own.
struct MultiEntry<'a> {
    op: i32,
    body: &'a [u8],
}

impl<'a> Decode<'a> for MultiEntry<'a> {
    const MIN_SIZE: usize = 8;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(MultiEntry {
            op: reader.read()?,
            body: reader.read()?,
        })
    }
}

/// The size of an encoded [`TxnDigest`].
const DIGEST_SIZE: usize = 12;

/// A closeSession may lack its list, and then a digest may stand in its place: it is a list only if
/// it ends exactly at the end, or in front of a digest, and holds paths.
fn decode_closed<'a>(reader: &mut Reader<'a>) -> Result<Option<Vec<&'a str>>, DecodeError> {
    if reader.is_empty() {
        return Ok(None);
    }
    let mut ahead = reader.clone();
    if let Ok(paths) = ahead.read::<Vec<&str>>()
        && matches!(ahead.remaining().len(), 0 | DIGEST_SIZE)
        && paths.iter().all(|path| path.starts_with('/'))
    {
        *reader = ahead;
        return Ok(Some(paths));
    }
    if reader.remaining().len() == DIGEST_SIZE {
        return Ok(None);
    }
    reader.read().map(Some)
}

/// A whole transaction as it lies in the log and travels in a proposal: header, body and the
/// digest of the tree behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnEntry<'a> {
    /// Who, when, which number.
    pub header: TxnHeader,
    /// What to do.
    pub txn: Txn<'a>,
    /// The digest of the tree once it is done.
    pub digest: Option<TxnDigest>,
}

impl Encode for TxnEntry<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        self.txn.encode(out);
        if let Some(digest) = &self.digest {
            digest.encode(out);
        }
    }
}

impl<'a> Decode<'a> for TxnEntry<'a> {
    const MIN_SIZE: usize = TxnHeader::MIN_SIZE;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let header: TxnHeader = reader.read()?;
        let txn = Txn::decode(header.op, reader)?;
        let digest = if reader.is_empty() {
            None
        } else {
            Some(reader.read()?)
        };
        Ok(TxnEntry {
            header,
            txn,
            digest,
        })
    }
}
