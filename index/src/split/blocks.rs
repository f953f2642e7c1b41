//! Which blocks of a split a plan needs, and the rows found in one.
//!
//! In: a split, a plan. Out: numbers of blocks, rows of blocks. Touches the split's folder, for reading: the word index if a
//! text is asked for, then one block after the other. Each counts in the plan's budget. Leaves their order to scans.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use millrace_logql::budget::Lease;
use millrace_logql::storage::Order;

use super::columns::{Columns, RowHead};
use super::error::SplitError;
use super::needles::{Finder, Wanted};
use super::reader::SplitReader;
use super::tables::BlockEntry;
use super::words::Words;
use crate::rows::kind_matches;
use crate::scan::{Kind, Plan};

/// What decompresses blocks.
pub(super) fn decompressor(path: &Path) -> Result<zstd::bulk::Decompressor<'static>, SplitError> {
    zstd::bulk::Decompressor::new().map_err(SplitError::io("reading", path))
}

/// The blocks of a split that may have rows of a plan.
pub(super) struct Blocks {
    pub split: SplitReader,
    pub plan: Plan,
    finders: Vec<Finder>,
    wanted: Wanted,
    /// Which streams of the split are wanted.
    pub streams: Vec<bool>,
    words: Option<Arc<Words>>,
    zstd: zstd::bulk::Decompressor<'static>,
    /// Blocks still to be read, in the order of the plan.
    pub pending: vec::IntoIter<u32>,
    /// Bytes of lines decompressed so far.
    pub bytes_read: u64,
    /// Blocks whose lines were read so far.
    pub blocks_read: u64,
}

/// The rows found in one block.
pub(super) struct Found {
    pub number: u32,
    pub columns: Columns,
    pub text: Bytes,
    /// Rows of `columns`, in the order of the scan, and their lines in `text`.
    pub rows: vec::IntoIter<(u32, std::ops::Range<usize>)>,
    /// Memory that it takes while it is open beside others.
    pub lease: Option<Lease>,
}

impl Blocks {
    /// Finds the blocks of a plan. Blocking.
    pub fn open(split: SplitReader, plan: Plan) -> Result<Self, SplitError> {
        let streams = split.wanted_streams(&plan);
        let wanted = Wanted::new(&plan.needles);
        let blocks = split.lines().blocks();
        // Number of wanted streams before each stream: tells in one step whether a block has any.
        let mut before = Vec::with_capacity(streams.len() + 1);
        before.push(0u32);
        for &wanted in &streams {
            before.push(before.last().copied().unwrap_or_default() + u32::from(wanted));
        }
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
        let asks = wanted.asks_terms() || wanted.asks_filters();
        let words = if asks && candidates.contains(&true) { Some(split.words()?) } else { None };
        if let Some(words) = words.as_ref().filter(|_| wanted.asks_terms()) {
            words.retain(&wanted, &mut candidates, || Ok(plan.budget.check()?))?;
        }
        let mut pending: Vec<u32> = (0u32..).zip(&candidates).filter(|(_, c)| **c).map(|(i, _)| i).collect();
        let entry = |number: &u32| blocks.get(*number as usize);
        match plan.order {
            Order::Any => {}
            Order::Forward => pending.sort_by_key(|n| entry(n).map(|b| b.min_time_ns)),
            Order::Backward => pending.sort_by_key(|n| Reverse(entry(n).map(|b| b.max_time_ns))),
        }
        let zstd = decompressor(split.dir())?;
        let finders = plan.needles.iter().filter_map(Finder::new).collect();
        let pending = pending.into_iter();
        Ok(Self { split, plan, finders, wanted, streams, words, zstd, pending, bytes_read: 0, blocks_read: 0 })
    }

    /// Reads a block and finds its rows; `None` if there are none.
    pub fn read(&mut self, number: u32) -> Result<Option<Found>, SplitError> {
        self.plan.budget.check()?;
        let split = self.split.clone();
        let lines = split.lines();
        let Some(entry) = lines.blocks().get(number as usize) else { return Ok(None) };
        if let Some(words) = self.words.as_ref().filter(|_| self.wanted.asks_filters())
            && !words.may_have(number, entry, &self.wanted)?
        {
            return Ok(None);
        }
        self.bytes_read += u64::from(entry.text_raw);
        self.blocks_read += 1;
        self.plan.budget.read(u64::from(entry.text_raw))?;
        let text = lines.text(number, &mut self.zstd)?;
        if !self.finders.iter().all(|finder| finder.find(&text, 0).is_some()) {
            return Ok(None);
        }
        let columns = lines.columns(number, &mut self.zstd)?;
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
        Ok(Some(Found { number, columns, text: text.into(), rows: rows.into_iter(), lease: None }))
    }

    /// Columns of a block, without its lines.
    pub fn columns(&mut self, number: u32) -> Result<Columns, SplitError> {
        self.plan.budget.check()?;
        self.split.lines().columns(number, &mut self.zstd)
    }

    /// Whether the plan asks for a row, its line aside.
    pub fn is_wanted(&self, row: &RowHead) -> bool {
        let plan = &self.plan;
        row.time_ns >= plan.start_ns
            && row.time_ns < plan.end_ns
            && self.streams.get(row.stream as usize).copied().unwrap_or(false)
            && kind_matches(plan.kind, row.is_document())
    }

    /// Rows of a block that the plan asks for, in the block's order.
    fn matching(&self, columns: &Columns, text: &[u8]) -> Vec<(u32, std::ops::Range<usize>)> {
        let rows = &columns.rows;
        let accept = |number: usize| -> Option<(u32, std::ops::Range<usize>)> {
            let row = rows.get(number)?;
            let line = row.line.start as usize..row.line.end as usize;
            let wanted = self.is_wanted(row);
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
}

impl Found {
    /// Bytes that it keeps in memory, roughly.
    pub fn held(&self) -> usize {
        self.text.len() + self.columns.bytes()
    }
}
