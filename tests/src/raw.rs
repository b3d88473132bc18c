//! A client that sends any bytes and hides nothing of what comes back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use quorate_proto::jute::{Decode, Encode, Reader};
use quorate_proto::{
    Acl, ConnectRequest, ConnectResponse, CreateRequest, ErrorCode, EventType, OpCode, Perms,
    ReplyHeader, RequestHeader, WatcherEvent, frame, xid,
};
use socket2::SockRef;

/// How long [`RawClient`] waits for an answer unless it is told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A session as the server granted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The session id; 0 where the server refused.
    pub id: i64,
    /// The password to reattach with.
    pub password: Vec<u8>,
    /// The negotiated timeout in milliseconds; 0 where the server refused.
    pub timeout: i32,
}

/// What a server sends behind the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The answer to a request, with the bytes behind its header.
    Reply(ReplyHeader, Vec<u8>),
    /// A watch event, with the zxid of its header.
    Event(i64, EventType, String),
    /// The end of the connection, whether orderly or by a reset.
    Closed,
}

/// A connection to a server, in the hands of a test.
///
/// ```no_run
/// use quorate_proto::{OpCode, PathRecord};
/// use quorate_tests::raw::RawClient;
///
/// let mut client = RawClient::connect("127.0.0.1:2181".parse().unwrap(), 10_000);
/// let (header, _stat) = client.call(OpCode::Sync, &PathRecord { path: "/" });
/// assert_eq!(header.err.0, 0);
/// ```
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    session: Session,
    input: Vec<u8>,
    /// Bytes of `input` that are used up.
    used: usize,
    patience: Duration,
    next_xid: i32,
    /// Events that arrived before the reply that [`RawClient::call`] waited for.
    events: Vec<(i64, EventType, String)>,
}

impl RawClient {
    /// Opens a connection and sends nothing.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        Ok(RawClient {
            stream,
            session: Session {
                id: 0,
                password: vec![0; 16],
                timeout: 0,
            },
            input: Vec::new(),
            used: 0,
            patience: PATIENCE,
            next_xid: 1,
            events: Vec::new(),
        })
    }

    /// Opens a connection with a new session; `timeout` in milliseconds.
    pub fn connect(address: SocketAddr, timeout: i32) -> Self {
        let session = Session {
            id: 0,
            password: vec![0; 16],
            timeout,
        };
        Self::attach(address, &session).expect("the server grants a session")
    }

    /// Opens a connection with a session of another connection. `None` where the server refuses
    /// the session; how it did so can be seen with [`RawClient::open`] and
    /// [`RawClient::handshake`].
    pub fn attach(address: SocketAddr, session: &Session) -> Option<Self> {
        let mut client = Self::open(address).expect("the server accepts");
        let granted = client.handshake(session, 0)?;
        (granted.timeout > 0).then_some(client)
    }

    /// Asks for `session`, with id 0 for a new one, and answers what the server grants; `None`
    /// where it closes the connection without a word.
    pub fn handshake(&mut self, session: &Session, last_zxid_seen: i64) -> Option<Session> {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen,
            timeout: session.timeout,
            session_id: session.id,
            password: Some(&session.password),
            read_only: Some(false),
        };
        self.send_frame(&request.to_vec()).ok()?;
        let answer = self.read_frame().expect("an answer in time")?;
        let answer = ConnectResponse::from_slice(&answer).expect("a connect response");
        self.session = Session {
            id: answer.session_id,
            password: answer.password.unwrap_or_default().to_vec(),
            timeout: answer.timeout,
        };
        Some(self.session.clone())
    }

    /// The session of the connection.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Takes note of a session that was granted to a handshake sent by [`RawClient::send_frame`].
    pub fn set_session(&mut self, session: Session) {
        self.session = session;
    }

    /// The client's own end of the connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Waits for at most `patience` in every read from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends `body` with its length in front.
    pub fn send_frame(&mut self, body: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(body.len() + frame::LENGTH_SIZE);
        frame::write(&mut out, |out| out.extend_from_slice(body));
        self.send(&out)
    }

    /// Sends a request with a header of any numbers.
    pub fn send_request(&mut self, xid: i32, op: i32, body: &[u8]) -> io::Result<()> {
        let mut out = RequestHeader { xid, op }.to_vec();
        out.extend_from_slice(body);
        self.send_frame(&out)
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the connection end with a reset when this client is dropped.
    pub fn reset_on_drop(&self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    ///
    /// # Errors
    /// `TimedOut` if nothing complete arrives in time. What has arrived is kept for the next call.
    pub fn read_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + self.patience;
        loop {
            let unread = &self.input[self.used..];
            let found = frame::split(unread, i32::MAX as usize)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if let Some(body) = found {
                let body = body.to_vec();
                self.used += frame::LENGTH_SIZE + body.len();
                return Ok(Some(body));
            }
            self.input.drain(..self.used);
            self.used = 0;
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there, waiting until there is something; false at the end of the connection.
    fn fill(&mut self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let start = self.input.len();
        self.input.resize(start + 64 * 1024, 0);
        let result = self.stream.read(&mut self.input[start..]);
        self.input.truncate(start + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(n) => Ok(n > 0),
            Err(e) if is_end(e.kind()) => Ok(false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            Err(e) => Err(e),
        }
    }

    /// The next reply or event.
    ///
    /// # Errors
    /// `TimedOut` as for [`RawClient::read_frame`], `InvalidData` for bytes that are neither.
    pub fn read(&mut self) -> io::Result<Message> {
        let invalid = |error| io::Error::new(ErrorKind::InvalidData, error);
        let Some(frame) = self.read_frame()? else {
            return Ok(Message::Closed);
        };
        let mut reader = Reader::new(&frame);
        let header: ReplyHeader = reader.read().map_err(invalid)?;
        if header.xid != xid::NOTIFICATION {
            return Ok(Message::Reply(header, reader.remaining().to_vec()));
        }
        let event: WatcherEvent<'_> = reader.read().map_err(invalid)?;
        Ok(Message::Event(
            header.zxid,
            event.kind,
            event.path.to_owned(),
        ))
    }

    /// Sends a request and waits for its reply; events that arrive before it are kept for
    /// [`RawClient::take_events`].
    pub fn call(&mut self, op: OpCode, body: &impl Encode) -> (ReplyHeader, Vec<u8>) {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.send_request(xid, op.number(), &body.to_vec())
            .expect("the connection stands");
        loop {
            match self.read().expect("an answer in time") {
                Message::Reply(header, body) => {
                    assert_eq!(header.xid, xid, "a reply to another request");
                    return (header, body);
                }
                Message::Event(zxid, kind, path) => self.events.push((zxid, kind, path)),
                Message::Closed => panic!("the server closed the connection instead of {op:?}"),
            }
        }
    }

    /// Creates a znode that everybody may use, and answers the code.
    pub fn create(&mut self, path: &str, data: &[u8], flags: i32) -> ErrorCode {
        let request = CreateRequest {
            path,
            data: Some(data),
            acl: Some(vec![Acl::world(Perms::ALL)]),
            flags,
        };
        self.call(OpCode::Create, &request).0.err
    }

    /// The events that have arrived so far.
    pub fn take_events(&mut self) -> Vec<(i64, EventType, String)> {
        std::mem::take(&mut self.events)
    }
}

/// Is it one of the ways in which a connection ends that a peer closed?
fn is_end(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
    )
}
