//! Options for TLS and SASL.

use std::env;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use quorate_client::{ClientBuilder, TlsOptions};

/// Holds the password for `--sasl-user`: what is on the command line, every user of the host sees.
const PASSWORD: &str = "QUORATE_SASL_PASSWORD";

/// How connections are secured.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SecureArgs {
    /// Connects with TLS, and trusts servers with certificates of the authorities in this file
    #[arg(long, global = true, value_name = "PEM")]
    tls_ca: Vec<PathBuf>,
    /// Shows this certificate to servers that want one
    #[arg(long, global = true, value_name = "PEM", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, which must not be encrypted
    #[arg(long, global = true, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Takes certificates of the authorities whatever host they are for
    #[arg(long, global = true, requires = "tls_ca")]
    tls_any_host: bool,
    /// Authenticates by SASL with DIGEST-MD5. The password is in the environment variable
    /// QUORATE_SASL_PASSWORD, or in a file
    #[arg(long, value_name = "USER")]
    sasl_user: Option<String>,
    /// The file with the password for --sasl-user, in its first line
    #[arg(long, value_name = "FILE", requires = "sasl_user")]
    sasl_password_file: Option<PathBuf>,
}

impl SecureArgs {
    /// TLS, if it was asked for.
    pub(crate) fn tls(&self) -> Option<TlsOptions> {
        let (first, others) = self.tls_ca.split_first()?;
        let mut tls = TlsOptions::ca_file(first).verify_host_name(!self.tls_any_host);
        for file in others {
            tls = tls.and_ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.client_certificate(certificate, key);
        }
        Some(tls)
    }

    /// TLS for the benchmark, which cannot authenticate.
    pub(crate) fn tls_only(&self) -> Result<Option<TlsOptions>, &'static str> {
        match self.sasl_user {
            Some(_) => Err("bench does not authenticate; do without --sasl-user"),
            None => Ok(self.tls()),
        }
    }

    /// Adds what was asked for.
    pub(crate) fn apply(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, String> {
        if let Some(tls) = self.tls() {
            builder = builder.tls(tls);
        }
        if let Some(user) = &self.sasl_user {
            builder = builder.sasl_digest_md5(user, self.password()?);
        }
        Ok(builder)
    }

    fn password(&self) -> Result<String, String> {
        let Some(file) = &self.sasl_password_file else {
            return env::var(PASSWORD).map_err(|error| {
                format!("{PASSWORD}: {error}; set it, or give --sasl-password-file")
            });
        };
        let text = fs::read_to_string(file)
            .map_err(|error| format!("cannot read the password in {}: {error}", file.display()))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}
