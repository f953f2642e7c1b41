//! One pass over one topic for all routes that read it: gather, decide, copy in a transaction, again.
//!
//! In: records of the topic. Out: copies, dead letters, counts. Touches the network. A thread of its own does the work
//! ([`Copier`] blocks); after a failure it begins anew with new clients from the committed offsets, with growing waits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::config::{RouteConfig, RoutingConfig};
use millrace_log::admin::{Admin, AdminError, NewTopic};
use millrace_log::client::ConnectionConfig;
use millrace_log::client::copier::{Batch, Copier, CopierSettings, CopyError, Output};
use millrace_log::clock::SharedClock;
use millrace_log::dead_letter::{HEADER_FROM, HEADER_REASON, HEADER_STAGE, HEADER_TIME};
use millrace_log::record::HEADER_LABELS;
use tokio_util::sync::CancellationToken;

use super::error::RouteError;
use super::metrics::{PassName, RouteCounts, RouteMetrics, RouteName};
use super::selector::{Selector, Verdict, judge};

/// Sets of labels whose verdicts are remembered; then it starts anew.
const MEMORY: usize = 16 * 1024;
/// How long an idle pass waits for a record before it looks whether it shall stop.
const IDLE: Duration = Duration::from_millis(250);
const LAG_EVERY: Duration = Duration::from_secs(10);
/// Wait after another router has taken over: the two must not take turns.
const FENCED_WAIT: Duration = Duration::from_secs(60);
/// Name of this stage in dead letters.
const STAGE: &str = "route";
/// Records of a transaction while refused ones are looked for.
const CAREFUL_RECORDS: usize = 200;
/// Transactions in a row without a refusal after which a pass is no longer careful.
const CAREFUL_FOR: u32 = 20;

#[derive(Debug)]
struct Route {
    name: String,
    to: Arc<str>,
    selector: Selector,
    drop_labels: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Pass {
    from: String,
    connection: ConnectionConfig,
    routing: RoutingConfig,
    routes: Vec<Route>,
    metrics: RouteMetrics,
    counts: Arc<RouteCounts>,
    clock: SharedClockDebug,
}

/// A clock has nothing to show.
struct SharedClockDebug(SharedClock);

impl std::fmt::Debug for SharedClockDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("clock")
    }
}

/// What is known of the targets.
#[derive(Debug)]
struct Targets {
    /// Partitions by topic.
    partitions: HashMap<Arc<str>, i32>,
    /// The smallest `max.message.bytes` among them.
    max_batch_bytes: u64,
}

impl Targets {
    fn partitions_of(&self, topic: &str) -> i32 {
        self.partitions.get(topic).copied().unwrap_or(1).max(1)
    }
}

/// Why a pass begins anew.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl Pass {
    pub fn new(
        from: &str,
        connection: &ConnectionConfig,
        routing: &RoutingConfig,
        metrics: RouteMetrics,
        clock: SharedClock,
    ) -> Self {
        Self {
            from: from.to_owned(),
            connection: connection.clone(),
            routing: routing.clone(),
            routes: Vec::new(),
            metrics,
            counts: Arc::new(RouteCounts {
                from: from.to_owned(),
                behind: AtomicU64::new(u64::MAX),
                ..RouteCounts::default()
            }),
            clock: SharedClockDebug(clock),
        }
    }

    pub fn reads(&self, from: &str, connection: &ConnectionConfig) -> bool {
        let same = |a: &ConnectionConfig, b: &ConnectionConfig| {
            a.brokers == b.brokers && a.sasl_username == b.sasl_username && a.tls == b.tls && a.options == b.options
        };
        self.from == from && same(&self.connection, connection)
    }

    pub fn add(&mut self, route: &RouteConfig, selector: Selector) {
        self.routes.push(Route {
            name: route.label(),
            to: route.to.as_str().into(),
            selector,
            drop_labels: route.drop_labels.clone(),
        });
    }

    pub fn counts(&self) -> Arc<RouteCounts> {
        Arc::clone(&self.counts)
    }

    fn group(&self) -> String {
        format!("{}-{}", self.routing.group, self.from)
    }

    fn name(&self) -> PassName {
        PassName { from: self.from.clone(), group: self.group() }
    }

    /// Copies until cancelled.
    pub async fn run(self, token: CancellationToken) -> Result<(), RouteError> {
        for route in &self.routes {
            // Shown from the start, with zero.
            let name = RouteName { route: route.name.clone() };
            for counter in [&self.metrics.records, &self.metrics.bytes, &self.metrics.dead_letter_records] {
                drop(counter.get_or_create(&name));
            }
        }
        let name = self.name();
        for counter in [&self.metrics.read_records, &self.metrics.transactions, &self.metrics.aborted_transactions] {
            drop(counter.get_or_create(&name));
        }
        let pass = Arc::new(self);
        let mut backoff = pass.routing.min_backoff.0;
        while !token.is_cancelled() {
            let begun = Instant::now();
            let setback = match pass.prepare(&token).await {
                Ok(None) => break,
                Ok(Some(targets)) => {
                    let (of, stop) = (Arc::clone(&pass), token.clone());
                    match tokio::task::spawn_blocking(move || of.work(&targets, &stop)).await {
                        Ok(Ok(())) => break,
                        Ok(Err(error)) => Setback::Copy(error),
                        Err(_) => return Err(RouteError::Broken { from: pass.from.clone() }),
                    }
                }
                Err(error) => Setback::Admin(error),
            };
            pass.counts.waiting.store(0, Ordering::Relaxed);
            if begun.elapsed() > pass.routing.max_backoff.0 {
                backoff = pass.routing.min_backoff.0;
            }
            let wait = match &setback {
                Setback::Copy(CopyError::Fenced { .. }) => FENCED_WAIT.max(backoff),
                _ => backoff,
            };
            tracing::warn!(
                from = pass.from,
                group = pass.group(),
                error = chain(&setback),
                ?wait,
                "routes wait and begin anew from the committed offsets; nothing is lost or doubled"
            );
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
            backoff = (backoff * 2).min(pass.routing.max_backoff.0);
        }
        Ok(())
    }

    /// Waits for the source, makes missing targets. `None`: cancelled.
    async fn prepare(&self, token: &CancellationToken) -> Result<Option<Targets>, AdminError> {
        let preparing = async {
            let mut admin = Admin::connect(&self.connection).await?;
            let source = loop {
                match admin.topic(&self.from).await {
                    Ok(topic) => break topic,
                    Err(error) if error.code() == Some(UNKNOWN_TOPIC) => {
                        tracing::debug!(from = self.from, "routes wait for their source");
                        tokio::time::sleep(self.routing.min_backoff.0.max(Duration::from_millis(500))).await;
                    }
                    Err(error) => return Err(error),
                }
            };
            let like_source = i32::try_from(source.partitions.len()).unwrap_or(i32::MAX);
            let mut partitions = HashMap::new();
            for route in &self.routes {
                let count = self.ensure(&mut admin, &route.to, like_source).await?;
                partitions.insert(Arc::clone(&route.to), count);
            }
            if !self.routing.dead_letter_topic.is_empty() {
                let count = self.ensure(&mut admin, &self.routing.dead_letter_topic, 1).await?;
                partitions.insert(self.routing.dead_letter_topic.as_str().into(), count);
            }
            let names: Vec<&str> = self.routes.iter().map(|route| &*route.to).collect();
            let limits = admin.settings(&names, Some(&["max.message.bytes"])).await?;
            let limits = limits.values().flatten().filter_map(|setting| setting.value.parse().ok());
            Ok(Targets { partitions, max_batch_bytes: limits.min().unwrap_or(u64::MAX) })
        };
        tokio::select! {
            () = token.cancelled() => Ok(None),
            prepared = preparing => prepared.map(Some),
        }
    }

    async fn ensure(&self, admin: &mut Admin, topic: &str, partitions: i32) -> Result<i32, AdminError> {
        match admin.topic(topic).await {
            Ok(found) => Ok(i32::try_from(found.partitions.len()).unwrap_or(i32::MAX)),
            Err(error) if error.code() == Some(UNKNOWN_TOPIC) => {
                let new = NewTopic { name: topic.to_owned(), partitions, replication: -1, settings: Vec::new() };
                match admin.create_topic(&new, false).await {
                    Ok(count) => {
                        tracing::info!(topic, partitions = count, from = self.from, "target of a route made");
                        Ok(count)
                    }
                    // Another router was faster.
                    Err(error) if error.code() == Some(TOPIC_EXISTS) => {
                        let found = admin.topic(topic).await?;
                        Ok(i32::try_from(found.partitions.len()).unwrap_or(i32::MAX))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Blocks: gathers and copies until cancelled.
    fn work(&self, targets: &Targets, token: &CancellationToken) -> Result<(), CopyError> {
        let settings = CopierSettings {
            from: self.from.clone(),
            group: self.group(),
            identity: format!("{}-{}", self.group(), self.routing.instance),
            transaction_timeout: self.routing.transaction_timeout.0,
            max_batch_bytes: targets.max_batch_bytes,
        };
        let copier = Copier::open(&self.connection, &settings)?;
        tracing::info!(from = self.from, group = settings.group, routes = self.routes.len(), "routes run");
        let max_bytes = usize::try_from(self.routing.max_bytes.0).unwrap_or(usize::MAX);
        let mut verdicts = Verdicts::default();
        let mut looked = Instant::now();
        // After a refusal batches are small for a while: others of the kind may follow, and each costs a transaction.
        let mut careful = 0;
        while !token.is_cancelled() {
            let most = if careful > 0 { CAREFUL_RECORDS } else { usize::MAX }.min(self.routing.max_records);
            let batch = copier.gather(IDLE, self.routing.linger.0, most, max_bytes)?;
            if !batch.is_empty() {
                self.counts.waiting.store(batch.len() as u64, Ordering::Relaxed);
                let refused = self.copy(&copier, &batch, targets, &mut verdicts, token)?;
                careful = if refused { CAREFUL_FOR } else { careful.saturating_sub(1) };
            }
            if looked.elapsed() >= LAG_EVERY {
                looked = Instant::now();
                if let Some(lag) = copier.lag() {
                    self.metrics.lag_records.get_or_create(&self.name()).set(lag);
                    self.counts.behind.store(u64::try_from(lag).unwrap_or(0), Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Copies one batch, with what is refused for good as dead letters. Whether there was such a record.
    fn copy(
        &self,
        copier: &Copier,
        batch: &Batch,
        targets: &Targets,
        verdicts: &mut Verdicts,
        token: &CancellationToken,
    ) -> Result<bool, CopyError> {
        let (outputs, of_route) = self.decide(batch, targets, verdicts);
        let mut dead: HashMap<usize, Dead> = HashMap::new();
        // A refused record takes its neighbours with it: those are sent one by one the next time.
        let mut suspects: HashSet<usize> = HashSet::new();
        let mut wait = self.routing.min_backoff.0;
        loop {
            let sent: Vec<Output> = outputs
                .iter()
                .enumerate()
                .map(|(i, output)| match dead.get(&i) {
                    None => output.clone(),
                    Some(reason) => self.dead_letter(batch, output, &of_route, i, reason, targets),
                })
                .collect();
            let refused = match copier.copy(batch, &sent, &|i| suspects.contains(&i)) {
                Ok(()) => break,
                Err(CopyError::Refused { refused }) => refused,
                Err(error) => {
                    self.metrics.aborted_transactions.get_or_create(&self.name()).inc();
                    return Err(error);
                }
            };
            self.metrics.aborted_transactions.get_or_create(&self.name()).inc();
            for (i, reason) in refused {
                if suspects.insert(i) {
                    continue;
                }
                let route = of_route.get(i).map_or("", |route| self.routes[*route].name.as_str());
                let (partition, offset) = batch.at(outputs[i].record);
                if self.routing.dead_letter_topic.is_empty() {
                    tracing::error!(
                        route,
                        from = self.from,
                        partition,
                        offset,
                        reason,
                        ?wait,
                        "target refuses a record for good and there is no `dead_letter_topic`: the route waits"
                    );
                    if sleep_unless(token, wait) {
                        return Ok(true);
                    }
                    wait = (wait * 2).min(self.routing.max_backoff.0);
                    continue;
                }
                tracing::warn!(route, from = self.from, partition, offset, reason, "record goes to the dead letters");
                match dead.remove(&i) {
                    None => drop(dead.insert(i, Dead { reason, without_value: false })),
                    Some(was) => drop(dead.insert(i, Dead { reason: was.reason, without_value: true })),
                }
            }
        }
        self.count(batch, &outputs, &of_route, &dead);
        Ok(!dead.is_empty())
    }

    /// Where each record goes, and for each output the number of its route.
    fn decide(&self, batch: &Batch, targets: &Targets, verdicts: &mut Verdicts) -> (Vec<Output>, Vec<usize>) {
        let (mut outputs, mut of_route) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for record in 0..batch.len() {
            let header = batch.header(record, HEADER_LABELS);
            let verdicts = verdicts.of(&self.routes, header);
            let (partition, _) = batch.at(record);
            for (number, (route, verdict)) in self.routes.iter().zip(verdicts.iter()).enumerate() {
                let replace = match verdict {
                    Verdict::No => continue,
                    Verdict::AsIs => None,
                    Verdict::Relabelled(labels) => Some((HEADER_LABELS, Arc::clone(labels))),
                };
                // Records of one partition stay together and in order.
                let count = targets.partitions_of(&route.to);
                outputs.push(Output {
                    record,
                    topic: Arc::clone(&route.to),
                    partition: partition % count,
                    replace,
                    add: Vec::new(),
                    without_value: false,
                });
                of_route.push(number);
            }
        }
        (outputs, of_route)
    }

    fn dead_letter(
        &self,
        batch: &Batch,
        output: &Output,
        of_route: &[usize],
        i: usize,
        dead: &Dead,
        targets: &Targets,
    ) -> Output {
        let (partition, offset) = batch.at(output.record);
        let route = of_route.get(i).map_or("", |route| self.routes[*route].name.as_str());
        let topic: Arc<str> = self.routing.dead_letter_topic.as_str().into();
        let time = chrono::DateTime::from_timestamp_millis(self.clock.0.now_ms())
            .map_or_else(String::new, |time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        let left_out = if dead.without_value {
            format!(", its value of {} bytes is left out", batch.value_len(output.record))
        } else {
            String::new()
        };
        Output {
            record: output.record,
            partition: partition % targets.partitions_of(&topic),
            topic,
            replace: None,
            add: vec![
                (HEADER_REASON, format!("route {route} to {}: {}{left_out}", output.topic, dead.reason)),
                (HEADER_STAGE, STAGE.to_owned()),
                (HEADER_TIME, time),
                (HEADER_FROM, format!("{}-{partition}@{offset}", self.from)),
            ],
            without_value: dead.without_value,
        }
    }

    fn count(&self, batch: &Batch, outputs: &[Output], of_route: &[usize], dead: &HashMap<usize, Dead>) {
        let mut per_route = vec![(0_u64, 0_u64, 0_u64); self.routes.len()];
        let (mut copied, mut lost) = (vec![false; batch.len()], vec![false; batch.len()]);
        for (i, (output, route)) in outputs.iter().zip(of_route).enumerate() {
            let (records, bytes, letters) = &mut per_route[*route];
            if dead.contains_key(&i) {
                *letters += 1;
                lost[output.record] = true;
            } else {
                *records += 1;
                *bytes += batch.size_of(output.record) as u64;
                copied[output.record] = true;
            }
        }
        for (route, (records, bytes, letters)) in self.routes.iter().zip(per_route) {
            let name = RouteName { route: route.name.clone() };
            self.metrics.records.get_or_create(&name).inc_by(records);
            self.metrics.bytes.get_or_create(&name).inc_by(bytes);
            if letters > 0 {
                self.metrics.dead_letter_records.get_or_create(&name).inc_by(letters);
            }
        }
        let went_on = copied.iter().filter(|copied| **copied).count() as u64;
        let only_dead = copied.iter().zip(&lost).filter(|(copied, lost)| !**copied && **lost).count() as u64;
        self.counts.waiting.store(0, Ordering::Relaxed);
        self.counts.copied.fetch_add(went_on, Ordering::Relaxed);
        self.counts.dead.fetch_add(only_dead, Ordering::Relaxed);
        self.counts.unmatched.fetch_add(batch.len() as u64 - went_on - only_dead, Ordering::Relaxed);
        self.metrics.read_records.get_or_create(&self.name()).inc_by(batch.len() as u64);
        self.metrics.transactions.get_or_create(&self.name()).inc();
    }
}

const UNKNOWN_TOPIC: i16 = 3;
const TOPIC_EXISTS: i16 = 36;

/// Why an output is a dead letter now.
#[derive(Debug)]
struct Dead {
    reason: String,
    without_value: bool,
}

/// What the routes do, by the bytes of the header: all lines of a stream carry the same.
#[derive(Debug, Default)]
struct Verdicts {
    by_header: HashMap<Vec<u8>, Arc<[Verdict]>>,
    without: Option<Arc<[Verdict]>>,
}

impl Verdicts {
    fn of(&mut self, routes: &[Route], header: Option<&[u8]>) -> Arc<[Verdict]> {
        let all = || routes.iter().map(|route| judge(&route.selector, &route.drop_labels, header)).collect();
        let Some(bytes) = header else { return Arc::clone(self.without.get_or_insert_with(all)) };
        if let Some(known) = self.by_header.get(bytes) {
            return Arc::clone(known);
        }
        if self.by_header.len() >= MEMORY {
            self.by_header.clear();
        }
        let made: Arc<[Verdict]> = all();
        self.by_header.insert(bytes.to_vec(), Arc::clone(&made));
        made
    }
}

/// Sleeps on this thread in small steps; whether it was cancelled.
fn sleep_unless(token: &CancellationToken, wait: Duration) -> bool {
    let until = Instant::now() + wait;
    while Instant::now() < until {
        if token.is_cancelled() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50).min(wait));
    }
    token.is_cancelled()
}

/// All causes in one line, repeats left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(of) = cause {
        let of_text = of.to_string();
        if !text.contains(&of_text) {
            text.push_str(": ");
            text.push_str(&of_text);
        }
        cause = of.source();
    }
    text
}
