//! The export over the embedded log, as a member of its group: offsets follow delivery, gaps are reported, and the one that is
//! replaced stops and says so.

#![allow(clippy::unwrap_used)] // a test that fails says where

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_broker::{Broker, BrokerConfig, BrokerError};
use millrace_exports::config::{ElasticBulkConfig, FeedConfig};
use millrace_exports::elastic_bulk::ElasticBulk;
use millrace_exports::metrics::ExportMetrics;
use millrace_log::admin::{Admin, NewTopic};
use millrace_log::client::{BatchProducer, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
use millrace_log::clock::SystemClock;
use millrace_log::consume::ConsumerStatus;
use millrace_log::fs::RealFs;
use millrace_log::record::{Event, Labels, Position, SourceId, Tenant, TopicPartition, encode};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const LONG: Duration = Duration::from_secs(60);

struct Scene {
    connection: ConnectionConfig,
    producer: Arc<dyn BatchProducer>,
    server: MockServer,
    /// Ids of the documents, as they came.
    ids: Arc<Mutex<Vec<String>>>,
    sent: u64,
    broker: (CancellationToken, JoinHandle<Result<(), BrokerError>>),
    _dir: tempfile::TempDir,
}

struct Running {
    status: ConsumerStatus,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.token.cancel();
        tokio::time::timeout(LONG, self.task).await.expect("ends in time").unwrap();
    }
}

impl Scene {
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start() -> Self {
        // Some other test of this process may have installed it already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let config = BrokerConfig { listen: "127.0.0.1:0".to_owned(), ..BrokerConfig::default() };
        let clock = SystemClock::shared();
        let broker = Broker::open(config, dir.path(), RealFs::shared(), clock, &mut Registry::default()).await.unwrap();
        let address = broker.bind().await.unwrap();
        let token = CancellationToken::new();
        let stop = token.clone();
        let broker = (token, tokio::spawn(async move { broker.run(stop).await }));
        let options = [("heartbeat.interval.ms", "100"), ("session.timeout.ms", "6000")];
        let connection = ConnectionConfig {
            brokers: vec![address.to_string()],
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..ConnectionConfig::default()
        };
        let mut admin = Admin::connect(&connection).await.unwrap();
        let new = NewTopic { name: "logs".to_owned(), partitions: 2, replication: -1, settings: Vec::new() };
        admin.create_topic(&new, false).await.unwrap();
        let producer = Arc::new(WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap());
        let (server, ids) = (MockServer::start().await, Arc::new(Mutex::new(Vec::new())));
        let taken = Arc::clone(&ids);
        let answer = move |request: &Request| {
            let body = String::from_utf8(request.body.clone()).unwrap();
            let actions = body.lines().step_by(2).map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let new: Vec<String> = actions.map(|a| a["create"]["_id"].as_str().unwrap().to_owned()).collect();
            let items: Vec<_> = new.iter().map(|_| json!({"create": {"status": 201}})).collect();
            taken.lock().extend(new);
            ResponseTemplate::new(200).set_body_json(json!({"errors": false, "items": items}))
        };
        Mock::given(method("POST")).respond_with(answer).mount(&server).await;
        Self { connection, producer, server, ids, sent: 0, broker, _dir: dir }
    }

    async fn send(&mut self, records: u64) {
        for n in self.sent..self.sent + records {
            let event = Event {
                tenant: Tenant::default(),
                time_ns: 1_772_366_400_000_000_001,
                labels: Labels::new([("service", "checkout")]),
                metadata: Labels::default(),
                line: Bytes::from(format!("line {n}")),
                source: SourceId([1; 16]),
                position: Position::at(n),
                doc: None,
                cut: false,
                time_from_line: true,
            };
            let to = TopicPartition::new("logs", i32::try_from(n % 2).unwrap());
            self.producer.send(&to, vec![encode(&event, 0)]).await.unwrap();
        }
        self.sent += records;
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    fn export(&self, metrics: &ExportMetrics) -> Running {
        let kafka = FeedConfig {
            brokers: self.connection.brokers.clone(),
            options: self.connection.options.clone(),
            topics: vec!["logs".to_owned(), "logs-that-come-later".to_owned()],
            group: "g".to_owned(),
            ..FeedConfig::default()
        };
        let config = ElasticBulkConfig { kafka, url: self.server.uri(), ..ElasticBulkConfig::default() };
        let dead = Arc::clone(&self.producer);
        let outgoing = millrace_log::outgoing::Outgoing::default();
        let export = ElasticBulk::new(config, dead, SystemClock::shared(), metrics.clone(), &outgoing).unwrap();
        let (status, token) = (export.status(), CancellationToken::new());
        let stop = token.clone();
        let task = tokio::spawn(async move { export.run(stop).await.unwrap() });
        Running { status, token, task }
    }

    async fn committed(&self) -> i64 {
        let mut admin = Admin::connect(&self.connection).await.unwrap();
        admin.committed("g").await.unwrap().values().map(|committed| committed.offset).sum()
    }

    fn assert_each_once(&self, lost: usize) {
        let ids = self.ids.lock();
        let different: BTreeSet<&String> = ids.iter().collect();
        let want = self.sent as usize - lost;
        assert_eq!((ids.len(), different.len()), (want, want));
    }

    async fn stop(self) {
        self.broker.0.cancel();
        self.broker.1.await.unwrap().unwrap();
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_follow_delivery_and_the_next_export_goes_on_behind_them_over_a_gap() {
    let mut scene = Scene::start().await;
    let metrics = ExportMetrics::default();
    scene.send(101).await;
    let running = scene.export(&metrics);
    let status = running.status.clone();
    until("101 documents", || scene.ids.lock().len() >= 101).await;
    until("no lag", || status.lag() == Some(0) && status.counts().stored == 101).await;
    running.stop().await;
    assert_eq!(scene.committed().await, 101, "at the stop all that was delivered is committed");
    let counts = status.counts();
    assert_eq!((status.holes(), status.notice()), ((0, 0), None));
    assert_eq!((counts.read, counts.stored, counts.waiting), (101, 101, 0));
    // Five records are gone before the next one reads them.
    scene.send(10).await;
    let mut admin = Admin::connect(&scene.connection).await.unwrap();
    let topic = admin.topic("logs").await.unwrap();
    admin.trim(&topic, &[(0, -1)].into()).await.unwrap();
    scene.send(40).await;
    let running = scene.export(&metrics);
    let status = running.status.clone();
    until("45 documents more", || scene.ids.lock().len() >= 146).await;
    running.stop().await;
    scene.assert_each_once(5);
    assert_eq!((scene.committed().await, status.holes(), status.notice()), (151, (1, 5), None));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_replaced_stops_and_says_so() {
    let mut scene = Scene::start().await;
    let metrics = ExportMetrics::default();
    scene.send(20).await;
    let first = scene.export(&metrics);
    until("20 documents", || scene.ids.lock().len() >= 20).await;
    until("all settled", || first.status.lag() == Some(0)).await;
    let second = scene.export(&metrics);
    until("the first is replaced", || first.status.notice().is_some()).await;
    let notice = first.status.notice().unwrap();
    assert!(notice.contains("export `elasticsearch` is paused: another export named `g-1` has taken over"), "{notice}");
    assert!(notice.contains("give each its own `kafka.instance`"), "{notice}");
    scene.send(20).await;
    until("40 documents", || scene.ids.lock().iter().collect::<BTreeSet<_>>().len() >= 40).await;
    assert_eq!(second.status.notice(), None);
    first.stop().await;
    second.stop().await;
    assert_eq!(scene.committed().await, 40);
    scene.stop().await;
}
