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
/// Transactions of one batch that may be given up in a row without a wait: a refused record alone, its letter, and that
/// letter without what is refused.
const AT_ONCE: u32 = 4;
/// Wait after further ones as long as each finds another record that is refused; grows up to five times as much.
const NEXT_REFUSED: Duration = Duration::from_millis(10);
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
    /// What is known of the batch that is offered again after a wait.
    pub attempt: Option<Attempt>,
}

/// A batch whose transaction was given up, and begins anew later.
pub(super) struct Attempt {
    dead: HashMap<usize, Dead>,
    /// A refused record takes its neighbours with it: those are sent one by one the next time.
    suspects: HashSet<usize>,
    given_up: u32,
    wait: Duration,
    until: Instant,
}

impl Attempt {
    fn new(dead: HashMap<usize, Dead>, wait: Duration) -> Self {
        Self { dead, suspects: HashSet::new(), given_up: 0, wait, until: Instant::now() }
    }
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

    fn offer(&mut self, mut batch: Batch<SourceRecord>) -> Result<Offered<SourceRecord>, Setback> {
        if self.attempt.as_ref().is_some_and(|attempt| Instant::now() < attempt.until) {
            return Ok(Offered::Full(batch));
        }
        let (generation, next) = (batch.generation, batch.next());
        let (records, counts) = batch.take_records();
        let copied = self.copy(Source { generation, records: &records, next: &next }).map_err(setback)?;
        let Some(refused) = copied else {
            batch.refill(records, &counts);
            return Ok(Offered::Full(batch));
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
    let dead =
        copies.outputs.iter().enumerate().filter_map(|(i, output)| Some((i, Dead::new(reason(output)?.to_owned()))));
    dead.collect()
}

impl ToTargets {
    /// Copies one batch. Whether there was a record that is refused for good; `None`: the transaction was given up, and is
    /// begun anew once [`Attempt::until`] is over. Meanwhile the consumer does its other work.
    fn copy(&mut self, source: Source<'_>) -> Result<Option<bool>, TransactionError> {
        let scene = Arc::clone(&self.scene);
        let mut copies = Copies::decide(&scene.routes, source.records, &self.targets, &mut self.verdicts);
        let unreadable = unreadable(source.records, &mut copies, !scene.routing.dead_letter_topic.is_empty());
        let attempt = self.attempt.take();
        let mut attempt = attempt.unwrap_or_else(|| Attempt::new(unreadable, scene.routing.min_backoff.0));
        loop {
            // Nearly always all of them go as they are.
            let sent = match attempt.dead.is_empty() {
                true => Cow::Borrowed(&copies.outputs[..]),
                false => Cow::Owned(self.sent(source.records, &copies, &attempt.dead)),
            };
            let refused = match self.writer.write(source, &sent, &|i| attempt.suspects.contains(&i)) {
                Ok(()) => break,
                Err(error) => {
                    scene.metrics.aborted_transactions.get_or_create(&scene.name).inc();
                    match error {
                        TransactionError::Refused { refused } => refused,
                        error => return Err(error),
                    }
                }
            };
            attempt.given_up += 1;
            if let Some(wait) = scene.after_refusals(source, &copies, &mut attempt, refused) {
                attempt.until = Instant::now() + wait;
                self.attempt = Some(attempt);
                return Ok(None);
            }
        }
        scene.status.resume(Pause::DeadLetters);
        scene.count(source.records, &copies, &attempt.dead);
        Ok(Some(!attempt.dead.is_empty()))
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
    /// Refused records become dead letters, refused letters change. How long to wait before the transaction begins anew;
    /// `None`: at once.
    fn after_refusals(
        &self,
        source: Source<'_>,
        copies: &Copies,
        attempt: &mut Attempt,
        refused: Vec<(usize, String)>,
    ) -> Option<Duration> {
        let mut helpless = false;
        for (i, reason) in refused {
            if attempt.suspects.insert(i) {
                continue;
            }
            let route = copies.route(&self.routes, i).map_or("", |route| route.name.as_str());
            let record = copies.outputs.get(i).and_then(|output| source.records.get(output.record));
            let at = record.map(|record| format!("{}@{}", record.partition, record.offset)).unwrap_or_default();
            if self.routing.dead_letter_topic.is_empty() {
                let why = format!(
                    "the target of route `{route}` refuses {at} for good ({reason}) and there is no \
                     `dead_letter_topic`: the route waits"
                );
                self.status.pause(Pause::DeadLetters, &why);
                helpless = true;
                continue;
            }
            let Some(dead) = attempt.dead.get_mut(&i) else {
                tracing::warn!(route, from = self.name.from, at, reason, "record goes to the dead letters");
                attempt.dead.insert(i, Dead::new(reason));
                continue;
            };
            if !dead.change(&reason) {
                let topic = &self.routing.dead_letter_topic;
                let why = format!(
                    "`{topic}` refuses the dead letter of {at} by route `{route}` for good ({reason}), also without its \
                     value and with the time of now: check the settings of the topic; the route tries again"
                );
                self.status.pause(Pause::DeadLetters, &why);
                helpless = true;
            }
        }
        if helpless {
            let wait = attempt.wait;
            attempt.wait = (wait * 2).min(self.routing.max_backoff.0);
            return Some(wait);
        }
        let further = attempt.given_up.checked_sub(AT_ONCE).filter(|further| *further > 0)?;
        let (given_up, dead) = (attempt.given_up, attempt.dead.len());
        let why = format!(
            "transaction of `{}` was given up {given_up} times in a row: {dead} of its records are refused for good and go \
             to the dead letters",
            self.name.from
        );
        self.status.pause(Pause::Transaction, &why);
        Some((NEXT_REFUSED * further).min(NEXT_REFUSED * 5))
    }

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
