//! Logins by a provider, in the browser: `/login/oidc` sends it there, `/login/oidc/callback` takes it back.
//!
//! In: requests of browsers. Out: redirects, pages, who has logged in. Touches the network, through the provider.

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;

use crate::access::Access;
use crate::access::oidc::attempt::{Attempt, COOKIE, LASTS_MS};
use crate::access::oidc::config::CALLBACK;
use crate::access::oidc::{Failed, Known, Oidc, refusal};
use crate::access::session::{SessionRef, cookie};
use crate::browser::own_authority;
use crate::login_form::{
    Cookie, SameSite, encoded, entered, failed, local, parameter, postponed, redirect, with_cookies,
};

/// Path of the link that begins a login.
pub(crate) const BEGIN: &str = "/login/oidc";

/// What a provider answers that would have to ask the person something (OpenID Connect Core 1.0, 3.1.2.6).
const NEEDS_PERSON: [&str; 4] =
    ["login_required", "interaction_required", "consent_required", "account_selection_required"];
/// What it answers that is its own fault (RFC 6749, 4.1.2.1).
const OUTAGES: [&str; 2] = ["server_error", "temporarily_unavailable"];
/// How long a login waits while others are redeemed.
const WAITS: Duration = Duration::from_secs(3);

/// A request of a browser.
pub(crate) struct Visit<'v> {
    pub head: &'v Parts,
    pub access: &'v Access,
    pub oidc: &'v Oidc,
    /// The session that the browser has. Browsers leave it out where another site sent them here.
    pub session: Option<SessionRef>,
    pub is_tls: bool,
    /// Whether only this host reaches the endpoint.
    pub is_loopback: bool,
}

/// What became of a login that came back.
pub(crate) enum Returned {
    /// It is somebody who may come in.
    Entered(Known, Attempt),
    /// Nobody, and what the person sees.
    Refused { failure: Failed, renews: Option<SessionRef>, answer: Response },
    /// The provider would have to ask the person first: they log in by the page.
    Unknown { session: SessionRef, error: String, answer: Response },
    /// Nobody knows whether the session may go on, through no fault of the person.
    Postponed(Response),
}

impl Visit<'_> {
    /// Sends the browser to the provider.
    pub async fn begin(&self) -> Response {
        let query = self.head.uri.query().unwrap_or_default();
        let next = parameter(query, "next").unwrap_or_default();
        let next = local(&next);
        let renews = match &self.session {
            _ if parameter(query, "silent").is_none() => None,
            Some(session) if self.access.is_due(session) => Some(session),
            // Another window was faster.
            Some(_) => return redirect(next),
            // It is over, or another site sent the browser here.
            None => return redirect(&format!("/login?next={}", encoded(next))),
        };
        if let Some((_, error)) = self.oidc.provider.trouble().filter(|_| renews.is_some()) {
            // Otherwise the browser would be left with an error of its own, at the provider's address.
            return postponed(&error, next);
        }
        let begun = async {
            let redirect_url = self.redirect_url()?;
            let (value, attempt) = self
                .access
                .attempts()
                .begin(next, renews, self.access.now_ms())
                .map_err(|error| Failed::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
            Ok((value, self.oidc.authorization(&attempt, &redirect_url).await?))
        };
        match begun.await {
            Ok((value, to)) => with_cookies(redirect(&to), &[self.cookie(&value, LASTS_MS / 1000)]),
            Err(failure) => {
                let Failed { status, text, .. } = &failure;
                tracing::warn!(reason = text, "login by the provider can't begin");
                match renews.filter(|_| failure.is_outage()) {
                    Some(_) => postponed(text, next),
                    None => failed(*status, text, next),
                }
            }
        }
    }

    /// Takes the browser back.
    pub async fn callback(&self) -> Returned {
        let query = self.head.uri.query().unwrap_or_default();
        let given = |name| parameter(query, name).unwrap_or_default();
        let own = cookie(&self.head.headers, COOKIE).unwrap_or_default();
        let bad = |text: String| Failed::new(StatusCode::BAD_REQUEST, text);
        let attempt = match self.access.attempts().returned(own, &given("state"), self.access.now_ms()) {
            Ok(attempt) => attempt,
            // The cookie stays: it may be that of another window, whose login is under way.
            Err(error) => {
                let failure = bad(format!("this login can't be completed: {error}"));
                let answer = failed(failure.status, &failure.text, "/");
                return Returned::Refused { failure, renews: None, answer };
            }
        };
        let refused = |failure: Failed| {
            let answer = self.forget(failed(failure.status, &failure.text, &attempt.next));
            Returned::Refused { failure, renews: attempt.renews.clone(), answer }
        };
        let (issuer, own_issuer) = (given("iss"), &self.oidc.plan.config.issuer);
        if !issuer.is_empty() && issuer != *own_issuer {
            return refused(bad("the answer is of another login provider".to_owned()));
        }
        let error = given("error");
        if let Some(session) = attempt.renews.clone()
            && NEEDS_PERSON.contains(&error.as_str())
        {
            let to = format!("/login?next={}", encoded(local(&attempt.next)));
            return Returned::Unknown { session, error, answer: self.forget(redirect(&to)) };
        }
        if !error.is_empty() {
            let is_outage = OUTAGES.contains(&error.as_str());
            let text = format!("the login provider refused: {}", refusal(&error, &given("error_description")));
            if let Some(session) = attempt.renews.as_ref().filter(|_| is_outage) {
                self.oidc.provider.failed(&text);
                return self.postpone(session, &text, &attempt.next);
            }
            return refused(Failed::new(StatusCode::FORBIDDEN, text));
        }
        let Ok(Ok(_place)) = tokio::time::timeout(WAITS, self.access.redeeming().acquire()).await else {
            let text = "too many logins at once: try again in a moment";
            return match &attempt.renews {
                Some(session) => self.postpone(session, text, &attempt.next),
                None => refused(Failed::new(StatusCode::SERVICE_UNAVAILABLE, text)),
            };
        };
        let finished = async {
            let redirect_url = self.redirect_url()?;
            self.oidc.finish(&given("code"), &attempt, &redirect_url, self.access.now_ms()).await
        };
        match (finished.await, &attempt.renews) {
            (Ok(known), _) => Returned::Entered(known, attempt),
            (Err(failure), Some(session)) if failure.is_outage() => {
                self.oidc.provider.failed(&failure.text);
                self.postpone(session, &failure.text, &attempt.next)
            }
            (Err(failure), _) => refused(failure),
        }
    }

    /// Lets a session go on that was not due when the outage began; whoever else has one waits.
    fn postpone(&self, session: &SessionRef, error: &str, next: &str) -> Returned {
        let is_due = self.access.is_due(session);
        Returned::Postponed(self.forget(if is_due { postponed(error, next) } else { entered(next) }))
    }

    /// The cookie of the login is of no more use.
    pub fn forget(&self, answer: Response) -> Response {
        with_cookies(answer, &[self.cookie("", 0)])
    }

    fn cookie(&self, value: &str, seconds: i64) -> String {
        let cookie = Cookie {
            name: COOKIE,
            value,
            path: BEGIN,
            seconds,
            // The provider, another site, sends the browser back.
            same_site: SameSite::Lax,
            http_only: true,
        };
        cookie.header(self.is_tls)
    }

    /// Where the provider sends the browser back to: as configured, or by a name that is configured. Never what a request
    /// says alone.
    fn redirect_url(&self) -> Result<String, Failed> {
        let configured = &self.oidc.plan.config.redirect_url;
        if !configured.is_empty() {
            return Ok(configured.clone());
        }
        let book = self.access.book();
        match own_authority(self.head, self.is_loopback, &book.hosts) {
            Some(authority) => {
                let scheme = if self.is_tls { "https" } else { "http" };
                Ok(format!("{scheme}://{authority}{CALLBACK}"))
            }
            None => Err(Failed::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this host name is not configured: set access.oidc.redirect_url, or list the name in access.hosts",
            )),
        }
    }
}
