//! `type: otlp`: OpenTelemetry's logs by HTTP (`POST /v1/logs`, protobuf or JSON) and gRPC.
//!
//! In: requests through [`super::request`]; each of the two addresses takes both protocols. Out: one batch for each. Touches
//! nothing itself. Specification: <https://opentelemetry.io/docs/specs/otlp/>. Attributes become labels and metadata as
//! in Loki's own endpoint: <https://grafana.com/docs/loki/latest/send-data/otel/>.
//!
//! | of a record | becomes |
//! |---|---|
//! | body | the line; what is no text as JSON |
//! | time, else observed time, else now | event time |
//! | attributes of the resource that `resource_labels` names | labels, `.` as `_` |
//! | other attributes of resource, scope (with `scope_name`, `scope_version`) and record | metadata, maps flattened |
//! | `trace_id`, `span_id`, `severity_text`, `severity_number`, `flags`, `observed_timestamp` | metadata |

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, header};
use millrace_doors::access::Access;
use millrace_doors::refusal::Refusal;
use millrace_doors::serve::HttpListener;
use millrace_doors::tenant::TENANT_HEADER;
use millrace_log::push::{Packed, Reserved, unpack};
use millrace_log::push::{json, protobuf};
use millrace_log::record::{Labels, MAX_LABEL_BYTES, MAX_LABELS, Tenant};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use prost::Message;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

use super::grpc::{self, code_of, status};
use super::intake::{Batch, Intake};
use super::otlp_cost::{ELEMENT_BYTES, EXPORT};
use super::receiver::Stream;
use super::records::Line;
use super::request::{Address, Terms, header_text, routes, serve, with_body};
use super::source::PushSource;
use crate::config::push::{OtlpSource, otlp_name};
use crate::error::AgentError;
use crate::name::plain_name;

const PATH: &str = "/v1/logs";
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Bytes in front of a message of gRPC.
const GRPC_FRAME: u64 = 5;
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// Levels of maps and arrays in an attribute or a body.
const MAX_DEPTH: usize = 32;
/// Entries of an event's metadata at most, as in Loki.
const MAX_METADATA: usize = 128;
/// Bytes of all of them at most, as in Loki.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// The source, bound.
pub(super) struct Otlp {
    listeners: Vec<HttpListener>,
    name: String,
    resource_labels: Vec<(String, String)>,
    terms: Terms,
}

#[derive(Clone)]
struct Handler {
    /// Attribute and label.
    resource_labels: Arc<[(String, String)]>,
    terms: Terms,
    intake: Intake,
}

impl Otlp {
    /// Binds. Blocks.
    pub fn open(config: &OtlpSource, access: Option<&Access>) -> Result<Self, AgentError> {
        let name = otlp_name(config);
        let mut listeners = Vec::new();
        for (key, listen) in [("http", &config.http), ("grpc", &config.grpc)] {
            if listen.is_empty() {
                continue;
            }
            let address = Address {
                name: &name,
                key,
                listen,
                tls: config.tls.as_ref(),
                auth: &config.auth,
                access,
                tenant: &config.tenant,
                limits: &config.limits,
                // Each takes both protocols, and messages of gRPC are bounded by their decompressed size.
                max_body: config.limits.max_body.0.max(config.limits.max_body_unpacked.0.saturating_add(GRPC_FRAME)),
                tenants: Some(TENANT_HEADER),
                render: refuse,
            };
            listeners.push(address.open()?);
        }
        let terms = Terms::new(&config.limits);
        let resource_labels = config.resource_labels.iter().map(|name| (name.clone(), plain(name))).collect();
        Ok(Self { listeners, name, resource_labels, terms })
    }
}

#[async_trait]
impl PushSource for Otlp {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let handler = Handler { resource_labels: self.resource_labels.into(), terms: self.terms, intake };
        let routes = routes(handler.intake.clone(), move |request: Request<Body>| {
            let handler = handler.clone();
            async move { handler.answer(request).await }
        });
        let name = self.name.as_str();
        let listeners = self.listeners.into_iter();
        let serving = listeners.map(|listener| serve(name, listener, routes.clone(), stop.clone()));
        futures::future::try_join_all(serving).await.map(drop)
    }
}

impl Handler {
    async fn answer(&self, request: Request<Body>) -> Response {
        match Protocol::of(request.headers()) {
            Protocol::Grpc => self.grpc(request).await,
            protocol => match self.push(request, protocol == Protocol::Json).await {
                Ok(done) => answer(&done, protocol == Protocol::Json),
                Err(refusal) => fault(refusal, protocol == Protocol::Json),
            },
        }
    }
}

/// What a request speaks, as its `Content-Type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Json,
    /// Also whatever is refused later.
    Protobuf,
}

impl Protocol {
    fn of(headers: &HeaderMap) -> Self {
        let kind = header_text(headers, header::CONTENT_TYPE.as_str());
        if kind.starts_with("application/grpc") {
            Self::Grpc
        } else if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON) {
            Self::Json
        } else {
            Self::Protobuf
        }
    }
}

/// Refusals before a request is read, as its protocol has them.
fn refuse(head: &Parts, refusal: Refusal) -> Response {
    match Protocol::of(&head.headers) {
        Protocol::Grpc => status(&refusal).into_http::<tonic::body::Body>().map(Body::new),
        protocol => fault(refusal, protocol == Protocol::Json),
    }
}

/// Why records were refused while others went in.
#[derive(Default)]
struct Partial {
    rejected: i64,
    text: String,
}

impl Partial {
    fn reject(&mut self, count: usize, text: impl FnOnce() -> String) {
        if count > 0 && self.text.is_empty() {
            self.text = text();
        }
        self.rejected += i64::try_from(count).unwrap_or(i64::MAX);
    }

    fn response(self) -> ExportLogsServiceResponse {
        let partial = ExportLogsPartialSuccess { rejected_log_records: self.rejected, error_message: self.text };
        ExportLogsServiceResponse { partial_success: (partial.rejected_log_records > 0).then_some(partial) }
    }
}

fn answer(response: &ExportLogsServiceResponse, json: bool) -> Response {
    if json {
        let body = serde_json::to_vec(response).unwrap_or_else(|_| b"{}".to_vec());
        return with_body(StatusCode::OK, JSON, body);
    }
    with_body(StatusCode::OK, PROTOBUF, response.encode_to_vec())
}

/// `google.rpc.Status`, as far as OTLP uses it.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn fault(refusal: Refusal, json: bool) -> Response {
    let (code, message) = (code_of(&refusal) as i32, refusal.text.clone());
    let (kind, body) = if json {
        (JSON, serde_json::json!({"code": code, "message": message}).to_string().into_bytes())
    } else {
        (PROTOBUF, RpcStatus { code, message }.encode_to_vec())
    };
    let mut answer = with_body(refusal.status, kind, body);
    refusal.put_headers(&mut answer);
    answer
}

impl Handler {
    async fn push(&self, request: Request<Body>, json: bool) -> Result<ExportLogsServiceResponse, Refusal> {
        if request.uri().path() != PATH {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("no such path: logs go to {PATH}")));
        }
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "logs are sent by POST"));
        }
        let kind = header_text(request.headers(), header::CONTENT_TYPE.as_str());
        if !json && !kind.starts_with(PROTOBUF) {
            let text = format!("Content-Type is `{kind}`: expected {PROTOBUF} or {JSON}");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let (head, body) = request.into_parts();
        let whose = head.extensions.get::<Tenant>().cloned();
        let packed = Packed::of(header_text(&head.headers, header::CONTENT_ENCODING.as_str()))?;
        let mut batch = self.intake.batch();
        let body = self.terms.read(body, &mut batch).await?;
        let size = if packed == Packed::No { body.len() } else { usize::MAX };
        let mut memory = self.terms.budget.begin();
        let handler = self.clone();
        let (batch, partial, _memory) = self
            .terms
            .decode(size, move || {
                let body = unpack(body, packed, handler.terms.limits.max_body_unpacked.0, &mut memory)?;
                let export = read_export(body, json, &mut memory)?;
                let (batch, partial) = handler.fill(batch, export, whose.as_ref());
                Ok((batch, partial, memory))
            })
            .await?;
        self.terms.deliver(batch).await?;
        Ok(partial.response())
    }

    async fn grpc(&self, request: Request<Body>) -> Response {
        if request.uri().path() != GRPC_PATH {
            return tonic::Status::unimplemented(format!("no such method: logs go to {GRPC_PATH}"))
                .into_http::<tonic::body::Body>()
                .map(Body::new);
        }
        let max = usize::try_from(self.terms.limits.max_body_unpacked.0).unwrap_or(usize::MAX);
        let handler = self.clone();
        grpc::unary(request, max, &self.terms.budget, move |message, extensions, memory| async move {
            handler.export(message, &extensions, memory).await.map_err(|refusal| status(&refusal))
        })
        .await
    }

    /// One message of gRPC.
    async fn export(
        &self,
        message: Bytes,
        extensions: &http::Extensions,
        mut memory: Reserved,
    ) -> Result<Bytes, Refusal> {
        let whose = extensions.get::<Tenant>().cloned();
        let (handler, batch) = (self.clone(), self.intake.batch());
        let filled = self.terms.decode(message.len(), move || {
            let export = read_export(message, false, &mut memory)?;
            let (batch, partial) = handler.fill(batch, export, whose.as_ref());
            Ok((batch, partial, memory))
        });
        let (batch, partial, _memory) = filled.await?;
        self.terms.deliver(batch).await?;
        Ok(partial.response().encode_to_vec().into())
    }

    /// Puts what can be used into the batch, and says why the rest can't.
    fn fill(&self, mut batch: Batch, export: ExportLogsServiceRequest, tenant: Option<&Tenant>) -> (Batch, Partial) {
        let mut partial = Partial::default();
        for resource in export.resource_logs {
            let count = || resource.scope_logs.iter().map(|scope| scope.log_records.len()).sum();
            let (labels, metadata) = self.resource(&resource);
            match self.intake.stream(&labels, tenant) {
                Ok(stream) => fill_resource(&mut batch, &stream, resource, metadata, &mut partial),
                Err(why) => partial.reject(count(), || why.to_string()),
            }
        }
        (batch, partial)
    }

    /// Labels of a resource, and its other attributes.
    fn resource(&self, logs: &ResourceLogs) -> (Labels, Meta) {
        let mut metadata = Meta::default();
        let attributes = logs.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
        let mut labels = BTreeMap::new();
        let mut bytes = 0;
        // In the order of the configuration, so that the first names win where there are too many.
        for (name, label) in self.resource_labels.iter() {
            let found = attributes.iter().find(|attribute| attribute.key == *name);
            let Some(value) = found.and_then(|attribute| scalar(attribute.value.as_ref()?)) else { continue };
            bytes += label.len() + value.len();
            if labels.len() < MAX_LABELS && bytes <= MAX_LABEL_BYTES {
                labels.insert(label.clone(), value);
            } else {
                bytes -= label.len() + value.len();
                metadata.0.insert(label.clone(), value);
            }
        }
        let is_label = |attribute: &&KeyValue| labels.contains_key(&plain(&attribute.key));
        metadata.attributes("", attributes.iter().filter(|attribute| !is_label(attribute)));
        if labels.is_empty() {
            // As Loki names what does not say who it is.
            labels.insert("service_name".to_owned(), "unknown_service".to_owned());
        }
        (Labels::new(labels), metadata)
    }
}

/// What is made of a body, after its memory was reserved.
fn read_export(body: Bytes, json: bool, memory: &mut Reserved) -> Result<ExportLogsServiceRequest, Refusal> {
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

fn fill_resource(batch: &mut Batch, stream: &Stream, logs: ResourceLogs, of_resource: Meta, partial: &mut Partial) {
    for scope_logs in logs.scope_logs {
        let mut of_scope = of_resource.clone();
        if let Some(scope) = &scope_logs.scope {
            of_scope.attributes("", scope.attributes.iter());
            of_scope.put("scope_name", scope.name.clone());
            of_scope.put("scope_version", scope.version.clone());
        }
        // It is copied for each record: nobody pays for millions of them.
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
            let metadata = Labels::new(metadata.0);
            let time = [record.time_unix_nano, record.observed_time_unix_nano].into_iter().find(|ns| *ns > 0);
            let line = record.body.as_ref().and_then(scalar).unwrap_or_default();
            // Beyond what can be said: the index puts it at the time when it was read, with a mark.
            let time_ns = time.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX));
            batch.push(stream, Line { text: line.as_bytes(), time_ns, metadata: Some(&metadata) });
        }
    }
}

fn of_record(mut meta: Meta, record: &LogRecord) -> Meta {
    meta.attributes("", record.attributes.iter());
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

/// Metadata by its names.
#[derive(Debug, Clone, Default)]
struct Meta(BTreeMap<String, String>);

impl Meta {
    /// What there is too much of.
    fn excess(&self) -> Option<String> {
        let (count, bytes) = (self.0.len(), self.0.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
        (bytes > MAX_METADATA_BYTES || count > MAX_METADATA).then(|| {
            format!("{count} attributes with {bytes} bytes, {MAX_METADATA} with {MAX_METADATA_BYTES} are allowed")
        })
    }

    fn put(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(name.to_owned(), value);
        }
    }

    fn attributes<'a>(&mut self, prefix: &str, attributes: impl Iterator<Item = &'a KeyValue>) {
        for attribute in attributes {
            if let Some(value) = &attribute.value {
                self.attribute(format!("{prefix}{}", plain(&attribute.key)), value, 0);
            }
        }
    }

    fn attribute(&mut self, name: String, value: &AnyValue, depth: usize) {
        match &value.value {
            Some(Any::KvlistValue(list)) if depth < MAX_DEPTH => {
                for pair in &list.values {
                    if let Some(value) = &pair.value {
                        self.attribute(format!("{name}_{}", plain(&pair.key)), value, depth + 1);
                    }
                }
            }
            _ => {
                if let Some(text) = scalar(value).filter(|text| !text.is_empty()) {
                    self.0.insert(name, text);
                }
            }
        }
    }
}

/// A name that LogQL can ask for: other characters become `_`, a digit in front gets `key_`.
fn plain(name: &str) -> String {
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
