//! Sorts events by (stream, time, source, position) and writes them as a split.
//!
//! In: events of one tenant in any order. Out: a folder, its [`SplitMeta`]. Touches that folder. Leaves the choice of
//! what goes into one split to the index.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::fs::Filesystem;
use millrace_log::record::Tenant;

use super::columns::BlockBuilder;
use super::error::SplitError;
use super::event::StoredEvent;
use super::line_store::LineStoreWriter;
use super::meta::{MAX_META_STREAMS, Manifest, SplitMeta, StreamMeta};
use super::tables::StreamEntry;
use super::version::FORMAT_VERSION;
use super::words::WordsWriter;
use crate::scan::StreamInfo;

/// Writes splits. Cheap to make; one per thread.
#[derive(Clone)]
pub struct SplitWriter {
    fs: Arc<dyn Filesystem>,
}

impl std::fmt::Debug for SplitWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitWriter").finish_non_exhaustive()
    }
}

impl SplitWriter {
    /// Writes to a file system.
    pub fn new(fs: &Arc<dyn Filesystem>) -> Self {
        Self { fs: Arc::clone(fs) }
    }

    /// Writes the events as a new folder `dir`, durable when it returns. The folder must not exist; after an error what
    /// is there of it is garbage to remove. No events make an empty split. Memory: the events, a block, and about
    /// 100 MB for words at most.
    pub fn write(&self, dir: &Path, tenant: &Tenant, events: Vec<StoredEvent>) -> Result<SplitMeta, SplitError> {
        let ranks = rank_streams(&events);
        let mut order: Vec<usize> = (0..events.len()).collect();
        // Stable: events that are equal in all of these keep the order in which they came.
        order.sort_by_key(|&i| (ranks[i], events[i].time_ns, events[i].source, events[i].position));
        let mut builder = SplitBuilder::create(&self.fs, dir, tenant)?;
        for i in order {
            builder.push(&events[i])?;
        }
        builder.finish()
    }
}

/// The place of each event's stream among the sorted streams.
fn rank_streams(events: &[StoredEvent]) -> Vec<u32> {
    // Most events share the allocations of their stream: compare addresses before labels.
    let mut by_address: HashMap<(*const (String, String), *const u8), u32> = HashMap::new();
    let mut by_value: HashMap<&StreamInfo, u32> = HashMap::new();
    let mut numbers = Vec::with_capacity(events.len());
    for event in events {
        let address = (event.stream.labels.pairs().as_ptr(), event.stream.topic.as_ptr());
        // Streams without labels have no allocation of their own to compare.
        let number = match by_address.get(&address).filter(|_| !event.stream.labels.is_empty()) {
            Some(&number) => number,
            None => {
                let next = by_value.len() as u32;
                let number = *by_value.entry(&event.stream).or_insert(next);
                by_address.insert(address, number);
                number
            }
        };
        numbers.push(number);
    }
    let mut sorted: Vec<(&StreamInfo, u32)> = by_value.into_iter().collect();
    sorted.sort_by(|a, b| compare_streams(a.0, b.0));
    let mut rank_of = vec![0; sorted.len()];
    for (rank, (_, number)) in sorted.iter().enumerate() {
        rank_of[*number as usize] = rank as u32;
    }
    numbers.into_iter().map(|number| rank_of[number as usize]).collect()
}

/// The order of streams in a split.
pub(super) fn compare_streams(a: &StreamInfo, b: &StreamInfo) -> std::cmp::Ordering {
    a.labels.cmp(&b.labels).then_with(|| a.topic.cmp(&b.topic))
}

fn same_stream(a: &StreamInfo, b: &StreamInfo) -> bool {
    let same_address = std::ptr::eq(a.labels.pairs(), b.labels.pairs()) && Arc::ptr_eq(&a.topic, &b.topic);
    same_address || a == b
}

/// Writes a split from rows that come in its order.
pub(super) struct SplitBuilder {
    fs: Arc<dyn Filesystem>,
    dir: PathBuf,
    tenant: Tenant,
    lines: LineStoreWriter,
    words: WordsWriter,
    block: BlockBuilder,
    streams: Vec<StreamEntry>,
}

impl SplitBuilder {
    pub fn create(fs: &Arc<dyn Filesystem>, dir: &Path, tenant: &Tenant) -> Result<Self, SplitError> {
        fs.create_dir(dir).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => SplitError::Exists { path: dir.to_owned() },
            _ => SplitError::Io { action: "creating", path: dir.to_owned(), source },
        })?;
        Ok(Self {
            fs: Arc::clone(fs),
            dir: dir.to_owned(),
            tenant: tenant.clone(),
            lines: LineStoreWriter::create(&**fs, &dir.join("lines"))?,
            words: WordsWriter::create(fs, dir)?,
            block: BlockBuilder::default(),
            streams: Vec::new(),
        })
    }

    /// Adds the next row in the order of (stream, time, source, position).
    pub fn push(&mut self, event: &StoredEvent) -> Result<(), SplitError> {
        let new_stream = !self.streams.last().is_some_and(|last| same_stream(&last.info, &event.stream));
        if self.block.is_full() || (new_stream && self.block.is_worth_ending()) {
            self.end_block()?;
        }
        if new_stream {
            if self.streams.len() >= u32::MAX as usize {
                return Err(SplitError::TooMany { what: "streams", allowed: u64::from(u32::MAX) });
            }
            self.streams.push(StreamEntry {
                info: event.stream.clone(),
                rows: 0,
                bytes: 0,
                documents: 0,
                min_time_ns: event.time_ns,
                max_time_ns: event.time_ns,
            });
        }
        let number = self.streams.len() as u32 - 1;
        self.block.push(number, event)?;
        self.words.line(&event.line);
        if let Some(stream) = self.streams.last_mut() {
            stream.rows += 1;
            stream.bytes += event.line.len() as u64;
            stream.documents += u64::from(event.doc.is_some());
            stream.min_time_ns = stream.min_time_ns.min(event.time_ns);
            stream.max_time_ns = stream.max_time_ns.max(event.time_ns);
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), SplitError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let filter = self.words.end_block()?;
        self.lines.block(&mut self.block, filter)
    }

    /// Ends and syncs all files, and writes `split.json`.
    pub fn finish(mut self) -> Result<SplitMeta, SplitError> {
        self.end_block()?;
        let word_folders = self.words.finish()?;
        self.lines.finish(&self.streams)?;
        let streams = &self.streams;
        let meta = SplitMeta {
            version: FORMAT_VERSION,
            tenant: self.tenant.as_str().to_owned(),
            rows: streams.iter().map(|s| s.rows).sum(),
            raw_bytes: streams.iter().map(|s| s.bytes).sum(),
            disk_bytes: 0,
            min_time_ns: streams.iter().map(|s| s.min_time_ns).min().unwrap_or(0),
            max_time_ns: streams.iter().map(|s| s.max_time_ns).max().unwrap_or(0),
            documents: streams.iter().map(|s| s.documents).sum(),
            streams_total: streams.len() as u64,
            streams: streams.iter().take(MAX_META_STREAMS).map(describe).collect(),
        };
        Ok(Manifest::write(&*self.fs, &self.dir, word_folders, meta)?.meta)
    }
}

fn describe(stream: &StreamEntry) -> StreamMeta {
    StreamMeta {
        labels: stream.info.labels.pairs().to_vec(),
        topic: stream.info.topic.to_string(),
        rows: stream.rows,
        bytes: stream.bytes,
        documents: stream.documents,
        min_time_ns: stream.min_time_ns,
        max_time_ns: stream.max_time_ns,
    }
}
