use std::collections::HashSet;
use std::time::Instant;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::Ensemble;
use crate::zab::Role;

const PATIENCE: Duration = Duration::from_secs(10);

/// A member with nothing but its election port.
struct Node {
    id: Sid,
    port: ElectionPort,
    events: UnboundedReceiver<Input>,
    faults: Faults,
}

/// Members on ports that are open already, so that all know where all are.
async fn nodes(sids: &[Sid]) -> Vec<Node> {
    let mut listeners = Vec::new();
    let mut text = String::new();
    for sid in sids {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        text += &format!("server.{sid}=127.0.0.1:1:{port}\n");
        listeners.push(listener);
    }
    let membership: Membership = text.parse().unwrap();
    let pairs = sids.iter().zip(listeners);
    pairs
        .map(|(sid, listener)| Node::start(*sid, &membership, listener))
        .collect()
}

impl Node {
    fn start(id: Sid, membership: &Membership, listener: TcpListener) -> Node {
        let mut config = Config::new("");
        config.tick_time = Duration::from_millis(100);
        config.sync_limit = 5;
        config.ensemble = Some(Ensemble {
            my_id: id,
            version: 0,
            members: membership.members.clone(),
        });
        let faults = Faults::default();
        let (told, events) = unbounded_channel();
        let on_event = move |event| {
            let _ = told.send(event);
        };
        let port = ElectionPort::start(
            &config,
            &[membership.clone().into()],
            faults.clone(),
            on_event,
        );
        port.open(listener);
        Node {
            id,
            port,
            events,
            faults,
        }
    }

    fn address(&self) -> SocketAddr {
        let addresses = self.port.port.addresses.read();
        SocketAddr::new([127, 0, 0, 1].into(), addresses[&self.id][0].port)
    }

    fn send(&self, to: Sid, round: i64) {
        self.port.send(to, &vote(round));
    }

    async fn next(&mut self) -> Input {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.unwrap().unwrap()
    }

    /// The round of the next vote, and whose it is.
    async fn next_vote(&mut self) -> (Sid, i64) {
        loop {
            if let Input::Notified { from, notification } = self.next().await {
                return (from, notification.round);
            }
        }
    }

    async fn await_reachable(&mut self, other: Sid, is: bool) {
        loop {
            if let Input::Reachable { sid, reachable } = self.next().await
                && (sid, reachable) == (other, is)
            {
                return;
            }
        }
    }
}

fn vote(round: i64) -> Notification {
    Notification {
        state: Role::Looking,
        leader: 1,
        zxid: 2,
        round,
        epoch: 3,
        format: 2,
        config: Bytes::from_static(b"server.1=h:1:2\nversion=0"),
        proposed: Bytes::new(),
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = i32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes(), payload].concat()
}

/// A server that is no node: connects, and says that it is `sid` and listens at `address`.
async fn call(node: &Node, sid: Sid, address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    let mut greeting = BytesMut::new();
    greeting.put_i64(-65536);
    greeting.put_i64(sid);
    greeting.put_i32(i32::try_from(address.len()).unwrap());
    greeting.put_slice(address.as_bytes());
    stream.write_all(&greeting).await.unwrap();
    stream
}

async fn read_vote(stream: &mut TcpStream) -> Notification {
    let read = async {
        let length = stream.read_i32().await.unwrap();
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        Notification::decode(payload.into()).unwrap()
    };
    timeout(PATIENCE, read).await.unwrap()
}

async fn await_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
}

#[tokio::test]
async fn votes_go_both_ways_whoever_begins() {
    for first in [1, 2] {
        let mut nodes = nodes(&[1, 2]).await;
        let (one, two) = nodes.split_at_mut(1);
        let (one, two) = (&mut one[0], &mut two[0]);
        if first == 1 {
            one.send(2, 7);
            assert_eq!(two.next_vote().await, (1, 7));
            two.send(1, 8);
            assert_eq!(one.next_vote().await, (2, 8));
        } else {
            two.send(1, 8);
            assert_eq!(one.next_vote().await, (2, 8));
            one.send(2, 7);
            assert_eq!(two.next_vote().await, (1, 7));
        }
    }
}

#[tokio::test]
async fn any_thread_may_send() {
    let mut nodes = nodes(&[1, 2]).await;
    let two = nodes.pop().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| two.send(1, 3));
    });
    assert_eq!(nodes[0].next_vote().await, (2, 3));
}

#[tokio::test]
async fn many_find_each_other_at_once() {
    let sids = [1, 2, 3, 4, 5];
    let mut nodes = nodes(&sids).await;
    for node in &nodes {
        for to in sids.into_iter().filter(|to| *to != node.id) {
            node.send(to, node.id);
        }
    }
    for node in &mut nodes {
        let mut heard = HashSet::new();
        while heard.len() < 4 {
            let (from, round) = node.next_vote().await;
            assert_eq!(from, round);
            heard.insert(from);
        }
    }
}

#[tokio::test]
async fn only_the_newest_vote_waits() {
    let mut nodes = nodes(&[1, 2]).await;
    nodes[1].send(1, 1);
    assert_eq!(nodes[0].next_vote().await, (2, 1));
    nodes[1].faults.cut_to(1);
    for round in 2..10 {
        nodes[1].send(1, round);
    }
    nodes[1].faults.heal();
    nodes[1].send(1, 10);
    let (_, first) = nodes[0].next_vote().await;
    assert!(first == 9 || first == 10, "{first}");
}

#[tokio::test]
async fn the_last_vote_is_sent_again_on_a_new_connection() {
    let mut nodes = nodes(&[1, 2]).await;
    nodes[0].send(2, 5);
    assert_eq!(nodes[1].next_vote().await, (1, 5));
    let before = nodes.pop().unwrap();
    let address = before.address();
    before.port.shutdown().await;
    nodes[0].await_reachable(2, false).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let membership = membership_of(&nodes[0]);
    let mut again = Node::start(2, &membership, listener);
    again.send(1, 6);
    assert_eq!(again.next_vote().await, (1, 5));
    assert_eq!(nodes[0].next_vote().await, (2, 6));
}

/// The members as a node knows them.
fn membership_of(node: &Node) -> Membership {
    let addresses = node.port.port.addresses.read();
    let lines = addresses
        .iter()
        .map(|(sid, known)| format!("server.{sid}={}:1:{}\n", known[0].host, known[0].port));
    lines.collect::<String>().parse().unwrap()
}

#[tokio::test]
async fn a_server_that_ends_is_known_to_be_gone_at_once() {
    for gone in [0, 1] {
        let mut nodes = nodes(&[1, 2]).await;
        nodes[0].send(2, 1);
        assert_eq!(nodes[1].next_vote().await, (1, 1));
        tokio::time::sleep(caller::SHORTEST_LIFE).await;
        let gone = nodes.remove(gone);
        let left = &mut nodes[0];
        let since = Instant::now();
        drop(gone.port);
        left.await_reachable(gone.id, false).await;
        assert!(since.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_at_once() {
    let mut nodes = nodes(&[1]).await;
    let mut stream = call(&nodes[0], 9, "127.0.0.1:9").await;
    nodes[0].await_reachable(9, true).await;
    nodes[0].send(9, 4);
    assert_eq!(read_vote(&mut stream).await.round, 4);
    drop(stream);
    // It is in no configuration, so that nobody connects to it, and it is forgotten.
    nodes[0].await_reachable(9, false).await;
    assert!(nodes[0].port.port.peers.lock().is_empty());

    let mut pair = self::nodes(&[1, 2]).await;
    let two = pair.pop().unwrap();
    let listener = two.address();
    two.port.shutdown().await;
    let listener = TcpListener::bind(listener).await.unwrap();
    let mut stream = call(&pair[0], 2, "127.0.0.1:9").await;
    pair[0].await_reachable(2, true).await;
    pair[0].send(2, 4);
    assert_eq!(read_vote(&mut stream).await.round, 4);
    tokio::time::sleep(caller::SHORTEST_LIFE).await;
    drop(stream);
    let (mut again, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let greeting = Greeting::read(&mut again).await.unwrap();
    assert_eq!(greeting.sid, 1);
    assert_eq!(greeting.addresses[0].port, pair[0].address().port());
    await_closed(again).await;
}

#[tokio::test]
async fn servers_in_no_configuration_are_answered() {
    let mut nodes = nodes(&[5]).await;
    let mut larger = call(&nodes[0], 9, "0.0.0.0:1").await;
    larger.write_all(&frame(&vote(3).encode())).await.unwrap();
    assert_eq!(nodes[0].next_vote().await, (9, 3));
    nodes[0].send(9, 4);
    assert_eq!(read_vote(&mut larger).await.round, 4);

    // One with a smaller id is called back where it says that it is.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    await_closed(call(&nodes[0], 2, &own).await).await;
    let (mut back, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(Greeting::read(&mut back).await.unwrap().sid, 5);
    back.write_all(&frame(&vote(6).encode())).await.unwrap();
    assert_eq!(nodes[0].next_vote().await, (2, 6));
    nodes[0].send(2, 7);
    assert_eq!(read_vote(&mut back).await.round, 7);

    // Nobody knows where this one is.
    nodes[0].send(77, 1);
    assert!(!nodes[0].port.port.peers.lock().contains_key(&77));
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_an_older() {
    let mut nodes = nodes(&[1, 2]).await;
    nodes.pop();
    let older = call(&nodes[0], 2, "127.0.0.1:9").await;
    nodes[0].await_reachable(2, true).await;
    let mut newer = call(&nodes[0], 2, "127.0.0.1:9").await;
    await_closed(older).await;
    nodes[0].send(2, 3);
    assert_eq!(read_vote(&mut newer).await.round, 3);
}

#[tokio::test]
async fn a_server_that_has_lost_its_connection_gets_another() {
    let mut nodes = nodes(&[1, 2]).await;
    let one = nodes.remove(0);
    let address = one.address();
    one.port.shutdown().await;
    let listener = TcpListener::bind(address).await.unwrap();
    nodes[0].send(1, 3);
    let (mut first, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    Greeting::read(&mut first).await.unwrap();
    assert_eq!(read_vote(&mut first).await.round, 3);
    // It asks to be called, though this end of the connection is whole.
    tokio::time::sleep(caller::SHORTEST_LIFE).await;
    await_closed(call(&nodes[0], 1, "127.0.0.1:9").await).await;
    let (mut second, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    Greeting::read(&mut second).await.unwrap();
    await_closed(first).await;
    assert_eq!(read_vote(&mut second).await.round, 3);
}

#[tokio::test]
async fn strangers_are_refused_and_disturb_nobody() {
    let mut nodes = nodes(&[1, 2]).await;
    nodes[1].send(1, 1);
    assert_eq!(nodes[0].next_vote().await, (2, 1));
    let long = [&(-65536_i64).to_be_bytes()[..], &[0; 8], &[0x7f; 4]].concat();
    let binary = [&(-65536_i64).to_be_bytes()[..], &[0; 11], &[1, 0xff]].concat();
    let no_port = [&(-65536_i64).to_be_bytes()[..], &[0; 11], &[1], b"h"].concat();
    let anonymous = i64::MAX.to_be_bytes();
    let own = 1_i64.to_be_bytes();
    let cases: [&[u8]; 7] = [
        b"\xff\xff GET / HTTP/1.1\r\n\r\n",
        &long,
        &binary,
        &no_port,
        &anonymous,
        &own,
        b"ruok",
    ];
    for bytes in cases {
        let mut stream = TcpStream::connect(nodes[0].address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        await_closed(stream).await;
    }
    let told = nodes[0].port.port.told.count();
    assert_eq!(told, 4, "garbage, anonymous, own id and silence, once each");
    nodes[1].send(1, 2);
    assert_eq!(nodes[0].next_vote().await, (2, 2));
    assert_eq!(nodes[0].port.port.peers.lock().len(), 1);
}

#[tokio::test]
async fn what_is_no_vote_is_dropped_and_what_is_no_frame_ends_the_connection() {
    let mut nodes = nodes(&[1]).await;
    for end in [0_i32, -1, 512 * 1024 + 1] {
        let mut stream = call(&nodes[0], 9, "h:1").await;
        let good = frame(&vote(3).encode());
        let bytes = [&frame(b"no vote")[..], &good, &end.to_be_bytes(), &good].concat();
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(nodes[0].next_vote().await, (9, 3));
        await_closed(stream).await;
        nodes[0].await_reachable(9, false).await;
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_tried_again() {
    let mut nodes = nodes(&[1, 2]).await;
    let right = membership_of(&nodes[0]);
    let text = right.to_string();
    let wrong = text.replace("server.2=127.0.0.1", "server.2=nowhere.invalid");
    let wrong: Arc<Membership> = Arc::new(wrong.parse().unwrap());
    nodes[0].port.set_members(&[Arc::clone(&wrong)]);
    nodes[0].send(2, 1);
    nodes[0].await_reachable(2, false).await;
    // A configuration that is only proposed counts as well.
    nodes[0].port.set_members(&[wrong, right.into()]);
    assert_eq!(nodes[1].next_vote().await, (1, 1));
}

#[tokio::test]
async fn links_can_be_cut_and_slowed() {
    let mut nodes = nodes(&[1, 2]).await;
    nodes[0].faults.cut_from(2);
    nodes[1].send(1, 1);
    nodes[0].send(2, 2);
    let nothing = timeout(Duration::from_millis(100), nodes[0].events.recv()).await;
    assert!(nothing.is_err());
    nodes[0].faults.heal();
    assert_eq!(nodes[0].next_vote().await, (2, 1));
    assert_eq!(nodes[1].next_vote().await, (1, 2));
    let delay = Duration::from_millis(100);
    nodes[0].faults.delay_to(2, delay);
    let since = Instant::now();
    nodes[0].send(2, 3);
    assert_eq!(nodes[1].next_vote().await, (1, 3));
    assert!(since.elapsed() >= delay);
}

fn outbox_of(node: &Node, sid: Sid) -> Arc<Outbox> {
    Arc::clone(&node.port.port.peers.lock()[&sid].outbox)
}

#[tokio::test]
async fn a_server_says_who_it_is_to_one_who_asks() {
    let mut nodes = nodes(&[1, 2]).await;
    let membership = membership_of(&nodes[0]);
    let address = nodes[1].address();
    let asking = tokio::spawn(async move { probe::ask(address, &membership, PATIENCE).await });
    let asked = nodes[1].next_vote().await;
    assert_eq!(asked, (0, 0));
    nodes[1].send(0, 4);
    while !outbox_of(&nodes[1], 0).is_empty() {
        tokio::task::yield_now().await;
    }
    nodes[1].send(0, 5);
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.sid, Some(2));
    assert_eq!(answer.vote, Some(vote(5)));

    let closed = nodes.pop().unwrap();
    closed.port.shutdown().await;
    let membership = membership_of(&nodes[0]);
    let refused = probe::ask(address, &membership, PATIENCE).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn greetings_of_all_versions_are_read() {
    let addresses = vec![
        HostPort {
            host: "::1".to_owned(),
            port: 3888,
        },
        HostPort {
            host: "h".to_owned(),
            port: 1,
        },
    ];
    let greeting = Greeting { sid: 3, addresses };
    let both = greeting.encode(true);
    assert_eq!(Greeting::read(&mut &both[..]).await.unwrap(), greeting);
    let one = Greeting::read(&mut &greeting.encode(false)[..]).await;
    assert_eq!(one.unwrap().addresses, greeting.addresses[..1]);
    let old = Greeting::read(&mut &7_i64.to_be_bytes()[..]).await.unwrap();
    assert_eq!((old.sid, old.addresses), (7, Vec::new()));
    let wildcards = Greeting {
        sid: 3,
        addresses: vec![HostPort::wildcard(1)],
    };
    let read = Greeting::read(&mut &wildcards.encode(false)[..]).await;
    assert_eq!(read.unwrap().addresses, []);
}

proptest! {
    #[test]
    fn any_greeting_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60), known in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let version = if known { &(-65536_i64).to_be_bytes()[..] } else { &[] };
        let bytes = [version, &bytes].concat();
        let _ = runtime.block_on(Greeting::read(&mut &bytes[..]));
    }
}
