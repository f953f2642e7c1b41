//! Routing: which receivers get which alerts, how they are grouped, when groups are notified and when they are muted.
//!
//! In: what a configuration says. Out: plain values, and the routes that labels take. Touches nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::alert::LabelSet;

use crate::calendar::TimeInterval;
use crate::credential::Credential;
use crate::http_config::HttpConfig;
use crate::matcher::{Matcher, all_match, list_text};

/// Which receivers are notified of which alerts, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// How long an alert without an end stays active after its last report.
    pub resolve_timeout: Duration,
    /// The tree of routes: the root first, each before its children.
    pub routes: Vec<Arc<Route>>,
    /// The receivers, in the order of the file.
    pub receivers: Vec<Receiver>,
    /// Alerts that mute others.
    pub inhibit_rules: Vec<InhibitRule>,
    /// Time intervals by name.
    pub intervals: BTreeMap<String, Vec<TimeInterval>>,
    /// The configuration as YAML without secrets, for `GET /api/v2/status`.
    pub shown: String,
}

/// How alerts are grouped and how often a group is notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Name of the receiver.
    pub receiver: String,
    /// Labels that make a group.
    pub group_by: GroupBy,
    /// How long a new group collects alerts before it is notified.
    pub group_wait: Duration,
    /// How often a group is looked at after that.
    pub group_interval: Duration,
    /// After how long an unchanged group is notified again.
    pub repeat_interval: Duration,
    /// What alerts must match to take it.
    pub matchers: Vec<Matcher>,
    /// Whether alerts that take it look at its later siblings too.
    pub continues: bool,
    /// Names of time intervals in which it notifies nobody.
    pub mute_time_intervals: Vec<String>,
    /// Names of time intervals outside of which it notifies nobody; none: always active.
    pub active_time_intervals: Vec<String>,
    /// Its place in keys of groups, as Alertmanager has it: the matchers from the root on.
    pub key: String,
    /// The key, with a number where an earlier route has the same.
    pub id: String,
    /// Places of its children in the tree.
    pub children: Vec<usize>,
}

/// Labels that make a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// These; none: all alerts are one group.
    Labels(Vec<String>),
    /// `...`: each label set is a group.
    All,
}

/// One receiver with its integrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Name.
    pub name: String,
    /// Webhooks.
    pub webhooks: Vec<Webhook>,
    /// Alerts are written to the program's log: the receiver that stands in when no file is named.
    pub log: bool,
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where messages go.
    pub url: Credential,
    /// Whether resolved alerts are sent.
    pub send_resolved: bool,
    /// Alerts in one message at most; 0: any number.
    pub max_alerts: usize,
    /// Longest time of one attempt; none: `notify.timeout`.
    pub timeout: Option<Duration>,
    /// How it is reached.
    pub http: HttpConfig,
}

/// While an alert fires that matches the source, those that match the target are muted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InhibitRule {
    /// Its name, if it has one.
    pub name: String,
    /// What mutes.
    pub source: Vec<Matcher>,
    /// What is muted.
    pub target: Vec<Matcher>,
    /// Labels that must be equal in both.
    pub equal: Vec<String>,
}

impl Default for Routing {
    /// All alerts to the program's log, grouped by name.
    fn default() -> Self {
        let by = millrace_log::alert::ALERT_NAME;
        let route =
            Route { receiver: "log".to_owned(), group_by: GroupBy::Labels(vec![by.to_owned()]), ..Route::usual() };
        Self {
            resolve_timeout: Duration::from_secs(300),
            routes: vec![Arc::new(route)],
            receivers: vec![Receiver { name: "log".to_owned(), webhooks: Vec::new(), log: true }],
            inhibit_rules: Vec::new(),
            intervals: BTreeMap::new(),
            shown: format!("route:\n  receiver: \"log\"\n  group_by:\n  - \"{by}\"\nreceivers:\n- name: \"log\"\n"),
        }
    }
}

impl Route {
    /// Alertmanager's values for what a route does not say.
    pub(crate) fn usual() -> Self {
        Self {
            receiver: String::new(),
            group_by: GroupBy::Labels(Vec::new()),
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_secs(300),
            repeat_interval: Duration::from_secs(4 * 3600),
            matchers: Vec::new(),
            continues: false,
            mute_time_intervals: Vec::new(),
            active_time_intervals: Vec::new(),
            key: "{}".to_owned(),
            id: "{}".to_owned(),
            children: Vec::new(),
        }
    }

    /// What a child has that says nothing itself.
    pub(crate) fn child(&self, matchers: Vec<Matcher>) -> Self {
        let key = format!("{}/{}", self.key, list_text(&matchers));
        Self {
            matchers,
            continues: false,
            mute_time_intervals: Vec::new(),
            active_time_intervals: Vec::new(),
            id: key.clone(),
            key,
            children: Vec::new(),
            ..self.clone()
        }
    }
}

impl InhibitRule {
    /// Whether labels are those of an alert that mutes.
    pub(crate) fn is_source(&self, labels: &LabelSet) -> bool {
        all_match(&self.source, labels)
    }

    /// Whether labels are those of an alert that is muted.
    pub(crate) fn is_target(&self, labels: &LabelSet) -> bool {
        all_match(&self.target, labels)
    }
}

impl Routing {
    /// Whether alerts reach anybody besides this program's own log, by way of any route.
    pub fn notifies_somebody(&self) -> bool {
        self.receivers
            .iter()
            .any(|receiver| !receiver.webhooks.is_empty() && self.routes.iter().any(|r| r.receiver == receiver.name))
    }

    /// The receiver of alerts that no other route takes.
    pub fn root_receiver(&self) -> &str {
        self.routes.first().map_or("", |root| &root.receiver)
    }

    /// The routes that labels take: the root where no other matches.
    pub fn routes_of(&self, labels: &LabelSet) -> Vec<&Arc<Route>> {
        let mut found = Vec::new();
        self.collect(0, labels, &mut found);
        found
    }

    /// Whether a route or some below it take the labels.
    fn collect<'r>(&'r self, at: usize, labels: &LabelSet, found: &mut Vec<&'r Arc<Route>>) -> bool {
        let Some(route) = self.routes.get(at) else { return false };
        if !all_match(&route.matchers, labels) {
            return false;
        }
        let before = found.len();
        for child in &route.children {
            let continues = self.routes.get(*child).is_some_and(|child| child.continues);
            if self.collect(*child, labels, found) && !continues {
                break;
            }
        }
        if found.len() == before {
            found.push(route);
        }
        true
    }

    /// Names of the time intervals that mute a route at a time; none: it is not muted.
    pub fn muted_by<'r>(&self, route: &'r Route, at_ns: i64) -> Vec<&'r str> {
        let is_in = |name: &&String| {
            self.intervals.get(name.as_str()).is_some_and(|list| list.iter().any(|interval| interval.contains(at_ns)))
        };
        let mut names: Vec<&str> = route.mute_time_intervals.iter().filter(is_in).map(String::as_str).collect();
        if !route.active_time_intervals.is_empty() && !route.active_time_intervals.iter().any(|name| is_in(&name)) {
            names.extend(route.active_time_intervals.iter().map(String::as_str));
        }
        names
    }
}
