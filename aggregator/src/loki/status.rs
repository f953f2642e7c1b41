//! What clients ask of the server itself: its version, its services, and to have everything searchable.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;

use super::error::LokiError;
use super::json;
use super::state::Scoped;

/// Version of Loki whose API this is: Grafana and logcli choose features by it.
const API_VERSION: &str = "3.8.0";
/// How long `/flush` waits.
const FLUSH_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn build_info() -> Response {
    json::answer(
        serde_json::json!({
            "version": API_VERSION,
            "revision": concat!("millrace-", env!("CARGO_PKG_VERSION")),
            "branch": "",
            "buildUser": "",
            "buildDate": "",
            "goVersion": ""
        })
        .to_string(),
    )
}

/// Waits until all that the log has can be found.
pub(super) async fn flush(Scoped(state): Scoped) -> Result<StatusCode, LokiError> {
    let request = state.queries.begin_waiting();
    request.budget().within(state.store.caught_up(FLUSH_WAIT)).await??;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn services() -> &'static str {
    "server => Running\ndistributor => Running\ningester => Running\nquerier => Running\nquery-frontend => Running\n"
}

/// Loki's answer to paths that it does not know.
pub(super) async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "404 page not found\n")
}
