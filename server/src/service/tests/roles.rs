//! Changes of leader, as the clients of a member see them.

use super::*;

#[tokio::test]
async fn only_writes_of_unknown_outcome_cost_a_connection() {
    for (server, committed) in [(0, true), (0, false), (1, true), (1, false)] {
        let ensemble = Ensemble::start(3).await;
        ensemble.elect(0).await;
        let address = ensemble.address(server);
        let mut idle = Client::connect(address).await;
        let mut writer = Client::connect(address).await;
        let mut syncer = Client::connect(address).await;
        ensemble.hold();
        let create = request(1, OpCode::Create, &znode("/n", b"", 0));
        writer.send(&create).await;
        until("proposed", || ensemble.held() > 0).await;
        let mut both = request(1, OpCode::Sync, &PathRecord { path: "/" });
        both.extend(request(2, OpCode::Exists, &unwatched("/n")));
        syncer.send(&both).await;
        silent(&mut syncer).await;
        ensemble.depose(committed).await;
        assert_eq!(writer.next().await, Message::Closed);
        idle.send(&request(xid::PING, OpCode::Ping, &Nothing)).await;
        silent(&mut idle).await;
        ensemble.elect(2).await;
        assert_eq!(idle.next().await.outcome(), (xid::PING, ErrorCode::OK));
        assert_eq!(idle.exists("/n").await, committed);
        assert_eq!(idle.create("/after", b"").await, ErrorCode::OK);
        assert_eq!(syncer.next().await.outcome(), (1, ErrorCode::OK));
        let expected = if committed {
            ErrorCode::OK
        } else {
            ErrorCode::NO_NODE
        };
        assert_eq!(syncer.next().await.outcome(), (2, expected));
        ensemble.settle().await;
        let back = Client::resume(ensemble.address(1), &writer.session).await;
        assert_eq!(back.session.id, writer.session.id, "its session lives on");
    }
}

#[tokio::test]
async fn a_hand_over_costs_nobody_anything() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    let mut clients = Vec::new();
    for server in 0..3 {
        clients.push(Client::connect(ensemble.address(server)).await);
    }
    // Requests keep coming while the leader changes again and again.
    let mut written = 0;
    for round in 0..30_usize {
        for (server, client) in clients.iter_mut().enumerate() {
            let path = format!("/of{server}-{round}");
            let create = request(1, OpCode::Create, &znode(&path, b"", 0));
            client.send(&create).await;
            client
                .send(&request(2, OpCode::Exists, &unwatched(&path)))
                .await;
            written += 1;
        }
        ensemble.hand_over().await;
        ensemble.elect(round % 3).await;
        for client in &mut clients {
            assert_eq!(
                client.next().await.outcome(),
                (1, ErrorCode::OK),
                "round {round}"
            );
            assert_eq!(
                client.next().await.outcome(),
                (2, ErrorCode::OK),
                "round {round}"
            );
        }
    }
    ensemble.settle().await;
    let children = ensemble.services[0].tree().len() - Tree::new().len();
    assert_eq!(children, written);
}

#[tokio::test]
async fn a_client_that_comes_between_leaders_waits_for_the_next() {
    let ensemble = Ensemble::start(3).await;
    let address = ensemble.address(1);
    let early = tokio::spawn(async move { Client::connect(address).await });
    sleep(MOMENT).await;
    ensemble.elect(0).await;
    let mut client = early.await.unwrap();
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    // One that resumes a session waits likewise.
    ensemble.depose(true).await;
    let session = client.session.clone();
    let back = tokio::spawn(async move { Client::resume(address, &session).await });
    sleep(MOMENT).await;
    ensemble.elect(1).await;
    assert_eq!(back.await.unwrap().session.id, client.session.id);
}

#[tokio::test]
async fn a_server_that_is_cut_off_for_long_sends_clients_away() {
    let ensemble = Ensemble::start(3).await;
    let mut client = Client::open(ensemble.address(0)).await;
    assert_eq!(client.handshake(&Session::new(5000)).await, None);
}

#[tokio::test]
async fn a_leader_that_does_not_serve_sends_clients_away() {
    let ensemble = Ensemble::with(3, |config| config.leader_serves = false).await;
    ensemble.elect(0).await;
    let mut client = Client::open(ensemble.address(0)).await;
    assert_eq!(client.handshake(&Session::new(5000)).await, None);
    let mut client = Client::connect(ensemble.address(1)).await;
    assert_eq!(client.create("/n", b"").await, ErrorCode::OK);
    ensemble.depose(true).await;
    ensemble.elect(1).await;
    assert_eq!(client.next().await, Message::Closed);
}

#[tokio::test]
async fn a_client_that_has_seen_more_is_sent_away() {
    let ensemble = Ensemble::start(2).await;
    ensemble.elect(0).await;
    let mut client = Client::open(ensemble.address(1)).await;
    // What a leader of another make says before its first transaction.
    client.last_zxid_seen = 1 << 32;
    assert!(client.handshake(&Session::new(5000)).await.is_some());
    let mut client = Client::open(ensemble.address(1)).await;
    client.last_zxid_seen = (1 << 32) + 1000;
    assert_eq!(client.handshake(&Session::new(5000)).await, None);
}
