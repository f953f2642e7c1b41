//! The Loki HTTP API over the index and the way in.
//!
//! In: HTTP requests; the tenant as request extension [`Tenant`] (absent: the default one). Out: Loki's answers, byte
//! for byte where clients parse them. Touches nothing itself. Leaves authentication, request limits and compression of
//! answers to the binary, LogQL to the engine, durability to [`crate::ingest`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{get, post};
use millrace_log::clock::SharedClock;
use millrace_log::record::Tenant;
use millrace_logql::Engine;
use millrace_logql::storage::QueryLimits;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::AggregatorConfig;
use crate::ingest::Ingest;
use millrace_index::scan::EventStore;

/// What went wrong, as Loki says it.
pub mod error;
/// Parameters of requests.
pub mod params;
/// Answers of queries.
pub mod json;
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

/// What requests may cost.
#[derive(Debug, Clone)]
pub struct LokiLimits {
    /// One query.
    pub query: QueryLimits,
    /// Queries answered at once; others wait.
    pub max_concurrent: usize,
    /// Live tails at once.
    pub max_tails: usize,
    /// Bytes of a push as sent.
    pub max_body: u64,
    /// Bytes of a push, decompressed.
    pub max_body_decompressed: u64,
}

impl From<&AggregatorConfig> for LokiLimits {
    fn from(config: &AggregatorConfig) -> Self {
        Self {
            query: config.index.query.limits(),
            max_concurrent: config.index.query.max_concurrent,
            max_tails: config.http.max_tails,
            max_body: config.http.max_body.0,
            max_body_decompressed: config.http.max_body_decompressed.0,
        }
    }
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct LokiState {
    /// The index.
    pub store: Arc<dyn EventStore>,
    /// LogQL over the same index.
    pub engine: Arc<Engine>,
    /// The way in.
    pub ingest: Arc<Ingest>,
    /// Wall time: defaults of `start`, `end`, `time`.
    pub clock: SharedClock,
    /// What requests may cost.
    pub limits: Arc<LokiLimits>,
    /// Ends tails and queries when the program stops.
    pub shutdown: CancellationToken,
    queries: Arc<Semaphore>,
    tails: Arc<Semaphore>,
}

impl LokiState {
    /// Joins the parts.
    pub fn new(
        store: Arc<dyn EventStore>,
        engine: Arc<Engine>,
        ingest: Arc<Ingest>,
        clock: SharedClock,
        limits: LokiLimits,
        shutdown: CancellationToken,
    ) -> Self {
        let queries = Arc::new(Semaphore::new(limits.max_concurrent.max(1)));
        let tails = Arc::new(Semaphore::new(limits.max_tails));
        Self { store, engine, ingest, clock, limits: Arc::new(limits), shutdown, queries, tails }
    }

    /// Runs one query: waits for its turn, ends it after the time-out, cancels it when the client goes (this future is
    /// dropped) or the program stops.
    async fn run<T, E: Into<LokiError>, F: Future<Output = Result<T, E>>>(
        &self,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<T, LokiError> {
        let timeout = self.limits.query.timeout;
        let Ok(turn) = tokio::time::timeout(timeout, self.queries.acquire()).await else {
            return Err(LokiError::Busy("all places of `index.query.max_concurrent` are taken"));
        };
        let _turn = turn.map_err(|_| LokiError::Stopping)?;
        let cancel = self.shutdown.child_token();
        let _gone = cancel.clone().drop_guard();
        // The engine keeps the same limit and says more; this one is for stores that don't.
        match tokio::time::timeout(timeout + Duration::from_secs(1), work(cancel)).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(LokiError::TimedOut),
        }
    }
}

/// The tenant that the binary's middleware found.
struct Whose(Tenant);

impl<S: Send + Sync> FromRequestParts<S> for Whose {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Tenant>().cloned().unwrap_or_default()))
    }
}

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
