//! The bytes of one connection: output gathered into batches, input cut into frames.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use quorate_proto::jute::Decode;
use quorate_proto::{ReplyHeader, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Room for replies that one read may fill: at first, and at most, once that has not been enough.
const FIRST_CHUNK: usize = 2 * 1024;
const READ_CHUNK: usize = 64 * 1024;
/// Room that a connection keeps from one request to the next. What is larger takes so long to fill
/// that it costs little to ask for it again.
const KEPT: usize = 16 * 1024;
/// Bodies from this size on are handed out as part of the read buffer. Shorter ones are copied,
/// for a short body that is kept would keep the whole buffer.
const SHARE_FROM: usize = READ_CHUNK / 2;
/// The longest reply taken. Servers do not bound replies as they bound requests: a list of children
/// can be longer than any request.
const MAX_REPLY: usize = 64 * 1024 * 1024;
/// Room for output that a connection keeps when there is none.
const OUTPUT_KEPT: usize = 1024 * 1024;
/// Bytes of the header of a reply.
const HEADER_SIZE: usize = ReplyHeader::MIN_SIZE;

/// A connection with its buffers.
pub(crate) struct Wire<S> {
    stream: S,
    input: BytesMut,
    /// How much the next read may fill.
    chunk: usize,
    output: Vec<u8>,
    /// How much of `output` has left.
    flushed: usize,
    /// Bytes that have left over the life of the connection.
    sent: u64,
    /// Bytes that have come over the life of the connection.
    received: u64,
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
            input: BytesMut::new(),
            chunk: FIRST_CHUNK,
            output: Vec::new(),
            flushed: 0,
            sent: 0,
            received: 0,
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

    /// Bytes that have come over the life of the connection.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Sends some of the output; pending when there is none.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent() == 0 {
            // A secured stream may hold back some of what it took.
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            return Poll::Pending;
        }
        let rest = &self.output[self.flushed..];
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.flushed += written;
        self.sent += written as u64;
        self.forget_flushed();
        Poll::Ready(Ok(()))
    }

    /// Gives the room of what has left to what follows, moving each byte once at most on average.
    fn forget_flushed(&mut self) {
        if self.flushed == self.output.len() {
            self.output.clear();
            self.output.shrink_to(OUTPUT_KEPT);
            self.flushed = 0;
        } else if self.flushed > self.unsent() {
            self.output.drain(..self.flushed);
            self.flushed = 0;
        }
    }

    /// Nothing is under way: gives back room that only a lot needs.
    pub(crate) fn pause(&mut self) {
        self.keep(KEPT);
    }

    /// Nothing has been under way for long: gives back nearly all room.
    pub(crate) fn rest(&mut self) {
        self.keep(FIRST_CHUNK);
    }

    fn keep(&mut self, most: usize) {
        if self.input.is_empty() && self.input.capacity() > most {
            self.input = BytesMut::new();
            self.chunk = most;
        }
        if self.output.is_empty() && self.output.capacity() > most {
            self.output = Vec::new();
        }
    }

    /// Receives some input.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.input.is_empty() {
            self.input.reserve(self.chunk / 4);
        } else if !self.input.try_reclaim(self.chunk) {
            self.input = BytesMut::with_capacity(self.chunk);
        }
        let room = self.input.capacity() - self.input.len();
        // The future keeps nothing from one poll to the next.
        let read = pin!(self.stream.read_buf(&mut self.input));
        match ready!(read.poll(cx))? {
            0 => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ))),
            read => {
                if read == room {
                    self.chunk = READ_CHUNK.min(self.chunk * 8);
                }
                self.received += read as u64;
                Poll::Ready(Ok(()))
            }
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
        // A server that has gone may have said why, which the input tells then.
        let _ = self.send_all().await;
        loop {
            let whole = frame::split(&self.input, MAX_REPLY);
            if let Some(whole) = whole.map_err(|error| self.foreign(error))? {
                let body = Bytes::copy_from_slice(whole);
                self.input.advance(frame::LENGTH_SIZE + body.len());
                return Ok(body);
            }
            poll_fn(|cx| self.poll_read(cx)).await?;
        }
    }

    async fn send_all(&mut self) -> io::Result<()> {
        while self.unsent() > 0 {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        self.stream.flush().await
    }

    /// The server does not speak the protocol, at least not on this port.
    fn foreign(&self, error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        const TLS_ALERT: &[u8] = &[0x15, 3];
        if self.input.starts_with(TLS_ALERT) {
            let advice = "the server speaks TLS on this port; name another, or use TLS";
            return io::Error::new(io::ErrorKind::InvalidData, advice);
        }
        invalid(error)
    }
}

/// What the server sent is not the protocol.
pub(crate) fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use quorate_proto::ErrorCode;
    use quorate_proto::jute::Encode;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn reply(xid: i32, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write(&mut out, |out| {
            let header = ReplyHeader {
                xid,
                zxid: 1,
                err: ErrorCode::OK,
            };
            header.encode(out);
            out.resize(out.len() + length, xid as u8);
        });
        out
    }

    async fn receive(wire: &mut Wire<DuplexStream>) -> io::Result<Frame> {
        loop {
            if let Some(frame) = wire.take_frame()? {
                return Ok(frame);
            }
            poll_fn(|cx| wire.poll_read(cx)).await?;
        }
    }

    #[tokio::test]
    async fn frames_are_cut_out_however_they_arrive() {
        for piece in [1, 7, 1000, 1 << 20] {
            let (mut server, client) = duplex(1 << 20);
            let mut wire = Wire::new(client);
            let lengths = [0, 1, 5000, SHARE_FROM, 0, 200_000, 3];
            let sending = async {
                let mut xid = 0;
                let replies = lengths.map(|length| {
                    xid += 1;
                    reply(xid, length)
                });
                for piece in replies.concat().chunks(piece) {
                    server.write_all(piece).await.unwrap();
                }
            };
            let receiving = async {
                for (i, length) in (1..).zip(lengths) {
                    let frame = receive(&mut wire).await.unwrap();
                    assert_eq!(frame.header.xid, i);
                    assert_eq!(frame.body.len(), length);
                    assert!(frame.body.iter().all(|byte| i32::from(*byte) == i));
                }
            };
            tokio::join!(sending, receiving);
        }
    }

    #[tokio::test]
    async fn room_for_a_lot_is_given_back() {
        let (mut server, client) = duplex(1 << 20);
        let mut wire = Wire::new(client);
        for length in [100, 5000, 20_000, 200_000, 20_000] {
            server.write_all(&reply(1, length)).await.unwrap();
            wire.output().resize(length, 0);
            wire.send_all().await.unwrap();
            let mut sent = vec![0; length];
            server.read_exact(&mut sent).await.unwrap();
            drop(receive(&mut wire).await.unwrap());
            assert_eq!(
                poll!(poll_fn(|cx| wire.poll_read(cx))).map_err(drop),
                Poll::Pending
            );
            wire.pause();
            assert!(wire.input.capacity() <= KEPT && wire.output.capacity() <= KEPT);
        }
        wire.rest();
        assert_eq!((wire.input.capacity(), wire.output.capacity()), (0, 0));
        // What has come in part is kept.
        server.write_all(&reply(1, 20_000)[..10_000]).await.unwrap();
        while wire.input.len() < 10_000 {
            poll_fn(|cx| wire.poll_read(cx)).await.unwrap();
        }
        wire.rest();
        assert_eq!(wire.input.len(), 10_000);
    }

    #[tokio::test]
    async fn what_is_no_reply_is_an_error() {
        let too_long = i32::try_from(MAX_REPLY + 1).unwrap().to_be_bytes();
        let no_header = [0, 0, 0, 15].into_iter().chain([0; 15]).collect();
        for bytes in [too_long.to_vec(), (-1i32).to_be_bytes().to_vec(), no_header] {
            let (mut server, client) = duplex(64);
            server.write_all(&bytes).await.unwrap();
            let error = receive(&mut Wire::new(client)).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let (server, client) = duplex(64);
        drop(server);
        let error = receive(&mut Wire::new(client)).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn output_that_never_runs_dry_does_not_pile_up() {
        let (mut server, client) = duplex(1000);
        let mut wire = Wire::new(client);
        let mut received = 0;
        for _ in 0..1000 {
            while wire.unsent() < 4000 {
                wire.output().extend_from_slice(&[0; 100]);
            }
            poll_fn(|cx| wire.poll_write(cx)).await.unwrap();
            let mut buffer = [0; 1000];
            received += server.read(&mut buffer).await.unwrap() as u64;
        }
        assert!(
            wire.output.capacity() < 20_000,
            "{}",
            wire.output.capacity()
        );
        assert!(received <= wire.sent());
        assert_eq!(wire.end(), wire.sent() + wire.unsent() as u64);
    }
}
