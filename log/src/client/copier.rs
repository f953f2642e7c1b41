//! Copies records from a topic to others in transactions: a batch of records and the offsets behind them become
//! visible together, or not at all (KIP-98, KIP-447).
//!
//! In: a connection, a source topic, and for each record read where to. Out: committed transactions. Touches the network
//! through librdkafka. Its calls block: use it on a thread of its own. Leaves to its user which record goes where, and
//! when to try again.
//!
//! The consumer is a member of a group with a fixed instance id and the producer has a fixed transactional id, both
//! named after the router: one that comes back takes over from its dead self at once, and the brokers refuse what the
//! dead one may still have on its way. A batch is given up when partitions were taken away while it was filled.
//!
//! After a transaction that was given up the producer is made anew. librdkafka purges what was on its way then: it gives
//! the sequence numbers of these records to the next ones, which a broker that has the purged ones takes for repeats and
//! drops; and records that come back from a lost connection after the purge are neither sent nor purged, so that an abort
//! waits for them for all its time. A new producer has a new epoch, and its start aborts what the old one left open.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::util::Timeout;

use super::{ClientError, ConnectionConfig, Quiet};

/// How long one step of a transaction may take before it is given up.
const STEP: Duration = Duration::from_secs(60);
/// How long an abort may take: what it has not done by then, the start of the next producer does.
const ABORT: Duration = Duration::from_secs(2);
const QUEUE_WAIT: Duration = Duration::from_millis(50);
const WATERMARKS: Duration = Duration::from_secs(5);

/// Who copies.
#[derive(Debug, Clone)]
pub struct CopierSettings {
    /// Topic to read.
    pub from: String,
    /// Consumer group.
    pub group: String,
    /// Name of the transactions and of the group's member.
    pub identity: String,
    /// Time after which the broker aborts a transaction that nobody ends.
    pub transaction_timeout: Duration,
    /// Bytes of one record batch at most: what every target takes.
    pub max_batch_bytes: u64,
}

/// Why a batch was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The client can't be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another router of this name has taken over.
    #[error("another router named `{identity}` has taken over: give each its own `broker.routing.instance`")]
    Fenced {
        /// The name.
        identity: String,
    },
    /// The broker gave the transaction up.
    #[error(
        "transaction took longer than `broker.routing.transaction_timeout` ({limit:?}): raise it, or lower `max_records`"
    )]
    Slow {
        /// The limit.
        limit: Duration,
    },
    /// A target refused records for good; nothing of the batch was copied. Indexes into the outputs.
    #[error("{} records are refused by their target: {}", refused.len(), refused.first().map_or("", |(_, reason)| reason.as_str()))]
    Refused {
        /// Which outputs, and why.
        refused: Vec<(usize, String)>,
    },
    /// Nothing of the batch was copied; the same again may succeed with a new copier.
    #[error("transaction was given up at {step}: {source}")]
    Aborted {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: KafkaError,
    },
}

/// Where a record goes.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Index into the batch.
    pub record: usize,
    /// Topic to write.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Another value for a header of the record.
    pub replace: Option<(&'static str, Arc<[u8]>)>,
    /// Further headers.
    pub add: Vec<(&'static str, String)>,
    /// Without its value, as a last resort for what nobody takes.
    pub without_value: bool,
}

#[derive(Debug, Default)]
struct Membership {
    revoked: AtomicBool,
}

impl ClientContext for Membership {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Membership {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if !matches!(rebalance, Rebalance::Assign(_)) {
            self.revoked.store(true, Ordering::Release);
        }
    }
}

/// What the brokers said about single records.
#[derive(Debug, Default)]
struct Deliveries {
    failed: Mutex<Vec<(usize, KafkaError)>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, output: usize) {
        if let Err((error, _)) = result {
            self.failed.lock().push((output, error.clone()));
        }
    }
}

/// Records that were read together.
pub struct Batch<'c> {
    messages: Vec<BorrowedMessage<'c>>,
    bytes: usize,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} records)", self.messages.len())
    }
}

impl Batch<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of keys, values and headers, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partition and offset of a record.
    pub fn at(&self, record: usize) -> (i32, i64) {
        self.messages.get(record).map_or((-1, -1), |m| (m.partition(), m.offset()))
    }

    /// Bytes of a record's key and value.
    pub fn size_of(&self, record: usize) -> usize {
        self.messages.get(record).map_or(0, |m| m.key_len() + m.payload_len())
    }

    /// Bytes of a record's value alone.
    pub fn value_len(&self, record: usize) -> usize {
        self.messages.get(record).map_or(0, |m| m.payload_len())
    }

    /// The last value of a header.
    pub fn header(&self, record: usize, name: &str) -> Option<&[u8]> {
        let headers = self.messages.get(record)?.headers()?;
        (0..headers.count()).rev().map(|i| headers.get(i)).find(|h| h.key == name)?.value
    }
}

/// Reads one topic and writes others.
pub struct Copier {
    consumer: BaseConsumer<Membership>,
    producer: RefCell<Rc<BaseProducer<Deliveries>>>,
    /// How producers are made.
    producing: ClientConfig,
    settings: CopierSettings,
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copier({} of {})", self.settings.identity, self.settings.from)
    }
}

impl Copier {
    /// Joins the group and fences off an earlier copier of the same name.
    pub fn open(config: &ConnectionConfig, settings: &CopierSettings) -> Result<Self, CopyError> {
        let timeout_ms = settings.transaction_timeout.as_millis().to_string();
        let batch_bytes = settings.max_batch_bytes.clamp(1, 1_000_000).to_string();
        let mut client = config.client()?;
        for (name, value) in [
            ("transactional.id", settings.identity.as_str()),
            ("transaction.timeout.ms", timeout_ms.as_str()),
            ("linger.ms", "5"),
            ("batch.size", batch_bytes.as_str()),
            ("batch.num.messages", "10000"),
            ("compression.type", "zstd"),
            // The broker decides what is too large, not the client.
            ("message.max.bytes", "100000000"),
            ("queue.buffering.max.messages", "200000"),
            ("queue.buffering.max.kbytes", "262144"),
        ] {
            if !config.options.contains_key(name) {
                client.set(name, value);
            }
        }
        let producing = client;
        let mut client = config.client()?;
        for (name, value) in [
            ("group.id", settings.group.as_str()),
            ("group.instance.id", settings.identity.as_str()),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("session.timeout.ms", "10000"),
            ("fetch.wait.max.ms", "100"),
            ("queued.max.messages.kbytes", "65536"),
            ("queued.min.messages", "20000"),
            ("allow.auto.create.topics", "false"),
        ] {
            if !config.options.contains_key(name) {
                client.set(name, value);
            }
        }
        let producer = producing.create_with_context(Deliveries::default()).map_err(ClientError::Setup)?;
        let copier = Self {
            consumer: client.create_with_context(Membership::default()).map_err(ClientError::Setup)?,
            producer: RefCell::new(Rc::new(producer)),
            producing,
            settings: settings.clone(),
        };
        let producer = copier.producer();
        copier.step("its start", || producer.init_transactions(STEP))?;
        copier.consumer.subscribe(&[&settings.from]).map_err(ClientError::Setup)?;
        Ok(copier)
    }

    /// Waits up to `wait` for a first record, then fills a batch until `linger` is over or a limit is reached.
    pub fn gather(
        &self,
        wait: Duration,
        linger: Duration,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Batch<'_>, CopyError> {
        let mut batch = Batch { messages: Vec::new(), bytes: 0 };
        let mut until = Instant::now() + wait;
        while batch.messages.len() < max_records && batch.bytes < max_bytes {
            let left = until.saturating_duration_since(Instant::now());
            let polled = self.consumer.poll(Timeout::After(left));
            if self.consumer.context().revoked.swap(false, Ordering::AcqRel) {
                // Who has them now reads them again from the committed offsets, this copier too.
                batch.messages.clear();
                batch.bytes = 0;
                tracing::debug!(copier = self.settings.identity, "partitions were taken away, batch begun anew");
            }
            match polled {
                None if left.is_zero() => break,
                None => {}
                Some(Ok(message)) => {
                    if batch.messages.is_empty() {
                        until = Instant::now() + linger;
                    }
                    batch.bytes += message.key_len() + message.payload_len() + headers_len(&message);
                    batch.messages.push(message);
                }
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::Fatal) => return Err(self.fenced()),
                    Some(
                        RDKafkaErrorCode::TopicAuthorizationFailed
                        | RDKafkaErrorCode::GroupAuthorizationFailed
                        | RDKafkaErrorCode::UnknownTopicOrPartition,
                    ) => return Err(CopyError::Aborted { step: "reading", source: error }),
                    _ => tracing::debug!(%error, copier = self.settings.identity, "consumer"),
                },
            }
        }
        Ok(batch)
    }

    /// Writes the outputs and moves the group's offsets behind the batch, in one transaction. Outputs that are `alone`
    /// are sent one by one, so that a refusal is not about their neighbours.
    pub fn copy(&self, batch: &Batch<'_>, outputs: &[Output], alone: &dyn Fn(usize) -> bool) -> Result<(), CopyError> {
        if batch.is_empty() {
            return Ok(());
        }
        let producer = self.producer();
        producer.context().failed.lock().clear();
        let begun = Instant::now();
        self.step("its begin", || producer.begin_transaction())?;
        match self.fill(&producer, batch, outputs, alone) {
            Ok(()) => Ok(()),
            Err(error) => {
                // The broker says "fenced" also of a transaction that it gave up itself for its age.
                let limit = self.settings.transaction_timeout;
                let or_slow = |error| match error {
                    CopyError::Fenced { .. } if begun.elapsed() >= limit => CopyError::Slow { limit },
                    error => error,
                };
                if matches!(error, CopyError::Fenced { .. }) {
                    return Err(or_slow(error));
                }
                let refused = self.give_up(&producer).map_err(or_slow)?;
                drop(producer);
                self.renew()?;
                Err(if refused.is_empty() { error } else { CopyError::Refused { refused } })
            }
        }
    }

    fn producer(&self) -> Rc<BaseProducer<Deliveries>> {
        Rc::clone(&self.producer.borrow())
    }

    /// Aborts, as far as that is quick, and tells which outputs were refused for good.
    fn give_up(&self, producer: &BaseProducer<Deliveries>) -> Result<Vec<(usize, String)>, CopyError> {
        match producer.abort_transaction(ABORT) {
            Ok(()) => {}
            // A new producer would take the name back from who has it now.
            Err(error) if is_fenced(&error) => return Err(self.fenced()),
            Err(error) => {
                tracing::debug!(%error, copier = self.settings.identity, "abort is left to the next producer's start");
                producer.purge(PurgeConfig::default().queue().inflight());
            }
        }
        // Only now all deliveries are told: the first refusal purges everything that is still on its way.
        let deadline = Instant::now() + ABORT;
        while producer.in_flight_count() > 0 && Instant::now() < deadline {
            producer.poll(QUEUE_WAIT);
        }
        Ok(refusals(producer))
    }

    /// Another producer of the same name instead of the one that has given up a transaction.
    fn renew(&self) -> Result<(), CopyError> {
        let producer: BaseProducer<Deliveries> =
            self.producing.create_with_context(Deliveries::default()).map_err(ClientError::Setup)?;
        let producer = Rc::new(producer);
        self.step("its new start", || producer.init_transactions(STEP))?;
        drop(self.producer.replace(producer));
        Ok(())
    }

    fn fill(
        &self,
        producer: &BaseProducer<Deliveries>,
        batch: &Batch<'_>,
        outputs: &[Output],
        alone: &dyn Fn(usize) -> bool,
    ) -> Result<(), CopyError> {
        for (i, output) in outputs.iter().enumerate() {
            let alone = alone(i);
            if alone {
                self.settle(producer)?;
            }
            if let Some(message) = batch.messages.get(output.record) {
                send(producer, i, message, output)?;
            }
            if alone {
                self.settle(producer)?;
                if !producer.context().failed.lock().is_empty() {
                    break;
                }
            } else if i.is_multiple_of(1000) {
                producer.poll(Duration::ZERO);
            }
        }
        self.settle(producer)?;
        if let Some((_, error)) = producer.context().failed.lock().first() {
            return Err(CopyError::Aborted { step: "sending", source: error.clone() });
        }
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for message in &batch.messages {
            next.insert(message.partition(), message.offset() + 1);
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next {
            offsets
                .add_partition_offset(&self.settings.from, partition, KafkaOffset::Offset(offset))
                .map_err(ClientError::Setup)?;
        }
        let member = self
            .consumer
            .group_metadata()
            .ok_or_else(|| CopyError::Aborted { step: "asking for the membership", source: KafkaError::Canceled })?;
        self.step("its offsets", || producer.send_offsets_to_transaction(&offsets, &member, STEP))?;
        self.step("its commit", || producer.commit_transaction(STEP))
    }

    /// Waits until everything sent is delivered, or something of it failed: the transaction is lost then, and records
    /// that were on the wire behind a refused one come back to librdkafka's queue and stay there until their time-out.
    fn settle(&self, producer: &BaseProducer<Deliveries>) -> Result<(), CopyError> {
        let deadline = Instant::now() + STEP;
        self.step("sending", || {
            loop {
                match producer.flush(QUEUE_WAIT) {
                    Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut))
                        if producer.context().failed.lock().is_empty() && Instant::now() < deadline => {}
                    Err(_) if !producer.context().failed.lock().is_empty() => return Ok(()),
                    other => return other,
                }
            }
        })
    }

    /// Repeats a step as long as librdkafka says that this may help, up to a limit.
    fn step(&self, step: &'static str, act: impl Fn() -> Result<(), KafkaError>) -> Result<(), CopyError> {
        let deadline = Instant::now() + STEP;
        loop {
            match act() {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    tracing::debug!(%error, step, copier = self.settings.identity, "step is repeated");
                }
                Err(error) => {
                    return Err(if is_fenced(&error) {
                        self.fenced()
                    } else {
                        CopyError::Aborted { step, source: error }
                    });
                }
            }
        }
    }

    fn fenced(&self) -> CopyError {
        CopyError::Fenced { identity: self.settings.identity.clone() }
    }

    /// Records between the group's offsets and the ends, over the partitions of this member.
    pub fn lag(&self) -> Option<i64> {
        let assigned = self.consumer.assignment().ok()?;
        let committed = self.consumer.committed_offsets(assigned, WATERMARKS).ok()?;
        let mut lag = 0;
        for partition in committed.elements() {
            let (start, end) =
                self.consumer.fetch_watermarks(partition.topic(), partition.partition(), WATERMARKS).ok()?;
            let at = match partition.offset() {
                KafkaOffset::Offset(offset) => offset,
                _ => start,
            };
            lag += (end - at).max(0);
        }
        Some(lag)
    }
}

/// Hands a record to librdkafka.
fn send(
    producer: &BaseProducer<Deliveries>,
    i: usize,
    message: &BorrowedMessage<'_>,
    output: &Output,
) -> Result<(), CopyError> {
    let found = message.headers();
    let count = found.map_or(0, |headers| headers.count());
    let mut headers = OwnedHeaders::new_with_capacity(count + output.add.len());
    for header in found.into_iter().flat_map(|headers| headers.iter()) {
        let value = match &output.replace {
            Some((name, value)) if *name == header.key => Some(&value[..]),
            _ => header.value,
        };
        headers = headers.insert(Header { key: header.key, value });
    }
    for (key, value) in &output.add {
        headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
    }
    let mut record: BaseRecord<'_, [u8], [u8], usize> =
        BaseRecord::with_opaque_to(&output.topic, i).partition(output.partition);
    if count + output.add.len() > 0 {
        record = record.headers(headers);
    }
    if let Some(key) = message.key() {
        record = record.key(key);
    }
    if let Some(value) = message.payload().filter(|_| !output.without_value) {
        record = record.payload(value);
    }
    if let Some(ms) = message.timestamp().to_millis() {
        record = record.timestamp(ms);
    }
    let deadline = Instant::now() + STEP;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            // What is in the queue leaves by itself.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < deadline => {
                record = back;
                producer.poll(QUEUE_WAIT);
            }
            Err((error, _)) => {
                producer.context().failed.lock().push((i, error.clone()));
                return Err(CopyError::Aborted { step: "sending", source: error });
            }
        }
    }
}

/// Outputs of the failed transaction that would be refused again, with reasons.
fn refusals(producer: &BaseProducer<Deliveries>) -> Vec<(usize, String)> {
    let mut failed = std::mem::take(&mut *producer.context().failed.lock());
    failed.sort_by_key(|(i, _)| *i);
    failed.dedup_by_key(|(i, _)| *i);
    let for_good = |error: &KafkaError| {
        use RDKafkaErrorCode as C;
        matches!(
            error.rdkafka_error_code(),
            Some(
                C::MessageSizeTooLarge
                    | C::InvalidTimestamp
                    | C::InvalidRecord
                    | C::PolicyViolation
                    | C::InvalidMessage
            )
        )
    };
    failed.into_iter().filter(|(_, error)| for_good(error)).map(|(i, error)| (i, reason(&error))).collect()
}

fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    let code = error.rdkafka_error_code();
    matches!(code, Some(C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch | C::FencedInstanceId))
}

fn headers_len(message: &BorrowedMessage<'_>) -> usize {
    let headers = message.headers();
    headers.map_or(0, |all| all.iter().map(|h| h.key.len() + h.value.map_or(0, <[u8]>::len)).sum())
}

fn reason(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => "larger than `max.message.bytes` of the target".to_owned(),
        Some(RDKafkaErrorCode::InvalidTimestamp) => "its time is out of the target's bounds".to_owned(),
        Some(RDKafkaErrorCode::InvalidRecord) => {
            "the target takes no such record (without a key, it can't be compacted)".to_owned()
        }
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
