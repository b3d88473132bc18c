//! What the client counts, for an application that wants to know.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers as well"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use quorate_client::{Client, CreateMode, Error};
use quorate_server::Server;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Keeps every metric under its name and labels.
#[derive(Clone, Default)]
struct Metrics(Arc<Mutex<BTreeMap<String, Arc<Number>>>>);

/// The value of a counter or gauge, the number of a histogram's samples.
#[derive(Default)]
struct Number(AtomicU64);

impl HistogramFn for Number {
    fn record(&self, value: f64) {
        assert!(
            (0.0..60.0).contains(&value),
            "{value} is no time in seconds"
        );
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl metrics::CounterFn for Number {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Only whole numbers go up and down here.
impl metrics::GaugeFn for Number {
    fn increment(&self, value: f64) {
        self.0.fetch_add(value as i64 as u64, Ordering::Relaxed);
    }

    fn decrement(&self, value: f64) {
        self.0.fetch_sub(value as i64 as u64, Ordering::Relaxed);
    }

    fn set(&self, value: f64) {
        self.0.store(value as u64, Ordering::Relaxed);
    }
}

impl Metrics {
    fn register(&self, key: &Key) -> Arc<Number> {
        let mut name = key.name().to_owned();
        for label in key.labels() {
            write!(name, " {}={}", label.key(), label.value()).unwrap();
        }
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn get(&self, name: &str) -> u64 {
        let metrics = self.0.lock().unwrap();
        let found = metrics.get(&format!("quorate_client_{name}"));
        found.map_or(0, |number| number.0.load(Ordering::Relaxed))
    }

    /// Awaits a value that the session's task is about to write.
    async fn reaches(&self, name: &str, value: u64) {
        let reached = async {
            while self.get(name) != value {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        within(&format!("{name} of {value}"), reached).await;
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.register(key))
    }
}

/// One test, for a process has one recorder.
#[tokio::test]
async fn requests_connections_and_sessions_are_counted() {
    let metrics = Metrics::default();
    metrics::set_global_recorder(metrics.clone()).ok().unwrap();
    let tick = Duration::from_millis(100);
    let server = Server::builder().tick_time(tick).start().await.unwrap();
    let servers = server.client_addr().unwrap().to_string();
    let client = within("the connection", Client::connect(&servers))
        .await
        .unwrap();
    client
        .create("/a", "1", CreateMode::Persistent)
        .await
        .unwrap();
    for _ in 0..10 {
        client.get_data("/a").await.unwrap();
    }
    assert!(client.get_data("/b").await.is_err());
    let watch = client.watch("/a").await.unwrap();

    assert_eq!(metrics.get("requests_total operation=GetData"), 11);
    assert_eq!(metrics.get("request_seconds operation=GetData"), 11);
    let refused = "request_errors_total operation=GetData code=NO_NODE";
    assert_eq!(metrics.get(refused), 1);
    assert_eq!(metrics.get("connections_made_total"), 1);
    assert_eq!(metrics.get("connections"), 1);
    metrics.reaches("watches", 1).await;
    metrics.reaches("requests_in_flight", 0).await;
    assert!(metrics.get("sent_bytes_total") > 12 * 20);
    assert!(metrics.get("received_bytes_total") > 12 * 20);
    drop(watch);
    metrics.reaches("watches", 0).await;

    let expiring = Client::builder().session_timeout(Duration::from_millis(300));
    let expiring = within("another", expiring.connect(&servers)).await.unwrap();
    assert_eq!(metrics.get("connections"), 2);
    within("the close", client.close()).await.unwrap();
    metrics.reaches("connections", 1).await;
    assert_eq!(metrics.get("connections_lost_total"), 0);

    server.shutdown().await.unwrap();
    let lost = within("the end", async {
        let mut states = expiring.watch_state();
        states.wait_for(|state| state.is_over()).await.unwrap();
        expiring.exists("/").await
    });
    assert!(matches!(lost.await, Err(Error::SessionExpired { .. })));
    metrics.reaches("sessions_expired_total", 1).await;
    assert_eq!(metrics.get("connections_lost_total"), 1);
    assert_eq!(metrics.get("connections"), 0);
    assert!(metrics.get("connect_failures_total") > 0);
}
