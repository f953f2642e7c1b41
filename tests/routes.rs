//! Routes while the router is killed with SIGKILL: each record reaches each target that it matches exactly once for
//! those who read committed records, byte for byte.
//!
//! Records that a target refuses for good become dead letters, exactly once too; routers of the same routes share the
//! partitions and take over from a dead one.
//!
//! The short forms (20,000 records, 5 kills, the embedded broker) run with `cargo test`; 200,000 records with 30 kills, two
//! routers of one name, and the same on a real Apache Kafka, are ignored: `cargo test --test routes -- --ignored`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that fails says where

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_log::admin::{Admin, NewTopic, OffsetAt};
use millrace_log::client::reader::{Met, TopicReader};
use millrace_log::client::{BatchProducer as _, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
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

/// Waits until the route's group has committed this many records.
fn until_routed(runtime: &tokio::runtime::Runtime, admin: &mut Admin, records: usize, configs: &[&Path]) {
    until("all is routed", Duration::from_secs(300), || {
        let committed = runtime.block_on(admin.committed("millrace-route-logs")).map_err(|e| e.to_string())?;
        let at: i64 = committed.values().map(|c| c.offset).sum();
        if at == i64::try_from(records).unwrap() {
            return Ok(());
        }
        let out: String =
            configs.iter().filter_map(|c| std::fs::read_to_string(c.with_extension("out")).ok()).collect();
        Err(format!("{at} of {records}\n{out}"))
    });
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
    let producer = WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap();
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
    until_routed(&runtime, &mut admin, records, &[&config]);
    assert_eq!(router.stop(), 0);
    let topic = runtime.block_on(admin.topic("bad")).unwrap();
    let ends = runtime.block_on(admin.offsets(std::slice::from_ref(&topic), OffsetAt::End)).unwrap();
    let stable = runtime.block_on(admin.offsets(&[topic], OffsetAt::StableEnd)).unwrap();
    assert_eq!(ends, stable, "no transaction is left open");
    assert_routed(read_all(&connection, "bad"), &sent, |n| matches!(level(n), "error" | "warn"), false);
    assert_routed(read_all(&connection, "s1"), &sent, |n| n % 3 == 1 && level(n) != "debug", true);
}

/// The embedded broker in a process of its own, and its address.
fn broker_in(folder: &Path) -> (Running, String) {
    let port = free_port();
    let config = folder.join("broker.yaml");
    std::fs::write(&config, format!("data_dir: {}/data\nbroker: {{listen: \"127.0.0.1:{port}\"}}\n", folder.display()))
        .unwrap();
    (Running::start("broker", &config), format!("127.0.0.1:{port}"))
}

fn on_the_embedded_broker(kills: usize, records: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (broker, address) = broker_in(folder.path());
    run(&address, folder.path(), kills, records);
    assert_eq!(broker.stop(), 0);
}

/// A broker with the source `logs`, its clients, and routers to start.
struct Scene {
    folder: tempfile::TempDir,
    broker: Running,
    address: String,
    connection: ConnectionConfig,
    runtime: tokio::runtime::Runtime,
    admin: Admin,
    producer: WireProducer,
    sent: Vec<Record>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (broker, address) = broker_in(folder.path());
        let connection = ConnectionConfig { brokers: vec![address.clone()], ..ConnectionConfig::default() };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let admin = until("the broker answers", Duration::from_secs(60), || {
            runtime.block_on(Admin::connect(&connection)).map_err(|e| e.to_string())
        });
        let producer = WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap();
        let mut scene = Self { folder, broker, address, connection, runtime, admin, producer, sent: Vec::new() };
        scene.topic("logs", &[]);
        scene
    }

    fn topic(&mut self, name: &str, settings: &[(&str, &str)]) {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let new = NewTopic { name: name.to_owned(), partitions: PARTITIONS, replication: -1, settings };
        self.runtime.block_on(self.admin.create_topic(&new, false)).unwrap();
    }

    /// Configuration of a router with a folder of its own.
    fn router(&self, folder: &str, instance: &str, routes: &str) -> PathBuf {
        let folder = self.folder.path().join(folder);
        std::fs::create_dir(&folder).unwrap();
        let config = folder.join("router.yaml");
        let (at, brokers) = (folder.display(), &self.address);
        std::fs::write(
            &config,
            format!(
                "data_dir: {at}\nbroker:\n  listen: \"{brokers}\"\n  routing: {{instance: \"{instance}\", linger: 20ms, \
                 max_records: 300, transaction_timeout: 5s}}\n  routes:\n{routes}"
            ),
        )
        .unwrap();
        config
    }

    /// Sends more records, in parts that go to one partition after the other.
    fn send(&mut self, records: Vec<Record>) {
        for (i, part) in records.chunks(50).enumerate() {
            let to = TopicPartition::new("logs", i32::try_from(i).unwrap() % PARTITIONS);
            self.runtime.block_on(self.producer.send(&to, part.to_vec())).unwrap();
        }
        self.sent.extend(records);
    }

    /// Sends this many of the usual records more.
    fn send_lines(&mut self, count: usize) {
        let (from, now_ms) = (self.sent.len(), SystemClock.now_ms());
        self.send((from..from + count).map(|n| record(n, now_ms)).collect());
    }

    fn until_routed(&mut self, configs: &[&Path]) {
        until_routed(&self.runtime, &mut self.admin, self.sent.len(), configs);
    }
}

/// Bytes that don't become fewer when they are compressed.
fn noise(random: &mut StdRng, count: usize) -> Bytes {
    (0..count).map(|_| random.random::<u8>()).collect()
}

#[test]
fn records_that_a_target_refuses_are_dead_letters_exactly_once() {
    let mut scene = Scene::new();
    scene.topic("small", &[("max.message.bytes", "2000")]);
    scene.topic("millrace.dlq", &[("max.message.bytes", "20000")]);
    let routes = "    - {from: logs, to: small}\n    - {from: logs, to: all}\n";
    let config = scene.router("router", "1", routes);
    let mut router = Running::start("router", &config);
    let mut random = StdRng::seed_from_u64(7);
    let now_ms = SystemClock.now_ms();
    // Too large for the target; one in between is too large for the dead letters too.
    let size = |n: usize| match n {
        _ if n % 300 == 299 => 50_000,
        _ if n % 100 == 33 => 5_000,
        _ => 20,
    };
    let records = (0..1200).map(|n| Record { value: Some(noise(&mut random, size(n))), ..record(n, now_ms) });
    let records: Vec<Record> =
        records.map(|r| Record { key: Some(r.value.clone().unwrap().slice(..16)), ..r }).collect();
    let number: HashMap<Bytes, usize> = records.iter().enumerate().map(|(n, r)| (r.key.clone().unwrap(), n)).collect();
    for part in records.chunks(400) {
        scene.send(part.to_vec());
        std::thread::sleep(Duration::from_millis(700));
        router.kill();
        router = Running::start("router", &config);
    }
    scene.until_routed(&[&config]);
    assert_eq!(router.stop(), 0);
    let found = |topic: &str| -> HashMap<usize, Record> {
        let all = read_all(&scene.connection, topic);
        let count = all.len();
        let by_number: HashMap<_, _> = all.into_iter().map(|(_, r)| (number[r.key.as_ref().unwrap()], r)).collect();
        assert_eq!(by_number.len(), count, "{topic} has records twice");
        by_number
    };
    let (small, all, letters) = (found("small"), found("all"), found("millrace.dlq"));
    for (n, sent) in scene.sent.iter().enumerate() {
        assert_eq!(all.get(&n), Some(sent), "record {n} of the route that takes all");
        let fits = size(n) == 20;
        assert_eq!(small.get(&n), fits.then_some(sent), "record {n} of the route to the small topic");
        let Some(letter) = letters.get(&n) else {
            assert!(fits, "record {n} is lost");
            continue;
        };
        assert!(!fits, "record {n} is a dead letter");
        let header = |name: &str| String::from_utf8(letter.header(name).unwrap().to_vec()).unwrap();
        assert_eq!(header("dlq.stage"), "route");
        assert!(header("dlq.from").starts_with("logs-"), "{}", header("dlq.from"));
        let mut want = "route logs-to-small to small: larger than `max.message.bytes` of the target".to_owned();
        if size(n) == 50_000 {
            want.push_str(", its value of 50000 bytes is left out");
        }
        assert_eq!(header("dlq.reason"), want);
        let value = sent.value.clone().filter(|_| size(n) == 5_000);
        assert_eq!((&letter.value, &letter.headers[..4]), (&value, &sent.headers[..]), "record {n}");
    }
    assert_eq!(scene.broker.stop(), 0);
}

/// Number of a series of the router's metrics, by the start of its line.
fn metric(http: u16, series: &str) -> f64 {
    let text = support::get(&format!("http://127.0.0.1:{http}/metrics")).map(|(_, text)| text).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|rest| rest.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

#[test]
fn a_record_whose_time_nobody_takes_is_one_dead_letter_with_another_time() {
    let mut scene = Scene::new();
    let bounds = [("message.timestamp.before.max.ms", "3600000")];
    scene.topic("strict", &bounds);
    scene.topic("millrace.dlq", &bounds);
    let config = scene.router("router", "1", "    - {from: logs, to: strict}\n");
    let router = Running::start("router", &config);
    let now_ms = SystemClock.now_ms();
    let old_ms = now_ms - 10 * 3_600_000;
    let is_old = |n: usize| n == 77 || n == 180;
    let records: Vec<Record> = (0..400)
        .map(|n| Record { timestamp_ms: if is_old(n) { old_ms } else { now_ms }, ..record(n, now_ms) })
        .collect();
    scene.send(records);
    scene.until_routed(&[&config]);
    assert_eq!(router.stop(), 0);
    let sent = scene.sent.clone();
    assert_routed(read_all(&scene.connection, "strict"), &sent, |n| !is_old(n), false);
    let letters = read_all(&scene.connection, "millrace.dlq");
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (_, letter) in letters {
        let header = |name: &str| String::from_utf8(letter.header(name).unwrap().to_vec()).unwrap();
        assert_eq!(header("dlq.reason"), "route logs-to-strict to strict: its time is out of the target's bounds");
        assert_eq!(header("dlq.timestamp"), old_ms.to_string());
        assert!(letter.timestamp_ms >= now_ms, "{}", letter.timestamp_ms);
        assert!(letter.value.is_some());
    }
    assert_eq!(scene.broker.stop(), 0);
}

#[test]
fn a_letter_that_nobody_takes_is_tried_with_growing_waits_and_reported() {
    let mut scene = Scene::new();
    scene.topic("small", &[("max.message.bytes", "2000")]);
    // Takes nothing at all.
    scene.topic("millrace.dlq", &[("max.message.bytes", "1")]);
    let config = scene.router("router", "1", "    - {from: logs, to: small}\n");
    let http = free_port();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("  routing:", &format!("  http: \"127.0.0.1:{http}\"\n  routing:"))).unwrap();
    let router = Running::start("router", &config);
    let mut random = StdRng::seed_from_u64(7);
    let now_ms = SystemClock.now_ms();
    scene.send((0..20).map(|n| Record { value: Some(noise(&mut random, 5_000)), ..record(n, now_ms) }).collect());
    let ready = |http: u16| support::get(&format!("http://127.0.0.1:{http}/ready")).unwrap_or_default();
    let why = "`millrace.dlq` refuses the dead letter of logs-0@0";
    until("the pause is reported", Duration::from_secs(30), || {
        let (status, text) = ready(http);
        if text.contains(why) { Ok(()) } else { Err(format!("{status} {text}")) }
    });
    until("the lag is known", Duration::from_secs(30), || match metric(http, "millrace_route_lag_records{") {
        lag if lag >= 20.0 => Ok(()),
        lag => Err(lag.to_string()),
    });
    let aborted = metric(http, "millrace_route_aborted_transactions_total{");
    assert!(aborted < 20.0, "{aborted} transactions given up");
    let larger = [("max.message.bytes".to_owned(), "1000000".to_owned())];
    scene.runtime.block_on(scene.admin.alter_topic("millrace.dlq", &larger, &[])).unwrap();
    scene.until_routed(&[&config]);
    assert_eq!(router.stop(), 0);
    assert_eq!(read_all(&scene.connection, "millrace.dlq").len(), 20);
    assert_eq!(scene.broker.stop(), 0);
}

#[test]
fn routers_of_the_same_route_share_it_and_take_over_from_a_dead_one() {
    let mut scene = Scene::new();
    let routes = "    - {from: logs, to: all}\n";
    let configs = [scene.router("one", "1", routes), scene.router("two", "2", routes)];
    let both = [configs[0].as_path(), configs[1].as_path()];
    let mut one = Running::start("router", &configs[0]);
    let two = Running::start("router", &configs[1]);
    scene.send_lines(3000);
    scene.until_routed(&both);
    // It dies under load, and nobody comes in its place: the other has all partitions once the group has noticed.
    scene.send_lines(3000);
    one.kill();
    scene.send_lines(2000);
    scene.until_routed(&both);
    // It comes back while the other works, which is stopped then.
    one = Running::start("router", &configs[0]);
    scene.send_lines(2000);
    assert_eq!(two.stop(), 0);
    scene.send_lines(1000);
    scene.until_routed(&both);
    assert_eq!(one.stop(), 0);
    assert_routed(read_all(&scene.connection, "all"), &scene.sent, |_| true, false);
    assert_eq!(scene.broker.stop(), 0);
}

#[test]
#[ignore = "takes two minutes"]
fn of_two_routers_of_one_name_the_later_copies_until_it_dies() {
    let mut scene = Scene::new();
    let routes = "    - {from: logs, to: all}\n";
    let configs = [scene.router("one", "1", routes), scene.router("two", "1", routes)];
    let both = [configs[0].as_path(), configs[1].as_path()];
    let one = Running::start("router", &configs[0]);
    scene.send_lines(2000);
    scene.until_routed(&both);
    let mut two = Running::start("router", &configs[1]);
    let says = |config: &Path, what: &str| {
        until(what, Duration::from_secs(60), || {
            let out = std::fs::read_to_string(config.with_extension("out")).unwrap_or_default();
            if out.contains(what) { Ok(()) } else { Err(out) }
        });
    };
    says(&configs[1], "routes run");
    scene.send_lines(2000);
    says(&configs[0], "another router named");
    scene.until_routed(&both);
    scene.send_lines(2000);
    two.kill();
    scene.send_lines(2000);
    // The first comes back by itself after its wait.
    scene.until_routed(&both);
    assert_eq!(one.stop(), 0);
    assert_routed(read_all(&scene.connection, "all"), &scene.sent, |_| true, false);
    assert_eq!(scene.broker.stop(), 0);
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
