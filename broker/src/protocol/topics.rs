//! Topics as clients ask for them: names that may not collide, made on first use, settings as the wire tells them.
//!
//! In: names, numbers, settings. Out: topics, or Kafka's code with a text. Touches storage. Shared by the handlers of
//! Metadata, CreateTopics, DeleteTopics, CreatePartitions and those of configurations.

use std::sync::Arc;

use super::context::{Context, NODE};
use super::error::{Code, storage_code};
use crate::group::OFFSETS_TOPIC;
use crate::group::settings::{HEARTBEAT_INTERVAL, SESSION_TIMEOUT};
use crate::storage::{SettingKind, StorageError, Topic, TopicSettings};
use crate::transaction::TRANSACTIONS_TOPIC;
use millrace_log::record::is_topic_name;

/// A refusal with its text for people.
pub(super) type Refusal = (Code, String);

/// Topics that the broker keeps for itself.
pub(super) fn is_internal(topic: &str) -> bool {
    topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC
}

/// The refusal of a change to such a topic.
pub(super) fn refuse_internal(topic: &str) -> Result<(), Refusal> {
    if is_internal(topic) {
        return Err((Code::InvalidRequest, format!("{topic} is kept by the broker itself")));
    }
    Ok(())
}

fn refusal(error: &StorageError) -> Refusal {
    (storage_code(error), error.to_string())
}

/// Checks a new topic without making it.
pub(super) fn check_new(cx: &Context, name: &str) -> Result<(), Refusal> {
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
pub(super) async fn create(
    cx: &Context,
    name: &str,
    partitions: i32,
    settings: TopicSettings,
) -> Result<Arc<Topic>, Refusal> {
    let _creating = cx.core.creating.lock().await;
    check_new(cx, name)?;
    let made = cx.core.storage.create_topic(name, partitions, settings).await.map_err(|e| refusal(&e))?;
    tracing::info!(topic = name, partitions, client = cx.client_id, "topic made");
    Ok(made)
}

/// A topic that a client named; made if that is asked for and allowed.
pub(super) async fn find_or_create(cx: &Context, name: &str, may_create: bool) -> Result<Arc<Topic>, Code> {
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
            tracing::warn!(topic = name, text, "topic can't be made on first use");
            Err(code)
        }
    }
}

/// Where a value of a configuration comes from, as the wire counts.
pub(super) const SOURCE_TOPIC: i8 = 1;
/// From the configuration file.
pub(super) const SOURCE_STATIC: i8 = 4;
/// Set for the group.
pub(super) const SOURCE_GROUP: i8 = 8;
/// Nobody said anything.
pub(super) const SOURCE_DEFAULT: i8 = 5;

/// One value of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub name: &'static str,
    pub value: String,
    pub source: i8,
    /// Boolean 1, string 2, int 3, long 5, double 6, list 7.
    pub kind: i8,
    pub read_only: bool,
    pub doc: &'static str,
}

/// All settings of a topic.
pub(super) fn settings_of(cx: &Context, settings: &TopicSettings) -> Vec<Setting> {
    let kind = |kind: SettingKind| match kind {
        SettingKind::Bool => 1,
        SettingKind::Word(_) => 2,
        SettingKind::Int(_) | SettingKind::Level(..) => 3,
        SettingKind::Long(_) => 5,
        SettingKind::Ratio => 6,
        SettingKind::List(_) => 7,
    };
    settings
        .describe(cx.core.storage.config())
        .into_iter()
        .map(|(spec, value, is_set)| Setting {
            name: spec.name,
            value,
            source: if is_set { SOURCE_TOPIC } else { SOURCE_DEFAULT },
            kind: kind(spec.kind),
            read_only: false,
            doc: spec.doc,
        })
        .collect()
}

/// Settings of a group by Kafka's names.
pub(super) fn settings_of_group(cx: &Context, group: &str) -> Vec<Setting> {
    let settings = cx.core.groups.settings_of(group);
    let set = cx.core.groups.set_settings_of(group);
    [
        (SESSION_TIMEOUT, settings.session_ms, "time without heartbeats after which a member is taken for dead"),
        (HEARTBEAT_INTERVAL, settings.heartbeat_ms, "time between heartbeats that members are told"),
    ]
    .into_iter()
    .map(|(name, value, doc)| Setting {
        name,
        value: value.to_string(),
        source: if set.contains_key(name) { SOURCE_GROUP } else { SOURCE_DEFAULT },
        kind: 3,
        read_only: false,
        doc,
    })
    .collect()
}

/// Settings of the broker by Kafka's names; changed in the configuration file only.
pub(super) fn settings_of_broker(cx: &Context) -> Vec<Setting> {
    let config = &cx.core.config;
    let ms = |span: millrace_log::value::Span| span.0.as_millis().to_string();
    let default =
        |name: &str| TopicSettings::spec(name).map(|spec| spec.default(cx.core.storage.config())).unwrap_or_default();
    let (host, port) = cx.advertised();
    let entries: Vec<(&'static str, String, i8, &'static str)> = vec![
        (
            "advertised.listeners",
            format!("{}://{host}:{port}", cx.listener.protocol()),
            2,
            "address that clients are told",
        ),
        ("auto.create.topics.enable", config.auto_create_topics.to_string(), 1, "broker.auto_create_topics"),
        ("broker.id", NODE.0.to_string(), 3, "there is one node"),
        ("compression.type", "producer".to_owned(), 2, "batches are stored as they came"),
        ("connections.max.idle.ms", ms(config.idle_timeout), 5, "broker.idle_timeout"),
        ("default.replication.factor", "1".to_owned(), 3, "there is one node"),
        ("delete.topic.enable", "true".to_owned(), 1, "topics may be deleted"),
        ("fetch.max.bytes", config.max_fetch_size.0.to_string(), 3, "broker.max_fetch_size"),
        ("group.consumer.assignors", crate::group::consumer::ASSIGNORS.join(","), 7, "there are these two"),
        (
            "group.consumer.heartbeat.interval.ms",
            ms(config.group.consumer_heartbeat_interval),
            3,
            "broker.group.consumer_heartbeat_interval",
        ),
        (
            "group.consumer.max.heartbeat.interval.ms",
            ms(config.group.consumer_max_heartbeat_interval),
            3,
            "broker.group.consumer_max_heartbeat_interval",
        ),
        (
            "group.consumer.max.session.timeout.ms",
            ms(config.group.consumer_max_session_timeout),
            3,
            "broker.group.consumer_max_session_timeout",
        ),
        (
            "group.consumer.migration.policy",
            config.group.migration_policy.name().to_owned(),
            2,
            "broker.group.migration_policy",
        ),
        (
            "group.consumer.min.heartbeat.interval.ms",
            ms(config.group.consumer_min_heartbeat_interval),
            3,
            "broker.group.consumer_min_heartbeat_interval",
        ),
        (
            "group.consumer.min.session.timeout.ms",
            ms(config.group.consumer_min_session_timeout),
            3,
            "broker.group.consumer_min_session_timeout",
        ),
        (
            "group.consumer.session.timeout.ms",
            ms(config.group.consumer_session_timeout),
            3,
            "broker.group.consumer_session_timeout",
        ),
        (
            "group.initial.rebalance.delay.ms",
            ms(config.group.initial_rebalance_delay),
            3,
            "broker.group.initial_rebalance_delay",
        ),
        ("group.max.session.timeout.ms", ms(config.group.max_session_timeout), 3, "broker.group.max_session_timeout"),
        ("group.max.size", config.group.max_members.to_string(), 3, "broker.group.max_members"),
        ("group.min.session.timeout.ms", ms(config.group.min_session_timeout), 3, "broker.group.min_session_timeout"),
        ("log.cleaner.backoff.ms", ms(config.storage.cleaner_interval), 5, "broker.storage.cleaner_interval"),
        (
            "log.cleaner.dedupe.buffer.size",
            config.storage.cleaner_memory.0.to_string(),
            5,
            "broker.storage.cleaner_memory",
        ),
        ("log.cleaner.delete.retention.ms", default("delete.retention.ms"), 5, "topics may say otherwise"),
        ("log.cleaner.enable", "true".to_owned(), 1, "topics are compacted as their cleanup.policy says"),
        ("log.cleaner.min.cleanable.ratio", default("min.cleanable.dirty.ratio"), 6, "topics may say otherwise"),
        ("log.cleaner.threads", config.storage.cleaner_threads.to_string(), 3, "broker.storage.cleaner_threads"),
        ("log.cleanup.policy", default("cleanup.policy"), 7, "topics may say otherwise"),
        ("log.dirs", cx.core.data_dir.display().to_string(), 2, "data_dir"),
        ("log.message.timestamp.type", default("message.timestamp.type"), 2, "topics may say otherwise"),
        ("log.retention.bytes", default("retention.bytes"), 5, "broker.retention.size"),
        (
            "log.retention.check.interval.ms",
            ms(config.storage.retention_check_interval),
            5,
            "broker.storage.retention_check_interval",
        ),
        ("log.retention.ms", default("retention.ms"), 5, "broker.retention.age"),
        ("log.segment.bytes", default("segment.bytes"), 3, "broker.storage.segment_size"),
        ("max.connections", config.max_connections.to_string(), 3, "broker.max_connections"),
        ("message.max.bytes", default("max.message.bytes"), 3, "broker.storage.max_message_size"),
        ("min.insync.replicas", "1".to_owned(), 3, "there is one node"),
        ("node.id", NODE.0.to_string(), 3, "there is one node"),
        ("num.partitions", config.default_partitions.to_string(), 3, "broker.default_partitions"),
        (
            "offset.metadata.max.bytes",
            config.group.max_commit_metadata_bytes.to_string(),
            3,
            "broker.group.max_commit_metadata_bytes",
        ),
        (
            "offsets.retention.minutes",
            (config.group.offsets_retention.0.as_secs() / 60).to_string(),
            3,
            "broker.group.offsets_retention",
        ),
        ("socket.request.max.bytes", config.max_frame_size.0.to_string(), 3, "broker.max_frame_size"),
        ("transaction.max.timeout.ms", ms(config.transaction.max_timeout), 3, "broker.transaction.max_timeout"),
        ("transactional.id.expiration.ms", ms(config.transaction.id_expiry), 3, "broker.transaction.id_expiry"),
    ];
    let setting = |(name, value, kind, doc)| Setting { name, value, source: SOURCE_STATIC, kind, read_only: true, doc };
    entries.into_iter().map(setting).collect()
}
