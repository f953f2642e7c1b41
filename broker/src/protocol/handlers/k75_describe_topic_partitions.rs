//! DescribeTopicPartitions (key 75), version 0. Partitions of topics in pages with a cursor (KIP-966).
//!
//! Behaviour: topics in the order of their names, from the cursor on; without a list, all. A page ends after the limit
//! (2000 at most) and tells where the next one begins.

use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::Code;
use crate::protocol::internal_topics::is_internal;
use crate::protocol::wire::text;
use millrace_log::record::is_topic_name;

const MAX_PAGE: i32 = 2000;

/// Answers.
pub(crate) fn handle(cx: &Context, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let mut names: Vec<String> = if request.topics.is_empty() {
        let all = cx.core.storage.topics();
        let seen = all.iter().map(|t| t.name()).filter(|name| cx.sees(Operation::Describe, Resource::Topic(name)));
        seen.map(str::to_owned).collect()
    } else {
        request.topics.iter().map(|t| t.name.0.to_string()).collect()
    };
    names.sort();
    names.dedup();
    let (from_name, mut from) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.0.to_string(), cursor.partition_index.max(0)),
        None => (String::new(), 0),
    };
    let mut left = request.response_partition_limit.clamp(1, MAX_PAGE);
    let mut answers = Vec::new();
    let mut next = None;
    for name in names.into_iter().filter(|name| *name >= from_name) {
        if name != from_name {
            from = 0;
        }
        if left == 0 {
            next = Some((name, 0));
            break;
        }
        let answer = DescribeTopicPartitionsResponseTopic::default().with_name(Some(TopicName(text(&name))));
        if let Err(code) = cx.allowed(Operation::Describe, Resource::Topic(&name)) {
            answers.push(answer.with_error_code(code.code()));
            continue;
        }
        let Some(topic) = cx.core.storage.topic(&name) else {
            let code = if is_topic_name(&name) { Code::UnknownTopicOrPartition } else { Code::InvalidTopicException };
            answers.push(answer.with_error_code(code.code()));
            continue;
        };
        let end = topic.partition_count().min(from.saturating_add(left));
        let partitions = (from..end).map(|number| {
            DescribeTopicPartitionsResponsePartition::default()
                .with_partition_index(number)
                .with_leader_id(NODE)
                .with_leader_epoch(0)
                .with_replica_nodes(vec![NODE])
                .with_isr_nodes(vec![NODE])
                .with_eligible_leader_replicas(Some(Vec::new()))
                .with_last_known_elr(Some(Vec::new()))
        });
        let partitions: Vec<_> = partitions.collect();
        left -= i32::try_from(partitions.len()).unwrap_or(left);
        answers.push(
            answer
                .with_topic_id(topic.id())
                .with_is_internal(is_internal(&name))
                .with_partitions(partitions)
                .with_topic_authorized_operations(cx.operations(Resource::Topic(&name))),
        );
        if end < topic.partition_count() {
            next = Some((name, end));
            break;
        }
    }
    let cursor =
        next.map(|(name, at)| Cursor::default().with_topic_name(TopicName(text(&name))).with_partition_index(at));
    DescribeTopicPartitionsResponse::default().with_topics(answers).with_next_cursor(cursor)
}
