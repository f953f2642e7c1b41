//! Recent events: searchable from the moment they are consumed until their split has taken their place.
//!
//! In: events of one fetched batch ([`ChunkBuilder`]). Out: rows for scans ([`HeadScan`]), events for the split writer,
//! batches for live tails: the same bytes for all three. Touches nothing. Leaves to `store`: which chunks are searched.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use millrace_log::record::{Event, Labels, Position, SourceId, Tenant};

use crate::rows::{self, BatchBuilder, Needles};
use crate::scan::{Kind, Order, OverBudget, Plan, Row, RowBatch, Stats, StreamInfo};
use crate::split::StoredEvent;

/// Memory that one row takes besides its line and metadata: the row itself and its share of allocations.
const ROW_BYTES: usize = 128;

const CUT: u8 = 1;
const TIME_FROM_LINE: u8 = 2;

/// Events of one tenant that were consumed together. Never changes.
#[derive(Debug)]
pub struct Chunk {
    news: Arc<(Tenant, RowBatch)>,
    flags: Vec<u8>,
    min_ns: i64,
    max_ns: i64,
    memory: usize,
}

impl Chunk {
    /// Whose events.
    pub fn tenant(&self) -> &Tenant {
        &self.news.0
    }

    /// The rows.
    pub fn batch(&self) -> &RowBatch {
        &self.news.1
    }

    /// The same as live tails get it.
    pub fn news(&self) -> Arc<(Tenant, RowBatch)> {
        Arc::clone(&self.news)
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of lines.
    pub fn line_bytes(&self) -> usize {
        self.batch().text.len()
    }

    /// Whether an event of the plan may be in it.
    pub fn concerns(&self, plan: &Plan) -> bool {
        *self.tenant() == plan.tenant && self.min_ns < plan.end_ns && self.max_ns >= plan.start_ns
    }

    /// The events as the split writer takes them; lines share the chunk's memory.
    pub fn stored_events(&self) -> impl Iterator<Item = StoredEvent> + '_ {
        let batch = self.batch();
        batch.rows.iter().zip(&self.flags).map(move |(row, flags)| StoredEvent {
            stream: stream_of(batch, row),
            time_ns: row.time_ns,
            source: row.source,
            position: row.position,
            line: batch.text.slice(row.line.start as usize..row.line.end as usize),
            metadata: row.metadata.clone().unwrap_or_default(),
            doc: row.doc.clone(),
            cut: flags & CUT != 0,
            time_from_line: flags & TIME_FROM_LINE != 0,
        })
    }
}

fn stream_of(batch: &RowBatch, row: &Row) -> StreamInfo {
    match batch.streams.get(row.stream as usize) {
        Some(stream) => stream.clone(),
        None => StreamInfo { labels: Labels::default(), topic: "".into() },
    }
}

/// Collects the events of one tenant.
#[derive(Debug)]
pub struct ChunkBuilder {
    tenant: Tenant,
    batch: BatchBuilder,
    flags: Vec<u8>,
    min_ns: i64,
    max_ns: i64,
    memory: usize,
    last: Option<(StreamInfo, u32)>,
}

impl ChunkBuilder {
    /// Empty.
    pub fn new(tenant: Tenant) -> Self {
        Self {
            tenant,
            batch: BatchBuilder::default(),
            flags: Vec::new(),
            min_ns: i64::MAX,
            max_ns: i64::MIN,
            memory: 0,
            last: None,
        }
    }

    /// Adds an event that came through a topic.
    pub fn push(&mut self, topic: &Arc<str>, event: Event) {
        let stream = StreamInfo { labels: event.labels, topic: Arc::clone(topic) };
        let number = match &self.last {
            Some((last, number)) if *last == stream => *number,
            _ => {
                let number = self.batch.stream(&stream);
                self.last = Some((stream, number));
                number
            }
        };
        let metadata_bytes: usize = event.metadata.iter().map(|(n, v)| n.len() + v.len() + 48).sum();
        self.memory += ROW_BYTES + event.line.len() + metadata_bytes;
        self.min_ns = self.min_ns.min(event.time_ns);
        self.max_ns = self.max_ns.max(event.time_ns);
        self.flags.push(u8::from(event.cut) * CUT + u8::from(event.time_from_line) * TIME_FROM_LINE);
        let metadata = (!event.metadata.is_empty()).then_some(event.metadata);
        let doc = event.doc.map(Arc::from);
        self.batch.push(number, event.time_ns, &event.line, metadata, event.source, event.position, doc);
    }

    /// The finished chunk.
    pub fn finish(mut self) -> Chunk {
        Chunk {
            news: Arc::new((self.tenant, self.batch.take())),
            flags: self.flags,
            min_ns: self.min_ns,
            max_ns: self.max_ns,
            memory: self.memory,
        }
    }
}

/// Rows that are sorted at once: the budget is looked at between such runs.
const RUN_ROWS: usize = 16 << 10;

/// Place of a row: chunk, row.
pub type Place = (u32, u32);

/// Rows of recent events in the order of a plan. Blocking work for a thread that may block.
#[derive(Debug)]
pub struct HeadScan {
    chunks: Vec<Arc<Chunk>>,
    /// Runs of rows in the order of the plan; merged as batches are asked for.
    runs: Vec<std::vec::IntoIter<Place>>,
    /// The first row of each run that has one (for [`Order::Any`]: runs one after the other).
    next: BinaryHeap<Next>,
}

/// The next row of a run; the greatest is the one that comes first.
#[derive(Debug)]
struct Next {
    order: Order,
    key: (i64, SourceId, Position),
    place: Place,
    run: usize,
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        rows::compare_in(self.order, other.key, self.key).then_with(|| other.run.cmp(&self.run))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Next {}

impl HeadScan {
    /// Finds the rows and sorts them in runs; lines are copied as batches are asked for. Adds the bytes of all lines that
    /// are looked at to `read`, whatever comes of it.
    pub fn new(chunks: Vec<Arc<Chunk>>, plan: &Plan, read: &mut u64) -> Result<Self, OverBudget> {
        let (mut runs, mut run) = (Vec::new(), Vec::new());
        each_row(&chunks, plan, read, |place, _, _| {
            run.push(place);
            if run.len() >= RUN_ROWS {
                let full = std::mem::take(&mut run);
                runs.push(sorted(&chunks, plan.order, full));
            }
            Ok::<_, OverBudget>(())
        })?;
        runs.push(sorted(&chunks, plan.order, run));
        let mut scan = Self { chunks, runs, next: BinaryHeap::new() };
        for number in 0..scan.runs.len() {
            scan.advance(number, plan.order);
        }
        Ok(scan)
    }

    /// Puts the next row of a run among those that may come first.
    fn advance(&mut self, run: usize, order: Order) {
        if let Some(place) = self.runs.get_mut(run).and_then(Iterator::next) {
            // Without an order the runs come one after the other: all their keys are equal.
            let key = if order == Order::Any { NO_KEY } else { key(&self.chunks, place) };
            self.next.push(Next { order, key, place, run });
        }
    }
}

/// Calls `take` for each row that a plan asks for, in the order of the chunks. Adds the bytes of all lines that are looked
/// at to `read`, also when it ends with an error. Blocking.
pub fn each_row<E: From<OverBudget>>(
    chunks: &[Arc<Chunk>],
    plan: &Plan,
    read: &mut u64,
    mut take: impl FnMut(Place, &RowBatch, &Row) -> Result<(), E>,
) -> Result<(), E> {
    let needles = Needles::new(&plan.needles);
    let watch = plan.budget.watch();
    // Label sets are shared between chunks: each is matched once. Chunks live as long as their addresses here.
    let mut known: HashMap<*const (String, String), bool> = HashMap::new();
    for (c, chunk) in (0u32..).zip(chunks) {
        let batch = chunk.batch();
        let wanted: Vec<bool> = batch
            .streams
            .iter()
            .map(|stream| {
                *known
                    .entry(stream.labels.pairs().as_ptr())
                    .or_insert_with(|| rows::stream_matches(&plan.matchers, &stream.labels))
            })
            .collect();
        if !wanted.contains(&true) {
            continue;
        }
        let mut bytes = 0;
        for (r, row) in (0u32..).zip(&batch.rows) {
            let good = wanted.get(row.stream as usize) == Some(&true)
                && row.time_ns >= plan.start_ns
                && row.time_ns < plan.end_ns
                && rows::kind_matches(plan.kind, row.doc.is_some());
            if good {
                let line = batch.line(row);
                watch.step(line.len())?;
                bytes += line.len() as u64;
                *read += line.len() as u64;
                if needles.may_match(line) {
                    take((c, r), batch, row)?;
                }
            }
        }
        plan.budget.read(bytes)?;
    }
    Ok(())
}

const NO_KEY: (i64, SourceId, Position) = (0, SourceId([0; 16]), Position { offset: 0, sub: 0 });

fn row(chunks: &[Arc<Chunk>], (chunk, row): Place) -> Option<(&RowBatch, &Row)> {
    let batch = chunks.get(chunk as usize)?.batch();
    Some((batch, batch.rows.get(row as usize)?))
}

fn key(chunks: &[Arc<Chunk>], place: Place) -> (i64, SourceId, Position) {
    row(chunks, place).map_or(NO_KEY, |(_, row)| rows::key(row))
}

fn sorted(chunks: &[Arc<Chunk>], order: Order, mut run: Vec<Place>) -> std::vec::IntoIter<Place> {
    if order != Order::Any {
        run.sort_by(|a, b| rows::compare_in(order, key(chunks, *a), key(chunks, *b)));
    }
    run.into_iter()
}

impl Iterator for HeadScan {
    type Item = RowBatch;

    fn next(&mut self) -> Option<RowBatch> {
        let mut out = BatchBuilder::default();
        let mut numbers: HashMap<(u32, u32), u32> = HashMap::new();
        while !out.is_full()
            && let Some(Next { order, place, run, .. }) = self.next.pop()
        {
            if let Some((batch, row)) = row(&self.chunks, place) {
                let number = match numbers.get(&(place.0, row.stream)) {
                    Some(&number) => number,
                    None => {
                        let number = batch.streams.get(row.stream as usize).map_or(0, |s| out.stream(s));
                        numbers.insert((place.0, row.stream), number);
                        number
                    }
                };
                out.copy(number, batch, row);
            }
            self.advance(run, order);
        }
        (!out.is_empty()).then(|| out.take())
    }
}

/// Adds the sizes of matching streams with rows in the range.
pub fn add_stats(chunks: &[Arc<Chunk>], plan: &Plan, sums: &mut HashMap<StreamInfo, Stats>) -> Result<(), OverBudget> {
    for chunk in chunks {
        plan.budget.check()?;
        let batch = chunk.batch();
        let mut by_stream: Vec<Stats> = vec![Stats::default(); batch.streams.len()];
        for row in &batch.rows {
            let in_range = row.time_ns >= plan.start_ns && row.time_ns < plan.end_ns;
            if in_range
                && rows::kind_matches(plan.kind, row.doc.is_some())
                && let Some(sum) = by_stream.get_mut(row.stream as usize)
            {
                sum.entries += 1;
                sum.bytes += u64::from(row.line.end - row.line.start);
            }
        }
        for (stream, found) in batch.streams.iter().zip(by_stream) {
            if found.entries > 0 && rows::stream_matches(&plan.matchers, &stream.labels) {
                add(sums, stream, found);
            }
        }
    }
    Ok(())
}

/// Adds the size of a stream in one place to its sum.
pub fn add(sums: &mut HashMap<StreamInfo, Stats>, stream: &StreamInfo, found: Stats) {
    let sum = sums.entry(stream.clone()).or_default();
    sum.streams = 1;
    sum.chunks += found.chunks;
    sum.bytes += found.bytes;
    sum.entries += found.entries;
}

/// Rows of a kind among `rows` of which `documents` came by `_bulk`.
pub fn rows_of_kind(kind: Kind, rows: u64, documents: u64) -> u64 {
    match kind {
        Kind::All => rows,
        Kind::Lines => rows.saturating_sub(documents),
        Kind::Documents => documents,
    }
}
