//! The bytes of one connection: output gathered into batches, input cut into frames.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use quorate_proto::jute::Decode;
use quorate_proto::{ReplyHeader, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Room for replies that one read may fill.
const READ_CHUNK: usize = 64 * 1024;
/// Bodies from this size on are handed out as part of the read buffer. Shorter ones are copied,
/// for a short body that is kept would keep the whole buffer.
const SHARE_FROM: usize = READ_CHUNK / 2;
/// The longest reply taken. Servers do not bound replies as they bound requests: a list of children
/// can be longer than any request.
const MAX_REPLY: usize = 64 * 1024 * 1024;
/// Bytes of the header of a reply.
const HEADER_SIZE: usize = ReplyHeader::MIN_SIZE;

/// A connection with its buffers.
pub(crate) struct Wire<S> {
    stream: S,
    input: BytesMut,
    output: Vec<u8>,
    /// How much of `output` has left.
    flushed: usize,
    /// Bytes that have left over the life of the connection.
    sent: u64,
}

/// A reply or a notification.
pub(crate) struct Frame {
    pub(crate) header: ReplyHeader,
    pub(crate) body: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Wire {
            stream,
            input: BytesMut::with_capacity(READ_CHUNK),
            output: Vec::new(),
            flushed: 0,
            sent: 0,
        }
    }

    /// Where frames to be sent are appended.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that wait to leave.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.flushed
    }

    /// Where the output ends, counted over the life of the connection.
    pub(crate) fn end(&self) -> u64 {
        self.sent + self.unsent() as u64
    }

    /// Bytes that have left over the life of the connection.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends some of the output; pending when there is none.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent() == 0 {
            return Poll::Pending;
        }
        let rest = &self.output[self.flushed..];
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.flushed += written;
        self.sent += written as u64;
        if self.flushed == self.output.len() {
            self.output.clear();
            self.flushed = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Receives some input.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.reserve(READ_CHUNK / 4);
        // The future keeps nothing from one poll to the next.
        let read = pin!(self.stream.read_buf(&mut self.input));
        match ready!(read.poll(cx))? {
            0 => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ))),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Takes the next whole frame out of the input.
    pub(crate) fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(whole) = frame::split(&self.input, MAX_REPLY).map_err(invalid)? else {
            return Ok(None);
        };
        let header = ReplyHeader::from_slice(whole).map_err(invalid)?;
        let size = frame::LENGTH_SIZE + whole.len();
        let body = if whole.len() < SHARE_FROM {
            let body = Bytes::copy_from_slice(&whole[HEADER_SIZE..]);
            self.input.advance(size);
            body
        } else {
            let mut shared = self.input.split_to(size).freeze();
            shared.advance(frame::LENGTH_SIZE + HEADER_SIZE);
            shared
        };
        Ok(Some(Frame { header, body }))
    }

    /// Sends all output, then waits for a frame without a header: the handshake.
    pub(crate) async fn exchange(&mut self) -> io::Result<Bytes> {
        while self.unsent() > 0 {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        loop {
            if let Some(whole) = frame::split(&self.input, MAX_REPLY).map_err(invalid)? {
                let body = Bytes::copy_from_slice(whole);
                self.input.advance(frame::LENGTH_SIZE + body.len());
                return Ok(body);
            }
            poll_fn(|cx| self.poll_read(cx)).await?;
        }
    }
}

/// What the server sent is not the protocol.
pub(crate) fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
