//! Which streams somebody sees: the forced selector of who asks, from the extensions of their request.
//!
//! In: heads of requests. Out: matchers, or a refusal: whoever isn't known, or has a selector that can't be used, sees
//! nothing. Touches nothing.

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use millrace_doors::identity::Identity;
use millrace_doors::refusal::Refusal;
use millrace_logql::storage::LabelMatcher;

/// Matchers that all streams of an answer must match; `None`: every stream may be shown.
pub fn of(head: &Parts) -> Result<Option<Vec<LabelMatcher>>, Response> {
    let Some(who) = head.extensions.get::<Identity>() else {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "login required").answer());
    };
    let Some(text) = &who.rights.selector else { return Ok(None) };
    let matchers = millrace_logql::selector_matchers(text);
    matchers.map(Some).map_err(|error| Refusal::new(StatusCode::FORBIDDEN, error.to_string()).answer())
}
