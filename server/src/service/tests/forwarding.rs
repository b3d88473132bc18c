//! What a follower has taken out of its queue, and has not sent yet, when its role ends.

use super::*;

const FOLLOWER: usize = 1;

/// Leaders that come, one after the other, while nothing is sent: others, the same again, and the
/// follower itself.
const SUCCESSORS: [&[usize]; 6] = [&[2], &[0], &[1], &[2, 0], &[1, 2], &[2, 1]];

/// A client that asks for one thing after the other.
struct Asker {
    client: Client,
    path: &'static str,
}

impl Asker {
    async fn new(ensemble: &Ensemble, path: &'static str) -> Self {
        let mut client = Client::connect(ensemble.address(FOLLOWER)).await;
        assert_eq!(client.create(path, b"").await, ErrorCode::OK);
        Asker { client, path }
    }

    async fn ask(&mut self) {
        let path = self.path;
        let requests = [
            request(11, OpCode::SetData, &data_of(path, b"first")),
            request(12, OpCode::Exists, &unwatched(path)),
            request(13, OpCode::Sync, &PathRecord { path }),
            request(14, OpCode::SetData, &data_of(path, b"second")),
            request(15, OpCode::SetData, &data_of(path, b"last")),
        ];
        self.client.send(&requests.concat()).await;
    }

    async fn is_answered(&mut self) {
        for xid in 11..=15 {
            assert_eq!(self.client.next().await.outcome(), (xid, ErrorCode::OK));
        }
    }

    /// Was everything done, and that once and in order? It was, or nothing was.
    fn is_done(&self, ensemble: &Ensemble, server: usize) -> bool {
        let tree = ensemble.services[server].tree();
        let node = tree.get(self.path).unwrap();
        match (node.stat().version, node.data()) {
            (0, Some(b"")) => false,
            (3, Some(b"last")) => true,
            other => panic!("{}: {other:?}", self.path),
        }
    }
}

/// Two clients have asked a follower; what one of them wants is in the hands of whoever sends it,
/// what the other wants is queued behind that.
async fn about_to_send(ensemble: &Ensemble) -> [Asker; 2] {
    let mut askers = [
        Asker::new(ensemble, "/taken").await,
        Asker::new(ensemble, "/queued").await,
    ];
    ensemble.settle().await;
    ensemble.stall(FOLLOWER);
    askers[0].ask().await;
    until("about to send", || ensemble.is_stalled(FOLLOWER)).await;
    askers[1].ask().await;
    let queue = &ensemble.services[FOLLOWER].queue;
    until("queued", || queue.lock().has_requests()).await;
    askers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hand_over_loses_doubles_and_reorders_nothing_that_is_being_sent() {
    for successors in SUCCESSORS {
        let ensemble = Ensemble::start(3).await;
        ensemble.elect(0).await;
        let mut askers = about_to_send(&ensemble).await;
        for leader in successors {
            ensemble.hand_over().await;
            ensemble.elect(*leader).await;
        }
        ensemble.go_on(FOLLOWER);
        for asker in &mut askers {
            asker.is_answered().await;
        }
        ensemble.settle().await;
        for server in 0..3 {
            assert!(askers.iter().all(|asker| asker.is_done(&ensemble, server)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_is_being_sent_to_a_lost_leader_is_done_by_the_next() {
    for successors in SUCCESSORS {
        let ensemble = Ensemble::start(3).await;
        ensemble.elect(0).await;
        let mut syncer = Client::connect(ensemble.address(FOLLOWER)).await;
        let mut askers = about_to_send(&ensemble).await;
        let mut both = request(1, OpCode::Sync, &PathRecord { path: "/" });
        both.extend(request(2, OpCode::Exists, &unwatched("/none")));
        syncer.send(&both).await;
        for leader in successors {
            ensemble.depose(false).await;
            ensemble.elect(*leader).await;
        }
        ensemble.go_on(FOLLOWER);
        // Who has written nothing notices nothing.
        assert_eq!(syncer.next().await.outcome(), (1, ErrorCode::OK));
        assert_eq!(syncer.next().await.outcome(), (2, ErrorCode::NO_NODE));
        for asker in &mut askers {
            assert_eq!(asker.client.next().await, Message::Closed);
            assert!(!asker.is_done(&ensemble, FOLLOWER));
            let address = ensemble.address(FOLLOWER);
            asker.client = Client::resume(address, &asker.client.session).await;
            asker.ask().await;
            asker.is_answered().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_stops_leaves_nothing_half_sent() {
    let ensemble = Ensemble::start(3).await;
    ensemble.elect(0).await;
    let mut askers = about_to_send(&ensemble).await;
    let service = &ensemble.services[FOLLOWER];
    service.drain();
    service.stopped(None);
    ensemble.go_on(FOLLOWER);
    for asker in &mut askers {
        assert_eq!(asker.client.next().await, Message::Closed);
    }
    // Others go on, also with what was sent in the end.
    let mut other = Client::connect(ensemble.address(0)).await;
    other.sync().await;
    for asker in &askers {
        asker.is_done(&ensemble, 0);
    }
    assert_eq!(other.create("/n", b"").await, ErrorCode::OK);
}
