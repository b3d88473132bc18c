//! A world that clients can be put into instead of the real one, so that whatever happens to them
//! comes from one seed. For tests of this workspace: it is no part of the interface.

use std::fmt;
use std::io;
use std::time::SystemTime;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// The bytes of a connection, in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Everything that clients and recipes take from outside, but the passing of time: that is Tokio's
/// clock, which can be paused. Their jitter is [`fastrand`]'s, which can be seeded.
pub trait World: fmt::Debug + Send + Sync {
    /// Connects to a server, `host:port`.
    fn connect(&self, server: String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;

    /// Runs a future in the background.
    fn spawn(&self, future: BoxFuture<'static, ()>);

    /// The time of day.
    fn now(&self) -> SystemTime;

    /// A number that nobody else has.
    fn unique(&self) -> u128;
}
