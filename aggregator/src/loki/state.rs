//! What the handlers of the Loki API share: the index, the engine, the way in, limits, and the tenant of a request.

use std::convert::Infallible;
use std::slice;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use millrace_doors::tenant::SeveralTenants;
use millrace_index::joined::Joined;
use millrace_index::logql::LogqlStorage;
use millrace_log::clock::SharedClock;
use millrace_log::push::DecodeBudget;
use millrace_log::record::Tenant;
use millrace_logql::{Engine, Expr};
use tokio::sync::Semaphore;

use super::error::LokiError;
use crate::config::AggregatorConfig;
use crate::ingest::Ingest;
use crate::queries::{Queries, Refused, Request};
use crate::scope;
use millrace_index::scan::{Budget, EventStore, QueryLimits};

/// What requests may cost besides what [`Queries`] says.
#[derive(Debug, Clone)]
pub struct LokiLimits {
    /// Live tails at once.
    pub max_tails: usize,
    /// Bytes of a push as sent.
    pub max_body: u64,
    /// Bytes of a push, decompressed.
    pub max_body_decompressed: u64,
    /// Memory for decoding pushes.
    pub budget: DecodeBudget,
}

impl From<&AggregatorConfig> for LokiLimits {
    fn from(config: &AggregatorConfig) -> Self {
        Self {
            max_tails: config.http.max_tails,
            max_body: config.http.max_body.0,
            max_body_decompressed: config.http.max_body_decompressed.0,
            budget: DecodeBudget::of_process(),
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
    /// Where queries begin.
    pub queries: Queries,
    /// Places for live tails.
    pub tails: Arc<Semaphore>,
    /// Tenants that a request joins; `None`: it asks one.
    joined: Option<SeveralTenants>,
}

impl LokiState {
    /// Joins the parts.
    pub fn new(
        store: Arc<dyn EventStore>,
        engine: Arc<Engine>,
        ingest: Arc<Ingest>,
        clock: SharedClock,
        limits: LokiLimits,
        queries: Queries,
    ) -> Self {
        let tails = Arc::new(Semaphore::new(limits.max_tails));
        Self { store, engine, ingest, clock, limits: Arc::new(limits), queries, tails, joined: None }
    }

    /// The same with several tenants as one, whatever tenant is asked for.
    fn join(mut self, tenants: &SeveralTenants) -> Self {
        self.store = Arc::new(Joined::new(self.store, tenants.shared()));
        self.engine = Arc::new(Engine::new(Arc::new(LogqlStorage(Arc::clone(&self.store)))));
        self.joined = Some(tenants.clone());
        self
    }

    /// Tenants that the request joins; none if it asks one.
    pub fn joined(&self) -> &[Tenant] {
        self.joined.as_ref().map(SeveralTenants::all).unwrap_or_default()
    }

    /// The tenants that a request asks, of which this is the first.
    fn asked<'t>(&'t self, first: &'t Tenant) -> &'t [Tenant] {
        self.joined.as_ref().map_or(slice::from_ref(first), SeveralTenants::all)
    }

    /// What a request may cost: the smallest limits of the tenants that it asks.
    pub fn query_limits(&self, tenant: &Tenant) -> QueryLimits {
        self.queries.limits(self.asked(tenant))
    }

    /// Begins a request, with a place that counts for each tenant that it asks.
    pub async fn begin(&self, tenant: &Tenant) -> Result<Request, Refused> {
        self.queries.begin_within(self.asked(tenant), self.query_limits(tenant)).await
    }

    /// Names the damaged splits that an answer lacks, after the query: it may be the one that met the damage.
    pub fn missing(&self, tenant: &Tenant, expr: &Expr, start_ns: i64, end_ns: i64) -> Vec<String> {
        let damaged = self.store.damaged(tenant, start_ns.saturating_sub(expr.reach_ns()), end_ns);
        damaged.iter().map(ToString::to_string).collect()
    }

    /// Runs a request that asks one question: waits for its turn; its budget ends it when its time is over, when the client
    /// goes (this future is dropped) or when the program stops.
    pub async fn run<T, E, F>(&self, tenant: &Tenant, work: impl FnOnce(Budget) -> F) -> Result<T, LokiError>
    where
        E: Into<LokiError>,
        F: Future<Output = Result<T, E>>,
    {
        let request = self.begin(tenant).await?;
        let budget = request.budget();
        budget.within(work(budget.clone())).await?.map_err(Into::into)
    }
}

/// What is mounted: handlers get at it by way of [`Scoped`] only.
#[derive(Clone)]
pub(super) struct Mounted(pub(super) LokiState);

/// What the handlers share, with the streams only that whoever asks may see.
pub(super) struct Scoped(pub(super) LokiState);

impl FromRequestParts<Mounted> for Scoped {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, mounted: &Mounted) -> Result<Self, Response> {
        let mut state = mounted.0.clone();
        scope::confine(parts, &mut state.store, &mut state.engine)?;
        // The selector holds for each tenant by itself.
        Ok(Self(match parts.extensions.get::<SeveralTenants>() {
            Some(tenants) => state.join(tenants),
            None => state,
        }))
    }
}

/// The tenant of a request; of several the first: the store of [`Scoped`] answers for all of them.
pub struct Whose(pub Tenant);

impl<S: Send + Sync> FromRequestParts<S> for Whose {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let first = || parts.extensions.get::<SeveralTenants>()?.all().first().cloned();
        Ok(Self(parts.extensions.get::<Tenant>().cloned().or_else(first).unwrap_or_default()))
    }
}
