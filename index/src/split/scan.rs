//! Rows of a split in the order of a plan, batch by batch.
//!
//! In: a split, a [`Plan`]. Out: batches of rows. Touches the split's folder, for reading. Leaves to the index: other splits,
//! recent events, replaced documents, when a request is over.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use millrace_log::record::{Position, SourceId};
use millrace_logql::storage::Order;

use super::blocks::{Blocks, Found};
use super::error::SplitError;
use super::reader::SplitReader;
use crate::rows::{BATCH_ROWS, BatchBuilder};
use crate::scan::{Plan, Row, RowBatch};

/// Batches of a scan, read as they are asked for; ends after the first error.
pub struct SplitScan {
    state: State,
    bytes_read: u64,
    blocks_read: u64,
    /// Rows of the next batch.
    batch_rows: usize,
}

enum State {
    New(SplitReader, Plan),
    Running(Box<Running>),
    Ended,
}

struct Running {
    blocks: Blocks,
    /// Blocks with rows still to be given, the one with the next row on top (not used for [`Order::Any`]).
    open: BinaryHeap<Open>,
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

impl SplitReader {
    /// Rows that the plan asks for, in its order; lines without one of the needles are left out. Blocking: nothing is
    /// read before the first `next`. The plan's budget counts bytes of lines decompressed, and blocks
    /// held open because they overlap in time.
    pub fn scan(&self, plan: &Plan) -> SplitScan {
        SplitScan {
            state: State::New(self.clone(), plan.clone()),
            bytes_read: 0,
            blocks_read: 0,
            batch_rows: plan.expect.unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS),
        }
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
}

impl Running {
    fn any(&mut self, batch_rows: usize) -> Result<Option<RowBatch>, SplitError> {
        let mut batch = BatchBuilder::default();
        let mut known = HashMap::new();
        while let Some(number) = self.blocks.pending.next() {
            let Some(mut found) = self.blocks.read(number)? else { continue };
            // The lines of a whole block are handed on as they are, those of a few rows are collected.
            if batch.is_empty() && found.rows.len() * 2 >= found.columns.rows.len() {
                return self.whole(found).map(Some);
            }
            while let Some((row, line)) = found.rows.next() {
                self.push(&mut batch, &mut known, &found, row, line)?;
            }
            if batch.is_full() || batch.len() >= batch_rows {
                break;
            }
        }
        Ok((!batch.is_empty()).then(|| batch.take()))
    }

    /// A batch of one block's rows around the text that was decompressed.
    fn whole(&self, found: Found) -> Result<RowBatch, SplitError> {
        let lines = self.blocks.split.lines();
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

    fn ordered(&mut self, batch_rows: usize) -> Result<Option<RowBatch>, SplitError> {
        let order = self.blocks.plan.order;
        let mut batch = BatchBuilder::default();
        let mut known = HashMap::new();
        while !batch.is_full() && batch.len() < batch_rows {
            // A block that may hold a row before the next one, or of the same time, is opened first.
            while let Some(&number) = self.blocks.pending.as_slice().first() {
                let first = self.blocks.split.lines().blocks().get(number as usize).copied().unwrap_or_default();
                let due = match (self.open.peek().map(|open| open.key), order) {
                    (None, _) => true,
                    (Some(Directed::Forward(Reverse((time, ..)))), _) => first.min_time_ns <= time,
                    (Some(Directed::Backward((time, ..))), _) => first.max_time_ns >= time,
                };
                if !due {
                    break;
                }
                self.blocks.pending.next();
                if let Some(mut found) = self.blocks.read(number)? {
                    found.lease = Some(self.blocks.plan.budget.lease(found.held())?);
                    self.open.extend(reopen(order, Box::new(found)));
                }
            }
            let Some(Open { mut found, .. }) = self.open.pop() else { break };
            if let Some((row, line)) = found.rows.next() {
                self.push(&mut batch, &mut known, &found, row, line)?;
            }
            self.open.extend(reopen(order, found));
        }
        Ok((!batch.is_empty()).then(|| batch.take()))
    }

    fn push(
        &self,
        batch: &mut BatchBuilder,
        known: &mut HashMap<u32, u32>,
        found: &Found,
        number: u32,
        line: std::ops::Range<usize>,
    ) -> Result<(), SplitError> {
        let lines = self.blocks.split.lines();
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
            State::New(split, plan) => match Blocks::open(split, plan) {
                Ok(blocks) => Box::new(Running { blocks, open: BinaryHeap::new() }),
                Err(error) => return Some(Err(error)),
            },
        };
        if let Err(over) = running.blocks.plan.budget.check() {
            return Some(Err(over.into()));
        }
        let batch = match running.blocks.plan.order {
            Order::Any => running.any(self.batch_rows),
            Order::Forward | Order::Backward => running.ordered(self.batch_rows),
        };
        (self.bytes_read, self.blocks_read) = (running.blocks.bytes_read, running.blocks.blocks_read);
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
