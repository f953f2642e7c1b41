//! A log in memory, for tests: topics that grow, lose their oldest records, break, and remember what was committed.
//!
//! In: records put by tests or sent by the publisher. Out: the same through [`LogReader`]. Touches nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_log::client::{BatchProducer, ClientError, Consumed, StartAt};
use millrace_log::record::{DocIdentity, Event, Labels, Position, Record, SourceId, Tenant, TopicPartition, encode};
use parking_lot::Mutex;

use millrace_log::client::Limits;
use millrace_log::consume::{LogReader, Start};

#[derive(Debug, Default)]
struct Partition {
    low: i64,
    records: BTreeMap<i64, Record>,
    high: i64,
}

#[derive(Debug, Default)]
struct Log {
    topics: BTreeMap<TopicPartition, Partition>,
    committed: HashMap<TopicPartition, i64>,
    refuse_sends: bool,
    unreachable: bool,
}

/// Shared by tests, readers and the dead-letter producer.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeLog(Arc<Mutex<Log>>);

impl FakeLog {
    pub(crate) fn put(&self, topic: &str, partition: i32, records: impl IntoIterator<Item = Record>) {
        let mut log = self.0.lock();
        let p = log.topics.entry(TopicPartition::new(topic, partition)).or_default();
        for record in records {
            p.records.insert(p.high, record);
            p.high += 1;
        }
    }

    /// A control record: takes an offset and is never seen.
    pub(crate) fn put_control(&self, topic: &str, partition: i32) {
        self.0.lock().topics.entry(TopicPartition::new(topic, partition)).or_default().high += 1;
    }

    pub(crate) fn truncate_before(&self, topic: &str, partition: i32, low: i64) {
        let mut log = self.0.lock();
        let p = log.topics.entry(TopicPartition::new(topic, partition)).or_default();
        p.low = low;
        p.records = p.records.split_off(&low);
    }

    pub(crate) fn delete(&self, topic: &str, partition: i32) {
        self.0.lock().topics.remove(&TopicPartition::new(topic, partition));
    }

    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        let log = self.0.lock();
        log.topics.iter().filter(|(tp, _)| &*tp.topic == topic).flat_map(|(_, p)| p.records.values().cloned()).collect()
    }

    pub(crate) fn committed(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.lock().committed.get(&TopicPartition::new(topic, partition)).copied()
    }

    pub(crate) fn refuse_sends(&self, refuse: bool) {
        self.0.lock().refuse_sends = refuse;
    }

    pub(crate) fn unreachable(&self, unreachable: bool) {
        self.0.lock().unreachable = unreachable;
    }

    pub(crate) fn reader(&self) -> Box<FakeReader> {
        Box::new(FakeReader { log: self.clone(), places: BTreeMap::new() })
    }

    fn reach(&self) -> Result<parking_lot::MutexGuard<'_, Log>, ClientError> {
        let log = self.0.lock();
        if log.unreachable {
            return Err(ClientError::Topic { topic: "logs".into(), reason: "the fake log is out of reach".into() });
        }
        Ok(log)
    }
}

#[derive(Debug)]
pub(crate) struct FakeReader {
    log: FakeLog,
    places: BTreeMap<TopicPartition, i64>,
}

impl LogReader for FakeReader {
    type Record = Consumed;

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        let log = self.log.reach()?;
        Ok(log.topics.keys().filter(|tp| &*tp.topic == topic).map(|tp| tp.partition).collect())
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        Ok(self.log.reach()?.topics.get(of).map_or((0, 0), |p| (p.low, p.high)))
    }

    fn assign(&mut self, partitions: &[Start]) -> Result<(), ClientError> {
        self.places = partitions
            .iter()
            .map(|(tp, at, _)| match at {
                StartAt::Offset(offset) => (tp.clone(), *offset),
                other => panic!("the aggregator starts at offsets, not {other:?}"),
            })
            .collect();
        Ok(())
    }

    fn seek(&mut self, of: &TopicPartition, to: i64) {
        self.places.insert(of.clone(), to);
    }

    fn poll(&mut self, limits: &Limits) -> Result<Vec<Consumed>, ClientError> {
        let mut batch = Vec::new();
        {
            let log = self.log.reach()?;
            for (tp, place) in &mut self.places {
                let Some(p) = log.topics.get(tp) else { continue };
                if *place < p.low || *place > p.high {
                    return Err(ClientError::OutOfRange {
                        topic_partition: tp.clone(),
                        offset: *place,
                        log_start: p.low,
                    });
                }
                for (offset, record) in p.records.range(*place..) {
                    if batch.len() >= limits.records {
                        break;
                    }
                    batch.push(Consumed {
                        partition: tp.clone(),
                        offset: *offset,
                        record: record.clone(),
                        unreadable: None,
                    });
                    *place = offset + 1;
                }
            }
        }
        if batch.is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(batch)
    }

    fn commit(&self, _: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        self.log.reach()?.committed.extend(next.iter().cloned());
        Ok(())
    }
}

#[async_trait::async_trait]
impl BatchProducer for FakeLog {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        if self.0.lock().refuse_sends {
            return Err(ClientError::Topic { topic: to.topic.to_string(), reason: "refused by the test".into() });
        }
        self.put(&to.topic, to.partition, batch);
        Ok(0)
    }

    async fn ensure_topic(&self, _topic: &str, partitions: i32) -> Result<i32, ClientError> {
        Ok(partitions)
    }
}

/// An event of a numbered source; its line says which it is.
pub(crate) fn event(source: u8, n: u64) -> Event {
    Event {
        tenant: Tenant::default(),
        time_ns: i64::try_from(n).unwrap() * 1_000_000_000,
        labels: Labels::new([("source", source.to_string())]),
        metadata: Labels::default(),
        line: Bytes::from(format!("source={source} n={n}")),
        source: SourceId([source; 16]),
        position: Position::at(n),
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

/// A document; its line is `id` and `version`.
pub(crate) fn document(source: u8, n: u64, id: &str, version: u32) -> Event {
    Event {
        line: Bytes::from(format!("id={id} version={version}")),
        labels: Labels::new([("index", "orders")]),
        doc: Some(Box::new(DocIdentity { index: "orders".into(), id: id.into(), op: Default::default() })),
        ..event(source, n)
    }
}

pub(crate) fn record(event: &Event) -> Record {
    encode(event, 0)
}
