//! The spans in which everything is traced.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_recipes::{Barrier, Election, Lease, Lock, Queue, RwLock, Semaphore, SimpleLock};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::{LONG, PATIENCE, server};

/// What is traced, as text.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<Vec<u8>>>);

impl Write for Traced {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// On one thread, whose subscriber hears of everything.
#[tokio::test]
async fn whoever_waits_does_so_in_a_span_that_names_the_recipe_and_the_path() {
    let server = server().await;
    let client = server.client(LONG).await;
    let traced = Traced::default();
    let writer = traced.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::NEW)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    drop(Lock::new(&client, "/lock").acquire().await.unwrap());
    drop(RwLock::new(&client, "/rw").write().await.unwrap());
    drop(
        Semaphore::new(&client, "/permits", 1)
            .acquire()
            .await
            .unwrap(),
    );
    drop(SimpleLock::new(&client, "/simple").acquire().await.unwrap());
    drop(
        Election::new(&client, "/election")
            .campaign()
            .await
            .unwrap(),
    );
    Barrier::new(&client, "/barrier").wait().await.unwrap();
    assert!(
        Lease::new(&client, "/lease", "me")
            .obtain(PATIENCE)
            .await
            .unwrap()
    );
    let queue = Queue::<String>::new(&client, "/queue");
    assert!(queue.try_take().await.unwrap().is_none());
    let text = String::from_utf8(traced.0.lock().clone()).unwrap();
    for (span, path) in [
        ("Lock::acquire", "/lock"),
        ("RwLock::write", "/rw"),
        ("Semaphore::acquire", "/permits"),
        ("SimpleLock::acquire", "/simple"),
        ("Election::campaign", "/election"),
        ("Barrier::wait", "/barrier"),
        ("Lease::obtain", "/lease"),
        ("Items::try_take", "/queue"),
    ] {
        let expected = format!("{span}{{path=\"{path}\"}}");
        assert!(text.contains(&expected), "{expected} is not in {text}");
    }
}
