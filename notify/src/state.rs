//! State of the notifier in memory: alerts held, their groups, and what was sent of them.
//!
//! In: reports with their times filled in. Out: groups, batches to notify of. Touches nothing: the notifier guards it with a
//! lock and keeps it on disk by way of `record.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::alert::Alert;
use crate::dedup::SentRecord;
use crate::group::{self, Batch, Group};
use crate::routing::Routing;
use crate::wait;
use millrace_log::alert::{Fingerprint, NewAlert};
use millrace_log::clock::span_ns;
use millrace_log::go;
use millrace_log::record::is_label_name;

/// Everything that is known of alerts, groups and messages.
#[derive(Debug, Default)]
pub(crate) struct NotifierState {
    /// Alerts by identity; each is a member of one group.
    pub(crate) alerts: HashMap<Fingerprint, Alert>,
    /// Groups by their key.
    pub(crate) groups: BTreeMap<String, Group>,
    /// What was sent, by receiver, integration and group.
    pub(crate) sent: HashMap<String, SentRecord>,
}

impl NotifierState {
    /// Takes an alert in, or anew, and into its group.
    pub(crate) fn insert(&mut self, routing: &Routing, alert: Alert, now_ns: i64) {
        let fingerprint = alert.fingerprint();
        let labels = group::labels_of(&alert.labels, &routing.route.group_by);
        let group = self.groups.entry(group::key_of(&labels)).or_insert_with(|| Group {
            labels,
            members: BTreeSet::new(),
            next_ns: wait::first_flush(&routing.route, now_ns),
            has_flushed: false,
            flushing: false,
        });
        group.members.insert(fingerprint);
        if wait::is_overdue(&routing.route, group, alert.starts_at_ns, now_ns) {
            group.next_ns = now_ns;
        }
        self.alerts.insert(fingerprint, alert);
    }

    /// Lets go of an alert.
    pub(crate) fn remove(&mut self, routing: &Routing, fingerprint: Fingerprint) {
        let Some(alert) = self.alerts.remove(&fingerprint) else { return };
        let key = group::key_of(&group::labels_of(&alert.labels, &routing.route.group_by));
        if let Some(group) = self.groups.get_mut(&key) {
            group.members.remove(&fingerprint);
        }
    }

    /// Makes the groups anew for another routing. A group that is being flushed is known to be so under its key.
    pub(crate) fn regroup(&mut self, routing: &Routing, now_ns: i64) {
        let before = std::mem::take(&mut self.groups);
        for (key, group) in before.into_iter().filter(|(_, group)| group.flushing) {
            self.groups.insert(key, Group { members: BTreeSet::new(), ..group });
        }
        let alerts: Vec<Alert> = self.alerts.values().cloned().collect();
        for alert in alerts {
            self.insert(routing, alert, now_ns);
        }
    }

    /// A group's alerts as they are now; none if it has none.
    pub(crate) fn freeze(&self, key: &str, now_ns: i64) -> Option<Batch> {
        let group = self.groups.get(key)?;
        let alerts = group.members.iter().filter_map(|fingerprint| self.alerts.get(fingerprint)).cloned();
        let batch = Batch::freeze(key, group, alerts, now_ns);
        (!batch.alerts.is_empty()).then_some(batch)
    }
}

/// A report with its times filled in as Alertmanager does.
pub(crate) fn completed(report: NewAlert, routing: &Routing, now_ns: i64) -> Alert {
    let starts_at_ns = report.starts_at_ns.or(report.ends_at_ns).unwrap_or(now_ns);
    let timeout = report.ends_at_ns.is_none();
    let ends_at_ns = report.ends_at_ns.unwrap_or_else(|| now_ns.saturating_add(span_ns(routing.resolve_timeout)));
    let mut labels = report.labels;
    labels.retain(|_, value| !value.is_empty());
    Alert {
        labels,
        annotations: report.annotations,
        starts_at_ns,
        ends_at_ns,
        updated_at_ns: now_ns,
        generator_url: report.generator_url,
        timeout,
        ended: ends_at_ns <= now_ns,
    }
}

/// Alertmanager's checks, in its words.
pub(crate) fn valid(alert: &Alert) -> Result<(), String> {
    if alert.ends_at_ns < alert.starts_at_ns {
        return Err("start time must be before end time".to_owned());
    }
    if alert.labels.is_empty() {
        return Err("at least one label pair required".to_owned());
    }
    if let Some(name) = alert.labels.keys().find(|name| !is_label_name(name)) {
        return Err(format!("invalid label set: invalid name {}", go::quote(name)));
    }
    if let Some(name) = alert.annotations.keys().find(|name| !is_label_name(name)) {
        return Err(format!("invalid annotations: invalid name {}", go::quote(name)));
    }
    Ok(())
}
