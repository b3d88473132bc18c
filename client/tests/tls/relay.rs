//! Certificates, and a relay that speaks TLS with clients and plainly with a server.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_client::TlsOptions;
use quorate_client::rustls::pki_types::pem::PemObject;
use quorate_client::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quorate_client::rustls::server::WebPkiClientVerifier;
use quorate_client::rustls::{RootCertStore, ServerConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// An authority that signs certificates, with a directory for them.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub(crate) file: PathBuf,
    directory: TempDir,
    issued: AtomicUsize,
}

/// The files of a certificate.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        Authority::named(&format!("authority {number}"))
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            file,
            directory,
            issued: AtomicUsize::new(0),
        }
    }

    /// Trusts this authority alone.
    pub(crate) fn trusted(&self) -> TlsOptions {
        TlsOptions::ca_file(&self.file)
    }

    /// A certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Certificate {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        self.sign(&CertificateParams::new(names).unwrap())
    }

    pub(crate) fn issue_expired(&self, name: &str) -> Certificate {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let file = |kind| self.directory.path().join(format!("{number}.{kind}"));
        let files = Certificate {
            chain: file("pem"),
            key: file("key"),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(&files.chain, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// Passes on what comes through TLS, until it is dropped.
pub(crate) struct Relay {
    /// For the connect string.
    pub(crate) servers: String,
    task: JoinHandle<()>,
}

impl Relay {
    /// Takes clients of any kind or, with an authority, those that it has signed.
    pub(crate) async fn start(
        target: SocketAddr,
        certificate: &Certificate,
        clients: Option<&Authority>,
    ) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config(certificate, clients)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Relay {
            servers: format!("localhost:{port}"),
            task: tokio::spawn(accept(listener, acceptor, target)),
        }
    }

    /// Ends its connections and takes no more.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(certificate: &Certificate, clients: Option<&Authority>) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(&certificate.chain).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let builder = match clients {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_file(&authority.file).unwrap();
            roots.add(certificate).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            ServerConfig::builder().with_client_cert_verifier(verifier.unwrap())
        }
    };
    builder.with_single_cert(chain, key).unwrap()
}

/// Connections end with this task.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, target: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // Clients that are refused are what some tests are about.
            if let Ok(mut client) = acceptor.accept(client).await {
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
