//! Static members of a cooperative group while the broker is killed: every acknowledged commit is what is fetched.
//!
//! Three members with a `group.instance.id` each read four partitions and commit after every record, synchronously. After each
//! kill and restart the fetched offset of a partition is at least the last acknowledged one and at most the last one tried;
//! at the end, when nothing is in flight, it is the last acknowledged one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::broker::Victim;

const GROUP: &str = "static";
const TOPIC: &str = "work";
const PARTITIONS: i32 = 4;
const MEMBERS: usize = 3;
const RECORDS: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The last offset of a partition that was tried, and the last that was acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Committed {
    tried: i64,
    acknowledged: i64,
    acknowledgements: usize,
}

type Commits = Arc<Mutex<BTreeMap<i32, Committed>>>;

fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("socket.timeout.ms", "3000").set("reconnect.backoff.max.ms", "200");
    config
}

#[tokio::main(flavor = "current_thread")]
async fn make_topic(address: &str) {
    let admin: AdminClient<DefaultClientContext> = config(address).create().unwrap();
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    for made in admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
}

fn fill(address: &str) {
    let producer: BaseProducer =
        config(address).set("linger.ms", "20").set("batch.num.messages", "10").create().unwrap();
    for n in 0..RECORDS {
        let partition = (n % PARTITIONS as usize) as i32;
        let record = BaseRecord::<(), [u8]>::to(TOPIC).partition(partition).payload(b"x");
        producer.send(record).unwrap();
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Reads and commits until it is stopped.
fn member(number: usize, address: &str, commits: &Commits, stop: &AtomicBool) {
    let consumer: BaseConsumer = config(address)
        .set("group.id", GROUP)
        .set("group.instance.id", format!("member-{number}"))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "300")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        // A member with two partitions reads them in turns.
        .set("queued.min.messages", "1")
        .set("max.partition.fetch.bytes", "1000")
        .create()
        .unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    while !stop.load(Ordering::Relaxed) {
        // Faults are those of a broker that is gone; the client goes on by itself.
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let (partition, next) = (record.partition(), record.offset() + 1);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, partition, Offset::Offset(next)).unwrap();
        {
            let mut commits = commits.lock();
            let of = commits.entry(partition).or_default();
            of.tried = of.tried.max(next);
        }
        if consumer.commit(&list, CommitMode::Sync).is_ok() {
            let mut commits = commits.lock();
            let of = commits.entry(partition).or_default();
            assert!(next > of.acknowledged, "partition {partition}: {next} is read again after a commit of {of:?}");
            of.acknowledged = next;
            of.acknowledgements += 1;
        }
    }
}

/// What the broker says is committed.
fn fetched(address: &str) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = config(address).set("group.id", GROUP).create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition(TOPIC, partition);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.committed_offsets(list.clone(), Duration::from_secs(5)) {
            Ok(found) => {
                let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
                return found.elements().iter().map(|e| (e.partition(), offset(e.offset()))).collect();
            }
            Err(error) => assert!(Instant::now() < deadline, "offsets can't be fetched: {error}"),
        }
    }
}

/// Waits until every partition has so many more acknowledged commits.
fn until_committed(commits: &Commits, more: usize) {
    let before = commits.lock().clone();
    let deadline = Instant::now() + PATIENCE;
    let has_more = |commits: &BTreeMap<i32, Committed>| {
        let count = |of: &BTreeMap<i32, Committed>, n| of.get(&n).map_or(0, |c: &Committed| c.acknowledgements);
        (0..PARTITIONS).all(|n| count(commits, n) >= count(&before, n) + more)
    };
    while !has_more(&commits.lock()) {
        assert!(Instant::now() < deadline, "no more commits: {:?}", commits.lock());
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Kills the broker so often.
pub fn run(kills: usize) {
    let mut victim = Victim::new();
    victim.start();
    let address = victim.address();
    make_topic(&address);
    fill(&address);
    let (commits, stop) = (Commits::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for number in 0..MEMBERS {
            let (address, commits, stop) = (&address, &commits, &stop);
            scope.spawn(move || member(number, address, commits, stop));
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for kill in 0..kills {
                until_committed(&commits, 20 + kill);
                let acknowledged = commits.lock().clone();
                victim.kill();
                let tried = commits.lock().clone();
                victim.start();
                let after = fetched(&address);
                let most = commits.lock().clone();
                for (partition, offset) in after {
                    let (least, tried, most) = (acknowledged[&partition], tried[&partition], most[&partition]);
                    assert!(
                        (least.acknowledged..=most.tried.max(tried.tried)).contains(&offset),
                        "kill {kill}, partition {partition}: {offset} is fetched, acknowledged {least:?}, tried {most:?}"
                    );
                }
            }
            until_committed(&commits, 5);
        }));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap();
    });
    let commits = commits.lock();
    for (partition, offset) in fetched(&address) {
        assert_eq!(offset, commits[&partition].acknowledged, "partition {partition} in the end");
    }
    victim.stop();
}
