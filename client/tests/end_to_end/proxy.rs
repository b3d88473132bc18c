//! Connections that break: a proxy between a client and a server.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

/// Forwards bytes until it is told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
}

struct Faults {
    /// Counts the times that all connections were cut.
    cuts: watch::Sender<u64>,
    /// No byte passes while this holds.
    frozen: watch::Sender<bool>,
    /// Each connection breaks after so many bytes, chosen by chance.
    lifetime: Mutex<Option<Range<usize>>>,
}

impl Proxy {
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults {
            cuts: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
            lifetime: Mutex::new(None),
        });
        let shared = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = Arc::clone(&shared);
                let server = server.clone();
                tokio::spawn(async move { forward(client, &server, &faults).await });
            }
        });
        Proxy { address, faults }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        self.faults.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Holds up all bytes, or lets them pass again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.faults.frozen.send_replace(frozen);
    }

    /// Breaks every further connection after a number of bytes from `lifetime`, in the middle of
    /// whatever it carries then; `None` stops that.
    pub(crate) async fn break_after(&self, lifetime: Option<Range<usize>>) {
        *self.faults.lifetime.lock().await = lifetime;
    }
}

/// Carries one connection until it ends or breaks.
async fn forward(mut client: TcpStream, server: &str, faults: &Faults) {
    let mut cuts = faults.cuts.subscribe();
    let mut frozen = faults.frozen.subscribe();
    let lifetime = faults.lifetime.lock().await.clone();
    let mut left = lifetime.map_or(usize::MAX, fastrand::usize);
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
    while left > 0 {
        let (from, to, n) = tokio::select! {
            _ = cuts.changed() => return,
            n = client.read(&mut up) => (&up, &mut server, n),
            n = server.read(&mut down) => (&down, &mut client, n),
        };
        let Ok(n @ 1..) = n else { return };
        tokio::select! {
            _ = cuts.changed() => return,
            thawed = frozen.wait_for(|frozen| !frozen) => drop(thawed),
        }
        let passes = n.min(left);
        left -= passes;
        if to.write_all(&from[..passes]).await.is_err() {
            return;
        }
    }
}
