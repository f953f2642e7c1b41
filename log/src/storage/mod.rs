//! Segment storage of the partitioned log.

mod error;
/// Disk as a seam: the real one, or one in memory that forgets what was not synced.
pub mod fs;
mod partition;
mod topic;

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use error::{AppendError, ReadError, StorageError};
pub use fs::{Filesystem, RealFs};
pub use partition::{AppendKind, Appended, Partition, ReadResult, TimestampOffset};
pub use topic::{SETTINGS, SettingError, SettingKind, SettingSpec, Topic, TopicSettings};

use crate::clock::SharedClock;
use crate::config::StorageConfig;

/// All topics in one data folder.
pub struct Storage {}

#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Storage {
    /// Opens the folder, which it makes if need be, takes its lock, and brings every partition to a sound state.
    /// Blocks for as long as recovery takes: call it before serving, or on a blocking thread.
    pub fn open(
        dir: &Path,
        fs: Arc<dyn Filesystem>,
        clock: SharedClock,
        config: StorageConfig,
    ) -> Result<Arc<Self>, StorageError> {
        todo!()
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &StorageConfig {
        todo!()
    }

    /// Makes a topic; durable when it returns.
    pub async fn create_topic(
        self: &Arc<Self>,
        name: &str,
        partitions: i32,
        settings: TopicSettings,
    ) -> Result<Arc<Topic>, StorageError> {
        todo!()
    }

    /// Deletes a topic with all its data.
    pub async fn delete_topic(self: &Arc<Self>, name: &str) -> Result<(), StorageError> {
        todo!()
    }

    /// Grows a topic to `total` partitions.
    pub async fn add_partitions(self: &Arc<Self>, name: &str, total: i32) -> Result<(), StorageError> {
        todo!()
    }

    /// Replaces the settings of a topic; they hold from the next append on.
    pub async fn alter_topic(self: &Arc<Self>, name: &str, settings: TopicSettings) -> Result<(), StorageError> {
        todo!()
    }

    /// All topics by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        todo!()
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        todo!()
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        todo!()
    }

    /// Applies retention to every partition as of a time.
    pub async fn run_retention_once(self: &Arc<Self>, now_ms: i64) {
        todo!()
    }

    /// Retention and interval flushes until cancelled, then closes: flushes everything and leaves a mark of the clean
    /// stop. Stop the callers first; later appends are refused.
    pub async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), StorageError> {
        todo!()
    }

    /// Flushes everything, leaves the mark of a clean stop and frees the folder. Later appends are refused.
    pub async fn close(self: &Arc<Self>) -> Result<(), StorageError> {
        todo!()
    }
}
