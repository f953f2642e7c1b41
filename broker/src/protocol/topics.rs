//! Topic creation on behalf of clients: checks of names, creation on first use.
//!
//! In: names, numbers, settings. Out: topics, or Kafka's code with a text. Touches storage. Shared by the handlers of
//! Metadata, CreateTopics, DeleteTopics and CreatePartitions.

use std::sync::Arc;

use crate::protocol::context::Context;
use crate::protocol::error::{Code, Refusal, storage_code};
use crate::protocol::internal_topics::is_internal;
use crate::storage::{StorageError, Topic, TopicSettings};
use millrace_log::record::is_topic_name;

/// The refusal of a change to such a topic.
pub(crate) fn refuse_internal(topic: &str) -> Result<(), Refusal> {
    if is_internal(topic) {
        return Err((Code::InvalidRequest, format!("{topic} is an internal topic of the broker")));
    }
    Ok(())
}

fn refusal(error: &StorageError) -> Refusal {
    (storage_code(error), error.to_string())
}

/// Checks a new topic without making it.
pub(crate) fn check_new(cx: &Context, name: &str) -> Result<(), Refusal> {
    if !is_topic_name(name) {
        return Err(refusal(&StorageError::InvalidTopicName(name.chars().take(300).collect())));
    }
    if cx.core.storage.topic(name).is_some() {
        return Err((Code::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    // Metric names of clients know no dots: `a.b` and `a_b` would be counted as one.
    if name.contains(['.', '_']) {
        let plain = name.replace('.', "_");
        let other = cx.core.storage.topics().into_iter().find(|t| t.name().replace('.', "_") == plain);
        if let Some(other) = other {
            let text = format!("Topic '{name}' collides with existing topic: {}", other.name());
            return Err((Code::InvalidTopicException, text));
        }
    }
    Ok(())
}

/// Makes a topic.
pub(crate) async fn create(
    cx: &Context,
    name: &str,
    partitions: i32,
    settings: TopicSettings,
) -> Result<Arc<Topic>, Refusal> {
    let _creating = cx.core.creating.lock().await;
    check_new(cx, name)?;
    let made = cx.core.storage.create_topic(name, partitions, settings).await.map_err(|e| refusal(&e))?;
    tracing::info!(topic = name, partitions, client = cx.client_id, "topic created");
    Ok(made)
}

/// A topic that a client named; made if that is asked for and allowed.
pub(crate) async fn find_or_create(cx: &Context, name: &str, may_create: bool) -> Result<Arc<Topic>, Code> {
    if let Some(topic) = cx.core.storage.topic(name) {
        return Ok(topic);
    }
    if !is_topic_name(name) {
        return Err(Code::InvalidTopicException);
    }
    if !(may_create && cx.core.config.auto_create_topics) {
        return Err(Code::UnknownTopicOrPartition);
    }
    cx.may_create(name)?;
    match create(cx, name, cx.core.config.default_partitions, TopicSettings::default()).await {
        Ok(topic) => Ok(topic),
        Err((Code::TopicAlreadyExists, _)) => cx.core.storage.topic(name).ok_or(Code::LeaderNotAvailable),
        Err((code, text)) => {
            tracing::warn!(topic = name, text, "topic can't be created on first use");
            Err(code)
        }
    }
}
