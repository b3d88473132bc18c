//! What comes in which order (spec: client protocol, sections 3 and 10.3).

use quorate_proto::jute::Encode;
use quorate_proto::{
    ErrorCode, EventType, MultiOp, MultiRequest, OpCode, PathRecord, VersionRequest, WatchRequest,
    xid,
};
use tokio::task::{JoinSet, yield_now};

use crate::client::{Client, Message, Nothing, data_of, request, unwatched, watched, znode};
use crate::{await_metric, metric, server};

/// One frame behind the other.
fn pipeline(requests: impl IntoIterator<Item = (OpCode, Vec<u8>)>) -> Vec<u8> {
    struct Raw(Vec<u8>);
    impl Encode for Raw {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.0);
        }
    }
    let numbered = (1..).zip(requests);
    numbered
        .flat_map(|(xid, (op, body))| request(xid, op, &Raw(body)))
        .collect()
}

#[tokio::test]
async fn reads_and_writes_are_answered_as_they_were_asked() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    let mut requests = Vec::new();
    for n in 0..500_u16 {
        requests.push((OpCode::SetData, data_of("/n", &n.to_be_bytes()).to_vec()));
        requests.push((OpCode::GetData, unwatched("/n").to_vec()));
        requests.push((OpCode::Sync, PathRecord { path: "/" }.to_vec()));
        requests.push((OpCode::Exists, unwatched("/nowhere").to_vec()));
    }
    client.send(&pipeline(requests)).await;
    let mut last_zxid = 0;
    for n in 0..500_u16 {
        for part in 1..=4 {
            let Message::Reply(header, body) = client.next().await else {
                panic!("the connection ends at {n}");
            };
            assert_eq!(header.xid, i32::from(n) * 4 + part);
            assert!(header.zxid >= last_zxid, "time goes back");
            last_zxid = header.zxid;
            if part == 2 {
                assert_eq!(body[4..6], n.to_be_bytes(), "a client reads its own write");
            }
        }
    }
}

#[tokio::test]
async fn an_event_comes_before_the_answer_that_shows_its_cause() {
    let (_server, address) = server(|_| {}).await;
    let mut reader = Client::connect(address).await;
    let mut writer = Client::connect(address).await;
    assert_eq!(writer.create("/n", b"").await, ErrorCode::OK);
    for round in 0..200_u8 {
        assert_eq!(
            reader.call(OpCode::GetData, &watched("/n")).await.0,
            ErrorCode::OK
        );
        let before = reader.call(OpCode::GetData, &unwatched("/n")).await.1;
        writer
            .send(&request(1, OpCode::SetData, &data_of("/n", &[round])))
            .await;
        // Whatever is read first, the old data or the event: the new data comes behind the event.
        let mut told = false;
        loop {
            reader
                .send(&request(1, OpCode::GetData, &unwatched("/n")))
                .await;
            let mut message = reader.next().await;
            if let Message::Event(event, path) = &message {
                assert_eq!((*event, &**path), (EventType::NodeDataChanged, "/n"));
                told = true;
                message = reader.next().await;
            }
            let Message::Reply(_, data) = message else {
                panic!("{message:?}");
            };
            if data != before {
                assert!(told, "the change shows before the event");
                break;
            }
        }
        assert_eq!(writer.next().await.outcome().1, ErrorCode::OK);
    }
}

#[tokio::test]
async fn the_own_write_is_answered_behind_its_event() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    client.call(OpCode::Exists, &watched("/n")).await;
    client
        .send(&request(7, OpCode::Create, &znode("/n", b"", 0)))
        .await;
    let created = Message::Event(EventType::NodeCreated, "/n".to_owned());
    assert_eq!(client.next().await, created);
    assert_eq!(client.next().await.outcome(), (7, ErrorCode::OK));
}

/// Makes and removes many znodes at once, again and again, so that others have to wait.
async fn keep_busy(mut client: Client, name: &'static str) {
    let paths: Vec<String> = (0..1000).map(|n| format!("/{name}{n}")).collect();
    let create = |path| MultiOp::Create(znode(path, b"", 0));
    let delete = |path| MultiOp::Delete(VersionRequest { path, version: -1 });
    let create: Vec<_> = paths.iter().map(|path| create(path)).collect();
    let delete: Vec<_> = paths.iter().map(|path| delete(path)).collect();
    let rounds = [create, delete].map(|ops| MultiRequest { ops });
    for round in rounds.iter().cycle() {
        client.call(OpCode::Multi, round).await;
    }
}

/// What a session asked on a connection that it has left does not come behind what it asks now.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_gave_way_writes_no_more() {
    let (_server, address) = server(|_| {}).await;
    let mut noise = JoinSet::new();
    for name in ["a", "b", "c"] {
        noise.spawn(keep_busy(Client::connect(address).await, name));
    }
    let mut old = Client::connect(address).await;
    assert_eq!(old.create("/n", b"").await, ErrorCode::OK);
    let set = request(1, OpCode::SetData, &data_of("/n", b"old")).repeat(50);
    for round in 0..20 {
        let (session, set) = (old.session.clone(), set.clone());
        let sends = tokio::spawn(async move {
            while old.try_send(&set).await.is_ok() {
                yield_now().await;
            }
        });
        let mut new = Client::resume(address, &session).await;
        assert_eq!(new.set("/n", b"new").await, ErrorCode::OK);
        for _ in 0..3 {
            new.sync().await;
            let (_, data) = new.call(OpCode::GetData, &unwatched("/n")).await;
            assert_eq!(&data[4..7], b"new", "in round {round}");
        }
        sends.await.unwrap();
        old = new;
    }
    noise.shutdown().await;
}

/// What a session asked on a connection that it has left is done before it is answered on the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_reads_what_it_wrote_on_another_connection() {
    let (_server, address) = server(|_| {}).await;
    let mut noise = JoinSet::new();
    for name in ["a", "b", "c"] {
        noise.spawn(keep_busy(Client::connect(address).await, name));
    }
    let mut old = Client::connect(address).await;
    for round in 0..20 {
        let path = format!("/n{round}");
        old.send(&request(1, OpCode::Create, &znode(&path, b"", 0)))
            .await;
        let mut new = Client::resume(address, &old.session).await;
        let before = new.exists(&path).await;
        new.sync().await;
        let after = new.exists(&path).await;
        assert_eq!(before, after, "in round {round}");
        old = new;
    }
    noise.shutdown().await;
}

#[tokio::test]
async fn what_is_refused_out_of_hand_waits_for_what_was_asked_before() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    let mut requests = vec![(OpCode::Create, znode("/n", b"", 0).to_vec())];
    requests.push((OpCode::Check, Vec::new()));
    requests.push((OpCode::Exists, unwatched("/n").to_vec()));
    client.send(&pipeline(requests)).await;
    assert_eq!(client.next().await.outcome(), (1, ErrorCode::OK));
    assert_eq!(client.next().await.outcome(), (2, ErrorCode::UNIMPLEMENTED));
    assert_eq!(client.next().await, Message::Closed);
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_all_its_answers() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    let requests = (0..100).map(|n| {
        let path = format!("/n{n}");
        (OpCode::Create, znode(&path, b"", 0).to_vec())
    });
    client.send(&pipeline(requests)).await;
    client.finish().await;
    for n in 1..=100 {
        assert_eq!(client.next().await.outcome(), (n, ErrorCode::OK));
    }
    assert_eq!(client.next().await, Message::Closed);
}

#[tokio::test]
async fn a_ping_is_answered_under_its_own_number() {
    let (_server, address) = server(|_| {}).await;
    let mut client = Client::connect(address).await;
    for xid in [xid::PING, 5] {
        client.send(&request(xid, OpCode::Ping, &Nothing)).await;
        assert_eq!(client.next().await.outcome(), (xid::PING, ErrorCode::OK));
    }
}

/// Requests may be answered after their connection is gone: what they ask to watch is not watched.
#[tokio::test]
async fn nothing_is_watched_for_a_connection_that_is_gone() {
    let (_server, address) = server(|_| {}).await;
    let mut owner = Client::connect(address).await;
    assert_eq!(owner.create("/n", b"").await, ErrorCode::OK);
    for _ in 0..100 {
        let mut client = Client::connect(address).await;
        let everything = WatchRequest { path: "/", kind: 1 };
        client
            .send(&pipeline([
                (OpCode::SetData, data_of("/n", b"x").to_vec()),
                (OpCode::GetData, watched("/n").to_vec()),
                (OpCode::GetChildren, watched("/n").to_vec()),
                (OpCode::AddWatch, everything.to_vec()),
            ]))
            .await;
        client.reset();
    }
    await_metric(address, "zk_num_alive_connections", 2).await;
    owner.sync().await;
    assert_eq!(metric(address, "zk_watch_count").await, 0);
}
