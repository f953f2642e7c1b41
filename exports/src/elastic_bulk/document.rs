//! Documents: what one record of the log becomes, and how documents are cut into requests.
//!
//! In: events. Out: action and source lines of `_bulk`. Touches nothing.

use bytes::Bytes;
use millrace_log::record::Event;
use serde_json::{Map, Value as Json, json};

/// One document on its way.
pub(super) struct Document {
    /// Its place in the batch.
    pub index: usize,
    /// Index and id of a document that may have several versions; lines have one.
    pub key: Option<(String, String)>,
    /// Action and source lines.
    pub body: Bytes,
}

/// Cuts documents into requests of a bounded size; one that is larger alone goes alone.
pub(super) fn requests(documents: Vec<Document>, max_bytes: u64) -> Vec<Vec<Document>> {
    let mut all: Vec<Vec<Document>> = Vec::new();
    let mut size = u64::MAX;
    for document in documents {
        let bytes = document.body.len() as u64;
        if size.saturating_add(bytes) > max_bytes {
            all.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(last) = all.last_mut() {
            last.push(document);
        }
    }
    all
}

/// Action and source of one event. Lines get an id of (source, position) and are created once; documents that came by
/// `_bulk` keep index and id.
pub(super) fn document(event: &Event, index: &str) -> Bytes {
    let (action, source) = match &event.doc {
        Some(doc) => {
            let action = json!({"index": {"_index": doc.index, "_id": doc.id}});
            (action, String::from_utf8_lossy(&event.line).replace('\n', " "))
        }
        None => {
            let id = format!("{}-{}-{}", event.source, event.position.offset, event.position.sub);
            let action = json!({"create": {"_index": index, "_id": id}});
            (action, line_source(event).to_string())
        }
    };
    let mut body = action.to_string();
    body.push('\n');
    body.push_str(&source);
    body.push('\n');
    body.into()
}

fn line_source(event: &Event) -> Json {
    let time = chrono::DateTime::from_timestamp_nanos(event.time_ns);
    let pairs = |labels: &millrace_log::record::Labels| -> Json {
        labels.iter().map(|(n, v)| (n.to_owned(), Json::from(v))).collect::<Map<String, Json>>().into()
    };
    let mut source = json!({
        "@timestamp": time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        "message": String::from_utf8_lossy(&event.line),
        "labels": pairs(&event.labels),
    });
    if !event.metadata.is_empty() {
        source["metadata"] = pairs(&event.metadata);
    }
    source
}
