//! How watches are set, told of events, set again and removed.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use quorate_client::{Client, Error, EventKind, OneshotWatch, PersistentWatch, WatchedEvent};
use quorate_proto::{
    AddWatchMode, ErrorCode, ErrorResponse, EventType, GetChildren2Response, GetDataResponse,
    OpCode, SetWatches, SetWatches2, Stat, StatResponse, WatchRequest, WatchedRequest, WatcherType,
    xid,
};

use crate::server::{Nothing, Peer, Server, connect, connect_with, within};

const LONG: Duration = Duration::from_secs(60);

async fn in_chroot(server: &Server) -> (Client, Peer) {
    connect_with(Client::builder(), server, "/app", LONG).await
}

async fn watch_data(client: &Client, peer: &mut Peer, path: &str) -> OneshotWatch {
    let reply = client.get_data_watched(path);
    let request = peer.expect(OpCode::GetData).await;
    assert!(request.decode::<WatchedRequest<'_>>().watch);
    let stat = Stat::default();
    peer.ok(&request, &GetDataResponse { data: None, stat })
        .await;
    within("the data", reply).await.unwrap().2
}

async fn watch_absent(client: &Client, peer: &mut Peer, path: &str) -> OneshotWatch {
    let reply = client.exists_watched(path);
    let request = peer.expect(OpCode::Exists).await;
    assert!(request.decode::<WatchedRequest<'_>>().watch);
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    let (stat, watch) = within("the stat", reply).await.unwrap();
    assert_eq!(stat, None);
    watch
}

async fn watch_children(client: &Client, peer: &mut Peer, path: &str) -> OneshotWatch {
    let reply = client.get_children_watched(path);
    let request = peer.expect(OpCode::GetChildren2).await;
    assert!(request.decode::<WatchedRequest<'_>>().watch);
    let body = GetChildren2Response {
        children: Vec::new(),
        stat: Stat::default(),
    };
    peer.ok(&request, &body).await;
    within("the children", reply).await.unwrap().2
}

async fn watch_all(
    client: &Client,
    peer: &mut Peer,
    path: &str,
    mode: AddWatchMode,
) -> PersistentWatch {
    let reply = match mode {
        AddWatchMode::Persistent => client.watch(path),
        AddWatchMode::PersistentRecursive => client.watch_recursive(path),
    };
    let request = peer.expect(OpCode::AddWatch).await;
    assert_eq!(request.decode::<WatchRequest<'_>>().kind, mode.number());
    let err = ErrorCode::OK;
    peer.ok(&request, &ErrorResponse { err }).await;
    within("the watch", reply).await.unwrap()
}

/// Answers one request, and with that awaits that the client has dealt with all events before.
async fn round_trip(client: &Client, peer: &mut Peer) {
    let reply = client.exists("/round-trip");
    let request = peer.expect(OpCode::Exists).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    within("a round trip", reply).await.unwrap();
}

async fn removal(peer: &mut Peer, path: &str, kind: WatcherType) {
    let request = peer.expect(OpCode::RemoveWatches).await;
    let sent: WatchRequest<'_> = request.decode();
    assert_eq!((sent.path, sent.kind), (path, kind.number()));
    peer.ok(&request, &Nothing).await;
}

async fn next(watch: &mut PersistentWatch) -> (EventKind, String) {
    let event = within("an event", watch.next()).await.unwrap().unwrap();
    (event.kind, event.path)
}

async fn fired(watch: OneshotWatch) -> (EventKind, String) {
    let event = within("the event", watch).await.unwrap();
    (event.kind, event.path)
}

fn event(kind: EventKind, path: &str) -> (EventKind, String) {
    (kind, path.into())
}

#[tokio::test]
async fn a_one_shot_watch_gets_one_event_with_its_path_and_zxid() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let watch = watch_data(&client, &mut peer, "/a").await;
    assert_eq!(watch.path(), "/a");
    peer.event(EventType::NodeDataChanged, "/app/a", 9).await;
    let WatchedEvent {
        kind, path, zxid, ..
    } = within("the event", watch).await.unwrap();
    assert_eq!((kind, path.as_str()), (EventKind::DataChanged, "/a"));
    assert_eq!(zxid, Some(9));

    let root = watch_children(&client, &mut peer, "/").await;
    peer.event(EventType::NodeChildrenChanged, "/app", -1).await;
    let event = within("the event", root).await.unwrap();
    assert_eq!((event.path.as_str(), event.zxid), ("/", None));
    // Neither leaves anything to remove.
    round_trip(&client, &mut peer).await;
}

#[tokio::test]
async fn every_event_reaches_exactly_whom_it_concerns() {
    let server = Server::start().await;
    for (sent, kind, data, children, persistent, recursive) in [
        (
            EventType::NodeCreated,
            EventKind::Created,
            true,
            false,
            true,
            true,
        ),
        (
            EventType::NodeDataChanged,
            EventKind::DataChanged,
            true,
            false,
            true,
            true,
        ),
        (
            EventType::NodeChildrenChanged,
            EventKind::ChildrenChanged,
            false,
            true,
            true,
            false,
        ),
        (
            EventType::NodeDeleted,
            EventKind::Deleted,
            true,
            true,
            true,
            true,
        ),
    ] {
        let (client, mut peer) = connect(&server).await;
        let mut on_data = watch_data(&client, &mut peer, "/a/b").await;
        let mut on_absence = watch_absent(&client, &mut peer, "/a/b").await;
        let mut on_children = watch_children(&client, &mut peer, "/a/b").await;
        let mut on_other = watch_data(&client, &mut peer, "/a").await;
        let mode = AddWatchMode::Persistent;
        let mut persistent_here = watch_all(&client, &mut peer, "/a/b", mode).await;
        let mut persistent_above = watch_all(&client, &mut peer, "/a", mode).await;
        let mode = AddWatchMode::PersistentRecursive;
        let mut recursive_here = watch_all(&client, &mut peer, "/a/b", mode).await;
        let mut recursive_above = watch_all(&client, &mut peer, "/", mode).await;
        let mut recursive_beside = watch_all(&client, &mut peer, "/a/bb", mode).await;

        peer.event(sent, "/a/b", 1).await;
        round_trip(&client, &mut peer).await;
        let got = |event: Option<Result<WatchedEvent, Error>>| {
            event.is_some_and(|event| event.unwrap().kind == kind)
        };
        assert_eq!(got((&mut on_data).now_or_never()), data, "{kind:?}");
        assert_eq!(got((&mut on_absence).now_or_never()), data, "{kind:?}");
        assert_eq!(got((&mut on_children).now_or_never()), children, "{kind:?}");
        assert!(!got((&mut on_other).now_or_never()), "{kind:?}");
        for (watch, wanted) in [
            (&mut persistent_here, persistent),
            (&mut persistent_above, false),
            (&mut recursive_here, recursive),
            (&mut recursive_above, recursive),
            (&mut recursive_beside, false),
        ] {
            let event = watch.next().now_or_never().map(Option::unwrap);
            assert_eq!(got(event), wanted, "{kind:?} {watch:?}");
        }
    }
}

#[tokio::test]
async fn a_reply_shows_no_later_than_the_event_before_it() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let mut watch = watch_data(&client, &mut peer, "/a").await;
    let write = client.set_data("/a", "x", None);
    let request = peer.expect(OpCode::SetData).await;
    peer.event(EventType::NodeDataChanged, "/a", 3).await;
    let stat = Stat::default();
    peer.ok(&request, &StatResponse { stat }).await;
    within("the write", write).await.unwrap();
    assert!(
        (&mut watch).now_or_never().is_some(),
        "the event came first"
    );
}

#[tokio::test]
async fn no_watch_is_left_by_a_read_that_failed() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let reply = client.get_data_watched("/a");
    let request = peer.expect(OpCode::GetData).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    assert!(matches!(reply.await, Err(Error::NoNode { .. })));
    let reply = client.exists_watched("/a");
    let request = peer.expect(OpCode::Exists).await;
    peer.refuse(&request, ErrorCode::NO_AUTH).await;
    assert!(matches!(reply.await, Err(Error::NoAuth { .. })));
    // Nothing is removed, and nothing is set again.
    drop(peer);
    let mut peer = server.serve(LONG).await;
    round_trip(&client, &mut peer).await;
}

#[tokio::test]
async fn dropping_the_last_watch_of_a_kind_removes_it() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let first = watch_data(&client, &mut peer, "/a").await;
    let second = watch_absent(&client, &mut peer, "/a").await;
    let children = watch_children(&client, &mut peer, "/a").await;
    drop(first);
    round_trip(&client, &mut peer).await;
    drop(second);
    removal(&mut peer, "/app/a", WatcherType::Data).await;
    drop(children);
    removal(&mut peer, "/app/a", WatcherType::Children).await;

    let mode = AddWatchMode::Persistent;
    let first = watch_all(&client, &mut peer, "/p", mode).await;
    let second = watch_all(&client, &mut peer, "/p", mode).await;
    let mode = AddWatchMode::PersistentRecursive;
    let third = watch_all(&client, &mut peer, "/p", mode).await;
    drop(first);
    round_trip(&client, &mut peer).await;
    drop(second);
    removal(&mut peer, "/app/p", WatcherType::Persistent).await;
    drop(third);
    removal(&mut peer, "/app/p", WatcherType::PersistentRecursive).await;
    round_trip(&client, &mut peer).await;
}

#[tokio::test]
async fn a_watch_whose_reply_is_dropped_is_removed() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let reply = client.get_data_watched("/a");
    let request = peer.expect(OpCode::GetData).await;
    drop(reply);
    let stat = Stat::default();
    peer.ok(&request, &GetDataResponse { data: None, stat })
        .await;
    removal(&mut peer, "/a", WatcherType::Data).await;
    round_trip(&client, &mut peer).await;
}

#[tokio::test]
async fn a_watch_that_is_being_set_keeps_the_one_that_is_dropped() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let old = watch_data(&client, &mut peer, "/a").await;
    let new = client.get_data_watched("/a");
    let request = peer.expect(OpCode::GetData).await;
    drop(old);
    // A removal now would take the watch that the request has just set.
    round_trip_behind(&client, &mut peer, async |peer: &mut Peer| {
        let stat = Stat::default();
        peer.ok(&request, &GetDataResponse { data: None, stat })
            .await;
    })
    .await;
    let new = within("the new watch", new).await.unwrap().2;
    peer.event(EventType::NodeDeleted, "/a", 3).await;
    assert_eq!(fired(new).await, event(EventKind::Deleted, "/a"));
    round_trip(&client, &mut peer).await;
}

/// A round trip whose request must be the next one, with something done before it is answered.
async fn round_trip_behind(client: &Client, peer: &mut Peer, between: impl AsyncFnOnce(&mut Peer)) {
    let reply = client.exists("/round-trip");
    let request = peer.expect(OpCode::Exists).await;
    between(peer).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    within("a round trip", reply).await.unwrap();
}

#[tokio::test]
async fn a_failed_read_removes_what_the_dropped_watch_left() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let old = watch_absent(&client, &mut peer, "/a").await;
    let new = client.get_data_watched("/a");
    let request = peer.expect(OpCode::GetData).await;
    drop(old);
    round_trip_behind(&client, &mut peer, async |peer: &mut Peer| {
        peer.refuse(&request, ErrorCode::NO_NODE).await;
    })
    .await;
    assert!(new.await.is_err());
    removal(&mut peer, "/a", WatcherType::Data).await;
}

#[tokio::test]
async fn a_server_that_cannot_remove_one_kind_removes_all_of_a_path() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let mode = AddWatchMode::Persistent;
    let watch = watch_all(&client, &mut peer, "/a", mode).await;
    let kept = watch_all(&client, &mut peer, "/b", mode).await;
    let also_kept = watch_data(&client, &mut peer, "/b").await;
    drop(watch);
    let request = peer.expect(OpCode::RemoveWatches).await;
    peer.refuse(&request, ErrorCode::MARSHALLING_ERROR).await;
    removal(&mut peer, "/a", WatcherType::Any).await;
    // But not if another watch of the path is needed.
    drop(kept);
    let request = peer.expect(OpCode::RemoveWatches).await;
    peer.refuse(&request, ErrorCode::MARSHALLING_ERROR).await;
    round_trip(&client, &mut peer).await;
    drop(also_kept);
    removal(&mut peer, "/b", WatcherType::Data).await;
}

#[tokio::test]
async fn one_shot_watches_are_set_again_and_told_what_they_missed() {
    let server = Server::start().await;
    let (client, mut peer) = in_chroot(&server).await;
    let data = watch_data(&client, &mut peer, "/d").await;
    let absent = watch_absent(&client, &mut peer, "/e").await;
    let children = watch_children(&client, &mut peer, "/c").await;
    let dropped = watch_children(&client, &mut peer, "/dropped").await;
    drop(peer);
    drop(dropped);
    let mut peer = server.serve(LONG).await;
    let request = peer.expect(OpCode::SetWatches).await;
    assert_eq!(request.xid, xid::SET_WATCHES);
    assert_eq!(
        request.decode::<SetWatches<'_>>(),
        SetWatches {
            relative_zxid: 7,
            data: vec!["/app/d"],
            exist: vec!["/app/e"],
            child: vec!["/app/c"],
        }
    );
    peer.event(EventType::NodeDataChanged, "/app/d", -1).await;
    peer.event(EventType::NodeCreated, "/app/e", -1).await;
    peer.ok(&request, &Nothing).await;
    assert_eq!(fired(data).await, event(EventKind::DataChanged, "/d"));
    assert_eq!(fired(absent).await, event(EventKind::Created, "/e"));
    peer.event(EventType::NodeChildrenChanged, "/app/c", 9)
        .await;
    assert_eq!(
        fired(children).await,
        event(EventKind::ChildrenChanged, "/c")
    );
}

#[tokio::test]
async fn streams_are_set_again_and_told_that_they_may_have_missed_something() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let mode = AddWatchMode::Persistent;
    let mut persistent = watch_all(&client, &mut peer, "/p", mode).await;
    let mode = AddWatchMode::PersistentRecursive;
    let mut recursive = watch_all(&client, &mut peer, "/r", mode).await;
    let data = watch_data(&client, &mut peer, "/d").await;
    peer.event(EventType::NodeCreated, "/p", 3).await;
    round_trip(&client, &mut peer).await;
    drop(peer);

    let mut peer = server.serve(LONG).await;
    let request = peer.expect(OpCode::SetWatches2).await;
    assert_eq!(
        request.decode::<SetWatches2<'_>>(),
        SetWatches2 {
            relative_zxid: 7,
            data: vec!["/d"],
            exist: vec![],
            child: vec![],
            persistent: vec!["/p"],
            persistent_recursive: vec!["/r"],
        }
    );
    peer.ok(&request, &Nothing).await;
    assert_eq!(next(&mut persistent).await, event(EventKind::Created, "/p"));
    assert_eq!(next(&mut persistent).await, event(EventKind::Missed, "/p"));
    assert_eq!(next(&mut recursive).await, event(EventKind::Missed, "/r"));
    peer.event(EventType::NodeCreated, "/r/x", 9).await;
    assert_eq!(
        next(&mut recursive).await,
        event(EventKind::Created, "/r/x")
    );
    drop(data);
    removal(&mut peer, "/d", WatcherType::Data).await;
}

#[tokio::test]
async fn a_refusal_to_set_watches_again_costs_the_connection() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let watch = watch_data(&client, &mut peer, "/a").await;
    drop(peer);
    let mut peer = server.serve(LONG).await;
    let request = peer.expect(OpCode::SetWatches).await;
    peer.refuse(&request, ErrorCode::THROTTLED_OP).await;
    peer.gone().await;
    let mut peer = server.serve(LONG).await;
    let request = peer.expect(OpCode::SetWatches).await;
    peer.event(EventType::NodeDeleted, "/a", -1).await;
    peer.ok(&request, &Nothing).await;
    assert_eq!(fired(watch).await, event(EventKind::Deleted, "/a"));
}

#[tokio::test]
async fn a_slow_reader_is_told_that_it_has_missed_something() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let mode = AddWatchMode::Persistent;
    let mut watch = watch_all(&client, &mut peer, "/a", mode).await;
    for zxid in 0..5000 {
        peer.event(EventType::NodeDataChanged, "/a", zxid + 1).await;
    }
    round_trip(&client, &mut peer).await;
    let mut kept = 0;
    while next(&mut watch).await.0 == EventKind::DataChanged {
        kept += 1;
    }
    assert_eq!(kept, 4096);
    peer.event(EventType::NodeDeleted, "/a", 9).await;
    assert_eq!(next(&mut watch).await, event(EventKind::Deleted, "/a"));
}

#[tokio::test]
async fn the_end_of_the_session_ends_every_watch() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let data = watch_data(&client, &mut peer, "/a").await;
    let mode = AddWatchMode::PersistentRecursive;
    let mut stream = watch_all(&client, &mut peer, "/", mode).await;
    drop(peer);
    let mut peer = server.accept().await;
    peer.hello().await;
    peer.expired().await;
    let error = within("the end", data).await.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { .. }));
    let last = within("the end", stream.next()).await.unwrap();
    assert!(matches!(last, Err(Error::SessionExpired { .. })));
    assert!(within("the end", stream.next()).await.is_none());
}

#[tokio::test]
async fn a_watch_outlives_the_handle_only_until_the_session_is_closed() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let watch = watch_data(&client, &mut peer, "/a").await;
    drop(client);
    let close = peer.expect(OpCode::CloseSession).await;
    peer.ok(&close, &Nothing).await;
    assert!(matches!(within("the end", watch).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_znode_that_is_not_there_can_be_watched_for_good() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let reply = client.watch("/a");
    let request = peer.expect(OpCode::AddWatch).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    let mut watch = within("the watch", reply).await.unwrap();
    peer.event(EventType::NodeCreated, "/a", 3).await;
    assert_eq!(next(&mut watch).await, event(EventKind::Created, "/a"));
}
