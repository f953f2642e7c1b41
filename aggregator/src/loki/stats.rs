//! `/index/stats`: how much a selector finds, from the catalog: whole splits count, so it is an upper bound.

use std::collections::HashSet;

use axum::response::Response;

use super::error::LokiError;
use super::params::{Params, QUERY_SINCE};
use super::state::{Scoped, Whose};
use super::{json, selector};

pub(super) async fn stats(Scoped(state): Scoped, Whose(tenant): Whose, params: Params) -> Result<Response, LokiError> {
    let bounds = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let matchers = selector::parse(params.get("query"))?;
    let found =
        state.run(&tenant, |budget| state.store.streams(selector::plan(&tenant, matchers, bounds, budget))).await?;
    let streams: HashSet<_> = found.iter().map(|(stream, _)| &stream.labels).collect();
    let sum = |of: fn(&millrace_logql::storage::Stats) -> u64| found.iter().map(|(_, s)| of(s)).sum::<u64>();
    Ok(json::answer(format!(
        r#"{{"streams":{},"chunks":{},"bytes":{},"entries":{}}}"#,
        streams.len(),
        sum(|s| s.chunks),
        sum(|s| s.bytes),
        sum(|s| s.entries)
    )))
}
