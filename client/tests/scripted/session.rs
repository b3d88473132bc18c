//! Handshakes, heartbeats, failover, expiry and the ways to leave a session.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use quorate_client::{Client, CreateMode, Error, Outcome, Session, SessionId, State};
use quorate_proto::{
    AuthPacket, CreateRequest, ErrorCode, GetDataResponse, OpCode, Stat, StatResponse, xid,
};

use crate::server::{
    Hello, Nothing, PASSWORD, SESSION, Server, connect, connect_with, state, within,
};

const LONG: Duration = Duration::from_secs(60);

fn stat() -> StatResponse {
    let stat = Stat::default();
    StatResponse { stat }
}

#[tokio::test]
async fn the_first_handshake_asks_for_a_new_session() {
    let server = Server::start().await;
    let address = server.address();
    let builder = Client::builder().session_timeout(Duration::from_secs(7));
    let connecting = builder.connect(&address);
    let serving = async {
        let mut peer = server.accept().await;
        let hello = peer.hello().await;
        peer.welcome(Duration::from_secs(5)).await;
        (hello, peer)
    };
    let (client, (hello, _peer)) = tokio::join!(connecting, serving);
    let client = client.unwrap();
    assert_eq!(
        hello,
        Hello {
            session: 0,
            password: vec![0; 16],
            last_zxid: 0,
            timeout: 7000,
            read_only: Some(false),
        }
    );
    let session = client.session().unwrap();
    assert_eq!(session.id(), SessionId(SESSION));
    assert_eq!(session.password(), PASSWORD);
    assert_eq!(session.timeout(), Duration::from_secs(5));
    assert_eq!(client.state(), State::Connected);
    assert!(!format!("{session:?}").contains("0123"), "keeps its secret");
}

#[tokio::test]
async fn an_idle_client_sends_heartbeats_and_knows_when_it_was_last_heard() {
    let server = Server::start().await;
    let timeout = Duration::from_millis(900);
    let (client, mut peer) = connect_with(Client::builder(), &server, "", timeout).await;
    let before = client.last_heartbeat().unwrap();
    assert_eq!(client.session_deadline(), Some(before + timeout));
    for _ in 0..3 {
        let ping = peer.any_request().await.unwrap();
        assert_eq!((ping.xid, ping.op), (xid::PING, OpCode::Ping));
        peer.ok(&ping, &Nothing).await;
    }
    let mut heard = client.last_heartbeat().unwrap();
    // The reply to the last heartbeat is still on its way.
    while heard < before + timeout / 3 * 2 {
        tokio::task::yield_now().await;
        heard = client.last_heartbeat().unwrap();
    }
    assert!(client.session_deadline().unwrap() > before + timeout);
}

#[tokio::test]
async fn a_heartbeat_counts_from_when_it_was_sent() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let sent = tokio::time::Instant::now();
    let reply = client.exists("/a");
    let request = peer.request().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answered = tokio::time::Instant::now();
    peer.ok(&request, &stat()).await;
    within("the reply", reply).await.unwrap();
    let heard = client.last_heartbeat().unwrap();
    assert!(heard >= sent && heard < answered);
}

#[tokio::test]
async fn a_silent_server_is_left_for_the_next_with_the_same_session() {
    let (first, second) = (Server::start().await, Server::start().await);
    let servers = format!("{},{}", first.address(), second.address());
    let timeout = Duration::from_secs(3);
    let builder = Client::builder().shuffle(false);
    let (client, mut peer) = tokio::join!(builder.connect(&servers), first.serve(timeout));
    let client = client.unwrap();
    let request = client.exists("/a");
    let asked = peer.request().await;
    peer.reply(&asked, 42, ErrorCode::NO_NODE, &Nothing).await;
    assert_eq!(within("the reply", request).await.unwrap(), None);

    let silent_since = Instant::now();
    let mut peer = second.accept().await;
    let patience = silent_since.elapsed();
    assert!(patience >= timeout * 2 / 3 - Duration::from_millis(100));
    assert!(patience < timeout, "{patience:?}");
    assert_eq!(
        peer.hello().await,
        Hello {
            session: SESSION,
            password: PASSWORD.to_vec(),
            last_zxid: 42,
            timeout: 30_000,
            read_only: Some(false),
        }
    );
    peer.welcome(timeout).await;
    state(&client, State::Connected).await;
}

#[tokio::test]
async fn every_unfit_server_is_passed_over() {
    let server = Server::start().await;
    let address = server.address();
    let serving = async {
        // Closes at once.
        drop(server.accept().await);
        // Closes after the request.
        server.accept().await.hello().await;
        // Answers what a read-only server without local sessions does.
        let mut peer = server.accept().await;
        peer.hello().await;
        let mut refusal = vec![0, 0, 0, 16];
        refusal.extend([0; 12]);
        refusal.extend((-119i32).to_be_bytes());
        peer.send_raw(&refusal).await;
        peer.gone().await;
        // Answers something that is no frame.
        let mut peer = server.accept().await;
        peer.hello().await;
        peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.gone().await;
        // Does not open a session.
        let mut peer = server.accept().await;
        peer.hello().await;
        peer.expired().await;
        peer.gone().await;
        server.serve(LONG).await
    };
    let (client, _peer) = tokio::join!(Client::connect(&address), serving);
    assert_eq!(client.unwrap().state(), State::Connected);
}

#[tokio::test]
async fn connect_gives_up_and_says_why() {
    let address = Server::start().await.address();
    let error = Client::builder()
        .connect_timeout(Duration::from_millis(200))
        .connect(&address)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&address) && text.contains("refused"),
        "{text}"
    );
    assert_eq!(error.outcome(), Outcome::DidNotHappen);
}

#[tokio::test]
async fn a_dropped_connect_leaves_nothing_behind() {
    let server = Server::start().await;
    let address = server.address();
    let peer = {
        let connecting = Client::connect(&address);
        tokio::pin!(connecting);
        tokio::select! {
            _ = &mut connecting => panic!("nobody answered"),
            mut peer = server.accept() => { peer.hello().await; peer }
        }
    };
    peer.gone().await;
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_keep_their_order() {
    let server = Server::start().await;
    let client = Client::builder().connect_lazy(&server.address()).unwrap();
    assert_eq!(client.state(), State::Connecting);
    let replies: Vec<_> = (0..3).map(|i| client.exists(&format!("/{i}"))).collect();
    let mut peer = server.serve(LONG).await;
    for (i, reply) in replies.into_iter().enumerate() {
        let request = peer.expect(OpCode::Exists).await;
        assert_eq!(request.path(), format!("/{i}"));
        peer.ok(&request, &stat()).await;
        assert!(within("the reply", reply).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_loss_fails_what_was_sent_and_what_was_queued_but_not_what_comes_later() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let write = client.set_data("/a", "x", None);
    let read = client.get_data("/a");
    peer.expect(OpCode::SetData).await;
    peer.expect(OpCode::GetData).await;
    drop(peer);
    let lost = within("the write", write).await.unwrap_err();
    assert!(matches!(lost, Error::ConnectionLoss { sent: true, .. }));
    assert_eq!(lost.outcome(), Outcome::Unknown);
    let lost = within("the read", read).await.unwrap_err();
    assert_eq!(lost.outcome(), Outcome::DidNotHappen);
    assert_ne!(client.state(), State::Connected);

    let later = client.exists("/b");
    let mut peer = server.serve(LONG).await;
    let request = peer.expect(OpCode::Exists).await;
    assert_eq!((request.xid, request.path()), (1, "/b"));
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    assert_eq!(within("the reply", later).await.unwrap(), None);
}

#[tokio::test]
async fn what_has_not_left_whole_did_not_happen() {
    let server = Server::start().await;
    let builder = Client::builder().max_frame(64 << 20);
    let (client, mut peer) = connect_with(builder, &server, "", LONG).await;
    // More than the sockets take while nobody reads.
    let large = vec![0u8; 32 << 20];
    let first = client.set_data("/a", "small", None);
    let second = client.set_data("/b", &large, None);
    let third = client.set_data("/c", "queued behind", None);
    peer.expect(OpCode::SetData).await;
    drop(peer);
    let outcome = |error: Error| (error.outcome(), error.is_transient());
    let first = within("the first", first).await.unwrap_err();
    assert_eq!(outcome(first), (Outcome::Unknown, true));
    for reply in [second, third] {
        let error = within("the others", reply).await.unwrap_err();
        assert_eq!(outcome(error), (Outcome::DidNotHappen, true));
    }
}

#[tokio::test]
async fn a_wrong_xid_ends_the_connection_and_not_the_session() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let reply = client.exists("/a");
    let mut request = peer.request().await;
    request.xid += 1;
    peer.ok(&request, &stat()).await;
    let error = within("the reply", reply).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionLoss { sent: true, .. }));
    peer.gone().await;
    let mut peer = server.accept().await;
    assert_eq!(peer.hello().await.session, SESSION);
}

#[tokio::test]
async fn frames_may_come_in_pieces_and_in_batches() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let replies: Vec<_> = (0..100).map(|_| client.get_data("/a")).collect();
    let mut out = Vec::new();
    let data = vec![7u8; 100_000];
    for i in 0..100i32 {
        let request = peer.expect(OpCode::GetData).await;
        let length = usize::try_from(i * i).unwrap() * 10;
        quorate_proto::frame::write(&mut out, |out| {
            use quorate_proto::jute::Encode;
            quorate_proto::ReplyHeader {
                xid: request.xid,
                zxid: i.into(),
                err: ErrorCode::OK,
            }
            .encode(out);
            GetDataResponse {
                data: Some(&data[..length]),
                stat: Stat {
                    version: i,
                    ..Stat::default()
                },
            }
            .encode(out);
        });
    }
    let sending = async {
        for (i, piece) in out.chunks(977).enumerate() {
            peer.send_raw(piece).await;
            if i % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let receiving = async {
        for (i, reply) in replies.into_iter().enumerate() {
            let (found, stat) = within("the reply", reply).await.unwrap();
            assert_eq!(usize::try_from(stat.version).unwrap(), i);
            assert_eq!(&found[..], &data[..i * i * 10]);
        }
    };
    tokio::join!(sending, receiving);
    assert_eq!(client.session().unwrap().last_zxid(), 99);
}

#[tokio::test]
async fn whatever_a_server_sends_costs_it_the_connection_at_most() {
    let server = Server::start().await;
    let mut chance = fastrand::Rng::with_seed(7);
    let mut frame = |length: usize| {
        let mut bytes = vec![0; length];
        chance.fill(&mut bytes);
        // Half of the frames carry an xid that means something.
        if let (0..=3, Some(xid)) = (length % 8, bytes.first_chunk_mut::<4>()) {
            *xid = [-1i32, -2, -4, 1][length % 8].to_be_bytes();
        }
        if let Some(err) = bytes.get_mut(12..16) {
            err.fill(0);
        }
        bytes
    };
    for length in 0..120 {
        let client = Client::builder().connect_lazy(&server.address()).unwrap();
        let pending = client.get_children("/a");
        let mut peer = server.serve(LONG).await;
        peer.expect(OpCode::GetChildren).await;
        let body = frame(length);
        let claims = [body.len(), 0, 1 << 20, (1 << 31) - 1, 1 << 31, usize::MAX];
        let claim = claims[length % claims.len()] as u32;
        // The client may have closed the connection by the second write.
        let _ = peer.try_send(&claim.to_be_bytes()).await;
        let _ = peer.try_send(&body).await;
        drop(peer);
        let _ = within("the reply", pending).await;
        assert!(!client.state().is_over());
    }
}

#[tokio::test]
async fn the_ensemble_says_that_a_session_has_expired() {
    let server = Server::start().await;
    let (client, peer) = connect(&server).await;
    let mut states = client.states();
    assert_eq!(states.next().await, Some(State::Connected));
    drop(peer);
    state(&client, State::Disconnected).await;
    let waiting = client.create("/a", "", CreateMode::Ephemeral);
    let mut peer = server.accept().await;
    assert_eq!(peer.hello().await.session, SESSION);
    peer.expired().await;
    let error = within("the reply", waiting).await.unwrap_err();
    assert!(matches!(
        error,
        Error::SessionExpired {
            session: SessionId(SESSION)
        }
    ));
    assert_eq!(error.outcome(), Outcome::DidNotHappen);
    assert_eq!(client.state(), State::Expired);
    let rest: Vec<_> = within("the end", states.collect()).await;
    assert_eq!(rest.last(), Some(&State::Expired));
    assert!(matches!(
        client.exists("/a").await,
        Err(Error::SessionExpired { .. })
    ));
    assert!(client.connected().await.unwrap_err().is_session_over());
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_session_that_no_server_continues_is_given_up() {
    let server = Server::start().await;
    let timeout = Duration::from_millis(600);
    let (client, mut peer) = connect_with(Client::builder(), &server, "", timeout).await;
    let reply = client.exists("/a");
    let request = peer.request().await;
    let heard = Instant::now();
    peer.ok(&request, &stat()).await;
    within("the reply", reply).await.unwrap();
    drop((peer, server));
    state(&client, State::Expired).await;
    assert!(heard.elapsed() >= timeout * 4 / 3);
}

#[tokio::test]
async fn a_saved_session_is_continued() {
    let server = Server::start().await;
    let saved = Session::new(SessionId(SESSION), PASSWORD).with_last_zxid(99);
    let address = server.address();
    let connecting = Client::builder().session(saved).connect(&address);
    let serving = async {
        let mut peer = server.accept().await;
        let hello = peer.hello().await;
        peer.welcome(LONG).await;
        (hello, peer)
    };
    let (client, (hello, _peer)) = tokio::join!(connecting, serving);
    assert_eq!(
        (hello.session, hello.password, hello.last_zxid),
        (SESSION, PASSWORD.to_vec(), 99)
    );
    assert_eq!(client.unwrap().session().unwrap().last_zxid(), 99);
}

#[tokio::test]
async fn a_saved_session_that_has_expired_fails_the_connect() {
    let server = Server::start().await;
    let saved = Session::new(SessionId(SESSION), PASSWORD);
    let address = server.address();
    let connecting = Client::builder().session(saved).connect(&address);
    let serving = async {
        let mut peer = server.accept().await;
        peer.hello().await;
        peer.expired().await;
    };
    let (client, ()) = tokio::join!(connecting, serving);
    assert!(matches!(client, Err(Error::SessionExpired { .. })));
}

#[tokio::test]
async fn close_sends_what_is_queued_then_ends_the_session() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let last = client.set_data("/a", "x", None);
    let closing = client.close();
    let refused = client.exists("/a").await.unwrap_err();
    assert!(matches!(refused, Error::Closed));
    let request = peer.expect(OpCode::SetData).await;
    let close = peer.expect(OpCode::CloseSession).await;
    assert!(close.body.is_empty());
    peer.ok(&request, &stat()).await;
    peer.ok(&close, &Nothing).await;
    within("the last reply", last).await.unwrap();
    within("the close", closing).await.unwrap();
    assert_eq!(client.state(), State::Closed);
    peer.gone().await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_close_whose_future_is_dropped_still_closes() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    drop(client.close());
    let close = peer.expect(OpCode::CloseSession).await;
    peer.ok(&close, &Nothing).await;
    state(&client, State::Closed).await;
}

#[tokio::test]
async fn a_close_that_gets_no_answer_says_so() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let closing = client.close();
    peer.expect(OpCode::CloseSession).await;
    drop(peer);
    let error = within("the close", closing).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(client.state(), State::Closed);
}

#[tokio::test]
async fn a_close_without_a_connection_does_not_wait_for_one() {
    let server = Server::start().await;
    let client = Client::builder().connect_lazy(&server.address()).unwrap();
    let waiting = client.exists("/a");
    let error = within("the close", client.close()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::DidNotHappen);
    assert!(matches!(waiting.await, Err(Error::Closed)));
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_session() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let other = client.clone();
    drop(client);
    let reply = other.with_chroot("/c").unwrap().exists("/a");
    drop(other);
    let request = peer.expect(OpCode::Exists).await;
    assert_eq!(request.path(), "/c/a");
    let close = peer.expect(OpCode::CloseSession).await;
    peer.ok(&request, &stat()).await;
    assert!(within("the reply", reply).await.is_ok());
    peer.ok(&close, &Nothing).await;
    peer.gone().await;
}

#[tokio::test]
async fn detach_leaves_the_session_once_everything_is_answered() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let last = client.set_data("/a", "x", None);
    let detaching = client.detach();
    let request = peer.expect(OpCode::SetData).await;
    peer.reply(&request, 77, ErrorCode::OK, &stat()).await;
    within("the last reply", last).await.unwrap();
    let session = within("the session", detaching).await.unwrap();
    assert_eq!(
        (session.id(), session.last_zxid()),
        (SessionId(SESSION), 77)
    );
    assert!(peer.any_request().await.is_none(), "no closeSession");
    assert!(matches!(client.detach().await, Err(Error::Closed)));
}

#[tokio::test]
async fn credentials_come_first_on_every_connection() {
    let server = Server::start().await;
    let builder = Client::builder().credential("digest", "a:1");
    let (client, mut peer) = connect_with(builder, &server, "", LONG).await;
    let adding = client.add_auth("digest", "b:2");
    let packet = |data: &'static str| AuthPacket {
        kind: 0,
        scheme: "digest",
        auth: Some(data.as_bytes()),
    };
    let first = peer.expect(OpCode::Auth).await;
    assert_eq!((first.xid, first.decode()), (xid::AUTH, packet("a:1")));
    let second = peer.expect(OpCode::Auth).await;
    assert_eq!(second.decode::<AuthPacket<'_>>(), packet("b:2"));
    peer.ok(&first, &Nothing).await;
    drop(peer);

    // The credential that got no answer gets one from the next server.
    state(&client, State::Disconnected).await;
    let read = client.exists("/a");
    let mut peer = server.serve(LONG).await;
    for data in ["a:1", "b:2"] {
        let request = peer.expect(OpCode::Auth).await;
        assert_eq!(request.decode::<AuthPacket<'_>>(), packet(data));
        peer.ok(&request, &Nothing).await;
    }
    within("the credential", adding).await.unwrap();
    let request = peer.expect(OpCode::Exists).await;
    peer.ok(&request, &stat()).await;
    within("the read", read).await.unwrap();
}

#[tokio::test]
async fn a_refused_credential_ends_the_handle() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let write = client.create("/a", "", CreateMode::Persistent);
    let adding = client.add_auth("nonsense", "x");
    peer.expect(OpCode::Create2).await;
    let auth = peer.expect(OpCode::Auth).await;
    // Overtakes the reply to the write.
    peer.reply(&auth, 0, ErrorCode::AUTH_FAILED, &Nothing).await;
    assert!(matches!(
        within("the credential", adding).await,
        Err(Error::AuthFailed)
    ));
    let error = within("the write", write).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(client.state(), State::AuthFailed);
    assert!(matches!(client.exists("/").await, Err(Error::AuthFailed)));
    peer.gone().await;
}

#[tokio::test]
async fn the_answers_of_a_read_only_server_do_not_keep_the_session_alive() {
    let server = Server::start().await;
    let builder = Client::builder().read_only(true);
    let address = server.address();
    let serving = async {
        let mut peer = server.accept().await;
        peer.hello().await;
        peer.answer_hello(0x77, LONG, true).await;
        peer
    };
    let (client, mut peer) = tokio::join!(builder.connect(&address), serving);
    let client = client.unwrap();
    let pending = client.sync("/");
    let request = peer.expect(OpCode::Sync).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    pending.await.unwrap_err();
    assert_eq!(client.last_heartbeat(), None);
    assert_eq!(client.session_deadline(), None);
}

#[tokio::test]
async fn work_in_the_background_is_ordered_at_the_call() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    client.delete_in_background("/lock");
    let pending = client.exists("/lock");
    peer.expect(OpCode::Delete).await;
    peer.expect(OpCode::Exists).await;
    drop(pending);
}

#[tokio::test]
async fn a_read_only_server_is_left_for_one_that_writes() {
    let (first, second) = (Server::start().await, Server::start().await);
    let servers = format!("{},{}", first.address(), second.address());
    let builder = Client::builder().shuffle(false).read_only(true);
    let serving = async {
        let mut peer = first.accept().await;
        assert_eq!(peer.hello().await.read_only, Some(true));
        peer.answer_hello(0x77, LONG, true).await;
        peer
    };
    let (client, peer) = tokio::join!(builder.connect(&servers), serving);
    let client = client.unwrap();
    assert_eq!(client.state(), State::ConnectedReadOnly);

    // Both are asked in turn; the second one says at last that it writes.
    for answer in ["ro", "ro", "rw"] {
        let mut probed = tokio::select! {
            peer = second.accept() => peer,
            peer = first.accept() => peer,
        };
        probed.four_letter_word("isro", answer).await;
    }
    peer.gone().await;
    let mut peer = tokio::select! {
        peer = second.accept() => peer,
        _ = first.accept() => panic!("the server that writes comes first"),
    };
    // The ensemble never knew the session of the read-only server.
    assert_eq!(peer.hello().await.session, 0);
    peer.welcome(LONG).await;
    state(&client, State::Connected).await;
}

#[tokio::test]
async fn a_session_that_the_ensemble_knows_keeps_its_id_on_a_read_only_server() {
    let server = Server::start().await;
    let builder = Client::builder().read_only(true);
    let (client, peer) = connect_with(builder, &server, "", LONG).await;
    let heartbeat = client.last_heartbeat();
    drop(peer);
    let mut peer = server.accept().await;
    assert_eq!(peer.hello().await.session, SESSION);
    peer.answer_hello(SESSION, LONG, true).await;
    state(&client, State::ConnectedReadOnly).await;
    // What it would refuse does not get to it: the next that it sees is a read.
    let error = within("the refusal", client.delete("/a", None)).await;
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::ReadOnly { path } if path == "/a"));
    assert_eq!(error.code(), Some(ErrorCode::NOT_READ_ONLY));
    assert_eq!(error.outcome(), Outcome::DidNotHappen);
    let both = client.transaction().delete("/a", None).delete("/b", None);
    let error = within("the refusal", both.commit()).await.unwrap_err();
    assert!(matches!(error, Error::ReadOnly { .. }));
    assert_eq!(client.last_heartbeat(), heartbeat);

    // A read that is under way is answered before the client leaves for a server that writes.
    let read = client.exists("/a");
    let request = peer.expect(OpCode::Exists).await;
    server.accept().await.four_letter_word("isro", "rw").await;
    peer.ok(&request, &stat()).await;
    within("the read", read).await.unwrap();
    let mut peer = server.accept().await;
    assert_eq!(peer.hello().await.session, SESSION);
    peer.welcome(LONG).await;
    state(&client, State::Connected).await;
}

#[tokio::test]
async fn work_in_the_background_outlives_every_handle_and_a_reconnect() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    client.delete_in_background("/lock");
    drop(client);
    peer.expect(OpCode::Delete).await;
    drop(peer);
    let mut peer = server.serve(LONG).await;
    let again = peer.expect(OpCode::Delete).await;
    assert_eq!(again.path(), "/lock");
    peer.refuse(&again, ErrorCode::NO_NODE).await;
    let close = peer.expect(OpCode::CloseSession).await;
    peer.ok(&close, &Nothing).await;
    peer.gone().await;
}

#[tokio::test]
async fn an_acl_and_a_mode_are_sent_as_given() {
    let server = Server::start().await;
    let (client, mut peer) = connect(&server).await;
    let pending = client.create("/a", b"", CreateMode::EphemeralSequential);
    let request = peer.expect(OpCode::Create2).await;
    let record: CreateRequest<'_> = request.decode();
    assert_eq!(
        (record.path, record.data, record.flags),
        ("/a", Some(&b""[..]), 3)
    );
    assert_eq!(record.acl.as_deref(), Some(quorate_client::OPEN_ACL));
    assert!(pending.now_or_never().is_none());
}
