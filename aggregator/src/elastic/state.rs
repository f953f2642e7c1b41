//! What the handlers of the API share.

use std::sync::Arc;
use std::time::Duration;

use millrace_log::clock::SharedClock;
use millrace_log::push::DecodeBudget;

use super::accepted::Accepted;
use super::templates::Templates;
use crate::ingest::Ingest;
use crate::queries::Queries;
use millrace_index::docs::DocumentStore;

/// `_refresh`, `refresh=wait_for` wait so long at most.
pub const REFRESH_AT_MOST: Duration = Duration::from_secs(30);

/// What the API needs.
pub struct ElasticState {
    /// Finds events and ids of client documents.
    pub store: Arc<dyn DocumentStore>,
    /// Takes writes.
    pub ingest: Arc<Ingest>,
    /// Ids on their way.
    pub accepted: Accepted,
    /// Templates as clients installed them.
    pub templates: Templates,
    /// Topics that are indexed: each is an index `millrace-<topic>`.
    pub topics: Vec<String>,
    /// For date math and documents without a time.
    pub clock: SharedClock,
    /// Where searches begin, and what one may cost.
    pub queries: Queries,
    /// Bytes of a body at most, decompressed.
    pub max_body_bytes: usize,
    /// Memory for decoding bodies.
    pub budget: DecodeBudget,
}
