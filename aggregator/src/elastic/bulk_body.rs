//! Bodies of `_bulk` and of single documents: NDJSON to items, and their part of the answer.
//!
//! In: bodies. Out: items, each with its event or Elasticsearch's error. Touches nothing but the generator of automatic ids.
//! Memory is reserved before it is taken: for each line until it is answered, for the elements of one while it is parsed.

use bytes::Bytes;
use millrace_log::push::json::{TREE_ELEMENT_BYTES, cost};
use millrace_log::push::{DecodeBudget, Reserved};
use millrace_log::record::{DocIdentity, DocOp, Labels, Tenant};
use rand::Rng as _;
use serde_json::{Map, Value as Json, json};

use super::document::{TIMESTAMP, TOPIC_PREFIX};
use super::error::ApiError;
use super::time;
use crate::ingest::PushEvent;

/// Bytes of an id at most, as in Elasticsearch.
pub(super) const MAX_ID: usize = 512;

/// What a line of a body takes in memory until it is answered, besides its bytes: half of an item, its event and its
/// answer.
const LINE_BYTES: u64 = 768;

/// One action with its document.
pub(super) struct Item {
    pub action: DocOp,
    /// The action's name as sent.
    pub name: &'static str,
    pub index: String,
    pub id: String,
    /// The document's bytes as sent, or what is wrong with it.
    pub outcome: Result<PushEvent, ApiError>,
    pub existed: bool,
    /// This request holds the id in [`super::accepted::Accepted`].
    pub held: bool,
}

impl Item {
    /// Its part of the answer.
    pub fn answer(&self) -> Json {
        let body = match &self.outcome {
            Ok(_) => self.result(),
            Err(error) => {
                json!({"_index": self.index, "_id": self.id, "status": error.status, "error": {"type": error.kind, "reason": error.reason}})
            }
        };
        json!({self.name: body})
    }

    /// What became of a document that was taken.
    pub fn result(&self) -> Json {
        json!({
            "_index": self.index,
            "_id": self.id,
            "result": if self.existed { "updated" } else { "created" },
            "_shards": {"total": 1, "successful": 1, "failed": 0},
            "status": if self.existed { 200 } else { 201 },
        })
    }
}

/// Reads bodies of one client.
pub(super) struct BulkReader<'s> {
    pub tenant: &'s Tenant,
    /// Memory of all bodies.
    pub budget: &'s DecodeBudget,
    /// Time of documents without one.
    pub now_ns: i64,
}

impl BulkReader<'_> {
    /// Reads a whole `_bulk` body; what it takes until it is answered is reserved in `memory`.
    pub fn read(
        &self,
        default_index: Option<&str>,
        body: &Bytes,
        memory: &mut Reserved,
    ) -> Result<Vec<Item>, ApiError> {
        let lines = memchr::memchr_iter(b'\n', body).count() as u64;
        memory.grow(lines.saturating_mul(LINE_BYTES))?;
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
            let mut parsing = self.budget.begin();
            parsing.grow(cost(&line, TREE_ELEMENT_BYTES))?;
            let action: Map<String, Json> =
                serde_json::from_slice(&line).map_err(|e| malformed(&format!("not a JSON object: {e}")))?;
            let Some((name, metadata)) = action.iter().next() else {
                return Err(malformed("expected FIELD_NAME but found [END_OBJECT]"));
            };
            let text = |key: &str| {
                metadata
                    .get(key)
                    .and_then(|v| v.as_str().map(str::to_owned).or_else(|| v.as_i64().map(|n| n.to_string())))
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
            items.push(self.item(op, index, id, source));
        }
        Ok(items)
    }

    /// One document; without an id it gets one.
    pub fn item(&self, action: DocOp, index: String, id: Option<String>, source: Bytes) -> Item {
        let automatic = || rand::rng().sample_iter(rand::distr::Alphanumeric).take(20).map(char::from).collect();
        let id: String = id.unwrap_or_else(automatic);
        let outcome = self.event(action, &index, &id, source);
        let name = match action {
            DocOp::Index => "index",
            DocOp::Create => "create",
        };
        Item { action, name, index, id, outcome, existed: false, held: false }
    }

    fn event(&self, op: DocOp, index: &str, id: &str, source: Bytes) -> Result<PushEvent, ApiError> {
        check_index(index)?;
        if id.is_empty() || id.len() > MAX_ID {
            return Err(ApiError::argument(format!(
                "id is empty or too long, must be no longer than {MAX_ID} bytes but was: {}",
                id.len()
            )));
        }
        let mut memory = self.budget.begin();
        memory.grow(cost(&source, TREE_ELEMENT_BYTES))?;
        let unfit = |reason: String| ApiError { status: 400, kind: "mapper_parsing_exception", reason };
        let document: Map<String, Json> =
            serde_json::from_slice(&source).map_err(|e| unfit(format!("failed to parse: {e}")))?;
        let time_ns = match document.get(TIMESTAMP) {
            None | Some(Json::Null) => self.now_ns,
            Some(Json::String(text)) => time::parse(text).ok_or_else(|| {
                unfit(format!(
                    "failed to parse field [{TIMESTAMP}] of type [date]: [{text}] is not \
                     strict_date_optional_time||epoch_millis"
                ))
            })?,
            Some(Json::Number(ms)) => ms.as_f64().map(time::of_millis).unwrap_or_default(),
            Some(_) => return Err(unfit(format!("failed to parse field [{TIMESTAMP}] of type [date]"))),
        };
        // The log keeps one line per record: pretty-printed bodies of single documents are written compactly.
        let line = if memchr::memchr(b'\n', &source).is_some() {
            Bytes::from(Json::Object(document).to_string())
        } else {
            source
        };
        Ok(PushEvent {
            tenant: self.tenant.clone(),
            time_ns,
            labels: Labels::new([("index", index)]),
            metadata: Labels::default(),
            line,
            doc: Some(Box::new(DocIdentity { index: index.to_owned(), id: id.to_owned(), op })),
        })
    }
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
