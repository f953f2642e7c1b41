//! ListTransactions (key 66), versions 0 to 2. All transactional ids, by state, producer and more (KIP-664).
//!
//! Versions: 1 those that have been open for longer than a duration (KIP-994), 2 a pattern that the whole id must match
//! (KIP-1152). States that there are none of are told back.

use std::collections::HashSet;

use kafka_protocol::messages::list_transactions_response::TransactionState;
use kafka_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::wire::text;
use crate::transaction::state::STATE_NAMES;

/// Largest memory of a compiled pattern: it comes from outside.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Answers.
pub(crate) fn handle(cx: &Context, request: ListTransactionsRequest) -> ListTransactionsResponse {
    let pattern = request.transactional_id_pattern.as_deref().filter(|pattern| cx.version >= 2 && !pattern.is_empty());
    let whole = |pattern: &str| {
        let whole = format!("^(?:{pattern})$");
        regex::RegexBuilder::new(&whole).size_limit(MAX_PATTERN_BYTES).build()
    };
    let pattern = match pattern.map(whole).transpose() {
        Ok(pattern) => pattern,
        Err(error) => {
            tracing::debug!(%error, client = cx.client_id, "pattern of transactional ids is refused");
            return ListTransactionsResponse::default().with_error_code(Code::InvalidRegularExpression.code());
        }
    };
    let producers: HashSet<ProducerId> = request.producer_id_filters.iter().copied().collect();
    let is_known = |name: &&kafka_protocol::protocol::StrBytes| STATE_NAMES.contains(&&***name);
    let (known, unknown): (Vec<_>, Vec<_>) = request.state_filters.iter().partition(is_known);
    let known: HashSet<&str> = known.into_iter().map(|name| name.as_str()).collect();
    let unknown = unknown.into_iter().cloned().collect();
    let answer = ListTransactionsResponse::default().with_unknown_state_filters(unknown);
    if known.is_empty() && !request.state_filters.is_empty() {
        return answer;
    }
    let now_ms = cx.core.transactions.now_ms();
    let longer_than_ms = if cx.version >= 1 { request.duration_filter } else { -1 };
    let states = cx.core.transactions.list().into_iter().filter(|(id, txn)| {
        (known.is_empty() || known.contains(txn.state.name()))
            && (producers.is_empty() || producers.contains(&ProducerId(txn.producer_id)))
            && (longer_than_ms < 0 || now_ms.saturating_sub(txn.start_ms) > longer_than_ms)
            && cx.sees(Operation::Describe, Resource::TransactionalId(id))
            && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    });
    let states = states.map(|(id, txn)| {
        TransactionState::default()
            .with_transactional_id(TransactionalId(text(&id)))
            .with_producer_id(ProducerId(txn.producer_id))
            .with_transaction_state(text(txn.state.name()))
    });
    answer.with_transaction_states(states.collect())
}
