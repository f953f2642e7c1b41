//! The index as doors see it: recent events and splits as one, in order, under limits.
//!
//! In: plans; from the indexer, chunks of events; from publisher and upkeep, splits that take the place of others.
//! Out: rows. Touches splits (for reading) through a bounded number of blocking threads. Leaves to others: what is
//! durable (catalog), who writes and deletes folders (publisher, upkeep). What is searchable is one list behind one lock.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use millrace_log::record::Tenant;
use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;

use crate::catalog::{SplitId, SplitRecord};
use crate::config::IndexConfig;
use crate::counting;
use crate::docs::{DocIndex, DocPlace, DocumentStore, Documents};
use crate::folders::Folders;
use crate::head::{self, Chunk};
use crate::live::{Live, LiveSplit, LiveStream, Sealed, Snapshot};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::readers::{Readers, failed};
use crate::scan::{
    Aggregation, DamagedSplit, EventStore, Partial, Plan, RowBatch, RowStream, Stats, StorageError, StreamInfo,
};
use crate::scanning;
use crate::split::{SplitError, SplitReader};

/// Recent events and splits, searchable as one.
#[derive(Debug)]
pub struct Index {
    live: RwLock<Live>,
    readers: Arc<Readers>,
    folders: Folders,
    known_streams: Mutex<HashSet<StreamInfo>>,
    news: broadcast::Sender<Arc<(Tenant, RowBatch)>>,
    progress: Arc<Progress>,
}

impl Index {
    /// An index that lists the catalog's splits.
    pub fn new(
        config: &IndexConfig,
        folders: &Folders,
        splits: Vec<SplitRecord>,
        docs: Arc<Documents>,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let this = Self {
            live: RwLock::default(),
            readers: Arc::new(Readers::new(config, folders, docs, metrics)),
            folders: folders.clone(),
            known_streams: Mutex::default(),
            news: broadcast::channel(config.tail_batches).0,
            progress,
        };
        let splits = splits.into_iter().map(|record| this.live_split(record)).collect();
        this.replace(&[], splits);
        this
    }

    /// The folder of a split.
    pub fn split_dir(&self, id: &SplitId) -> PathBuf {
        self.folders.split(id)
    }

    /// Makes a catalog row searchable; [`Index::published`] or [`Index::replace`] lists it.
    pub fn live_split(&self, record: SplitRecord) -> Arc<LiveSplit> {
        let dir = self.split_dir(&record.id);
        let mut known = self.known_streams.lock();
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
        let missing = self.folders.is_missing(&dir);
        if missing {
            tracing::error!(split = %record.id, path = %dir.display(),
                "split is in the catalog but its folder is missing: its events can't be found; restore the folder and start again");
            self.readers.metrics.splits_damaged.inc();
        }
        let lists_all = record.meta.lists_all_streams();
        let mut record = record;
        record.meta.streams = Vec::new();
        Arc::new(LiveSplit {
            record,
            dir,
            streams,
            lists_all,
            set_aside: AtomicBool::new(missing),
            unreadable: AtomicBool::new(false),
        })
    }

    /// Adds consumed events; they, and the documents that they replace, change for scans that begin from now on.
    pub fn append(&self, chunks: Vec<Arc<Chunk>>) {
        let news: Vec<_> = chunks.iter().map(|c| c.news()).collect();
        {
            let mut live = self.live.write();
            live.active.extend(chunks);
            self.readers.docs.show();
        }
        for one in news {
            // Fails only when nobody listens.
            self.news.send(one).ok();
        }
    }

    /// Closes the part that fills; it stays searchable until [`Index::published`] names its number.
    pub fn seal(&self) -> (u64, Sealed) {
        let mut live = self.live.write();
        let part = Arc::new(std::mem::take(&mut live.active));
        let number = live.next_part;
        live.next_part += 1;
        live.sealed.push((number, Arc::clone(&part)));
        (number, part)
    }

    /// Swaps a sealed part for its splits.
    pub fn published(&self, part: u64, splits: Vec<Arc<LiveSplit>>) {
        let mut live = self.live.write();
        live.sealed.retain(|(number, _)| *number != part);
        live.add(splits);
        self.count(&live);
    }

    /// Swaps splits for others; gives back those that went, for deletion when nobody holds them any more.
    pub fn replace(&self, removed: &[SplitId], added: Vec<Arc<LiveSplit>>) -> Vec<Arc<LiveSplit>> {
        let mut gone = Vec::new();
        {
            let mut live = self.live.write();
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
            live.add(added);
            self.count(&live);
        }
        self.readers.forget(removed);
        gone
    }

    fn count(&self, live: &Live) {
        let all = || live.splits.values().flatten();
        self.readers.metrics.splits.set(i64::try_from(all().count()).unwrap_or(i64::MAX));
        let bytes: u64 = all().map(|s| s.record.meta.disk_bytes).sum();
        let damaged = all().filter(|s| s.is_set_aside()).count();
        self.readers.metrics.splits_quarantined.set(i64::try_from(damaged).unwrap_or(i64::MAX));
        self.readers.metrics.splits_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// All splits of all tenants.
    pub fn splits(&self) -> Vec<Arc<LiveSplit>> {
        self.live.read().splits.values().flatten().map(Arc::clone).collect()
    }

    /// All splits that are quarantined, of all tenants and times.
    pub fn all_damaged(&self) -> Vec<DamagedSplit> {
        let live = self.live.read();
        live.splits.values().flatten().filter(|split| split.is_set_aside()).map(|split| split.damage()).collect()
    }

    /// Splits of one tenant.
    pub fn splits_of(&self, tenant: &str) -> Vec<Arc<LiveSplit>> {
        self.live.read().splits.get(tenant).cloned().unwrap_or_default()
    }

    /// Tenants that have splits or recent events.
    pub fn tenants(&self) -> Vec<Tenant> {
        let live = self.live.read();
        let recent = live.chunks().map(|c| c.tenant().clone());
        let mut all: Vec<Tenant> = live.splits.keys().filter_map(|t| Tenant::new(t).ok()).chain(recent).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Opens a split, or takes it from those kept open. Blocking.
    pub fn reader(&self, split: &LiveSplit) -> Result<SplitReader, SplitError> {
        self.readers.reader(split)
    }

    /// Splits that the system refused to read, and that nobody has read since.
    pub(crate) fn unreadable(&self) -> Vec<Arc<LiveSplit>> {
        self.live.read().splits.values().flatten().filter(|split| split.is_unreadable()).map(Arc::clone).collect()
    }

    /// What reading for queries shares.
    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Forgets label sets that no split names any more.
    pub fn tidy(&self) {
        let mut known = self.known_streams.lock();
        let live = self.live.read();
        let used: usize = live.splits.values().flatten().map(|s| s.streams.len()).sum();
        if known.len() > 2 * used.max(1024) {
            *known = live.splits.values().flatten().flat_map(|s| s.streams.iter().map(|s| s.info.clone())).collect();
        }
    }

    fn snapshot(&self, plan: &Plan) -> Snapshot {
        let live = self.live.read();
        let change = self.readers.docs.shown();
        let chunks = live.chunks().filter(|c| c.concerns(plan)).map(Arc::clone).collect();
        let splits = live.splits.get(plan.tenant.as_str()).map(|l| l.iter().map(Arc::clone).collect());
        drop(live);
        let mut splits: Vec<Arc<LiveSplit>> = splits.unwrap_or_default();
        splits.retain(|s| s.concerns(plan));
        Snapshot { chunks, splits, change }
    }
}

#[async_trait::async_trait]
impl EventStore for Index {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        plan.budget.check()?;
        let snapshot = self.snapshot(&plan);
        Ok(scanning::rows(Arc::clone(&self.readers), plan, snapshot))
    }

    async fn aggregate(&self, plan: Plan, aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        plan.budget.check()?;
        let snapshot = self.snapshot(&plan);
        counting::aggregate(&self.readers, plan, snapshot, aggregation).await
    }

    async fn streams(&self, mut plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        plan.budget.check()?;
        // Ends the work when this call ends, however it ends.
        let budget = plan.budget.part();
        plan.budget = budget.clone();
        let _stop = budget.guard();
        let Snapshot { chunks, splits, .. } = self.snapshot(&plan);
        let readers = Arc::clone(&self.readers);
        let work = self.readers.run(&budget, move || sum_streams(&readers, &chunks, &splits, &plan));
        budget.within(work).await?
    }

    fn damaged(&self, tenant: &Tenant, start_ns: i64, end_ns: i64) -> Vec<DamagedSplit> {
        let live = self.live.read();
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
        self.news.subscribe()
    }

    async fn caught_up(&self, at_most: Duration) -> Result<(), StorageError> {
        match tokio::time::timeout(at_most, self.progress.caught_up()).await {
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
        let (docs, tenant, index, id) =
            (Arc::clone(&self.readers.docs), tenant.clone(), index.to_owned(), id.to_owned());
        let found = tokio::task::spawn_blocking(move || docs.look_up(&tenant, &index, &id)).await;
        match found {
            Ok(found) => found.map_err(|e| failed("the list of documents", e)),
            Err(_) => Err(StorageError::Cancelled),
        }
    }

    fn doc_indices(&self, tenant: &Tenant) -> Vec<DocIndex> {
        self.readers.docs.indices(tenant)
    }
}

fn sum_streams(
    readers: &Readers,
    chunks: &[Arc<Chunk>],
    splits: &[Arc<LiveSplit>],
    plan: &Plan,
) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
    let mut sums = HashMap::new();
    head::add_stats(chunks, plan, &mut sums)?;
    for split in splits {
        plan.budget.check()?;
        if split.lists_all {
            for stream in split.streams.iter().filter(|s| s.concerns(plan)) {
                let entries = head::rows_of_kind(plan.kind, stream.rows, stream.documents);
                let found = Stats { streams: 1, chunks: 1, bytes: stream.bytes, entries };
                head::add(&mut sums, &stream.info, found);
            }
        } else {
            let reader = readers.reader(split).map_err(|e| readers.fault(split, e))?;
            for (stream, found) in reader.streams(plan) {
                head::add(&mut sums, &stream, Stats { chunks: 1, ..found });
            }
        }
    }
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by(|(a, _), (b, _)| (&a.labels, &a.topic).cmp(&(&b.labels, &b.topic)));
    Ok(all)
}
