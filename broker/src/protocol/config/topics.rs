//! Declared topics: the ones that the configuration names, and defaults of topic settings.
//!
//! In: `broker.topics` and `broker.default_topic_config`. Out: typed settings, faults with the path of their key. Touches
//! nothing: they are put in force in [`crate::protocol::declared_topics`].

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::protocol::internal_topics::is_internal;
use crate::storage::{SETTINGS, SettingError, TopicSettings};
use millrace_log::record::is_topic_name;
use millrace_log::value::Faults;

/// Settings of topics by Kafka's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfiguredSettings(pub BTreeMap<String, String>);

impl JsonSchema for ConfiguredSettings {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TopicSettings".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let known: serde_json::Map<String, serde_json::Value> = SETTINGS
            .iter()
            .map(|spec| (spec.name.to_owned(), serde_json::json!({"type": "string", "description": spec.doc})))
            .collect();
        json_schema!({"type": "object", "properties": known, "additionalProperties": false})
    }
}

impl ConfiguredSettings {
    /// As storage takes them; what it does not take is left out here and reported by [`Self::check`].
    pub(crate) fn typed(&self) -> TopicSettings {
        let mut settings = TopicSettings::default();
        for (name, value) in &self.0 {
            if let Err(error) = settings.set(name, value) {
                tracing::warn!(%error, "topic setting of the configuration is ignored");
            }
        }
        settings
    }

    /// Reports unknown names and values.
    pub(crate) fn check(&self, faults: &mut Faults) {
        for (name, value) in &self.0 {
            if let Err(error) = TopicSettings::default().set(name, value) {
                let message = match error {
                    SettingError::Value { value, reason, .. } => format!("invalid value `{value}`: {reason}"),
                    SettingError::Unknown(_) => "is not a topic setting of Kafka".to_owned(),
                    other => other.to_string(),
                };
                faults.add(name, message);
            }
        }
    }
}

/// One topic of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TopicConfig {
    /// Least number of partitions. Absent: `default_partitions` when it is created, then unchanged.
    pub partitions: Option<i32>,
    /// Settings by Kafka's names, e.g. `retention.ms: 86400000`; those not named stay as clients set them.
    pub config: ConfiguredSettings,
}

/// Reports what types can't say.
pub(crate) fn check(topics: &BTreeMap<String, TopicConfig>, faults: &mut Faults) {
    for (name, topic) in topics {
        if !is_topic_name(name) {
            faults.add(name, "is not a valid topic name: 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`");
        } else if is_internal(name) {
            faults.add(name, "is an internal topic of the broker");
        }
        faults.within(name, |faults| {
            if topic.partitions.is_some_and(|count| !(1..=10_000).contains(&count)) {
                faults.add("partitions", "must lie between 1 and 10000");
            }
            faults.within("config", |faults| topic.config.check(faults));
        });
    }
}
