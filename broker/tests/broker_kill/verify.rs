//! Holds what can be read against the book.
//!
//! In: the broker's address, the [`Book`]. Out: a panic that says what is lost, doubled or shown though it should not be.
//! Touches the loopback network. After each kill only what is new is read; at the end everything once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::book::{Book, Outcome, SharedBook};
use super::load::{KEYS, PARTITIONS, PLAIN, SHORT, TXN, client};

const LONG: Duration = Duration::from_secs(60);

/// A record that was read: offset, key, value.
type Read = (i64, Option<String>, String);

/// Reads everything, and goes on where it stopped.
pub struct Auditor {
    address: String,
    /// Read so far, by topic and partition.
    seen: BTreeMap<(&'static str, i32), Vec<Read>>,
    next: BTreeMap<(&'static str, i32), i64>,
    /// Log start offsets, which only rise.
    starts: BTreeMap<(&'static str, i32), i64>,
}

impl Auditor {
    pub fn new(address: &str) -> Self {
        let address = address.to_owned();
        Self { address, seen: BTreeMap::new(), next: BTreeMap::new(), starts: BTreeMap::new() }
    }

    /// What was acknowledged before this call is there, and group offsets have not gone back.
    pub fn audit(&mut self, book: &SharedBook, when: &str) {
        let debts = self.look(book, &[PLAIN, SHORT, TXN], false);
        self.streams(&debts, when);
        self.transactions(&debts, when, false);
        self.groups(&debts, when);
    }

    /// The same from the beginning, with nothing under way.
    pub fn audit_all(&mut self, book: &SharedBook, when: &str) {
        let before = std::mem::take(&mut self.seen);
        self.next.clear();
        let debts = self.look(book, &[PLAIN, SHORT, TXN, KEYS], true);
        for ((topic, partition), was) in before.iter().filter(|((topic, _), _)| [PLAIN, TXN].contains(topic)) {
            let is = &self.seen[&(*topic, *partition)];
            assert_eq!(is.get(..was.len()), Some(&was[..]), "{when}: {topic}-{partition} reads otherwise than before");
        }
        self.streams(&debts, when);
        self.transactions(&debts, when, true);
        self.groups(&debts, when);
        self.keys(&debts, when);
    }

    /// The book as it stands, then what is new in these topics; all of it if nobody writes any more.
    fn look(&mut self, book: &SharedBook, topics: &[&'static str], is_quiet: bool) -> Book {
        let debts = {
            let book = book.lock();
            assert!(book.failures.is_empty(), "{:?}", book.failures);
            Book {
                streams: book.streams.clone(),
                transactions: book.transactions.clone(),
                keys: book.keys.clone(),
                groups: book.groups.clone(),
                ..Book::default()
            }
        };
        for topic in topics {
            self.read(topic, &debts, is_quiet);
        }
        debts
    }

    fn read(&mut self, topic: &'static str, debts: &Book, is_quiet: bool) {
        let mut config = client(&self.address);
        config.set("group.id", "auditor").set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("auto.offset.reset", "error");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut assigned = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let place = (topic, partition);
            let (low, high) = consumer.fetch_watermarks(topic, partition, LONG).unwrap();
            let start = self.starts.entry(place).or_insert(low);
            assert!(*start <= low, "{topic}-{partition} began at {start}, now at {low}");
            *start = low;
            let next = self.next.entry(place).or_insert(low);
            assert!(*next <= high, "{topic}-{partition} was read up to {next} and ends at {high}");
            if *next < low {
                // Retention was faster.
                self.seen.remove(&place);
                *next = low;
            }
            assigned.add_partition_offset(topic, partition, Offset::Offset(*next)).unwrap();
        }
        consumer.assign(&assigned).unwrap();
        let deadline = Instant::now() + LONG;
        let mut ended = BTreeSet::new();
        while ended.len() < assigned.count() {
            assert!(Instant::now() < deadline, "reading {topic} does not come to an end: {ended:?}");
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8(b.to_vec()).unwrap());
                    let read = (message.offset(), text(message.key()), text(message.payload()).unwrap_or_default());
                    let place = (topic, message.partition());
                    let seen = self.seen.entry(place).or_default();
                    assert!(seen.last().is_none_or(|(last, ..)| *last < read.0), "{place:?}: offsets go back");
                    self.next.insert(place, read.0 + 1);
                    seen.push(read);
                    // The writers go on, so the end moves away: enough is what was owed.
                    if !is_quiet && topic != TXN && self.is_paid(place, debts) {
                        ended.insert(message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                }
                None => {}
                Some(Err(error)) => assert!(
                    matches!(error.rdkafka_error_code(), Some(code) if is_passing(code)),
                    "reading {topic} failed: {error}"
                ),
            }
        }
    }

    /// Whether all that was acknowledged on a partition has been read.
    fn is_paid(&self, place: (&'static str, i32), debts: &Book) -> bool {
        let owed = debts.streams.iter().filter(|((topic, _, partition), _)| (topic.as_str(), *partition) == place);
        owed.filter_map(|(_, stream)| stream.acked.last_key_value()).all(|(_, offset)| self.next[&place] > *offset)
    }

    fn streams(&self, debts: &Book, when: &str) {
        for ((topic, producer, partition), stream) in &debts.streams {
            let topic = name(topic);
            let start = self.starts[&(topic, *partition)];
            let seen = self.seen.get(&(topic, *partition)).map(Vec::as_slice).unwrap_or_default();
            let mut numbers = BTreeMap::new();
            let mut last = None;
            for (offset, _, value) in seen {
                let mut words = value.split(' ').map(|word| word.parse::<u64>().unwrap_or_default());
                let (of, number) = (words.next().unwrap(), words.next().unwrap());
                if of != u64::from(*producer) {
                    continue;
                }
                if let Some(last) = last {
                    assert_eq!(number, last + 1, "{when}: {topic}-{partition} producer {producer} at {offset}");
                }
                last = Some(number);
                numbers.insert(number, *offset);
            }
            for (number, offset) in stream.acked.iter().filter(|(_, offset)| **offset >= start) {
                let found = numbers.get(number);
                assert_eq!(found, Some(offset), "{when}: {topic}-{partition} producer {producer} record {number}");
            }
        }
    }

    fn transactions(&self, debts: &Book, when: &str, is_quiet: bool) {
        let mut shown: BTreeMap<(u32, u64), BTreeSet<u64>> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let mut last: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for (offset, _, value) in self.seen.get(&(TXN, partition)).into_iter().flatten() {
                let words: Vec<u64> = value.split(' ').map(|word| word.parse().unwrap()).collect();
                let (producer, number, record) = (u32::try_from(words[0]).unwrap(), words[1], words[2]);
                let before = last.insert(producer, (number, record));
                assert!(before < Some((number, record)), "{when}: order of producer {producer} at {offset}");
                assert!(shown.entry((producer, number)).or_default().insert(record), "{when}: {value} is there twice");
            }
        }
        for (of, records) in &shown {
            let outcome = debts.transactions.get(of).map(|transaction| transaction.outcome);
            assert_ne!(outcome, Some(Outcome::Aborted), "{when}: transaction {of:?} was aborted and is shown");
            assert!(!is_quiet || outcome.is_some(), "{when}: transaction {of:?} is in no book: {records:?}");
        }
        if !is_quiet {
            return;
        }
        for (of, transaction) in &debts.transactions {
            let found = shown.get(of).map_or(0, BTreeSet::len);
            let whole = usize::try_from(transaction.records).unwrap();
            let fits = match transaction.outcome {
                Outcome::Committed => found == whole,
                Outcome::Aborted => found == 0,
                Outcome::Open | Outcome::Unknown => found == whole || found == 0,
            };
            assert!(fits, "{when}: transaction {of:?} of {transaction:?} shows {found} records");
        }
    }

    fn groups(&self, debts: &Book, when: &str) {
        let names: BTreeSet<&str> = debts.groups.keys().map(|(group, ..)| group.as_str()).collect();
        for group in names {
            let consumer: BaseConsumer = client(&self.address).set("group.id", group).create().unwrap();
            let owed = debts.groups.iter().filter(|((of, ..), _)| of == group);
            for ((_, topic, partition), offset) in owed {
                let mut asked = TopicPartitionList::new();
                asked.add_partition(topic, *partition);
                let told = consumer.committed_offsets(asked, LONG).unwrap();
                let told = told.elements().first().and_then(|of| of.offset().to_raw()).unwrap_or(-1);
                assert!(told >= *offset, "{when}: {group} has committed {offset} of {topic}-{partition}, now {told}");
            }
        }
    }

    fn keys(&self, debts: &Book, when: &str) {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            for (offset, key, value) in self.seen.get(&(KEYS, partition)).into_iter().flatten() {
                let key = key.as_ref().unwrap().parse().unwrap();
                let number = value.split(' ').next().unwrap().parse().unwrap();
                let before = last.insert(key, number);
                assert!(before < Some(number), "{when}: key {key} at {offset}: {number} after {before:?}");
            }
        }
        for (key, number) in &debts.keys {
            let found = last.get(key);
            assert!(found >= Some(number), "{when}: key {key} was acknowledged with {number} and has {found:?}");
        }
    }
}

fn is_passing(code: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(code, Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve)
}

fn name(topic: &str) -> &'static str {
    [PLAIN, SHORT, TXN, KEYS].into_iter().find(|name| *name == topic).unwrap()
}
