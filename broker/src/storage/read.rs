//! What a read of a partition says and gets back: isolation, batches with the offsets around them, records by their time.
//!
//! In: the isolation of a reader. Out: record batches as stored. Touches nothing.

use bytes::Bytes;

use super::txn::AbortedTxn;

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All up to the high watermark.
    #[default]
    Uncommitted,
    /// Up to the last stable offset, with the list of aborted transactions.
    Committed,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadResult {
    /// Whole record batches as stored; the first may begin before the offset asked for.
    pub records: Bytes,
    /// One past the last offset that consumers may see.
    pub high_watermark: i64,
    /// One past the last offset outside of open transactions.
    pub last_stable_offset: i64,
    /// Earliest offset.
    pub log_start_offset: i64,
    /// Transactions that were aborted and have records among these; only for [`Isolation::Committed`].
    pub aborted: Vec<AbortedTxn>,
}

/// A record by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its timestamp.
    pub timestamp_ms: i64,
    /// Its offset.
    pub offset: i64,
}
