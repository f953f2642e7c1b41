//! The agent's ledger: for each file, read = sent + dropped(reason) + waiting, in lines and in bytes of the file.
//!
//! In: what `source.rs` counts. Out: [`Ledger`], a snapshot that `millrace doctor`, the page and tests read (JSON).
//! Touches nothing.
//!
//! Bytes are bytes of the file, with line ends; of lines that are joined to one event each counts. The counts of what
//! is settled (sent or dropped) are kept with the checkpoint, so they go on over restarts: a line that is read again
//! after a crash is counted once. Sends that were repeated are counted in the metrics only.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// A line's rest beyond `max_line_bytes`.
pub const REASON_CUT: &str = "cut";
/// The log refused the record for good; it is in the dead-letter topic.
pub const REASON_DEAD_LETTER: &str = "dead_letter";

/// What was not sent, by reason: [`REASON_CUT`], [`REASON_DEAD_LETTER`], or what a transform says.
pub(crate) type Lost = BTreeMap<Arc<str>, Count>;

/// Lines and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// Lines of the file.
    pub lines: u64,
    /// Bytes of the file, with line ends.
    pub bytes: u64,
    /// Records; fewer than lines where lines are joined.
    pub records: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.records += other.records;
    }
}

impl Count {
    /// Takes away what must be in it; what is not is a fault that [`Balance::adds_up`] shows.
    pub(crate) fn take(&mut self, other: Self) {
        self.lines = self.lines.wrapping_sub(other.lines);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
        self.records = self.records.wrapping_sub(other.records);
    }
}

/// The four sides of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// Taken from the file.
    pub read: Count,
    /// Acknowledged by the log.
    pub sent: Count,
    /// Not sent, by reason.
    pub dropped: BTreeMap<String, Count>,
    /// Read and not yet acknowledged.
    pub waiting: Count,
}

impl Balance {
    /// Whether read = sent + dropped + waiting.
    pub fn adds_up(&self) -> bool {
        let mut sum = self.sent;
        sum += self.waiting;
        for dropped in self.dropped.values() {
            sum += *dropped;
        }
        sum == self.read
    }

    fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.sent += other.sent;
        self.waiting += other.waiting;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += *count;
        }
    }
}

/// One file's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLedger {
    /// Source id, 32 hexadecimal digits.
    pub source: String,
    /// The file as first seen.
    pub filename: String,
    /// Its partition.
    pub partition: i32,
    /// Where reading began.
    pub start: u64,
    /// Up to where the file is read.
    pub read_to: u64,
    /// Up to where it is acknowledged.
    pub acknowledged_to: u64,
    /// The file is read to its end and gone (or replaced).
    pub finished: bool,
    /// The four sides.
    pub balance: Balance,
}

impl SourceLedger {
    /// Whether the four sides agree with each other and with the positions.
    pub fn adds_up(&self) -> bool {
        let b = &self.balance;
        b.adds_up()
            && b.read.bytes == self.read_to.wrapping_sub(self.start)
            && b.waiting.bytes == self.read_to.wrapping_sub(self.acknowledged_to)
    }
}

/// All files of an agent at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Sum of all files.
    pub total: Balance,
    /// Each file.
    pub sources: Vec<SourceLedger>,
}

impl Ledger {
    /// Whether every file adds up.
    pub fn adds_up(&self) -> bool {
        self.total.adds_up() && self.sources.iter().all(SourceLedger::adds_up)
    }
}

/// All sources of an agent, shared by its parts.
pub(crate) type Sources = Arc<RwLock<Vec<Arc<Source>>>>;

/// Gives snapshots of a running agent's ledger. Cheap to clone.
#[derive(Clone)]
pub struct LedgerHandle(pub(crate) Sources);

impl LedgerHandle {
    /// The ledger as it is now; each file's part is taken at one moment.
    pub fn snapshot(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for source in self.0.read().iter() {
            let part = source.ledger();
            ledger.total.add(&part.balance);
            ledger.sources.push(part);
        }
        ledger
    }
}

impl std::fmt::Debug for LedgerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LedgerHandle({} sources)", self.0.read().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_line_does_not_add_up() {
        let one = Count { lines: 1, bytes: 10, records: 1 };
        let mut balance = Balance { read: one, ..Balance::default() };
        assert!(!balance.adds_up());
        balance.dropped.insert(REASON_CUT.into(), one);
        assert!(balance.adds_up());
        balance.waiting += one;
        assert!(!balance.adds_up());
    }
}
