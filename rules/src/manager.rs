//! Rules at work: a task per group that evaluates in turns, keeps states on disk and tells the notifier.
//!
//! In: rule files, an [`Evaluator`], a clock. Out: reports to an [`AlertSink`], states for the page and the API.
//! Touches: the folder `rules/` of the data folder, the rule files. Leaves people to the notifier.
//!
//! Order within a turn: ask, move states, make them durable, tell the notifier. A crash between any two repeats only
//! what the notifier knows already, and it drops what it has told. A group never waits for another; a failing query
//! keeps the states, is counted and told, and firing alerts go on being reported.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::clock::{SharedClock, span_ns};
use millrace_log::record::Tenant;
use millrace_logql::budget::{Budget, OverBudget, QueryLimits};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::RulesConfig;
use crate::error::RulesError;
use crate::evaluate::{EvaluateError, Evaluation, Evaluator};
use crate::file::{self, Group, Rule, RuleFault, RuleSet};
use crate::link;
use crate::metrics::{GroupLabels, RulesMetrics};
use crate::state::{self, ActiveAlert, Alerts, State};
use millrace_log::alert::{AlertSink, Fingerprint, LabelSet, NewAlert, hash_text};
use millrace_log::store::{Change, Store, StoreError, Tree, run_blocking};

/// States older than this start `for` anew: nobody knows whether the series was there meanwhile.
const OUTAGE_TOLERANCE_NS: i64 = 3600 * 1_000_000_000;
/// Reports per call of the notifier.
const REPORTS_PER_CALL: usize = 1000;

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

/// One group for the API.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// The group as read.
    pub group: Arc<Group>,
    /// Its interval.
    pub interval: Duration,
    /// When it was last evaluated.
    pub evaluated_at_ns: Option<i64>,
    /// How long its last turn took.
    pub took: Duration,
    /// Its rules.
    pub rules: Vec<RuleView>,
}

/// One rule with its states.
#[derive(Debug, Default)]
struct RuleRun {
    /// File, group, name, and its number among rules of one name: states are found again by it.
    key: String,
    alerts: Alerts,
    health: Health,
    evaluated_at_ns: Option<i64>,
    took: Duration,
}

/// One group with its states. Only its own task changes them; the API reads.
#[derive(Debug)]
struct GroupRun {
    group: Arc<Group>,
    interval: Duration,
    progress: Mutex<Progress>,
    rules: Vec<Mutex<RuleRun>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    at_ns: Option<i64>,
    took: Duration,
}

/// When a group was last evaluated: tells after a restart how long nobody looked.
#[derive(Debug, Serialize, serde::Deserialize)]
struct LastTurn {
    at_ns: i64,
}

/// All rules at work.
pub struct Rules {
    config: RulesConfig,
    tenant: Tenant,
    evaluator: Arc<dyn Evaluator>,
    sink: Arc<dyn AlertSink>,
    clock: SharedClock,
    metrics: Arc<RulesMetrics>,
    store: Arc<Store>,
    states: Tree,
    turns: Tree,
    groups: Mutex<Vec<Arc<GroupRun>>>,
    next: Mutex<Option<RuleSet>>,
    /// Alerts whose rule is gone, with their keys on disk: their end has yet to be told.
    retired: Mutex<Vec<(Vec<u8>, ActiveAlert)>>,
    reload: Notify,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Rules {
    /// Whose logs the rules evaluate, and whose the alerts are.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Reads the rule files and the states that a former run left below `data_dir`/rules. Blocks.
    ///
    /// # Errors
    /// All faults of the rule files at once; or the state folder can't be used.
    pub fn open(
        config: RulesConfig,
        data_dir: &Path,
        evaluator: Arc<dyn Evaluator>,
        sink: Arc<dyn AlertSink>,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, RulesError> {
        let tenant =
            Tenant::new(&config.tenant).map_err(|e| RulesError::Config { message: format!("rules.tenant: {e}") })?;
        let set = file::load(&config.files).map_err(|faults| RulesError::Files { faults })?;
        let store = Store::open(&data_dir.join("rules"))?;
        let (states, turns) = (store.tree("states")?, store.tree("turns")?);
        let rules = Self {
            tenant,
            evaluator,
            sink,
            clock,
            metrics: RulesMetrics::register(registry),
            store: Arc::new(store),
            states,
            turns,
            groups: Mutex::default(),
            next: Mutex::default(),
            retired: Mutex::default(),
            reload: Notify::new(),
            config,
        };
        let kept = rules.read_states()?;
        let left = rules.install(set, kept);
        rules.retire(left);
        Ok(Arc::new(rules))
    }

    /// Reads the rule files anew; they take over between two turns. Faulty files change nothing. Blocks.
    pub fn reload(&self) -> Result<usize, Vec<RuleFault>> {
        match file::load(&self.config.files) {
            Ok(set) => {
                let count = set.rule_count();
                *self.next.lock() = Some(set);
                self.reload.notify_one();
                Ok(count)
            }
            Err(faults) => {
                self.metrics.reload_failures.inc();
                tracing::error!(faults = faults.len(), "rule files have faults, the rules read before stay at work");
                Err(faults)
            }
        }
    }

    /// Evaluates until cancelled; returns when all groups have ended.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(self: Arc<Self>, token: CancellationToken) -> BoxFuture<'static, Result<(), RulesError>> {
        self.evaluate_until(token).boxed()
    }

    async fn evaluate_until(self: Arc<Self>, token: CancellationToken) -> Result<(), RulesError> {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<tokio::task::Id, (Arc<GroupRun>, CancellationToken)> = HashMap::new();
        self.tell_retired().await;
        loop {
            let new: Vec<Arc<GroupRun>> = {
                let groups = self.groups.lock();
                let is_running = |run: &Arc<GroupRun>| running.values().any(|(other, _)| Arc::ptr_eq(run, other));
                groups.iter().filter(|run| !is_running(run)).cloned().collect()
            };
            for run in new {
                let stop = token.child_token();
                let handle = tasks.spawn(self.clone().run_group(run.clone(), stop.clone()).boxed());
                running.insert(handle.id(), (run, stop));
            }
            tokio::select! {
                // First: groups end by the same token, and that is no fault of theirs.
                biased;
                () = token.cancelled() => break,
                () = self.reload.notified() => {
                    let Some(set) = self.next.lock().take() else { continue };
                    self.replace(set, &mut tasks, &mut running).await;
                }
                Some(ended) = tasks.join_next_with_id() => {
                    // Only a panic ends a group's task while its token lives: it is started anew.
                    let id = match ended { Ok((id, ())) => id, Err(error) => error.id() };
                    if let Some((run, _)) = running.remove(&id) {
                        tracing::error!(group = run.group.name, "task of a group of rules ended by itself, starting it anew");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
        let store = self.store.clone();
        run_blocking(move || store.sync()).await.map_err(RulesError::from)
    }

    /// All alerts, firing ones first.
    pub fn alerts(&self) -> Vec<AlertView> {
        let mut all: Vec<AlertView> = self.groups().into_iter().flat_map(|g| g.rules).flat_map(|r| r.alerts).collect();
        let rank = |alert: &AlertView| match alert.state {
            State::Firing => 0,
            State::Pending => 1,
            State::Resolved => 2,
        };
        all.sort_by(|a, b| {
            rank(a).cmp(&rank(b)).then(b.active_at_ns.cmp(&a.active_at_ns)).then(a.labels.cmp(&b.labels))
        });
        all
    }

    /// All groups with their rules and alerts, in the order of the files.
    pub fn groups(&self) -> Vec<GroupView> {
        let runs = self.groups.lock().clone();
        runs.iter()
            .map(|run| {
                let progress = *run.progress.lock();
                let rules = run.group.rules.iter().zip(&run.rules);
                GroupView {
                    group: run.group.clone(),
                    interval: run.interval,
                    evaluated_at_ns: progress.at_ns,
                    took: progress.took,
                    rules: rules.map(|(rule, state)| self.rule_view(&run.group, rule, &state.lock())).collect(),
                }
            })
            .collect()
    }

    fn rule_view(&self, group: &Group, rule: &Rule, run: &RuleRun) -> RuleView {
        let view = |alert: &ActiveAlert| AlertView {
            file: group.file.clone(),
            group: group.name.clone(),
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
            link: self.link_of(rule, alert),
        };
        RuleView {
            rule: rule.clone(),
            health: run.health.clone(),
            evaluated_at_ns: run.evaluated_at_ns,
            took: run.took,
            alerts: run.alerts.values().map(view).collect(),
        }
    }

    /// Where the link of an alert leads.
    fn link_of(&self, rule: &Rule, alert: &ActiveAlert) -> String {
        alert.link.clone().unwrap_or_else(|| link::to_lines(&self.config.external_url, rule, alert))
    }

    /// States on disk by key of the rule; pending ones only if somebody looked lately.
    fn read_states(&self) -> Result<HashMap<String, Alerts>, StoreError> {
        let turns: HashMap<Vec<u8>, LastTurn> = self.turns.all()?.into_iter().collect();
        let now_ns = self.clock.now_ns();
        let mut kept: HashMap<String, Alerts> = HashMap::new();
        for (key, alert) in self.states.all::<ActiveAlert>()? {
            let Some((rule, fingerprint)) = split_state_key(&key) else { continue };
            let group = rule.split('\u{1f}').take(2).collect::<Vec<_>>().join("\u{1f}");
            let seen_ns = turns.get(group.as_bytes()).map(|t| t.at_ns).unwrap_or(alert.active_at_ns);
            if alert.state == State::Pending && now_ns.saturating_sub(seen_ns) > OUTAGE_TOLERANCE_NS {
                self.states.apply([Change::<ActiveAlert>::Remove(key)])?;
                continue;
            }
            kept.entry(rule).or_default().insert(fingerprint, alert);
        }
        Ok(kept)
    }

    /// Puts a rule set to work, with states found by key; gives back the states that no rule has any longer.
    fn install(&self, set: RuleSet, mut kept: HashMap<String, Alerts>) -> HashMap<String, Alerts> {
        let mut groups = self.groups.lock();
        let old = std::mem::take(&mut *groups);
        for group in set.groups {
            if let Some(same) = old.iter().find(|run| *run.group == *group) {
                groups.push(same.clone());
                continue;
            }
            if group.on_arrival || group.rules.iter().any(|rule| rule.samples > 0) {
                tracing::warn!(
                    file = %group.file.display(), group = group.name,
                    "`on_arrival` and `samples` have no effect yet: the group is evaluated at its interval, without sample lines"
                );
            }
            let mut numbers: HashMap<&str, usize> = HashMap::new();
            let mut runs = Vec::with_capacity(group.rules.len());
            for rule in &group.rules {
                let number = numbers.entry(&rule.alert).or_default();
                let key = format!("{}\u{1f}{}\u{1f}{number}", group_key(&group), rule.alert);
                *number += 1;
                let alerts = kept.remove(&key).unwrap_or_default();
                runs.push(Mutex::new(RuleRun { key, alerts, ..RuleRun::default() }));
            }
            let interval = group.interval.unwrap_or(self.config.interval.0);
            // Shown from the start, with zero.
            let labels = GroupLabels { group: group.name.clone() };
            for counter in [&self.metrics.evaluations, &self.metrics.failures, &self.metrics.missed_turns] {
                drop(counter.get_or_create(&labels));
            }
            groups.push(Arc::new(GroupRun { group, interval, progress: Mutex::default(), rules: runs }));
        }
        kept
    }

    /// Forgets pending alerts of rules that are gone; the others end now, which [`Rules::tell_retired`] tells.
    fn retire(&self, left: HashMap<String, Alerts>) {
        let now_ns = self.clock.now_ns();
        let mut retired = Vec::new();
        for (key, alerts) in left {
            for (fingerprint, mut alert) in alerts {
                if alert.state != State::Pending {
                    alert.resolved_at_ns.get_or_insert(now_ns);
                    alert.state = State::Resolved;
                    retired.push((state_key(&key, fingerprint), alert));
                } else if let Err(error) =
                    self.states.apply([Change::<ActiveAlert>::Remove(state_key(&key, fingerprint))])
                {
                    self.metrics.store_failures.inc();
                    tracing::error!(%error, "states of a rule that is gone can't be removed");
                }
            }
        }
        self.retired.lock().append(&mut retired);
    }

    /// Lets a new rule set take over: groups that are the same go on, the others end and hand over their states.
    async fn replace(
        &self,
        set: RuleSet,
        tasks: &mut JoinSet<()>,
        running: &mut HashMap<tokio::task::Id, (Arc<GroupRun>, CancellationToken)>,
    ) {
        let ending: Vec<tokio::task::Id> = running
            .iter()
            .filter(|(_, (run, _))| !set.groups.iter().any(|group| **group == *run.group))
            .map(|(id, _)| *id)
            .collect();
        for id in &ending {
            if let Some((_, stop)) = running.get(id) {
                stop.cancel();
            }
        }
        let mut kept: HashMap<String, Alerts> = HashMap::new();
        let mut open = ending.len();
        while open > 0 {
            let Some(ended) = tasks.join_next_with_id().await else { break };
            let id = match ended {
                Ok((id, ())) => id,
                Err(error) => error.id(),
            };
            if let Some((run, _)) = running.remove(&id)
                && ending.contains(&id)
            {
                open -= 1;
                for rule in &run.rules {
                    let mut rule = rule.lock();
                    kept.insert(rule.key.clone(), std::mem::take(&mut rule.alerts));
                }
            }
        }
        let left = self.install(set, kept);
        self.retire(left);
        self.tell_retired().await;
        let (groups, rules) = {
            let groups = self.groups.lock();
            (groups.len(), groups.iter().map(|g| g.rules.len()).sum::<usize>())
        };
        tracing::info!(groups, rules, "rule files taken over");
    }

    /// Tells the end of alerts whose rule is gone, then forgets them.
    async fn tell_retired(&self) {
        let retired = self.retired.lock().clone();
        if retired.is_empty() {
            return;
        }
        let now_ns = self.clock.now_ns();
        // Without its rule nobody knows which lines they were.
        let link = |alert: &ActiveAlert| alert.link.clone().unwrap_or_else(|| self.config.external_url.clone());
        let reports = retired.iter().map(|(_, alert)| state::report(alert, link(alert), now_ns, now_ns)).collect();
        if let Err(error) = self.sink.send(reports).await {
            self.metrics.send_failures.inc();
            tracing::error!(%error, alerts = retired.len(), "end of alerts whose rule is gone could not be reported, trying again at the next evaluation");
            return;
        }
        let states = self.states.clone();
        let store = self.store.clone();
        let keys: Vec<Vec<u8>> = retired.into_iter().map(|(key, _)| key).collect();
        self.retired.lock().retain(|(key, _)| !keys.contains(key));
        let forgotten = run_blocking(move || {
            states.apply(keys.into_iter().map(Change::<ActiveAlert>::Remove))?;
            store.sync()
        });
        if let Err(error) = forgotten.await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, "states of a rule that is gone can't be removed");
        }
    }

    async fn run_group(self: Arc<Self>, run: Arc<GroupRun>, token: CancellationToken) {
        let interval_ns = i64::try_from(run.interval.as_nanos()).unwrap_or(i64::MAX).max(1);
        let offset_ns = i64::try_from(hash_text(&group_key(&run.group)) % interval_ns.unsigned_abs()).unwrap_or(0);
        self.tell(&run).await;
        let now_ns = self.clock.now_ns();
        let mut turn_ns = now_ns - (now_ns - offset_ns).rem_euclid(interval_ns);
        if turn_ns < now_ns {
            turn_ns = turn_ns.saturating_add(interval_ns);
        }
        loop {
            let wait_ns = u64::try_from(turn_ns.saturating_sub(self.clock.now_ns())).unwrap_or(0);
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = tokio::time::sleep(Duration::from_nanos(wait_ns)) => {}
            }
            // The clock may be moved by hand while the timer ran out: wait for its turn.
            if self.clock.now_ns() < turn_ns {
                continue;
            }
            self.turn(&run, turn_ns, &token).await;
            let behind = self.clock.now_ns().saturating_sub(turn_ns) / interval_ns;
            let missed = (behind - 1).max(0);
            if missed > 0 {
                let labels = GroupLabels { group: run.group.name.clone() };
                self.metrics.missed_turns.get_or_create(&labels).inc_by(missed.unsigned_abs());
                tracing::warn!(
                    group = run.group.name, missed, interval = ?run.interval,
                    "turns of a group of rules were left out: its queries take longer than its interval"
                );
            }
            turn_ns = turn_ns.saturating_add(interval_ns.saturating_mul(missed + 1));
        }
    }

    /// One turn of a group: its rules one after the other, at one time.
    async fn turn(&self, run: &GroupRun, turn_ns: i64, token: &CancellationToken) {
        let began_ns = self.clock.now_ns();
        let labels = GroupLabels { group: run.group.name.clone() };
        let wanted_ns = turn_ns.saturating_sub(span_ns(run.group.query_offset));
        let watermark_ns = self.evaluator.watermark().await;
        // Late lines are waited for, but not for ever; and time never runs backwards.
        let earliest_ns = wanted_ns.saturating_sub(span_ns(self.config.max_delay.0));
        let last_ns = run.progress.lock().at_ns.unwrap_or(i64::MIN);
        let at_ns = watermark_ns.min(wanted_ns).max(earliest_ns).max(last_ns);
        self.metrics.delay_ms.get_or_create(&labels).set(wanted_ns.saturating_sub(at_ns) / 1_000_000);
        for (rule, state) in run.group.rules.iter().zip(&run.rules) {
            if token.is_cancelled() {
                return;
            }
            let from_ns = self.clock.now_ns();
            self.metrics.evaluations.get_or_create(&labels).inc();
            let limits = self.evaluator.limits();
            let allowed = limits.timeout.min(self.config.timeout.0);
            let budget = Budget::new(QueryLimits { timeout: allowed, ..limits }, token);
            let request = Evaluation { tenant: &self.tenant, expr: &rule.expr, at_ns, watermark_ns, budget: &budget };
            let outcome = match budget.within(self.evaluator.evaluate(&request)).await {
                Err(OverBudget::Cancelled) => return,
                Err(OverBudget::Limit { .. }) => Err(EvaluateError::Timeout { allowed }.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Ok(Ok(samples)) => {
                    let before = state.lock().alerts.clone();
                    state::step(rule, run.group.limit, &before, samples, at_ns).map_err(|e| e.to_string())
                }
            };
            let took_ns = self.clock.now_ns().saturating_sub(from_ns);
            let took = Duration::from_nanos(u64::try_from(took_ns).unwrap_or(0));
            match outcome {
                Ok(step) => {
                    for fault in &step.template_faults {
                        self.metrics.template_failures.inc();
                        tracing::warn!(group = run.group.name, "{fault}, the default text is shown");
                    }
                    let key = {
                        let mut state = state.lock();
                        state.alerts = step.alerts;
                        state.health = Health::Good;
                        state.evaluated_at_ns = Some(at_ns);
                        state.took = took;
                        state.key.clone()
                    };
                    self.keep(state, &key, step.changed).await;
                }
                Err(message) => {
                    self.metrics.failures.get_or_create(&labels).inc();
                    let mut state = state.lock();
                    let failed = Health::Failed(message);
                    if state.health != failed
                        && let Health::Failed(message) = &failed
                    {
                        tracing::warn!(
                            file = %run.group.file.display(), line = rule.line, group = run.group.name,
                            alert = rule.alert, error = message, "rule could not be evaluated, its alerts stay as they are"
                        );
                    }
                    state.health = failed;
                    state.evaluated_at_ns = Some(at_ns);
                    state.took = took;
                }
            }
        }
        let took_ns = self.clock.now_ns().saturating_sub(began_ns);
        self.metrics.turn_ms.get_or_create(&labels).set(took_ns / 1_000_000);
        *run.progress.lock() =
            Progress { at_ns: Some(at_ns), took: Duration::from_nanos(u64::try_from(took_ns).unwrap_or(0)) };
        // Not synced on purpose: it only tells after a crash how long nobody looked.
        let last = LastTurn { at_ns: self.clock.now_ns() };
        let (turns, key) = (self.turns.clone(), group_key(&run.group).into_bytes());
        if let Err(error) = run_blocking(move || turns.apply([Change::Put(key, &last)])).await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, group = run.group.name, "time of a group's turn could not be kept");
        }
        self.tell(run).await;
        self.tell_retired().await;
        self.count();
    }

    /// Makes changed states durable. A page is more important than its record: when the disk fails it is sent all the same.
    async fn keep(&self, state: &Mutex<RuleRun>, rule_key: &str, changed: Vec<Fingerprint>) {
        if changed.is_empty() {
            return;
        }
        let changes: Vec<(Vec<u8>, Option<ActiveAlert>)> = {
            let state = state.lock();
            changed.into_iter().map(|f| (state_key(rule_key, f), state.alerts.get(&f).cloned())).collect()
        };
        let (states, store) = (self.states.clone(), self.store.clone());
        let kept = run_blocking(move || {
            states.apply(changes.iter().map(|(key, alert)| match alert {
                Some(alert) => Change::Put(key.clone(), alert),
                None => Change::Remove(key.clone()),
            }))?;
            store.sync()
        });
        if let Err(error) = kept.await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, "states of alerts could not be kept: after a crash they may be reported again");
        }
    }

    /// Tells the notifier what is due. What it does not take stays due.
    async fn tell(&self, run: &GroupRun) {
        let now_ns = self.clock.now_ns();
        // As Prometheus: good for four times the longer of interval and repetition.
        let good_for = run.interval.max(self.config.resend_delay.0).saturating_mul(4);
        let valid_until_ns = now_ns.saturating_add(span_ns(good_for));
        for (rule, state) in run.group.rules.iter().zip(&run.rules) {
            let due: Vec<(Fingerprint, State, NewAlert)> = {
                let state = state.lock();
                state::due(&state.alerts, now_ns, self.config.resend_delay.0)
                    .into_iter()
                    .filter_map(|f| state.alerts.get(&f).map(|a| (f, a)))
                    .map(|(f, a)| (f, a.state, state::report(a, self.link_of(rule, a), now_ns, valid_until_ns)))
                    .collect()
            };
            for part in due.chunks(REPORTS_PER_CALL) {
                let reports = part.iter().map(|(_, _, report)| report.clone()).collect();
                if let Err(error) = self.sink.send(reports).await {
                    self.metrics.send_failures.inc();
                    tracing::error!(
                        %error, group = run.group.name, alert = rule.alert, alerts = part.len(),
                        "notifier did not take alerts, telling them again at the next turn"
                    );
                    break;
                }
                let mut state = state.lock();
                for (fingerprint, told, _) in part {
                    if let Some(alert) = state.alerts.get_mut(fingerprint) {
                        alert.sent_at_ns = Some(now_ns);
                        alert.sent_state = Some(*told);
                    }
                }
            }
        }
    }

    fn count(&self) {
        let (mut pending, mut firing) = (0, 0);
        for run in self.groups.lock().iter() {
            for rule in &run.rules {
                for alert in rule.lock().alerts.values() {
                    match alert.state {
                        State::Pending => pending += 1,
                        State::Firing => firing += 1,
                        State::Resolved => {}
                    }
                }
            }
        }
        self.metrics.pending.set(pending);
        self.metrics.firing.set(firing);
    }
}

fn group_key(group: &Group) -> String {
    format!("{}\u{1f}{}", group.file.display(), group.name)
}

fn state_key(rule: &str, fingerprint: Fingerprint) -> Vec<u8> {
    format!("{rule}\u{1f}{fingerprint}").into_bytes()
}

fn split_state_key(key: &[u8]) -> Option<(String, Fingerprint)> {
    let (rule, fingerprint) = std::str::from_utf8(key).ok()?.rsplit_once('\u{1f}')?;
    Some((rule.to_owned(), Fingerprint(u64::from_str_radix(fingerprint, 16).ok()?)))
}
