//! What people see of a consumer: why it is paused, what was lost before it could be read, what came and what became of it,
//! how far behind it is.
//!
//! In: events of the loop and of the delivery. Out: texts for `/ready` and the log, numbers for `/metrics` and the ledger.
//! Touches nothing. Pauses are logged when they begin and end, not at each attempt.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::interval::{Hole, HoleCause};
use super::metrics::{ConsumerMetrics, Owner};
use crate::record::TopicPartition;

/// How long the log may not answer before that counts against readiness: a connection that was closed while it was idle is
/// made anew within this time.
const GRACE: Duration = Duration::from_secs(5);
/// Holes that are kept for the ledger.
const HOLES: usize = 100;

/// Why a consumer stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pause {
    /// The log does not answer, or refuses.
    Log,
    /// Another consumer of its name has taken over.
    Fenced,
    /// The target takes nothing at the moment.
    Target,
    /// The target refuses the login.
    Login,
    /// Records that are refused for good can't be put aside.
    DeadLetters,
    /// A transaction was given up.
    Transaction,
    /// The store of output and positions can't be written.
    Store,
    /// A partition stays at one offset although there are records to read.
    Stalled,
}

impl Pause {
    const ALL: [Self; 8] = [
        Self::Log,
        Self::Fenced,
        Self::Target,
        Self::Login,
        Self::DeadLetters,
        Self::Transaction,
        Self::Store,
        Self::Stalled,
    ];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Fenced => "fenced",
            Self::Target => "target",
            Self::Login => "login",
            Self::DeadLetters => "dead_letters",
            Self::Transaction => "transaction",
            Self::Store => "store",
            Self::Stalled => "stalled",
        }
    }
}

/// The consumer's side of the ledger: `read = stored + dropped(reason) + waiting`, in records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed out by the loop.
    pub read: u64,
    /// Durable in the target.
    pub stored: u64,
    /// Went nowhere, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// On their way.
    pub waiting: u64,
}

/// Shared by the loop, the delivery and those who look.
#[derive(Debug, Clone)]
pub struct ConsumerStatus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    owner: Owner,
    metrics: ConsumerMetrics,
    state: Mutex<State>,
    /// `u64::MAX`: not known yet.
    lag: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    is_positioned: bool,
    /// Why, and since when.
    pauses: BTreeMap<Pause, (String, Instant)>,
    counts: Counts,
    holes: Vec<Hole>,
    hole_count: u64,
    hole_offsets: u64,
    last_hole: Option<Hole>,
    /// Up to where holes of a partition are counted, with the epoch: a new session meets the same hole again.
    counted: HashMap<TopicPartition, (u64, i64)>,
}

impl ConsumerStatus {
    /// `name` is for people ("export `search`"), `owner` for the labels of metrics.
    pub fn new(name: &str, owner: Owner, metrics: &ConsumerMetrics, reasons: &[Pause]) -> Self {
        for reason in Pause::ALL.iter().filter(|reason| reasons.contains(reason) || **reason == Pause::Stalled) {
            // Shown from the start, as zero.
            metrics.paused(&owner, reason.name(), false);
        }
        metrics.lag(&owner, 0);
        Self(Arc::new(Inner {
            name: name.to_owned(),
            owner,
            metrics: metrics.clone(),
            state: Mutex::default(),
            lag: AtomicU64::new(u64::MAX),
        }))
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// It stands still. Logged if it is new.
    pub fn pause(&self, reason: Pause, why: &str) {
        let is_new = {
            let mut state = self.0.state.lock();
            let since = state.pauses.get(&reason).map(|(_, since)| *since);
            state.pauses.insert(reason, (why.to_owned(), since.unwrap_or_else(Instant::now)));
            since.is_none()
        };
        if is_new {
            tracing::warn!(consumer = self.0.name, reason = reason.name(), why, "paused, goes on by itself");
            self.0.metrics.paused(&self.0.owner, reason.name(), true);
        }
    }

    /// It goes on, as far as this reason is concerned.
    pub fn resume(&self, reason: Pause) {
        if self.0.state.lock().pauses.remove(&reason).is_some() {
            tracing::info!(consumer = self.0.name, reason = reason.name(), "resumed");
            self.0.metrics.paused(&self.0.owner, reason.name(), false);
        }
    }

    /// Where each partition is read on is known from now on.
    pub fn positioned(&self) {
        self.0.state.lock().is_positioned = true;
        self.resume(Pause::Log);
    }

    /// Why it stands still, if it does.
    pub fn trouble(&self) -> Option<String> {
        self.pauses(|_, _| true)
    }

    fn pauses(&self, wanted: impl Fn(Pause, Instant) -> bool) -> Option<String> {
        let state = self.0.state.lock();
        let wanted = state.pauses.iter().filter(|(reason, (_, since))| wanted(**reason, *since));
        let all: Vec<&str> = wanted.map(|(_, (why, _))| why.as_str()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The same without what may be over in a moment.
    fn lasting(&self) -> Option<String> {
        self.pauses(|reason, since| reason != Pause::Log || since.elapsed() >= GRACE)
    }

    /// What lasts, with its name, for `/ready`.
    pub fn notice(&self) -> Option<String> {
        self.lasting().map(|trouble| format!("{} is paused: {trouble}", self.0.name))
    }

    /// What was lost since the start, with its name, for `/ready`.
    pub fn losses(&self) -> Option<String> {
        let state = self.0.state.lock();
        let Hole { interval, cause, .. } = state.last_hole.as_ref()?;
        let (name, offsets, gaps) = (&self.0.name, state.hole_offsets, state.hole_count);
        let (to, tp) = (interval.to, interval.topic_partition());
        let why = match cause {
            HoleCause::Retention => "retention removed records before they were read",
            HoleCause::Unreadable => "records there can't be read",
        };
        let gaps = if gaps == 1 { "1 gap".to_owned() } else { format!("{gaps} gaps") };
        Some(format!(
            "{name} has lost {offsets} offsets of the log in {gaps} since the start, the last before offset {to} of {tp}: {why}"
        ))
    }

    /// Whether positions are known and nothing is in the way; else what is.
    pub fn ready(&self) -> Result<(), String> {
        let is_positioned = self.0.state.lock().is_positioned;
        // Before the first answer there is nothing that could be over in a moment.
        let trouble = if is_positioned { self.lasting() } else { self.trouble() };
        match (trouble, is_positioned) {
            (Some(trouble), _) => Err(trouble),
            (None, false) => Err("positions in the log are not known yet".to_owned()),
            (None, true) => Ok(()),
        }
    }

    /// A partition is read: its numbers are shown from now on.
    pub(super) fn show(&self, of: &TopicPartition) {
        drop(self.0.metrics.hole_offsets(&self.0.owner, of));
    }

    /// Records are missing. A hole that is met again, by a session that begins anew, counts once.
    pub(super) fn lost(&self, hole: &Hole) {
        let tp = hole.interval.topic_partition();
        let mut state = self.0.state.lock();
        let (from, to) = match state.counted.get(&tp) {
            Some((epoch, to)) if *epoch == hole.interval.epoch => (hole.interval.from.max(*to), hole.interval.to),
            _ => (hole.interval.from, hole.interval.to),
        };
        if from >= to {
            return;
        }
        let offsets = (to - from).unsigned_abs();
        state.counted.insert(tp.clone(), (hole.interval.epoch, to));
        state.hole_count += 1;
        state.last_hole = Some(hole.clone());
        state.hole_offsets += offsets;
        if state.holes.len() < HOLES {
            state.holes.push(hole.clone());
        }
        drop(state);
        self.0.metrics.hole_offsets(&self.0.owner, &tp).inc_by(offsets);
        let consumer = &self.0.name;
        match hole.cause {
            HoleCause::Retention => tracing::error!(
                consumer, partition = %tp, from, to,
                "retention removed records of the log before they were read: they are lost here; give the topic a \
                 longer retention, or the consumer more time"
            ),
            HoleCause::Unreadable => tracing::error!(
                consumer, partition = %tp, from, to,
                "records of the log can't be read: they are lost here; look at them with `millrace broker consume`"
            ),
        }
    }

    /// Gaps since the start: how many, and how many offsets.
    pub fn holes(&self) -> (u64, u64) {
        let state = self.0.state.lock();
        (state.hole_count, state.hole_offsets)
    }

    /// The first hundred of them.
    pub fn hole_list(&self) -> Vec<Hole> {
        self.0.state.lock().holes.clone()
    }

    /// Records are handed out.
    pub(super) fn handed_out(&self, records: usize) {
        let counts = &mut self.0.state.lock().counts;
        counts.read += records as u64;
        counts.waiting += records as u64;
    }

    /// What was handed out and not settled will be read again.
    pub(super) fn given_back(&self) {
        let counts = &mut self.0.state.lock().counts;
        counts.read -= counts.waiting;
        counts.waiting = 0;
    }

    /// What became of records that were handed out: durable in the target, or dropped by reason.
    pub fn settled(&self, stored: u64, dropped: &[(&'static str, u64)]) {
        let counts = &mut self.0.state.lock().counts;
        counts.stored += stored;
        let mut all = stored;
        for (reason, records) in dropped {
            *counts.dropped.entry(reason).or_default() += records;
            all += records;
        }
        counts.waiting = counts.waiting.saturating_sub(all);
    }

    /// What came and what became of it.
    pub fn counts(&self) -> Counts {
        self.0.state.lock().counts.clone()
    }

    /// How long a partition has not moved.
    pub(super) fn stalled(&self, of: &TopicPartition, seconds: u64) {
        self.0.metrics.stalled(&self.0.owner, of, seconds);
    }

    pub(super) fn set_lag(&self, records: u64) {
        self.0.lag.store(records, Ordering::Relaxed);
        self.0.metrics.lag(&self.0.owner, records);
    }

    /// Records of the log that are not delivered yet, as of a moment ago; `None`: nobody looked yet.
    pub fn lag(&self) -> Option<u64> {
        Some(self.0.lag.load(Ordering::Relaxed)).filter(|lag| *lag != u64::MAX)
    }
}

/// All causes of an error in one line, repeats left out.
pub fn chain(error: &dyn std::error::Error) -> String {
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
