//! Alerts as clients post them: the body of `POST /api/v2/alerts`.
//!
//! In: the body. Out: alerts, or go-openapi's status, code and text. Touches nothing. Memory is reserved before it is taken.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::DateTime;
use millrace_log::alert::NewAlert;
use millrace_log::push::json::cost;
use millrace_log::push::{PushError, Reserved};
use serde::Deserialize;

/// What an element of a body takes in memory at most: a map of one label is a node with room for eleven.
const ELEMENT_BYTES: u64 = 400;

/// Bytes of the host of a URI at most, with what stands before it.
const MAX_HOST: usize = 1024;

/// Why a body can't be used.
#[derive(Debug, PartialEq)]
pub(crate) struct PostedFault {
    /// Status of the answer.
    pub status: StatusCode,
    /// Code of go-openapi; 0: the answer is the text alone.
    pub code: u16,
    /// What is wrong.
    pub message: String,
}

impl PostedFault {
    pub(crate) fn new(status: StatusCode, code: u16, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedAlert {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    #[serde(rename = "generatorURL")]
    generator_url: Option<String>,
}

/// A posted time; Go's zero time and an empty text mean none. Times beyond the years 1677–2262 are cut to them.
pub(crate) fn posted_time(text: Option<&str>) -> Result<Option<i64>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let time = DateTime::parse_from_rfc3339(text).map_err(|e| format!("parsing time {text:?} failed: {e}"))?;
    if time.timestamp() == -62_135_596_800 {
        return Ok(None);
    }
    let cut = if time.timestamp() < 0 { i64::MIN } else { i64::MAX };
    Ok(Some(time.timestamp_nanos_opt().unwrap_or(cut)))
}

/// Whether a text is a URI. None has a longer host than names may have (253 bytes, RFC 1035) and a login; the library would
/// take many times the bytes of one while it reads it.
fn is_uri(text: &str) -> bool {
    let host = text.split_once("//").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    host.len() <= MAX_HOST && url::Url::parse(text).is_ok()
}

/// Reads the body of a post, within the memory that can be reserved for it.
pub(crate) fn posted(body: &[u8], memory: &mut Reserved) -> Result<Vec<NewAlert>, PostedFault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 602, "alerts in body is required"));
    }
    let unreadable = |message: String| {
        let message = format!("parsing alerts body from \"\" failed, because {message}");
        PostedFault::new(StatusCode::BAD_REQUEST, 400, message)
    };
    memory.grow(cost(body, ELEMENT_BYTES)).map_err(|error| match error {
        PushError::Busy { .. } => PostedFault::new(StatusCode::TOO_MANY_REQUESTS, 429, error.to_string()),
        error => PostedFault::new(StatusCode::PAYLOAD_TOO_LARGE, 413, error.to_string()),
    })?;
    let list: Vec<PostedAlert> = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
    let mut alerts = Vec::with_capacity(list.len());
    for (at, alert) in list.into_iter().enumerate() {
        let Some(labels) = alert.labels else {
            let message = format!("{at}.labels in body is required");
            return Err(PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 602, message));
        };
        let generator_url = alert.generator_url.unwrap_or_default();
        if !generator_url.is_empty() && !is_uri(&generator_url) {
            let message = format!("{at}.generatorURL in body must be of type uri: {generator_url:?}");
            return Err(PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 601, message));
        }
        alerts.push(NewAlert {
            labels,
            annotations: alert.annotations.unwrap_or_default(),
            starts_at_ns: posted_time(alert.starts_at.as_deref()).map_err(unreadable)?,
            ends_at_ns: posted_time(alert.ends_at.as_deref()).map_err(unreadable)?,
            generator_url,
        });
    }
    Ok(alerts)
}

#[cfg(test)]
mod tests {
    use millrace_fuzzing::memory;
    use millrace_log::push::DecodeBudget;

    use super::*;

    #[test]
    fn elements_of_two_bytes_are_refused_before_they_are_made() {
        let body = format!("[{}]", vec!["{}"; 10_000].join(","));
        let fault = posted(body.as_bytes(), &mut DecodeBudget::new(1 << 20).begin()).unwrap_err();
        assert_eq!((fault.status, fault.code), (StatusCode::PAYLOAD_TOO_LARGE, 413));
        assert!(fault.message.contains("limits.decode_memory"), "{}", fault.message);
    }

    #[test]
    fn hosts_beyond_what_names_may_have_are_refused_before_they_are_read() {
        let body = |host: &str| format!(r#"[{{"labels":{{"a":"b"}},"generatorURL":"http://{host}/x?y"}}]"#);
        for (host, is_taken) in [
            ("h".to_owned(), true),
            ("größe.example".to_owned(), true),
            ("a".repeat(MAX_HOST), true),
            ("\u{319f9}9".repeat(MAX_HOST), false),
        ] {
            let body = body(&host);
            let budget = DecodeBudget::new(1 << 20);
            let mut reserved = budget.begin();
            let (got, held) = memory::most(|| posted(body.as_bytes(), &mut reserved));
            assert!(held <= budget.state().0 + (16 << 10), "{held} bytes for {host}");
            assert_eq!(got.map(|_| ()).map_err(|fault| fault.code), if is_taken { Ok(()) } else { Err(601) }, "{host}");
        }
    }

    #[test]
    fn posted_times_may_be_zero() {
        for (text, want) in [
            (None, Some(None)),
            (Some(""), Some(None)),
            (Some("0001-01-01T00:00:00Z"), Some(None)),
            (Some("1970-01-01T01:00:00.5+01:00"), Some(Some(500_000_000))),
            (Some("9999-01-01T00:00:00Z"), Some(Some(i64::MAX))),
            (Some("now"), None),
        ] {
            assert_eq!(posted_time(text).ok(), want, "{text:?}");
        }
    }
}
