//! Splits that queries keep open, and the bounded threads that read them.
//!
//! In: splits; work that reads. Out: readers, answers of the work. Touches splits, for reading. A split that is found
//! damaged is left out from then on; of one that can't be read, upkeep finds out whether that lasts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;
use millrace_log::fs::Filesystem;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::catalog::SplitId;
use crate::config::IndexConfig;
use crate::docs::Documents;
use crate::folders::Folders;
use crate::live::LiveSplit;
use crate::metrics::Metrics;
use crate::scan::{Asker, Budget, StorageError};
use crate::split::{SplitError, SplitReader};

/// What reading for queries shares.
pub(crate) struct Readers {
    fs: Arc<dyn Filesystem>,
    open: Mutex<LruCache<SplitId, SplitReader>>,
    for_clients: Threads,
    for_rules: Threads,
    /// Which documents are live.
    pub(crate) docs: Arc<Documents>,
    /// What queries cost.
    pub(crate) metrics: Arc<Metrics>,
}

/// A bounded number of threads.
struct Threads {
    count: usize,
    free: Arc<Semaphore>,
}

impl Threads {
    fn new(count: usize) -> Self {
        Self { count, free: Arc::new(Semaphore::new(count)) }
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = (self.for_clients.count, self.for_rules.count);
        f.debug_struct("Readers").field("threads", &counts).finish_non_exhaustive()
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
            for_clients: Threads::new(config.threads()),
            for_rules: Threads::new(config.rule_threads()),
            docs,
            metrics,
        }
    }

    fn threads(&self, budget: &Budget) -> &Threads {
        match budget.asker() {
            Asker::Client => &self.for_clients,
            Asker::Rule => &self.for_rules,
        }
    }

    /// Sources that one scan of the request reads at a time.
    pub(crate) fn read_ahead(&self, budget: &Budget) -> usize {
        self.threads(budget).count.max(1)
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

    /// Quarantines a damaged split. One that the system refuses to read is left out of merges from now on, and upkeep reads it
    /// again. False: the split is not at fault.
    pub(crate) fn note_fault(&self, split: &LiveSplit, error: &SplitError) -> bool {
        if error.is_damage() {
            split.unreadable.store(false, Ordering::Relaxed);
            self.quarantine(split, error);
            return true;
        }
        let is_refused = error.is_refused();
        if is_refused && !split.unreadable.swap(true, Ordering::Relaxed) {
            tracing::error!(split = %split.record.id, path = %split.dir.display(), %error,
                "split can't be read: queries that need it fail, merges go on without it; reading it again");
        }
        is_refused
    }

    /// Leaves a split out of queries and merges from now on.
    pub(crate) fn quarantine(&self, split: &LiveSplit, error: &SplitError) {
        if !split.set_aside.swap(true, Ordering::Relaxed) {
            tracing::error!(split = %split.record.id, path = %split.dir.display(), %error,
                "split is damaged or unreadable, and quarantined: queries go on without its events");
            self.metrics.splits_damaged.inc();
            self.metrics.splits_quarantined.inc();
        }
    }

    /// A split that was unreadable has been read.
    pub(crate) fn release(&self, split: &LiveSplit) {
        split.unreadable.store(false, Ordering::Relaxed);
        if split.set_aside.swap(false, Ordering::Relaxed) {
            self.metrics.splits_quarantined.dec();
        }
        tracing::info!(split = %split.record.id, "split can be read again: queries find its events");
    }

    /// Names the split in the error, and notes what is wrong with it.
    pub(crate) fn fault(&self, split: &LiveSplit, error: SplitError) -> StorageError {
        self.note_fault(split, &error);
        match error {
            SplitError::OverBudget(over) => over.into(),
            other => failed(&format!("split {}", split.record.id), other),
        }
    }

    /// Runs blocking work of a request on one of the bounded threads for those who ask. With a thread to spare it starts at
    /// once, otherwise it waits in a queue from when it is waited for: nothing holds a thread while it waits for someone else,
    /// nor while the request computes with what it has read. The budget, and with it the place of the request, is kept until
    /// the work has ended.
    pub(crate) fn run<T, W>(
        &self,
        budget: &Budget,
        work: W,
    ) -> impl Future<Output = Result<T, StorageError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T, StorageError> + Send + 'static,
    {
        let threads = Arc::clone(&self.threads(budget).free);
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
            let ran = match started {
                Ok(running) => running.await,
                Err(job) => {
                    // A task of its own takes the thread: a future in the queue would hold it unused for as long as the request
                    // computes and does not poll it.
                    let mut queued = JoinSet::new();
                    queued.spawn(async move { Some(job(threads.acquire_owned().await.ok()?).await) });
                    match queued.join_next().await {
                        Some(Ok(Some(ran))) => ran,
                        _ => return Err(StorageError::Cancelled),
                    }
                }
            };
            match ran {
                Ok(done) => done,
                Err(panicked) if panicked.is_panic() => Err(failed("the index", panicked)),
                Err(_) => Err(StorageError::Cancelled),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::time::Duration;

    use futures::FutureExt as _;
    use millrace_log::fs::SimFs;

    use super::*;
    use crate::state::StateDb;

    struct Bench {
        readers: Readers,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        fn new(query_threads: usize, rule_threads: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let db = Arc::new(StateDb::open(&dir.path().join("state")).unwrap());
            let fs: Arc<dyn Filesystem> = Arc::new(SimFs::new());
            let folders = Folders::open(&fs, Path::new("/index"), &[]).unwrap();
            let docs = Arc::new(Documents::open(db, 0).unwrap());
            let config = IndexConfig { query_threads, rule_threads, ..IndexConfig::default() };
            Self { readers: Readers::new(&config, &folders, docs, Arc::default()), _dir: dir }
        }

        /// Work that holds a thread until something is sent.
        fn hold(&self, budget: &Budget) -> (SyncSender<()>, impl Future<Output = Result<(), StorageError>> + use<>) {
            let (release, held) = sync_channel(1);
            let work = self.readers.run(budget, move || {
                held.recv().ok();
                Ok(())
            });
            (release, work)
        }

        async fn is_served(&self, budget: &Budget) -> bool {
            tokio::time::timeout(Duration::from_secs(5), self.readers.run(budget, || Ok(())))
                .await
                .is_ok_and(|ran| ran.is_ok())
        }
    }

    #[tokio::test]
    async fn queries_leave_the_threads_of_rules_alone_and_rules_theirs() {
        let bench = Bench::new(2, 1);
        let (client, rule) = (Budget::default(), Budget::default().for_rule());
        for (busy, count, other) in [(&client, 2, &rule), (&rule, 1, &client)] {
            let held = Vec::from_iter((0..count).map(|_| bench.hold(busy)));
            let mut queued = Vec::from_iter((0..20).map(|_| Box::pin(bench.readers.run(busy, || Ok(())))));
            assert!(queued.iter_mut().all(|waits| waits.now_or_never().is_none()));
            assert!(bench.is_served(other).await, "{:?} waits for {:?}", other.asker(), busy.asker());
            drop(held);
        }
    }

    #[tokio::test]
    async fn a_request_that_computes_holds_no_thread() {
        let bench = Bench::new(1, 1);
        let budget = Budget::default();
        let (release, holds) = bench.hold(&budget);
        // It has asked for a thread, and is busy with something else when it could have one.
        let mut busy = Box::pin(bench.readers.run(&budget, || Ok(7)));
        assert!(busy.as_mut().now_or_never().is_none());
        release.send(()).unwrap();
        holds.await.unwrap();
        assert!(bench.is_served(&budget).await, "the thread waits for a request that computes");
        assert_eq!(busy.await.unwrap(), 7);
    }
}
