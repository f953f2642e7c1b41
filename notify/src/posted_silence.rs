//! Silences as clients post them: the body of `POST /api/v2/silences`.
//!
//! In: the body. Out: a silence, or go-openapi's status, code and text. Touches nothing.

use axum::http::StatusCode;
use serde::Deserialize;

use crate::matcher::{Matcher, Operator};
use crate::posted::{PostedFault, posted_time};
use crate::silence::Silence;

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
    let posted: PostedSilence = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
    let list = required(posted.matchers, "matchers")?;
    if list.is_empty() {
        let message = "matchers in body should have at least 1 items";
        return Err(PostedFault::new(StatusCode::UNPROCESSABLE_ENTITY, 612, message));
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
