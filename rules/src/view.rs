//! What the page and the API show of groups, rules and alerts.
//!
//! In: rules as read, states of their alerts. Out: plain values. Touches nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::alert::LabelSet;

use crate::file::{Group, Rule};
use crate::state::State;

/// How a rule's last evaluation went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Health {
    /// Not evaluated yet.
    #[default]
    Unknown,
    /// Answered.
    Good,
    /// Failed, with the reason.
    Failed(String),
}

/// One alert for the page and the API.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertView {
    /// File of its rule.
    pub file: PathBuf,
    /// Group of its rule.
    pub group: String,
    /// Name of its rule.
    pub alert: String,
    /// Expression of its rule.
    pub expr: String,
    /// Where it stands.
    pub state: State,
    /// Its labels.
    pub labels: LabelSet,
    /// Its texts.
    pub annotations: LabelSet,
    /// Value at the last evaluation that had its series.
    pub value: f64,
    /// Since when its series has been there, ns since 1970.
    pub active_at_ns: i64,
    /// Since when it fires.
    pub fired_at_ns: Option<i64>,
    /// When it was over.
    pub resolved_at_ns: Option<i64>,
    /// Since when `keep_firing_for` holds it.
    pub kept_since_ns: Option<i64>,
    /// Where its link leads.
    pub link: String,
}

/// One rule for the API.
#[derive(Debug, Clone)]
pub struct RuleView {
    /// The rule as read.
    pub rule: Rule,
    /// How its last evaluation went.
    pub health: Health,
    /// When that was, ns since 1970.
    pub evaluated_at_ns: Option<i64>,
    /// How long it took.
    pub took: Duration,
    /// Its alerts.
    pub alerts: Vec<AlertView>,
}

/// How far the evaluation of a group has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Waits for its time.
    #[default]
    Begins,
    /// The query of this rule.
    Queries(usize),
    /// The disk, for states of this rule.
    Saves(usize),
    /// The notifier.
    Reports,
}

impl Step {
    /// Number of the rule that it is about.
    pub fn rule(self) -> Option<usize> {
        match self {
            Self::Queries(rule) | Self::Saves(rule) => Some(rule),
            Self::Begins | Self::Reports => None,
        }
    }
}

/// A group that is not evaluated in time: what it says of its alerts is of its last evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Since the time it was due.
    pub late: Duration,
    /// Where it waits.
    pub step: Step,
    /// Name of the rule that the step is about; `None` where there is none, or whoever asks does not see it.
    pub alert: Option<String>,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evaluation is overdue: it was due {} s ago and waits for ", self.late.as_secs())?;
        match self.step {
            Step::Begins => return f.write_str("its turn"),
            Step::Queries(_) => f.write_str("the query of ")?,
            Step::Saves(_) => f.write_str("the disk, to save the states of ")?,
            Step::Reports => return f.write_str("the notifier"),
        }
        match &self.alert {
            Some(alert) => write!(f, "alert `{alert}`"),
            None => f.write_str("another rule of its group"),
        }
    }
}

/// One group for the API.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// The group as read.
    pub group: Arc<Group>,
    /// Its interval.
    pub interval: Duration,
    /// When it was last evaluated.
    pub evaluated_at_ns: Option<i64>,
    /// How long its last evaluation took.
    pub took: Duration,
    /// Whether it is late now.
    pub overdue: Option<Overdue>,
    /// Its rules.
    pub rules: Vec<RuleView>,
}

/// The alerts of all groups, firing ones first, then the newest.
pub fn worst_first(groups: Vec<GroupView>) -> Vec<AlertView> {
    let mut all: Vec<AlertView> = groups.into_iter().flat_map(|g| g.rules).flat_map(|r| r.alerts).collect();
    let rank = |alert: &AlertView| match alert.state {
        State::Firing => 0,
        State::Pending => 1,
        State::Resolved => 2,
    };
    all.sort_by(|a, b| rank(a).cmp(&rank(b)).then(b.active_at_ns.cmp(&a.active_at_ns)).then(a.labels.cmp(&b.labels)));
    all
}
