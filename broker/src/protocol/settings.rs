//! Config resources: settings of topics, groups and the broker by Kafka's names, with sources and types as on the wire.
//!
//! In: names, values. Out: settings for DescribeConfigs, changes for AlterConfigs. Touches storage and the group
//! coordinator. Shared by the handlers of configurations and CreateTopics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::StorageConfig;
use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::client_configs::{SUBSCRIPTION_SETTINGS, check_subscription};
use crate::protocol::config::BrokerConfig;
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::{Code, Refusal, group_code, storage_code};
use crate::protocol::topics;
use crate::storage::{SettingKind, Topic, TopicSettings};
use millrace_log::record::is_topic_name;

/// A topic by name; the numbers of resource types are those of the wire.
pub(crate) const TOPIC: i8 = 2;
/// A broker by id.
pub(crate) const BROKER: i8 = 4;
/// The log levels of a broker.
pub(crate) const BROKER_LOGGER: i8 = 8;
/// A subscription to metrics of clients (KIP-714).
pub(crate) const CLIENT_METRICS: i8 = 16;
/// A group by id.
pub(crate) const GROUP: i8 = 32;

/// Set for the topic; the numbers of sources are those of the wire.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// From the configuration file.
pub(crate) const SOURCE_STATIC: i8 = 4;
/// The default.
pub(crate) const SOURCE_DEFAULT: i8 = 5;
/// A log level.
pub(crate) const SOURCE_LOGGER: i8 = 6;
/// Set for the client metrics subscription.
pub(crate) const SOURCE_CLIENT_METRICS: i8 = 7;
/// Set for the group.
pub(crate) const SOURCE_GROUP: i8 = 8;

/// A value of a setting under the name by which it was given, with its source.
pub(crate) type Synonym = (&'static str, String, i8);

/// One value of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub name: &'static str,
    pub value: String,
    pub source: i8,
    /// Where the value comes from and what it overrides, the value in force first.
    pub synonyms: Vec<Synonym>,
    /// Unknown 0, boolean 1, string 2, int 3, long 5, double 6, list 7.
    pub kind: i8,
    pub read_only: bool,
    pub doc: &'static str,
}

/// The broker's setting from which topics take a setting that they don't have themselves.
fn broker_setting(topic_setting: &str) -> Option<&'static str> {
    Some(match topic_setting {
        "cleanup.policy" => "log.cleanup.policy",
        "compression.gzip.level" => "compression.gzip.level",
        "compression.lz4.level" => "compression.lz4.level",
        "compression.type" => "compression.type",
        "compression.zstd.level" => "compression.zstd.level",
        "delete.retention.ms" => "log.cleaner.delete.retention.ms",
        "file.delete.delay.ms" => "log.segment.delete.delay.ms",
        "flush.messages" => "log.flush.interval.messages",
        "flush.ms" => "log.flush.interval.ms",
        "index.interval.bytes" => "log.index.interval.bytes",
        "local.retention.bytes" => "log.local.retention.bytes",
        "local.retention.ms" => "log.local.retention.ms",
        "max.compaction.lag.ms" => "log.cleaner.max.compaction.lag.ms",
        "max.message.bytes" => "message.max.bytes",
        "message.timestamp.after.max.ms" => "log.message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms" => "log.message.timestamp.before.max.ms",
        "message.timestamp.type" => "log.message.timestamp.type",
        "min.cleanable.dirty.ratio" => "log.cleaner.min.cleanable.ratio",
        "min.compaction.lag.ms" => "log.cleaner.min.compaction.lag.ms",
        "min.insync.replicas" => "min.insync.replicas",
        "preallocate" => "log.preallocate",
        "retention.bytes" => "log.retention.bytes",
        "retention.ms" => "log.retention.ms",
        "segment.bytes" => "log.segment.bytes",
        "segment.index.bytes" => "log.index.size.max.bytes",
        "segment.jitter.ms" => "log.roll.jitter.ms",
        "segment.ms" => "log.roll.ms",
        "unclean.leader.election.enable" => "unclean.leader.election.enable",
        _ => return None,
    })
}

/// All settings of a topic.
pub(crate) fn settings_of(cx: &Context, settings: &TopicSettings) -> Vec<Setting> {
    let config = cx.core.storage.config();
    let built_in = StorageConfig::default();
    let kind = |kind: SettingKind| match kind {
        SettingKind::Bool => 1,
        SettingKind::Word(_) => 2,
        SettingKind::Int(_) | SettingKind::Level(..) => 3,
        SettingKind::Long(_) => 5,
        SettingKind::Ratio => 6,
        SettingKind::List(_) | SettingKind::Replicas => 7,
    };
    let described = settings.describe(config).into_iter();
    described
        .map(|(spec, value, is_set)| {
            let (default, plain) = (spec.default(config), spec.default(&built_in));
            let default_source = if default == plain { SOURCE_DEFAULT } else { SOURCE_STATIC };
            let mut synonyms = Vec::new();
            if is_set {
                synonyms.push((spec.name, value.clone(), SOURCE_TOPIC));
            }
            if let Some(name) = broker_setting(spec.name) {
                if default_source == SOURCE_STATIC {
                    synonyms.push((name, default, SOURCE_STATIC));
                }
                synonyms.push((name, plain, SOURCE_DEFAULT));
            }
            Setting {
                name: spec.name,
                value,
                source: if is_set { SOURCE_TOPIC } else { default_source },
                synonyms,
                kind: kind(spec.kind),
                read_only: false,
                doc: spec.doc,
            }
        })
        .collect()
}

/// Settings of a group by Kafka's names.
pub(crate) fn settings_of_group(cx: &Context, group: &str) -> Vec<Setting> {
    let set = cx.core.groups.set_settings_of(group);
    let described = cx.core.groups.describe_settings(group).into_iter();
    described
        .map(|(name, value, is_number, doc)| {
            let source = if set.contains_key(name) { SOURCE_GROUP } else { SOURCE_DEFAULT };
            let synonyms = vec![(name, value.clone(), source)];
            Setting { name, value, source, synonyms, kind: if is_number { 3 } else { 2 }, read_only: false, doc }
        })
        .collect()
}

/// Settings of a client metrics subscription.
pub(crate) fn settings_of_subscription(cx: &Context, name: &str) -> Vec<Setting> {
    let set = cx.core.client_configs.subscription(name);
    SUBSCRIPTION_SETTINGS
        .iter()
        .map(|(name, default, is_number, doc)| {
            let own = set.get(*name);
            let synonyms = own.map(|value| (*name, value.clone(), SOURCE_CLIENT_METRICS)).into_iter().collect();
            Setting {
                name,
                value: own.cloned().unwrap_or_else(|| (*default).to_owned()),
                source: if own.is_some() { SOURCE_CLIENT_METRICS } else { SOURCE_DEFAULT },
                synonyms,
                kind: if *is_number { 3 } else { 7 },
                read_only: false,
                doc,
            }
        })
        .collect()
}

/// The level of log lines that are written, by Kafka's names.
fn log_level() -> &'static str {
    match tracing::level_filters::LevelFilter::current() {
        tracing::level_filters::LevelFilter::TRACE => "TRACE",
        tracing::level_filters::LevelFilter::DEBUG => "DEBUG",
        tracing::level_filters::LevelFilter::INFO => "INFO",
        tracing::level_filters::LevelFilter::WARN => "WARN",
        tracing::level_filters::LevelFilter::ERROR => "ERROR",
        _ => "FATAL",
    }
}

/// Log levels: there is one logger.
pub(crate) fn settings_of_logger() -> Vec<Setting> {
    let value = log_level().to_owned();
    let (source, synonyms) = (SOURCE_LOGGER, Vec::new());
    vec![Setting { name: "root", value, source, synonyms, kind: 0, read_only: false, doc: "" }]
}

/// Checks a change of a log level, as Kafka does; only the level in force can be set. `None` deletes it.
pub(crate) fn alter_logger(logger: &str, level: Option<&str>) -> Result<(), Refusal> {
    const LEVELS: [&str; 6] = ["DEBUG", "ERROR", "FATAL", "INFO", "TRACE", "WARN"];
    if logger != "root" {
        return Err((Code::InvalidConfig, format!("Logger {logger} does not exist!")));
    }
    match level {
        None => Err((Code::InvalidRequest, "Removing the log level of the root logger is not allowed".to_owned())),
        Some(level) if !LEVELS.contains(&level) => {
            let text = format!(
                "Cannot set the log level of {logger} to {level} as it is not a supported log level. Valid log levels are {}",
                LEVELS.join(", ")
            );
            Err((Code::InvalidConfig, text))
        }
        Some(level) if level == log_level() => Ok(()),
        Some(_) => {
            Err((Code::InvalidRequest, "the log level is set by `--log-level` at the start of millrace".to_owned()))
        }
    }
}

/// Checks the id of a broker.
pub(crate) fn check_broker(id: &str) -> Result<(), Refusal> {
    let text = match id.parse::<i32>() {
        Ok(number) if number == NODE.0 => return Ok(()),
        Ok(number) => format!("Unexpected broker id, expected {} but received {number}", NODE.0),
        Err(_) if id.is_empty() => "Broker id must not be empty".to_owned(),
        Err(_) => format!("Broker id must be an integer, but it is: {id}"),
    };
    Err((Code::InvalidRequest, text))
}

/// A setting: name, value, type in DescribeConfigs, what it is.
type Row = (&'static str, String, i8, &'static str);

/// Settings of the broker by Kafka's names; changed in the configuration file only.
pub(crate) fn settings_of_broker(cx: &Context) -> Vec<Setting> {
    let mut rows = settings_of_node(cx);
    rows.extend(settings_of_groups(&cx.core.config));
    rows.extend(settings_of_log(cx));
    rows.sort_by_key(|(name, ..)| *name);
    let setting = |(name, value, kind, doc): Row| {
        let synonyms = vec![(name, value.clone(), SOURCE_STATIC)];
        Setting { name, value, source: SOURCE_STATIC, synonyms, kind, read_only: true, doc }
    };
    rows.into_iter().map(setting).collect()
}

fn ms(span: millrace_log::value::Span) -> String {
    span.0.as_millis().to_string()
}

/// Listeners, connections, topics.
fn settings_of_node(cx: &Context) -> Vec<Row> {
    let config = &cx.core.config;
    let (host, port) = cx.advertised();
    vec![
        (
            "advertised.listeners",
            format!("{}://{host}:{port}", cx.listener.protocol()),
            2,
            "address that clients are given",
        ),
        ("auto.create.topics.enable", config.auto_create_topics.to_string(), 1, "broker.auto_create_topics"),
        ("broker.id", NODE.0.to_string(), 3, "there is one node"),
        ("connections.max.idle.ms", ms(config.idle_timeout), 5, "broker.idle_timeout"),
        ("default.replication.factor", "1".to_owned(), 3, "there is one node"),
        ("delete.topic.enable", "true".to_owned(), 1, "topics may be deleted"),
        ("fetch.max.bytes", config.max_fetch_size.0.to_string(), 3, "broker.max_fetch_size"),
        ("max.connections", config.max_connections.to_string(), 3, "broker.max_connections"),
        ("min.insync.replicas", "1".to_owned(), 3, "there is one node"),
        ("node.id", NODE.0.to_string(), 3, "there is one node"),
        ("num.partitions", config.default_partitions.to_string(), 3, "broker.default_partitions"),
        ("socket.request.max.bytes", config.max_frame_size.0.to_string(), 3, "broker.max_frame_size"),
    ]
}

/// Consumer groups and transactions.
fn settings_of_groups(config: &BrokerConfig) -> Vec<Row> {
    vec![
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
        ("transaction.max.timeout.ms", ms(config.transaction.max_timeout), 3, "broker.transaction.max_timeout"),
        ("transactional.id.expiration.ms", ms(config.transaction.id_expiry), 3, "broker.transaction.id_expiry"),
    ]
}

/// Segments, retention, compaction.
fn settings_of_log(cx: &Context) -> Vec<Row> {
    let config = &cx.core.config;
    let default = |name: &str| default_of_topics(cx, name);
    vec![
        ("compression.type", "producer".to_owned(), 2, "batches are stored as they came"),
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
        ("message.max.bytes", default("max.message.bytes"), 3, "broker.storage.max_message_size"),
    ]
}

fn default_of_topics(cx: &Context, name: &str) -> String {
    TopicSettings::spec(name).map(|spec| spec.default(cx.core.storage.config())).unwrap_or_default()
}

/// Whether the client may change settings of a resource.
pub(crate) fn may_alter(cx: &Context, kind: i8, name: &str) -> Result<(), Refusal> {
    let about = match kind {
        TOPIC => Resource::Topic(name),
        GROUP => Resource::Group(name),
        _ => Resource::Cluster,
    };
    cx.allowed(Operation::AlterConfigs, about).map_err(refused)
}

/// The topic that a resource names.
pub(crate) fn topic_of(cx: &Context, kind: i8, name: &str) -> Result<Arc<Topic>, Refusal> {
    match kind {
        TOPIC if name.is_empty() => {
            Err((Code::InvalidRequest, "Default topic resources are not allowed.".to_owned()))
        }
        TOPIC if !is_topic_name(name) => Err((Code::InvalidTopicException, invalid_topic_name(name))),
        TOPIC => {
            topics::refuse_internal(name)?;
            let topic = cx.core.storage.topic(name);
            topic.ok_or_else(|| (Code::UnknownTopicOrPartition, format!("The topic '{name}' does not exist.")))
        }
        BROKER => Err((
            Code::InvalidRequest,
            "broker settings can't be changed by clients: set them in the section `broker` of millrace's configuration file"
                .to_owned(),
        )),
        other => Err((Code::InvalidRequest, format!("Unknown resource type {other}"))),
    }
}

/// The text about an invalid topic name.
pub(crate) fn invalid_topic_name(name: &str) -> String {
    match name {
        "" => "Topic name is invalid: the empty string is not allowed".to_owned(),
        name if name.len() > 249 => {
            format!("Topic name is invalid: the length of '{name}' is longer than the max allowed length 249")
        }
        name => format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ),
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
    if group.is_empty() {
        return Err((Code::InvalidRequest, "Default group resources are not allowed.".to_owned()));
    }
    let set = cx.core.groups.set_settings(group, settings, is_trial).await;
    set.map_err(|e| (group_code(&e), e.to_string()))?.map_err(|reason| (Code::InvalidConfig, reason))
}

/// Puts settings of a client metrics subscription in force.
pub(crate) async fn apply_to_subscription(
    cx: &Context,
    name: &str,
    settings: BTreeMap<String, String>,
    is_trial: bool,
) -> Result<(), Refusal> {
    check_subscription(name, &settings)?;
    if is_trial {
        return Ok(());
    }
    let set = cx.core.client_configs.set_subscription(name, settings).await;
    set.map_err(|e| (Code::KafkaStorageError, e.to_string()))?
}
