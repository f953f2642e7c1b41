//! OffsetDelete (key 47), version 0. Forgets offsets of a group, except of topics that its members read (KIP-496).

use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, group_code};
use millrace_log::record::TopicPartition;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    if let Err(code) = cx.allowed(Operation::Delete, Resource::Group(&request.group_id.0)) {
        return OffsetDeleteResponse::default().with_error_code(code.code());
    }
    let may_read: Vec<Result<(), Code>> =
        request.topics.iter().map(|topic| cx.allowed(Operation::Read, Resource::Topic(&topic.name.0))).collect();
    let mut list = Vec::new();
    for (topic, _) in request.topics.iter().zip(&may_read).filter(|(_, allowed)| allowed.is_ok()) {
        list.extend(topic.partitions.iter().map(|p| TopicPartition::new(&*topic.name.0, p.partition_index)));
    }
    let answers = match cx.core.groups.delete_offsets(&request.group_id.0, &list).await {
        Ok(answers) => answers,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(group_code(&error).code()),
    };
    let mut answers = answers.into_iter();
    let topics = request.topics.into_iter().zip(may_read).map(|(topic, allowed)| {
        let partitions = topic.partitions.iter().map(|p| {
            let answer = OffsetDeleteResponsePartition::default().with_partition_index(p.partition_index);
            if let Err(code) = allowed {
                return answer.with_error_code(code.code());
            }
            let code = match (answers.next(), cx.partition(&topic.name.0, p.partition_index)) {
                (Some(Err(_)), _) => Code::GroupSubscribedToTopic.code(),
                (_, Err(code)) => code.code(),
                _ => 0,
            };
            answer.with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
