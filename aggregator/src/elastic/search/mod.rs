//! `_search`, `_msearch`, `_count`: a request becomes a plan, the rows found become hits and aggregations.
//!
//! In: path (which indices), parameters, body. Out: the answer as JSON. Touches nothing but the index.

/// Parameters of the address.
mod params;
/// Order of hits.
mod sort;
/// What a hit shows.
mod source;
/// A search as asked.
mod request;
/// The best hits and the answer.
mod hits;

use futures::StreamExt as _;
use millrace_log::record::Tenant;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::indices::Selection;
use super::state::ElasticState;
use hits::Search;
pub use params::UrlParams;
pub use request::Request;

/// Runs a request to its end.
pub async fn run(state: &ElasticState, tenant: Tenant, request: Request) -> Result<Json, ApiError> {
    let _place = state.queries.acquire().await.map_err(|_| ApiError::argument("the server is stopping"))?;
    let begun = tokio::time::Instant::now();
    let cancel = CancellationToken::new();
    // A client that goes away drops this future and with it the scan.
    let _guard = cancel.clone().drop_guard();
    let plan = request.plan(tenant, state.limits.clone(), cancel);
    let (tenant, start_ns, end_ns) = (plan.tenant.clone(), plan.start_ns, plan.end_ns);
    let mut rows = state.store.scan(plan).await?;
    let mut search = Search::new(request);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let (back, more) = tokio::task::spawn_blocking(move || {
            let more = search.take(&batch);
            (search, more)
        })
        .await
        .map_err(|_| ApiError {
            status: 500,
            kind: "search_phase_execution_exception",
            reason: "the search ended unexpectedly".to_owned(),
        })?;
        search = back;
        if !more {
            break;
        }
    }
    let damaged = state.store.damaged(&tenant, start_ns, end_ns);
    search.answer(&damaged, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// `_count`: only how many.
pub async fn count_of(
    state: &ElasticState,
    tenant: Tenant,
    selection: Selection,
    params: &UrlParams,
    body: &Json,
) -> Result<Json, ApiError> {
    let mut body = body.clone();
    if let Json::Object(object) = &mut body {
        if let Some(other) = object.keys().find(|key| *key != "query") {
            return Err(ApiError::parsing(format!("request does not support [{other}]")));
        }
        object.insert("size".to_owned(), 0.into());
    } else {
        body = json!({"size": 0});
    }
    let mut request = Request::parse(selection, params, &body, state.clock.now_ns())?;
    request.track_total = Some(u64::MAX);
    request.totals_as_number = true;
    let answer = run(state, tenant, request).await?;
    Ok(json!({"count": answer["hits"]["total"], "_shards": answer["_shards"]}))
}
