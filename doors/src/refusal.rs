//! Refusals of requests: an HTTP status, a text for people, and when to try again.
//!
//! In: what was wrong. Out: an answer in plain text, or what a crate's [`Render`] makes of it in its API's own format.
//! Touches nothing.

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use millrace_log::push::PushError;
use millrace_log::record::RecordError;

use crate::identity::Identity;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status of the answer.
    pub status: StatusCode,
    /// What is wrong and what to do.
    pub text: String,
    /// Seconds after which a repeat makes sense.
    pub retry_after: Option<u32>,
    /// Value of `WWW-Authenticate`: ways to log in.
    pub challenge: Option<HeaderValue>,
    /// Who is refused, where nobody was let in whose name is known: for the audit event.
    pub user: String,
}

/// Writes a refusal in the format of an API. The status may be another (gRPC answers 200), headers may be added.
pub type Render = fn(&Parts, Refusal) -> Response;

impl Refusal {
    /// With a status and a text.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_after: None, challenge: None, user: String::new() }
    }

    /// 400.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 403 for somebody without a role.
    pub fn lacking(who: &Identity, role: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("`{}` may not do this: it needs the role `{role}`", who.name))
    }

    /// As an answer that the guard in front of all routes writes anew in the format of its API.
    pub(crate) fn marked(self) -> Response {
        let mut answer = self.clone().answer();
        answer.extensions_mut().insert(self);
        answer
    }

    /// The headers of the answer, onto one that has its body already.
    pub fn put_headers(&self, answer: &mut Response) {
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = &self.challenge {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.clone());
        }
    }

    /// As plain text.
    pub fn answer(self) -> Response {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = self.status;
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        self.put_headers(&mut answer);
        *answer.body_mut() = Body::from(self.text);
        answer
    }
}

/// A [`Render`] for APIs without a format of their own.
pub fn plain(_: &Parts, refusal: Refusal) -> Response {
    refusal.answer()
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        let status = match error {
            PushError::Bad(_) => StatusCode::BAD_REQUEST,
            PushError::Empty(_) => StatusCode::UNPROCESSABLE_ENTITY,
            PushError::TooLarge { .. } | PushError::Costly { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            PushError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
        };
        let mut refusal = Self::new(status, error.to_string());
        refusal.retry_after = (status == StatusCode::TOO_MANY_REQUESTS).then_some(1);
        refusal
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        Self::bad(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_become_answers_with_their_headers() {
        let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "try again");
        refusal.retry_after = Some(5);
        refusal.challenge = Some(HeaderValue::from_static("Bearer"));
        let answer = refusal.answer();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(Refusal::from(PushError::TooLarge { found: 2, allowed: 1 }).status, 413);
    }
}
