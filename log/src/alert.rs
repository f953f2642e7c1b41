//! Alerts as rules report them: label sets, fingerprints, and the trait by which alerts are handed to a notifier.
//!
//! In: labels and times. Out: fingerprints as Prometheus's `model` package has them. Touches nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::go;

/// Names and values, sorted by name: labels or annotations.
pub type LabelSet = BTreeMap<String, String>;

/// Name of the label that names the alert.
pub const ALERT_NAME: &str = "alertname";

/// Identity of a label set: FNV-1a of 64 bits over names and values, as Alertmanager prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Of a label set: each name and value followed by 0xFF.
    pub fn of(labels: &LabelSet) -> Self {
        let mut hash = FNV_OFFSET;
        for (name, value) in labels {
            hash = fnv(fnv(hash, name.as_bytes()), &[0xff]);
            hash = fnv(fnv(hash, value.as_bytes()), &[0xff]);
        }
        Self(hash)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// FNV-1a of a text: spreads the turns of groups.
pub fn hash_text(text: &str) -> u64 {
    fnv(FNV_OFFSET, text.as_bytes())
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Labels as text: `{a="x", b="y"}`, values quoted as Go quotes. Part of the group key.
pub fn labels_text(labels: &LabelSet) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", go::quote(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// An alert as someone reports it: a rule of ours, or a client of the API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewAlert {
    /// What it is: identity. Empty values are dropped.
    pub labels: LabelSet,
    /// What it says.
    pub annotations: LabelSet,
    /// When it began to fire; none: now (or its end).
    pub starts_at_ns: Option<i64>,
    /// When it ends, or until when the report is good; none: `resolve_timeout` from now.
    pub ends_at_ns: Option<i64>,
    /// Where it comes from: a link.
    pub generator_url: String,
}

/// Why reported alerts were not taken.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Some break Alertmanager's rules; the others were taken.
    #[error("{}", faults.join("; "))]
    Invalid {
        /// One text per alert refused.
        faults: Vec<String>,
    },
    /// The notifier holds as many alerts as it may.
    #[error(
        "notifier holds {held} alerts and takes new ones up to {max} (`notify.max_alerts`; of reports by the API three quarters of \
         it): {refused} alerts were refused"
    )]
    Full {
        /// Alerts held.
        held: usize,
        /// From how many on new ones of this sender are refused.
        max: usize,
        /// Alerts refused.
        refused: usize,
    },
    /// They could not be made durable.
    #[error("keeping alerts failed: {source}")]
    Store {
        /// The cause.
        #[from]
        source: crate::store::StoreError,
    },
}

/// Where rules send their alerts: the notifier.
#[async_trait::async_trait]
pub trait AlertSink: Send + Sync + 'static {
    /// Takes reports; when it returns `Ok` they are durable.
    async fn send(&self, alerts: Vec<NewAlert>) -> Result<(), SinkError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> LabelSet {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn fingerprints_are_those_of_alertmanager() {
        for (pairs, want) in [
            (vec![("alertname", "A")], "d2c6efc389df0927"),
            (vec![("alertname", "A"), ("n", "1")], "4286ff98cb992798"),
            (vec![("alertname", "A"), ("job", "x")], "593b3fc30668dd0a"),
            (vec![], "cbf29ce484222325"),
        ] {
            assert_eq!(Fingerprint::of(&labels(&pairs)).to_string(), want);
        }
    }
}
