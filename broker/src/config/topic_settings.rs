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
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// An invalid value; the text is Kafka's.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The value as given.
        value: String,
        /// Which values are valid.
        reason: String,
    },
    /// Tiered storage, which this broker does not have.
    #[error(
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
    )]
    TieredStorage,
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
    /// Any of these words, or none, joined by commas.
    List(&'static [&'static str]),
    /// `*`, or replicas as `PARTITION:BROKER` joined by commas, or none.
    Replicas,
}

/// Settings of the broker that topics take where they say nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrokerDefaults {
    pub retention_age: Span,
    pub retention_size: Option<ByteSize>,
    pub segment_size: ByteSize,
    pub segment_age: Span,
    pub max_message_size: ByteSize,
    pub max_unpacked_size: ByteSize,
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
    /// Checks a value; gives it as it is kept: without spaces around it.
    fn check(&'static self, value: &str) -> Result<String, SettingError> {
        let trimmed = value.trim();
        let invalid =
            |value: &str, reason: String| Err(SettingError::Value { name: self.name, value: value.to_owned(), reason });
        let number = |kind: &str, most: i64, fits: &dyn Fn(i64) -> Result<(), String>| match trimmed.parse::<i64>() {
            Ok(n) if (-most - 1..=most).contains(&n) => match fits(n) {
                Ok(()) => Ok(n.to_string()),
                Err(reason) => invalid(trimmed, reason),
            },
            _ => invalid(value, format!("Not a number of type {kind}")),
        };
        let at_least =
            |least: i64| move |n: i64| if n < least { Err(format!("Value must be at least {least}")) } else { Ok(()) };
        match self.kind {
            SettingKind::Int(least) => number("INT", i32::MAX.into(), &at_least(least)),
            SettingKind::Long(least) => number("LONG", i64::MAX, &at_least(least)),
            SettingKind::Level(least, most, other) => number("INT", i32::MAX.into(), &|n| {
                if (least..=most).contains(&n) || n == other {
                    return Ok(());
                }
                let text = format!("Value must be between {least} and {most}");
                Err(if (least..=most).contains(&other) { text } else { format!("{text} or equal to {other}") })
            }),
            SettingKind::Ratio => match trimmed.parse::<f64>() {
                Ok(n) if n < 0.0 => invalid(trimmed, "Value must be at least 0".to_owned()),
                Ok(n) if n > 1.0 => invalid(trimmed, "Value must be no more than 1".to_owned()),
                Ok(n) if n.is_finite() => Ok(trimmed.to_owned()),
                _ => invalid(value, "Not a number of type DOUBLE".to_owned()),
            },
            SettingKind::Bool => match trimmed.to_ascii_lowercase() {
                word if matches!(word.as_str(), "true" | "false") => Ok(word),
                _ => invalid(value, "Expected value to be either true or false".to_owned()),
            },
            SettingKind::Word(words) if words.contains(&trimmed) => Ok(trimmed.to_owned()),
            SettingKind::Word(words) => invalid(value, format!("String must be one of: {}", words.join(", "))),
            SettingKind::List(words) => match list(trimmed).iter().find(|word| !words.contains(word)) {
                Some(word) => invalid(word, format!("String must be one of: {}", words.join(", "))),
                None => Ok(trimmed.to_owned()),
            },
            SettingKind::Replicas => {
                let replicas = list(trimmed);
                let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                let is_replica = |word: &&str| word.split_once(':').is_some_and(|(p, b)| is_number(p) && is_number(b));
                if trimmed == "*" || replicas.iter().all(is_replica) {
                    return Ok(trimmed.to_owned());
                }
                let reason = format!(
                    "{} must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                    self.name
                );
                invalid(&format!("[{}]", replicas.join(", ")), reason)
            }
        }
    }

    /// Whether it is a list, which can be extended and shortened.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, SettingKind::List(_) | SettingKind::Replicas)
    }
}

/// Elements of a list as Kafka splits it; an empty text is an empty list.
fn list(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() }
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
        name: "follower.replication.throttled.replicas",
        kind: SettingKind::Replicas,
        doc: "accepted, without effect: there is one replica",
        default: |_| "".to_owned(),
    },
    SettingSpec {
        name: "index.interval.bytes",
        kind: SettingKind::Int(0),
        doc: "accepted, without effect: an entry about every 4096 bytes",
        default: |_| "4096".to_owned(),
    },
    SettingSpec {
        name: "leader.replication.throttled.replicas",
        kind: SettingKind::Replicas,
        doc: "accepted, without effect: there is one replica",
        default: |_| "".to_owned(),
    },
    SettingSpec {
        name: "local.retention.bytes",
        kind: SettingKind::Long(-2),
        doc: "accepted, without effect: there is no tiered storage",
        default: |_| "-2".to_owned(),
    },
    SettingSpec {
        name: "local.retention.ms",
        kind: SettingKind::Long(-2),
        doc: "accepted, without effect: there is no tiered storage",
        default: |_| "-2".to_owned(),
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
        name: "millrace.max.unpacked.bytes",
        kind: SettingKind::Long(1),
        doc: "most bytes that the records of a batch may have decompressed; at least `max.message.bytes` applies",
        default: |c| c.max_unpacked_size.0.to_string(),
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
        name: "remote.log.copy.disable",
        kind: SettingKind::Bool,
        doc: "accepted, without effect: there is no tiered storage",
        default: |_| "false".to_owned(),
    },
    SettingSpec {
        name: "remote.log.delete.on.disable",
        kind: SettingKind::Bool,
        doc: "accepted, without effect: there is no tiered storage",
        default: |_| "false".to_owned(),
    },
    SettingSpec {
        name: "remote.storage.enable",
        kind: SettingKind::Bool,
        doc: "only `false`: there is no tiered storage",
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
        let value = spec.check(value)?;
        if name == "remote.storage.enable" && value == "true" {
            return Err(SettingError::TieredStorage);
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// Back to the default; a name that is unknown, or not set, changes nothing.
    pub fn unset(&mut self, name: &str) {
        self.0.remove(name);
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
