//! The Elasticsearch API: what Grafana's data source, log shippers and client libraries ask.
//!
//! In: HTTP requests with the tenant in their extensions. Out: Elasticsearch's JSON. Writes go through the log
//! ([`crate::ingest`]), reads through the index ([`DocumentStore`]). Foreign names and codes stay here. `compat.md` beside
//! this file says what is answered and what is refused.

/// Errors.
mod error;
/// Times, date math, intervals.
mod time;
/// A row as a document.
mod document;
/// Values that a query looks for.
mod value_set;
/// How much one request may ask for.
mod bounds;
/// Queries as a tree.
mod query;
/// The query string mini-language.
mod query_string;
/// The query DSL.
mod dsl;
/// Aggregations.
mod aggs;
/// Ids on their way into the index.
mod accepted;
/// Index templates.
mod templates;
/// What the handlers share.
mod state;
/// Names, fields, health.
mod indices;
/// Writes.
mod bulk;
/// Searches.
mod search;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query as UrlQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_doors::browser::Bodies;
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_log::record::{DocOp, Tenant};
use serde_json::{Value, json};

pub use accepted::Accepted;
use error::ApiError;
use indices::Selection;
use millrace_index::scan::Budget;
use search::UrlParams;
pub use state::ElasticState;
use state::{Mounted, REFRESH_AT_MOST, Scoped};
pub use templates::Templates;

/// The version that clients adapt to: the last one that all of them speak.
const VERSION: &str = "7.10.2";
/// Searches of one `_msearch` at most.
const MAX_SEARCHES: usize = 200;

type Answer = Result<Json<Value>, ApiError>;

/// All routes of the API.
pub fn router(state: ElasticState) -> Routes {
    use Methods::{Any, Delete, Get, GetPost, Post, PostPut};
    use Need::{Admin, Login, Read, Write};
    const WRITE: Need = Write(Bodies::NoForms);
    const ADMIN: Need = Admin(Bodies::NoForms);
    let limit = state.max_body_bytes;
    Routes::new()
        .on(Login, Get, "/", root)
        .on(Login, Get, "/_cluster/health", health)
        .on(Login, Get, "/_cluster/health/{index}", health)
        .on(Read, Get, "/_cat/indices", cat_indices)
        .on(Read, Get, "/_cat/indices/{index}", cat_indices)
        .on(WRITE, PostPut, "/_bulk", bulk_documents)
        .on(WRITE, PostPut, "/{index}/_bulk", bulk_documents)
        .on(WRITE, Post, "/{index}/_doc", add)
        .on(WRITE, PostPut, "/{index}/_doc/{id}", index_document)
        .on(Read, Get, "/{index}/_doc/{id}", get_document)
        .on(WRITE, PostPut, "/{index}/_create/{id}", create_document)
        .on(Read, GetPost, "/_search", search_documents)
        .on(Read, GetPost, "/{index}/_search", search_documents)
        .on(Read, GetPost, "/_msearch", search_many)
        .on(Read, GetPost, "/{index}/_msearch", search_many)
        .on(Read, GetPost, "/_count", count_documents)
        .on(Read, GetPost, "/{index}/_count", count_documents)
        .on(Read, GetPost, "/_field_caps", field_caps)
        .on(Read, GetPost, "/{index}/_field_caps", field_caps)
        .on(Read, Get, "/_mapping", field_mapping)
        .on(Read, Get, "/{index}/_mapping", field_mapping)
        .on(Login, GetPost, "/_refresh", refresh)
        .on(Login, GetPost, "/{index}/_refresh", refresh)
        .on(Login, Get, "/_index_template", all_templates)
        // Shippers install their own.
        .on(WRITE, PostPut, "/_index_template/{name}", put_template)
        .on(Login, Get, "/_index_template/{name}", get_template)
        .on(ADMIN, Delete, "/_index_template/{name}", delete_template)
        .on(Read, Get, "/{index}", field_mapping)
        .on(ADMIN, Delete, "/{index}", delete_index)
        .on(Login, Any, "/_data_stream/{name}", no_data_streams)
        .on(Read, Get, "/{index}/_source/{id}", get_source)
        .fallback(Login, no_handler)
        .method_not_allowed(no_method)
        .layer(DefaultBodyLimit::max(limit))
        .layer(tower_http::decompression::RequestDecompressionLayer::new())
        .layer(axum::middleware::from_fn(commands_are_no_indices))
        .layer(axum::middleware::map_response(product))
        .with_state(Mounted(Arc::new(state)))
}

async fn put_template(
    Scoped(state): Scoped,
    who: Option<Extension<Tenant>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer {
    state.templates.put(tenant(who), name, body_json(&body)?)?;
    Ok(Json(json!({"acknowledged": true})))
}

async fn all_templates(Scoped(state): Scoped, who: Option<Extension<Tenant>>) -> Answer {
    Ok(Json(json!({"index_templates": state.templates.listed(&tenant(who), "*")?})))
}

async fn get_template(Scoped(state): Scoped, who: Option<Extension<Tenant>>, Path(name): Path<String>) -> Answer {
    let found = state.templates.listed(&tenant(who), &name)?;
    if found.is_empty() && !name.contains('*') {
        return Err(templates::missing(&name));
    }
    Ok(Json(json!({"index_templates": found})))
}

async fn delete_template(Scoped(state): Scoped, who: Option<Extension<Tenant>>, Path(name): Path<String>) -> Answer {
    if state.templates.remove(&tenant(who), &name) {
        Ok(Json(json!({"acknowledged": true})))
    } else {
        Err(templates::missing(&name))
    }
}

/// Documents leave by retention only: an index that has some is not deleted.
async fn delete_index(Scoped(state): Scoped, Asked { who, index, params }: Asked) -> Answer {
    let request = state.queries.begin().await?;
    selected(&state, request.budget(), &who, &index, &params).await?;
    Err(ApiError::not_yet("deletion of an index"))
}

async fn no_data_streams() -> ApiError {
    ApiError::not_yet("_data_stream")
}

/// Clients of Elasticsearch 8 refuse servers without this header.
async fn product(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-elastic-product"), HeaderValue::from_static("Elasticsearch"));
    response
}

async fn no_method(uri: axum::http::Uri, method: axum::http::Method) -> ApiError {
    let reason = format!("Incorrect HTTP method for uri [{uri}] and method [{method}]");
    ApiError { status: 405, kind: "method_not_allowed", reason }
}

async fn no_handler(uri: axum::http::Uri, method: axum::http::Method) -> Response {
    unhandled(&uri, &method)
}

/// Elasticsearch's answer to paths that it has no handler for: `error` is a plain text there.
fn unhandled(uri: &axum::http::Uri, method: &axum::http::Method) -> Response {
    let error = format!("no handler found for uri [{uri}] and method [{method}]");
    (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response()
}

/// Paths such as `/_license` or `/_ml/_search`: names that begin with `_` are commands, never indices, whatever route
/// would take them as one.
async fn commands_are_no_indices(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if first.starts_with('_') && !COMMANDS.contains(&first) {
        return unhandled(request.uri(), request.method());
    }
    next.run(request).await
}

/// First parts of paths that begin with `_` and have a route; `_all` stands for every index.
const COMMANDS: [&str; 12] = [
    "_all",
    "_bulk",
    "_cat",
    "_cluster",
    "_count",
    "_data_stream",
    "_field_caps",
    "_index_template",
    "_mapping",
    "_msearch",
    "_refresh",
    "_search",
];

fn tenant(of: Option<Extension<Tenant>>) -> Tenant {
    of.map(|Extension(tenant)| tenant).unwrap_or_default()
}

/// Who asks for which indices, and how: the same for `/_search` and `/{index}/_search`.
struct Asked {
    who: Tenant,
    /// Names and patterns; empty: all.
    index: String,
    params: UrlParams,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let who = parts.extensions.get().cloned().unwrap_or_default();
        let path = Option::<Path<String>>::from_request_parts(parts, state).await;
        let index = path.map_err(IntoResponse::into_response)?.map(|Path(index)| index).unwrap_or_default();
        let params = UrlQuery::<UrlParams>::from_request_parts(parts, state).await;
        let UrlQuery(params) = params.map_err(IntoResponse::into_response)?;
        Ok(Self { who, index, params })
    }
}

fn body_json(body: &Bytes) -> Result<Value, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|e| ApiError {
        status: 400,
        kind: "parsing_exception",
        reason: format!("body is not JSON: {e}"),
    })
}

async fn root() -> Json<Value> {
    Json(json!({
        "name": "millrace",
        "cluster_name": "millrace",
        "cluster_uuid": "millrace",
        "version": {"number": VERSION, "build_flavor": "oss", "build_type": "binary", "lucene_version": "8.7.0",
            "minimum_wire_compatibility_version": "6.8.0", "minimum_index_compatibility_version": "6.0.0-beta1"},
        "tagline": "You Know, for Search",
    }))
}

async fn health() -> Json<Value> {
    Json(json!({
        "cluster_name": "millrace", "status": "green", "timed_out": false, "number_of_nodes": 1, "number_of_data_nodes": 1,
        "active_primary_shards": 1, "active_shards": 1, "relocating_shards": 0, "initializing_shards": 0,
        "unassigned_shards": 0, "delayed_unassigned_shards": 0, "number_of_pending_tasks": 0, "number_of_in_flight_fetch": 0,
        "task_max_waiting_in_queue_millis": 0, "active_shards_percent_as_number": 100.0,
    }))
}

async fn cat_indices(Scoped(state): Scoped, Asked { who, index, params }: Asked) -> Result<Response, ApiError> {
    let selection = Selection::parse(&index)?;
    let request = state.queries.begin().await?;
    let all = indices::list(&state, request.budget(), &who).await?;
    let rows = all.into_iter().filter(|(name, _)| selection.holds(name));
    if params.get("format").is_some_and(|f| f == "json") {
        let rows: Vec<Value> = rows
            .map(|(name, count)| json!({"health": "green", "status": "open", "index": name, "pri": "1", "rep": "0", "docs.count": count.to_string()}))
            .collect();
        return Ok(Json(rows).into_response());
    }
    let text: String = rows.map(|(name, count)| format!("green open {name} 1 0 {count}\n")).collect();
    Ok(text.into_response())
}

/// Waits for the index if the request asks so.
async fn refreshed(state: &ElasticState, params: &UrlParams) -> Result<(), ApiError> {
    match params.get("refresh").map(String::as_str) {
        Some("wait_for" | "true" | "") => wait_for_index(state).await,
        _ => Ok(()),
    }
}

/// Waits until the index has all that was acknowledged; not beyond the end of the program.
async fn wait_for_index(state: &ElasticState) -> Result<(), ApiError> {
    let request = state.queries.begin_waiting();
    Ok(request.budget().within(state.store.caught_up(REFRESH_AT_MOST)).await??)
}

async fn bulk_documents(Scoped(state): Scoped, Asked { who, index, params }: Asked, body: Bytes) -> Answer {
    let index = (!index.is_empty()).then_some(index.as_str());
    let answer = bulk::bulk(&state, &who, index, &body).await?;
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

async fn add(Scoped(state): Scoped, Asked { who, index, params }: Asked, body: Bytes) -> Result<Response, ApiError> {
    write(&state, who, &index, None, DocOp::Create, &params, &body).await
}

async fn index_document(
    Scoped(state): Scoped,
    who: Option<Extension<Tenant>>,
    Path((index, id)): Path<(String, String)>,
    UrlQuery(params): UrlQuery<UrlParams>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let op = if params.get("op_type").is_some_and(|op| op == "create") { DocOp::Create } else { DocOp::Index };
    write(&state, tenant(who), &index, Some(id), op, &params, &body).await
}

async fn create_document(
    Scoped(state): Scoped,
    who: Option<Extension<Tenant>>,
    Path((index, id)): Path<(String, String)>,
    UrlQuery(params): UrlQuery<UrlParams>,
    body: Bytes,
) -> Result<Response, ApiError> {
    write(&state, tenant(who), &index, Some(id), DocOp::Create, &params, &body).await
}

/// The hit of one document.
async fn found(state: &ElasticState, who: Tenant, index: &str, id: &str) -> Result<Option<Value>, ApiError> {
    let place = state.queries.begin().await?;
    let budget = place.budget();
    let selection = selected(state, budget, &who, index, &UrlParams::new()).await?;
    let body = json!({"size": 1, "query": {"ids": {"values": [id]}}, "track_total_hits": false});
    let request = search::Request::parse(selection, &UrlParams::new(), &body, state.clock.now_ns())?;
    let mut answer = search::run(state, budget, who, request).await?;
    Ok(answer.pointer_mut("/hits/hits/0").map(Value::take))
}

async fn get_source(
    Scoped(state): Scoped,
    who: Option<Extension<Tenant>>,
    Path((index, id)): Path<(String, String)>,
) -> Answer {
    let hit = found(&state, tenant(who), &index, &id).await?;
    let mut hit = hit.ok_or_else(|| ApiError {
        status: 404,
        kind: "resource_not_found_exception",
        reason: format!("Document not found [{index}]/[_doc]/[{id}]"),
    })?;
    Ok(Json(hit["_source"].take()))
}

async fn get_document(
    Scoped(state): Scoped,
    who: Option<Extension<Tenant>>,
    Path((index, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    match found(&state, tenant(who), &index, &id).await? {
        Some(hit) => {
            Ok(Json(json!({"_index": hit["_index"], "_id": hit["_id"], "found": true, "_source": hit["_source"]}))
                .into_response())
        }
        None => Ok((StatusCode::NOT_FOUND, Json(json!({"_index": index, "_id": id, "found": false}))).into_response()),
    }
}

/// The selection of a path, checked against the indices there are.
async fn selected(
    state: &ElasticState,
    budget: &Budget,
    who: &Tenant,
    text: &str,
    params: &UrlParams,
) -> Result<Selection, ApiError> {
    let selection = Selection::parse(text)?;
    let ignore = params.get("ignore_unavailable").is_some_and(|v| v != "false");
    let known: std::collections::BTreeSet<String> = indices::list(state, budget, who).await?.into_keys().collect();
    selection.check(&known, ignore)?;
    if params.get("allow_no_indices").is_some_and(|v| v == "false") && !known.iter().any(|name| selection.holds(name)) {
        return Err(ApiError::no_index(text));
    }
    Ok(selection)
}

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
        Some(text) if body.is_null() => body_json(&Bytes::copy_from_slice(text.as_bytes()))?,
        _ => Value::Null,
    };
    let body = if body.is_null() { &of_url } else { body };
    let request = search::Request::parse(selection, params, body, state.clock.now_ns())?;
    search::run(state, budget, who, request).await
}

async fn search_documents(Scoped(state): Scoped, Asked { who, index, params }: Asked, body: Bytes) -> Answer {
    let request = state.queries.begin().await?;
    Ok(Json(one_search(&state, request.budget(), who, &index, &params, &body_json(&body)?).await?))
}

async fn search_many(Scoped(state): Scoped, Asked { who, index: default_index, params }: Asked, body: Bytes) -> Answer {
    let lines: Vec<&[u8]> = body.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)).collect();
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
    let request = state.queries.begin().await?;
    for pair in lines.chunks_exact(2) {
        let [head, body] = pair else { continue };
        let json = |line: &[u8]| body_json(&Bytes::copy_from_slice(line));
        let (head, body) = (json(head)?, json(body)?);
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

async fn count_documents(Scoped(state): Scoped, Asked { who, index, params }: Asked, body: Bytes) -> Answer {
    let request = state.queries.begin().await?;
    let selection = selected(&state, request.budget(), &who, &index, &params).await?;
    Ok(Json(search::count_of(&state, request.budget(), who, selection, &params, &body_json(&body)?).await?))
}

async fn field_caps(Scoped(state): Scoped, Asked { who, index, params }: Asked, body: Bytes) -> Answer {
    let request = state.queries.begin().await?;
    let selection = selected(&state, request.budget(), &who, &index, &params).await?;
    let body = body_json(&body)?;
    let wanted = params.get("fields").cloned().or_else(|| {
        let list = body.get("fields")?;
        list.as_str()
            .map(str::to_owned)
            .or_else(|| Some(list.as_array()?.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")))
    });
    let wanted = wanted.ok_or_else(|| ApiError {
        status: 400,
        kind: "action_request_validation_exception",
        reason: "Validation Failed: 1: no fields specified;".to_owned(),
    })?;
    // Names of fields may start with `_`, names of indices may not.
    let wanted =
        Selection::parse(&wanted.replace("_id", "?id").replace("_index", "?index").replace("_source", "?source"))?;
    let fields = indices::fields(&state, request.budget(), &who, &selection).await?;
    Ok(Json(indices::field_caps(&fields, &wanted)))
}

async fn field_mapping(Scoped(state): Scoped, Asked { who, index, params }: Asked) -> Answer {
    let request = state.queries.begin().await?;
    let selection = selected(&state, request.budget(), &who, &index, &params).await?;
    let fields = indices::fields(&state, request.budget(), &who, &selection).await?;
    Ok(Json(indices::mappings(&fields)))
}

async fn refresh(Scoped(state): Scoped, Asked { who, index, params }: Asked) -> Answer {
    wait_for_index(&state).await?;
    let request = state.queries.begin().await?;
    selected(&state, request.budget(), &who, &index, &params).await?;
    Ok(Json(json!({"_shards": {"total": 1, "successful": 1, "failed": 0}})))
}
