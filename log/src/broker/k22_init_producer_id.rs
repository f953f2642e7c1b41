//! InitProducerId (key 22), versions 0 to 5. Gives an idempotent producer its id, with epoch 0.
//!
//! Behaviour: ids are never given twice, whatever happens in between. A transactional id is refused with a code that
//! ends the producer's attempt: transactions are not served. Versions: 2 flexible, 3 the id so far (KIP-360; a producer
//! without transactions gets a new one), 4 and 5 new errors.

use std::sync::Arc;

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::context::Context;
use super::error::Code;

/// Answers.
pub(super) async fn handle(cx: &Context, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |code: Code| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if request.transactional_id.is_some() {
        return refused(Code::TransactionalIdAuthorizationFailed);
    }
    let core = Arc::clone(&cx.core);
    let given = tokio::task::spawn_blocking(move || core.identity.producer_id()).await;
    match given {
        Ok(Ok(id)) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Ok(Err(error)) => {
            tracing::error!(%error, "no producer id can be given");
            refused(Code::CoordinatorNotAvailable)
        }
        Err(_) => refused(Code::CoordinatorNotAvailable),
    }
}
