//! Handlers of documents: `_bulk`, `_doc`, `_create`, `_source`.
//!
//! In: requests. Out: answers in Elasticsearch's JSON. Writes go through the log, reads through the index.

use axum::Json;
use axum::extract::{Path, Query as UrlQuery};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use millrace_log::record::{DocOp, Tenant};
use serde_json::{Value, json};

use super::asked::{Answer, Asked, Who, selected};
use super::bulk;
use super::error::ApiError;
use super::search::{self, UrlParams};
use super::state::{ElasticState, REFRESH_AT_MOST, Scoped};
use super::unpacked::Unpacked;

/// Waits for the index if the request asks so.
async fn refreshed(state: &ElasticState, params: &UrlParams) -> Result<(), ApiError> {
    match params.get("refresh").map(String::as_str) {
        Some("wait_for" | "true" | "") => wait_for_index(state).await,
        _ => Ok(()),
    }
}

/// Waits until the index has all that was acknowledged; not beyond the end of the program.
pub(super) async fn wait_for_index(state: &ElasticState) -> Result<(), ApiError> {
    let request = state.queries.begin_waiting();
    Ok(request.budget().within(state.store.caught_up(REFRESH_AT_MOST)).await??)
}

pub(super) async fn bulk_documents(
    Scoped(state): Scoped,
    Asked { who, index, params }: Asked,
    body: Unpacked,
) -> Answer {
    let index = (!index.is_empty()).then_some(index.as_str());
    let answer = bulk::bulk(&state, &who, index, &body.bytes).await?;
    refreshed(&state, &params).await?;
    Ok(Json(answer))
}

async fn write(
    state: &ElasticState,
    who: Tenant,
    index: &str,
    id: Option<String>,
    op: DocOp,
    params: &UrlParams,
    body: &Bytes,
) -> Result<Response, ApiError> {
    let (status, answer) = bulk::single(state, &who, index, id, op, body).await?;
    refreshed(state, params).await?;
    Ok((StatusCode::from_u16(status).unwrap_or(StatusCode::OK), Json(answer)).into_response())
}

pub(super) async fn add(
    Scoped(state): Scoped,
    Asked { who, index, params }: Asked,
    body: Unpacked,
) -> Result<Response, ApiError> {
    write(&state, who, &index, None, DocOp::Create, &params, &body.bytes).await
}

pub(super) async fn index_document(
    Scoped(state): Scoped,
    Who(who): Who,
    Path((index, id)): Path<(String, String)>,
    UrlQuery(params): UrlQuery<UrlParams>,
    body: Unpacked,
) -> Result<Response, ApiError> {
    let op = if params.get("op_type").is_some_and(|op| op == "create") { DocOp::Create } else { DocOp::Index };
    write(&state, who, &index, Some(id), op, &params, &body.bytes).await
}

pub(super) async fn create_document(
    Scoped(state): Scoped,
    Who(who): Who,
    Path((index, id)): Path<(String, String)>,
    UrlQuery(params): UrlQuery<UrlParams>,
    body: Unpacked,
) -> Result<Response, ApiError> {
    write(&state, who, &index, Some(id), DocOp::Create, &params, &body.bytes).await
}

/// The hit of one document.
async fn found(state: &ElasticState, who: Tenant, index: &str, id: &str) -> Result<Option<Value>, ApiError> {
    let place = state.queries.begin(&who).await?;
    let budget = place.budget();
    let selection = selected(state, budget, &who, index, &UrlParams::new()).await?;
    let body = json!({"size": 1, "query": {"ids": {"values": [id]}}, "track_total_hits": false});
    let request = search::Request::parse(selection, &UrlParams::new(), &body, state.clock.now_ns())?;
    let mut answer = search::run(state, budget, who, request).await?;
    Ok(answer.pointer_mut("/hits/hits/0").map(Value::take))
}

pub(super) async fn get_source(
    Scoped(state): Scoped,
    Who(who): Who,
    Path((index, id)): Path<(String, String)>,
) -> Answer {
    let hit = found(&state, who, &index, &id).await?;
    let mut hit = hit.ok_or_else(|| ApiError {
        status: 404,
        kind: "resource_not_found_exception",
        reason: format!("Document not found [{index}]/[_doc]/[{id}]"),
    })?;
    Ok(Json(hit["_source"].take()))
}

pub(super) async fn get_document(
    Scoped(state): Scoped,
    Who(who): Who,
    Path((index, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    match found(&state, who, &index, &id).await? {
        Some(hit) => {
            Ok(Json(json!({"_index": hit["_index"], "_id": hit["_id"], "found": true, "_source": hit["_source"]}))
                .into_response())
        }
        None => Ok((StatusCode::NOT_FOUND, Json(json!({"_index": index, "_id": id, "found": false}))).into_response()),
    }
}
