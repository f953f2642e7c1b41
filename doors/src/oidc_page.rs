//! Logins by a provider, in the browser: `/login/oidc` sends it there, `/login/oidc/callback` takes it back.
//!
//! In: requests of browsers. Out: redirects, pages, who has logged in. Touches the network, through the provider.

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;

use crate::access::Access;
use crate::access::oidc::attempt::{Attempt, COOKIE, LASTS_MS};
use crate::access::oidc::config::CALLBACK;
use crate::access::oidc::{Failed, Known, Oidc, refusal};
use crate::access::session::cookie;
use crate::browser::own_authority;
use crate::login_form::{Cookie, SameSite, encoded, failed, local, parameter, redirect, with_cookies};

/// Path of the link that begins a login.
pub(crate) const BEGIN: &str = "/login/oidc";

/// What a provider answers that would have to ask the person something (OpenID Connect Core 1.0, 3.1.2.6).
const NEEDS_PERSON: [&str; 4] =
    ["login_required", "interaction_required", "consent_required", "account_selection_required"];

/// A request of a browser.
pub(crate) struct Visit<'v> {
    pub head: &'v Parts,
    pub access: &'v Access,
    pub oidc: &'v Oidc,
    pub is_tls: bool,
    /// Whether only this host reaches the endpoint.
    pub is_loopback: bool,
}

/// What became of a login that came back.
pub(crate) enum Returned {
    /// It is somebody who may come in.
    Entered(Known, Attempt),
    /// Nobody, and what the person sees.
    Refused(Failed, Response),
    /// The provider would have to ask the person first: they log in by the page.
    Unknown(Response),
}

impl Visit<'_> {
    /// Sends the browser to the provider.
    pub async fn begin(&self) -> Response {
        let query = self.head.uri.query().unwrap_or_default();
        let next = parameter(query, "next").unwrap_or_default();
        let (next, is_silent) = (local(&next), parameter(query, "silent").is_some());
        let begun = async {
            let redirect_url = self.redirect_url()?;
            let (value, attempt) = self
                .access
                .attempts()
                .begin(next, is_silent, self.access.now_ms())
                .map_err(|error| Failed::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
            Ok((value, self.oidc.authorization(&attempt, &redirect_url).await?))
        };
        match begun.await {
            Ok((value, to)) => with_cookies(redirect(&to), &[self.cookie(&value, LASTS_MS / 1000)]),
            Err(Failed { status, text, .. }) => {
                tracing::warn!(reason = text, "login by the provider can't begin");
                failed(status, &text, next)
            }
        }
    }

    /// Takes the browser back.
    pub async fn callback(&self) -> Returned {
        let query = self.head.uri.query().unwrap_or_default();
        let given = |name| parameter(query, name).unwrap_or_default();
        let own = cookie(&self.head.headers, COOKIE).unwrap_or_default();
        let refused = |failure: Failed, next: &str| {
            let answer = failed(failure.status, &failure.text, next);
            Returned::Refused(failure, self.forget(answer))
        };
        let bad = |text: String| Failed::new(StatusCode::BAD_REQUEST, text);
        let attempt = match self.access.attempts().returned(own, &given("state"), self.access.now_ms()) {
            Ok(attempt) => attempt,
            // The cookie stays: it may be that of another window, whose login is under way.
            Err(error) => {
                let failure = bad(format!("this login can't be completed: {error}"));
                let answer = failed(failure.status, &failure.text, "/");
                return Returned::Refused(failure, answer);
            }
        };
        let (issuer, own_issuer) = (given("iss"), &self.oidc.plan.config.issuer);
        if !issuer.is_empty() && issuer != *own_issuer {
            return refused(bad("the answer is of another login provider".to_owned()), &attempt.next);
        }
        let error = given("error");
        if attempt.is_silent && NEEDS_PERSON.contains(&error.as_str()) {
            let to = format!("/login?next={}", encoded(local(&attempt.next)));
            return Returned::Unknown(self.forget(redirect(&to)));
        }
        if !error.is_empty() {
            let text = format!("the login provider refused: {}", refusal(&error, &given("error_description")));
            return refused(Failed::new(StatusCode::FORBIDDEN, text), &attempt.next);
        }
        let finished = async {
            let Ok(_place) = self.access.redeeming().try_acquire() else {
                let text = "too many logins at once: try again in a moment".to_owned();
                return Err(Failed::new(StatusCode::SERVICE_UNAVAILABLE, text));
            };
            let redirect_url = self.redirect_url()?;
            self.oidc.finish(&given("code"), &attempt, &redirect_url, self.access.now_ms()).await
        };
        match finished.await {
            Ok(known) => Returned::Entered(known, attempt),
            Err(failure) => refused(failure, &attempt.next),
        }
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
