//! Traits and types by which every part reaches the log: batches in, records out.
//!
//! Out: [`BatchProducer`], [`Consumed`], [`Limits`]. Touches nothing.

use std::time::Duration;

use bytes::Bytes;

use super::error::ClientError;
use crate::native::encode::Records;
use crate::native::error::WireError;
use crate::record::{Record, TopicPartition};

/// Takes whole batches of one partition. Stands between the agent (or the HTTP doors) and a client.
#[async_trait::async_trait]
pub trait BatchProducer: Send + Sync + 'static {
    /// Sends a batch in order; returns the offset of its first record when all are durable (acks=all).
    /// On [`ClientError::Refused`] the records that are not named are durable.
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError>;

    /// The same with records that are encoded already.
    async fn send_encoded(&self, to: &TopicPartition, records: Records) -> Result<i64, ClientError> {
        self.send(to, records.to_records()).await
    }

    /// No records, with the memory of those sent to this partition before, where the client keeps it.
    fn spare(&self, _to: &TopicPartition) -> Records {
        Records::default()
    }

    /// Why the last attempt failed for a batch of this partition that is being sent again; `None`: none failed.
    fn last_error(&self, _to: &TopicPartition) -> Option<WireError> {
        None
    }

    /// Number of partitions of a topic, created with `partitions` if it does not exist.
    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError>;

    /// Asks the log whether it knows a topic, whatever it answers: an error says why there is no answer. Cheap.
    async fn probe(&self, _topic: &str) -> Result<(), ClientError> {
        Ok(())
    }
}

/// A record as it stands on the log.
#[derive(Debug, Clone)]
pub struct Consumed {
    /// Which partition.
    pub partition: TopicPartition,
    /// Its offset there.
    pub offset: i64,
    /// The record.
    pub record: Record,
    /// Why it can't be read, where it stands for records that can't: for the dead letters.
    pub unreadable: Option<Box<str>>,
}

/// Offsets whose records can't be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Which partition.
    pub partition: TopicPartition,
    /// The first of them.
    pub from: i64,
    /// The offset behind the last.
    pub to: i64,
    /// Their batch as it lies on the log, or its beginning.
    pub batch: Bytes,
    /// Why, for people.
    pub reason: String,
}

/// Bytes of an unreadable batch that are kept.
const MAX_KEPT: usize = 512 << 10;

impl Unreadable {
    pub(crate) fn new(
        partition: TopicPartition,
        from: i64,
        to: i64,
        batch: &Bytes,
        error: &dyn std::fmt::Display,
    ) -> Self {
        let batch = Bytes::copy_from_slice(batch.get(..MAX_KEPT).unwrap_or(batch));
        let offsets = if to - from == 1 { format!("offset {from}") } else { format!("offsets {from} to {}", to - 1) };
        let reason = format!("{offsets} can't be read: {error}; the value is the batch as it lies on the log");
        Self { partition, from, to, batch, reason }
    }
}

/// How much one poll takes, and how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records at most.
    pub records: usize,
    /// Bytes after which no more records are taken.
    pub bytes: usize,
    /// How long to wait for a first record.
    pub wait: Duration,
    /// How long to fill the batch behind it; zero: with what is there.
    pub linger: Duration,
}
