//! TLS settings for ureq from the config: roots, client certificate, checked beforehand.
//!
//! ureq panics on a certificate that does not fit its key, so the pair is tried with rustls
//! first. The system's roots are read from its PEM bundle here: ureq offers them only through
//! another crate (rustls-platform-verifier), and its default is a list of its own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::checked::Tls;

/// Where systems keep their roots: Debian and Arch, Fedora and RHEL, SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is wrong with the TLS settings.
#[derive(Debug)]
pub enum TlsError {
    Read { path: PathBuf, cause: String },
    NoCertificate { path: PathBuf },
    NoKey { path: PathBuf },
    NoSystemRoots,
    Pair { cert: PathBuf, key: PathBuf, cause: String },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, cause } => write!(f, "tls file {}: {cause}", path.display()),
            Self::NoCertificate { path } => {
                write!(f, "tls file {}: holds no PEM certificate", path.display())
            }
            Self::NoKey { path } => write!(f, "tls file {}: holds no PEM key", path.display()),
            Self::NoSystemRoots => write!(
                f,
                "no bundle of root certificates found on this system (install ca-certificates \
                 or set tls.ca_file)"
            ),
            Self::Pair { cert, key, cause } => write!(
                f,
                "client certificate {} with key {}: {cause}",
                cert.display(),
                key.display()
            ),
        }
    }
}

impl std::error::Error for TlsError {}

/// The settings of one sink, for an https URL. Its senders share the result.
///
/// # Errors
/// A file that cannot be read or holds nothing of use; a certificate that does not fit its key.
pub fn tls_config(tls: &Tls) -> Result<TlsConfig, TlsError> {
    let roots = match &tls.ca_file {
        Some(path) => certificates(path)?,
        None => system_roots()?,
    };
    let client = tls.client.as_ref().map(|(cert, key)| client_cert(cert, key)).transpose()?;
    let builder = TlsConfig::builder();
    Ok(builder.root_certs(RootCerts::Specific(Arc::new(roots))).client_cert(client).build())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|e| TlsError::Read { path: path.to_owned(), cause: e.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, TlsError> {
    let pem = read(path)?;
    // An item that cannot be parsed is left out: system bundles hold odd ones.
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

/// `SSL_CERT_FILE` if set, as everywhere; else the first bundle that is there.
fn system_roots() -> Result<Vec<Certificate<'static>>, TlsError> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        return certificates(Path::new(&path));
    }
    let bundle = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists());
    certificates(bundle.ok_or(TlsError::NoSystemRoots)?)
}

fn client_cert(cert: &Path, key: &Path) -> Result<ClientCert, TlsError> {
    let chain = certificates(cert)?;
    let private =
        PrivateKey::from_pem(&read(key)?).map_err(|_| TlsError::NoKey { path: key.to_owned() })?;
    let bad = |cause: String| TlsError::Pair { cert: cert.into(), key: key.into(), cause };
    let ders = chain.iter().map(|c| CertificateDer::from(c.der().to_vec())).collect();
    let der = PrivateKeyDer::try_from(private.der().to_vec()).map_err(|e| bad(e.to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(|e| bad(e.to_string()))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(ders, der)
        .map_err(|e| bad(e.to_string()))?;
    Ok(ClientCert::new_with_certs(&chain, private))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Test servers are scoped threads.
mod tests;
