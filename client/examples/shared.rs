//! Many tasks share one client: reads a second, and how long a read takes, by their number.
//!
//! cargo run --release -p quorate-client --example shared
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::time::{Duration, Instant};

use quorate_client::{Client, CreateMode};
use quorate_server::Server;
use tokio::task::JoinSet;

/// Reads over all tasks together.
const READS: usize = 200_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().start().await?;
    let address = server.client_addr().ok_or("no port for clients")?;
    let client = Client::connect(&address.to_string()).await?;
    client
        .create("/n", &[7; 100][..], CreateMode::Ephemeral)
        .await?;
    println!("tasks   reads/s       p50       p99");
    for tasks in [1, 10, 100, 1000] {
        let (took, mut each) = read(&client, tasks, READS.min(tasks * 20_000)).await?;
        each.sort_unstable();
        let rate = each.len() as f64 / took.as_secs_f64();
        let (p50, p99) = (each[each.len() / 2], each[each.len() * 99 / 100]);
        println!("{tasks:5} {rate:9.0} {p50:>9.1?} {p99:>9.1?}");
    }
    client.close().await?;
    server.shutdown().await?;
    Ok(())
}

/// Lets so many tasks read in turn, each after the answer to its last read. Answers how long all
/// took, and each read.
async fn read(
    client: &Client,
    tasks: usize,
    reads: usize,
) -> Result<(Duration, Vec<Duration>), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let client = client.clone();
        running.spawn(async move {
            let mut each = Vec::with_capacity(reads / tasks);
            for _ in 0..reads / tasks {
                let begun = Instant::now();
                client.get_data("/n").await?;
                each.push(begun.elapsed());
            }
            Ok::<_, quorate_client::Error>(each)
        });
    }
    let mut all = Vec::with_capacity(reads);
    while let Some(each) = running.join_next().await {
        all.extend(each??);
    }
    Ok((begun.elapsed(), all))
}
