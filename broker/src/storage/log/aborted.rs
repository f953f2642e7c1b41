//! Aborted transactions of one partition: looked up for readers, and found again in the batches where a list is missing.
//!
//! In: ranges of offsets. Out: the transactions that were aborted there. Touches segments and their transaction indexes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::state::{Log, read_error};
use crate::storage::error::ReadError;
use crate::storage::producer::Producers;
use crate::storage::segment::Segment;
use crate::storage::txn::AbortedTxn;
use millrace_log::fs::Filesystem;

impl Log {
    /// Aborted transactions with records in a range of offsets, in the order of their markers.
    pub fn aborted(&self, from: i64, until: i64) -> Result<Vec<AbortedTxn>, ReadError> {
        let mut aborted = Vec::new();
        let mut base = from;
        loop {
            // From the segment that holds `from` on: markers stand behind what they end.
            let segments = self.segments.read();
            let segment = segments.range(..=base).next_back().or_else(|| segments.range(base..).next());
            let segment = segment.map(|(_, segment)| segment.clone());
            let next =
                segment.as_ref().and_then(|found| segments.range(found.base + 1..).next()).map(|(base, _)| *base);
            drop(segments);
            if let Some(segment) = segment.filter(|segment| segment.has_aborted()) {
                let list = self.aborted_in(&segment).map_err(|e| read_error(segment.path(), &e))?;
                aborted.extend(list.iter().filter(|txn| txn.overlaps(from, until)));
                // Nothing that began before this offset is decided later.
                if list.last().is_some_and(|last| last.last_stable_offset >= until) {
                    return Ok(aborted);
                }
            }
            match next {
                Some(next) => base = next,
                None => return Ok(aborted),
            }
        }
    }

    /// Aborted transactions whose markers stand in a segment; rebuilt from the batches if its list is damaged.
    fn aborted_in(&self, segment: &Segment) -> io::Result<Vec<AbortedTxn>> {
        let fs = &*self.context.fs;
        match segment.aborted(fs) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
            list => return list,
        }
        tracing::warn!(segment = %segment.path().display(), "list of aborted transactions is damaged: rebuilding it from all earlier segments; check the disk");
        let segments = self.segments.read().clone();
        let mut found = Vec::new();
        scan_aborted(fs, segments.range(..=segment.base).map(|(_, of)| &**of), |of, list| {
            if of.base == segment.base {
                found = list;
            }
        })?;
        segment.mend_aborted(found.clone());
        Ok(found)
    }
}

/// Makes the lists of aborted transactions again where a finished segment has none, by going through all batches: where a
/// transaction began may stand many segments before its marker.
pub(crate) fn find_aborted(dir: &Path, fs: &dyn Filesystem, segments: &BTreeMap<i64, Arc<Segment>>) -> io::Result<()> {
    let Some(last_lacking) = segments.values().filter(|segment| segment.lacks_aborted()).map(|s| s.base).next_back()
    else {
        return Ok(());
    };
    // Segments without a batch hold no marker, so a new partition has nothing to recover.
    if segments.range(..=last_lacking).any(|(_, segment)| segment.len() > 0) {
        tracing::info!(dir = %dir.display(), "list of aborted transactions is missing: rebuilding it from all segments");
    }
    scan_aborted(fs, segments.range(..=last_lacking).map(|(_, segment)| &**segment), |segment, aborted| {
        if segment.lacks_aborted() {
            let is_finished = segments.range(segment.base + 1..).next().is_some();
            segment.set_aborted(fs, aborted, is_finished);
        }
    })
}

/// Goes through all batches of segments that follow each other from the first on, and reports for each which transactions
/// it has the abort markers of.
fn scan_aborted<'s>(
    fs: &dyn Filesystem,
    segments: impl Iterator<Item = &'s Segment>,
    mut found: impl FnMut(&Segment, Vec<AbortedTxn>),
) -> io::Result<()> {
    let mut producers = Producers::default();
    for segment in segments {
        let mut aborted = Vec::new();
        segment.headers(fs, segment.base, |header, marker| {
            // When is of no interest: nothing of these producers is kept.
            aborted.extend(producers.update(header, marker, 0).and_then(|ended| ended.aborted()));
        })?;
        found(segment, aborted);
    }
    Ok(())
}
