//! An alert as the notifier keeps it: its times, how reports of it are merged, and the order of alerts in a message.
//!
//! In: reports. Out: what Alertmanager would keep and show. Touches nothing.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use millrace_log::alert::{Fingerprint, LabelSet};
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> LabelSet {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
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
}
