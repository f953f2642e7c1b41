//! Joins splits of one tenant into one, leaving out the rows that a caller names.
//!
//! In: open splits. Out: a new folder. Touches both. Memory is bounded: one block of each input at a time, and what the
//! writer takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::fs::Filesystem;
use millrace_log::record::{Position, SourceId, Tenant};

use super::blocks::decompressor;
use super::columns::Columns;
use super::error::SplitError;
use super::event::StoredEvent;
use super::meta::SplitMeta;
use super::reader::SplitReader;
use super::writer::{SplitBuilder, compare_streams};
use crate::scan::StreamInfo;

/// Writes the rows of all inputs (of one tenant, at least one input) to a new folder, in order, without those for which
/// `drop` says so. The same rows otherwise: nothing is deduplicated. After an error what is there of the folder is
/// garbage to remove.
pub fn merge(
    fs: &Arc<dyn Filesystem>,
    inputs: &[SplitReader],
    out_dir: &Path,
    drop: impl Fn(&StoredEvent) -> bool,
) -> Result<SplitMeta, SplitError> {
    let name = inputs.first().map_or(Tenant::DEFAULT, |split| &split.meta().tenant);
    if let Some(other) = inputs.iter().find(|split| split.meta().tenant != name) {
        return Err(SplitError::Tenants { first: name.to_owned(), other: other.meta().tenant.clone() });
    }
    let damaged = |_| SplitError::Damaged {
        path: inputs.first().map(|s| s.dir().to_owned()).unwrap_or_default(),
        block: None,
        reason: "its tenant has no valid name",
    };
    let tenant = Tenant::new(name).map_err(damaged)?;

    let mut streams: Vec<&StreamInfo> =
        inputs.iter().flat_map(|split| split.lines().streams().iter().map(|s| &s.info)).collect();
    streams.sort_by(|a, b| compare_streams(a, b));
    streams.dedup();
    let mut cursors = Vec::with_capacity(inputs.len());
    for split in inputs {
        let ranks = split
            .lines()
            .streams()
            .iter()
            .map(|s| streams.partition_point(|have| compare_streams(have, &s.info).is_lt()) as u32)
            .collect();
        cursors.push(RowCursor::open(split, ranks)?);
    }
    // Ties go by the place of the input, so that a merge of the same inputs is always the same.
    let mut next: BinaryHeap<Reverse<(Key, usize)>> = BinaryHeap::with_capacity(cursors.len());
    for (i, cursor) in cursors.iter().enumerate() {
        next.extend(cursor.key().map(|key| Reverse((key, i))));
    }
    let mut builder = SplitBuilder::create(fs, out_dir, &tenant)?;
    while let Some(Reverse((_, i))) = next.pop() {
        let cursor = &mut cursors[i];
        let event = cursor.event()?;
        if !drop(&event) {
            builder.push(&event)?;
        }
        cursor.advance()?;
        next.extend(cursor.key().map(|key| Reverse((key, i))));
    }
    builder.finish()
}

/// Order of rows: rank of the stream, time, source, position.
type Key = (u32, i64, SourceId, Position);

/// Walks through the rows of one split in its order.
struct RowCursor<'a> {
    split: &'a SplitReader,
    ranks: Vec<u32>,
    zstd: zstd::bulk::Decompressor<'static>,
    /// The next block to be read.
    block: u32,
    columns: Option<Columns>,
    text: Bytes,
    row: u32,
}

impl<'a> RowCursor<'a> {
    fn open(split: &'a SplitReader, ranks: Vec<u32>) -> Result<Self, SplitError> {
        let zstd = decompressor(split.dir())?;
        let mut cursor = Self { split, ranks, zstd, block: 0, columns: None, text: Bytes::new(), row: 0 };
        cursor.next_block()?;
        Ok(cursor)
    }

    fn next_block(&mut self) -> Result<(), SplitError> {
        let lines = self.split.lines();
        self.row = 0;
        self.columns = None;
        if (self.block as usize) < lines.blocks().len() {
            self.columns = Some(lines.columns(self.block, &mut self.zstd)?);
            self.text = Bytes::from(lines.text(self.block, &mut self.zstd)?);
            self.block += 1;
        }
        Ok(())
    }

    fn key(&self) -> Option<Key> {
        let row = self.columns.as_ref()?.rows.get(self.row as usize)?;
        let rank = self.ranks.get(row.stream as usize).copied()?;
        Some((rank, row.time_ns, row.source, row.position))
    }

    fn event(&self) -> Result<StoredEvent, SplitError> {
        let lines = self.split.lines();
        let event = match &self.columns {
            Some(columns) => columns.event(self.row, &self.text, lines.streams()),
            None => Err("there is no such row"),
        };
        event.map_err(|reason| lines.damaged(self.block.saturating_sub(1), reason))
    }

    fn advance(&mut self) -> Result<(), SplitError> {
        self.row += 1;
        if self.columns.as_ref().is_some_and(|c| self.row as usize >= c.rows.len()) {
            self.next_block()?;
        }
        Ok(())
    }
}
