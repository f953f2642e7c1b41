//! Checks of requests in front of routes, in one place and in one order: host and origin, login, tenant, limits; then
//! the role, directly in front of each handler (`routes.rs`); then the access log.
//!
//! In: requests with the peer that sent them, routes. Out: their answers, or refusals. Touches nothing itself. A new
//! check is a line in [`Guarded::checked`].

use std::sync::Arc;

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use http::request::Parts;
use http::{Method, Request, StatusCode, header};
use tower::{Layer as _, ServiceExt as _};

use crate::access::book::Book;
use crate::access::session::CSRF_HEADER;
use crate::access::{Access, AuditEvent};
use crate::access_log::{AccessEntry, Asked};
use crate::browser::{check_host, check_origin};
use crate::config::RequestLimits;
use crate::identity::{Client, Identity, InSession};
use crate::lasting::LoginWatch;
use crate::limits::Limits;
use crate::login::{Entered, Gate};
use crate::login_page;
use crate::refusal::{Refusal, Render};
use crate::routes::{LiveRoutes, Need};
use crate::stream::Peer;
use crate::tenant::{TenantRule, Whose};

/// All checks of requests, in front of whatever routes.
pub struct Guard {
    gate: Arc<Gate>,
    tenants: TenantRule,
    limits: Limits,
    render: Render,
    /// Whether only this host reaches the listener.
    is_loopback: bool,
    /// Whether people log in by a form.
    has_page: bool,
}

/// Routes behind the checks of a [`Guard`]: the only form in which requests reach them.
#[derive(Clone)]
pub struct Guarded {
    guard: Arc<Guard>,
    routes: LiveRoutes,
    max_body: DefaultBodyLimit,
}

/// What a request turned out to be.
#[derive(Default)]
struct Found {
    who: Option<Identity>,
    tenant: Option<Whose>,
    login: Option<LoginWatch>,
}

impl Guard {
    /// Of a listener.
    pub fn new(gate: Gate, tenants: TenantRule, requests: RequestLimits, render: Render) -> Self {
        Self {
            gate: Arc::new(gate),
            tenants,
            limits: Limits::new(requests),
            render,
            is_loopback: false,
            has_page: false,
        }
    }

    /// Whether only this host reaches the listener, which is then known by names of this host only; and whether people
    /// log in by a form.
    #[must_use]
    pub fn reached_by(self, is_loopback: bool, has_page: bool) -> Self {
        Self { is_loopback, has_page, ..self }
    }

    /// Who may come in.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Puts the checks in front of routes.
    pub fn mount(self: &Arc<Self>, routes: LiveRoutes) -> Guarded {
        // Extractors have a limit of their own (2 MB) unless they are given one.
        let max_body = usize::try_from(self.limits.max_body()).unwrap_or(usize::MAX);
        Guarded { guard: Arc::clone(self), routes, max_body: DefaultBodyLimit::max(max_body) }
    }

    fn check_page(&self, head: &Parts, book: Option<&Book>) -> Result<(), Refusal> {
        let hosts = book.map(|book| book.hosts.as_slice()).unwrap_or_default();
        check_host(head, self.is_loopback, hosts)?;
        check_origin(head, hosts)
    }

    fn check_session(&self, head: &Parts, entered: &Entered) -> Result<(), Refusal> {
        let (Some(session), Some(access)) = (&entered.session, &self.gate.access) else { return Ok(()) };
        let changes = !matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if changes && !access.sessions().is_own(session, &head.headers) {
            let text = format!("requests of a session need the header {CSRF_HEADER}: reload the page");
            return Err(Refusal::new(StatusCode::FORBIDDEN, text));
        }
        Ok(())
    }
}

impl Guarded {
    /// Answers a request: who asks, for whom, within which limits, then the router.
    pub async fn answer(&self, peer: &Peer, request: Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let entry = AccessEntry::begin(&head);
        let outline = outline(&head);
        let listener = Arc::clone(&self.guard.gate.listener);
        let mut asked = Found::default();
        let outcome = self.checked(peer, head, body, &mut asked).await;
        let outcome = outcome.and_then(|mut answer| match answer.extensions_mut().remove::<Refusal>() {
            Some(refusal) => Err(refusal),
            None => Ok(answer),
        });
        let answer = match outcome {
            Ok(mut answer) => {
                if let Some(need) = answer.extensions_mut().remove::<Need>()
                    && answer.status().is_success()
                {
                    self.note(changed(need, &outline.method), peer, &outline, (&asked, ""), "");
                }
                match asked.login.take() {
                    Some(login) => login.over(answer),
                    None => answer,
                }
            }
            Err(refusal) => {
                if refusal.status == StatusCode::FORBIDDEN {
                    let user = refusal.user.as_str();
                    self.note(AuditEvent::ACCESS_DENIED, peer, &outline, (&asked, user), &refusal.text);
                }
                if let Some(access) = &self.guard.gate.access {
                    access.metrics().refused(&listener, refusal.status.as_u16());
                }
                (self.guard.render)(&outline, refusal)
            }
        };
        let user = asked.who.as_ref().map_or("", |who| &who.name);
        entry.end(&listener, peer, Asked { user, tenant: asked.tenant.as_ref() }, answer.status());
        answer
    }

    /// Hands over an audit event about a request; `user` where the guard let nobody in.
    fn note(&self, event: &'static str, peer: &Peer, head: &Parts, (asked, user): (&Found, &str), why: &str) {
        let Some(access) = &self.guard.gate.access else { return };
        let colon = if why.is_empty() { "" } else { ": " };
        access.note(AuditEvent {
            event,
            user: asked.who.as_ref().map_or(user, |who| &who.name).to_owned(),
            address: Some(access.address(&head.headers, peer)),
            listener: self.guard.gate.listener.to_string(),
            tenant: asked.tenant.as_ref().map_or_else(String::new, Whose::to_string),
            // Without the query, which may hold what only its sender should see.
            detail: format!("{} {}{colon}{why}", head.method, head.uri.path()),
        });
    }

    async fn checked(&self, peer: &Peer, mut head: Parts, body: Body, asked: &mut Found) -> Result<Response, Refusal> {
        let guard = &*self.guard;
        let book = guard.gate.access.as_ref().map(Access::book);
        let book = book.as_deref();
        guard.check_page(&head, book)?;
        if guard.has_page && login_page::is_meant(&head, &guard.gate) {
            let (body, _ticket) = guard.limits.admit(body, false).await?;
            return login_page::answer(&head, body, peer, &guard.gate, guard.is_loopback).await;
        }
        let is_public = self.routes.is_public(&head.method, head.uri.path());
        if !is_public {
            let entered = match guard.gate.identify(&head, peer).await {
                Ok(entered) => entered,
                Err(refusal) if guard.has_page => return login_page::instead(&head, &guard.gate, refusal),
                Err(refusal) => return Err(refusal),
            };
            asked.who = Some(entered.who.clone());
            // Without logins of all listeners none ever ends.
            let login = book.map(|book| LoginWatch::new(&guard.gate, book, &head, peer, &entered.who));
            if let Some(login) = &login {
                head.extensions.insert(login.clone());
            }
            asked.login = login;
            guard.check_session(&head, &entered)?;
            asked.tenant = guard.tenants.of(&head.headers, &entered.who)?;
            let address = book.map_or_else(|| peer.address.ip(), |book| book.client_address(&head.headers, peer));
            head.extensions.insert(Client::new(Arc::clone(&entered.who.name), address));
            head.extensions.insert(entered.who);
            if let Some(session) = entered.session {
                head.extensions.insert(InSession { name: session.of.basis.name, csrf: session.csrf });
            }
            match asked.tenant.clone() {
                Some(Whose::One(tenant)) => drop(head.extensions.insert(tenant)),
                Some(Whose::Several(tenants)) => drop(head.extensions.insert(tenants)),
                None => {}
            }
        }
        let (body, ticket) = guard.limits.admit(body, is_public).await?;
        head.extensions.insert(peer.clone());
        let request = Request::from_parts(head, body);
        let answer = match self.max_body.layer(self.routes.clone()).oneshot(request).await {
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

/// The audit event of a request that changed something.
fn changed(need: Need, method: &Method) -> &'static str {
    match need {
        Need::Silence(_) => AuditEvent::SILENCE,
        _ if *method == Method::DELETE => AuditEvent::DELETE,
        _ => AuditEvent::ADMIN,
    }
}

/// What a [`Render`] may look at, and audit events: method, URI, `Content-Type` and `X-Forwarded-For`.
fn outline(head: &Parts) -> Parts {
    let (mut outline, ()) = Request::new(()).into_parts();
    outline.method.clone_from(&head.method);
    outline.uri.clone_from(&head.uri);
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        outline.headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    if let Some(client) = head.headers.get("x-forwarded-for") {
        outline.headers.insert("x-forwarded-for", client.clone());
    }
    outline
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Extension;
    use bytes::Bytes;
    use futures::{FutureExt as _, StreamExt as _, stream};
    use millrace_log::record::Tenant;
    use millrace_log::value::Secret;

    use super::*;
    use crate::browser::Bodies;
    use crate::config::Login;
    use crate::routes::{Methods, Need, Routes};

    fn app(login: &Login) -> Guarded {
        let requests = RequestLimits { max_body: 10, max_body_key: "api.max_body", ..RequestLimits::default() };
        let render: Render = |head, refusal| {
            let mut answer = refusal.clone().answer();
            let path = head.uri.path();
            *answer.body_mut() = Body::from(format!("{path}: {}", refusal.text));
            answer
        };
        let gate = Gate::open("test", login, None, false).unwrap();
        let guard = Guard::new(gate, TenantRule::default(), requests, render).reached_by(true, false);
        let who = |Extension(who): Extension<Identity>, Extension(tenant): Extension<Tenant>, _: Bytes| async move {
            format!("{} of {tenant}", who.name)
        };
        let routes = Routes::new()
            .on(Need::Read, Methods::Get, "/who", who)
            .on(Need::Write(Bodies::NoForms), Methods::Post, "/who", who)
            .on(Need::Public, Methods::Get, "/ready", || async { "ready" });
        Arc::new(guard).mount(routes.into())
    }

    async fn ask(app: &Guarded, request: Request<Body>) -> (u16, String) {
        let peer =
            Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: None, is_tls: false, names: Arc::new([]) };
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
            ("GET", "/-/healthy", None, None, "", 401, "/-/healthy: login required"),
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

    #[derive(Default)]
    struct Heard(parking_lot::Mutex<Vec<String>>);

    impl crate::access::Audit for Heard {
        fn note(&self, event: AuditEvent) {
            let AuditEvent { event, user, address, listener, tenant, detail } = event;
            let address = address.map_or_else(String::new, |address| address.to_string());
            self.0.lock().push(format!("{event}|{user}|{address}|{listener}|{tenant}|{detail}"));
        }
    }

    #[tokio::test]
    async fn logins_refusals_and_changes_are_audited() {
        let app = page();
        let heard = Arc::new(Heard::default());
        let audit: Arc<dyn crate::access::Audit> = heard.clone();
        app.guard.gate.access.as_ref().unwrap().audited_by(audit);
        let html = [("accept", "text/html")];
        send(&app, "POST", "/login", &html, "user=alice&password=wrong").await;
        let entered = send(&app, "POST", "/login", &html, "user=alice&password=hunter2").await;
        let set: Vec<&str> = entered.headers().get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
        let value = |cookie: &str| cookie.split(';').next().unwrap().split_once('=').unwrap().1.to_owned();
        let session = format!("millrace_session={}", value(set[0]));
        send(&app, "POST", "/change?secret=x", &[("cookie", &session)], "").await;
        let with = [("cookie", session.as_str()), ("x-csrf-token", &value(set[1]))];
        for (method, path) in [("POST", "/change?secret=x"), ("DELETE", "/gone"), ("GET", "/"), ("POST", "/logout")] {
            send(&app, method, path, &with, "").await;
        }
        send(&app, "POST", "/logout", &[], "").await;
        let want = "\
login_failed|alice|127.0.0.1|test||
login|alice|127.0.0.1|test||
access_denied|alice|127.0.0.1|test||POST /change: requests of a session need the header x-csrf-token: reload the page
admin|alice|127.0.0.1|test|default|POST /change
delete|alice|127.0.0.1|test|default|DELETE /gone
logout|alice|127.0.0.1|test||";
        assert_eq!(heard.0.lock().join("\n"), want);
    }

    /// A listener with a page, and a user `alice` whose password is `hunter2`.
    fn page() -> Guarded {
        let access = Access::new(millrace_log::clock::SystemClock::shared()).unwrap();
        access.replace(&alices("hunter2")).unwrap();
        let gate = Gate::open("test", &Login::default(), Some(access), false).unwrap();
        let guard = Guard::new(gate, TenantRule::default(), RequestLimits::default(), crate::refusal::plain);
        let who = |Extension(who): Extension<Identity>| async move { who.name.to_string() };
        let admin = Need::Admin(Bodies::NoForms);
        let live = || async {
            let first = futures::stream::once(async { Ok::<_, std::io::Error>("first") });
            Body::from_stream(first.chain(futures::stream::pending()))
        };
        let routes = Routes::new()
            .on(Need::Read, Methods::Get, "/", who)
            .on(Need::Read, Methods::Get, "/live", live)
            .on(admin, Methods::Post, "/change", who)
            .on(admin, Methods::Delete, "/gone", who);
        Arc::new(guard.reached_by(true, true)).mount(routes.into())
    }

    #[tokio::test]
    async fn answers_that_last_end_with_the_login() {
        use crate::access::config::AccessConfig;
        let app = page();
        let basic = crate::login::basic("alice", "hunter2");
        let answer = send(&app, "GET", "/live", &[("authorization", basic.as_str())], "").await;
        let mut body = answer.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "first");
        assert!(body.next().now_or_never().is_none(), "it lasts");
        // A reload that changes nothing of the login.
        let access = app.guard.gate.access.as_ref().unwrap();
        access.replace(&alices("hunter2")).unwrap();
        tokio::task::yield_now().await;
        assert!(body.next().now_or_never().is_none(), "it lasts");
        access.replace(&AccessConfig { tokens: Vec::new(), ..alices("other") }).unwrap();
        assert!(body.next().await.is_none(), "alice has another password");
    }

    fn alices(password: &str) -> crate::access::config::AccessConfig {
        use crate::access::config::{AccessConfig, UserConfig};
        let user = UserConfig {
            name: "alice".to_owned(),
            hash: Secret::new(crate::access::hash::hash_password(password).unwrap()),
            roles: vec![crate::identity::Role::Admin],
            tenants: vec!["*".to_owned()],
            selector: String::new(),
        };
        AccessConfig { users: vec![user], ..AccessConfig::default() }
    }

    async fn send(app: &Guarded, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let builder = Request::builder().method(method).uri(path).header("host", "localhost:3100");
        let builder = headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value));
        let peer =
            Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: None, is_tls: false, names: Arc::new([]) };
        app.answer(&peer, builder.body(Body::from(body.to_owned())).unwrap()).await
    }

    #[tokio::test]
    async fn people_log_in_by_a_form_and_their_sessions_are_no_use_to_other_pages() {
        let app = page();
        let html = [("accept", "text/html")];
        let asked = send(&app, "GET", "/?query=x", &html, "").await;
        assert_eq!(
            (asked.status().as_u16(), &asked.headers()["location"]),
            (303, &"/login?next=/%3Fquery%3Dx".parse().unwrap())
        );
        assert_eq!(send(&app, "GET", "/login?next=/", &html, "").await.status(), 200);
        let wrong = send(&app, "POST", "/login", &html, "user=alice&password=hunter3&next=/").await;
        assert_eq!((wrong.status().as_u16(), wrong.headers().contains_key("set-cookie")), (401, false));
        let foreign = [("origin", "https://evil.example")];
        assert_eq!(send(&app, "POST", "/login", &foreign, "user=alice&password=hunter2").await.status(), 403);

        let entered = send(&app, "POST", "/login", &html, "user=alice&password=hunter2&next=//evil.example").await;
        assert_eq!((entered.status().as_u16(), &entered.headers()["location"]), (303, &"/".parse().unwrap()));
        let set: Vec<&str> = entered.headers().get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
        assert!(set.iter().all(|cookie| cookie.contains("SameSite=Strict")), "{set:?}");
        assert!(set[0].starts_with("millrace_session=") && set[0].contains("HttpOnly") && !set[1].contains("HttpOnly"));
        let value = |cookie: &str| cookie.split(';').next().unwrap().split_once('=').unwrap().1.to_owned();
        let (session, csrf) = (format!("millrace_session={}", value(set[0])), value(set[1]));

        let with = [("cookie", session.as_str())];
        assert_eq!(send(&app, "GET", "/", &with, "").await.status(), 200);
        assert_eq!(send(&app, "POST", "/change", &with, "").await.status(), 403, "without the token");
        let with = [("cookie", session.as_str()), ("x-csrf-token", csrf.as_str())];
        assert_eq!(send(&app, "POST", "/change", &with, "").await.status(), 200);
        let forged = [("cookie", "millrace_session=dTphbGljZTo5OTk5OTk5OTk5OTk5OTk.AAAA")];
        assert_eq!(send(&app, "GET", "/", &forged, "").await.status(), 401);
        let gone = send(&app, "POST", "/logout", &with, "").await;
        assert!(gone.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_do_not_come_are_told_so_whatever_the_router_says() {
        let app = app(&Login::default());
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"x"))]);
        let rest = stream::pending();
        let body = Body::from_stream(futures::StreamExt::chain(first, rest));
        let began = tokio::time::Instant::now();
        let found = ask(&app, Request::post("/who").body(body).unwrap()).await;
        assert_eq!(found, (StatusCode::REQUEST_TIMEOUT.as_u16(), "/who: request body timed out".to_owned()));
        assert_eq!(began.elapsed(), Duration::from_secs(15));
    }
}
