//! Configuration of the partitioned log: retention, segments, flush policy, threads; and the settings of topics.
//!
//! In: the section `broker` of the configuration. Out: typed settings with their defaults. Touches nothing.

/// Settings of topics by their Kafka names.
mod topic_settings;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use millrace_log::value::{ByteSize, Faults, Span};
use topic_settings::BrokerDefaults;
pub use topic_settings::{SETTINGS, SettingError, SettingKind, SettingSpec, TopicSettings};

/// How long records are kept: the section `broker.retention`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Records older than this are deleted, a segment at a time (`retention.ms`).
    pub age: Span,
    /// Size of a partition above which its oldest segments are deleted (`retention.bytes`). Absent: no limit.
    pub size: Option<ByteSize>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { age: Span::secs(7 * 24 * 3600), size: None }
    }
}

/// When appended data is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlushPolicy {
    /// Before `acks=all` is answered and before consumers see it; one fsync serves all that wait.
    #[default]
    Always,
    /// Every `flush_interval`; a power cut may lose that much of what was acknowledged.
    Interval,
    /// Whenever the operating system does; a power cut may lose some 30 s of what was acknowledged.
    Os,
}

/// Segment storage of the embedded log. Settings of a topic by their Kafka names override these.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// When appended data is forced to disk: `always`, `interval` or `os`.
    pub flush: FlushPolicy,
    /// Time between two flushes with `flush: interval`.
    pub flush_interval: Span,
    /// Taken from [`RetentionConfig::age`].
    #[serde(skip)]
    pub retention_age: Span,
    /// Taken from [`RetentionConfig::size`].
    #[serde(skip)]
    pub retention_size: Option<ByteSize>,
    /// Taken from `broker.default_topic_config`.
    #[serde(skip)]
    pub topic_defaults: TopicSettings,
    /// Time between two checks of retention.
    pub retention_check_interval: Span,
    /// Size at which a new segment is started (`segment.bytes`), at most 2 GiB less one byte.
    pub segment_size: ByteSize,
    /// Age at which a new segment is started (`segment.ms`).
    pub segment_age: Span,
    /// Largest record batch accepted (`max.message.bytes`).
    pub max_message_size: ByteSize,
    /// Most bytes that the records of a batch may have decompressed (`millrace.max.unpacked.bytes`); if less than
    /// `max_message_size`, that applies. Larger batches are refused: clients that can split a batch send it in parts.
    pub max_unpacked_size: ByteSize,
    /// How far in the past the timestamp of a record may lie (`message.timestamp.before.max.ms`). Absent: any time.
    pub timestamp_before_max: Option<Span>,
    /// How far in the future the timestamp of a record may lie (`message.timestamp.after.max.ms`).
    pub timestamp_after_max: Span,
    /// Time after which an idle idempotent producer is forgotten.
    pub producer_expiry: Span,
    /// Threads that append, flush and delete.
    pub write_threads: usize,
    /// Threads that read for consumers, apart from those that write, so that a slow reader holds up nobody.
    pub read_threads: usize,
    /// Time between two checks for partitions to compact (`log.cleaner.backoff.ms`).
    pub cleaner_interval: Span,
    /// Memory for keys while partitions are compacted (`log.cleaner.dedupe.buffer.size`); 24 bytes a key. With less than
    /// a partition needs, it takes several passes.
    pub cleaner_memory: ByteSize,
    /// Threads that compact.
    pub cleaner_threads: usize,
    /// Appends and reads that may wait for a thread before callers are blocked.
    pub queue: usize,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            flush: FlushPolicy::Always,
            flush_interval: Span::secs(1),
            retention_age: Span::secs(7 * 24 * 3600),
            retention_size: None,
            topic_defaults: TopicSettings::default(),
            retention_check_interval: Span::secs(60),
            segment_size: ByteSize::mib(256),
            segment_age: Span::secs(7 * 24 * 3600),
            max_message_size: ByteSize(1_048_588),
            max_unpacked_size: ByteSize::mib(64),
            timestamp_before_max: None,
            timestamp_after_max: Span::secs(3600),
            producer_expiry: Span::secs(24 * 3600),
            write_threads: 4,
            read_threads: 4,
            cleaner_interval: Span::secs(15),
            cleaner_memory: ByteSize::mib(64),
            cleaner_threads: 1,
            queue: 1024,
        }
    }
}

impl StorageConfig {
    /// What topics take where they say nothing.
    fn broker_defaults(&self) -> BrokerDefaults {
        BrokerDefaults {
            retention_age: self.retention_age,
            retention_size: self.retention_size,
            segment_size: self.segment_size,
            segment_age: self.segment_age,
            max_message_size: self.max_message_size,
            max_unpacked_size: self.max_unpacked_size,
            timestamp_before_max: self.timestamp_before_max,
            timestamp_after_max: self.timestamp_after_max,
        }
    }

    /// Reports what the types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (key, span) in [
            ("flush_interval", self.flush_interval),
            ("retention_check_interval", self.retention_check_interval),
            ("cleaner_interval", self.cleaner_interval),
            ("segment_age", self.segment_age),
        ] {
            if span.0.is_zero() {
                faults.add(key, "must be longer than zero, e.g. `1s`");
            }
        }
        if !(1 << 20..=i32::MAX as u64).contains(&self.segment_size.0) {
            faults
                .add("segment_size", format!("is {}: must lie between 1MiB and 2GiB less one byte", self.segment_size));
        }
        if self.max_message_size.0 > self.segment_size.0 {
            let message = format!(
                "is {}: must not exceed segment_size ({}), as a batch never spans two segments",
                self.max_message_size, self.segment_size
            );
            faults.add("max_message_size", message);
        }
        if self.max_unpacked_size < ByteSize::mib(1) {
            faults.add("max_unpacked_size", format!("is {}: must be at least 1MiB", self.max_unpacked_size));
        }
        if self.cleaner_memory < ByteSize::mib(1) {
            faults.add("cleaner_memory", format!("is {}: must be at least 1MiB", self.cleaner_memory));
        }
        for (key, count) in [
            ("write_threads", self.write_threads),
            ("read_threads", self.read_threads),
            ("cleaner_threads", self.cleaner_threads),
            ("queue", self.queue),
        ] {
            if count == 0 {
                faults.add(key, "must be at least 1");
            }
        }
    }
}

impl SettingSpec {
    /// The value where a topic says nothing.
    pub fn default(&self, config: &StorageConfig) -> String {
        match config.topic_defaults.get(self.name) {
            Some(value) => value.to_owned(),
            None => (self.default)(&config.broker_defaults()),
        }
    }
}

impl TopicSettings {
    /// Every setting with the value in force and whether the topic set it itself.
    pub fn describe(&self, config: &StorageConfig) -> Vec<(&'static SettingSpec, String, bool)> {
        SETTINGS
            .iter()
            .map(|spec| match self.get(spec.name) {
                Some(value) => (spec, value.to_owned(), true),
                None => (spec, spec.default(config), false),
            })
            .collect()
    }
}
