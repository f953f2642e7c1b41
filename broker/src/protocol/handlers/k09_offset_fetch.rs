//! OffsetFetch (key 9), versions 1 to 9. How far groups have read.
//!
//! Behaviour: -1 where nothing was committed, also for groups that don't exist; without a list of topics, all that the
//! group has. Versions: 2 an error for the whole, 5 leader epochs, 6 flexible, 7 `require_stable`: a partition with
//! another offset in an open transaction gets UNSTABLE_OFFSET_COMMIT (KIP-447), 8 many groups (KIP-709), 9 member epochs
//! of KIP-848, which must be those of the members; classic groups don't look at them.

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName};

use crate::group::offsets::Committed;
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, group_code};
use crate::protocol::wire::{once, text};
use millrace_log::record::TopicPartition;

/// What was committed, or that an open transaction holds another offset.
type GroupOffsets = Vec<(TopicName, Partitions)>;
type Partitions = Vec<(i32, Result<Option<Committed>, Code>)>;

fn look_up(cx: &Context, group: &GroupId, asked: Option<Vec<(TopicName, Vec<i32>)>>, stable: bool) -> GroupOffsets {
    let is_unstable = |tp: &TopicPartition| stable && cx.core.groups.is_unstable(&group.0, tp);
    let settled = |tp: &TopicPartition, committed| {
        if is_unstable(tp) { Err(Code::UnstableOffsetCommit) } else { Ok(committed) }
    };
    match asked {
        Some(topics) => topics
            .into_iter()
            .map(|(name, partitions)| {
                if let Err(code) = cx.allowed(Operation::Describe, Resource::Topic(&name.0)) {
                    return (name, partitions.into_iter().map(|partition| (partition, Err(code))).collect());
                }
                let list: Vec<_> = partitions.iter().map(|p| TopicPartition::new(&*name.0, *p)).collect();
                let found = cx.core.groups.committed(&group.0, Some(&list));
                (name, found.into_iter().map(|(tp, committed)| (tp.partition, settled(&tp, committed))).collect())
            })
            .collect(),
        None => {
            let mut topics: BTreeMap<String, Partitions> = BTreeMap::new();
            let all = cx.core.groups.committed(&group.0, None).into_iter();
            for (tp, committed) in all.filter(|(tp, _)| cx.sees(Operation::Describe, Resource::Topic(&tp.topic))) {
                topics.entry(tp.topic.to_string()).or_default().push((tp.partition, settled(&tp, committed)));
            }
            topics.into_iter().map(|(name, list)| (TopicName(text(&name)), list)).collect()
        }
    }
}

fn parts(committed: Result<Option<Committed>, Code>) -> (i64, i32, String, i16) {
    match committed {
        Ok(Some(c)) => (c.offset.get(), c.leader_epoch, c.metadata, 0),
        Ok(None) => (-1, -1, String::new(), 0),
        Err(code) => (-1, -1, String::new(), code.code()),
    }
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if cx.version >= 8 {
        let groups = once(request.groups, |group| group.group_id.clone()).into_iter().map(|group| {
            if let Err(code) = cx.allowed(Operation::Describe, Resource::Group(&group.group_id.0)) {
                return OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_error_code(code.code());
            }
            let allowed = match cx.version {
                9.. => cx.core.groups.may_fetch(&group.group_id.0, group.member_id.as_deref(), group.member_epoch),
                _ => Ok(()),
            };
            if let Err(error) = allowed {
                return OffsetFetchResponseGroup::default()
                    .with_group_id(group.group_id)
                    .with_error_code(group_code(&error).code());
            }
            let asked = group.topics.map(|list| list.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
            let topics = look_up(cx, &group.group_id, asked, request.require_stable).into_iter().map(|(name, list)| {
                let list = list.into_iter().map(|(index, committed)| {
                    let (offset, epoch, metadata, code) = parts(committed);
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(index)
                        .with_committed_offset(offset)
                        .with_committed_leader_epoch(epoch)
                        .with_metadata(Some(text(&metadata)))
                        .with_error_code(code)
                });
                OffsetFetchResponseTopics::default().with_name(name).with_partitions(list.collect())
            });
            OffsetFetchResponseGroup::default().with_topics(topics.collect()).with_group_id(group.group_id)
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let allowed = cx.allowed(Operation::Describe, Resource::Group(&request.group_id.0));
    if let (Err(code), 2..) = (allowed, cx.version) {
        return OffsetFetchResponse::default().with_error_code(code.code());
    }
    let asked = request.topics.map(|list| list.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
    let topics = look_up(cx, &request.group_id, asked, cx.version >= 7 && request.require_stable).into_iter().map(
        |(name, list)| {
            let list = list.into_iter().map(|(index, committed)| {
                // Version 1 has no code for the whole.
                let (offset, epoch, metadata, code) = parts(allowed.and(committed));
                let answer = OffsetFetchResponsePartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(offset)
                    .with_metadata(Some(text(&metadata)))
                    .with_error_code(code);
                if cx.version >= 5 { answer.with_committed_leader_epoch(epoch) } else { answer }
            });
            OffsetFetchResponseTopic::default().with_name(name).with_partitions(list.collect())
        },
    );
    OffsetFetchResponse::default().with_topics(topics.collect())
}
