//! Targets of routes: topics that are created if they are missing, how many partitions they have, what they take.
//!
//! In: names of topics. Out: [`Targets`]. Touches the network through [`Admin`]; waits for the source topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::admin::{Admin, AdminError, NewTopic};
use millrace_log::client::ConnectionConfig;

use super::config::RoutingConfig;

/// What is known of the targets.
#[derive(Debug)]
pub(super) struct Targets {
    /// Partitions by topic.
    partitions: HashMap<Arc<str>, i32>,
    /// The smallest `max.message.bytes` among them.
    pub max_batch_bytes: u64,
}

impl Targets {
    pub fn partitions_of(&self, topic: &str) -> i32 {
        self.partitions.get(topic).copied().unwrap_or(1).max(1)
    }

    /// Waits for the source, makes missing targets.
    pub async fn prepare(
        from: &str,
        connection: &ConnectionConfig,
        routing: &RoutingConfig,
        names: &[Arc<str>],
    ) -> Result<Self, AdminError> {
        let mut admin = Admin::connect(connection).await?;
        let source = loop {
            match admin.topic(from).await {
                Ok(topic) => break topic,
                Err(error) if error.is_topic_missing() => {
                    tracing::debug!(from, "routes wait for their source");
                    tokio::time::sleep(routing.min_backoff.0.max(Duration::from_millis(500))).await;
                }
                Err(error) => return Err(error),
            }
        };
        let like_source = i32::try_from(source.partitions.len()).unwrap_or(i32::MAX);
        let mut partitions = HashMap::new();
        for name in names {
            let count = ensure(&mut admin, from, name, like_source).await?;
            partitions.insert(Arc::clone(name), count);
        }
        if !routing.dead_letter_topic.is_empty() {
            let count = ensure(&mut admin, from, &routing.dead_letter_topic, 1).await?;
            partitions.insert(routing.dead_letter_topic.as_str().into(), count);
        }
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let limits = admin.settings(&names, Some(&["max.message.bytes"])).await?;
        let limits = limits.values().flatten().filter_map(|setting| setting.value.parse().ok());
        Ok(Self { partitions, max_batch_bytes: limits.min().unwrap_or(u64::MAX) })
    }
}

async fn ensure(admin: &mut Admin, from: &str, topic: &str, partitions: i32) -> Result<i32, AdminError> {
    match admin.topic(topic).await {
        Ok(found) => Ok(i32::try_from(found.partitions.len()).unwrap_or(i32::MAX)),
        Err(error) if error.is_topic_missing() => {
            let new = NewTopic { name: topic.to_owned(), partitions, replication: -1, settings: Vec::new() };
            match admin.create_topic(&new, false).await {
                Ok(count) => {
                    tracing::info!(topic, partitions = count, from, "target of a route made");
                    Ok(count)
                }
                // Another router was faster.
                Err(error) if error.is_topic_there() => {
                    let found = admin.topic(topic).await?;
                    Ok(i32::try_from(found.partitions.len()).unwrap_or(i32::MAX))
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}
