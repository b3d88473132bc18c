//! Masters, workers and tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use quorate_recipes::coordination::{Cluster, Master, Overview, TaskState, Worker, WorkerInfo};
use quorate_recipes::{Client, CreateMode, Error, client};
use tokio::time::{Instant, sleep};

use crate::relay::Relay;
use crate::support::{LONG, PATH, Servers, beside, connect, nothing_left, server, soon};

const TASKS: usize = 12;

fn cluster(client: &Client) -> Cluster {
    Cluster::new(client, PATH)
}

async fn add_tasks(cluster: &Cluster) {
    for n in 0..TASKS {
        cluster.add_task(&format!("task-{n}")).await.unwrap();
    }
}

fn mastering(master: Master) -> tokio::task::JoinHandle<Error> {
    beside(async move { master.run().await })
}

/// Awaits that a worker serves so many.
async fn serves(worker: &mut Worker, number: usize) {
    soon(&format!("{number} tasks"), async {
        while worker.tasks().len() != number {
            worker.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_served_and_move_with_the_workers() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(300)).await;
    let cluster = cluster(&client);
    add_tasks(&cluster).await;
    let master = cluster.master("m1");
    let mut active = master.watch_active();
    let master = mastering(master);
    soon("a master", active.wait_for(Option::is_some))
        .await
        .unwrap();
    let info = WorkerInfo::new("w1").address("10.0.0.1");
    let mut one = Worker::join(&cluster, &info).await.unwrap();
    serves(&mut one, TASKS).await;
    let mut two = Worker::join(
        &Cluster::new(&dying, PATH),
        &WorkerInfo::new("w2").capacity(2),
    )
    .await
    .unwrap();
    serves(&mut one, TASKS / 3).await;
    serves(&mut two, TASKS - TASKS / 3).await;
    let workers = cluster.workers().await.unwrap();
    assert_eq!(workers[one.name()].address, "10.0.0.1");
    soon("rest", async {
        while !cluster
            .tasks()
            .await
            .unwrap()
            .values()
            .all(|task| task.state == TaskState::Open)
        {}
    })
    .await;

    // Whoever is dead serves nothing, and has nothing written either.
    let (name, served) = two
        .tasks()
        .iter()
        .next()
        .map(|(n, t)| (n.clone(), t.clone()))
        .unwrap();
    client
        .create("/written", "", CreateMode::Persistent)
        .await
        .unwrap();
    served
        .transaction()
        .set_data("/written", "by two", None)
        .commit()
        .await
        .unwrap();
    let stale = served
        .transaction()
        .set_data("/written", "by a ghost", None);
    dying.detach().await.unwrap();
    serves(&mut one, TASKS).await;
    assert!(stale.commit().await.is_err());
    assert!(served.state().is_lost());
    assert!(one.tasks()[&name].epoch() > served.epoch());
    assert!(two.changed().await.is_err());
    assert!(two.tasks().is_empty());
    master.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_moves_when_the_worker_has_put_it_down() {
    let server = server().await;
    let client = server.client(LONG).await;
    let cluster = cluster(&client);
    cluster.add_task("a").await.unwrap();
    cluster.add_task("b").await.unwrap();
    let master = mastering(cluster.master("m"));
    let mut one = Worker::join(&cluster, &WorkerInfo::new("w1"))
        .await
        .unwrap();
    serves(&mut one, 2).await;
    let held = one.tasks();
    let mut two = Worker::join(&cluster, &WorkerInfo::new("w2"))
        .await
        .unwrap();
    serves(&mut one, 1).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(two.tasks().len(), 0);
    // It may still write what it has begun.
    client
        .create("/flushed", "", CreateMode::Persistent)
        .await
        .unwrap();
    let moving = held
        .keys()
        .find(|name| !one.tasks().contains_key(*name))
        .unwrap()
        .clone();
    let flush = held[&moving]
        .transaction()
        .set_data("/flushed", "all", None);
    let late = flush.clone();
    flush.commit().await.unwrap();
    drop(held);
    serves(&mut two, 1).await;
    assert!(two.tasks().contains_key(&moving));
    let refused = late.commit().await;
    assert!(matches!(refused, Err(Error::Lost { .. })), "{refused:?}");
    drop((one, two));
    soon("nobody", async {
        while !cluster.workers().await.unwrap().is_empty() {}
        while cluster
            .tasks()
            .await
            .unwrap()
            .values()
            .any(|task| task.worker.is_some())
        {}
    })
    .await;
    master.abort();
    let _ = master.await;
    nothing_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_master_goes_on_and_the_last_one_cannot() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(300)).await;
    let cluster = cluster(&client);
    add_tasks(&cluster).await;
    let first = Cluster::new(&dying, PATH).master("m1");
    let mut active = first.watch_active();
    let first = mastering(first);
    soon("the first master", active.wait_for(Option::is_some))
        .await
        .unwrap();
    let second = mastering(cluster.master("m2"));
    let mut worker = Worker::join(&cluster, &WorkerInfo::new("w1"))
        .await
        .unwrap();
    serves(&mut worker, TASKS).await;
    dying.detach().await.unwrap();
    let error = soon("the end of the first", first).await.unwrap();
    assert!(error.is_session_over(), "{error}");
    // Nobody is disturbed by that, and who comes then gets a part.
    assert_eq!(worker.tasks().len(), TASKS);
    let mut late = Worker::join(&cluster, &WorkerInfo::new("w2"))
        .await
        .unwrap();
    serves(&mut late, TASKS / 2).await;
    let leader = cluster.election().leader().await.unwrap().unwrap();
    assert_eq!(leader.data, "m2");
    second.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_see_who_serves_what() {
    let server = server().await;
    let client = server.client(LONG).await;
    let (cluster, observer) = (cluster(&client), server.client(LONG).await);
    cluster.add_task("a").await.unwrap();
    let first = cluster.master("m1");
    let mut active = first.watch_active();
    let first = mastering(first);
    soon("a master", active.wait_for(Option::is_some))
        .await
        .unwrap();
    let mut changes = Cluster::new(&observer, PATH).observe();
    let mut seen = changes.next().await.unwrap().unwrap();
    let mut sees = async |what: &str, enough: &dyn Fn(&Overview) -> bool| {
        soon(what, async {
            while !enough(&seen) {
                seen = changes.next().await.unwrap().unwrap();
            }
        })
        .await;
    };
    let second = mastering(cluster.master("m2"));
    sees("a standby", &|seen| seen.masters == ["m1", "m2"]).await;
    assert_eq!(cluster.masters().await.unwrap(), ["m1", "m2"]);
    let mut worker = Worker::join(&cluster, &WorkerInfo::new("w1"))
        .await
        .unwrap();
    serves(&mut worker, 1).await;
    sees("an open task", &|seen| {
        seen.tasks["a"].state == TaskState::Open
            && seen.worker_of("a").is_some_and(|info| info.id == "w1")
    })
    .await;
    worker.report(7).await.unwrap();
    sees("its load", &|seen| {
        seen.worker_of("a").is_some_and(|info| info.load == 7)
    })
    .await;
    first.abort();
    sees("another master", &|seen| seen.masters == ["m2"]).await;
    drop(worker);
    sees("nobody", &|seen| seen.workers.is_empty()).await;
    second.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_hold_back_the_writes_of_other_sessions() {
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    let dying = server.client(Duration::from_millis(300)).await;
    let cluster = cluster(&client);
    cluster.add_task("a").await.unwrap();
    let master = mastering(cluster.master("m"));
    let info = WorkerInfo::new("w1");
    let mut worker = Worker::join(&Cluster::new(&dying, PATH), &info)
        .await
        .unwrap();
    serves(&mut worker, 1).await;
    let task = worker.tasks()["a"].clone();
    let options = CreateMode::Persistent;
    client.create("/written", "", options).await.unwrap();
    let write = || {
        let [member, assignment] = task.fences();
        let fenced = client.transaction().check(member, None);
        let fenced = fenced.check(assignment, None);
        fenced.set_data("/written", "by w1", None).commit()
    };
    write().await.unwrap();
    dying.detach().await.unwrap();
    soon("the end of the worker", async {
        while worker.changed().await.is_ok() {}
        while !cluster.workers().await.unwrap().is_empty() {}
    })
    .await;
    let refused = write().await.unwrap_err();
    assert!(
        matches!(&refused, client::Error::Transaction { index: 0, .. }),
        "{refused:?}"
    );
    // Its membership is over, not only the way to it.
    let report = worker.report(1).await;
    assert!(matches!(report, Err(Error::Lost { .. })), "{report:?}");
    master.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_task_is_an_error_that_names_it() {
    let server = server().await;
    let client = server.client(LONG).await;
    let cluster = cluster(&client);
    cluster.add_task("a").await.unwrap();
    let path = format!("{PATH}/tasks/b");
    client
        .create(&path, "?", CreateMode::Persistent)
        .await
        .unwrap();
    let master = cluster.master("m");
    let error = soon("an error", master.run()).await;
    assert!(
        matches!(&error, Error::Payload { path: found, .. } if *found == path),
        "{error}"
    );
    assert!(client.exists(&path).await.unwrap().is_some());
}

/// Masters and workers are cut off and killed: a task is never served by two, and all are served in
/// the end.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_is_ever_served_twice() {
    const SESSION: Duration = Duration::from_millis(600);
    let server = Servers::start(Duration::from_millis(50)).await;
    let client = server.client(LONG).await;
    add_tasks(&cluster(&client)).await;
    let end = Instant::now() + Duration::from_secs(6);
    let users = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let address = server.address();
    let masters: Vec<_> = (0..2)
        .map(|n| {
            beside(async move {
                let relay = Relay::start(address).await;
                while Instant::now() < end {
                    relay.heal();
                    let client = connect(&relay.address(), SESSION).await;
                    let master = cluster(&client).master(format!("m{n}"));
                    let time = Duration::from_millis(fastrand::u64(200..1500));
                    let _ = tokio::time::timeout(time, master.run()).await;
                    match fastrand::bool() {
                        true => relay.cut(),
                        false => drop(client.detach().await),
                    }
                }
            })
        })
        .collect();
    let workers: Vec<_> = (0..3)
        .map(|n| {
            let users = Arc::clone(&users);
            beside(async move {
                let (relay, mut used) = (Relay::start(address).await, 0);
                while Instant::now() < end {
                    relay.heal();
                    let client = connect(&relay.address(), SESSION).await;
                    let info = WorkerInfo::new(format!("w{n}"));
                    let Ok(worker) = Worker::join(&cluster(&client), &info).await else {
                        continue;
                    };
                    let life = Instant::now() + Duration::from_millis(fastrand::u64(500..2500));
                    let cut = fastrand::bool();
                    while Instant::now() < life.min(end) && !worker.state().is_lost() {
                        for (name, task) in &*worker.tasks() {
                            if task.state().is_lost() {
                                break;
                            }
                            let epoch = task.epoch();
                            let other = users.lock().insert(name.clone(), epoch);
                            assert!(other.is_none_or(|other| other <= epoch), "{name}");
                            used += 1;
                        }
                        sleep(Duration::from_millis(2)).await;
                        if cut && Instant::now() + SESSION > life {
                            relay.cut();
                        }
                    }
                    match fastrand::bool() {
                        true => drop(worker),
                        false => drop(client.detach().await),
                    }
                }
                used
            })
        })
        .collect();
    for master in masters {
        soon("a master", master).await.unwrap();
    }
    let mut used = 0;
    for worker in workers {
        used += soon("a worker", worker).await.unwrap();
    }
    assert!(used > 1000, "{used}");
    let (cluster, info) = (cluster(&client), WorkerInfo::new("last"));
    let master = mastering(cluster.master("last"));
    let mut worker = Worker::join(&cluster, &info).await.unwrap();
    serves(&mut worker, TASKS).await;
    master.abort();
}
