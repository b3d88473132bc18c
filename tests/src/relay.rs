//! An address that stays while the server behind it comes and goes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Passes connections on to a server, of which clients need not know when and where it runs.
///
/// A server that has just started may accept connections which it will never answer. Clients of a
/// relay meet it only once the test knows that it serves.
///
/// ```no_run
/// use quorate_tests::ours::Quorate;
/// use quorate_tests::process::{ServerProcess, Settings};
/// use quorate_tests::relay::Relay;
///
/// let mut server = ServerProcess::start(Quorate::from_env(), Settings::default());
/// let relay = Relay::to(server.address());
/// println!("clients connect to {}", relay.address());
/// relay.close();
/// server.kill();
/// server.restart();
/// relay.open(server.address());
/// ```
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay on a free port of 127.0.0.1, open to `target`.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut relay = Relay {
            address: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(Some(target))),
            over: Arc::default(),
            acceptor: None,
        };
        let (target, over) = (Arc::clone(&relay.target), Arc::clone(&relay.over));
        relay.acceptor = Some(thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let target = *target.lock().unwrap();
                // Without a server the connection ends here, as it does where nobody listens.
                if let Some(server) = target.and_then(|target| TcpStream::connect(target).ok()) {
                    let _ = join(&client, &server);
                }
            }
        }));
        relay
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes new connections on to `target`.
    pub fn open(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }

    /// Ends new connections at once. Those that stand end with the server.
    pub fn close(&self) {
        *self.target.lock().unwrap() = None;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Lets the acceptor see it.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Copies what either side sends to the other, on threads of their own.
fn join(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        from.set_nodelay(true)?;
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let _ = copy(&from, &to);
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
        });
    }
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}
