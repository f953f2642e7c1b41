//! `/labels` and `/label/<name>/values`: names and values of the labels of streams.

use std::collections::BTreeSet;

use axum::extract::Path;
use axum::response::Response;
use millrace_index::joined::TENANT_LABEL;
use millrace_index::scan::LabelMatcher;
use millrace_log::record::{Labels, Tenant};

use super::error::LokiError;
use super::params::{LABEL_SINCE, Params};
use super::state::{LokiState, Scoped, Whose};
use super::{json, selector};

pub(super) async fn names(Scoped(state): Scoped, Whose(tenant): Whose, params: Params) -> Result<Response, LokiError> {
    let streams = found(&state, &tenant, &params).await?;
    let mut names: BTreeSet<&str> = streams.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
    if !state.joined().is_empty() {
        names.insert(TENANT_LABEL);
    }
    Ok(json::answer(json::list(names, true)))
}

pub(super) async fn values(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, LokiError> {
    if name == TENANT_LABEL && !state.joined().is_empty() {
        // All that were asked for, as Loki does: no stream has another.
        asked(&state, &params)?;
        return Ok(json::answer(json::list(state.joined().iter().map(Tenant::as_str), true)));
    }
    let streams = found(&state, &tenant, &params).await?;
    let values: BTreeSet<&str> = streams.iter().filter_map(|labels| labels.get(&name)).collect();
    Ok(json::answer(json::list(values, true)))
}

/// The time and the streams that are asked for.
fn asked(state: &LokiState, params: &Params) -> Result<((i64, i64), Vec<LabelMatcher>), LokiError> {
    Ok((params.bounds(state.clock.now_ns(), LABEL_SINCE)?, selector::parse(params.get("query"))?))
}

async fn found(state: &LokiState, tenant: &Tenant, params: &Params) -> Result<Vec<Labels>, LokiError> {
    let (bounds, matchers) = asked(state, params)?;
    let streams =
        state.run(tenant, |budget| state.store.streams(selector::plan(tenant, matchers, bounds, budget))).await?;
    Ok(streams.into_iter().map(|(stream, _)| stream.labels).collect())
}
