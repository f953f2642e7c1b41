//! Roles in front of handlers, by every way in which routes are put together.

use axum::body::{Body, to_bytes};
use axum::extract::State;
use millrace_log::record::Tenant;

use super::*;
use crate::identity::{Rights, Tenants};

fn who(roles: &[Role], tenants: Tenants, selector: Option<&str>) -> Identity {
    let rights = Rights { roles: roles.into(), tenants, selector: selector.map(Arc::from) };
    Identity { name: "x".into(), rights }
}

fn routes() -> Routes {
    let nested = Routes::new()
        .on(Need::Read, Methods::GetPost, "/query", |State(text): State<&'static str>| async move { text })
        .fallback(Need::LoginJoined, || async { StatusCode::NOT_FOUND });
    let other = Routes::new()
        .on(Need::Write(Bodies::Json), Methods::Post, "/alerts", || async { "posted" })
        .on(Need::Read, Methods::Get, "/alerts", || async { "listed" })
        .on(Need::Silence(Bodies::NoForms), Methods::PostPut, "/silences", || async { "silenced" })
        .on(Need::Admin(Bodies::Any), Methods::Delete, "/index", || async { "deleted" })
        .on(Need::Whole, Methods::Get, "/metrics", || async { "counts" })
        .on(Need::Login, Methods::Any, "/any", || async { "any" })
        .on(Need::Public, Methods::Get, "/ready", || async { "ready" });
    Routes::new().nest("/api", nested).with_state("answer").merge(other).layer(tower::layer::util::Identity::new())
}

async fn ask(routes: Routes, who: Option<Identity>, method: &str, path: &str, kind: &str) -> (u16, String, bool) {
    let mut request =
        Request::builder().method(method).uri(path).header("content-type", kind).body(Body::empty()).unwrap();
    if let Some(who) = who {
        request.extensions_mut().insert(who);
    }
    let answer = LiveRoutes::from(routes).oneshot(request).await.unwrap();
    let (status, is_marked) = (answer.status().as_u16(), answer.extensions().get::<Refusal>().is_some());
    let text = to_bytes(answer.into_body(), 1000).await.unwrap();
    (status, String::from_utf8(text.to_vec()).unwrap(), is_marked)
}

#[tokio::test]
async fn handlers_are_reached_by_those_who_have_their_role() {
    let json = "application/json";
    let own = || Tenants::Named(Arc::new([Tenant::default()]));
    for (method, path, kind, allowed) in [
        ("GET", "/api/query", json, &[Role::Read, Role::Admin][..]),
        ("POST", "/api/query", "application/x-www-form-urlencoded", &[Role::Read, Role::Admin]),
        ("POST", "/alerts", json, &[Role::Write, Role::Admin]),
        ("GET", "/alerts", json, &[Role::Read, Role::Admin]),
        ("PUT", "/silences", json, &[Role::Silence, Role::Admin]),
        ("DELETE", "/index", json, &[Role::Admin]),
        ("GET", "/metrics", json, &[Role::Admin]),
        ("GET", "/ready", json, &Role::ALL),
        ("GET", "/any", json, &Role::ALL),
        ("DELETE", "/any", json, &Role::ALL),
    ] {
        for role in Role::ALL {
            let found = ask(routes(), Some(who(&[role], own(), None)), method, path, kind).await;
            let want = if allowed.contains(&role) { (200, false) } else { (403, true) };
            assert_eq!((found.0, found.2), want, "{method} {path} as {role:?}: {}", found.1);
        }
        let found = ask(routes(), None, method, path, kind).await;
        assert_eq!(found.0, if path == "/ready" { 200 } else { 401 }, "{method} {path}: nobody");
    }
    for (tenants, selector, want) in
        [(Tenants::All, None, 200), (own(), None, 403), (Tenants::All, Some("{a=\"b\"}"), 403)]
    {
        let found = ask(routes(), Some(who(&[Role::Read], tenants, selector)), "GET", "/metrics", json).await;
        assert_eq!(found.0, want, "{}", found.1);
    }
}

#[tokio::test]
async fn several_tenants_at_once_reach_those_routes_only_that_join_them() {
    let routes = routes().on(Need::ReadJoined, Methods::Get, "/joined", || async { "joined" }).on(
        Need::LoginJoined,
        Methods::Get,
        "/version",
        || async { "1" },
    );
    let several = SeveralTenants::new(["b", "a", "b"].map(|name| Tenant::new(name).unwrap()).into()).unwrap();
    for (method, path, want) in [
        ("GET", "/joined", 200),
        ("GET", "/version", 200),
        ("GET", "/ready", 200),
        ("GET", "/api/nowhere", 404),
        ("GET", "/any", 400),
        ("GET", "/api/query", 400),
        ("POST", "/alerts", 400),
        ("PUT", "/silences", 400),
        ("DELETE", "/index", 400),
        ("GET", "/metrics", 400),
    ] {
        for (extension, want) in [(None, 200), (Some(several.clone()), want)] {
            let mut request = Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", "application/json")
                .body(Body::empty())
                .unwrap();
            request.extensions_mut().insert(Identity::unlimited("root"));
            let is_several = extension.is_some();
            extension.map(|several| request.extensions_mut().insert(several));
            let answer = LiveRoutes::from(routes.clone()).oneshot(request).await.unwrap();
            let (status, refusal) = (answer.status().as_u16(), answer.extensions().get::<Refusal>().cloned());
            assert!(status == want || (!is_several && status == 404), "{method} {path}: {status}");
            let text = "multiple org IDs present: this endpoint is for one tenant, name one in x-scope-orgid";
            assert_eq!(refusal.map(|refusal| refusal.text).as_deref(), (status == 400).then_some(text), "{path}");
        }
    }
}

#[tokio::test]
async fn unknown_paths_need_a_login_and_bodies_their_type() {
    let admin = || Some(Identity::unlimited("root"));
    for (who, method, path, kind, want) in [
        (admin(), "GET", "/api/nowhere", "", 404),
        (None, "GET", "/api/nowhere", "", 401),
        (admin(), "PATCH", "/alerts", "", 405),
        (admin(), "POST", "/alerts", "text/plain", 415),
        (admin(), "POST", "/alerts", "", 415),
        (admin(), "POST", "/alerts", "application/json; charset=utf-8", 200),
        (admin(), "POST", "/silences", "multipart/form-data", 415),
        (admin(), "POST", "/silences", "application/json", 200),
        (admin(), "DELETE", "/index", "text/plain", 200),
        (admin(), "POST", "/api/query", "text/plain", 200),
    ] {
        let found = ask(routes(), who, method, path, kind).await;
        assert_eq!(found.0, want, "{method} {path} {kind}: {}", found.1);
    }
}

#[tokio::test]
async fn routes_are_replaced_while_they_are_served_and_listed() {
    let live = LiveRoutes::default();
    let ask = |path: &'static str| {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Identity::unlimited("root"));
        let live = live.clone();
        async move { live.oneshot(request).await.unwrap().status().as_u16() }
    };
    assert_eq!(ask("/a").await, 404);
    live.set(Routes::new().on(Need::Read, Methods::Get, "/a", || async { "a" }));
    assert_eq!(ask("/a").await, 200);
    live.set(Routes::new().on(Need::Public, Methods::Get, "/b", || async { "b" }));
    assert_eq!((ask("/a").await, ask("/b").await), (404, 200));
    for (method, path, want) in [
        (Method::GET, "/b", true),
        (Method::HEAD, "/b", true),
        (Method::POST, "/b", false),
        (Method::GET, "/b/", false),
    ] {
        assert_eq!(live.is_public(&method, path), want, "{method} {path}");
    }
    let list: Vec<String> = routes()
        .list()
        .iter()
        .map(|route| format!("{} {} {}", route.methods.names().join("|"), route.path, route.need.name()))
        .collect();
    let want = [
        "GET|POST /api/query read",
        "ANY /api/* login",
        "POST /alerts write",
        "GET /alerts read",
        "POST|PUT /silences silence",
        "DELETE /index admin",
        "GET /metrics whole",
        "ANY /any login",
        "GET /ready public",
    ];
    assert_eq!(list, want);
}
