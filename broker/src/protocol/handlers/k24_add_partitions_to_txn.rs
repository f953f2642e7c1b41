//! AddPartitionsToTxn (key 24), versions 0 to 5. Partitions become part of a transaction before they are written to.
//!
//! Behaviour: all or none; with an unknown partition among them the others get OPERATION_NOT_ATTEMPTED. Versions: 2
//! PRODUCER_FENCED, 3 flexible, 4 many transactions at once, and only asking whether partitions are part of one: what
//! brokers send each other (KIP-890), 5 the second protocol.

use kafka_protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, txn_code_before};
use crate::protocol::internal_topics::is_internal;
use crate::transaction::state::Protocol;
use millrace_log::record::TopicPartition;

/// From version 4 on it is what brokers send each other.
fn allowed(cx: &Context, asked: &AddPartitionsToTxnTransaction) -> Result<(), Code> {
    if cx.version >= 4 {
        cx.allowed(Operation::ClusterAction, Resource::Cluster)
    } else {
        cx.allowed(Operation::Write, Resource::TransactionalId(&asked.transactional_id))
    }
}

async fn add(cx: &Context, asked: AddPartitionsToTxnTransaction) -> Vec<AddPartitionsToTxnTopicResult> {
    let listed = |topic: &AddPartitionsToTxnTopic| {
        let name: std::sync::Arc<str> = (&*topic.name.0).into();
        topic.partitions.iter().map(|n| TopicPartition::new(std::sync::Arc::clone(&name), *n)).collect::<Vec<_>>()
    };
    let all: Vec<TopicPartition> = asked.topics.iter().flat_map(listed).collect();
    let producer = (asked.producer_id.0, asked.producer_epoch);
    let transactions = &cx.core.transactions;
    let protocol = if cx.version >= 5 { Protocol::Two } else { Protocol::One };
    let may_write = |tp: &TopicPartition| {
        if is_internal(&tp.topic) {
            return Err(Code::TopicAuthorizationFailed);
        }
        cx.allowed(Operation::Write, Resource::Topic(&tp.topic))
    };
    let fault = |tp: &TopicPartition| match may_write(tp) {
        Err(code) => Some(code),
        Ok(()) => cx.partition(&tp.topic, tp.partition).err(),
    };
    let whole = if let Err(code) = allowed(cx, &asked) {
        Err(code)
    } else if asked.verify_only {
        Ok(())
    } else if all.iter().all(|tp| fault(tp).is_none()) {
        transactions
            .add(&asked.transactional_id, producer, &all, protocol)
            .await
            .map_err(|e| txn_code_before(&e, cx.version >= 2))
    } else {
        Err(Code::OperationNotAttempted)
    };
    let code = |tp: &TopicPartition| match &whole {
        Err(Code::OperationNotAttempted) => fault(tp).unwrap_or(Code::OperationNotAttempted).code(),
        Err(code) => code.code(),
        Ok(()) if asked.verify_only => transactions
            .verify(&asked.transactional_id, producer, tp)
            .map_or_else(|e| txn_code_before(&e, true).code(), |()| 0),
        Ok(()) => 0,
    };
    let topic = |topic: &AddPartitionsToTxnTopic| {
        let results = listed(topic).into_iter().map(|tp| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(tp.partition)
                .with_partition_error_code(code(&tp))
        });
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(results.collect())
    };
    asked.topics.iter().map(topic).collect()
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse {
    if cx.version < 4 {
        let asked = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(add(cx, asked).await);
    }
    let mut results = Vec::with_capacity(request.transactions.len());
    for asked in request.transactions {
        let id = asked.transactional_id.clone();
        let topics = add(cx, asked).await;
        results.push(AddPartitionsToTxnResult::default().with_transactional_id(id).with_topic_results(topics));
    }
    AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
}
