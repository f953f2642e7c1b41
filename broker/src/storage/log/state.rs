//! State of one partition's log: its segments, offsets and watermarks, producers, and why it takes no more.
//!
//! In: changes by the files beside this one. Out: offsets, also as they move. Touches nothing on disk.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::config::FlushPolicy;
use crate::storage::append::Verification;
use crate::storage::error::{AppendError, ReadError};
use crate::storage::health::Health;
use crate::storage::limits::SharedLimits;
use crate::storage::metrics::StorageMetrics;
use crate::storage::producer::{ProducerState, Producers};
use crate::storage::segment::{Hole, Segment};
use crate::storage::txn::OpenTxn;
use millrace_log::clock::SharedClock;
use millrace_log::fs::Filesystem;

/// What logs of one storage share.
#[derive(Clone)]
pub(crate) struct LogContext {
    pub fs: Arc<dyn Filesystem>,
    pub clock: SharedClock,
    pub flush: FlushPolicy,
    pub producer_expiry_ms: i64,
    pub metrics: StorageMetrics,
    pub health: Arc<Health>,
}

pub(super) struct Writer {
    pub(super) active: Arc<Segment>,
    pub(super) producers: Producers,
}

/// A transaction that holds the last stable offset back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unstable {
    pub(super) producer_id: i64,
    /// Where its marker stands, once it does; it counts when the high watermark has passed it.
    pub(super) marker: Option<i64>,
}

/// All segments of one partition.
pub(crate) struct Log {
    pub(super) dir: PathBuf,
    pub(super) context: LogContext,
    pub(super) limits: SharedLimits,
    pub(super) writer: Mutex<Writer>,
    pub(super) segments: RwLock<BTreeMap<i64, Arc<Segment>>>,
    pub(super) start: AtomicI64,
    pub(super) end: AtomicI64,
    pub(super) synced: AtomicI64,
    pub(super) high_watermark: watch::Sender<i64>,
    /// Transactions by first offset. Held while high watermark and last stable offset move, for no disk work.
    pub(super) unstable: Mutex<BTreeMap<i64, Unstable>>,
    pub(super) last_stable: watch::Sender<i64>,
    /// Markers appended since the start.
    pub(super) markers: AtomicU64,
    pub(super) refusal: watch::Sender<Option<AppendError>>,
    /// Held while names of finished segments change on disk.
    pub(super) names: Mutex<()>,
    /// Held by a compaction.
    pub(super) compacting: Mutex<()>,
    pub(super) cleaned: AtomicI64,
}

impl Log {
    /// The idempotent producers it knows.
    pub fn producers(&self) -> Vec<ProducerState> {
        self.writer.lock().producers.list()
    }

    /// Open transactions by first offset, also those whose marker the high watermark has not passed.
    pub fn open_transactions(&self) -> Vec<OpenTxn> {
        let unstable = self.unstable.lock();
        unstable.iter().map(|(first, txn)| OpenTxn { first_offset: *first, producer_id: txn.producer_id }).collect()
    }

    /// A moment in the order of appends, see [`Verification`].
    pub fn verification(&self) -> Verification {
        Verification(self.markers.load(Ordering::Acquire))
    }

    /// The last batch of each producer.
    pub fn last_batches(&self) -> HashMap<i64, (i16, Option<i64>)> {
        self.writer.lock().producers.last_batches()
    }

    /// Forgets idle producers.
    #[cfg(test)]
    pub fn expire_producers(&self, ids: &[i64]) {
        self.writer.lock().producers.forget(ids);
    }

    /// Earliest offset.
    pub fn start(&self) -> i64 {
        self.start.load(Ordering::Acquire)
    }

    /// Offset after the last record written.
    pub fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// Offset after the last record that consumers may see.
    pub fn high_watermark(&self) -> i64 {
        *self.high_watermark.borrow()
    }

    /// Offset before which every transaction has ended, at most the high watermark.
    pub fn last_stable_offset(&self) -> i64 {
        // With the lock, so that who has seen a high watermark also sees what became stable with it.
        let _still = self.unstable.lock();
        *self.last_stable.borrow()
    }

    /// The last stable offset as it moves.
    pub fn watch_stable(&self) -> watch::Receiver<i64> {
        self.last_stable.subscribe()
    }

    /// The high watermark as it moves.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.high_watermark.subscribe()
    }

    /// Why nothing is taken any more, once that is so.
    pub fn watch_refusal(&self) -> watch::Receiver<Option<AppendError>> {
        self.refusal.subscribe()
    }

    /// Whether nothing is taken any more.
    pub fn refuses(&self) -> bool {
        self.refusal.borrow().is_some()
    }

    pub(super) fn check_not_deleted(&self) -> Result<(), ReadError> {
        match &*self.refusal.borrow() {
            Some(AppendError::Deleted) => Err(ReadError::Deleted),
            _ => Ok(()),
        }
    }

    pub(super) fn passed(&self, end: i64) {
        self.synced.fetch_max(end, Ordering::AcqRel);
        self.publish(end);
    }

    pub(super) fn publish(&self, end: i64) {
        let raise = |mark: &watch::Sender<i64>, to: i64| {
            mark.send_if_modified(|mark| {
                let moved = to > *mark;
                *mark = to.max(*mark);
                moved
            });
        };
        let mut unstable = self.unstable.lock();
        raise(&self.high_watermark, end);
        let high_watermark = self.high_watermark();
        while let Some(first) = unstable.first_entry() {
            if first.get().marker.is_none_or(|marker| marker >= high_watermark) {
                break;
            }
            first.remove();
        }
        let first = unstable.keys().next().map_or(high_watermark, |first| (*first).max(self.start()));
        raise(&self.last_stable, first.min(high_watermark));
    }

    pub(super) fn full(&self) -> AppendError {
        self.context.health.refused();
        tracing::error!(dir = %self.dir.display(), "disk is full: refusing writes until there is space");
        AppendError::Full { path: self.dir.clone() }
    }

    /// Refuses appends from now on, for the first reason there is.
    pub(super) fn refuse(&self, reason: AppendError) -> bool {
        self.refusal.send_if_modified(|refusal| {
            let first = refusal.is_none();
            // Before anybody can see the refusal and ask.
            if first && matches!(reason, AppendError::Failed { .. }) {
                self.context.metrics.failed_partitions.inc();
            }
            refusal.get_or_insert(reason);
            first
        })
    }

    pub(super) fn fail(&self, what: &'static str, cause: &io::Error) -> AppendError {
        let path = self.dir.clone();
        let failed = AppendError::Failed { path, cause: format!("{what}: {cause}").into() };
        if self.refuse(failed.clone()) {
            tracing::error!(dir = %self.dir.display(), what, error = %cause, "partition refuses writes until a restart");
        }
        failed
    }

    /// A read error with the folder.
    pub fn read_error(&self, cause: &io::Error) -> ReadError {
        read_error(&self.dir, cause)
    }

    /// What it counts into.
    pub fn metrics(&self) -> &StorageMetrics {
        &self.context.metrics
    }

    /// The partition's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it lies.
    pub fn fs(&self) -> &dyn Filesystem {
        &*self.context.fs
    }

    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments.read().values().map(|segment| segment.len()).sum()
    }

    /// Holes found so far.
    pub fn holes(&self) -> Vec<Hole> {
        self.segments.read().values().flat_map(|segment| segment.holes()).collect()
    }
}

pub(super) fn read_error(path: &Path, cause: &io::Error) -> ReadError {
    ReadError::Io { path: path.to_owned(), cause: cause.to_string().into() }
}
