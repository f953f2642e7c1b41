//! Declared topics: creates, grows and alters the topics that the configuration names.
//!
//! In: `broker.topics`. Out: topics in the storage, one log line per change. Touches storage. Never shrinks or deletes a
//! topic: a difference that can't be applied is logged. Settings that the configuration does not name stay as clients set
//! them; those that it names are set back at each start.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::config::topics::TopicConfig;
use crate::storage::{Storage, StorageError};

/// Makes the storage hold what the configuration names.
pub(crate) async fn apply(
    storage: &Arc<Storage>,
    topics: &BTreeMap<String, TopicConfig>,
    default_partitions: i32,
) -> Result<(), StorageError> {
    for (name, wanted) in topics {
        let settings = wanted.config.typed();
        let Some(topic) = storage.topic(name) else {
            let partitions = wanted.partitions.unwrap_or(default_partitions);
            storage.create_topic(name, partitions, settings).await?;
            tracing::info!(topic = name, partitions, "topic of the configuration created");
            continue;
        };
        let has = topic.partition_count();
        match wanted.partitions {
            Some(partitions) if partitions > has => {
                storage.add_partitions(name, partitions).await?;
                tracing::info!(
                    topic = name,
                    before = has,
                    partitions,
                    "partitions added to topic of the configuration"
                );
            }
            Some(partitions) if partitions < has => tracing::warn!(
                topic = name,
                partitions = has,
                configured = partitions,
                "topic has more partitions than configured: partitions can't be removed, create a new topic and copy the records"
            ),
            _ => {}
        }
        let mut now = topic.settings();
        let before = now.clone();
        for (setting, value) in settings.iter() {
            if now.get(setting) != Some(value) && now.set(setting, value).is_ok() {
                let was = before.get(setting).unwrap_or("default");
                tracing::info!(topic = name, setting, value, was, "topic of the configuration altered");
            }
        }
        if now != before {
            storage.alter_topic(name, now).await?;
        }
    }
    Ok(())
}
