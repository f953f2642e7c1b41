//! What a message of OpenTelemetry logs says: streams, lines and metadata of its records.
//!
//! In: messages in protobuf or JSON. Out: labels of a resource, one [`Line`] for each record, and how many were rejected and
//! why. Touches nothing. Attributes become labels and metadata as in Loki's own endpoint:
//! <https://grafana.com/docs/loki/latest/send-data/otel/>.
//!
//! | of a record | becomes |
//! |---|---|
//! | body | the line; what is no text as JSON |
//! | time, else observed time, else now | event time |
//! | attributes of the resource that `resource_labels` names | labels, `.` as `_` |
//! | other attributes of resource, scope (with `scope_name`, `scope_version`) and record | metadata, maps flattened |
//! | `trace_id`, `span_id`, `severity_text`, `severity_number`, `flags`, `observed_timestamp` | metadata |

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_doors::refusal::Refusal;
use millrace_log::push::{Reserved, json, protobuf};
use millrace_log::record::{Labels, MAX_LABEL_BYTES, MAX_LABELS};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use prost::Message as _;
use serde_json::Value as Json;

use super::otlp_cost::{ELEMENT_BYTES, EXPORT};
use super::records::Line;
use crate::name::plain_name;

/// Levels of maps and arrays in an attribute or a body.
const MAX_DEPTH: usize = 32;
/// Entries of an event's metadata at most, as in Loki.
pub(super) const MAX_METADATA: usize = 128;
/// Bytes of all of them at most, as in Loki.
pub(super) const MAX_METADATA_BYTES: usize = 64 << 10;

/// Why records were refused while others went in.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// How many.
    pub rejected: i64,
    /// Why the first of them.
    pub text: String,
}

impl Partial {
    /// Counts some.
    pub fn reject(&mut self, count: usize, text: impl FnOnce() -> String) {
        if count > 0 && self.text.is_empty() {
            self.text = text();
        }
        self.rejected += i64::try_from(count).unwrap_or(i64::MAX);
    }
}

/// What is made of a body, after its memory was reserved.
pub(super) fn read_export(body: Bytes, json: bool, memory: &mut Reserved) -> Result<ExportLogsServiceRequest, Refusal> {
    if json {
        memory.grow(json::cost(&body, ELEMENT_BYTES))?;
        return serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad(format!("body is not valid OTLP/JSON: {error}")));
    }
    let cost = protobuf::cost(&body, &EXPORT);
    memory.grow(cost.map_err(|error| Refusal::bad(format!("body is not valid OTLP protobuf: {error}")))?)?;
    ExportLogsServiceRequest::decode(body)
        .map_err(|error| Refusal::bad(format!("body is not valid OTLP protobuf: {error}")))
}

/// What a resource gives to each of its records.
#[derive(Debug)]
pub(super) struct Described {
    /// Labels of the stream.
    pub labels: Labels,
    /// Its other attributes.
    pub metadata: Meta,
}

/// Labels of a resource (those of its attributes that `resource_labels` names, with the label of each), and its other attributes.
pub(super) fn describe(logs: &ResourceLogs, resource_labels: &[(String, String)]) -> Described {
    let mut metadata = Meta::default();
    let attributes = logs.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let mut labels = BTreeMap::new();
    let mut bytes = 0;
    // In the order of the configuration, so that the first names win where there are too many.
    for (name, label) in resource_labels {
        let found = attributes.iter().find(|attribute| attribute.key == *name);
        let value = found.and_then(|attribute| scalar(attribute.value.as_ref()?));
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        bytes += label.len() + value.len();
        if labels.len() < MAX_LABELS && bytes <= MAX_LABEL_BYTES {
            labels.insert(label.clone(), value);
        } else {
            bytes -= label.len() + value.len();
            metadata.put(label, value);
        }
    }
    let is_label = |attribute: &&KeyValue| labels.contains_key(&plain(&attribute.key));
    metadata.attributes(attributes.iter().filter(|attribute| !is_label(attribute)));
    if labels.is_empty() {
        // As Loki names what does not say who it is.
        labels.insert("service_name".to_owned(), "unknown_service".to_owned());
    }
    Described { labels: Labels::new(labels), metadata }
}

/// Gives the records of a resource to `each`, with the bytes that their metadata takes. What has too many attributes is rejected.
pub(super) fn records(
    logs: ResourceLogs,
    of_resource: Meta,
    partial: &mut Partial,
    mut each: impl FnMut(Line<'_>, usize) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    // Attributes are copied for each scope and each record: nobody pays for millions of them.
    if let Some(text) = of_resource.excess() {
        let count = logs.scope_logs.iter().map(|scope| scope.log_records.len()).sum();
        partial.reject(count, || format!("resource has {text}"));
        return Ok(());
    }
    for scope_logs in logs.scope_logs {
        if scope_logs.log_records.is_empty() {
            continue;
        }
        let mut of_scope = of_resource.clone();
        if let Some(scope) = &scope_logs.scope {
            of_scope.attributes(scope.attributes.iter());
            of_scope.put("scope_name", scope.name.clone());
            of_scope.put("scope_version", scope.version.clone());
        }
        if let Some(text) = of_scope.excess() {
            partial.reject(scope_logs.log_records.len(), || format!("resource and scope have {text}"));
            continue;
        }
        for record in scope_logs.log_records {
            let metadata = of_record(of_scope.clone(), &record);
            if let Some(text) = metadata.excess() {
                partial.reject(1, || format!("record has {text}"));
                continue;
            }
            let bytes = metadata.bytes;
            let metadata = Labels::new(metadata.entries);
            let time = [record.time_unix_nano, record.observed_time_unix_nano].into_iter().find(|ns| *ns > 0);
            let line = record.body.as_ref().and_then(scalar).unwrap_or_default();
            // Beyond what can be said: the index puts it at the time when it was read, with a mark.
            let time_ns = time.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX));
            each(Line { text: line.as_bytes(), time_ns, metadata: Some(&metadata) }, bytes)?;
        }
    }
    Ok(())
}

fn of_record(mut meta: Meta, record: &LogRecord) -> Meta {
    meta.attributes(record.attributes.iter());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let is_set = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    if is_set(&record.trace_id) {
        meta.put("trace_id", hex(&record.trace_id));
    }
    if is_set(&record.span_id) {
        meta.put("span_id", hex(&record.span_id));
    }
    meta.put("severity_text", record.severity_text.clone());
    for (name, number) in [
        ("severity_number", u64::try_from(record.severity_number).unwrap_or_default()),
        ("flags", u64::from(record.flags)),
        ("observed_timestamp", record.observed_time_unix_nano),
        ("dropped_attributes_count", u64::from(record.dropped_attributes_count)),
    ] {
        if number > 0 {
            meta.put(name, number.to_string());
        }
    }
    meta
}

/// Metadata by its names; no more than one entry beyond what is allowed.
#[derive(Debug, Clone, Default)]
pub(super) struct Meta {
    entries: BTreeMap<String, String>,
    /// Bytes of all names and values.
    bytes: usize,
    /// Attributes that were left out, since there were too many already.
    left_out: usize,
}

impl Meta {
    fn is_over(&self) -> bool {
        self.bytes > MAX_METADATA_BYTES || self.entries.len() > MAX_METADATA || self.left_out > 0
    }

    /// What there is too much of.
    fn excess(&self) -> Option<String> {
        let (count, bytes) = (self.entries.len() + self.left_out, self.bytes);
        self.is_over().then(|| {
            format!(
                "{count} attributes or more with {bytes} bytes or more, {MAX_METADATA} with {MAX_METADATA_BYTES} are allowed"
            )
        })
    }

    fn put(&mut self, name: &str, value: String) {
        self.add(name.to_owned(), value);
    }

    fn add(&mut self, name: String, value: String) {
        if value.is_empty() {
            return;
        }
        if self.is_over() {
            self.left_out += 1;
            return;
        }
        let length = name.len();
        self.bytes += length + value.len();
        if let Some(before) = self.entries.insert(name, value) {
            self.bytes -= length + before.len();
        }
    }

    fn attributes<'a>(&mut self, attributes: impl Iterator<Item = &'a KeyValue>) {
        for attribute in attributes {
            if let Some(value) = &attribute.value {
                self.attribute("", &attribute.key, value, 0);
            }
        }
    }

    fn attribute(&mut self, prefix: &str, key: &str, value: &AnyValue, depth: usize) {
        // A long name would be copied for every attribute below it.
        if self.is_over() || prefix.len() + key.len() > MAX_METADATA_BYTES {
            self.left_out += 1;
            return;
        }
        let name = format!("{prefix}{}", plain(key));
        match &value.value {
            Some(Any::KvlistValue(list)) if depth < MAX_DEPTH => {
                let prefix = format!("{name}_");
                for pair in &list.values {
                    if let Some(value) = &pair.value {
                        self.attribute(&prefix, &pair.key, value, depth + 1);
                    }
                }
            }
            _ => {
                if let Some(text) = scalar(value) {
                    self.add(name, text);
                }
            }
        }
    }
}

/// A name that LogQL can ask for: other characters become `_`, a digit in front gets `key_`.
pub(super) fn plain(name: &str) -> String {
    plain_name(name, "key_")
}

/// A value as one text: what is no text becomes JSON.
fn scalar(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        _ => Some(json(value, 0).to_string()),
    }
}

fn json(value: &AnyValue, depth: usize) -> Json {
    if depth > MAX_DEPTH {
        return Json::from("…");
    }
    match &value.value {
        None => Json::Null,
        Some(Any::StringValue(text)) => text.as_str().into(),
        Some(Any::BoolValue(yes)) => (*yes).into(),
        Some(Any::IntValue(number)) => (*number).into(),
        Some(Any::DoubleValue(number)) => (*number).into(),
        Some(Any::ArrayValue(list)) => list.values.iter().map(|value| json(value, depth + 1)).collect(),
        Some(Any::KvlistValue(list)) => {
            let pair = |pair: &KeyValue| {
                let value = pair.value.as_ref().map_or(Json::Null, |value| json(value, depth + 1));
                (pair.key.clone(), value)
            };
            Json::Object(list.values.iter().map(pair).collect())
        }
        Some(Any::BytesValue(bytes)) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
        #[allow(unreachable_patterns)] // newer messages may have more
        Some(_) => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use millrace_log::push::DecodeBudget;
    use opentelemetry_proto::tonic::logs::v1::ScopeLogs;

    use super::super::otlp_cost::{ATTRIBUTE, RESOURCE_LOGS};
    use super::*;

    /// A message with a field of two bytes, many times.
    fn many(outer: &[u32], times: usize) -> Bytes {
        let mut message = b"\x0a\x00".repeat(times);
        for field in outer {
            let mut whole = Vec::new();
            prost::encoding::encode_key(*field, prost::encoding::WireType::LengthDelimited, &mut whole);
            prost::encoding::encode_varint(message.len() as u64, &mut whole);
            whole.extend(message);
            message = whole;
        }
        message.into()
    }

    #[test]
    fn elements_of_two_bytes_are_refused_before_they_are_made() {
        let json = |text: &str| Bytes::from(text.replace('#', &vec!["{}"; 20_000].join(",")));
        for (name, body, is_json) in [
            ("resources", many(&[], 20_000), false),
            ("attributes of the resource", many(&[1, 1], 20_000), false),
            ("resources, JSON", json(r#"{"resourceLogs":[#]}"#), true),
            ("records, JSON", json(r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[#]}]}]}"#), true),
        ] {
            let budget = DecodeBudget::new(1 << 20);
            let refusal = read_export(body, is_json, &mut budget.begin()).err().unwrap();
            assert_eq!(refusal.status, StatusCode::PAYLOAD_TOO_LARGE, "{name}: {}", refusal.text);
            assert!(refusal.text.contains("limits.decode_memory"), "{name}: {}", refusal.text);
            assert_eq!(budget.state().0, 0, "{name}");
        }
        let few = read_export(many(&[], 20), false, &mut DecodeBudget::new(1 << 20).begin()).unwrap();
        assert_eq!(few.resource_logs.len(), 20);
    }

    #[test]
    fn what_is_reserved_covers_what_decoding_takes() {
        let export = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                scope_logs: vec![ScopeLogs { log_records: vec![LogRecord::default(); 1000], ..ScopeLogs::default() }],
                ..ResourceLogs::default()
            }],
        };
        let cost = protobuf::cost(&export.encode_to_vec(), &EXPORT).unwrap();
        // The list has room for twice as many while it grows.
        assert!(cost >= 2 * 1000 * std::mem::size_of::<LogRecord>() as u64, "{cost}");
        assert!(RESOURCE_LOGS.bytes >= 2 * std::mem::size_of::<ResourceLogs>() as u64);
        assert!(ATTRIBUTE.bytes >= 2 * std::mem::size_of::<KeyValue>() as u64);
    }
}
