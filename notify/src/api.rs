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
use millrace_log::record::is_label_name;
use millrace_logql::storage::LabelMatcher;
use serde::Serialize;
use serde_json::{Value, json};

use crate::alert::Alert;
use crate::notifier::{GroupedAlerts, Notifier};
use crate::posted::{PostedFault, posted};

/// Bytes that a posted list of alerts may have.
const MAX_BODY_BYTES: usize = 16 << 20;
/// Filters of one request at most, and bytes that a compiled expression may take.
const MAX_FILTERS: usize = 64;
const MAX_REGEX_BYTES: usize = 1 << 20;

impl Notifier {
    /// Alertmanager's API v2: alerts, groups, status, receivers, health.
    pub fn router(self: &Arc<Self>) -> Routes {
        use Methods::{Get, Post};
        use Need::{Login, Public, Read, Write};
        Routes::new()
            .on(Read, Get, "/api/v2/alerts", get_alerts)
            .on(Write(Bodies::Json), Post, "/api/v2/alerts", post_alerts)
            .on(Read, Get, "/api/v2/alerts/groups", get_groups)
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
    /// Forced by who asks.
    confines: Vec<LabelMatcher>,
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
            Test::Regex(anchored(&value).map_err(|e| {
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

/// An expression that must match the whole text.
fn anchored(expression: &str) -> Result<regex::Regex, regex::Error> {
    let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build();
    // Alone first: a stray bracket must not close ours.
    compile(expression)?;
    compile(&format!("^(?:{expression})$"))
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

/// Matchers of the selector that whoever asks is confined to.
fn confines(who: &Identity) -> Result<Vec<LabelMatcher>, Response> {
    let Some(text) = &who.rights.selector else { return Ok(Vec::new()) };
    millrace_logql::selector_matchers(text)
        .map_err(|error| (StatusCode::FORBIDDEN, Json(error.to_string())).into_response())
}

impl AlertQuery {
    fn parse(query: Option<&str>, who: &Identity) -> Result<Self, Response> {
        let bad = |message: String| (StatusCode::BAD_REQUEST, Json(message)).into_response();
        let mut own = Self { filters: Vec::new(), receiver: None, active: true, confines: confines(who)? };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "filter" if own.filters.len() >= MAX_FILTERS => {
                    return Err(bad(format!("too many filters: {MAX_FILTERS} are allowed")));
                }
                "filter" => own.filters.push(Filter::parse(&value).map_err(bad)?),
                "receiver" => {
                    let regex = anchored(&value).map_err(|e| bad(format!("failed to parse receiver param: {e}")))?;
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
            && self.confines.iter().all(|m| m.matches(alert.labels.get(&m.name).map_or("", String::as_str)))
    }
}

/// An error with a code, as go-openapi gives it.
fn coded(status: StatusCode, code: u16, message: &str) -> Response {
    (status, Json(json!({"code": code, "message": message}))).into_response()
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
    let receiver = &notifier.routing().route.receiver;
    let alerts = notifier.alerts();
    let bodies: Vec<AlertBody<'_>> =
        alerts.iter().filter(|a| query.wants(a, receiver)).map(|a| alert_body(a, receiver)).collect();
    Json(bodies).into_response()
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
            (r#"team=~"x)|(y""#, None),
            (r#"team=~"\w{1000}""#, None),
        ] {
            assert_eq!(Filter::parse(text).ok().map(|f| f.matches(&labels)), want, "{text}");
        }
    }
}
