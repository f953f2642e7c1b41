//! HTTP: the part of Alertmanager's API v2 that the notifier answers, and the state of rules as Loki and Prometheus
//! answer it (Grafana reads both).
//!
//! In: requests. Out: JSON, or YAML where Loki gives YAML. Touches nothing; the binary mounts the routers.
//! Follows Alertmanager's `api/v2/openapi.yaml` and Loki's ruler API. Foreign codes and texts stay in this file.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, RawQuery, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::alert::{Alert, LabelSet, NewAlert, SinkError, is_label_name};
use crate::go;
use crate::manager::{AlertView, GroupView, Health, RuleView, Rules};
use crate::notify::{GroupedAlerts, Notifier};
use crate::state::State;

/// Bytes that a posted list of alerts may have.
const MAX_BODY_BYTES: usize = 16 << 20;

impl Notifier {
    /// Alertmanager's API v2: alerts, groups, status, receivers, health.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/api/v2/alerts", get(get_alerts).post(post_alerts))
            .route("/api/v2/alerts/groups", get(get_groups))
            .route("/api/v2/status", get(get_status))
            .route("/api/v2/receivers", get(get_receivers))
            .route("/-/healthy", get(healthy))
            .route("/-/ready", get(healthy))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self.clone())
    }
}

impl Rules {
    /// State of rules and alerts: Loki's ruler API and Prometheus's.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/loki/api/v1/rules", get(get_rule_files))
            .route("/api/prom/rules", get(get_rule_files))
            .route("/prometheus/api/v1/rules", get(get_rule_states))
            .route("/prometheus/api/v1/alerts", get(get_rule_alerts))
            .with_state(self.clone())
    }
}

async fn healthy() -> &'static str {
    "OK"
}

// ---- Alertmanager ----

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AlertBody<'a> {
    annotations: &'a LabelSet,
    ends_at: String,
    fingerprint: String,
    receivers: [NameBody<'a>; 1],
    starts_at: String,
    status: StatusBody,
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
struct StatusBody {
    inhibited_by: [String; 0],
    silenced_by: [String; 0],
    state: &'static str,
}

fn alert_body<'a>(alert: &'a Alert, receiver: &'a str) -> AlertBody<'a> {
    AlertBody {
        annotations: &alert.annotations,
        ends_at: go::time_ms(alert.ends_at_ns),
        fingerprint: alert.fingerprint().to_string(),
        receivers: [NameBody { name: receiver }],
        starts_at: go::time_ms(alert.starts_at_ns),
        status: StatusBody { inhibited_by: [], silenced_by: [], state: "active" },
        updated_at: go::time_ms(alert.updated_at_ns),
        generator_url: &alert.generator_url,
        labels: &alert.labels,
    }
}

/// What a request asks of alerts.
#[derive(Debug)]
struct AlertQuery {
    filters: Vec<Filter>,
    receiver: Option<regex::Regex>,
    active: bool,
}

#[derive(Debug)]
struct Filter {
    name: String,
    negated: bool,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equal(String),
    Regex(regex::Regex),
}

impl Filter {
    /// Reads `name="value"`, with `=`, `!=`, `=~` or `!~`; quotes may be left out.
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("bad matcher format: {text}");
        let trimmed = text.trim();
        let at = trimmed.find(['=', '!']).ok_or_else(bad)?;
        let (name, rest) = trimmed.split_at(at);
        let name = name.trim_end();
        let operators = [("=~", false, true), ("!~", true, true), ("!=", true, false), ("=", false, false)];
        let (value, negated, regex) = operators
            .into_iter()
            .find_map(|(sign, negated, regex)| rest.strip_prefix(sign).map(|value| (value, negated, regex)))
            .ok_or_else(bad)?;
        if !is_label_name(name) {
            return Err(bad());
        }
        let value = unquoted(value.trim())?;
        let test = if regex {
            Test::Regex(regex::Regex::new(&format!("^(?:{value})$")).map_err(|e| {
                let text = e.to_string();
                format!("error parsing regexp: {}", text.lines().last().unwrap_or_default().trim())
            })?)
        } else {
            Test::Equal(value)
        };
        Ok(Self { name: name.to_owned(), negated, test })
    }

    fn matches(&self, labels: &LabelSet) -> bool {
        let value = labels.get(&self.name).map_or("", String::as_str);
        let hit = match &self.test {
            Test::Equal(wanted) => value == wanted,
            Test::Regex(regex) => regex.is_match(value),
        };
        hit != self.negated
    }
}

fn unquoted(text: &str) -> Result<String, String> {
    let inner = match text.strip_prefix('"') {
        Some(rest) => match rest.strip_suffix('"') {
            Some(inner) => inner,
            None => return Err(format!("matcher value contains unescaped double quote: {text}")),
        },
        None => text,
    };
    let mut value = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some('"') => value.push('"'),
                Some('\\') => value.push('\\'),
                Some(other) => {
                    value.push('\\');
                    value.push(other);
                }
                None => value.push('\\'),
            },
            '"' => return Err(format!("matcher value contains unescaped double quote: {inner}")),
            c => value.push(c),
        }
    }
    Ok(value)
}

impl AlertQuery {
    fn parse(query: Option<&str>) -> Result<Self, Response> {
        let bad = |message: String| (StatusCode::BAD_REQUEST, Json(message)).into_response();
        let mut own = Self { filters: Vec::new(), receiver: None, active: true };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "filter" => own.filters.push(Filter::parse(&value).map_err(bad)?),
                "receiver" => {
                    let regex = regex::Regex::new(&format!("^(?:{value})$"))
                        .map_err(|e| bad(format!("failed to parse receiver param: {e}")))?;
                    own.receiver = Some(regex);
                }
                "active" | "silenced" | "inhibited" | "unprocessed" | "muted" => {
                    let flag = match &*value {
                        "true" | "1" | "yes" | "on" => true,
                        "false" | "0" | "no" | "off" => false,
                        _ => {
                            let message = format!("{name} in query must be of type boolean: {value:?}");
                            return Err(coded(StatusCode::UNPROCESSABLE_ENTITY, 601, &message));
                        }
                    };
                    if name == "active" {
                        own.active = flag;
                    }
                }
                _ => {}
            }
        }
        Ok(own)
    }

    fn wants(&self, alert: &Alert, receiver: &str) -> bool {
        self.active
            && self.receiver.as_ref().is_none_or(|regex| regex.is_match(receiver))
            && self.filters.iter().all(|filter| filter.matches(&alert.labels))
    }
}

/// An error with a code, as go-openapi gives it.
fn coded(status: StatusCode, code: u16, message: &str) -> Response {
    (status, Json(json!({"code": code, "message": message}))).into_response()
}

async fn get_alerts(Shared(notifier): Shared<Arc<Notifier>>, RawQuery(query): RawQuery) -> Response {
    let query = match AlertQuery::parse(query.as_deref()) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let receiver = &notifier.routing().route.receiver;
    let alerts = notifier.alerts();
    let bodies: Vec<AlertBody<'_>> =
        alerts.iter().filter(|a| query.wants(a, receiver)).map(|a| alert_body(a, receiver)).collect();
    Json(bodies).into_response()
}

async fn get_groups(Shared(notifier): Shared<Arc<Notifier>>, RawQuery(query): RawQuery) -> Response {
    let query = match AlertQuery::parse(query.as_deref()) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let receiver = &notifier.routing().route.receiver;
    let groups = notifier.groups();
    let bodies: Vec<Value> = groups
        .iter()
        .filter_map(|GroupedAlerts { labels, alerts }| {
            let alerts: Vec<AlertBody<'_>> =
                alerts.iter().filter(|a| query.wants(a, receiver)).map(|a| alert_body(a, receiver)).collect();
            let body = json!({"alerts": alerts, "labels": labels, "receiver": {"name": receiver}});
            (!alerts.is_empty()).then_some(body)
        })
        .collect();
    Json(bodies).into_response()
}

async fn get_status(Shared(notifier): Shared<Arc<Notifier>>) -> Response {
    Json(json!({
        "cluster": {"peers": [], "status": "disabled"},
        "config": {"original": notifier.routing().shown()},
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
fn posted_time(text: Option<&str>) -> Result<Option<i64>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let time = DateTime::parse_from_rfc3339(text).map_err(|e| format!("parsing time {text:?} failed: {e}"))?;
    if time.timestamp() == -62_135_596_800 {
        return Ok(None);
    }
    let cut = if time.timestamp() < 0 { i64::MIN } else { i64::MAX };
    Ok(Some(time.timestamp_nanos_opt().unwrap_or(cut)))
}

fn posted(body: &[u8]) -> Result<Vec<NewAlert>, Response> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(coded(StatusCode::UNPROCESSABLE_ENTITY, 602, "alerts in body is required"));
    }
    let unreadable = |message: String| {
        let message = format!("parsing alerts body from \"\" failed, because {message}");
        coded(StatusCode::BAD_REQUEST, 400, &message)
    };
    let list: Vec<PostedAlert> = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
    let mut alerts = Vec::with_capacity(list.len());
    for (at, alert) in list.into_iter().enumerate() {
        let Some(labels) = alert.labels else {
            let message = format!("{at}.labels in body is required");
            return Err(coded(StatusCode::UNPROCESSABLE_ENTITY, 602, &message));
        };
        let generator_url = alert.generator_url.unwrap_or_default();
        if !generator_url.is_empty() && url::Url::parse(&generator_url).is_err() {
            let message = format!("{at}.generatorURL in body must be of type uri: {generator_url:?}");
            return Err(coded(StatusCode::UNPROCESSABLE_ENTITY, 601, &message));
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

async fn post_alerts(Shared(notifier): Shared<Arc<Notifier>>, body: Bytes) -> Response {
    let alerts = match posted(&body) {
        Ok(alerts) => alerts,
        Err(answer) => return answer,
    };
    match notifier.take(alerts).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error @ SinkError::Invalid { .. }) => (StatusCode::BAD_REQUEST, Json(error.to_string())).into_response(),
        Err(error) => {
            tracing::error!(%error, "posted alerts were not taken");
            (StatusCode::INTERNAL_SERVER_ERROR, Json(error.to_string())).into_response()
        }
    }
}

// ---- Loki and Prometheus ----

#[derive(Debug, Serialize)]
struct GroupFile {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    rules: Vec<RuleFile>,
}

#[derive(Debug, Serialize)]
struct RuleFile {
    alert: String,
    expr: String,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_for: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

fn span(duration: std::time::Duration) -> Option<String> {
    (!duration.is_zero()).then(|| millrace_log::value::Span(duration).to_string())
}

fn sources(templates: &[(String, crate::template::Template)]) -> BTreeMap<String, String> {
    templates.iter().map(|(name, template)| (name.clone(), template.source().to_owned())).collect()
}

/// The rules as files, YAML by file as Loki gives them by namespace.
async fn get_rule_files(Shared(rules): Shared<Arc<Rules>>) -> Response {
    let mut files: BTreeMap<String, Vec<GroupFile>> = BTreeMap::new();
    for view in rules.groups() {
        let group = &view.group;
        let file = group.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        files.entry(file).or_default().push(GroupFile {
            name: group.name.clone(),
            interval: group.interval.and_then(span),
            limit: (group.limit > 0).then_some(group.limit),
            rules: group
                .rules
                .iter()
                .map(|rule| RuleFile {
                    alert: rule.alert.clone(),
                    expr: rule.expr.text().to_owned(),
                    hold: span(rule.hold),
                    keep_firing_for: span(rule.keep_firing),
                    labels: sources(&rule.labels),
                    annotations: sources(&rule.annotations),
                })
                .collect(),
        });
    }
    if files.is_empty() {
        return (StatusCode::NOT_FOUND, "no rule groups found\n").into_response();
    }
    match serde_saphyr::to_string(&files) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/yaml")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("writing YAML failed: {error}\n")).into_response(),
    }
}

fn success(data: Value) -> Response {
    Json(json!({"status": "success", "data": data, "errorType": "", "error": ""})).into_response()
}

/// Pending and firing alerts; a resolved one is none for Prometheus.
fn alert_states(alerts: &[AlertView]) -> Vec<Value> {
    alerts
        .iter()
        .filter(|alert| alert.state != State::Resolved)
        .map(|alert| {
            let mut body = json!({
                "labels": alert.labels,
                "annotations": alert.annotations,
                "state": alert.state.as_str(),
                "activeAt": go::time(alert.active_at_ns),
                "value": go::float_e(alert.value),
            });
            if let (Some(since), Some(body)) = (alert.kept_since_ns, body.as_object_mut()) {
                body.insert("keepFiringSince".to_owned(), json!(go::time(since)));
            }
            body
        })
        .collect()
}

fn rule_state(view: &RuleView) -> Value {
    let has = |state| view.alerts.iter().any(|alert| alert.state == state);
    let state = if has(State::Firing) {
        "firing"
    } else if has(State::Pending) {
        "pending"
    } else {
        "inactive"
    };
    let (health, error) = match &view.health {
        Health::Unknown => ("unknown", ""),
        Health::Good => ("ok", ""),
        Health::Failed(message) => ("err", message.as_str()),
    };
    json!({
        "state": state,
        "name": view.rule.alert,
        "query": view.rule.expr.text(),
        "duration": view.rule.hold.as_secs_f64(),
        "keepFiringFor": view.rule.keep_firing.as_secs_f64(),
        "labels": sources(&view.rule.labels),
        "annotations": sources(&view.rule.annotations),
        "alerts": alert_states(&view.alerts),
        "health": health,
        "lastError": error,
        "evaluationTime": view.took.as_secs_f64(),
        "lastEvaluation": view.evaluated_at_ns.map_or_else(|| go::ZERO_TIME.to_owned(), go::time),
        "type": "alerting",
    })
}

fn group_state(view: &GroupView) -> Value {
    json!({
        "name": view.group.name,
        "file": view.group.file,
        "rules": view.rules.iter().map(rule_state).collect::<Vec<_>>(),
        "interval": view.interval.as_secs_f64(),
        "limit": view.group.limit,
        "evaluationTime": view.took.as_secs_f64(),
        "lastEvaluation": view.evaluated_at_ns.map_or_else(|| go::ZERO_TIME.to_owned(), go::time),
    })
}

async fn get_rule_states(Shared(rules): Shared<Arc<Rules>>, RawQuery(query): RawQuery) -> Response {
    let kind = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "type")
        .map(|(_, value)| value.into_owned());
    let groups: Vec<Value> = match kind.as_deref() {
        None | Some("" | "alert") => rules.groups().iter().map(group_state).collect(),
        Some("record") => Vec::new(),
        Some(other) => {
            let error = format!("not supported value \"{other}\"");
            let body = json!({"status": "error", "data": null, "errorType": "bad_data", "error": error});
            return (StatusCode::BAD_REQUEST, Json(body)).into_response();
        }
    };
    success(json!({"groups": groups}))
}

async fn get_rule_alerts(Shared(rules): Shared<Arc<Rules>>) -> Response {
    success(json!({"alerts": alert_states(&rules.alerts())}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_as_alertmanager_reads_them() {
        let labels = LabelSet::from([("team".into(), "x".into()), ("zone".into(), "eu-1".into())]);
        for (text, want) in [
            (r#"team="x""#, Some(true)),
            ("team=x", Some(true)),
            (r#"team!="x""#, Some(false)),
            (r#"zone=~"eu-.*""#, Some(true)),
            (r#"zone=~"eu""#, Some(false)),
            (r#"none="""#, Some(true)),
            (r#" team !~ "y|z" "#, Some(true)),
            ("team", None),
            (r#"9a="x""#, None),
            (r#"team="x"#, None),
            (r#"team=~"(""#, None),
        ] {
            assert_eq!(Filter::parse(text).ok().map(|f| f.matches(&labels)), want, "{text}");
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
