//! `type: otlp`: OpenTelemetry's logs by HTTP (`POST /v1/logs`, protobuf or JSON) and gRPC.
//!
//! In: requests through [`super::request`]; each of the two addresses takes both protocols. Out: one batch for each. Touches
//! nothing itself. Leaves what is in a message to `otlp_records.rs`.
//! Specification: <https://opentelemetry.io/docs/specs/otlp/>.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, header};
use millrace_doors::access::Access;
use millrace_doors::identity::Client;
use millrace_doors::refusal::Refusal;
use millrace_doors::serve::HttpListener;
use millrace_doors::tenant::TENANT_HEADER;
use millrace_log::push::{Packed, Reserved, unpack};
use millrace_log::record::Tenant;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::grpc::{self, code_of, status};
use super::intake::{Batch, Intake};
use super::otlp_records::{Partial, describe, plain, read_export, records};
use super::request::{Address, Terms, header_text, routes, serve, with_body};
use super::source::PushSource;
use crate::config::push::{OtlpSource, otlp_name};
use crate::error::AgentError;

const PATH: &str = "/v1/logs";
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Bytes in front of a message of gRPC.
const GRPC_FRAME: u64 = 5;
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

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

fn response(partial: Partial) -> ExportLogsServiceResponse {
    let partial = ExportLogsPartialSuccess { rejected_log_records: partial.rejected, error_message: partial.text };
    ExportLogsServiceResponse { partial_success: (partial.rejected_log_records > 0).then_some(partial) }
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
    /// The same for the client that sent a request.
    fn of(&self, extensions: &http::Extensions) -> Self {
        Self { intake: self.intake.of(extensions.get::<Client>().cloned()), ..self.clone() }
    }

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
        let handler = self.of(&head.extensions);
        let (batch, partial, _memory) = self
            .terms
            .decode(size, move || {
                let body = unpack(body, packed, handler.terms.limits.max_body_unpacked.0, &mut memory)?;
                let export = read_export(body, json, &mut memory)?;
                let (batch, partial) = handler.fill(batch, export, whose.as_ref(), &mut memory)?;
                Ok((batch, partial, memory))
            })
            .await?;
        self.terms.deliver(batch).await?;
        Ok(response(partial))
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
        let (handler, batch) = (self.of(extensions), self.intake.batch());
        let filled = self.terms.decode(message.len(), move || {
            let export = read_export(message, false, &mut memory)?;
            let (batch, partial) = handler.fill(batch, export, whose.as_ref(), &mut memory)?;
            Ok((batch, partial, memory))
        });
        let (batch, partial, _memory) = filled.await?;
        self.terms.deliver(batch).await?;
        Ok(response(partial).encode_to_vec().into())
    }

    /// Puts what can be used into the batch, and says why the rest can't. Each record has all attributes of its resource and scope:
    /// their memory is reserved as they are copied.
    fn fill(
        &self,
        mut batch: Batch,
        export: ExportLogsServiceRequest,
        tenant: Option<&Tenant>,
        memory: &mut Reserved,
    ) -> Result<(Batch, Partial), Refusal> {
        let mut partial = Partial::default();
        for resource in export.resource_logs {
            let described = describe(&resource, &self.resource_labels);
            let stream = match self.intake.stream(&described.labels, tenant) {
                Ok(stream) => stream,
                Err(why) => {
                    let count = resource.scope_logs.iter().map(|scope| scope.log_records.len()).sum();
                    partial.reject(count, || why.to_string());
                    continue;
                }
            };
            records(resource, described.metadata, &mut partial, |line, metadata_bytes| {
                memory.grow((line.text.len() + metadata_bytes) as u64)?;
                batch.push(&stream, line);
                Ok(())
            })?;
        }
        Ok((batch, partial))
    }
}
