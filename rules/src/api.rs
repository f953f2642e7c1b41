//! State of rules as Loki and Prometheus answer it (Grafana reads both).
//!
//! In: requests. Out: JSON, or YAML where Loki gives YAML. Touches nothing; the binary mounts the routes. Follows Loki's
//! ruler API. Foreign codes and texts stay in this file.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, RawQuery};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_doors::identity::Identity;
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_log::go;
use millrace_log::record::Tenant;
use millrace_logql::storage::LabelMatcher;
use serde::Serialize;
use serde_json::{Value, json};

use crate::file::Rule;
use crate::manager::Rules;
use crate::state::State;
use crate::view::{AlertView, GroupView, Health, Overdue, RuleView, worst_first};

impl Rules {
    /// State of rules and alerts: Loki's ruler API and Prometheus's.
    pub fn router(self: &Arc<Self>) -> Routes {
        use Methods::Get;
        use Need::Read;
        Routes::new()
            .on(Read, Get, "/loki/api/v1/rules", get_rule_files)
            .on(Read, Get, "/api/prom/rules", get_rule_files)
            .on(Read, Get, "/prometheus/api/v1/rules", get_rule_states)
            .on(Read, Get, "/prometheus/api/v1/alerts", get_rule_alerts)
            .with_state(self.clone())
    }
}

/// Rules and alerts that whoever asks may see: with a forced selector those rules that read nothing else, with all their
/// alerts; of other rules the alerts whose labels match it.
struct Seen {
    rules: Arc<Rules>,
    is_own: bool,
    confines: Vec<LabelMatcher>,
}

impl FromRequestParts<Arc<Rules>> for Seen {
    type Rejection = Response;

    async fn from_request_parts(head: &mut Parts, rules: &Arc<Rules>) -> Result<Self, Response> {
        let who = head.extensions.get::<Identity>();
        let selector = who.and_then(|who| who.rights.selector.as_deref());
        let confines = selector.map(millrace_logql::selector_matchers).transpose();
        let confines = confines.map_err(|error| (StatusCode::FORBIDDEN, format!("{error}\n")).into_response())?;
        // Rules evaluate for one tenant; others have none.
        let tenant = head.extensions.get::<Tenant>().cloned().unwrap_or_default();
        let is_own = who.is_some() && tenant == *rules.tenant();
        Ok(Self { rules: Arc::clone(rules), is_own, confines: confines.unwrap_or_default() })
    }
}

impl Seen {
    fn shows(&self, alert: &AlertView) -> bool {
        let value = |name: &str| alert.labels.get(name).map_or("", String::as_str);
        self.confines.iter().all(|matcher| matcher.matches(value(&matcher.name)))
    }

    fn covers(&self, rule: &Rule) -> bool {
        self.confines.is_empty() || rule.expr.reads_only(&self.confines)
    }

    /// All groups of the tenant.
    fn all(&self) -> Vec<GroupView> {
        if self.is_own { self.rules.groups() } else { Vec::new() }
    }

    /// Groups with the rules that are shown; those without any are left out.
    fn groups(&self) -> Vec<GroupView> {
        let mut groups = self.all();
        for group in &mut groups {
            if let Some(overdue) = &mut group.overdue
                && let Some(rule) = overdue.step.rule().and_then(|rule| group.rules.get(rule))
                && !self.covers(&rule.rule)
            {
                overdue.alert = None;
            }
            group.rules.retain(|view| self.covers(&view.rule));
        }
        groups.retain(|group| !group.rules.is_empty() || self.confines.is_empty());
        groups
    }

    fn alerts(&self) -> Vec<AlertView> {
        let mut groups = self.all();
        for view in groups.iter_mut().flat_map(|group| &mut group.rules) {
            if !self.covers(&view.rule) {
                view.alerts.retain(|alert| self.shows(alert));
            }
        }
        worst_first(groups)
    }
}

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
async fn get_rule_files(seen: Seen) -> Response {
    let mut files: BTreeMap<String, Vec<GroupFile>> = BTreeMap::new();
    for view in seen.groups() {
        let group = &view.group;
        let file = group.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        files.entry(file).or_default().push(GroupFile {
            name: group.name.clone(),
            interval: group.interval.and_then(span),
            limit: (group.limit > 0).then_some(group.limit),
            rules: view
                .rules
                .iter()
                .map(|view| &view.rule)
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

fn rule_state(view: &RuleView, overdue: Option<&Overdue>) -> Value {
    let has = |state| view.alerts.iter().any(|alert| alert.state == state);
    let state = if has(State::Firing) {
        "firing"
    } else if has(State::Pending) {
        "pending"
    } else {
        "inactive"
    };
    let (health, error) = match (&view.health, overdue) {
        (Health::Failed(message), Some(overdue)) => ("err", format!("{overdue}; the last one failed: {message}")),
        (Health::Failed(message), None) => ("err", message.clone()),
        (_, Some(overdue)) => ("err", overdue.to_string()),
        (Health::Unknown, None) => ("unknown", String::new()),
        (Health::Good, None) => ("ok", String::new()),
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
        "rules": view.rules.iter().map(|rule| rule_state(rule, view.overdue.as_ref())).collect::<Vec<_>>(),
        "interval": view.interval.as_secs_f64(),
        "limit": view.group.limit,
        "evaluationTime": view.took.as_secs_f64(),
        "lastEvaluation": view.evaluated_at_ns.map_or_else(|| go::ZERO_TIME.to_owned(), go::time),
    })
}

async fn get_rule_states(seen: Seen, RawQuery(query): RawQuery) -> Response {
    let kind = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "type")
        .map(|(_, value)| value.into_owned());
    let groups: Vec<Value> = match kind.as_deref() {
        None | Some("" | "alert") => seen.groups().iter().map(group_state).collect(),
        Some("record") => Vec::new(),
        Some(other) => {
            let error = format!("not supported value \"{other}\"");
            let body = json!({"status": "error", "data": null, "errorType": "bad_data", "error": error});
            return (StatusCode::BAD_REQUEST, Json(body)).into_response();
        }
    };
    success(json!({"groups": groups}))
}

async fn get_rule_alerts(seen: Seen) -> Response {
    success(json!({"alerts": alert_states(&seen.alerts())}))
}
