//! One step of a source, ready for use: what it does to one event, and what it counts.
//!
//! In: its configuration; events. Out: changed events, or where they go instead. Writes to the log of this program,
//! now and then, what failed and what was throttled; reads the file of a program when it is made.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use millrace_log::record::is_topic_name;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use regex::bytes::Regex;
use vrl::compiler::runtime::Runtime;
use vrl::value::Value;

use super::check::is_reason;
use super::config::{OnError, RouteTransform, TransformConfig};
use super::event::Event;
use super::outcome::Destination;
use super::pattern::pattern;
use super::program::{self, Program, ProgramFault, Purpose, Stop};
use super::step_redact::Redactor;
use super::step_sample;
use super::step_throttle::Throttle;
use super::value::scalar;
use crate::metrics::{AgentMetrics, Redacted, Throttled, Transform};

/// Metadata of an event that a step failed on: the error.
pub const META_ERROR: &str = "transform_error";
/// Metadata of an event that a step failed on: the step's name.
pub const META_FAILED: &str = "transform_failed";
/// Metadata of an event that was kept by `sample`: one of how many it is.
pub const META_SAMPLE_RATE: &str = "sample_rate";

/// Different reasons of `abort` in the ledger of one step.
const MAX_REASONS: usize = 32;
/// Bytes of a key.
const MAX_KEY: usize = 256;
/// Between two lines in the log of one step.
const REPORT_EVERY_NS: i64 = 60_000_000_000;
/// Longest run of an expression.
const EXPRESSION_LIMIT: Duration = Duration::from_millis(100);

/// What one worker keeps between events.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    runtime: Runtime,
    found: Vec<u64>,
    /// The present, for throttles and reports.
    pub now_ns: i64,
}

/// A step of one or more sources.
#[derive(Debug)]
pub(crate) struct TransformStep {
    name: Arc<str>,
    action: Action,
    on_error: OnError,
    counters: Counters,
    reported_ns: AtomicI64,
}

#[derive(Debug)]
enum Action {
    Vrl { program: Program, max_output: usize, reasons: Mutex<HashSet<Arc<str>>>, abort: Arc<str> },
    Drop { when: EventFilter, reason: Arc<str> },
    Route { when: EventFilter, topic: Topic },
    Sample { when: EventFilter, rate: u64, key: Option<Program>, reason: Arc<str> },
    Throttle { when: EventFilter, key: Option<Program>, throttle: Throttle, reason: Arc<str> },
    Redact { redactor: Redactor, found: Vec<Counter> },
}

#[derive(Debug)]
struct Counters {
    entered: Counter,
    left: Counter,
    dropped: Counter,
    failed: Counter,
    seconds: Counter<f64, std::sync::atomic::AtomicU64>,
}

/// Why a step can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error("{0}")]
    Setting(String),
    #[error("{}", .0.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n"))]
    Program(Vec<ProgramFault>),
    #[error(transparent)]
    Regex(#[from] regex::Error),
}

impl From<Vec<ProgramFault>> for StepError {
    fn from(faults: Vec<ProgramFault>) -> Self {
        Self::Program(faults)
    }
}

/// Which events a step is for.
#[derive(Debug)]
struct EventFilter {
    program: Option<Program>,
    pattern: Option<Regex>,
}

impl EventFilter {
    fn new(r#if: Option<&String>, r#match: Option<&String>) -> Result<Self, StepError> {
        Ok(Self {
            program: expression(r#if, Purpose::Condition)?,
            pattern: r#match.map(|text| pattern(text)).transpose()?,
        })
    }

    fn holds(&self, event: &mut Event<'_>, worker: &mut Worker) -> Result<bool, String> {
        if let Some(pattern) = &self.pattern
            && !event.message().is_some_and(|line| pattern.is_match(line))
        {
            return Ok(false);
        }
        match &self.program {
            None => Ok(true),
            Some(program) => match program.run(&mut worker.runtime, event.root()) {
                Ok(Value::Boolean(yes)) => Ok(yes),
                Ok(other) => Err(format!("the condition returned {}, expected true or false", other.kind_str())),
                Err(Stop::Abort(_)) => Ok(false),
                Err(Stop::Failed(error)) => Err(error),
            },
        }
    }
}

fn expression(text: Option<&String>, purpose: Purpose) -> Result<Option<Program>, StepError> {
    let Some(text) = text else { return Ok(None) };
    let zone = program::timezone("UTC").unwrap_or_default();
    Ok(Some(Program::compile(text, purpose, zone, EXPRESSION_LIMIT)?.0))
}

/// The value of a key; `None` if it has none.
fn key_of(program: &Program, event: &mut Event<'_>, worker: &mut Worker) -> Result<Option<String>, String> {
    match program.run(&mut worker.runtime, event.root()) {
        Ok(value) => Ok(scalar(&value).filter(|text| !text.is_empty()).map(|mut text| {
            text.truncate(text.floor_char_boundary(MAX_KEY));
            text
        })),
        Err(Stop::Abort(_)) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
    }
}

#[derive(Debug)]
enum Topic {
    Named(Arc<str>),
    From(Box<Chosen>),
}

/// A topic that events name.
#[derive(Debug)]
struct Chosen {
    program: Program,
    prefix: String,
    allow: Vec<String>,
    max: usize,
    known: Mutex<HashSet<Arc<str>>>,
}

impl Topic {
    fn new(config: &RouteTransform) -> Result<Self, StepError> {
        match (&config.topic, expression(config.topic_from.as_ref(), Purpose::Value)?) {
            (Some(topic), None) => Ok(Self::Named(topic.as_str().into())),
            (None, Some(program)) => Ok(Self::From(Box::new(Chosen {
                program,
                prefix: config.prefix.clone(),
                allow: config.allow.clone(),
                max: config.max_topics,
                known: Mutex::default(),
            }))),
            _ => Err(StepError::Setting("expected one of `topic` and `topic_from`".to_owned())),
        }
    }

    /// `None`: it stays where it would have gone.
    fn choose(&self, event: &mut Event<'_>, worker: &mut Worker) -> Result<Option<Arc<str>>, String> {
        match self {
            Self::Named(topic) => Ok(Some(topic.clone())),
            Self::From(chosen) => match key_of(&chosen.program, event, worker)? {
                Some(name) => chosen.topic(&name).map(Some),
                None => Ok(None),
            },
        }
    }
}

impl Chosen {
    /// The topic of a name, if it may be one.
    fn topic(&self, name: &str) -> Result<Arc<str>, String> {
        let name = format!("{}{name}", self.prefix);
        let mut known = self.known.lock();
        if let Some(topic) = known.get(name.as_str()) {
            return Ok(topic.clone());
        }
        let allowed = self.allow.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *pattern == name,
        });
        if !is_topic_name(&name) || !allowed {
            return Err(format!("topic `{}` is not allowed: see `allow`", program::short(&name)));
        }
        if known.len() >= self.max {
            return Err(format!("topic `{name}` exceeds the limit of {} topics (max_topics)", self.max));
        }
        let topic: Arc<str> = name.into();
        known.insert(topic.clone());
        Ok(topic)
    }
}

impl TransformStep {
    /// Compiles.
    pub fn new(name: &str, config: &TransformConfig, metrics: &AgentMetrics) -> Result<Self, StepError> {
        let reason = |given: &str, usual: &str| -> Arc<str> {
            let reason = if given.is_empty() { usual } else { given };
            metrics.expect_dropped(reason);
            reason.into()
        };
        let (action, on_error) = match config {
            TransformConfig::Vrl(vrl) => {
                let source = vrl.source().map_err(StepError::Setting)?;
                let zone = program::timezone(&vrl.timezone)
                    .ok_or_else(|| StepError::Setting(format!("unknown time zone `{}`", vrl.timezone)))?;
                let (program, warnings) = Program::compile(&source, Purpose::Change, zone, vrl.time_limit.0)?;
                for warning in warnings {
                    tracing::warn!(
                        transform = name,
                        line = warning.line,
                        column = warning.column,
                        "{}",
                        warning.message
                    );
                }
                let max_output = usize::try_from(vrl.max_output_bytes.0).unwrap_or(usize::MAX);
                (
                    Action::Vrl { program, max_output, reasons: Mutex::default(), abort: reason("", "abort") },
                    vrl.on_error,
                )
            }
            TransformConfig::Drop(drop) => {
                let when = EventFilter::new(drop.r#if.as_ref(), drop.r#match.as_ref())?;
                (Action::Drop { when, reason: reason(&drop.reason, "drop") }, drop.on_error)
            }
            TransformConfig::Route(route) => {
                let when = EventFilter::new(route.r#if.as_ref(), route.r#match.as_ref())?;
                (Action::Route { when, topic: Topic::new(route)? }, route.on_error)
            }
            TransformConfig::Sample(sample) => {
                let when = EventFilter::new(sample.r#if.as_ref(), sample.r#match.as_ref())?;
                let key = expression(sample.key.as_ref(), Purpose::Value)?;
                let reason = reason(&sample.reason, "sample");
                (Action::Sample { when, rate: sample.rate, key, reason }, sample.on_error)
            }
            TransformConfig::Throttle(config) => {
                let when = EventFilter::new(config.r#if.as_ref(), config.r#match.as_ref())?;
                let key = expression(config.key.as_ref(), Purpose::Value)?;
                let (family, transform) = (metrics.throttled.clone(), name.to_owned());
                let counters = Box::new(move |key: &str| {
                    family.get_or_create(&Throttled { transform: transform.clone(), key: key.to_owned() }).clone()
                });
                let throttle = Throttle::new(config.limit, config.per.0, config.burst, config.max_keys, counters);
                let reason = reason(&config.reason, "throttle");
                (Action::Throttle { when, key, throttle, reason }, config.on_error)
            }
            TransformConfig::Redact(redact) => {
                let redactor = Redactor::new(redact)?;
                let label = |what| Redacted { transform: name.to_owned(), what };
                let found = redactor.names().map(|what| metrics.redacted.get_or_create(&label(what)).clone()).collect();
                (Action::Redact { redactor, found }, OnError::Pass)
            }
        };
        let label = Transform { transform: name.to_owned() };
        let counters = Counters {
            entered: metrics.transform_in.get_or_create(&label).clone(),
            left: metrics.transform_out.get_or_create(&label).clone(),
            dropped: metrics.transform_dropped.get_or_create(&label).clone(),
            failed: metrics.transform_failed.get_or_create(&label).clone(),
            seconds: metrics.transform_seconds.get_or_create(&label).clone(),
        };
        Ok(Self { name: name.into(), action, on_error, counters, reported_ns: AtomicI64::new(i64::MIN) })
    }

    /// Does its work on those events that are still on their way.
    pub fn run(&self, events: &mut [Event<'_>], worker: &mut Worker) {
        let started = Instant::now();
        let (mut entered, mut left, mut failed) = (0, 0, 0);
        let mut last_error = None;
        for event in events.iter_mut().filter(|event| event.to.is_alive()) {
            entered += 1;
            if let Err(error) = self.apply(event, worker) {
                failed += 1;
                match self.on_error {
                    OnError::Pass => {
                        event.note(META_ERROR, error.clone());
                        event.note(META_FAILED, self.name.to_string());
                    }
                    OnError::DeadLetter => {
                        event.to = Destination::DeadLetter(format!("transform `{}`: {error}", self.name))
                    }
                }
                last_error = Some(error);
            }
            left += u64::from(event.to.is_alive());
        }
        let counters = &self.counters;
        counters.entered.inc_by(entered);
        counters.left.inc_by(left);
        counters.dropped.inc_by(entered - left);
        counters.failed.inc_by(failed);
        counters.seconds.inc_by(started.elapsed().as_secs_f64());
        self.report(worker.now_ns, last_error);
    }

    fn apply(&self, event: &mut Event<'_>, worker: &mut Worker) -> Result<(), String> {
        match &self.action {
            Action::Vrl { program, max_output, reasons, abort } => {
                let backup = event.backup();
                match program.run(&mut worker.runtime, event.root()) {
                    Err(Stop::Abort(message)) => {
                        event.to = Destination::Dropped(abort_reason(message, reasons, abort));
                        Ok(())
                    }
                    Err(Stop::Failed(error)) => {
                        event.restore(backup);
                        Err(error)
                    }
                    Ok(_) => {
                        let verified = event.verify(*max_output);
                        if verified.is_err() {
                            event.restore(backup);
                        }
                        verified
                    }
                }
            }
            Action::Drop { when, reason } => {
                if when.holds(event, worker)? {
                    event.to = Destination::Dropped(reason.clone());
                }
                Ok(())
            }
            Action::Route { when, topic } => {
                if when.holds(event, worker)?
                    && let Some(topic) = topic.choose(event, worker)?
                {
                    event.to = Destination::Topic(topic);
                }
                Ok(())
            }
            Action::Sample { when, rate, key, reason } => {
                if *rate <= 1 || !when.holds(event, worker)? {
                    return Ok(());
                }
                let key = match key {
                    Some(key) => key_of(key, event, worker)?,
                    None => None,
                };
                let seed = key.map_or(event.seed, |key| step_sample::seed_of(key.as_bytes()));
                if step_sample::is_kept(seed, *rate) {
                    event.note(META_SAMPLE_RATE, rate.to_string());
                } else {
                    event.to = Destination::Dropped(reason.clone());
                }
                Ok(())
            }
            Action::Throttle { when, key, throttle, reason } => {
                if !when.holds(event, worker)? {
                    return Ok(());
                }
                let key = match key {
                    Some(key) => key_of(key, event, worker)?.unwrap_or_default(),
                    None => String::new(),
                };
                if !throttle.keeps(key.as_bytes(), worker.now_ns) {
                    event.to = Destination::Dropped(reason.clone());
                }
                Ok(())
            }
            Action::Redact { redactor, found } => {
                worker.found.clear();
                worker.found.resize(found.len(), 0);
                event.texts(&mut |text| redactor.apply(text, &mut worker.found));
                for (counter, count) in found.iter().zip(&worker.found) {
                    if *count > 0 {
                        counter.inc_by(*count);
                    }
                }
                Ok(())
            }
        }
    }

    /// Logs at most once a minute what failed and what was throttled.
    fn report(&self, now_ns: i64, error: Option<String>) {
        let throttled = matches!(self.action, Action::Throttle { .. });
        if error.is_none() && !throttled {
            return;
        }
        let reported = self.reported_ns.load(Ordering::Relaxed);
        if reported != i64::MIN && now_ns.saturating_sub(reported) < REPORT_EVERY_NS
            || self.reported_ns.compare_exchange(reported, now_ns, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        if let Some(error) = error {
            let failed = self.counters.failed.get();
            tracing::warn!(transform = %self.name, failed, on_error = ?self.on_error, error, "transform failed on lines");
        }
        if let Action::Throttle { throttle, reason, .. } = &self.action {
            let summary = throttle.summary();
            if summary.total > 0 {
                let top: Vec<String> = summary.top.iter().map(|(key, count)| format!("{key}: {count}")).collect();
                tracing::warn!(transform = %self.name, %reason, dropped = summary.total, keys = top.join(", "), "throttle dropped lines");
            }
        }
    }
}

/// The message of `abort` if it is one word and not one too many.
fn abort_reason(message: Option<String>, reasons: &Mutex<HashSet<Arc<str>>>, usual: &Arc<str>) -> Arc<str> {
    let Some(message) = message.filter(|message| is_reason(message)) else { return usual.clone() };
    let mut reasons = reasons.lock();
    if let Some(reason) = reasons.get(message.as_str()) {
        return reason.clone();
    }
    if reasons.len() >= MAX_REASONS {
        return usual.clone();
    }
    let reason: Arc<str> = message.into();
    reasons.insert(reason.clone());
    reason
}
