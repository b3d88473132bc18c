//! SASL: before anything else on every connection, and proved by both sides.

use std::collections::HashMap;
use std::time::Duration;

use md5::{Digest, Md5};
use quorate_client::{Client, ClientBuilder, Error, Outcome, State};
use quorate_proto::{ErrorCode, OpCode, SaslToken, Stat, StatResponse};

use crate::server::{Nothing, Peer, Request, SESSION, Server, state, within};

const LONG: Duration = Duration::from_secs(60);
const CHALLENGE: &str = r#"realm="zk-sasl-md5",nonce="n0nce",charset=utf-8,algorithm=md5-sess"#;

fn builder() -> ClientBuilder {
    Client::builder().sasl_digest_md5("alice", "secret")
}

fn text(request: &Request) -> &str {
    let token: SaslToken<'_> = request.decode();
    std::str::from_utf8(token.token.unwrap()).unwrap()
}

async fn say(peer: &mut Peer, request: &Request, text: &str) {
    let token = Some(text.as_bytes());
    peer.reply(request, 0, ErrorCode::OK, &SaslToken { token })
        .await;
}

/// Welcomes the client and challenges it; answers what it says to that.
async fn challenge(server: &Server) -> (Peer, Request) {
    let mut peer = server.serve(LONG).await;
    let first = peer.expect(OpCode::Sasl).await;
    assert_eq!(text(&first), "");
    say(&mut peer, &first, CHALLENGE).await;
    let response = peer.expect(OpCode::Sasl).await;
    (peer, response)
}

/// The directives of a response; none of these has a comma within.
fn directives(text: &str) -> HashMap<&str, &str> {
    let pairs = text.split(',').map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The proof for `alice` with `secret`, as the server works it out.
fn proof(method: &str, cnonce: &str) -> String {
    let secret = Md5::digest("alice:zk-sasl-md5:secret");
    let key = [&secret[..], format!(":n0nce:{cnonce}").as_bytes()].concat();
    let target = hex(&Md5::digest(format!("{method}:zookeeper/zk-sasl-md5")));
    let key = hex(&Md5::digest(key));
    hex(&Md5::digest(format!(
        "{key}:n0nce:00000001:{cnonce}:auth:{target}"
    )))
}

/// Takes a client that knows the password; answers what it made the exchange another one with.
async fn authenticate(server: &Server) -> (Peer, String) {
    let (mut peer, response) = challenge(server).await;
    let said = directives(text(&response));
    let cnonce = said["cnonce"].to_owned();
    assert_eq!(said["username"], "alice");
    assert_eq!(said["response"], proof("AUTHENTICATE", &cnonce));
    say(
        &mut peer,
        &response,
        &format!("rspauth={}", proof("", &cnonce)),
    )
    .await;
    (peer, cnonce)
}

#[tokio::test]
async fn every_connection_is_authenticated_before_anything_else() {
    let server = Server::start().await;
    let address = server.address();
    let builder = builder().credential("digest", "bob:pw");
    let (client, (mut peer, first)) =
        tokio::join!(builder.connect(&address), authenticate(&server));
    let client = client.unwrap();
    peer.expect(OpCode::Auth).await;
    let watched = client.get_data_watched("/a");
    peer.expect(OpCode::GetData).await;
    drop(peer);
    assert!(watched.await.is_err());

    let (mut peer, second) = within("authentication", authenticate(&server)).await;
    assert_ne!(
        first, second,
        "an exchange that was overheard can be replayed"
    );
    let auth = peer.expect(OpCode::Auth).await;
    peer.reply(&auth, 0, ErrorCode::OK, &Nothing).await;
    state(&client, State::Connected).await;
    let exists = client.exists("/a");
    let request = peer.expect(OpCode::Exists).await;
    let stat = Stat::default();
    peer.ok(&request, &StatResponse { stat }).await;
    within("the reply", exists).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_final() {
    let server = Server::start().await;
    let client = builder().connect_lazy(&server.address()).unwrap();
    let waiting = client.exists("/");
    let (mut peer, response) = challenge(&server).await;
    let token = SaslToken { token: None };
    peer.reply(&response, 0, ErrorCode::AUTH_FAILED, &token)
        .await;
    state(&client, State::AuthFailed).await;
    for reply in [waiting, client.exists("/")] {
        let error = within("the refusal", reply).await.unwrap_err();
        assert!(
            matches!(&error, Error::SaslFailed { user, .. } if user == "alice"),
            "{error}"
        );
        assert!(error.is_session_over());
        assert_eq!(error.code(), Some(ErrorCode::AUTH_FAILED));
        assert_eq!(error.outcome(), Outcome::DidNotHappen);
        let message = error.to_string();
        assert!(message.contains(&server.address()), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
    peer.gone().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password_is_not_believed() {
    for verdict in ["", "rspauth=00000000000000000000000000000000", "rspauth"] {
        let server = Server::start().await;
        let address = server.address();
        let serving = async {
            let (mut peer, response) = challenge(&server).await;
            say(&mut peer, &response, verdict).await;
            peer.gone().await;
        };
        let (client, ()) = tokio::join!(builder().connect(&address), serving);
        assert!(
            matches!(client, Err(Error::SaslFailed { .. })),
            "{client:?}"
        );
    }
}

#[tokio::test]
async fn a_server_without_the_mechanism_is_told_apart() {
    for (code, answer, reason) in [
        (ErrorCode::UNIMPLEMENTED, None, "does not take DIGEST-MD5"),
        (ErrorCode::OK, None, "has no users"),
        (ErrorCode::OK, Some(&b"realm=r"[..]), "no nonce"),
        (ErrorCode::OK, Some(&b"\xff"[..]), "not one of DIGEST-MD5"),
    ] {
        let server = Server::start().await;
        let address = server.address();
        let serving = async {
            let mut peer = server.serve(LONG).await;
            let first = peer.expect(OpCode::Sasl).await;
            peer.reply(&first, 0, code, &SaslToken { token: answer })
                .await;
            peer.gone().await;
        };
        let (client, ()) = tokio::join!(builder().connect(&address), serving);
        let error = client.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_connection_lost_while_authenticating_is_made_again() {
    let server = Server::start().await;
    let client = builder().connect_lazy(&server.address()).unwrap();
    let exists = client.exists("/");
    let peer = server.serve(LONG).await;
    drop(peer);
    let (peer, _) = challenge(&server).await;
    drop(peer);
    let (mut peer, _) = authenticate(&server).await;
    let request = peer.expect(OpCode::Exists).await;
    peer.refuse(&request, ErrorCode::NO_NODE).await;
    assert_eq!(within("the reply", exists).await.unwrap(), None);
    assert_eq!(client.session().unwrap().id().0, SESSION);
}
