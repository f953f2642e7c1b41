//! `_bulk` and single documents: NDJSON to events of the log, one answer per item.
//!
//! In: bodies of `_bulk`, `_doc`, `_create`, read by `bulk_body.rs`. Out: events through [`Ingest`], acknowledged when the log has
//! them; an item that does not fit gets Elasticsearch's error and the others go on. Touches the log and the table of ids.
//! Executed: `create` and `index`, with given or automatic ids. `update` and `delete` are refused by name.
//!
//! This door owns the ids of client indices: it decides, appends, then answers. An id that was appended and is not yet
//! indexed is remembered here, so that a second `create` is a conflict at once.

use bytes::Bytes;
use millrace_log::record::{DocOp, Tenant};
use serde_json::{Value as Json, json};

use super::accepted::Claim;
use super::bulk_body::{BulkReader, Item};
use super::error::ApiError;
use super::state::{ElasticState, REFRESH_AT_MOST};
use crate::ingest::{IngestError, PushEvent};

/// Takes a whole `_bulk` body.
pub async fn bulk(
    state: &ElasticState,
    tenant: &Tenant,
    default_index: Option<&str>,
    body: &Bytes,
) -> Result<Json, ApiError> {
    let begun = tokio::time::Instant::now();
    // Held until the answer is made.
    let mut memory = state.budget.begin();
    let mut items = reader(state, tenant).read(default_index, body, &mut memory)?;
    if items.is_empty() {
        return Err(ApiError { status: 400, kind: "parse_exception", reason: "request body is required".to_owned() });
    }
    make_room(state).await?;
    decide(state, tenant, &mut items).await?;
    append(state, tenant, &mut items).await;
    let errors = items.iter().any(|item| item.outcome.is_err());
    let answers: Vec<Json> = items.iter().map(Item::answer).collect();
    Ok(
        json!({"took": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), "errors": errors, "items": answers}),
    )
}

/// Takes one document; the answer is that of its item.
pub async fn single(
    state: &ElasticState,
    tenant: &Tenant,
    index: &str,
    id: Option<String>,
    op: DocOp,
    body: &Bytes,
) -> Result<(u16, Json), ApiError> {
    make_room(state).await?;
    let mut items = vec![reader(state, tenant).item(op, index.to_owned(), id, body.clone())];
    decide(state, tenant, &mut items).await?;
    append(state, tenant, &mut items).await;
    match items.pop() {
        Some(Item { outcome: Err(error), .. }) => Err(error),
        Some(item) => Ok((if item.existed { 200 } else { 201 }, item.result())),
        None => Err(ApiError::argument("no document")),
    }
}

fn reader<'s>(state: &'s ElasticState, tenant: &'s Tenant) -> BulkReader<'s> {
    BulkReader { tenant, budget: &state.budget, now_ns: state.clock.now_ns() }
}

/// When many ids are remembered, waits until the index knows them and forgets them.
async fn make_room(state: &ElasticState) -> Result<(), ApiError> {
    if !state.accepted.is_full() {
        return Ok(());
    }
    state.store.caught_up(REFRESH_AT_MOST).await?;
    state.accepted.forget_durable();
    Ok(())
}

/// Decides conflicts and holds the ids of this request.
async fn decide(state: &ElasticState, tenant: &Tenant, items: &mut [Item]) -> Result<(), ApiError> {
    for item in items.iter_mut().filter(|item| item.outcome.is_ok()) {
        let key = (tenant.clone(), item.index.clone(), item.id.clone());
        let indexed = state.store.doc_lookup(tenant, &item.index, &item.id).await?.is_some();
        let (claim, existed) = state.accepted.claim(key, indexed, item.action == DocOp::Create);
        item.existed = existed;
        item.held = claim == Claim::Held;
        if claim == Claim::Conflict {
            let reason = format!("[{}]: version conflict, document already exists (current version [1])", item.id);
            item.outcome = Err(ApiError { status: 409, kind: "version_conflict_engine_exception", reason });
        }
    }
    Ok(())
}

/// Appends what is good and notes what became of it.
async fn append(state: &ElasticState, tenant: &Tenant, items: &mut [Item]) {
    let events: Vec<PushEvent> = items.iter().filter_map(|item| item.outcome.as_ref().ok().cloned()).collect();
    let appended = if events.is_empty() { Ok(Vec::new()) } else { state.ingest.append(events).await };
    let fault = appended.err().map(|error| refused(&error));
    for item in items.iter_mut().filter(|item| item.outcome.is_ok()) {
        if let Some(fault) = &fault {
            item.outcome = Err(fault.clone());
        }
    }
    let held = items.iter().filter(|item| item.held);
    let settled = held.map(|item| ((tenant.clone(), item.index.clone(), item.id.clone()), item.outcome.is_ok()));
    state.accepted.settle(settled);
}

fn refused(error: &IngestError) -> ApiError {
    let (status, kind) = match error {
        error if error.is_too_much() => (429, "es_rejected_execution_exception"),
        error if error.is_retriable() => (503, "unavailable_shards_exception"),
        _ => (400, "illegal_argument_exception"),
    };
    ApiError { status, kind, reason: error.to_string() }
}
