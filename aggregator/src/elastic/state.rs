//! What the handlers of the API share.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use millrace_index::confined::Confined;
use millrace_log::clock::SharedClock;
use millrace_log::push::DecodeBudget;

use super::accepted::Accepted;
use super::templates::Templates;
use crate::ingest::Ingest;
use crate::queries::Queries;
use crate::scope;
use millrace_index::docs::DocumentStore;

/// `_refresh`, `refresh=wait_for` wait so long at most.
pub const REFRESH_AT_MOST: Duration = Duration::from_secs(30);

/// What is mounted: handlers get at it by way of [`Scoped`] only.
#[derive(Clone)]
pub(super) struct Mounted(pub(super) Arc<ElasticState>);

/// What the handlers share, with the streams only that whoever asks may see.
pub(super) struct Scoped(pub(super) Arc<ElasticState>);

impl FromRequestParts<Mounted> for Scoped {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, mounted: &Mounted) -> Result<Self, Response> {
        let Some(matchers) = scope::of(parts)? else { return Ok(Self(Arc::clone(&mounted.0))) };
        let store = Arc::new(Confined::new(Arc::clone(&mounted.0.store), matchers));
        Ok(Self(Arc::new(ElasticState { store, ..ElasticState::clone(&mounted.0) })))
    }
}

/// What the API needs.
#[derive(Clone)]
pub struct ElasticState {
    /// Finds events and ids of client documents.
    pub store: Arc<dyn DocumentStore>,
    /// Takes writes.
    pub ingest: Arc<Ingest>,
    /// Ids on their way.
    pub accepted: Arc<Accepted>,
    /// Templates as clients installed them.
    pub templates: Arc<Templates>,
    /// Topics that are indexed: each is an index `millrace-<topic>`.
    pub topics: Arc<[String]>,
    /// For date math and documents without a time.
    pub clock: SharedClock,
    /// Where searches begin, and what one may cost.
    pub queries: Queries,
    /// Bytes of a body at most, as sent.
    pub max_body: u64,
    /// Bytes of a body at most, decompressed.
    pub max_body_decompressed: u64,
    /// Memory for decoding bodies.
    pub budget: DecodeBudget,
}
