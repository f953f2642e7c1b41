//! The durable counter of one pushing instance: its source id, minted once, and numbers that are never used twice.
//!
//! In: how many numbers are wanted. Out: the first of them. Touches its own folder. Leaves order to the senders.
//!
//! Tree `ingest`: `source` = 16 bytes; `reserved` = u64 big-endian: numbers below may have been used. It is raised by a
//! block and synced before a number of that block is given away, so a crash costs the rest of a block, never a reuse.

use std::path::Path;
use std::sync::Arc;

use millrace_log::record::SourceId;

use super::error::IngestError;
use millrace_index::state::{StateDb, StateError};

/// Numbers reserved at once.
const BLOCK: u64 = 1 << 20;

struct Store {
    db: StateDb,
    tree: sled::Tree,
}

struct Range {
    next: u64,
    reserved: u64,
}

/// Source id and counter.
pub(super) struct Positions {
    source: SourceId,
    store: Arc<Store>,
    range: tokio::sync::Mutex<Range>,
}

impl Positions {
    /// Opens the folder, mints the source id if it is new, and reserves the first block.
    pub(super) fn open(dir: &Path) -> Result<Self, IngestError> {
        let db = StateDb::open(dir)?;
        let tree = db.tree("ingest")?;
        let damaged = || IngestError::Damaged { path: dir.display().to_string() };
        let source = match tree.get("source").map_err(|e| db.fault(e))? {
            Some(id) => SourceId(<[u8; 16]>::try_from(id.as_ref()).map_err(|_| damaged())?),
            None => {
                let source = SourceId::random();
                tree.insert("source", &source.0).map_err(|e| db.fault(e))?;
                source
            }
        };
        let used = match tree.get("reserved").map_err(|e| db.fault(e))? {
            Some(n) => u64::from_be_bytes(<[u8; 8]>::try_from(n.as_ref()).map_err(|_| damaged())?),
            None => 1,
        };
        let store = Arc::new(Store { db, tree });
        let reserved = store.reserve(used.saturating_add(BLOCK))?;
        Ok(Self { source, store, range: tokio::sync::Mutex::new(Range { next: used, reserved }) })
    }

    pub(super) fn source(&self) -> SourceId {
        self.source
    }

    /// The first of `count` neighbouring numbers that were never given before.
    pub(super) async fn take(&self, count: u64) -> Result<u64, IngestError> {
        let mut range = self.range.lock().await;
        let end = range.next.saturating_add(count);
        if end > range.reserved {
            let store = Arc::clone(&self.store);
            let reserved = tokio::task::spawn_blocking(move || store.reserve(end.saturating_add(BLOCK)))
                .await
                .map_err(|_| IngestError::Stopping)??;
            range.reserved = reserved;
        }
        let first = range.next;
        range.next = end;
        Ok(first)
    }
}

impl Store {
    fn reserve(&self, below: u64) -> Result<u64, StateError> {
        self.tree.insert("reserved", &below.to_be_bytes()).map_err(|e| self.db.fault(e))?;
        self.db.sync()?;
        Ok(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sled lets go of its lock a moment after it was dropped.
    fn reopen(dir: &Path) -> Result<Positions, IngestError> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match Positions::open(dir) {
                Err(IngestError::State { .. }) if std::time::Instant::now() < deadline => std::thread::yield_now(),
                done => return done,
            }
        }
    }

    #[tokio::test]
    async fn numbers_are_never_given_twice_and_the_source_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = Positions::open(dir.path()).unwrap();
        assert_eq!(first.take(3).await.unwrap(), 1);
        assert_eq!(first.take(1).await.unwrap(), 4);
        assert_eq!(first.take(2 * BLOCK).await.unwrap(), 5);
        let highest = first.take(1).await.unwrap();
        let source = first.source();
        drop(first);
        let again = reopen(dir.path()).unwrap();
        assert_eq!(again.source(), source);
        assert!(again.take(1).await.unwrap() > highest);
    }

    #[test]
    fn a_folder_with_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        {
            let db = StateDb::open(dir.path()).unwrap();
            db.tree("ingest").unwrap().insert("source", b"short").unwrap();
            db.sync().unwrap();
        }
        assert!(matches!(reopen(dir.path()), Err(IngestError::Damaged { .. })));
    }
}
