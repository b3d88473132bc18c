//! Requests that a server answers by itself, from its tree and its watches.

use std::sync::Arc;

use parking_lot::MutexGuard;
use quorate_proto::jute::{Decode, DecodeError, Encode, Reader};
use quorate_proto::{
    AddWatchMode, ClientInfo, ErrorCode, ErrorResponse, EventType, GetAllChildrenNumberResponse,
    Id, MultiHeader, MultiOp, MultiRequest, OpCode, PathRecord, Perms, ReplyHeader, SetWatches,
    SetWatches2, Stat, WatchRequest, WatchedRequest, WatcherType, WhoAmIResponse, frame, xid,
};

use super::Connection;
use super::auth;
use crate::service::{Service, encode_event};
use crate::tree::{self, Node, Tree, Watches};

/// Bytes that one multiRead may read: its operations are small, and what they read need not be.
const MULTI_READ_LIMIT: usize = 64 << 20;

/// A request that needs no transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    /// The identities that the connection had when the request arrived.
    pub(crate) ids: &'a [Id<'static>],
    pub(crate) xid: i32,
    pub(crate) op: OpCode,
    pub(crate) body: &'a [u8],
}

/// Is `op` answered here?
pub(crate) fn is_local(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::Exists
            | OpCode::GetData
            | OpCode::GetAcl
            | OpCode::GetChildren
            | OpCode::GetChildren2
            | OpCode::GetAllChildrenNumber
            | OpCode::GetEphemerals
            | OpCode::MultiRead
            | OpCode::WhoAmI
            | OpCode::Ping
            | OpCode::AddWatch
            | OpCode::SetWatches
            | OpCode::SetWatches2
            | OpCode::CheckWatches
            | OpCode::RemoveWatches
            | OpCode::Sync
    )
}

/// Appends the answer, behind the events that answering causes.
pub(crate) fn answer(service: &Service, tree: &Tree, request: &Request<'_>, out: &mut Vec<u8>) {
    if matches!(request.op, OpCode::SetWatches | OpCode::SetWatches2) {
        set_watches(service, tree, request, out);
        return;
    }
    let xid = if request.op == OpCode::Ping {
        xid::PING
    } else {
        request.xid
    };
    let zxid = tree.last_zxid();
    frame::write(out, |out| {
        let start = out.len();
        ReplyHeader {
            xid,
            zxid,
            err: ErrorCode::OK,
        }
        .encode(out);
        let body = out.len();
        if let Err(err) = (Answerer {
            service,
            tree,
            request,
        })
        .body(out)
        {
            out.truncate(body);
            // The header is the one part that an error changes.
            out[start + 12..start + 16].copy_from_slice(&err.0.to_be_bytes());
            if request.op == OpCode::MultiRead {
                MultiHeader::END.encode(out);
            }
        }
    });
}

/// The watches, to add some for `connection`. None once that is gone: it would never take them away.
fn watches_for<'a>(
    service: &'a Service,
    connection: &Connection,
) -> Option<MutexGuard<'a, Watches<Arc<Connection>>>> {
    let watches = service.watches.lock();
    (!connection.is_gone()).then_some(watches)
}

/// A request that cannot be decoded.
fn malformed(_: DecodeError) -> ErrorCode {
    ErrorCode::MARSHALLING_ERROR
}

struct Answerer<'a> {
    service: &'a Service,
    tree: &'a Tree,
    request: &'a Request<'a>,
}

impl<'a> Answerer<'a> {
    fn decode<T: Decode<'a>>(&self) -> Result<T, ErrorCode> {
        T::from_slice(self.request.body).map_err(malformed)
    }

    fn body(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        match self.request.op {
            OpCode::GetData => self.get_data(out),
            OpCode::Exists => self.exists(out),
            OpCode::GetChildren | OpCode::GetChildren2 => self.get_children(out),
            OpCode::GetAcl => self.get_acl(out),
            OpCode::GetAllChildrenNumber => self.get_all_children_number(out),
            OpCode::GetEphemerals => self.get_ephemerals(out),
            OpCode::MultiRead => self.multi_read(out),
            OpCode::WhoAmI => self.who_am_i(out),
            OpCode::AddWatch => self.add_watch(out),
            OpCode::CheckWatches | OpCode::RemoveWatches => self.check_or_remove_watches(),
            OpCode::Sync => {
                self.decode::<PathRecord<'_>>()?.encode(out);
                Ok(())
            }
            // A session that no other server knows ends without a transaction.
            OpCode::Ping | OpCode::CloseSession => Ok(()),
            _ => Err(ErrorCode::UNIMPLEMENTED),
        }
    }

    fn permits(&self, node: &Node, wanted: Perms) -> bool {
        self.service.config.skip_acl || self.tree.acl(node).permits(wanted, self.request.ids)
    }

    fn readable(&self, path: &str) -> Result<&'a Node, ErrorCode> {
        let node = self.tree.get(path).ok_or(ErrorCode::NO_NODE)?;
        if self.permits(node, Perms::READ) {
            Ok(node)
        } else {
            Err(ErrorCode::NO_AUTH)
        }
    }

    fn watch(&self, add: impl FnOnce(&mut Watches<Arc<Connection>>, u64, &Arc<Connection>)) {
        let connection = self.request.connection;
        if let Some(mut watches) = watches_for(self.service, connection) {
            add(&mut watches, connection.id(), connection);
        }
    }

    fn get_data(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let WatchedRequest { path, watch } = self.decode()?;
        let node = self.readable(path)?;
        if watch {
            self.watch(|watches, id, sink| watches.watch_data(id, sink, path));
        }
        node.data().encode(out);
        node.stat().encode(out);
        Ok(())
    }

    fn exists(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let WatchedRequest { path, watch } = self.decode()?;
        if path.contains('\0') {
            return Err(ErrorCode::BAD_ARGUMENTS);
        }
        let node = self.tree.get(path);
        if node.is_some_and(|node| !self.permits(node, Perms::READ)) {
            return Err(ErrorCode::NO_AUTH);
        }
        if watch {
            self.watch(|watches, id, sink| watches.watch_data(id, sink, path));
        }
        node.ok_or(ErrorCode::NO_NODE)?.stat().encode(out);
        Ok(())
    }

    fn get_children(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let WatchedRequest { path, watch } = self.decode()?;
        let node = self.readable(path)?;
        if watch {
            self.watch(|watches, id, sink| watches.watch_children(id, sink, path));
        }
        self.encode_children(node, out);
        if self.request.op == OpCode::GetChildren2 {
            node.stat().encode(out);
        }
        Ok(())
    }

    fn encode_children(&self, node: &Node, out: &mut Vec<u8>) {
        let children = self.tree.children(node);
        i32::try_from(children.len())
            .unwrap_or(i32::MAX)
            .encode(out);
        for child in children {
            quorate_proto::path::name(child.path()).encode(out);
        }
    }

    fn get_acl(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let PathRecord { path } = self.decode()?;
        let node = self.tree.get(path).ok_or(ErrorCode::NO_NODE)?;
        if !self.permits(node, Perms::READ | Perms::ADMIN) {
            return Err(ErrorCode::NO_AUTH);
        }
        let acl = self.tree.acl(node);
        if self.permits(node, Perms::ADMIN) {
            out.extend_from_slice(acl.encoded());
        } else {
            tree::masked(acl.entries()).encode(out);
        }
        node.stat().encode(out);
        Ok(())
    }

    fn get_all_children_number(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let PathRecord { path } = self.decode()?;
        let node = self.readable(path)?;
        let total = i32::try_from(self.tree.count_descendants(node)).unwrap_or(i32::MAX);
        GetAllChildrenNumberResponse { total }.encode(out);
        Ok(())
    }

    fn get_ephemerals(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let prefix: Option<&str> = self.decode()?;
        let prefix = prefix
            .filter(|prefix| !prefix.trim().is_empty())
            .unwrap_or("/");
        let session = self
            .request
            .connection
            .session()
            .map_or(0, |session| session.id());
        let owned = self.tree.ephemerals(session).map(Node::path);
        let paths: Vec<&str> = owned.filter(|path| path.starts_with(prefix)).collect();
        paths.encode(out);
        Ok(())
    }

    /// Each read succeeds or fails by itself.
    fn multi_read(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let MultiRequest { ops } = self.decode()?;
        if !ops.iter().all(MultiOp::is_read) {
            return Err(ErrorCode::MARSHALLING_ERROR);
        }
        let start = out.len();
        for op in &ops {
            if out.len() - start > MULTI_READ_LIMIT {
                return Err(ErrorCode::MARSHALLING_ERROR);
            }
            let (MultiOp::GetData(request) | MultiOp::GetChildren(request)) = op else {
                continue;
            };
            match self.readable(request.path) {
                Ok(node) => {
                    MultiHeader::result(op.op(), ErrorCode::OK).encode(out);
                    if op.op() == OpCode::GetData {
                        node.data().encode(out);
                        node.stat().encode(out);
                    } else {
                        self.encode_children(node, out);
                    }
                }
                Err(err) => {
                    MultiHeader::result(OpCode::Error, err).encode(out);
                    ErrorResponse { err }.encode(out);
                }
            }
        }
        MultiHeader::END.encode(out);
        Ok(())
    }

    fn who_am_i(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let info = |id: &'a Id<'static>| ClientInfo {
            scheme: &id.scheme,
            user: auth::user(id),
        };
        WhoAmIResponse {
            infos: self.request.ids.iter().map(info).collect(),
        }
        .encode(out);
        Ok(())
    }

    fn add_watch(&self, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let WatchRequest { path, kind } = self.decode()?;
        let mode = AddWatchMode::try_from(kind).map_err(malformed)?;
        self.watch(|watches, id, sink| watches.watch_persistently(id, sink, path, mode));
        ErrorResponse { err: ErrorCode::OK }.encode(out);
        Ok(())
    }

    fn check_or_remove_watches(&self) -> Result<(), ErrorCode> {
        let WatchRequest { path, kind } = self.decode()?;
        let kind = WatcherType::try_from(kind).map_err(malformed)?;
        let watcher = self.request.connection.id();
        let mut watches = self.service.watches.lock();
        let there = watches.contains(watcher, path, kind);
        if self.request.op == OpCode::RemoveWatches {
            watches.remove(watcher, path, kind);
        }
        if there {
            Ok(())
        } else {
            Err(ErrorCode::NO_WATCHER)
        }
    }
}

/// Sets watches again after a reconnect: what has changed since is told at once
/// (spec: client protocol, section 10.4).
fn set_watches(service: &Service, tree: &Tree, request: &Request<'_>, out: &mut Vec<u8>) {
    let decoded = decode_set_watches(request);
    let err = match &decoded {
        Ok(_) => ErrorCode::OK,
        Err(_) => ErrorCode::MARSHALLING_ERROR,
    };
    if let Ok(watches) = decoded {
        reconcile(service, tree, request.connection, &watches, out);
    }
    let header = ReplyHeader {
        xid: request.xid,
        zxid: tree.last_zxid(),
        err,
    };
    frame::write(out, |out| header.encode(out));
}

fn decode_set_watches<'a>(request: &Request<'a>) -> Result<SetWatches2<'a>, DecodeError> {
    let mut reader = Reader::new(request.body);
    if request.op == OpCode::SetWatches2 {
        return reader.read();
    }
    let SetWatches {
        relative_zxid,
        data,
        exist,
        child,
    } = reader.read()?;
    let (persistent, persistent_recursive) = (Vec::new(), Vec::new());
    Ok(SetWatches2 {
        relative_zxid,
        data,
        exist,
        child,
        persistent,
        persistent_recursive,
    })
}

fn reconcile(
    service: &Service,
    tree: &Tree,
    connection: &Arc<Connection>,
    watches: &SetWatches2<'_>,
    out: &mut Vec<u8>,
) {
    let mut tell = |event, path| encode_event(out, xid::NOTIFICATION.into(), event, path);
    let Some(mut table) = watches_for(service, connection) else {
        return;
    };
    let id = connection.id();
    let stat = |path: &str| tree.get(path).map(Node::stat);
    for path in &watches.data {
        match stat(path) {
            None => tell(EventType::NodeDeleted, path),
            Some(Stat { mzxid, .. }) if mzxid > watches.relative_zxid => {
                tell(EventType::NodeDataChanged, path);
            }
            Some(_) => table.watch_data(id, connection, path),
        }
    }
    for path in &watches.exist {
        match stat(path) {
            Some(_) => tell(EventType::NodeCreated, path),
            None => table.watch_data(id, connection, path),
        }
    }
    for path in &watches.child {
        match stat(path) {
            None => tell(EventType::NodeDeleted, path),
            Some(Stat { pzxid, .. }) if pzxid > watches.relative_zxid => {
                tell(EventType::NodeChildrenChanged, path);
            }
            Some(_) => table.watch_children(id, connection, path),
        }
    }
    for path in &watches.persistent {
        table.watch_persistently(id, connection, path, AddWatchMode::Persistent);
    }
    for path in &watches.persistent_recursive {
        table.watch_persistently(id, connection, path, AddWatchMode::PersistentRecursive);
    }
}
