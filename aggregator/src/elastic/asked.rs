//! Who asks for what: tenant, indices and parameters of a request, and its body.
//!
//! In: the parts of a request. Out: [`Asked`], a [`Selection`] that holds known indices, JSON. Touches nothing but the index.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query as UrlQuery};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use millrace_doors::tenant::SeveralTenants;
use millrace_index::scan::Budget;
use millrace_log::record::Tenant;
use serde_json::Value;

use super::error::ApiError;
use super::indices::{self, Selection};
use super::search::UrlParams;
use super::state::ElasticState;

/// An answer in JSON.
pub(super) type Answer = Result<Json<Value>, ApiError>;

/// The tenant of a request. One that names several is refused, also where its route lets it through: taken for a request
/// without a tenant, it would be answered for the default one, whoever asks.
pub(super) struct Who(pub(super) Tenant);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if parts.extensions.get::<SeveralTenants>().is_some() {
            return Err(ApiError::argument("multiple org IDs present: this endpoint is for one tenant"));
        }
        Ok(Self(parts.extensions.get().cloned().unwrap_or_default()))
    }
}

/// Who asks for which indices, and how: the same for `/_search` and `/{index}/_search`.
pub(super) struct Asked {
    /// The tenant.
    pub(super) who: Tenant,
    /// Names and patterns; empty: all.
    pub(super) index: String,
    /// Parameters of the address.
    pub(super) params: UrlParams,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Who(who) = Who::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        let path = Option::<Path<String>>::from_request_parts(parts, state).await;
        let index = path.map_err(IntoResponse::into_response)?.map(|Path(index)| index).unwrap_or_default();
        let params = UrlQuery::<UrlParams>::from_request_parts(parts, state).await;
        let UrlQuery(params) = params.map_err(IntoResponse::into_response)?;
        Ok(Self { who, index, params })
    }
}

/// The body; null if there is none.
pub(super) fn body_json(body: &[u8]) -> Result<Value, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|e| ApiError {
        status: 400,
        kind: "parsing_exception",
        reason: format!("body is not JSON: {e}"),
    })
}

/// The selection of a path, checked against the indices there are.
pub(super) async fn selected(
    state: &ElasticState,
    budget: &Budget,
    who: &Tenant,
    text: &str,
    params: &UrlParams,
) -> Result<Selection, ApiError> {
    let selection = Selection::parse(text)?;
    let ignore = params.get("ignore_unavailable").is_some_and(|v| v != "false");
    let known: BTreeSet<String> = indices::list(state, budget, who).await?.into_keys().collect();
    selection.check(&known, ignore)?;
    if params.get("allow_no_indices").is_some_and(|v| v == "false") && !known.iter().any(|name| selection.holds(name)) {
        return Err(ApiError::no_index(text));
    }
    Ok(selection)
}
