//! Clients that write and commit without pause, through every kill, and enter into the book what was acknowledged.
//!
//! In: the broker's address. Out: entries in the [`Book`]. Touches the loopback network; a thread per client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;

use super::book::{Outcome, SharedBook, Transaction};

/// Written by idempotent producers, read by groups.
pub const PLAIN: &str = "plain";
/// The same with retention.
pub const SHORT: &str = "short";
/// Written in transactions.
pub const TXN: &str = "transactions";
/// Compacted.
pub const KEYS: &str = "keys";

pub const PARTITIONS: i32 = 2;
const KEY_COUNT: u32 = 40;
const LONG: Duration = Duration::from_secs(60);
/// Time for an abort. librdkafka neither sends nor purges records that come back to it from a lost connection while it
/// aborts, and waits for them for all the time it is given: a new producer goes on at once.
const ABORT: Duration = Duration::from_secs(3);

pub fn client(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "100")
        .set("socket.connection.setup.timeout.ms", "5000");
    config
}

#[tokio::main(flavor = "current_thread")]
pub async fn make_topics(address: &str) {
    let admin: AdminClient<DefaultClientContext> = client(address).create().unwrap();
    let small = ("segment.bytes", "20000");
    let topic = |name, settings: &[(&'static str, &'static str)]| {
        settings.iter().fold(NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)), |topic, (key, value)| {
            topic.set(key, value)
        })
    };
    let topics = [
        topic(PLAIN, &[("segment.bytes", "200000")]),
        topic(SHORT, &[small, ("retention.bytes", "100000")]),
        topic(TXN, &[("segment.bytes", "100000")]),
        topic(KEYS, &[small, ("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1")]),
    ];
    for made in admin.create_topics(&topics, &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
}

/// All clients; they end at `stop`.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Lets them finish what they have begun.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

struct Client {
    address: String,
    book: SharedBook,
    stop: Arc<AtomicBool>,
    random: StdRng,
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The load is light: what counts is what is under way at a kill.
    fn rest(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..most_ms)));
    }
}

pub fn start(address: &str, book: &SharedBook, seed: u64) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let mut number = 0;
    let mut spawn = |work: Box<dyn FnOnce(Client) + Send>| {
        number += 1;
        let random = StdRng::seed_from_u64(seed.wrapping_add(number));
        let client = Client { address: address.to_owned(), book: Arc::clone(book), stop: Arc::clone(&stop), random };
        threads.push(std::thread::spawn(move || work(client)));
    };
    for producer in 0..2 {
        spawn(Box::new(move |client| write_numbers(client, PLAIN, producer)));
        spawn(Box::new(move |client| write_transactions(client, producer)));
    }
    spawn(Box::new(|client| write_numbers(client, SHORT, 0)));
    spawn(Box::new(write_keys));
    for (group, protocol) in [("group-classic", "classic"), ("group-next", "consumer")] {
        spawn(Box::new(move |client| read_as_group(client, group, protocol)));
    }
    Load { stop, threads }
}

/// What a record was, for its delivery report.
enum Sent {
    Number { topic: &'static str, producer: u32, number: u64 },
    Key { key: u32, number: u64 },
    InTransaction,
}

struct Reports {
    book: SharedBook,
    /// The connection was lost since this was last asked.
    was_cut: AtomicBool,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, _reason: &str) {
        use rdkafka::types::RDKafkaErrorCode as Code;
        if matches!(error.rdkafka_error_code(), Some(Code::BrokerTransportFailure | Code::AllBrokersDown)) {
            self.was_cut.store(true, Ordering::Relaxed);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        use rdkafka::Message as _;
        let mut book = self.book.lock();
        match (*sent, result) {
            (Sent::InTransaction, _) => {}
            (Sent::Number { topic, producer, number }, Ok(message)) => {
                let stream = book.streams.entry((topic.to_owned(), producer, message.partition())).or_default();
                let twice = stream.acked.insert(number, message.offset());
                assert!(twice.is_none(), "{topic} {producer}: {number} was acknowledged before");
            }
            (Sent::Key { key, number }, Ok(_)) => {
                let known = book.keys.entry(key).or_default();
                *known = number.max(*known);
            }
            // It has forever, so nothing but a fatal error ends it: the broker lost what it knew of the producer.
            (Sent::Number { .. } | Sent::Key { .. }, Err((error, _))) => {
                book.failures.push(format!("an idempotent producer gave up: {error}"));
            }
        }
    }
}

fn producer(client: &Client, settings: &[(&str, &str)]) -> ThreadedProducer<Reports> {
    let mut config = self::client(&client.address);
    config.set("enable.idempotence", "true").set("linger.ms", "2").set("message.timeout.ms", "0");
    // A batch of what waited during a restart must fit into a segment.
    config.set("batch.size", "8000");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create_with_context(Reports { book: Arc::clone(&client.book), was_cut: AtomicBool::new(false) }).unwrap()
}

fn write_numbers(mut client: Client, topic: &'static str, id: u32) {
    let codec = ["none", "lz4", "zstd"][usize::try_from(id).unwrap() % 3];
    let producer = producer(&client, &[("compression.type", codec)]);
    while client.goes_on() {
        for _ in 0..client.random.random_range(1..8) {
            let partition = client.random.random_range(0..PARTITIONS);
            let number = {
                let mut book = client.book.lock();
                let stream = book.streams.entry((topic.to_owned(), id, partition)).or_default();
                stream.sent += 1;
                stream.sent - 1
            };
            let value = format!("{id} {number} {}", "x".repeat(client.random.random_range(0..120)));
            let sent = Box::new(Sent::Number { topic, producer: id, number });
            let mut record = BaseRecord::<(), str, Box<Sent>>::with_opaque_to(topic, sent)
                .partition(partition)
                .payload(value.as_str());
            while let Err((error, back)) = producer.send(record) {
                assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull));
                record = back;
                client.rest(20);
            }
        }
        client.rest(30);
    }
    producer.flush(LONG).unwrap();
}

fn write_keys(mut client: Client) {
    let producer = producer(&client, &[]);
    let mut number = 0;
    while client.goes_on() {
        for _ in 0..client.random.random_range(1..10) {
            number += 1;
            let key = client.random.random_range(0..KEY_COUNT);
            let name = key.to_string();
            let value = format!("{number} {}", "y".repeat(60));
            let record = BaseRecord::<str, str, Box<Sent>>::with_opaque_to(KEYS, Box::new(Sent::Key { key, number }))
                .partition(i32::try_from(key).unwrap() % PARTITIONS)
                .key(&name)
                .payload(&value);
            assert!(producer.send(record).is_ok());
        }
        client.rest(30);
    }
    producer.flush(LONG).unwrap();
}

/// What went wrong in a transaction, as its producer must act.
enum Trouble {
    Abort,
    Anew,
}

/// Tries a step until it is done.
fn step(mut act: impl FnMut() -> Result<(), KafkaError>) -> Result<(), Trouble> {
    let deadline = Instant::now() + LONG;
    loop {
        match act() {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
            Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => return Err(Trouble::Abort),
            Err(error) => {
                println!("a transactional producer begins anew: {error}");
                return Err(Trouble::Anew);
            }
        }
    }
}

fn write_transactions(mut client: Client, id: u32) {
    let (name, group) = (format!("txn-{id}"), format!("group-txn-{id}"));
    let consumer: BaseConsumer = self::client(&client.address).set("group.id", &group).create().unwrap();
    let mut number = 0;
    while client.goes_on() {
        let producer = producer(&client, &[("transactional.id", &name), ("transaction.timeout.ms", "120000")]);
        if step(|| producer.init_transactions(LONG)).is_err() {
            continue;
        }
        while client.goes_on() {
            number += 1;
            let records = client.random.random_range(1..12);
            let open = Transaction { records, outcome: Outcome::Open };
            client.book.lock().transactions.insert((id, number), open);
            // Some producers vanish in the middle.
            let vanishes = client.random.random_bool(0.05);
            let outcome = write_transaction(&mut client, &producer, &consumer, (id, number, records), vanishes);
            let was_cut = producer.context().was_cut.swap(false, Ordering::Relaxed);
            let mut book = client.book.lock();
            book.transactions.get_mut(&(id, number)).unwrap().outcome = outcome;
            if outcome == Outcome::Committed {
                book.commit(&group, PLAIN, 0, i64::try_from(number).unwrap());
            }
            // librdkafka gives sequence numbers of purged records to the next ones. If the broker holds the purged ones, it
            // takes the next ones for repeats: that would be this client's loss, so it goes on with a new epoch.
            let is_in_doubt = outcome == Outcome::Aborted && was_cut;
            if outcome == Outcome::Unknown || is_in_doubt {
                book.renewed += 1;
                break;
            }
            drop(book);
            client.rest(40);
        }
    }
    // What the last one left open ends.
    let last = producer(&client, &[("transactional.id", &name)]);
    assert!(step(|| last.init_transactions(LONG)).is_ok());
}

fn write_transaction(
    client: &mut Client,
    producer: &ThreadedProducer<Reports>,
    consumer: &BaseConsumer,
    (id, number, records): (u32, u64, u32),
    vanishes: bool,
) -> Outcome {
    let aborts = client.random.random_bool(0.3);
    let begun = (|| {
        step(|| producer.begin_transaction())?;
        for record in 0..records {
            let value = format!("{id} {number} {record}");
            let partition = client.random.random_range(0..PARTITIONS);
            let record = BaseRecord::<(), str, Box<Sent>>::with_opaque_to(TXN, Box::new(Sent::InTransaction))
                .partition(partition)
                .payload(value.as_str());
            producer.send(record).map_err(|_| Trouble::Abort)?;
            if client.random.random_bool(0.2) {
                client.rest(20);
            }
        }
        if vanishes {
            producer.flush(LONG).map_err(|_| Trouble::Anew)?;
            return Err(Trouble::Anew);
        }
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(PLAIN, 0, Offset::Offset(i64::try_from(number).unwrap())).unwrap();
        let group = consumer.group_metadata().unwrap();
        step(|| producer.send_offsets_to_transaction(&offsets, &group, LONG))?;
        if aborts { Err(Trouble::Abort) } else { step(|| producer.commit_transaction(Timeout::After(LONG))) }
    })();
    match begun {
        Ok(()) => Outcome::Committed,
        Err(Trouble::Anew) => Outcome::Unknown,
        Err(Trouble::Abort) => match producer.abort_transaction(ABORT) {
            Ok(()) => Outcome::Aborted,
            Err(_) => Outcome::Unknown,
        },
    }
}

fn read_as_group(mut client: Client, group: &str, protocol: &str) {
    let mut config = self::client(&client.address);
    config.set("group.id", group).set("group.protocol", protocol).set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest");
    if protocol == "classic" {
        config.set("session.timeout.ms", "10000");
    }
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[PLAIN]).unwrap();
    let mut read = 0;
    while client.goes_on() {
        if let Some(Ok(_)) = consumer.poll(Duration::from_millis(50)) {
            read += 1;
        }
        if read < 25 {
            continue;
        }
        read = 0;
        let positions = consumer.position().unwrap();
        let known: Vec<(i32, i64)> =
            positions.elements().iter().filter_map(|of| Some((of.partition(), of.offset().to_raw()?))).collect();
        let mut commit = TopicPartitionList::new();
        for (partition, offset) in known.iter().filter(|(_, offset)| *offset >= 0) {
            commit.add_partition_offset(PLAIN, *partition, Offset::Offset(*offset)).unwrap();
        }
        // A refused commit is one of a member that the group has passed by: it owes nothing.
        if commit.count() > 0 && consumer.commit(&commit, CommitMode::Sync).is_ok() {
            let mut book = client.book.lock();
            for (partition, offset) in known.into_iter().filter(|(_, offset)| *offset >= 0) {
                let before = book.groups.get(&(group.to_owned(), PLAIN.to_owned(), partition)).copied();
                assert!(before.is_none_or(|before| offset >= before), "{group} went back from {before:?} to {offset}");
                book.commit(group, PLAIN, partition, offset);
            }
        }
        client.rest(30);
    }
}
