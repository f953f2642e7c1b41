//! Sources of `type: syslog`: addresses, framing, format and labels of messages.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't express. Touches nothing.

use std::collections::BTreeMap;

use millrace_doors::config::TlsConfig;
use millrace_log::record::is_label_name;
use millrace_log::value::{ByteSize, Faults};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::push::name_of;
use crate::checks::{LABEL_RULE, check_listen};
use crate::transform::config::StepConfig;

/// How messages of a connection are delimited (RFC 6587).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// Message by message: a number before `<` is a length, all else a line.
    #[default]
    Auto,
    /// Each message is a line.
    Newline,
    /// Each message begins with its length.
    OctetCounting,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyslogFormat {
    /// RFC 5424 if it is that, else RFC 3164.
    #[default]
    Auto,
    /// BSD syslog.
    Rfc3164,
    /// The syslog protocol.
    Rfc5424,
}

/// Syslog by UDP, TCP and TLS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SyslogSource {
    /// Name in ledger and metrics; positions are stored under it. Empty: type and address.
    pub name: String,
    /// Address for datagrams, `host:port`. Empty: none.
    pub udp: String,
    /// Address for connections, `host:port`. Empty: none.
    pub tcp: String,
    /// TLS for connections. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// How messages of a connection are delimited: `auto`, `newline` or `octet_counting`.
    pub framing: Framing,
    /// How messages are written: `auto`, `rfc3164` or `rfc5424`. Anything else is kept, marked `syslog=malformed`.
    pub format: SyslogFormat,
    /// Offset for times without one, as in RFC 3164: `UTC`, `+02:00`, `-0530`.
    pub timezone: String,
    /// Labels of all messages.
    pub labels: BTreeMap<String, String>,
    /// Labels from fields: label to `hostname`, `appname`, `procid`, `msgid`, `facility`, `severity`, `peer` or, for
    /// structured data, `ID_PARAM`. All other fields become metadata.
    pub label_fields: BTreeMap<String, String>,
    /// Maximum number of label sets; beyond it, fields become metadata. While all are in use, each address of clients has an
    /// equal share of them.
    pub max_streams: usize,
    /// Tenant of the records. Empty: `default`.
    pub tenant: String,
    /// Longer messages are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// Maximum number of concurrent connections; others wait to be accepted.
    pub max_connections: usize,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for SyslogSource {
    fn default() -> Self {
        let label_fields = [("host", "hostname"), ("service", "appname")];
        Self {
            name: String::new(),
            udp: "127.0.0.1:5514".to_owned(),
            tcp: "127.0.0.1:5514".to_owned(),
            tls: None,
            framing: Framing::Auto,
            format: SyslogFormat::Auto,
            timezone: "UTC".to_owned(),
            labels: BTreeMap::new(),
            label_fields: label_fields.map(|(label, field)| (label.to_owned(), field.to_owned())).into(),
            max_streams: 5000,
            tenant: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            max_connections: 1000,
            transforms: Vec::new(),
        }
    }
}

impl SyslogSource {
    /// Reports what types can't express.
    pub(crate) fn check(&self, faults: &mut Faults) {
        if self.udp.is_empty() && self.tcp.is_empty() {
            faults.add("udp", "is empty, and so is `tcp`: set at least one of them");
        }
        for (key, listen) in [("udp", &self.udp), ("tcp", &self.tcp)] {
            if !listen.is_empty() {
                check_listen(key, listen, faults);
            }
        }
        if let Some(tls) = &self.tls {
            if self.tcp.is_empty() {
                faults.add("tls", "requires `tcp`, which is empty");
            }
            faults.within("tls", |f| tls.check(f));
        }
        if crate::timestamp::offset(&self.timezone).is_none() {
            faults.add(
                "timezone",
                format!("invalid offset `{}`: expected `UTC`, or one such as `+02:00`", self.timezone),
            );
        }
        for (label, field) in &self.label_fields {
            if !is_label_name(label) {
                faults.add(&format!("label_fields.{label}"), LABEL_RULE);
            } else if field.is_empty() {
                faults.add(&format!("label_fields.{label}"), "is empty: name a field such as `hostname`");
            }
        }
        if !(1..=100_000).contains(&self.max_connections) {
            faults.add("max_connections", format!("is {}: expected 1 to 100000", self.max_connections));
        }
    }
}

/// Name of a source of type `syslog`.
pub(crate) fn syslog_name(config: &SyslogSource) -> String {
    name_of(&config.name, "syslog", if config.tcp.is_empty() { &config.udp } else { &config.tcp })
}
