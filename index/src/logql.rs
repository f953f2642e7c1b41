//! The index as the LogQL engine sees it.
//!
//! In: the engine's questions. Out: entries and streams of any [`EventStore`]. Touches nothing itself.

use std::sync::Arc;

use futures::StreamExt as _;
use millrace_log::record::{Labels, Tenant};
use millrace_logql::aggregate::{Aggregation, Partial};
use millrace_logql::storage::{BatchStream, Entry, EntryBatch, Scan, Stats, Storage, StorageError, StreamLabels};

use crate::scan::{EventStore, Kind, Plan, Row, RowBatch};

/// Lines and live documents of an [`EventStore`], for LogQL. Streams of several topics with equal labels are one.
#[derive(Clone)]
pub struct LogqlStorage(pub Arc<dyn EventStore>);

impl std::fmt::Debug for LogqlStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogqlStorage")
    }
}

/// `None` for a tenant that can't exist: it has nothing.
fn plan(scan: Scan) -> Option<Plan> {
    let Scan { tenant, matchers, start_ns, end_ns, needles, order, expect, budget } = scan;
    let tenant = Tenant::new(&tenant).ok()?;
    Some(Plan { tenant, matchers, start_ns, end_ns, needles, kind: Kind::All, order, expect, budget })
}

/// Label sets are passed on as they are shared.
fn entries(batch: RowBatch) -> EntryBatch {
    let streams = batch.streams.iter().map(|s| s.labels.shared()).collect();
    let entry = |row: Row| Entry {
        stream: row.stream,
        time_ns: row.time_ns,
        line: row.line,
        metadata: row.metadata.as_ref().map(Labels::shared),
    };
    EntryBatch { streams, text: batch.text, entries: batch.rows.into_iter().map(entry).collect() }
}

#[async_trait::async_trait]
impl Storage for LogqlStorage {
    async fn scan(&self, scan: Scan) -> Result<BatchStream, StorageError> {
        let Some(plan) = plan(scan) else { return Ok(futures::stream::empty().boxed()) };
        Ok(self.0.scan(plan).await?.map(|batch| Ok(entries(batch?))).boxed())
    }

    async fn aggregate(&self, scan: Scan, aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        match plan(scan) {
            Some(plan) => self.0.aggregate(plan, aggregation).await,
            None => Ok(None),
        }
    }

    async fn series(&self, scan: Scan) -> Result<Vec<StreamLabels>, StorageError> {
        Ok(self.stats(scan).await?.into_iter().map(|(labels, _)| labels).collect())
    }

    async fn stats(&self, scan: Scan) -> Result<Vec<(StreamLabels, Stats)>, StorageError> {
        let Some(plan) = plan(scan) else { return Ok(Vec::new()) };
        let mut sums: Vec<(Labels, Stats)> = Vec::new();
        // Sorted by labels, then topic.
        for (stream, found) in self.0.streams(plan).await? {
            match sums.last_mut() {
                Some((labels, sum)) if *labels == stream.labels => {
                    sum.chunks += found.chunks;
                    sum.bytes += found.bytes;
                    sum.entries += found.entries;
                }
                _ => sums.push((stream.labels, Stats { streams: 1, ..found })),
            }
        }
        Ok(sums.into_iter().map(|(labels, sum)| (labels.shared(), sum)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use bytes::Bytes;
    use millrace_log::record::{Event, Position, SourceId};
    use millrace_logql::storage::{Budget, Order};

    #[tokio::test]
    async fn streams_of_several_topics_with_equal_labels_are_one() {
        let store = MemoryStore::default();
        let event = |n: u64| Event {
            tenant: Tenant::default(),
            time_ns: i64::try_from(n).unwrap(),
            labels: Labels::new([("app", "a")]),
            metadata: if n == 2 { Labels::new([("trace", "x")]) } else { Labels::default() },
            line: Bytes::from(format!("line {n}")),
            source: SourceId([1; 16]),
            position: Position::at(n),
            doc: None,
            cut: false,
            time_from_line: false,
        };
        store.put("one", [event(1)]);
        store.put("two", [event(2)]);
        let storage = LogqlStorage(Arc::new(store));
        let scan = |tenant: &str| Scan {
            tenant: tenant.into(),
            matchers: Vec::new(),
            start_ns: 0,
            end_ns: 10,
            needles: Vec::new(),
            order: Order::Backward,
            expect: None,
            budget: Budget::default(),
        };
        let stats = storage.stats(scan("default")).await.unwrap();
        assert_eq!(stats.len(), 1);
        assert_eq!((stats[0].1.streams, stats[0].1.entries), (1, 2));
        assert_eq!(storage.series(scan("default")).await.unwrap()[0][0], ("app".to_owned(), "a".to_owned()));
        let batches: Vec<_> = storage.scan(scan("default")).await.unwrap().collect().await;
        let first = batches[0].as_ref().unwrap();
        assert_eq!(first.line(&first.entries[0]), b"line 2");
        assert_eq!(first.entries[0].metadata.as_ref().unwrap()[0].1, "x");
        assert!(storage.scan(scan("a/b")).await.unwrap().next().await.is_none());
    }
}
