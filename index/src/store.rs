//! The index as doors see it: recent events and splits as one, in order, under limits.
//!
//! In: plans; from the indexer, chunks of events; from publisher and upkeep, splits that take the place of others.
//! Out: rows. Touches splits (for reading) through a bounded number of blocking threads. Leaves to others: what is
//! durable (catalog), who writes and deletes folders (publisher, upkeep).
//!
//! What is searchable is one list behind one lock. A scan copies its part of the list (counted references) and never
//! looks again: whatever is swapped meanwhile, each row is in exactly one chunk or split of its copy. A folder is
//! deleted only when no copy names its split any more ([`LiveSplit`] counts as the pin).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use lru::LruCache;
use millrace_log::record::{Position, SourceId, Tenant};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::catalog::{SplitId, SplitRecord};
use crate::config::IndexConfig;
use crate::docs::{DocIndex, DocPlace, DocumentStore, Documents};
use crate::head::{self, Chunk, HeadScan};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::rows::{self, BatchBuilder};
use crate::scan::{DamagedSplit, EventStore, Order, Plan, RowBatch, RowStream, Stats, StorageError, StreamInfo};
use crate::split::{SplitError, SplitReader, SplitScan};

/// A split that is searched. Whoever holds one keeps its folder.
#[derive(Debug)]
pub struct LiveSplit {
    /// What the catalog says of it.
    pub record: SplitRecord,
    /// Its folder.
    pub dir: PathBuf,
    /// Its streams, label sets shared with other splits (those of `record.meta` are emptied).
    streams: Vec<LiveStream>,
    /// Whether `streams` is the whole list; otherwise the reader is asked.
    lists_all: bool,
    set_aside: AtomicBool,
}

#[derive(Debug)]
struct LiveStream {
    info: StreamInfo,
    rows: u64,
    documents: u64,
    bytes: u64,
    min_ns: i64,
    max_ns: i64,
}

impl LiveSplit {
    fn concerns(&self, plan: &Plan) -> bool {
        let meta = &self.record.meta;
        if self.set_aside.load(Atomic::Relaxed) || !meta.overlaps(plan.start_ns, plan.end_ns) {
            return false;
        }
        if head::rows_of_kind(plan.kind, meta.rows, meta.documents) == 0 {
            return false;
        }
        !self.lists_all || self.streams.iter().any(|s| s.concerns(plan))
    }

    fn damage(&self) -> DamagedSplit {
        let meta = &self.record.meta;
        let (min_ns, max_ns) = (meta.min_time_ns, meta.max_time_ns);
        DamagedSplit { split: self.record.id.to_string(), rows: meta.rows, min_ns, max_ns }
    }

    /// Whether it was found damaged: queries go on without it.
    pub fn is_set_aside(&self) -> bool {
        self.set_aside.load(Atomic::Relaxed)
    }
}

impl LiveStream {
    fn concerns(&self, plan: &Plan) -> bool {
        self.min_ns < plan.end_ns
            && self.max_ns >= plan.start_ns
            && head::rows_of_kind(plan.kind, self.rows, self.documents) > 0
            && rows::stream_matches(&plan.matchers, &self.info.labels)
    }
}

/// Chunks of one part that is being published.
pub type Sealed = Arc<Vec<Arc<Chunk>>>;

#[derive(Debug, Default)]
struct Live {
    active: Vec<Arc<Chunk>>,
    sealed: Vec<(u64, Sealed)>,
    splits: HashMap<String, Vec<Arc<LiveSplit>>>,
    next_part: u64,
}

/// One consistent view of a tenant's events.
struct Snapshot {
    chunks: Vec<Arc<Chunk>>,
    splits: Vec<Arc<LiveSplit>>,
    change: u64,
}

/// Recent events and splits, searchable as one.
#[derive(Debug)]
pub struct Index {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    live: RwLock<Live>,
    docs: Arc<Documents>,
    splits_dir: PathBuf,
    readers: Mutex<LruCache<SplitId, SplitReader>>,
    known_streams: Mutex<HashSet<StreamInfo>>,
    threads: Arc<Semaphore>,
    read_ahead: usize,
    news: broadcast::Sender<Arc<(Tenant, RowBatch)>>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
}

impl Index {
    /// An index that lists the catalog's splits.
    pub fn new(
        config: &IndexConfig,
        splits_dir: PathBuf,
        splits: Vec<SplitRecord>,
        docs: Arc<Documents>,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let open = std::num::NonZeroUsize::new(config.open_splits).unwrap_or(std::num::NonZeroUsize::MIN);
        let inner = Inner {
            live: RwLock::default(),
            docs,
            splits_dir,
            readers: Mutex::new(LruCache::new(open)),
            known_streams: Mutex::default(),
            threads: Arc::new(Semaphore::new(config.threads())),
            read_ahead: config.threads(),
            news: broadcast::channel(config.tail_batches).0,
            progress,
            metrics,
        };
        let this = Self { inner: Arc::new(inner) };
        let splits = splits.into_iter().map(|record| this.live_split(record)).collect();
        this.replace(&[], splits);
        this
    }

    /// The folder of a split.
    pub fn split_dir(&self, id: &SplitId) -> PathBuf {
        self.inner.splits_dir.join(id.as_str())
    }

    /// Makes a catalog row searchable; [`Index::published`] or [`Index::replace`] lists it.
    pub fn live_split(&self, record: SplitRecord) -> Arc<LiveSplit> {
        let dir = self.split_dir(&record.id);
        let mut known = self.inner.known_streams.lock();
        let streams = record
            .meta
            .streams
            .iter()
            .map(|s| {
                let info = StreamInfo { labels: s.labels(), topic: s.topic.as_str().into() };
                let info = match known.get(&info) {
                    Some(shared) => shared.clone(),
                    None => {
                        known.insert(info.clone());
                        info
                    }
                };
                LiveStream {
                    info,
                    rows: s.rows,
                    documents: s.documents,
                    bytes: s.bytes,
                    min_ns: s.min_time_ns,
                    max_ns: s.max_time_ns,
                }
            })
            .collect();
        drop(known);
        let missing = !dir.is_dir();
        if missing {
            tracing::error!(split = %record.id, path = %dir.display(),
                "split is in the catalog but its folder is missing: its events can't be found; restore the folder and start again");
            self.inner.metrics.splits_damaged.inc();
        }
        let lists_all = record.meta.lists_all_streams();
        let mut record = record;
        record.meta.streams = Vec::new();
        Arc::new(LiveSplit { record, dir, streams, lists_all, set_aside: AtomicBool::new(missing) })
    }

    /// Adds consumed events; they, and the documents that they replace, change for scans that begin from now on.
    pub fn append(&self, chunks: Vec<Arc<Chunk>>) {
        let news: Vec<_> = chunks.iter().map(|c| c.news()).collect();
        {
            let mut live = self.inner.live.write();
            live.active.extend(chunks);
            self.inner.docs.show();
        }
        for one in news {
            // Fails only when nobody listens.
            self.inner.news.send(one).ok();
        }
    }

    /// Closes the part that fills; it stays searchable until [`Index::published`] names its number.
    pub fn seal(&self) -> (u64, Sealed) {
        let mut live = self.inner.live.write();
        let part = Arc::new(std::mem::take(&mut live.active));
        let number = live.next_part;
        live.next_part += 1;
        live.sealed.push((number, Arc::clone(&part)));
        (number, part)
    }

    /// Swaps a sealed part for its splits.
    pub fn published(&self, part: u64, splits: Vec<Arc<LiveSplit>>) {
        let mut live = self.inner.live.write();
        live.sealed.retain(|(number, _)| *number != part);
        add_splits(&mut live.splits, splits);
        self.count(&live);
    }

    /// Swaps splits for others; gives back those that went, for deletion when nobody holds them any more.
    pub fn replace(&self, removed: &[SplitId], added: Vec<Arc<LiveSplit>>) -> Vec<Arc<LiveSplit>> {
        let mut gone = Vec::new();
        {
            let mut live = self.inner.live.write();
            for list in live.splits.values_mut() {
                list.retain(|split| {
                    let goes = removed.contains(&split.record.id);
                    if goes {
                        gone.push(Arc::clone(split));
                    }
                    !goes
                });
            }
            live.splits.retain(|_, list| !list.is_empty());
            add_splits(&mut live.splits, added);
            self.count(&live);
        }
        let mut readers = self.inner.readers.lock();
        for id in removed {
            readers.pop(id);
        }
        gone
    }

    fn count(&self, live: &Live) {
        let all = || live.splits.values().flatten();
        self.inner.metrics.splits.set(i64::try_from(all().count()).unwrap_or(i64::MAX));
        let bytes: u64 = all().map(|s| s.record.meta.disk_bytes).sum();
        let damaged = all().filter(|s| s.is_set_aside()).count();
        self.inner.metrics.splits_quarantined.set(i64::try_from(damaged).unwrap_or(i64::MAX));
        self.inner.metrics.splits_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// All splits of all tenants.
    pub fn splits(&self) -> Vec<Arc<LiveSplit>> {
        self.inner.live.read().splits.values().flatten().map(Arc::clone).collect()
    }

    /// All damaged splits, of all tenants and times.
    pub fn all_damaged(&self) -> Vec<DamagedSplit> {
        let live = self.inner.live.read();
        live.splits.values().flatten().filter(|split| split.is_set_aside()).map(|split| split.damage()).collect()
    }

    /// Splits of one tenant.
    pub fn splits_of(&self, tenant: &str) -> Vec<Arc<LiveSplit>> {
        self.inner.live.read().splits.get(tenant).cloned().unwrap_or_default()
    }

    /// Tenants that have splits or recent events.
    pub fn tenants(&self) -> Vec<Tenant> {
        let live = self.inner.live.read();
        let recent =
            live.sealed.iter().flat_map(|(_, part)| part.iter()).chain(&live.active).map(|c| c.tenant().clone());
        let mut all: Vec<Tenant> = live.splits.keys().filter_map(|t| Tenant::new(t).ok()).chain(recent).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Opens a split, or takes it from those kept open. Blocking.
    pub fn reader(&self, split: &LiveSplit) -> Result<SplitReader, SplitError> {
        self.inner.reader(split)
    }

    /// Leaves a damaged split out of queries and merges from now on.
    pub fn set_aside(&self, split: &LiveSplit, error: &SplitError) {
        self.inner.set_aside(split, error);
    }

    /// Forgets label sets that no split names any more.
    pub fn tidy(&self) {
        let mut known = self.inner.known_streams.lock();
        let live = self.inner.live.read();
        let used: usize = live.splits.values().flatten().map(|s| s.streams.len()).sum();
        if known.len() > 2 * used.max(1024) {
            *known = live.splits.values().flatten().flat_map(|s| s.streams.iter().map(|s| s.info.clone())).collect();
        }
    }

    fn snapshot(&self, plan: &Plan) -> Snapshot {
        let live = self.inner.live.read();
        let change = self.inner.docs.shown();
        let recent = live.sealed.iter().flat_map(|(_, part)| part.iter()).chain(&live.active);
        let chunks = recent.filter(|c| c.concerns(plan)).map(Arc::clone).collect();
        let splits = live.splits.get(plan.tenant.as_str()).map(|l| l.iter().map(Arc::clone).collect());
        drop(live);
        let mut splits: Vec<Arc<LiveSplit>> = splits.unwrap_or_default();
        splits.retain(|s| s.concerns(plan));
        Snapshot { chunks, splits, change }
    }
}

fn add_splits(lists: &mut HashMap<String, Vec<Arc<LiveSplit>>>, splits: Vec<Arc<LiveSplit>>) {
    for split in splits {
        lists.entry(split.record.meta.tenant.clone()).or_default().push(split);
    }
}

fn failed(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    StorageError::Failed { what: what.to_owned(), source: Arc::new(source) }
}

impl Inner {
    fn reader(&self, split: &LiveSplit) -> Result<SplitReader, SplitError> {
        if let Some(reader) = self.readers.lock().get(&split.record.id) {
            return Ok(reader.clone());
        }
        let reader = SplitReader::open(&split.dir)?;
        self.readers.lock().put(split.record.id.clone(), reader.clone());
        Ok(reader)
    }

    fn set_aside(&self, split: &LiveSplit, error: &SplitError) {
        if error.is_damage() && !split.set_aside.swap(true, Atomic::Relaxed) {
            tracing::error!(split = %split.record.id, path = %split.dir.display(), %error,
                "split is damaged and quarantined: queries go on without its events");
            self.metrics.splits_damaged.inc();
            self.metrics.splits_quarantined.inc();
        }
    }

    /// Names the split in the error; a damaged one is set aside, so that the next query goes on without it.
    fn fault(&self, split: &LiveSplit, error: SplitError) -> StorageError {
        self.set_aside(split, &error);
        match error {
            SplitError::Limit { .. } | SplitError::Cancelled => error.into(),
            other => failed(&format!("split {}", split.record.id), other),
        }
    }
}

#[async_trait::async_trait]
impl EventStore for Index {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        if plan.cancel.is_cancelled() {
            return Err(StorageError::Cancelled);
        }
        let snapshot = self.snapshot(&plan);
        let scan = Scan::start(Arc::clone(&self.inner), plan, snapshot);
        Ok(match scan.plan.order {
            Order::Any => futures::stream::unfold(scan, Scan::next_any).boxed(),
            Order::Forward | Order::Backward => futures::stream::unfold(scan, Scan::next_ordered).boxed(),
        })
    }

    async fn streams(&self, mut plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        if plan.cancel.is_cancelled() {
            return Err(StorageError::Cancelled);
        }
        // Ends the work when this call ends, however it ends.
        let cancel = plan.cancel.child_token();
        plan.cancel = cancel.clone();
        let _stop = cancel.clone().drop_guard();
        let Snapshot { chunks, splits, .. } = self.snapshot(&plan);
        let deadline = deadline(plan.limits.timeout);
        let timeout = plan.limits.timeout;
        let inner = Arc::clone(&self.inner);
        let permit = Arc::clone(&self.inner.threads);
        let work = async move {
            let _permit = permit.acquire_owned().await;
            tokio::task::spawn_blocking(move || inner.sum_streams(&chunks, &splits, &plan)).await
        };
        tokio::select! {
            answer = work => answer.unwrap_or(Err(StorageError::Cancelled)),
            () = tokio::time::sleep_until(deadline) => Err(timed_out(timeout)),
            () = cancel.cancelled() => Err(StorageError::Cancelled),
        }
    }

    fn damaged(&self, tenant: &Tenant, start_ns: i64, end_ns: i64) -> Vec<DamagedSplit> {
        let live = self.inner.live.read();
        let mut all: Vec<DamagedSplit> = live
            .splits
            .get(tenant.as_str())
            .into_iter()
            .flatten()
            .filter(|split| split.is_set_aside() && split.record.meta.overlaps(start_ns, end_ns))
            .map(|split| split.damage())
            .collect();
        drop(live);
        all.sort_by(|a, b| (a.min_ns, &a.split).cmp(&(b.min_ns, &b.split)));
        all
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<(Tenant, RowBatch)>> {
        self.inner.news.subscribe()
    }

    async fn caught_up(&self, at_most: Duration) -> Result<(), StorageError> {
        match tokio::time::timeout(at_most, self.inner.progress.caught_up()).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(StorageError::Limit { limit: "refresh timeout", allowed: format!("{} s", at_most.as_secs_f32()) })
            }
        }
    }
}

#[async_trait::async_trait]
impl DocumentStore for Index {
    async fn doc_lookup(&self, tenant: &Tenant, index: &str, id: &str) -> Result<Option<DocPlace>, StorageError> {
        let (docs, tenant, index, id) = (Arc::clone(&self.inner.docs), tenant.clone(), index.to_owned(), id.to_owned());
        let found = tokio::task::spawn_blocking(move || docs.look_up(&tenant, &index, &id)).await;
        match found {
            Ok(found) => found.map_err(|e| failed("the list of documents", e)),
            Err(_) => Err(StorageError::Cancelled),
        }
    }

    fn doc_indices(&self, tenant: &Tenant) -> Vec<DocIndex> {
        self.inner.docs.indices(tenant)
    }
}

impl Inner {
    fn sum_streams(
        &self,
        chunks: &[Arc<Chunk>],
        splits: &[Arc<LiveSplit>],
        plan: &Plan,
    ) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        let mut sums = HashMap::new();
        head::add_stats(chunks, plan, &mut sums);
        for split in splits {
            if plan.cancel.is_cancelled() {
                return Err(StorageError::Cancelled);
            }
            if split.lists_all {
                for stream in split.streams.iter().filter(|s| s.concerns(plan)) {
                    let entries = head::rows_of_kind(plan.kind, stream.rows, stream.documents);
                    let found = Stats { streams: 1, chunks: 1, bytes: stream.bytes, entries };
                    head::add(&mut sums, &stream.info, found);
                }
            } else {
                let reader = self.reader(split).map_err(|e| self.fault(split, e))?;
                for (stream, found) in reader.streams(plan) {
                    head::add(&mut sums, &stream, Stats { chunks: 1, ..found });
                }
            }
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_by(|(a, _), (b, _)| (&a.labels, &a.topic).cmp(&(&b.labels, &b.topic)));
        Ok(all)
    }
}

fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(365 * 24 * 3600))
}

fn timed_out(timeout: Duration) -> StorageError {
    StorageError::Limit { limit: "timeout", allowed: format!("{} s", timeout.as_secs_f32()) }
}

type Key = (i64, SourceId, Position);

/// Where rows come from: recent events or one split.
enum Source {
    Head(HeadScan),
    Split(Arc<LiveSplit>, Box<SplitScan>),
}

/// What has not been opened yet.
enum Unopened {
    Head(Vec<Arc<Chunk>>),
    Split(Arc<LiveSplit>),
}

/// A source and its next batch, as a blocking thread gives them back; no batch: it has ended.
type Refill = Result<(Source, Option<RowBatch>, u64), StorageError>;
type Running = Pin<Box<dyn Future<Output = Refill> + Send>>;

/// The next batches of one source: one that is being merged and one that is being read.
struct Cursor {
    batch: RowBatch,
    row: usize,
    /// Numbers of the batch's streams in the batch that is being built.
    numbers: Vec<Option<u32>>,
    refill: Option<Running>,
}

/// A scan under way. Dropping it ends its work on other threads after the batch at hand.
struct Scan {
    inner: Arc<Inner>,
    plan: Arc<Plan>,
    change: u64,
    deadline: Instant,
    bytes_read: u64,
    /// By the first key that they can give, last one first.
    unopened: Vec<(i64, Unopened)>,
    cursors: Vec<Option<Cursor>>,
    heap: BinaryHeap<Head>,
    running: FuturesUnordered<Running>,
    out: BatchBuilder,
    ended: bool,
    _stop: DropGuard,
}

/// The next row of a cursor; the greatest is the one that comes first.
struct Head {
    order: Order,
    key: Key,
    cursor: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        rows::compare_in(self.order, other.key, self.key).then_with(|| other.cursor.cmp(&self.cursor))
    }
}

impl Scan {
    fn start(inner: Arc<Inner>, mut plan: Plan, snapshot: Snapshot) -> Self {
        let stop: CancellationToken = plan.cancel.child_token();
        plan.cancel = stop.clone();
        let mut unopened: Vec<(i64, Unopened)> = snapshot
            .splits
            .into_iter()
            .map(|split| {
                let meta = &split.record.meta;
                let bound = if plan.order == Order::Backward { meta.max_time_ns } else { meta.min_time_ns };
                (bound, Unopened::Split(split))
            })
            .collect();
        if plan.order == Order::Backward {
            unopened.sort_by_key(|(bound, _)| *bound);
        } else {
            unopened.sort_by_key(|(bound, _)| std::cmp::Reverse(*bound));
        }
        if !snapshot.chunks.is_empty() {
            // Recent events may be of any time: open them first.
            let bound = if plan.order == Order::Backward { i64::MAX } else { i64::MIN };
            unopened.push((bound, Unopened::Head(snapshot.chunks)));
        }
        Self {
            inner,
            deadline: deadline(plan.limits.timeout),
            change: snapshot.change,
            bytes_read: 0,
            unopened,
            cursors: Vec::new(),
            heap: BinaryHeap::new(),
            running: FuturesUnordered::new(),
            out: BatchBuilder::default(),
            ended: false,
            plan: Arc::new(plan),
            _stop: stop.drop_guard(),
        }
    }

    /// Runs blocking work on one of the bounded threads.
    fn run(&self, work: impl FnOnce(&Inner, &Plan) -> Refill + Send + 'static) -> Running {
        let (inner, plan) = (Arc::clone(&self.inner), Arc::clone(&self.plan));
        let threads = Arc::clone(&self.inner.threads);
        let job = move |permit: OwnedSemaphorePermit| {
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                if plan.cancel.is_cancelled() {
                    return Err(StorageError::Cancelled);
                }
                work(&inner, &plan)
            })
        };
        // With a thread to spare it starts at once, so that a batch is read while the one before it is merged;
        // otherwise when it is waited for. Nothing holds a thread while it waits for someone else.
        match Arc::clone(&threads).try_acquire_owned() {
            Ok(permit) => {
                let running = job(permit);
                Box::pin(async move { running.await.unwrap_or(Err(StorageError::Cancelled)) })
            }
            Err(_) => Box::pin(async move {
                match threads.acquire_owned().await {
                    Ok(permit) => job(permit).await.unwrap_or(Err(StorageError::Cancelled)),
                    Err(_) => Err(StorageError::Cancelled),
                }
            }),
        }
    }

    fn open(&self, unopened: Unopened) -> Running {
        let change = self.change;
        self.run(move |inner, plan| {
            let source = match unopened {
                Unopened::Head(chunks) => Source::Head(HeadScan::new(chunks, plan)),
                Unopened::Split(split) => {
                    let reader = inner.reader(&split).map_err(|e| inner.fault(&split, e))?;
                    let scan = reader.scan(plan);
                    Source::Split(split, Box::new(scan))
                }
            };
            next_batch(inner, plan, change, source, true)
        })
    }

    fn refill(&self, source: Source) -> Running {
        let change = self.change;
        self.run(move |inner, plan| next_batch(inner, plan, change, source, false))
    }

    /// Waits within the limits of the query.
    fn within<T, F>(&self, work: F) -> impl Future<Output = Result<T, StorageError>> + Send + use<T, F>
    where
        T: Send,
        F: Future<Output = T> + Send,
    {
        let (cancel, deadline, timeout) = (self.plan.cancel.clone(), self.deadline, self.plan.limits.timeout);
        async move {
            // A batch that is there already must not outlive the time of the query either.
            if Instant::now() >= deadline {
                return Err(timed_out(timeout));
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(StorageError::Cancelled),
                done = work => Ok(done),
                () = tokio::time::sleep_until(deadline) => Err(timed_out(timeout)),
            }
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.bytes_read += bytes;
        self.inner.metrics.query_bytes.inc_by(bytes);
        let allowed = self.plan.limits.max_bytes_read;
        if self.bytes_read > allowed {
            return Err(StorageError::Limit { limit: "max_bytes_read", allowed: format!("{allowed} bytes") });
        }
        Ok(())
    }

    /// Batches as they come, several sources at a time.
    async fn next_any(mut self) -> Option<(Result<RowBatch, StorageError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            while self.running.len() < self.read_ahead()
                && let Some((_, next)) = self.unopened.pop()
            {
                let running = self.open(next);
                self.running.push(running);
            }
            let mut running = std::mem::take(&mut self.running);
            let done = self.within(running.next()).await;
            self.running = running;
            let step = match done {
                Err(error) | Ok(Some(Err(error))) => Err(error),
                Ok(None) => return None,
                Ok(Some(Ok((_, None, bytes)))) => self.count(bytes).map(|()| None),
                Ok(Some(Ok((source, Some(batch), bytes)))) => {
                    let running = self.refill(source);
                    self.running.push(running);
                    self.count(bytes).map(|()| Some(batch))
                }
            };
            match step {
                Ok(None) => {}
                Ok(Some(batch)) if batch.rows.is_empty() => {}
                Ok(Some(batch)) => return Some((Ok(batch), self)),
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
    }

    fn read_ahead(&self) -> usize {
        self.inner.read_ahead
    }

    /// The next batch in order.
    async fn next_ordered(mut self) -> Option<(Result<RowBatch, StorageError>, Self)> {
        if self.ended {
            return None;
        }
        match self.merge().await {
            Ok(None) => None,
            Ok(Some(batch)) => Some((Ok(batch), self)),
            Err(error) => {
                self.ended = true;
                Some((Err(error), self))
            }
        }
    }

    async fn merge(&mut self) -> Result<Option<RowBatch>, StorageError> {
        loop {
            self.open_due().await?;
            let Some(Head { cursor: at, .. }) = self.heap.pop() else {
                return Ok((!self.out.is_empty()).then(|| self.take()));
            };
            // Rows of this cursor up to the next one of another, or up to where an unopened split may begin.
            let other = self.heap.peek().map(|h| h.key);
            let bound = self.unopened.last().map(|(bound, _)| *bound);
            let order = self.plan.order;
            let before = |key: Key| {
                other.is_none_or(|o| rows::compare_in(order, key, o) != Ordering::Greater)
                    && bound.is_none_or(|b| if order == Order::Backward { key.0 > b } else { key.0 < b })
            };
            let Some(cursor) = self.cursors.get_mut(at).and_then(Option::as_mut) else { continue };
            let whole = cursor.row == 0 && self.out.is_empty();
            if whole && cursor.batch.rows.last().is_some_and(|last| before(rows::key(last))) {
                let batch = std::mem::take(&mut cursor.batch);
                self.advance(at).await?;
                return Ok(Some(batch));
            }
            while let Some(row) = cursor.batch.rows.get(cursor.row) {
                let number = row.stream as usize;
                let number = match cursor.numbers.get(number).copied().flatten() {
                    Some(known) => known,
                    None => {
                        let new = cursor.batch.streams.get(number).map_or(0, |s| self.out.stream(s));
                        if let Some(slot) = cursor.numbers.get_mut(number) {
                            *slot = Some(new);
                        }
                        new
                    }
                };
                self.out.copy(number, &cursor.batch, row);
                cursor.row += 1;
                let go_on = cursor.batch.rows.get(cursor.row).is_some_and(|next| before(rows::key(next)));
                if !go_on || self.out.is_full() {
                    break;
                }
            }
            if cursor.row < cursor.batch.rows.len() {
                self.push(at);
            } else {
                self.advance(at).await?;
            }
            if self.out.is_full() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> RowBatch {
        for cursor in self.cursors.iter_mut().flatten() {
            cursor.numbers.fill(None);
        }
        self.out.take()
    }

    fn push(&mut self, at: usize) {
        if let Some(Some(cursor)) = self.cursors.get(at)
            && let Some(row) = cursor.batch.rows.get(cursor.row)
        {
            self.heap.push(Head { order: self.plan.order, key: rows::key(row), cursor: at });
        }
    }

    /// Opens every source that may have a row before (or at) the next one, all at once, and some more to read ahead.
    async fn open_due(&mut self) -> Result<(), StorageError> {
        loop {
            let order = self.plan.order;
            let due = |bound: i64, next: Option<&Head>| match next {
                None => true,
                Some(next) if order == Order::Backward => bound >= next.key.0,
                Some(next) => bound <= next.key.0,
            };
            let Some((bound, _)) = self.unopened.last() else { return Ok(()) };
            if !due(*bound, self.heap.peek()) {
                return Ok(());
            }
            // Without a next row the first bound stands for it: sources that begin together are opened together.
            let first = self.heap.peek().map_or(*bound, |h| h.key.0);
            let mut opened = Vec::new();
            while let Some((bound, _)) = self.unopened.last() {
                let reached = if order == Order::Backward { *bound >= first } else { *bound <= first };
                // Queries with a limit usually stop in their first splits: only the others read ahead.
                let ahead = self.plan.expect.is_none() && opened.len() < self.read_ahead();
                if !(reached || ahead || opened.is_empty()) {
                    break;
                }
                if let Some((_, next)) = self.unopened.pop() {
                    opened.push(self.open(next));
                }
            }
            self.check_memory(opened.len())?;
            let refills = self.within(futures::future::join_all(opened)).await?;
            for refill in refills {
                let at = self.cursors.len();
                self.cursors.push(None);
                self.filled(at, refill?)?;
            }
        }
    }

    /// Takes the batch that was read ahead and asks for the one behind it.
    async fn advance(&mut self, at: usize) -> Result<(), StorageError> {
        let refill = self.cursors.get_mut(at).and_then(Option::take).and_then(|c| c.refill);
        match refill {
            None => Ok(()),
            Some(refill) => {
                let refill = self.within(refill).await??;
                self.filled(at, refill)
            }
        }
    }

    fn filled(
        &mut self,
        at: usize,
        (source, batch, bytes): (Source, Option<RowBatch>, u64),
    ) -> Result<(), StorageError> {
        self.count(bytes)?;
        let Some(batch) = batch else { return Ok(()) };
        let numbers = vec![None; batch.streams.len()];
        let refill = Some(self.refill(source));
        if let Some(slot) = self.cursors.get_mut(at) {
            *slot = Some(Cursor { batch, row: 0, numbers, refill });
        }
        self.push(at);
        Ok(())
    }

    fn check_memory(&self, opening: usize) -> Result<(), StorageError> {
        let held: usize = self.cursors.iter().flatten().map(|c| c.batch.text.len() + c.batch.rows.len() * 128).sum();
        // Each open source holds a batch and reads one.
        let open = self.cursors.iter().flatten().count() + opening;
        let about = (2 * held + open * (64 << 10)) as u64;
        let allowed = self.plan.limits.max_memory_bytes;
        if about > allowed {
            return Err(StorageError::Limit { limit: "max_memory", allowed: format!("{allowed} bytes") });
        }
        Ok(())
    }
}

/// Reads on until there is a batch with a live row. `bytes` is what this call read of lines.
fn next_batch(inner: &Inner, plan: &Plan, change: u64, mut source: Source, first: bool) -> Refill {
    let mut bytes = match &source {
        Source::Head(scan) if first => scan.bytes_read(),
        _ => 0,
    };
    loop {
        if plan.cancel.is_cancelled() {
            return Err(StorageError::Cancelled);
        }
        let batch = match &mut source {
            Source::Head(scan) => scan.next(),
            Source::Split(split, scan) => {
                let before = scan.bytes_read();
                let next = scan.next();
                bytes += scan.bytes_read().saturating_sub(before);
                next.transpose().map_err(|e| inner.fault(split, e))?
            }
        };
        let Some(batch) = batch else { return Ok((source, None, bytes)) };
        let mut fault = None;
        let batch = rows::retain(batch, |row| match &row.doc {
            None => true,
            Some(doc) => match inner.docs.is_live(&plan.tenant, doc, row.source, row.position, change) {
                Ok(live) => live,
                Err(error) => {
                    fault = Some(error);
                    false
                }
            },
        });
        if let Some(error) = fault {
            return Err(failed("the list of documents", error));
        }
        if !batch.rows.is_empty() {
            return Ok((source, Some(batch), bytes));
        }
    }
}
