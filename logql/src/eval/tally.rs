//! What one query has read so far, for its statistics, beside the budget that it spends.
//!
//! In: batches as they are read. Out: counts, errors that name the limit. Touches nothing itself.

use crate::answer::Statistics;
use crate::budget::{Budget, Watch};
use crate::error::QueryError;
use crate::storage::EntryBatch;

/// Counts of one query.
pub(crate) struct Tally {
    /// What it may still cost.
    pub budget: Budget,
    /// Looks at the budget line by line.
    pub watch: Watch,
    /// Bytes of lines that the store gave.
    pub bytes: u64,
    /// Lines that the store gave.
    pub lines: u64,
    /// Lines that passed the pipeline.
    pub passed: u64,
}

impl Tally {
    /// A query begins.
    pub fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), watch: budget.watch(), bytes: 0, lines: 0, passed: 0 }
    }

    /// Counts a batch.
    pub fn read(&mut self, batch: &EntryBatch) {
        self.lines += batch.entries.len() as u64;
        self.bytes += batch.entries.iter().map(|e| u64::from(e.line.end - e.line.start)).sum::<u64>();
    }

    /// Counts memory that the query keeps.
    pub fn hold(&self, bytes: usize) -> Result<(), QueryError> {
        Ok(self.budget.hold(bytes)?)
    }

    /// What it cost so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            bytes: self.bytes,
            lines: self.lines,
            lines_after_filter: self.passed,
            seconds: self.budget.elapsed().as_secs_f64(),
        }
    }
}
