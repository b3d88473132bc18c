//! The scripted server.

use std::io;
use std::time::Duration;

use quorate_client::{Client, ClientBuilder, State};
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, EventType, OpCode, ReplyHeader, RequestHeader,
    WatcherEvent, frame, xid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The session that scripted servers give out.
pub(crate) const SESSION: i64 = 0x1234;
pub(crate) const PASSWORD: [u8; 16] = *b"0123456789abcdef";
/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits with the deadline of all tests.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Awaits a state of the client.
pub(crate) async fn state(client: &Client, wanted: State) {
    let mut states = client.watch_state();
    let what = format!("the state {wanted}");
    within(&what, states.wait_for(|state| *state == wanted))
        .await
        .unwrap();
}

/// Listens; a test accepts each connection and plays the server on it.
pub(crate) struct Server {
    listener: TcpListener,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Server {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = within("a connection", self.listener.accept())
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            input: Vec::new(),
        }
    }

    /// Accepts a connection and grants the session.
    pub(crate) async fn serve(&self, timeout: Duration) -> Peer {
        let mut peer = self.accept().await;
        peer.hello().await;
        peer.welcome(timeout).await;
        peer
    }
}

/// A client whose session lasts long enough not to matter, and the server's end of it.
pub(crate) async fn connect(server: &Server) -> (Client, Peer) {
    connect_with(Client::builder(), server, "", Duration::from_secs(60)).await
}

pub(crate) async fn connect_with(
    builder: ClientBuilder,
    server: &Server,
    chroot: &str,
    timeout: Duration,
) -> (Client, Peer) {
    let address = format!("{}{chroot}", server.address());
    let (client, peer) = tokio::join!(builder.connect(&address), server.serve(timeout));
    (client.unwrap(), peer)
}

/// What a client says first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) session: i64,
    pub(crate) password: Vec<u8>,
    pub(crate) last_zxid: i64,
    pub(crate) timeout: i32,
    pub(crate) read_only: Option<bool>,
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) xid: i32,
    pub(crate) op: OpCode,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn decode<'a, T: Decode<'a>>(&'a self) -> T {
        T::from_slice(&self.body).unwrap()
    }

    /// The path with which most requests begin.
    pub(crate) fn path(&self) -> &str {
        self.decode()
    }
}

/// The server's end of a connection.
pub(crate) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    /// The next frame; `None` when the client has closed the connection.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let whole = frame::split(&self.input, 1 << 24).unwrap();
            if let Some(body) = whole.map(<[u8]>::to_vec) {
                self.input.drain(..frame::LENGTH_SIZE + body.len());
                return Some(body);
            }
            match within("a request", self.stream.read_buf(&mut self.input)).await {
                Ok(0) => return None,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                read => read.unwrap(),
            };
        }
    }

    async fn send(&mut self, body: &[u8]) {
        let mut out = Vec::new();
        frame::write(&mut out, |out| out.extend_from_slice(body));
        self.send_raw(&out).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// As `send_raw`, where the client may have gone.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn hello(&mut self) -> Hello {
        let frame = self.frame().await.expect("a connect request");
        let request = ConnectRequest::from_slice(&frame).unwrap();
        Hello {
            session: request.session_id,
            password: request.password.unwrap().to_vec(),
            last_zxid: request.last_zxid_seen,
            timeout: request.timeout,
            read_only: request.read_only,
        }
    }

    pub(crate) async fn welcome(&mut self, timeout: Duration) {
        self.answer_hello(SESSION, timeout, false).await;
    }

    /// Says that the session has expired.
    pub(crate) async fn expired(&mut self) {
        self.answer_hello(0, Duration::ZERO, false).await;
    }

    pub(crate) async fn answer_hello(&mut self, id: i64, timeout: Duration, read_only: bool) {
        let response = ConnectResponse {
            protocol_version: 0,
            timeout: i32::try_from(timeout.as_millis()).unwrap(),
            session_id: id,
            password: Some(&PASSWORD),
            read_only: Some(read_only),
        };
        self.send(&response.to_vec()).await;
    }

    /// The next request of whatever kind; `None` when the client has closed the connection.
    pub(crate) async fn any_request(&mut self) -> Option<Request> {
        let frame = self.frame().await?;
        let header = RequestHeader::from_slice(&frame).unwrap();
        Some(Request {
            xid: header.xid,
            op: OpCode::try_from(header.op).unwrap(),
            body: frame[8..].to_vec(),
        })
    }

    /// The next request that is not a heartbeat; heartbeats are answered.
    pub(crate) async fn request(&mut self) -> Request {
        loop {
            let request = self.any_request().await.expect("a request");
            if request.op != OpCode::Ping {
                return request;
            }
            self.reply(&request, 0, ErrorCode::OK, &Nothing).await;
        }
    }

    /// The next request, which has to be of a certain kind.
    pub(crate) async fn expect(&mut self, op: OpCode) -> Request {
        let request = self.request().await;
        assert_eq!(request.op, op, "{request:?}");
        request
    }

    /// Answers a question that comes without a frame.
    pub(crate) async fn four_letter_word(&mut self, word: &str, answer: &str) {
        let mut asked = [0; 4];
        within("a four-letter word", self.stream.read_exact(&mut asked))
            .await
            .unwrap();
        assert_eq!(asked, word.as_bytes());
        self.send_raw(answer.as_bytes()).await;
        self.stream.shutdown().await.unwrap();
    }

    /// Awaits that the client closes the connection, whatever it sends before.
    pub(crate) async fn gone(mut self) {
        while self.frame().await.is_some() {}
    }

    pub(crate) async fn reply(
        &mut self,
        request: &Request,
        zxid: i64,
        err: ErrorCode,
        body: &impl Encode,
    ) {
        let xid = request.xid;
        let mut out = ReplyHeader { xid, zxid, err }.to_vec();
        body.encode(&mut out);
        self.send(&out).await;
    }

    pub(crate) async fn ok(&mut self, request: &Request, body: &impl Encode) {
        self.reply(request, 7, ErrorCode::OK, body).await;
    }

    pub(crate) async fn refuse(&mut self, request: &Request, err: ErrorCode) {
        self.reply(request, 7, err, &Nothing).await;
    }

    pub(crate) async fn event(&mut self, kind: EventType, path: &str, zxid: i64) {
        let header = ReplyHeader {
            xid: xid::NOTIFICATION,
            zxid,
            err: ErrorCode::OK,
        };
        let mut out = header.to_vec();
        WatcherEvent::new(kind, path).encode(&mut out);
        self.send(&out).await;
    }
}

/// The body of a reply without one.
pub(crate) struct Nothing;

impl Encode for Nothing {
    fn encode(&self, _: &mut Vec<u8>) {}
}
