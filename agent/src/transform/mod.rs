//! Transforms: what happens to events between reading and sending.
//!
//! In: pieces of files with what their sources say of them. Out: one [`Transformed`] for each, in order; the senders send them.
//! Touches nothing but files of programs, at the start. Runs on threads for blocking work, never on the reading thread;
//! a source without transforms does not come here at all.
//!
//! Nothing is lost here: whatever a step does, each piece has one outcome, which the ledger counts: sent, or dropped
//! with a reason. A program is held to a time and a size; a function that panics is a program that failed.

/// VRL's functions that programs may call.
mod functions;
/// What became of an event.
mod outcome;
/// VRL values as texts, labels and metadata.
mod value;
/// One event on its way.
mod event;
/// One compiled program.
mod program;
/// Regular expressions of users.
mod pattern;
/// The section of the configuration.
pub mod config;
/// Checks of the section.
pub(crate) mod check;
/// One in so many.
mod step_sample;
/// So many in a time.
mod step_throttle;
/// Presets and patterns that hide what must not be seen.
mod step_redact;
/// One step, ready for use.
mod step;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::Labels;

use self::config::{StepConfig, TransformConfig, Transforms};
use self::event::Event;
pub(crate) use self::event::Origin;
pub(crate) use self::outcome::{Content, Destination, Transformed};
use self::step::TransformStep;
pub(crate) use self::step::Worker;
pub use self::step::{META_ERROR, META_FAILED, META_SAMPLE_RATE};
use crate::error::AgentError;
use crate::metrics::AgentMetrics;

/// Events that pass one step before the next one sees them.
const EVENTS_AT_ONCE: usize = 128;

/// The steps of one source. Cheap to share.
#[derive(Debug)]
pub(crate) struct Chain {
    steps: Vec<Arc<TransformStep>>,
}

/// One line for a chain.
#[derive(Debug)]
pub(crate) struct Input {
    pub line: Bytes,
    pub time_ns: i64,
    /// Header `meta` that it came with.
    pub meta: Option<Bytes>,
    /// Its place, for `sample`.
    pub seed: u64,
}

impl Chain {
    /// Gives each line its outcome, in order.
    pub fn run(
        &self,
        origin: &Origin,
        lines: impl Iterator<Item = Input>,
        worker: &mut Worker,
        out: &mut Vec<Transformed>,
    ) {
        let mut lines = lines.peekable();
        let mut events: Vec<Event<'_>> = Vec::with_capacity(EVENTS_AT_ONCE);
        while lines.peek().is_some() {
            let some = lines.by_ref().take(EVENTS_AT_ONCE);
            events.extend(some.map(|input| {
                Event::new(origin, input.line, input.time_ns, input.seed).with_meta(input.meta.as_deref())
            }));
            for step in &self.steps {
                step.run(&mut events, worker);
            }
            out.extend(events.drain(..).map(Event::finish));
        }
    }
}

/// What a source says of all its lines.
pub(crate) fn origin(labels_json: &[u8], filename: &str, kind: &'static str) -> Origin {
    // Written by ourselves.
    let labels = Labels::from_json(labels_json).unwrap_or_default();
    Origin::new(&labels, filename, kind)
}

/// Makes steps; named ones once, shared by all lists that name them. Blocks where a program stands in a file.
pub(crate) struct Steps<'c> {
    transforms: &'c Transforms,
    metrics: &'c AgentMetrics,
    named: HashMap<&'c str, Arc<TransformStep>>,
}

impl<'c> Steps<'c> {
    pub fn new(transforms: &'c Transforms, metrics: &'c AgentMetrics) -> Self {
        Self { transforms, metrics, named: HashMap::new() }
    }

    /// The chain of a list of steps that stands at `key`; `None` for an empty one.
    pub fn chain(&mut self, key: &str, list: &'c [StepConfig]) -> Result<Option<Arc<Chain>>, AgentError> {
        let mut steps = Vec::new();
        for (n, step) in list.iter().enumerate() {
            let key = format!("{key}[{n}]");
            steps.push(match step {
                StepConfig::Inline(transform) => self.make(&key, &key, transform)?,
                StepConfig::Name(name) => match (self.named.get(name.as_str()), self.transforms.get(name)) {
                    (Some(step), _) => step.clone(),
                    (None, Some(transform)) => {
                        let made = self.make(&format!("transforms.{name}"), name, transform)?;
                        self.named.insert(name, made.clone());
                        made
                    }
                    (None, None) => {
                        return Err(AgentError::Setting {
                            key,
                            reason: format!("unknown transform `{name}`: not in `agent.transforms`"),
                        });
                    }
                },
            });
        }
        Ok((!steps.is_empty()).then(|| Arc::new(Chain { steps })))
    }

    fn make(&self, key: &str, name: &str, transform: &TransformConfig) -> Result<Arc<TransformStep>, AgentError> {
        let made = TransformStep::new(name, transform, self.metrics);
        made.map(Arc::new).map_err(|error| AgentError::Setting { key: key.to_owned(), reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests;
