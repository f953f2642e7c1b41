//! Checks of settings that several sections share: names of labels and topics, tenants, patterns, limits of a line.
//!
//! In: values of the configuration. Out: faults with their keys. Touches nothing.

use std::collections::BTreeMap;

use millrace_log::record::{Tenant, is_label_name};
use millrace_log::value::{ByteSize, Faults};

/// Largest `max_line_bytes`: what one record may hold.
const MAX_LINE_LIMIT: u64 = 16 << 20;

/// What is wrong with the name of a label.
pub(crate) const LABEL_RULE: &str = "invalid label name: expected [a-zA-Z_][a-zA-Z0-9_]*";
/// What is wrong with the name of a topic.
pub(crate) const TOPIC_RULE: &str =
    "invalid topic name: expected 1 to 249 letters, digits, `.`, `_` or `-`, not `.` or `..`";

/// Labels of a source: at most so many names, and bytes of names and values.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>, names: usize, bytes: usize, faults: &mut Faults) {
    for name in labels.keys().filter(|name| !is_label_name(name)) {
        faults.add(&format!("labels.{name}"), LABEL_RULE);
    }
    if labels.len() > names {
        faults.add("labels", format!("has {} labels, {names} are allowed", labels.len()));
    }
    let found: usize = labels.iter().map(|(n, v)| n.len() + v.len()).sum();
    if found > bytes {
        faults.add("labels", format!("has {found} bytes, {bytes} are allowed"));
    }
}

/// Name of a tenant; empty: the default one.
pub(crate) fn check_tenant(tenant: &str, faults: &mut Faults) {
    if !tenant.is_empty()
        && let Err(error) = Tenant::new(tenant)
    {
        faults.add("tenant", error.to_string());
    }
}

/// Longest line.
pub(crate) fn check_max_line(max: ByteSize, faults: &mut Faults) {
    if !(64..=MAX_LINE_LIMIT).contains(&max.0) {
        let limit = ByteSize(MAX_LINE_LIMIT);
        faults.add("max_line_bytes", format!("is {max}: expected 64B to {limit}"));
    }
}

/// A regular expression over lines.
pub(crate) fn check_regex(key: &str, pattern: &str, faults: &mut Faults) {
    if let Err(error) = regex::bytes::Regex::new(pattern) {
        faults.add(key, error.to_string());
    }
}

/// An address to listen on, `host:port`.
pub(crate) fn check_listen(key: &str, listen: &str, faults: &mut Faults) {
    if listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).is_none() {
        faults.add(key, format!("invalid address `{listen}`: expected host:port"));
    }
}
