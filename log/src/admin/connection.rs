//! One connection to one broker: plain or TLS, logged in, versions agreed; one question at a time.
//!
//! In: requests of `kafka-protocol`. Out: their answers. Touches the network, and files with certificates.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{AdminError, PATIENCE, sasl};
use crate::client::ConnectionConfig;

/// Larger answers than any broker gives are taken for the noise of another protocol.
const MAX_ANSWER: usize = 256 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct Connection {
    stream: Box<dyn Stream>,
    address: String,
    /// Versions that the broker serves.
    versions: HashMap<i16, (i16, i16)>,
    correlation: i32,
    sound: bool,
    tls: bool,
}

impl Connection {
    pub async fn open(config: &ConnectionConfig, address: &str) -> Result<Self, AdminError> {
        let unreachable = |source: io::Error| AdminError::Unreachable { address: address.to_owned(), source };
        let connecting = async {
            let stream = TcpStream::connect(address).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            let stream: Box<dyn Stream> = if config.tls {
                let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(config)?));
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host)
                    .map_err(|error| AdminError::Tls { reason: format!("`{address}`: {error}") })?;
                let secured = connector.connect(name, stream).await;
                Box::new(secured.map_err(|error| AdminError::Tls { reason: format!("with {address}: {error}") })?)
            } else {
                Box::new(stream)
            };
            let mut connection = Self {
                stream,
                address: address.to_owned(),
                versions: HashMap::new(),
                correlation: 0,
                sound: true,
                tls: config.tls,
            };
            connection.learn_versions().await?;
            if !config.sasl_mechanism.is_empty() {
                sasl::log_in(&mut connection, config).await?;
            }
            Ok(connection)
        };
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(opened) => opened,
            Err(_) => Err(AdminError::Silent { address: address.to_owned(), hint: " in time" }),
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn is_sound(&self) -> bool {
        self.sound
    }

    async fn learn_versions(&mut self) -> Result<(), AdminError> {
        let answer: ApiVersionsResponse = self.exchange(&ApiVersionsRequest::default(), 0).await?;
        self.versions = answer.api_keys.iter().map(|k| (k.api_key, (k.min_version, k.max_version))).collect();
        Ok(())
    }

    /// The highest version of a request that both sides know, `most` at most.
    fn version<R: Request>(&self, most: i16) -> Option<i16> {
        let (low, high) = *self.versions.get(&R::KEY)?;
        let version = high.min(R::VERSIONS.max).min(most);
        (version >= low.max(R::VERSIONS.min)).then_some(version)
    }

    /// Asks and waits.
    pub async fn ask<R: Request + Clone + Sync>(&mut self, request: &R, most: i16) -> Result<R::Response, AdminError> {
        self.ask_as(&|_| request.clone(), most).await
    }

    /// The same with a question whose fields depend on the version.
    pub async fn ask_as<R: Request>(
        &mut self,
        request: &(dyn Fn(i16) -> R + Sync),
        most: i16,
    ) -> Result<R::Response, AdminError> {
        let version = self
            .version::<R>(most)
            .ok_or_else(|| AdminError::Unsupported { address: self.address.clone(), api: name_of(R::KEY) })?;
        // Until the answer is whole, an abandoned call leaves a connection of which nobody knows what comes next.
        self.sound = false;
        let answer = match tokio::time::timeout(PATIENCE, self.exchange(&request(version), version)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(AdminError::Silent { address: self.address.clone(), hint: " in time" }),
        };
        self.sound = true;
        Ok(answer)
    }

    async fn exchange<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, AdminError> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("millrace")));
        let garbage = |address: &str, reason: String| AdminError::Garbage {
            address: address.to_owned(),
            api: name_of(R::KEY),
            reason,
        };
        let mut body = BytesMut::new();
        header
            .encode(&mut body, R::header_version(version))
            .and_then(|()| request.encode(&mut body, version))
            .map_err(|error| garbage(&self.address, format!("the question can't be written: {error}")))?;
        let mut frame = BytesMut::with_capacity(4 + body.len());
        frame.put_i32(i32::try_from(body.len()).unwrap_or(i32::MAX));
        frame.put(body);
        let hint = if self.tls { "" } else { ": does the listener ask for TLS (--tls) or a login (--sasl-username)?" };
        let silent = |address: &str| AdminError::Silent { address: address.to_owned(), hint };
        self.stream.write_all(&frame).await.map_err(|_| silent(&self.address))?;
        self.stream.flush().await.map_err(|_| silent(&self.address))?;
        let length = self.stream.read_i32().await.map_err(|_| silent(&self.address))?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| (4..=MAX_ANSWER).contains(length))
            .ok_or_else(|| garbage(&self.address, format!("announced {length} bytes")))?;
        let mut answer = BytesMut::new();
        while answer.len() < length {
            let missing = length - answer.len();
            let mut part = (&mut self.stream).take(u64::try_from(missing).unwrap_or(u64::MAX));
            if part.read_buf(&mut answer).await.map_err(|_| silent(&self.address))? == 0 {
                return Err(silent(&self.address));
            }
        }
        let mut answer: Bytes = answer.freeze();
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        let header = ResponseHeader::decode(&mut answer, header_version)
            .map_err(|error| garbage(&self.address, error.to_string()))?;
        if header.correlation_id != self.correlation {
            let reason = format!("answer {} came to question {}", header.correlation_id, self.correlation);
            return Err(garbage(&self.address, reason));
        }
        let decoded = <R::Response as Decodable>::decode(&mut answer, version)
            .map_err(|error| garbage(&self.address, error.to_string()))?;
        if answer.has_remaining() {
            tracing::debug!(api = name_of(R::KEY), rest = answer.remaining(), "answer is longer than known");
        }
        Ok(decoded)
    }
}

fn name_of(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| format!("api key {key}"), |key| format!("{key:?}"))
}

/// Trusts the named authorities, or the system's; librdkafka's names for a client's own certificate are known too.
fn tls(config: &ConnectionConfig) -> Result<rustls::ClientConfig, AdminError> {
    let fault = |reason: String| AdminError::Tls { reason };
    let mut roots = rustls::RootCertStore::empty();
    if config.ca_file.is_empty() {
        for certificate in rustls_native_certs::load_native_certs().certs {
            if let Err(error) = roots.add(certificate) {
                tracing::debug!(%error, "certificate of the system is not taken");
            }
        }
        if roots.is_empty() {
            return Err(fault("the system trusts no authority: name one with --ca-file".to_owned()));
        }
    } else {
        for certificate in certificates(&config.ca_file)? {
            roots.add(certificate).map_err(|error| fault(format!("{}: {error}", config.ca_file)))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(error.to_string()))?
        .with_root_certificates(roots);
    let (certificate, key) = (config.options.get("ssl.certificate.location"), config.options.get("ssl.key.location"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let own = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(format!("{key}: {error}")))?;
            builder.with_client_auth_cert(own, private).map_err(|error| fault(format!("{certificate}: {error}")))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(fault("`ssl.certificate.location` and `ssl.key.location` go together".to_owned())),
    }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, AdminError> {
    let fault = |reason: String| AdminError::Tls { reason: format!("{path}: {reason}") };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|error| fault(error.to_string()))?;
    if all.is_empty() { Err(fault("holds no certificate".to_owned())) } else { Ok(all) }
}
