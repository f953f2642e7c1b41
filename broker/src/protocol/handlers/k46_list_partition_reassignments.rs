//! ListPartitionReassignments (key 46), version 0. Nothing ever moves; Kafka's topics tool asks before it describes.

use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use crate::protocol::access::{Operation, Resource, say};
use crate::protocol::context::Context;
use crate::protocol::wire::text;

/// Answers.
pub(crate) fn handle(cx: &Context, _: &ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    let answer = ListPartitionReassignmentsResponse::default();
    match cx.allowed(Operation::Describe, Resource::Cluster) {
        Ok(()) => answer.with_error_message(None),
        Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(say(code)))),
    }
}
