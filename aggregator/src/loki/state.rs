//! What the handlers of the Loki API share: the index, the engine, the way in, limits, and the tenant of a request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use millrace_log::clock::SharedClock;
use millrace_log::record::Tenant;
use millrace_logql::storage::QueryLimits;
use millrace_logql::{Engine, Expr};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::LokiError;
use crate::config::AggregatorConfig;
use crate::ingest::Ingest;
use millrace_index::scan::EventStore;

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
    /// Places for live tails.
    pub tails: Arc<Semaphore>,
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

    /// Names the damaged splits that an answer lacks, after the query: it may be the one that met the damage.
    pub fn missing(&self, tenant: &Tenant, expr: &Expr, start_ns: i64, end_ns: i64) -> Vec<String> {
        let damaged = self.store.damaged(tenant, start_ns.saturating_sub(expr.reach_ns()), end_ns);
        damaged.iter().map(ToString::to_string).collect()
    }

    /// Runs one query: waits for its turn, ends it after the time-out, cancels it when the client goes (this future is
    /// dropped) or the program stops.
    pub async fn run<T, E: Into<LokiError>, F: Future<Output = Result<T, E>>>(
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
pub struct Whose(pub Tenant);

impl<S: Send + Sync> FromRequestParts<S> for Whose {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Tenant>().cloned().unwrap_or_default()))
    }
}
