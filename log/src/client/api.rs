//! Traits and types by which every part reaches the log: batches in, records out.
//!
//! Out: [`BatchProducer`], [`Consumed`], [`Limits`]. Touches nothing.

use std::time::Duration;

use super::error::ClientError;
use crate::native::encode::Records;
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

    /// Number of partitions of a topic, created with `partitions` if it does not exist.
    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError>;
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
