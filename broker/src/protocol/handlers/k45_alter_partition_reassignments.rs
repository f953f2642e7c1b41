//! AlterPartitionReassignments (key 45), versions 0 and 1. Moves replicas (KIP-455): there is one node to hold them.
//!
//! Behaviour: needs Alter on the cluster. Replicas that are this node alone are where they are already: no error; others
//! get INVALID_REPLICA_ASSIGNMENT; a cancellation NO_REASSIGNMENT_IN_PROGRESS. Versions: 1 whether the number of replicas
//! may change.

use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};

use crate::protocol::access::{Operation, Resource, say};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::{Code, Refusal};
use crate::protocol::wire::text;

fn reassign(cx: &Context, topic: &str, asked: &ReassignablePartition) -> Result<(), Refusal> {
    let number = asked.partition_index;
    let Some(found) = cx.core.storage.topic(topic) else {
        return Err((Code::UnknownTopicOrPartition, format!("Unable to find a topic named {topic}.")));
    };
    if found.partition(number).is_none() {
        return Err((Code::UnknownTopicOrPartition, format!("Unable to find partition {topic}:{number}.")));
    }
    let Some(replicas) = &asked.replicas else {
        let text = "No partition reassignment is in progress.".to_owned();
        return Err((Code::NoReassignmentInProgress, text));
    };
    let invalid = |text: String| Err((Code::InvalidReplicaAssignment, text));
    if replicas.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".to_owned());
    }
    if let Some(other) = replicas.iter().find(|replica| **replica != NODE) {
        let text =
            format!("The manual partition assignment includes broker {}, but no such broker is registered.", other.0);
        return invalid(text);
    }
    if replicas.len() > 1 {
        return invalid(format!("The manual partition assignment includes the broker {} more than once.", NODE.0));
    }
    Ok(())
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: AlterPartitionReassignmentsRequest) -> AlterPartitionReassignmentsResponse {
    let mut answer = AlterPartitionReassignmentsResponse::default();
    if cx.version >= 1 {
        answer = answer.with_allow_replication_factor_change(request.allow_replication_factor_change);
    }
    if let Err(code) = cx.allowed(Operation::Alter, Resource::Cluster) {
        return answer.with_error_code(code.code()).with_error_message(Some(text(say(code))));
    }
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let result = reassign(cx, &topic.name.0, asked);
            let answer = ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
            match result {
                Ok(()) => answer.with_error_message(None),
                Err((code, why)) => answer.with_error_code(code.code()).with_error_message(Some(text(&why))),
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    answer.with_error_message(None).with_responses(topics.collect())
}
