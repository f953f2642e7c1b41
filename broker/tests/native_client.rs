//! Our own producer against the embedded broker: in order, once, over restarts and cut connections.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::records::RecordBatchDecoder;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use millrace_broker::storage::Storage;
use millrace_broker::{Broker, BrokerConfig, BrokerError};
use millrace_log::client::{BatchProducer as _, ClientError, Code, ConnectionConfig, WireProducer};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::fs::{Filesystem, RealFs, SimFs};
use millrace_log::record::{Record, TopicPartition};

struct Running {
    storage: Arc<Storage>,
    address: SocketAddr,
    token: CancellationToken,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    async fn start(dir: &Path, listen: &str, advertised: Option<SocketAddr>) -> Self {
        let advertised = advertised.map(|address| address.to_string());
        let config = BrokerConfig { listen: listen.to_owned(), advertised, ..BrokerConfig::default() };
        Self::start_on(dir, RealFs::shared(), config).await
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start_on(dir: &Path, fs: Arc<dyn Filesystem>, config: BrokerConfig) -> Self {
        let broker = Broker::open(config, dir, fs, SystemClock::shared(), &mut Registry::default()).await.unwrap();
        let address = broker.bind().await.unwrap();
        let (token, storage) = (CancellationToken::new(), Arc::clone(broker.storage()));
        let stop = token.clone();
        let task = tokio::spawn(async move { broker.run(stop).await });
        Self { storage, address, token, task }
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Values of a partition in order.
    async fn values(&self, to: &TopicPartition) -> Vec<String> {
        let partition = self.storage.topic(&to.topic).unwrap().partition(to.partition).unwrap();
        let mut values = Vec::new();
        let mut from = partition.log_start_offset();
        while from < partition.high_watermark() {
            let mut records = partition.read(from, 1 << 20, true).await.unwrap().records;
            for set in RecordBatchDecoder::decode_all(&mut records).unwrap() {
                for record in set.records {
                    from = record.offset + 1;
                    values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                }
            }
        }
        values
    }
}

fn producer(address: SocketAddr, give_up: Option<Duration>) -> WireProducer {
    let config = ConnectionConfig { brokers: vec![address.to_string()], ..ConnectionConfig::default() };
    WireProducer::new(&config, give_up).unwrap()
}

fn record(value: &str) -> Record {
    let timestamp_ms = SystemClock.now_ms();
    Record { timestamp_ms, key: None, value: Some(value.to_owned().into()), headers: vec![("h".into(), "1".into())] }
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("line {n}")).collect()
}

fn records(range: std::ops::Range<usize>) -> Vec<Record> {
    names(range).iter().map(|name| record(name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_come_in_order_with_their_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), "127.0.0.1:0", None).await;
    let producer = producer(broker.address, None);
    assert_eq!(producer.ensure_topic("lines", 3).await.unwrap(), 3);
    assert_eq!(producer.ensure_topic("lines", 9).await.unwrap(), 3, "it is there already");
    let to = [TopicPartition::new("lines", 0), TopicPartition::new("lines", 2)];
    for (at, range) in [(0, 0..500), (500, 500..501), (501, 501..2000)] {
        let (a, b) = tokio::join!(producer.send(&to[0], records(range.clone())), producer.send(&to[1], records(range)));
        assert_eq!((a.unwrap(), b.unwrap()), (at, at));
    }
    for to in &to {
        assert_eq!(broker.values(to).await, names(0..2000));
    }
    let error = producer.ensure_topic("no/name", 1).await.unwrap_err();
    assert!(matches!(error, ClientError::Topic { .. }), "{error}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_gets_what_waits_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), "127.0.0.1:0", None).await;
    let address = broker.address;
    let producer = producer(address, None);
    let to = TopicPartition::new("lines", 0);
    producer.ensure_topic("lines", 1).await.unwrap();
    producer.send(&to, records(0..10)).await.unwrap();
    broker.stop().await;
    let waiting = producer.send(&to, records(10..20));
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "it waits");
    let broker = Running::start(dir.path(), &address.to_string(), None).await;
    assert_eq!(waiting.await.unwrap(), 10);
    assert_eq!(broker.values(&to).await, names(0..20));
    broker.stop().await;
}

/// A batch is tried for ever, but not for a topic that does not exist: nobody else would create it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_gone_is_named_and_can_be_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), "127.0.0.1:0", None).await;
    let producer = producer(broker.address, None);
    let to = TopicPartition::new("lines", 1);
    for round in 0..2 {
        assert_eq!(producer.ensure_topic("lines", 2).await.unwrap(), 2);
        assert_eq!(producer.send(&to, records(0..10)).await.unwrap(), 0, "round {round}");
        broker.storage.delete_topic("lines").await.unwrap();
        let refused = tokio::time::timeout(Duration::from_secs(20), producer.send(&to, records(10..20))).await;
        let error = refused.expect("an answer").unwrap_err();
        assert!(error.is_topic_missing() && error.to_string().contains("topic `lines` does not exist"), "{error}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broker_answers_is_shown_while_a_batch_is_sent_again() {
    let sim = SimFs::new();
    let config = BrokerConfig { listen: "127.0.0.1:0".to_owned(), ..BrokerConfig::default() };
    let broker = Running::start_on(Path::new("/data"), Arc::new(sim.clone()), config).await;
    let producer = producer(broker.address, None);
    let to = TopicPartition::new("lines", 0);
    producer.ensure_topic("lines", 1).await.unwrap();
    producer.send(&to, records(0..10)).await.unwrap();
    assert!(producer.last_error(&to).is_none());
    sim.set_space_left(Some(0));
    let waiting = producer.send(&to, records(10..20));
    tokio::pin!(waiting);
    let shown = async {
        loop {
            match producer.last_error(&to) {
                Some(error) => return error,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let error = tokio::select! {
        answer = &mut waiting => panic!("{answer:?}"),
        error = tokio::time::timeout(Duration::from_secs(20), shown) => error.expect("the broker's answer"),
    };
    assert_eq!(error.code(), Some(Code::KafkaStorageError));
    assert!(error.to_string().contains("full"), "{error}");
    sim.set_space_left(None);
    assert_eq!(waiting.await.unwrap(), 10);
    assert!(producer.last_error(&to).is_none());
    assert_eq!(broker.values(&to).await, names(0..20));
    broker.stop().await;
}

/// Passes bytes on; cuts a connection after the request number `cut_after` has reached the broker, before its answer.
#[allow(clippy::disallowed_methods, reason = "a test's own task")]
async fn proxy(listener: TcpListener, broker: SocketAddr, produced: Arc<AtomicUsize>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let produced = Arc::clone(&produced);
        tokio::spawn(async move {
            let mut server = TcpStream::connect(broker).await.unwrap();
            loop {
                let Ok(length) = client.read_u32().await else { return };
                let mut request = vec![0; length as usize];
                client.read_exact(&mut request).await.unwrap();
                server.write_u32(length).await.unwrap();
                server.write_all(&request).await.unwrap();
                let length = server.read_u32().await.unwrap();
                let mut answer = vec![0; length as usize];
                server.read_exact(&mut answer).await.unwrap();
                // Each second Produce is stored, and its answer lost.
                if request.starts_with(&[0, 0]) && produced.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                    return;
                }
                client.write_u32(length).await.unwrap();
                client.write_all(&answer).await.unwrap();
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "a test's own task")]
async fn a_lost_answer_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let broker = Running::start(dir.path(), "127.0.0.1:0", Some(front)).await;
    let produced = Arc::new(AtomicUsize::new(0));
    let passing = tokio::spawn(proxy(listener, broker.address, Arc::clone(&produced)));
    let producer = producer(front, None);
    let to = TopicPartition::new("lines", 0);
    producer.ensure_topic("lines", 1).await.unwrap();
    for n in 0..5 {
        assert_eq!(producer.send(&to, records(n * 10..n * 10 + 10)).await.unwrap(), (n * 10) as i64);
    }
    assert_eq!(produced.load(Ordering::Relaxed), 10, "each batch was sent twice");
    assert_eq!(broker.values(&to).await, names(0..50));
    passing.abort();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_halved_and_told_when_it_can_not() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), "127.0.0.1:0", None).await;
    let producer = producer(broker.address, Some(Duration::from_secs(20)));
    let to = TopicPartition::new("lines", 0);
    producer.ensure_topic("lines", 1).await.unwrap();
    // Random letters: compression saves a quarter at best, and a batch may have a little over a million bytes.
    let noise = |n: usize| (0..n).map(|_| char::from(rand::random_range(b'!'..b'~'))).collect::<String>();
    let values: Vec<String> = (0..8).map(|_| noise(400_000)).collect();
    producer.send(&to, values.iter().map(|value| record(value)).collect()).await.unwrap();
    assert!(broker.values(&to).await == values, "all of them, in order");
    let batch = vec![record("before"), record(&noise(3_000_000)), record("behind")];
    let error = producer.send(&to, batch).await.unwrap_err();
    let ClientError::Refused { failed, retriable, .. } = &error else { panic!("{error}") };
    assert_eq!((&failed[..], *retriable), (&[1][..], false), "{error}");
    assert_eq!(broker.values(&to).await[8..], ["before", "behind"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_batch_does_not_block_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), "127.0.0.1:0", None).await;
    let producer = producer(broker.address, None);
    let to = TopicPartition::new("lines", 0);
    producer.ensure_topic("lines", 1).await.unwrap();
    for n in 0..200usize {
        let sending = producer.send(&to, records(n..n + 1));
        drop(tokio::time::timeout(Duration::from_micros(n as u64 * 10), sending).await);
    }
    producer.send(&to, records(1000..1001)).await.unwrap();
    let mut values = broker.values(&to).await;
    assert_eq!(values.pop().as_deref(), Some("line 1000"));
    let numbers: Vec<usize> = values.iter().map(|v| v.trim_start_matches("line ").parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order and none twice: {numbers:?}");
    broker.stop().await;
}

#[tokio::test]
async fn nobody_there_is_told_in_time() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let producer = producer(address, Some(Duration::from_millis(300)));
    let to = TopicPartition::new("lines", 0);
    let error = producer.send(&to, records(0..3)).await.unwrap_err();
    let ClientError::Refused { failed, retriable, count, .. } = &error else { panic!("{error}") };
    assert_eq!((&failed[..], *retriable, *count), (&[0, 1, 2][..], true, 3));
    let error = producer.ensure_topic("lines", 1).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn settings_that_can_not_work_are_told_at_once() {
    let base = ConnectionConfig::default();
    let cases = [
        (ConnectionConfig { tls: true, ca_file: "/no/such.pem".into(), ..base.clone() }, "ca_file"),
        (ConnectionConfig { tls: true, cert_file: "/no/such.pem".into(), ..base.clone() }, "cert_file"),
        (ConnectionConfig { sasl_mechanism: "GSSAPI".into(), ..base.clone() }, "sasl_mechanism"),
    ];
    for (config, key) in cases {
        let error = WireProducer::new(&config, None).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
