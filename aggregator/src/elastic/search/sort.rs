//! What hits are ordered by: the `sort` of a request, the values of a document, `search_after`.
//!
//! In: JSON of a request, documents. Out: keys that compare as the request says. Touches nothing.
//!
//! `_doc` and `_shard_doc` are the order of the index itself: time, then source, then position. Each document has a place of
//! its own in it, so that `search_after` behind such a key neither skips nor repeats one.

use std::cmp::Ordering;
use std::fmt;

use millrace_log::record::{Position, SourceId};
use serde_json::Value as Json;

use super::super::document::{Doc, TIMESTAMP, Value};
use super::super::error::ApiError;
use super::super::number::Number;
use super::super::time;

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SortBy {
    /// The field; `_doc` and `_shard_doc` are the place in the index.
    pub field: String,
    /// Greatest first.
    pub descending: bool,
    /// Where documents without a value stand.
    pub missing_first: bool,
    /// Stands in for a missing value.
    pub missing: Option<SortValue>,
}

impl SortBy {
    /// Whether it is the order of the index.
    pub fn is_index_position(&self) -> bool {
        matches!(self.field.as_str(), "_doc" | "_shard_doc")
    }
}

/// A value that hits are ordered by.
#[derive(Debug, Clone, PartialEq)]
pub enum SortValue {
    /// The document has none.
    Missing,
    /// Numbers, times in milliseconds, booleans.
    Number(Number),
    /// Text or keyword.
    Text(String),
    /// The place in the index.
    IndexPosition(IndexPosition),
}

impl SortValue {
    /// As the answer shows it, and `search_after` gives it back.
    pub fn into_json(self) -> Json {
        match self {
            Self::Missing => Json::Null,
            Self::Number(n) => n.json(),
            Self::Text(text) => text.into(),
            Self::IndexPosition(place) => place.to_string().into(),
        }
    }
}

/// IndexPosition of a document in the order of the index, different for each: event time, source, position.
/// Its text is `<ns>:<source>:<offset>:<sub>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexPosition {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    source: SourceId,
    position: Position,
}

impl IndexPosition {
    fn of(doc: &Doc<'_>) -> Self {
        let (time_ns, source, position) = doc.place();
        Self { time_ns, source, position }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let time_ns = parts.next()?.parse().ok()?;
        let source = SourceId::from_hex(parts.next()?.as_bytes())?;
        let position = Position { offset: parts.next()?.parse().ok()?, sub: parts.next()?.parse().ok()? };
        parts.next().is_none().then_some(Self { time_ns, source, position })
    }
}

impl fmt::Display for IndexPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.time_ns, self.source, self.position.offset, self.position.sub)
    }
}

/// Whether the rows of the index, by time, come in the order of these keys; if so, whether they come newest first.
/// Without keys the newest come first.
pub fn follows_rows(sort: &[SortBy]) -> Option<bool> {
    let plain = sort.iter().all(|by| !by.missing_first && by.missing.is_none());
    match sort {
        [] => Some(true),
        [one] if plain && (one.field == TIMESTAMP || one.is_index_position()) => Some(one.descending),
        [time, place]
            if plain && time.field == TIMESTAMP && place.is_index_position() && time.descending == place.descending =>
        {
            Some(time.descending)
        }
        _ => None,
    }
}

/// Compares the keys of two hits.
pub fn compare_keys(sort: &[SortBy], a: &[SortValue], b: &[SortValue]) -> Ordering {
    for ((by, a), b) in sort.iter().zip(a).zip(b) {
        let order = match (a, b) {
            (SortValue::Missing, SortValue::Missing) => Ordering::Equal,
            (SortValue::Missing, _) => {
                if by.missing_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (_, SortValue::Missing) => {
                if by.missing_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (SortValue::Number(a), SortValue::Number(b)) => directed(a.cmp(b), by.descending),
            (SortValue::Text(a), SortValue::Text(b)) => directed(a.cmp(b), by.descending),
            (SortValue::IndexPosition(a), SortValue::IndexPosition(b)) => directed(a.cmp(b), by.descending),
            // Numbers before texts before places, whatever the direction.
            (SortValue::Number(_), _) | (SortValue::Text(_), SortValue::IndexPosition(_)) => Ordering::Less,
            (SortValue::Text(_) | SortValue::IndexPosition(_), _) => Ordering::Greater,
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

/// Reads `sort=field:desc,other` of the address.
pub fn of_url(text: &str) -> Vec<SortBy> {
    text.split(',')
        .map(|part| {
            let (field, direction) = part.rsplit_once(':').unwrap_or((part, "asc"));
            SortBy { field: field.to_owned(), descending: direction == "desc", ..SortBy::default() }
        })
        .collect()
}

/// Reads the `sort` of a body.
pub fn of_body(value: &Json) -> Result<Vec<SortBy>, ApiError> {
    let items: Vec<&Json> = match value {
        Json::Array(items) => items.iter().collect(),
        one => vec![one],
    };
    let mut found = Vec::new();
    for item in items {
        match item {
            Json::String(field) => {
                found.push(SortBy { field: field.clone(), descending: field == "_score", ..SortBy::default() })
            }
            Json::Object(fields) => {
                for (field, options) in fields {
                    let direction = options.as_str().or_else(|| options.get("order").and_then(Json::as_str));
                    let descending = match direction {
                        Some("desc") => true,
                        Some("asc") => false,
                        None => field == "_score",
                        Some(other) => {
                            return Err(ApiError::argument(format!("No enum constant for sort order [{other}]")));
                        }
                    };
                    if options.get("nested").is_some() || field == "_script" || field == "_geo_distance" {
                        return Err(ApiError::not_yet("sort by script, distance or nested"));
                    }
                    let (missing_first, missing) = match options.get("missing") {
                        None => (false, None),
                        Some(Json::String(place)) if place == "_first" => (true, None),
                        Some(Json::String(place)) if place == "_last" => (false, None),
                        Some(value) => (false, Some(after_value(field, value)?)),
                    };
                    found.push(SortBy { field: field.clone(), descending, missing_first, missing });
                }
            }
            _ => return Err(ApiError::parsing("malformed sort format, either start with array, object or string")),
        }
    }
    Ok(found)
}

/// Reads one value of `search_after`.
pub fn after_value(field: &str, value: &Json) -> Result<SortValue, ApiError> {
    match value {
        _ if matches!(field, "_doc" | "_shard_doc") => {
            let place = value.as_str().and_then(IndexPosition::parse).ok_or_else(|| {
                ApiError::argument(format!(
                    "invalid search_after value [{value}] for [{field}]: expected a value of [sort] in a previous response"
                ))
            })?;
            Ok(SortValue::IndexPosition(place))
        }
        Json::Null => Ok(SortValue::Missing),
        Json::Number(n) => Ok(Number::of_json(n).map_or(SortValue::Missing, SortValue::Number)),
        Json::String(text) if field == TIMESTAMP => time::parse(text)
            .map(|ns| SortValue::Number(ns.div_euclid(1_000_000).into()))
            .ok_or_else(|| ApiError::parsing(format!("failed to parse date field [{text}]"))),
        Json::String(text) => Ok(SortValue::Text(text.clone())),
        Json::Bool(b) => Ok(SortValue::Number(i64::from(*b).into())),
        _ => Err(ApiError::parsing("[search_after] values must be strings, numbers or null")),
    }
}

/// The value of a document.
pub fn value_of(doc: &Doc<'_>, by: &SortBy) -> SortValue {
    match by.field.as_str() {
        "_doc" | "_shard_doc" => return SortValue::IndexPosition(IndexPosition::of(doc)),
        "_score" => return SortValue::Number(1.into()),
        _ => {}
    }
    let values = doc.values(&by.field).into_iter().map(|value| match value {
        Value::Text(text) => SortValue::Text(text.into_owned()),
        Value::Time(ns) => SortValue::Number(ns.div_euclid(1_000_000).into()),
        Value::Number(n) => SortValue::Number(n),
        Value::Bool(b) => SortValue::Number(i64::from(b).into()),
    });
    // Of several values the smallest counts upwards, the largest downwards.
    let one = std::slice::from_ref(by);
    values
        .min_by(|a, b| compare_keys(one, std::slice::from_ref(a), std::slice::from_ref(b)))
        .or_else(|| by.missing.clone())
        .unwrap_or(SortValue::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_from_their_text() {
        let place = IndexPosition {
            time_ns: -7,
            source: SourceId([0xab; 16]),
            position: Position { offset: u64::MAX, sub: 3 },
        };
        assert_eq!(IndexPosition::parse(&place.to_string()), Some(place));
        for text in
            ["", "1", "1:2:3:4", "x:abababababababababababababababab:1:1", "1:abababababababababababababababab:1:1:1"]
        {
            assert_eq!(IndexPosition::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sorts_by_time_and_place_follow_the_rows() {
        for (text, want) in [
            ("", Some(true)),
            ("@timestamp:desc", Some(true)),
            ("_doc", Some(false)),
            ("@timestamp:desc,_doc:desc", Some(true)),
            ("@timestamp:desc,_doc", None),
            ("@timestamp,_id", None),
            ("n", None),
        ] {
            let sort = if text.is_empty() { Vec::new() } else { of_url(text) };
            assert_eq!(follows_rows(&sort), want, "{text}");
        }
    }
}
