//! What clients ask to be written, as their bytes say.

use quorate_proto::jute::{Decode, DecodeError, Reader};
use quorate_proto::{
    CreateMode, CreateRequest, CreateTtlRequest, MultiOp, MultiRequest, OpCode, ReconfigRequest,
    SetAclRequest, SetDataRequest, VersionRequest,
};

/// Is `op` a write that a client may ask for, beside those of its session?
pub fn is_write(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::SetData
            | OpCode::SetAcl
            | OpCode::Multi
            | OpCode::Reconfig
    )
}

/// Would this write create ephemeral znodes?
pub fn makes_ephemerals(op: OpCode, body: &[u8]) -> bool {
    let is_ephemeral = |single: &Single<'_>| match single {
        Single::Create(OpCode::Create | OpCode::Create2, request) => {
            CreateMode::try_from(request.flags).is_ok_and(CreateMode::is_ephemeral)
        }
        _ => false,
    };
    match WriteRequest::decode(op, body) {
        Ok(WriteRequest::Single(single)) => is_ephemeral(&single),
        Ok(WriteRequest::Multi(multi)) => {
            let mut singles = multi.ops.iter().map(Single::from);
            singles.any(|single| is_ephemeral(&single))
        }
        Err(_) => false,
    }
}

/// A write as its bytes say.
pub(super) enum WriteRequest<'a> {
    Single(Single<'a>),
    Multi(MultiRequest<'a>),
}

/// One write. Every create is seen as one with a time to live, which most do not have.
pub(super) enum Single<'a> {
    Create(OpCode, CreateTtlRequest<'a>),
    Delete(VersionRequest<'a>),
    SetData(SetDataRequest<'a>),
    SetAcl(SetAclRequest<'a>),
    Check(VersionRequest<'a>),
    Reconfig(ReconfigRequest<'a>),
}

impl<'a> WriteRequest<'a> {
    pub(super) fn decode(op: OpCode, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let single = match op {
            OpCode::Create | OpCode::Create2 | OpCode::CreateContainer => {
                Single::Create(op, without_ttl(reader.read()?))
            }
            OpCode::CreateTtl => Single::Create(op, reader.read()?),
            OpCode::Delete => Single::Delete(reader.read()?),
            OpCode::SetData => Single::SetData(reader.read()?),
            OpCode::SetAcl => Single::SetAcl(reader.read()?),
            OpCode::Reconfig => Single::Reconfig(reader.read()?),
            OpCode::Multi => return decode_multi(body).map(WriteRequest::Multi),
            _ => {
                return Err(DecodeError::Unknown {
                    what: "write",
                    value: op.number(),
                });
            }
        };
        Ok(WriteRequest::Single(single))
    }
}

/// Reads do not belong into a multi, nor does a time to live that the opcode cannot have. Apart
/// from that the flags decide what is created, not the opcode.
fn decode_multi(body: &[u8]) -> Result<MultiRequest<'_>, DecodeError> {
    let mut multi = MultiRequest::from_slice(body)?;
    for op in &mut multi.ops {
        match op {
            MultiOp::Create(r) | MultiOp::Create2(r) | MultiOp::CreateContainer(r) => {
                let mode = CreateMode::try_from(r.flags)?;
                if mode.is_ttl() {
                    return Err(DecodeError::Unknown {
                        what: "create mode without a time to live",
                        value: r.flags,
                    });
                }
                if mode == CreateMode::Container {
                    *op = MultiOp::CreateContainer(r.clone());
                }
            }
            MultiOp::CreateTtl(r) => match CreateMode::try_from(r.flags) {
                Ok(mode) if mode.is_ttl() => {}
                Ok(CreateMode::Container) => *op = MultiOp::CreateContainer(with_no_ttl(r)),
                _ => *op = MultiOp::Create(with_no_ttl(r)),
            },
            op if op.is_read() => {
                return Err(DecodeError::Unknown {
                    what: "multi operation",
                    value: op.op().number(),
                });
            }
            _ => {}
        }
    }
    Ok(multi)
}

fn with_no_ttl<'a>(request: &CreateTtlRequest<'a>) -> CreateRequest<'a> {
    CreateRequest {
        path: request.path,
        data: request.data,
        acl: request.acl.clone(),
        flags: request.flags,
    }
}

impl<'a> From<&MultiOp<'a>> for Single<'a> {
    fn from(op: &MultiOp<'a>) -> Self {
        match op {
            MultiOp::Create(r) | MultiOp::Create2(r) | MultiOp::CreateContainer(r) => {
                Single::Create(op.op(), without_ttl(r.clone()))
            }
            MultiOp::CreateTtl(r) => Single::Create(OpCode::CreateTtl, r.clone()),
            MultiOp::Delete(r) => Single::Delete(r.clone()),
            MultiOp::SetData(r) => Single::SetData(r.clone()),
            MultiOp::Check(r) => Single::Check(r.clone()),
            MultiOp::GetData(r) | MultiOp::GetChildren(r) => Single::Check(VersionRequest {
                path: r.path,
                version: -1,
            }),
        }
    }
}

fn without_ttl(request: CreateRequest<'_>) -> CreateTtlRequest<'_> {
    let CreateRequest {
        path,
        data,
        acl,
        flags,
    } = request;
    CreateTtlRequest {
        path,
        data,
        acl,
        flags,
        ttl: -1,
    }
}
