//! `status`: asks a running server what it is.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use quorate_server::config::Config;

/// Asks the server of `config` for its mode and prints what `zkServer.sh status` prints.
///
/// Returns whether it serves.
pub(crate) fn print(config: &Config, out: &mut dyn Write) -> io::Result<bool> {
    let Some(port) = config.client_port else {
        writeln!(
            out,
            "Unable to find either secure or unsecure client port in any configs. Terminating."
        )?;
        return Ok(false);
    };
    let host = config
        .client_port_address
        .map_or_else(|| "localhost".to_owned(), |ip| ip.to_string());
    writeln!(
        out,
        "Client port found: {port}. Client address: {host}. Client SSL: false."
    )?;
    if port == 0 {
        writeln!(
            out,
            "The system chose the port when the server started; its log names it."
        )?;
        return Ok(false);
    }
    match mode(config.client_port_address, port) {
        Ok(mode) => {
            writeln!(out, "{mode}")?;
            Ok(true)
        }
        Err(why) => {
            writeln!(out, "Error contacting service. It is probably not running.")?;
            writeln!(out, "{why}")?;
            Ok(false)
        }
    }
}

/// The line `Mode: …` of a server's answer to `srvr`, or why there is none.
fn mode(address: Option<IpAddr>, port: u16) -> Result<String, String> {
    let asked = addresses(address, port).and_then(|addresses| ask(&addresses, "srvr"));
    let answer = asked.map_err(|error| format!("port {port}: {error}"))?;
    match answer.lines().find(|line| line.starts_with("Mode: ")) {
        Some(mode) => Ok(mode.to_owned()),
        None if answer.is_empty() => Err(format!("port {port}: closed without an answer")),
        None => Err(answer.trim().to_owned()),
    }
}

/// Where to reach the server on this machine that is bound to `address`.
fn addresses(address: Option<IpAddr>, port: u16) -> io::Result<Vec<SocketAddr>> {
    match address.filter(|address| !address.is_unspecified()) {
        Some(address) => Ok(vec![SocketAddr::new(address, port)]),
        None => Ok(("localhost", port).to_socket_addrs()?.collect()),
    }
}

/// Sends a four-letter word to the server at the first of `addresses` that can be reached.
pub(crate) fn ask(addresses: &[SocketAddr], word: &str) -> io::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const LONGEST: u64 = 1 << 20;
    let mut socket = connect(addresses, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(word.as_bytes())?;
    socket.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    socket.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn connect(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, patience) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}
