//! The notifier: alerts in, messages to people out, grouped and repeated as Alertmanager does.
//!
//! In: reports of alerts, from rules and from the API. Out: messages of receivers. Touches: the folder `notify/` of the
//! data folder, the network by way of receivers. One task decides which groups are due; each flush of a group is a task of
//! its own, so that a dead receiver holds up nobody else.
//!
//! An alert is grouped ([`crate::group`]) and waits ([`wait`]); each notification of a flush ([`crate::flush`]) then passes the
//! stages mute (time, silence, inhibition), dedup, render, send and record ([`crate::notification`]).
//!
//! # What survives a crash
//! Alerts are on the disk before their report is answered; what was sent before the next flush relies on it; and that an
//! alert is over before its end is sent. So after a restart nothing is forgotten, and nothing that was sent is sent
//! again, but for a message whose answer and record the crash came between. Alerts that were only kept alive by being
//! reported get `resolve_timeout` again, since nobody could report them while we were down.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::alert::{AlertSink, NewAlert, SinkError};
use millrace_log::clock::{SharedClock, span_ns};
use millrace_log::outgoing::Outgoing;
use millrace_log::store::{Store, run_blocking};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::alert::Alert;
use crate::config::NotifyConfig;
use crate::due::Due;
use crate::error::NotifyError;
use crate::failing::Failing;
use crate::flush::Flush;
use crate::integration::Integration;
use crate::metrics::{NotifyMetrics, StateLabels};
use crate::parts::Parts;
use crate::plan::Plan;
use crate::record::Records;
use crate::routing::Routing;
use crate::silence::{Silence, SilenceState};
use crate::state::{self, NotifierState};
use crate::wait;

/// How often empty groups and expired records are cleared away: Alertmanager's.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// Messages that are kept between attempts; further ones wait for the next flush of their group.
const MAX_PAUSES: usize = 1000;
/// The label after which groups take turns.
const ALERT_NAME: &str = "alertname";

/// The notifier.
pub struct Notifier {
    pub(crate) parts: Arc<Parts>,
    flush: Arc<Flush>,
    outgoing: Option<Outgoing>,
    wake: Notify,
    started_ns: i64,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("config", &self.parts.config).finish_non_exhaustive()
    }
}

impl Notifier {
    /// Reads `alertmanager.yml`, if one is named, and the state below `data_dir`/notify. Blocks.
    ///
    /// # Errors
    /// All faults of the file at once; the state folder can't be used; a client can't be made.
    pub fn open(
        config: NotifyConfig,
        data_dir: &Path,
        clock: SharedClock,
        outgoing: &Outgoing,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, NotifyError> {
        if !config.forward.is_empty() {
            let message = "notify.forward is not supported yet: remove it".to_owned();
            return Err(NotifyError::Config { message });
        }
        let plan = Plan::read(&config, outgoing)?;
        Self::open_plan(config, plan, Some(outgoing.clone()), data_dir, clock, registry)
    }

    /// As [`Notifier::open`], with integrations of the caller's for each receiver.
    pub fn open_with(
        config: NotifyConfig,
        routing: Routing,
        integrations: Vec<Arc<dyn Integration>>,
        data_dir: &Path,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, NotifyError> {
        Self::open_plan(config, Plan::with(routing, &integrations), None, data_dir, clock, registry)
    }

    fn open_plan(
        config: NotifyConfig,
        plan: Plan,
        outgoing: Option<Outgoing>,
        data_dir: &Path,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, NotifyError> {
        let records = Records::open(Store::open(&data_dir.join("notify"))?)?;
        let now_ns = clock.now_ns();
        let mut state = NotifierState::new(Arc::clone(&plan.routing), records.entries(now_ns)?);
        records.silences()?.into_iter().for_each(|silence| state.silences.put(silence));
        let grace_ns = now_ns.saturating_add(span_ns(plan.routing.resolve_timeout));
        for mut alert in records.alerts()? {
            if !alert.ended && alert.ends_at_ns < grace_ns {
                alert.ends_at_ns = grace_ns;
                alert.timeout = true;
            }
            state.insert(alert, now_ns);
        }
        let metrics = NotifyMetrics::register(registry);
        plan.expose(&metrics);
        let parts = Arc::new(Parts {
            permits: Semaphore::new(config.concurrency.max(1)),
            slots: Arc::new(Semaphore::new(config.concurrency.max(1).saturating_mul(2))),
            pauses: Semaphore::new(MAX_PAUSES),
            metrics,
            failing: Failing::default(),
            state: Mutex::new(state),
            records,
            clock,
            config,
            plan: RwLock::new(Arc::new(plan)),
            write_order: Mutex::default(),
        });
        let flush = Arc::new(Flush::new(&parts));
        let notifier = Self { flush, outgoing, wake: Notify::new(), started_ns: now_ns, parts };
        notifier.count();
        notifier.count_silences();
        Ok(Arc::new(notifier))
    }

    /// Reads `alertmanager.yml` anew and regroups the alerts held; what was sent is still known. A faulty file changes
    /// nothing. Blocks.
    ///
    /// # Errors
    /// All faults of the file at once; a client can't be made.
    pub fn reload(&self) -> Result<(), NotifyError> {
        let Some(outgoing) = &self.outgoing else { return Ok(()) };
        let plan = Plan::read(&self.parts.config, outgoing).inspect_err(|_| {
            tracing::error!("alertmanager.yml has errors, the previous one remains active");
        })?;
        let plan = Arc::new(plan);
        plan.expose(&self.parts.metrics);
        *self.parts.plan.write() = plan.clone();
        self.parts.failing.clear();
        self.parts.state.lock().regroup(Arc::clone(&plan.routing), self.parts.clock.now_ns());
        self.wake.notify_one();
        tracing::info!(
            routes = plan.routing.routes.len(),
            receivers = plan.routing.receivers.len(),
            "alertmanager.yml loaded"
        );
        Ok(())
    }

    /// Receivers that take no notifications, and why, for people.
    pub fn notices(&self) -> Vec<String> {
        self.parts.failing.notices()
    }

    /// The routing at work.
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.parts.plan().routing)
    }

    /// The configuration.
    pub fn config(&self) -> &NotifyConfig {
        &self.parts.config
    }

    /// When it was opened, ns since 1970.
    pub fn started_ns(&self) -> i64 {
        self.started_ns
    }

    /// The present time by its clock.
    pub fn now_ns(&self) -> i64 {
        self.parts.clock.now_ns()
    }

    /// Takes reports that came by the API; good ones are durable when it returns. Others are named in the error.
    ///
    /// They fill three quarters of `max_alerts` at most: a flood from outside leaves room for the rules of this process.
    pub async fn take(self: &Arc<Self>, reports: Vec<NewAlert>) -> Result<(), SinkError> {
        let max = self.parts.config.max_alerts;
        let own = self.clone();
        run_blocking(move || own.take_blocking(reports, max - max / 4)).await
    }

    fn take_blocking(&self, reports: Vec<NewAlert>, max: usize) -> Result<(), SinkError> {
        let _order = self.parts.write_order.lock();
        let now_ns = self.parts.clock.now_ns();
        let mut faults = Vec::new();
        let mut refused = 0usize;
        let mut changed: Vec<Alert> = Vec::new();
        let plan = self.parts.plan();
        let held;
        {
            let mut state = self.parts.state.lock();
            for report in reports {
                let alert = state::completed(report, &plan.routing, now_ns);
                if let Err(fault) = state::valid(&alert) {
                    faults.push(fault);
                    continue;
                }
                let fingerprint = alert.fingerprint();
                let alert = match state.alerts.get(&fingerprint) {
                    Some(old) => alert.merged_over(old, now_ns),
                    None if state.alerts.len() >= max => {
                        refused += 1;
                        continue;
                    }
                    None => alert,
                };
                state.insert(alert.clone(), now_ns);
                changed.push(alert);
            }
            held = state.alerts.len();
        }
        self.parts.metrics.received.inc_by(changed.len() as u64);
        self.parts.metrics.refused.inc_by((faults.len() + refused) as u64);
        // Even if the disk fails the page goes out; whoever reported hears of it and reports again.
        let kept = if changed.is_empty() { Ok(()) } else { self.parts.records.keep(&changed) };
        self.wake.notify_one();
        self.count();
        kept.inspect_err(|_| {
            self.parts.metrics.store_failures.inc();
        })?;
        if refused > 0 {
            return Err(SinkError::Full { held, max, refused });
        }
        if faults.is_empty() { Ok(()) } else { Err(SinkError::Invalid { faults }) }
    }

    /// Flushes groups when they are due until cancelled; returns when the last notification under way has ended.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(self: Arc<Self>, token: CancellationToken) -> BoxFuture<'static, Result<(), NotifyError>> {
        self.flush_until(token).boxed()
    }

    async fn flush_until(self: Arc<Self>, token: CancellationToken) -> Result<(), NotifyError> {
        let mut flushes: JoinSet<()> = JoinSet::new();
        let mut keys: HashMap<tokio::task::Id, String> = HashMap::new();
        let mut maintenance = tokio::time::interval(MAINTENANCE);
        let mut due = Due::default();
        // Groups are looked through when one is due or has changed, not at the end of each flush.
        let mut next_ns = i64::MIN;
        loop {
            let now_ns = self.parts.clock.now_ns();
            if next_ns <= now_ns {
                next_ns = self.find_due(now_ns, &mut due);
            }
            self.parts.metrics.due.set(i64::try_from(due.len()).unwrap_or(i64::MAX));
            let wait_ns = u64::try_from(next_ns.saturating_sub(now_ns)).unwrap_or(0);
            // A year at most: tokio's timers have a bound of their own.
            let wait = Duration::from_nanos(wait_ns).min(Duration::from_secs(365 * 24 * 3600));
            tokio::select! {
                () = token.cancelled() => break,
                () = self.wake.notified() => next_ns = i64::MIN,
                () = tokio::time::sleep(wait) => {}
                slot = Arc::clone(&self.parts.slots).acquire_owned(), if due.len() > 0 => {
                    if let (Ok(slot), Some(key)) = (slot, due.pop()) {
                        let handle = flushes.spawn(self.flush.clone().run(key.clone(), slot, token.clone()).boxed());
                        keys.insert(handle.id(), key);
                    }
                }
                _ = maintenance.tick() => self.maintain().await,
                Some(ended) = flushes.join_next_with_id() => {
                    next_ns = next_ns.min(self.end_flush(&ended.map(|(id, ())| id), &mut keys));
                }
            }
        }
        while let Some(ended) = flushes.join_next_with_id().await {
            self.end_flush(&ended.map(|(id, ())| id), &mut keys);
        }
        let records = self.parts.records.clone();
        run_blocking(move || records.sync()).await.map_err(NotifyError::from)
    }

    /// Adds groups that are due, marked as being flushed. Returns when the next one is.
    fn find_due(&self, now_ns: i64, due: &mut Due) -> i64 {
        let mut state = self.parts.state.lock();
        let mut found = Vec::new();
        let mut next_ns = i64::MAX;
        for (key, group) in state.groups.iter_mut().filter(|(_, group)| !group.flushing) {
            if group.next_ns <= now_ns {
                let since_ns = group.next_ns;
                group.has_flushed = true;
                group.next_ns = wait::next_flush(&group.route, now_ns);
                if !group.members.is_empty() {
                    group.flushing = true;
                    found.push((since_ns, group.labels.get(ALERT_NAME).cloned().unwrap_or_default(), key.clone()));
                    continue;
                }
            }
            next_ns = next_ns.min(group.next_ns);
        }
        // Those that have waited longest are first in the queue of their name.
        found.sort_by_key(|(since_ns, ..)| *since_ns);
        found.into_iter().for_each(|(_, name, key)| due.push(&name, key));
        next_ns
    }

    /// Lets go of a group. Returns when it is due next.
    fn end_flush(
        &self,
        ended: &Result<tokio::task::Id, tokio::task::JoinError>,
        keys: &mut HashMap<tokio::task::Id, String>,
    ) -> i64 {
        let id = match ended {
            Ok(id) => *id,
            Err(error) => {
                tracing::error!(%error, "flush of a group panicked, retrying at its next flush: this is a bug");
                error.id()
            }
        };
        let mut next_ns = i64::MAX;
        if let Some(key) = keys.remove(&id)
            && let Some(group) = self.parts.state.lock().groups.get_mut(&key)
        {
            group.flushing = false;
            next_ns = group.next_ns;
        }
        self.count();
        next_ns
    }

    /// Clears away empty groups and expired records.
    async fn maintain(self: &Arc<Self>) {
        let now_ns = self.parts.clock.now_ns();
        let expired: Vec<String> = {
            let mut state = self.parts.state.lock();
            state.groups.retain(|_, group| !group.members.is_empty() || group.flushing);
            let expired: Vec<String> =
                state.sent.iter().filter(|(_, e)| e.expires_at_ns <= now_ns).map(|(key, _)| key.clone()).collect();
            for key in &expired {
                state.sent.remove(key);
            }
            expired
        };
        self.count();
        self.clone().forget_silences(now_ns).await;
        self.count_silences();
        if expired.is_empty() {
            return;
        }
        let records = self.parts.records.clone();
        if let Err(error) = run_blocking(move || records.forget(&expired)).await {
            self.parts.metrics.store_failures.inc();
            tracing::error!(%error, "cannot remove expired records from the disk");
        }
    }

    /// Drops silences that are over for longer than they are kept.
    async fn forget_silences(self: Arc<Self>, now_ns: i64) {
        run_blocking(move || {
            let _order = self.parts.write_order.lock();
            let old_ns = now_ns.saturating_sub(span_ns(self.parts.config.silence_retention.0));
            let old: Vec<String> = {
                let mut state = self.parts.state.lock();
                let is_old = |silence: &&Silence| silence.ends_at_ns <= old_ns;
                let old: Vec<String> = state.silences.all().filter(is_old).map(|silence| silence.id.clone()).collect();
                old.iter().for_each(|id| state.silences.remove(id));
                old
            };
            if !old.is_empty()
                && let Err(error) = self.parts.records.drop_silences(&old)
            {
                self.parts.metrics.store_failures.inc();
                tracing::error!(%error, "cannot remove expired silences from the disk");
            }
        })
        .await;
    }

    /// Not at the end of each flush: there may be many.
    pub(crate) fn count_silences(&self) {
        let now_ns = self.parts.clock.now_ns();
        let state = self.parts.state.lock();
        for kind in [SilenceState::Active, SilenceState::Pending, SilenceState::Expired] {
            let count = state.silences.all().filter(|silence| silence.state(now_ns) == kind).count();
            let labels = StateLabels { state: kind.name() };
            self.parts.metrics.silences.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn count(&self) {
        let state = self.parts.state.lock();
        self.parts.metrics.alerts.set(i64::try_from(state.alerts.len()).unwrap_or(i64::MAX));
        self.parts.metrics.groups.set(i64::try_from(state.groups.len()).unwrap_or(i64::MAX));
    }
}

/// The notifier as rules see it.
#[derive(Debug, Clone)]
pub struct Inbox(pub Arc<Notifier>);

#[async_trait::async_trait]
impl AlertSink for Inbox {
    async fn send(&self, alerts: Vec<NewAlert>) -> Result<(), SinkError> {
        let notifier = self.0.clone();
        let max = notifier.parts.config.max_alerts;
        run_blocking(move || notifier.take_blocking(alerts, max)).await
    }
}
