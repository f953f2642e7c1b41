//! Rules at work: a task for each group that evaluates it at its interval and notifies; reload of the rule files.
//!
//! In: rule files, an [`Evaluator`], a clock. Out: reports to an [`AlertSink`], states for the page and the API.
//! Touches: the folder `rules/` of the data folder, the rule files. Leaves people to the notifier. A group never waits for
//! another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::alert::{AlertSink, hash_text};
use millrace_log::clock::SharedClock;
use millrace_log::record::Tenant;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::RulesConfig;
use crate::error::RulesError;
use crate::evaluate::Evaluator;
use crate::file::{self, RuleFault, RuleSet};
use crate::group::{GroupRun, RuleContext, RuleRun};
use crate::metrics::{GroupLabels, RulesMetrics};
use crate::saved::{SavedStates, group_key, state_key};
use crate::state::{self, ActiveAlert, Alerts, State};
use crate::template::Surroundings;
use crate::view::{AlertView, GroupView, Overdue, worst_first};

/// Tasks of groups with the token that stops each.
type Running = HashMap<tokio::task::Id, (Arc<GroupRun>, CancellationToken)>;

/// All rules at work.
pub struct Rules {
    cx: RuleContext,
    groups: Mutex<Vec<Arc<GroupRun>>>,
    next: Mutex<Option<RuleSet>>,
    /// Alerts whose rule was deleted, with their keys on disk: the notifier does not know yet that they are resolved.
    retired: Mutex<Vec<(Vec<u8>, ActiveAlert)>>,
    reload: Notify,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("config", &self.cx.config).finish_non_exhaustive()
    }
}

impl Rules {
    /// Whose logs the rules evaluate, and whose the alerts are.
    pub fn tenant(&self) -> &Tenant {
        &self.cx.tenant
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
        let saved = SavedStates::open(&data_dir.join("rules"))?;
        let loaded = saved.load(clock.now_ns())?;
        let metrics = RulesMetrics::register(registry);
        let around = Surroundings::new(&config.external_url, &config.external_labels);
        let rules = Self {
            cx: RuleContext { config, tenant, evaluator, sink, clock, metrics, saved, around },
            groups: Mutex::default(),
            next: Mutex::default(),
            retired: Mutex::default(),
            reload: Notify::new(),
        };
        let left = rules.install(set, loaded);
        rules.retire(left);
        let rules = Arc::new(rules);
        let seen = Arc::downgrade(&rules);
        RulesMetrics::register_overdue(registry, move || seen.upgrade().map(|rules| rules.late()).unwrap_or_default());
        Ok(rules)
    }

    /// Reads the rule files again; they replace the previous ones between two evaluations. Faulty files change nothing.
    /// Blocks.
    pub fn reload(&self) -> Result<usize, Vec<RuleFault>> {
        match file::load(&self.cx.config.files) {
            Ok(set) => {
                let count = set.rule_count();
                *self.next.lock() = Some(set);
                self.reload.notify_one();
                Ok(count)
            }
            Err(faults) => {
                self.cx.metrics.reload_failures.inc();
                tracing::error!(faults = faults.len(), "rule files have errors, the previous rules remain active");
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
        let mut running = Running::new();
        self.notify_retired().await;
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
                    // Only a panic ends a group's task while its token lives: it is started again.
                    let id = match ended { Ok((id, ())) => id, Err(error) => error.id() };
                    if let Some((run, _)) = running.remove(&id) {
                        tracing::error!(group = run.group.name, "task of a rule group ended unexpectedly, restarting it");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
        self.cx.saved.sync().await.map_err(RulesError::from)
    }

    /// All alerts, firing ones first.
    pub fn alerts(&self) -> Vec<AlertView> {
        worst_first(self.groups())
    }

    /// All groups with their rules and alerts, in the order of the files.
    pub fn groups(&self) -> Vec<GroupView> {
        let runs = self.groups.lock().clone();
        runs.iter().map(|run| run.view(&self.cx)).collect()
    }

    /// Groups that are not evaluated in time, for those who look after the process.
    pub fn notices(&self) -> Vec<String> {
        let notice = |(run, overdue): (Arc<GroupRun>, Option<Overdue>)| {
            let (name, file, overdue) = (&run.group.name, run.group.file.display(), overdue?);
            Some(format!("rule group `{name}` of {file}: {overdue}; until then its alerts stay as they are"))
        };
        self.with_overdue().filter_map(notice).collect()
    }

    /// The same for anybody: neither files nor alerts are named.
    pub fn public_notices(&self) -> Vec<String> {
        let notice = |(run, overdue): (Arc<GroupRun>, Option<Overdue>)| {
            let (name, late) = (&run.group.name, overdue?.late.as_secs());
            Some(format!(
                "rule group `{name}`: evaluation is overdue: it was due {late} s ago; until then its alerts stay as they are \
                 (`millrace doctor` shows what it waits for)"
            ))
        };
        self.with_overdue().filter_map(notice).collect()
    }

    /// How late each group is.
    fn late(&self) -> Vec<(String, Duration)> {
        let late = |overdue: Option<Overdue>| overdue.map(|overdue| overdue.late).unwrap_or_default();
        self.with_overdue().map(|(run, overdue)| (run.group.name.clone(), late(overdue))).collect()
    }

    /// All groups; with those that are late, how.
    fn with_overdue(&self) -> impl Iterator<Item = (Arc<GroupRun>, Option<Overdue>)> + use<> {
        let (now_ns, runs) = (self.cx.clock.now_ns(), self.groups.lock().clone());
        runs.into_iter().map(move |run| {
            let overdue = run.overdue(now_ns);
            (run, overdue)
        })
    }

    /// Installs a rule set, with states found by key; gives back the states that no rule has any longer.
    fn install(&self, set: RuleSet, mut states: HashMap<String, Alerts>) -> HashMap<String, Alerts> {
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
            let mut rules = Vec::with_capacity(group.rules.len());
            for rule in &group.rules {
                let number = numbers.entry(&rule.alert).or_default();
                let key = format!("{}\u{1f}{}\u{1f}{number}", group_key(&group), rule.alert);
                *number += 1;
                let alerts = states.remove(&key).unwrap_or_default();
                rules.push(Mutex::new(RuleRun::new(key, alerts)));
            }
            let interval = group.interval.unwrap_or(self.cx.config.interval.0);
            self.cx.metrics.expose_group(&group.name);
            groups.push(Arc::new(GroupRun::new(group, interval, rules, self.cx.clock.now_ns())));
        }
        states
    }

    /// Forgets pending alerts of deleted rules; the others are resolved now, which [`Rules::notify_retired`] reports.
    fn retire(&self, left: HashMap<String, Alerts>) {
        let now_ns = self.cx.clock.now_ns();
        let mut retired = Vec::new();
        for (key, alerts) in left {
            for (fingerprint, mut alert) in alerts {
                if alert.state != State::Pending {
                    alert.resolved_at_ns.get_or_insert(now_ns);
                    alert.state = State::Resolved;
                    retired.push((state_key(&key, fingerprint), alert));
                } else if let Err(error) = self.cx.saved.remove_now(state_key(&key, fingerprint)) {
                    self.cx.metrics.store_failures.inc();
                    tracing::error!(%error, "cannot remove the states of a deleted rule");
                }
            }
        }
        self.retired.lock().append(&mut retired);
    }

    /// Replaces the rule set: unchanged groups keep running, the others end and hand over their states.
    async fn replace(&self, set: RuleSet, tasks: &mut JoinSet<()>, running: &mut Running) {
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
        let mut states: HashMap<String, Alerts> = HashMap::new();
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
                    states.insert(rule.key.clone(), std::mem::take(&mut rule.alerts));
                }
            }
        }
        let left = self.install(set, states);
        self.retire(left);
        self.notify_retired().await;
        let (groups, rules) = {
            let groups = self.groups.lock();
            (groups.len(), groups.iter().map(|g| g.rules.len()).sum::<usize>())
        };
        tracing::info!(groups, rules, "rule files loaded");
    }

    /// Reports that alerts of deleted rules are resolved, then forgets them.
    async fn notify_retired(&self) {
        let retired = self.retired.lock().clone();
        if retired.is_empty() {
            return;
        }
        let now_ns = self.cx.clock.now_ns();
        // Without its rule nobody knows which lines they were.
        let link = |alert: &ActiveAlert| alert.link.clone().unwrap_or_else(|| self.cx.config.external_url.clone());
        let reports = retired.iter().map(|(_, alert)| state::report(alert, link(alert), now_ns, now_ns)).collect();
        if let Err(error) = self.cx.sink.send(reports).await {
            self.cx.metrics.send_failures.inc();
            tracing::error!(
                %error, alerts = retired.len(),
                "cannot report that alerts of deleted rules are resolved, retrying at the next evaluation"
            );
            return;
        }
        let keys: Vec<Vec<u8>> = retired.into_iter().map(|(key, _)| key).collect();
        self.retired.lock().retain(|(key, _)| !keys.contains(key));
        if let Err(error) = self.cx.saved.remove(keys).await {
            self.cx.metrics.store_failures.inc();
            tracing::error!(%error, "cannot remove the states of a deleted rule");
        }
    }

    /// Evaluates a group at its interval. Groups are spread over the interval by their names.
    async fn run_group(self: Arc<Self>, run: Arc<GroupRun>, token: CancellationToken) {
        let clock = &self.cx.clock;
        let interval_ns = i64::try_from(run.interval.as_nanos()).unwrap_or(i64::MAX).max(1);
        let offset_ns = i64::try_from(hash_text(&group_key(&run.group)) % interval_ns.unsigned_abs()).unwrap_or(0);
        run.notify(&self.cx).await;
        let now_ns = clock.now_ns();
        let mut due_ns = now_ns - (now_ns - offset_ns).rem_euclid(interval_ns);
        if due_ns < now_ns {
            due_ns = due_ns.saturating_add(interval_ns);
        }
        loop {
            run.is_due_at(due_ns);
            let wait_ns = u64::try_from(due_ns.saturating_sub(clock.now_ns())).unwrap_or(0);
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = tokio::time::sleep(Duration::from_nanos(wait_ns)) => {}
            }
            // The clock may be moved by hand while the timer ran out.
            if clock.now_ns() < due_ns {
                continue;
            }
            if run.evaluate(&self.cx, due_ns, &token).await {
                run.notify(&self.cx).await;
                self.notify_retired().await;
                self.count();
            }
            let behind = clock.now_ns().saturating_sub(due_ns) / interval_ns;
            let missed = (behind - 1).max(0);
            if missed > 0 {
                let labels = GroupLabels { group: run.group.name.clone() };
                self.cx.metrics.missed_evaluations.get_or_create(&labels).inc_by(missed.unsigned_abs());
                tracing::warn!(
                    group = run.group.name, missed, interval = ?run.interval,
                    "evaluations of a rule group were skipped: its queries take longer than its interval"
                );
            }
            due_ns = due_ns.saturating_add(interval_ns.saturating_mul(missed + 1));
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
        self.cx.metrics.pending.set(pending);
        self.cx.metrics.firing.set(firing);
    }
}
