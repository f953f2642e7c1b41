//! `type: http`: lines, NDJSON and JSON arrays by POST, answered with 204 when the log has them.
//!
//! In: requests through [`super::request`]. Out: one batch for each. Touches nothing itself. A request is taken whole or not
//! at all: whatever in it can't be used is an answer of 400 that names it by its place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, header};
use memchr::{memchr, memchr_iter};
use millrace_doors::access::Access;
use millrace_doors::identity::Client;
use millrace_doors::refusal::{Refusal, plain};
use millrace_doors::serve::HttpListener;
use millrace_log::push::json::elements;
use millrace_log::push::{Packed, unpack};
use millrace_log::record::{Labels, Tenant};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::intake::{Batch, Intake};
use super::records::Line;
use super::request::{Address, Terms, header_text, routes, serve, taken};
use super::source::PushSource;
use super::streams::Stream;
use crate::config::push::{BodyFormat, HttpSource, name_of};
use crate::error::AgentError;

/// What an element of a body takes in memory at most, besides its bytes.
const ELEMENT_BYTES: u64 = 128;

/// The source, bound.
pub(super) struct Http {
    listener: HttpListener,
    name: String,
    config: Arc<HttpSource>,
    terms: Terms,
}

struct Handler {
    config: Arc<HttpSource>,
    terms: Terms,
    intake: Intake,
}

impl Http {
    /// Binds. Blocks.
    pub fn open(config: &HttpSource, access: Option<&Access>) -> Result<Self, AgentError> {
        let name = name_of(&config.name, "http", &config.listen);
        let tenants = match config.tenant_header.as_str() {
            "" => None,
            header => Some(HeaderName::try_from(header).map_err(|error| AgentError::Setting {
                key: format!("sources[{name}].tenant_header"),
                reason: error.to_string(),
            })?),
        };
        let address = Address {
            name: &name,
            key: "listen",
            listen: &config.listen,
            tls: config.tls.as_ref(),
            auth: &config.auth,
            access,
            tenant: &config.tenant,
            limits: &config.limits,
            max_body: config.limits.max_body.0,
            tenants,
            render: plain,
        };
        let listener = address.open()?;
        let terms = Terms::new(&config.limits);
        Ok(Self { listener, name, config: Arc::new(config.clone()), terms })
    }
}

#[async_trait]
impl PushSource for Http {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let handler = Arc::new(Handler { config: self.config, terms: self.terms, intake });
        let intake = handler.intake.clone();
        let routes = routes(intake, move |request: Request<Body>| {
            let handler = Arc::clone(&handler);
            async move { taken(handler.push(request).await) }
        });
        serve(&self.name, self.listener, routes, stop).await
    }
}

impl Handler {
    async fn push(&self, request: Request<Body>) -> Result<(), Refusal> {
        if request.uri().path() != self.config.path {
            let text = format!("no such path: push to {}", self.config.path);
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        }
        if !matches!(*request.method(), Method::POST | Method::PUT) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use POST"));
        }
        let (head, body) = request.into_parts();
        let tenant = head.extensions.get::<Tenant>().cloned();
        let intake = self.intake.of(head.extensions.get::<Client>().cloned());
        let packed = Packed::of(header_text(&head.headers, header::CONTENT_ENCODING.as_str()))?;
        let format = format_of(self.config.format, header_text(&head.headers, header::CONTENT_TYPE.as_str()));
        let labels = request_labels(&self.config, &head.headers, &head.uri);
        let mut batch = self.intake.batch();
        let body = self.terms.read(body, &mut batch).await?;
        let size = if packed == Packed::No { body.len() } else { usize::MAX };
        let mut memory = self.terms.budget.begin();
        let config = Arc::clone(&self.config);
        let (batch, _memory) = self
            .terms
            .decode(size, move || {
                let body = unpack(body, packed, config.limits.max_body_unpacked.0, &mut memory)?;
                memory.grow(cost(&body, format))?;
                let mut reader = BodyReader { config: &config, intake: &intake, batch, tenant, labels, last: None };
                reader.read(&body, format)?;
                Ok((reader.batch, memory))
            })
            .await?;
        self.terms.deliver(batch).await
    }
}

/// Memory that a body takes once it is a batch: that of its elements, each a record at most, besides its bytes.
fn cost(body: &[u8], format: BodyFormat) -> u64 {
    let elements = match format {
        BodyFormat::Json => elements(body),
        BodyFormat::Text | BodyFormat::Ndjson | BodyFormat::Auto => memchr_iter(b'\n', body).count() as u64,
    };
    elements.saturating_mul(ELEMENT_BYTES).saturating_add(body.len() as u64)
}

fn format_of(configured: BodyFormat, content_type: &str) -> BodyFormat {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match configured {
        BodyFormat::Auto if kind == "application/json" => BodyFormat::Json,
        BodyFormat::Auto if kind.ends_with("ndjson") || kind.ends_with("jsonlines") || kind.ends_with("jsonl") => {
            BodyFormat::Ndjson
        }
        BodyFormat::Auto => BodyFormat::Text,
        given => given,
    }
}

/// Labels that the whole request has.
fn request_labels(config: &HttpSource, headers: &HeaderMap, uri: &Uri) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (label, name) in &config.label_headers {
        labels.insert(label.clone(), header_text(headers, name).to_owned());
    }
    if !config.label_params.is_empty() {
        let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        for (label, name) in &config.label_params {
            if let Some((_, value)) = pairs.iter().find(|(found, _)| found == name) {
                labels.insert(label.clone(), value.clone().into_owned());
            }
        }
    }
    labels
}

/// Reads one body into a batch.
struct BodyReader<'c> {
    config: &'c HttpSource,
    intake: &'c Intake,
    batch: Batch,
    tenant: Option<Tenant>,
    labels: BTreeMap<String, String>,
    /// Values of `label_fields` and their stream: neighbours mostly share it.
    last: Option<(Vec<String>, Stream)>,
}

impl BodyReader<'_> {
    fn read(&mut self, body: &Bytes, format: BodyFormat) -> Result<(), Refusal> {
        match format {
            BodyFormat::Json => self.json(body),
            BodyFormat::Ndjson => self.lines(body, true),
            BodyFormat::Text | BodyFormat::Auto => self.lines(body, false),
        }
    }

    fn lines(&mut self, body: &[u8], json: bool) -> Result<(), Refusal> {
        let (mut rest, mut number) = (body, 0);
        while !rest.is_empty() {
            number += 1;
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
            if json && line.trim_ascii().is_empty() || line.is_empty() {
                continue;
            }
            if json {
                let value: &RawValue = serde_json::from_slice(line)
                    .map_err(|error| Refusal::bad(format!("line {number} of the body is not valid JSON: {error}")))?;
                self.value(value, &format!("line {number}"))?;
            } else {
                self.add(line, None, &format!("line {number}"))?;
            }
        }
        Ok(())
    }

    fn json(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let fault = |error: serde_json::Error| Refusal::bad(format!("body is not valid JSON: {error}"));
        if !body.trim_ascii_start().starts_with(b"[") {
            let value: &RawValue = serde_json::from_slice(body).map_err(fault)?;
            return self.value(value, "the body");
        }
        let values: Vec<&RawValue> = serde_json::from_slice(body).map_err(fault)?;
        for (i, value) in values.into_iter().enumerate() {
            self.value(value, &format!("element {i} of the array"))?;
        }
        Ok(())
    }

    /// A string is a line; anything else stays as it is written.
    fn value(&mut self, value: &RawValue, place: &str) -> Result<(), Refusal> {
        let json = value.get();
        if json.starts_with('"') {
            let text: String = serde_json::from_str(json).map_err(|error| Refusal::bad(format!("{place}: {error}")))?;
            return self.add(text.as_bytes(), None, place);
        }
        self.add(json.as_bytes(), Some(json), place)
    }

    fn add(&mut self, line: &[u8], json: Option<&str>, place: &str) -> Result<(), Refusal> {
        let fields = match json {
            Some(json) if !self.config.label_fields.is_empty() => {
                self.config.label_fields.values().map(|path| field(json, path).unwrap_or_default()).collect()
            }
            _ => Vec::new(),
        };
        let stream = match &self.last {
            Some((known, stream)) if *known == fields => stream.clone(),
            _ => {
                let names = self.config.label_fields.keys().cloned();
                let labels = Labels::new(self.labels.clone().into_iter().chain(names.zip(fields.iter().cloned())));
                let stream = self.intake.stream(&labels, self.tenant.as_ref());
                let stream = stream.map_err(|why| {
                    let mut refusal = Refusal::from(why);
                    refusal.text = format!("{place}: {}", refusal.text);
                    refusal
                })?;
                self.last = Some((fields, stream.clone()));
                stream
            }
        };
        self.batch.push(&stream, Line { text: line, ..Line::default() });
        Ok(())
    }
}

/// A field's value as a label has it: texts, numbers and booleans.
fn field(json: &str, path: &str) -> Option<String> {
    let mut at = json;
    for name in path.split('.') {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(at).ok()?;
        at = fields.get(name)?.get();
    }
    match at.as_bytes().first()? {
        b'"' => serde_json::from_str(at).ok(),
        b'{' | b'[' | b'n' => None,
        _ => Some(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_path() {
        let json = r#"{"a":"x","b":{"c":5,"d.e":true,"f":null,"g":[1]},"h\"":"y"}"#;
        for (path, want) in [
            ("a", Some("x")),
            ("b.c", Some("5")),
            ("b", None),
            ("b.f", None),
            ("b.g", None),
            ("a.b", None),
            ("z", None),
        ] {
            assert_eq!(field(json, path).as_deref(), want, "{path}");
        }
    }

    #[test]
    fn formats_follow_the_content_type() {
        use BodyFormat as F;
        for (configured, kind, want) in [
            (F::Auto, "application/json; charset=utf-8", F::Json),
            (F::Auto, "application/x-ndjson", F::Ndjson),
            (F::Auto, "application/jsonl", F::Ndjson),
            (F::Auto, "text/plain", F::Text),
            (F::Auto, "", F::Text),
            (F::Ndjson, "application/json", F::Ndjson),
        ] {
            assert_eq!(format_of(configured, kind), want, "{configured:?} {kind}");
        }
    }
}
