//! Topics of any Kafka: what there is, made, changed, trimmed, deleted.
//!
//! In: names, numbers, settings. Out: what the cluster says. Touches the network through [`Admin`].

use std::collections::BTreeMap;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest,
};

use super::error::{self, AdminError};
use super::session::{Admin, RETRY, SETTLE};
use crate::native::offsets::{text, topic_name};
use crate::record::TopicPartition;

/// Kafka's number for a topic among the things that have settings.
const RESOURCE_TOPIC: i8 = 2;
/// Kafka's number for a value that the topic itself was told.
const SOURCE_TOPIC: i8 = 1;
const TIMEOUT_MS: i32 = 30_000;

/// One partition as metadata tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: i32,
    /// Node id of the leader, -1 if there is none.
    pub leader: i32,
    /// Node ids of all replicas.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync: Vec<i32>,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id, all zeros on old clusters.
    pub id: uuid::Uuid,
    /// Kept by the brokers for themselves.
    pub internal: bool,
    /// Sorted by number.
    pub partitions: Vec<PartitionInfo>,
}

/// One setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSetting {
    /// Kafka's name.
    pub name: String,
    /// The value in force.
    pub value: String,
    /// Whether the topic itself was told so; else it is a default.
    pub is_set: bool,
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Partitions, -1: the cluster's default.
    pub partitions: i32,
    /// Replicas, -1: the cluster's default.
    pub replication: i16,
    /// Settings by Kafka's names.
    pub settings: Vec<(String, String)>,
}

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OffsetAt {
    /// The first that is kept.
    Start,
    /// One past the last record (high watermark).
    End,
    /// One past the last record that no open transaction holds back (last stable offset).
    StableEnd,
    /// The first record of this time (ms since 1970) or later; `None` in the answer where there is none.
    Time(i64),
}

impl OffsetAt {
    fn wire(self) -> (i64, i8) {
        match self {
            Self::Start => (-2, 0),
            Self::End => (-1, 0),
            Self::StableEnd => (-1, 1),
            Self::Time(ms) => (ms, 0),
        }
    }
}

impl Admin {
    /// All topics, sorted by name.
    pub async fn topics(&mut self) -> Result<Vec<TopicInfo>, AdminError> {
        let answer = self.metadata(None).await?;
        let mut all: Vec<TopicInfo> = answer.topics.iter().filter(|t| t.error_code == 0).map(info).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// One topic; waits a moment while its leaders settle.
    pub async fn topic(&mut self, name: &str) -> Result<TopicInfo, AdminError> {
        let deadline = tokio::time::Instant::now() + SETTLE;
        loop {
            let answer = self.metadata(Some(&[name])).await?;
            match answer.topics.first() {
                Some(topic) if topic.error_code == 0 => return Ok(info(topic)),
                Some(topic) if error::passes(topic.error_code) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                Some(topic) => return Err(self.refused(format!("topic `{name}`"), topic.error_code, None)),
                None => return Err(self.refused(format!("topic `{name}`"), 3, None)),
            }
        }
    }

    /// Offsets of partitions; those that can't be told (no leader, no record of that time) are left out.
    pub async fn offsets(
        &mut self,
        topics: &[TopicInfo],
        at: OffsetAt,
    ) -> Result<BTreeMap<TopicPartition, i64>, AdminError> {
        let mut wanted = Vec::new();
        for topic in topics {
            wanted.extend(topic.partitions.iter().map(|p| (topic.name.as_str(), p.partition, p.leader, at)));
        }
        self.offsets_of(&wanted).await
    }

    /// Offsets of (topic, partition, leader).
    pub async fn offsets_of(
        &mut self,
        wanted: &[(&str, i32, i32, OffsetAt)],
    ) -> Result<BTreeMap<TopicPartition, i64>, AdminError> {
        let mut questions: BTreeMap<(i32, i8), BTreeMap<&str, Vec<ListOffsetsPartition>>> = BTreeMap::new();
        for (topic, partition, leader, at) in wanted.iter().copied().filter(|(_, _, leader, _)| *leader >= 0) {
            let (timestamp, isolation) = at.wire();
            let of = ListOffsetsPartition::default()
                .with_partition_index(partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(timestamp);
            questions.entry((leader, isolation)).or_default().entry(topic).or_default().push(of);
        }
        let mut found = BTreeMap::new();
        for ((leader, isolation), topics) in questions {
            let topics = topics.into_iter().map(|(topic, partitions)| {
                ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(isolation)
                .with_topics(topics.collect());
            let answer = self.ask_node(leader, &request, 9).await?;
            for topic in answer.topics {
                for partition in topic.partitions {
                    let tp = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                    if error::passes(partition.error_code) {
                        continue;
                    }
                    self.accept(|| format!("offsets of {tp}"), partition.error_code, None)?;
                    if partition.offset >= 0 {
                        found.insert(tp, partition.offset);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Bytes on disk of each partition's leader; empty where the cluster does not tell.
    pub async fn sizes(&mut self, topics: &[TopicInfo]) -> Result<BTreeMap<TopicPartition, u64>, AdminError> {
        let mut leaders = BTreeMap::new();
        for topic in topics {
            for partition in &topic.partitions {
                leaders.insert(TopicPartition::new(topic.name.as_str(), partition.partition), partition.leader);
            }
        }
        let mut sizes = BTreeMap::new();
        let nodes: Vec<i32> = self.nodes.keys().copied().collect();
        for node in nodes {
            let request = DescribeLogDirsRequest::default().with_topics(None);
            let answer = match self.ask_node(node, &request, 4).await {
                Ok(answer) => answer,
                Err(AdminError::Unsupported { .. }) => continue,
                Err(error) => return Err(error),
            };
            for topic in answer.results.into_iter().flat_map(|folder| folder.topics) {
                for partition in topic.partitions.into_iter().filter(|p| !p.is_future_key) {
                    let tp = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                    if leaders.get(&tp) == Some(&node) {
                        sizes.insert(tp, u64::try_from(partition.partition_size).unwrap_or(0));
                    }
                }
            }
        }
        Ok(sizes)
    }

    /// Settings of topics, sorted by name; of all settings, or of those named.
    pub async fn settings(
        &mut self,
        topics: &[&str],
        names: Option<&[&str]>,
    ) -> Result<BTreeMap<String, Vec<TopicSetting>>, AdminError> {
        let resource = |topic: &&str| {
            DescribeConfigsResource::default()
                .with_resource_type(RESOURCE_TOPIC)
                .with_resource_name(text(topic))
                .with_configuration_keys(names.map(|names| names.iter().map(|n| text(n)).collect()))
        };
        let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
        let answer = self.ask_any(&request, 4).await?;
        let mut found = BTreeMap::new();
        for of in answer.results {
            self.accept(|| format!("topic `{}`", of.resource_name), of.error_code, of.error_message.as_ref())?;
            let mut settings: Vec<TopicSetting> = of
                .configs
                .iter()
                .map(|c| TopicSetting {
                    name: c.name.to_string(),
                    value: c.value.as_ref().map(ToString::to_string).unwrap_or_default(),
                    is_set: c.config_source == SOURCE_TOPIC,
                })
                .collect();
            settings.sort_by(|a, b| a.name.cmp(&b.name));
            found.insert(of.resource_name.to_string(), settings);
        }
        Ok(found)
    }

    /// Makes a topic and waits until it is there; the number of its partitions.
    pub async fn create_topic(&mut self, new: &NewTopic, only_check: bool) -> Result<i32, AdminError> {
        let configs = new
            .settings
            .iter()
            .map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value))));
        let topic = CreatableTopic::default()
            .with_name(topic_name(&new.name))
            .with_num_partitions(new.partitions)
            .with_replication_factor(new.replication)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(only_check);
        let answer = self.ask_any(&request, 7).await?;
        for made in &answer.topics {
            self.accept(|| format!("topic `{}`", new.name), made.error_code, made.error_message.as_ref())?;
        }
        if only_check {
            return Ok(answer.topics.first().map_or(new.partitions, |made| made.num_partitions));
        }
        let deadline = tokio::time::Instant::now() + SETTLE;
        loop {
            match self.topic(&new.name).await {
                Ok(topic) if topic.partitions.iter().all(|p| p.leader >= 0) => {
                    return Ok(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
                }
                // Made is not yet told to all nodes.
                Err(error) if !error.is_topic_missing() || tokio::time::Instant::now() > deadline => return Err(error),
                _ => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Deletes a topic.
    pub async fn delete_topic(&mut self, name: &str) -> Result<(), AdminError> {
        let request = |version: i16| {
            let request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
            match version {
                ..=5 => request.with_topic_names(vec![topic_name(name)]),
                _ => request.with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(name)))]),
            }
        };
        let answer = self.ask_any_as(&request, 6).await?;
        for gone in &answer.responses {
            self.accept(|| format!("topic `{name}`"), gone.error_code, gone.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Sets and resets settings; the others stay.
    pub async fn alter_topic(
        &mut self,
        name: &str,
        set: &[(String, String)],
        reset: &[String],
    ) -> Result<(), AdminError> {
        let mut configs = Vec::new();
        for (setting, value) in set {
            let change = AlterableConfig::default().with_name(text(setting)).with_config_operation(0);
            configs.push(change.with_value(Some(text(value))));
        }
        for setting in reset {
            configs.push(AlterableConfig::default().with_name(text(setting)).with_config_operation(1).with_value(None));
        }
        let resource = AlterConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(text(name))
            .with_configs(configs);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.ask_any(&request, 1).await?;
        for changed in &answer.responses {
            self.accept(|| format!("topic `{name}`"), changed.error_code, changed.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Adds partitions up to a number.
    pub async fn grow_topic(&mut self, name: &str, partitions: i32) -> Result<(), AdminError> {
        let topic =
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(partitions).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let answer = self.ask_any(&request, 3).await?;
        for grown in &answer.results {
            self.accept(|| format!("topic `{name}`"), grown.error_code, grown.error_message.as_ref())?;
        }
        Ok(())
    }

    /// Deletes records before an offset, -1: all. The new start of each partition.
    pub async fn trim(
        &mut self,
        topic: &TopicInfo,
        before: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>, AdminError> {
        let mut by_leader: BTreeMap<i32, Vec<DeleteRecordsPartition>> = BTreeMap::new();
        for (number, offset) in before {
            let leader = topic.partitions.iter().find(|p| p.partition == *number).map_or(-1, |p| p.leader);
            let of = DeleteRecordsPartition::default().with_partition_index(*number).with_offset(*offset);
            by_leader.entry(leader).or_default().push(of);
        }
        let mut starts = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let of = DeleteRecordsTopic::default().with_name(topic_name(&topic.name)).with_partitions(partitions);
            let request = DeleteRecordsRequest::default().with_topics(vec![of]).with_timeout_ms(TIMEOUT_MS);
            let answer = self.ask_node(leader, &request, 2).await?;
            for partition in answer.topics.into_iter().flat_map(|t| t.partitions) {
                let number = partition.partition_index;
                self.accept(|| format!("partition {}-{number}", topic.name), partition.error_code, None)?;
                starts.insert(number, partition.low_watermark);
            }
        }
        Ok(starts)
    }
}

fn info(topic: &kafka_protocol::messages::metadata_response::MetadataResponseTopic) -> TopicInfo {
    let mut partitions: Vec<PartitionInfo> = topic
        .partitions
        .iter()
        .map(|p| PartitionInfo {
            partition: p.partition_index,
            leader: p.leader_id.0,
            replicas: p.replica_nodes.iter().map(|n| n.0).collect(),
            in_sync: p.isr_nodes.iter().map(|n| n.0).collect(),
        })
        .collect();
    partitions.sort_by_key(|p| p.partition);
    let name = topic.name.as_ref().map(|n| n.to_string()).unwrap_or_default();
    TopicInfo { name, id: topic.topic_id, internal: topic.is_internal, partitions }
}
