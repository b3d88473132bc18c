//! The handle and its operations.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use quorate_proto::jute::Encode;
use quorate_proto::path::{self, PathError};
use quorate_proto::{
    Acl, AddWatchMode, Create2Response, ErrorCode, GetAclResponse, GetAllChildrenNumberResponse,
    GetChildren2Response, GetChildrenResponse, GetDataResponse, GetEphemeralsResponse, OpCode,
    PathRecord, SetDataRequest, Stat, StatResponse, VersionRequest, WatchRequest as WatchRecord,
    WatchedRequest, WhoAmIResponse,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::builder::ClientBuilder;
use crate::chroot::Chroot;
use crate::create::{CreateOptions, Created, Data, encode_acl};
use crate::driver::{Command, Control, Credential};
use crate::error::Error;
use crate::request::{self, Answer, Decoder, Reply, Request, Subject, WatchRequest};
use crate::retry::RetryPolicy;
use crate::session::{Session, Status};
use crate::state::State;
use crate::transaction::{MultiRead, Transaction};
use crate::watch::{OneshotWatch, PersistentWatch, Subscription, WatchKind};

/// The version that matches every version.
pub(crate) const ANY_VERSION: i32 = -1;
/// Bytes of a frame besides its path and data, as a rule: enough for an open ACL.
const FRAME_OVERHEAD: usize = 64;
/// The znode that describes the ensemble, outside of every chroot.
const CONFIG_PATH: &str = "/zookeeper/config";

/// A session with an ensemble.
///
/// A handle: clones are cheap and share the session, whose socket is owned by a task in the
/// background. The session is closed when [`close`](Client::close) is called, or in the background
/// when the last handle is dropped.
///
/// # Order
///
/// Every operation is queued when its method is called, not when its [`Reply`] is first polled;
/// the ensemble executes the operations of a session in that order. A read sees every write that
/// was issued before it.
///
/// # Cancellation
///
/// Every future of this crate may be dropped at any time. Dropping a [`Reply`] gives up the wait,
/// not the request; dropping a watch removes it.
///
/// # Connections
///
/// While there is no connection, new requests wait for the next one, as long as the session lives.
/// When a connection is lost, what was sent or queued by then fails with [`Error::ConnectionLoss`],
/// and [`Error::outcome`] tells what that means for each.
///
/// ```no_run
/// # async fn demo() -> Result<(), quorate_client::Error> {
/// use quorate_client::{Client, CreateMode};
///
/// let client = Client::connect("localhost:2181").await?;
/// client.create("/greeting", "hello", CreateMode::Ephemeral).await?;
/// let (data, stat) = client.get_data("/greeting").await?;
/// assert_eq!(&data[..], b"hello");
/// client.set_data("/greeting", "bye", stat.version).await?;
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    chroot: Chroot,
}

/// What all handles of a session share.
pub(crate) struct Shared {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) control: mpsc::UnboundedSender<Control>,
    pub(crate) status: Arc<Status>,
    pub(crate) runtime: Handle,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_frame: usize,
    pub(crate) max_queued: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails if the session is over.
        let _ = self.control.send(Control::Close(None));
    }
}

/// Setting up, the session, its state and its end.
impl Client {
    pub(crate) fn new(shared: Shared, chroot: Chroot) -> Self {
        Client {
            shared: Arc::new(shared),
            chroot,
        }
    }

    /// Connects with the default settings; see [`ClientBuilder::connect`].
    ///
    /// # Errors
    ///
    /// As for [`ClientBuilder::connect`].
    pub async fn connect(servers: &str) -> Result<Client, Error> {
        Client::builder().connect(servers).await
    }

    /// Settings for a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The subtree that this handle takes for the whole tree; `/` without a chroot.
    pub fn chroot(&self) -> &str {
        self.chroot.as_str()
    }

    /// A handle of the same session that takes the subtree at `path` for the whole tree.
    ///
    /// # Errors
    ///
    /// If `path` cannot name a znode.
    pub fn with_chroot(&self, path: &str) -> Result<Client, Error> {
        path::validate(path)?;
        Ok(Client {
            shared: Arc::clone(&self.shared),
            chroot: self.chroot.enter(path),
        })
    }

    /// How the client stands with the ensemble right now.
    pub fn state(&self) -> State {
        self.shared.status.state()
    }

    /// A channel that holds the state and tells of its changes.
    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.shared.status.subscribe()
    }

    /// The state, then every change of it, until a final one. A slow reader misses states in
    /// between, but not that there was a change: [`State::Connected`] twice in a row means that
    /// the connection was away.
    pub fn states(&self) -> impl Stream<Item = State> + Send + Unpin + use<> {
        let mut states = self.watch_state();
        Box::pin(async_stream::stream! {
            loop {
                let state = *states.borrow_and_update();
                yield state;
                if state.is_over() || states.changed().await.is_err() {
                    break;
                }
            }
        })
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    ///
    /// The reason, if the session is over. Cancel safe.
    pub async fn connected(&self) -> Result<(), Error> {
        let mut states = self.watch_state();
        let settled = states.wait_for(|state| state.is_connected() || state.is_over());
        match settled.await {
            Ok(state) if state.is_connected() => Ok(()),
            _ => Err(self.shared.status.end()),
        }
    }

    /// The session: id, password, negotiated timeout and the last zxid seen. `None` before the
    /// first connection.
    pub fn session(&self) -> Option<Session> {
        self.shared.status.session()
    }

    /// When the last request or heartbeat that was answered had been sent. The ensemble has heard
    /// of this session at that time or later.
    pub fn last_heartbeat(&self) -> Option<Instant> {
        self.shared.status.last_heartbeat()
    }

    /// When the ensemble can expire the session at the earliest, by what is known now: the
    /// negotiated timeout after [`last_heartbeat`](Client::last_heartbeat). It moves on with every
    /// answer. Who holds something by this session must let go of it then.
    pub fn session_deadline(&self) -> Option<Instant> {
        self.shared.status.deadline()
    }

    /// Closes the session: its ephemeral znodes are deleted. What was queued before is still
    /// executed, what comes later is refused with [`Error::Closed`].
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionLoss`] if there is no connection or it is lost meanwhile. The client is
    /// closed all the same, and the session expires by itself.
    ///
    /// Takes effect at the call; dropping the future gives up the wait only.
    pub fn close(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (reply, closed) = oneshot::channel();
        let told = self.shared.control.send(Control::Close(Some(reply)));
        async move {
            match told {
                Ok(()) => closed.await.unwrap_or(Ok(())),
                // The session is over already.
                Err(_) => Ok(()),
            }
        }
    }

    /// Leaves the session without closing it: it lives on, with its ephemeral znodes, until it
    /// expires or somebody continues it with [`ClientBuilder::session`]. What was queued before is
    /// still executed, what comes later is refused with [`Error::Closed`].
    ///
    /// # Errors
    ///
    /// The reason, if the session is over already.
    ///
    /// Takes effect at the call; dropping the future gives up the wait only.
    pub fn detach(&self) -> impl Future<Output = Result<Session, Error>> + Send + use<> {
        let (reply, detached) = oneshot::channel();
        let told = self.shared.control.send(Control::Detach(reply));
        let status = Arc::clone(&self.shared.status);
        async move {
            match told {
                Ok(()) => detached.await.unwrap_or_else(|_| Err(status.end())),
                Err(_) => Err(status.end()),
            }
        }
    }

    /// Runs an operation again after errors that pass by themselves, if it surely changed nothing;
    /// see [`RetryPolicy::run`].
    ///
    /// ```no_run
    /// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let (data, _) = client.retry(|| client.get_data("/config")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`RetryPolicy::run`].
    pub async fn retry<T, F>(&self, operation: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.shared.retry.run(operation).await
    }

    /// Runs an operation again even if it may have been executed already; see
    /// [`RetryPolicy::run_idempotent`].
    ///
    /// # Errors
    ///
    /// As for [`RetryPolicy::run`].
    pub async fn retry_idempotent<T, F>(&self, operation: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.shared.retry.run_idempotent(operation).await
    }

    /// Runs a future on the runtime of the session, also from outside of it: what a destructor
    /// needs. A future that holds a handle keeps the session open.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.shared.runtime.spawn(future);
    }

    /// Deletes a znode, whatever its version, in the background: over reconnects, for as long as
    /// the session lives, even if every other handle is dropped meanwhile. Can be called from a
    /// destructor.
    pub fn delete_in_background(&self, path: impl Into<String>) {
        let (client, path) = (self.clone(), path.into());
        self.spawn(async move {
            let forever = client.shared.retry.clone().give_up_after(None);
            let deleted = forever.run_idempotent(|| client.delete(&path, None)).await;
            match deleted {
                Ok(()) | Err(Error::NoNode { .. }) => {}
                // An ephemeral znode goes with the session.
                Err(error) if error.is_session_over() => {}
                Err(error) => warn!(%path, %error, "cannot delete in the background"),
            }
        });
    }
}

/// Operations on znodes.
///
/// All of them fail with [`Error::InvalidPath`] if the path cannot name a znode, with
/// [`Error::NoAuth`] if the ACL does not permit them, with [`Error::ConnectionLoss`] if the
/// connection is lost, and with [`Error::SessionExpired`] when the session is over.
impl Client {
    /// Creates a znode. A [`CreateMode`](crate::CreateMode) alone stands for options with an open
    /// ACL.
    ///
    /// # Errors
    ///
    /// [`Error::NodeExists`]; [`Error::NoNode`] if the parent does not exist;
    /// [`Error::NoChildrenForEphemerals`]; [`Error::InvalidAcl`]; [`Error::QuotaExceeded`].
    pub fn create<'a>(
        &self,
        path: &str,
        data: impl Into<Data<'a>>,
        options: impl Into<CreateOptions<'a>>,
    ) -> Reply<Created> {
        let (data, options) = (data.into(), options.into());
        let decode: Decoder<Created> = |subject, answer, _| {
            let created: Create2Response<'_> = subject.decode(answer)?;
            Ok(Created {
                path: subject.chroot.show(created.path),
                stat: created.stat,
            })
        };
        let checked = if options.mode().is_sequential() {
            path::validate_sequential(path)
        } else {
            path::validate(path)
        };
        let operation = match (checked, options.operation()) {
            (Ok(()), Ok(operation)) => operation,
            (Err(error), _) => return self.refuse(OpCode::Create2, path, error.into(), decode),
            (_, Err(reason)) => {
                let error = Error::InvalidArgument {
                    path: path.to_owned(),
                    reason,
                };
                return self.refuse(OpCode::Create2, path, error, decode);
            }
        };
        let size = FRAME_OVERHEAD + path.len() + data.len();
        let frame = request::encode(operation, size, |out| {
            options.encode(&self.chroot.apply(path), data, out);
        });
        self.enqueue(self.subject(operation, path), frame, None, decode)
    }

    /// Deletes a znode that has no children, if it has the version; `None` takes any.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; [`Error::BadVersion`]; [`Error::NotEmpty`].
    pub fn delete(&self, path: &str, version: impl Into<Option<i32>>) -> Reply<()> {
        let version = version.into().unwrap_or(ANY_VERSION);
        self.call(
            OpCode::Delete,
            path,
            0,
            |path, out| VersionRequest { path, version }.encode(out),
            nothing,
        )
    }

    /// The stat of a znode, or `None` if it does not exist.
    pub fn exists(&self, path: &str) -> Reply<Option<Stat>> {
        self.read(OpCode::Exists, path, |subject, answer, _| {
            existing(subject, answer)
        })
    }

    /// As [`exists`](Client::exists), and watches for the znode to be created, set or deleted.
    pub fn exists_watched(&self, path: &str) -> Reply<(Option<Stat>, OneshotWatch)> {
        let kind = WatchKind::Data { absent: false };
        self.read_watched(OpCode::Exists, path, kind, |subject, answer, watch| {
            Ok((existing(subject, answer)?, watched(watch)?))
        })
    }

    /// The data and the stat of a znode. No data at all reads as empty data; see
    /// [`get_data_or_null`](Client::get_data_or_null).
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_data(&self, path: &str) -> Reply<(Bytes, Stat)> {
        self.read(OpCode::GetData, path, |subject, answer, _| {
            let (data, stat) = data(subject, answer)?;
            Ok((data.unwrap_or_default(), stat))
        })
    }

    /// The data and the stat of a znode; `None` if it has no data, which is not the same as empty
    /// data.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_data_or_null(&self, path: &str) -> Reply<(Option<Bytes>, Stat)> {
        self.read(OpCode::GetData, path, |subject, answer, _| {
            data(subject, answer)
        })
    }

    /// As [`get_data`](Client::get_data), and watches for the znode to be set or deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; there is no watch then, which
    /// [`exists_watched`](Client::exists_watched) would leave.
    pub fn get_data_watched(&self, path: &str) -> Reply<(Bytes, Stat, OneshotWatch)> {
        let kind = WatchKind::Data { absent: false };
        self.read_watched(OpCode::GetData, path, kind, |subject, answer, watch| {
            let (data, stat) = data(subject, answer)?;
            Ok((data.unwrap_or_default(), stat, watched(watch)?))
        })
    }

    /// Replaces the data of a znode, if it has the version; `None` takes any. Answers the new stat.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; [`Error::BadVersion`]; [`Error::QuotaExceeded`].
    pub fn set_data<'a>(
        &self,
        path: &str,
        data: impl Into<Data<'a>>,
        version: impl Into<Option<i32>>,
    ) -> Reply<Stat> {
        let version = version.into().unwrap_or(ANY_VERSION);
        let data = data.into();
        self.call(
            OpCode::SetData,
            path,
            data.len(),
            |path, out| {
                let data = data.as_slice();
                SetDataRequest {
                    path,
                    data,
                    version,
                }
                .encode(out);
            },
            stat,
        )
    }

    /// The ACL and the stat of a znode.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_acl(&self, path: &str) -> Reply<(Vec<Acl<'static>>, Stat)> {
        self.call(
            OpCode::GetAcl,
            path,
            0,
            |path, out| PathRecord { path }.encode(out),
            |subject, answer, _| {
                let found: GetAclResponse<'_> = subject.decode(answer)?;
                let acl = found.acl.into_iter().map(Acl::into_owned).collect();
                Ok((acl, found.stat))
            },
        )
    }

    /// Replaces the ACL of a znode, if its `aversion` is `version`; `None` takes any. Answers the
    /// new stat.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`]; [`Error::BadVersion`]; [`Error::InvalidAcl`].
    pub fn set_acl(
        &self,
        path: &str,
        acl: &[Acl<'_>],
        version: impl Into<Option<i32>>,
    ) -> Reply<Stat> {
        let version = version.into().unwrap_or(ANY_VERSION);
        self.call(
            OpCode::SetAcl,
            path,
            0,
            |path, out| {
                path.encode(out);
                encode_acl(acl, out);
                version.encode(out);
            },
            stat,
        )
    }

    /// The names of the children, in no order.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_children(&self, path: &str) -> Reply<Vec<String>> {
        self.read(OpCode::GetChildren, path, |subject, answer, _| {
            let found: GetChildrenResponse<'_> = subject.decode(answer)?;
            Ok(owned(found.children))
        })
    }

    /// The names of the children, in no order, and the stat of the parent.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_children_and_stat(&self, path: &str) -> Reply<(Vec<String>, Stat)> {
        self.read(OpCode::GetChildren2, path, |subject, answer, _| {
            children(subject, answer)
        })
    }

    /// As [`get_children_and_stat`](Client::get_children_and_stat), and watches for a child to be
    /// created or deleted, or the znode itself to be deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_children_watched(&self, path: &str) -> Reply<(Vec<String>, Stat, OneshotWatch)> {
        let kind = WatchKind::Children;
        self.read_watched(
            OpCode::GetChildren2,
            path,
            kind,
            |subject, answer, watch| {
                let (names, stat) = children(subject, answer)?;
                Ok((names, stat, watched(watch)?))
            },
        )
    }

    /// The number of all descendants of a znode.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn get_all_children_number(&self, path: &str) -> Reply<u32> {
        self.call(
            OpCode::GetAllChildrenNumber,
            path,
            0,
            |path, out| PathRecord { path }.encode(out),
            |subject, answer, _| {
                let found: GetAllChildrenNumberResponse = subject.decode(answer)?;
                Ok(u32::try_from(found.total).unwrap_or(0))
            },
        )
    }

    /// The paths of this session's ephemeral znodes that begin with `prefix`, in no order. The
    /// prefix is text, not a parent: `/a` finds `/a/x` and `/ab`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`] if the prefix does not begin with `/`.
    pub fn get_ephemerals(&self, prefix: &str) -> Reply<Vec<String>> {
        let decode: Decoder<Vec<String>> = |subject, answer, _| {
            let found: GetEphemeralsResponse<'_> = subject.decode(answer)?;
            let inside = found.paths.into_iter();
            Ok(inside
                .filter_map(|path| subject.chroot.strip(path))
                .map(str::to_owned)
                .collect())
        };
        if !prefix.starts_with('/') {
            let path = prefix.to_owned();
            let error = PathError::Relative { path }.into();
            return self.refuse(OpCode::GetEphemerals, prefix, error, decode);
        }
        self.call_unchecked(
            OpCode::GetEphemerals,
            prefix,
            0,
            |path, out| PathRecord { path }.encode(out),
            None,
            decode,
        )
    }

    /// Waits until the server that this client is connected to has caught up with the leader, so
    /// that a read that is issued behind sees every write that was acknowledged before.
    pub fn sync(&self, path: &str) -> Reply<()> {
        self.call(
            OpCode::Sync,
            path,
            0,
            |path, out| PathRecord { path }.encode(out),
            nothing,
        )
    }

    /// Several writes that happen all together or not at all.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// Several reads in one request.
    pub fn multi_read(&self) -> MultiRead {
        MultiRead::new(self.clone())
    }

    /// Watches a znode, which need not exist: all its events and those of its list of children,
    /// until the stream is dropped.
    pub fn watch(&self, path: &str) -> Reply<PersistentWatch> {
        self.add_watch(path, WatchKind::Persistent, AddWatchMode::Persistent)
    }

    /// Watches a znode, which need not exist, and all its descendants: creations, changes of data
    /// and deletions, until the stream is dropped.
    pub fn watch_recursive(&self, path: &str) -> Reply<PersistentWatch> {
        self.add_watch(
            path,
            WatchKind::PersistentRecursive,
            AddWatchMode::PersistentRecursive,
        )
    }

    /// Adds a credential to the session: this connection and every later one presents it.
    ///
    /// # Errors
    ///
    /// [`Error::AuthFailed`] if the server refuses it, which ends the session's handle. A lost
    /// connection is no error: the next one answers.
    pub fn add_auth(&self, scheme: impl Into<String>, data: impl Into<Vec<u8>>) -> Reply<()> {
        let credential = Credential {
            scheme: scheme.into(),
            data: data.into(),
        };
        let subject = self.subject(OpCode::Auth, "");
        let (respond, receiver) = oneshot::channel();
        match self.submit(Command::Auth(credential, respond), "") {
            Ok(()) => Reply::waiting(receiver, subject, None, nothing),
            Err(error) => Reply::refused(error, subject, nothing),
        }
    }

    /// The identities of this connection, in no order.
    pub fn who_am_i(&self) -> Reply<Vec<Identity>> {
        let frame = request::encode(OpCode::WhoAmI, FRAME_OVERHEAD, |_| {});
        let subject = self.subject(OpCode::WhoAmI, "");
        self.enqueue(subject, frame, None, |subject, answer, _| {
            let found: WhoAmIResponse<'_> = subject.decode(answer)?;
            let identities = found.infos.into_iter().map(|info| Identity {
                scheme: info.scheme.to_owned(),
                user: info.user.to_owned(),
            });
            Ok(identities.collect())
        })
    }

    /// The description of the ensemble, from `/zookeeper/config` outside of any chroot. Empty on
    /// standalone servers.
    pub fn get_config(&self) -> Reply<(Bytes, Stat)> {
        self.at_root().get_data(CONFIG_PATH)
    }

    /// As [`get_config`](Client::get_config), and watches for a change.
    pub fn get_config_watched(&self) -> Reply<(Bytes, Stat, OneshotWatch)> {
        self.at_root().get_data_watched(CONFIG_PATH)
    }
}

/// One of the identities under which servers know a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The scheme, such as `ip` or `digest`.
    pub scheme: String,
    /// The user, without any secret.
    pub user: String,
}

/// From methods to the queue.
impl Client {
    /// A handle without a chroot.
    fn at_root(&self) -> Client {
        Client {
            shared: Arc::clone(&self.shared),
            chroot: Chroot::default(),
        }
    }

    /// The path as the server knows it. The root cannot be deleted, also not if it is a chroot's.
    pub(crate) fn server_path<'p>(&self, operation: OpCode, path: &'p str) -> Cow<'p, str> {
        if operation == OpCode::Delete && path == "/" {
            return path.into();
        }
        self.chroot.apply(path)
    }

    pub(crate) fn subject(&self, operation: OpCode, path: &str) -> Subject {
        Subject {
            operation,
            path: path.to_owned(),
            chroot: self.chroot.clone(),
            status: Arc::clone(&self.shared.status),
        }
    }

    fn refuse<T>(
        &self,
        operation: OpCode,
        path: &str,
        error: Error,
        decode: Decoder<T>,
    ) -> Reply<T> {
        Reply::refused(error, self.subject(operation, path), decode)
    }

    /// Queues an operation on a path; `extra` is the size of the request besides the path.
    fn call<T>(
        &self,
        operation: OpCode,
        path: &str,
        extra: usize,
        body: impl FnOnce(&str, &mut Vec<u8>),
        decode: Decoder<T>,
    ) -> Reply<T> {
        match path::validate(path) {
            Ok(()) => self.call_unchecked(operation, path, extra, body, None, decode),
            Err(error) => self.refuse(operation, path, error.into(), decode),
        }
    }

    fn call_unchecked<T>(
        &self,
        operation: OpCode,
        path: &str,
        extra: usize,
        body: impl FnOnce(&str, &mut Vec<u8>),
        watch: Option<WatchKind>,
        decode: Decoder<T>,
    ) -> Reply<T> {
        let server_path = self.server_path(operation, path);
        let size = FRAME_OVERHEAD + server_path.len() + extra;
        let frame = request::encode(operation, size, |out| body(&server_path, out));
        let watch = watch.map(|kind| {
            let control = self.shared.control.clone();
            let subscription = Subscription::new(&server_path, self.chroot.clone(), control);
            (kind, subscription)
        });
        self.enqueue(self.subject(operation, path), frame, watch, decode)
    }

    fn read<T>(&self, operation: OpCode, path: &str, decode: Decoder<T>) -> Reply<T> {
        self.call(
            operation,
            path,
            0,
            |path, out| WatchedRequest { path, watch: false }.encode(out),
            decode,
        )
    }

    fn read_watched<T>(
        &self,
        operation: OpCode,
        path: &str,
        kind: WatchKind,
        decode: Decoder<T>,
    ) -> Reply<T> {
        if let Err(error) = path::validate(path) {
            return self.refuse(operation, path, error.into(), decode);
        }
        self.call_unchecked(
            operation,
            path,
            0,
            |path, out| WatchedRequest { path, watch: true }.encode(out),
            Some(kind),
            decode,
        )
    }

    fn add_watch(&self, path: &str, kind: WatchKind, mode: AddWatchMode) -> Reply<PersistentWatch> {
        let decode: Decoder<PersistentWatch> = |subject, answer, watch| match watch {
            // Servers before 3.9 say that a znode does not exist, and watch it nevertheless.
            Some(watch) if matches!(answer.code, ErrorCode::OK | ErrorCode::NO_NODE) => {
                Ok(PersistentWatch::new(watch))
            }
            _ => Err(subject.error(answer.code)),
        };
        if let Err(error) = path::validate(path) {
            return self.refuse(OpCode::AddWatch, path, error.into(), decode);
        }
        self.call_unchecked(
            OpCode::AddWatch,
            path,
            0,
            |path, out| {
                let kind = mode.number();
                WatchRecord { path, kind }.encode(out);
            },
            Some(kind),
            decode,
        )
    }

    /// Queues a request.
    pub(crate) fn enqueue<T>(
        &self,
        subject: Subject,
        frame: Vec<u8>,
        watch: Option<(WatchKind, Subscription)>,
        decode: Decoder<T>,
    ) -> Reply<T> {
        let max = self.shared.max_frame;
        let size = frame.len() - quorate_proto::frame::LENGTH_SIZE;
        if size > max {
            let path = subject.path.clone();
            return Reply::refused(Error::TooLarge { path, size, max }, subject, decode);
        }
        let (mut request, receiver) = Request::new(subject.operation, frame);
        let subscription = watch.map(|(kind, subscription)| {
            let mailbox = Arc::clone(subscription.mailbox());
            request.watch = Some(WatchRequest { kind, mailbox });
            subscription
        });
        match self.submit(Command::Request(request), &subject.path) {
            Ok(()) => Reply::waiting(receiver, subject, subscription, decode),
            Err(error) => Reply::refused(error, subject, decode),
        }
    }

    fn submit(&self, command: Command, path: &str) -> Result<(), Error> {
        let sent = self.shared.commands.try_send(command);
        sent.map_err(|error| match error {
            TrySendError::Full(_) => Error::QueueFull {
                path: path.to_owned(),
                limit: self.shared.max_queued,
            },
            TrySendError::Closed(_) => self.shared.status.end(),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("session", &self.shared.status.session_id())
            .field("state", &self.state())
            .field("chroot", &self.chroot())
            .finish()
    }
}

fn nothing(subject: &Subject, answer: &Answer, _: Option<Subscription>) -> Result<(), Error> {
    answer
        .code
        .into_result()
        .map_err(|code| subject.error(code))
}

fn stat(subject: &Subject, answer: &Answer, _: Option<Subscription>) -> Result<Stat, Error> {
    subject.decode(answer).map(|found: StatResponse| found.stat)
}

fn existing(subject: &Subject, answer: &Answer) -> Result<Option<Stat>, Error> {
    if answer.code == ErrorCode::NO_NODE {
        return Ok(None);
    }
    let found: StatResponse = subject.decode(answer)?;
    Ok(Some(found.stat))
}

/// The data as part of the answer, without a copy.
fn data(subject: &Subject, answer: &Answer) -> Result<(Option<Bytes>, Stat), Error> {
    let found: GetDataResponse<'_> = subject.decode(answer)?;
    let data = found.data.map(|data| answer.body.slice_ref(data));
    Ok((data, found.stat))
}

fn children(subject: &Subject, answer: &Answer) -> Result<(Vec<String>, Stat), Error> {
    let found: GetChildren2Response<'_> = subject.decode(answer)?;
    Ok((owned(found.children), found.stat))
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// The watch that came with a request.
fn watched(subscription: Option<Subscription>) -> Result<OneshotWatch, Error> {
    subscription.map(OneshotWatch::new).ok_or(Error::Closed)
}
