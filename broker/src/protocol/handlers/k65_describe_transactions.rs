//! DescribeTransactions (key 65), version 0. State, producer and partitions of transactional ids (KIP-664).

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TopicName, TransactionalId,
};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::txn_code;
use crate::protocol::wire::{once, text};

/// Answers.
pub(crate) fn handle(cx: &Context, request: DescribeTransactionsRequest) -> DescribeTransactionsResponse {
    let states = once(request.transactional_ids, TransactionalId::clone).into_iter().map(|id| {
        let answer = TransactionState::default().with_transactional_id(id.clone());
        if let Err(code) = cx.allowed(Operation::Describe, Resource::TransactionalId(&id)) {
            return answer.with_error_code(code.code());
        }
        let txn = match cx.core.transactions.describe(&id) {
            Ok(txn) => txn,
            Err(error) => return answer.with_error_code(txn_code(&error).code()),
        };
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for tp in txn.partitions.iter().filter(|tp| cx.sees(Operation::Describe, Resource::Topic(&tp.topic))) {
            topics.entry(&tp.topic).or_default().push(tp.partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            TopicData::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
        });
        answer
            .with_transaction_state(text(txn.state.name()))
            .with_transaction_timeout_ms(txn.timeout_ms)
            .with_transaction_start_time_ms(txn.start_ms)
            .with_producer_id(ProducerId(txn.producer_id))
            .with_producer_epoch(txn.epoch)
            .with_topics(topics.collect())
    });
    DescribeTransactionsResponse::default().with_transaction_states(states.collect())
}
