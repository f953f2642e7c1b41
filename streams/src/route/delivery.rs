//! Copies batches in transactions, with what a target refuses for good as dead letters.
//!
//! In: batches of the source topic. Out: committed transactions with the group's offsets in them; counts. Touches the network
//! through [`TransactionWriter`].

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_log::client::group::SourceRecord;
use millrace_log::client::transactional::{Source, TransactionError, TransactionWriter};
use millrace_log::client::{Limits, Output};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{Batch, ConsumerStatus, Delivery, Keeping, Offered, Pause, Setback};
use tokio_util::sync::CancellationToken;

use super::config::RoutingConfig;
use super::copies::{Copies, Dead, Route, Verdicts, dead_letter};
use super::metrics::{PassName, RouteMetrics, RouteName};
use super::targets::Targets;

/// How long an idle pass waits for a record before it looks whether it shall stop.
const IDLE: Duration = Duration::from_millis(250);
/// Records of a transaction while refused ones are looked for.
const CAREFUL_RECORDS: usize = 200;
/// Transactions in a row without a refusal after which a pass is no longer careful.
const CAREFUL_FOR: u32 = 20;
/// What to set when two routers have one name.
pub(super) const FENCED_HINT: &str = "give each its own `broker.routing.instance`";

/// What stays the same over all sessions of a pass.
pub(super) struct Scene {
    pub name: PassName,
    pub routing: RoutingConfig,
    pub routes: Vec<Route>,
    pub metrics: RouteMetrics,
    pub status: ConsumerStatus,
    pub clock: SharedClock,
}

/// Copies to the targets of all routes of a pass.
pub(super) struct ToTargets {
    pub scene: Arc<Scene>,
    pub writer: TransactionWriter,
    pub targets: Targets,
    pub verdicts: Verdicts,
    /// After a refusal batches are small for a while: others of the kind may follow, and each costs a transaction.
    pub careful: u32,
    pub token: CancellationToken,
}

impl Delivery for ToTargets {
    type Record = SourceRecord;

    fn keeping(&self) -> Keeping {
        Keeping::Transaction
    }

    fn limits(&self) -> Limits {
        let routing = &self.scene.routing;
        let most = if self.careful > 0 { CAREFUL_RECORDS } else { usize::MAX };
        Limits {
            records: most.min(routing.max_records),
            bytes: usize::try_from(routing.max_bytes.0).unwrap_or(usize::MAX),
            wait: IDLE,
            linger: routing.linger.0,
        }
    }

    fn offer(&mut self, batch: Batch<SourceRecord>) -> Result<Offered<SourceRecord>, Setback> {
        let (generation, next) = (batch.generation, batch.next());
        let records = batch.into_records();
        let Some(refused) = self.copy(Source { generation, records: &records, next: &next }).map_err(setback)? else {
            return Ok(Offered::Closed);
        };
        self.careful = if refused { CAREFUL_FOR } else { self.careful.saturating_sub(1) };
        Ok(Offered::Stored)
    }
}

/// A failure of a transaction as the end of a session.
pub(super) fn setback(error: TransactionError) -> Setback {
    match error {
        TransactionError::Fenced { identity } => Setback::Fenced { kind: "router", identity, hint: FENCED_HINT },
        error => Setback::Delivery { pause: Pause::Transaction, source: Box::new(error) },
    }
}

/// Outputs of records that can't be read: dead letters, or left out where there is no topic for them.
fn unreadable(records: &[SourceRecord], copies: &mut Copies, has_topic: bool) -> HashMap<usize, Dead> {
    let reason = |output: &Output| records.get(output.record).and_then(|record| record.unreadable.as_deref());
    if !has_topic {
        copies.keep(|output| reason(output).is_none());
    }
    let dead = copies
        .outputs
        .iter()
        .enumerate()
        .filter_map(|(i, output)| Some((i, Dead { reason: reason(output)?.to_owned(), without_value: false })));
    dead.collect()
}

impl ToTargets {
    /// Copies one batch. Whether there was a record that is refused for good; `None`: stopped, nothing was copied.
    fn copy(&mut self, source: Source<'_>) -> Result<Option<bool>, TransactionError> {
        let scene = Arc::clone(&self.scene);
        let mut copies = Copies::decide(&scene.routes, source.records, &self.targets, &mut self.verdicts);
        let mut dead = unreadable(source.records, &mut copies, !scene.routing.dead_letter_topic.is_empty());
        // A refused record takes its neighbours with it: those are sent one by one the next time.
        let mut suspects: HashSet<usize> = HashSet::new();
        let mut wait = scene.routing.min_backoff.0;
        loop {
            // Nearly always all of them go as they are.
            let sent = match dead.is_empty() {
                true => Cow::Borrowed(&copies.outputs[..]),
                false => Cow::Owned(self.sent(source.records, &copies, &dead)),
            };
            let refused = match self.writer.write(source, &sent, &|i| suspects.contains(&i)) {
                Ok(()) => break,
                Err(error) => {
                    scene.metrics.aborted_transactions.get_or_create(&scene.name).inc();
                    match error {
                        TransactionError::Refused { refused } => refused,
                        error => return Err(error),
                    }
                }
            };
            for (i, reason) in refused {
                if suspects.insert(i) {
                    continue;
                }
                let route = copies.route(&scene.routes, i).map_or("", |route| route.name.as_str());
                let record = copies.outputs.get(i).and_then(|output| source.records.get(output.record));
                let at = record.map(|record| format!("{}@{}", record.partition, record.offset)).unwrap_or_default();
                if scene.routing.dead_letter_topic.is_empty() {
                    let why = format!(
                        "the target of route `{route}` refuses {at} for good ({reason}) and there is no \
                         `dead_letter_topic`: the route waits"
                    );
                    scene.status.pause(Pause::DeadLetters, &why);
                    if sleep_unless(&self.token, wait) {
                        return Ok(None);
                    }
                    wait = (wait * 2).min(scene.routing.max_backoff.0);
                    continue;
                }
                tracing::warn!(route, from = scene.name.from, at, reason, "record goes to the dead letters");
                match dead.remove(&i) {
                    None => drop(dead.insert(i, Dead { reason, without_value: false })),
                    Some(was) => drop(dead.insert(i, Dead { reason: was.reason, without_value: true })),
                }
            }
        }
        scene.status.resume(Pause::DeadLetters);
        scene.count(source.records, &copies, &dead);
        Ok(Some(!dead.is_empty()))
    }

    /// The outputs, those that are refused as dead letters.
    fn sent(&self, records: &[SourceRecord], copies: &Copies, dead: &HashMap<usize, Dead>) -> Vec<Output> {
        let scene = &self.scene;
        let topic: Arc<str> = scene.routing.dead_letter_topic.as_str().into();
        let one = |(i, output): (usize, &Output)| match (dead.get(&i), records.get(output.record)) {
            (Some(dead), Some(record)) => {
                let route = copies.route(&scene.routes, i).map_or("", |route| route.name.as_str());
                dead_letter(record, output, route, dead, &topic, &self.targets, scene.clock.now_ms())
            }
            _ => output.clone(),
        };
        copies.outputs.iter().enumerate().map(one).collect()
    }
}

impl Scene {
    /// Counts what a committed transaction did.
    fn count(&self, records: &[SourceRecord], copies: &Copies, dead: &HashMap<usize, Dead>) {
        let mut per_route = vec![(0_u64, 0_u64, 0_u64); self.routes.len()];
        let (mut copied, mut lost) = (vec![false; records.len()], vec![false; records.len()]);
        for (i, (output, route)) in copies.outputs.iter().zip(&copies.of_route).enumerate() {
            let (records_of, bytes, letters) = &mut per_route[*route];
            if dead.contains_key(&i) {
                *letters += 1;
                lost[output.record] = true;
            } else {
                *records_of += 1;
                *bytes += records[output.record].size() as u64;
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
        let unmatched = records.len() as u64 - went_on - only_dead;
        self.status.settled(went_on, &[("no route", unmatched), ("dead letter", only_dead)]);
        self.metrics.read_records.get_or_create(&self.name).inc_by(records.len() as u64);
        self.metrics.transactions.get_or_create(&self.name).inc();
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
