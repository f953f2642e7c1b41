//! Consumer speed: CPU that our own consumer and librdkafka's take for the same records.
//!
//! In: `fill ADDRESS TOPIC RECORDS` writes records of 150 bytes with two headers to four partitions; `ours ADDRESS TOPIC
//! RECORDS`, `loop …` (our consumer under the loop of index, exports and routes) and `librdkafka …` read that many with
//! keys, values and headers as records of their own.
//! Out: one line of JSON. Start a broker with the example `broker`.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millrace_log::client::{
    BatchProducer as _, ConnectionConfig, Consumed, DELIVERY_TIMEOUT, Limits, StartAt, WireConsumer, WireProducer,
};
use millrace_log::clock::SystemClock;
use millrace_log::consume::{
    Batch, Consumer, ConsumerMetrics, ConsumerSettings, ConsumerStatus, Control, Delivery, Keeping, Offered, Setback,
};
use millrace_log::record::{HeaderName, Record, TopicPartition};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 4;
const LABELS: &str = r#"{"env":"prod","filename":"/var/log/checkout/app.log","host":"web-7","service":"checkout"}"#;

fn connection(address: &str) -> ConnectionConfig {
    ConnectionConfig { brokers: vec![address.to_owned()], ..ConnectionConfig::default() }
}

/// CPU-seconds of this process so far.
fn cpu() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).ok_or("no times of this process");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

#[tokio::main]
async fn fill(address: &str, topic: &str, records: usize) -> Outcome<usize> {
    let producer = WireProducer::new(&connection(address), Some(DELIVERY_TIMEOUT))?;
    producer.ensure_topic(topic, PARTITIONS).await?;
    let mut random = 1_u64;
    for (number, from) in (0..records).step_by(5000).enumerate() {
        let batch = (from..(from + 5000).min(records)).map(|n| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = format!(
                "2026-11-30T08:15:{:02}.{:03}Z INFO checkout order {random:016x} took {} ms, customer {} in region eu-west-1, cart {n}",
                n % 60, n % 1000, random % 900, random >> 44
            );
            let mut fixed = vec![1; 40];
            fixed[8..16].copy_from_slice(&random.to_le_bytes());
            Record {
                timestamp_ms: 1_764_000_000_000 + n as i64,
                key: Some("0123456789abcdef".into()),
                value: Some(value.into()),
                headers: vec![("labels".into(), LABELS.into()), ("millrace".into(), fixed.into())],
            }
        });
        let to = TopicPartition::new(topic, i32::try_from(number).unwrap_or(0) % PARTITIONS);
        producer.send(&to, batch.collect()).await?;
    }
    Ok(records)
}

fn ours(address: &str, topic: &str, records: usize) -> Outcome<usize> {
    let consumer = WireConsumer::new(&connection(address), "speed")?;
    let starts: Vec<_> = (0..PARTITIONS).map(|p| (TopicPartition::new(topic, p), StartAt::Earliest)).collect();
    consumer.assign(&starts)?;
    let (mut read, mut bytes) = (0, 0);
    while read < records {
        let batch = consumer.poll_batch(5000, Duration::from_millis(100))?;
        read += batch.len();
        bytes += batch.iter().map(|one| size(&one.record)).sum::<usize>();
    }
    Ok(bytes)
}

/// The same by the loop that index, exports and routes stand on.
fn by_loop(address: &str, topic: &str, records: usize) -> Outcome<usize> {
    let (control, bytes) = (Control::default(), Arc::new(AtomicUsize::new(0)));
    let delivery = Nowhere { left: records, bytes: Arc::clone(&bytes), control: control.clone() };
    let settings = ConsumerSettings {
        topics: vec![topic.to_owned()],
        discover_interval: Duration::from_secs(5),
        identity: "speed".to_owned(),
        kind: "example",
        fenced_hint: "",
    };
    let status = ConsumerStatus::new("speed", Vec::new(), &ConsumerMetrics::default(), &[]);
    let reader = WireConsumer::new(&connection(address), "speed")?;
    let clock = Arc::new(SystemClock);
    Consumer::new(reader, delivery, settings, clock, status, control, CancellationToken::new()).run()?;
    Ok(bytes.load(Ordering::Relaxed))
}

/// Takes records and keeps none.
struct Nowhere {
    left: usize,
    bytes: Arc<AtomicUsize>,
    control: Control,
}

impl Delivery for Nowhere {
    type Record = Consumed;

    fn keeping(&self) -> Keeping {
        Keeping::Store
    }

    fn limits(&self) -> Limits {
        Limits { records: 5000, bytes: usize::MAX, wait: Duration::from_millis(100), linger: Duration::ZERO }
    }

    fn offer(&mut self, batch: Batch<Consumed>) -> Result<Offered<Consumed>, Setback> {
        let records = batch.stretches.iter().flat_map(|stretch| &stretch.records);
        self.bytes.fetch_add(records.map(|one| size(&one.record)).sum(), Ordering::Relaxed);
        self.left = self.left.saturating_sub(batch.len());
        if self.left == 0 {
            self.control.stop();
        }
        Ok(Offered::Taken)
    }
}

fn librdkafka(address: &str, topic: &str, records: usize) -> Outcome<usize> {
    let mut config = rdkafka::ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", address),
        ("group.id", "speed"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("fetch.wait.max.ms", "100"),
        ("queued.max.messages.kbytes", "65536"),
        ("queued.min.messages", "20000"),
    ] {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create()?;
    let mut list = rdkafka::TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut read, mut bytes) = (0, 0);
    let mut batch = Vec::with_capacity(5000);
    while read < records {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let own = bytes::Bytes::copy_from_slice;
        let headers = message.headers().map(|headers| {
            let of = |header: rdkafka::message::Header<'_, &[u8]>| {
                let name: HeaderName = if header.key == "labels" { "labels".into() } else { "millrace".into() };
                (name, header.value.map(own).unwrap_or_default())
            };
            headers.iter().map(of).collect()
        });
        let record = Record {
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            key: message.key().map(own),
            value: message.payload().map(own),
            headers: headers.unwrap_or_default(),
        };
        bytes += size(&record);
        batch.push((TopicPartition::new(message.topic(), message.partition()), message.offset(), record));
        read += 1;
        if batch.len() == 5000 {
            batch.clear();
        }
    }
    Ok(bytes)
}

fn size(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len) + headers
}

#[allow(clippy::print_stdout, reason = "an example talks to its terminal")]
fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, address, topic, records] = words.as_slice() else {
        return Err("usage: consume fill|ours|loop|librdkafka ADDRESS TOPIC RECORDS".into());
    };
    let (records, began, before) = (records.parse()?, Instant::now(), cpu()?);
    let bytes = match what.as_str() {
        "fill" => fill(address, topic, records)?,
        "ours" => ours(address, topic, records)?,
        "loop" => by_loop(address, topic, records)?,
        "librdkafka" => librdkafka(address, topic, records)?,
        other => return Err(format!("unknown command {other}").into()),
    };
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu()? - before);
    println!(
        "{}",
        serde_json::json!({"what": what, "records": records, "bytes": bytes, "seconds": seconds, "cpu_seconds": cpu,
            "us_per_record": cpu * 1e6 / records as f64})
    );
    Ok(())
}
