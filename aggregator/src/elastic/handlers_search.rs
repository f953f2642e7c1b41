//! Handlers of searches: `_search`, `_msearch`, `_count`.
//!
//! In: requests. Out: answers in Elasticsearch's JSON. Touches nothing but the index.

use axum::Json;
use millrace_index::scan::Budget;
use millrace_log::record::Tenant;
use serde_json::{Value, json};

use super::asked::{Answer, Asked, body_json, selected};
use super::error::ApiError;
use super::search::{self, UrlParams};
use super::state::{ElasticState, Scoped};
use super::unpacked::Unpacked;

/// Searches of one `_msearch` at most.
const MAX_SEARCHES: usize = 200;

async fn one_search(
    state: &ElasticState,
    budget: &Budget,
    who: Tenant,
    index: &str,
    params: &UrlParams,
    body: &Value,
) -> Result<Value, ApiError> {
    if params.contains_key("scroll") {
        return Err(ApiError::not_yet("scroll"));
    }
    let selection = selected(state, budget, &who, index, params).await?;
    // Clients that can't send a body with GET put it into the address.
    let of_url = match params.get("source") {
        Some(text) if body.is_null() => body_json(text.as_bytes())?,
        _ => Value::Null,
    };
    let body = if body.is_null() { &of_url } else { body };
    let request = search::Request::parse(selection, params, body, state.clock.now_ns())?;
    search::run(state, budget, who, request).await
}

pub(super) async fn search_documents(
    Scoped(state): Scoped,
    Asked { who, index, params }: Asked,
    body: Unpacked,
) -> Answer {
    let request = state.queries.begin(&who).await?;
    Ok(Json(one_search(&state, request.budget(), who, &index, &params, &body_json(&body.bytes)?).await?))
}

pub(super) async fn search_many(
    Scoped(state): Scoped,
    Asked { who, index: default_index, params }: Asked,
    body: Unpacked,
) -> Answer {
    let lines: Vec<&[u8]> =
        body.bytes.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)).collect();
    if lines.is_empty() || !lines.len().is_multiple_of(2) {
        return Err(ApiError {
            status: 400,
            kind: "action_request_validation_exception",
            reason: "Validation Failed: 1: no requests added, or a header without a body;".to_owned(),
        });
    }
    if lines.len() / 2 > MAX_SEARCHES {
        return Err(ApiError::argument(format!(
            "{} searches in one request, {MAX_SEARCHES} are allowed",
            lines.len() / 2
        )));
    }
    let mut answers = Vec::new();
    // One request, one budget: all searches together have the time of one.
    let request = state.queries.begin(&who).await?;
    for pair in lines.chunks_exact(2) {
        let [head, body] = pair else { continue };
        let (head, body) = (body_json(head)?, body_json(body)?);
        let index = match head.get("index") {
            Some(Value::String(index)) => index.clone(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            _ => default_index.clone(),
        };
        let mut params = params.clone();
        if head.get("ignore_unavailable").is_some_and(|v| v == &Value::Bool(true)) {
            params.insert("ignore_unavailable".to_owned(), "true".to_owned());
        }
        answers.push(match one_search(&state, request.budget(), who.clone(), &index, &params, &body).await {
            Ok(mut answer) => {
                answer["status"] = 200.into();
                answer
            }
            Err(error) => error.body(),
        });
    }
    let took: u64 = answers.iter().filter_map(|a| a["took"].as_u64()).sum();
    Ok(Json(json!({"took": took, "responses": answers})))
}

pub(super) async fn count_documents(
    Scoped(state): Scoped,
    Asked { who, index, params }: Asked,
    body: Unpacked,
) -> Answer {
    let request = state.queries.begin(&who).await?;
    let selection = selected(&state, request.budget(), &who, &index, &params).await?;
    Ok(Json(search::count_of(&state, request.budget(), who, selection, &params, &body_json(&body.bytes)?).await?))
}
