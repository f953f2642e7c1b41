//! The form by which people log in, and the end of their session: `/login` and `/logout`.
//!
//! In: requests of browsers that may not come in yet. Out: the form, cookies of a session. Touches nothing. The page's
//! style sheet is the page's own (`/static/page.css`); without it the form is plain.

use axum::body::{Body, to_bytes};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use crate::access::session::{COOKIE, CSRF_COOKIE, LASTS_MS};
use crate::access::{Access, AuditEvent};
use crate::login::Gate;
use crate::refusal::Refusal;
use crate::stream::Peer;

/// Bytes of the form.
const MAX_FORM: usize = 8 << 10;
/// Nothing but the style sheet is loaded, and the form goes to this host only.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Whether a request is for this file.
pub(crate) fn is_meant(head: &Parts, gate: &Gate) -> bool {
    matches!(head.uri.path(), "/login" | "/logout") && gate.is_required() && gate.access.is_some()
}

/// What people get whose request was refused for want of a login.
pub(crate) fn instead(head: &Parts, refusal: Refusal) -> Result<Response, Refusal> {
    let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_person = head.method == Method::GET && accept.contains("text/html");
    if refusal.status != StatusCode::UNAUTHORIZED || !is_person || head.headers.contains_key(header::AUTHORIZATION) {
        return Err(refusal);
    }
    let back = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Ok(redirect(&format!("/login?next={}", encoded(back)), &[]))
}

/// The form, or what became of it.
pub(crate) async fn answer(head: &Parts, body: Body, peer: &Peer, gate: &Gate) -> Result<Response, Refusal> {
    let Some(access) = &gate.access else { return Err(Refusal::new(StatusCode::NOT_FOUND, "not found")) };
    let is_tls = head.uri.scheme_str() == Some("https") || peer.is_tls || is_https_proxy(access, head, peer);
    match (head.uri.path(), &head.method) {
        ("/login", &Method::GET | &Method::HEAD) => {
            let next = parameter(head.uri.query().unwrap_or_default(), "next");
            Ok(form(&next.unwrap_or_default(), ""))
        }
        ("/login", &Method::POST) => {
            let form = to_bytes(body, MAX_FORM).await.map_err(|_| Refusal::bad("form can't be read"))?;
            let form = String::from_utf8_lossy(&form).into_owned();
            log_in(head, &form, peer, gate, access, is_tls).await
        }
        // The cookie is SameSite=Strict and `Origin` was checked: no other page can send this.
        ("/logout", &Method::POST) => {
            if let Some(session) = access.sessions().of(&head.headers, access.now_ms()) {
                note(AuditEvent::LOGOUT, session.name, head, peer, gate, access);
            }
            let ended = [cookie(COOKIE, "", 0, is_tls, true), cookie(CSRF_COOKIE, "", 0, is_tls, false)];
            Ok(redirect("/login", &ended))
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
    }
}

async fn log_in(
    head: &Parts,
    form_text: &str,
    peer: &Peer,
    gate: &Gate,
    access: &Access,
    is_tls: bool,
) -> Result<Response, Refusal> {
    let field = |name| parameter(form_text, name).unwrap_or_default();
    let (user, password, next) = (field("user"), field("password"), field("next"));
    // Checked as if it had come in the header: one way in for all.
    let (mut as_header, ()) = http::Request::new(()).into_parts();
    as_header.headers = head.headers.clone();
    let value = if user.is_empty() {
        format!("Bearer {password}")
    } else {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    };
    let value = HeaderValue::from_str(&value).map_err(|_| Refusal::bad("form can't be read"))?;
    as_header.headers.insert(header::AUTHORIZATION, value);
    as_header.headers.remove(header::COOKIE);
    let entered = match gate.identify(&as_header, peer).await {
        Ok(entered) => entered,
        Err(refusal) => {
            let mut answer = form(&next, &refusal.text);
            *answer.status_mut() = refusal.status;
            return Ok(answer);
        }
    };
    let Some(kind) = entered.kind else { return Err(Refusal::bad("log in through the proxy")) };
    let name = entered.who.name.to_string();
    let (session, csrf) = access.sessions().begin(kind, &name, access.now_ms());
    note(AuditEvent::LOGIN, name, head, peer, gate, access);
    let lasts = LASTS_MS / 1000;
    let cookies = [cookie(COOKIE, &session, lasts, is_tls, true), cookie(CSRF_COOKIE, &csrf, lasts, is_tls, false)];
    // Only to a path of this host: `//evil.example` would be another.
    let is_own = next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n']);
    Ok(redirect(if is_own { &next } else { "/" }, &cookies))
}

fn note(event: &'static str, user: String, head: &Parts, peer: &Peer, gate: &Gate, access: &Access) {
    let (address, listener) = (Some(access.address(&head.headers, peer)), gate.listener.to_string());
    access.note(AuditEvent { event, user, address, listener, ..AuditEvent::default() });
}

fn is_https_proxy(access: &Access, head: &Parts, peer: &Peer) -> bool {
    access.book().is_proxy(peer.address.ip())
        && head.headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
}

fn cookie(name: &str, value: &str, seconds: i64, is_tls: bool, http_only: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    let hidden = if http_only { "; HttpOnly" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={seconds}; SameSite=Strict{hidden}{secure}")
}

fn redirect(to: &str, cookies: &[String]) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(header::LOCATION, to);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for cookie in cookies.iter().filter_map(|cookie| HeaderValue::from_str(cookie).ok()) {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    answer
}

fn form(next: &str, error: &str) -> Response {
    let error = if error.is_empty() {
        String::new()
    } else {
        format!("<p role=\"alert\" class=\"error\">{}</p>", escaped(error))
    };
    let text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Log in - Millrace</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/static/page.css\"></head>\
         <body><main><h1>Millrace</h1>{error}<form method=\"post\" action=\"/login\">\
         <input type=\"hidden\" name=\"next\" value=\"{}\">\
         <p><label>User (empty for a token) <input name=\"user\" autocomplete=\"username\"></label></p>\
         <p><label>Password or token <input name=\"password\" type=\"password\" autocomplete=\"current-password\" required autofocus></label></p>\
         <p><button>Log in</button></p></form></main></body></html>",
        escaped(next)
    );
    let mut answer = Response::new(Body::from(text));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Percent-encoding of everything but letters, digits and `/`.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// A field of a form or a query.
fn parameter(text: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(text.as_bytes()).find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let found = instead(&head, Refusal::new(StatusCode::UNAUTHORIZED, "x"));
            let to = found.ok().map(|answer| answer.headers()["location"].to_str().unwrap().to_owned());
            assert_eq!(to.as_deref(), want, "{method} {accept}");
        }
    }

    #[test]
    fn forms_escape_what_they_show() {
        assert_eq!(escaped("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
        assert_eq!(parameter("user=a%20b&next=%2Fx", "next").as_deref(), Some("/x"));
    }
}
