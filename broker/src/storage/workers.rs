//! What partitions share with the storage and need even after it is gone: settings, threads for disk work, the folder's lock.
//!
//! In: closures, through [`Pool`]. Out: their results. Touches threads.

use parking_lot::Mutex;

use super::error::StorageError;
use super::pool::{Pool, Stopped};
use crate::config::StorageConfig;
use millrace_log::fs;

/// Settings, threads and the lock of one storage.
pub(super) struct Workers {
    pub(super) config: StorageConfig,
    pub(super) writers: Pool,
    pub(super) flushers: Pool,
    pub(super) readers: Pool,
    pub(super) cleaners: Pool,
    pub(super) lock: Mutex<Option<Box<dyn fs::Lock>>>,
}

impl From<Stopped> for StorageError {
    fn from(_: Stopped) -> Self {
        Self::Closed
    }
}
