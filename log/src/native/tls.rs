//! TLS to brokers.
//!
//! In: the files of authorities and of the client's own certificate, if any. Out: encrypted streams. Touches those
//! files, once.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::WireError;
use crate::kafka::ClientOptions;

/// A key of the connection that can't be used as it is.
#[derive(Debug, thiserror::Error)]
#[error("`{key}`: {reason}")]
pub(crate) struct SetupError {
    pub key: &'static str,
    pub reason: String,
}

/// Authorities to trust, and this client's own certificate.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the authorities, `ca_file` empty: those of the system; and the client's own certificate, if it has one. The
    /// error says what is wrong with which file.
    pub fn new(options: &ClientOptions) -> Result<Self, SetupError> {
        let ca_file = &options.ca_file;
        let authorities = |reason: String| SetupError { key: "ca_file", reason };
        let certificate = |reason: String| SetupError { key: "cert_file", reason };
        // Named here, so that a library under test needs no choice made in main.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| authorities(e.to_string()))?;
        let mut roots = RootCertStore::empty();
        if ca_file.is_empty() {
            // One that can't be read is no reason to believe none of the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(authorities(
                    "the system has no trusted authorities: name a file with certificates".to_owned(),
                ));
            }
        } else {
            let said = |e: &dyn std::fmt::Display| authorities(format!("{ca_file}: {e}"));
            for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|e| said(&e))? {
                roots.add(certificate.map_err(|e| said(&e))?).map_err(|e| said(&e))?;
            }
            if roots.is_empty() {
                return Err(authorities(format!("{ca_file}: no certificate in it")));
            }
        }
        let builder = builder.with_root_certificates(roots);
        let own = Some(options.cert_file.as_str()).filter(|file| !file.is_empty());
        let key = Some(options.key_file.as_str()).filter(|file| !file.is_empty());
        let config = match (own, key) {
            (Some(own), Some(key)) => {
                let said = |e: &dyn std::fmt::Display| certificate(format!("{own}, {key}: {e}"));
                let chain = CertificateDer::pem_file_iter(own).map_err(|e| said(&e))?;
                let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| said(&e))?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|e| said(&e))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| said(&e))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => {
                let why = "a certificate and its key go together: set `cert_file` and `key_file`";
                return Err(certificate(why.to_owned()));
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub async fn connect(&self, address: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, WireError> {
        let failed = |cause: String| WireError::Tls { address: address.to_owned(), cause };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(e.to_string()))?;
        self.0.connect(name, stream).await.map_err(|e| failed(e.to_string()))
    }
}
