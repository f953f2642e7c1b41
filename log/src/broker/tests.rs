//! The broker as clients see it: librdkafka against a broker in the same process, and raw frames.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::client::{BatchProducer as _, ConnectionConfig, RdConsumer, RdProducer, StartAt};
use crate::clock::SystemClock;
use crate::record::{Record, TopicPartition};
use crate::storage::RealFs;

/// A broker on a free port, stopped by `stop`.
struct Running {
    address: SocketAddr,
    token: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start(dir: &Path, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let mut config = BrokerConfig { listen: "127.0.0.1:0".to_owned(), ..BrokerConfig::default() };
        change(&mut config);
        let mut registry = Registry::default();
        let broker = Broker::open(config, dir, RealFs::shared(), SystemClock::shared(), &mut registry).await.unwrap();
        let address = broker.bind().await.unwrap();
        let token = CancellationToken::new();
        let stop = token.clone();
        let task = tokio::spawn(async move { broker.run(stop).await });
        Self { address, token, task }
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }

    fn client(&self) -> ConnectionConfig {
        ConnectionConfig { brokers: vec![self.address.to_string()], ..ConnectionConfig::default() }
    }
}

fn record(value: &str) -> Record {
    Record {
        timestamp_ms: SystemClock::shared().now_ms(),
        key: Some("key".into()),
        value: Some(value.to_owned().into()),
        headers: Default::default(),
    }
}

/// All values of a partition from an offset on.
async fn read(client: ConnectionConfig, tp: TopicPartition, from: i64, count: usize) -> Vec<String> {
    tokio::task::spawn_blocking(move || {
        let consumer = RdConsumer::new(&client, "readers").unwrap();
        consumer.assign(&[(tp, StartAt::Offset(from))]).unwrap();
        let mut values = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while values.len() < count && Instant::now() < deadline {
            for got in consumer.poll_batch(1000, Duration::from_millis(200)).unwrap() {
                assert_eq!(got.offset, from + values.len() as i64);
                values.push(String::from_utf8(got.record.value.unwrap().to_vec()).unwrap());
            }
        }
        values
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_read_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let producer = RdProducer::new(&broker.client()).unwrap();
    assert_eq!(producer.ensure_topic("lines", 3).await.unwrap(), 3);
    let tp = TopicPartition::new("lines", 2);
    let want: Vec<String> = (0..500).map(|i| format!("line {i}")).collect();
    let first = producer.send(&tp, want.iter().map(|v| record(v)).collect()).await.unwrap();
    assert_eq!(first, 0);
    assert_eq!(read(broker.client(), tp.clone(), 0, 500).await, want);
    let client = broker.client();
    let committed = TopicPartition::new("lines", 2);
    tokio::task::spawn_blocking(move || {
        let consumer = RdConsumer::new(&client, "readers").unwrap();
        consumer.commit(&[(committed, 321)]).unwrap();
    })
    .await
    .unwrap();
    drop(producer);
    broker.stop().await;

    let broker = Running::start(dir.path(), |_| {}).await;
    assert_eq!(read(broker.client(), tp.clone(), 490, 10).await, want[490..]);
    let client = broker.client();
    let of = tp.clone();
    let committed = tokio::task::spawn_blocking(move || {
        RdConsumer::new(&client, "readers").unwrap().committed(&[of, TopicPartition::new("lines", 0)]).unwrap()
    });
    assert_eq!(committed.await.unwrap(), [Some(321), None]);
    let producer = RdProducer::new(&broker.client()).unwrap();
    assert_eq!(producer.send(&tp, vec![record("more")]).await.unwrap(), 500);
    broker.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Running::start(one.path(), |_| {}).await;
    let config = BrokerConfig { listen: broker.address.to_string(), ..BrokerConfig::default() };
    let mut registry = Registry::default();
    let second = Broker::open(config, two.path(), RealFs::shared(), SystemClock::shared(), &mut registry).await;
    let error = second.unwrap().bind().await.unwrap_err().to_string();
    let want = format!(
        "port of {} is in use: stop the program that has it, or give `broker.listen` another port",
        broker.address
    );
    assert_eq!(error, want);
    broker.stop().await;
}
