//! The stream below a connection, plain or secured, and how it is opened.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
#[cfg(feature = "tls")]
use tokio_rustls::client::TlsStream;

use crate::connect_string::Server;
use crate::sasl::DigestMd5;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// How connections are made: the bytes secured by TLS, and who is at their ends proved by SASL.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    /// The world that has the servers, if it is not the real one.
    #[cfg(feature = "simulation")]
    pub(crate) world: Option<std::sync::Arc<dyn crate::simulation::World>>,
    pub(crate) sasl: Option<DigestMd5>,
}

impl Security {
    /// Do connections use TLS?
    pub(crate) fn uses_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        let uses_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let uses_tls = false;
        uses_tls
    }

    /// Connects, and secures the connection if that was asked for.
    pub(crate) async fn open(&self, server: &Server) -> io::Result<Stream> {
        #[cfg(feature = "simulation")]
        if let Some(world) = &self.world {
            return Ok(Stream::Simulated(world.connect(server.to_string()).await?));
        }
        let stream = open(server).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let stream = tls.secure(server, stream).await?;
            return Ok(Stream::Secured(Box::new(stream)));
        }
        Ok(Stream::Plain(stream))
    }
}

/// Tries every address that the name has now, in random order.
async fn open(server: &Server) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = lookup_host((server.host.as_str(), server.port))
        .await?
        .collect();
    fastrand::shuffle(&mut addresses);
    let stream = TcpStream::connect(&*addresses).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A stream to a server.
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Secured(Box<TlsStream<TcpStream>>),
    #[cfg(feature = "simulation")]
    Simulated(Box<dyn crate::simulation::Stream>),
}

impl Stream {
    /// The other end, if it has an address.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Stream::Plain(stream) => stream.peer_addr().ok(),
            #[cfg(feature = "tls")]
            Stream::Secured(stream) => stream.get_ref().0.peer_addr().ok(),
            #[cfg(feature = "simulation")]
            Stream::Simulated(_) => None,
        }
    }
}

/// Calls a method of the stream that there is.
macro_rules! forward {
    ($stream:expr, $method:ident ( $($argument:expr),* )) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(feature = "tls")]
            Stream::Secured(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(feature = "simulation")]
            Stream::Simulated(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match forward!(self, poll_read(cx, buffer)) {
            // Frames tell their length, so what is cut short is noticed without TLS's farewell.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown(cx))
    }
}
