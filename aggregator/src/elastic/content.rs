//! The body of a request, decompressed, and errors of bodies and logins as Elasticsearch says them.
//!
//! In: requests behind the layer that decompresses; refusals of the listener. Out: bytes within the limit, or an
//! [`ApiError`]. Touches nothing but the body.

use std::ops::Deref;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use futures::StreamExt as _;
use millrace_doors::limits::body_refusal;
use millrace_doors::refusal::Refusal;

use super::error::ApiError;
use super::state::Mounted;

/// Keys of the limits.
const KEY: &str = "aggregator.elasticsearch.max_body";
const KEY_DECOMPRESSED: &str = "aggregator.elasticsearch.max_body_decompressed";

/// A whole body.
pub(super) struct Content(pub(super) Bytes);

impl Deref for Content {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl FromRequest<Mounted> for Content {
    type Rejection = ApiError;

    async fn from_request(request: Request, mounted: &Mounted) -> Result<Self, ApiError> {
        let state = &mounted.0;
        read(request.into_body(), state.max_body, state.max_body_decompressed).await.map(Self)
    }
}

async fn read(body: Body, max: u64, max_decompressed: u64) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut all = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        // The listener's limit is on what was sent.
        let chunk = chunk.map_err(|error| ApiError::from(body_refusal(&error, max, KEY)))?;
        if (all.len() + chunk.len()) as u64 > max_decompressed {
            let reason = format!(
                "body has more than {max_decompressed} bytes when it is decompressed, {max_decompressed} are allowed \
                 (`{KEY_DECOMPRESSED}`)"
            );
            return Err(ApiError { status: 413, kind: "content_too_large_exception", reason });
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

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
