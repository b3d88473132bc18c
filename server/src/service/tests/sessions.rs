//! Sessions that are known to a whole ensemble (spec: quorum protocol, section 8).

use bytes::Bytes;
use quorate_proto::CreateMode;
use quorate_proto::jute::Encode;

use super::*;
use crate::zab::{Packet, Request};

#[tokio::test]
async fn a_session_moves_between_servers_and_writes_at_one_of_them() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    let mut last = Client::connect(ensemble.address(1)).await;
    for (n, server) in [2, 0, 1, 0, 2].into_iter().enumerate() {
        let mut next = Client::resume(ensemble.address(server), &last.session).await;
        assert_eq!(next.session.id, last.session.id);
        let path = format!("/left{n}");
        let _ = last
            .try_send(&request(5, OpCode::Create, &znode(&path, b"", 0)))
            .await;
        assert_eq!(last.next().await, Message::Closed);
        assert_eq!(next.create(&format!("/at{n}"), b"").await, ErrorCode::OK);
        assert!(!next.exists(&path).await, "a write of the past");
        last = next;
    }
}

#[tokio::test]
async fn a_session_that_nobody_has_is_not_resumed_anywhere() {
    let ensemble = Ensemble::start(2).await;
    ensemble.elect(0).await;
    for server in 0..2 {
        let stranger = Session {
            id: 0x0100_0000_1234_0000,
            password: crate::session::password(0x0100_0000_1234_0000).to_vec(),
            timeout: 5000,
        };
        let mut client = Client::resume(ensemble.address(server), &stranger).await;
        assert_eq!(client.session, Session::new(0));
        assert_eq!(client.next().await, Message::Closed);
        let mut holder = Client::connect(ensemble.address(server)).await;
        let mut forged = holder.session.clone();
        forged.password = vec![7; 16];
        let thief = Client::resume(ensemble.address(server), &forged).await;
        assert_eq!(thief.session, Session::new(0));
        assert_eq!(holder.next().await, Message::Closed);
    }
}

/// The leader's PINGs of a real ensemble, so that it hears of the sessions elsewhere.
async fn ping_while(ensemble: &Ensemble, leader: usize, mut rounds: usize) {
    while rounds > 0 {
        for learner in (0..ensemble.services.len()).filter(|learner| *learner != leader) {
            let (zxid, sessions) = (0, Bytes::new());
            ensemble.deliver(leader, learner, Packet::Ping { zxid, sessions });
        }
        sleep(Duration::from_millis(100)).await;
        rounds -= 1;
    }
}

#[tokio::test]
async fn the_leader_expires_sessions_and_hears_of_those_elsewhere() {
    let ensemble = Ensemble::start(3).await;
    let _chores = ensemble.chores();
    ensemble.elect(0).await;
    let mut alive = Client::connect_for(ensemble.address(1), 1000).await;
    let mut dead = Client::connect_for(ensemble.address(1), 1000).await;
    let ephemeral = znode("/mine", b"", CreateMode::Ephemeral.number());
    assert_eq!(dead.call(OpCode::Create, &ephemeral).await.0, ErrorCode::OK);
    for _ in 0..20 {
        alive
            .send(&request(xid::PING, OpCode::Ping, &Nothing))
            .await;
        assert_eq!(alive.next().await.outcome(), (xid::PING, ErrorCode::OK));
        ping_while(&ensemble, 0, 1).await;
    }
    assert_eq!(dead.next().await, Message::Closed);
    assert!(!alive.exists("/mine").await);
    let late = Client::resume(ensemble.address(2), &dead.session).await;
    assert_eq!(late.session, Session::new(0));
}

#[tokio::test]
async fn sessions_outlive_their_leader() {
    let ensemble = Ensemble::start(3).await;
    let _chores = ensemble.chores();
    ensemble.elect(0).await;
    let mut clients = Vec::new();
    for n in 0..60 {
        clients.push(Client::connect_for(ensemble.address(n % 3), 1000).await);
    }
    // Nobody has a leader for longer than a session lasts.
    ensemble.depose(true).await;
    sleep(Duration::from_millis(2000)).await;
    ensemble.elect(1).await;
    for client in &mut clients {
        client.sync().await;
    }
    let (sessions, known) = (clients.len(), |server: usize| {
        ensemble.services[server].tree().sessions().len()
    });
    assert_eq!(
        (known(0), known(1), known(2)),
        (sessions, sessions, sessions)
    );
}

#[tokio::test]
async fn a_leader_answers_in_bulk_which_sessions_there_are() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    let client = Client::connect(ensemble.address(1)).await;
    let mut asked = Vec::new();
    for session in [client.session.id, 7] {
        session.encode(&mut asked);
        3000_i32.encode(&mut asked);
    }
    let answers = ensemble.services[0].revalidate(3, &asked);
    let mut expected = Vec::new();
    client.session.id.encode(&mut expected);
    true.encode(&mut expected);
    7_i64.encode(&mut expected);
    false.encode(&mut expected);
    assert_eq!(answers, expected);
    let tracked = ensemble.services[0].sessions.lock();
    let session = tracked.get(client.session.id).unwrap();
    assert_eq!(session.timeout(), 3000);
    assert!(session.is_at(3));
}

#[tokio::test]
async fn a_leader_survives_whatever_learners_send() {
    let ensemble = Ensemble::start(2).await;
    ensemble.elect(0).await;
    let mut client = Client::connect(ensemble.address(1)).await;
    let junk = Bytes::from_static(&[0xff; 37]);
    for op in -12..120 {
        let request = Request {
            session: client.session.id,
            cxid: -5,
            op,
            body: junk.clone(),
            ids: [].into(),
        };
        if op != OpCode::CloseSession.number() {
            ensemble.deliver(1, 0, Packet::Request(request));
        }
    }
    for packet in [
        Packet::Revalidate(junk.clone()),
        Packet::Ping {
            zxid: -1,
            sessions: junk.clone(),
        },
        Packet::Sync,
        Packet::UpToDate,
    ] {
        ensemble.deliver(1, 0, packet.clone());
        ensemble.deliver(0, 1, packet.clone());
        // From a member that never joined.
        ensemble.deliver(9, 0, packet);
    }
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    client.sync().await;
}

#[tokio::test]
async fn a_local_session_costs_no_transaction_and_stays_where_it_is() {
    let ensemble = Ensemble::with(3, |config| config.local_sessions_enabled = true).await;
    ensemble.elect(0).await;
    let before = ensemble.last_zxid(0);
    for server in 0..2 {
        let mut client = Client::connect(ensemble.address(server)).await;
        let path = format!("/of{server}");
        assert_eq!(client.create(&path, b"").await, ErrorCode::OK);
        let ephemeral = znode("/mine", b"", CreateMode::Ephemeral.number());
        let (err, _) = client.call(OpCode::Create, &ephemeral).await;
        assert_eq!(err, ErrorCode::EPHEMERAL_ON_LOCAL_SESSION);
        let elsewhere = Client::resume(ensemble.address(2), &client.session).await;
        assert_eq!(elsewhere.session, Session::new(0));
        let mut back = Client::resume(ensemble.address(server), &client.session).await;
        assert_eq!(client.next().await, Message::Closed);
        assert!(back.exists(&path).await);
        back.send(&request(9, OpCode::CloseSession, &Nothing)).await;
        assert_eq!(back.next().await.outcome(), (9, ErrorCode::OK));
        assert_eq!(back.next().await, Message::Closed);
        let late = Client::resume(ensemble.address(server), &client.session).await;
        assert_eq!(late.session, Session::new(0));
    }
    assert_eq!(ensemble.last_zxid(0) - before, (1 << 32) + 2);
    assert_eq!(ensemble.services[0].tree().sessions().len(), 0);
}

#[tokio::test]
async fn a_local_session_becomes_known_to_all_with_its_first_ephemeral() {
    let ensemble = Ensemble::with(3, |config| {
        config.local_sessions_enabled = true;
        config.local_sessions_upgrading_enabled = true;
    })
    .await;
    ensemble.elect(0).await;
    for server in 0..2 {
        let mut client = Client::connect(ensemble.address(server)).await;
        let path = format!("/of{server}");
        let ephemeral = znode(&path, b"", CreateMode::Ephemeral.number());
        let (err, _) = client.call(OpCode::Create, &ephemeral).await;
        assert_eq!(err, ErrorCode::OK);
        ensemble.settle().await;
        for service in &ensemble.services {
            assert!(service.tree().session_timeout(client.session.id).is_some());
        }
        let mut moved = Client::resume(ensemble.address(2), &client.session).await;
        assert!(moved.exists(&path).await);
        moved
            .send(&request(9, OpCode::CloseSession, &Nothing))
            .await;
        assert_eq!(moved.next().await.outcome(), (9, ErrorCode::OK));
        ensemble.settle().await;
        assert!(ensemble.services[server].tree().get(&path).is_none());
    }
}

#[tokio::test]
async fn local_sessions_expire_where_they_are_but_not_between_leaders() {
    let ensemble = Ensemble::with(2, |config| config.local_sessions_enabled = true).await;
    let _chores = ensemble.chores();
    ensemble.elect(0).await;
    let mut client = Client::connect_for(ensemble.address(1), 1000).await;
    ensemble.depose(true).await;
    sleep(Duration::from_millis(2000)).await;
    ensemble.elect(0).await;
    client.sync().await;
    assert_eq!(client.next().await, Message::Closed);
    let late = Client::resume(ensemble.address(1), &client.session).await;
    assert_eq!(late.session, Session::new(0));
}

#[tokio::test]
async fn a_server_that_is_cut_off_can_be_read() {
    let ensemble = Ensemble::with(2, |config| config.read_only_mode_enabled = true).await;
    ensemble.elect(0).await;
    let mut client = Client::connect(ensemble.address(1)).await;
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    ensemble.settle().await;
    ensemble.depose(true).await;
    let mut strict = Client::open(ensemble.address(1)).await;
    let mut reader = Client::open(ensemble.address(1)).await;
    reader.read_only = true;
    assert_eq!(strict.handshake(&Session::new(5000)).await, None);
    assert!(reader.handshake(&Session::new(5000)).await.is_some());
    assert!(reader.exists("/n").await);
    assert_eq!(reader.create("/m", b"").await, ErrorCode::NOT_READ_ONLY);
    let root = PathRecord { path: "/" };
    let (err, _) = reader.call(OpCode::Sync, &root).await;
    assert_eq!(err, ErrorCode::NOT_READ_ONLY);
    let mut leaver = Client::open(ensemble.address(1)).await;
    leaver.read_only = true;
    assert_eq!(
        leaver.handshake(&client.session).await,
        None,
        "known elsewhere"
    );
    ensemble.elect(1).await;
    assert_eq!(reader.next().await, Message::Closed);
}
