//! The login provider as it is reached over HTTP: its description, its keys, codes and user information.
//!
//! In: the issuer's URL, requests. Out: what the provider answers, within limits of time and size. Touches the network.
//! What was fetched once stays while the provider is down, so that known keys go on; it is fetched again every few
//! minutes, and when a token names a key that is unknown, but not more often than every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use millrace_log::causes::chain;
use parking_lot::RwLock;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::config::safe_url;
use super::keys::Keys;
use super::plan::Plan;
use super::token::Claims;
use crate::metrics::HttpMetrics;

/// Time for one request, its answer included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 512 << 10;
/// Least time between two fetches for tokens whose key is unknown.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
/// Most characters of a provider's text that are shown.
const MAX_TEXT: usize = 300;

/// Why the provider did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It has not been reached since the start.
    #[error("it has not answered yet")]
    Unknown,
    /// No answer, or a broken one.
    #[error("{url} can't be reached: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// Another status than 200.
    #[error("{url} answers with status {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer is too large, or not what the standard says.
    #[error("the answer of {url} can't be used: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// It calls itself by another name.
    #[error("it names itself `{found}`: set `access.oidc.issuer` to exactly that, if it is the right one")]
    Issuer {
        /// The name.
        found: String,
    },
    /// No request can be sent.
    #[error(
        "can't create the HTTP client: {0}: are the system's certificates installed (ca-certificates), or is `access.oidc.ca_file` right?"
    )]
    Client(String),
    /// It refuses a code.
    #[error("it refused the login: {0}")]
    Refused(String),
}

/// What a provider says of itself (OpenID Connect Discovery 1.0).
#[derive(Deserialize)]
struct Described {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// Where a provider does what, and its keys.
pub(super) struct Known {
    pub authorization: Url,
    token: Url,
    user_info: Option<Url>,
    pub end_session: Option<Url>,
    /// Whether the secret goes into the body, because the header is not supported.
    posts_secret: bool,
    pub keys: Keys,
}

#[derive(Default)]
struct State {
    known: Option<Arc<Known>>,
    /// Since when it fails, and the last error.
    trouble: Option<(Instant, String)>,
}

/// What came for a code.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub id_token: String,
    pub access_token: Option<String>,
}

/// A login provider.
pub(crate) struct Provider {
    issuer: String,
    authorities: Vec<u8>,
    /// Or why there is none.
    client: Result<Client, String>,
    state: RwLock<State>,
    /// One fetch at a time; when the last one began.
    fetching: Mutex<Option<Instant>>,
    metrics: HttpMetrics,
}

impl Provider {
    /// The one of a plan; nothing is asked of it yet.
    pub fn new(plan: &Plan, metrics: HttpMetrics) -> Self {
        Self {
            issuer: plan.config.issuer.clone(),
            authorities: plan.authorities.clone(),
            client: client(&plan.authorities).map_err(|error| chain(&error)),
            state: RwLock::default(),
            fetching: Mutex::new(None),
            metrics,
        }
    }

    /// Whether it is the one of this plan too, whose keys are known already.
    pub fn is_of(&self, plan: &Plan) -> bool {
        self.issuer == plan.config.issuer && self.authorities == plan.authorities
    }

    /// What is known of it.
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        self.state.read().known.clone()
    }

    /// For how long it has failed; `None` while it answers.
    pub fn failing_for(&self) -> Option<Duration> {
        self.state.read().trouble.as_ref().map(|(since, _)| since.elapsed())
    }

    /// For how long it has failed, and the last error.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        self.state.read().trouble.as_ref().map(|(since, error)| (since.elapsed(), error.clone()))
    }

    /// Fetches description and keys, unless that was done within `pause`.
    pub async fn refresh(&self, pause: Duration) {
        let mut last = self.fetching.lock().await;
        if last.is_some_and(|began| began.elapsed() < pause) {
            return;
        }
        *last = Some(Instant::now());
        let fetched = self.fetch().await;
        let state = &mut *self.state.write();
        match fetched {
            Ok(known) => {
                if state.trouble.take().is_some() {
                    tracing::info!(issuer = self.issuer, "login provider answers again");
                }
                state.known = Some(Arc::new(known));
                self.metrics.oidc_failing.set(0);
            }
            Err(error) => {
                self.metrics.oidc_failures.inc();
                self.note(state, error.to_string());
            }
        }
    }

    /// Notes that a login failed through no fault of the person, until description and keys are fetched again.
    pub fn failed(&self, error: &str) {
        self.note(&mut self.state.write(), error.to_owned());
    }

    fn note(&self, state: &mut State, error: String) {
        self.metrics.oidc_failing.set(1);
        let since = state.trouble.as_ref().map(|(since, _)| *since);
        if since.is_none() {
            let issuer = &self.issuer;
            tracing::warn!(issuer, error, "login provider fails: known keys remain valid, it is asked again");
        }
        state.trouble = Some((since.unwrap_or_else(Instant::now), error));
    }

    async fn fetch(&self) -> Result<Known, ProviderError> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let described: Described = self.get_json(&url, None).await?;
        if described.issuer != self.issuer {
            return Err(ProviderError::Issuer { found: described.issuer.chars().take(MAX_TEXT).collect() });
        }
        let endpoint = |name: &str, value: &str| {
            safe_url(value).map_err(|error| ProviderError::Answer {
                url: url.clone(),
                reason: format!("{name} `{}`: {error}", value.chars().take(MAX_TEXT).collect::<String>()),
            })
        };
        let optional = |name, value: &Option<String>| value.as_deref().map(|value| endpoint(name, value)).transpose();
        let keys_url = endpoint("jwks_uri", &described.jwks_uri)?;
        let set = ok_body(keys_url.as_str(), self.client()?.get(keys_url.clone())).await?;
        let reason = "it is not a JSON Web Key Set".to_owned();
        let keys = Keys::read(&set).ok_or(ProviderError::Answer { url: keys_url.to_string(), reason })?;
        if keys.len() == 0 {
            let reason = "it has no key that is supported (RSA, P-256, P-384, Ed25519)".to_owned();
            return Err(ProviderError::Answer { url: keys_url.to_string(), reason });
        }
        let methods = &described.token_endpoint_auth_methods_supported;
        let has = |name: &str| methods.iter().any(|method| method == name);
        Ok(Known {
            authorization: endpoint("authorization_endpoint", &described.authorization_endpoint)?,
            token: endpoint("token_endpoint", &described.token_endpoint)?,
            user_info: optional("userinfo_endpoint", &described.userinfo_endpoint)?,
            end_session: optional("end_session_endpoint", &described.end_session_endpoint)?,
            posts_secret: has("client_secret_post") && !has("client_secret_basic"),
            keys,
        })
    }

    /// Redeems a code.
    pub(super) async fn redeem(
        &self,
        plan: &Plan,
        code: &str,
        verifier: &str,
        redirect_url: &str,
    ) -> Result<Tokens, ProviderError> {
        let known = self.known().ok_or(ProviderError::Unknown)?;
        let request = self.redemption(&known, plan, &[code, verifier, redirect_url])?;
        let url = known.token.as_str();
        let (status, answer) = body(url, request).await?;
        if status != StatusCode::OK {
            return Err(refused(url, status, &answer));
        }
        let reason = |error: serde_json::Error| ProviderError::Answer { url: url.to_owned(), reason: plain(&error) };
        serde_json::from_slice(&answer).map_err(reason)
    }

    fn redemption(
        &self,
        known: &Known,
        plan: &Plan,
        [code, verifier, redirect_url]: &[&str; 3],
    ) -> Result<RequestBuilder, ProviderError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code").append_pair("code", code);
        form.append_pair("redirect_uri", redirect_url).append_pair("code_verifier", verifier);
        let mut request = self.client()?.post(known.token.clone());
        if plan.secret.is_empty() || known.posts_secret {
            form.append_pair("client_id", &plan.config.client_id);
        }
        if !plan.secret.is_empty() {
            if known.posts_secret {
                form.append_pair("client_secret", &plan.secret);
            } else {
                // RFC 6749, 2.3.1: both are encoded before they are joined.
                let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                request = request.basic_auth(encoded(&plan.config.client_id), Some(encoded(&plan.secret)));
            }
        }
        Ok(request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form.finish()))
    }

    /// What the provider says of the user whom an access token is for. `None`: it has no such endpoint.
    pub(super) async fn user_info(&self, access_token: &str) -> Result<Option<Claims>, ProviderError> {
        let known = self.known().ok_or(ProviderError::Unknown)?;
        let Some(url) = &known.user_info else { return Ok(None) };
        self.get_json(url.as_str(), Some(access_token)).await.map(Some)
    }

    fn client(&self) -> Result<&Client, ProviderError> {
        self.client.as_ref().map_err(|reason| ProviderError::Client(reason.clone()))
    }

    async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
        token: Option<&str>,
    ) -> Result<T, ProviderError> {
        let request = self.client()?.get(url).header(header::ACCEPT, "application/json");
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        let answer = ok_body(url, request).await?;
        let reason = |error: serde_json::Error| ProviderError::Answer { url: url.to_owned(), reason: plain(&error) };
        serde_json::from_slice(&answer).map_err(reason)
    }
}

/// Follows no redirect: codes, secrets and tokens go to the endpoints that the provider named.
fn client(authorities: &[u8]) -> Result<Client, reqwest::Error> {
    let mut builder = Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT);
    if !authorities.is_empty() {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(authorities)?);
    }
    builder.build()
}

/// What is wrong with JSON, without its content.
fn plain(error: &serde_json::Error) -> String {
    format!("invalid JSON or a missing key at line {} column {}", error.line(), error.column())
}

/// The code that the provider gives for its refusal, and its description.
fn refused(url: &str, status: StatusCode, answer: &[u8]) -> ProviderError {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    match serde_json::from_slice::<Refused>(answer) {
        Ok(refused) => ProviderError::Refused(shown(&refused.error, &refused.error_description)),
        Err(_) => ProviderError::Status { url: url.to_owned(), status: status.as_u16() },
    }
}

/// A refusal of the provider as it is shown and logged.
pub(super) fn shown(error: &str, description: &str) -> String {
    let text = if description.is_empty() { error.to_owned() } else { format!("{error} ({description})") };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

async fn ok_body(url: &str, request: RequestBuilder) -> Result<Vec<u8>, ProviderError> {
    match body(url, request).await? {
        (StatusCode::OK, answer) => Ok(answer),
        (status, _) => Err(ProviderError::Status { url: url.to_owned(), status: status.as_u16() }),
    }
}

async fn body(url: &str, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), ProviderError> {
    let unreachable =
        |error: reqwest::Error| ProviderError::Unreachable { url: url.to_owned(), reason: cause(error.without_url()) };
    let mut answer = request.send().await.map_err(unreachable)?;
    let mut all = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(unreachable)? {
        if all.len() + part.len() > MAX_ANSWER {
            let reason = format!("it has more than {MAX_ANSWER} bytes");
            return Err(ProviderError::Answer { url: url.to_owned(), reason });
        }
        all.extend_from_slice(&part);
    }
    Ok((answer.status(), all))
}

/// The innermost cause: what the outer ones say is known.
fn cause(error: reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = &error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
