//! Configuration of consumer groups: sessions, sizes, migration between the protocols, how long offsets are kept.
//!
//! In: the section `broker.group`. Out: typed settings with their defaults. Touches nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classic::Limits;
use millrace_log::value::{Faults, Span};

/// Which groups may change from one protocol to the other while they have members (`group.consumer.migration.policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MigrationPolicy {
    /// Both ways.
    #[default]
    Bidirectional,
    /// Classic groups become consumer groups when a member of the consumer protocol joins.
    Upgrade,
    /// Consumer groups become classic ones when the last member of the consumer protocol leaves.
    Downgrade,
    /// None.
    Disabled,
}

impl MigrationPolicy {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bidirectional => "bidirectional",
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::Disabled => "disabled",
        }
    }
}

/// Consumer groups.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// How long the first rebalance of an empty group waits for more members (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay: Span,
    /// Shortest session that members may ask for (`group.min.session.timeout.ms`).
    pub min_session_timeout: Span,
    /// Longest session that members may ask for (`group.max.session.timeout.ms`).
    pub max_session_timeout: Span,
    /// Most members in a group (`group.max.size`).
    pub max_members: usize,
    /// Session of members of the consumer protocol (`group.consumer.session.timeout.ms`); a group may say otherwise.
    pub consumer_session_timeout: Span,
    /// Shortest session that a group may be set to (`group.consumer.min.session.timeout.ms`).
    pub consumer_min_session_timeout: Span,
    /// Longest session that a group may be set to (`group.consumer.max.session.timeout.ms`).
    pub consumer_max_session_timeout: Span,
    /// Time between heartbeats of the consumer protocol (`group.consumer.heartbeat.interval.ms`).
    pub consumer_heartbeat_interval: Span,
    /// Shortest interval that a group may be set to (`group.consumer.min.heartbeat.interval.ms`).
    pub consumer_min_heartbeat_interval: Span,
    /// Longest interval that a group may be set to (`group.consumer.max.heartbeat.interval.ms`).
    pub consumer_max_heartbeat_interval: Span,
    /// Which groups may change from one protocol to the other while they have members: `bidirectional`, `upgrade` (to
    /// the consumer protocol), `downgrade` or `disabled` (`group.consumer.migration.policy`).
    pub migration_policy: MigrationPolicy,
    /// Time after which offsets of a group without members are forgotten (`offsets.retention.minutes`).
    pub offsets_retention: Span,
    /// Longest note with a commit, in bytes (`offset.metadata.max.bytes`).
    pub max_commit_metadata_bytes: usize,
    /// Size of a partition of `__consumer_offsets` at which it is compacted.
    pub compact_at: millrace_log::value::ByteSize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay: Span::secs(0),
            min_session_timeout: Span::secs(6),
            max_session_timeout: Span::secs(1800),
            max_members: 2000,
            consumer_session_timeout: Span::secs(45),
            consumer_min_session_timeout: Span::secs(45),
            consumer_max_session_timeout: Span::secs(60),
            consumer_heartbeat_interval: Span::secs(5),
            consumer_min_heartbeat_interval: Span::secs(5),
            consumer_max_heartbeat_interval: Span::secs(15),
            migration_policy: MigrationPolicy::Bidirectional,
            offsets_retention: Span::secs(7 * 24 * 3600),
            max_commit_metadata_bytes: 4096,
            compact_at: millrace_log::value::ByteSize::mib(32),
        }
    }
}

impl GroupConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.min_session_timeout > self.max_session_timeout {
            let message = format!("is longer than max_session_timeout ({})", self.max_session_timeout);
            faults.add("min_session_timeout", message);
        }
        for (key, least, value, most) in [
            (
                "consumer_session_timeout",
                self.consumer_min_session_timeout,
                self.consumer_session_timeout,
                self.consumer_max_session_timeout,
            ),
            (
                "consumer_heartbeat_interval",
                self.consumer_min_heartbeat_interval,
                self.consumer_heartbeat_interval,
                self.consumer_max_heartbeat_interval,
            ),
        ] {
            if !(least..=most).contains(&value) {
                faults.add(key, format!("is {value}: must lie between its min ({least}) and its max ({most})"));
            }
        }
        if self.consumer_heartbeat_interval >= self.consumer_session_timeout {
            let message = format!("must be shorter than consumer_session_timeout ({})", self.consumer_session_timeout);
            faults.add("consumer_heartbeat_interval", message);
        }
        if self.max_members == 0 {
            faults.add("max_members", "must be at least 1");
        }
        if self.offsets_retention.0.is_zero() {
            faults.add("offsets_retention", "must be longer than zero, e.g. `7d`");
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let ms = |span: Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
        let short = |span: Span| i32::try_from(ms(span)).unwrap_or(i32::MAX);
        Limits {
            initial_rebalance_delay_ms: ms(self.initial_rebalance_delay),
            min_session_ms: short(self.min_session_timeout),
            max_session_ms: short(self.max_session_timeout),
            max_members: self.max_members,
        }
    }
}
