//! The check of one segment: its batches, damage, torn end, indexes, and list of aborted transactions.
//!
//! In: a segment's files. Out: findings, sums for the partition's report. With `repair` it recovers the segment.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::check::{Check, Subject};
use super::index_entries::IndexEntries;
use super::report::{FindingKind, PartitionReport, Severity};
use crate::storage::error::StorageError;
use crate::storage::index::{OffsetEntry, TimeEntry};
use crate::storage::layout::path_of;
use crate::storage::segment::{self, Hole, INDEX_INTERVAL, Region, Segment};
use crate::storage::txn::TxnIndex;
use millrace_log::fs;

impl Check<'_> {
    pub(super) fn segment(
        &mut self,
        subject: &Subject,
        dir: &Path,
        (base, next_base): (i64, Option<i64>),
        sum: &mut PartitionReport,
    ) -> Result<(), StorageError> {
        let fs = self.fs;
        let path = path_of(dir, base, "log");
        // The last segment is scanned and reindexed at a start after a crash.
        let is_finished = next_base.is_some() || self.report.clean_stop;
        let mut offsets = IndexEntries::<OffsetEntry>::read(fs, &path_of(dir, base, "index"));
        let mut times = IndexEntries::<TimeEntry>::read(fs, &path_of(dir, base, "timeindex"));
        let (mut holes, mut torn, mut since_entry, mut max_ms) = (Vec::new(), None, 0, i64::MIN);
        let mut end = base;
        let file = match fs.open(&path) {
            Ok(file) => file,
            Err(e) => return self.unreadable(subject, &path, &e),
        };
        let walked = segment::walk(&*file, &path, base, next_base, |met| match met {
            Region::Batch { position, header, .. } => {
                max_ms = max_ms.max(header.max_timestamp);
                let has_entry = offsets.meet(|entry| {
                    let at = u64::from(entry.position);
                    (at <= position).then(|| at == position && base + i64::from(entry.relative) == header.last_offset())
                });
                times.meet(|entry| {
                    let last = base + i64::from(entry.relative);
                    (last <= header.last_offset()).then(|| last == header.last_offset() || entry.timestamp_ms <= max_ms)
                });
                if has_entry {
                    since_entry = 0;
                } else if since_entry > INDEX_INTERVAL {
                    offsets.fault.get_or_insert("has too few entries");
                }
                since_entry += header.size() as u64;
                sum.batches += 1;
                sum.records += u64::try_from(header.count).unwrap_or(0);
                end = header.next_offset();
            }
            Region::Damage(hole) => holes.push(hole),
            Region::Torn { position, bytes } => torn = Some((position, bytes)),
        });
        match walked.and_then(|()| file.len()) {
            Ok(len) => sum.bytes += len,
            Err(e) => return self.unreadable(subject, &path, &e),
        }
        sum.segments += 1;
        sum.log_end_offset = sum.log_end_offset.max(end);
        let known = self.known_holes(subject, &path_of(dir, base, "holes"));
        let mut recover = false;
        for hole in &holes {
            recover |= !known.contains(&hole.position);
            self.hole(subject, hole, known.contains(&hole.position));
        }
        if let Some((position, bytes)) = torn {
            recover = true;
            let what = (
                format!("{bytes} bytes of a torn write at the end, which was never acknowledged"),
                "the next start or `--repair` truncates them",
            );
            let kind = (if is_finished { Severity::Error } else { Severity::Note }, FindingKind::TornTail);
            let finding = self.find(kind, subject, &path, what, |_| Ok(true));
            (finding.position, finding.bytes) = (Some(position), Some(bytes));
        }
        if is_finished {
            for (ending, fault) in [("index", offsets.verdict()), ("timeindex", times.verdict())] {
                let Some(fault) = fault else { continue };
                recover = true;
                let what = (fault.to_owned(), "the next start, the first search or `--repair` rebuilds it");
                let path = path_of(dir, base, ending);
                self.find((Severity::Warning, FindingKind::Index), subject, &path, what, |_| Ok(true));
            }
        }
        if next_base.is_some() {
            self.aborted(subject, &path_of(dir, base, "txnindex"), (base, end.max(next_base.unwrap_or(end))))?;
        }
        if recover && self.repair {
            let recovered = Segment::recover(fs, dir, base, next_base, 0, |_, _| None);
            recovered.map_err(StorageError::io("repair", &path))?;
            // Which transactions were aborted there only the whole partition can tell.
            match fs.remove(&path_of(dir, base, "txnindex")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::io("remove the transaction index of", &path)(e));
                }
                _ => self.lacks_aborted = true,
            }
            holes.iter().for_each(|hole| segment::quarantine(fs, hole));
        }
        Ok(())
    }

    fn aborted(&mut self, subject: &Subject, path: &Path, (base, end): (i64, i64)) -> Result<(), StorageError> {
        let index = TxnIndex::open(self.fs, path, base, end).map_err(StorageError::io("read", path))?;
        if index.is_missing() {
            let what = (
                "the list of aborted transactions is missing or damaged".to_owned(),
                "the next start or `--repair` rebuilds it from the batches",
            );
            self.find((Severity::Warning, FindingKind::Index), subject, path, what, |_| Ok(true));
            self.lacks_aborted = true;
        }
        Ok(())
    }

    /// Positions that readers skip already.
    fn known_holes(&mut self, subject: &Subject, path: &Path) -> BTreeSet<u64> {
        let bytes = match fs::read_all(self.fs, path) {
            Ok(bytes) => bytes,
            Err(_) => return BTreeSet::new(),
        };
        match serde_json::from_slice::<Vec<Hole>>(&bytes) {
            Ok(holes) => holes.into_iter().map(|hole| hole.position).collect(),
            Err(e) => {
                let what = (
                    format!("the list of damaged places can't be parsed ({e})"),
                    "the next start or `--repair` rebuilds it",
                );
                self.find((Severity::Warning, FindingKind::HoleList), subject, path, what, |fs| {
                    fs.remove(path).map(|()| true)
                });
                BTreeSet::new()
            }
        }
    }

    fn hole(&mut self, subject: &Subject, hole: &Hole, is_known: bool) {
        let Hole { position, bytes, from_offset, to_offset, .. } = *hole;
        let lost = format!("{bytes} damaged bytes, the records [{from_offset}, {to_offset}) are lost");
        let (severity, what, cure) = if is_known {
            (Severity::Warning, format!("{lost}; quarantined before"), "readers skip it; check the disk")
        } else {
            (
                Severity::Error,
                lost,
                "check the disk; restore the file from a backup, or quarantine the bytes with `--repair`",
            )
        };
        let kind = (severity, FindingKind::Hole);
        let finding = self.find(kind, subject, &hole.file.clone(), (what, cure), |_| Ok(!is_known));
        finding.position = Some(position);
        finding.bytes = Some(bytes);
        finding.offsets = Some((from_offset, to_offset));
    }
}
