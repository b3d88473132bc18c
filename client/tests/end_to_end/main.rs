//! The client against a real server, over connections that break.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod ensemble;
mod failover;
mod operations;
mod outcomes;
mod proxy;

use std::time::Duration;

use quorate_client::{Client, State};
use quorate_server::Server;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(60);

/// Awaits with the deadline of all tests.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Awaits a state of the client.
async fn state(client: &Client, wanted: State) {
    let mut states = client.watch_state();
    let what = format!("the state {wanted}");
    within(&what, states.wait_for(|state| *state == wanted))
        .await
        .unwrap();
}

/// A server with short ticks, so that sessions can be short.
async fn start_server() -> Server {
    let tick = Duration::from_millis(100);
    Server::builder().tick_time(tick).start().await.unwrap()
}

fn address(server: &Server) -> String {
    server.client_addr().unwrap().to_string()
}
