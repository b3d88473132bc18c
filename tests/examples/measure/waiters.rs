//! A thousand who wait for one lock: what each costs, and whom a release wakes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::select_all;
use quorate_recipes::{Client, Guard, Lock};
use quorate_tests::cluster::Cluster;
use quorate_tests::process::word;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::resident;

const WAITERS: usize = 1000;

const PATH: &str = "/locks/crowded";

/// The xid under which servers tell of events.
const NOTIFICATION: i32 = -1;

/// Measures memory on clients that are connected to the servers, and events on such as a tap is on.
pub(crate) fn waiters(cluster: &Cluster) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        memory(cluster).await;
        events(cluster).await;
    });
}

async fn memory(cluster: &Cluster) {
    let at_first = Resident::now(cluster);
    let clients = connect(&cluster.addresses()).await;
    let connected = Resident::now(cluster);
    let (guard, waiting) = crowd(cluster, &clients).await;
    let crowded = Resident::now(cluster);
    connected.print("a session", &at_first);
    crowded.print("a waiter, beside its session", &connected);
    waiting.iter().for_each(JoinHandle::abort);
    drop(guard);
    for client in clients {
        client.close().await.unwrap();
    }
}

async fn events(cluster: &Cluster) {
    let told = Arc::new(AtomicUsize::new(0));
    let mut taps = Vec::new();
    for server in cluster.addresses() {
        taps.push(tap(server, Arc::clone(&told)).await);
    }
    let clients = connect(&taps).await;
    let (mut guard, mut waiting) = crowd(cluster, &clients).await;
    assert_eq!(told.load(Ordering::SeqCst), 0);
    let mut most = 0;
    while !waiting.is_empty() {
        let before = told.load(Ordering::SeqCst);
        guard.release().await.unwrap();
        let (granted, _, others) = select_all(waiting).await;
        (guard, waiting) = (granted.unwrap(), others);
        most = most.max(told.load(Ordering::SeqCst) - before);
    }
    let told = told.load(Ordering::SeqCst);
    println!("{WAITERS} releases: {told} events, at most {most} for one");
    assert_eq!((told, most), (WAITERS, 1));
}

/// One who holds the lock, and all others who wait for it.
async fn crowd(cluster: &Cluster, clients: &[Client]) -> (Guard, Vec<JoinHandle<Guard>>) {
    let guard = Lock::new(&clients[0], PATH).acquire().await.unwrap();
    let waiting = clients[1..].iter().map(|client| {
        let lock = Lock::new(client, PATH);
        tokio::spawn(async move { lock.acquire().await.unwrap() })
    });
    let waiting = waiting.collect();
    // Each watches itself, and all but the holder the one in front.
    while watches(cluster) < 2 * WAITERS + 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (guard, waiting)
}

fn watches(cluster: &Cluster) -> usize {
    let of = |address| {
        let answer = word(address, "wchs").unwrap();
        let total = answer.rsplit_once(':').unwrap().1.trim();
        total.parse::<usize>().unwrap()
    };
    cluster.addresses().into_iter().map(of).sum()
}

/// The holder and the waiters, each with a session of its own, spread over the servers.
async fn connect(servers: &[SocketAddr]) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..=WAITERS {
        let client = Client::builder().session_timeout(Duration::from_secs(60));
        let server = servers[n % servers.len()].to_string();
        clients.push(client.connect(&server).await.unwrap());
    }
    clients
}

/// Memory that processes have resident, in KiB.
struct Resident {
    client: usize,
    servers: usize,
}

impl Resident {
    fn now(cluster: &Cluster) -> Self {
        let servers = cluster.ids().into_iter();
        Resident {
            client: resident(std::process::id()),
            servers: servers.map(|id| resident(cluster.pid(id))).sum(),
        }
    }

    /// Prints what each of those costs that came since `before`.
    fn print(&self, what: &str, before: &Resident) {
        let bytes = |now: usize, before: usize| now.saturating_sub(before) * 1024 / WAITERS;
        println!(
            "{what}: {} bytes in the client, {} in all servers together",
            bytes(self.client, before.client),
            bytes(self.servers, before.servers),
        );
    }
}

/// Where to connect instead of to `server`, for events to be counted.
async fn tap(server: SocketAddr, told: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let server = TcpStream::connect(server).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                // The answer to the handshake comes first, and is no reply.
                let mut replies = false;
                while let Ok(length) = from_server.read_u32().await {
                    let mut frame = length.to_be_bytes().to_vec();
                    frame.resize(4 + usize::try_from(length).unwrap(), 0);
                    from_server.read_exact(&mut frame[4..]).await.unwrap();
                    let xid = i32::from_be_bytes(frame[4..8].try_into().unwrap());
                    told.fetch_add(
                        usize::from(replies && xid == NOTIFICATION),
                        Ordering::SeqCst,
                    );
                    replies = true;
                    if to_client.write_all(&frame).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}
