//! A relay between clients and a server that loses, holds back and counts what passes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_proto::OpCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::servers::Address;
use crate::support::soon;

/// The xid under which servers tell of events.
const NOTIFICATION: i32 = -1;

/// Passes frames on, except where it is told otherwise. Everything ends when it is dropped.
pub(crate) struct Relay {
    address: Address,
    shared: Arc<Shared>,
    acceptor: AbortHandle,
}

struct Shared {
    server: SocketAddr,
    line: watch::Sender<Line>,
    traffic: watch::Sender<Traffic>,
}

/// What the relay does with every connection.
#[derive(Clone, Copy)]
struct Line {
    mode: Mode,
    /// Connections end when this changes.
    cuts: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections stay, and nothing passes.
    Frozen,
    /// New connections are closed at once.
    Cut,
}

/// What happens to one frame, once; the connection is closed with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The next request of this kind does not arrive.
    LoseRequest(OpCode),
    /// The next request of this kind that succeeds is executed, and its reply does not arrive.
    LoseReply(OpCode),
}

/// What has passed, and what is not to pass.
#[derive(Default, Debug)]
pub(crate) struct Traffic {
    faults: Vec<Fault>,
    notifications: usize,
    requests: HashMap<i32, usize>,
    answers: HashMap<i32, usize>,
}

impl Traffic {
    /// Have all injected faults happened?
    pub(crate) fn is_through_with_faults(&self) -> bool {
        self.faults.is_empty()
    }

    /// Watch events that have passed.
    pub(crate) fn notifications(&self) -> usize {
        self.notifications
    }

    /// Requests of a kind that have passed.
    pub(crate) fn requests(&self, operation: OpCode) -> usize {
        let passed = self.requests.get(&operation.number());
        passed.copied().unwrap_or_default()
    }

    /// Requests of a kind that the server has answered.
    fn answers(&self, operation: OpCode) -> usize {
        let answered = self.answers.get(&operation.number());
        answered.copied().unwrap_or_default()
    }
}

impl Relay {
    pub(crate) async fn start(server: Address) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address {
            socket: listener.local_addr().unwrap(),
            chroot: server.chroot,
        };
        let shared = Arc::new(Shared {
            server: server.socket,
            line: watch::Sender::new(Line {
                mode: Mode::Open,
                cuts: 0,
            }),
            traffic: watch::Sender::default(),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Relay {
            address,
            shared,
            acceptor,
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Closes every connection and lets no new one through.
    pub(crate) fn cut(&self) {
        self.shared.line.send_modify(|line| {
            line.mode = Mode::Cut;
            line.cuts += 1;
        });
    }

    /// Closes every connection and lets new ones through.
    pub(crate) fn interrupt(&self) {
        self.cut();
        self.heal();
    }

    /// Holds back everything, in both directions.
    pub(crate) fn freeze(&self) {
        self.shared
            .line
            .send_modify(|line| line.mode = Mode::Frozen);
    }

    /// Lets everything pass again.
    pub(crate) fn heal(&self) {
        self.shared.line.send_modify(|line| line.mode = Mode::Open);
    }

    /// Injects a fault.
    pub(crate) fn inject(&self, fault: Fault) {
        self.shared
            .traffic
            .send_modify(|traffic| traffic.faults.push(fault));
    }

    /// Injects no fault any more; true if there was one left that has not happened.
    pub(crate) fn withdraw_faults(&self) -> bool {
        self.shared.traffic.send_if_modified(|traffic| {
            let left = !traffic.faults.is_empty();
            traffic.faults.clear();
            left
        })
    }

    /// The traffic up to now.
    pub(crate) fn traffic(&self) -> watch::Ref<'_, Traffic> {
        self.shared.traffic.borrow()
    }

    /// Awaits that so many contenders have found somebody in front of them.
    pub(crate) async fn waiting(&self, number: usize) {
        self.until(|traffic| traffic.answers(OpCode::GetData) == number)
            .await;
    }

    /// Awaits that the traffic is as expected.
    pub(crate) async fn until(&self, expected: impl FnMut(&Traffic) -> bool) {
        let mut traffic = self.shared.traffic.subscribe();
        soon("traffic", traffic.wait_for(expected)).await.unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        let mut line = shared.line.subscribe();
        let Line { mode, cuts } = *line.borrow_and_update();
        if mode == Mode::Cut {
            continue;
        }
        tokio::spawn(async move {
            let passing = line.clone();
            tokio::select! {
                _ = async { line.wait_for(|line| line.cuts != cuts).await.is_ok() } => {}
                _ = relay(client, &shared, passing) => {}
            }
        });
    }
}

/// Passes frames in both directions until either ends.
async fn relay(client: TcpStream, shared: &Shared, line: watch::Receiver<Line>) -> io::Result<()> {
    let server = TcpStream::connect(shared.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Requests by their xids, until they are answered.
    let pending = Mutex::new(HashMap::new());
    tokio::select! {
        ended = requests(from_client, to_server, shared, &pending, line.clone()) => ended,
        ended = replies(from_server, to_client, shared, &pending, line) => ended,
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    pending: &Mutex<HashMap<i32, i32>>,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let handshake = read_frame(&mut from).await?;
    open(&mut line).await?;
    to.write_all(&handshake).await?;
    loop {
        let frame = read_frame(&mut from).await?;
        open(&mut line).await?;
        let (xid, operation) = (number(&frame, 4), number(&frame, 8));
        if shared.takes(|fault| matches!(fault, Fault::LoseRequest(op) if op.number() == operation))
        {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        pending.lock().insert(xid, operation);
        shared.traffic.send_modify(|traffic| {
            *traffic.requests.entry(operation).or_default() += 1;
        });
        to.write_all(&frame).await?;
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    pending: &Mutex<HashMap<i32, i32>>,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let handshake = read_frame(&mut from).await?;
    open(&mut line).await?;
    to.write_all(&handshake).await?;
    loop {
        let frame = read_frame(&mut from).await?;
        open(&mut line).await?;
        let xid = number(&frame, 4);
        if xid == NOTIFICATION {
            shared
                .traffic
                .send_modify(|traffic| traffic.notifications += 1);
        }
        let operation = pending.lock().remove(&xid);
        if let Some(operation) = operation {
            shared.traffic.send_modify(|traffic| {
                *traffic.answers.entry(operation).or_default() += 1;
            });
        }
        let succeeded = number(&frame, 16) == 0;
        if succeeded
            && shared.takes(
                |fault| matches!(fault, Fault::LoseReply(op) if Some(op.number()) == operation),
            )
        {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        to.write_all(&frame).await?;
    }
}

impl Shared {
    /// Takes out the first fault for which `applies` is true.
    fn takes(&self, applies: impl Fn(Fault) -> bool) -> bool {
        self.traffic.send_if_modified(|traffic| {
            let position = traffic.faults.iter().position(|fault| applies(*fault));
            position
                .map(|position| traffic.faults.remove(position))
                .is_some()
        })
    }
}

/// Waits while the line is frozen.
async fn open(line: &mut watch::Receiver<Line>) -> io::Result<()> {
    let open = line.wait_for(|line| line.mode == Mode::Open).await;
    open.map(drop)
        .map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// A whole frame with its length.
async fn read_frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

fn number(frame: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}
