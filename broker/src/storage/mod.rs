//! Segment storage of the partitioned log: topics and partitions in one data folder.
//!
//! In: record batches as produced (through [`Partition::append`]), offsets to read from. Out: the same bytes, in order.
//! Touches the data folder through [`Filesystem`], on threads of its own, and the clock. Leaves the Kafka protocol, groups
//! and the codes of errors to the broker.
//!
//! ```text
//! VERSION            format of the folder (catalog.rs)
//! LOCK               held while a process has it
//! CLEAN              left by an orderly stop, taken at the start: batches then need no check
//! topics.json        topics, ids, settings (catalog.rs)
//! <topic>-<number>/  one partition (log/, segment/, index.rs, txn.rs, producer.rs)
//! ```

mod error;
mod pool;
mod layout;
mod committed_offsets;
mod metrics;
mod health;
mod varint;
mod batch;
mod codec;
mod limits;
mod marker;
mod txn;
mod append;
mod read;
mod records;
mod rewrite;
mod unpacked;
mod incoming;
mod producer;
mod index;
mod swap;
mod segment;
mod stored;
mod log;
mod keymap;
mod cleaner;
mod workers;
mod append_queue;
mod partition;
mod topic;
mod fetch;
mod catalog;
mod topics;
/// Checks and repairs a data folder that is not in use.
pub mod fsck;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod txn_tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use append::{AppendKind, Appended, Verification};
pub use batch::BatchProducer;
pub use committed_offsets::{CommittedOffset, CommittedOffsets};
pub use error::{AppendError, ReadError, StorageError};
pub use fetch::{Ask, locate_all};
pub use fsck::{FsckOptions, FsckReport};
pub use health::NotWritable;
pub use layout::MAX_PARTITIONS;
pub use marker::{Marker, marker_batch, marker_of};
pub use metrics::{StorageMetrics, Traffic};
pub use partition::{Partition, append_all};
pub use producer::ProducerState;
pub use read::{Isolation, ReadResult, TimestampOffset};
pub use segment::Hole;
pub use stored::{Located, Stored};
pub use topic::Topic;
pub use txn::{AbortedTxn, OpenTxn};

use crate::config::{FlushPolicy, StorageConfig};
pub use crate::config::{SETTINGS, SettingError, SettingKind, SettingSpec, TopicSettings};
use catalog::{Catalog, TopicEntry};
use layout::{CLEAN_FILE, LOCK_FILE, partition_dir};
use log::{Log, LogContext};
use millrace_log::clock::SharedClock;
use millrace_log::fs::{self, Filesystem};
use pool::{Pool, Stopped};
use topics::{Topics, check_partitions, clear_left_over, finish_deletions, new_topic, open_topics};
use workers::Workers;

/// All topics in one data folder.
pub struct Storage {
    dir: PathBuf,
    context: LogContext,
    workers: Arc<Workers>,
    topics: RwLock<Topics>,
    /// Goes up whenever a topic is made, grown or deleted.
    topics_version: AtomicU64,
    /// Held through every change of topics, on a thread for disk work.
    catalog: Mutex<Catalog>,
    /// Asked by retention.
    committed_offsets: RwLock<Option<Weak<dyn CommittedOffsets>>>,
}

impl Storage {
    /// Opens the folder, which it makes if need be, takes its lock, and brings every partition to a sound state.
    /// Blocks for as long as recovery takes: call it before serving, or on a blocking thread.
    pub fn open(
        dir: &Path,
        fs: Arc<dyn Filesystem>,
        clock: SharedClock,
        config: StorageConfig,
    ) -> Result<Arc<Self>, StorageError> {
        fs.create_dir_all(dir).map_err(StorageError::io("create", dir))?;
        let lock = fs.lock(&dir.join(LOCK_FILE)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => StorageError::InUse { path: dir.to_owned(), holder: e.to_string() },
            _ => StorageError::io("lock", dir)(e),
        })?;
        let mut catalog = Catalog::open(&*fs, dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            match fs.sync_dir(parent) {
                // Made by someone else, who saw to it.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(StorageError::io("sync", parent))?,
            }
        }
        let clean_path = dir.join(CLEAN_FILE);
        let clean = match fs.remove(&clean_path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(StorageError::io("remove", &clean_path)(e)),
        };
        fs.sync_dir(dir).map_err(StorageError::io("sync", dir))?;

        let start = |name: &str, threads| {
            Pool::start(name, threads, config.queue).map_err(StorageError::io("start threads for", dir))
        };
        let workers = Arc::new(Workers {
            writers: start("log-write", config.write_threads)?,
            flushers: start("log-flush", config.write_threads)?,
            readers: start("log-read", config.read_threads)?,
            cleaners: start("log-clean", config.cleaner_threads)?,
            lock: Mutex::new(Some(lock)),
            config,
        });
        let context = LogContext {
            fs,
            clock,
            flush: workers.config.flush,
            producer_expiry_ms: i64::try_from(workers.config.producer_expiry.0.as_millis()).unwrap_or(i64::MAX),
            metrics: StorageMetrics::default(),
            health: Arc::default(),
        };
        match finish_deletions(dir, &*context.fs, &mut catalog) {
            // Serving what there is matters more; the next change of topics tries again.
            Err(e) if e.is_full() => tracing::warn!(error = %e, "can't remove deleted topics on a full disk"),
            done => done?,
        }
        let topics = open_topics(dir, &context, &workers, &catalog, clean)?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            context,
            workers,
            topics: RwLock::new(topics),
            topics_version: AtomicU64::new(1),
            catalog: Mutex::new(catalog),
            committed_offsets: RwLock::default(),
        }))
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &StorageConfig {
        &self.workers.config
    }

    /// What it counts; register it once.
    pub fn metrics(&self) -> &StorageMetrics {
        &self.context.metrics
    }

    /// Whether it accepts writes; else why not. Cheap, but may ask the file system once.
    pub fn writable(&self) -> Result<(), NotWritable> {
        self.context.health.check(&*self.context.fs, &self.dir, &self.context.metrics)
    }

    /// Makes a topic; durable when it returns.
    pub async fn create_topic(
        self: &Arc<Self>,
        name: &str,
        partitions: i32,
        settings: TopicSettings,
    ) -> Result<Arc<Topic>, StorageError> {
        let name = name.to_owned();
        self.change(move |storage, catalog| {
            if !millrace_log::record::is_topic_name(&name) {
                return Err(StorageError::InvalidTopicName(name));
            }
            if catalog.find(&name).is_some() {
                return Err(StorageError::TopicExists(name));
            }
            check_partitions(&name, partitions, 0)?;
            settings.check(&storage.workers.config)?;
            let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
            let entry = TopicEntry { name, id, partitions, settings, deleting: false };
            let topic = new_topic(&entry, &storage.workers.config);
            storage.make_partitions(&topic, 0, partitions)?;
            catalog.topics.push(entry);
            storage.keep(catalog, |catalog| {
                catalog.topics.pop();
            })?;
            storage.topics.write().insert(topic.clone());
            storage.topics_changed();
            Ok(topic)
        })
        .await
    }

    /// Deletes a topic with all its data.
    pub async fn delete_topic(self: &Arc<Self>, name: &str) -> Result<(), StorageError> {
        let name = name.to_owned();
        self.change(move |storage, catalog| {
            let entry = catalog.find(&name).ok_or_else(|| StorageError::UnknownTopic(name.clone()))?;
            entry.deleting = true;
            let id = entry.id;
            storage.keep(catalog, |catalog| {
                if let Some(entry) = catalog.find(&name) {
                    entry.deleting = false;
                }
            })?;
            if let Some(topic) = storage.topics.write().remove(&name, id) {
                topic.partitions().iter().for_each(|partition| partition.log().delete());
            }
            storage.topics_changed();
            finish_deletions(&storage.dir, &*storage.context.fs, catalog)
        })
        .await
    }

    /// Grows a topic to `total` partitions.
    pub async fn add_partitions(self: &Arc<Self>, name: &str, total: i32) -> Result<(), StorageError> {
        let name = name.to_owned();
        self.change(move |storage, catalog| {
            let unknown = || StorageError::UnknownTopic(name.clone());
            let topic = storage.topic(&name).ok_or_else(unknown)?;
            let has = topic.partition_count();
            check_partitions(&name, total, has)?;
            let made = storage.open_partitions(&topic, has, total)?;
            catalog.find(&name).ok_or_else(unknown)?.partitions = total;
            storage.keep(catalog, |catalog| {
                if let Some(entry) = catalog.find(&name) {
                    entry.partitions = has;
                }
            })?;
            topic.partitions.write().extend(made);
            storage.topics_changed();
            Ok(())
        })
        .await
    }

    /// Replaces the settings of a topic; they hold from the next append on.
    pub async fn alter_topic(self: &Arc<Self>, name: &str, settings: TopicSettings) -> Result<(), StorageError> {
        let name = name.to_owned();
        self.change(move |storage, catalog| {
            settings.check(&storage.workers.config)?;
            let unknown = || StorageError::UnknownTopic(name.clone());
            let topic = storage.topic(&name).ok_or_else(unknown)?;
            let before = std::mem::replace(&mut catalog.find(&name).ok_or_else(unknown)?.settings, settings.clone());
            storage.keep(catalog, |catalog| {
                if let Some(entry) = catalog.find(&name) {
                    entry.settings = before;
                }
            })?;
            *topic.limits.write() = Arc::new(settings.limits(&storage.workers.config));
            *topic.settings.write() = settings;
            Ok(())
        })
        .await
    }

    fn topics_changed(&self) {
        self.topics_version.fetch_add(1, Ordering::Release);
    }

    /// Goes up whenever a topic is made, grown or deleted: whoever keeps something about topics looks again then.
    pub fn topics_version(&self) -> u64 {
        self.topics_version.load(Ordering::Acquire)
    }

    /// All topics by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().by_name.values().cloned().collect()
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().by_name.get(name).cloned()
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.topics.read().by_id.get(&id).cloned()
    }

    /// Retention asks this one from now on who has read how far.
    pub fn ask_committed_offsets(&self, offsets: Weak<dyn CommittedOffsets>) {
        *self.committed_offsets.write() = Some(offsets);
    }

    /// Applies retention to every partition as of a time.
    pub async fn run_retention_once(self: &Arc<Self>, now_ms: i64) {
        for partition in self.partitions() {
            let offsets = self.committed_offsets.read().clone();
            let work = move || partition.retain(now_ms, offsets.and_then(|offsets| offsets.upgrade()).as_deref());
            match self.workers.writers.run(work).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(error = %e, "retention skips a partition"),
                Err(Stopped) => return,
            }
        }
        let damaged: usize = self.partitions().iter().map(|partition| partition.holes().len()).sum();
        self.context.metrics.damaged_places.set(i64::try_from(damaged).unwrap_or(i64::MAX));
    }

    /// Compacts the partitions that need it most, one pass each; returns how many. `stop` ends it early.
    pub async fn run_cleaner_once(self: &Arc<Self>, now_ms: i64, stop: &CancellationToken) -> usize {
        let mut due: Vec<(cleaner::Need, Arc<Partition>)> = self
            .partitions()
            .into_iter()
            .filter_map(|partition| cleaner::need(partition.log(), now_ms).map(|need| (need, partition)))
            .collect();
        // The dirtiest first, but before it those that have waited too long.
        due.sort_by(|(a, _), (b, _)| b.overdue.cmp(&a.overdue).then(b.ratio.total_cmp(&a.ratio)));
        let threads = self.config().cleaner_threads.max(1);
        let memory = usize::try_from(self.config().cleaner_memory.0).unwrap_or(usize::MAX) / threads;
        let passes = due.into_iter().map(|(need, partition)| {
            let stop = stop.clone();
            self.workers.cleaners.run(move || partition.clean(now_ms, need, memory, &|| stop.is_cancelled()))
        });
        futures::stream::iter(passes)
            .buffer_unordered(threads)
            .filter(|done| std::future::ready(matches!(done, Ok(true))))
            .count()
            .await
    }

    /// Retention, compaction and interval flushes until cancelled, then closes: flushes everything and leaves a mark of the clean
    /// stop. Stop the callers first; later appends are refused.
    pub async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), StorageError> {
        let mut tasks = JoinSet::new();
        let (storage, stop) = (self.clone(), token.clone());
        tasks.spawn(async move {
            let every = storage.config().retention_check_interval.0;
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                storage.run_retention_once(storage.context.clock.now_ms()).await;
            }
        });
        let (storage, stop) = (self.clone(), token.clone());
        tasks.spawn(async move {
            let every = storage.config().cleaner_interval.0;
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                // What did not fit into memory is done at once in further passes.
                while storage.run_cleaner_once(storage.context.clock.now_ms(), &stop).await > 0 && !stop.is_cancelled()
                {
                }
            }
        });
        if self.config().flush == FlushPolicy::Interval {
            let (storage, stop) = (self.clone(), token.clone());
            tasks.spawn(async move {
                let every = storage.config().flush_interval.0;
                while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                    storage.partitions().iter().for_each(Partition::flush_soon);
                }
            });
        }
        token.cancelled().await;
        while let Some(ended) = tasks.join_next().await {
            if let Err(e) = ended {
                tracing::error!(error = %e, "a task of the log failed");
            }
        }
        self.close().await
    }

    /// Flushes everything, leaves the mark of a clean stop and frees the folder. Later appends are refused, reads go on.
    pub async fn close(self: &Arc<Self>) -> Result<(), StorageError> {
        // All permits in hand: no append is under way.
        let permits = self.workers.writers.permits().clone();
        let all = u32::try_from(self.workers.config.queue.max(1)).unwrap_or(u32::MAX);
        let Ok(held) = permits.acquire_many_owned(all).await else {
            return Ok(()); // closed before
        };
        self.workers.writers.permits().close();
        drop(held);
        let storage = self.clone();
        self.workers.flushers.run(move || storage.finish()).await?
    }

    fn finish(&self) -> Result<(), StorageError> {
        let mut outcome = Ok(());
        for partition in self.partitions() {
            if let Err(e) = partition.log().close() {
                tracing::error!(?partition, error = %e, "can't close partition");
                outcome = Err(StorageError::Unflushed(e));
            }
        }
        if outcome.is_ok() {
            let path = self.dir.join(CLEAN_FILE);
            outcome = fs::replace(&*self.context.fs, &path, b"").map_err(StorageError::io("write", &path));
        }
        self.workers.lock.lock().take();
        outcome
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        self.topics.read().by_name.values().flat_map(|topic| topic.partitions()).collect()
    }

    /// Runs a change of topics on a thread for disk work, one at a time.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut Catalog) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let storage = self.clone();
        self.workers.writers.run(move || work(&storage, &mut storage.catalog.lock())).await?
    }

    /// Writes the catalog, or takes the change back.
    fn keep(&self, catalog: &mut Catalog, undo: impl FnOnce(&mut Catalog)) -> Result<(), StorageError> {
        let kept = catalog.write(&*self.context.fs, &self.dir);
        if kept.is_err() {
            undo(catalog);
        }
        kept
    }

    fn make_partitions(&self, topic: &Arc<Topic>, from: i32, to: i32) -> Result<(), StorageError> {
        let made = self.open_partitions(topic, from, to)?;
        topic.partitions.write().extend(made);
        Ok(())
    }

    /// Makes the folders of new partitions, durably.
    fn open_partitions(&self, topic: &Topic, from: i32, to: i32) -> Result<Vec<Arc<Partition>>, StorageError> {
        let fs = &*self.context.fs;
        let mut made = Vec::new();
        for number in from..to {
            let dir = partition_dir(&self.dir, &topic.name, number);
            clear_left_over(fs, &dir)?;
            let log = Log::open(&dir, self.context.clone(), topic.limits.clone(), true);
            let log = log.map_err(StorageError::io("create", &dir))?;
            made.push(Partition::new(topic.name.clone(), number, log, self.workers.clone()));
        }
        fs.sync_dir(&self.dir).map_err(StorageError::io("sync", &self.dir))?;
        Ok(made)
    }
}

/// Reads a part of what is stored, on a thread for reading.
pub async fn read_stored(storage: &Storage, stored: &Stored, from: usize, bytes: usize) -> io::Result<Bytes> {
    let stored = stored.clone();
    let read = storage.workers.readers.run(move || stored.read(from, bytes)).await;
    read.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage {} ({} topics)", self.dir.display(), self.topics.read().by_name.len())
    }
}
