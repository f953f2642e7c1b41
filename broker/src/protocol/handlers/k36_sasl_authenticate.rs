//! SaslAuthenticate (key 36), versions 0 to 2. A token of a login (KIP-152).
//!
//! Behaviour: a failure is told after a pause as SASL_AUTHENTICATION_FAILED with a text that does not say whether user
//! or password was wrong; then the connection ends. Versions: 1 tells how long the session lasts (KIP-368), 2 flexible.

use kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};

use crate::protocol::error::Code;
use crate::protocol::wire::text;

/// Answers where no login is expected.
pub(crate) fn handle(_: &SaslAuthenticateRequest) -> SaslAuthenticateResponse {
    let why = "SaslAuthenticate request received after successful authentication";
    SaslAuthenticateResponse::default()
        .with_error_code(Code::IllegalSaslState.code())
        .with_error_message(Some(text(why)))
}
