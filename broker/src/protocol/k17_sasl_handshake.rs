//! SaslHandshake (key 17), versions 0 and 1. The client chooses how to log in (KIP-43).
//!
//! Behaviour: a mechanism that the listener does not have gets UNSUPPORTED_SASL_MECHANISM and the list, then the
//! connection ends. On a listener without SASL, and on a connection that is logged in for good, ILLEGAL_SASL_STATE.
//! Versions: 0 is followed by bare tokens, 1 by SaslAuthenticate (KIP-152).

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use super::access::login::Login;
use super::connection::Ended;
use super::door::Listener;
use super::error::Code;
use super::wire::text;

/// Chooses a mechanism for a login; a later one on a connection (`again`) must be by the same.
pub(super) fn choose(
    listener: &Listener,
    login: &mut Login,
    again: bool,
    request: &SaslHandshakeRequest,
) -> (SaslHandshakeResponse, Result<(), Ended>) {
    let mechanisms = listener.sasl().map(|sasl| sasl.mechanisms.as_slice()).unwrap_or_default();
    let answer = SaslHandshakeResponse::default().with_mechanisms(mechanisms.iter().map(|m| text(m.name())).collect());
    let wanted = mechanisms.iter().find(|m| m.name() == &*request.mechanism).copied();
    match wanted.filter(|wanted| !again || login.mechanism() == Some(*wanted)) {
        Some(mechanism) => {
            login.choose(mechanism);
            (answer, Ok(()))
        }
        None => {
            let mechanism = request.mechanism.chars().take(64).collect();
            (answer.with_error_code(Code::UnsupportedSaslMechanism.code()), Err(Ended::Mechanism(mechanism)))
        }
    }
}

/// Answers where no login is expected.
pub(super) fn handle(_: &SaslHandshakeRequest) -> SaslHandshakeResponse {
    SaslHandshakeResponse::default().with_error_code(Code::IllegalSaslState.code())
}
