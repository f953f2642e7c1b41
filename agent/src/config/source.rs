//! One entry of `agent.sources`, whatever its type.
//!
//! In: YAML as the binary read it. Out: the type's own settings, and what all sources that are not files share. Touches
//! nothing.

use std::collections::BTreeMap;

use millrace_log::record::{MAX_LABEL_BYTES, MAX_LABELS};
use millrace_log::value::{ByteSize, Faults};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::FileSource;
use super::local::{CommandSource, JournaldSource, StdinSource};
use super::push::{HttpSource, LokiSource, OtlpSource, name_of, otlp_name};
use super::syslog::{SyslogSource, syslog_name};
use crate::checks::{check_labels, check_max_line, check_tenant};
use crate::timestamp::TimestampConfig;
use crate::transform::config::StepConfig;

/// One thing to read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceConfig {
    /// Files named by globs.
    File(FileSource),
    /// Lines and JSON by POST.
    Http(HttpSource),
    /// Loki's push API.
    Loki(LokiSource),
    /// OpenTelemetry logs.
    Otlp(OtlpSource),
    /// Syslog by UDP, TCP and TLS.
    Syslog(SyslogSource),
    /// The journal of systemd.
    Journald(JournaldSource),
    /// The standard input.
    Stdin(StdinSource),
    /// What a command prints.
    Command(CommandSource),
}

/// What all sources that are not files have.
#[derive(Debug)]
pub(crate) struct Common<'c> {
    /// The type as it is written.
    pub kind: &'static str,
    /// As given, or made of type and address: ids and numbers are kept under it.
    pub name: String,
    pub labels: &'c BTreeMap<String, String>,
    /// Whether the label `host` is added: for what this host itself says.
    pub with_host: bool,
    pub tenant: &'c str,
    pub max_line_bytes: ByteSize,
    pub timestamp: Option<&'c TimestampConfig>,
    pub max_streams: usize,
}

impl SourceConfig {
    /// What happens to its events.
    pub fn transforms(&self) -> &[StepConfig] {
        match self {
            Self::File(file) => &file.transforms,
            Self::Http(http) => &http.transforms,
            Self::Loki(loki) => &loki.transforms,
            Self::Otlp(otlp) => &otlp.transforms,
            Self::Syslog(syslog) => &syslog.transforms,
            Self::Journald(journald) => &journald.transforms,
            Self::Stdin(stdin) => &stdin.transforms,
            Self::Command(command) => &command.transforms,
        }
    }

    /// `None` for files.
    pub(crate) fn common(&self) -> Option<Common<'_>> {
        match self {
            Self::File(_) => None,
            Self::Http(http) => Some(Common {
                kind: "http",
                name: name_of(&http.name, "http", &http.listen),
                labels: &http.labels,
                with_host: false,
                tenant: &http.tenant,
                max_line_bytes: http.max_line_bytes,
                timestamp: http.timestamp.as_ref(),
                max_streams: http.max_streams,
            }),
            Self::Loki(loki) => Some(Common {
                kind: "loki",
                name: name_of(&loki.name, "loki", &loki.listen),
                labels: &loki.labels,
                with_host: false,
                tenant: &loki.tenant,
                max_line_bytes: loki.max_line_bytes,
                timestamp: None,
                max_streams: loki.max_streams,
            }),
            Self::Otlp(otlp) => Some(Common {
                kind: "otlp",
                name: otlp_name(otlp),
                labels: &otlp.labels,
                with_host: false,
                tenant: &otlp.tenant,
                max_line_bytes: otlp.max_line_bytes,
                timestamp: None,
                max_streams: otlp.max_streams,
            }),
            Self::Syslog(syslog) => Some(Common {
                kind: "syslog",
                name: syslog_name(syslog),
                labels: &syslog.labels,
                with_host: false,
                tenant: &syslog.tenant,
                max_line_bytes: syslog.max_line_bytes,
                timestamp: None,
                max_streams: syslog.max_streams,
            }),
            Self::Journald(journald) => Some(Common {
                kind: "journald",
                name: journald.full_name(),
                labels: &journald.labels,
                with_host: false,
                tenant: &journald.tenant,
                max_line_bytes: journald.max_line_bytes,
                timestamp: None,
                max_streams: journald.max_streams,
            }),
            Self::Stdin(stdin) => Some(Common {
                kind: "stdin",
                name: stdin.full_name(),
                labels: &stdin.labels,
                with_host: true,
                tenant: &stdin.tenant,
                max_line_bytes: stdin.max_line_bytes,
                timestamp: stdin.timestamp.as_ref(),
                max_streams: 1,
            }),
            Self::Command(command) => Some(Common {
                kind: "command",
                name: command.full_name(),
                labels: &command.labels,
                with_host: true,
                tenant: &command.tenant,
                max_line_bytes: command.max_line_bytes,
                timestamp: command.timestamp.as_ref(),
                max_streams: 2,
            }),
        }
    }
}

impl Common<'_> {
    pub(super) fn check(&self, faults: &mut Faults) {
        if self.name.len() > 200 || self.name.chars().any(char::is_control) {
            faults.add("name", "invalid name: expected up to 200 characters, no control characters");
        }
        check_labels(self.labels, MAX_LABELS, MAX_LABEL_BYTES, faults);
        check_tenant(self.tenant, faults);
        check_max_line(self.max_line_bytes, faults);
        if let Some(timestamp) = self.timestamp {
            faults.within("timestamp", |f| timestamp.check(f));
        }
        if !(1..=1_000_000).contains(&self.max_streams) {
            faults.add("max_streams", format!("is {}: expected 1 to 1000000", self.max_streams));
        }
    }
}
