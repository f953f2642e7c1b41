//! An HTTP door of a source: connections, TLS, logins, limits, and the ways in which every such source answers.
//!
//! In: connections. Out: requests to a [`Serve`], its answers. Touches the network and the certificates' files. Leaves
//! what bodies mean, and how errors read, to the sources.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use millrace_broker::tls::{Tls, TlsConfig};
use millrace_log::push::PushError;
use millrace_log::record::{RecordError, Tenant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::intake::{Batch, Intake};
use super::rejected::Rejected;
use crate::config::push::{PushAuth, PushLimits};
use crate::error::AgentError;

/// How long a push waits for room before it is told to come again.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// How long a client may take for its TLS handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often certificates are looked at.
pub(super) const CERTIFICATES: Duration = Duration::from_secs(10);
/// After a fault of accepting, as when there are no file handles left.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests of one connection at once (HTTP/2).
const MAX_CONCURRENT: u32 = 64;
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// Bodies above this are decoded on a thread for blocking work.
pub(super) const DECODE_INLINE: usize = 32 << 10;

/// Header that names the tenant, as in Loki and Mimir.
pub(super) const TENANT_HEADER: &str = "x-scope-orgid";

/// Body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// An answer.
pub(super) type Answer = Response<AnswerBody>;

/// Answers requests.
#[async_trait]
pub(super) trait Serve: Send + Sync + 'static {
    async fn serve(&self, request: Request<Incoming>) -> Answer;
}

/// Why a push was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub text: String,
    /// Seconds after which a repeat makes sense.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_after: None }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// As plain text.
    pub fn answer(self) -> Answer {
        let mut answer = text(self.status, self.text);
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic"));
        }
        answer
    }
}

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
        Self { status, text: why.to_string(), retry_after }
    }
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        let status = match error {
            PushError::Bad(_) => StatusCode::BAD_REQUEST,
            PushError::Empty(_) => StatusCode::UNPROCESSABLE_ENTITY,
            PushError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        };
        Self::new(status, error.to_string())
    }
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    with_body(status, "text/plain; charset=utf-8", Bytes::from(text.into()))
}

/// An answer with a body.
pub(super) fn with_body(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = text(status, "");
    answer.headers_mut().remove(header::CONTENT_TYPE);
    answer
}

/// A header's text; empty if it is none.
pub(super) fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// The tenant that a header names.
pub(super) fn tenant(headers: &HeaderMap, name: &str) -> Result<Option<Tenant>, Refusal> {
    match headers.get(name).filter(|_| !name.is_empty()) {
        None => Ok(None),
        Some(value) => {
            let found = Tenant::new(&String::from_utf8_lossy(value.as_bytes()));
            found.map(Some).map_err(|error: RecordError| Refusal::bad(error.to_string()))
        }
    }
}

/// Whole values of `Authorization` that are let in.
#[derive(Debug, Default)]
struct Logins(Vec<String>);

impl Logins {
    fn new(auth: &PushAuth) -> Result<Self, millrace_log::value::ValueError> {
        let mut values = Vec::new();
        let token = auth.token.reveal()?;
        if !token.is_empty() {
            values.push(format!("Bearer {token}"));
        }
        if !auth.username.is_empty() {
            let pair = format!("{}:{}", auth.username, auth.password.reveal()?);
            values.push(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)));
        }
        Ok(Self(values))
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        // Compared in full whatever differs, so that the time tells nothing.
        let equal = |want: &String| {
            want.len() == given.len() && want.bytes().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
        };
        self.0.is_empty() || self.0.iter().fold(false, |known, want| known | equal(want))
    }
}

/// What a door shares with the source behind it.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub limits: PushLimits,
    logins: Arc<Logins>,
}

impl Terms {
    pub fn new(name: &str, auth: &PushAuth, limits: &PushLimits) -> Result<Self, AgentError> {
        let logins = Logins::new(auth)
            .map_err(|error| AgentError::Setting { key: format!("sources[{name}].auth"), reason: error.to_string() })?;
        Ok(Self { limits: limits.clone(), logins: Arc::new(logins) })
    }

    /// Whether the client may push.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.logins.knows(headers) {
            return Ok(());
        }
        let text = "this source asks for a token or for user and password in the header `Authorization`";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, text))
    }

    /// Reads a body; its memory is the batch's.
    pub async fn read(&self, body: Incoming, batch: &mut Batch) -> Result<Bytes, Refusal> {
        let limit = self.limits.max_body.0;
        let too_large = |found: u64| {
            let text = format!("body has {found} bytes or more, {limit} are allowed (limits.max_body)");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
        };
        if let Some(found) = body.size_hint().exact().filter(|found| *found > limit) {
            return Err(too_large(found));
        }
        let work = async {
            let mut body = body;
            let mut read = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Refusal::bad(format!("body can't be read: {error}")))?;
                let Ok(data) = frame.into_data() else { continue };
                if (read.len() + data.len()) as u64 > limit {
                    return Err(too_large((read.len() + data.len()) as u64));
                }
                if !batch.reserve(read.len() + data.len()) {
                    return Err(Rejected::Full { what: "memory (agent.max_waiting_bytes)" }.into());
                }
                read.extend_from_slice(&data);
            }
            Ok(read.freeze())
        };
        match tokio::time::timeout(self.limits.read_timeout.0, work).await {
            Ok(read) => read,
            Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body did not come in time (limits.read_timeout)")),
        }
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
            Err(_) => Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: "log did not take the push in time (limits.answer_timeout): try again".to_owned(),
                retry_after: Some(5),
            }),
        }
    }
}

/// A door that is bound and not yet served.
pub(super) struct Door {
    name: String,
    listener: StdListener,
    tls: Option<Arc<Tls>>,
    terms: Terms,
}

impl Door {
    /// Binds. Blocks.
    pub fn open(
        name: &str,
        key: &'static str,
        listen: &str,
        tls: Option<&TlsConfig>,
        terms: Terms,
    ) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Listen { name: name.to_owned(), key, address: listen.to_owned(), source };
        let tls = match tls {
            None => None,
            Some(config) => {
                let opened = Tls::open_for(config.clone(), &["h2", "http/1.1"]);
                let wrong = |error: millrace_broker::tls::TlsError| AgentError::Setting {
                    key: format!("sources[{name}].tls"),
                    reason: error.to_string(),
                };
                Some(Arc::new(opened.map_err(wrong)?))
            }
        };
        let listener = StdListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        if !bound.ip().is_loopback() && terms.logins.0.is_empty() {
            tracing::warn!(source = name, %bound, "open to other hosts without authentication: listen on 127.0.0.1 or set `auth`");
        }
        tracing::info!(source = name, %bound, tls = tls.is_some(), "listening for pushes");
        Ok(Self { name: name.to_owned(), listener, tls, terms })
    }

    /// Serves until `stop`; then takes no more connections, ends those that are idle, and waits for the answers of the
    /// others.
    pub async fn serve(self, serve: Arc<dyn Serve>, stop: CancellationToken) -> Result<(), AgentError> {
        let name = self.name;
        let address = self.listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let failed = |source| AgentError::Listen { name: name.clone(), key: "listen", address, source };
        let listener = TcpListener::from_std(self.listener).map_err(failed)?;
        let places = Arc::new(Semaphore::new(self.terms.limits.max_connections));
        let timeout = self.terms.limits.read_timeout.0;
        let mut connections = JoinSet::new();
        let mut certificates = tokio::time::interval(CERTIFICATES);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                _ = certificates.tick(), if self.tls.is_some() => {
                    refresh(&name, self.tls.as_ref()).await;
                    continue;
                }
                accepted = accept(&listener, &places) => accepted,
            };
            let (stream, _, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(source = name, %error, "connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (serve, tls, stop) = (Arc::clone(&serve), self.tls.clone(), stop.clone());
            connections.spawn(async move {
                let _place = place;
                // Small answers must not wait for more.
                stream.set_nodelay(true).ok();
                match tls {
                    None => connection(stream, serve, timeout, stop).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, serve, timeout, stop).await,
                        Ok(Err(error)) => tracing::debug!(%error, "tls handshake of a pushing client failed"),
                        Err(_) => tracing::debug!("tls handshake of a pushing client took too long"),
                    },
                }
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// The next connection, once there is a place for it.
pub(super) async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

/// Takes new certificates where the files have changed.
pub(super) async fn refresh(name: &str, tls: Option<&Arc<Tls>>) {
    let Some(tls) = tls.cloned() else { return };
    match tokio::task::spawn_blocking(move || tls.refresh()).await {
        Ok(Ok(true)) => tracing::info!(source = name, "new certificates are in force"),
        Ok(Err(error)) => tracing::error!(source = name, %error, "new certificates can't be used, the old ones stay"),
        Ok(Ok(false)) | Err(_) => {}
    }
}

async fn connection<S>(stream: S, serve: Arc<dyn Serve>, timeout: Duration, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(timeout)
        .max_concurrent_streams(MAX_CONCURRENT)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let service = service_fn(move |request| {
        let serve = Arc::clone(&serve);
        async move { Ok::<_, Infallible>(serve.serve(request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection of a pushing client ended");
    }
}

/// `GET /ready`: for probes of an orchestrator, which carry no login.
pub(super) fn ready<B>(request: &Request<B>, intake: &Intake) -> Option<Answer> {
    if request.uri().path() != "/ready" || request.method() != http::Method::GET {
        return None;
    }
    Some(match intake.ready() {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    })
}
