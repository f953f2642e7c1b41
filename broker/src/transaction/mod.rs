//! The transaction coordinator: all transactional ids of the broker, and the topic that keeps them.
//!
//! In: requests of the broker's door, with the clock's time. Out: answers; markers in the partitions of transactions that
//! ended. Touches the partitioned log: each state is appended to `__transaction_state` and flushed before it is answered, and
//! read back at the start. Leaves the rules to [`state`], offsets within transactions to [`crate::group`] and the codes of
//! the wire to the door.
//!
//! A transaction ends in two steps. Once PrepareCommit or PrepareAbort is in the log, it is decided and the producer is
//! answered; then [`Coordinator::run`] writes the markers and, when all are durable, CompleteCommit or CompleteAbort. A
//! crash in between leaves it decided: the next start writes the markers, perhaps again, which changes nothing.
//!
//! The topic is bounded without compaction, as `__consumer_offsets` is: when a partition has grown, all that lives in it is
//! written again and what stands before is deleted.

/// What is counted.
mod metrics;
/// One transactional id: its producer and transaction.
pub mod state;
/// Records of the topic that keeps transactions.
pub mod records;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, FuturesUnordered};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::group::{Coordinator as Groups, OFFSETS_TOPIC};
use crate::keyed;
use crate::storage::{
    AppendError, AppendKind, Marker, Partition, ReadError, Storage, StorageError, TopicSettings, marker_batch,
};
use metrics::By;
pub use metrics::{EndingLabel, Standing, TransactionMetrics};
use millrace_log::clock::SharedClock;
use millrace_log::record::TopicPartition;
use millrace_log::value::{ByteSize, Faults, Span};
use state::{End, Init, ProducerEpoch, Protocol, State, Step, Txn, TxnError};

/// Where transactions are kept.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";
const TRANSACTION_PARTITIONS: i32 = 4;
/// States per batch when all is written again.
const ENTRIES_PER_BATCH: usize = 500;
/// Transactions that wait for their markers before the look around finds them itself.
const QUEUE: usize = 1024;
/// Transactions whose markers are being written at the same time.
const COMPLETING: usize = 64;
/// Markers of one transaction that are being written at the same time.
const MARKING: usize = 32;
/// Time between two looks at time-outs and at what was left undone.
const TICK: Duration = Duration::from_millis(500);
/// Time between two looks at what has expired.
const TIDY: Duration = Duration::from_secs(60);
/// How long a request waits for the end of the transaction before, instead of being told to come again.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long the markers under way may take at the stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Epoch of the coordinator: there is one, and it is never replaced.
pub const COORDINATOR_EPOCH: i32 = 0;

/// Transactions.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransactionConfig {
    /// Longest time-out that a producer may ask for (`transaction.max.timeout.ms`).
    pub max_timeout: Span,
    /// Time without a transaction after which a transactional id is forgotten (`transactional.id.expiration.ms`).
    pub id_expiry: Span,
    /// Size of a partition of `__transaction_state` at which it is written anew with what still counts.
    pub compact_at: ByteSize,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self { max_timeout: Span::secs(900), id_expiry: Span::secs(7 * 24 * 3600), compact_at: ByteSize::mib(32) }
    }
}

impl TransactionConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.max_timeout.0.is_zero() {
            faults.add("max_timeout", "must be longer than zero, e.g. `15m`");
        }
        if self.id_expiry.0.is_zero() {
            faults.add("id_expiry", "must be longer than zero, e.g. `7d`");
        }
    }
}

/// Gives producer ids that were never given before.
pub trait ProducerIds: Send + Sync + 'static {
    /// The next one; may block for a write to disk.
    fn next(&self) -> Result<i64, String>;
}

/// Why the coordinator can't start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The topic can't be made.
    #[error("topic {TRANSACTIONS_TOPIC} can't be made")]
    Topic(#[from] StorageError),
    /// The topic can't be read.
    #[error("topic {TRANSACTIONS_TOPIC} can't be read")]
    Read(#[from] ReadError),
}

/// A state on its way to the log.
#[derive(Debug)]
struct Pending {
    next: Option<Txn>,
    /// Who has it end, if it ends.
    by: By,
    /// Its request has gone, perhaps after the append: the look around finishes it.
    is_left: bool,
    /// It was appended: the log has it or will have, so it can't be taken back.
    is_appended: bool,
}

impl Pending {
    fn new(next: Option<Txn>, by: By) -> Self {
        Self { next, by, is_left: false, is_appended: false }
    }
}

#[derive(Debug)]
struct Inner {
    /// As the log has it; `None` before the first state is written, and after the last.
    txn: Option<Txn>,
    pending: Option<Pending>,
    /// Markers are being written.
    marking: bool,
    /// Taken out of the map: whoever still holds it looks again.
    is_gone: bool,
}

/// One transactional id.
#[derive(Debug)]
struct Slot {
    id: String,
    inner: Mutex<Inner>,
    moved: Notify,
}

impl Slot {
    fn new(id: &str, txn: Option<Txn>) -> Arc<Self> {
        let inner = Inner { txn, pending: None, marking: false, is_gone: false };
        Arc::new(Self { id: id.to_owned(), inner: Mutex::new(inner), moved: Notify::new() })
    }
}

/// While a request writes a state: if it goes before the end, the look around takes over.
struct Writing<'a>(&'a Slot);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(pending) = &mut self.0.inner.lock().pending {
            pending.is_left = true;
        }
    }
}

struct Marking<'a>(&'a Slot);

impl Drop for Marking<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().marking = false;
    }
}

/// All transactional ids.
pub struct Coordinator {
    storage: Arc<Storage>,
    clock: SharedClock,
    config: TransactionConfig,
    ids: Arc<dyn ProducerIds>,
    metrics: TransactionMetrics,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    /// One gate per partition of the topic: states pass together, writing anew alone.
    gates: Vec<tokio::sync::RwLock<()>>,
    partitions: Vec<Arc<Partition>>,
    queue: mpsc::Sender<Arc<Slot>>,
    queued: Mutex<Option<mpsc::Receiver<Arc<Slot>>>>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coordinator({} transactional ids)", self.slots.lock().len())
    }
}

/// Polynomial hash over UTF-16 units, as Kafka places transactional ids.
fn place(id: &str, partitions: usize) -> usize {
    let hash = id.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    usize::try_from(hash & i32::MAX).unwrap_or(0) % partitions.max(1)
}

fn check_id(id: &str) -> Result<(), TxnError> {
    if id.is_empty() { Err(TxnError::Invalid("the transactional id is empty")) } else { Ok(()) }
}

impl Coordinator {
    /// Makes the topic if need be and reads all that it holds.
    pub async fn open(
        storage: Arc<Storage>,
        clock: SharedClock,
        config: TransactionConfig,
        ids: Arc<dyn ProducerIds>,
    ) -> Result<Self, CoordinatorError> {
        let topic = match storage.topic(TRANSACTIONS_TOPIC) {
            Some(topic) => topic,
            None => {
                let mut settings = TopicSettings::default();
                // What is not deleted by age: the coordinator itself removes what no longer counts.
                settings.set("cleanup.policy", "compact").map_err(StorageError::from)?;
                settings.set("segment.bytes", "8388608").map_err(StorageError::from)?;
                storage.create_topic(TRANSACTIONS_TOPIC, TRANSACTION_PARTITIONS, settings).await?
            }
        };
        let partitions = topic.partitions();
        let gates = partitions.iter().map(|_| tokio::sync::RwLock::new(())).collect();
        let mut txns = HashMap::new();
        for partition in &partitions {
            load(partition, &mut txns).await?;
        }
        let slots = txns.into_iter().map(|(id, txn)| (id.clone(), Slot::new(&id, Some(txn)))).collect();
        let (queue, queued) = mpsc::channel(QUEUE);
        let queued = Mutex::new(Some(queued));
        let (metrics, slots) = (TransactionMetrics::default(), Mutex::new(slots));
        Ok(Self { storage, clock, config, ids, metrics, slots, gates, partitions, queue, queued })
    }

    fn slot(&self, id: &str) -> Option<Arc<Slot>> {
        self.slots.lock().get(id).cloned()
    }

    fn slot_or_new(&self, id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        Arc::clone(slots.entry(id.to_owned()).or_insert_with(|| Slot::new(id, None)))
    }

    async fn fresh_id(&self) -> Result<i64, TxnError> {
        let ids = Arc::clone(&self.ids);
        let given = tokio::task::spawn_blocking(move || ids.next()).await;
        given.map_err(|e| TxnError::NotAvailable(e.to_string()))?.map_err(TxnError::NotAvailable)
    }

    /// A producer without transactions gets an id.
    pub async fn init_idempotent(&self) -> Result<ProducerEpoch, TxnError> {
        Ok((self.fresh_id().await?, 0))
    }

    /// A producer with a transactional id starts, or goes on after an error with what it `had`: whoever used the id before
    /// is fenced, and an open transaction aborted.
    pub async fn init(&self, id: &str, timeout_ms: i32, had: Option<ProducerEpoch>) -> Result<ProducerEpoch, TxnError> {
        check_id(id)?;
        let max_ms = i64::try_from(self.config.max_timeout.0.as_millis()).unwrap_or(i64::MAX);
        if timeout_ms <= 0 || i64::from(timeout_ms) > max_ms {
            return Err(TxnError::Timeout { max_ms });
        }
        let mut fresh = None;
        loop {
            let slot = self.slot_or_new(id);
            settled(&slot).await;
            let next = {
                let mut inner = slot.inner.lock();
                if inner.is_gone {
                    continue;
                }
                if inner.pending.is_some() {
                    return Err(TxnError::Concurrent);
                }
                let needs_fresh = inner.txn.as_ref().is_none_or(Txn::is_exhausted);
                if needs_fresh && fresh.is_none() {
                    None
                } else {
                    let now_ms = self.clock.now_ms();
                    let txn = match (&inner.txn, fresh) {
                        (Some(txn), _) => txn.clone(),
                        (None, Some(producer_id)) => Txn::new(producer_id, timeout_ms, now_ms),
                        (None, None) => return Err(TxnError::Concurrent),
                    };
                    let init = txn.init(timeout_ms, had, fresh, now_ms)?;
                    let (Init::Ready(next) | Init::Abort(next)) = &init;
                    inner.pending = Some(Pending::new(Some(next.clone()), By::Successor));
                    Some(init)
                }
            };
            match next {
                None => fresh = Some(self.fresh_id().await?),
                Some(Init::Ready(next)) => {
                    self.write(&slot, true).await?;
                    return Ok(next.producer());
                }
                Some(Init::Abort(_)) => {
                    self.write(&slot, true).await?;
                    self.complete_soon(&slot);
                    return Err(TxnError::Concurrent);
                }
            }
        }
    }

    /// Partitions become part of a producer's transaction.
    pub async fn add(
        &self,
        id: &str,
        producer: ProducerEpoch,
        partitions: &[TopicPartition],
        protocol: Protocol,
    ) -> Result<(), TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::Mapping)?;
        settled(&slot).await;
        self.step(&slot, true, By::Producer, |txn, now_ms| txn.add(producer, partitions, protocol, now_ms))
            .await
            .map(drop)
    }

    /// Whether partitions are part of a producer's open transaction.
    pub fn verify(&self, id: &str, producer: ProducerEpoch, partition: &TopicPartition) -> Result<(), TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::Mapping)?;
        let inner = slot.inner.lock();
        inner.txn.as_ref().ok_or(TxnError::Mapping)?.verify(producer, partition)
    }

    /// A producer ends its transaction; decided and durable when it returns. Gives id and epoch for the next one.
    pub async fn end(&self, id: &str, producer: ProducerEpoch, end: End) -> Result<ProducerEpoch, TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::Mapping)?;
        settled(&slot).await;
        let needs_fresh =
            end.protocol == Protocol::Two && slot.inner.lock().txn.as_ref().is_some_and(Txn::is_exhausted);
        let fresh = if needs_fresh { Some(self.fresh_id().await?) } else { None };
        let now = self.step(&slot, true, By::Producer, |txn, now_ms| txn.end(producer, end, fresh, now_ms)).await?;
        if now.state.is_prepared() {
            self.complete_soon(&slot);
        }
        Ok(now.producer())
    }

    /// What there is to say of a transactional id.
    pub fn describe(&self, id: &str) -> Result<Txn, TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::NotFound)?;
        let txn = slot.inner.lock().txn.clone();
        txn.ok_or(TxnError::NotFound)
    }

    /// All transactional ids, sorted.
    pub fn list(&self) -> Vec<(String, Txn)> {
        let mut list: Vec<_> =
            self.all().into_iter().filter_map(|slot| Some((slot.id.clone(), slot.inner.lock().txn.clone()?))).collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list
    }

    /// What it counts.
    pub fn metrics(&self) -> &TransactionMetrics {
        &self.metrics
    }

    /// How many transactional ids there are in each state, and how long the oldest transaction has been open.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        let states = [
            State::Empty,
            State::Ongoing,
            State::PrepareCommit,
            State::PrepareAbort,
            State::CompleteCommit,
            State::CompleteAbort,
        ];
        let mut counts = [0; 6];
        let mut oldest_ms = i64::MAX;
        for slot in self.all() {
            let inner = slot.inner.lock();
            let Some(txn) = &inner.txn else { continue };
            for (state, count) in states.iter().zip(&mut counts) {
                *count += i64::from(*state == txn.state);
            }
            if txn.state == State::Ongoing || txn.state.is_prepared() {
                standing.open += 1;
                oldest_ms = oldest_ms.min(txn.start_ms);
            }
        }
        standing.by_state = states.iter().map(|state| state.name()).zip(counts).collect();
        if standing.open > 0 {
            standing.longest_ms = self.clock.now_ms().saturating_sub(oldest_ms).max(0);
        }
        standing
    }

    /// The time that it goes by, ms since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().values().cloned().collect()
    }

    /// Takes a step, written before it counts; gives the state after it.
    async fn step(
        &self,
        slot: &Slot,
        durable: bool,
        by: By,
        step: impl FnOnce(&Txn, i64) -> Result<Step, TxnError>,
    ) -> Result<Txn, TxnError> {
        let next = {
            let mut inner = slot.inner.lock();
            if inner.pending.is_some() {
                return Err(TxnError::Concurrent);
            }
            let txn = inner.txn.as_ref().ok_or(TxnError::Mapping)?;
            let next = match step(txn, self.clock.now_ms())? {
                Step::Done => return Ok(txn.clone()),
                Step::Write(next) => next,
            };
            inner.pending = Some(Pending::new(Some(next.clone()), by));
            next
        };
        self.write(slot, durable).await?;
        Ok(next)
    }

    /// Writes the pending state of a transactional id and lets it count. One caller at a time: who has set it.
    async fn write(&self, slot: &Slot, durable: bool) -> Result<(), TxnError> {
        let not_available = |e: &dyn std::fmt::Display| TxnError::NotAvailable(e.to_string());
        let at = place(&slot.id, self.partitions.len());
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else {
            return Err(TxnError::NotAvailable("its topic has no partitions".to_owned()));
        };
        let writing = Writing(slot);
        let _pass = gate.read().await;
        let next = match &slot.inner.lock().pending {
            Some(pending) => pending.next.clone(),
            None => return Ok(()),
        };
        let value = next.as_ref().map(records::value);
        let batch = keyed::batch([(records::key(&slot.id), value)], None, self.clock.now_ms());
        let batch = batch.map_err(|e| not_available(&e))?;
        match partition.append(batch, AppendKind::Internal).await {
            Ok(appended) => {
                if let Some(pending) = &mut slot.inner.lock().pending {
                    pending.is_appended = true;
                }
                if durable {
                    // When this fails nobody knows what the disk holds: the state stays pending until the next start.
                    partition.flushed(appended.last_offset).await.map_err(|e| not_available(&e))?;
                }
            }
            Err(e) => {
                let mut inner = slot.inner.lock();
                if inner.pending.as_ref().is_some_and(|pending| !pending.is_appended) {
                    inner.pending = None;
                    slot.moved.notify_waiters();
                }
                return Err(not_available(&e));
            }
        }
        let mut inner = slot.inner.lock();
        let by = inner.pending.take().map_or(By::Producer, |pending| pending.by);
        inner.txn = next;
        let now = inner.txn.as_ref().map(|txn| txn.state);
        drop(inner);
        // No state follows a prepared one but a complete one: each decision passes here once.
        now.into_iter().for_each(|state| self.metrics.ended(state, by));
        drop(writing);
        slot.moved.notify_waiters();
        Ok(())
    }

    fn complete_soon(&self, slot: &Arc<Slot>) {
        if self.queue.try_send(Arc::clone(slot)).is_err() {
            tracing::debug!(id = slot.id, "markers wait for the next look around");
        }
    }

    /// Ends what is decided, aborts what is late, forgets what has expired; until the stop. Only one task may call it, once.
    pub async fn run(&self, groups: &Groups, stop: CancellationToken) {
        let Some(mut queued) = self.queued.lock().take() else { return };
        let mut running: FuturesUnordered<BoxFuture<'_, bool>> = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidied = tokio::time::Instant::now();
        let mut is_looking = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(slot) = queued.recv(), if running.len() < COMPLETING => {
                    running.push(async move { self.complete(groups, &slot).await; false }.boxed());
                }
                Some(was_look) = running.next(), if !running.is_empty() => is_looking &= !was_look,
                _ = tick.tick(), if !is_looking => {
                    is_looking = true;
                    let is_due = tidied.elapsed() >= TIDY;
                    if is_due {
                        tidied = tokio::time::Instant::now();
                    }
                    running.push(async move {
                        self.look_around(groups).await;
                        if is_due {
                            self.tidy().await;
                        }
                        true
                    }.boxed());
                }
            }
        }
        let drained = async { while running.next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("markers of ended transactions are left to the next start");
        }
    }

    /// Finishes what requests have left undone, aborts late transactions and completes decided ones.
    pub async fn look_around(&self, groups: &Groups) {
        let now_ms = self.clock.now_ms();
        let to_do = self.all().into_iter().map(|slot| async move {
            let (is_left, is_late) = {
                let inner = slot.inner.lock();
                let is_late = inner.pending.is_none() && inner.txn.as_ref().is_some_and(|txn| txn.is_late(now_ms));
                (inner.pending.as_ref().is_some_and(|pending| pending.is_left), is_late)
            };
            if is_left {
                if let Some(pending) = &mut slot.inner.lock().pending {
                    pending.is_left = false;
                }
                self.report(&slot, self.write(&slot, true).await);
            }
            if is_late {
                tracing::info!(id = slot.id, "transaction is open for longer than its time-out: it is aborted");
                let abort = |txn: &Txn, now_ms| {
                    Ok(if txn.is_late(now_ms) { Step::Write(txn.fence(now_ms)) } else { Step::Done })
                };
                self.report(&slot, self.step(&slot, true, By::Timeout, abort).await);
            }
            self.complete(groups, &slot).await;
        });
        stream::iter(to_do).buffer_unordered(COMPLETING).collect::<()>().await;
    }

    fn report<T>(&self, slot: &Slot, result: Result<T, TxnError>) {
        if let Err(error) = result {
            tracing::warn!(id = slot.id, %error, "state of the transaction is not written yet");
        }
    }

    /// Writes the markers of a decided transaction, then that it is complete.
    async fn complete(&self, groups: &Groups, slot: &Slot) {
        let txn = {
            let mut inner = slot.inner.lock();
            let Some(txn) = inner.txn.clone().filter(|txn| txn.state.is_prepared()) else { return };
            if inner.marking || inner.pending.is_some() {
                return;
            }
            inner.marking = true;
            txn
        };
        let marking = Marking(slot);
        let commit = txn.state == State::PrepareCommit;
        let marker = Marker { commit, coordinator_epoch: COORDINATOR_EPOCH };
        let producer = (txn.producer_id, txn.epoch);
        let marks = txn.partitions.into_iter().map(|tp| async move {
            let written = self.mark(groups, &tp, producer, marker).await;
            match &written {
                Ok(()) => {
                    if let Some(txn) = &mut slot.inner.lock().txn {
                        txn.partitions.remove(&tp);
                    }
                }
                Err(error) => {
                    self.metrics.failed_markers.inc();
                    tracing::warn!(id = slot.id, partition = %tp, %error, "marker is not written yet");
                }
            }
            written.is_ok()
        });
        let all =
            stream::iter(marks).buffer_unordered(MARKING).fold(true, |all, written| async move { all & written }).await;
        if all {
            let complete = |txn: &Txn, now_ms| Ok(Step::Write(txn.complete(now_ms)));
            // Need not be durable: what was decided is, and whatever comes next stands behind it in the same partition.
            self.report(slot, self.step(slot, false, By::Producer, complete).await);
        }
        drop(marking);
    }

    /// Writes one marker, durably. A partition that is gone needs none.
    async fn mark(
        &self,
        groups: &Groups,
        tp: &TopicPartition,
        producer: ProducerEpoch,
        marker: Marker,
    ) -> Result<(), AppendError> {
        let began = Instant::now();
        let written = self.write_marker(groups, tp, producer, marker).await;
        if written.is_ok() {
            self.metrics.marker_seconds.observe(began.elapsed().as_secs_f64());
        }
        match written {
            Err(AppendError::Deleted) => Ok(()),
            Err(error @ (AppendError::Fenced { .. } | AppendError::CoordinatorFenced { .. })) => {
                tracing::warn!(partition = %tp, %error, "a marker is left out, as a newer one stands");
                Ok(())
            }
            written => written,
        }
    }

    /// Writes a marker to a partition, whatever is known of its transaction; durable when it returns.
    pub async fn write_marker(
        &self,
        groups: &Groups,
        tp: &TopicPartition,
        producer: ProducerEpoch,
        marker: Marker,
    ) -> Result<(), AppendError> {
        if &*tp.topic == OFFSETS_TOPIC {
            return groups.end_transaction(tp.partition, producer, marker).await;
        }
        let partition = self.storage.topic(&tp.topic).and_then(|topic| topic.partition(tp.partition));
        let partition = partition.ok_or(AppendError::Deleted)?;
        let batch = marker_batch(producer.0, producer.1, marker, self.clock.now_ms());
        let appended = partition.append(batch, AppendKind::Internal).await?;
        partition.flushed(appended.last_offset).await
    }

    /// Forgets transactional ids that have not been used for long, and writes partitions anew that have grown.
    pub async fn tidy(&self) {
        let expiry_ms = i64::try_from(self.config.id_expiry.0.as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.clock.now_ms();
        for slot in self.all() {
            let is_over = {
                let mut inner = slot.inner.lock();
                let is_over = inner.pending.is_none()
                    && !inner.marking
                    && inner.txn.as_ref().is_some_and(|txn| txn.is_expired(expiry_ms, now_ms));
                if is_over {
                    inner.pending = Some(Pending::new(None, By::Producer));
                }
                is_over
            };
            if is_over {
                self.report(&slot, self.write(&slot, true).await);
            }
            // Also those that were asked for and never written.
            let mut slots = self.slots.lock();
            let mut inner = slot.inner.lock();
            if inner.txn.is_none() && inner.pending.is_none() && Arc::strong_count(&slot) <= 2 {
                inner.is_gone = true;
                slots.remove(&slot.id);
            }
        }
        for at in 0..self.partitions.len() {
            if let Err(error) = self.write_anew(at).await {
                tracing::warn!(partition = at, error, "{TRANSACTIONS_TOPIC} is not written anew yet");
            }
        }
    }

    async fn write_anew(&self, at: usize) -> Result<(), String> {
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else { return Ok(()) };
        if partition.size_bytes() < self.config.compact_at.0 {
            return Ok(());
        }
        // Alone: what has been appended has been applied, or its request has gone and it is written again.
        let _alone = gate.write().await;
        let end = partition.log_end_offset();
        let living: Vec<(Bytes, Option<Bytes>)> = self
            .list()
            .into_iter()
            .filter(|(id, _)| place(id, self.partitions.len()) == at)
            .map(|(id, txn)| (records::key(&id), Some(records::value(&txn))))
            .collect();
        for some in living.chunks(ENTRIES_PER_BATCH) {
            let batch = keyed::batch(some.iter().cloned(), None, self.clock.now_ms()).map_err(|e| e.to_string())?;
            let appended = partition.append(batch, AppendKind::Internal).await.map_err(|e| e.to_string())?;
            partition.flushed(appended.last_offset).await.map_err(|e| e.to_string())?;
        }
        partition.delete_records(end).await.map_err(|e| e.to_string()).map(drop)
    }
}

/// Waits a little while a state is on its way to the log or markers are: the one before is about to be over.
async fn settled(slot: &Slot) {
    let is_settled = || {
        let inner = slot.inner.lock();
        inner.pending.is_none() && inner.txn.as_ref().is_none_or(|txn| !txn.state.is_prepared())
    };
    let wait = async {
        loop {
            let moved = slot.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if is_settled() {
                return;
            }
            moved.await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        tracing::debug!(id = slot.id, "the transaction before is still being ended");
    }
}

async fn load(partition: &Arc<Partition>, txns: &mut HashMap<String, Txn>) -> Result<(), CoordinatorError> {
    let mut from = partition.log_start_offset();
    while from < partition.high_watermark() {
        let batches = keyed::batches(partition.read(from, 4 << 20, true).await?.records);
        let Some(next) = batches.last().map(|batch| batch.next_offset) else { break };
        for batch in batches {
            let pairs = match batch.pairs {
                Ok(pairs) => pairs,
                Err(error) => {
                    let (partition, before) = (partition.number(), batch.next_offset);
                    tracing::error!(partition, before, %error, "some transactions can't be read: they go on from older states");
                    continue;
                }
            };
            for (at, (key, value)) in pairs {
                let Some(id) = records::id_of(key) else { continue };
                match value.map(records::txn_of) {
                    None => drop(txns.remove(&id)),
                    Some(Some(txn)) => drop(txns.insert(id, txn)),
                    Some(None) => {
                        let partition = partition.number();
                        tracing::error!(
                            id,
                            partition,
                            at,
                            "state of a transaction can't be read: it goes on from an older one"
                        );
                    }
                }
            }
        }
        from = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
