//! TLS to brokers.
//!
//! In: the file of authorities, or none for those of the system. Out: encrypted streams. Touches that file, once.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::WireError;

/// Who is believed.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the authorities; `ca_file` empty: those of the system. The error says what is wrong with the file.
    pub fn new(ca_file: &str) -> Result<Self, String> {
        // Named here, so that a library under test needs no choice made in main.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let mut roots = RootCertStore::empty();
        if ca_file.is_empty() {
            // One that can't be read is no reason to believe none of the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("the system trusts no authority: name a file with certificates".to_owned());
            }
        } else {
            let said = |e: &dyn std::fmt::Display| format!("{ca_file}: {e}");
            for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|e| said(&e))? {
                roots.add(certificate.map_err(|e| said(&e))?).map_err(|e| said(&e))?;
            }
            if roots.is_empty() {
                return Err(format!("{ca_file}: holds no certificate"));
            }
        }
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub async fn connect(&self, address: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, WireError> {
        let failed = |cause: String| WireError::Tls { address: address.to_owned(), cause };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(e.to_string()))?;
        self.0.connect(name, stream).await.map_err(|e| failed(e.to_string()))
    }
}
