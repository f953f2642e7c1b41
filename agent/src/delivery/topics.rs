//! Partitions of topics that transforms name.
//!
//! In: topic names. Out: how many partitions are used of each, the same number over restarts. Touches the network (a
//! missing topic is created) and the state.

use std::sync::Arc;

use millrace_log::record::TopicPartition;

use super::context::DeliveryContext;
use super::retry::Backoff;
use crate::error::AgentError;

/// Number of partitions of a topic, which is created if it does not exist. Returns once it exists; with `ask` the log is
/// asked even if the number is known.
pub(super) async fn partitions(context: &DeliveryContext, topic: &Arc<str>, ask: bool) -> Result<i32, AgentError> {
    let routed = &context.routed;
    if let Some(known) = routed.known(topic).filter(|_| !ask) {
        return Ok(known);
    }
    let mut backoff = Backoff::new(context);
    let found = loop {
        match context.producer.ensure_topic(topic, routed.create_with).await {
            Ok(found) => break found,
            Err(error) => {
                context.metrics.retries.inc();
                backoff.wait(&TopicPartition::new(topic.clone(), 0), &error).await;
            }
        }
    };
    let (state, name) = (context.state.clone(), topic.clone());
    let used = tokio::task::spawn_blocking(move || state.partitions_of(&name, found)).await;
    let used = used.map_err(|_| AgentError::Ended { part: "writer of positions" })??;
    routed.learn(topic.clone(), used);
    Ok(used)
}
