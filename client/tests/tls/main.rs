//! The client over TLS: a relay that speaks TLS stands in front of a real server, and certificates
//! are made as each test needs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod relay;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_client::rustls::pki_types::CertificateDer;
use quorate_client::rustls::pki_types::pem::PemObject;
use quorate_client::rustls::{ClientConfig, RootCertStore};
use quorate_client::{Client, ClientBuilder, CreateMode, Error, Outcome, State, TlsOptions};
use quorate_proto::jute::Encode;
use quorate_proto::{ConnectResponse, frame};
use quorate_server::{Ensemble, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::relay::{Authority, Relay};

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

async fn server() -> (Server, SocketAddr) {
    let server = Server::builder().start().await.unwrap();
    let address = server.client_addr().unwrap();
    (server, address)
}

fn builder(tls: TlsOptions) -> ClientBuilder {
    // Long enough for a handshake, however busy the machine.
    let patience = Duration::from_secs(3);
    Client::builder().connect_timeout(patience).tls(tls)
}

async fn connect(relay: &Relay, tls: TlsOptions) -> Client {
    let connecting = builder(tls).connect(&relay.servers);
    within("the connection", connecting).await.unwrap()
}

/// Why no connection comes about, as the user reads it.
async fn refusal(servers: &str, tls: TlsOptions) -> String {
    let error = within("the refusal", builder(tls).connect(servers)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    error.to_string()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[tokio::test]
async fn a_session_over_tls_is_as_any_other() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let relay = Relay::start(address, &authority.issue(&["localhost"]), None).await;
    let client = connect(&relay, authority.trusted()).await;
    // More than TLS and the sockets hold back together, both ways.
    let value = vec![7u8; 900_000];
    for i in 0..4 {
        client
            .create(&format!("/{i}"), &value, CreateMode::Persistent)
            .await
            .unwrap();
    }
    let reads: Vec<_> = (0..40)
        .map(|i| client.get_data(&format!("/{}", i % 4)))
        .collect();
    for read in reads {
        assert_eq!(within("a large value", read).await.unwrap().0, value);
    }
    let small: Vec<_> = (0..2000)
        .map(|_| client.set_data("/0", "x", None))
        .collect();
    for reply in small {
        within("a reply", reply).await.unwrap();
    }
    within("the close", client.close()).await.unwrap();
}

#[tokio::test]
async fn addresses_can_be_in_certificates_too() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let relay = Relay::start(address, &authority.issue(&["127.0.0.1"]), None).await;
    let numeric = relay.servers.replace("localhost", "127.0.0.1");
    let client = within(
        "the connection",
        builder(authority.trusted()).connect(&numeric),
    )
    .await;
    client.unwrap().exists("/").await.unwrap();
    let message = refusal(&relay.servers, authority.trusted()).await;
    assert_says(&message, &[&relay.servers, "not valid for name"]);
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_servers_want_one() {
    let (_server, address) = server().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let relay = Relay::start(address, &authority.issue(&["localhost"]), Some(&clients)).await;
    let known = clients.issue(&["alice"]);
    let tls = authority.trusted();
    let client = connect(
        &relay,
        tls.clone().client_certificate(&known.chain, &known.key),
    )
    .await;
    client.exists("/").await.unwrap();

    let advice = "it wants a valid client certificate of an authority that it trusts";
    let message = refusal(&relay.servers, tls.clone()).await;
    assert_says(&message, &[&relay.servers, advice]);
    let unknown = authority.issue(&["mallory"]);
    let tls = tls.client_certificate(&unknown.chain, &unknown.key);
    assert_says(
        &refusal(&relay.servers, tls).await,
        &[&relay.servers, advice],
    );
}

#[tokio::test]
async fn only_servers_of_the_trusted_authorities_are_trusted() {
    let (_server, address) = server().await;
    let (authority, other) = (Authority::named("A"), Authority::named("B"));
    let relay = Relay::start(address, &authority.issue(&["localhost"]), None).await;
    let same_name = Authority::named("A");
    let any_host = other.trusted().verify_host_name(false);
    for (tls, reason) in [
        (other.trusted(), "UnknownIssuer"),
        (same_name.trusted(), "BadSignature"),
        (any_host, "UnknownIssuer"),
    ] {
        let message = refusal(&relay.servers, tls).await;
        assert_says(&message, &[&relay.servers, reason, "add the authority"]);
    }
    let both = other.trusted().and_ca_file(&authority.file);
    connect(&relay, both).await.exists("/").await.unwrap();
}

#[tokio::test]
async fn the_name_in_the_certificate_counts_unless_told_otherwise() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let relay = Relay::start(address, &authority.issue(&["zk1.example.org"]), None).await;
    let says = [&relay.servers, "not valid for name", "verify_host_name"];
    assert_says(&refusal(&relay.servers, authority.trusted()).await, &says);
    let any_name = authority.trusted().verify_host_name(false);
    connect(&relay, any_name).await.exists("/").await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let relay = Relay::start(address, &authority.issue_expired("localhost"), None).await;
    for tls in [
        authority.trusted(),
        authority.trusted().verify_host_name(false),
    ] {
        let message = refusal(&relay.servers, tls).await;
        assert_says(&message, &[&relay.servers, "expired", "renew"]);
    }
}

#[tokio::test]
async fn both_sides_must_mean_tls() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let plain = format!("localhost:{}", address.port());
    let message = refusal(&plain, authority.trusted()).await;
    assert_says(
        &message,
        &[&plain, "does not answer with TLS", "secureClientPort"],
    );

    let relay = Relay::start(address, &authority.issue(&["localhost"]), None).await;
    let patience = Duration::from_secs(3);
    let connecting = Client::builder()
        .connect_timeout(patience)
        .connect(&relay.servers);
    let error = within("the refusal", connecting).await.unwrap_err();
    assert_says(&error.to_string(), &[&relay.servers, "speaks TLS"]);
}

#[tokio::test]
async fn a_server_that_stops_in_the_handshake_is_left_for_the_next() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(address, &authority.issue(&["localhost"]), None).await;
    let port = silent.local_addr().unwrap().port();
    let servers = format!("localhost:{port},{}", relay.servers);
    let builder = Client::builder().tls(authority.trusted()).shuffle(false);
    let connecting = builder
        .session_timeout(Duration::from_secs(4))
        .connect_timeout(DEADLINE)
        .connect(&servers);
    let client = within("the connection", connecting).await.unwrap();
    client.exists("/").await.unwrap();
    let (_stream, _) = within("the first attempt", silent.accept()).await.unwrap();
}

#[tokio::test]
async fn a_session_goes_on_at_another_server_over_tls() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    let first = Relay::start(address, &certificate, None).await;
    let second = Relay::start(address, &certificate, None).await;
    let servers = format!("{},{}", first.servers, second.servers);
    let builder = builder(authority.trusted()).shuffle(false);
    let client = within("the connection", builder.connect(&servers))
        .await
        .unwrap();
    let session = client.session().unwrap().id();
    client
        .create("/e", "", CreateMode::Ephemeral)
        .await
        .unwrap();
    let mut states = client.watch_state();
    first.stop().await;
    let lost = states.wait_for(|state| *state == State::Disconnected);
    within("the loss", lost).await.unwrap();
    within("the next connection", client.connected())
        .await
        .unwrap();
    assert!(client.exists("/e").await.unwrap().is_some());
    assert_eq!(client.session().unwrap().id(), session);
}

/// As of servers that write down their ports for TLS: those are followed, not the plain ones beside
/// them.
#[tokio::test]
async fn a_membership_is_followed_to_its_ports_for_tls() {
    let anybody_describes = Ensemble::builder().configure(|config| config.skip_acl = true);
    let ensemble = anybody_describes.start().await.unwrap();
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    let mut relays = Vec::new();
    for id in ensemble.ids() {
        let address = ensemble.client_addr(id).unwrap();
        relays.push((id, Relay::start(address, &certificate, None).await));
    }
    let following = builder(authority.trusted()).follow_membership(true);
    let connecting = following.connect(&relays[0].1.servers);
    let client = within("the connection", connecting).await.unwrap();
    let session = client.session().unwrap().id();
    client
        .create("/e", "", CreateMode::Ephemeral)
        .await
        .unwrap();

    let operator = Client::connect(&ensemble.connect_string()).await.unwrap();
    for (id, relay) in &relays[1..] {
        let members = ensemble.ids().into_iter().map(|other| {
            let line = ensemble.member_line(other).unwrap();
            let secure = (other == *id).then(|| format!(";{}", relay.servers));
            format!("{line}{}\n", secure.unwrap_or_default())
        });
        let description = format!("{}version={id:x}00000000", members.collect::<String>());
        operator
            .set_data("/zookeeper/config", &description, None)
            .await
            .unwrap();
        let server = relay.servers.replace("localhost", "127.0.0.1");
        let moved = async {
            while client.server_addr().map(|found| found.to_string()) != Some(server.clone()) {
                assert!(client.exists("/e").await.unwrap().is_some());
            }
        };
        within("the move", moved).await;
        assert!(client.exists("/e").await.unwrap().is_some());
        assert_eq!(client.session().unwrap().id(), session);
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_once() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["a"]), authority.issue(&["b"]));
    let garbage = authority.file.with_file_name("garbage.pem");
    fs::write(
        &garbage,
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let absent = authority.file.with_file_name("absent.pem");
    let trusted = || authority.trusted();
    for (tls, file, reason) in [
        (TlsOptions::ca_file(&absent), &absent, "No such file"),
        (
            TlsOptions::ca_file(&one.key),
            &one.key,
            "holds no certificate in PEM",
        ),
        (trusted().and_ca_file(&garbage), &garbage, "it is damaged"),
        (
            trusted().client_certificate(&absent, &one.key),
            &absent,
            "No such file",
        ),
        (
            trusted().client_certificate(&one.chain, &absent),
            &absent,
            "No such file",
        ),
        (
            trusted().client_certificate(&one.chain, &one.chain),
            &one.chain,
            "holds no private key",
        ),
        (
            trusted().client_certificate(&one.chain, &other.key),
            &other.key,
            "not the key of",
        ),
    ] {
        let error = Client::builder()
            .tls(tls)
            .connect_lazy("localhost:1")
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::DidNotHappen);
        let Error::TlsFile { file: named, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(named, file);
        assert_says(&error.to_string(), &[&file.display().to_string(), reason]);
    }
}

#[tokio::test]
async fn a_certificate_can_be_replaced_while_the_client_runs() {
    let (_server, address) = server().await;
    let (authority, clients, renewed) = (Authority::new(), Authority::new(), Authority::new());
    let certificate = authority.issue(&["localhost"]);
    let first = Relay::start(address, &certificate, Some(&clients)).await;
    let second = Relay::start(address, &certificate, Some(&renewed)).await;
    let mine = clients.issue(&["alice"]);
    let tls = authority
        .trusted()
        .client_certificate(&mine.chain, &mine.key);
    let servers = format!("{},{}", first.servers, second.servers);
    let builder = builder(tls).shuffle(false);
    let client = within("the connection", builder.connect(&servers))
        .await
        .unwrap();
    let new = renewed.issue(&["alice"]);
    fs::copy(&new.key, &mine.key).unwrap();
    fs::copy(&new.chain, &mine.chain).unwrap();
    first.stop().await;
    within(
        "a reply of the second server",
        client.retry(|| client.exists("/")),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_configuration_of_rustls_does_as_well() {
    let (_server, address) = server().await;
    let authority = Authority::new();
    let relay = Relay::start(address, &authority.issue(&["localhost"]), None).await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&authority.file).unwrap())
        .unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = Client::builder().tls_config(Arc::new(config));
    let client = within("the connection", builder.connect(&relay.servers))
        .await
        .unwrap();
    client.exists("/").await.unwrap();
}

#[tokio::test]
async fn a_server_that_writes_is_looked_for_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    // Plays a server that is cut off from its ensemble.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reader = Relay::start(address, &certificate, None).await;
    let (_server, address) = server().await;
    let writer = Relay::start(address, &certificate, None).await;
    let servers = format!("{},{}", reader.servers, writer.servers);
    let builder = builder(authority.trusted()).read_only(true).shuffle(false);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 49];
        stream.read_exact(&mut request).await.unwrap();
        let response = ConnectResponse {
            protocol_version: 0,
            timeout: 10_000,
            session_id: 7,
            password: Some(&[0; 16]),
            read_only: Some(true),
        };
        let mut out = Vec::new();
        frame::write(&mut out, |out| response.encode(out));
        stream.write_all(&out).await.unwrap();
        stream
    };
    let (client, _stream) = within("the first connection", async {
        tokio::join!(builder.connect(&servers), serving)
    })
    .await;
    let client = client.unwrap();
    let mut states = client.watch_state();
    let found = states.wait_for(|state| *state == State::Connected);
    within("a server that writes", found).await.unwrap();
    client
        .create("/a", "", CreateMode::Persistent)
        .await
        .unwrap();
}

/// Runs `quorate-cli` and answers its exit code, output and errors.
#[cfg(feature = "program")]
async fn cli(args: &[&str]) -> (Option<i32>, String, String) {
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_quorate-cli"));
    program.args(args).env_remove("RUST_LOG").kill_on_drop(true);
    let ran = within("the program", program.output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
}

#[cfg(feature = "program")]
#[tokio::test]
async fn the_program_speaks_tls_and_so_does_its_benchmark() {
    let (_server, address) = server().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let relay = Relay::start(address, &authority.issue(&["zk1"]), Some(&clients)).await;
    let mine = clients.issue(&["alice"]);
    let [ca, chain, key] = [&authority.file, &mine.chain, &mine.key].map(|f| f.to_str().unwrap());
    let secure = [
        "--server",
        &relay.servers,
        "--tls-ca",
        ca,
        "--tls-cert",
        chain,
        "--tls-key",
        key,
    ];
    let any_host = [&secure[..], &["--tls-any-host"]].concat();
    let (code, out, err) = cli(&[&any_host[..], &["ls", "/"]].concat()).await;
    assert_eq!((code, out.as_str()), (Some(0), "[zookeeper]\n"), "{err}");
    let load = [
        "bench",
        "--duration",
        "1",
        "--warmup",
        "0",
        "--connections",
        "3",
        "--nodes",
        "50",
    ];
    let load = [&load[..], &["--reads", "50", "--output", "json"]].concat();
    let (code, out, err) = cli(&[&any_host[..], &load].concat()).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(!out.contains("\"operations\":0"), "{out}");

    let (code, _, err) = cli(&[&secure[..], &load].concat()).await;
    assert_eq!(code, Some(1));
    assert_says(&err, &["not valid for name"]);
    let (code, _, err) = cli(&["--tls-cert", chain, "ls", "/"]).await;
    assert_ne!(code, Some(0));
    assert_says(&err, &["--tls-ca", "--tls-key"]);
}
