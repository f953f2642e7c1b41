//! What every process answers about itself by HTTP: `/ready`, `/-/healthy`, `/metrics`.
//!
//! In: the registries of all crates, checks of readiness. Out: routes for a listener of `millrace-doors`. Touches nothing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_doors::routes::{Methods, Need, Routes};

use crate::exposition;
use crate::metrics::Registries;

/// Whether all parts that this process needs for its work are there: `Err` says what is missing.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What is wrong although the process does its work, for the body of `/ready`.
pub type Notes = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// `/ready` and `/metrics`, and `/-/healthy` for those who only ask whether the process lives.
pub fn status_routes(registry: Registries, checks: Vec<ReadyCheck>, notes: Vec<Notes>) -> Routes {
    let ready = move || {
        let notes = notes.iter().flat_map(|note| note());
        let notes: String = notes.map(|note| format!("warning: {}\n", note.replace('\n', "\n  "))).collect();
        let missing: Vec<String> = checks.iter().filter_map(|check| check().err()).collect();
        async move {
            if missing.is_empty() {
                (StatusCode::OK, format!("ready\n{notes}"))
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n{notes}", missing.join("; ")))
            }
        }
    };
    Routes::new()
        .on(Need::Public, Methods::Get, "/ready", ready)
        .on(Need::Public, Methods::Get, "/-/healthy", || async { "ok\n" })
        .on(Need::Whole, Methods::Get, "/metrics", metrics)
        .with_state(registry)
}

async fn metrics(State(registry): State<Registries>, headers: HeaderMap) -> Response {
    match registry.encode() {
        Ok(out) => {
            let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let (kind, out) = if exposition::wants_open_metrics(accept) {
                (exposition::OPEN_METRICS, out)
            } else {
                (exposition::PLAIN, exposition::plain(&out))
            };
            ([(header::CONTENT_TYPE, kind)], out).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be written\n").into_response(),
    }
}
