//! DeleteRecords (key 21), versions 0 to 2. Moves the log start offset of partitions (KIP-107).
//!
//! Behaviour: topics whose `cleanup.policy` lacks `delete` get POLICY_VIOLATION; -1 means the high watermark; past it OFFSET_OUT_OF_RANGE; before the log start nothing changes. Versions:
//! 2 flexible.

use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, read_code};
use crate::protocol::topics;

async fn delete(cx: &Context, topic: &str, number: i32, before: i64) -> Result<i64, Code> {
    cx.allowed(Operation::Delete, Resource::Topic(topic))?;
    topics::refuse_internal(topic).map_err(|(code, _)| code)?;
    let partition = cx.partition(topic, number)?;
    if cx.core.storage.topic(topic).is_some_and(|topic| !topic.settings().deletes(cx.core.storage.config())) {
        return Err(Code::PolicyViolation);
    }
    if before < -1 || before > partition.high_watermark() {
        return Err(Code::OffsetOutOfRange);
    }
    partition.delete_records(before).await.map_err(|e| read_code(&e))
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            partitions.push(match delete(cx, &topic.name.0, asked.partition_index, asked.offset).await {
                Ok(low) => answer.with_low_watermark(low),
                Err(code) => answer.with_error_code(code.code()).with_low_watermark(-1),
            });
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}
