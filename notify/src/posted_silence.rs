//! Silences as clients post them: the body of `POST /api/v2/silences`.
//!
//! In: the body. Out: a silence, or go-openapi's status, code and text. Touches nothing.

use axum::http::StatusCode;
use serde::Deserialize;

use crate::matcher::{Matcher, Operator};
use crate::posted::{PostedFault, posted_time};
use crate::silence::{MAX_MATCHERS, Silence};

/// Bytes that the body may have: it takes about ten times as many while it is read.
const MAX_BODY_BYTES: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedSilence {
    id: Option<String>,
    matchers: Option<Vec<PostedMatcher>>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedMatcher {
    name: Option<String>,
    value: Option<String>,
    is_regex: Option<bool>,
    is_equal: Option<bool>,
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, PostedFault> {
    let fault = || PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 602, format!("{name} in body is required"));
    value.ok_or_else(fault)
}

/// Reads the body of a post.
pub(crate) fn posted_silence(body: &[u8]) -> Result<Silence, PostedFault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 602, "silence in body is required"));
    }
    let unreadable = |message: String| {
        let message = format!("parsing silence body from \"\" failed, because {message}");
        PostedFault::new(StatusCode::BAD_REQUEST, 400, message)
    };
    if body.len() > MAX_BODY_BYTES {
        let message = format!("the silence has {} bytes, {MAX_BODY_BYTES} are allowed", body.len());
        return Err(PostedFault::new(StatusCode::PAYLOAD_TOO_LARGE, 413, message));
    }
    let posted: PostedSilence = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
    let list = required(posted.matchers, "matchers")?;
    if list.is_empty() {
        let message = "matchers in body should have at least 1 items";
        return Err(PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 612, message));
    }
    // Before any expression is compiled.
    if list.len() > MAX_MATCHERS {
        let message = format!("silence invalid: it has {} matchers, {MAX_MATCHERS} are allowed", list.len());
        return Err(PostedFault::new(StatusCode::BAD_REQUEST, 0, message));
    }
    let mut matchers = Vec::with_capacity(list.len());
    for (at, matcher) in list.into_iter().enumerate() {
        let name = required(matcher.name, &format!("matchers.{at}.name"))?;
        let value = required(matcher.value, &format!("matchers.{at}.value"))?;
        let is_regex = required(matcher.is_regex, &format!("matchers.{at}.isRegex"))?;
        let operator = Operator::of(is_regex, matcher.is_equal.unwrap_or(true));
        let matcher = Matcher::new(name, operator, value).map_err(|fault| {
            let message = format!("silence invalid: invalid label matcher {at}: {fault}");
            // Without a code: Alertmanager sees it when the silence is set.
            PostedFault::new(StatusCode::BAD_REQUEST, 0, message)
        })?;
        matchers.push(matcher);
    }
    let time = |text: Option<String>, name: &str| {
        let text = required(text, name)?;
        let time = posted_time(Some(&text)).map_err(unreadable)?;
        required(time, name)
    };
    Ok(Silence {
        id: posted.id.unwrap_or_default(),
        matchers,
        starts_at_ns: time(posted.starts_at, "startsAt")?,
        ends_at_ns: time(posted.ends_at, "endsAt")?,
        updated_at_ns: 0,
        created_by: required(posted.created_by, "createdBy")?,
        comment: required(posted.comment, "comment")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_refused_before_it_is_read() {
        let of = |matchers: usize, comment: usize| {
            let matcher = r#"{"name":"a","value":"(?:[ab]{1000}){50}","isRegex":true}"#;
            let (list, comment) = (vec![matcher; matchers].join(","), "x".repeat(comment));
            format!(
                r#"{{"matchers":[{list}],"startsAt":"2026-01-01T00:00:00Z","endsAt":"2026-01-01T01:00:00Z","createdBy":"a","comment":"{comment}"}}"#
            )
        };
        for (body, want) in [
            (of(MAX_MATCHERS + 1, 0), Err((StatusCode::BAD_REQUEST, "65 matchers, 64 are allowed"))),
            (of(1, MAX_BODY_BYTES), Err((StatusCode::PAYLOAD_TOO_LARGE, "1048576 are allowed"))),
            (of(0, 0), Err((StatusCode::UNPROCESSABLE_ENTITY, "at least 1 items"))),
            (of(1, 0).replace("{1000}", ""), Ok(1)),
        ] {
            match (posted_silence(body.as_bytes()), want) {
                (Ok(silence), Ok(want)) => assert_eq!(silence.matchers.len(), want),
                (Err(fault), Err((status, text))) => {
                    assert!(fault.status == status && fault.message.contains(text), "{fault:?}");
                }
                (got, want) => panic!("{got:?}, {want:?}"),
            }
        }
    }
}
