//! A scan over recent events and splits under way: sources are read on threads that may block, a batch ahead, and merged
//! in the order of the plan.
//!
//! In: a plan, a view of what is searchable. Out: batches of rows. Touches splits, for reading, through a bounded number of
//! threads. Dropping the stream, or the end of the plan's budget, ends all of it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt as _};
use millrace_log::record::{Position, SourceId};
use millrace_logql::budget::Lease;
use tokio_util::sync::DropGuard;

use crate::head::{Chunk, HeadScan};
use crate::live::{LiveSplit, Snapshot};
use crate::readers::{Readers, failed};
use crate::rows::{self, BatchBuilder};
use crate::scan::{Order, Plan, RowBatch, RowStream, StorageError};
use crate::split::SplitScan;

/// Memory that an open source takes besides its batches.
const SOURCE_BYTES: usize = 64 << 10;
/// Memory of a row besides its line.
const ROW_BYTES: usize = 128;

/// Rows that a plan asks for.
pub(crate) fn rows(readers: Arc<Readers>, plan: Plan, snapshot: Snapshot) -> RowStream {
    let scan = Scan::start(readers, plan, snapshot);
    match scan.plan.order {
        Order::Any => futures::stream::unfold(scan, Scan::next_any).boxed(),
        Order::Forward | Order::Backward => futures::stream::unfold(scan, Scan::next_ordered).boxed(),
    }
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
type Refill = Result<(Source, Option<RowBatch>), StorageError>;
type Running = Pin<Box<dyn Future<Output = Refill> + Send>>;

/// The next batches of one source: one that is being merged and one that is being read.
struct Cursor {
    batch: RowBatch,
    row: usize,
    /// Numbers of the batch's streams in the batch that is being built.
    numbers: Vec<Option<u32>>,
    refill: Option<Running>,
    /// Memory of this batch and the one that is being read.
    _lease: Lease,
}

/// A scan under way. Dropping it ends its work on other threads after the batch at hand.
struct Scan {
    readers: Arc<Readers>,
    plan: Arc<Plan>,
    change: u64,
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
    fn start(readers: Arc<Readers>, mut plan: Plan, snapshot: Snapshot) -> Self {
        plan.budget = plan.budget.part();
        let stop = plan.budget.guard();
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
            readers,
            change: snapshot.change,
            unopened,
            cursors: Vec::new(),
            heap: BinaryHeap::new(),
            running: FuturesUnordered::new(),
            out: BatchBuilder::default(),
            ended: false,
            plan: Arc::new(plan),
            _stop: stop,
        }
    }

    fn open(&self, unopened: Unopened) -> Result<Running, StorageError> {
        let (readers, plan, change) = (Arc::clone(&self.readers), Arc::clone(&self.plan), self.change);
        let lease = plan.budget.lease(SOURCE_BYTES)?;
        Ok(Box::pin(self.readers.run(&self.plan.budget, move || {
            let source = match unopened {
                Unopened::Head(chunks) => {
                    let mut read = 0;
                    let scan = HeadScan::new(chunks, &plan, &mut read);
                    readers.metrics.query_bytes.inc_by(read);
                    Source::Head(scan?)
                }
                Unopened::Split(split) => {
                    let reader = readers.reader(&split).map_err(|e| readers.fault(&split, e))?;
                    let scan = reader.scan(&plan);
                    Source::Split(split, Box::new(scan))
                }
            };
            let filled = next_batch(&readers, &plan, change, source);
            drop(lease);
            filled
        })))
    }

    fn refill(&self, source: Source) -> Running {
        let (readers, plan, change) = (Arc::clone(&self.readers), Arc::clone(&self.plan), self.change);
        Box::pin(self.readers.run(&self.plan.budget, move || next_batch(&readers, &plan, change, source)))
    }

    /// Batches as they come, several sources at a time.
    async fn next_any(mut self) -> Option<(Result<RowBatch, StorageError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            let step = self.step_any().await;
            match step {
                Ok(None) => return None,
                Ok(Some(batch)) if batch.rows.is_empty() => {}
                Ok(Some(batch)) => return Some((Ok(batch), self)),
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
    }

    /// What comes next, maybe an empty batch; `None` at the end.
    async fn step_any(&mut self) -> Result<Option<RowBatch>, StorageError> {
        while self.running.len() < self.readers.read_ahead(&self.plan.budget)
            && let Some((_, next)) = self.unopened.pop()
        {
            let running = self.open(next)?;
            self.running.push(running);
        }
        let budget = self.plan.budget.clone();
        let Some(filled) = budget.within(self.running.next()).await? else { return Ok(None) };
        let (source, batch) = filled?;
        let Some(batch) = batch else { return Ok(Some(RowBatch::default())) };
        let running = self.refill(source);
        self.running.push(running);
        Ok(Some(batch))
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
                let ahead = self.plan.expect.is_none() && opened.len() < self.readers.read_ahead(&self.plan.budget);
                if !(reached || ahead || opened.is_empty()) {
                    break;
                }
                if let Some((_, next)) = self.unopened.pop() {
                    opened.push(self.open(next)?);
                }
            }
            let refills = self.plan.budget.within(futures::future::join_all(opened)).await?;
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
                let refill = self.plan.budget.within(refill).await??;
                self.filled(at, refill)
            }
        }
    }

    fn filled(&mut self, at: usize, (source, batch): (Source, Option<RowBatch>)) -> Result<(), StorageError> {
        let Some(batch) = batch else { return Ok(()) };
        let held = batch.text.len() + batch.rows.len() * ROW_BYTES;
        let lease = self.plan.budget.lease(2 * held + SOURCE_BYTES)?;
        let numbers = vec![None; batch.streams.len()];
        let refill = Some(self.refill(source));
        if let Some(slot) = self.cursors.get_mut(at) {
            *slot = Some(Cursor { batch, row: 0, numbers, refill, _lease: lease });
        }
        self.push(at);
        Ok(())
    }
}

/// Reads on until there is a batch with a live row. What is read of lines is counted, whatever comes of it.
fn next_batch(readers: &Readers, plan: &Plan, change: u64, mut source: Source) -> Refill {
    loop {
        plan.budget.check()?;
        let batch = match &mut source {
            Source::Head(scan) => scan.next(),
            Source::Split(split, scan) => {
                let before = scan.bytes_read();
                let next = scan.next();
                readers.metrics.query_bytes.inc_by(scan.bytes_read().saturating_sub(before));
                next.transpose().map_err(|e| readers.fault(split, e))?
            }
        };
        let Some(batch) = batch else { return Ok((source, None)) };
        let mut fault = None;
        let batch = rows::retain(batch, |row| match &row.doc {
            None => true,
            Some(doc) => match readers.docs.is_live(&plan.tenant, doc, row.source, row.position, change) {
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
            return Ok((source, Some(batch)));
        }
    }
}
