//! Connecting to one server: names, TCP, and the handshake (spec: client behaviour, section 3).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{ConnectRequest, ConnectResponse, frame};
use tokio::time::Instant;

use crate::connect_string::Server;
use crate::error::Error;
use crate::session::SessionId;
use crate::stream::{Security, Stream};
#[cfg(feature = "tls")]
use crate::tls;
use crate::wire::{Wire, invalid};

/// What the client tells a server about its session.
#[derive(Clone)]
pub(crate) struct Attach {
    /// The session to go on with; `None` asks for a new one.
    pub(crate) session: Option<(SessionId, [u8; 16])>,
    pub(crate) last_zxid: i64,
    pub(crate) timeout: Duration,
    pub(crate) read_only: bool,
}

/// A server that has taken the session.
pub(crate) struct Attached {
    pub(crate) wire: Wire<Stream>,
    pub(crate) session: (SessionId, [u8; 16]),
    pub(crate) timeout: Duration,
    pub(crate) read_only: bool,
    /// Where the connection goes to, if there are addresses.
    pub(crate) server: Option<SocketAddr>,
    /// When the server was asked, for it has counted the timeout from then on at the earliest.
    pub(crate) asked: Instant,
}

/// Why a server did not take the session.
pub(crate) enum Refused {
    /// The ensemble has expired it.
    Expired,
    /// The server and the client do not believe each other; ends the session's handle.
    Denied(Error),
    /// The server could not be reached or does not serve; another one may.
    Unreachable(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Unreachable(error)
    }
}

/// Connects and shakes hands.
pub(crate) async fn dial(
    server: &Server,
    security: &Security,
    attach: &Attach,
) -> Result<Attached, Refused> {
    let stream = security.open(server).await?;
    let address = stream.peer_addr();
    let mut wire = Wire::new(stream);
    frame::write(wire.output(), |out| attach.request().encode(out));
    let asked = Instant::now();
    let answer = wire.exchange().await;
    // Servers that want a client's certificate judge it after the client's part of the handshake.
    #[cfg(feature = "tls")]
    let answer = answer.map_err(|error| tls::explain(server, error));
    let answer = answer?;
    let answer = ConnectResponse::from_slice(&answer).map_err(invalid)?;
    let (session, timeout) = attach.accept(&answer)?;
    if let Some(sasl) = &security.sasl {
        sasl.authenticate(server, &mut wire).await?;
    }
    Ok(Attached {
        wire,
        session,
        timeout,
        read_only: answer.read_only.unwrap_or(false),
        server: address,
        asked,
    })
}

impl Attach {
    fn request(&self) -> ConnectRequest<'_> {
        let (id, password) = match &self.session {
            Some((id, password)) => (id.0, &password[..]),
            None => (0, &[0; 16][..]),
        };
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid,
            timeout: i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX),
            session_id: id,
            password: Some(password),
            read_only: Some(self.read_only),
        }
    }

    fn accept(
        &self,
        answer: &ConnectResponse<'_>,
    ) -> Result<((SessionId, [u8; 16]), Duration), Refused> {
        let id = SessionId(answer.session_id);
        let timeout = u64::try_from(answer.timeout).unwrap_or(0);
        match &self.session {
            Some((asked, _)) if timeout == 0 || *asked != id => return Err(Refused::Expired),
            None if timeout == 0 => {
                let error = io::Error::other("the server did not open a session");
                return Err(error.into());
            }
            _ => {}
        }
        let password = answer
            .password
            .and_then(|password| password.try_into().ok())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the session's password does not have 16 bytes",
                )
            })?;
        Ok(((id, password), Duration::from_millis(timeout)))
    }
}
