//! OffsetForLeaderEpoch (key 23), versions 2 to 4. Where a leader's epoch ends (KIP-101, KIP-320): there is one epoch,
//! which ends at the end of the log. Versions: 3 replicas say who they are, 4 flexible.

use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, check_epoch};
use crate::protocol::error::Code;

fn end_of(cx: &Context, topic: &str, number: i32, believed: i32, epoch: i32) -> Result<(i32, i64), Code> {
    cx.allowed(Operation::Describe, Resource::Topic(topic))?;
    let partition = cx.partition(topic, number)?;
    check_epoch(&partition, believed)?;
    let current = partition.leader_epoch();
    Ok(if epoch == current { (current, partition.high_watermark()) } else { (-1, -1) })
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            let epochs = (asked.current_leader_epoch, asked.leader_epoch);
            match end_of(cx, &topic.topic.0, asked.partition, epochs.0, epochs.1) {
                Ok((epoch, end)) => answer.with_leader_epoch(epoch).with_end_offset(end),
                Err(code) => answer.with_error_code(code.code()).with_leader_epoch(-1).with_end_offset(-1),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
