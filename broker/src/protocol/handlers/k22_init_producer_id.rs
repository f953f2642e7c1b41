//! InitProducerId (key 22), versions 0 to 5. Gives a producer its id and epoch.
//!
//! Behaviour: without a transactional id a fresh id with epoch 0; ids are never given twice, whatever happens in between.
//! With one, the id that belongs to it with the next epoch: whoever had it before is fenced. If a transaction is open, it is
//! aborted first, and the client told to come again (CONCURRENT_TRANSACTIONS). Versions: 2 flexible, 3 id and epoch so far,
//! to go on after an error (KIP-360), 4 PRODUCER_FENCED, 5 new errors.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, txn_code_before};
use crate::transaction::state::TxnError;

/// Writing needs the right to write with the id, or, without one, to write to the cluster or to any topic.
fn may_write(cx: &Context, id: Option<&str>) -> Result<(), Code> {
    match id {
        Some(id) => cx.allowed(Operation::Write, Resource::TransactionalId(id)),
        None if cx.writes_any_topic() => Ok(()),
        None => cx.allowed(Operation::IdempotentWrite, Resource::Cluster),
    }
}

/// Answers.
pub(crate) async fn handle(cx: &Context, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |code: Code| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if let Err(code) = may_write(cx, request.transactional_id.as_ref().map(|id| id.0.as_str())) {
        return refused(code);
    }
    let given = match (&request.transactional_id, (request.producer_id.0, request.producer_epoch)) {
        (None, _) => cx.core.transactions.init_idempotent().await,
        (Some(id), (-1, -1)) => cx.core.transactions.init(id, request.transaction_timeout_ms, None).await,
        (Some(_), (-1, _) | (_, -1)) => Err(TxnError::Invalid("producer id and epoch go together")),
        (Some(id), had) => cx.core.transactions.init(id, request.transaction_timeout_ms, Some(had)).await,
    };
    match given {
        Ok((id, epoch)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
        }
        Err(error) => refused(txn_code_before(&error, cx.version >= 4)),
    }
}
