//! Health of the log: whether it accepts writes, for `/ready` of a process with the embedded broker.
//!
//! In: refusals for a full disk and appends that went well, from every partition. Out: why the log is not writable, if
//! so. Touches the file system to ask how much room there is. Leaves refusing to the partitions.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::metrics::StorageMetrics;
use millrace_log::fs::Filesystem;

/// Room that there must be again before a log that was full is called writable, though nobody has written since.
const ROOM_AGAIN: u64 = 64 << 20;

/// Why the log takes no writes, or not all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    /// No space.
    #[error("disk of the log under {dir} is full: free space, or lower broker.retention")]
    Full {
        /// The data folder.
        dir: PathBuf,
    },
    /// Writing or flushing failed.
    #[error(
        "disk failed under {partitions} partitions of the log: they refuse writes until the broker is restarted, see its log"
    )]
    Failed {
        /// How many.
        partitions: i64,
    },
}

/// Shared by all partitions of a storage.
#[derive(Debug, Default)]
pub(super) struct Health {
    full: AtomicBool,
}

impl Health {
    /// An append was refused for want of space.
    pub fn refused(&self) {
        self.full.store(true, Ordering::Relaxed);
    }

    /// An append went well.
    pub fn wrote(&self) {
        if self.full.load(Ordering::Relaxed) {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Why it accepts no writes. Asks the file system only after a refusal.
    pub fn check(&self, fs: &dyn Filesystem, dir: &Path, metrics: &StorageMetrics) -> Result<(), NotWritable> {
        let partitions = metrics.failed_partitions.get();
        if partitions > 0 {
            return Err(NotWritable::Failed { partitions });
        }
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        match fs.free_bytes(dir) {
            Ok(free) if free >= ROOM_AGAIN => {
                self.full.store(false, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(NotWritable::Full { dir: dir.to_owned() }),
        }
    }
}
