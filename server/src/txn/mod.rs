//! Writes become transactions: each request is checked against the tree and the changes that are
//! still on their way to it, numbered, and encoded once, in the form in which it is logged.
//!
//! Everything that could refuse a write refuses it here, so that a transaction that has a number
//! always applies (spec: client protocol, section 5; server semantics, section 1).

mod acl;
mod pending;
mod reconfig;
mod request;

use std::sync::Arc;

use hashbrown::HashMap;
use quorate_proto::jute::Encode;
use quorate_proto::{
    Acl, CheckTxn, CreateContainerTxn, CreateMode, CreateSessionTxn, CreateTtlRequest,
    CreateTtlTxn, CreateTxn, DeleteTxn, ErrorCode, Id, MultiRequest, OpCode, Perms,
    ReconfigRequest, SetAclRequest, SetAclTxn, SetDataRequest, SetDataTxn, Txn, TxnDigest,
    TxnHeader, VersionRequest, path,
};

use crate::storage::log::encode_record;
use crate::tree::{self, DIGEST_VERSION, Limit, MAX_TTL, Owner, Tree};
use crate::zab::Membership;
use pending::{Pending, View};
pub use reconfig::Roster;
use request::{Single, WriteRequest};
pub use request::{is_write, makes_ephemerals};

/// What a server does and does not allow, as far as writes are concerned.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Checks no permissions.
    pub skip_acl: bool,
    /// Offers TTL nodes.
    pub ttl_nodes: bool,
    /// Refuses what goes over a hard quota.
    pub enforce_quota: bool,
    /// Puts the digest of the tree into every transaction.
    pub digest: bool,
    /// Lists the ephemerals of a session in the transaction that closes it.
    pub list_ephemerals: bool,
    /// Lets the members of the ensemble be changed.
    pub reconfig: bool,
    /// Authentication schemes that ACLs may name, beside `world`, `auth` and `ip`.
    pub digest_scheme: bool,
}

impl Rules {
    /// Checks what a server can tell of a client's write without the tree. One that passes may be
    /// forwarded: every leader can read it, and makes of it what its client meant.
    ///
    /// # Errors
    /// What to answer.
    pub fn check(&self, op: OpCode, body: &[u8]) -> Result<(), ErrorCode> {
        match WriteRequest::decode(op, body) {
            Ok(WriteRequest::Single(Single::Create(op, request))) => {
                self.owner(op, &request, 0).map(|_| ())
            }
            Ok(_) => Ok(()),
            Err(_) => Err(ErrorCode::MARSHALLING_ERROR),
        }
    }

    /// What the lifetime of a new znode will depend on. Flags and opcode must fit: an opcode says
    /// what is made, and the flags may not say otherwise where a time to live is concerned.
    fn owner(
        &self,
        op: OpCode,
        request: &CreateTtlRequest<'_>,
        session: i64,
    ) -> Result<Owner, ErrorCode> {
        let mode = CreateMode::try_from(request.flags).map_err(|_| ErrorCode::BAD_ARGUMENTS)?;
        if mode.is_ttl() && !self.ttl_nodes {
            return Err(ErrorCode::UNIMPLEMENTED);
        }
        if mode.is_ttl() != (op == OpCode::CreateTtl) {
            return Err(ErrorCode::BAD_ARGUMENTS);
        }
        match op {
            OpCode::CreateTtl if (1..=MAX_TTL).contains(&request.ttl) => {
                Ok(Owner::Ttl(request.ttl))
            }
            OpCode::CreateTtl => Err(ErrorCode::BAD_ARGUMENTS),
            OpCode::CreateContainer => Ok(Owner::Container),
            _ if mode.is_ephemeral() => Ok(Owner::Session(session)),
            _ => Ok(Owner::Persistent),
        }
    }
}

/// Who asks for a write, and when.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    /// The session; 0 for the server itself.
    pub session: i64,
    /// The request's xid.
    pub cxid: i32,
    /// The identities that the connection had when the request arrived.
    pub ids: &'a [Id<'static>],
    /// Wall clock, milliseconds since 1970.
    pub time: i64,
    /// Its server answers for the session, which no other needs to know: it owns nothing.
    pub local: bool,
}

/// A write that the server makes by itself.
#[derive(Debug, Clone, Copy)]
pub enum Internal<'a> {
    /// Opens a session with this timeout in milliseconds.
    CreateSession(i32),
    /// Ends a session, for its client or because it expired.
    CloseSession,
    /// Reaps a container or an expired TTL node.
    DeleteContainer(&'a str),
}

/// Checks and numbers writes.
#[derive(Debug)]
pub struct Preparer {
    rules: Rules,
    pending: Pending,
    last_zxid: i64,
    /// Sessions whose end is on its way to the tree, with the zxid.
    closing: HashMap<i64, i64>,
    /// Sessions whose beginning is on its way to the tree, with the zxid.
    opening: HashMap<i64, i64>,
    /// The ensemble, if there is one.
    roster: Option<Arc<Roster>>,
    /// The version of the last change of its members.
    reconfig: Option<u64>,
}

impl Preparer {
    /// Starts behind the last transaction of `tree`.
    pub fn new(tree: &Tree, rules: Rules) -> Self {
        Preparer::behind(tree.last_zxid(), tree, rules)
    }

    /// Starts on what `tree` shows, and numbers from behind `zxid`.
    pub fn behind(zxid: i64, tree: &Tree, rules: Rules) -> Self {
        Preparer {
            rules,
            pending: Pending::new(tree.digest().digest),
            last_zxid: zxid,
            closing: HashMap::new(),
            opening: HashMap::new(),
            roster: None,
            reconfig: None,
        }
    }

    /// Lets the members of an ensemble be changed.
    pub fn of(mut self, roster: Arc<Roster>) -> Self {
        self.roster = Some(roster);
        self
    }

    /// The number given out last.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// Forgets the changes up to `zxid`, which the tree shows now.
    pub fn applied(&mut self, zxid: i64) {
        self.pending.applied(zxid);
        self.opening.retain(|_, opened| *opened > zxid);
        self.closing.retain(|_, closed| *closed > zxid);
    }

    /// Turns a client's request into a transaction, appends its log record to `out`, and answers
    /// its zxid. A request that is refused becomes an error transaction. `None` if the bytes make
    /// no request: that is answered without a transaction.
    pub fn prepare(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        op: OpCode,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<i64> {
        match WriteRequest::decode(op, body) {
            Ok(WriteRequest::Multi(multi)) => {
                // A record is about as long as its request, unless identities make it longer.
                let limit = 4 * body.len() + acl::SIZE_LIMIT;
                Some(self.multi(tree, requester, &multi, limit, out))
            }
            Ok(WriteRequest::Single(request)) => {
                Some(self.record(requester, op, out, |this, zxid, out| {
                    this.single(tree, requester, zxid, &request, out)
                }))
            }
            // Apache numbers a multi before it reads it.
            Err(_) if op == OpCode::Multi => Some(self.record(requester, op, out, |_, _, _| {
                Err(ErrorCode::MARSHALLING_ERROR)
            })),
            Err(_) => None,
        }
    }

    /// Makes an error transaction of a request that cannot even be checked.
    pub fn refuse(&mut self, requester: Requester<'_>, err: ErrorCode, out: &mut Vec<u8>) -> i64 {
        self.record(requester, OpCode::Error, out, |_, _, _| Err(err))
    }

    /// Turns a write of the server itself into a transaction, as [`Preparer::prepare`] does.
    pub fn prepare_internal(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        write: Internal<'_>,
        out: &mut Vec<u8>,
    ) -> i64 {
        match write {
            Internal::CreateSession(timeout) => {
                self.record(requester, OpCode::CreateSession, out, |this, zxid, out| {
                    this.opening.insert(requester.session, zxid);
                    CreateSessionTxn { timeout }.encode(out);
                    Ok(())
                })
            }
            Internal::CloseSession => {
                self.record(requester, OpCode::CloseSession, out, |this, zxid, out| {
                    this.close_session(tree, requester.session, zxid, out);
                    Ok(())
                })
            }
            Internal::DeleteContainer(path) => self.record(
                requester,
                OpCode::DeleteContainer,
                out,
                |this, zxid, out| {
                    this.delete_container(tree, zxid, path)?;
                    DeleteTxn { path }.encode(out);
                    Ok(())
                },
            ),
        }
    }

    /// Numbers a transaction and appends its record; `body` appends the body, or refuses.
    fn record(
        &mut self,
        requester: Requester<'_>,
        op: OpCode,
        out: &mut Vec<u8>,
        body: impl FnOnce(&mut Self, i64, &mut Vec<u8>) -> Result<(), ErrorCode>,
    ) -> i64 {
        self.last_zxid += 1;
        let zxid = self.last_zxid;
        let mut header = TxnHeader {
            session_id: requester.session,
            cxid: requester.cxid,
            zxid,
            time: requester.time,
            op: op.number(),
        };
        encode_record(out, |out| {
            let start = out.len();
            header.encode(out);
            match body(self, zxid, out) {
                Ok(()) => self.encode_digest(out),
                Err(err) => {
                    out.truncate(start);
                    header.op = OpCode::Error.number();
                    header.encode(out);
                    err.encode(out);
                }
            }
        });
        zxid
    }

    fn encode_digest(&self, out: &mut Vec<u8>) {
        if self.rules.digest {
            TxnDigest {
                version: DIGEST_VERSION,
                digest: self.pending.digest(),
            }
            .encode(out);
        }
    }

    /// All operations or none, in a record that is not much longer than `limit`. The record of a
    /// multi that fails names the operations in front of the one that failed, and the error.
    fn multi(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        multi: &MultiRequest<'_>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> i64 {
        let begin = out.len();
        self.record(requester, OpCode::Multi, out, |this, zxid, out| {
            let savepoint = this.pending.savepoint();
            let mut failed = false;
            i32::try_from(multi.ops.len())
                .unwrap_or(i32::MAX)
                .encode(out);
            for op in &multi.ops {
                let start = out.len();
                op.op().encode(out);
                let outcome = if failed {
                    Err(ErrorCode::RUNTIME_INCONSISTENCY)
                } else if start - begin > limit {
                    Err(ErrorCode::INVALID_ACL)
                } else {
                    quorate_proto::frame::write(out, |out| {
                        this.single(tree, requester, zxid, &Single::from(op), out)
                    })
                };
                if let Err(err) = outcome {
                    failed = true;
                    out.truncate(start);
                    OpCode::Error.encode(out);
                    quorate_proto::frame::write(out, |out| err.encode(out));
                }
            }
            if failed {
                this.pending.roll_back(savepoint);
            }
            Ok(())
        })
    }

    /// Checks one operation, notes its changes and appends the body of its transaction.
    fn single(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        zxid: i64,
        request: &Single<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        match request {
            Single::Create(op, request) => self.create(tree, requester, zxid, *op, request, out),
            Single::Delete(request) => {
                self.check_session(tree, requester)?;
                self.delete(tree, requester, zxid, request)?;
                DeleteTxn { path: request.path }.encode(out);
                Ok(())
            }
            Single::SetData(request) => {
                self.check_session(tree, requester)?;
                let version = self.set_data(tree, requester, zxid, request)?;
                SetDataTxn {
                    path: request.path,
                    data: request.data,
                    version,
                }
                .encode(out);
                Ok(())
            }
            Single::SetAcl(request) => {
                self.check_session(tree, requester)?;
                self.set_acl(tree, requester, zxid, request, out)
            }
            Single::Check(request) => {
                self.check_session(tree, requester)?;
                valid_path(request.path)?;
                let view = self.pending.view(tree, request.path)?;
                self.check_acl(tree, requester, &view, Perms::READ)?;
                let version = next_version(view.stat.version, request.version)?;
                CheckTxn {
                    path: request.path,
                    version,
                }
                .encode(out);
                Ok(())
            }
            Single::Reconfig(request) => self.reconfigure(tree, requester, zxid, request, out),
        }
    }

    /// The new configuration becomes the data of a znode; what else it does is up to the servers.
    fn reconfigure(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        zxid: i64,
        request: &ReconfigRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        if !self.rules.reconfig {
            return Err(ErrorCode::RECONFIG_DISABLED);
        }
        self.check_session(tree, requester)?;
        // A server that stands alone has no members to change.
        let roster = self.roster.as_ref().ok_or(ErrorCode::UNIMPLEMENTED)?;
        let members = roster.change(request, self.reconfig)?;
        let view = self.pending.view(tree, tree::CONFIG_PATH)?;
        self.check_acl(tree, requester, &view, Perms::WRITE)?;
        let version = zxid.cast_unsigned();
        let config = Membership { version, members }.to_string();
        let txn = SetDataTxn {
            path: tree::CONFIG_PATH,
            data: Some(config.as_bytes()),
            version: -1,
        };
        let mut changed = view.clone();
        changed.set_data(txn.path, txn.data);
        changed.stat.version = txn.version;
        changed.stat.mzxid = zxid;
        changed.stat.mtime = requester.time;
        self.pending.replace(zxid, txn.path, &view, changed);
        txn.encode(out);
        self.reconfig = Some(version);
        Ok(())
    }

    fn check_session(&self, tree: &Tree, requester: Requester<'_>) -> Result<(), ErrorCode> {
        let session = requester.session;
        let known = tree.session_timeout(session).is_some() || self.opening.contains_key(&session);
        if (known || requester.local) && !self.closing.contains_key(&session) {
            Ok(())
        } else {
            Err(ErrorCode::SESSION_EXPIRED)
        }
    }

    fn check_acl(
        &self,
        tree: &Tree,
        requester: Requester<'_>,
        view: &View,
        wanted: Perms,
    ) -> Result<(), ErrorCode> {
        if self.rules.skip_acl || tree::permits(view.acl.entries(tree), wanted, requester.ids) {
            Ok(())
        } else {
            Err(ErrorCode::NO_AUTH)
        }
    }

    fn create(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        zxid: i64,
        op: OpCode,
        request: &CreateTtlRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let owner = self.rules.owner(op, request, requester.session)?;
        let owns = matches!(owner, Owner::Session(_));
        let local = requester.local && !owns;
        self.check_session(tree, Requester { local, ..requester })?;
        let parent_path = parent_of(request.path)?;
        let acl = acl::resolve(
            request.acl.as_deref(),
            requester.ids,
            self.rules.digest_scheme,
        )?;
        let parent = self.pending.view(tree, parent_path)?;
        self.check_acl(tree, requester, &parent, Perms::CREATE)?;
        let numbered;
        let path = if CreateMode::try_from(request.flags).is_ok_and(CreateMode::is_sequential) {
            numbered = sequential_path(request.path, parent.stat.cversion);
            &numbered
        } else {
            request.path
        };
        valid_path(path)?;
        if self.pending.view(tree, path).is_ok() {
            return Err(ErrorCode::NODE_EXISTS);
        }
        if matches!(
            Owner::from_stored(parent.stat.ephemeral_owner),
            Owner::Session(_)
        ) {
            return Err(ErrorCode::NO_CHILDREN_FOR_EPHEMERALS);
        }
        self.check_quota(tree, path, 1, length(request.data))?;
        let parent_cversion = parent.stat.cversion.wrapping_add(1);
        self.note_create(
            &parent,
            parent_path,
            path,
            request.data,
            &acl,
            owner,
            requester,
            zxid,
        );
        encode_create(out, op, path, request, acl, owner, parent_cversion);
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a fact of its own about the new znode"
    )]
    fn note_create(
        &mut self,
        parent: &View,
        parent_path: &str,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl<'_>],
        owner: Owner,
        requester: Requester<'_>,
        zxid: i64,
    ) {
        let mut changed = parent.clone();
        changed.children += 1;
        changed.stat.cversion = changed.stat.cversion.wrapping_add(1);
        changed.stat.pzxid = zxid;
        self.pending.replace(zxid, parent_path, parent, changed);
        let stat = tree::stat_at_birth(zxid, requester.time, owner);
        self.pending
            .add(zxid, path, View::new(path, data, stat, acl));
    }

    fn delete(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        zxid: i64,
        request: &VersionRequest<'_>,
    ) -> Result<(), ErrorCode> {
        let parent_path = parent_of(request.path)?;
        if tree::is_built_in(request.path) {
            return Err(ErrorCode::BAD_ARGUMENTS);
        }
        let parent = self.pending.view(tree, parent_path)?;
        self.check_acl(tree, requester, &parent, Perms::DELETE)?;
        let view = self.pending.view(tree, request.path)?;
        next_version(view.stat.version, request.version)?;
        if view.children > 0 {
            return Err(ErrorCode::NOT_EMPTY);
        }
        self.note_delete(zxid, parent_path, &parent, request.path, &view);
        Ok(())
    }

    fn delete_container(&mut self, tree: &Tree, zxid: i64, path: &str) -> Result<(), ErrorCode> {
        let parent_path = parent_of(path)?;
        let view = self.pending.view(tree, path)?;
        if view.children > 0 {
            return Err(ErrorCode::NOT_EMPTY);
        }
        if !matches!(
            Owner::from_stored(view.stat.ephemeral_owner),
            Owner::Container | Owner::Ttl(_)
        ) {
            return Err(ErrorCode::BAD_VERSION);
        }
        let parent = self.pending.view(tree, parent_path)?;
        self.note_delete(zxid, parent_path, &parent, path, &view);
        Ok(())
    }

    fn note_delete(
        &mut self,
        zxid: i64,
        parent_path: &str,
        parent: &View,
        path: &str,
        view: &View,
    ) {
        let mut changed = parent.clone();
        changed.children -= 1;
        changed.stat.pzxid = zxid;
        self.pending.replace(zxid, parent_path, parent, changed);
        self.pending.remove(zxid, path, view);
    }

    fn set_data(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        zxid: i64,
        request: &SetDataRequest<'_>,
    ) -> Result<i32, ErrorCode> {
        valid_path(request.path)?;
        let view = self.pending.view(tree, request.path)?;
        self.check_acl(tree, requester, &view, Perms::WRITE)?;
        self.check_quota(
            tree,
            request.path,
            0,
            length(request.data) - view.data_length,
        )?;
        let version = next_version(view.stat.version, request.version)?;
        let mut changed = view.clone();
        changed.set_data(request.path, request.data);
        changed.stat.version = version;
        changed.stat.mzxid = zxid;
        changed.stat.mtime = requester.time;
        self.pending.replace(zxid, request.path, &view, changed);
        Ok(version)
    }

    fn set_acl(
        &mut self,
        tree: &Tree,
        requester: Requester<'_>,
        zxid: i64,
        request: &SetAclRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        valid_path(request.path)?;
        let acl = acl::resolve(
            request.acl.as_deref(),
            requester.ids,
            self.rules.digest_scheme,
        )?;
        let view = self.pending.view(tree, request.path)?;
        self.check_acl(tree, requester, &view, Perms::ADMIN)?;
        let version = next_version(view.stat.aversion, request.version)?;
        let mut changed = view.clone();
        changed.set_acl(&acl);
        changed.stat.aversion = version;
        self.pending.replace(zxid, request.path, &view, changed);
        SetAclTxn {
            path: request.path,
            acl: Some(acl.into_owned()),
            version,
        }
        .encode(out);
        Ok(())
    }

    fn close_session(&mut self, tree: &Tree, session: i64, zxid: i64, out: &mut Vec<u8>) {
        self.closing.insert(session, zxid);
        let paths = self.pending.ephemerals(tree, session);
        for path in &paths {
            let Some(parent_path) = path::parent(path) else {
                continue;
            };
            if let (Ok(parent), Ok(view)) = (
                self.pending.view(tree, parent_path),
                self.pending.view(tree, path),
            ) {
                self.note_delete(zxid, parent_path, &parent, path, &view);
            }
        }
        if self.rules.list_ephemerals {
            let paths = paths.iter().map(|path| &**path).collect();
            Txn::CloseSession(Some(paths)).encode(out);
        }
    }

    /// Would the quota that covers `path` still hold? Looks at committed usage only.
    fn check_quota(
        &self,
        tree: &Tree,
        path: &str,
        count: i64,
        bytes: i64,
    ) -> Result<(), ErrorCode> {
        if !self.rules.enforce_quota {
            return Ok(());
        }
        let Some(target) = tree.quota_covering(path) else {
            return Ok(());
        };
        let Some((limits, usage)) = tree.quota(target) else {
            return Ok(());
        };
        let limits = [
            ("count", limits.count_limit(), usage.count, count),
            ("bytes", limits.bytes_limit(), usage.bytes, bytes),
        ];
        for (what, limit, usage, delta) in limits {
            // Clients can write any usage.
            let usage = usage.saturating_add(delta);
            match limit {
                Some(Limit::Hard(most)) if delta != 0 && usage > most => {
                    return Err(ErrorCode::QUOTA_EXCEEDED);
                }
                Some(Limit::Soft(most)) if delta != 0 && usage > most => {
                    tracing::warn!(
                        path = target,
                        what,
                        usage,
                        limit = most,
                        "soft quota exceeded"
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn encode_create(
    out: &mut Vec<u8>,
    op: OpCode,
    path: &str,
    request: &CreateTtlRequest<'_>,
    acl: std::borrow::Cow<'_, [Acl<'_>]>,
    owner: Owner,
    parent_cversion: i32,
) {
    let data = request.data;
    let acl = Some(acl.into_owned());
    match op {
        OpCode::CreateContainer => {
            CreateContainerTxn {
                path,
                data,
                acl,
                parent_cversion,
            }
            .encode(out);
        }
        OpCode::CreateTtl => {
            CreateTtlTxn {
                path,
                data,
                acl,
                parent_cversion,
                ttl: request.ttl,
            }
            .encode(out);
        }
        _ => {
            let ephemeral = matches!(owner, Owner::Session(_));
            CreateTxn {
                path,
                data,
                acl,
                ephemeral,
                parent_cversion,
            }
            .encode(out);
        }
    }
}

fn valid_path(path: &str) -> Result<(), ErrorCode> {
    path::validate(path).map_err(|_| ErrorCode::BAD_ARGUMENTS)
}

/// The parent of what is to be created or deleted; the root is seen as its own parent.
fn parent_of(path: &str) -> Result<&str, ErrorCode> {
    if path.contains('\0') {
        return Err(ErrorCode::BAD_ARGUMENTS);
    }
    match path.rfind('/') {
        None => Err(ErrorCode::BAD_ARGUMENTS),
        Some(0) => Ok("/"),
        Some(at) => Ok(&path[..at]),
    }
}

/// Ten digits at least, the sign in front (spec: client protocol, section 7.4).
fn sequential_path(path: &str, counter: i32) -> String {
    format!("{path}{counter:010}")
}

/// The version after `current`, if `expected` allows the change.
fn next_version(current: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected == -1 || expected == current {
        Ok(current.wrapping_add(1))
    } else {
        Err(ErrorCode::BAD_VERSION)
    }
}

fn length(data: Option<&[u8]>) -> i64 {
    data.map_or(0, |data| data.len() as i64)
}

#[cfg(test)]
mod tests;
