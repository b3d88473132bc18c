//! Reads behind a sync, on one connection or not at all.

use std::time::Duration;

use quorate_client::{Error, EventKind, State};
use quorate_proto::{
    ErrorCode, EventType, GetDataResponse, OpCode, PathRecord, Stat, StatResponse, WatchRequest,
};

use crate::server::{Nothing, Peer, Request, Server, connect, state, within};

const LONG: Duration = Duration::from_secs(60);

fn found() -> StatResponse {
    let stat = Stat {
        version: 3,
        ..Stat::default()
    };
    StatResponse { stat }
}

/// The next two requests, both of which have come before either is answered.
async fn synced(peer: &mut Peer, read: OpCode) -> (Request, Request) {
    (peer.expect(OpCode::Sync).await, peer.expect(read).await)
}

async fn answer(peer: &mut Peer, sync: &Request) {
    peer.ok(sync, &PathRecord { path: "/" }).await;
}

#[tokio::test]
async fn the_sync_and_its_read_are_under_way_together() {
    let server = Server::start().await;
    let (plain, mut peer) = connect(&server).await;
    let client = plain.with_chroot("/app").unwrap().linearizable();
    let reply = client.exists("/a");
    let (sync, read) = synced(&mut peer, OpCode::Exists).await;
    assert_eq!(read.path(), "/app/a");
    answer(&mut peer, &sync).await;
    peer.ok(&read, &found()).await;
    let stat = within("the read", reply).await.unwrap().unwrap();
    assert_eq!(stat.version, 3);

    // Neither a write nor the read of a plain handle has a sync in front.
    let _write = client.delete("/a", None);
    let _read = plain.exists("/a");
    peer.expect(OpCode::Delete).await;
    peer.expect(OpCode::Exists).await;
}

#[tokio::test]
async fn every_kind_of_read_has_a_sync_in_front() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let client = client.linearizable();
    macro_rules! check {
        ($($reply:expr => $op:ident),* $(,)?) => {$(
            let reply = $reply;
            synced(&mut peer, OpCode::$op).await;
            drop(reply);
        )*};
    }
    check!(
        client.get_data("/a") => GetData,
        client.get_data_or_null("/a") => GetData,
        client.get_data_watched("/a") => GetData,
        client.get_config() => GetData,
        client.exists_watched("/a") => Exists,
        client.get_children("/a") => GetChildren,
        client.get_children_and_stat("/a") => GetChildren2,
        client.get_children_watched("/a") => GetChildren2,
        client.get_acl("/a") => GetAcl,
        client.get_all_children_number("/a") => GetAllChildrenNumber,
        client.get_ephemerals("/a") => GetEphemerals,
        client.multi_read().get_data("/a").send() => MultiRead,
    );
}

#[tokio::test]
async fn a_loss_between_sync_and_read_fails_the_read_and_a_retry_syncs_again() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let client = client.linearizable();
    let mut states = client.watch_state();
    let reading = client.retry(|| client.get_data("/a"));
    let serving = async {
        let (sync, _read) = synced(&mut peer, OpCode::GetData).await;
        answer(&mut peer, &sync).await;
        drop(peer);
        within("the loss", states.wait_for(|s| *s == State::Disconnected))
            .await
            .unwrap();
        let mut peer = server.serve(LONG).await;
        let (sync, read) = synced(&mut peer, OpCode::GetData).await;
        answer(&mut peer, &sync).await;
        let data = Some(&b"new"[..]);
        let stat = Stat::default();
        peer.ok(&read, &GetDataResponse { data, stat }).await;
        peer
    };
    let (read, _peer) = tokio::join!(reading, serving);
    assert_eq!(&read.unwrap().0[..], b"new");
}

#[tokio::test]
async fn a_read_whose_sync_is_refused_fails_and_leaves_no_watch() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let client = client.linearizable();
    let reply = client.exists_watched("/a");
    let (sync, read) = synced(&mut peer, OpCode::Exists).await;
    peer.refuse(&sync, ErrorCode::NOT_READ_ONLY).await;
    peer.ok(&read, &found()).await;
    let error = within("the read", reply).await.unwrap_err();
    assert!(matches!(error, Error::ReadOnly { path } if path == "/a"));
    let removal = peer.expect(OpCode::RemoveWatches).await;
    assert_eq!(removal.decode::<WatchRequest<'_>>().path, "/a");
    peer.ok(&removal, &Nothing).await;

    // The next read has a sync of its own, which may succeed.
    let reply = client.exists_watched("/a");
    let (sync, read) = synced(&mut peer, OpCode::Exists).await;
    answer(&mut peer, &sync).await;
    peer.ok(&read, &found()).await;
    let (_, watch) = within("the read", reply).await.unwrap();
    peer.event(EventType::NodeDeleted, "/a", 9).await;
    let event = within("the event", watch).await.unwrap();
    assert_eq!(event.kind, EventKind::Deleted);
}

#[tokio::test]
async fn reads_that_wait_together_share_a_sync() {
    let server = Server::start().await;
    let (client, peer) = connect(&server).await;
    let client = client.linearizable();
    drop(peer);
    state(&client, State::Disconnected).await;
    let replies: Vec<_> = (0..3).map(|_| client.exists("/a")).collect();
    let mut peer = server.serve(LONG).await;
    let sync = peer.expect(OpCode::Sync).await;
    answer(&mut peer, &sync).await;
    for reply in replies {
        let read = peer.expect(OpCode::Exists).await;
        peer.ok(&read, &found()).await;
        within("the read", reply).await.unwrap();
    }
    // What is issued later than that may have more to see.
    let _late = client.exists("/a");
    synced(&mut peer, OpCode::Exists).await;
}
