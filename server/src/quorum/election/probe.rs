//! Asks a server on its election port who it is and how it sees its ensemble, without taking part.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::caller::take_frame;
use super::greeting::{Greeting, HostPort};
use super::to_frame;
use crate::zab::election::Notification;
use crate::zab::{Membership, Role, Sid};

/// A server may first repeat what it told who asked before: the last that it says in this time is
/// what counts.
const AFTERTHOUGHT: Duration = Duration::from_millis(100);

/// What a server has said of itself.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its id; `None` if it did not call back.
    pub sid: Option<Sid>,
    /// Its vote, which carries its configuration; `None` if it does not answer as a server does.
    pub vote: Option<Notification>,
}

/// Asks the server at `address`, which may take `patience` for each step. `config` is how the
/// ensemble is seen here; nobody adopts it.
///
/// # Errors
/// When there is no connection.
pub async fn ask(
    address: SocketAddr,
    config: &Membership,
    patience: Duration,
) -> io::Result<Answer> {
    let stream = connect(address, patience).await?;
    // A server calls back who has a smaller id, and says its own.
    let smallest = config.members.servers.keys().next();
    let asker = smallest.map_or(0, |smallest| smallest.saturating_sub(1).min(0));
    if let Ok(Ok((sid, back))) = timeout(patience, call_back(stream, asker)).await {
        let vote = exchange(back, config, patience).await;
        return Ok(Answer {
            sid: Some(sid),
            vote,
        });
    }
    // It may not be able to. Who has a larger id is answered at once.
    let mut stream = connect(address, patience).await?;
    let own = stream.local_addr()?;
    greet(&mut stream, Sid::MAX - 1, own).await?;
    let vote = exchange(stream, config, patience).await;
    Ok(Answer { sid: None, vote })
}

async fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn call_back(mut stream: TcpStream, asker: Sid) -> io::Result<(Sid, TcpStream)> {
    let listener = TcpListener::bind((stream.local_addr()?.ip(), 0)).await?;
    greet(&mut stream, asker, listener.local_addr()?).await?;
    loop {
        let (mut back, _) = listener.accept().await?;
        if let Ok(greeting) = Greeting::read(&mut back).await {
            return Ok((greeting.sid, back));
        }
    }
}

async fn greet(stream: &mut TcpStream, asker: Sid, own: SocketAddr) -> io::Result<()> {
    let own = HostPort {
        host: own.ip().to_string(),
        port: own.port(),
    };
    let greeting = Greeting {
        sid: asker,
        addresses: vec![own],
    };
    stream.write_all(&greeting.encode(false)).await
}

/// Tells a vote for nobody, and reads what it is answered with.
async fn exchange(
    mut stream: TcpStream,
    config: &Membership,
    patience: Duration,
) -> Option<Notification> {
    let config = Membership {
        version: 0,
        members: config.members.clone(),
    };
    let asking = Notification {
        state: Role::Looking,
        leader: i64::MIN,
        zxid: i64::MIN,
        round: 0,
        epoch: i64::MIN,
        format: 2,
        config: Bytes::from(config.to_string()),
        proposed: Bytes::new(),
    };
    let mut buffer = BytesMut::new();
    let first = async {
        stream.write_all(&to_frame(&asking)).await.ok()?;
        next_vote(&mut stream, &mut buffer).await
    };
    let mut answer = timeout(patience, first).await.ok()??;
    let end = Instant::now() + AFTERTHOUGHT;
    while Instant::now() < end
        && let Ok(Some(later)) = timeout_at(end, next_vote(&mut stream, &mut buffer)).await
    {
        answer = later;
    }
    Some(answer)
}

async fn next_vote(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Notification> {
    loop {
        while let Some(frame) = take_frame(buffer).ok()? {
            if let Ok(vote) = Notification::decode(frame) {
                return Some(vote);
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
