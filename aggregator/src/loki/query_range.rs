//! `/query_range`: log and metric queries over a range of time.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use millrace_log::record::Tenant;
use millrace_logql::{Expr, RangeQuery};

use super::error::LokiError;
use super::params::{DEFAULT_LIMIT, Params, QUERY_SINCE};
use super::query::{parse, render};
use super::state::{LokiState, Scoped, Whose};

pub(super) async fn query_range(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, LokiError> {
    let (start_ns, end_ns) = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    if end_ns < start_ns {
        return Err(LokiError::bad("end timestamp must not be before or equal to start time"));
    }
    let limit = params.limit(DEFAULT_LIMIT)?;
    let direction = params.direction()?;
    let step_ns = params.step(start_ns, end_ns)?;
    let interval_ns = params.interval()?;
    let expr = Arc::new(parse(params.get("query"))?);
    if let Expr::Log(_) = *expr {
        check_limit(&state, &tenant, limit)?;
    }
    let answered = state
        .run(&tenant, |budget| {
            let query = RangeQuery {
                tenant: tenant.as_str().to_owned(),
                query: Arc::clone(&expr),
                start_ns,
                end_ns,
                step_ns,
                interval_ns,
                limit,
                direction,
                budget,
            };
            state.engine.query_range(query)
        })
        .await?;
    let warnings = state.missing(&tenant, &expr, start_ns, end_ns);
    render(answered, direction, &headers, warnings).await
}

/// Refuses to return more entries than the configuration allows.
pub(super) fn check_limit(state: &LokiState, tenant: &Tenant, limit: usize) -> Result<(), LokiError> {
    let allowed = state.query_limits(tenant).max_entries;
    if limit > allowed {
        return Err(LokiError::Bad(format!(
            "max entries limit per query exceeded, limit > max_entries_limit_per_query ({limit} > {allowed})"
        )));
    }
    Ok(())
}
