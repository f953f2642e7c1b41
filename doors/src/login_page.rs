//! The page by which people log in, and the end of their session: `/login`, `/login/oidc`, `/logout`.
//!
//! In: requests of browsers that may not come in yet, or leave. Out: pages, cookies of a session. Touches the network,
//! through the login provider.

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use crate::access::hash::is_equal;
use crate::access::oidc::config::CALLBACK;
use crate::access::oidc::{Failed, Oidc};
use crate::access::session::{Basis, COOKIE, CSRF_COOKIE, Kind, LASTS_MS};
use crate::access::{Access, AuditEvent};
use crate::login::Gate;
use crate::login_form::{Cookie, Form, SameSite, encoded, local, parameter, redirect, with_cookies};
use crate::login_form::{entered, form, leave, left, renewing};
use crate::oidc_page::{BEGIN, Returned, Visit};
use crate::refusal::Refusal;
use crate::stream::Peer;

/// Bytes of the form.
const MAX_FORM: usize = 8 << 10;

/// Whether a request is for this file.
pub(crate) fn is_meant(head: &Parts, gate: &Gate) -> bool {
    let is_own = matches!(head.uri.path(), "/login" | "/logout" | BEGIN | CALLBACK);
    is_own && gate.is_required() && gate.access.is_some()
}

/// What people get whose request was refused for want of a login.
pub(crate) fn instead(head: &Parts, gate: &Gate, refusal: Refusal) -> Result<Response, Refusal> {
    let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_person = head.method == Method::GET && accept.contains("text/html");
    if refusal.status != StatusCode::UNAUTHORIZED || !is_person || head.headers.contains_key(header::AUTHORIZATION) {
        return Err(refusal);
    }
    let back = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let next = encoded(back);
    // Whoever the provider still knows goes on without noticing.
    Ok(if gate.is_due(head) {
        renewing(&format!("{BEGIN}?silent=1&next={next}"))
    } else {
        redirect(&format!("/login?next={next}"))
    })
}

/// A request for one of the pages.
struct Desk<'d> {
    head: &'d Parts,
    peer: &'d Peer,
    gate: &'d Gate,
    access: &'d Access,
    is_tls: bool,
}

/// The pages, or what became of a login.
pub(crate) async fn answer(
    head: &Parts,
    body: Body,
    peer: &Peer,
    gate: &Gate,
    is_loopback: bool,
) -> Result<Response, Refusal> {
    let not_found = || Refusal::new(StatusCode::NOT_FOUND, "not found");
    let access = gate.access.as_ref().ok_or_else(not_found)?;
    let is_tls = head.uri.scheme_str() == Some("https") || peer.is_tls || is_https_proxy(access, head, peer);
    let desk = Desk { head, peer, gate, access, is_tls };
    let read = async {
        let form = to_bytes(body, MAX_FORM).await.map_err(|_| Refusal::bad("form can't be read"))?;
        Ok::<String, Refusal>(String::from_utf8_lossy(&form).into_owned())
    };
    match (head.uri.path(), &head.method) {
        ("/login", &Method::GET | &Method::HEAD) => {
            let next = parameter(head.uri.query().unwrap_or_default(), "next");
            Ok(desk.form(&next.unwrap_or_default(), ""))
        }
        ("/login", &Method::POST) => desk.log_in(&read.await?).await,
        ("/logout", &Method::GET | &Method::HEAD) => Ok(match gate.session(access, head) {
            Some(session) => leave(&session.of.basis.name, &session.csrf),
            None => redirect("/login"),
        }),
        ("/logout", &Method::POST) => desk.log_out(&read.await?),
        (BEGIN | CALLBACK, &Method::GET) => {
            let oidc = access.oidc().ok_or_else(not_found)?;
            let session = gate.session(access, head).map(|session| session.of);
            let visit = Visit { head, access, oidc: &oidc, session, is_tls, is_loopback };
            if head.uri.path() == BEGIN { Ok(visit.begin().await) } else { desk.come_back(&visit).await }
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
    }
}

impl Desk<'_> {
    fn form(&self, next: &str, error: &str) -> Response {
        let provider = self.access.oidc().map(|oidc| oidc.label());
        let has_passwords = self.gate.has_form();
        form(&Form { next, error, has_passwords, provider: provider.as_deref() })
    }

    async fn log_in(&self, form_text: &str) -> Result<Response, Refusal> {
        let field = |name| parameter(form_text, name).unwrap_or_default();
        let (user, password, next) = (field("user"), field("password"), field("next"));
        // Checked as if it had come in the header: one way in for all.
        let (mut as_header, ()) = http::Request::new(()).into_parts();
        as_header.headers = self.head.headers.clone();
        let value = if user.is_empty() { format!("Bearer {password}") } else { crate::login::basic(&user, &password) };
        let value = HeaderValue::from_str(&value).map_err(|_| Refusal::bad("form can't be read"))?;
        as_header.headers.insert(header::AUTHORIZATION, value);
        as_header.headers.remove(header::COOKIE);
        let known = match self.gate.identify(&as_header, self.peer).await {
            Ok(known) => known,
            Err(refusal) => {
                if refusal.status == StatusCode::FORBIDDEN {
                    // Answered by the form, not as a refusal.
                    self.access.note_failed(&self.gate.listener, self.address(), refusal.user, &refusal.text);
                }
                let mut answer = self.form(&next, &refusal.text);
                *answer.status_mut() = refusal.status;
                return Ok(answer);
            }
        };
        let Some(basis) = known.basis else {
            return Err(Refusal::bad(
                "no session begins by this login: log in through the proxy or the login provider",
            ));
        };
        let cookies = self.begin(&basis, "")?;
        Ok(with_cookies(redirect(local(&next)), &cookies))
    }

    /// Takes back a browser from the login provider.
    async fn come_back(&self, visit: &Visit<'_>) -> Result<Response, Refusal> {
        match visit.callback().await {
            Returned::Entered(known, attempt) => {
                if !known.left_out.is_empty() {
                    let left_out = known.left_out.join(", ");
                    tracing::info!(
                        user = known.name,
                        left_out,
                        "entries of access.oidc.grants can't be joined with the others"
                    );
                }
                let basis = Basis { kind: Kind::Oidc, name: known.name, grants: known.grants };
                // Somebody else at the provider: a login as any other.
                let is_same = attempt.renews.as_ref().is_some_and(|before| before.basis.name == basis.name);
                let renewed = if is_same { ", renewed" } else { "" };
                let cookies = self.begin(&basis, &format!("subject {}{renewed}", known.subject))?;
                if let Some(before) = attempt.renews.filter(|before| before.basis != basis) {
                    // Whoever has kept its cookie would have other rights.
                    self.access.sessions().end(&before, self.access.now_ms());
                }
                Ok(visit.forget(with_cookies(entered(&attempt.next), &cookies)))
            }
            // Nobody tried to log in.
            Returned::Unknown { session, error, answer } => {
                let detail = format!("not renewed by the login provider: {error}");
                self.access.end(&self.gate.listener, self.address(), &session, &detail);
                Ok(with_cookies(answer, &self.cookies("", "", 0)))
            }
            Returned::Refused { failure: Failed { text, user, status }, renews, answer } => {
                // What is guessed here has 256 random bits, and other pages can send browsers here: no address is
                // slowed down for it.
                self.access.login_failed(&self.gate.listener, self.address(), user, &text);
                match renews.filter(|_| matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) {
                    Some(before) => {
                        self.access.sessions().end(&before, self.access.now_ms());
                        Ok(with_cookies(answer, &self.cookies("", "", 0)))
                    }
                    None => Ok(answer),
                }
            }
            Returned::Postponed(answer) => Ok(answer),
        }
    }

    /// Cookies of a session that begins now.
    fn begin(&self, basis: &Basis, detail: &str) -> Result<Vec<String>, Refusal> {
        let unavailable = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no session can begin: try again");
        // Without an entry the login was removed just now.
        let entry = self.gate.entry(self.access, basis.kind, &basis.name).ok_or_else(unavailable)?;
        let begun = self.access.sessions().begin(basis, &entry, self.access.now_ms());
        let (session, csrf) = begun.map_err(|_| unavailable())?;
        self.access.note(AuditEvent {
            event: AuditEvent::LOGIN,
            user: basis.name.clone(),
            address: Some(self.address()),
            listener: self.gate.listener.to_string(),
            detail: detail.to_owned(),
            ..AuditEvent::default()
        });
        Ok(self.cookies(&session, &csrf, LASTS_MS / 1000))
    }

    fn cookies(&self, session: &str, csrf: &str, seconds: i64) -> Vec<String> {
        [(COOKIE, session, true), (CSRF_COOKIE, csrf, false)]
            .map(|(name, value, http_only)| {
                let cookie = Cookie { name, value, path: "/", seconds, same_site: SameSite::Strict, http_only };
                cookie.header(self.is_tls)
            })
            .to_vec()
    }

    fn log_out(&self, form_text: &str) -> Result<Response, Refusal> {
        let mut elsewhere = None;
        if let Some(session) = self.gate.session(self.access, self.head) {
            let given = parameter(form_text, "csrf").unwrap_or_default();
            let is_own = is_equal(session.csrf.as_bytes(), given.as_bytes());
            if !is_own && !self.access.sessions().is_own(&session, &self.head.headers) {
                let refusal = Refusal::new(StatusCode::FORBIDDEN, "the form is of another session: reload the page");
                return Err(Refusal { user: session.of.basis.name, ..refusal });
            }
            self.access.end(&self.gate.listener, self.address(), &session.of, "");
            let oidc = self.access.oidc().filter(|_| session.of.basis.kind == Kind::Oidc);
            elsewhere = oidc.and_then(|oidc: std::sync::Arc<Oidc>| Some((oidc.label(), oidc.end_session()?)));
        }
        let elsewhere = elsewhere.as_ref().map(|(provider, url)| (provider.as_str(), url.as_str()));
        Ok(with_cookies(left(elsewhere), &self.cookies("", "", 0)))
    }

    fn address(&self) -> std::net::IpAddr {
        self.access.address(&self.head.headers, self.peer)
    }
}

fn is_https_proxy(access: &Access, head: &Parts, peer: &Peer) -> bool {
    access.book().is_proxy(peer.address.ip())
        && head.headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
}

#[cfg(test)]
mod tests;
