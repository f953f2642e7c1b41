//! Silences of Alertmanager's API v2.
//!
//! In: requests. Out: JSON. Touches nothing; the notifier keeps the silences. Foreign codes and texts stay in this file.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_doors::identity::Identity;
use millrace_log::go;
use serde_json::{Value, json};

use crate::alert_query::AlertQuery;
use crate::notifier::Notifier;
use crate::posted_silence::posted_silence;
use crate::silence::{Silence, SilenceError};

/// An error with a code, as go-openapi gives it.
pub(crate) fn coded(status: StatusCode, code: u16, message: &str) -> Response {
    if code == 0 {
        return (status, Json(message)).into_response();
    }
    (status, Json(json!({"code": code, "message": message}))).into_response()
}

fn shown(silence: &Silence, now_ns: i64) -> Value {
    json!({
        "id": silence.id,
        "status": {"state": silence.state(now_ns).name()},
        "updatedAt": go::time_ms(silence.updated_at_ns),
        "comment": silence.comment,
        "createdBy": silence.created_by,
        "endsAt": go::time_ms(silence.ends_at_ns),
        "matchers": silence.matchers,
        "startsAt": go::time_ms(silence.starts_at_ns),
    })
}

/// An id in a path.
fn checked(id: &str) -> Result<(), Response> {
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let message = || format!("silenceID in path must be of type uuid: {}", go::quote(id));
    if is_uuid { Ok(()) } else { Err(coded(StatusCode::UNPROCESSABLE_ENTITY, 601, &message())) }
}

fn refused(error: &SilenceError) -> Response {
    let status = match error {
        SilenceError::NotFound => StatusCode::NOT_FOUND,
        SilenceError::Invalid { .. } => StatusCode::BAD_REQUEST,
        SilenceError::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
        SilenceError::Store { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    tracing::warn!(%error, "silence rejected");
    (status, Json(error.to_string())).into_response()
}

pub(crate) async fn get_silences(
    Shared(notifier): Shared<Arc<Notifier>>,
    Extension(who): Extension<Identity>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = match AlertQuery::parse(query.as_deref(), &who) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let now_ns = notifier.now_ns();
    let found = notifier.silences(|silence| query.wants_silence(silence));
    Json(found.iter().map(|silence| shown(silence, now_ns)).collect::<Vec<_>>()).into_response()
}

pub(crate) async fn get_silence(
    Shared(notifier): Shared<Arc<Notifier>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    let query = match AlertQuery::parse(None, &who).and_then(|query| checked(&id).map(|()| query)) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    match notifier.silence_of(&id).filter(|silence| query.wants_silence(silence)) {
        Some(silence) => Json(shown(&silence, notifier.now_ns())).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(crate) async fn post_silence(
    Shared(notifier): Shared<Arc<Notifier>>,
    Extension(who): Extension<Identity>,
    body: Bytes,
) -> Response {
    let query = match AlertQuery::parse(None, &who) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let silence = match posted_silence(&body) {
        Ok(silence) => silence,
        Err(fault) => return coded(fault.status, fault.code, &fault.message),
    };
    // Whoever is confined to streams can't silence the alerts of others.
    if !query.wants_silence(&silence) {
        let selector = who.rights.selector.as_deref().unwrap_or_default();
        let message = format!(
            "silence rejected: the login is limited to {selector}, so the silence requires a matcher with `=` for each of these labels"
        );
        return (StatusCode::FORBIDDEN, Json(message)).into_response();
    }
    if notifier.silence_of(&silence.id).is_some_and(|old| !query.wants_silence(&old)) {
        return refused(&SilenceError::NotFound);
    }
    match notifier.silence(silence).await {
        Ok(id) => Json(json!({"silenceID": id})).into_response(),
        Err(error) => refused(&error),
    }
}

pub(crate) async fn delete_silence(
    Shared(notifier): Shared<Arc<Notifier>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    let query = match AlertQuery::parse(None, &who).and_then(|query| checked(&id).map(|()| query)) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let is_foreign = notifier.silence_of(&id).is_some_and(|silence| !query.wants_silence(&silence));
    let ended = if is_foreign { Err(SilenceError::NotFound) } else { notifier.expire(id).await };
    match ended {
        Ok(()) => StatusCode::OK.into_response(),
        // Alertmanager's status for whatever goes wrong here.
        Err(error @ SilenceError::NotFound) => {
            (StatusCode::INTERNAL_SERVER_ERROR, Json(error.to_string())).into_response()
        }
        Err(error) => refused(&error),
    }
}
