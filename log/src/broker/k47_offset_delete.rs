//! OffsetDelete (key 47), version 0. Forgets offsets of a group, except of topics that its members read (KIP-496).

use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::context::Context;
use super::error::{Code, group_code};
use crate::record::TopicPartition;

/// Answers.
pub(super) async fn handle(cx: &Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let mut list = Vec::new();
    for topic in &request.topics {
        list.extend(topic.partitions.iter().map(|p| TopicPartition::new(&*topic.name.0, p.partition_index)));
    }
    let answers = match cx.core.groups.delete_offsets(&request.group_id.0, &list).await {
        Ok(answers) => answers,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(group_code(&error).code()),
    };
    let mut answers = answers.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            let code = match (answers.next(), cx.partition(&topic.name.0, p.partition_index)) {
                (Some(Err(_)), _) => Code::GroupSubscribedToTopic.code(),
                (_, Err(code)) => code.code(),
                _ => 0,
            };
            OffsetDeleteResponsePartition::default().with_partition_index(p.partition_index).with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
