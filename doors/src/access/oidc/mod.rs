//! Logins by a provider (OpenID Connect): people by the page, programs by tokens of the provider.
//!
//! People: authorization code flow with PKCE, state and nonce. Programs: JSON Web Tokens of the issuer, checked by its
//! keys. In: codes, tokens. Out: who they are for, and what they may do by `access.oidc.grants`. Touches the network,
//! through the provider.

/// Settings.
pub mod config;
/// Signatures by `ring`.
mod signature;
/// Keys of the provider.
mod keys;
/// Tokens.
mod token;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
/// What members of groups may do.
mod grants;
/// Settings with what their files hold.
pub mod plan;
/// The provider over HTTP.
mod provider;
/// Logins that were begun.
pub mod attempt;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value as Json;

use attempt::Attempt;
use grants::{Allowed, groups, user};
use plan::Plan;
pub(crate) use provider::{Provider, ProviderError};
pub(crate) use token::is_token;
use token::{Claims, TokenError, verify};

use crate::identity::Identity;
use crate::metrics::HttpMetrics;

/// How often description and keys are fetched while the provider answers: an outage is seen so late.
pub(crate) const FETCH_EVERY: Duration = Duration::from_secs(300);

/// Why a login failed: for the person, and for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Status of the answer: 401, 403, or 502 and 503 where it is the provider's fault.
    pub status: StatusCode,
    /// What is wrong.
    pub text: String,
    /// Whoever it was, as far as it is known.
    pub user: String,
}

impl Failed {
    /// Of nobody that is known.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), user: String::new() }
    }

    /// Whether it is the provider's fault, or ours, and none of the person's.
    pub fn is_outage(&self) -> bool {
        self.status.is_server_error()
    }

    fn provider(error: &ProviderError) -> Self {
        let status = match error {
            ProviderError::Refused(_) => StatusCode::UNAUTHORIZED,
            ProviderError::Unknown | ProviderError::Client(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, format!("the login provider failed: {error}"))
    }
}

/// Whom the provider has logged in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub name: String,
    /// The provider's own id of them.
    pub subject: String,
    /// Places of the grants that match.
    pub grants: Vec<usize>,
    /// Groups whose grants could not be joined with the others.
    pub left_out: Vec<String>,
    pub identity: Identity,
}

/// A login provider with what its users may do.
pub(crate) struct Oidc {
    pub plan: Arc<Plan>,
    pub provider: Arc<Provider>,
}

impl Oidc {
    /// Of a plan, with the keys of the one before if it is the same provider's.
    pub fn new(plan: Arc<Plan>, before: Option<&Self>, metrics: &HttpMetrics) -> Self {
        signature::install();
        let same = before.filter(|before| before.provider.is_of(&plan));
        let provider = same.map(|before| Arc::clone(&before.provider));
        let provider = provider.unwrap_or_else(|| Arc::new(Provider::new(&plan, metrics.clone())));
        Self { plan, provider }
    }

    /// The provider as the button names it.
    pub fn label(&self) -> String {
        let url = url::Url::parse(&self.plan.config.issuer);
        url.ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Whom a token is for that a program sent.
    pub async fn bearer(&self, token: &str, now_ms: i64) -> Result<Known, Failed> {
        let claims = self.claims(token, &self.plan.audiences, now_ms).await?;
        self.known(&claims)
    }

    /// Who comes back with a session that stands on these grants.
    pub fn returning(&self, name: &str, grants: &[usize]) -> Option<Identity> {
        let allowed = self.plan.grants.allowed(grants)?;
        Some(Identity { name: name.into(), rights: allowed.rights })
    }

    /// Where the browser goes to log in.
    pub async fn authorization(&self, attempt: &Attempt, redirect_url: &str) -> Result<String, Failed> {
        if self.provider.known().is_none() {
            self.provider.refresh(provider::PAUSE).await;
        }
        let Some(known) = self.provider.known() else {
            return Err(self.unreachable());
        };
        let mut url = known.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.plan.config.client_id)
            .append_pair("redirect_uri", redirect_url)
            .append_pair("scope", &self.plan.config.scopes.join(" "))
            .append_pair("state", &attempt.state)
            .append_pair("nonce", &attempt.nonce)
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256");
        if attempt.renews.is_some() {
            url.query_pairs_mut().append_pair("prompt", "none");
        }
        Ok(url.into())
    }

    /// Where people end their session with the provider, if it has such a page.
    pub fn end_session(&self) -> Option<String> {
        let mut url = self.provider.known()?.end_session.clone()?;
        url.query_pairs_mut().append_pair("client_id", &self.plan.config.client_id);
        Some(url.into())
    }

    /// Who has logged in, by the code that the provider gave the browser.
    pub async fn finish(
        &self,
        code: &str,
        attempt: &Attempt,
        redirect_url: &str,
        now_ms: i64,
    ) -> Result<Known, Failed> {
        let redeemed = self.provider.redeem(&self.plan, code, &attempt.verifier, redirect_url).await;
        let tokens = redeemed.map_err(|error| Failed::provider(&error))?;
        let client = std::slice::from_ref(&self.plan.config.client_id);
        let mut claims = self.claims(&tokens.id_token, client, now_ms).await?;
        let wrong = |what: &str| Err(Failed::new(StatusCode::UNAUTHORIZED, format!("the login failed: {what}")));
        if claims.get("nonce").and_then(Json::as_str) != Some(&attempt.nonce) {
            return wrong("the ID token is of another login (nonce)");
        }
        // Where the token is for several parties, it says whom it was made for.
        let party = claims.get("azp").and_then(Json::as_str);
        let is_shared = claims.get("aud").and_then(Json::as_array).is_some_and(|audiences| audiences.len() > 1);
        if party.map_or(is_shared, |party| party != self.plan.config.client_id) {
            return wrong("the ID token was made for another client (azp)");
        }
        if let Some(access_token) = tokens.access_token
            && groups(&claims, &self.plan.config.roles_claim).is_none()
        {
            self.complete(&mut claims, &access_token).await?;
        }
        self.known(&claims)
    }

    /// Adds what the provider says at its `userinfo` endpoint only.
    async fn complete(&self, claims: &mut Claims, access_token: &str) -> Result<(), Failed> {
        let more = self.provider.user_info(access_token).await.map_err(|error| Failed::provider(&error))?;
        let Some(more) = more else { return Ok(()) };
        if more.get("sub") != claims.get("sub") {
            return Err(Failed::new(StatusCode::UNAUTHORIZED, "the user information is of another user"));
        }
        for (name, value) in more {
            claims.entry(name).or_insert(value);
        }
        Ok(())
    }

    async fn claims(&self, token: &str, audiences: &[String], now_ms: i64) -> Result<Claims, Failed> {
        let issuer = self.plan.config.issuer.as_str();
        let check = || Some(verify(token, &self.provider.known()?.keys, issuer, audiences, now_ms));
        let mut checked = check();
        if matches!(checked, None | Some(Err(TokenError::UnknownKey { .. }))) {
            // The provider may have new keys.
            self.provider.refresh(provider::PAUSE).await;
            checked = check();
        }
        let unavailable = || self.provider.trouble().map(|(_, error)| error);
        match checked {
            Some(Ok(claims)) => Ok(claims),
            Some(Err(error @ TokenError::UnknownKey { .. })) => Err(match unavailable() {
                None => Failed::new(StatusCode::UNAUTHORIZED, error.to_string()),
                Some(reason) => {
                    let text = format!("{error} that is known here, and it can't be asked for new ones: {reason}");
                    Failed::new(StatusCode::SERVICE_UNAVAILABLE, text)
                }
            }),
            Some(Err(error)) => Err(Failed::new(StatusCode::UNAUTHORIZED, error.to_string())),
            None => Err(self.unreachable()),
        }
    }

    /// Nothing is known of the provider yet.
    fn unreachable(&self) -> Failed {
        let reason = self.provider.trouble().map(|(_, error)| error).unwrap_or_default();
        Failed::new(StatusCode::SERVICE_UNAVAILABLE, format!("the login provider can't be reached: {reason}"))
    }

    fn known(&self, claims: &Claims) -> Result<Known, Failed> {
        let config = &self.plan.config;
        let name = user(claims, &config.name_claim);
        let subject = claims.get("sub").and_then(Json::as_str).unwrap_or_default();
        let of = groups(claims, &config.roles_claim);
        let grants = self.plan.grants.matching(of.as_deref().unwrap_or_default());
        let Some(Allowed { rights, left_out }) = self.plan.grants.allowed(&grants) else {
            let text = match of {
                None => format!("the provider sends no claim `{}` (access.oidc.roles_claim)", config.roles_claim),
                Some(_) => "none of your groups has an entry in access.oidc.grants".to_owned(),
            };
            return Err(Failed { user: name, ..Failed::new(StatusCode::FORBIDDEN, text) });
        };
        let identity = Identity { name: name.as_str().into(), rights };
        let subject = subject.chars().filter(|c| !c.is_control()).take(100).collect();
        Ok(Known { name, subject, grants, left_out, identity })
    }

    /// What those who look after the process should know.
    pub fn notice(&self) -> Option<String> {
        let (since, error) = self.provider.trouble()?;
        let keys = match self.provider.known() {
            Some(known) => format!("its {} known keys remain valid, new logins may fail", known.keys.len()),
            None => "nobody can log in by it".to_owned(),
        };
        let issuer = &self.plan.config.issuer;
        Some(format!("login provider {issuer} has failed for {} s: {error}; {keys}", since.as_secs()))
    }

    /// Fetches description and keys if that was some minutes ago, or failed the last time, whoever asked for them then.
    pub async fn look_after(&self) {
        let pause = if self.provider.failing_for().is_some() { Duration::ZERO } else { FETCH_EVERY };
        self.provider.refresh(pause).await;
    }
}

/// A refusal that the provider sent by the browser.
pub(crate) fn refusal(error: &str, description: &str) -> String {
    provider::shown(error, description)
}

#[cfg(test)]
pub(crate) mod tests;
