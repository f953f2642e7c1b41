//! EndTxn (key 26), versions 0 to 5. Commits or aborts a transaction.
//!
//! Behaviour: answered when the decision is durable; the markers follow. Versions: 2 PRODUCER_FENCED, 3 flexible, 4 new
//! errors, 5 the second protocol of KIP-890: the answer brings the epoch for the next transaction, and an abort may come
//! before anything was written.

use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse, ProducerId};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::txn_code_before;
use crate::transaction::state::{End, Protocol};

/// Answers.
pub(crate) async fn handle(cx: &Context, request: EndTxnRequest) -> EndTxnResponse {
    if let Err(code) = cx.allowed(Operation::Write, Resource::TransactionalId(&request.transactional_id)) {
        return EndTxnResponse::default().with_error_code(code.code());
    }
    let protocol = if cx.version >= 5 { Protocol::Two } else { Protocol::One };
    let end = End { commit: request.committed, protocol };
    let producer = (request.producer_id.0, request.producer_epoch);
    let ended = cx.core.transactions.end(&request.transactional_id, producer, end).await;
    let code = ended.as_ref().map_or_else(|e| txn_code_before(e, cx.version >= 2).code(), |_| 0);
    let answer = EndTxnResponse::default().with_error_code(code);
    match (ended, protocol) {
        (Ok((id, epoch)), Protocol::Two) => answer.with_producer_id(ProducerId(id)).with_producer_epoch(epoch),
        _ => answer,
    }
}
