//! Requests on their way to the session's task, and the replies to come.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quorate_proto::jute::{Decode, DecodeError, Encode};
use quorate_proto::{ErrorCode, OpCode, RequestHeader, frame};
use tokio::sync::oneshot;
use tracing::{Span, debug_span, field};

use crate::chroot::Chroot;
use crate::error::Error;
use crate::session::Status;
use crate::watch::{Mailbox, Subscription, WatchKind};

/// Where the xid stands in a frame, to be filled in when the request goes out.
const XID_AT: usize = frame::LENGTH_SIZE;

/// A request as the session's task takes it: encoded, but for its xid.
pub(crate) struct Request {
    frame: Vec<u8>,
    pub(crate) operation: OpCode,
    pub(crate) respond: oneshot::Sender<Result<Answer, Failure>>,
    pub(crate) watch: Option<WatchRequest>,
    /// A sync has to go in front.
    pub(crate) synced: bool,
}

/// The watch that a request leaves if it succeeds.
pub(crate) struct WatchRequest {
    pub(crate) kind: WatchKind,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// What a server answered.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) xid: i32,
    pub(crate) zxid: i64,
    pub(crate) code: ErrorCode,
    /// Empty unless the code is [`ErrorCode::OK`].
    pub(crate) body: Bytes,
}

/// Why no server answered.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The connection was lost, before or after the whole request had left.
    Lost { sent: bool },
    /// The session is over.
    Ended(Error),
}

impl Request {
    pub(crate) fn new(
        operation: OpCode,
        frame: Vec<u8>,
    ) -> (Self, oneshot::Receiver<Result<Answer, Failure>>) {
        let (respond, receiver) = oneshot::channel();
        let request = Request {
            frame,
            operation,
            respond,
            watch: None,
            synced: false,
        };
        (request, receiver)
    }

    /// Answers as a server would that refuses it.
    pub(crate) fn refuse(self, code: ErrorCode) {
        // The caller may have given up the wait.
        let _ = self.respond.send(Ok(Answer {
            xid: 0,
            zxid: 0,
            code,
            body: Bytes::new(),
        }));
    }

    /// Appends the request, under its xid, to what goes out.
    pub(crate) fn write(&self, xid: i32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        out[start + XID_AT..start + XID_AT + 4].copy_from_slice(&xid.to_be_bytes());
    }
}

/// Operations that tell what is in the tree.
pub(crate) fn reads_tree(operation: OpCode) -> bool {
    matches!(
        operation,
        OpCode::Exists
            | OpCode::GetData
            | OpCode::GetAcl
            | OpCode::GetChildren
            | OpCode::GetChildren2
            | OpCode::GetAllChildrenNumber
            | OpCode::GetEphemerals
            | OpCode::MultiRead
    )
}

/// A frame of about `size` bytes for `operation`, with the body that `body` appends.
pub(crate) fn encode(operation: OpCode, size: usize, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    write(&mut out, 0, operation, body);
    out
}

/// Appends a whole frame, xid included.
pub(crate) fn write(
    out: &mut Vec<u8>,
    xid: i32,
    operation: OpCode,
    body: impl FnOnce(&mut Vec<u8>),
) {
    frame::write(out, |out| {
        RequestHeader {
            xid,
            op: operation.number(),
        }
        .encode(out);
        body(out);
    });
}

/// What a reply is about; errors name it.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) operation: OpCode,
    /// The path as the user gave it; empty for operations without one.
    pub(crate) path: String,
    pub(crate) chroot: Chroot,
    pub(crate) status: Arc<Status>,
}

impl Subject {
    /// The error for a code other than [`ErrorCode::OK`].
    pub(crate) fn error(&self, code: ErrorCode) -> Error {
        Error::from_code(code, self.operation, &self.path, self.status.session_id())
    }

    /// Is off unless somebody asks for it; then the operation shows up with its outcome.
    fn span(&self) -> Span {
        debug_span!(
            target: "quorate_client::request",
            "request",
            operation = ?self.operation,
            path = self.path,
            xid = field::Empty,
            zxid = field::Empty,
            outcome = field::Empty,
        )
    }

    /// The error for the lack of an answer.
    fn failure(&self, failure: Failure) -> Error {
        match failure {
            Failure::Lost { sent } => Error::ConnectionLoss {
                operation: self.operation,
                path: self.path.clone(),
                sent,
            },
            Failure::Ended(error) => error,
        }
    }

    /// Decodes the body of a successful answer.
    pub(crate) fn decode<'a, T: Decode<'a>>(&self, answer: &'a Answer) -> Result<T, Error> {
        if answer.code != ErrorCode::OK {
            return Err(self.error(answer.code));
        }
        T::from_slice(&answer.body).map_err(|source| self.invalid_reply(source))
    }

    /// The error for a body that is not what the operation answers.
    pub(crate) fn invalid_reply(&self, source: DecodeError) -> Error {
        Error::InvalidReply {
            operation: self.operation,
            path: self.path.clone(),
            source,
        }
    }
}

/// Makes a result of an answer.
pub(crate) type Decoder<T> = fn(&Subject, &Answer, Option<Subscription>) -> Result<T, Error>;

/// The reply to a request that was queued when the method returned it.
///
/// Requests are executed in the order in which the methods were called, whether or not the replies
/// are awaited, so requests can be issued one behind the other without waiting in between.
///
/// Cancel safe in this sense: dropping a reply gives up the wait and nothing else. The request is
/// still sent and may be executed; a watch that it would have left is removed again.
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// let first = client.set_data("/a", "1", None);
/// let second = client.set_data("/a", "2", None);
/// let (data, _) = client.get_data("/a").await?;
/// assert_eq!(&data[..], b"2");
/// println!("{} then {}", first.await?.version, second.await?.version);
/// # Ok(())
/// # }
/// ```
#[must_use = "the request is queued already, but its outcome is only known from the reply"]
pub struct Reply<T> {
    state: Wait,
    subject: Subject,
    decode: Decoder<T>,
    subscription: Option<Subscription>,
    /// From the call until the reply is taken or given up.
    span: Span,
}

enum Wait {
    Answer(oneshot::Receiver<Result<Answer, Failure>>),
    /// The request was refused before it was queued.
    Refused(Option<Error>),
}

impl<T> Reply<T> {
    pub(crate) fn waiting(
        receiver: oneshot::Receiver<Result<Answer, Failure>>,
        subject: Subject,
        subscription: Option<Subscription>,
        decode: Decoder<T>,
    ) -> Self {
        Reply {
            state: Wait::Answer(receiver),
            span: subject.span(),
            subject,
            decode,
            subscription,
        }
    }

    pub(crate) fn refused(error: Error, subject: Subject, decode: Decoder<T>) -> Self {
        Reply {
            state: Wait::Refused(Some(error)),
            span: subject.span(),
            subject,
            decode,
            subscription: None,
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let answer = match &mut this.state {
            Wait::Refused(error) => {
                let outcome = Err(error.take().unwrap_or(Error::Closed));
                tell(&this.span, None, &outcome);
                return Poll::Ready(outcome);
            }
            Wait::Answer(receiver) => ready!(Pin::new(receiver).poll(cx)),
        };
        // The task answers every request before it ends, unless the runtime stops under it.
        let answer = answer.unwrap_or(Err(Failure::Lost { sent: true }));
        let subscription = this.subscription.take();
        let ids = answer.as_ref().ok().map(|answer| (answer.xid, answer.zxid));
        let outcome = match answer {
            Ok(answer) => (this.decode)(&this.subject, &answer, subscription),
            Err(failure) => Err(this.subject.failure(failure)),
        };
        tell(&this.span, ids, &outcome);
        Poll::Ready(outcome)
    }
}

/// Completes the span of an operation.
fn tell<T>(span: &Span, ids: Option<(i32, i64)>, outcome: &Result<T, Error>) {
    // Even a span that is off looks its fields up by their names.
    if span.is_disabled() {
        return;
    }
    if let Some((xid, zxid)) = ids {
        span.record("xid", xid);
        span.record("zxid", field::display(format_args!("{zxid:#x}")));
    }
    match outcome {
        Ok(_) => span.record("outcome", "ok"),
        Err(error) => span.record("outcome", field::display(error)),
    };
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("operation", &self.subject.operation)
            .field("path", &self.subject.path)
            .finish_non_exhaustive()
    }
}
