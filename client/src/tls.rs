//! TLS: whom the client trusts, and who it says that it is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use crate::connect_string::Server;
use crate::error::Error;

/// TLS by files in PEM: the authorities that sign the servers' certificates and, where servers want
/// to know their clients, a certificate with its key.
///
/// The files are read anew for every connection, so that a certificate can be replaced while the
/// client runs. The certificate of a server must be for the host as the connect string names it.
///
/// ```no_run
/// # async fn demo() -> Result<(), quorate_client::Error> {
/// use quorate_client::{Client, TlsOptions};
///
/// let tls = TlsOptions::ca_file("/etc/quorate/ca.pem")
///     .client_certificate("/etc/quorate/client.pem", "/etc/quorate/client.key");
/// let client = Client::builder().tls(tls).connect("zk1:2281,zk2:2281,zk3:2281").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TlsOptions {
    authorities: Vec<PathBuf>,
    /// Files of the chain and of its key.
    certificate: Option<(PathBuf, PathBuf)>,
    verify_host_name: bool,
}

impl TlsOptions {
    /// Trusts the authorities whose certificates are in this file, and no others. The system's own
    /// are in a file too, in Debian `/etc/ssl/certs/ca-certificates.crt`.
    pub fn ca_file(path: impl Into<PathBuf>) -> Self {
        TlsOptions {
            authorities: vec![path.into()],
            certificate: None,
            verify_host_name: true,
        }
    }

    /// Trusts the authorities in this file as well.
    pub fn and_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities.push(path.into());
        self
    }

    /// The certificate to show to servers that want one, followed in its file by those between it
    /// and an authority, and the file of its key, which must not be encrypted.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Does a server's certificate have to be for the host that the connect string names? Yes unless
    /// set. If not, whoever holds any certificate of the trusted authorities can pass for a server;
    /// Apache ZooKeeper calls it `hostnameVerification=false`.
    pub fn verify_host_name(mut self, verify: bool) -> Self {
        self.verify_host_name = verify;
        self
    }

    /// The configuration that the files make now, for other uses of the same keys.
    ///
    /// # Errors
    ///
    /// [`Error::TlsFile`].
    pub fn config(&self) -> Result<ClientConfig, Error> {
        let roots = Arc::new(self.load_authorities()?);
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&self.authorities[0], &error))?;
        let builder = if self.verify_host_name {
            builder.with_root_certificates(roots)
        } else {
            let verifier = AnyHost { roots, provider };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        };
        let Some((certificate, key)) = &self.certificate else {
            return Ok(builder.with_no_client_auth());
        };
        builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| {
                let certificate = certificate.display();
                unusable(key, &format!("it is not the key of {certificate}: {error}"))
            })
    }

    fn load_authorities(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for file in &self.authorities {
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|error| unusable(file, &error))?;
            }
        }
        Ok(roots)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(file, "certificate", error))?;
    if found.is_empty() {
        return Err(unreadable(file, "certificate", pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(file)
        .map_err(|error| unreadable(file, "private key that is not encrypted", error))
}

fn unreadable(file: &Path, what: &str, error: pem::Error) -> Error {
    match error {
        pem::Error::Io(error) => unusable(file, &error),
        pem::Error::NoItemsFound => unusable(file, &format!("it holds no {what} in PEM")),
        error => unusable(file, &format!("it is damaged: {error}")),
    }
}

fn unusable(file: &Path, reason: &dyn fmt::Display) -> Error {
    Error::TlsFile {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

/// TLS as the client was told to use it.
#[derive(Debug, Clone)]
pub(crate) enum Tls {
    Files(TlsOptions),
    Config(Arc<ClientConfig>),
}

impl Tls {
    /// Are the files there, and what they should be?
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Tls::Files(options) => options.config().map(drop),
            Tls::Config(_) => Ok(()),
        }
    }

    async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        match self {
            Tls::Files(options) => {
                let options = options.clone();
                let loaded = spawn_blocking(move || options.config()).await?;
                loaded.map(Arc::new).map_err(io::Error::other)
            }
            Tls::Config(config) => Ok(Arc::clone(config)),
        }
    }

    /// Shakes hands with a server.
    pub(crate) async fn secure(
        &self,
        server: &Server,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(server.host.clone()).map_err(|error| {
            let error = format!("{server} has no name for a certificate: {error}");
            io::Error::new(io::ErrorKind::InvalidInput, error)
        })?;
        let connector = TlsConnector::from(self.config().await?);
        connector.connect(name, stream).await.map_err(|error| {
            use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            match error.kind() {
                // Servers without TLS take the first bytes for a request of impossible length.
                UnexpectedEof | ConnectionReset | BrokenPipe => no_tls(server, &error),
                _ => explain(server, error),
            }
        })
    }
}

fn no_tls(server: &Server, error: &dyn fmt::Display) -> io::Error {
    io::Error::other(format!(
        "{server} does not answer with TLS; name the port that it has for TLS \
         (secureClientPort): {error}"
    ))
}

/// Says which server refused or was refused in TLS, and what to do about it.
pub(crate) fn explain(server: &Server, error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let advice = match cause {
        None => return error,
        Some(rustls::Error::InvalidMessage(_)) => return no_tls(server, &error),
        Some(rustls::Error::InvalidCertificate(certificate)) => advice_on(certificate),
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => {
                "it wants a valid client certificate of an authority that it trusts"
            }
            _ => "look into its log",
        },
        Some(_) => "its settings of TLS and those of the client do not go together",
    };
    io::Error::new(
        error.kind(),
        format!("TLS with {server}: {error}; {advice}"),
    )
}

fn advice_on(error: &CertificateError) -> &'static str {
    match error {
        // An authority that was made anew under its old name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "add the authority that signed the server's certificate to the CA file"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the server's certificate, unless the clock of this host is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the clock of this host may be wrong"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "name the server as its certificate does, or do without `verify_host_name`"
        }
        _ => "the server needs another certificate",
    }
}

/// Trusts servers of any name whose certificates the authorities have signed.
#[derive(Debug)]
struct AnyHost {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
