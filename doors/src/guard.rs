//! Checks of requests in front of a router, in one place and in one order: login, tenant, limits; then the access log.
//!
//! In: requests with the peer that sent them, a router. Out: the router's answers, or refusals. Touches nothing itself.
//! A new check is a line in [`Guarded::checked`].

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use http::request::Parts;
use http::{Method, Request, header};
use millrace_log::record::Tenant;
use tower::ServiceExt as _;

use crate::access_log::{Asked, Entry};
use crate::config::RequestLimits;
use crate::limits::Limits;
use crate::login::{Authenticate, Identity};
use crate::refusal::{Refusal, Render};
use crate::stream::Peer;
use crate::tenant::TenantRule;

/// What probes of an orchestrator ask for by GET: they carry no login, and wait for no place.
const PROBES: [&str; 2] = ["/ready", "/-/healthy"];

/// All checks of requests, in front of whatever router.
#[derive(Clone)]
pub struct Guard {
    listener: Arc<str>,
    authenticate: Arc<dyn Authenticate>,
    tenants: TenantRule,
    limits: Limits,
    render: Render,
}

/// A router behind the checks of a [`Guard`]: the only form in which requests reach one.
#[derive(Clone)]
pub struct Guarded {
    guard: Arc<Guard>,
    router: Router,
}

impl Guard {
    /// Of a listener with this name.
    pub fn new(
        listener: &str,
        authenticate: Arc<dyn Authenticate>,
        tenants: TenantRule,
        requests: RequestLimits,
        render: Render,
    ) -> Self {
        Self { listener: listener.into(), authenticate, tenants, limits: Limits::new(requests), render }
    }

    /// Whether anybody is refused.
    pub fn requires_login(&self) -> bool {
        self.authenticate.is_required()
    }

    /// Puts the checks in front of a router.
    pub fn mount(self: &Arc<Self>, router: Router) -> Guarded {
        // Extractors have a limit of their own (2 MB) unless they are given one.
        let max_body = usize::try_from(self.limits.max_body()).unwrap_or(usize::MAX);
        Guarded { guard: Arc::clone(self), router: router.layer(DefaultBodyLimit::max(max_body)) }
    }

    async fn identify(&self, head: &Parts, peer: &Peer, is_probe: bool) -> Result<Identity, Refusal> {
        if is_probe {
            return Ok(Identity { name: Identity::ANONYMOUS.into() });
        }
        self.authenticate.authenticate(head, peer).await
    }
}

impl Guarded {
    /// Answers a request: who asks, for whom, within which limits, then the router.
    pub async fn answer(&self, peer: &Peer, request: Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let entry = Entry::begin(&head);
        let outline = outline(&head);
        let mut asked = (None, None);
        let outcome = self.checked(peer, head, body, &mut asked).await;
        let answer = match outcome {
            Ok(answer) => answer,
            Err(refusal) => (self.guard.render)(&outline, refusal),
        };
        let user = asked.0.as_ref().map_or("", |who: &Identity| &who.name);
        let tenant = asked.1.as_ref().map_or("", Tenant::as_str);
        entry.end(&self.guard.listener, peer, Asked { user, tenant }, answer.status());
        answer
    }

    async fn checked(
        &self,
        peer: &Peer,
        mut head: Parts,
        body: Body,
        asked: &mut (Option<Identity>, Option<Tenant>),
    ) -> Result<Response, Refusal> {
        let guard = &*self.guard;
        let is_probe = matches!(head.method, Method::GET | Method::HEAD) && PROBES.contains(&head.uri.path());
        let who = guard.identify(&head, peer, is_probe).await?;
        asked.0 = Some(who.clone());
        let tenant = guard.tenants.of(&head.headers, &who)?;
        asked.1.clone_from(&tenant);
        let (body, ticket) = guard.limits.admit(body, is_probe).await?;
        head.extensions.insert(peer.clone());
        head.extensions.insert(who);
        if let Some(tenant) = tenant {
            head.extensions.insert(tenant);
        }
        let request = Request::from_parts(head, body);
        let answer = match self.router.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        // Routers call a body that broke off a bad request.
        match ticket.refusal(&guard.limits) {
            Some(refusal) if answer.status().is_client_error() || answer.status().is_server_error() => Err(refusal),
            _ => Ok(answer),
        }
    }
}

/// What a [`Render`] may look at: method, URI and `Content-Type`.
fn outline(head: &Parts) -> Parts {
    let (mut outline, ()) = Request::new(()).into_parts();
    outline.method.clone_from(&head.method);
    outline.uri.clone_from(&head.uri);
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        outline.headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    outline
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Extension;
    use axum::routing::get;
    use bytes::Bytes;
    use futures::stream;
    use http::StatusCode;
    use millrace_log::value::Secret;

    use super::*;
    use crate::config::Login;
    use crate::login::authenticator;

    fn app(login: &Login) -> Guarded {
        let requests = RequestLimits { max_body: 10, max_body_key: "api.max_body", ..RequestLimits::default() };
        let render: Render = |head, refusal| {
            let mut answer = refusal.clone().answer();
            let path = head.uri.path();
            *answer.body_mut() = Body::from(format!("{path}: {}", refusal.text));
            answer
        };
        let guard = Guard::new("test", authenticator(login).unwrap(), TenantRule::default(), requests, render);
        let who = |Extension(who): Extension<Identity>, Extension(tenant): Extension<Tenant>, _: Bytes| async move {
            format!("{} of {tenant}", who.name)
        };
        let router = Router::new().route("/who", get(who).post(who)).route("/ready", get(|| async { "ready" }));
        Arc::new(guard).mount(router)
    }

    async fn ask(app: &Guarded, request: Request<Body>) -> (u16, String) {
        let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: None };
        let answer = app.answer(&peer, request).await;
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn nothing_reaches_the_router_past_the_checks() {
        let login = Login { token: Secret::new("s3cret"), ..Login::default() };
        let app = app(&login);
        let good = Some("Bearer s3cret");
        for (method, path, authorization, tenant, body, status, text) in [
            ("GET", "/who", None, None, "", 401, "/who: login required"),
            ("GET", "/nowhere", None, None, "", 401, "/nowhere: login required"),
            ("POST", "/ready", None, None, "", 401, "/ready: login required"),
            ("GET", "/ready", None, None, "", 200, "ready"),
            ("GET", "/-/healthy", None, None, "", 404, ""),
            ("GET", "/who", good, None, "", 200, "token of default"),
            ("GET", "/who", good, Some("team-a"), "", 200, "token of team-a"),
            ("GET", "/who", good, Some("a/b"), "", 400, "/who: tenant `a/b`"),
            ("GET", "/nowhere", good, Some("a/b"), "", 400, "/nowhere: tenant `a/b`"),
            ("POST", "/who", good, None, "1234567890", 200, "token of default"),
            (
                "POST",
                "/who",
                good,
                None,
                "12345678901",
                413,
                "/who: body has 11 bytes or more, 10 are allowed (api.max_body)",
            ),
            ("POST", "/who", None, None, "12345678901", 401, "/who: login required"),
        ] {
            let mut builder = Request::builder().method(method).uri(path);
            for (name, value) in [("authorization", authorization), ("x-scope-orgid", tenant)] {
                builder = value.into_iter().fold(builder, |b, value| b.header(name, value));
            }
            let found = ask(&app, builder.body(Body::from(body)).unwrap()).await;
            assert!(found.0 == status && found.1.starts_with(text), "{method} {path} {tenant:?}: {found:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_do_not_come_are_told_so_whatever_the_router_says() {
        let app = app(&Login::default());
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"x"))]);
        let rest = stream::pending();
        let body = Body::from_stream(futures::StreamExt::chain(first, rest));
        let began = tokio::time::Instant::now();
        let found = ask(&app, Request::post("/who").body(body).unwrap()).await;
        assert_eq!(found, (StatusCode::REQUEST_TIMEOUT.as_u16(), "/who: body did not come in time".to_owned()));
        assert_eq!(began.elapsed(), Duration::from_secs(30));
    }
}
