//! Answers plans from a split.
//!
//! In: a [`Plan`]. Out: batches of rows in the plan's order, streams with their sizes. Touches the split's folder, for
//! reading. Leaves to the index: other splits, recent events, replaced documents, time-outs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use millrace_log::record::{Position, SourceId};
use millrace_logql::storage::{Order, Stats};
use parking_lot::Mutex;

use super::error::SplitError;
use super::line_store::{BlockEntry, Columns, LineStore};
use super::meta::{Manifest, SplitMeta};
use super::words::{Finder, Wanted, Words};
use crate::rows::{BATCH_ROWS, BatchBuilder, kind_matches, stream_matches};
use crate::scan::{Kind, Plan, Row, RowBatch, StreamInfo};

/// An open split. Cheap to clone. The folder must stay until the last clone and scan are gone: the word index is opened
/// when it is first asked for.
#[derive(Clone)]
pub struct SplitReader {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    manifest: Manifest,
    lines: LineStore,
    words: Mutex<Option<Arc<Words>>>,
}

impl std::fmt::Debug for SplitReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitReader").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl SplitReader {
    /// Opens a folder: checks versions, the lengths of all files and the tables of blocks and streams. Blocks and word
    /// index are checked when they are read.
    pub fn open(dir: &Path) -> Result<Self, SplitError> {
        let manifest = Manifest::read(dir)?;
        let lines = LineStore::open(&dir.join("lines"))?;
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), manifest, lines, words: Mutex::new(None) }) })
    }

    /// What the writer said of it.
    pub fn meta(&self) -> &SplitMeta {
        &self.inner.manifest.meta
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Rows that the plan asks for, in its order; lines without one of the needles are left out. Blocking: nothing is
    /// read before the first `next`. Bounds of one scan: the plan's `max_bytes_read` (bytes of lines decompressed) and
    /// `max_memory` (blocks held open because they overlap in time).
    pub fn scan(&self, plan: &Plan) -> SplitScan {
        SplitScan {
            split: self.clone(),
            plan: plan.clone(),
            state: State::New,
            finders: plan.needles.iter().filter_map(Finder::new).collect(),
            wanted: Wanted::new(&plan.needles),
            streams: Vec::new(),
            bytes_read: 0,
            blocks_read: 0,
            held_bytes: 0,
            batch_rows: plan.expect.unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS),
        }
    }

    /// Streams that match and whose time range in this split meets the plan's, with their sizes in the whole split.
    /// Needles are not looked at.
    pub fn streams(&self, plan: &Plan) -> Vec<(StreamInfo, Stats)> {
        let wanted = self.wanted_streams(plan);
        let streams = self.inner.lines.streams().iter().zip(wanted).filter(|(_, wanted)| *wanted);
        streams
            .map(|(stream, _)| {
                let stats = Stats { streams: 1, chunks: 1, bytes: stream.bytes, entries: stream.rows };
                (stream.info.clone(), stats)
            })
            .collect()
    }

    /// All streams with their sizes.
    pub fn all_streams(&self) -> impl Iterator<Item = (&StreamInfo, Stats)> {
        self.inner
            .lines
            .streams()
            .iter()
            .map(|stream| (&stream.info, Stats { streams: 1, chunks: 1, bytes: stream.bytes, entries: stream.rows }))
    }

    /// Reads every file and compares checksums (`doctor`).
    pub fn verify(&self) -> Result<(), SplitError> {
        self.inner.manifest.verify(&self.inner.dir, |_| true)
    }

    pub(super) fn lines(&self) -> &LineStore {
        &self.inner.lines
    }

    fn wanted_streams(&self, plan: &Plan) -> Vec<bool> {
        let ours = self.meta().belongs_to(&plan.tenant);
        let wanted = |stream: &super::line_store::StreamEntry| {
            let kind = match plan.kind {
                Kind::All => true,
                Kind::Lines => stream.documents < stream.rows,
                Kind::Documents => stream.documents > 0,
            };
            ours && kind
                && stream.min_time_ns < plan.end_ns
                && stream.max_time_ns >= plan.start_ns
                && stream_matches(&plan.matchers, &stream.info.labels)
        };
        self.inner.lines.streams().iter().map(wanted).collect()
    }

    /// The word index: its files are compared with their checksums the first time, since Tantivy trusts what it reads.
    fn words(&self) -> Result<Arc<Words>, SplitError> {
        let mut words = self.inner.words.lock();
        if let Some(words) = words.as_ref() {
            return Ok(words.clone());
        }
        let Inner { dir, manifest, .. } = &*self.inner;
        manifest.verify(dir, |path| path.starts_with("words-"))?;
        let opened = Arc::new(Words::open(dir, manifest.word_folders)?);
        Ok(words.insert(opened).clone())
    }
}

/// What decompresses blocks.
pub(super) fn decompressor(path: &Path) -> Result<zstd::bulk::Decompressor<'static>, SplitError> {
    zstd::bulk::Decompressor::new().map_err(SplitError::io("reading", path))
}

/// Batches of a scan, read as they are asked for; ends after the first error.
pub struct SplitScan {
    split: SplitReader,
    plan: Plan,
    state: State,
    finders: Vec<Finder>,
    wanted: Wanted,
    /// Which streams of the split are wanted.
    streams: Vec<bool>,
    bytes_read: u64,
    blocks_read: u64,
    held_bytes: u64,
    /// Rows of the next batch.
    batch_rows: usize,
}

enum State {
    New,
    Running(Box<Running>),
    Ended,
}

struct Running {
    words: Option<Arc<Words>>,
    zstd: zstd::bulk::Decompressor<'static>,
    /// Blocks still to be read, in the order of the scan.
    pending: vec::IntoIter<u32>,
    /// Blocks with rows still to be given, the one with the next row on top (not used for [`Order::Any`]).
    open: BinaryHeap<Open>,
}

/// The rows found in one block.
struct Found {
    number: u32,
    columns: Columns,
    text: Bytes,
    /// Rows of `columns`, in the order of the scan, and their lines in `text`.
    rows: vec::IntoIter<(u32, std::ops::Range<usize>)>,
}

type RowKey = (i64, SourceId, Position);

/// A block in the heap: the greatest comes out first, so keys of a forward scan are reversed.
struct Open {
    key: Directed,
    number: u32,
    found: Box<Found>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Directed {
    Forward(Reverse<RowKey>),
    Backward(RowKey),
}

impl Directed {
    fn new(order: Order, key: RowKey) -> Self {
        match order {
            Order::Forward | Order::Any => Self::Forward(Reverse(key)),
            Order::Backward => Self::Backward(key),
        }
    }
}

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Open {}

impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Open {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_number = match self.key {
            Directed::Forward(_) => other.number.cmp(&self.number),
            Directed::Backward(_) => self.number.cmp(&other.number),
        };
        self.key.cmp(&other.key).then(by_number)
    }
}

impl SplitScan {
    /// Bytes of lines decompressed so far, for `max_bytes_read` over several splits.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Blocks whose lines were read so far.
    pub fn blocks_read(&self) -> u64 {
        self.blocks_read
    }

    fn begin(&mut self) -> Result<Box<Running>, SplitError> {
        self.streams = self.split.wanted_streams(&self.plan);
        let blocks = self.split.lines().blocks();
        // Number of wanted streams before each stream: tells in one step whether a block has any.
        let mut before = Vec::with_capacity(self.streams.len() + 1);
        before.push(0u32);
        for &wanted in &self.streams {
            before.push(before.last().copied().unwrap_or_default() + u32::from(wanted));
        }
        let plan = &self.plan;
        let may = |block: &BlockEntry| {
            let kind = match plan.kind {
                Kind::All => true,
                Kind::Lines => block.documents < block.rows,
                Kind::Documents => block.documents > 0,
            };
            kind && block.min_time_ns < plan.end_ns
                && block.max_time_ns >= plan.start_ns
                && before.get(block.last_stream as usize + 1) > before.get(block.first_stream as usize)
        };
        let mut candidates: Vec<bool> = blocks.iter().map(may).collect();
        let asks = self.wanted.asks_terms() || self.wanted.asks_filters();
        let words = if asks && candidates.contains(&true) { Some(self.split.words()?) } else { None };
        if let Some(words) = words.as_ref().filter(|_| self.wanted.asks_terms()) {
            words.retain(&self.wanted, &mut candidates, || plan.cancel.is_cancelled())?;
        }
        let mut pending: Vec<u32> = (0u32..).zip(&candidates).filter(|(_, c)| **c).map(|(i, _)| i).collect();
        let entry = |number: &u32| blocks.get(*number as usize);
        match plan.order {
            Order::Any => {}
            Order::Forward => pending.sort_by_key(|n| entry(n).map(|b| b.min_time_ns)),
            Order::Backward => pending.sort_by_key(|n| Reverse(entry(n).map(|b| b.max_time_ns))),
        }
        let zstd = decompressor(self.split.dir())?;
        Ok(Box::new(Running { words, zstd, pending: pending.into_iter(), open: BinaryHeap::new() }))
    }

    /// Reads a block and finds its rows; `None` if there are none.
    fn read(&mut self, running: &mut Running, number: u32) -> Result<Option<Found>, SplitError> {
        if self.plan.cancel.is_cancelled() {
            return Err(SplitError::Cancelled);
        }
        let split = self.split.clone();
        let lines = split.lines();
        let Some(entry) = lines.blocks().get(number as usize) else { return Ok(None) };
        if let Some(words) = running.words.as_ref().filter(|_| self.wanted.asks_filters())
            && !words.may_have(number, entry, &self.wanted)?
        {
            return Ok(None);
        }
        self.bytes_read += u64::from(entry.text_raw);
        self.blocks_read += 1;
        let allowed = self.plan.limits.max_bytes_read;
        if self.bytes_read > allowed {
            return Err(SplitError::Limit { limit: "max_bytes_read", allowed: format!("{allowed} bytes") });
        }
        let text = lines.text(number, &mut running.zstd)?;
        if !self.finders.iter().all(|finder| finder.find(&text, 0).is_some()) {
            return Ok(None);
        }
        let columns = lines.columns(number, &mut running.zstd)?;
        let mut rows = self.matching(&columns, &text);
        if rows.is_empty() {
            return Ok(None);
        }
        let head = |row: u32| columns.rows.get(row as usize).map(|r| r.key());
        match self.plan.order {
            Order::Any => {}
            Order::Forward => rows.sort_by_key(|&(row, _)| head(row)),
            Order::Backward => rows.sort_by_key(|&(row, _)| Reverse((head(row), row))),
        }
        // A few lines of a block must not keep all of it in memory.
        let wanted: usize = rows.iter().map(|(_, line)| line.len()).sum();
        let text = if wanted * 2 < text.len() {
            let mut kept = Vec::with_capacity(wanted);
            for (_, line) in &mut rows {
                let start = kept.len();
                kept.extend_from_slice(text.get(line.clone()).unwrap_or_default());
                *line = start..kept.len();
            }
            kept
        } else {
            text
        };
        Ok(Some(Found { number, columns, text: text.into(), rows: rows.into_iter() }))
    }

    /// Rows of a block that the plan asks for, in the block's order.
    fn matching(&self, columns: &Columns, text: &[u8]) -> Vec<(u32, std::ops::Range<usize>)> {
        let plan = &self.plan;
        let rows = &columns.rows;
        let accept = |number: usize| -> Option<(u32, std::ops::Range<usize>)> {
            let row = rows.get(number)?;
            let line = row.line.start as usize..row.line.end as usize;
            let wanted = row.time_ns >= plan.start_ns
                && row.time_ns < plan.end_ns
                && self.streams.get(row.stream as usize).copied().unwrap_or(false)
                && kind_matches(plan.kind, row.is_document());
            let bytes = text.get(line.clone())?;
            (wanted && self.finders.iter().skip(1).all(|finder| finder.is_in(bytes))).then_some((number as u32, line))
        };
        let Some(first) = self.finders.first() else {
            return (0..rows.len()).filter_map(accept).collect();
        };
        // One pass over all lines for the first needle; a place that reaches over the end of a line is none.
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(place) = first.find(text, from) {
            let number = rows.partition_point(|row| row.line.end as usize <= place.start);
            let Some(row) = rows.get(number) else { break };
            let end = row.line.end as usize;
            if place.end <= end {
                found.extend(accept(number));
                from = end;
            } else {
                from = place.start + 1;
            }
        }
        found
    }

    fn any(&mut self, running: &mut Running) -> Result<Option<RowBatch>, SplitError> {
        let mut batch = BatchBuilder::default();
        let mut known = HashMap::new();
        while let Some(number) = running.pending.next() {
            let Some(mut found) = self.read(running, number)? else { continue };
            // The lines of a whole block are handed on as they are, those of a few rows are collected.
            if batch.is_empty() && found.rows.len() * 2 >= found.columns.rows.len() {
                return self.whole(found).map(Some);
            }
            while let Some((row, line)) = found.rows.next() {
                self.push(&mut batch, &mut known, &found, row, line)?;
            }
            if batch.is_full() || batch.len() >= self.batch_rows {
                break;
            }
        }
        Ok((!batch.is_empty()).then(|| batch.take()))
    }

    /// A batch of one block's rows around the text that was decompressed.
    fn whole(&self, found: Found) -> Result<RowBatch, SplitError> {
        let lines = self.split.lines();
        let mut batch = RowBatch { streams: Vec::new(), text: found.text.clone(), rows: Vec::new() };
        let mut last = None;
        for (number, line) in found.rows {
            let Some(row) = found.columns.rows.get(number as usize) else { continue };
            if last != Some(row.stream) {
                // Rows are sorted by stream.
                last = Some(row.stream);
                batch.streams.extend(lines.streams().get(row.stream as usize).map(|s| s.info.clone()));
            }
            let damaged = |reason| lines.damaged(found.number, reason);
            batch.rows.push(Row {
                stream: batch.streams.len() as u32 - 1,
                time_ns: row.time_ns,
                line: line.start as u32..line.end as u32,
                metadata: found.columns.metadata(number).map_err(damaged)?,
                source: row.source,
                position: row.position,
                doc: found.columns.doc(number).map_err(damaged)?,
            });
        }
        Ok(batch)
    }

    fn ordered(&mut self, running: &mut Running) -> Result<Option<RowBatch>, SplitError> {
        let order = self.plan.order;
        let mut batch = BatchBuilder::default();
        let mut known = HashMap::new();
        while !batch.is_full() && batch.len() < self.batch_rows {
            // A block that may hold a row before the next one, or of the same time, is opened first.
            while let Some(&number) = running.pending.as_slice().first() {
                let first = self.split.lines().blocks().get(number as usize).copied().unwrap_or_default();
                let due = match (running.open.peek().map(|open| open.key), order) {
                    (None, _) => true,
                    (Some(Directed::Forward(Reverse((time, ..)))), _) => first.min_time_ns <= time,
                    (Some(Directed::Backward((time, ..))), _) => first.max_time_ns >= time,
                };
                if !due {
                    break;
                }
                running.pending.next();
                if let Some(found) = self.read(running, number)? {
                    self.hold(&found)?;
                    running.open.extend(reopen(order, Box::new(found)));
                }
            }
            let Some(Open { mut found, .. }) = running.open.pop() else { break };
            let held = found.held();
            if let Some((row, line)) = found.rows.next() {
                self.push(&mut batch, &mut known, &found, row, line)?;
            }
            match reopen(order, found) {
                Some(open) => running.open.push(open),
                None => self.held_bytes = self.held_bytes.saturating_sub(held),
            }
        }
        Ok((!batch.is_empty()).then(|| batch.take()))
    }

    fn hold(&mut self, found: &Found) -> Result<(), SplitError> {
        self.held_bytes += found.held();
        let allowed = self.plan.limits.max_memory_bytes;
        if self.held_bytes > allowed {
            return Err(SplitError::Limit { limit: "max_memory", allowed: format!("{allowed} bytes") });
        }
        Ok(())
    }

    fn push(
        &self,
        batch: &mut BatchBuilder,
        known: &mut HashMap<u32, u32>,
        found: &Found,
        number: u32,
        line: std::ops::Range<usize>,
    ) -> Result<(), SplitError> {
        let lines = self.split.lines();
        let damaged = |reason| lines.damaged(found.number, reason);
        let missing = || damaged("a row is out of range");
        let row = found.columns.rows.get(number as usize).ok_or_else(missing)?;
        let stream = match known.get(&row.stream) {
            Some(&stream) => stream,
            None => {
                let info = &lines.streams().get(row.stream as usize).ok_or_else(missing)?.info;
                let stream = batch.stream(info);
                known.insert(row.stream, stream);
                stream
            }
        };
        let metadata = found.columns.metadata(number).map_err(damaged)?;
        let doc = found.columns.doc(number).map_err(damaged)?;
        let line = found.text.get(line).ok_or_else(missing)?;
        batch.push(stream, row.time_ns, line, metadata, row.source, row.position, doc);
        Ok(())
    }
}

impl Found {
    /// Bytes that it keeps in memory, roughly.
    fn held(&self) -> u64 {
        (self.text.len() + self.columns.bytes()) as u64
    }
}

/// Puts a block under the key of its next row; `None` when it has none.
fn reopen(order: Order, found: Box<Found>) -> Option<Open> {
    let &(row, _) = found.rows.as_slice().first()?;
    let key = found.columns.rows.get(row as usize)?.key();
    Some(Open { key: Directed::new(order, key), number: found.number, found })
}

impl Iterator for SplitScan {
    type Item = Result<RowBatch, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut running = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return None,
            State::Running(running) => running,
            State::New => match self.begin() {
                Ok(running) => running,
                Err(error) => return Some(Err(error)),
            },
        };
        if self.plan.cancel.is_cancelled() {
            return Some(Err(SplitError::Cancelled));
        }
        let batch = match self.plan.order {
            Order::Any => self.any(&mut running),
            Order::Forward | Order::Backward => self.ordered(&mut running),
        };
        // A caller that wants more than it expected gets larger batches.
        self.batch_rows = (self.batch_rows * 2).min(BATCH_ROWS);
        match batch.transpose()? {
            Ok(batch) => {
                self.state = State::Running(running);
                Some(Ok(batch))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
