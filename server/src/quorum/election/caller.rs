//! The task that keeps the connection to one other server.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::greeting::{HostPort, Refusal};
use super::{Outbox, Port};
use crate::zab::election::Notification;
use crate::zab::{Input, Sid};

/// Longest frame.
const MAX_FRAME: usize = 512 << 10;
/// Bytes read at once.
const READ_SIZE: usize = 4 << 10;
/// Between two attempts to connect. Without anything new to send it is doubled with each that
/// fails.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// As long as that at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a server that was asked to call back may take before it is asked again.
const CALL_BACK_TIME: Duration = Duration::from_millis(500);
/// A connection that ends sooner was not wanted at the other end: it is not made again at once.
pub(super) const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// What is heard of a server from outside of its connection.
#[derive(Debug)]
pub(super) enum Word {
    /// It has connected, and is the one to.
    Accepted(TcpStream),
    /// It wants to be connected to, at one of these addresses if they are not known.
    CallBack(Vec<HostPort>),
}

/// See the [module](self).
pub(super) struct Caller {
    port: Arc<Port>,
    sid: Sid,
    outbox: Arc<Outbox>,
    words: mpsc::Receiver<Word>,
    /// Where it said that it is.
    hint: Vec<HostPort>,
    /// No attempt is made before, unless it asks for one.
    not_before: Instant,
    /// When what waits is reason enough for another attempt.
    retry_at: Instant,
    pause: Duration,
    /// What was reported last.
    reachable: Option<bool>,
}

/// What has come of an attempt to connect.
enum Dialed {
    Connected(TcpStream),
    /// It was asked to connect to us.
    Asked,
    Failed(io::Error),
}

impl Caller {
    pub(super) fn new(
        port: Arc<Port>,
        sid: Sid,
        outbox: Arc<Outbox>,
        words: mpsc::Receiver<Word>,
    ) -> Self {
        Caller {
            port,
            sid,
            outbox,
            words,
            hint: Vec::new(),
            not_before: Instant::now(),
            retry_at: Instant::now(),
            pause: SHORTEST_PAUSE,
            reachable: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut connection = None;
        loop {
            connection = match connection {
                Some(stream) => self.talk(stream).await,
                None if self.retires() => return,
                None => self.wait().await,
            };
        }
    }

    /// A server in no configuration is forgotten once it has gone.
    fn retires(&self) -> bool {
        let mut peers = self.port.peers.lock();
        let over = !self.is_member() && self.words.is_empty() && self.reachable.is_some();
        if over {
            peers.remove(&self.sid);
        }
        over
    }

    fn is_member(&self) -> bool {
        self.port.addresses.read().contains_key(&self.sid)
    }

    /// Waits for a reason to have a connection, and for the connection.
    async fn wait(&mut self) -> Option<TcpStream> {
        let (outbox, not_before, retry_at) = (&self.outbox, self.not_before, self.retry_at);
        let wanted = async {
            tokio::select! {
                () = outbox.filled.notified() => sleep_until(not_before).await,
                () = sleep_until(retry_at), if !outbox.is_empty() => {}
            }
        };
        tokio::select! {
            Some(word) = self.words.recv() => match word {
                Word::Accepted(stream) => return Some(stream),
                Word::CallBack(hint) => self.hint = hint,
            },
            () = wanted => {}
        }
        self.connect().await
    }

    /// Connects, unless the other server is faster.
    async fn connect(&mut self) -> Option<TcpStream> {
        let (port, hint) = (Arc::clone(&self.port), self.hint.clone());
        let mut dialing = pin!(dial(&port, self.sid, &hint));
        let dialed = loop {
            tokio::select! {
                dialed = &mut dialing => break dialed,
                Some(word) = self.words.recv() => match word {
                    Word::Accepted(stream) => return Some(stream),
                    Word::CallBack(hint) => self.hint = hint,
                },
            }
        };
        match dialed {
            Dialed::Connected(stream) => return Some(stream),
            Dialed::Asked => {
                self.not_before = Instant::now() + CALL_BACK_TIME;
                self.retry_at = self.not_before;
            }
            Dialed::Failed(error) => {
                tracing::debug!(server = self.sid, %error, "no connection for elections");
                self.back_off();
            }
        }
        None
    }

    /// Exchanges votes for as long as the connection lasts, and gives the one that takes its place.
    async fn talk(&mut self, stream: TcpStream) -> Option<TcpStream> {
        let since = Instant::now();
        self.pause = SHORTEST_PAUSE;
        self.report(true);
        self.outbox.repeat_last();
        let (port, outbox) = (Arc::clone(&self.port), Arc::clone(&self.outbox));
        let mut conversation = pin!(converse(&port, self.sid, &outbox, stream));
        // It may have asked before it saw this connection, or because it has lost it.
        let mut called = false;
        loop {
            tokio::select! {
                () = &mut conversation => break,
                Some(word) = self.words.recv() => match word {
                    Word::Accepted(newer) => return Some(newer),
                    Word::CallBack(hint) => {
                        self.hint = hint;
                        called = true;
                    }
                },
            }
            if called && since.elapsed() >= SHORTEST_LIFE {
                called = false;
                let hint = self.hint.clone();
                tokio::select! {
                    () = &mut conversation => break,
                    dialed = dial(&port, self.sid, &hint) => if let Dialed::Connected(newer) = dialed {
                        return Some(newer);
                    }
                }
            }
        }
        if called || self.is_member() && since.elapsed() >= SHORTEST_LIFE {
            // A process that is killed takes connections for a moment longer: it counts as gone
            // until there is another conversation.
            self.report(false);
            return self.connect().await;
        }
        self.back_off();
        None
    }

    fn back_off(&mut self) {
        let now = Instant::now();
        self.not_before = now + SHORTEST_PAUSE;
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.report(false);
    }

    fn report(&mut self, reachable: bool) {
        let sid = self.sid;
        if self.reachable.replace(reachable) != Some(reachable) {
            match reachable {
                true => tracing::info!(server = sid, "connected for elections"),
                false => tracing::info!(server = sid, "cannot be reached for elections"),
            }
        }
        (self.port.on_event)(Input::Reachable { sid, reachable });
    }
}

/// Connects to a server and says who calls. Names are resolved at each attempt: a server may have
/// moved, or its name may not have been known before.
async fn dial(port: &Port, sid: Sid, hint: &[HostPort]) -> Dialed {
    let mut candidates = port.addresses.read().get(&sid).cloned().unwrap_or_default();
    candidates.extend_from_slice(hint);
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no address of it is known");
    let mut tried = HashSet::new();
    for candidate in &candidates {
        let addresses = match lookup_host((candidate.host.as_str(), candidate.port)).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        for address in addresses {
            if !tried.insert(address) {
                continue;
            }
            match timeout(port.connect_timeout, call(port, sid, address)).await {
                Ok(Ok(dialed)) => return dialed,
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
    }
    Dialed::Failed(failure)
}

async fn call(port: &Port, sid: Sid, address: SocketAddr) -> io::Result<Dialed> {
    port.faults.connect(sid).await;
    let mut stream = TcpStream::connect(address).await?;
    adjust(&stream, port.connect_timeout);
    // All of it at once: the other side may take what it reads first for the whole.
    stream.write_all(&port.greeting()).await?;
    if sid > port.id {
        stream.shutdown().await?;
        return Ok(Dialed::Asked);
    }
    Ok(Dialed::Connected(stream))
}

/// Exchanges votes until the connection breaks.
async fn converse(port: &Port, sid: Sid, outbox: &Outbox, mut stream: TcpStream) {
    let address = stream.peer_addr();
    let (input, output) = stream.split();
    let end = tokio::select! {
        end = read(port, sid, input, address.as_ref().ok()) => end,
        end = write(port, sid, outbox, output) => end.map_err(Refusal::Broken),
    };
    match (end, address) {
        (Err(garbage @ Refusal::Garbage(_)), Ok(address)) => port.refuse(address, &garbage),
        (Err(error), _) => {
            tracing::debug!(server = sid, %error, "a connection for elections is over");
        }
        (Ok(()), _) => tracing::debug!(server = sid, "a connection for elections was closed"),
    }
}

async fn write(
    port: &Port,
    sid: Sid,
    outbox: &Outbox,
    mut output: WriteHalf<'_>,
) -> io::Result<()> {
    loop {
        while outbox.is_empty() {
            outbox.filled.notified().await;
        }
        port.faults.outbound(sid).await;
        if let Some(frame) = outbox.take() {
            output.write_all(&frame).await?;
        }
    }
}

async fn read(
    port: &Port,
    sid: Sid,
    mut input: ReadHalf<'_>,
    address: Option<&SocketAddr>,
) -> Result<(), Refusal> {
    let mut buffer = BytesMut::with_capacity(READ_SIZE);
    loop {
        let read = input.read_buf(&mut buffer).await;
        port.faults.inbound(sid).await;
        if read? == 0 {
            return Ok(());
        }
        while let Some(frame) = take_frame(&mut buffer)? {
            match Notification::decode(frame) {
                Ok(notification) => (port.on_event)(Input::Notified {
                    from: sid,
                    notification,
                }),
                Err(error) => {
                    if let Some(address) = address {
                        port.refuse(*address, &Refusal::Vote(error));
                    }
                }
            }
        }
        buffer.reserve(READ_SIZE);
    }
}

/// Takes a frame out of the buffer, if all of it is there.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    let valid = usize::try_from(length).ok();
    let Some(length) = valid.filter(|length| (1..=MAX_FRAME).contains(length)) else {
        return Err(Refusal::Garbage(format!("a frame of {length} bytes")));
    };
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Votes are small and urgent, and one that does not arrive is to break its connection soon, so
/// that it is sent again on another.
pub(super) fn adjust(stream: &TcpStream, patience: Duration) {
    let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let set = stream.set_nodelay(true).and_then(|()| {
        rustix::net::sockopt::set_tcp_user_timeout(stream, patience).map_err(io::Error::from)
    });
    if let Err(error) = set {
        tracing::debug!(%error, "no TCP_NODELAY or TCP_USER_TIMEOUT");
    }
}
