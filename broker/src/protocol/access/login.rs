//! The server's side of SASL on one connection: which mechanism, which tokens, who it is in the end.
//!
//! In: the mechanism that a client chose, its tokens. Out: tokens to answer with, a user, or why not. Touches nothing.
//! Used for the first login and for each later one on the same connection (KIP-368), which must name the same user
//! and mechanism. What is wrong is kept for the log; the client is only told that it failed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use crate::protocol::access::control::Access;
use crate::protocol::access::scram::{Exchange, ScramFault};
use crate::protocol::config::listener::Mechanism;

/// Why a login failed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginFault {
    #[error("no mechanism was chosen")]
    NoMechanism,
    #[error("the message is malformed")]
    Malformed,
    #[error("wrong user or password")]
    WrongPassword,
    #[error("another user than before on the same connection")]
    OtherPrincipal,
    #[error(transparent)]
    Scram(#[from] ScramFault),
}

/// What follows a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LoginStep {
    /// The client goes on.
    Challenge(Vec<u8>),
    /// It has shown who it is.
    Done { last: Vec<u8>, user: String },
}

#[derive(Debug)]
enum Stage {
    Idle,
    Chosen(Mechanism),
    Challenged(Box<Exchange>),
}

/// One login.
#[derive(Debug)]
pub(crate) struct Login {
    stage: Stage,
    mechanism: Option<Mechanism>,
}

impl Default for Login {
    fn default() -> Self {
        Self { stage: Stage::Idle, mechanism: None }
    }
}

impl Login {
    /// The client chose how.
    pub fn choose(&mut self, mechanism: Mechanism) {
        self.stage = Stage::Chosen(mechanism);
        self.mechanism = Some(mechanism);
    }

    /// What was chosen last.
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.mechanism
    }

    /// Whether tokens are expected.
    pub fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// Takes a token. After a fault or the end nothing more is expected.
    pub fn token(&mut self, access: &Access, token: &[u8]) -> Result<LoginStep, LoginFault> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => Err(LoginFault::NoMechanism),
            Stage::Chosen(Mechanism::Plain) => plain(access, token),
            Stage::Chosen(mechanism) => {
                let nonce = BASE64.encode(rand::random::<[u8; 18]>());
                let exchange = Exchange::start(mechanism, token, &nonce, |user| access.credential(user, mechanism))?;
                let challenge = exchange.challenge().as_bytes().to_vec();
                self.stage = Stage::Challenged(Box::new(exchange));
                Ok(LoginStep::Challenge(challenge))
            }
            Stage::Challenged(exchange) => {
                let last = exchange.finish(token)?.into_bytes();
                Ok(LoginStep::Done { last, user: exchange.user })
            }
        }
    }
}

/// RFC 4616: user to act as (none, or the same), user, password.
fn plain(access: &Access, token: &[u8]) -> Result<LoginStep, LoginFault> {
    let mut parts = token.split(|byte| *byte == 0);
    let (acts_as, user, password) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(acts_as), Some(user), Some(password), None) => (acts_as, user, password),
        _ => return Err(LoginFault::Malformed),
    };
    let user_name = std::str::from_utf8(user).map_err(|_| LoginFault::Malformed)?;
    if user.is_empty() || password.is_empty() {
        return Err(LoginFault::Malformed);
    }
    if !acts_as.is_empty() && acts_as != user {
        return Err(ScramFault::OtherUser.into());
    }
    if !access.is_password(user_name, password) {
        return Err(LoginFault::WrongPassword);
    }
    Ok(LoginStep::Done { last: Vec::new(), user: user_name.to_owned() })
}
