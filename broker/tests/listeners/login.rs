//! SASL and TLS: who gets in, who does not, and as whom.

use std::path::PathBuf;

use kafka_protocol::messages::*;
use millrace_broker::{ClientAuth, LimitsConfig, TlsConfig};
use millrace_log::client::{
    BatchProducer as _, ConnectionConfig, DELIVERY_TIMEOUT, StartAt, WireConsumer, WireProducer,
};
use millrace_log::record::{Record, TopicPartition};
use millrace_log::value::Span;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use super::*;

/// An authority with a certificate for 127.0.0.1, in files.
pub(super) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

fn subject(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub fn new(dir: &Path) -> Self {
        let mut params = subject("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
        let authority = Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) };
        authority.issue("server");
        authority
    }

    fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = subject(name).signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub fn tls(&self, client_auth: ClientAuth) -> Option<TlsConfig> {
        let client_ca_file = if client_auth == ClientAuth::None { String::new() } else { self.file("ca.pem") };
        let (cert_file, key_file) = (self.file("server.pem"), self.file("server.key"));
        Some(TlsConfig { cert_file, key_file, client_ca_file, client_auth })
    }

    fn client(&self, address: SocketAddr) -> ConnectionConfig {
        ConnectionConfig {
            brokers: vec![address.to_string()],
            tls: true,
            ca_file: self.file("ca.pem"),
            ..ConnectionConfig::default()
        }
    }
}

fn record(value: &str) -> Record {
    Record {
        timestamp_ms: SystemClock::shared().now_ms(),
        key: None,
        value: Some(value.to_owned().into()),
        headers: Default::default(),
    }
}

/// Whether a client reaches the broker and is let in.
async fn is_let_in(client: &ConnectionConfig, seconds: u64) -> bool {
    let asked = tokio::time::timeout(Duration::from_secs(seconds), millrace_log::admin::Admin::connect(client));
    asked.await.is_ok_and(|answer| answer.is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mechanism_over_tls_carries_records() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let mechanisms = [Mechanism::Plain, Mechanism::Scram256, Mechanism::Scram512];
    let mut config = guarded();
    config.authorization.enabled = false;
    config.listeners = vec![
        ListenerConfig { tls: authority.tls(ClientAuth::None), sasl: sasl(&mechanisms), ..door("outside") },
        door("inside"),
    ];
    let broker = Running::start(dir.path(), config).await;
    for (i, mechanism) in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().enumerate() {
        let client = ConnectionConfig {
            sasl_mechanism: mechanism.to_owned(),
            sasl_username: "alice".to_owned(),
            sasl_password: Secret::new("wonder"),
            ..authority.client(broker.door("outside"))
        };
        let producer = WireProducer::new(&client, Some(DELIVERY_TIMEOUT)).unwrap();
        producer.ensure_topic("lines", 1).await.unwrap();
        let tp = TopicPartition::new("lines", 0);
        let offset = i64::try_from(i).unwrap();
        assert_eq!(producer.send(&tp, vec![record(mechanism)]).await.unwrap(), offset);
        // What came in by one door goes out by the other, which tells its own address.
        let inside =
            ConnectionConfig { brokers: vec![broker.door("inside").to_string()], ..ConnectionConfig::default() };
        for client in [client.clone(), inside] {
            let tp = tp.clone();
            let value = tokio::task::spawn_blocking(move || {
                let consumer = WireConsumer::new(&client, "readers").unwrap();
                consumer.assign(&[(tp, StartAt::Offset(offset))]).unwrap();
                let deadline = std::time::Instant::now() + WAIT;
                while std::time::Instant::now() < deadline {
                    if let Some(got) = consumer.poll_batch(10, Duration::from_millis(100)).unwrap().pop() {
                        return got.record.value;
                    }
                }
                None
            });
            assert_eq!(value.await.unwrap().unwrap(), mechanism.as_bytes());
        }
        let failed = format!("millrace_log_failed_logins_total{{listener=\"outside\",mechanism=\"{mechanism}\"}} ");
        let count = || broker.metrics().lines().find_map(|line| line.strip_prefix(&failed).map(str::to_owned));
        assert_eq!(count().as_deref(), Some("0"), "exposed from the start");
        let wrong = ConnectionConfig { sasl_password: Secret::new("wander"), ..client.clone() };
        assert!(!is_let_in(&wrong, 2).await, "{mechanism} with a wrong password");
        assert!(count().is_some_and(|count| count != "0"), "{}", broker.metrics());
    }
    let stranger = authority.client(broker.door("outside"));
    assert!(!is_let_in(&stranger, 2).await, "without a login");
    let plain_text = ConnectionConfig { tls: false, ..stranger };
    assert!(!is_let_in(&plain_text, 2).await, "without TLS");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_names_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.issue("admin");
    authority.issue("agent");
    let mut config = guarded();
    config.authorization.super_users = vec!["User:CN=admin,O=Example".to_owned()];
    config.listeners = vec![ListenerConfig { tls: authority.tls(ClientAuth::Required), ..door("mutual") }];
    let broker = Running::start(dir.path(), config).await;
    let client = |name: &str| {
        let (cert_file, key_file) = (authority.file(&format!("{name}.pem")), authority.file(&format!("{name}.key")));
        ConnectionConfig { cert_file, key_file, ..authority.client(broker.door("mutual")) }
    };
    let admin = WireProducer::new(&client("admin"), Some(DELIVERY_TIMEOUT)).unwrap();
    assert_eq!(admin.ensure_topic("lines", 1).await.unwrap(), 1);
    assert_eq!(admin.send(&TopicPartition::new("lines", 0), vec![record("x")]).await.unwrap(), 0);
    let agent = WireProducer::new(&client("agent"), Some(DELIVERY_TIMEOUT)).unwrap();
    let refused = agent.ensure_topic("other", 1).await.unwrap_err().to_string();
    assert!(refused.contains("uthorization"), "{refused}");
    assert!(!is_let_in(&authority.client(broker.door("mutual")), 2).await, "without a certificate");
    broker.stop().await;
}

#[tokio::test]
async fn before_the_login_only_what_leads_to_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let address = broker.door("sasl");

    let mut raw = Raw::connect(address).await;
    assert!(!raw.call(3, &versions()).await.unwrap().api_keys.is_empty());
    assert!(raw.call(12, &MetadataRequest::default()).await.is_none());
    let mut raw = Raw::connect(address).await;
    assert!(raw.call(2, &SaslAuthenticateRequest::default()).await.is_none());
    let mut raw = Raw::connect(address).await;
    let handshake = SaslHandshakeRequest::default().with_mechanism(text("GSSAPI"));
    let answer = raw.call(1, &handshake).await.unwrap();
    assert_eq!((answer.error_code, answer.mechanisms.len()), (33, 2));
    assert!(raw.is_ended().await);
    let mut raw = Raw::connect(address).await;
    let plain = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
    raw.call(1, &plain).await.unwrap();
    assert!(raw.call(12, &MetadataRequest::default()).await.is_none(), "after the handshake");
    for (name, password) in [("alice", "wander"), ("nobody", "wonder"), ("alice", "")] {
        let mut raw = Raw::connect(address).await;
        let answer = raw.plain(name, password).await;
        let message = answer.error_message.unwrap().to_string();
        assert_eq!((answer.error_code, &*message), (58, "Authentication failed: Invalid username or password"));
        assert!(raw.is_ended().await);
    }
    let mut raw = Raw::connect(address).await;
    raw.frame(&vec![0; 600 << 10]).await.ok();
    assert!(raw.is_ended().await, "a large frame of a stranger");

    // After the login both are out of place, and the connection goes on.
    let mut raw = Raw::log_in(address, "alice", "wonder").await;
    assert_eq!(raw.call(1, &plain).await.unwrap().error_code, 34);
    assert_eq!(raw.call(2, &SaslAuthenticateRequest::default()).await.unwrap().error_code, 34);
    assert_eq!(raw.call(12, &MetadataRequest::default()).await.unwrap().error_code, 0);
    broker.tells("millrace_log_connections_ended_total{listener=\"sasl\",cause=\"unauthenticated\"} 3").await;
    broker.stop().await;
}

fn versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default().with_client_software_name(text("test")).with_client_software_version(text("1"))
}

#[tokio::test]
async fn version_0_of_the_handshake_is_followed_by_bare_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let plain = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
    let mut raw = Raw::connect(broker.door("sasl")).await;
    assert_eq!(raw.call(0, &plain).await.unwrap().error_code, 0);
    raw.frame(b"\0alice\0wonder").await.unwrap();
    assert_eq!(raw.receive().await.unwrap(), "");
    assert_eq!(raw.call(12, &MetadataRequest::default()).await.unwrap().error_code, 0);
    let mut raw = Raw::connect(broker.door("sasl")).await;
    raw.call(0, &plain).await.unwrap();
    raw.frame(b"\0alice\0wander").await.unwrap();
    assert!(raw.is_ended().await);
    broker.stop().await;
}

#[tokio::test]
async fn sessions_end_unless_the_client_logs_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded();
    if let Some(sasl) = &mut config.listeners[0].sasl {
        sasl.session_lifetime = Some(Span(Duration::from_millis(700)));
    }
    let broker = Running::start(dir.path(), config).await;
    let mut raw = Raw::connect(broker.door("sasl")).await;
    assert_eq!(raw.plain("alice", "wonder").await.session_lifetime_ms, 700);
    for _ in 0..3 {
        assert_eq!(raw.plain("alice", "wonder").await.error_code, 0, "again on the same connection");
        assert_eq!(raw.call(12, &MetadataRequest::default()).await.unwrap().error_code, 0);
    }
    let answer = raw.plain("bob", "builder").await;
    assert_eq!(answer.error_code, 58);
    assert!(answer.error_message.unwrap().contains("Cannot change principals"));
    assert!(raw.is_ended().await);
    let mut raw = Raw::log_in(broker.door("sasl"), "alice", "wonder").await;
    let scram = SaslHandshakeRequest::default().with_mechanism(text("SCRAM-SHA-256"));
    assert_eq!(raw.call(1, &scram).await.unwrap().error_code, 33, "another mechanism than before");
    assert!(raw.is_ended().await);
    let mut raw = Raw::log_in(broker.door("sasl"), "alice", "wonder").await;
    let began = std::time::Instant::now();
    while raw.call(12, &MetadataRequest::default()).await.is_some() {}
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    broker.tells("millrace_log_connections_ended_total{listener=\"sasl\",cause=\"expired\"} 1").await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_made_by_clients_log_in_by_scram_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::new(4096).unwrap();
    ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"pepper", b"s3cret", &mut salted);
    let upsertion = alter_user_scram_credentials_request::ScramCredentialUpsertion::default()
        .with_name(text("carol"))
        .with_mechanism(1)
        .with_iterations(4096)
        .with_salt(Bytes::from_static(b"pepper"))
        .with_salted_password(Bytes::copy_from_slice(&salted));
    let weak = upsertion.clone().with_name(text("weak")).with_iterations(100);
    let configured = upsertion.clone().with_name(text("alice"));
    let request = AlterUserScramCredentialsRequest::default().with_upsertions(vec![upsertion, weak, configured]);
    let codes = |answer: AlterUserScramCredentialsResponse| -> Vec<(String, i16)> {
        answer.results.into_iter().map(|r| (r.user.to_string(), r.error_code)).collect()
    };
    let got = codes(admin.call(0, &request).await.unwrap());
    assert_eq!(got, [("alice".to_owned(), 93), ("carol".to_owned(), 0), ("weak".to_owned(), 93)]);
    broker.stop().await;

    let broker = Running::start(dir.path(), guarded()).await;
    let carol = ConnectionConfig {
        brokers: vec![broker.door("sasl").to_string()],
        sasl_mechanism: "SCRAM-SHA-256".to_owned(),
        sasl_username: "carol".to_owned(),
        sasl_password: Secret::new("s3cret"),
        ..ConnectionConfig::default()
    };
    assert!(is_let_in(&carol, 10).await);
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    let user = |name: &str| describe_user_scram_credentials_request::UserName::default().with_name(text(name));
    let described = DescribeUserScramCredentialsRequest::default();
    let described = described.with_users(Some(vec![user("carol"), user("dora"), user("dora"), user("eve")]));
    let answer = admin.call(0, &described).await.unwrap();
    let got: Vec<_> = answer.results.iter().map(|r| (&*r.user, r.error_code, r.credential_infos.len())).collect();
    assert_eq!(got, [("carol", 0, 1), ("dora", 92, 0), ("eve", 91, 0)]);
    let deletion = alter_user_scram_credentials_request::ScramCredentialDeletion::default();
    let deletion = deletion.with_name(text("carol")).with_mechanism(1);
    let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion]);
    assert_eq!(codes(admin.call(0, &request).await.unwrap()), [("carol".to_owned(), 0)]);
    assert_eq!(codes(admin.call(0, &request).await.unwrap()), [("carol".to_owned(), 91)]);
    assert!(!is_let_in(&carol, 2).await, "after the deletion");
    broker.stop().await;
}

#[tokio::test]
async fn a_login_that_takes_too_long_ends() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let mut config = guarded();
    let limits = LimitsConfig { login_timeout: Span(Duration::from_millis(200)), ..LimitsConfig::default() };
    config.listeners[0].limits = limits.clone();
    config.listeners.push(ListenerConfig { tls: authority.tls(ClientAuth::None), limits, ..door("tls") });
    let broker = Running::start(dir.path(), config).await;
    for name in ["sasl", "tls"] {
        let mut raw = Raw::connect(broker.door(name)).await;
        assert!(raw.is_ended().await);
        broker
            .tells(&format!("millrace_log_connections_ended_total{{listener=\"{name}\",cause=\"login_timeout\"}} 1"))
            .await;
    }
    broker.stop().await;
}
