//! A push by HTTP, from its body to its answer: memory for the body, decoding, waiting for the log.
//!
//! In: bodies of requests that a listener of `millrace-doors` let in. Out: batches through the intake, answers. Touches
//! nothing itself. Leaves what bodies mean, and how errors read, to the sources.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::handler::Handler;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use millrace_doors::access::Access;
use millrace_doors::browser::Bodies;
use millrace_doors::config::{ConnectionLimits, Login, RequestLimits, TlsConfig};
use millrace_doors::limits::{body_refusal, too_large};
use millrace_doors::refusal::{Refusal, Render};
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_doors::serve::{HttpListener, HttpSettings, OpenError};
use millrace_doors::tenant::TenantRule;
use millrace_log::push::DecodeBudget;
use millrace_log::record::Tenant;
use tokio_util::sync::CancellationToken;

use super::intake::{Batch, Intake};
use super::rejected::Rejected;
use crate::config::push::PushLimits;
use crate::error::AgentError;

/// How long a push waits for room before its client is asked to come again.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// Bodies above this are decoded on a thread for blocking work.
const DECODE_INLINE: usize = 32 << 10;
/// The key of the limit of bodies.
const MAX_BODY_KEY: &str = "limits.max_body";

impl From<Rejected> for Refusal {
    fn from(why: Rejected) -> Self {
        let (status, retry_after) = match &why {
            Rejected::Full { .. } => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Rejected::TooManyStreams { .. } => (StatusCode::TOO_MANY_REQUESTS, Some(60)),
            Rejected::NotReady | Rejected::Stopping | Rejected::State { .. } | Rejected::Spool => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(5))
            }
            Rejected::Labels { .. } | Rejected::Order { .. } => (StatusCode::BAD_REQUEST, None),
        };
        let mut refusal = Self::new(status, why.to_string());
        refusal.retry_after = retry_after;
        refusal
    }
}

/// An answer with a body.
pub(super) fn with_body(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// A header's text; empty if it has none.
pub(super) fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// Limits of a source's pushes.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub limits: PushLimits,
    /// Memory for decoding, shared by all endpoints of the process.
    pub budget: DecodeBudget,
}

impl Terms {
    /// With the budget of the process.
    pub fn new(limits: &PushLimits) -> Self {
        Self { limits: limits.clone(), budget: DecodeBudget::of_process() }
    }

    /// Reads a body; its memory is the batch's.
    pub async fn read(&self, mut body: Body, batch: &mut Batch) -> Result<Bytes, Refusal> {
        let limit = self.limits.max_body.0;
        if let Some(found) = body.size_hint().exact().filter(|found| *found > limit) {
            return Err(too_large(found, limit, MAX_BODY_KEY));
        }
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| body_refusal(&error, limit, MAX_BODY_KEY))?;
            let Ok(data) = frame.into_data() else { continue };
            let found = read.len() + data.len();
            if found as u64 > limit {
                return Err(too_large(found as u64, limit, MAX_BODY_KEY));
            }
            if !batch.reserve(found) {
                return Err(Rejected::Full { what: "memory (agent.max_waiting_bytes)" }.into());
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    }

    /// Runs what takes the CPU where it may.
    pub async fn decode<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        if size <= DECODE_INLINE {
            return work();
        }
        let broken = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "body could not be read: this is a bug");
        tokio::task::spawn_blocking(work).await.map_err(broken)?
    }

    /// Ends when the log has the batch.
    pub async fn deliver(&self, batch: Batch) -> Result<(), Refusal> {
        if batch.is_empty() {
            return Ok(());
        }
        let receipt = batch.send_within(ROOM_WAIT).await?;
        match tokio::time::timeout(self.limits.answer_timeout.0, receipt.acknowledged()).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                let text = "log did not take the push in time (limits.answer_timeout): try again";
                let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text);
                refusal.retry_after = Some(5);
                Err(refusal)
            }
        }
    }
}

/// The address of a source, and who may push there.
pub(super) struct Address<'c> {
    /// The source.
    pub name: &'c str,
    /// The key that sets `listen`.
    pub key: &'static str,
    pub listen: &'c str,
    pub tls: Option<&'c TlsConfig>,
    pub auth: &'c Login,
    /// Whom all HTTP endpoints of the process let in; not where the source has a login of its own.
    pub access: Option<&'c Access>,
    /// Tenant of records whose request names none; empty: the default one.
    pub tenant: &'c str,
    pub limits: &'c PushLimits,
    /// Bytes of a body at most, whatever its protocol.
    pub max_body: u64,
    /// Header that names the tenant.
    pub tenants: Option<http::HeaderName>,
    pub render: Render,
}

impl Address<'_> {
    /// Binds. Blocks.
    pub fn open(self) -> Result<HttpListener, AgentError> {
        let Self { name, key, limits, .. } = self;
        let mut settings = HttpSettings::new(name, key, self.listen);
        settings.tls = self.tls.cloned();
        settings.login = self.auth.clone();
        settings.access = self.access.filter(|_| self.auth.is_open()).cloned();
        let implied = Tenant::new(self.tenant).unwrap_or_default();
        settings.tenants = TenantRule { header: self.tenants, default: None, implied };
        let within = limits.read_timeout.0;
        settings.connections = ConnectionLimits {
            max: limits.max_connections,
            max_per_address: limits.max_connections,
            head: within,
            idle: within,
            // The agent bounds its stop itself (`agent.shutdown_timeout`).
            drain: None,
            ..ConnectionLimits::default()
        };
        settings.requests = RequestLimits {
            max_body: self.max_body,
            max_body_key: MAX_BODY_KEY,
            body_wait: within,
            body_rate: 0,
            body_wait_key: "limits.read_timeout",
            // Memory bounds them (`agent.max_waiting_bytes`).
            max_concurrent: usize::MAX,
        };
        settings.render = self.render;
        let wrong = |key: &str, reason: String| AgentError::Setting { key: format!("sources[{name}].{key}"), reason };
        let listener = HttpListener::open(settings).map_err(|error| match error {
            OpenError::InUse { source, address, .. } | OpenError::Bind { source, address, .. } => {
                AgentError::Listen { name: name.to_owned(), key, address, source }
            }
            OpenError::Tls { source, .. } => wrong("tls", source.to_string()),
            OpenError::Login { source, .. } => wrong("auth", source.to_string()),
            exposed @ OpenError::Exposed { .. } => wrong(key, exposed.to_string()),
        })?;
        let bound = listener.address();
        tracing::info!(source = name, %bound, tls = listener.has_tls(), "listening for pushes");
        Ok(listener)
    }
}

/// Answers by routes until `stop`.
pub(super) async fn serve(
    name: &str,
    listener: HttpListener,
    routes: Routes,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let address: SocketAddr = listener.address();
    let failed =
        |source| AgentError::Listen { name: name.to_owned(), key: "listen", address: address.to_string(), source };
    listener.serve(routes, stop).await.map_err(failed)
}

/// The answer to a push that says no more than whether it was taken.
pub(super) fn taken(push: Result<(), Refusal>) -> Response {
    match push {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(refusal) => refusal.answer(),
    }
}

/// What a source answers: pushes, and `GET /ready` for probes of an orchestrator, which carry no login.
pub(super) fn routes<H, T>(intake: Intake, push: H) -> Routes
where
    H: Handler<T, ()>,
    T: 'static,
{
    let ready = move || {
        let (kind, ready) = ("text/plain; charset=utf-8", intake.ready());
        async move {
            match ready {
                Ok(()) => with_body(StatusCode::OK, kind, "ready\n"),
                Err(why) => with_body(StatusCode::SERVICE_UNAVAILABLE, kind, format!("not ready: {why}\n")),
            }
        }
    };
    // Lines are plain text; pages of other hosts are kept out by their `Origin`.
    Routes::new().on(Need::Public, Methods::Get, "/ready", ready).fallback(Need::Write(Bodies::Any), push)
}
