//! Refusals of the listener (logins, limits) as Elasticsearch says them.
//!
//! In: a [`Refusal`]. Out: an [`ApiError`], or the whole answer. Touches nothing.

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use millrace_doors::refusal::Refusal;

use super::error::ApiError;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = refusal.status.as_u16();
        let kind = match status {
            400 => "parse_exception",
            401 | 403 => "security_exception",
            408 => "timeout_exception",
            413 => "content_too_large_exception",
            429 => "es_rejected_execution_exception",
            503 => "unavailable_exception",
            _ => "illegal_argument_exception",
        };
        Self { status, kind, reason: refusal.text }
    }
}

/// Refusals of the listener in the API's format.
pub fn refused(_: &Parts, refusal: Refusal) -> Response {
    let mut answer = ApiError::from(refusal.clone()).into_response();
    refusal.put_headers(&mut answer);
    product_header(&mut answer);
    answer
}

/// Clients of Elasticsearch 8 refuse servers without this header.
pub(super) fn product_header(answer: &mut Response) {
    let name = HeaderName::from_static("x-elastic-product");
    answer.headers_mut().insert(name, HeaderValue::from_static("Elasticsearch"));
}
