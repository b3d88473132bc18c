//! Tells whoever started the server how far it is, by the protocol of systemd's `Type=notify`.

use std::{
    env,
    io::{self, ErrorKind},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    time::Duration,
};

/// Names the socket that the messages go to.
pub(crate) const VARIABLE: &str = "NOTIFY_SOCKET";

/// The server serves.
pub(crate) const READY: &str = "READY=1";

/// The server begins to stop.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Sends `message` if somebody asked for it. Whoever asked and has gone is no reason to stop.
pub(crate) fn send(message: &str) {
    let Some(name) = env::var_os(VARIABLE) else {
        return;
    };
    if let Err(error) = try_send(Path::new(&name), message) {
        tracing::debug!(%error, "nobody hears {VARIABLE}");
    }
}

fn try_send(name: &Path, message: &str) -> io::Result<()> {
    let address = match name.to_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// Waits for messages of a server in the background.
pub(crate) struct Listener {
    socket: UnixDatagram,
    /// Of a socket that is no file, and so needs no directory and leaves nothing behind.
    name: String,
}

impl Listener {
    /// Opens a socket for one server.
    pub(crate) fn open() -> io::Result<Listener> {
        let name = format!("quorate-start-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Ok(Listener { socket, name })
    }

    /// The value of [`VARIABLE`] for the server.
    pub(crate) fn name(&self) -> String {
        format!("@{}", self.name)
    }

    /// Waits for the next message, at most for `patience`.
    pub(crate) fn receive(&self, patience: Duration) -> io::Result<Option<String>> {
        const LONGEST: usize = 256;
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; LONGEST];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Ok(Some(
                String::from_utf8_lossy(&buffer[..length]).into_owned(),
            )),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
