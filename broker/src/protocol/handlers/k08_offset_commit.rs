//! OffsetCommit (key 8), versions 2 to 9. Keeps how far a group has read.
//!
//! Behaviour: durable when answered. From a member of the present generation, or without member while the group is
//! empty. Needs Read on the group, and on each topic. Unknown partitions and notes that are too long are refused one by one. Versions: 2 to 4 carry a retention
//! time, which is ignored as in Kafka; 5 without; 6 leader epochs; 7 static members; 8 flexible; 9 member epochs of
//! KIP-848, which members of that protocol must commit with.

use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use crate::group::{Commit, Committer};
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, group_code, group_number};
use millrace_log::record::{Offset, TopicPartition};

/// Partition indexes of a topic, with their place in the commit, or why they have none.
type CommitIndexes = Vec<(i32, Result<usize, Code>)>;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let group = cx.allowed(Operation::Read, Resource::Group(&request.group_id.0));
    let mut commits = Vec::new();
    let mut topics: Vec<(_, CommitIndexes)> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name: std::sync::Arc<str> = (&*topic.name.0).into();
        let allowed = group.and_then(|()| cx.allowed(Operation::Read, Resource::Topic(&name)));
        let mut places = Vec::with_capacity(topic.partitions.len());
        for p in topic.partitions {
            let found = allowed.and_then(|()| cx.partition(&name, p.partition_index));
            places.push((p.partition_index, found.as_ref().map(|_| commits.len()).map_err(|code| *code)));
            if found.is_ok() {
                commits.push(Commit {
                    partition: TopicPartition::new(std::sync::Arc::clone(&name), p.partition_index),
                    offset: Offset::new(p.committed_offset),
                    leader_epoch: p.committed_leader_epoch,
                    metadata: p.committed_metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
                });
            }
        }
        topics.push((topic.name, places));
    }
    let who = Committer {
        member: &request.member_id,
        instance: request.group_instance_id.as_deref(),
        generation: request.generation_id_or_member_epoch,
        knows_epochs: cx.version >= 9,
    };
    let answers = match group {
        Ok(()) => cx.core.groups.commit(&request.group_id.0, who, commits).await.map_err(|error| group_code(&error)),
        Err(code) => Err(code),
    };
    let code = |place: Result<usize, Code>| match (&answers, place) {
        (_, Err(Code::TopicAuthorizationFailed)) => Code::TopicAuthorizationFailed.code(),
        (Err(code), _) => code.code(),
        (Ok(_), Err(code)) => code.code(),
        (Ok(list), Ok(at)) => list.get(at).map_or(0, group_number),
    };
    let topics = topics.into_iter().map(|(name, places)| {
        let partitions = places.into_iter().map(|(index, place)| {
            OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code(place))
        });
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
