//! A whole server, as its clients see it: embedded, and asked over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers of a test fail it like the test itself"
)]

mod client;
mod limits;
mod order;
mod reaping;
mod sessions;
mod stopping;

use std::net::SocketAddr;
use std::time::Duration;

use quorate_server::Server;
use quorate_server::config::{Config, FourLetterWords};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// How long anything may take that is to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers every four-letter word, with settings that differ from the defaults.
async fn server(change: impl FnOnce(&mut Config)) -> (Server, SocketAddr) {
    let mut config = Config::temporary().unwrap();
    config.tick_time = Duration::from_millis(500);
    config.four_letter_words = FourLetterWords::from_list("*");
    change(&mut config);
    let server = Server::start(config).await.unwrap();
    let address = server.client_addr().unwrap();
    (server, address)
}

/// What `mntr` says of `key`.
async fn metric(address: SocketAddr, key: &str) -> i64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"mntr").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

/// Waits until `mntr` says `value` of `key`. The connection that asks counts in what it says.
async fn await_metric(address: SocketAddr, key: &str, value: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = metric(address, key).await;
        if now == value {
            return;
        }
        assert!(Instant::now() < deadline, "{key} stays {now}, not {value}");
        sleep(Duration::from_millis(5)).await;
    }
}
