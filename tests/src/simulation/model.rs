//! What clients ask, what they are answered, and a tree that is simple enough to be right.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_proto::jute::Encode;
use quorate_proto::{
    Acl, CreateMode, CreateRequest, ErrorCode, OpCode, Perms, ReconfigRequest, SetDataRequest, Txn,
    TxnEntry, VersionRequest, path,
};
use quorate_server::tree::Tree;

/// What a client asks. Data is a number that no other write has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Opens the session.
    Open,
    /// Ends the session.
    Close,
    /// Creates a znode.
    Create {
        /// Where.
        path: String,
        /// What is in it.
        data: u64,
        /// How it lives.
        mode: CreateMode,
    },
    /// Replaces the data of a znode.
    Set {
        /// Which.
        path: String,
        /// What is in it from now on.
        data: u64,
        /// The version that it must have, or -1.
        version: i32,
    },
    /// Deletes a znode.
    Delete {
        /// Which.
        path: String,
        /// The version that it must have, or -1.
        version: i32,
    },
    /// Changes the members of the ensemble.
    Reconfig {
        /// Those that come, or come to be something else.
        joining: Option<String>,
        /// Those that leave.
        leaving: Option<String>,
        /// All that there are to be, instead.
        members: Option<String>,
    },
    /// Reads a znode.
    Get {
        /// Which.
        path: String,
    },
    /// Reads the names of a znode's children.
    Children {
        /// Which.
        path: String,
    },
    /// Waits until what was committed when it was asked can be read.
    Sync,
}

/// The timeout of every session.
pub const SESSION_TIMEOUT: i32 = 2_000;

impl Op {
    /// Does the leader number it?
    pub fn is_write(&self) -> bool {
        !matches!(self, Op::Get { .. } | Op::Children { .. } | Op::Sync)
    }

    /// Its number in the protocol.
    pub fn code(&self) -> OpCode {
        match self {
            Op::Open => OpCode::CreateSession,
            Op::Close => OpCode::CloseSession,
            Op::Create { .. } => OpCode::Create,
            Op::Set { .. } => OpCode::SetData,
            Op::Delete { .. } => OpCode::Delete,
            Op::Reconfig { .. } => OpCode::Reconfig,
            Op::Get { .. } => OpCode::GetData,
            Op::Children { .. } => OpCode::GetChildren,
            Op::Sync => OpCode::Sync,
        }
    }

    /// The body of the request that a learner forwards.
    pub fn body(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Op::Open => SESSION_TIMEOUT.encode(&mut out),
            Op::Create { path, data, mode } => CreateRequest {
                path,
                data: Some(data.to_string().as_bytes()),
                acl: Some(vec![Acl::world(Perms::ALL)]),
                flags: *mode as i32,
            }
            .encode(&mut out),
            Op::Set {
                path,
                data,
                version,
            } => SetDataRequest {
                path,
                data: Some(data.to_string().as_bytes()),
                version: *version,
            }
            .encode(&mut out),
            Op::Delete { path, version } => VersionRequest {
                path,
                version: *version,
            }
            .encode(&mut out),
            Op::Reconfig {
                joining,
                leaving,
                members,
            } => ReconfigRequest {
                joining: joining.as_deref(),
                leaving: leaving.as_deref(),
                new_members: members.as_deref(),
                config_id: -1,
            }
            .encode(&mut out),
            _ => {}
        }
        out.into()
    }
}

/// What a client is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The znode at this path was created.
    Created(String),
    /// It was refused.
    Failed(ErrorCode),
    /// Data and version of the znode, if there is one.
    Node(Option<(u64, i32)>),
    /// The names of the children in order, if there is such a znode.
    Names(Option<Vec<String>>),
}

impl Answer {
    /// What a client is answered whose write became `entry`.
    pub fn to(entry: &TxnEntry<'_>) -> Self {
        match &entry.txn {
            Txn::Error(err) => Answer::Failed(*err),
            Txn::Create(create) => Answer::Created(create.path.to_owned()),
            _ => Answer::Done,
        }
    }
}

#[derive(Debug, Default)]
struct Znode {
    data: u64,
    version: i32,
    /// How many children it has ever had.
    births: i32,
    owner: Option<i64>,
}

/// The tree as clients see it.
#[derive(Debug)]
pub struct Model {
    znodes: BTreeMap<String, Znode>,
    sessions: BTreeSet<i64>,
}

impl Default for Model {
    fn default() -> Self {
        let mut znodes = BTreeMap::new();
        for path in ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"] {
            znodes.insert(path.to_owned(), Znode::default());
        }
        Model {
            znodes,
            sessions: BTreeSet::new(),
        }
    }
}

impl Model {
    /// Does what a session asks.
    pub fn apply(&mut self, session: i64, op: &Op) -> Answer {
        match self.outcome(session, op) {
            Ok(answer) => answer,
            Err(err) => Answer::Failed(err),
        }
    }

    fn outcome(&mut self, session: i64, op: &Op) -> Result<Answer, ErrorCode> {
        match op {
            Op::Open => {
                self.sessions.insert(session);
            }
            Op::Close => {
                self.sessions.remove(&session);
                self.znodes.retain(|_, znode| znode.owner != Some(session));
            }
            Op::Create { path, data, mode } => {
                return self.create(session, path, *data, *mode);
            }
            Op::Set {
                path,
                data,
                version,
            } => {
                self.check_session(session)?;
                let znode = self.znodes.get_mut(path).ok_or(ErrorCode::NO_NODE)?;
                check_version(znode, *version)?;
                znode.version += 1;
                znode.data = *data;
            }
            Op::Delete { path, version } => {
                self.check_session(session)?;
                let znode = self.znodes.get(path).ok_or(ErrorCode::NO_NODE)?;
                check_version(znode, *version)?;
                if self.names(path).next().is_some() {
                    return Err(ErrorCode::NOT_EMPTY);
                }
                self.znodes.remove(path);
            }
            Op::Get { path } => {
                let znode = self.znodes.get(path);
                return Ok(Answer::Node(znode.map(|znode| (znode.data, znode.version))));
            }
            Op::Children { path } => {
                let exists = self.znodes.contains_key(path);
                return Ok(Answer::Names(exists.then(|| self.names(path).collect())));
            }
            // What becomes of it depends on who is there.
            Op::Sync | Op::Reconfig { .. } => {}
        }
        Ok(Answer::Done)
    }

    fn create(
        &mut self,
        session: i64,
        path: &str,
        data: u64,
        mode: CreateMode,
    ) -> Result<Answer, ErrorCode> {
        self.check_session(session)?;
        let parent = path::parent(path).ok_or(ErrorCode::BAD_ARGUMENTS)?;
        let parent = self.znodes.get_mut(parent).ok_or(ErrorCode::NO_NODE)?;
        let (births, orphan) = (parent.births, parent.owner.is_some());
        let path = match mode.is_sequential() {
            true => format!("{path}{births:010}"),
            false => path.to_owned(),
        };
        if self.znodes.contains_key(&path) {
            return Err(ErrorCode::NODE_EXISTS);
        }
        if orphan {
            return Err(ErrorCode::NO_CHILDREN_FOR_EPHEMERALS);
        }
        let znode = Znode {
            data,
            owner: mode.is_ephemeral().then_some(session),
            ..Znode::default()
        };
        if let Some(parent) = path::parent(&path).and_then(|path| self.znodes.get_mut(path)) {
            parent.births += 1;
        }
        self.znodes.insert(path.clone(), znode);
        Ok(Answer::Created(path))
    }

    fn check_session(&self, session: i64) -> Result<(), ErrorCode> {
        match self.sessions.contains(&session) {
            true => Ok(()),
            false => Err(ErrorCode::SESSION_EXPIRED),
        }
    }

    fn names(&self, parent: &str) -> impl Iterator<Item = String> {
        let below = self.znodes.keys();
        below
            .filter(move |path| path.len() > 1 && path::parent(path) == Some(parent))
            .map(|path| path::name(path).to_owned())
    }
}

fn check_version(znode: &Znode, expected: i32) -> Result<(), ErrorCode> {
    match expected == -1 || expected == znode.version {
        true => Ok(()),
        false => Err(ErrorCode::BAD_VERSION),
    }
}

/// Everything that a tree holds, in order.
pub fn dump(tree: &Tree) -> Vec<String> {
    let mut left = vec!["/".to_owned()];
    let mut lines: Vec<String> = Vec::new();
    while let Some(node) = left.pop().and_then(|path| tree.get(&path)) {
        let (path, stat) = (node.path(), node.persisted());
        lines.push(format!(
            "{path} {:?} {stat:?} {:?}",
            node.data(),
            tree.acl(node)
        ));
        left.extend(tree.children(node).map(|child| child.path().to_owned()));
    }
    lines.extend(tree.sessions().map(|session| format!("{session:x?}")));
    lines.sort_unstable();
    lines
}
