//! The part of Alertmanager's API v2 that the notifier answers.
//!
//! In: requests. Out: JSON. Touches nothing; the binary mounts the routes. Follows Alertmanager's `api/v2/openapi.yaml`.
//! Foreign codes and texts stay in this file.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, RawQuery, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_doors::browser::Bodies;
use millrace_doors::identity::Identity;
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_log::alert::{LabelSet, SinkError};
use millrace_log::go;
use millrace_log::push::DecodeBudget;
use serde::Serialize;
use serde_json::json;

use crate::alert_query::AlertQuery;
use crate::api_silences::{coded, delete_silence, get_silence, get_silences, post_silence};
use crate::notifier::Notifier;
use crate::posted::{PostedFault, posted};
use crate::silencing::{AlertView, GroupView};

/// Bytes that a posted list of alerts may have.
const MAX_BODY_BYTES: usize = 16 << 20;

impl Notifier {
    /// Alertmanager's API v2: alerts, groups, silences, status, receivers, health.
    pub fn router(self: &Arc<Self>) -> Routes {
        use Methods::{Delete, Get, Post};
        use Need::{Login, Public, Read, Silence, Write};
        Routes::new()
            .on(Read, Get, "/api/v2/alerts", get_alerts)
            .on(Write(Bodies::Json), Post, "/api/v2/alerts", post_alerts)
            .on(Read, Get, "/api/v2/alerts/groups", get_groups)
            .on(Read, Get, "/api/v2/silences", get_silences)
            .on(Silence(Bodies::Json), Post, "/api/v2/silences", post_silence)
            .on(Read, Get, "/api/v2/silence/{id}", get_silence)
            .on(Silence(Bodies::Json), Delete, "/api/v2/silence/{id}", delete_silence)
            .on(Read, Get, "/api/v2/status", get_status)
            .on(Login, Get, "/api/v2/receivers", get_receivers)
            .on(Public, Get, "/-/healthy", healthy)
            .on(Public, Get, "/-/ready", healthy)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self.clone())
    }
}

async fn healthy() -> &'static str {
    "OK"
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AlertBody<'a> {
    annotations: &'a LabelSet,
    ends_at: String,
    fingerprint: String,
    receivers: Vec<NameBody<'a>>,
    starts_at: String,
    status: StatusBody<'a>,
    updated_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "str::is_empty")]
    generator_url: &'a str,
    labels: &'a LabelSet,
}

#[derive(Debug, Serialize)]
struct NameBody<'a> {
    name: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusBody<'a> {
    inhibited_by: Vec<String>,
    silenced_by: &'a [String],
    /// Alertmanager has it since 0.28; left out where nothing mutes, as earlier ones do.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    muted_by: &'a [String],
    state: &'static str,
}

fn alert_body<'a>(view: &'a AlertView, muted_by: &'a [String]) -> AlertBody<'a> {
    let AlertView { alert, receivers, suppression } = view;
    let is_muted = suppression.is_suppressed() || !muted_by.is_empty();
    AlertBody {
        annotations: &alert.annotations,
        ends_at: go::time_ms(alert.ends_at_ns),
        fingerprint: alert.fingerprint().to_string(),
        receivers: receivers.iter().map(|name| NameBody { name }).collect(),
        starts_at: go::time_ms(alert.starts_at_ns),
        status: StatusBody {
            inhibited_by: suppression.inhibited_by.iter().map(ToString::to_string).collect(),
            silenced_by: &suppression.silenced_by,
            muted_by,
            state: if is_muted { "suppressed" } else { "active" },
        },
        updated_at: go::time_ms(alert.updated_at_ns),
        generator_url: &alert.generator_url,
        labels: &alert.labels,
    }
}

async fn get_alerts(
    Shared(notifier): Shared<Arc<Notifier>>,
    Extension(who): Extension<Identity>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = match AlertQuery::parse(query.as_deref(), &who) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let has_receiver = |view: &AlertView| view.receivers.iter().any(|name| query.wants_receiver(name));
    let alerts = notifier.alerts(|view| has_receiver(view) && query.wants(view));
    Json(alerts.iter().map(|view| alert_body(view, &[])).collect::<Vec<_>>()).into_response()
}

async fn get_groups(
    Shared(notifier): Shared<Arc<Notifier>>,
    Extension(who): Extension<Identity>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = match AlertQuery::parse(query.as_deref(), &who) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let mut groups = notifier.groups(|receiver| query.wants_receiver(receiver), |view| query.wants(view));
    groups.retain(|group| query.wants_muted() || group.muted_by.is_empty());
    let body = |group: &GroupView| {
        let alerts: Vec<_> = group.alerts.iter().map(|view| alert_body(view, &group.muted_by)).collect();
        json!({"alerts": alerts, "labels": group.labels, "receiver": {"name": group.receiver}})
    };
    Json(groups.iter().map(body).collect::<Vec<_>>()).into_response()
}

async fn get_status(Shared(notifier): Shared<Arc<Notifier>>) -> Response {
    Json(json!({
        "cluster": {"peers": [], "status": "disabled"},
        "config": {"original": notifier.routing().shown},
        "uptime": go::time_ms(notifier.started_ns()),
        "versionInfo": {
            "branch": "", "buildDate": "", "buildUser": "", "goVersion": "",
            "revision": "", "version": concat!("millrace-", env!("CARGO_PKG_VERSION")),
        },
    }))
    .into_response()
}

async fn get_receivers(Shared(notifier): Shared<Arc<Notifier>>) -> Response {
    let routing = notifier.routing();
    let names: Vec<NameBody<'_>> = routing.receivers.iter().map(|r| NameBody { name: &r.name }).collect();
    Json(names).into_response()
}

async fn post_alerts(Shared(notifier): Shared<Arc<Notifier>>, body: Bytes) -> Response {
    // Held until the notifier has the alerts.
    let mut memory = DecodeBudget::of_process().begin();
    let alerts = match posted(&body, &mut memory) {
        Ok(alerts) => alerts,
        Err(PostedFault { status, code, message }) => return coded(status, code, &message),
    };
    match notifier.take(alerts).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error @ SinkError::Invalid { .. }) => (StatusCode::BAD_REQUEST, Json(error.to_string())).into_response(),
        // Prometheus and its kind repeat what fires: what is refused now comes again.
        Err(error @ SinkError::Full { .. }) => {
            tracing::warn!(%error, "posted alerts were rejected");
            (StatusCode::TOO_MANY_REQUESTS, Json(error.to_string())).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "posted alerts were rejected");
            (StatusCode::INTERNAL_SERVER_ERROR, Json(error.to_string())).into_response()
        }
    }
}
