//! Offsets of partitions (where a log begins and ends) and of consumer groups (fetched and committed).
//!
//! In: partitions, a group. Out: offsets. Touches the network through [`Cluster`]; a leader or coordinator that moved is
//! asked again at its new place, within the time for one request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    BrokerId, GroupId, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::cluster::{Cluster, Coordinates, Use};
use super::connection::checked;
use super::error::WireError;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// Versions of ListOffsets: 2 knows the last stable offset.
const LIST_OFFSETS: (i16, i16) = (2, 6);
const OFFSET_FETCH: (i16, i16) = (2, 8);
const OFFSET_COMMIT: (i16, i16) = (2, 8);
/// How long the end of a partition is looked for: it may be gone with its topic.
const END: Duration = Duration::from_secs(10);
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const CONSUMER: BrokerId = BrokerId(-1);

/// An end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The oldest record.
    Start,
    /// Behind the newest record, or behind the last that no open transaction may change.
    Latest { committed_only: bool },
}

/// Who commits: `-1` and no member for consumers that are not in the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committer {
    pub generation: i32,
    pub member_id: String,
    pub instance_id: Option<String>,
    /// The ids of the topics that its offsets are of, where the log has ids.
    pub topic_ids: Arc<BTreeMap<Arc<str>, TopicId>>,
}

impl Default for Committer {
    fn default() -> Self {
        Self { generation: -1, member_id: String::new(), instance_id: None, topic_ids: Arc::default() }
    }
}

/// Metadata of an offset starts with this when it says of which topic it is.
const TOPIC_ID: &str = "topic_id=";

impl Committer {
    /// What is committed beside an offset: the id of its topic, so that a topic that was created anew is not read on from an
    /// offset of the old one.
    pub fn metadata(&self, topic: &str) -> StrBytes {
        self.topic_ids.get(topic).map_or_else(StrBytes::default, |id| text(&format!("{TOPIC_ID}{id}")))
    }
}

/// An offset that a group has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub next: i64,
    /// The id of its topic, if the metadata say it.
    pub topic_id: Option<TopicId>,
}

impl CommittedOffset {
    fn of(next: i64, metadata: Option<&StrBytes>) -> Self {
        let id = metadata.and_then(|metadata| metadata.as_str().strip_prefix(TOPIC_ID));
        Self { next, topic_id: id.and_then(TopicId::read) }
    }
}

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(crate) fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}

/// Waits between attempts, longer each time, until the time for all is over.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
    wait: Duration,
    longest: Duration,
}

impl Patience {
    pub fn of(cluster: &Cluster, limit: Duration) -> Self {
        let (wait, longest) = cluster.options().backoff;
        Self { deadline: Instant::now() + limit, wait, longest }
    }

    /// Waits; false when the time is over.
    pub async fn again(&mut self) -> bool {
        if Instant::now() + self.wait > self.deadline {
            return false;
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(self.longest);
        true
    }
}

/// An end of one partition.
pub(crate) async fn end_of(cluster: &Cluster, of: &TopicPartition, end: End) -> Result<i64, WireError> {
    let mut patience = Patience::of(cluster, END.min(cluster.options().request_timeout));
    loop {
        match try_end_of(cluster, of, end).await {
            Err(error) if error.is_retriable() => {
                cluster.forget(of);
                if !patience.again().await {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

async fn try_end_of(cluster: &Cluster, of: &TopicPartition, end: End) -> Result<i64, WireError> {
    let (timestamp, isolation) = match end {
        End::Start => (EARLIEST, 0),
        End::Latest { committed_only } => (LATEST, i8::from(committed_only)),
    };
    let connection = cluster.leader(of).await?;
    let part = ListOffsetsPartition::default().with_partition_index(of.partition).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(topic_name(&of.topic)).with_partitions(vec![part]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(CONSUMER)
        .with_isolation_level(isolation)
        .with_topics(vec![topic]);
    let answer = connection.call(&request, LIST_OFFSETS, cluster.options().request_timeout).await?;
    let part = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
    let part = part.ok_or_else(|| incomplete(cluster))?;
    checked(part.error_code, None)?;
    Ok(part.offset)
}

fn incomplete(cluster: &Cluster) -> WireError {
    WireError::Answer { address: cluster.brokers(), cause: "the partition is not in it".to_owned() }
}

/// Whether the coordinator has to be looked for, or asked once more.
pub(crate) fn coordinator_moved(cluster: &Cluster, kind: Coordinates, key: &str, error: &WireError) -> bool {
    match error.code() {
        Some(Code::CoordinatorLoadInProgress | Code::UnstableOffsetCommit | Code::ConcurrentTransactions) => true,
        Some(Code::NotCoordinator | Code::CoordinatorNotAvailable) => {
            cluster.forget_coordinator(kind, key);
            true
        }
        Some(code) => code.is_retriable(),
        None => {
            cluster.forget_coordinator(kind, key);
            error.is_retriable()
        }
    }
}

/// Partitions by topic.
pub(crate) fn by_topic<T>(all: impl IntoIterator<Item = (TopicPartition, T)>) -> BTreeMap<Arc<str>, Vec<(i32, T)>> {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, T)>> = BTreeMap::new();
    for (tp, value) in all {
        topics.entry(tp.topic).or_default().push((tp.partition, value));
    }
    topics
}

/// Offsets that a group committed; `None` where it never did. Waits for transactions that are about to change them.
pub(crate) async fn committed(
    cluster: &Cluster,
    group: &str,
    of: &[TopicPartition],
) -> Result<Vec<Option<CommittedOffset>>, WireError> {
    let mut patience = Patience::of(cluster, cluster.options().request_timeout * 2);
    loop {
        match try_committed(cluster, group, of).await {
            Err(error) if coordinator_moved(cluster, Coordinates::Group, group, &error) => {
                if !patience.again().await {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

async fn try_committed(
    cluster: &Cluster,
    group: &str,
    of: &[TopicPartition],
) -> Result<Vec<Option<CommittedOffset>>, WireError> {
    let connection = cluster.coordinator(Coordinates::Group, group, Use::Requests).await?;
    let topics = by_topic(of.iter().map(|tp| (tp.clone(), ())));
    let indexes = |all: &[(i32, ())]| all.iter().map(|(partition, ())| *partition).collect::<Vec<_>>();
    let request = |version: i16| {
        let request = OffsetFetchRequest::default().with_require_stable(version >= 7);
        if version >= 8 {
            let topics = topics.iter().map(|(topic, all)| {
                OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(indexes(all))
            });
            let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group)));
            request.with_groups(vec![group.with_topics(Some(topics.collect()))])
        } else {
            let topics = topics.iter().map(|(topic, all)| {
                OffsetFetchRequestTopic::default().with_name(topic_name(topic)).with_partition_indexes(indexes(all))
            });
            request.with_group_id(GroupId(text(group))).with_topics(Some(topics.collect()))
        }
    };
    let answer = connection.call_as(request, OFFSET_FETCH, cluster.options().request_timeout).await?;
    checked(answer.error_code, None)?;
    let mut found = BTreeMap::new();
    for topic in &answer.topics {
        for part in &topic.partitions {
            checked(part.error_code, None)?;
            let offset = CommittedOffset::of(part.committed_offset, part.metadata.as_ref());
            found.insert((topic.name.to_string(), part.partition_index), offset);
        }
    }
    for group in &answer.groups {
        checked(group.error_code, None)?;
        for topic in &group.topics {
            for part in &topic.partitions {
                checked(part.error_code, None)?;
                let offset = CommittedOffset::of(part.committed_offset, part.metadata.as_ref());
                found.insert((topic.name.to_string(), part.partition_index), offset);
            }
        }
    }
    let offset_of = |tp: &TopicPartition| found.get(&(tp.topic.to_string(), tp.partition)).copied();
    Ok(of.iter().map(|tp| offset_of(tp).filter(|offset| offset.next >= 0)).collect())
}

/// Commits a group's offsets: the next record of each partition.
pub(crate) async fn commit(
    cluster: &Cluster,
    group: &str,
    by: &Committer,
    next: &[(TopicPartition, i64)],
) -> Result<(), WireError> {
    if next.is_empty() {
        return Ok(());
    }
    let mut patience = Patience::of(cluster, cluster.options().request_timeout);
    loop {
        match try_commit(cluster, group, by, next).await {
            Err(error) if coordinator_moved(cluster, Coordinates::Group, group, &error) => {
                if !patience.again().await {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

async fn try_commit(
    cluster: &Cluster,
    group: &str,
    by: &Committer,
    next: &[(TopicPartition, i64)],
) -> Result<(), WireError> {
    let connection = cluster.coordinator(Coordinates::Group, group, Use::Requests).await?;
    let topics = by_topic(next.iter().cloned()).into_iter().map(|(topic, all)| {
        let parts = all.into_iter().map(|(partition, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
                .with_committed_metadata(Some(by.metadata(&topic)))
        });
        OffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(parts.collect())
    });
    let topics: Vec<_> = topics.collect();
    let request = |version: i16| {
        let instance = by.instance_id.as_deref().filter(|_| version >= 7).map(text);
        OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(by.generation)
            .with_member_id(text(&by.member_id))
            .with_group_instance_id(instance)
            .with_topics(topics.clone())
    };
    let answer = connection.call_as(request, OFFSET_COMMIT, cluster.options().request_timeout).await?;
    for part in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        checked(part.error_code, None)?;
    }
    Ok(())
}
