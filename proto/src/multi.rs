//! Multi and multiRead: several operations in one request.

use crate::code::{ErrorCode, OpCode};
use crate::jute::{Decode, DecodeError, Encode, Reader};
use crate::records::{
    Create2Response, CreateRequest, CreateResponse, CreateTtlRequest, ErrorResponse,
    GetChildrenResponse, GetDataResponse, MultiHeader, SetDataRequest, StatResponse,
    VersionRequest, WatchedRequest,
};

/// One operation of a multi or multiRead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MultiOp<'a> {
    /// Creates a znode, answers its path.
    Create(CreateRequest<'a>),
    /// Creates a znode, answers path and stat.
    Create2(CreateRequest<'a>),
    /// Creates a container.
    CreateContainer(CreateRequest<'a>),
    /// Creates a znode with a time to live.
    CreateTtl(CreateTtlRequest<'a>),
    /// Deletes a znode.
    Delete(VersionRequest<'a>),
    /// Replaces the data of a znode.
    SetData(SetDataRequest<'a>),
    /// Compares the version of a znode.
    Check(VersionRequest<'a>),
    /// Data and stat; multiRead only.
    GetData(WatchedRequest<'a>),
    /// Names of the children; multiRead only.
    GetChildren(WatchedRequest<'a>),
}

impl<'a> MultiOp<'a> {
    /// The opcode in front of the operation.
    pub fn op(&self) -> OpCode {
        match self {
            MultiOp::Create(_) => OpCode::Create,
            MultiOp::Create2(_) => OpCode::Create2,
            MultiOp::CreateContainer(_) => OpCode::CreateContainer,
            MultiOp::CreateTtl(_) => OpCode::CreateTtl,
            MultiOp::Delete(_) => OpCode::Delete,
            MultiOp::SetData(_) => OpCode::SetData,
            MultiOp::Check(_) => OpCode::Check,
            MultiOp::GetData(_) => OpCode::GetData,
            MultiOp::GetChildren(_) => OpCode::GetChildren,
        }
    }

    /// Does the operation belong into a multiRead, not into a multi?
    pub fn is_read(&self) -> bool {
        matches!(self, MultiOp::GetData(_) | MultiOp::GetChildren(_))
    }

    /// Decodes the operation behind a header that says `op`.
    pub fn decode_body(op: i32, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match OpCode::try_from(op)? {
            OpCode::Create => MultiOp::Create(reader.read()?),
            OpCode::Create2 => MultiOp::Create2(reader.read()?),
            OpCode::CreateContainer => MultiOp::CreateContainer(reader.read()?),
            OpCode::CreateTtl => MultiOp::CreateTtl(reader.read()?),
            OpCode::Delete => MultiOp::Delete(reader.read()?),
            OpCode::SetData => MultiOp::SetData(reader.read()?),
            OpCode::Check => MultiOp::Check(reader.read()?),
            OpCode::GetData => MultiOp::GetData(reader.read()?),
            OpCode::GetChildren => MultiOp::GetChildren(reader.read()?),
            _ => {
                return Err(DecodeError::Unknown {
                    what: "multi operation",
                    value: op,
                });
            }
        })
    }
}

/// Header and body of the operation.
impl Encode for MultiOp<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        MultiHeader::request(self.op()).encode(out);
        match self {
            MultiOp::Create(r) | MultiOp::Create2(r) | MultiOp::CreateContainer(r) => r.encode(out),
            MultiOp::CreateTtl(r) => r.encode(out),
            MultiOp::Delete(r) | MultiOp::Check(r) => r.encode(out),
            MultiOp::SetData(r) => r.encode(out),
            MultiOp::GetData(r) | MultiOp::GetChildren(r) => r.encode(out),
        }
    }
}

/// The body of a multi or multiRead request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiRequest<'a> {
    /// The operations in order.
    pub ops: Vec<MultiOp<'a>>,
}

impl Encode for MultiRequest<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        for op in &self.ops {
            op.encode(out);
        }
        MultiHeader::END.encode(out);
    }
}

impl<'a> Decode<'a> for MultiRequest<'a> {
    const MIN_SIZE: usize = 9;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut ops = Vec::new();
        loop {
            let header: MultiHeader = reader.read()?;
            if header.done {
                return Ok(MultiRequest { ops });
            }
            ops.push(MultiOp::decode_body(header.op, reader)?);
        }
    }
}

/// The result of one operation of a multi or multiRead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MultiResult<'a> {
    /// To a create.
    Create(CreateResponse<'a>),
    /// To a create2, a createContainer or a createTTL.
    Create2(Create2Response<'a>),
    /// To a delete.
    Delete,
    /// To a setData.
    SetData(StatResponse),
    /// To a check.
    Check,
    /// To a getData.
    GetData(GetDataResponse<'a>),
    /// To a getChildren.
    GetChildren(GetChildrenResponse<'a>),
    /// The operation failed, or was not tried because another one failed; [`ErrorCode::OK`] in
    /// front of the operation that failed.
    Error(ErrorCode),
}

impl Encode for MultiResult<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let header = |op: OpCode, out: &mut Vec<u8>| {
            MultiHeader::result(op, ErrorCode::OK).encode(out);
        };
        match self {
            MultiResult::Create(r) => {
                header(OpCode::Create, out);
                r.encode(out);
            }
            MultiResult::Create2(r) => {
                header(OpCode::Create2, out);
                r.encode(out);
            }
            MultiResult::Delete => header(OpCode::Delete, out),
            MultiResult::SetData(r) => {
                header(OpCode::SetData, out);
                r.encode(out);
            }
            MultiResult::Check => header(OpCode::Check, out),
            MultiResult::GetData(r) => {
                header(OpCode::GetData, out);
                r.encode(out);
            }
            MultiResult::GetChildren(r) => {
                header(OpCode::GetChildren, out);
                r.encode(out);
            }
            MultiResult::Error(err) => {
                MultiHeader::result(OpCode::Error, *err).encode(out);
                ErrorResponse { err: *err }.encode(out);
            }
        }
    }
}

/// The body of the reply to a multi or multiRead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiResponse<'a> {
    /// One result an operation.
    pub results: Vec<MultiResult<'a>>,
}

impl Encode for MultiResponse<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        for result in &self.results {
            result.encode(out);
        }
        MultiHeader::END.encode(out);
    }
}

impl<'a> Decode<'a> for MultiResponse<'a> {
    const MIN_SIZE: usize = 9;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut results = Vec::new();
        loop {
            let header: MultiHeader = reader.read()?;
            if header.done {
                return Ok(MultiResponse { results });
            }
            results.push(match OpCode::try_from(header.op)? {
                OpCode::Create => MultiResult::Create(reader.read()?),
                OpCode::Create2 => MultiResult::Create2(reader.read()?),
                OpCode::Delete => MultiResult::Delete,
                OpCode::SetData => MultiResult::SetData(reader.read()?),
                OpCode::Check => MultiResult::Check,
                OpCode::GetData => MultiResult::GetData(reader.read()?),
                OpCode::GetChildren => MultiResult::GetChildren(reader.read()?),
                OpCode::Error => MultiResult::Error(reader.read::<ErrorResponse>()?.err),
                _ => {
                    return Err(DecodeError::Unknown {
                        what: "multi result",
                        value: header.op,
                    });
                }
            });
        }
    }
}
