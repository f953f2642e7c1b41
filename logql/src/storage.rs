//! What the engine asks of an index: streams by selector, and their entries in batches.
//!
//! In: a `Scan`: tenant, matchers, time range, filters that every wanted line passes, order, budget.
//! Out: batches of entries whose lines lie in one buffer per batch. Touches nothing itself.
//! Leaves to the engine: everything behind the first stage that changes the line or the labels.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;

use crate::aggregate::{Aggregation, Partial};
use crate::budget::OverBudget;
pub use crate::budget::{Budget, QueryLimits};
pub use crate::labels::StreamLabels;

/// How a label or a line is compared. Regular expressions are RE2-like and anchored for labels, unanchored for lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// One matcher of a stream selector, its regular expression compiled once. An absent label is the empty string.
#[derive(Debug, Clone)]
pub struct LabelMatcher {
    /// Name of the label.
    pub name: String,
    /// How it is compared.
    pub op: MatchOp,
    /// The value, or the text of the expression.
    pub value: String,
    regex: Option<regex::bytes::Regex>,
}

impl LabelMatcher {
    /// Compiles the expression; it is anchored at both ends and `.` matches a line end, as in Loki.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self, regex::Error> {
        let (name, value) = (name.into(), value.into());
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(crate::dialect::compile_anchored(&value)?),
        };
        Ok(Self { name, op, value, regex })
    }

    /// Whether a value agrees; pass "" for an absent label.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => value == self.value,
            (MatchOp::NotEqual, _) => value != self.value,
            (MatchOp::Regex, Some(regex)) => regex.is_match(value.as_bytes()),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value.as_bytes()),
            (MatchOp::Regex | MatchOp::NotRegex, None) => false,
        }
    }
}

/// A text that every wanted line contains: the store uses it to leave out blocks and lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineNeedle {
    /// The bytes that the line contains.
    pub text: Vec<u8>,
    /// ASCII letters and their Unicode folding are equal (from `(?i)` of a regular expression).
    pub ignore_case: bool,
}

/// Order of entries in a scan. Ties of time are ordered by (source, position), also reversed when backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
    /// As comes cheapest (aggregations).
    Any,
}

/// One question to the store.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Whose entries.
    pub tenant: String,
    /// All must match the stream's labels.
    pub matchers: Vec<LabelMatcher>,
    /// Event time in ns since 1970: [start, end).
    pub start_ns: i64,
    /// Exclusive.
    pub end_ns: i64,
    /// Every wanted line contains each of these. The store may return lines that don't: the engine filters again.
    pub needles: Vec<LineNeedle>,
    /// Order of the entries over all batches.
    pub order: Order,
    /// Entries after which the engine will usually stop: a hint for how much to read ahead.
    pub expect: Option<usize>,
    /// What the query may still cost: the store counts bytes read, and looks at it inside its loops. Dropping the stream
    /// ends the scan as well.
    pub budget: Budget,
}

/// One entry; its line is a range of the batch's text.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Index into [`EntryBatch::streams`].
    pub stream: u32,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Bytes of the line in [`EntryBatch::text`].
    pub line: Range<u32>,
    /// Structured metadata, sorted by name; `None` for most.
    pub metadata: Option<StreamLabels>,
}

/// Neighbouring entries, in the order asked for, also across batches.
#[derive(Debug, Clone, Default)]
pub struct EntryBatch {
    /// Streams that the entries name.
    pub streams: Vec<StreamLabels>,
    /// Lines, one after the other. Mostly UTF-8; the engine shows other bytes as U+FFFD.
    pub text: Bytes,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl EntryBatch {
    /// The line of an entry of this batch.
    pub fn line(&self, entry: &Entry) -> &[u8] {
        self.text.get(entry.line.start as usize..entry.line.end as usize).unwrap_or_default()
    }
}

/// Batches as they are found.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<EntryBatch, StorageError>> + Send>>;

/// Why the store could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// A limit of [`QueryLimits`] was met.
    #[error("query would exceed {limit} ({allowed} allowed): narrow the time range or the stream selector")]
    Limit {
        /// Name of the limit as in the configuration.
        limit: &'static str,
        /// Its value, for people.
        allowed: String,
    },
    /// Requests together hold all the memory there is for them.
    #[error(
        "queries together need more than `aggregator.index.query.max_memory_total` ({allowed} bytes): repeat the query later"
    )]
    Crowded {
        /// Size of that memory in bytes.
        allowed: u64,
    },
    /// The token was cancelled.
    #[error("query was cancelled")]
    Cancelled,
    /// Disk or catalog failed.
    #[error("reading {what} failed: {source}")]
    Failed {
        /// What was read: a split, the catalog.
        what: String,
        /// The cause.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl From<OverBudget> for StorageError {
    fn from(over: OverBudget) -> Self {
        match over {
            OverBudget::Limit { limit, allowed } => Self::Limit { limit, allowed },
            OverBudget::Crowded { allowed } => Self::Crowded { allowed },
            OverBudget::Cancelled => Self::Cancelled,
        }
    }
}

/// Size of the entries that a selector finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams found.
    pub streams: u64,
    /// Storage units (splits) touched.
    pub chunks: u64,
    /// Bytes of lines.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// An index as the engine sees it.
#[async_trait::async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Entries of all streams that match, in order.
    async fn scan(&self, scan: Scan) -> Result<BatchStream, StorageError>;

    /// What the entries of a scan add up to, from the cheapest that the store has: summaries, columns, lines last. `None`: it
    /// has nothing better than rows, or an entry needs more than counting; the engine scans then, and answers the same.
    async fn aggregate(&self, _scan: Scan, _aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        Ok(None)
    }

    /// Label sets of the streams that match and have an entry in the range (a split's whole range may count).
    async fn series(&self, scan: Scan) -> Result<Vec<StreamLabels>, StorageError>;

    /// Sizes by stream for `index/stats` and `index/volume`; may count whole storage units.
    async fn stats(&self, scan: Scan) -> Result<Vec<(StreamLabels, Stats)>, StorageError>;
}
