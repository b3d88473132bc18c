//! Programs: what is sent to both servers.

use std::fmt::{self, Write as _};

use quorate_proto::jute::{Encode, Reader};
use quorate_proto::{
    Acl, AuthPacket, CreateRequest, CreateTtlRequest, MultiRequest, OpCode, PathRecord,
    SetAclRequest, SetDataRequest, SetWatches, SetWatches2, VersionRequest, WatchRequest,
    WatchedRequest,
};

use crate::process::Settings;

/// Connections that a program uses.
pub const SLOTS: usize = 4;

/// A session under the name that a program gives it; each server gives it an id of its own.
pub type Label = u32;

/// What is done on both servers, from fresh ones with these settings.
#[derive(Debug, Clone)]
pub struct Program {
    /// How the servers are started.
    pub settings: Settings,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// One thing that is done on a connection and has ended before the next begins.
///
/// A step whose connection or session does not exist (any more) does nothing, so that any part of
/// a program is a program.
#[derive(Debug, Clone)]
pub enum Step {
    /// Opens a connection in a free slot, with a session or for one.
    Connect {
        /// Which connection.
        slot: usize,
        /// The session's name.
        session: Label,
        /// What the handshake asks for.
        ask: Ask,
    },
    /// Requests in one write; every reply is awaited.
    Batch {
        /// Which connection.
        slot: usize,
        /// What is asked.
        requests: Vec<Request>,
    },
    /// Bytes that the server can only answer by closing.
    Bytes {
        /// Which connection.
        slot: usize,
        /// What is sent.
        bytes: Vec<u8>,
    },
    /// The client hangs up; its session stays.
    HangUp {
        /// Which connection.
        slot: usize,
    },
    /// The client closes its session.
    Close {
        /// Which connection.
        slot: usize,
    },
    /// The client stays silent until the server has closed its session and hung up.
    Expire {
        /// Which connection.
        slot: usize,
    },
    /// Every connection reads what has been sent to it so far.
    Drain,
    /// A four-letter word.
    Word(&'static str),
}

/// What a handshake asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Reattach the session that bears the name; otherwise make one.
    pub reattach: bool,
    /// How the password differs from the session's.
    pub password: Password,
    /// Session timeout in milliseconds.
    pub timeout: i32,
    /// The highest zxid that the client claims to know.
    pub last_zxid_seen: i64,
    /// The flag that old clients leave out.
    pub read_only: Option<bool>,
}

/// The password of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Password {
    /// The session's own; zeros for a new session.
    Right,
    /// One bit of it flipped.
    Wrong,
    /// Without its last byte.
    Short,
    /// None at all.
    Null,
}

/// A request, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client.
    pub xid: i32,
    /// Any number.
    pub op: i32,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// The bytes of several fields, one behind the other.
pub fn fields(parts: &[&dyn Encode]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        part.encode(&mut out);
    }
    out
}

/// `getData (4)`, `99` for a number without a name.
pub fn op_name(op: i32) -> String {
    match OpCode::try_from(op) {
        Ok(code) => format!("{code:?}"),
        Err(_) => op.to_string(),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Connect { slot, session, ask } => {
                let verb = if ask.reattach { "reattach" } else { "new" };
                let Ask {
                    password,
                    timeout,
                    last_zxid_seen,
                    read_only,
                    ..
                } = ask;
                write!(
                    f,
                    "[{slot}] connect, {verb} session s{session}, password {password:?}, timeout \
                     {timeout}, last zxid {last_zxid_seen:#x}, read only {read_only:?}"
                )
            }
            Step::Batch { slot, requests } => {
                for (i, request) in requests.iter().enumerate() {
                    let end = if i + 1 < requests.len() { "\n" } else { "" };
                    write!(f, "[{slot}] {request}{end}")?;
                }
                Ok(())
            }
            Step::Bytes { slot, bytes } => write!(f, "[{slot}] bytes {}", hex(bytes)),
            Step::HangUp { slot } => write!(f, "[{slot}] hang up"),
            Step::Close { slot } => write!(f, "[{slot}] close the session"),
            Step::Expire { slot } => write!(f, "[{slot}] let the session expire"),
            Step::Drain => f.write_str("every connection reads"),
            Step::Word(word) => write!(f, "four-letter word {word}"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { xid, op, body } = self;
        let name = op_name(*op);
        match describe(*op, body) {
            Some(text) => write!(f, "xid {xid}: {name} {text}"),
            None => write!(f, "xid {xid}: {name} {}", hex(body)),
        }
    }
}

/// The body of a request in words; `None` if it does not decode, or leaves bytes over.
fn describe(op: i32, body: &[u8]) -> Option<String> {
    let mut reader = Reader::new(body);
    let text = match OpCode::try_from(op).ok()? {
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer => {
            create(&reader.read::<CreateRequest<'_>>().ok()?)
        }
        OpCode::CreateTtl => {
            let CreateTtlRequest {
                path,
                data,
                acl,
                flags,
                ttl,
            } = reader.read().ok()?;
            let request = CreateRequest {
                path,
                data,
                acl,
                flags,
            };
            format!("{} ttl {ttl}", create(&request))
        }
        OpCode::Delete | OpCode::Check => {
            let r: VersionRequest<'_> = reader.read().ok()?;
            format!("{:?} version {}", r.path, r.version)
        }
        OpCode::Exists | OpCode::GetData | OpCode::GetChildren | OpCode::GetChildren2 => {
            let r: WatchedRequest<'_> = reader.read().ok()?;
            format!("{:?}{}", r.path, if r.watch { " watch" } else { "" })
        }
        OpCode::SetData => {
            let r: SetDataRequest<'_> = reader.read().ok()?;
            format!("{:?} {} version {}", r.path, data(r.data), r.version)
        }
        OpCode::SetAcl => {
            let r: SetAclRequest<'_> = reader.read().ok()?;
            format!(
                "{:?} {} version {}",
                r.path,
                acl_list(r.acl.as_deref()),
                r.version
            )
        }
        OpCode::GetAcl
        | OpCode::Sync
        | OpCode::GetEphemerals
        | OpCode::GetAllChildrenNumber
        | OpCode::DeleteContainer => format!("{:?}", reader.read::<PathRecord<'_>>().ok()?.path),
        OpCode::AddWatch | OpCode::CheckWatches | OpCode::RemoveWatches => {
            let r: WatchRequest<'_> = reader.read().ok()?;
            format!("{:?} kind {}", r.path, r.kind)
        }
        OpCode::SetWatches => format!("{:?}", reader.read::<SetWatches<'_>>().ok()?),
        OpCode::SetWatches2 => format!("{:?}", reader.read::<SetWatches2<'_>>().ok()?),
        OpCode::Auth => {
            let r: AuthPacket<'_> = reader.read().ok()?;
            format!("{} {}", r.scheme, data(r.auth))
        }
        OpCode::Multi | OpCode::MultiRead => {
            let mut text = String::from("{");
            for op in reader.read::<MultiRequest<'_>>().ok()?.ops {
                // The header of the operation is 9 bytes.
                let body = op.to_vec().split_off(9);
                let words = describe(op.op().number(), &body)?;
                let _ = write!(text, " {:?} {words};", op.op());
            }
            text + " }"
        }
        OpCode::Ping | OpCode::WhoAmI | OpCode::CloseSession => String::new(),
        _ => return None,
    };
    reader.is_empty().then_some(text)
}

fn create(request: &CreateRequest<'_>) -> String {
    let CreateRequest {
        path,
        data: bytes,
        acl,
        flags,
    } = request;
    format!(
        "{path:?} {} {} flags {flags}",
        data(*bytes),
        acl_list(acl.as_deref())
    )
}

fn acl_list(acl: Option<&[Acl<'_>]>) -> String {
    match acl {
        Some(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|acl| format!("{}:{}:{}", acl.id.scheme, acl.id.id, acl.perms.0))
                .collect();
            format!("[{}]", entries.join(", "))
        }
        None => "null ACL".to_owned(),
    }
}

/// Data as a message shows it: short data in full, of long data its length and a checksum.
pub fn data(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() <= 100 => format!("\"{}\"", bytes.escape_ascii()),
        Some(bytes) => {
            let sum = bytes.iter().fold(0u64, |sum, b| {
                sum.wrapping_mul(1_099_511_628_211) ^ u64::from(*b)
            });
            format!("{} bytes ({sum:x})", bytes.len())
        }
    }
}

/// Bytes as a message shows them.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes.iter().take(400) {
        let _ = write!(out, "{byte:02x}");
    }
    if bytes.len() > 400 {
        let _ = write!(out, "… {}", data(Some(bytes)));
    }
    out
}
