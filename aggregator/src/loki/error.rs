//! What went wrong, as Loki says it: a status and a plain text.
//!
//! In: errors of params, engine, index and log. Out: HTTP answers. Touches nothing.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_log::push::PushError;
use millrace_logql::storage::StorageError;
use millrace_logql::{OverBudget, QueryError};

use crate::ingest::IngestError;
use crate::queries::Refused;

/// Status of a request whose client has gone (as nginx and Loki count it).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Why a request of the Loki API was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LokiError {
    /// A parameter or a body that can't be used.
    #[error("{0}")]
    Bad(String),
    /// A body without anything to store.
    #[error("{0}")]
    Unprocessable(String),
    /// A body beyond its limit.
    #[error("request body too large: {found} bytes, {allowed} are allowed (http.max_body, http.max_body_decompressed)")]
    TooLarge {
        /// The size found, or the limit if it is beyond.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// A push whose elements take more memory than there is, ever or now.
    #[error(transparent)]
    Decode(PushError),
    /// The query failed.
    #[error("{}", query_text(.0))]
    Query(#[from] QueryError),
    /// The index failed.
    #[error(transparent)]
    Storage(StorageError),
    /// The log did not take a push.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// All places are taken.
    #[error("too many outstanding requests: {0}")]
    Busy(String),
    /// The program is stopping.
    #[error("server is stopping: repeat the request later")]
    Stopping,
}

impl LokiError {
    /// A client's fault.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::Bad(text.into())
    }

    /// The status and how many seconds to wait before a repeat makes sense.
    pub fn status(&self) -> (StatusCode, Option<u32>) {
        let gone = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST);
        match self {
            Self::Bad(_) => (StatusCode::BAD_REQUEST, None),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, None),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::Decode(PushError::Busy { .. }) => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Self::Decode(_) => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::Query(QueryError::Limit { limit: "timeout", .. }) => (StatusCode::GATEWAY_TIMEOUT, None),
            Self::Query(QueryError::Crowded { .. }) => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Self::Query(QueryError::Cancelled) => (gone, None),
            Self::Query(QueryError::Storage(_)) | Self::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
            Self::Query(_) => (StatusCode::BAD_REQUEST, None),
            Self::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
            Self::Ingest(IngestError::Rate { wait, .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, Some(u32::try_from(wait.0.as_secs()).unwrap_or(u32::MAX)))
            }
            Self::Ingest(error) if error.is_too_much() => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Self::Ingest(error) if error.is_retriable() => (StatusCode::SERVICE_UNAVAILABLE, Some(2)),
            Self::Ingest(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
        }
    }
}

/// Loki's texts where it has one; else the engine's own.
fn query_text(error: &QueryError) -> String {
    match error {
        QueryError::Cancelled => "The request was cancelled by the client.".to_owned(),
        other => other.to_string(),
    }
}

impl From<StorageError> for LokiError {
    fn from(error: StorageError) -> Self {
        match error {
            failed @ StorageError::Failed { .. } => Self::Storage(failed),
            other => Self::Query(other.into()),
        }
    }
}

impl From<OverBudget> for LokiError {
    fn from(over: OverBudget) -> Self {
        Self::Query(over.into())
    }
}

impl From<Refused> for LokiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stopping => Self::Stopping,
            busy => Self::Busy(busy.to_string()),
        }
    }
}

impl IntoResponse for LokiError {
    fn into_response(self) -> Response {
        let (status, retry_after) = self.status();
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), error = %self, "request of the loki api failed");
        }
        let mut answer = (status, self.to_string()).into_response();
        answer.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if let Some(seconds) = retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::record::Tenant;
    use millrace_log::value::{ByteSize, Span};

    #[test]
    fn each_fault_has_its_status() {
        let limit = |limit| QueryError::Limit { limit, allowed: "1".to_owned() };
        let rate = |secs| -> LokiError {
            IngestError::Rate { max: ByteSize(1), tenant: Tenant::default(), wait: Span::secs(secs) }.into()
        };
        for (error, want) in [
            (LokiError::bad("x"), 400),
            (LokiError::Query(limit("max_series")), 400),
            (LokiError::Query(limit("timeout")), 504),
            (LokiError::Query(QueryError::Crowded { allowed: 1 }), 429),
            (LokiError::Query(QueryError::Cancelled), 499),
            (StorageError::Cancelled.into(), 499),
            (LokiError::Busy("x".to_owned()), 429),
            (IngestError::Full { max: ByteSize(1) }.into(), 429),
            (rate(7), 429),
            (IngestError::Stopping.into(), 503),
            (IngestError::Damaged { path: String::new() }.into(), 500),
            (LokiError::TooLarge { found: 2, allowed: 1 }, 413),
        ] {
            assert_eq!(error.status().0.as_u16(), want, "{error}");
        }
        let answer = LokiError::Busy("x".to_owned()).into_response();
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(rate(7).into_response().headers()[header::RETRY_AFTER], "7");
    }
}
