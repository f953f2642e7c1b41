//! Errors as Elasticsearch says them: status, type, reason, and the same once more under `root_cause`.
//!
//! In: faults of requests, of the index, of the log. Out: the JSON that clients parse. Touches nothing.
//! Source: Elasticsearch 7.10's REST answers (the form that its clients and Grafana read).

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_log::push::PushError;
use serde_json::{Value, json};

use crate::queries::Refused;
use millrace_index::scan::{OverBudget, StorageError};

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind}: {reason}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Elasticsearch's name of the exception.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

impl ApiError {
    /// The request can't be understood.
    pub fn parsing(reason: impl Into<String>) -> Self {
        Self { status: 400, kind: "parsing_exception", reason: reason.into() }
    }

    /// The request is understood and can't be done so.
    pub fn argument(reason: impl Into<String>) -> Self {
        Self { status: 400, kind: "illegal_argument_exception", reason: reason.into() }
    }

    /// Elasticsearch knows it, this server does not yet: refused by name, never answered wrongly.
    pub fn not_yet(what: &str) -> Self {
        Self::argument(format!("[{what}] is not supported by this server yet"))
    }

    /// The thread that worked on the answer ended without one.
    pub fn ended_early() -> Self {
        let reason = "the search ended unexpectedly, the log of the process says why".to_owned();
        Self { status: 500, kind: "search_phase_execution_exception", reason }
    }

    /// There is no such index.
    pub fn no_index(name: &str) -> Self {
        Self { status: 404, kind: "index_not_found_exception", reason: format!("no such index [{name}]") }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        json!({"error": self.cause(), "status": self.status})
    }

    /// The part that `_bulk` items and `_msearch` answers carry too.
    pub fn cause(&self) -> Value {
        json!({"root_cause": [{"type": self.kind, "reason": self.reason}], "type": self.kind, "reason": self.reason})
    }
}

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        let (status, kind) = match &error {
            PushError::Bad(_) | PushError::Empty(_) => (400, "parse_exception"),
            PushError::TooLarge { .. } | PushError::Costly { .. } => (413, "content_too_large_exception"),
            // Clients repeat it later, as when a node is short of memory.
            PushError::Busy { .. } => (429, "circuit_breaking_exception"),
        };
        Self { status, kind, reason: error.to_string() }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        let (status, kind) = match &error {
            StorageError::Limit { .. } | StorageError::Crowded { .. } => (429, "circuit_breaking_exception"),
            StorageError::Cancelled => (503, "task_cancelled_exception"),
            StorageError::Failed { .. } => (503, "search_phase_execution_exception"),
        };
        Self { status, kind, reason: error.to_string() }
    }
}

impl From<OverBudget> for ApiError {
    fn from(over: OverBudget) -> Self {
        StorageError::from(over).into()
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, kind) = match refused {
            Refused::Busy | Refused::Queue => (429, "es_rejected_execution_exception"),
            Refused::Stopping => (503, "task_cancelled_exception"),
        };
        Self { status, kind, reason: refused.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.body())).into_response()
    }
}
