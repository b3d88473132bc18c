//! What a server answers from its own tree, and the watches that it leaves behind.

use quorate_proto::jute::{Decode, Encode as _, Reader};
use quorate_proto::{
    AddWatchMode, ErrorCode, ErrorResponse, EventType, MultiHeader, MultiOp, MultiRequest, OpCode,
    PathRecord, ReplyHeader, SetWatches, SetWatches2, WatchRequest, WatchedRequest, WatcherEvent,
    WatcherType, frame, path, xid,
};
use quorate_server::tree::{Node, Tree, Watches};

/// A connection, as watches and requests name it.
pub type ConnId = u64;

/// Is it answered without the leader?
pub fn is_local(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::Ping
            | OpCode::Exists
            | OpCode::GetData
            | OpCode::GetChildren
            | OpCode::GetChildren2
            | OpCode::GetAllChildrenNumber
            | OpCode::GetEphemerals
            | OpCode::MultiRead
            | OpCode::AddWatch
            | OpCode::RemoveWatches
            | OpCode::SetWatches
            | OpCode::SetWatches2
    )
}

/// A request, and what there is to answer it from.
pub struct Answerer<'a> {
    /// The server's tree.
    pub tree: &'a Tree,
    /// The server's watches.
    pub watches: &'a mut Watches<ConnId>,
    /// Who asks.
    pub conn: ConnId,
    /// Its session.
    pub session: i64,
}

type Outcome = Result<(), ErrorCode>;

fn decode<'a, T: Decode<'a>>(body: &'a [u8]) -> Result<T, ErrorCode> {
    T::from_slice(body).map_err(|_| ErrorCode::MARSHALLING_ERROR)
}

/// The frame of an event.
pub fn event(out: &mut Vec<u8>, zxid: i64, event: EventType, path: &str) {
    frame::write(out, |out| {
        let (xid, err) = (xid::NOTIFICATION, ErrorCode::OK);
        ReplyHeader { xid, zxid, err }.encode(out);
        WatcherEvent::new(event, path).encode(out);
    });
}

impl Answerer<'_> {
    /// Appends the answer, behind the events that it causes.
    pub fn answer(&mut self, op: OpCode, xid: i32, body: &[u8], out: &mut Vec<u8>) {
        if matches!(op, OpCode::SetWatches | OpCode::SetWatches2) {
            self.set_watches(op, body, out);
        }
        let zxid = self.tree.last_zxid();
        let mut answer = Vec::new();
        let err = self.body(op, body, &mut answer).err();
        frame::write(out, |out| {
            let err = err.unwrap_or(ErrorCode::OK);
            ReplyHeader { xid, zxid, err }.encode(out);
            if err == ErrorCode::OK {
                out.extend_from_slice(&answer);
            }
        });
    }

    fn node(&self, path: &str) -> Result<&Node, ErrorCode> {
        self.tree.get(path).ok_or(ErrorCode::NO_NODE)
    }

    fn body(&mut self, op: OpCode, body: &[u8], out: &mut Vec<u8>) -> Outcome {
        match op {
            OpCode::Exists | OpCode::GetData | OpCode::GetChildren | OpCode::GetChildren2 => {
                return self.read(op, &decode(body)?, out);
            }
            OpCode::GetAllChildrenNumber => {
                let PathRecord { path } = decode(body)?;
                let number = self.tree.count_descendants(self.node(path)?);
                i32::try_from(number).unwrap_or(i32::MAX).encode(out);
            }
            OpCode::GetEphemerals => {
                let prefix: Option<&str> = decode(body)?;
                let prefix = prefix.unwrap_or("/");
                let owned = self.tree.ephemerals(self.session).map(Node::path);
                let mut owned: Vec<&str> = owned.filter(|path| path.starts_with(prefix)).collect();
                owned.sort_unstable();
                owned.encode(out);
            }
            OpCode::MultiRead => return self.multi_read(&decode(body)?, out),
            OpCode::AddWatch => {
                let WatchRequest { path, kind } = decode(body)?;
                let mode =
                    AddWatchMode::try_from(kind).map_err(|_| ErrorCode::MARSHALLING_ERROR)?;
                self.watches
                    .watch_persistently(self.conn, &self.conn, path, mode);
                ErrorResponse { err: ErrorCode::OK }.encode(out);
            }
            OpCode::RemoveWatches => {
                let WatchRequest { path, kind } = decode(body)?;
                let kind = WatcherType::try_from(kind).map_err(|_| ErrorCode::MARSHALLING_ERROR)?;
                if !self.watches.remove(self.conn, path, kind) {
                    return Err(ErrorCode::NO_WATCHER);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, op: OpCode, request: &WatchedRequest<'_>, out: &mut Vec<u8>) -> Outcome {
        let WatchedRequest { path, watch } = *request;
        if self.tree.get(path).is_none() && op != OpCode::Exists {
            return Err(ErrorCode::NO_NODE);
        }
        if watch {
            let (watches, conn) = (&mut *self.watches, self.conn);
            match op {
                OpCode::Exists | OpCode::GetData => watches.watch_data(conn, &conn, path),
                _ => watches.watch_children(conn, &conn, path),
            }
        }
        let node = self.node(path)?;
        match op {
            OpCode::Exists => {}
            OpCode::GetData => node.data().encode(out),
            _ => self.names(node).encode(out),
        }
        if op != OpCode::GetChildren {
            node.stat().encode(out);
        }
        Ok(())
    }

    fn names<'t>(&'t self, node: &'t Node) -> Vec<&'t str> {
        let children = self.tree.children(node);
        children.map(|child| path::name(child.path())).collect()
    }

    fn multi_read(&self, request: &MultiRequest<'_>, out: &mut Vec<u8>) -> Outcome {
        for op in &request.ops {
            let (MultiOp::GetData(read) | MultiOp::GetChildren(read)) = op else {
                return Err(ErrorCode::MARSHALLING_ERROR);
            };
            match self.node(read.path) {
                Ok(node) => {
                    MultiHeader::result(op.op(), ErrorCode::OK).encode(out);
                    if op.op() == OpCode::GetData {
                        node.data().encode(out);
                        node.stat().encode(out);
                    } else {
                        self.names(node).encode(out);
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

    /// Sets watches again, and tells what has changed since.
    fn set_watches(&mut self, op: OpCode, body: &[u8], out: &mut Vec<u8>) {
        let Some(wanted) = decode_set_watches(op, body) else {
            return;
        };
        let (since, conn) = (wanted.relative_zxid, self.conn);
        let stat = |path: &str| self.tree.get(path).map(Node::stat);
        let mut tell = |kind, path: &str| event(out, xid::NOTIFICATION.into(), kind, path);
        for path in wanted.data {
            match stat(path) {
                None => tell(EventType::NodeDeleted, path),
                Some(stat) if stat.mzxid > since => tell(EventType::NodeDataChanged, path),
                Some(_) => self.watches.watch_data(conn, &conn, path),
            }
        }
        for path in wanted.exist {
            match stat(path) {
                Some(_) => tell(EventType::NodeCreated, path),
                None => self.watches.watch_data(conn, &conn, path),
            }
        }
        for path in wanted.child {
            match stat(path) {
                None => tell(EventType::NodeDeleted, path),
                Some(stat) if stat.pzxid > since => tell(EventType::NodeChildrenChanged, path),
                Some(_) => self.watches.watch_children(conn, &conn, path),
            }
        }
        for (paths, mode) in [
            (wanted.persistent, AddWatchMode::Persistent),
            (
                wanted.persistent_recursive,
                AddWatchMode::PersistentRecursive,
            ),
        ] {
            for path in paths {
                self.watches.watch_persistently(conn, &conn, path, mode);
            }
        }
    }
}

fn decode_set_watches(op: OpCode, body: &[u8]) -> Option<SetWatches2<'_>> {
    let mut reader = Reader::new(body);
    if op == OpCode::SetWatches2 {
        return reader.read().ok();
    }
    let SetWatches {
        relative_zxid,
        data,
        exist,
        child,
    } = reader.read().ok()?;
    Some(SetWatches2 {
        relative_zxid,
        data,
        exist,
        child,
        persistent: Vec::new(),
        persistent_recursive: Vec::new(),
    })
}
