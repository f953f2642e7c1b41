//! SASL exchange of a connection: answers to SaslHandshake and SaslAuthenticate while a login is under way.
//!
//! In: requests of a client that logs in, for the first time or again (KIP-368). Out: responses, and who it is. Touches
//! nothing. A failure is answered as SASL_AUTHENTICATION_FAILED with a text that does not say whether user or password was
//! wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use tokio::time::Instant;

use crate::protocol::access::Principal;
use crate::protocol::access::login::{Login, LoginFault, LoginStep};
use crate::protocol::config::listener::Mechanism;
use crate::protocol::context::{Core, Session};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::error::Code;
use crate::protocol::listener::Listener;
use crate::protocol::wire::{Request, RequestFault, text};

/// Chooses a mechanism for a login; a later one on a connection (`again`) must be by the same.
pub(crate) fn choose(
    listener: &Listener,
    login: &mut Login,
    again: bool,
    request: &SaslHandshakeRequest,
) -> (SaslHandshakeResponse, Result<(), Disconnect>) {
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
            (answer.with_error_code(Code::UnsupportedSaslMechanism.code()), Err(Disconnect::Mechanism(mechanism)))
        }
    }
}

/// What became of a token.
pub(crate) struct Answered {
    pub answer: Bytes,
    /// Nobody yet, somebody, or a failure that is to be told after a pause.
    pub result: Result<Option<Arc<Principal>>, LoginFault>,
    /// When the session ends, if it does.
    pub expires: Option<Instant>,
}

/// When a session that begins now ends, and how long that is.
pub(crate) fn expiry(session: &Session) -> Option<(Instant, Duration)> {
    let lifetime = session.listener.sasl()?.session_lifetime?.0;
    Some((Instant::now() + lifetime, lifetime))
}

/// Takes a token; a later login on a connection must be of the same principal (`before`).
pub(crate) fn step(
    core: &Core,
    session: &Session,
    login: &mut Login,
    before: Option<&Arc<Principal>>,
    request: &Request,
) -> Result<Answered, RequestFault> {
    let token = request.decode::<SaslAuthenticateRequest>()?.auth_bytes;
    let mut answer = SaslAuthenticateResponse::default().with_error_message(None);
    let mut expires = None;
    let result = match login.token(&core.access, &token) {
        Ok(LoginStep::Challenge(token)) => {
            answer.auth_bytes = token.into();
            Ok(None)
        }
        Ok(LoginStep::Done { last, user }) => {
            let who = core.access.principal(format!("User:{user}"));
            if before.is_some_and(|before| before.name != who.name) {
                Err(LoginFault::OtherPrincipal)
            } else {
                answer.auth_bytes = last.into();
                if let Some((at, lifetime)) = expiry(session) {
                    expires = Some(at);
                    answer.session_lifetime_ms = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
                }
                Ok(Some(who))
            }
        }
        Err(fault) => Err(fault),
    };
    if let Err(fault) = &result {
        let why = match (fault, login.mechanism()) {
            (LoginFault::OtherPrincipal, _) => "Cannot change principals during re-authentication".to_owned(),
            (_, Some(Mechanism::Plain) | None) => "Authentication failed: Invalid username or password".to_owned(),
            (_, Some(mechanism)) => format!(
                "Authentication failed during authentication due to invalid credentials with SASL mechanism {}",
                mechanism.name()
            ),
        };
        let code = Code::SaslAuthenticationFailed.code();
        answer = SaslAuthenticateResponse::default().with_error_code(code).with_error_message(Some(text(&why)));
    }
    Ok(Answered { answer: request.answer(&answer)?, result, expires })
}
