//! TLS of a listener: certificates from PEM files, read again when they change, and the subject of a client's certificate.
//!
//! In: paths of PEM files. Out: TLS streams; the subject of a client's certificate as RFC 4514 writes it, which is what
//! Kafka makes principals of. Touches the files. New files that can't be used leave the old certificates in force.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::{ClientAuth, TlsConfig};

/// Why certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read as PEM.
    #[error("{path} can't be read: {reason}")]
    File {
        /// The path as configured.
        path: String,
        /// Why.
        reason: String,
    },
    /// What is in the files does not work together.
    #[error("{cert_file} and {key_file} can't be used together: {source}")]
    Pair {
        /// The certificate.
        cert_file: String,
        /// The key.
        key_file: String,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// No authority for clients.
    #[error("{path} holds no certificate authority for clients: {reason}")]
    Authorities {
        /// The path as configured.
        path: String,
        /// Why.
        reason: String,
    },
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| fault(e.to_string()))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|e| fault(e.to_string()))?;
    if found.is_empty() {
        return Err(fault("no certificate in it (expected PEM, `-----BEGIN CERTIFICATE-----`)".to_owned()));
    }
    Ok(found)
}

/// What a listener knows of its clients.
#[derive(Debug)]
struct Clients {
    /// Protocols that they may speak (ALPN), the preferred one first.
    protocols: Vec<Vec<u8>>,
    /// Whether they read. One that only writes and closes with a session ticket unread resets the connection, and what it
    /// wrote last may be gone with it: it is sent none.
    read: bool,
}

/// Reads the files. Blocks.
fn load(config: &TlsConfig, clients: &Clients) -> Result<Arc<ServerConfig>, TlsError> {
    // Named and not taken from the process: a library test has no main that installs one.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&config.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file).map_err(|e| {
        let reason = format!("{e} (expected an unencrypted private key, PEM)");
        TlsError::File { path: config.key_file.clone(), reason }
    })?;
    let pair = |source: rustls::Error| TlsError::Pair {
        cert_file: config.cert_file.clone(),
        key_file: config.key_file.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    let verifier = verifier(config, provider)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(pair)?;
    server.alpn_protocols.clone_from(&clients.protocols);
    if !clients.read {
        server.send_tls13_tickets = 0;
    }
    Ok(Arc::new(server))
}

fn verifier(
    config: &TlsConfig,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    if config.client_auth == ClientAuth::None {
        return Ok(None);
    }
    let path = &config.client_ca_file;
    let mut roots = RootCertStore::empty();
    let fault = |reason: String| TlsError::Authorities { path: path.clone(), reason };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| fault(e.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match config.client_auth {
        ClientAuth::Required => builder,
        ClientAuth::None | ClientAuth::Requested => builder.allow_unauthenticated(),
    };
    builder.build().map(Some).map_err(|e| fault(e.to_string()))
}

/// Time and size of each file: whether they have changed.
type Stamp = Vec<Option<(SystemTime, u64)>>;

fn stamp(config: &TlsConfig) -> Stamp {
    let one = |path: &str| {
        let meta = std::fs::metadata(Path::new(path)).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    [&config.cert_file, &config.key_file, &config.client_ca_file].into_iter().map(|path| one(path)).collect()
}

/// TLS as it is in force.
pub struct Tls {
    config: TlsConfig,
    clients: Clients,
    current: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Stamp>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.config.cert_file)
    }
}

impl Tls {
    /// Reads the files. Blocks.
    pub fn open(config: TlsConfig) -> Result<Self, TlsError> {
        Self::open_for(config, &[])
    }

    /// The same for a listener that speaks these protocols (ALPN), the preferred one first. Blocks.
    pub fn open_for(config: TlsConfig, protocols: &[&str]) -> Result<Self, TlsError> {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::open_with(config, Clients { protocols, read: true })
    }

    /// The same for a listener whose clients only write, as in syslog. Blocks.
    pub fn open_one_way(config: TlsConfig) -> Result<Self, TlsError> {
        Self::open_with(config, Clients { protocols: Vec::new(), read: false })
    }

    fn open_with(config: TlsConfig, clients: Clients) -> Result<Self, TlsError> {
        let seen = stamp(&config);
        let current = load(&config, &clients)?;
        Ok(Self { config, clients, current: RwLock::new(current), seen: Mutex::new(seen) })
    }

    /// Reads the files again if they have changed; true if new certificates are in force. A pair that does not fit,
    /// or not yet as both are being replaced, is tried again when the files change again. Blocks.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let now = stamp(&self.config);
        if *self.seen.lock() == now {
            return Ok(false);
        }
        let loaded = load(&self.config, &self.clients);
        *self.seen.lock() = now;
        *self.current.write() = loaded?;
        Ok(true)
    }

    /// The handshake of a new connection.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.current.read());
        TlsAcceptor::from(config).accept(stream).await
    }
}

/// The principal that a client's certificate names, e.g. `User:CN=agent-7,O=Example`.
pub fn principal(stream: &TlsStream<TcpStream>) -> Option<String> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    subject(certificate).map(|subject| format!("User:{subject}"))
}

/// Alternative names of a client's certificate: DNS names, e-mail addresses, URIs.
pub fn alternative_names(stream: &TlsStream<TcpStream>) -> Vec<String> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().and_then(<[_]>::first).map(|own| names(own)).unwrap_or_default()
}

/// A certificate's alternative names.
fn names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = x509_cert::Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate.get::<SubjectAltName>() else {
        return Vec::new();
    };
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
            Some(name.to_string())
        }
        _ => None,
    };
    names.iter().filter_map(text).collect()
}

/// A certificate's subject.
fn subject(certificate: &[u8]) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let subject = certificate.tbs_certificate.subject.to_string();
    (!subject.is_empty()).then_some(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> String {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn pair(names: &str) -> (String, String) {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([names.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn files_are_read_again_when_they_change_and_bad_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair("one");
        let config = TlsConfig {
            cert_file: write(dir.path(), "cert.pem", &cert),
            key_file: write(dir.path(), "key.pem", &key),
            ..TlsConfig::default()
        };
        let tls = Tls::open(config).unwrap();
        assert!(!tls.refresh().unwrap());
        let before = Arc::clone(&tls.current.read());
        write(dir.path(), "cert.pem", "no certificate");
        let error = tls.refresh().unwrap_err().to_string();
        assert!(error.contains("cert.pem"), "{error}");
        assert!(Arc::ptr_eq(&before, &tls.current.read()));
        assert!(!tls.refresh().unwrap(), "a bad file is reported once");
        let (other, other_key) = pair("a-longer-name");
        write(dir.path(), "cert.pem", &other);
        let error = tls.refresh().unwrap_err().to_string();
        assert!(error.contains("can't be used together"), "{error}");
        write(dir.path(), "key.pem", &format!("{other_key}\n"));
        assert!(tls.refresh().unwrap());
        assert!(!Arc::ptr_eq(&before, &tls.current.read()));
    }

    #[test]
    fn subjects_as_kafka_writes_them() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in [
            (rcgen::DnType::CountryName, "DE"),
            (rcgen::DnType::OrganizationName, "Example, Inc."),
            (rcgen::DnType::OrganizationalUnitName, "Ops"),
            (rcgen::DnType::CommonName, "agent-7"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(subject(certificate.der()).unwrap(), r"CN=agent-7,OU=Ops,O=Example\, Inc.,C=DE");
        assert_eq!(subject(b"no certificate"), None);
    }

    #[test]
    fn alternative_names_are_read() {
        let params = rcgen::CertificateParams::new(["agent-7.example.org".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(names(certificate.der()), ["agent-7.example.org"]);
        assert!(names(b"no certificate").is_empty());
    }
}
