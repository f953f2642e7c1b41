//! What notification templates see: Alertmanager's data.
//!
//! In: a notification, or the JSON of a webhook. Out: values. Touches nothing.

use std::sync::Arc;

use millrace_log::alert::{ALERT_NAME, Fingerprint, LabelSet};

use crate::json;
use crate::time::GoTime;
use crate::value::{ListKind, MapKind, Record, Value};

/// A notification as templates see it (`.Receiver`, `.Status`, `.Alerts` …).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Data {
    /// Name of the receiver.
    pub receiver: String,
    /// `firing` while any alert fires, else `resolved`.
    pub status: String,
    /// The alerts of the group.
    pub alerts: Vec<AlertData>,
    /// Why it is sent, as newer Alertmanagers name it; may be empty.
    pub notification_reason: String,
    /// Labels that the group has in common by `group_by`.
    pub group_labels: LabelSet,
    /// Labels that all alerts have.
    pub common_labels: LabelSet,
    /// Annotations that all alerts have.
    pub common_annotations: LabelSet,
    /// Labels of the route.
    pub route_labels: LabelSet,
    /// Where people reach the notifier.
    pub external_url: String,
}

/// An alert as templates see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AlertData {
    /// Whether it fires; otherwise it is resolved.
    pub fires: bool,
    /// Its labels.
    pub labels: LabelSet,
    /// Its annotations.
    pub annotations: LabelSet,
    /// When it began, ns since 1970.
    pub starts_at_ns: i64,
    /// When it ended; none: it has not.
    pub ends_at_ns: Option<i64>,
    /// Where it comes from.
    pub generator_url: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

impl Data {
    pub(crate) fn value(&self) -> Value {
        let kv = |labels: &LabelSet| Value::labels(MapKind::Kv, labels);
        let fields = vec![
            ("Receiver", Value::text(self.receiver.as_str())),
            ("Status", Value::text(self.status.as_str())),
            ("Alerts", Value::List(ListKind::Alerts, self.alerts.iter().map(AlertData::value).collect())),
            ("NotificationReason", Value::text(self.notification_reason.as_str())),
            ("GroupLabels", kv(&self.group_labels)),
            ("CommonLabels", kv(&self.common_labels)),
            ("CommonAnnotations", kv(&self.common_annotations)),
            ("RouteLabels", kv(&self.route_labels)),
            ("ExternalURL", Value::text(self.external_url.as_str())),
        ];
        Value::Record(Arc::new(Record { kind: "template.Data", fields }))
    }

    /// From the JSON that webhooks get, or a list of alerts; what is missing is found where it can be.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let whole: serde_json::Value = serde_json::from_str(text)?;
        let list = whole.as_array().or_else(|| whole["alerts"].as_array());
        let alerts: Vec<AlertData> =
            list.map(|list| list.iter().map(AlertData::from_json).collect()).unwrap_or_default();
        let mut data = Self::of("sample", alerts);
        data.external_url = "http://127.0.0.1:9093".to_owned();
        for (name, field) in [
            ("receiver", &mut data.receiver),
            ("status", &mut data.status),
            ("notification_reason", &mut data.notification_reason),
            ("externalURL", &mut data.external_url),
        ] {
            if let Some(text) = whole[name].as_str() {
                text.clone_into(field);
            }
        }
        for (name, labels) in [
            ("groupLabels", &mut data.group_labels),
            ("commonLabels", &mut data.common_labels),
            ("commonAnnotations", &mut data.common_annotations),
            ("routeLabels", &mut data.route_labels),
        ] {
            if whole[name].is_object() {
                *labels = label_set(&whole[name]);
            }
        }
        Ok(data)
    }

    /// A group of these alerts, with what they have in common; grouped by `alertname`.
    pub fn of(receiver: &str, alerts: Vec<AlertData>) -> Self {
        let common = |of: fn(&AlertData) -> &LabelSet| {
            let mut left = alerts.first().map(|alert| of(alert).clone()).unwrap_or_default();
            left.retain(|name, value| alerts.iter().all(|alert| of(alert).get(name) == Some(value)));
            left
        };
        let (common_labels, common_annotations) = (common(|a| &a.labels), common(|a| &a.annotations));
        let name = common_labels.iter().filter(|(name, _)| *name == ALERT_NAME);
        let group_labels = name.map(|(n, v)| (n.clone(), v.clone())).collect();
        let status = if alerts.iter().any(|alert| alert.fires) { "firing" } else { "resolved" }.to_owned();
        let receiver = receiver.to_owned();
        Self { receiver, status, alerts, group_labels, common_labels, common_annotations, ..Self::default() }
    }

    /// Two firing alerts and a resolved one, to preview templates with.
    pub fn sample() -> Self {
        let alert = |host: &str, fires: bool| {
            let labels = [("alertname", "DiskFull"), ("cluster", "eu-west-1"), ("host", host), ("severity", "page")];
            let labels: LabelSet = labels.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            let summary = format!("disk / of {host} is 97 % full");
            let texts = [("summary", summary), ("runbook_url", "https://wiki.example/disk".to_owned())];
            AlertData {
                fires,
                fingerprint: Fingerprint::of(&labels).to_string(),
                labels,
                annotations: texts.map(|(n, v)| (n.to_owned(), v)).into(),
                starts_at_ns: 1_772_366_400_123_000_000,
                ends_at_ns: (!fires).then_some(1_772_367_000_000_000_000),
                generator_url: "http://127.0.0.1:3100/query?q=disk".to_owned(),
            }
        };
        let mut data = Self::of("sample", vec![alert("web-1", true), alert("web-2", true), alert("web-3", false)]);
        data.external_url = "http://127.0.0.1:9093".to_owned();
        data
    }
}

impl AlertData {
    fn value(&self) -> Value {
        let fields = vec![
            ("Status", Value::text(if self.fires { "firing" } else { "resolved" })),
            ("Labels", Value::labels(MapKind::Kv, &self.labels)),
            ("Annotations", Value::labels(MapKind::Kv, &self.annotations)),
            ("StartsAt", Value::Time(GoTime::from_ns(self.starts_at_ns))),
            ("EndsAt", Value::Time(self.ends_at_ns.map_or_else(GoTime::zero, GoTime::from_ns))),
            ("GeneratorURL", Value::text(self.generator_url.as_str())),
            ("Fingerprint", Value::text(self.fingerprint.as_str())),
        ];
        Value::Record(Arc::new(Record { kind: "template.Alert", fields }))
    }

    fn from_json(json: &serde_json::Value) -> Self {
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let time =
            |name: &str| GoTime::parse_json(json[name].as_str()?).and_then(|time| time.utc.timestamp_nanos_opt());
        let labels = label_set(&json["labels"]);
        let fingerprint = Some(text("fingerprint")).filter(|f| !f.is_empty());
        Self {
            fires: text("status") != "resolved",
            annotations: label_set(&json["annotations"]),
            starts_at_ns: time("startsAt").unwrap_or(1_772_366_400_000_000_000),
            ends_at_ns: time("endsAt"),
            generator_url: text("generatorURL"),
            fingerprint: fingerprint.unwrap_or_else(|| Fingerprint::of(&labels).to_string()),
            labels,
        }
    }
}

fn label_set(json: &serde_json::Value) -> LabelSet {
    let entry = |(name, value): (&String, &serde_json::Value)| {
        (name.clone(), value.as_str().map_or_else(|| json::go_text(&json::from_json(value)), str::to_owned))
    };
    json.as_object().map(|map| map.iter().map(entry).collect()).unwrap_or_default()
}
