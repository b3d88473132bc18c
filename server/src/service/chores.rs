//! What the service does by itself: expiring sessions, reaping containers, purging old files.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Mode, Service, wall_clock};
use crate::storage::Storage;
use crate::tree::{Node, Owner};

/// The running chores; dropping them ends them.
#[derive(Debug)]
pub(crate) struct Chores {
    tasks: JoinSet<()>,
}

impl Chores {
    pub(crate) fn start(service: &Arc<Service>, storage: &Storage) -> Self {
        let mut chores = Chores::of_sessions(service);
        if let Some(interval) = service.config.autopurge_purge_interval {
            let purge = purge(Arc::clone(service), storage.clone(), interval);
            chores.tasks.spawn(purge);
        }
        chores
    }

    /// Those that need no disk.
    pub(super) fn of_sessions(service: &Arc<Service>) -> Self {
        if service.mode() == Mode::Standalone {
            // A leader does this when it begins to lead.
            service.enqueue(|queue, tree| service.close_orphans(queue, tree));
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(expire_sessions(Arc::clone(service)));
        tasks.spawn(reap_containers(Arc::clone(service)));
        Chores { tasks }
    }
}

async fn expire_sessions(service: Arc<Service>) {
    let tick = service.config.tick_time.max(Duration::from_millis(1));
    loop {
        // Buckets end at whole ticks, and a new session cannot need to be looked at before the
        // next of them.
        let now = service.now();
        let tick_millis = super::millis(tick).max(1);
        let wait = tick_millis - now % tick_millis;
        sleep(Duration::from_millis(wait)).await;
        if service.is_open() || service.is_read_only() {
            let expired = service.local_sessions.lock().expire(service.now());
            for session in expired {
                service.connections.close_session(session);
            }
        }
        if !service.decides() {
            continue;
        }
        let expired = service.sessions.lock().expire(service.now());
        for session in expired {
            tracing::info!(session = format_args!("{session:#x}"), "session expired");
            service.expire_session(session);
        }
    }
}

async fn reap_containers(service: Arc<Service>) {
    let config = &service.config;
    let pause = Duration::from_secs(60) / config.container_max_per_minute.max(1);
    let mut next = Instant::now() + config.container_check_interval;
    loop {
        sleep_until(next).await;
        next = Instant::now() + config.container_check_interval;
        if !service.decides() {
            continue;
        }
        let now = wall_clock();
        let candidates: Vec<String> = {
            let tree = service.tree();
            let due = tree.reapable().filter(|node| is_due(&service, node, now));
            due.map(|node| node.path().to_owned()).collect()
        };
        for path in candidates {
            tracing::info!(%path, "reaping a container or an expired TTL node");
            service.reap(&path);
            sleep(pause).await;
        }
    }
}

/// Spec: server semantics, section 6.
fn is_due(service: &Service, node: &Node, now: i64) -> bool {
    let stat = node.persisted();
    let age = now.saturating_sub(stat.mtime);
    let never_used = service.config.container_max_never_used_interval;
    node.child_count() == 0
        && match node.owner() {
            Owner::Container if stat.cversion > 0 => true,
            Owner::Container => never_used
                .and_then(|limit| i64::try_from(limit.as_millis()).ok())
                .is_some_and(|limit| limit > 0 && age > limit),
            Owner::Ttl(ttl) => age > ttl,
            Owner::Persistent | Owner::Session(_) => false,
        }
}

async fn purge(service: Arc<Service>, storage: Storage, interval: Duration) {
    loop {
        sleep(interval).await;
        let keep = service.config.autopurge_snap_retain_count as usize;
        let storage = storage.clone();
        match tokio::task::spawn_blocking(move || storage.purge(keep)).await {
            Ok(Ok(purged)) => tracing::info!(?purged, "purged old files"),
            Ok(Err(error)) => tracing::warn!(%error, "old files could not be purged"),
            Err(_) => return,
        }
    }
}
