//! The aggregator as a whole: opens its folder, starts its threads, tells whether it is ready.
//!
//! In: configuration, a data folder, a way to the log. Out: the index for the doors, the ledger, readiness. Touches
//! `<data>/index`. Leaves HTTP to the doors.
//!
//! # Folder
//! `index/VERSION` (one number), `index/lock` (held while open), `index/catalog` (sled), `index/splits/<id>`,
//! `index/tmp` (emptied at the start).
//!
//! # Threads, in the direction of the data
//! `agg-consume` -> `queue_batches` -> `agg-index` -> parts that fit `head_bytes` -> `agg-publish`; beside them
//! `agg-upkeep`. On stop the consumer ends first, the others drain: what was read is published before the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::client::{BatchProducer, ClientError, DELIVERY_TIMEOUT, WireConsumer, WireProducer};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{ConsumerStatus, Setback};
use millrace_log::fs::{Filesystem, Lock, RealFs, read_all, replace};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::AggregatorConfig;
use crate::consume::{Reader, consumer};
use millrace_index::catalog::{Catalog, CatalogError, CatalogState, SourceKey};
use millrace_index::docs::Documents;
use millrace_index::folders::Folders;
use millrace_index::indexer::{Indexer, Shared};
use millrace_index::ledger::{Book, Ledger, SourceCounts};
use millrace_index::metrics::Metrics;
use millrace_index::progress::Progress;
use millrace_index::publish::{PublishError, Publisher, Tools};
use millrace_index::retention::Upkeep;
use millrace_index::sled_catalog::SledCatalog;
use millrace_index::state::{StateDb, StateError};
use millrace_index::store::Index;

/// Version of the folder that this program writes, and the newest that it reads.
pub const FOLDER_VERSION: u32 = 1;

/// Why the aggregator can't start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// Another process uses the folder.
    #[error("{} is in use by another process: stop it, or choose another `data_dir`", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Written by a newer Millrace.
    #[error("{} has version {found}, this program reads up to {FOLDER_VERSION}: use the version that wrote it, or a newer one", path.display())]
    Newer {
        /// The file `VERSION`.
        path: PathBuf,
        /// Its content.
        found: String,
    },
    /// Files of the folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The client of the log can't be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Reading met a fault that repeating can't cure.
    #[error("reading the log stopped")]
    Consume(#[from] Setback),
    /// Publishing met a fault that repeating can't cure.
    #[error("publishing stopped")]
    Publish(#[from] PublishError),
    /// A thread can't be started.
    #[error("thread `{name}` can't be started: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A thread ended by a panic.
    #[error("thread `{name}` ended unexpectedly: this is a bug, please report it with the log")]
    Panicked {
        /// Its name.
        name: &'static str,
    },
    /// `run` was called twice.
    #[error("the aggregator is already running")]
    Running,
}

/// Topics to index, open and ready to run. Doors share it behind an `Arc`.
pub struct Aggregator {
    shared: Shared,
    folder: PathBuf,
    config: AggregatorConfig,
    clock: SharedClock,
    catalog: Arc<dyn Catalog>,
    parts: Mutex<Option<Parts>>,
    #[cfg(test)]
    at_step: Option<millrace_index::publish::StepHook>,
    _lock: Box<dyn Lock>,
}

/// What `run` takes.
struct Parts {
    folders: Folders,
    state: CatalogState,
    reader: Reader,
    producer: Arc<dyn BatchProducer>,
}

impl std::fmt::Debug for Aggregator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aggregator").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Locks the folder and checks its version. Blocking.
fn lock_folder(fs: &dyn Filesystem, folder: &Path) -> Result<Box<dyn Lock>, AggregatorError> {
    fs.create_dir_all(folder).map_err(StateError::io("making", folder))?;
    let path = folder.join("lock");
    let lock = fs.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => AggregatorError::InUse { path: folder.to_owned() },
        _ => StateError::io("locking", &path)(error).into(),
    })?;
    let path = folder.join("VERSION");
    match read_all(fs, &path) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            match text.trim().parse::<u32>() {
                Ok(version) if version <= FOLDER_VERSION => {}
                _ => return Err(AggregatorError::Newer { path, found: text.trim().chars().take(40).collect() }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let content = format!("{FOLDER_VERSION}\n");
            replace(fs, &path, content.as_bytes()).map_err(StateError::io("writing", &path))?;
        }
        Err(source) => return Err(StateError::io("reading", &path)(source).into()),
    }
    // Each time: the process that made the folder may have ended before it did this.
    for dir in folder.ancestors().take(2) {
        fs.sync_dir(dir).map_err(StateError::io("syncing", dir))?;
    }
    Ok(lock)
}

impl Aggregator {
    /// Opens `<data_dir>/index` and makes the clients of the log, which connect in the background.
    pub async fn open(
        config: AggregatorConfig,
        data_dir: &Path,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Self, AggregatorError> {
        let connection = config.kafka.connection();
        let reader = Box::new(WireConsumer::new(&connection, &config.kafka.group)?);
        let producer = Arc::new(WireProducer::new(&connection, Some(DELIVERY_TIMEOUT))?);
        Self::open_with(config, data_dir, clock, registry, reader, producer).await
    }

    /// The same with any way to the log.
    pub async fn open_with(
        config: AggregatorConfig,
        data_dir: &Path,
        clock: SharedClock,
        registry: &mut Registry,
        reader: Reader,
        producer: Arc<dyn BatchProducer>,
    ) -> Result<Self, AggregatorError> {
        let metrics = Arc::new(Metrics::register(registry));
        config.kafka.topics.iter().for_each(|topic| metrics.show(topic));
        let folder = data_dir.join("index");
        let (at, now_ns) = (folder.clone(), clock.now_ns());
        let opening = tokio::task::spawn_blocking(move || {
            let lock = lock_folder(&RealFs, &at)?;
            let db = Arc::new(StateDb::open(&at.join("catalog"))?);
            let docs = Documents::open(Arc::clone(&db), now_ns)?;
            Ok::<_, AggregatorError>((lock, SledCatalog::open(db)?, docs))
        });
        let (lock, catalog, docs) = opening.await.map_err(|_| AggregatorError::Panicked { name: "agg-open" })??;
        let mut state = catalog.load().await?;
        let (at, splits) = (folder.clone(), std::mem::take(&mut state.splits));
        let progress = Arc::new(Progress::new(&metrics.consumer));
        progress.searchable(state.partitions.iter().map(|(tp, p)| (tp.clone(), p.next)));
        let docs = Arc::new(docs);
        let index_config = config.index.clone();
        let shared_parts = (Arc::clone(&docs), Arc::clone(&progress), Arc::clone(&metrics));
        let opening = tokio::task::spawn_blocking(move || {
            let folders = Folders::open(&RealFs::shared(), &at, &splits)?;
            let (docs, progress, metrics) = shared_parts;
            let index = Index::new(&index_config, &folders, splits, docs, progress, metrics);
            Ok::<_, AggregatorError>((folders, index))
        });
        let (folders, index) = opening.await.map_err(|_| AggregatorError::Panicked { name: "agg-open" })??;
        let book = Arc::new(Book::new(std::mem::take(&mut state.ledger)));
        let shared = Shared { index: Arc::new(index), docs, book, progress, metrics };
        let catalog: Arc<dyn Catalog> = Arc::new(catalog);
        let parts = Parts { folders, state, reader, producer };
        Ok(Self {
            shared,
            folder,
            config,
            clock,
            catalog,
            parts: Mutex::new(Some(parts)),
            #[cfg(test)]
            at_step: None,
            _lock: lock,
        })
    }

    /// The index, for the doors.
    pub fn store(&self) -> Arc<Index> {
        Arc::clone(&self.shared.index)
    }

    /// Whether the catalog is open, the log within reach and positions known; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        self.shared.progress.ready()
    }

    /// Counts of the hop from log to index.
    pub fn ledger(&self) -> Ledger {
        self.shared.book.snapshot()
    }

    /// What people see of the consumer: pauses, holes.
    pub fn status(&self) -> &ConsumerStatus {
        self.shared.progress.status()
    }

    /// Records in the log that can't be searched yet; else why nobody can tell.
    pub async fn behind(&self) -> Result<u64, String> {
        self.ready()?;
        self.shared.progress.behind().await.map_err(|error| error.to_string())
    }

    /// Counts by source as of the last publication, sorted by topic, partition and source: the agent's side of the ledger
    /// names the same sources.
    pub async fn source_ledger(&self) -> Result<Vec<SourceCounts>, AggregatorError> {
        let sources = self.catalog.sources().await?;
        let mut all: Vec<SourceCounts> = sources
            .into_iter()
            .map(|(SourceKey { partition, source }, state)| SourceCounts {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                source: source.to_string(),
                offset: state.offset,
                sub: state.sub,
                seen_ms: state.seen_ms,
                stored: state.stored,
                duplicate: state.duplicate,
            })
            .collect();
        all.sort_by(|a, b| (&a.topic, a.partition, &a.source).cmp(&(&b.topic, b.partition, &b.source)));
        Ok(all)
    }

    /// Next offset of each partition to become searchable.
    pub fn positions(&self) -> std::collections::HashMap<millrace_log::record::TopicPartition, i64> {
        self.shared.progress.positions()
    }

    /// Reads, indexes and publishes until cancelled, then publishes what was read. Ends early only with an error.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(&self, cancel: CancellationToken) -> BoxFuture<'_, Result<(), AggregatorError>> {
        self.run_until(cancel).boxed()
    }

    async fn run_until(&self, cancel: CancellationToken) -> Result<(), AggregatorError> {
        let Some(Parts { folders, state, reader, producer }) = self.parts.lock().take() else {
            return Err(AggregatorError::Running);
        };
        // A thread that ends with an error ends the others.
        let stop = cancel.child_token();
        let _ended = stop.clone().drop_guard();
        let (shared, config) = (self.shared.clone(), self.config.clone());
        let tools = Tools {
            shared: shared.clone(),
            catalog: Arc::clone(&self.catalog),
            folders,
            clock: Arc::clone(&self.clock),
            runtime: tokio::runtime::Handle::current(),
            cancel: stop.clone(),
        };
        let (records, from_consumer) = sync_channel(config.kafka.queue_batches);
        let parts_in_memory = config.index.head_bytes.0 / config.index.split_bytes.0.max(1);
        // One part fills and one is being written beside those that wait.
        let waiting = usize::try_from(parts_in_memory.saturating_sub(2)).unwrap_or(0);
        let (parts, from_indexer) = sync_channel(waiting);
        let consumer =
            consumer(reader, &config.kafka, Arc::clone(&self.clock), state.partitions, &shared, records, stop.clone());
        let indexer = Indexer::new(shared.clone(), state.sources, Arc::clone(&self.clock), config.index.clone());
        #[cfg_attr(not(test), allow(unused_mut))]
        let mut publisher = Publisher::new(tools.clone(), producer, config.kafka.dead_letter_topic.clone());
        #[cfg(test)]
        {
            publisher.at_step.clone_from(&self.at_step);
        }
        let upkeep = Upkeep::new(tools, config.index.clone(), config.retention.clone());

        let publishing = thread("agg-publish", &stop, move || Ok(publisher.run(&from_indexer)?))?;
        let indexing = thread("agg-index", &stop, move || Ok(indexer.run(from_consumer, &parts)?))?;
        let consuming = thread("agg-consume", &stop, move || {
            consumer.run()?;
            Ok(())
        })?;
        let caring = thread("agg-upkeep", &stop, move || {
            upkeep.run();
            Ok(())
        })?;
        let published = joined("agg-publish", publishing).await;
        let indexed = joined("agg-index", indexing).await;
        // It commits the positions of the last publication first.
        shared.progress.stop();
        let consumed = joined("agg-consume", consuming).await;
        let cared = joined("agg-upkeep", caring).await;
        published?;
        indexed?;
        consumed?;
        cared
    }
}

type Ended = oneshot::Receiver<Result<(), AggregatorError>>;

/// Starts a named thread; when it fails, `stop` ends the others.
fn thread(
    name: &'static str,
    stop: &CancellationToken,
    work: impl FnOnce() -> Result<(), AggregatorError> + Send + 'static,
) -> Result<Ended, AggregatorError> {
    let (send, receive) = oneshot::channel();
    // Also a panic ends the others: nothing may go on as if all were well.
    let guard = stop.clone().drop_guard();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let done = work();
            if let Err(error) = &done {
                tracing::error!(thread = name, error = error as &dyn std::error::Error, "ended");
            }
            drop(guard);
            // `run` may have been dropped.
            send.send(done).ok();
        })
        .map_err(|source| AggregatorError::Thread { name, source })?;
    Ok(receive)
}

async fn joined(name: &'static str, ended: Ended) -> Result<(), AggregatorError> {
    ended.await.unwrap_or(Err(AggregatorError::Panicked { name }))
}

#[cfg(test)]
mod tests;
