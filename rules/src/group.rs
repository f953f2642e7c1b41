//! One group of rules: evaluation at a time, states of its alerts, reports to the notifier.
//!
//! In: the group as read, an [`Evaluator`], the watermark. Out: states in memory and on disk, reports to an [`AlertSink`],
//! views for the API. Touches what [`SavedStates`] touches. Leaves intervals and reloads to `manager.rs`.
//!
//! Order within an evaluation: query, move the states, make them durable; the manager then notifies. A crash between any
//! two repeats only what the notifier knows already, and it drops repeats. A failing query leaves the states unchanged, is
//! counted and logged, and firing alerts are reported further on.

use std::sync::Arc;
use std::time::Duration;

use millrace_log::alert::{AlertSink, Fingerprint, NewAlert};
use millrace_log::clock::{SharedClock, span_ns};
use millrace_log::record::Tenant;
use millrace_logql::budget::{Budget, OverBudget};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::RulesConfig;
use crate::evaluate::{Evaluation, Evaluator};
use crate::file::{Group, Rule};
use crate::link;
use crate::metrics::{GroupLabels, RulesMetrics};
use crate::saved::SavedStates;
use crate::state::{self, ActiveAlert, Alerts, State, Transition};
use crate::template::Surroundings;
use crate::view::{AlertView, GroupView, Health, Overdue, RuleView, Step};

/// Reports per call of the notifier.
const REPORTS_PER_CALL: usize = 1000;
/// A group is overdue when it is later than its interval, and than this: a busy machine delays those with short intervals now
/// and then.
const USUAL_DELAY: Duration = Duration::from_secs(5);

/// What all groups work with.
pub struct RuleContext {
    /// The section `rules`.
    pub config: RulesConfig,
    /// Whose lines are queried.
    pub tenant: Tenant,
    /// Answers queries.
    pub evaluator: Arc<dyn Evaluator>,
    /// Takes reports.
    pub sink: Arc<dyn AlertSink>,
    /// The time.
    pub clock: SharedClock,
    /// Counters.
    pub metrics: Arc<RulesMetrics>,
    /// States on disk.
    pub saved: SavedStates,
    /// What templates see beside the series.
    pub around: Surroundings,
}

impl RuleContext {
    /// Where the link of an alert leads.
    fn link_of(&self, rule: &Rule, alert: &ActiveAlert) -> String {
        alert.link.clone().unwrap_or_else(|| link::to_lines(&self.config.external_url, rule, alert))
    }
}

/// One rule with its states.
#[derive(Debug, Default)]
pub struct RuleRun {
    /// File, group, name, and its number among rules of one name: states are found again by it.
    pub key: String,
    /// Its alerts.
    pub alerts: Alerts,
    health: Health,
    evaluated_at_ns: Option<i64>,
    took: Duration,
}

impl RuleRun {
    /// With the states that a former run left.
    pub fn new(key: String, alerts: Alerts) -> Self {
        Self { key, alerts, ..Self::default() }
    }
}

/// One group with its states. Only its own task changes them; the API reads.
#[derive(Debug)]
pub struct GroupRun {
    /// The group as read.
    pub group: Arc<Group>,
    /// Its interval, or the configured one.
    pub interval: Duration,
    /// Its rules, in its order.
    pub rules: Vec<Mutex<RuleRun>>,
    progress: Mutex<Progress>,
    turn: Mutex<Turn>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    at_ns: Option<i64>,
    took: Duration,
}

/// The evaluation that comes next or is under way.
#[derive(Debug, Clone, Copy)]
struct Turn {
    due_ns: i64,
    step: Step,
}

impl Turn {
    fn at(due_ns: i64) -> Self {
        Self { due_ns, step: Step::Begins }
    }
}

impl GroupRun {
    /// A group that was not evaluated yet. It is to begin now: what it reports before its first evaluation may hang, too.
    pub fn new(group: Arc<Group>, interval: Duration, rules: Vec<Mutex<RuleRun>>, now_ns: i64) -> Self {
        Self { group, interval, rules, progress: Mutex::default(), turn: Mutex::new(Turn::at(now_ns)) }
    }

    /// Its next evaluation is due then; until the one after it is due, it counts as not done.
    pub fn is_due_at(&self, due_ns: i64) {
        *self.turn.lock() = Turn::at(due_ns);
    }

    fn is_at(&self, step: Step) {
        self.turn.lock().step = step;
    }

    /// Whether its evaluation is late, and what for.
    pub fn overdue(&self, now_ns: i64) -> Option<Overdue> {
        let Turn { due_ns, step } = *self.turn.lock();
        let late = nonnegative(now_ns.saturating_sub(due_ns));
        if late <= self.interval.max(USUAL_DELAY) {
            return None;
        }
        let rule = step.rule().and_then(|rule| self.group.rules.get(rule));
        Some(Overdue { late, step, alert: rule.map(|rule| rule.alert.clone()) })
    }

    /// Evaluates the rules one after the other, all at one time: that of `due_ns`, or earlier if lines are late. `false`:
    /// it was cancelled.
    pub async fn evaluate(&self, cx: &RuleContext, due_ns: i64, token: &CancellationToken) -> bool {
        let began_ns = cx.clock.now_ns();
        let labels = GroupLabels { group: self.group.name.clone() };
        let wanted_ns = due_ns.saturating_sub(span_ns(self.group.query_offset));
        let watermark_ns = cx.evaluator.watermark().await;
        // Late lines are waited for, but not for ever; and time never runs backwards.
        let earliest_ns = wanted_ns.saturating_sub(span_ns(cx.config.max_delay.0));
        let last_ns = self.progress.lock().at_ns.unwrap_or(i64::MIN);
        let at_ns = watermark_ns.min(wanted_ns).max(earliest_ns).max(last_ns);
        cx.metrics.delay_seconds.get_or_create(&labels).set(nonnegative(wanted_ns.saturating_sub(at_ns)).as_secs_f64());
        for (number, (rule, state)) in self.group.rules.iter().zip(&self.rules).enumerate() {
            if token.is_cancelled() {
                return false;
            }
            self.is_at(Step::Queries(number));
            let from_ns = cx.clock.now_ns();
            cx.metrics.evaluations.get_or_create(&labels).inc();
            let allowance = cx.evaluator.allowance().within_timeout(cx.config.timeout.0);
            let budget = Budget::new(allowance.limits, token).for_rule();
            let request = Evaluation {
                tenant: &cx.tenant,
                expr: &rule.expr,
                at_ns,
                watermark_ns,
                budget: &budget,
                timeout_set_by: &allowance.timeout_set_by,
            };
            let Some(answer) = self.query(cx, rule, state, &request).await else { return false };
            let took = nonnegative(cx.clock.now_ns().saturating_sub(from_ns));
            self.is_at(Step::Saves(number));
            self.apply(cx, rule, state, answer, (at_ns, took)).await;
        }
        let took = nonnegative(cx.clock.now_ns().saturating_sub(began_ns));
        cx.metrics.evaluation_seconds.get_or_create(&labels).set(took.as_secs_f64());
        *self.progress.lock() = Progress { at_ns: Some(at_ns), took };
        if let Err(error) = cx.saved.note_evaluation(&self.group, cx.clock.now_ns()).await {
            cx.metrics.store_failures.inc();
            tracing::error!(%error, group = self.group.name, "cannot save the time of an evaluation");
        }
        true
    }

    /// Queries one rule and computes the states after it. `None`: it was cancelled.
    async fn query(
        &self,
        cx: &RuleContext,
        rule: &Rule,
        state: &Mutex<RuleRun>,
        request: &Evaluation<'_>,
    ) -> Option<Result<Transition, String>> {
        Some(match request.budget.within(cx.evaluator.evaluate(request)).await {
            Err(OverBudget::Cancelled) => return None,
            Err(OverBudget::Limit { limit: "timeout", .. }) => Err(request.timed_out().to_string()),
            Err(over) => Err(over.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(samples)) => {
                let before = state.lock().alerts.clone();
                state::transition(rule, self.group.limit, &before, samples, request.at_ns, &cx.around)
                    .map_err(|e| e.to_string())
            }
        })
    }

    /// Takes the outcome of a rule's evaluation over into its states, and makes them durable.
    async fn apply(
        &self,
        cx: &RuleContext,
        rule: &Rule,
        state: &Mutex<RuleRun>,
        outcome: Result<Transition, String>,
        (at_ns, took): (i64, Duration),
    ) {
        match outcome {
            Ok(transition) => {
                for fault in &transition.template_faults {
                    cx.metrics.template_failures.inc();
                    tracing::warn!(group = self.group.name, "{fault}, using the default text");
                }
                let key = {
                    let mut state = state.lock();
                    state.alerts = transition.alerts;
                    state.health = Health::Good;
                    state.evaluated_at_ns = Some(at_ns);
                    state.took = took;
                    state.key.clone()
                };
                save(cx, state, &key, transition.changed).await;
            }
            Err(message) => {
                let labels = GroupLabels { group: self.group.name.clone() };
                cx.metrics.failures.get_or_create(&labels).inc();
                let mut state = state.lock();
                let failed = Health::Failed(message);
                if state.health != failed
                    && let Health::Failed(message) = &failed
                {
                    tracing::warn!(
                        file = %self.group.file.display(), line = rule.line, group = self.group.name,
                        alert = rule.alert, error = message, "rule evaluation failed, its alerts are unchanged"
                    );
                }
                state.health = failed;
                state.evaluated_at_ns = Some(at_ns);
                state.took = took;
            }
        }
    }

    /// Reports due alerts to the notifier. What it does not accept stays due.
    pub async fn notify(&self, cx: &RuleContext) {
        self.is_at(Step::Reports);
        let now_ns = cx.clock.now_ns();
        // As Prometheus: valid for four times the longer of interval and repetition.
        let valid_for = self.interval.max(cx.config.resend_delay.0).saturating_mul(4);
        let valid_until_ns = now_ns.saturating_add(span_ns(valid_for));
        for (rule, state) in self.group.rules.iter().zip(&self.rules) {
            let due: Vec<(Fingerprint, State, NewAlert)> = {
                let state = state.lock();
                state::due(&state.alerts, now_ns, cx.config.resend_delay.0)
                    .into_iter()
                    .filter_map(|f| state.alerts.get(&f).map(|a| (f, a)))
                    .map(|(f, a)| (f, a.state, state::report(a, cx.link_of(rule, a), now_ns, valid_until_ns)))
                    .collect()
            };
            for part in due.chunks(REPORTS_PER_CALL) {
                let reports = part.iter().map(|(_, _, report)| report.clone()).collect();
                if let Err(error) = cx.sink.send(reports).await {
                    cx.metrics.send_failures.inc();
                    tracing::error!(
                        %error, group = self.group.name, alert = rule.alert, alerts = part.len(),
                        "notifier did not accept alerts, retrying at the next evaluation"
                    );
                    break;
                }
                let mut state = state.lock();
                for (fingerprint, sent, _) in part {
                    if let Some(alert) = state.alerts.get_mut(fingerprint) {
                        alert.sent_at_ns = Some(now_ns);
                        alert.sent_state = Some(*sent);
                    }
                }
            }
        }
    }

    /// The group with its rules and alerts.
    pub fn view(&self, cx: &RuleContext) -> GroupView {
        let progress = *self.progress.lock();
        let rules = self.group.rules.iter().zip(&self.rules);
        GroupView {
            group: self.group.clone(),
            interval: self.interval,
            evaluated_at_ns: progress.at_ns,
            took: progress.took,
            overdue: self.overdue(cx.clock.now_ns()),
            rules: rules.map(|(rule, state)| self.rule_view(cx, rule, &state.lock())).collect(),
        }
    }

    fn rule_view(&self, cx: &RuleContext, rule: &Rule, run: &RuleRun) -> RuleView {
        let view = |alert: &ActiveAlert| AlertView {
            file: self.group.file.clone(),
            group: self.group.name.clone(),
            alert: rule.alert.clone(),
            expr: rule.expr.text().to_owned(),
            state: alert.state,
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            value: alert.value,
            active_at_ns: alert.active_at_ns,
            fired_at_ns: alert.fired_at_ns,
            resolved_at_ns: alert.resolved_at_ns,
            kept_since_ns: alert.kept_since_ns,
            link: cx.link_of(rule, alert),
        };
        RuleView {
            rule: rule.clone(),
            health: run.health.clone(),
            evaluated_at_ns: run.evaluated_at_ns,
            took: run.took,
            alerts: run.alerts.values().map(view).collect(),
        }
    }
}

/// Makes changed states durable. A page is more important than its record: when the disk fails it is sent all the same.
async fn save(cx: &RuleContext, state: &Mutex<RuleRun>, rule_key: &str, changed: Vec<Fingerprint>) {
    if changed.is_empty() {
        return;
    }
    let changes = {
        let state = state.lock();
        changed.into_iter().map(|f| (f, state.alerts.get(&f).cloned())).collect()
    };
    if let Err(error) = cx.saved.save(rule_key, changes).await {
        cx.metrics.store_failures.inc();
        tracing::error!(%error, "cannot save the states of alerts: after a crash they may be reported again");
    }
}

fn nonnegative(ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}
