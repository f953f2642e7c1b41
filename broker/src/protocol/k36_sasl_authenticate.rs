//! SaslAuthenticate (key 36), versions 0 to 2. A token of a login (KIP-152).
//!
//! Behaviour: a failure is told after a pause as SASL_AUTHENTICATION_FAILED with a text that does not say whether user
//! or password was wrong; then the connection ends. Versions: 1 tells how long the session lasts (KIP-368), 2 flexible.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};
use tokio::time::Instant;

use super::access::Principal;
use super::access::login::{Login, LoginFault, Step};
use super::context::{Core, Session};
use super::door::config::Mechanism;
use super::error::Code;
use super::wire::{Request, RequestFault, text};

/// What became of a token.
pub(super) struct Answered {
    pub answer: Bytes,
    /// Nobody yet, somebody, or a failure that is to be told after a pause.
    pub result: Result<Option<Arc<Principal>>, LoginFault>,
    /// When the session ends, if it does.
    pub expires: Option<Instant>,
}

/// When a session that begins now ends, and how long that is.
pub(super) fn expiry(session: &Session) -> Option<(Instant, Duration)> {
    let lifetime = session.listener.sasl()?.session_lifetime?.0;
    Some((Instant::now() + lifetime, lifetime))
}

/// Takes a token; a later login on a connection must be of the same principal (`before`).
pub(super) fn step(
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
        Ok(Step::Challenge(token)) => {
            answer.auth_bytes = token.into();
            Ok(None)
        }
        Ok(Step::Done { last, user }) => {
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

/// Answers where no login is expected.
pub(super) fn handle(_: &SaslAuthenticateRequest) -> SaslAuthenticateResponse {
    let why = "SaslAuthenticate request received after successful authentication";
    SaslAuthenticateResponse::default()
        .with_error_code(Code::IllegalSaslState.code())
        .with_error_message(Some(text(why)))
}
