//! The notifier: alerts in, messages to people out, grouped and repeated as Alertmanager does.
//!
//! In: reports of alerts, from rules and from the API. Out: messages of receivers. Touches: the folder `notify/` of the
//! data folder, the network by way of receivers. One task decides whose turn it is; each turn of a group is a task of
//! its own, so that a dead receiver holds up nobody else.
//!
//! A turn goes through the stages in order: [`crate::group`], [`wait`], [`crate::dedup`], [`retry`], [`crate::record`].
//!
//! # What survives a crash
//! Alerts are on the disk before their report is answered; what was told before the next turn relies on it; and that an
//! alert is over before its end is told. So after a restart nothing is forgotten, and nothing that was told is told
//! again, but for a message whose answer and record the crash came between. Alerts that were only kept alive by being
//! reported get `resolve_timeout` anew, since nobody could report them while we were down.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::clock::{SharedClock, span_ns};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::alert::Alert;
use crate::alertmanager::{Route, Routing};
use crate::book::{self, Book};
use crate::config::NotifyConfig;
use crate::dedup::{self, Entry};
use crate::error::NotifyError;
use crate::group::Batch;
use crate::metrics::{IntegrationLabels, NotifyMetrics};
use crate::receiver_log::LogReceiver;
use crate::receiver_webhook::WebhookReceiver;
use crate::record::{self, Records};
use crate::retry::{self, Delivery, Integration, Message};
use crate::wait;
use millrace_log::alert::{AlertSink, Fingerprint, NewAlert, SinkError};
use millrace_log::store::Store;
use millrace_log::store::run_blocking;

/// How often empty groups and expired records are cleared away: Alertmanager's.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// The configuration at work, with the integrations of the route's receiver.
struct Plan {
    routing: Routing,
    integrations: Vec<Arc<dyn Integration>>,
}

impl Plan {
    /// Reads the file that the configuration names.
    fn read(config: &NotifyConfig, client: &reqwest::Client) -> Result<Self, NotifyError> {
        let routing = match &config.config_file {
            Some(path) => Routing::read(path)?,
            None => Routing::default(),
        };
        let mut integrations: Vec<Arc<dyn Integration>> = Vec::new();
        for receiver in routing.receivers.iter().filter(|r| r.name == routing.route.receiver) {
            if receiver.log {
                integrations.push(Arc::new(LogReceiver));
            }
            for webhook in &receiver.webhooks {
                integrations.push(Arc::new(WebhookReceiver::new(webhook.clone(), client, config.timeout.0)?));
            }
        }
        if integrations.is_empty() {
            tracing::warn!(
                receiver = routing.route.receiver,
                "the receiver has no way of telling anybody: alerts are held, nobody is paged"
            );
        }
        Ok(Self { routing, integrations })
    }
}

/// Alerts of one group, for the API.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupedAlerts {
    /// Labels of the group.
    pub labels: millrace_log::alert::LabelSet,
    /// Its alerts, by identity.
    pub alerts: Vec<Alert>,
}

/// The notifier.
pub struct Notifier {
    config: NotifyConfig,
    /// What a reload replaces as one.
    plan: RwLock<Arc<Plan>>,
    client: Option<reqwest::Client>,
    clock: SharedClock,
    metrics: Arc<NotifyMetrics>,
    records: Records,
    book: Mutex<Book>,
    /// Held while alerts are changed in memory and on disk, so that both see the same order. Never on async threads.
    write_order: Mutex<()>,
    permits: Semaphore,
    wake: Notify,
    started_ns: i64,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("config", &self.config).finish_non_exhaustive()
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
        client: &reqwest::Client,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, NotifyError> {
        if !config.forward.is_empty() {
            let message = "notify.forward is not supported yet: remove it".to_owned();
            return Err(NotifyError::Config { message });
        }
        let plan = Plan::read(&config, client)?;
        Self::open_plan(config, plan, Some(client.clone()), data_dir, clock, registry)
    }

    /// As [`Notifier::open`], with integrations of the caller's.
    pub fn open_with(
        config: NotifyConfig,
        routing: Routing,
        integrations: Vec<Arc<dyn Integration>>,
        data_dir: &Path,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, NotifyError> {
        Self::open_plan(config, Plan { routing, integrations }, None, data_dir, clock, registry)
    }

    fn open_plan(
        config: NotifyConfig,
        plan: Plan,
        client: Option<reqwest::Client>,
        data_dir: &Path,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, NotifyError> {
        let records = Records::open(Store::open(&data_dir.join("notify"))?)?;
        let now_ns = clock.now_ns();
        let mut book = Book { sent: records.entries(now_ns)?, ..Book::default() };
        let grace_ns = now_ns.saturating_add(span_ns(plan.routing.resolve_timeout));
        for mut alert in records.alerts()? {
            if !alert.ended && alert.ends_at_ns < grace_ns {
                alert.ends_at_ns = grace_ns;
                alert.timeout = true;
            }
            book.insert(&plan.routing, alert, now_ns);
        }
        let notifier = Self {
            permits: Semaphore::new(config.concurrency.max(1)),
            plan: RwLock::new(Arc::new(plan)),
            client,
            metrics: NotifyMetrics::register(registry),
            records,
            book: Mutex::new(book),
            write_order: Mutex::default(),
            wake: Notify::new(),
            started_ns: now_ns,
            clock,
            config,
        };
        notifier.count();
        Ok(Arc::new(notifier))
    }

    /// Reads `alertmanager.yml` anew and regroups the alerts held; what was told is still known. A faulty file changes
    /// nothing. Blocks.
    ///
    /// # Errors
    /// All faults of the file at once; a client can't be made.
    pub fn reload(&self) -> Result<(), NotifyError> {
        let Some(client) = &self.client else { return Ok(()) };
        let plan = Plan::read(&self.config, client).inspect_err(|_| {
            tracing::error!("alertmanager.yml has faults, the one read before stays at work");
        })?;
        let plan = Arc::new(plan);
        *self.plan.write() = plan.clone();
        self.book.lock().regroup(&plan.routing, self.clock.now_ns());
        self.wake.notify_one();
        tracing::info!(receiver = plan.routing.route.receiver, "alertmanager.yml taken over");
        Ok(())
    }

    fn plan(&self) -> Arc<Plan> {
        self.plan.read().clone()
    }

    /// The routing at work.
    pub fn routing(&self) -> Routing {
        self.plan().routing.clone()
    }

    /// The configuration.
    pub fn config(&self) -> &NotifyConfig {
        &self.config
    }

    /// When it was opened, ns since 1970.
    pub fn started_ns(&self) -> i64 {
        self.started_ns
    }

    /// The present time by its clock.
    pub fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }

    /// Alerts that are not over, by identity.
    pub fn alerts(&self) -> Vec<Alert> {
        let now_ns = self.clock.now_ns();
        let book = self.book.lock();
        let mut alerts: Vec<(Fingerprint, Alert)> = book
            .alerts
            .iter()
            .filter(|(_, alert)| alert.ends_at_ns >= now_ns)
            .map(|(fingerprint, alert)| (*fingerprint, alert.clone()))
            .collect();
        drop(book);
        alerts.sort_by_key(|(fingerprint, _)| *fingerprint);
        alerts.into_iter().map(|(_, alert)| alert).collect()
    }

    /// Groups with their alerts that are not over, by their labels.
    pub fn groups(&self) -> Vec<GroupedAlerts> {
        let now_ns = self.clock.now_ns();
        let book = self.book.lock();
        let mut groups: Vec<GroupedAlerts> = book
            .groups
            .values()
            .map(|group| GroupedAlerts {
                labels: group.labels.clone(),
                alerts: group
                    .members
                    .iter()
                    .filter_map(|fingerprint| book.alerts.get(fingerprint))
                    .filter(|alert| alert.ends_at_ns >= now_ns)
                    .cloned()
                    .collect(),
            })
            .filter(|group| !group.alerts.is_empty())
            .collect();
        drop(book);
        groups.sort_by(|a, b| a.labels.iter().cmp(b.labels.iter()));
        groups
    }

    /// Takes reports; good ones are durable when it returns. Others are told in the error.
    pub async fn take(self: &Arc<Self>, reports: Vec<NewAlert>) -> Result<(), SinkError> {
        let own = self.clone();
        run_blocking(move || own.take_blocking(reports)).await
    }

    fn take_blocking(&self, reports: Vec<NewAlert>) -> Result<(), SinkError> {
        let _order = self.write_order.lock();
        let now_ns = self.clock.now_ns();
        let mut faults = Vec::new();
        let mut refused = 0usize;
        let mut changed: Vec<Alert> = Vec::new();
        let plan = self.plan();
        let held;
        {
            let mut book = self.book.lock();
            for report in reports {
                let alert = book::completed(report, &plan.routing, now_ns);
                if let Err(fault) = book::valid(&alert) {
                    faults.push(fault);
                    continue;
                }
                let fingerprint = alert.fingerprint();
                let alert = match book.alerts.get(&fingerprint) {
                    Some(old) => alert.merged_over(old, now_ns),
                    None if book.alerts.len() >= self.config.max_alerts => {
                        refused += 1;
                        continue;
                    }
                    None => alert,
                };
                book.insert(&plan.routing, alert.clone(), now_ns);
                changed.push(alert);
            }
            held = book.alerts.len();
        }
        self.metrics.received.inc_by(changed.len() as u64);
        self.metrics.refused.inc_by((faults.len() + refused) as u64);
        // Even if the disk fails the page goes out; whoever reported hears of it and reports again.
        let kept = if changed.is_empty() { Ok(()) } else { self.records.keep(&changed) };
        self.wake.notify_one();
        self.count();
        kept.inspect_err(|_| {
            self.metrics.store_failures.inc();
        })?;
        if refused > 0 {
            return Err(SinkError::Full { held, refused });
        }
        if faults.is_empty() { Ok(()) } else { Err(SinkError::Invalid { faults }) }
    }

    /// Tells groups in their turns until cancelled; returns when the last message under way has ended.
    pub async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), NotifyError> {
        let mut turns: JoinSet<()> = JoinSet::new();
        let mut keys: HashMap<tokio::task::Id, String> = HashMap::new();
        let mut maintenance = tokio::time::interval(MAINTENANCE);
        loop {
            let now_ns = self.clock.now_ns();
            let (due, next_ns) = self.begin_turns(now_ns);
            for key in due {
                let handle = turns.spawn(self.clone().turn(key.clone(), token.clone()));
                keys.insert(handle.id(), key);
            }
            let wait_ns = u64::try_from(next_ns.saturating_sub(now_ns)).unwrap_or(0);
            // A year at most: tokio's timers have a bound of their own.
            let wait = Duration::from_nanos(wait_ns).min(Duration::from_secs(365 * 24 * 3600));
            tokio::select! {
                () = token.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = maintenance.tick() => self.clear_away().await,
                Some(ended) = turns.join_next_with_id() => self.end_turn(&ended.map(|(id, ())| id), &mut keys),
            }
        }
        while let Some(ended) = turns.join_next_with_id().await {
            self.end_turn(&ended.map(|(id, ())| id), &mut keys);
        }
        let records = self.records.clone();
        run_blocking(move || records.sync()).await.map_err(NotifyError::from)
    }

    /// Groups whose turn it is, marked as such, and when the next one's is.
    fn begin_turns(&self, now_ns: i64) -> (Vec<String>, i64) {
        let plan = self.plan();
        let mut book = self.book.lock();
        let mut due = Vec::new();
        let mut next_ns = i64::MAX;
        for (key, group) in book.groups.iter_mut().filter(|(_, group)| !group.flushing) {
            if group.next_ns <= now_ns {
                group.has_flushed = true;
                group.next_ns = wait::next_turn(&plan.routing.route, now_ns);
                if !group.members.is_empty() {
                    group.flushing = true;
                    due.push(key.clone());
                    continue;
                }
            }
            next_ns = next_ns.min(group.next_ns);
        }
        (due, next_ns)
    }

    fn end_turn(
        &self,
        ended: &Result<tokio::task::Id, tokio::task::JoinError>,
        keys: &mut HashMap<tokio::task::Id, String>,
    ) {
        let id = match ended {
            Ok(id) => *id,
            Err(error) => {
                tracing::error!(%error, "telling a group ended by a fault of the program, its next turn tries again");
                error.id()
            }
        };
        if let Some(key) = keys.remove(&id)
            && let Some(group) = self.book.lock().groups.get_mut(&key)
        {
            group.flushing = false;
        }
        self.count();
    }

    /// One turn of a group: freeze, decide, deliver, record, and let go of what is over and told.
    async fn turn(self: Arc<Self>, key: String, stop: CancellationToken) {
        let now_ns = self.clock.now_ns();
        let plan = self.plan();
        let Some(batch) = self.book.lock().freeze(&key, now_ns) else { return };
        let ended: Vec<Fingerprint> = batch
            .alerts
            .iter()
            .filter(|told| told.resolved && !told.alert.ended)
            .map(|told| told.fingerprint)
            .collect();
        if !ended.is_empty() {
            self.clone().mark_ended(ended, now_ns).await;
        }
        let integrations = plan.integrations.iter().enumerate();
        let route = &plan.routing.route;
        let told = integrations.map(|(number, integration)| self.tell(number, &**integration, route, &batch, &stop));
        let told = futures::future::join_all(told).await;
        if told.into_iter().all(|good| good) {
            let over: Vec<(Fingerprint, i64)> = batch
                .alerts
                .iter()
                .filter(|told| told.resolved)
                .map(|told| (told.fingerprint, told.alert.updated_at_ns))
                .collect();
            if !over.is_empty() {
                self.let_go(over).await;
            }
        }
    }

    /// Makes durable that alerts are over, before anybody is told: a restart must not revive them.
    async fn mark_ended(self: Arc<Self>, fingerprints: Vec<Fingerprint>, now_ns: i64) {
        run_blocking(move || {
            let _order = self.write_order.lock();
            let ended: Vec<Alert> = {
                let mut book = self.book.lock();
                let mut ended = Vec::new();
                for fingerprint in fingerprints {
                    if let Some(alert) = book.alerts.get_mut(&fingerprint).filter(|a| a.resolved_at(now_ns)) {
                        alert.ended = true;
                        ended.push(alert.clone());
                    }
                }
                ended
            };
            if let Err(error) = self.records.keep(&ended) {
                self.metrics.store_failures.inc();
                tracing::error!(%error, "end of alerts could not be kept: after a crash they may be told again");
            }
        })
        .await;
    }

    /// Brings one integration up to date with a batch. True if it knows everything now.
    async fn tell(
        &self,
        number: usize,
        integration: &dyn Integration,
        route: &Route,
        batch: &Batch,
        stop: &CancellationToken,
    ) -> bool {
        let (firing, resolved) = (batch.fingerprints(false), batch.fingerprints(true));
        let key = record::entry_key(&route.receiver, integration.kind(), number, &batch.group_key);
        let reason = {
            let book = self.book.lock();
            let entry = book.sent.get(&key);
            dedup::decide(entry, &firing, &resolved, integration.sends_resolved(), batch.at_ns, route.repeat_interval)
        };
        let Some(reason) = reason else { return true };
        let labels = IntegrationLabels { receiver: route.receiver.clone(), integration: integration.kind().to_owned() };
        let mut alerts = batch.alerts.clone();
        if !integration.sends_resolved() {
            alerts.retain(|told| !told.resolved);
        }
        // Only resolved ones for somebody who does not want to hear of them: recorded without a message.
        if !alerts.is_empty() {
            let message = Message {
                receiver: route.receiver.clone(),
                group_key: batch.group_key.clone(),
                group_labels: batch.group_labels.clone(),
                alerts,
                external_url: self.config.shown_url(),
            };
            let failures = self.metrics.attempts_failed.get_or_create_owned(&labels);
            let on_failure = |reason: &str| {
                failures.inc();
                tracing::warn!(
                    receiver = message.receiver,
                    integration = labels.integration,
                    number,
                    group = message.group_key,
                    reason,
                    "attempt to deliver a message failed"
                );
            };
            let limit = wait::time_to_tell(route);
            match retry::deliver(integration, &message, limit, &self.permits, stop, on_failure).await {
                Delivery::Sent { attempts } => {
                    self.metrics.sent.get_or_create(&labels).inc();
                    tracing::info!(
                        receiver = message.receiver, integration = labels.integration, number,
                        group = message.group_key, alerts = message.alerts.len(), attempts, %reason, "message delivered"
                    );
                }
                Delivery::Refused { reason } => {
                    self.metrics.failed.get_or_create(&labels).inc();
                    tracing::error!(
                        receiver = message.receiver,
                        integration = labels.integration,
                        number,
                        group = message.group_key,
                        reason,
                        "message was refused: check the receiver's address and credentials; the next turn tries again"
                    );
                    return false;
                }
                Delivery::GivenUp { reason, attempts } => {
                    self.metrics.failed.get_or_create(&labels).inc();
                    tracing::error!(
                        receiver = message.receiver,
                        integration = labels.integration,
                        number,
                        group = message.group_key,
                        attempts,
                        reason,
                        "message could not be delivered: is the receiver up? The next turn tries again"
                    );
                    return false;
                }
            }
        }
        let sent_at_ns = self.clock.now_ns();
        let expires_at_ns = sent_at_ns.saturating_add(span_ns(route.repeat_interval.saturating_mul(2)));
        let entry = Entry { firing, resolved, sent_at_ns, expires_at_ns };
        self.book.lock().sent.insert(key.clone(), entry.clone());
        let records = self.records.clone();
        if let Err(error) = run_blocking(move || records.told(&key, &entry)).await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, group = batch.group_key, "what was told could not be kept: after a crash it may be told again");
        }
        true
    }

    /// Forgets alerts that are over, told, and not reported again meanwhile.
    async fn let_go(self: Arc<Self>, over: Vec<(Fingerprint, i64)>) {
        let plan = self.plan();
        run_blocking(move || {
            let _order = self.write_order.lock();
            let mut gone = Vec::new();
            {
                let mut book = self.book.lock();
                for (fingerprint, updated_at_ns) in over {
                    if book.alerts.get(&fingerprint).is_some_and(|alert| alert.updated_at_ns == updated_at_ns) {
                        book.remove(&plan.routing, fingerprint);
                        gone.push(fingerprint);
                    }
                }
            }
            if let Err(error) = self.records.drop_alerts(&gone) {
                self.metrics.store_failures.inc();
                tracing::error!(%error, "alerts that are over could not be removed from the disk");
            }
        })
        .await;
    }

    /// Clears away empty groups and expired records.
    async fn clear_away(&self) {
        let now_ns = self.clock.now_ns();
        let expired: Vec<String> = {
            let mut book = self.book.lock();
            book.groups.retain(|_, group| !group.members.is_empty() || group.flushing);
            let expired: Vec<String> =
                book.sent.iter().filter(|(_, e)| e.expires_at_ns <= now_ns).map(|(key, _)| key.clone()).collect();
            for key in &expired {
                book.sent.remove(key);
            }
            expired
        };
        self.count();
        if expired.is_empty() {
            return;
        }
        let records = self.records.clone();
        if let Err(error) = run_blocking(move || records.forget(&expired)).await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, "expired records could not be removed from the disk");
        }
    }

    fn count(&self) {
        let book = self.book.lock();
        self.metrics.alerts.set(i64::try_from(book.alerts.len()).unwrap_or(i64::MAX));
        self.metrics.groups.set(i64::try_from(book.groups.len()).unwrap_or(i64::MAX));
    }
}

/// The notifier as rules see it.
#[derive(Debug, Clone)]
pub struct Inbox(pub Arc<Notifier>);

#[async_trait::async_trait]
impl AlertSink for Inbox {
    async fn send(&self, alerts: Vec<NewAlert>) -> Result<(), SinkError> {
        self.0.take(alerts).await
    }
}
