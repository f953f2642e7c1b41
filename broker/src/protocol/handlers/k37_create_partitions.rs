//! CreatePartitions (key 37), versions 0 to 3. Grows topics; what is there stays.
//!
//! Behaviour: INVALID_PARTITIONS unless the number grows; replicas by hand may only name this node. Versions: 2
//! flexible, 3 new errors.

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::{Code, Refusal, storage_code};
use crate::protocol::topics;
use crate::protocol::wire::text;

async fn grow(cx: &Context, asked: &CreatePartitionsTopic, is_trial: bool) -> Result<(), Refusal> {
    let name: &str = &asked.name.0;
    cx.allowed(Operation::Alter, Resource::Topic(name)).map_err(refused)?;
    topics::refuse_internal(name)?;
    let topic = cx.core.storage.topic(name);
    let topic = topic.ok_or_else(|| (Code::UnknownTopicOrPartition, format!("The topic '{name}' does not exist.")))?;
    let has = topic.partition_count();
    if asked.count <= has {
        let text =
            format!("The topic {name} currently has {has} partition(s); {} would not be an increase.", asked.count);
        return Err((Code::InvalidPartitions, text));
    }
    if let Some(assignments) = &asked.assignments {
        let fits = i32::try_from(assignments.len()).is_ok_and(|n| n == asked.count - has);
        if !fits || assignments.iter().any(|a| a.broker_ids != [NODE]) {
            let text = format!("replicas by hand must name broker 1 for each of {} new partitions", asked.count - has);
            return Err((Code::InvalidReplicaAssignment, text));
        }
    }
    if is_trial {
        return Ok(());
    }
    let grown = cx.core.storage.add_partitions(name, asked.count).await;
    grown.map_err(|e| (storage_code(&e), e.to_string()))
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let result = grow(cx, &asked, request.validate_only).await;
        let answer = CreatePartitionsTopicResult::default().with_name(asked.name);
        results.push(match result {
            Ok(()) => answer,
            Err((code, message)) => answer.with_error_code(code.code()).with_error_message(Some(text(&message))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}
