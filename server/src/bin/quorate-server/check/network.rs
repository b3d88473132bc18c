//! Checks of ports and addresses.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

use quorate_server::config::Config;

use super::Report;
use crate::processes;

/// Looks at the ports that the server needs; `running` is the pid of the server if it runs already.
pub(super) fn check(config: &Config, running: Option<u32>, report: &mut Report) {
    match config.client_address() {
        Some(address) => port("clientPort", address, running, report),
        None => report.warning(
            "clientPort",
            "not set: the server serves no clients",
            "add clientPort=2181",
        ),
    }
}

/// Tries whether a port can be listened on, and if not, finds out why.
pub(super) fn port(subject: &str, address: SocketAddr, running: Option<u32>, report: &mut Report) {
    if address.port() == 0 {
        report.ok(subject, "chosen by the system at the start");
        return;
    }
    // std sets SO_REUSEADDR as the server does, so that connections on their way out do not count.
    let error = match TcpListener::bind(address) {
        Ok(_) => return report.ok(subject, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::Unsupported && address.is_ipv6() => {
            let ipv4 = SocketAddr::from(([0, 0, 0, 0], address.port()));
            return port(subject, ipv4, running, report);
        }
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::AddrInUse => in_use(subject, address, running, report),
        ErrorKind::PermissionDenied => report.error(
            subject,
            format!("this user may not listen on port {}", address.port()),
            "take a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        ),
        ErrorKind::AddrNotAvailable => report.error(
            subject,
            format!("{} is no address of this machine", address.ip()),
            "name one that `ip address` lists, or none to listen on all",
        ),
        _ => report.error(subject, format!("cannot listen on {address}: {error}"), ""),
    }
}

fn in_use(subject: &str, address: SocketAddr, running: Option<u32>, report: &mut Report) {
    let listeners = processes::listeners(address.port());
    if let Some(pid) = running
        && listeners.iter().any(|listener| listener.pid == Some(pid))
    {
        report.ok(subject, format!("{address} is served by process {pid}"));
        return;
    }
    report.error(
        subject,
        format!(
            "port {} is taken by {}",
            address.port(),
            processes::holders(address.port())
        ),
        "end that process, or choose another port",
    );
}
