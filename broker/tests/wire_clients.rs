//! Our own consumers against the embedded broker, beside librdkafka: what that one wrote in transactions, groups that both
//! share.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_broker::{Broker, BrokerConfig, BrokerError};
use millrace_log::admin::{Admin, NewTopic};
use millrace_log::client::group::{GroupReader, GroupSettings};
use millrace_log::client::reader::{Met, TopicReader};
use millrace_log::client::{
    BatchProducer as _, ClientError, ConnectionConfig, Consumed, Limits, StartAt, WireConsumer, WireProducer,
};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::fs::RealFs;
use millrace_log::record::{Record, TopicPartition};
use prometheus_client::registry::Registry;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(60);

struct Running {
    address: SocketAddr,
    token: CancellationToken,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start(dir: &Path) -> Self {
        let config = BrokerConfig { listen: "127.0.0.1:0".to_owned(), ..BrokerConfig::default() };
        let clock = SystemClock::shared();
        let broker = Broker::open(config, dir, RealFs::shared(), clock, &mut Registry::default()).await.unwrap();
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

    fn connection(&self) -> ConnectionConfig {
        let options = [("heartbeat.interval.ms", "100"), ("session.timeout.ms", "6000")];
        ConnectionConfig {
            brokers: vec![self.address.to_string()],
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..ConnectionConfig::default()
        }
    }

    fn librdkafka(&self) -> rdkafka::ClientConfig {
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", self.address.to_string());
        client
    }

    async fn topic(&self, name: &str, partitions: i32) -> Admin {
        let mut admin = Admin::connect(&self.connection()).await.unwrap();
        let new = NewTopic { name: name.to_owned(), partitions, replication: -1, settings: Vec::new() };
        admin.create_topic(&new, false).await.unwrap();
        admin
    }
}

fn record(value: &str) -> Record {
    Record { timestamp_ms: SystemClock.now_ms(), key: None, value: Some(value.to_owned().into()), headers: Vec::new() }
}

/// Values until a position is reached.
fn values(consumer: &WireConsumer, of: &TopicPartition, until: i64) -> Vec<String> {
    let mut all = Vec::new();
    let deadline = Instant::now() + LONG;
    while consumer.position(of).is_none_or(|position| position < until) {
        assert!(Instant::now() < deadline, "{all:?}");
        for one in consumer.poll_batch(100, Duration::from_millis(100)).unwrap() {
            all.push(String::from_utf8(one.record.value.unwrap().to_vec()).unwrap());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_others_are_read_when_they_are_committed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path()).await;
    broker.topic("t", 1).await;
    let (connection, mut writer) = (broker.connection(), broker.librdkafka());
    tokio::task::spawn_blocking(move || {
        let writer: BaseProducer = writer.set("transactional.id", "writer").create().unwrap();
        writer.init_transactions(LONG).unwrap();
        for (round, commit) in [true, false, false, true, true].into_iter().enumerate() {
            writer.begin_transaction().unwrap();
            for n in 0..3 {
                writer.send(BaseRecord::<[u8], _>::to("t").payload(&format!("{round}.{n}"))).unwrap();
            }
            writer.flush(LONG).unwrap();
            if commit { writer.commit_transaction(LONG) } else { writer.abort_transaction(LONG) }.unwrap();
        }
        let want: Vec<String> = [0, 3, 4].iter().flat_map(|r| (0..3).map(move |n| format!("{r}.{n}"))).collect();
        let of = TopicPartition::new("t", 0);
        let consumer = WireConsumer::new(&connection, "readers").unwrap();
        consumer.assign(&[(of.clone(), StartAt::Earliest)]).unwrap();
        // Each transaction has a control record behind it.
        assert_eq!(values(&consumer, &of, 20), want);
        let mut all = connection.clone();
        all.options.insert("isolation.level".to_owned(), "read_uncommitted".to_owned());
        let consumer = WireConsumer::new(&all, "readers").unwrap();
        consumer.assign(&[(of.clone(), StartAt::Earliest)]).unwrap();
        assert_eq!(values(&consumer, &of, 20).len(), 15);
    })
    .await
    .unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_were_deleted_are_out_of_range_and_offsets_of_a_group_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path()).await;
    let mut admin = broker.topic("t", 2).await;
    let of = TopicPartition::new("t", 1);
    let producer = WireProducer::new(&broker.connection(), Some(LONG)).unwrap();
    producer.send(&of, (0..100).map(|n| record(&n.to_string())).collect()).await.unwrap();
    let topic = admin.topic("t").await.unwrap();
    admin.trim(&topic, &std::collections::BTreeMap::from([(1, 60)])).await.unwrap();
    let connection = broker.connection();
    tokio::task::spawn_blocking(move || {
        let consumer = WireConsumer::new(&connection, "readers").unwrap();
        assert_eq!(consumer.partitions("t").unwrap(), [0, 1]);
        assert_eq!(consumer.watermarks(&of).unwrap(), (60, 100));
        consumer.assign(&[(of.clone(), StartAt::Offset(10))]).unwrap();
        let error = consumer.poll_batch(10, LONG).unwrap_err();
        assert!(matches!(error, ClientError::OutOfRange { offset: 10, log_start: 60, .. }), "{error}");
        consumer.assign(&[(of.clone(), StartAt::Offset(60))]).unwrap();
        assert_eq!(values(&consumer, &of, 100).len(), 40);
        assert_eq!(consumer.committed(std::slice::from_ref(&of)).unwrap(), [None]);
        consumer.commit(&[(of.clone(), 77)]).unwrap();
        assert_eq!(consumer.committed(&[TopicPartition::new("t", 0), of]).unwrap(), [None, Some(77)]);
    })
    .await
    .unwrap();
    broker.stop().await;
}

/// Turns both until ours has so many partitions and the other so many, all different.
fn balance(ours: &TopicReader, other: &BaseConsumer, want: (usize, usize)) {
    let deadline = Instant::now() + LONG;
    loop {
        drop(other.poll(Duration::from_millis(50)));
        drop(ours.next(Duration::from_millis(50)).unwrap());
        let theirs = other.assignment().unwrap();
        let theirs: BTreeSet<i32> = theirs.elements().iter().map(|one| one.partition()).collect();
        let mine: BTreeSet<i32> = ours.assigned().into_iter().collect();
        if (mine.len(), theirs.len()) == want && mine.is_disjoint(&theirs) {
            return;
        }
        assert!(Instant::now() < deadline, "want {want:?}, have {mine:?} and {theirs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_shared_with_librdkafka_and_left_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path()).await;
    broker.topic("t", 4).await;
    let producer = WireProducer::new(&broker.connection(), Some(LONG)).unwrap();
    for partition in 0..4 {
        let lines = (0..10).map(|n| record(&n.to_string())).collect();
        producer.send(&TopicPartition::new("t", partition), lines).await.unwrap();
    }
    let (connection, mut other) = (broker.connection(), broker.librdkafka());
    tokio::task::spawn_blocking(move || {
        let other = other.set("group.id", "g").set("heartbeat.interval.ms", "100").set("auto.offset.reset", "earliest");
        let other: BaseConsumer = other.set("enable.auto.commit", "false").create().unwrap();
        let ours = TopicReader::new(&connection, "t", Some("g"), true, true).unwrap();
        let (mut read, mut ends) = (0, BTreeSet::new());
        let deadline = Instant::now() + LONG;
        while read < 40 || ends.len() < 4 {
            assert!(Instant::now() < deadline, "{read} records, ends of {ends:?}");
            match ours.next(Duration::from_millis(100)).unwrap() {
                Met::Record(_) => read += 1,
                Met::End(partition) => drop(ends.insert(partition)),
                Met::Nothing => {}
            }
        }
        ours.commit(&[(0, 10), (1, 10), (2, 10), (3, 7)]).unwrap();
        other.subscribe(&["t"]).unwrap();
        balance(&ours, &other, (2, 2));
        drop(ours);
        let again = TopicReader::new(&connection, "t", Some("g"), true, true).unwrap();
        balance(&again, &other, (2, 2));
        drop(other);
        // Alone again: everything that was not committed comes, and nothing else.
        let mut left = BTreeSet::new();
        while again.assigned().len() < 4 || left.len() < 3 {
            assert!(Instant::now() < deadline, "{left:?}");
            if let Met::Record(record) = again.next(Duration::from_millis(100)).unwrap() {
                left.insert((record.partition, record.offset));
            }
        }
        assert_eq!(left, BTreeSet::from([(3, 7), (3, 8), (3, 9)]));
    })
    .await
    .unwrap();
    broker.stop().await;
}

/// Values and offsets of the next records that a group's reader gets.
fn of_group(reader: &GroupReader<Consumed>, count: usize) -> Vec<(i64, String)> {
    let limits = Limits { records: 100, bytes: usize::MAX, wait: Duration::from_millis(100), linger: Duration::ZERO };
    let (mut all, deadline) = (Vec::new(), Instant::now() + LONG);
    while all.len() < count {
        assert!(Instant::now() < deadline, "{all:?}");
        match reader.poll(&limits) {
            Err(ClientError::Recreated { .. }) => assert!(all.is_empty(), "{all:?}"),
            polled => all.extend(polled.unwrap().into_iter().map(|one| {
                let value = one.record.value.unwrap_or_default();
                (one.offset, String::from_utf8_lossy(&value).into_owned())
            })),
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_and_refilled_is_not_read_on_from_an_old_position() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path()).await;
    let mut admin = broker.topic("t", 1).await;
    let of = TopicPartition::new("t", 0);
    let fill = async |word: &str, count: usize| {
        let producer = WireProducer::new(&broker.connection(), Some(LONG)).unwrap();
        producer.send(&of, (0..count).map(|n| record(&format!("{word} {n}"))).collect()).await.unwrap();
    };
    let wanted = |word: &str, count: i64| (0..count).map(|n| (n, format!("{word} {n}"))).collect::<Vec<_>>();
    fill("old", 20).await;
    let open = |connection: &ConnectionConfig| {
        let (topics, refresh) = (vec!["t".to_owned()], Some(Duration::from_millis(200)));
        let settings = GroupSettings { topics, group: "g".to_owned(), identity: "g-1".to_owned(), refresh };
        let reader = GroupReader::<Consumed>::open(connection, settings).unwrap();
        reader.join();
        reader
    };
    let (connection, first) = (broker.connection(), of.clone());
    let old = wanted("old", 20);
    let (consumer, member) = tokio::task::spawn_blocking(move || {
        let consumer = WireConsumer::new(&connection, "readers").unwrap();
        consumer.assign(&[(first.clone(), StartAt::Earliest)]).unwrap();
        assert_eq!(values(&consumer, &first, 20).len(), 20);
        let member = open(&connection);
        assert_eq!(of_group(&member, 20), old);
        (consumer, member)
    })
    .await
    .unwrap();
    admin.delete_topic("t").await.unwrap();
    let mut admin = broker.topic("t", 1).await;
    fill("new", 30).await;
    let (connection, new) = (broker.connection(), wanted("new", 30));
    tokio::task::spawn_blocking(move || {
        // What was read of the old topic becomes durable only now.
        member.commit(member.generation(), &[(of.clone(), 20)]).unwrap();
        let polled = (0..600).map(|_| consumer.poll_batch(10, Duration::from_millis(100)));
        let met = polled.into_iter().find(|polled| !matches!(polled, Ok(records) if records.is_empty()));
        assert!(matches!(met, Some(Err(ClientError::Recreated { .. }))), "{met:?}");
        consumer.assign(&[(of.clone(), StartAt::Earliest)]).unwrap();
        assert_eq!(values(&consumer, &of, 30).len(), 30);
        assert_eq!(of_group(&member, 30), new, "it joins again");
        drop(member);
        assert_eq!(of_group(&open(&connection), 30), new, "nothing of the new topic was committed");
    })
    .await
    .unwrap();
    admin.delete_topic("t").await.unwrap();
    broker.stop().await;
}
