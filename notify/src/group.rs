//! Grouping: which alerts go out together, and the batch that the later stages work on.
//!
//! In: an alert and the route. Out: the group's labels and key; later a [`Batch`] of its alerts, frozen at one time.
//! Touches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::alert::{Alert, message_order};
use crate::routing::{GroupBy, Route};
use millrace_log::alert::{Fingerprint, LabelSet, labels_text};

/// One group of alerts.
#[derive(Debug, Clone)]
pub struct Group {
    /// The route that its alerts took.
    pub route: Arc<Route>,
    /// Labels that all its alerts share by the route's `group_by`.
    pub labels: LabelSet,
    /// Its alerts.
    pub members: BTreeSet<Fingerprint>,
    /// When it is looked at next, ns since 1970.
    pub next_ns: i64,
    /// It has been looked at before: `group_wait` is over.
    pub has_flushed: bool,
    /// It is being flushed.
    pub flushing: bool,
}

/// Labels of the group that an alert belongs to.
pub fn labels_of(alert: &LabelSet, by: &GroupBy) -> LabelSet {
    match by {
        GroupBy::All => alert.clone(),
        GroupBy::Labels(names) => {
            alert.iter().filter(|(name, _)| names.contains(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
        }
    }
}

/// Alertmanager's key of a group, of the route's key and the group's labels: `{}/{team="x"}:{alertname="A"}`. With the id of
/// the route instead of its key, no two groups have the same.
pub fn key_of(route: &str, labels: &LabelSet) -> String {
    format!("{route}:{}", labels_text(labels))
}

/// An alert as receivers are notified of it: frozen, so that it does not resolve while messages are under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifiedAlert {
    /// Identity.
    pub fingerprint: Fingerprint,
    /// The alert.
    pub alert: Alert,
    /// Whether it is over.
    pub resolved: bool,
}

/// Alerts of one group at one time, in the order of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The route that the group's alerts took.
    pub route: Arc<Route>,
    /// Alertmanager's key of the group.
    pub group_key: String,
    /// Key of the group that no other has.
    pub group_id: String,
    /// Labels of the group.
    pub group_labels: LabelSet,
    /// Time of freezing, ns since 1970.
    pub at_ns: i64,
    /// Its alerts.
    pub alerts: Vec<NotifiedAlert>,
}

impl Batch {
    /// Freezes alerts.
    pub fn freeze(group_id: &str, group: &Group, alerts: impl Iterator<Item = Alert>, at_ns: i64) -> Self {
        let mut alerts: Vec<NotifiedAlert> = alerts
            .map(|alert| NotifiedAlert { fingerprint: alert.fingerprint(), resolved: alert.resolved_at(at_ns), alert })
            .collect();
        alerts.sort_by(|a, b| message_order(&a.alert.labels, &b.alert.labels));
        Self {
            route: Arc::clone(&group.route),
            group_key: key_of(&group.route.key, &group.labels),
            group_id: group_id.to_owned(),
            group_labels: group.labels.clone(),
            at_ns,
            alerts,
        }
    }

    /// With some of its alerts.
    #[must_use]
    pub fn with(&self, alerts: Vec<NotifiedAlert>) -> Self {
        Self { alerts, ..self.clone() }
    }

    /// Identities of those that fire, or of those that are over.
    pub fn fingerprints(&self, resolved: bool) -> BTreeSet<Fingerprint> {
        self.alerts.iter().filter(|told| told.resolved == resolved).map(|told| told.fingerprint).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_alertmanager() {
        let alert = LabelSet::from([("alertname", "A"), ("b", "x\"y"), ("c", "z")].map(|(n, v)| (n.into(), v.into())));
        for (by, want) in [
            (GroupBy::Labels(vec!["alertname".into()]), r#"{}:{alertname="A"}"#),
            (GroupBy::Labels(vec!["b".into(), "alertname".into(), "none".into()]), r#"{}:{alertname="A", b="x\"y"}"#),
            (GroupBy::Labels(vec![]), "{}:{}"),
            (GroupBy::All, r#"{}:{alertname="A", b="x\"y", c="z"}"#),
        ] {
            assert_eq!(key_of("{}", &labels_of(&alert, &by)), want);
        }
    }
}
