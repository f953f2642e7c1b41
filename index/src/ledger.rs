//! The aggregator's part of the ledger: what was read from each topic, and what became of it.
//!
//! In: counts of the indexer, moved from waiting to done by each publication. Out: [`Ledger`], for `doctor`, `/metrics`
//! and tests. Touches nothing: the catalog keeps the durable part in the transaction of the publication.
//!
//! `read = stored + duplicate + dead_letter + waiting` holds for each topic in records ("lines") and bytes of their
//! values. `read` is counted where records come in, the others where they end, so that a loss between shows.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use millrace_log::consume::Hole;

/// A number of events and the bytes of their lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Events.
    pub lines: u64,
    /// Bytes of their lines.
    pub bytes: u64,
}

impl Amount {
    /// Counts one line.
    pub fn add(&mut self, bytes: usize) {
        self.lines += 1;
        self.bytes += bytes as u64;
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        self.lines = self.lines.saturating_sub(other.lines);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What happened to the records of one topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicCounts {
    /// Came from the log.
    pub read: Amount,
    /// Went into a split.
    pub stored: Amount,
    /// Were there already.
    pub duplicate: Amount,
    /// Could not be read: on the dead-letter topic with the reason.
    pub dead_letter: Amount,
    /// Are in memory, searchable, and not yet in a split.
    pub waiting: Amount,
}

impl TopicCounts {
    /// Whether the ledger adds up.
    pub fn balanced(&self) -> bool {
        let mut sum = self.stored;
        sum += self.duplicate;
        sum += self.dead_letter;
        sum += self.waiting;
        sum == self.read
    }
}

impl AddAssign for TopicCounts {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.dead_letter += other.dead_letter;
        self.waiting += other.waiting;
    }
}

impl SubAssign for TopicCounts {
    fn sub_assign(&mut self, other: Self) {
        self.read -= other.read;
        self.stored -= other.stored;
        self.duplicate -= other.duplicate;
        self.dead_letter -= other.dead_letter;
        self.waiting -= other.waiting;
    }
}

/// All counts of the hop from log to index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// By topic.
    pub topics: BTreeMap<String, TopicCounts>,
    /// Stored rows that merges left out because a newer document took their place.
    pub replaced: Amount,
    /// Stored rows that retention removed.
    pub expired: Amount,
    /// Stretches of the log that were gone before they could be read.
    pub holes: Vec<Hole>,
    /// Whether every topic adds up.
    pub balanced: bool,
}

/// What became of the lines of one source (a file, a pushing instance) in one partition, as of the last publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Topic that it writes to.
    pub topic: String,
    /// Partition that it writes to.
    pub partition: i32,
    /// Its id, 32 hexadecimal digits.
    pub source: String,
    /// Highest position stored: offset,
    pub offset: u64,
    /// and sub-number.
    pub sub: u32,
    /// When its last event was consumed, ms since 1970.
    pub seen_ms: i64,
    /// Its events in splits.
    pub stored: Amount,
    /// Its events that came again.
    pub duplicate: Amount,
}

/// The running ledger: what publications made durable, and what still waits for one.
#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    durable: Ledger,
    pending: BTreeMap<String, TopicCounts>,
}

impl Book {
    /// Starts from what the catalog has.
    pub fn new(durable: Ledger) -> Self {
        Self { pages: Mutex::new(Pages { durable, pending: BTreeMap::new() }) }
    }

    /// Counts what came in, searchable but not yet published.
    pub fn add(&self, topic: &str, counts: TopicCounts) {
        let mut pages = self.pages.lock();
        match pages.pending.get_mut(topic) {
            Some(page) => *page += counts,
            None => {
                pages.pending.insert(topic.to_owned(), counts);
            }
        }
    }

    /// Moves what a publication made durable.
    pub fn published(&self, counts: &BTreeMap<String, TopicCounts>, holes: &[Hole]) {
        let mut pages = self.pages.lock();
        for (topic, counts) in counts {
            *pages.durable.topics.entry(topic.clone()).or_default() += *counts;
            if let Some(pending) = pages.pending.get_mut(topic) {
                *pending -= *counts;
            }
        }
        pages.durable.holes.extend_from_slice(holes);
    }

    /// Counts what merges left out and retention removed.
    pub fn removed(&self, replaced: Amount, expired: Amount) {
        let mut pages = self.pages.lock();
        pages.durable.replaced += replaced;
        pages.durable.expired += expired;
    }

    /// The ledger of the moment: what is stored or dead but not yet published counts as waiting.
    pub fn snapshot(&self) -> Ledger {
        let pages = self.pages.lock();
        let mut ledger = pages.durable.clone();
        for (topic, pending) in &pages.pending {
            let page = ledger.topics.entry(topic.clone()).or_default();
            page.read += pending.read;
            page.duplicate += pending.duplicate;
            page.waiting += pending.stored;
            page.waiting += pending.dead_letter;
        }
        ledger.balanced = ledger.topics.values().all(TopicCounts::balanced);
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_balances_before_and_after_publication() {
        let one = |lines| Amount { lines, bytes: lines * 10 };
        let counts =
            TopicCounts { read: one(6), stored: one(3), duplicate: one(2), dead_letter: one(1), waiting: one(0) };
        let book = Book::default();
        book.add("logs", counts);
        let before = book.snapshot();
        assert!(before.balanced);
        assert_eq!(before.topics["logs"].waiting, one(4));
        book.published(&BTreeMap::from([("logs".to_owned(), counts)]), &[]);
        let after = book.snapshot();
        assert!(after.balanced);
        assert_eq!(after.topics["logs"], counts);
        book.add("logs", TopicCounts { read: one(1), ..TopicCounts::default() });
        assert!(!book.snapshot().balanced, "a record that ends nowhere shows");
    }
}
