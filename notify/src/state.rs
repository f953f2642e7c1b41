//! State of the notifier in memory: alerts held, their groups, and what was sent of them.
//!
//! In: reports with their times filled in. Out: groups, batches to notify of. Touches nothing: the notifier guards it with a
//! lock and keeps it on disk by way of `record.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::alert::Alert;
use crate::dedup::SentRecord;
use crate::group::{self, Batch, Group};
use crate::inhibit::Inhibitor;
use crate::routing::Routing;
use crate::silences::Silences;
use crate::wait;
use millrace_log::alert::{Fingerprint, LabelSet, NewAlert};
use millrace_log::clock::span_ns;
use millrace_log::go;
use millrace_log::record::is_label_name;

/// Everything that is known of alerts, groups and messages.
#[derive(Debug)]
pub(crate) struct NotifierState {
    /// The routing that the groups were made with.
    routing: Arc<Routing>,
    /// Alerts by identity; each is a member of a group for each route that it takes, until the group's receiver knows that it is
    /// over.
    pub(crate) alerts: HashMap<Fingerprint, Alert>,
    /// Groups by their key.
    pub(crate) groups: BTreeMap<String, Group>,
    /// What was sent, by receiver, integration and group.
    pub(crate) sent: HashMap<String, SentRecord>,
    /// Silences, and which alerts they mute.
    pub(crate) silences: Silences,
    /// Alerts that mute others.
    inhibitor: Inhibitor,
}

/// What mutes an alert.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suppression {
    /// Ids of silences.
    pub silenced_by: Vec<String>,
    /// An alert that inhibits it.
    pub inhibited_by: Option<Fingerprint>,
}

impl Suppression {
    /// Whether anything mutes it.
    pub fn is_suppressed(&self) -> bool {
        !self.silenced_by.is_empty() || self.inhibited_by.is_some()
    }
}

impl NotifierState {
    /// Without alerts and silences.
    pub(crate) fn new(routing: Arc<Routing>, sent: HashMap<String, SentRecord>) -> Self {
        let inhibitor = Inhibitor::new(&routing.inhibit_rules);
        let (alerts, groups, silences) = (HashMap::new(), BTreeMap::new(), Silences::default());
        Self { routing, alerts, groups, sent, silences, inhibitor }
    }

    /// The routing that the groups were made with.
    pub(crate) fn routing(&self) -> &Arc<Routing> {
        &self.routing
    }

    /// Keys of the groups that labels belong to.
    fn keys_of(&self, labels: &LabelSet) -> Vec<String> {
        let routes = self.routing.routes_of(labels);
        routes.iter().map(|route| group::key_of(&route.id, &group::labels_of(labels, &route.group_by))).collect()
    }

    /// Takes an alert in, or anew, and into its groups.
    pub(crate) fn insert(&mut self, alert: Alert, now_ns: i64) {
        let fingerprint = alert.fingerprint();
        for route in self.routing.routes_of(&alert.labels) {
            let labels = group::labels_of(&alert.labels, &route.group_by);
            let group = self.groups.entry(group::key_of(&route.id, &labels)).or_insert_with(|| Group {
                labels,
                route: Arc::clone(route),
                members: BTreeSet::new(),
                next_ns: wait::first_flush(route, now_ns),
                has_flushed: false,
                flushing: false,
            });
            group.members.insert(fingerprint);
            if wait::is_overdue(route, group, alert.starts_at_ns, now_ns) {
                group.next_ns = now_ns;
            }
        }
        self.inhibitor.add(&self.routing.inhibit_rules, &alert.labels, fingerprint);
        self.alerts.insert(fingerprint, alert);
    }

    /// Takes an alert out of one group. Returns whether it was its last one, and so forgets it.
    pub(crate) fn leave(&mut self, group_id: &str, fingerprint: Fingerprint) -> bool {
        if let Some(group) = self.groups.get_mut(group_id) {
            group.members.remove(&fingerprint);
        }
        let Some(alert) = self.alerts.get(&fingerprint) else { return false };
        let has = |key: String| self.groups.get(&key).is_some_and(|group| group.members.contains(&fingerprint));
        if self.keys_of(&alert.labels).into_iter().any(has) {
            return false;
        }
        if let Some(alert) = self.alerts.remove(&fingerprint) {
            self.inhibitor.remove(&self.routing.inhibit_rules, &alert.labels, fingerprint);
            self.silences.forget_alert(fingerprint);
        }
        true
    }

    /// Makes the groups anew for another routing. Groups that there are in both keep their timers; one that is being flushed is
    /// known to be so under its key.
    pub(crate) fn regroup(&mut self, routing: Arc<Routing>, now_ns: i64) {
        let before = std::mem::take(&mut self.groups);
        self.inhibitor = Inhibitor::new(&routing.inhibit_rules);
        self.routing = routing;
        let alerts: Vec<Alert> = self.alerts.values().cloned().collect();
        for alert in alerts {
            self.insert(alert, now_ns);
        }
        for (key, old) in before {
            match self.groups.get_mut(&key) {
                Some(group) => {
                    let longest = if old.has_flushed { wait::next_flush } else { wait::first_flush };
                    group.next_ns = old.next_ns.min(longest(&group.route, now_ns));
                    group.has_flushed = old.has_flushed;
                    group.flushing = old.flushing;
                }
                None if old.flushing => drop(self.groups.insert(key, Group { members: BTreeSet::new(), ..old })),
                None => {}
            }
        }
    }

    /// A group's alerts as they are now; none if it has none.
    pub(crate) fn freeze(&self, key: &str, now_ns: i64) -> Option<Batch> {
        let group = self.groups.get(key)?;
        let alerts = group.members.iter().filter_map(|fingerprint| self.alerts.get(fingerprint)).cloned();
        let batch = Batch::freeze(key, group, alerts, now_ns);
        (!batch.alerts.is_empty()).then_some(batch)
    }

    /// An alert that mutes one with these labels.
    pub(crate) fn inhibited_by(&self, labels: &LabelSet, now_ns: i64) -> Option<Fingerprint> {
        self.inhibitor.inhibited_by(&self.routing.inhibit_rules, &self.alerts, labels, now_ns)
    }

    /// What mutes an alert.
    pub(crate) fn suppression(&mut self, fingerprint: Fingerprint, labels: &LabelSet, now_ns: i64) -> Suppression {
        let silenced_by = self.silences.mute(fingerprint, labels, now_ns);
        Suppression { silenced_by, inhibited_by: self.inhibited_by(labels, now_ns) }
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
