//! What the rows of a split add up to: times and lengths from the columns, lines only where they are tested.
//!
//! In: a split, a [`Plan`], a [`Partial`]. Out: the partial with the split's rows. Touches the split's folder, for reading.
//! Leaves to the index: other splits, recent events, which documents are live.

use millrace_log::record::{DocIdentity, Labels, Position, SourceId};

use super::blocks::Blocks;
use super::error::SplitError;
use super::reader::SplitReader;
use crate::scan::{NoPartial, Partial, Plan, StorageError, StreamGroups};

/// Why a split was not counted.
#[derive(Debug)]
pub enum CountError {
    /// A row needs more than counting.
    NeedsRows,
    /// The split failed, or the query is over.
    Split(SplitError),
    /// What says which documents are live failed.
    Documents(StorageError),
}

impl From<SplitError> for CountError {
    fn from(error: SplitError) -> Self {
        Self::Split(error)
    }
}

impl From<NoPartial> for CountError {
    fn from(error: NoPartial) -> Self {
        match error {
            NoPartial::NeedsRows => Self::NeedsRows,
            NoPartial::Over(over) => Self::Split(over.into()),
        }
    }
}

impl SplitReader {
    /// Adds the rows that a plan asks for. `live` says whether a document is shown. Blocking. Adds the bytes of lines that
    /// were decompressed to `read`, also when it ends with an error.
    pub fn count(
        &self,
        plan: &Plan,
        partial: &mut Partial,
        read: &mut u64,
        live: impl Fn(&DocIdentity, SourceId, Position) -> Result<bool, StorageError>,
    ) -> Result<(), CountError> {
        let mut blocks = Blocks::open(self.clone(), plan.clone())?;
        let counted = self.count_blocks(plan, &mut blocks, partial, live);
        *read += blocks.bytes_read;
        counted
    }

    fn count_blocks(
        &self,
        plan: &Plan,
        blocks: &mut Blocks,
        partial: &mut Partial,
        live: impl Fn(&DocIdentity, SourceId, Position) -> Result<bool, StorageError>,
    ) -> Result<(), CountError> {
        let mut groups = StreamGroups::default();
        let reads_lines = partial.tests_lines() || !plan.needles.is_empty();
        let watch = plan.budget.watch();
        while let Some(number) = blocks.pending.next() {
            let (columns, text, rows) = if reads_lines {
                let Some(found) = blocks.read(number)? else { continue };
                (found.columns, found.text, found.rows.collect::<Vec<_>>())
            } else {
                let columns = blocks.columns(number)?;
                let wanted = (0u32..).zip(&columns.rows).filter(|(_, row)| blocks.is_wanted(row));
                let rows = wanted.map(|(row, head)| (row, head.line.start as usize..head.line.end as usize)).collect();
                (columns, Default::default(), rows)
            };
            let damaged = |reason| self.lines().damaged(number, reason);
            for (row, place) in rows {
                let Some(head) = columns.rows.get(row as usize) else { continue };
                let line = text.get(place.clone()).unwrap_or_default();
                watch.step(line.len()).map_err(SplitError::from)?;
                if let Some(doc) = columns.doc(row).map_err(damaged)?
                    && !live(&doc, head.source, head.position).map_err(CountError::Documents)?
                {
                    continue;
                }
                let metadata = columns.metadata(row).map_err(damaged)?;
                let metadata = metadata.as_ref().map(Labels::pairs);
                let stream = head.stream as usize;
                let Some(labels) = self.lines().streams().get(stream).map(|s| s.info.labels.pairs()) else { continue };
                partial.add(&mut groups, stream, labels, metadata, head.time_ns, line, place.len())?;
            }
        }
        Ok(())
    }
}
