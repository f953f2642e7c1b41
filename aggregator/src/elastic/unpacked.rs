//! Bodies of requests, decompressed within a limit and within the memory that all bodies of the process share.
//!
//! In: a request. Out: [`Unpacked`], or 413, 415 or 429 in Elasticsearch's JSON with the key of the limit. Touches nothing.
//! A body is read by the handler that wants it, so only for somebody who may ask.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use millrace_doors::limits::body_refusal;
use millrace_log::push::json::{TREE_ELEMENT_BYTES, elements};
use millrace_log::push::{Packed, PushError, Reserved, unpack};

use super::error::ApiError;
use super::state::Mounted;

/// Bytes of the body of a search at most, decompressed: one of some hundred KiB is large already.
const MAX_SEARCH: u64 = 4 << 20;
/// The same of `_msearch`, which holds many.
const MAX_SEARCHES: u64 = 16 << 20;
/// The key of the limit of writes.
const KEY: &str = "aggregator.elasticsearch.max_body_decompressed";
/// That of bodies as they are sent, which the listener checks.
const KEY_SENT: &str = "aggregator.elasticsearch.max_body";
/// Bodies above this are decompressed on a blocking thread.
const INLINE: usize = 32 << 10;

/// A body as the client meant it, and the memory that is reserved for it.
pub(super) struct Unpacked {
    /// The bytes.
    pub(super) bytes: Bytes,
    /// Given back when the answer is there.
    memory: Reserved,
}

/// What a body may be, by the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowed {
    bytes: u64,
    /// Where the limit comes from.
    key: &'static str,
    /// Whether all of it is parsed to a tree at once; writes reserve line by line.
    is_tree: bool,
}

fn allowed(path: &str, writes: u64) -> Allowed {
    match path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default() {
        "_msearch" => Allowed { bytes: MAX_SEARCHES.min(writes), key: "the limit of multi-searches", is_tree: true },
        "_search" | "_count" | "_field_caps" => {
            Allowed { bytes: MAX_SEARCH.min(writes), key: "the limit of searches", is_tree: true }
        }
        _ => Allowed { bytes: writes, key: KEY, is_tree: false },
    }
}

impl Allowed {
    fn too_large(self, found: u64) -> ApiError {
        let Self { bytes, key, .. } = self;
        let reason = format!("body has {found} bytes or more decompressed, {bytes} are allowed ({key})");
        ApiError { status: 413, kind: "content_too_large_exception", reason }
    }

    fn refusal(self, error: PushError) -> ApiError {
        match error {
            PushError::TooLarge { found, .. } => self.too_large(found),
            error => error.into(),
        }
    }
}

fn packed(headers: &HeaderMap) -> Result<Packed, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    let encoding = encoding.unwrap_or_default();
    // A form of its own, which only pushes have.
    let known = if encoding.trim().eq_ignore_ascii_case("snappy") { None } else { Packed::of(encoding).ok() };
    known.ok_or_else(|| ApiError {
        status: 415,
        kind: "media_type_header_exception",
        reason: format!("Content-Encoding [{encoding}] is not supported: send gzip, deflate, zstd, or no compression"),
    })
}

async fn read(mut body: Body, max: u64, allowed: Allowed, memory: &mut Reserved) -> Result<Bytes, ApiError> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // The listener's own limit, of the bytes that are sent, and its patience.
        let frame = frame.map_err(|error| ApiError::from(body_refusal(&error, max, KEY_SENT)))?;
        let Ok(data) = frame.into_data() else { continue };
        let found = (read.len() + data.len()) as u64;
        if found > allowed.bytes {
            return Err(allowed.too_large(found));
        }
        memory.grow(data.len() as u64).map_err(|error| allowed.refusal(error))?;
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

fn decoded(body: Bytes, packed: Packed, allowed: Allowed, mut memory: Reserved) -> Result<Unpacked, ApiError> {
    let bytes = unpack(body, packed, allowed.bytes, &mut memory).map_err(|error| allowed.refusal(error))?;
    let mut body = Unpacked { bytes, memory };
    if allowed.is_tree {
        body.as_tree()?;
    }
    Ok(body)
}

impl Unpacked {
    /// Reserves what the body takes as a tree, where its endpoint does not do so for all bodies.
    pub(super) fn as_tree(&mut self) -> Result<(), ApiError> {
        Ok(self.memory.grow(elements(&self.bytes).saturating_mul(TREE_ELEMENT_BYTES))?)
    }
}

impl FromRequest<Mounted> for Unpacked {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Mounted) -> Result<Self, ApiError> {
        let packed = packed(request.headers())?;
        let (max_body, allowed) = (state.0.max_body, allowed(request.uri().path(), state.0.max_body_decompressed));
        let mut memory = state.0.budget.begin();
        let body = read(request.into_body(), max_body, allowed, &mut memory).await?;
        if packed == Packed::No && (body.len() <= INLINE || !allowed.is_tree) {
            return decoded(body, packed, allowed, memory);
        }
        let work = tokio::task::spawn_blocking(move || decoded(body, packed, allowed, memory));
        work.await.unwrap_or_else(|_| Err(ApiError::ended_early()))
    }
}

#[cfg(test)]
mod tests {
    use millrace_fuzzing::memory;

    use super::*;

    #[test]
    fn what_is_reserved_covers_what_a_tree_takes() {
        let many = |one: &str| format!("[{}]", vec![one; 3000].join(","));
        for one in ["0", "{}", "[]", "[0]", r#"{"a":1}"#, r#""x""#, r#"{"a":{"b":[1,{"c":null}]}}"#] {
            let text = many(one);
            let (tree, held) = memory::most(|| serde_json::from_str::<serde_json::Value>(&text));
            let reserved = elements(text.as_bytes()) * TREE_ELEMENT_BYTES + text.len() as u64;
            assert!(tree.is_ok() && (1..=reserved).contains(&held), "{one}: {held} bytes held, {reserved} reserved");
        }
    }
}
