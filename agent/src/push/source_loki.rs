//! `type: loki`: Loki's push API, answered with 204 when the log has the entries.
//!
//! In: requests through [`super::request`]. Out: one batch for each. Touches nothing itself. Bodies, checks and their texts
//! are those of the aggregator's API ([`millrace_log::push::loki`]): what is valid goes in, and the answer names what is
//! not. Unlike there, an entry that equals another is not left out here: the agent keeps no lines to compare with.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use millrace_doors::access::Access;
use millrace_doors::identity::Client;
use millrace_doors::refusal::{Refusal, plain};
use millrace_doors::serve::HttpListener;
use millrace_doors::tenant::TENANT_HEADER;
use millrace_log::push::loki::{EntryLimits, Form, check, decode};
use millrace_log::record::{Labels, Tenant};
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::records::Line;
use super::rejected::Rejected;
use super::request::{Address, Terms, header_text, routes, serve, taken};
use super::source::PushSource;
use crate::config::push::{LokiSource, name_of};
use crate::error::AgentError;

const PATH: &str = "/loki/api/v1/push";

/// The source, bound.
pub(super) struct Loki {
    listener: HttpListener,
    name: String,
    limits: EntryLimits,
    terms: Terms,
}

struct Handler {
    limits: EntryLimits,
    terms: Terms,
    intake: Intake,
}

impl Loki {
    /// Binds. Blocks.
    pub fn open(config: &LokiSource, access: Option<&Access>) -> Result<Self, AgentError> {
        let name = name_of(&config.name, "loki", &config.listen);
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
            tenants: Some(TENANT_HEADER),
            render: plain,
        };
        let listener = address.open()?;
        let terms = Terms::new(&config.limits);
        let limits = EntryLimits {
            max_line: config.max_line_bytes.0,
            max_metadata: config.max_metadata.0,
            max_metadata_names: config.max_metadata_names,
        };
        Ok(Self { listener, name, limits, terms })
    }
}

#[async_trait]
impl PushSource for Loki {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let handler = Arc::new(Handler { limits: self.limits, terms: self.terms, intake });
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
        if request.uri().path() != PATH {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found"));
        }
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use POST"));
        }
        let (head, body) = request.into_parts();
        let whose = head.extensions.get::<Tenant>().cloned();
        let intake = self.intake.of(head.extensions.get::<Client>().cloned());
        let form = Form::of(
            header_text(&head.headers, header::CONTENT_TYPE.as_str()),
            header_text(&head.headers, header::CONTENT_ENCODING.as_str()),
        )?;
        let mut batch = self.intake.batch();
        let body = self.terms.read(body, &mut batch).await?;
        let mut memory = self.terms.budget.begin();
        let (limits, allowed) = (self.limits, self.terms.limits.max_body_unpacked.0);
        // Protobuf is packed by itself.
        let size = if form.json && form.packed == millrace_log::push::Packed::No { body.len() } else { usize::MAX };
        let (batch, faults, status, _memory) = self
            .terms
            .decode(size, move || {
                let streams = decode(body, &form, allowed, &mut memory)?;
                let mut status = StatusCode::BAD_REQUEST;
                let mut last = None;
                let faults = check(streams, &limits, |labels, entry| {
                    let stream = match &last {
                        Some((known, stream)) if known == labels => Clone::clone(stream),
                        _ => {
                            let stream = intake.stream(labels, whose.as_ref()).map_err(|why| {
                                if matches!(why, Rejected::TooManyStreams { .. }) {
                                    status = StatusCode::TOO_MANY_REQUESTS;
                                }
                                refusal_text(&why, labels, whose.as_ref())
                            })?;
                            last = Some((labels.clone(), stream.clone()));
                            stream
                        }
                    };
                    let line =
                        Line { text: &entry.line, time_ns: Some(entry.time_ns), metadata: Some(&entry.metadata) };
                    batch.push(&stream, line);
                    Ok(())
                });
                Ok((batch, faults, status, memory))
            })
            .await?;
        self.terms.deliver(batch).await?;
        if faults.is_empty() { Ok(()) } else { Err(Refusal::new(status, faults.join("\n"))) }
    }
}

/// Loki's own text where it has one.
fn refusal_text(why: &Rejected, labels: &Labels, tenant: Option<&Tenant>) -> String {
    let user = tenant.map_or(Tenant::DEFAULT, |tenant| tenant.as_str());
    match why {
        Rejected::TooManyStreams { .. } => format!(
            "maximum active stream limit exceeded when trying to create stream {labels}, reduce the number of active \
             streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can \
             be increased, user: '{user}'"
        ),
        why => why.to_string(),
    }
}
