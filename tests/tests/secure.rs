//! Our client's TLS and SASL against Apache ZooKeeper's server.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers as well"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_client::{
    Acl, Client, ClientBuilder, CreateMode, CreateOptions, Error, ErrorCode, Perms, State,
    TlsOptions,
};
use quorate_tests::apache::Apache;
use quorate_tests::process::{ServerProcess, Settings, free_port};
use quorate_tests::relay::Relay;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(DEADLINE, future).await;
    outcome.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Long enough for the handshakes of a server that has just started.
fn builder() -> ClientBuilder {
    Client::builder().connect_timeout(Duration::from_secs(15))
}

/// An authority, and files as Apache ZooKeeper and our client read them.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            directory,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A key with its certificate, in one file.
    fn issue(&self, name: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = self.directory.path().join(format!("{name}.pem"));
        fs::write(&file, key.serialize_pem() + &certificate.pem()).unwrap();
        file
    }
}

fn tls_settings(port: u16, key_store: &Path, trust_store: &Path) -> Settings {
    Settings::default()
        .with(
            "serverCnxnFactory",
            "org.apache.zookeeper.server.NettyServerCnxnFactory",
        )
        .with("secureClientPort", port)
        .with("ssl.keyStore.location", key_store.display())
        .with("ssl.trustStore.location", trust_store.display())
}

#[tokio::test]
async fn apache_and_we_know_each_other_by_certificates() {
    let (authority, other) = (Authority::new("ours"), Authority::new("not ours"));
    let port = free_port();
    let server = authority.issue("localhost");
    let settings = tls_settings(port, &server, &authority.file());
    let server = ServerProcess::start(Apache::from_env(), settings);
    let servers = format!("localhost:{port}");
    let alice = authority.issue("alice");
    let tls = TlsOptions::ca_file(authority.file()).client_certificate(&alice, &alice);
    let client = within("the connection", builder().tls(tls).connect(&servers))
        .await
        .unwrap();
    let value = vec![7; 500_000];
    within(
        "a create",
        client.create("/large", &value, CreateMode::Persistent),
    )
    .await
    .unwrap();
    let (data, _) = within("a read", client.get_data("/large")).await.unwrap();
    assert_eq!(data, value);
    let identities = within("the identities", client.who_am_i()).await.unwrap();
    assert!(
        identities.iter().any(|id| id.scheme == "x509"),
        "{identities:?}"
    );
    within("the close", client.close()).await.unwrap();

    let stranger = other.issue("mallory");
    let plain_port = server.address().port();
    for (tls, servers, reason) in [
        (
            TlsOptions::ca_file(authority.file()),
            &servers,
            "client certificate",
        ),
        (
            TlsOptions::ca_file(authority.file()).client_certificate(&stranger, &stranger),
            &servers,
            "client certificate",
        ),
        (
            TlsOptions::ca_file(other.file()),
            &servers,
            "add the authority",
        ),
        (
            TlsOptions::ca_file(authority.file()),
            &format!("localhost:{plain_port}"),
            "does not answer with TLS",
        ),
    ] {
        let connecting = builder().connect_timeout(Duration::from_secs(3)).tls(tls);
        let error = within("the refusal", connecting.connect(servers))
            .await
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(reason) && message.contains(servers.as_str()),
            "{message}"
        );
    }
}

fn sasl_settings(directory: &Path) -> Settings {
    let jaas = directory.join("jaas.conf");
    let module = "org.apache.zookeeper.server.auth.DigestLoginModule";
    let users = r#"user_alice="secret" user_bob="a\"b,c=d""#;
    fs::write(&jaas, format!("Server {{ {module} required {users}; }};")).unwrap();
    Settings::default()
        .with(
            "authProvider.1",
            "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        )
        .with("fips-mode", false)
        .with("java.security.auth.login.config", jaas.display())
}

#[tokio::test]
async fn apache_and_we_prove_to_each_other_that_we_know_the_password() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(Apache::from_env(), sasl_settings(directory.path()));
    let relay = Relay::to(server.address());
    let servers = relay.address().to_string();
    let alice = builder()
        .sasl_digest_md5("alice", "secret")
        .connect(&servers);
    let alice = within("alice", alice).await.unwrap();
    let acl = [Acl::new(Perms::ALL, "sasl", "alice")];
    let only_alice = CreateOptions::new(CreateMode::Persistent).acl(&acl);
    within("a create", alice.create("/alice", "mine", only_alice))
        .await
        .unwrap();
    within("a read", alice.get_data("/alice")).await.unwrap();

    let bob = builder()
        .sasl_digest_md5("bob", "a\"b,c=d")
        .connect(&servers);
    let bob = within("bob", bob).await.unwrap();
    let refused = within("a read", bob.get_data("/alice")).await.unwrap_err();
    assert!(matches!(refused, Error::NoAuth { .. }), "{refused}");

    for (user, password) in [("alice", "wrong"), ("carol", "no password")] {
        let client = builder()
            .sasl_digest_md5(user, password)
            .connect_lazy(&servers)
            .unwrap();
        let refused = within("the refusal", client.exists("/")).await.unwrap_err();
        assert!(matches!(refused, Error::SaslFailed { .. }), "{refused}");
        assert_eq!(refused.code(), Some(ErrorCode::AUTH_FAILED));
        assert_eq!(client.state(), State::AuthFailed);
    }

    relay.close();
    server.kill();
    server.restart();
    relay.open(server.address());
    let read = within("a read", alice.retry(|| alice.get_data("/alice")))
        .await
        .unwrap();
    assert_eq!(&read.0[..], b"mine");
}
