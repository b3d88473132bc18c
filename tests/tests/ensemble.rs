//! Ensembles of real servers in one process: what clients see while leaders die, links are cut and
//! disks hang. What was acknowledged is there afterwards, on every server.
#![allow(
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quorate_client::{Client, CreateMode, Error, Membership};
use quorate_server::Ensemble;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

async fn client(ensemble: &Ensemble) -> Client {
    Client::connect(&ensemble.connect_string()).await.unwrap()
}

/// A client of one server only.
async fn client_of(ensemble: &Ensemble, id: i64) -> Client {
    let address = ensemble.client_addr(id).unwrap().to_string();
    Client::connect(&address).await.unwrap()
}

/// Creates sequential znodes below `/log` until told to stop; answers those acknowledged.
async fn write_until(client: Client, stop: tokio::sync::watch::Receiver<bool>) -> Vec<String> {
    let mut created = Vec::new();
    while !*stop.borrow() {
        match client
            .create("/log/e-", &b"entry"[..], CreateMode::PersistentSequential)
            .await
        {
            Ok(node) => created.push(node.path),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    created
}

async fn children(ensemble: &Ensemble, id: i64, path: &str) -> BTreeSet<String> {
    let client = client_of(ensemble, id).await;
    client.sync(path).await.unwrap();
    let children = client.get_children(path).await.unwrap();
    client.close().await.unwrap();
    children.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_takes_every_server_shows() {
    let ensemble = Ensemble::start(3).await.unwrap();
    ensemble.settled().await.unwrap();
    for id in ensemble.ids() {
        let client = client_of(&ensemble, id).await;
        client
            .create(&format!("/from-{id}"), &b"data"[..], CreateMode::Persistent)
            .await
            .unwrap();
        client.close().await.unwrap();
    }
    for id in ensemble.ids() {
        let client = client_of(&ensemble, id).await;
        client.sync("/").await.unwrap();
        for other in ensemble.ids() {
            let (data, _) = client.get_data(&format!("/from-{other}")).await.unwrap();
            assert_eq!(&data[..], b"data");
        }
    }
    ensemble.shutdown().await.unwrap();
}

/// Waits until a server serves clients at this address.
async fn moved_to(ensemble: &Ensemble, id: i64, address: SocketAddr) {
    let moved = async {
        while ensemble.client_addr(id) != Some(address) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, moved).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_moves_to_other_ports_while_it_runs() {
    let settings = Ensemble::builder().voters(3).configure(|config| {
        config.reconfig_enabled = true;
        config.skip_acl = true;
    });
    let mut ensemble = settings.start().await.unwrap();
    ensemble.settled().await.unwrap();
    let old = ensemble.client_addr(1).unwrap();
    let stays = client_of(&ensemble, 1).await;

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = free.local_addr().unwrap().ip();
    let others = [(); 2].map(|()| std::net::TcpListener::bind((host, 0)).unwrap());
    let [quorum, election, clients] =
        [&others[0], &others[1], &free].map(|listener| listener.local_addr().unwrap().port());
    drop(others);
    let line = format!("server.1={host}:{quorum}:{election}:participant;{host}:{clients}");
    let operator = client_of(&ensemble, 2).await;
    let joining = Membership::Change {
        joining: Some(&line),
        leaving: None,
    };
    // The port is taken, and the next configuration says the same.
    for _ in 0..2 {
        let moved = operator.reconfig(joining, None).await.unwrap();
        assert_eq!(moved.members.len(), 3);
    }
    drop(free);

    let new = (host, clients).into();
    moved_to(&ensemble, 1, new).await;
    let moved = client_of(&ensemble, 1).await;
    assert_eq!(moved.server_addr(), Some(new));
    assert!(tokio::net::TcpStream::connect(old).await.is_err());
    // Who is connected already notices nothing.
    stays
        .create("/stays", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    assert_eq!(stays.server_addr(), Some(old));

    // The others come back to it, as voters and as followers, and it to them.
    ensemble.hand_over(Some(1)).await.unwrap();
    for id in [3, 2] {
        ensemble.stop(id).await.unwrap();
        ensemble.restart(id).await.unwrap();
        assert_eq!(ensemble.settled().await.unwrap(), 1);
    }
    ensemble.stop(1).await.unwrap();
    ensemble.restart(1).await.unwrap();
    ensemble.settled().await.unwrap();
    moved_to(&ensemble, 1, new).await;
    assert!(children(&ensemble, 1, "/").await.contains("stays"));
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_die() {
    let mut ensemble = Ensemble::start(3).await.unwrap();
    let setup = client(&ensemble).await;
    setup
        .create("/log", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = {
        let mut writers = Vec::new();
        for _ in 0..4 {
            let client = client(&ensemble).await;
            writers.push(tokio::spawn(write_until(client, stopped.clone())));
        }
        writers
    };
    for _ in 0..3 {
        let leader = ensemble.leader().await.unwrap();
        ensemble.kill(leader).await;
        ensemble.leader().await.unwrap();
        ensemble.restart(leader).await.unwrap();
        ensemble.settled().await.unwrap();
    }
    stop.send_replace(true);
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        for path in timeout(PATIENCE, writer).await.unwrap().unwrap() {
            assert!(
                acknowledged.insert(path["/log/".len()..].to_owned()),
                "{path} twice"
            );
        }
    }
    assert!(!acknowledged.is_empty());
    let mut all = Vec::new();
    for id in ensemble.ids() {
        all.push(children(&ensemble, id, "/log").await);
    }
    assert!(
        all.windows(2).all(|pair| pair[0] == pair[1]),
        "the servers differ"
    );
    assert!(
        acknowledged.is_subset(&all[0]),
        "an acknowledged write is lost"
    );
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_commits_nothing_more() {
    let ensemble = Ensemble::start(3).await.unwrap();
    let old = ensemble.settled().await.unwrap();
    let client = client_of(&ensemble, old).await;
    client
        .create("/before", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    let rest: Vec<i64> = ensemble.ids().into_iter().filter(|id| *id != old).collect();
    ensemble.partition(&[&rest]);
    let lost = client.create("/lost", &b""[..], CreateMode::Persistent);
    let leads_elsewhere = async {
        while ensemble.leader().await.unwrap() == old {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, leads_elsewhere).await.unwrap();
    let other = client_of(&ensemble, rest[0]).await;
    other
        .create("/after", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    assert!(
        timeout(PATIENCE, lost).await.unwrap().is_err(),
        "a minority has committed"
    );
    ensemble.heal();
    ensemble.settled().await.unwrap();
    let names = children(&ensemble, old, "/").await;
    assert!(names.contains("before") && names.contains("after"));
    ensemble.shutdown().await.unwrap();
}

/// Whether the followers hear it or not: it cannot know what they agree on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_of_nobody_answers_no_sync() {
    for both_ways in [true, false] {
        let ensemble = Ensemble::start(3).await.unwrap();
        let old = ensemble.settled().await.unwrap();
        let client = client_of(&ensemble, old).await;
        let fresh = client.linearizable();
        client
            .create("/n", &b"before"[..], CreateMode::Persistent)
            .await
            .unwrap();
        assert_eq!(&*fresh.get_data("/n").await.unwrap().0, b"before");
        let rest: Vec<i64> = ensemble.ids().into_iter().filter(|id| *id != old).collect();
        match both_ways {
            true => ensemble.partition(&[&rest]),
            false => rest.iter().for_each(|id| ensemble.cut(*id, old)),
        }
        let asked = fresh.get_data("/n");
        let answered = tokio::spawn(async { asked.await.is_ok() });
        let other = client_of(&ensemble, rest[0]).await;
        let changed = other.retry_idempotent(|| other.set_data("/n", &b"after"[..], None));
        timeout(PATIENCE, changed).await.unwrap().unwrap();
        let refused = !answered.is_finished() || !answered.await.unwrap();
        assert!(refused, "answered by a leader whom nobody follows");
        let asked = fresh.get_data("/n");
        ensemble.heal();
        if let Ok((data, _)) = timeout(PATIENCE, asked).await.unwrap() {
            assert_eq!(&*data, b"after");
        }
        let asked = fresh.retry(|| fresh.get_data("/n"));
        let (data, _) = timeout(PATIENCE, asked).await.unwrap().unwrap();
        assert_eq!(&*data, b"after");
        ensemble.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_keep_their_clients_when_the_leader_dies() {
    let mut ensemble = Ensemble::start(3).await.unwrap();
    let leader = ensemble.settled().await.unwrap();
    let follower = ensemble.ids().into_iter().find(|id| *id != leader).unwrap();
    let client = client_of(&ensemble, follower).await;
    client
        .create("/mine", &b""[..], CreateMode::Ephemeral)
        .await
        .unwrap();
    let mut states = client.watch_state();
    states.mark_unchanged();
    ensemble.kill(leader).await;
    ensemble.leader().await.unwrap();
    let begin = Instant::now();
    while let Err(error) = client.set_data("/mine", &b"again"[..], None).await {
        assert!(
            error.is_transient() && begin.elapsed() < PATIENCE,
            "{error}"
        );
    }
    assert!(
        !states.has_changed().unwrap(),
        "the client was disconnected"
    );
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_steps_down() {
    let ensemble = Ensemble::start(3).await.unwrap();
    let old = ensemble.settled().await.unwrap();
    let follower = ensemble.ids().into_iter().find(|id| *id != old).unwrap();
    let client = client_of(&ensemble, follower).await;
    ensemble.hang_disk(old, true);
    // It has to write something to find out.
    let write = client.create("/while-it-hangs", &b""[..], CreateMode::Persistent);
    timeout(PATIENCE, async {
        while ensemble.leader().await.unwrap() == old {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    if let Err(error) = timeout(PATIENCE, write).await.unwrap() {
        assert!(
            matches!(error, Error::ConnectionLoss { .. }) || error.is_transient(),
            "{error}"
        );
    }
    ensemble.hang_disk(old, false);
    ensemble.settled().await.unwrap();
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_disk_gets_everything_again() {
    let mut ensemble = Ensemble::start(3).await.unwrap();
    let leader = ensemble.settled().await.unwrap();
    let away = ensemble.ids().into_iter().find(|id| *id != leader).unwrap();
    let client = client_of(&ensemble, leader).await;
    client
        .create("/log", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    ensemble.kill(away).await;
    for _ in 0..50 {
        let writes = (0..100)
            .map(|_| client.create("/log/e-", &b"entry"[..], CreateMode::PersistentSequential));
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
    }
    ensemble.restart(away).await.unwrap();
    ensemble.settled().await.unwrap();
    assert_eq!(children(&ensemble, away, "/log").await.len(), 5000);
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_client_an_error() {
    let mut ensemble = Ensemble::start(3).await.unwrap();
    let setup = client(&ensemble).await;
    setup
        .create("/register", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    let leader = ensemble.settled().await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = JoinSet::new();
    for id in ensemble.ids().repeat(2) {
        let (client, stopped) = (client_of(&ensemble, id).await, stopped.clone());
        writers.spawn(async move {
            let mut written = 0;
            while !*stopped.borrow() {
                client.set_data("/register", &b"x"[..], None).await.unwrap();
                written += 1;
            }
            written
        });
    }
    let next = ensemble.hand_over(None).await.unwrap();
    assert_ne!(next, leader);
    let next = ensemble.hand_over(Some(leader)).await.unwrap();
    assert_eq!(next, leader);
    stop.send_replace(true);
    while let Some(written) = timeout(PATIENCE, writers.join_next()).await.unwrap() {
        assert!(written.unwrap() > 0);
    }
    ensemble.stop(leader).await.unwrap();
    ensemble.leader().await.unwrap();
    ensemble.restart(leader).await.unwrap();
    ensemble.settled().await.unwrap();
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_answers_what_it_is_asked_meanwhile() {
    let mut ensemble = Ensemble::start(3).await.unwrap();
    let leader = ensemble.settled().await.unwrap();
    let id = ensemble.ids().into_iter().find(|id| *id != leader).unwrap();
    let address = ensemble.client_addr(id).unwrap();
    let client = client_of(&ensemble, id).await;
    for each in ensemble.ids() {
        ensemble.slow_disk(each, Duration::from_millis(200));
    }
    let write = client.create("/slow", &b""[..], CreateMode::Persistent);
    let asks = async {
        let closed = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, closed).await.unwrap();
        // Its connections are told right after that, and nothing shows it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.get_children("/").await
    };
    let (stopped, written, read) = tokio::join!(ensemble.stop(id), write, asks);
    stopped.unwrap();
    written.unwrap();
    assert!(read.unwrap().contains(&"slow".to_owned()));
    ensemble.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_of_one_server_stops_at_once() {
    let mut ensemble = Ensemble::start(1).await.unwrap();
    let id = ensemble.leader().await.unwrap();
    // Less than it gives another server to take over.
    timeout(Duration::from_secs(5), ensemble.stop(id))
        .await
        .unwrap()
        .unwrap();
}
