//! ConsumerGroupDescribe (key 69), versions 0 and 1. Epochs, members and assignments of consumer groups (KIP-848).
//!
//! Behaviour: needs Describe on the group. A group that does not exist or is a classic one gets GROUP_ID_NOT_FOUND. Versions: 1 tells members of the
//! classic protocol (0) from those of the new one (1).

use kafka_protocol::messages::consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId, TopicName};

use crate::group::{ConsumerMember, consumer};
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, group_code};
use crate::protocol::wire::{once, text};

fn named(cx: &Context, assignment: consumer::Assignment) -> Assignment {
    let topics = assignment.into_iter().filter_map(|(id, partitions)| {
        // A topic that is gone has no name to be told by.
        let topic = cx.core.storage.topic_by_id(id)?;
        let partitions = partitions.into_iter().collect();
        let named = TopicPartitions::default().with_topic_id(id).with_partitions(partitions);
        Some(named.with_topic_name(TopicName(text(topic.name()))))
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

fn described(cx: &Context, found: ConsumerMember) -> Member {
    let ConsumerMember { id, member, target } = found;
    let answer = Member::default()
        .with_member_id(text(&id))
        .with_instance_id(member.instance_id.as_deref().map(text))
        .with_rack_id(member.rack_id.as_deref().map(text))
        .with_member_epoch(member.current.epoch)
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_subscribed_topic_names(member.topics.iter().map(|name| TopicName(text(name))).collect())
        .with_subscribed_topic_regex(member.regex.as_deref().map(text))
        .with_assignment(named(cx, member.current.assigned))
        .with_target_assignment(named(cx, target));
    if cx.version >= 1 { answer.with_member_type(i8::from(member.classic.is_none())) } else { answer }
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: ConsumerGroupDescribeRequest) -> ConsumerGroupDescribeResponse {
    let groups = once(request.group_ids, GroupId::clone).into_iter().map(|id| {
        if let Err(code) = cx.allowed(Operation::Describe, Resource::Group(&id.0)) {
            return DescribedGroup::default().with_group_id(id).with_error_code(code.code());
        }
        let mut answer = DescribedGroup::default();
        if request.include_authorized_operations {
            answer = answer.with_authorized_operations(cx.operations(Resource::Group(&id.0)));
        }
        match cx.core.groups.describe_consumer(&id.0) {
            Ok(found)
                if found
                    .members
                    .iter()
                    .flat_map(|member| &member.member.topics)
                    .any(|name| !cx.sees(Operation::Describe, Resource::Topic(name))) =>
            {
                let why = "The group has described topic(s) that the client is not authorized to describe.";
                DescribedGroup::default()
                    .with_group_id(id)
                    .with_error_code(Code::TopicAuthorizationFailed.code())
                    .with_error_message(Some(text(why)))
            }
            Ok(found) => answer
                .with_group_id(id)
                .with_group_state(text(found.state))
                .with_group_epoch(found.epoch)
                .with_assignment_epoch(found.assignment_epoch)
                .with_assignor_name(text(&found.assignor))
                .with_members(found.members.into_iter().map(|member| described(cx, member)).collect()),
            Err(error) => DescribedGroup::default()
                .with_group_id(id)
                .with_error_code(group_code(&error).code())
                .with_error_message(Some(text(&error.to_string()))),
        }
    });
    ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
}
