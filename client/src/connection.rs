//! One connection of a session: what was sent on it and not answered yet.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    AuthPacket, ErrorCode, OpCode, PathRecord, ReplyHeader, SetWatches,
    WatchRequest as WatchRecord, WatcherEvent, WatcherType, xid,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::driver::Credential;
use crate::error::is_read;
use crate::meter::Meter;
use crate::reconnect::Rhythm;
use crate::registry::{Registry, Removal};
use crate::request::{self, Answer, Failure, Request, WatchRequest};
use crate::session::Status;
use crate::stream::Stream;
use crate::watch::WatchKind;
use crate::wire::{Frame, Wire, invalid};

/// A connection after its handshake.
pub(crate) struct Connection {
    pub(crate) wire: Wire<Stream>,
    /// Answered in the order in which they were sent.
    in_flight: VecDeque<InFlight>,
    /// Replies with xids of their own, each kind in order: heartbeats by the time of sending,
    /// credentials by their position in the session's list.
    pings: VecDeque<Instant>,
    auths: VecDeque<usize>,
    next_xid: i32,
    /// What the server said to the last sync that went in front of reads.
    synced: ErrorCode,
    rhythm: Rhythm,
    /// The server takes no writes.
    read_only: bool,
    last_sent: Instant,
    last_received: Instant,
    /// The server has done more than accept the connection.
    answered: bool,
    timer: Pin<Box<Sleep>>,
}

/// A request that waits for its reply.
struct InFlight {
    xid: i32,
    sent_at: Instant,
    /// Where its frame ends in the connection's output.
    end: u64,
    role: Role,
}

/// What to do with the reply.
enum Role {
    Respond {
        respond: oneshot::Sender<Result<Answer, Failure>>,
        operation: OpCode,
        watch: Option<WatchRequest>,
        /// It counts only if the sync in front of it succeeded.
        synced: bool,
    },
    /// What reads behind it rely on.
    Sync,
    Removal(Removal),
    Close,
}

/// What a batch of input asks the session's task to do.
#[derive(Default)]
pub(crate) struct Received {
    /// Credentials that were answered: position and outcome.
    pub(crate) auths: Vec<(usize, ErrorCode)>,
    /// The server has closed the session.
    pub(crate) closed: bool,
}

impl Connection {
    pub(crate) fn new(wire: Wire<Stream>, rhythm: Rhythm, read_only: bool) -> Self {
        let now = Instant::now();
        Connection {
            wire,
            in_flight: VecDeque::new(),
            pings: VecDeque::new(),
            auths: VecDeque::new(),
            next_xid: 1,
            synced: ErrorCode::OK,
            rhythm,
            read_only,
            last_sent: now,
            last_received: now,
            answered: false,
            timer: Box::pin(sleep_until(now + rhythm.heartbeat)),
        }
    }

    /// Requests that wait for their replies.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Nothing is waited for but heartbeats.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.auths.is_empty() && self.wire.unsent() == 0
    }

    /// When the server was last heard.
    pub(crate) fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Has the server answered anything since the handshake?
    pub(crate) fn was_of_use(&self) -> bool {
        self.answered
    }

    /// Puts a request into the output, unless it is known to be refused.
    pub(crate) fn send(&mut self, request: Request, registry: &mut Registry) {
        if self.read_only && !is_read(request.operation) {
            return request.refuse(ErrorCode::NOT_READ_ONLY);
        }
        let xid = self.take_xid();
        request.write(xid, self.wire.output());
        if let Some(watch) = &request.watch {
            registry.expect(watch.kind, &watch.mailbox.path);
        }
        self.wait_for(
            xid,
            Role::Respond {
                respond: request.respond,
                operation: request.operation,
                watch: request.watch,
                synced: request.synced,
            },
        );
    }

    /// Puts a sync into the output, for the reads that follow.
    pub(crate) fn send_sync(&mut self) {
        let xid = self.take_xid();
        request::write(self.wire.output(), xid, OpCode::Sync, |out| {
            PathRecord { path: "/" }.encode(out);
        });
        self.wait_for(xid, Role::Sync);
    }

    /// Puts the credential at `position` of the session's list into the output.
    pub(crate) fn send_auth(&mut self, position: usize, credential: &Credential) {
        request::write(self.wire.output(), xid::AUTH, OpCode::Auth, |out| {
            AuthPacket {
                kind: 0,
                scheme: &credential.scheme,
                auth: Some(&credential.data),
            }
            .encode(out);
        });
        self.auths.push_back(position);
    }

    /// Puts all watches of the session into the output.
    pub(crate) fn send_watches(&mut self, registry: &mut Registry, relative_zxid: i64) {
        for watches in registry.set_again(relative_zxid) {
            let with_streams =
                !watches.persistent.is_empty() || !watches.persistent_recursive.is_empty();
            // Servers before 3.6 know the older request only.
            if with_streams {
                request::write(
                    self.wire.output(),
                    xid::SET_WATCHES,
                    OpCode::SetWatches2,
                    |out| watches.encode(out),
                );
            } else {
                let watches = SetWatches {
                    relative_zxid: watches.relative_zxid,
                    data: watches.data,
                    exist: watches.exist,
                    child: watches.child,
                };
                request::write(
                    self.wire.output(),
                    xid::SET_WATCHES,
                    OpCode::SetWatches,
                    |out| watches.encode(out),
                );
            }
        }
    }

    /// Puts the removal of a watch into the output.
    pub(crate) fn send_removal(&mut self, removal: Removal) {
        let xid = self.take_xid();
        request::write(self.wire.output(), xid, OpCode::RemoveWatches, |out| {
            WatchRecord {
                path: &removal.path,
                kind: removal.kind.number(),
            }
            .encode(out);
        });
        self.wait_for(xid, Role::Removal(removal));
    }

    /// Puts the end of the session into the output.
    pub(crate) fn send_close(&mut self) {
        let xid = self.take_xid();
        request::write(self.wire.output(), xid, OpCode::CloseSession, |_| {});
        self.wait_for(xid, Role::Close);
    }

    fn take_xid(&mut self) -> i32 {
        let xid = self.next_xid;
        self.next_xid = xid.checked_add(1).unwrap_or(1);
        xid
    }

    fn wait_for(&mut self, xid: i32, role: Role) {
        self.in_flight.push_back(InFlight {
            xid,
            sent_at: Instant::now(),
            end: self.wire.end(),
            role,
        });
    }

    /// Sends what the connection takes now.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.wire.poll_write(cx);
        if written.is_ready() {
            self.last_sent = Instant::now();
        }
        written
    }

    /// Receives what the connection has now, and deals with every whole frame.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        registry: &mut Registry,
        status: &Status,
    ) -> Poll<io::Result<Received>> {
        let read = self.wire.poll_read(cx);
        Poll::Ready(match ready!(read) {
            Ok(()) => {
                self.last_received = Instant::now();
                self.receive(registry, status)
            }
            Err(error) => Err(error),
        })
    }

    fn receive(&mut self, registry: &mut Registry, status: &Status) -> io::Result<Received> {
        let mut received = Received::default();
        let mut heartbeat = None;
        while let Some(frame) = self.wire.take_frame()? {
            match frame.header.xid {
                xid::NOTIFICATION => notify(&frame, registry)?,
                xid::PING => heartbeat = self.pings.pop_front().or(heartbeat),
                xid::AUTH => {
                    let position = self.auths.pop_front().ok_or_else(|| unexpected(&frame))?;
                    received.auths.push((position, frame.header.err));
                }
                xid::SET_WATCHES => {
                    status.saw_zxid(frame.header.zxid);
                    frame.header.err.into_result().map_err(io::Error::other)?;
                }
                _ => {
                    heartbeat = Some(self.answer(frame, registry, status, &mut received)?);
                }
            }
        }
        if let Some(sent) = heartbeat {
            self.answered = true;
            status.heartbeat(sent);
        }
        Ok(received)
    }

    /// Deals with the reply to the oldest request; answers when that was sent.
    fn answer(
        &mut self,
        frame: Frame,
        registry: &mut Registry,
        status: &Status,
        received: &mut Received,
    ) -> io::Result<Instant> {
        let expected = self
            .in_flight
            .pop_front_if(|request| request.xid == frame.header.xid)
            .ok_or_else(|| unexpected(&frame))?;
        status.saw_zxid(frame.header.zxid);
        let ReplyHeader {
            xid,
            zxid,
            err: code,
        } = frame.header;
        match expected.role {
            Role::Respond {
                respond,
                operation,
                watch,
                synced,
            } => {
                if let Some(watch) = watch {
                    self.settle(operation, code, &watch, registry);
                }
                let took = self
                    .last_received
                    .saturating_duration_since(expected.sent_at);
                status.meter.answered(operation, code, took);
                let body = frame.body;
                let code = match self.synced {
                    failed if synced && failed != ErrorCode::OK => failed,
                    _ => code,
                };
                // The caller may have given up the wait.
                let _ = respond.send(Ok(Answer {
                    xid,
                    zxid,
                    code,
                    body,
                }));
            }
            Role::Sync => self.synced = code,
            Role::Removal(removal) => self.removed(removal, code, registry),
            Role::Close => received.closed = true,
        }
        Ok(expected.sent_at)
    }

    /// Registers the watch that a request has left, if it did.
    fn settle(
        &mut self,
        operation: OpCode,
        code: ErrorCode,
        watch: &WatchRequest,
        registry: &mut Registry,
    ) {
        let absent = code == ErrorCode::NO_NODE;
        let (kind, registered) = match (watch.kind, operation) {
            (WatchKind::Data { .. }, OpCode::Exists) => {
                (WatchKind::Data { absent }, code == ErrorCode::OK || absent)
            }
            (kind, OpCode::AddWatch) => (kind, code == ErrorCode::OK || absent),
            (kind, _) => (kind, code == ErrorCode::OK),
        };
        if let Some(removal) = registry.settle(kind, &watch.mailbox, registered) {
            self.send_removal(removal);
        }
    }

    /// Servers before 3.9 cannot remove one kind of persistent watch. They can remove all watches
    /// of a path, which is as good if no other is needed.
    fn removed(&mut self, removal: Removal, code: ErrorCode, registry: &Registry) {
        let is_persistent = matches!(
            removal.kind,
            WatcherType::Persistent | WatcherType::PersistentRecursive
        );
        if code == ErrorCode::MARSHALLING_ERROR
            && is_persistent
            && registry.is_unwatched(&removal.path)
        {
            self.send_removal(Removal {
                kind: WatcherType::Any,
                ..removal
            });
        }
    }

    /// Sends heartbeats when they are due; ready when the server has been silent for too long.
    pub(crate) fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let silent = self.last_received + self.rhythm.patience;
            if now >= silent {
                let error = format!("the server was silent for {:?}", now - self.last_received);
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, error));
            }
            let mut due = self.last_sent + self.rhythm.heartbeat;
            if now >= due {
                self.ping(now);
                due = now + self.rhythm.heartbeat;
            }
            self.timer.as_mut().reset(due.min(silent));
        }
        Poll::Pending
    }

    fn ping(&mut self, now: Instant) {
        // Output that waits already says that the client lives, once the server reads it.
        if self.wire.unsent() == 0 {
            self.wire.rest();
            request::write(self.wire.output(), xid::PING, OpCode::Ping, |_| {});
            self.pings.push_back(now);
        }
    }

    /// The connection is lost: tells every request whether it had left.
    pub(crate) fn fail(self, meter: &Meter) {
        let sent = self.wire.sent();
        for request in self.in_flight {
            if let Role::Respond {
                respond, operation, ..
            } = request.role
            {
                meter.unanswered(operation);
                let sent = request.end <= sent;
                let _ = respond.send(Err(Failure::Lost { sent }));
            }
        }
    }
}

/// Hands out a watch event.
fn notify(frame: &Frame, registry: &mut Registry) -> io::Result<()> {
    let event = WatcherEvent::from_slice(&frame.body).map_err(invalid)?;
    let zxid = Some(frame.header.zxid).filter(|zxid| *zxid > 0);
    registry.dispatch(event.kind, event.path, zxid);
    Ok(())
}

/// The server answered what was not asked, or in the wrong order.
fn unexpected(frame: &Frame) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("unexpected reply with xid {}", frame.header.xid),
    )
}
