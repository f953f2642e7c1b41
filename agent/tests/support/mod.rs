//! What the agent's tests share: a log in memory that keeps, refuses, delays or is away as told, and a running agent.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_agent::config::{AgentConfig, FileSource, SourceConfig};
use millrace_agent::{Agent, AgentError, LedgerHandle};
use millrace_log::client::{BatchProducer, ClientError, Code, WireError};
use millrace_log::clock::SystemClock;
use millrace_log::record::{Decoder, Event, Position, Record, SourceId, TopicPartition};
use millrace_log::value::Span;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the log does with the next requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mood {
    /// Takes everything.
    Good,
    /// Never answers, takes nothing.
    Away,
    /// Takes a part from the start and refuses the rest for now, or takes all and says that it did not.
    Moody,
    /// Takes everything and keeps only the count.
    Sink,
    /// Refuses single records in the middle for now, as no idempotent client should.
    Gaps,
}

#[derive(Debug)]
struct Inner {
    mood: Mood,
    random: StdRng,
    kept: Vec<(TopicPartition, Record)>,
    calls: usize,
    sunk: u64,
    poison: Option<Vec<u8>>,
    away: Option<String>,
    /// Topics that were deleted.
    gone: Vec<String>,
    /// Topics created again, with how many partitions.
    created: Vec<(String, i32)>,
    /// Creates no topic.
    denies: bool,
    /// Why nothing is taken while the log is away.
    error: Option<WireError>,
}

/// A log in memory.
#[derive(Debug)]
pub struct FakeLog {
    inner: Mutex<Inner>,
    partitions: i32,
}

pub fn refused(to: &TopicPartition, count: usize, failed: Vec<usize>, code: Code) -> ClientError {
    let retriable = code.is_retriable();
    let source = WireError::refused(code, None);
    ClientError::Refused { topic_partition: to.clone(), count, failed, retriable, source }
}

impl FakeLog {
    pub fn new(seed: u64, partitions: i32) -> Arc<Self> {
        let inner = Inner {
            mood: Mood::Good,
            random: StdRng::seed_from_u64(seed),
            kept: Vec::new(),
            calls: 0,
            sunk: 0,
            poison: None,
            away: None,
            gone: Vec::new(),
            created: Vec::new(),
            denies: false,
            error: None,
        };
        Arc::new(Self { inner: Mutex::new(inner), partitions })
    }

    pub fn mood(&self, mood: Mood) {
        self.inner.lock().mood = mood;
    }

    /// Requests with a record that contains this are refused for good, as a whole.
    pub fn poison(&self, text: &str) {
        self.inner.lock().poison = Some(text.as_bytes().to_vec());
    }

    /// This topic alone does not answer.
    pub fn away(&self, topic: Option<&str>) {
        self.inner.lock().away = topic.map(ToOwned::to_owned);
    }

    /// Takes nothing, for this reason.
    pub fn fails(&self, error: WireError) {
        let mut inner = self.inner.lock();
        (inner.mood, inner.error) = (Mood::Away, Some(error));
    }

    /// Refuses to create topics, or no longer.
    pub fn deny(&self, denies: bool) {
        self.inner.lock().denies = denies;
    }

    /// Deletes a topic with what is in it.
    pub fn delete(&self, topic: &str) {
        let mut inner = self.inner.lock();
        inner.kept.retain(|(to, _)| &*to.topic != topic);
        inner.gone.push(topic.to_owned());
    }

    /// Topics that were created after they were deleted.
    pub fn created(&self) -> Vec<(String, i32)> {
        self.inner.lock().created.clone()
    }

    pub fn sunk(&self) -> u64 {
        self.inner.lock().sunk
    }

    pub fn calls(&self) -> usize {
        self.inner.lock().calls
    }

    /// Everything of a topic, in order per partition.
    pub fn kept(&self, topic: &str) -> Vec<(i32, Record)> {
        let inner = self.inner.lock();
        inner.kept.iter().filter(|(to, _)| &*to.topic == topic).map(|(to, r)| (to.partition, r.clone())).collect()
    }

    pub fn events(&self) -> Vec<(i32, Event)> {
        self.events_of("logs")
    }

    pub fn events_of(&self, topic: &str) -> Vec<(i32, Event)> {
        let mut decoder = Decoder::default();
        self.kept(topic).iter().map(|(p, r)| (*p, decoder.decode(r).unwrap())).collect()
    }

    /// What a reader has that keeps the highest position of each source and drops the rest. Checks that a position
    /// always has the same line, and that a source stays in its partition.
    pub fn deduplicated(&self) -> Vec<Event> {
        self.deduplicated_of("logs")
    }

    pub fn deduplicated_of(&self, topic: &str) -> Vec<Event> {
        let mut highest: HashMap<SourceId, Position> = HashMap::new();
        let mut lines: HashMap<(SourceId, Position), bytes::Bytes> = HashMap::new();
        let mut home: HashMap<SourceId, i32> = HashMap::new();
        let mut out = Vec::new();
        for (partition, event) in self.events_of(topic) {
            assert_eq!(*home.entry(event.source).or_insert(partition), partition, "source moved");
            let first = lines.entry((event.source, event.position)).or_insert_with(|| event.line.clone());
            assert_eq!(*first, event.line, "position {} of {} changed", event.position, event.source);
            if highest.get(&event.source).is_none_or(|high| event.position > *high) {
                highest.insert(event.source, event.position);
                out.push(event);
            }
        }
        out
    }

    pub fn lines(&self) -> Vec<String> {
        self.deduplicated().iter().map(|e| String::from_utf8_lossy(&e.line).into_owned()).collect()
    }
}

#[async_trait::async_trait]
impl BatchProducer for FakeLog {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        self.inner.lock().calls += 1;
        loop {
            let (mood, away) = {
                let inner = self.inner.lock();
                (inner.mood, inner.away.as_deref() == Some(&*to.topic))
            };
            if mood != Mood::Away && !away {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (mood, dice, cut) = {
            let mut inner = self.inner.lock();
            (inner.mood, inner.random.random_range(0..10), inner.random.random_range(0..=batch.len()))
        };
        if mood == Mood::Moody {
            tokio::time::sleep(Duration::from_millis(dice)).await;
        }
        let mut inner = self.inner.lock();
        let count = batch.len();
        if inner.gone.iter().any(|gone| **gone == *to.topic) {
            return Err(refused(to, count, (0..count).collect(), Code::UnknownTopicOrPartition));
        }
        if mood == Mood::Sink {
            inner.sunk += count as u64;
            return Ok(0);
        }
        if &*to.topic == "logs"
            && let Some(poison) = inner.poison.clone()
            && batch.iter().any(|r| memchr::memmem::find(r.value.as_deref().unwrap_or_default(), &poison).is_some())
        {
            return Err(refused(to, count, (0..count).collect(), Code::InvalidRecord));
        }
        let (keep, answer): (Vec<bool>, Option<ClientError>) = match (mood, dice) {
            (Mood::Moody, 0..3) => {
                let failed = (cut..count).collect::<Vec<_>>();
                let keep = (0..count).map(|i| i < cut).collect();
                let answer = (!failed.is_empty()).then(|| refused(to, count, failed, Code::RequestTimedOut));
                (keep, answer)
            }
            // Taken, but the answer was lost.
            (Mood::Moody, 3..5) => {
                let answer = refused(to, count, (0..count).collect(), Code::RequestTimedOut);
                (vec![true; count], Some(answer))
            }
            (Mood::Gaps, 0..5) if cut < count => {
                let answer = refused(to, count, vec![cut], Code::RequestTimedOut);
                ((0..count).map(|i| i != cut).collect(), Some(answer))
            }
            _ => (vec![true; count], None),
        };
        let first = inner.kept.len();
        for (record, keep) in batch.into_iter().zip(keep) {
            if keep {
                inner.kept.push((to.clone(), record));
            }
        }
        answer.map_or(Ok(first as i64), Err)
    }

    fn last_error(&self, _: &TopicPartition) -> Option<WireError> {
        let inner = self.inner.lock();
        inner.error.clone().filter(|_| inner.mood == Mood::Away)
    }

    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError> {
        while self.inner.lock().mood == Mood::Away {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut inner = self.inner.lock();
        if inner.denies {
            return Err(ClientError::Topic { topic: topic.to_owned(), reason: "not now".to_owned() });
        }
        if let Some(at) = inner.gone.iter().position(|gone| gone == topic) {
            inner.gone.remove(at);
            inner.created.push((topic.to_owned(), partitions));
        }
        Ok(if topic == "millrace.dlq" { 1 } else { self.partitions })
    }
}

/// A configuration in which everything happens soon.
pub fn quick(include: &[PathBuf]) -> AgentConfig {
    let file = FileSource {
        include: include.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
        partial_timeout: Span::millis(150),
        ..FileSource::default()
    };
    AgentConfig {
        sources: vec![SourceConfig::File(file)],
        host: Some("h1".into()),
        scan_interval: Span::millis(100),
        checkpoint_interval: Span::millis(20),
        rotated_wait: Span::millis(300),
        retry_initial: Span::millis(1),
        retry_max: Span::millis(5),
        shutdown_timeout: Span::secs(5),
        ..AgentConfig::default()
    }
}

/// The same with one source, as it stands in the configuration.
pub fn checked(source: serde_json::Value) -> AgentConfig {
    let mut config = quick(&[]);
    config.sources = vec![serde_json::from_value(source).unwrap()];
    let mut faults = millrace_log::value::Faults::default();
    config.check(&mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    config
}

pub fn edit(config: &mut AgentConfig, change: impl FnOnce(&mut FileSource)) {
    let SourceConfig::File(file) = &mut config.sources[0] else { panic!("a file source") };
    change(file);
}

/// An agent at work.
pub struct Running {
    pub ledger: LedgerHandle,
    pub metrics: millrace_agent::metrics::AgentMetrics,
    pub taps: millrace_agent::tap::Taps,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    pub async fn start(config: &AgentConfig, data: &Path, log: &Arc<FakeLog>) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        let agent = loop {
            let opened =
                Agent::open(config.clone(), data, log.clone(), SystemClock::shared(), &mut Registry::default());
            match opened {
                Ok(agent) => break agent,
                // A killed agent's thread ends a moment later.
                Err(AgentError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        Self::run(agent)
    }

    /// Runs an opened agent.
    pub fn run(agent: Agent) -> Self {
        let (ledger, metrics, cancel) = (agent.ledger(), agent.metrics(), CancellationToken::new());
        let taps = agent.taps();
        #[allow(clippy::disallowed_methods)]
        let task = tokio::spawn(agent.run(cancel.clone()));
        Self { ledger, metrics, taps, cancel, task }
    }

    /// Stops in order; the ledger must add up with nothing waiting.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
        assert!(self.ledger.snapshot().adds_up(), "{:#?}", self.ledger.snapshot());
        assert_eq!(self.metrics.ledger_mismatches.get(), 0);
    }

    /// Stops in order while not everything can be sent.
    pub async fn stop_late(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
        assert!(self.ledger.snapshot().adds_up(), "{:#?}", self.ledger.snapshot());
    }

    /// Waits until the agent ends by itself.
    pub async fn ended(self) {
        self.task.await.unwrap().unwrap();
        assert!(self.ledger.snapshot().adds_up(), "{:#?}", self.ledger.snapshot());
    }

    /// Ends without keeping anything.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|e| e.is_cancelled()));
    }

    pub fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A port that nobody listens on, neither by TCP nor by UDP.
pub fn port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port));
        if tcp.is_ok() && std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// TLS of a client that trusts this certificate, with a certificate of its own or without.
pub fn tls_client(
    trusted: &rcgen::CertifiedKey<rcgen::KeyPair>,
    own: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>,
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots);
    match own {
        Some(own) => {
            let key = own.signing_key.serialize_der().try_into().unwrap();
            config.with_client_auth_cert(vec![own.cert.der().clone()], key).unwrap()
        }
        None => config.with_no_client_auth(),
    }
}
