//! Config resources: settings of topics, groups and the broker by Kafka's names, with sources and types as on the wire.
//!
//! In: names, values. Out: settings for DescribeConfigs, changes for AlterConfigs. Touches storage and the group
//! coordinator. Shared by the handlers of configurations and CreateTopics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::group::settings::{HEARTBEAT_INTERVAL, SESSION_TIMEOUT};
use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::{Code, Refusal, group_code, storage_code};
use crate::protocol::topics;
use crate::storage::{SettingKind, Topic, TopicSettings};

/// Resource types of the wire.
pub(crate) const TOPIC: i8 = 2;
/// A broker by id.
pub(crate) const BROKER: i8 = 4;
/// Which metrics clients shall send.
pub(crate) const CLIENT_METRICS: i8 = 16;
/// A group by id.
pub(crate) const GROUP: i8 = 32;

/// Where a value of a configuration comes from, as the wire counts.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// From the configuration file.
pub(crate) const SOURCE_STATIC: i8 = 4;
/// Set for the group.
pub(crate) const SOURCE_GROUP: i8 = 8;
/// Nobody said anything.
pub(crate) const SOURCE_DEFAULT: i8 = 5;

/// One value of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub name: &'static str,
    pub value: String,
    pub source: i8,
    /// Boolean 1, string 2, int 3, long 5, double 6, list 7.
    pub kind: i8,
    pub read_only: bool,
    pub doc: &'static str,
}

/// All settings of a topic.
pub(crate) fn settings_of(cx: &Context, settings: &TopicSettings) -> Vec<Setting> {
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
pub(crate) fn settings_of_group(cx: &Context, group: &str) -> Vec<Setting> {
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
pub(crate) fn settings_of_broker(cx: &Context) -> Vec<Setting> {
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

/// The topic that a resource names.
pub(crate) fn topic_of(cx: &Context, kind: i8, name: &str) -> Result<Arc<Topic>, Refusal> {
    let about = match kind {
        TOPIC => Resource::Topic(name),
        GROUP => Resource::Group(name),
        _ => Resource::Cluster,
    };
    cx.allowed(Operation::AlterConfigs, about).map_err(refused)?;
    match kind {
        TOPIC => {
            topics::refuse_internal(name)?;
            let topic = cx.core.storage.topic(name);
            topic.ok_or_else(|| (Code::UnknownTopicOrPartition, format!("there is no topic {name}")))
        }
        BROKER => Err((
            Code::InvalidRequest,
            "the broker's settings stand in the section `broker` of millrace's configuration file".to_owned(),
        )),
        other => Err((Code::InvalidRequest, format!("settings of resource type {other} can't be changed here"))),
    }
}

/// Puts settings in force.
pub(crate) async fn apply(cx: &Context, name: &str, settings: TopicSettings, is_trial: bool) -> Result<(), Refusal> {
    if is_trial {
        return Ok(());
    }
    let altered = cx.core.storage.alter_topic(name, settings).await;
    altered.map_err(|e| (storage_code(&e), e.to_string()))
}

/// Puts settings of a group in force.
pub(crate) async fn apply_to_group(
    cx: &Context,
    group: &str,
    settings: BTreeMap<String, String>,
    is_trial: bool,
) -> Result<(), Refusal> {
    cx.allowed(Operation::AlterConfigs, Resource::Group(group)).map_err(|code| (code, code.to_string()))?;
    if group.is_empty() {
        return Err((Code::InvalidRequest, "Default group resources are not allowed.".to_owned()));
    }
    let set = cx.core.groups.set_settings(group, settings, is_trial).await;
    set.map_err(|e| (group_code(&e), e.to_string()))?.map_err(|reason| (Code::InvalidConfig, reason))
}
