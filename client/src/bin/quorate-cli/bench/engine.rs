//! The load generator: one thread drives many connections.
//!
//! It shares a machine with the server under load, so it does as little as it can: one wait for
//! all connections, one read and one write for everything that a connection has ready, replies
//! recognised by their headers and passed over, and nothing allocated for an operation.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, OpCode, ReplyHeader, frame, xid as special_xid,
};

use super::BenchError;
use super::requests::{Kind, Once, Work, request};

/// Asked of the server for every connection; long enough that an idle connection of a short run
/// needs no heartbeats.
const SESSION_TIMEOUT_MS: i32 = 60_000;

/// How long a connection may take to be established, and a server to answer anything at all.
const SILENCE: Duration = Duration::from_secs(20);

/// One read takes this much: the replies to many requests, yet little enough to stay in the cache.
const READ_SIZE: usize = 64 * 1024;

/// Seen by all generator threads of a run, and by the thread that shows its progress.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Operations answered since the start of the phase.
    pub(super) done: AtomicU64,
    /// Set to end the measurement early.
    pub(super) stop: AtomicBool,
}

impl Shared {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a phase measured.
pub(super) struct Tally {
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
    pub(super) errors: BTreeMap<i32, u64>,
    /// Watch events.
    pub(super) events: u64,
    /// Operations without an answer, because their connection was lost.
    pub(super) unanswered: u64,
    pub(super) lost: Vec<String>,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
}

impl Tally {
    pub(super) fn new() -> Result<Self, BenchError> {
        // Nanoseconds up to a minute, to three digits.
        let histogram = || Histogram::new_with_max(60_000_000_000, 3);
        Ok(Tally {
            reads: histogram()?,
            writes: histogram()?,
            errors: BTreeMap::new(),
            events: 0,
            unanswered: 0,
            lost: Vec::new(),
            elapsed: Duration::ZERO,
        })
    }

    pub(super) fn operations(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    /// Adds what another thread measured in the same phase.
    pub(super) fn add(&mut self, other: &Tally) -> Result<(), BenchError> {
        self.reads.add(&other.reads)?;
        self.writes.add(&other.writes)?;
        for (&code, &count) in &other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.events += other.events;
        self.unanswered += other.unanswered;
        self.lost.extend_from_slice(&other.lost);
        self.elapsed = self.elapsed.max(other.elapsed);
        Ok(())
    }

    fn record(&mut self, kind: Kind, took: Duration, err: ErrorCode) {
        if err != ErrorCode::OK {
            *self.errors.entry(err.0).or_default() += 1;
            return;
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        match kind {
            Kind::Read => self.reads.saturating_record(nanos),
            Kind::Write => self.writes.saturating_record(nanos),
        }
    }
}

/// When a phase is over: always once its requests are answered, and these besides.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    /// Sends no requests after this moment.
    pub(super) until: Option<Instant>,
    /// Waits for this many watch events.
    pub(super) events: u64,
}

/// The connections of one generator thread.
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    depth: usize,
    buffer: Vec<u8>,
}

impl Engine {
    /// Opens `count` connections, spread over `servers` beginning at `offset`, each of which
    /// keeps up to `depth` requests in flight.
    pub(super) fn connect(
        servers: &[SocketAddr],
        offset: usize,
        count: usize,
        depth: usize,
    ) -> Result<Self, BenchError> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let server = servers[(offset + index) % servers.len()];
            let mut connection = Connection::open(server, depth)
                .map_err(|source| BenchError::Connect { server, source })?;
            poll.registry().register(
                &mut connection.stream,
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            connections.push(connection);
        }
        Ok(Engine {
            poll,
            events: Events::with_capacity(1024),
            connections,
            depth,
            buffer: vec![0; READ_SIZE],
        })
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Sends what `work` yields until `goal` is reached, and answers what it measured.
    pub(super) fn run(
        &mut self,
        work: &mut impl Work,
        goal: Goal,
        shared: &Shared,
    ) -> Result<Tally, BenchError> {
        let mut tally = Tally::new()?;
        let started = Instant::now();
        let mut heard = started;
        let mut in_flight = 0;
        let mut counted = 0;
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if !shared.is_stopped() {
                connection.send(work, index, self.depth, started);
            }
            connection.settle(&mut tally);
            in_flight += connection.flights.len();
        }
        let alive = self.connections.iter().filter(|c| !c.settled).count();
        let told = |tally: &Tally| tally.events >= goal.events || tally.lost.len() >= alive;
        while in_flight > 0 || !(told(&tally) || shared.is_stopped()) {
            match self.poll.poll(&mut self.events, Some(SILENCE)) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            if self.events.is_empty() && heard.elapsed() >= SILENCE {
                return Err(BenchError::Silent(SILENCE));
            }
            for event in &self.events {
                let Token(index) = event.token();
                let connection = &mut self.connections[index];
                let before = connection.flights.len();
                heard = connection.receive(&mut self.buffer, &mut tally);
                let open = goal.until.is_none_or(|until| heard < until) && !shared.is_stopped();
                if open {
                    connection.send(work, index, self.depth, heard);
                } else {
                    connection.flush();
                }
                connection.settle(&mut tally);
                in_flight = in_flight + connection.flights.len() - before;
            }
            shared
                .done
                .fetch_add(tally.operations() - counted, Ordering::Relaxed);
            counted = tally.operations();
        }
        tally.elapsed = heard - started;
        Ok(tally)
    }

    /// Ends the sessions, so that the server does not have to wait for them to expire.
    pub(super) fn close(mut self) {
        let mut work = Once::new(0..self.connections(), |xid, out| {
            request(OpCode::CloseSession, xid, out, |_| {});
        });
        // The run is over; a server that is gone by now takes nothing away from it.
        let _ = self.run(&mut work, Goal::default(), &Shared::default());
    }
}

/// A request without an answer.
struct Flight {
    xid: i32,
    kind: Kind,
    sent: Instant,
}

/// Bytes in front of every reply's body: length and header.
const HEAD: usize = frame::LENGTH_SIZE + ReplyHeader::MIN_SIZE;

struct Connection {
    server: SocketAddr,
    stream: TcpStream,
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
    failure: Option<String>,
    /// The failure has been counted.
    settled: bool,
}

impl Connection {
    /// Connects and opens a session. Blocks.
    fn open(server: SocketAddr, depth: usize) -> io::Result<Self> {
        let mut stream = std::net::TcpStream::connect_timeout(&server, SILENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        shake_hands(&mut stream)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            server,
            stream: TcpStream::from_std(stream),
            out: Vec::new(),
            written: 0,
            head: [0; HEAD],
            head_len: 0,
            body_left: 0,
            flights: VecDeque::with_capacity(depth),
            next_xid: 1,
            failure: None,
            settled: false,
        })
    }

    /// Fills up to `depth` requests in flight and writes what the socket takes.
    fn send(&mut self, work: &mut impl Work, index: usize, depth: usize, now: Instant) {
        while self.failure.is_none() && self.flights.len() < depth {
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

    fn flush(&mut self) {
        while self.failure.is_none() && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => self.fail(&err),
            }
        }
        self.out.clear();
        self.written = 0;
    }

    /// Reads all that has arrived and answers the moment at which it did.
    fn receive(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Instant {
        let mut now = Instant::now();
        while self.failure.is_none() {
            match self.stream.read(buffer) {
                Ok(0) => self.fail(&"closed by the server"),
                Ok(n) => {
                    now = Instant::now();
                    self.parse(&buffer[..n], now, tally);
                    // Less than was asked for is all there is; the next byte wakes the loop.
                    if n < buffer.len() {
                        break;
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => self.fail(&err),
            }
        }
        now
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
        match self.flights.pop_front() {
            Some(flight) if flight.xid == header.xid => {
                tally.record(flight.kind, now - flight.sent, header.err);
            }
            _ => self.fail(&"a reply to no request, or out of order"),
        }
    }

    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        self.failure = Some(format!("connection to {}: {reason}", self.server));
    }

    /// Counts a failure once, and the requests that will have no answer.
    fn settle(&mut self, tally: &mut Tally) {
        if let Some(reason) = &self.failure
            && !self.settled
        {
            self.settled = true;
            tally.lost.push(reason.clone());
            tally.unanswered += self.flights.len() as u64;
            self.flights.clear();
        }
    }
}

/// Opens a new session on a connected, blocking stream.
fn shake_hands(stream: &mut std::net::TcpStream) -> io::Result<()> {
    let mut out = Vec::new();
    frame::write(&mut out, |out| {
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout: SESSION_TIMEOUT_MS,
            session_id: 0,
            password: Some(&[0; 16]),
            read_only: Some(false),
        }
        .encode(out);
    });
    stream.write_all(&out)?;
    let mut length = [0; frame::LENGTH_SIZE];
    stream.read_exact(&mut length)?;
    // The longest answer is 37 bytes; nothing larger is a ZooKeeper server's.
    const LONGEST: usize = 64;
    let len = usize::try_from(i32::from_be_bytes(length))
        .ok()
        .filter(|len| *len <= LONGEST)
        .ok_or_else(|| {
            io::Error::other("what listens there does not speak ZooKeeper's protocol")
        })?;
    let mut body = [0; LONGEST];
    stream.read_exact(&mut body[..len])?;
    let response = ConnectResponse::from_slice(&body[..len]).map_err(io::Error::other)?;
    if response.timeout <= 0 {
        return Err(io::Error::other("the server refused to open a session"));
    }
    Ok(())
}
