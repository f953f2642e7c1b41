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
//! <topic>-<number>/  one partition (log.rs, segment.rs, index.rs, txn.rs, producer.rs)
//! ```

mod error;
mod pool;
mod health;
mod metrics;
mod topic;
mod limits;
mod catalog;
mod partition;
mod batch;
mod records;
mod producer;
mod log;
mod segment;
mod index;
mod txn;
mod swap;
mod keymap;
mod cleaner;
mod unread;
mod stored;
/// Checks and repairs a data folder that is not in use.
pub mod fsck;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod txn_tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use futures::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use batch::{BatchProducer, Marker, marker_batch, marker_of};
pub use error::{AppendError, ReadError, StorageError};
pub use fsck::{FsckOptions, FsckReport};
pub use health::NotWritable;
pub use metrics::{StorageMetrics, Traffic};
use millrace_log::fs::{self, Filesystem};
pub use partition::{
    AppendKind, Appended, Isolation, OpenTxn, Partition, ReadResult, TimestampOffset, Verification, append_all,
};
pub use producer::ProducerState;
pub use segment::Hole;
pub use stored::{Ask, Located, Stored, locate_all, read_stored};
pub use topic::Topic;
pub use txn::AbortedTxn;
pub use unread::{CommittedOffset, Unread};

use crate::config::{FlushPolicy, StorageConfig};
pub use crate::config::{SETTINGS, SettingError, SettingKind, SettingSpec, TopicSettings};
use catalog::{Catalog, TopicEntry};
use limits::SharedLimits;
use log::{Log, Surroundings};
use millrace_log::clock::SharedClock;
use pool::{Pool, Stopped};

/// Partitions that one topic may have.
pub const MAX_PARTITIONS: i32 = 10_000;

const LOCK_FILE: &str = "LOCK";
const CLEAN_FILE: &str = "CLEAN";

/// What partitions share with the storage and need even after it is gone: threads and the folder's lock.
struct Shared {
    config: StorageConfig,
    writers: Pool,
    flushers: Pool,
    readers: Pool,
    cleaners: Pool,
    lock: Mutex<Option<Box<dyn fs::Lock>>>,
}

#[derive(Default)]
struct Topics {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: BTreeMap<Uuid, Arc<Topic>>,
}

/// All topics in one data folder.
pub struct Storage {
    dir: PathBuf,
    around: Surroundings,
    shared: Arc<Shared>,
    topics: RwLock<Topics>,
    /// Goes up whenever a topic is made, grown or deleted.
    topics_version: AtomicU64,
    /// Held through every change of topics, on a thread for disk work.
    catalog: Mutex<Catalog>,
    /// Asked by retention.
    unread: RwLock<Option<Weak<dyn Unread>>>,
}

impl From<Stopped> for StorageError {
    fn from(_: Stopped) -> Self {
        Self::Closed
    }
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
        let shared = Arc::new(Shared {
            writers: start("log-write", config.write_threads)?,
            flushers: start("log-flush", config.write_threads)?,
            readers: start("log-read", config.read_threads)?,
            cleaners: start("log-clean", config.cleaner_threads)?,
            lock: Mutex::new(Some(lock)),
            config,
        });
        let around = Surroundings {
            fs,
            clock,
            flush: shared.config.flush,
            producer_expiry_ms: i64::try_from(shared.config.producer_expiry.0.as_millis()).unwrap_or(i64::MAX),
            metrics: StorageMetrics::default(),
            health: Arc::default(),
        };
        match finish_deletions(dir, &*around.fs, &mut catalog) {
            // Serving what there is matters more; the next change of topics tries again.
            Err(e) if e.is_full() => tracing::warn!(error = %e, "deleted topics can't be forgotten on a full disk"),
            done => done?,
        }
        let topics = open_topics(dir, &around, &shared, &catalog, clean)?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            around,
            shared,
            topics: RwLock::new(topics),
            topics_version: AtomicU64::new(1),
            catalog: Mutex::new(catalog),
            unread: RwLock::default(),
        }))
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &StorageConfig {
        &self.shared.config
    }

    /// What it counts; register it once.
    pub fn metrics(&self) -> &StorageMetrics {
        &self.around.metrics
    }

    /// Whether it takes writes; else what is in the way. Cheap, but may ask the file system once.
    pub fn writable(&self) -> Result<(), NotWritable> {
        self.around.health.check(&*self.around.fs, &self.dir, &self.around.metrics)
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
            settings.check(&storage.shared.config)?;
            let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
            let entry = TopicEntry { name, id, partitions, settings, deleting: false };
            let topic = new_topic(&entry, &storage.shared.config);
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
            finish_deletions(&storage.dir, &*storage.around.fs, catalog)
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
            settings.check(&storage.shared.config)?;
            let unknown = || StorageError::UnknownTopic(name.clone());
            let topic = storage.topic(&name).ok_or_else(unknown)?;
            let before = std::mem::replace(&mut catalog.find(&name).ok_or_else(unknown)?.settings, settings.clone());
            storage.keep(catalog, |catalog| {
                if let Some(entry) = catalog.find(&name) {
                    entry.settings = before;
                }
            })?;
            *topic.limits.write() = Arc::new(settings.limits(&storage.shared.config));
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
    pub fn ask_unread(&self, unread: Weak<dyn Unread>) {
        *self.unread.write() = Some(unread);
    }

    /// Applies retention to every partition as of a time.
    pub async fn run_retention_once(self: &Arc<Self>, now_ms: i64) {
        for partition in self.partitions() {
            let unread = self.unread.read().clone();
            let work = move || partition.retain(now_ms, unread.and_then(|unread| unread.upgrade()).as_deref());
            match self.shared.writers.run(work).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(error = %e, "retention passes over a partition"),
                Err(Stopped) => return,
            }
        }
        let damaged: usize = self.partitions().iter().map(|partition| partition.holes().len()).sum();
        self.around.metrics.damaged_places.set(i64::try_from(damaged).unwrap_or(i64::MAX));
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
            self.shared.cleaners.run(move || partition.clean(now_ms, need, memory, &|| stop.is_cancelled()))
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
                storage.run_retention_once(storage.around.clock.now_ms()).await;
            }
        });
        let (storage, stop) = (self.clone(), token.clone());
        tasks.spawn(async move {
            let every = storage.config().cleaner_interval.0;
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                // What did not fit into memory is done at once in further passes.
                while storage.run_cleaner_once(storage.around.clock.now_ms(), &stop).await > 0 && !stop.is_cancelled() {
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
                tracing::error!(error = %e, "a task of the log ended badly");
            }
        }
        self.close().await
    }

    /// Flushes everything, leaves the mark of a clean stop and frees the folder. Later appends are refused, reads go on.
    pub async fn close(self: &Arc<Self>) -> Result<(), StorageError> {
        // All permits in hand: no append is under way.
        let permits = self.shared.writers.permits().clone();
        let all = u32::try_from(self.shared.config.queue.max(1)).unwrap_or(u32::MAX);
        let Ok(held) = permits.acquire_many_owned(all).await else {
            return Ok(()); // closed before
        };
        self.shared.writers.permits().close();
        drop(held);
        let storage = self.clone();
        self.shared.flushers.run(move || storage.finish()).await?
    }

    fn finish(&self) -> Result<(), StorageError> {
        let mut outcome = Ok(());
        for partition in self.partitions() {
            if let Err(e) = partition.log().close() {
                tracing::error!(?partition, error = %e, "partition can't be closed in order");
                outcome = Err(StorageError::Unflushed(e));
            }
        }
        if outcome.is_ok() {
            let path = self.dir.join(CLEAN_FILE);
            outcome = fs::replace(&*self.around.fs, &path, b"").map_err(StorageError::io("write", &path));
        }
        self.shared.lock.lock().take();
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
        self.shared.writers.run(move || work(&storage, &mut storage.catalog.lock())).await?
    }

    /// Writes the catalog, or takes the change back.
    fn keep(&self, catalog: &mut Catalog, undo: impl FnOnce(&mut Catalog)) -> Result<(), StorageError> {
        let kept = catalog.write(&*self.around.fs, &self.dir);
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
        let fs = &*self.around.fs;
        let mut made = Vec::new();
        for number in from..to {
            let dir = partition_dir(&self.dir, &topic.name, number);
            clear_left_over(fs, &dir)?;
            let log = Log::open(&dir, self.around.clone(), topic.limits.clone(), true);
            let log = log.map_err(StorageError::io("create", &dir))?;
            made.push(Partition::new(topic.name.clone(), number, log, self.shared.clone()));
        }
        fs.sync_dir(&self.dir).map_err(StorageError::io("sync", &self.dir))?;
        Ok(made)
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage {} ({} topics)", self.dir.display(), self.topics.read().by_name.len())
    }
}

impl Topics {
    fn insert(&mut self, topic: Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), topic.clone());
        self.by_id.insert(topic.id, topic);
    }

    fn remove(&mut self, name: &str, id: Uuid) -> Option<Arc<Topic>> {
        self.by_id.remove(&id);
        self.by_name.remove(name)
    }
}

fn partition_dir(dir: &Path, topic: &str, number: i32) -> PathBuf {
    dir.join(format!("{topic}-{number}"))
}

fn check_partitions(topic: &str, wanted: i32, has: i32) -> Result<(), StorageError> {
    if wanted > has && wanted <= MAX_PARTITIONS {
        return Ok(());
    }
    Err(StorageError::InvalidPartitions { topic: topic.to_owned(), wanted, has, max: MAX_PARTITIONS })
}

fn new_topic(entry: &TopicEntry, config: &StorageConfig) -> Arc<Topic> {
    let limits: SharedLimits = Arc::new(RwLock::new(Arc::new(entry.settings.limits(config))));
    Arc::new(Topic {
        name: entry.name.as_str().into(),
        id: entry.id,
        settings: RwLock::new(entry.settings.clone()),
        limits,
        partitions: RwLock::default(),
    })
}

/// Removes the folders of topics that are being deleted, then forgets them.
fn finish_deletions(dir: &Path, fs: &dyn Filesystem, catalog: &mut Catalog) -> Result<(), StorageError> {
    if !catalog.topics.iter().any(|topic| topic.deleting) {
        return Ok(());
    }
    for topic in catalog.topics.iter().filter(|topic| topic.deleting) {
        for number in 0..topic.partitions {
            let path = partition_dir(dir, &topic.name, number);
            match fs.remove_dir_all(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StorageError::io("remove", &path)(e)),
                _ => {}
            }
        }
    }
    fs.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
    catalog.topics.retain(|topic| !topic.deleting);
    catalog.write(fs, dir)
}

/// Removes what a creation that was cut short has left, if it holds no data.
fn clear_left_over(fs: &dyn Filesystem, dir: &Path) -> Result<(), StorageError> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StorageError::io("read", dir)(e)),
    };
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".log")) {
        let path = dir.join(&entry.name);
        let len = fs.open(&path).and_then(|file| file.len()).map_err(StorageError::io("read", &path))?;
        if len > 0 {
            return Err(StorageError::LeftOver { path: dir.to_owned() });
        }
    }
    fs.remove_dir_all(dir).map_err(StorageError::io("remove", dir))
}

/// Opens all partitions, several at a time, as each may have a segment to go through.
fn open_topics(
    dir: &Path,
    around: &Surroundings,
    shared: &Arc<Shared>,
    catalog: &Catalog,
    clean: bool,
) -> Result<Topics, StorageError> {
    let opened: Vec<Arc<Topic>> = catalog.topics.iter().map(|entry| new_topic(entry, &shared.config)).collect();
    let all: Vec<(usize, i32)> = catalog
        .topics
        .iter()
        .enumerate()
        .flat_map(|(at, entry)| (0..entry.partitions).map(move |number| (at, number)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut logs = Vec::new();
        while let Some((at, number)) = all.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let Some(topic) = opened.get(at) else { continue };
            let path = partition_dir(dir, &topic.name, number);
            let log = Log::open(&path, around.clone(), topic.limits.clone(), clean);
            logs.push((at, number, log.map_err(StorageError::io("open", &path))?));
        }
        Ok::<_, StorageError>(logs)
    };
    let mut logs = Vec::with_capacity(all.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shared.config.read_threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            logs.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, StorageError>(())
    })?;
    logs.sort_by_key(|(at, number, _)| (*at, *number));
    for (at, number, log) in logs {
        if let Some(topic) = opened.get(at) {
            let partition = Partition::new(topic.name.clone(), number, log, shared.clone());
            topic.partitions.write().push(partition);
        }
    }
    let mut topics = Topics::default();
    opened.into_iter().for_each(|topic| topics.insert(topic));
    Ok(topics)
}
