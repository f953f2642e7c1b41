//! The HTTP doors of the process: binds, and puts the one middleware for tenant, authentication and sizes before the
//! routers of the rooms.
//!
//! In: routers, an address. Out: answers. Touches the network. Leaves every path but `/ready` and `/metrics` to the rooms.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use millrace_aggregator::config::AuthConfig;
use millrace_log::record::Tenant;
use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::exposition;

/// Header that names the tenant, as in Loki and Mimir.
pub const TENANT_HEADER: &str = "x-scope-orgid";

/// Decides who may come in. One hook for every door, so that no door can be forgotten.
pub trait Authenticate: Send + Sync + 'static {
    /// `Err` is the text of the 401 answer.
    fn check(&self, headers: &HeaderMap) -> Result<(), &'static str>;

    /// Whether anything is asked at all: a door without it should stay on loopback.
    fn asks(&self) -> bool;
}

/// Lets everybody in: for loopback.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

impl Authenticate for Open {
    fn check(&self, _: &HeaderMap) -> Result<(), &'static str> {
        Ok(())
    }

    fn asks(&self) -> bool {
        false
    }
}

/// Asks for a bearer token (or API key), or for user and password (RFC 7617).
pub struct Logins {
    /// Whole values of `Authorization` that are let in.
    values: Vec<String>,
}

impl Logins {
    /// Reads the secrets now, so that a missing file stops the start.
    pub fn new(auth: &AuthConfig) -> Result<Self, millrace_log::value::ValueError> {
        let mut values = Vec::new();
        let token = auth.token.reveal()?;
        if !token.is_empty() {
            values.push(format!("Bearer {token}"));
            values.push(format!("ApiKey {token}"));
        }
        if !auth.username.is_empty() {
            values.push(basic(&auth.username, &auth.password.reveal()?));
        }
        Ok(Self { values })
    }
}

/// Value of `Authorization` for user and password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

impl Authenticate for Logins {
    fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        // Compared in full whatever differs, so that the time tells nothing.
        let equal = |want: &String| {
            want.len() == given.len() && want.bytes().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
        };
        let known = self.values.iter().fold(false, |known, want| known | equal(want));
        if known {
            Ok(())
        } else {
            Err("this door asks for a token or for user and password in the header `Authorization`")
        }
    }

    fn asks(&self) -> bool {
        true
    }
}

/// What a door needs besides its routes.
#[derive(Clone)]
pub struct Guard {
    /// Who may come in.
    pub authenticate: Arc<dyn Authenticate>,
    /// Bytes of a request's body at most, before decompression.
    pub max_body_bytes: usize,
}

/// Why a door did not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Somebody else has the port.
    #[error(
        "{door} can't listen on {address}: the port is in use; stop the other process, or set `{key}` to another port"
    )]
    InUse {
        /// Which door.
        door: &'static str,
        /// The address as configured.
        address: String,
        /// The key of the configuration.
        key: &'static str,
    },
    /// Any other fault.
    #[error("{door} can't listen on {address}: {source}; check `{key}`")]
    Bind {
        /// Which door.
        door: &'static str,
        /// The address as configured.
        address: String,
        /// The key of the configuration.
        key: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Binds a door, and warns when it is open to others without asking who they are.
pub async fn bind(
    door: &'static str,
    key: &'static str,
    address: &str,
    authenticate: &dyn Authenticate,
) -> Result<TcpListener, DoorError> {
    let listener = TcpListener::bind(address).await.map_err(|source| {
        let address = address.to_owned();
        match source.kind() {
            std::io::ErrorKind::AddrInUse => DoorError::InUse { door, address, key },
            _ => DoorError::Bind { door, address, key, source },
        }
    })?;
    if let Ok(bound) = listener.local_addr()
        && !bound.ip().is_loopback()
        && !authenticate.asks()
    {
        tracing::warn!(door, %bound, "open to other hosts without authentication: bind it to 127.0.0.1 or set a token");
    }
    Ok(listener)
}

/// Whether all parts that this process needs for its work are there: `Err` says what is missing.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The registries of all rooms, in the order of their start.
pub type Registries = Arc<Mutex<Vec<Registry>>>;

/// What is wrong although the process does its work, for the body of `/ready`.
pub type Notes = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// `/ready` and `/metrics`, and `/-/healthy` for those who only ask whether the process lives.
pub fn status_routes(registry: Registries, checks: Vec<ReadyCheck>, notes: Vec<Notes>) -> Router {
    let ready = move || {
        let notes: String = notes.iter().flat_map(|note| note()).map(|note| format!("{note}\n")).collect();
        let missing: Vec<String> = checks.iter().filter_map(|check| check().err()).collect();
        async move {
            if missing.is_empty() {
                (StatusCode::OK, format!("ready\n{notes}"))
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n{notes}", missing.join("; ")))
            }
        }
    };
    Router::new()
        .route("/ready", get(ready))
        .route("/-/healthy", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics).with_state(registry))
}

async fn metrics(State(registry): State<Registries>, headers: HeaderMap) -> Response {
    let mut out = String::new();
    let rooms = registry.lock();
    let written = rooms.iter().try_for_each(|room| text::encode_registry(&mut out, room));
    match written.and_then(|()| text::encode_eof(&mut out)) {
        Ok(()) => {
            let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let (kind, out) = if exposition::wants_open_metrics(accept) {
                (exposition::OPEN_METRICS, out)
            } else {
                (exposition::PLAIN, exposition::plain(&out))
            };
            ([(header::CONTENT_TYPE, kind)], out).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be written\n").into_response(),
    }
}

/// Puts the middleware before a room's routes.
pub fn guarded(router: Router, guard: Guard) -> Router {
    let limit = guard.max_body_bytes;
    router
        .layer(axum::middleware::from_fn_with_state(guard, admit))
        .layer(DefaultBodyLimit::max(limit))
        .layer(tower_http::limit::RequestBodyLimitLayer::new(limit))
}

async fn admit(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    // Probes of an orchestrator carry no token.
    let probe = matches!(request.uri().path(), "/ready" | "/-/healthy");
    if !probe && let Err(text) = guard.authenticate.check(request.headers()) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response();
    }
    let tenant = match request.headers().get(TENANT_HEADER) {
        None => Ok(Tenant::default()),
        Some(name) => Tenant::new(&String::from_utf8_lossy(name.as_bytes())),
    };
    match tenant {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// Serves until the token is cancelled, then lets running requests end for a few seconds.
pub async fn serve(listener: TcpListener, router: Router, token: CancellationToken) -> anyhow::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let stop = token.clone();
    let serving = std::future::IntoFuture::into_future(
        axum::serve(listener, service).with_graceful_shutdown(async move { stop.cancelled().await }),
    );
    let late = async {
        token.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving => Ok(ended?),
        // Live tails never end by themselves.
        () = late => Ok(()),
    }
}

const DRAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    fn app(authenticate: Arc<dyn Authenticate>) -> Router {
        let who = |Extension(tenant): Extension<Tenant>, _: axum::body::Bytes| async move { tenant.to_string() };
        guarded(Router::new().route("/who", get(who).post(who)), Guard { authenticate, max_body_bytes: 10 })
    }

    async fn ask(app: Router, request: http::request::Builder, body: &str) -> (u16, String) {
        let answer = app.oneshot(request.uri("/who").body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn tenant_comes_from_the_header() {
        let request = http::Request::builder;
        for (header, want) in
            [(None, (200, "default")), (Some("team-a"), (200, "team-a")), (Some("a/b"), (400, "tenant `a/b`"))]
        {
            let builder = header.iter().fold(request(), |b, h| b.header("X-Scope-OrgID", *h));
            let (status, text) = ask(app(Arc::new(Open)), builder, "").await;
            assert_eq!(status, want.0, "{header:?}");
            assert!(text.starts_with(want.1), "{header:?}: {text}");
        }
    }

    #[tokio::test]
    async fn tokens_are_asked_for_and_sizes_are_held() {
        let secret = millrace_log::value::Secret::new;
        let auth = AuthConfig { username: "grafana".to_owned(), password: secret("pw"), token: secret("s3cret") };
        let token: Arc<dyn Authenticate> = Arc::new(Logins::new(&auth).unwrap());
        for (given, body, want) in [
            (None, "", 401),
            (Some("Bearer wrong!"), "", 401),
            (Some("Bearer s3cret"), "", 200),
            (Some("ApiKey s3cret"), "", 200),
            (Some("Basic Z3JhZmFuYTpwdw=="), "", 200),
            (Some("Basic Z3JhZmFuYTpvdGhlcg=="), "", 401),
            (Some("Bearer s3cret"), "12345678901", 413),
        ] {
            let builder = given.iter().fold(http::Request::post("/who"), |b, h| b.header("Authorization", *h));
            assert_eq!(ask(app(Arc::clone(&token)), builder, body).await.0, want, "{given:?} {body}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_names_the_key() {
        let first = bind("Loki API", "aggregator.http.listen", "127.0.0.1:0", &Open).await.unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = bind("Loki API", "aggregator.http.listen", &address, &Open).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("port is in use") && text.contains("aggregator.http.listen"), "{text}");
    }
}
