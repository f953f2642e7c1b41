//! The consumer of the index: all partitions of the configured topics, from where the catalog says, into a bounded channel.
//!
//! In: records of the log, by the loop of [`millrace_log::consume`]. Out: [`Fetched`] stretches to the indexer. Touches
//! nothing itself. The catalog keeps the positions, in the transaction of the split that holds the records; the offsets of the
//! group are displayed only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use millrace_log::client::{Consumed, Limits};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{Batch, Consumer, ConsumerSettings, Delivery, Keeping, Known, LogReader, Offered, Setback};
use millrace_log::record::TopicPartition;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use millrace_index::catalog::PartitionState;
use millrace_index::indexer::Shared;
use millrace_index::metrics::Metrics;
use millrace_index::progress::Fetched;

/// How long one poll waits: also how soon requests are seen.
const POLL: Duration = Duration::from_millis(50);

/// Any way to the log.
pub type Reader = Box<dyn LogReader<Record = Consumed>>;

/// Hands stretches to the indexer.
pub struct ToIndexer {
    out: Option<SyncSender<Vec<Fetched>>>,
    known: HashMap<TopicPartition, PartitionState>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// The consumer, reading on from `known`.
pub fn consumer(
    reader: Reader,
    config: &KafkaConfig,
    clock: SharedClock,
    known: HashMap<TopicPartition, PartitionState>,
    shared: &Shared,
    out: SyncSender<Vec<Fetched>>,
    cancel: CancellationToken,
) -> Consumer<Reader, ToIndexer> {
    let limits = Limits { records: config.batch_records, bytes: usize::MAX, wait: POLL, linger: Duration::ZERO };
    let delivery = ToIndexer { out: Some(out), known, limits, metrics: Arc::clone(&shared.metrics) };
    let settings = ConsumerSettings {
        topics: config.topics.clone(),
        discover_interval: config.discover_interval.0,
        identity: config.group.clone(),
        kind: "index",
        fenced_hint: "give each its own `aggregator.kafka.group`",
    };
    let (status, control) = (shared.progress.status().clone(), shared.progress.control().clone());
    Consumer::new(reader, delivery, settings, clock, status, control, cancel)
}

impl Delivery for ToIndexer {
    type Record = Consumed;

    fn keeping(&self) -> Keeping {
        Keeping::Store
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn known(&self, of: &TopicPartition) -> Option<Known> {
        let known = |state: &PartitionState| Known { epoch: state.epoch, next: state.next, topic_id: state.topic_id };
        self.known.get(of).map(known)
    }

    fn offer(&mut self, batch: Batch<Consumed>) -> Result<Offered<Consumed>, Setback> {
        let Some(out) = &self.out else { return Ok(Offered::Closed) };
        let Batch { generation, stretches } = batch;
        // Counted first: the indexer may take it at once.
        self.metrics.queue_batches.inc();
        let back = match out.try_send(stretches) {
            Ok(()) => return Ok(Offered::Taken),
            Err(TrySendError::Full(stretches)) => Offered::Full(Batch { generation, stretches }),
            Err(TrySendError::Disconnected(_)) => Offered::Closed,
        };
        self.metrics.queue_batches.dec();
        Ok(back)
    }

    fn close(&mut self) {
        self.out = None;
    }
}
