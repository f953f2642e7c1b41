//! One partition: appends in order, flushes in groups, reads whole batches as stored.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::error::{AppendError, ReadError};

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendKind {
    /// A producer: everything is checked.
    Client,
    /// A coordinator of ours: no window of timestamps, control batches and any size allowed.
    Internal,
}

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record: what [`Partition::flushed`] is asked for.
    pub last_offset: i64,
    /// Our clock, where the topic is dated by it; else -1.
    pub log_append_time_ms: i64,
    /// Earliest offset at that moment.
    pub log_start_offset: i64,
    /// The batch was there already: a repeated request of an idempotent producer.
    pub duplicate: bool,
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
}

/// A record by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its timestamp.
    pub timestamp_ms: i64,
    /// Its offset.
    pub offset: i64,
}

/// One partition of a topic.
pub struct Partition {}

#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Partition {
    /// Name of its topic.
    pub fn topic(&self) -> &str {
        todo!()
    }

    /// Its number within the topic.
    pub fn number(&self) -> i32 {
        todo!()
    }

    /// Appends whole record batches (format 2), all or none. Returns once they are written, before they are flushed:
    /// wait with [`Self::flushed`] before acknowledging. A caller that awaits one append before the next keeps order.
    pub async fn append(self: &Arc<Self>, batches: Bytes, kind: AppendKind) -> Result<Appended, AppendError> {
        todo!()
    }

    /// Waits until the offset is as safe as the flush policy promises and visible to consumers.
    pub async fn flushed(&self, last_offset: i64) -> Result<(), AppendError> {
        todo!()
    }

    /// Reads whole batches from the one that holds `from` on, up to the high watermark and about `max_bytes`;
    /// with `min_one_batch` at least one, whatever its size. Empty at the end of the log.
    pub async fn read(
        self: &Arc<Self>,
        from: i64,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Result<ReadResult, ReadError> {
        todo!()
    }

    /// The first record dated at or after a time.
    pub async fn offset_for_time(self: &Arc<Self>, timestamp_ms: i64) -> Result<Option<TimestampOffset>, ReadError> {
        todo!()
    }

    /// The record with the latest timestamp.
    pub async fn max_timestamp(self: &Arc<Self>) -> Result<Option<TimestampOffset>, ReadError> {
        todo!()
    }

    /// Deletes all records before an offset (-1: the high watermark); returns the new earliest offset.
    pub async fn delete_records(self: &Arc<Self>, before: i64) -> Result<i64, ReadError> {
        todo!()
    }

    /// Earliest offset.
    pub fn log_start_offset(&self) -> i64 {
        todo!()
    }

    /// One past the last offset that consumers may see.
    pub fn high_watermark(&self) -> i64 {
        todo!()
    }

    /// One past the last offset outside of open transactions; the high watermark as long as there are none.
    pub fn last_stable_offset(&self) -> i64 {
        todo!()
    }

    /// One past the last offset written.
    pub fn log_end_offset(&self) -> i64 {
        todo!()
    }

    /// Epoch of the leader, always 0: there is one.
    pub fn leader_epoch(&self) -> i32 {
        0
    }

    /// Bytes in its segments.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// The high watermark as it moves, for long polls.
    pub fn watch(&self) -> watch::Receiver<i64> {
        todo!()
    }
}
