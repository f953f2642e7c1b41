//! One Fetch request at one leader, and where the whole batches of its answer end.
//!
//! In: partitions with their positions. Out: the answer. Touches the network through [`Cluster`].

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse};

use super::cluster::{Cluster, Use};
use super::decode::BatchHeader;
use super::error::WireError;
use super::offsets::{by_topic, topic_name};
use crate::kafka::ClientOptions;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// Versions of Fetch: 4 has the lists of aborted transactions.
const FETCH: (i16, i16) = (4, 12);
/// From this version on topics have ids instead of names: one that was created anew is not mistaken for the old one.
const FETCH_BY_ID: i16 = 13;

/// A partition that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub tp: TopicPartition,
    pub position: i64,
    /// Epoch of the leader that is asked.
    pub epoch: i32,
    pub max_bytes: i32,
    /// The id of its topic when the position was set.
    pub topic_id: Option<TopicId>,
}

/// One fetch at one leader.
pub(super) async fn ask(
    cluster: &Cluster,
    node: i32,
    committed_only: bool,
    options: &ClientOptions,
    parts: Vec<Asked>,
) -> Result<FetchResponse, WireError> {
    let connection = cluster.node(node, Use::Fetches).await?;
    let topics = by_topic(parts.into_iter().map(|asked| (asked.tp.clone(), asked)));
    let id_of = |parts: &[(i32, Asked)]| parts.first().and_then(|(_, asked)| asked.topic_id);
    let by_id = topics.values().all(|parts| id_of(parts).is_some());
    let versions = (FETCH.0, if by_id { FETCH_BY_ID } else { FETCH.1 });
    let request = |version: i16| {
        let topics = topics.iter().map(|(topic, parts)| {
            let id = id_of(parts);
            let parts = parts.iter().map(|(partition, asked)| {
                FetchPartition::default()
                    .with_partition(*partition)
                    .with_fetch_offset(asked.position)
                    .with_current_leader_epoch(if version >= 9 { asked.epoch } else { -1 })
                    .with_partition_max_bytes(asked.max_bytes)
            });
            let asked = FetchTopic::default().with_partitions(parts.collect());
            match id {
                Some(id) if version >= FETCH_BY_ID => asked.with_topic_id(id.uuid()),
                _ => asked.with_topic(topic_name(topic)),
            }
        });
        FetchRequest::default()
            .with_max_wait_ms(i32::try_from(options.fetch_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(options.fetch_min_bytes)
            .with_max_bytes(options.fetch_max_bytes)
            .with_isolation_level(i8::from(committed_only))
            .with_topics(topics.collect())
    };
    let mut answer = connection.call_as(request, versions, options.request_timeout + options.fetch_wait).await?;
    for topic in answer.responses.iter_mut().filter(|topic| topic.topic.is_empty()) {
        let named = topics.iter().find(|(_, parts)| id_of(parts) == TopicId::of(topic.topic_id));
        topic.topic = named.map(|(name, _)| topic_name(name)).unwrap_or_default();
    }
    Ok(answer)
}

/// Bytes of the whole batches that records begin with, and the offset behind the last of them.
pub(super) fn whole_batches(records: &[u8]) -> (usize, Option<i64>) {
    let (mut at, mut next) = (0, None);
    while let Some(header) = records.get(at..).and_then(BatchHeader::read) {
        at += header.size;
        next = Some(header.last_offset.saturating_add(1));
    }
    (at, next)
}
