//! A row as an Elasticsearch document: index, id, `_source`, and the values of its fields.
//!
//! In: rows of the index. Out: field values and `_source`. Touches nothing. The line is parsed at the first question
//! that needs it: most rows of a search are only counted.
//!
//! A tailed line is a document of index `millrace-<topic>` with `@timestamp`, `message`, `labels.*`, `metadata.*` and,
//! if it is a JSON object, its own fields. A document that came by `_bulk` is its `_source` as sent.

use std::borrow::Cow;
use std::cell::OnceCell;

use chrono::{DateTime, SecondsFormat};
use millrace_log::record::{Position, SourceId};
use serde_json::{Map, Value as Json};

use super::number::Number;
use super::time;
use millrace_index::rows;
use millrace_index::scan::{OverBudget, Row, RowBatch, StreamInfo, Watch};

/// Field of the event time.
pub const TIMESTAMP: &str = "@timestamp";
/// Field of the line.
pub const MESSAGE: &str = "message";
/// Indices of tailed topics start so; clients can't write to them.
pub const TOPIC_PREFIX: &str = "millrace-";

/// One value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'d> {
    /// Text or keyword.
    Text(Cow<'d, str>),
    /// Any number.
    Number(Number),
    /// `true` or `false`.
    Bool(bool),
    /// Event time, ns since 1970.
    Time(i64),
}

impl Value<'_> {
    /// As a number, if it is one or reads as one. Times are milliseconds, booleans 0 and 1.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(n) => Some(n.as_f64()),
            Self::Time(ns) => Some(ns.div_euclid(1_000_000) as f64),
            Self::Bool(b) => Some(if *b { 1.0 } else { 0.0 }),
            Self::Text(text) => text.parse().ok(),
        }
    }

    /// As a time, if it is one or reads as one.
    pub fn time_ns(&self) -> Option<i64> {
        match self {
            Self::Time(ns) => Some(*ns),
            Self::Number(ms) => Some(time::of_millis(ms.as_f64())),
            Self::Text(text) => time::parse(text),
            Self::Bool(_) => None,
        }
    }

    /// As Elasticsearch shows it as a key.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text.as_ref()),
            Self::Number(n) => Cow::Owned(n.text()),
            Self::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            Self::Time(ns) => Cow::Owned(time::iso_millis(*ns)),
        }
    }
}

/// One row seen as a document.
pub struct Doc<'b> {
    stream: &'b StreamInfo,
    row: &'b Row,
    line: &'b [u8],
    parsed: OnceCell<Option<Map<String, Json>>>,
    watch: &'b Watch,
}

impl<'b> Doc<'b> {
    /// A row of a batch; `None` if the batch does not hold its stream. `watch` counts what is asked of it: when the time of the
    /// request is over it has no values any more, and whoever made it asks the watch before using what was found.
    pub fn new(batch: &'b RowBatch, row: &'b Row, watch: &'b Watch) -> Option<Self> {
        let stream = batch.streams.get(row.stream as usize)?;
        Some(Self { stream, row, line: batch.line(row), parsed: OnceCell::new(), watch })
    }

    /// Name of its index.
    pub fn index(&self) -> Cow<'b, str> {
        match &self.row.doc {
            Some(doc) => Cow::Borrowed(doc.index.as_str()),
            None => Cow::Owned(format!("{TOPIC_PREFIX}{}", self.stream.topic)),
        }
    }

    /// Its id: as given, or made of source and position.
    pub fn id(&self) -> Cow<'b, str> {
        match &self.row.doc {
            Some(doc) => Cow::Borrowed(doc.id.as_str()),
            None => {
                let position = self.row.position;
                Cow::Owned(format!("{}-{}-{}", self.row.source, position.offset, position.sub))
            }
        }
    }

    /// Its place in the order of the index: event time, source, position. Different for each document.
    pub fn place(&self) -> (i64, SourceId, Position) {
        rows::key(self.row)
    }

    /// Counts memory that the request keeps because of it.
    pub fn hold(&self, bytes: usize) -> Result<(), OverBudget> {
        self.watch.budget().hold(bytes)
    }

    fn is_line(&self) -> bool {
        self.row.doc.is_none()
    }

    /// The line or `_source` as a JSON object, if it is one.
    fn parsed(&self) -> Option<&Map<String, Json>> {
        self.parsed
            .get_or_init(|| {
                let starts = self.line.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
                if starts { serde_json::from_slice(self.line).ok() } else { None }
            })
            .as_ref()
    }

    /// All values of a field; `.keyword` names the same values as the field itself.
    pub fn values(&self, field: &str) -> Vec<Value<'_>> {
        // Whoever asks for the line goes through all of it.
        let bytes = if field == MESSAGE { self.line.len() } else { 0 };
        if self.watch.is_over(bytes) {
            return Vec::new();
        }
        let mut found = self.plain_values(field);
        if found.is_empty()
            && let Some(plain) = field.strip_suffix(".keyword")
        {
            found = self.plain_values(plain);
        }
        found
    }

    fn plain_values(&self, field: &str) -> Vec<Value<'_>> {
        match field {
            "_id" => return vec![Value::Text(self.id())],
            "_index" => return vec![Value::Text(self.index())],
            TIMESTAMP if self.is_line() => return vec![Value::Time(self.row.time_ns)],
            MESSAGE if self.is_line() => return vec![Value::Text(String::from_utf8_lossy(self.line))],
            _ => {}
        }
        if self.is_line() {
            if let Some(value) = field.strip_prefix("labels.").and_then(|name| self.stream.labels.get(name)) {
                return vec![Value::Text(Cow::Borrowed(value))];
            }
            let metadata = self.row.metadata.as_ref();
            if let Some(value) = field.strip_prefix("metadata.").and_then(|name| metadata?.get(name)) {
                return vec![Value::Text(Cow::Borrowed(value))];
            }
        }
        let mut found = Vec::new();
        if let Some(object) = self.parsed() {
            collect(object, field, &mut found);
        }
        if field == TIMESTAMP && !found.is_empty() {
            return vec![Value::Time(self.row.time_ns)];
        }
        found
    }

    /// Names of all fields that have a value, with one of their values.
    pub fn for_each_field(&self, mut take: impl FnMut(&str, &Json)) {
        if self.watch.is_over(self.line.len()) {
            return;
        }
        if self.is_line() {
            for name in [TIMESTAMP, MESSAGE] {
                take(name, &Json::String(String::new()));
            }
            for (name, value) in self.stream.labels.iter() {
                take(&format!("labels.{name}"), &Json::from(value));
            }
        }
        if let Some(object) = self.parsed() {
            walk(object, "", &mut take);
        }
    }

    /// What `_source` holds: as sent, or made of the line.
    pub fn source(&self) -> Json {
        if !self.is_line() {
            return self.parsed().cloned().map_or(Json::Null, Json::Object);
        }
        let mut out = Map::new();
        let time = DateTime::from_timestamp_nanos(self.row.time_ns);
        out.insert(TIMESTAMP.to_owned(), time.to_rfc3339_opts(SecondsFormat::Nanos, true).into());
        out.insert(MESSAGE.to_owned(), String::from_utf8_lossy(self.line).into());
        out.insert(
            "labels".to_owned(),
            self.stream.labels.iter().map(|(n, v)| (n.to_owned(), Json::from(v))).collect::<Map<_, _>>().into(),
        );
        if let Some(metadata) = &self.row.metadata {
            out.insert(
                "metadata".to_owned(),
                metadata.iter().map(|(n, v)| (n.to_owned(), Json::from(v))).collect::<Map<_, _>>().into(),
            );
        }
        for (name, value) in self.parsed().into_iter().flatten() {
            // The line's own words never hide the event's.
            out.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Json::Object(out)
    }
}

/// Finds a dotted path in an object whose own keys may be dotted too, through lists.
fn collect<'j>(object: &'j Map<String, Json>, path: &str, found: &mut Vec<Value<'j>>) {
    if let Some(value) = object.get(path) {
        leaf(value, found);
    }
    for (at, _) in path.match_indices('.') {
        let (head, tail) = path.split_at(at);
        let tail = tail.trim_start_matches('.');
        match object.get(head) {
            Some(Json::Object(inner)) => collect(inner, tail, found),
            Some(Json::Array(items)) => {
                for inner in items.iter().filter_map(Json::as_object) {
                    collect(inner, tail, found);
                }
            }
            _ => {}
        }
    }
}

fn leaf<'j>(value: &'j Json, found: &mut Vec<Value<'j>>) {
    match value {
        Json::String(text) => found.push(Value::Text(Cow::Borrowed(text))),
        Json::Number(n) => found.extend(Number::of_json(n).map(Value::Number)),
        Json::Bool(b) => found.push(Value::Bool(*b)),
        Json::Array(items) => items.iter().for_each(|item| leaf(item, found)),
        Json::Null | Json::Object(_) => {}
    }
}

fn walk(object: &Map<String, Json>, prefix: &str, take: &mut impl FnMut(&str, &Json)) {
    for (name, value) in object {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Json::Object(inner) => walk(inner, &path, take),
            Json::Array(items) => {
                for item in items {
                    match item {
                        Json::Object(inner) => walk(inner, &path, take),
                        other => take(&path, other),
                    }
                }
            }
            Json::Null => {}
            other => take(&path, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str, path: &str) -> Vec<String> {
        let object: Map<String, Json> = serde_json::from_str(json).unwrap();
        let mut found = Vec::new();
        collect(&object, path, &mut found);
        found.iter().map(|v| v.text().into_owned()).collect()
    }

    #[test]
    fn fields_are_found_nested_dotted_and_in_lists() {
        for (json, path, want) in [
            (r#"{"a": {"b": 1}}"#, "a.b", vec!["1"]),
            (r#"{"a.b": 2}"#, "a.b", vec!["2"]),
            (r#"{"a": {"b.c": true}}"#, "a.b.c", vec!["true"]),
            (r#"{"a.b": {"c": 1.5}}"#, "a.b.c", vec!["1.5"]),
            (r#"{"a": [{"b": "x"}, {"b": ["y", null]}]}"#, "a.b", vec!["x", "y"]),
            (r#"{"a": null}"#, "a", vec![]),
            (r#"{"a": {"b": 1}}"#, "a", vec![]),
        ] {
            assert_eq!(texts(json, path), want, "{path} in {json}");
        }
    }
}
