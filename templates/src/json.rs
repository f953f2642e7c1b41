//! Values to JSON and back: `toJson`, the data of handlebars templates, sample alerts.
//!
//! In: values or JSON. Out: the other. Touches nothing. JSON has the names of Alertmanager's webhook.

use std::sync::Arc;

use serde_json::{Map, Number, Value as Json};

use crate::show;
use crate::time::{GoTime, duration};
use crate::value::{Entries, ListKind, MapKind, Record, Value};

/// A field's name in JSON.
fn name_of(kind: &str, field: &str) -> String {
    match (kind, field) {
        ("template.Data" | "template.Alert", "NotificationReason") => "notification_reason".to_owned(),
        ("template.Data" | "template.Alert", field) => {
            let mut chars = field.chars();
            chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect()
        }
        (_, field) => field.to_owned(),
    }
}

/// As JSON.
pub(crate) fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(n) => Json::Number((*n).into()),
        Value::Float(n) => Number::from_f64(*n).map_or_else(|| Json::String(millrace_log::go::float(*n)), Json::Number),
        Value::Text(text) | Value::Safe(_, text) => Json::String(text.to_string()),
        Value::Time(time) => Json::String(time.json()),
        Value::Duration(ns) => Json::String(duration(*ns)),
        Value::Named(_, n, _) => Json::Number((*n).into()),
        Value::List(_, list) => Json::Array(list.iter().map(to_json).collect()),
        Value::Map(_, map) => Json::Object(map.iter().map(|(n, v)| (n.to_string(), to_json(v))).collect()),
        Value::Record(record) => {
            let fields = record.fields.iter().map(|(name, value)| (name_of(record.kind, name), to_json(value)));
            Json::Object(fields.collect::<Map<String, Json>>())
        }
    }
}

/// Bytes that it takes, about.
pub(crate) fn size(json: &Json) -> usize {
    let inside = match json {
        Json::String(text) => text.len(),
        Json::Array(list) => list.iter().map(size).sum(),
        Json::Object(map) => map.iter().map(|(name, value)| 64 + name.len() + size(value)).sum(),
        _ => 0,
    };
    inside + std::mem::size_of::<Json>()
}

/// The text of Go's `json.Marshal`: `<`, `>` and `&` are escaped.
pub(crate) fn go_text(value: &Value) -> String {
    let plain = match value {
        // Go's durations are numbers.
        Value::Duration(ns) => ns.to_string(),
        value => to_json(value).to_string(),
    };
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// From JSON. Objects that look like alerts, pairs or a notification's data are those again.
pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int),
        Json::String(text) => Value::text(text.as_str()),
        Json::Array(list) => {
            let items: Vec<Value> = list.iter().map(from_json).collect();
            let all = |kind: &str| items.iter().all(|item| item.kind() == kind);
            let kind = match items.first() {
                None => ListKind::Any,
                Some(_) if all("template.Alert") => ListKind::Alerts,
                Some(_) if all("template.Pair") => ListKind::Pairs,
                Some(_) if all("string") => ListKind::Strings,
                Some(_) => ListKind::Any,
            };
            Value::List(kind, items.into())
        }
        Json::Object(map) => object(map),
    }
}

const DATA: [&str; 9] = [
    "Receiver",
    "Status",
    "Alerts",
    "NotificationReason",
    "GroupLabels",
    "CommonLabels",
    "CommonAnnotations",
    "RouteLabels",
    "ExternalURL",
];
const ALERT: [&str; 7] = ["Status", "Labels", "Annotations", "StartsAt", "EndsAt", "GeneratorURL", "Fingerprint"];

fn object(map: &Map<String, Json>) -> Value {
    if map.contains_key("alerts") && map.contains_key("groupLabels") {
        return record("template.Data", &DATA, map);
    }
    if map.contains_key("labels") && (map.contains_key("annotations") || map.contains_key("startsAt")) {
        return record("template.Alert", &ALERT, map);
    }
    if map.len() == 2 && map.contains_key("Name") && map.contains_key("Value") {
        return record("template.Pair", &["Name", "Value"], map);
    }
    let entries: Entries = map.iter().map(|(n, v)| (Arc::from(n.as_str()), from_json(v))).collect();
    let kind = if !map.is_empty() && map.values().all(Json::is_string) { MapKind::Kv } else { MapKind::Any };
    Value::Map(kind, Arc::new(entries))
}

fn record(kind: &'static str, names: &[&'static str], map: &Map<String, Json>) -> Value {
    let fields = names.iter().map(|name| (*name, field(name, map.get(&name_of(kind, name)).unwrap_or(&Json::Null))));
    Value::Record(Arc::new(Record { kind, fields: fields.collect() }))
}

fn field(name: &str, json: &Json) -> Value {
    match (name, from_json(json)) {
        ("StartsAt" | "EndsAt", value) => {
            let time = value.as_text().and_then(|text| GoTime::parse_json(text));
            Value::Time(time.unwrap_or_else(GoTime::zero))
        }
        ("Alerts", Value::List(_, list)) => Value::List(ListKind::Alerts, list),
        ("Alerts", _) => Value::List(ListKind::Alerts, Arc::new([])),
        ("Labels" | "Annotations" | "GroupLabels" | "CommonLabels" | "CommonAnnotations" | "RouteLabels", value) => {
            match value {
                Value::Map(_, map) => {
                    let texts = map.iter().map(|(name, value)| {
                        let text = value.as_text().cloned().or_else(|| show::show(value, 1 << 16).map(Arc::from));
                        (name.clone(), Value::Text(text.unwrap_or_default()))
                    });
                    Value::Map(MapKind::Kv, Arc::new(texts.collect()))
                }
                _ => Value::Map(MapKind::Kv, Arc::default()),
            }
        }
        (_, Value::Nil) => Value::text(""),
        (_, value) => value,
    }
}
