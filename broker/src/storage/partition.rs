//! One partition as async code sees it: queues disk work on the storage's threads and waits for it.
//!
//! In: batches and offsets. Out: what [`super::log`] answers. Touches no disk on the caller's thread.
//!
//! Appends of one partition run one after the other on one thread at a time, in the order of the queue. Flushes run beside
//! them, one at a time: while one fsync is under way all further appends are written, and the next fsync serves them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::append::{AppendKind, Appended, Verification};
use super::append_queue::{AppendJob, AppendQueue, OutcomeSlot, Outcomes};
use super::batch::LEADER_EPOCH;
use super::cleaner::{self, Cleaned, Need};
use super::committed_offsets::{self, CommittedOffsets};
use super::error::{AppendError, ReadError};
use super::log::Log;
use super::metrics::Traffic;
use super::producer::ProducerState;
use super::read::{Isolation, ReadResult, TimestampOffset};
use super::segment::Hole;
use super::txn::{AbortedTxn, OpenTxn};
use super::workers::Workers;
use crate::config::FlushPolicy;

/// Appends of one partition that a thread writes before it turns to other partitions.
const WRITES_PER_RUN: usize = 64;

/// Batches for one partition, as [`append_all`] takes them.
pub type Wanted = (Arc<Partition>, Bytes, AppendKind);

/// ScheduledWrites that one thread takes for several partitions. Should one panic, the others get theirs elsewhere.
struct ScheduledWrites(std::vec::IntoIter<Arc<Partition>>);

impl ScheduledWrites {
    fn run(&mut self) {
        for partition in self.0.by_ref() {
            partition.write_queued();
        }
    }
}

impl Drop for ScheduledWrites {
    fn drop(&mut self) {
        self.0.by_ref().for_each(|partition| partition.schedule_writes());
    }
}

/// Appends to several partitions, each as [`Partition::append`] does; the outcomes stand in the order of what was wanted. One
/// hand-over to a thread and one back serve them all, where nothing else is under way for these partitions.
pub async fn append_all(wanted: Vec<Wanted>) -> Vec<Result<Appended, AppendError>> {
    let Some(workers) = wanted.first().map(|(partition, ..)| partition.workers.clone()) else { return Vec::new() };
    let count = wanted.len();
    let closed = || vec![Err(AppendError::Closed); count];
    let Ok(permit) = workers.writers.permits().clone().acquire_owned().await else { return closed() };
    let (done, all) = oneshot::channel();
    let outcomes = Arc::new(Outcomes {
        outcomes: Mutex::new(closed()),
        left: AtomicUsize::new(count),
        done: Mutex::new(Some(done)),
        _permit: permit,
    });
    let mut ours = Vec::with_capacity(count);
    for (at, (partition, batches, kind)) in wanted.into_iter().enumerate() {
        let bytes = batches.len();
        let done = OutcomeSlot { outcomes: outcomes.clone(), at };
        if !partition.enqueue(AppendJob { batches, kind, done }) {
            continue;
        }
        if partition.log.begins_segment(bytes) {
            // That waits for the disk: nobody else should wait with it.
            partition.schedule_writes();
        } else {
            ours.push(partition);
        }
    }
    if !ours.is_empty() {
        let mut writes = ScheduledWrites(ours.into_iter());
        workers.writers.submit(move || writes.run());
    }
    // Each slot answers by being dropped at the latest.
    let _answered = all.await;
    std::mem::take(&mut *outcomes.outcomes.lock())
}

/// One partition of a topic.
pub struct Partition {
    topic: Arc<str>,
    number: i32,
    log: Log,
    workers: Arc<Workers>,
    queue: Mutex<AppendQueue>,
    flushing: AtomicBool,
    traffic: Traffic,
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, number: i32, log: Log, workers: Arc<Workers>) -> Arc<Self> {
        let (queue, flushing) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { topic, number, log, workers, queue, flushing, traffic: Traffic::default() })
    }

    /// Name of its topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What clients sent and took since the start.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Its number within the topic.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Appends whole record batches (format 2), all or none. Returns once they are written, before they are flushed:
    /// wait with [`Self::flushed`] before acknowledging. A caller that awaits one append before the next keeps order.
    /// Dropping the future does not take the batches back.
    pub async fn append(self: &Arc<Self>, batches: Bytes, kind: AppendKind) -> Result<Appended, AppendError> {
        append_all(vec![(self.clone(), batches, kind)]).await.pop().unwrap_or(Err(AppendError::Closed))
    }

    /// Waits until the offset is as safe as the flush policy promises and visible to consumers.
    pub async fn flushed(&self, last_offset: i64) -> Result<(), AppendError> {
        if self.log.high_watermark() > last_offset {
            return Ok(());
        }
        let mut high_watermark = self.log.watch();
        let mut refusal = self.log.watch_refusal();
        loop {
            if *high_watermark.borrow_and_update() > last_offset {
                return Ok(());
            }
            if let Some(reason) = &*refusal.borrow_and_update() {
                return Err(reason.clone());
            }
            // The senders live as long as the partition.
            let moved = tokio::select! {
                moved = high_watermark.changed() => moved,
                refused = refusal.changed() => refused,
            };
            moved.map_err(|_| AppendError::Closed)?;
        }
    }

    /// Reads whole batches from the one that holds `from` on, up to the high watermark and about `max_bytes`;
    /// with `min_one_batch` at least one, whatever its size. Empty at the end of the log.
    pub async fn read(
        self: &Arc<Self>,
        from: i64,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Result<ReadResult, ReadError> {
        self.read_as(from, max_bytes, min_one_batch, Isolation::Uncommitted).await
    }

    /// The same with what a reader of this isolation may see.
    pub async fn read_as(
        self: &Arc<Self>,
        from: i64,
        max_bytes: usize,
        min_one_batch: bool,
        isolation: Isolation,
    ) -> Result<ReadResult, ReadError> {
        self.on_reader(move |log| log.read(from, max_bytes, min_one_batch, isolation)).await
    }

    /// Aborted transactions that overlap a range of offsets, in the order of their markers.
    pub async fn aborted_transactions(self: &Arc<Self>, from: i64, until: i64) -> Result<Vec<AbortedTxn>, ReadError> {
        self.on_reader(move |log| log.aborted(from, until)).await
    }

    /// Transactions that are open, by their first offsets; also those whose marker is not yet below the high watermark.
    pub fn open_transactions(&self) -> Vec<OpenTxn> {
        self.log.open_transactions()
    }

    /// To be asked for before the coordinator is asked whether a transaction is open, see [`AppendKind::Transaction`].
    pub fn verification(&self) -> Verification {
        self.log.verification()
    }

    /// The first record dated at or after a time.
    pub async fn offset_for_time(self: &Arc<Self>, timestamp_ms: i64) -> Result<Option<TimestampOffset>, ReadError> {
        self.on_reader(move |log| log.offset_for_time(timestamp_ms)).await
    }

    /// The record with the latest timestamp.
    pub async fn max_timestamp(self: &Arc<Self>) -> Result<Option<TimestampOffset>, ReadError> {
        self.on_reader(Log::max_timestamp).await
    }

    /// Deletes all records before an offset (-1: the high watermark); returns the new earliest offset.
    pub async fn delete_records(self: &Arc<Self>, before: i64) -> Result<i64, ReadError> {
        let this = self.clone();
        let deleted = self.workers.writers.run(move || this.log.delete_records(before)).await;
        deleted.map_err(|_| ReadError::Closed)?
    }

    /// Checks every stored batch with its CRC; returns the damaged places, which readers skip from then on.
    pub async fn verify(self: &Arc<Self>) -> Result<Vec<Hole>, ReadError> {
        self.on_reader(Log::verify).await
    }

    /// The idempotent producers that it knows.
    pub async fn producers(self: &Arc<Self>) -> Result<Vec<ProducerState>, ReadError> {
        self.on_reader(|log| Ok(log.producers())).await
    }

    /// Damaged places known so far.
    pub fn holes(&self) -> Vec<Hole> {
        self.log.holes()
    }

    /// Why it takes no more, if so: the disk failed, it was deleted, or the log is stopping.
    pub fn refusal(&self) -> Option<AppendError> {
        self.log.watch_refusal().borrow().clone()
    }

    /// Earliest offset.
    pub fn log_start_offset(&self) -> i64 {
        self.log.start()
    }

    /// One past the last offset that consumers may see.
    pub fn high_watermark(&self) -> i64 {
        self.log.high_watermark()
    }

    /// One past the last offset outside of open transactions; the high watermark as long as there are none.
    pub fn last_stable_offset(&self) -> i64 {
        self.log.last_stable_offset()
    }

    /// One past the last offset written.
    pub fn log_end_offset(&self) -> i64 {
        self.log.end()
    }

    /// Epoch of the leader, always 0: there is one.
    pub fn leader_epoch(&self) -> i32 {
        LEADER_EPOCH
    }

    /// Bytes in its segments.
    pub fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    /// The high watermark as it moves, for long polls.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.log.watch()
    }

    /// The last stable offset as it moves, for long polls of read-committed readers.
    pub fn watch_stable(&self) -> watch::Receiver<i64> {
        self.log.watch_stable()
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Deletes what is older or more than the topic keeps; reports what had not been read.
    pub(super) fn retain(&self, now_ms: i64, committed: Option<&dyn CommittedOffsets>) -> Result<(), AppendError> {
        let readers = || committed.map_or_else(Vec::new, |offsets| offsets.committed(&self.topic, self.number));
        for deleted in self.log.retain(now_ms, readers)? {
            committed_offsets::report(&deleted, &self.topic, self.number, &self.log.metrics().unread_passed);
        }
        Ok(())
    }

    /// One pass of compaction; `false` if there was none, whatever the reason. Call it on a thread of the cleaner.
    pub(super) fn clean(&self, now_ms: i64, need: Need, memory: usize, stop: &dyn Fn() -> bool) -> bool {
        let metrics = self.log.metrics();
        match cleaner::clean(&self.log, now_ms, memory, stop) {
            Ok(None) => false,
            Ok(Some(cleaned)) => {
                metrics.compactions.inc();
                metrics.compacted_bytes.inc_by(cleaned.freed_bytes);
                let Cleaned { read_bytes, freed_bytes, more } = cleaned;
                tracing::debug!(partition = ?self, dirty = need.ratio, read_bytes, freed_bytes, more, "compacted");
                true
            }
            Err(e) => {
                metrics.failed_compactions.inc();
                tracing::warn!(partition = ?self, error = %e, "compaction failed, retrying; no record is lost");
                false
            }
        }
    }

    /// Flushes soon, if something waits for it.
    pub(super) fn flush_soon(self: &Arc<Self>) {
        if self.log.is_dirty() && !self.flushing.swap(true, Ordering::AcqRel) {
            let this = self.clone();
            self.workers.flushers.submit(move || this.flush());
        }
    }

    async fn on_reader<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Log) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let this = self.clone();
        self.workers.readers.run(move || read(&this.log)).await.map_err(|_| ReadError::Closed)?
    }

    /// Puts a job at the end of the queue; `true` if the caller must schedule a thread that writes it.
    fn enqueue(&self, job: AppendJob) -> bool {
        let mut queue = self.queue.lock();
        queue.jobs.push_back(job);
        !std::mem::replace(&mut queue.taken, true)
    }

    fn schedule_writes(self: &Arc<Self>) {
        let this = self.clone();
        self.workers.writers.submit(move || this.write_queued());
    }

    fn write_queued(self: &Arc<Self>) {
        for _ in 0..WRITES_PER_RUN {
            let mut queue = self.queue.lock();
            let Some(job) = queue.jobs.pop_front() else {
                queue.taken = false;
                return;
            };
            drop(queue);
            let AppendJob { batches, kind, done } = job;
            let appended = self.log.append(batches, kind);
            if appended.is_ok() && self.workers.config.flush == FlushPolicy::Always {
                self.flush_soon();
            }
            done.fill(appended);
        }
        self.schedule_writes();
    }

    fn flush(self: &Arc<Self>) {
        // A failure is kept by the log and reported to all who wait.
        let flushed = self.log.sync();
        self.flushing.store(false, Ordering::Release);
        if flushed.is_ok() {
            // At the end of the queue, so that busy partitions take turns.
            self.flush_soon();
        }
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{} [{}, {})", self.topic, self.number, self.log.start(), self.log.end())
    }
}
