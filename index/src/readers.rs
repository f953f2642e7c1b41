//! Splits that queries keep open, and the bounded threads that read them.
//!
//! In: splits; work that reads. Out: readers, answers of the work. Touches splits, for reading. A split that is found
//! damaged is left out from then on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;
use millrace_log::fs::Filesystem;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::catalog::SplitId;
use crate::config::IndexConfig;
use crate::docs::Documents;
use crate::folders::Folders;
use crate::live::LiveSplit;
use crate::metrics::Metrics;
use crate::scan::{Budget, StorageError};
use crate::split::{SplitError, SplitReader};

/// What reading for queries shares.
pub(crate) struct Readers {
    fs: Arc<dyn Filesystem>,
    open: Mutex<LruCache<SplitId, SplitReader>>,
    threads: Arc<Semaphore>,
    /// Sources that one scan reads at a time.
    pub(crate) read_ahead: usize,
    /// Which documents are live.
    pub(crate) docs: Arc<Documents>,
    /// What queries cost.
    pub(crate) metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("read_ahead", &self.read_ahead).finish_non_exhaustive()
    }
}

/// An error of the store, with what was read.
pub(crate) fn failed(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    StorageError::Failed { what: what.to_owned(), source: Arc::new(source) }
}

impl Readers {
    pub(crate) fn new(config: &IndexConfig, folders: &Folders, docs: Arc<Documents>, metrics: Arc<Metrics>) -> Self {
        let open = std::num::NonZeroUsize::new(config.open_splits).unwrap_or(std::num::NonZeroUsize::MIN);
        Self {
            fs: Arc::clone(folders.fs()),
            open: Mutex::new(LruCache::new(open)),
            threads: Arc::new(Semaphore::new(config.threads())),
            read_ahead: config.threads(),
            docs,
            metrics,
        }
    }

    /// Opens a split, or takes it from those kept open. Blocking.
    pub(crate) fn reader(&self, split: &LiveSplit) -> Result<SplitReader, SplitError> {
        if let Some(reader) = self.open.lock().get(&split.record.id) {
            return Ok(reader.clone());
        }
        let known = split.streams.iter().map(|stream| &stream.info);
        let reader = SplitReader::open_sharing(&self.fs, &split.dir, known)?;
        self.open.lock().put(split.record.id.clone(), reader.clone());
        Ok(reader)
    }

    /// Closes splits that are listed no more.
    pub(crate) fn forget(&self, removed: &[SplitId]) {
        let mut open = self.open.lock();
        for id in removed {
            open.pop(id);
        }
    }

    /// Leaves a damaged split out of queries and merges from now on.
    pub(crate) fn set_aside(&self, split: &LiveSplit, error: &SplitError) {
        if error.is_damage() && !split.set_aside.swap(true, Ordering::Relaxed) {
            tracing::error!(split = %split.record.id, path = %split.dir.display(), %error,
                "split is damaged and quarantined: queries go on without its events");
            self.metrics.splits_damaged.inc();
            self.metrics.splits_quarantined.inc();
        }
    }

    /// Names the split in the error; a damaged one is set aside, so that the next query goes on without it.
    pub(crate) fn fault(&self, split: &LiveSplit, error: SplitError) -> StorageError {
        self.set_aside(split, &error);
        match error {
            SplitError::OverBudget(over) => over.into(),
            other => failed(&format!("split {}", split.record.id), other),
        }
    }

    /// Runs blocking work of a request on one of the bounded threads. With a thread to spare it starts at once, otherwise
    /// when it is waited for: nothing holds a thread while it waits for someone else. The budget, and with it the place of
    /// the request, is kept until the work has ended.
    pub(crate) fn run<T, W>(
        &self,
        budget: &Budget,
        work: W,
    ) -> impl Future<Output = Result<T, StorageError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T, StorageError> + Send + 'static,
    {
        let threads = Arc::clone(&self.threads);
        let budget = budget.clone();
        let job = move |permit: OwnedSemaphorePermit| {
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                budget.check()?;
                work()
            })
        };
        let started = match Arc::clone(&threads).try_acquire_owned() {
            Ok(permit) => Ok(job(permit)),
            Err(_) => Err(job),
        };
        async move {
            let running = match started {
                Ok(running) => running,
                Err(job) => job(threads.acquire_owned().await.map_err(|_| StorageError::Cancelled)?),
            };
            match running.await {
                Ok(done) => done,
                Err(panicked) if panicked.is_panic() => Err(failed("the index", panicked)),
                Err(_) => Err(StorageError::Cancelled),
            }
        }
    }
}
