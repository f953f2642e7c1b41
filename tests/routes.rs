//! Routes while the router is killed with SIGKILL: each record reaches each target that it matches exactly once for
//! those who read committed records, byte for byte.
//!
//! The short form (20,000 records, 5 kills, the embedded broker) runs with `cargo test`; 200,000 records with 30 kills,
//! and the same on a real Apache Kafka, are ignored: `cargo test --test routes -- --ignored`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that fails says where

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_log::admin::{Admin, NewTopic, OffsetAt};
use millrace_log::client::reader::{Met, TopicReader};
use millrace_log::client::{BatchProducer as _, ConnectionConfig, RdProducer};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::record::{Record, TopicPartition};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::{Server, free_port, until, until_it_can_be_stopped};

const PARTITIONS: i32 = 4;

/// A process of the built binary, killed when dropped.
struct Running(Child);

impl Running {
    fn start(verb: &str, config: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(config.with_extension("out")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args([verb, "-c"])
            .arg(config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn stop(mut self) -> i32 {
        until_it_can_be_stopped(self.0.id());
        assert!(Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status().unwrap().success());
        until("the process ends", Duration::from_secs(60), || {
            self.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1)).ok_or_else(|| "still runs".to_owned())
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn level(n: usize) -> &'static str {
    ["info", "warn", "error", "debug"][n % 4]
}

fn record(n: usize, now_ms: i64) -> Record {
    let labels = format!(r#"{{"level":"{}","pod":"p{}","service":"s{}"}}"#, level(n), n % 7, n % 3);
    Record {
        timestamp_ms: now_ms - i64::try_from(n % 1000).unwrap(),
        key: (!n.is_multiple_of(5)).then(|| Bytes::from(format!("key-{n}"))),
        value: Some(Bytes::from(format!("line {n} \u{fffd}"))),
        headers: vec![
            ("labels".into(), labels.into()),
            ("empty".into(), Bytes::new()),
            ("twice".into(), "1".into()),
            ("twice".into(), Bytes::from(vec![0, 0xff])),
        ],
    }
}

/// Everything in a topic, as committed readers see it.
fn read_all(connection: &ConnectionConfig, topic: &str) -> Vec<(i32, Record)> {
    let reader = TopicReader::new(connection, topic, None, true, true).unwrap();
    reader.assign(&(0..PARTITIONS).map(|p| (p, 0)).collect::<Vec<_>>()).unwrap();
    let (mut found, mut ended) = (Vec::new(), std::collections::HashSet::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while ended.len() < usize::try_from(PARTITIONS).unwrap() {
        assert!(Instant::now() < deadline, "{topic} has no end");
        match reader.next(Duration::from_millis(500)).unwrap() {
            Met::End(partition) => drop(ended.insert(partition)),
            Met::Nothing => {}
            Met::Record(r) => found.push((
                r.partition,
                Record {
                    timestamp_ms: r.timestamp_ms.unwrap(),
                    key: r.key,
                    value: r.value,
                    headers: r.headers.into_iter().map(|(n, v)| (n.into(), v.unwrap())).collect(),
                },
            )),
        }
    }
    found
}

fn assert_routed(found: Vec<(i32, Record)>, sent: &[Record], takes: impl Fn(usize) -> bool, dropped_pod: bool) {
    let mut times: HashMap<usize, usize> = HashMap::new();
    let mut last: HashMap<i32, usize> = HashMap::new();
    for (partition, record) in found {
        let text = String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
        let n: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        *times.entry(n).or_default() += 1;
        let mut want = sent[n].clone();
        if dropped_pod {
            let labels = format!(r#"{{"level":"{}","service":"s{}"}}"#, level(n), n % 3);
            want.headers[0].1 = labels.into();
        }
        assert_eq!(record, want, "byte for byte");
        if let Some(before) = last.insert(partition, n) {
            assert!(before < n, "partition {partition}: {n} came after {before}");
        }
    }
    let wanted: Vec<usize> = (0..sent.len()).filter(|n| takes(*n)).collect();
    let lost = wanted.iter().filter(|n| !times.contains_key(n)).count();
    let doubled = times.values().filter(|times| **times > 1).count();
    assert_eq!((lost, doubled, times.len()), (0, 0, wanted.len()), "lost, doubled, all of {}", wanted.len());
}

fn run(brokers: &str, folder: &Path, kills: usize, records: usize) {
    let seed: u64 = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("MILLRACE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let connection = ConnectionConfig { brokers: vec![brokers.to_owned()], ..ConnectionConfig::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = folder.join("router.yaml");
    std::fs::write(
        &config,
        format!(
            "data_dir: {}\nbroker:\n  listen: \"{brokers}\"\n  routing: {{linger: 20ms, max_records: 700}}\n  routes:\n    \
             - {{from: logs, to: bad, match: '{{level=~\"error|warn\"}}'}}\n    \
             - {{from: logs, to: s1, match: '{{service=\"s1\", level!=\"debug\"}}', drop_labels: [pod]}}\n",
            folder.display()
        ),
    )
    .unwrap();
    let mut admin = until("the broker answers", Duration::from_secs(60), || {
        runtime.block_on(Admin::connect(&connection)).map_err(|e| e.to_string())
    });
    let new = NewTopic { name: "logs".to_owned(), partitions: PARTITIONS, replication: -1, settings: Vec::new() };
    runtime.block_on(admin.create_topic(&new, false)).unwrap();
    let mut router = Running::start("router", &config);
    let producer = RdProducer::new(&connection).unwrap();
    let now_ms = SystemClock.now_ms();
    let sent: Vec<Record> = (0..records).map(|n| record(n, now_ms)).collect();
    let (mut killed, mut next_kill) = (0, Instant::now() + Duration::from_millis(1500));
    let chunk = records.div_ceil(kills.max(1) * 20);
    for (i, part) in sent.chunks(chunk).enumerate() {
        let partition = i32::try_from(i).unwrap() % PARTITIONS;
        runtime.block_on(producer.send(&TopicPartition::new("logs", partition), part.to_vec())).unwrap();
        if killed < kills && Instant::now() >= next_kill {
            router.kill();
            router = Running::start("router", &config);
            killed += 1;
            next_kill = Instant::now() + Duration::from_millis(random.random_range(300..2500));
        }
    }
    while killed < kills {
        std::thread::sleep(next_kill.saturating_duration_since(Instant::now()));
        router.kill();
        router = Running::start("router", &config);
        killed += 1;
        next_kill = Instant::now() + Duration::from_millis(random.random_range(300..2500));
    }
    until("all is routed", Duration::from_secs(300), || {
        let committed = runtime.block_on(admin.committed("millrace-route-logs")).map_err(|e| e.to_string())?;
        let at: i64 = committed.values().map(|c| c.offset).sum();
        let out = || std::fs::read_to_string(config.with_extension("out")).unwrap_or_default();
        if at == i64::try_from(records).unwrap() {
            Ok(())
        } else {
            Err(format!("{at} of {records}, seed {seed}\n{}", out()))
        }
    });
    assert_eq!(router.stop(), 0);
    let topic = runtime.block_on(admin.topic("bad")).unwrap();
    let ends = runtime.block_on(admin.offsets(std::slice::from_ref(&topic), OffsetAt::End)).unwrap();
    let stable = runtime.block_on(admin.offsets(&[topic], OffsetAt::StableEnd)).unwrap();
    assert_eq!(ends, stable, "no transaction is left open");
    assert_routed(read_all(&connection, "bad"), &sent, |n| matches!(level(n), "error" | "warn"), false);
    assert_routed(read_all(&connection, "s1"), &sent, |n| n % 3 == 1 && level(n) != "debug", true);
}

fn on_the_embedded_broker(kills: usize, records: usize) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = folder.path().join("broker.yaml");
    std::fs::write(
        &config,
        format!("data_dir: {}/data\nbroker: {{listen: \"127.0.0.1:{port}\"}}\n", folder.path().display()),
    )
    .unwrap();
    let broker = Running::start("broker", &config);
    run(&format!("127.0.0.1:{port}"), folder.path(), kills, records);
    assert_eq!(broker.stop(), 0);
}

#[test]
fn five_kills_of_the_router_lose_and_double_nothing() {
    on_the_embedded_broker(5, 20_000);
}

#[test]
#[ignore = "takes minutes"]
fn thirty_kills_of_the_router_lose_and_double_nothing() {
    on_the_embedded_broker(30, 200_000);
}

#[test]
#[ignore = "needs Java and Maven for Apache Kafka"]
fn the_same_on_apache_kafka() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start("kafka", &folder.path().join("kafka"));
    run(&format!("127.0.0.1:{}", server.port), folder.path(), 10, 20_000);
}
