//! Creates the agent's topic, and waits for the log as long as that takes.
//!
//! In: the producer, what waits in files. Out: the topic's partitions; meanwhile the agent's condition says what is wrong and how
//! much waits. Reads sizes of files.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::causes::chain;
use millrace_log::client::BatchProducer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backlog::Backlog;
use crate::condition::Conditions;

/// Between two log lines about a log that can't be reached.
const LOG_EVERY: Duration = Duration::from_secs(30);
/// Between two looks at what waits in files, while it can't be reached.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A topic that is to be there before anything is read.
pub struct TopicWait<'a> {
    pub producer: &'a dyn BatchProducer,
    pub topic: &'a str,
    /// With how many partitions it is created.
    pub partitions: i32,
    pub backlog: Arc<Backlog>,
    pub conditions: &'a Conditions,
    /// Shortest and longest wait between two attempts.
    pub retry: RangeInclusive<Duration>,
}

impl TopicWait<'_> {
    /// Number of partitions, once the topic is there. `None` if cancelled.
    pub async fn created(self, cancel: &CancellationToken) -> Option<i32> {
        let mut wait = *self.retry.start();
        let mut logged: Option<Instant> = None;
        let mut looked: Option<Instant> = None;
        loop {
            let answer = tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                answer = self.producer.ensure_topic(self.topic, self.partitions) => answer,
            };
            match answer {
                Ok(partitions) => {
                    self.conditions.trouble(self.topic, None);
                    self.conditions.reach();
                    return Some(partitions);
                }
                Err(error) => {
                    let error = chain(&error);
                    self.conditions
                        .trouble(self.topic, Some(format!("{error}; nothing is read before the topic exists")));
                    if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                        logged = Some(Instant::now());
                        tracing::warn!(
                            error,
                            topic = self.topic,
                            "log can't be reached, the agent waits for it before it reads files"
                        );
                    }
                }
            }
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                let backlog = self.backlog.clone();
                tokio::select! {
                    () = cancel.cancelled() => return None,
                    bytes = tokio::task::spawn_blocking(move || backlog.bytes()) => {
                        if let Ok(bytes) = bytes {
                            self.conditions.wait(bytes);
                        }
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(*self.retry.end());
        }
    }
}
