//! Retry with exponential backoff; what the log answers meanwhile is shown as a condition of the agent.
//!
//! In: failed attempts. Out: waits, one log line when a failure starts and one when it ends. Touches nothing.

use std::time::Duration;

use millrace_log::client::ClientError;
use millrace_log::record::TopicPartition;

use super::context::DeliveryContext;
use crate::condition::{Conditions, with_cause};

/// Attempts between two log lines of one failure.
const LOG_EVERY: u64 = 30;

/// Waits between attempts, longer each time.
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
    attempts: u64,
    conditions: Conditions,
    trouble: Option<Trouble>,
}

/// What the log answers for a partition, shown until this is dropped.
pub(super) struct Trouble {
    conditions: Conditions,
    of: String,
}

impl Trouble {
    pub fn new(conditions: &Conditions, of: &TopicPartition) -> Self {
        Self { conditions: conditions.clone(), of: of.to_string() }
    }

    pub fn report(&self, what: &str) {
        self.conditions.trouble(&self.of, Some(what.to_owned()));
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.conditions.trouble(&self.of, None);
    }
}

impl Backoff {
    pub fn new(context: &DeliveryContext) -> Self {
        let (initial, max) = (context.retry_initial, context.retry_max);
        Self { initial, max, next: initial, attempts: 0, conditions: context.conditions.clone(), trouble: None }
    }

    /// After a failed attempt.
    pub async fn wait(&mut self, to: &TopicPartition, error: &ClientError) {
        self.attempts += 1;
        let error = with_cause(error);
        let trouble = self.trouble.get_or_insert_with(|| Trouble::new(&self.conditions, to));
        trouble.report(&format!("{error} (attempt {})", self.attempts));
        if self.attempts == 1 || self.attempts.is_multiple_of(LOG_EVERY) {
            tracing::warn!(partition = %to, error, attempts = self.attempts, "log did not accept records, retrying until it does");
        }
        // Half to whole: the senders of many hosts must not come back at the same moment.
        let wait = self.next.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.max);
        tokio::time::sleep(wait).await;
    }

    /// After a successful one.
    pub fn reset(&mut self, to: &TopicPartition) {
        if self.attempts > 0 {
            tracing::info!(partition = %to, attempts = self.attempts, "log accepts records again");
        }
        self.attempts = 0;
        self.next = self.initial;
        self.trouble = None;
    }
}
