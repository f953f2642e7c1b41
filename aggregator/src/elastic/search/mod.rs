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
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::sync::Arc;

use futures::StreamExt as _;
use millrace_log::record::Tenant;
use serde_json::{Value as Json, json};

use super::error::ApiError;
use super::indices::Selection;
use super::state::ElasticState;
use hits::Search;
use millrace_index::scan::Budget;
pub use params::UrlParams;
pub use request::Request;

/// Runs a request to its end, on a thread that may block: rows are matched, collected and written there.
pub async fn run(state: &ElasticState, budget: &Budget, tenant: Tenant, request: Request) -> Result<Json, ApiError> {
    let begun = tokio::time::Instant::now();
    let store = Arc::clone(&state.store);
    let plan = request.plan(tenant, budget.clone());
    let work = async move {
        let (tenant, start_ns, end_ns) = (plan.tenant.clone(), plan.start_ns, plan.end_ns);
        let budget = plan.budget.clone();
        let mut rows = store.scan(plan).await?;
        let mut search = Search::new(request, budget.watch());
        while let Some(batch) = budget.within(rows.next()).await? {
            if !search.take(&batch?)? {
                break;
            }
        }
        let damaged = store.damaged(&tenant, start_ns, end_ns);
        search.answer(&damaged, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    };
    budget.compute(work).await.unwrap_or_else(|| Err(ApiError::ended_early()))
}

/// `_count`: only how many.
pub async fn count_of(
    state: &ElasticState,
    budget: &Budget,
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
    let answer = run(state, budget, tenant, request).await?;
    Ok(json!({"count": answer["hits"]["total"], "_shards": answer["_shards"]}))
}
