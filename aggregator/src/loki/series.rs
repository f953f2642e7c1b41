//! `/series`: label sets of the streams that match any of `match[]`.

use std::collections::BTreeSet;

use axum::response::Response;

use super::error::LokiError;
use super::params::{LABEL_SINCE, Params};
use super::state::{Scoped, Whose};
use super::{json, selector};

/// Selectors that one request may name.
const MAX_SELECTORS: usize = 64;

pub(super) async fn series(Scoped(state): Scoped, Whose(tenant): Whose, params: Params) -> Result<Response, LokiError> {
    let bounds = params.bounds(state.clock.now_ns(), LABEL_SINCE)?;
    let mut wanted: Vec<&str> = params.all("match[]").chain(params.all("match")).collect();
    if wanted.is_empty() {
        wanted.push("{}");
    }
    if wanted.len() > MAX_SELECTORS {
        return Err(LokiError::Bad(format!("{} selectors in `match[]`, {MAX_SELECTORS} are allowed", wanted.len())));
    }
    let mut found = BTreeSet::new();
    let request = state.begin(&tenant).await?;
    let budget = request.budget();
    for text in wanted {
        let matchers = selector::parse(text)?;
        let plan = selector::plan(&tenant, matchers, bounds, budget.clone());
        let streams = budget.within(state.store.streams(plan)).await??;
        found.extend(streams.into_iter().map(|(stream, _)| stream.labels));
    }
    let mut out = String::from(r#"{"status":"success","data":["#);
    for (i, labels) in found.iter().enumerate() {
        json::comma(&mut out, i);
        json::labels(&mut out, labels.pairs());
    }
    out.push_str("]}");
    Ok(json::answer(out))
}
