//! The log's side of compaction: what there is to compact, and compacted segments put in the place of the old ones.
//!
//! In: rewritten segments. Out: the log with them. Touches names in the partition's folder and `clean-offset`. Leaves
//! deciding and writing to [`crate::storage::cleaner`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::state::Log;
use crate::storage::layout::CLEANED_FILE;
use crate::storage::limits::Limits;
use crate::storage::segment::Segment;
use crate::storage::swap;
use millrace_log::fs;

/// What compaction works from.
pub(crate) struct CompactionView {
    pub limits: Arc<Limits>,
    /// All but the active one.
    pub segments: Vec<Arc<Segment>>,
    pub active_base: i64,
    pub start: i64,
    pub last_stable_offset: i64,
    /// Where the last pass ended.
    pub cleaned: i64,
}

impl Log {
    /// What compaction works from; `None` if the topic is not compacted, or no longer written.
    pub fn compaction_view(&self) -> Option<CompactionView> {
        let limits = self.limits.read().clone();
        if !limits.compact || self.refuses() {
            return None;
        }
        let segments = self.segments.read();
        let active_base = segments.keys().next_back().copied()?;
        let segments = segments.range(..active_base).map(|(_, segment)| segment.clone()).collect();
        let cleaned = self.cleaned.load(Ordering::Acquire);
        let last_stable_offset = self.last_stable_offset();
        Some(CompactionView { limits, segments, active_base, start: self.start(), last_stable_offset, cleaned })
    }

    /// One compaction at a time; a partition that closes or is deleted waits for it.
    pub fn begin_compaction(&self) -> MutexGuard<'_, ()> {
        self.compacting.lock()
    }

    /// Puts a new segment, written as `.cleaned`, in the place of others that follow each other up to `until`.
    /// `false`: some of them are gone by now.
    pub fn replace(&self, old: &[Arc<Segment>], mut fresh: Segment, until: i64) -> io::Result<bool> {
        let fs = self.fs();
        let base = fresh.base;
        let _names = self.names.lock();
        let stand = |segments: &BTreeMap<i64, Arc<Segment>>| {
            old.iter().all(|old| segments.get(&old.base).is_some_and(|now| Arc::ptr_eq(now, old)))
        };
        if !stand(&self.segments.read()) || self.refuses() {
            return Ok(false);
        }
        // Readers of the old ones must not look for files that are gone, or for those of the new one.
        old.iter().try_for_each(|segment| segment.hold_aborted(fs))?;
        swap::commit(fs, &self.dir, base, until)?;
        fresh.settle(&self.dir);
        let fresh = Arc::new(fresh);
        let mut segments = self.segments.write();
        for segment in old {
            segments.remove(&segment.base);
        }
        segments.insert(base, fresh.clone());
        drop(segments);
        old.iter().for_each(|segment| segment.retire());
        // From here on only the next start could sort out what is half done.
        swap::finish(fs, &self.dir, base, until).inspect_err(|e| {
            self.fail("put a compacted segment in place in", e);
        })?;
        fresh.rest();
        Ok(true)
    }

    /// Notes where a compaction ended.
    pub fn keep_cleaned(&self, offset: i64) {
        self.cleaned.store(offset, Ordering::Release);
        let written = fs::replace(self.fs(), &self.dir.join(CLEANED_FILE), format!("{offset}\n").as_bytes());
        if let Err(e) = written {
            tracing::warn!(dir = %self.dir.display(), error = %e, "can't write how far it is compacted: compaction starts over after a restart");
        }
    }
}
