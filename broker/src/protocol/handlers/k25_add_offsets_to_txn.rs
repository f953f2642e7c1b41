//! AddOffsetsToTxn (key 25), versions 0 to 4. The offsets of a group become part of a transaction: the partition of
//! `__consumer_offsets` that keeps them is added to it. Versions: 2 PRODUCER_FENCED, 3 flexible, 4 new errors. From the second
//! protocol of KIP-890 on, TxnOffsetCommit does this by itself.

use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, txn_code_before};
use crate::transaction::state::Protocol;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse {
    let refused = |code: Code| AddOffsetsToTxnResponse::default().with_error_code(code.code());
    let allowed = cx
        .allowed(Operation::Write, Resource::TransactionalId(&request.transactional_id))
        .and_then(|()| cx.allowed(Operation::Read, Resource::Group(&request.group_id)));
    if let Err(code) = allowed {
        return refused(code);
    }
    if request.group_id.is_empty() {
        return refused(Code::InvalidGroupId);
    }
    let partition = cx.core.groups.partition_of(&request.group_id);
    let producer = (request.producer_id.0, request.producer_epoch);
    let added = cx.core.transactions.add(&request.transactional_id, producer, &[partition], Protocol::One).await;
    let code = added.map_or_else(|e| txn_code_before(&e, cx.version >= 2).code(), |()| 0);
    AddOffsetsToTxnResponse::default().with_error_code(code)
}
