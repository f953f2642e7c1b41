//! Access rules: made by clients, kept over a kill, asked by every request as Apache Kafka's StandardAuthorizer does.

use kafka_protocol::messages::*;
use kafka_protocol::protocol::Request;

use super::*;

const TOPIC_REFUSED: i16 = 29;
const GROUP_REFUSED: i16 = 30;
const CLUSTER_REFUSED: i16 = 31;
const TRANSACTION_REFUSED: i16 = 53;
const SECURITY_DISABLED: i16 = 54;
const INVALID_REQUEST: i16 = 42;

const TOPIC: i8 = 2;
const GROUP: i8 = 3;
const CLUSTER: i8 = 4;
const TRANSACTION: i8 = 5;

const ALL: i8 = 2;
const READ: i8 = 3;
const WRITE: i8 = 4;
const CREATE: i8 = 5;
const DESCRIBE: i8 = 8;
const IDEMPOTENT_WRITE: i8 = 12;

/// A rule that allows a user something.
fn rule(kind: i8, name: &str, user: &str, operation: i8) -> create_acls_request::AclCreation {
    create_acls_request::AclCreation::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_resource_pattern_type(3)
        .with_principal(text(&format!("User:{user}")))
        .with_host(text("*"))
        .with_operation(operation)
        .with_permission_type(3)
}

async fn allow(admin: &mut Raw, rules: Vec<create_acls_request::AclCreation>) -> Vec<i16> {
    let answer = admin.call(3, &CreateAclsRequest::default().with_creations(rules)).await.unwrap();
    answer.results.iter().map(|result| result.error_code).collect()
}

fn any() -> DescribeAclsRequest {
    DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(1)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1)
}

fn any_deletion() -> delete_acls_request::DeleteAclsFilter {
    delete_acls_request::DeleteAclsFilter::default()
        .with_resource_type_filter(1)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(1)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1)
}

#[tokio::test]
async fn rules_are_made_described_deleted_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    let good = rule(TOPIC, "logs", "alice", READ);
    let bad = [
        good.clone().with_resource_name(text("")),
        good.clone().with_principal(text("alice")),
        good.clone().with_resource_pattern_type(2),
        good.clone().with_operation(1),
        good.clone().with_permission_type(0),
        good.clone().with_host(text("")),
        rule(CLUSTER, "other", "alice", ALL),
    ];
    let mut all = vec![good.clone(), rule(TOPIC, "logs", "alice", WRITE), rule(GROUP, "g", "bob", READ)];
    all.extend(bad);
    let want = [[0; 3].as_slice(), &[INVALID_REQUEST; 7]].concat();
    assert_eq!(allow(&mut admin, all).await, want);
    let mut alice = Raw::log_in(broker.door("sasl"), "alice", "wonder").await;
    assert_eq!(alice.call(3, &any()).await.unwrap().error_code, CLUSTER_REFUSED);
    assert_eq!(allow(&mut alice, vec![good]).await, [CLUSTER_REFUSED]);
    let delete = |name: Option<&str>| {
        let filter = any_deletion().with_resource_name_filter(name.map(text));
        DeleteAclsRequest::default().with_filters(vec![filter])
    };
    assert_eq!(alice.call(3, &delete(None)).await.unwrap().filter_results[0].error_code, CLUSTER_REFUSED);
    broker.stop().await;

    let broker = Running::start(dir.path(), guarded()).await;
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    let described = admin.call(3, &any()).await.unwrap();
    let got: Vec<_> = described.resources.iter().map(|r| (r.resource_type, &*r.resource_name, r.acls.len())).collect();
    assert_eq!(got, [(TOPIC, "logs", 2), (GROUP, "g", 1)]);
    let unknown = any().with_operation(0);
    assert_eq!(admin.call(3, &unknown).await.unwrap().error_code, INVALID_REQUEST);
    let deleted = admin.call(3, &delete(Some("logs"))).await.unwrap();
    assert_eq!(deleted.filter_results[0].matching_acls.len(), 2);
    assert_eq!(admin.call(3, &any()).await.unwrap().resources.len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn without_enforcement_rules_are_told_to_be_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded();
    config.authorization.enabled = false;
    let broker = Running::start(dir.path(), config).await;
    let mut alice = Raw::log_in(broker.door("sasl"), "alice", "wonder").await;
    assert_eq!(alice.call(3, &any()).await.unwrap().error_code, SECURITY_DISABLED);
    assert_eq!(allow(&mut alice, vec![rule(TOPIC, "logs", "alice", READ)]).await, [SECURITY_DISABLED]);
    let quotas = DescribeClientQuotasRequest::default();
    assert_eq!(alice.call(1, &quotas).await.unwrap().entries, Some(Vec::new()));
    let entity = alter_client_quotas_request::EntityData::default().with_entity_type(text("user"));
    let entry = alter_client_quotas_request::EntryData::default().with_entity(vec![entity]);
    let altered = alice.call(1, &AlterClientQuotasRequest::default().with_entries(vec![entry])).await.unwrap();
    assert_eq!(altered.entries[0].error_code, INVALID_REQUEST);
    broker.stop().await;
}

async fn make_topic(raw: &mut Raw, name: &str) -> i16 {
    let topic = create_topics_request::CreatableTopic::default();
    let topic = topic.with_name(TopicName(text(name))).with_num_partitions(1).with_replication_factor(1);
    raw.call(7, &CreateTopicsRequest::default().with_topics(vec![topic])).await.unwrap().topics[0].error_code
}

/// What an answer says of each thing asked.
trait Codes: Request {
    fn codes(answer: &Self::Response) -> Vec<i16>;
}

macro_rules! codes {
    ($($request:ident: |$answer:ident| $codes:expr;)+) => {$(
        impl Codes for $request {
            fn codes($answer: &Self::Response) -> Vec<i16> {
                $codes
            }
        }
    )+};
}

codes! {
    ProduceRequest: |a| a.responses.iter().flat_map(|t| &t.partition_responses).map(|p| p.error_code).collect();
    FetchRequest: |a| a.responses.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
    ListOffsetsRequest: |a| a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
    MetadataRequest: |a| a.topics.iter().map(|t| t.error_code).collect();
    OffsetCommitRequest: |a| a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
    OffsetFetchRequest: |a| a.groups.iter().map(|g| g.error_code).collect();
    FindCoordinatorRequest: |a| a.coordinators.iter().map(|c| c.error_code).collect();
    JoinGroupRequest: |a| vec![a.error_code];
    SyncGroupRequest: |a| vec![a.error_code];
    HeartbeatRequest: |a| vec![a.error_code];
    LeaveGroupRequest: |a| vec![a.error_code];
    DescribeGroupsRequest: |a| a.groups.iter().map(|g| g.error_code).collect();
    DeleteGroupsRequest: |a| a.results.iter().map(|g| g.error_code).collect();
    OffsetDeleteRequest: |a| vec![a.error_code];
    CreateTopicsRequest: |a| a.topics.iter().map(|t| t.error_code).collect();
    DeleteTopicsRequest: |a| a.responses.iter().map(|t| t.error_code).collect();
    DeleteRecordsRequest: |a| a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
    CreatePartitionsRequest: |a| a.results.iter().map(|t| t.error_code).collect();
    DescribeConfigsRequest: |a| a.results.iter().map(|t| t.error_code).collect();
    AlterConfigsRequest: |a| a.responses.iter().map(|t| t.error_code).collect();
    IncrementalAlterConfigsRequest: |a| a.responses.iter().map(|t| t.error_code).collect();
    DescribeLogDirsRequest: |a| vec![a.error_code];
    ElectLeadersRequest: |a| vec![a.error_code];
    ListPartitionReassignmentsRequest: |a| vec![a.error_code];
    OffsetForLeaderEpochRequest: |a| a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
    InitProducerIdRequest: |a| vec![a.error_code];
    DescribeProducersRequest: |a| a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
    DescribeTopicPartitionsRequest: |a| a.topics.iter().map(|t| t.error_code).collect();
    DescribeUserScramCredentialsRequest: |a| vec![a.error_code];
    DescribeClientQuotasRequest: |a| vec![a.error_code];
}

async fn ask<T: Codes>(raw: &mut Raw, version: i16, request: T) -> Vec<i16> {
    T::codes(&raw.call(version, &request).await.unwrap())
}

fn topic() -> TopicName {
    TopicName(text("logs"))
}

fn group() -> GroupId {
    GroupId(text("g"))
}

fn produce() -> ProduceRequest {
    let part = produce_request::PartitionProduceData::default().with_records(Some(Bytes::new()));
    let data = produce_request::TopicProduceData::default().with_name(topic()).with_partition_data(vec![part]);
    ProduceRequest::default().with_acks(1).with_topic_data(vec![data])
}

fn fetch() -> FetchRequest {
    let part = fetch_request::FetchPartition::default().with_partition_max_bytes(1000);
    let asked = fetch_request::FetchTopic::default().with_topic(topic()).with_partitions(vec![part]);
    FetchRequest::default().with_max_bytes(1000).with_topics(vec![asked])
}

fn list_offsets() -> ListOffsetsRequest {
    let part = list_offsets_request::ListOffsetsPartition::default().with_timestamp(-1);
    let asked = list_offsets_request::ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![part]);
    ListOffsetsRequest::default().with_topics(vec![asked])
}

fn metadata(name: &str) -> MetadataRequest {
    let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
    MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true)
}

#[tokio::test]
async fn who_has_no_rule_is_refused_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    assert_eq!(make_topic(&mut admin, "logs").await, 0);
    let mut raw = Raw::log_in(broker.door("sasl"), "bob", "builder").await;
    let raw = &mut raw;
    assert_eq!(ask(raw, 9, produce()).await, [TOPIC_REFUSED]);
    assert_eq!(ask(raw, 12, fetch()).await, [TOPIC_REFUSED]);
    assert_eq!(ask(raw, 7, list_offsets()).await, [TOPIC_REFUSED]);
    assert_eq!(ask(raw, 12, metadata("logs")).await, [TOPIC_REFUSED]);
    assert_eq!(ask(raw, 12, metadata("not-there")).await, [TOPIC_REFUSED], "nobody learns which topics there are");
    assert_eq!(ask(raw, 12, MetadataRequest::default().with_topics(None)).await, [0; 0], "left out of all");
    assert_eq!(make_topic(raw, "new").await, TOPIC_REFUSED);
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![topic()]);
    assert_eq!(ask(raw, 5, delete).await, [TOPIC_REFUSED]);
    let part = delete_records_request::DeleteRecordsPartition::default();
    let asked = delete_records_request::DeleteRecordsTopic::default().with_name(topic()).with_partitions(vec![part]);
    assert_eq!(ask(raw, 2, DeleteRecordsRequest::default().with_topics(vec![asked])).await, [TOPIC_REFUSED]);
    let grow = create_partitions_request::CreatePartitionsTopic::default().with_name(topic()).with_count(9);
    assert_eq!(ask(raw, 3, CreatePartitionsRequest::default().with_topics(vec![grow])).await, [TOPIC_REFUSED]);
    let resource = |kind: i8, name: &str| {
        describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
    };
    let described = DescribeConfigsRequest::default();
    let described = described.with_resources(vec![resource(2, "logs"), resource(4, "1"), resource(32, "g")]);
    assert_eq!(ask(raw, 4, described).await, [TOPIC_REFUSED, CLUSTER_REFUSED, GROUP_REFUSED]);
    let alter = alter_configs_request::AlterConfigsResource::default();
    let alter = alter.with_resource_type(2).with_resource_name(text("logs"));
    assert_eq!(ask(raw, 2, AlterConfigsRequest::default().with_resources(vec![alter])).await, [TOPIC_REFUSED]);
    let alter = |kind: i8, name: &str| {
        let alter = incremental_alter_configs_request::AlterConfigsResource::default();
        alter.with_resource_type(kind).with_resource_name(text(name))
    };
    let alter = vec![alter(2, "logs"), alter(4, "1"), alter(32, "g")];
    let want = [TOPIC_REFUSED, CLUSTER_REFUSED, GROUP_REFUSED];
    assert_eq!(ask(raw, 1, IncrementalAlterConfigsRequest::default().with_resources(alter)).await, want);
    assert_eq!(ask(raw, 4, DescribeLogDirsRequest::default().with_topics(None)).await, [CLUSTER_REFUSED]);
    assert_eq!(ask(raw, 2, ElectLeadersRequest::default().with_topic_partitions(None)).await, [CLUSTER_REFUSED]);
    let moving = ListPartitionReassignmentsRequest::default().with_topics(None);
    assert_eq!(ask(raw, 0, moving).await, [CLUSTER_REFUSED]);
    let part = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
    let asked = offset_for_leader_epoch_request::OffsetForLeaderTopic::default().with_topic(topic());
    let asked = OffsetForLeaderEpochRequest::default().with_topics(vec![asked.with_partitions(vec![part])]);
    assert_eq!(ask(raw, 4, asked).await, [TOPIC_REFUSED]);
    let asked = describe_producers_request::TopicRequest::default().with_name(topic()).with_partition_indexes(vec![0]);
    assert_eq!(ask(raw, 0, DescribeProducersRequest::default().with_topics(vec![asked])).await, [TOPIC_REFUSED]);
    let asked = describe_topic_partitions_request::TopicRequest::default().with_name(topic());
    assert_eq!(ask(raw, 0, DescribeTopicPartitionsRequest::default().with_topics(vec![asked])).await, [TOPIC_REFUSED]);
    assert_eq!(ask(raw, 0, DescribeUserScramCredentialsRequest::default()).await, [CLUSTER_REFUSED]);
    assert_eq!(ask(raw, 1, DescribeClientQuotasRequest::default()).await, [CLUSTER_REFUSED]);
    groups_are_closed(raw).await;
    let id = Some(TransactionalId(text("tx")));
    assert_eq!(ask(raw, 4, InitProducerIdRequest::default().with_transactional_id(id)).await, [TRANSACTION_REFUSED]);
    let plain = InitProducerIdRequest::default().with_transactional_id(None);
    assert_eq!(ask(raw, 4, plain.clone()).await, [CLUSTER_REFUSED]);
    allow(&mut admin, vec![rule(TOPIC, "anything", "bob", WRITE)]).await;
    assert_eq!(ask(raw, 4, plain).await, [0], "who may write to any topic may do so with an id");
    let cluster = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    assert_eq!(raw.call(0, &cluster).await.unwrap().cluster_authorized_operations, 0);
    assert_eq!(admin.call(0, &cluster).await.unwrap().cluster_authorized_operations, 0x1fa0);
    assert!(!broker.metrics().contains("millrace_log_denied_total 0"));
    broker.stop().await;
}

async fn groups_are_closed(raw: &mut Raw) {
    let coordinator =
        |kind: i8| FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(vec![text("g")]);
    assert_eq!(ask(raw, 4, coordinator(0)).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 4, coordinator(1)).await, [TRANSACTION_REFUSED]);
    assert_eq!(ask(raw, 7, JoinGroupRequest::default().with_group_id(group())).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 5, SyncGroupRequest::default().with_group_id(group())).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 4, HeartbeatRequest::default().with_group_id(group())).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 5, LeaveGroupRequest::default().with_group_id(group())).await, [GROUP_REFUSED]);
    let described = DescribeGroupsRequest::default().with_groups(vec![group()]);
    assert_eq!(ask(raw, 5, described).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 2, DeleteGroupsRequest::default().with_groups_names(vec![group()])).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 0, OffsetDeleteRequest::default().with_group_id(group())).await, [GROUP_REFUSED]);
    assert_eq!(ask(raw, 8, commit()).await, [GROUP_REFUSED]);
    let fetched = offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None);
    assert_eq!(ask(raw, 8, OffsetFetchRequest::default().with_groups(vec![fetched])).await, [GROUP_REFUSED]);
    assert!(raw.call(4, &ListGroupsRequest::default()).await.unwrap().groups.is_empty());
}

fn commit() -> OffsetCommitRequest {
    let part = offset_commit_request::OffsetCommitRequestPartition::default().with_committed_offset(1);
    let asked = offset_commit_request::OffsetCommitRequestTopic::default().with_name(topic());
    let asked = asked.with_partitions(vec![part]);
    OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![asked])
}

#[tokio::test]
async fn commits_need_the_group_and_each_topic() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    assert_eq!(make_topic(&mut admin, "logs").await, 0);
    let mut raw = Raw::log_in(broker.door("sasl"), "bob", "builder").await;
    allow(&mut admin, vec![rule(GROUP, "g", "bob", READ)]).await;
    assert_eq!(ask(&mut raw, 8, commit()).await, [TOPIC_REFUSED]);
    allow(&mut admin, vec![rule(TOPIC, "logs", "bob", READ)]).await;
    assert_eq!(ask(&mut raw, 8, commit()).await, [0]);
    let groups = raw.call(4, &ListGroupsRequest::default()).await.unwrap().groups;
    assert_eq!(groups.len(), 1, "Read implies Describe");
    let deleted = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
    assert_eq!(ask(&mut raw, 2, deleted).await, [GROUP_REFUSED]);
    allow(
        &mut admin,
        vec![rule(TRANSACTION, "tx", "bob", WRITE), rule(CLUSTER, "kafka-cluster", "bob", IDEMPOTENT_WRITE)],
    )
    .await;
    let id = |id: Option<&str>| {
        InitProducerIdRequest::default()
            .with_transactional_id(id.map(|id| TransactionalId(text(id))))
            .with_transaction_timeout_ms(1000)
    };
    assert_eq!(ask(&mut raw, 4, id(Some("tx"))).await, [0]);
    assert_eq!(ask(&mut raw, 4, id(Some("other"))).await, [TRANSACTION_REFUSED]);
    assert_eq!(ask(&mut raw, 4, id(None)).await, [0]);
    broker.stop().await;
}

#[tokio::test]
async fn each_rule_opens_what_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), guarded()).await;
    let mut admin = Raw::log_in(broker.door("sasl"), "admin", "admin-secret").await;
    assert_eq!(make_topic(&mut admin, "logs").await, 0);
    let mut raw = Raw::log_in(broker.door("sasl"), "bob", "builder").await;
    let raw = &mut raw;
    allow(&mut admin, vec![rule(TOPIC, "logs", "bob", READ)]).await;
    assert_eq!(ask(raw, 12, fetch()).await, [0]);
    assert_eq!(ask(raw, 7, list_offsets()).await, [0], "Read implies Describe");
    assert_eq!(ask(raw, 9, produce()).await, [TOPIC_REFUSED]);
    let all = MetadataRequest::default().with_topics(None).with_include_topic_authorized_operations(true);
    let seen = raw.call(12, &all).await.unwrap();
    let seen: Vec<_> =
        seen.topics.iter().map(|t| (t.name.clone().unwrap().0.to_string(), t.topic_authorized_operations)).collect();
    assert_eq!(seen, [("logs".to_owned(), 1 << READ | 1 << DESCRIBE)]);
    let prefixed = rule(TOPIC, "app-", "bob", CREATE).with_resource_pattern_type(4);
    let describe = rule(TOPIC, "app-", "bob", DESCRIBE).with_resource_pattern_type(4);
    allow(&mut admin, vec![prefixed, describe]).await;
    assert_eq!(ask(raw, 12, metadata("app-one")).await, [0], "made on first use");
    assert_eq!(ask(raw, 12, metadata("application")).await, [TOPIC_REFUSED]);
    assert_eq!(make_topic(raw, "app-two").await, 0);
    let deny = rule(TOPIC, "app-one", "*", ALL).with_permission_type(2);
    allow(&mut admin, vec![deny]).await;
    assert_eq!(ask(raw, 12, metadata("app-one")).await, [TOPIC_REFUSED], "a deny outdoes an allow");
    let elsewhere = rule(TOPIC, "logs", "bob", WRITE).with_host(text("10.1.2.3"));
    allow(&mut admin, vec![elsewhere]).await;
    assert_eq!(ask(raw, 9, produce()).await, [TOPIC_REFUSED], "from another host only");
    allow(&mut admin, vec![rule(TOPIC, "logs", "bob", WRITE).with_host(text("127.0.0.1"))]).await;
    assert_ne!(ask(raw, 9, produce()).await, [TOPIC_REFUSED]);
    broker.stop().await;
}
