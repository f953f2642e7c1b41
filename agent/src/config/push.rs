//! Settings of sources that are pushed to by HTTP.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't express. Touches
//! nothing.

use std::collections::BTreeMap;

use millrace_doors::config::{Login, TlsConfig};
use millrace_log::record::is_label_name;
use millrace_log::value::{ByteSize, Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::{LABEL_RULE, check_listen};
use crate::timestamp::TimestampConfig;
use crate::transform::config::StepConfig;

/// Limits for clients.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushLimits {
    /// Maximum size of a request body as sent.
    pub max_body: ByteSize,
    /// Maximum size of a decompressed body; at most half of `agent.max_waiting_bytes`.
    pub max_body_unpacked: ByteSize,
    /// Maximum number of concurrent connections; others wait to be accepted.
    pub max_connections: usize,
    /// Timeout for reading a request, and for the next one on an idle connection.
    pub read_timeout: Span,
    /// How long a client waits for the log before it gets status 503.
    pub answer_timeout: Span,
}

impl Default for PushLimits {
    fn default() -> Self {
        Self {
            max_body: ByteSize::mib(4),
            max_body_unpacked: ByteSize::mib(8),
            max_connections: 256,
            read_timeout: Span::secs(30),
            answer_timeout: Span::secs(30),
        }
    }
}

/// Disk spool: pushes are acknowledged once they are in it, even while the log is unreachable.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Folder of the spool. Empty: `spool` in the folder of the agent.
    pub folder: String,
    /// Maximum size; beyond it, pushes get status 429.
    pub max_bytes: ByteSize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { folder: String::new(), max_bytes: ByteSize(1 << 30) }
    }
}

impl SpoolConfig {
    /// Reports what types can't express.
    pub(crate) fn check(&self, faults: &mut Faults) {
        if self.max_bytes < ByteSize::mib(1) {
            faults.add("max_bytes", format!("is {}: expected 1MiB at least", self.max_bytes));
        }
    }
}

/// What a body of `type: http` holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyFormat {
    /// As `Content-Type` says: `application/json` is `json`, `application/x-ndjson` and the like are `ndjson`, others `text`.
    #[default]
    Auto,
    /// Lines.
    Text,
    /// A JSON value in each line; a line that is none is refused.
    Ndjson,
    /// A JSON array, each of whose elements is a record, or one JSON object.
    Json,
}

/// Lines and JSON by POST: 204 when the log has them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSource {
    /// Name in ledger and metrics; positions are stored under it. Empty: type and address.
    pub name: String,
    /// Address to listen on, `host:port`.
    pub listen: String,
    /// Path that takes pushes.
    pub path: String,
    /// Format of bodies: `auto`, `text`, `ndjson` or `json`.
    pub format: BodyFormat,
    /// Labels of all records.
    pub labels: BTreeMap<String, String>,
    /// Labels from headers of the request: label to header.
    pub label_headers: BTreeMap<String, String>,
    /// Labels from parameters of the query: label to parameter.
    pub label_params: BTreeMap<String, String>,
    /// Labels from fields of JSON records: label to field, `.` leads inside of objects.
    pub label_fields: BTreeMap<String, String>,
    /// Maximum number of label sets; one without records for an hour is released. While all are in use, each client (a
    /// login at an address) has an equal share of them.
    pub max_streams: usize,
    /// Tenant of the records. Empty: `default`.
    pub tenant: String,
    /// Header that names the tenant, such as `X-Scope-OrgID`. Empty: none.
    pub tenant_header: String,
    /// Longer lines are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// Where and how to parse the event time in a record. Left out: the time of the push.
    pub timestamp: Option<TimestampConfig>,
    /// Who may push.
    pub auth: Login,
    /// TLS. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// Limits for clients.
    pub limits: PushLimits,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for HttpSource {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: "127.0.0.1:8088".to_owned(),
            path: "/".to_owned(),
            format: BodyFormat::Auto,
            labels: BTreeMap::new(),
            label_headers: BTreeMap::new(),
            label_params: BTreeMap::new(),
            label_fields: BTreeMap::new(),
            max_streams: 1000,
            tenant: String::new(),
            tenant_header: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            timestamp: None,
            auth: Login::default(),
            tls: None,
            limits: PushLimits::default(),
            transforms: Vec::new(),
        }
    }
}

/// Loki's push API, `POST /loki/api/v1/push`, for Promtail, Alloy, Fluent Bit and others.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LokiSource {
    /// Name in ledger and metrics; positions are stored under it. Empty: type and address.
    pub name: String,
    /// Address to listen on, `host:port`.
    pub listen: String,
    /// Labels added to all streams.
    pub labels: BTreeMap<String, String>,
    /// Maximum number of streams; one without records for an hour is released. While all are in use, each client (a login at
    /// an address) has an equal share of them.
    pub max_streams: usize,
    /// Tenant of entries without the header `X-Scope-OrgID`. Empty: `default`.
    pub tenant: String,
    /// Longer lines are rejected with Loki's error message.
    pub max_line_bytes: ByteSize,
    /// Maximum bytes of structured metadata of one entry.
    pub max_metadata: ByteSize,
    /// Maximum number of structured metadata names of one entry.
    pub max_metadata_names: usize,
    /// Who may push.
    pub auth: Login,
    /// TLS. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// Limits for clients.
    pub limits: PushLimits,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for LokiSource {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: "127.0.0.1:3500".to_owned(),
            labels: BTreeMap::new(),
            max_streams: 5000,
            tenant: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            max_metadata: ByteSize(64 << 10),
            max_metadata_names: 128,
            auth: Login::default(),
            tls: None,
            limits: PushLimits::default(),
            transforms: Vec::new(),
        }
    }
}

/// OpenTelemetry logs by OTLP/HTTP (`POST /v1/logs`, protobuf or JSON) and OTLP/gRPC.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpSource {
    /// Name in ledger and metrics; positions are stored under it. Empty: type and address.
    pub name: String,
    /// Address for OTLP/HTTP, `host:port`. Empty: none.
    pub http: String,
    /// Address for OTLP/gRPC, `host:port`. Empty: none.
    pub grpc: String,
    /// Labels of all records.
    pub labels: BTreeMap<String, String>,
    /// Attributes of resources that become labels, with `_` for what no label's name can have; all others are metadata.
    pub resource_labels: Vec<String>,
    /// Maximum number of label sets; one without records for an hour is released. While all are in use, each client (a
    /// login at an address) has an equal share of them.
    pub max_streams: usize,
    /// Tenant of records without the header `X-Scope-OrgID`. Empty: `default`.
    pub tenant: String,
    /// Longer lines are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// Who may push.
    pub auth: Login,
    /// TLS. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// Limits for clients.
    pub limits: PushLimits,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

/// Attributes that Loki's own OTLP endpoint makes labels of.
const RESOURCE_LABELS: [&str; 17] = [
    "service.name",
    "service.namespace",
    "service.instance.id",
    "deployment.environment",
    "deployment.environment.name",
    "cloud.region",
    "cloud.availability_zone",
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.container.name",
    "container.name",
    "k8s.replicaset.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.cronjob.name",
];

impl Default for OtlpSource {
    fn default() -> Self {
        let more = ["k8s.job.name"];
        Self {
            name: String::new(),
            http: "127.0.0.1:4318".to_owned(),
            grpc: "127.0.0.1:4317".to_owned(),
            labels: BTreeMap::new(),
            resource_labels: RESOURCE_LABELS.into_iter().chain(more).map(str::to_owned).collect(),
            max_streams: 5000,
            tenant: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            auth: Login::default(),
            tls: None,
            limits: PushLimits::default(),
            transforms: Vec::new(),
        }
    }
}

/// Name of a source of type `otlp`.
pub(crate) fn otlp_name(config: &OtlpSource) -> String {
    let address = if config.http.is_empty() { &config.grpc } else { &config.http };
    name_of(&config.name, "otlp", address)
}

/// The name of a source that was given none.
pub(crate) fn name_of(given: &str, kind: &str, address: &str) -> String {
    if given.is_empty() { format!("{kind}:{address}") } else { given.to_owned() }
}

fn check_listener(auth: &Login, tls: Option<&TlsConfig>, limits: &PushLimits, waiting: ByteSize, faults: &mut Faults) {
    faults.within("auth", |f| auth.check(f));
    if let Some(tls) = tls {
        faults.within("tls", |f| tls.check(f));
    }
    faults.within("limits", |f| {
        if limits.max_body.0 < 1024 {
            f.add("max_body", format!("is {}: expected 1KiB at least", limits.max_body));
        }
        let half = ByteSize(waiting.0 / 2);
        if limits.max_body_unpacked < limits.max_body {
            f.add("max_body_unpacked", "is less than `max_body`");
        } else if limits.max_body_unpacked > half {
            let text = format!("is {}: more than half of `agent.max_waiting_bytes`, {half}", limits.max_body_unpacked);
            f.add("max_body_unpacked", text);
        }
        if !(1..=100_000).contains(&limits.max_connections) {
            f.add("max_connections", format!("is {}: expected 1 to 100000", limits.max_connections));
        }
        for (key, span) in [("read_timeout", limits.read_timeout), ("answer_timeout", limits.answer_timeout)] {
            if span.0.is_zero() {
                f.add(key, "is 0: expected a duration such as `30s`");
            }
        }
    });
}

impl HttpSource {
    /// Reports what types can't express.
    pub(crate) fn check(&self, waiting: ByteSize, faults: &mut Faults) {
        check_listen("listen", &self.listen, faults);
        if !self.path.starts_with('/') {
            faults.add("path", format!("is `{}`: expected a path such as `/logs`", self.path));
        }
        for (key, map) in [
            ("label_headers", &self.label_headers),
            ("label_params", &self.label_params),
            ("label_fields", &self.label_fields),
        ] {
            for (label, from) in map {
                if !is_label_name(label) {
                    faults.add(&format!("{key}.{label}"), LABEL_RULE);
                } else if from.is_empty() || from.split('.').any(str::is_empty) {
                    faults.add(
                        &format!("{key}.{label}"),
                        "is empty: name the header, parameter or field with the value of the label",
                    );
                } else if key == "label_headers" && http::HeaderName::try_from(from.as_str()).is_err() {
                    faults.add(&format!("{key}.{label}"), format!("invalid header name `{from}`"));
                }
            }
        }
        if self.format == BodyFormat::Text && !self.label_fields.is_empty() {
            faults.add("label_fields", "require JSON, but `format` is `text`");
        }
        if !self.tenant_header.is_empty() && http::HeaderName::try_from(self.tenant_header.as_str()).is_err() {
            faults.add("tenant_header", format!("invalid header name `{}`", self.tenant_header));
        }
        check_listener(&self.auth, self.tls.as_ref(), &self.limits, waiting, faults);
    }
}

impl LokiSource {
    /// Reports what types can't express.
    pub(crate) fn check(&self, waiting: ByteSize, faults: &mut Faults) {
        check_listen("listen", &self.listen, faults);
        check_listener(&self.auth, self.tls.as_ref(), &self.limits, waiting, faults);
    }
}

impl OtlpSource {
    /// Reports what types can't express.
    pub(crate) fn check(&self, waiting: ByteSize, faults: &mut Faults) {
        if self.http.is_empty() && self.grpc.is_empty() {
            faults.add("http", "is empty, and so is `grpc`: give one of them an address");
        }
        for (key, listen) in [("http", &self.http), ("grpc", &self.grpc)] {
            if !listen.is_empty() {
                check_listen(key, listen, faults);
            }
        }
        if !self.http.is_empty() && self.http == self.grpc && !self.http.ends_with(":0") {
            faults.add("grpc", "is the address of `http`: each of the two takes both protocols, leave one empty");
        }
        for (i, name) in self.resource_labels.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            faults.add(&format!("resource_labels[{i}]"), format!("invalid attribute name `{name}`"));
        }
        check_listener(&self.auth, self.tls.as_ref(), &self.limits, waiting, faults);
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::value::Faults;

    use crate::config::AgentConfig;

    #[test]
    fn wrong_values_are_named_by_their_keys() {
        let config: AgentConfig = serde_json::from_value(serde_json::json!({
            "max_waiting_bytes": "4MiB",
            "sources": [
                {"type": "http", "listen": "nowhere", "path": "logs", "label_headers": {"a-b": "X", "c": "no header"},
                 "label_fields": {"d": "a..b"}, "tenant_header": "a b", "max_streams": 0, "auth": {"username": "u"},
                 "tls": {"cert_file": "c"}, "limits": {"max_connections": 0, "read_timeout": "0s"}},
                {"type": "loki", "name": "one", "limits": {"max_body": "1KiB", "max_body_unpacked": "1KiB"}},
                {"type": "otlp", "name": "one", "http": "", "grpc": "", "resource_labels": [""],
                 "transforms": ["nothing"], "limits": {"max_body_unpacked": "2MiB", "max_body": "2MiB"}},
            ],
        }))
        .unwrap();
        let mut faults = Faults::default();
        config.check(&mut faults);
        let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
        let want = [
            "sources[0].listen",
            "sources[0].path",
            "sources[0].label_headers.a-b",
            "sources[0].label_headers.c",
            "sources[0].label_fields.d",
            "sources[0].tenant_header",
            "sources[0].auth.password",
            "sources[0].tls.key_file",
            "sources[0].limits.max_body_unpacked",
            "sources[0].limits.max_connections",
            "sources[0].limits.read_timeout",
            "sources[0].max_streams",
            "sources[2].http",
            "sources[2].resource_labels[0]",
            "sources[2].name",
            "sources[2].transforms[0]",
        ];
        assert_eq!(found, want);
    }
}
