//! A connection of the load generator, and the session that outlives it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, ReplyHeader, frame, xid as special_xid,
};

use super::engine::{Gaps, Tally};
use super::requests::{Kind, Work};
use super::stream::{Servers, Stream};

/// Asked of the server for every connection; long enough that an idle connection of a short run
/// needs no heartbeats.
const SESSION_TIMEOUT_MS: i32 = 60_000;

/// How long the first connection may take to be established, and the servers to answer anything.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// How long one server may leave a connection without an answer before another one is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two attempts to reach a server.
const PAUSE: Duration = Duration::from_millis(5);

/// A request without an answer.
struct Flight {
    xid: i32,
    kind: Kind,
    sent: Instant,
}

/// Bytes in front of every reply's body: length and header.
const HEAD: usize = frame::LENGTH_SIZE + ReplyHeader::MIN_SIZE;

pub(super) struct Connection {
    servers: Arc<Servers>,
    /// The one that this connection is to, as an index.
    server: usize,
    stream: Stream<TcpStream>,
    link: Link,
    session: Session,
    /// Encoded requests; those before `written` are on their way.
    out: Vec<u8>,
    written: usize,
    /// The head of the reply that is coming in, filled up to `head_len`.
    head: [u8; HEAD],
    head_len: usize,
    /// Bytes of its body that are still to come.
    body_left: usize,
    flights: VecDeque<Flight>,
    next_xid: i32,
    /// When bytes came last.
    heard: Instant,
}

/// Where a connection stands.
enum Link {
    Up,
    /// Broke just now, for this reason.
    Broken(String),
    /// Waits to be made again, at this moment.
    Down(Instant),
    /// Presents its session since that moment; this much of the answer has come.
    Joining(Instant, Vec<u8>),
}

#[derive(Default)]
struct Session {
    id: i64,
    password: Vec<u8>,
    /// The newest transaction that it has seen.
    zxid: i64,
}

impl Connection {
    /// Connects to the server of that number and opens a session. Blocks.
    pub(super) fn open(servers: &Arc<Servers>, server: usize, depth: usize) -> io::Result<Self> {
        let server = server % servers.addresses.len();
        let socket = std::net::TcpStream::connect_timeout(&servers.addresses[server], SILENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let mut stream = Stream::new(socket, servers, server)?;
        let mut session = Session::default();
        stream.write_all(&session.greeting())?;
        stream.flush()?;
        let (mut answer, mut buffer) = (Vec::new(), [0; LONGEST_WELCOME]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => answer.extend_from_slice(&buffer[..n]),
            }
            if session.welcome(&answer)?.is_some() {
                break;
            }
        }
        if session.id == 0 {
            return Err(io::Error::other("the server refused to open a session"));
        }
        stream.socket.set_nonblocking(true)?;
        Ok(Connection {
            servers: Arc::clone(servers),
            server,
            stream: stream.map(TcpStream::from_std),
            link: Link::Up,
            session,
            out: Vec::new(),
            written: 0,
            head: [0; HEAD],
            head_len: 0,
            body_left: 0,
            flights: VecDeque::with_capacity(depth),
            next_xid: 1,
            heard: Instant::now(),
        })
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream.socket
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Has no server taken the session yet?
    pub(super) fn is_apart(&self) -> bool {
        !matches!(self.link, Link::Up)
    }

    /// When bytes came last.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    fn has_stream(&self) -> bool {
        matches!(self.link, Link::Up | Link::Joining(..))
    }

    /// Fills up to `depth` requests in flight and writes what the socket takes.
    pub(super) fn send(&mut self, work: &mut impl Work, index: usize, depth: usize, now: Instant) {
        while matches!(self.link, Link::Up) && self.flights.len() < depth {
            let Some(kind) = work.next(index, self.next_xid, &mut self.out) else {
                break;
            };
            self.flights.push_back(Flight {
                xid: self.next_xid,
                kind,
                sent: now,
            });
            self.next_xid = self.next_xid.checked_add(1).unwrap_or(1);
        }
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while self.has_stream() && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => self.fail(&err),
            }
        }
        self.out.clear();
        self.written = 0;
        // What does not leave now leaves with the next event of the socket.
        let _ = self.stream.flush();
    }

    /// Reads all that has arrived and answers the moment at which it did.
    pub(super) fn receive(&mut self, buffer: &mut [u8], tally: &mut Tally, gaps: &Gaps) -> Instant {
        let mut now = Instant::now();
        let writes = tally.writes.len();
        while self.has_stream() {
            match self.stream.read(buffer) {
                Ok(0) => self.fail(&"closed by the server"),
                Ok(n) => {
                    now = Instant::now();
                    self.heard = now;
                    self.accept(&buffer[..n], now, tally);
                    // Less than was asked for is all there is; the next byte wakes the loop.
                    if n < buffer.len() && !self.stream.holds_back() {
                        break;
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => self.fail(&err),
            }
        }
        if tally.writes.len() > writes {
            gaps.acknowledged(now);
        }
        now
    }

    fn accept(&mut self, input: &[u8], now: Instant, tally: &mut Tally) {
        let Link::Joining(_, answer) = &mut self.link else {
            return self.parse(input, now, tally);
        };
        answer.extend_from_slice(input);
        match self.session.welcome(answer) {
            Ok(None) => {}
            Ok(Some(end)) => {
                let rest = answer.split_off(end);
                self.link = Link::Up;
                if self.session.id == 0 {
                    tally.count_error(ErrorCode::SESSION_EXPIRED);
                    self.fail(&"the session has expired");
                } else {
                    self.parse(&rest, now, tally);
                }
            }
            Err(err) => self.fail(&err),
        }
    }

    /// Recognises replies by their heads; bodies are passed over.
    fn parse(&mut self, mut input: &[u8], now: Instant, tally: &mut Tally) {
        while !input.is_empty() {
            if self.head_len < HEAD {
                let n = input.len().min(HEAD - self.head_len);
                self.head[self.head_len..self.head_len + n].copy_from_slice(&input[..n]);
                self.head_len += n;
                input = &input[n..];
                if self.head_len < HEAD {
                    return;
                }
                let [a, b, c, d, ..] = self.head;
                match usize::try_from(i32::from_be_bytes([a, b, c, d])) {
                    Ok(len) if len >= ReplyHeader::MIN_SIZE => {
                        self.body_left = len - ReplyHeader::MIN_SIZE;
                    }
                    _ => return self.fail(&"a reply of impossible length"),
                }
            }
            let n = input.len().min(self.body_left);
            self.body_left -= n;
            input = &input[n..];
            if self.body_left == 0 {
                self.head_len = 0;
                match ReplyHeader::from_slice(&self.head[frame::LENGTH_SIZE..]) {
                    Ok(header) => self.complete(&header, now, tally),
                    Err(err) => return self.fail(&err),
                }
            }
        }
    }

    fn complete(&mut self, header: &ReplyHeader, now: Instant, tally: &mut Tally) {
        if header.xid == special_xid::NOTIFICATION {
            tally.events += 1;
            return;
        }
        self.session.zxid = self.session.zxid.max(header.zxid);
        match self.flights.pop_front() {
            Some(flight) if flight.xid == header.xid => {
                tally.record(flight.kind, now - flight.sent, header.err);
            }
            _ => self.fail(&"a reply to no request, or out of order"),
        }
    }

    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        if let Link::Joining(..) = self.link {
            return self.leave(Instant::now() + PAUSE);
        }
        let server = self.servers.addresses[self.server];
        self.link = Link::Broken(format!("connection to {server}: {reason}"));
    }

    /// Counts a connection that broke, and the requests that will have no answer.
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        let Link::Broken(reason) = &mut self.link else {
            return;
        };
        tally.lost.push(std::mem::take(reason));
        tally.unanswered += self.flights.len() as u64;
        self.leave(Instant::now());
    }

    /// Gives up the server; the session will be presented to the next one at that moment.
    fn leave(&mut self, next_attempt: Instant) {
        // It may be gone already.
        let _ = self.stream.socket.shutdown(std::net::Shutdown::Both);
        self.flights.clear();
        self.out.clear();
        (self.written, self.head_len, self.body_left) = (0, 0, 0);
        self.server = (self.server + 1) % self.servers.addresses.len();
        self.link = Link::Down(next_attempt);
    }

    /// Gives up a server that is silent, and tries the next one. Answers whether there is a new
    /// stream, which wants to be registered.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        let is_late = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        match &self.link {
            Link::Up => {
                let oldest = self.flights.front().map(|flight| flight.sent);
                if oldest.is_some_and(|sent| is_late(sent.max(self.heard))) {
                    self.fail(&format_args!("no answer for {PATIENCE:?}"));
                }
            }
            Link::Joining(since, _) if is_late(*since) => self.leave(now + PAUSE),
            Link::Down(at) if now >= *at => match self.dial() {
                Ok(stream) => {
                    self.stream = stream;
                    self.out = self.session.greeting();
                    self.link = Link::Joining(now, Vec::new());
                    return true;
                }
                Err(_) => self.leave(now + PAUSE),
            },
            _ => {}
        }
        false
    }

    fn dial(&self) -> io::Result<Stream<TcpStream>> {
        let socket = TcpStream::connect(self.servers.addresses[self.server])?;
        socket.set_nodelay(true)?;
        Stream::new(socket, &self.servers, self.server)
    }
}

/// More than the answer to a greeting takes; nothing larger is a ZooKeeper server's.
const LONGEST_WELCOME: usize = 64;

impl Session {
    /// The frame that presents the session to a server, or asks for a new one.
    fn greeting(&self) -> Vec<u8> {
        const NONE: [u8; 16] = [0; 16];
        let mut out = Vec::new();
        frame::write(&mut out, |out| {
            ConnectRequest {
                protocol_version: 0,
                last_zxid_seen: self.zxid,
                timeout: SESSION_TIMEOUT_MS,
                session_id: self.id,
                password: Some(if self.id == 0 { &NONE } else { &self.password }),
                read_only: Some(false),
            }
            .encode(out);
        });
        out
    }

    /// Takes in the server's answer, which leaves no session where the server refuses. Answers the
    /// end of the answer, or `None` while it is not complete.
    fn welcome(&mut self, answer: &[u8]) -> io::Result<Option<usize>> {
        let foreign = || io::Error::other("what listens there does not speak ZooKeeper's protocol");
        let Some(body) = frame::split(answer, LONGEST_WELCOME).map_err(|_| foreign())? else {
            return Ok(None);
        };
        let response = ConnectResponse::from_slice(body).map_err(io::Error::other)?;
        if response.timeout <= 0 {
            *self = Session::default();
        } else {
            self.id = response.session_id;
            self.password = response.password.unwrap_or_default().to_vec();
        }
        Ok(Some(frame::LENGTH_SIZE + body.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_presented_as_it_was_given() {
        let mut session = Session::default();
        let mut answer = Vec::new();
        frame::write(&mut answer, |out| {
            ConnectResponse {
                protocol_version: 0,
                timeout: 4000,
                session_id: 7,
                password: Some(&[9; 16]),
                read_only: Some(false),
            }
            .encode(out);
        });
        let length = answer.len();
        assert_eq!(session.welcome(&answer[..length - 1]).unwrap(), None);
        answer.push(0);
        assert_eq!(session.welcome(&answer).unwrap(), Some(length));
        session.zxid = 5;
        let greeting = session.greeting();
        let request = ConnectRequest::from_slice(&greeting[frame::LENGTH_SIZE..]).unwrap();
        assert_eq!((request.session_id, request.last_zxid_seen), (7, 5));
        assert_eq!(request.password, Some(&[9; 16][..]));
        assert!(session.welcome(b"HTTP/1.1 400 Bad Request").is_err());
    }
}
