//! The state of a session's handle.

use std::fmt;

/// How the client stands with the ensemble.
///
/// A loss of the connection is not a loss of the session: ephemeral znodes live on until the
/// ensemble expires the session. [`is_over`](State::is_over) tells which states are final.
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) {
/// use futures::StreamExt;
///
/// let mut states = client.states();
/// while let Some(state) = states.next().await {
///     println!("{state}");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The first connection is being made.
    Connecting,
    /// Connected to a server that reads and writes.
    Connected,
    /// Connected to a server that is cut off from its ensemble and only reads.
    ConnectedReadOnly,
    /// The connection was lost, another one is being made. The session may or may not live.
    Disconnected,
    /// The session has expired. Final.
    Expired,
    /// A credential was refused. Final.
    AuthFailed,
    /// The client was closed or detached. Final.
    Closed,
}

impl State {
    /// Is there a connection, if only a read-only one?
    pub fn is_connected(self) -> bool {
        matches!(self, State::Connected | State::ConnectedReadOnly)
    }

    /// Is the client done for good, so that no other state follows?
    pub fn is_over(self) -> bool {
        matches!(self, State::Expired | State::AuthFailed | State::Closed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Connecting => "connecting",
            State::Connected => "connected",
            State::ConnectedReadOnly => "connected read-only",
            State::Disconnected => "disconnected",
            State::Expired => "expired",
            State::AuthFailed => "authentication failed",
            State::Closed => "closed",
        })
    }
}
