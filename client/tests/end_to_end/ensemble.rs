//! The client and the servers of an ensemble that come, go, and are cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use quorate_client::{Client, CreateMode, Error, EventKind, Membership, State};
use quorate_server::Ensemble;

use crate::{state, within};

/// Clients that are spread over the servers.
const CLIENTS: usize = 40;

/// An ensemble whose membership anybody may change.
async fn open_ensemble(servers: usize) -> Ensemble {
    Ensemble::builder()
        .voters(servers)
        .tick_time(Duration::from_millis(300))
        .configure(|config| {
            config.reconfig_enabled = true;
            config.skip_acl = true;
        })
        .start()
        .await
        .unwrap()
}

/// Clients that follow the membership, each with an ephemeral znode.
async fn crowd(ensemble: &Ensemble) -> Vec<Client> {
    let servers = ensemble.connect_string();
    let clients = (0..CLIENTS).map(|number| {
        let builder = Client::builder().follow_membership(true);
        let connecting = builder.connect(&servers);
        async move {
            let client = connecting.await.unwrap();
            client
                .create(&format!("/c-{number}"), "", CreateMode::Ephemeral)
                .await
                .unwrap();
            client
        }
    });
    within("the clients", join_all(clients)).await
}

/// How many clients each server has, where all are connected.
fn load(ensemble: &Ensemble, clients: &[Client]) -> BTreeMap<i64, usize> {
    let mut load: BTreeMap<i64, usize> = ensemble.ids().into_iter().map(|id| (id, 0)).collect();
    for client in clients {
        let server = client.server_addr();
        let at = load
            .iter_mut()
            .find(|(id, _)| ensemble.client_addr(**id) == server);
        *at.unwrap().1 += 1;
    }
    load
}

/// Awaits that every client is connected, and as it is to be.
async fn settled(clients: &[Client], wanted: impl Fn(&Client) -> bool) {
    let settle = async {
        loop {
            for client in clients {
                client.connected().await.unwrap();
            }
            if clients.iter().all(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the clients to settle", settle).await;
}

async fn no_session_was_lost(clients: &[Client], watch: &Client) {
    for (number, client) in clients.iter().enumerate() {
        let found = watch.exists(&format!("/c-{number}")).await.unwrap();
        let session = client.session().unwrap().id();
        assert_eq!(found.unwrap().ephemeral_owner, session.0);
        assert_eq!(client.state(), State::Connected);
    }
}

#[tokio::test]
async fn clients_follow_an_ensemble_that_grows_and_shrinks() {
    // Everything here runs on this thread, and so does the chance of the clients.
    fastrand::seed(4);
    let mut ensemble = open_ensemble(3).await;
    let operator = Client::connect(&ensemble.connect_string()).await.unwrap();
    let before = operator.get_config().await.unwrap();
    assert_eq!(before.members.len(), 3);
    assert_eq!(before.connect_string(), Some(ensemble.connect_string()));
    let clients = crowd(&ensemble).await;

    let added = [ensemble.add().await.unwrap(), ensemble.add().await.unwrap()];
    let lines = added.map(|id| ensemble.member_line(id).unwrap()).join(",");
    let joining = Membership::Change {
        joining: Some(&lines),
        leaving: None,
    };
    let grown = operator
        .retry_idempotent(|| operator.reconfig(joining, before.version))
        .await
        .unwrap();
    assert_eq!(grown.members.len(), 5);
    assert!(matches!(
        operator.reconfig(joining, before.version).await,
        Err(Error::BadVersion { .. })
    ));
    // 40 % of 40 clients move; a share of 8 for each server, more or less by chance.
    settled(&clients, |_| {
        let load = load(&ensemble, &clients);
        added.iter().all(|id| load[id] >= 4)
    })
    .await;
    let spread = load(&ensemble, &clients);
    assert!(
        spread.values().all(|clients| (3..=14).contains(clients)),
        "{spread:?}"
    );
    no_session_was_lost(&clients, &operator).await;

    // The leader has to stay, for this not to be about elections.
    let leader = ensemble.settled().await.unwrap();
    let gone: Vec<i64> = ensemble
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .take(2)
        .collect();
    let list = gone
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(",");
    operator
        .update_servers(&ensemble.client_addr(leader).unwrap().to_string())
        .await
        .unwrap();
    settled(std::slice::from_ref(&operator), |client| {
        client.server_addr() == ensemble.client_addr(leader)
    })
    .await;
    let leaving = Membership::Change {
        joining: None,
        leaving: Some(&list),
    };
    let shrunk = operator.reconfig(leaving, grown.version).await.unwrap();
    assert_eq!(shrunk.members.len(), 3);
    let is_gone = |client: &Client| {
        let mut gone = gone.iter().map(|id| ensemble.client_addr(*id));
        gone.any(|server| server == client.server_addr())
    };
    settled(&clients, |client| {
        client.state() == State::Connected && !is_gone(client)
    })
    .await;
    no_session_was_lost(&clients, &operator).await;
    let spread = load(&ensemble, &clients);
    let staying = spread.iter().filter(|(id, _)| !gone.contains(id));
    for (_, clients) in staying {
        assert!((6..=22).contains(clients), "{spread:?}");
    }
}

#[tokio::test]
async fn a_list_that_is_no_list_changes_nothing() {
    let ensemble = Ensemble::start(1).await.unwrap();
    let servers = ensemble.connect_string();
    let client = Client::connect(&format!("{servers}/app")).await.unwrap();
    for (list, reason) in [("", "no server"), ("h:x", "no port"), ("h/other", "chroot")] {
        let error = client.update_servers(list).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let before = client.server_addr();
    // The same server by another name, and with the chroot that the handle has.
    let port = before.unwrap().port();
    client
        .update_servers(&format!("localhost:{port}/app"))
        .await
        .unwrap();
    client.sync("/").await.unwrap();
    assert_eq!(client.server_addr(), before);
    client.close().await.unwrap();
    assert_eq!(client.server_addr(), None);
    client.update_servers(&servers).await.unwrap();
}

#[tokio::test]
async fn a_move_fails_no_request_and_keeps_the_order() {
    let ensemble = Ensemble::start(3).await.unwrap();
    let ids = ensemble.ids();
    let address = |id: i64| ensemble.client_addr(id).unwrap().to_string();
    let client = Client::connect(&address(ids[0])).await.unwrap();
    let session = client.session().unwrap().id();
    client
        .create("/n", "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let mut watch = client.watch("/n").await.unwrap();
    for round in 0..9 {
        let first = client.set_data("/n", "x", 3 * round);
        let second = client.set_data("/n", "y", 3 * round + 1);
        let next = address(ids[usize::try_from(round + 1).unwrap() % ids.len()]);
        client.update_servers(&next).await.unwrap();
        let third = client.set_data("/n", "z", 3 * round + 2);
        for reply in [first, second, third] {
            within("the write", reply).await.unwrap();
        }
        assert_eq!(client.server_addr().unwrap().to_string(), next);
        assert_eq!(client.session().unwrap().id(), session);
        let event = within("the event", watch.next()).await.unwrap().unwrap();
        assert_ne!(event.kind, EventKind::Deleted);
    }
}

/// A handle that looks the same to recipes and applications, wherever it is rooted.
#[tokio::test]
async fn handles_with_several_chroots_share_a_session_and_not_their_paths() {
    let ensemble = Ensemble::start(1).await.unwrap();
    let root = Client::connect(&ensemble.connect_string()).await.unwrap();
    let mode = CreateMode::Persistent;
    for path in ["/a", "/b", "/b/c"] {
        root.create(path, "", mode).await.unwrap();
    }
    let a = root.with_chroot("/a").unwrap();
    let c = root.with_chroot("/b").unwrap().with_chroot("/c").unwrap();
    assert_eq!(c.chroot(), "/b/c");
    let mut of_root = root.watch_recursive("/").await.unwrap();
    let mut of_a = a.watch_recursive("/").await.unwrap();
    let mut of_c = c.watch_recursive("/").await.unwrap();
    let (_, created) = c.exists_watched("/x").await.unwrap();
    assert_eq!(created.path(), "/x");

    let made = c.create("/x", "", mode).await.unwrap();
    assert_eq!(made.path, "/x");
    assert_eq!(within("the event", created).await.unwrap().path, "/x");
    assert_eq!(of_c.next().await.unwrap().unwrap().path, "/x");
    assert_eq!(of_root.next().await.unwrap().unwrap().path, "/b/c/x");
    a.create("/y", "", mode).await.unwrap();
    // Nothing of the other subtree came before.
    assert_eq!(of_a.next().await.unwrap().unwrap().path, "/y");
    assert_eq!(of_root.next().await.unwrap().unwrap().path, "/a/y");

    let missing = c.get_data("/y").await.unwrap_err();
    assert!(matches!(missing, Error::NoNode { path } if path == "/y"));
    let failed = a
        .transaction()
        .check("/x", None)
        .commit()
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("\"/x\""), "{failed}");
    let done = c
        .transaction()
        .create("/z", "", mode)
        .commit()
        .await
        .unwrap();
    assert!(format!("{done:?}").contains("\"/z\""), "{done:?}");
    let session = root.session().unwrap().id();
    assert_eq!(c.session().unwrap().id(), session);

    // Dropping all others closes nothing; closing one closes all.
    drop((root, of_root));
    c.sync("/").await.unwrap();
    a.close().await.unwrap();
    assert!(matches!(c.sync("/").await, Err(Error::Closed)));
    assert!(matches!(of_c.next().await, Some(Ok(_))));
    assert!(matches!(of_c.next().await, Some(Err(Error::Closed))));
}

#[tokio::test]
async fn a_read_behind_a_sync_sees_what_others_were_told() {
    let ensemble = Ensemble::start(3).await.unwrap();
    let ids = ensemble.ids();
    let address = |id: i64| ensemble.client_addr(id).unwrap().to_string();
    let writer = Client::connect(&address(ids[0])).await.unwrap();
    let readers = join_all(ids.iter().map(async |id| {
        let client = Client::connect(&address(*id)).await.unwrap();
        client.linearizable()
    }))
    .await;
    writer
        .create("/v", "", CreateMode::Persistent)
        .await
        .unwrap();
    // Late proposals for one of them.
    let leader = ensemble.leader().await.unwrap();
    let follower = *ids.iter().find(|id| **id != leader).unwrap();
    ensemble.slow_link(leader, follower, Duration::from_millis(5));
    for version in 1..=100 {
        writer.set_data("/v", "", None).await.unwrap();
        for reader in &readers {
            let (_, stat) = reader.get_data("/v").await.unwrap();
            assert_eq!(stat.version, version);
        }
    }
}

#[tokio::test]
async fn a_session_that_begins_on_a_read_only_server_becomes_real_on_another() {
    let ensemble = Ensemble::builder()
        .tick_time(Duration::from_millis(300))
        .configure(|config| config.read_only_mode_enabled = true)
        .start()
        .await
        .unwrap();
    let leader = ensemble.settled().await.unwrap();
    let ids = ensemble.ids();
    let cut_off = *ids.iter().find(|id| **id != leader).unwrap();
    let others: Vec<i64> = ids.iter().copied().filter(|id| *id != cut_off).collect();
    ensemble.partition(&[&others]);
    let address = |id: &i64| ensemble.client_addr(*id).unwrap().to_string();
    let client = Client::builder()
        .read_only(true)
        .connect(&address(&cut_off))
        .await
        .unwrap();
    assert_eq!(client.state(), State::ConnectedReadOnly);
    let given = client.session().unwrap().id();
    let refused = client.create("/a", "", CreateMode::Ephemeral).await;
    assert!(matches!(refused, Err(Error::ReadOnly { .. })));
    let refused = client.linearizable().exists("/").await;
    assert!(matches!(refused, Err(Error::ReadOnly { path }) if path == "/"));
    assert!(client.exists("/").await.unwrap().is_some());
    let all: Vec<String> = ids.iter().map(address).collect();
    client.update_servers(&all.join(",")).await.unwrap();
    // Found in the background, and left for it.
    state(&client, State::Connected).await;
    let real = client.session().unwrap().id();
    assert_ne!(real, given);
    client
        .create("/a", "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let owner = client.exists("/a").await.unwrap().unwrap().ephemeral_owner;
    assert_eq!(owner, real.0);
}
