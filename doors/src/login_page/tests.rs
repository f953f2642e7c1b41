//! Logins by a provider as a browser meets them, and the end of sessions.

use std::sync::Arc;

use axum::Extension;
use http::Request;
use millrace_log::clock::{ManualClock, SharedClock};
use millrace_log::value::Secret;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::*;
use crate::access::Audit;
use crate::access::config::{AccessConfig, TokenConfig, UserConfig};
use crate::access::hash::{TokenHash, hash_password};
use crate::access::oidc::config::OidcConfig;
use crate::access::oidc::tests::config as oidc_config;
use crate::access::oidc::tests::fake::Fake;
use crate::browser::Bodies;
use crate::config::{Login, RequestLimits};
use crate::guard::{Guard, Guarded};
use crate::identity::{Identity, InSession, Role};
use crate::routes::{Methods, Need, Routes};
use crate::tenant::TenantRule;

/// Sessions that are renewed, and those that go on without the provider.
mod renewal;

#[derive(Default)]
struct Book(Mutex<Vec<AuditEvent>>);

impl Audit for Book {
    fn note(&self, event: AuditEvent) {
        self.0.lock().push(event);
    }
}

/// A browser with the cookies that it has, at the page of a listener.
struct Browser {
    app: Guarded,
    access: Access,
    clock: Arc<ManualClock>,
    audit: Arc<Book>,
    cookies: Mutex<Vec<(String, String)>>,
}

struct Answer {
    status: u16,
    location: String,
    set_cookies: Vec<String>,
    text: String,
}

impl Browser {
    fn new(config: &AccessConfig, is_loopback: bool) -> Self {
        let clock = ManualClock::at_ns(1_000_000_000_000);
        let access = Access::new(Arc::clone(&clock) as SharedClock).unwrap();
        access.replace(config).unwrap();
        let audit = Arc::new(Book::default());
        access.audited_by(Arc::clone(&audit) as Arc<dyn Audit>);
        let gate = Gate::open("test", &Login::default(), Some(access.clone()), !is_loopback).unwrap();
        let guard = Guard::new(gate, TenantRule::default(), RequestLimits::default(), crate::refusal::plain);
        let who = |Extension(who): Extension<Identity>, session: Option<Extension<InSession>>| async move {
            let csrf = session.map(|Extension(session)| session.csrf).unwrap_or_default();
            format!("{} {:?} {:?} {csrf}", who.name, who.rights.roles, who.rights.selector)
        };
        let routes = Routes::new().on(Need::Read, Methods::Get, "/", who).on(
            Need::Admin(Bodies::NoForms),
            Methods::Post,
            "/change",
            who,
        );
        let app = Arc::new(guard.reached_by(is_loopback, true)).mount(routes.into());
        Self { app, access, clock, audit, cookies: Mutex::default() }
    }

    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let own: Vec<String> = self.cookies.lock().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let builder = Request::builder().method(method).uri(target).header("accept", "text/html");
        let host = if headers.iter().any(|(name, _)| *name == "host") { None } else { Some("localhost:3100") };
        let builder = host.into_iter().fold(builder, |b, host| b.header("host", host));
        let builder = headers.iter().fold(builder.header("cookie", own.join("; ")), |b, (n, v)| b.header(*n, *v));
        let peer =
            Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: None, is_tls: false, names: Arc::new([]) };
        let answer = self.app.answer(&peer, builder.body(Body::from(body.to_owned())).unwrap()).await;
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let status = answer.status().as_u16();
        let location = answer.headers().get("location").map(text).unwrap_or_default();
        let set_cookies: Vec<String> = answer.headers().get_all("set-cookie").iter().map(text).collect();
        for cookie in &set_cookies {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            let mut own = self.cookies.lock();
            own.retain(|(known, _)| known != name);
            if !value.is_empty() {
                own.push((name.to_owned(), value.to_owned()));
            }
        }
        let bytes = to_bytes(answer.into_body(), 100_000).await.unwrap();
        Answer { status, location, set_cookies, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], "").await
    }

    /// Where the provider sends the browser back to, once somebody with these claims has logged in there.
    async fn at_provider(&self, fake: &Fake, code: &str, claims: Json) -> String {
        let begun = self.get("/login/oidc?next=/%3Fquery%3Dx").await;
        assert_eq!(begun.status, 303, "{}", begun.text);
        fake.logs_in(&begun.location, code, claims);
        let url = url::Url::parse(&begun.location).unwrap();
        let state = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        format!("/login/oidc/callback?code={code}&state={state}")
    }

    async fn logged_in(&self, fake: &Fake, code: &str, claims: Json) -> Answer {
        let back = self.at_provider(fake, code, claims).await;
        self.get(&back).await
    }

    /// Audit events of logins since the last time.
    fn events(&self) -> Vec<(&'static str, String, String)> {
        let events = std::mem::take(&mut *self.audit.0.lock());
        let events = events.into_iter().filter(|event| event.event.starts_with("log"));
        events.map(|event| (event.event, event.user, event.detail)).collect()
    }

    fn csrf(&self) -> String {
        self.cookies.lock().iter().find(|(name, _)| name == CSRF_COOKIE).unwrap().1.clone()
    }
}

fn config(fake: &Fake) -> AccessConfig {
    AccessConfig { oidc: Some(oidc_config(&fake.issuer())), ..AccessConfig::default() }
}

fn ann() -> Json {
    json!({"groups": ["sre"], "preferred_username": "ann", "sub": "17"})
}

#[tokio::test]
async fn people_log_in_by_the_provider_and_out_again() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    assert_eq!(browser.get("/").await.location, "/login?next=/");
    let page = browser.get("/login?next=/%3Fquery%3Dx").await;
    assert!(page.text.contains("href=\"/login/oidc?next=/%3Fquery%3Dx\">Log in with 127.0.0.1</a>"), "{}", page.text);
    assert!(!page.text.contains("<form"), "there are no passwords: {}", page.text);

    let begun = browser.get("/login/oidc?next=/%3Fquery%3Dx").await;
    assert_eq!(begun.set_cookies.len(), 1);
    assert!(begun.set_cookies[0].contains("; Path=/login/oidc; Max-Age=600; SameSite=Lax; HttpOnly"));
    let url = url::Url::parse(&begun.location).unwrap();
    let sent: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!((&*sent["tenant"], &*sent["scope"]), ("x", "openid groups"));
    assert_eq!(sent["redirect_uri"], "http://localhost:3100/login/oidc/callback");

    let entered = browser.logged_in(&fake, "c1", ann()).await;
    assert_eq!(entered.status, 200, "{}", entered.text);
    assert!(entered.text.contains("content=\"0; url=/?query=x\""), "{}", entered.text);
    let session = entered.set_cookies.iter().find(|cookie| cookie.starts_with("millrace_session=")).unwrap();
    assert!(session.contains("SameSite=Strict") && session.contains("HttpOnly"), "{session}");
    assert!(entered.set_cookies.iter().any(|cookie| cookie.starts_with("millrace_login=;")), "its cookie is gone");
    let page = browser.get("/").await;
    assert!(page.text.starts_with("oidc:ann [Admin] None ") && page.text.ends_with(&browser.csrf()), "{}", page.text);
    assert_eq!(browser.send("POST", "/change", &[], "").await.status, 403, "without the token");
    let csrf = browser.csrf();
    assert_eq!(browser.send("POST", "/change", &[("x-csrf-token", csrf.as_str())], "").await.status, 200);
    assert_eq!(browser.events(), [("login", "oidc:ann".to_owned(), "subject 17".to_owned())]);

    // Out: with the token only, for good, also for whoever has kept the cookie.
    let kept = browser.cookies.lock().clone();
    assert!(browser.get("/logout").await.text.contains(&format!("name=\"csrf\" value=\"{csrf}\"")));
    assert_eq!(browser.send("POST", "/logout", &[], "csrf=wrong").await.status, 403);
    assert_eq!(browser.get("/").await.status, 200);
    let left = browser.send("POST", "/logout", &[], &format!("csrf={csrf}")).await;
    assert!(
        left.status == 200 && left.text.contains("/end?client_id=millrace\">Log out at 127.0.0.1 too"),
        "{}",
        left.text
    );
    assert!(browser.cookies.lock().is_empty());
    *browser.cookies.lock() = kept;
    assert_eq!(browser.get("/").await.status, 303, "the session has ended");
    assert_eq!(browser.events(), [("logout", "oidc:ann".to_owned(), String::new())]);
    assert_eq!(browser.send("POST", "/logout", &[], "").await.status, 200, "again");
    assert_eq!(browser.events(), []);
}

#[tokio::test]
async fn logins_that_come_back_wrong_are_refused() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    let back = browser.at_provider(&fake, "c1", ann()).await;
    for (target, status, text) in [
        ("/login/oidc/callback", 400, "not begun in this browser"),
        ("/login/oidc/callback?code=c1&state=wrong", 400, "not begun in this browser"),
        ("/login/oidc/callback?error=x&error_description=call+0123&state=wrong", 400, "not begun in this browser"),
    ] {
        let answer = browser.get(target).await;
        assert!(answer.status == status && answer.text.contains(text), "{target}: {}", answer.text);
        assert!(!answer.text.contains("0123"), "nobody else's text is shown");
    }
    let own = browser.cookies.lock().clone();
    browser.cookies.lock().clear();
    assert_eq!(browser.get(&back).await.status, 400, "another browser");
    *browser.cookies.lock() = own.clone();
    assert_eq!(browser.get(&back).await.status, 200);
    let session = browser.cookies.lock().clone();

    // A second time: refused, whatever the browser has.
    *browser.cookies.lock() = own;
    let repeated = browser.get(&back).await;
    assert!(repeated.status == 400 && repeated.text.contains("completed before"), "{}", repeated.text);
    *browser.cookies.lock() = session;
    assert_eq!(browser.get("/").await.status, 200, "the session goes on");
    browser.cookies.lock().clear();

    let late = browser.at_provider(&fake, "c2", ann()).await;
    browser.clock.advance(std::time::Duration::from_secs(600));
    assert!(browser.get(&late).await.text.contains("longer than 10 minutes"));

    browser.events();
    for (name, claims, more, status, text) in [
        ("another login's nonce", json!({"groups": ["sre"], "nonce": "x"}), "", 401, "(nonce)"),
        ("another client", json!({"groups": ["sre"], "aud": "other"}), "", 401, "another audience"),
        ("made for another client", json!({"groups": ["sre"], "azp": "other"}), "", 401, "(azp)"),
        ("for several, made for nobody", json!({"groups": ["sre"], "aud": ["millrace", "b"]}), "", 401, "(azp)"),
        ("expired", json!({"groups": ["sre"], "exp": 900}), "", 401, "has expired"),
        ("no group", json!({"groups": ["x"]}), "", 403, "none of your groups"),
        ("another provider", ann(), "&iss=https://evil.example", 400, "another login provider"),
        (
            "refused",
            ann(),
            "&error=access_denied&error_description=%3Cb%3Eno%3C/b%3E",
            403,
            "access_denied (&lt;b&gt;no&lt;/b&gt;)",
        ),
        ("an unknown code", ann(), "x", 401, "invalid_grant (unknown &lt;code&gt;)"),
    ] {
        let mut back = browser.at_provider(&fake, "c", claims).await;
        match more {
            "x" => back = back.replace("code=c&", "code=d&"),
            more => back.push_str(more),
        }
        let answer = browser.get(&back).await;
        assert!(answer.status == status && answer.text.contains(text), "{name}: {} {}", answer.status, answer.text);
        assert!(answer.text.contains("/login?next=/%3Fquery%3Dx"), "{name}: {}", answer.text);
        assert!(browser.cookies.lock().is_empty(), "{name}");
        let events = browser.events();
        assert!(events.len() == 1 && events[0].0 == "login_failed", "{name}: {events:?}");
    }
    fake.set_down(true);
    browser.access.oidc().unwrap().provider.refresh(std::time::Duration::ZERO).await;
    let begun = browser.get("/login/oidc?next=//evil.example").await;
    assert_eq!(begun.status, 303, "what was known of the provider remains");
    assert!(browser.access.notice().unwrap().contains("known keys remain valid"));
}

#[tokio::test]
async fn groups_may_come_from_the_user_information() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    for (info, status) in [
        (json!({"sub": "17", "groups": ["pay"], "preferred_username": "bob", "iss": "x"}), 200),
        (json!({"sub": "18", "groups": ["sre"]}), 401),
        (json!({"groups": ["sre"]}), 401),
        (json!({"sub": "17"}), 403),
    ] {
        fake.set_user_info(info.clone());
        let answer = browser.logged_in(&fake, "c", json!({"sub": "17"})).await;
        assert_eq!(answer.status, status, "{info}: {}", answer.text);
        if status == 200 {
            let page = browser.get("/").await;
            assert!(page.text.starts_with(r#"oidc:bob [Read] Some("{team=\"pay\"}")"#), "{}", page.text);
        }
    }
}

#[tokio::test]
async fn the_way_back_is_made_of_names_that_are_configured() {
    let fake = Fake::start().await;
    let begun = async |hosts: &[&str], redirect_url: &str, is_loopback: bool, host: &str| {
        let mut config = config(&fake);
        config.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        if let Some(oidc) = &mut config.oidc {
            oidc.redirect_url = redirect_url.to_owned();
        }
        let browser = Browser::new(&config, is_loopback);
        let answer = browser.send("GET", "/login/oidc", &[("host", host)], "").await;
        let url = url::Url::parse(&answer.location).ok();
        let sent = url.and_then(|url| Some(url.query_pairs().find(|(name, _)| name == "redirect_uri")?.1.into_owned()));
        (answer.status, sent)
    };
    let fixed = "https://logs.example.org/login/oidc/callback";
    for (hosts, redirect_url, is_loopback, host, want) in [
        (&[][..], "", true, "127.0.0.1:3100", Ok("http://127.0.0.1:3100/login/oidc/callback")),
        (&[], "", true, "[::1]:3100", Ok("http://[::1]:3100/login/oidc/callback")),
        (&[], "", true, "evil.example", Err(421)),
        (&["logs.example.org"], "", true, "logs.example.org", Ok("http://logs.example.org/login/oidc/callback")),
        (&[], "", false, "evil.example", Err(421)),
        (&[], "", false, "localhost", Err(421)),
        (&[], "", false, "192.0.2.7", Err(421)),
        (&["logs.example.org"], "", false, "logs.example.org:80", Ok("http://logs.example.org:80/login/oidc/callback")),
        (&["logs.example.org"], "", false, "x@logs.example.org", Err(421)),
        (&["logs.example.org"], "", false, "evil.example", Err(421)),
        (&[], fixed, false, "evil.example", Ok(fixed)),
    ] {
        let (status, sent) = begun(hosts, redirect_url, is_loopback, host).await;
        match want {
            Ok(want) => assert_eq!((status, sent.as_deref()), (303, Some(want)), "{host}"),
            Err(want) => assert_eq!((status, sent), (want, None), "{host}"),
        }
    }
}

#[tokio::test]
async fn sessions_end_when_their_login_changes_at_a_reload() {
    let fake = Fake::start().await;
    let user = |password: &str, role| UserConfig {
        name: "alice".to_owned(),
        hash: Secret::new(hash_password(password).unwrap()),
        roles: vec![role],
        tenants: vec!["default".to_owned()],
        selector: String::new(),
    };
    let token = |secret: &str, expires: &str| TokenConfig {
        name: "reader".to_owned(),
        hash: Secret::new(TokenHash::of(secret).to_string()),
        roles: vec![Role::Read],
        tenants: vec!["default".to_owned()],
        selector: String::new(),
        expires: expires.to_owned(),
    };
    let before =
        AccessConfig { users: vec![user("hunter2", Role::Admin)], tokens: vec![token("mlr_x", "")], ..config(&fake) };
    type Edit<'e> = &'e dyn Fn(&mut AccessConfig);
    fn oidc(config: &mut AccessConfig) -> &mut OidcConfig {
        config.oidc.as_mut().unwrap()
    }
    let cases: [(&str, &str, Edit<'_>, bool); 13] = [
        ("alice", "nothing", &|_| {}, true),
        ("alice", "another login", &|c| c.tokens.clear(), true),
        ("alice", "the password", &|c| c.users[0] = user("hunter3", Role::Admin), false),
        ("alice", "the roles", &|c| c.users[0].roles = vec![Role::Read], false),
        ("alice", "the selector", &|c| c.users[0].tenants = vec!["*".to_owned()], false),
        ("alice", "the user", &|c| c.users.clear(), false),
        ("reader", "nothing", &|_| {}, true),
        ("reader", "the token", &|c| c.tokens[0] = token("mlr_y", ""), false),
        ("reader", "its end", &|c| c.tokens[0] = token("mlr_x", "2100-01-01"), false),
        ("oidc", "the secret of the client", &|c| oidc(c).client_secret = Secret::new("x"), true),
        ("oidc", "the grants", &|c| drop(oidc(c).grants.pop()), false),
        ("oidc", "the client", &|c| oidc(c).client_id = "other".to_owned(), false),
        ("oidc", "the provider", &|c| c.oidc = None, false),
    ];
    for (who, what, edit, stays) in cases {
        let browser = Browser::new(&before, true);
        match who {
            "alice" => drop(browser.send("POST", "/login", &[], "user=alice&password=hunter2").await),
            "reader" => drop(browser.send("POST", "/login", &[], "user=&password=mlr_x").await),
            _ => drop(browser.logged_in(&fake, "c", ann()).await),
        }
        assert_eq!(browser.get("/").await.status, 200, "{who}");
        let mut after = before.clone();
        edit(&mut after);
        browser.access.replace(&after).unwrap();
        assert_eq!(browser.get("/").await.status == 200, stays, "{who}: {what}");
        browser.access.replace(&before).unwrap();
    }
}

#[tokio::test]
async fn programs_log_in_with_tokens_of_the_provider() {
    let fake = Fake::start().await;
    let browser = Browser::new(&config(&fake), true);
    let ask = async |token: &str| {
        let headers = [("authorization", format!("Bearer {token}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = browser.send("GET", "/", &headers, "").await;
        (answer.status, answer.text)
    };
    let good = fake.token(&json!({"groups": ["pay"], "sub": "ci"}));
    let (status, text) = ask(&good).await;
    assert!(status == 200 && text.starts_with(r#"oidc:ci [Read] Some("{team=\"pay\"}")"#), "{status} {text}");
    for (token, want) in [
        (format!("{good}x"), 401),
        (fake.token(&json!({"groups": ["x"]})), 403),
        (fake.token(&json!({"groups": ["sre"], "aud": "other"})), 401),
        ("mlr_x".to_owned(), 401),
    ] {
        assert_eq!(ask(&token).await.0, want, "{token}");
    }
    // Of a token whose groups have no role: one event that says who asked for what, and why it was refused.
    browser.audit.0.lock().clear();
    let nobodys = fake.token(&json!({"groups": ["x"], "preferred_username": "eve"}));
    assert_eq!(ask(&nobodys).await.0, 403);
    let form = browser.send("POST", "/login", &[], &format!("user=&password={nobodys}")).await;
    assert_eq!(form.status, 403, "{}", form.text);
    let events: Vec<String> = browser
        .audit
        .0
        .lock()
        .drain(..)
        .map(|e| format!("{}|{}|{}|{}|{}", e.event, e.user, e.address.unwrap(), e.listener, e.detail))
        .collect();
    let why = "the token is valid, but none of its groups has an entry in access.oidc.grants";
    let want = [
        format!("access_denied|oidc:eve|127.0.0.1|test|GET /: {why}"),
        format!("login_failed|oidc:eve|127.0.0.1|test|{why}"),
    ];
    assert_eq!(events, want);
    // No session begins by one: it would outlive the token.
    let form = browser.send("POST", "/login", &[], &format!("user=&password={good}")).await;
    assert_eq!((form.status, form.set_cookies.len()), (400, 0), "{}", form.text);
}

#[test]
fn people_are_sent_to_the_form_and_programs_are_not() {
    for (method, accept, authorization, want) in [
        ("GET", "text/html,*/*", None, Some("/login?next=/%3Fq%3D%7Ba%7D")),
        ("GET", "*/*", None, None),
        ("POST", "text/html", None, None),
        ("GET", "text/html", Some("Bearer x"), None),
    ] {
        let builder = http::Request::builder().method(method).uri("/?q={a}").header("accept", accept);
        let builder = authorization.iter().fold(builder, |b, value| b.header("authorization", *value));
        let (head, ()) = builder.body(()).unwrap().into_parts();
        let gate = Gate::open("test", &Login::default(), None, false).unwrap();
        let found = instead(&head, &gate, Refusal::new(StatusCode::UNAUTHORIZED, "x"));
        let to = found.ok().map(|answer| answer.headers()["location"].to_str().unwrap().to_owned());
        assert_eq!(to.as_deref(), want, "{method} {accept}");
    }
}
