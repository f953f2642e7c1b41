//! Topic settings by their Kafka names (`retention.ms`, `cleanup.policy` ...): what values each takes, and its default.
//!
//! In: settings as clients write them. Out: checked values. Touches nothing; the catalog keeps them, and what partitions
//! make of them is in [`crate::storage`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use millrace_log::value::{ByteSize, Span};

/// Why a setting of a topic is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No such setting.
    #[error("unknown topic setting `{0}`")]
    Unknown(String),
    /// Not a value for it.
    #[error("invalid value `{value}` for `{name}`: expected {expected}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is taken.
        expected: String,
    },
    /// Two settings that contradict each other.
    #[error("`min.compaction.lag.ms` ({min_ms}) is more than `max.compaction.lag.ms` ({max_ms})")]
    CompactionLag {
        /// The least age at which records are compacted.
        min_ms: i64,
        /// The age at which they must be.
        max_ms: i64,
    },
}

/// What values a setting takes; the wire has its own codes for these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// A whole number of 32 bits, from this on.
    Int(i64),
    /// A whole number of 32 bits between the first two, or the third.
    Level(i64, i64, i64),
    /// A whole number of 64 bits, from this on.
    Long(i64),
    /// A number between 0 and 1.
    Ratio,
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, joined by commas.
    List(&'static [&'static str]),
}

/// Settings of the broker that topics take where they say nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrokerDefaults {
    pub retention_age: Span,
    pub retention_size: Option<ByteSize>,
    pub segment_size: ByteSize,
    pub segment_age: Span,
    pub max_message_size: ByteSize,
    pub timestamp_before_max: Option<Span>,
    pub timestamp_after_max: Span,
}

/// One setting of a topic.
#[derive(Debug)]
pub struct SettingSpec {
    /// Its Kafka name.
    pub name: &'static str,
    /// What it takes.
    pub kind: SettingKind,
    /// What it does here.
    pub doc: &'static str,
    pub(super) default: fn(&BrokerDefaults) -> String,
}

impl SettingSpec {
    fn check(&'static self, value: &str) -> Result<(), SettingError> {
        let within = |least: i64, most: i64| value.parse::<i64>().is_ok_and(|n| (least..=most).contains(&n));
        let (fits, expected) = match self.kind {
            SettingKind::Int(least) => {
                (within(least, i32::MAX.into()), format!("a number from {least} to {}", i32::MAX))
            }
            SettingKind::Level(least, most, other) => (
                within(least, most) || within(other, other),
                if (least..=most).contains(&other) {
                    format!("a number from {least} to {most}")
                } else {
                    format!("a number from {least} to {most}, or {other}")
                },
            ),
            SettingKind::Long(least) => (within(least, i64::MAX), format!("a number of at least {least}")),
            SettingKind::Ratio => {
                (value.parse::<f64>().is_ok_and(|n| (0.0..=1.0).contains(&n)), "a number from 0 to 1".to_owned())
            }
            SettingKind::Bool => (matches!(value, "true" | "false"), "`true` or `false`".to_owned()),
            SettingKind::Word(words) => (words.contains(&value), format!("one of {}", words.join(", "))),
            SettingKind::List(words) => {
                let known = value.split(',').all(|word| words.contains(&word.trim()));
                (known, format!("a list of {}", words.join(", ")))
            }
        };
        if fits { Ok(()) } else { Err(SettingError::Value { name: self.name, value: value.to_owned(), expected }) }
    }
}

fn span_ms(span: Span) -> String {
    i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX).to_string()
}

/// All settings, sorted by name. Kafka's settings that mean nothing without replication, mapped indexes or tiers are kept and
/// shown, so that tools which set them go on.
pub const SETTINGS: &[SettingSpec] = &[
    SettingSpec {
        name: "cleanup.policy",
        kind: SettingKind::List(&["compact", "delete"]),
        doc: "`delete` applies retention, `compact` keeps the last record of each key; both may be given",
        default: |_| "delete".to_owned(),
    },
    SettingSpec {
        name: "compression.gzip.level",
        kind: SettingKind::Level(1, 9, -1),
        doc: "compression level where compression.type is gzip",
        default: |_| "-1".to_owned(),
    },
    SettingSpec {
        name: "compression.lz4.level",
        kind: SettingKind::Level(1, 17, 9),
        doc: "compression level where compression.type is lz4",
        default: |_| "9".to_owned(),
    },
    SettingSpec {
        name: "compression.type",
        kind: SettingKind::Word(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        doc: "`producer` stores batches as sent; with any other value, batches sent with another codec are recompressed",
        default: |_| "producer".to_owned(),
    },
    SettingSpec {
        name: "compression.zstd.level",
        kind: SettingKind::Level(-131_072, 22, 3),
        doc: "compression level where compression.type is zstd",
        default: |_| "3".to_owned(),
    },
    SettingSpec {
        name: "delete.retention.ms",
        kind: SettingKind::Long(0),
        doc: "how long compaction keeps a tombstone after it has first seen it",
        default: |_| "86400000".to_owned(),
    },
    SettingSpec {
        name: "file.delete.delay.ms",
        kind: SettingKind::Long(0),
        doc: "accepted, without effect: readers hold the file they read",
        default: |_| "60000".to_owned(),
    },
    SettingSpec {
        name: "flush.messages",
        kind: SettingKind::Long(1),
        doc: "accepted, without effect: see `flush` of the broker",
        default: |_| i64::MAX.to_string(),
    },
    SettingSpec {
        name: "flush.ms",
        kind: SettingKind::Long(0),
        doc: "accepted, without effect: see `flush` of the broker",
        default: |_| i64::MAX.to_string(),
    },
    SettingSpec {
        name: "index.interval.bytes",
        kind: SettingKind::Int(0),
        doc: "accepted, without effect: an entry about every 4096 bytes",
        default: |_| "4096".to_owned(),
    },
    SettingSpec {
        name: "max.compaction.lag.ms",
        kind: SettingKind::Long(1),
        doc: "age of a record at which compaction is due whatever the share of new records",
        default: |_| i64::MAX.to_string(),
    },
    SettingSpec {
        name: "max.message.bytes",
        kind: SettingKind::Int(0),
        doc: "largest record batch accepted",
        default: |c| c.max_message_size.0.to_string(),
    },
    SettingSpec {
        name: "message.timestamp.after.max.ms",
        kind: SettingKind::Long(0),
        doc: "how far in the future the timestamp of a record may lie",
        default: |c| span_ms(c.timestamp_after_max),
    },
    SettingSpec {
        name: "message.timestamp.before.max.ms",
        kind: SettingKind::Long(0),
        doc: "how far in the past the timestamp of a record may lie",
        default: |c| c.timestamp_before_max.map_or_else(|| i64::MAX.to_string(), span_ms),
    },
    SettingSpec {
        name: "message.timestamp.type",
        kind: SettingKind::Word(&["CreateTime", "LogAppendTime"]),
        doc: "whether a record carries the time of its producer or of its append",
        default: |_| "CreateTime".to_owned(),
    },
    SettingSpec {
        name: "millrace.retention.hold.bytes",
        kind: SettingKind::Long(-1),
        doc: "size of a partition up to which retention keeps records that a group has not read; 0: never; -1: any size",
        default: |_| "0".to_owned(),
    },
    SettingSpec {
        name: "millrace.retention.hold.ms",
        kind: SettingKind::Long(-1),
        doc: "age up to which retention keeps records that a group has not read; -1: any age",
        default: |_| "-1".to_owned(),
    },
    SettingSpec {
        name: "min.cleanable.dirty.ratio",
        kind: SettingKind::Ratio,
        doc: "share of records not compacted yet at which compaction is due",
        default: |_| "0.5".to_owned(),
    },
    SettingSpec {
        name: "min.compaction.lag.ms",
        kind: SettingKind::Long(0),
        doc: "age below which a record is not compacted",
        default: |_| "0".to_owned(),
    },
    SettingSpec {
        name: "min.insync.replicas",
        kind: SettingKind::Int(1),
        doc: "accepted, without effect: there is one replica",
        default: |_| "1".to_owned(),
    },
    SettingSpec {
        name: "preallocate",
        kind: SettingKind::Bool,
        doc: "accepted, without effect",
        default: |_| "false".to_owned(),
    },
    SettingSpec {
        name: "retention.bytes",
        kind: SettingKind::Long(-1),
        doc: "size of a partition above which its oldest segments are deleted; -1: no limit",
        default: |c| c.retention_size.map_or_else(|| "-1".to_owned(), |size| size.0.to_string()),
    },
    SettingSpec {
        name: "retention.ms",
        kind: SettingKind::Long(-1),
        doc: "age at which a segment is deleted; -1: never",
        default: |c| span_ms(c.retention_age),
    },
    SettingSpec {
        name: "segment.bytes",
        kind: SettingKind::Int(1024),
        doc: "size at which a new segment is started",
        default: |c| c.segment_size.0.to_string(),
    },
    SettingSpec {
        name: "segment.index.bytes",
        kind: SettingKind::Int(4),
        doc: "accepted, without effect: indexes grow as needed",
        default: |_| "10485760".to_owned(),
    },
    SettingSpec {
        name: "segment.jitter.ms",
        kind: SettingKind::Long(0),
        doc: "random time by which segment.ms is shortened, so that segments of many partitions are not started at the same time",
        default: |_| "0".to_owned(),
    },
    SettingSpec {
        name: "segment.ms",
        kind: SettingKind::Long(1),
        doc: "age at which a new segment is started",
        default: |c| span_ms(c.segment_age),
    },
    SettingSpec {
        name: "unclean.leader.election.enable",
        kind: SettingKind::Bool,
        doc: "accepted, without effect: there is one replica",
        default: |_| "false".to_owned(),
    },
];

/// Settings of a topic that differ from the defaults: Kafka's names and checked values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicSettings(BTreeMap<String, String>);

impl TopicSettings {
    /// Takes pairs as a client sends them.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        for (name, value) in pairs {
            settings.set(name.as_ref(), value.as_ref())?;
        }
        Ok(settings)
    }

    /// Sets one, checked.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let spec = Self::spec(name).ok_or_else(|| SettingError::Unknown(name.to_owned()))?;
        spec.check(value)?;
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Back to the default.
    pub fn unset(&mut self, name: &str) -> Result<(), SettingError> {
        Self::spec(name).ok_or_else(|| SettingError::Unknown(name.to_owned()))?;
        self.0.remove(name);
        Ok(())
    }

    /// What was set, `None` for the default.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All that was set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The description of a setting.
    pub fn spec(name: &str) -> Option<&'static SettingSpec> {
        SETTINGS.iter().find(|spec| spec.name == name)
    }

    /// Whether its batches may be compressed with zstd by the broker, which older consumers can't read.
    pub fn wants_zstd(&self) -> bool {
        self.get("compression.type") == Some("zstd")
    }
}
