//! What administrators ask for, answered as Apache Kafka 4.1.1 on one node answered the same requests.

use super::*;
use crate::protocol::error::Code;

const TOPIC: i8 = 2;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

async fn create(raw: &mut Raw, name: &str, settings: &[(&str, &str)]) -> (i16, String) {
    let configs = settings.iter().map(|(name, value)| {
        create_topics_request::CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    let topic = create_topics_request::CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    let answer: CreateTopicsResponse = raw.call(7, &request).await;
    let result = &answer.topics[0];
    (result.error_code, result.error_message.as_ref().map(ToString::to_string).unwrap_or_default())
}

async fn alter(raw: &mut Raw, kind: i8, name: &str, changes: &[(i8, &str, Option<&str>)]) -> (i16, String) {
    let configs = changes.iter().map(|(operation, name, value)| {
        incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    let resource = incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer: IncrementalAlterConfigsResponse = raw.call(1, &request).await;
    let result = &answer.responses[0];
    (result.error_code, result.error_message.as_ref().map(ToString::to_string).unwrap_or_default())
}

/// `name=value source: synonym=value source …` of the named settings, or the code.
async fn describe(raw: &mut Raw, kind: i8, name: &str, keys: &[&str]) -> Result<Vec<String>, i16> {
    let keys = (!keys.is_empty()).then(|| keys.iter().map(|key| text(key)).collect());
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    let answer: DescribeConfigsResponse = raw.call(4, &request).await;
    let result = &answer.results[0];
    if result.error_code != 0 {
        return Err(result.error_code);
    }
    let value = |value: &Option<StrBytes>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    let line = |config: &describe_configs_response::DescribeConfigsResourceResult| {
        let synonyms = config.synonyms.iter().map(|s| format!(" {}={} {}", &*s.name, value(&s.value), s.source));
        let synonyms: String = synonyms.collect();
        format!("{}={} {}:{synonyms}", &*config.name, value(&config.value), config.config_source)
    };
    Ok(result.configs.iter().map(line).collect())
}

fn ok() -> (i16, String) {
    (0, String::new())
}

fn invalid(text: &str) -> (i16, String) {
    (Code::InvalidConfig.code(), text.to_owned())
}

fn bad_request(text: &str) -> (i16, String) {
    (Code::InvalidRequest.code(), text.to_owned())
}

#[tokio::test]
async fn topic_settings_that_kafka_knows_are_kept_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let mirrored = [
        ("remote.storage.enable", "false"),
        ("local.retention.ms", "-2"),
        ("leader.replication.throttled.replicas", "0:1"),
        ("follower.replication.throttled.replicas", "*"),
    ];
    assert_eq!(create(&mut raw, "a", &mirrored).await, ok());
    assert_eq!(create(&mut raw, "empty", &[("cleanup.policy", "")]).await, ok());
    let tiered =
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.";
    assert_eq!(create(&mut raw, "b", &[("remote.storage.enable", "true")]).await, invalid(tiered));
    assert_eq!(create(&mut raw, "b", &[("nope", "1")]).await, invalid("Unknown topic config name: nope"));
    let changes: &[(i8, &str, Option<&str>)] = &[
        (DELETE, "remote.storage.enable", None),
        (DELETE, "nope", None),
        (SET, "remote.log.copy.disable", Some("true")),
        (SET, "retention.ms", Some(" 5 ")),
    ];
    assert_eq!(alter(&mut raw, TOPIC, "a", changes).await, ok());
    let described = describe(&mut raw, TOPIC, "a", &["retention.ms", "remote.log.copy.disable", "min.insync.replicas"]);
    assert_eq!(
        described.await.unwrap(),
        [
            "min.insync.replicas=1 5: min.insync.replicas=1 5",
            "remote.log.copy.disable=true 1: remote.log.copy.disable=true 1",
            "retention.ms=5 1: retention.ms=5 1 log.retention.ms=604800000 5",
        ]
    );
    // Kafka describes 33, and there are three of our own.
    assert_eq!(describe(&mut raw, TOPIC, "a", &[]).await.unwrap().len(), 36);
    broker.stop().await;
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let kept = describe(&mut raw, TOPIC, "a", &["leader.replication.throttled.replicas"]).await.unwrap();
    let want = "leader.replication.throttled.replicas=0:1 1: leader.replication.throttled.replicas=0:1 1";
    assert_eq!(kept, [want]);
    broker.stop().await;
}

#[tokio::test]
async fn single_settings_change_as_in_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    assert_eq!(create(&mut raw, "t", &[]).await, ok());
    let policy = "cleanup.policy";
    let duplicate: &[(i8, &str, Option<&str>)] = &[(SET, "retention.ms", Some("5")), (SET, "retention.ms", Some("6"))];
    assert_eq!(alter(&mut raw, TOPIC, "t", duplicate).await, bad_request("Error due to duplicate config keys"));
    for (operation, name, value, want, then) in [
        (APPEND, policy, Some("compact"), ok(), "delete,compact"),
        (APPEND, policy, Some("delete"), ok(), "delete,compact"),
        (SUBTRACT, policy, Some("compact,delete"), ok(), ""),
        (
            SET,
            policy,
            Some("compact,"),
            invalid("Invalid value  for configuration cleanup.policy: String must be one of: compact, delete"),
            "",
        ),
        (
            APPEND,
            "retention.ms",
            Some("5"),
            invalid("Can't APPEND to key retention.ms because its type is not LIST."),
            "",
        ),
        (
            SUBTRACT,
            "retention.ms",
            Some("5"),
            invalid("Can't SUBTRACT to key retention.ms because its type is not LIST."),
            "",
        ),
        (APPEND, "nope", Some("5"), invalid("Can't APPEND to key nope because its type is not LIST."), ""),
        (SET, "retention.ms", None, bad_request("Null value not supported for : retention.ms"), ""),
        (DELETE, policy, None, ok(), "delete"),
    ] {
        assert_eq!(alter(&mut raw, TOPIC, "t", &[(operation, name, value)]).await, want, "{operation} {name}");
        let now = describe(&mut raw, TOPIC, "t", &[policy]).await.unwrap();
        assert!(now[0].starts_with(&format!("{policy}={then} ")), "{operation} {name}: {now:?}");
    }
    for (name, code) in [("no such", Code::InvalidTopicException), ("x", Code::UnknownTopicOrPartition)] {
        assert_eq!(alter(&mut raw, TOPIC, name, &[]).await.0, code.code(), "{name}");
        assert_eq!(describe(&mut raw, TOPIC, name, &[]).await, Err(code.code()), "{name}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn other_resources_are_answered_as_by_one_kafka_node() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let share = "share.session.timeout.ms";
    assert_eq!(alter(&mut raw, GROUP, "g", &[(SET, share, Some("50000"))]).await, ok());
    let described = describe(&mut raw, GROUP, "g", &[]).await.unwrap();
    assert_eq!(described.len(), 10);
    assert!(described.contains(&format!("{share}=50000 8: {share}=50000 8")), "{described:?}");
    for (kind, name, change, want) in [
        (GROUP, "g", (SET, "nope", Some("1")), invalid("Unknown group config name: nope")),
        (GROUP, "g", (DELETE, "nope", None), ok()),
        (
            GROUP,
            "g",
            (SET, share, Some("5")),
            invalid("share.session.timeout.ms must be greater than or equal to group.share.min.session.timeout.ms"),
        ),
        (GROUP, "g", (SET, "share.auto.offset.reset", Some("by_duration:PT1H")), ok()),
        (GROUP, "", (SET, share, Some("50000")), bad_request("Default group resources are not allowed.")),
        (CLIENT_METRICS, "m", (SET, "interval.ms", Some("5000")), ok()),
        (CLIENT_METRICS, "m", (SET, "match", Some("client_id=abc.*")), ok()),
        (CLIENT_METRICS, "m", (SET, "match", Some("foo=abc")), invalid("Illegal client matching pattern: foo=abc")),
        (
            CLIENT_METRICS,
            "m",
            (APPEND, "metrics", Some("x")),
            invalid("Can't APPEND to key metrics because its type is not LIST."),
        ),
        (CLIENT_METRICS, "m", (SET, "nope", Some("5")), bad_request("Unknown client metrics configuration: nope")),
        (CLIENT_METRICS, "", (SET, "interval.ms", Some("5000")), bad_request("Subscription name can't be empty")),
        (BROKER_LOGGER, "1", (SET, "kafka", Some("DEBUG")), invalid("Logger kafka does not exist!")),
        (
            BROKER_LOGGER,
            "1",
            (DELETE, "root", None),
            bad_request("Removing the log level of the root logger is not allowed"),
        ),
        (
            BROKER_LOGGER,
            "1",
            (APPEND, "root", Some("INFO")),
            bad_request("APPEND operation is not allowed for the BROKER_LOGGER resource"),
        ),
        (
            BROKER_LOGGER,
            "2",
            (SET, "root", Some("INFO")),
            bad_request("Unexpected broker id, expected 1 but received 2"),
        ),
        (0, "x", (SET, "a", Some("b")), bad_request("Unknown resource type 0")),
    ] {
        assert_eq!(alter(&mut raw, kind, name, &[change]).await, want, "{kind} {name} {change:?}");
    }
    let metrics = describe(&mut raw, CLIENT_METRICS, "m", &[]).await.unwrap();
    assert_eq!(
        metrics,
        ["interval.ms=5000 7: interval.ms=5000 7", "match=client_id=abc.* 7: match=client_id=abc.* 7", "metrics= 5:"]
    );
    let logger = describe(&mut raw, BROKER_LOGGER, "1", &[]).await.unwrap();
    assert!(logger.len() == 1 && logger[0].starts_with("root="), "{logger:?}");
    let listed: ListConfigResourcesResponse = raw.call(0, &ListConfigResourcesRequest::default()).await;
    assert_eq!(listed.config_resources.iter().map(|r| r.resource_name.to_string()).collect::<Vec<_>>(), ["m"]);
    broker.stop().await;
}

#[tokio::test]
async fn records_of_compacted_topics_are_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    for (name, policy, want) in
        [("plain", "delete", 0), ("both", "compact,delete", 0), ("compacted", "compact", Code::PolicyViolation.code())]
    {
        assert_eq!(create(&mut raw, name, &[("cleanup.policy", policy)]).await, ok());
        let partition = delete_records_request::DeleteRecordsPartition::default().with_offset(-1);
        let topic = delete_records_request::DeleteRecordsTopic::default()
            .with_name(TopicName(text(name)))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]);
        let answer: DeleteRecordsResponse = raw.call(2, &request).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, want, "{name}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn reassignments_quorum_and_features_of_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    assert_eq!(create(&mut raw, "t", &[]).await, ok());
    for (topic, number, replicas, want) in [
        ("t", 0, Some(&[1][..]), ok()),
        (
            "t",
            0,
            Some(&[2]),
            (
                Code::InvalidReplicaAssignment.code(),
                "The manual partition assignment includes broker 2, but no such broker is registered.".to_owned(),
            ),
        ),
        (
            "t",
            0,
            Some(&[1, 1]),
            (
                Code::InvalidReplicaAssignment.code(),
                "The manual partition assignment includes the broker 1 more than once.".to_owned(),
            ),
        ),
        ("t", 0, None, (Code::NoReassignmentInProgress.code(), "No partition reassignment is in progress.".to_owned())),
        ("x", 0, Some(&[1]), (Code::UnknownTopicOrPartition.code(), "Unable to find a topic named x.".to_owned())),
        ("t", 9, Some(&[1]), (Code::UnknownTopicOrPartition.code(), "Unable to find partition t:9.".to_owned())),
    ] {
        let partition = alter_partition_reassignments_request::ReassignablePartition::default()
            .with_partition_index(number)
            .with_replicas(replicas.map(|list: &[i32]| list.iter().map(|id| BrokerId(*id)).collect()));
        let asked = alter_partition_reassignments_request::ReassignableTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![asked]);
        let answer: AlterPartitionReassignmentsResponse = raw.call(1, &request).await;
        let got = &answer.responses[0].partitions[0];
        let message = got.error_message.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!((got.error_code, message), want, "{topic}:{number}");
    }
    let asked = describe_quorum_request::TopicData::default()
        .with_topic_name(TopicName(text("__cluster_metadata")))
        .with_partitions(vec![describe_quorum_request::PartitionData::default()]);
    let quorum: DescribeQuorumResponse = raw.call(2, &DescribeQuorumRequest::default().with_topics(vec![asked])).await;
    let partition = &quorum.topics[0].partitions[0];
    assert_eq!((quorum.error_code, partition.error_code, partition.leader_id), (0, 0, BrokerId(1)));
    assert_eq!((partition.current_voters.len(), quorum.nodes.len()), (1, 1));
    for (feature, level, kind, want) in [
        ("group.version", 1, 1, 0),
        ("metadata.version", 27, 1, 0),
        ("metadata.version", 26, 1, Code::InvalidUpdateVersion.code()),
        ("metadata.version", 99, 1, Code::InvalidUpdateVersion.code()),
        ("foo", 1, 1, Code::InvalidUpdateVersion.code()),
    ] {
        let update = update_features_request::FeatureUpdateKey::default()
            .with_feature(text(feature))
            .with_max_version_level(level)
            .with_upgrade_type(kind);
        let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]).with_validate_only(true);
        let answer: UpdateFeaturesResponse = raw.call(2, &request).await;
        assert_eq!(answer.error_code, want, "{feature} {level}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn quotas_are_kept_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let entity = alter_client_quotas_request::EntityData::default()
        .with_entity_type(text("user"))
        .with_entity_name(Some(text("u")));
    let op = alter_client_quotas_request::OpData::default().with_key(text("producer_byte_rate"));
    for (value, remove, is_trial, want) in
        [(5.0, false, true, 0), (5.0, false, false, 1), (-1.0, false, false, 1), (0.0, true, false, 0)]
    {
        let op = op.clone().with_value(value).with_remove(remove);
        let entry = alter_client_quotas_request::EntryData::default().with_entity(vec![entity.clone()]);
        let request = AlterClientQuotasRequest::default()
            .with_entries(vec![entry.with_ops(vec![op])])
            .with_validate_only(is_trial);
        let altered: AlterClientQuotasResponse = raw.call(1, &request).await;
        let code = if value < 0.0 { Code::InvalidRequest.code() } else { 0 };
        assert_eq!(altered.entries[0].error_code, code, "{value}");
        let described: DescribeClientQuotasResponse = raw.call(1, &DescribeClientQuotasRequest::default()).await;
        assert_eq!(described.entries.unwrap().len(), want, "{value} {remove}");
    }
    let component = describe_client_quotas_request::ComponentData::default().with_entity_type(text("foo"));
    let request = DescribeClientQuotasRequest::default().with_components(vec![component.with_match_type(2)]);
    let refused: DescribeClientQuotasResponse = raw.call(1, &request).await;
    assert_eq!(refused.error_code, Code::UnsupportedVersion.code());
    broker.stop().await;
}
