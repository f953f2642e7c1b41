//! The book: what was sent and what the broker acknowledged of it.
//!
//! In: reports of the clients. Out: debts for [`super::verify`]. Touches nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What a producer wrote to one partition: numbers from 0 on, in order.
#[derive(Default, Clone)]
pub struct Stream {
    /// How many were sent.
    pub sent: u64,
    /// Offsets of those that were acknowledged.
    pub acked: BTreeMap<u64, i64>,
}

/// How a transaction ended as far as its producer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet.
    Open,
    Committed,
    Aborted,
    /// The producer was gone before it knew.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub struct Transaction {
    pub records: u32,
    pub outcome: Outcome,
}

#[derive(Default)]
pub struct Book {
    /// By topic, producer and partition.
    pub streams: BTreeMap<(String, u32, i32), Stream>,
    /// By producer and number.
    pub transactions: BTreeMap<(u32, u64), Transaction>,
    /// The last acknowledged number of each key.
    pub keys: BTreeMap<u32, u64>,
    /// Offsets that groups have committed, by group, topic and partition.
    pub groups: BTreeMap<(String, String, i32), i64>,
    /// Clients that had to begin anew.
    pub renewed: u64,
    /// What must not happen to a client.
    pub failures: Vec<String>,
}

pub type SharedBook = Arc<Mutex<Book>>;

impl Book {
    pub fn shared() -> SharedBook {
        SharedBook::default()
    }

    /// A group has committed this.
    pub fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) {
        let known = self.groups.entry((group.to_owned(), topic.to_owned(), partition)).or_insert(offset);
        *known = offset.max(*known);
    }

    pub fn summary(&self) -> String {
        let acked: usize = self.streams.values().map(|stream| stream.acked.len()).sum();
        let count = |of: Outcome| self.transactions.values().filter(|t| t.outcome == of).count();
        format!(
            "{acked} records, {} transactions committed, {} aborted, {} unknown, {} keys up to {}, offsets {:?}, {} clients begun anew",
            count(Outcome::Committed),
            count(Outcome::Aborted),
            count(Outcome::Unknown),
            self.keys.len(),
            self.keys.values().max().unwrap_or(&0),
            self.groups.values().collect::<Vec<_>>(),
            self.renewed,
        )
    }
}
