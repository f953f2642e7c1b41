//! SaslHandshake (key 17), versions 0 and 1. There is no authentication: ILLEGAL_SASL_STATE, as Kafka answers on a
//! listener without SASL.

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use super::error::Code;

/// Answers.
pub(super) fn handle(_: &SaslHandshakeRequest) -> SaslHandshakeResponse {
    SaslHandshakeResponse::default().with_error_code(Code::IllegalSaslState.code())
}
