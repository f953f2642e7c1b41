//! Which streams somebody sees: the forced selector of who asks, from the extensions of their request.
//!
//! In: heads of requests. Out: matchers, or a refusal: whoever isn't known, or has a selector that can't be used, sees
//! nothing. Touches nothing.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use millrace_doors::identity::Identity;
use millrace_doors::refusal::Refusal;
use millrace_index::confined::Confined;
use millrace_index::logql::LogqlStorage;
use millrace_index::scan::EventStore;
use millrace_logql::Engine;
use millrace_logql::storage::LabelMatcher;

/// A store and its engine with the streams only that whoever asks may see.
pub fn confine(head: &Parts, store: &mut Arc<dyn EventStore>, engine: &mut Arc<Engine>) -> Result<(), Response> {
    if let Some(matchers) = of(head)? {
        *store = Arc::new(Confined::new(Arc::clone(store), matchers));
        *engine = Arc::new(Engine::new(Arc::new(LogqlStorage(Arc::clone(store)))));
    }
    Ok(())
}

/// Matchers that all streams of an answer must match; `None`: every stream may be shown.
pub fn of(head: &Parts) -> Result<Option<Vec<LabelMatcher>>, Response> {
    let Some(who) = head.extensions.get::<Identity>() else {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "login required").answer());
    };
    let Some(text) = &who.rights.selector else { return Ok(None) };
    let matchers = millrace_logql::selector_matchers(text);
    matchers.map(Some).map_err(|error| Refusal::new(StatusCode::FORBIDDEN, error.to_string()).answer())
}
