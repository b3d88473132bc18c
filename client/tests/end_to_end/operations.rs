//! The operations against a real server.

use std::time::Duration;

use futures::StreamExt;
use quorate_client::{
    Acl, Client, CreateMode, CreateOptions, Data, Error, EventKind, Perms, ReadResult,
    TransactionResult,
};

use crate::{address, start_server, within};

/// A client whose tree is a new, empty subtree.
async fn chrooted(server: &str) -> Client {
    let client = Client::connect(server).await.unwrap();
    let mode = CreateMode::PersistentSequential;
    let root = client.create("/root-", "", mode).await.unwrap();
    client.with_chroot(&root.path).unwrap()
}

#[tokio::test]
async fn a_znode_from_creation_to_deletion() {
    let server = start_server().await;
    let client = chrooted(&address(&server)).await;
    let created = client
        .create("/a", Data::NULL, CreateMode::Persistent)
        .await
        .unwrap();
    assert_eq!((created.path.as_str(), created.stat.version), ("/a", 0));
    assert_eq!(client.get_data_or_null("/a").await.unwrap().0, None);
    let stat = client.set_data("/a", "", 0).await.unwrap();
    assert_eq!(stat.version, 1);
    let (data, _) = client.get_data_or_null("/a").await.unwrap();
    assert_eq!(data.as_deref(), Some(&b""[..]));
    let again = client.create("/a", "", CreateMode::Persistent).await;
    assert!(matches!(again, Err(Error::NodeExists { path }) if path == "/a"));
    let stale = client.set_data("/a", "x", 0).await;
    assert!(matches!(stale, Err(Error::BadVersion { .. })));
    let child = client
        .create("/a/n-", "", CreateMode::EphemeralSequential)
        .await
        .unwrap();
    assert_eq!(child.path, "/a/n-0000000000");
    assert_eq!(
        client.get_ephemerals("/").await.unwrap(),
        std::slice::from_ref(&child.path)
    );
    assert_eq!(client.get_children("/").await.unwrap(), ["a"]);
    let (names, stat) = client.get_children_and_stat("/a").await.unwrap();
    assert_eq!((names.len(), stat.num_children), (1, 1));
    assert_eq!(client.get_all_children_number("/").await.unwrap(), 2);
    let full = client.delete("/a", None).await;
    assert!(matches!(full, Err(Error::NotEmpty { .. })));
    let below = client
        .create(&format!("{}/x", child.path), "", CreateMode::Persistent)
        .await;
    assert!(matches!(below, Err(Error::NoChildrenForEphemerals { .. })));
    client.delete(&child.path, 0).await.unwrap();
    client.delete("/a", stat.version).await.unwrap();
    assert_eq!(client.exists("/a").await.unwrap(), None);
    client.sync("/").await.unwrap();
}

#[tokio::test]
async fn acls_and_identities() {
    let server = start_server().await;
    let client = chrooted(&address(&server)).await;
    client.add_auth("digest", "alice:secret").await.unwrap();
    let identities = client.who_am_i().await.unwrap();
    let is_alice = |id: &quorate_client::Identity| id.scheme == "digest" && id.user == "alice";
    assert!(identities.iter().any(is_alice));
    let acl = [Acl::new(Perms::ALL, "auth", "")];
    let options = CreateOptions::new(CreateMode::Persistent).acl(&acl);
    client.create("/private", "", options).await.unwrap();
    let (found, _) = client.get_acl("/private").await.unwrap();
    assert_eq!(found[0].id.scheme, "digest");

    let stranger = Client::connect(&address(&server)).await.unwrap();
    let stranger = stranger.with_chroot(client.chroot()).unwrap();
    let refused = stranger.get_data("/private").await;
    assert!(matches!(refused, Err(Error::NoAuth { .. })));
    let open = [Acl::world(Perms::READ)];
    let stat = client.set_acl("/private", &open, 0).await.unwrap();
    assert_eq!(stat.aversion, 1);
    stranger.get_data("/private").await.unwrap();
    let invalid = client.set_acl("/private", &[], None).await;
    assert!(invalid.is_err());
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let server = start_server().await;
    let client = chrooted(&address(&server)).await;
    let hour = Duration::from_secs(3600);
    let results = client
        .transaction()
        .create("/c", "", CreateMode::Container)
        .create("/n-", "1", CreateMode::PersistentSequential)
        .set_data("/c", "2", 0)
        .check("/c", 1)
        .delete("/c", None)
        .commit()
        .await
        .unwrap();
    assert_eq!(results.len(), 5);
    let TransactionResult::Created { path, .. } = &results[1] else {
        panic!("{results:?}");
    };
    assert_eq!(path, "/n-0000000001");
    assert_eq!(results[3], TransactionResult::Checked);

    let failed = client
        .transaction()
        .create(
            "/x",
            "",
            CreateOptions::new(CreateMode::Persistent).ttl(hour),
        )
        .delete("/nowhere", None)
        .create("/y", "", CreateMode::Persistent)
        .commit()
        .await
        .unwrap_err();
    assert!(matches!(failed, Error::Transaction { .. }), "{failed}");
    assert_eq!(client.exists("/x").await.unwrap(), None);

    let reads = client.multi_read().get_data("/n-0000000001");
    let reads = reads.get_data("/x").get_children("/").send().await.unwrap();
    assert!(
        matches!(&reads[0], Ok(ReadResult::Data { data, .. }) if data.as_deref() == Some(b"1"))
    );
    assert!(matches!(&reads[1], Err(Error::NoNode { .. })));
    assert!(matches!(&reads[2], Ok(ReadResult::Children(names)) if names.len() == 1));
}

#[tokio::test]
async fn large_data_and_many_requests_at_once() {
    let server = start_server().await;
    let client = chrooted(&address(&server)).await;
    let large: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    client
        .create("/large", &large, CreateMode::Persistent)
        .await
        .unwrap();
    let replies: Vec<_> = (0..200).map(|_| client.get_data("/large")).collect();
    for reply in replies {
        let (data, _) = within("the data", reply).await.unwrap();
        assert!(data == large);
    }
    let replies: Vec<_> = (0..10_000).map(|_| client.exists("/large")).collect();
    for reply in replies {
        assert!(within("the stat", reply).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn watches_tell_of_other_sessions_writes() {
    let server = start_server().await;
    let client = chrooted(&address(&server)).await;
    let other = Client::connect(&address(&server)).await.unwrap();
    let other = other.with_chroot(client.chroot()).unwrap();
    let (_, created) = client.exists_watched("/a").await.unwrap();
    let mut tree = client.watch_recursive("/").await.unwrap();
    let mut one = client.watch("/a").await.unwrap();
    other
        .create("/a", "", CreateMode::Persistent)
        .await
        .unwrap();
    let event = within("the event", created).await.unwrap();
    assert_eq!(
        (event.kind, event.path.as_str()),
        (EventKind::Created, "/a")
    );
    assert!(event.zxid.is_some());
    other
        .create("/a/b", "", CreateMode::Persistent)
        .await
        .unwrap();
    other.delete("/a/b", None).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = within("the event", tree.next()).await.unwrap().unwrap();
        seen.push((event.kind, event.path));
    }
    let expected = [
        (EventKind::Created, "/a".to_owned()),
        (EventKind::Created, "/a/b".to_owned()),
        (EventKind::Deleted, "/a/b".to_owned()),
    ];
    assert_eq!(seen, expected);
    for kind in [
        EventKind::Created,
        EventKind::ChildrenChanged,
        EventKind::ChildrenChanged,
    ] {
        let event = within("the event", one.next()).await.unwrap().unwrap();
        assert_eq!((event.kind, event.path.as_str()), (kind, "/a"));
    }
}

#[tokio::test]
async fn another_process_continues_a_session() {
    let server = start_server().await;
    let client = Client::connect(&address(&server)).await.unwrap();
    client
        .create("/mine", "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let session = client.detach().await.unwrap();
    let again = Client::builder().session(session.clone());
    let again = again.connect(&address(&server)).await.unwrap();
    assert_eq!(again.session().unwrap().id(), session.id());
    assert_eq!(again.get_ephemerals("/").await.unwrap(), ["/mine"]);
    again.close().await.unwrap();
    let gone = Client::builder().session(session);
    let gone = gone.connect(&address(&server)).await;
    assert!(matches!(gone, Err(Error::SessionExpired { .. })));
    let other = Client::connect(&address(&server)).await.unwrap();
    assert_eq!(other.exists("/mine").await.unwrap(), None);
}
