//! Bottlenecks of the agent at present: why reading is paused, and what the log answers.
//!
//! In: what the reading thread and the senders meet. Out: [`Condition`], with the ledger, and two gauges. Touches nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::metrics::{AgentMetrics, PauseReason};

/// Why reading of files is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pause {
    /// `max_waiting_bytes` is used up.
    Memory,
    /// The queue of a partition is full (`queue_pieces`).
    Queue,
    /// Files that are behind have as much on its way as the log takes at once: reading is faster than the log.
    Log,
}

impl Pause {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Queue => "queue",
            Self::Log => "log",
        }
    }
}

/// Bottlenecks at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Why no file is read: `memory` (`max_waiting_bytes` is used up), `queue` (`queue_pieces` of a partition are), or
    /// `log` (there is more to read, and as much of it is on its way as the log takes at once).
    pub paused: Option<String>,
    /// Memory that holds what the log has not acknowledged, bytes.
    pub waiting_bytes: u64,
    /// Its limit.
    pub max_waiting_bytes: u64,
    /// Whether the log was reached since the start; before that nothing is read.
    pub reached: bool,
    /// Until then: bytes of files that wait to be read, about, once they were looked at.
    pub unread: Option<u64>,
    /// What is in the way, by topic and partition, or by folder; empty while the log takes everything and positions can be written.
    pub troubles: BTreeMap<String, String>,
}

#[derive(Debug)]
struct ConditionState {
    now: Mutex<CurrentState>,
    metrics: AgentMetrics,
}

#[derive(Debug, Default)]
struct CurrentState {
    paused: Option<Pause>,
    reached: bool,
    unread: Option<u64>,
    troubles: BTreeMap<String, String>,
    /// When the log last answered.
    answered: Option<Instant>,
}

/// ConditionState by the parts of an agent. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Conditions(Arc<ConditionState>);

impl Conditions {
    pub fn new(metrics: &AgentMetrics, max_waiting: usize) -> Self {
        metrics.max_waiting_bytes.set(i64::try_from(max_waiting).unwrap_or(i64::MAX));
        for pause in [Pause::Memory, Pause::Queue, Pause::Log] {
            let reason = PauseReason { reason: pause.reason() };
            metrics.paused.get_or_create(&reason).set(0);
            drop(metrics.pauses.get_or_create(&reason));
        }
        Self(Arc::new(ConditionState { now: Mutex::default(), metrics: metrics.clone() }))
    }

    /// Reading stands still, or goes on.
    pub fn pause(&self, why: Option<Pause>) {
        let before = std::mem::replace(&mut self.0.now.lock().paused, why);
        if before == why {
            return;
        }
        for (pause, paused) in [(before, 0), (why, 1)] {
            let Some(pause) = pause else { continue };
            let reason = PauseReason { reason: pause.reason() };
            self.0.metrics.paused.get_or_create(&reason).set(paused);
            if paused == 1 {
                self.0.metrics.pauses.get_or_create(&reason).inc();
            }
        }
    }

    /// Something is in the way, or no longer: of what goes to a partition, or in a folder. Whether that is new.
    pub fn trouble(&self, of: &str, what: Option<String>) -> bool {
        let mut now = self.0.now.lock();
        let is_new = match what {
            Some(what) => now.troubles.insert(of.to_owned(), what).is_none(),
            None => now.troubles.remove(of).is_some(),
        };
        self.show(&now);
        is_new
    }

    /// The log answered for the first time: reading begins.
    pub fn reach(&self) {
        let mut now = self.0.now.lock();
        (now.reached, now.unread, now.answered) = (true, None, Some(Instant::now()));
        self.show(&now);
    }

    /// The log answered.
    pub fn answered(&self) {
        self.0.now.lock().answered = Some(Instant::now());
    }

    /// Whether it did so recently.
    pub fn has_answered_within(&self, span: Duration) -> bool {
        self.0.now.lock().answered.is_some_and(|at| at.elapsed() < span)
    }

    fn show(&self, now: &CurrentState) {
        self.0.metrics.log_ready.set(i64::from(now.reached && now.troubles.is_empty()));
    }

    /// So much waits in files until then.
    pub fn wait(&self, unread: u64) {
        self.0.now.lock().unread = Some(unread);
    }

    /// Whether the log takes what is sent; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        let now = self.0.now.lock();
        match now.troubles.iter().next() {
            Some((of, trouble)) => Err(format!("{of}: {trouble}")),
            None if now.reached => Ok(()),
            None => Err("the log was not reached yet".to_owned()),
        }
    }

    /// As it is now, with the memory that is in use and its limit.
    pub fn current(&self, used: usize, max: usize) -> Condition {
        let now = self.0.now.lock();
        Condition {
            paused: now.paused.map(|pause| pause.reason().to_owned()),
            waiting_bytes: used as u64,
            max_waiting_bytes: max as u64,
            reached: now.reached,
            unread: now.unread,
            troubles: now.troubles.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_counted_once_until_it_ends() {
        let metrics = AgentMetrics::default();
        let conditions = Conditions::new(&metrics, 100);
        let count = |reason| {
            let reason = PauseReason { reason };
            (metrics.pauses.get_or_create(&reason).get(), metrics.paused.get_or_create(&reason).get())
        };
        for (why, memory, queue) in [
            (None, (0, 0), (0, 0)),
            (Some(Pause::Memory), (1, 1), (0, 0)),
            (Some(Pause::Memory), (1, 1), (0, 0)),
            (Some(Pause::Queue), (1, 0), (1, 1)),
            (None, (1, 0), (1, 0)),
            (Some(Pause::Memory), (2, 1), (1, 0)),
        ] {
            conditions.pause(why);
            assert_eq!((count("memory"), count("queue")), (memory, queue), "{why:?}");
            assert_eq!(conditions.current(0, 100).paused.as_deref(), why.map(Pause::reason));
        }
    }

    #[test]
    fn troubles_stand_until_the_log_takes_it_again() {
        let conditions = Conditions::new(&AgentMetrics::default(), 100);
        assert_eq!(conditions.ready(), Err("the log was not reached yet".to_owned()));
        conditions.reach();
        assert_eq!(conditions.ready(), Ok(()));
        conditions.trouble("logs/0", Some("no leader".to_owned()));
        conditions.trouble("logs/1", Some("timed out".to_owned()));
        conditions.trouble("logs/0", None);
        let found = conditions.current(0, 100).troubles;
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("logs/1".to_owned(), "timed out".to_owned())]);
        assert_eq!(conditions.ready(), Err("logs/1: timed out".to_owned()));
    }
}
