//! The handle and its operations.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures::Stream;
use quorate_proto::frame::LENGTH_SIZE;
use quorate_proto::{OpCode, path};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::builder::ClientBuilder;
use crate::chroot::Chroot;
use crate::driver::{Command, Control};
use crate::error::Error;
use crate::host::Host;
use crate::request::{self, Decoder, Reply, Request, Subject, WatchRequest};
use crate::retry::RetryPolicy;
use crate::session::{Session, Status};
use crate::state::State;
use crate::watch::{Subscription, WatchKind};

/// The version that matches every version.
pub(crate) const ANY_VERSION: i32 = -1;

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
/// When a connection is lost, what was sent by then, and what was queued behind it, fails with
/// [`Error::ConnectionLoss`], and [`Error::outcome`] tells what that means for each.
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
    /// A sync goes in front of every read.
    linearizable: bool,
}

/// What all handles of a session share.
pub(crate) struct Shared {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) control: mpsc::UnboundedSender<Control>,
    pub(crate) status: Arc<Status>,
    /// The session is being closed or left, so that no further request is taken.
    pub(crate) leaving: AtomicBool,
    pub(crate) host: Host,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_frame: usize,
    pub(crate) max_queued: usize,
    /// Lists of servers are tried in random order.
    pub(crate) shuffle: bool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails if the session is over.
        let _ = self.control.send(Control::Close(None));
    }
}

/// Setting up, the session, its state and its end.
impl Client {
    pub(crate) fn new(shared: Arc<Shared>, chroot: Chroot) -> Self {
        Client {
            shared,
            chroot,
            linearizable: false,
        }
    }

    /// Another handle, without a chroot, of a session that still has one.
    pub(crate) fn of(shared: &Weak<Shared>) -> Option<Self> {
        let shared = shared.upgrade()?;
        Some(Client::new(shared, Chroot::default()))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
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

    /// A handle of the same session that takes the subtree at `path`, as this handle sees it, for
    /// the whole tree. Any number of them share one connection, and the recipes take them like any
    /// other: paths are given, reported and told in errors as each handle sees them.
    ///
    /// The znode at `path` is not created. The session lives until the last of its handles is
    /// dropped, and [`close`](Client::close) on any of them closes it for all.
    ///
    /// ```no_run
    /// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let billing = client.with_chroot("/apps/billing")?;
    /// let archive = billing.with_chroot("/archive")?;
    /// assert_eq!(archive.chroot(), "/apps/billing/archive");
    /// let mut changes = archive.watch_recursive("/").await?;
    /// # let _ = &mut changes;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If `path` cannot name a znode.
    pub fn with_chroot(&self, path: &str) -> Result<Client, Error> {
        path::validate(path)?;
        Ok(Client {
            chroot: self.chroot.enter(path),
            ..self.clone()
        })
    }

    /// A handle of the same session without a chroot, which sees the tree as servers know it.
    pub fn at_root(&self) -> Client {
        Client {
            chroot: Chroot::default(),
            ..self.clone()
        }
    }

    /// A handle of the same session whose reads show every write that anybody was told of before
    /// the read was issued. Its writes are as those of any handle.
    ///
    /// Otherwise a read shows the writes of its own session, and of others what the server that
    /// answers has heard of by then, which may be a moment behind.
    ///
    /// ```no_run
    /// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let (data, _) = client.linearizable().get_data("/balance").await?;
    /// # let _ = data;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # How, and what it costs
    ///
    /// A [`sync`](Client::sync) goes out in front of the read, without waiting in between, so that
    /// the two take one round trip: to the server, from there to the leader and back, where the
    /// leader asks its followers whether they still follow. The server answers a connection in
    /// order, hence the read with what it knows once it has caught up. A plain read troubles nobody
    /// else. Reads that wait to be sent together share one sync.
    ///
    /// If the connection is lost the read fails, also when the sync had been answered:
    /// [`retry`](Client::retry) issues both again. A sync that is refused fails its reads with the
    /// same code, as on a read-only server ([`Error::ReadOnly`]).
    ///
    /// # When it waits
    ///
    /// A leader of Quorate answers a sync only when a quorum has shown, since the sync came in, that
    /// it still follows. One that was cut off from its followers cannot know whether another has
    /// committed something, and answers none: the read waits until the server has a leader again,
    /// or fails with the connection.
    pub fn linearizable(&self) -> Client {
        Client {
            linearizable: true,
            ..self.clone()
        }
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
        let connected = settled.await.is_ok_and(|state| state.is_connected());
        match connected {
            true => Ok(()),
            false => Err(self.shared.status.end()),
        }
    }

    /// The session: id, password, negotiated timeout and the last zxid seen. `None` before the
    /// first connection.
    pub fn session(&self) -> Option<Session> {
        self.shared.status.session()
    }

    /// When the last request or heartbeat that was answered had been sent. The ensemble has heard
    /// of this session at that time or later. Answers of a server that is cut off from its ensemble
    /// ([`State::ConnectedReadOnly`]) do not count.
    pub fn last_heartbeat(&self) -> Option<Instant> {
        self.shared.status.last_heartbeat()
    }

    /// When the ensemble can expire the session at the earliest, by what is known now: the
    /// negotiated timeout after [`last_heartbeat`](Client::last_heartbeat). It moves on with every
    /// answer. Who holds something by this session must let go of it then.
    ///
    /// Followers tell their leader of the sessions they heard from twice a tick. If one fails in
    /// between, the leader counts from up to half a tick earlier, which is what fencing is for.
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
        self.shared.leaving.store(true, Ordering::Relaxed);
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
        self.shared.leaving.store(true, Ordering::Relaxed);
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
        self.shared.host.spawn(future);
    }

    /// The world of a test that it runs in, if it does.
    #[cfg(feature = "simulation")]
    #[doc(hidden)]
    pub fn world(&self) -> Option<&Arc<dyn crate::simulation::World>> {
        match &self.shared.host {
            Host::Simulated(world) => Some(world),
            Host::Runtime(_) => None,
        }
    }

    /// Deletes a znode, whatever its version, in the background: over reconnects, for as long as
    /// the session lives, even if every other handle is dropped meanwhile. Can be called from a
    /// destructor. The first attempt is ordered at the call.
    pub fn delete_in_background(&self, path: impl Into<String>) {
        let (client, path) = (self.clone(), path.into());
        let mut first = Some(self.delete(&path, None));
        self.spawn(async move {
            let forever = client.shared.retry.clone().give_up_after(None);
            let delete = || {
                let queued = first.take();
                queued.unwrap_or_else(|| client.delete(&path, None))
            };
            match forever.run_idempotent(delete).await {
                Ok(()) | Err(Error::NoNode { .. }) => {}
                // An ephemeral znode goes with the session.
                Err(error) if error.is_session_over() => {}
                Err(error) => warn!(%path, %error, "cannot delete in the background"),
            }
        });
    }
}

/// From methods to the queue.
impl Client {
    /// The path as the server knows it. The root cannot be deleted, also not if it is a chroot's.
    pub(crate) fn server_path<'p>(&self, operation: OpCode, path: &'p str) -> Cow<'p, str> {
        if operation == OpCode::Delete && path == "/" {
            return path.into();
        }
        self.chroot.apply(path)
    }

    /// A watch on the server's `path`, for a request that will leave it.
    pub(crate) fn subscription(&self, path: &str) -> Subscription {
        Subscription::new(path, self.chroot.clone(), self.shared.control.clone())
    }

    /// What the replies to an operation are about.
    pub(crate) fn subject(&self, operation: OpCode, path: &str) -> Subject {
        Subject {
            operation,
            path: path.to_owned(),
            chroot: self.chroot.clone(),
            status: Arc::clone(&self.shared.status),
        }
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
        let size = frame.len() - LENGTH_SIZE;
        if size > max {
            let path = subject.path.clone();
            return Reply::refused(Error::TooLarge { path, size, max }, subject, decode);
        }
        let (mut request, receiver) = Request::new(subject.operation, frame);
        request.synced = self.linearizable && request::reads_tree(subject.operation);
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

    pub(crate) fn submit(&self, command: Command, path: &str) -> Result<(), Error> {
        if self.shared.leaving.load(Ordering::Relaxed) {
            return Err(self.shared.status.end());
        }
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
