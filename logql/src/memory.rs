//! An in-memory store for tests: lines in a vector, answered by looking at all of them.
//!
//! In: `MemoryStorage::push`. Out: the answers of `Storage`. Touches nothing. Not for production: nothing is
//! indexed and nothing ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;

use crate::storage::{BatchStream, Entry, EntryBatch, Order, Scan, Stats, Storage, StorageError, StreamLabels};

/// Entries per batch.
const BATCH: usize = 256;

#[derive(Debug, Clone)]
struct Row {
    stream: usize,
    time_ns: i64,
    line: Bytes,
    metadata: Option<StreamLabels>,
}

/// Lines of one tenant in memory, for tests. Fill it, then share it.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    streams: Vec<StreamLabels>,
    rows: Vec<Row>,
    scans: AtomicUsize,
}

fn pairs(labels: &[(&str, &str)]) -> StreamLabels {
    let mut sorted: Vec<(String, String)> =
        labels.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    sorted.sort();
    sorted.into()
}

impl MemoryStorage {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn push(&mut self, labels: &[(&str, &str)], time_ns: i64, line: impl Into<Bytes>) {
        self.push_with(labels, time_ns, line, &[]);
    }

    /// Adds a line with structured metadata.
    pub fn push_with(
        &mut self,
        labels: &[(&str, &str)],
        time_ns: i64,
        line: impl Into<Bytes>,
        metadata: &[(&str, &str)],
    ) {
        let labels = pairs(labels);
        let stream = self.streams.iter().position(|s| *s == labels).unwrap_or_else(|| {
            self.streams.push(labels);
            self.streams.len() - 1
        });
        let metadata = (!metadata.is_empty()).then(|| pairs(metadata));
        self.rows.push(Row { stream, time_ns, line: line.into(), metadata });
    }

    /// Scans asked for so far.
    pub fn scans(&self) -> usize {
        self.scans.load(Ordering::Relaxed)
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn found(&self, scan: &Scan) -> Vec<Row> {
        let wanted: Vec<bool> = self.streams.iter().map(|labels| matches(scan, labels)).collect();
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(|r| wanted.get(r.stream) == Some(&true) && (scan.start_ns..scan.end_ns).contains(&r.time_ns))
            .cloned()
            .collect();
        match scan.order {
            Order::Forward => rows.sort_by_key(|r| r.time_ns),
            Order::Backward => {
                rows.reverse();
                rows.sort_by_key(|r| std::cmp::Reverse(r.time_ns));
            }
            Order::Any => {}
        }
        rows
    }
}

fn matches(scan: &Scan, labels: &StreamLabels) -> bool {
    scan.matchers.iter().all(|m| {
        let value = labels.iter().find(|(n, _)| *n == m.name).map_or("", |(_, v)| v.as_str());
        m.matches(value)
    })
}

#[async_trait::async_trait]
impl Storage for MemoryStorage {
    async fn scan(&self, scan: Scan) -> Result<BatchStream, StorageError> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        let rows = self.found(&scan);
        let batches: Vec<EntryBatch> = rows
            .chunks(BATCH)
            .map(|rows| {
                let mut text = Vec::new();
                let entries = rows
                    .iter()
                    .map(|row| {
                        let start = u32::try_from(text.len()).unwrap_or(u32::MAX);
                        text.extend_from_slice(&row.line);
                        let end = u32::try_from(text.len()).unwrap_or(u32::MAX);
                        Entry {
                            stream: u32::try_from(row.stream).unwrap_or(u32::MAX),
                            time_ns: row.time_ns,
                            line: start..end,
                            metadata: row.metadata.clone(),
                        }
                    })
                    .collect();
                EntryBatch { streams: self.streams.clone(), text: text.into(), entries }
            })
            .collect();
        let budget = scan.budget;
        let stream = futures::stream::iter(batches).map(move |batch| {
            budget.check()?;
            budget.read(batch.text.len() as u64)?;
            Ok(batch)
        });
        Ok(stream.boxed())
    }

    async fn series(&self, scan: Scan) -> Result<Vec<StreamLabels>, StorageError> {
        Ok(self.stats(scan).await?.into_iter().map(|(labels, _)| labels).collect())
    }

    async fn stats(&self, scan: Scan) -> Result<Vec<(StreamLabels, Stats)>, StorageError> {
        let mut sums: Vec<Stats> = vec![Stats::default(); self.streams.len()];
        for row in self.found(&scan) {
            if let Some(sum) = sums.get_mut(row.stream) {
                sum.streams = 1;
                sum.chunks = 1;
                sum.bytes += row.line.len() as u64;
                sum.entries += 1;
            }
        }
        let all = self.streams.iter().map(Arc::clone).zip(sums);
        Ok(all.filter(|(_, sum)| sum.entries > 0).collect())
    }
}
