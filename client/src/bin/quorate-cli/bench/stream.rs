//! A connection's socket, plain or with TLS.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use quorate_client::rustls::pki_types::ServerName;
use quorate_client::rustls::{self, ClientConfig, ClientConnection};

/// The servers under load, by number.
pub(super) struct Servers {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) names: Vec<ServerName<'static>>,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// What the bytes pass through.
pub(super) struct Stream<S> {
    pub(super) socket: S,
    tls: Option<Box<ClientConnection>>,
}

impl<S: Read + Write> Stream<S> {
    /// Shakes hands along with the first bytes.
    pub(super) fn new(socket: S, servers: &Servers, server: usize) -> io::Result<Self> {
        let secure = |config: &Arc<ClientConfig>| {
            let name = servers.names[server].clone();
            ClientConnection::new(Arc::clone(config), name).map(Box::new)
        };
        let tls = servers.tls.as_ref().map(secure).transpose();
        Ok(Stream {
            socket,
            tls: tls.map_err(io::Error::other)?,
        })
    }

    /// The same stream on another form of its socket.
    pub(super) fn map<T>(self, form: impl FnOnce(S) -> T) -> Stream<T> {
        Stream {
            socket: form(self.socket),
            tls: self.tls,
        }
    }

    /// May there be more to read although the socket has been drained?
    pub(super) fn holds_back(&self) -> bool {
        self.tls.is_some()
    }
}

impl<S: Read + Write> Read for Stream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Stream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(bytes),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.flush(),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).flush(),
        }
    }
}
