//! The Loki HTTP API over the index and the way in.
//!
//! In: HTTP requests; the tenant as request extension [`Tenant`] (absent: the default one). Out: Loki's answers, byte
//! for byte where clients parse them. Touches nothing itself. Leaves authentication, request limits and compression of
//! answers to the binary, LogQL to the engine, durability to [`crate::ingest`].

use axum::Router;
use axum::routing::{get, post};

/// What went wrong, as Loki says it.
pub mod error;
/// Parameters of requests.
pub mod params;
/// Answers of queries.
pub mod json;
/// What the handlers share.
mod state;
/// `/push`
mod push;
/// Stream selectors of requests that are no queries.
mod selector;
/// `/query`
mod query;
/// `/query_range`
mod query_range;
/// `/labels`, `/label/<name>/values`
mod labels;
/// `/series`
mod series;
/// `/index/stats`
mod stats;
/// `/index/volume`, `/index/volume_range`
mod volume;
/// `/detected_labels`, `/detected_fields`, `/detected_field/<name>/values`
mod detected;
/// `/format_query`
mod format;
/// `/status/buildinfo`, `/flush`, `/services`
mod status;
/// `/tail`
mod tail;

pub use error::LokiError;
pub use state::{LokiLimits, LokiState};

/// All routes of the Loki API, `/flush` and `/services` among them.
pub fn router(state: LokiState) -> Router {
    let api = Router::new()
        .route("/push", post(push::push))
        .route("/query", get(query::query).post(query::query))
        .route("/query_range", get(query_range::query_range).post(query_range::query_range))
        .route("/labels", get(labels::names).post(labels::names))
        .route("/label", get(labels::names).post(labels::names))
        .route("/label/{name}/values", get(labels::values).post(labels::values))
        .route("/series", get(series::series).post(series::series))
        .route("/index/stats", get(stats::stats).post(stats::stats))
        .route("/index/volume", get(volume::volume).post(volume::volume))
        .route("/index/volume_range", get(volume::volume_range).post(volume::volume_range))
        .route("/detected_labels", get(detected::labels).post(detected::labels))
        .route("/detected_fields", get(detected::fields).post(detected::fields))
        .route("/detected_field/{name}/values", get(detected::values).post(detected::values))
        .route("/format_query", get(format::format_query).post(format::format_query))
        .route("/tail", get(tail::tail))
        .route("/status/buildinfo", get(status::build_info))
        .fallback(status::not_found);
    // What has no route here may belong to the page: only paths of the API get Loki's own 404.
    Router::new()
        .nest("/loki/api/v1", api)
        .route("/flush", post(status::flush).get(status::flush))
        .route("/services", get(status::services))
        .with_state(state)
}

#[cfg(test)]
mod tests;
