//! A connection on the quorum port: what waits to be sent, and the tasks that send and read.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use super::{Faults, codec};
use crate::zab::{Entry, Link, Packet, Sid};

/// A buffer that has grown beyond this is not kept.
const KEPT_CAPACITY: usize = 1 << 20;
/// Bytes read at once.
pub(super) const READ_SIZE: usize = 128 << 10;

#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// A dump of the tree goes first.
    held: bool,
    /// Nothing more is to be sent behind the bytes.
    closing: bool,
    /// The number of bytes behind which somebody waits to hear that they are sent.
    mark: Option<usize>,
}

/// What has become of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// There is nothing to say.
    Quiet,
    /// The mark has gone out.
    Drained,
    /// The link is to end, or has ended.
    Over,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct LinkSocket {
    pub(super) id: Link,
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Who is at the other end, once that is known.
    peer: OnceLock<Sid>,
    faults: Faults,
    outbox: Mutex<Outbox>,
    /// Held while a tree that came in is being installed: until then the link has not ended.
    installing: Arc<AsyncMutex<()>>,
    /// Something waits for the task that sends: the socket was full, the network is not clear, the
    /// link is to end, or whoever had something to send had more urgent things to do.
    is_left: AtomicBool,
    left: Notify,
}

impl LinkSocket {
    pub(super) fn new(
        id: Link,
        stream: TcpStream,
        address: SocketAddr,
        faults: Faults,
    ) -> Arc<Self> {
        Arc::new(LinkSocket {
            id,
            stream,
            address,
            peer: OnceLock::new(),
            faults,
            outbox: Mutex::default(),
            installing: Arc::default(),
            is_left: AtomicBool::new(false),
            left: Notify::new(),
        })
    }

    /// Tells who is at the other end.
    pub(super) fn set_peer(&self, sid: Sid) {
        self.peer.get_or_init(|| sid);
    }

    /// Adds a packet. It goes out with the next [`flush`](Self::flush).
    pub(super) fn push(&self, packet: &Packet) {
        self.fill(|bytes| codec::encode(packet, bytes));
    }

    /// Adds proposals.
    pub(super) fn push_proposals(&self, entries: &[Entry]) {
        self.fill(|bytes| {
            for entry in entries {
                codec::encode_proposal(entry, bytes);
            }
        });
    }

    /// Who is at the other end, once that is known.
    pub(super) fn peer(&self) -> Option<Sid> {
        self.peer.get().copied()
    }

    fn fill(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut outbox = self.outbox.lock();
        if !outbox.closing {
            encode(&mut outbox.bytes);
        }
    }

    /// Has [`Flushed::Drained`] said once everything is sent that was added so far.
    pub(super) fn mark(&self) {
        let mut outbox = self.outbox.lock();
        outbox.mark = Some(outbox.bytes.len());
    }

    /// Keeps everything back until [`release`](Self::release). Answers what was not sent yet, to
    /// be sent first.
    pub(super) fn hold(&self) -> Vec<u8> {
        let mut outbox = self.outbox.lock();
        outbox.held = true;
        let sent = std::mem::take(&mut outbox.sent);
        outbox.bytes.drain(..sent);
        outbox.mark = outbox.mark.map(|_| 0);
        std::mem::take(&mut outbox.bytes)
    }

    /// Lets what was kept back go.
    pub(super) fn release(&self) {
        self.outbox.lock().held = false;
    }

    /// Ends the link once everything is sent.
    pub(super) fn close(&self) {
        self.outbox.lock().closing = true;
        self.flush_soon();
    }

    /// Ends the link at once.
    pub(super) fn abort(&self) {
        // One that is not connected any more has ended already.
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Both);
    }

    /// Is it to end?
    pub(super) fn is_closing(&self) -> bool {
        self.outbox.lock().closing
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&self) -> Flushed {
        if self
            .peer
            .get()
            .is_some_and(|peer| !self.faults.is_clear(*peer))
        {
            self.flush_soon();
            return Flushed::Quiet;
        }
        self.flush_now()
    }

    /// Sends what the socket takes, whatever is wrong with the network.
    pub(super) fn flush_now(&self) -> Flushed {
        let mut outbox = self.outbox.lock();
        let flushed = self.send(&mut outbox);
        if flushed == Flushed::Drained {
            outbox.mark = None;
        }
        flushed
    }

    /// Like [`flush`](Self::flush) for those who cannot tell anybody that a mark has gone out:
    /// somebody else will.
    pub(super) fn flush_quietly(&self) {
        if self
            .peer
            .get()
            .is_some_and(|peer| !self.faults.is_clear(*peer))
            || self.send(&mut self.outbox.lock()) != Flushed::Quiet
        {
            self.flush_soon();
        }
    }

    fn send(&self, outbox: &mut Outbox) -> Flushed {
        if outbox.held {
            return Flushed::Quiet;
        }
        while outbox.sent < outbox.bytes.len() {
            match self.stream.try_write(&outbox.bytes[outbox.sent..]) {
                Ok(n) => outbox.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.flush_soon();
                    break;
                }
                // The task that reads tells.
                Err(_) => return Flushed::Over,
            }
        }
        let drained = outbox.mark.is_some_and(|mark| mark <= outbox.sent);
        if outbox.sent == outbox.bytes.len() {
            outbox.sent = 0;
            outbox.bytes.clear();
            outbox.bytes.shrink_to(KEPT_CAPACITY);
            outbox.mark = outbox.mark.map(|_| 0);
            if outbox.closing {
                return Flushed::Over;
            }
        } else if outbox.sent > KEPT_CAPACITY {
            let sent = std::mem::take(&mut outbox.sent);
            outbox.bytes.drain(..sent);
            outbox.mark = outbox.mark.map(|mark| mark.saturating_sub(sent));
        }
        if drained {
            Flushed::Drained
        } else {
            Flushed::Quiet
        }
    }

    /// Has the task that sends do so, once it gets its turn.
    pub(super) fn flush_soon(&self) {
        self.is_left.store(true, Release);
        self.left.notify_one();
    }

    /// Waits until there is something that was not sent at once, and it can be.
    pub(super) async fn unblocked(&self) -> io::Result<()> {
        while !self.is_left.swap(false, Acquire) {
            self.left.notified().await;
        }
        if let Some(peer) = self.peer.get() {
            self.faults.outbound(*peer).await;
        }
        self.stream.writable().await
    }

    /// A tree is being installed for as long as the guard lives.
    pub(super) async fn begin_install(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.installing).lock_owned().await
    }

    /// Waits until no tree is being installed. Cancel safe.
    pub(super) async fn installed(&self) {
        drop(self.installing.lock().await);
    }

    /// Sends all of `bytes` now, in front of what is kept back.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(peer) = self.peer.get() {
            self.faults.outbound(*peer).await;
        }
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads more behind `input`; false at the end.
    pub(super) async fn read(&self, input: &mut BytesMut) -> io::Result<bool> {
        loop {
            self.stream.readable().await?;
            input.reserve(READ_SIZE / 4);
            match self.stream.try_read_buf(input) {
                Ok(n) => {
                    if let Some(peer) = self.peer.get() {
                        self.faults.inbound(*peer).await;
                    }
                    return Ok(n > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
