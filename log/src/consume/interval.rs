//! Intervals of partitions: what was consumed, and holes that could not be.
//!
//! In: positions of a consumer. Out: values that catalogs store and ledgers show. Touches nothing.

use std::sync::Arc;

use crate::record::TopicPartition;
use crate::topic_id::TopicId;
use serde::{Deserialize, Serialize};

/// A stretch of one partition: offsets [from, to).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The partition's topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Which life of the partition: rises when its offsets start anew.
    pub epoch: u64,
    /// First offset.
    pub from: i64,
    /// Offset behind the last.
    pub to: i64,
    /// The id of the topic in this life, where the log has ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<TopicId>,
}

impl Interval {
    /// Its partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), self.partition)
    }
}

/// Why a stretch of the log could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoleCause {
    /// The log's retention removed it before it was read.
    Retention,
    /// Its records are damaged, or decompress to more than a batch may.
    Unreadable,
}

/// A stretch of the log that was gone before it could be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// Which offsets.
    pub interval: Interval,
    /// Why.
    pub cause: HoleCause,
    /// When it was found, ms since 1970.
    pub found_ms: i64,
}
