//! DescribeProducers (key 61), version 0. The producers that a partition knows, with where their open transactions begin
//! (KIP-664).

use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, read_code};
use crate::protocol::wire::{once, text};

async fn look_up(cx: &Context, topic: &str, number: i32) -> Result<Vec<ProducerState>, Code> {
    cx.allowed(Operation::Read, Resource::Topic(topic))?;
    let producers = cx.partition(topic, number)?.producers().await.map_err(|e| read_code(&e))?;
    let state = |p: crate::storage::ProducerState| {
        ProducerState::default()
            .with_producer_id(ProducerId(p.producer_id))
            .with_producer_epoch(i32::from(p.epoch))
            .with_last_sequence(p.last_sequence)
            .with_last_timestamp(p.last_timestamp_ms)
            .with_coordinator_epoch(p.coordinator_epoch)
            .with_current_txn_start_offset(p.txn_first_offset.unwrap_or(-1))
    };
    Ok(producers.into_iter().map(state).collect())
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in once(request.topics, |topic| topic.name.clone()) {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for number in once(topic.partition_indexes, |number| *number) {
            let answer = PartitionResponse::default().with_partition_index(number);
            partitions.push(match look_up(cx, &topic.name.0, number).await {
                Ok(producers) => answer.with_active_producers(producers).with_error_message(None),
                Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(&code.to_string()))),
            });
        }
        topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}
