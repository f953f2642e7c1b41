//! The doors of the broker as clients meet them: TLS, logins, access rules, limits.
//!
//! A broker in this process on free ports; librdkafka and frames written by hand talk to it. Touches temporary folders
//! and the loopback network.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that fails says where

/// Access rules: who may do what, and that they survive a kill.
mod access;
/// Hostile and slow clients.
mod limits;
/// Doors under attack, from a process beside the broker.
mod hostile;
/// SASL and TLS.
mod login;
/// Kafka's own tools and kcat.
mod tools;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use millrace_broker::{
    AuthorizationConfig, Broker, BrokerConfig, BrokerError, ListenerConfig, Mechanism, SaslConfig, UserConfig,
};
use millrace_log::clock::SystemClock;
use millrace_log::fs::RealFs;
use millrace_log::value::Secret;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(20);

/// A broker on free ports, stopped by `stop`.
struct Running {
    registry: Registry,
    doors: Vec<(&'static str, SocketAddr)>,
    token: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start(dir: &Path, config: BrokerConfig) -> Self {
        let mut registry = Registry::default();
        let broker = Broker::open(config, dir, RealFs::shared(), SystemClock::shared(), &mut registry).await.unwrap();
        broker.bind().await.unwrap();
        let doors = broker.addresses();
        let token = CancellationToken::new();
        let stop = token.clone();
        let task = tokio::spawn(async move { broker.run(stop).await });
        Self { registry, doors, token, task }
    }

    fn door(&self, name: &str) -> SocketAddr {
        self.doors.iter().find(|(door, _)| *door == name).unwrap().1
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Waits until a line of the metrics is there.
    async fn tells(&self, line: &str) {
        let told = async {
            while !self.metrics().lines().any(|told| told == line) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(WAIT, told).await.is_ok(), "{line} is not in\n{}", self.metrics());
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn door(name: &str) -> ListenerConfig {
    ListenerConfig { name: name.to_owned(), listen: "127.0.0.1:0".to_owned(), ..ListenerConfig::default() }
}

fn sasl(mechanisms: &[Mechanism]) -> Option<SaslConfig> {
    Some(SaslConfig { mechanisms: mechanisms.to_vec(), ..SaslConfig::default() })
}

fn user(name: &str, password: &str) -> UserConfig {
    UserConfig { name: name.to_owned(), password: Secret::new(password) }
}

/// A broker with one door for PLAIN, where `admin` may do all and others what the rules say.
fn guarded() -> BrokerConfig {
    BrokerConfig {
        listeners: vec![ListenerConfig { sasl: sasl(&[Mechanism::Plain, Mechanism::Scram256]), ..door("sasl") }],
        users: vec![user("admin", "admin-secret"), user("alice", "wonder"), user("bob", "builder")],
        authorization: AuthorizationConfig {
            enabled: true,
            super_users: vec!["User:admin".to_owned()],
            allow_everyone_if_no_acl: false,
        },
        ..BrokerConfig::default()
    }
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// Frames by hand.
struct Raw(TcpStream);

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Connects and logs in.
    async fn log_in(address: SocketAddr, name: &str, password: &str) -> Self {
        let mut raw = Self::connect(address).await;
        let code = raw.plain(name, password).await.error_code;
        assert_eq!(code, 0, "{name}");
        raw
    }

    async fn plain(&mut self, name: &str, password: &str) -> kafka_protocol::messages::SaslAuthenticateResponse {
        use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
        let handshake = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
        assert_eq!(self.call(1, &handshake).await.unwrap().error_code, 0);
        let token = Bytes::from(format!("\0{name}\0{password}"));
        self.call(2, &SaslAuthenticateRequest::default().with_auth_bytes(token)).await.unwrap()
    }

    async fn send<T: Request>(&mut self, version: i16, request: &T) -> std::io::Result<()> {
        let header = RequestHeader::default()
            .with_request_api_key(T::KEY)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(text("test")));
        let mut body = BytesMut::new();
        header.encode(&mut body, T::header_version(version)).unwrap();
        request.encode(&mut body, version).unwrap();
        self.frame(&body).await
    }

    async fn frame(&mut self, body: &[u8]) -> std::io::Result<()> {
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        self.0.write_all(&frame).await
    }

    /// The next frame; `None` if the broker hung up.
    async fn receive(&mut self) -> Option<Bytes> {
        let mut length = [0; 4];
        tokio::time::timeout(WAIT, self.0.read_exact(&mut length)).await.expect("an answer or an end").ok()?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        tokio::time::timeout(WAIT, self.0.read_exact(&mut body)).await.expect("a whole answer").ok()?;
        Some(body.into())
    }

    /// A request and its answer; `None` if the broker hung up.
    async fn call<T: Request>(&mut self, version: i16, request: &T) -> Option<T::Response> {
        self.send(version, request).await.ok()?;
        let mut body = self.receive().await?;
        let header = ResponseHeader::decode(&mut body, T::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, 7);
        let answer = T::Response::decode(&mut body, version).unwrap();
        assert!(body.is_empty());
        Some(answer)
    }

    /// Whether the broker hangs up without another word.
    async fn is_ended(&mut self) -> bool {
        self.receive().await.is_none()
    }
}
