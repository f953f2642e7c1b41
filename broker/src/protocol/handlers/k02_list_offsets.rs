//! ListOffsets (key 2), versions 1 to 10. Offsets by time and the special times of Kafka.
//!
//! Behaviour: -1 latest, -2 earliest, -3 the record with the largest timestamp (KIP-734, version 7), -4 earliest on
//! local disk (KIP-405, version 8: the same as earliest), -5 latest in tiered storage (KIP-1005, version 9: none). A
//! time gives the first record at or after it. Versions: 2 isolation (read-committed: nothing from the last stable offset on), 4 leader epochs,
//! 6 flexible, 10 time-out (KIP-1075), answered at once anyway.

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, check_epoch};
use crate::protocol::error::{Code, read_code};

const NONE: (i64, i64, i32) = (-1, -1, -1);

/// Timestamp, offset and leader epoch.
async fn look_up(
    cx: &Context,
    topic: &str,
    asked: &ListOffsetsPartition,
    is_committed: bool,
) -> Result<(i64, i64, i32), Code> {
    cx.allowed(Operation::Describe, Resource::Topic(topic))?;
    let partition = cx.partition(topic, asked.partition_index)?;
    check_epoch(&partition, asked.current_leader_epoch)?;
    let epoch = partition.leader_epoch();
    let end = if is_committed { partition.last_stable_offset() } else { partition.high_watermark() };
    let found = match asked.timestamp {
        -1 => return Ok((-1, end, epoch)),
        -2 | -4 => return Ok((-1, partition.log_start_offset(), epoch)),
        -3 => partition.max_timestamp().await,
        -5 => return Ok(NONE),
        time if time >= 0 => partition.offset_for_time(time).await,
        _ => return Err(Code::UnsupportedVersion),
    };
    let found = found.map_err(|e| read_code(&e))?.filter(|found| found.offset < end);
    Ok(found.map_or(NONE, |found| (found.timestamp_ms, found.offset, epoch)))
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let is_committed = request.isolation_level == 1;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            partitions.push(match look_up(cx, &topic.name.0, &asked, is_committed).await {
                Ok((timestamp, offset, epoch)) => {
                    let answer = answer.with_timestamp(timestamp).with_offset(offset);
                    if cx.version >= 4 { answer.with_leader_epoch(epoch) } else { answer }
                }
                Err(code) => answer.with_error_code(code.code()),
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}
