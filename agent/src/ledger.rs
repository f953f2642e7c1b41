//! The agent's ledger: for each file and each other source, read = sent + dropped(reason) + waiting, in lines and in bytes of the file.
//!
//! In: what `source.rs` counts. Out: [`Ledger`], a snapshot that `millrace doctor`, the page and tests read (JSON).
//! Touches nothing.
//!
//! Bytes are bytes of the file, with line ends, or of what was pushed, without; of lines that are joined to one event each counts. The counts of what
//! is settled (sent or dropped) are kept with the checkpoint, so they go on over restarts: a line that is read again
//! after a crash is counted once. Sends that were repeated are counted in the metrics only.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
pub use crate::metrics::{REASON_CUT, REASON_DEAD_LETTER};

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

/// What one read took from a file, or one push brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Everything.
    pub count: Count,
    /// Bytes beyond the limit of cut lines.
    pub skipped: u64,
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

    pub(crate) fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.sent += other.sent;
        self.waiting += other.waiting;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += *count;
        }
    }
}

/// What a source counts, all of it at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub read: Count,
    pub sent: Count,
    pub dropped: Lost,
    pub waiting: Count,
}

impl Tally {
    /// From what was kept: only what is settled is.
    pub fn restore(sent: Count, dropped: &BTreeMap<String, Count>) -> Self {
        let dropped: Lost = dropped.iter().map(|(reason, count)| (reason.as_str().into(), *count)).collect();
        let mut read = sent;
        for count in dropped.values() {
            read += *count;
        }
        Self { read, sent, dropped, waiting: Count::default() }
    }

    /// Something came in.
    pub fn took(&mut self, count: Count) {
        self.read += count;
        self.waiting += count;
    }

    /// What came in is acknowledged, but for the part that was cut, dropped or went to the dead letters.
    pub fn settle(&mut self, taken: Taken, lost: &Lost) {
        self.waiting.take(taken.count);
        let mut sent = taken.count;
        if taken.skipped > 0 {
            let cut = Count { bytes: taken.skipped, ..Count::default() };
            sent.take(cut);
            *self.dropped.entry(REASON_CUT.into()).or_default() += cut;
        }
        for (reason, count) in lost {
            sent.take(*count);
            *self.dropped.entry(reason.clone()).or_default() += *count;
        }
        self.sent += sent;
    }

    /// Something came in and was dropped at once.
    pub fn lose(&mut self, reason: &Arc<str>, count: Count) {
        self.read += count;
        *self.dropped.entry(reason.clone()).or_default() += count;
    }

    /// What was dropped, as it is kept.
    pub fn dropped(&self) -> BTreeMap<String, Count> {
        self.dropped.iter().map(|(reason, count)| (reason.to_string(), *count)).collect()
    }

    pub fn balance(&self) -> Balance {
        Balance { read: self.read, sent: self.sent, dropped: self.dropped(), waiting: self.waiting }
    }
}

/// One file's part, or that of another source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLedger {
    /// Source id, 32 hexadecimal digits.
    pub source: String,
    /// `file`, or the type of another source.
    #[serde(default = "file_kind")]
    pub kind: String,
    /// The file as first seen, or the name of another source.
    pub filename: String,
    /// Its partition; -1: all of them.
    pub partition: i32,
    /// Where reading began; of other sources than files the first number that this run may give.
    pub start: u64,
    /// Up to where the file is read; the next number to give.
    pub read_to: u64,
    /// Up to where it is acknowledged; of other sources 0.
    pub acknowledged_to: u64,
    /// Size of the file when it was last looked at; of other sources 0.
    #[serde(default)]
    pub size: u64,
    /// The file is read to its end and gone (or replaced).
    pub finished: bool,
    /// The four sides.
    pub balance: Balance,
}

/// [`SourceLedger::kind`] of files.
pub const KIND_FILE: &str = "file";

fn file_kind() -> String {
    KIND_FILE.to_owned()
}

impl SourceLedger {
    /// Bytes that are there and not yet read.
    pub fn unread(&self) -> u64 {
        if self.finished { 0 } else { self.size.saturating_sub(self.read_to) }
    }

    /// Whether the four sides agree with each other and with the positions.
    pub fn adds_up(&self) -> bool {
        let b = &self.balance;
        if self.kind != KIND_FILE {
            return b.adds_up();
        }
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
    /// Each file, then each other source.
    pub sources: Vec<SourceLedger>,
    /// What is in the way now.
    #[serde(default)]
    pub condition: Condition,
}

impl Ledger {
    /// Whether every file adds up.
    pub fn adds_up(&self) -> bool {
        self.total.adds_up() && self.sources.iter().all(SourceLedger::adds_up)
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
