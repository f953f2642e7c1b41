//! The Elasticsearch API: what Grafana's data source, log shippers and client libraries ask.
//!
//! In: HTTP requests with the tenant in their extensions. Out: Elasticsearch's JSON. Writes go through the log
//! ([`crate::ingest`]), reads through the index ([`DocumentStore`]). Foreign names and codes stay here. `compat.md` beside
//! this file says what is answered and what is refused.

/// Errors.
mod error;
/// Times, date math, intervals.
mod time;
/// Numbers, exactly.
mod number;
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
/// Refusals of the listener in the API's format.
mod refusals;
/// Names, fields, health.
mod indices;
/// Bodies of writes.
mod bulk_body;
/// Writes.
mod bulk;
/// Searches.
mod search;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
/// Tenant, indices, parameters and body of a request.
mod asked;
/// Bodies, decompressed within limits.
mod unpacked;
/// Handlers of documents.
mod handlers_documents;
/// Handlers of searches.
mod handlers_search;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millrace_doors::browser::Bodies;
use millrace_doors::routes::{Methods, Need, Routes};
use serde_json::{Value, json};

pub use accepted::Accepted;
use asked::{Answer, Asked, Who, body_json, selected};
use error::ApiError;
use handlers_documents::{
    add, bulk_documents, create_document, get_document, get_source, index_document, wait_for_index,
};
use handlers_search::{count_documents, search_documents, search_many};
use indices::Selection;
use refusals::product_header;
pub use refusals::refused;
pub use state::ElasticState;
use state::{Mounted, Scoped};
pub use templates::Templates;
use unpacked::Unpacked;

/// The version that clients adapt to: the last one that all of them speak.
const VERSION: &str = "7.10.2";
/// All routes of the API.
pub fn router(state: ElasticState) -> Routes {
    use Methods::{Any, Delete, Get, GetPost, Post, PostPut};
    use Need::{Admin, Login, Read, Write};
    const WRITE: Need = Write(Bodies::NoForms);
    const ADMIN: Need = Admin(Bodies::NoForms);
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
        .layer(axum::middleware::from_fn(commands_are_no_indices))
        .layer(axum::middleware::map_response(product))
        .with_state(Mounted(Arc::new(state)))
}

async fn put_template(Scoped(state): Scoped, Who(who): Who, Path(name): Path<String>, mut body: Unpacked) -> Answer {
    body.as_tree()?;
    state.templates.put(who, name, body_json(&body.bytes)?)?;
    Ok(Json(json!({"acknowledged": true})))
}

async fn all_templates(Scoped(state): Scoped, Who(who): Who) -> Answer {
    Ok(Json(json!({"index_templates": state.templates.listed(&who, "*")?})))
}

async fn get_template(Scoped(state): Scoped, Who(who): Who, Path(name): Path<String>) -> Answer {
    let found = state.templates.listed(&who, &name)?;
    if found.is_empty() && !name.contains('*') {
        return Err(templates::missing(&name));
    }
    Ok(Json(json!({"index_templates": found})))
}

async fn delete_template(Scoped(state): Scoped, Who(who): Who, Path(name): Path<String>) -> Answer {
    if state.templates.remove(&who, &name) {
        Ok(Json(json!({"acknowledged": true})))
    } else {
        Err(templates::missing(&name))
    }
}

/// Documents leave by retention only: an index that has some is not deleted.
async fn delete_index(Scoped(state): Scoped, Asked { who, index, params }: Asked) -> Answer {
    let request = state.queries.begin(&who).await?;
    selected(&state, request.budget(), &who, &index, &params).await?;
    Err(ApiError::not_yet("deletion of an index"))
}

async fn no_data_streams() -> ApiError {
    ApiError::not_yet("_data_stream")
}

async fn product(mut response: Response) -> Response {
    product_header(&mut response);
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
    let request = state.queries.begin(&who).await?;
    let all = indices::list(&state, request.budget(), &who).await?;
    let rows = all.into_iter().filter(|(name, _)| selection.holds(name));
    if params.get("format").is_some_and(|f| f == "json") {
        let rows: Vec<Value> = rows
            .map(|(name, count)| json!({"health": "green", "status": "open", "index": name, "pri": "1", "rep": "0", "docs.count": count.to_string()}))
            .collect();
        return Ok(Json(rows).into_response());
    }
    let row = |(name, count): (String, u64)| {
        ["green".to_owned(), "open".to_owned(), name, "1".to_owned(), "0".to_owned(), count.to_string()]
    };
    let head = ["health", "status", "index", "pri", "rep", "docs.count"].map(str::to_owned);
    let is_headed = params.get("v").is_some_and(|v| v != "false");
    Ok(table(is_headed.then_some(head).into_iter().chain(rows.map(row)).collect()).into_response())
}

/// Rows with columns below each other.
fn table(rows: Vec<[String; 6]>) -> String {
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join(" ").trim_end())
    };
    rows.iter().map(line).collect()
}

async fn field_caps(Scoped(state): Scoped, Asked { who, index, params }: Asked, body: Unpacked) -> Answer {
    let request = state.queries.begin(&who).await?;
    let selection = selected(&state, request.budget(), &who, &index, &params).await?;
    let body = body_json(&body.bytes)?;
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
    let request = state.queries.begin(&who).await?;
    let selection = selected(&state, request.budget(), &who, &index, &params).await?;
    let fields = indices::fields(&state, request.budget(), &who, &selection).await?;
    Ok(Json(indices::mappings(&fields)))
}

async fn refresh(Scoped(state): Scoped, Asked { who, index, params }: Asked) -> Answer {
    wait_for_index(&state).await?;
    let request = state.queries.begin(&who).await?;
    selected(&state, request.budget(), &who, &index, &params).await?;
    Ok(Json(json!({"_shards": {"total": 1, "successful": 1, "failed": 0}})))
}
