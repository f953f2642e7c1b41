//! How far reading and indexing are, as the index and its users ask for it.
//!
//! In: offsets that became searchable or durable, faults of the publisher. Out: readiness, lag, waiting until all is
//! searchable; requests to the consumer's thread. Touches nothing.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_log::client::Consumed;
use millrace_log::consume::{ConsumerMetrics, ConsumerStatus, Control, ControlError, Pause, Stretch};
use millrace_log::record::TopicPartition;
use millrace_logql::storage::StorageError;

/// Records of one partition that follow each other.
pub type Fetched = Stretch<Consumed>;

/// How far reading and indexing are, for doors, readiness and lag displays.
#[derive(Debug)]
pub struct Progress {
    control: Control,
    status: ConsumerStatus,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new(&ConsumerMetrics::default())
    }
}

impl Progress {
    /// Nothing is known yet.
    pub fn new(metrics: &ConsumerMetrics) -> Self {
        let reasons = [Pause::Log, Pause::Store];
        Self { control: Control::default(), status: ConsumerStatus::new("index", Vec::new(), metrics, &reasons) }
    }

    /// The way to the consumer's thread.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What people see of the consumer.
    pub fn status(&self) -> &ConsumerStatus {
        &self.status
    }

    /// Everything before these offsets is searchable.
    pub fn searchable(&self, next: impl IntoIterator<Item = (TopicPartition, i64)>) {
        self.control.reached(next);
    }

    /// Next offset of each partition to become searchable.
    pub fn positions(&self) -> HashMap<TopicPartition, i64> {
        self.control.positions()
    }

    /// Asks the consumer's thread to show offsets of the group.
    pub fn commit(&self, next: Vec<(TopicPartition, i64)>) {
        self.control.stored(0, next);
    }

    /// Ends the consumer's thread after it was cancelled.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Notes whether publishing works.
    pub fn publishing(&self, works: Result<(), &dyn std::error::Error>) {
        match works {
            Ok(()) => self.status.resume(Pause::Store),
            Err(error) => self.status.pause(Pause::Store, &format!("publishing fails and is repeated: {error}")),
        }
    }

    /// Whether the log was reached, positions are known and publishing works; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        self.status.ready()
    }

    /// Records in the log that can't be searched yet, as of a moment ago.
    pub async fn behind(&self) -> Result<u64, StorageError> {
        self.control.behind().await.map_err(failed)
    }

    /// Waits until everything that was in the log at the moment of the call is searchable.
    pub async fn caught_up(&self) -> Result<(), StorageError> {
        self.control.caught_up().await.map_err(failed)
    }
}

fn failed(error: ControlError) -> StorageError {
    let source: Arc<dyn std::error::Error + Send + Sync> = match error {
        ControlError::Log(source) => Arc::new(source),
        busy => Arc::new(std::io::Error::other(busy.to_string())),
    };
    StorageError::Failed { what: "the ends of the log".to_owned(), source }
}
