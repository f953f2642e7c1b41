//! The aggregator over a real log: what is produced is found once, also when the aggregator is thrown away in between.
//!
//! `MILLRACE_TEST_BROKERS` names the brokers (the embedded one or Apache Kafka), `MILLRACE_TEST_RECORDS` the number of
//! records (20,000 if not set). Prints what it took.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // A test, and its figures are for people.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use millrace_aggregator::config::AggregatorConfig;
use millrace_aggregator::run::Aggregator;
use millrace_index::scan::{Budget, EventStore as _, Kind, Plan};
use millrace_log::client::{BatchProducer as _, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
use millrace_log::clock::SystemClock;
use millrace_log::record::{Event, Labels, Position, SourceId, Tenant, TopicPartition, encode};
use millrace_log::value::Span;
use millrace_logql::storage::Order;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 3;

fn event(source: SourceId, n: u64, labels: &Labels) -> Event {
    Event {
        tenant: Tenant::default(),
        time_ns: 1_700_000_000_000_000_000 + i64::try_from(n).unwrap() * 1_000_000,
        labels: labels.clone(),
        metadata: Labels::default(),
        line: Bytes::from(format!(
            "level=info msg=\"request served\" n={n} path=/api/v1/orders/{} status={} duration={}ms trace={:016x}",
            n % 977,
            if n.is_multiple_of(50) { 500 } else { 200 },
            n * 7919 % 1000,
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )),
        source,
        position: Position::at(n * 100),
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

async fn count(aggregator: &Aggregator) -> u64 {
    let plan = Plan {
        tenant: Tenant::default(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: Vec::new(),
        kind: Kind::All,
        order: Order::Any,
        expect: None,
        budget: Budget::default(),
    };
    let mut rows = aggregator.store().scan(plan).await.unwrap();
    let mut seen = std::collections::HashSet::new();
    while let Some(batch) = rows.next().await {
        for row in batch.unwrap().rows {
            assert!(seen.insert((row.source, row.position)), "doubled: {} {}", row.source, row.position);
        }
    }
    seen.len() as u64
}

async fn open(config: &AggregatorConfig, dir: &Path) -> Aggregator {
    let opened = Aggregator::open(config.clone(), dir, SystemClock::shared(), &mut Registry::default()).await;
    opened.expect("opens")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker at MILLRACE_TEST_BROKERS"]
#[allow(clippy::disallowed_methods)] // Tests own their tasks.
async fn what_was_produced_is_found_once() {
    let brokers = std::env::var("MILLRACE_TEST_BROKERS").expect("MILLRACE_TEST_BROKERS names the brokers");
    let records: u64 = std::env::var("MILLRACE_TEST_RECORDS").map_or(20_000, |n| n.parse().unwrap());
    let topic = format!("aggregator-{:08x}", rand::random::<u32>());
    let connection = ConnectionConfig { brokers: vec![brokers], ..ConnectionConfig::default() };
    let producer = WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap();
    producer.ensure_topic(&topic, PARTITIONS).await.unwrap();

    let mut config = AggregatorConfig::default();
    config.kafka.brokers = connection.brokers.clone();
    config.kafka.topics = vec![topic.clone()];
    config.kafka.group = topic.clone();
    config.index.split_age = Span::secs(2);
    config.index.merge_splits = 4;
    let dir = tempfile::tempdir().unwrap();

    let sources: Vec<SourceId> = (0..PARTITIONS).map(|_| SourceId::random()).collect();
    let mut produced = 0;
    let mut rounds = 0;
    while produced < records {
        let aggregator = Arc::new(open(&config, dir.path()).await);
        let cancel = CancellationToken::new();
        let (running, token) = (Arc::clone(&aggregator), cancel.clone());
        let run = tokio::spawn(async move { running.run(token).await });
        let share = (records / 3).max(1);
        let began = Instant::now();
        for (partition, source) in (0..).zip(&sources) {
            let labels = Labels::new([("service", "orders"), ("partition", &*partition.to_string())]);
            let range = produced / 3..(produced + share) / 3;
            for chunk in range.collect::<Vec<_>>().chunks(10_000) {
                let batch = chunk.iter().map(|n| encode(&event(*source, *n, &labels), 1_700_000_000_000)).collect();
                producer.send(&TopicPartition::new(topic.as_str(), partition), batch).await.unwrap();
            }
        }
        produced += share;
        let sent = began.elapsed();
        aggregator.store().caught_up(Duration::from_secs(120)).await.expect("catches up");
        let found = count(&aggregator).await;
        eprintln!("round {rounds}: {share} records sent in {sent:?}, searchable {:?} after the first", began.elapsed());
        assert_eq!(found, produced / 3 * 3);
        cancel.cancel();
        run.await.unwrap().unwrap();
        let ledger = aggregator.ledger();
        assert!(ledger.balanced, "{ledger:?}");
        rounds += 1;
    }
    let aggregator = open(&config, dir.path()).await;
    let began = Instant::now();
    assert_eq!(count(&aggregator).await, produced / 3 * 3);
    let splits = aggregator.store().splits();
    let sum =
        |f: fn(&millrace_index::split::SplitMeta) -> u64| -> u64 { splits.iter().map(|s| f(&s.record.meta)).sum() };
    eprintln!(
        "{} splits, {} bytes of lines on {} bytes of disk, all read in {:?}",
        splits.len(),
        sum(|m| m.raw_bytes),
        sum(|m| m.disk_bytes),
        began.elapsed()
    );
    assert_eq!(aggregator.source_ledger().await.unwrap().len(), 3);
}
