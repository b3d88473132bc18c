//! Watches as their users hold them: a future for one event, a stream for many.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::chroot::Chroot;
use crate::driver::Control;
use crate::error::Error;

/// Events that a stream keeps for a slow reader before it drops them and yields
/// [`EventKind::Missed`] in their place.
const MAILBOX_LIMIT: usize = 4096;

/// Something happened to a watched znode.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchedEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which znode. Recursive watches report descendants by their own paths.
    pub path: String,
    /// The transaction that did it. Servers before 3.9 do not tell, and none does for changes that
    /// were found out after a reconnect.
    pub zxid: Option<i64>,
}

/// What happened to a watched znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The znode was created.
    Created,
    /// The znode was deleted.
    Deleted,
    /// Its data was set.
    DataChanged,
    /// A child was created or deleted.
    ChildrenChanged,
    /// Events may be missing here, because the connection was away or because the stream was read
    /// too slowly: read again what the watch is for. Only streams yield it.
    Missed,
}

/// Which of the server's watches a watch uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchKind {
    /// One event about data or existence. `absent` if the znode did not exist then, which matters
    /// when the watch is set again.
    Data { absent: bool },
    /// One event about the list of children.
    Children,
    /// Many events about one znode.
    Persistent,
    /// Many events about a znode and its descendants.
    PersistentRecursive,
}

/// Where the session's task leaves events for a watch.
pub(crate) struct Mailbox {
    /// The path as the server knows it.
    pub(crate) path: Box<str>,
    chroot: Chroot,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<WatchedEvent>,
    /// Events are being dropped; the reader gets told behind those that are still here.
    missed: bool,
    /// Why no event follows those that are here.
    end: Option<Error>,
    /// The reader has seen the last event.
    finished: bool,
    /// The reader has gone.
    abandoned: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    fn new(path: &str, chroot: Chroot) -> Self {
        Mailbox {
            path: path.into(),
            chroot,
            inner: Mutex::default(),
        }
    }

    /// Leaves an event about the server's `path`.
    pub(crate) fn deliver(&self, kind: EventKind, path: &str, zxid: Option<i64>) {
        self.change(|inner| {
            // A reader that has yet to hear of missed events reads everything anew after that, so
            // it needs none of the events in between.
            if inner.missed {
                return;
            }
            if inner.events.len() < MAILBOX_LIMIT {
                let path = self.chroot.show(path);
                inner.events.push_back(WatchedEvent { kind, path, zxid });
            } else {
                inner.missed = true;
            }
        });
    }

    /// Says that events may be missing from here on.
    pub(crate) fn miss(&self) {
        self.change(|inner| inner.missed = true);
    }

    /// Says that no further event will come.
    pub(crate) fn end(&self, error: Error) {
        self.change(|inner| {
            inner.end.get_or_insert(error);
        });
    }

    /// Changes the mailbox and wakes its reader, who may look into it at once.
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = self.inner.lock();
            change(&mut inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Does nobody wait for events any more?
    pub(crate) fn is_abandoned(&self) -> bool {
        self.inner.lock().abandoned
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Result<WatchedEvent, Error>>> {
        let mut inner = self.inner.lock();
        if let Some(event) = inner.events.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        if inner.missed {
            inner.missed = false;
            return Poll::Ready(Some(Ok(WatchedEvent {
                kind: EventKind::Missed,
                path: self.chroot.show(&self.path),
                zxid: None,
            })));
        }
        if inner.finished {
            return Poll::Ready(None);
        }
        if let Some(error) = inner.end.take() {
            inner.finished = true;
            return Poll::Ready(Some(Err(error)));
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// A watch that is, or is about to be, known to the session's task. Dropping it removes it there,
/// and on the server if no other watch of the client needs it.
pub(crate) struct Subscription {
    mailbox: Arc<Mailbox>,
    control: mpsc::UnboundedSender<Control>,
}

impl Subscription {
    pub(crate) fn new(path: &str, chroot: Chroot, control: mpsc::UnboundedSender<Control>) -> Self {
        Subscription {
            mailbox: Arc::new(Mailbox::new(path, chroot)),
            control,
        }
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    fn path(&self) -> &str {
        let full = &self.mailbox.path;
        self.mailbox.chroot.strip(full).unwrap_or(full)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.mailbox.inner.lock();
        inner.abandoned = true;
        if !inner.finished {
            // The task is gone when this fails, and the watch with it.
            let _ = self
                .control
                .send(Control::DropWatch(Arc::clone(&self.mailbox)));
        }
    }
}

/// The next event of a znode, from [`get_data_watched`](crate::Client::get_data_watched) and its
/// siblings.
///
/// Ends with the event, or with the error that ended the session. A reconnect does not end it: the
/// watch is set again, and what changed meanwhile counts as the event.
///
/// Cancel safe: it can be polled by reference again and again. Dropping it removes the watch.
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// loop {
///     let (data, _, changed) = client.get_data_watched("/config").await?;
///     println!("{data:?}");
///     changed.await?;
/// }
/// # }
/// ```
#[must_use = "dropping a watch removes it"]
pub struct OneshotWatch(Subscription);

impl OneshotWatch {
    pub(crate) fn new(subscription: Subscription) -> Self {
        OneshotWatch(subscription)
    }

    /// The znode that is watched.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    #[cfg(test)]
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0.mailbox
    }
}

impl Future for OneshotWatch {
    type Output = Result<WatchedEvent, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.mailbox.poll(cx).map(|event| {
            self.0.mailbox.inner.lock().finished = true;
            event.unwrap_or(Err(Error::Closed))
        })
    }
}

impl fmt::Debug for OneshotWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OneshotWatch").field(&self.path()).finish()
    }
}

/// The events of a znode, or of a whole subtree, until it is dropped; from
/// [`watch`](crate::Client::watch) and [`watch_recursive`](crate::Client::watch_recursive).
///
/// Servers do not repeat what happened while the connection was away; the stream then yields an
/// event of the kind [`EventKind::Missed`]. When the session ends it yields the error, then
/// nothing more.
///
/// Cancel safe: no event is lost when the future of `next()` is dropped. Dropping the stream
/// removes the watch.
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use futures::StreamExt;
///
/// let mut changes = client.watch_recursive("/services").await?;
/// while let Some(event) = changes.next().await {
///     let event = event?;
///     println!("{:?} {}", event.kind, event.path);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a watch removes it"]
pub struct PersistentWatch(Subscription);

impl PersistentWatch {
    pub(crate) fn new(subscription: Subscription) -> Self {
        PersistentWatch(subscription)
    }

    /// The znode that is watched.
    pub fn path(&self) -> &str {
        self.0.path()
    }
}

impl Stream for PersistentWatch {
    type Item = Result<WatchedEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.mailbox.poll(cx)
    }
}

impl fmt::Debug for PersistentWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PersistentWatch")
            .field(&self.path())
            .finish()
    }
}
