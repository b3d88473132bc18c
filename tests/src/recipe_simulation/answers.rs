//! The answers to writes.

use quorate_proto::jute::Encode as _;
use quorate_proto::{
    Create2Response, CreateResponse, ErrorCode, MultiResponse, MultiResult, OpCode, ReplyHeader,
    StatResponse, Txn, TxnEntry, frame,
};
use quorate_server::tree::Applied;

/// Appends the answer to a write.
pub fn reply(out: &mut Vec<u8>, entry: &TxnEntry<'_>, op: OpCode, applied: &Applied, xid: i32) {
    let err = match applied {
        Applied::Failed(err) => *err,
        _ => ErrorCode::OK,
    };
    let zxid = entry.header.zxid;
    frame::write(out, |out| {
        ReplyHeader { xid, zxid, err }.encode(out);
        match (&entry.txn, applied) {
            (Txn::Multi(parts), Applied::Multi(applied)) => {
                let results = parts.iter().zip(applied);
                let results = results.map(|(part, applied)| result(part, applied));
                MultiResponse {
                    results: results.collect(),
                }
                .encode(out);
            }
            (txn, Applied::Stat(stat)) => match created_path(txn) {
                Some(path) if op == OpCode::Create => CreateResponse { path }.encode(out),
                Some(path) => Create2Response { path, stat: *stat }.encode(out),
                None => StatResponse { stat: *stat }.encode(out),
            },
            _ => {}
        }
    });
}

fn created_path<'a>(txn: &Txn<'a>) -> Option<&'a str> {
    match txn {
        Txn::Create(txn) | Txn::Create2(txn) => Some(txn.path),
        Txn::CreateContainer(txn) => Some(txn.path),
        Txn::CreateTtl(txn) => Some(txn.path),
        _ => None,
    }
}

fn result<'a>(part: &Txn<'a>, applied: &Applied) -> MultiResult<'a> {
    match (applied, created_path(part)) {
        (Applied::Failed(err), _) => MultiResult::Error(*err),
        (Applied::Stat(_), Some(path)) if part.op() == OpCode::Create => {
            MultiResult::Create(CreateResponse { path })
        }
        (Applied::Stat(stat), Some(path)) => {
            MultiResult::Create2(Create2Response { path, stat: *stat })
        }
        (Applied::Stat(stat), None) => MultiResult::SetData(StatResponse { stat: *stat }),
        _ if part.op() == OpCode::Check => MultiResult::Check,
        _ => MultiResult::Delete,
    }
}
