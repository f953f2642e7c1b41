//! The catalog of one aggregator, in sled.
//!
//! In: publications and replacements. Out: all rows at the start. Touches its sled database.
//!
//! # Trees and keys (version 1)
//! Text parts end with a zero byte, numbers are big-endian, so that keys sort by their parts; values are JSON, readers
//! ignore names that they do not know. Keys of what belongs to a partition lead with (tenant, topic, partition, owner
//! epoch); the tenant is empty where a row belongs to all of them.
//! | tree | key | value |
//! |---|---|---|
//! | `splits` | tenant, split id | [`SplitRecord`] (without its list of streams where that is long: the split has it) |
//! | `partitions` | "", topic, partition u32, epoch u64 | [`PartitionState`] |
//! | `sources` | "", topic, partition u32, epoch u64 = 0, source 16 bytes | [`SourceState`] |
//! | `holes` | "", topic, partition u32, epoch u64, from u64 | [`Hole`] |
//! | `meta` | `topic/<name>`, `removed` | [`TopicCounts`], `Removed` |
//!
//! Positions of sources are kept over epochs (epoch 0 in the key): a topic made anew does not make old lines new.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_log::consume::{Hole, Interval};
use millrace_log::record::{SourceId, TopicPartition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::Transactional as _;
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};

use crate::catalog::{
    Catalog, CatalogError, CatalogState, PartitionState, Publication, Replacement, SourceKey, SourceState, SplitId,
    SplitRecord,
};
use crate::ledger::{Amount, TopicCounts};
use crate::state::StateDb;

/// Bytes of a split's stream list that the catalog keeps; sled writes larger pages to files of their own.
const MAX_STREAM_LIST: usize = 16 << 10;

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
struct Removed {
    replaced: Amount,
    expired: Amount,
}

/// The catalog of one aggregator, in sled.
#[derive(Debug, Clone)]
pub struct SledCatalog {
    trees: Arc<Trees>,
}

#[derive(Debug)]
struct Trees {
    db: Arc<StateDb>,
    splits: sled::Tree,
    partitions: sled::Tree,
    sources: sled::Tree,
    holes: sled::Tree,
    meta: sled::Tree,
}

const REMOVED: &[u8] = b"removed";

fn topic_key(topic: &str) -> Vec<u8> {
    [b"topic/", topic.as_bytes()].concat()
}

fn split_key(tenant: &str, id: &SplitId) -> Vec<u8> {
    [tenant.as_bytes(), &[0], id.as_str().as_bytes()].concat()
}

/// Key of a row that belongs to a partition: no tenant, topic, partition, owner epoch, then `rest`.
fn partition_key(topic: &str, partition: i32, epoch: u64, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(topic.len() + 14 + rest.len());
    key.push(0);
    key.extend_from_slice(topic.as_bytes());
    key.push(0);
    key.extend_from_slice(&partition.cast_unsigned().to_be_bytes());
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

fn read_partition_key(key: &[u8]) -> Option<(TopicPartition, u64, &[u8])> {
    let rest = key.strip_prefix(&[0])?;
    let end = memchr::memchr(0, rest)?;
    let topic = std::str::from_utf8(rest.get(..end)?).ok()?;
    let (partition, rest) = rest.get(end + 1..)?.split_first_chunk::<4>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let partition = u32::from_be_bytes(*partition).cast_signed();
    Some((TopicPartition::new(topic, partition), u64::from_be_bytes(*epoch), rest))
}

fn source_key(key: &SourceKey) -> Vec<u8> {
    partition_key(&key.partition.topic, key.partition.partition, 0, &key.source.0)
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structs with names as keys: writing them to memory can't fail.
    serde_json::to_vec(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(tree: &'static str, value: &[u8]) -> Result<T, CatalogError> {
    serde_json::from_slice(value).map_err(|source| CatalogError::Damaged { tree, source })
}

/// The record with its list of streams cut off where it is too long for a page.
fn lean(record: &SplitRecord) -> Vec<u8> {
    let bytes = json(record);
    if bytes.len() <= MAX_STREAM_LIST {
        return bytes;
    }
    let mut short = record.clone();
    short.meta.streams = Vec::new();
    json(&short)
}

type Tx<T> = Result<T, ConflictableTransactionError<CatalogError>>;

fn abort<T>(error: CatalogError) -> Tx<T> {
    Err(ConflictableTransactionError::Abort(error))
}

fn tx_get<T: DeserializeOwned>(tree: &TransactionalTree, name: &'static str, key: &[u8]) -> Tx<Option<T>> {
    match tree.get(key)? {
        None => Ok(None),
        Some(value) => parse(name, &value).map(Some).or_else(abort),
    }
}

impl SledCatalog {
    /// Opens its trees. Blocking.
    pub fn open(db: Arc<StateDb>) -> Result<Self, CatalogError> {
        let tree = |name: &str| db.tree(name);
        let trees = Trees {
            splits: tree("splits")?,
            partitions: tree("partitions")?,
            sources: tree("sources")?,
            holes: tree("holes")?,
            meta: tree("meta")?,
            db,
        };
        trees.db.sync()?;
        Ok(Self { trees: Arc::new(trees) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Trees) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let trees = Arc::clone(&self.trees);
        tokio::task::spawn_blocking(move || work(&trees)).await.unwrap_or(Err(CatalogError::Stopped))
    }
}

#[async_trait::async_trait]
impl Catalog for SledCatalog {
    async fn load(&self) -> Result<CatalogState, CatalogError> {
        self.blocking(Trees::load).await
    }

    async fn sources(&self) -> Result<HashMap<SourceKey, SourceState>, CatalogError> {
        self.blocking(Trees::sources).await
    }

    async fn publish(&self, publication: Publication) -> Result<(), CatalogError> {
        self.blocking(move |trees| trees.publish(&publication)).await
    }

    async fn replace(&self, replacement: Replacement) -> Result<(), CatalogError> {
        self.blocking(move |trees| trees.replace(&replacement)).await
    }
}

impl Trees {
    fn rows<'a>(
        &'a self,
        tree: &'a sled::Tree,
    ) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), CatalogError>> + 'a {
        tree.iter().map(|row| row.map_err(|e| self.db.fault(e).into()))
    }

    fn load(&self) -> Result<CatalogState, CatalogError> {
        let mut state = CatalogState::default();
        for row in self.rows(&self.splits) {
            state.splits.push(parse("splits", &row?.1)?);
        }
        for row in self.rows(&self.partitions) {
            let (key, value) = row?;
            // Keys sort by epoch: the last of a partition is its present life.
            if let Some((tp, _, _)) = read_partition_key(&key) {
                state.partitions.insert(tp, parse("partitions", &value)?);
            }
        }
        state.sources = self.sources()?;
        for row in self.rows(&self.holes) {
            state.ledger.holes.push(parse("holes", &row?.1)?);
        }
        for row in self.rows(&self.meta) {
            let (key, value) = row?;
            if key == REMOVED {
                let removed: Removed = parse("meta", &value)?;
                state.ledger.replaced = removed.replaced;
                state.ledger.expired = removed.expired;
            } else if let Some(topic) = key.strip_prefix(b"topic/") {
                let topic = String::from_utf8_lossy(topic).into_owned();
                state.ledger.topics.insert(topic, parse("meta", &value)?);
            }
        }
        Ok(state)
    }

    fn sources(&self) -> Result<HashMap<SourceKey, SourceState>, CatalogError> {
        let mut sources = HashMap::new();
        for row in self.rows(&self.sources) {
            let (key, value) = row?;
            if let Some((partition, _, source)) = read_partition_key(&key)
                && let Ok(source) = <[u8; 16]>::try_from(source)
            {
                sources.insert(SourceKey { partition, source: SourceId(source) }, parse("sources", &value)?);
            }
        }
        Ok(sources)
    }

    fn publish(&self, p: &Publication) -> Result<(), CatalogError> {
        let done = (&self.splits, &self.partitions, &self.sources, &self.holes, &self.meta).transaction(
            |(splits, partitions, sources, holes, meta)| {
                if self.take_intervals(partitions, p)? {
                    return Ok(());
                }
                for hole in &p.holes {
                    let at = &hole.interval;
                    let from = at.from.cast_unsigned().to_be_bytes();
                    holes.insert(partition_key(&at.topic, at.partition, at.epoch, &from), json(hole))?;
                }
                for split in &p.splits {
                    splits.insert(split_key(&split.meta.tenant, &split.id), lean(split))?;
                }
                for (key, state) in &p.sources {
                    sources.insert(source_key(key), json(state))?;
                }
                for key in &p.forgotten {
                    sources.remove(source_key(key))?;
                }
                for (topic, counts) in &p.counts {
                    let key = topic_key(topic);
                    let mut sum: TopicCounts = tx_get(meta, "meta", &key)?.unwrap_or_default();
                    sum += *counts;
                    meta.insert(key, json(&sum))?;
                }
                Ok(())
            },
        );
        self.finish(done)
    }

    /// Moves the partitions on. True if this very publication was written before.
    fn take_intervals(&self, partitions: &TransactionalTree, p: &Publication) -> Tx<bool> {
        let mut repeated = 0;
        for interval in &p.intervals {
            let key = partition_key(&interval.topic, interval.partition, interval.epoch, &[]);
            let known: Option<PartitionState> = tx_get(partitions, "partitions", &key)?;
            let start = match &known {
                Some(state) if state.publication == p.id => {
                    repeated += 1;
                    continue;
                }
                Some(state) if interval.from < state.next => {
                    let (next, epoch) = (state.next, state.epoch);
                    return abort(CatalogError::Overlap { interval: interval.clone(), next, epoch });
                }
                Some(state) if interval.from > state.next && !bridged(&p.holes, interval, state.next) => {
                    return abort(CatalogError::Gap { interval: interval.clone(), next: state.next });
                }
                Some(state) => state.start,
                None => interval.from,
            };
            let Interval { epoch, to: next, topic_id, .. } = *interval;
            let state = PartitionState { epoch, start, next, topic_id, publication: p.id.clone() };
            partitions.insert(key, json(&state))?;
        }
        Ok(repeated > 0 && repeated == p.intervals.len())
    }

    fn replace(&self, r: &Replacement) -> Result<(), CatalogError> {
        let done = (&self.splits, &self.meta).transaction(|(splits, meta)| {
            for id in &r.removed {
                if splits.remove(split_key(&r.tenant, id))?.is_none() {
                    return abort(CatalogError::Missing { id: id.clone() });
                }
            }
            for split in &r.added {
                splits.insert(split_key(&r.tenant, &split.id), lean(split))?;
            }
            let mut removed: Removed = tx_get(meta, "meta", REMOVED)?.unwrap_or_default();
            removed.replaced += r.replaced;
            removed.expired += r.expired;
            meta.insert(REMOVED, json(&removed))?;
            Ok(())
        });
        self.finish(done)
    }

    fn finish(&self, done: Result<(), TransactionError<CatalogError>>) -> Result<(), CatalogError> {
        match done {
            Ok(()) => Ok(self.db.sync()?),
            Err(TransactionError::Abort(error)) => Err(error),
            Err(TransactionError::Storage(error)) => Err(self.db.fault(error).into()),
        }
    }
}

/// Whether holes fill [next, interval.from).
fn bridged(holes: &[Hole], interval: &Interval, mut next: i64) -> bool {
    let mut of_partition: Vec<&Interval> = holes
        .iter()
        .map(|h| &h.interval)
        .filter(|i| i.topic == interval.topic && i.partition == interval.partition && i.epoch == interval.epoch)
        .collect();
    of_partition.sort_by_key(|i| i.from);
    for hole in of_partition {
        if hole.from <= next {
            next = next.max(hole.to);
        }
    }
    next == interval.from
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::consume::HoleCause;
    use millrace_log::topic_id::TopicId;

    fn interval(from: i64, to: i64, epoch: u64) -> Interval {
        Interval { topic: "logs".into(), partition: 3, epoch, from, to, topic_id: None }
    }

    fn publication(id: &str, interval: Interval) -> Publication {
        Publication { id: id.into(), intervals: vec![interval], ..Publication::default() }
    }

    fn open(dir: &std::path::Path) -> SledCatalog {
        SledCatalog::open(Arc::new(StateDb::open(dir).unwrap())).unwrap()
    }

    #[tokio::test]
    async fn intervals_follow_each_other_or_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path());
        catalog.publish(publication("a", interval(5, 10, 1))).await.unwrap();
        let overlap = catalog.publish(publication("b", interval(9, 12, 1))).await.unwrap_err();
        assert!(matches!(overlap, CatalogError::Overlap { next: 10, .. }), "{overlap}");
        let gap = catalog.publish(publication("c", interval(11, 12, 1))).await.unwrap_err();
        assert!(matches!(gap, CatalogError::Gap { next: 10, .. }), "{gap}");
        // The same publication again: its answer was lost.
        catalog.publish(publication("a", interval(5, 10, 1))).await.unwrap();
        let hole = Hole { interval: interval(10, 11, 1), cause: HoleCause::Retention, found_ms: 7 };
        let told = Publication { holes: vec![hole.clone()], ..publication("d", interval(11, 12, 1)) };
        catalog.publish(told).await.unwrap();
        // A topic made anew starts over.
        catalog.publish(publication("e", interval(0, 2, 2))).await.unwrap();
        drop(catalog);
        let state = open(dir.path()).load().await.unwrap();
        let tp = TopicPartition::new("logs", 3);
        let second = PartitionState { epoch: 2, start: 0, next: 2, topic_id: None, publication: "e".into() };
        assert_eq!(state.partitions[&tp], second);
        assert_eq!(state.ledger.holes, [hole]);
    }

    #[tokio::test]
    async fn the_id_of_a_topic_is_kept_and_rows_without_one_still_open() {
        let dir = tempfile::tempdir().unwrap();
        let (id, tp) = (TopicId::read("00000000-0000-0000-0000-000000000007"), TopicPartition::new("logs", 3));
        let catalog = open(dir.path());
        // As versions before ids of topics wrote it.
        let old = serde_json::json!({ "epoch": 0, "start": 0, "next": 10, "publication": "a" });
        catalog.trees.partitions.insert(partition_key("logs", 3, 0, &[]), old.to_string().as_bytes()).unwrap();
        assert_eq!(catalog.load().await.unwrap().partitions[&tp].topic_id, None);
        for (publication_id, of) in [("b", interval(10, 12, 0)), ("c", interval(0, 9, 1))] {
            catalog.publish(publication(publication_id, Interval { topic_id: id, ..of })).await.unwrap();
            assert_eq!(catalog.load().await.unwrap().partitions[&tp].topic_id, id);
        }
    }

    #[tokio::test]
    async fn a_refused_publication_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path());
        catalog.publish(publication("a", interval(0, 10, 0))).await.unwrap();
        let key = SourceKey { partition: TopicPartition::new("logs", 3), source: SourceId([1; 16]) };
        let other = Interval { partition: 4, ..interval(0, 1, 0) };
        let bad = Publication {
            id: "b".into(),
            intervals: vec![other, interval(3, 20, 0)],
            sources: vec![(key.clone(), SourceState { offset: 9, ..SourceState::default() })],
            ..Publication::default()
        };
        catalog.publish(bad.clone()).await.unwrap_err();
        let state = catalog.load().await.unwrap();
        assert_eq!((state.partitions.len(), state.sources.len()), (1, 0));
        let good = Publication { intervals: vec![interval(10, 20, 0)], ..bad };
        catalog.publish(good).await.unwrap();
        assert_eq!(catalog.load().await.unwrap().sources[&key].offset, 9);
        let forget = Publication { id: "c".into(), forgotten: vec![key], ..Publication::default() };
        catalog.publish(forget).await.unwrap();
        assert!(catalog.load().await.unwrap().sources.is_empty());
    }

    #[test]
    fn keys_read_back() {
        for (topic, partition, epoch) in [("logs", 0, 0), ("a.b-c_d", i32::MAX, u64::MAX), ("x", 7, 1)] {
            let key = partition_key(topic, partition, epoch, b"rest\0");
            let (tp, back, rest) = read_partition_key(&key).unwrap();
            assert_eq!((&*tp.topic, tp.partition, back, rest), (topic, partition, epoch, &b"rest\0"[..]));
        }
        assert!(read_partition_key(b"\0logs").is_none());
    }
}
