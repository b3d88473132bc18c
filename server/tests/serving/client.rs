//! A client that sends what a test tells it, and shows all that comes back.

use std::net::SocketAddr;
use std::time::Duration;

use quorate_proto::jute::{Decode, Encode, Reader};
use quorate_proto::{
    Acl, AuthPacket, ConnectRequest, ConnectResponse, CreateRequest, ErrorCode, EventType, OpCode,
    PathRecord, Perms, ReplyHeader, RequestHeader, SetDataRequest, VersionRequest, WatchedRequest,
    WatcherEvent, frame, xid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// What a server sends behind the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Reply(ReplyHeader, Vec<u8>),
    Event(EventType, String),
    Closed,
}

impl Message {
    /// The xid and the code of a reply.
    pub(crate) fn outcome(&self) -> (i32, ErrorCode) {
        match self {
            Message::Reply(header, _) => (header.xid, header.err),
            other => panic!("no reply but {other:?}"),
        }
    }
}

/// A session as the server granted it; timeout 0 where it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: i64,
    pub(crate) password: Vec<u8>,
    pub(crate) timeout: i32,
}

impl Session {
    /// What to ask for to get a new one.
    pub(crate) fn new(timeout: i32) -> Self {
        Session {
            id: 0,
            password: vec![0; 16],
            timeout,
        }
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    last_xid: i32,
    pub(crate) last_zxid_seen: i64,
    /// Is it content with a server that only reads?
    pub(crate) read_only: bool,
    pub(crate) session: Session,
}

impl Client {
    /// Opens a connection and says nothing.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Client {
            stream: TcpStream::connect(address).await.unwrap(),
            input: Vec::new(),
            last_xid: 0,
            last_zxid_seen: 0,
            read_only: false,
            session: Session::new(0),
        }
    }

    /// Opens a connection with a session that lasts.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_for(address, 10_000).await
    }

    /// Opens a connection with a session of `millis`.
    pub(crate) async fn connect_for(address: SocketAddr, millis: i32) -> Self {
        let client = Self::resume(address, &Session::new(millis)).await;
        assert!(client.session.timeout > 0, "the session was refused");
        client
    }

    /// Opens a connection and asks for `session`; its field `session` tells the outcome.
    pub(crate) async fn resume(address: SocketAddr, session: &Session) -> Self {
        let mut client = Self::open(address).await;
        let answer = client.handshake(session).await;
        client.session = answer.expect("an answer");
        client
    }

    /// Asks for `session`. `None` where the server closes the connection without a word.
    pub(crate) async fn handshake(&mut self, session: &Session) -> Option<Session> {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid_seen,
            timeout: session.timeout,
            session_id: session.id,
            password: Some(&session.password),
            read_only: Some(self.read_only),
        };
        let mut out = Vec::new();
        frame::write(&mut out, |out| request.encode(out));
        self.send(&out).await;
        let answer = self.frame().await?;
        let answer = ConnectResponse::from_slice(&answer).unwrap();
        Some(Session {
            id: answer.session_id,
            password: answer.password.unwrap_or_default().to_vec(),
            timeout: answer.timeout,
        })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends where the server may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// The body of the next frame; `None` at the end of the connection.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        let read = async {
            loop {
                if let Some(frame) = frame::split(&self.input, i32::MAX as usize).unwrap() {
                    let body = frame.to_vec();
                    self.input.drain(..frame::LENGTH_SIZE + body.len());
                    return Some(body);
                }
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        timeout(PATIENCE, read).await.expect("a frame in time")
    }

    /// The next reply or event.
    pub(crate) async fn next(&mut self) -> Message {
        let Some(frame) = self.frame().await else {
            return Message::Closed;
        };
        let mut reader = Reader::new(&frame);
        let header: ReplyHeader = reader.read().unwrap();
        if header.xid != xid::NOTIFICATION {
            return Message::Reply(header, reader.remaining().to_vec());
        }
        let event: WatcherEvent<'_> = reader.read().unwrap();
        Message::Event(event.kind, event.path.to_owned())
    }

    /// Sends a request and takes the next message for its reply.
    pub(crate) async fn call(&mut self, op: OpCode, body: &impl Encode) -> (ErrorCode, Vec<u8>) {
        self.last_xid += 1;
        let xid = self.last_xid;
        self.send(&request(xid, op, body)).await;
        match self.next().await {
            Message::Reply(header, body) => {
                assert_eq!(header.xid, xid);
                (header.err, body)
            }
            other => panic!("{other:?} instead of the reply to {op:?}"),
        }
    }

    /// Creates a znode that everybody may use; answers the code.
    pub(crate) async fn create(&mut self, path: &str, data: &[u8]) -> ErrorCode {
        self.call(OpCode::Create, &znode(path, data, 0)).await.0
    }

    pub(crate) async fn delete(&mut self, path: &str) -> ErrorCode {
        let request = VersionRequest { path, version: -1 };
        self.call(OpCode::Delete, &request).await.0
    }

    pub(crate) async fn set(&mut self, path: &str, data: &[u8]) -> ErrorCode {
        self.call(OpCode::SetData, &data_of(path, data)).await.0
    }

    pub(crate) async fn exists(&mut self, path: &str) -> bool {
        let (err, _) = self.call(OpCode::Exists, &unwatched(path)).await;
        err == ErrorCode::OK
    }

    /// Proves a user; answers the code.
    pub(crate) async fn authenticate(&mut self, scheme: &str, credential: &[u8]) -> ErrorCode {
        let packet = AuthPacket {
            kind: 0,
            scheme,
            auth: Some(credential),
        };
        self.send(&request(xid::AUTH, OpCode::Auth, &packet)).await;
        self.next().await.outcome().1
    }

    /// Waits until the server has done all that was asked before.
    pub(crate) async fn sync(&mut self) {
        let root = PathRecord { path: "/" };
        assert_eq!(self.call(OpCode::Sync, &root).await.0, ErrorCode::OK);
    }
}

/// The frame of a request.
pub(crate) fn request(xid: i32, op: OpCode, body: &impl Encode) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, |out| {
        RequestHeader {
            xid,
            op: op.number(),
        }
        .encode(out);
        body.encode(out);
    });
    out
}

/// A request to create a znode that everybody may use.
pub(crate) fn znode<'a>(path: &'a str, data: &'a [u8], flags: i32) -> CreateRequest<'a> {
    CreateRequest {
        path,
        data: Some(data),
        acl: Some(vec![Acl::world(Perms::ALL)]),
        flags,
    }
}

pub(crate) fn data_of<'a>(path: &'a str, data: &'a [u8]) -> SetDataRequest<'a> {
    SetDataRequest {
        path,
        data: Some(data),
        version: -1,
    }
}

pub(crate) fn watched(path: &str) -> WatchedRequest<'_> {
    WatchedRequest { path, watch: true }
}

pub(crate) fn unwatched(path: &str) -> WatchedRequest<'_> {
    WatchedRequest { path, watch: false }
}

/// The body of a request that has none.
pub(crate) struct Nothing;

impl Encode for Nothing {
    fn encode(&self, _: &mut Vec<u8>) {}
}
