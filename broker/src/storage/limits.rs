//! Topic settings in force, as typed limits that partitions check with every append.
//!
//! In: [`TopicSettings`] over the defaults of the broker. Out: [`Limits`]. Touches nothing.

use std::sync::Arc;

use parking_lot::RwLock;

use super::codec::Codec;
use crate::config::{SettingError, StorageConfig, TopicSettings};

/// The settings in force, as partitions use them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limits {
    /// How batches of clients are stored; `None`: as they come.
    pub codec: Option<Codec>,
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub max_message_bytes: usize,
    /// Bytes that the records of a client's batch may have decompressed: never less than a batch that is not compressed.
    pub max_unpacked_bytes: u64,
    pub before_max_ms: i64,
    pub after_max_ms: i64,
    pub log_append_time: bool,
    pub segment_jitter_ms: i64,
    /// Retention applies.
    pub delete: bool,
    /// Only the last record of each key counts.
    pub compact: bool,
    pub min_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub delete_retention_ms: i64,
    /// Up to this size unread records are kept; `None` for any.
    pub hold_bytes: Option<u64>,
    /// Up to this age unread records are kept; `None` for any.
    pub hold_ms: Option<u64>,
}

impl Limits {
    /// Age at which a new segment is started: sooner where compaction must not wait for the active one.
    pub fn most_segment_ms(&self) -> i64 {
        if self.compact { self.segment_ms.min(self.max_compaction_lag_ms) } else { self.segment_ms }
    }
}

/// The limits that all partitions of a topic look at, changed in one place.
pub(super) type SharedLimits = Arc<RwLock<Arc<Limits>>>;

impl TopicSettings {
    /// Reports what no single setting can say.
    pub(super) fn check(&self, config: &StorageConfig) -> Result<(), SettingError> {
        let Limits { min_compaction_lag_ms: min_ms, max_compaction_lag_ms: max_ms, .. } = self.limits(config);
        if min_ms > max_ms { Err(SettingError::CompactionLag { min_ms, max_ms }) } else { Ok(()) }
    }

    /// Whether old records may go: `cleanup.policy` names `delete`.
    pub fn deletes(&self, config: &StorageConfig) -> bool {
        self.limits(config).delete
    }

    pub(super) fn limits(&self, config: &StorageConfig) -> Limits {
        let text = |name: &str| match self.get(name) {
            Some(value) => value.to_owned(),
            None => Self::spec(name).map(|spec| spec.default(config)).unwrap_or_default(),
        };
        let number = |name: &str| text(name).parse::<i64>().unwrap_or(i64::MAX);
        let limit = |name: &str| u64::try_from(number(name)).ok();
        let level = |name: &str| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let codec = match text("compression.type").as_str() {
            "uncompressed" => Some(Codec::None),
            "gzip" => Some(Codec::Gzip(level("compression.gzip.level"))),
            "snappy" => Some(Codec::Snappy),
            "lz4" => Some(Codec::Lz4(level("compression.lz4.level"))),
            "zstd" => Some(Codec::Zstd(level("compression.zstd.level"))),
            _ => None,
        };
        let has_policy = |policy: &str| text("cleanup.policy").split(',').any(|word| word.trim() == policy);
        let max_message_bytes = usize::try_from(number("max.message.bytes")).unwrap_or(usize::MAX);
        Limits {
            codec,
            retention_ms: limit("retention.ms"),
            retention_bytes: limit("retention.bytes"),
            segment_bytes: limit("segment.bytes").unwrap_or(u64::MAX).min(i32::MAX as u64),
            segment_ms: number("segment.ms"),
            max_message_bytes,
            max_unpacked_bytes: limit("millrace.max.unpacked.bytes").unwrap_or(u64::MAX).max(max_message_bytes as u64),
            before_max_ms: number("message.timestamp.before.max.ms"),
            after_max_ms: number("message.timestamp.after.max.ms"),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            segment_jitter_ms: number("segment.jitter.ms"),
            delete: has_policy("delete"),
            compact: has_policy("compact"),
            min_dirty_ratio: text("min.cleanable.dirty.ratio").parse().unwrap_or(1.0),
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            max_compaction_lag_ms: number("max.compaction.lag.ms"),
            delete_retention_ms: number("delete.retention.ms"),
            hold_bytes: limit("millrace.retention.hold.bytes"),
            hold_ms: limit("millrace.retention.hold.ms"),
        }
    }
}
