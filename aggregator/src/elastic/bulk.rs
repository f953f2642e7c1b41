//! `_bulk` and single documents: NDJSON to events of the log, one answer per item.
//!
//! In: bodies of `_bulk`, `_doc`, `_create`. Out: events through [`Ingest`], acknowledged when the log has them; an item
//! that does not fit gets Elasticsearch's error and the others go on. Touches the log and the table of ids.
//! Executed: `create` and `index`, with given or automatic ids. `update` and `delete` are refused by name.
//!
//! This door owns the ids of client indices: it decides, appends, then answers. An id that was appended and is not yet
//! indexed is remembered here, so that a second `create` is a conflict at once.

use bytes::Bytes;
use millrace_log::push::json::cost;
use millrace_log::record::{DocIdentity, DocOp, Labels, Tenant};
use rand::Rng as _;
use serde_json::{Map, Value as Json, json};

use super::accepted::Claim;
use super::document::{TIMESTAMP, TOPIC_PREFIX};
use super::error::ApiError;
use super::state::{ElasticState, REFRESH_AT_MOST};
use super::time;
use crate::ingest::{IngestError, PushEvent};

/// Bytes of an id at most, as in Elasticsearch.
const MAX_ID: usize = 512;

/// What a line of a body takes in memory until it is answered, besides its bytes: half of an item, its event and its
/// answer.
const LINE_BYTES: u64 = 768;
/// What an element of a document takes while it is parsed.
const ELEMENT_BYTES: u64 = 72;

/// One action with its document.
struct Item {
    action: DocOp,
    /// The action's name as sent.
    name: &'static str,
    index: String,
    id: String,
    /// The document's bytes as sent, or what is wrong with it.
    outcome: Result<PushEvent, ApiError>,
    existed: bool,
    /// This request holds the id in [`Accepted`].
    held: bool,
}

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
    let lines = memchr::memchr_iter(b'\n', body).count() as u64;
    memory.grow(lines.saturating_mul(LINE_BYTES))?;
    let mut items = parse(state, tenant, default_index, body)?;
    if items.is_empty() {
        return Err(ApiError { status: 400, kind: "parse_exception", reason: "request body is required".to_owned() });
    }
    make_room(state).await?;
    decide(state, tenant, &mut items).await?;
    append(state, tenant, &mut items).await;
    let errors = items.iter().any(|item| item.outcome.is_err());
    let answers: Vec<Json> = items.iter().map(answer).collect();
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
    let mut items = vec![item(state, tenant, op, index.to_owned(), id, body.clone())];
    decide(state, tenant, &mut items).await?;
    append(state, tenant, &mut items).await;
    match items.pop() {
        Some(Item { outcome: Err(error), .. }) => Err(error),
        Some(item) => Ok((if item.existed { 200 } else { 201 }, result(&item))),
        None => Err(ApiError::argument("no document")),
    }
}

fn parse(
    state: &ElasticState,
    tenant: &Tenant,
    default_index: Option<&str>,
    body: &Bytes,
) -> Result<Vec<Item>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    if body.last() != Some(&b'\n') {
        return Err(ApiError::argument("The bulk request must be terminated by a newline [\\n]"));
    }
    let mut items = Vec::new();
    let mut start = 0;
    let mut number = 0;
    let mut ends = memchr::memchr_iter(b'\n', body);
    let mut next_line = || -> Option<(usize, Bytes)> {
        loop {
            let end = ends.next()?;
            let line = body.slice(start..end);
            start = end + 1;
            number += 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some((number, line));
            }
        }
    };
    while let Some((number, line)) = next_line() {
        let malformed = |why: &str| ApiError::argument(format!("Malformed action/metadata line [{number}], {why}"));
        let action: Map<String, Json> =
            serde_json::from_slice(&line).map_err(|e| malformed(&format!("not a JSON object: {e}")))?;
        let Some((name, metadata)) = action.iter().next() else {
            return Err(malformed("expected FIELD_NAME but found [END_OBJECT]"));
        };
        let text = |key: &str| {
            metadata.get(key).and_then(|v| v.as_str().map(str::to_owned).or_else(|| v.as_i64().map(|n| n.to_string())))
        };
        let index = text("_index").or_else(|| default_index.map(str::to_owned));
        let index = index.ok_or_else(|| ApiError {
            status: 400,
            kind: "action_request_validation_exception",
            reason: format!("Validation Failed: {}: index is missing;", items.len() + 1),
        })?;
        let id = text("_id");
        let op = match name.as_str() {
            "index" => DocOp::Index,
            "create" => DocOp::Create,
            "delete" | "update" => {
                if name == "update" {
                    next_line();
                }
                let name = if name == "update" { "update" } else { "delete" };
                let outcome = Err(ApiError::not_yet(name));
                items.push(Item {
                    action: DocOp::Index,
                    name,
                    index,
                    id: id.unwrap_or_default(),
                    outcome,
                    existed: false,
                    held: false,
                });
                continue;
            }
            other => {
                return Err(malformed(&format!(
                    "expected field [create], [delete], [index] or [update] but found [{other}]"
                )));
            }
        };
        let Some((_, source)) = next_line() else { return Err(malformed("its document is missing")) };
        items.push(item(state, tenant, op, index, id, source));
    }
    Ok(items)
}

fn item(
    state: &ElasticState,
    tenant: &Tenant,
    action: DocOp,
    index: String,
    id: Option<String>,
    source: Bytes,
) -> Item {
    let automatic = || rand::rng().sample_iter(rand::distr::Alphanumeric).take(20).map(char::from).collect();
    let id: String = id.unwrap_or_else(automatic);
    let outcome = event(state, tenant, action, &index, &id, source);
    let name = match action {
        DocOp::Index => "index",
        DocOp::Create => "create",
    };
    Item { action, name, index, id, outcome, existed: false, held: false }
}

fn event(
    state: &ElasticState,
    tenant: &Tenant,
    op: DocOp,
    index: &str,
    id: &str,
    source: Bytes,
) -> Result<PushEvent, ApiError> {
    check_index(index)?;
    if id.is_empty() || id.len() > MAX_ID {
        return Err(ApiError::argument(format!(
            "id is empty or too long, must be no longer than {MAX_ID} bytes but was: {}",
            id.len()
        )));
    }
    let mut memory = state.budget.begin();
    memory.grow(cost(&source, ELEMENT_BYTES))?;
    let unfit = |reason: String| ApiError { status: 400, kind: "mapper_parsing_exception", reason };
    let document: Map<String, Json> =
        serde_json::from_slice(&source).map_err(|e| unfit(format!("failed to parse: {e}")))?;
    let time_ns = match document.get(TIMESTAMP) {
        None | Some(Json::Null) => state.clock.now_ns(),
        Some(Json::String(text)) => time::parse(text).ok_or_else(|| {
            unfit(format!("failed to parse field [{TIMESTAMP}] of type [date]: [{text}] is not strict_date_optional_time||epoch_millis"))
        })?,
        Some(Json::Number(ms)) => ms.as_f64().map(time::of_millis).unwrap_or_default(),
        Some(_) => return Err(unfit(format!("failed to parse field [{TIMESTAMP}] of type [date]"))),
    };
    // The log keeps one line per record: pretty-printed bodies of single documents are written compactly.
    let line =
        if memchr::memchr(b'\n', &source).is_some() { Bytes::from(Json::Object(document).to_string()) } else { source };
    Ok(PushEvent {
        tenant: tenant.clone(),
        time_ns,
        labels: Labels::new([("index", index)]),
        metadata: Labels::default(),
        line,
        doc: Some(Box::new(DocIdentity { index: index.to_owned(), id: id.to_owned(), op })),
    })
}

/// Elasticsearch's rule for names, and ours: `millrace-…` belongs to tailed topics.
fn check_index(index: &str) -> Result<(), ApiError> {
    let fault = |why: &str| {
        Err(ApiError {
            status: 400,
            kind: "invalid_index_name_exception",
            reason: format!("Invalid index name [{index}], {why}"),
        })
    };
    if index.starts_with(TOPIC_PREFIX) {
        return fault("indices `millrace-…` hold tailed lines and can't be written by clients");
    }
    if index.is_empty() || index == "." || index == ".." || index.len() > 255 {
        return fault("must have 1 to 255 bytes and not be . or ..");
    }
    if index.starts_with(['_', '-', '+']) {
        return fault("must not start with '_', '-', or '+'");
    }
    if index.chars().any(char::is_uppercase) {
        return fault("must be lowercase");
    }
    if index.contains(|c: char| c.is_whitespace() || "\\/*?\"<>|,#:".contains(c)) {
        return fault("must not contain the following characters [ , \", *, \\, <, |, ,, >, /, ?]");
    }
    Ok(())
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

fn answer(item: &Item) -> Json {
    let body = match &item.outcome {
        Ok(_) => result(item),
        Err(error) => {
            json!({"_index": item.index, "_id": item.id, "status": error.status, "error": {"type": error.kind, "reason": error.reason}})
        }
    };
    json!({item.name: body})
}

fn result(item: &Item) -> Json {
    json!({
        "_index": item.index,
        "_id": item.id,
        "result": if item.existed { "updated" } else { "created" },
        "_shards": {"total": 1, "successful": 1, "failed": 0},
        "status": if item.existed { 200 } else { 201 },
    })
}
