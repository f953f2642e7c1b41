//! SaslHandshake (key 17), versions 0 and 1. The client chooses how to log in (KIP-43).
//!
//! Behaviour: a mechanism that the listener does not have gets UNSUPPORTED_SASL_MECHANISM and the list, then the
//! connection ends. On a listener without SASL, and on a connection that is logged in for good, ILLEGAL_SASL_STATE.
//! Versions: 0 is followed by bare tokens, 1 by SaslAuthenticate (KIP-152).

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use crate::protocol::error::Code;

/// Answers where no login is expected.
pub(crate) fn handle(_: &SaslHandshakeRequest) -> SaslHandshakeResponse {
    SaslHandshakeResponse::default().with_error_code(Code::IllegalSaslState.code())
}
