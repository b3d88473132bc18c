//! The spans of operations, for an application that wants to see them.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_client::{Client, CreateMode, Error};
use quorate_server::Server;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Keeps the fields of every span of an operation.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "quorate_client::request" && *metadata.level() == Level::DEBUG
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut spans = self.0.lock().unwrap();
        let mut fields = BTreeMap::new();
        attributes.record(&mut Fields(&mut fields));
        spans.push(fields);
        span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        let fields = &mut spans[usize::try_from(span.into_u64()).unwrap() - 1];
        values.record(&mut Fields(fields));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn operations_have_spans_with_their_outcome() {
    let server = Server::builder().start().await.unwrap();
    let servers = server.client_addr().unwrap().to_string();
    let client = within("the connection", Client::connect(&servers))
        .await
        .unwrap();
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    client
        .create("/a", "1", CreateMode::Persistent)
        .await
        .unwrap();
    assert!(client.get_data("/b").await.is_err());
    drop(client.exists("/a"));
    let no_path = client.exists("no path").await.unwrap_err().to_string();
    let spans = spans.0.lock().unwrap();
    let outcomes = spans.iter().map(|fields| {
        let field = |name: &str| fields.get(name).map_or("-", String::as_str);
        (
            field("operation"),
            field("path"),
            field("xid"),
            field("outcome"),
        )
    });
    let no_node = Error::NoNode { path: "/b".into() }.to_string();
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        [
            ("Create2", "\"/a\"", "1", "\"ok\""),
            ("GetData", "\"/b\"", "2", no_node.as_str()),
            ("Exists", "\"/a\"", "-", "-"),
            ("Exists", "\"no path\"", "-", no_path.as_str()),
        ]
    );
    assert!(spans[0]["zxid"].starts_with("0x"), "{:?}", spans[0]);
}
