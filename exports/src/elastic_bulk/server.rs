//! The server: one `_bulk` request, and what the answer says of each document.
//!
//! In: documents. Out: the outcome of each, or why the request was not taken as a whole. Touches the network.

use millrace_log::causes::chain;
use millrace_log::outgoing::{Outgoing, OutgoingClient, Redirects};
use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::document::Document;
use crate::config::ElasticBulkConfig;
use crate::error::ExportError;

/// Where documents go, and who sends them.
pub(super) struct Server {
    url: String,
    login: Login,
    client: OutgoingClient,
}

/// How the server is told who asks. Not `Debug`: it holds secrets.
enum Login {
    None,
    Basic(String, String),
    ApiKey(String),
}

/// Parts of the server's answer that matter.
#[derive(Debug, Deserialize)]
struct BulkAnswer {
    errors: bool,
    items: Vec<Map<String, Json>>,
}

/// What became of one document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored,
    Duplicate,
    /// Not now, and why.
    Again(String),
    Refused(String),
}

/// Why a request was not taken as a whole.
#[derive(Debug)]
pub(super) enum SendFault {
    /// HTTP 413: fewer documents at once may be taken.
    TooLarge(String),
    /// HTTP 401 or 403: nothing will be taken until somebody sets the login right.
    Login(String),
    /// Anything else: try again.
    Other(String),
}

impl Server {
    /// Reads secrets and makes the client.
    pub fn new(config: &ElasticBulkConfig, outgoing: &Outgoing) -> Result<Self, ExportError> {
        let secret = |source| ExportError::Secret { name: config.name.clone(), source };
        let login = if !config.username.is_empty() {
            Login::Basic(config.username.clone(), config.password.reveal().map_err(secret)?)
        } else {
            match config.api_key.reveal().map_err(secret)? {
                key if key.is_empty() => Login::None,
                key => Login::ApiKey(key),
            }
        };
        // Following a redirect would turn the request into a GET, whose answer says nothing of the documents.
        let client = outgoing
            .client(Redirects::None, Some(config.timeout.0))
            .map_err(|source| ExportError::Client { name: config.name.clone(), source })?;
        Ok(Self { url: format!("{}/_bulk", config.url.trim_end_matches('/')), login, client })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// One request: what became of each document, or why the whole must be repeated.
    pub async fn send(&self, documents: &[Document]) -> Result<Vec<Outcome>, SendFault> {
        let other = |error: reqwest::Error| SendFault::Other(chain(&error.without_url()));
        let body = documents.iter().map(|document| &document.body[..]).collect::<Vec<_>>().concat();
        let request = self.client.request(Method::POST, &self.url);
        let request = request.map_err(|error| SendFault::Other(error.to_string()))?;
        let mut request = request.header(header::CONTENT_TYPE, "application/x-ndjson").body(body);
        request = match &self.login {
            Login::None => request,
            Login::Basic(user, password) => request.basic_auth(user, Some(password)),
            Login::ApiKey(key) => request.header(header::AUTHORIZATION, format!("ApiKey {key}")),
        };
        let answer = request.send().await.map_err(other)?;
        let status = answer.status();
        if status.is_redirection() {
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            let to: String = to.chars().take(200).collect();
            let text =
                format!("HTTP {status}: the server redirects to {to}; set `url` to the address that takes `_bulk`");
            return Err(SendFault::Other(text));
        }
        if !status.is_success() {
            let text: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
            let text = format!("HTTP {status}: {text}");
            return Err(match status {
                StatusCode::PAYLOAD_TOO_LARGE => SendFault::TooLarge(text),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => SendFault::Login(text),
                _ => SendFault::Other(text),
            });
        }
        let bytes = answer.bytes().await.map_err(other)?;
        let parsed: BulkAnswer = serde_json::from_slice(&bytes).map_err(|error| {
            SendFault::Other(format!("answer is not that of `_bulk`, is `url` that of Elasticsearch? {error}"))
        })?;
        if parsed.items.len() != documents.len() {
            let text = format!("answer has {} items for {} documents", parsed.items.len(), documents.len());
            return Err(SendFault::Other(text));
        }
        if !parsed.errors {
            return Ok(documents.iter().map(|_| Outcome::Stored).collect());
        }
        Ok(parsed.items.iter().map(outcome).collect())
    }
}

/// What the server says of one item: 409 to `create` means that it has the document.
pub(super) fn outcome(item: &Map<String, Json>) -> Outcome {
    let Some((action, result)) = item.iter().next() else { return Outcome::Again("an item is empty".to_owned()) };
    let error = || {
        let error = result.get("error").map(ToString::to_string).unwrap_or_default();
        error.chars().take(500).collect::<String>()
    };
    let status = result.get("status").and_then(Json::as_u64).and_then(|s| StatusCode::from_u16(s as u16).ok());
    match status {
        Some(StatusCode::CONFLICT) if action == "create" => Outcome::Duplicate,
        Some(status) if status.is_success() => Outcome::Stored,
        None => Outcome::Again("an item has no status".to_owned()),
        Some(status) => {
            let reason = format!("HTTP {}: {}", status.as_u16(), error());
            let passes = match status {
                // Also a block of the index (a full disk, say) is 403 and passes.
                StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
                status => status.is_server_error(),
            };
            if passes { Outcome::Again(reason) } else { Outcome::Refused(reason) }
        }
    }
}
