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

/// Versions of Fetch: 4 has the lists of aborted transactions; from 13 on topics have ids instead of names.
const FETCH: (i16, i16) = (4, 12);

/// A partition that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub tp: TopicPartition,
    pub position: i64,
    /// Epoch of the leader that is asked.
    pub epoch: i32,
    pub max_bytes: i32,
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
    let request = |version: i16| {
        let topics = topics.iter().map(|(topic, parts)| {
            let parts = parts.iter().map(|(partition, asked)| {
                FetchPartition::default()
                    .with_partition(*partition)
                    .with_fetch_offset(asked.position)
                    .with_current_leader_epoch(if version >= 9 { asked.epoch } else { -1 })
                    .with_partition_max_bytes(asked.max_bytes)
            });
            FetchTopic::default().with_topic(topic_name(topic)).with_partitions(parts.collect())
        });
        FetchRequest::default()
            .with_max_wait_ms(i32::try_from(options.fetch_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(options.fetch_min_bytes)
            .with_max_bytes(options.fetch_max_bytes)
            .with_isolation_level(i8::from(committed_only))
            .with_topics(topics.collect())
    };
    connection.call_as(request, FETCH, options.request_timeout + options.fetch_wait).await
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
