//! Settings of single groups (resource type GROUP of Kafka's configurations).
//!
//! In: names and values. Out: what a group is held to. Touches the log through the coordinator: a setting is durable
//! when the call returns. A group may have settings before it has members.

use std::collections::BTreeMap;

use super::config::GroupConfig;
use super::consumer::Rules;
use super::coordinator::Coordinator;
use super::error::GroupError;
use super::offsets::OffsetsEntry;
use super::records::GroupRecord;

/// Time without heartbeats after which a member is taken for dead.
pub const SESSION_TIMEOUT: &str = "consumer.session.timeout.ms";
/// Time between heartbeats that members are given.
pub const HEARTBEAT_INTERVAL: &str = "consumer.heartbeat.interval.ms";

/// What a group is held to, and which of it was set for this group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// [`SESSION_TIMEOUT`].
    pub session_ms: i32,
    /// [`HEARTBEAT_INTERVAL`].
    pub heartbeat_ms: i32,
}

/// Settings of share and streams groups: kept and described as Kafka does, without effect.
struct OtherSetting {
    name: &'static str,
    default: &'static str,
    values: OtherValues,
    doc: &'static str,
}

/// What such a setting takes.
enum OtherValues {
    /// A number of at least the first (Kafka's validator), within the bounds of a broker's settings.
    Number(i32, (i32, &'static str), (i32, &'static str)),
    /// `earliest`, `latest` or `by_duration:PT1H`.
    OffsetReset,
    /// One of these.
    Word(&'static [&'static str]),
}

const OTHER_SETTINGS: [OtherSetting; 8] = [
    OtherSetting {
        name: "share.auto.offset.reset",
        default: "latest",
        values: OtherValues::OffsetReset,
        doc: "accepted, without effect: share groups are not served",
    },
    OtherSetting {
        name: "share.heartbeat.interval.ms",
        default: "5000",
        values: OtherValues::Number(
            1,
            (5000, "group.share.min.heartbeat.interval.ms"),
            (15_000, "group.share.max.heartbeat.interval.ms"),
        ),
        doc: "accepted, without effect: share groups are not served",
    },
    OtherSetting {
        name: "share.isolation.level",
        default: "read_uncommitted",
        values: OtherValues::Word(&["read_committed", "read_uncommitted"]),
        doc: "accepted, without effect: share groups are not served",
    },
    OtherSetting {
        name: "share.record.lock.duration.ms",
        default: "30000",
        values: OtherValues::Number(
            1000,
            (15_000, "group.share.min.record.lock.duration.ms"),
            (60_000, "group.share.max.record.lock.duration.ms"),
        ),
        doc: "accepted, without effect: share groups are not served",
    },
    OtherSetting {
        name: "share.session.timeout.ms",
        default: "45000",
        values: OtherValues::Number(
            1,
            (45_000, "group.share.min.session.timeout.ms"),
            (60_000, "group.share.max.session.timeout.ms"),
        ),
        doc: "accepted, without effect: share groups are not served",
    },
    OtherSetting {
        name: "streams.heartbeat.interval.ms",
        default: "5000",
        values: OtherValues::Number(
            1,
            (5000, "group.streams.min.heartbeat.interval.ms"),
            (15_000, "group.streams.max.heartbeat.interval.ms"),
        ),
        doc: "accepted, without effect: streams groups are not served",
    },
    OtherSetting {
        name: "streams.num.standby.replicas",
        default: "0",
        values: OtherValues::Number(0, (0, ""), (2, "group.streams.max.standby.replicas")),
        doc: "accepted, without effect: streams groups are not served",
    },
    OtherSetting {
        name: "streams.session.timeout.ms",
        default: "45000",
        values: OtherValues::Number(
            1,
            (45_000, "group.streams.min.session.timeout.ms"),
            (60_000, "group.streams.max.session.timeout.ms"),
        ),
        doc: "accepted, without effect: streams groups are not served",
    },
];

/// Whether a text is a duration as `java.time.Duration` reads it, and not negative.
fn is_duration(text: &str) -> bool {
    let pattern = regex::Regex::new(r"(?i)^P(\d+D)?(T(\d+H)?(\d+M)?(\d+([.,]\d{0,9})?S)?)?$");
    pattern.is_ok_and(|p| p.is_match(text)) && text.bytes().any(|b| b.is_ascii_digit()) && !text.ends_with(['T', 't'])
}

impl OtherSetting {
    fn check(&self, value: &str) -> Result<(), String> {
        let name = self.name;
        let invalid = |reason: &str| Err(format!("Invalid value {value} for configuration {name}: {reason}"));
        match self.values {
            OtherValues::Number(at_least, (least, least_name), (most, most_name)) => {
                let value = number(name, value)?;
                if value < at_least {
                    return invalid(&format!("Value must be at least {at_least}"));
                }
                if value < least {
                    return Err(format!("{name} must be greater than or equal to {least_name}"));
                }
                if value > most {
                    return Err(format!("{name} must be less than or equal to {most_name}"));
                }
                Ok(())
            }
            OtherValues::OffsetReset => {
                let is_after = value.strip_prefix("by_duration:").is_some_and(is_duration);
                if matches!(value, "earliest" | "latest") || is_after {
                    return Ok(());
                }
                invalid(&format!(
                    "Invalid value `{value}` for configuration {name}. The value must be either 'earliest', 'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'."
                ))
            }
            OtherValues::Word(words) if words.contains(&value) => Ok(()),
            OtherValues::Word(words) => invalid(&format!("String must be one of: {}", words.join(", "))),
        }
    }
}

pub(super) fn number(name: &str, value: &str) -> Result<i32, String> {
    value
        .trim()
        .parse()
        .map_err(|_| format!("Invalid value {value} for configuration {name}: Not a number of type INT"))
}

impl Settings {
    /// Reads settings by name over those of the broker; refuses names it does not know and values out of bounds.
    pub fn of(pairs: &BTreeMap<String, String>, config: &GroupConfig) -> Result<Self, String> {
        let ms = |span: millrace_log::value::Span| i32::try_from(span.0.as_millis()).unwrap_or(i32::MAX);
        let mut settings = Self {
            session_ms: ms(config.consumer_session_timeout),
            heartbeat_ms: ms(config.consumer_heartbeat_interval),
        };
        for (name, value) in pairs {
            let (field, least, most, least_name, most_name) = match name.as_str() {
                SESSION_TIMEOUT => (
                    &mut settings.session_ms,
                    ms(config.consumer_min_session_timeout),
                    ms(config.consumer_max_session_timeout),
                    "group.consumer.min.session.timeout.ms",
                    "group.consumer.max.session.timeout.ms",
                ),
                HEARTBEAT_INTERVAL => (
                    &mut settings.heartbeat_ms,
                    ms(config.consumer_min_heartbeat_interval),
                    ms(config.consumer_max_heartbeat_interval),
                    "group.consumer.min.heartbeat.interval.ms",
                    "group.consumer.max.heartbeat.interval.ms",
                ),
                other => match OTHER_SETTINGS.iter().find(|setting| setting.name == other) {
                    Some(setting) => {
                        setting.check(value)?;
                        continue;
                    }
                    None => return Err(format!("Unknown group config name: {name}")),
                },
            };
            let value = number(name, value)?;
            if value < least {
                return Err(format!("{name} must be greater than or equal to {least_name}"));
            }
            if value > most {
                return Err(format!("{name} must be less than or equal to {most_name}"));
            }
            *field = value;
        }
        if settings.session_ms <= settings.heartbeat_ms {
            return Err(format!("{SESSION_TIMEOUT} must be greater than {HEARTBEAT_INTERVAL}"));
        }
        Ok(settings)
    }
}

impl Coordinator {
    /// What a group is held to.
    pub fn settings_of(&self, group: &str) -> Settings {
        let set = self.settings.lock();
        let none = BTreeMap::new();
        let own = set.get(group).and_then(|pairs| Settings::of(pairs, &self.config).ok());
        own.or_else(|| Settings::of(&none, &self.config).ok())
            .unwrap_or(Settings { session_ms: 45_000, heartbeat_ms: 5_000 })
    }

    /// Every setting of a group by name: its value, whether it is a number, what it does.
    pub fn describe_settings(&self, group: &str) -> Vec<(&'static str, String, bool, &'static str)> {
        let (settings, set) = (self.settings_of(group), self.set_settings_of(group));
        let own = [
            (HEARTBEAT_INTERVAL, settings.heartbeat_ms, "heartbeat interval that members are given"),
            (SESSION_TIMEOUT, settings.session_ms, "time without a heartbeat after which a member is removed"),
        ];
        let own = own.into_iter().map(|(name, value, doc)| (name, value.to_string(), true, doc));
        let others = OTHER_SETTINGS.iter().map(|other| {
            let value = set.get(other.name).cloned().unwrap_or_else(|| other.default.to_owned());
            (other.name, value, matches!(other.values, OtherValues::Number(..)), other.doc)
        });
        own.chain(others).collect()
    }

    /// What was set for a group, by name.
    pub fn set_settings_of(&self, group: &str) -> BTreeMap<String, String> {
        self.settings.lock().get(group).cloned().unwrap_or_default()
    }

    /// Names of groups for which something was set, sorted.
    pub fn groups_with_settings(&self) -> Vec<String> {
        let mut names: Vec<String> = self.settings.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// Replaces what is set for a group; durable when it returns. The inner error is the caller's.
    pub async fn set_settings(
        &self,
        group: &str,
        pairs: BTreeMap<String, String>,
        is_trial: bool,
    ) -> Result<Result<(), String>, GroupError> {
        if let Err(reason) = Settings::of(&pairs, &self.config) {
            return Ok(Err(reason));
        }
        if is_trial {
            return Ok(Ok(()));
        }
        let value = (!pairs.is_empty()).then(|| pairs.clone().into_iter().collect());
        self.write(
            group,
            vec![OffsetsEntry::Consumer { group: group.to_owned(), record: GroupRecord::Settings(value) }],
        )
        .await?;
        self.take_settings(group, pairs);
        Ok(Ok(()))
    }

    pub(super) fn take_settings(&self, group: &str, pairs: BTreeMap<String, String>) {
        let mut set = self.settings.lock();
        if pairs.is_empty() {
            set.remove(group);
        } else {
            set.insert(group.to_owned(), pairs);
        }
    }

    /// What members of a group of the consumer protocol are held to.
    pub(super) fn rules(&self, group: &str) -> Rules {
        let settings = self.settings_of(group);
        Rules {
            session_ms: i64::from(settings.session_ms),
            heartbeat_ms: settings.heartbeat_ms,
            max_members: self.config.max_members,
        }
    }
}
