//! The shared words of rules and notifier: label sets, fingerprints, and an alert with its times.
//!
//! In: labels and times. Out: fingerprints and orders as Prometheus's `model` package has them. Touches nothing.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
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
pub(crate) fn hash_text(text: &str) -> u64 {
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

/// Whether a name may stand as a label: a letter or underscore, then letters, digits, underscores.
pub fn is_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Labels as text: `{a="x", b="y"}`, values quoted as Go quotes. Part of the group key.
pub fn labels_text(labels: &LabelSet) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", go::quote(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Order of alerts in a message: by `job`, then `instance` (those that have one first), then by all labels.
pub fn message_order(a: &LabelSet, b: &LabelSet) -> Ordering {
    for name in ["job", "instance"] {
        match (a.get(name), b.get(name)) {
            (None, None) => {}
            (None, Some(_)) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (Some(x), Some(y)) if x != y => return x.cmp(y),
            _ => {}
        }
    }
    if a.len() != b.len() {
        return a.len().cmp(&b.len());
    }
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for name in names {
        match (a.get(name), b.get(name)) {
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x != y => return x.cmp(y),
            _ => {}
        }
    }
    Ordering::Equal
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

/// An alert as the notifier keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Identity.
    pub labels: LabelSet,
    /// What it says.
    pub annotations: LabelSet,
    /// When it began to fire.
    pub starts_at_ns: i64,
    /// When it is over: in the past for a resolved one, in the future for one that fires.
    pub ends_at_ns: i64,
    /// When it was last reported.
    pub updated_at_ns: i64,
    /// Link to its origin.
    pub generator_url: String,
    /// The end is only a time-out (`resolve_timeout`), nobody named it.
    pub timeout: bool,
    /// Its end has been decided and is being told: a restart may not revive it.
    pub ended: bool,
}

impl Alert {
    /// Identity of its labels.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.labels)
    }

    /// Whether it is over at a time.
    pub fn resolved_at(&self, now_ns: i64) -> bool {
        self.ends_at_ns <= now_ns
    }

    /// Joins with an older report of the same alert whose time overlaps, else the younger stands alone.
    /// The earliest start is kept; a named end rules over a time-out if it is the latest.
    pub fn merged_over(mut self, old: &Self, now_ns: i64) -> Self {
        let ends_within = self.ends_at_ns > old.starts_at_ns && self.ends_at_ns < old.ends_at_ns;
        let starts_within = self.starts_at_ns > old.starts_at_ns && self.starts_at_ns < old.ends_at_ns;
        if !ends_within && !starts_within {
            return self;
        }
        self.starts_at_ns = self.starts_at_ns.min(old.starts_at_ns);
        if self.resolved_at(now_ns) {
            if old.resolved_at(now_ns) && old.ends_at_ns > self.ends_at_ns {
                self.ends_at_ns = old.ends_at_ns;
            }
        } else if old.ends_at_ns > self.ends_at_ns && !old.timeout {
            self.ends_at_ns = old.ends_at_ns;
        }
        self
    }
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
    #[error("notifier holds {held} alerts, `notify.max_alerts` allows no more: {refused} alerts were refused")]
    Full {
        /// Alerts held.
        held: usize,
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

    pub(crate) fn labels(pairs: &[(&str, &str)]) -> LabelSet {
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

    #[test]
    fn alerts_stand_in_alertmanagers_order() {
        let mut sets = [
            labels(&[("alertname", "Z"), ("job", "b"), ("instance", "1")]),
            labels(&[("alertname", "A"), ("instance", "9")]),
            labels(&[("alertname", "M")]),
            labels(&[("alertname", "B"), ("job", "a"), ("instance", "2")]),
            labels(&[("alertname", "C"), ("job", "a"), ("instance", "10")]),
            labels(&[("alertname", "D"), ("job", "a")]),
            labels(&[("alertname", "A"), ("zone", "1")]),
            labels(&[("zz", "1")]),
        ];
        sets.sort_by(message_order);
        let names: Vec<&str> = sets.iter().map(|s| s.get("alertname").map_or("-", String::as_str)).collect();
        assert_eq!(names, ["C", "B", "D", "Z", "A", "-", "M", "A"]);
    }

    #[test]
    fn overlapping_reports_keep_the_earliest_start() {
        let alert = |starts, ends, timeout| Alert {
            labels: labels(&[("alertname", "A")]),
            annotations: LabelSet::new(),
            starts_at_ns: starts,
            ends_at_ns: ends,
            updated_at_ns: 0,
            generator_url: String::new(),
            timeout,
            ended: false,
        };
        for (old, new, now, want) in [
            ((5, 60, false), (8, 90, false), 10, (5, 90)),
            // The old one was over before the new one began: two alerts.
            ((5, 6, false), (8, 90, false), 10, (8, 90)),
            // Resolved within the time-out.
            ((5, 300, true), (9, 9, false), 10, (5, 9)),
            // A named end later than a new time-out stays.
            ((5, 400, false), (8, 300, true), 10, (5, 400)),
            ((5, 400, true), (8, 300, true), 10, (5, 300)),
        ] {
            let merged = alert(new.0, new.1, new.2).merged_over(&alert(old.0, old.1, old.2), now);
            assert_eq!((merged.starts_at_ns, merged.ends_at_ns), want);
        }
    }

    #[test]
    fn label_names_are_letters_digits_and_underscores() {
        for (name, good) in [("a", true), ("_a9", true), ("", false), ("9a", false), ("a-b", false), ("größe", false)]
        {
            assert_eq!(is_label_name(name), good, "{name}");
        }
    }
}
