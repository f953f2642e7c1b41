//! Metadata (key 3), versions 0 to 13. The node, and topics with their partitions.
//!
//! Behaviour: no list (in version 0 an empty one) asks for all topics. A topic that is named and not there is made if
//! the client (from version 4 on) and `auto_create_topics` allow it, and is then in this very answer. Topics that the
//! client may not describe are left out of all, and refused by name; making one needs Create on it or the cluster. Versions: 1
//! controller, 2 cluster id, 5 offline replicas, 7 leader epochs, 8 allowed operations, 9 flexible, 10 topic ids, 12
//! asking by id (KIP-516), 13 an error for the whole.

use std::sync::Arc;

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use uuid::Uuid;

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::Code;
use crate::protocol::internal_topics::is_internal;
use crate::protocol::topics;
use crate::protocol::wire::{once, text};
use crate::storage::Topic;

fn describe(cx: &Context, topic: &Arc<Topic>, with_operations: bool) -> MetadataResponseTopic {
    let partitions = topic.partitions().into_iter().map(|partition| {
        let answer = MetadataResponsePartition::default()
            .with_partition_index(partition.number())
            .with_leader_id(NODE)
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE]);
        if cx.version >= 7 { answer.with_leader_epoch(partition.leader_epoch()) } else { answer }
    });
    let mut answer = MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name()))))
        .with_is_internal(is_internal(topic.name()))
        .with_partitions(partitions.collect());
    if cx.version >= 10 {
        answer = answer.with_topic_id(topic.id());
    }
    if cx.version >= 8 && with_operations {
        answer = answer.with_topic_authorized_operations(cx.operations(Resource::Topic(topic.name())));
    }
    answer
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: MetadataRequest) -> MetadataResponse {
    let with_operations = request.include_topic_authorized_operations;
    let asked = request.topics.filter(|list| !(cx.version == 0 && list.is_empty()));
    let mut answers = Vec::new();
    match asked {
        None => {
            let all = cx.core.storage.topics();
            let seen = all.iter().filter(|t| cx.sees(Operation::Describe, Resource::Topic(t.name())));
            answers.extend(seen.map(|t| describe(cx, t, with_operations)));
        }
        Some(list) => {
            let may_create = cx.version < 4 || request.allow_auto_topic_creation;
            for topic in once(list, |topic| (topic.name.clone(), topic.topic_id)) {
                // The id counts where there is one: Java clients send an empty name beside it.
                let name = topic.name.filter(|_| topic.topic_id.is_nil());
                let found = match &name {
                    Some(name) => match cx.allowed(Operation::Describe, Resource::Topic(&name.0)) {
                        Ok(()) => topics::find_or_create(cx, &name.0, may_create).await,
                        Err(code) => Err(code),
                    },
                    None => {
                        let found = cx.core.storage.topic_by_id(topic.topic_id).ok_or(Code::UnknownTopicId);
                        // Ids are no secret, names are.
                        found.and_then(|found| {
                            cx.allowed(Operation::Describe, Resource::Topic(found.name())).map(|()| found)
                        })
                    }
                };
                answers.push(match found {
                    Ok(found) => describe(cx, &found, with_operations),
                    Err(code) => {
                        let id = if cx.version >= 10 { topic.topic_id } else { Uuid::nil() };
                        MetadataResponseTopic::default().with_error_code(code.code()).with_name(name).with_topic_id(id)
                    }
                });
            }
        }
    }
    let (host, port) = cx.advertised();
    let node = MetadataResponseBroker::default().with_node_id(NODE).with_host(text(&host)).with_port(port);
    let mut answer = MetadataResponse::default().with_brokers(vec![node]).with_controller_id(NODE).with_topics(answers);
    if cx.version >= 2 {
        answer = answer.with_cluster_id(Some(text(cx.core.identity.cluster_id())));
    }
    if (8..=10).contains(&cx.version) && request.include_cluster_authorized_operations {
        answer = answer.with_cluster_authorized_operations(cx.cluster_operations());
    }
    answer
}
